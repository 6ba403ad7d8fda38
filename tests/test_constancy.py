"""A night in which a whole feature is wrong, through predict: told, refused, and how to go on."""

import json
import re
from collections import Counter
from datetime import date, timedelta

import numpy as np
import pytest
import sqlalchemy as sa

import predict
import score
import train
from abatch.config import Experiment
from abatch.database.tables import (
    feature_counts,
    feature_drift,
    predictions,
    predictions_staging,
    runs,
)
from abatch.errors import DataError
from abatch.experiment.predictions import Batch, read_newest_counts
from abatch.modelling import constancy, estimators, inference
from abatch.night import open_night
from abatch.statistics import changes, drift
from abatch.statistics.changes import View
from abatch.statistics.references import FeatureReference
from demo import simulate
from tests.conftest import A1, A8, FIRST_NIGHT, LATER_NIGHT, alter

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
    # It was right: it is published, and the next night is compared with it.
    predict.predict(spoil(played, POINT), week_engine, NIGHT)
    assert count(week_engine, predictions_staging, NIGHT) == 0
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
