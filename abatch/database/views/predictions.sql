-- What was predicted, of nights that are done. One row per experiment, night and candidate.
-- Reads:  runs, prediction_rows, prediction_shares
select
    r.experiment,
    r.run_date,
    p.candidate_id,
    p.variant,
    s.assignment_probability,
    p.model_name,
    p.prediction,
    p.rank_in_variant,
    p.selected,
    r.run_id,
    r.finished_at as predicted_at
from {schema}runs as r
inner join {schema}prediction_rows as p on p.run_number = r.run_number
inner join {schema}prediction_shares as s on s.run_number = p.run_number and s.variant = p.variant
where r.job = 'predict' and r.status in ('done', 'early')
