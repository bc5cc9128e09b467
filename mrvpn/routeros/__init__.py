"""RouterOS as data: which fields its paths have, when two rows are the same, and what to change.

Knows: `paths.yaml`, rows as text. Must not know: Salt, sockets, sessions, the description of the network.
"""

from mrvpn.routeros.diff import Add, Change, Move, Plan, Remove, Set, applied, plan
from mrvpn.routeros.facts import PATHS, PathFacts, Version, proplist, version_of
from mrvpn.routeros.feet import Feet, touched
from mrvpn.routeros.undo import inverse, quoted, script

__all__ = [
    "PATHS",
    "Add",
    "Change",
    "Feet",
    "Move",
    "PathFacts",
    "Plan",
    "Remove",
    "Set",
    "Version",
    "applied",
    "inverse",
    "plan",
    "proplist",
    "quoted",
    "script",
    "touched",
    "version_of",
]
