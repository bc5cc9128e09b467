"""What an operator and the orchestrations ask the master: who is in the description, is it good, reload the rules.

Knows: the description's folder from the master's configuration (``ext_pillar: [{mrvpn: {path: ...}}]``), the event
bus, the entrypoint's answer. Must not know: how a view is made, what a minion does with it.
"""

import contextlib
import fcntl
import os
from pathlib import Path

import salt.client
import salt.runner
import salt.utils.event
from salt.exceptions import CommandExecutionError

ORCHESTRATION = "orch.routing"
TIMEOUT = 60


def _path():
    for entry in __opts__.get("ext_pillar", []):
        if "mrvpn" in entry:
            return entry["mrvpn"]["path"]
    raise CommandExecutionError("the master's configuration names no description: ext_pillar: [{mrvpn: {path: ...}}]")


def _compiled():
    from mrvpn import compiler

    return compiler.compile_path(Path(_path()))


def _network():
    compiled = _compiled()
    if compiled.network is None:
        lines = ["the description is refused:", *(str(problem) for problem in compiled.errors)]
        raise CommandExecutionError("\n".join(lines))
    return compiled.network


def hosts(role=None):
    """
    The minion ids of the description, sorted; with ``role=entrypoint`` only that one. Targets of every orchestration.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.hosts
    """
    network = _network()
    if role == "entrypoint":
        return [network.description.entrypoint]
    if role is not None:
        raise CommandExecutionError(f"role {role}: there is only `entrypoint`")
    return sorted(network.hosts)


def check():
    """
    Every problem of the description, with file and line; empty when there is none.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.check
    """
    return [str(problem) for problem in _compiled().problems]


def applied():
    """
    Asks the entrypoint which rules it runs with and tells it by the event ``mrvpn/routing/applied``.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.applied
    """
    entrypoint = hosts("entrypoint")[0]
    # by the file, not by __opts__: nested in an orchestration these are no longer the master's own, its key not found
    client = salt.client.get_local_client(__opts__["conf_file"])
    answer = client.cmd(entrypoint, "mrvpn_ipt.status", timeout=TIMEOUT).get(entrypoint)
    if not isinstance(answer, dict) or not answer.get("ready"):
        raise CommandExecutionError(f"{entrypoint} does not say which rules it runs with: {answer or 'no answer'}")
    data = {
        "host": entrypoint,
        "generation": answer["generation"],
        "version": answer["version"],
        "counts": {"exits": len(answer["exits"]), "learned": answer["learned"]},
    }
    with salt.utils.event.get_event("master", sock_dir=__opts__["sock_dir"], opts=__opts__, listen=False) as bus:
        bus.fire_event(data, "mrvpn/routing/applied")
    return data


@contextlib.contextmanager
def _only_one(path):
    """Yields whether this process is the one that works; the others leave their wish and go."""
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def schema_changed():
    """
    Reloads the rules after a change of the description; called by the reactor. Many events at once become two runs at
    most.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.schema_changed
    """
    folder = Path(__opts__["cachedir"]) / "mrvpn"
    folder.mkdir(parents=True, exist_ok=True)
    wish = folder / "schema_changed.wish"
    wish.write_text(str(os.getpid()))
    runs = []
    # asked again after the lock is free: a wish left in the last moment of another's work is not lost
    while wish.exists():
        with _only_one(folder / "schema_changed.lock") as mine:
            if not mine:
                return {"runs": runs, "comment": "another run takes it over"}
            while wish.exists():
                wish.unlink()
                runs.append(_orchestrate())
    return {"runs": runs, "comment": f"{len(runs)} runs"}


def _orchestrate():
    """Runs the orchestration; whether it went well. What it did stands in the job cache."""
    runner = salt.runner.RunnerClient(__opts__)
    answer = runner.cmd("state.orchestrate", arg=[ORCHESTRATION], print_event=False, full_return=True)
    return {"success": bool(answer.get("success")), "jid": answer.get("jid")}
