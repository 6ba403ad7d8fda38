"""Plots as inline SVG: drawn by matplotlib, in the page's own colours and type, the same bytes from
the same figures.
"""

import io
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from abatch.pages.html import show_percent

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#0a0b0c"  # stands for the page's text colour
DASHED: dict[str, Any] = {"color": INK, "alpha": 0.6, "linewidth": 0.9, "linestyle": (0, (4, 3))}
GREY = "#7f8791"  # a variant without a model
PALETTE = (
    "#2f7fc1",
    "#d0691a",
    "#2a9d74",
    "#9a5fc9",
    "#a67c00",
    "#c2417a",
)  # mid tones: readable on white and on black


class Plot(NamedTuple):
    """Inline SVG, and the same in words for those who cannot see it."""

    svg: "Markup"
    label: str


def plot_reliability(
    name: str,
    tenths: Sequence[tuple[float, float, float | None, float | None]],
    colour: str,
    key: str,
) -> Plot:
    """Predicted against observed shares of one model, as `metrics.measure` bins them.

    Parameters
    ----------
    tenths : mean prediction, observed rate and the rate's interval of each bin, shares in [0, 1],
        from low to high
    key : keeps the plot's ids apart from those of the page's other plots
    """

    def draw(axes: "Axes") -> None:
        top = min(
            1.02,
            1.05
            * max(
                (max(predicted, rate, upper or 0) for predicted, rate, _, upper in tenths),
                default=1,
            ),
        )
        axes.plot([0, top], [0, top], **DASHED)
        draw_intervals(
            axes, [tenth[0] for tenth in tenths], [tenth[1:] for tenth in tenths], colour, size=5
        )
        axes.set(
            xlim=(0, top),
            ylim=(0, top),
            xlabel="Predicted, %",
            ylabel="Observed, %",
            aspect="equal",
        )
        axes.grid()

    words = [
        f"{show_percent(predicted)} predicted, {show_percent(rate)} observed"
        for predicted, rate, _, _ in tenths
    ]
    svg = draw_svg(draw, key, 3.8, 3.4, percent="xy")
    return Plot(svg, f"Reliability plot of {name}, from low to high: {'; '.join(words)}")


def draw_intervals(axes: "Axes", x: Any, figures: Any, colour: str, *, size: float) -> None:
    """A dot, and the line of its interval, for each x, shape (n,), and figures, shape (n, 3):
    value, lower, upper. None draws nothing.
    """
    value, lower, upper = np.array(figures, dtype=np.float64).reshape(-1, 3).T
    axes.vlines(x, lower, upper, color=colour, linewidth=size / 3)
    axes.plot(x, value, color=colour, marker="o", markersize=size, linestyle="")


def set_limits(
    axes: "Axes",
    kept: Sequence[float],
    lower: Iterable[float | None],
    upper: Iterable[float | None],
) -> None:
    """Limits that hold `kept` and four fifths of the bounds, so that the widest, which are the
    first, do not flatten the rest.
    """
    finite = [end for end in kept if np.isfinite(end)]
    for bounds, at in ((lower, 0.2), (upper, 0.8)):
        known = sorted(bound for bound in bounds if bound is not None and np.isfinite(bound))
        finite += [known[round(at * (len(known) - 1))]] if known else []
    room = 0.08 * (max(finite) - min(finite)) or 0.1
    axes.set_ylim(min(finite) - room, max(finite) + room)


def mark_days(axes: "Axes", days: Sequence[date]) -> None:
    """Name at most six of the days, the newest among them, and each year once."""
    span, shown = (days[-1] - days[0]).days, [days[-1]]
    for day in reversed(days):
        if (shown[-1] - day).days >= max(1, span / 5.5):
            shown.append(day)
    first = {min(day for day in shown if day.year == year) for year in {day.year for day in shown}}
    labels = [f"{day.day} {day:%b}" + (f"\n{day.year}" if day in first else "") for day in shown]
    axes.set_xticks([day.toordinal() for day in shown], labels)
    axes.set_xlim(days[0].toordinal() - 0.02 * span - 0.6, days[-1].toordinal() + 0.02 * span + 0.6)


def draw_svg(
    draw: Callable[["Axes"], None], key: str, width: float, height: float, percent: str = ""
) -> "Markup":
    """Inline SVG of one plot, in inches.

    `key` keeps its ids apart from those of the page's other plots.

    `percent` names the axes, x and y, that hold shares.
    """
    logging.getLogger("matplotlib").setLevel(
        logging.ERROR
    )  # its remarks on font caches would become cron's mail
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not a user's matplotlibrc
        matplotlib.rcParams.update(
            {"svg.fonttype": "none", "svg.hashsalt": key, "font.size": 9.5, "grid.alpha": 0.18}
        )
        matplotlib.rcParams.update(
            dict.fromkeys(("grid.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
        )
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        draw(axes)
        for axis in (getattr(axes, f"{name}axis") for name in percent):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(lambda share, _: f"{100 * share:.4g}")
        return _to_inline(figure)


def _to_inline(figure: "Figure") -> "Markup":
    """What HTML needs of the file that matplotlib writes: no prologue, no style for the whole page,
    no names that clash.
    """
    from markupsafe import Markup

    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = (
        re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
        .replace("xlink:href", "href")
        .replace(INK, "currentColor")
    )
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the ids left are hashes, salted with the plot's key
    return Markup(re.sub(r"\n\s*\n", "\n", svg).strip())
