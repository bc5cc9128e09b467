"""What the entrypoint's ipt_server says of itself. Knows: its commands. Must not know: what is asked, and why."""

from __future__ import annotations

import json
from typing import Any

from lab import hosts
from lab.topology import ENTRY


def says(*argv: str) -> dict[str, Any]:
    """The answer of `ipt-server ... --json`."""
    answer: dict[str, Any] = json.loads(
        hosts.run(ENTRY, "docker", "exec", "firezone_ipt", "ipt-server", *argv, "--json")
    )
    return answer


def generation() -> int:
    """Of the rules in force."""
    return int(says("status")["generation"])
