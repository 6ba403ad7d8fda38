"""The page of a model card: what one dated model is for, trained on, how good it is and for whom.

It is made of the card alone, which is the content of models/<model_name>.json. It has no script, no
link and no time of its own: the same card gives the same bytes. Its sentences stand in
card.html.j2, but for the limits, which are sentences that follow from figures.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from abatch.pages.html import load_template, show_number, show_percent
from abatch.pages.plots import PALETTE, plot_reliability
from abatch.statistics.metrics import MIN_CASES, N_RELIABILITY_BINS

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
