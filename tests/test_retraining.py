"""Retraining: each rule at its limit, and what it reads."""

from collections.abc import Collection
from datetime import date, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

import train
from abatch.config import Experiment, load_experiments
from abatch.database import tables
from abatch.database.tables import runs
from abatch.modelling import retraining
from abatch.modelling.card import Card
from abatch.modelling.retraining import Finding
from abatch.sections import Retrain
from tests.conftest import FIRST_NIGHT, QUICK_MODELS, alter, make_card, with_training, write_config

DAY = timedelta(days=1)

ALL = Retrain(min_days=7, max_days=30, new_rows=1000, psi=0.2, auc_drop=0.03)
NONE = Retrain.model_construct(min_days=1, max_days=None, new_rows=None, psi=None, auc_drop=None)
MODEL = "modelA_v1.0_2026-09-07"


@pytest.mark.parametrize(("days", "is_due"), [(0, False), (29, False), (30, True), (31, True)])
def test_judge_age(days: int, is_due: bool) -> None:
    assert [*retraining.judge_age(ALL, days)] == [
        Finding(f"the last training is {days} days old (limit 30)", is_due)
    ]


@pytest.mark.parametrize(
    ("n_new", "words", "is_due"),
    [(0, "0", False), (999, "999", False), (1000, "1,000", True), (25_000, "25,000", True)],
)
def test_judge_rows(n_new: int, words: str, is_due: bool) -> None:
    assert [*retraining.judge_rows(ALL, n_new)] == [
        Finding(f"{words} rows have matured since (limit 1,000)", is_due)
    ]


@pytest.mark.parametrize(
    ("psi", "noise", "is_due"),
    [
        (0.19, 0.01, False),
        (0.2, 0.01, False),
        (0.201, 0.01, True),
        (0.3, 0.3, False),
        (0.3, 0.299, True),
        (0.9, 1.2, False),
    ],
)
def test_judge_drift(psi: float, noise: float, is_due: bool) -> None:
    words = f"PSI {psi:.3f} of income of {MODEL} (limit 0.2, noise {noise:.3f})"
    assert [*retraining.judge_drift(ALL, (f"income of {MODEL}", psi, noise))] == [
        Finding(words, is_due)
    ]


@pytest.mark.parametrize(
    ("value", "upper", "is_due"),
    [
        (0.70, 0.7249, True),  # in all that its interval allows lower than .755 - .03
        (0.70, 0.7251, False),
        (0.50, 0.80, False),  # much lower, but too little is known
        (0.50, None, False),  # nothing is known
        (0.90, 0.95, False),
    ],
)
def test_judge_performance(value: float, upper: float | None, is_due: bool) -> None:
    words = f"ROC AUC {value:.3f} of {MODEL} against 0.755 when it was validated (limit -0.03)"
    assert [*retraining.judge_performance(ALL, {MODEL: (value, upper)}, {MODEL: 0.755})] == [
        Finding(words, is_due)
    ]


def test_judge_performance_at_the_limit() -> None:
    exact = ALL.model_copy(update={"auc_drop": 0.25})  # of which floats make no rounding
    (at,) = retraining.judge_performance(exact, {MODEL: (0.4, 0.5)}, {MODEL: 0.75})
    (below,) = retraining.judge_performance(exact, {MODEL: (0.4, 0.4999)}, {MODEL: 0.75})
    assert not at.is_due
    assert below.is_due


def test_judge_performance_each_model() -> None:
    found = {"A": (0.7, 0.71), "B": (0.7, 0.71), "C": (0.7, 0.71), "D": (0.7, 0.71)}
    findings = [*retraining.judge_performance(ALL, found, {"A": 0.8, "B": 0.72, "C": None})]
    assert [(finding.words[:16], finding.is_due) for finding in findings] == [
        ("ROC AUC 0.700 of", True),
        ("ROC AUC 0.700 of", False),
    ]
    assert " of A against 0.800 " in findings[0].words
    assert " of B against 0.720 " in findings[1].words


def test_judge_nothing_measured_is_not_due() -> None:
    assert [*retraining.judge_drift(ALL, None)] == [Finding("no drift has been measured", False)]
    for found, validated in (
        ({}, {MODEL: 0.7}),
        ({MODEL: (0.5, 0.5)}, {}),
        ({MODEL: (0.5, 0.5)}, {MODEL: None}),
    ):
        assert [*retraining.judge_performance(ALL, found, validated)] == [
            Finding("no performance has been measured", False)
        ]


def test_judge_rules_that_are_off() -> None:
    assert [*retraining.judge_age(NONE, 9999), *retraining.judge_rows(NONE, 10**9)] == []
    drifted = retraining.judge_drift(NONE, ("income", 9.0, 0.0))
    dropped = retraining.judge_performance(NONE, {MODEL: (0.1, 0.1)}, {MODEL: 0.9})
    assert [*drifted, *dropped] == []


@pytest.mark.parametrize(
    ("run_date", "expected"),
    [
        (date(2026, 9, 6), None),
        (date(2026, 9, 7), (date(2026, 9, 7), {"n": 1})),
        (date(2026, 9, 29), (date(2026, 9, 7), {"n": 1})),
        (date(2026, 9, 30), (date(2026, 9, 30), {"n": 3})),  # the second of the day
        (date(2026, 12, 1), (date(2026, 9, 30), {"n": 3})),
        (date(2027, 1, 1), (date(2027, 1, 1), {"n": 4})),
    ],
)
def test_find_last(run_date: date, expected: tuple[date, dict[str, int]] | None) -> None:
    names = [
        ("zoo_v9.9_2026-09-07", "2026-09-07"),
        ("modelA_v1.0_2026-09-30", "2026-09-30"),
        ("modelA_v1.0_2026-09-30_2", "2026-09-30"),
        ("a_v1.0_2020-01-01_v2_2027-01-01", "2027-01-01"),
    ]
    cards = [
        make_card(model_name=name, rows=n, run_date=day) for n, (name, day) in enumerate(names, 1)
    ]
    last = retraining.find_last(cards, run_date)
    assert (last and (last.run_date, {"n": last.rows})) == expected


def test_find_last_of_nothing() -> None:
    assert retraining.find_last([], date(2026, 9, 7)) is None


@pytest.fixture(scope="module")
def offer(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment with one model, for tests that need no database."""
    model = {**QUICK_MODELS["A"], "params": {"C": 1.0}}
    path = write_config(
        tmp_path_factory.mktemp("offer"),
        "sqlite://",
        models={"A": model},
        split={"A": 0.9, "control": 0.1},
        verdicts=["models_vs_control"],
    )
    offer = load_experiments(path, "dev")["card_offer"]
    return alter(offer, training=offer.training.model_copy(update={"not_features": ["sex"]}))


def describe(experiment: Experiment) -> Card:
    """The card of a model that was trained so."""
    config = {**experiment.describe(), "sql": None}
    return make_card(config=config, query=experiment.query("training").text)


def test_is_recipe(offer: Experiment) -> None:
    card = describe(offer)
    assert retraining.is_recipe(card, offer)
    other = with_training(alter(offer, select_top=0.1), max_auc_drop=0.5, subgroups=["sex"])
    assert retraining.is_recipe(card, other)  # none of it makes another model
    assert not retraining.is_recipe(card, alter(offer, sql={**offer.sql, "training": "select 2"}))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"not_features": []},
        {"validation_share": 0.3},
        {"window": "expanding", "start_date": date(2024, 1, 1)},
        {"days": 364},
    ],
)
def test_is_recipe_training_differs(offer: Experiment, change: dict[str, Any]) -> None:
    assert not retraining.is_recipe(describe(offer), with_training(offer, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"params": {"C": 2.0}},
        {"estimator": "sklearn.tree.DecisionTreeClassifier"},
        {"version": "1.1"},
    ],
)
def test_is_recipe_models_differ(offer: Experiment, change: dict[str, Any]) -> None:
    model = offer.models["A"]
    changed = {"A": model.model_copy(update=change)}
    assert not retraining.is_recipe(describe(offer), alter(offer, models=changed))
    added = {**offer.models, "B": model}
    assert not retraining.is_recipe(describe(offer), alter(offer, models=added))


def add_drift(
    engine: sa.Engine,
    model_name: str,
    cohort: str,
    feature: str,
    psi: float | None,
    noise: float | None,
    experiment: str = "card_offer",
) -> None:
    row = {
        "experiment": experiment,
        "model_name": model_name,
        "cohort": cohort,
        "feature": feature,
        "psi": psi,
        "psi_noise": noise,
    }
    row |= {
        "kind": "number",
        "n": 100,
        "null_rate": 0,
        "null_rate_training": 0,
        "n_new": 0,
        "run_id": "run1",
    }
    with engine.begin() as connection:
        connection.execute(tables.feature_drift.insert().values(row))


def add_score(
    engine: sa.Engine,
    model_name: str,
    metric: str,
    value: float,
    upper: float | None = None,
    cohort: str = "all",
    experiment: str = "card_offer",
) -> None:
    row = {
        "experiment": experiment,
        "model_name": model_name,
        "cohort": cohort,
        "metric": metric,
        "value": value,
        "upper": upper,
    }
    with engine.begin() as connection:
        connection.execute(tables.scores.insert().values({**row, "n": 100, "run_id": "run1"}))


def read_drift(
    engine: sa.Engine, names: Collection[str] = ("live1", "live2")
) -> tuple[str, float, float] | None:
    with engine.connect() as connection:
        return retraining.read_drift(connection, "card_offer", names, 0.0)


def test_read_drift(engine: sa.Engine) -> None:
    assert read_drift(engine) is None
    add_drift(engine, "live1", "2026-08-31", "income", 5.0, 0.1)  # an older cohort
    add_drift(engine, "live1", "2026-09-07", "income", 0.11, 0.1)
    add_drift(engine, "live1", "2026-09-07", "Ærø", 0.3, 0.2)
    add_drift(engine, "live2", "2026-09-07", "age", 0.5, 0.45)
    add_drift(engine, "live1", "2026-09-07", "letter", None, None)  # not measured
    add_drift(engine, "before", "2026-09-07", "income", 6.0, 0.1)  # not live any more
    add_drift(engine, "live1", "2026-09-14", "income", 7.0, 0.1, experiment="another")
    assert read_drift(engine) == ("Ærø of live1", 0.3, 0.2)
    assert read_drift(engine, ["live2"]) == ("age of live2", 0.5, 0.45)
    assert read_drift(engine, []) is None
    for metric, value in (("psi", 0.4), ("psi_noise", 0.05)):
        add_score(engine, "live2", metric, value)
        add_score(engine, "live1", metric, value / 10)
        add_score(engine, "live1", metric, 8 * value, cohort="2026-09-07")  # of one cohort only
        add_score(engine, "before", metric, 9 * value)
        add_score(engine, "live2", metric, 10 * value, experiment="another")
    assert read_drift(engine) == ("scores of live2", 0.4, 0.05)
    assert read_drift(engine, ["live1"]) == ("Ærø of live1", 0.3, 0.2)


def test_read_drift_of_scores_alone(engine: sa.Engine) -> None:
    for metric, value in (("psi", 0.4), ("psi_noise", 0.05)):
        add_score(engine, "live2", metric, value)
    assert read_drift(engine) == ("scores of live2", 0.4, 0.05)


def test_read_performance(engine: sa.Engine) -> None:
    add_score(engine, "live1", "roc_auc", 0.7, 0.75)
    add_score(engine, "live1", "roc_auc", 0.1, 0.2, cohort="2026-09-07")
    add_score(engine, "live1", "roc_auc", 0.3, 0.4, experiment="another")
    add_score(engine, "live1", "log_loss", 0.5, 0.6)
    add_score(engine, "live2", "roc_auc", 0.65)
    add_score(engine, "before", "roc_auc", 0.6, 0.61)
    with engine.connect() as connection:
        found = retraining.read_performance(connection, "card_offer", ["live1", "live2", "young"])
        assert retraining.read_performance(connection, "card_offer", []) == {}
    assert found == {"live1": (0.7, 0.75), "live2": (0.65, None)}


@pytest.mark.parametrize(
    ("rules", "days", "words"),
    [
        ({"max_days": 7}, 6, "not trained, the last training is 6 days old (limit 7)"),
        ({"max_days": 7}, 7, "dry run: the last training is 7 days old (limit 7); "),
        (
            {"max_days": 2, "min_days": 7},
            6,
            "not trained, the last training is 6 days old, and min_days is 7",
        ),
        ({"new_rows": 7 * 150 + 1}, 7, "not trained, 1,050 rows have matured since (limit 1,051)"),
        ({"new_rows": 7 * 150}, 7, "dry run: 1,050 rows have matured since (limit 1,050); "),
        (
            {"psi": 0.1, "auc_drop": 0.05},
            7,
            "not trained, no drift has been measured; no performance has been measured",
        ),
    ],
)
def test_retraining_says_why(
    rules: dict[str, Any], days: int, words: str, week: Experiment, week_engine: sa.Engine
) -> None:
    experiment = with_training(week, retrain=Retrain(**rules))
    assert words in train.train(experiment, week_engine, FIRST_NIGHT + days * DAY, dry_run=True)


def test_retraining_that_is_not_due_is_done_and_can_be_forced(
    week: Experiment, week_engine: sa.Engine
) -> None:
    night, weekly = FIRST_NIGHT + 3 * DAY, with_training(week, retrain=Retrain(max_days=7))
    assert "not trained" in train.train(weekly, week_engine, night)
    with week_engine.connect() as connection:
        row = connection.execute(sa.select(runs).where(runs.c.run_date == night)).one()
    assert (row.status, row.rows_written) == ("done", 0)
    assert "goes live" in train.train(weekly, week_engine, night, force=True)
    model = week.models["A"].model_copy(update={"params": {"C": 0.2}})
    edited = alter(
        weekly,
        models={**weekly.models, "A": model},
    )
    said = train.train(edited, week_engine, night + DAY, dry_run=True)
    assert "the config's models, features or training query are not those of model" in said
