"""Gaps between the nights of a job: nights that were missed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

from abatch.text import cut_list

N_GAPS = 10  # that are named
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Gap:
    """The first and the last night that were missed."""

    first: date
    last: date

    def __str__(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"


def find_gaps(nights: Sequence[date], run_date: date) -> list[Gap]:
    """What was missed between the first of some nights, in order, and run_date; newest first."""
    gaps = [Gap(before + DAY, after - DAY) for before, after in pairwise([*nights, run_date])]
    return [gap for gap in reversed(gaps) if gap.first <= gap.last]


def describe_gaps(gaps: Sequence[Gap]) -> list[str]:
    """Each gap as text, but of many only the newest by name."""
    return cut_list([*map(str, gaps)], N_GAPS, "earlier gaps")
