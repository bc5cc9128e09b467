"""ip rules and the exits' tables: what should be there, what is, and the commands between.

Knows: ip(8). Must not know: nftables, countries, names. A table only ever holds its own exit's interface and
`unreachable`: failover changes `exit_of`, never a route.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from ipt_server.kernel import KernelProblem
from ipt_server.settings import Settings
from mrvpn import marks

FIRST_PREFERENCE = 100
LAST_PREFERENCE = 9999  # ours: 100 to 9999; the kernel's own are 0, 32766, 32767
UNREACHABLE_METRIC = 9999


class RouteProblem(KernelProblem):
    """ip refused a command; the text is its own line."""


def _ip(family: int, *argv: str, batch: str | None = None) -> str:
    command = ["ip", f"-{family}", *argv]
    done = subprocess.run(command, input=batch, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RouteProblem(f"{' '.join(command)}: {(done.stderr.strip() or 'failed').splitlines()[0]}")
    return done.stdout


def _table(family: int, table: int) -> list[dict[str, Any]]:
    """The routes of a table; one that never had a route does not exist yet."""
    try:
        found: list[dict[str, Any]] = json.loads(_ip(family, "-json", "route", "show", "table", str(table)) or "[]")
    except RouteProblem as problem:
        if "does not exist" in str(problem):
            return []
        raise
    return found


def wanted_rules(s: Settings) -> list[str]:
    """The arguments of `ip rule add` in order of preference: connected and mesh first, then each exit's table."""
    mask = f"{marks.MASK:#x}"
    rules = [
        # what is connected or came by OSPF is never overruled; the main table's default is for the marks to choose
        "lookup main suppress_prefixlength 0",
        # declared mesh that has no route right now goes nowhere, not to an exit
        f"fwmark {marks.MESH:#x}/{mask} type unreachable",
    ]
    for e in s.exits:
        rules.append(f"fwmark {e.mark:#x}/{mask} lookup {e.table}")
    return [f"pref {FIRST_PREFERENCE + 10 * n} {rule}" for n, rule in enumerate(rules)]


def _rule_text(rule: dict[str, Any]) -> str:
    text = f"pref {rule['priority']}"
    if "fwmark" in rule:
        text += f" fwmark {int(rule['fwmark'], 16):#x}/{int(rule.get('fwmask', '0xffffffff'), 16):#x}"
    if rule.get("action") == "unreachable":
        return text + " type unreachable"
    table = rule.get("table", "main")
    named = {"254": "main"} if "suppress_prefixlen" in rule else {"main": "254"}
    text += f" lookup {named.get(table, table)}"
    return text + (f" suppress_prefixlength {rule['suppress_prefixlen']}" if "suppress_prefixlen" in rule else "")


def apply_rules(s: Settings) -> int:
    """Brings the ip rules of both families to what is wanted; returns how many were added or removed."""
    changed = 0
    wanted = wanted_rules(s)
    for family in (4, 6):
        seen = json.loads(_ip(family, "-json", "rule", "show") or "[]")
        actual = [_rule_text(r) for r in seen if FIRST_PREFERENCE <= r["priority"] <= LAST_PREFERENCE]
        commands = [f"rule add {rule}" for rule in wanted if rule not in actual]
        commands += [f"rule del {rule}" for rule in actual if rule not in wanted]
        if commands:
            _ip(family, "-batch", "-", batch="\n".join(commands) + "\n")
            changed += len(commands)
    return changed


def links() -> set[str]:
    """The interfaces of the namespace that are up."""
    return {link["ifname"] for link in json.loads(_ip(4, "-json", "link", "show", "up") or "[]")}


def default_interface() -> str | None:
    """The interface of the main table's default route (IPv4 first), or None."""
    for family in (4, 6):
        for route in json.loads(_ip(family, "-json", "route", "show", "default", "table", "main") or "[]"):
            if route.get("dev"):
                return str(route["dev"])
    return None


def apply_tables(s: Settings) -> int:
    """Brings the exits' tables to their own interface and `unreachable`; returns the number of commands it took.

    An interface that is not there is waited for: its table then holds `unreachable` alone.
    """
    changed = 0
    up = links()
    for family in (4, 6):
        commands = []
        for e in s.exits:
            if e.interface is None:
                continue
            serves = (e.ipv4 if family == 4 else e.ipv6) and e.interface in up
            routes = _table(family, e.table)
            own = [r for r in routes if r.get("dev") == e.interface and r["dst"] == "default"]
            floor = [r for r in routes if r.get("type") == "unreachable" and r["dst"] == "default"]
            if not floor:
                commands.append(f"route replace unreachable default metric {UNREACHABLE_METRIC} table {e.table}")
            if serves and not own:
                commands.append(f"route replace default dev {e.interface} metric 1 table {e.table}")
            if not serves and own:
                commands.append(f"route del default dev {e.interface} table {e.table}")
            for r in routes:
                if r not in own and r not in floor:
                    commands.append(f"route del {r.get('type', '')} {r['dst']} table {e.table}".replace("  ", " "))
        if commands:
            _ip(family, "-batch", "-", batch="\n".join(commands) + "\n")
            changed += len(commands)
    return changed
