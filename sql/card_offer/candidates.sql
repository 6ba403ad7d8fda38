-- Who may be called tonight. One row per customer.
-- Binds:  :from_date (run_date), :to_date (the day after), :as_of (UTC)
-- Reads:  card_candidates
with known as (
    select
        customer_id,
        age,
        income,
        balance,
        utilisation,
        months_as_customer,
        purchases_30d,
        segment,
        region,
        channel,
        row_number() over (partition by customer_id, candidate_date order by loaded_at desc) as version
    from card_candidates
    where candidate_date >= :from_date
        and candidate_date < :to_date
        and loaded_at <= :as_of
)
select
    customer_id as candidate_id,
    age,
    income,
    balance,
    utilisation,
    months_as_customer,
    purchases_30d,
    segment,
    region,
    channel
from known
where version = 1
