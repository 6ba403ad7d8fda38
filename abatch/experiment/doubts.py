"""Doubts: nights whose outcomes look as if they were not whole, not right, or found twice.

What came of each night is kept, closed ones too, and each is held against those before it. So what
is doubted follows from the record: it stays while nothing has changed, and goes when it has.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import compress
from typing import NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.database import tables
from abatch.database.tables import Row
from abatch.database.writing import replace_rows
from abatch.errors import DataError
from abatch.experiment import doubt_rules, outcomes, predictions
from abatch.experiment.doubt_rules import (
    ADDED,
    ADDED_FOUND,
    BELOW,
    BEYOND,
    FOUND,
    GONE,
    GONE_FOUND,
    LOGS,
    N_FIGURES,
    N_TELLING,
    PASSES,
    REPLACED,
    ROWS,
    SQUARES,
    TOLD,
    TWICE,
    N,
)
from abatch.experiment.outcomes import Feed, Metric
from abatch.experiment.predictions import Span
from abatch.experiment.registrations import OUTCOME, Plan
from abatch.night import Night
from abatch.queries import Query
from abatch.statistics import scan
from abatch.text import list_days

N_KEPT, N_SCANNED = 365, 180  # the newest nights
N_ASKED = 1000  # ids, in one query
N_TWINS = 3  # ids that are no accident, if they look like those of candidates
SAME = 0.05  # of a number: what may be corrected without being another
Key = tuple[str, str]  # feed and variant


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
    """Nights on end, of a feed and a variant, that are doubted.

    Attributes
    ----------
    nights : array of int, ordinals of days
    kind : why, in few words
    words : a sentence
    n, n_found, log_sum : predictions of these nights, those with an outcome, and the sum of log |y|
    """

    metric: str
    variant: str
    nights: np.ndarray
    kind: str
    words: str
    n: float
    n_found: float
    log_sum: float


def make_record(
    feeds: Sequence[Feed],
    told: np.ndarray,
    exposures: pd.DataFrame,
    replaced: pd.DataFrame,
    nights: Sequence[date],
    variants: Sequence[str],
    window_days: int,
) -> Record:
    """Count what came of nights.

    Parameters
    ----------
    told : array, shape (n_nights, n_feeds), events in each night's window
    exposures : candidate_id, variant, run_date and a column for each feed, one row per prediction
    replaced : the same of predictions that were replaced, and of those in their place, with is_gone
    """
    days, figures = pd.DatetimeIndex(nights), {}
    for i, feed in enumerate(feeds):
        parts = _count_amounts(exposures, feed, window_days)
        is_gone, found = replaced["is_gone"] == 1, replaced[feed.name].to_numpy(float) != 0
        changed = {GONE: is_gone, GONE_FOUND: is_gone & found}
        changed |= {ADDED: ~is_gone, ADDED_FOUND: ~is_gone & found}
        for variant in variants:
            counted = np.zeros((len(days), N_FIGURES))
            for frame, rows in ((parts, exposures), (pd.DataFrame(changed), replaced)):
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
    is_beyond = np.abs(y) >= (feed.metric.cap or np.inf)
    parts = {N: 1.0, FOUND: y != 0, LOGS: log, SQUARES: log**2, BELOW: y < 0, BEYOND: is_beyond}
    return pd.DataFrame({**parts, ROWS: n_rows, TWICE: n_twice}, dtype=float)


def join(closed: Record, new: Record) -> Record:
    """The newest nights of both."""
    figures = {}
    for key, of_new in new.figures.items():
        before = closed.figures.get(key, np.zeros((len(closed.nights), N_FIGURES)))
        figures[key] = np.concatenate([before, of_new])[-N_KEPT:]
    nights = np.concatenate([closed.nights, new.nights])[-N_KEPT:]
    return Record(nights, figures or closed.figures)


def pack(record: Record) -> dict[str, np.ndarray]:
    """As arrays by name, to be stored."""
    figures = {f"record.{'.'.join(key)}": array for key, array in record.figures.items()}
    return {"record": record.nights, **figures}


def unpack(arrays: Mapping[str, np.ndarray]) -> Record:
    """The inverse of `pack`; no night if there are no arrays."""
    figures = {}
    for name, array in arrays.items():
        of, *key = name.split(".")
        if of == "record" and len(key) == 2:
            figures[key[0], key[1]] = array
    return Record(arrays.get("record", np.zeros(0, dtype=int)), figures)


def find_doubts(
    record: Record,
    metrics: Mapping[str, tuple[Metric, Query]],
    plan: Plan,
    times: float,
    acknowledged: Sequence[Row] = (),
    earlier: Sequence[Row] = (),
) -> list[Doubt]:
    """Nights whose outcomes are unlike those of the nights before, and hardly by chance.

    Parameters
    ----------
    metrics : each feed's, by name, with its query
    times : how often one candidate, and so one outcome, is among the predictions
    acknowledged : rows of `acknowledgements`, which hold while their nights are as they were; where
        they were the newest nights, later ones that are like them are right, too
    earlier : rows of `doubts` of the look before, which stay while their nights are as they were
    """
    figures = {key: array for key, array in record.figures.items() if key[0] in metrics}
    trusted = {key: array.copy() for key, array in figures.items()}
    newest = np.arange(len(record.nights)) >= len(record.nights) - N_SCANNED
    left = {key: newest.copy() for key in figures}
    known = [row for row in acknowledged if _is_same(record, row)]
    doubts: list[Doubt] = []
    for names in PASSES:
        for key, own in trusted.items():
            name, (metric, query) = key[0], metrics[key[0]]
            beside = [other for other in trusted if other[0] == name and other != key]
            others = sum((trusted[other] for other in beside), np.zeros_like(own))
            by_plan = plan if name == OUTCOME else None
            rules = doubt_rules.make_rules(own, left[key], by_plan, times)
            are_used = [
                metric.kind == "numeric" or kind not in doubt_rules.OF_AMOUNTS for kind in names
            ]
            used = {kind: rules[kind] for kind in compress(names, are_used)}
            settled = {kind: _mark(record, key, kind, known) for kind in used}
            for kind in settled.keys() & doubt_rules.BESIDE:
                settled[kind] |= np.any([~left[other] for other in beside], axis=0)
            if REPLACED in settled:
                settled[REPLACED] |= own[:, GONE] + own[:, ADDED] == 0
            lasting = [row for row in known if row.is_ongoing]
            right = {kind: _mark(record, key, kind, lasting) for kind in used}
            both = np.hstack([figures[key], others])
            for found in scan.find_runs(both, used, left[key], settled, right):
                days = list_days(_to_days(record.nights[found.nights]))
                words = doubt_rules.describe(found, key[1], days, by_plan)
                doubts += _make(record, key, found.nights, found.rule, f"{query.file}: {words}")
            own[newest & ~left[key]] = 0  # is no measure for others
    kept = [row for row in earlier if _is_same(record, row)]
    return [*doubts, *_keep(record, kept, doubts, known)]


def _make(record: Record, key: Key, rows: np.ndarray, kind: str, words: str) -> Iterator[Doubt]:
    """A doubt for each part of nights on end."""
    for part in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
        sums = record.figures[key][part].sum(axis=0)[[N, FOUND, LOGS]].tolist()
        yield Doubt(*key, record.nights[part], kind, words, *sums)


def _find_nights(record: Record, row: Row) -> np.ndarray:
    """Which nights of the record a row of `doubts`, or of `acknowledgements`, is about."""
    first, last = row.from_date.toordinal(), row.to_date.toordinal()
    return (record.nights >= first) & (record.nights <= last)


def _is_same(record: Record, row: Row) -> bool:
    """Whether as much has come of a row's nights as then, but for small corrections."""
    figures = record.figures.get((row.metric, row.variant))
    if figures is None:
        return False
    n, n_found, log_sum = figures[_find_nights(record, row)].sum(axis=0)[[N, FOUND, LOGS]]
    moved = log_sum / max(n_found, 1) - row.log_sum / max(row.n_found, 1)
    is_as_many = abs(n_found - row.n_found) <= SAME * max(row.n_found, n_found)
    return bool(n == row.n and is_as_many and abs(moved) <= SAME)


def _mark(record: Record, key: Key, kind: str, rows: Sequence[Row]) -> np.ndarray:
    """The nights of rows whose kind is alike."""
    alike = next(kinds for kinds in doubt_rules.ALIKE if kind in kinds)
    marked = np.zeros(len(record.nights), dtype=bool)
    for row in rows:
        if (row.metric, row.variant) == key and row.kind in alike:
            marked |= _find_nights(record, row)
    return marked


def _keep(
    record: Record, earlier: Sequence[Row], doubts: Sequence[Doubt], known: Sequence[Row]
) -> Iterator[Doubt]:
    """Nights that were doubted at the look before, and now are neither so nor acknowledged."""
    now = gather(doubts)
    for row in earlier:
        key = row.metric, row.variant
        others = ~np.isin(record.nights, now.get(key, []))
        rows = np.flatnonzero(
            _find_nights(record, row) & others & ~_mark(record, key, row.kind, known)
        )
        yield from _make(record, key, rows, row.kind, row.words) if len(rows) else ()


def gather(doubts: Sequence[Doubt]) -> dict[Key, np.ndarray]:
    """The nights that are doubted, by feed and variant."""
    nights: dict[Key, np.ndarray] = {}
    for doubt in doubts:
        key = doubt.metric, doubt.variant
        nights[key] = np.union1d(nights.get(key, doubt.nights), doubt.nights)
    return nights


def find_news(record: Record, doubts: Sequence[Doubt], earlier: Sequence[Row]) -> list[Doubt]:
    """Doubts, one for each sentence, that take in a night that was not doubted before."""
    news = {}
    for doubt in doubts:
        key = doubt.metric, doubt.variant
        told = [
            record.nights[_find_nights(record, row)]
            for row in earlier
            if (row.metric, row.variant) == key
        ]
        if not np.isin(doubt.nights, np.concatenate([[], *told])).all():
            news[doubt.words] = doubt
    return [*news.values()]


def describe(doubts: Sequence[Doubt]) -> str | None:
    """Which nights are doubted, all of them, by feed and variant, and why; None if none is."""
    words = [
        f"{doubt.metric} of {doubt.variant}: {list_days(_to_days(doubt.nights), None)}"
        f" ({doubt.kind})"
        for doubt in doubts
    ]
    return "; ".join(words) or None


def _to_days(nights: np.ndarray) -> list[date]:
    return [*map(date.fromordinal, nights.tolist())]


def write(connection: sa.Connection, night: Night, doubts: Sequence[Doubt]) -> None:
    """Write what a look doubts, in the place of what it doubted before."""
    rows = []
    for doubt in doubts:
        days = _to_days(doubt.nights[[0, -1]])
        row = {name: value for name, value in doubt._asdict().items() if name != "nights"}
        rows.append({**row, "from_date": days[0], "to_date": days[1]})
    replace_rows(connection, tables.doubts, rows, night.run_id, **night.key)


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
    if len(others) < N_TWINS:  # as many may be alike by chance
        are_many = min(len(found), len(variants)) >= N_TELLING
        if (
            are_many
            and n_alike.empty  # else they have a form in common
            and _find_forms(found).isdisjoint(_find_forms(variants.index.to_series()))
        ):
            return (
                f"{feed.query.file}: none of {len(found)} ids with an outcome, such as"
                f" {found.iloc[0]!r}, is written as one of the {len(variants)} that were"
                f" predicted, such as {variants.index[0]!r}. Return ids as the candidates query"
                " does."
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


def _find_forms(ids: pd.Series) -> set[str]:
    """Ids with 9 for digits and a for letters, however many."""
    texts = ids.astype(str).str.replace(r"\d+", "9", regex=True)
    return {*texts.str.replace(r"[A-Za-z]+", "a", regex=True)}
