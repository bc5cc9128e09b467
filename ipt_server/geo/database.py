"""A country database of any known kind, told by its ending, and what it compiled to, kept by content.

Knows: endings, the cache's folder. Must not know: how a kind is read, what rules mean. A database that cannot be used
raises DatabaseRefused and nothing else; the cache is only ever a saving of time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path

from ipt_server.core.intervals import Intervals
from ipt_server.geo import DatabaseRefused, Ranges, csv, mmdb
from mrvpn.countries import expand

_FORM = 2  # of what is kept; a new number makes old files useless
KINDS: dict[str, Callable[[Path, Collection[str]], Ranges]] = {
    ".mmdb": mmdb.countries,
    ".csv": csv.countries,
    ".csv.gz": csv.countries,
}


def countries(path: Path, wanted: Collection[str]) -> Ranges:
    """{code: {4: [(first, last)], 6: [...]}} of the wanted countries and sets of them. Raises DatabaseRefused."""
    if not wanted:
        return {}
    kind = next((read for ending, read in KINDS.items() if path.name.endswith(ending)), None)
    if kind is None:
        raise DatabaseRefused(f"{path}: what it is, its ending says: {', '.join(KINDS)}")
    found = kind(path, expand(wanted))
    if not any(ranges[4] or ranges[6] for ranges in found.values()):
        raise DatabaseRefused(f"{path}: knows no address of {', '.join(sorted(wanted))}")
    for name in wanted:
        if name not in found:  # a set
            parts = [found[member] for member in expand([name])]
            found[name] = {family: [r for part in parts for r in part[family]] for family in (4, 6)}
    missing = sorted(name for name in wanted if not found[name][4] and not found[name][6])
    if missing:
        raise DatabaseRefused(f"{path}: knows no address of {', '.join(missing)}")
    return found


def country(path: Path, address: str) -> str | None:
    """The country of one address, for people; None where it is unknown or the database is no .mmdb."""
    return mmdb.country(path, address) if path.name.endswith(".mmdb") else None


def built(path: Path) -> int | None:
    """When a database was made (of an .mmdb), else when its file came here; Unix seconds, None where there is none."""
    if path.name.endswith(".mmdb"):
        return mmdb.built(path)
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return None


def digest(path: Path) -> str:
    """The hash of a database's content. Raises DatabaseRefused."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DatabaseRefused(f"{path}: {error.strerror}") from None


def _layered(family: int, packed: bytes, *layers: bytes) -> Intervals:
    """Intervals whose layers need not be worked out."""
    over, under = (Intervals(family, layer) for layer in layers)
    found = Intervals(family, packed)
    found.layers = over, under
    return found


class Compiled:
    """What settings' rules of addresses came to, in a folder, by the content of rules and database."""

    def __init__(self, folder: Path, *content: object) -> None:
        told = json.dumps([_FORM, *content], sort_keys=True, default=str)
        self._folder = folder
        self._path = folder / f"intervals-{hashlib.sha256(told.encode()).hexdigest()[:32]}.bin"

    def read(self) -> dict[int, Intervals] | None:
        """The intervals by family, or None where none are kept."""
        with contextlib.suppress(OSError, ValueError):
            kept = self._path.read_bytes()
            if hashlib.sha256(kept[32:]).digest() == kept[:32]:
                parts, at = [], 32
                for _ in range(6):
                    size = int.from_bytes(kept[at : at + 8], "big")
                    parts.append(kept[at + 8 : at + 8 + size])
                    at += 8 + size
                return {4: _layered(4, *parts[:3]), 6: _layered(6, *parts[3:])}
        return None

    def write(self, intervals: dict[int, Intervals], keep: int = 2) -> None:
        """Keeps intervals beside the `keep` - 1 newest older ones; a full disk costs the next start its seconds."""
        parts = [part.packed for family in (4, 6) for part in (intervals[family], *intervals[family].layers)]
        content = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            new = self._path.with_suffix(".new")
            try:
                new.write_bytes(hashlib.sha256(content).digest() + content)
                new.rename(self._path)
            finally:
                new.unlink(missing_ok=True)
            old = sorted(self._folder.glob("intervals-*.bin"), key=lambda p: p.stat().st_mtime, reverse=True)
            for path in [*old[keep:], *self._folder.glob("countries-*.bin")]:
                path.unlink(missing_ok=True)
