"""v2fly's `include:` -> one text without any: the entries of the other files, as far as their attributes allow.

Knows: the line, `include:NAME @with @-without` (https://github.com/v2fly/domain-list-community#readme). Must not know:
where files come from. An include that cannot be followed refuses the whole: what is missing would go by a wrong exit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ipt_server.lists.formats import ListRefused, entries, entry, quoted

DEEPEST = 16  # files that include each other in a row
MOST = 10_000_000  # entries taken in, those of a file again for each that includes it
_INCLUDE = re.compile(r"include:(?P<name>[^\s#]*)(?P<marks>(?:\s+@[^\s#@]+)*)\s*(?:#.*)?")
_NAME = re.compile(r"[A-Za-z0-9_!][A-Za-z0-9_!.-]{0,99}")  # beside the list: no folder, nothing hidden


def is_include(line: str) -> bool:
    """Whether a line asks for another file, well or badly."""
    return line.startswith("include:")


def whole(text: str, name: str, read: Callable[[str], str]) -> str:
    """The text of list `name` with the entries of what it includes, each once, every line with its kind before it.

    `read` gives the text of a file by its name, or raises ListRefused; it is asked once for each.
    """
    return "".join(f"{line}\n" for line in _Whole(read).lines(text, (name,)))


class _Whole:
    def __init__(self, read: Callable[[str], str]) -> None:
        self._read = read
        self._known: dict[str, dict[str, None]] = {}
        self._taken = 0

    def lines(self, text: str, way: tuple[str, ...]) -> dict[str, None]:
        """The lines of the last file of `way`, in order; a dict is an ordered set."""
        found: dict[str, None] = {}
        for number, line in entries(text):
            if is_include(line):
                try:
                    self._include(line, way, found)
                except ListRefused as refused:
                    raise ListRefused(f"line {number}: {refused}") from None
            else:
                self._take([_explicit(line)], found)
        return found

    def _include(self, line: str, way: tuple[str, ...], found: dict[str, None]) -> None:
        asked = _INCLUDE.fullmatch(line)
        if not asked or not _NAME.fullmatch(asked["name"]):
            raise ListRefused(f"{quoted(line)}: wanted is a file's name and attributes, such as include:google @-ads")
        name = asked["name"]
        marks = [mark[1:] for mark in asked["marks"].split()]
        without = {mark[1:] for mark in marks if mark.startswith("-")}
        required = {mark for mark in marks if not mark.startswith("-")}
        self._take((other for other in self._of(name, way) if _passes(other, required, without)), found)

    def _of(self, name: str, way: tuple[str, ...]) -> dict[str, None]:
        if name in way:
            raise ListRefused(f"includes go round in a circle: {' -> '.join((*way[way.index(name) :], name))}")
        if len(way) > DEEPEST:
            raise ListRefused(f"more than {DEEPEST} files include each other in a row: {' -> '.join(way[:4])} -> ...")
        if name not in self._known:
            try:
                self._known[name] = self.lines(self._read(name), (*way, name))
            except ListRefused as refused:
                raise ListRefused(f"include:{name}: {refused}") from None
        return self._known[name]

    def _take(self, lines: Iterable[str], found: dict[str, None]) -> None:
        before = len(found)
        for line in lines:
            found[line] = None
            if self._taken + len(found) - before > MOST:
                raise ListRefused(f"holds more than {MOST:,} entries with what it includes")
        self._taken += len(found) - before


def _passes(line: str, required: set[str], without: set[str]) -> bool:
    """As v2fly reads it: all that are required, none of the others."""
    if not required and not without:
        return True
    try:
        have = {mark[1:] for mark in entry(line)[2]}
    except ValueError:
        return True  # no entry: whoever reads the whole counts it
    return required <= have and not without & have


def _explicit(line: str) -> str:
    """The line with its kind, so that the whole is still known for what it is."""
    try:
        kind, value, marks = entry(line)
    except ValueError:
        return line
    return " ".join((f"{kind}:{value}", *marks))
