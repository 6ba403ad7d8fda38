import math
import statistics
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import train
from abatch.config import Experiment, load_experiments
from abatch.errors import DataError
from abatch.experiment.assignment import assign
from abatch.modelling import registry, snapshots
from abatch.modelling.card import Card
from abatch.modelling.estimators import make_pipeline_for
from abatch.modelling.gate import compare_with_live, find_input_psi
from abatch.modelling.training import (
    Fitted,
    Recipe,
    Rows,
    choose_checked,
    find_left_out,
    fit_and_validate,
    prepare_rows,
    split_validation,
    warn_of_leak,
    warn_of_rows,
)
from abatch.queries import Query, Window
from abatch.statistics import drift
from abatch.statistics.metrics import AucDifference
from abatch.statistics.references import FeatureReference
from demo import simulate
from tests.conftest import A8, FIRST_NIGHT, LATER_NIGHT, ROOT, alter, make_card, with_training

DAY = timedelta(days=1)

FIRST = date(2026, 6, 1)
WINDOW = Window(FIRST, FIRST + timedelta(days=10))
PLACE = "training.sql"
OFFER = load_experiments(ROOT / "ml_config.yaml", "dev")["card_offer"]
CHANCE_1 = 3.841458820694124  # 0.95 quantile of chi-squared, 1 degree of freedom, as tables have it


def make_days(*counts: int) -> pd.Series:
    """So many rows on each day from FIRST on."""
    days = np.repeat(
        [np.datetime64(FIRST, "s") + np.timedelta64(day, "D") for day in range(len(counts))], counts
    )
    return pd.Series(days, name="event_date")


def make_frame(n_days: int = 10, per_day: int = 20) -> pd.DataFrame:
    """What a training query returns: days in no order.

    The first row of each day is positive, and one feature tells.
    """
    days = make_days(*[per_day] * n_days)
    outcome = np.tile(np.arange(per_day) < per_day // 4, n_days).astype(int)
    frame = pd.DataFrame(
        {"candidate_id": range(len(days)), "event_date": days.dt.date, "outcome": outcome}
    )
    frame["income"] = outcome + np.random.default_rng(0).normal(size=len(frame))
    frame["region"] = np.where(frame["candidate_id"] % 3 == 1, "Ærø", "Oslo")
    return frame.sample(frac=1, random_state=1, ignore_index=True)


def configure(
    validation_share: float = 0.2,
    kind: str = "binary",
    cap: float | None = None,
    seed: int = 0,
    **columns: list[str],
) -> Experiment:
    """The experiment card_offer of the repository, whose training query is training.sql."""
    training = {"validation_share": validation_share, "seed": seed, **columns}
    return alter(
        OFFER,
        outcome=OFFER.outcome.model_copy(update={"kind": kind, "cap": cap}),
        training=OFFER.training.model_copy(update={"subgroups": [], **training}),
        queries=OFFER.queries.model_copy(update={"training": PLACE}),
    )


def prepare(frame: pd.DataFrame, **settings: Any) -> Rows:
    experiment = configure(**settings)
    with experiment.query("training").named():
        arranged = snapshots.arrange(frame, experiment.outcome.kind)
    return prepare_rows(arranged, WINDOW, experiment)


def fit(rows: Rows, estimator: BaseEstimator | None = None, seed: int = 0) -> Fitted:
    recipe = Recipe(
        "A",
        OFFER.models["A"],
        LogisticRegression() if estimator is None else estimator,
        seed,
        PLACE,
    )
    return fit_and_validate(recipe, rows)


@given(st.lists(st.integers(2, 9), min_size=2, max_size=15), st.floats(0.05, 0.95))
def test_split_validation_cuts_between_days(counts: list[int], share: float) -> None:
    days = make_days(*counts)
    outcome = np.concatenate([np.arange(count) % 2 for count in counts])
    newest = split_validation(days, outcome, share)
    assert days[~newest].max() < days[newest].min()
    # About the share: the day on the cut goes to validation, without it there would be too few; the
    # first day is always for the fit.
    n, cut_day = len(days), (days == days[newest].min()).sum()
    assert newest.sum() - cut_day <= share * n
    assert newest.sum() >= min(np.floor(share * n), n - counts[0])


@pytest.mark.parametrize(
    ("share", "n_newest"), [(0.1, 10), (0.2, 20), (0.29, 30), (0.3, 30), (0.9, 90), (0.99, 90)]
)
def test_split_validation_share_of_ten_equal_days(share: float, n_newest: int) -> None:
    newest = split_validation(make_days(*[10] * 10), np.arange(100) % 2, share)
    assert np.flatnonzero(newest).tolist() == list(range(100 - n_newest, 100))


def test_split_validation_any_order_and_one_large_day() -> None:
    days = make_days(4, 90, 6)
    order = np.random.default_rng(0).permutation(100)
    newest = split_validation(days.iloc[order].reset_index(drop=True), np.arange(100) % 2, 0.2)
    assert (
        newest == (order >= 4)
    ).all()  # the large day is needed for a fifth of the rows, and is not cut in two


def test_split_validation_one_day() -> None:
    message = (
        r"^training\.sql: all rows are of one day, 2026-06-01; validation needs newer rows than the"
        r" fit\. Widen the window\.$"
    )
    with pytest.raises(DataError, match=message), Query(PLACE, "").named():
        split_validation(make_days(10), np.arange(10) % 2, 0.2)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (
            [0, 0, 0, 1],
            r"the 2 rows to fit on \(from 2026-06-01 to 2026-06-01\) all have outcome 0",
        ),
        (
            [0, 1, 1, 1],
            r"the 2 rows to validate on \(from 2026-06-02 to 2026-06-02\) all have outcome 1",
        ),
    ],
)
def test_split_validation_one_outcome(outcome: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words + "; both 0 and 1 are needed"):
        split_validation(make_days(2, 2), np.array(outcome), 0.5)


def warn_of(frame: pd.DataFrame, window: Window = WINDOW, **settings: Any) -> list[str]:
    """What `warn_of_rows` tells of rows as a query returned them."""
    told: list[str] = []
    experiment = configure(**settings)
    night: Any = SimpleNamespace(experiment=experiment, warn=told.append)
    frame = snapshots.arrange(frame, experiment.outcome.kind)
    warn_of_rows(night, frame, prepare_rows(frame, window, experiment))
    return told


def test_warn_of_rows_that_come_again() -> None:
    """Of 200 rows 10 come again as they are, 7 with another income, 3 of them contradict.

    One of these three comes a third time.
    """
    frame = make_frame()
    assert warn_of(frame) == []
    alike, other, contrary = frame[:10], frame[10:14].copy(), frame[14:17].copy()
    other["income"] += 1
    contrary["outcome"] = 1 - contrary["outcome"]
    again = contrary[:1].assign(income=7.0)
    whole = pd.concat([frame, alike, other, contrary, again], ignore_index=True)
    (told,) = warn_of(whole)
    assert told == (
        f"{PLACE}: 18 of 218 rows come twice or more by candidate_id and event_date, and count as"
        " often: 10 of them alike in every column, 8 with other values, 3 with another outcome."
        " Look at the joins of the query; select distinct drops those that are alike."
    )


def test_warn_of_rows_that_a_cap_cuts() -> None:
    """Of 100 amounts 1 to 100, and 100 zeros, 11 are beyond 89 and 10 beyond 90."""
    frame = make_frame().assign(outcome=[0.0, *range(1, 101), *[0.0] * 99])

    assert not any("cap" in words for words in warn_of(frame, kind="numeric", cap=90.0))
    told = warn_of(frame, kind="numeric", cap=89.0)[0]
    assert told.startswith(f"{PLACE}: 11% of the outcomes other than 0 are beyond outcome.cap, 89,")
    assert "at about the 99 % quantile: 99.01." in told  # of 1 to 100, as numpy has it


def test_warn_of_rows_whose_outcomes_are_not_complete() -> None:
    """Of 200 rows a day 60 have the outcome, in the newest 8 days 10; 7 + 1 days are looked at."""
    frame = make_frame(30, 200)
    day = (pd.to_datetime(frame["event_date"]) - pd.Timestamp(FIRST)).dt.days
    n_ones = np.where(day < 22, 60, 10)
    frame["outcome"] = (frame.groupby("event_date").cumcount() < n_ones).astype(int)
    window = Window(FIRST, FIRST + 30 * DAY)
    (told,) = [words for words in warn_of(frame, window) if "of the same weekdays" in words]
    n = min(8, configure().outcome.window_days + configure().outcome.lag_days)
    assert told.startswith(
        f"{PLACE}: of the {200 * n:,} rows since {FIRST + (30 - n) * DAY} {10 * n} have the outcome"
        " (5.0%), of those of the same weekdays before 30.0%. Outcomes that were not complete"
    )


def test_warn_of_rows_with_a_column_for_no_fit() -> None:
    """Ten days of 60 rows, of which the newest two validate: 480 rows are older than these."""
    frame = make_frame(per_day=60)
    days = np.unique(frame["event_date"])
    newest = (frame["event_date"] >= days[-2]).to_numpy()
    enough = np.flatnonzero(~newest)[:200:10]  # 20 rows, of which about one in 11 is held out
    frame["late"] = np.where(newest, 1.5, np.nan)
    frame["rare"] = np.where(np.isin(np.arange(600), enough), 1.5, np.nan)
    day = pd.Timestamp(days[-2]).date()
    assert [told for told in warn_of(frame) if "A fit needs" in told] == [
        f"{PLACE}: late has a value in 120 of 600 rows, but in 0 of the 480 before {day}, the first"
        " day of validation. A fit needs 10, so models are fitted without it (but a Pipeline of"
        " your own). Load its history, or leave it out until there is some: in the query, or by"
        " training.not_features."
    ]


def test_warn_of_rows_that_know_the_outcome() -> None:
    """A flag that half of those with the outcome have, and nobody else."""
    frame = make_frame()
    counted = frame["outcome"].cumsum()
    flagged = (frame["outcome"] == 1) & (counted % 2 == 1)
    n, n_others = int(flagged.sum()), int(frame["outcome"].sum() - flagged.sum())
    (told,) = warn_of(frame.assign(closed=flagged.astype(int)))
    assert told == (
        f"{PLACE}: closed = 1 has the outcome in {n} of {n} rows, the others in"
        f" {n_others / (len(frame) - n):.1%}: is it known only when the outcome is? If so, leave it"
        " out: in the query, or by training.not_features."
    )


@pytest.mark.parametrize(
    ("n_since", "days", "told"),
    [
        (7, range(10), False),
        (8, range(10), True),
        (170, range(10), True),
        (21, range(0, 70, 7), False),
        (22, range(0, 70, 7), True),
        (21, [0, 1, 2, 9, 10, 11], False),
        (22, [0, 1, 2, 9, 10, 11], True),
    ],
)
def test_warn_of_rows_that_end_early(n_since: int, days: Sequence[int], told: bool) -> None:
    frame = make_frame(len(days))
    day = pd.to_datetime(frame["event_date"]) - pd.Timestamp(FIRST)
    frame["event_date"] = [FIRST + days[number] * DAY for number in day.dt.days]
    newest = FIRST + max(days) * DAY
    found = warn_of(frame, Window(FIRST, newest + (n_since + 1) * DAY))
    assert len(found) == told
    if told:
        last = newest + n_since * DAY
        assert f"the newest row is of {newest}, {n_since} days before {last}, the last" in found[0]
        n_widest = max(np.diff(days))
        gap = "1 day. Look" if n_widest == 1 else f"{n_widest} days. Look"
        assert f"within the rows no gap is longer than {gap} at the load" in found[0]


@pytest.mark.parametrize(
    ("days", "words"),
    [
        ([0, 1, 2, 3, 10, 11], None),  # a week
        ([0, 1, 2, 3, 11, 12], "the days between 2026-06-04 and 2026-06-12; usually"),
        (
            [0, 1, 11, 12, 13, 14, 23, 24],
            "the days between 2026-06-02 and 2026-06-12, the longest of 2 holes; usually",
        ),
        (range(0, 70, 7), None),
        ([0, 7, 14, 21, 42, 49], None),  # three of the usual gaps
        (
            [0, 7, 14, 21, 43, 50],
            "the days between 2026-06-22 and 2026-07-14; usually",
        ),
    ],
)
def test_warn_of_rows_with_holes(days: Sequence[int], words: str | None) -> None:
    frame = make_frame(len(days))
    day = pd.to_datetime(frame["event_date"]) - pd.Timestamp(FIRST)
    frame["event_date"] = [FIRST + days[number] * DAY for number in day.dt.days]
    found = warn_of(frame, Window(FIRST, FIRST + (max(days) + 1) * DAY))
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


@pytest.mark.parametrize("leak", ["plain", "of two halves", "none"])
def test_warn_of_leak(leak: str, rng: np.random.Generator) -> None:
    """A feature that is the outcome; two of which each knows half of the cases; none."""
    frame = make_frame(20, 100)
    y = frame["outcome"].to_numpy()
    if leak == "plain":
        frame["closed"] = y
    elif leak == "of two halves":
        part = rng.permutation(len(y)) % 2
        frame["left"], frame["right"] = y * part, y * (1 - part)
    window = Window(FIRST, FIRST + 20 * DAY)
    rows = prepare_rows(snapshots.arrange(frame), window, configure())
    told: list[str] = []
    night: Any = SimpleNamespace(experiment=configure(), warn=told.append)
    warn_of_leak(night, rows, [fit(rows)])
    assert len(told) == (leak != "none")
    if told:
        assert f"{PLACE}: too good to be true: validation ROC AUC " in told[0]
        assert ("closed alone has 1.0000: does it" in told[0]) == (leak == "plain")


@pytest.mark.parametrize("value", [float("inf"), 1e150])
def test_prepare_rows_of_numbers_beyond_measure(value: float) -> None:
    frame = make_frame()
    frame.loc[3, "income"] = value
    with pytest.raises(DataError) as error:
        prepare_rows(snapshots.arrange(frame), WINDOW, configure())
    assert "these columns cannot be features. Mend or leave" in str(error.value)
    assert "in 1 of 200 rows" in str(error.value)


def test_prepare_rows_sorted_and_split() -> None:
    frame = make_frame()
    rows = prepare(frame)
    expected = frame.assign(candidate_id=frame["candidate_id"].astype(str)).sort_values(
        ["event_date", "candidate_id"]
    )
    assert rows.types == {"income": "number", "region": "category"}
    assert rows.X["income"].tolist() == expected["income"].tolist()
    assert rows.y.tolist() == expected["outcome"].tolist()
    assert rows.validation.tolist() == [False] * 160 + [True] * 40
    assert rows.validation_from == FIRST + timedelta(days=8)
    # The same bucket as scoring gives the candidate, whatever the shares.
    assert (
        rows.bucket.tolist()
        == assign(expected["candidate_id"], "card_offer", {"A": 0.5, "B": 0.5}).bucket.tolist()
    )


def test_prepare_rows_mean_and_sd_of_a_binary_outcome() -> None:
    rows = prepare(make_frame())  # 50 of 200 are positive
    assert rows.y.dtype == np.int64
    assert (rows.outcome_mean, rows.outcome_sd) == (
        0.25,
        pytest.approx(np.sqrt(200 / 199 * 0.25 * 0.75), abs=1e-12),
    )


@pytest.mark.parametrize("cap", [None, 40.0])
def test_prepare_rows_numeric_outcome(cap: float | None) -> None:
    """What is learnt is whether the amount is above 0, capped or not.

    Mean and sd are those of the capped amount.
    """
    frame = make_frame()
    amounts = np.where(frame["outcome"] == 1, 30.0, -1.5) * np.random.default_rng(2).integers(
        1, 4, len(frame)
    )
    rows = prepare(frame.assign(outcome=amounts), kind="numeric", cap=cap)
    ordered = frame.assign(candidate_id=frame["candidate_id"].astype(str)).sort_values(
        ["event_date", "candidate_id"]
    )
    assert rows.y.tolist() == ordered["outcome"].tolist()
    counted = amounts.tolist() if cap is None else [min(amount, 40.0) for amount in amounts]
    assert rows.outcome_mean == pytest.approx(statistics.fmean(counted), abs=1e-12)
    assert rows.outcome_sd == pytest.approx(statistics.stdev(counted), abs=1e-12)
    losses = prepare(frame.assign(outcome=-10 * amounts), kind="numeric", cap=cap)
    assert losses.y.tolist() == [1 - y for y in rows.y]
    assert losses.outcome_mean == pytest.approx(
        statistics.fmean(
            [
                (
                    -10 * amount
                    if cap is None
                    else float(np.sign(-amount)) * min(abs(10 * amount), cap)
                )
                for amount in amounts
            ]
        )
    )


def test_prepare_rows_numeric_outcome_of_zero_is_none() -> None:
    frame = make_frame()
    amounts = np.where(frame["outcome"] == 1, 0.01, 0.0)
    rows = prepare(frame.assign(outcome=amounts), kind="numeric")
    assert rows.y.sum() == 50


def test_prepare_rows_order_of_the_query_does_not_matter() -> None:
    one, other = prepare(make_frame()), prepare(make_frame().iloc[::-1])
    pd.testing.assert_frame_equal(one.X, other.X)
    assert (one.bucket == other.bucket).all()


def test_prepare_rows_none() -> None:
    with pytest.raises(
        DataError,
        match=r"training\.sql: returned no rows for \[2026-06-01, 2026-06-11\)\. Check the query",
    ):
        prepare(pd.DataFrame())


@pytest.mark.parametrize("day", [FIRST - timedelta(days=1), FIRST + timedelta(days=10)])
def test_prepare_rows_outside_window(day: date) -> None:
    frame = make_frame()
    frame.loc[3, "event_date"] = day
    message = (
        rf"training\.sql: 1 of 200 rows lie outside \[2026-06-01, 2026-06-11\), for example {day}; "
    )
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
    found = fit(rows)
    older, everything = (make_pipeline_for(LogisticRegression(), rows.types) for _ in range(2))
    older.fit(rows.X[~rows.validation], rows.y[~rows.validation])
    scores = older.predict_proba(rows.X[rows.validation])[:, 1]
    figures = {name: figure.value for name, figure in found.metrics.items()}
    assert figures["roc_auc"] == pytest.approx(
        roc_auc_score(rows.y[rows.validation], scores), abs=1e-3
    )
    assert figures["n"] == 180
    assert found.scores == pytest.approx(scores, abs=1e-12)
    assert (
        found.validated.predict_proba(rows.X[rows.validation])[:, 1].tolist()
        == found.scores.tolist()
    )
    everything.fit(rows.X[~rows.holdout], rows.y[~rows.holdout])
    assert found.reference is not None
    assert sum(found.reference.counts) == rows.holdout.sum() > 50
    assert max(found.reference.counts) - min(found.reference.counts) <= 1
    assert found.pipeline.predict_proba(rows.X) == pytest.approx(
        everything.predict_proba(rows.X), abs=1e-12
    )


def test_prepare_rows_few_have_no_reference() -> None:
    rows = prepare(make_frame())  # 200 rows, 1 in 11 of them
    assert not rows.holdout.any()
    assert fit(rows).reference is None


@pytest.mark.slow
def test_fit_and_validate_reference_is_no_drift_by_itself() -> None:
    """Where nothing drifts, PSI passes its noise line in 5 % of cases.

    Of 20 models in more than 4 once in 390 times.
    """
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(3000, 3))
        outcome = (rng.random(3000) < 1 / (1 + np.exp(1 - X[:, 0] * X[:, 1]))).astype(int)
        frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(
            candidate_id=range(3000), outcome=outcome
        )
        rows = prepare(
            frame.assign(event_date=[FIRST + timedelta(days=i // 300) for i in range(3000)])
        )
        fitted = fit(rows, HistGradientBoostingClassifier(max_iter=20))
        assert fitted.reference is not None
        scores = fitted.pipeline.predict_proba(
            pd.DataFrame(rng.normal(size=(1000, 3)), columns=["a", "b", "c"])
        )[:, 1]
        counts = drift.count_bins(scores, fitted.reference.edges).tolist()
        noise = drift.psi_noise(fitted.reference.counts, counts)
        alarms += drift.compute_psi(fitted.reference.counts, counts) > noise
    assert alarms <= 4


def test_fit_and_validate_few_outcomes_has_no_roc_auc() -> None:
    rows = prepare(make_frame())  # 10 positives among the newest
    found = {*fit(rows).metrics}
    assert "n" in found
    assert not found & {"roc_auc", "calibration_slope"}


@pytest.mark.parametrize("side", ["validation", "holdout", "a few"])
@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        HistGradientBoostingClassifier(),
        RandomForestClassifier(5),
        CalibratedClassifierCV(HistGradientBoostingClassifier(max_iter=5), cv=3),
    ],
)
def test_fit_and_validate_column_without_values_for_a_fit(
    estimator: ClassifierMixin, side: str
) -> None:
    """A column may hold its first values where the one fit or the other does not look.

    It is not used until there are some for both.
    """
    rows = prepare(make_frame(per_day=60))
    few = (np.arange(len(rows.y)) < 30) & ~rows.holdout & (rows.bucket % 8 == 7)
    assert 0 < few.sum() < 10
    filled = few if side == "a few" else getattr(rows, side)
    assert filled.any()
    added = {
        "new_number": np.where(filled, 1.5, np.nan),
        "new_text": pd.Series(["x" if new else None for new in filled], dtype=object),
    }
    types = {**rows.types, "new_number": "number", "new_text": "category"}
    X = rows.X.assign(**added)
    rows = rows._replace(X=X, coded=X, types=types)
    rows = rows._replace(left_out=find_left_out(rows))
    assert [*rows.left_out] == ["new_number", "new_text"]
    assert [*rows.select({"new_text": "category"}).left_out] == ["new_text"]
    fitted = fit(rows, estimator)
    assert np.isfinite(fitted.pipeline.predict_proba(rows.X)).all()
    assert fitted.pipeline[:-1].feature_names_in_.tolist() == sorted(types)
    assert np.isfinite(fitted.validated.predict_proba(rows.X)).all()


def test_fit_and_validate_on_some_of_the_columns() -> None:
    rows = prepare(
        make_frame(per_day=60).assign(noise=np.random.default_rng(5).normal(size=600)),
        validation_share=0.3,
    )
    found = fit(rows.select({"income": "number"}))
    # One feature that the outcome rises with: the model ranks as the feature does.
    expected = roc_auc_score(rows.y[rows.validation], rows.X.loc[rows.validation, "income"])
    assert roc_auc_score(rows.y[rows.validation], found.scores) == pytest.approx(
        expected, abs=1e-12
    )
    assert (
        found.pipeline.feature_names_in_.tolist()
        == found.validated.feature_names_in_.tolist()
        == ["income"]
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_fit_and_validate_same_seed_same_model(seed: int) -> None:
    """Of an estimator that draws from the global generator too."""
    rows = prepare(make_frame(per_day=60))
    one, again, other = (
        fit(rows, RandomForestClassifier(5), chosen) for chosen in (seed, seed, seed + 7)
    )
    np.random.seed(99)
    assert one.scores.tolist() == again.scores.tolist() != other.scores.tolist()
    assert (
        one.pipeline.predict_proba(rows.X).tolist() == again.pipeline.predict_proba(rows.X).tolist()
    )


def test_prepare_rows_not_features_and_subgroups() -> None:
    seen_at = [datetime(2026, 5, 1, 8, 30)] * 200
    frame = make_frame().assign(
        seen_at=seen_at, empty=None, sex=np.where(np.arange(200) % 3, "f", np.array(None))
    )
    rows = prepare(frame, not_features=["seen_at", "empty", "sex"], subgroups=["sex", "region"])
    assert rows.types == {"income": "number", "region": "category"}
    assert rows.X.columns.tolist() == ["income", "region"]
    ordered = frame.assign(candidate_id=frame["candidate_id"].astype(str)).sort_values(
        ["event_date", "candidate_id"]
    )
    assert rows.subgroups.columns.tolist() == ["sex", "region"]
    assert rows.subgroups["sex"].fillna("none").tolist() == ordered["sex"].fillna("none").tolist()
    assert prepare(make_frame()).subgroups.shape == (200, 0)


@pytest.mark.parametrize("columns", [{"not_features": ["regio"]}, {"subgroups": ["regio"]}])
def test_prepare_rows_named_column_missing(columns: dict[str, list[str]]) -> None:
    message = (
        r"^training\.sql: the column regio is missing; found candidate_id, .* Did you mean"
        r" 'region'\?$"
    )
    with pytest.raises(DataError, match=message):
        prepare(make_frame(), **columns)


def test_prepare_rows_date_that_is_a_feature() -> None:
    frame = make_frame().assign(seen_at=datetime(2026, 5, 1, 8, 30))
    with pytest.raises(
        DataError, match=r"(?s)cannot be features.*seen_at: dates; turn them into a number of days"
    ):
        prepare(frame)


def test_prepare_rows_all_are_not_features() -> None:
    with pytest.raises(DataError, match="returns no feature columns"):
        prepare(make_frame(), not_features=["income", "region"])


SHUFFLED = [f"noise_{i}" for i in range(5)]


def make_live(
    n_days: int = 10, per_day: int = 60, validation_share: float = 0.3
) -> tuple[Card, pd.DataFrame]:
    """Card, as train writes it, and snapshot of a live model.

    One feature tells and five do not.
    """
    frame = make_frame(n_days, per_day).drop(columns="region")
    noise = np.random.default_rng(3).normal(size=(len(frame), 5))
    frame = snapshots.arrange(frame.assign(**dict(zip(SHUFFLED, noise.T, strict=True))))
    experiment = configure(validation_share=validation_share)
    model = experiment.models["A"].model_copy(update={"params": {}})
    card = make_card(
        model_name="modelA_v1.0_2026-06-11",
        columns=dict.fromkeys(["income", *SHUFFLED], "number"),
        from_date=FIRST,
        to_date=FIRST + timedelta(days=n_days),
        config=alter(experiment, models={**experiment.models, "A": model}).describe(),
    )
    return card, frame


def compare(
    card: Card, frame: pd.DataFrame | None, rows: Rows, fitted: Fitted
) -> AucDifference | str:
    def find_rows(card: Card, before: Experiment) -> Rows | None:
        return None if frame is None else prepare_rows(frame, card.window, before)

    return compare_with_live(card, find_rows, rows, fitted, OFFER)


def fit_plainly(rows: Rows) -> Any:
    """The same model by scikit-learn alone."""
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(
        rows.X[~rows.validation], rows.y[~rows.validation]
    )


def test_prepare_rows_again_is_what_was_prepared() -> None:
    card, frame = make_live()
    rows = prepare(frame, validation_share=0.3)
    before = Experiment.restore(card.config, card.experiment, OFFER.environment)
    again = prepare_rows(frame, card.window, before)
    pd.testing.assert_frame_equal(rows.X, again.X)
    for name in ("y", "validation", "bucket", "holdout"):
        assert getattr(rows, name).tolist() == getattr(again, name).tolist()
    assert (rows.types, rows.validation_from, rows.outcome_mean) == (
        again.types,
        again.validation_from,
        again.outcome_mean,
    )


@pytest.mark.parametrize("is_at_hand", [True, False])
def test_compare_with_live_new_one_learnt_nothing(is_at_hand: bool) -> None:
    """The live model was fitted on good rows, the new one on rows whose outcomes were shuffled."""
    card, frame = make_live()
    rows = prepare(frame, validation_share=0.3)
    y = rows.y.copy()
    y[~rows.validation] = np.random.default_rng(4).permutation(y[~rows.validation])
    fitted = fit(rows._replace(y=y))
    found = compare(card, frame if is_at_hand else None, rows, fitted)
    assert isinstance(found, AucDifference)
    assert found.n_rows == 180
    expected = roc_auc_score(
        rows.y[rows.validation], fit_plainly(rows).predict_proba(rows.X[rows.validation])[:, 1]
    )
    assert found.live == pytest.approx(expected, abs=1e-9)
    assert found.new == pytest.approx(
        roc_auc_score(rows.y[rows.validation], fitted.scores), abs=1e-12
    )
    assert found.upper < -0.05
    assert found.new - found.live < -0.1


def test_compare_with_live_old_one_learnt_nothing() -> None:
    """The snapshot of the live model is what it is fitted on, not the new rows."""
    card, frame = make_live()
    rows = prepare(frame, validation_share=0.3)
    fitted = fit(rows)
    shuffled = frame.assign(outcome=np.random.default_rng(4).permutation(frame["outcome"]))
    found = compare(card, shuffled, rows, fitted)
    assert isinstance(found, AucDifference)
    assert found.lower > 0.05
    same = compare(card, frame, rows, fitted)
    assert isinstance(same, AucDifference)
    assert same.new == same.live
    assert (same.lower, same.upper) == (0, 0)


@pytest.mark.parametrize(
    ("share", "live_share", "n_days"), [(0.5, 0.2, 2), (0.2, 0.5, 2), (0.5, 0.5, 5)]
)
def test_compare_with_live_on_rows_that_neither_was_fitted_on(
    share: float, live_share: float, n_days: int
) -> None:
    card, frame = make_live(validation_share=live_share)
    rows = prepare(frame, validation_share=share)
    fitted = fit(rows)
    found = compare(card, frame, rows, fitted)
    assert isinstance(found, AucDifference)
    assert found.n_rows == 60 * n_days
    last = rows.event_date >= np.datetime64(FIRST + timedelta(days=10 - n_days))
    live = fit_plainly(prepare(frame, validation_share=live_share))
    assert found.live == pytest.approx(
        roc_auc_score(rows.y[last], live.predict_proba(rows.X[last])[:, 1]), abs=1e-9
    )
    assert found.new == pytest.approx(
        roc_auc_score(rows.y[last], fitted.scores[last[rows.validation]]), abs=1e-12
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"columns": {"income": "category"}},
            "its columns are not returned any more as it knows them: income",
        ),
        (
            {"columns": {"balance": "number", "income": "number", "town": "category"}},
            "its columns are not returned any more as it knows them: balance, town",
        ),
        (
            {"estimator": "gone.Estimator"},
            (
                "it could not be fitted again (training.sql.estimator: 'gone.Estimator' cannot be"
                " imported"
            ),
        ),
        (
            {"params": {"C": "much"}},
            (
                "it could not be fitted again (training.sql: the estimator could not be fitted; it"
                " raised "
            ),
        ),
    ],
)
def test_compare_with_live_cannot_be_told(change: dict[str, Any], words: str) -> None:
    card, frame = make_live()
    rows = prepare(frame, validation_share=0.3)
    fitted = fit(rows)
    columns = change.pop("columns", card.columns)
    model = {**card.config["models"]["A"], **change}
    config = {**card.config, "models": {**card.config["models"], "A": model}}
    changed = card.model_copy(update={"columns": columns, "config": config})
    found = compare(changed, frame, rows, fitted)
    assert isinstance(found, str)
    assert found.startswith(words)


def test_compare_with_live_unusable_snapshot() -> None:
    card, frame = make_live()
    rows = prepare(frame, validation_share=0.3)
    fitted = fit(rows)
    one_day = frame[frame["event_date"] == frame["event_date"].min()]
    found = compare(card, one_day, rows, fitted)
    assert isinstance(found, str)
    assert found.startswith("it could not be fitted again (training.sql: all rows are of one day")


def test_compare_with_live_few_outcomes() -> None:
    card, frame = make_live(per_day=20)  # 5 a day are positive
    rows = prepare(frame, validation_share=0.3)
    fitted = fit(rows)
    expected = "fewer than 20 of either outcome in the 60 rows that neither was fitted on"
    assert compare(card, frame, rows, fitted) == expected


def test_compare_with_live_no_rows_in_common() -> None:
    card, frame = make_live()
    rows = prepare(
        frame[frame["event_date"] < pd.Timestamp(FIRST + timedelta(days=5))], validation_share=0.3
    )
    fitted = fit(rows)
    expected = "fewer than 20 of either outcome in the 0 rows that neither was fitted on"
    assert compare(card, frame, rows, fitted) == expected


def make_moved(n_low: int) -> Rows:
    """Rows of which the newest 40 have `n_low` incomes of -1, else 1.

    Every other one has the region x, else y.
    """
    rows = prepare(make_frame())
    income = np.zeros(200)
    income[rows.validation] = np.repeat([-1.0, 1.0], [n_low, 40 - n_low])
    region = np.where(np.arange(200) % 2, "x", "y").astype(object)
    return rows._replace(coded=pd.DataFrame({"income": income, "region": region}))


FEATURES = {
    "income": FeatureReference("number", [0.0], [100, 100, 0], []),
    "region": FeatureReference("category", ["x", "y"], [100, 100, 0, 0], []),
    "gone": FeatureReference("number", [0.0], [200, 0, 0], []),
}


def test_find_input_psi_by_hand() -> None:
    found = find_input_psi(FEATURES, make_moved(n_low=30), 0.0)
    assert found is not None
    assert found[0] == "income"
    # Half of it counts in each cell: 100.5 of 201 twice against 30.5 and 10.5 of 41.
    low, high = 30.5 / 41, 10.5 / 41
    assert found[1] == pytest.approx(
        (low - 0.5) * math.log(low / 0.5) + (high - 0.5) * math.log(high / 0.5), abs=1e-12
    )
    assert found[2] == pytest.approx((1 / 200 + 1 / 40) * CHANCE_1, abs=1e-12)


def test_find_input_psi_names_what_moved_most() -> None:
    other = {**FEATURES, "region": FEATURES["region"]._replace(counts=[190, 10, 0, 0])}
    found = find_input_psi(other, make_moved(n_low=20), 0.0)
    assert found is not None
    assert found[0] == "region"
    assert found[1] > found[2]


@pytest.mark.parametrize("references", [{}, {"gone": FEATURES["gone"]}])
def test_find_input_psi_nothing_to_compare(references: dict[str, FeatureReference]) -> None:
    assert find_input_psi(references, make_moved(n_low=20), 0.0) is None


@pytest.mark.parametrize("kinds", [{"income": "category"}, {"region": "number"}])
def test_find_input_psi_column_of_another_type(kinds: dict[str, str]) -> None:
    """A region that was a number and is text now is not what the live model knew.

    It is told by the comparison, not measured.
    """
    name, kind = next(iter(kinds.items()))
    numbers, texts = FEATURES["income"], FEATURES["region"]
    other = {**FEATURES, name: texts if kind == "category" else numbers}
    found = find_input_psi(other, make_moved(n_low=30), 0.0)
    assert found is None or found[0] != name


@pytest.mark.parametrize("n_rows", [1, 2, 99, 100, 101, 5000])
def test_choose_checked(n_rows: int) -> None:
    found = choose_checked(n_rows)
    assert len(found) == min(n_rows, 100)
    assert found[0] == 0
    assert found[-1] == n_rows - 1
    gaps = np.diff(found)
    assert (gaps > 0).all()
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_choose_checked_of_few_is_all() -> None:
    assert choose_checked(7).tolist() == list(range(7))
    assert choose_checked(0).tolist() == []


def test_expanding_window_begins_on_its_first_day(week: Experiment, week_engine: sa.Engine) -> None:
    start = FIRST_NIGHT - 40 * DAY
    experiment = with_training(week, window="expanding", start_date=start)
    train.train(experiment, week_engine, LATER_NIGHT, force=True)
    with week_engine.connect() as connection:
        card = registry.find_model(connection, A8)
    # Outcomes are complete to September 6; window 14, lag 1: the last day of training rows is
    # August 22.
    assert (card.from_date, card.to_date) == (start, FIRST_NIGHT - 9 * DAY)
    assert card.rows == 31 * simulate.N_HISTORY
