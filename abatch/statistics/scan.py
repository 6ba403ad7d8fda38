"""Scan statistics: runs of nights that are unlike the nights before them.

Every run of consecutive nights is looked at, each beside those before it. Of the runs that a rule
finds, the most unlikely is taken out, and so on with the nights that are left, until none is found.
Where a run begins and ends is told on the safe side.
What is found depends on the nights alone, not on when, how often or in which parts they came.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

WEEK = 7  # nights, so that all weekdays are among them
LINE = 5.0  # standard deviations; chance goes farther in 3 of 10 million
SLACK = 3.84  # of a likelihood ratio statistic: what cannot be told from the best in 95 % of cases


class Runs(NamedTuple):
    """Runs of consecutive nights, each beside nights before it.

    Attributes
    ----------
    first, last : array of int, shape (n_runs,), rows of the nights at its ends
    inside, before : array of float, shape (n_runs, n_figures), sums of the run's nights, and of
        those before
    n_nights, n_before : array of int, how many each are
    """

    first: np.ndarray
    last: np.ndarray
    inside: np.ndarray
    before: np.ndarray
    n_nights: np.ndarray
    n_before: np.ndarray

    def take(self, which: np.ndarray) -> "Runs":
        """Some of them."""
        return Runs(*(array[which] for array in self))


class Rule(NamedTuple):
    """What makes a run of nights unlike others.

    Attributes
    ----------
    find : which runs are; array of bool, shape (n_runs,)
    compare : by how many standard deviations each lies above what was before, or below; array of
        float
    """

    find: Callable[[Runs], np.ndarray]
    compare: Callable[[Runs], np.ndarray]


class Found(NamedTuple):
    """A run that a rule found.

    Attributes
    ----------
    rule : its name
    nights : array of int, which of the figures' rows
    inside, before : array of float, shape (n_figures,), as `Runs` has them
    """

    rule: str
    nights: np.ndarray
    inside: np.ndarray
    before: np.ndarray


def find_runs(
    figures: np.ndarray,
    rules: Mapping[str, Rule],
    left: np.ndarray,
    may_begin: np.ndarray,
    accepted: np.ndarray,
) -> Iterator[Found]:
    """Runs that rules find, one rule after the other, the most unlikely first.

    Parameters
    ----------
    figures : array of float, shape (n_nights, n_figures)
    left : array of bool, shape (n_nights,), the nights that are looked at; those that were found
        are taken out of it
    may_begin : where a run may begin
    accepted : nights that are unlike others, and known to be right; no run is found that is like
        these
    """
    usual = None
    for name, rule in rules.items():
        while left.any():
            rows = np.flatnonzero(left)
            usual = usual or _make_runs(figures, rows, ~accepted, may_begin)
            right = partial(_make_runs, figures, rows, accepted, may_begin)
            chosen = _choose(rule, usual, right)
            if chosen is None:
                break
            nights = rows[(rows >= usual.first[chosen]) & (rows <= usual.last[chosen])]
            left[nights] = False
            yield Found(name, nights, usual.inside[chosen], usual.before[chosen])
            usual = None


@np.errstate(divide="ignore", invalid="ignore")  # what was not counted is nan
def _choose(rule: Rule, usual: Runs, make_accepted: Callable[[], Runs]) -> np.intp | None:
    """Which run is found, if any: the most unlikely, as wide as it may be nearly as unlikely."""
    are_found = rule.find(usual)
    if not are_found.any():
        return None
    z = np.nan_to_num(rule.compare(usual), posinf=0, neginf=0)
    may_be = np.ones(len(z), dtype=bool)
    accepted = make_accepted()
    if accepted.n_before.any():  # between these and the usual ones is nothing new
        may_be = rule.find(accepted) & (np.sign(rule.compare(accepted)) == np.sign(z))
        are_found &= may_be
        if not are_found.any():
            return None
    best = _argmax(np.abs(z), are_found)
    may_be &= np.sign(z) == np.sign(z[best])
    inside = (usual.first >= usual.first[best]) & (usual.last <= usual.last[best])
    core = _argmax(np.abs(z), may_be & inside)
    around = (usual.first <= usual.first[core]) & (usual.last >= usual.last[core])
    around &= are_found & (np.sign(z) == np.sign(z[core])) & (z**2 >= z[core] ** 2 - SLACK)
    return _argmax(usual.n_nights, around) if around.any() else core


def _argmax(values: np.ndarray, among: np.ndarray) -> np.intp:
    return np.argmax(np.where(among, values, -np.inf))


def _make_runs(
    figures: np.ndarray, rows: np.ndarray, is_before: np.ndarray, may_begin: np.ndarray
) -> Runs:
    first, last = np.triu_indices(len(rows))
    may = may_begin[rows][first]
    first, last = first[may], last[may]
    used, chosen = figures[rows], is_before[rows]
    total, before = np.zeros((2, len(rows) + 1, used.shape[1]))
    total[1:], before[1:] = used.cumsum(axis=0), (used * chosen[:, None]).cumsum(axis=0)
    n_before = np.concatenate([[0], chosen.cumsum()])
    return Runs(
        rows[first],
        rows[last],
        total[last + 1] - total[first],
        before[first],
        last - first + 1,
        n_before[first],
    )


def compare_rates(
    found: np.ndarray, n: np.ndarray, found_before: np.ndarray, n_before: np.ndarray
) -> np.ndarray:
    """By how many standard deviations a Poisson rate lies above that of before, or below.

    The signed root of the likelihood ratio statistic of two rates; nan where nothing was counted.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rate, rate_before = found / n, found_before / n_before
        both = (found + found_before) / (n + n_before)
        both = np.where(both == 0, 1, both)
        deviance = 2 * (xlogy(found, rate / both) + xlogy(found_before, rate_before / both))
        return np.asarray(np.sign(rate - rate_before) * np.sqrt(np.maximum(deviance, 0)))


def compare_shares(
    own: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    others: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
    """By how many standard deviations the ratio of two Poisson rates lies above that of before.

    The signed root of the likelihood ratio statistic for no interaction, given how many were found
    of both together.

    Parameters
    ----------
    own, others : found, n, found_before and n_before of each side
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found, before = own[0], own[2]
        total, total_before = own[0] + others[0], own[2] + others[2]
        odds, odds_before = own[1] / others[1], own[3] / others[3]
        n_own, n_others = found + before, others[0] + others[2]
        # Their common ratio r makes as many of the own side as there are, in a quadratic equation.
        a = odds * odds_before * n_others
        b = odds * total + odds_before * total_before - n_own * (odds + odds_before)
        root = np.sqrt(b**2 + 4 * a * n_own)
        ratio = np.where(b > 0, 2 * n_own / (b + root), (root - b) / (2 * a))  # stable in both
        deviance = np.zeros_like(a)
        for y, of, each in ((found, total, odds), (before, total_before, odds_before)):
            p = ratio * each / (1 + ratio * each)
            deviance += 2 * (xlogy(y, y / (of * p)) + xlogy(of - y, (of - y) / (of * (1 - p))))
        rises = found / own[1] * others[2] / others[3] - before / own[3] * others[0] / others[1]
        return np.asarray(np.sign(rises) * np.sqrt(np.maximum(deviance, 0)))


def compare_means(difference: np.ndarray, *sides: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """By how many standard deviations a difference of means lies from 0, with unequal variances.

    The signed root of the likelihood ratio statistic of Welch's t; nan where nothing varies.

    Parameters
    ----------
    sides : variance and number of values of each mean in the difference
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [variance / n for variance, n in sides]
        square = sum(parts)
        n_free = square**2 / sum(
            part**2 / (n - 1) for part, (_, n) in zip(parts, sides, strict=True)
        )
        t = difference / np.sqrt(square)
        return np.asarray(np.sign(t) * np.sqrt((n_free + 1) * np.log1p(t**2 / n_free)))


def weigh_means(difference: np.ndarray, *sides: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The same with one variance for all, so that splits of the same values can be compared."""
    with np.errstate(divide="ignore", invalid="ignore"):
        n = sum(n for _, n in sides)
        within = sum(variance * n for variance, n in sides)
        between = difference**2 / sum(1 / n for _, n in sides)
        return np.asarray(np.sign(difference) * np.sqrt(n * np.log1p(between / within)))
