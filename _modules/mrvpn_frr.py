"""Telling a running FRR that its files changed.

Knows: `mrvpn-frr` in FRR's container. Must not know: OSPF, the description, the pillar.
"""

import json

from salt.exceptions import CommandExecutionError


def reload(service):
    """
    Lets FRR take over its changed configuration by frr-reload: adjacencies keep their uptime.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_frr.reload firezone_frr
    """
    done = __salt__["mrvpn_docker.exec_in"](service, "mrvpn-frr", "reload")
    if done["code"]:
        raise CommandExecutionError(f"{service}: mrvpn-frr reload: {(done['err'] or done['out']).strip()[-1000:]}")
    return True


def leave(service, interfaces):
    """
    Lets OSPF leave interfaces while they are there, as far as FRR answers; its files are to say so afterwards.

    Of an interface that vanishes under it ospf6d tells the mesh a router without links, and can say better only after
    five seconds (MinLSInterval), in which IPv6 by all other tunnels has no way.

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_frr.leave firezone_frr '[wg_uk]'
    """
    for interface in interfaces:
        commands = ("configure terminal", f"interface {interface}", "ip ospf passive", "no ipv6 ospf6 area")
        words = [word for command in commands for word in ("-c", command)]
        __salt__["mrvpn_docker.exec_in"](service, "vtysh", *words)
    return True


def neighbors(service):
    """
    OSPF's neighbours as FRR tells them (``show ip ospf neighbor json``).

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_frr.neighbors firezone_frr
    """
    done = __salt__["mrvpn_docker.exec_in"](service, "vtysh", "-c", "show ip ospf neighbor json")
    if done["code"]:
        raise CommandExecutionError(f"{service}: vtysh: {done['err'].strip()[-500:]}")
    return json.loads(done["out"]).get("neighbors", {})
