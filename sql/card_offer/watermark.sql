-- The day up to which answers are complete, as the feed itself says. One row.
-- Binds:  :as_of (UTC)
-- Reads:  card_feed
select max(complete_to) as watermark
from card_feed
where loaded_at <= :as_of
