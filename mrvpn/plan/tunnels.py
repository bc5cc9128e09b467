"""Two views' tunnels and other parts, compared: fields, and peers by name.

Knows: the shape of a view. Must not know: networks. Secrets are compared and never shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mrvpn.views.secret import HIDDEN, Marked, masked

Difference = tuple[Any, Any]


def compare(old: Any, new: Any, path: str) -> Iterator[tuple[str, Difference]]:
    """Yields (path, (old, new)) of what differs; maps and lists of named maps are gone into, others compared whole."""
    if old == new:
        return
    old_named, new_named = _named(old), _named(new)
    if old_named is not None and new_named is not None:
        for name in sorted({*old_named, *new_named}):
            yield from compare(old_named.get(name), new_named.get(name), f"{path}[{name}]")
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from compare(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, Marked) or isinstance(new, Marked):
        # whatever the other side is: a secret that was written in plain text before is one, too
        yield path, (HIDDEN if old else None, HIDDEN if new else None)
    else:
        yield path, (masked(old), masked(new))


def _named(value: Any) -> dict[str, Any] | None:
    """A list of maps by what names each (service, name), or None where nothing does."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    names = [item.get("service", item.get("name")) for item in value]
    if None in names or len(set(names)) != len(names):
        return None
    return dict(zip(names, value, strict=True))


def compare_tunnels(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """{"added": {name: what it has}, "removed": [name], "changed": {name: {"fields", "peers"}}}; empty when none."""
    changed = {}
    for name in sorted(old.keys() & new.keys()):
        fields = {
            path: list(difference)
            for key in sorted(old[name].keys() | new[name].keys())
            if key != "peers"
            for path, difference in compare(old[name].get(key), new[name].get(key), key)
        }
        peers = _peers(old[name]["peers"], new[name]["peers"])
        if fields or peers:
            changed[name] = {"fields": fields, "peers": peers}
    found = {
        "added": {name: _outline(new[name]) for name in sorted(new.keys() - old.keys())},
        "removed": sorted(old.keys() - new.keys()),
        "changed": changed,
    }
    return {key: value for key, value in found.items() if value}


def _outline(tunnel: dict[str, Any]) -> dict[str, Any]:
    return {
        "addresses": tunnel["addresses"],
        "listen_port": tunnel["listen_port"],
        "namespace": tunnel["namespace"],
        "peers": [peer["host"] for peer in tunnel["peers"]],
    }


def _peers(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> dict[str, Any]:
    before, after = ({peer["host"]: peer for peer in peers} for peers in (old, new))
    changed = {}
    for host in sorted(before.keys() & after.keys()):
        differences = dict(compare(before[host], after[host], ""))
        if differences:
            changed[host] = {path: list(difference) for path, difference in differences.items()}
    found = {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": changed,
    }
    return {key: value for key, value in found.items() if value}
