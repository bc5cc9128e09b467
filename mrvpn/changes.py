"""What an operator asks for -> edits of the description: an exit, a host or a rule comes or goes.

Knows: which keys of the description an exit, a host and a rule are made of. Must not know: how text is edited
(edit.py), files, git, Salt. Texts in, texts out; whether the result is good is for the compiler to say.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mrvpn import edit
from mrvpn.schema.model import DEFAULT_EXIT
from mrvpn.topology import Network

DEFAULTS = ("0.0.0.0/0", "::/0")
FIRST_PORT = 55824
KINDS = ("country", "domain", "suffix", "net", "list")
OPTIONS = ("weight", "metric", "route_ttl", "live")
# the section beside which a new one goes, where the description is several files
BESIDE = {"exits": "routing", "lists": "routing", "services": "routing"}
# MRVPN2's other names of the kinds
SAME = {"geo": "country", "domains": "domain", "static": "net"}


class CannotChange(Exception):
    """The change makes no sense here; the message says why and what would be right."""


@dataclass
class Change:
    """The edited texts, one line that says what was done, and the hosts that this is about."""

    texts: dict[str, str]
    subject: str
    hosts: tuple[str, ...] = ()
    tunnel: str | None = None  # the one that must come up for traffic to flow
    rules: bool = False  # nothing but route rules: no tunnel, no other host
    notes: list[str] = field(default_factory=list)

    def put(self, path: edit.Path, value: Any) -> None:
        """Writes a value where its neighbours stand."""
        whole = self.get(path[:1]) is None  # a section that no file has yet goes to the one that it belongs to
        name = edit.file_of(self.texts, (BESIDE.get(str(path[0]), "tunnels"),) if whole else path)
        self.texts[name] = edit.put(self.texts[name], path, value)

    def append(self, path: edit.Path, value: Any, at: int | None = None) -> None:
        """Adds an item to a list."""
        name = edit.file_of(self.texts, path)
        self.texts[name] = edit.append(self.texts[name], path, value, at)

    def drop(self, path: edit.Path) -> None:
        """Takes a key or item out."""
        name = edit.file_of(self.texts, path)
        self.texts[name] = edit.drop(self.texts[name], path)

    def get(self, path: edit.Path) -> Any:
        """The value at a path, None where there is none."""
        return edit.get(self.texts[edit.file_of(self.texts, path)], path)


def interface_of(name: str) -> str:
    """The tunnel of an exit's name: `de` and `wg_de` are both wg_de."""
    return name if name.startswith("wg") else f"wg_{name}"


def add_exit(
    texts: edit.Texts,
    network: Network,
    name: str,
    *,
    host: str,
    endpoint: str | None = None,
    port: int | None = None,
    subnet: Iterable[str] = (),
    fallback: Iterable[str] = (),
    match: Mapping[str, Any] | None = None,
) -> Change:
    """A tunnel to `host` by which traffic leaves, and a rule for what leaves by it.

    `match`: country, domain, suffix, net or list of its rule, and weight, metric, route_ttl, live. Raises CannotChange.
    """
    tunnel = interface_of(name)
    _new_tunnel(network, tunnel)
    entry = network.description.entrypoint or ""
    if host == entry:
        raise CannotChange(
            f"{host} is the entrypoint: an exit is another host (the entrypoint's own is {DEFAULT_EXIT})"
        )
    told = [interface_of(item) if item != DEFAULT_EXIT else item for item in fallback]
    change = Change(dict(texts), f"add exit {name} ({host})", (entry, host), tunnel)
    taken = {end.expose.port for t in network.description.tunnels.values() for h, end in t.hosts.items()
             if h == host and end.expose}  # fmt: skip
    port = int(port) if port else next(p for p in range(FIRST_PORT, 65536) if p not in taken)
    subnets = [str(item) for item in subnet] or free_subnets(network)
    nets = [n for n in DEFAULTS if any(_version(n) == _version(s) for s in subnets)]
    far = {"expose": port, "allowed_nets": nets, "masquerade": True, "table": "off"}
    near = {"allowed_nets": nets, "compose_service": _service(network), "masquerade": True, "table": "off"}
    change.put(("tunnels", tunnel), {"subnet": subnets, "hosts": {host: far, entry: near}})
    if endpoint:
        _endpoint(change, host, endpoint)
    if told:
        change.put(("exits", tunnel), {"fallback": told})
    rule = _rule(tunnel, match or {})
    if set(rule) & set(KINDS):
        change.append(("routing", "routes"), rule, _before_default(change))
    else:
        change.notes.append(f"no rule leads to {tunnel} yet: `salt-run mrvpn.add_rule {tunnel} country=...`")
    return change


def remove_exit(texts: edit.Texts, network: Network, name: str, *, to: str | None = None) -> Change:
    """An exit's tunnel and all that names it go; rules go to `to`, or are a reason to refuse. Raises CannotChange."""
    tunnel = _tunnel(network, name)
    target = None if to is None else DEFAULT_EXIT if to == DEFAULT_EXIT else _tunnel(network, to)
    if target == tunnel:
        raise CannotChange(f"to={to} is the exit that is to go")
    entry = network.description.entrypoint or ""
    ends = tuple(network.description.tunnels[tunnel].hosts)
    change = Change(dict(texts), f"remove exit {name}" + (f", its rules go to {target}" if target else ""), ends)
    routes = change.get(("routing", "routes")) or []
    needed = [number for number, route in enumerate(routes) if route.get("interface") == tunnel]
    if needed and target is None:
        shown = "; ".join(f"{number}: {describe(routes[number])}" for number in needed)
        raise CannotChange(f"{tunnel} is needed by route rules ({shown}): remove them, or move them with to=EXIT")
    for number in needed:
        change.put(("routing", "routes", number, "interface"), target)
    for other, options in (change.get(("exits",)) or {}).items():
        held = options.get("fallback") or []
        held = [held] if isinstance(held, str) else held
        if other != tunnel and tunnel in held:
            rest = [item for item in held if item != tunnel]
            change.put(("exits", other, "fallback"), rest)
            change.notes.append(f"{other} falls back to {', '.join(rest) or 'nothing'} now")
    for path in (("exits", tunnel), ("tunnels", tunnel)):
        if change.get(path) is not None:
            change.drop(path)
    for service, interfaces in (change.get(("services",)) or {}).items():
        if isinstance(interfaces, list) and tunnel in interfaces:
            change.drop(("services", service, interfaces.index(tunnel)))
    for host in ends:
        if host != entry and network.ends[host] == (tunnel,) and change.get(("hosts", host)) is not None:
            change.drop(("hosts", host))
    return change


def add_host(
    texts: edit.Texts,
    network: Network,
    name: str,
    *,
    lan: Iterable[str] = (),
    tunnel: str | None = None,
    port: int | None = None,
    endpoint: str | None = None,
    subnet: Iterable[str] = (),
    os: str = "linux",
) -> Change:
    """An office or another host that dials in to the entrypoint, with the prefixes behind it. Raises CannotChange."""
    if name in network.ends:
        raise CannotChange(f"host {name} is there already, in {', '.join(network.ends[name])}")
    tunnel = interface_of(tunnel or name)
    _new_tunnel(network, tunnel)
    d = network.description
    entry = d.entrypoint or ""
    change = Change(dict(texts), f"add host {name}", (entry, name), tunnel)
    subnets = [str(item) for item in subnet] or free_subnets(network)
    far: dict[str, Any] = {"masquerade": False, "table": "off"}
    near: dict[str, Any] = {"compose_service": _service(network), "table": "off"}
    if endpoint:
        far = {"expose": int(port or FIRST_PORT), **far}
    else:
        near = {"expose": int(port) if port else _entry_port(network), **near}
    change.put(("tunnels", tunnel), {"subnet": subnets, "hosts": {name: far, entry: near}})
    options = {"endpoint": endpoint, "os": None if os == "linux" else os, "lan": [str(item) for item in lan] or None}
    options = {key: value for key, value in options.items() if value}
    if options:
        change.put(("hosts", name), options)
    for service in change.get(("services",)) or {}:
        # not by itself: the list is a part of the recursor's container, which would be made anew, for everybody
        change.notes.append(f"{name} is answered no names: where it should be, add {tunnel} to services.{service}")
    return change


def add_rule(
    texts: edit.Texts, network: Network, interface: str, match: Mapping[str, Any], *, at: int | None = None
) -> Change:
    """A route rule: what `match` names leaves by `interface`; before rule number `at`, else before the default."""
    target = DEFAULT_EXIT if interface == DEFAULT_EXIT else _tunnel(network, interface)
    rule = _rule(target, match)
    if not set(rule) & set(KINDS):
        raise CannotChange(f"a rule says what it matches: one of {', '.join(KINDS)}")
    entry = network.description.entrypoint or ""
    change = Change(dict(texts), f"add rule {describe(rule)}", (entry,), rules=True)
    routes = change.get(("routing", "routes")) or []
    if any(_canonical(route) == _canonical(rule) for route in routes):
        raise CannotChange(f"this rule is there already: {describe(rule)}")
    if at is not None and not 0 <= at <= len(routes):
        raise CannotChange(f"at={at}: there are {len(routes)} rules, counted from 0")
    change.append(("routing", "routes"), rule, _before_default(change) if at is None else at)
    return change


def remove_rule(texts: edit.Texts, network: Network, number: int, match: Mapping[str, Any] | None = None) -> Change:
    """Rule `number` goes, counted from 0 as `list` shows them; with `match` only if it says that; or CannotChange."""
    change = Change(dict(texts), "", (network.description.entrypoint or "",), rules=True)
    routes = change.get(("routing", "routes")) or []
    if not 0 <= number < len(routes):
        raise CannotChange(f"there is no rule {number}: there are {len(routes)}, counted from 0")
    rule = _canonical(routes[number])
    for key, value in _canonical(_given(match or {})).items():
        if rule.get(key) != value:
            raise CannotChange(f"rule {number} is {describe(routes[number])}: its {key} is not {value}")
    change.subject = f"remove rule {describe(routes[number])}"
    change.drop(("routing", "routes", number))
    return change


def describe(route: Mapping[str, Any]) -> str:
    """A rule in a few words: `country GB -> wg_uk`."""
    kinds = {SAME.get(key, key): value for key, value in route.items()}
    told = [f"{kind} {_listed(kinds[kind])}" for kind in KINDS if kind in kinds]
    return f"{', '.join(told) or 'everything'} -> {route.get('interface') or 'TTL only'}"


def free_subnets(network: Network) -> list[str]:
    """The next subnets after those of the tunnels, of the same size, one per family in use; clear of all declared."""
    tunnels = network.description.tunnels.values()
    used = [ipaddress.ip_network(subnet) for tunnel in tunnels for subnet in tunnel.subnet]
    declared = [ipaddress.ip_network(prefix) for prefix in (*network.mesh4, *network.mesh6)]
    declared.append(ipaddress.ip_network(network.description.firezone.fz_mgmt_subnet))
    found = []
    for version, first in ((4, "10.9.20.0/24"), (6, None)):
        mine = [n for n in used if n.version == version]
        if not mine and (first is None or used):
            continue
        size = max((n.prefixlen for n in mine), default=24)
        starts = sorted({int(n.network_address) for n in mine})
        last = starts[-1] if starts else None
        # people number tunnels by one digit group: the distance of the last two goes on
        step = starts[-1] - starts[-2] if len(starts) > 1 else 1 << ((32 if version == 4 else 128) - size)
        start = last + step if last is not None else int(ipaddress.ip_network(str(first)).network_address)
        while True:
            try:
                candidate: Any = ipaddress.ip_network((_bytes(start, version), size), strict=False)
            except (OverflowError, ValueError):
                candidate = None
            if candidate is None or not candidate.is_private:
                raise CannotChange(f"no private IPv{version} subnet is free behind the tunnels': name one with subnet=")
            if not any(candidate.version == n.version and candidate.overlaps(n) for n in declared):
                break
            start += step
        found.append(str(candidate))
    return found


def _entry_port(network: Network) -> int:
    """A free port of the entrypoint within its reserved range: one that needs no recreated gateway."""
    d = network.description
    taken = {end.expose.port for t in d.tunnels.values() for h, end in t.hosts.items()
             if h == d.entrypoint and end.expose}  # fmt: skip
    low, high = d.port_range or (FIRST_PORT, 65535)
    found = next((port for port in range(low, high + 1) if port not in taken), None)
    if found is None:
        raise CannotChange(f"every port of {low}-{high} is taken on {d.entrypoint}: name one with port=")
    return found


def _new_tunnel(network: Network, tunnel: str) -> None:
    if tunnel in network.description.tunnels:
        hosts = ", ".join(network.description.tunnels[tunnel].hosts)
        raise CannotChange(f"tunnel {tunnel} is there already (hosts {hosts}): choose another name")


def _tunnel(network: Network, name: str) -> str:
    for tunnel in (name, interface_of(name)):
        if tunnel in network.description.tunnels:
            return tunnel
    raise CannotChange(f"there is no tunnel {name}; there are: {', '.join(network.description.tunnels) or 'none'}")


def _service(network: Network) -> str:
    """The compose service of the entrypoint's other ends."""
    d = network.description
    found = [t.hosts[d.entrypoint].compose_service for t in d.tunnels.values() if d.entrypoint in t.hosts]
    return next((service for service in found if service), "firezone")


def _endpoint(change: Change, host: str, endpoint: str) -> None:
    if change.get(("hosts", host)) is None:
        change.put(("hosts", host), {"endpoint": endpoint})
    else:
        change.put(("hosts", host, "endpoint"), endpoint)


def _rule(interface: str, match: Mapping[str, Any]) -> dict[str, Any]:
    return {"interface": interface, **_given(match)}


def _given(match: Mapping[str, Any]) -> dict[str, Any]:
    known = (*KINDS, *SAME, *OPTIONS)
    unknown = sorted(key for key in match if key not in known and key != "interface")
    if unknown:
        raise CannotChange(f"{', '.join(unknown)}: a rule has none of these; known: {', '.join((*KINDS, *OPTIONS))}")
    return {SAME.get(key, key): value for key, value in match.items() if value not in (None, [], "")}


def _canonical(route: Mapping[str, Any]) -> dict[str, Any]:
    return {SAME.get(k, k): [str(i) for i in v] if isinstance(v, list) else [str(v)] for k, v in route.items()}


def _before_default(change: Change) -> int | None:
    """The place of a default rule that stands last: people expect it to stay there."""
    routes = change.get(("routing", "routes")) or []
    last = _canonical(routes[-1]) if routes else {}
    is_default = any(net in DEFAULTS for net in last.get("net", []))
    return len(routes) - 1 if is_default else None


def _listed(value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    return ", ".join(map(str, items[:6])) + (f" and {len(items) - 6} more" if len(items) > 6 else "")


def _bytes(number: int, version: int) -> bytes:
    return number.to_bytes(4 if version == 4 else 16, "big")


def _version(prefix: str) -> int:
    return ipaddress.ip_network(prefix).version
