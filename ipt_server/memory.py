"""What survives a restart: names and expiries of learned addresses, in one file.

Knows: the file, one JSON list a line: [address, mark, expiry (Unix seconds), name, client]. Must not know: rules, the
kernel.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path

from ipt_server.core.learned import Address, Entry

log = logging.getLogger(__name__)


def save(path: Path, entries: Iterable[tuple[Address, Entry]], offset: float) -> None:
    """Writes the entries, replacing the file at once; `offset` turns their clock into Unix time."""
    new = path.with_suffix(".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    with new.open("w", encoding="utf-8") as out:
        for address, entry in entries:
            out.write(_line(address, entry, offset))
        out.flush()
        os.fsync(out.fileno())
    new.rename(path)


def add(path: Path, entries: Iterable[tuple[Address, Entry]], offset: float) -> None:
    """Adds entries to the file, as they are learned: a later line of an address counts. A kill loses none of them."""
    text = "".join(_line(address, entry, offset) for address, entry in entries)
    with path.open("a", encoding="utf-8") as out:
        out.write(text)


def _line(address: Address, entry: Entry, offset: float) -> str:
    return json.dumps([str(address), entry.mark, round(entry.expiry + offset, 1), entry.name, entry.client]) + "\n"


def load(path: Path, offset: float) -> dict[Address, Entry]:
    """The entries of a file; a line that cannot be read is passed over, a missing file is empty."""
    found: dict[Address, Entry] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                address, mark, expiry, name, *client = json.loads(line)
                if not math.isfinite(expiry):
                    raise ValueError(expiry)
                entry = Entry(int(mark), float(expiry) - offset, str(name), 0, str(*client))
                found[ipaddress.ip_address(str(address))] = entry
            except (ValueError, TypeError, OverflowError, RecursionError):
                log.warning("a line of %s was passed over", path)
    return found
