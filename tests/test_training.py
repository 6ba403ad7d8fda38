import statistics
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from abatch import drift
from abatch.assignment import assign
from abatch.errors import DataError
from abatch.estimators import make_pipeline_for
from abatch.outcomes import Metric
from abatch.training import Rows, decide, fit_and_validate, prepare_rows, split_newest, validate_recipe

FIRST = date(2026, 6, 1)
WINDOW = {"from_date": FIRST, "to_date": FIRST + timedelta(days=10)}
PLACE = "training.sql"
BINARY = Metric("outcome", "select 1", "outcomes.sql", "binary", None)


def make_days(*counts: int) -> pd.Series:
    """So many rows on each day from FIRST on."""
    days = np.repeat([np.datetime64(FIRST, "s") + np.timedelta64(day, "D") for day in range(len(counts))], counts)
    return pd.Series(days, name="event_date")


def make_frame(n_days: int = 10, per_day: int = 20) -> pd.DataFrame:
    """What a training query returns: days in no order, the first row of each day positive, one feature that tells."""
    days = make_days(*[per_day] * n_days)
    outcome = np.tile(np.arange(per_day) < per_day // 4, n_days).astype(int)
    frame = pd.DataFrame({"candidate_id": range(len(days)), "event_date": days.dt.date, "outcome": outcome})
    frame["income"] = outcome + np.random.default_rng(0).normal(size=len(frame))
    frame["region"] = "Ærø"
    return frame.sample(frac=1, random_state=1, ignore_index=True)


def prepare(frame: pd.DataFrame, validation_share: float = 0.2, metric: Metric = BINARY) -> Rows:
    return prepare_rows(frame, **WINDOW, validation_share=validation_share, salt="card_offer", metric=metric, place=PLACE)


@given(st.lists(st.integers(2, 9), min_size=2, max_size=15), st.floats(0.05, 0.95))
def test_split_newest_cuts_between_days(counts: list[int], share: float) -> None:
    days = make_days(*counts)
    outcome = np.concatenate([np.arange(count) % 2 for count in counts])
    newest = split_newest(days, outcome, share, PLACE)
    assert days[~newest].max() < days[newest].min()
    # About the share: the day on the cut goes to validation, without it there would be too few; the first day is always for the fit.
    n, cut_day = len(days), (days == days[newest].min()).sum()
    assert newest.sum() - cut_day <= share * n
    assert newest.sum() >= min(np.floor(share * n), n - counts[0])


@pytest.mark.parametrize(("share", "n_newest"), [(0.1, 10), (0.2, 20), (0.29, 30), (0.3, 30), (0.9, 90), (0.99, 90)])
def test_split_newest_share_of_ten_equal_days(share: float, n_newest: int) -> None:
    newest = split_newest(make_days(*[10] * 10), np.arange(100) % 2, share, PLACE)
    assert np.flatnonzero(newest).tolist() == list(range(100 - n_newest, 100))


def test_split_newest_any_order_and_one_large_day() -> None:
    days = make_days(4, 90, 6)
    order = np.random.default_rng(0).permutation(100)
    newest = split_newest(days.iloc[order].reset_index(drop=True), np.arange(100) % 2, 0.2, PLACE)
    assert (newest == (order >= 4)).all()  # the large day is needed for a fifth of the rows, and is not cut in two


def test_split_newest_one_day() -> None:
    message = r"^training\.sql: all rows are of one day, 2026-06-01; validation needs newer rows than the fit\. Widen the window\.$"
    with pytest.raises(DataError, match=message):
        split_newest(make_days(10), np.arange(10) % 2, 0.2, PLACE)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ([0, 0, 0, 1], r"the 2 rows to fit on \(from 2026-06-01 to 2026-06-01\) all have outcome 0"),
        ([0, 1, 1, 1], r"the 2 rows to validate on \(from 2026-06-02 to 2026-06-02\) all have outcome 1"),
    ],
)
def test_split_newest_one_outcome(outcome: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words + "; both 0 and 1 are needed"):
        split_newest(make_days(2, 2), np.array(outcome), 0.5, PLACE)


def test_prepare_rows_sorted_and_split() -> None:
    frame = make_frame()
    rows = prepare(frame)
    expected = frame.assign(candidate_id=frame["candidate_id"].astype(str)).sort_values(["event_date", "candidate_id"])
    assert rows.types == {"income": "number", "region": "category"}
    assert rows.X["income"].tolist() == expected["income"].tolist()
    assert rows.y.tolist() == expected["outcome"].tolist()
    assert rows.newest.tolist() == [False] * 160 + [True] * 40
    assert rows.validation_from == FIRST + timedelta(days=8)
    # The same bucket as scoring gives the candidate, whatever the shares.
    assert rows.bucket.tolist() == assign(expected["candidate_id"], "card_offer", {"A": 0.5, "B": 0.5}).bucket.tolist()


def test_prepare_rows_mean_and_sd_of_a_binary_outcome() -> None:
    rows = prepare(make_frame())  # 50 of 200 are positive
    assert rows.y.dtype == np.int64
    assert (rows.outcome_mean, rows.outcome_sd) == (0.25, pytest.approx(np.sqrt(200 / 199 * 0.25 * 0.75), abs=1e-12))


@pytest.mark.parametrize("cap", [None, 40.0])
def test_prepare_rows_numeric_outcome(cap: float | None) -> None:
    """What is learnt is whether the amount is above 0, capped or not; mean and sd are those of the capped amount."""
    frame = make_frame()
    amounts = np.where(frame["outcome"] == 1, 30.0, -1.5) * np.random.default_rng(2).integers(1, 4, len(frame))
    rows = prepare(frame.assign(outcome=amounts), metric=BINARY._replace(kind="numeric", cap=cap))
    ordered = frame.assign(candidate_id=frame["candidate_id"].astype(str)).sort_values(["event_date", "candidate_id"])
    assert rows.y.tolist() == ordered["outcome"].tolist()
    counted = amounts.tolist() if cap is None else [min(amount, 40.0) for amount in amounts]
    assert rows.outcome_mean == pytest.approx(statistics.fmean(counted), abs=1e-12)
    assert rows.outcome_sd == pytest.approx(statistics.stdev(counted), abs=1e-12)
    losses = prepare(frame.assign(outcome=-10 * amounts), metric=BINARY._replace(kind="numeric", cap=cap))
    assert losses.y.tolist() == [1 - y for y in rows.y]
    assert losses.outcome_mean == pytest.approx(
        statistics.fmean([-10 * amount if cap is None else float(np.sign(-amount)) * min(abs(10 * amount), cap) for amount in amounts])
    )


def test_prepare_rows_numeric_outcome_of_zero_is_none() -> None:
    frame = make_frame()
    amounts = np.where(frame["outcome"] == 1, 0.01, 0.0)
    rows = prepare(frame.assign(outcome=amounts), metric=BINARY._replace(kind="numeric"))
    assert rows.y.sum() == 50


def test_prepare_rows_order_of_the_query_does_not_matter() -> None:
    one, other = prepare(make_frame()), prepare(make_frame().iloc[::-1])
    pd.testing.assert_frame_equal(one.X, other.X)
    assert (one.bucket == other.bucket).all()


def test_prepare_rows_none() -> None:
    with pytest.raises(DataError, match=r"training\.sql: returned no rows for \[2026-06-01, 2026-06-11\)\. Check the query"):
        prepare(pd.DataFrame())


@pytest.mark.parametrize("day", [FIRST - timedelta(days=1), FIRST + timedelta(days=10)])
def test_prepare_rows_outside_window(day: date) -> None:
    frame = make_frame()
    frame.loc[3, "event_date"] = day
    message = rf"training\.sql: 1 of 200 rows lie outside \[2026-06-01, 2026-06-11\), for example {day}; "
    with pytest.raises(DataError, match=message):
        prepare(frame)


def test_prepare_rows_ends_of_window_are_inside() -> None:
    assert len(prepare(make_frame(n_days=10)).y) == 200  # the first day and the day before to_date


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("candidate_id", "Ærø", "candidate_id 'Ærø'"),
        ("event_date", None, "event_date holds a value that is not a date"),
        ("outcome", 2, "outcome holds 2 in 200 of 200 rows"),
        ("income", None, "income: only nulls"),
    ],
)
def test_prepare_rows_refuses_column(column: str, value: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"(?s)^training\.sql: .*{message}"):
        prepare(make_frame().assign(**{column: value}))


def test_fit_and_validate_measures_unseen_rows_and_fits_the_newest_too() -> None:
    rows = prepare(make_frame(per_day=60), validation_share=0.3)
    found = fit_and_validate(LogisticRegression(), rows, rows.types, PLACE)
    older, everything = (make_pipeline_for(LogisticRegression(), rows.types) for _ in range(2))
    older.fit(rows.X[~rows.newest], rows.y[~rows.newest])
    scores = older.predict_proba(rows.X[rows.newest])[:, 1]
    assert found.roc_auc == pytest.approx(roc_auc_score(rows.y[rows.newest], scores), abs=1e-3)
    assert {metric.name: metric.value for metric in found.metrics}["n"] == 180
    everything.fit(rows.X[~rows.reference], rows.y[~rows.reference])
    assert found.reference is not None and sum(found.reference.counts) == rows.reference.sum() > 50
    assert max(found.reference.counts) - min(found.reference.counts) <= 1
    assert found.pipeline.predict_proba(rows.X) == pytest.approx(everything.predict_proba(rows.X), abs=1e-12)


def test_prepare_rows_few_have_no_reference() -> None:
    rows = prepare(make_frame())  # 200 rows, 1 in 11 of them
    assert not rows.reference.any()
    assert fit_and_validate(LogisticRegression(), rows, rows.types, PLACE).reference is None


@pytest.mark.slow
def test_fit_and_validate_reference_is_no_drift_by_itself() -> None:
    """Where nothing drifts, PSI passes its noise line in 5 % of cases: of 20 models in more than 4 once in 390 times."""
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(3000, 3))
        outcome = (rng.random(3000) < 1 / (1 + np.exp(1 - X[:, 0] * X[:, 1]))).astype(int)
        frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(candidate_id=range(3000), outcome=outcome)
        rows = prepare(frame.assign(event_date=[FIRST + timedelta(days=i // 300) for i in range(3000)]))
        fitted = fit_and_validate(HistGradientBoostingClassifier(max_iter=20), rows, rows.types, PLACE)
        assert fitted.reference is not None
        scores = fitted.pipeline.predict_proba(pd.DataFrame(rng.normal(size=(1000, 3)), columns=["a", "b", "c"]))[:, 1]
        counts = drift.count_bins(scores, fitted.reference.edges).tolist()
        noise = drift.psi_noise(sum(fitted.reference.counts), 1000, len(counts))
        alarms += drift.compute_psi(fitted.reference.counts, counts) > noise
    assert alarms <= 4


def test_fit_and_validate_few_outcomes_has_no_roc_auc() -> None:
    rows = prepare(make_frame())  # 10 positives among the newest
    assert fit_and_validate(LogisticRegression(), rows, rows.types, PLACE).roc_auc is None


@pytest.mark.parametrize("estimator", [LogisticRegression(), HistGradientBoostingClassifier(), RandomForestClassifier(5)])
def test_fit_and_validate_column_without_values_in_the_older_rows(estimator: ClassifierMixin) -> None:
    """Validation rows are newer: a column may hold its first values there, and is not used until older rows have some."""
    rows = prepare(make_frame(per_day=60))
    added = {
        "new_number": np.where(rows.newest, 1.5, np.nan),
        "new_text": pd.Series(["x" if new else None for new in rows.newest], dtype=object),
    }
    types = {**rows.types, "new_number": "number", "new_text": "category"}
    rows = rows._replace(X=rows.X.assign(**added), types=types)
    fitted = fit_and_validate(estimator, rows, types, PLACE)
    assert np.isfinite(fitted.pipeline.predict_proba(rows.X)).all()
    assert fitted.pipeline[:-1].feature_names_in_.tolist() == list(types)


def test_validate_recipe_is_that_of_the_card() -> None:
    rows = prepare(make_frame(per_day=60), validation_share=0.3)
    card = {"estimator": "sklearn.linear_model.LogisticRegression", "params": {}, "seed": 0, "columns": {"income": "number"}}
    # One feature that the outcome rises with: the model ranks as the feature does.
    expected = roc_auc_score(rows.y[rows.newest], rows.X.loc[rows.newest, "income"])
    assert validate_recipe(card, rows, PLACE) == pytest.approx(expected, abs=1e-3)
    assert validate_recipe({**card, "columns": {"income": "category"}}, rows, PLACE) is None
    assert validate_recipe({**card, "columns": {"balance": "number"}}, rows, PLACE) is None
    assert validate_recipe({**card, "estimator": "gone.Estimator"}, rows, PLACE) is None


LIVE = "modelA_v1.0_2026-06-01"


@pytest.mark.parametrize(
    ("roc_auc", "live", "live_roc_auc", "later", "promote", "sentence"),
    [
        (0.7, None, None, None, True, "goes live: the first model of its variant"),
        (None, None, None, None, True, "goes live: the first model of its variant"),
        (0.70, LIVE, 0.71, None, True, f"goes live: validation ROC AUC 0.7000 against 0.7100 of the recipe of {LIVE}"),
        (0.80, LIVE, 0.60, None, True, f"goes live: validation ROC AUC 0.8000 against 0.6000 of the recipe of {LIVE}"),
        (0.5, LIVE, 0.5, None, True, f"goes live: validation ROC AUC 0.5000 against 0.5000 of the recipe of {LIVE}"),
        (
            0.68,
            LIVE,
            0.71,
            None,
            False,
            f"does not go live: validation ROC AUC 0.6800 against 0.7100 of the recipe of {LIVE}, lower by more than 0.02",
        ),
        (None, LIVE, 0.7, None, True, f"goes live: it cannot be compared with {LIVE} on the same rows"),
        (0.7, LIVE, None, None, True, f"goes live: it cannot be compared with {LIVE} on the same rows"),
        (0.9, LIVE, 0.6, "modelA_v1.0_2026-07-01", False, "does not go live: modelA_v1.0_2026-07-01 is live from a later date; "),
        (0.9, None, None, "modelA_v1.0_2026-07-01", False, "does not go live: modelA_v1.0_2026-07-01 is live from a later date; "),
    ],
)
def test_decide_cases(
    roc_auc: float | None, live: str | None, live_roc_auc: float | None, later: str | None, promote: bool, sentence: str
) -> None:
    decision = decide(roc_auc, live, live_roc_auc, 0.02, later)
    assert decision.promote == promote
    assert decision.sentence.startswith(sentence)
    assert decision.evidence == {"roc_auc": roc_auc, "live": live, "live_roc_auc": live_roc_auc, "max_auc_drop": 0.02}
