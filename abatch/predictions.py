"""Predictions: staged in chunks, checked and ranked by the database, shown to readers only as whole nights."""

from collections.abc import Mapping
from datetime import date, datetime

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch import database
from abatch.errors import DatabaseError, DataError
from abatch.tables import predictions, predictions_staging, predictions_superseded

STAGED = list(predictions_staging.columns.keys())


def stage(engine: sa.Engine, frame: pd.DataFrame) -> None:
    """Write a chunk to the staging table, where no reader looks.

    Parameters
    ----------
    frame : the columns of predictions_staging; a prediction without a model is nan
    """
    rows = frame[STAGED].astype(object).where(frame[STAGED].notna(), None)
    with database.transaction(engine) as connection:
        connection.execute(predictions_staging.insert(), rows.to_dict("records"))


def check_staged(connection: sa.Connection, run_id: str, n_sent: int, place: str) -> None:
    """Let the database look at all rows at once: did all arrive, and is every candidate there once?

    Raises
    ------
    DatabaseError
        If rows were lost or doubled on the way.
    DataError
        If a candidate is there twice, in the eyes of the database: its collation may take two spellings for one.
    """
    staged = predictions_staging.c
    n_found = connection.scalar(sa.select(sa.func.count()).where(staged.run_id == run_id))
    if n_found != n_sent:
        raise DatabaseError(f"{n_sent} predictions were sent and {n_found} arrived in predictions_staging. Nothing was published.")
    twice = (
        sa.select(sa.func.min(staged.candidate_id).label("candidate_id"))
        .where(staged.run_id == run_id)
        .group_by(staged.candidate_id)
        .having(sa.func.count() > 1)
        .subquery()
    )
    n_twice, example = connection.execute(sa.select(sa.func.count(), sa.func.min(twice.c.candidate_id))).one()
    if n_twice:
        raise DataError(
            f"{place}: {n_twice} candidates are returned more than once, for example {example!r}."
            " Expected one row per candidate. Look for a join that multiplies rows."
        )


def publish(
    connection: sa.Connection, run_id: str, experiment: str, run_date: date, n_selected: Mapping[str, int], predicted_at: datetime
) -> int:
    """Move a staged night into `predictions`, ranked; the night's earlier rows go to `predictions_superseded`.

    Parameters
    ----------
    n_selected : how many of each variant are selected, from the highest prediction down, ties by the hash

    Returns
    -------
    int
        Rows written.
    """
    night = (predictions.c.experiment == experiment, predictions.c.run_date == run_date)
    old = sa.select(*predictions.c, sa.literal(run_id)).where(*night)
    connection.execute(predictions_superseded.insert().from_select([*predictions.columns.keys(), "superseded_by"], old))
    connection.execute(predictions.delete().where(*night))
    staged = predictions_staging.c
    rank = sa.func.row_number().over(
        partition_by=staged.variant, order_by=(sa.func.coalesce(staged.prediction, 0).desc(), staged.selection_key, staged.candidate_id)
    )
    shared = [name for name in STAGED if name in predictions.c]
    ranked = sa.select(*(staged[name] for name in shared), rank.label("rank_in_variant")).where(staged.run_id == run_id).subquery()
    limit = sa.case(*((ranked.c.variant == variant, n) for variant, n in n_selected.items()), else_=0)
    rows = sa.select(
        *ranked.c,
        sa.case((ranked.c.rank_in_variant <= limit, 1), else_=0),
        sa.literal(predicted_at, predictions.c.predicted_at.type),
    )
    insert = predictions.insert().from_select([*shared, "rank_in_variant", "selected", "predicted_at"], rows)
    written = connection.execute(insert, execution_options={"preserve_rowcount": True})
    connection.execute(predictions_staging.delete().where(staged.run_id == run_id))
    return written.rowcount


def find_run_dates(connection: sa.Connection, experiment: str) -> list[date]:
    """The nights that have predictions, in order."""
    query = sa.select(predictions.c.run_date).where(predictions.c.experiment == experiment).distinct()
    return sorted(connection.scalars(query))


def read_predictions(connection: sa.Connection, experiment: str, from_date: date, to_date: date) -> pd.DataFrame:
    """Predictions of the nights in [from_date, to_date), one row per candidate and night."""
    wanted = ("run_date", "candidate_id", "variant", "model_name", "prediction", "selected")
    query = sa.select(*(predictions.c[name] for name in wanted)).where(
        predictions.c.experiment == experiment, predictions.c.run_date >= from_date, predictions.c.run_date < to_date
    )
    frame = pd.DataFrame.from_records([tuple(row) for row in connection.execute(query)], columns=list(wanted))
    return frame.astype({"run_date": "datetime64[s]", "prediction": np.float64, "selected": np.int64})
