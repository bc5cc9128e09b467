"""The state that notes which view was brought here.

Knows: mrvpn_live's note. Must not know: what a view holds.
"""


def recorded(name, root=None):
    """
    Notes the version ``name`` of the view, where nothing of this run failed: what `salt-run mrvpn.status` compares.

    root
        the folder that keeps the note; the description's ``mrvpn_root`` where left out
    """
    root = root or __pillar__["mrvpn"]["root"]
    ret = {"name": name, "changes": {}, "result": True, "comment": "this version is here"}
    failed = sum(1 for state in __running__.values() if state.get("result") is False)
    if failed:
        ret["comment"] = f"{failed} states failed: the version of before stays noted"
        return ret
    old = __salt__["mrvpn_live.applied"](root).get("version")
    if old == name:
        return ret
    # a note is no change of the host: a reload by event leaves it to the next apply, which then has nothing else to do
    if __opts__["test"]:
        ret["comment"] = f"this version would be noted; before it was {old}"
        return ret
    try:
        __salt__["mrvpn_live.applied"](root, version=name)
    except OSError as error:
        ret.update(result=False, comment=f"the version could not be noted: {error}")
        return ret
    ret["comment"] = f"this version is here; before it was {old}"
    return ret
