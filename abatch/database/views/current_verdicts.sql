-- What is known today: the newest look of each experiment.
-- One row per experiment, comparison and metric.
-- Reads:  looks, verdicts
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
    looks.mature_date
from {schema}looks as looks
inner join (
    select
        experiment,
        max(run_date) as look_date
    from {schema}looks
    group by experiment
) as newest on newest.experiment = looks.experiment and newest.look_date = looks.run_date
inner join {schema}verdicts as v on v.experiment = looks.experiment and v.run_date = looks.run_date
left join (
    select
        experiment,
        comparison,
        metric,
        min(run_date) as first_decided_date
    from {schema}verdicts
    where word in ('better', 'worse', 'no difference larger than d', 'broken')
    group by experiment, comparison, metric
) as decided
    on decided.experiment = v.experiment
    and decided.comparison = v.comparison
    and decided.metric = v.metric
