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
    max(case when s.metric = 'roc_auc_bracket' then s.value end) as roc_auc_bracket,
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
group by s.experiment, s.model_name, m.model_name, s.cohort, r.run_date
