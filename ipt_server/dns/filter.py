"""The suffix filter: which names the hook must ask about, as a hash table in a file that the recursor's threads map.

Knows: the file's layout, which hook.lua shares. Must not know: rules. Layout: 16 words of header (magic, mask,
entries, superseded, ask-for-all), then slots of two 32-bit words (fingerprint, odd, 0 = empty; hash). A name is
present itself or by an ancestor: the hook walks the labels from the right. False positives only cost a question;
there are no false negatives.

A new filter is written beside and renamed; then the old one is marked superseded, and every thread maps anew at its
next query.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path

MAGIC = 0x4D525631
HEADER_WORDS = 16
SPARE = 4096  # free slots for names added in place
FILE = "suffix.filter"
_U32 = 0xFFFFFFFF


def hashes(name: str) -> tuple[int, int]:
    """The two hashes of a lower-case name, over its bytes from the right: (place, fingerprint)."""
    h1 = h2 = 0
    for byte in reversed(name.encode("ascii", "replace")):
        h1 = (h1 * 65599 + byte) & _U32
        h2 = (h2 * 16777 + byte) & _U32
    h1 ^= h1 >> 15
    return h1, h2 | 1


class Filter:
    """The filter file that is in force."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._map: mmap.mmap | None = None
        self._mask = 0
        self._entries = 0
        self.added: set[str] = set()

    def write(self, names: Iterable[str], ask_for_all: bool) -> None:
        """Puts a new filter in force; the old file is marked superseded after the new one is in its place."""
        names = list(names)
        slots = 1024
        while slots < 2 * (len(names) + SPARE):
            slots *= 2
        table = bytearray(slots * 8)
        self._mask, self._entries, self.added = slots - 1, 0, set()
        for name in names:
            self._insert(table, 0, name)
        header = struct.pack("=5I", MAGIC, self._mask, self._entries, 0, int(ask_for_all)).ljust(
            HEADER_WORDS * 4, b"\0"
        )
        new = self.path.with_suffix(".new")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(descriptor, header)
            written = 0
            while written < len(table):
                written += os.write(descriptor, memoryview(table)[written : written + (1 << 20)])
            fresh = mmap.mmap(descriptor, HEADER_WORDS * 4 + len(table))
        finally:
            os.close(descriptor)
        # a filter that another life of this daemon left must be superseded too: its threads still map it
        old = self._map or self._existing()
        new.rename(self.path)
        if old is not None:
            old[12:16] = struct.pack("=I", 1)
            old.close()
        self._map = fresh

    def _existing(self) -> mmap.mmap | None:
        try:
            descriptor = os.open(self.path, os.O_RDWR)
        except OSError:
            return None
        try:
            return mmap.mmap(descriptor, 0)
        except (OSError, ValueError):
            return None
        finally:
            os.close(descriptor)

    def add(self, name: str) -> None:
        """Makes the hook ask about a name (and what is below it) from now on; returns when the threads can see it."""
        if name in self.added or self._map is None:
            return
        if len(self.added) >= SPARE // 2:
            self._map[16:20] = struct.pack("=I", 1)  # no room left: ask about every name until the next filter
            return
        self._insert(self._map, HEADER_WORDS * 4, name)
        self.added.add(name)

    def _insert(self, table: bytearray | mmap.mmap, offset: int, name: str) -> None:
        place, fingerprint = hashes(name)
        slot = place & self._mask
        while True:
            at = offset + slot * 8
            seen, hashed = struct.unpack_from("=II", table, at)
            if seen == fingerprint and hashed == place:
                return
            if seen == 0:
                # the hash first: a slot counts only once its fingerprint is there
                struct.pack_into("=I", table, at + 4, place)
                struct.pack_into("=I", table, at, fingerprint)
                self._entries += 1
                return
            slot = (slot + 1) & self._mask
