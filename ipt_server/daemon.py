"""ipt_server itself: settings, rules, learned table and kernel held together; one generation after another.

Knows: the order of things. Must not know: how each is done. A reload is all or nothing: the next generation is
compiled whole before the kernel is touched, and on any problem the last one stays in force. Nothing is removed when
the process ends: the kernel goes on. What keeps the first generation from coming about is told by the control socket,
and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipt_server import inquiry, memory, settings
from ipt_server.control.server import Control
from ipt_server.core.failover import exit_of, stand_in
from ipt_server.core.health import ExitHealth
from ipt_server.core.learned import Address, ClientAddress, Entry, Key, Learned
from ipt_server.core.rules import RuleSet
from ipt_server.dns import policies
from ipt_server.dns.filter import Filter
from ipt_server.dns.recursor import began, reload_policies, wipe_caches
from ipt_server.dns.server import VerdictServer
from ipt_server.geo import DatabaseRefused, database, refresh
from ipt_server.geo.database import Compiled
from ipt_server.geo.refresh import Refresher
from ipt_server.happenings import Events
from ipt_server.health.monitor import Monitor
from ipt_server.kernel import KernelProblem, bypass, events, peers, routes
from ipt_server.kernel.conntrack import Conntrack, Flow
from ipt_server.kernel.inspect import seconds_left, stands
from ipt_server.kernel.state import Kernel, Prepared
from ipt_server.lists.formats import Names
from ipt_server.lists.keeper import Keeper
from ipt_server.lists.subscriptions import Content, Subscriptions
from ipt_server.metrics import Metrics
from ipt_server.pauses import Pauses
from ipt_server.settings import Exit, Settings
from ipt_server.teacher import Judged, Teacher

log = logging.getLogger(__name__)
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

    def ready(self) -> Path:
        """A file that is there while rules are in force: what a health check looks for without a process of its own."""
        return self.control.with_name("ready")

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
        self.teacher: Teacher
        self._filter: Filter | None = None
        self.server: VerdictServer
        self._reloading = asyncio.Lock()
        self._tables = asyncio.Lock()
        self.started = clock()
        self.problems: list[str] = []
        self.unsaved: str | None = None  # why the learned table is not on disk
        self.events = Events()
        self.monitor = Monitor(clock, self._health_changed)
        self.metrics = Metrics(self)
        self.journal = memory.Journal(paths.state / "learned.jsonl", self.offset)
        self.refresher = Refresher(paths.state, lambda: self.rules.settings, self.refreshed, self.events)
        self.lists = Subscriptions(paths.state / "lists")
        _, self.listed = self.lists.read({})
        self.keeper = Keeper(self.lists, lambda: self.rules.settings, self.refreshed)
        self._recursor: tuple[int, int] | None = None  # the life that knows the rules in force
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking = False
        self._read = clock()

    @property
    def rules(self) -> RuleSet:
        """The rules in force."""
        return self.teacher.rules

    # --- generations

    async def try_start(self) -> bool:
        """Makes the first generation; where that cannot be, `problems` says why, and the kernel is as it was."""
        told, self.problems = self.problems, []
        try:
            await self.start()
        except settings.Refused as error:
            self.problems = error.problems
        except KernelProblem as error:
            self.problems = [f"{error} (it needs CAP_NET_ADMIN, and a namespace of its own)"]
        except OSError as error:
            self.problems = [str(error)]
        if self.generation:
            return True
        if self.problems != told:
            for problem in self.problems:
                log.error("not started: %s", problem)
        return False

    async def start(self) -> None:
        """Adopts what the kernel has and brings it to the settings. Raises Refused, KernelProblem, OSError."""
        s = settings.load(self.paths.settings())
        rules = await self._compile(s)
        with contextlib.suppress(OSError):  # what cannot be written is told when it is
            self.paths.state.mkdir(parents=True, exist_ok=True)
        learned = Learned(s.learned_max, s.hook.tries, s.hook.timeout_ms)
        learned.replace(self._remembered().items())
        observe = self.metrics.taught.observe
        self.teacher = Teacher(rules, learned, self.kernel, self.journal, self.clock, observe)
        self.teacher.take(rules, {})
        self.server = VerdictServer(s.hook, self.teacher)
        kept = await asyncio.to_thread(self.kernel.apply, rules, self.teacher.elements())
        self.monitor.watch(s)
        await self._look()
        self._recursor = began(s.recursor.control)  # one that begins anew from here on is told once more
        self._switch_filter(await asyncio.to_thread(self._prepare_filter, rules))
        await self._guard()
        await self._know()
        self.server.start()
        self.generation = 1
        self.events.add("started", version=s.version)
        await wipe_caches(s.recursor.control)
        log.info("generation 1, version %s, %s table, %d learned", s.version, "kept" if kept else "new",
                 len(learned.entries))  # fmt: skip

    def _remembered(self) -> dict[Key, Entry]:
        """The learned addresses of an earlier life: the kernel's with their time left; who asked, from the file."""
        filed = memory.load(self.paths.state / "learned.jsonl", self.offset)
        now = self.clock()
        for key, mark, left, name in self.kernel.standing_learned():
            known = filed.get(key) or Entry(mark, 0, "")
            filed[key] = replace(known, mark=mark, expiry=now + left, name=name or known.name)
        return {address: entry for address, entry in filed.items() if entry.expiry > now}

    def _prepare_filter(self, rules: RuleSet) -> Path | None:
        """The file of a filter for these rules, not yet in force; None where no recursor is. May run in a thread."""
        folder = Path(rules.settings.recursor.control)
        if not folder.is_dir():
            return None
        self._filter = self._filter or Filter(folder)
        return self._filter.prepare(rules.suffixes(), rules.asks_for_all)

    def _switch_filter(self, prepared: Path | None) -> None:
        if prepared is None or self._filter is None:
            return
        self.teacher.switch_filter(self._filter, prepared)

    def database_in_force(self) -> Path | None:
        """The country database that the rules were made of."""
        return refresh.in_force(self.rules.settings, self.paths.state)

    async def _compile(self, s: Settings) -> RuleSet:
        def work() -> tuple[RuleSet, Content]:
            names, listed = self.lists.read(s.lists, s.bypass.lists)
            return compile_rules(s, self.paths.state, refresh.in_force(s, self.paths.state), names), listed

        rules, self.listed = await asyncio.to_thread(work)
        return rules

    async def _guard(self) -> None:
        """Keeps clients from taking their DNS elsewhere; where that cannot be, it is told, and routing goes on."""
        s = self.rules.settings

        def work() -> tuple[bool, list[str]]:
            named = {name: s.lists[name] for name in s.bypass.lists} if s.bypass.enabled else {}
            lists = self.lists.read(named, named)[0].values()
            resolvers, wide = bypass.known(lists)
            zone, unsaid = policies.zone(lists)
            bypass.apply(s, resolvers)
            folder = Path(s.recursor.control)
            return folder.is_dir() and policies.write(folder, zone), [*wide, *unsaid]

        try:
            changed, told = await asyncio.to_thread(work)
            self.problems += [f"bypass.lists: {text}" for text in told]
            if changed:
                await reload_policies(s.recursor.control)
        except (bypass.BypassRefused, OSError) as error:
            self.problems.append(f"bypass: {error}")
            log.error("bypass: %s", error)

    async def reload(self) -> dict[str, Any]:
        """Puts the settings on disk in force, or answers with every problem and leaves the old generation as it is."""
        async with self._reloading:
            if not self.generation:
                return self._result("applied" if await self.try_start() else "refused")
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
                judged = await asyncio.to_thread(self.teacher.judged, rules)
                await asyncio.to_thread(self._commit, prepared, judged)
        except KernelProblem as error:
            # what was prepared lies where nobody looks; only chains of another form would be closed now
            self.problems = [f"the kernel refused: {error}"]
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

    def _commit(self, prepared: Prepared, judged: Judged) -> None:
        """Changes rules, learned table and kernel over as one: meanwhile no answer is judged. Raises KernelProblem."""
        teacher = self.teacher
        with teacher.lock:
            before, learned = teacher.rules, teacher.alive()
            changes = teacher.take(prepared.rules, judged)
            try:
                self.kernel.commit(prepared, teacher.elements, changes)
            except KernelProblem:
                teacher.learned.replace(learned)
                teacher.take(before, {})
                raise

    async def _cut(self, before: RuleSet) -> int:
        """Ends the connections whose rule says so and whose exit is another one now; returns their number."""
        rules = self.rules
        if not any(rule.live == "cut" for rule in (*rules.rules, *before.rules)):
            return 0
        leads, ours = dict(exit_of(rules, self.kernel.down)), {e.mark for e in before.settings.exits}
        learned = {address: entry.mark for address, entry in self.teacher.alive()}
        alone = rules.settings.learn_scope == "client"

        def unwanted(flow: Flow) -> bool:
            if flow.mark not in ours:
                return False
            key = ClientAddress(flow.source, flow.destination) if alone else flow.destination
            mark = learned.get(key) or rules.covering(flow.destination)
            old = before.by_mark.get(before.covering(flow.destination), before.fallback)
            new = rules.by_mark.get(mark, rules.fallback)
            return leads.get(mark) != flow.mark and any(r is not None and r.live == "cut" for r in (new, old))

        return await asyncio.to_thread(_with_conntrack, lambda conntrack: conntrack.cut(unwanted))

    async def forget(self, what: Address | str | None) -> int:
        """Forgets learned addresses: all, one, or what a name taught; returns their number. Raises KernelRefused."""
        with self.teacher.lock:
            changes = inquiry.forgetting(self, what)
            self.teacher.forget(changes)
        await self._wipe()  # an answer that the recursor keeps would hand out what was forgotten
        return len(changes)

    # --- health

    def _health_changed(self, e: Exit, state: ExitHealth) -> None:
        """Changes which exit new connections take; those of a dead exit end: nobody will answer for their NAT."""
        down = self.monitor.down()
        instead = stand_in(e, down, self.rules.settings)
        log.warning("exit %s is %s%s", e.name, "up" if state.up else "down", f": {state.reason}" * bool(state.reason))
        try:
            with self.teacher.lock:
                self.kernel.down = down
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
            "version": self.rules.settings.version if self.generation else None,
            "problems": self.problems if result == "refused" else [],
            "changes": changes or {},
        }

    # --- running

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        pauses = Pauses(self.clock)
        pauses.begin()
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: asyncio.ensure_future(self.reload()))
        link_events = events.listen()
        loop.add_reader(link_events, self._links, link_events)
        control = Control(self, self.paths.control)
        await control.start()
        self.paths.ready().unlink(missing_ok=True)
        try:
            while not stop.is_set() and not self.generation:
                async with self._reloading:
                    started = self.generation or await self.try_start()
                if not started:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), LOOK_EVERY)
            if self.generation:
                self.paths.ready().touch()
                self._start(self.refresher.run())
                self._start(self.keeper.run())
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_EVERY)
                await self._look()
                await self._stand()
                await self._renewed()
                await self._know()
                await self._tell_recursor()
                await self._save()
                pauses.look()
        finally:
            self.paths.ready().unlink(missing_ok=True)
            if self.generation:
                self.server.stop()
                await self._save()
            self.monitor.stop()
            for task in self._tasks:
                task.cancel()
            await control.stop()

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
                with self.teacher.lock:
                    changed = self.kernel.links_changed(self.rules, seen)
                if changed:
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
        """Takes in, once a minute, which of the learned addresses that are about to end connections have renewed."""
        now = self.clock()
        if now - self._read < READ_EVERY:
            return
        self._read = now
        ending = await asyncio.to_thread(self.teacher.ending, 2 * READ_EVERY)
        try:
            self.teacher.outlive(await asyncio.to_thread(seconds_left, ending))
        except KernelProblem as error:
            log.warning("learned elements: %s", error)

    async def _tell_recursor(self) -> None:
        """Tells a recursor that began anew which names to ask for, and has it forget what it answered before that."""
        life = began(self.rules.settings.recursor.control)
        if life is None or life == self._recursor:
            return
        async with self._reloading:
            try:
                self._switch_filter(await asyncio.to_thread(self._prepare_filter, self.rules))
            except OSError as error:
                log.warning("the suffix filter was not written: %s", error)
                return
            await self._wipe()
        self._recursor = life
        self.events.add("recursor")

    async def _know(self) -> None:
        """Takes in which addresses are one client's, where answers count for their client alone."""
        if self.rules.settings.learn_scope == "client":
            self.teacher.know(await asyncio.to_thread(peers.addresses, self.rules.settings.ingress))

    async def _anew(self) -> None:
        """Puts the rules in force into the kernel once more."""
        try:
            prepared = await asyncio.to_thread(self.kernel.prepare, self.rules)
            with self.teacher.lock:
                self.kernel.commit(prepared, self.teacher.elements)
        except KernelProblem as error:
            log.error("the rules could not be put in force anew: %s", error)
            return
        await self._finish(prepared)

    async def _finish(self, prepared: Prepared) -> None:
        """Clears what the generation before left; where that fails the next one does it."""
        try:
            await asyncio.to_thread(self.kernel.finish, prepared)
            with self.teacher.lock:
                self.kernel.open(self.rules)
        except KernelProblem as error:
            log.warning("the old maps were not emptied: %s", error)

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(self.teacher.save)
            self.unsaved = None
        except OSError as error:
            if self.unsaved is None:
                log.warning("the learned table was not saved: %s", error)
            self.unsaved = str(error)


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
