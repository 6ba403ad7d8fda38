"""Gaps between the nights of a job: nights that were missed."""

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise

N_GAPS = 10  # that are named
DAY = timedelta(days=1)
Gap = tuple[date, date]  # the first and the last night that were missed


def find_gaps(nights: Sequence[date], run_date: date) -> list[Gap]:
    """What was missed between the first of some nights, in order, and run_date; newest first."""
    between = [(before + DAY, after - DAY) for before, after in pairwise([*nights, run_date])]
    return [(first, last) for first, last in reversed(between) if first <= last]


def describe_gaps(gaps: Sequence[Gap]) -> list[str]:
    """Each gap as text, but of many only the newest by name."""
    texts = [f"{first}" if first == last else f"{first} to {last}" for first, last in gaps]
    n_earlier = len(texts) - N_GAPS
    return texts[:N_GAPS] + ([f"and {n_earlier} earlier gaps"] if n_earlier > 0 else [])
