"""What a model rests on and for whom it is good, against scikit-learn and counts by hand."""

import json
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from abatch.modelling import estimators, features, inspection
from abatch.modelling.card import Importance, Subgroup
from abatch.statistics import metrics

TYPES = {"income": "number", "noise": "number", "region": "category"}


def through_json(rows: list[Any]) -> list[Any]:
    """The rows as a card brings them back; JSON has no nan."""
    return [
        type(row).model_validate_json(json.dumps(row.model_dump(), allow_nan=False)) for row in rows
    ]


def test_find_best_alone_ranks_as_scikit_learn() -> None:
    """A flag that is right in 98 of 100 rows, of either outcome, has ROC AUC .98."""
    rng, y = np.random.default_rng(3), np.tile([0, 1], 2000)
    flag = y.copy()
    flag[np.arange(0, 4000, 100)] = 1
    flag[np.arange(1, 4000, 100)] = 0
    X = pd.DataFrame({"noise": rng.normal(size=4000), "flag": flag.astype(float)})
    validation = np.arange(4000) >= 2000
    types = dict.fromkeys(X, "number")
    best = inspection.find_best_alone(X, y, validation, types)
    assert best == (
        "flag",
        pytest.approx(roc_auc_score(y[validation], flag[validation]), abs=1e-12),
    )
    assert best[1] == pytest.approx(0.98)
    # one that says it by null, one that is 1 at both ends, and a word
    for leak, kind in (
        (np.where(y == 1, np.nan, rng.normal(size=4000)), "number"),
        (np.where(y == 1, rng.normal(size=4000), 9 * rng.choice([-1, 1], 4000)), "number"),
        (np.where(y == 1, "closed", "open").astype(object), "category"),
    ):
        wide = X.assign(leak=leak)
        name, auc = inspection.find_best_alone(wide, y, validation, {**types, "leak": kind})
        assert (name, auc) == ("leak", pytest.approx(1, abs=0.005))


# 1 in 10 has the outcome: twenty such by chance 1e-20, thirteen 1e-13.
@pytest.mark.parametrize(
    ("n_known", "n_people", "share", "is_told"),
    [
        (20, 20, 0.1, True),
        (19, 19, 0.1, False),
        (39, 39, 0.5, False),
        (40, 40, 0.5, True),
        (60, 19, 0.1, False),
        (60, 60, 0.9, True),
    ],
)
def test_find_telling_by_hand(n_known: int, n_people: int, share: float, is_told: bool) -> None:
    """A flag, a word and a null that some of those with the rarer outcome have, and no others."""
    n = 1000
    y, ids = (np.arange(n) < share * n).astype(int), np.arange(n)
    first = np.arange(n) < n_known if share <= 0.5 else np.arange(n) >= n - n_known
    ids[first] = np.arange(n_known) % n_people + n
    X = pd.DataFrame(
        {
            "amount": np.arange(n) / 7,
            "flag": first.astype(float),
            "reason": pd.Categorical(np.where(first, "died", "none")),
            "since": np.where(first, np.nan, np.arange(n) % 9),
            "hint": np.arange(n) % 2.0,
        }
    )
    rare = min(share, 1 - share) * n
    others, verb = (rare - n_known) / (n - n_known), "has" if share <= 0.5 else "lacks"
    found = inspection.find_telling(X, y, pd.Series(ids.astype(str)))
    words = f"{verb} the outcome in {n_known} of {n_known} rows, the others in {others:.1%}"
    named = {"flag": "1", "reason": "'died'", "since": "null"}
    assert found == (
        {name: f"= {value} {words}" for name, value in named.items()} if is_told else {}
    )


def test_find_telling_is_silent_by_chance(rng: np.random.Generator) -> None:
    """Twenty features of noise in 200 sets of 500 rows, where one in 2 to 50 has the outcome."""
    for share in np.tile([0.02, 0.1, 0.3, 0.5], 50):
        y = (rng.random(500) < share).astype(int)
        X = pd.DataFrame({f"x{k}": rng.integers(0, k, 500) * 1.0 for k in range(2, 22)})
        assert inspection.find_telling(X, y, pd.Series(map(str, range(500)))) == {}


def make_rows(rng: np.random.Generator, n: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows whose outcome income decides but for chance.

    With nulls, as `features.decode` gives them.
    """
    income = rng.normal(size=n)
    y = (income + 0.5 * rng.normal(size=n) > 1.2).astype(np.int64)
    income[rng.random(n) < 0.1] = np.nan
    frame = pd.DataFrame(
        {
            "income": income,
            "noise": rng.normal(size=n),
            "region": rng.choice(np.array(["north", "south", None], dtype=object), n),
        }
    )
    return features.decode(features.code(frame, TYPES)), y


def fit(
    X: pd.DataFrame,
    y: np.ndarray,
    path: str = "sklearn.linear_model.LogisticRegression",
    **params: Any,
) -> Any:
    return estimators.make_pipeline_for(
        estimators.make_estimator(path, params, 0, "ml_config.yaml"), TYPES
    ).fit(X, y)


@pytest.mark.parametrize(
    "path",
    ["sklearn.linear_model.LogisticRegression", "sklearn.ensemble.HistGradientBoostingClassifier"],
)
def test_measure_importances_equals_scikit_learn(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """By one prediction of the rows, and one of as many columns' repeats as are few cells."""
    monkeypatch.setattr(inspection, "N_CELLS", 2 * 3 * 3000)
    X, y = make_rows(rng, 1000)
    pipeline, n_rows = fit(X, y, path), []
    predict = estimators.predict_probability

    def notice(pipeline: Any, X: pd.DataFrame) -> np.ndarray:
        n_rows.append(len(X))
        return predict(pipeline, X)

    monkeypatch.setattr(estimators, "predict_probability", notice)
    found = inspection.measure_importances(pipeline, X, y, 7)
    assert n_rows == [1000, 6000, 3000]
    expected = permutation_importance(
        pipeline, X, y, scoring="roc_auc", n_repeats=inspection.N_REPEATS, random_state=7
    )
    assert [row.feature for row in found] == [
        X.columns[i] for i in np.argsort(-expected.importances_mean)
    ]
    by_name = {row.feature: (row.importance, row.sd) for row in found}
    for name, mean, sd in zip(
        X.columns, expected.importances_mean, expected.importances_std, strict=True
    ):
        assert by_name[name] == pytest.approx((mean, sd), abs=1e-12)
    assert found[0].feature == "income"
    assert through_json(found) == found


def test_measure_importances_one_feature_decides_all(rng: np.random.Generator) -> None:
    """Shuffled, what decides all ranks like a coin: ROC AUC drops from 1 to about 0.5.

    What the model does not read: by exactly 0.
    """
    X = pd.DataFrame(
        {
            "noise": np.zeros(4000),
            "income": np.repeat([0.0, 1.0], 2000),
            "also noise": np.zeros(4000),
        }
    )
    y = X["income"].to_numpy().astype(np.int64)
    pipeline = estimators.make_pipeline_for(LogisticRegression(), {"income": "number"}).fit(X, y)
    first, *others = inspection.measure_importances(pipeline, X, y, 0)
    assert first.feature == "income"
    assert first.importance == pytest.approx(0.5, abs=0.03)
    assert others == [
        Importance(feature=name, importance=0.0, sd=0.0) for name in ("also noise", "noise")
    ]


def test_measure_importances_many_rows_and_a_rare_outcome(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = make_rows(rng, 20_000)
    y[rng.random(len(y)) < 0.8] = 0
    seen: list[np.ndarray] = []

    def notice(y: np.ndarray, prediction: np.ndarray) -> float:
        seen.append(y)
        return float(roc_auc_score(y, prediction))

    monkeypatch.setattr(metrics, "roc_auc", notice)
    pipeline = fit(X, y)
    found = inspection.measure_importances(pipeline, X, y, 3)
    assert len(seen[0]) == inspection.N_ROWS
    assert seen[0].sum() == min(y.sum(), inspection.N_ROWS // 2)
    exact = permutation_importance(
        pipeline, X, y, scoring="roc_auc", n_repeats=5, random_state=0
    ).importances_mean
    assert found[0].importance == pytest.approx(exact[0], abs=0.05)
    assert (
        inspection.measure_importances(pipeline, X, y, 3)
        == found
        != inspection.measure_importances(pipeline, X, y, 4)
    )


def test_measure_importances_too_few_outcomes(rng: np.random.Generator) -> None:
    X, y = make_rows(rng, 500)
    pipeline = fit(X, y)
    few = np.zeros(500, dtype=np.int64)
    few[:19] = 1
    assert (
        inspection.measure_importances(pipeline, X, few, 0)
        == inspection.measure_importances(pipeline, X, 1 - few, 0)
        == []
    )
    few[19] = 1
    assert len(inspection.measure_importances(pipeline, X, few, 0)) == 3


def measure(column: Any, y: Any = None, prediction: Any = None) -> list[Subgroup]:
    n = len(column)
    y = np.zeros(n, dtype=np.int64) if y is None else y
    prediction = np.full(n, 0.5) if prediction is None else prediction
    return inspection.measure_subgroups(
        pd.DataFrame({"c": column}), y, prediction, np.arange(n) % 64, 64
    )


def test_measure_subgroups_figures(rng: np.random.Generator) -> None:
    X, y = make_rows(rng, 3000)
    prediction = rng.uniform(0.01, 0.3, 3000) + 0.5 * y * rng.random(3000)
    bucket = rng.integers(0, 64, 3000)
    found = inspection.measure_subgroups(X[["region", "income"]], y, prediction, bucket, 64)
    assert through_json(found) == found
    regions, incomes = (
        [row for row in found if row.column == name] for name in ("region", "income")
    )
    assert sum(row.n for row in regions) == sum(row.n for row in incomes) == 3000
    for row in regions:
        own = X["region"].fillna("(null)").eq(row.value).to_numpy()
        assert (row.n, row.n_positive) == (own.sum(), y[own].sum())
        assert (row.base_rate, row.mean_prediction) == pytest.approx(
            (y[own].mean(), prediction[own].mean())
        )
        assert row.roc_auc == pytest.approx(roc_auc_score(y[own], prediction[own]), abs=1e-3)
        lower, roc_auc, upper = cast(
            tuple[float, float, float], (row.lower, row.roc_auc, row.upper)
        )
        assert lower < roc_auc < upper
    assert regions[-1].value == incomes[-1].value == "(null)"


def test_measure_subgroups_too_few_outcomes_are_counted() -> None:
    y = np.repeat([0, 1], [100, 19])
    (row,) = measure(["a"] * 119, y, np.linspace(0.1, 0.9, 119))
    assert row.roc_auc is row.lower is row.upper is None
    assert (row.n, row.n_positive, row.base_rate) == (119, 19, pytest.approx(19 / 119))
    (row,) = measure(["a"] * 120, np.repeat([0, 1], [100, 20]), np.linspace(0.1, 0.9, 120))
    assert row.roc_auc == 1.0


def test_measure_subgroups_text_common_values_others_and_nulls() -> None:
    values = [
        letter for i, letter in enumerate("abcdefghijklmn") for _ in range(20 - i)
    ]  # 20 of a, ... 7 of n
    column = pd.Series([*values, "o", "o", np.nan, None], dtype=object)
    found = {row.value: row.n for row in measure(column)}
    assert [*found] == [*"abcdefghijkl", "(other)", "(null)"]
    assert [*found.values()] == [*range(20, 8, -1), 8 + 7 + 2, 2]
    assert [row.value for row in measure(pd.Series(["b", "a", "c", "c"], dtype=object))] == [
        "c",
        "a",
        "b",
    ]  # by name where equal


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (list(range(18, 74)), {"18 to 31": 14, "32 to 45": 14, "46 to 59": 14, "60 to 73": 14}),
        ([0.0] * 9 + [1.0], {"0": 9, "1": 1}),  # three quartiles are equal
        ([7.0] * 5, {"7": 5}),
        ([1.5, 2.25, np.nan, 1_234_567.0], {"1.5": 1, "2.25": 1, "1,234,567": 1, "(null)": 1}),
        ([np.nan] * 3, {"(null)": 3}),
        ([-1e300, 123_456.789], {"-1e+300": 1, "123,457": 1}),
        ([], {}),
    ],
)
def test_measure_subgroups_number_by_quartiles(
    values: list[float], expected: dict[str, int]
) -> None:
    assert {row.value: row.n for row in measure(np.array(values, dtype=np.float64))} == expected


def test_measure_subgroups_no_columns() -> None:
    assert (
        inspection.measure_subgroups(
            pd.DataFrame(index=range(3)),
            np.zeros(3, dtype=int),
            np.ones(3),
            np.zeros(3, dtype=int),
            64,
        )
        == []
    )
