"""What may go wrong between a client and a router, on command. Knows: kinds of faults and when they strike."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "late",  # executed; the answer comes `seconds` later
    "cut_before",  # the connection closes, nothing was executed
    "cut_after",  # executed, the connection closes before any answer
    "cut_mid",  # executed, the connection closes in the middle of a sentence
    "trap",  # not executed; !trap with `text`
    "trap_bare",  # not executed; !trap without a message
    "double_trap",  # not executed; two !trap in one response
    "fatal",  # !fatal with `text`, then closed
    "fatal_bare",  # !fatal without a word, then closed
    "unknown",  # executed; a reply word nobody knows stands before !done
    "ignored",  # answered as done, yet nothing was executed
]


@dataclass
class Fault:
    """Strikes at the command that matches (`/ip/address/add`), or at the n-th write of the router's life from now."""

    kind: Kind
    match: str = ".*"
    write: int | None = None
    times: int = 1
    seconds: float = 1.0
    text: str = "out of memory"
    seen: int = field(default=0, init=False)

    def strikes(self, command: str, is_write: bool) -> bool:
        """Whether it strikes now; counts down."""
        if self.times < 1 or not re.fullmatch(self.match, command):
            return False
        if self.write is not None:
            if not is_write:
                return False
            self.seen += 1
            if self.seen != self.write:
                return False
        self.times -= 1
        return True
