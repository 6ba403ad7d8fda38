"""Indexes that the queries need, views for analysts, and a comment on every table, view and column"""

from alembic import op

from abatch.database.migrations.ddl import comment_on, create_view

revision = "0002"
down_revision = "0001"

# Small differences between the databases, by dialect: what a view cannot say in one way.
FRAGMENTS = {
    "mssql": {
        "cohort_date": "cast(nullif(s.cohort, 'all') as date)",
        "night": "dateadd(day, days.n, begun.first_night)",
        "today": "cast(sysutcdatetime() as date)",
        "seconds": (
            "datediff_big(millisecond, r.started_at, r.finished_at) / cast(1000 as double"
            " precision)"
        ),
    },
    "postgresql": {
        "cohort_date": "cast(nullif(s.cohort, 'all') as date)",
        "night": "begun.first_night + days.n",
        "today": "cast(now() at time zone 'UTC' as date)",
        "seconds": (
            "cast(round(extract(epoch from r.finished_at - r.started_at), 3) as double precision)"
        ),
    },
    "sqlite": {
        "cohort_date": "date(nullif(s.cohort, 'all'))",
        "night": "date(julianday(begun.first_night) + days.n)",
        "today": "date('now')",
        "seconds": "round((julianday(r.finished_at) - julianday(r.started_at)) * 86400, 3)",
    },
}
VIEWS = {
    "current_predictions": (
        """
-- The predictions of each experiment's newest night. One row per experiment and candidate.
-- Reads:  predictions, runs
select
    p.experiment,
    p.run_date,
    p.candidate_id,
    p.variant,
    p.assignment_probability,
    p.model_name,
    p.prediction,
    p.rank_in_variant,
    p.selected,
    p.run_id,
    p.predicted_at
from {schema}predictions as p
inner join (
    select
        experiment,
        max(run_date) as last_night
    from {schema}runs
    where job = 'predict' and status = 'done'
    group by experiment
) as nights on nights.experiment = p.experiment and nights.last_night = p.run_date"""
    ),
    "latest_predictions": (
        """
-- Each candidate's newest prediction. One row per experiment and candidate.
-- Reads:  predictions
select
    ranked.experiment,
    ranked.run_date,
    ranked.candidate_id,
    ranked.variant,
    ranked.assignment_probability,
    ranked.model_name,
    ranked.prediction,
    ranked.rank_in_variant,
    ranked.selected,
    ranked.run_id,
    ranked.predicted_at
from (
    select
        p.experiment,
        p.run_date,
        p.candidate_id,
        p.variant,
        p.assignment_probability,
        p.model_name,
        p.prediction,
        p.rank_in_variant,
        p.selected,
        p.run_id,
        p.predicted_at,
        row_number() over (partition by p.experiment, p.candidate_id order by p.run_date desc) as age
    from {schema}predictions as p
) as ranked
where ranked.age = 1"""
    ),
    "model_performance": (
        """
-- The metrics of each model side by side. One row per experiment, model_name and cohort.
-- Reads:  scores, models, runs
select
    s.experiment,
    s.model_name,
    cast(case when m.model_name is null then 0 else 1 end as smallint) as is_dated,
    s.cohort,
    {cohort_date} as cohort_date,
    r.run_date as scored_date,
    cast(max(case when s.metric = 'n' then s.value end) as integer) as n,
    cast(max(case when s.metric = 'n_positive' then s.value end) as integer) as n_positive,
    max(case when s.metric = 'base_rate' then s.value end) as base_rate,
    max(case when s.metric = 'roc_auc' then s.value end) as roc_auc,
    max(case when s.metric = 'roc_auc' then s.lower end) as roc_auc_lower,
    max(case when s.metric = 'roc_auc' then s.upper end) as roc_auc_upper,
    max(case when s.metric = 'gini' then s.value end) as gini,
    max(case when s.metric = 'ks' then s.value end) as ks,
    max(case when s.metric = 'average_precision' then s.value end) as average_precision,
    max(case when s.metric = 'lift_top_decile' then s.value end) as lift_top_decile,
    max(case when s.metric = 'capture_top_decile' then s.value end) as capture_top_decile,
    max(case when s.metric = 'log_loss' then s.value end) as log_loss,
    max(case when s.metric = 'brier' then s.value end) as brier,
    max(case when s.metric = 'brier_skill' then s.value end) as brier_skill,
    max(case when s.metric = 'calibration_intercept' then s.value end) as calibration_intercept,
    max(case when s.metric = 'calibration_slope' then s.value end) as calibration_slope,
    max(case when s.metric = 'psi' then s.value end) as psi,
    max(case when s.metric = 'psi_noise' then s.value end) as psi_noise
from {schema}scores as s
left join {schema}models as m on m.model_name = s.model_name
left join {schema}runs as r on r.run_id = s.run_id
group by s.experiment, s.model_name, m.model_name, s.cohort, r.run_date"""
    ),
    "experiment_status": (
        """
-- What was predicted, and what came of it so far. One row per experiment and variant.
-- Reads:  registrations, runs, predictions, variant_scores
with nights as (
    select
        experiment,
        min(run_date) as first_night,
        max(run_date) as last_night,
        cast(count(*) as integer) as n_nights
    from {schema}runs
    where job = 'predict' and status = 'done'
    group by experiment
),

newest as (
    select
        p.experiment,
        p.variant,
        max(p.model_name) as model_name,
        cast(count(*) as integer) as n_last_night,
        cast(sum(p.selected) as integer) as n_selected_last_night
    from {schema}predictions as p
    inner join nights on nights.experiment = p.experiment and nights.last_night = p.run_date
    group by p.experiment, p.variant
),

scored as (
    select
        v.experiment,
        v.variant,
        r.run_date as scored_date,
        v.n_predicted,
        v.n_mature,
        v.n_positive,
        v.rate,
        v.lower,
        v.upper,
        v.n_selected,
        v.n_selected_positive,
        v.selected_rate
    from {schema}variant_scores as v
    left join {schema}runs as r on r.run_id = v.run_id
    where v.cohort = 'all'
),

variants as (
    select
        experiment,
        variant
    from newest
    union
    select
        experiment,
        variant
    from scored
)

select
    variants.experiment,
    variants.variant,
    registrations.registered_at,
    nights.first_night,
    nights.last_night,
    nights.n_nights,
    newest.model_name,
    newest.n_last_night,
    newest.n_selected_last_night,
    scored.scored_date,
    scored.n_predicted,
    scored.n_mature,
    scored.n_positive,
    scored.rate,
    scored.lower,
    scored.upper,
    scored.n_selected,
    scored.n_selected_positive,
    scored.selected_rate
from variants
left join {schema}registrations as registrations on registrations.experiment = variants.experiment
left join nights on nights.experiment = variants.experiment
left join newest on newest.experiment = variants.experiment and newest.variant = variants.variant
left join scored on scored.experiment = variants.experiment and scored.variant = variants.variant"""
    ),
    "run_history": (
        """
-- Every run, and the nights that predict or score has missed: those between the first done one and yesterday (UTC) for
-- which no run is done. Looks 10,000 nights (27 years) beyond the first. One row per run, or per job, experiment and
-- missed night.
-- Reads:  runs
with digits as (
    select 0 as digit
    union all select 1
    union all select 2
    union all select 3
    union all select 4
    union all select 5
    union all select 6
    union all select 7
    union all select 8
    union all select 9
),

days as (
    select ones.digit + 10 * tens.digit + 100 * hundreds.digit + 1000 * thousands.digit as n
    from digits as ones
    cross join digits as tens
    cross join digits as hundreds
    cross join digits as thousands
),

begun as (
    select
        job,
        experiment,
        min(run_date) as first_night
    from {schema}runs
    where status = 'done' and job in ('predict', 'score')
    group by job, experiment
),

nights as (
    select
        begun.job,
        begun.experiment,
        {night} as run_date
    from begun
    cross join days
)

select
    r.run_id,
    r.job,
    r.experiment,
    r.run_date,
    r.status,
    r.started_at,
    r.finished_at,
    {seconds} as seconds,
    r.rows_read,
    r.rows_written,
    r.code_version,
    r.host,
    r.error
from {schema}runs as r
union all
select
    null,
    nights.job,
    nights.experiment,
    nights.run_date,
    'missed',
    null,
    null,
    null,
    null,
    null,
    null,
    null,
    null
from nights
where nights.run_date < {today}
    and not exists (
        select 1
        from {schema}runs as done
        where done.job = nights.job
            and done.experiment = nights.experiment
            and done.run_date = nights.run_date
            and done.status = 'done'
    )"""
    ),
}

EXPERIMENT = "name of the experiment in ml_config.yaml"
COHORT = "first day of the week or month of run_date, or 'all'"
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
VIEW_COMMENTS = {
    "current_predictions": "the predictions of each experiment's newest night",
    "latest_predictions": "each candidate's newest prediction in each experiment",
    "model_performance": "one model in one cohort, its metrics side by side; from scores",
    "experiment_status": (
        "one variant of one experiment: what was predicted, and what came of it so far"
    ),
    "run_history": (
        "every run, and the nights from the first done one to yesterday (UTC) that predict or score"
        " has not done; a night that failed and was not done again is there as failed and as missed"
    ),
}
PREDICTION_COMMENTS = {
    "experiment": EXPERIMENT,
    "run_date": "the night, as a business date",
    "candidate_id": "who is predicted, as the candidates query names it",
    "variant": "A, B, control ...: by hash, or as recorded elsewhere",
    "assignment_probability": "the variant's registered share",
    "model_name": "the dated model; null where the variant has no model",
    "prediction": "probability of the outcome, 0 to 1; null where there is no model",
    "rank_in_variant": "1 = highest prediction; in random order without a model",
    "selected": "1 if among the first floor(select_top * n) of its variant",
    "run_id": "the run that wrote the row",
    "predicted_at": "when the row was written, UTC",
}
VIEW_COLUMN_COMMENTS = {
    "current_predictions": PREDICTION_COMMENTS,
    "latest_predictions": PREDICTION_COMMENTS,
    "model_performance": {
        "experiment": EXPERIMENT,
        "model_name": "a dated model, or name and version for all its dates",
        "is_dated": "1 for a dated model, 0 for all dates of a version together",
        "cohort": COHORT,
        "cohort_date": "the cohort as a date, to sort and plot by; null for 'all'",
        "scored_date": "run_date of the score run that wrote the figures",
        "n": "mature predictions",
        "n_positive": (
            "with the outcome; with fewer than 20 of either kind, metrics are null but for psi"
        ),
        "base_rate": "n_positive / n",
        "roc_auc": "area under the ROC curve, 0 to 1; .5 is chance",
        "roc_auc_lower": "lower end of its 95 % interval",
        "roc_auc_upper": "upper end of its 95 % interval",
        "gini": "2 * roc_auc - 1",
        "ks": "Kolmogorov-Smirnov distance between the two outcomes' predictions, 0 to 1",
        "average_precision": "area under the precision-recall curve, 0 to 1; base_rate is chance",
        "lift_top_decile": "the top tenth's rate as a multiple of base_rate",
        "capture_top_decile": "share of all outcomes that the top tenth holds, 0 to 1",
        "log_loss": "mean log loss in nats; lower is better",
        "brier": "mean squared error of the prediction, 0 to 1; lower is better",
        "brier_skill": "1 - brier / that of predicting base_rate for all; 0 is no skill",
        "calibration_intercept": "0 if predictions are right on average; in log-odds",
        "calibration_slope": "1 if right; under 1, predictions are too extreme",
        "psi": (
            "population stability index against the training rows; null for all dates of a version"
        ),
        "psi_noise": "what chance alone exceeds in 5 % of cases",
    },
    "experiment_status": {
        "experiment": EXPERIMENT,
        "variant": "A, B, control ...",
        "registered_at": "when the first predict run started, UTC",
        "first_night": "run_date of the first night that is predicted",
        "last_night": "run_date of the newest night that is predicted",
        "n_nights": "nights that are predicted",
        "model_name": "the dated model of last_night; null without a model",
        "n_last_night": "candidates of last_night; null if the variant had none",
        "n_selected_last_night": "of these, selected",
        "scored_date": "run_date of the score run that counted what follows; null before the first",
        "n_predicted": "predictions of all nights until then",
        "n_mature": "of these, with a closed outcome window",
        "n_positive": "of the mature, with the outcome",
        "rate": "n_positive / n_mature; null if none is mature",
        "lower": "lower end of the rate's 95 % interval on one look; not for daily decisions",
        "upper": "upper end of the interval",
        "n_selected": "of the mature, selected",
        "n_selected_positive": "of the mature and selected, with the outcome",
        "selected_rate": "n_selected_positive / n_selected; null if none is selected",
    },
    "run_history": {
        "run_id": "null for a missed night",
        "job": "train, predict or score",
        "experiment": EXPERIMENT,
        "run_date": "the business date that the run is for, or that was missed",
        "status": "running, done, failed, superseded; missed if no run is done for it",
        "started_at": "when the run started, UTC",
        "finished_at": "UTC; null while running",
        "seconds": "from start to finish, to the millisecond; null while running",
        "rows_read": "rows that its queries returned; null unless it was done",
        "rows_written": "models, predictions or figures written; null unless it was done",
        "code_version": CODE_VERSION,
        "host": "host and process id",
        "error": "why the run failed; null unless it did",
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
    fragments = FRAGMENTS[op.get_context().dialect.name]
    for name, query in VIEWS.items():
        create_view(
            name,
            query.format(schema="{schema}", **fragments),
            {"": VIEW_COMMENTS[name], **VIEW_COLUMN_COMMENTS[name]},
        )
