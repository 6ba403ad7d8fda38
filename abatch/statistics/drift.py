"""Drift: how far scores and features have moved from those that a model was trained with.

A reference is made in training and kept in the model's card. Counts of its bins add up over chunks
and nights; the population stability index (PSI) compares the two, beside a noise line that says
what chance alone would give.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import gammaincinv

from abatch.statistics.references import FeatureReference, Reference

N_BINS = 10
N_CATEGORIES = 20  # bins of a category; the less common share one more. New ones kept by name
N_OTHERS = 1_000  # known values to keep: a column of addresses would swell the model's card
# Of PSI, as banks customarily read it (Siddiqi, Credit Risk Scorecards, 2006).
SOME, MUCH = 0.1, 0.25
TAIL = 0.001  # of the training rows, at either end, may be slips of the pen
MARGIN = 3  # far beyond: by three times what all the others span
# Outside: by half of what the outermost tenth spans, or a hundredth of all; new lows by less.
OUTER, SLACK = 0.5, 0.01


@dataclass(frozen=True)
class FeatureCounts:
    """One feature of some predicted rows, counted by the bins of its reference.

    Counts add up with +, exactly but for the rows of a new category by name: those of a summand in
    which it was not among the 20 most common are in `n_new` alone.

    Attributes
    ----------
    counts : as those of the reference; new categories are among the others
    n_new : rows with a category that training never saw
    new : the most common new categories, at most 20, with their rows
    span : smallest and largest number; empty without any
    n_beyond : rows with a number beyond the limits of the reference
    n_outside : rows with a number outside those of nearly all training rows, however near
    """

    counts: list[int]
    n_new: int
    new: dict[str, int]
    span: list[float] = field(default_factory=list)
    n_beyond: int = 0
    n_outside: int = 0

    @property
    def known_counts(self) -> list[int]:
        """The counts without the new categories."""
        *counts, others, nulls = self.counts
        return [*counts, others - self.n_new, nulls]

    def __add__(self, other: "FeatureCounts") -> "FeatureCounts":
        counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        new = _find_common(Counter(self.new) + Counter(other.new))
        span = [*self.span, *other.span]
        n_new, n_beyond = self.n_new + other.n_new, self.n_beyond + other.n_beyond
        n_outside = self.n_outside + other.n_outside
        return FeatureCounts(counts, n_new, dict(new), find_span(span), n_beyond, n_outside)


def find_span(values: Sequence[float] | np.ndarray) -> list[float]:
    """The smallest and the largest of some numbers; empty without any."""
    return [float(np.min(values)), float(np.max(values))] if len(values) else []


class FeatureDrift(NamedTuple):
    """One feature, predicted against trained; psi, psi_noise and null_rate are nan without rows.

    psi and psi_noise are nan also where the reference is not measurable.
    """

    feature: str
    kind: str
    n_obs: int
    psi: float
    psi_noise: float
    null_rate: float
    null_rate_training: float
    n_new: int
    new_categories: list[tuple[str, int]]


def make_reference(scores: np.ndarray) -> Reference:
    """Cut scores at their own deciles.

    Equal deciles, which many equal scores give, become one edge.
    """
    deciles = np.quantile(scores, np.arange(1, N_BINS) / N_BINS, method="inverted_cdf")
    edges = np.unique(deciles).tolist()
    return Reference(edges, count_bins(scores, edges).tolist())


def count_bins(scores: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Scores per bin, shape (len(edges) + 1,).

    A score equal to an edge belongs to the bin below it. To count those above each of a few edges
    takes a tenth of the time that looking each score up takes.
    """
    above = [np.count_nonzero(scores > edge) for edge in edges]
    return -np.diff([len(scores), *above, 0])


def compute_psi(reference: Sequence[int], counts: Sequence[int]) -> float:
    """Population stability index of counts of the same bins, 0.5 added to each cell.

    Banks customarily read .1 as some drift and .25 as much (Siddiqi, Credit Risk Scorecards, 2006);
    see also `psi_noise`.
    """
    p, q = np.array([reference, counts], dtype=np.float64) + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def psi_noise(reference: Sequence[int], counts: Sequence[int]) -> float:
    """The PSI of such counts that is exceeded in 5 % of cases without any drift.

    It is (1/n + 1/m) times the chi-squared quantile. Nulls, others or a decile that are empty on
    both sides are no cells: no chance is at work in them.
    """
    n_cells = np.count_nonzero(np.add(reference, counts))
    if n_cells < 2:
        return 0.0
    quantile = 2 * gammaincinv((n_cells - 1) / 2, 0.95)
    return float((1 / sum(reference) + 1 / sum(counts)) * quantile)


def is_drift(psi: float | None, noise: float | None) -> bool:
    """Drift counts only above both the custom and the noise; nan or None is no drift."""
    return psi is not None and noise is not None and psi > max(SOME, noise)


def describe_psi(psi: float | None, noise: float | None) -> str:
    """The PSI in a word: none (as chance alone gives), little (to .1), some (to .25), much.

    Not measured where it is nan or None.
    """
    if psi is None or noise is None or np.isnan(psi):
        return "not measured"
    if psi <= noise:
        return "none"
    return "much" if psi > MUCH else "some" if psi > SOME else "little"


def make_feature_references(
    X: pd.DataFrame, types: Mapping[str, str]
) -> dict[str, FeatureReference]:
    """What each feature looked like in the training rows.

    Parameters
    ----------
    X : DataFrame, one row per training row, as `features.code` makes it: float64 for a number, a
        Categorical of texts for a category, NaN for null
    types : the features, "number" or "category"
    """
    return {
        name: _refer_number(X[name]) if kind == "number" else _refer_category(X[name])
        for name, kind in types.items()
    }


def _refer_number(column: pd.Series) -> FeatureReference:
    values = column.dropna().to_numpy()
    if not len(values):
        return FeatureReference("number", [], [0, len(column)], [], None)
    shares = [*np.arange(1, N_BINS + 1) / N_BINS, TAIL, 1 - TAIL]
    *tenths, low, high = np.quantile(values, shares, method="inverted_cdf").tolist()
    bins = _cut(values, tenths)
    counts = [*count_bins(values, bins).tolist(), len(column) - len(values)]
    return FeatureReference("number", bins, counts, [], _find_limits(low, high, len(values)))


def _cut(values: np.ndarray, tenths: Sequence[float]) -> list[float]:
    """The deciles, and below a value that fills a whole one, the next smaller of all values.

    So it has a bin of its own: 999 for never, say, of which all deciles may be. The last of
    `tenths` is the largest value.
    """
    found, n_tenths = np.unique(tenths, return_counts=True)
    smaller = [values[values < atom].max(initial=-np.inf) for atom in found[n_tenths > 1]]
    edges = {*tenths[:-1], *smaller} - {-np.inf}
    return sorted(float(edge) for edge in edges)


def _find_limits(low: float, high: float, n_values: int) -> list[float] | None:
    """The ends of what is not far beyond; none of a few values that are all the same."""
    if low == high and n_values < 1 / TAIL:
        return None
    margin = MARGIN * (high - low)
    return np.nan_to_num([low - margin, high + margin]).tolist()  # the infinite is no JSON


def _refer_category(column: pd.Series) -> FeatureReference:
    n_rows, counted = column.value_counts(), column
    values = {*n_rows.index}
    if len(values) > N_CATEGORIES:
        # The most common owe it partly to chance and would be less common tomorrow: choose by every
        # other row, count the rest.
        n_rows, counted = column[::2].value_counts(), column[1::2]
    bins = [value for value, _ in _find_common(n_rows[n_rows > 0])]
    others = sorted(values.difference(bins))
    counts = _count_categories(counted.value_counts(), bins, len(counted))
    return FeatureReference("category", bins, counts, others if len(others) <= N_OTHERS else None)


def count_features(
    X: pd.DataFrame, references: Mapping[str, FeatureReference]
) -> dict[str, FeatureCounts]:
    """Count rows to predict by the bins of the references.

    X is as in `make_feature_references`, and may be empty.
    """
    return {name: _count_feature(X[name], reference) for name, reference in references.items()}


def _count_feature(column: pd.Series, reference: FeatureReference) -> FeatureCounts:
    if reference.kind == "number":
        values = column.dropna().to_numpy()
        counts = [*count_bins(values, reference.bins).tolist(), len(column) - len(values)]
        n_beyond = _count_outside(values, reference.limits)
        n_outside = _count_outside(values, _find_ends(reference))
        return FeatureCounts(counts, 0, {}, find_span(values), n_beyond, n_outside)
    n_by_value = column.value_counts()
    counts = _count_categories(n_by_value, reference.bins, len(column))
    if reference.others is None:
        return FeatureCounts(counts, 0, {})
    new = n_by_value.drop([*reference.bins, *reference.others], errors="ignore")
    return FeatureCounts(counts, int(new.sum()), dict(_find_common(new)))


def _count_outside(values: np.ndarray, ends: Sequence[float] | None) -> int:
    low, high = ends or (-np.inf, np.inf)
    return int(np.count_nonzero((values < low) | (values > high)))


def _find_ends(reference: FeatureReference) -> tuple[float, float] | None:
    """What a number lies outside of if hardly any training row had such; None if unknown."""
    if not reference.limits:
        return None
    low, high = find_trained_span(reference.limits)
    least, bins = SLACK * (high - low), reference.bins
    return (
        low - max(least, OUTER * (bins[0] - low)),
        high + max(least, OUTER * (high - bins[-1])),
    )


def find_trained_span(limits: Sequence[float]) -> tuple[float, float]:
    """Smallest and largest number of nearly all training rows, from a reference's limits."""
    low, high = limits
    margin = MARGIN * (high - low) / (1 + 2 * MARGIN)
    return low + margin, high - margin


def count_rows(X: pd.DataFrame) -> FeatureCounts:
    """All features as one, in two sums of halves of a hash of each row.

    They are equal if the rows are the same, in whatever order, and else hardly ever.
    """
    hashes = pd.util.hash_pandas_object(X[sorted(X)], index=False).to_numpy()
    return FeatureCounts([int((hashes >> 32).sum()), int((hashes & 0xFFFFFFFF).sum())], 0, {})


def _count_categories(n_by_value: pd.Series, bins: Sequence[str], n_rows: int) -> list[int]:
    """Rows as a `FeatureReference` has them: by bin, any other, and nulls."""
    counts, n_filled = n_by_value.reindex(bins, fill_value=0).tolist(), int(n_by_value.sum())
    return [*counts, n_filled - sum(counts), n_rows - n_filled]


def _find_common(n_by_value: Mapping[str, int] | pd.Series) -> list[tuple[str, int]]:
    """The most common, N_CATEGORIES; by name where equal: the same rows give the same card."""
    return sorted(n_by_value.items(), key=lambda item: (-item[1], item[0]))[:N_CATEGORIES]


def measure_features(
    references: Mapping[str, FeatureReference], counts: Mapping[str, FeatureCounts]
) -> list[FeatureDrift]:
    """PSI, rate of nulls and new categories, the most common first, of each counted feature.

    Without drift PSI exceeds its noise line in about 5 % of cases; in fewer where many cells are
    nearly empty, in up to 17 % where 100 rows meet a large reference with many rare categories
    (simulated).
    """
    return [
        _measure_feature(name, reference, counts[name])
        for name, reference in references.items()
        if name in counts
    ]


def _measure_feature(
    name: str, reference: FeatureReference, counted: FeatureCounts
) -> FeatureDrift:
    n_reference, n_obs = sum(reference.counts), sum(counted.counts)
    psi = noise = np.nan
    if n_reference and n_obs and reference.is_measurable:
        cells = [(a, b) for a, b in zip(reference.counts, counted.counts, strict=True) if a or b]
        psi = compute_psi(*zip(*cells, strict=True))
        noise = psi_noise(reference.counts, counted.counts)
    return FeatureDrift(
        feature=name,
        kind=reference.kind,
        n_obs=n_obs,
        psi=psi,
        psi_noise=noise,
        null_rate=counted.counts[-1] / n_obs if n_obs else np.nan,
        null_rate_training=reference.null_rate if n_reference else np.nan,
        n_new=counted.n_new,
        new_categories=_find_common(counted.new),
    )
