"""The route rules, one kind of match each, and those among them that can never win.

Knows: routes and the one precedence. Must not know: addresses, marks, the daemon.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from mrvpn import patterns, precedence
from mrvpn.countries import expand
from mrvpn.schema.checks.near import network
from mrvpn.schema.model import Route
from mrvpn.schema.source import Path_, Source

Found = tuple[precedence.Key, "Rule"]
WHOLE = ("0.0.0.0/0", "::/0")
LONGEST = 72  # characters of a rule's name in the lock


@dataclass(frozen=True)
class Rule:
    """A route's match of one kind. `values` are what its kind says: countries, prefixes, patterns, suffixes, lists."""

    route: Route
    path: Path_
    position: int
    kind: precedence.Kind
    field: str  # country | domain | suffix | list | net
    values: tuple[str, ...]

    @property
    def id(self) -> str:
        """Where it stands in the description."""
        return f"routing.routes[{self.path[2]}].{self.field}"

    @property
    def name(self) -> str:
        """What it says, wherever it stands: the same rule has the same name after others were added."""
        match = "default" if self.kind == "default" else self.field
        text = f"{self.route.interface or '-'} {match} {' '.join(self.values)}"
        if len(text) <= LONGEST:
            return text
        return f"{text[: LONGEST - 10]}.. {hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def key(self, length: int = 0) -> precedence.Key:
        """Its place in the one order, for a match of a prefix of this length."""
        return precedence.key(self.route.weight, self.kind, length, self.position)


def flatten(routes: tuple[Route, ...]) -> tuple[Rule, ...]:
    """The rules of all routes, in the order of the file."""
    found: list[Rule] = []
    for number, route in enumerate(routes):
        for field in ("country", "domain", "suffix", "list", "net"):
            values: tuple[str, ...] = getattr(route, field)
            for kind, part in _kinds(field, values) if values else ():
                path: Path_ = ("routing", "routes", number, field)
                found.append(Rule(route, path, len(found), kind, field, part))
    return tuple(found)


def _kinds(field: str, values: tuple[str, ...]) -> list[tuple[precedence.Kind, tuple[str, ...]]]:
    """A net match splits into prefixes and defaults, which rank differently."""
    if field == "country":
        return [("country", expand(values))]
    if field == "suffix":
        return [("domain", tuple(value.strip().strip(".").lower() for value in values))]
    if field != "net":
        return [("domain", values)]
    split: dict[precedence.Kind, list[str]] = {}
    for prefix in values:
        split.setdefault(precedence.kind_of_prefix(network(prefix).prefixlen), []).append(prefix)
    found: list[tuple[precedence.Kind, tuple[str, ...]]] = []
    for kind, prefixes in sorted(split.items(), reverse=True):
        if kind == "default":
            # a default of one family covers both
            for version, whole in zip((4, 6), WHOLE, strict=True):
                if not any(network(p).version == version for p in prefixes):
                    prefixes.append(whole)
        found.append((kind, tuple(prefixes)))
    return found


def check(source: Source, rules: tuple[Rule, ...]) -> None:
    """Warns of each rule all of whose matches another one takes first."""
    index = _Index(rules)
    for rule in rules:
        if rule.route.interface is None:
            continue
        winners = [index.before(rule, unit) for unit in _units(rule)]
        if winners and all(winners):
            named = sorted({winner.id for winner in winners if winner})
            message = (
                f"can never win: {' and '.join(named[:3])} {'take' if len(named) > 1 else 'takes'} all of it first"
            )
            source.problem(rule.path, message, "never-wins", warning=True)


Unit = tuple[str, str]  # what a value is, and its text: ("country", "GB"), ("below", "ru"), ("prefix", "10.0.0.0/8")


def _units(rule: Rule) -> Iterator[Unit]:
    """The separate matches of a rule."""
    for value in rule.values:
        if rule.field in ("country", "list"):
            yield rule.field, value
        elif rule.field == "net":
            yield "prefix", value
        elif rule.field == "suffix":
            yield "itself", value
            yield "below", value
        else:
            shape = patterns.compile_pattern(value)
            if shape.regex is not None:
                yield "regex", value
            if shape.itself:
                yield "itself", shape.name or ""
            if shape.below:
                yield "below", shape.name or ""


class _Index:
    """The best rule for each unit, and whole defaults, which cover everything."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._best: dict[Unit, Found] = {}
        self._whole: Found | None = None
        lengths: dict[int, set[int]] = defaultdict(set)
        for rule in rules:
            if rule.route.interface is None:
                continue
            for unit in _units(rule):
                length = network(unit[1]).prefixlen if unit[0] == "prefix" else 0
                if unit[0] == "prefix":
                    lengths[network(unit[1]).version].add(length)
                found = (rule.key(length), rule)
                if unit not in self._best or found[0] < self._best[unit][0]:
                    self._best[unit] = found
            if set(WHOLE) <= set(rule.values) and (self._whole is None or rule.key() < self._whole[0]):
                self._whole = (rule.key(), rule)
        self._lengths = {version: sorted(found) for version, found in lengths.items()}

    def before(self, rule: Rule, unit: Unit) -> Rule | None:
        """Another rule that takes all of a unit of this one, or None."""
        key = rule.key(network(unit[1]).prefixlen if unit[0] == "prefix" else 0)
        for found in (self._whole, *(self._best.get(other) for other in self._covering(unit))):
            if found is not None and found[0] < key and found[1] is not rule:
                return found[1]
        return None

    def _covering(self, unit: Unit) -> Iterator[Unit]:
        kind, text = unit
        yield unit
        if kind in ("itself", "below"):
            while "." in text:
                text = text.partition(".")[2]
                yield "below", text
        elif kind == "prefix":
            inner = network(text)
            for length in self._lengths.get(inner.version, ()):
                if length < inner.prefixlen:
                    yield "prefix", str(inner.supernet(new_prefix=length))
