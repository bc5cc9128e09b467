"""The kernel as one thing: install, fill, open, learn, reload. Every method either takes effect whole or raises.

Knows: skeleton, elements, rules and routes, in which order. Must not know: DNS, files of settings, HTTP.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ipt_server.core.failover import exit_of
from ipt_server.core.intervals import SIZE, Intervals
from ipt_server.core.learned import Change, ClientAddress, Key
from ipt_server.core.rules import RuleSet
from ipt_server.kernel import KernelProblem, routes, skeleton
from ipt_server.kernel.inspect import stands
from ipt_server.kernel.netlink import MESSAGE, Batch, KernelRefused, Socket, interval_records
from ipt_server.settings import handed

log = logging.getLogger(__name__)
_PROTOCOLS = {4: b"\x02", 6: b"\x0a"}  # as meta nfproto has them
_MESSAGES_A_BATCH = 12


class NftRefused(KernelProblem):
    """nft refused a text; the message is its first line, and nothing of the text is in force."""


def nft(text: str) -> None:
    """Puts a text in force as one transaction."""
    done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise NftRefused((done.stderr.strip() or "nft failed").splitlines()[0])


def standing_form() -> str | None:
    """The form of the table that stands, or None where there is none."""
    done = subprocess.run(
        ["nft", "-t", "list", "table", "inet", skeleton.TABLE], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        return None
    for line in done.stdout.splitlines():
        line = line.strip()
        if line.startswith("comment "):
            return line.removeprefix("comment ").strip('"')
    return ""


def says_the_same(before: RuleSet, after: RuleSet) -> bool:
    """Whether the maps of one generation serve another: the same intervals, with marks that mean the same."""
    led, leads = dict(exit_of(before, ())), dict(exit_of(after, ()))
    return before.intervals == after.intervals and all(leads.get(mark, exit_) == exit_ for mark, exit_ in led.items())


@dataclass(frozen=True)
class Prepared:
    """A generation whose chains, small sets, rules and routes are in force and whose maps wait in a buffer."""

    rules: RuleSet
    kept: bool  # the standing table was of the same form
    buffer: str
    default: str | None
    counts: skeleton.Counts


class Element(NamedTuple):
    """A learned element: what a generation's kernel must hold, and what one holds."""

    key: Key
    mark: int
    seconds: float  # left of its life
    name: str = ""  # that taught it


class Applying(Protocol):
    """The steps of a kernel of any kind, and all of them in order."""

    def prepare(self, rules: RuleSet) -> Prepared: ...

    def commit(self, prepared: Prepared, learned: Callable[[], Iterable[Element]]) -> None: ...

    def finish(self, prepared: Prepared) -> None: ...

    def open(self, rules: RuleSet) -> None: ...

    def apply(self, rules: RuleSet, learned: Iterable[Element]) -> bool:
        """Makes the kernel what the rules say; returns whether a standing table of the same form was kept."""
        prepared = self.prepare(rules)
        self.commit(prepared, lambda: learned)
        self.finish(prepared)
        self.open(rules)
        return prepared.kept


class Kernel(Applying):
    """What ipt_server does to its namespace.

    A generation's interval maps are filled in the buffer that nobody looks into, then one batch of hash maps
    (`current`, `exit_of`, `pair`, learned addresses) puts all in force: a packet is judged by one generation or by the
    other, never by both, and what fails before that batch has changed nothing. `commit`, `open`, `links_changed` and
    `learn` are for one thread at a time; `prepare` and `finish` may run beside them.
    """

    def __init__(self) -> None:
        self.down: frozenset[str] = frozenset()  # exits whose rules go by their stand-ins
        self.buffer = "a"  # the one in force
        self.default: str | None = None  # the interface of the default exit
        self._socket = Socket()
        self._filling = Socket()  # apart from the one that answers wait for: it is used in a thread
        self._rules: RuleSet | None = None
        self._form: str | None = None
        self._filled: str | None = None  # the buffer that holds the intervals of `_rules`
        self._opened: frozenset[bytes] = frozenset()  # the elements of `pair`

    def prepare(self, rules: RuleSet) -> Prepared:
        """Does all that takes time and changes no packet's way; a new table is closed. Raises KernelProblem."""
        s = rules.settings
        counts = skeleton.counts(rules.intervals)
        form = skeleton.structure(s, counts)
        standing = self._form if self._form is not None and stands() else standing_form()
        kept = standing == form
        if not kept:
            self._filled = None
            nft(skeleton.table(s, counts))
        self._form = form
        routes.apply_rules(s)
        seen = routes.look()
        routes.apply_tables(s, seen)
        small = Batch(skeleton.TABLE)
        for one in skeleton.sets(s):
            small.replace_elements(one.name, *_wire(one))
        self._filling.send(small)
        in_force = self._in_force() if kept else None
        if in_force is not None and self._stays(rules, in_force):
            return Prepared(rules, kept, in_force, seen.default_interface(), counts)
        buffer = "b" if in_force == "a" else "a"
        for layer, intervals in skeleton.held(rules.intervals, buffer):
            self._fill(layer, intervals, skeleton.TAG if buffer == "b" else 0)
        return Prepared(rules, kept, buffer, seen.default_interface(), counts)

    def _in_force(self) -> str | None:
        """The buffer that `current` names, or None in a table that is closed."""
        chain = self._filling.jump("current", _PROTOCOLS[4])
        return chain.removeprefix("look_") if chain else None

    def _stays(self, rules: RuleSet, buffer: str) -> bool:
        """Whether a buffer that is in force says what these rules say, with marks that mean the same."""
        return self._rules is not None and self._filled == buffer and says_the_same(self._rules, rules)

    def _fill(self, layer: skeleton.Layer, intervals: Intervals, tag: int) -> None:
        """Fills a layer of a buffer that is not in force, a part at a time: answers wait for no long batch."""
        jumps = []
        for name, (start, stop) in zip(layer.maps, skeleton.cuts(len(intervals), layer.count), strict=True):
            records, size = interval_records(intervals.part(start, stop), tag)
            batch = Batch(skeleton.TABLE).flush(name)
            step = MESSAGE // size * size
            for place, at in enumerate(range(0, len(records), step), 1):
                batch.add_records(name, records[at : at + step])
                if place % _MESSAGES_A_BATCH == 0:
                    self._filling.send(batch)
                    batch = Batch(skeleton.TABLE)
            self._filling.send(batch)
            if layer.count > 1:
                jumps.append((intervals[start][0], intervals[stop - 1][1], name))
        if layer.count > 1:
            self._filling.send(Batch(skeleton.TABLE).replace_jumps(layer.shards, intervals.family, jumps))

    def commit(
        self,
        prepared: Prepared,
        learned: Callable[[], Iterable[Element]],
        changes: Sequence[Change] | None = None,
    ) -> None:
        """Puts a prepared generation in force. Raises KernelRefused.

        `changes`: what of it differs from the generation before; where the buffer stays, the rest is left as it is.
        """
        if changes is not None and prepared.kept and prepared.buffer == self.buffer:
            try:
                self._commit(prepared, _learning(self._tagged(changes)))
                return
            except KernelRefused as error:
                if not error.differs:
                    raise
        batch, buffer = Batch(skeleton.TABLE), prepared.buffer
        wide = prepared.rules.settings.learn_scope == "client"
        elements = list(learned())
        for family in (4, 6):
            own = [
                (int(e.key), skeleton.tagged(e.mark, buffer), e.seconds, e.name)
                for e in elements
                if e.key.version == family
            ]
            batch.flush(f"learned{family}").set_timed(f"learned{family}", family, own, wide)
        self._commit(prepared, batch)

    def _commit(self, prepared: Prepared, batch: Batch) -> None:
        """Puts a batch of learned addresses in force, and with it the generation."""
        buffer = prepared.buffer
        batch.replace_verdicts("current", [(key, f"look_{buffer}") for key in _PROTOCOLS.values()])
        # a packet that was looked up a moment ago still finds the exit that its mark meant
        before = self._marked(self._rules, self.buffer) if self._rules and buffer != self.buffer else {}
        gone = handed(self._rules.settings, prepared.rules.settings) if self._rules else frozenset()
        before = {rule: mark for rule, mark in before.items() if mark not in gone}
        self._open(batch, prepared.rules, prepared.default, buffer, before)
        self.buffer, self.default, self._rules = buffer, prepared.default, prepared.rules
        self._filled = buffer

    def finish(self, prepared: Prepared) -> None:
        """Empties the buffer that is out of force, beside the loop. Raises KernelRefused.

        Then `open`, on the loop, lets `exit_of` forget the marks of what was emptied.
        """
        other = "b" if prepared.buffer == "a" else "a"
        for family in (4, 6):
            for layer in skeleton.geo(family, other, prepared.counts):
                for name in [*layer.maps, *([layer.shards] if layer.count > 1 else [])]:
                    self._filling.send(Batch(skeleton.TABLE).flush(name))

    def open(self, rules: RuleSet) -> None:
        """Lets traffic pass by its exits: `exit_of` and `pair` in one batch. Raises KernelRefused."""
        self._open(Batch(skeleton.TABLE), rules, self.default, self.buffer, {})

    def _marked(self, rules: RuleSet, buffer: str) -> dict[int, int]:
        return {skeleton.tagged(mark, buffer): exit_ for mark, exit_ in exit_of(rules, self.down)}

    def _open(self, batch: Batch, rules: RuleSet, default: str | None, buffer: str, before: Mapping[int, int]) -> None:
        batch.replace_marks("exit_of", {**before, **self._marked(rules, buffer)}.items())
        pairs = _pairs(rules, default)
        self._socket.send(batch.replace_elements("pair", [(pair, None, None) for pair in pairs]))
        self._opened = pairs

    def links_changed(self, rules: RuleSet, seen: routes.Snapshot | None = None) -> int:
        """Puts back what an interface took with it; returns the number of changes. Raises KernelProblem."""
        seen = seen or routes.look()
        changed = routes.apply_tables(rules.settings, seen)
        default = seen.default_interface()
        if default != self.default or _pairs(rules, default) != self._opened:
            self.default = default
            self.open(rules)
            changed += 1
        return changed

    def learn(self, changes: Sequence[Change]) -> None:
        """Puts learned addresses in force; returns when the kernel has them. Raises KernelRefused."""
        if not changes:
            return
        changes = self._tagged(changes)
        try:
            key, mark, seconds, replaces, name = changes[0]
            if mark is not None and len(changes) == 1:
                wide = isinstance(key, ClientAddress)
                self._socket.learn(key.version, int(key), mark, seconds, replaces, wide, name)
            else:
                self._socket.send(_learning(changes))
        except KernelRefused as error:
            if not error.differs:
                raise
            # the kernel's elements are not what the table thought (one ran out, one was restored): each for itself
            for change in changes:
                self._learn_one(change)

    def _tagged(self, changes: Sequence[Change]) -> Sequence[Change]:
        """The changes with their marks as the buffer in force has them."""
        if self.buffer != "b":
            return changes
        return [c._replace(mark=None if c.mark is None else c.mark ^ skeleton.TAG) for c in changes]

    def _learn_one(self, change: Change) -> None:
        """Makes one element what the change says, whether it is there or not."""
        for attempt in range(4):
            there = change.replaces == (attempt % 2 == 0)
            try:
                if there or change.mark is not None:
                    self._socket.send(_learning([change._replace(replaces=there)]))
                return
            except KernelRefused as error:
                if not error.differs or attempt == 3:
                    raise
                if change.mark is None and error.errno == errno.ENOENT:
                    return

    def standing_learned(self) -> list[Element]:
        """The learned elements that the kernel holds; none where there is no table. Raises KernelRefused."""
        found = []
        for family in (4, 6):
            try:
                for packed, mark, seconds, name in self._filling.timed(f"learned{family}"):
                    parts = [
                        ipaddress.ip_address(packed[at : at + SIZE[family]])
                        for at in range(0, len(packed), SIZE[family])
                    ]
                    key = ClientAddress(*parts) if len(parts) > 1 else parts[0]
                    found.append(Element(key, skeleton.untagged(mark), seconds, name))
            except KernelRefused as error:
                if error.errno != errno.ENOENT:
                    raise
        return found

    def close(self) -> None:
        """Lets go of the kernel; what is in force stays."""
        self._socket.close()
        self._filling.close()


def _pairs(rules: RuleSet, default: str | None) -> frozenset[bytes]:
    """The elements of `pair`, of the interfaces that are there: by index, which an interface that returns has anew."""
    index = {name: number for number, name in socket.if_nameindex()}
    pairs = skeleton.pairs(rules.settings, default)
    return frozenset(_key((index[a], mark, index[b]))[0] for a, mark, b in pairs if a in index and b in index)


def _key(parts: Sequence[skeleton.Part]) -> tuple[bytes, bytes]:
    """The first and the last key that the parts of an element stand for; the same where none is a prefix."""
    first, last = b"", b""
    for part in parts:
        if isinstance(part, str):
            ends = [part.encode().ljust(16, b"\0")]
        elif isinstance(part, int):
            ends = [part.to_bytes(4, sys.byteorder)]
        elif isinstance(part, ipaddress.IPv4Network | ipaddress.IPv6Network):
            ends = [part.network_address.packed, part.broadcast_address.packed]
        else:
            ends = [part.packed]
        first, last = first + ends[0], last + ends[-1]
    return first, last


def _wire(small: skeleton.Small) -> tuple[list[tuple[bytes, bytes | None, int | None]], bool]:
    """A small set's elements as `Batch.replace_elements` takes them."""
    ranges = "flags interval" in small.declaration
    found: list[tuple[bytes, bytes | None, int | None]] = []
    for element in small.elements:
        mark = element[-1] if small.is_map else None
        first, last = _key(element[:-1] if small.is_map else element)
        found.append((first, last if ranges else None, mark if isinstance(mark, int) else None))
    return found, ranges and all(len(element) == 1 for element in small.elements)


def _learning(changes: Sequence[Change]) -> Batch:
    """The batch of changes: what replaces goes first, and what is new must not be there."""
    batch = Batch(skeleton.TABLE)
    for family in (4, 6):
        own = [c for c in changes if c.address.version == family]
        name, wide = f"learned{family}", any(isinstance(c.address, ClientAddress) for c in own)
        if old := [int(c.address) for c in own if c.replaces or c.mark is None]:
            batch.delete(name, family, old, wide)
        if new := [(int(c.address), c.mark, c.timeout, c.name) for c in own if c.mark is not None]:
            batch.set_timed(name, family, new, wide)
    return batch
