"""The state of files that the host itself reads, put in place before any container is.

Knows: mrvpn_tree. Must not know: what the files say.
"""

from salt.exceptions import CommandExecutionError


def host_files(name):
    """
    Puts the files of kind ``host`` in place below ``name`` (the view's root).
    """
    view = __pillar__["mrvpn"]
    ret = {"name": name, "changes": {}, "result": True, "comment": "in place"}
    try:
        files = [file for file in __salt__["mrvpn_tree.render"](view) if file["kind"] == "host"]
        changes = __salt__["mrvpn_tree.diff"](name, files, whole=False)
        if changes and not __opts__["test"]:
            __salt__["mrvpn_tree.put"](name, files, changes)
    except (CommandExecutionError, OSError) as error:
        ret.update(result=False, comment=str(error))
        return ret
    if changes:
        ret.update(changes=changes, result=None if __opts__["test"] else True, comment=f"{len(changes)} files")
    return ret
