"""States of a RouterOS router: what its paths hold, and the user's own commands.

Knows: what routeros.reconcile returns. Must not know: sessions, paths, fields.
"""

from salt.exceptions import CommandExecutionError

__proxyenabled__ = ["routeros"]


def __virtual__():
    return "routeros.reconcile" in __salt__ or (False, "the execution module routeros is not loaded")


def _result(name, comment, changes=None, result=True):
    return {"name": name, "changes": changes or {}, "result": result, "comment": comment}


def _reconciled(name, rows, done, force, **order):
    # for one apply: salt HOST state.apply mrvpn.routeros pillar='{mrvpn_routeros: {force: true}}'
    force = force or bool((__pillar__.get("mrvpn_routeros") or {}).get("force"))
    try:
        found = __salt__["routeros.reconcile"](rows, test=__opts__["test"], force=force, **order)
    except CommandExecutionError as error:
        return _result(name, str(error), result=False)
    told = [*(f"taken over: {line}" for line in found["adopted"]), *found["notices"]]
    told += [f"hook {'would run' if __opts__['test'] else 'ran'}: {line}" for line in found["hooks"]]
    if not found["changes"]:
        return _result(name, "\n".join(["in place", *told]))
    if __opts__["test"]:
        return _result(name, "\n".join([f"would be {done}", *told]), found["changes"], None)
    return _result(name, "\n".join([f"{done} by {found['writes']} writes", *told]), found["changes"])


def _section(pillar, rows, paths):
    """The section of the view that the pillar holds at `pillar` (`mrvpn:routeros`), or the rows that were handed in."""
    section = {"rows": rows or {}, "pings": (), "hooks": {}, "unknown": []}
    if pillar:
        value = __pillar__
        for key in pillar.split(":"):
            value = value[key]
        section = dict(value)
    if paths:
        section["rows"] = {path: section["rows"][path] for path in paths}
    return section


def managed(name, rows=None, pillar=None, owner=None, force=False, pings=(), hooks=None, undo_after=120):
    """
    Each path of ``rows`` holds exactly these rows of ours: missing ones are added, others changed in place, those of
    the owner that are not declared removed; rows of others are never touched. All paths in one transaction: kept when
    the router lets us in anew, holds what was written and the ``pings`` that answered before answer; taken back
    otherwise.

    .. code-block:: yaml

        tunnels:
          routeros.managed:
            - rows:
                /interface/wireguard:
                  - {name: wg_office, mtu: 1280, comment: 'mrvpn:wg_office:interface'}
            - pings: [10.9.23.1]

    rows
        ``{path: [row, ...]}``
    pillar
        instead of rows, pings and hooks: where the pillar holds them, ``mrvpn:routeros``; so no preshared key stands
        in a rendered SLS
    owner
        what the comments of the rows begin with: ``mrvpn:``, or narrower ``mrvpn:wg_office:``
    force
        also change what the session itself runs over, or what could not be taken back; the pillar
        ``mrvpn_routeros: {force: true}`` says so for all states of one apply
    pings
        addresses of far ends: those that answered before the changes must answer before they are kept
    hooks
        ``{tunnel: {cleanup: [command], deploy: [command]}}``, run where something of the tunnel changes
    undo_after
        before RouterOS 7.18: seconds until the router undoes by itself what was not confirmed
    """
    section = _section(pillar, rows, None)
    if section["unknown"]:
        far = ", ".join(section["unknown"])
        told = f"public keys are not known yet ({far}): run `salt-run state.orchestrate orch.keys` on the master first"
        return _result(name, told, result=False)
    order = {"pings": pings or section["pings"], "hooks": hooks or section["hooks"]}
    return _reconciled(name, section["rows"], "changed", force, owner=owner, undo_after=undo_after, **order)


def present(name, rows=None, pillar=None, paths=None, force=False):
    """
    The rows are there, with these fields; nothing is removed.

    rows
        ``{path: [row, ...]}``
    pillar
        instead of rows: where the pillar holds them, ``mrvpn:routeros``
    paths
        only these paths of it
    force
        as in ``managed``
    """
    return _reconciled(name, _section(pillar, rows, paths)["rows"], "changed", force, remove=False)


def absent(name, paths, force=False):
    """
    No row whose comment begins with ``name`` (``mrvpn:wg_office:``) is on these paths.

    paths
        list of paths
    force
        as in ``managed``
    """
    return _reconciled(name, {path: [] for path in paths}, "removed", force, owner=name)


def hook(name, commands, guard=None):
    """
    Runs RouterOS commands of the user, in order; the first that fails ends it. Use ``onchanges``, or a guard.

    commands
        list of commands in RouterOS's own language
    guard
        ``{path: /interface/list/member, comment: wg_office}``: only where no row of the path has these values
    """
    if guard:
        where = dict(guard)
        try:
            if __salt__["routeros.matching"](where.pop("path"), **where):
                return _result(name, "not needed: the guard finds its row")
        except CommandExecutionError as error:
            return _result(name, str(error), result=False)
    changes = {"commands": list(commands)}
    if __opts__["test"]:
        return _result(name, "would run", changes, None)
    ran = {}
    for command in commands:
        try:
            ran[command] = __salt__["routeros.script"](command)
        except CommandExecutionError as error:
            return _result(name, str(error), {"commands": ran} if ran else {}, False)
    return _result(name, "ran", {"commands": ran})


def published(name):
    """
    Sends the router's public keys to the mine under ``name``; always, for the mine cannot be read back from here.
    """
    if __opts__["test"]:
        return _result(name, "public keys would be sent to the mine")
    try:
        keys = __salt__["routeros.public_keys"]()
    except CommandExecutionError as error:
        return _result(name, str(error), result=False)
    if not __salt__["mine.send"](name, mine_function="routeros.public_keys"):
        return _result(name, "the mine did not take the public keys: is the master reachable?", result=False)
    return _result(name, f"public keys sent: {', '.join(sorted(keys)) or 'none'}")
