"""The country database brought up to date on its schedule, and put in force when it is good.

Knows: when, and that a bad one changes nothing. Must not know: what is done with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ipt_server import fetch
from ipt_server.geo import DatabaseRefused, database
from ipt_server.happenings import Events
from ipt_server.settings import Settings

log = logging.getLogger(__name__)
RETRY = 300.0  # seconds after a failure, or the schedule where that is shorter


def fetched(s: Settings, folder: Path) -> Path | None:
    """Where the fetched copy belongs, by the settings; its ending says what it is."""
    if s.country_source is None:
        return None
    return folder / "country" / (Path(urlsplit(s.country_source.url).path).name or "country.mmdb")


def in_force(s: Settings, folder: Path) -> Path | None:
    """The database to use: the fetched copy where there is one, else the one that the settings name."""
    copy = fetched(s, folder)
    if copy is not None and copy.exists():
        return copy
    return Path(s.country_database) if s.country_database else None


class Refresher:
    """The schedule of one daemon's country database."""

    def __init__(
        self,
        folder: Path,
        settings: Callable[[], Settings],
        swap: Callable[[], Awaitable[dict[str, Any]]],
        events: Events,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._swap = swap
        self._events = events
        self._next: tuple[object, float] = (None, 0.0)  # what is due, and when
        self.refusals = 0
        self.refused: str | None = None

    async def run(self) -> None:
        """Looks for what is due for as long as the daemon runs."""
        while True:
            source = self._settings().country_source
            if source is not None and (self._next[0] != source or time.time() >= self._next[1]):
                good = await self.refresh()
                self._next = (source, time.time() + (source.refresh if good else min(RETRY, source.refresh)))
            await asyncio.sleep(5)

    async def refresh(self) -> bool:
        """Fetches and puts in force what is new; False where it was refused, and all is as it was."""
        s = self._settings()
        source, target = s.country_source, fetched(s, self._folder)
        if source is None or target is None:
            return True
        wanted = {country for rule in s.rules for country in rule.countries}

        def accept(new: Path) -> None:
            database.countries(new, wanted)

        mark = s.exit(source.exit).mark if source.exit else None
        try:
            if not await asyncio.to_thread(fetch.fetch, source.url, target, accept, mark, source.checksum):
                self.refused = None
                return True
        except (fetch.FetchRefused, DatabaseRefused) as error:
            self.refusals += 1
            self.refused = str(error)
            log.warning("country database: %s", error)
            self._events.add("database", result="refused", reason=str(error))
            return False
        self.refused = None
        answer = await self._swap()
        self._events.add("database", result=answer["result"], url=source.url)
        return bool(answer["result"] != "refused")
