"""The kernel as one thing: install, fill, open, learn, reload. Every method either takes effect whole or raises.

Knows: skeleton, elements, rules and routes, in which order. Must not know: DNS, files of settings, HTTP.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ipt_server.core.intervals import Intervals
from ipt_server.core.learned import Address, Change
from ipt_server.core.rules import RuleSet
from ipt_server.kernel import KernelProblem, routes, skeleton
from ipt_server.kernel.netlink import Batch, KernelRefused, Socket
from mrvpn import marks

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


class Kernel:
    """What ipt_server does to its namespace."""

    def __init__(self) -> None:
        self._socket = Socket()
        self._default: str | None = None
        self._small: str | None = None  # the small sets' elements that are in force

    def apply(self, rules: RuleSet, learned: Iterable[tuple[Address, int, float]]) -> bool:
        """Makes the kernel what the rules say, keeping a standing table of the same form; returns whether it was kept.

        `learned`: (address, mark, seconds left). A new table stays closed until the one batch that fills every map and
        opens it: a rule's mark means something else in another generation, so that maps and `exit_of` change together.
        """
        s = rules.settings
        counts = {family: skeleton.shards(len(rules.intervals[family])) for family in (4, 6)}
        kept = standing_form() == skeleton.structure(s, counts)
        if not kept:
            nft(skeleton.table(s, counts))
        routes.apply_rules(s)
        routes.apply_tables(s)
        if kept and self._small != skeleton.update(s):
            nft(skeleton.update(s))
        self._small = skeleton.update(s)
        batch = Batch(skeleton.TABLE)
        elements = list(learned)
        for family in (4, 6):
            _fill(batch, rules.intervals[family], counts[family])
            own = [(int(a), mark, seconds) for a, mark, seconds in elements if a.version == family]
            batch.flush(f"learned{family}").set_timed(f"learned{family}", family, own)
        self._socket.send(self._opening(batch, rules))
        return kept

    def open(self, rules: RuleSet) -> None:
        """Lets traffic pass by its exits: `exit_of` and `pair` in one batch."""
        self._socket.send(self._opening(Batch(skeleton.TABLE), rules))

    def _opening(self, batch: Batch, rules: RuleSet) -> Batch:
        s = rules.settings
        self._default = routes.default_interface()
        pairs = [(e.mark, e.interface or self._default) for e in s.exits]
        exit_of = [(rule.mark, rules.exit_of(rule.mark).mark) for rule in rules.rules]
        exit_of.append((marks.DEFAULT_RULE, rules.exit_of(marks.DEFAULT_RULE).mark))
        batch.replace_marks("exit_of", exit_of)
        return batch.replace_pairs("pair", [(mark, name) for mark, name in pairs if name])

    def links_changed(self, rules: RuleSet) -> int:
        """Puts back what an interface took with it; returns the number of changes."""
        changed = routes.apply_tables(rules.settings)
        if routes.default_interface() != self._default:
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
    bounds = [number * len(intervals) // count for number in range(count + 1)]
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
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
