"""Inference: each variant's live model predicts its own part of the candidates."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from abatch.errors import DataError
from abatch.experiment.assignment import Candidates, assign_candidates
from abatch.experiment.predictions import Batch, summarise
from abatch.experiment.terms import TrainingOutcome
from abatch.modelling import cluster, estimators, features
from abatch.modelling.cluster import ClusterPool
from abatch.modelling.registry import Model
from abatch.modelling.workers import LocalPool, count_workers
from abatch.night import DAY, Night
from abatch.queries import Window
from abatch.statistics import drift
from abatch.statistics.references import FeatureReference
from abatch.statistics.sums import add_by_keys

References = Mapping[str, FeatureReference]
N_ROWS = 64  # of which predictions are made at once, or of a multiple: what BLAS takes in one step
# Among the features' counts, which are read by the features' names.
PREDICTION, ROWS = "(prediction)", "(rows)"


class Inference(NamedTuple):
    """What the models say of n candidates.

    Attributes
    ----------
    prediction : array of float, shape (n,), probabilities in [0, 1]; nan without a model
    feature_counts : what each model's candidates looked like, by model_name and feature; its
        predictions, too, as PREDICTION; under the first model all rows, as ROWS
    earlier_counts : the same of all that have a model, by the references of earlier models
    variant_counts : of variants that were recorded elsewhere, by variant and feature, by the
        references of the first model; without rows that this model cannot take
    """

    prediction: np.ndarray
    feature_counts: dict[str, dict[str, drift.FeatureCounts]]
    earlier_counts: dict[str, dict[str, drift.FeatureCounts]]
    variant_counts: dict[str, dict[str, drift.FeatureCounts]]


class Part(NamedTuple):
    """What has become of a chunk of candidates.

    Attributes
    ----------
    candidates : without their features
    prediction : as `Inference` has it
    total : their sums
    """

    candidates: Candidates
    prediction: np.ndarray
    total: Batch


@dataclass(frozen=True)
class Inferrer:
    """All that is needed to assign and predict chunks, wherever that is done: no login is.

    Attributes
    ----------
    models : the live model of each variant that has one
    earlier : as `predict` has them
    salt, split : of the assignment
    """

    models: Mapping[str, Model]
    earlier: Mapping[str, References]
    salt: str
    split: Mapping[str, float]

    def __call__(self, chunk: pd.DataFrame) -> Part:
        """Assign and predict what the candidates query returned."""
        candidates = assign_candidates(chunk, self.salt, self.split)
        inferred = predict(self.models, candidates, self.earlier)
        total = summarise(candidates, inferred)
        return Part(candidates._replace(features=pd.DataFrame()), inferred.prediction, total)

    def describe_software(self) -> cluster.Software:
        """What whoever opens the models must have, as it is here."""
        cards = [model.card for model in self.models.values()]
        names = {name for card in cards for name in card.libraries}
        return cluster.describe(sorted(names), sorted({card.estimator for card in cards}))


def infer(
    night: Night, models: Mapping[str, Model], earlier: Mapping[str, References]
) -> Iterator[Part]:
    """Assign and predict tonight's candidates, chunk by chunk.

    By the environment's workers; nothing depends on how many there are.

    Raises
    ------
    DataError, ConfigError
        As `assign_candidates` and `predict` do.
    AbatchError
        If workers are ended again and again, or are out of reach.
    """
    experiment, query = night.experiment, night.experiment.query("candidates")
    inferrer = Inferrer(models, earlier, experiment.name, experiment.split)
    chunks = night.stream(query, Window(night.run_date, night.run_date + DAY))
    environment = experiment.environment
    with query.named():
        if environment.backend == "dask":
            pool = ClusterPool(inferrer, environment, inferrer.describe_software())
            yield from pool.work_through(chunks)
        elif (n_workers := count_workers(night)) > 1:
            yield from LocalPool(inferrer, n_workers).work_through(chunks)
        else:
            yield from map(inferrer, chunks)


def find_training_outcome(models: Mapping[str, Model]) -> TrainingOutcome:
    """What the training rows, the same for all models, say of the outcome."""
    card = next(iter(models.values())).card
    mean, sd, kurtosis = card.outcome_mean, card.outcome_sd, card.outcome_kurtosis
    return TrainingOutcome(mean, sd, card.base_rate, kurtosis)


def name_models(models: Mapping[str, Model], variants: Iterable[str]) -> dict[str, str | None]:
    """The dated model of each variant, None where it has none."""
    return {name: models[name].model_name if name in models else None for name in variants}


def predict(
    models: Mapping[str, Model], candidates: Candidates, earlier: Mapping[str, References]
) -> Inference:
    """Predict candidates, each by the model of its variant.

    Parameters
    ----------
    models : the live model of each variant that has one
    earlier : by model_name, of models that are not live, to count the features by too

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
    feature_counts: dict[str, dict[str, drift.FeatureCounts]] = {}
    earlier_counts: dict[str, dict[str, drift.FeatureCounts]] = {}
    coded: dict[str, pd.DataFrame] = {}
    for variant, model in models.items():
        rows = candidates.variant == variant
        if rows.any():
            X = features.code(candidates.features[rows], model.card.columns)
            filled = _fill(features.decode(X))
            with threadpool_limits(1, "blas"):
                probability = estimators.predict_probability(model.pipeline, filled)
            prediction[rows] = probability[: len(X)]
            coded[variant] = X
            feature_counts[model.model_name] = {
                **drift.count_features(
                    pd.DataFrame({PREDICTION: prediction[rows]}), refer_prediction(model)
                ),
                **drift.count_features(X, model.card.features),
            }
            counts = {name: _count_same(X, model, known) for name, known in earlier.items()}
            earlier_counts = add_by_keys(earlier_counts, counts)
    alike = _code_alike(models, candidates, coded)
    first = next(iter(models.values()))
    is_whole = len(candidates.ids) == sum(map(len, alike.values()))
    if alike and is_whole and ROWS not in first.card.columns:
        rows_counts = reduce(add, map(drift.count_rows, alike.values()))
        feature_counts = add_by_keys(feature_counts, {first.model_name: {ROWS: rows_counts}})
    variant_counts = {}
    if candidates.source == "recorded":
        references = first.card.features
        variant_counts = {name: drift.count_features(X, references) for name, X in alike.items()}
    return Inference(prediction, feature_counts, earlier_counts, variant_counts)


def _fill(X: pd.DataFrame) -> pd.DataFrame:
    """Rows up to a multiple of N_ROWS, by the last one again and again.

    BLAS adds up the rows that are left over, and those at the seams of its threads, in another
    order: without them a candidate's probability is the same to the last bit whoever is beside it.
    """
    n_rows = -(-len(X) // N_ROWS) * N_ROWS
    return X.iloc[np.minimum(np.arange(n_rows), len(X) - 1)]


def _code_alike(
    models: Mapping[str, Model], candidates: Candidates, coded: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """By variant, the features as the first model knows them.

    Without variants whose rows it cannot take.

    Parameters
    ----------
    coded : by variant, the features as its own model knows them
    """
    types = next(iter(models.values())).card.columns
    alike = {name: X for name, X in coded.items() if models[name].card.columns == types}
    for name in sorted({*candidates.variant} - {*alike}):
        rows = candidates.features[candidates.variant == name]
        with suppress(DataError):
            alike[name] = features.code(rows, types)
    return alike


def refer_prediction(model: Model) -> References:
    """What its predictions were for the rows held out; nothing if these were few."""
    reference = model.card.reference
    if reference is None or PREDICTION in model.card.columns:
        return {}
    counts = [*reference.counts, 0]  # nulls
    return {PREDICTION: FeatureReference("number", list(reference.edges), counts, [])}


def _count_same(
    X: pd.DataFrame, model: Model, references: References
) -> dict[str, drift.FeatureCounts]:
    """Rows of one model by another's references, of the features that both know as one type."""
    types = model.card.columns
    same = {name: known for name, known in references.items() if types.get(name) == known.kind}
    return drift.count_features(X, same)
