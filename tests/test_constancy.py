"""A night in which a whole feature is wrong, through predict: told, refused, and how to go on."""

import json
import re
from collections import Counter
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

import predict
import score
import train
from abatch.config import Experiment
from abatch.database.tables import (
    feature_counts,
    feature_drift,
    prediction_rows,
    predictions,
    runs,
)
from abatch.errors import DataError
from abatch.experiment.predictions import Batch, read_newest_counts
from abatch.modelling import constancy, estimators, features, inference
from abatch.modelling.constancy import Known, Recent
from abatch.modelling.inference import PREDICTION
from abatch.night import open_night
from abatch.statistics import changes, drift
from abatch.statistics.changes import Change, View
from abatch.statistics.references import FeatureReference
from demo import simulate
from tests.conftest import A1, A8, FIRST_NIGHT, LATER_NIGHT, SHARED_DATA, alter
from tests.test_real_data import read_bank

DAY = timedelta(days=1)
CENTS = ("    income,\n    balance", "    100 * income as income,\n    balance")
EMPTY = ("    income,\n    balance", "    nullif(income, income) as income,\n    balance")
POINT = ("    segment,\n    region", "    segment || '.0' as segment,\n    region")


def spoil(experiment: Experiment, *changes: tuple[str, str], rule: str = "warn") -> Experiment:
    """The experiment with other values in its candidates, by its query's last select."""
    sql = experiment.sql["candidates"]
    head, _, tail = sql.rpartition("select")
    for old, new in changes:
        assert old in tail
        tail = tail.replace(old, new)
    queries = {**experiment.sql, "candidates": f"{head}select{tail}"}
    return alter(experiment, sql=queries, overnight_change=rule)


class Played:
    """Nights of models that are fitted on the older four fifths of some rows, without a database.

    Their predictions are compared with those for the newest fifth, as train has it.
    """

    def __init__(self, models: dict[str, BaseEstimator], X: pd.DataFrame, y: np.ndarray) -> None:
        self.types = features.infer_types(X)
        X, n_older = features.decode(features.code(X, self.types)), len(X) * 4 // 5
        self.references = drift.make_feature_references(X, self.types)
        self.pipelines, self.scores = {}, {}
        for name, estimator in models.items():
            pipeline = estimators.make_pipeline_for(estimator, self.types)
            estimators.fit(pipeline, X[:n_older], y[:n_older], name)
            scores = estimators.predict_probability(pipeline, X[n_older:])
            edges, counts = drift.make_reference(scores)
            reference = FeatureReference("number", edges, [*counts, 0], [])
            self.pipelines[name], self.scores[name] = pipeline, {PREDICTION: reference}
        self.nights: dict[date, dict[str, dict[str, drift.FeatureCounts]]] = {}

    def play(self, frame: pd.DataFrame) -> dict[str, Change]:
        """What is found of a night, which is published then."""
        X = features.decode(features.code(frame, self.types))
        tonight = {}
        for i, (name, pipeline) in enumerate(self.pipelines.items()):
            own = X[i :: len(self.pipelines)]  # each has its part of the rows
            predicted = pd.DataFrame({PREDICTION: estimators.predict_probability(pipeline, own)})
            tonight[name] = drift.count_features(own, self.references)
            tonight[name] |= drift.count_features(predicted, self.scores[name])
        newest = dict([*self.nights.items()][-constancy.N_NIGHTS :])
        trainings = {"training": Known(self.references, [*self.pipelines], True)}
        recent = Recent(newest, trainings, self.scores, {}, {})
        self.nights[FIRST_NIGHT + len(self.nights) * DAY] = tonight
        return constancy.find_changes(recent, Batch(feature_counts=tonight))


@pytest.fixture
def played(week: Experiment, week_engine: sa.Engine) -> Experiment:
    """Three nights that nothing is to be said of."""
    for i in range(3):
        predict.predict(week, week_engine, FIRST_NIGHT + i * DAY)
    return week


NIGHT = FIRST_NIGHT + 3 * DAY


def count(engine: sa.Engine, table: sa.Table, night: date) -> int:
    with engine.connect() as connection:
        query = sa.select(sa.func.count()).select_from(table).where(table.c.run_date == night)
        return connection.scalar(query) or 0


def test_predict_says_nothing_of_nights_alike(
    played: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = predict.predict(played, week_engine, NIGHT)
    assert summary.endswith("selected)")
    assert "features" not in capsys.readouterr().err


def test_predict_warns_of_a_change_overnight(
    played: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = spoil(played, CENTS, POINT)
    capsys.readouterr()
    dry = predict.predict(spoiled, week_engine, NIGHT, dry_run=True)
    models = f"predictions of {A1}, predictions of modelB_v1.0_2026-09-01"
    assert dry.endswith(f"; changed overnight: income, segment, {models}")
    told = capsys.readouterr().err
    assert told.startswith(
        f"predict card_offer {NIGHT}: sql/card_offer/candidates.sql: these features changed"
        " overnight:\n  income: above "
    )
    assert "\n  segment: 'classic.0' ('classic' written otherwise) and 3 others, new to the" in told
    assert f"against the training rows of {A1} and modelB_v1.0_2026-09-01 (noise 0." in told
    assert "the nearest night (noise 0." in told
    assert "mend the load or the query, then predict again with --force." in told

    assert predict.predict(spoiled, week_engine, NIGHT).endswith(
        f"; changed overnight: income, segment, {models}"
    )
    assert capsys.readouterr().err == told
    assert count(week_engine, predictions, NIGHT) == simulate.N_CANDIDATES
    # The next night is as wrong, which was told; one that is as before is what it should be.
    predict.predict(spoiled, week_engine, NIGHT + DAY)
    predict.predict(played, week_engine, NIGHT, force=True)
    assert "these features" not in capsys.readouterr().err


def test_predict_refuses_a_change_overnight(played: Experiment, week_engine: sa.Engine) -> None:
    spoiled = spoil(played, POINT, rule="refuse")
    for force in (False, True):
        with pytest.raises(DataError) as refusal:
            predict.predict(spoiled, week_engine, NIGHT, force=force)
        assert str(refusal.value).startswith(
            "sql/card_offer/candidates.sql: these features changed overnight:\n  segment: "
        )
        assert "Nothing was published: mend the load or the query, and run it again." in str(
            refusal.value
        )
        assert "experiments.card_offer.overnight_change: warn publishes it" in str(refusal.value)
    with pytest.raises(DataError):
        predict.predict(spoiled, week_engine, NIGHT, dry_run=True)
    for table in (predictions, feature_counts):
        assert count(week_engine, table, NIGHT) == 0
    with week_engine.connect() as connection:
        status = sa.select(runs.c.status).where(runs.c.run_date == NIGHT, runs.c.job == "predict")
        assert connection.scalars(status).all() == ["failed", "failed"]
        done = sa.select(runs.c.run_number).filter_by(status="done")
        numbers = connection.scalars(sa.select(prediction_rows.c.run_number).distinct())
        assert {*numbers} <= {*connection.scalars(done)}  # the refusal comes before the write
    # It was right: it is published, and the next night is compared with it.
    predict.predict(spoil(played, POINT), week_engine, NIGHT)
    assert "overnight" not in predict.predict(spoiled, week_engine, NIGHT + DAY)


def test_predict_tells_once_what_left_the_training_rows(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the first night there is none to compare with, so nothing is refused either."""
    spoiled = spoil(week, CENTS, rule="refuse")
    summary = predict.predict(spoiled, week_engine, FIRST_NIGHT)
    assert summary.endswith("; unlike the training rows: income")
    told = capsys.readouterr().err
    assert "these features are not what their models were trained with:\n  income: above " in told
    assert "no earlier night to compare with\nIt is told once for a model." in told
    for i in range(1, 4):
        predict.predict(spoiled, week_engine, FIRST_NIGHT + i * DAY)
    assert "features" not in capsys.readouterr().err


def test_predict_compares_a_new_model_with_the_nights_of_the_old_one(
    played: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(played, week_engine, LATER_NIGHT)
    assert "unlike" not in predict.predict(played, week_engine, LATER_NIGHT, dry_run=True)
    with pytest.raises(DataError, match=rf"segment: .* against the training rows of {A8}"):
        predict.predict(spoil(played, POINT, rule="refuse"), week_engine, LATER_NIGHT)
    predict.predict(played, week_engine, LATER_NIGHT)
    with week_engine.connect() as connection:
        counted = sa.select(feature_counts.c.model_name, feature_counts.c.content)
        rows = connection.execute(counted.where(feature_counts.c.run_date == LATER_NIGHT)).all()
    assert sorted(name for name, _ in rows) == [A8, "modelB_v1.0_2026-09-08"]
    assert all(json.loads(content)["segment"]["n_new"] == 0 for _, content in rows)


def test_predict_tells_of_a_part_of_a_column_and_never_refuses(
    played: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = "case when customer_id % 5 = 0 then 99999999 else income end as income"
    part = (CENTS[0], CENTS[0].replace("income", fault, 1))
    capsys.readouterr()
    summary = predict.predict(spoil(played, part, rule="refuse"), week_engine, NIGHT)
    assert summary.endswith("; unlike the newest nights: income")
    told = capsys.readouterr().err
    assert "candidates.sql: these features are not quite what they were:\n  income: numbers" in told
    assert re.search(
        r"far beyond those of the training rows \(.* to 1e\+08 tonight\) in (1|2)", told
    )
    predict.predict(spoil(played, part, rule="refuse"), week_engine, NIGHT + DAY)
    assert "features" not in capsys.readouterr().err


@pytest.mark.parametrize("value", [0.0, 0.05, 1.0])
def test_predict_tells_of_predictions_that_are_all_one(
    value: float,
    played: Experiment,
    week_engine: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    monkeypatch.setattr(estimators, "predict_probability", lambda _, X: np.full(len(X), value))
    models = [f"predictions of {name}" for name in (A1, "modelB_v1.0_2026-09-01")]
    summary = predict.predict(played, week_engine, NIGHT, dry_run=True)
    assert summary.endswith(f"; changed overnight: {', '.join(models)}")
    assert f"\n  {models[0]}: " in capsys.readouterr().err
    with pytest.raises(DataError, match=f"{models[1]}: "):
        predict.predict(alter(played, overnight_change="refuse"), week_engine, NIGHT)


def test_predict_tells_of_predictions_on_the_first_night(
    week: Experiment, week_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where a feature has left: then they follow it."""
    monkeypatch.setattr(estimators, "predict_probability", lambda _, X: np.full(len(X), 0.05))
    models = f"predictions of {A1}, predictions of modelB_v1.0_2026-09-01"
    summary = predict.predict(week, week_engine, FIRST_NIGHT, dry_run=True)
    assert summary.endswith(f"; unlike the training rows: {models}")
    summary = predict.predict(spoil(week, CENTS), week_engine, FIRST_NIGHT, dry_run=True)
    assert summary.endswith("; unlike the training rows: income")


def test_predictions_are_no_feature_of_the_report(
    played: Experiment, week_engine: sa.Engine
) -> None:
    score.score(played, week_engine, FIRST_NIGHT + 20 * DAY, draw=False)
    with week_engine.connect() as connection:
        names = {*connection.scalars(sa.select(feature_drift.c.feature))}
        content = connection.scalars(sa.select(feature_counts.c.content)).first()
    assert {*json.loads(content or "")} - names <= {inference.PREDICTION, inference.ROWS}
    assert "income" in names


@pytest.mark.parametrize(("n", "is_told"), [(199, True), (200, False), (999, False)])
def test_predict_tells_of_a_night_that_is_far_smaller(
    n: int,
    is_told: bool,
    played: Experiment,
    week_engine: sa.Engine,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The nights before had 1,000 each."""
    sql = played.sql["candidates"].rstrip()
    fewer = alter(played, sql={**played.sql, "candidates": f"{sql}\nlimit {n}"})
    capsys.readouterr()
    summary = predict.predict(fewer, week_engine, NIGHT, dry_run=True)
    assert summary.endswith(f"; {n} candidates after 1,000 to 1,000 a night") == is_told
    told = f"returned {n} candidates; the newest 3 nights had 1,000 to 1,000. Look whether"
    assert (told in capsys.readouterr().err) == is_told


@pytest.mark.parametrize(
    ("sizes", "n", "is_told"),
    [
        ([100, 300, 200], 1500, False),
        ([100, 300, 200], 1501, True),
        ([100, 300, 200], 20, False),
        ([100, 300, 200], 19, True),
        ([100, 300], 5000, False),
        ([1000] * 6, 600, False),
        ([1000] * 7, 600, True),
        ([1000] * 7, 700, False),
        ([1000] * 7, 1501, True),
        ([1000] * 7, 1500, False),
        ([900, 1000, 1000, 1000, 1000, 250, 250], 70, False),  # a weekend is a quarter
        ([900, 1000, 1000, 1000, 1000, 250, 250], 62, True),
        ([900, 1000, 1000, 1000, 1000, 250, 250], 4001, True),
        ([40] * 7, 15, False),  # 1 in 180,000 by chance: Poisson of 40
        ([40] * 7, 13, True),  # 1 in 1.5 million
    ],
)
def test_check_size_by_hand(
    sizes: list[int],
    n: int,
    is_told: bool,
    week: Experiment,
    week_engine: sa.Engine,
) -> None:
    nights = {FIRST_NIGHT + i * DAY: size for i, size in enumerate(sizes)}
    recent = constancy.Recent({}, {}, {}, nights, {})
    with open_night("predict", week, week_engine, NIGHT, dry_run=True) as night:
        words = constancy.check(night, recent, Batch(Counter({"A": n})))
        night.finish("", lambda connection: None)
    told = f"; {n:,} candidates after {min(sizes):,} to {max(sizes):,} a night"
    assert words == told * is_told


@pytest.mark.parametrize("ids", ["customer_id", "10000000 + customer_id"])
def test_predict_tells_of_a_night_that_was_not_renewed(
    ids: str, played: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows of the night before, also where other ids send them to other variants."""
    sql = played.sql["candidates"].replace("    customer_id as ca", f"    {ids} as ca")
    for old, days in ((":from_date", "-1 day"), (":to_date", "-1 day")):
        sql = sql.replace(f" {old}\n", f" date({old}, '{days}')\n")
    stale = alter(played, sql={**played.sql, "candidates": sql}, overnight_change="refuse")
    capsys.readouterr()
    before = NIGHT - DAY
    summary = predict.predict(stale, week_engine, NIGHT)
    assert summary.endswith(f"; the same features as on {before}")
    assert (
        f"candidates.sql: the features of all 1,000 candidates are those of {before},"
        " row by row, and so far no two nights were alike. Look whether the night's table was"
        " renewed; if not, mend it, then predict again with --force."
    ) in capsys.readouterr().err
    again = stale.sql["candidates"].replace("-1 day", "-2 day")
    summary = predict.predict(
        alter(played, sql={**played.sql, "candidates": again}), week_engine, NIGHT + DAY
    )
    assert "the same features" not in summary


@pytest.mark.parametrize(
    ("nights", "tonight", "n_cells", "expected"),
    [
        ("abc", "c", 20, 2),
        ("abcdefgh", "a", 20, 0),
        ("abc", "d", 20, None),
        ("abc", "c", 19, None),
        ("bc", "c", 20, None),
        ("abcc", "c", 20, None),  # they stand still
        ("aabcdefg", "g", 20, None),  # at weekends alone, a week and a night ago
    ],
)
def test_find_twin_by_hand(nights: str, tonight: str, n_cells: int, expected: int | None) -> None:
    def count(name: str) -> drift.FeatureCounts:
        return drift.FeatureCounts([ord(name), 0], 0, {})

    rows = {FIRST_NIGHT + i * DAY: count(name) for i, name in enumerate(nights)}
    full = drift.FeatureCounts([1] * (n_cells + 1) + [0], 0, {})
    reference = FeatureReference("category", [], [], None)
    known = {"run": constancy.Known({"town": reference}, ["m"], True)}
    total = Batch(feature_counts={"m": {"town": full, inference.ROWS: count(tonight)}})
    twin = constancy.find_twin(constancy.Recent({}, known, {}, {}, rows), total)
    assert twin == (None if expected is None else FIRST_NIGHT + expected * DAY)


def test_describe_names_two_models() -> None:
    reference = FeatureReference("number", [1.0], [500, 500, 0], [])
    names = [f"model{letter}" for letter in "ABCDEFG"]
    view = View(reference, names, True, drift.FeatureCounts([0, 500, 0], 0, {}, [2.0, 3.0]))
    change = changes.find_change([view])
    assert change is not None
    found = constancy.describe(change)
    assert "against the training rows of modelA, modelB, and 5 more (noise" in found


def test_predict_still_refuses_a_column_of_nulls(
    played: Experiment, week_engine: sa.Engine
) -> None:
    with pytest.raises(DataError, match="hold only nulls in all 1,000 rows"):
        predict.predict(spoil(played, EMPTY), week_engine, NIGHT)


def test_read_newest_counts_of_nights_that_are_done(
    played: Experiment, week_engine: sa.Engine
) -> None:
    with week_engine.begin() as connection:
        early = sa.update(runs).where(runs.c.run_date == FIRST_NIGHT + 1 * DAY)
        connection.execute(early.where(runs.c.job == "predict").values(status="early"))
        found = read_newest_counts(connection, "card_offer", FIRST_NIGHT + 3 * DAY, 2)
        assert read_newest_counts(connection, "other", NIGHT, 7) == {}
    assert [*found] == [FIRST_NIGHT + i * DAY for i in (0, 2)]
    assert all({*counts} == {A1, "modelB_v1.0_2026-09-01"} for counts in found.values())
    assert sum(found[FIRST_NIGHT][A1]["income"].counts) > 400


def test_find_changes_predictions_follow_the_month(rng: np.random.Generator) -> None:
    """By the rates: a fifth buys in m2 and two thirds in m7. The month is no fault."""

    def draw(month: str, n: int = 300) -> tuple[pd.DataFrame, np.ndarray]:
        X = pd.DataFrame({"month": [month] * n, "size": rng.normal(size=n)})
        rate = 1 / (1 + np.exp(-X["size"] / 2 - (2 if month in ("m7", "m8") else -2)))
        return X, (rng.random(n) < rate).astype(int)

    months = [draw(month, 600) for month in ("m1", "m7", "m2", "m3", "m4", "m5", "m6", "m8")]
    X, y = pd.concat([X for X, _ in months]), np.concatenate([y for _, y in months])
    played = Played({"m": LogisticRegression()}, X, y)
    played.play(draw("m2")[0])
    for _ in range(6):
        assert not played.play(draw("m2")[0])["month"].is_overnight
    change = played.play(draw("m7")[0])["predictions of m"]
    assert (change.is_overnight, change.is_step) == (False, True)
    played.nights.popitem()
    wrong = draw("m2")[0].assign(size=30.0)  # the month is as it was
    found = played.play(wrong)
    assert [name for name, change in found.items() if change.is_overnight] == [
        "size",
        "predictions of m",
    ]


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"there is no folder {SHARED_DATA}")
@pytest.mark.parametrize("n_parts", [1, 4])
def test_find_changes_of_the_banks_months(n_parts: int) -> None:
    """Models of 2008 in 2009 and 2010: no change overnight that is not one of the feature's own.

    Predictions follow the month, as in October; it is told, and refuses no night.
    """
    contacts = read_bank()
    nights = contacts["contact_date"]
    if n_parts == 1:
        nights = nights.dt.to_period("M").dt.to_timestamp()
    in_training, y = nights < "2009", contacts["y"].eq("yes").to_numpy().astype(int)
    X = contacts.drop(columns=["contact_id", "contact_date", "y"])
    models = {
        "A": HistGradientBoostingClassifier(max_iter=50, early_stopping=False, random_state=0),
        "B": LogisticRegression(max_iter=1000),
    }
    played = Played(models, X[in_training], y[in_training])
    overnight: list[tuple[str, str]] = []
    for night, rows in X[~in_training].groupby(nights[~in_training]):
        found = played.play(rows)
        overnight += [
            (n, f"{night:%Y-%m-%d}") for n, change in found.items() if change.is_overnight
        ]
    assert len(played.nights) == 19 * n_parts
    expected = [] if n_parts == 1 else [("day_of_week", "2009-04-08"), ("campaign", "2009-07-22")]
    assert overnight == expected
