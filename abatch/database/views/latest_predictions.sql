-- Each candidate's newest prediction. One row per experiment and candidate.
-- Reads:  predictions, runs
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
        row_number() over (
            partition by p.experiment, p.candidate_id order by p.run_date desc
        ) as age
    from {schema}predictions as p
    left join {schema}runs as r on r.run_id = p.run_id and r.status = 'early'
    where r.run_id is null
) as ranked
where ranked.age = 1
