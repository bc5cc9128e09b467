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
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipt_server import inquiry, memory, settings
from ipt_server.control.server import Control
from ipt_server.core.answers import Answer, Judgement, judge
from ipt_server.core.failover import exit_of, stand_in
from ipt_server.core.health import ExitHealth
from ipt_server.core.learned import Address, Change, Entry, Full, Learned
from ipt_server.core.rules import RuleSet
from ipt_server.dns.filter import Filter
from ipt_server.dns.recursor import wipe_caches
from ipt_server.dns.server import Refused, VerdictServer
from ipt_server.geo import DatabaseRefused, database, refresh
from ipt_server.geo.database import Compiled
from ipt_server.geo.refresh import Refresher
from ipt_server.happenings import Events
from ipt_server.health.monitor import Monitor
from ipt_server.kernel import KernelProblem, bypass, events, routes
from ipt_server.kernel.conntrack import Conntrack, Flow
from ipt_server.kernel.netlink import KernelRefused
from ipt_server.kernel.state import Kernel, Prepared, stands
from ipt_server.lists.formats import Names
from ipt_server.lists.keeper import Keeper
from ipt_server.lists.subscriptions import Content, Subscriptions
from ipt_server.metrics import Metrics
from ipt_server.settings import Exit, RuleSetting, Settings

log = logging.getLogger(__name__)
INHERITED_MAX = 50_000
LOOK_EVERY = 5.0  # links are looked at on every event; this is for an event that never came
LOOK_AFTER = 0.02
READ_EVERY = 60.0  # a tenth of a learned element's life


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


def compile_rules(
    s: Settings, cache: Path, source: Path | None = None, lists: Mapping[str, Names] | None = None
) -> RuleSet:
    """The rules of settings with their countries' ranges, worked out or as they were kept. Raises settings.Refused.

    `source`: the country database to use in place of the one that the settings name. `lists`: what lists cover.
    """
    wanted = {country for rule in s.rules for country in rule.countries}
    try:
        path = (source or Path(s.country_database)) if wanted and s.country_database else None
        content = [(r.mark, r.exit is None, r.kind, r.weight, r.countries, r.prefixes) for r in s.rules]
        kept = Compiled(cache, content, database.digest(path) if path else None)
        if (intervals := kept.read()) is not None:
            return RuleSet(s, {}, intervals, lists=lists)
        rules = RuleSet(s, database.countries(path, wanted) if path else {}, lists=lists)
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
        self._tables = asyncio.Lock()
        self._dirty = False
        self.started = clock()
        self.problems: list[str] = []
        self.events = Events()
        self.monitor = Monitor(clock, self._health_changed)
        self.metrics = Metrics(self)
        self.refresher = Refresher(paths.state, lambda: self.rules.settings, self.refreshed, self.events)
        self.lists = Subscriptions(paths.state / "lists")
        _, self.listed = self.lists.read({})
        self.keeper = Keeper(self.lists, lambda: self.rules.settings, self.refreshed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking = False
        self._read = clock()

    # --- generations

    async def start(self) -> None:
        """Adopts what the kernel has and brings it to the settings; raises settings.Refused."""
        s = settings.load(self.paths.settings())
        rules = await self._compile(s)
        with contextlib.suppress(OSError):  # what cannot be written is told when it is
            self.paths.state.mkdir(parents=True, exist_ok=True)
        self.learned = Learned(s.learned_max, s.hook.tries, s.hook.timeout_ms)
        self.learned.replace(self._remembered().items())
        self._take(rules)
        kept = await asyncio.to_thread(self.kernel.apply, rules, self._elements())
        self.generation = 1
        self.monitor.watch(s)
        await self._look()
        self._switch_filter(await asyncio.to_thread(self._prepare_filter, rules))
        await self._guard()
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

        def judged(address: Address, entry: Entry) -> int | None:
            best = next((r for r in rules.match(entry.name) if r.exit is not None), None) if entry.name else None
            return best.mark if best is not None and rules.beats(best, address) else None

        self.learned.rejudge(judged, self.clock())

    def _elements(self) -> list[tuple[Address, int, float]]:
        now = self.clock()
        return [(address, entry.mark, entry.expiry - now) for address, entry in self.learned.alive(now)]

    def _prepare_filter(self, rules: RuleSet) -> Path | None:
        """The file of a filter for these rules, not yet in force; None where no recursor is. May run in a thread."""
        folder = Path(rules.settings.recursor.control)
        if not folder.is_dir():
            return None
        self.filter = self.filter or Filter(folder)
        return self.filter.prepare(rules.suffixes(), rules.asks_for_all)

    def _switch_filter(self, prepared: Path | None) -> None:
        if prepared is None or self.filter is None:
            return
        self.filter.switch(prepared)
        for name in self.inherited:
            self.filter.add(name)

    def database_in_force(self) -> Path | None:
        """The country database that the rules were made of."""
        return refresh.in_force(self.rules.settings, self.paths.state)

    async def _compile(self, s: Settings) -> RuleSet:
        def work() -> tuple[RuleSet, Content]:
            names, listed = self.lists.read(s.lists)
            return compile_rules(s, self.paths.state, refresh.in_force(s, self.paths.state), names), listed

        rules, self.listed = await asyncio.to_thread(work)
        return rules

    async def _guard(self) -> None:
        """Keeps clients from taking their DNS elsewhere; where that cannot be, it is told, and routing goes on."""
        try:
            await asyncio.to_thread(bypass.apply, self.rules.settings)
        except bypass.BypassRefused as error:
            self.problems = [f"bypass: {error}"]
            log.error("bypass: %s", error)

    async def reload(self) -> dict[str, Any]:
        """Puts the settings on disk in force, or answers with every problem and leaves the old generation as it is."""
        async with self._reloading:
            try:
                s = settings.load(self.paths.settings())
                listed = self.listed.digest
                same = s == self.rules.settings
                if same and not s.lists:
                    return self._result("unchanged")
                rules = await self._compile(s)
                if same and self.listed.digest == listed:
                    await asyncio.to_thread(rules.release)
                    return self._result("unchanged")
                return await self._switch(rules)
            except settings.Refused as error:
                self.problems = error.problems
                return self._result("refused")

    async def refreshed(self) -> dict[str, Any]:
        """Puts the same settings in force with the country database and the lists as they are now."""
        async with self._reloading:
            try:
                return await self._switch(await self._compile(self.rules.settings))
            except settings.Refused as error:
                self.problems = error.problems
                return self._result("refused")

    async def _switch(self, rules: RuleSet) -> dict[str, Any]:
        """Makes the next generation the one in force, or leaves all as it was and says what the kernel refused."""
        before, changes = self.rules, difference(self.rules, rules)
        learned = self.learned.alive(self.clock())
        try:
            filtered = await asyncio.to_thread(self._prepare_filter, rules)
        except OSError as error:
            self.problems = [f"the suffix filter was not written: {error}"]
            return self._result("refused")
        gone = settings.handed(before.settings, rules.settings)
        try:
            # while a table changes hands nobody else may put the old routes back into it
            async with self._tables if gone else contextlib.nullcontext():
                prepared = await asyncio.to_thread(self.kernel.prepare, rules)
                # their tables lead elsewhere already, where no pair lets them pass: now their connections end
                await asyncio.to_thread(_with_conntrack, lambda conntrack: conntrack.cut_marks(gone))
                # from here to the batch nothing else runs: answers are judged by the new rules when the kernel has them
                learned = self.learned.alive(self.clock())
                self._take(rules)
                self.kernel.commit(prepared, self._elements())
        except KernelProblem as error:
            # what was prepared lies where nobody looks; only chains of another form would be closed now
            self.problems = [f"the kernel refused: {error}"]
            self.learned.replace(learned)
            self._take(before)
            await self._anew()
            return self._result("refused")
        self.monitor.watch(rules.settings)
        self.kernel.down = self.monitor.down()  # an exit that is judged otherwise now begins as one that is up
        await self._finish(prepared)
        self.problems = []
        self.generation += 1
        await self._look()
        self._switch_filter(filtered)
        await self._guard()
        await self._wipe()
        changes["connections_cut"] = await self._cut(before)
        self.events.add("generation", generation=self.generation, version=rules.settings.version, changes=changes)
        await asyncio.to_thread(before.release)
        return self._result("applied", changes)

    async def _cut(self, before: RuleSet) -> int:
        """Ends the connections whose rule says so and whose exit is another one now; returns their number."""
        rules = self.rules
        if not any(rule.live == "cut" for rule in (*rules.rules, *before.rules)):
            return 0
        leads, ours = dict(exit_of(rules, self.kernel.down)), {e.mark for e in before.settings.exits}
        learned = {address: entry.mark for address, entry in self.learned.alive(self.clock())}

        def unwanted(flow: Flow) -> bool:
            if flow.mark not in ours:
                return False
            mark = learned.get(flow.destination) or rules.covering(flow.destination)
            old = before.by_mark.get(before.covering(flow.destination), before.fallback)
            new = rules.by_mark.get(mark, rules.fallback)
            return leads.get(mark) != flow.mark and any(r is not None and r.live == "cut" for r in (new, old))

        return await asyncio.to_thread(_with_conntrack, lambda conntrack: conntrack.cut(unwanted))

    async def forget(self, what: Address | str | None) -> int:
        """Forgets learned addresses: all, one, or what a name taught; returns their number. Raises KernelRefused."""
        changes = inquiry.forgetting(self, what)
        self.kernel.learn(changes)
        gone = {change.address for change in changes}
        alive = self.learned.alive(self.clock())
        self.learned.replace([(address, entry) for address, entry in alive if address not in gone])
        self._dirty = True
        await self._wipe()  # an answer that the recursor keeps would hand out what was forgotten
        return len(gone)

    # --- health

    def _health_changed(self, e: Exit, state: ExitHealth) -> None:
        """Changes which exit new connections take; those of a dead exit end: nobody will answer for their NAT."""
        self.kernel.down = self.monitor.down()
        instead = stand_in(e, self.kernel.down, self.rules.settings)
        log.warning("exit %s is %s%s", e.name, "up" if state.up else "down", f": {state.reason}" * bool(state.reason))
        try:
            self.kernel.open(self.rules)
        except KernelProblem as error:
            self.problems = [f"exit {e.name}: the kernel refused: {error}"]
            log.error("exit %s: %s", e.name, error)
        self.events.add("exit", exit=e.name, up=state.up, reason=state.reason, stand_in=instead and instead.name)
        if not state.up:
            self._start(self._end(e))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Lets work go on by itself; a task that nobody holds may vanish."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, e: Exit) -> None:
        try:
            await asyncio.to_thread(_with_conntrack, lambda conntrack: conntrack.cut_marks([e.mark]))
        except KernelProblem as error:
            log.error("exit %s: its connections were not ended: %s", e.name, error)

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
        began = time.perf_counter()
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
            if changes:
                self.metrics.taught.observe(time.perf_counter() - began)
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
        if changes:
            self._note(changes)
        return judgement

    def _better(self, rule: RuleSetting, mark: int) -> bool:
        """Whether a rule wins over the one whose mark an address carries."""
        other = self.rules.by_mark.get(mark)
        if other is None:
            return True
        order = self.rules.position
        return (-rule.weight, order[rule.mark]) < (-other.weight, order[other.mark])

    # --- running

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        sys.setswitchinterval(0.0005)  # what is compiled in a thread must not hold up answers
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
        self._start(self.refresher.run())
        self._start(self.keeper.run())
        try:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_EVERY)
                await self._look()
                await self._stand()
                await self._renewed()
                self._save()
        finally:
            self._save()
            self.monitor.stop()
            for task in self._tasks:
                task.cancel()
            await control.stop()
            self.server.stop()

    def _links(self, link_events: Any) -> None:
        if events.drain(link_events) and self.generation and not self._looking:
            self._looking = True
            self._start(self._look_soon())

    async def _look_soon(self) -> None:
        # events come in flocks; what follows while this one is looked at is looked at once more
        await asyncio.sleep(LOOK_AFTER)
        self._looking = False
        await self._look()

    async def _look(self) -> None:
        """Puts back what an interface took with it, and lets the exits' states follow."""
        try:
            async with self._tables:
                seen = await asyncio.to_thread(routes.look)
                if changed := self.kernel.links_changed(self.rules, seen):
                    log.info("links changed: %d commands", changed)
        except KernelProblem as error:
            log.warning("links: %s", error)
            return
        self.monitor.look(seen)

    async def _stand(self) -> None:
        """Makes everything anew where somebody removed our table."""
        if self._reloading.locked() or await asyncio.to_thread(stands):
            return
        async with self._reloading:
            log.error("the nft table is gone: it is made anew")
            await self._anew()

    async def _renewed(self) -> None:
        """Takes in, once a minute, which learned addresses connections have renewed."""
        now = self.clock()
        if now - self._read < READ_EVERY:
            return
        self._read = now
        for text, _, left in await asyncio.to_thread(self.kernel.standing_learned):
            self.learned.outlive(ipaddress.ip_address(text), now + left)

    async def _anew(self) -> None:
        """Puts the rules in force into the kernel once more."""
        try:
            prepared = await asyncio.to_thread(self.kernel.prepare, self.rules)
            self.kernel.commit(prepared, self._elements())
        except KernelProblem as error:
            log.error("the rules could not be put in force anew: %s", error)
            return
        await self._finish(prepared)

    async def _finish(self, prepared: Prepared) -> None:
        """Clears what the generation before left; where that fails the next one does it."""
        try:
            await asyncio.to_thread(self.kernel.finish, prepared)
            self.kernel.open(self.rules)
        except KernelProblem as error:
            log.warning("the old maps were not emptied: %s", error)

    def _note(self, changes: list[Change]) -> None:
        """Writes down what was learned at once; the whole table, without what ran out, follows by the clock."""
        self._dirty = True
        entries = self.learned.entries
        told = [(change.address, entries[change.address]) for change in changes if change.address in entries]
        with contextlib.suppress(OSError):  # _save says it
            memory.add(self.paths.state / "learned.jsonl", told, self.offset)

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


def _with_conntrack(work: Callable[[Conntrack], Any]) -> Any:
    conntrack = Conntrack()
    try:
        return work(conntrack)
    finally:
        conntrack.close()
