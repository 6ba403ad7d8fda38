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
left join scored on scored.experiment = variants.experiment and scored.variant = variants.variant
