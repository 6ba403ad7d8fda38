"""The tables that abatch owns, and the names of its views. Made by abatch/database/migrations.

Tests keep the two in step. Columns hold the same in every database: 0/1 instead of boolean (sum()
works on it everywhere), text that people write as NVARCHAR on SQL Server, instants as naive UTC.
What each column means stands in dictionary.md, for people and for the comments in the database.
"""

import math
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mssql

from abatch.errors import DataError

REVISION = "0001_95d19923"
VERSION_TABLE = "abatch_version"
DICTIONARY = Path(__file__).with_name("dictionary.md")
# For analysts; each is a file of abatch/database/views.
VIEWS = (
    "current_predictions",
    "latest_predictions",
    "model_performance",
    "experiment_status",
    "current_verdicts",
    "run_history",
)

Name = sa.String(64)
ModelName = sa.String(128)
RunId = sa.String(40)
Cohort = sa.String(10)
Hash = sa.String(64)
Person = sa.Unicode(255)  # or host
Instant = sa.DateTime().with_variant(mssql.DATETIME2(6), "mssql")


class FiniteDouble(sa.types.TypeDecorator[float]):
    """A double that is a number or null.

    SQL Server refuses nan and infinity late, PostgreSQL and SQLite store them.
    """

    impl = sa.Double
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        """Refuse what is no finite number."""
        if value is None:
            return None
        if not math.isfinite(value):
            raise DataError(
                f"{value} cannot be stored in a column of numbers; expected a finite number or"
                " null."
            )
        return float(value)  # not every driver takes numpy's


Row = sa.Row[*tuple[Any, ...]]
Select = sa.Select[*tuple[Any, ...]]
metadata = sa.MetaData()


def define(
    name: str,
    /,
    *indexes: sa.Index,
    of: sa.MetaData = metadata,
    key: str = "",
    null: str = "",
    **types: Any,
) -> sa.Table:
    """Make a table, or what the code reads of a view.

    Parameters
    ----------
    key, null : the columns of the primary key, and those that may be null, by names with spaces
    types : of each column
    """
    keys, nulls = key.split(), null.split()
    columns = (
        sa.Column(column, type_, primary_key=column in keys, nullable=column in nulls)
        for column, type_ in types.items()
    )
    return sa.Table(name, of, *columns, *indexes)


_DONE: dict[str, Any] = {
    f"{name}_where": sa.text("status = 'done'") for name in ("sqlite", "postgresql", "mssql")
}
_PREDICTION: dict[str, Any] = {
    "experiment": Name,
    "run_date": sa.Date,
    "candidate_id": Name,
    "variant": Name,
    "assignment_probability": FiniteDouble,
    "model_name": ModelName,
    "prediction": FiniteDouble,
}
_RANKED = {
    **_PREDICTION,
    "rank_in_variant": sa.Integer,
    "selected": sa.SmallInteger,
    "run_id": RunId,
    "predicted_at": Instant,
}

runs = define(
    "runs",
    sa.Index("runs_night", "experiment", "job", "run_date"),
    sa.Index(
        "runs_one_done",
        "job",
        "experiment",
        "run_date",
        unique=True,
        **_DONE,
    ),
    key="run_id",
    null="finished_at rows_read rows_written error",
    run_id=RunId,
    job=sa.String(16),
    experiment=Name,
    run_date=sa.Date,
    status=sa.String(16),
    started_at=Instant,
    finished_at=Instant,
    rows_read=sa.Integer,
    rows_written=sa.Integer,
    code_version=sa.String(64),
    config_hash=Hash,
    host=Person,
    error=sa.UnicodeText,
)

models = define(
    "models",
    sa.Index("models_experiment", "experiment"),
    key="model_name",
    model_name=ModelName,
    experiment=Name,
    variant=Name,
    name=Name,
    version=sa.String(20),
    run_date=sa.Date,
    file=sa.Unicode(255),
    sha256=Hash,
    from_date=sa.Date,
    to_date=sa.Date,
    as_of=Instant,
    rows=sa.Integer,
    code_version=sa.String(64),
    environment_hash=Hash,
    seed=sa.Integer,
    card=sa.UnicodeText,
    run_id=RunId,
    snapshot=Hash,
    decision=sa.UnicodeText,
)

promotions = define(
    "promotions",
    sa.Index("promotions_experiment", "experiment", "promotion_id"),
    key="promotion_id",
    null="evidence",
    promotion_id=sa.Integer,
    experiment=Name,
    variant=Name,
    model_name=ModelName,
    action=sa.String(16),
    effective_date=sa.Date,
    reason=sa.Unicode(1000),
    evidence=sa.UnicodeText,
    promoted_by=Person,
    promoted_at=Instant,
)

snapshots = define(
    "snapshots",
    sa.Index("snapshots_content", "content_hash"),
    key="run_id",
    run_id=RunId,
    experiment=Name,
    content_hash=Hash,
    sha256=Hash,
    n_bytes=sa.BigInteger,
    rows=sa.Integer,
    from_date=sa.Date,
    to_date=sa.Date,
    as_of=Instant,
    query=sa.UnicodeText,
    columns=sa.UnicodeText,
    pulled_at=Instant,
)

deletions = define(
    "deletions",
    sa.Index("deletions_name", "kind", "name"),
    key="deletion_id",
    deletion_id=sa.Integer,
    kind=sa.String(16),
    name=sa.String(128),
    reason=sa.Unicode(1000),
    deleted_by=Person,
    deleted_at=Instant,
)

registrations = define(
    "registrations",
    key="experiment",
    experiment=Name,
    hash=Hash,
    content=sa.UnicodeText,
    registered_at=Instant,
    run_id=RunId,
)

predictions_staging = define(
    "predictions_staging",
    # Clustered: without it SQL Server would look at the rows of other experiments too, and wait for
    # who writes them.
    sa.Index("predictions_staging_run", "experiment", "run_id", mssql_clustered=True),
    null="model_name prediction",
    run_id=RunId,
    **_PREDICTION,
    selection_key=sa.String(16),
)

predictions = define(
    "predictions",
    sa.Index("predictions_candidate", "experiment", "candidate_id", "run_date"),
    key="experiment run_date candidate_id",
    null="model_name prediction",
    **_RANKED,
)

predictions_superseded = define(
    "predictions_superseded",
    null="model_name prediction",
    **_RANKED,
    superseded_by=RunId,
)

scores = define(
    "scores",
    key="experiment model_name cohort metric",
    null="lower upper",
    experiment=Name,
    model_name=ModelName,
    cohort=Cohort,
    metric=sa.String(40),
    value=FiniteDouble,
    lower=FiniteDouble,
    upper=FiniteDouble,
    n=sa.Integer,
    run_id=RunId,
)

variant_scores = define(
    "variant_scores",
    key="experiment variant cohort",
    null="rate lower upper selected_rate",
    experiment=Name,
    variant=Name,
    cohort=Cohort,
    n_predicted=sa.Integer,
    n_mature=sa.Integer,
    n_positive=sa.Integer,
    rate=FiniteDouble,
    lower=FiniteDouble,
    upper=FiniteDouble,
    n_selected=sa.Integer,
    n_selected_positive=sa.Integer,
    selected_rate=FiniteDouble,
    run_id=RunId,
    outcome_sum=FiniteDouble,
)

cohort_sums = define(
    "cohort_sums",
    key="experiment cohort variant model_name",
    experiment=Name,
    cohort=Cohort,
    variant=Name,
    model_name=ModelName,
    closed_date=sa.Date,
    content=sa.LargeBinary,
    run_id=RunId,
)

units = define(
    "units",
    key="experiment metric candidate_id variant",
    experiment=Name,
    metric=Name,
    candidate_id=Name,
    variant=Name,
    n_exposures=sa.Integer,
    outcome=FiniteDouble,
)

looks = define(
    "looks",
    key="experiment run_date",
    null="watermark mature_date",
    experiment=Name,
    run_date=sa.Date,
    watermark=sa.Date,
    mature_date=sa.Date,
    n_predicted=sa.Integer,
    n_mature=sa.Integer,
    n_units=sa.Integer,
    n_mixed=sa.Integer,
    run_id=RunId,
)

sample_ratios = define(
    "sample_ratios",
    key="experiment run_date stage variant",
    experiment=Name,
    run_date=sa.Date,
    stage=sa.String(16),
    variant=Name,
    n=sa.Integer,
    expected=FiniteDouble,
    pvalue=FiniteDouble,
    pvalue_min=FiniteDouble,
    run_id=RunId,
)

verdicts = define(
    "verdicts",
    key="experiment run_date comparison metric",
    null="estimate se information lower upper pvalue pvalue_min lift lift_lower lift_upper",
    experiment=Name,
    run_date=sa.Date,
    comparison=sa.String(140),
    metric=Name,
    n_treatment=sa.Integer,
    n_control=sa.Integer,
    exposures_treatment=sa.Integer,
    exposures_control=sa.Integer,
    sum_treatment=FiniteDouble,
    sum_control=FiniteDouble,
    estimate=FiniteDouble,
    se=FiniteDouble,
    information=FiniteDouble,
    lower=FiniteDouble,
    upper=FiniteDouble,
    pvalue=FiniteDouble,
    pvalue_min=FiniteDouble,
    lift=FiniteDouble,
    lift_lower=FiniteDouble,
    lift_upper=FiniteDouble,
    word=sa.String(40),
    run_id=RunId,
)

conclusions = define(
    "conclusions",
    sa.Index("conclusions_experiment", "experiment", "conclusion_id"),
    key="conclusion_id",
    conclusion_id=sa.Integer,
    experiment=Name,
    because=sa.UnicodeText,
    finding=sa.UnicodeText,
    concluded_by=Person,
    concluded_at=Instant,
)

feature_counts = define(
    "feature_counts",
    key="experiment run_date model_name",
    experiment=Name,
    run_date=sa.Date,
    model_name=ModelName,
    content=sa.UnicodeText,
    run_id=RunId,
)

feature_drift = define(
    "feature_drift",
    key="experiment model_name cohort feature",
    null="new_categories",
    experiment=Name,
    model_name=ModelName,
    cohort=Cohort,
    feature=sa.Unicode(128),
    kind=sa.String(16),
    n=sa.Integer,
    psi=FiniteDouble,
    psi_noise=FiniteDouble,
    null_rate=FiniteDouble,
    null_rate_training=FiniteDouble,
    n_new=sa.Integer,
    new_categories=sa.UnicodeText,
    run_id=RunId,
)

# The one view that the code reads too.
current_verdicts = define(
    "current_verdicts",
    of=sa.MetaData(),
    null="estimate lower upper lift lift_lower lift_upper first_decided_date mature_date",
    experiment=Name,
    comparison=sa.String(140),
    metric=Name,
    look_date=sa.Date,
    word=sa.String(40),
    estimate=FiniteDouble,
    lower=FiniteDouble,
    upper=FiniteDouble,
    lift=FiniteDouble,
    lift_lower=FiniteDouble,
    lift_upper=FiniteDouble,
    n_treatment=sa.Integer,
    n_control=sa.Integer,
    first_decided_date=sa.Date,
    mature_date=sa.Date,
)
