"""The tables that abatch owns. Created and changed by abatch/migrations; a test keeps the two in step.

Columns hold the same in every database: 0/1 instead of boolean (sum() works on it everywhere), text that people write as
NVARCHAR on SQL Server, instants as naive UTC.
"""

from sqlalchemy import (
    Column,
    Date,
    DateTime,
    Double,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Unicode,
    UnicodeText,
    text,
)
from sqlalchemy.dialects import mssql

REVISION = "0001"
VERSION_TABLE = "abatch_version"

Instant = DateTime().with_variant(mssql.DATETIME2(6), "mssql")
metadata = MetaData()
_done = text("status = 'done'")


def _prediction_columns() -> list[Column]:
    return [
        Column("experiment", String(64), nullable=False, comment="name of the experiment in ml_config.yaml"),
        Column("run_date", Date, nullable=False, comment="the night, as a business date"),
        Column("candidate_id", String(64), nullable=False, comment="who is predicted, as the candidates query names it"),
        Column("variant", String(64), nullable=False, comment="A, B, control ...: by hash, or as recorded elsewhere"),
        Column("assignment_probability", Double, nullable=False, comment="the variant's registered share"),
        Column("model_name", String(128), comment="the dated model; null where the variant has no model"),
        Column("prediction", Double, comment="probability of the outcome, 0 to 1; null where there is no model"),
    ]


def _ranked_columns() -> list[Column]:
    return [
        *_prediction_columns(),
        Column("rank_in_variant", Integer, nullable=False, comment="1 = highest prediction; in random order without a model"),
        Column("selected", SmallInteger, nullable=False, comment="1 if among the first floor(select_top * n) of its variant"),
        Column("run_id", String(40), nullable=False, comment="the run that wrote the row"),
        Column("predicted_at", Instant, nullable=False, comment="when the row was written, UTC"),
    ]


runs = Table(
    "runs",
    metadata,
    Column("run_id", String(40), primary_key=True),
    Column("job", String(16), nullable=False, comment="train, predict or score"),
    Column("experiment", String(64), nullable=False),
    Column("run_date", Date, nullable=False, comment="the business date that the run is for"),
    Column("status", String(16), nullable=False, comment="running, done, failed or superseded"),
    Column("started_at", Instant, nullable=False, comment="UTC"),
    Column("finished_at", Instant, comment="UTC; null while running"),
    Column("rows_read", Integer),
    Column("rows_written", Integer),
    Column("code_version", String(64), nullable=False),
    Column("config_hash", String(64), nullable=False, comment="SHA-256 of the experiment's settings and queries"),
    Column("host", Unicode(255), nullable=False, comment="host and process id"),
    Column("error", UnicodeText, comment="why the run failed"),
)
Index(
    "runs_one_done",
    runs.c.job,
    runs.c.experiment,
    runs.c.run_date,
    unique=True,
    sqlite_where=_done,
    postgresql_where=_done,
    mssql_where=_done,
)

models = Table(
    "models",
    metadata,
    Column("model_name", String(128), primary_key=True, comment="model, version, date: modelA_v1.0_2026-11-23"),
    Column("experiment", String(64), nullable=False),
    Column("variant", String(64), nullable=False, comment="the variant that the model was trained for"),
    Column("file", Unicode(255), nullable=False, comment="file name inside the models folder"),
    Column("sha256", String(64), nullable=False, comment="of the file: a pickle is opened only when it matches"),
    Column("from_date", Date, nullable=False, comment="first day of the training rows"),
    Column("to_date", Date, nullable=False, comment="end of the training rows, excluded"),
    Column("as_of", Instant, nullable=False, comment="the moment whose knowledge was used, UTC"),
    Column("rows", Integer, nullable=False, comment="training rows, validation included"),
    Column("code_version", String(64), nullable=False),
    Column("environment_hash", String(64), nullable=False, comment="SHA-256 of the library versions"),
    Column("seed", Integer, nullable=False),
    Column("card", UnicodeText, nullable=False, comment="the model's .json: columns, metrics, reference, versions"),
    Column("run_id", String(40), nullable=False),
)

promotions = Table(
    "promotions",
    metadata,
    Column("promotion_id", Integer, primary_key=True, autoincrement=True),
    Column("experiment", String(64), nullable=False),
    Column("variant", String(64), nullable=False),
    Column("model_name", String(128), nullable=False),
    Column("action", String(16), nullable=False, comment="promote or rollback"),
    Column("effective_date", Date, nullable=False, comment="live from this run_date on"),
    Column("reason", Unicode(1000), nullable=False),
    Column("evidence", UnicodeText, comment="the figures behind the reason, as JSON"),
    Column("promoted_by", Unicode(255), nullable=False),
    Column("promoted_at", Instant, nullable=False, comment="UTC"),
)

registrations = Table(
    "registrations",
    metadata,
    Column("experiment", String(64), primary_key=True),
    Column("hash", String(64), nullable=False, comment="SHA-256 of the content"),
    Column("content", UnicodeText, nullable=False, comment="all that a verdict depends on, as JSON"),
    Column("registered_at", Instant, nullable=False, comment="UTC"),
    Column("run_id", String(40), nullable=False, comment="the first predict run"),
)

predictions_staging = Table(
    "predictions_staging",
    metadata,
    Column("run_id", String(40), nullable=False),
    *_prediction_columns(),
    Column("selection_key", String(16), nullable=False, comment="bytes 8 to 15 of the hash, in hex: random order, and ties"),
)

predictions = Table("predictions", metadata, *_ranked_columns(), PrimaryKeyConstraint("experiment", "run_date", "candidate_id"))

predictions_superseded = Table(
    "predictions_superseded",
    metadata,
    *_ranked_columns(),
    Column("superseded_by", String(40), nullable=False, comment="the run that replaced the row"),
)

scores = Table(
    "scores",
    metadata,
    Column("experiment", String(64), primary_key=True),
    Column("model_name", String(128), primary_key=True, comment="a dated model, or name and version for all its dates"),
    Column("cohort", String(10), primary_key=True, comment="first day of the week or month of run_date, or 'all'"),
    Column("metric", String(40), primary_key=True),
    Column("value", Double, nullable=False),
    Column("lower", Double, comment="95 % interval"),
    Column("upper", Double),
    Column("n", Integer, nullable=False, comment="mature predictions behind the value"),
    Column("run_id", String(40), nullable=False),
)

variant_scores = Table(
    "variant_scores",
    metadata,
    Column("experiment", String(64), primary_key=True),
    Column("variant", String(64), primary_key=True),
    Column("cohort", String(10), primary_key=True, comment="first day of the week or month of run_date, or 'all'"),
    Column("n_predicted", Integer, nullable=False, comment="predictions written"),
    Column("n_mature", Integer, nullable=False, comment="of these, with a closed outcome window"),
    Column("n_positive", Integer, nullable=False, comment="of the mature, with the outcome"),
    Column("rate", Double, comment="n_positive / n_mature; null if none is mature"),
    Column("lower", Double, comment="95 % interval of the rate on one look; not for daily decisions"),
    Column("upper", Double),
    Column("n_selected", Integer, nullable=False, comment="of the mature, selected"),
    Column("n_selected_positive", Integer, nullable=False),
    Column("selected_rate", Double),
    Column("run_id", String(40), nullable=False),
)
