"""Which rule wins, against a reference that knows nothing of intervals: every rule is asked about every address."""

from __future__ import annotations

import ipaddress
import itertools
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from ipt_build import EXITS, build, rule

from ipt_server.core.private import PRIVATE
from ipt_server.core.rules import Address, RuleSet
from ipt_server.settings import RuleSetting, Settings
from mrvpn import marks, precedence

CASES = 100_000
Ranges = dict[str, dict[int, list[tuple[int, int]]]]
PRIVATE_NETWORKS = {f: [ipaddress.ip_network(p) for p in found] for f, found in PRIVATE.items()}
TYPE = {4: ipaddress.IPv4Address, 6: ipaddress.IPv6Address}
BITS = {4: 32, 6: 128}


def reference(address: Address, s: Settings, countries: Ranges) -> RuleSetting | None:
    """The rule that the precedence names for an address, by asking all of them."""
    found: list[tuple[precedence.Key, RuleSetting]] = []
    family, number = address.version, int(address)
    private = any(address in network for network in PRIVATE_NETWORKS[family])
    for position, r in enumerate(s.rules):
        if r.exit is None:
            continue
        if any(a <= number <= b for c in r.countries for a, b in countries[c][family]):
            found.append((precedence.key(r.weight, r.kind, 0, position), r))
        for text in r.prefixes:
            network = ipaddress.ip_network(text)
            if network.version == family and address in network and not (private and r.kind == "default"):
                found.append((precedence.key(r.weight, r.kind, network.prefixlen, position), r))
    return min(found, key=lambda item: item[0])[1] if found else None


def random_world(dice: random.Random) -> Ranges:
    """Five countries whose ranges do not overlap, crowded into few addresses so that rules meet."""
    world: Ranges = {code: {4: [], 6: []} for code in ("AA", "BB", "CC", "DD", "EE")}
    for family, base, grain in ((4, 0x51000000, 1 << 8), (6, 0x2A00 << 112, 1 << 80)):
        at = base
        for _ in range(dice.randrange(5, 60)):
            at += grain * dice.choice((0, 0, 1, 7))
            size = grain * dice.choice((1, 2, 16, 300))
            world[dice.choice(sorted(world))][family].append((at, at + size - 1))
            at += size
    return world


def random_prefix(dice: random.Random, world: Ranges, kind: str) -> str:
    family = dice.choice((4, 6))
    if kind == "default":
        whole = {4: ("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "80.0.0.0/4"), 6: ("::/0", "::/1", "2000::/3")}
        return dice.choice(whole[family])
    ends = [first for ranges in world.values() for first, _ in ranges[family]] or [1 << 24]
    length = dice.choice((8, 12, 16, 20, 24, 32) if family == 4 else (16, 32, 40, 48, 64, 128))
    return str(ipaddress.ip_network((TYPE[family](dice.choice(ends)), length), strict=False))


def random_settings(dice: random.Random, world: Ranges) -> Settings:
    rules = []
    for number in range(dice.randrange(1, 12)):
        match: dict[str, Any]
        kind = dice.choice(("country", "country", "prefix", "prefix", "prefix", "default"))
        if kind == "country":
            match = {"countries": dice.sample(sorted(world), dice.randrange(1, 4))}
        else:
            match = {"prefixes": [random_prefix(dice, world, kind) for _ in range(dice.randrange(1, 4))]}
            if kind == "default" and dice.random() < 0.6:
                match["prefixes"] = ["0.0.0.0/0", "::/0", *match["prefixes"][: dice.randrange(2)]]
        weight = dice.choice((0, 0, 0, 10, -5))
        exit_ = dice.choice((*EXITS, None))
        rules.append(rule(number, exit_, kind=kind, weight=weight, **match))
    return build(*rules)


def random_addresses(dice: random.Random, s: Settings, world: Ranges, count: int) -> Iterator[Address]:
    """Addresses near the borders, where mistakes live, and some anywhere."""
    ends: dict[int, list[int]] = {4: [], 6: []}
    for ranges in world.values():
        for family in (4, 6):
            ends[family] += [end for pair in ranges[family] for end in pair]
    for network in (ipaddress.ip_network(p) for r in s.rules for p in r.prefixes):
        ends[network.version] += [int(network.network_address), int(network.broadcast_address)]
    for family in (4, 6):
        ends[family] += [int(end) for n in PRIVATE_NETWORKS[family] for end in (n[0], n[-1])]
    for _ in range(count):
        family = dice.choice((4, 6))
        number = dice.choice(ends[family]) + dice.choice((-1, 0, 1))
        if dice.random() < 0.1:
            number = dice.getrandbits(BITS[family])
        yield TYPE[family](min(max(number, 0), (1 << BITS[family]) - 1))


def test_every_address_goes_by_the_rule_that_the_precedence_names() -> None:
    dice = random.Random(20240601)
    seen = differences = 0
    exits_seen = set()
    while seen < CASES:
        world = random_world(dice)
        s = random_settings(dice, world)
        rules = RuleSet(s, world)
        for address in random_addresses(dice, s, world, 250):
            seen += 1
            right = reference(address, s, world)
            mark = rules.covering(address)
            got = rules.by_mark.get(mark, rules.fallback)
            private = any(address in n for n in PRIVATE_NETWORKS[address.version])
            if mark == marks.DEFAULT_RULE and private:
                got = None  # the kernel refuses it before it takes the default
            exits_seen.add(rules.exit_of(mark).name)
            differences += got != right
            assert got == right, (address, [r.model_dump(exclude_defaults=True) for r in s.rules], world)
    assert (differences, exits_seen) == (0, set(EXITS))


def test_intervals_are_disjoint_sorted_and_merged() -> None:
    dice = random.Random(7)
    for _ in range(60):
        world = random_world(dice)
        rules = RuleSet(random_settings(dice, world), world)
        for family in (4, 6):
            found = list(rules.intervals[family])
            assert all(first <= last for first, last, _ in found)
            for (_, last, mark), (first, _, following) in itertools.pairwise(found):
                assert last < first
                assert not (last + 1 == first and mark == following), "neighbours of one mark are one interval"


LABELS = ("a", "b", "ru", "com", "www", "x1", "not-a")
PATTERNS = (
    r".*\.ru", r"(.*\.)?a\.com", r"a\.com", r".*a.*", r"www[0-9]*\.b\.ru", r".+\.x1\.com", r"(a|b)\.ru", r"^.*\.b\.ru$",
)  # fmt: skip


def test_names_match_as_whole_names_like_a_plain_regex_does() -> None:
    dice = random.Random(3)
    cases = 0
    while cases < 20_000:
        rules = []
        for number in range(dice.randrange(1, 7)):
            weight = dice.choice((0, 0, 5))
            if dice.random() < 0.4:
                names = [".".join(dice.choices(LABELS, k=dice.randrange(1, 3))) for _ in range(2)]
                rules.append(rule(number, "wg_uk", suffixes=names, weight=weight))
            else:
                rules.append(rule(number, "wg_us", patterns=dice.sample(PATTERNS, 2), weight=weight))
        s = build(*rules)
        compiled = RuleSet(s, {})
        for _ in range(100):
            cases += 1
            name = ".".join(dice.choices(LABELS, k=dice.randrange(1, 5)))
            right = [
                r for r in s.rules
                if any(re.fullmatch(p, name) for p in r.patterns)
                or any(name == x or name.endswith("." + x) for x in r.suffixes)
            ]  # fmt: skip
            right.sort(key=lambda r: precedence.key(r.weight, r.kind, 0, s.rules.index(r)))
            assert compiled.match(name) == tuple(right), (name, rules)


def test_a_domain_rule_beats_what_covers_an_address_as_the_precedence_says() -> None:
    dice = random.Random(11)
    wins = 0
    for _ in range(150):
        world = random_world(dice)
        plain = random_settings(dice, world)
        number = len(plain.rules)
        domain = rule(number, "wg_de", suffixes=["x"], weight=dice.choice((-7, 0, 0, 20)))
        s = build(*[r.model_dump() for r in plain.rules], domain)
        rules = RuleSet(s, world)
        mine = s.rules[number]
        for address in random_addresses(dice, s, world, 40):
            other = reference(address, s, world)
            if other is None:
                continue  # nothing to beat
            right = (-mine.weight, 0) < (-other.weight, precedence.RANK[other.kind])
            wins += right
            assert rules.beats(mine, address) == right, (address, other, mine)
    assert wins


@pytest.mark.parametrize(
    ("address", "winner"),
    [
        ("198.51.100.9", 2),  # the longer prefix
        ("198.51.100.200", 1),  # a prefix before its country
        ("81.2.69.160", 0),  # the country
        ("9.9.9.9", 3),  # the rule for all the rest
        ("2001:67c::1", 0),
        ("2620::1", 3),
    ],
)
def test_the_order_in_words(address: str, winner: int) -> None:
    world: Ranges = {
        "GB": {
            4: [(0x51024500, 0x510245FF), (0xC6336400, 0xC63364FF)],
            6: [(0x2001067C << 96, (0x2001067D << 96) - 1)],
        },
    }
    s = build(
        rule(0, "wg_uk", countries=["GB"]),
        rule(1, "wg_us", prefixes=["198.51.100.0/24"]),
        rule(2, "wg_de", prefixes=["198.51.100.0/28"]),
        rule(3, "wg_us", kind="default", prefixes=["0.0.0.0/0", "::/0"]),
    )
    rules = RuleSet(s, world)
    mark = rules.covering(ipaddress.ip_address(address))
    assert rules.by_mark.get(mark, rules.fallback) == s.rules[winner]
