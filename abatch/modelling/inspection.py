"""Inspection: which features a model rests on, and how good it is for whom, on validation rows."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier

from abatch.modelling import estimators
from abatch.modelling.card import Importance, Subgroup
from abatch.statistics import metrics
from abatch.statistics.metrics import MIN_CASES, Metric
from abatch.statistics.words import show_value

N_ROWS, N_REPEATS = 2_000, 3  # of permutation importance
N_CELLS = 1_000_000  # that are predicted at once, at most: 8 MB
N_ALONE, LEAF, N_LEAVES = 20_000, 10, 64  # rows, and the tree, that try one feature
N_VALUES = 12  # of a text column that are subgroups of their own
N_TELLING, CHANCE = 20, 1e-12  # people of a value, all with the rarer outcome, is no chance
N_OTHERS = 10_000  # rows with the other outcome that are looked at first
QUARTERS = (0.25, 0.5, 0.75)
NULL, OTHER = "(null)", "(other)"


def measure_importances(
    pipeline: Pipeline, X: pd.DataFrame, y: np.ndarray, seed: int
) -> list[Importance]:
    """Permutation importance: by how much ROC AUC drops when one column's values are shuffled.

    The largest come first, ties by name. It is measured on at most 2,000 rows, three times a
    column. Where there are more, up to half of them are of the rarer outcome, for ROC AUC does not
    depend on the shares of the outcomes and is surer when neither is rare. Figures are those of
    scikit-learn's `permutation_importance`, but many columns' are predicted in one call.

    Parameters
    ----------
    pipeline : fitted, on other rows
    X : DataFrame, shape (n, p), the features as `features.decode` gives them
    y : array of int, shape (n,), 0 or 1
    seed : of the choice of rows and of the shuffling: the same seed gives the same figures

    Returns
    -------
    list of Importance
        Of the mean drop, below 0 if shuffling helped. Empty with fewer than 20 of either outcome.
    """
    if min(np.bincount(y, minlength=2)) < MIN_CASES:
        return []
    chosen = _choose_rows(y, np.random.default_rng(seed))
    X, y = X.iloc[chosen].reset_index(drop=True), y[chosen]
    best, orders, importances = _score(pipeline, X, y), _shuffle(len(X), seed), []
    n_columns = max(1, N_CELLS // (N_REPEATS * X.size))
    for names in (X.columns[i : i + n_columns] for i in range(0, X.shape[1], n_columns)):
        prediction = estimators.predict_probability(pipeline, _repeat(X, names, orders))
        for name, parts in zip(names, prediction.reshape(len(names), *orders.shape), strict=True):
            drop = [best - metrics.roc_auc(y, part) for part in parts]
            mean, sd = float(np.mean(drop)), float(np.std(drop))
            importances.append(Importance(feature=str(name), importance=mean, sd=sd))
    return sorted(importances, key=lambda column: (-column.importance, column.feature))


def _repeat(X: pd.DataFrame, names: pd.Index, orders: np.ndarray) -> pd.DataFrame:
    """All rows, again for each of the orders of each of these columns, which alone is in order."""
    rows = np.tile(np.arange(len(X)), (len(names), len(orders), 1))
    columns = {}
    for name in X:
        own = rows.copy()
        own[names == name] = orders
        values = X[name].to_numpy()[own.ravel()]
        columns[name] = pd.Series(values, dtype=values.dtype)  # else pandas infers str
    return pd.DataFrame(columns)


def _shuffle(n: int, seed: int) -> np.ndarray:
    """Positions of n rows in the orders of scikit-learn, the same for each column; a row each."""
    drawn = np.random.RandomState(seed).randint(2**31)
    rng, step, orders = np.random.RandomState(drawn), np.arange(n), [np.arange(n)]
    for _ in range(N_REPEATS):
        rng.shuffle(step)
        orders.append(orders[-1][step])
    return np.array(orders[1:])


def find_best_alone(
    X: pd.DataFrame, y: np.ndarray, validation: np.ndarray, types: Mapping[str, str]
) -> tuple[str, float]:
    """The feature that ranks the validation rows best by itself, and its ROC AUC.

    By a tree of that feature alone, fitted on the other rows, so that it need not rise with the
    outcome and may be null where that says something. At most 20,000 rows, evenly spaced, of each.

    Parameters
    ----------
    X, y, validation, types : as `training.Rows` has them, X with at least one feature
    """
    sides = (np.flatnonzero(~validation), np.flatnonzero(validation))
    older, newest = (rows[:: -(-len(rows) // N_ALONE)] for rows in sides)
    found = {}
    for name, kind in types.items():
        tree = DecisionTreeClassifier(min_samples_leaf=LEAF, max_leaf_nodes=N_LEAVES)
        pipeline = estimators.make_pipeline_for(tree.set_params(random_state=0), {name: kind})
        pipeline.fit(X.iloc[older][[name]], y[older])
        found[name] = _score(pipeline, X.iloc[newest][[name]], y[newest])
    return max(found.items(), key=lambda feature: feature[1])


def find_telling(X: pd.DataFrame, y: np.ndarray, candidate_ids: pd.Series) -> dict[str, str]:
    """By feature, the value, or null, of which all rows have the rarer outcome, and not by chance.

    The most common such value. Chance is the share of that outcome to the power of how many people
    have the value: the rows of one are not independent.

    Parameters
    ----------
    X, y : as `training.Rows` has them, n rows; X is its `coded`
    candidate_ids : of the same rows
    """
    rarer = int(y.mean() <= 0.5)
    is_rarer = y == rarer
    if is_rarer.all():
        return {}
    telling = {}
    for name, column in X.items():
        for value in _find_pure(column, is_rarer):
            rows = (column.isna() if pd.isna(value) else column == value).to_numpy()
            n_people = candidate_ids[rows].nunique()
            if n_people >= N_TELLING and is_rarer.mean() ** n_people < CHANCE:
                shown = "null" if pd.isna(value) else _show_value(value)
                verb = "has" if rarer else "lacks"
                telling[str(name)] = (
                    f"= {shown} {verb} the outcome in {rows.sum():,} of {rows.sum():,} rows,"
                    f" the others in {is_rarer[~rows].mean():.1%}"
                )
                break
    return telling


def _find_pure(column: pd.Series, is_rarer: np.ndarray) -> list[Any]:
    """Values, or null, of at least 20 rows, all with the rarer outcome; the most common first.

    By sorting, which is quicker than to count each value in a table of all.
    """
    values, names = column.to_numpy(), None
    if not pd.api.types.is_numeric_dtype(column):
        values, names = pd.factorize(column, use_na_sentinel=False)
    found, n_rarer = np.unique(values[is_rarer], return_counts=True)
    others = values[np.flatnonzero(~is_rarer)[:N_OTHERS]]  # most values are soon among them
    is_open = (n_rarer >= N_TELLING) & ~np.isin(found, others)
    found, n_rarer = found[is_open], n_rarer[is_open]
    if not len(found):
        return []
    ordered = np.sort(values)
    n_rows = np.searchsorted(ordered, found, "right") - np.searchsorted(ordered, found, "left")
    pure = np.flatnonzero(n_rows == n_rarer)
    pure = pure[np.argsort(-n_rarer[pure], kind="stable")]
    return [found[i] if names is None else names[found[i]] for i in pure]


def _show_value(value: str | float) -> str:
    return show_value(value) if isinstance(value, str) else _show_end(float(value))


def _score(pipeline: Pipeline, X: pd.DataFrame, y: np.ndarray) -> float:
    return metrics.roc_auc(y, estimators.predict_probability(pipeline, X))


def _choose_rows(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions, in order, of at most N_ROWS rows: of the rarer outcome all, or half of these."""
    rare, common = sorted((np.flatnonzero(y == outcome) for outcome in (0, 1)), key=len)
    n_rare = min(len(rare), N_ROWS // 2)
    n_common = min(len(common), N_ROWS - n_rare)
    pairs = ((rare, n_rare), (common, n_common))
    return np.sort(np.concatenate([rng.choice(rows, n, replace=False) for rows, n in pairs]))


def measure_subgroups(
    columns: pd.DataFrame, y: np.ndarray, prediction: np.ndarray, bucket: np.ndarray, n_buckets: int
) -> list[Subgroup]:
    """How good predictions were for each value of each column.

    A text column has its 12 most common values, the rest together as (other), and nulls as (null);
    a number has four parts, cut at its quartiles and named by their smallest and largest value,
    fewer where quartiles are equal.

    Parameters
    ----------
    columns : DataFrame, shape (n, k), as `features.decode` gives them: float64 for a number,
        object (text) for a category
    y : array of int, shape (n,), 0 or 1
    prediction : array of float, shape (n,), probabilities in [0, 1]
    bucket : array of int, shape (n,), in [0, n_buckets), the jackknife bucket

    Returns
    -------
    list of Subgroup
        Its ROC AUC, with a 95 % jackknife interval, is None with fewer than 20 of either outcome.
    """
    subgroups = []
    for name, column in columns.items():
        for value, rows in _split_column(column):
            histogram = metrics.make_histogram(prediction[rows], y[rows], bucket[rows], n_buckets)
            roc_auc = metrics.measure(histogram).get("roc_auc", Metric(np.nan)).to_dict()
            subgroups.append(
                Subgroup(
                    column=str(name),
                    value=value,
                    n=len(rows),
                    n_positive=int(y[rows].sum()),
                    base_rate=float(y[rows].mean()),
                    mean_prediction=float(prediction[rows].mean()),
                    roc_auc=roc_auc["value"],
                    lower=roc_auc["lower"],
                    upper=roc_auc["upper"],
                )
            )
    return subgroups


def _split_column(column: pd.Series) -> Iterator[tuple[str, np.ndarray]]:
    """Name and rows, positions, of each subgroup that is not empty; nulls last."""
    filled = column.notna().to_numpy()
    split = _split_number if pd.api.types.is_numeric_dtype(column) else _split_text
    rows = np.flatnonzero(filled)
    for value, members in split(column.to_numpy()[filled]):
        yield value, rows[members]
    if not filled.all():
        yield NULL, np.flatnonzero(~filled)


def _split_text(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    n_rows = Counter(values)
    ranked = sorted(n_rows, key=lambda value: (-n_rows[value], str(value)))  # by name where equal
    common, others = ranked[:N_VALUES], ranked[N_VALUES:]
    for value in common:
        yield str(value), values == value
    if others:
        yield OTHER, pd.Series(values).isin(others).to_numpy()


def _split_number(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if len(values) == 0:
        return
    edges = np.unique(np.quantile(values, QUARTERS, method="inverted_cdf"))
    part = np.searchsorted(edges, values, side="left")
    for i in np.unique(part):
        members = part == i
        ends = [_show_end(float(end)) for end in (values[members].min(), values[members].max())]
        yield " to ".join(dict.fromkeys(ends)), members


def _show_end(value: float) -> str:
    is_long = value.is_integer() or abs(value) >= 1e5
    return f"{value:,.0f}" if is_long and abs(value) < 1e15 else f"{value:,.5g}"
