"""The learned table: which address carries which rule mark, until when, and by which name.

Knows: lifetimes, bounds, precedence of names on one address. Must not know: clocks (time is given), the kernel
(changes are returned).

Life of an element: it must outlive every answer that was let go because of it, or a packet-cache hit, which runs no
hook, would go out unrouted: now + max(largest TTL handed out + tries x timeout + grace, 600 s, twice the UDP
conntrack timeout).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
GRACE = 5.0
SHORTEST = 600.0
UDP_CONNTRACK = 120.0  # net.netfilter.nf_conntrack_udp_timeout_stream


class Full(Exception):
    """The table holds only living elements: what is new must fail by policy."""


@dataclass(slots=True)
class Entry:
    """A learned address: rule mark, expiry (seconds of the caller's clock), the name that taught it, conflicts."""

    mark: int
    expiry: float
    name: str
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What the kernel needs: set an element (`timeout` seconds) or, with mark None, delete it."""

    address: Address
    mark: int | None
    timeout: float
    replaces: bool


class Learned:
    """The table. Every method takes the time; none touches the kernel."""

    def __init__(self, limit: int, tries: int, timeout_ms: int) -> None:
        self.limit = limit
        self.patience = tries * timeout_ms / 1000 + GRACE
        self.entries: dict[Address, Entry] = {}
        self.conflicts = 0

    def life(self, ttl: float) -> float:
        """Seconds that an element lives after an answer whose largest TTL handed out is `ttl`."""
        return max(ttl + self.patience, SHORTEST, 2 * UDP_CONNTRACK)

    def learn(self, address: Address, mark: int, better: bool, ttl: float, name: str, now: float) -> Change | None:
        """Takes an address in; returns the change for the kernel, or None where it has what is needed.

        `better`: the new rule wins over the entry's, if there is another. An element is renewed when less than half
        of its life is left beyond what this answer needs, so that a hot name costs no system call per answer.
        """
        life = self.life(ttl)
        entry = self.entries.get(address)
        if entry is None or entry.expiry <= now:
            if entry is None and len(self.entries) >= self.limit and not self._expire(now):
                raise Full(f"{self.limit} learned addresses, all of them alive")
            self.entries[address] = Entry(mark, now + life, name)
            return Change(address, mark, life, replaces=False)
        if entry.mark != mark:
            entry.conflicts += 1
            self.conflicts += 1
            if not better:
                mark, name = entry.mark, entry.name
            else:
                self.entries[address] = Entry(mark, max(entry.expiry, now + life), name, entry.conflicts)
                return Change(address, mark, max(entry.expiry - now, life), replaces=True)
        needed = now + ttl + self.patience
        if entry.expiry >= needed and entry.expiry - now >= life / 2:
            return None
        entry.expiry = now + life
        return Change(address, mark, life, replaces=True)

    def _expire(self, now: float) -> int:
        dead = [address for address, entry in self.entries.items() if entry.expiry <= now]
        for address in dead:
            del self.entries[address]
        return len(dead)

    def alive(self, now: float) -> list[tuple[Address, Entry]]:
        """The living entries."""
        self._expire(now)
        return list(self.entries.items())

    def replace(self, entries: Iterable[tuple[Address, Entry]]) -> None:
        """Takes over a whole table: after a restart or a change of rules."""
        self.entries = dict(entries)
