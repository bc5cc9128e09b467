"""Every mark and table number of MRVPN, and why it is what it is.

Knows: numbers. Must not know: what is routed where.

A packet's mark has 32 bits; these use the low 18, `MASK`:
  0 .. 0xffff         exit marks, `pbr_mark` + n (MRVPN2's key; n = 0 is the default exit)
  0x10000 .. 0x1fffe  rule marks, one a route rule: what the maps of destinations hold
  0x1ffff             no rule matched: what is not looked up again needs a mark that is not 0
  0x20000             declared mesh: the main table or nothing
"""

from __future__ import annotations

MASK = 0x3FFFF
RULE_BASE = 0x10000
DEFAULT_RULE = 0x1FFFF
MESH = 0x20000
MAIN_TABLE = 254
RESERVED_TABLES = frozenset({253, 254, 255})  # default, main, local: rtnetlink(7)
MAX_RULES = DEFAULT_RULE - RULE_BASE
MAX_EXIT_MARK = RULE_BASE - 1


def exit_mark(pbr_mark: int, n: int) -> int:
    """The mark of exit n (0: the default exit). Raises ValueError where it would reach into the rule marks."""
    mark = pbr_mark + n
    if not 0 < mark <= MAX_EXIT_MARK:
        raise ValueError(f"exit mark {mark} is outside 1..{MAX_EXIT_MARK}: choose another pbr_mark")
    return mark


def exit_table(table: int, n: int) -> int:
    """The routing table of exit n: `table` + n, past the kernel's own 253-255; the default exit uses main."""
    if n == 0:
        return MAIN_TABLE
    number = table + n
    ahead = sum(reserved > table for reserved in RESERVED_TABLES)
    return number + ahead if number >= min(RESERVED_TABLES) else number


def rule_mark(r: int) -> int:
    """The mark of route rule r, counted from 0. Raises ValueError where the marks run out."""
    if not 0 <= r < MAX_RULES:
        raise ValueError(f"route rule {r} has no mark: at most {MAX_RULES} rules")
    return RULE_BASE + r
