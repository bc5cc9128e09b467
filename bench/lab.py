"""The main job's times: set-up, lab up, first and second apply, a client's first page by a name that must be learned.

Takes a standing lab away and builds one. Knows: the lab. Must not know: how its steps are done.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable

from bench.figure import Figure
from lab import client, demo, internet, salt, up
from lab.state import locked


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
        learn = _names()
        up.down()
    if demo.SETUP.exists():
        yield Figure("set-up (last `make venv`)", json.loads(demo.SETUP.read_text())["seconds"], "s")
    yield Figure("lab up, image there", total - image, "s")
    yield Figure("first state.apply, 6 hosts", first, "s", "test.ping of all", ping)
    yield Figure("second state.apply, 0 changes", second, "s", "test.ping of all", ping)
    yield learn


def _ping() -> float:
    return statistics.median(_timed(lambda: salt.salt("*", "test.ping")) for _ in range(3))


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
