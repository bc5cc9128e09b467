"""States of the host as a whole: the guard before all others, sysctls, the mine.

Knows: the view's outer shape. Must not know: what tunnels, containers or rules are.
"""

from salt.exceptions import CommandExecutionError

# what every view of a member holds (docs/contracts.md, section 1)
KEYS = {
    "version", "host", "member", "root", "notices", "image", "docker", "mesh", "gateway", "tunnels", "frr", "recursor",
    "routing", "country_database", "host_guard", "lan",
}  # fmt: skip
GATEWAYS = ("firezone", "wireguard")


def _result(name, comment, changes=None, result=True):
    return {"name": name, "changes": changes or {}, "result": result, "comment": comment}


def guard(name):
    """
    Fails where the view is not this host's, not of these states' version, or names a gateway that cannot be deployed;
    and where this minion had other modules than the master serves: they are replaced, and the next apply is theirs.

    name
        the version of the view that the states were rendered with
    """
    view = __pillar__["mrvpn"]
    if view["host"] != __opts__["id"]:
        return _result(
            name, f"the view is of {view['host']}, this minion is {__opts__['id']}: nothing is applied", result=False
        )
    if view["version"] != name:
        return _result(
            name, f"the view changed while the states were rendered ({view['version']}): apply again", result=False
        )
    behind = __salt__["mrvpn.modules_behind"](__pillar__.get("mrvpn_modules", {}))
    # one that never comes by this way, but from a folder of the minion's own, is no reason to fail
    if behind and any(__salt__["saltutil.sync_all"]().values()):
        comment = f"this host had other modules than the master ({', '.join(behind)}): replaced now, apply again"
        return _result(name, comment, result=False)
    if not view["member"]:
        return _result(name, f"{view['host']} is not in the description: nothing to do")
    lacking = ", ".join(sorted(KEYS - view.keys()))
    if lacking:
        comment = f"the view lacks {lacking}: the master's mrvpn package and the states are of different versions"
        return _result(name, comment, result=False)
    gateway = view["gateway"]
    if gateway is not None and gateway["kind"] not in GATEWAYS:
        comment = f"gateway.kind is {gateway['kind']}: these states deploy {' and '.join(GATEWAYS)}"
        return _result(name, comment, result=False)
    return _result(name, "; ".join([f"view {name} of {view['host']}", *view["notices"]]))


def fits(name):
    """
    Fails where something on this host keeps the view from working, all of it at once; tells what a firewall here needs.
    """
    view = __pillar__["mrvpn"]
    found = __salt__["mrvpn_preflight.problems"](view)
    if found:
        return _result(name, "\n".join(found), result=False)
    firewalls = __salt__["mrvpn_preflight.firewalls"](view)
    return {**_result(name, "nothing is in the way"), "warnings": firewalls}


def sysctls(name, values, root):
    """
    Sets kernel parameters now and, in the file ``name``, for the next boot; those that this kernel refuses are told.

    name
        file below /etc/sysctl.d that holds exactly these
    values
        ``{parameter: value}``; ``net.ipv4.ip_local_reserved_ports`` is added to what is reserved already
    root
        MRVPN's folder, where it is noted what the parameters were before
    """
    try:
        changes, refused = __salt__["mrvpn_host.sysctls"](name, values, write=False)
        if changes and not __opts__["test"]:
            noted = {parameter: change for parameter, change in changes.items() if parameter != name}
            __salt__["mrvpn_before.note"](root, "sysctl", noted)
            changes, refused = __salt__["mrvpn_host.sysctls"](name, values)
    except (CommandExecutionError, OSError) as error:
        return _result(name, str(error), result=False)
    told = "; ".join(f"{parameter}: {why}" for parameter, why in sorted(refused.items()))
    if not changes:
        return _result(name, told or "in place")
    if __opts__["test"]:
        return _result(name, told or "would be set", changes, result=None)
    return _result(name, told or "set", changes)


def host_guard(name, running):
    """
    Keeps the host's rules that drop what the gateway's bridge forwards un-NATed: the script ``name`` in force, now.

    running
        whether the rules must be in force (they are ended by ``stop``)
    """
    current = __salt__["mrvpn_host.guard_matches"](name) if running else __salt__["mrvpn_host.guard_present"]()
    if current == running:
        return _result(name, "in force" if running else "not in force")
    changes = {"rules": {"old": "in force" if current else "absent", "new": "in force" if running else "absent"}}
    if __opts__["test"]:
        return _result(name, "would be put in force", changes, result=None)
    try:
        __salt__["mrvpn_host.guard_set"](name, running)
    except (CommandExecutionError, OSError) as error:
        return _result(name, str(error), result=False)
    return _result(name, "put in force" if running else "ended", changes)


def no_host_guard(name):
    """
    Has none of the host's rules where the view has none, and nothing left that would start them.
    """
    parts = __salt__["mrvpn_host.guard_parts"]()
    if not parts:
        return _result(name, "not there")
    if __opts__["test"]:
        return _result(name, "would be taken away", {"removed": parts}, result=None)
    try:
        return _result(name, "taken away", {"removed": __salt__["mrvpn_host.guard_off"]()})
    except (CommandExecutionError, OSError) as error:
        return _result(name, str(error), result=False)


def absent(name, purge=False):
    """
    Takes MRVPN off this host: containers, networks, rules, interfaces, units, files below the root ``name``.

    purge
        keys, secrets, volumes, the image and what the mine has of this host go, too; without it they stay
    """
    try:
        found = __salt__["mrvpn_absent.found"](name, purge)
        if not found:
            return _result(name, "nothing of MRVPN is here")
        if __opts__["test"]:
            return _result(name, "would be taken off", {"removed": found}, result=None)
        found = __salt__["mrvpn_absent.take_off"](name, purge)
    except (CommandExecutionError, OSError) as error:
        return _result(name, str(error), result=False)
    told = ["taken off"]
    if not purge:
        told.append("keys, secrets, volumes and the image stay (pillar mrvpn_absent: {purge: true} takes them, too)")
    if "given back" in found and any(text.startswith("daemon.json") for text in found["given back"]):
        told.append("daemon.json takes effect when Docker restarts")
    return _result(name, "; ".join(told), {"removed": found})


def published(name, root):
    """
    Sends this host's public keys to the mine under ``name``, and its address under ``mrvpn_address``; always, for the
    mine cannot be read back from here.
    """
    if __opts__["test"]:
        return _result(name, "public keys would be sent to the mine")
    if not __salt__["mine.send"](name, mine_function="mrvpn.public_keys", root=root):
        return _result(name, "the mine did not take the public keys: is the master reachable?", result=False)
    __salt__["mine.send"]("mrvpn_address", mine_function="mrvpn.address")
    keys = __salt__["mrvpn.public_keys"](root)
    return _result(name, f"public keys sent: {', '.join(sorted(keys)) or 'none'}")
