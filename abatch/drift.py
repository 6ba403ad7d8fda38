"""Drift: how far the distribution of scores has moved from the one that a model was trained with."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

N_BINS = 10


class Reference(NamedTuple):
    """The scores of a model's validation rows: inner edges of their deciles, shape (b - 1,), and counts, shape (b,)."""

    edges: list[float]
    counts: list[int]


def make_reference(scores: np.ndarray) -> Reference:
    """Cut scores at their own deciles; equal deciles, which many equal scores give, become one edge."""
    edges = np.unique(np.quantile(scores, np.arange(1, N_BINS) / N_BINS, method="inverted_cdf"))
    return Reference(edges.tolist(), count_bins(scores, edges.tolist()).tolist())


def count_bins(scores: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Scores per bin, shape (len(edges) + 1,); a score equal to an edge belongs to the bin below it."""
    return np.bincount(np.searchsorted(np.asarray(edges), scores, side="left"), minlength=len(edges) + 1)


def compute_psi(reference: Sequence[int], counts: Sequence[int]) -> float:
    """Population stability index between two sets of counts of the same bins, 0.5 added to each cell.

    Banks customarily read .1 as some drift and .25 as much (Siddiqi, Credit Risk Scorecards, 2006); see also `psi_noise`.
    """
    p = np.asarray(reference, dtype=np.float64) + 0.5
    q = np.asarray(counts, dtype=np.float64) + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def psi_noise(n_reference: int, n_obs: int, n_bins: int) -> float:
    """The PSI that is exceeded in 5 % of cases without any drift: (1/n + 1/m) times the chi-squared quantile."""
    if n_bins < 2:
        return 0.0
    return float((1 / n_reference + 1 / n_obs) * stats.chi2.ppf(0.95, n_bins - 1))
