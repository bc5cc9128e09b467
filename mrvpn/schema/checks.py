"""What must be true between the keys of a description.

Knows: the typed description and how its parts refer to each other. Must not know: YAML, what is assigned (topology).
"""

from __future__ import annotations

import difflib
import ipaddress
import itertools
import re
from collections.abc import Iterable
from typing import Any

from mrvpn import patterns
from mrvpn.schema.countries import ALIASES, COUNTRIES
from mrvpn.schema.model import DEFAULT_EXIT, Description, Secret
from mrvpn.schema.source import Source

NAME = re.compile(r"[A-Za-z0-9_=+.-]{1,15}")
GATEWAY_SERVICE = "firezone"
GATEWAY_INTERFACE = "wg-firezone"


def check(source: Source, description: Description) -> None:
    """Adds every problem between keys to the source."""
    _tunnels(source, description)
    _subnets(source, description)
    _ports(source, description)
    _keys(source, description)
    _entrypoint(source, description)
    _routes(source, description)
    _exits(source, description)


def _near(word: str, known: Iterable[str]) -> str:
    known = sorted(known)
    found = difflib.get_close_matches(word, known, n=1)
    return f": did you mean `{found[0]}`?" if found else f"; there are: {', '.join(known)}" if known else ""


def _tunnels(source: Source, d: Description) -> None:
    for name, tunnel in d.tunnels.items():
        path = ("tunnels", name)
        if not NAME.fullmatch(name) or name in (".", ".."):
            found = f"has {len(name)} characters" if len(name) > 15 else "has characters that no interface may have"
            message = f"a tunnel's name is its interface's name; this one {found}: 1 to 15 of A-Z a-z 0-9 _ = + . -"
            source.problem(path, message, "tunnel-name")
        if not tunnel.subnet:
            source.problem(path, "has no subnet: give it one, such as 10.9.20.0/24", "subnet-missing")
        families = [ipaddress.ip_network(p).version for p in tunnel.subnet]
        if len(set(families)) != len(families):
            source.problem((*path, "subnet"), "at most one prefix per family", "subnet-family")
        for prefix in tunnel.subnet:
            network = ipaddress.ip_network(prefix)
            if network.num_addresses - 2 < len(tunnel.hosts):
                source.problem(
                    (*path, "subnet"), f"{prefix} is too small for {len(tunnel.hosts)} hosts", "subnet-small"
                )
        if len(tunnel.hosts) < 2:
            source.problem((*path, "hosts"), "a tunnel needs two hosts at least", "tunnel-ends")
        elif not any(end.expose for end in tunnel.hosts.values()):
            source.problem((*path, "hosts"), "no host listens: give one of them `expose: PORT`", "no-exposed-side")
        for host, end in tunnel.hosts.items():
            here = (*path, "hosts", host)
            if end.compose_service and end.compose_network:
                source.problem(here, "has both compose_service and compose_network: keep one", "compose-both")
            if end.compose_service and "autostart" in end.model_fields_set and end.autostart:
                message = "has autostart with compose_service, whose stack starts it: take autostart out"
                source.problem(here, message, "autostart", warning=True)
            for key in ("private", "psk"):
                if isinstance(getattr(end, key), str):
                    message = "is a secret in plain text: write {secret: NAME} and put it into the master's secrets"
                    source.problem((*here, key), message, "plain-secret", warning=True)


def _subnets(source: Source, d: Description) -> None:
    owned: list[tuple[Any, tuple[str | int, ...], str]] = []
    for name, tunnel in d.tunnels.items():
        owned += [
            (ipaddress.ip_network(p), ("tunnels", name, "subnet"), f"tunnels.{name}.subnet") for p in tunnel.subnet
        ]
    for host, options in d.hosts.items():
        owned += [(ipaddress.ip_network(p), ("hosts", host, "lan"), f"hosts.{host}.lan") for p in options.lan]
    for key in ("fz_client_subnet", "fz_client_subnet6", "fz_mgmt_subnet"):
        prefix = getattr(d.firezone, key)
        if prefix:
            owned.append((ipaddress.ip_network(prefix), ("firezone", key), f"firezone.{key}"))
    for version in (4, 6):
        family = sorted(
            (o for o in owned if o[0].version == version), key=lambda o: (o[0].network_address, o[0].prefixlen)
        )
        for (wide, _, wide_name), (network, path, name) in itertools.pairwise(family):
            if wide.overlaps(network) and wide_name != name:
                source.problem(path, f"{network} overlaps {wide} of {wide_name}: choose a prefix of its own", "overlap")


def _ports(source: Source, d: Description) -> None:
    taken: dict[tuple[str, int], str] = {}
    if d.entrypoint:
        taken[d.entrypoint, d.firezone.fz_wireguard_port] = "firezone.fz_wireguard_port"
    for name, tunnel in d.tunnels.items():
        for host, end in tunnel.hosts.items():
            if not end.expose:
                continue
            path = ("tunnels", name, "hosts", host, "expose")
            other = taken.setdefault((host, end.expose.port), name)
            if other != name:
                source.problem(path, f"port {end.expose.port} is taken by {other} on the same host", "port-taken")
            low, high = d.port_range or (0, 65535)
            if end.compose_service and not low <= end.expose.port <= high:
                message = (
                    f"port {end.expose.port} is outside port_range {low}-{high}: the gateway restarts to publish it"
                )
                source.problem(path, message, "port-range", warning=True)


def _keys(source: Source, d: Description) -> None:
    seen: dict[str, str] = {}
    places: list[tuple[tuple[str | int, ...], str]] = [
        (("tunnels", name, "hosts", host, "public_key"), end.public_key)
        for name, tunnel in d.tunnels.items()
        for host, end in tunnel.hosts.items()
        if end.public_key
    ]
    places += [(("clients", name, "public_key"), client.public_key) for name, client in d.clients.items()]
    for path, key in places:
        where = ".".join(str(part) for part in path)
        other = seen.setdefault(key, where)
        if other != where:
            source.problem(path, f"the same key stands at {other}: every end has a key of its own", "key-twice")


def _entrypoint(source: Source, d: Description) -> None:
    hosts = {host for tunnel in d.tunnels.values() for host in tunnel.hosts}
    if d.entrypoint and d.tunnels and d.entrypoint not in hosts:
        source.problem(
            ("entrypoint",), f"{d.entrypoint} has no end of any tunnel{_near(d.entrypoint, hosts)}", "entrypoint"
        )
    for host in d.hosts:
        if hosts and host not in hosts:
            source.problem(
                ("hosts", host), f"has no end of any tunnel{_near(host, hosts)}", "unknown-host", warning=True
            )
    for service, interfaces in d.services.items():
        known = {*d.tunnels, GATEWAY_INTERFACE}
        for number, interface in enumerate(interfaces):
            if interface not in known:
                path = ("services", service, number)
                source.problem(path, f"there is no interface {interface}{_near(interface, known)}", "unknown-interface")
    ingress = {*(name for name, t in d.tunnels.items() if d.entrypoint in t.hosts), GATEWAY_INTERFACE}
    for number, interface in enumerate(d.routing.interfaces):
        if interface not in ingress:
            path = ("routing", "interfaces", number)
            source.problem(
                path, f"{interface} is no interface of the entrypoint{_near(interface, ingress)}", "unknown-interface"
            )
    if d.clients and d.gateway == "firezone":
        source.problem(
            ("clients",), "clients are described for `gateway: wireguard`; Firezone keeps its own", "clients"
        )
    subnets = [ipaddress.ip_network(p) for p in (d.firezone.fz_client_subnet, d.firezone.fz_client_subnet6) if p]
    for name, client in d.clients.items():
        for number, address in enumerate(client.addresses):
            if not any(ipaddress.ip_address(address) in subnet for subnet in subnets):
                told = ", ".join(str(s) for s in subnets)
                source.problem(("clients", name, "addresses", number), f"{address} is not in {told}", "client-address")


def _routes(source: Source, d: Description) -> None:
    exits = {DEFAULT_EXIT, *(name for name, tunnel in d.tunnels.items() if d.entrypoint in tunnel.hosts)}
    for number, route in enumerate(d.routing.routes):
        path = ("routing", "routes", number)
        if route.interface is not None and route.interface not in exits:
            message = f"{route.interface} is no tunnel of the entrypoint{_near(route.interface, exits)}"
            source.problem((*path, "interface"), message, "unknown-exit")
        if not (route.country or route.domain or route.suffix or route.net):
            source.problem(path, "matches nothing: give it country, domain, suffix or net", "no-match")
        for country in route.country:
            if country in ALIASES:
                message = f"{country} is read as {ALIASES[country]} (ISO 3166)"
                source.problem(path, message, "country-alias", warning=True)
            elif country not in COUNTRIES:
                source.problem(path, f"{country} is no country code of ISO 3166", "unknown-country")
        for pattern in route.domain:
            told = patterns.problem(pattern)
            if told:
                source.problem(path, told, "pattern")


def _exits(source: Source, d: Description) -> None:
    for name, options in d.exits.items():
        if name not in d.tunnels:
            source.problem(("exits", name), f"there is no tunnel {name}{_near(name, d.tunnels)}", "unknown-exit")
        for number, fallback in enumerate(options.fallback):
            if fallback not in d.tunnels and fallback != DEFAULT_EXIT:
                path = ("exits", name, "fallback", number)
                source.problem(path, f"there is no tunnel {fallback}{_near(fallback, d.tunnels)}", "unknown-exit")


def secrets_named(d: Description) -> list[str]:
    """The names of all `{secret: NAME}` of a description."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, Secret):
            found.append(value.secret)
        elif isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                walk(item)
        elif hasattr(value, "model_fields_set"):
            for field in type(value).model_fields:
                walk(getattr(value, field))

    walk(d)
    return sorted(set(found))
