"""Waiting: every wait polls to a deadline and says what it waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TimedOut(Exception):
    """What did not come true in time, and the last thing seen."""


def until(what: str, probe: Callable[[], T], seconds: float, every: float = 0.1) -> T:
    """The first true value of `probe`; raises TimedOut with `what` and the last error or value after `seconds`."""
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            value = probe()
            if value:
                return value
            last = value
        except Exception as error:  # the probe's own failure is what the wait is about
            last = error
        if time.monotonic() > deadline:
            raise TimedOut(f"{what}: not within {seconds:g} s; last seen: {last!r}")
        time.sleep(every)
