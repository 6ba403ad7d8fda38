"""Corrections: outcomes that change after their night was closed.

What the feeds said of each closed night is kept beside its cohort's sums. Each score asks again for
one cohort, in turn, and compares; only where a feed differs are predictions read again.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from zlib import crc32

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.database.tables import cohort_sums
from abatch.errors import DataError
from abatch.experiment import outcomes, predictions, scores
from abatch.experiment.outcomes import Feed
from abatch.experiment.predictions import Span
from abatch.experiment.registrations import Registration
from abatch.experiment.scores import Key
from abatch.night import DAY, Night
from abatch.text import list_days

N_MANY = 20  # outcomes, which do not all vanish by corrections
MENDS = {
    "warn": "The verdicts stand on what was counted. To count again: python score.py --rebuild"
    " --force. To let score do so by itself: outcome.corrections: rebuild.",
    "rebuild": "All nights are read again now, as outcome.corrections says.",
}
Arrays = dict[str, np.ndarray]


def condense(feeds: Sequence[Feed], nights: Sequence[date], window_days: int) -> np.ndarray:
    """What feeds say of nights, of whomever.

    Returns
    -------
    array of float, shape (n_nights, n_feeds, 3)
        Of the events in each night's window, as `_add_up` counts them.
    """
    days = pd.DatetimeIndex(nights)
    figures = np.zeros((len(nights), len(feeds), 3))
    for i, feed in enumerate(feeds):
        sums = _add_up(feed.events, "event_date", "outcome")
        for j, day in enumerate(days):
            inside = (sums.index >= day) & (sums.index < day + window_days * DAY)
            figures[j, i] = sums.to_numpy()[inside].sum(axis=0)
    return figures


def count(
    rows: pd.DataFrame, nights: Sequence[date], metrics: Sequence[str], variants: Sequence[str]
) -> np.ndarray:
    """What came of the predictions of nights, as `condense`, with an axis of variants before last.

    Nan for a night without any. Nights before an experiment's start, made up for later, have none
    that verdicts count.

    Parameters
    ----------
    rows : candidate_id, variant, run_date and a column for each metric, one row per prediction
    """
    days = pd.DatetimeIndex(nights)
    figures = np.full((len(nights), len(metrics), len(variants), 3), np.nan)
    rows = rows[rows["run_date"].isin(days)]
    figures[days.isin(rows["run_date"])] = 0
    for i, metric in enumerate(metrics):
        for j, variant in enumerate(variants):
            of_variant = rows[(rows["variant"] == variant) & (rows[metric] != 0)]
            sums = _add_up(of_variant, "run_date", metric)
            figures[days.get_indexer(sums.index), i, j] = sums
    return figures


def _add_up(rows: pd.DataFrame, day: str, amount: str) -> pd.DataFrame:
    """By day: how many, their sum, and a sum weighted by candidate, which tells them apart."""
    weights = np.array([crc32(name.encode()) for name in rows["candidate_id"]], float) / 2**32
    amounts = rows[amount].to_numpy(dtype=float)
    parts = pd.DataFrame({"n": np.ones(len(rows)), "sum": amounts, "weighted": weights * amounts})
    return parts.groupby(pd.DatetimeIndex(rows[day])).sum()


def make(
    night: Night,
    nights: Sequence[date],
    told: np.ndarray,
    exposures: pd.DataFrame,
    metrics: Sequence[str],
) -> Arrays:
    """What is kept of nights that are being closed, by name, one element for each.

    Attributes
    ----------
    nights, closed_on, read_on : ordinals of days: of the nights, and when their outcomes were
        counted, and last asked for again
    told, counted, found : what the feeds last said; what is in the sums, by variant; what would be
        in them now
    """
    counted = count(exposures, nights, metrics, [*night.experiment.split])
    days = np.array([day.toordinal() for day in nights])
    today = np.full(len(nights), night.run_date.toordinal())
    values = {"told": told, "counted": counted, "found": counted}
    return {"nights": days, "closed_on": today, "read_on": today, **values}


def add(connection: sa.Connection, experiment: str, key: Key, new: Arrays) -> Arrays:
    """The nights of a cohort that are closed, with more of them."""
    earlier = scores.load(connection, experiment, key)
    if not earlier:
        return new
    return {name: np.concatenate([earlier[name], array]) for name, array in new.items()}


def find_changed(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Whether outcomes have changed; shape (n_nights, n_feeds, n_variants)."""
    return _differ(arrays["counted"], arrays["found"])


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each three of figures; sums may differ in their last digits, by the order of terms."""
    return ~np.isclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True).all(axis=-1)


def find_date(connection: sa.Connection, experiment: str) -> date | None:
    """The day as of which outcomes are counted, if some have changed since; None if none has."""
    closed_on = [
        int(arrays["closed_on"][is_changed].min())
        for arrays in _load_cohorts(connection, experiment, date.min).values()
        if (is_changed := find_changed(arrays).any(axis=(1, 2))).any()
    ]
    return date.fromordinal(min(closed_on)) if closed_on else None


def _load_cohorts(
    connection: sa.Connection, experiment: str, since: date
) -> dict[Key, Mapping[str, np.ndarray]]:
    """What `make` and `add` keep of the cohorts, each array read when it is asked for."""
    c = cohort_sums.c
    query = sa.select(c.cohort, c.content)
    query = query.filter_by(experiment=experiment, variant="", model_name="")
    query = query.where(c.cohort != scores.ALL, c.closed_date >= since).order_by(c.cohort)
    rows = connection.execute(query)
    return {Key(cohort, ""): scores.open_arrays(content) for cohort, content in rows}


def reread(night: Night, registration: Registration) -> bool:
    """Ask the feeds again for the closed cohort that was asked for longest ago, and tell changes.

    Returns
    -------
    bool
        Whether outcomes have changed, the config wants the sums to be rebuilt then, and nothing
        would be lost.
    """
    experiment, outcome = night.experiment, night.experiment.outcome
    since = night.run_date - outcome.corrections_days * DAY
    cohorts = night.read(_load_cohorts, experiment.name, since)
    if not cohorts or outcome.corrections_days == 0 or night.is_early:
        return False
    key = min(cohorts, key=lambda key: (cohorts[key]["read_on"].min(), key.cohort))
    before = dict(cohorts[key])
    nights, feeds, told = _ask(night, before)
    for i, feed in enumerate(feeds):
        gone = _find_forgotten(before["told"][:, i], told[:, i])
        if gone.any():
            last = nights[int(np.flatnonzero(gone).max())]
            night.warn(
                f"{feed.query.file}: returns nothing any more for closed nights until {last}, of"
                f" which it told {before['told'][gone, i, 0].sum():,.0f} outcomes. Their figures"
                f" stay. If it keeps outcomes for less than {outcome.corrections_days} days, set"
                " outcome.corrections_days to that."
            )
            # Of the next windows it may have forgotten a part.
            kept = np.array([day < last + outcome.window_days * DAY for day in nights])
            told[kept, i] = before["told"][kept, i]
    found = before["found"].copy()
    differs = np.any(_differ(told, before["told"]), axis=1)
    if differs.any():
        others = [day for day, differs_ in zip(nights, differs, strict=True) if differs_]
        found[differs] = night.read(_count_anew, night, registration, feeds, others)
        for i, j, gone in _iterate_forgotten(before["found"], found):
            night.warn(
                f"{feeds[i].query.file}: returns nothing any more for predictions of variant"
                f" {[*experiment.split][j]} in closed nights until"
                f" {nights[int(np.flatnonzero(gone).max())]}, of which"
                f" {before['found'][gone, i, j, 0].sum():,.0f} had an outcome. Their figures stay."
                " Look whether the feed is whole for every variant."
            )
            found[gone, i, j], told[gone, i] = before["found"][gone, i, j], before["told"][gone, i]
    today = np.full(len(nights), night.run_date.toordinal())
    after = {**before, "told": told, "found": found, "read_on": today}
    night.write(_store, night, key, before, after)
    is_news = find_changed(after) & _differ(found, before["found"])
    is_rebuilt, mend = False, MENDS["warn"]
    if outcome.corrections == "rebuild" and night.read(find_date, experiment.name):
        try:
            require_feeds(night, registration)
            is_rebuilt, mend = True, MENDS["rebuild"]
        except DataError as refusal:
            mend = f"They are not counted again: {refusal}"
    for i, feed in enumerate(feeds):
        if is_news[:, i].any():
            words = _describe(feed, nights, after, is_news[:, i], i, [*experiment.split])
            night.warn(f"{words} {mend}")
    return is_rebuilt


def _ask(
    night: Night, arrays: Mapping[str, np.ndarray]
) -> tuple[list[date], list[Feed], np.ndarray]:
    """The nights of a closed cohort, what the feeds return of them now, and that condensed."""
    nights = [date.fromordinal(day) for day in arrays["nights"].tolist()]
    feeds = outcomes.pull_feeds(night, nights)
    return nights, feeds, condense(feeds, nights, night.experiment.outcome.window_days)


def _find_forgotten(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Nights of which a feed, that told of many, tells nothing any more: no correction does that.

    Parameters
    ----------
    before, now : arrays, shape (n_nights, 3), as `condense` has them of a feed
    """
    gone = (before[:, 0] > 0) & (now[:, 0] == 0)
    return gone & (before[gone, 0].sum() >= N_MANY)


def _iterate_forgotten(
    before: np.ndarray, now: np.ndarray
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Feed and variant, by number, and the nights of which nothing is found any more."""
    for i in range(before.shape[1]):
        for j in range(before.shape[2]):
            gone = _find_forgotten(before[:, i, j], now[:, i, j])
            if gone.any():
                yield i, j, gone


def require_feeds(night: Night, registration: Registration) -> None:
    """Raise DataError if a feed has forgotten outcomes of the oldest closed cohort.

    Whoever counts everything anew would lose them.
    """
    cohorts = night.read(_load_cohorts, night.experiment.name, date.min)
    for arrays in list(cohorts.values())[:1]:
        nights, feeds, _ = _ask(night, arrays)
        found = night.read(_count_anew, night, registration, feeds, nights)
        for i, j, gone in _iterate_forgotten(arrays["found"], found):
            raise DataError(
                f"{feeds[i].query.file}: returns nothing any more for predictions of variant"
                f" {[*night.experiment.split][j]} in nights from"
                f" {nights[int(np.flatnonzero(gone).min())]} on, of which"
                f" {arrays['found'][gone, i, j, 0].sum():,.0f} had an outcome. To count again would"
                " lose them, so nothing was changed. Let the query return them."
            )


def _count_anew(
    connection: sa.Connection,
    night: Night,
    registration: Registration,
    feeds: Sequence[Feed],
    nights: Sequence[date],
) -> np.ndarray:
    experiment = night.experiment
    metrics = [feed.name for feed in feeds]
    kept = [pd.DataFrame(columns=["candidate_id", "variant", "run_date", *metrics])]
    span = Span(experiment.name, nights[0] - DAY, nights[-1])
    chunk_rows = experiment.environment.chunk_rows
    for rows in predictions.stream_predictions(connection, span, chunk_rows):
        outcomes.attach_all(rows, feeds, experiment.outcome.window_days)
        kept.append(rows[rows["run_date"] >= pd.Timestamp(registration.start_date)])
    return count(pd.concat(kept), nights, metrics, [*experiment.split])


def _store(
    connection: sa.Connection, night: Night, key: Key, before: Arrays, after: Arrays
) -> None:
    """Keep what was found, unless the sums were dropped or added to meanwhile."""
    scores.lock_nights(connection, night.experiment.name)
    now = scores.load(connection, night.experiment.name, key)
    if now and np.array_equal(now["nights"], before["nights"]):
        last = date.fromordinal(int(after["nights"].max()))
        scores.save(connection, night, {key: after}, last)


def _describe(
    feed: Feed,
    nights: Sequence[date],
    arrays: Arrays,
    is_news: np.ndarray,
    i: int,
    variants: Sequence[str],
) -> str:
    """What has changed of one feed, the i-th; is_news has shape (n_nights, n_variants)."""
    in_nights: np.ndarray = np.any(is_news, axis=1)
    named = list_days([day for day, differs in zip(nights, in_nights, strict=True) if differs])
    as_of = date.fromordinal(int(arrays["closed_on"][in_nights].min()))
    words = []
    for j, variant in enumerate(variants):
        counted, found = (arrays[name][is_news[:, j], i, j].sum(0) for name in ("counted", "found"))
        if not is_news[:, j].any():
            continue
        if np.isnan(found).any():
            words = ["the predictions are no longer in the table, so by how much cannot be told"]
            break
        what = f"{counted[0]:,.0f} before and {found[0]:,.0f} now"
        if np.allclose(found[:2], counted[:2], rtol=1e-9):
            what = f"{counted[0]:,.0f} as before, but of other candidates or nights"
        elif feed.metric.kind == "numeric":
            what += f", whose amounts sum to {counted[1]:,.6g} and {found[1]:,.6g}"
        words.append(f"of {variant} {what}")
    return (
        f"{feed.query.file}: outcomes of the closed nights {named} have changed since they were"
        f" counted as of {as_of}; predictions with an outcome: {'; '.join(words)}."
    )
