"""The kernel as one thing: install, fill, open, learn, reload. Every method either takes effect whole or raises.

Knows: skeleton, elements, rules and routes, in which order. Must not know: DNS, files of settings, HTTP.
"""

from __future__ import annotations

import errno
import json
import logging
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ipt_server.core.failover import exit_of
from ipt_server.core.intervals import Intervals
from ipt_server.core.learned import Address, Change
from ipt_server.core.rules import RuleSet
from ipt_server.kernel import KernelProblem, routes, skeleton
from ipt_server.kernel.netlink import Batch, KernelRefused, Socket

log = logging.getLogger(__name__)


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


def stands() -> bool:
    """Whether our table is there at all, asked without a dump of its maps."""
    done = subprocess.run(["nft", "list", "tables", "inet"], capture_output=True, text=True, timeout=60)
    return done.returncode == 0 and f"table inet {skeleton.TABLE}" in done.stdout.splitlines()


@dataclass(frozen=True)
class Prepared:
    """A generation whose chains, small sets, rules and routes are in force; its maps wait to change at once."""

    rules: RuleSet
    kept: bool  # the standing table was of the same form
    batch: Batch
    default: str | None
    intervals: Mapping[int, Intervals]


class Kernel:
    """What ipt_server does to its namespace."""

    def __init__(self) -> None:
        self.down: frozenset[str] = frozenset()  # exits whose rules go by their stand-ins
        self._socket = Socket()
        self.default: str | None = None  # the interface of the default exit
        self._form: str | None = None
        self._small: str | None = None  # the small sets' elements that are in force
        self._intervals: Mapping[int, Intervals] = {}  # what is in the maps, where that is known

    def apply(self, rules: RuleSet, learned: Iterable[tuple[Address, int, float]]) -> bool:
        """Makes the kernel what the rules say; returns whether a standing table of the same form was kept."""
        prepared = self.prepare(rules)
        self.commit(prepared, learned)
        return prepared.kept

    def prepare(self, rules: RuleSet) -> Prepared:
        """Does all that takes time and misleads no packet; a new table is closed. Raises KernelProblem."""
        s = rules.settings
        counts = {family: skeleton.shards(len(rules.intervals[family])) for family in (4, 6)}
        form = skeleton.structure(s, counts)
        standing = self._form if self._form is not None and stands() else standing_form()
        kept = standing == form
        if not kept:
            self._intervals = {}
            nft(skeleton.table(s, counts))
        routes.apply_rules(s)
        seen = routes.look()
        routes.apply_tables(s, seen)
        if kept and self._small != skeleton.update(s):
            nft(skeleton.update(s))
        self._form, self._small = form, skeleton.update(s)
        batch = Batch(skeleton.TABLE)
        for family in (4, 6):
            if self._intervals.get(family) != rules.intervals[family]:
                _fill(batch, rules.intervals[family], counts[family])
        return Prepared(rules, kept, batch, seen.default_interface(), rules.intervals)

    def commit(self, prepared: Prepared, learned: Iterable[tuple[Address, int, float]]) -> None:
        """Changes every map in one batch and opens what was closed. `learned`: (address, mark, seconds left).

        A rule's mark means something else in another generation, so that maps and `exit_of` change together.
        Raises KernelRefused; then the maps are as they were.
        """
        batch = prepared.batch
        elements = list(learned)
        for family in (4, 6):
            own = [(int(a), mark, seconds) for a, mark, seconds in elements if a.version == family]
            batch.flush(f"learned{family}").set_timed(f"learned{family}", family, own)
        self.default = prepared.default
        try:
            self._socket.send(self._opening(batch, prepared.rules))
        except KernelRefused:
            self._form, self._small, self._intervals = None, None, {}
            raise
        self._intervals = prepared.intervals

    def open(self, rules: RuleSet) -> None:
        """Lets traffic pass by its exits: `exit_of` and `pair` in one batch. Raises KernelRefused."""
        self._socket.send(self._opening(Batch(skeleton.TABLE), rules))

    def _opening(self, batch: Batch, rules: RuleSet) -> Batch:
        pairs = [(e.mark, e.interface or self.default) for e in rules.settings.exits]
        batch.replace_marks("exit_of", exit_of(rules, self.down))
        return batch.replace_pairs("pair", [(mark, name) for mark, name in pairs if name])

    def links_changed(self, rules: RuleSet, seen: routes.Snapshot | None = None) -> int:
        """Puts back what an interface took with it; returns the number of changes. Raises KernelProblem."""
        seen = seen or routes.look()
        changed = routes.apply_tables(rules.settings, seen)
        if seen.default_interface() != self.default:
            self.default = seen.default_interface()
            self.open(rules)
            changed += 1
        return changed

    def learn(self, changes: Sequence[Change]) -> None:
        """Puts learned addresses in force; returns when the kernel has them. Raises KernelRefused."""
        if not changes:
            return
        try:
            self._socket.send(_learning(changes))
        except KernelRefused as error:
            if not error.differs:
                raise
            # the kernel's elements are not what the table thought (one ran out, one was restored): each for itself
            for change in changes:
                self._learn_one(change)

    def _learn_one(self, change: Change) -> None:
        """Makes one element what the change says, whether it is there or not."""
        for attempt in range(4):
            there = change.replaces == (attempt % 2 == 0)
            try:
                if there or change.mark is not None:
                    self._socket.send(_learning([replace(change, replaces=there)]))
                return
            except KernelRefused as error:
                if not error.differs or attempt == 3:
                    raise
                if change.mark is None and error.errno == errno.ENOENT:
                    return

    def standing_learned(self) -> list[tuple[str, int, float]]:
        """The learned elements that the kernel holds: (address, mark, seconds left)."""
        found = []
        for family in (4, 6):
            done = subprocess.run(
                ["nft", "-j", "list", "map", "inet", skeleton.TABLE, f"learned{family}"],
                capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            if done.returncode:
                continue
            for item in json.loads(done.stdout)["nftables"]:
                for key, mark in item.get("map", {}).get("elem", []):
                    element = key["elem"] if isinstance(key, dict) else {"val": key}
                    found.append((str(element["val"]), int(mark), float(element.get("expires", 600))))
        return found

    def close(self) -> None:
        """Lets go of the kernel; what is in force stays."""
        self._socket.close()


def _fill(batch: Batch, intervals: Intervals, count: int) -> None:
    """Puts intervals into the maps of their family: one, or shards of equal size and the verdicts that lead there."""
    family, jumps = intervals.family, []
    for number, (start, stop) in enumerate(skeleton.cuts(len(intervals), count)):
        name = skeleton.geo(family, number, count)
        batch.replace_intervals(name, intervals.part(start, stop))
        if count > 1:
            jumps.append((intervals[start][0], intervals[stop - 1][1], name))
    if count > 1:
        batch.replace_jumps(f"shard{family}", family, jumps)


def _learning(changes: Sequence[Change]) -> Batch:
    """The batch of changes: what replaces goes first, and what is new must not be there."""
    batch = Batch(skeleton.TABLE)
    for family in (4, 6):
        own = [c for c in changes if c.address.version == family]
        name = f"learned{family}"
        if old := [int(c.address) for c in own if c.replaces or c.mark is None]:
            batch.delete(name, family, old)
        if new := [(int(c.address), c.mark, c.timeout) for c in own if c.mark is not None]:
            batch.set_timed(name, family, new)
    return batch
