-- Past calls and whether they were answered. One row per call.
-- Binds:  :from_date, :to_date (call date, upper end excluded), :as_of (UTC)
-- Reads:  card_calls, card_candidates, card_answers
with known as (
    select
        customer_id,
        candidate_date,
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
    card_calls.customer_id as candidate_id,
    card_calls.call_date as event_date,
    case when card_answers.customer_id is null then 0 else 1 end as outcome,
    known.age,
    known.income,
    known.balance,
    known.utilisation,
    known.months_as_customer,
    known.purchases_30d,
    known.segment,
    known.region,
    known.channel
from card_calls
inner join known
    on card_calls.customer_id = known.customer_id
    and card_calls.call_date = known.candidate_date
    and known.version = 1
left join card_answers
    on card_calls.customer_id = card_answers.customer_id
    and card_calls.call_date = card_answers.offer_date
    and card_answers.loaded_at <= :as_of
where card_calls.call_date >= :from_date
    and card_calls.call_date < :to_date
    and card_calls.loaded_at <= :as_of
