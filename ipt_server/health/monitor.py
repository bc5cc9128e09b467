"""Every exit's state, kept by its links, its routes and its probes; who asked is told of each change.

Knows: when to look and to probe. Must not know: what a change brings about.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ipt_server.core.health import ExitHealth
from ipt_server.health import probes
from ipt_server.kernel.routes import Snapshot
from ipt_server.settings import Exit, Settings

log = logging.getLogger(__name__)


class Monitor:
    """The exits of one daemon. `changed(exit, state)` is called at each change of an exit's state."""

    def __init__(self, clock: Callable[[], float], changed: Callable[[Exit, ExitHealth], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._exits: dict[str, Exit] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.states: dict[str, ExitHealth] = {}

    def watch(self, s: Settings) -> None:
        """Watches the tunnels among the exits; a state is kept where what is asked of the exit stays the same."""
        before = self._exits
        # the default exit has no far end: nothing may judge it down
        self._exits = {e.name: e for e in s.exits if e.interface is not None}
        for name in [*before]:
            if self._exits.get(name) != before[name]:
                self._drop(name)
        for name, e in self._exits.items():
            if name not in self.states:
                self.states[name] = ExitHealth(e.health, since=self._clock())
                if self.states[name].probed:
                    self._tasks[name] = asyncio.create_task(self._probe(e, self.states[name]))

    def _drop(self, name: str) -> None:
        self.states.pop(name, None)
        if task := self._tasks.pop(name, None):
            task.cancel()

    def down(self) -> frozenset[str]:
        """The exits that are down."""
        return frozenset(name for name, state in self.states.items() if not state.up)

    def look(self, seen: Snapshot) -> None:
        """Takes in what the kernel has of links and routes."""
        now = self._clock()
        for name, state in list(self.states.items()):
            e = self._exits[name]
            interface = e.interface or ""
            route = state.wanted.route is None or seen.reaches(state.wanted.route, interface)
            if state.signals(interface in seen.links, route, now):
                self._changed(e, state)

    async def _probe(self, e: Exit, state: ExitHealth) -> None:
        while True:
            failure = await self._round(e)
            if state.round(failure is None, failure or "", self._clock()):
                self._changed(e, state)
            await asyncio.sleep(e.health.interval)

    async def _round(self, e: Exit) -> str | None:
        """One round: the exit is well when one of each kind answers. Otherwise the failures in words."""
        w = e.health
        kinds = [
            [probes.icmp(address, e.mark, w.timeout) for address in w.icmp],
            [probes.http(url, e.mark, w.timeout) for url in w.http],
            [probes.dns(address, e.mark, w.timeout) for address in w.dns],
            [probes.handshake(e.interface or "", w.handshake)] if w.handshake else [],
        ]
        answers = await asyncio.gather(*(asyncio.gather(*kind) for kind in kinds if kind))
        failures = ["; ".join(filter(None, answer)) for answer in answers if all(answer)]
        return "; ".join(failures) or None

    def report(self, name: str) -> dict[str, Any] | None:
        """An exit's state for people, or None for one that is not watched."""
        state = self.states.get(name)
        if state is None:
            return None
        return {"up": state.up, "reason": state.reason, "seconds": round(self._clock() - state.since, 1),
                "changes": state.changes}  # fmt: skip

    def stop(self) -> None:
        """Ends the probes."""
        for name in [*self._tasks]:
            self._drop(name)
