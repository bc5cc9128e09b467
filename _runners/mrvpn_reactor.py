"""What the reactor, the schedule and orchestrations call. Operators call `mrvpn`.

Knows: the event bus, the mine. Must not know: how anything is brought about. Nothing of an event is believed but that
something is to be looked at. Many events at once become two runs at most, the last state wins, and none is lost.
"""

import functools
import time

import salt.cache
import salt.client
import salt.exceptions
import salt.runner
import salt.utils.event

try:
    from mrvpn_master import Trouble, wishes
    from mrvpn_master import hosts as asked
    from mrvpn_master.place import Place

    MISSING = None
except ImportError as error:
    MISSING = str(error)

ROUTING = "orch.routing"


def __virtual__():
    return True if MISSING is None else (False, f"the package mrvpn is not installed where the master runs: {MISSING}")


def _answers(function):
    """What was refused is an answer with `error`; never a traceback."""

    @functools.wraps(function)
    def told(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Trouble as trouble:
            __context__["retcode"] = 1
            return {**trouble.as_json(), "retcode": 1}

    return told


def _place():
    return Place(__opts__)


def _ask_entrypoint(function, **kwargs):
    """The entrypoint's id, and its answer."""
    entry = _place().network().description.entrypoint
    # by the file, not by __opts__: nested in an orchestration these are no longer the master's own, its key not found
    client = salt.client.get_local_client(__opts__["conf_file"])
    return entry, asked.ask(client, [entry], function, **kwargs).get(entry)


def _fire(tag, data):
    with salt.utils.event.get_event("master", sock_dir=__opts__["sock_dir"], opts=__opts__, listen=False) as bus:
        bus.fire_event(data, tag)


def _coalesced(kind, key, run):
    """Leaves a wish and works off all that are there."""
    wanted = wishes.Wishes(_place().own(kind))
    wanted.leave(key)
    runs = wanted.work(run)
    return {"runs": runs, "comment": f"{len(runs)} runs" if runs else "another run takes it over"}


def _apply(hosts):
    """{host: what became of it} for those that are in the description."""
    wanted = sorted(set(hosts) & set(_place().network().hosts))
    answer = __salt__["mrvpn.apply"](hosts=wanted) if wanted else {}
    return answer.get("hosts", answer)


# --- the description


def schema_changed():
    """
    Reloads the rules after a change of the description.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn_reactor.schema_changed
    """
    return _coalesced("schema_changed", "all", lambda _: _orchestrate())


def _orchestrate():
    """Runs the orchestration; whether it went well. Where it did not, `mrvpn/routing/refused` says why."""
    started = time.time()
    with salt.runner.RunnerClient(__opts__) as runner:
        answer = runner.cmd("state.orchestrate", kwarg={"mods": ROUTING}, print_event=False, full_return=True)
    failed = asked.failures(answer)
    success = bool(answer.get("success")) and not failed
    _place().note("orchestrated", {"started": started, "success": success, "why": failed})
    if not success:
        told = {"commit": None, "error": "the entrypoint's rules are as before", "problems": failed}
        _fire("mrvpn/routing/refused", told)
    return {"success": success, "jid": answer.get("jid"), **({"why": failed} if failed else {})}


@_answers
def applied():
    """
    Asks the entrypoint which rules it runs with and tells it by the event ``mrvpn/routing/applied``.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn_reactor.applied
    """
    entrypoint, answer = _ask_entrypoint("mrvpn_ipt.status")
    if not isinstance(answer, dict) or not answer.get("ready"):
        raise salt.exceptions.CommandExecutionError(
            f"{entrypoint} does not say which rules it runs with: {answer or 'no answer'}"
        )
    now = {"generation": answer["generation"], "version": answer["version"]}
    before = _place().recall("applied")
    data = {
        "host": entrypoint,
        **now,
        "counts": {"exits": len(answer["exits"]), "learned": answer["learned"]},
        "diff": {key: [before.get(key), value] for key, value in now.items()},
    }
    _place().note("applied", now)
    _fire("mrvpn/routing/applied", data)
    return data


@_answers
def deploy_wanted():
    """
    Deploys after a push was told. It takes no ref from anybody: the configured branch counts.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn_reactor.deploy_wanted
    """
    _place().needed_store()
    return _coalesced("deploy_wanted", "all", lambda _: __salt__["mrvpn.deploy"]())


# --- hosts


@_answers
def host_started(host=None):
    """
    A minion is (back) here: its keys, its mine, its own apply. A host that is not in the description is left alone.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn_reactor.host_started uk
    """
    return _of_a_host("host_started", host, _apply)


@_answers
def keys_changed(host=None):
    """
    Looks whether a host's public keys, as its own mine has them, are others than before; if so its far ends are told.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn_reactor.keys_changed uk
    """
    return _of_a_host("keys_changed", host, lambda hosts: _tell_far_ends(set(hosts)))


def _of_a_host(kind, host, run):
    if host not in _place().network().hosts:
        return {"runs": [], "comment": f"{host} is not in the description"}
    return _coalesced(kind, host, run)


def _tell_far_ends(changed):
    place = _place()
    network, before = place.network(), place.recall("keys")
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
    place.note("keys", keys)
    return _apply(ends)


@_answers
def exits_changed():
    """
    Asks the entrypoint which exits are up, and tells each change by ``mrvpn/exit/<name>/up`` or ``down``.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn_reactor.exits_changed
    """
    return _coalesced("exits_changed", "all", lambda _: _tell_exits())


def _tell_exits():
    entry, answer = _ask_entrypoint("mrvpn_ipt.status", timeout=15)
    if not isinstance(answer, dict):
        return {"error": f"{entry} does not say: {answer or 'no answer'}"}
    before = _place().recall("exits")
    now = {exit_["name"]: exit_ for exit_ in answer["exits"]}
    told = []
    for name, exit_ in now.items():
        if exit_["up"] != before.get(name, True):
            tag = f"mrvpn/exit/{name}/{'up' if exit_['up'] else 'down'}"
            _fire(tag, {"host": entry, "exit": name, "health": exit_.get("health")})
            told.append(tag)
    _place().note("exits", {name: exit_["up"] for name, exit_ in now.items()})
    return {"told": told}
