"""Indexes that the queries need, and a comment on every table and column"""

from alembic import op

from abatch.database.migrations.ddl import comment_on

revision = "0002"
down_revision = "0001"

EXPERIMENT = "name of the experiment in ml_config.yaml"
SCORE_RUN = "the score run that wrote the row"
CODE_VERSION = "abatch's version and commit; -dirty if the code was changed"
TABLE_COMMENTS = {
    "models": "one dated model; its file lies in the models folder, and neither is ever changed",
    "predictions": "one candidate in one night; a night is there whole or not at all",
    "predictions_staging": (
        "a prediction of a night that is being written, or of a run that died; not for readers"
    ),
    "predictions_superseded": (
        "a prediction of a night that was done again with --force; it may have been acted on"
    ),
    "promotions": "what became live, when, by whom and why; only ever appended",
    "registrations": (
        "what an experiment asks, written down before its first outcome and never changed"
    ),
    "runs": "one run of a job for one experiment and one night",
    "scores": "one metric of one model in one cohort, as the newest score run found it",
    "variant_scores": "one variant in one cohort, as the newest score run found it",
}
COLUMN_COMMENTS = {
    "models": {
        "experiment": EXPERIMENT,
        "code_version": CODE_VERSION,
        "seed": "of every random_state that the estimator leaves open",
        "run_id": "the train run that made the model",
    },
    "predictions_staging": {"run_id": "the run that is writing the row"},
    "promotions": {
        "promotion_id": "of two that are effective, the higher counts",
        "experiment": EXPERIMENT,
        "variant": "the variant whose predictions the model makes",
        "model_name": "the dated model that becomes live",
        "reason": "why",
        "evidence": "the figures behind the reason, as JSON; null if done by hand",
        "promoted_by": "user and host, or the train run",
        "promoted_at": "when the row was written, UTC",
    },
    "registrations": {
        "experiment": EXPERIMENT,
        "registered_at": "when the first predict run started, UTC",
    },
    "runs": {
        "run_id": "when the run started, UTC, and a random part",
        "experiment": EXPERIMENT,
        "started_at": "when the run started, UTC",
        "rows_read": "rows that its queries returned; null unless it was done",
        "rows_written": "models, predictions or figures written; null unless it was done",
        "code_version": CODE_VERSION,
        "error": "why the run failed; null unless it did",
    },
    "scores": {
        "experiment": EXPERIMENT,
        "metric": "n, roc_auc, log_loss, psi ...; reliability_rate_01 to _10",
        "value": "the figure; shares as 0 to 1, log loss in nats",
        "lower": "lower end of the 95 % jackknife interval; null where there is none",
        "upper": "upper end of the interval; null where there is none",
        "run_id": SCORE_RUN,
    },
    "variant_scores": {
        "experiment": EXPERIMENT,
        "variant": "A, B, control ...",
        "lower": "lower end of the rate's 95 % interval on one look; not for daily decisions",
        "upper": "upper end of the interval; null if none is mature",
        "n_selected_positive": "of the mature and selected, with the outcome",
        "selected_rate": "n_selected_positive / n_selected; null if none is selected",
        "run_id": SCORE_RUN,
    },
}


def upgrade() -> None:
    op.create_index("models_experiment", "models", ["experiment"])
    op.create_index(
        "predictions_candidate", "predictions", ["experiment", "candidate_id", "run_date"]
    )
    op.create_index(
        "predictions_staging_run",
        "predictions_staging",
        ["experiment", "run_id"],
        mssql_clustered=True,
    )
    op.create_index("promotions_experiment", "promotions", ["experiment", "promotion_id"])
    op.create_index("runs_night", "runs", ["experiment", "job", "run_date"])
    for name, comment in TABLE_COMMENTS.items():
        comment_on("table", name, {"": comment, **COLUMN_COMMENTS.get(name, {})})
