"""What several checks share: fixed names, the nearest known word, prefixes that are parsed once.

Knows: words and prefixes. Must not know: the description.
"""

from __future__ import annotations

import difflib
import functools
import heapq
import ipaddress
from collections.abc import Iterable

GATEWAY_SERVICE = "firezone"
GATEWAY_INTERFACE = "wg-firezone"
LIKELY = 40  # words that are looked at closely
SHOWN = 12  # known words that a message lists

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def near(word: str, known: Iterable[str]) -> str:
    """`: did you mean ...?`, else `; there are: ...`, for the end of a message."""
    words = sorted(known)
    likely = words
    if len(words) > LIKELY:  # difflib is slow: among many, those with the most letters in common
        letters = set(word)
        likely = heapq.nsmallest(LIKELY, words, key=lambda w: (abs(len(w) - len(word)), -len(letters & set(w))))
    found = difflib.get_close_matches(word, likely, n=1)
    if found:
        return f": did you mean `{found[0]}`?"
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return f"; there are: {', '.join(words[:SHOWN])}{more}" if words else ""


def inside(narrow: IPNetwork, wide: IPNetwork) -> bool:
    """Whether a prefix lies in another one, of whatever families they are."""
    return narrow.version == wide.version and narrow.subnet_of(wide)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=65536)
def network(prefix: str) -> IPNetwork:
    """The prefix of a canonical text."""
    return ipaddress.ip_network(prefix)
