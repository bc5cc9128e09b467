"""Which exit stands in for one that is down.

Knows: exits, their fallbacks, which of them are down. Must not know: how that was found out, the kernel.
"""

from __future__ import annotations

from collections.abc import Collection

from ipt_server.core.rules import RuleSet
from ipt_server.settings import Exit, Settings
from mrvpn import marks


def stand_in(wanted: Exit, down: Collection[str], s: Settings) -> Exit | None:
    """The exit that new connections for `wanted` take: itself, its first living fallback, or what `on_down` says.

    None: none at all, they are refused. The default exit is never down by this: it has no far end.
    """
    if wanted.name not in down:
        return wanted
    for name in wanted.fallback:
        if name not in down:
            return s.exit(name)
    return s.exits[0] if wanted.on_down == "default" else None


def exit_of(rules: RuleSet, down: Collection[str]) -> list[tuple[int, int]]:
    """The elements of the map `exit_of`: (rule mark, exit mark); a rule without a way out has none."""
    found = []
    for mark in (*(rule.mark for rule in rules.rules if rule.exit is not None), marks.DEFAULT_RULE):
        exit_ = stand_in(rules.exit_of(mark), down, rules.settings)
        if exit_ is not None:
            found.append((mark, exit_.mark))
    return found
