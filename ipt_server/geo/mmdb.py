"""Ranges by country from an .mmdb file, of both record shapes: MaxMind's and `country_code`.

Knows: the file: its search tree is walked here, its records and metadata are read by maxminddb. Must not know: rules.
The library's own iterator makes an object of every network and takes 3.5 s for a world; the walk takes less than one,
and joins neighbours of one country while it goes. A test compares the two. Format: maxmind.github.io/MaxMind-DB.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Collection
from pathlib import Path

import maxminddb
from maxminddb.decoder import Decoder

from ipt_server.geo import DatabaseRefused, Ranges

_SEPARATOR = 16  # zero bytes between the search tree and the data section


def code(record: object) -> str | None:
    """The ISO code of a record, whichever shape it has."""
    if not isinstance(record, dict):
        return None
    found = record.get("country_code")
    if found is None:
        country = record.get("country")
        found = country.get("iso_code") if isinstance(country, dict) else None
    return found if isinstance(found, str) else None


def country(path: Path, address: str) -> str | None:
    """The country of one address, or None where the database is missing or knows none."""
    try:
        with maxminddb.open_database(path) as database:
            return code(database.get(address))
    except (OSError, maxminddb.InvalidDatabaseError, ValueError):
        return None


def built(path: Path) -> int | None:
    """When the database was made, Unix seconds; None where it cannot be read."""
    try:
        with maxminddb.open_database(path) as database:
            return int(database.metadata().build_epoch)
    except (OSError, maxminddb.InvalidDatabaseError, ValueError):
        return None


def countries(path: Path, wanted: Collection[str]) -> Ranges:
    """{code: {4: [(first, last)], 6: [...]}} of the wanted countries, neighbours joined. Raises DatabaseRefused."""
    try:
        data = path.read_bytes()
        with maxminddb.open_database(path) as database:
            metadata = database.metadata()
        tree = _Tree(data, metadata.node_count, metadata.record_size)
        found: Ranges = {name: {4: [], 6: []} for name in wanted}
        start = 0
        if metadata.ip_version == 6:
            for _ in range(96):
                start = tree.child(start, 0)
            tree.walk(0, 6, start, found)
        elif metadata.ip_version != 4:
            raise DatabaseRefused(f"{path}: is for IP version {metadata.ip_version}")
        tree.walk(start, 4, None, found)
    except (OSError, maxminddb.InvalidDatabaseError, ValueError, IndexError, KeyError) as error:
        raise DatabaseRefused(f"{path}: {error}") from None
    return found


class _Tree:
    """The search tree: two records a node; smaller than `count` a node, `count` nothing, larger a place in the data."""

    def __init__(self, data: bytes, count: int, record_size: int) -> None:
        self.count = count
        size = count * record_size // 4
        if len(data) < size + _SEPARATOR:
            raise ValueError("the search tree is cut short")
        self._records = _records(data[:size], count, record_size)
        self._decoder = Decoder(data, size + _SEPARATOR)
        self._codes: dict[int, str | None] = {}
        self._offset = size - count  # a record's value to its place in the file: value - count + tree size

    def child(self, node: int, bit: int) -> int:
        """What a node's record says; a node that is none stays as it is."""
        return self._records[2 * node + bit] if node < self.count else node

    def _code(self, value: int) -> str | None:
        if value not in self._codes:
            self._codes[value] = code(self._decoder.decode(value + self._offset)[0])
        return self._codes[value]

    def walk(self, root: int, family: int, skip: int | None, found: Ranges) -> None:
        """Adds the ranges below a node in order; `skip`: a subtree that is another family's, or an alias of it.

        Raises ValueError for a tree that meets a node twice or is deeper than an address.
        """
        records, count = self._records, self.count
        bits = 32 if family == 4 else 128
        stack = [(root, 0, 1 << bits)]
        left = 2 * count + 1  # a tree has no more nodes than this, however it is cut
        last_code: str | None = None
        begin = end = -1
        while stack:
            node, base, size = stack.pop()
            while node < count and node != skip:
                left -= 1
                size >>= 1
                if not left or not size:
                    raise ValueError("the search tree is not one")
                right = records[2 * node + 1]
                if right != count:
                    stack.append((right, base + size, size))
                node = records[2 * node]
            if node <= count:
                continue
            here = self._code(node)
            if here == last_code and end == base:
                end = base + size
                continue
            if last_code in found:
                found[last_code][family].append((begin, end - 1))
            last_code, begin, end = here, base, base + size
        if last_code in found:
            found[last_code][family].append((begin, end - 1))


def _records(tree: bytes, count: int, record_size: int) -> list[int]:
    """The records of all nodes, left and right by turns, as numbers: 24, 28 or 32 bits each, big-endian."""
    wide = bytearray(8 * count)
    if record_size == 24:
        for byte in range(3):
            wide[byte + 1 :: 4] = tree[byte::3]
    elif record_size == 28:
        middle = tree[3::7]  # its high half belongs to the left record, its low half to the right one
        wide[0::8] = middle.translate(bytes(value >> 4 for value in range(256)))
        wide[4::8] = middle.translate(bytes(value & 15 for value in range(256)))
        for byte in range(3):
            wide[byte + 1 :: 8] = tree[byte::7]
            wide[byte + 5 :: 8] = tree[byte + 4 :: 7]
    elif record_size == 32:
        wide[:] = tree
    else:
        raise ValueError(f"records of {record_size} bits; known are 24, 28 and 32")
    numbers = array("I")
    numbers.frombytes(wide)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tolist()
