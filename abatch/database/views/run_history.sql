-- Every run, and the nights that predict or score has missed: those between the first done one
-- and yesterday (UTC) for which no run is done. Looks 10,000 nights (27 years) beyond the first.
-- One row per run, or per job, experiment and missed night.
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
    r.error,
    r.warnings
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
    )
