"""Looks: one day's reading of an experiment.

Nights whose outcomes are final are closed, the open ones are read again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database import tables, writing
from abatch.database.tables import Row
from abatch.errors import DatabaseError, DataError, NothingToDo
from abatch.experiment import (
    corrections,
    doubt_rules,
    doubts,
    outcomes,
    predictions,
    records,
    sample_ratio,
    scores,
    tallies,
    verdicts,
)
from abatch.experiment.assignment import N_BUCKETS
from abatch.experiment.doubts import Doubt, Record
from abatch.experiment.outcomes import Feed
from abatch.experiment.predictions import Span
from abatch.experiment.registrations import OUTCOME, Registration
from abatch.experiment.scores import Figures, Key, Part
from abatch.experiment.watermarks import Maturity
from abatch.night import DAY, Night, find_nights
from abatch.statistics import drift, stats
from abatch.statistics.metrics import Metric
from abatch.statistics.references import FeatureReference, Reference
from abatch.statistics.sums import add_by_key
from abatch.text import list_days

ROC_AUC, MUCH_LOWER, CHANCE = "roc_auc", 0.1, 0.5
SCALED = "amounts of another unit than planned"
N_AMOUNTS, MANY_TIMES = 100, 4.0  # other than 0; times the spread that was planned with
Z_INTERVAL, Z_FALL = 1.96, 3.5  # by chance in one of 80 years of weeks
MANY_MIXED = 0.01  # of the candidates; by a mistake here and there it is fewer
SMALL_SHIFT = 0.1  # of the expected effect, which no verdict turns on
CLOSED_ROWS = 200_000  # predictions that are read and closed at a time
VERDICT_KEY = Key(scores.ALL, "")  # the row of cohort_sums that holds what verdicts are made of


def require_nights(night: Night) -> None:
    """Raise NothingToDo if nothing has been predicted yet."""
    if not night.read(find_nights, night):
        raise NothingToDo(f"{night}: there are no predictions yet")


class Question(NamedTuple):
    """What a night asks of mature predictions.

    Attributes
    ----------
    references, features, ranks : what the scores, the features and the ROC AUC of each dated model
        are compared with: those of its training and validation
    """

    night: Night
    registration: Registration
    maturity: Maturity
    references: Mapping[str, Reference]
    features: Mapping[str, Mapping[str, FeatureReference]]
    ranks: Mapping[str, Mapping[str, float | None]]

    @property
    def experiment(self) -> Experiment:
        """The night's."""
        return self.night.experiment

    @property
    def name(self) -> str:
        """The experiment's."""
        return self.experiment.name

    @property
    def metrics(self) -> list[str]:
        """Names of what is measured of each prediction, the outcome first."""
        return [OUTCOME, *self.experiment.guardrails]


class Reading(NamedTuple):
    """Mature predictions of some nights with their outcomes, condensed.

    Attributes
    ----------
    feeds : what the queries returned
    told : that condensed by night
    parts : as scores.summarise makes them
    exposures : candidate_id, variant, run_date and a column for each metric, of the predictions
        that verdicts count
    span : the nights, after the last closed one
    run_ids : who wrote each night
    n_read : rows that the database returned
    words : sentences on ids that look as if outcomes did not find their predictions, each with the
        newest night that it is about
    record : what came of all nights
    closed : the row of VERDICT_KEY, as it was before
    """

    feeds: Sequence[Feed]
    told: np.ndarray
    parts: dict[Key, Part]
    exposures: pd.DataFrame
    span: Span
    run_ids: set[tuple[date, str]]
    n_read: int
    words: list[tuple[date, str]]
    record: Record
    closed: corrections.Arrays


def close_final(question: Question, nights: Sequence[date]) -> Reading:
    """Close nights for good once no correction is waited for, and read those that stay open.

    Some cohorts are closed at a time, lest a first run hold them all in memory. A dry run closes
    none, nor does a night that is yet to come.

    Parameters
    ----------
    nights : all that have predictions, in order

    Returns
    -------
    Reading
        Of the mature nights that are open; n_read counts the rows of the others too.
    """
    night, experiment = question.night, question.experiment
    closed_date = night.read(scores.find_closed_date, question.name)
    tallies.remove_stale(night)
    newest, grace = question.maturity.mature_date or date.min, experiment.outcome.grace_days * DAY
    mature = [day for day in nights if closed_date < day <= newest]
    final = (
        [] if night.dry_run or night.is_early else [day for day in mature if day + grace <= newest]
    )
    n_read, seen = 0, night.read(verdicts.find_mature_date, question.name) or date.min
    for cohorts in _group_cohorts(question, final):
        reading = _read(question, cohorts, closed_date)
        # Of nights that were open at the look before it was told then.
        for last, words in reading.words:
            if last > seen:
                night.warn(words)
        if n_read:  # what was just written is not to be taken for a small table
            night.write(writing.analyze, tables.units)
        night.write(close_nights, question, reading)
        closed_date, n_read = cohorts[-1][-1], n_read + reading.n_read
    still_open = mature[len(final) :]
    reading = _read(question, [still_open] if still_open else [], closed_date)
    for _, words in reading.words:
        night.warn(words)
    return reading._replace(n_read=n_read + reading.n_read)


def _group_cohorts(question: Question, nights: list[date]) -> Iterator[list[list[date]]]:
    """Cohorts of nights, in order, as many at a time as have CLOSED_ROWS predictions together."""
    group: list[list[date]] = []
    n_rows, after, n_nights = 0, max(nights, default=date.min) + DAY, len(nights)
    sizes = question.night.read(predictions.read_sizes, question.name, after, n_nights)
    for members in outcomes.iterate_cohorts(nights, question.experiment.cohort):
        n_more = sum(sizes.get(member, 0) for member in members)
        if group and n_rows + n_more > CLOSED_ROWS:
            yield group
            group, n_rows = [], 0
        group.append(members)
        n_rows += n_more
    if group:
        yield group


def _read(question: Question, cohorts: Sequence[Sequence[date]], closed_date: date) -> Reading:
    """Pull what followed on some nights, and read the nights with it."""
    feeds = outcomes.pull_feeds(question.night, [*chain(*cohorts)])
    return question.night.read(read_nights, question, feeds, cohorts, closed_date)


def read_nights(
    connection: sa.Connection,
    question: Question,
    feeds: Sequence[Feed],
    cohorts: Sequence[Sequence[date]],
    closed_date: date,
) -> Reading:
    """Read mature predictions, a chunk at a time, with their outcomes, and keep what adds up.

    Parameters
    ----------
    feeds : of these nights
    cohorts : the nights, in order; ids are looked at in each part by itself
    closed_date : the last closed night before them, date.min if there is none

    Raises
    ------
    DatabaseError
        If predict wrote one of these nights, or one before them, meanwhile.
    DataError
        If ids of outcomes are those of predictions, written otherwise.
    """
    columns = ["candidate_id", "variant", "run_date", *question.metrics]
    nights = [*chain(*cohorts)]
    span = Span(question.name, closed_date, max(nights, default=closed_date))
    run_ids = predictions.find_run_ids(connection, span)
    _check_nights(question.name, nights, {night for night, _ in run_ids})
    start = pd.Timestamp(question.registration.start_date)
    experiment = question.experiment
    names = {
        pd.Timestamp(night): str(outcomes.find_cohort(night, experiment.cohort)) for night in nights
    }
    parts: dict[Key, Part] = {}
    exposures, n_read = [], sum(feed.n_rows for feed in feeds)
    for rows in predictions.stream_predictions(connection, span, experiment.environment.chunk_rows):
        outcomes.attach_all(rows, feeds, experiment.outcome.window_days)
        rows["cohort"] = rows["run_date"].map(names)
        parts = add_by_key(parts, scores.summarise(rows, question.references, N_BUCKETS))
        exposures.append(rows.loc[rows["run_date"] >= start, columns])
        n_read += len(rows)
    nothing = pd.DataFrame(columns=columns)
    counted = pd.concat(exposures, ignore_index=True) if exposures else nothing
    window_days = experiment.outcome.window_days
    told = corrections.condense(feeds, nights, window_days)
    replaced = predictions.read_replaced(connection, span)
    replaced = replaced[replaced["run_date"] >= start].reset_index(drop=True)
    outcomes.attach_all(replaced, feeds, window_days)
    new = doubts.make_record(
        feeds, told[:, :, 0], counted, replaced, nights, [*experiment.split], window_days
    )
    closed = scores.load(connection, question.name, VERDICT_KEY)
    record = doubts.join(doubts.unpack(closed), new)
    words = [
        (members[-1], told_)
        for members in cohorts
        for told_ in _check_ids(connection, feeds, counted, members, span, window_days)
    ]
    return Reading(feeds, told, parts, counted, span, run_ids, n_read, words, record, closed)


def _check_ids(
    connection: sa.Connection,
    feeds: Sequence[Feed],
    counted: pd.DataFrame,
    nights: Sequence[date],
    span: Span,
    window_days: int,
) -> Iterator[str]:
    """Sentences on ids of some of the nights that were read."""
    first, last = pd.Timestamp(nights[0]), pd.Timestamp(nights[-1])
    own = counted[counted["run_date"].between(first, last)]
    variants = own.drop_duplicates("candidate_id").set_index("candidate_id")["variant"]
    for feed in feeds:
        days = feed.events["event_date"]
        events = feed.events[(days >= first) & (days < last + window_days * DAY)]
        if words := doubts.check_ids(connection, feed._replace(events=events), variants, span):
            yield words


def _check_nights(experiment: str, nights: Sequence[date], written: set[date]) -> None:
    if gone := sorted(set(nights) - written):
        raise DataError(
            f"predictions of {experiment}: {len(gone)} nights that were predicted, such as"
            f" {gone[0]}, are no longer in the table. Restore them. Nights that are closed need not"
            " be there, unless with --rebuild."
        )
    if written != set(nights):
        raise _predicted_meanwhile(experiment)


def check_unchanged(connection: sa.Connection, reading: Reading) -> None:
    """Raise DatabaseError if a night was predicted again, or made up for, since it was read.

    Predict may run at the same time; it waits from here to the end of the transaction.
    """
    scores.lock_nights(connection, reading.span.experiment)
    _compare(connection, reading)


def _compare(connection: sa.Connection, reading: Reading) -> None:
    span = reading.span
    run_ids = predictions.find_run_ids(connection, span)
    closed_date = scores.find_closed_date(connection, span.experiment)
    if (run_ids, closed_date) != (reading.run_ids, span.after):
        raise _predicted_meanwhile(span.experiment)


@contextmanager
def noticing(night: Night, reading: Reading) -> Iterator[None]:
    """Tell why the block failed if a night was predicted again, as `check_unchanged` does.

    Sums that were dropped meanwhile do not fit what was read before.
    """
    try:
        yield
    except Exception:
        night.read(_compare, reading)
        raise


def _predicted_meanwhile(experiment: str) -> DatabaseError:
    return DatabaseError(
        f"a night of {experiment} was predicted while it was being scored. Nothing was lost; run"
        " score again."
    )


def has_other_cohorts(connection: sa.Connection, experiment: Experiment) -> bool:
    """Whether the closed sums are by week and the config now says month, or the other way round."""
    cohort = scores.load(connection, experiment.name, VERDICT_KEY).get("cohort")
    return cohort is not None and str(cohort) != experiment.cohort


def close_nights(connection: sa.Connection, question: Question, reading: Reading) -> None:
    """Add nights to the sums for good."""
    check_unchanged(connection, reading)
    total = sum_up(connection, question, reading)
    tally, units = total.tally, total.units
    if question.registration.assignment == "recorded":
        groups = _find_groups(connection, question, reading.span.last)
        evidence = sample_ratio.find_evidence(question.registration, groups)
        tally = replace(tally, evidence=tally.evidence + evidence)
    if question.registration.exposure == "first":  # who was counted before stays as he is
        units = units[total.n_earlier :]
    else:
        tallies.remove_units(connection, question.metrics, reading.span)
    tallies.write_units(connection, question.name, units)
    cohort = np.array(question.experiment.cohort)
    sums = {key: scores.pack(part) for key, part in total.parts.items()}
    record = doubts.pack(reading.record)
    sums[VERDICT_KEY] = {**tallies.pack(tally), **record, "cohort": cohort}
    nights = sorted({day for day, _ in reading.run_ids})
    start = 0
    for members in outcomes.iterate_cohorts(nights, question.experiment.cohort):
        told = reading.told[start : (start := start + len(members))]
        key = Key(str(outcomes.find_cohort(members[0], question.experiment.cohort)), "")
        new = corrections.make(question.night, members, told, reading.exposures, question.metrics)
        sums[key] = corrections.add(connection, question.name, key, new)
    scores.save(connection, question.night, sums, reading.span.last)


class Total(NamedTuple):
    """Closed sums and a reading together.

    Attributes
    ----------
    parts : those that the reading touches
    closed, tally : of the units of closed nights, and of all units
    units : those of the reading, the ones of closed nights first
    n_earlier : how many are of closed nights
    """

    parts: dict[Key, Part]
    closed: tallies.Tally
    tally: tallies.Tally
    units: pd.DataFrame
    n_earlier: int


def sum_up(connection: sa.Connection, question: Question, reading: Reading) -> Total:
    """The closed sums with a reading added; nothing is written."""
    name = question.name
    parts = add_by_key(scores.load_parts(connection, name, reading.parts), reading.parts)
    closed = tallies.unpack(reading.closed)
    earlier = tallies.read_units(connection, question.metrics, reading.span)
    units = tallies.add_exposures(earlier, reading.exposures, question.registration.exposure)
    tally = closed - tallies.count(earlier) + tallies.count(units)
    return Total(scores.rank_within(parts), closed, tally, units, len(earlier))


def measure(
    connection: sa.Connection, question: Question, reading: Reading, total: Total
) -> Figures:
    """Figures of all that has changed.

    That is of the parts that the open nights touch, and of what was closed since a run was done.
    """
    name, run_date, parts = question.name, question.night.run_date, total.parts
    n_waiting = _count_waiting(connection, question, Span(name, reading.span.last, run_date))
    written = scores.find_keys(connection, name)
    unpublished = {key for key, is_published in written.items() if not is_published and key.variant}
    counted = {Key(scores.ALL, variant) for variant in question.experiment.split}
    changed = counted | n_waiting.keys() | parts.keys() | unpublished
    keys = {key for key in written.keys() | changed if key.variant}
    # What the last run counted beyond the closed nights is gone if its nights were predicted again,
    # or the feed took days back.
    published = scores.find_published(connection, name, run_date)
    models, variants = [], []
    for key in sorted(key for key in keys if key in changed or key.of_figures in published):
        part = parts.get(key) or scores.load_parts(connection, name, [key]).get(key)
        if key not in changed and part and part.counts[0] == published[key.of_figures]:
            continue
        if not key.model_name:
            variants.append(scores.measure_variant(key, part, n_waiting[key]))
        elif part:
            models += scores.measure_model(key, part, question.references.get(key.model_name))
    cohorts = sorted({key.cohort for key in changed} - {scores.ALL})
    rows = {
        tables.scores: models,
        tables.variant_scores: variants,
        tables.feature_drift: _measure_drift(connection, question, cohorts),
    }
    return Figures(rows, keys)


def find_falls(connection: sa.Connection, question: Question, figures: Figures) -> list[str]:
    """Sentences on models that rank far worse than in validation, the first time for each.

    That is in some cohort, or in all, and hardly by chance.
    """
    c, names = tables.scores.c, ("model_name", "value", "lower", "upper")
    query = sa.select(*(c[name] for name in names)).filter_by(experiment=question.name)
    written = connection.execute(query.where(c.metric == ROC_AUC)).all()
    earlier = {row.model_name for row in written if _is_fall(question, row._asdict())}
    found: dict[str, dict[str, Any]] = {}
    for row in figures.rows[tables.scores]:
        name = row["model_name"]
        if row["metric"] == ROC_AUC and name not in earlier and _is_fall(question, row):
            worst = found.setdefault(name, row)
            found[name] = min(worst, row, key=lambda row: row["upper"])
    return [
        _describe_fall(row, Metric.from_dict(question.ranks[name])) for name, row in found.items()
    ]


def _is_fall(question: Question, row: Mapping[str, Any]) -> bool:
    before, names = question.ranks.get(row["model_name"], {}), ("value", "lower", "upper")
    figures = [figure.get(name) for figure in (before, row) for name in names]
    usual, usual_lower, usual_upper, value, lower, upper = np.array(figures, dtype=float)
    noise = np.hypot(usual_upper - usual_lower, upper - lower) / 2 / Z_INTERVAL
    fall = usual - value  # nan if one is not known, as the noise is
    return bool(fall >= MUCH_LOWER and fall >= Z_FALL * noise)


def _describe_fall(row: Mapping[str, Any], before: Metric) -> str:
    of = "in all nights" if row["cohort"] == scores.ALL else f"in the cohort of {row['cohort']}"
    what = "worse than chance" if row["upper"] < CHANCE else "far worse than in validation"
    return (
        f"{row['model_name']} ranks {what}: ROC AUC {row['value']:.3f} ({row['lower']:.3f} to"
        f" {row['upper']:.3f}) of {row['n']:,} mature predictions {of}; in validation"
        f" {before.value:.3f} ({before.lower:.3f} to {before.upper:.3f}). Look whether the"
        " candidates query brings each feature to the right candidate and day, as the training"
        " query does, and the outcomes query each outcome, and whether 1 means the same in both"
        " outcomes. (What is done with those who are selected may lower it, too.)"
    )


def _count_waiting(connection: sa.Connection, question: Question, span: Span) -> Counter[Key]:
    """Predictions of the nights that are not mature, by cohort and variant."""
    n_waiting: Counter[Key] = Counter()
    for (night, variant), n in predictions.count_by_night(connection, span).items():
        cohort = outcomes.find_cohort(night, question.experiment.cohort)
        n_waiting[Key(str(cohort), variant)] += n
        n_waiting[Key(scores.ALL, variant)] += n
    return n_waiting


def _measure_drift(
    connection: sa.Connection, question: Question, cohorts: Sequence[str]
) -> list[dict[str, Any]]:
    rows = []
    for cohort in cohorts:
        first = date.fromisoformat(cohort)
        last = outcomes.find_last_day(first, question.experiment.cohort)
        last = min(last, question.night.run_date)
        models = predictions.read_feature_counts(connection, question.name, first, last)
        for model_name, counts in models.items():
            features = question.features.get(model_name, {})
            for feature in drift.measure_features(features, counts):
                row = {"model_name": model_name, "cohort": cohort, **feature._asdict()}
                if np.isnan(feature.psi):
                    row["psi"] = row["psi_noise"] = None
                names = [f"{name} ({n})" for name, n in feature.new_categories]
                row["n"] = row.pop("n_obs")
                row["new_categories"] = ", ".join(names) or None
                rows.append(row)
    return rows


def find_doubts(
    connection: sa.Connection, question: Question, reading: Reading, total: Total
) -> list[Doubt]:
    """Nights whose outcomes are unlike those of the nights before."""
    experiment, tally = question.experiment, total.tally
    n = sum(
        figures[:, doubt_rules.N].sum()
        for (name, _), figures in reading.record.figures.items()
        if name == OUTCOME
    )
    times = n / max(1, sum(tally.n_distinct.values()))
    return doubts.find_doubts(
        reading.record,
        outcomes.find_metrics(experiment),
        question.registration.plan,
        min(max(1.0, times), experiment.outcome.window_days),
        records.read_acknowledged(connection, question.name),
        records.read_doubts(connection, question.name),
    )


def tell_doubts(
    question: Question, reading: Reading, found: Sequence[Doubt], *, is_rebuilt: bool
) -> None:
    """Warn of nights that are doubted now, with an id that finds nobody if ids may be the cause.

    After a rebuild of all that are. And say so where nothing is doubted any more.
    """
    night = question.night
    before = night.read(records.read_doubts, question.name)
    if before and not found:
        night.warn("no night is doubted any more")
    for doubt in doubts.find_news(reading.record, found, [] if is_rebuilt else before):
        stranger = None
        if doubt.kind in doubt_rules.OF_IDS:
            days = [date.fromordinal(int(doubt.nights[-1]))]
            feeds = {feed.name: feed for feed in outcomes.pull_feeds(night, days)}
            stranger = night.read(doubts.find_stranger, feeds[doubt.metric], question.name)
        example = f" An id of it that was never predicted is {stranger!r}." if stranger else ""
        night.warn(
            f"{doubt.words}{example} If it is right as it is: python -m abatch acknowledge"
            f" {question.name} --reason '...'"
        )


def judge(
    connection: sa.Connection,
    question: Question,
    reading: Reading,
    total: Total,
    figures: Figures,
    found: Sequence[Doubt],
) -> verdicts.Look:
    """Count what the look saw, and judge it by what was registered; nothing is written."""
    name, registration, run_date = question.name, question.registration, question.night.run_date
    maturity, tally = question.maturity, total.tally
    mature_date = maturity.mature_date or date.min
    is_simple = registration.exposure == "first" and registration.assignment == "hash"
    new_after = mature_date if is_simple else None  # no others are counted
    groups = _find_groups(connection, question, run_date, new_after)
    arrivals = sample_ratio.count_arrivals(registration, total.closed, tally, groups, mature_date)
    whole = [row for row in figures.rows[tables.variant_scores] if row["cohort"] == scores.ALL]
    units = [sums for (metric, _), sums in tally.moments.items() if metric == OUTCOME]
    shift = stats.measure_shift(tally.mixed, units)
    doubted = [doubts.describe(found)]
    if unbalanced := sample_ratio.find_unbalanced(connection, registration, mature_date):
        nights = list_days(unbalanced, None)
        doubted.append(f"variants of {nights}, which {sample_ratio.UNBALANCED} (runs.warnings)")
    if scaled := describe_scale(registration, units):
        doubted.append(scaled)
    if _is_shift(tally.n_mixed, shift, question.experiment.outcome.expected_effect):
        doubted.append(f"{tally.n_mixed:,} candidates who changed variant, unlike the others")
    row = {
        **maturity._asdict(),
        "n_predicted": sum(row["n_predicted"] for row in whole),
        "n_mature": sum(row["n_mature"] for row in whole),
        "n_units": int(sum(sums.n_units for sums in units)),
        "n_mixed": tally.n_mixed,
        "mixed_shift": None if np.isnan(shift) else shift,
        "outcomes_as_of": corrections.find_date(connection, name),
        "doubts": "; ".join(filter(None, doubted)) or None,
    }
    smallest = verdicts.find_smallest(connection, name, run_date)
    return verdicts.make_look(row, registration, tally, arrivals, smallest)


def describe_scale(registration: Registration, units: Sequence[stats.Moments]) -> str | None:
    """A sentence if amounts spread otherwise than was planned, as in another unit.

    Once they are as many as show their spread, rare large ones too.
    """
    plan, known = registration.plan, sum(units, stats.Moments())
    if registration.outcome.kind == "binary" or not plan.sd or known.n_nonzero < N_AMOUNTS:
        return None
    if known.n_units < stats.find_burn_in(plan.kurtosis or 0):
        return None
    variance = known.sum_yy / known.n_units - (known.sum_y / known.n_units) ** 2
    sd = np.sqrt(max(variance, 0.0)) * known.n_units / known.sum_n  # of one exposure, about
    if 1 / MANY_TIMES < sd / plan.sd < MANY_TIMES:
        return None
    return f"{SCALED}: they spread by {sd:,.4g} (sd), by {plan.source} it would be {plan.sd:,.4g}"


def _find_groups(
    connection: sa.Connection, question: Question, last: date, new_after: date | None = None
) -> pd.DataFrame:
    """Candidates of the nights from the last closed one to `last`; see `find_groups`."""
    closed_date = scores.find_closed_date(connection, question.name)
    after = max(closed_date, question.registration.start_date - DAY)
    span = Span(question.name, after, last)
    are_closed = closed_date > date.min
    return sample_ratio.find_groups(connection, span, are_closed=are_closed, new_after=new_after)


def write(
    connection: sa.Connection,
    night: Night,
    reading: Reading,
    figures: Figures,
    look: verdicts.Look,
    found: Sequence[Doubt],
) -> None:
    """Write the look and all its figures, unless a night was predicted again since the reading.

    Of a night that is yet to come the look alone: other figures are those of the newest run.

    Raises
    ------
    DatabaseError
        If some of the rows are not there once all are written.
    """
    check_unchanged(connection, reading)
    written = {tables.looks: 1, tables.doubts: len(found)}
    written |= {tables.verdicts: len(look.verdicts), tables.sample_ratios: len(look.ratios)}
    if not night.is_early:
        written |= {table: len(rows) for table, rows in figures.rows.items()}
        scores.write_figures(connection, night, figures)
        scores.mark_published(connection, night)
    verdicts.write_look(connection, night, look)
    doubts.write(connection, night, found)
    _require_rows(connection, night, written)


def _require_rows(connection: sa.Connection, night: Night, written: Mapping[sa.Table, int]) -> None:
    """Raise DatabaseError unless each table has as many rows of the run as were written."""
    for table, n_sent in written.items():
        own = sa.select(sa.func.count()).select_from(table).filter_by(run_id=night.run_id)
        n_arrived = connection.scalar(own.filter_by(experiment=night.experiment.name))
        if n_arrived != n_sent:
            raise DatabaseError(
                f"{n_sent} rows were sent to {table.name} and {n_arrived} arrived. Nothing was"
                " published. Look for a trigger on the table, then score again."
            )


def describe(look: verdicts.Look, n_nights: int, shown: str | None) -> str:
    """The look as one line; `shown` is what else there is to see of it."""
    complete = f"outcomes complete to {look.row['watermark'] or 'no date yet'}"
    mature = f"{look.row['n_mature']} mature predictions of {n_nights} nights ({complete})"
    changed = look.row["outcomes_as_of"]
    as_of = f"outcomes that have changed since count as of {changed}" if changed else None
    doubted = f"doubted are {look.row['doubts']}" if look.row["doubts"] else None
    said = [mature, shown, verdicts.describe(look.verdicts), as_of, doubted]
    return "; ".join(filter(None, said))


def tell_news(
    night: Night,
    look: verdicts.Look,
    before: Mapping[tuple[str, str], str],
    falls: Sequence[str],
) -> None:
    """Warn of words that are new, and ask for a decision; `find_words` tells those of before."""
    if not night.dry_run:
        last = night.read(_find_last, night)
        news = [*verdicts.describe_news(look, before), *falls]
        for words in [*news, _tell_scale(night, look, last), _tell_mixed(night, look, last)]:
            if words:
                night.warn(words)


def _find_last(connection: sa.Connection, night: Night) -> Row | None:
    """The look before."""
    c = tables.looks.c
    earlier = sa.select(tables.looks).filter_by(experiment=night.experiment.name)
    earlier = earlier.where(c.run_date < night.run_date).order_by(c.run_date.desc())
    return connection.execute(earlier.limit(1)).first()


def _tell_scale(night: Night, look: verdicts.Look, last: Row | None) -> str | None:
    """A sentence on amounts of another unit than planned, the first time."""
    scaled = [part for part in (look.row["doubts"] or "").split("; ") if SCALED in part]
    if not scaled or (last and SCALED in (last.doubts or "")):
        return None
    return (
        f"{night.experiment.query('outcomes').file}: {scaled[0]}. If they"
        " are in another unit than those that the training query returns, or than baseline_sd and"
        " expected_effect in the config, sample and verdicts mean nothing: ask anew, under a new"
        " name, with one unit."
    )


def _tell_mixed(night: Night, look: verdicts.Look, last: Row | None) -> str | None:
    """A sentence on candidates who change variant, the first time that they matter."""
    n_mixed, n_units, shift = (look.row[name] for name in ("n_mixed", "n_units", "mixed_shift"))
    effect = night.experiment.outcome.expected_effect
    if last and _do_matter(last.n_mixed, last.n_units, last.mixed_shift, effect):
        return None
    if not _do_matter(n_mixed, n_units, shift, effect):
        return None
    unlike = (
        f" Their outcomes are unlike those of the others: in the smallest variant they would move"
        f" the mean by {shift:+.3g}."
        if shift
        else ""
    )
    return (
        f"{n_mixed:,} of {n_mixed + n_units:,} candidates with a known outcome were in more than"
        f" one variant and are left out of the verdicts, which hold for the others alone.{unlike}"
        " Let the candidates query return one variant for each candidate, always the same."
    )


def _do_matter(n_mixed: int, n_units: int, shift: float | None, effect: float) -> bool:
    """Whether those who are left out are many, or so unlike the others that it can be an effect."""
    are_many = n_mixed > doubt_rules.N_TELLING and n_mixed > MANY_MIXED * (n_mixed + n_units)
    return are_many or _is_shift(n_mixed, shift, effect)


def _is_shift(n_mixed: int, shift: float | None, effect: float) -> bool:
    return n_mixed > doubt_rules.N_TELLING and abs(shift or 0) > SMALL_SHIFT * abs(effect)
