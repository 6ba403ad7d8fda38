"""Looks: one day's reading of an experiment.

Nights whose outcomes are final are closed, the open ones are read again.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.database import tables
from abatch.database.reading import read_query
from abatch.errors import DatabaseError, DataError
from abatch.experiment import outcomes, predictions, scores, verdicts
from abatch.experiment.assignment import N_BUCKETS, assign
from abatch.experiment.registrations import OUTCOME, Terms
from abatch.queries import Window
from abatch.statistics import drift
from abatch.statistics.sums import add_by_key

DAY = timedelta(days=1)
VERDICT_KEY = (scores.ALL, "", "")  # the row of cohort_sums that holds what verdicts are made of


class Source(NamedTuple):
    """Where mature predictions and their outcomes come from.

    Attributes
    ----------
    metrics : the experiment's outcome first, then its guardrails
    cohort : week or month
    as_of : the moment whose knowledge may be used, naive UTC
    exposure : which predictions of a candidate the verdicts count: first or all
    start_date : the first night that the verdicts count
    references : the score reference of each dated model
    features : what its training rows looked like, by model_name and feature
    chunk_rows : predictions to hold at once
    """

    engine: sa.Engine
    experiment: str
    split: Mapping[str, float]
    metrics: Sequence[outcomes.Metric]
    window_days: int
    cohort: str
    as_of: datetime
    exposure: str
    start_date: date
    references: Mapping[str, drift.Reference]
    features: Mapping[str, Mapping[str, drift.FeatureReference]]
    chunk_rows: int

    @property
    def names(self) -> list[str]:
        return [metric.name for metric in self.metrics]


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

    parts: dict[scores.Key, scores.Part]
    exposures: pd.DataFrame
    nights: tuple[date, date] | None
    run_ids: set[tuple[date, str]]
    closed_date: date | None
    n_read: int


def read(source: Source, nights: Sequence[date], closed_date: date | None) -> Reading:
    """Read mature predictions, a chunk at a time, attach the outcome of each metric, and keep what
    adds up.

    Raises
    ------
    DatabaseError
        If predict wrote one of these nights, or one before them, meanwhile.
    DataError
        If an outcome's id is that of a prediction but for upper and lower case.
    """
    columns = ["candidate_id", "variant", "run_date", *source.names]
    if not nights:
        return Reading({}, pd.DataFrame(columns=columns), None, set(), closed_date, 0)
    first, last = nights[0], nights[-1]
    window = Window(first, last + source.window_days * DAY)
    feeds = [
        read_query(source.engine, metric.query, window, source.as_of) for metric in source.metrics
    ]
    events = [
        outcomes.find_events(feed, metric)
        for feed, metric in zip(feeds, source.metrics, strict=True)
    ]
    cohorts = {
        pd.Timestamp(night): str(outcomes.find_cohort(night, source.cohort)) for night in nights
    }
    parts: dict[scores.Key, scores.Part] = {}
    exposures, n_read = [], sum(map(len, feeds))
    with source.engine.connect() as connection:
        run_ids = predictions.find_run_ids(
            connection, source.experiment, closed_date or date.min, last
        )
        _check_nights(source, nights, {night for night, _ in run_ids})
        for rows in predictions.stream_predictions(
            connection, source.experiment, first, last + DAY, source.chunk_rows
        ):
            for metric, found in zip(source.metrics, events, strict=True):
                rows[metric.name] = outcomes.attach(rows, found, source.window_days, metric)
            rows["bucket"] = assign(rows["candidate_id"], source.experiment, source.split).bucket
            rows["cohort"] = rows["run_date"].map(cohorts)
            parts = add_by_key(parts, scores.summarise(rows, source.references, N_BUCKETS))
            exposures.append(rows.loc[rows["run_date"] >= pd.Timestamp(source.start_date), columns])
            n_read += len(rows)
    counted = pd.concat(exposures, ignore_index=True)
    for metric, found in zip(source.metrics, events, strict=True):
        with metric.query.named():
            _check_case(source, outcomes.find_twins(counted["candidate_id"], found))
    return Reading(parts, counted, (first, last), run_ids, closed_date, n_read)


def _check_case(source: Source, twins: list[str]) -> None:
    if twins:
        with source.engine.connect() as connection:
            known = predictions.find_ids(connection, source.experiment, twins[:1000])
        twins = [name for name in twins if name not in known]
    if twins:
        raise DataError(
            f"{len(twins)} ids of outcomes were predicted in other upper and lower case, for"
            f" example {twins[0]!r}. Return ids letter for letter as the candidates query does,"
            " with lower(...) in both if need be."
        )


def _check_nights(source: Source, nights: Sequence[date], written: set[date]) -> None:
    if gone := sorted(set(nights) - written):
        raise DataError(
            f"predictions of {source.experiment}: {len(gone)} nights that were predicted, such as"
            f" {gone[0]}, are no longer in the table. Restore them. Nights that are closed need not"
            " be there, unless with --rebuild."
        )
    if written != set(nights):
        raise _predicted_meanwhile(source)


def check(connection: sa.Connection, source: Source, reading: Reading) -> None:
    """Raise DatabaseError if a night was predicted again, or made up for, since it was read.

    Predict may run at the same time.
    """
    scores.lock_nights(connection, source.experiment)
    run_ids, closed_date = set(), reading.closed_date
    if reading.nights:
        run_ids = predictions.find_run_ids(
            connection, source.experiment, closed_date or date.min, reading.nights[1]
        )
    if (
        run_ids != reading.run_ids
        or scores.find_closed_date(connection, source.experiment) != closed_date
    ):
        raise _predicted_meanwhile(source)


def _predicted_meanwhile(source: Source) -> DatabaseError:
    return DatabaseError(
        f"a night of {source.experiment} was predicted while it was being scored. Nothing was lost;"
        " run score again."
    )


def has_other_cohorts(connection: sa.Connection, source: Source) -> bool:
    """Whether the closed sums are by week and the config now says month, or the other way round."""
    content = scores.load_arrays(connection, source.experiment, VERDICT_KEY)
    return content is not None and str(content["cohort"]) != source.cohort


def close(connection: sa.Connection, source: Source, reading: Reading, run_id: str) -> None:
    """Add nights to the sums for good."""
    assert reading.nights
    check(connection, source, reading)
    total = add(connection, source, reading)
    closed_date = reading.nights[1]
    units = total.units
    if source.exposure == "first":  # whoever is known stays as he is
        units = units[total.n_known :]
    else:
        verdicts.remove_units(connection, source.experiment, reading.nights)
    verdicts.write_units(connection, source.experiment, source.names, units)
    scores.save(connection, source.experiment, total.parts, closed_date, run_id)
    content = {**verdicts.pack(total.tally), "cohort": np.array(source.cohort)}
    scores.save_arrays(connection, source.experiment, VERDICT_KEY, content, closed_date, run_id)


class Total(NamedTuple):
    """Closed sums and a reading together.

    Attributes
    ----------
    parts : those that the reading touches
    tally : of all units
    units : those of the reading, the ones that were known before first
    n_known : how many of them were known
    """

    parts: dict[scores.Key, scores.Part]
    tally: verdicts.Tally
    units: pd.DataFrame
    n_known: int


def add(connection: sa.Connection, source: Source, reading: Reading) -> Total:
    """Add a reading to the closed sums; nothing is written."""
    parts = add_by_key(scores.load(connection, source.experiment, reading.parts), reading.parts)
    whole = verdicts.unpack(scores.load_arrays(connection, source.experiment, VERDICT_KEY))
    known = verdicts.read_units(connection, source.experiment, source.names, reading.nights)
    units = verdicts.add_exposures(known, reading.exposures, source.exposure)
    tally = whole - verdicts.count(known, source.names) + verdicts.count(units, source.names)
    return Total(parts, tally, units, len(known))


class Figures(NamedTuple):
    """What a look writes beside its verdicts: rows of `scores`, `variant_scores` and
    `feature_drift`, without experiment and run_id.

    Attributes
    ----------
    keys : of all figures that there are, changed or not
    """

    models: list[dict[str, Any]]
    variants: list[dict[str, Any]]
    drift: list[dict[str, Any]]
    keys: set[scores.Key]

    @property
    def n_rows(self) -> int:
        return len(self.models) + len(self.variants) + len(self.drift)


def measure(
    connection: sa.Connection,
    source: Source,
    parts: Mapping[scores.Key, scores.Part],
    closed_date: date,
    run_date: date,
) -> Figures:
    """Figures of all that has changed: of the parts that the open nights touch, and of what was
    closed since a run was done.

    Parameters
    ----------
    parts : what `add` returned
    closed_date : the last closed night
    """
    n_predicted: Counter[tuple[str, str]] = Counter()
    for (night, variant), n in predictions.count_open(
        connection, source.experiment, closed_date, run_date
    ).items():
        for cohort in (str(outcomes.find_cohort(night, source.cohort)), scores.ALL):
            n_predicted[cohort, variant] += n
    counted = {
        (cohort, variant, "")
        for cohort, variant in (*n_predicted, *((scores.ALL, variant) for variant in source.split))
    }
    known = scores.find_keys(connection, source.experiment) - {VERDICT_KEY}
    changed = {*parts, *scores.find_unpublished(connection, source.experiment), *counted} - {
        VERDICT_KEY
    }
    # What the last run counted beyond the closed nights is gone if its nights were predicted again,
    # or the feed took days back.
    published = scores.find_published(connection, source.experiment, run_date)
    model_rows, variant_rows = [], []
    for key in sorted(known | changed):
        n_published = published.get((key[0], key[2] or key[1], bool(key[2])))
        if key not in changed and n_published is None:
            continue
        closed = (
            None
            if key[2] and key in parts
            else scores.load(connection, source.experiment, [key]).get(key)
        )
        if key not in changed and closed and closed.counts[0] == n_published:
            continue
        part = parts.get(key, closed)
        if not key[2]:
            n_closed = int(closed.counts[0]) if closed else 0
            variant_rows.append(scores.measure_variant(key, part, n_closed + n_predicted[key[:2]]))
        elif part:
            model_rows += scores.measure_model(key, part, source.references.get(key[2]))
    drift_rows = []
    for cohort in sorted({key[0] for key in changed} - {scores.ALL}):
        first = date.fromisoformat(cohort)
        last = min(run_date, outcomes.find_last_day(first, source.cohort))
        for model_name, nights in predictions.read_feature_counts(
            connection, source.experiment, first, last
        ).items():
            drift_rows += scores.measure_features(
                model_name, cohort, source.features.get(model_name, {}), nights
            )
    return Figures(model_rows, variant_rows, drift_rows, known | changed)


class Look(NamedTuple):
    """One look, before it is written: the row of `looks`, and rows of `sample_ratios`."""

    row: dict[str, Any]
    ratios: list[dict[str, Any]]


def take(
    connection: sa.Connection,
    source: Source,
    terms: Terms,
    tally: verdicts.Tally,
    figures: Figures,
    watermark: date | None,
    mature_date: date,
    run_date: date,
) -> Look:
    """Count what the look saw, and hold both stages of assignment against the registered shares."""
    newcomers = predictions.count_newcomers(
        connection, source.experiment, source.start_date, mature_date, run_date
    )
    assigned = {
        variant: tally.n_distinct.get(variant, 0) + newcomers.get(variant, 0)
        for variant in source.split
    }
    total = [row for row in figures.variants if row["cohort"] == scores.ALL]
    row = {
        "experiment": source.experiment,
        "run_date": run_date,
        "watermark": watermark,
        "mature_date": mature_date if watermark else None,
        "n_predicted": sum(row["n_predicted"] for row in total),
        "n_mature": sum(row["n_mature"] for row in total),
        "n_units": int(
            sum(
                moments.n_units
                for (metric, _), moments in tally.moments.items()
                if metric == OUTCOME
            )
        ),
        "n_mixed": tally.n_mixed,
    }
    return Look(
        row,
        verdicts.check_ratios(
            terms, {verdicts.ASSIGNED: assigned, verdicts.MATURE: tally.n_distinct}
        ),
    )


def write(
    connection: sa.Connection,
    look: Look,
    figures: Figures,
    terms: Terms,
    tally: verdicts.Tally,
    run_id: str,
) -> list[dict[str, Any]]:
    """Write the look and all its figures; returns the rows of `verdicts`."""
    experiment = look.row["experiment"]
    scores.replace_rows(
        connection, experiment, tables.scores, ("model_name", "cohort"), figures.models, run_id
    )
    scores.replace_rows(
        connection,
        experiment,
        tables.variant_scores,
        ("variant", "cohort"),
        figures.variants,
        run_id,
    )
    scores.replace_rows(
        connection, experiment, tables.feature_drift, ("cohort",), figures.drift, run_id
    )
    scores.remove_others(connection, experiment, figures.keys)
    scores.mark_published(connection, experiment, run_id)
    return verdicts.write_look(
        connection, {**look.row, "run_id": run_id}, look.ratios, terms, tally
    )
