"""ip rules and the exits' tables: what should be there, what is, and the commands between.

Knows: ip(8), which reads every table of a family at once in 3 ms and takes all changes in one batch (docs/adr/0004).
Must not know: nftables, countries, names. A table only ever holds its own exit's interface and `unreachable`: failover
changes `exit_of`, never a route.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ipt_server.kernel import KernelProblem
from ipt_server.settings import Settings
from mrvpn import marks

FIRST_PREFERENCE = 100
LAST_PREFERENCE = 9999  # ours: 100 to 9999; the kernel's own are 0, 32766, 32767
UNREACHABLE_METRIC = 9999


class RouteProblem(KernelProblem):
    """ip refused a command; the text is its own line."""


def ip(family: int, *argv: str, batch: str | None = None) -> str:
    """The output of ip(8) for a family. Raises RouteProblem."""
    command = ["ip", f"-{family}", *argv]
    done = subprocess.run(command, input=batch, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RouteProblem(f"{' '.join(command)}: {(done.stderr.strip() or 'failed').splitlines()[0]}")
    return done.stdout


def wanted_rules(s: Settings) -> list[str]:
    """The arguments of `ip rule add` in order of preference: connected and mesh first, then each exit's table."""
    mask = f"{marks.MASK:#x}"
    exits = {e.table: f"fwmark {e.mark:#x}/{mask} lookup {e.table}" for e in s.exits}
    # the main table whole says what its two parts would say in turn, by one look-up: for most packets the only one
    direct = exits.pop(marks.MAIN_TABLE, None)
    rules = [
        *([direct] if direct else []),
        # what is connected or came by OSPF is never overruled; the main table's default is for the marks to choose
        "lookup main suppress_prefixlength 0",
        # declared mesh that has no route right now goes nowhere, not to an exit
        f"fwmark {marks.MESH:#x}/{mask} type unreachable",
        *exits.values(),
    ]
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
        seen = json.loads(ip(family, "-json", "rule", "show") or "[]")
        actual = [_rule_text(r) for r in seen if FIRST_PREFERENCE <= r["priority"] <= LAST_PREFERENCE]
        commands = [f"rule add {rule}" for rule in wanted if rule not in actual]
        commands += [f"rule del {rule}" for rule in actual if rule not in wanted]
        if commands:
            ip(family, "-batch", "-", batch="\n".join(commands) + "\n")
            changed += len(commands)
    return changed


@dataclass(frozen=True)
class Snapshot:
    """What is there: interfaces that are up, and routes by family and table."""

    links: frozenset[str]
    tables: Mapping[int, Mapping[int, list[dict[str, Any]]]]

    def default_interface(self) -> str | None:
        """The interface of the main table's default route (IPv4 first, then the smallest metric), or None."""
        for family in (4, 6):
            defaults = [r for r in self.tables[family].get(marks.MAIN_TABLE, ()) if r["dst"] == "default"]
            for route in sorted(defaults, key=lambda r: r.get("metric", 0)):
                hops = route.get("nexthops") or [route]
                if hops[0].get("dev"):
                    return str(hops[0]["dev"])
        return None

    def reaches(self, prefix: str, interface: str) -> bool:
        """Whether the main table has exactly this prefix by this interface: what OSPF told, while it tells it."""
        family = ipaddress.ip_network(prefix).version
        host = prefix.removesuffix("/32" if family == 4 else "/128")
        return any(
            r["dst"] in (prefix, host) and any(hop.get("dev") == interface for hop in r.get("nexthops") or [r])
            for r in self.tables[family].get(marks.MAIN_TABLE, ())
        )


def look() -> Snapshot:
    """What is there now: three commands however many exits there are, about 10 ms. Raises RouteProblem."""
    found = json.loads(ip(4, "-json", "link", "show", "up") or "[]")
    links = frozenset(link["ifname"] for link in found if link)  # newer versions print {} for one that is down
    tables: dict[int, dict[int, list[dict[str, Any]]]] = {4: {}, 6: {}}
    for family in (4, 6):
        for route in json.loads(ip(family, "-json", "route", "show", "table", "all") or "[]"):
            number = str(route.get("table", marks.MAIN_TABLE))
            if number.isdecimal():
                tables[family].setdefault(int(number), []).append(route)
    return Snapshot(links, tables)


def table_commands(s: Settings, seen: Snapshot, family: int) -> list[str]:
    """The `ip` commands that bring the exits' tables to their own interface and `unreachable`.

    An interface that is not there is waited for: its table then holds `unreachable` alone.
    """
    commands = []
    for e in s.exits:
        if e.interface is None:
            continue
        serves = (e.ipv4 if family == 4 else e.ipv6) and e.interface in seen.links
        routes = seen.tables[family].get(e.table, [])
        own = [r for r in routes if r.get("dev") == e.interface and r["dst"] == "default"]
        floor = [r for r in routes if r.get("type") == "unreachable" and r["dst"] == "default"]
        if not floor:
            commands.append(f"route replace unreachable default metric {UNREACHABLE_METRIC} table {e.table}")
        # what is another's goes first: ours has the same metric where a table changed hands, and would replace it
        for r in routes:
            if r not in own and r not in floor:
                # told whole: `del default` alone would take the one of the smallest metric, which is ours
                named = [f"{word} {r[word]}" for word in ("dev", "metric") if word in r]
                commands.append(" ".join(["route del", *filter(None, [r.get("type")]), r["dst"], *named,
                                          f"table {e.table}"]))  # fmt: skip
        if serves and not own:
            commands.append(f"route replace default dev {e.interface} metric 1 table {e.table}")
        if not serves and own:
            commands.append(f"route del default dev {e.interface} table {e.table}")
    return commands


def apply_tables(s: Settings, seen: Snapshot) -> int:
    """Brings the exits' tables to what is wanted; returns the number of commands it took. Raises RouteProblem."""
    changed = 0
    for family in (4, 6):
        if commands := table_commands(s, seen, family):
            ip(family, "-batch", "-", batch="\n".join(commands) + "\n")
            changed += len(commands)
    return changed
