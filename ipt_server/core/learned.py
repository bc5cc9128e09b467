"""The learned table: which address carries which rule mark, until when, by which name, and for which client.

Knows: lifetimes, bounds, precedence of names on one address, each client's share. Must not know: clocks (time is
given), the kernel (changes are returned).

Life of an element: it must outlive every answer that was let go because of it, or a packet-cache hit, which runs no
hook, would go out unrouted: now + max(largest TTL handed out + tries x timeout + grace, 600 s, twice the UDP
conntrack timeout).
"""

from __future__ import annotations

import heapq
import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ClientAddress(NamedTuple):
    """An address as one client's packets go to it: the key where an answer counts for its client alone.

    Both are of one family. As a number, and in the kernel, the client stands before the address.
    """

    client: Address
    address: Address

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.address.version

    def __int__(self) -> int:
        return int(self.client) << self.address.max_prefixlen | int(self.address)

    def __str__(self) -> str:
        return f"{self.client} {self.address}"


Key = Address | ClientAddress  # of the learned table: by the description's `learn_scope`
GRACE = 5.0
SHORTEST = 600.0
UDP_CONNTRACK = 120.0  # net.netfilter.nf_conntrack_udp_timeout_stream
_SHORTEST = max(SHORTEST, 2 * UDP_CONNTRACK)


def destination(key: Key) -> Address:
    """The address that packets go to."""
    return key.address if isinstance(key, ClientAddress) else key


def parse_key(text: str) -> Key:
    """The key that `str` made the text of. Raises ValueError."""
    first, *second = text.split(" ")
    address = ipaddress.ip_address(first)
    return ClientAddress(address, ipaddress.ip_address(" ".join(second))) if second else address


class Full(Exception):
    """No room for what is new, which must fail by policy: only living elements, or the client has had its share."""


@dataclass(slots=True)
class Entry:
    """A learned address: rule mark, expiry (seconds of the caller's clock), the name that taught it, conflicts.

    `client`: who asked first, and whose share it counts against; "" is nobody's.
    """

    mark: int
    expiry: float
    name: str
    conflicts: int = 0
    client: str = ""

    def copy(self) -> Entry:
        """Another one of the same."""
        return Entry(self.mark, self.expiry, self.name, self.conflicts, self.client)


class Change(NamedTuple):
    """What the kernel needs: set an element (`timeout` seconds) or, with mark None, delete it."""

    address: Key
    mark: int | None
    timeout: float
    replaces: bool
    name: str = ""  # that taught it


class Learned:
    """The table. Every method takes the time; none touches the kernel."""

    def __init__(self, limit: int, tries: int, timeout_ms: int) -> None:
        self.limit = limit
        self.patience = tries * timeout_ms / 1000 + GRACE
        self.entries: dict[Key, Entry] = {}
        self.conflicts = 0
        self.refused = 0
        self._due: list[tuple[float, int, Key]] = []  # one item an entry, never later than its expiry
        self._sequence = 0
        self._owned: dict[str, int] = {}

    def life(self, ttl: float) -> float:
        """Seconds that an element lives after an answer whose largest TTL handed out is `ttl`."""
        return max(ttl + self.patience, _SHORTEST)

    def enough(self, ttl: float, now: float) -> float:
        """The expiry from which on an entry does for an answer of this TTL without being renewed.

        An element is renewed when half of the shortest life is left, or less than an answer needs, so that a hot name
        costs no system call per answer.
        """
        return now + max(ttl + self.patience, _SHORTEST / 2)

    def learn(
        self, address: Key, mark: int, better: bool, ttl: float, name: str, now: float, client: str = ""
    ) -> Change | None:
        """Takes an address in; returns the change for the kernel, or None where it has what is needed. Raises Full.

        `better`: the new rule wins over the entry's, if there is another.
        """
        self._expire(now)
        life = self.life(ttl)
        entry = self.entries.get(address)
        if entry is None:
            self._make_sure_of_room(client)
            self._put(address, Entry(mark, now + life, name, 0, client))
            return Change(address, mark, life, False, name)
        if entry.mark != mark:
            entry.conflicts += 1
            self.conflicts += 1
            if better:
                entry.mark, entry.name, entry.expiry = mark, name, max(entry.expiry, now + life)
                return Change(address, mark, entry.expiry - now, True, name)
        if entry.expiry >= self.enough(ttl, now):
            return None
        entry.expiry = now + life
        return Change(address, entry.mark, life, True, entry.name)

    def _make_sure_of_room(self, client: str) -> None:
        """Raises Full. The last half of the table is shared: whoever asks next must find room beside the others."""
        used = len(self.entries)
        if used >= self.limit:
            self.refused += 1
            raise Full(f"{self.limit} learned addresses, all of them alive")
        if client and 2 * used >= self.limit:
            own = self._owned.get(client, 0)
            share = self.limit // (len(self._owned) + (1 if own else 2))
            if own >= share:
                self.refused += 1
                raise Full(f"client {client} has had its share, {share} of {self.limit} learned addresses")

    def _put(self, address: Key, entry: Entry) -> None:
        self.entries[address] = entry
        self._count(entry.client, 1)
        self._sequence += 1
        heapq.heappush(self._due, (entry.expiry, self._sequence, address))
        if len(self._due) > 2 * len(self.entries) + 1024:  # items of entries that were taken back
            self._queue_anew()

    def _drop(self, address: Key) -> None:
        self._count(self.entries.pop(address).client, -1)

    def _count(self, client: str, change: int) -> None:
        if not client:
            return
        left = self._owned.get(client, 0) + change
        if left:
            self._owned[client] = left
        else:
            del self._owned[client]

    def _expire(self, now: float) -> None:
        """Forgets what is past its life; an entry that was renewed since it was queued is queued again."""
        due = self._due
        while due and due[0][0] <= now:
            _, sequence, address = heapq.heappop(due)
            entry = self.entries.get(address)
            if entry is None:
                continue
            if entry.expiry <= now:
                self._drop(address)
            else:
                heapq.heappush(due, (entry.expiry, sequence, address))

    def snapshot(self, address: Key) -> Entry | None:
        """A copy of an address's entry, for `restore`."""
        entry = self.entries.get(address)
        return None if entry is None else entry.copy()

    def restore(self, address: Key, entry: Entry | None) -> None:
        """Puts an address back to what `snapshot` returned: the kernel did not take the change."""
        if address in self.entries:
            self._drop(address)
        if entry is not None:
            self._put(address, entry.copy())

    def outlive(self, address: Key, expiry: float) -> None:
        """Takes in that an address's element lives until `expiry`: a connection renewed it where it stands."""
        entry = self.entries.get(address)
        if entry is not None:
            entry.expiry = max(entry.expiry, expiry)

    def alive(self, now: float) -> list[tuple[Key, Entry]]:
        """The living entries."""
        self._expire(now)
        return list(self.entries.items())

    def replace(self, entries: Iterable[tuple[Key, Entry]]) -> None:
        """Takes over a whole table: after a restart or a change of rules."""
        self.entries, self._owned = dict(entries), {}
        for entry in self.entries.values():
            self._count(entry.client, 1)
        self._queue_anew()

    def rejudge(self, judge: Callable[[Key, Entry], int | None], now: float) -> list[Change]:
        """Gives every living entry the mark that `judge` returns, or forgets it for None: after a change of rules.

        Returns what the kernel, which has the marks of before, would have to change.
        """
        self._expire(now)
        changes = []
        for address, entry in self.entries.items():
            mark = judge(address, entry)
            if mark != entry.mark:
                changes.append(Change(address, mark, entry.expiry - now, True, entry.name))
                entry.mark = entry.mark if mark is None else mark
        for change in changes:
            if change.mark is None:
                self._drop(change.address)
        return changes

    def _queue_anew(self) -> None:
        self._due = [(entry.expiry, number, address) for number, (address, entry) in enumerate(self.entries.items())]
        heapq.heapify(self._due)
        self._sequence = len(self._due)
