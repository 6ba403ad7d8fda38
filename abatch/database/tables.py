"""The tables that abatch owns, and the views for analysts. Made by abatch/database/migrations.

Tests keep the two in step.

Columns hold the same in every database: 0/1 instead of boolean (sum() works on it everywhere), text
that people write as NVARCHAR on SQL Server, instants as naive UTC. The comments are the data
dictionary: `python -m abatch dictionary`.
"""

import math
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mssql

from abatch.errors import DataError

REVISION = "0001_6ac2bee6"
VERSION_TABLE = "abatch_version"

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


metadata = sa.MetaData()
views = sa.MetaData()
_DONE: dict[str, Any] = {
    f"{name}_where": sa.text("status = 'done'") for name in ("sqlite", "postgresql", "mssql")
}
_EXPERIMENT = "name of the experiment in ml_config.yaml"
_COHORT = "first day of the week or month of run_date, or 'all'"
_SCORE_RUN = "the score run that wrote the row"
_METRIC = "'outcome', or the name of a guardrail"


def _prediction_columns() -> list[sa.Column]:
    return [
        sa.Column("experiment", sa.String(64), nullable=False, comment=_EXPERIMENT),
        sa.Column("run_date", sa.Date, nullable=False, comment="the night, as a business date"),
        sa.Column(
            "candidate_id",
            sa.String(64),
            nullable=False,
            comment="who is predicted, as the candidates query names it",
        ),
        sa.Column(
            "variant",
            sa.String(64),
            nullable=False,
            comment="A, B, control ...: by hash, or as recorded elsewhere",
        ),
        sa.Column(
            "assignment_probability",
            FiniteDouble,
            nullable=False,
            comment="the variant's registered share",
        ),
        sa.Column(
            "model_name",
            sa.String(128),
            comment="the dated model; null where the variant has no model",
        ),
        sa.Column(
            "prediction",
            FiniteDouble,
            comment="probability of the outcome, 0 to 1; null where there is no model",
        ),
    ]


def _ranked_columns() -> list[sa.Column]:
    return [
        *_prediction_columns(),
        sa.Column(
            "rank_in_variant",
            sa.Integer,
            nullable=False,
            comment="1 = highest prediction; in random order without a model",
        ),
        sa.Column(
            "selected",
            sa.SmallInteger,
            nullable=False,
            comment="1 if among the first floor(select_top * n) of its variant",
        ),
        sa.Column("run_id", sa.String(40), nullable=False, comment="the run that wrote the row"),
        sa.Column("predicted_at", Instant, nullable=False, comment="when the row was written, UTC"),
    ]


runs = sa.Table(
    "runs",
    metadata,
    sa.Column(
        "run_id",
        sa.String(40),
        primary_key=True,
        comment="when the run started, UTC, and a random part",
    ),
    sa.Column("job", sa.String(16), nullable=False, comment="train, predict or score"),
    sa.Column("experiment", sa.String(64), nullable=False, comment=_EXPERIMENT),
    sa.Column("run_date", sa.Date, nullable=False, comment="the business date that the run is for"),
    sa.Column(
        "status", sa.String(16), nullable=False, comment="running, done, failed or superseded"
    ),
    sa.Column("started_at", Instant, nullable=False, comment="when the run started, UTC"),
    sa.Column("finished_at", Instant, comment="UTC; null while running"),
    sa.Column(
        "rows_read", sa.Integer, comment="rows that its queries returned; null unless it was done"
    ),
    sa.Column(
        "rows_written",
        sa.Integer,
        comment="models, predictions or figures written; null unless it was done",
    ),
    sa.Column(
        "code_version",
        sa.String(64),
        nullable=False,
        comment="abatch's version and commit; -dirty if the code was changed",
    ),
    sa.Column(
        "config_hash",
        sa.String(64),
        nullable=False,
        comment="SHA-256 of the experiment's settings and queries",
    ),
    sa.Column("host", sa.Unicode(255), nullable=False, comment="host and process id"),
    sa.Column("error", sa.UnicodeText, comment="why the run failed; null unless it did"),
    sa.Index("runs_night", "experiment", "job", "run_date"),
    comment="one run of a job for one experiment and one night",
)
sa.Index("runs_one_done", runs.c.job, runs.c.experiment, runs.c.run_date, unique=True, **_DONE)

models = sa.Table(
    "models",
    metadata,
    sa.Column(
        "model_name",
        sa.String(128),
        primary_key=True,
        comment="model, version, date: modelA_v1.0_2026-11-23",
    ),
    sa.Column("experiment", sa.String(64), nullable=False, comment=_EXPERIMENT),
    sa.Column(
        "variant",
        sa.String(64),
        nullable=False,
        comment="the variant that the model was trained for",
    ),
    sa.Column("name", sa.String(64), nullable=False, comment="of the model in the config: modelA"),
    sa.Column("version", sa.String(20), nullable=False, comment="in the config: 1.0"),
    sa.Column(
        "run_date", sa.Date, nullable=False, comment="the business date that it was trained on"
    ),
    sa.Column(
        "file", sa.Unicode(255), nullable=False, comment="file name inside the models folder"
    ),
    sa.Column(
        "sha256",
        sa.String(64),
        nullable=False,
        comment="of the file: a pickle is opened only when it matches",
    ),
    sa.Column("from_date", sa.Date, nullable=False, comment="first day of the training rows"),
    sa.Column("to_date", sa.Date, nullable=False, comment="end of the training rows, excluded"),
    sa.Column("as_of", Instant, nullable=False, comment="the moment whose knowledge was used, UTC"),
    sa.Column("rows", sa.Integer, nullable=False, comment="training rows, validation included"),
    sa.Column(
        "code_version",
        sa.String(64),
        nullable=False,
        comment="abatch's version and commit; -dirty if the code was changed",
    ),
    sa.Column(
        "environment_hash", sa.String(64), nullable=False, comment="SHA-256 of the library versions"
    ),
    sa.Column(
        "seed",
        sa.Integer,
        nullable=False,
        comment="of every random_state that the estimator leaves open",
    ),
    sa.Column(
        "card",
        sa.UnicodeText,
        nullable=False,
        comment="the model's .json: columns, metrics, reference, versions",
    ),
    sa.Column("run_id", sa.String(40), nullable=False, comment="the train run that made the model"),
    sa.Column(
        "snapshot",
        sa.String(64),
        nullable=False,
        comment="content hash of the training rows as kept",
    ),
    sa.Column(
        "decision",
        sa.UnicodeText,
        nullable=False,
        comment="whether it went live when it was trained, and why",
    ),
    sa.Index("models_experiment", "experiment"),
    comment="one dated model; its file lies in the models folder, and neither is ever changed",
)

promotions = sa.Table(
    "promotions",
    metadata,
    sa.Column(
        "promotion_id",
        sa.Integer,
        primary_key=True,
        autoincrement=True,
        comment="of two that are effective, the higher counts",
    ),
    sa.Column("experiment", sa.String(64), nullable=False, comment=_EXPERIMENT),
    sa.Column(
        "variant",
        sa.String(64),
        nullable=False,
        comment="the variant whose predictions the model makes",
    ),
    sa.Column(
        "model_name", sa.String(128), nullable=False, comment="the dated model that becomes live"
    ),
    sa.Column("action", sa.String(16), nullable=False, comment="promote or rollback"),
    sa.Column("effective_date", sa.Date, nullable=False, comment="live from this run_date on"),
    sa.Column("reason", sa.Unicode(1000), nullable=False, comment="why"),
    sa.Column(
        "evidence",
        sa.UnicodeText,
        comment="the figures behind the reason, as JSON; null if done by hand",
    ),
    sa.Column(
        "promoted_by", sa.Unicode(255), nullable=False, comment="user and host, or the train run"
    ),
    sa.Column("promoted_at", Instant, nullable=False, comment="when the row was written, UTC"),
    sa.Index("promotions_experiment", "experiment", "promotion_id"),
    comment="what became live, when, by whom and why; only ever appended",
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column(
        "run_id", sa.String(40), primary_key=True, comment="the train run that pulled the rows"
    ),
    sa.Column("experiment", sa.String(64), nullable=False, comment=_EXPERIMENT),
    sa.Column(
        "content_hash",
        sa.String(64),
        nullable=False,
        comment="SHA-256 of names, types and values; the file is named by it",
    ),
    sa.Column(
        "sha256",
        sa.String(64),
        nullable=False,
        comment="of the file; of several rows with one content_hash the newest counts",
    ),
    sa.Column("n_bytes", sa.BigInteger, nullable=False, comment="size of the file"),
    sa.Column("rows", sa.Integer, nullable=False, comment="rows that the query returned"),
    sa.Column("from_date", sa.Date, nullable=False, comment="bind :from_date"),
    sa.Column("to_date", sa.Date, nullable=False, comment="bind :to_date, excluded"),
    sa.Column("as_of", Instant, nullable=False, comment="bind :as_of, UTC"),
    sa.Column("query", sa.UnicodeText, nullable=False, comment="text of the training query"),
    sa.Column(
        "columns",
        sa.UnicodeText,
        nullable=False,
        comment="name, type, nulls and SHA-256 of each column, as JSON",
    ),
    sa.Column("pulled_at", Instant, nullable=False, comment="when the row was written, UTC"),
    sa.Index("snapshots_content", "content_hash"),
    comment=(
        "training rows as one train run pulled them; their file lies in the snapshots folder, once"
        " for equal content"
    ),
)

deletions = sa.Table(
    "deletions",
    metadata,
    sa.Column(
        "deletion_id",
        sa.Integer,
        primary_key=True,
        autoincrement=True,
        comment="in the order in which they were written",
    ),
    sa.Column("kind", sa.String(16), nullable=False, comment="model or snapshot"),
    sa.Column(
        "name",
        sa.String(128),
        nullable=False,
        comment="model_name, or content_hash of the snapshot",
    ),
    sa.Column("reason", sa.Unicode(1000), nullable=False, comment="why"),
    sa.Column(
        "deleted_by", sa.Unicode(255), nullable=False, comment="user and host, or the train run"
    ),
    sa.Column("deleted_at", Instant, nullable=False, comment="when the row was written, UTC"),
    sa.Index("deletions_name", "kind", "name"),
    comment="whose file was deleted, by retention or by hand; its record stays; only ever appended",
)

registrations = sa.Table(
    "registrations",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True, comment=_EXPERIMENT),
    sa.Column("hash", sa.String(64), nullable=False, comment="SHA-256 of the content"),
    sa.Column(
        "content", sa.UnicodeText, nullable=False, comment="all that a verdict depends on, as JSON"
    ),
    sa.Column(
        "registered_at", Instant, nullable=False, comment="when the first predict run started, UTC"
    ),
    sa.Column("run_id", sa.String(40), nullable=False, comment="the first predict run"),
    comment="what an experiment asks, written down before its first outcome and never changed",
)

predictions_staging = sa.Table(
    "predictions_staging",
    metadata,
    sa.Column("run_id", sa.String(40), nullable=False, comment="the run that is writing the row"),
    *_prediction_columns(),
    sa.Column(
        "selection_key",
        sa.String(16),
        nullable=False,
        comment="bytes 8 to 15 of the hash, in hex: random order, and ties",
    ),
    # Clustered: without it SQL Server would look at the rows of other experiments too, and wait for
    # who writes them.
    sa.Index("predictions_staging_run", "experiment", "run_id", mssql_clustered=True),
    comment="a prediction of a night that is being written, or of a run that died; not for readers",
)

predictions = sa.Table(
    "predictions",
    metadata,
    *_ranked_columns(),
    sa.PrimaryKeyConstraint("experiment", "run_date", "candidate_id"),
    sa.Index("predictions_candidate", "experiment", "candidate_id", "run_date"),
    comment="one candidate in one night; a night is there whole or not at all",
)

predictions_superseded = sa.Table(
    "predictions_superseded",
    metadata,
    *_ranked_columns(),
    sa.Column(
        "superseded_by", sa.String(40), nullable=False, comment="the run that replaced the row"
    ),
    comment="a prediction of a night that was done again with --force; it may have been acted on",
)

scores = sa.Table(
    "scores",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True, comment=_EXPERIMENT),
    sa.Column(
        "model_name",
        sa.String(128),
        primary_key=True,
        comment="a dated model, or name and version for all its dates",
    ),
    sa.Column("cohort", sa.String(10), primary_key=True, comment=_COHORT),
    sa.Column(
        "metric",
        sa.String(40),
        primary_key=True,
        comment="n, roc_auc, log_loss, psi ...; reliability_rate_01 to _10",
    ),
    sa.Column(
        "value",
        FiniteDouble,
        nullable=False,
        comment="the figure; shares as 0 to 1, log loss in nats",
    ),
    sa.Column(
        "lower",
        FiniteDouble,
        comment="lower end of the 95 % jackknife interval; null where there is none",
    ),
    sa.Column("upper", FiniteDouble, comment="upper end of the interval; null where there is none"),
    sa.Column("n", sa.Integer, nullable=False, comment="mature predictions behind the value"),
    sa.Column("run_id", sa.String(40), nullable=False, comment=_SCORE_RUN),
    comment="one metric of one model in one cohort, as the newest score run found it",
)

variant_scores = sa.Table(
    "variant_scores",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True, comment=_EXPERIMENT),
    sa.Column("variant", sa.String(64), primary_key=True, comment="A, B, control ..."),
    sa.Column("cohort", sa.String(10), primary_key=True, comment=_COHORT),
    sa.Column("n_predicted", sa.Integer, nullable=False, comment="predictions written"),
    sa.Column(
        "n_mature", sa.Integer, nullable=False, comment="of these, with a closed outcome window"
    ),
    sa.Column("n_positive", sa.Integer, nullable=False, comment="of the mature, with the outcome"),
    sa.Column("rate", FiniteDouble, comment="n_positive / n_mature; null if none is mature"),
    sa.Column(
        "lower",
        FiniteDouble,
        comment="lower end of the rate's 95 % interval on one look; not for daily decisions",
    ),
    sa.Column("upper", FiniteDouble, comment="upper end of the interval; null if none is mature"),
    sa.Column("n_selected", sa.Integer, nullable=False, comment="of the mature, selected"),
    sa.Column(
        "n_selected_positive",
        sa.Integer,
        nullable=False,
        comment="of the mature and selected, with the outcome",
    ),
    sa.Column(
        "selected_rate",
        FiniteDouble,
        comment="n_selected_positive / n_selected; null if none is selected",
    ),
    sa.Column("run_id", sa.String(40), nullable=False, comment=_SCORE_RUN),
    sa.Column(
        "outcome_sum",
        FiniteDouble,
        nullable=False,
        comment="sum of the mature outcomes, capped",
    ),
    comment="one variant in one cohort, as the newest score run found it",
)

cohort_sums = sa.Table(
    "cohort_sums",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True, comment=_EXPERIMENT),
    sa.Column("cohort", sa.String(10), primary_key=True, comment=_COHORT),
    sa.Column("variant", sa.String(64), primary_key=True, comment="A, B, control ..."),
    sa.Column(
        "model_name",
        sa.String(128),
        primary_key=True,
        comment="as in scores; empty for the sums of the variant itself",
    ),
    sa.Column(
        "closed_date",
        sa.Date,
        nullable=False,
        comment="newest closed night when the row was written; the largest counts",
    ),
    sa.Column("content", sa.LargeBinary, nullable=False, comment="arrays as numpy's .npz"),
    sa.Column("run_id", sa.String(40), nullable=False, comment=_SCORE_RUN),
    comment=(
        "sums and histograms of nights whose outcomes are final, so that score reads a night once;"
        " score --rebuild makes them anew"
    ),
)

units = sa.Table(
    "units",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True, comment=_EXPERIMENT),
    sa.Column("metric", sa.String(64), primary_key=True, comment=_METRIC),
    sa.Column("candidate_id", sa.String(64), primary_key=True, comment="who was predicted"),
    sa.Column(
        "variant",
        sa.String(64),
        primary_key=True,
        comment="A, B, control ...; whoever is in two of them counts in none",
    ),
    sa.Column(
        "n_exposures",
        sa.Integer,
        nullable=False,
        comment="predictions that count: 1 if only the first does",
    ),
    sa.Column(
        "outcome", FiniteDouble, nullable=False, comment="sum of their outcomes, each capped"
    ),
    comment="what a candidate brought in the nights of cohort_sums; what verdicts are made of",
)

looks = sa.Table(
    "looks",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True, comment=_EXPERIMENT),
    sa.Column("run_date", sa.Date, primary_key=True, comment="the day of the look"),
    sa.Column(
        "watermark",
        sa.Date,
        comment="up to which outcomes were complete; null if the feed had not begun",
    ),
    sa.Column(
        "mature_date",
        sa.Date,
        comment="newest night whose outcome window was closed; null if none was",
    ),
    sa.Column(
        "n_predicted", sa.Integer, nullable=False, comment="predictions of all nights until then"
    ),
    sa.Column(
        "n_mature", sa.Integer, nullable=False, comment="of these, with a closed outcome window"
    ),
    sa.Column("n_units", sa.Integer, nullable=False, comment="candidates that the verdicts count"),
    sa.Column(
        "n_mixed",
        sa.Integer,
        nullable=False,
        comment="candidates left out because they were in more than one variant",
    ),
    sa.Column("run_id", sa.String(40), nullable=False, comment=_SCORE_RUN),
    comment="one day's reading of an experiment",
)

sample_ratios = sa.Table(
    "sample_ratios",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True, comment=_EXPERIMENT),
    sa.Column("run_date", sa.Date, primary_key=True, comment="the day of the look"),
    sa.Column(
        "stage",
        sa.String(16),
        primary_key=True,
        comment="assigned: everybody predicted; mature: outcome window closed",
    ),
    sa.Column("variant", sa.String(64), primary_key=True, comment="A, B, control ..."),
    sa.Column("n", sa.Integer, nullable=False, comment="distinct candidates so far"),
    sa.Column("expected", FiniteDouble, nullable=False, comment="what the registered share gives"),
    sa.Column(
        "pvalue",
        FiniteDouble,
        nullable=False,
        comment="of the sequential test over all variants, on this look",
    ),
    sa.Column(
        "pvalue_min",
        FiniteDouble,
        nullable=False,
        comment="the smallest so far; under 0.01 the experiment is invalid",
    ),
    sa.Column("run_id", sa.String(40), nullable=False, comment=_SCORE_RUN),
    comment="one variant on one look: is it as large as its registered share says",
)

verdicts = sa.Table(
    "verdicts",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True, comment=_EXPERIMENT),
    sa.Column("run_date", sa.Date, primary_key=True, comment="the day of the look"),
    sa.Column(
        "comparison",
        sa.String(140),
        primary_key=True,
        comment="treatment vs control: 'models vs control', 'B vs A'",
    ),
    sa.Column("metric", sa.String(64), primary_key=True, comment=_METRIC),
    sa.Column(
        "n_treatment",
        sa.Integer,
        nullable=False,
        comment="units (candidates) in the first of the two",
    ),
    sa.Column("n_control", sa.Integer, nullable=False, comment="units in the second of the two"),
    sa.Column(
        "exposures_treatment",
        sa.Integer,
        nullable=False,
        comment="their predictions that count; as many if only the first does",
    ),
    sa.Column("exposures_control", sa.Integer, nullable=False, comment="the same of the second"),
    sa.Column("sum_treatment", FiniteDouble, nullable=False, comment="sum of the outcomes"),
    sa.Column("sum_control", FiniteDouble, nullable=False, comment="sum of the outcomes"),
    sa.Column(
        "estimate",
        FiniteDouble,
        comment="difference of the means (sum / exposures), first minus second; null while unknown",
    ),
    sa.Column("se", FiniteDouble, comment="standard error of the estimate"),
    sa.Column("x", FiniteDouble, comment="how much is known, in the formula of the interval"),
    sa.Column(
        "lower", FiniteDouble, comment="lower end of the interval that holds on all looks together"
    ),
    sa.Column("upper", FiniteDouble, comment="upper end of the interval"),
    sa.Column("pvalue", FiniteDouble, comment="of this look"),
    sa.Column(
        "pvalue_min", FiniteDouble, comment="the smallest so far; for the word, the interval counts"
    ),
    sa.Column("lift", FiniteDouble, comment="relative difference of the means"),
    sa.Column(
        "lift_lower",
        FiniteDouble,
        comment="lower end of its interval (Fieller); null where it has no bounds",
    ),
    sa.Column("lift_upper", FiniteDouble, comment="upper end of its interval"),
    sa.Column(
        "word",
        sa.String(40),
        nullable=False,
        comment="better, worse, no difference larger than d, not yet known, too early, invalid",
    ),
    sa.Column("run_id", sa.String(40), nullable=False, comment=_SCORE_RUN),
    comment=(
        "one comparison on one look; of a guardrail the word is kept, broken, not yet known, too"
        " early or invalid"
    ),
)

conclusions = sa.Table(
    "conclusions",
    metadata,
    sa.Column(
        "conclusion_id",
        sa.Integer,
        primary_key=True,
        autoincrement=True,
        comment="of two, the higher counts",
    ),
    sa.Column("experiment", sa.String(64), nullable=False, comment=_EXPERIMENT),
    sa.Column("because", sa.UnicodeText, nullable=False, comment="what was concluded, and why"),
    sa.Column(
        "finding",
        sa.UnicodeText,
        nullable=False,
        comment="what the newest look said when it was concluded",
    ),
    sa.Column("concluded_by", sa.Unicode(255), nullable=False, comment="user and host"),
    sa.Column("concluded_at", Instant, nullable=False, comment="when the row was written, UTC"),
    sa.Index("conclusions_experiment", "experiment", "conclusion_id"),
    comment="what a person concluded from an experiment; only ever appended",
)

feature_counts = sa.Table(
    "feature_counts",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True, comment=_EXPERIMENT),
    sa.Column("run_date", sa.Date, primary_key=True, comment="the night, as a business date"),
    sa.Column(
        "model_name",
        sa.String(128),
        primary_key=True,
        comment="the dated model whose candidates are counted",
    ),
    sa.Column(
        "content",
        sa.UnicodeText,
        nullable=False,
        comment="candidates per bin or category of each feature, as JSON",
    ),
    sa.Column("run_id", sa.String(40), nullable=False, comment="the run that wrote the row"),
    comment="what one model's candidates of one night looked like; what feature_drift is made of",
)

feature_drift = sa.Table(
    "feature_drift",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True, comment=_EXPERIMENT),
    sa.Column(
        "model_name",
        sa.String(128),
        primary_key=True,
        comment="the dated model whose training rows are compared with",
    ),
    sa.Column(
        "cohort",
        sa.String(10),
        primary_key=True,
        comment="first day of the week or month of run_date",
    ),
    sa.Column(
        "feature", sa.Unicode(128), primary_key=True, comment="name of the column in the queries"
    ),
    sa.Column("kind", sa.String(16), nullable=False, comment="number or category"),
    sa.Column("n", sa.Integer, nullable=False, comment="candidates, mature or not"),
    sa.Column(
        "psi",
        FiniteDouble,
        nullable=False,
        comment="population stability index against the training rows",
    ),
    sa.Column(
        "psi_noise",
        FiniteDouble,
        nullable=False,
        comment="what chance alone exceeds in 5 % of cases",
    ),
    sa.Column("null_rate", FiniteDouble, nullable=False, comment="share of nulls"),
    sa.Column(
        "null_rate_training",
        FiniteDouble,
        nullable=False,
        comment="share of nulls in the training rows",
    ),
    sa.Column(
        "n_new",
        sa.Integer,
        nullable=False,
        comment="candidates of a category that training never saw",
    ),
    sa.Column(
        "new_categories",
        sa.UnicodeText,
        comment="these categories, the most common first; null if there are none",
    ),
    sa.Column("run_id", sa.String(40), nullable=False, comment=_SCORE_RUN),
    comment=(
        "how far the candidates of one dated model have moved from its training rows, by feature"
        " and cohort"
    ),
)

sa.Table(
    "current_predictions",
    views,
    *_ranked_columns(),
    comment="the predictions of each experiment's newest night",
)

sa.Table(
    "latest_predictions",
    views,
    *_ranked_columns(),
    comment="each candidate's newest prediction in each experiment",
)

sa.Table(
    "model_performance",
    views,
    sa.Column("experiment", sa.String(64), nullable=False, comment=_EXPERIMENT),
    sa.Column(
        "model_name",
        sa.String(128),
        nullable=False,
        comment="a dated model, or name and version for all its dates",
    ),
    sa.Column(
        "is_dated",
        sa.SmallInteger,
        nullable=False,
        comment="1 for a dated model, 0 for all dates of a version together",
    ),
    sa.Column("cohort", sa.String(10), nullable=False, comment=_COHORT),
    sa.Column(
        "cohort_date", sa.Date, comment="the cohort as a date, to sort and plot by; null for 'all'"
    ),
    sa.Column("scored_date", sa.Date, comment="run_date of the score run that wrote the figures"),
    sa.Column("n", sa.Integer, comment="mature predictions"),
    sa.Column(
        "n_positive",
        sa.Integer,
        comment="with the outcome; with fewer than 20 of either kind, metrics are null but for psi",
    ),
    sa.Column("base_rate", FiniteDouble, comment="n_positive / n"),
    sa.Column("roc_auc", FiniteDouble, comment="area under the ROC curve, 0 to 1; .5 is chance"),
    sa.Column("roc_auc_lower", FiniteDouble, comment="lower end of its 95 % interval"),
    sa.Column("roc_auc_upper", FiniteDouble, comment="upper end of its 95 % interval"),
    sa.Column("gini", FiniteDouble, comment="2 * roc_auc - 1"),
    sa.Column(
        "ks",
        FiniteDouble,
        comment="Kolmogorov-Smirnov distance between the two outcomes' predictions, 0 to 1",
    ),
    sa.Column(
        "average_precision",
        FiniteDouble,
        comment="area under the precision-recall curve, 0 to 1; base_rate is chance",
    ),
    sa.Column(
        "lift_top_decile", FiniteDouble, comment="the top tenth's rate as a multiple of base_rate"
    ),
    sa.Column(
        "capture_top_decile",
        FiniteDouble,
        comment="share of all outcomes that the top tenth holds, 0 to 1",
    ),
    sa.Column("log_loss", FiniteDouble, comment="mean log loss in nats; lower is better"),
    sa.Column(
        "brier",
        FiniteDouble,
        comment="mean squared error of the prediction, 0 to 1; lower is better",
    ),
    sa.Column(
        "brier_skill",
        FiniteDouble,
        comment="1 - brier / that of predicting base_rate for all; 0 is no skill",
    ),
    sa.Column(
        "calibration_intercept",
        FiniteDouble,
        comment="0 if predictions are right on average; in log-odds",
    ),
    sa.Column(
        "calibration_slope",
        FiniteDouble,
        comment="1 if right; under 1, predictions are too extreme",
    ),
    sa.Column(
        "psi",
        FiniteDouble,
        comment=(
            "population stability index against the training rows; null for all dates of a version"
        ),
    ),
    sa.Column("psi_noise", FiniteDouble, comment="what chance alone exceeds in 5 % of cases"),
    comment="one model in one cohort, its metrics side by side; from scores",
)

sa.Table(
    "experiment_status",
    views,
    sa.Column("experiment", sa.String(64), nullable=False, comment=_EXPERIMENT),
    sa.Column("variant", sa.String(64), nullable=False, comment="A, B, control ..."),
    sa.Column("registered_at", Instant, comment="when the first predict run started, UTC"),
    sa.Column("first_night", sa.Date, comment="run_date of the first night that is predicted"),
    sa.Column("last_night", sa.Date, comment="run_date of the newest night that is predicted"),
    sa.Column("n_nights", sa.Integer, comment="nights that are predicted"),
    sa.Column(
        "model_name", sa.String(128), comment="the dated model of last_night; null without a model"
    ),
    sa.Column(
        "n_last_night", sa.Integer, comment="candidates of last_night; null if the variant had none"
    ),
    sa.Column("n_selected_last_night", sa.Integer, comment="of these, selected"),
    sa.Column(
        "scored_date",
        sa.Date,
        comment="run_date of the score run that counted what follows; null before the first",
    ),
    sa.Column("n_predicted", sa.Integer, comment="predictions of all nights until then"),
    sa.Column("n_mature", sa.Integer, comment="of these, with a closed outcome window"),
    sa.Column("n_positive", sa.Integer, comment="of the mature, with the outcome"),
    sa.Column("rate", FiniteDouble, comment="n_positive / n_mature; null if none is mature"),
    sa.Column(
        "lower",
        FiniteDouble,
        comment="lower end of the rate's 95 % interval on one look; not for daily decisions",
    ),
    sa.Column("upper", FiniteDouble, comment="upper end of the interval"),
    sa.Column("n_selected", sa.Integer, comment="of the mature, selected"),
    sa.Column(
        "n_selected_positive", sa.Integer, comment="of the mature and selected, with the outcome"
    ),
    sa.Column(
        "selected_rate",
        FiniteDouble,
        comment="n_selected_positive / n_selected; null if none is selected",
    ),
    comment="one variant of one experiment: what was predicted, and what came of it so far",
)

sa.Table(
    "current_verdicts",
    views,
    sa.Column("experiment", sa.String(64), nullable=False, comment=_EXPERIMENT),
    sa.Column(
        "comparison",
        sa.String(140),
        nullable=False,
        comment="treatment vs control: 'models vs control', 'B vs A'",
    ),
    sa.Column("metric", sa.String(64), nullable=False, comment=_METRIC),
    sa.Column("look_date", sa.Date, nullable=False, comment="the day of the newest look"),
    sa.Column(
        "word",
        sa.String(40),
        nullable=False,
        comment="better, worse, no difference larger than d, not yet known, too early, invalid",
    ),
    sa.Column(
        "estimate",
        FiniteDouble,
        comment="difference of the means, first minus second; null while unknown",
    ),
    sa.Column(
        "lower", FiniteDouble, comment="lower end of the interval that holds on all looks together"
    ),
    sa.Column("upper", FiniteDouble, comment="upper end of the interval"),
    sa.Column("lift", FiniteDouble, comment="relative difference of the means"),
    sa.Column(
        "lift_lower", FiniteDouble, comment="lower end of its interval; null where it has no bounds"
    ),
    sa.Column("lift_upper", FiniteDouble, comment="upper end of its interval"),
    sa.Column(
        "n_treatment",
        sa.Integer,
        nullable=False,
        comment="units (candidates) in the first of the two",
    ),
    sa.Column("n_control", sa.Integer, nullable=False, comment="units in the second of the two"),
    sa.Column(
        "first_decided_date",
        sa.Date,
        comment=(
            "the first look whose word was better, worse, no difference or broken; null if none was"
        ),
    ),
    sa.Column(
        "mature_date",
        sa.Date,
        comment="newest night whose outcome window was closed; null if none was",
    ),
    comment=(
        "what is known today: the newest look of each experiment, one row per comparison and metric"
    ),
)

sa.Table(
    "run_history",
    views,
    sa.Column("run_id", sa.String(40), comment="null for a missed night"),
    sa.Column("job", sa.String(16), nullable=False, comment="train, predict or score"),
    sa.Column("experiment", sa.String(64), nullable=False, comment=_EXPERIMENT),
    sa.Column(
        "run_date",
        sa.Date,
        nullable=False,
        comment="the business date that the run is for, or that was missed",
    ),
    sa.Column(
        "status",
        sa.String(16),
        nullable=False,
        comment="running, done, failed, superseded; missed if no run is done for it",
    ),
    sa.Column("started_at", Instant, comment="when the run started, UTC"),
    sa.Column("finished_at", Instant, comment="UTC; null while running"),
    sa.Column(
        "seconds",
        FiniteDouble,
        comment="from start to finish, to the millisecond; null while running",
    ),
    sa.Column(
        "rows_read", sa.Integer, comment="rows that its queries returned; null unless it was done"
    ),
    sa.Column(
        "rows_written",
        sa.Integer,
        comment="models, predictions or figures written; null unless it was done",
    ),
    sa.Column(
        "code_version",
        sa.String(64),
        comment="abatch's version and commit; -dirty if the code was changed",
    ),
    sa.Column("host", sa.Unicode(255), comment="host and process id"),
    sa.Column("error", sa.UnicodeText, comment="why the run failed; null unless it did"),
    comment=(
        "every run, and the nights from the first done one to yesterday (UTC) that predict or score"
        " has not done; a night that failed and was not done again is there as failed and as missed"
    ),
)
