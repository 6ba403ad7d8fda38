"""What makes nights doubtful: rules on what came of them, beside the nights before.

What shows by itself, then beside the other variants, then beside the feed.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from abatch.experiment.registrations import Plan
from abatch.statistics import scan
from abatch.statistics.scan import LINE, WEEK, Found, Rule, Runs

N_TELLING = 20  # ids, or rows, that are no accident
MANY_TWICE = 0.1  # of the rows
MANY_CAPPED = 0.05  # of the amounts
HALF, TENTH = 1 / 2, 1 / 10  # of what is expected: of a week, and of fewer nights
WEEKEND = 1 / 4  # of the usual rate, which some nights may have
FOUR_FIFTHS = 4 / 5  # of what a feed tells, and of the other variants
NINE_TENTHS = 9 / 10  # of a variant's own usual rate
# Standard deviations: what one variant loses makes a verdict false. In whole weeks, if the others
# are as before, and its own rate is not, by `LINE`.
LOPSIDED_LINE, STEADY_LINE = 4.5, 3.5
STEPS = (1, 2, WEEK)  # what one of two loaders does, or the one of Sundays
N_LOPSIDED = 3  # nights, as a weekend may bring fewer to one variant alone
NEARLY_DOUBLE, MANY_TIMES = 1.6, 4.0  # a usual amount, of a week and of fewer nights
USUAL = 2  # times as far as amounts have been from the usual is nothing unusual
EXACT = 1e9  # predictions that show a rate
LEAST_VARIANCE = 1e-6  # of log |y|
# Why nights are doubted, and what is a doubt of the same kind.
REPLACED, DOUBLED = "candidates replaced", "rows twice"
FEW, UNPLANNED = "few outcomes", "fewer outcomes than planned"
NEARLY_ALL = "an outcome of nearly all"
UNMATCHED, MOVED = "few of what the feed tells", "other amounts"
CAPPED = "amounts beyond the cap"
LOPSIDED, MOVED_ALONE = "unlike other variants", "amounts unlike other variants"
OF_AMOUNTS = {DOUBLED, CAPPED, MOVED, MOVED_ALONE}  # of numeric outcomes
OF_IDS = {FEW, UNPLANNED, UNMATCHED, LOPSIDED}  # what ids that are written otherwise look like
# Beside the other variants, of nights that are not doubted of any of these.
BESIDE = {LOPSIDED, MOVED_ALONE}
ALIKE = ({*OF_IDS, NEARLY_ALL}, {CAPPED, MOVED, MOVED_ALONE}, {DOUBLED}, {REPLACED})
# What shows by itself, then beside the other variants, then beside the feed.
PASSES = [
    (REPLACED, DOUBLED, NEARLY_ALL, FEW, UNPLANNED, CAPPED, MOVED),
    (LOPSIDED, MOVED_ALONE),
    (UNMATCHED,),
]
# What is counted of a night, by feed and variant: predictions; those with an outcome; events in
# the night's window, of whomever; of the outcomes the sum of log |y|, that of its squares, and how
# many are below 0; of a numeric feed the rows behind them, and those that come twice; who is gone
# since the night was done again, and those of them with an outcome; who came in their place, and
# those of them with an outcome; outcomes at the cap or beyond it.
N, FOUND, TOLD, LOGS, SQUARES, BELOW, ROWS, TWICE, GONE, GONE_FOUND = range(10)
ADDED, ADDED_FOUND, BEYOND, N_FIGURES = 10, 11, 12, 13


def make_rules(
    own: np.ndarray, left: np.ndarray, plan: Plan | None, times: float
) -> dict[str, Rule]:
    """The rules of one feed and variant, by kind.

    Parameters
    ----------
    own : its figures, shape (n_nights, N_FIGURES); the rules are given these and those of the
        other variants, side by side
    left : which nights are not doubted yet
    plan : by which outcomes are expected while there are no nights before; None if it says nothing
    times : how often one candidate, and so one outcome, is among the predictions
    """
    rate = plan.rate if plan and plan.rate else np.nan

    def make(
        find: Callable[..., np.ndarray],
        compare: Callable[[Runs], np.ndarray],
        steps: tuple[int, ...] = (1,),
    ) -> Rule:
        return Rule(partial(find, times=times), compare, steps)

    return {
        REPLACED: make(_are_replaced, _compare_replaced),
        DOUBLED: make(_are_doubled, _compare_doubled),
        FEW: make(_are_few, _compare_found),
        UNPLANNED: make(partial(_are_few, rate=rate), partial(_compare_found, rate=rate)),
        NEARLY_ALL: make(partial(_are_all, rate=rate), partial(_compare_found, rate=rate)),
        CAPPED: make(_are_capped, _compare_capped),
        MOVED: make(partial(_are_moved, own=own, left=left), _compare_moved),
        LOPSIDED: make(_are_lopsided, _compare_shares, STEPS),
        MOVED_ALONE: make(
            _are_moved_alone, partial(_compare_own_amounts, compare=scan.weigh_means)
        ),
        UNMATCHED: make(_are_unmatched, _compare_unmatched),
    }


def _compare_replaced(runs: Runs) -> np.ndarray:
    """Those who are gone, or those who have come in their place, with the others."""
    n, found = runs.inside[:, N], runs.inside[:, FOUND]
    gone, added = (runs.inside[:, [i, i + 1]].T for i in (GONE, ADDED))
    of_gone = scan.compare_rates(gone[1], gone[0], found, n)
    of_added = scan.compare_rates(added[1], added[0], found - added[1], n - added[0])
    of_gone, of_added = (
        np.where(side[0] >= N_TELLING, np.nan_to_num(z), 0.0)
        for side, z in ((gone, of_gone), (added, of_added))
    )
    return np.where(np.abs(of_gone) > np.abs(of_added), of_gone, of_added)


def _are_replaced(runs: Runs, times: float) -> np.ndarray:
    """Candidates are gone, or have come, who answered unlike the others."""
    return np.asarray(np.abs(_compare_replaced(runs)) > LINE)


def _compare_doubled(runs: Runs) -> np.ndarray:
    twice, rows = runs.inside[:, TWICE], runs.inside[:, ROWS]
    many = np.full(len(rows), MANY_TWICE * EXACT)
    return scan.compare_rates(twice, rows, many, np.full(len(rows), EXACT))


def _are_doubled(runs: Runs, times: float) -> np.ndarray:
    """More than a tenth of the rows come twice."""
    is_many = runs.inside[:, TWICE] >= N_TELLING * times
    return np.asarray(is_many & (_compare_doubled(runs) > LINE * np.sqrt(times)))


def _compare_found(
    runs: Runs, rate: float = np.nan, by: int = N, size: float | np.ndarray = 1.0
) -> np.ndarray:
    """Of what is found with what was found before, or with a rate if there is nothing before."""
    n, found = runs.before[:, by], runs.before[:, FOUND]
    found, n = np.where(n > 0, found, rate * EXACT), np.where(n > 0, n, EXACT)
    return scan.compare_rates(runs.inside[:, FOUND], size * runs.inside[:, by], found, n)


def _find_rates(runs: Runs, rate: float = np.nan) -> np.ndarray:
    """What was found before of the predictions, or a rate if there were none."""
    n, found = runs.before[:, N], runs.before[:, FOUND]
    return np.where(n > 0, found / n, rate)


def _are_few(runs: Runs, times: float, rate: float = np.nan) -> np.ndarray:
    """Far fewer predictions have an outcome than is expected, of a week or of some nights.

    Of less than a week, and while no week is known, no more is expected than on weekends. Of the
    first nights, from three on, two may be a weekend.
    """
    is_first = runs.before[:, N] == 0
    are_many = (runs.n_nights >= WEEK) & (runs.n_before >= WEEK)
    are_many |= (runs.n_nights >= N_LOPSIDED) & is_first
    expected = runs.inside[:, N] * _find_rates(runs, rate)
    size = np.where(are_many, _find_least(runs.n_nights), WEEKEND)
    are_few = runs.inside[:, FOUND] < np.where(are_many, HALF * size, TENTH) * expected
    return _narrow(are_few, runs, lambda few: _compare_found(few, rate, N, size[are_few]), times)


def _find_least(n_nights: np.ndarray) -> np.ndarray:
    """What nights on end bring at least, of the usual rate, if two in seven are a weekend."""
    least = (2 * WEEKEND + n_nights - 2) / n_nights
    return np.minimum(1.0, least * WEEK / (2 * WEEKEND + WEEK - 2))


def _are_all(runs: Runs, times: float, rate: float = np.nan) -> np.ndarray:
    """Hardly a prediction is without an outcome, where usually most are."""
    n, found = runs.inside[:, [N, FOUND]].T
    usual = _find_rates(runs, rate)
    are_all = (usual < HALF) & (n - found < TENTH * n * (1 - usual))
    return _narrow(are_all, runs, partial(_compare_found, rate=rate), times)


def _narrow(
    are_far: np.ndarray,
    runs: Runs,
    compare: Callable[[Runs], np.ndarray],
    times: float,
) -> np.ndarray:
    """Of those that lie far from others, those that hardly do so by chance."""
    are_far[are_far] = np.abs(compare(runs.take(are_far))) > LINE * np.sqrt(times)
    return are_far


def _compare_unmatched(runs: Runs) -> np.ndarray:
    """Of what is told, in whole weeks: on weekends less of it may be of these predictions."""
    return np.where(runs.n_nights % WEEK == 0, _compare_found(runs, by=TOLD), np.nan)


def _are_unmatched(runs: Runs, times: float) -> np.ndarray:
    """Predictions find far less of what the feed tells than they did, in whole weeks.

    And less of them is found: else there are fewer of them, or the feed tells of others too.
    """
    n, found, told = runs.inside[:, [N, FOUND, TOLD]].T
    usual = runs.before[:, FOUND] / runs.before[:, TOLD]
    expected = np.minimum(usual * told, _find_rates(runs) * n)
    are_weeks = (runs.n_nights % WEEK == 0) & (runs.n_before >= WEEK)
    are_far = are_weeks & (found < FOUR_FIFTHS * expected)
    for by in (N, TOLD):
        are_far = _narrow(are_far, runs, partial(_compare_found, by=by), times)
    return are_far


class Shares(NamedTuple):
    """Of a side, its own or the others': what it found of how many, and before."""

    found: np.ndarray
    n: np.ndarray
    found_before: np.ndarray
    n_before: np.ndarray

    @classmethod
    def of(cls, runs: Runs, side: int) -> "Shares":
        """Of the side, 0 or 1, in the order of the columns."""
        columns = [side * N_FIGURES + FOUND, side * N_FIGURES + N]
        return cls(*runs.inside[:, columns].T, *runs.before[:, columns].T)

    @property
    def ratio(self) -> np.ndarray:
        """How many times as often as before."""
        return (self.found / self.n) / (self.found_before / self.n_before)


def _compare_shares(runs: Runs) -> np.ndarray:
    return scan.compare_shares(Shares.of(runs, 0), Shares.of(runs, 1))


def _are_lopsided(runs: Runs, times: float) -> np.ndarray:
    """A variant's outcomes have become rarer or more frequent, and those of others less so.

    Rows of one variant that are lost, or dated before its night, look so. An effect has been there
    before; a new model may bring one overnight, which is told too where it is large.
    """
    own, others = (Shares.of(runs, side).ratio for side in (0, 1))
    part = np.where(runs.n_nights >= N_LOPSIDED, FOUR_FIFTHS, HALF)
    falls = (own < NINE_TENTHS) & (own < part * others) & (own * others < 1)
    rises = (own > 1 / NINE_TENTHS) & (part * own > others) & (own * others > 1)
    are_far = (runs.n_before > 0) & (falls | rises)
    if not are_far.any():
        return are_far
    beyond = np.abs(_compare_shares(runs)) / np.sqrt(times)
    is_steady = (runs.n_nights % WEEK == 0) & (np.abs(np.log(others)) < -np.log(FOUR_FIFTHS))
    is_own = is_steady & (np.abs(_compare_found(runs)) > LINE * np.sqrt(times))
    line = np.where(is_own, STEADY_LINE, LOPSIDED_LINE)
    return are_far & (beyond > np.where(runs.step > 1, LINE, line))


class Amounts(NamedTuple):
    """Outcomes other than 0: how many, mean and variance of log |y|, and the share below 0."""

    n: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    share_below: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray) -> "Amounts":
        """Of figures summed up, shape (..., at least N_FIGURES)."""
        n, logs, squares, n_below = (sums[..., i] for i in (FOUND, LOGS, SQUARES, BELOW))
        mean = logs / n
        variance = np.maximum(squares / n - mean**2, LEAST_VARIANCE)
        return cls(n, mean, variance, n_below / n)

    def weigh(self, times: float) -> tuple[np.ndarray, np.ndarray]:
        """The variance, and of how many, if each is there so many times."""
        return self.variance, self.n / times


Compare = Callable[..., np.ndarray]  # a difference of means and the sides that are in it


def _compare_amounts(runs: Runs, compare: Compare, times: float = 1) -> np.ndarray:
    now, usual = Amounts.of(runs.inside), Amounts.of(runs.before)
    return compare(now.mean - usual.mean, *(side.weigh(times) for side in (now, usual)))


def _compare_capped(runs: Runs) -> np.ndarray:
    sides = (sums[:, i] for sums in (runs.inside, runs.before) for i in (BEYOND, FOUND))
    return scan.compare_rates(*sides)


def _are_capped(runs: Runs, times: float) -> np.ndarray:
    """Far more amounts lie beyond the cap, which cuts rare ones: 99999 for unknown, another unit.

    The cap hides from their mean how far they lie.
    """
    share, usual = (sums[:, BEYOND] / sums[:, FOUND] for sums in (runs.inside, runs.before))
    are_far = (runs.n_before >= WEEK) & (runs.inside[:, BEYOND] >= N_TELLING * times)
    are_far &= (share > MANY_CAPPED) & (share > 2 * usual)
    return _narrow(are_far, runs, _compare_capped, times)


def _compare_moved(runs: Runs) -> np.ndarray:
    """By the mean of the logarithms, and the share below 0."""
    below, n, below_before, n_before = (
        sums[:, i] for sums in (runs.inside, runs.before) for i in (BELOW, FOUND)
    )
    turned = scan.compare_rates(below, n, below_before, n_before)
    moved = _compare_amounts(runs, scan.weigh_means)
    return np.copysign(np.hypot(moved, turned), np.where(abs(turned) > abs(moved), turned, moved))


def _are_moved(runs: Runs, own: np.ndarray, left: np.ndarray, times: float) -> np.ndarray:
    """Amounts are not what they were: another unit, another currency, another sign, booked twice.

    Amounts that move by season have moved in the weeks before.
    """
    now, usual = Amounts.of(runs.inside), Amounts.of(runs.before)
    are_enough = (np.minimum(now.n, usual.n) >= N_TELLING) & (runs.n_before >= N_LOPSIDED)
    is_turned = are_enough & (np.abs(now.share_below - usual.share_below) > HALF)
    is_week = runs.n_nights >= WEEK
    week, night = (USUAL * _find_widest(own, left, n)[np.asarray(runs.first)] for n in (WEEK, 1))
    line = np.where(
        is_week, np.maximum(np.log(NEARLY_DOUBLE), week), np.maximum(np.log(MANY_TIMES), night)
    )
    are_far = are_enough & (runs.n_before >= WEEK) & (np.abs(now.mean - usual.mean) > line)
    compare = partial(_compare_amounts, compare=scan.compare_means, times=times)
    return is_turned | _narrow(are_far, runs, compare, times=1)


def _find_widest(own: np.ndarray, left: np.ndarray, length: int) -> np.ndarray:
    """How far parts of the nights before each night lie from their mean: the widest but one.

    One may be of nights that are not right.

    Parameters
    ----------
    length : nights of a part
    """
    usual = np.where(left[:, None], own, 0).cumsum(axis=0)
    mean = np.concatenate([[np.nan], Amounts.of(usual).mean[:-1]])
    nights = own[left]
    n_parts = len(nights) // length
    sums = nights[: n_parts * length].reshape(n_parts, length, own.shape[1]).sum(axis=1)
    ends = np.flatnonzero(left)[length - 1 :: length][:n_parts]
    parts = Amounts.of(sums)
    steps = np.abs(parts.mean[None, :] - mean[:, None])
    is_before = (ends[None, :] < np.arange(len(own))[:, None]) & (parts.n >= N_TELLING)[None, :]
    steps = np.where(is_before & np.isfinite(steps), steps, 0.0)
    return np.sort(np.pad(steps, ((0, 0), (2, 0))), axis=1)[:, -2]


def _compare_own_amounts(runs: Runs, compare: Compare, times: float = 1) -> np.ndarray:
    _, beyond = _measure_own_move(runs)
    return compare(beyond, *(side.weigh(times) for side in _find_sides(runs)))


def _find_sides(runs: Runs) -> list[Amounts]:
    """Its own amounts now and before, and those of the others."""
    others = [sums[:, N_FIGURES:] for sums in (runs.inside, runs.before)]
    return [*map(Amounts.of, (runs.inside, runs.before, *others))]


def _measure_own_move(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """By how much the mean logarithm has moved, in all and beyond that of the others."""
    own, own_before, others, others_before = (side.mean for side in _find_sides(runs))
    return own - own_before, (own - own_before) - (others - others_before)


def _are_moved_alone(runs: Runs, times: float) -> np.ndarray:
    """A variant's amounts have moved, and more so than those of the others."""
    least = np.min([side.n for side in _find_sides(runs)], axis=0)
    own, beyond = _measure_own_move(runs)
    part = np.where(runs.n_nights >= N_LOPSIDED, FOUR_FIFTHS, HALF)
    are_far = (least >= N_TELLING) & (runs.n_before > 0) & (np.sign(own) == np.sign(beyond))
    are_far &= (np.abs(own) > -np.log(NINE_TENTHS)) & (np.abs(beyond) > -np.log(part))
    are_far &= np.abs(own) > np.abs(own - beyond)
    compare = partial(_compare_own_amounts, compare=scan.compare_means, times=times)
    return _narrow(are_far, runs, compare, times=1)


def _describe_number(found: Found, variant: str, nights: str, plan: Plan | None) -> str:
    """How many outcomes there are, and should be."""
    now, before = found.inside, found.before
    of, rate = "the nights before", before[FOUND] / before[N] if before[N] else 0.0
    if plan and plan.rate and (found.rule == UNPLANNED or not before[N]):
        of, rate = plan.rate_source, plan.rate
    look = "the feed is whole, and writes ids as the candidates query does"
    if found.rule == UNPLANNED:
        look += ", and whether candidates are like those of the training rows"
    if found.rule == NEARLY_ALL:
        look = "the query still tells who answered from who did not"
    return (
        f"{now[FOUND]:,.0f} of {now[N]:,.0f} mature predictions of variant {variant} have an"
        f" outcome in the nights {nights}; by {of} it would be {now[N] * rate:,.0f}. Look"
        f" whether {look}."
    )


def describe(found: Found, variant: str, nights: str, plan: Plan | None) -> str:
    """What was found, and where to look."""
    now, before = found.inside, found.before
    if found.rule == REPLACED:
        who = {GONE: "who are gone from them", ADDED: "who came to them", N: "who are there now"}
        shares = [
            f"of {now[i]:,.0f} {of} {now[i + 1] / now[i]:.0%}" for i, of in who.items() if now[i]
        ]
        return (
            f"the nights {nights} were predicted again for others: of the candidates of variant"
            f" {variant}, {', '.join(shares)} have an outcome. If the"
            " query returned others because some had answered, what follows on the nights is"
            " wrong: predict them again for those who were candidates then."
        )
    if found.rule == DOUBLED:
        return (
            "rows come twice or more, alike in candidate_id, event_date and outcome:"
            f" {now[TWICE]:,.0f} of {now[ROWS]:,.0f} of variant {variant} in the nights {nights}."
            " All are added up. If a join multiplies them, mend it; if they are meant, let the"
            " query sum them up by candidate and day."
        )
    if found.rule in (FEW, UNPLANNED, NEARLY_ALL):
        return _describe_number(found, variant, nights, plan)
    if found.rule == CAPPED:
        return (
            f"{now[BEYOND]:,.0f} of {now[FOUND]:,.0f} amounts of variant {variant} in the nights"
            f" {nights} are beyond the cap, {now[BEYOND] / now[FOUND]:.1%}, and before it was"
            f" {before[BEYOND] / before[FOUND]:.1%}. Look for numbers that stand for unknown, such"
            " as 99999, and for another unit. Verdicts count each as the cap."
        )
    if found.rule == UNMATCHED:
        return (
            f"{now[FOUND] / now[TOLD]:.1%} of what it tells in the nights {nights} are outcomes of"
            f" predictions of variant {variant}, and in those before it was"
            f" {before[FOUND] / before[TOLD]:.1%}. Look whether it writes ids as the candidates"
            " query does."
        )
    own, others = (slice(i * N_FIGURES, (i + 1) * N_FIGURES) for i in (0, 1))
    if found.rule == LOPSIDED:
        ratios = [
            now[side][FOUND] / now[side][N] / (before[side][FOUND] / before[side][N])
            for side in (own, others)
        ]
        return (
            f"predictions of variant {variant} have an outcome {ratios[0]:.2f} times as often in"
            f" the nights {nights} as in those before, those of the others {ratios[1]:.2f} times."
            f" If no new model of {variant} explains it, rows of one variant are lost, dated"
            " otherwise, or of other events, in these nights or in those before."
        )
    then, usual = Amounts.of(now), Amounts.of(before)
    if found.rule == MOVED:
        return (
            f"outcomes of predictions of variant {variant} in the nights {nights} are not what they"
            f" were: other than 0 they are {np.exp(then.mean):,.4g} in the geometric mean and"
            f" {then.share_below:.0%} are below 0; in the nights before it was"
            f" {np.exp(usual.mean):,.4g} and {usual.share_below:.0%}. Look for another unit or"
            " sign, and for amounts that are booked twice, in these nights or in those before."
            " Verdicts add them up as they are."
        )
    moves = [
        np.exp(Amounts.of(now[side]).mean - Amounts.of(before[side]).mean) for side in (own, others)
    ]
    return (
        f"amounts of variant {variant} are {moves[0]:.2f} times in the nights {nights} what they"
        f" were before, in the geometric mean, and those of the others {moves[1]:.2f} times. If no"
        f" new model of {variant} explains it, look for another unit or currency, and for amounts"
        " that are booked twice, in one variant."
    )
