"""Names for several countries at once, which a rule may use as it uses a country.

Sources: europa.eu (the members of the Union), efta.int (the Economic Area).
"""

from __future__ import annotations

from collections.abc import Iterable

_EU = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"  # 27 since 2020-02-01
SETS: dict[str, frozenset[str]] = {
    "EU": frozenset(_EU.split()),
    "EEA": frozenset([*_EU.split(), "IS", "LI", "NO"]),
}


def members(names: Iterable[str]) -> list[str]:
    """The countries that names stand for, sorted: a set's members, a country itself."""
    return sorted({code for name in names for code in SETS.get(name, (name,))})
