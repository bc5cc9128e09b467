"""The main job's times: set-up, lab up, applies, OSPF after a cut, a name that must be learned.

Takes a standing lab away and builds one. Knows: the lab. Must not know: how its steps are done.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import statistics
import time
from collections.abc import Callable, Iterable

from bench.figure import Figure
from lab import client, demo, hosts, internet, salt, up
from lab.deadline import until
from lab.state import locked, sh
from lab.topology import ENTRY, OFFICE, OFFICE_LAN, UK

FIRST, GONE, BACK = 40.0, 1.2, 8.0  # seconds promised
TIMES_PING = {ENTRY: 3.0, UK: 2.0}  # an apply without changes, in pings of the same host


def _timed(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def measure() -> Iterable[Figure]:
    """Seconds of each step; the pings of the same run stand beside the applies."""
    with locked():
        up.down()
        total = _timed(up.up)
        steps = json.loads(up.TIMES.read_text())
        image = sum(seconds for what, seconds in steps.items() if what.startswith("image"))
        ping = _ping()
        first = _timed(salt.apply)
        second = statistics.median(_timed(salt.apply) for _ in range(3))
        more = [*_again(), _names(), *_ospf()]
        up.down()
    if demo.SETUP.exists():
        yield Figure("set-up (last `make venv`)", json.loads(demo.SETUP.read_text())["seconds"], "s")
    yield Figure("lab up, image there", total - image, "s")
    yield Figure("first state.apply, 6 hosts", first, "s", "test.ping of all", ping, f"<= {FIRST:g} s", first <= FIRST)
    yield Figure("second state.apply, 0 changes", second, "s", "test.ping of all", ping)
    yield from more


def _ping(target: str = "*") -> float:
    return statistics.median(_timed(lambda: salt.salt(target, "test.ping")) for _ in range(3))


def _again() -> Iterable[Figure]:
    """An apply without changes of one host, beside a ping of it."""
    for host, times in TIMES_PING.items():
        ping = _ping(host.name)
        taken = statistics.median(_timed(lambda h=host: salt.apply(h.name)) for _ in range(3))  # type: ignore[misc]
        name, met = f"state.apply of {host.name}, 0 changes", taken <= times * ping
        yield Figure(name, taken, "s", f"salt {host.name} test.ping", ping, f"<= {times:g}x", met)


def _ospf() -> Iterable[Figure]:
    """The worst of three cuts of the office's line, from the cut (its end) to the entrypoint's route."""
    gone, back = [], []
    for _ in range(3):
        until("the entrypoint has the office's route", _routed, 60)
        until("BFD watches its neighbour again", _watched, 60)  # a moment later: a session begins with its adjacency
        start = time.monotonic()
        with internet.cut(OFFICE):
            until("the route is gone", lambda: not _routed(), 30, every=0.01)
            gone.append(time.monotonic() - start)
            time.sleep(3)  # its neighbour has given up, too
        start = time.monotonic()
        until("the route is back", _routed, 60, every=0.01)
        back.append(time.monotonic() - start)
    for what, times, bar in (("gone after a cut", gone, GONE), ("back after a cut", back, BACK)):
        yield Figure(
            f"OSPF route {what}, worst of {len(times)}", max(times), "s", bar=f"<= {bar:g} s", met=max(times) <= bar
        )


def _routed() -> bool:
    network = str(ipaddress.ip_interface(OFFICE_LAN.router[0]).network)
    # by the namespace: a `docker exec` would be a good part of what is measured
    return bool(sh("nsenter", f"--net=/proc/{_gateway()}/ns/net", "ip", "route", "show", network).strip())


def _watched() -> bool:
    told = hosts.run(ENTRY, "docker", "exec", "firezone_frr", "vtysh", "-c", "show bfd peers json")
    return all(peer["status"] == "up" for peer in json.loads(told)) and f'"wg_{OFFICE.name}"' in told


@functools.cache
def _gateway() -> int:
    return int(hosts.run(ENTRY, "docker", "inspect", "-f", "{{.State.Pid}}", "firezone"))


def _names() -> Figure:
    """Median milliseconds of a phone's question: names learned on the way beside names that no rule has."""
    asked = {}
    for what, names in (
        ("learned", [internet.fresh(number, turn)[0] for turn in (0, 1) for number in range(0, 100, 2)]),
        ("unmatched", [f"n{number}.nothing.de" for number in range(100)]),
    ):
        times = [_timed(lambda n=name: client.lookup(n, "A")) for name in names]  # type: ignore[misc]
        asked[what] = statistics.median(times) * 1000
    return Figure(
        "phone: a .ru name asked for the first time, dig and tunnel included", asked["learned"], "ms",
        "a name that no rule has", asked["unmatched"],
    )  # fmt: skip
