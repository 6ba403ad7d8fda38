"""Training rows: pulled as known at one moment, checked, split by date.

And what validation says of a new model.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline

from abatch.database.reading import require_columns
from abatch.errors import AbatchError, DataError
from abatch.experiment.assignment import N_BUCKETS, assign
from abatch.modelling import estimators, features
from abatch.modelling.gate import AucDifference, compare_auc
from abatch.queries import Query
from abatch.statistics import drift, metrics

N_CHECKED = 100  # rows whose predictions the card keeps
N_REFERENCE_BUCKETS = 6  # of 64
MIN_REFERENCE = 50  # rows; five a decile


class Rows(NamedTuple):
    """Training rows, oldest first.

    Attributes
    ----------
    X : DataFrame, shape (n, p), the features as `features.convert` gives them
    event_date : array of datetime64, shape (n,)
    y : array of int, shape (n,), 0 or 1; of a numeric outcome 1 if it is above 0
    newest : array of bool, shape (n,), True for the validation rows
    bucket : array of int, shape (n,), the jackknife bucket of each candidate
    reference : array of bool, shape (n,), True for about 1 row in 11, by candidate, that the saved
        model is not fitted on: its scores are what later scores are compared with
    types : feature name to "number" or "category"
    validation_from : the first day of validation
    outcome_mean, outcome_sd : of the outcome itself, capped
    subgroups : DataFrame, shape (n, k), the columns to measure apart
    """

    X: pd.DataFrame
    event_date: np.ndarray
    y: np.ndarray
    newest: np.ndarray
    bucket: np.ndarray
    reference: np.ndarray
    types: dict[str, str]
    validation_from: date
    outcome_mean: float
    outcome_sd: float
    subgroups: pd.DataFrame


class Fitted(NamedTuple):
    """A model, and what validation says of it.

    Attributes
    ----------
    pipeline : fitted on all rows but the reference, the newest included
    metrics : of the same estimator fitted without the newest rows, measured on them
    validated : that same estimator
    scores : its scores of the newest rows
    reference : the pipeline's scores of the reference rows; None if these are few
    """

    pipeline: Pipeline
    metrics: list[metrics.Metric]
    validated: Pipeline
    scores: np.ndarray
    reference: drift.Reference | None


def prepare_rows(
    frame: pd.DataFrame,
    *,
    from_date: date,
    to_date: date,
    validation_share: float,
    salt: str,
    kind: str,
    cap: float | None,
    not_features: Sequence[str] = (),
    subgroups: Sequence[str] = (),
) -> Rows:
    """Check what the training query returned and split it by date.

    Parameters
    ----------
    frame : as `snapshots.arrange` makes it: candidate_id, event_date, outcome and the features;
        without columns if there are no rows
    from_date, to_date : the window that was asked for, upper end excluded
    validation_share : share of the rows, the newest, to validate on
    salt : the experiment's name
    kind, cap : of the experiment's outcome
    not_features : columns that no model may use
    subgroups : columns to measure apart; they may be among not_features

    Raises
    ------
    DataError
        If there are no rows, rows outside the window, unusable columns, or too little to fit or
        validate on.
    """
    if frame.empty:
        raise DataError(
            f"returned no rows for [{from_date}, {to_date})."
            " Check the query, its binds, training.days, and whether the tables are filled."
        )
    require_columns(frame, [*not_features, *subgroups])
    outside = frame.loc[
        ~frame["event_date"].between(
            pd.Timestamp(from_date), pd.Timestamp(to_date), inclusive="left"
        ),
        "event_date",
    ]
    if len(outside):
        raise DataError(
            f"{len(outside)} of {len(frame)} rows lie outside [{from_date}, {to_date}),"
            f" for example {outside.iloc[0].date()}; later outcomes are not complete yet. Let the"
            " query keep event_date >= :from_date and event_date < :to_date."
        )
    types = features.infer_types(
        frame.drop(columns=["candidate_id", "event_date", "outcome", *not_features])
    )
    outcome = frame["outcome"].to_numpy()
    y = (outcome > 0).astype(np.int64)
    if cap is not None:
        outcome = np.clip(outcome, -cap, cap)
    newest = split_newest(frame["event_date"], y, validation_share)
    bucket = assign(frame["candidate_id"], salt, {"all": 1.0}).bucket
    reference = bucket < N_REFERENCE_BUCKETS
    if reference.sum() < MIN_REFERENCE or len(np.unique(y[~reference])) < 2:
        reference = np.zeros(len(y), dtype=bool)
    return Rows(
        X=features.convert(frame, types),
        event_date=frame["event_date"].to_numpy(),
        y=y,
        newest=newest,
        bucket=bucket,
        reference=reference,
        types=types,
        validation_from=frame["event_date"][newest].min().date(),
        outcome_mean=float(outcome.mean()),
        outcome_sd=float(outcome.std(ddof=1)),
        subgroups=frame[list(subgroups)],
    )


def split_newest(event_date: pd.Series, outcome: np.ndarray, share: float) -> np.ndarray:
    """Mark the newest rows, about `share` of all, cut between two days: never at random, and no day
    on both sides.

    Returns
    -------
    array of bool, shape (n,), True for validation

    Raises
    ------
    DataError
        If there is only one day, or one side lacks one of the two outcomes.
    """
    days = np.sort(event_date.to_numpy())
    later = days[days > days[0]]
    if len(later) == 0:
        raise DataError(
            f"all rows are of one day, {event_date.iloc[0].date()}; validation needs newer"
            " rows than the fit. Widen the window."
        )
    cut = max(days[min(int(len(days) * (1 - share)), len(days) - 1)], later[0])
    newest = event_date.to_numpy() >= cut
    for side, what in ((~newest, "fit"), (newest, "validate")):
        if len(np.unique(outcome[side])) < 2:
            raise DataError(
                f"the {side.sum()} rows to {what} on (from {event_date[side].min().date()}"
                f" to {event_date[side].max().date()}) all have outcome {outcome[side][0]}; both 0"
                " and 1 are needed. Widen the window or check the outcome."
            )
    return newest


def fit_older(
    estimator: BaseEstimator, rows: Rows, types: Mapping[str, str], seed: int, place: str
) -> Pipeline:
    """Fit on the rows that are older than the validation's.

    Raises
    ------
    ConfigError
        If scikit-learn refuses the parameters or the columns.
    """
    older = ~rows.newest
    return estimators.fit(
        clone(make_pipeline(estimator, rows, types)),
        rows.X.loc[older, list(types)],
        rows.y[older],
        place,
        seed,
    )


def make_pipeline(estimator: BaseEstimator, rows: Rows, types: Mapping[str, str]) -> Pipeline:
    """The estimator behind the preparation of the columns that have a value in the older rows: of
    others nothing could be measured.
    """
    known = {
        name: kind for name, kind in types.items() if rows.X.loc[~rows.newest, name].notna().any()
    }
    return estimators.make_pipeline_for(estimator, known)


def fit_final(
    estimator: BaseEstimator, rows: Rows, types: Mapping[str, str], seed: int, place: str
) -> Pipeline:
    """Fit on all rows but the reference, the newest included, for they know most of tomorrow: this
    is the model that is saved.
    """
    kept = ~rows.reference
    return estimators.fit(
        make_pipeline(estimator, rows, types),
        rows.X.loc[kept, list(types)],
        rows.y[kept],
        place,
        seed,
    )


def fit_and_validate(
    estimator: BaseEstimator, rows: Rows, types: Mapping[str, str], seed: int, place: str
) -> Fitted:
    """Fit on the older rows, measure on the newest, then fit again for good.

    Parameters
    ----------
    types : the features to use, and their types

    Raises
    ------
    ConfigError
        If scikit-learn refuses the parameters or the columns.
    """
    X, newest = rows.X[list(types)], rows.newest
    validated = fit_older(estimator, rows, types, seed, place)
    scores = estimators.predict_probability(validated, X[newest])
    found = metrics.measure(
        metrics.make_histogram(scores, rows.y[newest], rows.bucket[newest], N_BUCKETS)
    )
    pipeline = fit_final(estimator, rows, types, seed, place)
    reference = (
        drift.make_reference(estimators.predict_probability(pipeline, X[rows.reference]))
        if rows.reference.any()
        else None
    )
    return Fitted(pipeline, found, validated, scores, reference)


def make_estimator_again(card: Mapping[str, Any], place: str) -> BaseEstimator:
    """The estimator of a dated model, from its card."""
    return estimators.make_estimator(
        card["estimator"], _restore_keys(card["params"]), card["seed"], place
    )


def _restore_keys(value: Any) -> Any:
    """Parameters as the config had them: JSON has made texts of the whole numbers that were keys,
    as in class_weight: {0: 1, 1: 5}.
    """
    if not isinstance(value, Mapping):
        return value
    are_numbers = all(str(key).removeprefix("-").isdecimal() for key in value)
    return {int(key) if are_numbers else key: _restore_keys(one) for key, one in value.items()}


def prepare_again(card: Mapping[str, Any], frame: pd.DataFrame) -> Rows:
    """The rows that a dated model was trained on, from its snapshot, as its own config has them
    split.
    """
    config = card["config"]
    with Query(config["queries"]["training"], card["query"]).named():
        return prepare_rows(
            frame,
            from_date=date.fromisoformat(card["from_date"]),
            to_date=date.fromisoformat(card["to_date"]),
            validation_share=config["training"]["validation_share"],
            salt=card["experiment"],
            kind=config["outcome"]["kind"],
            cap=config["outcome"]["cap"],
            not_features=config["training"]["not_features"],
            subgroups=config["training"]["subgroups"],
        )


def compare_with_live(
    card: Mapping[str, Any], frame: pd.DataFrame | None, rows: Rows, fitted: Fitted, place: str
) -> AucDifference | str:
    """How a new model ranks rows that neither it nor the live one was fitted on, or why that cannot
    be told.

    The live model as it was validated, without the newest rows of its time, is fitted again from
    its snapshot. Both are measured on the rows that are newer than what either was fitted on then.

    Parameters
    ----------
    card, frame : of the live model: its card and its snapshot; None if that is not at hand, then
        its recipe is fitted on `rows`
    rows, fitted : of the new model
    """
    columns = card["columns"]
    missing = [name for name, kind in columns.items() if rows.types.get(name) != kind]
    if missing:
        return f"its columns are not returned any more as it knows them: {', '.join(missing)}"
    try:
        estimator = make_estimator_again(card, place)
        own = rows if frame is None else prepare_again(card, frame)
        live = fit_older(estimator, own, columns, card["seed"], place)
        both = rows.newest & (rows.event_date >= np.datetime64(own.validation_from))
        few = (
            f"fewer than {metrics.MIN_CASES} of either outcome in the {both.sum():,} rows that"
            " neither was fitted on"
        )
        if not both.any():
            return few
        inside = both[rows.newest]
        scores = estimators.predict_probability(live, rows.X.loc[both, list(columns)])
    except AbatchError as error:
        return f"it could not be fitted again ({error})"
    found = compare_auc(rows.y[both], fitted.scores[inside], scores, rows.bucket[both])
    return found or few


def find_input_psi(
    card: Mapping[str, Any], rows: Rows, limit: float
) -> tuple[str, float, float] | None:
    """The feature of the newest rows that has moved most from a model's training rows, its PSI and
    noise line; None without any.

    Parameters
    ----------
    limit : above which, and above its noise line, a PSI counts
    """
    references = {
        name: drift.FeatureReference(**found) for name, found in card.get("features", {}).items()
    }
    same = {name: found for name, found in references.items() if rows.types.get(name) == found.kind}
    found = drift.measure_features(same, drift.count_features(rows.X[rows.newest], same))
    known = [(one.feature, one.psi, one.psi_noise) for one in found if np.isfinite(one.psi)]
    return max(known, key=lambda one: one[1] - max(limit, one[2]), default=None)


def choose_checked(n_rows: int) -> np.ndarray:
    """Which rows of a snapshot have their predictions in the card: up to 100, evenly spaced.

    Array of int.
    """
    return np.unique(np.linspace(0, n_rows - 1, min(N_CHECKED, n_rows)).astype(np.int64))
