"""Doubts: what looks as if outcomes did not find their predictions, or found them twice.

What came of each closed night is kept, and newer nights are held against it.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa
from scipy.special import bdtr, pdtr  # of binomial and Poisson, up to and with a count
from scipy.stats import norm, ttest_ind_from_stats

from abatch.errors import DataError
from abatch.experiment import outcomes, predictions
from abatch.experiment.outcomes import Feed
from abatch.experiment.predictions import Span
from abatch.experiment.registrations import OUTCOME, Plan
from abatch.text import list_days

N_TELLING = 20  # ids, or rows, that are no accident
MANY_TWICE = 0.1  # of the rows
WEEK = 7  # nights, so that all weekdays are among them
HALF, TENTH = 1 / 2, 1 / 10  # of what is expected: of a week, and of single nights
WEEKEND = 1 / 4  # of the usual rate, which some nights may have
FOUR_FIFTHS = 4 / 5  # of what a feed tells, and of the other variants, of a week
NINE_TENTHS = 9 / 10  # of a variant's own usual rate
CHANCE = 1e-6  # of a false alarm, at the most
NEARLY_DOUBLE = 1.6  # times a usual amount, or one of so many parts of it
USUAL = 2  # times as far as amounts of a week have been from the usual is nothing unusual
N_FIGURES = 7
CLOSED, OPEN = "record", "open"  # nights, of which a record is kept
N_DOUBTED = 28  # nights, after which a low level counts as the level
N_KEPT = 180  # closed nights


class Record(NamedTuple):
    """What came of the predictions of nights.

    Attributes
    ----------
    nights : array of int, shape (n_nights,), ordinals of days, in order
    figures : by feed and variant, array of float, shape (n_nights, 7): predictions; those with an
        outcome; events in the night's window, of whomever; whether the night is doubted; of the
        outcomes the sum of log |y|, that of its squares, and how many are below 0
    """

    nights: np.ndarray
    figures: dict[tuple[str, str], np.ndarray]


def make_record(
    feeds: Sequence[Feed],
    told: np.ndarray,
    exposures: pd.DataFrame,
    nights: Sequence[date],
    variants: Sequence[str],
) -> Record:
    """Count what came of nights; none is doubted yet.

    Parameters
    ----------
    told : array, shape (n_nights, n_feeds), events in each night's window
    exposures : variant, run_date and a column for each feed, one row per prediction
    """
    days, figures = pd.DatetimeIndex(nights), {}
    for variant in variants:
        rows = exposures[exposures["variant"] == variant]
        run_dates = pd.DatetimeIndex(rows["run_date"])
        n = rows.groupby(run_dates).size().reindex(days, fill_value=0).to_numpy(float)
        for i, feed in enumerate(feeds):
            found = _count_amounts(rows[feed.name], run_dates).reindex(days, fill_value=0)
            columns = (n, found.pop("n"), told[:, i] * (n > 0), 0 * n, found)
            figures[feed.name, variant] = np.column_stack(columns).astype(float)
    return Record(np.array([day.toordinal() for day in nights], dtype=int), figures)


def _count_amounts(amounts: pd.Series, nights: pd.DatetimeIndex) -> pd.DataFrame:
    """By night, of the outcomes other than 0: how many, sums as in `Record`."""
    y = amounts.to_numpy(dtype=float)
    log = np.log(np.abs(y), out=np.zeros_like(y), where=y != 0)
    parts = {"n": y != 0, "log": log, "squares": log**2, "below": y < 0}
    return pd.DataFrame(parts, dtype=float).groupby(nights).sum()


def join(closed: Record, new: Record) -> Record:
    """The newest nights of both."""
    figures = {}
    for key, of_new in new.figures.items():
        before = closed.figures.get(key, np.zeros((len(closed.nights), N_FIGURES)))
        figures[key] = np.concatenate([before, of_new])[-N_KEPT:]
    return Record(np.concatenate([closed.nights, new.nights])[-N_KEPT:], figures)


def describe_doubted(record: Record) -> str | None:
    """Which nights are doubted, by feed and variant; None if none is."""
    words = []
    for (feed, variant), figures in record.figures.items():
        days = [*map(date.fromordinal, record.nights[figures[:, 3] > 0].tolist())]
        if days:
            words.append(f"{feed} of {variant}: {list_days(days)}")
    return "; ".join(words) or None


def keep_doubts(seen: Record, new: Record) -> bool:
    """Doubt nights as they were at an earlier look, if nothing has come of them since.

    A night alone may show less than it did beside those after it, which are not closed with it.

    Returns
    -------
    bool
        Whether all nights are as they were seen, so that what there is to tell was told.
    """
    rows = {day: i for i, day in enumerate(seen.nights.tolist())}
    at = [rows.get(day, -1) for day in new.nights.tolist()]
    are_seen = True
    for key, figures in new.figures.items():
        before = seen.figures.get(key, np.zeros((len(seen.nights), N_FIGURES)))
        before = np.concatenate([before, np.full((1, N_FIGURES), np.nan)])[at]
        differs = ~np.isclose(before, figures, rtol=1e-9)
        is_same = ~np.delete(differs, (2, 3), axis=1).any(axis=1)  # events of others, and doubts
        figures[:, 3] = np.where(is_same & (before[:, 3] > 0), 1, figures[:, 3])
        are_seen &= bool(is_same.all())
    return are_seen


def pack(record: Record, kind: str = CLOSED) -> dict[str, np.ndarray]:
    """As arrays by name, to be stored; `kind` begins all names."""
    figures = {f"{kind}.{'.'.join(key)}": array for key, array in record.figures.items()}
    return {f"{kind}.nights": record.nights, **figures}


def unpack(arrays: Mapping[str, np.ndarray], kind: str = CLOSED) -> Record:
    """The inverse of `pack`; no night if there are no arrays."""
    figures = {}
    for name, array in arrays.items():
        of, *key = name.split(".")
        if of == kind and len(key) > 1:
            figures[key[0], key[1]] = array
    return Record(arrays.get(f"{kind}.nights", np.zeros(0, dtype=int)), figures)


class Level(NamedTuple):
    """What is expected of predictions: how many there were, how many had an outcome.

    Attributes
    ----------
    of : nights that are closed, or what the plan was made by
    n : inf if by the plan
    told : events of the feed in these nights
    """

    of: str
    rate: float
    n: float
    n_found: float
    told: float


def _choose_usual(figures: np.ndarray) -> np.ndarray:
    """The nights that are not doubted, or all once many are."""
    is_doubted = figures[:, 3] > 0
    return figures if is_doubted.sum() >= N_DOUBTED else figures[~is_doubted]


def _find_level(figures: np.ndarray, plan: Plan | None) -> Level | None:
    """Of closed nights that are not doubted, once many are of all; else of the plan."""
    n, n_found, told = _choose_usual(figures)[:, :3].sum(axis=0)
    if n:
        return Level("closed nights", n_found / n, n, n_found, told)
    if plan and plan.mean:
        return Level(plan.source, plan.mean, np.inf, np.inf, 0.0)
    return None


def _is_low(found: float, n: float, level: Level, is_week: bool, times: float) -> bool:
    """Whether fewer than a part of what is expected were found, and hardly by chance.

    Of less than a week, no more may be expected than on weekends.
    """
    if found >= (HALF if is_week else TENTH) * n * level.rate:
        return False
    size = n if is_week else WEEKEND * n
    if np.isinf(level.n):
        return bool(pdtr(found, size * level.rate) < CHANCE)
    return _compute_chance(found, size, level.n_found, level.n, times) < CHANCE


def _compute_chance(
    found: float, n: float, found_before: float, n_before: float, times: float
) -> float:
    """That of all that were found so few are of n, and the others of n_before.

    The exact test of two Poisson rates.

    Parameters
    ----------
    times : how often one candidate, and so one outcome, is among them
    """
    few, many = int(found // times), int((found + found_before) // times)
    return float(bdtr(few, many, n / (n + n_before)))


def _split_week(closed: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nights before, and a week that ends with the new ones; these alone if there is none."""
    n_tail = max(0, WEEK - len(new))
    tail = len(closed) - n_tail if n_tail <= len(closed) else len(closed)
    return closed[:tail], np.concatenate([closed[tail:], new])


def find_few(
    closed: np.ndarray, new: np.ndarray, plan: Plan | None, times: float
) -> tuple[Level, np.ndarray] | None:
    """Of which nights too few predictions have an outcome: of a week, or of single nights.

    Parameters
    ----------
    closed, new : figures of nights, as in `Record`, of one feed and variant
    times : how often one candidate is predicted within a window

    Returns
    -------
    level, is_low
        is_low: of the last `WEEK` closed nights and the new ones: all new ones of a week, and the
        closed ones with hardly any outcome. None if no new one is.
    """
    before, week = _split_week(closed, new)
    (n, found), (n_new, found_new) = (nights[:, :2].sum(axis=0) for nights in (week, new))
    is_week, level = len(week) >= WEEK, _find_level(before, plan)
    part = HALF if is_week else TENTH
    if level and _is_low(found, n, level, is_week, times) and found_new < part * n_new * level.rate:
        n, found = closed[-WEEK:, :2].T
        return level, np.concatenate(
            [found < TENTH * level.rate * n, np.ones(len(new), dtype=bool)]
        )
    if level := _find_level(closed, plan):
        last = np.concatenate([closed[-WEEK:], new])
        is_low = last[:, 1] < TENTH * level.rate * last[:, 0]
        n, found = last[is_low, :2].sum(axis=0)
        if is_low[-len(new) :].any() and _is_low(found, n, level, False, times):
            return level, is_low
    return None


def find_unmatched(closed: np.ndarray, new: np.ndarray, times: float) -> tuple[float, float] | None:
    """The shares of what the feed tells that predictions find, new and before, if it is far less.

    And so it is of the predictions: else there are fewer of them, or the feed tells of others too.

    Parameters
    ----------
    closed, new, times : as `find_few` has them
    """
    before, week = _split_week(closed, new)
    level = _find_level(before, None)
    if level is None or len(week) < WEEK or not level.told:
        return None
    usual = level.n_found / level.told
    for n, found, told in (nights[:, :3].sum(axis=0) for nights in (week, new)):
        if found >= FOUR_FIFTHS * min(usual * told, level.rate * n):
            return None
    n, found, told = week[:, :3].sum(axis=0)
    sizes = ((n, level.n), (told, level.told))
    if any(
        _compute_chance(found, size, level.n_found, size_before, times) >= CHANCE
        for size, size_before in sizes
    ):
        return None
    return found / told, usual


class Falls(NamedTuple):
    """Shares of predictions with an outcome in a week, as parts of what they were before."""

    own: float
    of_others: float


def find_lopsided(
    closed: Record, new: Record, feed: str, variant: str, times: float
) -> Falls | None:
    """What has become of a variant's outcomes and of the others', if it lacks some that they have.

    Rows of one variant that are lost, or dated before its night, look so. An effect has been there
    before; a new model may bring one overnight, which is told too where it is large.
    """
    sides = []
    for is_own in (True, False):
        names = [key for key in new.figures if key[0] == feed and (key[1] == variant) == is_own]
        nothing = np.zeros((len(closed.nights), N_FIGURES))
        before = sum(closed.figures.get(key, nothing) for key in names)
        now = sum(new.figures[key] for key in names)
        if not names:
            return None
        before, week = _split_week(np.asarray(before), np.asarray(now))
        if len(week) < WEEK:
            return None
        sides.append([nights[:, :2].sum(axis=0) for nights in (week, _choose_usual(before))])
    (n, found), (n_before, found_before) = np.array(sides).transpose(1, 2, 0)
    if not (min(found) and min(found_before)):
        return None
    own, of_others = ((found / n) / (found_before / n_before)).tolist()
    se = np.sqrt(times * sum(1 / found + 1 / found_before))
    is_chance = norm.cdf(np.log(own / of_others) / se) >= CHANCE
    if own >= NINE_TENTHS or own >= FOUR_FIFTHS * of_others or is_chance:
        return None
    return Falls(own, of_others)


class Amounts(NamedTuple):
    """Outcomes other than 0: their geometric mean without the sign, and the share below 0."""

    mean: float
    share_below: float


def find_moved(closed: np.ndarray, new: np.ndarray, times: float) -> tuple[Amounts, Amounts] | None:
    """The amounts of a week that ends with the new nights, and before, if they are not alike.

    As in another unit, another currency, with the other sign, or booked twice: a variant's own
    effect has been there before, too. Amounts that move by season move in the closed weeks.

    Parameters
    ----------
    closed, new, times : as `find_few` has them
    """
    before, week = _split_week(closed, new)
    used = _choose_usual(before)
    if len(week) < WEEK or min(used[:, 1].sum(), week[:, 1].sum(), new[:, 1].sum()) < N_TELLING:
        return None
    usual, now, last = map(_measure_amounts, (used, week, new))
    is_turned = all(abs(found.share_below - usual.share_below) > HALF for found in (now, last))
    moved = np.log([now.mean / usual.mean, last.mean / usual.mean])
    weeks = [used[i : i + WEEK] for i in range(len(used) % WEEK, len(used), WEEK)]
    steps = [
        abs(np.log(_measure_amounts(week).mean / usual.mean))
        for week in weeks
        if week[:, 1].sum() >= N_TELLING
    ]
    widest = sorted(steps)[-2] if len(steps) > 1 else 0.0  # one may be of such nights
    line = max(np.log(NEARLY_DOUBLE), USUAL * widest)
    is_moved = (np.sign(moved[0]) * moved > line).all()
    is_chance = _compute_moved_chance(used, week, times) > CHANCE
    return (now, usual) if is_turned or (is_moved and not is_chance) else None


def _measure_amounts(figures: np.ndarray) -> Amounts:
    _, n, _, _, logs, _, n_below = figures.sum(axis=0)
    return Amounts(float(np.exp(logs / n)), float(n_below / n))


def _compute_moved_chance(before: np.ndarray, now: np.ndarray, times: float) -> float:
    """That logarithms of the same mean come to lie so far apart; Welch's test."""
    sides = [figures.sum(axis=0)[[1, 4, 5]] for figures in (now, before)]
    n, means, squares = np.array([(n, logs / n, square / n) for n, logs, square in sides]).T
    sd = np.sqrt(np.maximum(squares - means**2, 0))
    (mean, mean_before), (of, of_before), (m, m_before) = means, sd, n / times
    if not sd.any():
        return 0.0 if mean != mean_before else 1.0
    return float(ttest_ind_from_stats(mean, of, m, mean_before, of_before, m_before, False).pvalue)


def find_doubts(
    connection: sa.Connection,
    span: Span,
    feeds: Sequence[Feed],
    exposures: pd.DataFrame,
    closed: Record,
    new: Record,
    plan: Plan,
) -> Iterator[str]:
    """Sentences on what looks as if outcomes did not find their predictions, or found them twice.

    Parameters
    ----------
    exposures : candidate_id, variant and run_date, one row per prediction of the new nights
    closed, new : records of closed nights, and of the new ones, in both of which doubted nights are
        marked

    Raises
    ------
    DataError
        As `check_ids`.
    """
    variants = exposures.drop_duplicates("candidate_id").set_index("candidate_id")["variant"]
    times = max(1.0, len(exposures) / max(1, len(variants)))
    for feed in feeds:
        yield from filter(None, [check_ids(connection, feed, variants, span)])
        if doubled := find_doubled(feed, variants):
            for (name, _), figures in new.figures.items():
                figures[:, 3] = np.where(name == feed.name, 1, figures[:, 3])
            yield doubled
        by_plan = plan if feed.name == OUTCOME and feed.metric.kind == "binary" else None
        for (name, variant), figures in new.figures.items():
            if name != feed.name:
                continue
            before = closed.figures.get((name, variant), np.zeros((0, N_FIGURES)))
            if few := find_few(before, figures, by_plan, times):
                level, is_low = few
                last, n_after = before[-WEEK:], len(closed.nights) - len(before[-WEEK:])
                last[is_low[: len(last)], 3] = 1
                figures[is_low[len(last) :], 3] = 1
                nights = np.concatenate([closed.nights[n_after:], new.nights])[is_low]
                low = np.concatenate([last, figures])[is_low]
                yield _describe_few(feed, variant, nights, low, level)
            elif shares := find_unmatched(before, figures, times):
                figures[:, 3] = 1
                stranger = _find_stranger(connection, feed, variants, span)
                yield _describe_unmatched(feed, variant, shares, stranger)
            elif feed.metric.kind == "numeric" and (moved := find_moved(before, figures, times)):
                figures[:, 3] = 1
                yield _describe_moved(feed, variant, *moved)
            elif falls := find_lopsided(closed, new, name, variant, times):
                figures[:, 3] = 1
                yield _describe_lopsided(feed, variant, falls)


def _describe_few(
    feed: Feed, variant: str, nights: np.ndarray, figures: np.ndarray, level: Level
) -> str:
    n, found = figures[:, :2].sum(axis=0)
    named = list_days([date.fromordinal(day) for day in nights.tolist()])
    return (
        f"{feed.query.file}: {found:,.0f} of {n:,.0f} mature predictions of variant {variant} have"
        f" an outcome in the nights {named}; by {level.of} it would be"
        f" {n * level.rate:,.0f}. Look whether the feed is whole, and writes ids as the candidates"
        " query does."
    )


def _describe_unmatched(
    feed: Feed, variant: str, shares: tuple[float, float], stranger: str | None
) -> str:
    now, usual = shares
    example = f" An id that was never predicted is {stranger!r}." if stranger else ""
    return (
        f"{feed.query.file}: {now:.1%} of what it tells are outcomes of predictions of variant"
        f" {variant}, and of closed nights it was {usual:.1%}.{example} Look whether it writes ids"
        " as the candidates query does."
    )


def _describe_lopsided(feed: Feed, variant: str, falls: Falls) -> str:
    return (
        f"{feed.query.file}: predictions of variant {variant} have an outcome {falls.own:.2f} times"
        f" as often in a week as in closed nights, those of the others {falls.of_others:.2f} times."
        f" If no new model of {variant} explains it, rows of one variant are lost, or dated before"
        " its nights."
    )


def _describe_moved(feed: Feed, variant: str, now: Amounts, usual: Amounts) -> str:
    return (
        f"{feed.query.file}: outcomes of predictions of variant {variant} are not what they were:"
        f" other than 0 they are {now.mean:,.4g} in the geometric mean and {now.share_below:.0%}"
        f" are below 0; of closed nights it was {usual.mean:,.4g} and {usual.share_below:.0%}. Look"
        " for another unit or sign, and for amounts that are booked twice. Verdicts add them up as"
        " they are."
    )


def _find_stranger(
    connection: sa.Connection, feed: Feed, variants: pd.Series, span: Span
) -> str | None:
    """An id of the feed that was never predicted; None if there is none among the first."""
    ids = feed.events["candidate_id"].drop_duplicates()
    names = ids[~ids.isin(variants.index)].tolist()[:1000]
    predicted = predictions.find_ids(connection, span.experiment, names) if names else set()
    return next((name for name in names if name not in predicted), None)


def find_doubled(feed: Feed, variants: pd.Series) -> str | None:
    """A sentence if many amounts come twice, which a sum counts twice; None if all is well.

    In all or of one variant. Of a binary outcome it does no harm.

    Parameters
    ----------
    variants : by candidate_id
    """
    if feed.metric.kind == "binary" or feed.events.empty:
        return None
    is_twice = feed.events["is_twice"]
    groups = {"in all": is_twice}
    for variant, rows in is_twice.groupby(feed.events["candidate_id"].map(variants)):
        groups[f"of variant {variant}"] = rows
    many = [
        f"{rows.sum():,} of {len(rows):,} {group}"
        for group, rows in groups.items()
        if rows.sum() >= N_TELLING and rows.mean() > MANY_TWICE
    ]
    if not many:
        return None
    return (
        f"{feed.query.file}: rows come twice or more, alike in candidate_id, event_date and"
        f" outcome: {', '.join(many)}. All are added up. If a join multiplies them, mend it; if"
        " they are meant, let the query sum them up by candidate and day."
    )


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
    predicted = predictions.find_ids(connection, span.experiment, names[:1000]) if names else set()
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
