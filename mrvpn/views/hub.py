"""Tunnels of more than two hosts: who speaks to whom directly, who passes on for whom, and OSPF's neighbours by name.

Knows: the network. Must not know: FRR, WireGuard's files.

Two hosts speak directly when one of them listens. Two that both only dial meet at the first host that listens: it is
their hub, and what is theirs stands in its allowed_ips, for WireGuard picks the peer by the destination alone. OSPF
cannot use multicast here (one prefix, one peer): hellos go to each neighbour's own address.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from mrvpn.topology import Network, collapse

POINT_TO_POINT = 2


def extend(found: dict[str, Any], network: Network, host: str) -> None:
    """Brings tunnels of more than two hosts to their form; every OSPF interface gets its type and `neighbors`."""
    for entry in found["frr"]:
        for interface in entry["interfaces"]:
            interface |= {"type": "point-to-point", "neighbors": {"ipv4": [], "ipv6": []}}
            if interface["name"] in found["tunnels"] and _several(network, interface["name"]):
                interface["type"] = "point-to-multipoint"
                interface["neighbors"] = _neighbors(network, interface["name"], host)
    for name, tunnel in found["tunnels"].items():
        if _several(network, name):
            tunnel["peers"] = _peers(network, name, host, tunnel["peers"])


def _several(network: Network, name: str) -> bool:
    return len(network.description.tunnels[name].hosts) > POINT_TO_POINT


def direct(network: Network, name: str, host: str) -> list[str]:
    """The hosts of a tunnel that a host speaks to directly, in the order of the file."""
    ends = network.description.tunnels[name].hosts
    return [other for other in ends if other != host and (ends[other].expose or ends[host].expose)]


def _neighbors(network: Network, name: str, host: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"ipv4": [], "ipv6": []}
    for other in direct(network, name, host):
        for address in network.addresses[name][other]:
            if ":" not in address:
                found["ipv4"].append(address.split("/")[0])
        if name in network.link_local:
            found["ipv6"].append(network.link_local[name][other].split("/")[0])
    return found


def _peers(network: Network, name: str, host: str, peers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    near = direct(network, name, host)
    kept = [{**peer, "allowed_ips": list(peer["allowed_ips"])} for peer in peers if peer["host"] in near]
    listening = [other for other in near if network.description.tunnels[name].hosts[other].expose]
    far = [other for other in network.description.tunnels[name].hosts if other not in (host, *near)]
    if listening and far:
        relay = next(peer for peer in kept if peer["host"] == listening[0])
        beyond = [prefix for other in far for prefix in _of(network, name, other)]
        relay["allowed_ips"] = _collapsed([*relay["allowed_ips"], *beyond])
    return kept


def _of(network: Network, name: str, host: str) -> list[str]:
    """What belongs to a host in a tunnel: its tunnel addresses, and what is declared behind it."""
    own = [str(ipaddress.ip_network(address.split("/")[0])) for address in network.addresses[name][host]]
    return [*own, *network.behind(name, host)]


def _collapsed(prefixes: list[str]) -> list[str]:
    return [*collapse(prefixes, 4), *collapse(prefixes, 6)]
