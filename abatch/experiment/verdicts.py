"""Verdicts: what an experiment says today, from sums over its units, the candidates.

The formulas are those of abatch.statistics.stats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import date
from math import nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.database.tables import looks, predictions, sample_ratios, units, verdicts
from abatch.database.writing import insert_frame, replace_rows
from abatch.experiment.predictions import Span
from abatch.experiment.records import name_verdict
from abatch.experiment.registrations import OUTCOME, Comparison, Registration, Terms
from abatch.night import Night
from abatch.statistics import stats, words
from abatch.statistics.sums import add_by_key, subtract_by_key

ASSIGNED, MATURE, EXPOSURES = "assigned", "mature", "exposures"  # stages of the sample ratio
UNIT = ["candidate_id", "variant"]
UNIT_COLUMNS = [*UNIT, "n_exposures"]  # and one for each metric


@dataclass(frozen=True)
class Tally:
    """All that verdicts need to know of the units so far.

    Tallies of other candidates add up with +; - takes out what is a part.

    Attributes
    ----------
    moments : by metric and variant, of the candidates that were in one variant only
    n_distinct : by variant, the others included
    n_mixed : candidates that were in more than one variant, and are left out
    exposures : by variant, y being how often each candidate came, and n 1; the others included
    evidence : of the closed nights, as `find_evidence` has it
    """

    moments: dict[tuple[str, str], stats.Moments]
    n_distinct: dict[str, int]
    n_mixed: int
    exposures: dict[str, stats.Moments] = field(default_factory=dict)
    evidence: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            add_by_key(self.moments, other.moments),
            add_by_key(self.n_distinct, other.n_distinct),
            self.n_mixed + other.n_mixed,
            add_by_key(self.exposures, other.exposures),
            self.evidence + other.evidence,
        )

    def __sub__(self, other: "Tally") -> "Tally":
        return Tally(
            subtract_by_key(self.moments, other.moments),
            subtract_by_key(self.n_distinct, other.n_distinct),
            self.n_mixed - other.n_mixed,
            subtract_by_key(self.exposures, other.exposures),
            self.evidence - other.evidence,
        )


def add_exposures(earlier: pd.DataFrame, exposures: pd.DataFrame, exposure: str) -> pd.DataFrame:
    """What candidates brought once more of their predictions are mature.

    Parameters
    ----------
    earlier : candidate_id, variant, n_exposures and a column for each metric; one row per candidate
        and variant
    exposures : candidate_id, variant, run_date and the same metrics; one row per mature prediction
        later than those
    exposure : first (only the first of each candidate and variant counts) or all

    Returns
    -------
    DataFrame with the columns of `earlier`
    """
    new = exposures.sort_values("run_date", kind="stable").assign(n_exposures=1)[earlier.columns]
    both = pd.concat([earlier, new], ignore_index=True) if len(earlier) else new
    if exposure == "first":
        return both.drop_duplicates(UNIT, ignore_index=True)
    return both.groupby(UNIT, as_index=False, sort=False).sum()[earlier.columns]


def count(frame: pd.DataFrame) -> Tally:
    """Sum up units, whose frame is as in `add_exposures`."""
    mixed = frame["candidate_id"].duplicated(keep=False)
    moments = {}
    for variant, rows in frame[~mixed].groupby("variant"):
        n = rows["n_exposures"].to_numpy()
        for metric in frame.columns.drop(UNIT_COLUMNS):
            moments[metric, str(variant)] = stats.compute_moments(n, rows[metric].to_numpy())
    n_distinct = frame["variant"].value_counts().to_dict()
    exposures = {
        str(variant): stats.compute_moments(np.ones(len(rows)), rows.to_numpy())
        for variant, rows in frame.groupby("variant")["n_exposures"]
    }
    return Tally(moments, n_distinct, frame.loc[mixed, "candidate_id"].nunique(), exposures)


def pack(tally: Tally) -> dict[str, np.ndarray]:
    """As arrays by name, to be stored."""
    moments = {
        f"moments.{metric}.{variant}": np.array(astuple(sums))
        for (metric, variant), sums in tally.moments.items()
    }
    n_distinct = {f"n_distinct.{variant}": np.array(n) for variant, n in tally.n_distinct.items()}
    exposures = {
        f"exposures.{variant}": np.array(astuple(sums)) for variant, sums in tally.exposures.items()
    }
    rest = {"n_mixed": np.array(tally.n_mixed), "evidence": np.array(tally.evidence)}
    return {**moments, **n_distinct, **exposures, **rest}


def unpack(arrays: Mapping[str, np.ndarray]) -> Tally:
    """The inverse of `pack`; nothing counted if there are no arrays."""
    moments, n_distinct, exposures = {}, {}, {}
    for name, array in arrays.items():
        kind, *key = name.split(".")
        if kind == "moments":
            moments[key[0], key[1]] = stats.Moments(*array.tolist())
        elif kind == "n_distinct":
            n_distinct[key[0]] = int(array)
        elif kind == "exposures":
            exposures[key[0]] = stats.Moments(*array.tolist())
    n_mixed, evidence = int(arrays.get("n_mixed", 0)), float(arrays.get("evidence", 0.0))
    return Tally(moments, n_distinct, n_mixed, exposures, evidence)


class Criterion(NamedTuple):
    """What a metric of a comparison is judged by.

    Attributes
    ----------
    metric : outcome, or the guardrail's name
    effect : that matters; its sign says what is good
    alpha : of this verdict
    kurtosis : the least to reckon with, as registered; nan if none is
    """

    metric: str
    kind: str
    effect: float
    alpha: float
    kurtosis: float


def list_criteria(terms: Registration) -> list[Criterion]:
    """Those of the outcome and of each guardrail.

    A guardrail is a question of its own: whether it is kept says nothing for or against the
    outcome. No correction.
    """
    outcome, alpha = terms.outcome, terms.alpha / max(1, len(terms.comparisons))
    signs = {"increase": 1, "decrease": -1}
    return [
        Criterion(
            OUTCOME, outcome.kind, outcome.expected_effect, alpha, terms.plan.kurtosis or nan
        ),
        *(
            Criterion(name, rule.kind, signs[rule.direction] * rule.margin, terms.alpha, nan)
            for name, rule in terms.guardrails.items()
        ),
    ]


def judge(terms: Registration, tally: Tally, is_invalid: bool) -> list[dict[str, Any]]:
    """One row for each registered comparison and metric, as the table `verdicts` has them.

    Parameters
    ----------
    is_invalid : whether the sample ratio forbids a verdict
    """
    return [
        {"comparison": comparison.name, "metric": criterion.metric}
        | _compare(comparison, criterion, terms.exposure, tally, is_invalid)
        for comparison in terms.comparisons
        for criterion in list_criteria(terms)
    ]


def _compare(
    comparison: Comparison, criterion: Criterion, exposure: str, tally: Tally, is_invalid: bool
) -> dict[str, Any]:
    metric, kind, effect, alpha, least_kurtosis = criterion
    sides = [
        [tally.moments.get((metric, variant), stats.Moments()) for variant in variants]
        for variants in (comparison.treatment, comparison.control)
    ]
    treatment, control = (sum(side, stats.Moments()) for side in sides)
    n_least = stats.MIN_UNITS
    if kind == "numeric" or exposure == "all":
        kurtosis = stats.measure_kurtosis([treatment, control])
        n_least = int(stats.find_burn_in(np.fmax(kurtosis, least_kurtosis)))
    variants = [moments for side in sides for moments in side]
    is_early = not all(stats.is_burnt_in(moments, kind, n_least) for moments in variants)
    mean = stats.estimate_mean(treatment, kind, exposure)
    mean_control = stats.estimate_mean(control, kind, exposure)
    difference = stats.compare(mean, mean_control, abs(effect), alpha)
    lift = stats.compute_lift(mean, mean_control, difference.multiplier)
    figures = difference._asdict() | lift._asdict()
    del figures["multiplier"]
    if is_early:  # an interval would promise more than it can hold
        figures |= dict.fromkeys(figures.keys() - {"estimate", "se"}, np.nan)
    if is_invalid:
        word = words.INVALID
    elif is_early:
        word = words.TOO_EARLY
    elif metric == OUTCOME:
        word = stats.choose_word(difference, effect)
    else:
        word = stats.choose_guardrail_word(difference, effect)
    return {
        "n_treatment": int(treatment.n_units),
        "n_control": int(control.n_units),
        "n_burn_in": n_least,
        "exposures_treatment": int(treatment.sum_n),
        "exposures_control": int(control.sum_n),
        "sum_treatment": treatment.sum_y,
        "sum_control": control.sum_y,
        **{name: float(value) if np.isfinite(value) else None for name, value in figures.items()},
        "word": word,
    }


class Arrivals(NamedTuple):
    """How candidates came, for the sample ratio.

    Attributes
    ----------
    n_assigned, n_mature : distinct candidates by variant, of all nights and of the mature ones
    exposures : of all nights, as `Tally` has them; None where only the first counts
    evidence : of all nights, as `find_evidence` has it; None where the hash assigns
    """

    n_assigned: Mapping[str, int]
    n_mature: Mapping[str, int]
    exposures: Mapping[str, stats.Moments] | None = None
    evidence: float | None = None


def find_groups(connection: sa.Connection, span: Span) -> pd.DataFrame:
    """Candidates of nights that are not closed, by what is known of them.

    It costs what these nights hold: who was there before is looked up in `units`.

    Returns
    -------
    DataFrame
        A row for each group: variant; first_date, the first of these nights in which they came in
        this variant; n, how often they did; n_before, the same of the closed nights, nan if never;
        n_units, how many they are.
    """
    p, u = predictions.c, units.c
    first = sa.func.min(p.run_date).label("first_date")
    of_unit = span.select(p.variant, p.candidate_id, first, sa.func.count().label("n"))
    by_unit = of_unit.group_by(p.variant, p.candidate_id).subquery()
    is_same = (u.candidate_id == by_unit.c.candidate_id) & (u.variant == by_unit.c.variant)
    is_same &= (u.experiment == span.experiment) & (u.metric == OUTCOME)
    by = [by_unit.c.variant, by_unit.c.first_date, by_unit.c.n, u.n_exposures]
    query = sa.select(*by, sa.func.count()).select_from(by_unit.outerjoin(units, is_same))
    rows = map(tuple, connection.execute(query.group_by(*by)))
    frame = pd.DataFrame.from_records(
        rows, columns=["variant", "first_date", "n", "n_before", "n_units"]
    )
    return frame.astype({"n": float, "n_before": float, "n_units": float})


def find_evidence(terms: Registration, groups: pd.DataFrame) -> float:
    """Of each night's new candidates, that they do not come in the registered shares; added up.

    Shares that somebody else keeps may change from night to night and be right on the whole.
    """
    names = [variant.name for variant in terms.variants]
    shares = np.array([variant.share for variant in terms.variants])
    new = groups[groups["n_before"].isna()]
    nights = new.pivot_table("n_units", "first_date", "variant", "sum", fill_value=0)
    counts = nights.reindex(columns=names, fill_value=0).to_numpy(np.float64)
    prior = terms.sample_ratio.night_weight * shares
    return float(np.sum(stats.log_bayes_factor(counts, shares, prior)))


def count_arrivals(
    terms: Registration, closed: Tally, tally: Tally, groups: pd.DataFrame, mature_date: date
) -> Arrivals:
    """How candidates came in the closed nights, and in the others.

    Parameters
    ----------
    closed, tally : of the closed nights, and of all mature ones
    groups : of the nights that are not closed, as `find_groups` has them
    """
    late = groups[groups["n_before"].isna() & (groups["first_date"] > mature_date)]
    newcomers = late.groupby("variant")["n_units"].sum().astype(int).to_dict()
    exposures = None
    if terms.exposure == "all":
        old = groups.dropna()
        now = groups.assign(n=groups["n"] + groups["n_before"].fillna(0))
        exposures = subtract_by_key(closed.exposures, _count_exposures(old, "n_before"))
        exposures = add_by_key(exposures, _count_exposures(now, "n"))
    evidence = None
    if terms.assignment == "recorded":
        evidence = closed.evidence + find_evidence(terms, groups)
    n_assigned = add_by_key(tally.n_distinct, newcomers)
    return Arrivals(n_assigned, tally.n_distinct, exposures, evidence)


def _count_exposures(groups: pd.DataFrame, column: str) -> dict[str, stats.Moments]:
    return {
        str(variant): stats.compute_moments(
            np.ones(len(rows)), rows[column].to_numpy(), rows["n_units"].to_numpy()
        )
        for variant, rows in groups.groupby("variant")
    }


def check_ratios(
    terms: Terms, arrivals: Arrivals, smallest: Mapping[tuple[str, ...], float]
) -> list[dict[str, Any]]:
    """One row per stage and variant, as the table `sample_ratios` has them.

    `smallest` is as `find_smallest` returns it.
    """
    rule, names = terms.sample_ratio, [variant.name for variant in terms.variants]
    shares = np.array([variant.share for variant in terms.variants])
    stages = {}
    counts = {ASSIGNED: arrivals.n_assigned, MATURE: arrivals.n_mature}
    for stage, sizes in counts.items():
        n = np.array([sizes.get(name, 0) for name in names])
        evidence = arrivals.evidence if stage == ASSIGNED else None
        stages[stage] = n, n.sum() * shares, stats.check_shares(n, shares, rule.weight, evidence)
    if arrivals.exposures is not None:
        moments = [arrivals.exposures.get(name, stats.Moments()) for name in names]
        n, n_units = (np.array([getattr(m, of) for m in moments]) for of in ("sum_y", "n_units"))
        test = stats.check_exposures(moments, rule.exposures_effect, rule.alpha)
        stages[EXPOSURES] = n, n_units * n.sum() / max(n_units.sum(), 1), test
    return [
        {
            "stage": stage,
            "variant": name,
            "n": int(size),
            "expected": float(expected),
            "pvalue": test.pvalue,
            "pvalue_min": min(test.pvalue, smallest.get((stage,), 1.0)),
            "pvalue_single": test.pvalue_single if np.isfinite(test.pvalue_single) else None,
        }
        for stage, (sizes, by_share, test) in stages.items()
        for name, size, expected in zip(names, sizes, by_share, strict=True)
    ]


class Look(NamedTuple):
    """One day's look, before it is written.

    Attributes
    ----------
    row, ratios, verdicts : of `looks`, `sample_ratios` and `verdicts`, without experiment, day and
        run_id
    """

    row: dict[str, Any]
    ratios: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]


def make_look(
    row: dict[str, Any],
    terms: Registration,
    tally: Tally,
    arrivals: Arrivals,
    smallest: Mapping[tuple[str, ...], float],
) -> Look:
    """Judge what a look counted; an alarm of the sample ratio at any look forbids its verdicts."""
    ratios = check_ratios(terms, arrivals, smallest)
    is_invalid = any(ratio["pvalue_min"] < terms.sample_ratio.alpha for ratio in ratios)
    rows = judge(terms, tally, is_invalid)
    for verdict in rows:
        earlier = smallest.get((verdict["comparison"], verdict["metric"]))
        pvalues = [pvalue for pvalue in (verdict["pvalue"], earlier) if pvalue is not None]
        verdict["pvalue_min"] = min(pvalues, default=None)
    return Look(row, ratios, rows)


def read_units(connection: sa.Connection, metrics: Sequence[str], span: Span) -> pd.DataFrame:
    """What is known of the candidates predicted in some nights, as in `add_exposures`.

    In one order, so that their sums are the same to the last bit, whatever the database.
    """
    c = units.c
    by = [c[name] for name in UNIT_COLUMNS]
    outcomes = [sa.func.max(sa.case((c.metric == metric, c.outcome))) for metric in metrics]
    query = sa.select(*by, *outcomes).where(_was_predicted(span)).group_by(*by).order_by(*by)
    rows = map(tuple, connection.execute(query))
    return pd.DataFrame.from_records(rows, columns=[*UNIT_COLUMNS, *metrics])


def remove_units(connection: sa.Connection, span: Span) -> None:
    """Remove what was known of all candidates predicted in some nights."""
    connection.execute(units.delete().where(_was_predicted(span)))


def write_units(connection: sa.Connection, experiment: str, frame: pd.DataFrame) -> None:
    """Write what is known of candidates, as in `add_exposures`."""
    common = frame[UNIT_COLUMNS].assign(experiment=experiment)
    for metric in frame.columns.difference(UNIT_COLUMNS, sort=False):
        insert_frame(connection, units, common.assign(metric=metric, outcome=frame[metric]))


def _was_predicted(span: Span) -> sa.ColumnElement[bool]:
    ids = span.select(predictions.c.candidate_id)
    return (units.c.experiment == span.experiment) & units.c.candidate_id.in_(ids)


def write_look(connection: sa.Connection, night: Night, look: Look) -> None:
    """Write one look in the place of that of the same date, if there is one."""
    tables = {looks: [look.row], sample_ratios: look.ratios, verdicts: look.verdicts}
    for table, rows in tables.items():
        replace_rows(connection, table, rows, night.run_id, **night.key)


def find_smallest(
    connection: sa.Connection, experiment: str, run_date: date
) -> dict[tuple[str, ...], float]:
    """The smallest p-values of all looks until a day, its own included, which may be replaced.

    By stage, and by comparison and metric.
    """
    smallest: dict[tuple[str, ...], float] = {}
    for table, names in ((sample_ratios, ["stage"]), (verdicts, ["comparison", "metric"])):
        columns = [table.c[name] for name in names]
        query = sa.select(*columns, sa.func.min(table.c.pvalue)).filter_by(experiment=experiment)
        query = query.where(table.c.run_date <= run_date, table.c.pvalue.is_not(None))
        for *key, pvalue in connection.execute(query.group_by(*columns)):
            smallest[*key] = pvalue
    return smallest


def find_words(
    connection: sa.Connection, experiment: str, before: date
) -> dict[tuple[str, str], str]:
    """The words of the newest look before a day, by comparison and metric.

    Empty if there is none.
    """
    c = verdicts.c
    earlier = sa.select(sa.func.max(c.run_date)).where(c.run_date < before)
    newest = earlier.filter_by(experiment=experiment).scalar_subquery()
    query = sa.select(c.comparison, c.metric, c.word)
    rows = connection.execute(query.filter_by(experiment=experiment, run_date=newest))
    return {(comparison, metric): word for comparison, metric, word in rows}


def describe(rows: Sequence[Mapping[str, Any]]) -> str:
    """Verdicts as one line."""
    named = [f"{name_verdict(row)}: {row['word']}" for row in rows]
    return "; ".join(named) or "nothing is compared"


def describe_news(look: Look, before: Mapping[tuple[str, str], str]) -> list[str]:
    """What somebody should know of today: words that are new, and ask for a decision.

    Parameters
    ----------
    before : what `find_words` returned
    """
    cause, news = _describe_sizes(look.ratios), []
    for row in look.verdicts:
        word, old = row["word"], before.get((row["comparison"], row["metric"]), words.TOO_EARLY)
        if word not in (old, words.TOO_EARLY, words.NOT_YET, words.KEPT):
            why = f"; {cause}" if word == words.INVALID and cause else ""
            news.append(f"{name_verdict(row)}: {word} (before: {old}){why}; see the report")
    return news


def _describe_sizes(ratios: Sequence[Mapping[str, Any]]) -> str:
    """Which variant is most above its share, and which most below, in the stage that is most off.

    Where the sums are right, shares were wrong in single nights, or at an earlier look. Empty
    without rows.
    """
    if not ratios:
        return ""
    stage = min(ratios, key=lambda row: row["pvalue_min"])["stage"]
    surplus = {
        row["variant"]: row["n"] - row["expected"] for row in ratios if row["stage"] == stage
    }
    over, short = max(surplus, key=surplus.__getitem__), min(surplus, key=surplus.__getitem__)
    counted = "predictions" if stage == EXPOSURES else "candidates"
    single = next(row["pvalue_single"] for row in ratios if row["stage"] == stage)
    if single is not None and single > stats.SRM_ALPHA:
        return (
            f"in all the variants have as many {counted} as chance allows, but their shares change"
            f" from night to night ({stage})"
        )
    return (
        f"{short} lacks {-surplus[short]:,.0f} {counted} and {over} has {surplus[over]:,.0f} too"
        f" many ({stage})"
    )
