"""What an answer teaches: rules in force, learned table and kernel held together, for the thread that gives verdicts.

Knows: the order of a lesson (table, kernel, journal), and the one lock between the verdicts' thread and the daemon's
loop. Must not know: sockets of the hook, generations, files of settings.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ipt_server import memory
from ipt_server.core.answers import Answer, Judgement, Lesson, judge
from ipt_server.core.learned import (
    Address,
    Change,
    ClientAddress,
    Entry,
    Full,
    Key,
    Learned,
    destination,
)
from ipt_server.core.rules import RuleSet
from ipt_server.dns.filter import Filter
from ipt_server.dns.server import Refused
from ipt_server.kernel.netlink import KernelRefused, carries
from ipt_server.kernel.state import Element
from ipt_server.settings import RuleSetting

INHERITED_MAX = 50_000
Judged = Mapping[Key, tuple[str, int | None]]


class Elements(Protocol):
    """What puts learned addresses in force: returns when the kernel has them, or raises KernelRefused."""

    def learn(self, changes: Sequence[Change]) -> None: ...


class Teacher:
    """The rules in force and what was learned by them.

    `lock` is held by whoever changes either, or what the kernel has of them: a packet's way follows from both.
    """

    def __init__(
        self,
        rules: RuleSet,
        learned: Learned,
        kernel: Elements,
        journal: memory.Journal,
        clock: Callable[[], float],
        observe: Callable[[float], None],
    ) -> None:
        """`observe` is told the seconds from an answer to the kernel, after the answer has been let go."""
        self.lock = threading.RLock()
        self.learned = learned
        self.inherited: dict[str, str] = {}
        self.filter: Filter | None = None
        self._kernel, self._journal, self._clock, self._observe = kernel, journal, clock, observe
        self._took: list[float] = []
        self._unwritten: list[tuple[Key, Entry]] = []  # the kernel has them, with their names; the journal not yet
        self._peers: Sequence[Sequence[str]] = ()
        self._clients: dict[str, tuple[Address, ...]] = {}
        self._use(rules)

    def _use(self, rules: RuleSet) -> None:
        self.rules, self._own = rules, frozenset(map(ipaddress.ip_address, rules.settings.own))
        self._shared = rules.settings.learn_scope == "all"
        self.know()

    # --- answers

    def teach(self, answer: Answer) -> Judgement:
        """Has an answer's addresses in the kernel before it returns the judgement; raises Refused."""
        began = time.perf_counter()
        with self.lock:
            now, learned = self._clock(), self.learned if self._shared else None
            judgement = judge(answer, self.rules, self.inherited, self._own, learned, now)
            if judgement.lessons:
                judgement, lessons = self._scoped(judgement, answer.client)
                if self._learn(lessons, answer.client, now):
                    self._took.append(time.perf_counter() - began)
            for target, source in judgement.inherit:
                # before the answer is let go, so that the target's own question finds its way here
                if target not in self.inherited and len(self.inherited) >= INHERITED_MAX:
                    del self.inherited[next(iter(self.inherited))]
                self.inherited[target] = source
                if self.filter is not None:
                    self.filter.add(target)
        return judgement

    def _scoped(self, judgement: Judgement, client: str) -> tuple[Judgement, list[tuple[Key, Lesson]]]:
        """The lessons by their keys in the table. What counts for its client alone counts for all its addresses.

        A client asks by one family and may be answered with the other's addresses: where its own address there is not
        known, IPv6 addresses are withheld. Raises Refused for IPv4 ones, without which there would be no answer.
        """
        if self._shared:
            return judgement, [(lesson.address, lesson) for lesson in judgement.lessons]
        own = self._clients.get(client) or (ipaddress.ip_address(client),)
        keyed: list[tuple[Key, Lesson]] = []
        for lesson in judgement.lessons:
            mine = [address for address in own if address.version == lesson.address.version]
            if not mine and lesson.address.version == 4:
                raise Refused(f"client {client} asked over IPv6, and no IPv4 address of it is known")
            if not mine:
                judgement = judgement._replace(no_ipv6=True)
            keyed += [(ClientAddress(address, lesson.address), lesson) for address in mine]
        return judgement, keyed

    def know(self, peers: Iterable[Sequence[str]] | None = None) -> None:
        """Takes in which addresses are one client's, beside what the settings say; None leaves what was known."""
        if peers is not None:
            self._peers = tuple(peers)
        found: dict[str, tuple[Address, ...]] = {}
        for addresses in (*self._peers, *self.rules.settings.clients):
            own = tuple(map(ipaddress.ip_address, addresses))
            found.update({str(address): own for address in own})
        self._clients = found

    def settle(self) -> None:
        """Does what no answer has to wait for."""
        if self._unwritten:
            with self.lock:
                self._write()
        took, self._took = self._took, []
        for seconds in took:
            self._observe(seconds)

    def _write(self) -> None:
        """Has the journal say what the kernel was taught; under `lock`."""
        if self._unwritten:
            unwritten, self._unwritten = self._unwritten, []
            self._journal.add(unwritten)

    def _learn(self, lessons: Sequence[tuple[Key, Lesson]], client: str, now: float) -> bool:
        """Teaches the kernel the lessons; returns whether any was new to it. All or none: raises Refused."""
        learned = self.learned
        changes: list[Change] = []
        undo: list[tuple[Key, Entry | None]] = []
        try:
            for key, lesson in lessons:
                entry = learned.snapshot(key)
                undo.append((key, entry))
                better = entry is None or self._better(lesson.rule, entry.mark)
                change = learned.learn(key, lesson.rule.mark, better, lesson.ttl, lesson.name, now, client)
                if change is not None:
                    changes.append(change)
            if changes:
                self._kernel.learn(changes)
        except (Full, KernelRefused) as error:
            for key, before in reversed(undo):
                learned.restore(key, before)
            raise Refused(str(error)) from None
        carried = True
        for change in changes:
            self._unwritten.append((change.address, learned.entries[change.address]))
            carried = carried and carries(change.name)
        if not carried:
            self._write()  # a kill between answer and journal would leave an element that nobody can judge
        return bool(changes)

    def _better(self, rule: RuleSetting, mark: int) -> bool:
        """Whether a rule wins over the one whose mark an address carries."""
        other = self.rules.by_mark.get(mark)
        if other is None:
            return True
        order = self.rules.position
        return (-rule.weight, order[rule.mark]) < (-other.weight, order[other.mark])

    # --- generations

    def judged(self, rules: RuleSet) -> Judged:
        """What other rules say of every learned address: {address: (name, mark or None)}. Long: for a thread."""
        return {address: (entry.name, _mark(rules, address, entry)) for address, entry in self.alive()}

    def take(self, rules: RuleSet, judged: Judged) -> list[Change]:
        """Makes these the rules in force and gives every learned address the mark they say; under `lock`.

        `judged`: what `judged` found for these rules; what was learned since is judged here. Returns what differs.
        """
        self._use(rules)

        def mark(address: Key, entry: Entry) -> int | None:
            name, found = judged.get(address, (None, None))
            return found if name == entry.name else _mark(rules, address, entry)

        changes = self.learned.rejudge(mark, self._clock())
        if changes:
            self._journal.touch()
        return changes

    def entry(self, address: Address, client: Address | None) -> Entry | None:
        """What was learned of an address; where answers count for their clients alone, by this client."""
        if self._shared:
            return self.learned.entries.get(address)
        return self.learned.entries.get(ClientAddress(client, address)) if client is not None else None

    def alive(self) -> list[tuple[Key, Entry]]:
        """The living entries."""
        with self.lock:
            return self.learned.alive(self._clock())

    def elements(self) -> list[Element]:
        """What the kernel must hold."""
        now = self._clock()
        return [Element(key, entry.mark, entry.expiry - now, entry.name) for key, entry in self.alive()]

    # --- the rest of a life

    def forget(self, changes: Sequence[Change]) -> None:
        """Forgets the addresses of these deletions. Raises KernelRefused; then all are kept."""
        with self.lock:
            self._kernel.learn(changes)
            gone = {change.address for change in changes}
            self.learned.replace([(a, entry) for a, entry in self.alive() if a not in gone])
            self._journal.touch()

    def ending(self, within: float) -> list[Key]:
        """The addresses whose life ends within so many seconds, as far as is known here. Long: for a thread."""
        latest = self._clock() + within
        return [key for key, entry in self.alive() if entry.expiry <= latest]

    def outlive(self, left: Mapping[Key, float]) -> None:
        """Takes in that connections renewed elements in the kernel: the seconds that they have left."""
        now, entries = self._clock(), self.learned.entries
        with self.lock:
            for key, seconds in left.items():
                self.learned.outlive(key, now + seconds)
            self._unwritten += [(key, entries[key]) for key in left if key in entries]
            self._write()

    def switch_filter(self, filter_: Filter, prepared: Path) -> None:
        """Puts a prepared filter in force, with the names that inherit a rule."""
        with self.lock:
            filter_.switch(prepared)
            self.filter = filter_
            for name in self.inherited:
                filter_.add(name)

    def save(self) -> None:
        """Writes the learned table whole, where its file does not say what is, or mostly what was. Raises OSError."""
        with self.lock:
            self._write()
            if not self._journal.begin(len(self.learned.entries)):
                return
            entries = self.alive()
        # an entry that is changed from here on is added again by whoever taught it
        self._journal.write(entries, self.lock)


def _mark(rules: RuleSet, key: Key, entry: Entry) -> int | None:
    if isinstance(key, ClientAddress) != (rules.settings.learn_scope == "client"):
        return None  # what counted for all is no one client's, and the other way round
    best = rules.ruling((entry.name,)).rule if entry.name else None
    return best.mark if best is not None and rules.beats(best, destination(key)) else None
