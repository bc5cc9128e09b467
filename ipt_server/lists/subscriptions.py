"""Lists by name: a copy of each on disk, brought up to date on its schedule, and what it covers.

Knows: settings of lists, the folder of copies. Must not know: rules, the daemon. What cannot be fetched or read is told
and the last good copy kept; a list that was never fetched covers nothing yet. A copy is whole: what a list includes is
in it, so that one file that is missing or bad leaves all as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ipt_server.fetch import FetchRefused, came_from, fetch
from ipt_server.lists import includes
from ipt_server.lists.formats import ListRefused, Names, checked, guess, parse
from ipt_server.settings import NameList, seconds

AGAIN = 300.0  # seconds until a fetch that failed is tried again
SHRINK = 0.5  # a list that lost more than this part of its entries is a mistake of its maker


@dataclass(frozen=True)
class Content:
    """What is at hand of all lists: entries by list, a digest of it all, and what is wrong, one line a list."""

    entries: Mapping[str, int]
    digest: str
    problems: tuple[str, ...]


class Subscriptions:
    """The copies in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: dict[str, str] = {}  # by list: why the last fetch was refused
        self._asked: dict[str, float] = {}

    def copy(self, name: str) -> Path:
        """Where the last good copy of a list is."""
        return self.folder / f"{name}.list"

    def _source(self, name: str) -> Path:
        """Where a list is as its server has it, for the next question whether it changed."""
        return self.folder / f"{name}.source"

    def read(self, lists: Mapping[str, NameList], guard: Collection[str] = ()) -> tuple[dict[str, Names], Content]:
        """What the lists cover: files as they are now, or their last good copy, and the copies of URLs.

        `guard`: the lists that are of use without a name, for their addresses. Never raises for what is in them: a list
        without anything good covers nothing.
        """
        found: dict[str, Names] = {}
        problems, digest = [], hashlib.sha256()
        for name, of in sorted(lists.items()):
            copy = self.copy(name)
            for path in [Path(of.path), copy] if of.path is not None else [copy]:
                try:
                    data = path.read_bytes()
                    if path != copy:
                        data = _whole(data, of, path.name, _beside(path))
                    found[name] = parse(data.decode(errors="replace"), of.format, of.attributes)
                    if path != copy:
                        _keep(copy, data)
                except FileNotFoundError:
                    if path != copy or of.path is None:
                        problems.append(f"lists.{name}: is not there yet: {of.url or of.path}")
                except (OSError, ListRefused) as error:
                    problems.append(f"lists.{name}: {path}: {error}")
                if name in found:
                    if not found[name].names and name not in guard:
                        problems.append(f"lists.{name}: holds addresses only; rules match names: take a country or net")
                    digest.update(hashlib.sha256(data).digest() + name.encode())
                    break
        entries = {name: len(names) for name, names in found.items()}
        return found, Content(entries, digest.hexdigest(), tuple(problems))

    def due(self, lists: Mapping[str, NameList], now: float | None = None) -> list[str]:
        """The lists whose time has come; `now` in Unix seconds."""
        now = time.time() if now is None else now
        return [name for name, of in lists.items() if of.url is not None and self._next(name, of) <= now]

    def _next(self, name: str, of: NameList) -> float:
        asked = self._asked.get(name, float("-inf"))
        if name in self.problems:
            return asked + AGAIN
        try:
            return max(asked, self.copy(name).stat().st_mtime) + seconds(of.refresh)
        except OSError:
            return asked + AGAIN

    def refresh(self, name: str, of: NameList, mark: int | None = None, now: float | None = None) -> bool:
        """Brings one copy up to date; True where it changed. What is wrong stands in `problems`, and the old one stays.

        `mark`: of the exit to go through.
        """
        if of.url is None:
            return False
        self._asked[name] = time.time() if now is None else now
        copy, source = self.copy(name), self._source(name)
        same = came_from(source) == of.url
        whole, fresh = b"", list[Path]()

        def accept(new: Path) -> None:
            nonlocal whole
            whole = _whole(new.read_bytes(), of, _file(of.url or ""), self._fetched(name, of, mark, fresh))
            entries = len(parse(whole.decode(errors="replace"), of.format, of.attributes))
            before = _entries(copy, of) if same else 0
            if entries < before * (1 - SHRINK):
                raise ListRefused(f"shrank from {before} to {entries} entries; the old one is kept")

        try:
            if not fetch(of.url, source, accept, mark, of.checksum):
                accept(source)  # what it includes may have changed
            changed = _keep(copy, whole)
        except (FetchRefused, ListRefused, OSError) as error:
            self.problems[name] = f"lists.{name}: {error}"
            for file in fresh:  # no measure for what comes next: it was never in force
                file.unlink(missing_ok=True)
            return False
        self.problems.pop(name, None)
        return changed

    def _fetched(self, name: str, of: NameList, mark: int | None, fresh: list[Path]) -> Callable[[str], str]:
        """Reads what a list includes from its URL's folder, each file with the list's own guards; `fresh`: the new."""

        def read(file: str) -> str:
            target = self.folder / f"{name}.parts" / f"of-{file}.list"
            at = urlsplit(of.url or "")
            url = at._replace(path=f"{at.path.rpartition('/')[0]}/{quote(file)}").geturl()
            try:
                if fetch(url, target, lambda new: checked(new.read_text(errors="replace")), mark, of.checksum):
                    fresh.append(target)
                return target.read_text(errors="replace")
            except (FetchRefused, OSError) as error:
                raise ListRefused(str(error)) from None

        return read


def _file(url: str) -> str:
    """The name of the file that a URL leads to."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def _beside(path: Path) -> Callable[[str], str]:
    """Reads what a list includes from the files beside it."""

    def read(file: str) -> str:
        try:
            text = path.with_name(file).read_text(errors="replace")
        except OSError as error:
            raise ListRefused(str(error)) from None
        checked(text)
        return text

    return read


def _whole(data: bytes, of: NameList, name: str, read: Callable[[str], str]) -> bytes:
    """The list with what it includes, where its format has includes. Raises ListRefused."""
    text = data.decode(errors="replace")
    kind = guess(text) if of.format == "auto" else of.format
    return includes.whole(text, name, read).encode() if kind == "geosite" else data


def _entries(copy: Path, of: NameList) -> int:
    """How much the copy at hand holds; one that is not there, or no list any more, holds nothing."""
    try:
        return len(parse(copy.read_text(errors="replace"), of.format, of.attributes))
    except (OSError, ListRefused):
        return 0


def _keep(copy: Path, data: bytes) -> bool:
    """Makes the copy hold these bytes, in one step; True where it did not. Raises OSError."""
    with contextlib.suppress(OSError):
        if copy.read_bytes() == data:
            return False
    copy.parent.mkdir(parents=True, exist_ok=True)
    new = copy.with_name("new-" + copy.name)
    new.write_bytes(data)
    new.rename(copy)
    return True
