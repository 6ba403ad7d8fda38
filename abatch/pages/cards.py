"""The page of a model card: what one dated model is for, trained on, how good it is and for whom.

It is made of the card alone, which is the content of models/<model_name>.json. It has no script, no
link and no time of its own: the same card gives the same bytes. Its sentences stand in
card.html.j2, but for the limits, which are sentences that follow from figures.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from math import nan
from pathlib import Path
from typing import Any

from abatch import files
from abatch.modelling.card import Card, Figure, Importance
from abatch.modelling.gate import is_dirty
from abatch.pages.html import load_template, show_number, show_percent
from abatch.pages.plots import PALETTE, list_tenths, plot_reliability
from abatch.statistics.metrics import MIN_CASES

# with fewer, the interval of a ROC AUC of 0.75 is wider than 0.08 (Hanley & McNeil, Radiology 143,
# 1982, 29-36)
FEW_CASES = 200
N_NAMED = 12  # in one sentence
NOTHING = Figure(value=None, lower=None, upper=None)


def render(card: Card) -> str:
    """The page, which depends on nothing but the card."""
    largest = max((row.importance for row in card.importances), default=0)
    tenths = list_tenths(card.metrics)
    return load_template("card.html.j2").render(
        card=card,
        config=card.config,
        outcome=card.config["outcome"],
        metrics=card.metrics,
        features=_list_features(card),
        bar=lambda importance: round(100 * max(0, importance) / largest, 1) if largest > 0 else 0,
        calibration=(
            plot_reliability(card.model_name, tenths, PALETTE[0], "card") if len(tenths) else None
        ),
        subgroups=[
            (name, [*rows]) for name, rows in groupby(card.subgroups, key=lambda row: row.column)
        ],
        limits=list_limits(card),
        min_cases=MIN_CASES,
        tell=_tell_value,
        params=json.dumps(card.params, sort_keys=True, ensure_ascii=False, default=str),
    )


def save(models_dir: Path, card: Card) -> None:
    """Write the page beside the model.

    Raises
    ------
    FileError
        If the folder cannot be written.
    """
    files.write_file(models_dir / f"{card.model_name}.html", render(card).encode())


def _list_features(card: Card) -> list[tuple[str, str, float, Importance | None]]:
    """Name, type, share of nulls in training and importance of each feature.

    The most important come first.
    """
    importance = {row.feature: row for row in card.importances}
    names = [*importance, *sorted(card.columns.keys() - importance.keys())]
    return [
        (name, card.columns[name], _find_null_rate(card, name), importance.get(name))
        for name in names
    ]


def _find_null_rate(card: Card, name: str) -> float:
    counts = card.features[name].counts
    return counts[-1] / sum(counts)


def _tell_value(value: Any) -> str:
    """A value of any kind in words.

    0.81 (0.7 to 0.92) of a figure with its interval, name and value of what else has names.
    """
    if isinstance(value, Mapping):
        if value.keys() == {"value", "lower", "upper"}:
            middle, lower, upper = (_tell_value(value[key]) for key in ("value", "lower", "upper"))
            return f"{middle} ({lower} to {upper})"
        return ", ".join(
            f"{key.replace('_', ' ')} {_tell_value(value[key])}" for key in sorted(value)
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_tell_value, value))
    return "–" if value is None else f"{value:,.6g}" if isinstance(value, float) else str(value)


def list_limits(card: Card) -> list[str]:
    """What this model may not be trusted with, as far as its card tells: sentences."""
    return [
        f"It was measured on rows from {card.validation_from} until before {card.to_date} only.",
        *_find_limits_of_validation(card.metrics),
        *_find_limits_of_subgroups(card),
        *_find_limits_of_use(card),
        *_find_limits_of_code(card),
    ]


def _find_limits_of_validation(metrics: Mapping[str, Figure]) -> Iterator[str]:
    n, n_positive = (int(metrics[name].value or 0) for name in ("n", "n_positive"))
    counts = f"{n_positive:,} validation rows with the outcome and {n - n_positive:,} without"
    n_rarer = min(n_positive, n - n_positive)
    if n_rarer < MIN_CASES:
        yield (
            f"Nothing was measured: there were {counts}, and under {MIN_CASES} of either no figure"
            " is given."
        )
    elif n_rarer < FEW_CASES:
        yield f"Few outcomes, wide intervals: there were {counts}."
    lower, upper = _find_interval(metrics, "roc_auc")
    if lower <= 0.5:
        yield (
            f"It is not sure that it ranks better than a coin: ROC AUC may be {show_number(lower)}"
            f" to {show_number(upper)}."
        )
    lower, upper = _find_interval(metrics, "calibration_slope")
    told = f"(calibration slope {show_number(lower)} to {show_number(upper)}, 1 is right)"
    if upper < 1:
        yield (f"Predictions are too extreme: high ones are too high, low ones too low {told}.")
    elif lower > 1:
        yield f"Predictions are too timid: high ones are too low, low ones too high {told}."


def _find_interval(metrics: Mapping[str, Figure], name: str) -> tuple[float, float]:
    """Lower and upper end; nan where there is no interval."""
    lower, upper = metrics.get(name, NOTHING).lower, metrics.get(name, NOTHING).upper
    return (nan, nan) if lower is None or upper is None else (lower, upper)


def _find_limits_of_subgroups(card: Card) -> Iterator[str]:
    small = [
        f"{row.column} = {row.value} ({row.n:,} rows)"
        for row in card.subgroups
        if row.roc_auc is None
    ]
    if small:
        yield (
            f"Subgroups with under {MIN_CASES} of either outcome, for which it is not known how"
            f" well it ranks: {_name(small)}."
        )


def _find_limits_of_use(card: Card) -> Iterator[str]:
    empty = [
        f"{name} ({show_percent(rate)})"
        for name in sorted(card.columns)
        if (rate := _find_null_rate(card, name)) > 0.5
    ]
    if empty:
        yield f"Features that were null in more than half of the training rows: {_name(empty)}."
    if card.config["outcome"]["kind"] == "numeric":
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


def _find_limits_of_code(card: Card) -> Iterator[str]:
    if is_dirty(card.code_version):
        yield (
            f"The code differed from its commit ({card.code_version}), so what trained it may not"
            " be found again."
        )


def _name(things: Sequence[str]) -> str:
    more = f", and {len(things) - N_NAMED} more" if len(things) > N_NAMED else ""
    return ", ".join(things[:N_NAMED]) + more
