"""A DNS answer and the rules -> what must be in the kernel before the client sees it, and what the client may see.

Knows: names, records, rules. Must not know: datagrams, sockets, clocks, the kernel.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import NamedTuple

from ipt_server.core.learned import Learned
from ipt_server.core.rules import Address, RuleSet
from ipt_server.settings import RuleSetting

A, CNAME, PTR, AAAA, DNAME, SVCB, HTTPS = 1, 5, 12, 28, 39, 64, 65


class Answer(NamedTuple):
    """What the hook tells of an answer: what is asked of its records together, since a client waits for it."""

    nonce: str
    client: str
    names: tuple[str, ...]  # the one asked for, then those of its chain in their order; lower case, no last dot
    ttl: int = 0  # the largest of its records', in seconds
    addresses: tuple[Address, ...] = ()  # of A and AAAA; the one that a PTR was asked about
    hints: tuple[Address, ...] = ()  # addresses that SVCB and HTTPS name
    targets: tuple[str, ...] = ()  # names that SVCB and HTTPS lead to, other than their own


class Lesson(NamedTuple):
    """An address to learn under a rule, for an answer whose TTL is `ttl` seconds, by the name that matched."""

    address: Address
    rule: RuleSetting
    ttl: int
    name: str


class Judgement(NamedTuple):
    """What must be in the kernel first, targets that inherit a rule, what changes in the answer."""

    lessons: tuple[Lesson, ...] = ()
    inherit: tuple[tuple[str, str], ...] = ()  # (target, the name whose rule it inherits)
    ttl: int = 0  # the most that its records may have, where one has more; else 0: the hook need not look at them
    no_ipv6: bool = False
    no_hints: bool = False


def judge(
    answer: Answer,
    rules: RuleSet,
    inherited: Mapping[str, str],
    own: frozenset[Address],
    learned: Learned | None = None,
    now: float = 0,
) -> Judgement:
    """What an answer calls for. The rule is matched against the name asked for and every name of its chain.

    `inherited`: targets of HTTPS records that were answered before, each with the name whose rule it inherits.
    `learned`: what was learned under these rules, by `now`: of an address that has its mark for long enough there is no
    lesson.
    """
    names = answer.names
    if inherited:
        names += tuple([inherited[name] for name in names if name in inherited])
    ruling = rules.ruling(names)
    rule, ipv6, ttl, carried = ruling.rule, ruling.ipv6, ruling.ttl, answer.ttl
    if ttl < carried:
        carried = ttl or carried
    else:
        ttl = 0
    if rule is None:
        return Judgement(ttl=ttl)
    mark = rule.mark
    strip = bool(answer.hints) and rules.settings.hints == "strip"
    entries, enough = (learned.entries, learned.enough(carried, now)) if learned is not None else ({}, 0)
    new, no_ipv6 = [], False
    for address in answer.addresses if strip or not answer.hints else answer.addresses + answer.hints:
        if not ipv6 and address.version == 6:
            no_ipv6 = True
            continue
        entry = entries.get(address)
        if entry is not None and entry.mark == mark and entry.expiry >= enough:
            continue
        if teachable(address, own) and rules.beats(rule, address):
            new.append(address)
    if not new and not answer.targets:
        return Judgement((), (), ttl, no_ipv6, strip)
    source = names[0] if len(names) == 1 else next(name for name in names if rule in rules.match(name))
    lessons = tuple([Lesson(address, rule, carried, source) for address in new])
    return Judgement(lessons, tuple([(target, source) for target in answer.targets]), ttl, no_ipv6, strip)


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
