"""Which numbers (rules) a name falls under: look-ups by suffix, and one RE2 set for the rest.

Knows: names in canonical text (`dns.protocol.name`), regexes. Must not know: rules, lists, answers. Made for 500,000
suffixes: dictionaries from name to a small number that stands for everything that is said of the name. They are many
small ones, because growing or freeing one of 500,000 names holds up every other thread for longer than an answer may
wait.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Any, Protocol

import re2

from ipt_server.core.idn import to_ascii, to_unicode
from mrvpn import patterns

REGEX_MEMORY = 64 << 20  # bytes, at most, for the states of the regexes' automaton
_SENTINEL = "\x01"  # no name holds it: it tells whether the automaton works at all

_TAIL = re.compile(r"(?<!\\)\\\.((?:[A-Za-z0-9_-]+\\\.)*[A-Za-z0-9_-]+)\$?$")
_WHOLE_LABEL = re.compile(r"(?:^|(?<=\^)|(?<=\\\.)|(?<=\))|(?<=\)\?))[\w-]+(?=\\\.|\$|$)")

_SHARDS = 256  # a power of two

_NONE: frozenset[int] = frozenset()

Cover = tuple[int, bool, bool]  # (number, the name itself, what is below it)


class ListedNames(Protocol):
    """What a list covers: names themselves, names with all below, what is below, parts of names, regexes."""

    exact: list[str]
    suffixes: list[str]
    below: list[str]
    keywords: list[str]
    regexes: list[str]


class TooManyRegexes(Exception):
    """The regexes need more memory than REGEX_MEMORY."""


class NameIndex:
    """Names and regexes, each with a number. Filled by `add` and `add_pattern`, then `finish`, then `match`."""

    def __init__(self) -> None:
        self._at: tuple[dict[str, int], ...] = tuple({} for _ in range(_SHARDS))
        self._covers: list[tuple[Cover, ...]] = []
        self._itself: list[frozenset[int]] = []  # of each of them: the numbers of the name, and of what is below it
        self._beneath: list[frozenset[int]] = []
        self._numbers: dict[tuple[Cover, ...], int] = {}
        self._joined: dict[tuple[int, Cover], int] = {}
        self._regexes: list[tuple[str, int]] = []
        self._tails: set[str] | None = set()  # what every name that a regex matches lies below; None: there is no such
        self._set: Any = None

    def add(self, number: int, names: Iterable[str], itself: bool = True, below: bool = True) -> None:
        """Puts names, in either spelling, under a number: each itself, what is below it, or both.

        Raises ValueError for one that no DNS name can be.
        """
        shards, cover = self._at, (number, itself, below)
        alone = self._number((cover,))
        for name in names:
            if not name.isascii():
                name = to_ascii(name)
            at = shards[hash(name) & _SHARDS - 1]
            standing = at.setdefault(name, alone)
            if standing != alone:
                at[name] = self._join(standing, cover)

    def _number(self, covers: tuple[Cover, ...]) -> int:
        found = self._numbers.get(covers)
        if found is None:
            found = self._numbers[covers] = len(self._covers)
            self._covers.append(covers)
        return found

    def _join(self, standing: int, cover: Cover) -> int:
        found = self._joined.get((standing, cover))
        if found is None:
            covers = self._covers[standing]
            joined = covers if cover in covers else (*covers, cover)
            found = self._joined[standing, cover] = self._number(joined)
        return found

    def add_pattern(self, number: int, pattern: str) -> None:
        """Puts a regex of a domain rule under a number; shapes that a look-up can answer become one."""
        ascii_pattern = _ascii_labels(pattern)
        for spelling in dict.fromkeys((ascii_pattern, pattern)):
            shape = patterns.compile_pattern(spelling)
            if shape.regex is None:
                self.add(number, [shape.name or ""], shape.itself, shape.below)
                return
            self._regexes.append((shape.regex, number))
        self._below(tail(ascii_pattern))

    def add_regex(self, number: int, regex: str) -> None:
        """Puts a regex that may match anywhere in a name under a number."""
        self._regexes.append((f"(?i:.*(?:{regex}).*)", number))
        self._below(tail(regex) if regex.endswith("$") else "")

    def add_listed(self, number: int, listed: ListedNames) -> None:
        """Puts what a list covers under a number."""
        self.add(number, listed.exact, itself=True, below=False)
        self.add(number, listed.suffixes)
        self.add(number, listed.below, itself=False, below=True)
        for keyword in listed.keywords:
            self.add_regex(number, re.escape(keyword))
        for regex in listed.regexes:
            self.add_regex(number, regex)

    def _below(self, suffix: str) -> None:
        if not suffix:
            self._tails = None
        elif self._tails is not None:
            self._tails.add(suffix)

    def finish(self) -> None:
        """Compiles the regexes. Raises TooManyRegexes."""
        self._numbers.clear()
        self._joined.clear()
        self._itself = [frozenset(n for n, itself, _ in covers if itself) for covers in self._covers]
        self._beneath = [frozenset(n for n, _, below in covers if below) for covers in self._covers]
        if not self._regexes:
            return
        options = re2.Options()
        options.max_mem, options.log_errors, options.never_capture = REGEX_MEMORY, False, True
        self._set = re2.Set.FullMatchSet(options)  # type: ignore[no-untyped-call]
        try:
            for regex, _ in self._regexes:
                self._set.Add(regex)
            self._set.Add(_SENTINEL)
            self._set.Compile()
            works = len(self._regexes) in (self._set.Match(_SENTINEL) or ())
        except re2.error:
            works = False
        if not works:
            raise TooManyRegexes(f"{len(self._regexes)} regular expressions need more than {REGEX_MEMORY >> 20} MB")

    @property
    def asks_for_all(self) -> bool:
        """Whether some regex may match any name, so that every name must be asked about."""
        return self._tails is None

    def suffixes(self) -> Iterable[str]:
        """Every name that, itself or as an ancestor, a match needs; unless `asks_for_all`."""
        return chain(*self._at, self._tails or ())

    def release(self) -> None:
        """Frees the names, little by little; nothing is matched any more. For a thread."""
        for shard in self._at:
            shard.clear()

    def match(self, name: str) -> frozenset[int]:
        """The numbers that a canonical name falls under."""
        shards, mask, found = self._at, _SHARDS - 1, _NONE
        number = shards[hash(name) & mask].get(name)
        if number is not None:
            found = self._itself[number]
        start = name.find(".") + 1
        while start:
            if start < 2 or name[start - 2] != "\\" or not _escaped(name, start - 1):
                suffix = name[start:]
                number = shards[hash(suffix) & mask].get(suffix)
                if number is not None:
                    found = found | self._beneath[number] if found else self._beneath[number]
            start = name.find(".", start) + 1
        return found if self._set is None else found.union(self._by_regex(name))

    def _by_regex(self, name: str) -> Iterable[int]:
        found = [self._regexes[n][1] for n in self._set.Match(name) or ()]
        if "xn--" in name and (spelled := to_unicode(name)) != name:
            found += [self._regexes[n][1] for n in self._set.Match(spelled) or ()]
        return found


def _escaped(name: str, at: int) -> bool:
    """Whether the dot at this place is part of a label: an odd number of backslashes stands before it."""
    before = at
    while before and name[before - 1] == "\\":
        before -= 1
    return (at - before) % 2 == 1


def tail(regex: str) -> str:
    """The name that whatever a regex matches whole must lie below, as far as its last characters tell; "" for none.

    `ads?[0-9]*\\..*\\.ru` -> `ru`.
    """
    found = _TAIL.search(regex)
    if not found or _alternates(regex):
        return ""
    return found[1].replace("\\.", ".").lower()


def _alternates(regex: str) -> bool:
    """Whether a regex is several at its top level, so that its last characters speak for the last of them only."""
    depth, skip, inside = 0, False, False
    for character in regex:
        if skip:
            skip = False
        elif character == "\\":
            skip = True
        elif inside:
            inside = character != "]"
        elif character == "[":
            inside = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and depth == 0:
            return True
    return False


def _ascii_labels(pattern: str) -> str:
    """A pattern with its whole labels that are not ASCII as xn--; what is more than a label stays."""
    return pattern if pattern.isascii() else _WHOLE_LABEL.sub(_as_ascii, pattern)


def _as_ascii(label: re.Match[str]) -> str:
    try:
        return to_ascii(label[0])
    except ValueError:
        return label[0]
