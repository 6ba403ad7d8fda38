"""Estimators: imported by path, seeded, and put behind scikit-learn's own preparation of columns by type."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.utils import all_estimators

from abatch.errors import ConfigError, suggest

MAX_CATEGORIES = 200  # the rarest share one code; histogram boosting takes at most 255
_TREES = ("sklearn.tree", "sklearn.ensemble", "lightgbm", "xgboost", "catboost")  # neither scale nor one column per category


def make_estimator(path: str, params: Mapping[str, Any], seed: int, place: str) -> BaseEstimator:
    """Return the estimator that the config names: a class, or a function that returns one, called with `params`.

    Every `random_state` that is left open is set to `seed`. Histogram boosting does not stop early unless told to: it would
    choose its validation rows at random, and rows of the newest period would leak.

    Parameters
    ----------
    path : import path, such as sklearn.linear_model.LogisticRegression or my_models.make_model
    place : file and key of the config, for messages

    Raises
    ------
    ConfigError
        If it cannot be imported or called, or is no classifier with predict_proba.
    """
    estimator = _call(_import(path, place), path, params, place)
    if not hasattr(estimator, "predict_proba") or not hasattr(estimator, "fit"):
        raise ConfigError(
            f"{place}.estimator: {path!r} gives a {type(estimator).__name__}, which has no predict_proba."
            " Expected a classifier that predicts probabilities."
        )
    open_params = estimator.get_params()
    chosen = {name: seed for name in open_params if name.split("__")[-1] == "random_state" and open_params[name] is None}
    if open_params.get("early_stopping") == "auto":
        chosen["early_stopping"] = False
    return estimator.set_params(**chosen)


def _import(path: str, place: str) -> Any:
    module_name, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        known = [f"{cls.__module__.split('._')[0]}.{cls.__name__}" for _, cls in all_estimators()]
        raise ConfigError(
            f"{place}.estimator: {path!r} cannot be imported ({error})."
            " Expected the import path of a scikit-learn estimator or of a function that returns one." + suggest(path, known)
        ) from None


def _call(factory: Any, path: str, params: Mapping[str, Any], place: str) -> Any:
    if not callable(factory):
        raise ConfigError(f"{place}.estimator: {path!r} is neither a class nor a function.")
    known = inspect.signature(factory).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for name in params:
        if name not in known and not takes_any:
            raise ConfigError(f"{place}.params.{name}: {path} has no such parameter.{suggest(name, known)}")
    try:
        return factory(**params)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}.params: {path} cannot be made of them: {error}.") from None


def make_pipeline_for(estimator: BaseEstimator, types: Mapping[str, str]) -> Pipeline:
    """Put the preparation of columns that the estimator needs before it; a Pipeline of the user's own is left as it is.

    Numbers are imputed by the median unless the estimator takes nulls, with a column that tells where, and scaled unless it
    is made of trees. Categories become one column each, or for trees one ordinal code. Unknown and null categories survive.

    Parameters
    ----------
    types : feature name to "number" or "category", in order
    """
    if isinstance(estimator, Pipeline):
        return estimator
    numbers = [name for name, kind in types.items() if kind == "number"]
    categories = [name for name, kind in types.items() if kind == "category"]
    takes_nulls = estimator.__sklearn_tags__().input_tags.allow_nan if hasattr(estimator, "__sklearn_tags__") else False
    is_tree = type(estimator).__module__.startswith(_TREES)
    steps: list = []
    if not takes_nulls:
        steps.append(SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True))
    if not is_tree:
        steps.append(StandardScaler())
    number_step = make_pipeline(*steps) if steps else "passthrough"
    if is_tree:
        category_step: BaseEstimator = OrdinalEncoder(
            handle_unknown="use_encoded_value",
            unknown_value=np.nan if takes_nulls else -1,
            encoded_missing_value=np.nan if takes_nulls else -2,
            max_categories=MAX_CATEGORIES,
        )
    else:
        category_step = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=10, max_categories=MAX_CATEGORIES)
    columns = ColumnTransformer([("numbers", number_step, numbers), ("categories", category_step, categories)])
    if isinstance(estimator, HistGradientBoostingClassifier) and estimator.categorical_features == "from_dtype" and categories:
        estimator = clone(estimator).set_params(categorical_features=list(range(len(numbers), len(types))))
    return Pipeline([("columns", columns), ("estimator", estimator)])


def fit(pipeline: Pipeline, X: pd.DataFrame, y: np.ndarray, place: str) -> Pipeline:
    """Fit, and blame what cannot be fitted on the config that asked for it.

    Raises
    ------
    ConfigError
        If scikit-learn refuses the parameters or the columns.
    """
    try:
        return pipeline.fit(X, y)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}: the estimator could not be fitted: {str(error).splitlines()[0]}") from error


def predict_probability(pipeline: Pipeline, X: pd.DataFrame) -> np.ndarray:
    """Probability of outcome 1 for each row, shape (n,)."""
    positive = list(pipeline.classes_).index(1)
    return pipeline.predict_proba(X)[:, positive].astype(np.float64)
