"""Estimators: whatever the config names fits and predicts on a bank's columns.

It is seeded, and fails in clear words.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    BaggingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from abatch.errors import ConfigError
from abatch.modelling.categories import CategoryEncoder
from abatch.modelling.estimators import (
    Columns,
    fit,
    make_estimator,
    make_pipeline_for,
    predict_probability,
)
from abatch.modelling.features import code, decode, infer_types

PLACE = "ml_config.yaml, experiments.card_offer.models.A"
ESTIMATORS: list[tuple[str, dict[str, Any]]] = [
    ("sklearn.linear_model.LogisticRegression", {"C": 0.5}),
    ("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 10}),
    ("sklearn.ensemble.ExtraTreesClassifier", {"n_estimators": 10}),
    ("sklearn.ensemble.GradientBoostingClassifier", {"n_estimators": 10}),
    ("sklearn.ensemble.AdaBoostClassifier", {"n_estimators": 5}),
    ("sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 10}),
    ("sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 10, "max_bins": 16}),
    ("sklearn.tree.DecisionTreeClassifier", {"max_depth": 4}),
    ("sklearn.naive_bayes.GaussianNB", {}),
    ("sklearn.neighbors.KNeighborsClassifier", {}),
    ("sklearn.discriminant_analysis.LinearDiscriminantAnalysis", {}),
    (
        "sklearn.neural_network.MLPClassifier",
        {"hidden_layer_sizes": [4], "max_iter": 2000, "learning_rate_init": 0.02},
    ),
    ("bank_models.calibrated", {}),
    ("bank_models.calibrated_boosting", {"max_iter": 5}),
    ("bank_models.vote", {}),
    ("bank_models.whole_pipeline", {"C": 0.1}),
]
BANK_MODELS = """
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

TEXT = SimpleImputer(strategy="constant", fill_value="?", keep_empty_features=True)

def calibrated():
    return CalibratedClassifierCV(LogisticRegression(), cv=3)

def calibrated_boosting(**params):
    return CalibratedClassifierCV(HistGradientBoostingClassifier(**params), cv=3)

def vote():
    tree = DecisionTreeClassifier(max_depth=3)
    line = LogisticRegression()
    return VotingClassifier([("tree", tree), ("line", line)], voting="soft")

def whole_pipeline(C=1.0):
    text = make_pipeline(TEXT, OneHotEncoder(handle_unknown="ignore"))
    columns = make_column_transformer(
        (SimpleImputer(keep_empty_features=True), make_column_selector(dtype_include="number")),
        (text, make_column_selector(dtype_include=object)),
    )
    return make_pipeline(columns, LogisticRegression(C=C, max_iter=5000))

def careless_pipeline():
    columns = make_column_transformer((OneHotEncoder(), ["region"]))
    return make_pipeline(columns, LogisticRegression())

def the_class():
    return LogisticRegression

def broken(depth=1):
    return {}["depth"]

def nothing():
    pass
"""


@pytest.fixture(autouse=True)
def bank_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of the user's own, in a folder that is on the path as the config's folder is."""
    (tmp_path / "bank_models.py").write_text(BANK_MODELS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("bank_models", None)


def make_rows(n_rows: int, seed: int, unseen: bool = False) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows as a query returns them, and outcomes that follow from age and region."""
    rng = np.random.default_rng(seed)
    age, region = rng.normal(45, 12, n_rows), rng.choice(["Ærø", "日本", "Köln"], n_rows)
    y = (rng.random(n_rows) < 1 / (1 + np.exp(-(age - 45) / 8 - (region == "Ærø")))).astype(int)
    frame = pd.DataFrame(
        {
            "age": pd.Series(age).mask(rng.random(n_rows) < 0.1),
            "amount": [
                Decimal(int(cents)) / 100 if cents > 500 else None
                for cents in rng.integers(0, 10_000, n_rows)
            ],
            "constant": 7,
            "flag": rng.random(n_rows) < 0.5,
            "region": pd.Series(region, dtype=object).mask(rng.random(n_rows) < 0.1, None),
            "branch": [
                f"b{branch}" for branch in rng.integers(0, 30, n_rows)
            ],  # so many that one column each is sparse
            "code": [f"c{code}" for code in rng.permutation(n_rows)],  # as many categories as rows
        }
    )
    if unseen:
        frame.loc[::3, "region"] = "Ny-Ålesund"
        frame["code"] = "new"
        frame.loc[::4, ["age", "amount", "region", "code"]] = None
    return frame, y


TRAINING, OUTCOME = make_rows(600, seed=1)
CANDIDATES, _ = make_rows(12, seed=2, unseen=True)


def fit_one(
    path: str, params: dict[str, Any], columns: list[str]
) -> tuple[Pipeline, dict[str, str]]:
    types = infer_types(TRAINING[columns])
    pipeline = make_pipeline_for(make_estimator(path, params, 0, PLACE), types)
    return fit(pipeline, decode(code(TRAINING, types)), OUTCOME, PLACE), types


def test_columns_are_put_side_by_side_as_by_scikit_learn() -> None:
    """Zeros and nulls among numbers; and rows of a category that was never seen have fewer values.

    To the last bit.
    """
    X = pd.DataFrame(
        {
            "branch": [f"b{i % 9}" for i in range(90)],
            "product": [f"p{i % 11}" for i in range(90)],
            "amount": np.where(np.arange(90) % 4 == 0, np.nan, np.arange(90) % 7.0),
        }
    )
    one_hot = OneHotEncoder(handle_unknown="ignore")
    steps = [("one", one_hot, ["branch", "product"]), ("rest", "passthrough", ["amount"])]
    ours, plain = Columns(steps), ColumnTransformer(steps)
    pairs = [(ours.fit_transform(X), plain.fit_transform(X))]
    unseen = X.assign(branch=np.where(np.arange(90) % 2, "new", X["branch"]))
    pairs += [(ours.transform(rows), plain.transform(rows)) for rows in (X, unseen, X[:1])]
    for found, expected in pairs:
        assert found.shape == expected.shape
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))


@pytest.mark.parametrize(
    "columns",
    [list(TRAINING), ["age", "amount", "constant"], ["region", "branch", "code"]],
    ids=["all", "numbers", "categories"],
)
@pytest.mark.parametrize(
    ("path", "params"),
    ESTIMATORS,
    ids=[f"{path.rpartition('.')[2]}-{len(params)}" for path, params in ESTIMATORS],
)
def test_fit_and_predict_on_a_banks_columns(
    path: str, params: dict[str, Any], columns: list[str]
) -> None:
    pipeline, types = fit_one(path, params, columns)
    X = decode(code(CANDIDATES, types))
    found = predict_probability(pipeline, X)
    assert found.shape == (12,)
    assert found.dtype == np.float64
    assert ((found >= 0) & (found <= 1)).all()
    one_by_one = [
        predict_probability(pipeline, decode(code(CANDIDATES.iloc[[i]], types)))[0]
        for i in range(len(X))
    ]
    np.testing.assert_allclose(one_by_one, found, rtol=1e-9)
    if "age" in columns:  # the outcome depends on age: a model that has learned ranks by it
        ranked = predict_probability(pipeline, decode(code(TRAINING, types)))
        assert ranked[OUTCOME == 1].mean() > ranked[OUTCOME == 0].mean() + 0.05


def test_predict_probability_is_of_outcome_1() -> None:
    pipeline, types = fit_one("sklearn.linear_model.LogisticRegression", {}, ["age"])
    old, young = predict_probability(pipeline, decode(code(pd.DataFrame({"age": [70, 20]}), types)))
    # 45 + 25 and 45 - 25 years, divided by 8: odds of about 23 to 1
    assert old > 0.8
    assert young < 0.2


def test_pipeline_equals_scikit_learn_by_hand() -> None:
    """Median, standard score and logistic regression, worked out by hand.

    With numpy and scikit-learn's bare estimator.
    """
    pipeline, types = fit_one("sklearn.linear_model.LogisticRegression", {"C": 0.5}, ["age"])
    age = TRAINING["age"].to_numpy()
    by_hand = np.column_stack([np.where(np.isnan(age), np.nanmedian(age), age), np.isnan(age)])
    by_hand = (by_hand - by_hand.mean(axis=0)) / by_hand.std(axis=0)
    expected = LogisticRegression(C=0.5).fit(by_hand, OUTCOME).predict_proba(by_hand)[:, 1]
    np.testing.assert_allclose(
        predict_probability(pipeline, decode(code(TRAINING, types))), expected, rtol=1e-6
    )


def test_make_pipeline_for_leaves_an_own_pipeline_as_it_is() -> None:
    own = make_estimator("bank_models.whole_pipeline", {"C": 0.1}, 0, PLACE)
    assert make_pipeline_for(own, {"age": "number"}) is own
    assert own.get_params()["logisticregression__C"] == 0.1


def test_own_pipeline_that_knows_columns_by_their_places(rng: np.random.Generator) -> None:
    """A card keeps the columns in another order than the query returned them in."""
    X = pd.DataFrame(rng.normal(size=(200, 3)), columns=["income", "age", "balance"])
    y = (X["income"] > 0).astype(int).to_numpy()
    fitted = fit(make_pipeline(StandardScaler(), LogisticRegression()), X, y, PLACE)
    found = predict_probability(fitted, X[["age", "balance", "income"]])
    assert found.tolist() == predict_probability(fitted, X).tolist()
    assert ((found > 0.5) == y).mean() > 0.95


def test_make_pipeline_for_ensembles_of_lines_are_no_trees() -> None:
    types = {"age": "number", "region": "category"}
    for estimator, expected in (
        (BaggingClassifier(), ["CategoryEncoder"]),
        (BaggingClassifier(LogisticRegression()), ["CategoryEncoder", "OneHotEncoder"]),
        (
            VotingClassifier([("line", LogisticRegression())], voting="soft"),
            ["CategoryEncoder", "OneHotEncoder"],
        ),
        (
            VotingClassifier([("tree", RandomForestClassifier())], voting="soft"),
            ["CategoryEncoder"],
        ),
    ):
        (_, step, _), _ = make_pipeline_for(estimator, types)[0].transformers
        assert [
            type(part).__name__ for part in getattr(step, "named_steps", {"": step}).values()
        ] == expected


def test_make_pipeline_for_histogram_boosting_knows_its_categories() -> None:
    types = {"region": "category", "age": "number", "code": "category"}
    pipeline = make_pipeline_for(HistGradientBoostingClassifier(), types)
    assert pipeline[-1].categorical_features == [0, 1]  # they come first
    assert (
        make_pipeline_for(HistGradientBoostingClassifier(categorical_features=None), types)[
            -1
        ].categorical_features
        is None
    )


@pytest.mark.parametrize("seed", [0, 7])
def test_make_estimator_seeds_whatever_is_open(seed: int, bank_models: Path) -> None:
    (bank_models / "nested.py").write_text(
        "from sklearn.ensemble import *\nfrom sklearn.linear_model import *\nfrom sklearn.pipeline"
        " import make_pipeline\ndef make():\n    return"
        " make_pipeline(BaggingClassifier(VotingClassifier([('a',"
        " RandomForestClassifier(random_state=3)), ('b', LogisticRegression()), ('c',"
        " HistGradientBoostingClassifier())], voting='soft')))\n"
    )
    try:
        params = make_estimator("nested.make", {}, seed, PLACE).get_params()
    finally:
        sys.modules.pop("nested", None)
    states = {
        name.removeprefix("baggingclassifier__"): value
        for name, value in params.items()
        if name.endswith("random_state")
    }
    assert states == {
        "random_state": seed,
        "estimator__a__random_state": 3,
        "estimator__b__random_state": seed,
        "estimator__c__random_state": seed,
    }
    assert params["baggingclassifier__estimator__c__early_stopping"] is False


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, False), ({"early_stopping": True}, True), ({"random_state": 5}, False)],
)
def test_make_estimator_early_stopping(given: dict[str, Any], expected: bool) -> None:
    estimator = make_estimator("sklearn.ensemble.HistGradientBoostingClassifier", given, 9, PLACE)
    assert estimator.early_stopping is expected
    assert estimator.random_state == given.get("random_state", 9)


def test_fit_twice_gives_the_same() -> None:
    first, types = fit_one(
        "sklearn.ensemble.RandomForestClassifier", {"n_estimators": 5}, list(TRAINING)
    )
    second, _ = fit_one(
        "sklearn.ensemble.RandomForestClassifier", {"n_estimators": 5}, list(TRAINING)
    )
    X = decode(code(CANDIDATES, types))
    np.testing.assert_array_equal(predict_probability(first, X), predict_probability(second, X))


EXPECTED = "Expected the import path of a scikit-learn estimator or of a function that returns one."
CLASSIFIER = "Expected a scikit-learn classifier that predicts probabilities, with predict_proba."


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        (
            "sklearn.linear_model.LogisticRegresion",
            {},
            (
                ".estimator: 'sklearn.linear_model.LogisticRegresion' cannot be imported:"
                f" sklearn.linear_model has no 'LogisticRegresion'. {EXPECTED} Did you mean"
                " 'sklearn.linear_model.LogisticRegression'?"
            ),
        ),
        (
            "sklearn.linearmodel.LogisticRegression",
            {},
            (
                ".estimator: 'sklearn.linearmodel.LogisticRegression' cannot be imported: there is"
                f" no module 'sklearn.linearmodel'. {EXPECTED} Did you mean"
                " 'sklearn.linear_model.LogisticRegression'?"
            ),
        ),
        (
            "LogisticRegression",
            {},
            (
                ".estimator: 'LogisticRegression' cannot be imported: it names a module alone."
                f" {EXPECTED} Did you mean 'sklearn.linear_model.LogisticRegression'?"
            ),
        ),
        (
            "sklearn.linear_model.LogisticRegression.__class__",
            {},
            (
                ".estimator: 'sklearn.linear_model.LogisticRegression.__class__' cannot be"
                " imported: there is no module 'sklearn.linear_model.LogisticRegression'."
                f" {EXPECTED} Did you mean 'sklearn.linear_model.LogisticRegression'?"
            ),
        ),
        (".x.y", {}, f".estimator: '.x.y' cannot be imported: there is no module '.x'. {EXPECTED}"),
        (
            "bank_models.calibrate",
            {},
            (
                ".estimator: 'bank_models.calibrate' cannot be imported: bank_models has no"
                f" 'calibrate'. {EXPECTED} Did you mean 'bank_models.calibrated'?"
            ),
        ),
        (
            "bank_models.TEXT",
            {},
            ".estimator: 'bank_models.TEXT' is neither a class nor a function.",
        ),
        (
            "sklearn.svm.LinearSVC",
            {},
            (
                ".estimator: 'sklearn.svm.LinearSVC' gives a LinearSVC without predict_proba."
                f" {CLASSIFIER}"
            ),
        ),
        (
            "sklearn.linear_model.Ridge",
            {},
            (
                ".estimator: 'sklearn.linear_model.Ridge' gives a Ridge without predict_proba."
                f" {CLASSIFIER}"
            ),
        ),
        (
            "bank_models.the_class",
            {},
            f".estimator: 'bank_models.the_class' gives the class LogisticRegression. {CLASSIFIER}",
        ),
        (
            "bank_models.nothing",
            {},
            f".estimator: 'bank_models.nothing' gives a NoneType without fit. {CLASSIFIER}",
        ),
        (
            "builtins.dict",
            {"a": 1},
            f".estimator: 'builtins.dict' gives a dict without fit. {CLASSIFIER}",
        ),
        (
            "sklearn.linear_model.LogisticRegression",
            {"max_itr": 5},
            (
                ".params.max_itr: sklearn.linear_model.LogisticRegression has no such parameter."
                " Did you mean 'max_iter'?"
            ),
        ),
        (
            "bank_models.broken",
            {"dept": 5},
            ".params.dept: bank_models.broken has no such parameter. Did you mean 'depth'?",
        ),
        (
            "bank_models.broken",
            {},
            (
                ".params: calling bank_models.broken with them raised KeyError: 'depth'"
                " (bank_models.py, line 40). Mend the parameters or the function."
            ),
        ),
        (
            "sklearn.ensemble.VotingClassifier",
            {},
            (
                ".params: calling sklearn.ensemble.VotingClassifier with them raised TypeError:"
                " VotingClassifier.__init__() missing 1 required positional argument: 'estimators'."
                " Mend the parameters or the function."
            ),
        ),
    ],
)
def test_make_estimator_wrong(path: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_estimator(path, params, 0, PLACE)
    assert str(error.value) == PLACE + message


@pytest.mark.parametrize(
    ("source", "raised"),
    [
        (
            "import no_such_library",
            "ModuleNotFoundError: No module named 'no_such_library' (faulty.py, line 1)",
        ),
        ("\n\n1 / 0", "ZeroDivisionError: division by zero (faulty.py, line 3)"),
        ("raise Exception", "Exception: no message (faulty.py, line 1)"),
        ("def make(:", "SyntaxError: invalid syntax (faulty.py, line 1)"),
        (
            "from sklearn.linear_model import Nothing",
            "ImportError: cannot import name 'Nothing' from 'sklearn.linear_model'",
        ),
    ],
)
def test_make_estimator_module_that_cannot_be_imported(
    bank_models: Path, source: str, raised: str
) -> None:
    (bank_models / "faulty.py").write_text(source)
    with pytest.raises(ConfigError) as error:
        make_estimator("faulty.make", {}, 0, PLACE)
    assert str(error.value).startswith(f"{PLACE}.estimator: importing 'faulty' raised {raised}")
    assert str(error.value).endswith("Mend the module.")


def test_fit_refused_parameter() -> None:
    with pytest.raises(ConfigError) as error:
        fit_one("sklearn.linear_model.LogisticRegression", {"C": -1}, ["age"])
    assert str(error.value).startswith(
        f"{PLACE}: the estimator could not be fitted; it raised InvalidParameterError: The 'C'"
        " parameter"
    )
    assert "Got -1" in str(error.value)
    assert "\n" not in str(error.value)


class _NoClasses(BaseEstimator):
    def fit(self, X: np.ndarray, y: np.ndarray) -> "_NoClasses":
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return np.full((len(X), 2), 0.5)


class _Broken(_NoClasses):
    def fit(self, X: np.ndarray, y: np.ndarray) -> "_Broken":
        raise KeyError("income")


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            _NoClasses(),
            (
                f"{PLACE}: after fitting, the estimator has no classes_ 0 and 1. Expected a"
                " classifier."
            ),
        ),
        (
            _Broken(),
            (
                f"{PLACE}: the estimator could not be fitted; it raised KeyError: 'income'"
                " (test_estimators.py, line "
            ),
        ),
    ],
)
def test_fit_estimator_of_the_users_own_that_fails(estimator: BaseEstimator, message: str) -> None:
    pipeline = make_pipeline_for(estimator, {"age": "number"})
    with pytest.raises(ConfigError) as error:
        fit(pipeline, decode(code(TRAINING, {"age": "number"})), OUTCOME, PLACE)
    assert str(error.value).startswith(message)


def test_predict_probability_own_pipeline_that_does_not_know_a_category() -> None:
    pipeline, types = fit_one("bank_models.careless_pipeline", {}, ["region"])
    with pytest.raises(
        ConfigError,
        match=r"^LogisticRegression: predicting raised ValueError: Found unknown categories",
    ) as error:
        predict_probability(pipeline, decode(code(CANDIDATES, types)))
    assert str(error.value).endswith(
        "Mend its code so that it takes nulls and unseen categories, and train anew."
    )


def test_what_an_estimator_prints_goes_to_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Chatty(LogisticRegression):
        def fit(self, X: Any, y: Any) -> "Chatty":
            print("[Info] start training")
            print("[Warning] no further splits", file=sys.stderr)
            ctypes.CDLL(None).puts(b"written in C")
            os.write(2, b"and \xff too\n")
            super().fit(X, y)
            return self

        def predict_proba(self, X: Any) -> np.ndarray:
            os.write(2, b"predicting\n")
            return np.array(super().predict_proba(X))

    caplog.set_level("INFO", "abatch")
    X = pd.DataFrame({"x": [0.0, 1.0]})
    pipeline = fit(Pipeline([("estimator", Chatty())]), X, np.array([0, 1]), "models.A")
    predict_probability(pipeline, X)
    print("printed again", flush=True)
    assert capfd.readouterr() == ("printed again\n", "")
    said = {record.getMessage().removeprefix("an estimator says: ") for record in caplog.records}
    assert said == {
        "[Info] start training",
        "[Warning] no further splits",
        "written in C",
        "and \ufffd too",
        "predicting",
    }


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (
            np.array([[0.5, 0.5], [-0.1, 1.1]]),
            "1 of 2 predictions are no probabilities, such as 1.1",
        ),
        (
            np.array([[1.2, -0.2], [0.5, 0.5]]),
            "1 of 2 predictions are no probabilities, such as -0.2",
        ),
        (np.array([[0.5, 0.5]]), r"an array of float64, shape \(1, 2\), for 2 rows"),
        (np.array([0.5, 0.5]), r"shape \(2,\), for 2 rows; expected numbers, shape \(2, 2\)"),
        (np.full((2, 3), 1 / 3), r"shape \(2, 3\)"),
        (np.full((2, 2), 0.5j), "an array of complex128"),
        (np.array([["a", "b"]] * 2), "an array of <U1"),
        (SystemExit(0), "predicting raised SystemExit: 0"),
    ],
)
def test_predict_probability_refuses_what_is_none(answer: Any, fault: str) -> None:
    class Broken(LogisticRegression):
        def predict_proba(self, X: Any) -> np.ndarray:
            if isinstance(answer, SystemExit):
                raise answer
            return np.asarray(answer)

    pipeline = Pipeline([("estimator", Broken().fit([[0], [1]], [0, 1]))])
    with pytest.raises(ConfigError, match=f"^Broken: .*{fault}"):
        predict_probability(pipeline, pd.DataFrame({"x": [1.0, 2.0]}))


def test_predict_probability_of_32_bits_is_rounded() -> None:
    class Rounded(LogisticRegression):
        def predict_proba(self, X: Any) -> np.ndarray:
            return np.array([[-1e-7, 1 + 1e-7], [1, -6e-8]], dtype=np.float32)

    pipeline = Pipeline([("estimator", Rounded().fit([[0], [1]], [0, 1]))])
    assert predict_probability(pipeline, pd.DataFrame({"x": [1.0, 2.0]})).tolist() == [1, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predict_probability_refuses_what_is_not_finite(bad: float) -> None:
    class Broken(LogisticRegression):
        def predict_proba(self, X: Any) -> np.ndarray:
            return np.array([[0.5, 0.5], [0.5, bad]])

    pipeline = Pipeline([("estimator", Broken().fit([[0], [1]], [0, 1]))])
    with pytest.raises(
        ConfigError,
        match=r"^Broken: 1 of 2 predictions are not finite\. Mend its code, and train anew\.$",
    ):
        predict_probability(pipeline, pd.DataFrame({"x": [1.0, 2.0]}))


def test_columns_are_prepared_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where joblib is told to let others fit."""
    threads = []
    real = CategoryEncoder.transform

    def transform(self: CategoryEncoder, X: Any) -> Any:
        threads.append(threading.current_thread())
        return real(self, X)

    monkeypatch.setattr(CategoryEncoder, "transform", transform)
    X = pd.DataFrame({"age": [20.0, 70.0] * 20, "town": pd.Categorical(["Oslo", "Bergen"] * 20)})
    pipeline = make_pipeline_for(LogisticRegression(), {"age": "number", "town": "category"})
    with parallel_config(backend="threading", n_jobs=2):
        predict_probability(fit(pipeline, X, np.array([0, 1] * 20), "A"), X)
    assert threads
    assert {*threads} == {threading.main_thread()}
