"""The suffix filter: which names the hook must ask about, as a hash table in a file that the recursor's threads map.

Knows: the file's layout, which hook.lua shares. Must not know: rules. Layout, 32-bit words of the machine: 16 of
header (magic, mask, entries, superseded, ask-for-all), then `mask` + 1 slots, each the CRC-32 of a reversed name or 0.
A name is present itself or by an ancestor: the hook walks the name from the right and looks at every dot. False
positives only cost a question; there are no false negatives.

A new filter is made beside (`prepare`, which may run in a thread); then the old one is marked superseded and the new
one renamed into its place (`switch`): a thread that finds the mark maps anew at every query until it has the new file,
so that a crash in between leaves nobody behind. A mapped file is never truncated.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from array import array
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

MAGIC = 0x4D525632
HEADER_WORDS = 16
SPARE = 4096  # free slots for names added in place
FILE = "suffix.filter"
_SUPERSEDED, _ASK_FOR_ALL = 3, 4


def key(name: str) -> int:
    """The word that stands for a canonical name: never 0."""
    return crc32(name[::-1].encode("utf-8")) or 1


class Filter:
    """The filter file that is in force."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._map: mmap.mmap | None = None
        self._words: memoryview | None = None
        self._mask = 0
        self.added: set[str] = set()

    def write(self, names: Iterable[str], ask_for_all: bool) -> None:
        """Puts a new filter in force."""
        self.switch(self.prepare(names, ask_for_all))

    def prepare(self, names: Iterable[str], ask_for_all: bool) -> Path:
        """Makes the file of a new filter beside the one in force; returns its path. Raises OSError."""
        words = array("I", map(key, names))
        slots = 1024
        while slots < 2 * (len(words) + SPARE):
            slots *= 2
        mask, entries = slots - 1, 0
        table = array("I", bytes(4 * slots))
        for word in words:
            at = word & mask
            while (seen := table[at]) and seen != word:
                at = at + 1 & mask
            entries += not seen
            table[at] = word
        new = self.path.with_suffix(f".new{os.getpid()}")
        try:
            with new.open("wb") as out:
                os.fchmod(out.fileno(), 0o644)
                out.write(struct.pack("=5I", MAGIC, mask, entries, 0, int(ask_for_all)).ljust(HEADER_WORDS * 4, b"\0"))
                table.tofile(out)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        return new

    def switch(self, prepared: Path) -> None:
        """Puts a prepared filter in force; names added to the old one in place are not in it."""
        fresh = _mapped(prepared)
        # a filter that another life of this daemon left must be superseded too: its threads still map it
        old = self._map or _mapped_if_there(self.path)
        if old is not None and len(old) >= HEADER_WORDS * 4:
            old[_SUPERSEDED * 4 : _SUPERSEDED * 4 + 4] = struct.pack("=I", 1)
        prepared.rename(self.path)
        if self._words is not None:
            self._words.release()
        if old is not None:
            old.close()
        self._map, self._words, self.added = fresh, memoryview(fresh).cast("I"), set()
        self._mask = self._words[1]

    def add(self, name: str) -> None:
        """Makes the hook ask about a name (and what is below it) from now on; returns when the threads can see it."""
        words = self._words
        if words is None or name in self.added:
            return
        if len(self.added) >= SPARE:
            words[_ASK_FOR_ALL] = 1  # no room left: ask about every name until the next filter
            return
        self.added.add(name)
        word = key(name)
        at = word & self._mask
        while words[HEADER_WORDS + at] not in (0, word):
            at = at + 1 & self._mask
        words[HEADER_WORDS + at] = word

    def __contains__(self, name: str) -> bool:
        """Whether the hook asks about a canonical name: the same walk as hook.lua's."""
        words = self._words
        if words is None or words[_ASK_FOR_ALL]:
            return True
        labels = name.split(".")
        return any(self._present(words, key(".".join(labels[n:]))) for n in range(len(labels)))

    def _present(self, words: memoryview, word: int) -> bool:
        at = word & self._mask
        while seen := words[HEADER_WORDS + at]:
            if seen == word:
                return True
            at = at + 1 & self._mask
        return False


def _mapped(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def _mapped_if_there(path: Path) -> mmap.mmap | None:
    try:
        return _mapped(path)
    except (OSError, ValueError):
        return None
