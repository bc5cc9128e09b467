"""ipt_server's settings on this host: put in place with the daemon's consent, taken back when it refuses them.

Knows: the daemon's command line in its container. Must not know: rules, countries, the kernel's tables, the pillar.
"""

import hashlib
import json
from pathlib import Path

from salt.exceptions import CommandExecutionError


def _ask(service, verb, *arguments):
    done = __salt__["mrvpn_docker.exec_in"](service, "ipt-server", verb, "--json", *arguments, timeout=120)
    try:
        return json.loads(done["out"])
    except ValueError:
        told = (done["err"] or done["out"]).strip()[-500:] or f"exit code {done['code']}"
        raise CommandExecutionError(f"{service}: ipt-server {verb}: {told}") from None


def status(service="firezone_ipt"):
    """
    What the daemon says of itself: generation, version, exits, learned, ready.

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_ipt.status
    """
    return _ask(service, "status")


def reload(service="firezone_ipt"):
    """
    Lets the daemon read its settings again: all or nothing. Returns its answer; an error lists the problems when it
    refuses.

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_ipt.reload
    """
    answer = _ask(service, "reload")
    if answer["result"] == "refused":
        raise CommandExecutionError(
            f"{service} refuses the settings, generation {answer['generation']} stays: "
            + "; ".join(str(problem) for problem in answer["problems"])
        )
    return answer


def _own(files, service):
    return [file for file in files if file["service"] == service and file["reload"] == "ipt"]


def _wanted(files, service, also):
    digest = hashlib.sha256(str(__salt__["mrvpn_tree.live_hash"](files, service)).encode())
    for path in also:
        stat = Path(path).stat() if Path(path).exists() else None
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}".encode() if stat else b"-")
    return digest.hexdigest()


def plan(view, service, also=()):
    """
    What ``bring`` would change, in its shape. ``also``: files besides the settings that the daemon reads on a reload.
    """
    files = __salt__["mrvpn_tree.render"](view)
    changes = __salt__["mrvpn_tree.diff"](view["root"], _own(files, service), whole=False)
    found = {"files": changes} if changes else {}
    if __salt__["mrvpn_compose.taken_over"](view["root"], service) != _wanted(files, service, also):
        found["reloaded"] = {service: "ipt"}
    return found


def bring(view, service, also=()):
    """
    Puts the settings in place and has the daemon take them over: ``{"files", "reloaded": {service: answer}}``, empty
    when current.

    The old settings come back when the daemon refuses or does not answer, so that a restart starts with what worked.
    """
    root = view["root"]
    files = __salt__["mrvpn_tree.render"](view)
    own = _own(files, service)
    changes = __salt__["mrvpn_tree.diff"](root, own, whole=False)
    wanted = _wanted(files, service, also)
    if not changes and __salt__["mrvpn_compose.taken_over"](root, service) == wanted:
        return {}
    if changes:
        __salt__["mrvpn_tree.put"](root, own, changes)
    try:
        answer = reload(service)
    except CommandExecutionError:
        if changes:
            __salt__["mrvpn_tree.put_back"](root, changes)
        raise
    settings = next(entry["settings"] for entry in view["routing"] if entry["service"] == service)
    if answer["version"] != settings["version"]:
        raise CommandExecutionError(
            f"{service} runs with version {answer['version']}, not {settings['version']}: is live/ mounted?"
        )
    __salt__["mrvpn_compose.taken_over"](root, service, wanted)
    done = {"files": changes} if changes else {}
    if answer["result"] != "unchanged":
        done["reloaded"] = {service: {"generation": answer["generation"], "version": answer["version"]}}
    return done


def explain(destination, client=None, service="firezone_ipt"):
    """
    By which exit a destination leaves and why, as the daemon says it; with ``client`` for that client.

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_ipt.explain www.bbc.co.uk
    """
    options = ["--client", str(client)] if client else []
    # behind --, as a destination comes from people
    return _ask(service, "explain", *options, "--", str(destination))
