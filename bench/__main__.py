"""`python -m bench [SUBJECT ...]`: measures every subject (or the named ones), prints a table, writes the results
and a plot of the growth.

A subject is a module of this package with `measure() -> Iterable[Figure]`. It raises where this
machine cannot measure it; the text is shown.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from pathlib import Path

from rich.console import Console

import bench
from bench.figure import Figure, save, show
from bench.plot import draw, growth

RESULTS = Path(__file__).parent / "results" / "latest.json"
GROWTH = RESULTS.with_name("growth.svg")
NOT_SUBJECTS = {"figure", "peak", "plot", "__main__"}


def main(argv: list[str]) -> int:
    """Runs the subjects; exit code 1 when one of them could not be measured."""
    console = Console()
    names = sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if m.name not in NOT_SUBJECTS)
    unknown = [name for name in argv if name not in names]
    if unknown:
        console.print(f"no such subject: {', '.join(unknown)}; there are: {', '.join(names)}")
        return 2
    figures: list[Figure] = []
    left_out = []
    for name in argv or names:
        with console.status(f"measuring {name}"):
            try:
                figures += importlib.import_module(f"bench.{name}").measure()
            except Exception as error:  # a subject that fails must not take the others' figures with it
                left_out.append(f"{name}: {type(error).__name__}: {error}")
    show(figures, console)
    save(figures, RESULTS)
    if series := growth(figures):
        draw(series, GROWTH)
        console.print(f"the growth is drawn in {os.path.relpath(GROWTH)}")
    for line in left_out:
        console.print(f"[red]not measured[/] {line}")
    return 1 if left_out else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
