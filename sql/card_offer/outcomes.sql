-- Answers to the offer. One row per answer; whoever is not here has not answered.
-- Binds:  :from_date, :to_date (answer date, upper end excluded), :as_of (UTC)
-- Reads:  card_answers
select
    customer_id as candidate_id,
    answer_date as event_date,
    1 as outcome
from card_answers
where answer_date >= :from_date
    and answer_date < :to_date
    and loaded_at <= :as_of
