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

REVISION = "0001_6eced07f"
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


def column(
    name: str, type_: Any, comment: str, *, null: bool = False, key: bool = False
) -> sa.Column[Any]:
    """A column with its comment; it is never null unless `null`."""
    return sa.Column(name, type_, nullable=null, primary_key=key, comment=comment)


_EXPERIMENT = "name of the experiment in ml_config.yaml"
_COHORT = "first day of the week or month of run_date, or 'all'"
_SCORE_RUN = "the score run that wrote the row"
_METRIC = "'outcome', or the name of a guardrail"


def _prediction_columns() -> list[sa.Column]:
    return [
        column("experiment", sa.String(64), _EXPERIMENT),
        column("run_date", sa.Date, "the night, as a business date"),
        column("candidate_id", sa.String(64), "who is predicted, as the candidates query names it"),
        column("variant", sa.String(64), "A, B, control ...: by hash, or as recorded elsewhere"),
        column("assignment_probability", FiniteDouble, "the variant's registered share"),
        column(
            "model_name",
            sa.String(128),
            "the dated model; null where the variant has no model",
            null=True,
        ),
        column(
            "prediction",
            FiniteDouble,
            "probability of the outcome, 0 to 1; null where there is no model",
            null=True,
        ),
    ]


def _ranked_columns() -> list[sa.Column]:
    return [
        *_prediction_columns(),
        column(
            "rank_in_variant", sa.Integer, "1 = highest prediction; in random order without a model"
        ),
        column(
            "selected", sa.SmallInteger, "1 if among the first floor(select_top * n) of its variant"
        ),
        column("run_id", sa.String(40), "the run that wrote the row"),
        column("predicted_at", Instant, "when the row was written, UTC"),
    ]


runs = sa.Table(
    "runs",
    metadata,
    column("run_id", sa.String(40), "when the run started, UTC, and a random part", key=True),
    column("job", sa.String(16), "train, predict or score"),
    column("experiment", sa.String(64), _EXPERIMENT),
    column("run_date", sa.Date, "the business date that the run is for"),
    column("status", sa.String(16), "running, done, failed or superseded"),
    column("started_at", Instant, "when the run started, UTC"),
    column("finished_at", Instant, "UTC; null while running", null=True),
    column(
        "rows_read",
        sa.Integer,
        "rows that its queries returned; null unless it was done",
        null=True,
    ),
    column(
        "rows_written",
        sa.Integer,
        "models, predictions or figures written; null unless it was done",
        null=True,
    ),
    column(
        "code_version", sa.String(64), "abatch's version and commit; -dirty if the code was changed"
    ),
    column("config_hash", sa.String(64), "SHA-256 of the experiment's settings and queries"),
    column("host", sa.Unicode(255), "host and process id"),
    column("error", sa.UnicodeText, "why the run failed; null unless it did", null=True),
    sa.Index("runs_night", "experiment", "job", "run_date"),
    comment="one run of a job for one experiment and one night",
)
sa.Index("runs_one_done", runs.c.job, runs.c.experiment, runs.c.run_date, unique=True, **_DONE)

models = sa.Table(
    "models",
    metadata,
    column("model_name", sa.String(128), "model, version, date: modelA_v1.0_2026-11-23", key=True),
    column("experiment", sa.String(64), _EXPERIMENT),
    column("variant", sa.String(64), "the variant that the model was trained for"),
    column("name", sa.String(64), "of the model in the config: modelA"),
    column("version", sa.String(20), "in the config: 1.0"),
    column("run_date", sa.Date, "the business date that it was trained on"),
    column("file", sa.Unicode(255), "file name inside the models folder"),
    column("sha256", sa.String(64), "of the file: a pickle is opened only when it matches"),
    column("from_date", sa.Date, "first day of the training rows"),
    column("to_date", sa.Date, "end of the training rows, excluded"),
    column("as_of", Instant, "the moment whose knowledge was used, UTC"),
    column("rows", sa.Integer, "training rows, validation included"),
    column(
        "code_version", sa.String(64), "abatch's version and commit; -dirty if the code was changed"
    ),
    column("environment_hash", sa.String(64), "SHA-256 of the library versions"),
    column("seed", sa.Integer, "of every random_state that the estimator leaves open"),
    column("card", sa.UnicodeText, "the model's .json: columns, metrics, reference, versions"),
    column("run_id", sa.String(40), "the train run that made the model"),
    column("snapshot", sa.String(64), "content hash of the training rows as kept"),
    column("decision", sa.UnicodeText, "whether it went live when it was trained, and why"),
    sa.Index("models_experiment", "experiment"),
    comment="one dated model; its file lies in the models folder, and neither is ever changed",
)

promotions = sa.Table(
    "promotions",
    metadata,
    column("promotion_id", sa.Integer, "of two that are effective, the higher counts", key=True),
    column("experiment", sa.String(64), _EXPERIMENT),
    column("variant", sa.String(64), "the variant whose predictions the model makes"),
    column("model_name", sa.String(128), "the dated model that becomes live"),
    column("action", sa.String(16), "promote or rollback"),
    column("effective_date", sa.Date, "live from this run_date on"),
    column("reason", sa.Unicode(1000), "why"),
    column(
        "evidence",
        sa.UnicodeText,
        "the figures behind the reason, as JSON; null if done by hand",
        null=True,
    ),
    column("promoted_by", sa.Unicode(255), "user and host, or the train run"),
    column("promoted_at", Instant, "when the row was written, UTC"),
    sa.Index("promotions_experiment", "experiment", "promotion_id"),
    comment="what became live, when, by whom and why; only ever appended",
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    column("run_id", sa.String(40), "the train run that pulled the rows", key=True),
    column("experiment", sa.String(64), _EXPERIMENT),
    column(
        "content_hash", sa.String(64), "SHA-256 of names, types and values; the file is named by it"
    ),
    column(
        "sha256",
        sa.String(64),
        "of the file; of several rows with one content_hash the newest counts",
    ),
    column("n_bytes", sa.BigInteger, "size of the file"),
    column("rows", sa.Integer, "rows that the query returned"),
    column("from_date", sa.Date, "bind :from_date"),
    column("to_date", sa.Date, "bind :to_date, excluded"),
    column("as_of", Instant, "bind :as_of, UTC"),
    column("query", sa.UnicodeText, "text of the training query"),
    column("columns", sa.UnicodeText, "name, type, nulls and SHA-256 of each column, as JSON"),
    column("pulled_at", Instant, "when the row was written, UTC"),
    sa.Index("snapshots_content", "content_hash"),
    comment=(
        "training rows as one train run pulled them; their file lies in the snapshots folder, once"
        " for equal content"
    ),
)

deletions = sa.Table(
    "deletions",
    metadata,
    column("deletion_id", sa.Integer, "in the order in which they were written", key=True),
    column("kind", sa.String(16), "model or snapshot"),
    column("name", sa.String(128), "model_name, or content_hash of the snapshot"),
    column("reason", sa.Unicode(1000), "why"),
    column("deleted_by", sa.Unicode(255), "user and host, or the train run"),
    column("deleted_at", Instant, "when the row was written, UTC"),
    sa.Index("deletions_name", "kind", "name"),
    comment="whose file was deleted, by retention or by hand; its record stays; only ever appended",
)

registrations = sa.Table(
    "registrations",
    metadata,
    column("experiment", sa.String(64), _EXPERIMENT, key=True),
    column("hash", sa.String(64), "SHA-256 of the content"),
    column("content", sa.UnicodeText, "all that a verdict depends on, as JSON"),
    column("registered_at", Instant, "when the first predict run started, UTC"),
    column("run_id", sa.String(40), "the first predict run"),
    comment="what an experiment asks, written down before its first outcome and never changed",
)

predictions_staging = sa.Table(
    "predictions_staging",
    metadata,
    column("run_id", sa.String(40), "the run that is writing the row"),
    *_prediction_columns(),
    column(
        "selection_key", sa.String(16), "bytes 8 to 15 of the hash, in hex: random order, and ties"
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
    column("superseded_by", sa.String(40), "the run that replaced the row"),
    comment="a prediction of a night that was done again with --force; it may have been acted on",
)

scores = sa.Table(
    "scores",
    metadata,
    column("experiment", sa.String(64), _EXPERIMENT, key=True),
    column(
        "model_name",
        sa.String(128),
        "a dated model, or name and version for all its dates",
        key=True,
    ),
    column("cohort", sa.String(10), _COHORT, key=True),
    column(
        "metric",
        sa.String(40),
        "n, roc_auc, log_loss, psi ...; reliability_rate_01 to _10",
        key=True,
    ),
    column("value", FiniteDouble, "the figure; shares as 0 to 1, log loss in nats"),
    column(
        "lower",
        FiniteDouble,
        "lower end of the 95 % jackknife interval; null where there is none",
        null=True,
    ),
    column("upper", FiniteDouble, "upper end of the interval; null where there is none", null=True),
    column("n", sa.Integer, "mature predictions behind the value"),
    column("run_id", sa.String(40), _SCORE_RUN),
    comment="one metric of one model in one cohort, as the newest score run found it",
)

variant_scores = sa.Table(
    "variant_scores",
    metadata,
    column("experiment", sa.String(64), _EXPERIMENT, key=True),
    column("variant", sa.String(64), "A, B, control ...", key=True),
    column("cohort", sa.String(10), _COHORT, key=True),
    column("n_predicted", sa.Integer, "predictions written"),
    column("n_mature", sa.Integer, "of these, with a closed outcome window"),
    column("n_positive", sa.Integer, "of the mature, with the outcome"),
    column("rate", FiniteDouble, "n_positive / n_mature; null if none is mature", null=True),
    column(
        "lower",
        FiniteDouble,
        "lower end of the rate's 95 % interval on one look; not for daily decisions",
        null=True,
    ),
    column("upper", FiniteDouble, "upper end of the interval; null if none is mature", null=True),
    column("n_selected", sa.Integer, "of the mature, selected"),
    column("n_selected_positive", sa.Integer, "of the mature and selected, with the outcome"),
    column(
        "selected_rate",
        FiniteDouble,
        "n_selected_positive / n_selected; null if none is selected",
        null=True,
    ),
    column("run_id", sa.String(40), _SCORE_RUN),
    column("outcome_sum", FiniteDouble, "sum of the mature outcomes, capped"),
    comment="one variant in one cohort, as the newest score run found it",
)

cohort_sums = sa.Table(
    "cohort_sums",
    metadata,
    column("experiment", sa.String(64), _EXPERIMENT, key=True),
    column("cohort", sa.String(10), _COHORT, key=True),
    column("variant", sa.String(64), "A, B, control ...", key=True),
    column(
        "model_name",
        sa.String(128),
        "as in scores; empty for the sums of the variant itself",
        key=True,
    ),
    column(
        "closed_date", sa.Date, "newest closed night when the row was written; the largest counts"
    ),
    column("content", sa.LargeBinary, "arrays as numpy's .npz"),
    column("run_id", sa.String(40), _SCORE_RUN),
    comment=(
        "sums and histograms of nights whose outcomes are final, so that score reads a night once;"
        " score --rebuild makes them anew"
    ),
)

units = sa.Table(
    "units",
    metadata,
    column("experiment", sa.String(64), _EXPERIMENT, key=True),
    column("metric", sa.String(64), _METRIC, key=True),
    column("candidate_id", sa.String(64), "who was predicted", key=True),
    column(
        "variant",
        sa.String(64),
        "A, B, control ...; whoever is in two of them counts in none",
        key=True,
    ),
    column("n_exposures", sa.Integer, "predictions that count: 1 if only the first does"),
    column("outcome", FiniteDouble, "sum of their outcomes, each capped"),
    comment="what a candidate brought in the nights of cohort_sums; what verdicts are made of",
)

looks = sa.Table(
    "looks",
    metadata,
    column("experiment", sa.String(64), _EXPERIMENT, key=True),
    column("run_date", sa.Date, "the day of the look", key=True),
    column(
        "watermark",
        sa.Date,
        "up to which outcomes were complete; null if the feed had not begun",
        null=True,
    ),
    column(
        "mature_date",
        sa.Date,
        "newest night whose outcome window was closed; null if none was",
        null=True,
    ),
    column("n_predicted", sa.Integer, "predictions of all nights until then"),
    column("n_mature", sa.Integer, "of these, with a closed outcome window"),
    column("n_units", sa.Integer, "candidates that the verdicts count"),
    column("n_mixed", sa.Integer, "candidates left out because they were in more than one variant"),
    column("run_id", sa.String(40), _SCORE_RUN),
    comment="one day's reading of an experiment",
)

sample_ratios = sa.Table(
    "sample_ratios",
    metadata,
    column("experiment", sa.String(64), _EXPERIMENT, key=True),
    column("run_date", sa.Date, "the day of the look", key=True),
    column(
        "stage",
        sa.String(16),
        "assigned: everybody predicted; mature: outcome window closed",
        key=True,
    ),
    column("variant", sa.String(64), "A, B, control ...", key=True),
    column("n", sa.Integer, "distinct candidates so far"),
    column("expected", FiniteDouble, "what the registered share gives"),
    column("pvalue", FiniteDouble, "of the sequential test over all variants, on this look"),
    column("pvalue_min", FiniteDouble, "the smallest so far; under 0.01 the experiment is invalid"),
    column("run_id", sa.String(40), _SCORE_RUN),
    comment="one variant on one look: is it as large as its registered share says",
)

verdicts = sa.Table(
    "verdicts",
    metadata,
    column("experiment", sa.String(64), _EXPERIMENT, key=True),
    column("run_date", sa.Date, "the day of the look", key=True),
    column(
        "comparison",
        sa.String(140),
        "treatment vs control: 'models vs control', 'B vs A'",
        key=True,
    ),
    column("metric", sa.String(64), _METRIC, key=True),
    column("n_treatment", sa.Integer, "units (candidates) in the first of the two"),
    column("n_control", sa.Integer, "units in the second of the two"),
    column(
        "exposures_treatment",
        sa.Integer,
        "their predictions that count; as many if only the first does",
    ),
    column("exposures_control", sa.Integer, "the same of the second"),
    column("sum_treatment", FiniteDouble, "sum of the outcomes"),
    column("sum_control", FiniteDouble, "sum of the outcomes"),
    column(
        "estimate",
        FiniteDouble,
        "difference of the means (sum / exposures), first minus second; null while unknown",
        null=True,
    ),
    column("se", FiniteDouble, "standard error of the estimate", null=True),
    column(
        "information", FiniteDouble, "how much is known, in the formula of the interval", null=True
    ),
    column(
        "lower",
        FiniteDouble,
        "lower end of the interval that holds on all looks together",
        null=True,
    ),
    column("upper", FiniteDouble, "upper end of the interval", null=True),
    column("pvalue", FiniteDouble, "of this look", null=True),
    column(
        "pvalue_min",
        FiniteDouble,
        "the smallest so far; for the word, the interval counts",
        null=True,
    ),
    column("lift", FiniteDouble, "relative difference of the means", null=True),
    column(
        "lift_lower",
        FiniteDouble,
        "lower end of its interval (Fieller); null where it has no bounds",
        null=True,
    ),
    column("lift_upper", FiniteDouble, "upper end of its interval", null=True),
    column(
        "word",
        sa.String(40),
        "better, worse, no difference larger than d, not yet known, too early, invalid",
    ),
    column("run_id", sa.String(40), _SCORE_RUN),
    comment=(
        "one comparison on one look; of a guardrail the word is kept, broken, not yet known, too"
        " early or invalid"
    ),
)

conclusions = sa.Table(
    "conclusions",
    metadata,
    column("conclusion_id", sa.Integer, "of two, the higher counts", key=True),
    column("experiment", sa.String(64), _EXPERIMENT),
    column("because", sa.UnicodeText, "what was concluded, and why"),
    column("finding", sa.UnicodeText, "what the newest look said when it was concluded"),
    column("concluded_by", sa.Unicode(255), "user and host"),
    column("concluded_at", Instant, "when the row was written, UTC"),
    sa.Index("conclusions_experiment", "experiment", "conclusion_id"),
    comment="what a person concluded from an experiment; only ever appended",
)

feature_counts = sa.Table(
    "feature_counts",
    metadata,
    column("experiment", sa.String(64), _EXPERIMENT, key=True),
    column("run_date", sa.Date, "the night, as a business date", key=True),
    column("model_name", sa.String(128), "the dated model whose candidates are counted", key=True),
    column("content", sa.UnicodeText, "candidates per bin or category of each feature, as JSON"),
    column("run_id", sa.String(40), "the run that wrote the row"),
    comment="what one model's candidates of one night looked like; what feature_drift is made of",
)

feature_drift = sa.Table(
    "feature_drift",
    metadata,
    column("experiment", sa.String(64), _EXPERIMENT, key=True),
    column(
        "model_name",
        sa.String(128),
        "the dated model whose training rows are compared with",
        key=True,
    ),
    column("cohort", sa.String(10), "first day of the week or month of run_date", key=True),
    column("feature", sa.Unicode(128), "name of the column in the queries", key=True),
    column("kind", sa.String(16), "number or category"),
    column("n", sa.Integer, "candidates, mature or not"),
    column("psi", FiniteDouble, "population stability index against the training rows"),
    column("psi_noise", FiniteDouble, "what chance alone exceeds in 5 % of cases"),
    column("null_rate", FiniteDouble, "share of nulls"),
    column("null_rate_training", FiniteDouble, "share of nulls in the training rows"),
    column("n_new", sa.Integer, "candidates of a category that training never saw"),
    column(
        "new_categories",
        sa.UnicodeText,
        "these categories, the most common first; null if there are none",
        null=True,
    ),
    column("run_id", sa.String(40), _SCORE_RUN),
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
    column("experiment", sa.String(64), _EXPERIMENT),
    column("model_name", sa.String(128), "a dated model, or name and version for all its dates"),
    column(
        "is_dated", sa.SmallInteger, "1 for a dated model, 0 for all dates of a version together"
    ),
    column("cohort", sa.String(10), _COHORT),
    column(
        "cohort_date",
        sa.Date,
        "the cohort as a date, to sort and plot by; null for 'all'",
        null=True,
    ),
    column("scored_date", sa.Date, "run_date of the score run that wrote the figures", null=True),
    column("n", sa.Integer, "mature predictions", null=True),
    column(
        "n_positive",
        sa.Integer,
        "with the outcome; with fewer than 20 of either kind, metrics are null but for psi",
        null=True,
    ),
    column("base_rate", FiniteDouble, "n_positive / n", null=True),
    column("roc_auc", FiniteDouble, "area under the ROC curve, 0 to 1; .5 is chance", null=True),
    column("roc_auc_lower", FiniteDouble, "lower end of its 95 % interval", null=True),
    column("roc_auc_upper", FiniteDouble, "upper end of its 95 % interval", null=True),
    column("gini", FiniteDouble, "2 * roc_auc - 1", null=True),
    column(
        "ks",
        FiniteDouble,
        "Kolmogorov-Smirnov distance between the two outcomes' predictions, 0 to 1",
        null=True,
    ),
    column(
        "average_precision",
        FiniteDouble,
        "area under the precision-recall curve, 0 to 1; base_rate is chance",
        null=True,
    ),
    column(
        "lift_top_decile",
        FiniteDouble,
        "the top tenth's rate as a multiple of base_rate",
        null=True,
    ),
    column(
        "capture_top_decile",
        FiniteDouble,
        "share of all outcomes that the top tenth holds, 0 to 1",
        null=True,
    ),
    column("log_loss", FiniteDouble, "mean log loss in nats; lower is better", null=True),
    column(
        "brier",
        FiniteDouble,
        "mean squared error of the prediction, 0 to 1; lower is better",
        null=True,
    ),
    column(
        "brier_skill",
        FiniteDouble,
        "1 - brier / that of predicting base_rate for all; 0 is no skill",
        null=True,
    ),
    column(
        "calibration_intercept",
        FiniteDouble,
        "0 if predictions are right on average; in log-odds",
        null=True,
    ),
    column(
        "calibration_slope",
        FiniteDouble,
        "1 if right; under 1, predictions are too extreme",
        null=True,
    ),
    column(
        "psi",
        FiniteDouble,
        "population stability index against the training rows; null for all dates of a version",
        null=True,
    ),
    column("psi_noise", FiniteDouble, "what chance alone exceeds in 5 % of cases", null=True),
    comment="one model in one cohort, its metrics side by side; from scores",
)

sa.Table(
    "experiment_status",
    views,
    column("experiment", sa.String(64), _EXPERIMENT),
    column("variant", sa.String(64), "A, B, control ..."),
    column("registered_at", Instant, "when the first predict run started, UTC", null=True),
    column("first_night", sa.Date, "run_date of the first night that is predicted", null=True),
    column("last_night", sa.Date, "run_date of the newest night that is predicted", null=True),
    column("n_nights", sa.Integer, "nights that are predicted", null=True),
    column(
        "model_name",
        sa.String(128),
        "the dated model of last_night; null without a model",
        null=True,
    ),
    column(
        "n_last_night",
        sa.Integer,
        "candidates of last_night; null if the variant had none",
        null=True,
    ),
    column("n_selected_last_night", sa.Integer, "of these, selected", null=True),
    column(
        "scored_date",
        sa.Date,
        "run_date of the score run that counted what follows; null before the first",
        null=True,
    ),
    column("n_predicted", sa.Integer, "predictions of all nights until then", null=True),
    column("n_mature", sa.Integer, "of these, with a closed outcome window", null=True),
    column("n_positive", sa.Integer, "of the mature, with the outcome", null=True),
    column("rate", FiniteDouble, "n_positive / n_mature; null if none is mature", null=True),
    column(
        "lower",
        FiniteDouble,
        "lower end of the rate's 95 % interval on one look; not for daily decisions",
        null=True,
    ),
    column("upper", FiniteDouble, "upper end of the interval", null=True),
    column("n_selected", sa.Integer, "of the mature, selected", null=True),
    column(
        "n_selected_positive", sa.Integer, "of the mature and selected, with the outcome", null=True
    ),
    column(
        "selected_rate",
        FiniteDouble,
        "n_selected_positive / n_selected; null if none is selected",
        null=True,
    ),
    comment="one variant of one experiment: what was predicted, and what came of it so far",
)

sa.Table(
    "current_verdicts",
    views,
    column("experiment", sa.String(64), _EXPERIMENT),
    column("comparison", sa.String(140), "treatment vs control: 'models vs control', 'B vs A'"),
    column("metric", sa.String(64), _METRIC),
    column("look_date", sa.Date, "the day of the newest look"),
    column(
        "word",
        sa.String(40),
        "better, worse, no difference larger than d, not yet known, too early, invalid",
    ),
    column(
        "estimate",
        FiniteDouble,
        "difference of the means, first minus second; null while unknown",
        null=True,
    ),
    column(
        "lower",
        FiniteDouble,
        "lower end of the interval that holds on all looks together",
        null=True,
    ),
    column("upper", FiniteDouble, "upper end of the interval", null=True),
    column("lift", FiniteDouble, "relative difference of the means", null=True),
    column(
        "lift_lower",
        FiniteDouble,
        "lower end of its interval; null where it has no bounds",
        null=True,
    ),
    column("lift_upper", FiniteDouble, "upper end of its interval", null=True),
    column("n_treatment", sa.Integer, "units (candidates) in the first of the two"),
    column("n_control", sa.Integer, "units in the second of the two"),
    column(
        "first_decided_date",
        sa.Date,
        "the first look whose word was better, worse, no difference or broken; null if none was",
        null=True,
    ),
    column(
        "mature_date",
        sa.Date,
        "newest night whose outcome window was closed; null if none was",
        null=True,
    ),
    comment=(
        "what is known today: the newest look of each experiment, one row per comparison and metric"
    ),
)

sa.Table(
    "run_history",
    views,
    column("run_id", sa.String(40), "null for a missed night", null=True),
    column("job", sa.String(16), "train, predict or score"),
    column("experiment", sa.String(64), _EXPERIMENT),
    column("run_date", sa.Date, "the business date that the run is for, or that was missed"),
    column(
        "status",
        sa.String(16),
        "running, done, failed, superseded; missed if no run is done for it",
    ),
    column("started_at", Instant, "when the run started, UTC", null=True),
    column("finished_at", Instant, "UTC; null while running", null=True),
    column(
        "seconds",
        FiniteDouble,
        "from start to finish, to the millisecond; null while running",
        null=True,
    ),
    column(
        "rows_read",
        sa.Integer,
        "rows that its queries returned; null unless it was done",
        null=True,
    ),
    column(
        "rows_written",
        sa.Integer,
        "models, predictions or figures written; null unless it was done",
        null=True,
    ),
    column(
        "code_version",
        sa.String(64),
        "abatch's version and commit; -dirty if the code was changed",
        null=True,
    ),
    column("host", sa.Unicode(255), "host and process id", null=True),
    column("error", sa.UnicodeText, "why the run failed; null unless it did", null=True),
    comment=(
        "every run, and the nights from the first done one to yesterday (UTC) that predict or score"
        " has not done; a night that failed and was not done again is there as failed and as missed"
    ),
)
