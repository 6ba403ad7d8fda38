"""Inference: each variant's live model predicts its own part of the candidates."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from abatch.experiment.assignment import Candidates
from abatch.experiment.terms import TrainingOutcome
from abatch.modelling import estimators, features
from abatch.modelling.registry import Model
from abatch.statistics import drift


class Inference(NamedTuple):
    """What the models say of n candidates.

    Attributes
    ----------
    model_names : list of str or None, shape (n,); None where the variant has no model
    prediction : array of float, shape (n,), probabilities in [0, 1]; nan without a model
    feature_counts : what each model's candidates looked like, by model_name and feature
    """

    model_names: list[str | None]
    prediction: np.ndarray
    feature_counts: dict[str, dict[str, drift.FeatureCounts]]


def find_training_outcome(models: Mapping[str, Model]) -> TrainingOutcome:
    """What the training rows, the same for all models, say of the outcome."""
    card = next(iter(models.values())).card
    return TrainingOutcome(card.outcome_mean, card.outcome_sd, card.base_rate)


def predict(models: Mapping[str, Model], candidates: Candidates) -> Inference:
    """Predict candidates, each by the model of its variant.

    Parameters
    ----------
    models : the live model of each variant that has one

    Raises
    ------
    DataError
        If a column is missing, additional, or not of the type that a model was trained on.
    ConfigError
        If an estimator cannot take these rows.
    """
    for model in models.values():
        features.check_columns(list(candidates.features), model.card.columns, model.model_name)
    prediction = np.full(len(candidates.ids), np.nan)
    feature_counts = {}
    for variant, model in models.items():
        rows = candidates.variant == variant
        if rows.any():
            X = features.convert(candidates.features[rows], model.card.columns)
            prediction[rows] = estimators.predict_probability(model.pipeline, X)
            feature_counts[model.model_name] = drift.count_features(X, model.card.features)
    names = {variant: model.model_name for variant, model in models.items()}
    return Inference([names.get(name) for name in candidates.variant], prediction, feature_counts)
