"""What an operator asks the master: who is in the description, change it, deploy it, what runs, where traffic goes.

Knows: Salt's clients, the event bus. Must not know: how a description is edited (mrvpn), checked, committed, switched
and followed (mrvpn_master), what a minion does. Every function answers plain values: ``--out json`` works, and an
answer with ``retcode`` ends `salt-run` with that code. What the reactor calls is in `mrvpn_reactor`.
"""

import functools
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import salt.client
import salt.exceptions
import salt.runner
import salt.utils.event

try:
    from mrvpn import changes, compiler, edit
    from mrvpn_master import Trouble, candidate, deployment, following, repository, transaction, wishes
    from mrvpn_master import hosts as asked
    from mrvpn_master.place import Place

    MISSING = None
except ImportError as error:
    MISSING = str(error)

KEYS = "orch.keys"
TIMEOUT = 60  # seconds for which a deployment waits for another one to end
FLOWS = 60  # seconds within which traffic should flow by a new tunnel
OUTPUTTER = "mrvpn_shown"
CHANGING = {"add_exit", "remove_exit", "add_host", "add_rule", "remove_rule"}
SHOWN = {"status", "plan", "apply", "deploy", "rollback", *CHANGING}
__func_alias__ = {"list_": "list"}


def __virtual__():
    return True if MISSING is None else (False, f"the package mrvpn is not installed where the master runs: {MISSING}")


def _answers(function):
    """What was refused is an answer with `error`, and exit code 1; never a traceback."""

    @functools.wraps(function)
    def told(*args, **kwargs):
        try:
            return _for_people(function.__name__, function(*args, **kwargs))
        except Trouble as trouble:
            found = trouble.as_json()
        except (changes.CannotChange, edit.CannotEdit) as error:
            found = {"error": str(error), "problems": []}
        __context__["retcode"] = 1
        return _for_people(function.__name__, {**found, "retcode": 1})

    return told


def _for_people(name, answer):
    """The answer to `salt-run` itself where no `--out` was given: in the wrapping that Salt takes an outputter from."""
    asked_for = __opts__.get("fun") == f"mrvpn.{name}" and not __opts__.get("output")
    return {"data": answer, "outputter": OUTPUTTER} if asked_for and name in SHOWN else answer


def _say(text):
    """Progress, for people alone."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


# --- the master's own


def _place():
    return Place(__opts__)


def _network():
    return _place().network()


def _client():
    # by the file, not by __opts__: nested in an orchestration these are no longer the master's own, its key not found
    return salt.client.get_local_client(__opts__["conf_file"])


def _fire(tag, data):
    with salt.utils.event.get_event("master", sock_dir=__opts__["sock_dir"], opts=__opts__, listen=False) as bus:
        bus.fire_event(data, tag)


def _run(function, **kwargs):
    """Another runner's answer, in full."""
    with salt.runner.RunnerClient(__opts__) as runner:
        return runner.cmd(function, kwarg=kwargs, print_event=False, full_return=True)


def _items(value):
    """A list, or one text with commas."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    return [part.strip() for part in str(value).split(",") if part.strip()]


def _match(given):
    """What a rule matches: texts with commas become lists, but a regex may hold commas."""
    found = {}
    for key, value in given.items():
        if key.startswith("__"):
            continue
        if key in ("country", "geo", "suffix", "net", "static", "list") and value is not None:
            value = _items(value)
            value = value[0] if len(value) == 1 else value
        found[key] = value
    return found


# --- looking


def hosts(role=None):
    """
    The minion ids of the description, sorted; with ``role=entrypoint`` only that one. Targets of every orchestration.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.hosts
    """
    # raised, not answered: orchestrations take the answer as their target
    try:
        network = _network()
    except Trouble as trouble:
        raise salt.exceptions.CommandExecutionError("\n".join([str(trouble), *trouble.problems])) from None
    if role == "entrypoint":
        return [network.description.entrypoint]
    if role is not None:
        raise salt.exceptions.CommandExecutionError(f"role {role}: there is only `entrypoint`")
    return sorted(network.hosts)


def check():
    """
    Every problem of the description, with file and line; empty when there is none.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.check
    """
    try:
        compiled = compiler.compile_path(_place().path)
    except Trouble as trouble:
        __context__["retcode"] = 1
        return {**trouble.as_json(), "retcode": 1}
    found = [str(problem) for problem in compiled.problems]
    if not compiled.errors:
        return found
    __context__["retcode"] = 1
    return {"error": "the description is refused", "problems": found, "retcode": 1}


@_answers
def list_():
    """
    Hosts, tunnels, exits and route rules; a rule's number is what ``remove_rule`` takes.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.list
    """
    network = _network()
    d = network.description
    return {
        "hosts": {host: list(network.ends[host]) for host in sorted(network.hosts)},
        "tunnels": {
            name: {host: list(told) for host, told in ends.items()} for name, ends in network.addresses.items()
        },
        "exits": {e.name: {"ipv4": e.ipv4, "ipv6": e.ipv6} for e in network.exits},
        "rules": {
            number: changes.describe(route.model_dump(exclude_defaults=True, mode="json"))
            for number, route in enumerate(d.routing.routes)
        },
    }


@_answers
def plan(to=None):
    """
    What a change would do: of the branch's head against what is in force, or of ``to`` (a folder on the master).

    Exit code 0 when nothing changes, 2 when something does, 1 when the candidate is refused.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.plan
        salt-run mrvpn.plan to=/srv/candidate
    """
    now = _network()
    if to is not None:
        then = candidate.network_of(Path(to), str(to))
    else:
        store = _place().store()
        if store is None:
            raise Trouble(
                "name what to compare with: to=FOLDER (a repository is not configured: `mrvpn: {repository: ...}`)"
            )
        repo = store.repository()
        head = repo.fetch(store.config.branch)
        then = candidate.check(repo.texts(head, store.config.folder)).network
    found = deployment.plan_of(now, then)
    if found is not None and found.changed:
        return {**deployment.shown(found), "retcode": 2}
    return deployment.shown(found)


@_answers
def explain(destination, client=None):
    """
    By which exit a destination (address or name) leaves and why: the entrypoint's daemon is asked.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.explain www.bbc.co.uk
        salt-run mrvpn.explain 81.2.69.160 client=10.11.0.2
    """
    entry = _network().description.entrypoint
    answer = asked.ask(_client(), [entry], "mrvpn_ipt.explain", str(destination), client=client).get(entry)
    if not isinstance(answer, dict):
        raise Trouble(f"{entry} does not say: {answer or 'no answer'}")
    return answer


@_answers
def graph():
    """
    The network as a Mermaid graph.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.graph --out txt
    """
    from mrvpn import graph as graphs

    return graphs.mermaid(graphs.graph(_network()))


@_answers
def client(name, public_key, endpoint=None, addresses=None):
    """
    A client's configuration of the plain gateway, and what the description must say of it. The client keeps its
    private key: only the public one comes here.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.client laptop public_key=...
    """
    network = _network()
    d = network.description
    entry = d.entrypoint
    endpoint = endpoint or (d.hosts[entry].endpoint if entry in d.hosts else None)
    if endpoint is None:
        raise Trouble(f"hosts.{entry}.endpoint is not described: name the address that clients reach: endpoint=")
    answer = asked.ask(
        _client(), [entry], "mrvpn_client.config", name, endpoint, public_key=public_key,
        addresses=_items(addresses) or None, qr=False, root=d.mrvpn_root,
    ).get(entry)  # fmt: skip
    if not isinstance(answer, dict):
        raise Trouble(f"{entry} does not say: {answer or 'no answer'}")
    return answer


@_answers
def status(drift=False):
    """
    What runs beside what should: hosts, tunnels, OSPF, exits, versions, the database's age, the last deployment.

    Exit code 0 when all is well, 1 with warnings, 2 when something is down. ``drift=True`` lets every host compare
    itself with its view (``state.apply test=True``), which takes longer.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.status
        salt-run mrvpn.status drift=True --out json
    """
    network = _network()
    d = network.description
    client, other = _client(), _client()  # one for each thread
    routers = [host for host in network.hosts if host in d.hosts and d.hosts[host].os == "routeros"]
    linux = [host for host in network.hosts if host not in routers]
    with ThreadPoolExecutor(2) as pool:  # what hosts take to answer is time to make their views in
        its = pool.submit(
            asked.ask, client, linux, "mrvpn_live.status", d.mrvpn_root, timeout=10, far_ends=asked.far_ends(network)
        )
        theirs = pool.submit(asked.ask, other, routers, "routeros.status", timeout=15)
        versions = {host: _version(host) for host in network.hosts}
        answers = its.result() | {host: asked.router(told) for host, told in theirs.result().items()}
    found = asked.status(network, answers, versions, time.time())
    store = _place().store()
    if store is not None:
        state = store.state()
        found["deployment"] = {"commit": store.current(), **state}
        if "refused" in state:
            found["problems"].insert(
                0, f"warning: commit {state['refused']['commit'][:12]} was refused: {state['refused']['error']}"
            )
            found["retcode"] = max(found["retcode"], asked.WARNING)
    if drift:
        found["drift"] = _drift(client, [host for host in network.hosts if host in answers])
        for host in found["drift"]:
            found["problems"].append(f"warning: {host} is not as it was applied: {', '.join(found['drift'][host])}")
            found["retcode"] = max(found["retcode"], asked.WARNING)
    if found["retcode"]:
        __context__["retcode"] = found["retcode"]
    return found


def _version(host):
    """The version of the view that the master would give a host now."""
    pillar = __salt__["pillar.show_pillar"](minion=host)
    return (pillar.get("mrvpn") or {}).get("version") if isinstance(pillar, dict) else None


def _drift(client, wanted):
    found = {}
    for host, answer in asked.ask(client, wanted, "state.apply", timeout=120, test=True, queue=True).items():
        told = asked.outcome(answer)
        names = told.get("changes", []) + told.get("why", [])
        if names:
            found[host] = names
            _fire(f"mrvpn/host/{host}/drift", {"host": host, "states": names})
    return found


# --- changing


class _Master:
    """How a change reaches hosts (`following.Master`)."""

    def ask(self, host, function, *arguments, timeout):
        return asked.ask(_client(), [host], function, *arguments, timeout=timeout).get(host)

    def apply(self, hosts):
        return _apply(hosts)

    def reload(self):
        return __salt__["mrvpn_reactor.schema_changed"]()["runs"]

    def last_reload(self):
        return _place().recall("orchestrated")

    def say(self, text):
        _say(text)


def _changed(make, commit, branch, apply, test, wait=FLOWS):
    """One transaction: edited, checked, planned, put in place, committed, deployed; taken back where that fails."""
    place = _place()
    found, change = transaction.change(place, make, commit=commit, branch=branch, test=test)
    if test or branch or not apply:
        return found
    store = place.store()
    if store is None:
        _fire("mrvpn/schema/changed", {"commit": found.get("commit")})
    else:
        try:
            found["deployed"] = _deploy(store, own=found["commit"])
        except Trouble as trouble:
            where = f"{found['done']}: pushed as commit {found['commit'][:12]}, but not deployed"
            raise Trouble(f"{where}: {trouble}", trouble.problems, found) from None
    return following.follow(found, change, place.network(), _Master(), wait)


@_answers
def add_exit(
    name, host, endpoint=None, port=None, subnet=None, fallback=None, commit=True, apply=True, branch=None, test=False,
    wait=FLOWS, **match,
):  # fmt: skip
    """
    A new exit: its tunnel, its rule, its host; edited, checked, planned, committed, deployed, and waited for.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.add_exit de host=de endpoint=203.0.113.50 country=DE suffix=de fallback=uk
        salt-run mrvpn.add_exit de host=de endpoint=203.0.113.50 country=DE test=True
        salt-run mrvpn.add_exit de host=de endpoint=203.0.113.50 country=DE branch=exit-de

    name
        of the exit; its tunnel is ``wg_<name>``
    host
        its minion id
    country, domain, suffix, net, list, weight, metric, route_ttl, live
        the rule that leads to it; several countries, suffixes and prefixes with commas
    commit, apply
        False: the description alone is edited; nothing is brought to hosts
    branch
        a new branch with the commit, for a pull request, instead of the change itself
    test
        True: says what would be done
    wait
        seconds for which traffic may take to flow, after which it says what is missing
    """

    def make(texts, network):
        change = changes.add_exit(
            texts, network, str(name), host=str(host), endpoint=endpoint, port=port, subnet=_items(subnet),
            fallback=_items(fallback), match=_match(match),
        )  # fmt: skip
        _accepted(host)
        return change

    return _changed(make, commit, branch, apply, test, int(wait))


def _accepted(host):
    """Trouble for a host whose key the master has not accepted: it would never get a view."""
    accepted = Path(__opts__["pki_dir"]) / "minions"
    if accepted.is_dir() and not (accepted / str(host)).exists():
        raise Trouble(
            f"{host}: the master has accepted no minion key of that id: compare it, then `salt-key -a {host}`"
        )


@_answers
def remove_exit(name, to=None, commit=True, apply=True, branch=None, test=False):
    """
    An exit goes; refused while route rules lead to it, unless ``to`` names the exit that they go to.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.remove_exit de
        salt-run mrvpn.remove_exit de to=uk
    """
    return _changed(lambda t, n: changes.remove_exit(t, n, str(name), to=to), commit, branch, apply, test)


@_answers
def add_host(
    name, lan=None, tunnel=None, endpoint=None, port=None, subnet=None, os="linux", commit=True, apply=True,
    branch=None, test=False, wait=FLOWS,
):  # fmt: skip
    """
    An office or another host with the prefixes behind it; it dials in, or with ``endpoint`` is dialled.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.add_host paris lan=10.78.0.0/24
    """

    def make(texts, network):
        change = changes.add_host(
            texts, network, str(name), lan=_items(lan), tunnel=tunnel, endpoint=endpoint, port=port,
            subnet=_items(subnet), os=os,
        )  # fmt: skip
        _accepted(name)
        return change

    return _changed(make, commit, branch, apply, test, int(wait))


@_answers
def add_rule(exit, at=None, commit=True, apply=True, branch=None, test=False, **match):
    """
    A route rule: what it matches leaves by ``exit``; before rule number ``at``, else before the default.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.add_rule uk country=IE
        salt-run mrvpn.add_rule _DEFAULT suffix=example.org,example.net at=0
    """
    at = None if at is None else int(at)
    return _changed(lambda t, n: changes.add_rule(t, n, str(exit), _match(match), at=at), commit, branch, apply, test)


@_answers
def remove_rule(number, commit=True, apply=True, branch=None, test=False, **match):
    """
    A route rule goes, by its number in ``mrvpn.list``; what else is given must be true of it.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.remove_rule 2 country=IE
    """
    return _changed(lambda t, n: changes.remove_rule(t, n, int(number), _match(match)), commit, branch, apply, test)


# --- applying


def _keys(wanted):
    return asked.failures(_run("state.orchestrate", mods=KEYS, pillar={"mrvpn_hosts": wanted}))


def _apply(wanted):
    return asked.apply(_client(), wanted, _keys, _say)


@_answers
def apply(hosts=None):
    """
    Brings hosts (all by default) to the description: keys, then every host's states. One that is away keeps none back.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.apply
        salt-run mrvpn.apply hosts=entry,de
    """
    network = _network()
    wanted = _items(hosts) or list(network.hosts)
    unknown = sorted(set(wanted) - set(network.hosts))
    if unknown:
        raise Trouble(f"{', '.join(unknown)}: not in the description; there are: {', '.join(sorted(network.hosts))}")
    found = _apply(wanted)
    bad = [host for host, told in found.items() if told["result"] != "applied"]
    if bad:
        __context__["retcode"] = 1
        why = [f"{host}: {line}" for host in bad for line in found[host].get("why", [])]
        return {"hosts": found, "error": f"not brought to {', '.join(bad)}", "problems": why, "retcode": 1}
    return {"hosts": found}


# --- deploying


def _deploy(store, force=False, own=None):
    """One deployment, with its events. `own`: the commit that a command has just made."""
    with wishes.alone(_place().own("deploy.lock"), TIMEOUT, "another deployment"):
        try:
            done = store.deploy(force=force, own=own, planned=_tell_plan)
        except Trouble as trouble:
            refused = store.state().get("refused", {})
            _fire("mrvpn/routing/refused", {"commit": refused.get("commit"), **trouble.as_json()})
            raise
    return _deployed(done)


def _tell_plan(commit, plan):
    _fire("mrvpn/plan", {"commit": commit, **deployment.shown(plan)})


def _deployed(done):
    found = {"result": done.result, "commit": done.commit, "before": done.before, "removed": done.removed}
    if done.result == "held":
        found["note"] = "this commit was rolled back from: the branch must move on, or force=True"
    if done.result == "deployed":
        found |= {**deployment.shown(done.plan), "touched": deployment.touched(done.plan)}
        _fire("mrvpn/schema/changed", {"commit": done.commit})
    return found


@_answers
def deploy(force=False, apply=None):
    """
    Fetches the configured branch, checks it in a tree of its own, and switches to it; what is bad is never in force.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.deploy
        salt-run mrvpn.deploy force=True

    force
        although it removes more than the set share, or was rolled back from
    apply
        True: the hosts that it touches are brought up to date, too (master configuration ``mrvpn: {apply: True}``).
        Route rules are reloaded in any case.
    """
    found = _deploy(_place().needed_store(), force=force)
    if (_place().settings.get("apply", False) if apply is None else apply) and found.get("touched"):
        found["hosts"] = _apply(found["touched"])
        bad = [host for host, told in found["hosts"].items() if told["result"] != "applied"]
        if bad:
            __context__["retcode"] = 1
            found |= {"error": f"deployed, but not brought to {', '.join(bad)}", "retcode": 1}
    return found


@_answers
def history(count=20):
    """
    What was in force, newest first: deployments, or the commits that touched the description.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.history
    """
    store = _place().store()
    if store is not None:
        entries = store.history()[: int(count)]
        return [{**entry, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry["time"]))} for entry in entries]
    folder = _place().folder
    repo = repository.Repository.around(folder)
    if repo is None:
        raise Trouble(f"{folder} is in no git work tree: there is no history")
    return repo.log(str(folder), int(count))


@_answers
def rollback(to=None, apply=False):
    """
    Goes back to what was in force before, or to the commit ``to``; needs no remote. The commit left is held.

    Where ext_pillar reads a git work tree, the former texts are committed on top.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.rollback
        salt-run mrvpn.rollback to=1a2b3c4d
    """
    place = _place()
    store = place.store()
    if store is not None:
        with wishes.alone(place.own("deploy.lock"), TIMEOUT, "another deployment"):
            done = store.rollback(None if to is None else str(to))
        found = _deployed(done)
    else:
        found = transaction.back(place, None if to is None else str(to))
        _fire("mrvpn/schema/changed", {"commit": found["commit"]})
    if apply and found.get("touched"):
        found["hosts"] = _apply(found["touched"])
    return found
