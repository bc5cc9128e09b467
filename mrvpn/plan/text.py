"""A plan as lines for people: + what comes, - what goes, ~ what changes.

Knows: plans and rich's text. Must not know: how a plan is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from mrvpn.plan import HostPlan, Plan
from mrvpn.plan.moves import REST, Move

COLOURS = {"+": "green", "-": "red", "~": "yellow"}
SHOWN = 12  # countries that a line lists


def lines(plan: Plan) -> Iterator[Text]:
    """The plan line by line."""
    if not plan.changed:
        yield Text("nothing changes")
        return
    for host in plan.hosts:
        yield from _host(host)
    yield from _rules(plan)
    if plan.moves:
        yield Text("traffic that moves", "bold")
        for move in plan.moves:
            yield _line("~", f"{_moved(move)}: {move.old} -> {move.new}", 1)


def _line(sign: str, text: str, depth: int) -> Text:
    return Text("  " * depth) + Text(f"{sign} ", COLOURS[sign]) + Text(text)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    return str(value)


def _difference(name: str, old: Any, new: Any) -> str:
    if isinstance(old, list) and isinstance(new, list) and all(isinstance(v, (str, int)) for v in (*old, *new)):
        gone, came = [v for v in old if v not in new], [v for v in new if v not in old]
        told = [f"+{v}" for v in came] + [f"-{v}" for v in gone]
        return f"{name} {' '.join(told) or 'in another order'}"
    return f"{name}: {_shown(old)} -> {_shown(new)}"


def _host(host: HostPlan) -> Iterator[Text]:
    yield Text(host.host, "bold") + Text({"added": " (new)", "removed": " (gone)", "changed": ""}[host.status])
    for name, outline in host.tunnels.get("added", {}).items():
        port = f", listens on {outline['listen_port']}" if outline["listen_port"] else ""
        told = f"{name}: {', '.join(outline['addresses'])}{port}, peers {', '.join(outline['peers'])}"
        yield _line("+", told, 1)
    for name in host.tunnels.get("removed", []):
        yield _line("-", name, 1)
    for name, change in host.tunnels.get("changed", {}).items():
        yield _line("~", name, 1)
        for path, (old, new) in change["fields"].items():
            yield _line("~", _difference(path, old, new), 2)
        peers = change["peers"]
        for peer in peers.get("added", []):
            yield _line("+", f"peer {peer}", 2)
        for peer in peers.get("removed", []):
            yield _line("-", f"peer {peer}", 2)
        for peer, differences in peers.get("changed", {}).items():
            for path, (old, new) in differences.items():
                yield _line("~", f"peer {peer}: {_difference(path, old, new)}", 2)
    for path, (old, new) in host.parts.items():
        yield _line("~", _difference(path, old, new), 1)
    if host.rules:
        yield _line("~", "route rules, reloaded in place", 1)
    if host.containers is not None:
        yield from _containers(host)


def _containers(host: HostPlan) -> Iterator[Text]:
    found = host.containers
    assert found is not None
    for sign, what, names in (
        ("+", "created", found.created),
        ("-", "removed", found.removed),
        ("-", "RECREATED", found.recreated),
        ("~", "reconfigured in place", found.reconfigured),
    ):
        if names:
            yield _line(sign, f"containers {what}: {', '.join(names)}", 1)
    if not found.recreated and host.status == "changed":
        yield Text("    no container is recreated", "dim")


def _rules(plan: Plan) -> Iterator[Text]:
    rules = plan.rules
    if not rules:
        return
    yield Text("route rules", "bold")
    for (field, value), exit_ in rules.added:
        yield _line("+", f"{field} {value} -> {exit_ or 'TTL only'}", 1)
    for (field, value), exit_ in rules.removed:
        yield _line("-", f"{field} {value} -> {exit_ or 'TTL only'}", 1)
    for (field, value), old, new in rules.moved:
        yield _line("~", f"{field} {value}: {old or 'TTL only'} -> {new or 'TTL only'}", 1)
    for (field, value), changes in rules.changed:
        for key, (old, new) in changes.items():
            yield _line("~", f"{field} {value}: {_difference(key, old, new)}", 1)
    if rules.reordered:
        yield _line("~", "rules change their order", 1)


def _moved(move: Move) -> str:
    names = ["all other countries" if c == REST else c for c in move.countries]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    told = f"{len(names)} countries ({', '.join(names[:SHOWN])}{more})" if len(names) != 1 else names[0]
    told = told if names else "addresses of no country"
    if move.prefixes is None:
        return told
    return f"{told}, {move.prefixes:,} prefixes, {move.addresses:,} IPv4 addresses"
