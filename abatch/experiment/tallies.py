"""Tallies: sums over units, the candidates, which are all that verdicts need to know of them."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from abatch.database import writing
from abatch.database.reading import stream_own
from abatch.database.tables import prediction_rows, units
from abatch.experiment import scores
from abatch.experiment.predictions import Span
from abatch.experiment.registrations import OUTCOME
from abatch.night import Night
from abatch.statistics import stats
from abatch.statistics.sums import add_by_key, subtract_by_key

UNIT = ["candidate_id", "variant"]
UNIT_COLUMNS = [*UNIT, "n_exposures"]  # and one for each metric


@dataclass(frozen=True)
class Tally:
    """All that verdicts need to know of the units so far.

    Tallies of other candidates add up with +; - takes out what is a part.

    Attributes
    ----------
    moments : by metric and variant, of the candidates that were in one variant only
    n_distinct : by variant, the others included
    n_mixed : candidates that were in more than one variant, and are left out
    mixed : their outcomes, as the moments of a variant; of each in each of its variants
    exposures : by variant, y being how often each candidate came, and n 1; the others included
    evidence : of the closed nights, as `find_evidence` has it
    """

    moments: dict[tuple[str, str], stats.Moments]
    n_distinct: dict[str, int]
    n_mixed: int
    exposures: dict[str, stats.Moments] = field(default_factory=dict)
    evidence: float = 0.0
    mixed: stats.Moments = field(default_factory=stats.Moments)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            add_by_key(self.moments, other.moments),
            add_by_key(self.n_distinct, other.n_distinct),
            self.n_mixed + other.n_mixed,
            add_by_key(self.exposures, other.exposures),
            self.evidence + other.evidence,
            self.mixed + other.mixed,
        )

    def __sub__(self, other: "Tally") -> "Tally":
        return Tally(
            subtract_by_key(self.moments, other.moments),
            subtract_by_key(self.n_distinct, other.n_distinct),
            self.n_mixed - other.n_mixed,
            subtract_by_key(self.exposures, other.exposures),
            self.evidence - other.evidence,
            self.mixed - other.mixed,
        )


def add_exposures(earlier: pd.DataFrame, exposures: pd.DataFrame, exposure: str) -> pd.DataFrame:
    """What candidates brought once more of their predictions are mature.

    Parameters
    ----------
    earlier : candidate_id, variant, n_exposures and a column for each metric; one row per candidate
        and variant
    exposures : candidate_id, variant, run_date and the same metrics; one row per mature prediction
        later than those
    exposure : first (only the first of each candidate and variant counts) or all

    Returns
    -------
    DataFrame with the columns of `earlier`
    """
    new = exposures.sort_values("run_date", kind="stable").assign(n_exposures=1)[earlier.columns]
    both = pd.concat([earlier, new], ignore_index=True) if len(earlier) else new
    if exposure == "first":
        return both.drop_duplicates(UNIT, ignore_index=True)
    return both.groupby(UNIT, as_index=False, sort=False).sum()[earlier.columns]


def count(frame: pd.DataFrame) -> Tally:
    """Sum up units, whose frame is as in `add_exposures`."""
    mixed = frame["candidate_id"].duplicated(keep=False)
    moments = {}
    for variant, rows in frame[~mixed].groupby("variant"):
        n = rows["n_exposures"].to_numpy()
        for metric in frame.columns.drop(UNIT_COLUMNS):
            moments[metric, str(variant)] = stats.compute_moments(n, rows[metric].to_numpy())
    n_distinct = frame["variant"].value_counts().to_dict()
    exposures = {
        str(variant): stats.compute_moments(np.ones(len(rows)), rows.to_numpy())
        for variant, rows in frame.groupby("variant")["n_exposures"]
    }
    left_out = frame[mixed]
    return Tally(
        moments,
        n_distinct,
        left_out["candidate_id"].nunique(),
        exposures,
        mixed=stats.compute_moments(*left_out[["n_exposures", OUTCOME]].to_numpy(float).T),
    )


def pack(tally: Tally) -> dict[str, np.ndarray]:
    """As arrays by name, to be stored."""
    moments = {
        f"moments.{metric}.{variant}": np.array(astuple(sums))
        for (metric, variant), sums in tally.moments.items()
    }
    n_distinct = {f"n_distinct.{variant}": np.array(n) for variant, n in tally.n_distinct.items()}
    exposures = {
        f"exposures.{variant}": np.array(astuple(sums)) for variant, sums in tally.exposures.items()
    }
    rest = {name: np.array(getattr(tally, name)) for name in ("n_mixed", "evidence")}
    mixed = {"mixed": np.array(astuple(tally.mixed))}
    return {**moments, **n_distinct, **exposures, **rest, **mixed}


def unpack(arrays: Mapping[str, np.ndarray]) -> Tally:
    """The inverse of `pack`; nothing counted if there are no arrays."""
    moments, n_distinct, exposures = {}, {}, {}
    for name, array in arrays.items():
        kind, *key = name.split(".")
        if kind == "moments":
            moments[key[0], key[1]] = stats.Moments(*array.tolist())
        elif kind == "n_distinct":
            n_distinct[key[0]] = int(array)
        elif kind == "exposures":
            exposures[key[0]] = stats.Moments(*array.tolist())
    n_mixed, evidence = int(arrays.get("n_mixed", 0)), float(arrays.get("evidence", 0.0))
    mixed = stats.Moments(*arrays["mixed"].tolist()) if "mixed" in arrays else stats.Moments()
    return Tally(moments, n_distinct, n_mixed, exposures, evidence, mixed)


def read_units(connection: sa.Connection, metrics: Sequence[str], span: Span) -> pd.DataFrame:
    """What is known of the candidates predicted in some nights, as in `add_exposures`.

    In one order, so that their sums are the same to the last bit, whatever the database. Nothing if
    no night is closed: what there is then is stale.
    """
    if span.after == date.min:
        return pd.DataFrame(columns=[*UNIT_COLUMNS, *metrics])
    first, *others = (units.alias(f"of_{i}") for i in range(len(metrics)))
    by = [first.c[name] for name in UNIT_COLUMNS]
    query = sa.select(*by, first.c.outcome, *(other.c.outcome for other in others))
    query = query.where(_was_predicted(first, span), first.c.metric == metrics[0])
    joined: sa.FromClause = first
    for other, metric in zip(others, metrics[1:], strict=True):
        same = [other.c[name] == first.c[name] for name in ("experiment", *UNIT)]
        joined = joined.outerjoin(other, sa.and_(other.c.metric == metric, *same))
    query = query.select_from(joined).order_by(*by)
    frames = [*stream_own(connection, query, writing.WRITE_ROWS)]
    columns = [*UNIT_COLUMNS, *metrics]
    if not frames:
        return pd.DataFrame(columns=columns)
    return pd.concat(frames, ignore_index=True).set_axis(columns, axis="columns")


def remove_stale(night: Night) -> None:
    """Delete what was known of candidates of closed nights if their sums were dropped, in batches.

    Each is a transaction of its own; a dry run deletes nothing.
    """
    experiment = night.experiment.name
    if night.dry_run or night.read(scores.find_closed_date, experiment) > date.min:
        return
    for metric in night.read(_find_metrics, experiment):
        key = {"experiment": experiment, "metric": metric}
        while last := night.read(writing.find_batch, units, key):
            night.write(writing.delete_batch, units, key, last)


def _find_metrics(connection: sa.Connection, experiment: str) -> list[str]:
    query = sa.select(units.c.metric).filter_by(experiment=experiment).distinct()
    return [*connection.scalars(query)]


def remove_units(connection: sa.Connection, metrics: Sequence[str], span: Span) -> None:
    """Remove what was known of all candidates predicted in some nights.

    In batches, for SQL Server locks the whole table for a statement that changes more rows.
    """
    for metric in metrics:
        key, after = {"experiment": span.experiment, "metric": metric}, ""
        while True:
            rest = (_was_predicted(units, span), units.c.candidate_id > after)
            last = writing.find_batch(connection, units, key, *rest)
            if last is None:
                break
            writing.delete_batch(connection, units, key, last, *rest)
            after = last


def write_units(connection: sa.Connection, experiment: str, frame: pd.DataFrame) -> None:
    """Write what is known of candidates, as in `add_exposures`."""
    for metric in frame.columns.difference(UNIT_COLUMNS, sort=False):
        for start in range(0, len(frame), writing.WRITE_ROWS):
            part = frame[start : start + writing.WRITE_ROWS]
            columns = {
                "experiment": pa.repeat(experiment, len(part)),
                "candidate_id": pa.array(part["candidate_id"], pa.string()),
                "variant": pa.array(part["variant"], pa.string()),
                "metric": pa.repeat(metric, len(part)),
                "n_exposures": pa.array(part["n_exposures"], pa.int32()),
                "outcome": pa.array(part[metric], pa.float64()),
            }
            # Of a table, for texts may be in several chunks.
            for batch in pa.table(columns).combine_chunks().to_batches():
                writing.load(connection, units, batch)


def _was_predicted(table: sa.FromClause, span: Span) -> sa.ColumnElement[bool]:
    ids = span.select(prediction_rows.c.candidate_id)
    return (table.c.experiment == span.experiment) & table.c.candidate_id.in_(ids)
