"""States of WireGuard's keys on this host.

Knows: which interfaces need keys, which far ends are known. Must not know: how keys are made or peers configured.
"""

from salt.exceptions import CommandExecutionError


def keys(name, keys):
    """
    Makes the private keys that are missing, on this host, 0600; says which, never the key.

    name
        the root that the paths are below
    keys
        ``{interface: path}``
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "all keys are there"}
    try:
        todo = __salt__["mrvpn_wireguard.missing_keys"](name, keys)
        if not todo:
            return ret
        ret["changes"] = todo
        if __opts__["test"]:
            ret.update(result=None, comment=f"keys would be made: {', '.join(todo)}")
            return ret
        __salt__["mrvpn_wireguard.make_keys"](name, keys)
        ret["comment"] = f"keys: {', '.join(todo)}"
    except (CommandExecutionError, OSError) as error:
        ret.update(result=False, changes={}, comment=str(error))
    return ret


def far_ends(name, unknown):
    """
    Fails while a far end's public key is not known, and names what makes it known.

    unknown
        ``<tunnel>: <host>`` of every peer without a key
    """
    if not unknown:
        return {"name": name, "changes": {}, "result": True, "comment": "every far end's public key is known"}
    comment = (
        f"no public key known yet of {', '.join(unknown)}. On the master: salt-run state.orchestrate orch.keys "
        "(makes the keys on every host, publishes the public ones by the mine), then apply again."
    )
    return {"name": name, "changes": {}, "result": False, "comment": comment}
