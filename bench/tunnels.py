"""Many tunnels on one entrypoint: what each costs in memory and in the apply that adds it; an apply without changes.

    entry (gateway) ==== 20, 50, 100 tunnels ==== us        `us` has only the keys: nothing is applied there

Takes a standing lab away and builds one. Knows: the lab. Must not know: what the states do.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from bench.figure import Figure
from lab import hosts, power, salt, up
from lab.deadline import until
from lab.state import locked
from lab.topology import ENTRY, Host

COUNTS = (20, 50, 100)
BAR = 3.0  # times `test.ping` of the entrypoint, promised for 20 tunnels
MORE = salt.DESCRIPTION / "zz_many.yaml"
ROOM = 3 * 2**30  # bytes that the machine keeps free
TUNNEL = re.compile(r"^\d+: wg_[^:@]+", re.MULTILINE)


def measure() -> Iterable[Figure]:
    """Seconds and bytes at each number of tunnels, as many of them as the machine's memory allows."""
    with locked():
        up.down()
        up.up()
        try:
            salt.apply()
            yield from grown(COUNTS)
        finally:
            up.down()


def grown(counts: Sequence[int]) -> Iterator[Figure]:
    """The figures on a lab that stands; the description is as before at the end, and not applied."""
    own = have = _tunnels()
    used = _memory(ENTRY)
    try:
        for count in counts:
            if _available() < ROOM:
                raise RuntimeError(f"no memory for {count} tunnels: {_available() / 2**30:.1f} GiB are left")
            MORE.write_text(_many(count - own))
            salt.orchestrate("orch.keys")
            taken = _timed(lambda: salt.apply(ENTRY.name, timeout=900))
            until(f"{count} tunnels are up", lambda n=count: _tunnels() == n, 60)  # type: ignore[misc]
            added, have = count - have, count
            before, used = used, _memory(ENTRY)
            ping = statistics.median(_timed(lambda: salt.salt(ENTRY.name, "test.ping")) for _ in range(5))
            again = statistics.median(_timed(_nothing) for _ in range(3))
            bar, met = (f"<= {BAR:g}x", again <= BAR * ping) if count == COUNTS[0] else (None, None)
            name = f"state.apply, 0 changes, entrypoint with {count} tunnels"
            yield Figure(name, again, "s", "salt entry test.ping", ping, bar, met)
            yield Figure(f"a tunnel more, {count} then: time", taken / added, "s")
            # its container's and what Docker keeps for it
            yield Figure(f"a tunnel more, {count} then: memory (PSS)", (used - before) / added / 2**20, "MiB")
    finally:
        MORE.unlink(missing_ok=True)


def _many(number: int) -> str:
    lines = ["mrvpn:", "  tunnels:"]
    for n in range(number):
        lines += [f"    wg_n{n}:", f"      subnet: [10.40.{n}.0/24, 'fd6d:7276:40:{n:x}::/64']", "      hosts:"]
        lines += [f"        us: {{expose: {56000 + n}}}", "        entry: {compose_service: firezone}"]
    return "\n".join(lines) + "\n"


def _timed(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def _nothing() -> None:
    changes = salt.changes(salt.apply(ENTRY.name))
    if changes:
        raise RuntimeError(f"an apply without a change changed {changes}")


def _tunnels() -> int:
    """How many tunnels the gateway's namespace has."""
    return len(TUNNEL.findall(hosts.run(ENTRY, "docker", "exec", "firezone", "ip", "-oneline", "link")))


def _memory(host: Host) -> int:
    """Bytes of all that runs on a host, what is shared counted once (PSS)."""
    total = 0
    for pid in power.running(host):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(kb) for kb in re.findall(r"^Pss: +(\d+) kB", text, re.MULTILINE)) * 1024
    return total


def _available() -> int:
    (kb,) = re.findall(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(kb) * 1024
