"""The page of a model card: what one dated model is for, trained on, how good it is and for whom.

It is made of the card alone, which is the content of models/<model_name>.json. It has no script, no
link and no time of its own: the same card gives the same bytes. Its sentences stand in
card.html.j2, but for the limits, which are sentences that follow from figures.
"""

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from abatch import files
from abatch.modelling.card import Card, Figure, to_json
from abatch.modelling.gate import is_dirty
from abatch.pages.html import load_template, show_number, show_percent
from abatch.pages.plots import PALETTE, plot_reliability
from abatch.statistics.metrics import MIN_CASES
from abatch.text import cut_list

# with fewer, the interval of a ROC AUC of 0.75 is wider than 0.08 (Hanley & McNeil, Radiology 143,
# 1982, 29-36)
FEW_CASES = 200
N_NAMED = 12  # in one sentence


def render(card: Card) -> str:
    """The page, which depends on nothing but the card."""
    importances = {row.feature: row for row in card.importances}
    calibration = None
    if "roc_auc" in card.metrics:
        calibration = plot_reliability(card.model_name, card.metrics, PALETTE[0], "card")
    subgroups = groupby(card.subgroups, key=lambda row: row.column)
    return load_template("card.html.j2").render(
        card=card,
        outcome=card.config["outcome"],
        features=[*importances, *sorted(card.columns.keys() - importances)],
        importances=importances,
        calibration=calibration,
        subgroups=[(column, [*rows]) for column, rows in subgroups],
        limits=list_limits(card),
        min_cases=MIN_CASES,
        tell=_tell_value,
        params=to_json(card.params),
    )


def save(models_dir: Path, card: Card) -> None:
    """Write the page beside the model.

    Raises
    ------
    FileError
        If the folder cannot be written.
    """
    files.write_file(models_dir / f"{card.model_name}.html", render(card).encode())


def _tell_value(value: Any) -> str:
    """A value of any kind in words.

    0.81 (0.7 to 0.92) of a figure with its interval, name and value of what else has names.
    """
    if isinstance(value, Mapping):
        told = {name: _tell_value(value[name]) for name in sorted(value)}
        if told.keys() == Figure.model_fields.keys():
            return "{value} ({lower} to {upper})".format(**told)
        return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in told.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_tell_value, value))
    return "–" if value is None else f"{value:,.6g}" if isinstance(value, float) else str(value)


def list_limits(card: Card) -> list[str]:
    """What this model may not be trusted with, as far as its card tells: sentences."""
    return [
        f"It was measured on rows from {card.validation_from} until before {card.to_date} only.",
        *_find_limits_of_validation(card.metrics),
        *_find_limits_of_use(card),
    ]


def _find_limits_of_validation(metrics: Mapping[str, Figure]) -> Iterator[str]:
    n, n_positive = int(metrics["n"].value or 0), int(metrics["n_positive"].value or 0)
    counts = f"{n_positive:,} validation rows with the outcome and {n - n_positive:,} without"
    n_rarer = min(n_positive, n - n_positive)
    if n_rarer < MIN_CASES:
        yield (
            f"Nothing was measured: there were {counts}, and under {MIN_CASES} of either no figure"
            " is given."
        )
        return
    if n_rarer < FEW_CASES:
        yield f"Few outcomes, wide intervals: there were {counts}."
    roc_auc, slope = metrics["roc_auc"], metrics["calibration_slope"]
    if roc_auc.lower is not None and roc_auc.lower <= 0.5:
        yield (
            "It is not sure that it ranks better than a coin: ROC AUC may be"
            f" {show_number(roc_auc.lower)} to {show_number(roc_auc.upper)}."
        )
    bounds = f"{show_number(slope.lower)} to {show_number(slope.upper)}"
    told = f"(calibration slope {bounds}, 1 is right)"
    if slope.upper is not None and slope.upper < 1:
        yield f"Predictions are too extreme: high ones are too high, low ones too low {told}."
    if slope.lower is not None and slope.lower > 1:
        yield f"Predictions are too timid: high ones are too low, low ones too high {told}."


def _find_limits_of_use(card: Card) -> Iterator[str]:
    small = [row for row in card.subgroups if row.roc_auc is None]
    if small:
        names = [f"{row.column} = {row.value} ({row.n:,} rows)" for row in small]
        yield (
            f"Subgroups with under {MIN_CASES} of either outcome, for which it is not known how"
            f" well it ranks: {', '.join(cut_list(names, N_NAMED))}."
        )
    null_rates = {name: card.features[name].null_rate for name in sorted(card.columns)}
    empty = [f"{name} ({show_percent(rate)})" for name, rate in null_rates.items() if rate > 0.5]
    if empty:
        names = cut_list(empty, N_NAMED)
        yield f"Features that were null in more than half of the training rows: {', '.join(names)}."
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
    if is_dirty(card.code_version):
        yield (
            f"The code differed from its commit ({card.code_version}), so what trained it may not"
            " be found again."
        )
