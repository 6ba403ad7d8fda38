"""Verdicts: what an experiment says today, from sums over its units, the candidates.

The formulas are those of abatch.statistics.stats.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from math import nan
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from abatch.database.tables import looks, sample_ratios, verdicts
from abatch.database.writing import replace_rows
from abatch.experiment import sample_ratio
from abatch.experiment.records import name_verdict
from abatch.experiment.registrations import OUTCOME, Comparison, Registration
from abatch.experiment.tallies import Tally
from abatch.night import Night
from abatch.statistics import stats, words


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
    arrivals: sample_ratio.Arrivals,
    smallest: Mapping[tuple[str, ...], float],
) -> Look:
    """Judge what a look counted; an alarm of the sample ratio at any look forbids its verdicts."""
    ratios = sample_ratio.check_ratios(terms, arrivals, smallest)
    is_invalid = any(ratio["pvalue_min"] < terms.sample_ratio.alpha for ratio in ratios)
    rows = judge(terms, tally, is_invalid)
    for verdict in rows:
        earlier = smallest.get((verdict["comparison"], verdict["metric"]))
        pvalues = [pvalue for pvalue in (verdict["pvalue"], earlier) if pvalue is not None]
        verdict["pvalue_min"] = min(pvalues, default=None)
    return Look(row, ratios, rows)


def write_look(connection: sa.Connection, night: Night, look: Look) -> None:
    """Write one look in the place of that of the same date, if there is one."""
    tables = {looks: [look.row], sample_ratios: look.ratios, verdicts: look.verdicts}
    for table, rows in tables.items():
        replace_rows(connection, table, rows, night.run_id, **night.key)


def find_mature_date(connection: sa.Connection, experiment: str) -> date | None:
    """The newest night whose outcomes any look saw; None if none did."""
    return connection.scalar(
        sa.select(sa.func.max(looks.c.mature_date)).filter_by(experiment=experiment)
    )


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
    cause, news = sample_ratio.describe(look.ratios), []
    for row in look.verdicts:
        word, old = row["word"], before.get((row["comparison"], row["metric"]), words.TOO_EARLY)
        if word not in (old, words.TOO_EARLY, words.NOT_YET, words.KEPT):
            why = f"; {cause}" if word == words.INVALID and cause else ""
            news.append(f"{name_verdict(row)}: {word} (before: {old}){why}; see the report")
    return news
