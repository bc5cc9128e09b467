"""Two lists of rules, compared by what they match.

Knows: rules. Must not know: hosts, addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mrvpn.topology.rules import Rule

Match = tuple[str, str]  # field, value


@dataclass(frozen=True)
class RuleChanges:
    """Matches that come, go, change their exit, or change something else (weight, TTL, ...) as [old, new]."""

    added: tuple[tuple[Match, str | None], ...]
    removed: tuple[tuple[Match, str | None], ...]
    moved: tuple[tuple[Match, str | None, str | None], ...]
    changed: tuple[tuple[Match, dict[str, list[Any]]], ...]
    reordered: bool

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.moved or self.changed or self.reordered)

    def as_json(self) -> dict[str, Any]:
        """Plain lists and maps."""

        def match(m: Match) -> dict[str, Any]:
            return {"field": m[0], "value": m[1]}

        return {
            "added": [{**match(m), "exit": exit_} for m, exit_ in self.added],
            "removed": [{**match(m), "exit": exit_} for m, exit_ in self.removed],
            "moved": [{**match(m), "from": old, "to": new} for m, old, new in self.moved],
            "changed": [{**match(m), "changes": changes} for m, changes in self.changed],
            "reordered": self.reordered,
        }


def compare_rules(old: tuple[Rule, ...], new: tuple[Rule, ...]) -> RuleChanges:
    """What changes. Of two rules with one match the first stands for it: the other is its shadow."""
    before, after = _matches(old), _matches(new)
    both = [match for match in before if match in after]
    moved, changed = [], []
    for match in both:
        one, other = before[match].route, after[match].route
        if one.interface != other.interface:
            moved.append((match, one.interface, other.interface))
        differences = {
            key: [getattr(one, key), getattr(other, key)]
            for key in ("weight", "metric", "route_ttl", "live")
            if getattr(one, key) != getattr(other, key)
        }
        if differences:
            changed.append((match, differences))
    return RuleChanges(
        added=tuple((match, rule.route.interface) for match, rule in after.items() if match not in before),
        removed=tuple((match, rule.route.interface) for match, rule in before.items() if match not in after),
        moved=tuple(moved),
        changed=tuple(changed),
        reordered=both != [match for match in after if match in before],
    )


def _matches(rules: tuple[Rule, ...]) -> dict[Match, Rule]:
    found: dict[Match, Rule] = {}
    for rule in rules:
        for value in rule.values:
            found.setdefault((rule.field, value), rule)
    return found
