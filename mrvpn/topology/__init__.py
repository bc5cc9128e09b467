"""What follows from a checked description: addresses, peers, marks, tables. Pure and deterministic.

Knows: the typed description and its lock. Must not know: YAML, Salt, what a host's files look like (views).
"""

from __future__ import annotations

import bisect
import functools
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mrvpn.schema.checks import GATEWAY_INTERFACE, GATEWAY_SERVICE
from mrvpn.schema.checks.gateway import gateway_address
from mrvpn.schema.checks.near import IPNetwork, inside
from mrvpn.schema.checks.near import network as parsed
from mrvpn.schema.model import Description
from mrvpn.topology import assign
from mrvpn.topology.assign import Exit
from mrvpn.topology.lock import Lock, LockedExit
from mrvpn.topology.rules import Rule, flatten

MULTICAST4 = "224.0.0.0/4"  # OSPFv2's groups; RouterOS takes it as one prefix
MULTICAST6 = "ff02::/16"


@dataclass(frozen=True)
class Network:
    """A description with what was assigned. Addresses are text; prefixes canonical."""

    description: Description
    hosts: tuple[str, ...]  # every host, in the order in which the tunnels name them; the entrypoint in any case
    ends: dict[str, tuple[str, ...]]  # host -> the tunnels it has an end of, sorted
    addresses: dict[str, dict[str, tuple[str, ...]]]  # tunnel -> host -> "ip/length" per family
    link_local: dict[str, dict[str, str]]  # tunnels with IPv6: tunnel -> host -> fe80::n/64
    exits: tuple[Exit, ...]
    rules: tuple[Rule, ...]
    rule_numbers: tuple[int, ...]  # of each rule, the r of its mark
    spaces: dict[str, dict[str, list[str]]]  # host -> namespace that speaks OSPF -> its tunnels
    router_ids: dict[str, dict[str, str]]  # host -> namespace -> router id
    mesh4: tuple[str, ...]
    mesh6: tuple[str, ...]
    # what views derive from this network alone, kept for the next one that asks
    memo: dict[tuple[str, ...], Any] = field(default_factory=dict, compare=False, repr=False)

    def behind(self, tunnel: str, host: str) -> list[str]:
        """What is declared behind a host as its peers in a tunnel see it: its `lan` and its allowed_nets but defaults
        and multicast; for the entrypoint the clients' prefixes."""
        options = self.description.hosts.get(host)
        found = list(options.lan) if options else []
        found += [p for p in self.description.tunnels[tunnel].hosts[host].allowed_nets if is_declared(p)]
        if host == self.description.entrypoint:
            found += client_subnets(self.description)
        return found

    @functools.cached_property
    def _ranges(self) -> dict[int, list[tuple[int, int]]]:
        """First and last address of each mesh prefix, by family; sorted and disjoint as the mesh is."""
        return {
            version: [(int(n.network_address), int(n.broadcast_address)) for n in map(parsed, mesh)]
            for version, mesh in ((4, self.mesh4), (6, self.mesh6))
        }

    def mesh_without(self, prefixes: Iterable[str], version: int) -> list[str]:
        """The declared mesh of a family but for some prefixes, sorted."""
        left = {4: self.mesh4, 6: self.mesh6}[version]
        ranges = self._ranges[version]
        pieces: dict[int, list[IPNetwork]] = {}  # place in the mesh -> what is left of it
        for own in (n for n in map(parsed, prefixes) if n.version == version):
            first = bisect.bisect_left(ranges, int(own.network_address), key=lambda r: r[1])
            last = bisect.bisect_right(ranges, int(own.broadcast_address), key=lambda r: r[0])
            for place in range(first, last):
                rest = pieces.setdefault(place, [parsed(left[place])])
                pieces[place] = [piece for whole in rest for piece in exclude(whole, own)]
        found: list[str] = []
        at = 0
        for place in sorted(pieces):
            found += [*left[at:place], *map(str, sorted(pieces[place]))]
            at = place + 1
        return [*found, *left[at:]]


def exclude(whole: IPNetwork, part: IPNetwork) -> list[IPNetwork]:
    """What is left of a prefix without another one."""
    if inside(whole, part):
        return []
    return list(whole.address_exclude(part)) if inside(part, whole) else [whole]  # type: ignore[arg-type]


def is_declared(prefix: str) -> bool:
    """Whether an allowed prefix names part of the mesh: neither a default nor multicast."""
    network = parsed(prefix)
    return network.prefixlen >= 8 and not network.is_multicast


def client_subnets(d: Description) -> list[str]:
    """The gateway's client prefixes, IPv4 first."""
    return [p for p in (d.firezone.fz_client_subnet, d.firezone.fz_client_subnet6) if p]


def gateway_addresses(d: Description) -> list[str]:
    """The gateway's own "ip/length" in each of the clients' prefixes: the one described, else the first."""
    return [f"{gateway_address(d, prefix)}/{prefix.rpartition('/')[2]}" for prefix in client_subnets(d)]


def collapse(prefixes: Iterable[str], version: int) -> tuple[str, ...]:
    """The prefixes of one family, overlaps and neighbours merged, sorted."""
    networks = [n for n in map(parsed, prefixes) if n.version == version]
    return tuple(str(n) for n in ipaddress.collapse_addresses(networks))  # type: ignore[type-var]


def namespace(d: Description, tunnel: str, host: str) -> str:
    """Where a host's end of a tunnel lives: a compose service, "host" (it has a LAN), or "own"."""
    end = d.tunnels[tunnel].hosts[host]
    options = d.hosts.get(host)
    return end.compose_service or ("host" if options and options.lan else "own")


def build(d: Description, lock: Lock | None = None) -> Network:
    """Assigns everything that the description leaves open."""
    lock = lock or Lock()
    mesh: list[str] = list(client_subnets(d))
    for options in d.hosts.values():
        mesh += options.lan
    addresses: dict[str, dict[str, tuple[str, ...]]] = {}
    link_local: dict[str, dict[str, str]] = {}
    ends: dict[str, list[str]] = {}
    for name, tunnel in d.tunnels.items():
        mesh += tunnel.subnet
        addresses[name] = assign.addresses(name, tunnel, lock)
        found = assign.link_local(addresses[name])
        if found:
            link_local[name] = found
        for host, end in tunnel.hosts.items():
            ends.setdefault(host, []).append(name)
            mesh += [p for p in end.allowed_nets if is_declared(p)]
    if d.entrypoint:  # a gateway without a tunnel is a network, too
        ends.setdefault(d.entrypoint, [])
    spaces: dict[str, dict[str, list[str]]] = {}
    for host, names in ends.items():
        for name in sorted(names):
            space = namespace(d, name, host)
            spaces.setdefault(host, {}).setdefault(name if space == "own" else space, []).append(name)
    rules = flatten(d.routing.routes)
    return Network(
        description=d,
        hosts=tuple(ends),
        ends={host: tuple(sorted(names)) for host, names in ends.items()},
        addresses=addresses,
        link_local=link_local,
        exits=assign.exits(d, lock),
        rules=rules,
        rule_numbers=assign.rule_numbers(rules, lock),
        spaces=spaces,
        router_ids=assign.router_ids(spaces, addresses, lock),
        mesh4=collapse(mesh, 4),
        mesh6=collapse(mesh, 6),
    )


def lock_of(network: Network, old: Lock | None = None) -> Lock:
    """The lock that pins a network as it is; what `old` holds beside stays in it."""
    old = old or Lock()
    d = network.description
    addresses = {name: dict(hosts) for name, hosts in old.addresses.items()}
    ports = {name: dict(hosts) for name, hosts in old.ports.items()}
    for name, hosts in network.addresses.items():
        for host, texts in hosts.items():
            addresses.setdefault(name, {})[host] = tuple(text.split("/")[0] for text in texts)
            expose = d.tunnels[name].hosts[host].expose
            if expose:
                ports.setdefault(name, {})[host] = expose.port
    names = assign.unique([rule.name for rule in network.rules])
    ids = {host: dict(spaces) for host, spaces in old.router_ids.items()}
    for host, spaces in network.router_ids.items():
        ids.setdefault(host, {}).update(spaces)
    return Lock(
        addresses=addresses,
        ports=ports,
        exits={**old.exits, **{e.name: LockedExit(mark=e.mark, table=e.table) for e in network.exits}},
        rules={**old.rules, **dict(zip(names, network.rule_numbers, strict=True))},
        router_ids=ids,
    )


__all__ = [
    "GATEWAY_INTERFACE",
    "GATEWAY_SERVICE",
    "Exit",
    "Lock",
    "Network",
    "Rule",
    "build",
    "client_subnets",
    "collapse",
    "gateway_addresses",
    "is_declared",
    "lock_of",
    "namespace",
]
