"""Estimators: imported by path, seeded, behind scikit-learn's preparation of columns by type."""

import importlib
import inspect
import random
import sysconfig
import traceback
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import parallel_config
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import InputTags, all_estimators

from abatch.errors import AbatchError, ConfigError, suggest
from abatch.modelling import workers
from abatch.modelling.categories import CategoryEncoder, CategoryFrame
from abatch.modelling.chatter import listen

SEEDS = ("random_state", "seed", "random_seed")
ROUNDING = 1e-6  # of a probability, as 32 bits have it
MAX_CATEGORIES = 200  # codes; histogram boosting takes at most 255
_TREES = (
    "sklearn.tree",
    "sklearn.ensemble",
    "lightgbm",
    "xgboost",
    "catboost",
)  # neither scale nor one column per category


class Columns(ColumnTransformer):  # type: ignore[misc]
    """Prepares columns here, also where workers fit what follows: to send them takes longer.

    Sparse blocks and others are put side by side at once, which needs a third of the memory.
    """

    def fit_transform(self, X: pd.DataFrame, y: Any = None, **params: Any) -> Any:
        """Fit, and what becomes of X."""
        with parallel_config(backend="sequential"):
            return super().fit_transform(X, y, **params)

    def transform(self, X: pd.DataFrame, **params: Any) -> Any:
        """What becomes of X."""
        with parallel_config(backend="sequential"):
            return super().transform(X, **params)

    def _hstack(self, Xs: list[Any], **sizes: Any) -> Any:
        """As scikit-learn lets subclasses do it."""
        stacked = _stack(Xs) if self.sparse_output_ else None
        return super()._hstack(Xs, **sizes) if stacked is None else stacked


def _stack(blocks: list[Any]) -> sparse.csr_matrix | None:
    """Blocks side by side, as scipy.sparse.hstack has them; None unless rows are of one length."""
    n_rows = blocks[0].shape[0]
    widths = [np.diff(X.indptr) if sparse.issparse(X) else np.array(X.shape[1:]) for X in blocks]
    if any(width.min() != width.max() for width in widths):
        return None
    shape = (n_rows, sum(int(width[0]) for width in widths))
    data, indices = np.empty(shape), np.empty(shape, dtype=np.int32)
    first, n_columns = 0, 0
    for X, width in zip(blocks, widths, strict=True):
        places = slice(first, first := first + int(width[0]))
        is_sparse = sparse.issparse(X)
        data[:, places] = X.data.reshape(n_rows, -1) if is_sparse else X
        own = X.indices.reshape(n_rows, -1) if is_sparse else np.arange(X.shape[1])
        indices[:, places] = own + n_columns
        n_columns += X.shape[1]
    starts = np.arange(n_rows + 1) * shape[1]
    stacked = sparse.csr_matrix((data.ravel(), indices.ravel(), starts), (n_rows, n_columns))
    stacked.eliminate_zeros()
    return stacked


@listen()
def make_estimator(path: str, params: Mapping[str, Any], seed: int, key: str) -> BaseEstimator:
    """The estimator that the config names: a class, or a function that returns one, called.

    Every `random_state` (and `seed`, `random_seed`) that is left open is set to `seed`, in steps,
    members and splitters too. Histogram boosting does not stop early unless told to: it would
    choose its validation rows at random, and rows of the newest period would leak.

    Parameters
    ----------
    path : import path, such as sklearn.linear_model.LogisticRegression or my_models.make_model
    params : it is called with
    key : where it stands in the config, for messages

    Raises
    ------
    ConfigError
        If it cannot be imported or called, or is no classifier with predict_proba.
    """
    estimator = _call(_import(path, key), path, params, key)
    methods = ("fit", "predict_proba", "get_params", "set_params")
    missing = [name for name in methods if not hasattr(estimator, name)]
    if missing or isinstance(estimator, type):
        what = (
            f"the class {estimator.__name__}"
            if isinstance(estimator, type)
            else f"a {type(estimator).__name__} without {missing[0]}"
        )
        raise ConfigError(
            f"{key}.estimator: {path!r} gives {what}. Expected a scikit-learn classifier that"
            " predicts probabilities, with predict_proba."
        )
    chosen: dict[str, Any] = {}
    if type(estimator).__module__.startswith("catboost"):  # else it makes a folder where it runs
        chosen["allow_writing_files"] = params.get("allow_writing_files", False)
    for name, value in estimator.get_params().items():
        own_name = name.split("__")[-1]
        if own_name in SEEDS and value is None:
            chosen[name] = seed
        # A splitter has no parameters of its own.
        elif getattr(value, "random_state", seed) is None:
            value.random_state = seed
        elif own_name == "early_stopping" and value == "auto":
            chosen[name] = False
    return estimator.set_params(**chosen)


def _import(path: str, key: str) -> Any:
    module_name, _, name = path.rpartition(".")
    module = None
    try:
        if module_name and not path.startswith("."):
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        is_typo = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(
            f"{error.name}."
        )
        if not is_typo:
            raise ConfigError(
                f"{key}.estimator: importing {module_name!r} raised {_tell(error)}. Mend the"
                " module."
            ) from error
    if module is not None and hasattr(module, name):
        return getattr(module, name)
    reason = (
        f"{module_name} has no {name!r}"
        if module is not None
        else f"there is no module {module_name!r}"
        if module_name
        else "it names a module alone"
    )
    known = vars(module) if module is not None else ()
    paths = [f"{module_name}.{attribute}" for attribute in known if not attribute.startswith("_")]
    paths += [f"{cls.__module__.split('._')[0]}.{cls.__name__}" for _, cls in all_estimators()]
    raise ConfigError(
        f"{key}.estimator: {path!r} cannot be imported: {reason}."
        " Expected the import path of a scikit-learn estimator or of a function that returns one."
        + suggest(path, paths)
    )


def _call(factory: Any, path: str, params: Mapping[str, Any], key: str) -> Any:
    if not callable(factory):
        raise ConfigError(f"{key}.estimator: {path!r} is neither a class nor a function.")
    takes: Mapping[str, inspect.Parameter] = {}
    with suppress(ValueError):  # some classes written in C do not tell
        takes = inspect.signature(factory).parameters
    if takes and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        for name in params:
            if name not in takes:
                raise ConfigError(
                    f"{key}.params.{name}: {path} has no such parameter.{suggest(name, takes)}"
                )
    try:
        return factory(**params)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{key}.params: calling {path} with them raised {_tell(error)}. Mend the parameters"
            " or the function."
        ) from error


def _tell(error: BaseException) -> str:
    """Type and first line of an error and, where somebody's own file took part, the line there."""
    text = f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0].rstrip('.')}"
    libraries = (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), __file__, "<")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(libraries):
            return f"{text} ({Path(frame.filename).name}, line {frame.lineno})"
    return text


def make_pipeline_for(estimator: BaseEstimator, types: Mapping[str, str]) -> Pipeline:
    """Put the preparation of columns that the estimator needs before it.

    A Pipeline of the user's own is left as it is.

    Numbers are imputed by the median unless the estimator takes nulls, with a column that tells
    where, and scaled unless it is made of trees. Categories become codes, as `CategoryEncoder` has
    them: as categories for boosting that knows such, as numbers for other trees, else as one column
    each.

    Parameters
    ----------
    types : feature name to "number" or "category", in order
    """
    if isinstance(estimator, Pipeline):
        return estimator
    numbers = [name for name, kind in types.items() if kind == "number"]
    categories = [name for name, kind in types.items() if kind == "category"]
    has_tags = hasattr(estimator, "__sklearn_tags__")
    tags = estimator.__sklearn_tags__().input_tags if has_tags else InputTags()
    members = [value for value in estimator.get_params().values() if hasattr(value, "fit")]
    is_tree = all(type(part).__module__.startswith(_TREES) for part in (estimator, *members))
    # strategy="median" has the same medians, but sorts a masked copy of all columns for them.
    imputer = [] if tags.allow_nan else [SimpleImputer(strategy=np.median, add_indicator=True)]
    steps = imputer if is_tree else [*imputer, StandardScaler()]
    number_step = make_pipeline(*steps) if steps else "passthrough"
    is_histogram = isinstance(estimator, HistGradientBoostingClassifier)
    max_codes = min(MAX_CATEGORIES, estimator.max_bins) if is_histogram else MAX_CATEGORIES
    category_step: BaseEstimator = CategoryEncoder(max_codes)
    if not is_tree:
        by_column = OneHotEncoder(handle_unknown="ignore", sparse_output=tags.sparse)
        category_step = make_pipeline(category_step, by_column)
    columns = Columns(
        [("categories", category_step, categories), ("numbers", number_step, numbers)]
    )
    native = _find_native(estimator, len(categories)) if categories else None
    frame = [] if native is None or is_histogram else [("frame", CategoryFrame(len(categories)))]
    if native:
        estimator = clone(estimator).set_params(**native)
    return Pipeline([("columns", columns), *frame, ("estimator", estimator)])


def _find_native(estimator: BaseEstimator, n_categories: int) -> dict[str, Any] | None:
    """Parameters by which an estimator splits the first columns as categories; None if it cannot.

    LightGBM needs none: it knows them by their dtype. What the config says of it stays.
    """
    params, places = estimator.get_params(), range(n_categories)
    if isinstance(estimator, HistGradientBoostingClassifier):
        is_open = estimator.categorical_features == "from_dtype"
        return {"categorical_features": [*places]} if is_open else None
    library = type(estimator).__module__.partition(".")[0]
    if library == "xgboost":
        is_able = params["tree_method"] != "exact" and params["booster"] != "gblinear"
        return {"enable_categorical": True} if is_able else None
    if library == "catboost":  # a tuple, since it copies a list, and then cannot be cloned
        return {"cat_features": (*places,)}
    return {} if library == "lightgbm" else None


@listen()
def prepare(estimator: BaseEstimator, types: Mapping[str, str], key: str) -> Pipeline:
    """A new pipeline for an estimator that is fitted again and again, as `make_pipeline_for`'s is.

    Raises
    ------
    ConfigError
        If it cannot be cloned; `key` is where it stands in the config.
    """
    try:
        return clone(make_pipeline_for(estimator, types))
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{key}: the estimator cannot be cloned; it raised {_tell(error)}. Let its __init__"
            " keep each parameter as it is given, and do no more."
        ) from error


def fit(pipeline: Pipeline, X: pd.DataFrame, y: np.ndarray, key: str, seed: int = 0) -> Pipeline:
    """Fit, and blame what cannot be fitted on the config that asked for it.

    Columns come in the order of their names, here and in `predict_probability`: a user's own
    Pipeline may know them by their places.

    The global generators of Python and numpy are seeded first, for estimators that draw from them.
    A generator that an estimator makes for itself without a seed is out of reach: `reproduce` finds
    such a model.

    Raises
    ------
    ConfigError
        If the estimator refuses the parameters or the columns, or does not tell outcome 1 from 0.
    AbatchError
        If its workers are ended again and again.
    """
    X = X.sort_index(axis="columns")  # in place of the other order, which leaves room
    try:
        fitted = _fit(pipeline, X, y, seed)
    except AbatchError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{key}: the estimator could not be fitted; it raised {_tell(error)}. Mend its"
            " parameters or its code."
        ) from error
    if list(getattr(fitted, "classes_", [])) != [0, 1]:
        raise ConfigError(
            f"{key}: after fitting, the estimator has no classes_ 0 and 1. Expected a classifier."
        )
    return fitted


def _fit(pipeline: Pipeline, X: pd.DataFrame, y: np.ndarray, seed: int) -> Pipeline:
    """Fit, and again if a worker was ended, as of a search."""
    n_ended = 0
    while True:
        random.seed(seed)
        np.random.seed(seed)
        try:
            with listen():
                return pipeline.fit(X, y)
        except BrokenProcessPool as error:
            n_ended += 1
            workers.tell_end(n_ended, error, "n_jobs")


def predict_probability(pipeline: Pipeline, X: pd.DataFrame) -> np.ndarray:
    """Probability of outcome 1 for each row, shape (n,).

    Raises
    ------
    ConfigError
        If the estimator, or the preparation that a user's own Pipeline makes, cannot take these
        rows.
    """
    name = type(pipeline[-1]).__name__
    try:
        with listen():
            answer = np.asarray(pipeline.predict_proba(X.sort_index(axis="columns")))
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{name}: predicting raised {_tell(error)}. Mend its code so that it takes nulls and"
            " unseen categories, and train anew."
        ) from error
    if answer.shape != (len(X), 2) or answer.dtype.kind not in "fiub":
        raise ConfigError(
            f"{name}: predict_proba returned an array of {answer.dtype}, shape {answer.shape}, for"
            f" {len(X)} rows; expected numbers, shape {(len(X), 2)}. Mend its code, and train anew."
        )
    probability = answer[:, 1].astype(np.float64)
    if n_wrong := (~np.isfinite(probability)).sum():
        raise ConfigError(
            f"{name}: {n_wrong} of {len(X)} predictions are not finite. Mend its code, and train"
            " anew."
        )
    beyond = np.abs(probability - 0.5) > 0.5 + ROUNDING
    if n_wrong := beyond.sum():
        raise ConfigError(
            f"{name}: {n_wrong} of {len(X)} predictions are no probabilities, such as"
            f" {probability[beyond][0]:g}. Mend its code, and train anew."
        )
    return np.clip(probability, 0, 1)
