"""Runs of nights that are unlike those before, by likelihood ratios from elsewhere."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import poisson, ttest_ind

from abatch.statistics import scan
from abatch.statistics.scan import (
    Found,
    Rule,
    Runs,
    compare_means,
    compare_rates,
    compare_shares,
    weigh_means,
)


def fit(counts: list[float], exposures: list[float], terms: list[list[int]]) -> float:
    """The largest log likelihood of a Poisson model, found by a minimizer."""
    design, n = np.array(terms, dtype=float), np.array(exposures)

    def lose(coefficients: np.ndarray) -> float:
        return -float(poisson.logpmf(counts, n * np.exp(design @ coefficients)).sum())

    return -minimize(lose, -np.ones(design.shape[1]), method="BFGS").fun


@pytest.mark.parametrize(
    ("found", "n", "found_before", "n_before"),
    [(30, 400, 160, 800), (3, 60, 200, 700), (90, 400, 80, 700), (12, 100, 12, 100)],
)
def test_compare_rates_is_the_likelihood_ratio(
    found: float, n: float, found_before: float, n_before: float
) -> None:
    counts, exposures = [found, found_before], [n, n_before]
    ratio = fit(counts, exposures, [[1, 1], [1, 0]]) - fit(counts, exposures, [[1], [1]])
    z = compare_rates(*map(np.array, (found, n, found_before, n_before)))
    assert abs(z) == pytest.approx(np.sqrt(2 * max(ratio, 0)), abs=1e-3)
    assert np.sign(z) == np.sign(found / n - found_before / n_before)


def test_compare_rates_of_nothing() -> None:
    """None of 100 where every tenth is known: 2 * 10 is the deviance."""
    z = compare_rates(
        *map(np.array, ([0.0, 0.0, 0.0], [100.0, 9.0, 0.0], [1e8, 0, 5], [1e9, 9, 9]))
    )
    assert z[:2] == pytest.approx([-np.sqrt(20), 0], rel=1e-6)
    assert np.isnan(z[2])


@pytest.mark.parametrize(
    ("own", "others"),
    [
        ((30, 400, 80, 400), (76, 800, 160, 800)),
        ((3, 60, 200, 700), (50, 500, 300, 3000)),
        ((90, 400, 80, 700), (76, 850, 160, 800)),
        ((20, 100, 40, 200), (30, 100, 60, 200)),
    ],
)
def test_compare_shares_is_the_likelihood_ratio_of_the_interaction(
    own: tuple[float, ...], others: tuple[float, ...]
) -> None:
    counts, exposures = ([*own[i::2], *others[i::2]] for i in (0, 1))
    with_it = fit(counts, exposures, [[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    without = fit(counts, exposures, [[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0]])
    z = compare_shares(*(tuple(map(np.array, side)) for side in (own, others)))  # type: ignore[arg-type]
    assert abs(z) == pytest.approx(np.sqrt(2 * max(with_it - without, 0)), abs=1e-3)
    rises = own[0] / own[1] * others[2] / others[3] - own[2] / own[3] * others[0] / others[1]
    assert np.sign(z) == np.sign(round(rises, 9))


def test_compare_means_is_of_welch(rng: np.random.Generator) -> None:
    """The likelihood ratio statistic of a t with n degrees is (n + 1) log(1 + t^2 / n)."""
    one, other = rng.normal(3, 3, 12), rng.normal(0, 1, 30)
    t = ttest_ind(one, other, equal_var=False)
    sides = [(np.array(y.var(ddof=1)), np.array(len(y))) for y in (one, other)]
    z = compare_means(np.array(one.mean() - other.mean()), *sides)
    assert z == pytest.approx(np.sqrt((t.df + 1) * np.log1p(t.statistic**2 / t.df)))
    means = [np.full_like(y, y.mean()) for y in (one, other)]
    within, total = (
        ((np.concatenate([one, other]) - centre) ** 2).sum()
        for centre in (np.concatenate(means), np.concatenate([one, other]).mean())
    )
    sides = [(np.array(y.var()), np.array(len(y))) for y in (one, other)]
    z = weigh_means(np.array(one.mean() - other.mean()), *sides)
    assert z == pytest.approx(np.sqrt(42 * np.log(total / within)))
    same = (np.array(1.0), np.array(1e9))
    assert compare_means(np.array(1e-4), same, same) == pytest.approx(1e-4 / np.sqrt(2e-9))


def find(counts: Sequence[float], *, right: Sequence[int] = ()) -> list[Found]:
    """Runs whose mean count lies far from that before, of nights with 100 each.

    Parameters
    ----------
    right : nights that are settled and accepted
    """
    figures = np.column_stack([np.full(len(counts), 100.0), counts])
    n = np.arange(len(counts))

    def compare(runs: Runs) -> np.ndarray:
        return compare_rates(
            runs.inside[:, 1], runs.inside[:, 0], runs.before[:, 1], runs.before[:, 0]
        )

    rule = Rule(lambda runs: np.abs(np.nan_to_num(compare(runs))) > scan.LINE, compare)
    known = {"far": np.isin(n, right)}
    return [*scan.find_runs(figures, {"far": rule}, n >= 0, known, known)]


def test_find_runs_takes_out_one_after_the_other() -> None:
    (one, other) = find([50] * 10 + [5] * 3 + [50] * 2 + [200] * 2 + [50] * 9)
    assert one.nights.tolist() == [15, 16]
    assert one.inside.tolist() == [200, 400]
    assert one.before.tolist() == [1500, 615]
    assert other.nights.tolist() == [10, 11, 12]
    assert other.before.tolist() == [1000, 500]
    assert find([50] * 26) == []


def test_find_runs_is_wide_where_chance_may_hide_a_night() -> None:
    """A night of 38 may be of those at 25, or of those at 50."""
    (run,) = find([50] * 20 + [38] + [25] * 10 + [50] * 5)
    assert run.nights.tolist() == [*range(20, 31)]
    assert find([50] * 20 + [48] + [25] * 10 + [50] * 5)[0].nights.tolist() == [*range(21, 31)]


def test_find_runs_that_are_like_accepted_nights() -> None:
    """A level that is known to be right is no news, nor is what lies between it and the usual."""
    low = [50.0] * 10 + [25] * 10
    assert [run.nights.tolist() for run in find(low + [25] * 5)] == [[*range(10, 25)]]
    right = [*range(10, 20)]
    assert find(low + [25] * 5, right=right) == []
    assert find(low + [25] * 30, right=right) == []
    assert find(low + [35] * 5 + [50] * 5, right=right) == []
    (run,) = find(low + [25] * 2 + [50] * 5 + [25] * 9, right=right)  # once more, after it was over
    assert run.nights.tolist() == [*range(27, 36)]
    (run,) = find(low + [10] * 4 + [25] * 5, right=right)
    assert run.nights.tolist() == [20, 21, 22, 23]
    (run,) = find(low + [100] * 4 + [50] * 5, right=right)
    assert run.nights.tolist() == [20, 21, 22, 23]
