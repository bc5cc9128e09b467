"""What survives a restart: names and expiries of learned addresses, in one file.

Knows: the file, one JSON list a line: [address, mark, expiry (Unix seconds), name, client];
the address of one client's is "CLIENT ADDRESS". Must not know: rules, the
kernel.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ipt_server.core.learned import Entry, Key, parse_key

log = logging.getLogger(__name__)
_MODE = 0o600  # it tells which names clients asked for
_FEW = 10_000  # lines; so many are not worth writing the file anew
_quoted = json.encoder.encode_basestring_ascii


class Journal:
    """The file while the daemon lives: lines are added as addresses are learned, and now and then it is written anew.

    A kill loses no line that was added. One thread at a time, but for `write`.
    """

    def __init__(self, path: Path, offset: float) -> None:
        """`offset` turns the entries' clock into Unix time. Nothing is opened before it is needed."""
        self._path, self._offset = path, offset
        self._file: int | None = None
        self._anew = False  # what changed is no addition, or an addition was not written
        self._added = 0  # lines since the file was written anew
        self._late: list[str] | None = None  # lines added while the file is written anew

    def add(self, entries: Iterable[tuple[Key, Entry]]) -> None:
        """Adds entries: a later line of an address counts. What cannot be written is told by `write`."""
        lines = [_line(address, entry, self._offset) for address, entry in entries]
        self._added += len(lines)
        if self._late is not None:
            self._late += lines
        data = "".join(lines).encode()
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
                os.fchmod(self._file, _MODE)  # of an earlier version
            if os.write(self._file, data) < len(data):
                self._anew = True
        except OSError:
            self._anew = True

    def touch(self) -> None:
        """Has the next `begin` write the file anew: what changed is no addition."""
        self._anew = True

    def begin(self, standing: int) -> bool:
        """Whether the file must be written anew: it does not say what is, or most of it is of the past.

        `standing`: how many entries there are. From now on until `write` ends, additions are kept beside the file.
        """
        if not self._anew and self._added <= max(standing, _FEW):
            return False
        self._anew, self._added, self._late = False, 0, []
        return True

    def write(self, entries: Iterable[tuple[Key, Entry]], lock: AbstractContextManager[Any]) -> None:
        """Replaces the file at once; holds `lock`, which `add` is called under, only to change over. Raises OSError."""
        new = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            with open(new, "x", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, _MODE)) as out:
                for address, entry in entries:
                    out.write(_line(address, entry, self._offset))
                out.flush()
                os.fsync(out.fileno())
                with lock:
                    out.writelines(self._late or ())
                    out.flush()
                    new.rename(self._path)
                    self.close()
        except OSError:
            self._anew = True
            raise
        finally:
            self._late = None

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _line(address: Key, entry: Entry, offset: float) -> str:
    # as json.dumps writes the list, in a third of its time: the next answer waits for it
    name, client = _quoted(entry.name), _quoted(entry.client)
    return f'["{address!s}", {entry.mark}, {entry.expiry + offset:.1f}, {name}, {client}]\n'


def load(path: Path, offset: float) -> dict[Key, Entry]:
    """The entries of a file; a line that cannot be read is passed over, a missing file is empty."""
    found: dict[Key, Entry] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                address, mark, expiry, name, *client = json.loads(line)
                if not math.isfinite(expiry):
                    raise ValueError(expiry)
                entry = Entry(int(mark), float(expiry) - offset, str(name), 0, str(*client))
                found[parse_key(str(address))] = entry
            except (ValueError, TypeError, OverflowError, RecursionError):
                log.warning("a line of %s was passed over", path)
    return found
