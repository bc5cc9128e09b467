"""A kernel of text: takes what `Kernel` takes, and prints what that has put into its namespace, for nft(8) and ip(8).

Knows: the same order of things as `state`. Must not know: a kernel, processes. For `ipt-server compile`, and for tests
without root: what it prints, loaded by the tools, is what `Kernel` does (tests/kernel/test_kernel_printed.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence

from ipt_server.core.failover import exit_of
from ipt_server.core.intervals import Intervals
from ipt_server.core.learned import Change, ClientAddress, Key
from ipt_server.core.rules import RuleSet
from ipt_server.kernel import routes, skeleton
from ipt_server.kernel.netlink import carries
from ipt_server.kernel.state import Applying, Element, Prepared, says_the_same


class Printed(Applying):
    """Stands where a `Kernel` stands. `links`: the interfaces that are up; `default`: the default route's."""

    def __init__(self, links: Iterable[str] = (), default: str | None = None) -> None:
        self.down: frozenset[str] = frozenset()
        self.buffer = "a"
        self.default = default
        self._links = frozenset(links)
        self._rules: RuleSet | None = None
        self._form: str | None = None
        self._marked: Mapping[int, int] = {}
        self._learned: dict[Key, Element] = {}  # marks without their tag

    def prepare(self, rules: RuleSet) -> Prepared:
        """As `Kernel.prepare`; nothing is printed of it yet."""
        counts = skeleton.counts(rules.intervals)
        kept = self._form == skeleton.structure(rules.settings, counts)
        stays = kept and self._rules is not None and says_the_same(self._rules, rules)
        buffer = self.buffer if stays else "b" if kept and self.buffer == "a" else "a"
        return Prepared(rules, kept, buffer, self.default, counts)

    def commit(
        self,
        prepared: Prepared,
        learned: Callable[[], Iterable[Element]],
        changes: Sequence[Change] | None = None,
    ) -> None:
        """As `Kernel.commit`."""
        if changes is not None and prepared.kept and prepared.buffer == self.buffer:
            self.learn(changes)
        else:
            self._learned = {element.key: element for element in learned()}
        self._rules, self.buffer, self._form = (
            prepared.rules,
            prepared.buffer,
            skeleton.structure(prepared.rules.settings, prepared.counts),
        )
        self.open(prepared.rules)

    def finish(self, prepared: Prepared) -> None:
        """As `Kernel.finish`: no second buffer is printed."""

    def open(self, rules: RuleSet) -> None:
        """As `Kernel.open`."""
        self._marked = {skeleton.tagged(mark, self.buffer): exit_ for mark, exit_ in exit_of(rules, self.down)}

    def links_changed(self, rules: RuleSet, seen: routes.Snapshot) -> int:
        """As `Kernel.links_changed`, of another set of interfaces; the number is 0 where it is the same one."""
        before = (self._links, self.default)
        self._links, self.default = seen.links, seen.default_interface()
        self.open(rules)
        return int(before != (self._links, self.default))

    def learn(self, changes: Sequence[Change]) -> None:
        """As `Kernel.learn`; never refuses."""
        for change in changes:
            if change.mark is None:
                self._learned.pop(change.address, None)
            else:
                self._learned[change.address] = Element(change.address, change.mark, change.timeout, change.name)

    def standing_learned(self) -> list[Element]:
        """As `Kernel.standing_learned`; no time passes here."""
        return list(self._learned.values())

    def close(self) -> None:
        """As `Kernel.close`."""

    # --- what is printed

    def nft(self) -> str:
        """The whole table, for `nft -f -`; "" before the first generation."""
        if self._rules is None:
            return ""
        s, counts = self._rules.settings, skeleton.counts(self._rules.intervals)
        lines = [skeleton.table(s, counts)]
        for layer, intervals in skeleton.held(self._rules.intervals, self.buffer):
            lines += _maps(layer, intervals, self.buffer)
        for family in (4, 6):
            own = [element for element in self._learned.values() if element.key.version == family]
            lines += _elements(f"learned{family}", [_timed(element, self.buffer) for element in own])
        lines += _elements("current", [f"{family} : jump look_{self.buffer}" for family in ("ipv4", "ipv6")])
        lines += _elements("exit_of", [f"{rule:#x} : {exit_:#x}" for rule, exit_ in self._marked.items()])
        pairs = [pair for pair in skeleton.pairs(s, self.default) if pair[2] in {*self._links, self.default}]
        lines += _elements("pair", [f'"{ingress}" . {mark:#x} . "{name}"' for ingress, mark, name in pairs])
        return "\n".join([*lines, ""])

    def ip(self, family: int) -> str:
        """The rules and tables of a family, for `ip -batch -` where none of ours are."""
        if self._rules is None:
            return ""
        s = self._rules.settings
        nothing = routes.Snapshot(self._links, {4: {}, 6: {}})
        commands = [f"rule add {rule}" for rule in routes.wanted_rules(s)]
        return "\n".join([*commands, *routes.table_commands(s, nothing, family), ""])


def _timed(element: Element, buffer: str) -> str:
    key, mark, seconds, name = element
    words = f"{key.client} . {key.address}" if isinstance(key, ClientAddress) else str(key)
    comment = f' comment "{name}"' if name and carries(name) else ""
    return f"{words} timeout {max(1, int(1000 * seconds))}ms{comment} : {skeleton.tagged(mark, buffer):#x}"


def _elements(name: str, elements: Sequence[str]) -> list[str]:
    return [f"add element inet {skeleton.TABLE} {name} {{ {', '.join(elements)} }}"] if elements else []


def _maps(layer: skeleton.Layer, intervals: Intervals, buffer: str) -> list[str]:
    """The interval maps of a layer, an interval a line, and the map that leads to them."""
    kind = ipaddress.IPv4Address if intervals.family == 4 else ipaddress.IPv6Address
    lines, jumps = [], []
    for name, (start, stop) in zip(layer.maps, skeleton.cuts(len(intervals), layer.count), strict=True):
        part = intervals.part(start, stop)
        if not len(part):
            continue
        lines.append(f"add element inet {skeleton.TABLE} {name} {{")
        lines += [f" {kind(first)}-{kind(last)} : {skeleton.tagged(mark, buffer):#x}," for first, last, mark in part]
        lines.append("}")
        jumps.append(f"{kind(intervals[start][0])}-{kind(intervals[stop - 1][1])} : jump {name}")
    return [*lines, *(_elements(layer.shards, jumps) if layer.count > 1 else [])]
