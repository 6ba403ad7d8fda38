"""How good predictions were, with intervals: from histograms that add up, so that chunks and cohorts can be merged.

A histogram counts outcomes by log-odds bin of the prediction and by jackknife bucket of the candidate. Intervals are
delete-one-bucket jackknife with Student's t: one method for every metric, and it respects candidates that come again
(Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 11). Names are scikit-learn's where it has the metric.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

N_BINS = 65_536
LIMIT = 12.0  # log-odds beyond this share the outer bins
MIN_CASES = 20  # with fewer of either outcome: counts only
N_RELIABILITY_BINS = 10
_EPSILON = np.finfo(np.float64).eps


class Histogram(NamedTuple):
    """Mature predictions of one model, condensed.

    Attributes
    ----------
    bins : array of int, shape (k,), sorted; the log-odds bins that are not empty
    counts : array of int, shape (g, 2, k); by jackknife bucket, outcome 0 or 1, bin
    losses : array of float, shape (g, 2); by bucket the exact sums of log loss and of squared error
    """

    bins: np.ndarray
    counts: np.ndarray
    losses: np.ndarray


class Metric(NamedTuple):
    """One figure; lower and upper are nan where it has no interval."""

    name: str
    value: float
    lower: float
    upper: float
    n_obs: int


def make_histogram(prediction: np.ndarray, outcome: np.ndarray, bucket: np.ndarray, n_buckets: int) -> Histogram:
    """Condense predictions and outcomes.

    Parameters
    ----------
    prediction : array of float, shape (n,), probabilities in [0, 1]
    outcome : array of int, shape (n,), 0 or 1
    bucket : array of int, shape (n,), in [0, n_buckets)
    """
    p = np.clip(prediction, _EPSILON, 1 - _EPSILON)
    log_odds = np.clip(np.log(p) - np.log1p(-p), -LIMIT, LIMIT)
    bins, position = np.unique(np.rint((log_odds + LIMIT) / (2 * LIMIT) * (N_BINS - 1)).astype(np.int64), return_inverse=True)
    cell = (bucket * 2 + outcome) * len(bins) + position
    counts = np.bincount(cell, minlength=n_buckets * 2 * len(bins)).reshape(n_buckets, 2, len(bins))
    log_loss = -np.where(outcome == 1, np.log(p), np.log1p(-p))
    squared = (prediction - outcome) ** 2
    losses = np.stack([np.bincount(bucket, weights=loss, minlength=n_buckets) for loss in (log_loss, squared)], axis=1)
    return Histogram(bins, counts, losses)


def merge_histograms(histograms: Sequence[Histogram]) -> Histogram:
    """The histogram of all the predictions behind several."""
    bins = np.unique(np.concatenate([histogram.bins for histogram in histograms]))
    counts = np.zeros((len(histograms[0].counts), 2, len(bins)), dtype=np.int64)
    for histogram in histograms:
        counts[:, :, np.searchsorted(bins, histogram.bins)] += histogram.counts
    return Histogram(bins, counts, np.sum([histogram.losses for histogram in histograms], axis=0))


def measure(histogram: Histogram) -> list[Metric]:
    """All metrics of a histogram; with fewer than 20 of either outcome, the counts only.

    Returns
    -------
    list of Metric
        Each with a 95 % interval, except n, n_positive and the mean predictions of the reliability table.
    """
    totals = histogram.counts.sum(axis=0)
    n_negative, n_positive = (int(count) for count in totals.sum(axis=1))
    n = n_negative + n_positive
    found = [Metric("n", n, np.nan, np.nan, n), Metric("n_positive", n_positive, np.nan, np.nan, n)]
    if min(n_negative, n_positive) < MIN_CASES:
        return found
    filled = histogram.counts.any(axis=(1, 2))
    left_out = totals - histogram.counts[filled]
    counts = np.concatenate([totals[None], left_out]).astype(np.float64)  # row 0: everything
    total_loss = histogram.losses.sum(axis=0)
    losses = np.concatenate([total_loss[None], total_loss - histogram.losses[filled]])
    log_odds = histogram.bins / (N_BINS - 1) * (2 * LIMIT) - LIMIT
    with np.errstate(divide="ignore", invalid="ignore"):  # without some bucket an outcome may be missing: no interval, nan
        computed = _compute(counts, losses, log_odds)
    for name, values in computed.items():
        found.append(Metric(name, float(values[0]), *jackknife_interval(values[0], values[1:]), n))
    return found + _reliability(counts, log_odds)


def to_dict(found: Sequence[Metric]) -> dict[str, dict[str, float | None]]:
    """Metrics by name as JSON holds them: nan becomes None."""
    figures = {metric.name: {"value": metric.value, "lower": metric.lower, "upper": metric.upper} for metric in found}
    return {name: {key: None if np.isnan(value) else value for key, value in figure.items()} for name, figure in figures.items()}


def jackknife_interval(value: float, left_out: np.ndarray, confidence_level: float = 0.95) -> tuple[float, float]:
    """Interval from delete-one-group values, with Student's t on g - 1 degrees of freedom.

    Parameters
    ----------
    value : the figure on all groups
    left_out : array of float, shape (g,), the figure without each group
    """
    g = len(left_out)
    if g < 2 or not np.isfinite(left_out).all():
        return np.nan, np.nan
    se = np.sqrt((g - 1) / g * np.sum((left_out - left_out.mean()) ** 2))
    half = stats.t.ppf((1 + confidence_level) / 2, g - 1) * se
    return float(value - half), float(value + half)


def _compute(counts: np.ndarray, losses: np.ndarray, log_odds: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric for each row of counts, shape (r, 2, k), and of losses, shape (r, 2)."""
    negative, positive = counts[:, 0], counts[:, 1]
    n_negative, n_positive = negative.sum(axis=1), positive.sum(axis=1)
    n = n_negative + n_positive
    base_rate = n_positive / n
    below_negative = negative.cumsum(axis=1)
    below_positive = positive.cumsum(axis=1)
    roc_auc = (positive * (below_negative - negative / 2)).sum(axis=1) / (n_positive * n_negative)
    ks = np.abs(below_positive / n_positive[:, None] - below_negative / n_negative[:, None]).max(axis=1)
    # From the highest prediction down, a bin at a time: equal predictions share a threshold, as in scikit-learn.
    true_positives = positive[:, ::-1].cumsum(axis=1)
    flagged = true_positives + negative[:, ::-1].cumsum(axis=1)
    precision = np.divide(true_positives, flagged, out=np.zeros_like(flagged), where=flagged > 0)
    average_precision = (precision * positive[:, ::-1]).sum(axis=1) / n_positive
    size = (negative + positive)[:, ::-1]
    room = n[:, None] / 10 - (flagged - size)
    inside = np.divide(np.clip(room, 0, size), size, out=np.zeros_like(size), where=size > 0)
    capture = (inside * positive[:, ::-1]).sum(axis=1) / n_positive
    log_loss, brier = losses[:, 0] / n, losses[:, 1] / n
    intercept, slope = _calibrate(counts, log_odds)
    return {
        "base_rate": base_rate,
        "roc_auc": roc_auc,
        "gini": 2 * roc_auc - 1,
        "ks": ks,
        "average_precision": average_precision,
        "lift_top_decile": capture * 10,
        "capture_top_decile": capture,
        "log_loss": log_loss,
        "brier": brier,
        "brier_skill": 1 - brier / (base_rate * (1 - base_rate)),
        "calibration_intercept": intercept,
        "calibration_slope": slope,
    }


def _calibrate(counts: np.ndarray, log_odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression of the outcome on the log-odds of the prediction, by Newton, for each row of counts.

    Row 0 starts without a slope, where Newton is safest: from slope 1 it runs away when predictions are far too sure. The
    other rows, which lack one bucket of it, start at its result. nan for constant predictions and separable outcomes.
    """
    odds = counts[0, 1].sum() / counts[0, 0].sum()
    start = _newton(counts[:1], log_odds, np.array([[np.log(odds), 0.0]]), n_steps=30)
    rest = _newton(counts[1:], log_odds, np.repeat(start, len(counts) - 1, axis=0), n_steps=10)
    both = np.concatenate([start, rest])
    return both[:, 0], both[:, 1]


def _newton(counts: np.ndarray, log_odds: np.ndarray, beta: np.ndarray, n_steps: int) -> np.ndarray:
    size, positive = counts.sum(axis=1), counts[:, 1]
    powers = np.stack([np.ones_like(log_odds), log_odds, log_odds**2], axis=1)  # (k, 3)
    moved = np.full(len(beta), np.inf)
    for _ in range(n_steps):
        fitted = 1 / (1 + np.exp(-np.clip(beta[:, :1] + beta[:, 1:] * log_odds, -500, 500)))
        gradient = (positive - size * fitted) @ powers[:, :2]
        s0, s1, s2 = ((size * fitted * (1 - fitted)) @ powers).T
        determinant = s0 * s2 - s1**2
        flat = determinant < 1e-12 * np.maximum(s0 * s2, 1e-300)  # constant predictions
        step = np.stack([s2 * gradient[:, 0] - s1 * gradient[:, 1], s0 * gradient[:, 1] - s1 * gradient[:, 0]], axis=1)
        step = step / np.where(flat, np.nan, determinant)[:, None]
        beta = beta + step
        moved = np.max(np.abs(step) / (1 + np.abs(beta)), axis=1)
        if not np.any(moved > 1e-6):  # convergence is quadratic: the next step would move 1e-12
            break
    return np.where((moved <= 1e-6)[:, None], beta, np.nan)  # separable outcomes move for ever


def _reliability(counts: np.ndarray, log_odds: np.ndarray) -> list[Metric]:
    """Mean prediction and observed rate in ten bins of about equal size, cut on all predictions."""
    size = counts[0].sum(axis=0)
    middle = (size.cumsum() - size / 2) / size.sum()
    decile = np.minimum((middle * N_RELIABILITY_BINS).astype(int), N_RELIABILITY_BINS - 1)
    probability = 1 / (1 + np.exp(-log_odds))
    found = []
    for index in np.unique(decile):
        part = counts[:, :, decile == index]
        n = part.sum(axis=(1, 2))
        rates = np.divide(part[:, 1].sum(axis=1), n, out=np.full(len(n), np.nan), where=n > 0)
        mean = float((size * probability)[decile == index].sum() / n[0])
        lower, upper = jackknife_interval(rates[0], rates[1:])
        found.append(Metric(f"reliability_prediction_{index + 1:02}", mean, np.nan, np.nan, int(n[0])))
        found.append(Metric(f"reliability_rate_{index + 1:02}", float(rates[0]), lower, upper, int(n[0])))
    return found
