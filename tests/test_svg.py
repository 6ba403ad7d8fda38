import re
import subprocess
import sys

import numpy as np
import pytest

from abatch.pages.svg import Axes, Stroke, find_ticks
from tests.conftest import ROOT

NAN = float("nan")


@pytest.mark.parametrize(
    ("low", "high", "n_most", "labels"),
    [  # as matplotlib's MaxNLocator(n_most, steps=[1, 2, 2.5, 5, 10]) places them
        (-0.62, 4.21, 7, ["0", "1", "2", "3", "4"]),
        (-0.62, 2.61, 7, ["−0.5", "0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]),
        (0.134, 0.1915, 6, ["0.14", "0.15", "0.16", "0.17", "0.18", "0.19"]),
        (0, 1, 4, ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        (0, 23.1, 6, ["0", "5", "10", "15", "20"]),
        (
            -2_600_000,
            100,
            6,
            ["−2,500,000", "−2,000,000", "−1,500,000", "−1,000,000", "−500,000", "0"],
        ),
    ],
)
def test_find_ticks(low: float, high: float, n_most: int, labels: list[str]) -> None:
    assert [label for _, label in find_ticks(low, high, n_most)] == labels


def draw() -> str:
    axes = Axes(100, 80)
    x, y = np.arange(5.0), np.array([1, 2, NAN, 4, 3.0])
    axes.add_line(x, y, Stroke("red"))
    axes.add_band(x, y - 1, y + 1, "blue")
    axes.add_intervals(x, y - 1, y + 1, Stroke("green"))
    axes.add_dots(x, y, "black", 4)
    axes.y_label, axes.title = "a < b\nand c", "R&D"
    return axes.draw("a key")


def test_draw_leaves_a_gap_where_a_figure_is_unknown() -> None:
    svg = draw()
    assert [svg.count(f"stroke: {colour};") for colour in ("red", "green")] == [2, 4]
    assert [svg.count("fill: blue"), svg.count("<circle")] == [2, 4]


def test_draw_places_figures_in_proportion() -> None:
    dots = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', draw())]
    (x0, y0), (x1, y1), (x3, y3), (x4, y4) = dots
    assert [(x1 - x0), (x3 - x1) / 2, x4 - x3] == pytest.approx([(x4 - x0) / 4] * 3, abs=2e-3)
    unit = y0 - y1  # y points down
    assert [y0 - y3, y0 - y4] == pytest.approx([3 * unit, 2 * unit], abs=5e-3)


def test_draw_escapes_and_stays_inside_the_picture() -> None:
    svg = draw()
    assert "a &lt; b" in svg
    assert "R&amp;D" in svg
    for x, y in re.findall(r'<text x="([\d.]+)" y="([\d.]+)"', svg):
        assert 0 < float(x) < 100
        assert 0 < float(y) < 80


def test_draw_is_the_same_for_the_same_figures() -> None:
    assert draw() == draw()
    assert 'width="100pt" height="80pt"' in draw()


def test_score_imports_no_library_that_it_does_not_need() -> None:
    code = (
        "import sys, score, abatch.pages.plots; sys.exit(bool({'scipy.stats', 'sklearn', 'joblib',"
        " 'matplotlib'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
