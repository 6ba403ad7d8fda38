"""Plots as inline SVG: drawn by matplotlib, in the page's own colours and type.

The same figures give the same bytes.
"""

import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from abatch.database.tables import Row
from abatch.modelling import registry
from abatch.pages.figures import HISTORY, Figures
from abatch.pages.findings import Finding, Scale
from abatch.pages.html import show_number, show_percent
from abatch.statistics import stats, words
from abatch.statistics.metrics import N_RELIABILITY_BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_COHORTS = 53  # the newest
INK = "#0a0b0c"  # stands for the page's text colour
DASHED: dict[str, Any] = {"color": INK, "alpha": 0.6, "linewidth": 0.9, "linestyle": (0, (4, 3))}
# Mid tones: readable on white and on black.
PALETTE = ("#2f7fc1", "#d0691a", "#2a9d74", "#9a5fc9", "#a67c00", "#c2417a")
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.alpha": 0.18,
    **dict.fromkeys(("axes.titlecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "grid.color": INK,
}
NEEDLESS = (  # in HTML: the prologue, style for the whole page, remarks, names that clash
    r'^.*?(?=<svg)|<style.*?</style>|<!--.*?-->| xmlns(:xlink)?="[^"]*"|(?<=<g) id="[^"]*"'
)
# A model's figures by metric, each with value, lower and upper.
Metrics = Mapping[str, Any]


class Plot(NamedTuple):
    """Inline SVG, and the same in words for those who cannot see it."""

    svg: str
    label: str


class Series(NamedTuple):
    """Figures of one colour.

    Attributes
    ----------
    x : array of float, shape (n,)
    figures : array of float, shape (n, 3): value, lower, upper; nan is not drawn
    """

    colour: str
    x: np.ndarray
    figures: np.ndarray


def choose_colours(figures: Figures) -> dict[str, str]:
    """A colour for each model whose quality is shown.

    Those of today come first, in the order of their variants, then those of earlier versions.
    """
    today = map(registry.undated_name, figures.experiment.models.values())
    colours = dict(zip(dict.fromkeys([*today, *figures.names]), cycle(PALETTE)))
    return {name: colours[name] for name in figures.names if "roc_auc" in figures.scores[name]}


def plot_sequence(finding: Finding, scale: Scale) -> Plot | None:
    """The difference on each look: its sequence of intervals, and the naive ones.

    Returns
    -------
    Plot or None
        None if there is no look with figures.
    """
    rows = [row for row in finding.history if row.estimate is not None]
    if not rows:
        return None
    days, effect = [row.run_date for row in rows], scale.factor * finding.effect
    x = np.array([day.toordinal() for day in days])
    naive = scale.factor * np.array(stats.naive_interval(*to_array(rows, "estimate", "se").T)).T
    figures = scale.factor * to_array(rows, "estimate", "lower", "upper")
    figures[[row.word == words.TOO_EARLY for row in rows], 1:] = np.nan

    def draw(axes: "Axes") -> None:
        axes.fill_between(x, *figures.T[1:], color=PALETTE[0], alpha=0.25, linewidth=0)
        axes.plot(x, naive, color=PALETTE[1], linewidth=0.9)
        axes.plot(x, figures[:, 0], color=PALETTE[0], linewidth=1.6)
        draw_series(axes, [Series(PALETTE[0], x[-1:], figures[-1:])])
        axes.axhline(0, color=INK, linewidth=0.9)
        axes.axhline(effect, **DASHED)
        set_limits(axes, [0, effect, *figures[-1]], figures)
        note: dict[str, Any] = {"textcoords": "offset points", "color": INK, "fontsize": 8.5}
        axes.annotate("registered", (x[0], effect), (0, 3), **note)
        if finding.first:
            at = finding.first.run_date.toordinal()
            side = "left" if 2 * at < x[0] + x[-1] else "right"
            axes.axvline(at, color=INK, linewidth=0.9, linestyle=":")
            axes.annotate(" decided first ", (at, axes.get_ylim()[0]), (0, 3), ha=side, **note)
        mark_days(axes, days)
        axes.set_ylabel(f"{scale.unit.capitalize()},\nmore (+) or {scale.less} (−)")

    told, lower, upper = (show_number(figure, scale.decimals) for figure in figures[-1])
    if np.isfinite(figures[-1, 1]):
        told += f" ({lower} to {upper})"
    label = f"Plot of the difference on {len(rows)} looks, {scale.unit}; on {days[-1]} {told}"
    return draw_svg(draw, label, finding.comparison.name, 4.2, 3.0)


def plot_lift(scores: Mapping[str, Metrics], colours: Mapping[str, str]) -> Plot:
    """How many times the base rate each tenth of the predictions of some models has.

    Parameters
    ----------
    scores : by model, also of others than those of `colours`
    """
    series, told = [], []
    for name, colour in colours.items():
        reliability = list_tenths(scores[name])
        tenths = N_RELIABILITY_BINS + 1 - reliability[:, 0]
        lifts = reliability[:, 2:] / scores[name]["base_rate"].value
        series.append(Series(colour, tenths, lifts))
        pairs = zip(tenths[::-1], lifts[::-1, 0], strict=True)
        told.append(f"{name}: {', '.join(f'{lift:.2f} in {tenth:.0f}' for tenth, lift in pairs)}")

    def draw(axes: "Axes") -> None:
        draw_series(axes, series, apart=0.16)
        axes.axhline(1, **DASHED)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.set(
            xticks=range(1, N_RELIABILITY_BINS + 1),
            xlabel="Tenth, from the highest predictions (1) down",
            ylabel="Lift, with 95 % interval",
        )

    label = f"Plot of lift by tenth of the predictions, 1 being the highest; {'; '.join(told)}"
    return draw_svg(draw, label, "lift", 4.0, 2.8)


def plot_history(rows: Sequence[Row], metric: str, colours: Mapping[str, str]) -> Plot:
    """A metric of some models from cohort to cohort, by name and in the order of `colours`.

    Parameters
    ----------
    rows : scores by cohort, oldest first; of other metrics and models too
    """
    title, right = HISTORY[metric]
    rows = [row for row in rows if row.metric == metric and row.model_name in colours]
    cohorts = sorted({row.cohort for row in rows})[-N_COHORTS:]
    days = [*map(date.fromisoformat, cohorts)]
    step = min(np.diff([day.toordinal() for day in days]), default=7)
    series, newest = [], []
    for name, colour in colours.items():
        drawn = [row for row in rows if row.model_name == name and row.cohort in cohorts]
        x = np.array([date.fromisoformat(row.cohort).toordinal() for row in drawn])
        series.append(Series(colour, x, to_array(drawn, "value", "lower", "upper")))
        newest += [
            f"{name} {show_number(row.value)} in the cohort of {row.cohort}" for row in drawn[-1:]
        ]

    def draw(axes: "Axes") -> None:
        size, apart = 5 if len(days) < 20 else 3, 0.3 * step / len(series)
        draw_series(axes, series, size, apart, is_joined=True)
        if np.isfinite(right):
            axes.axhline(right, **DASHED)
        if days:
            figures = np.concatenate([line.figures for line in series])
            set_limits(axes, [right, *figures[:, 0]], figures)
            mark_days(axes, days)
        axes.set_title(title)

    label = f"Plot of {title} over cohorts of run_date; newest: {'; '.join(newest) or 'none yet'}"
    return draw_svg(draw, label, metric, 3.6, 2.3)


def plot_reliability(name: str, metrics: Metrics, colour: str) -> Plot:
    """Predicted against observed shares of one model."""
    tenths = list_tenths(metrics)

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        top = min(1.02, 1.05 * (np.nanmax(tenths[:, 1:]) if len(tenths) else 1))
        axes.plot([0, top], [0, top], **DASHED)
        draw_series(axes, [Series(colour, tenths[:, 1], tenths[:, 2:])])
        axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
        axes.set(xlabel="Predicted, %", ylabel="Observed, %")
        axes.grid(True)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(lambda share, _: f"{100 * share:.4g}")

    told = [
        f"{show_percent(predicted)} predicted, {show_percent(rate)} observed"
        for _, predicted, rate, *_ in tenths
    ]
    label = f"Reliability plot of {name}, from low to high: {'; '.join(told)}"
    return draw_svg(draw, label, name, 3.8, 3.4)


def list_tenths(metrics: Metrics) -> np.ndarray:
    """The reliability table: number, mean prediction, observed rate and its interval of each bin.

    Returns
    -------
    array of float, shape (n, 5), from low to high predictions, shares in [0, 1]; nan is none
    """
    tenths = []
    for i in range(1, N_RELIABILITY_BINS + 1):
        if rate := metrics.get(f"reliability_rate_{i:02}"):
            mean = metrics[f"reliability_prediction_{i:02}"].value
            tenths.append((i, mean, rate.value, rate.lower, rate.upper))
    return np.array(tenths, dtype=np.float64).reshape(-1, 5)


def to_array(rows: Sequence[Row], *names: str) -> np.ndarray:
    """Some figures of each row, shape (n, len(names)); nan where a row has none."""
    figures = [[getattr(row, name) for name in names] for row in rows]
    return np.array(figures, dtype=np.float64).reshape(-1, len(names))


def draw_series(
    axes: "Axes", series: Sequence[Series], size: int = 5, apart: float = 0, is_joined: bool = False
) -> None:
    """A dot, and the line of its interval, for each figure.

    Parameters
    ----------
    apart : how far figures of one x stand beside each other
    is_joined : whether a thin line goes from dot to dot
    """
    for i, (colour, x, figures) in enumerate(series):
        at = x + apart * (i - (len(series) - 1) / 2)
        value, lower, upper = figures.T
        if is_joined:
            axes.plot(at, value, color=colour, linewidth=1, alpha=0.5)
        axes.vlines(at, lower, upper, color=colour, linewidth=size / 3)
        axes.plot(at, value, color=colour, marker="o", markersize=size, linestyle="")


def set_limits(axes: "Axes", kept: Sequence[float], figures: np.ndarray) -> None:
    """Limits that hold `kept` and four fifths of the figures' bounds.

    So the widest, which are the first, do not flatten the rest.
    """
    ends = [*kept]
    for bounds, share in zip(figures.T[1:], (0.2, 0.8), strict=True):
        finite = bounds[np.isfinite(bounds)]
        ends += [np.quantile(finite, share, method="nearest")] if finite.size else []
    low, high = np.nanmin(ends), np.nanmax(ends)
    room = 0.08 * (high - low) or 0.1
    axes.set_ylim(low - room, high + room)


def mark_days(axes: "Axes", days: Sequence[date]) -> None:
    """Name at most six of the days, the newest among them, and each year once."""
    span, shown = (days[-1] - days[0]).days, [days[-1]]
    for day in reversed(days):
        if (shown[-1] - day).days >= max(1, span / 5.5):
            shown.append(day)
    first = {day.year: day for day in shown}.values()
    labels = [f"{day.day} {day:%b}" + f"\n{day.year}" * (day in first) for day in shown]
    axes.set_xticks([day.toordinal() for day in shown], labels)
    axes.set_xlim(days[0].toordinal() - 0.02 * span - 0.6, days[-1].toordinal() + 0.02 * span + 0.6)


def draw_svg(
    draw: Callable[["Axes"], None], label: str, key: str, width: float, height: float
) -> Plot:
    """One plot.

    Parameters
    ----------
    key : keeps the plot's ids apart from those of the page's other plots
    width, height : in inches
    """
    # Its remarks on font caches would become cron's mail.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib import style
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with style.context(["default", STYLE | {"svg.hashsalt": key}]):  # not a user's matplotlibrc
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        draw(axes)
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = re.sub(NEEDLESS, "", buffer.getvalue(), flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href").replace(INK, "currentColor")
    return Plot(re.sub(r"\n\s*\n", "\n", svg).strip(), label)
