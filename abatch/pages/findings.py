"""What the report says of each registered comparison."""

import math
from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby
from typing import NamedTuple

from abatch.database.tables import Row
from abatch.experiment import records
from abatch.experiment.registrations import OUTCOME, Comparison
from abatch.pages.figures import Figures
from abatch.statistics import words

PACE = timedelta(days=28)  # of the newest looks, by whose pace the days to wait are reckoned
WEEK = timedelta(days=7)


class Scale(NamedTuple):
    """How a difference is told.

    Attributes
    ----------
    factor : what it is multiplied by
    unit : in what it is told
    less : what less of it is called
    """

    factor: int
    decimals: int
    unit: str
    less: str


class Finding(NamedTuple):
    """One registered comparison, and what is known of it.

    Attributes
    ----------
    effect : the expected one
    history : its verdicts, oldest first
    guardrails : today's verdicts on them
    conclusion : what a person concluded, or None
    doubts : what the newest look doubts
    n_left : candidates to wait for at most; None without a plan
    days_left : at the pace of the newest looks; inf if a week of nights brought nobody new; None
        if there is no pace
    """

    comparison: Comparison
    effect: float
    history: Sequence[Row]
    guardrails: Sequence[Row]
    conclusion: Row | None
    doubts: str | None
    n_left: int | None
    days_left: float | None

    @property
    def is_dry(self) -> bool:
        """Whether nobody new comes, for whom it is told to wait."""
        return self.days_left == math.inf

    @property
    def today(self) -> Row | None:
        """The newest verdict."""
        return self.history[-1] if self.history else None

    @property
    def first(self) -> Row | None:
        """The first verdict that decided."""
        return next((row for row in self.history if row.word in words.DECIDED), None)

    @property
    def is_concluded(self) -> bool:
        """Whether the conclusion knew what is known today: this word, and that it is doubted."""
        if self.conclusion is None or self.today is None:
            return self.conclusion is not None
        return records.holds(self.conclusion.finding, self.today, self.doubts)

    @property
    def bounded(self) -> Row | None:
        """Today's verdict, if it has an interval and is neither too early nor invalid."""
        row = self.today
        if row is None or row.lower is None or row.word in (words.TOO_EARLY, words.INVALID):
            return None
        return row

    @property
    def misses(self) -> bool:
        """Whether today's verdict says less than was hoped.

        The wrong direction, too little, or nothing though all planned have come.
        """
        row = self.bounded
        if row is None:
            return False
        falls_short = row.upper < self.effect if self.effect > 0 else row.lower > self.effect
        is_in_vain = row.word == words.NOT_YET and self.n_left == 0
        return falls_short or is_in_vain or row.word in (words.WORSE, words.NO_DIFFERENCE)

    @property
    def marks(self) -> dict[str, float]:
        """Where the marks of the small picture of `bounded` stand, in % of its width."""
        ends = {name: getattr(self.bounded, name) for name in ("lower", "upper", "estimate")}
        marks = {"zero": 0.0, "effect": self.effect} | ends
        low, high = min(marks.values()), max(marks.values())
        return {name: round(4 + 92 * (at - low) / (high - low), 2) for name, at in marks.items()}


def find_scale(kind: str, effect: float, counted: str) -> Scale:
    """Binary differences per hundred, numeric ones in the outcome's unit.

    About three digits of the effect that matters.

    Parameters
    ----------
    counted : what the outcome is counted for, as `Terms.unit` has it
    """
    factor, unit, less = 1, f"per {counted}", "less"
    if kind == "binary":
        factor, unit, less = 100, f"outcomes per hundred {counted}s", "fewer"
    return Scale(factor, max(0, 2 - round(math.log10(abs(factor * effect) or 1))), unit, less)


def find_findings(figures: Figures) -> list[Finding]:
    """What is known of each registered comparison."""
    registration, looks, findings = figures.registration, figures.looks, []
    if registration is None:
        return []
    n_units = looks[-1].n_units if looks else 0
    for comparison in registration.comparisons:
        sample = registration.plan.samples.get(comparison.name)
        n_left = max(0, sample.n_most - n_units) if sample else None
        verdicts = [row for row in figures.verdicts if row.comparison == comparison.name]
        newest = {row.metric: row for row in verdicts}
        findings.append(
            Finding(
                comparison,
                registration.outcome.expected_effect,
                [row for row in verdicts if row.metric == OUTCOME],
                [newest[name] for name in registration.guardrails if name in newest],
                figures.conclusion,
                looks[-1].doubts if looks else None,
                n_left,
                _find_days_left(looks, n_left),
            )
        )
    return findings


def _find_days_left(looks: Sequence[Row], n_left: int | None) -> float | None:
    recent = [look for look in looks if look.n_units and look.run_date >= looks[-1].run_date - PACE]
    if not n_left or not recent:
        return None
    first, last = recent[0], recent[-1]
    n_new, n_days = last.n_units - first.n_units, (last.run_date - first.run_date).days
    if n_new == 0 and last.mature_date - first.mature_date >= WEEK:
        return math.inf
    return math.ceil(n_left * n_days / n_new) if n_new > 0 else None


class Misfit(NamedTuple):
    """The variants that are most below and most above their shares in a stage."""

    short: Row
    over: Row


def find_misfits(figures: Figures) -> list[Misfit]:
    """Of each stage whose sample ratio is off."""
    alpha = figures.terms.sample_ratio.alpha
    alarmed = (row for row in figures.ratios if row.pvalue_min < alpha)
    stages = [
        sorted(rows, key=lambda row: row.n - row.expected)
        for _, rows in groupby(alarmed, key=lambda row: row.stage)
    ]
    return [Misfit(rows[0], rows[-1]) for rows in stages]
