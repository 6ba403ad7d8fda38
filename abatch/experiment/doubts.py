"""Doubts: nights whose outcomes look as if they were not whole, not right, or found twice.

What came of each night is kept, closed ones too, and each is held against those before it. So what
is doubted follows from the record alone: it stays while nothing has changed, and goes when it has.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from itertools import compress
from typing import NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.database.tables import acknowledgements
from abatch.errors import DataError
from abatch.experiment import outcomes, predictions
from abatch.experiment.outcomes import Feed, Metric
from abatch.experiment.predictions import Span
from abatch.experiment.registrations import OUTCOME, Plan
from abatch.queries import Query
from abatch.statistics import scan
from abatch.statistics.scan import LINE, WEEK, Found, Rule, Runs
from abatch.text import list_days

N_TELLING = 20  # ids, or rows, that are no accident
MANY_TWICE = 0.1  # of the rows
HALF, TENTH = 1 / 2, 1 / 10  # of what is expected: of a week, and of fewer nights
WEEKEND = 1 / 4  # of the usual rate, which some nights may have
FOUR_FIFTHS = 4 / 5  # of what a feed tells, and of the other variants
NINE_TENTHS = 9 / 10  # of a variant's own usual rate
# Standard deviations: what one variant loses makes a verdict false. In whole weeks, if the others
# are as before, and its own rate is not, by `LINE`.
LOPSIDED_LINE, STEADY_LINE = 4.5, 3.5
N_LOPSIDED = 3  # nights, as a weekend may bring fewer to one variant alone
NEARLY_DOUBLE, MANY_TIMES = 1.6, 5.0  # a usual amount, of a week and of fewer nights
USUAL = 2  # times as far as amounts have been from the usual is nothing unusual
N_KEPT = 365  # nights
N_ASKED = 1000  # ids, in one query
EXACT = 1e9  # predictions that show a rate
LEAST_VARIANCE = 1e-6  # of log |y|
# Why nights are doubted.
REPLACED, DOUBLED, FEW = "candidates replaced", "rows twice", "few outcomes"
UNMATCHED, MOVED = "few of what the feed tells", "other amounts"
LOPSIDED, MOVED_ALONE = "unlike other variants", "amounts unlike other variants"
OF_AMOUNTS = {DOUBLED, MOVED, MOVED_ALONE}
OF_IDS = {FEW, UNMATCHED, LOPSIDED}  # what ids that are written otherwise look like
# What shows by itself, then beside the other variants, then beside the feed.
PASSES = [(REPLACED, DOUBLED, FEW, MOVED), (LOPSIDED, MOVED_ALONE), (UNMATCHED,)]
# What is counted of a night, by feed and variant: predictions; those with an outcome; events in
# the night's window, of whomever; of the outcomes the sum of log |y|, that of its squares, and how
# many are below 0; of a numeric feed the rows behind them, and those that come twice; candidates of
# the night as it was first published who are gone, and those of them with an outcome.
N, FOUND, TOLD, LOGS, SQUARES, BELOW, ROWS, TWICE, GONE, GONE_FOUND = range(10)
N_FIGURES = 10
Key = tuple[str, str]  # feed and variant
Nights = Mapping[Key, np.ndarray]  # ordinals of days


class Record(NamedTuple):
    """What came of the predictions of nights.

    Attributes
    ----------
    nights : array of int, shape (n_nights,), ordinals of days, in order
    figures : by feed and variant, array of float, shape (n_nights, N_FIGURES)
    """

    nights: np.ndarray
    figures: dict[Key, np.ndarray]


class Doubt(NamedTuple):
    """Nights of a feed and a variant that are doubted.

    Attributes
    ----------
    key : feed and variant
    nights : array of int, ordinals of days
    kind : why, in few words
    words : a sentence
    """

    key: Key
    nights: np.ndarray
    kind: str
    words: str


def make_record(
    feeds: Sequence[Feed],
    told: np.ndarray,
    exposures: pd.DataFrame,
    gone: pd.DataFrame,
    nights: Sequence[date],
    variants: Sequence[str],
    window_days: int,
) -> Record:
    """Count what came of nights.

    Parameters
    ----------
    told : array, shape (n_nights, n_feeds), events in each night's window
    exposures : candidate_id, variant, run_date and a column for each feed, one row per prediction
    gone : the same of predictions that were replaced by others, without their candidates
    """
    days, figures = pd.DatetimeIndex(nights), {}
    for i, feed in enumerate(feeds):
        parts = _count_amounts(exposures, feed, window_days)
        left = pd.DataFrame({GONE: 1.0, GONE_FOUND: gone[feed.name].to_numpy(float) != 0})
        for variant in variants:
            counted = np.zeros((len(days), N_FIGURES))
            for frame, rows in ((parts, exposures), (left, gone)):
                is_own = (rows["variant"] == variant).to_numpy()
                own = frame[is_own].astype(float)
                by_night = own.groupby(pd.DatetimeIndex(rows["run_date"][is_own])).sum()
                counted[:, frame.columns] = by_night.reindex(days, fill_value=0)
            counted[:, TOLD] = told[:, i] * (counted[:, N] > 0)
            figures[feed.name, variant] = counted
    return Record(np.array([day.toordinal() for day in nights], dtype=int), figures)


def _count_amounts(exposures: pd.DataFrame, feed: Feed, window_days: int) -> pd.DataFrame:
    """What a prediction adds to the figures of its night, but for those of others."""
    y = exposures[feed.name].to_numpy(dtype=float)
    log = np.log(np.abs(y), out=np.zeros_like(y), where=y != 0)
    n_rows, n_twice = outcomes.count_rows(exposures, feed, window_days)
    parts = {N: 1.0, FOUND: y != 0, LOGS: log, SQUARES: log**2, BELOW: y < 0}
    return pd.DataFrame({**parts, ROWS: n_rows, TWICE: n_twice}, dtype=float)


def join(closed: Record, new: Record) -> Record:
    """The newest nights of both."""
    figures = {}
    for key, of_new in new.figures.items():
        before = closed.figures.get(key, np.zeros((len(closed.nights), N_FIGURES)))
        figures[key] = np.concatenate([before, of_new])[-N_KEPT:]
    nights = np.concatenate([closed.nights, new.nights])[-N_KEPT:]
    return Record(nights, figures or closed.figures)


def pack(record: Record, told: Nights) -> dict[str, np.ndarray]:
    """As arrays by name, to be stored: a record, and the nights that were doubted at a look."""
    figures = {f"record.{'.'.join(key)}": array for key, array in record.figures.items()}
    doubted = {f"doubted.{'.'.join(key)}": array for key, array in told.items()}
    return {"record": record.nights, **figures, **doubted}


def unpack(arrays: Mapping[str, np.ndarray]) -> tuple[Record, Nights]:
    """The inverse of `pack`; no night if there are no arrays."""
    found: dict[str, dict[Key, np.ndarray]] = {"record": {}, "doubted": {}}
    for name, array in arrays.items():
        of, *key = name.split(".")
        if of in found and len(key) == 2:
            found[of][key[0], key[1]] = array
    return Record(arrays.get("record", np.zeros(0, dtype=int)), found["record"]), found["doubted"]


def gather(doubts: Sequence[Doubt]) -> Nights:
    """The nights that are doubted, by feed and variant."""
    nights: dict[Key, np.ndarray] = {}
    for doubt in doubts:
        nights[doubt.key] = np.union1d(nights.get(doubt.key, doubt.nights), doubt.nights)
    return nights


def find_news(doubts: Sequence[Doubt], told: Nights) -> list[Doubt]:
    """Doubts that take in a night that was not doubted before."""
    return [
        doubt
        for doubt in doubts
        if not np.isin(doubt.nights, told.get(doubt.key, np.zeros(0))).all()
    ]


def describe(doubts: Sequence[Doubt]) -> str | None:
    """Which nights are doubted, all of them, by feed and variant, and why; None if none is."""
    words = [
        f"{doubt.key[0]} of {doubt.key[1]}: {list_days(_to_days(doubt.nights), None)}"
        f" ({doubt.kind})"
        for doubt in doubts
    ]
    return "; ".join(words) or None


def _to_days(nights: np.ndarray) -> list[date]:
    return [*map(date.fromordinal, nights.tolist())]


def find_acknowledged(connection: sa.Connection, experiment: str) -> date | None:
    """The last night whose outcomes a person knows to be right, as all before it; None if none."""
    query = sa.select(sa.func.max(acknowledgements.c.mature_date))
    return connection.scalar(query.filter_by(experiment=experiment))


def find_doubts(
    record: Record,
    metrics: Mapping[str, tuple[Metric, Query]],
    plan: Plan,
    times: float,
    acknowledged: date | None = None,
) -> list[Doubt]:
    """Nights whose outcomes are unlike those of the nights before, and hardly by chance.

    Parameters
    ----------
    metrics : each feed's, by name, with its query
    times : how often one candidate, and so one outcome, is among the predictions
    acknowledged : nights until then are right, as those are that are like them
    """
    until = acknowledged.toordinal() if acknowledged else 0
    known = record.nights <= until
    accepted: Nights = {}
    if known.any():
        early = {key: array[known] for key, array in record.figures.items()}
        accepted = gather(find_doubts(Record(record.nights[known], early), metrics, plan, times))
    doubts = []
    trusted = {key: array.copy() for key, array in record.figures.items() if key[0] in metrics}
    left = {key: np.ones(len(record.nights), dtype=bool) for key in trusted}
    for names in PASSES:
        for key, own in trusted.items():
            name, variant = key
            metric, query = metrics[name]
            others = sum(
                (trusted[other] for other in trusted if other[0] == name and other != key),
                np.zeros_like(own),
            )
            by_plan = plan if name == OUTCOME and metric.kind == "binary" else None
            rules = _make_rules(own, left[key], by_plan, times)
            is_used = [metric.kind == "numeric" or name not in OF_AMOUNTS for name in names]
            chosen = {name: rules[name] for name in compress(names, is_used)}
            is_right = np.isin(record.nights, accepted.get(key, np.zeros(0)))
            figures = np.hstack([record.figures[key], others])
            for found in scan.find_runs(figures, chosen, left[key], ~known, is_right):
                nights = record.nights[found.nights]
                words = _describe(found, variant, list_days(_to_days(nights)), by_plan)
                doubts.append(Doubt(key, nights, found.rule, f"{query.file}: {words}"))
            own[~left[key]] = 0  # is no measure for others
    return doubts


def _make_rules(
    own: np.ndarray, left: np.ndarray, plan: Plan | None, times: float
) -> dict[str, Rule]:
    rate = plan.mean if plan and plan.mean else np.nan

    def make(find: Callable[..., np.ndarray], compare: Callable[[Runs], np.ndarray]) -> Rule:
        return Rule(partial(find, times=times), compare)

    return {
        REPLACED: make(_are_replaced, _compare_replaced),
        DOUBLED: make(_are_doubled, _compare_doubled),
        FEW: make(partial(_are_few, rate=rate), partial(_compare_found, rate=rate)),
        MOVED: make(partial(_are_moved, own=own, left=left), _compare_moved),
        LOPSIDED: make(_are_lopsided, _compare_shares),
        MOVED_ALONE: make(
            _are_moved_alone, partial(_compare_own_amounts, compare=scan.weigh_means)
        ),
        UNMATCHED: make(_are_unmatched, _compare_unmatched),
    }


def _compare_replaced(runs: Runs) -> np.ndarray:
    """Of one night, those who are gone with those who are there."""
    gone, found = runs.inside[:, GONE], runs.inside[:, GONE_FOUND]
    z = scan.compare_rates(found, gone, runs.inside[:, FOUND], runs.inside[:, N])
    return np.where((runs.n_nights == 1) & (gone >= N_TELLING), z, np.nan)


def _are_replaced(runs: Runs, times: float) -> np.ndarray:
    """Candidates of a night are gone who answered unlike those who are there."""
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


def _are_few(runs: Runs, rate: float, times: float) -> np.ndarray:
    """Far fewer predictions have an outcome than is expected, of a week or of some nights.

    Of less than a week, and while no week is known, no more is expected than on weekends.
    """
    is_known = (runs.n_before >= WEEK) | (runs.before[:, N] == 0)
    is_week = (runs.n_nights >= WEEK) & is_known
    expected = runs.inside[:, N] * _find_rates(runs, rate)
    are_few = runs.inside[:, FOUND] < np.where(is_week, HALF, TENTH) * expected
    size = np.where(is_week, 1.0, WEEKEND)
    return _narrow(are_few, runs, lambda few: _compare_found(few, rate, N, size[are_few]), times)


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
    are_far = (runs.n_before >= N_LOPSIDED) & (falls | rises)
    if not are_far.any():
        return are_far
    beyond = np.abs(_compare_shares(runs)) / np.sqrt(times)
    is_steady = (runs.n_nights % WEEK == 0) & (np.abs(np.log(others)) < -np.log(FOUR_FIFTHS))
    is_own = is_steady & (np.abs(_compare_found(runs)) > LINE * np.sqrt(times))
    return are_far & (beyond > np.where(is_own, STEADY_LINE, LOPSIDED_LINE))


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
    are_enough = (runs.n_nights >= N_LOPSIDED) & (runs.n_before >= N_LOPSIDED)
    are_far = (least >= N_TELLING) & are_enough & (np.sign(own) == np.sign(beyond))
    are_far &= (np.abs(own) > -np.log(NINE_TENTHS)) & (np.abs(beyond) > -np.log(FOUR_FIFTHS))
    are_far &= np.abs(own) > np.abs(own - beyond)
    compare = partial(_compare_own_amounts, compare=scan.compare_means, times=times)
    return _narrow(are_far, runs, compare, times=1)


def _describe(found: Found, variant: str, nights: str, plan: Plan | None) -> str:
    """What was found, and where to look."""
    now, before = found.inside, found.before
    if found.rule == REPLACED:
        return (
            f"of {now[GONE]:,.0f} candidates of variant {variant} in the night {nights}, who were"
            f" replaced when it was predicted again, {now[GONE_FOUND] / now[GONE]:.0%} have an"
            f" outcome, and {now[FOUND] / now[N]:.0%} of those who are there now. If they are gone"
            " because they have answered, what follows on the night is wrong: predict it again for"
            " those who were candidates then."
        )
    if found.rule == DOUBLED:
        return (
            "rows come twice or more, alike in candidate_id, event_date and outcome:"
            f" {now[TWICE]:,.0f} of {now[ROWS]:,.0f} of variant {variant} in the nights {nights}."
            " All are added up. If a join multiplies them, mend it; if they are meant, let the"
            " query sum them up by candidate and day."
        )
    if found.rule == FEW:
        of, rate = "the nights before", before[FOUND] / before[N] if before[N] else 0.0
        if plan and plan.mean and not before[N]:
            of, rate = plan.source, plan.mean
        return (
            f"{now[FOUND]:,.0f} of {now[N]:,.0f} mature predictions of variant {variant} have an"
            f" outcome in the nights {nights}; by {of} it would be {now[N] * rate:,.0f}. Look"
            " whether the feed is whole, and writes ids as the candidates query does."
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
            " otherwise, or of other events."
        )
    then, usual = Amounts.of(now), Amounts.of(before)
    if found.rule == MOVED:
        return (
            f"outcomes of predictions of variant {variant} in the nights {nights} are not what they"
            f" were: other than 0 they are {np.exp(then.mean):,.4g} in the geometric mean and"
            f" {then.share_below:.0%} are below 0; in the nights before it was"
            f" {np.exp(usual.mean):,.4g} and {usual.share_below:.0%}. Look for another unit or"
            " sign, and for amounts that are booked twice. Verdicts add them up as they are."
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


def find_stranger(connection: sa.Connection, feed: Feed, experiment: str) -> str | None:
    """An id of the feed that was never predicted; None if there is none among the first."""
    names = feed.events["candidate_id"].drop_duplicates().tolist()[:N_ASKED]
    predicted = predictions.find_ids(connection, experiment, names) if names else set()
    return next((name for name in names if name not in predicted), None)


def check_ids(connection: sa.Connection, feed: Feed, variants: pd.Series, span: Span) -> str | None:
    """A sentence if outcomes seem not to find their predictions; None if all is well.

    Parameters
    ----------
    variants : by candidate_id, of those that were counted

    Raises
    ------
    DataError
        If ids differ but in upper and lower case, which SQL may take for one, or if in a variant
        many are written otherwise: more than a tenth of those that are as they were predicted.
    """
    found = feed.events["candidate_id"].drop_duplicates()
    twins = outcomes.find_twins(variants.index, feed.events)
    names = sorted(twins)
    predicted = (
        predictions.find_ids(connection, span.experiment, names[:N_ASKED]) if names else set()
    )
    others = [name for name in names if name not in predicted]
    n_alike = found.map(variants).value_counts()
    if not others:
        if len(found) >= N_TELLING and len(variants) >= N_TELLING and n_alike.empty:
            return (
                f"{feed.query.file}: none of {len(found)} ids with an outcome, such as"
                f" {found.iloc[0]!r}, is one of the {len(variants)} that were predicted, such as"
                f" {variants.index[0]!r}. Return ids as the candidates query does."
            )
        return None
    first = others[0]
    words = (
        f"{len(others)} ids of outcomes seem to be ids of candidates written otherwise, for example"
        f" {first!r} for {twins[first]!r}. Return ids letter for letter as the candidates query"
        " does, with the same cast, trim or lower in both if need be."
    )
    n_other = pd.Series([variants[twins[name]] for name in others]).value_counts()
    are_many = n_other > n_alike.reindex(n_other.index, fill_value=0) / 10
    if first.lower() == twins[first].lower() or are_many[n_other >= N_TELLING].any():
        raise DataError(f"{feed.query.file}: {words}")
    return f"{feed.query.file}: {words}"
