"""The proof: one row per promise, each tried with real traffic. `make demo` ends with it, tests/lab runs the same rows.

Knows: the rows and how they are shown. Must not know: how a row is tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from lab import dump
from lab.checks import apply, destinations, failure, mesh
from lab.checks.outcome import Wrong
from lab.deadline import TimedOut
from lab.state import Trouble


@dataclass(frozen=True)
class Row:
    """One promise. `check` returns what was seen, and raises Wrong, Trouble or TimedOut where it does not hold."""

    number: int
    what: str
    expected: str
    check: Callable[[], str]


ROWS = (
    Row(1, "by country, IPv4 and IPv6", "GB by uk, RU by ru, US by us, DE by entry itself", destinations.countries),
    Row(
        2,
        "by name: www.shop.ru, a CNAME to an American CDN",
        "by ru; its HTTPS record's target and hints too",
        destinations.chain,
    ),
    Row(
        3,
        "300 fresh .ru names in Germany, asked at once, connected as answered, again from the cache",
        "every packet by ru",
        destinations.fresh_names,
    ),
    Row(
        4,
        "the office by OSPF",
        "both ways without masquerade; 0.0.0.0/1 from the office moves nothing",
        mesh.office,
    ),
    Row(5, "a second state.apply", "0 changes, 0 containers recreated, 0 pings lost", apply.again),
    Row(
        6,
        "DE through wg_uk: description, apply; back by event",
        "new connections move, the download stays, 0 pings lost",
        apply.changed,
    ),
    Row(
        7,
        "a tunnel dies, the project is recreated; 1350 bytes with DF",
        "fails closed, returns by itself; need to frag by the flow's own exit",
        failure.fails_closed,
    ),
    Row(
        8,
        "the office behind a MikroTik by OSPF",
        "both ways without masquerade, IPv4 and IPv6",
        mesh.mikrotik,
    ),
)
STANDING = (1, 2, 3, 4, 5, 6, 7, 8)  # the rows that are there: the rest is shown as `not yet`


@dataclass(frozen=True)
class Result:
    """A row's outcome: True, False, or None for one that is not there yet."""

    row: Row
    held: bool | None
    seen: str
    seconds: float


def run(row: Row) -> Result:
    """Tries one row."""
    if row.number not in STANDING:
        return Result(row, None, "not yet", 0.0)
    start = time.monotonic()
    try:
        seen, held = row.check(), True
    except (Wrong, Trouble, TimedOut) as error:
        seen, held = str(error), False
    return Result(row, held, seen, time.monotonic() - start)


def show(results: Sequence[Result], console: Console) -> None:
    """Prints the table."""
    table = Table("", "what", "expected", "seen", "time", "", title="what MRVPN promises, tried on this machine")
    for result in results:
        mark = {True: "[green]holds[/]", False: "[red]fails[/]", None: "[yellow]not yet[/]"}[result.held]
        row = result.row
        table.add_row(str(row.number), row.what, row.expected, result.seen, f"{result.seconds:.1f} s", mark)
    console.print(table)


def main(numbers: Sequence[str] = (), console: Console | None = None) -> int:
    """Tries the rows (all, or the named ones), prints the table; 1 where one does not hold or is not there yet."""
    console = console or Console()
    known = {str(row.number): row for row in ROWS}
    unknown = [number for number in numbers if number not in known]
    if unknown:
        raise Trouble(f"there is no row {', '.join(unknown)}: 1 to {len(ROWS)}")
    results = []
    for row in [known[number] for number in numbers] or ROWS:
        with console.status(f"{row.number}: {row.what}"):
            results.append(run(row))
        if results[-1].held is False:
            dump.everything()
    show(results, console)
    return 0 if all(result.held for result in results) else 1
