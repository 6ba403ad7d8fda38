"""Scan statistics: runs of nights that are unlike the nights before them.

Every run of consecutive nights is looked at, each beside those before it. Of the runs that a rule
finds, the most unlikely is taken out, and so on with the nights that are left, until none is found.
Where a run begins and ends is told on the safe side.
What is found depends on the nights alone, not on when, how often or in which parts they came.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

NEAR = 3  # nights within which something goes on
LEAST = 3  # nights of a run that leaves some out
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
    step, phase : array of int, 1 and 0 if each night is in the run, 2 if every other is, ...; and
        with which it begins
    """

    first: np.ndarray
    last: np.ndarray
    inside: np.ndarray
    before: np.ndarray
    n_nights: np.ndarray
    n_before: np.ndarray
    step: np.ndarray
    phase: np.ndarray

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
    steps : whether runs of every other night, of every seventh, are looked at, too
    """

    find: Callable[[Runs], np.ndarray]
    compare: Callable[[Runs], np.ndarray]
    steps: tuple[int, ...] = (1,)


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
    settled: Mapping[str, np.ndarray],
    accepted: Mapping[str, np.ndarray],
) -> Iterator[Found]:
    """Runs that rules find, one rule after the other, the most unlikely first.

    Parameters
    ----------
    figures : array of float, shape (n_nights, n_figures)
    left : array of bool, shape (n_nights,), the nights that are looked at; those that were found
        are taken out of it
    settled : by rule, nights that it is not to look at
    accepted : by rule, nights that are unlike others, and known to be right, as those are that go
        on from them and are like them
    """
    known, accepted = (
        {name: array.copy() for name, array in of.items()} for of in (settled, accepted)
    )
    usual: Runs | None = None
    steps: tuple[int, ...] = ()
    of = left[:0]
    for name, rule in rules.items():
        while (looked_at := left & ~known[name]).any():
            if usual is None or steps != rule.steps or not np.array_equal(looked_at, of):
                steps, of = rule.steps, looked_at
                usual = _make_runs(figures, looked_at, steps)
            are_new, are_alike = _sort(rule, usual, figures[accepted[name]])
            chosen = _choose(rule, usual, are_new if are_new.any() else are_alike)
            if chosen is None:
                break
            step, rows = usual.step[chosen], np.flatnonzero(looked_at)[usual.phase[chosen] :]
            nights = rows[::step]
            nights = nights[(nights >= usual.first[chosen]) & (nights <= usual.last[chosen])]
            goes_on = accepted[name][np.flatnonzero(left[: nights[0]])[-NEAR:]].any()
            if goes_on and not are_new.any():
                known[name][nights] = accepted[name][nights] = True
                continue
            left[nights] = False
            yield Found(name, nights, usual.inside[chosen], usual.before[chosen])


@np.errstate(divide="ignore", invalid="ignore")  # what was not counted is nan
def _sort(rule: Rule, usual: Runs, accepted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The runs that a rule finds: beyond accepted nights, and between these and the usual ones."""
    are_found = rule.find(usual)
    if not (len(accepted) and are_found.any()):
        return are_found, np.zeros_like(are_found)
    before = np.broadcast_to(accepted.sum(axis=0), usual.before.shape)
    n_before = np.full(len(before), max(WEEK, len(accepted)))  # enough for any rule to go by
    beside = usual._replace(before=before, n_before=n_before)
    is_same_way = np.sign(rule.compare(beside)) == np.sign(rule.compare(usual))
    are_new = are_found & rule.find(beside) & is_same_way
    return are_new, are_found & ~are_new


@np.errstate(divide="ignore", invalid="ignore")
def _choose(rule: Rule, usual: Runs, are_found: np.ndarray) -> np.ndarray | None:
    """The most unlikely of some runs, as wide as it may be nearly as unlikely; None of none."""
    if not are_found.any():
        return None
    z = np.nan_to_num(rule.compare(usual), posinf=0, neginf=0)
    best = _argmax(np.abs(z), are_found)
    may_be = (np.sign(z) == np.sign(z[best])) & (usual.step == usual.step[best])
    may_be &= usual.phase == usual.phase[best]
    inside = (usual.first >= usual.first[best]) & (usual.last <= usual.last[best])
    core = _argmax(np.abs(z), may_be & inside)
    around = (usual.first <= usual.first[core]) & (usual.last >= usual.last[core])
    around &= are_found & may_be & (z**2 >= z[core] ** 2 - SLACK)
    return _argmax(usual.n_nights, around) if around.any() else core


def _argmax(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    return np.asarray(np.argmax(np.where(among, values, -np.inf)))


def _make_runs(figures: np.ndarray, looked_at: np.ndarray, steps: Sequence[int]) -> Runs:
    rows = np.flatnonzero(looked_at)
    nothing = np.zeros((1, figures.shape[1]))
    before = np.concatenate([nothing, figures[rows].cumsum(axis=0)])
    parts = []
    for step in steps:
        for phase in range(step):
            at = np.arange(phase, len(rows), step)
            total = np.concatenate([nothing, figures[rows[at]].cumsum(axis=0)])
            first, last = np.triu_indices(len(at), 0 if step == 1 else LEAST - 1)
            inside = total[last + 1] - total[first]
            way = (np.full(len(first), number) for number in (step, phase))
            ends = rows[at[first]], rows[at[last]]
            parts.append((*ends, inside, before[at[first]], last - first + 1, at[first], *way))
    return Runs(*map(np.concatenate, zip(*parts, strict=True)))


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
