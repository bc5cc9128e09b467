"""ipt_server itself: settings, rules, learned table and kernel held together; one generation after another.

Knows: the order of things. Must not know: how each is done. A reload is all or nothing: the next generation is
compiled whole before the kernel is touched, and on any problem the last one stays in force. Nothing is removed when
the process ends: the kernel goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipt_server import memory, settings
from ipt_server.control.server import Control
from ipt_server.core.answers import Answer, Judgement, judge
from ipt_server.core.learned import Address, Change, Entry, Full, Learned
from ipt_server.core.rules import RuleSet
from ipt_server.dns.filter import Filter
from ipt_server.dns.recursor import wipe_caches
from ipt_server.dns.server import Refused, VerdictServer
from ipt_server.geo import DatabaseRefused, database
from ipt_server.geo.database import Compiled
from ipt_server.kernel import KernelProblem, events, routes
from ipt_server.kernel.netlink import KernelRefused
from ipt_server.kernel.state import Kernel
from ipt_server.settings import RuleSetting, Settings

log = logging.getLogger(__name__)
INHERITED_MAX = 50_000
LOOK_EVERY = 5.0  # links are looked at on every event; this is for an event that never came


@dataclass(frozen=True)
class Paths:
    """Where the daemon's files are: `live` is read first, `mounted` where it is missing."""

    live: Path = Path("/run/mrvpn/settings.yaml")
    mounted: Path = Path("/settings.yaml")
    state: Path = Path("/var/lib/mrvpn/state")
    control: Path = Path("/run/ipt-server/control.sock")

    def settings(self) -> Path:
        """The file that is in force."""
        return self.live if self.live.exists() else self.mounted


def compile_rules(s: Settings, cache: Path) -> RuleSet:
    """The rules of settings with their countries' ranges, worked out or as they were kept. Raises settings.Refused."""
    wanted = {country for rule in s.rules for country in rule.countries}
    try:
        path = Path(s.country_database) if wanted and s.country_database else None
        content = [(r.mark, r.exit is None, r.kind, r.weight, r.countries, r.prefixes) for r in s.rules]
        kept = Compiled(cache, content, database.digest(path) if path else None)
        if (intervals := kept.read()) is not None:
            return RuleSet(s, {}, intervals)
        rules = RuleSet(s, database.countries(path, wanted) if path else {})
    except DatabaseRefused as error:
        raise settings.Refused([f"country_database: {error}"]) from None
    kept.write(dict(rules.intervals))
    return rules


class Daemon:
    """One running ipt_server."""

    def __init__(self, paths: Paths, clock: Callable[[], float] = time.monotonic) -> None:
        self.paths = paths
        self.clock = clock
        self.offset = time.time() - time.monotonic()
        self.kernel = Kernel()
        self.generation = 0
        self.rules: RuleSet
        self.learned: Learned
        self.own: frozenset[Address] = frozenset()
        self.inherited: dict[str, str] = {}
        self.filter: Filter | None = None
        self.server: VerdictServer
        self._reloading = asyncio.Lock()
        self._dirty = False
        self.started = clock()
        self.problems: list[str] = []

    # --- generations

    async def start(self) -> None:
        """Adopts what the kernel has and brings it to the settings; raises settings.Refused."""
        s = settings.load(self.paths.settings())
        rules = await asyncio.to_thread(compile_rules, s, self.paths.state)
        self.learned = Learned(s.learned_max, s.hook.tries, s.hook.timeout_ms)
        self.learned.replace(self._remembered().items())
        self._take(rules)
        kept = await asyncio.to_thread(self.kernel.apply, rules, self._elements())
        self.generation = 1
        self._write_filter()
        self.server = VerdictServer(s.hook, self)
        self.server.start()
        await wipe_caches(s.recursor.control)
        log.info("generation 1, version %s, %s table, %d learned", s.version, "kept" if kept else "new",
                 len(self.learned.entries))  # fmt: skip

    def _remembered(self) -> dict[Address, Entry]:
        """The learned addresses of an earlier life: the kernel's with their time left, names from the file."""
        filed = memory.load(self.paths.state / "learned.jsonl", self.offset)
        now = self.clock()
        for text, mark, left in self.kernel.standing_learned():
            address = ipaddress.ip_address(text)
            known = filed.get(address)
            filed[address] = replace(known or Entry(mark, 0, ""), mark=mark, expiry=now + left)
        return {address: entry for address, entry in filed.items() if entry.expiry > now}

    def _take(self, rules: RuleSet) -> None:
        """Makes these the rules in force, and judges every learned address again by its name."""
        self.rules = rules
        self.own = frozenset(ipaddress.ip_address(a) for a in rules.settings.own)
        kept: list[tuple[Address, Entry]] = []
        for address, entry in self.learned.alive(self.clock()):
            best = next((r for r in rules.match(entry.name) if r.exit is not None), None) if entry.name else None
            if best is not None and rules.beats(best, address):
                kept.append((address, replace(entry, mark=best.mark)))
        self.learned.replace(kept)

    def _elements(self) -> list[tuple[Address, int, float]]:
        now = self.clock()
        return [(address, entry.mark, entry.expiry - now) for address, entry in self.learned.alive(now)]

    def _write_filter(self) -> None:
        folder = Path(self.rules.settings.recursor.control)
        if not folder.is_dir():
            return
        self.filter = self.filter or Filter(folder)
        self.filter.write(self.rules.suffixes(), self.rules.asks_for_all)
        for name in self.inherited:
            self.filter.add(name)

    async def reload(self) -> dict[str, Any]:
        """Puts the settings on disk in force, or answers with every problem and leaves the old generation as it is."""
        async with self._reloading:
            try:
                s = settings.load(self.paths.settings())
                if s == self.rules.settings:
                    return self._result("unchanged")
                rules = await asyncio.to_thread(compile_rules, s, self.paths.state)
            except settings.Refused as error:
                self.problems = error.problems
                return self._result("refused")
            before, changes = self.rules, difference(self.rules, rules)
            learned = self.learned.alive(self.clock())
            # from here on answers are judged by the new rules; the kernel has both their elements until it is switched
            self._take(rules)
            try:
                self.kernel.apply(rules, self._elements())
            except KernelProblem as error:
                self.problems = [f"the kernel refused: {error}"]
                self.learned.replace(learned)
                self._take(before)
                self.kernel.apply(before, self._elements())
                return self._result("refused")
            self.problems = []
            self.generation += 1
            self._write_filter()
            await self._wipe()
            return self._result("applied", changes)

    async def _wipe(self) -> None:
        """Empties the recursor's caches now, and again when the last verdict of the old generation has been given."""
        s = self.rules.settings
        await wipe_caches(s.recursor.control)
        delay = s.hook.tries * s.hook.timeout_ms / 1000

        async def again() -> None:
            await asyncio.sleep(delay)
            await wipe_caches(s.recursor.control)

        self._again = asyncio.create_task(again())

    def _result(self, result: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        return {
            "result": result,
            "generation": self.generation,
            "version": self.rules.settings.version,
            "problems": self.problems if result == "refused" else [],
            "changes": changes or {},
        }

    # --- answers

    def teach(self, answer: Answer) -> Judgement:
        """Has an answer's addresses in the kernel before it returns the judgement; raises Refused."""
        judgement = judge(answer, self.rules, self.inherited, self.own)
        now = self.clock()
        changes: list[Change] = []
        undo: list[tuple[Address, Entry | None]] = []
        try:
            for lesson in judgement.lessons:
                entry = self.learned.snapshot(lesson.address)
                undo.append((lesson.address, entry))
                better = entry is None or self._better(lesson.rule, entry.mark)
                change = self.learned.learn(
                    lesson.address, lesson.rule.mark, better, lesson.ttl, lesson.name, now, answer.client
                )
                if change is not None:
                    changes.append(change)
            self.kernel.learn(changes)
        except (Full, KernelRefused) as error:
            for address, before in reversed(undo):
                self.learned.restore(address, before)
            raise Refused(str(error)) from None
        for target, source in judgement.inherit:
            # before the answer is let go, so that the target's own question finds its way here
            if target not in self.inherited and len(self.inherited) >= INHERITED_MAX:
                del self.inherited[next(iter(self.inherited))]
            self.inherited[target] = source
            if self.filter is not None:
                self.filter.add(target)
        self._dirty = self._dirty or bool(changes)
        return judgement

    def _better(self, rule: RuleSetting, mark: int) -> bool:
        """Whether a rule wins over the one whose mark an address carries."""
        other = self.rules.by_mark.get(mark)
        if other is None:
            return True
        order = self.rules.position
        return (-rule.weight, order[rule.mark]) < (-other.weight, order[other.mark])

    # --- asking it

    def status(self) -> dict[str, Any]:
        """What there is to say in one answer."""
        s = self.rules.settings
        up = routes.links()
        default = routes.default_interface()
        reflect = [
            name
            for name in ("ipv4", "ipv6")
            if (path := Path(f"/proc/sys/net/{name}/fwmark_reflect")).exists() and path.read_text().strip() != "1"
        ]
        return {
            "ready": True,
            "generation": self.generation,
            "version": s.version,
            "learned": len(self.learned.entries),
            "conflicts": self.learned.conflicts,
            "intervals": {f"ipv{family}": len(self.rules.intervals[family]) for family in (4, 6)},
            "hook": {"asked": self.server.asked, "malformed": self.server.malformed, "refused": self.server.refused},
            "exits": [
                {"name": e.name, "interface": e.interface or default, "mark": e.mark, "table": e.table,
                 "up": (e.interface or default) in up, "ipv4": e.ipv4, "ipv6": e.ipv6}
                for e in s.exits
            ],
            "warnings": [f"net.{name}.fwmark_reflect is not 1: ICMP errors go the wrong way" for name in reflect],
            "problems": self.problems,
        }  # fmt: skip

    def explain(self, destination: str) -> dict[str, Any]:
        """By which rule and exit an address or a name would leave."""
        return explain(destination, self.rules, self.learned)

    # --- running

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: asyncio.ensure_future(self.reload()))
        link_events = events.listen()
        loop.add_reader(link_events, self._links, link_events)
        await self.start()
        control = Control(self, self.paths.control)
        await control.start()
        try:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_EVERY)
                self._look()
                self._save()
        finally:
            self._save()
            await control.stop()
            self.server.stop()

    def _links(self, link_events: Any) -> None:
        if events.drain(link_events) and self.generation:
            self._look()

    def _look(self) -> None:
        try:
            changed = self.kernel.links_changed(self.rules)
        except KernelProblem as error:
            log.warning("links: %s", error)
            return
        if changed:
            log.info("links changed: %d commands", changed)

    def _save(self) -> None:
        if not self._dirty:
            return
        try:
            memory.save(self.paths.state / "learned.jsonl", self.learned.alive(self.clock()), self.offset)
            self._dirty = False
        except OSError as error:
            log.warning("the learned table was not saved: %s", error)


def difference(old: RuleSet, new: RuleSet) -> dict[str, Any]:
    """What a reload changes, for people and events."""
    before = {rule.id: rule for rule in old.rules}
    after = {rule.id: rule for rule in new.rules}
    return {
        "rules_added": sorted(set(after) - set(before)),
        "rules_removed": sorted(set(before) - set(after)),
        "rules_changed": sorted(i for i in set(before) & set(after) if before[i] != after[i]),
        "intervals": {f"ipv{f}": [len(old.intervals[f]), len(new.intervals[f])] for f in (4, 6)},
    }


def explain(destination: str, rules: RuleSet, learned: Learned | None = None) -> dict[str, Any]:
    """By which rule and exit a destination would leave, and why; without a learned table: by the rules alone."""
    try:
        address = ipaddress.ip_address(destination)
    except ValueError:
        matched = rules.match(destination.rstrip(".").lower())
        rule = next((r for r in matched if r.exit is not None), None)
        return {
            "destination": destination,
            "country": None,
            "rule": rule.id if rule else None,
            "exit": rule.exit if rule else None,
            "reason": "the name matches" if rule else "no domain rule matches: the address decides",
            "losers": [r.id for r in matched if r is not rule],
        }
    entry = learned.entries.get(address) if learned else None
    mark = entry.mark if entry else rules.covering(address)
    rule = rules.by_mark.get(mark, rules.fallback)
    return {
        "destination": str(address),
        "country": ",".join(rule.countries) if rule and rule.countries else None,
        "rule": rule.id if rule else None,
        "exit": rules.exit_of(mark).name,
        "reason": f"learned from {entry.name}" if entry else rule.kind if rule else "no rule: the default exit",
        "losers": [],
    }
