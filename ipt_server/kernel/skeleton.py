"""The nft table `inet mrvpn`: its chains and small sets as text for `nft -f`, one transaction.

Knows: nft's language, the kernel contract (docs/architecture.md). Must not know: countries, names, learned addresses:
the big maps are filled by netlink. Until `exit_of` and `pair` have elements nothing is forwarded: the table is closed
when it is new.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ipt_server.core.intervals import Intervals
from ipt_server.core.learned import Learned
from ipt_server.core.private import PRIVATE
from ipt_server.settings import Settings
from mrvpn import marks

TABLE = "mrvpn"
LARGE = 20_000  # intervals; the kernel's dump of a map, which every nft command asks for, is quadratic in its size
SHARDS = 64
# Interval maps are filled while nobody looks and put in force by one element of `current`: the kernel publishes what a
# batch says of each of them one after another, some milliseconds after it says it of hash maps such as exit_of.
BUFFERS = ("a", "b")
TAG = 0x8000
# a set that knows its size is a plain hash table, which every packet feels
_FEW, _SOME = "size 2048;", "size 65535;"
Counts = Mapping[int, tuple[int, ...]]  # family -> the number of maps of each layer, the uppermost first
ONE_MAP: Counts = {4: (1,), 6: (1,)}
_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
_KEY = {4: "ip", 6: "ip6"}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Part = str | int | ipaddress.IPv4Address | ipaddress.IPv6Address | Network
_OSPF = 89
_BFD = "{ 3784, 3785, 4784 }"


def tunnels(s: Settings) -> list[str]:
    """Tunnel interfaces; an interface that is ingress too is ingress."""
    return [t.interface for t in s.tunnels if t.interface not in s.ingress]


@dataclass(frozen=True)
class Small:
    """A small set: its declaration and elements. A part of an element is an interface, a mark, an address or a prefix.

    A map's element has a mark as its last part.
    """

    declaration: str
    elements: tuple[tuple[Part, ...], ...]

    @property
    def name(self) -> str:
        return self.declaration.split()[1]

    @property
    def is_map(self) -> bool:
        return self.declaration.startswith("map ")

    def __str__(self) -> str:
        told = []
        for element in self.elements:
            words = [f'"{p}"' if isinstance(p, str) else f"{p:#x}" if isinstance(p, int) else str(p) for p in element]
            told.append(" . ".join(words[:-1]) + f" : {words[-1]}" if self.is_map else " . ".join(words))
        return ", ".join(told)


def sets(s: Settings) -> list[Small]:
    """The small sets, each with the elements that a generation gives it."""
    by_interface = {e.interface: e for e in s.exits if e.interface}
    linked = dict.fromkeys([*tunnels(s), *(t.interface for t in s.tunnels)])
    found = [
        Small(f"set ingress {{ type ifname; {_FEW}", tuple((name,) for name in s.ingress)),
        Small(f"set dns {{ type ifname; {_FEW}", tuple((name,) for name in s.recursor.interfaces if name in s.ingress)),
        Small(f"set tunnels {{ type ifname; {_FEW}", tuple((name,) for name in tunnels(s))),
        Small(f"set links {{ type ifname; {_FEW}", tuple((name,) for name in linked)),
        Small(f"map in_mark {{ type ifname : mark; {_FEW}",
              tuple((t, by_interface[t].mark) for t in tunnels(s) if t in by_interface)),
        Small(f"set hairpin {{ typeof meta mark . meta iifname; {_FEW}",
              tuple((e.mark, e.interface) for e in s.exits if e.interface in s.ingress)),
    ]  # fmt: skip
    for family in (4, 6):
        kind = _TYPE[family]
        mesh = _merged(s.mesh.ipv4 if family == 4 else s.mesh.ipv6, family)
        sources = [(t.interface, prefix) for t in s.tunnels for prefix in _merged(t.sources, family)]
        exempt = _merged(s.recursor.exempt, family)
        own = [address for address in map(ipaddress.ip_address, s.own) if address.version == family]
        found += [
            Small(f"set mesh{family} {{ type {kind}; flags interval;", tuple((prefix,) for prefix in mesh)),
            Small(f"set source{family} {{ type ifname . {kind}; flags interval;", tuple(sources)),
            Small(f"set exempt{family} {{ type {kind}; flags interval;", tuple((prefix,) for prefix in exempt)),
            Small(f"set own{family} {{ type {kind}; {_SOME}", tuple((address,) for address in dict.fromkeys(own))),
        ]
    return found


def pairs(s: Settings, default: str | None) -> list[tuple[str, int, str]]:
    """What belongs together, whatever the routes say: (client's interface, exit's mark, exit's interface)."""
    exits = [(e.mark, e.interface or default) for e in s.exits]
    return [(ingress, mark, name) for ingress in s.ingress for mark, name in exits if name]


def _merged(prefixes: Iterable[str], family: int) -> list[Network]:
    """The prefixes of one family, none inside or beside another."""
    networks = [ipaddress.ip_network(p) for p in prefixes]
    return list(ipaddress.collapse_addresses(n for n in networks if n.version == family))  # type: ignore[type-var]


def layers(intervals: Intervals) -> tuple[Intervals, ...]:
    """What the maps hold, the uppermost first: what one layer has nothing of, the next says."""
    return (intervals,) if len(intervals) <= LARGE else intervals.layers


def counts(intervals: Mapping[int, Intervals]) -> Counts:
    """Into how many maps each layer goes: one, or SHARDS of equal size behind a map of verdicts."""
    return {f: tuple(1 if len(part) <= LARGE else SHARDS for part in layers(intervals[f])) for f in (4, 6)}


@dataclass(frozen=True)
class Layer:
    """A layer of one family in one buffer. With several maps each has a chain of its name, where `shards` leads."""

    name: str
    count: int

    @property
    def shards(self) -> str:
        """The map of verdicts."""
        return f"shards_{self.name}"

    @property
    def maps(self) -> list[str]:
        """The interval maps, by address."""
        return [self.name] if self.count == 1 else [f"{self.name}{number:02}" for number in range(self.count)]


def geo(family: int, buffer: str, counts: Counts) -> list[Layer]:
    """The layers of a buffer, the uppermost first."""
    names = ("over", "geo")[-len(counts[family]) :]
    return [Layer(f"{name}{family}_{buffer}", count) for name, count in zip(names, counts[family], strict=True)]


def held(intervals: Mapping[int, Intervals], buffer: str) -> Iterator[tuple[Layer, Intervals]]:
    """Every layer of a buffer with the intervals that it holds."""
    for family in (4, 6):
        yield from zip(geo(family, buffer, counts(intervals)), layers(intervals[family]), strict=True)


def tagged(mark: int, buffer: str) -> int:
    """A rule's mark as a buffer's maps carry it: what one generation says, no other's `exit_of` may understand."""
    return mark ^ TAG if buffer == "b" else mark


def untagged(mark: int) -> int:
    """The rule's mark behind a mark that a map carries (DEFAULT_RULE is in no map)."""
    return mark & ~TAG


def table(s: Settings, counts: Counts = ONE_MAP) -> str:
    """The whole table, new and closed, for `nft -f -`."""
    lines = [f"table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    lines.append(f' comment "{structure(s, counts)}"')
    for name in COUNTERS:
        lines.append(f" counter {name} {{ }}")
    for small in sets(s):
        elements = f" elements = {{ {small} }};" if small.elements else ""
        lines.append(f" {small.declaration}{elements} }}")
    for family in (4, 6):
        kind = _TYPE[family]
        for buffer in BUFFERS:
            for layer in geo(family, buffer, counts):
                for name in layer.maps:
                    lines.append(f" map {name} {{ type {kind} : mark; flags interval; }}")
                    if layer.count > 1:
                        lines.append(f" chain {name} {{ meta mark set {_KEY[family]} daddr map @{name}; }}")
                if layer.count > 1:
                    lines.append(f" map {layer.shards} {{ type {kind} : verdict; flags interval; }}")
        learned = f"{kind} . {kind}" if s.learn_scope == "client" else kind
        lines.append(
            f" map learned{family} {{ type {learned} : mark; flags dynamic,timeout; size {2 * s.learned_max}; }}"
        )
        private = ", ".join(PRIVATE[family])
        lines.append(f" set private{family} {{ type {kind}; flags interval; elements = {{ {private} }}; }}")
    lines += [
        " map current { type nf_proto : verdict; }",
        f" map exit_of {{ type mark : mark; {_SOME} }}",
        f" set pair {{ typeof meta iif . meta mark . meta oif; {_FEW} }}",
        *_chains(s, counts),
        "}",
        "",
    ]
    return "\n".join(lines)


def structure(s: Settings, counts: Counts = ONE_MAP) -> str:
    """What tells one form of the table from another: a table that carries the same can be kept and only filled anew."""
    form = [*_chains(s, counts), *(small.declaration for small in sets(s)), str(PRIVATE), str(s.learned_max)]
    return "form " + hashlib.sha256("\n".join(form).encode()).hexdigest()[:16]


COUNTERS = ("no_exit", "private", "wrong_way", "hairpinned", "input_refused", "hook_refused", "unnamed",
            "spoofed")  # fmt: skip


def _look(buffer: str, counts: Counts) -> list[str]:
    """The chain of one buffer: the interval maps, what is private and named by no rule, else the default."""
    lines = [f" chain look_{buffer} {{"]
    for family in (4, 6):
        for number, layer in enumerate(geo(family, buffer, counts)):
            still = "meta mark 0 " if number else ""
            if layer.count == 1:
                lines.append(f"  {still}meta mark set {_KEY[family]} daddr map @{layer.name}")
            else:
                lines.append(f"  {still}{_KEY[family]} daddr vmap @{layer.shards}")
    for f in (4, 6):
        refused = f"{_KEY[f]} daddr @private{f} counter name private reject with icmpx admin-prohibited"
        lines.append(f"  meta mark 0 {refused}")
    return [*lines, f"  meta mark 0 meta mark set {tagged(marks.DEFAULT_RULE, buffer):#x}", " }"]


def _chains(s: Settings, counts: Counts) -> list[str]:
    default = s.exits[0].mark
    life = math.ceil(Learned(1, s.hook.tries, s.hook.timeout_ms).life(s.domain_route_ttl))  # no element lives longer
    renewed = (4,) if s.learn_scope == "client" else (4, 6)
    key = {f: f"{_KEY[f]} saddr . {_KEY[f]} daddr" if s.learn_scope == "client" else f"{_KEY[f]} daddr" for f in (4, 6)}
    hook = f"{s.hook.port}-{s.hook.port + s.hook.ports - 1}"
    return [
        # every packet of both directions carries its connection's mark; only the first one of a connection is looked up
        " chain pre { type filter hook prerouting priority mangle; policy accept;",
        "  meta mark set ct mark",
        "  meta mark != 0 return",
        "  ct direction reply return",
        # the kernel would walk the rules a second time for every packet (docs/adr/0018)
        '  iifname != "lo" ct state new fib saddr type local counter name spoofed drop',
        "  iifname @ingress goto pick",
        "  meta mark set iifname map @in_mark",
        "  ct mark set meta mark",
        " }",
        " chain pick {",
        # by @exempt, clients that keep their own resolver (`dns.exempt`)
        *[
            f"  {_KEY[f]} saddr != @exempt{f} meta l4proto {{ tcp, udp }} th dport 53 iifname @dns "
            f"meta mark set {marks.MESH:#x} goto save"
            for f in (4, 6)
        ],
        *[f"  {_KEY[f]} daddr @own{f} meta mark set {marks.MESH:#x} goto save" for f in (4, 6)],
        *[f"  {_KEY[f]} daddr @mesh{f} meta mark set {marks.MESH:#x} goto save" for f in (4, 6)],
        *[f"  meta mark set {key[f]} map @learned{f}" for f in (4, 6)],
        # each new connection renews its address; nft has no registers for two IPv6 addresses and a mark
        *[f"  meta mark != 0 update @learned{f} {{ {key[f]} timeout {life}s : meta mark }}" for f in renewed],
        # the buffer in force; none in a new table, which is closed
        "  meta mark 0 meta nfproto vmap @current",
        "  meta mark 0 counter name no_exit reject with icmpx no-route",
        "  meta mark set meta mark map @exit_of",
        f"  meta mark & {marks.RULE_BASE | marks.MESH:#x} != 0 counter name no_exit reject with icmpx no-route",
        f"  meta mark . meta iifname @hairpin counter name hairpinned meta mark set {default:#x}",
        "  goto save",
        " }",
        *_look("a", counts),
        *_look("b", counts),
        " chain save { ct mark set meta mark; }",
        # never by a wrong exit: the mark and the interface must belong together, whatever the routes say
        " chain forward { type filter hook forward priority filter; policy drop;",
        "  ct direction reply accept",
        # by index: names are three times as long, and every packet is looked up here (docs/adr/0021)
        "  iif . meta mark . oif @pair accept",
        f"  iifname @ingress meta mark {marks.MESH:#x} oifname @links accept",
        *[
            f"  iifname @links iifname . {_KEY[f]} saddr @source{f} {_KEY[f]} daddr @mesh{f} oifname @links accept"
            for f in (4, 6)
        ],
        *[
            f"  iifname @links iifname . {_KEY[f]} saddr @source{f} {_KEY[f]} daddr @mesh{f} oifname @ingress accept"
            for f in (4, 6)
        ],
        "  counter name wrong_way",
        " }",
        " chain input { type filter hook input priority filter; policy accept;",
        f"  iifname @links meta l4proto {_OSPF} accept",
        f"  iifname @links udp dport {_BFD} accept",
        "  iifname @links jump guarded",
        "  iifname @ingress jump guarded",
        " }",
        " chain guarded {",
        "  ct state established,related accept",
        "  meta l4proto { icmp, ipv6-icmp } accept",
        f"  iifname @dns meta l4proto {{ tcp, udp }} th dport {s.recursor.port} ct status dnat accept",
        "  counter name input_refused drop",
        " }",
        " chain output { type filter hook output priority filter; policy accept;",
        f'  oifname "lo" udp dport {hook} meta skuid != {s.recursor.uid} counter name hook_refused drop',
        " }",
        " chain dns_redirect { type nat hook prerouting priority dstnat; policy accept;",
        *[
            f"  iifname @dns {_KEY[f]} saddr != @exempt{f} meta l4proto {{ tcp, udp }} th dport 53 "
            f"redirect to :{s.recursor.port}"
            for f in (4, 6)
        ],
        " }",
        # what leaves by the default gateway gets its address; what stays in the mesh keeps the client's own
        " chain nat_out { type nat hook postrouting priority srcnat; policy accept;",
        f"  meta mark {default:#x} oifname != @links oifname != @ingress masquerade",
        " }",
    ]


def cuts(count: int, shards: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each of so many shards of equal size."""
    return itertools.pairwise(number * count // shards for number in range(shards + 1))
