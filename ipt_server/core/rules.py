"""Which rule a name or an address falls under.

Knows: rules, names, addresses, the one precedence. Must not know: the kernel, DNS messages, where countries come from
(it is given their ranges).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ipt_server.core.intervals import Intervals, flatten
from ipt_server.core.names import ListedNames, NameIndex, TooManyRegexes
from ipt_server.core.private import PRIVATE
from ipt_server.settings import Exit, Refused, RuleSetting, Settings
from mrvpn import marks, precedence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
RULINGS_MAX = 10_000
Countries = Mapping[str, Mapping[int, Sequence[tuple[int, int]]]]  # code -> family -> [(first, last)]


class Ruling(NamedTuple):
    """What the domain rules say that match a name, or any name of a chain; where none does, all is empty."""

    matched: tuple[RuleSetting, ...]  # best first
    rule: RuleSetting | None  # the best that names an exit
    ipv6: bool  # whether that exit has it
    ttl: int  # the largest in seconds that answers may be handed out with: the smallest of domain_route_ttl and theirs


class RuleSet:
    """The compiled rules of one generation: look-ups by name and by address. Raises settings.Refused."""

    def __init__(
        self,
        settings: Settings,
        countries: Countries,
        intervals: Mapping[int, Intervals] | None = None,
        *,
        lists: Mapping[str, ListedNames] | None = None,
    ) -> None:
        """`intervals`: what these settings' rules of addresses came to before, in place of working it out again.

        `lists`: what the lists that rules name cover; one that is missing covers nothing.
        """
        self.settings = settings
        self.rules = settings.rules
        self.position = {rule.mark: number for number, rule in enumerate(settings.rules)}
        self.by_mark = {rule.mark: rule for rule in settings.rules}
        most = min(settings.domain_route_ttl, 2**31 - 1)
        self._largest_ttl = {rule.mark: min(most, rule.ttl or most) for rule in settings.rules}
        self._exits = {e.name: e for e in settings.exits}
        self._keys = {rule.mark: self._key(rule) for rule in settings.rules}
        self._rulings: dict[frozenset[int], Ruling] = {}
        self._names = NameIndex()
        self._compile_names(lists or {})
        self.fallback = _fallback(settings)
        self.intervals = intervals or {f: _intervals(settings, countries, f, self.fallback) for f in (4, 6)}

    def _compile_names(self, lists: Mapping[str, ListedNames]) -> None:
        problems = []
        for rule in self.rules:
            try:
                self._names.add(rule.mark, rule.suffixes)
            except ValueError as error:
                problems.append(f"{rule.id}: {error}")
            for pattern in rule.patterns:
                self._names.add_pattern(rule.mark, pattern)
            for name in rule.lists:
                if name in lists:
                    self._names.add_listed(rule.mark, lists[name])
        try:
            self._names.finish()
        except TooManyRegexes as error:
            problems.append(str(error))
        if problems:
            raise Refused(problems)

    @property
    def asks_for_all(self) -> bool:
        """Whether some rule is no look-up, so that every name must be asked about."""
        return self._names.asks_for_all

    def suffixes(self) -> Iterable[str]:
        """Every name that, itself or as an ancestor, a look-up rule names."""
        return self._names.suffixes()

    def release(self) -> None:
        """Frees what is large, little by little; names match no more. For a thread."""
        self._names.release()

    def _key(self, rule: RuleSetting, length: int = 0) -> precedence.Key:
        return precedence.key(rule.weight, rule.kind, length, self.position[rule.mark])

    def match(self, name: str) -> tuple[RuleSetting, ...]:
        """The domain rules that match a name (lower case, no last dot), best first."""
        return self.ruling((name,)).matched

    def ruling(self, names: Sequence[str]) -> Ruling:
        """What the domain rules say of names, at least one, that are asked for together."""
        found = self._names.match(names[0])
        for name in names[1:]:
            found |= self._names.match(name)
        ruling = self._rulings.get(found)  # which rules match together is one of few sets
        if ruling is None:
            if len(self._rulings) >= RULINGS_MAX:
                self._rulings.clear()
            ruling = self._rulings[found] = self._rule(found)
        return ruling

    def _rule(self, found: frozenset[int]) -> Ruling:
        matched = tuple(sorted((self.by_mark[mark] for mark in found), key=lambda rule: self._keys[rule.mark]))
        rule = next((rule for rule in matched if rule.exit is not None), None)
        ipv6 = rule is None or self.exit_of(rule.mark).ipv6
        return Ruling(matched, rule, ipv6, min((self._largest_ttl[mark] for mark in found), default=0))

    def covering(self, address: Address) -> int:
        """The rule mark that the maps give an address; DEFAULT_RULE where none covers it."""
        mark = self.intervals[address.version].mark_of(int(address))
        return marks.DEFAULT_RULE if mark is None else mark

    def beats(self, rule: RuleSetting, address: Address) -> bool:
        """Whether a domain rule wins over what covers the address."""
        covering = self.by_mark.get(self.covering(address), self.fallback)
        if covering is None:
            return True
        length = 0
        if covering.prefixes:
            length = max(
                (n.prefixlen for n in map(ipaddress.ip_network, covering.prefixes) if _in(address, n)), default=0
            )
        return self._keys[rule.mark] < (self._key(covering, length) if length else self._keys[covering.mark])

    def exit_of(self, mark: int) -> Exit:
        """The exit that a rule mark leads to; what names none goes by the default."""
        rule = self.by_mark.get(mark, self.fallback)
        return self._exits[rule.exit] if rule and rule.exit else self.settings.exits[0]


def _in(address: Address, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return address.version == network.version and address in network


def _public(whole: tuple[int, int], family: int) -> list[tuple[int, int]]:
    """A range without the private destinations of its family."""
    found = [whole]
    for network in map(ipaddress.ip_network, PRIVATE[family]):
        low, high = int(network.network_address), int(network.broadcast_address)
        found = [
            part
            for first, last in found
            for part in ((first, min(last, low - 1)), (max(first, high + 1), last))
            if part[0] <= part[1]
        ]
    return found


def _fallback(settings: Settings) -> RuleSetting | None:
    """The rule for all that nothing else covers: a whole default that every other rule of addresses beats.

    It stands behind DEFAULT_RULE instead of filling every gap of the interval maps. A rule with a longer prefix beside
    its whole ones does not qualify: that prefix may win over another rule's.
    """
    layers = [
        (precedence.key(rule.weight, rule.kind, 0, number), rule)
        for number, rule in enumerate(settings.rules)
        if rule.exit is not None and (rule.countries or rule.prefixes)
    ]
    if not layers:
        return None
    _, last = max(layers, key=lambda layer: layer[0])
    return last if last.kind == "default" and {"0.0.0.0/0", "::/0"} == set(last.prefixes) else None


def _intervals(settings: Settings, countries: Countries, family: int, fallback: RuleSetting | None) -> Intervals:
    """Disjoint intervals of rule marks for one family: prefixes and countries, by the one precedence."""
    layers: list[tuple[precedence.Key, int, Sequence[tuple[int, int]]]] = []
    for number, rule in enumerate(settings.rules):
        if rule.exit is None or rule is fallback:
            continue
        for country in rule.countries:
            ranges = countries.get(country, {}).get(family, ())
            layers.append((precedence.key(rule.weight, rule.kind, 0, number), rule.mark, ranges))
        for prefix in rule.prefixes:
            network = ipaddress.ip_network(prefix)
            if network.version == family:
                ranges = [(int(network.network_address), int(network.broadcast_address))]
                if rule.kind == "default":
                    ranges = _public(ranges[0], family)  # a default names no private destination
                key = precedence.key(rule.weight, rule.kind, network.prefixlen, number)
                layers.append((key, rule.mark, ranges))
    return Intervals.of(family, flatten(layers))
