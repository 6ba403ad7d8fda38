"""Predictions: staged in chunks, checked and ranked by the database, shown as whole nights."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database.tables import (
    Select,
    feature_counts,
    predictions,
    predictions_staging,
    predictions_superseded,
    runs,
)
from abatch.database.writing import WRITE_ROWS, insert_frame, replace_rows
from abatch.errors import DatabaseError, DataError
from abatch.experiment import split
from abatch.experiment.assignment import Candidates
from abatch.night import DONE, Night
from abatch.statistics import drift
from abatch.statistics.sums import add_by_key, add_by_keys

ModelCounts = Mapping[str, Mapping[str, drift.FeatureCounts]]  # by model_name and feature
MANY_DOUBLES, MOST_DOUBLES = 20, 0.01  # candidates under two ids, and their share, to be told
ROUNDING = 1e-6  # of a prediction, as libraries that reckon in single precision have it
STAGED = list(predictions_staging.columns.keys())


class Span(NamedTuple):
    """Nights of an experiment: those after a day, up to another."""

    experiment: str
    after: date
    last: date

    def select(self, *columns: sa.ColumnElement[Any]) -> Select:
        """The query of columns of the nights' predictions."""
        p = predictions.c
        query = sa.select(*columns).where(p.run_date > self.after, p.run_date <= self.last)
        return query.where(p.experiment == self.experiment)


@dataclass(frozen=True)
class Batch:
    """What is known of staged rows; batches add up.

    Attributes
    ----------
    n_candidates : by variant
    n_filled : by feature, rows in which it is not null
    feature_counts : by model_name and feature, the predictions among them
    earlier_counts : of all rows with a model, by the references of earlier models
    variant_counts : by variant and feature, where variants were recorded elsewhere
    doubles : pairs of ids that may be of one candidate, of the rows of one chunk
    checksum : sum of a hash of each row, modulo 2**64
    """

    n_candidates: Counter[str] = field(default_factory=Counter)
    n_filled: Mapping[str, int] = field(default_factory=dict)
    feature_counts: ModelCounts = field(default_factory=dict)
    earlier_counts: ModelCounts = field(default_factory=dict)
    variant_counts: ModelCounts = field(default_factory=dict)
    doubles: list[tuple[str, str]] = field(default_factory=list)
    checksum: int = 0

    @property
    def n_rows(self) -> int:
        """Of all variants."""
        return self.n_candidates.total()

    def __add__(self, other: "Batch") -> "Batch":
        return Batch(
            self.n_candidates + other.n_candidates,
            add_by_key(self.n_filled, other.n_filled),
            add_by_keys(self.feature_counts, other.feature_counts),
            add_by_keys(self.earlier_counts, other.earlier_counts),
            add_by_keys(self.variant_counts, other.variant_counts),
            [*self.doubles, *other.doubles],
            (self.checksum + other.checksum) % 2**64,
        )


def make_rows(night: Night, candidates: Candidates, inferred: Any) -> pd.DataFrame:
    """Rows of predictions_staging, one per candidate; a prediction without a model is nan.

    Parameters
    ----------
    inferred : model_names and prediction, shape (n,) both
    """
    split = night.experiment.split
    return pd.DataFrame(
        {
            "run_id": night.run_id,
            **night.key,
            "candidate_id": candidates.ids,
            "variant": candidates.variant,
            "assignment_probability": [split[name] for name in candidates.variant],
            "model_name": inferred.model_names,
            "prediction": inferred.prediction,
            "selection_key": candidates.selection_key,
        }
    )


def summarise(rows: pd.DataFrame, candidates: Candidates, inferred: Any) -> Batch:
    """The sums of some rows that are staged, and of the features that they were predicted from.

    Parameters
    ----------
    inferred : feature_counts, earlier_counts and variant_counts, as `Batch` has them
    """
    return Batch(
        Counter(rows["variant"].tolist()),
        candidates.features.notna().sum().to_dict(),
        inferred.feature_counts,
        inferred.earlier_counts,
        inferred.variant_counts,
        candidates.doubles,
        compute_checksum(rows),
    )


def stage(connection: sa.Connection, frame: pd.DataFrame) -> None:
    """Write rows, as `make_rows` has them, to the staging table, where no reader looks."""
    insert_frame(connection, predictions_staging, frame[STAGED])


def describe_doubles(night: Night, total: Batch) -> str | None:
    """A sentence if many candidates seem to be there under two ids; None if all is well."""
    n = len(total.doubles)
    if n < MANY_DOUBLES and n <= MOST_DOUBLES * total.n_rows:
        return None
    one, other = total.doubles[0]
    return (
        f"{night.experiment.query('candidates').file}: {n:,} of {total.n_rows:,} candidates seem to"
        f" be there under two ids, such as {one!r} and {other!r}. Each is predicted, but outcomes"
        " find one of the two, so that rates come out too low. Return one id for each candidate."
    )


def require_candidates(total: Batch, run_date: date) -> None:
    """Raise DataError if there is nobody to predict."""
    if not total.n_rows:
        raise DataError(
            f"returned no candidates for {run_date}. Check the query, and whether the night's table"
            " is loaded."
        )


def count_selected(night: Night, total: Batch) -> dict[str, int]:
    """How many of each variant are selected."""
    name, share = night.experiment.name, night.experiment.select_top
    counts = total.n_candidates.items()
    return {variant: split.count_selected(n, share, name, night.run_date) for variant, n in counts}


def describe(
    experiment: Experiment, total: Batch, n_selected: Mapping[str, int], models: Mapping[str, Any]
) -> str:
    """A night as one line: candidates, model and selected of each variant."""
    variants = [
        f"{variant} {total.n_candidates[variant]}"
        f" ({models[variant].model_name if variant in models else 'no model'},"
        f" {n_selected.get(variant, 0)} selected)"
        for variant in experiment.split
    ]
    return f"{total.n_rows} candidates; {', '.join(variants)}"


def compute_checksum(frame: pd.DataFrame) -> int:
    """Sum of a 64-bit hash of each row's values, to the last bit, modulo 2**64.

    It is the same whatever the order of the rows.
    """
    text = frame[STAGED].drop(columns="prediction").astype(object).map(str, na_action="ignore")
    prediction = frame["prediction"].to_numpy(np.float64) + 0.0  # SQLite keeps -0.0 as 0
    hashes = pd.util.hash_pandas_object(text.assign(prediction=prediction), index=False)
    return int(hashes.sum())


def check_staged(connection: sa.Connection, night: Night, sent: Batch) -> None:
    """Look at all staged rows: they must be there as they were sent, each candidate once.

    Parameters
    ----------
    sent : the sum of all that was given to `stage`

    Raises
    ------
    DatabaseError
        If rows were lost, doubled or changed on the way: drivers have done so in silence (pyodbc's
        issue 1208).
    DataError
        If a candidate is there twice, in the eyes of the database: its collation may take two
        spellings for one.
    """
    own = {"experiment": night.experiment.name, "run_id": night.run_id}
    arrived = Batch()
    query = sa.select(predictions_staging).filter_by(**own)
    for rows in _stream(connection, query, WRITE_ROWS):
        arrived += Batch(Counter(rows["variant"].tolist()), checksum=compute_checksum(rows))
    if arrived.n_rows != sent.n_rows:
        raise DatabaseError(
            f"{sent.n_rows} predictions were sent and {arrived.n_rows} arrived in"
            " predictions_staging. Nothing was published."
        )
    if arrived.checksum != sent.checksum:
        raise DatabaseError(
            f"{sent.n_rows} predictions were sent, and other values arrived in predictions_staging"
            " than were sent. Nothing was published. Look for a trigger on the table; if there is"
            " none, the database's driver changes values: take another version of it."
        )
    candidate_id = predictions_staging.c.candidate_id
    ids = sa.select(sa.func.min(candidate_id).label("candidate_id")).group_by(candidate_id)
    twice = ids.filter_by(**own).having(sa.func.count() > 1).subquery()
    query = sa.select(sa.func.count(), sa.func.min(twice.c.candidate_id))
    n_twice, example = connection.execute(query).one()
    if n_twice:
        raise DataError(
            f"{n_twice} candidates are returned more than once, for example {example!r}. Expected"
            " one row per candidate. Look for a join that multiplies rows, or for ids that differ"
            " only in upper and lower case."
        )


def describe_replaced(connection: sa.Connection, night: Night) -> list[str]:
    """Sentences on candidates of the night as it was published who are not staged as they were.

    A table of candidates from which those have gone who answered would make a variant seem worse,
    one from which they have moved another variant better, and features that are of today and not of
    then all figures. A prediction counts as another if it is of the same model. Empty if none is.
    """
    if night.dry_run:
        return []
    p, s = predictions.c, predictions_staging.c
    same = (s.experiment == p.experiment) & (s.candidate_id == p.candidate_id)
    both = predictions.outerjoin(predictions_staging, same & (s.run_id == night.run_id))
    is_moved = sa.case((s.variant != p.variant, 1))
    is_off = sa.func.abs(s.prediction - p.prediction) > ROUNDING
    is_other = sa.case(((s.model_name == p.model_name) & is_off, 1))
    count = sa.func.count
    of_night = (p.experiment == night.experiment.name, p.run_date == night.run_date)
    query = sa.select(
        count(p.candidate_id), count(s.candidate_id), count(is_moved), count(is_other)
    )
    query = query.select_from(both).where(*of_night)
    n, n_there, n_moved, n_other = connection.execute(query).one()
    file, words = night.experiment.query("candidates").file, []
    if n_there < n or n_moved:
        words.append(
            f"{file}: of the {n:,} candidates of the night as it"
            f" was {n - n_there:,} are gone from those that replace them, and {n_moved:,} have"
            " moved to another variant. If it is those who have answered since, what follows on the"
            " night is wrong: return who was a candidate then, in the variant that he had then."
        )
    if n_other:
        words.append(
            f"{file}: of the {n:,} candidates of the night as it was {n_other:,} have another"
            " prediction now, by the same model: their features have changed. If these are of today"
            " and not of that night, figures and ranks are too good: return them as of :as_of, and"
            " predict again with --force. If they were wrong and are mended, all is well."
        )
    return words


def publish(
    connection: sa.Connection,
    night: Night,
    n_selected: Mapping[str, int],
    predicted_at: datetime,
) -> None:
    """Move a staged night into `predictions`, ranked.

    The night's earlier rows go to `predictions_superseded`.

    Parameters
    ----------
    n_selected : how many of each variant are selected, from the highest prediction down, ties by
        the hash
    """
    own = {"experiment": night.experiment.name, "run_id": night.run_id}
    old = sa.select(predictions, sa.literal(night.run_id)).filter_by(**night.key)
    names = [*predictions.columns.keys(), "superseded_by"]
    connection.execute(predictions_superseded.insert().from_select(names, old))
    connection.execute(predictions.delete().filter_by(**night.key))
    staged = predictions_staging.c
    order = (sa.func.coalesce(staged.prediction, 0).desc(), staged.selection_key)
    rank = sa.func.row_number().over(
        partition_by=staged.variant, order_by=(*order, staged.candidate_id)
    )
    query = sa.select(predictions_staging, rank.label("rank_in_variant"))
    ranked = query.filter_by(**own).subquery().c
    limits = ((ranked.variant == variant, n) for variant, n in n_selected.items())
    is_selected = ranked.rank_in_variant <= sa.case(*limits, else_=0)
    columns = {name: column for name, column in ranked.items() if name in predictions.c} | {
        "selected": sa.case((is_selected, 1), else_=0),
        "predicted_at": sa.literal(predicted_at, predictions.c.predicted_at.type),
    }
    insert = predictions.insert().from_select([*columns], sa.select(*columns.values()))
    connection.execute(insert)
    connection.execute(predictions_staging.delete().filter_by(**own))


def write_feature_counts(
    connection: sa.Connection,
    night: Night,
    counts: ModelCounts,
) -> None:
    """Keep what each model's candidates looked like, in the place of an earlier run's."""
    rows = [
        {
            "model_name": model_name,
            "content": json.dumps({name: asdict(cells) for name, cells in features.items()}),
        }
        for model_name, features in counts.items()
    ]
    replace_rows(connection, feature_counts, rows, night.run_id, **night.key)


def read_feature_counts(
    connection: sa.Connection, experiment: str, from_date: date, last_date: date
) -> ModelCounts:
    """The sums of the counts of the nights from from_date to last_date, both included."""
    c = feature_counts.c
    query = sa.select(c.model_name, c.content).filter_by(experiment=experiment)
    query = query.where(c.run_date.between(from_date, last_date)).order_by(c.run_date)
    counts: ModelCounts = {}
    for model_name, content in connection.execute(query):
        counts = add_by_keys(counts, {model_name: _parse_counts(content)})
    return counts


def read_newest_counts(
    connection: sa.Connection, experiment: str, before: date, n_nights: int
) -> dict[date, ModelCounts]:
    """The counts of the newest nights that were done before a date, the oldest first."""
    r, c = runs.c, feature_counts.c
    done = sa.select(r.run_date).filter_by(experiment=experiment, job="predict", status=DONE)
    newest = done.where(r.run_date < before).order_by(r.run_date.desc()).limit(n_nights)
    nights = sorted(connection.scalars(newest))
    counts: dict[date, ModelCounts] = {night: {} for night in nights}
    query = sa.select(c.run_date, c.model_name, c.content).filter_by(experiment=experiment)
    for night, model_name, content in connection.execute(query.where(c.run_date.in_(nights))):
        counts[night] = {**counts[night], model_name: _parse_counts(content)}
    return counts


def read_sizes(
    connection: sa.Connection, experiment: str, before: date, n_nights: int
) -> dict[date, int]:
    """How many candidates the newest nights had that were done before a date."""
    r = runs.c
    query = sa.select(r.run_date, r.rows_written).where(r.run_date < before)
    done = query.filter_by(experiment=experiment, job="predict", status=DONE)
    rows = connection.execute(done.order_by(r.run_date.desc()).limit(n_nights))
    return {night: n for night, n in rows}


def _parse_counts(content: str) -> dict[str, drift.FeatureCounts]:
    """By feature, as `write_feature_counts` has them."""
    return {name: drift.FeatureCounts(**cells) for name, cells in json.loads(content).items()}


def find_run_ids(connection: sa.Connection, span: Span) -> set[tuple[date, str]]:
    """Who wrote each night."""
    query = span.select(predictions.c.run_date, predictions.c.run_id).distinct()
    return {(run_date, run_id) for run_date, run_id in connection.execute(query)}


def count_by_night(connection: sa.Connection, span: Span) -> dict[tuple[date, str], int]:
    """Predictions by night and variant."""
    by = (predictions.c.run_date, predictions.c.variant)
    rows = connection.execute(span.select(*by, sa.func.count()).group_by(*by))
    return {(night, variant): n for night, variant, n in rows}


def find_ids(connection: sa.Connection, experiment: str, ids: Sequence[str]) -> set[str]:
    """Which of these candidates, letter for letter, were ever predicted.

    At most some 1,000 at once.
    """
    c = predictions.c
    query = sa.select(c.candidate_id).where(c.experiment == experiment, c.candidate_id.in_(ids))
    return set(connection.scalars(query.distinct())) & set(ids)


PREDICTED = {
    "run_date": "datetime64[s]",
    "candidate_id": "str",
    "variant": "str",
    "model_name": object,
    "prediction": np.float64,
    "selected": np.int64,
}


def stream_predictions(
    connection: sa.Connection, span: Span, chunk_rows: int
) -> Iterator[pd.DataFrame]:
    """Predictions in chunks and in no order, one row per candidate and night."""
    query = span.select(*(predictions.c[name] for name in PREDICTED))
    for rows in _stream(connection, query, chunk_rows):
        yield rows.astype(PREDICTED)


def read_replaced(connection: sa.Connection, span: Span) -> pd.DataFrame:
    """Who is not there as when a night was first done, and who is there that was not.

    Returns
    -------
    DataFrame of candidate_id, variant, run_date and is_gone: 1 if he was there, 0 if he is now
    """
    c = predictions_superseded.c
    of_span = (c.experiment == span.experiment, c.run_date > span.after, c.run_date <= span.last)
    first = sa.select(sa.func.min(c.run_id)).where(*of_span).group_by(c.run_date)
    run_ids = connection.scalars(first).all()  # which begin with when they were begun
    old = sa.select(predictions_superseded).where(c.run_id.in_(run_ids)).subquery()
    frames = []
    for table, other, is_gone in ((old, predictions, 1), (predictions, old, 0)):
        names = ("experiment", "run_date", "candidate_id", "variant")
        is_there = sa.exists().where(*(other.c[name] == table.c[name] for name in names))
        query = sa.select(table.c.candidate_id, table.c.variant, table.c.run_date).distinct()
        query = query.where(table.c.experiment == span.experiment, ~is_there)
        rows = connection.execute(query.where(table.c.run_date.in_(sa.select(old.c.run_date))))
        frame = pd.DataFrame.from_records([*map(tuple, rows)], columns=[*rows.keys()])
        frames.append(
            frame.astype({name: PREDICTED[name] for name in frame}).assign(is_gone=is_gone)
        )
    return pd.concat(frames, ignore_index=True)


def _stream(connection: sa.Connection, query: Select, chunk_rows: int) -> Iterator[pd.DataFrame]:
    rows = connection.execute(query, execution_options={"yield_per": chunk_rows})
    for part in rows.partitions():
        yield pd.DataFrame.from_records(map(tuple, part), columns=[*rows.keys()])
