"""The settings of ipt_server: what the route rules of a network come down to. See docs/contracts.md, 2.

Knows: the network and marks. Must not know: the daemon.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from mrvpn import marks, precedence
from mrvpn.schema.countries import expand
from mrvpn.schema.model import Route
from mrvpn.topology import GATEWAY_SERVICE, Network, client_subnets, collapse, matches
from mrvpn.views.content import content_hash

COUNTRY_DATABASE = "/var/lib/mrvpn/country/country.mmdb"
RECURSOR_PORT = 5301
RECURSOR_UID = 953
HOOK = {"address": "127.0.0.1", "port": 5310, "ports": 16, "tries": 2, "timeout_ms": 300, "fail": "closed"}


def settings(network: Network, service: str) -> dict[str, Any]:
    """The settings of one service's ipt_server."""
    d = network.description
    interfaces = services(network)[service]
    ingress = [name for name in d.routing.interfaces if name in interfaces or service == GATEWAY_SERVICE]
    found: dict[str, Any] = {
        "service": service,
        "ingress": ingress,
        "tunnels": [{"interface": name, "sources": sources(network, name)} for name in _tunnels(network)],
        "mesh": {"ipv4": list(network.mesh4), "ipv6": list(network.mesh6)},
        "exits": [
            {
                "name": e.name,
                "interface": e.interface,
                "mark": e.mark,
                "table": e.table,
                "ipv4": e.ipv4,
                "ipv6": e.ipv6,
                "fallback": list(d.exits[e.name].fallback) if e.name in d.exits else [],
                "on_down": d.exits[e.name].on_down if e.name in d.exits else "block",
            }
            for e in network.exits
        ],
        "rules": rules(network),
        "domain_route_ttl": d.routing.domain_route_ttl,
        "country_database": d.routing.country_database.path or COUNTRY_DATABASE,
        "own": own(network),
        "recursor": {
            "port": RECURSOR_PORT,
            "interfaces": [name for name in interfaces if name in ingress],
            "uid": RECURSOR_UID,
            "control": "/run/mrvpn-recursor",
        },
        "hook": HOOK,
        "hints": d.routing.hints,
        "learned_max": 200_000,
    }
    return {"version": content_hash(found), **found}


def services(network: Network) -> dict[str, list[str]]:
    """`services` of the description; without it the gateway's, with every interface of its namespace."""
    d = network.description
    if d.services:
        return {service: list(interfaces) for service, interfaces in sorted(d.services.items())}
    return {GATEWAY_SERVICE: ["wg-firezone", *_tunnels(network)]}


def _tunnels(network: Network) -> list[str]:
    d = network.description
    return [name for name, tunnel in d.tunnels.items() if d.entrypoint in tunnel.hosts]


def sources(network: Network, tunnel: str) -> list[str]:
    """The prefixes declared behind a tunnel, as the entrypoint sees it."""
    d = network.description
    found = list(d.tunnels[tunnel].subnet)
    for host in d.tunnels[tunnel].hosts:
        if host != d.entrypoint:
            found += network.behind(tunnel, host)
    return [*collapse(found, 4), *collapse(found, 6)]


def rules(network: Network) -> list[dict[str, Any]]:
    """The route rules, one kind of match each, in the order of the file."""
    found: list[dict[str, Any]] = []
    for number, route in enumerate(network.description.routing.routes):
        for field, values in matches(route):
            for kind, rest in _kinds(field, values):
                found.append(_rule(network, route, f"routing.routes[{number}].{field}", kind, rest, len(found)))
    return found


def _kinds(field: str, values: tuple[str, ...]) -> list[tuple[precedence.Kind, tuple[str, ...]]]:
    """A net match splits into prefixes and defaults, which rank differently."""
    if field == "country":
        return [("country", expand(values))]
    if field != "net":
        return [("domain", values)]
    split: dict[precedence.Kind, list[str]] = {}
    for prefix in values:
        split.setdefault(precedence.kind_of_prefix(ipaddress.ip_network(prefix).prefixlen), []).append(prefix)
    found: list[tuple[precedence.Kind, tuple[str, ...]]] = []
    for kind, prefixes in sorted(split.items(), reverse=True):
        if kind == "default":
            # a default of one family covers both
            for version, whole in ((4, "0.0.0.0/0"), (6, "::/0")):
                if not any(ipaddress.ip_network(p).version == version for p in prefixes):
                    prefixes.append(whole)
        found.append((kind, tuple(prefixes)))
    return found


def _rule(
    network: Network, route: Route, place: str, kind: precedence.Kind, values: tuple[str, ...], number: int
) -> dict[str, Any]:
    field = place.rpartition(".")[2]
    live = route.live or ("cut" if network.description.routing.clean_conntrack else "keep")
    return {
        "id": place,
        "mark": marks.rule_mark(number),
        "exit": route.interface,
        "kind": kind,
        "weight": route.weight,
        "metric": route.metric,
        "ttl": route.route_ttl,
        "live": live,
        "countries": list(values) if field == "country" else [],
        "patterns": list(values) if field == "domain" else [],
        "suffixes": [value.strip(".").lower() for value in values] if field == "suffix" else [],
        "prefixes": list(values) if field == "net" else [],
    }


def own(network: Network) -> list[str]:
    """Addresses that no rule may route and no answer may teach: the entrypoint's and every endpoint's."""
    d = network.description
    found = {str(ipaddress.ip_network(p).network_address + 1) for p in client_subnets(d)}
    for tunnel in network.addresses.values():
        for addresses in tunnel.values():
            found |= {address.split("/")[0] for address in addresses}
    for host in d.hosts.values():
        if host.endpoint and _is_address(host.endpoint):
            found.add(host.endpoint)
    for t in d.tunnels.values():
        found |= {e.expose.host for e in t.hosts.values() if e.expose and e.expose.host and _is_address(e.expose.host)}
    return sorted(found, key=lambda a: (ipaddress.ip_address(a).version, int(ipaddress.ip_address(a))))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
