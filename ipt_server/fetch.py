"""One file from a URL or a path, when it has changed, through a named exit if need be.

Knows: HTTP's validators, checksums, sizes. Must not know: what is in the file. The last good copy stays until a new one
has been taken whole, checked and accepted.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SO_MARK = 36
LARGEST = 1 << 28
SHRINK = 0.5  # a file that lost more than this part of its size is a mistake of its maker, not news
TIMEOUT = 60.0


class FetchRefused(Exception):
    """A file that could not be fetched or must not be used; the text says which and why."""


@dataclass
class Seen:
    """What is known of the copy at hand, and where it came from: another source's says nothing of this one."""

    source: str = ""
    etag: str = ""
    modified: str = ""
    size: int = 0
    sha256: str = ""


def fetch(
    source: str, target: Path, accept: Callable[[Path], None], mark: int | None = None, checksum: str | None = None
) -> bool:
    """Brings `target` up to date; True where it was replaced, False where nothing is new. Raises FetchRefused.

    `accept` is given the new file before it takes the old one's place and raises what it likes to refuse it. `mark`: of
    the exit to go through. `checksum`: a URL or path that holds the file's SHA-256, alone or as sha256sum writes it.
    """
    notes = target.with_name(target.name + ".json")
    seen = _noted(notes) if target.exists() else Seen()
    if seen.source != _url(source):
        seen = Seen()
    new = target.with_name("new-" + target.name)  # its ending says what it is
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = _get(source, new, seen, mark)
        if found is None:
            return False
        _checked(source, found, seen, checksum, mark)
        if found.sha256 == seen.sha256:
            _note(notes, found)
            return False
        accept(new)
        new.rename(target)
        _note(notes, found)
        return True
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchRefused(f"{source}: {error}") from None
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def came_from(target: Path) -> str:
    """The URL of the file at hand; empty where that is not known."""
    return _noted(target.with_name(target.name + ".json")).source if target.exists() else ""


def _checked(source: str, found: Seen, seen: Seen, checksum: str | None, mark: int | None) -> None:
    if not found.size:
        raise FetchRefused(f"{source}: is empty")
    if found.size < seen.size * SHRINK:
        raise FetchRefused(f"{source}: shrank from {seen.size} to {found.size} bytes; the old one is kept")
    if checksum is not None:
        with _open(checksum, mark, {}) as answer:
            told = answer.read(1 << 20).decode(errors="replace")
        name = re.escape(urllib.parse.unquote(urllib.parse.urlsplit(source).path).rpartition("/")[2])
        digits = re.search(rf"(?m)^([0-9a-fA-F]{{64}})[ *]+(?:\S*/)?{name}\s*$", told)  # one of several files
        digits = digits or re.search(r"\b([0-9a-fA-F]{64})\b", told)
        if digits is None or digits[1].lower() != found.sha256:
            raise FetchRefused(f"{source}: its SHA-256 is {found.sha256}, not what {checksum} says")


def _get(source: str, new: Path, seen: Seen, mark: int | None) -> Seen | None:
    """Takes the file to `new`; None where the server says that it is the same."""
    headers = {"If-None-Match": seen.etag} if seen.etag else {}
    if seen.modified:
        headers["If-Modified-Since"] = seen.modified
    try:
        answer = _open(source, mark, headers)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 304:
                return None
        raise
    digest, size = hashlib.sha256(), 0
    with answer, new.open("wb") as out:
        while chunk := answer.read(1 << 18):
            size += len(chunk)
            if size > LARGEST:
                raise FetchRefused(f"{source}: is larger than {LARGEST >> 20} MB")
            digest.update(chunk)
            out.write(chunk)
        expected = answer.headers.get("Content-Length")
        if expected is not None and expected.isdigit() and int(expected) != size:
            raise FetchRefused(f"{source}: ended after {size} of {expected} bytes")
        out.flush()
        os.fsync(out.fileno())
        headers = answer.headers
    return Seen(_url(source), headers.get("ETag", ""), headers.get("Last-Modified", ""), size, digest.hexdigest())


def _open(source: str, mark: int | None, headers: dict[str, str]) -> Any:
    opener = urllib.request.build_opener(_Http(mark), _Https(mark))
    return opener.open(urllib.request.Request(_url(source), headers=headers), timeout=TIMEOUT)


def _url(source: str) -> str:
    return source if re.match(r"(?:https?|file)://", source) else Path(source).resolve().as_uri()


def _connector(mark: int | None) -> Callable[..., socket.socket]:
    """socket.create_connection, by sockets that the exit of a mark carries."""

    def connect(address: tuple[str, int], timeout: Any = None, source_address: Any = None) -> socket.socket:
        problem: OSError | None = None
        for family, kind, protocol, _, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            s = socket.socket(family, kind, protocol)
            try:
                if mark is not None:
                    s.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
                s.settimeout(TIMEOUT)
                s.connect(place)
                return s
            except OSError as error:
                problem = error
                s.close()
        raise problem or OSError(f"{address[0]} has no address")

    return connect


class _Http(urllib.request.HTTPHandler):
    def __init__(self, mark: int | None) -> None:
        super().__init__()
        self._connect = _connector(mark)

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connection, req)

    def _connection(self, host: str, **options: Any) -> http.client.HTTPConnection:
        made = http.client.HTTPConnection(host, **options)
        made._create_connection = self._connect  # type: ignore[attr-defined]
        return made


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, mark: int | None) -> None:
        super().__init__()
        self._connect = _connector(mark)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connection, req)

    def _connection(self, host: str, **options: Any) -> http.client.HTTPSConnection:
        made = http.client.HTTPSConnection(host, **options)
        made._create_connection = self._connect  # type: ignore[attr-defined]
        return made


def _noted(path: Path) -> Seen:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Seen(**json.loads(path.read_text()))
    return Seen()


def _note(path: Path, seen: Seen) -> None:
    new = path.with_name("new-" + path.name)
    new.write_text(json.dumps(asdict(seen)))
    new.rename(path)
