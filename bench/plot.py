"""The growth among the figures, drawn: seconds against size, a panel for each kind of thing that grows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from bench.figure import Figure

_GROWTH = re.compile(
    r"growth: (?P<size>[\d,]+) (?P<what>[a-z ]+?), (?:[\d,]+ intervals, )?(?P<step>[^(]+?)(?: \(.*\))?"
)
Series = dict[str, dict[str, list[tuple[int, float]]]]


def growth(figures: Iterable[Figure]) -> Series:
    """{what grows: {step: [(size, seconds)]}}, in order of size, of the figures named `growth: SIZE WHAT, STEP`."""
    found: Series = {}
    for figure in figures:
        if figure.unit == "s" and (told := _GROWTH.fullmatch(figure.name)):
            size = int(told["size"].replace(",", ""))
            found.setdefault(told["what"], {}).setdefault(told["step"], []).append((size, figure.value))
    return {what: {step: sorted(points) for step, points in steps.items()} for what, steps in found.items()}


def draw(series: Series, path: Path) -> None:
    """Writes the panels as SVG, both axes logarithmic: linear growth is a line of slope one, which is drawn beside."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(series), figsize=(5 * len(series), 4), squeeze=False)
    for panel, (what, steps) in zip(panels[0], series.items(), strict=True):
        for step, points in steps.items():
            panel.plot(*zip(*points, strict=True), marker="o", label=step)
        (first, seconds), (last, _) = points[0], points[-1]
        panel.plot([first, last], [seconds, seconds * last / first], linestyle=":", color="grey", label="linear")
        panel.set(xscale="log", yscale="log", xlabel=what, ylabel="seconds")
        panel.grid(visible=True, alpha=0.3)
        panel.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
