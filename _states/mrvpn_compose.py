"""The state of the compose project: files, containers, reloads, in one step that knows what changes before anything
runs.

Knows: mrvpn_compose's plan and deeds. Must not know: Docker, templates. The view is taken from the pillar here and
handed on, so that its secrets stay out of rendered states.
"""

from salt.exceptions import CommandExecutionError

WORDS = ("created", "recreated", "started", "moved", "removed", "mended", "reloaded")


def _told(found):
    words = [f"{verb} {', '.join(found[verb])}" for verb in WORDS if verb in found]
    files = found.get("files", {})
    if files:
        words.append(f"{len(files)} files")
    return "; ".join(words)


def deployed(name):
    """
    Brings the files below ``name`` (the view's root), the containers, and what they read live to the view.

    Nothing is recreated that can be reloaded. On a refusal by Docker the tree of before stays in place.
    """
    view = __pillar__["mrvpn"]
    ret = {"name": name, "changes": {}, "result": True, "comment": "files and containers are as described"}
    try:
        act = __salt__["mrvpn_compose.plan" if __opts__["test"] else "mrvpn_compose.deploy"]
        found = act(view)
    except (CommandExecutionError, OSError) as error:
        ret.update(result=False, comment=str(error))
        return ret
    if found:
        ret["changes"] = found
        ret["comment"] = _told(found)
        ret["result"] = None if __opts__["test"] else True
    return ret
