"""Own tables, real data: two public data sets as nightly feeds, read by queries of their own (docs/own-tables.md does the same).

The figures expected are those of the README beside the data, measured there with scikit-learn alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
import yaml
from sklearn.model_selection import StratifiedKFold, cross_val_score

import predict
import score
import train
from abatch import estimators, features, migrations
from abatch.config import Config, load_configs
from tests.conftest import SHARED_DATA, open_engine

pytestmark = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"the public data sets are not there: {SHARED_DATA} is missing")

BOOSTING = "sklearn.ensemble.HistGradientBoostingClassifier"
LOGISTIC = "sklearn.linear_model.LogisticRegression"
DAY = timedelta(days=1)

# --- Bank Marketing: 2008 to 2010, the economy turns in between -----------------------------------------------------------------
BANK_YEARS = {2008: 27_690, 2009: 39_130, 2010: 41_188}  # the last row of each year, counted from 1
BANK_FEATURES = (
    'age, job, marital, education, "default", housing, loan, contact, month, day_of_week, campaign, pdays, previous, poutcome,'
    ' "emp.var.rate", "cons.price.idx", "cons.conf.idx", euribor3m, "nr.employed"'
)
BANK_WINDOW = "contact_date >= :from_date and contact_date < :to_date"
BANK_QUERIES = {
    "training": f"""
        select contact_id as candidate_id, contact_date as event_date, case y when 'yes' then 1 else 0 end as outcome, {BANK_FEATURES}
        from contacts inner join answers using (contact_id)
        where {BANK_WINDOW} and answers.loaded_at <= :as_of""",
    "candidates": f"select contact_id as candidate_id, {BANK_FEATURES} from contacts where {BANK_WINDOW}",
    "outcomes": f"""
        select contact_id as candidate_id, contact_date as event_date, case y when 'yes' then 1 else 0 end as outcome
        from contacts inner join answers using (contact_id)
        where {BANK_WINDOW} and answers.loaded_at <= :as_of""",
    "watermark": "select date(max(loaded_at)) from answers where loaded_at <= :as_of",
}

# --- Default of Credit Card Clients: one row per client, no time; 500 a night from 1 September 2005 ------------------------------
CREDIT_TARGET, CREDIT_NIGHT, CREDIT_FIRST = "default.payment.next.month", 500, date(2005, 9, 1)
CREDIT_QUERIES = {
    "training": """
        select clients.*, client_id as candidate_id, night as event_date, defaulted as outcome
        from clients inner join payments using (client_id)
        where night >= :from_date and night < :to_date and loaded_at <= :as_of""",
    "candidates": "select clients.*, client_id as candidate_id from clients where night >= :from_date and night < :to_date",
    "outcomes": """
        select client_id as candidate_id, due_date as event_date, defaulted as outcome
        from payments where due_date >= :from_date and due_date < :to_date and loaded_at <= :as_of""",
    "watermark": "select date(max(loaded_at)) from payments where loaded_at <= :as_of",
}
