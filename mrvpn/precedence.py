"""Which rule wins: one order for the compiler, the daemon, `explain` and the tests' reference.

Highest weight; then domain, prefix, country, default; then the longer prefix; then the earlier in the file.
Knows: the order. Must not know: names, addresses, marks.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["domain", "prefix", "country", "default"]
Key = tuple[int, int, int, int]

RANK: dict[Kind, int] = {"domain": 0, "prefix": 1, "country": 2, "default": 3}
SHORTEST_PREFIX = 8  # a shorter one, such as 0.0.0.0/0 or its two halves, is a default


def kind_of_prefix(length: int) -> Kind:
    """`prefix`, or `default` for one shorter than /8."""
    return "prefix" if length >= SHORTEST_PREFIX else "default"


def key(weight: int, kind: Kind, prefix_length: int, position: int) -> Key:
    """The sort key of a match: the smallest wins. `prefix_length` is 0 for names and countries."""
    return (-weight, RANK[kind], -prefix_length, position)
