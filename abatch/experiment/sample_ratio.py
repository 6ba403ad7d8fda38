"""Sample ratio: whether candidates come to the variants in the registered shares.

The tests are those of abatch.statistics.stats.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.database.tables import prediction_rows, runs, units
from abatch.experiment.predictions import Span
from abatch.experiment.registrations import OUTCOME, Registration, Terms
from abatch.experiment.tallies import Tally
from abatch.night import DONE
from abatch.statistics import stats
from abatch.statistics.sums import add_by_key, subtract_by_key

ASSIGNED, MATURE, EXPOSURES = "assigned", "mature", "exposures"  # stages
UNBALANCED = "differ by more than chance gives"  # variants, by their features, as predict warns


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


def find_unbalanced(
    connection: sa.Connection, registration: Registration, last: date
) -> list[date]:
    """Nights of which predict has warned that their variants differ by more than chance gives.

    None where the hash assigns.
    """
    if registration.assignment == "hash":
        return []
    r, first = runs.c, registration.start_date
    query = sa.select(r.run_date).filter_by(experiment=registration.salt, job="predict")
    query = query.where(r.run_date >= first, r.run_date <= last, r.status == DONE)
    warned = query.where(r.warnings.contains(UNBALANCED)).order_by(r.run_date)
    return [*connection.scalars(warned)]


def find_groups(
    connection: sa.Connection, span: Span, *, are_closed: bool = True, new_after: date | None = None
) -> pd.DataFrame:
    """Candidates of nights that are not closed, by what is known of them.

    It costs what these nights hold: who was there before is looked up in `units`.

    Parameters
    ----------
    are_closed : whether any nights are; if none is, `units` may hold what is stale
    new_after : leave out who came in the same variant until then, in these nights or in closed ones

    Returns
    -------
    DataFrame
        A row for each group: variant; first_date, the first of these nights in which they came in
        this variant; n, how often they did; n_before, the same of the closed nights, nan if never;
        n_units, how many they are.
    """
    p, u = prediction_rows.c, units.c
    first = sa.func.min(runs.c.run_date).label("first_date")
    of_unit = span.select(p.variant, p.candidate_id, first, sa.func.count().label("n"))
    # By candidate first: so lie the rows of each night, and `units`.
    of_unit = of_unit.group_by(p.candidate_id, p.variant)
    if new_after is not None:
        of_unit = of_unit.having(sa.func.min(runs.c.run_date) > new_after)
    by_unit = of_unit.subquery()
    is_same = (u.candidate_id == by_unit.c.candidate_id) & (u.variant == by_unit.c.variant)
    is_same &= (u.experiment == span.experiment) & (u.metric == OUTCOME)
    if not are_closed:
        is_same &= sa.false()
    by = [by_unit.c.variant, by_unit.c.first_date, by_unit.c.n, u.n_exposures]
    query = sa.select(*by, sa.func.count()).select_from(by_unit.outerjoin(units, is_same))
    if new_after is not None:
        query = query.where(u.candidate_id.is_(None))
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
    groups : of the nights that are not closed, as `find_groups` has them; of who is new after
        `mature_date` alone, if the hash assigns and only the first counts
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


def describe(ratios: Sequence[Mapping[str, Any]]) -> str:
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
