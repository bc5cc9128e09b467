"""What the master does with a description: candidates, git, deployments, what is asked of hosts.

Knows: files, git, `mrvpn`. Must not know: Salt (the runners hand in a client where hosts are asked), how a
description is compiled. Everything here can be tried without a master.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Trouble(Exception):
    """What was asked was not done; the message says why, where things stand, and what would be right.

    `problems`: those of a description that was refused; `stands`: what was done before it failed.
    """

    def __init__(self, message: str, problems: Sequence[str] = (), stands: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.problems = list(problems)
        self.stands = stands or {}

    def as_json(self) -> dict[str, Any]:
        """The answer of a runner that failed."""
        return {"error": str(self), "problems": self.problems, **({"stands": self.stands} if self.stands else {})}
