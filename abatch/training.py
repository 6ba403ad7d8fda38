"""Training rows: pulled as known at one moment, checked, split by date; and what validation says of a new model."""

from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline

from abatch import drift, estimators, features, metrics, outcomes
from abatch.assignment import N_BUCKETS, assign
from abatch.errors import ConfigError, DataError

N_REFERENCE_BUCKETS = 6  # of 64
MIN_REFERENCE = 50  # rows; five a decile


class Rows(NamedTuple):
    """Training rows, oldest first.

    Attributes
    ----------
    X : DataFrame, shape (n, p), the features as `features.convert` gives them
    y : array of int, shape (n,), 0 or 1; of a numeric outcome 1 if it is above 0
    newest : array of bool, shape (n,), True for the validation rows
    bucket : array of int, shape (n,), the jackknife bucket of each candidate
    reference : array of bool, shape (n,), True for about 1 row in 11, by candidate, that the saved model is not fitted on: its scores are
        what later scores are compared with
    types : feature name to "number" or "category"
    validation_from : the first day of validation
    outcome_mean, outcome_sd : of the outcome itself, capped
    """

    X: pd.DataFrame
    y: np.ndarray
    newest: np.ndarray
    bucket: np.ndarray
    reference: np.ndarray
    types: dict[str, str]
    validation_from: date
    outcome_mean: float
    outcome_sd: float


class Fitted(NamedTuple):
    """A model, and what validation says of it.

    Attributes
    ----------
    pipeline : fitted on all rows but the reference, the newest included
    metrics : of the same estimator fitted without the newest rows, measured on them
    roc_auc : one of these metrics; None if there were too few outcomes
    reference : the pipeline's scores of the reference rows; None if these are few
    """

    pipeline: Pipeline
    metrics: list[metrics.Metric]
    roc_auc: float | None
    reference: drift.Reference | None


class Decision(NamedTuple):
    """Whether a new model goes live, why, and the figures behind it."""

    promote: bool
    reason: str
    evidence: dict[str, float | str | None]

    @property
    def sentence(self) -> str:
        return ("goes live: " if self.promote else "does not go live: ") + self.reason


def prepare_rows(
    frame: pd.DataFrame, *, from_date: date, to_date: date, validation_share: float, salt: str, metric: outcomes.Metric, place: str
) -> Rows:
    """Check what the training query returned and split it by date.

    Parameters
    ----------
    frame : candidate_id, event_date, outcome and the features
    from_date, to_date : the window that was asked for, upper end excluded
    validation_share : share of the rows, the newest, to validate on
    salt : the experiment's name
    metric : the experiment's outcome

    Raises
    ------
    DataError
        If there are no rows, rows outside the window, unusable columns, or too little to fit or validate on.
    """
    if frame.empty:
        raise DataError(
            f"{place}: returned no rows for [{from_date}, {to_date})."
            " Check the query, its binds, training.days, and whether the tables are filled."
        )
    frame = outcomes.prepare(frame, place, metric.kind).sort_values(["event_date", "candidate_id"], kind="stable", ignore_index=True)
    outside = frame.loc[~frame["event_date"].between(pd.Timestamp(from_date), pd.Timestamp(to_date), inclusive="left"), "event_date"]
    if len(outside):
        raise DataError(
            f"{place}: {len(outside)} of {len(frame)} rows lie outside [{from_date}, {to_date}), for example"
            f" {outside.iloc[0].date()}; later outcomes are not complete yet."
            " Let the query keep event_date >= :from_date and event_date < :to_date."
        )
    types = features.infer_types(frame.drop(columns=["candidate_id", "event_date", "outcome"]), place)
    outcome = frame["outcome"].to_numpy()
    y = (outcome > 0).astype(np.int64)
    if metric.cap is not None:
        outcome = np.clip(outcome, -metric.cap, metric.cap)
    newest = split_newest(frame["event_date"], y, validation_share, place)
    bucket = assign(frame["candidate_id"], salt, {"all": 1.0}).bucket
    reference = bucket < N_REFERENCE_BUCKETS
    if reference.sum() < MIN_REFERENCE or len(np.unique(y[~reference])) < 2:
        reference = np.zeros(len(y), dtype=bool)
    return Rows(
        X=features.convert(frame, types, place),
        y=y,
        newest=newest,
        bucket=bucket,
        reference=reference,
        types=types,
        validation_from=frame["event_date"][newest].min().date(),
        outcome_mean=float(outcome.mean()),
        outcome_sd=float(outcome.std(ddof=1)),
    )


def split_newest(event_date: pd.Series, outcome: np.ndarray, share: float, place: str) -> np.ndarray:
    """Mark the newest rows, about `share` of all, cut between two days: never at random, and no day on both sides.

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
            f"{place}: all rows are of one day, {event_date.iloc[0].date()}; validation needs newer rows than the fit. Widen the window."
        )
    cut = max(days[min(int(len(days) * (1 - share)), len(days) - 1)], later[0])
    newest = event_date.to_numpy() >= cut
    for side, what in ((~newest, "fit"), (newest, "validate")):
        if len(np.unique(outcome[side])) < 2:
            raise DataError(
                f"{place}: the {side.sum()} rows to {what} on (from {event_date[side].min().date()} to {event_date[side].max().date()})"
                f" all have outcome {outcome[side][0]}; both 0 and 1 are needed. Widen the window or check the outcome."
            )
    return newest


def fit_and_validate(estimator: BaseEstimator, rows: Rows, types: Mapping[str, str], place: str) -> Fitted:
    """Fit on the older rows, measure on the newest, then fit again on all but the reference: the newest know most of tomorrow.

    Parameters
    ----------
    types : the features to use, and their types
    place : file and key of the config, for messages

    Raises
    ------
    ConfigError
        If scikit-learn refuses the parameters or the columns.
    """
    X, newest = rows.X[list(types)], rows.newest
    # A column whose first value is newer than the older rows is not used: nothing could be measured of it.
    known = {name: kind for name, kind in types.items() if X.loc[~newest, name].notna().any()}
    pipeline = estimators.make_pipeline_for(estimator, known)
    scores = estimators.predict_probability(estimators.fit(clone(pipeline), X[~newest], rows.y[~newest], place), X[newest])
    found = metrics.measure(metrics.make_histogram(scores, rows.y[newest], rows.bucket[newest], N_BUCKETS))
    roc_auc = next((metric.value for metric in found if metric.name == "roc_auc"), None)
    estimators.fit(pipeline, X[~rows.reference], rows.y[~rows.reference], place)
    reference = drift.make_reference(estimators.predict_probability(pipeline, X[rows.reference])) if rows.reference.any() else None
    return Fitted(pipeline, found, roc_auc, reference)


def validate_recipe(card: Mapping[str, Any], rows: Rows, place: str) -> float | None:
    """The ROC AUC that the live model's recipe (estimator, parameters, seed, columns) reaches on the same newest rows.

    The live model itself has seen most of them. None if its columns or its estimator are no longer there.
    """
    if any(rows.types.get(name) != kind for name, kind in card["columns"].items()):
        return None
    try:
        estimator = estimators.make_estimator(card["estimator"], card["params"], card["seed"], place)
        return fit_and_validate(estimator, rows, card["columns"], place).roc_auc
    except ConfigError:
        return None


def stand_back(decision: Decision, live: str | None) -> Decision:
    """The decision when somebody promoted or rolled back while the model was being fitted: theirs stands."""
    return Decision(False, f"{live} was made live in the meantime; to use the new one: python -m abatch promote", decision.evidence)


def decide(roc_auc: float | None, live: str | None, live_roc_auc: float | None, max_auc_drop: float, later: str | None) -> Decision:
    """A new model goes live unless its recipe ranks the validation rows worse than the live model's by more than is allowed.

    Parameters
    ----------
    roc_auc, live_roc_auc : of the two recipes, fitted and measured on the same rows; None if there were too few outcomes, or
        the live recipe cannot be followed any more
    live : model_name of the live model, None if there is none
    max_auc_drop : the allowed difference
    later : what is live from a later date on, when an earlier date is trained afterwards: it must not be overruled
    """
    evidence: dict[str, float | str | None] = {
        "roc_auc": roc_auc,
        "live": live,
        "live_roc_auc": live_roc_auc,
        "max_auc_drop": max_auc_drop,
    }
    if later is not None:
        return Decision(False, f"{later} is live from a later date; to use it all the same: python -m abatch promote", evidence)
    if live is None:
        return Decision(True, "the first model of its variant", evidence)
    if roc_auc is None or live_roc_auc is None:
        return Decision(True, f"it cannot be compared with {live} on the same rows", evidence)
    figures = f"validation ROC AUC {roc_auc:.4f} against {live_roc_auc:.4f} of the recipe of {live}"
    if roc_auc < live_roc_auc - max_auc_drop:
        return Decision(False, f"{figures}, lower by more than {max_auc_drop:g}", evidence)
    return Decision(True, figures, evidence)
