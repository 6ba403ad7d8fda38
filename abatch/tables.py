"""The tables that abatch owns. Created and changed by abatch/migrations; a test keeps the two in step.

Columns hold the same in every database: 0/1 instead of boolean (sum() works on it everywhere), text that people write as
NVARCHAR on SQL Server, instants as naive UTC.
"""

import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mssql

REVISION = "0001"
VERSION_TABLE = "abatch_version"
DATE_SUFFIX = re.compile(r"_\d{4}-\d\d-\d\d(_\d+)?$")  # of a model_name; what is left is name and version

Instant = sa.DateTime().with_variant(mssql.DATETIME2(6), "mssql")
metadata = sa.MetaData()
_DONE: dict[str, Any] = {f"{name}_where": sa.text("status = 'done'") for name in ("sqlite", "postgresql", "mssql")}


def _prediction_columns() -> list[sa.Column]:
    return [
        sa.Column("experiment", sa.String(64), nullable=False, comment="name of the experiment in ml_config.yaml"),
        sa.Column("run_date", sa.Date, nullable=False, comment="the night, as a business date"),
        sa.Column("candidate_id", sa.String(64), nullable=False, comment="who is predicted, as the candidates query names it"),
        sa.Column("variant", sa.String(64), nullable=False, comment="A, B, control ...: by hash, or as recorded elsewhere"),
        sa.Column("assignment_probability", sa.Double, nullable=False, comment="the variant's registered share"),
        sa.Column("model_name", sa.String(128), comment="the dated model; null where the variant has no model"),
        sa.Column("prediction", sa.Double, comment="probability of the outcome, 0 to 1; null where there is no model"),
    ]


def _ranked_columns() -> list[sa.Column]:
    return [
        *_prediction_columns(),
        sa.Column("rank_in_variant", sa.Integer, nullable=False, comment="1 = highest prediction; in random order without a model"),
        sa.Column("selected", sa.SmallInteger, nullable=False, comment="1 if among the first floor(select_top * n) of its variant"),
        sa.Column("run_id", sa.String(40), nullable=False, comment="the run that wrote the row"),
        sa.Column("predicted_at", Instant, nullable=False, comment="when the row was written, UTC"),
    ]


runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.String(40), primary_key=True),
    sa.Column("job", sa.String(16), nullable=False, comment="train, predict or score"),
    sa.Column("experiment", sa.String(64), nullable=False),
    sa.Column("run_date", sa.Date, nullable=False, comment="the business date that the run is for"),
    sa.Column("status", sa.String(16), nullable=False, comment="running, done, failed or superseded"),
    sa.Column("started_at", Instant, nullable=False, comment="UTC"),
    sa.Column("finished_at", Instant, comment="UTC; null while running"),
    sa.Column("rows_read", sa.Integer),
    sa.Column("rows_written", sa.Integer),
    sa.Column("code_version", sa.String(64), nullable=False),
    sa.Column("config_hash", sa.String(64), nullable=False, comment="SHA-256 of the experiment's settings and queries"),
    sa.Column("host", sa.Unicode(255), nullable=False, comment="host and process id"),
    sa.Column("error", sa.UnicodeText, comment="why the run failed"),
)
sa.Index("runs_one_done", runs.c.job, runs.c.experiment, runs.c.run_date, unique=True, **_DONE)

models = sa.Table(
    "models",
    metadata,
    sa.Column("model_name", sa.String(128), primary_key=True, comment="model, version, date: modelA_v1.0_2026-11-23"),
    sa.Column("experiment", sa.String(64), nullable=False),
    sa.Column("variant", sa.String(64), nullable=False, comment="the variant that the model was trained for"),
    sa.Column("file", sa.Unicode(255), nullable=False, comment="file name inside the models folder"),
    sa.Column("sha256", sa.String(64), nullable=False, comment="of the file: a pickle is opened only when it matches"),
    sa.Column("from_date", sa.Date, nullable=False, comment="first day of the training rows"),
    sa.Column("to_date", sa.Date, nullable=False, comment="end of the training rows, excluded"),
    sa.Column("as_of", Instant, nullable=False, comment="the moment whose knowledge was used, UTC"),
    sa.Column("rows", sa.Integer, nullable=False, comment="training rows, validation included"),
    sa.Column("code_version", sa.String(64), nullable=False),
    sa.Column("environment_hash", sa.String(64), nullable=False, comment="SHA-256 of the library versions"),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("card", sa.UnicodeText, nullable=False, comment="the model's .json: columns, metrics, reference, versions"),
    sa.Column("run_id", sa.String(40), nullable=False),
)

promotions = sa.Table(
    "promotions",
    metadata,
    sa.Column("promotion_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("experiment", sa.String(64), nullable=False),
    sa.Column("variant", sa.String(64), nullable=False),
    sa.Column("model_name", sa.String(128), nullable=False),
    sa.Column("action", sa.String(16), nullable=False, comment="promote or rollback"),
    sa.Column("effective_date", sa.Date, nullable=False, comment="live from this run_date on"),
    sa.Column("reason", sa.Unicode(1000), nullable=False),
    sa.Column("evidence", sa.UnicodeText, comment="the figures behind the reason, as JSON"),
    sa.Column("promoted_by", sa.Unicode(255), nullable=False),
    sa.Column("promoted_at", Instant, nullable=False, comment="UTC"),
)

registrations = sa.Table(
    "registrations",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("hash", sa.String(64), nullable=False, comment="SHA-256 of the content"),
    sa.Column("content", sa.UnicodeText, nullable=False, comment="all that a verdict depends on, as JSON"),
    sa.Column("registered_at", Instant, nullable=False, comment="UTC"),
    sa.Column("run_id", sa.String(40), nullable=False, comment="the first predict run"),
)

predictions_staging = sa.Table(
    "predictions_staging",
    metadata,
    sa.Column("run_id", sa.String(40), nullable=False),
    *_prediction_columns(),
    sa.Column("selection_key", sa.String(16), nullable=False, comment="bytes 8 to 15 of the hash, in hex: random order, and ties"),
)

predictions = sa.Table("predictions", metadata, *_ranked_columns(), sa.PrimaryKeyConstraint("experiment", "run_date", "candidate_id"))

predictions_superseded = sa.Table(
    "predictions_superseded",
    metadata,
    *_ranked_columns(),
    sa.Column("superseded_by", sa.String(40), nullable=False, comment="the run that replaced the row"),
)

scores = sa.Table(
    "scores",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("model_name", sa.String(128), primary_key=True, comment="a dated model, or name and version for all its dates"),
    sa.Column("cohort", sa.String(10), primary_key=True, comment="first day of the week or month of run_date, or 'all'"),
    sa.Column("metric", sa.String(40), primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("lower", sa.Double, comment="95 % interval"),
    sa.Column("upper", sa.Double),
    sa.Column("n", sa.Integer, nullable=False, comment="mature predictions behind the value"),
    sa.Column("run_id", sa.String(40), nullable=False),
)

variant_scores = sa.Table(
    "variant_scores",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("variant", sa.String(64), primary_key=True),
    sa.Column("cohort", sa.String(10), primary_key=True, comment="first day of the week or month of run_date, or 'all'"),
    sa.Column("n_predicted", sa.Integer, nullable=False, comment="predictions written"),
    sa.Column("n_mature", sa.Integer, nullable=False, comment="of these, with a closed outcome window"),
    sa.Column("n_positive", sa.Integer, nullable=False, comment="of the mature, with the outcome"),
    sa.Column("rate", sa.Double, comment="n_positive / n_mature; null if none is mature"),
    sa.Column("lower", sa.Double, comment="95 % interval of the rate on one look; not for daily decisions"),
    sa.Column("upper", sa.Double),
    sa.Column("n_selected", sa.Integer, nullable=False, comment="of the mature, selected"),
    sa.Column("n_selected_positive", sa.Integer, nullable=False),
    sa.Column("selected_rate", sa.Double),
    sa.Column("run_id", sa.String(40), nullable=False),
)
