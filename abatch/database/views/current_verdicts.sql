-- What is known today: the newest look of each experiment.
-- One row per experiment, comparison and metric.
-- Reads:  looks, runs, verdicts
select
    v.experiment,
    v.comparison,
    v.metric,
    v.run_date as look_date,
    v.word,
    v.estimate,
    v.lower,
    v.upper,
    v.lift,
    v.lift_lower,
    v.lift_upper,
    v.n_treatment,
    v.n_control,
    decided.first_decided_date,
    looks.mature_date,
    looks.outcomes_as_of,
    looks.doubts
from {schema}looks as looks
inner join (
    select
        l.experiment,
        max(l.run_date) as look_date
    from {schema}looks as l
    left join {schema}runs as r on r.run_id = l.run_id and r.status = 'early'
    where r.run_id is null
    group by l.experiment
) as newest on newest.experiment = looks.experiment and newest.look_date = looks.run_date
inner join {schema}verdicts as v on v.experiment = looks.experiment and v.run_date = looks.run_date
left join (
    select
        v.experiment,
        v.comparison,
        v.metric,
        min(v.run_date) as first_decided_date
    from {schema}verdicts as v
    left join {schema}runs as r on r.run_id = v.run_id and r.status = 'early'
    where v.word in ('better', 'worse', 'no difference larger than d', 'broken')
        and r.run_id is null
    group by v.experiment, v.comparison, v.metric
) as decided
    on decided.experiment = v.experiment
    and decided.comparison = v.comparison
    and decided.metric = v.metric
