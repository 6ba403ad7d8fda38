"""Plots as inline SVG, in the page's own colours and type.

The same figures give the same bytes.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

from abatch.database.tables import Row
from abatch.modelling import registry
from abatch.pages.figures import HISTORY, Figures
from abatch.pages.findings import Finding, Scale
from abatch.pages.html import show_number, show_percent
from abatch.pages.svg import DASHED, DOTTED, INK, Axes, Stroke, find_ticks
from abatch.statistics import stats, words
from abatch.statistics.metrics import N_RELIABILITY_BINS

N_COHORTS = 53  # the newest
SIZES = {  # in points
    "sequence": (302.4, 216.0),
    "lift": (288.0, 201.6),
    "history": (259.2, 165.6),
    "reliability": (273.6, 244.8),
}
# Mid tones: readable on white and on black.
PALETTE = ("#2f7fc1", "#d0691a", "#2a9d74", "#9a5fc9", "#a67c00", "#c2417a")
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

    axes = Axes(*SIZES["sequence"])
    axes.add_band(x, figures[:, 1], figures[:, 2], PALETTE[0])
    for line in naive.T:
        axes.add_line(x, line, Stroke(PALETTE[1]))
    axes.add_line(x, figures[:, 0], Stroke(PALETTE[0], 1.6))
    draw_series(axes, [Series(PALETTE[0], x[-1:], figures[-1:])])
    axes.add_level(0, Stroke(INK))
    axes.add_level(effect, DASHED)
    set_limits(axes, [0, effect, *figures[-1]], figures)
    axes.add_note("registered", x[0], effect)
    if finding.first:
        at = finding.first.run_date.toordinal()
        axes.add_upright(at, DOTTED)
        side = "start" if 2 * at < x[0] + x[-1] else "end"
        axes.add_note("\N{NO-BREAK SPACE}decided first\N{NO-BREAK SPACE}", at, anchor=side)
    mark_days(axes, days)
    axes.y_label = f"{scale.unit.capitalize()},\nmore (+) or {scale.less} (−)"
    told, lower, upper = (show_number(figure, scale.decimals) for figure in figures[-1])
    if np.isfinite(figures[-1, 1]):
        told += f" ({lower} to {upper})"
    label = f"Plot of the difference on {len(rows)} looks, {scale.unit}; on {days[-1]} {told}"
    return Plot(axes.draw(finding.comparison.name), label)


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

    axes = Axes(*SIZES["lift"])
    draw_series(axes, series, apart=0.16)
    axes.add_level(1, DASHED)
    low, high = axes.find_limits()
    axes.y_limits, axes.x_limits = (min(0, low), high), (0.5, N_RELIABILITY_BINS + 0.5)
    axes.x_ticks = [(tenth, str(tenth)) for tenth in range(1, N_RELIABILITY_BINS + 1)]
    axes.x_label = "Tenth, from the highest predictions (1) down"
    axes.y_label = "Lift, with 95 % interval"
    label = f"Plot of lift by tenth of the predictions, 1 being the highest; {'; '.join(told)}"
    return Plot(axes.draw("lift"), label)


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

    axes = Axes(*SIZES["history"])
    size, apart = 5 if len(days) < 20 else 3, 0.3 * step / len(series)
    draw_series(axes, series, size, apart, is_joined=True)
    if np.isfinite(right):
        axes.add_level(right, DASHED)
    if days:
        figures = np.concatenate([line.figures for line in series])
        set_limits(axes, [right, *figures[:, 0]], figures)
        mark_days(axes, days)
    axes.title, axes.n_ticks = title, 6
    label = f"Plot of {title} over cohorts of run_date; newest: {'; '.join(newest) or 'none yet'}"
    return Plot(axes.draw(metric), label)


def plot_reliability(name: str, metrics: Metrics, colour: str) -> Plot:
    """Predicted against observed shares of one model."""
    tenths = list_tenths(metrics)

    axes = Axes(*SIZES["reliability"])
    top = min(1.02, 1.05 * (np.nanmax(tenths[:, 1:]) if len(tenths) else 1))
    axes.add_line(np.array([0, top]), np.array([0, top]), DASHED)
    draw_series(axes, [Series(colour, tenths[:, 1], tenths[:, 2:])])
    axes.x_limits = axes.y_limits = (0.0, top)
    axes.x_ticks = [(percent / 100, label) for percent, label in find_ticks(0, 100 * top, 6)]
    axes.y_ticks, axes.is_square, axes.has_x_grid = axes.x_ticks, True, True
    axes.x_label, axes.y_label = "Predicted, %", "Observed, %"
    told = [
        f"{show_percent(predicted)} predicted, {show_percent(rate)} observed"
        for _, predicted, rate, *_ in tenths
    ]
    label = f"Reliability plot of {name}, from low to high: {'; '.join(told)}"
    return Plot(axes.draw(name), label)


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
    axes: Axes, series: Sequence[Series], size: int = 5, apart: float = 0, is_joined: bool = False
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
            axes.add_line(at, value, Stroke(colour, 1, 0.5))
        axes.add_intervals(at, lower, upper, Stroke(colour, size / 3, ends="butt"))
        axes.add_dots(at, value, colour, size + 1)


def set_limits(axes: Axes, kept: Sequence[float], figures: np.ndarray) -> None:
    """Limits that hold `kept` and four fifths of the figures' bounds.

    So the widest, which are the first, do not flatten the rest.
    """
    ends = [*kept]
    for bounds, share in zip(figures.T[1:], (0.2, 0.8), strict=True):
        finite = bounds[np.isfinite(bounds)]
        ends += [np.quantile(finite, share, method="nearest")] if finite.size else []
    low, high = np.nanmin(ends), np.nanmax(ends)
    room = 0.08 * (high - low) or 0.1
    axes.y_limits = low - room, high + room


def mark_days(axes: Axes, days: Sequence[date]) -> None:
    """Name at most six of the days, the newest among them, and each year once."""
    span, shown = (days[-1] - days[0]).days, [days[-1]]
    for day in reversed(days):
        if (shown[-1] - day).days >= max(1, span / 5.5):
            shown.append(day)
    first = {day.year: day for day in shown}.values()
    labels = [f"{day.day} {day:%b}" + f"\n{day.year}" * (day in first) for day in shown]
    axes.x_ticks = [(day.toordinal(), label) for day, label in zip(shown, labels, strict=True)]
    room = 0.02 * span + 0.6
    axes.x_limits = days[0].toordinal() - room, days[-1].toordinal() + room
