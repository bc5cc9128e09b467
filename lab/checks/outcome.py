"""What a row says when it does not hold."""

from __future__ import annotations

from collections.abc import Sequence


class Wrong(Exception):
    """What was seen instead of what was promised; the text is for the table."""


def require(problems: Sequence[str]) -> None:
    """Raises Wrong with all problems, the first ones in full."""
    if problems:
        more = f" (and {len(problems) - 4} more)" if len(problems) > 4 else ""
        raise Wrong("; ".join(problems[:4]) + more)
