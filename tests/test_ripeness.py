"""Newest rows whose outcomes were not complete are told; weeks with seasons are not."""

import numpy as np
import pytest
from scipy.stats import hypergeom

from abatch.modelling.ripeness import find_fall

START = np.datetime64("2026-06-01")  # a Monday


def make_rows(n_by_day: list[int], ones_by_day: list[int]) -> tuple[np.ndarray, np.ndarray]:
    day = START + np.arange(len(n_by_day))
    pairs = zip(n_by_day, ones_by_day, strict=True)
    return np.repeat(day, n_by_day), np.concatenate([np.arange(n) < ones for n, ones in pairs])


def test_find_fall_by_hand() -> None:
    """80 days of 30 rows, 3 with the outcome, then 12 days with 1: 12 of 360 against 10 %."""
    rows = make_rows([30] * 92, [3] * 80 + [1] * 12)
    fall = find_fall(*rows, 15)
    assert fall is not None
    assert (str(fall.since), fall.n_days, fall.n_ones, fall.n_rows) == ("2026-08-20", 12, 12, 360)
    assert fall.rate == pytest.approx(0.1)
    assert find_fall(*rows, 5) is None  # 5 of 150, by chance


def test_find_fall_as_the_hypergeometric_law_has_it(rng: np.random.Generator) -> None:
    """It tells where the newest week is 4 standard deviations below, its days each by their law."""
    n_told = 0
    for _ in range(60):
        n = rng.integers(5, 30, size=60)
        ones = rng.binomial(n, np.where(np.arange(60) < 53, 0.2, 0.05))
        days = [np.arange(first, 60, 7) for first in range(7)]
        laws = [hypergeom(n[d].sum(), ones[d].sum(), n[d[-1]]) for d in days]
        below = sum(law.mean() for law in laws) - ones[53:].sum()
        is_beyond = below > 4 * np.sqrt(sum(law.var() for law in laws))
        fall = find_fall(*make_rows(n.tolist(), ones.tolist()), 7)
        assert is_beyond <= (fall is not None)
        assert fall is None or fall.n_days < 7 or is_beyond
        n_told += is_beyond
    assert 10 < n_told < 50


def test_find_fall_knows_weekends() -> None:
    """On weekends nobody answers; the newest two days are one. As many on all days, they would."""
    ones = [3, 3, 3, 3, 3, 0, 0] * 8
    assert find_fall(*make_rows([30] * 56, ones), 2) is None
    assert find_fall(*make_rows([100] * 56, [20] * 54 + [0] * 2), 2) is not None


def test_find_fall_needs_half_as_many() -> None:
    """5.5 % after 10 % is a rate that falls, however many the rows."""
    assert find_fall(*make_rows([1_000] * 40, [100] * 33 + [55] * 7), 7) is None
    assert find_fall(*make_rows([1_000] * 40, [100] * 33 + [45] * 7), 7) is not None


@pytest.mark.parametrize("n_days", [1, 2, 15])
def test_find_fall_of_few_days(n_days: int) -> None:
    assert find_fall(*make_rows([50] * n_days, [5] * n_days), 30) is None
    assert find_fall(*make_rows([50] * n_days, [0] * n_days), 30) is None


def test_find_fall_is_silent_by_chance() -> None:
    """400 honest feeds, with seasons of rows and of rates in a week."""
    rng = np.random.default_rng(5)
    season = np.array([1, 1, 1, 1, 1, 0.3, 0.1])[np.arange(90) % 7]
    for _ in range(400):
        n = rng.poisson(60 * season)
        ones = rng.binomial(n, 0.1 * season)
        assert find_fall(*make_rows(n.tolist(), ones.tolist()), 15) is None
