"""Training rows, checked and split by date, and what validation says of a model fitted on them."""

import platform
from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import kurtosis
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from abatch import files, memory, version
from abatch.config import Experiment
from abatch.database.reading import require_columns
from abatch.errors import ConfigError, DataError
from abatch.experiment import outcomes
from abatch.experiment.assignment import N_BUCKETS, assign
from abatch.modelling import code, estimators, features, inspection, libraries, registry, snapshots
from abatch.modelling.card import Card, Decision, Figure, Origin
from abatch.modelling.ripeness import find_fall
from abatch.night import DAY, Night
from abatch.queries import Window
from abatch.sections import ModelConfig
from abatch.statistics import drift, metrics
from abatch.statistics.references import Reference

N_CHECKED = 100  # rows whose predictions the card keeps
N_HOLDOUT_BUCKETS = 6  # of 64
MIN_HOLDOUT = 50  # rows; five a decile
TOO_GOOD, TELLING = 0.98, 0.95  # ROC AUC of a model, for certain, and of one feature
MANY_CUT = 0.1  # of the amounts, by a cap that is for rare ones
STALE_DAYS, STALE_GAPS = 7, 3  # without rows, and times the longest, or the usual, gap
MIN_FILLED = 10  # values of a column: with fewer, a fit within a fit may find none
N_FIRST = 1_000  # rows in which they are looked for first


class Rows(NamedTuple):
    """Training rows, oldest first.

    Attributes
    ----------
    X : DataFrame, shape (n, p), the features as `features.decode` gives them, by the alphabet, in
        which order models are fitted, so that nothing must be copied for that
    coded : the same as `features.code` gives them, as which they are counted sooner
    event_date : array of datetime64, shape (n,)
    y : array of int, shape (n,), 0 or 1; of a numeric outcome 1 if it is above 0
    validation : array of bool, shape (n,), True for the newest rows
    bucket : array of int, shape (n,), the jackknife bucket of each candidate
    holdout : array of bool, shape (n,), True for about 1 row in 11, by candidate, that the saved
        model is not fitted on: its scores are what later scores are compared with
    types : name to "number" or "category" of the features to use
    outcome_mean, outcome_sd, outcome_kurtosis : of the outcome itself, capped
    subgroups : DataFrame, shape (n, k), the columns to measure apart
    window : the days that were asked for
    left_out : as `find_left_out` has it
    """

    X: pd.DataFrame
    coded: pd.DataFrame
    event_date: np.ndarray
    y: np.ndarray
    validation: np.ndarray
    bucket: np.ndarray
    holdout: np.ndarray
    types: dict[str, str]
    outcome_mean: float
    outcome_sd: float
    outcome_kurtosis: float
    subgroups: pd.DataFrame
    window: Window
    left_out: dict[str, str]

    @property
    def validation_from(self) -> date:
        """The first day of validation."""
        return pd.Timestamp(self.event_date[self.validation].min()).date()

    def select(self, types: dict[str, str]) -> "Rows":
        """The rows with these features alone, in this order: those that another model knows."""
        left_out = {name: words for name, words in self.left_out.items() if name in types}
        X, coded = self.X, self.coded
        if types.keys() != {*X}:
            X, coded = X[sorted(types)], coded[sorted(types)]  # which copies them
        return self._replace(X=X, coded=coded, types=types, left_out=left_out)

    def take(self, chosen: np.ndarray) -> pd.DataFrame:
        """The features of some rows, array of bool: no copy if these follow each other."""
        places = np.flatnonzero(chosen)
        span = slice(places[0], places[-1] + 1)
        return self.X.iloc[span] if span.stop - span.start == len(places) else self.X[chosen]


class Recipe(NamedTuple):
    """A model of the config, not fitted yet.

    Attributes
    ----------
    key : where it stands in the config, for messages
    """

    variant: str
    config: ModelConfig
    estimator: BaseEstimator
    seed: int
    key: str


class Fitted(NamedTuple):
    """A model, and what validation says of it.

    Attributes
    ----------
    pipeline : fitted on all rows but the holdout, the newest included
    validated : the same estimator, fitted without the newest rows
    scores : its scores of these
    metrics : and how good they are
    reference : the pipeline's scores of the holdout; None if these rows are few
    """

    recipe: Recipe
    pipeline: Pipeline
    validated: Pipeline
    scores: np.ndarray
    metrics: dict[str, Figure]
    reference: Reference | None


def check_folders(night: Night) -> None:
    """Raise FileError unless models and snapshots can be written; called before the long work.

    A dry run writes nothing, so nothing is checked.
    """
    if not night.dry_run:
        files.check_writable(night.experiment.environment.models_dir)
        files.check_writable(night.experiment.environment.snapshots_dir, snapshots.FOLDER_MODE)


def find_window(night: Night) -> Window:
    """The days of the training rows: they end where outcomes are complete.

    Raises
    ------
    DataError
        If no day is known to be complete.
    """
    experiment, watermark = night.experiment, outcomes.read_watermark(night)
    if watermark is None:
        raise DataError(
            f"{experiment.query('watermark').file}: tells no date, so nothing is known to be"
            " complete. Load the feed, then train."
        )
    to_date = outcomes.last_mature_date(min(watermark, night.run_date), experiment.outcome) + DAY
    from_date = experiment.training.start_date or to_date - experiment.training.days * DAY
    return Window(from_date, to_date)


def prepare_rows(frame: pd.DataFrame, window: Window, experiment: Experiment) -> Rows:
    """Check what the training query returned and split it by date.

    Parameters
    ----------
    frame : as `snapshots.arrange` makes it: candidate_id, event_date, outcome and the features;
        without columns if there are no rows
    window : that was asked for

    Raises
    ------
    DataError
        If there are no rows, rows outside the window, unusable columns, or too little to fit or
        validate on; with the query's file.
    """
    section = experiment.training
    with experiment.query("training").named():
        if frame.empty:
            raise DataError(
                f"returned no rows for {window}. Check the query, its binds, training.days, and"
                " whether the tables are filled."
            )
        require_columns(frame, [*section.not_features, *section.subgroups])
        if "variant" in frame.columns.difference(section.not_features):
            raise DataError(
                "returns a column 'variant', which in the candidates query says who is in which"
                " variant, and is no feature. Name it otherwise in both."
            )
        _check_window(frame["event_date"], window)
        types = features.infer_types(frame.drop(columns=[*outcomes.EVENT, *section.not_features]))
        outcome, cap = frame["outcome"].to_numpy(), experiment.outcome.cap
        y = (outcome > 0).astype(np.int64)
        if cap is not None:
            outcome = np.clip(outcome, -cap, cap)
        validation = split_validation(frame["event_date"], y, section.validation_share)
        bucket = assign(frame["candidate_id"].to_list(), experiment.name, {"all": 1.0}).bucket
        holdout = bucket < N_HOLDOUT_BUCKETS
        if holdout.sum() < MIN_HOLDOUT or len(np.unique(y[~holdout])) < 2:
            holdout = np.zeros(len(y), dtype=bool)
        coded = features.code(frame, dict(sorted(types.items())), features.UNUSABLE)
        rows = Rows(
            X=features.decode(coded),
            coded=coded,
            event_date=frame["event_date"].to_numpy(),
            y=y,
            validation=validation,
            bucket=bucket,
            holdout=holdout,
            types=types,
            outcome_mean=float(outcome.mean()),
            outcome_sd=float(outcome.std(ddof=1)),
            outcome_kurtosis=float(kurtosis(outcome, fisher=False)),
            subgroups=frame[section.subgroups],
            window=window,
            left_out={},
        )
        return rows._replace(left_out=find_left_out(rows))


def warn_of_rows(night: Night, frame: pd.DataFrame, rows: Rows) -> None:
    """Warn of training rows that can be used, but hardly are what was meant.

    Parameters
    ----------
    frame : what `rows` were made of
    """
    file = night.experiment.query("training").file
    if n_again := snapshots.count_again(frame):
        n_alike = int(frame.duplicated().sum())
        answers = frame.drop_duplicates([*snapshots.KEY, "outcome"])
        n_contrary = int(answers.duplicated(snapshots.KEY).sum())
        night.warn(
            f"{file}: {n_again:,} of {len(frame):,} rows come twice or more by candidate_id and"
            f" event_date, and count as often: {n_alike:,} of them alike in every column,"
            f" {n_again - n_alike:,} with other values, {n_contrary:,} with another outcome. Look"
            " at the joins of the query; select distinct drops those that are alike."
        )
    cap, amounts = night.experiment.outcome.cap, frame["outcome"][frame["outcome"] != 0].abs()
    if cap is not None and (amounts > cap).mean() > MANY_CUT:
        night.warn(
            f"{file}: {(amounts > cap).mean():.0%} of the outcomes other than 0 are beyond"
            f" outcome.cap, {cap:g}, and verdicts count no more of them than that. A cap cuts rare"
            f" amounts, at about the 99 % quantile: {amounts.quantile(0.99):,.4g}. Set another"
            " (once it is registered, under a new name), or look at the unit of the outcome."
        )
    last, days = rows.window.to_date - DAY, np.unique(rows.event_date)
    gaps = np.diff(days) / np.timedelta64(DAY)
    newest, n_widest = pd.Timestamp(days[-1]).date(), int(gaps.max())
    if (is_hole := gaps > max(STALE_DAYS, STALE_GAPS * np.median(gaps))).any():
        i = int(np.argmax(gaps))
        first, next_ = (pd.Timestamp(day).date() for day in days[i : i + 2])
        night.warn(
            f"{file}: no row is of the days between {first} and {next_}"
            f"{f', the longest of {n_holes} holes' if (n_holes := int(is_hole.sum())) > 1 else ''};"
            f" usually the next day with rows is {np.median(gaps):g} later. Look at the load, and"
            " whether day and month are exchanged."
        )
    if (n_since := (last - newest).days) > max(STALE_DAYS, STALE_GAPS * n_widest):
        night.warn(
            f"{file}: the newest row is of {newest}, {n_since} days before {last}, the last day"
            f" that is asked for; within the rows no gap is longer than {n_widest}"
            f" {'day' if n_widest == 1 else 'days'}. Look at the load, and at what the query joins"
            " and leaves out."
        )
    outcome = night.experiment.outcome
    if fall := find_fall(rows.event_date, rows.y, outcome.window_days + outcome.lag_days):
        night.warn(
            f"{file}: of the {fall.n_rows:,} rows since {fall.since} {fall.n_ones:,} have the"
            f" outcome ({fall.n_ones / fall.n_rows:.1%}), of those of the same weekdays before"
            f" {fall.rate:.1%}. Outcomes that were not complete when the query read them look like"
            " this, and models learn that the newest have none: look at the load and the watermark,"
            " and whether outcome.lag_days is as long as outcomes take. If the rate has fallen, all"
            " is well."
        )
    doubts = features.find_doubts(rows.coded, frame["candidate_id"])
    for name in filter(doubts.__contains__, rows.types):
        night.warn(f"{file}: {name} has {doubts[name]}: in the query, or by training.not_features.")
    telling = inspection.find_telling(rows.coded, rows.y, frame["candidate_id"])
    for name in filter(telling.__contains__, rows.types):
        night.warn(
            f"{file}: {name} {telling[name]}: is it known only when the outcome is? If so, leave it"
            " out: in the query, or by training.not_features."
        )
    for name, words in rows.left_out.items():
        night.warn(
            f"{file}: {name} has {words}. A fit needs {MIN_FILLED}, so models are fitted without it"
            " (but a Pipeline of your own). Load its history, or leave it out until there is some:"
            " in the query, or by training.not_features."
        )


def warn_of_leak(night: Night, rows: Rows, trained: Sequence[Fitted]) -> None:
    """Warn of models that rank too well to be true, with the feature that may know the outcome."""
    ranks = {model.recipe.variant: model.metrics.get("roc_auc", Figure()) for model in trained}
    suspect = {name: rank for name, rank in ranks.items() if (rank.lower or 0) > TOO_GOOD}
    if not suspect:
        return
    words = [
        f"{rank.value:.4f} ({rank.lower:.4f} to {rank.upper:.4f}) of variant {name}"
        for name, rank in suspect.items()
    ]
    feature, alone = inspection.find_best_alone(rows.X, rows.y, rows.validation, rows.types)
    which = "Is a feature known only when the outcome is?"
    if alone > TELLING:
        which = f"{feature} alone has {alone:.4f}: does it know the outcome?"
    night.warn(
        f"{night.experiment.query('training').file}: too good to be true: validation ROC AUC"
        f" {', '.join(words)}. {which} If so, leave it out: in the query, or by"
        " training.not_features."
    )


def _check_window(event_date: pd.Series, window: Window) -> None:
    first, end = map(pd.Timestamp, window)
    outside = event_date[~event_date.between(first, end, inclusive="left")]
    if len(outside):
        raise DataError(
            f"{len(outside)} of {len(event_date)} rows lie outside {window}, for example"
            f" {outside.iloc[0].date()}; later outcomes are not complete yet. Let the query keep"
            " event_date >= :from_date and event_date < :to_date."
        )


def split_validation(event_date: pd.Series, outcome: np.ndarray, share: float) -> np.ndarray:
    """Mark the newest rows, about `share` of all, cut between two days.

    Never at random, and no day is on both sides.

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
            f"all rows are of one day, {event_date.iloc[0].date()}; validation needs newer rows"
            " than the fit. Widen the window."
        )
    cut = max(days[min(int(len(days) * (1 - share)), len(days) - 1)], later[0])
    validation = event_date.to_numpy() >= cut
    for side, what in ((~validation, "fit"), (validation, "validate")):
        if len(np.unique(outcome[side])) < 2:
            raise DataError(
                f"the {side.sum()} rows to {what} on (from {event_date[side].min().date()} to"
                f" {event_date[side].max().date()}) all have outcome {outcome[side][0]}; both 0 and"
                " 1 are needed. Widen the window or check the outcome."
            )
    return validation


def make_recipes(experiment: Experiment) -> list[Recipe]:
    """The config's models, each with its estimator.

    Raises
    ------
    ConfigError
        If an estimator cannot be imported or called, or is none.
    """
    variants = experiment.models
    return [make_recipe(experiment, name, experiment.key(f"models.{name}")) for name in variants]


def make_recipe(experiment: Experiment, variant: str, key: str) -> Recipe:
    """One of `make_recipes`."""
    model, seed = experiment.models[variant], experiment.training.seed
    estimator = estimators.make_estimator(model.estimator, model.params, seed, key)
    return Recipe(variant, model, estimator, seed, key)


def find_left_out(rows: Rows) -> dict[str, str]:
    """Features with too few values for the one fit or the other, and how many they have."""
    left_out = {}
    for chosen, which in (
        (~rows.validation, f"before {rows.validation_from}, the first day of validation"),
        (~rows.holdout, "that are not held out"),
    ):
        n_rows = int(chosen.sum())
        n_asked = min(MIN_FILLED, n_rows)
        first = rows.X.iloc[np.flatnonzero(chosen)[:N_FIRST]]  # which tell of most that they have
        is_open = first.count() < n_asked
        for name in filter(is_open.get, rows.types):
            column = rows.X[name]
            if (n := column[chosen].count()) < n_asked:
                left_out[name] = (
                    f"a value in {column.count():,} of {len(rows.y):,} rows, but in {n:,} of the"
                    f" {n_rows:,} {which}"
                )
    return left_out


def fit_for_validation(recipe: Recipe, rows: Rows) -> Pipeline:
    """Fit on the rows that are older than the validation's.

    Raises
    ------
    ConfigError
        If scikit-learn refuses the parameters or the columns.
    """
    return _fit(recipe, rows, ~rows.validation)


def fit_for_good(recipe: Recipe, rows: Rows) -> Pipeline:
    """Fit on all rows but the holdout, the newest included: this is the model that is saved.

    The newest know most of tomorrow. Errors are those of `fit_for_validation`.
    """
    return _fit(recipe, rows, ~rows.holdout)


def _fit(recipe: Recipe, rows: Rows, chosen: np.ndarray) -> Pipeline:
    """The estimator behind the preparation of the columns that both fits can learn.

    Of others, such as one whose few values are the newest, nothing could be learnt or measured.
    """
    types = {name: kind for name, kind in rows.types.items() if name not in rows.left_out}
    pipeline = estimators.prepare(recipe.estimator, types, recipe.key)
    memory.release()
    return estimators.fit(pipeline, rows.take(chosen), rows.y[chosen], recipe.key, recipe.seed)


def fit_and_validate(recipe: Recipe, rows: Rows) -> Fitted:
    """Fit on the older rows, measure on the newest, then fit again for good.

    Raises
    ------
    ConfigError
        If scikit-learn refuses the parameters or the columns.
    """
    newest = rows.validation
    validated = fit_for_validation(recipe, rows)
    scores = estimators.predict_probability(validated, rows.take(newest))
    histogram = metrics.make_histogram(scores, rows.y[newest], rows.bucket[newest], N_BUCKETS)
    measured = metrics.measure(histogram).items()
    figures = {name: Figure(**metric.to_dict()) for name, metric in measured}
    pipeline, reference = fit_for_good(recipe, rows), None
    if rows.holdout.any():
        held_out = estimators.predict_probability(pipeline, rows.take(rows.holdout))
        reference = drift.make_reference(held_out)
    return Fitted(recipe, pipeline, validated, scores, figures, reference)


def choose_checked(n_rows: int) -> np.ndarray:
    """Which rows of a snapshot have their predictions in the card: up to 100, evenly spaced.

    Array of int.
    """
    return np.linspace(0, n_rows - 1, min(N_CHECKED, n_rows), dtype=np.int64)


def describe_origin(night: Night, rows: Rows, trained_because: str, snapshot: str) -> Origin:
    """What the models of one training have in common; `snapshot` is the content hash."""
    experiment = night.experiment
    return Origin(
        **night.key,
        run_id=night.run_id,
        trained_because=trained_because,
        query=experiment.query("training").text,
        **rows.window._asdict(),
        as_of=night.as_of,
        snapshot=snapshot,
        rows=len(rows.y),
        n_positive=int(rows.y.sum()),
        validation_from=rows.validation_from,
        rows_validation=int(rows.validation.sum()),
        columns=rows.types,
        features=drift.make_feature_references(rows.coded, rows.types),
        outcome_mean=rows.outcome_mean,
        outcome_sd=rows.outcome_sd,
        outcome_kurtosis=rows.outcome_kurtosis,
        seed=experiment.training.seed,
        config=experiment.describe(),
        config_hash=experiment.hash(),
        code_version=version.code_version(),
        lock=libraries.list_installed(),
        machine=f"{platform.system()} {platform.machine()}",
    )


def save(night: Night, origin: Origin, rows: Rows, fitted: Fitted, decision: Decision) -> Card:
    """Write a dated model's pickle and its card as JSON; returns the card.

    What the card says of validation rows is measured here.
    """
    environment, model, newest = night.experiment.environment, fitted.recipe.config, rows.validation
    undated = registry.undated_name(model)
    name = night.read(registry.choose_model_name, environment.models_dir, undated, night.run_date)
    content, loaded = registry.pickle_model(fitted.pipeline, fitted.recipe.key)
    some = rows.X.iloc[choose_checked(len(rows.y))]
    checked = estimators.predict_probability(loaded, some)
    if not np.array_equal(checked, estimators.predict_probability(fitted.pipeline, some)):
        raise ConfigError(
            f"{fitted.recipe.key}.estimator: saved and loaded again it predicts otherwise. Let all"
            " that it has learnt be pickled."
        )
    card = Card(
        **dict(origin),
        **dict(model),
        model_name=name,
        file=f"{name}.pkl",
        sha256=files.hash_bytes(content),
        variant=fitted.recipe.variant,
        metrics=fitted.metrics,
        importances=inspection.measure_importances(
            fitted.validated, rows.take(newest), rows.y[newest], origin.seed
        ),
        subgroups=inspection.measure_subgroups(
            rows.subgroups[newest], rows.y[newest], fitted.scores, rows.bucket[newest], N_BUCKETS
        ),
        reference=fitted.reference,
        checked=checked.tolist(),
        left_out={} if isinstance(fitted.recipe.estimator, Pipeline) else rows.left_out,
        gate=decision,
        code_files=code.hash_code(model.estimator, environment.folder),
        libraries=libraries.find_libraries(fitted.pipeline.get_params().values()),
    )
    night.require_lock()
    registry.save_model(environment.models_dir, content, card)
    return card
