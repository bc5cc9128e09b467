"""The settings of ipt_server: what the route rules of a network come down to. See docs/contracts.md, 2.

Knows: the network and marks. Must not know: the daemon.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from mrvpn import marks
from mrvpn.schema.model import Bypass
from mrvpn.topology import GATEWAY_SERVICE, Network, Rule, collapse, gateway_addresses
from mrvpn.views.content import content_hash

COUNTRY_DATABASE = "/var/lib/mrvpn/country/country.mmdb"
RECURSOR_PORT = 5301
RECURSOR_UID = 953
HOOK = {"address": "127.0.0.1", "port": 5310, "ports": 16, "tries": 2, "timeout_ms": 300, "fail": "closed"}


def settings(network: Network, service: str) -> dict[str, Any]:
    """The settings of one service's ipt_server; a value of the caller's own."""
    key = ("settings", service)
    if key not in network.memo:
        network.memo[key] = json.dumps(_settings(network, service))
    return json.loads(network.memo[key])  # type: ignore[no-any-return]


def _settings(network: Network, service: str) -> dict[str, Any]:
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
                **_health(network, e.name),
            }
            for e in network.exits
        ],
        "rules": [
            _rule(network, rule, number) for rule, number in zip(network.rules, network.rule_numbers, strict=True)
        ],
        "domain_route_ttl": d.routing.domain_route_ttl,
        "country_database": d.routing.country_database.path or COUNTRY_DATABASE,
        "own": own(network),
        "recursor": {
            "port": RECURSOR_PORT,
            "interfaces": [name for name in interfaces if name in ingress],
            "uid": RECURSOR_UID,
            "control": "/run/mrvpn-recursor",
            **({"exempt": list(d.dns.exempt)} if d.dns.exempt else {}),
        },
        "hook": dict(HOOK),
        "hints": d.routing.hints,
        "learned_max": 200_000,
    }
    # only where described: whose answer counts for whom, and what the daemon has to fetch
    if d.routing.learn_scope == "client":
        found["learn_scope"] = "client"
        found["clients"] = [list(client.addresses) for _, client in sorted(d.clients.items())]
    if d.lists:
        found["lists"] = {name: options.model_dump(mode="json") for name, options in sorted(d.lists.items())}
    if d.dns.bypass != Bypass():
        found["bypass"] = d.dns.bypass.model_dump(mode="json")
    database = d.routing.country_database
    if database.url:
        found["country_source"] = database.model_dump(mode="json", exclude={"path"}, exclude_none=True)
    return {"version": content_hash(found), **found}


def _health(network: Network, name: str) -> dict[str, Any]:
    """What an exit is judged by: what the description says, and for one with a stand-in the far end itself.

    The fastest sign of a far end's death is the host route that OSPF keeps of it (BFD). Only OSPF's form for IPv6 has
    one: without IPv6 in the tunnel the far end is pinged.
    """
    options = network.description.exits.get(name)
    if options is None:
        return {}
    told = options.health.model_dump(mode="json", exclude_unset=True) if options.health else {}
    if name in network.addresses and (options.fallback or options.on_down == "default") and not told:
        told = _far_end(network, name)
    return {"health": told} if told else {}


def _far_end(network: Network, name: str) -> dict[str, Any]:
    ends = network.addresses[name]
    addresses = [a.split("/")[0] for host, own in ends.items() if host != network.description.entrypoint for a in own]
    if len(ends) == 2 and (six := [address for address in addresses if ":" in address]):
        return {"route": f"{six[0]}/128"}
    return {"icmp": [address for address in addresses if ":" not in address]}


def services(network: Network) -> dict[str, list[str]]:
    """`services` of the description; without it the ingress of the gateway, which no new exit changes."""
    d = network.description
    if d.services:
        return {service: list(interfaces) for service, interfaces in sorted(d.services.items())}
    return {GATEWAY_SERVICE: list(d.routing.interfaces)}


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


def _rule(network: Network, rule: Rule, number: int) -> dict[str, Any]:
    route, field = rule.route, rule.field
    found = {
        "id": rule.id,
        "mark": marks.rule_mark(number),
        "exit": route.interface,
        "kind": rule.kind,
        "weight": route.weight,
        "metric": route.metric,
        "ttl": route.route_ttl,
        "live": route.live or ("cut" if network.description.routing.clean_conntrack else "keep"),
        "countries": list(rule.values) if field == "country" else [],
        "patterns": list(rule.values) if field == "domain" else [],
        "suffixes": list(rule.values) if field == "suffix" else [],
        "prefixes": list(rule.values) if field == "net" else [],
    }
    return {**found, "lists": list(rule.values)} if field == "list" else found


def own(network: Network) -> list[str]:
    """Addresses that no rule may route and no answer may teach: its tunnels' and their endpoints'."""
    d = network.description
    found = {address.partition("/")[0] for address in gateway_addresses(d)}
    for name in network.ends.get(d.entrypoint or "", ()):
        for host, end in d.tunnels[name].hosts.items():
            found |= {address.split("/")[0] for address in network.addresses[name][host]}
            options = d.hosts.get(host)
            endpoints = [end.expose.host if end.expose else None, options.endpoint if options else None]
            found |= {endpoint for endpoint in endpoints if endpoint and _is_address(endpoint)}
    return sorted(found, key=lambda a: (ipaddress.ip_address(a).version, int(ipaddress.ip_address(a))))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
