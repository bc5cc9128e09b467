"""The state of ipt_server's settings.

Knows: mrvpn_ipt's plan and deeds. Must not know: rules, Docker, templates.
"""

from salt.exceptions import CommandExecutionError


def current(name, also=()):
    """
    Has the daemon of the service ``name`` run with the view's settings; an error leaves the generation of before in
    force.

    also
        files besides the settings that a reload reads again (the country database)
    """
    view = __pillar__["mrvpn"]
    ret = {"name": name, "changes": {}, "result": True, "comment": "the daemon runs with these settings"}
    try:
        if __opts__["test"]:
            found = __salt__["mrvpn_ipt.plan"](view, name, also)
        else:
            found = __salt__["mrvpn_ipt.bring"](view, name, also)
    except (CommandExecutionError, OSError) as error:
        ret.update(result=False, comment=str(error))
        return ret
    if found:
        ret["changes"] = found
        ret["result"] = None if __opts__["test"] else True
        ret["comment"] = "settings would be taken over" if __opts__["test"] else "settings taken over"
    return ret
