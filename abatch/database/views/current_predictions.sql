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
) as nights on nights.experiment = p.experiment and nights.last_night = p.run_date
