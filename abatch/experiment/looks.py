"""Looks: one day's reading of an experiment.

Nights whose outcomes are final are closed, the open ones are read again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database import tables
from abatch.errors import DatabaseError, DataError, NothingToDo
from abatch.experiment import outcomes, predictions, scores, verdicts
from abatch.experiment.assignment import N_BUCKETS, assign
from abatch.experiment.outcomes import Feed
from abatch.experiment.registrations import OUTCOME, Registration
from abatch.experiment.scores import Figures, Key, Part
from abatch.night import Night, find_nights
from abatch.statistics.references import FeatureReference, Reference
from abatch.statistics.sums import add_by_key

DAY = timedelta(days=1)
VERDICT_KEY = Key(scores.ALL, "")  # the row of cohort_sums that holds what verdicts are made of


def require_nights(night: Night) -> None:
    """Raise NothingToDo if nothing has been predicted yet."""
    if not night.read(find_nights, night.experiment.name, night.run_date):
        raise NothingToDo(f"{night}: there are no predictions yet")


class Question(NamedTuple):
    """What is asked of mature predictions.

    Attributes
    ----------
    references, features : what the scores and the features of each dated model are compared with
    """

    experiment: Experiment
    registration: Registration
    references: Mapping[str, Reference]
    features: Mapping[str, Mapping[str, FeatureReference]]

    @property
    def name(self) -> str:
        """The experiment's."""
        return self.experiment.name

    @property
    def metrics(self) -> list[str]:
        """Names of what is measured of each prediction, the outcome first."""
        return list(outcomes.list_metrics(self.experiment))


class Reading(NamedTuple):
    """Mature predictions of some nights with their outcomes, condensed.

    Attributes
    ----------
    parts : as scores.summarise makes them
    exposures : candidate_id, variant, run_date and a column for each metric, of the predictions
        that verdicts count
    nights : the first and the last; None if there is none
    run_ids : who wrote each night
    closed_date : the last closed night before them, None if there is none
    n_read : rows that the database returned
    """

    parts: dict[Key, Part]
    exposures: pd.DataFrame
    nights: tuple[date, date] | None
    run_ids: set[tuple[date, str]]
    closed_date: date | None
    n_read: int


def split_nights(
    nights: Sequence[date],
    closed_date: date | None,
    mature_date: date | None,
    grace_days: int | None,
) -> tuple[list[date], list[date]]:
    """The nights to close for good, and those that are mature but stay open for corrections.

    Parameters
    ----------
    closed_date, mature_date : the newest closed and the newest mature night, None if there is none
    grace_days : for which a mature night stays open; None lets all of them
    """
    if mature_date is None:
        return [], []
    mature = [night for night in nights if (closed_date or date.min) < night <= mature_date]
    if grace_days is None:
        return [], mature
    n_final = sum(night <= mature_date - grace_days * DAY for night in mature)
    return mature[:n_final], mature[n_final:]


def close_final(
    night: Night, question: Question, nights: Sequence[date], mature_date: date | None
) -> tuple[Reading, int]:
    """Close nights for good once no correction is waited for, and read those that stay open.

    A cohort is closed at a time, lest a first run hold them all in memory. A dry run closes none.

    Parameters
    ----------
    nights : all that have predictions, in order
    mature_date : the newest mature one, None if there is none

    Returns
    -------
    Reading, int
        Of the mature nights that are open; and how many rows were read in all.
    """
    experiment, n_read = question.experiment, 0

    def read(members: Sequence[date]) -> Reading:
        nonlocal n_read
        feeds = outcomes.pull_feeds(night.pull, experiment, members)
        reading = night.read(read_nights, question, feeds, members, closed_date)
        n_read += reading.n_read
        return reading

    closed_date = night.read(scores.find_closed_date, question.name)
    grace_days = None if night.dry_run else experiment.outcome.grace_days
    final, mature = split_nights(nights, closed_date, mature_date, grace_days)
    for _, members in outcomes.iterate_cohorts(final, experiment.cohort):
        night.write(close_nights, question, read(members), night.run_id)
        closed_date = members[-1]
    return read(mature), n_read


def read_nights(
    connection: sa.Connection,
    question: Question,
    feeds: Sequence[Feed],
    nights: Sequence[date],
    closed_date: date | None,
) -> Reading:
    """Read mature predictions, a chunk at a time, with their outcomes, and keep what adds up.

    Parameters
    ----------
    feeds : of these nights
    closed_date : the last closed night before them, None if there is none

    Raises
    ------
    DatabaseError
        If predict wrote one of these nights, or one before them, meanwhile.
    DataError
        If an outcome's id is that of a prediction but for upper and lower case.
    """
    columns = ["candidate_id", "variant", "run_date", *question.metrics]
    if not nights:
        return Reading({}, pd.DataFrame(columns=columns), None, set(), closed_date, 0)
    after = closed_date or date.min
    run_ids = predictions.find_run_ids(connection, question.name, after, nights[-1])
    _check_nights(question.name, nights, {night for night, _ in run_ids})
    start = pd.Timestamp(question.registration.start_date)
    parts: dict[Key, Part] = {}
    exposures, n_read = [], sum(feed.n_rows for feed in feeds)
    for rows in _stream_outcomes(connection, question.experiment, feeds, nights):
        parts = add_by_key(parts, scores.summarise(rows, question.references, N_BUCKETS))
        exposures.append(rows.loc[rows["run_date"] >= start, columns])
        n_read += len(rows)
    counted = pd.concat(exposures, ignore_index=True)
    for feed in feeds:
        with feed.query.named():
            twins = outcomes.find_twins(counted["candidate_id"], feed.events)
            _check_case(connection, question.name, twins)
    return Reading(parts, counted, (nights[0], nights[-1]), run_ids, closed_date, n_read)


def _stream_outcomes(
    connection: sa.Connection, experiment: Experiment, feeds: Sequence[Feed], nights: Sequence[date]
) -> Iterator[pd.DataFrame]:
    """Predictions in chunks, with a column for each metric, and with bucket and cohort."""
    name, window_days = experiment.name, experiment.outcome.window_days
    ends, chunk_rows = (nights[0], nights[-1] + DAY), experiment.environment.chunk_rows
    cohorts = {
        pd.Timestamp(night): str(outcomes.find_cohort(night, experiment.cohort)) for night in nights
    }
    for rows in predictions.stream_predictions(connection, name, *ends, chunk_rows):
        for feed in feeds:
            rows[feed.name] = outcomes.attach(rows, feed.events, window_days, feed.metric)
        rows["bucket"] = assign(rows["candidate_id"], name, experiment.split).bucket
        rows["cohort"] = rows["run_date"].map(cohorts)
        yield rows


def _check_case(connection: sa.Connection, experiment: str, twins: list[str]) -> None:
    if twins:
        predicted = predictions.find_ids(connection, experiment, twins[:1000])
        twins = [name for name in twins if name not in predicted]
    if twins:
        raise DataError(
            f"{len(twins)} ids of outcomes were predicted in other upper and lower case, for"
            f" example {twins[0]!r}. Return ids letter for letter as the candidates query does,"
            " with lower(...) in both if need be."
        )


def _check_nights(experiment: str, nights: Sequence[date], written: set[date]) -> None:
    if gone := sorted(set(nights) - written):
        raise DataError(
            f"predictions of {experiment}: {len(gone)} nights that were predicted, such as"
            f" {gone[0]}, are no longer in the table. Restore them. Nights that are closed need not"
            " be there, unless with --rebuild."
        )
    if written != set(nights):
        raise _predicted_meanwhile(experiment)


def check_unchanged(connection: sa.Connection, experiment: str, reading: Reading) -> None:
    """Raise DatabaseError if a night was predicted again, or made up for, since it was read.

    Predict may run at the same time; it waits from here to the end of the transaction.
    """
    scores.lock_nights(connection, experiment)
    run_ids, closed_date = set(), reading.closed_date
    if reading.nights:
        after = closed_date or date.min
        run_ids = predictions.find_run_ids(connection, experiment, after, reading.nights[1])
    if run_ids != reading.run_ids or scores.find_closed_date(connection, experiment) != closed_date:
        raise _predicted_meanwhile(experiment)


def _predicted_meanwhile(experiment: str) -> DatabaseError:
    return DatabaseError(
        f"a night of {experiment} was predicted while it was being scored. Nothing was lost; run"
        " score again."
    )


def find_mature_date(night: Night, *, is_rebuilt: bool) -> tuple[date | None, date | None]:
    """The watermark of the outcomes, and the newest night whose outcomes are complete.

    A feed that is late leaves nights open, and never turns into zeros.

    Raises
    ------
    DataError
        If the feed knows less than it did.
    """
    experiment, query = night.experiment, night.experiment.query("watermark")
    watermark = outcomes.read_watermark(night.pull, query, night.run_date)
    mature_date = watermark and outcomes.last_mature_date(watermark, experiment.outcome)
    with query.named():
        night.read(scores.check_watermark, experiment.name, mature_date, is_rebuilt=is_rebuilt)
    return watermark, mature_date


def has_other_cohorts(connection: sa.Connection, experiment: Experiment) -> bool:
    """Whether the closed sums are by week and the config now says month, or the other way round."""
    content = scores.load_arrays(connection, experiment.name, VERDICT_KEY)
    return content is not None and str(content["cohort"]) != experiment.cohort


def close_nights(
    connection: sa.Connection, question: Question, reading: Reading, run_id: str
) -> None:
    """Add nights to the sums for good."""
    assert reading.nights
    name, closed_date = question.name, reading.nights[1]
    check_unchanged(connection, name, reading)
    total = total_with(connection, question, reading)
    units = total.units
    if question.registration.exposure == "first":  # who was counted before stays as he is
        units = units[total.n_earlier :]
    else:
        verdicts.remove_units(connection, name, reading.nights)
    verdicts.write_units(connection, name, question.metrics, units)
    scores.save(connection, name, total.parts, closed_date, run_id)
    cohort = np.array(question.experiment.cohort)
    content = {**verdicts.pack(total.tally), "cohort": cohort}
    scores.save_arrays(connection, name, VERDICT_KEY, content, closed_date, run_id)


class Total(NamedTuple):
    """Closed sums and a reading together.

    Attributes
    ----------
    parts : those that the reading touches
    tally : of all units
    units : those of the reading, the ones of closed nights first
    n_earlier : how many are of closed nights
    """

    parts: dict[Key, Part]
    tally: verdicts.Tally
    units: pd.DataFrame
    n_earlier: int


def total_with(connection: sa.Connection, question: Question, reading: Reading) -> Total:
    """The closed sums with a reading added; nothing is written."""
    name, metrics = question.name, question.metrics
    parts = add_by_key(scores.load(connection, name, reading.parts), reading.parts)
    closed = verdicts.unpack(scores.load_arrays(connection, name, VERDICT_KEY))
    earlier = verdicts.read_units(connection, name, metrics, reading.nights)
    units = verdicts.add_exposures(earlier, reading.exposures, question.registration.exposure)
    tally = closed - verdicts.count(earlier, metrics) + verdicts.count(units, metrics)
    return Total(parts, tally, units, len(earlier))


def measure(
    connection: sa.Connection,
    question: Question,
    parts: Mapping[Key, Part],
    closed_date: date | None,
    run_date: date,
) -> Figures:
    """Figures of all that has changed.

    That is of the parts that the open nights touch, and of what was closed since a run was done.

    Parameters
    ----------
    parts : of `total_with`
    closed_date : the last closed night, None if there is none
    """
    name = question.name
    n_open = _count_open(connection, question.experiment, closed_date, run_date)
    counted = {Key(scores.ALL, variant) for variant in question.experiment.split} | n_open.keys()
    changed = {*parts, *scores.find_unpublished(connection, name), *counted} - {VERDICT_KEY}
    keys = scores.find_keys(connection, name) - {VERDICT_KEY} | changed
    # What the last run counted beyond the closed nights is gone if its nights were predicted again,
    # or the feed took days back.
    published = scores.find_published(connection, name, run_date)
    models, variants = [], []
    for key in sorted(key for key in keys if key in changed or _publish_key(key) in published):
        closed = None
        if not (key.model_name and key in parts):
            closed = scores.load(connection, name, [key]).get(key)
        if key not in changed and closed and closed.counts[0] == published[_publish_key(key)]:
            continue
        part = parts.get(key, closed)
        if key.model_name and part:
            models += scores.measure_model(key, part, question.references.get(key.model_name))
        elif not key.model_name:
            n_closed = int(closed.counts[0]) if closed else 0
            variants.append(scores.measure_variant(key, part, n_closed + n_open[key]))
    cohorts = sorted({key.cohort for key in changed} - {scores.ALL})
    rows = {
        tables.scores: models,
        tables.variant_scores: variants,
        tables.feature_drift: _measure_drift(connection, question, cohorts, run_date),
    }
    return Figures(rows, keys)


def _publish_key(key: Key) -> tuple[str, str, bool]:
    """As `scores.find_published` names it."""
    return key.cohort, key.model_name or key.variant, bool(key.model_name)


def _count_open(
    connection: sa.Connection, experiment: Experiment, closed_date: date | None, run_date: date
) -> Counter[Key]:
    """Predictions of the nights that are not closed, by cohort and variant."""
    after = closed_date or date.min
    counts = predictions.count_open(connection, experiment.name, after, run_date)
    n_open: Counter[Key] = Counter()
    for (night, variant), n in counts.items():
        for cohort in (str(outcomes.find_cohort(night, experiment.cohort)), scores.ALL):
            n_open[Key(cohort, variant)] += n
    return n_open


def _measure_drift(
    connection: sa.Connection, question: Question, cohorts: Sequence[str], run_date: date
) -> list[dict[str, Any]]:
    rows = []
    for cohort in cohorts:
        first = date.fromisoformat(cohort)
        last = min(run_date, outcomes.find_last_day(first, question.experiment.cohort))
        counts = predictions.read_feature_counts(connection, question.name, first, last)
        for model_name, nights in counts.items():
            features = question.features.get(model_name, {})
            rows += scores.measure_features(model_name, cohort, features, nights)
    return rows


def count_look(
    connection: sa.Connection,
    question: Question,
    tally: verdicts.Tally,
    figures: Figures,
    watermark: date | None,
    run_date: date,
) -> verdicts.Look:
    """Count what the look saw, and judge it by what was registered; nothing is written."""
    name, registration = question.name, question.registration
    mature_date = watermark and outcomes.last_mature_date(watermark, question.experiment.outcome)
    newcomers = predictions.count_newcomers(
        connection, name, registration.start_date, mature_date or date.min, run_date
    )
    assigned = {
        variant: tally.n_distinct.get(variant, 0) + newcomers.get(variant, 0)
        for variant in question.experiment.split
    }
    whole = [row for row in figures.rows[tables.variant_scores] if row["cohort"] == scores.ALL]
    n_units = sum(
        moments.n_units for (metric, _), moments in tally.moments.items() if metric == OUTCOME
    )
    row = {
        "experiment": name,
        "run_date": run_date,
        "watermark": watermark,
        "mature_date": mature_date,
        "n_predicted": sum(row["n_predicted"] for row in whole),
        "n_mature": sum(row["n_mature"] for row in whole),
        "n_units": int(n_units),
        "n_mixed": tally.n_mixed,
    }
    stages = {verdicts.ASSIGNED: assigned, verdicts.MATURE: tally.n_distinct}
    smallest = verdicts.find_smallest(connection, name, run_date)
    return verdicts.make_look(row, registration, tally, stages, smallest)


def write(
    connection: sa.Connection,
    look: verdicts.Look,
    figures: Figures,
    reading: Reading,
    run_id: str,
) -> None:
    """Write the look and all its figures, unless a night was predicted again since the reading."""
    experiment = look.row["experiment"]
    check_unchanged(connection, experiment, reading)
    scores.write_figures(connection, experiment, figures, run_id)
    scores.mark_published(connection, experiment, run_id)
    verdicts.write_look(connection, look, run_id)
