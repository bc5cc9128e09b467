"""Why a destination leaves as it does: the rule that decides, and every other that matched with the reason it lost.

Knows: rules, the one precedence, a learned entry. Must not know: the kernel, DNS messages, databases (the country is
given).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from ipt_server.core.learned import Address, Entry
from ipt_server.core.private import PRIVATE
from ipt_server.core.rules import RuleSet
from ipt_server.settings import RuleSetting
from mrvpn import marks, precedence
from mrvpn.countries import expand

_PRIVATE = {family: [ipaddress.ip_network(p) for p in found] for family, found in PRIVATE.items()}
_KINDS = {"domain": "a name", "prefix": "a prefix", "country": "a country", "default": "a default"}
Match = tuple[precedence.Key, RuleSetting, str]  # the key by which it competes, the rule, what of it matched


def address(destination: Address, rules: RuleSet, country: str | None, entry: Entry | None = None) -> dict[str, Any]:
    """What decides an address. `country`: where the database has it; `entry`: what was learned of it."""
    s = rules.settings
    found: dict[str, Any] = {
        "destination": str(destination), "country": country, "rule": None, "exit": None, "reason": "", "losers": [],
        "rule_mark": None, "name": entry.name if entry else None,
    }  # fmt: skip
    if str(destination) in s.own:
        return found | {"reason": "an address of the gateway itself or of an endpoint: no rule routes it"}
    mesh = [p for p in (*s.mesh.ipv4, *s.mesh.ipv6) if _inside(destination, p)]
    if mesh:
        return found | {"reason": f"declared mesh ({mesh[0]}): the main table decides"}
    matches = sorted(_matches(destination, rules, country, entry), key=lambda match: match[0])
    mark = entry.mark if entry else rules.covering(destination)
    winner = rules.by_mark.get(mark, rules.fallback)
    how = next(((key, what) for key, rule, what in matches if rule is winner), None)
    private = any(destination in network for network in _PRIVATE[destination.version])
    if private and mark == marks.DEFAULT_RULE:
        return found | {"reason": "a private destination that is neither mesh nor named by a rule: refused",
                        "losers": [loser(None, match) for match in matches if match[1].kind == "default"]}  # fmt: skip
    if entry:
        reason = f"learned: {entry.name or 'a name of an earlier life'} matches"
    else:
        reason = how[1] if how else "no rule matches: the default exit"
    winning = how[0] if how else None
    return found | {
        "rule": winner.id if winner else None,
        "exit": rules.exit_of(mark).name,
        "rule_mark": mark,
        "reason": reason,
        "losers": [loser(winning, match) for match in matches if match[1] is not winner],
    }


def name(asked: str, rules: RuleSet) -> dict[str, Any]:
    """What decides a name (lower case, no last dot), by the names that rules give."""
    matched = rules.match(asked)
    ordered: list[Match] = [
        (precedence.key(rule.weight, rule.kind, 0, rules.position[rule.mark]), rule, "the name matches")
        for rule in matched
    ]
    winner = next((match for match in ordered if match[1].exit is not None), None)
    return {
        "destination": asked,
        "country": None,
        "rule": winner[1].id if winner else None,
        "exit": winner[1].exit if winner else None,
        "reason": "the name matches" if winner else "no domain rule matches: the address decides",
        "losers": [loser(winner[0] if winner else None, match) for match in ordered if match is not winner],
    }


def _inside(destination: Address, prefix: str) -> bool:
    network = ipaddress.ip_network(prefix, strict=False)
    return destination.version == network.version and destination in network


def _matches(destination: Address, rules: RuleSet, country: str | None, entry: Entry | None) -> list[Match]:
    """Every rule that matches, each by its best match."""
    found: list[Match] = []
    for rule in rules.rules:
        position = rules.position[rule.mark]
        covering = [ipaddress.ip_network(p) for p in rule.prefixes if _inside(destination, p)]
        if covering:
            longest = max(covering, key=lambda network: network.prefixlen)
            key = precedence.key(rule.weight, rule.kind, longest.prefixlen, position)
            found.append((key, rule, f"{_KINDS[rule.kind]} of it covers the address ({longest})"))
        if country is not None and country in expand(rule.countries):
            key = precedence.key(rule.weight, rule.kind, 0, position)
            found.append((key, rule, f"its country is {country}"))
    for rule in rules.match(entry.name) if entry and entry.name else []:
        key = precedence.key(rule.weight, rule.kind, 0, rules.position[rule.mark])
        found.append((key, rule, f"its name {entry.name if entry else ''} matches"))
    return found


def loser(winning: precedence.Key | None, match: Match) -> dict[str, Any]:
    """A rule that matched and lost, and why."""
    key, rule, what = match
    return {"rule": rule.id, "exit": rule.exit, "match": what, "why": _why(winning, key, rule)}


def _why(winning: precedence.Key | None, key: precedence.Key, rule: RuleSetting) -> str:
    if rule.exit is None:
        return "it has no exit: it only sets a TTL"
    if winning is None:
        return "a default names no private destination" if rule.kind == "default" else "it is not in force"
    (weight, rank, length, place), (own_weight, own_rank, own_length, own_place) = winning, key
    kinds: Sequence[str] = [_KINDS[kind] for kind in precedence.RANK]
    if own_weight != weight:
        return f"weight {-own_weight} is less than {-weight}"
    if own_rank != rank:
        return f"{kinds[own_rank]} comes after {kinds[rank]}"
    if own_length != length:
        return f"/{-own_length} is shorter than /{-length}"
    return "it stands later in the file" if own_place > place else "it does not match as it is in force"
