"""How good predictions were, with intervals: from histograms that add up over chunks and cohorts.

A histogram counts outcomes by log-odds bin of the prediction and by jackknife bucket of the
candidate. Intervals are delete-one-bucket jackknife with Student's t: one method for every metric,
and it respects candidates that come again (Efron & Tibshirani, An Introduction to the Bootstrap,
1993, ch. 11). That of KS, a maximum, reaches further down. Names are scikit-learn's where it has
the metric.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
from scipy import special

N_BINS = 196_608
LIMIT = 36.0  # log-odds beyond this share the outer bins: float64 tells hardly any apart there
CERTAIN = 12.0  # log-odds that 0 and 1 are taken for at least, where they must have some
MIN_CASES = 20  # with fewer of either outcome: counts only
N_RELIABILITY_BINS = 10
N_STEPS = 30  # of Newton at most
SLICE = 8  # buckets left out at a time: all at once would hold gigabytes
N_HALVES = 14
N_KEPT = 8  # histograms of which it is kept what they tell: some come again, by another name
RANKED = ("roc_auc", "ks", "average_precision", "capture_top_decile")
_EPSILON = np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class Histogram:
    """Mature predictions of one model, condensed; histograms add up with +.

    They are equal if they are to the last bit, as those of a model and of its only date.

    Attributes
    ----------
    cells : array of int, shape (n,), sorted; those that are not empty of (g, 2, N_BINS), flattened:
        by jackknife bucket, outcome 0 or 1, log-odds bin
    counts : array of int, shape (n,); predictions in each
    losses : array of float, shape (g, 2); by bucket the exact sums of log loss and of squared error
    """

    cells: np.ndarray
    counts: np.ndarray
    losses: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and all(
            map(np.array_equal, vars(self).values(), vars(other).values())
        )

    def __hash__(self) -> int:
        return hash(self.losses.tobytes())

    def __add__(self, other: "Histogram") -> "Histogram":
        cells = np.concatenate([self.cells, other.cells])
        order = cells.argsort(kind="stable")
        cells = cells[order]
        first = np.flatnonzero(np.diff(cells, prepend=-1))
        counts = np.add.reduceat(np.concatenate([self.counts, other.counts])[order], first)
        return Histogram(cells[first], counts, self.losses + other.losses)

    def tabulate(self) -> tuple[np.ndarray, np.ndarray]:
        """The bins that are not empty, sorted, shape (k,), and the counts in them, (g, 2, k)."""
        n_rows, is_filled = self.losses.size, np.zeros(N_BINS, dtype=bool)
        ends = np.searchsorted(self.cells, np.arange(n_rows + 1) * N_BINS)
        rows = [slice(*pair) for pair in pairwise(ends)]
        for i, row in enumerate(rows):  # all at once would take as much again
            is_filled[self.cells[row] - i * N_BINS] = True
        bins, position = np.flatnonzero(is_filled), is_filled.cumsum() - 1
        counts = np.zeros((n_rows, len(bins)), dtype=np.int32)
        for i, row in enumerate(rows):
            counts[i, position[self.cells[row] - i * N_BINS]] = self.counts[row]
        return bins, counts.reshape(*self.losses.shape, len(bins))


@dataclass(frozen=True, eq=False)
class Ranking:
    """How well models rank, each its own predictions; rankings of several add up with +.

    What of two models has the higher prediction says nothing of either, so no pair of theirs
    counts. - takes out what is a part.

    Attributes
    ----------
    sums : array of float, shape (g + 15, 4); the metrics in RANKED times their weights, of all
        predictions, then without each jackknife bucket, and of 14 halves of the buckets
    weights : array of float, shape (g + 15, 4); pairs of a positive and a negative for ROC AUC and
        KS, positives for the others; 0 for KS and average precision of a model with fewer than 20
        of either outcome, where chance raises them
    brackets : array of float, shape (4,); of each of the metrics, times its weight
    """

    sums: np.ndarray
    weights: np.ndarray
    brackets: np.ndarray

    def __add__(self, other: "Ranking") -> "Ranking":
        return Ranking(*map(np.add, vars(self).values(), vars(other).values()))

    def __sub__(self, other: "Ranking") -> "Ranking":
        return Ranking(*map(np.subtract, vars(self).values(), vars(other).values()))


class Metric(NamedTuple):
    """One figure; lower and upper are nan where it has no interval."""

    value: float
    lower: float = np.nan
    upper: float = np.nan
    n_obs: int = 0

    def to_dict(self) -> dict[str, float | None]:
        """Value, lower and upper as JSON and tables hold them: nan becomes None."""
        figures = zip(("value", "lower", "upper"), self, strict=False)
        return {name: None if np.isnan(figure) else figure for name, figure in figures}

    @classmethod
    def from_dict(cls, figures: Mapping[str, float | None]) -> "Metric":
        """The inverse of `to_dict`."""
        known = {name: np.nan if figure is None else figure for name, figure in figures.items()}
        return cls(known["value"], known["lower"], known["upper"])


class AucDifference(NamedTuple):
    """ROC AUC of a new and of the live model on the same rows, which neither was fitted on.

    Attributes
    ----------
    lower, upper : 95 % interval of their difference
    live_lower, live_upper : of the live model's own
    """

    new: float
    live: float
    lower: float
    upper: float
    n_rows: int
    live_lower: float = np.nan
    live_upper: float = np.nan


def make_histogram(
    prediction: np.ndarray, outcome: np.ndarray, bucket: np.ndarray, n_buckets: int
) -> Histogram:
    """Condense predictions and outcomes.

    Parameters
    ----------
    prediction : array of float, shape (n,), probabilities in [0, 1]
    outcome : array of int, shape (n,), 0 or 1
    bucket : array of int, shape (n,), in [0, n_buckets)
    """
    p = np.clip(prediction, _EPSILON, 1 - _EPSILON)
    log_p, log_not_p = np.log(p), np.log1p(-p)
    log_odds = np.clip(log_p - log_not_p, -LIMIT, LIMIT)
    index = np.rint((log_odds + LIMIT) / (2 * LIMIT) * (N_BINS - 1)).astype(np.int64)
    cells, counts = np.unique((bucket * 2 + outcome) * N_BINS + index, return_counts=True)
    losses = -np.where(outcome == 1, log_p, log_not_p), (prediction - outcome) ** 2
    sums = [np.bincount(bucket, weights=loss, minlength=n_buckets) for loss in losses]
    # Of no rows numpy's sums are integers.
    return Histogram(cells, counts, np.stack(sums, axis=1, dtype=np.float64))


def pack_histogram(histogram: Histogram) -> dict[str, np.ndarray]:
    """The cells that are not empty, in the smallest integers that hold them, for storage.

    Returns
    -------
    dict of array
        histogram.steps, from one cell to the next in the flattened (g, 2, N_BINS);
        histogram.counts, as many; histogram.losses, shape (g, 2). Other arrays may be stored
        beside them.
    """
    return {
        "histogram.steps": _shrink(np.diff(histogram.cells, prepend=0)),
        "histogram.counts": _shrink(histogram.counts),
        "histogram.losses": histogram.losses,
    }


def unpack_histogram(packed: Mapping[str, np.ndarray]) -> Histogram:
    """The histogram that `pack_histogram` was given."""
    cells = packed["histogram.steps"].cumsum(dtype=np.int64)
    counts = packed["histogram.counts"].astype(np.int64)
    return Histogram(cells, counts, packed["histogram.losses"])


def _shrink(values: np.ndarray) -> np.ndarray:
    return values.astype(np.min_scalar_type(values.max(initial=0)))


@lru_cache(N_KEPT)
def rank(histogram: Histogram) -> Ranking:
    """How well one model ranks its own predictions."""
    _, counts = histogram.tabulate()
    totals = counts.sum(axis=0)
    buckets = range(0, len(counts), SLICE)
    left_out = (totals - counts[first : first + SLICE] for first in buckets)
    ranks = map(_rank, chain([totals[None]], left_out, _halve(counts)))
    sums, weights = (np.concatenate(arrays) for arrays in zip(*ranks, strict=True))
    ranking = Ranking(sums, weights, _bracket(totals))
    if totals.sum(axis=1).min() < MIN_CASES:
        for array in vars(ranking).values():
            array[..., 1:3] = 0
    return ranking


def pack_ranking(ranking: Ranking) -> dict[str, np.ndarray]:
    """Its arrays, by names that may stand beside those of `pack_histogram`."""
    return {f"ranking.{name}": array for name, array in vars(ranking).items()}


def unpack_ranking(packed: Mapping[str, np.ndarray]) -> Ranking:
    """The ranking that `pack_ranking` was given."""
    return Ranking(*(packed[f"ranking.{name}"] for name in ("sums", "weights", "brackets")))


def measure(histogram: Histogram, ranking: Ranking | None = None) -> dict[str, Metric]:
    """All metrics of a histogram; with fewer than 20 of either outcome, the counts only.

    Rank metrics take the predictions of a bin for equal. How far that may move a figure is its
    bracket: with the predictions themselves all of them lie within value ± bracket. Log loss and
    Brier are exact.

    Parameters
    ----------
    ranking : of the histogram, if it is known, or of the models that made its predictions

    Returns
    -------
    dict of Metric
        By name. Each with a 95 % interval, except n, n_positive, brackets and the mean predictions
        of the reliability table.
    """
    figures, reliability, filled = _measure_all_but_ranks(histogram)
    if not reliability:
        return dict(figures)
    with np.errstate(divide="ignore", invalid="ignore"):
        ranks, brackets = _divide(ranking or rank(histogram))
    n, of_ranks = figures["n"].n_obs, {}
    for name, ranked in ranks.items():
        value, without, halves = ranked[0], ranked[1:-N_HALVES][filled], ranked[-N_HALVES:]
        lower, upper = jackknife_interval(value, without)
        if name == "ks":
            lower = _lower_by_chance(value, lower, halves)
        of_ranks[name] = Metric(float(value), lower, upper, n)
    of_ranks |= {name: Metric(value, n_obs=n) for name, value in brackets.items()}
    return figures | of_ranks | reliability


@lru_cache(N_KEPT)
def _measure_all_but_ranks(
    histogram: Histogram,
) -> tuple[dict[str, Metric], dict[str, Metric], np.ndarray]:
    """Counts, losses and calibration, the reliability table, and the buckets that are not empty.

    With fewer than 20 of either outcome the counts alone.
    """
    bins, counts = histogram.tabulate()
    totals, total_loss = counts.sum(axis=0), histogram.losses.sum(axis=0)
    n_negative, n_positive = totals.sum(axis=1).tolist()
    n = n_negative + n_positive
    filled = np.flatnonzero(counts.any(axis=(1, 2)))
    figures = {"n": Metric(n, n_obs=n), "n_positive": Metric(n_positive, n_obs=n)}
    if min(n_negative, n_positive) < MIN_CASES:
        return figures, {}, filled
    log_odds = bins / (N_BINS - 1) * (2 * LIMIT) - LIMIT
    finite = _bound(log_odds)
    # Without a slope Newton is safest: from slope 1 it runs away when predictions are far too sure.
    start = np.log(n_positive / n_negative), 0.0
    slices = []
    # Without some bucket an outcome may be missing: no interval, nan.
    with np.errstate(divide="ignore", invalid="ignore"):
        values = _compute(totals[None], total_loss[None], finite, start)
        start = values["calibration_intercept"].item(), values["calibration_slope"].item()
        for buckets in np.split(filled, range(SLICE, len(filled), SLICE)):
            losses = total_loss - histogram.losses[buckets]
            slices.append(_compute(totals - counts[buckets], losses, finite, start))
        reliability = _reliability(counts, filled, log_odds)
    for name, (value,) in values.items():
        without = np.concatenate([part[name] for part in slices])
        figures[name] = Metric(float(value), *jackknife_interval(value, without), n)
    return figures, reliability, filled


def jackknife_interval(value: float, left_out: np.ndarray) -> tuple[float, float]:
    """95 % interval from delete-one-group values, with Student's t on g - 1 degrees of freedom.

    Parameters
    ----------
    value : the figure on all groups
    left_out : array of float, shape (g,), the figure without each group
    """
    g = len(left_out)
    if g < 2 or not np.isfinite(left_out).all():
        return np.nan, np.nan
    se = np.sqrt((g - 1) / g * np.sum((left_out - left_out.mean()) ** 2))
    half = special.stdtrit(g - 1, 0.975) * se
    return float(value - half), float(value + half)


def _lower_by_chance(value: float, lower: float, halves: np.ndarray) -> float:
    """The lower end for the largest of many gaps, of which chance makes more than there is.

    By how much, halves of the buckets tell: of n predictions it is at most in proportion to
    1 / sqrt(n), as where there is no gap at all. The value stays the plain statistic.

    Parameters
    ----------
    lower : of the jackknife, that knows of no excess
    halves : array of float, the figure on halves of the buckets
    """
    excess = np.maximum(0, halves.mean() - value) / (np.sqrt(2) - 1)
    return float(np.maximum(0, lower - excess))


def _halve(counts: np.ndarray) -> list[np.ndarray]:
    """Seven balanced halves of the buckets of counts, shape (g, 2, k), and their complements.

    Each of two eighths is in one half as often as in the other (McCarthy, Review of the
    International Statistical Institute 37, 1969, 239-264).
    """
    eighths = np.stack([counts[first::8].sum(axis=0) for first in range(8)])
    signs = reduce(np.kron, [np.array([[1, 1], [1, -1]])] * 3)  # Hadamard's matrix of order 8
    halves = np.tensordot(signs[1:] > 0, eighths, axes=1)
    return [halves, eighths.sum(axis=0) - halves]


def compare_auc(
    y: np.ndarray, new: np.ndarray, live: np.ndarray, bucket: np.ndarray
) -> AucDifference | None:
    """The difference of two models on the same rows, paired.

    Its interval is a delete-one-bucket jackknife over the candidates' hash.

    Parameters
    ----------
    y, new, live, bucket : arrays of shape (n,): outcomes, the two models' scores, jackknife buckets

    Returns
    -------
    AucDifference or None
        None with fewer than 20 of either outcome.
    """
    if min(y.sum(), (1 - y).sum()) < MIN_CASES:
        return None
    new_auc, live_auc = roc_auc(y, new), roc_auc(y, live)
    of_new, of_live = (_leave_buckets_out(y, scores, bucket) for scores in (new, live))
    interval = jackknife_interval(new_auc - live_auc, of_new - of_live)
    of_its_own = jackknife_interval(live_auc, of_live)
    return AucDifference(new_auc, live_auc, *interval, len(y), *of_its_own)


def measure_rate(y: np.ndarray, bucket: np.ndarray) -> Metric:
    """The share of rows with the outcome, with a delete-one-bucket jackknife interval.

    It has one of few outcomes too, where `measure` has counts only.
    """
    return _measure_ratio(y, np.ones(len(y)), bucket)


def _measure_ratio(above: np.ndarray, below: np.ndarray, bucket: np.ndarray) -> Metric:
    """A ratio of sums, with its delete-one-bucket jackknife interval."""
    sums = np.stack([np.bincount(bucket, values) for values in (above, below)])
    total, is_filled = sums.sum(axis=1), np.bincount(bucket) > 0
    left_out = total[:, None] - sums[:, is_filled]
    with np.errstate(divide="ignore", invalid="ignore"):  # all of `below` may be in one bucket
        ratios = left_out[0] / left_out[1]
    value = float(total[0] / total[1])
    return Metric(value, *jackknife_interval(value, ratios), len(above))


def brier_skill_over(y: np.ndarray, scores: np.ndarray, rate: float, bucket: np.ndarray) -> Metric:
    """Brier skill over one rate that is predicted for every row; below 0 the rate is better.

    Its interval is a delete-one-bucket jackknife over the candidates' hash: nan with fewer than 20
    of either outcome.

    Parameters
    ----------
    y, scores, bucket : arrays of shape (n,): outcomes, predictions, jackknife buckets
    rate : known before these rows, as that of the training rows
    """
    losses = np.stack([np.bincount(bucket, (guess - y) ** 2) for guess in (scores, rate)])
    total, filled = losses.sum(axis=1), losses[1] > 0
    value = float(1 - total[0] / total[1])
    left_out = total[:, None] - losses[:, filled]
    is_known = min(y.sum(), (1 - y).sum()) >= MIN_CASES
    interval = jackknife_interval(value, 1 - left_out[0] / left_out[1])
    return Metric(value, *(interval if is_known else (np.nan, np.nan)), len(y))


def mean_ratio(y: np.ndarray, scores: np.ndarray, bucket: np.ndarray) -> Metric:
    """How many times as large the mean prediction is as the rate: 1 if it is right on average.

    Its interval is a delete-one-bucket jackknife over the candidates' hash; all is nan with fewer
    than 20 of either outcome.

    Parameters
    ----------
    y, scores, bucket : arrays of shape (n,): outcomes, predictions, jackknife buckets
    """
    if min(y.sum(), (1 - y).sum()) < MIN_CASES:
        return Metric(np.nan, n_obs=len(y))
    return _measure_ratio(scores, y, bucket)


def roc_auc(y: np.ndarray, scores: np.ndarray) -> float:
    """From ranks, as Mann and Whitney (1947) have it; nan without either outcome.

    scikit-learn's takes fifty times as long to check what it is given.
    """
    n_positive = int(y.sum())
    n_pairs = n_positive * (len(y) - n_positive)
    return _count_concordant(y, scores) / n_pairs if n_pairs else np.nan


def _rank_scores(scores: np.ndarray) -> np.ndarray:
    """From 1 on; equal scores share the mean of theirs."""
    from scipy import stats  # takes longer to import than a night's score to reckon

    return stats.rankdata(scores)


def _count_concordant(y: np.ndarray, scores: np.ndarray) -> float:
    """Pairs of a positive above a negative; one half counts where they are equal."""
    n_positive = int(y.sum())
    return float(_rank_scores(scores)[y == 1].sum() - n_positive * (n_positive + 1) / 2)


def _leave_buckets_out(y: np.ndarray, scores: np.ndarray, bucket: np.ndarray) -> np.ndarray:
    """ROC AUC without each bucket that has rows, in order, exactly as if ranked anew.

    Its rows' concordant pairs are taken out; those between two of them were taken out twice.
    """
    is_positive = y == 1
    n_positive = is_positive.sum()
    below = _rank_scores(scores)  # less the rank in its own outcome: how many of the other
    for rows in (is_positive, ~is_positive):
        below[rows] -= _rank_scores(scores[rows])
    of_rows = np.bincount(bucket, np.where(is_positive, below, n_positive - below))
    size, positive = np.bincount(bucket), np.bincount(bucket, is_positive)
    by_bucket = np.split(np.argsort(bucket, kind="stable"), np.cumsum(size)[:-1])
    inside = np.array([_count_concordant(y[rows], scores[rows]) for rows in by_bucket])
    n_pairs = (n_positive - positive) * (len(y) - n_positive - (size - positive))
    with np.errstate(divide="ignore", invalid="ignore"):  # all of an outcome may be in one bucket
        left_out: np.ndarray = (below[is_positive].sum() - of_rows + inside) / n_pairs
    return left_out[size > 0]


def _compute(
    counts: np.ndarray, losses: np.ndarray, log_odds: np.ndarray, start: tuple[float, float]
) -> dict[str, np.ndarray]:
    """Every metric for each row of counts, shape (r, 2, k), and of losses, shape (r, 2).

    Start: of intercept and slope.
    """
    counts = counts.astype(np.float64)
    n_negative, n_positive = counts.sum(axis=2).T
    n = n_negative + n_positive
    base_rate = n_positive / n
    brier = losses[:, 1] / n
    intercept, slope = _calibrate(counts, log_odds, start).T
    return {
        "base_rate": base_rate,
        "log_loss": losses[:, 0] / n,
        "brier": brier,
        "brier_skill": 1 - brier / (base_rate * (1 - base_rate)),
        "calibration_intercept": intercept,
        "calibration_slope": slope,
    }


def _rank(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and weights of a Ranking for each row of counts, shape (r, 2, k)."""
    counts = counts.astype(np.float64)
    negative, positive = counts[:, 0], counts[:, 1]
    n_negative, n_positive = totals = counts.sum(axis=2).T
    below = counts.cumsum(axis=2)  # or in the bin
    below_negative, below_positive = below[:, 0], below[:, 1]
    # Whole numbers and halves, whose sums are exact in any order.
    concordant = np.einsum("rk,rk->r", positive, below_negative)
    concordant -= np.einsum("rk,rk->r", positive, negative) / 2
    apart = below_positive * n_negative[:, None]
    apart -= below_negative * n_positive[:, None]
    furthest = np.maximum(apart.max(axis=1, initial=0), -apart.min(axis=1, initial=0))
    # From the highest prediction down, a bin at a time: equal predictions share a threshold, as in
    # scikit-learn. A bin that is empty has no positives either.
    above = totals.T[:, :, None] - below
    above += counts
    flagged = above.sum(axis=1)
    precision = above[:, 1] / np.maximum(flagged, 1)
    precision *= positive
    size, n_tenth = counts.sum(axis=1), totals.sum(axis=0)[:, None] / 10
    inside = np.clip(n_tenth - (flagged - size), 0, size) / np.maximum(size, 1)
    inside *= positive
    sums = concordant, furthest, precision[:, ::-1].sum(axis=1), inside[:, ::-1].sum(axis=1)
    n_pairs = n_negative * n_positive
    return np.stack(sums, axis=1), np.stack([n_pairs, n_pairs, n_positive, n_positive], axis=1)


def _divide(ranking: Ranking) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The ranking metrics, shape (g + 15,), and their brackets."""
    ranks = dict(zip(RANKED, (ranking.sums / ranking.weights).T, strict=True))
    ranks |= {"gini": 2 * ranks["roc_auc"] - 1, "lift_top_decile": 10 * ranks["capture_top_decile"]}
    auc, ks, precision, capture = (ranking.brackets / ranking.weights[0]).tolist()
    brackets = {"gini": 2 * auc, "lift_top_decile": 10 * capture}
    brackets |= zip(RANKED, (auc, ks, precision, capture), strict=True)
    return ranks, {f"{name}_bracket": value for name, value in brackets.items()}


def _bound(log_odds: np.ndarray) -> np.ndarray:
    """With those of 0 and 1, which are infinite, where all others end, and at 12 at least."""
    others = log_odds[np.abs(log_odds) < LIMIT]
    lowest, highest = others.min(initial=-CERTAIN), others.max(initial=CERTAIN)
    return np.clip(log_odds, lowest, highest)


def _calibrate(counts: np.ndarray, log_odds: np.ndarray, start: tuple[float, float]) -> np.ndarray:
    """Logistic regression of the outcome on the log-odds of the prediction, by Newton.

    Returns
    -------
    array, shape (r, 2)
        Intercept and slope; nan for constant predictions and separable outcomes.
    """
    beta = np.tile(start, (len(counts), 1))
    size, positive = counts.sum(axis=1), counts[:, 1]
    powers = np.vander(log_odds, 3, increasing=True)  # (k, 3)
    moved = np.full(len(beta), np.inf)
    for _ in range(N_STEPS):
        fitted = 1 / (1 + np.exp(-np.clip(beta[:, :1] + beta[:, 1:] * log_odds, -500, 500)))
        gradient = (positive - size * fitted) @ powers[:, :2]
        s0, s1, s2 = ((size * fitted * (1 - fitted)) @ powers).T
        determinant = s0 * s2 - s1**2
        flat = determinant < 1e-12 * np.maximum(s0 * s2, 1e-300)  # constant predictions
        step = np.stack(
            [s2 * gradient[:, 0] - s1 * gradient[:, 1], s0 * gradient[:, 1] - s1 * gradient[:, 0]],
            axis=1,
        )
        step = step / np.where(flat, np.nan, determinant)[:, None]
        beta = beta + step
        moved = np.max(np.abs(step) / (1 + np.abs(beta)), axis=1)
        if not np.any(moved > 1e-6):  # convergence is quadratic: the next step would move 1e-12
            break
    return np.where((moved <= 1e-6)[:, None], beta, np.nan)  # separable outcomes move for ever


def _bracket(totals: np.ndarray) -> np.ndarray:
    """How far rank metrics of counts, shape (2, k), may be from those of the predictions.

    Of those in RANKED, each times its weight, with predictions in any order inside bins.
    ROC AUC: a pair that shares a bin counts one half, and is worth 0 to 1. KS: a threshold inside a
    bin may have its positives below and its negatives above, or the reverse. Average precision: the
    best order has a bin's positives first and equal, the worst its negatives first and then one
    positive after the other: the j-th has precision (t + j) / (t + j + f), with t positives above
    the bin and f negatives above or in it. Capture: of a bin that the tenth cuts, as many positives
    as there is room for may be above the cut, or as few as its negatives leave room for.
    """
    negative, positive = totals.astype(np.float64)
    n_negative, n_positive = negative.sum(), positive.sum()
    apart = positive.cumsum() * n_negative - negative.cumsum() * n_positive
    widest = np.maximum(apart + negative * n_positive, positive * n_negative - apart)
    shared_pairs = (positive * negative).sum()
    negative, positive = negative[::-1], positive[::-1]  # from the highest prediction down
    bins = np.stack([negative, positive, negative.cumsum(), positive.cumsum()])
    before = (bins[2:] - bins[:2]).sum(axis=0)
    room = np.clip((n_negative + n_positive) / 10 - before, 0, negative + positive)
    captured = positive * room / np.maximum(negative + positive, 1)
    most, least = np.minimum(positive, room), np.maximum(room - negative, 0)
    of_capture = max((most - captured).sum(), (captured - least).sum())
    negative, positive, f, t = bins[:, positive > 0]
    value, best = positive * t / (t + f), positive * t / (t + f - negative)
    worst = positive - f * (special.digamma(t + f + 1) - special.digamma(t - positive + f + 1))
    furthest = max((best - value).sum(), (value - worst).sum())
    of_ks = widest.max(initial=0) - np.abs(apart).max(initial=0)
    return np.array([shared_pairs / 2, of_ks, furthest, of_capture])


def _reliability(counts: np.ndarray, filled: np.ndarray, log_odds: np.ndarray) -> dict[str, Metric]:
    """Mean prediction and observed rate in ten bins of about equal size, cut on all predictions.

    Counts of shape (g, 2, k); filled are the buckets that are not empty.
    """
    size = counts.sum(axis=(0, 1))
    middle = (size.cumsum() - size / 2) / size.sum()
    decile = np.minimum((middle * N_RELIABILITY_BINS).astype(int), N_RELIABILITY_BINS - 1)
    probability = 1 / (1 + np.exp(-log_odds))
    numbers, first = np.unique(decile, return_index=True)
    parts = np.add.reduceat(counts, first, axis=2)[filled]  # (g, 2, up to 10)
    left_out = parts.sum(axis=0) - parts
    n_by_part = parts.sum(axis=(0, 1))
    means = np.add.reduceat(size * probability, first) / n_by_part
    rates = parts[:, 1].sum(axis=0) / n_by_part
    rates_left_out = left_out[:, 1] / left_out.sum(axis=1)
    figures = {}
    columns = (numbers + 1, n_by_part.tolist(), means.tolist(), rates.tolist(), rates_left_out.T)
    for number, n, mean, rate, without in zip(*columns, strict=True):
        interval = jackknife_interval(rate, without)
        figures[f"reliability_prediction_{number:02}"] = Metric(mean, n_obs=n)
        figures[f"reliability_rate_{number:02}"] = Metric(rate, *interval, n)
    return figures
