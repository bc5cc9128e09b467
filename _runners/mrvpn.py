"""What an operator asks the master: who is in the description, change it, deploy it, what runs, where traffic goes.

Knows: the master's configuration, Salt's clients, the event bus. Must not know: how a description is edited (mrvpn),
checked, committed and switched (mrvpn_master), what a minion does. Every function answers plain values: ``--out json``
works, and an answer with ``retcode`` ends `salt-run` with that code.
"""

import contextlib
import functools
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import salt.cache
import salt.client
import salt.exceptions
import salt.runner
import salt.utils.event
import salt.utils.json

try:
    from mrvpn import changes, compiler, edit, views
    from mrvpn_master import Trouble, candidate, deployment, repository, wishes
    from mrvpn_master import hosts as asked

    MISSING = None
except ImportError as error:
    MISSING = str(error)

ROUTING, KEYS = "orch.routing", "orch.keys"
TIMEOUT = 60
FLOWS = 60  # seconds within which traffic should flow by a new tunnel
CHANGE_WAIT = 120  # seconds for which a change waits for another one to end
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


def _path():
    for entry in __opts__.get("ext_pillar", []):
        if "mrvpn" in entry:
            return Path(entry["mrvpn"]["path"])
    raise Trouble("the master's configuration names no description: ext_pillar: [{mrvpn: {path: ...}}]")


def _settings():
    return __opts__.get("mrvpn") or {}


def _store():
    """The store that the description is deployed to; None where ext_pillar reads somebody's folder."""
    config = deployment.Config.of(_settings())
    if config is None:
        return None
    store = deployment.Store(config)
    path = _path()
    if path != store.path:
        raise Trouble(f"ext_pillar reads {path}, deployments go to {store.path}: make ext_pillar's path that")
    return store


def _own(name):
    folder = Path(__opts__["cachedir"]) / "mrvpn"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _network():
    return candidate.network_of(_path())


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


def _failures(answer):
    """What failed in an orchestration's answer."""
    data = answer.get("return")
    data = data.get("data", data) if isinstance(data, dict) else data
    states = next(iter(data.values()), None) if isinstance(data, dict) else None
    if not isinstance(states, dict):
        return [] if answer.get("success") else [str(data or "no answer")[-500:]]
    return [f"{s.get('__id__')}: {s.get('comment')}" for s in states.values() if s.get("result") is False]


def _shown(plan):
    """A plan as lines and, for programs, as values."""
    if plan is None:
        return {}
    from mrvpn.plan import text

    return {"plan": [line.plain for line in text.lines(plan)], "changes": plan.as_json()}


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
        compiled = compiler.compile_path(_path())
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
        store = _store()
        if store is None:
            raise Trouble(
                "name what to compare with: to=FOLDER (a repository is not configured: `mrvpn: {repository: ...}`)"
            )
        repo = store.repository()
        head = repo.fetch(store.config.branch)
        then = candidate.check(repo.texts(head, store.config.folder)).network
    found = deployment.plan_of(now, then)
    if found is not None and found.changed:
        return {**_shown(found), "retcode": 2}
    return _shown(found)


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
        rows = pool.submit(asked.ask, other, routers, "routeros.print", "interface/wireguard/peers", timeout=15)
        versions = {host: _version(host) for host in linux}
        answers = its.result() | {host: asked.router(told) for host, told in rows.result().items()}
    found = asked.status(network, answers, versions, time.time())
    store = _store()
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


def _changed(make, commit, branch, apply, test, wait=FLOWS):
    """One transaction: edited, checked, planned, put in place, committed, deployed; taken back where that fails."""
    store = _store()
    with wishes.alone(_own("change.lock"), CHANGE_WAIT, "another change"):
        found, about = (_in_repository if store else _in_folder)(store, make, commit, branch, test)
    if test or branch or not apply:
        return found
    if store is None:
        _fire("mrvpn/schema/changed", {"commit": found.get("commit")})
        return _follow(found, about, wait)
    try:
        found["deployed"] = _deploy(store)
    except Trouble as trouble:
        where = f"{found['done']}: pushed as commit {found['commit'][:12]}, but not deployed"
        raise Trouble(f"{where}: {trouble}", trouble.problems, found) from None
    return _follow(found, about, wait)


def _told(change, network, checked, before):
    plan = deployment.plan_of(network, checked.network)
    return {
        "done": change.subject,
        "files": candidate.differing(before, checked.texts),
        "notes": change.notes,
        "warnings": checked.warnings,
        **_shown(plan),
    }


def _in_folder(_, make, commit, branch, test):
    path = _path()
    single = None if path.is_dir() else path.name
    folder = path if path.is_dir() else path.parent
    repo = repository.Repository.around(folder) if commit or branch else None
    if branch and repo is None:
        raise Trouble(f"branch={branch}: {folder} is in no git work tree")
    before = candidate.read(path)
    if repo is not None and not test:
        dirty = repo.dirty(folder)
        if dirty:
            raise Trouble(f"{folder} has changes that are not committed: commit or stash them, or commit=False", dirty)
    network = candidate.network_of(path)
    change = make(_without_lock(before), network)
    checked = candidate.check({**before, **change.texts}, single)
    found = _told(change, network, checked, before)
    names = found["files"]
    if test:
        return {**found, "done": f"nothing: {change.subject} would be done"}, change
    message = f"network: {change.subject}"
    if branch:
        texts = {name: checked.texts[name] for name in names}
        made = repo.commit_on(repo.head(), repo.prefix(folder), texts, message)
        repo.branch(branch, made)
        if repo.has_origin:
            repo.push(made, branch)
        return {**found, "commit": made, "branch": branch, "pushed": repo.has_origin}, change
    candidate.replace(path, before, checked.texts)
    if repo is not None:
        try:
            found["commit"] = repo.commit([folder / name for name in names], message)
        except BaseException:
            candidate.take_back(path, before, names)
            raise
    return found, change


def _in_repository(store, make, commit, branch, test):
    if not commit:
        raise Trouble("the description comes from a repository: commit=False has no place; look with test=True")
    last = {}

    def edited(texts, network):
        last["change"] = make(_without_lock(texts), network)
        last["network"] = network
        return {**texts, **last["change"].texts}

    if test:
        repo = store.repository()
        before = repo.texts(repo.fetch(store.config.branch), store.config.folder)
        checked = candidate.check(edited(dict(before), candidate.check(before).network))
        found = _told(last["change"], last["network"], checked, before)
        return {**found, "done": f"nothing: {last['change'].subject} would be done"}, last["change"]
    made, checked, before = store.change(edited, lambda: f"network: {last['change'].subject}", branch)
    found = _told(last["change"], last["network"], checked, before)
    return {**found, "commit": made, **({"branch": branch, "pushed": True} if branch else {})}, last["change"]


def _without_lock(texts):
    return {name: text for name, text in texts.items() if name != candidate.LOCK}


def _follow_rules(found):
    """Has the entrypoint run with changed rules, or says where it stands: no other host has to do with them."""
    begin, since = time.monotonic(), time.time()
    network = _network()
    entry = network.description.entrypoint
    wanted = {e["service"]: e["settings"]["version"] for e in views.view(network, entry, {}, lambda _: None)["routing"]}
    runs = _coalesced("schema_changed", "all", lambda _: _orchestrate())["runs"]
    why = [] if not runs or runs[-1]["success"] else runs[-1]["why"] or ["the orchestration failed"]
    while not why:
        # the reactor may have been quicker: then it is its run that ends with this version, or does not
        last = _remembered("orchestrated")
        if last.get("started", 0) > since and not last["success"]:
            why = last["why"] or ["the orchestration failed"]
            break
        told = {s: asked.ask(_client(), [entry], "mrvpn_ipt.status", s, timeout=15).get(entry) for s in wanted}
        if all(isinstance(t, dict) and t.get("version") == wanted[s] for s, t in told.items()):
            found["applied"] = {s: {"generation": t["generation"], "version": t["version"]} for s, t in told.items()}
            return {**found, "seconds": round(time.monotonic() - begin, 1)}
        if time.monotonic() - begin > TIMEOUT:
            why = [f"{service} says {answer or 'nothing'}" for service, answer in told.items()]
        time.sleep(0.5)
    where = f"{found['done']}: the description is changed, {entry} does not run with it"
    raise Trouble(
        f"{where}: `salt-run mrvpn.schema_changed` tries again, `salt-run mrvpn.rollback` goes back", why, found
    )


def _follow(found, change, wait):
    """Brings the hosts of a change up to date and waits until traffic can flow, or says where it stands."""
    if change.rules:
        return _follow_rules(found)
    network = _network()
    begin = time.monotonic()
    found["hosts"] = _apply(change.hosts)
    bad = {}
    for host, told in found["hosts"].items():
        if told["result"] == "unreachable" and host not in network.hosts:
            found["notes"] = [*found["notes"], f"{host} left the description and is away: MRVPN stays on it"]
        elif told["result"] != "applied":
            bad[host] = told
    if bad:
        commit = f" (commit {found['commit'][:12]})" if found.get("commit") else ""
        raise Trouble(
            f"{found['done']}: the description is changed{commit}; not brought to {', '.join(bad)}. Go on with "
            f"`salt-run mrvpn.apply hosts={','.join(bad)}`, or go back with `salt-run mrvpn.rollback`",
            [f"{host}: {why}" for host, told in bad.items() for why in told.get("why", [])],
            found,
        )
    if change.tunnel and change.tunnel in network.description.tunnels:
        _say(f"waiting for {change.tunnel}")
        entry = network.description.entrypoint
        root = network.description.mrvpn_root
        about = (change.tunnel, root, wait)
        answer = asked.ask(_client(), [entry], "mrvpn_live.flows", *about, timeout=wait + 30).get(entry)
        found["flows"] = answer
        if not isinstance(answer, dict) or not answer["up"]:
            why = answer["why"] if isinstance(answer, dict) else answer or "no answer"
            raise Trouble(f"{found['done']}: all is applied, but traffic cannot flow yet: {why}", [], found)
    found["seconds"] = round(time.monotonic() - begin, 1)
    _follow_rest(found, change, network)
    return found


def _follow_rest(found, change, network):
    """Brings the other hosts whose views changed along (the mesh they accept); traffic flows without them already."""
    rest = [host for host in found.get("changes", {}).get("hosts", {}) if host not in change.hosts]
    rest = [host for host in rest if host in network.hosts]
    if not rest:
        return
    _say(f"bringing {', '.join(rest)} along")
    told = _apply(rest)
    found["hosts"] = {**found["hosts"], **told}
    late = sorted(host for host, answer in told.items() if answer["result"] != "applied")
    if late:
        found["notes"] = [*found["notes"], f"not yet brought along: `salt-run mrvpn.apply hosts={','.join(late)}`"]


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

        salt-run mrvpn.remove_rule 3 country=IE
    """
    return _changed(lambda t, n: changes.remove_rule(t, n, int(number), _match(match)), commit, branch, apply, test)


# --- applying


def _keys(wanted):
    return _failures(_run("state.orchestrate", mods=KEYS, pillar={"mrvpn_hosts": wanted}))


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
        return {"hosts": found, "error": f"not brought to {', '.join(bad)}", "retcode": 1}
    return {"hosts": found}


# --- deploying


def _deploy(store, force=False):
    """One deployment, with its events."""
    with wishes.alone(_own("deploy.lock"), TIMEOUT, "another deployment"):
        try:
            done = store.deploy(
                force=force, planned=lambda commit, plan: _fire("mrvpn/plan", {"commit": commit, **_shown(plan)})
            )
        except Trouble as trouble:
            refused = store.state().get("refused", {})
            _fire("mrvpn/routing/refused", {"commit": refused.get("commit"), **trouble.as_json()})
            raise
    return _deployed(done)


def _deployed(done):
    found = {"result": done.result, "commit": done.commit, "before": done.before, "removed": done.removed}
    if done.result == "held":
        found["note"] = "this commit was rolled back from: the branch must move on, or force=True"
    touched = [] if done.plan is None else [h.host for h in done.plan.hosts if h.status != "removed"]
    if done.result == "deployed":
        found |= {**_shown(done.plan), "touched": touched}
        _fire("mrvpn/schema/changed", {"commit": done.commit})
    return found


def _needs_store():
    store = _store()
    if store is None:
        raise Trouble(
            "nothing to deploy from: the master's configuration says no `mrvpn: {repository: URL, branch: main}`"
        )
    return store


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
    found = _deploy(_needs_store(), force=force)
    if (_settings().get("apply", False) if apply is None else apply) and found.get("touched"):
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
    store = _store()
    if store is not None:
        entries = store.history()[: int(count)]
        return [{**entry, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry["time"]))} for entry in entries]
    path = _path()
    folder = path if path.is_dir() else path.parent
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
    store = _store()
    if store is not None:
        with wishes.alone(_own("deploy.lock"), TIMEOUT, "another deployment"):
            done = store.rollback(None if to is None else str(to))
        found = _deployed(done)
        touched = found.get("touched", [])
    else:
        found, touched = _back(to)
        _fire("mrvpn/schema/changed", {"commit": found["commit"]})
    if apply and touched:
        found["hosts"] = _apply(touched)
    return found


def _back(to):
    path = _path()
    folder = path if path.is_dir() else path.parent
    repo = repository.Repository.around(folder)
    if repo is None:
        raise Trouble(f"{folder} is in no git work tree: there is nothing to go back to")
    with wishes.alone(_own("change.lock"), CHANGE_WAIT, "another change"):
        dirty = repo.dirty(folder)
        if dirty:
            raise Trouble(f"{folder} has changes that are not committed: commit or stash them", dirty)
        commits = [entry["commit"] for entry in repo.log(str(folder), 2)]
        if to is None and len(commits) < 2:
            raise Trouble("there is one commit alone: nothing to go back to")
        target = repo.head(str(to) if to else commits[1])
        before = candidate.read(path)
        texts = repo.texts(target, repo.prefix(folder))
        if not path.is_dir():
            texts = {name: text for name, text in texts.items() if name in (path.name, candidate.LOCK)}
        checked = candidate.check(texts, None if path.is_dir() else path.name)
        names = candidate.differing(before, checked.texts)
        if not names:
            return {"result": "unchanged", "commit": target}, []
        old = compiler.compile_path(path).network
        plan = deployment.plan_of(old, checked.network) if old else None
        candidate.replace(path, before, checked.texts)
        try:
            commit = repo.commit([folder / name for name in names], f"network: back to {target[:12]}")
        except BaseException:
            candidate.take_back(path, before, names)
            raise
    touched = [] if plan is None else [h.host for h in plan.hosts if h.status != "removed"]
    return {
        "result": "deployed",
        "commit": commit,
        "to": target,
        "files": names,
        **_shown(plan),
        "touched": touched,
    }, touched


# --- what the reactor calls: nothing of an event is believed but that something is to be looked at


def _coalesced(kind, key, run):
    """Leaves a wish and works off all that are there; many events at once become two runs at most."""
    wanted = wishes.Wishes(_own(kind))
    wanted.leave(key)
    runs = wanted.work(run)
    return {"runs": runs, "comment": f"{len(runs)} runs" if runs else "another run takes it over"}


def schema_changed():
    """
    Reloads the rules after a change of the description; called by the reactor. Many events at once become two runs at
    most.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.schema_changed
    """
    return _coalesced("schema_changed", "all", lambda _: _orchestrate())


def _orchestrate():
    """Runs the orchestration; whether it went well. Where it did not, `mrvpn/routing/refused` says why."""
    started = time.time()
    answer = _run("state.orchestrate", mods=ROUTING)
    failed = _failures(answer)
    success = bool(answer.get("success")) and not failed
    _remember("orchestrated", {"started": started, "success": success, "why": failed})
    if not success:
        _fire(
            "mrvpn/routing/refused",
            {"commit": None, "error": "the entrypoint's rules are as before", "problems": failed},
        )
    return {"success": success, "jid": answer.get("jid"), **({"why": failed} if failed else {})}


@_answers
def applied():
    """
    Asks the entrypoint which rules it runs with and tells it by the event ``mrvpn/routing/applied``.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.applied
    """
    entrypoint = _network().description.entrypoint
    answer = asked.ask(_client(), [entrypoint], "mrvpn_ipt.status").get(entrypoint)
    if not isinstance(answer, dict) or not answer.get("ready"):
        raise salt.exceptions.CommandExecutionError(
            f"{entrypoint} does not say which rules it runs with: {answer or 'no answer'}"
        )
    before = _remembered("applied")
    data = {
        "host": entrypoint,
        "generation": answer["generation"],
        "version": answer["version"],
        "counts": {"exits": len(answer["exits"]), "learned": answer["learned"]},
        "diff": {
            "generation": [before.get("generation"), answer["generation"]],
            "version": [before.get("version"), answer["version"]],
        },
    }
    _remember("applied", {"generation": answer["generation"], "version": answer["version"]})
    _fire("mrvpn/routing/applied", data)
    return data


def _remembered(name):
    with contextlib.suppress(FileNotFoundError, ValueError):
        return salt.utils.json.loads(_own(f"{name}.json").read_text())
    return {}


def _remember(name, value):
    following = _own(f"{name}.next")
    following.write_text(salt.utils.json.dumps(value))
    following.replace(_own(f"{name}.json"))


@_answers
def deploy_wanted():
    """
    Deploys after a push was told; called by the reactor. It takes no ref from anybody: the configured branch counts.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.deploy_wanted
    """
    _needs_store()
    return _coalesced("deploy_wanted", "all", lambda _: deploy())


@_answers
def host_started(host=None):
    """
    A minion is (back) here: its keys, its mine, its own apply. A host that is not in the description is left alone.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.host_started uk
    """
    if host not in _network().hosts:
        return {"runs": [], "comment": f"{host} is not in the description"}
    return _coalesced("host_started", host, lambda found: _apply([h for h in found if h in _network().hosts]))


@_answers
def keys_changed(host=None):
    """
    Looks whether a host's public keys, as its own mine has them, are others than before; if so its far ends are told.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.keys_changed uk
    """
    if host not in _network().hosts:
        return {"runs": [], "comment": f"{host} is not in the description"}
    return _coalesced("keys_changed", host, lambda found: _tell_far_ends(set(found)))


def _tell_far_ends(changed):
    network = _network()
    before = _remembered("keys")
    cache = salt.cache.factory(__opts__)
    keys = dict(before)
    ends = set()
    for host in sorted(changed & set(network.hosts)):
        value = (cache.fetch("mine", host) or {}).get("mrvpn_public_keys")
        value = value.get("__data__", value) if isinstance(value, dict) else value
        if not isinstance(value, dict):
            continue
        keys[host] = value
        for name in network.ends[host]:
            # a first key is no change: the orchestration that made it tells it
            if name in before.get(host, {}) and before[host][name] != value.get(name):
                ends |= set(network.addresses[name]) - {host}
    _remember("keys", keys)
    return _apply(sorted(ends)) if ends else {}


@_answers
def exits_changed():
    """
    Asks the entrypoint which exits are up, and tells each change by ``mrvpn/exit/<name>/up`` or ``down``.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.exits_changed
    """
    return _coalesced("exits_changed", "all", lambda _: _tell_exits())


def _tell_exits():
    entry = _network().description.entrypoint
    answer = asked.ask(_client(), [entry], "mrvpn_ipt.status", timeout=15).get(entry)
    if not isinstance(answer, dict):
        return {"error": f"{entry} does not say: {answer or 'no answer'}"}
    before = _remembered("exits")
    now = {exit_["name"]: exit_ for exit_ in answer["exits"]}
    told = []
    for name, exit_ in now.items():
        if exit_["up"] != before.get(name, True):
            tag = f"mrvpn/exit/{name}/{'up' if exit_['up'] else 'down'}"
            _fire(tag, {"host": entry, "exit": name, "health": exit_.get("health")})
            told.append(tag)
    _remember("exits", {name: exit_["up"] for name, exit_ in now.items()})
    return {"told": told}
