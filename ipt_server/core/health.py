"""Whether an exit is up: signals of its link, its route and its probes in, transitions out, with hysteresis.

Knows: counts and times (given). Must not know: sockets, clocks, the kernel. Down at once where OSPF withdrew the far
end's route (BFD has waited already) or an interface stayed away; down after some failed rounds of probes; up only when
everything has been well for a while, so that a link that flaps moves nobody to and fro.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ipt_server.settings import Health


@dataclass
class ExitHealth:
    """One exit's state."""

    wanted: Health
    up: bool = True
    reason: str = ""
    since: float = 0.0
    changes: int = 0
    failures: int = 0
    successes: int = 0
    _link_lost: float | None = None
    _route_lost: bool = False
    _well_since: float | None = field(default=None)

    @property
    def probed(self) -> bool:
        """Whether anything is asked through this exit."""
        w = self.wanted
        return bool(w.icmp or w.http or w.dns or w.handshake)

    def signals(self, link: bool, route: bool, now: float) -> bool:
        """Takes in whether the interface is up and the far end's route is there; True when the exit's state changed."""
        if link:
            self._link_lost = None
        elif self._link_lost is None:
            self._link_lost = now
        self._route_lost = not route
        return self._settle(now)

    def round(self, answered: bool, what: str, now: float) -> bool:
        """Takes in a round of probes; `what`: the failure in words. True when the exit's state changed."""
        if answered:
            self.failures, self.successes = 0, self.successes + 1
        else:
            self.failures, self.successes = self.failures + 1, 0
        return self._settle(now, what)

    def _settle(self, now: float, what: str = "") -> bool:
        reason = self._wrong(now, what)
        if reason:
            self._well_since = None
            if self.up:
                self._turn(False, reason, now)
                return True
            return False
        if self._well_since is None:
            self._well_since = now
        if self.up:
            return False
        rounds = self.successes >= self.wanted.up_after
        quiet = now - self._well_since >= self.wanted.interval * self.wanted.up_after
        if self._link_lost is None and (rounds if self.probed else quiet):
            self._turn(True, "", now)
            return True
        return False

    def _wrong(self, now: float, what: str) -> str:
        if self._route_lost:
            return f"OSPF has no route to {self.wanted.route}"
        if self._link_lost is not None and now - self._link_lost >= self.wanted.grace:
            return "its interface is not there"
        if self.failures >= self.wanted.down_after:
            return what or self.reason or "its probes are not answered"
        return ""

    def _turn(self, up: bool, reason: str, now: float) -> None:
        self.up, self.reason, self.since = up, reason, now
        self.changes += 1
        self.successes = 0 if not up else self.successes
