"""Ranges by country from an .mmdb file, of both record shapes: MaxMind's and `country_code`.

Knows: the file. Must not know: rules. Only the countries asked for are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import marshal
from collections.abc import Collection
from pathlib import Path

import maxminddb

Ranges = dict[str, dict[int, list[tuple[int, int]]]]


class DatabaseRefused(Exception):
    """A database that cannot be used; the text says why."""


def code(record: object) -> str | None:
    """The ISO code of a record, whichever shape it has."""
    if not isinstance(record, dict):
        return None
    found = record.get("country_code")
    if found is None:
        country = record.get("country")
        found = country.get("iso_code") if isinstance(country, dict) else None
    return found if isinstance(found, str) else None


def countries(path: Path, wanted: Collection[str]) -> Ranges:
    """{code: {4: [(first, last)], 6: [...]}} of the wanted countries. Raises DatabaseRefused."""
    found: Ranges = {name: {4: [], 6: []} for name in wanted}
    if not wanted:
        return found
    try:
        with maxminddb.open_database(path) as database:
            for network, record in database:
                ranges = found.get(code(record) or "")
                if ranges is not None:
                    ranges[network.version].append((int(network.network_address), int(network.broadcast_address)))
    except (OSError, maxminddb.InvalidDatabaseError, ValueError) as error:
        raise DatabaseRefused(f"{path}: {error}") from None
    missing = sorted(name for name, ranges in found.items() if not ranges[4] and not ranges[6])
    if missing:
        raise DatabaseRefused(f"{path}: knows no address of {', '.join(missing)}")
    return found


def cached(path: Path, wanted: Collection[str], folder: Path) -> Ranges:
    """`countries`, kept in `folder` by the content of the database and the countries wanted.

    Reading the database takes seconds, and a restarted daemon should not.
    """
    try:
        digest = hashlib.sha256(path.read_bytes())
    except OSError as error:
        raise DatabaseRefused(f"{path}: {error.strerror}") from None
    digest.update(",".join(sorted(wanted)).encode())
    kept = folder / f"countries-{digest.hexdigest()[:32]}.bin"
    with contextlib.suppress(OSError, ValueError, EOFError, TypeError):
        return marshal.loads(kept.read_bytes())  # type: ignore[no-any-return]
    found = countries(path, wanted)
    with contextlib.suppress(OSError):  # a full disk costs the next start its seconds, nothing else
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("countries-*.bin"):
            old.unlink()
        new = kept.with_suffix(".new")
        new.write_bytes(marshal.dumps(found))
        new.rename(kept)
    return found
