"""Predictions: written in bulk under the run's number, shown as whole nights of runs done."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database import faults, reading, tables, writing
from abatch.database.tables import (
    Select,
    feature_counts,
    prediction_rows,
    prediction_shares,
    runs,
)
from abatch.errors import DatabaseError, DataError
from abatch.experiment import split
from abatch.experiment.assignment import Candidates
from abatch.night import DAY, DONE, EARLY, Night
from abatch.queries import Query, Window
from abatch.statistics import drift
from abatch.statistics.sums import add_by_key, add_by_keys

ModelCounts = Mapping[str, Mapping[str, drift.FeatureCounts]]  # by model_name and feature
MANY_DOUBLES, MOST_DOUBLES = 20, 0.01  # candidates under two ids, and their share, to be told
ROUNDING = 1e-6  # of a prediction, as libraries that reckon in single precision have it
HASHED = {
    "candidate_id": "str",
    "variant": "category",
    "model_name": "category",
    "prediction": np.float64,
}


_NIGHTS = runs.join(prediction_rows, prediction_rows.c.run_number == runs.c.run_number)
# Those that are yet to come, too: whoever asks for days until today has none of them.
SHOWN = (DONE, EARLY)
_IS_DONE = (runs.c.job == "predict") & runs.c.status.in_(SHOWN)


class Span(NamedTuple):
    """Nights of an experiment: those after a day, up to another."""

    experiment: str
    after: date
    last: date

    def select(self, *columns: sa.ColumnElement[Any]) -> Select:
        """The query of columns of `runs` and `prediction_rows`, of the nights that are done."""
        query = sa.select(*columns).select_from(_NIGHTS).where(_IS_DONE)
        return query.where(*self.get_conditions())

    def get_conditions(self) -> list[sa.ColumnElement[bool]]:
        """What holds of the runs of these nights, whatever their job."""
        r = runs.c
        between = [r.run_date > self.after, r.run_date <= self.last]
        return [*between, r.experiment == self.experiment]


@dataclass(frozen=True)
class Batch:
    """What is known of candidates; batches add up.

    Attributes
    ----------
    n_candidates : by variant
    n_filled : by feature, rows in which it is not null
    feature_counts : by model_name and feature, the predictions among them
    earlier_counts : of all rows with a model, by the references of earlier models
    variant_counts : by variant and feature, where variants were recorded elsewhere
    doubles : pairs of ids that may be of one candidate, of the rows of one chunk
    """

    n_candidates: Counter[str] = field(default_factory=Counter)
    n_filled: Mapping[str, int] = field(default_factory=dict)
    feature_counts: ModelCounts = field(default_factory=dict)
    earlier_counts: ModelCounts = field(default_factory=dict)
    variant_counts: ModelCounts = field(default_factory=dict)
    doubles: list[tuple[str, str]] = field(default_factory=list)

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
        )


def summarise(candidates: Candidates, inferred: Any) -> Batch:
    """The sums of some candidates, and of the features that they were predicted from.

    Parameters
    ----------
    inferred : feature_counts, earlier_counts and variant_counts, as `Batch` has them
    """
    return Batch(
        Counter(candidates.variant.tolist()),
        candidates.features.notna().sum().to_dict(),
        inferred.feature_counts,
        inferred.earlier_counts,
        inferred.variant_counts,
        candidates.doubles,
    )


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
    n = total.n_rows
    return f"{n} candidate{'s' * (n != 1)}; {', '.join(variants)}"


def write_rows(night: Night, n_rows: int, batches: Iterable[pa.RecordBatch]) -> None:
    """Write a night's rows in bulk, where no reader looks until the run is done, and read them.

    Parameters
    ----------
    n_rows : of all batches
    batches : as `Spool.rank` has them

    Raises
    ------
    DataError
        If the database takes two candidates for one, by its collation.
    DatabaseError
        If rows were lost, doubled or changed on the way: drivers have done so in silence (pyodbc's
        issue 1208).
    """
    checksum = 0
    try:
        with night.open_loader(prediction_rows, "candidate_id", n_rows) as load:
            for batch in batches:
                load(batch)
                checksum = (checksum + compute_checksum(batch.to_pandas())) % 2**64
    except sa.exc.IntegrityError as error:
        raise DataError(
            "candidates are returned more than once in the eyes of the database, whose"
            f" collation may take two spellings for one ({faults.describe(error)}). Expected"
            " one row per candidate. Look for ids that differ only in upper and lower case."
        ) from error
    if night.dry_run:
        return
    n_arrived, arrived = _read_back(night)
    _require_all(n_arrived, n_rows)
    if arrived != checksum:
        raise DatabaseError(
            f"{n_rows} predictions were sent, and other values arrived in prediction_rows than were"
            " sent. Nothing was published. Look for a trigger on the table; if there is none, the"
            " database's driver changes values: take another version of it."
        )


def require_rows(connection: sa.Connection, night: Night, n_rows: int) -> None:
    """Raise DatabaseError unless the night's rows are still there.

    A server that has crashed, or another in its place, may have forgotten what was committed.
    """
    own = sa.select(sa.func.count()).select_from(prediction_rows)
    _require_all(connection.scalar(own.filter_by(run_number=night.run_number)) or 0, n_rows)


def _require_all(n_arrived: int, n_sent: int) -> None:
    if n_arrived != n_sent:
        raise DatabaseError(
            f"{n_sent} predictions were sent and {n_arrived} arrived in prediction_rows. Nothing"
            " was published."
        )


def _read_back(night: Night) -> tuple[int, int]:
    """How many rows the night has, and their checksum; read as the user's queries are."""
    name = night.read(writing.name_table, prediction_rows)
    columns = ", ".join(prediction_rows.columns.keys())
    sql = f"select {columns} from {name} where run_number = {night.run_number}"
    n_rows, checksum = 0, 0
    for rows in night.stream(Query(name, sql), Window(night.run_date, night.run_date + DAY)):
        n_rows += len(rows)
        checksum = (checksum + compute_checksum(rows)) % 2**64
    return n_rows, checksum


def compute_checksum(rows: pd.DataFrame) -> int:
    """Sum of a 64-bit hash of each row's values, to the last bit, modulo 2**64.

    It is the same whatever the order of the rows.
    """
    rows = rows.astype(HASHED)
    rows["prediction"] += 0.0  # SQLite keeps -0.0 as 0
    return int(pd.util.hash_pandas_object(rows, index=False, categorize=False).sum())


def remove_dead(night: Night) -> None:
    """Delete the rows of runs that failed or were forgotten, in batches; nobody has seen them."""
    for run_number in night.read(_find_dead, night.experiment.name) + night.read(_find_forgotten):
        key = {"run_number": run_number}
        while last := night.read(writing.find_batch, prediction_rows, key):
            night.write(writing.delete_batch, prediction_rows, key, last)


def describe_replaced(connection: sa.Connection, night: Night) -> list[str]:
    """Sentences on candidates of the night as it was published who are not written as they were.

    A table of candidates from which those have gone who answered would make a variant seem worse,
    one from which they have moved another variant better, and features that are of today and not of
    then all figures. A prediction counts as another if it is of the same model. Empty if none is.
    """
    old, new = prediction_rows.alias().c, prediction_rows.alias().c
    run_number = connection.scalar(
        sa.select(runs.c.run_number).filter_by(job="predict", **night.key).where(_IS_DONE)
    )
    if run_number is None or night.dry_run:
        return []
    same = (new.candidate_id == old.candidate_id) & (new.run_number == night.run_number)
    both = old.candidate_id.table.outerjoin(new.candidate_id.table, same)
    is_moved = sa.case((new.variant != old.variant, 1))
    is_off = sa.func.abs(new.prediction - old.prediction) > ROUNDING
    is_other = sa.case(((new.model_name == old.model_name) & is_off, 1))
    count = sa.func.count
    query = sa.select(
        count(old.candidate_id), count(new.candidate_id), count(is_moved), count(is_other)
    )
    query = query.select_from(both).where(old.run_number == run_number)
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


def _find_dead(connection: sa.Connection, experiment: str) -> list[int]:
    own = prediction_rows.c.run_number == runs.c.run_number
    query = sa.select(runs.c.run_number).filter_by(
        experiment=experiment, job="predict", status="failed"
    )
    return [*connection.scalars(query.where(sa.exists().where(own)))]


def _find_forgotten(connection: sa.Connection) -> list[int]:
    """Run numbers of rows above those of all runs.

    A server that crashed, or another in its place, may have forgotten that a run was begun, and the
    next would take its number.
    """
    last = sa.select(sa.func.coalesce(sa.func.max(runs.c.run_number), 0)).scalar_subquery()
    number = prediction_rows.c.run_number
    later = {*connection.scalars(sa.select(number).where(number > last).distinct())}
    # One may have been begun while this was read.
    begun = sa.select(runs.c.run_number).where(runs.c.run_number.in_(later))
    return sorted(later.difference(connection.scalars(begun))) if later else []


def write_shares(connection: sa.Connection, night: Night) -> None:
    """Keep the share that each variant had in the night."""
    rows = [
        {"run_number": night.run_number, "variant": name, "assignment_probability": share}
        for name, share in night.experiment.split.items()
    ]
    connection.execute(prediction_shares.insert(), rows)


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
    writing.replace_rows(connection, feature_counts, rows, night.run_id, **night.key)


def read_feature_counts(
    connection: sa.Connection, experiment: str, from_date: date, last_date: date
) -> ModelCounts:
    """The sums of the counts of the nights from from_date to last_date, both included."""
    c = feature_counts.c
    query = sa.select(c.model_name, c.content).filter_by(experiment=experiment)
    query = query.where(c.run_date.between(from_date, last_date)).order_by(c.run_date)
    counts: ModelCounts = {}
    for model_name, content in connection.execute(query):
        counts = add_by_keys(counts, {model_name: _parse_counts(model_name, content)})
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
        counts[night] = {**counts[night], model_name: _parse_counts(model_name, content)}
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


def _parse_counts(model_name: str, content: str) -> dict[str, drift.FeatureCounts]:
    """By feature, as `write_feature_counts` has them."""

    def read(text: str) -> dict[str, drift.FeatureCounts]:
        return {name: drift.FeatureCounts(**cells) for name, cells in json.loads(text).items()}

    return tables.parse(read, content, f"feature_counts.content of {model_name}")


def find_run_ids(connection: sa.Connection, span: Span) -> set[tuple[date, str]]:
    """Who wrote each night."""
    query = sa.select(runs.c.run_date, runs.c.run_id).where(_IS_DONE, *span.get_conditions())
    return {(run_date, run_id) for run_date, run_id in connection.execute(query)}


def count_by_night(connection: sa.Connection, span: Span) -> dict[tuple[date, str], int]:
    """Predictions by night and variant."""
    by = (runs.c.run_date, prediction_rows.c.variant)
    rows = connection.execute(span.select(*by, sa.func.count()).group_by(*by))
    return {(night, variant): n for night, variant, n in rows}


def find_ids(connection: sa.Connection, experiment: str, ids: Sequence[str]) -> set[str]:
    """Which of these candidates, letter for letter, were ever predicted.

    At most some 1,000 at once.
    """
    candidate_id = prediction_rows.c.candidate_id
    query = sa.select(candidate_id).select_from(_NIGHTS).where(_IS_DONE)
    query = query.where(runs.c.experiment == experiment, candidate_id.in_(ids))
    return set(connection.scalars(query.distinct())) & set(ids)


PREDICTED = {
    "run_date": "datetime64[s]",
    "candidate_id": "str",
    "variant": "str",
    "model_name": object,
    "prediction": np.float64,
    "selected": np.int64,
    "bucket": np.int64,
}


def stream_predictions(
    connection: sa.Connection, span: Span, chunk_rows: int
) -> Iterator[pd.DataFrame]:
    """Predictions in chunks and in no order, one row per candidate and night."""
    r, number = runs.c, prediction_rows.c.run_number
    numbers = sa.select(r.run_number, r.run_date).where(_IS_DONE, *span.get_conditions())
    nights = dict(map(tuple, connection.execute(numbers)))
    columns = (prediction_rows.c[name] for name in PREDICTED if name != "run_date")
    query = span.select(number, *columns)
    for rows in reading.stream_own(connection, query, chunk_rows, is_apart=True):
        rows["run_date"] = rows.pop("run_number").map(nights)
        yield rows[[*PREDICTED]].astype(PREDICTED)


def read_replaced(connection: sa.Connection, span: Span) -> pd.DataFrame:
    """Who is not there as when a night was first done, and who is there that was not.

    Returns
    -------
    DataFrame of candidate_id, variant, run_date and is_gone: 1 if he was there, 0 if he is now
    """
    r = runs.c
    seen = sa.select(r.run_date, sa.func.min(r.run_number), sa.func.max(r.run_number))
    seen = seen.where(*span.get_conditions(), r.job == "predict")
    seen = seen.where(r.status.in_((*SHOWN, "superseded")))
    seen = seen.group_by(r.run_date).having(sa.func.count() > 1)
    rows = []
    for night, first, now in connection.execute(seen).all():
        for own, other, is_gone in ((first, now, 1), (now, first, 0)):
            c, there = prediction_rows.c, prediction_rows.alias().c
            is_there = sa.exists().where(
                there.run_number == other,
                there.candidate_id == c.candidate_id,
                there.variant == c.variant,
            )
            query = sa.select(c.candidate_id, c.variant).where(c.run_number == own, ~is_there)
            rows += [(*row, night, is_gone) for row in connection.execute(query)]
    names = ["candidate_id", "variant", "run_date", "is_gone"]
    frame = pd.DataFrame.from_records(rows, columns=names)
    return frame.astype({name: PREDICTED[name] for name in names[:3]})
