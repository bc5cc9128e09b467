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
