"""The nft table `inet mrvpn`: its chains and small sets as text for `nft -f`, one transaction.

Knows: nft's language, the kernel contract (docs/architecture.md). Must not know: countries, names, learned addresses:
the big maps are filled by netlink. Until `exit_of` and `pair` have elements nothing is forwarded: the table is closed
when it is new.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Mapping

from ipt_server.core.failover import exit_of
from ipt_server.core.private import PRIVATE
from ipt_server.core.rules import RuleSet
from ipt_server.settings import Settings
from mrvpn import marks

TABLE = "mrvpn"
LARGE = 20_000  # intervals; the kernel's dump of a map, which every nft command asks for, is quadratic in its size
SHARDS = 64
ONE_MAP = {4: 1, 6: 1}
_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
_KEY = {4: "ip", 6: "ip6"}
_OSPF = 89
_BFD = "{ 3784, 3785, 4784 }"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _elements(text: str) -> str:
    return f" elements = {{ {text} }};" if text else ""


def _family(prefixes: Iterable[str], family: int) -> list[str]:
    return [p for p in prefixes if ipaddress.ip_network(p, strict=False).version == family]


def tunnels(s: Settings) -> list[str]:
    """Tunnel interfaces; an interface that is ingress too is ingress."""
    return [t.interface for t in s.tunnels if t.interface not in s.ingress]


def sets(s: Settings) -> list[tuple[str, str, str]]:
    """The small sets: (name, declaration, elements); a reload replaces their elements in one transaction."""
    by_interface = {e.interface: e for e in s.exits if e.interface}
    found = [
        ("ingress", "set ingress { type ifname;", _names(s.ingress)),
        ("dns", "set dns { type ifname;", _names(name for name in s.recursor.interfaces if name in s.ingress)),
        ("tunnels", "set tunnels { type ifname;", _names(tunnels(s))),
        ("links", "set links { type ifname;", _names(dict.fromkeys([*tunnels(s), *(t.interface for t in s.tunnels)]))),
        (
            "in_mark",
            "map in_mark { type ifname : mark;",
            ", ".join(f'"{t}" : {by_interface[t].mark:#x}' for t in tunnels(s) if t in by_interface),
        ),
        (
            "hairpin",
            "set hairpin { typeof meta mark . meta iifname;",
            ", ".join(f'{e.mark:#x} . "{e.interface}"' for e in s.exits if e.interface in s.ingress),
        ),
    ]
    for family in (4, 6):
        mesh = s.mesh.ipv4 if family == 4 else s.mesh.ipv6
        kind = _TYPE[family]
        found.append(
            (f"mesh{family}", f"set mesh{family} {{ type {kind}; flags interval; auto-merge;", ", ".join(mesh))
        )
        sources = [f'"{t.interface}" . {p}' for t in s.tunnels for p in _family(t.sources, family)]
        found.append(
            (f"source{family}", f"set source{family} {{ type ifname . {kind}; flags interval;", ", ".join(sources))
        )
        own = [a for a in s.own if ipaddress.ip_address(a).version == family]
        found.append((f"own{family}", f"set own{family} {{ type {kind};", ", ".join(own)))
    return found


def shards(intervals: int) -> int:
    """Into how many maps so many intervals go: one, or SHARDS of equal size behind a map of verdicts."""
    return 1 if intervals <= LARGE else SHARDS


def geo(family: int, number: int, count: int) -> str:
    """The name of shard `number` of `count`: of the map and of the chain that looks into it."""
    return f"geo{family}" if count == 1 else f"geo{family}_{number:02}"


def table(s: Settings, counts: Mapping[int, int] = ONE_MAP) -> str:
    """The whole table, new and closed, for `nft -f -`; `counts`: shards by family."""
    lines = [f"table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    lines.append(f' comment "{structure(s, counts)}"')
    for name in COUNTERS:
        lines.append(f" counter {name} {{ }}")
    for _, declaration, elements in sets(s):
        lines.append(f" {declaration}{_elements(elements)} }}")
    for family in (4, 6):
        kind = _TYPE[family]
        for number in range(counts[family]):
            name = geo(family, number, counts[family])
            lines.append(f" map {name} {{ type {kind} : mark; flags interval; }}")
            if counts[family] > 1:
                lines.append(f" chain {name} {{ meta mark set {_KEY[family]} daddr map @{name}; }}")
        if counts[family] > 1:
            lines.append(f" map shard{family} {{ type {kind} : verdict; flags interval; }}")
        lines.append(f" map learned{family} {{ type {kind} : mark; flags timeout; size {2 * s.learned_max}; }}")
        private = ", ".join(PRIVATE[family])
        lines.append(f" set private{family} {{ type {kind}; flags interval; elements = {{ {private} }}; }}")
    lines += [
        " map exit_of { type mark : mark; }",
        " set pair { typeof meta mark . meta oifname; }",
        *_chains(s, counts),
        "}",
        "",
    ]
    return "\n".join(lines)


def structure(s: Settings, counts: Mapping[int, int] = ONE_MAP) -> str:
    """What tells one form of the table from another: a table that carries the same can be kept and only filled anew."""
    form = [*_chains(s, counts), *(declaration for _, declaration, _ in sets(s)), str(PRIVATE), str(s.learned_max)]
    return "form " + hashlib.sha256("\n".join(form).encode()).hexdigest()[:16]


COUNTERS = ("no_exit", "private", "wrong_way", "hairpinned", "input_refused", "hook_refused", "unnamed")


def _geo(family: int, count: int) -> str:
    """The rule that looks an address up in the interval maps."""
    if count == 1:
        return f"  meta mark 0 meta mark set {_KEY[family]} daddr map @geo{family}"
    return f"  meta mark 0 {_KEY[family]} daddr vmap @shard{family}"


def _chains(s: Settings, counts: Mapping[int, int]) -> list[str]:
    default = s.exits[0].mark
    hook = f"{s.hook.port}-{s.hook.port + s.hook.ports - 1}"
    return [
        # every packet of both directions carries its connection's mark; only the first one of a connection is looked up
        " chain pre { type filter hook prerouting priority mangle; policy accept;",
        "  meta mark set ct mark",
        "  meta mark != 0 return",
        "  ct direction reply return",
        "  iifname @ingress goto pick",
        "  meta mark set iifname map @in_mark",
        "  ct mark set meta mark",
        " }",
        " chain pick {",
        f"  meta l4proto {{ tcp, udp }} th dport 53 iifname @dns meta mark set {marks.MESH:#x} goto save",
        *[f"  {_KEY[f]} daddr @own{f} meta mark set {marks.MESH:#x} goto save" for f in (4, 6)],
        *[f"  {_KEY[f]} daddr @mesh{f} meta mark set {marks.MESH:#x} goto save" for f in (4, 6)],
        *[f"  meta mark set {_KEY[f]} daddr map @learned{f}" for f in (4, 6)],
        *[_geo(f, counts[f]) for f in (4, 6)],
        *[
            f"  meta mark 0 {_KEY[f]} daddr @private{f} counter name private reject with icmpx admin-prohibited"
            for f in (4, 6)
        ],
        f"  meta mark 0 meta mark set {marks.DEFAULT_RULE:#x}",
        "  meta mark set meta mark map @exit_of",
        f"  meta mark & {marks.RULE_BASE | marks.MESH:#x} != 0 counter name no_exit reject with icmpx no-route",
        f"  meta mark . meta iifname @hairpin counter name hairpinned meta mark set {default:#x}",
        "  goto save",
        " }",
        " chain save { ct mark set meta mark; }",
        # never by a wrong exit: the mark and the interface must belong together, whatever the routes say
        " chain forward { type filter hook forward priority filter; policy drop;",
        "  ct direction reply accept",
        "  iifname @ingress meta mark . oifname @pair accept",
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
        f"  iifname @dns meta l4proto {{ tcp, udp }} th dport 53 redirect to :{s.recursor.port}",
        " }",
        # what leaves by the default gateway gets its address; what stays in the mesh keeps the client's own
        " chain nat_out { type nat hook postrouting priority srcnat; policy accept;",
        f"  meta mark {default:#x} oifname != @links oifname != @ingress masquerade",
        " }",
    ]


def update(s: Settings) -> str:
    """The text that replaces the small sets' elements in one transaction, for a table that stands."""
    lines = []
    for name, declaration, elements in sets(s):
        kind = declaration.split()[0]
        lines.append(f"flush {kind} inet {TABLE} {name}")
        if elements:
            lines.append(f"add element inet {TABLE} {name} {{ {elements} }}")
    return "\n".join([*lines, ""])


def text(rules: RuleSet) -> str:
    """Everything that a generation puts into the kernel, as nft(8) would say it: for people, and for `nft -c`."""
    s = rules.settings
    counts = {family: shards(len(rules.intervals[family])) for family in (4, 6)}
    lines = [table(s, counts)]
    for family in (4, 6):
        intervals, kind = rules.intervals[family], ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
        jumps = []
        for number, (start, stop) in enumerate(cuts(len(intervals), counts[family])):
            name = geo(family, number, counts[family])
            part = intervals.part(start, stop)
            if len(part):
                lines.append(f"add element inet {TABLE} {name} {{")
                lines += [f" {kind(first)}-{kind(last)} : {mark:#x}," for first, last, mark in part]
                lines.append("}")
                jumps.append(f"{kind(intervals[start][0])}-{kind(intervals[stop - 1][1])} : jump {name}")
        if counts[family] > 1:
            lines.append(f"add element inet {TABLE} shard{family} {{ {', '.join(jumps)} }}")
    marked = ", ".join(f"{rule:#x} : {exit_:#x}" for rule, exit_ in exit_of(rules, ()))
    pairs = ", ".join(f'{e.mark:#x} . "{e.interface}"' for e in s.exits if e.interface)
    lines.append(f"add element inet {TABLE} exit_of {{ {marked} }}")
    lines += [f"add element inet {TABLE} pair {{ {pairs} }}"] if pairs else []
    return "\n".join([*lines, ""])


def cuts(count: int, shards: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each of so many shards of equal size."""
    return itertools.pairwise(number * count // shards for number in range(shards + 1))
