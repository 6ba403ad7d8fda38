"""The page of a model card: what one dated model is for, trained on, how good it is and for whom.

It is made of the card alone, which is the content of models/<model_name>.json. It has no script, no
link and no time of its own: the same card gives the same bytes. Its sentences stand in
card.html.j2.
"""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from abatch import files, version
from abatch.modelling.card import Card, Figure, to_json
from abatch.pages.html import load_template, show_percent
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
        calibration = plot_reliability(card.model_name, card.metrics, PALETTE[0])
    subgroups = groupby(card.subgroups, key=lambda row: row.column)
    unmeasured = [row for row in card.subgroups if row.roc_auc is None]
    small = [f"{row.column} = {row.value} ({row.n:,} rows)" for row in unmeasured]
    null_rates = {name: card.features[name].null_rate for name in sorted(card.columns)}
    empty = [f"{name} ({show_percent(rate)})" for name, rate in null_rates.items() if rate > 0.5]
    return load_template("card.html.j2").render(
        card=card,
        outcome=card.config["outcome"],
        features=[*importances, *sorted(card.columns.keys() - importances)],
        importances=importances,
        calibration=calibration,
        subgroups=[(column, [*rows]) for column, rows in subgroups],
        version=version,
        min_cases=MIN_CASES,
        few_cases=FEW_CASES,
        small=cut_list(small, N_NAMED),
        empty=cut_list(empty, N_NAMED),
        tell=_tell_value,
        params=to_json(card.params),
    )


def save(models_dir: Path, card: Card) -> None:
    """Write the page beside the model.

    Raises
    ------
    FileError
        If it is there already, or the folder cannot be written.
    """
    files.create_final(models_dir / f"{card.model_name}.html", render(card).encode())


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
