"""What of the figures is drawn as growth."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from bench.figure import Figure
from bench.plot import draw, growth

FIGURES = [
    Figure("growth: 50 countries, 12,345 intervals, compiled", 2.0, "s"),
    Figure("growth: 5 countries, 1,234 intervals, compiled", 0.3, "s"),
    Figure("growth: 5 countries, in the kernel", 0.4, "s"),
    Figure("growth: 1,000 list entries, read and indexed", 0.1, "s"),
    Figure("growth: 1,000 list entries, match, p50", 3.0, "us"),
    Figure("growth: 10 hosts, checked (30 MB)", 0.2, "s"),
    Figure("learn one address", 7.0, "us"),
]


def test_times_of_growth_by_what_grows_and_step() -> None:
    assert growth(FIGURES) == {
        "countries": {"compiled": [(5, 0.3), (50, 2.0)], "in the kernel": [(5, 0.4)]},
        "list entries": {"read and indexed": [(1000, 0.1)]},
        "hosts": {"checked": [(10, 0.2)]},
    }


def test_a_panel_for_each_thing_that_grows(tmp_path: Path) -> None:
    draw(growth(FIGURES), tmp_path / "growth.svg")
    ids = [element.get("id", "") for element in ElementTree.parse(tmp_path / "growth.svg").iter()]
    assert [name for name in ids if name.startswith("axes_")] == ["axes_1", "axes_2", "axes_3"]
