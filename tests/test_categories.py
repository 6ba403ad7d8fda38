"""Categories that training knew, hardly knew, or never saw, in every library that models use.

The truth is simulated: the rate of each category is given, so what is new must be predicted as all
rows together, and not as the category that happens to be the first.
"""

import importlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from abatch.modelling.categories import CategoryEncoder, CategoryFrame
from abatch.modelling.estimators import fit, make_estimator, make_pipeline_for, predict_probability
from abatch.modelling.features import code, decode, infer_types

# Share of the rows, and rate of outcome 1; None is null.
TRUTH: dict[str | None, tuple[float, float]] = {
    "a": (0.10, 0.94),
    "b": (0.30, 0.25),
    "c": (0.30, 0.30),
    "d": (0.20, 0.28),
    None: (0.10, 0.60),
}
BASE_RATE = sum(share * rate for share, rate in TRUTH.values())  # .375
ESTIMATORS: list[tuple[str, dict[str, Any]]] = [
    ("lightgbm.LGBMClassifier", {"n_estimators": 50}),
    ("xgboost.XGBClassifier", {"n_estimators": 30}),
    ("xgboost.XGBClassifier", {"n_estimators": 30, "tree_method": "exact"}),
    ("catboost.CatBoostClassifier", {"iterations": 100}),
    ("sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 50}),
    ("sklearn.ensemble.GradientBoostingClassifier", {"n_estimators": 50}),
    ("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 30, "min_samples_leaf": 20}),
    ("sklearn.tree.DecisionTreeClassifier", {"max_depth": 6, "min_samples_leaf": 20}),
    ("sklearn.linear_model.LogisticRegression", {}),
    ("sklearn.neighbors.KNeighborsClassifier", {"n_neighbors": 100}),
]


def require(path: str) -> None:
    """Skip, saying so, where the library is not installed, or what it needs of the system."""
    library = path.partition(".")[0]
    try:
        importlib.import_module(library)
    except (ImportError, OSError) as error:
        pytest.skip(f"{library} cannot be imported: {error}")


def make_rows(rng: np.random.Generator, n_rows: int, known: list[Any]) -> tuple[Any, np.ndarray]:
    """Rows with a category of `TRUTH` and a number that says nothing, and their outcomes."""
    share = np.array([TRUTH[name][0] for name in known])
    place = rng.choice(len(known), n_rows, p=share / share.sum())
    frame = pd.DataFrame(
        {"region": pd.Series(known, dtype=object).iloc[place].to_numpy(), "size": place * 0.0}
    ).assign(size=rng.normal(size=n_rows))
    y = rng.random(n_rows) < np.array([TRUTH[name][1] for name in known])[place]
    return frame, y.astype(int)


def fit_one(path: str, params: dict[str, Any], frame: pd.DataFrame, y: np.ndarray) -> Pipeline:
    types = infer_types(frame)
    pipeline = make_pipeline_for(make_estimator(path, params, 0, "models.A"), types)
    return fit(pipeline, decode(code(frame, types)), y, "models.A")


def predict_each(
    pipeline: Pipeline, regions: list[str | None], rng: np.random.Generator
) -> dict[str | None, float]:
    """The mean prediction of each category, over what else a row may hold."""
    size = rng.normal(size=200)
    found = {}
    for region in regions:
        frame = pd.DataFrame({"region": pd.Series([region] * 200, dtype=object), "size": size})
        X = decode(code(frame, {"region": "category", "size": "number"}))
        found[region] = float(predict_probability(pipeline, X).mean())
    return found


@pytest.mark.parametrize(("path", "params"), ESTIMATORS, ids=lambda value: str(value)[-30:])
def test_new_rare_and_null_categories(
    path: str, params: dict[str, Any], rng: np.random.Generator
) -> None:
    require(path)
    frame, y = make_rows(rng, 6_000, [*TRUTH])
    frame.loc[[5, 2_000, 4_000], "region"] = "rare"
    y[[5, 2_000, 4_000]] = 1
    found = predict_each(
        fit_one(path, params, frame, y), ["new", "another", "rare", None, "a", "b"], rng
    )
    assert found["new"] == found["another"] == found["rare"]
    assert found["new"] == pytest.approx(BASE_RATE, abs=0.12)
    assert found[None] == pytest.approx(0.6, abs=0.12)
    assert found["a"] == pytest.approx(0.94, abs=0.08)
    assert found["b"] == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize(("path", "params"), ESTIMATORS, ids=lambda value: str(value)[-30:])
def test_null_that_training_did_not_know(
    path: str, params: dict[str, Any], rng: np.random.Generator
) -> None:
    require(path)
    frame, y = make_rows(rng, 3_000, ["a", "b", "c", "d"])
    found = predict_each(fit_one(path, params, frame, y), [None, "new"], rng)
    assert found[None] == found["new"]
    assert found["new"] == pytest.approx(y.mean(), abs=0.15)


@pytest.mark.parametrize(
    ("path", "params"), ESTIMATORS[:5], ids=[path.rpartition(".")[2] for path, _ in ESTIMATORS[:5]]
)
def test_boosting_splits_categories_as_such(path: str, params: dict[str, Any]) -> None:
    """Every other category of a column is likely: one split of categories, twenty of numbers."""
    require(path)
    names = [f"r{number:02}" for number in range(20)]
    frame = pd.DataFrame({"region": np.array(names * 100, dtype=object), "size": 0.0})
    y = np.tile([0, 1], 1_000)
    one_split = {
        "lightgbm": {"n_estimators": 1, "num_leaves": 2, "min_data_per_group": 1},
        "xgboost": {"n_estimators": 1, "max_depth": 1},
        "catboost": {"iterations": 1, "depth": 1, "one_hot_max_size": 2},
        "sklearn": {"max_iter": 1, "max_leaf_nodes": 2},
    }[path.partition(".")[0]]
    is_native = params.get("tree_method") != "exact"
    pipeline = fit_one(path, {**params, **one_split}, frame, y)
    X = decode(code(frame, {"region": "category", "size": "number"}))
    found = pd.Series(predict_probability(pipeline, X)).groupby(frame["region"]).mean().to_numpy()
    assert (found[1::2].min() > found[::2].max()) == is_native


def test_category_encoder_codes() -> None:
    """Of 200 rows a tenth is hidden: a and b, whose neighbourhood is as likely as all rows."""
    X = pd.DataFrame({"region": ["b", "a"] * 95 + [None, np.nan] + ["rare"] * 8}, dtype=object)
    y = np.array([1, 0] * 95 + [0, 0] + [1] * 8)
    encoder = CategoryEncoder()
    fitted_on = encoder.fit_transform(X, y)
    new = pd.DataFrame({"region": ["a", "b", None, "rare", "new", np.nan]})
    assert encoder.transform(new).ravel().tolist() == [0, 2, 1, 1, 1, 1]
    plain = encoder.transform(X)
    is_hidden = (fitted_on != plain).ravel()
    assert set(fitted_on[is_hidden].ravel().tolist()) == {1}
    assert 5 < is_hidden.sum() < 40  # 19 on average
    np.testing.assert_array_equal(CategoryEncoder().fit_transform(X, y), fitted_on)
    assert encoder.get_feature_names_out(np.array(["region"])).tolist() == ["region"]


def test_category_encoder_most_common_and_null() -> None:
    X = pd.DataFrame({"x": ["a"] * 50 + ["b"] * 40 + ["c"] * 30 + [None] * 20}, dtype=object)
    y = np.array([0] * 50 + [1] * 90)
    codes = CategoryEncoder(max_codes=4).fit(X, y).codes_[0]
    assert {*codes} == {"a", "b", "c"}
    codes = CategoryEncoder(max_codes=5).fit(X, y).codes_[0]
    assert [*codes] == ["a", "b", "c", None]  # by the alphabet, null last
    assert sorted(codes.values()) == list(codes.values())


def test_category_encoder_order_of_the_columns(rng: np.random.Generator) -> None:
    """A card keeps columns in another order than the query, and reproduces the same model."""
    X = pd.DataFrame(rng.choice([*"abc"], (500, 2)), columns=["x", "y"], dtype=object)
    y = rng.integers(0, 2, 500)
    codes = CategoryEncoder().fit_transform(X, y)
    turned = CategoryEncoder().fit_transform(X[["y", "x"]], y)
    np.testing.assert_array_equal(turned[:, ::-1], codes)


def test_category_frame() -> None:
    """Its categories are those of the fit, whatever the rows: code 2 alone is no code 0."""
    frame = CategoryFrame(1).fit(np.array([[2.0, 0.5], [0.0, np.nan]]))
    for rows in ([[2.0, 0.5], [0.0, np.nan]], [[2.0, 0.5]], [[3.0, 0.5]]):
        found = frame.transform(np.array(rows))
        assert found.dtypes.astype(str).tolist() == ["category", "float64"]
        assert found["0"].tolist() == found["0"].cat.codes.tolist() == [row[0] for row in rows]
        assert found["0"].cat.categories.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("path", "params"), ESTIMATORS, ids=lambda value: str(value)[-30:])
def test_a_category_alone_is_predicted_as_among_others(
    path: str, params: dict[str, Any], rng: np.random.Generator
) -> None:
    """XGBoost before 3.1 takes the only category of some rows for the first it knows."""
    require(path)
    frame, y = make_rows(rng, 2_000, [*TRUTH])
    pipeline = fit_one(path, params, frame, y)
    X = decode(code(frame.head(40), {"region": "category", "size": "number"}))
    alone = [predict_probability(pipeline, X.iloc[[i]])[0] for i in range(len(X))]
    assert alone == pytest.approx(predict_probability(pipeline, X), abs=1e-6)
