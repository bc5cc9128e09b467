"""Short forms of settings for tests. Knows the shape of docs/contracts.md, 2; must not know what is tested."""

from __future__ import annotations

from typing import Any

from ipt_server.settings import Settings, parse
from mrvpn import marks

EXITS = ("_DEFAULT", "wg_uk", "wg_us", "wg_de")
KINDS = {"countries": "country", "patterns": "domain", "suffixes": "domain", "prefixes": "prefix"}
FIELDS = {"countries": "country", "patterns": "domain", "suffixes": "suffix", "prefixes": "net"}


def exits(**over: dict[str, Any]) -> list[dict[str, Any]]:
    """`_DEFAULT` and three tunnels; `over` changes keys of one by its name."""
    return [
        {"name": name, "interface": name if number else None, "mark": 200 + number,
         "table": 200 + number if number else 254, **over.get(name, {})}
        for number, name in enumerate(EXITS)
    ]  # fmt: skip


def rule(number: int, exit_: str | None, *, kind: str | None = None, **match: Any) -> dict[str, Any]:
    """One rule; its kind follows from what it matches unless given."""
    field = next(name for name in KINDS if match.get(name))
    return {
        "id": f"routing.routes[{number}].{FIELDS[field]}",
        "mark": marks.rule_mark(number),
        "exit": exit_,
        "kind": kind or KINDS[field],
        **match,
    }


def raw(*rules: dict[str, Any], **over: Any) -> dict[str, Any]:
    """Settings as the file holds them."""
    return {
        "version": "0123456789abcdef",
        "ingress": ["wg-firezone"],
        "tunnels": [{"interface": name, "sources": []} for name in EXITS[1:]],
        "mesh": {"ipv4": ["10.11.0.0/24"], "ipv6": ["fd6d:7276:11::/64"]},
        "exits": exits(),
        "rules": list(rules),
        "country_database": "/nowhere.mmdb",
        "own": ["203.0.113.20", "2001:db8::20"],
        **over,
    }


def build(*rules: dict[str, Any], **over: Any) -> Settings:
    """Settings that hold these rules."""
    return parse(raw(*rules, **over))
