"""The model card: what one dated model is for, what it was trained on, how good it is and for whom,
as one HTML page.

`measure_importances` and `measure_subgroups` give figures for the card while the rows are at hand;
`render` makes the page of the card alone, which is the content of models/<model_name>.json. The
page has no script, no link and no time of its own: the same card gives the same bytes. Its
sentences stand in card.html.j2, but for the limits, which are sentences that follow from figures.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from sklearn.inspection import permutation_importance
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline

from abatch.modelling import estimators
from abatch.pages.html import load_template, show_number, show_percent
from abatch.pages.plots import PALETTE, plot_reliability
from abatch.statistics import metrics
from abatch.statistics.metrics import MIN_CASES, N_RELIABILITY_BINS

N_ROWS, N_REPEATS = 2_000, 3  # of permutation importance
N_VALUES = 12  # of a text column that are subgroups of their own
QUARTERS = (0.25, 0.5, 0.75)
NULL, OTHER = "(null)", "(other)"
# with fewer, the interval of a ROC AUC of 0.75 is wider than 0.08 (Hanley & McNeil, Radiology 143,
# 1982, 29-36)
FEW_CASES = 200
N_NAMED = 12  # in one sentence
KEYS = (  # of a card; an older card lacks some, and then the page says so
    *(
        "model_name",
        "file",
        "sha256",
        "experiment",
        "variant",
        "run_date",
        "run_id",
        "estimator",
        "params",
        "seed",
        "columns",
        "query",
    ),
    *(
        "from_date",
        "to_date",
        "as_of",
        "rows",
        "n_positive",
        "snapshot",
        "validation_from",
        "rows_validation",
        "outcome_mean",
    ),
    *(
        "outcome_sd",
        "metrics",
        "importances",
        "subgroups",
        "features",
        "gate",
        "config",
        "config_hash",
        "code_version",
        "libraries",
    ),
    *("lock", "machine"),
)


def measure_importances(
    pipeline: Pipeline, X: pd.DataFrame, y: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    """Permutation importance: by how much ROC AUC drops when one column's values are shuffled, the
    largest first, ties by name.

    It is measured on at most 2,000 rows, three times a column: half a second for ten columns. Where
    there are more, up to half of them are of the rarer outcome, for ROC AUC does not depend on the
    shares of the outcomes and is surer when neither is rare.

    Parameters
    ----------
    pipeline : fitted, on other rows
    X : DataFrame, shape (n, p), the features as `features.convert` gives them
    y : array of int, shape (n,), 0 or 1
    seed : of the choice of rows and of the shuffling: the same seed gives the same figures

    Returns
    -------
    list of dict
        feature; importance, the mean drop, below 0 if shuffling helped; sd, over the repeats. Empty
        with fewer than 20 of either outcome.
    """
    if min(np.bincount(y, minlength=2)) < MIN_CASES:
        return []
    chosen = _choose_rows(y, np.random.default_rng(seed))
    found = permutation_importance(
        pipeline, X.iloc[chosen], y[chosen], scoring=_score, n_repeats=N_REPEATS, random_state=seed
    )
    columns = zip(
        map(str, X.columns),
        found.importances_mean.tolist(),
        found.importances_std.tolist(),
        strict=True,
    )
    ranked = sorted(columns, key=lambda column: (-column[1], column[0]))
    return [{"feature": name, "importance": mean, "sd": sd} for name, mean, sd in ranked]


def _score(pipeline: Pipeline, X: pd.DataFrame, y: np.ndarray) -> float:
    return float(roc_auc_score(y, estimators.predict_probability(pipeline, X)))


def _choose_rows(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions, in order, of at most N_ROWS rows: of the rarer outcome all, or half of these."""
    rare, common = sorted((np.flatnonzero(y == outcome) for outcome in (0, 1)), key=len)
    n_rare = len(rare) if len(y) <= N_ROWS else min(len(rare), N_ROWS // 2)
    n_common = min(len(common), N_ROWS - n_rare)
    return np.sort(
        np.concatenate(
            [rng.choice(rare, n_rare, replace=False), rng.choice(common, n_common, replace=False)]
        )
    )


def measure_subgroups(
    columns: pd.DataFrame, y: np.ndarray, prediction: np.ndarray, bucket: np.ndarray, n_buckets: int
) -> list[dict[str, Any]]:
    """How good predictions were for each value of each column.

    A text column has its 12 most common values, the rest together as (other), and nulls as (null);
    a number has four parts, cut at its quartiles and named by their smallest and largest value,
    fewer where quartiles are equal.

    Parameters
    ----------
    columns : DataFrame, shape (n, k), as `features.convert` gives them: float64 for a number,
        object (text) for a category
    y : array of int, shape (n,), 0 or 1
    prediction : array of float, shape (n,), probabilities in [0, 1]
    bucket : array of int, shape (n,), in [0, n_buckets), the jackknife bucket

    Returns
    -------
    list of dict
        column, value, n, n_positive, base_rate, mean_prediction, and roc_auc with its 95 %
        jackknife interval, lower and upper: None with fewer than 20 of either outcome.
    """
    return [
        {
            "column": str(name),
            "value": value,
            **_measure_group(y[rows], prediction[rows], bucket[rows], n_buckets),
        }
        for name in columns.columns
        for value, rows in _split_column(columns[name])
    ]


def _measure_group(
    y: np.ndarray, prediction: np.ndarray, bucket: np.ndarray, n_buckets: int
) -> dict[str, Any]:
    found = metrics.to_dict(
        metrics.measure(metrics.make_histogram(prediction, y, bucket, n_buckets))
    )
    figures = {
        "n": len(y),
        "n_positive": int(y.sum()),
        "base_rate": float(y.mean()),
        "mean_prediction": float(prediction.mean()),
    }
    roc_auc = found.get("roc_auc", {"value": None, "lower": None, "upper": None})
    return {
        **figures,
        "roc_auc": roc_auc["value"],
        "lower": roc_auc["lower"],
        "upper": roc_auc["upper"],
    }


def _split_column(column: pd.Series) -> Iterator[tuple[str, np.ndarray]]:
    """Name and rows, positions, of each subgroup that is not empty; nulls last."""
    filled = column.notna().to_numpy()
    split = _split_number if pd.api.types.is_numeric_dtype(column) else _split_text
    rows = np.flatnonzero(filled)
    for value, own in split(column.to_numpy()[filled]):
        yield value, rows[own]
    if not filled.all():
        yield NULL, np.flatnonzero(~filled)


def _split_text(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    code, found = pd.factorize(values)
    ranked = sorted(
        zip((-np.bincount(code)).tolist(), map(str, found), range(len(found)), strict=True)
    )  # by name where equal
    common = ranked[:N_VALUES]
    for _, value, number in common:
        yield value, code == number
    if len(found) > N_VALUES:
        yield OTHER, ~np.isin(code, [number for _, _, number in common])


def _split_number(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if len(values) == 0:
        return
    edges = np.unique(np.quantile(values, QUARTERS, method="inverted_cdf"))
    part = np.searchsorted(edges, values, side="left")
    for i in np.unique(part):
        ends = dict.fromkeys(
            _show_end(float(end)) for end in (values[part == i].min(), values[part == i].max())
        )
        yield " to ".join(ends), part == i


def _show_end(value: float) -> str:
    is_long = value.is_integer() or abs(value) >= 1e5
    return f"{value:,.0f}" if is_long and abs(value) < 1e15 else f"{value:,.5g}"


def render(card: Mapping[str, Any]) -> str:
    """The page, which depends on nothing but the card: the content of models/<model_name>.json, of
    this version or an older one.
    """
    full = {**dict.fromkeys(KEYS), **card}
    config = {
        **dict.fromkeys(("hypothesis", "outcome", "split", "select_top")),
        **(full["config"] or {}),
    }
    found = full["metrics"] or {}
    tenths = _find_tenths(found)
    largest = max((row["importance"] for row in full["importances"] or ()), default=0)
    return load_template("card.html.j2").render(
        card=full,
        config=config,
        outcome={"kind": "binary", "window_days": None, **(config["outcome"] or {})},
        metrics=found,
        features=_list_features(full),
        bar=lambda importance: round(100 * max(0, importance) / largest, 1) if largest > 0 else 0,
        calibration=(
            plot_reliability(str(full["model_name"]), tenths, PALETTE[0], "card")
            if tenths
            else None
        ),
        subgroups=[
            (name, [*rows])
            for name, rows in groupby(full["subgroups"] or (), key=lambda row: row["column"])
        ],
        limits=list_limits(full),
        min_cases=MIN_CASES,
        colours={},
        tell=_tell_value,
        params=json.dumps(full["params"], sort_keys=True, ensure_ascii=False, default=str),
    )


def _find_tenths(found: Mapping[str, Any]) -> list[tuple[float, float, float | None, float | None]]:
    """Mean prediction, observed rate and its interval of each bin of the reliability table, from
    low to high.
    """
    numbers = [
        f"{i + 1:02}" for i in range(N_RELIABILITY_BINS) if f"reliability_rate_{i + 1:02}" in found
    ]
    pairs = [
        (found[f"reliability_prediction_{number}"], found[f"reliability_rate_{number}"])
        for number in numbers
    ]
    return [(mean["value"], rate["value"], rate["lower"], rate["upper"]) for mean, rate in pairs]


def _list_features(
    card: Mapping[str, Any],
) -> list[tuple[str, str, float | None, Mapping[str, Any] | None]]:
    """Name, type, share of nulls in training (None where it is not recorded) and importance of each
    feature, the most important first.
    """
    importance = {row["feature"]: row for row in card["importances"] or ()}
    columns = card["columns"] or {}
    names = [
        *(name for name in importance if name in columns),
        *sorted(columns.keys() - importance.keys()),
    ]
    return [
        (name, columns[name], _find_null_rate(card, name), importance.get(name)) for name in names
    ]


def _find_null_rate(card: Mapping[str, Any], name: str) -> float | None:
    counts = ((card["features"] or {}).get(name) or {}).get("counts")
    return counts[-1] / sum(counts) if counts and sum(counts) else None


def _tell_value(value: Any) -> str:
    """A value of any kind in words: 0.81 (0.7 to 0.92) of a figure with its interval, name and
    value of what else has names.
    """
    if isinstance(value, Mapping):
        if value.keys() == {"value", "lower", "upper"}:
            return (
                f"{_tell_value(value['value'])} ({_tell_value(value['lower'])} to"
                f" {_tell_value(value['upper'])})"
            )
        return ", ".join(
            f"{key.replace('_', ' ')} {_tell_value(value[key])}" for key in sorted(value)
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_tell_value, value))
    return "–" if value is None else f"{value:,.6g}" if isinstance(value, float) else str(value)


def list_limits(card: Mapping[str, Any]) -> list[str]:
    """What this model may not be trusted with, as far as its card tells: sentences."""
    full = {**dict.fromkeys(KEYS), **card}
    return [
        *_find_limits_of_validation(full),
        *_find_limits_of_use(full),
        *_find_limits_of_record(full),
    ]


def _find_limits_of_validation(card: Mapping[str, Any]) -> Iterator[str]:
    found = card["metrics"] or {}
    if card["validation_from"] and card["to_date"]:
        yield (
            f"It was measured on rows from {card['validation_from']} until before {card['to_date']}"
            " only."
        )
    if "n" in found and "n_positive" in found:
        n_positive = int(found["n_positive"]["value"])
        n_negative = int(found["n"]["value"]) - n_positive
        counts = f"{n_positive:,} validation rows with the outcome and {n_negative:,} without"
        if min(n_positive, n_negative) < MIN_CASES:
            yield (
                f"Nothing was measured: there were {counts}, and under {MIN_CASES} of either no"
                " figure is given."
            )
        elif min(n_positive, n_negative) < FEW_CASES:
            yield f"Few outcomes, wide intervals: there were {counts}."
    lower, upper = _find_interval(found, "roc_auc")
    if lower is not None and lower <= 0.5:
        yield (
            f"It is not sure that it ranks better than a coin: ROC AUC may be {show_number(lower)}"
            f" to {show_number(upper)}."
        )
    lower, upper = _find_interval(found, "calibration_slope")
    if lower is not None and not lower <= 1 <= upper:
        told = f"{show_number(lower)} to {show_number(upper)}, 1 is right"
        extreme, timid = (
            "extreme: high ones are too high, low ones too low",
            "timid: high ones are too low, low ones too high",
        )
        yield f"Predictions are too {extreme if upper < 1 else timid} (calibration slope {told})."
    small = [
        f"{row['column']} = {row['value']} ({row['n']:,} rows)"
        for row in card["subgroups"] or ()
        if row["roc_auc"] is None
    ]
    if small:
        yield (
            f"Subgroups with under {MIN_CASES} of either outcome, for which it is not known how"
            f" well it ranks: {_name(small)}."
        )


def _find_interval(found: Mapping[str, Any], metric: str) -> tuple[Any, Any]:
    """Lower and upper end; None where there is no interval."""
    figure = found.get(metric) or {}
    return figure.get("lower"), figure.get("upper")


def _find_limits_of_use(card: Mapping[str, Any]) -> Iterator[str]:
    empty = [
        (name, rate)
        for name in sorted(card["columns"] or ())
        if (rate := _find_null_rate(card, name)) is not None and rate > 0.5
    ]
    if empty:
        yield (
            "Features that were null in more than half of the training rows:"
            f" {_name([f'{n} ({show_percent(r)})' for n, r in empty])}."
        )
    if ((card["config"] or {}).get("outcome") or {}).get("kind") == "numeric":
        yield (
            "The outcome is an amount, and what is predicted is the probability that it is above 0,"
            " not how large it is."
        )
    yield (
        "Action changes labels: where those with high predictions were treated differently in the"
        " training window, the model has learnt who has the outcome under that treatment."
    )
    yield (
        "It knows candidates like those of its training rows. Whether tonight's still are, the"
        " report of the experiment says under Drift."
    )


def _find_limits_of_record(card: Mapping[str, Any]) -> Iterator[str]:
    if str(card["code_version"] or "").endswith("-dirty"):
        yield (
            f"The code differed from its commit ({card['code_version']}), so what trained it may"
            " not be found again."
        )
    if not card["snapshot"]:
        yield (
            "No snapshot of its training rows is recorded, so it can be trained anew only on what"
            " the query returns today."
        )


def _name(things: Sequence[str]) -> str:
    more = f", and {len(things) - N_NAMED} more" if len(things) > N_NAMED else ""
    return ", ".join(things[:N_NAMED]) + more
