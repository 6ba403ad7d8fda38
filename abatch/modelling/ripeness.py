"""Ripeness: whether the outcomes of the newest training rows were complete when they were read."""

from datetime import date
from typing import NamedTuple

import numpy as np
import pandas as pd

FEWER, STANDARD_DEVIATIONS = 0.5, 4  # times as many outcomes as before, and beyond chance
N_WEEKDAYS = 7


class Fall(NamedTuple):
    """The newest days, from `since`, have far fewer outcomes than those before.

    Attributes
    ----------
    n_ones, n_rows : of the newest days
    rate : the share with an outcome that the same weekdays had before
    """

    since: date
    n_days: int
    n_ones: int
    n_rows: int
    rate: float


def find_fall(event_date: np.ndarray, y: np.ndarray, most_days: int) -> Fall | None:
    """The newest k days with less than half as many outcomes as the rows before let expect.

    They must have, as a whole and weekday by weekday, since weeks have seasons; so the statistic is
    that of Mantel and Haenszel, beyond 4 standard deviations. Of several k that with the largest.

    Parameters
    ----------
    event_date, y : array of datetime64, and of 0 or 1, shape (n,) both
    most_days : k at the most

    References
    ----------
    Mantel and Haenszel (1959), Journal of the National Cancer Institute 22, 719-748.
    """
    day = event_date.astype("datetime64[D]").astype(np.int64)
    last, fall, largest = int(day.max()), None, float(STANDARD_DEVIATIONS)
    n_days = min(most_days, last - int(day.min()))
    rows, ones = np.bincount(last - day), np.bincount(last - day, y)
    weekday = (last - np.arange(len(rows))) % N_WEEKDAYS
    all_rows, all_ones = (_count_by_weekday(weekday, counts) for counts in (rows, ones))
    for k in range(1, n_days + 1):
        n, c = (_count_by_weekday(weekday[:k], counts[:k]) for counts in (rows, ones))
        known = (all_rows > n) & (n > 0)  # weekdays on both sides
        n, c, total, positive = (counts[known] for counts in (n, c, all_rows, all_ones))
        expected = float((n * (positive - c) / (total - n)).sum())
        surplus = n * positive / total - c
        variance = n * (total - n) * positive * (total - positive) / (total**2 * (total - 1))
        n_rows, n_ones = rows[:k].sum(), ones[:k].sum()
        of_all = n_rows * (ones.sum() - n_ones) / (len(y) - n_rows)
        if not variance.sum() or c.sum() >= FEWER * expected or n_ones >= FEWER * of_all:
            continue
        z = float(surplus.sum() / np.sqrt(variance.sum()))
        if z > largest:
            since = pd.Timestamp(last - k + 1, unit="D").date()
            largest = z
            fall = Fall(since, k, int(n_ones), int(n_rows), expected / float(n.sum()))
    return fall


def _count_by_weekday(weekday: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.bincount(weekday, counts, N_WEEKDAYS)
