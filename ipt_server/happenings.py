"""The last things that happened, numbered, for whoever asks: the minion turns them into Salt events.

Knows: order. Must not know: who asks. An event is {"number", "time" (Unix seconds), "kind", ...}.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import Any

KEPT = 500


class Events:
    """The last KEPT events."""

    def __init__(self) -> None:
        self._kept: deque[dict[str, Any]] = deque(maxlen=KEPT)
        # numbers of the clock: an event of this life is later than what anybody was told in another one
        self._number = int(time.time() * 1000)
        self._news = asyncio.Event()

    def add(self, kind: str, **what: Any) -> None:
        """Takes an event in and wakes who waits."""
        self._number += 1
        self._kept.append({"number": self._number, "time": round(time.time(), 3), "kind": kind, **what})
        self._news.set()
        self._news = asyncio.Event()

    async def after(self, since: int, wait: float = 0) -> list[dict[str, Any]]:
        """The events after number `since`, waiting up to `wait` seconds for the first.

        A number that was never reached is that of another life, before the clock went back: then all that are kept.
        """
        if wait and not self._since(since):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait)
        return self._since(since)

    def _since(self, number: int) -> list[dict[str, Any]]:
        return [event for event in self._kept if number > self._number or event["number"] > number]
