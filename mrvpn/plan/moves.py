"""Which addresses leave by another exit than before: countries, and with a country database prefix by prefix.

Knows: rules, the one precedence, ranges of countries that it is given. Must not know: the daemon. Names are told
as rules: what they resolve to nobody knows here.
"""

from __future__ import annotations

import heapq
import ipaddress
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mrvpn.schema.checks.near import network as parsed
from mrvpn.schema.model import DEFAULT_EXIT
from mrvpn.topology import Network
from mrvpn.topology.rules import WHOLE, Rule

Range = tuple[int, int]
Ranges = Mapping[str, Mapping[int, Sequence[Range]]]  # country -> family -> first and last addresses
BITS = {4: 32, 6: 128}
REST = "*"  # countries that no rule names


@dataclass(frozen=True)
class Move:
    """What goes from one exit to another; `prefixes` and `addresses` (IPv4) are None without a country database."""

    old: str
    new: str
    countries: tuple[str, ...]
    prefixes: int | None = None
    addresses: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "from": self.old,
            "to": self.new,
            "countries": list(self.countries),
            "prefixes": self.prefixes,
            "addresses": self.addresses,
        }


def moved(old: Network, new: Network, ranges: Ranges | None) -> tuple[Move, ...]:
    """Every pair of exits between which something moves, in order."""
    if old.rules == new.rules and (ranges is None or old.description.routing == new.description.routing):
        return ()
    if ranges is None:
        return _countries(old.rules, new.rules)
    return _prefixes(old.rules, new.rules, ranges)


def _countries(old: tuple[Rule, ...], new: tuple[Rule, ...]) -> tuple[Move, ...]:
    named = sorted({value for rule in (*old, *new) if rule.field == "country" for value in rule.values})
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for country in [*named, REST]:
        pair = (_exit_of(old, country), _exit_of(new, country))
        if pair[0] != pair[1]:
            found[pair].append(country)
    return tuple(Move(*pair, tuple(countries)) for pair, countries in sorted(found.items()))


def _exit_of(rules: tuple[Rule, ...], country: str) -> str:
    """Where a country goes by what is said of it as a whole."""
    fitting = [
        rule
        for rule in rules
        if rule.route.interface
        and ((rule.field == "country" and country in rule.values) or set(WHOLE) <= set(rule.values))
    ]
    best = min(fitting, key=lambda rule: rule.key(), default=None)
    return best.route.interface or DEFAULT_EXIT if best else DEFAULT_EXIT


def _prefixes(old: tuple[Rule, ...], new: tuple[Rule, ...], ranges: Ranges) -> tuple[Move, ...]:
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    countries: dict[tuple[str, str], set[str]] = defaultdict(set)
    for family in (4, 6):
        places = sorted((first, last, country) for country, f in ranges.items() for first, last in f.get(family, ()))
        at = 0
        for first, last, before, after in _both(flatten(old, ranges, family), flatten(new, ranges, family), family):
            if before == after:
                continue
            pair = (before, after)
            address = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
            counts[pair][0] += sum(1 for _ in ipaddress.summarize_address_range(address(first), address(last)))
            counts[pair][1] += last - first + 1 if family == 4 else 0
            while at < len(places) and places[at][1] < first:
                at += 1
            here = at
            while here < len(places) and places[here][0] <= last:
                countries[pair].add(places[here][2])
                here += 1
    return tuple(Move(*pair, tuple(sorted(countries[pair])), *counts[pair]) for pair in sorted(counts))


def flatten(rules: tuple[Rule, ...], ranges: Ranges, family: int) -> Iterator[tuple[int, int, str]]:
    """Disjoint ranges of a whole family in order, each with its exit: the best rule at every address."""
    layers = []
    for rule in rules:
        if rule.route.interface is None:
            continue
        for value in rule.values:
            if rule.field == "country":
                layers += [(rule.key(), a, b, rule.route.interface) for a, b in ranges.get(value, {}).get(family, ())]
            elif rule.field == "net" and (prefix := parsed(value)).version == family:
                first, last = int(prefix.network_address), int(prefix.broadcast_address)
                layers.append((rule.key(prefix.prefixlen), first, last, rule.route.interface))
    layers.sort(key=lambda layer: layer[1])
    end = (1 << BITS[family]) - 1
    open_: list[tuple[Any, int, str]] = []  # key, last, exit: the best on top
    at, number = 0, 0
    while at <= end:
        while number < len(layers) and layers[number][1] <= at:
            heapq.heappush(open_, (layers[number][0], layers[number][2], layers[number][3]))
            number += 1
        while open_ and open_[0][1] < at:
            heapq.heappop(open_)
        # the best holds until it ends, or until another begins (which may be better)
        following = layers[number][1] - 1 if number < len(layers) else end
        last = min(following, open_[0][1] if open_ else end)
        yield at, last, open_[0][2] if open_ else DEFAULT_EXIT
        at = last + 1


def _both(
    old: Iterator[tuple[int, int, str]], new: Iterator[tuple[int, int, str]], family: int
) -> Iterator[tuple[int, int, str, str]]:
    """Two partitions of a family laid over each other, pairs merged: (first, last, old exit, new exit)."""
    (_, end_old, exit_old), (_, end_new, exit_new) = next(old), next(new)
    start = 0
    while True:
        last = min(end_old, end_new)
        pair = (exit_old, exit_new)
        at_end = last == (1 << BITS[family]) - 1
        if end_old == last and not at_end:
            _, end_old, exit_old = next(old)
        if end_new == last and not at_end:
            _, end_new, exit_new = next(new)
        if at_end or (exit_old, exit_new) != pair:
            yield start, last, *pair
            start = last + 1
        if at_end:
            return


def read_ranges(path: str) -> dict[str, dict[int, list[Range]]]:
    """The ranges of every country in an mmdb file. Raises ImportError without maxminddb, ValueError for others."""
    import maxminddb

    found: dict[str, dict[int, list[Range]]] = {}
    try:
        with maxminddb.open_database(path) as reader:
            for prefix, record in reader:
                country = _country(record)
                if country is None:
                    continue
                first, last = int(prefix.network_address), int(prefix.broadcast_address)
                held = found.setdefault(country, {4: [], 6: []})[prefix.version]
                if held and held[-1][1] + 1 == first:
                    held[-1] = (held[-1][0], last)
                else:
                    held.append((first, last))
    except (maxminddb.InvalidDatabaseError, OSError) as error:
        raise ValueError(f"{path} is no country database: {error}") from error
    return found


def _country(record: Any) -> str | None:
    """The code of either record shape: MaxMind's, or a plain `country_code`."""
    if not isinstance(record, dict):
        return None
    country = record.get("country")
    code = record.get("country_code") or (country.get("iso_code") if isinstance(country, dict) else country)
    return code.upper() if isinstance(code, str) and len(code) == 2 else None
