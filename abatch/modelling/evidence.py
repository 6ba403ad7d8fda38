"""Evidence: what a new model is judged by, beside the live one on rows that neither has seen."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from abatch.config import Experiment
from abatch.errors import AbatchError, RegistryError
from abatch.modelling import estimators, gate, snapshots
from abatch.modelling.card import Card, Decision
from abatch.modelling.gate import Evidence
from abatch.modelling.registry import Standing
from abatch.modelling.training import Fitted, Rows, fit, make_model, prepare_rows
from abatch.night import Night
from abatch.statistics import drift, metrics
from abatch.statistics.references import FeatureReference


def judge(
    night: Night, rows: Rows, fitted: Fitted, standing: Standing, allow_dirty: bool
) -> Decision:
    """Whether a new model goes live: by its evidence, and by the code that made it."""
    experiment, variant = night.experiment, fitted.recipe.variant
    evidence = Evidence(len(rows.y), fitted.metrics.get("calibration_slope"))
    if live := standing.cards.get(standing.live.get(variant, "")):
        evidence = evidence._replace(
            live=live.model_name,
            difference=compare_with_live(live, _load_rows(night, live), rows, fitted, experiment),
            input_psi=find_input_psi(live.features, rows, experiment.training.max_input_psi or 0),
        )
    decision = gate.decide(experiment.training, evidence, standing.later.get(variant))
    return gate.judge_dirt(decision, experiment.environment.name, allow_dirty=allow_dirty)


def _load_rows(night: Night, live: Card) -> pd.DataFrame | None:
    """The snapshot of a live model; None, with a warning, if it is not at hand."""
    pull = night.read(snapshots.find_newest).get(live.snapshot)
    if pull is None:
        return None
    try:
        return snapshots.load(night.experiment.environment.snapshots_dir, pull)
    except RegistryError as error:
        night.warn(f"{error} {live.model_name} is compared by its recipe, fitted on the new rows.")
        return None


def compare_with_live(
    card: Card, frame: pd.DataFrame | None, rows: Rows, fitted: Fitted, experiment: Experiment
) -> metrics.AucDifference | str:
    """How a new model ranks rows that neither it nor the live one was fitted on.

    The live model as it was validated, without the newest rows of its time, is fitted again from
    its snapshot. Both are measured on the rows that are newer than what either was fitted on then.

    Parameters
    ----------
    card, frame : of the live model: its card and its snapshot; None if that is not at hand, then
        its recipe is fitted on `rows`
    rows, fitted, experiment : of the new model

    Returns
    -------
    AucDifference or str
        Or why that cannot be told.
    """
    missing = [name for name, kind in card.columns.items() if rows.types.get(name) != kind]
    if missing:
        return f"its columns are not returned any more as it knows them: {', '.join(missing)}"
    try:
        before = Experiment.restore(card.config, card.experiment, experiment.environment)
        recipe = make_model(before, card.variant, fitted.recipe.key)
        old_rows = rows if frame is None else prepare_rows(frame, card.window, before)
        live = fit(recipe, old_rows.select(card.columns), ~old_rows.validation)
        both = rows.validation & (rows.event_date >= np.datetime64(old_rows.validation_from))
        few = (
            f"fewer than {metrics.MIN_CASES} of either outcome in the {both.sum():,} rows that"
            " neither was fitted on"
        )
        if not both.any():
            return few
        scores = estimators.predict_probability(live, rows.select(card.columns).X[both])
    except AbatchError as error:
        return f"it could not be fitted again ({error})"
    new_scores = fitted.scores[both[rows.validation]]
    return metrics.compare_auc(rows.y[both], new_scores, scores, rows.bucket[both]) or few


def find_input_psi(
    references: Mapping[str, FeatureReference], rows: Rows, limit: float
) -> tuple[str, float, float] | None:
    """The feature of the newest rows that has moved most from a model's training rows.

    Parameters
    ----------
    references : the model's, by feature
    limit : above which, and above its noise line, a PSI counts

    Returns
    -------
    feature, PSI, noise line; None if nothing can be compared
    """
    same = {name: ref for name, ref in references.items() if rows.types.get(name) == ref.kind}
    counts = drift.count_features(rows.X[rows.validation], same)
    moved = [
        (drifted.feature, drifted.psi, drifted.psi_noise)
        for drifted in drift.measure_features(same, counts)
        if np.isfinite(drifted.psi)
    ]
    return max(moved, key=lambda drifted: drifted[1] - max(limit, drifted[2]), default=None)
