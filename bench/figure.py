"""One figure and the table of them. Knows how figures are told; must not know what is measured."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """A measured value beside its reference (a floor or a peer of the same run), and the bar it should meet.

    `ratio` is value / reference_value. `bar` is text for people; `met` is None where nothing was promised.
    """

    name: str
    value: float
    unit: str
    reference: str | None = None
    reference_value: float | None = None
    bar: str | None = None
    met: bool | None = None

    @property
    def ratio(self) -> float | None:
        """value / reference_value, or None without a reference."""
        return self.value / self.reference_value if self.reference_value else None

    def as_json(self) -> dict[str, Any]:
        """The figure as it stands in bench/results/latest.json."""
        return {**asdict(self), "ratio": self.ratio}


def seconds(work: Callable[[], object], runs: int = 5) -> float:
    """Median wall-clock seconds of `work` over `runs` runs, after one warm-up."""
    work()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def show(figures: Iterable[Figure], console: Console) -> None:
    """Prints the table of figures."""
    table = Table("what", "measured", "beside", "ratio", "bar", "met", title="figures")
    for figure in figures:
        met = {None: "", True: "[green]yes[/]", False: "[red]no[/]"}[figure.met]
        beside = f"{figure.reference}: {_text(figure.reference_value)}" if figure.reference else ""
        measured = f"{_text(figure.value)} {figure.unit}"
        table.add_row(figure.name, measured, beside, _text(figure.ratio), figure.bar or "", met)
    console.print(table)


def save(figures: Iterable[Figure], path: Path) -> None:
    """Writes the figures as JSON, a list of objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([figure.as_json() for figure in figures], indent=1) + "\n")
