"""Ranges by country from .csv and .csv.gz: `first,last,code`, as dbip and ip-location-db write it.

Knows: the file. Must not know: rules. Ranges that overlap are told apart here: the smaller one is the exacter one.
"""

from __future__ import annotations

import csv
import gzip
import socket
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from ipt_server.core.intervals import flatten
from ipt_server.geo import DatabaseRefused, Ranges

_GARBAGE = 0.01  # of the lines; more than that is no country database


def rows(path: Path) -> Iterator[tuple[int, int, int, str]]:
    """(family, first, last, code) of each line. Raises DatabaseRefused for a file that is no such list."""
    bad = read = 0
    example = ""
    try:
        with _open(path) as lines:
            for row in csv.reader(lines):
                if not row or row[0].startswith("#"):
                    continue
                read += 1
                try:
                    (family, first), (other, last) = _number(row[0].strip()), _number(row[1].strip())
                    name = row[2].strip().upper()
                    if family != other or first > last or len(name) != 2:
                        raise ValueError(",".join(row))
                except (ValueError, IndexError, OSError):
                    bad += 1
                    example = example or ",".join(row)[:80]
                    continue
                yield family, first, last, name
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise DatabaseRefused(f"{path}: {error}") from None
    if not read or bad > read * _GARBAGE:
        told = f"{bad} of {read} lines are not `first,last,code`" + (f", such as {example!r}" if example else "")
        raise DatabaseRefused(f"{path}: {told}")


def _number(text: str) -> tuple[int, int]:
    """(family, number) of an address in text or, as some lists have it, as a decimal number."""
    if text.isdecimal():
        return (4 if int(text) < 1 << 32 else 6), int(text)
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return (6 if ":" in text else 4), int.from_bytes(socket.inet_pton(family, text), "big")


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open("r", encoding="utf-8", newline="")


def countries(path: Path, wanted: Collection[str]) -> Ranges:
    """{code: {4: [(first, last)], 6: [...]}} of the wanted countries. Raises DatabaseRefused."""
    names: dict[str, int] = {}
    # every country takes part: an unwanted one may lie inside a wanted one's range
    layers: dict[int, dict[tuple[int, int], list[tuple[int, int]]]] = {4: {}, 6: {}}
    for family, first, last, name in rows(path):
        number = names.setdefault(name, len(names) + 1)
        layers[family].setdefault((last - first, number), []).append((first, last))
    found: Ranges = {name: {4: [], 6: []} for name in wanted}
    by_number = {number: name for name, number in names.items()}
    for family, keyed in layers.items():
        flat = flatten((key, key[1], ranges) for key, ranges in keyed.items())
        for first, last, number in flat:
            if (name := by_number[number]) in found:
                found[name][family].append((first, last))
    return found
