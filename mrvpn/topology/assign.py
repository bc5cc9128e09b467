"""What the description leaves open gets its number: addresses, exits, rules, router ids.

Knows: the description and its lock. Must not know: files, views. The same input gives the same output; what the lock
holds keeps its number whatever is added; without a lock the order of the file decides, as in MRVPN2.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mrvpn import marks
from mrvpn.schema.checks.near import IPNetwork, network
from mrvpn.schema.model import DEFAULT_EXIT, Description, Tunnel
from mrvpn.topology.lock import Lock
from mrvpn.topology.rules import Rule

INTERFACE_ID = (1 << 64) - 1


@dataclass(frozen=True)
class Exit:
    """A way out of the entrypoint; `interface` None is the default gateway's."""

    name: str
    interface: str | None
    mark: int
    table: int
    ipv4: bool
    ipv6: bool


def addresses(name: str, tunnel: Tunnel, lock: Lock) -> dict[str, tuple[str, ...]]:
    """Each host's "ip/length" per family: pinned in the description, else locked, else network + its place, else the
    next free."""
    locked = lock.addresses.get(name, {})
    found: dict[str, list[str]] = {host: [] for host in tunnel.hosts}
    for subnet in map(network, tunnel.subnet):
        taken = {int(a) for text in itertools.chain(*locked.values()) if (a := _inside(text, subnet)) is not None}
        chosen: dict[str, int] = {}
        for host, end in tunnel.hosts.items():
            kept = [int(a) for text in end.address if (a := _inside(text, subnet)) is not None] or [
                int(a) for text in locked.get(host, ()) if (a := _inside(text, subnet)) is not None
            ]
            if kept:
                chosen[host] = kept[0]
        if locked:
            taken |= set(chosen.values())
        base = int(subnet.network_address)
        for place, host in enumerate(tunnel.hosts, 1):
            number = chosen.get(host)
            if number is None:
                number = base + place
                # without a lock the place decides alone, and a clash with a pinned address is a problem
                free = (base + n for n in range(1, subnet.num_addresses - 1) if base + n not in taken)
                number = next(free, number) if number in taken else number
                if locked:
                    taken.add(number)
            found[host].append(f"{_address(number, subnet.version)}/{subnet.prefixlen}")
    return {host: tuple(texts) for host, texts in found.items()}


def _inside(text: str, subnet: IPNetwork) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    address = ipaddress.ip_address(text)
    return address if address.version == subnet.version and address in subnet else None


def _address(number: int, version: int) -> str:
    return str(ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number))


def link_local(found: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """fe80::n/64 of each host that has an IPv6 address: its lower 64 bits, the host's number."""
    locals_: dict[str, str] = {}
    for place, (host, texts) in enumerate(found.items(), 1):
        for text in texts:
            if ":" in text:
                address, _, length = text.partition("/")
                host_bits = (1 << (128 - int(length))) - 1
                low = int(ipaddress.IPv6Address(address)) & host_bits & INTERFACE_ID
                locals_[host] = f"{ipaddress.IPv6Address((0xFE80 << 112) | (low or place))}/64"
    return locals_


def exits(d: Description, lock: Lock) -> tuple[Exit, ...]:
    """`_DEFAULT`, then every tunnel of the entrypoint by its mark."""
    r = d.routing
    mine = [name for name, tunnel in d.tunnels.items() if d.entrypoint in tunnel.hosts]
    kept = {name: (e.mark, e.table) for name, e in lock.exits.items()}
    free = _free_numbers(r.pbr_mark, r.table, kept.values())
    mark, table = kept.get(DEFAULT_EXIT, (marks.exit_mark(r.pbr_mark, 0), marks.exit_table(r.table, 0)))
    found = [Exit(DEFAULT_EXIT, None, mark, table, True, True)]
    for name in mine:
        mark, table = kept[name] if name in kept else next(free)
        found.append(Exit(name, name, mark, table, *_families(d, name)))
    return (found[0], *sorted(found[1:], key=lambda e: e.mark))


def _free_numbers(pbr_mark: int, table: int, taken: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    taken_marks = {mark for mark, _ in taken}
    taken_tables = {number for _, number in taken}
    for n in itertools.count(1):
        pair = (marks.exit_mark(pbr_mark, n), marks.exit_table(table, n))
        if pair[0] not in taken_marks and pair[1] not in taken_tables:
            yield pair


def _families(d: Description, name: str) -> tuple[bool, bool]:
    """Which families an exit takes: where the far ends' allowed_nets add up to a default."""
    tunnel = d.tunnels[name]
    nets = [network(p) for host, end in tunnel.hosts.items() if host != d.entrypoint for p in end.allowed_nets]
    ipv4 = any(n.prefixlen == 0 for n in ipaddress.collapse_addresses(n for n in nets if n.version == 4))
    offered = any(n.prefixlen == 0 for n in ipaddress.collapse_addresses(n for n in nets if n.version == 6))
    has6 = any(network(p).version == 6 for p in tunnel.subnet)
    wish = d.exits[name].ipv6 if name in d.exits else "auto"
    return ipv4, wish == "route" or (wish == "auto" and has6 and offered)


def rule_numbers(rules: tuple[Rule, ...], lock: Lock) -> tuple[int, ...]:
    """Each rule's number r, in the order of the rules."""
    names = unique([rule.name for rule in rules])
    taken = set(lock.rules.values())
    free = (n for n in itertools.count() if n not in taken)
    return tuple(lock.rules[name] if name in lock.rules else next(free) for name in names)


def unique(names: Iterable[str]) -> list[str]:
    """The names, the second of two equal ones with ` (2)`."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def router_ids(
    spaces: dict[str, dict[str, list[str]]], found: dict[str, dict[str, tuple[str, ...]]], lock: Lock
) -> dict[str, dict[str, str]]:
    """
    host -> namespace -> router id: locked, else the first IPv4 address there, in the file's order, that nobody has yet.

    Not by name: a tunnel added at the end of the file must not move it, for OSPF would begin anew.
    """
    kept = {
        (host, space): lock.router_ids[host][space]
        for host, names in spaces.items()
        for space in names
        if space in lock.router_ids.get(host, {})
    }
    taken = {number for by_space in lock.router_ids.values() for number in by_space.values()}
    place = {tunnel: n for n, tunnel in enumerate(found)}
    ids: dict[str, dict[str, str]] = {}
    for host, names in spaces.items():
        for space, tunnels in names.items():
            ordered = sorted(tunnels, key=place.__getitem__)
            number = kept.get((host, space)) or next(_candidates(host, space, ordered, found, taken))
            taken.add(number)
            ids.setdefault(host, {})[space] = number
    return ids


def _candidates(
    host: str, space: str, tunnels: list[str], found: dict[str, dict[str, tuple[str, ...]]], taken: set[str]
) -> Iterator[str]:
    for tunnel in tunnels:
        for text in found[tunnel][host]:
            if ":" not in text and text.split("/")[0] not in taken:
                yield text.split("/")[0]
    for n in itertools.count():  # tunnels of IPv6 alone: any 32 bits that nobody else has
        digest = hashlib.sha256(f"{host}\0{space}\0{n}".encode()).digest()
        number = str(ipaddress.IPv4Address(digest[:4]))
        if number not in taken and digest[0]:
            yield number
