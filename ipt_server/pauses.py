"""What holds up every thread of the daemon at once, and so each answer: the interpreter's turns and its collector.

Knows: the interpreter. Must not know: what the daemon does.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

TURN = 0.0005  # seconds that a thread keeps the interpreter while another one waits for it
COLLECT_EVERY = 3600.0
_NEVER = 1 << 30


class Pauses:
    """Takes full collections into the daemon's own hand.

    With 200,000 learned addresses one walks 650,000 objects for 80 ms. The interpreter begins one whenever a quarter
    of what lives is new. Of all that, only cycles that outlived the young generations are its to find, and those are
    few: once an hour is enough.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._last = clock()

    def begin(self) -> None:
        """Sets the interpreter up; what is loaded by now is never walked again."""
        sys.setswitchinterval(TURN)
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, _NEVER)
        gc.collect()
        gc.freeze()

    def look(self) -> bool:
        """Collects where it is time to; whether it was."""
        now = self._clock()
        if now - self._last < COLLECT_EVERY:
            return False
        self._last = now
        gc.collect()
        return True
