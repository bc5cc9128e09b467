"""The lists brought up to date, each on its schedule, and put in force when one changed.

Knows: when. Must not know: what lists hold, what is done with them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ipt_server.lists.subscriptions import Subscriptions
from ipt_server.settings import Settings

log = logging.getLogger(__name__)
EVERY = 5.0  # seconds between looks at what is due


class Keeper:
    """The schedule of one daemon's lists."""

    def __init__(
        self,
        lists: Subscriptions,
        settings: Callable[[], Settings],
        swap: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._lists = lists
        self._settings = settings
        self._swap = swap

    async def run(self) -> None:
        """Looks for what is due for as long as the daemon runs."""
        while True:
            if await self.refresh():
                log.info("lists changed: %s", (await self._swap())["result"])
            await asyncio.sleep(EVERY)

    async def refresh(self) -> bool:
        """Fetches what is due; True where a list changed."""
        s = self._settings()
        changed = False
        for name in self._lists.due(s.lists):
            of = s.lists[name]
            mark = s.exit(of.exit).mark if of.exit else None
            changed |= await asyncio.to_thread(self._lists.refresh, name, of, mark)
            if name in self._lists.problems:
                log.warning("%s", self._lists.problems[name])
        return changed
