"""A DNS answer and the rules -> what must be in the kernel before the client sees it, and what the client may see.

Knows: names, records, rules. Must not know: datagrams, sockets, clocks, the kernel.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ipt_server.core.rules import Address, RuleSet
from ipt_server.settings import RuleSetting

A, CNAME, PTR, AAAA, DNAME, SVCB, HTTPS = 1, 5, 12, 28, 39, 64, 65
_CHAINS = (CNAME, DNAME, PTR)  # whose target is a name that was asked for, too


class Record(NamedTuple):
    """One record: type, TTL in seconds, owner (lower case, no last dot), and what it carries."""

    kind: int
    ttl: int
    owner: str
    addresses: tuple[Address, ...] = ()  # A, AAAA; address hints of SVCB and HTTPS
    target: str | None = None  # CNAME, DNAME, PTR, SVCB, HTTPS


class Answer(NamedTuple):
    """What the hook tells of an answer."""

    nonce: str
    qtype: int
    client: str
    qname: str
    records: tuple[Record, ...]


class Lesson(NamedTuple):
    """An address to learn under a rule, for an answer whose TTL is `ttl` seconds, by the name that matched."""

    address: Address
    rule: RuleSetting
    ttl: int
    name: str


class Judgement(NamedTuple):
    """What must be in the kernel first, targets that inherit a rule, what changes in the answer (ttl 0: nothing)."""

    lessons: tuple[Lesson, ...] = ()
    inherit: tuple[tuple[str, str], ...] = ()  # (target, the name whose rule it inherits)
    ttl: int = 0
    no_ipv6: bool = False
    no_hints: bool = False


def judge(
    answer: Answer,
    rules: RuleSet,
    inherited: Mapping[str, str],
    own: frozenset[Address],
    held: Callable[[Address, int, int], bool] | None = None,
) -> Judgement:
    """What an answer calls for. The rule is matched against the name asked for and every name of its chain.

    `inherited`: targets of HTTPS records that were answered before, each with the name whose rule it inherits.
    `held`: whether an address has a rule's mark by an earlier lesson under these rules, and for an answer of this TTL
    in seconds: then there is no lesson.
    """
    chain: dict[str, None] = {answer.qname: None}
    for record in answer.records:
        if record.kind != PTR:
            chain[record.owner] = None
        if record.target and record.kind in _CHAINS:
            chain[record.target] = None
    names = [*chain, *[inherited[name] for name in chain if name in inherited]] if inherited else list(chain)
    matched = rules.match(names[0]) if len(names) == 1 else rules.best(names)
    if not matched:
        return Judgement()
    ttl = rules.largest_ttl(matched)
    for routing in matched:
        if routing.exit is not None:
            break
    else:
        return Judgement(ttl=ttl)
    source = names[0] if len(names) == 1 else next(name for name in names if routing in rules.match(name))
    carried = max([record.ttl for record in answer.records], default=0)
    carried = min(carried, ttl) if ttl else carried
    mark = routing.mark
    ipv6, strip = rules.exit_of(mark).ipv6, rules.settings.hints == "strip"
    lessons, targets = [], []
    for record in answer.records:
        addresses = record.addresses
        if record.kind in (SVCB, HTTPS):
            addresses = () if strip else addresses
            if record.target:
                targets.append((record.target, source))
        elif record.kind == PTR:
            asked = reverse_address(answer.qname)
            addresses = (asked,) if asked is not None else ()
        for address in addresses:
            if not ipv6 and address.version == 6:
                continue
            if held is not None and held(address, mark, carried):
                continue
            if teachable(address, own) and rules.beats(routing, address):
                lessons.append(Lesson(address, routing, carried, source))
    return Judgement(tuple(lessons), tuple(targets), ttl, not ipv6, strip)


def teachable(address: Address, own: frozenset[Address]) -> bool:
    """Whether an answer may teach this address: public, unicast, and no address of ours."""
    return address not in own and _public(address)


# Where IANA's registries of special purposes have entries at all; the rest is public without a search through them.
_SPECIAL_4 = frozenset((0, 10, 100, 127, 169, 172, 192, 198, 203, *range(224, 256)))  # first byte
_SPECIAL_6 = frozenset((0x2001, 0x2002, 0x3FFF))  # first two bytes, of what is unicast and assigned: 2000::/3


def _public(address: Address) -> bool:
    number = int(address)
    if address.version == 4:
        if number >> 24 not in _SPECIAL_4:
            return True
    elif number >> 125 == 1 and number >> 112 not in _SPECIAL_6:
        return True
    elif address.ipv4_mapped is not None:  # no packet carries one
        return False
    return address.is_global and not address.is_multicast


def reverse_address(name: str) -> Address | None:
    """The address that a name under in-addr.arpa or ip6.arpa asks about, or None."""
    labels = name.split(".")
    try:
        if name.endswith(".in-addr.arpa") and len(labels) == 6:
            return ipaddress.IPv4Address(".".join(reversed(labels[:4])))
        if name.endswith(".ip6.arpa") and len(labels) == 34:
            digits = "".join(reversed(labels[:32]))
            return ipaddress.IPv6Address(int(digits, 16)) if len(digits) == 32 else None
    except ValueError:
        return None
    return None
