"""What a change of the description changes: per host, per rule, per country. Two networks in, one value out.

Knows: networks and views. Must not know: files of the description, Salt, how a plan is shown (text.py). It holds no
secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrvpn import views
from mrvpn.plan.containers import Containers, compare_containers
from mrvpn.plan.moves import Move, Ranges, moved
from mrvpn.plan.rules import RuleChanges, compare_rules
from mrvpn.plan.tunnels import Difference, compare, compare_tunnels
from mrvpn.topology import Network

# what of a view is told elsewhere, or is no change of its own
TOLD = frozenset({"version", "host", "member", "tunnels", "routing", "notices"})


@dataclass(frozen=True)
class HostPlan:
    """What changes on one host. `parts`: what else of its view changes, by key, as [old, new]."""

    host: str
    status: str  # added | removed | changed
    tunnels: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Difference] = field(default_factory=dict)
    rules: bool = False  # the daemon's settings change: reloaded in place
    containers: Containers | None = None  # None: no templates at hand, or a host without containers


@dataclass(frozen=True)
class Plan:
    """All that changes."""

    hosts: tuple[HostPlan, ...]
    rules: RuleChanges
    moves: tuple[Move, ...]

    @property
    def changed(self) -> bool:
        """Whether anything does."""
        return bool(self.hosts or self.rules or self.moves)

    def as_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "changed": self.changed,
            "hosts": {
                h.host: {
                    "status": h.status,
                    "tunnels": h.tunnels,
                    "parts": {key: list(value) for key, value in h.parts.items()},
                    "rules": h.rules,
                    "containers": h.containers.as_json() if h.containers else None,
                }
                for h in self.hosts
            },
            "rules": self.rules.as_json(),
            "moves": [move.as_json() for move in self.moves],
        }


def plan(old: Network, new: Network, *, states: Path | None = None, ranges: Ranges | None = None) -> Plan:
    """What changes from `old` to `new`.

    `states`: the folder of the templates, for what becomes of containers; `ranges`: the countries' addresses, for what
    moves prefix by prefix.
    """
    hosts = []
    for host in sorted({*old.hosts, *new.hosts}):
        found = _host(old, new, host, states)
        if found is not None:
            hosts.append(found)
    return Plan(tuple(hosts), compare_rules(old.rules, new.rules), moved(old, new, ranges))


def _view(network: Network, host: str) -> dict[str, Any]:
    # a secret's name stands for it: another name is a change, and is masked before it is shown
    return views.view(network, host, {}, views.unresolved)


def _host(old: Network, new: Network, host: str, states: Path | None) -> HostPlan | None:
    before, after = _view(old, host), _view(new, host)
    if before["version"] == after["version"]:
        return None
    status = "added" if not before["member"] else "removed" if not after["member"] else "changed"
    parts = {}
    if status == "changed":
        for key in sorted(before.keys() & after.keys() - TOLD):
            for name, difference in compare(before[key], after[key], key):
                parts[name] = difference
    settings = [[e["settings"]["version"] for e in v.get("routing") or ()] for v in (before, after)]
    return HostPlan(
        host,
        status,
        tunnels=compare_tunnels(before.get("tunnels", {}), after.get("tunnels", {})),
        parts=parts,
        rules=settings[0] != settings[1],
        containers=compare_containers(before, after, states) if states else None,
    )
