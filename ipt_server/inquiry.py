"""What can be asked of a running daemon: explain, status, learned, flows, flush.

Knows: how the daemon's parts are joined for people. Must not know: HTTP. Nothing here changes routing but `flush`,
which only makes the daemon forget.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipt_server.core import explain
from ipt_server.core.learned import Address, Change, ClientAddress, Entry
from ipt_server.core.learned import destination as destination_of
from ipt_server.core.rules import RuleSet
from ipt_server.geo import database
from ipt_server.kernel import bypass, inspect, routes
from ipt_server.kernel.conntrack import Conntrack
from mrvpn import patterns

if TYPE_CHECKING:
    from ipt_server.daemon import Daemon

FLOWS_SHOWN = 200


class NotAsked(Exception):
    """A question that cannot be answered as it stands; the text says what would be right."""


def parse(text: str) -> Address | str:
    """An address, or a name as rules see it."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return patterns.normal(text)


def country(rules: RuleSet, address: Address) -> str | None:
    """The country that the rules' database has for an address."""
    path = rules.settings.country_database
    return database.country(Path(path), str(address)) if path else None


def offline(destination: str, rules: RuleSet, addresses: list[str]) -> dict[str, Any]:
    """What the rules say of a destination; of a name with `addresses`: of each, as if an answer had taught it."""
    asked = parse(destination)
    if not isinstance(asked, str):
        return explain.address(asked, rules, country(rules, asked))
    found = explain.name(asked, rules)
    rule = rules.ruling((asked,)).rule
    listed = []
    for address in map(ipaddress.ip_address, addresses):
        learned = rule is not None and rules.beats(rule, address)
        entry = Entry(rule.mark, 0, asked) if rule and learned else None
        listed.append(explain.address(address, rules, country(rules, address), entry))
    return found | ({"addresses": listed} if listed else {})


async def live(daemon: Daemon, destination: str, client: str | None) -> dict[str, Any]:
    """What the rules say, what was learned, what the kernel has, and what runs to a destination."""
    asked = parse(destination)
    if not isinstance(asked, str):
        return await _address(daemon, asked, client)
    found = explain.name(asked, daemon.rules)
    inherits = daemon.teacher.inherited.get(asked)
    if inherits and not found["rule"]:
        found = explain.name(inherits, daemon.rules) | {"destination": asked, "reason": f"inherits from {inherits}"}
    learned = {destination_of(key): None for key, entry in daemon.teacher.alive() if entry.name == asked}
    return found | {"addresses": [await _address(daemon, address, client) for address in list(learned)[:20]]}


async def _address(daemon: Daemon, address: Address, client: str | None) -> dict[str, Any]:
    rules = daemon.rules
    asking = ipaddress.ip_address(client) if client else None
    entry = daemon.teacher.entry(address, asking)
    found = explain.address(address, rules, country(rules, address), entry)
    exits = {e.name: e for e in rules.settings.exits}
    if entry:
        found |= {"seconds_left": round(entry.expiry - daemon.clock(), 1), "conflicts": entry.conflicts}
    if found["exit"]:
        e = exits[found["exit"]]
        by_mark = {other.mark: other.name for other in exits.values()}
        kernel = await asyncio.to_thread(inspect.destination, address, rules, asking)
        leads = by_mark.get(kernel.get("exit_of") or 0)
        found |= {"exit_mark": e.mark, "table": e.table, "health": daemon.monitor.report(e.name), "kernel": kernel}
        if leads != e.name:
            found["stand_in"] = leads  # None: new connections are refused
        route = kernel.get("route", {})
        found["next_hop"] = route.get("gateway") or route.get("dev")
    running = await asyncio.to_thread(_flows, None, str(address), client)
    if rules.settings.learn_scope == "client":
        keys = (key for key, _ in daemon.teacher.alive() if isinstance(key, ClientAddress) and key.address == address)
        found["learned_by"] = [str(key.client) for key in itertools.islice(keys, FLOWS_SHOWN)]
    return found | {"connections": _named(running, daemon)[:FLOWS_SHOWN]}


def _flows(mark: int | None, destination: str | None, client: str | None) -> list[dict[str, Any]]:
    conntrack = Conntrack()
    try:
        return [
            flow.as_json()
            for flow in conntrack.flows(mark)
            if (destination is None or str(flow.destination) == destination)
            and (client is None or str(flow.source) == client)
        ]
    finally:
        conntrack.close()


def _named(found: list[dict[str, Any]], daemon: Daemon) -> list[dict[str, Any]]:
    names = {e.mark: e.name for e in daemon.rules.settings.exits}
    return [flow | {"exit": names.get(flow["mark"])} for flow in found]


async def flows(daemon: Daemon, exit_: str | None, client: str | None) -> dict[str, Any]:
    """The connections that run, by exit; the largest first, no more than FLOWS_SHOWN of them."""
    mark = _exit(daemon, exit_).mark if exit_ else None
    found = _named(await asyncio.to_thread(_flows, mark, None, client), daemon)
    found.sort(key=lambda flow: (-flow["bytes"], -flow["packets"]))
    count = Counter(str(flow["exit"]) for flow in found)
    return {"total": len(found), "exits": dict(sorted(count.items())), "flows": found[:FLOWS_SHOWN]}


def _exit(daemon: Daemon, name: str) -> Any:
    exits = {e.name: e for e in daemon.rules.settings.exits}
    if name not in exits:
        raise NotAsked(f"there is no exit {name}; there are: {', '.join(exits)}")
    return exits[name]


def learned(daemon: Daemon) -> list[dict[str, Any]]:
    """The learned addresses."""
    now = daemon.clock()
    rules = daemon.rules.by_mark
    return [
        {"address": str(destination_of(key)), "client": str(key.client) if isinstance(key, ClientAddress) else None,
         "mark": entry.mark, "name": entry.name, "seconds_left": round(entry.expiry - now, 1),
         "rule": rules[entry.mark].id if entry.mark in rules else None, "conflicts": entry.conflicts}
        for key, entry in daemon.teacher.alive()
    ]  # fmt: skip


async def flush(daemon: Daemon, what: str, destination: str | None, exit_: str | None) -> dict[str, Any]:
    """Forgets learned addresses (all, one, a name's) or ends connections (all, an exit's, to one destination)."""
    if what == "learned":
        return {"forgotten": await daemon.forget(parse(destination) if destination else None)}
    if what != "flows":
        raise NotAsked(f"what to flush: learned or flows, not {what!r}")
    marks = {e.mark for e in ([_exit(daemon, exit_)] if exit_ else daemon.rules.settings.exits)}

    def cut() -> int:
        conntrack = Conntrack()
        try:
            return conntrack.cut(
                lambda f: f.mark in marks and (destination is None or str(f.destination) == destination)
            )
        finally:
            conntrack.close()

    return {"ended": await asyncio.to_thread(cut)}


def status(daemon: Daemon) -> dict[str, Any]:
    """What there is to say in one answer; before the first generation only what keeps it from coming about."""
    if not daemon.generation:
        return {"ready": False, "generation": 0, "version": None, "problems": daemon.problems}
    s = daemon.rules.settings
    path = daemon.database_in_force()
    problems = [*daemon.problems, *daemon.listed.problems, *daemon.lists.problems.values()]
    try:
        seen = routes.look()
        up, default = seen.links, seen.default_interface()
    except routes.RouteProblem as problem:
        up, default = frozenset(), None
        problems.append(str(problem))
    reflect = [
        name
        for name in ("ipv4", "ipv6")
        if (path := Path(f"/proc/sys/net/{name}/fwmark_reflect")).exists() and path.read_text().strip() != "1"
    ]
    return {
        "ready": True,
        "generation": daemon.generation,
        "version": s.version,
        "learned": len(daemon.teacher.learned.entries),
        "conflicts": daemon.teacher.learned.conflicts,
        "intervals": {f"ipv{family}": len(daemon.rules.intervals[family]) for family in (4, 6)},
        "hook": {"asked": daemon.server.asked, "malformed": daemon.server.malformed, "refused": daemon.server.refused},
        "exits": [
            {"name": e.name, "interface": e.interface or default, "mark": e.mark, "table": e.table,
             "up": (e.interface or default) in up and e.name not in daemon.kernel.down, "ipv4": e.ipv4, "ipv6": e.ipv6,
             "health": daemon.monitor.report(e.name)}
            for e in s.exits
        ],
        "database": {
            "built": database.built(path) if path else None,
            "url": s.country_source and s.country_source.url,
            "refused": daemon.refresher.refused,
        },
        "lists": dict(daemon.listed.entries),
        "bypass": bypass.attempts(),
        "warnings": [
            *(f"net.{name}.fwmark_reflect is not 1: ICMP errors go the wrong way" for name in reflect),
            *([f"the learned table is not on disk: {daemon.unsaved}"] if daemon.unsaved else []),
        ],
        "problems": problems,
    }  # fmt: skip


def forgetting(daemon: Daemon, what: Address | str | None) -> list[Change]:
    """The changes that make the kernel forget all, an address, or what a name taught."""
    return [
        Change(address, None, 0, replaces=True)
        for address, entry in daemon.teacher.alive()
        if what is None or destination_of(address) == what or entry.name == what
    ]
