"""Against published figures, scipy, sums by hand, and simulated experiments whose truth is known.

The simulations go the way that score.py goes: moments, means, burn-in, comparison, word. Monte
Carlo error is allowed for with 3.5 standard errors of the share that is claimed, on the side that
would be wrong.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import (
    betabinom,
    binom,
    dirichlet_multinomial,
    kurtosis,
    multinomial,
    norm,
    sem,
)

from abatch.statistics import stats
from abatch.statistics.stats import Comparison, Mean, Moments
from abatch.statistics.words import (
    BETTER,
    BROKEN,
    KEPT,
    NO_DIFFERENCE,
    NOT_YET,
    TOO_EARLY,
    WORSE,
)

N_LOOKS = 60
# control, treatment, planned sample, alpha; difference, lower, upper, p-value with GrowthBook's x*,
# and with ours
GROWTHBOOK = [
    (
        408,
        8157,
        489,
        8157,
        16314,
        0.05,
        0.00993012,
        (-0.00090094, 0.02076118, 0.095993),
        (-0.00090063, 0.02076087, 0.096207),
    ),
    (
        200,
        4000,
        480,
        8000,
        12000,
        0.05,
        0.01,
        (-0.00320403, 0.02320403, 0.286132),
        (-0.00320365, 0.02320365, 0.287954),
    ),
    (
        1500,
        30000,
        1650,
        30000,
        60000,
        0.025,
        0.005,
        (-0.00097126, 0.01097126, 0.106989),
        (-0.00097118, 0.01097118, 0.107354),
    ),
]


def bound_share(share: float, n: int) -> float:
    """How far from a true share one that is counted in n simulations may come to lie.

    3.5 standard errors.
    """
    return 3.5 * (share * (1 - share) / n) ** 0.5


def approximate_x(alpha: float) -> float:
    """The closed form that confseq and GrowthBook use in place of the exact x*."""
    return -2 * np.log(alpha) + np.log(1 - 2 * np.log(alpha))


def make_comparison(lower: float, upper: float) -> Comparison:
    return Comparison((lower + upper) / 2, 1.0, 1.0, (upper - lower) / 2, lower, upper, np.nan)


def read_words(
    treatment: Sequence[Moments],
    control: Sequence[Moments],
    kind: str,
    exposure: str,
    effect: float,
    alpha: float = 0.05,
) -> tuple[np.ndarray, Comparison]:
    """The word of each look, as score.py finds it; sides are the variants that are pooled."""
    sides = treatment, control
    pooled = [sum(side, Moments()) for side in sides]
    means = [stats.estimate_mean(side, kind, exposure) for side in pooled]
    found = stats.compare(means[0], means[1], abs(effect), alpha)
    least: float = stats.MIN_UNITS
    if kind == "numeric" or exposure == "all":
        least = stats.find_burn_in(stats.measure_kurtosis(pooled))
    is_late = np.logical_and.reduce(
        [stats.is_burnt_in(moments, kind, least) for side in sides for moments in side]
    )
    rows = zip(*(np.ravel(field).tolist() for field in found), strict=True)
    words = np.array([stats.choose_word(Comparison(*row), effect) for row in rows]).reshape(
        is_late.shape
    )
    return np.where(is_late, words, TOO_EARLY), found


def claims(words: np.ndarray) -> np.ndarray:
    """Whether an experiment, a row, claims a difference at any look."""
    return np.isin(words, (BETTER, WORSE)).any(axis=-1)


def simulate_binary(
    rng: np.random.Generator,
    n_experiments: int,
    n_per_look: int,
    rate: float,
    n_looks: int = N_LOOKS,
) -> Moments:
    """Moments of one variant at each look, shape (n_experiments, n_looks)."""
    s = rng.binomial(n_per_look, rate, size=(n_experiments, n_looks)).cumsum(axis=1).astype(float)
    n = np.broadcast_to(n_per_look * np.arange(1.0, n_looks + 1), s.shape)
    return Moments(n, s, n, s, n, s, s)


def simulate_amounts(
    rng: np.random.Generator, n_experiments: int, n_per_look: int, cap: float
) -> Moments:
    """One in five candidates buys, for a capped lognormal amount."""
    n_nonzero = rng.binomial(n_per_look, 0.2, size=(n_experiments, N_LOOKS))
    amounts = np.exp(
        1.5 * rng.standard_normal((n_experiments, N_LOOKS, n_nonzero.max()), dtype=np.float32)
    )
    amounts = np.minimum(amounts, cap) * (np.arange(n_nonzero.max()) < n_nonzero[..., None])
    powers = ((amounts**k).sum(axis=2, dtype=float).cumsum(axis=1) for k in range(1, 5))
    return make_first(n_per_look, n_nonzero.cumsum(axis=1), *powers)


def make_first(n_per_look: int, n_nonzero: np.ndarray, *powers: np.ndarray) -> Moments:
    """Moments of first exposures at each look, from sums of y, y^2, y^3 and y^4."""
    y, yy, yyy, yyyy = powers
    n = np.broadcast_to(n_per_look * np.arange(1.0, N_LOOKS + 1), y.shape)
    return Moments(n, n_nonzero, n, y, n, y, yy, np.zeros(y.shape), n, y, yy, yyy, yyyy)


def simulate_losses(
    rng: np.random.Generator, n_experiments: int, n_per_look: int, rate: float, loss: float
) -> Moments:
    """Who does not lose earns 50, give or take 5."""
    n_losses = rng.binomial(n_per_look, rate, size=(n_experiments, N_LOOKS))
    n_earners = n_per_look - n_losses
    earned = 50 * n_earners + 5 * np.sqrt(n_earners) * rng.standard_normal(n_losses.shape)
    # Of the earners' higher powers the expected sums: it is the losses that vary.
    of_earners = (earned, 2525 * n_earners, 128_750 * n_earners, 6_626_875 * n_earners)
    powers = (
        (sums + n_losses * (-loss) ** k).cumsum(axis=1) for k, sums in enumerate(of_earners, 1)
    )
    return make_first(n_per_look, np.cumsum(0 * n_losses + n_per_look, axis=1), *powers)


def simulate_repeated(
    rng: np.random.Generator, n_experiments: int, n_new: int, rate: float
) -> Moments:
    """New candidates at each look, who come back at the next 0 to 7 looks.

    Own rates are beta, intraclass correlation .3.
    """
    rates = rng.beta(rate * 7 / 3, (1 - rate) * 7 / 3, size=(n_experiments, N_LOOKS, n_new))
    n_exposures = rng.integers(1, 9, size=rates.shape)
    n, y = np.zeros_like(rates), np.zeros_like(rates)
    added, before = np.zeros((13, n_experiments, N_LOOKS)), np.zeros((13, 1, 1))
    for again in range(8):
        is_here = n_exposures > again
        n, y = n + is_here, y + (is_here & (rng.random(rates.shape) < rates))
        terms = [np.full(rates.shape, 1.0), y > 0, n, y, n * n, n * y, y * y, 0 * n]
        terms += [n ** (4 - k) * y**k for k in range(5)]
        now = np.array([term.sum(axis=2) for term in terms])
        added[:, :, again:] += (now - before)[:, :, : N_LOOKS - again]
        before = now
    return Moments(*added.cumsum(axis=2))


def simulate_motion(
    rng: np.random.Generator, n_paths: int, information: np.ndarray, effect: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates of a difference, shape (n_paths, looks), and their standard errors.

    These are information**-.5.
    """
    steps = rng.standard_normal((n_paths, len(information))) * np.sqrt(
        np.diff(information, prepend=0)
    )
    return effect + steps.cumsum(axis=1) / information, information**-0.5


# Sequence


@pytest.mark.parametrize(
    ("alpha", "x"), [(0.05, 8.211968), (0.025, 9.752938), (0.05 / 3, 10.643431)]
)
def test_tune_information_published(alpha: float, x: float) -> None:
    assert stats.tune_information(alpha) == pytest.approx(x, abs=5e-7)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_tune_information_gives_the_smallest_multiplier(alpha: float) -> None:
    grid = np.geomspace(0.1, 1000, 100_001)
    multipliers = stats.compute_sequence(0.0, 1.0, grid, alpha).multiplier
    assert grid[multipliers.argmin()] == pytest.approx(stats.tune_information(alpha), rel=1e-3)


def test_compare_at_the_planned_standard_error() -> None:
    se = 0.01 / 2.801585  # z(.975) + z(.8)
    assert stats.plan_se(-0.01, 0.05) == pytest.approx(se, rel=1e-6)
    found = stats.compare(Mean(0.06, 0.5 * se**2), Mean(0.05, 0.5 * se**2), 0.01, 0.05)
    assert found.multiplier == pytest.approx(3.035122, abs=5e-7)
    assert (found.lower, found.upper) == pytest.approx(
        (0.01 - 3.035122 * se, 0.01 + 3.035122 * se), abs=1e-8
    )


@pytest.mark.parametrize(
    ("alpha", "plan_se", "x"),
    [(0.05, 0.01 / 2.801585, 8.211968), (0.025, 0.01 / 3.083024, 9.752938)],
)
def test_compare_is_tuned_by_the_planned_standard_error(
    alpha: float, plan_se: float, x: float
) -> None:
    # z(.9875) + z(.8) = 3.083024. x grows as information does: with se**-2.
    for times in (0.5, 1, 3):
        found = stats.compare(Mean(0.06, (times * plan_se) ** 2), Mean(0.05, 0.0), 0.01, alpha)
        assert found.information == pytest.approx(x / times**2, rel=1e-6)


def test_compute_sequence_is_the_normal_mixture() -> None:
    # confseq, test/uniform_boundaries_unittest.cpp: v = v_opt = 100, alpha .05
    x = approximate_x(0.05)
    assert 100 / x == pytest.approx(12.60056, abs=5e-6)
    assert 10 * stats.compute_sequence(0.0, 1.0, x, 0.05).multiplier == pytest.approx(
        30.35209, abs=5e-6
    )
    # The mixture is exp(-.6510052) at s = 10, v = 100, one standard error: there lies the bound for
    # this "alpha".
    assert stats.compute_sequence(0.0, 1.0, x, np.exp(0.6510052)).multiplier == pytest.approx(
        1, abs=1e-6
    )


@pytest.mark.parametrize(
    ("s0", "n0", "s1", "n1", "n_planned", "alpha", "estimate", "theirs", "ours"), GROWTHBOOK
)
def test_compute_sequence_growthbook(
    s0: int,
    n0: int,
    s1: int,
    n1: int,
    n_planned: int,
    alpha: float,
    estimate: float,
    theirs: tuple[float, float, float],
    ours: tuple[float, float, float],
) -> None:
    p0, p1 = s0 / n0, s1 / n1
    se = np.sqrt(p0 * (1 - p0) / n0 + p1 * (1 - p1) / n1)
    for tuned, expected in ((approximate_x(alpha), theirs), (stats.tune_information(alpha), ours)):
        found = stats.compute_sequence(p1 - p0, se, tuned * (n0 + n1) / n_planned, alpha)
        assert found.estimate == pytest.approx(estimate, abs=5e-9)
        assert (found.lower, found.upper) == pytest.approx(expected[:2], abs=6e-9)
        assert found.pvalue == pytest.approx(expected[2], abs=6e-7)


@pytest.mark.parametrize("variance", [0.0, np.nan])
def test_compare_without_a_standard_error_is_nan(variance: float) -> None:
    found = stats.compare(Mean(0.3, variance), Mean(0.1, 0.0), 0.01, 0.05)
    assert found.estimate == pytest.approx(0.2)
    assert np.isnan(found[1:]).all()
    assert stats.choose_word(found, 0.01) == NOT_YET


def test_compare_takes_arrays() -> None:
    treatment, control = (
        Mean(np.array([0.2, 0.3]), np.array([0.01, 0.0])),
        Mean(np.array([0.1, 0.1]), np.array([0.02, 0.0])),
    )
    both = stats.compare(treatment, control, 0.1, 0.05)
    single = stats.compare(Mean(0.2, 0.01), Mean(0.1, 0.02), 0.1, 0.05)
    assert [field[0] for field in both] == pytest.approx(list(single))
    assert np.isnan(both.lower[1])


def test_naive_interval() -> None:
    assert stats.naive_interval(1.0, 0.5) == pytest.approx((1 - 0.979982, 1 + 0.979982), abs=1e-6)


MEANS = st.builds(Mean, st.floats(-10, 10), st.floats(1e-6, 10))
EFFECTS = st.floats(0.01, 5)


@settings(deadline=None)
@given(MEANS, MEANS, EFFECTS, st.sampled_from([0.05, 0.025, 0.01]))
def test_compare_mirrors_when_arms_are_swapped(
    treatment: Mean, control: Mean, effect: float, alpha: float
) -> None:
    found, mirrored = (
        stats.compare(treatment, control, effect, alpha),
        stats.compare(control, treatment, effect, alpha),
    )
    assert (mirrored.lower, mirrored.upper) == pytest.approx((-found.upper, -found.lower))
    assert mirrored.pvalue == pytest.approx(found.pvalue)
    assert found.lower < found.estimate < found.upper
    assert stats.choose_word(mirrored, -effect) == stats.choose_word(found, effect)


@settings(deadline=None)
@given(MEANS, MEANS, EFFECTS, st.sampled_from([-1, 1]))
def test_choose_word_never_contradicts_the_interval(
    treatment: Mean, control: Mean, effect: float, sign: int
) -> None:
    found = stats.compare(treatment, control, effect, 0.05)
    word = stats.choose_word(found, sign * effect)
    good = sorted((sign * found.lower, sign * found.upper))
    assert (word == BETTER) == (good[0] > 0)
    assert (word == WORSE) == (good[1] < 0)
    assert (word in (BETTER, WORSE)) == (found.pvalue < 0.05)
    if word == NO_DIFFERENCE:
        assert -effect < good[0] <= 0 <= good[1] < effect


# Words


@pytest.mark.parametrize(
    ("lower", "upper", "effect", "word"),
    [
        (0.1, 3.0, 1.0, BETTER),
        (0.1, 3.0, -1.0, WORSE),
        (-3.0, -0.1, 1.0, WORSE),
        (-3.0, -0.1, -1.0, BETTER),
        (0.1, 0.9, 1.0, BETTER),  # smaller than what was expected, but better
        (-0.9, -0.1, 1.0, WORSE),
        (-0.9, 0.9, 1.0, NO_DIFFERENCE),
        (-0.9, 0.9, -1.0, NO_DIFFERENCE),
        (0.0, 0.9, 1.0, NO_DIFFERENCE),
        (-1.0, 0.9, 1.0, NOT_YET),
        (-0.9, 1.0, 1.0, NOT_YET),
        (-2.0, 2.0, -1.0, NOT_YET),
        (np.nan, np.nan, 1.0, NOT_YET),
    ],
)
def test_choose_word(lower: float, upper: float, effect: float, word: str) -> None:
    assert stats.choose_word(make_comparison(lower, upper), effect) == word


@pytest.mark.parametrize(
    ("lower", "upper", "direction", "word"),
    [
        (-0.9, 5.0, "increase", KEPT),
        (-1.0, 5.0, "increase", NOT_YET),
        (-5.0, -1.1, "increase", BROKEN),
        (-5.0, -1.0, "increase", NOT_YET),
        (1.1, 5.0, "increase", KEPT),
        (-5.0, 0.9, "decrease", KEPT),
        (-5.0, 1.0, "decrease", NOT_YET),
        (1.1, 5.0, "decrease", BROKEN),
        (1.0, 5.0, "decrease", NOT_YET),
        (-5.0, -1.1, "decrease", KEPT),
        (np.nan, np.nan, "increase", NOT_YET),
        (np.nan, np.nan, "decrease", NOT_YET),
    ],
)
def test_choose_guardrail_word(lower: float, upper: float, direction: str, word: str) -> None:
    margin = {"increase": 1.0, "decrease": -1.0}[direction]
    assert stats.choose_guardrail_word(make_comparison(lower, upper), margin) == word


@pytest.mark.parametrize(
    ("kind", "moments", "expected"),
    [
        ("binary", Moments(100, 10, 100, 10), True),
        ("binary", Moments(99, 10, 99, 10), False),
        ("binary", Moments(100, 9, 100, 9), False),
        ("binary", Moments(100, 90, 100, 90), True),
        ("binary", Moments(100, 91, 100, 91), False),
        (
            "binary",
            Moments(100, 9, 800, 40),
            False,
        ),  # exposures repeat: the forty outcomes are those of nine candidates
        ("binary", Moments(100, 100, 800, 790), True),
        ("numeric", Moments(100, 100, 100, 5e6), True),
        ("numeric", Moments(5000, 99, 5000, 5e6), False),
        ("numeric", Moments(99, 100, 99, 5e6), False),
        ("numeric", Moments(200, 150, 200, -5e6), True),
        ("binary", Moments(), False),
    ],
)
def test_is_burnt_in(kind: str, moments: Moments, expected: bool) -> None:
    assert stats.is_burnt_in(moments, kind) == expected


# Means


def test_compute_moments_by_hand() -> None:
    found = stats.compute_moments(np.array([1.0, 2.0, 3.0, 1.0]), np.array([0.0, 2.0, 1.0, -4.0]))
    sums = {"n_units": 4, "n_nonzero": 3, "sum_n": 7, "sum_y": -1, "sum_nn": 15, "sum_ny": 3}
    fourth = {"sum_nnnn": 1 + 16 + 81 + 1, "sum_nnnz": 16 + 27 - 4, "sum_nnzz": 16 + 9 + 16}
    fourth |= {"sum_nzzz": 16 + 3 - 64, "sum_zzzz": 16 + 1 + 256}
    assert astuple(found.move(0.0)) == pytest.approx(astuple(Moments(**sums, sum_yy=21, **fourth)))
    assert found.center == -1 / 7
    assert stats.compute_moments(np.array([]), np.array([])) == Moments()


UNITS = st.lists(st.tuples(st.integers(1, 9), st.integers(-1000, 1000)), max_size=12)


@given(st.lists(UNITS, max_size=4))
def test_moments_of_parts_add_up_to_the_whole(parts: list[list[tuple[int, int]]]) -> None:
    def condense(units: list[tuple[int, int]]) -> Moments:
        return stats.compute_moments(*np.array(units, dtype=float).reshape(-1, 2).T)

    def assert_equal(found: Moments, expected: Moments) -> None:
        assert astuple(found)[:7] == astuple(expected)[:7]
        fourth = astuple(expected.move(0.0))[7:]  # of up to 10**13
        assert astuple(found.move(0.0))[7:] == pytest.approx(fourth, rel=1e-9, abs=1)

    whole = condense([unit for part in parts for unit in part])
    assert_equal(sum(map(condense, parts), Moments()), whole)
    for part, rest in zip(parts, range(len(parts)), strict=True):
        others = condense([unit for i, other in enumerate(parts) if i != rest for unit in other])
        assert_equal(whole - condense(part), others)


def test_estimate_mean_binary_first_by_hand() -> None:
    found = stats.estimate_mean(Moments(98, 19, 98, 19, 98, 19, 19), "binary", "first")
    assert found == pytest.approx((19 / 98, 0.2 * 0.8 / 98))
    assert stats.estimate_mean(
        Moments(98, 0, 98, 0, 98, 0, 0), "binary", "first"
    ).variance == pytest.approx(0.01 * 0.99 / 98)


def test_estimate_mean_numeric_first_is_the_sample_variance(rng: np.random.Generator) -> None:
    y = rng.lognormal(5, 1, 300) * (rng.random(300) < 0.3)
    found = stats.estimate_mean(stats.compute_moments(np.ones(300), y), "numeric", "first")
    assert found == pytest.approx((y.mean(), sem(y) ** 2))


@pytest.mark.parametrize("kind", ["binary", "numeric"])
def test_estimate_mean_all_is_robust_to_clusters(rng: np.random.Generator, kind: str) -> None:
    n = rng.integers(1, 9, 2000)
    rates = rng.beta(0.5, 4.5, len(n))
    y = rng.binomial(n, rates) * (rng.integers(1, 90, len(n)) if kind == "numeric" else 1)
    found = stats.estimate_mean(stats.compute_moments(n, y), kind, "all")
    ratio = sum(y) / sum(n)
    by_unit = 2000 / 1999 * sum((y[i] - ratio * n[i]) ** 2 for i in range(2000)) / sum(n) ** 2
    assert found == pytest.approx((ratio, by_unit))
    without_one = (y.sum() - y) / (n.sum() - n)  # delete-one jackknife
    assert found.variance == pytest.approx(
        1999 / 2000 * np.square(without_one - without_one.mean()).sum(), rel=0.02
    )
    if kind == "binary":
        assert found.variance > 1.5 * ratio * (1 - ratio) / n.sum()


@pytest.mark.parametrize(
    ("kind", "exposure", "moments", "has_value"),
    [
        ("binary", "first", Moments(), False),
        ("numeric", "first", Moments(), False),
        ("binary", "all", Moments(), False),
        ("numeric", "first", Moments(1, 1, 1, 5, 1, 5, 25), True),
        ("binary", "all", Moments(1, 1, 4, 2, 16, 8, 4), True),
    ],
)
def test_estimate_mean_of_too_little_is_nan(
    kind: str, exposure: str, moments: Moments, has_value: bool
) -> None:
    found = stats.estimate_mean(moments, kind, exposure)
    assert np.isnan(found.value) != has_value
    assert np.isnan(found.variance)


@pytest.mark.parametrize("amount", [0.1, 1e6 / 3, -7e-5])
def test_estimate_mean_of_equal_outcomes_has_no_variance(amount: float) -> None:
    moments = stats.compute_moments(np.ones(1001), np.full(1001, amount))
    found = stats.estimate_mean(moments, "numeric", "first")
    assert found.value == pytest.approx(amount)
    assert found.variance == 0
    assert np.isnan(stats.compare(found, found, 1.0, 0.05).lower)


# Kurtosis


def test_measure_kurtosis_is_that_of_all_residuals(rng: np.random.Generator) -> None:
    sides = [rng.lognormal(5, 1, n) * (rng.random(n) < 0.3) for n in (300, 70)]
    residuals = np.concatenate([y - y.mean() for y in sides])
    expected = kurtosis(residuals, fisher=False)
    for shift in (0, 1e7):  # whose fourth powers have no digit left for the residuals'
        moments = [stats.compute_moments(np.ones(len(y)), y + shift) for y in sides]
        assert stats.measure_kurtosis(moments) == pytest.approx(expected, rel=1e-4)
    parts = [stats.compute_moments(np.ones(len(y)), y) for y in np.array_split(sides[0], 30)]
    again = sum(parts[1:], parts[0]) - parts[7]
    rest = np.setdiff1d(np.arange(300), np.arange(70, 80))
    assert stats.measure_kurtosis([again]) == pytest.approx(kurtosis(sides[0][rest], fisher=False))


def test_measure_kurtosis_of_repeated_candidates_by_hand(rng: np.random.Generator) -> None:
    n = np.ceil(rng.pareto(1.5, 500) + 1)
    y = rng.binomial(n.astype(int), 0.2)
    residuals = y - y.sum() / n.sum() * n
    found = stats.measure_kurtosis([stats.compute_moments(n, y)])
    assert found == pytest.approx(500 * (residuals**4).sum() / (residuals**2).sum() ** 2)
    assert found > 10  # a few candidates carry what all brought
    assert np.isnan(stats.measure_kurtosis([stats.compute_moments(n, n), Moments()]))


def test_find_burn_in_waits_for_what_is_rare() -> None:
    # One in m carries all: 1 / (p q) - 3 of the Bernoulli distribution.
    y = np.arange(20_000) % 200 == 0
    moments = stats.compute_moments(np.ones(len(y)), -10_000.0 * y)
    least = stats.find_burn_in(stats.measure_kurtosis([moments]))
    assert least == np.ceil(10 * (1 / (0.005 * 0.995) - 3))
    assert stats.is_burnt_in(moments, "numeric", least)
    assert stats.find_burn_in(np.nan) == stats.find_burn_in(3.0) == 100


# Lift


def test_compute_lift_by_hand() -> None:
    # k^2 v = 1: 3 r^2 - 12 r + 8 <= 0, so r = 2 -+ sqrt(12) / 3
    found = stats.compute_lift(Mean(3.0, 0.04), Mean(2.0, 0.04), 5.0)
    assert found == pytest.approx((0.5, 1 - 12**0.5 / 3, 1 + 12**0.5 / 3))


@pytest.mark.parametrize(("m1", "m0"), [(0.06, 0.05), (-0.02, 0.05), (0.0, 0.05)])
def test_compute_lift_on_a_grid(m1: float, m0: float) -> None:
    v1, v0, k = 3e-5, 2e-5, 3.035
    found = stats.compute_lift(Mean(m1, v1), Mean(m0, v0), k)
    r = np.linspace(-5, 5, 1_000_001)
    inside = r[np.abs(m1 - r * m0) <= k * np.sqrt(v1 + r**2 * v0)] - 1
    assert found[1:] == pytest.approx((inside.min(), inside.max()), abs=2e-5)


def test_compute_lift_unbounded() -> None:
    found = stats.compute_lift(
        Mean(3.0, 0.04), Mean(1.0, 0.04), 5.0
    )  # the control lies k standard errors from 0
    assert found.lift == pytest.approx(2)
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize("m0", [0.0, -2.0, np.nan])
def test_compute_lift_of_no_positive_mean_is_nan(m0: float) -> None:
    assert np.isnan(stats.compute_lift(Mean(3.0, 0.04), Mean(m0, 0.04), 3.0)).all()
    assert np.isnan(stats.compute_lift(Mean(3.0, 0.04), Mean(2.0, 0.04), np.nan)[1:]).all()


@settings(deadline=None)
@given(st.floats(0.1, 10), st.floats(1e-4, 1), st.floats(0.1, 10), st.floats(1e-4, 1))
def test_compute_lift_excludes_none_where_the_difference_does(
    m1: float, v1: float, m0: float, v0: float
) -> None:
    found = stats.compare(Mean(m1, v1), Mean(m0, v0), 0.5, 0.05)
    lift = stats.compute_lift(Mean(m1, v1), Mean(m0, v0), found.multiplier)
    if (
        not np.isnan(lift.lift_lower)
        and abs(abs(found.estimate) / found.se / found.multiplier - 1) > 1e-9
    ):
        assert lift.lift_lower < lift.lift < lift.lift_upper
        assert (lift.lift_lower > 0, lift.lift_upper < 0) == (found.lower > 0, found.upper < 0)


# Plan


def test_plan_sample_published() -> None:
    # 5 % against 6 % at 50/50, and the costs of looking every day
    assert stats.plan_sample(0.06 * 0.94 / 0.5 + 0.05 * 0.95 / 0.5, -0.01, 1) == (
        16_310,
        27_564,
        16_310,
    )
    assert stats.plan_sample(0.06 * 0.94 / 0.5 + 0.05 * 0.95 / 0.5, 0.01, 2) == (
        16_310,
        31_805,
        19_409,
    )


def test_plan_sample_of_three_variants() -> None:
    # By hand: (1/.9 + 1/.1) * 4 * (2.801585 / .5)^2 = 1395.39
    assert stats.plan_sample(4.0 / 0.9 + 4.0 / 0.1, 0.5, 1).n_fixed == 1396


def test_plan_sample_grows_with_verdicts() -> None:
    plans = [stats.plan_sample(1.0 / 0.5 + 1.0 / 0.5, 0.1, m) for m in range(1, 31)]
    assert all(a.n_most < b.n_most and a.n_median < b.n_median for a, b in pairwise(plans))


# Sample ratio


def test_log_bayes_factor_published() -> None:
    # optimizely/ssrm tests
    counts = np.cumsum([[20, 17, 9], [18, 21, 8], [4, 6, 4], [18, 19, 11]], axis=0)
    found = stats.log_bayes_factor(counts, np.array([0.4, 0.4, 0.2]), np.ones(3))
    assert found == pytest.approx(
        [-2.950560785, -3.681900877, -3.860658431, -4.183813982], abs=5e-10
    )


@pytest.mark.parametrize("counts", [[0, 0, 0], [2, 0, 1], [4600, 4400, 1000]])
def test_log_bayes_factor_scipy(counts: list[int]) -> None:
    shares = np.array([0.45, 0.45, 0.1])
    n, prior = sum(counts), stats.SRM_WEIGHT * shares
    expected = dirichlet_multinomial.logpmf(counts, prior, n) - multinomial.logpmf(
        counts, n, shares
    )
    assert stats.log_bayes_factor(np.array(counts), shares, prior) == pytest.approx(
        expected, abs=1e-7
    )


@pytest.mark.parametrize(
    ("log_e", "pvalue"), [(np.log(100), 0.01), (0.0, 1.0), (-5000.0, 1.0), (1e5, 0.0)]
)
def test_sample_ratio_pvalue(log_e: float, pvalue: float) -> None:
    assert stats.sample_ratio_pvalue(log_e) == pytest.approx(pvalue)


# Truth, by simulation


def test_words_hold_in_a_small_aa_test(rng: np.random.Generator) -> None:
    # The naive interval claims a difference in every third.
    n = 400
    words, found = read_words(
        [simulate_binary(rng, n, 250, 0.1)],
        [simulate_binary(rng, n, 250, 0.1)],
        "binary",
        "first",
        0.02,
    )
    assert claims(words).mean() <= 0.05 + bound_share(0.05, n)
    lower, upper = stats.naive_interval(found.estimate, found.se)
    assert ((lower > 0) | (upper < 0)).any(axis=1).mean() > 0.2


@pytest.mark.parametrize(("n_per_look", "rate"), [(10, 0.005), (50, 0.005), (200, 0.001)])
def test_words_hold_where_rare_losses_carry_the_variance(n_per_look: int, rate: float) -> None:
    # Nine to one; without the rule on kurtosis three in ten claim a difference.
    rng, n = np.random.default_rng(5), 1000
    treatment, control = (
        simulate_losses(rng, n, size, rate, 10_000) for size in (9 * n_per_look, n_per_look)
    )
    words, found = read_words([treatment], [control], "numeric", "first", 20)
    assert claims(words).mean() <= 0.05 + bound_share(0.05, n)
    is_late = stats.is_burnt_in(control, "numeric")
    assert (is_late & ((found.lower > 0) | (found.upper < 0))).any(axis=1).mean() > 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "n_per_look", "effect"), [(0.02, 1000, 0.005), (0.02, 200, 0.02), (0.2, 400, 0.02)]
)
def test_words_hold_in_aa_tests_of_two_verdicts(
    rate: float, n_per_look: int, effect: float
) -> None:
    rng = np.random.default_rng(1)
    n = 5000
    a, b = (simulate_binary(rng, n, int(0.45 * n_per_look), rate) for _ in "AB")
    control = simulate_binary(rng, n, int(0.1 * n_per_look), rate)
    works, _ = read_words([a, b], [control], "binary", "first", effect, 0.025)
    against, _ = read_words([b], [a], "binary", "first", effect, 0.025)
    assert (claims(works) | claims(against)).mean() <= 0.05 + bound_share(0.05, n)
    single, _ = read_words([b], [a], "binary", "first", effect)
    assert claims(single).mean() <= 0.05 + bound_share(0.05, n)
    assert (against[:, -1] != TOO_EARLY).all()


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1, 9])
def test_words_hold_in_aa_tests_of_amounts(ratio: int) -> None:
    # Skewed amounts need a cap, here the 95 % quantile of purchases, the more so if the control is
    # small.
    rng = np.random.default_rng(2)
    cap = np.exp(1.5 * 1.644854)
    found = []
    for _ in range(10):
        treatment, control = (
            simulate_amounts(rng, 400, 60 * ratio, cap),
            simulate_amounts(rng, 400, 60, cap),
        )
        words, _ = read_words([treatment], [control], "numeric", "first", 0.2)
        found.append(claims(words))
    assert np.mean(found) <= 0.05 + bound_share(0.05, 4000)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "n_new"), [(0.1, 20), (0.02, 30)])
def test_words_hold_in_aa_tests_of_repeated_candidates(rate: float, n_new: int) -> None:
    rng = np.random.default_rng(3)
    found, found_blind = [], []
    for _ in range(20):
        sides = [simulate_repeated(rng, 200, n_new, rate) for _ in range(2)]
        found.append(claims(read_words(sides[:1], sides[1:], "binary", "all", rate / 2)[0]))
        blind = [
            Moments(m.sum_n, m.sum_y, m.sum_n, m.sum_y, m.sum_n, m.sum_y, m.sum_y) for m in sides
        ]  # exposures as if of strangers
        found_blind.append(claims(read_words(blind[:1], blind[1:], "binary", "first", rate / 2)[0]))
    assert np.mean(found) <= 0.05 + bound_share(0.05, 4000)
    assert np.mean(found_blind) > 0.1


@pytest.mark.slow
def test_compare_covers_at_all_looks() -> None:
    rng = np.random.default_rng(4)
    n = 5000
    treatment, control = simulate_binary(rng, n, 500, 0.06), simulate_binary(rng, n, 500, 0.05)
    means = [stats.estimate_mean(moments, "binary", "first") for moments in (treatment, control)]
    words, found = read_words([treatment], [control], "binary", "first", 0.01)
    is_late = words != TOO_EARLY
    assert is_late[:, 1:].all()
    covers = (found.lower <= 0.01) & (found.upper >= 0.01)
    assert (covers | ~is_late).all(axis=1).mean() >= 0.95 - bound_share(0.95, n)
    lift = stats.compute_lift(means[0], means[1], found.multiplier)
    misses = (lift.lift_lower > 0.2) | (lift.lift_upper < 0.2)
    assert (misses & is_late).any(axis=1).mean() <= 0.05 + bound_share(0.05, n)
    lower, upper = stats.naive_interval(found.estimate, found.se)
    assert (((lower <= 0.01) & (upper >= 0.01)) | ~is_late).all(axis=1).mean() < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("n_verdicts", [1, 2])
def test_plan_sample_has_the_power(n_verdicts: int) -> None:
    # 5 % against 6 %. The plan counts until the first decision, which the report shows beside
    # today's word.
    rng = np.random.default_rng(5)
    n, n_per_look = 5000, 200
    plan = stats.plan_sample(0.06 * 0.94 / 0.5 + 0.05 * 0.95 / 0.5, 0.01, n_verdicts)
    n_looks = plan.n_most // (2 * n_per_look)
    treatment, control = (
        simulate_binary(rng, n, n_per_look, rate, n_looks) for rate in (0.06, 0.05)
    )
    words, _ = read_words([treatment], [control], "binary", "first", 0.01, 0.05 / n_verdicts)
    is_better = words == BETTER
    assert is_better.any(axis=1).mean() == pytest.approx(0.8, abs=0.01 + bound_share(0.8, n))
    first = np.where(is_better.any(axis=1), is_better.argmax(axis=1) + 1, np.inf)
    assert 2 * n_per_look * np.median(first) == pytest.approx(plan.n_median, rel=0.1)


@pytest.mark.slow
def test_look_factors_brownian_motion() -> None:
    # Time in fixed-horizon samples, 40 looks in each; the table is rounded, and simulated to about
    # .005 here.
    rng = np.random.default_rng(6)
    times = np.arange(1, 161) / 40 - rng.uniform(0, 1 / 40, size=(25, 1))
    firsts: dict[int, list[np.ndarray]] = {m: [] for m in (1, 2, 3, 4, 5, 6, 20)}
    for looks in times:
        estimates, se = simulate_motion(rng, 2000, looks / stats.plan_se(1, 0.05) ** 2, effect=1.0)
        for m, found in firsts.items():
            alpha = 0.05 / m
            lower = stats.compare(Mean(estimates, se**2), Mean(0.0, 0.0), 1.0, alpha).lower
            found.append(
                np.where((lower > 0).any(axis=1), looks[(lower > 0).argmax(axis=1)], np.inf)
            )
    for m, found in firsts.items():
        expected = stats.plan_sample(0.5e4 / 0.5 + 0.0 / 0.5, 1.0, m)
        simulated = np.quantile(np.concatenate(found), [0.8, 0.5])
        factors = np.array([expected.n_most, expected.n_median]) / expected.n_fixed
        assert simulated == pytest.approx(factors, abs=0.02 if m <= 6 else 0.04), m


@pytest.mark.slow
def test_compute_sequence_spends_alpha_and_no_more() -> None:
    # With looks without a gap and for ever, 5 % cross the bound (Robbins 1970); 4,000 looks over
    # nine decades come close.
    rng = np.random.default_rng(7)
    n_crossed = 0
    for _ in range(20):
        estimates, se = simulate_motion(rng, 1000, np.geomspace(1e-3, 1e6, 4000))
        found = stats.compute_sequence(estimates, se, stats.tune_information(0.05) * se**-2, 0.05)
        n_crossed += ((found.lower > 0) | (found.upper < 0)).any(axis=1).sum()
    assert 0.04 <= n_crossed / 20_000 <= 0.05 + bound_share(0.05, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize(("n_looks", "share"), [(5, 0.142), (10, 0.193), (20, 0.248), (50, 0.320)])
def test_naive_interval_armitage(n_looks: int, share: float) -> None:
    estimates, se = simulate_motion(np.random.default_rng(8), 100_000, np.arange(1.0, n_looks + 1))
    lower, upper = stats.naive_interval(estimates, se)
    assert ((lower > 0) | (upper < 0)).any(axis=1).mean() == pytest.approx(
        share, abs=0.0005 + bound_share(share, 100_000)
    )


@pytest.mark.slow
def test_sample_ratio_pvalue_false_alarms_and_power() -> None:
    rng = np.random.default_rng(9)
    shares = np.array([0.45, 0.45, 0.1])
    for broken, n in ((1.0, 20_000), (0.95, 2000)):  # control loses nobody, A five in a hundred
        kept = shares * [broken, 1, 1]
        counts = rng.multinomial(1000, kept / kept.sum(), size=(n, N_LOOKS)).cumsum(axis=1)
        pvalues = stats.sample_ratio_pvalue(
            stats.log_bayes_factor(counts, shares, stats.SRM_WEIGHT * shares)
        )
        alarms = (pvalues < stats.SRM_ALPHA).any(axis=1).mean()
        if broken == 1:
            assert alarms <= 0.01 + bound_share(0.01, n)
        else:
            assert alarms > 0.95


def test_check_shares_of_cookie_cats() -> None:
    """The experiment's published sizes: a chi-square p of .0086, for who looks once."""
    found = stats.check_shares(np.array([44_700, 45_489]), np.array([0.5, 0.5]), stats.SRM_WEIGHT)
    assert found.pvalue_single == pytest.approx(0.0086, abs=5e-5)
    log_e = betabinom.logpmf(44_700, 90_189, 500, 500) - binom.logpmf(44_700, 90_189, 0.5)
    assert found.pvalue == pytest.approx(np.exp(-log_e), rel=1e-6)
    assert found.pvalue == pytest.approx(0.31, abs=0.005)


def simulate_alarms(n: int, swing: float) -> np.ndarray:
    """Shares that change by night and balance, 200 a night; shape (n, looks)."""
    rng, shares = np.random.default_rng(10), np.array([0.5, 0.5])
    towards = swing * (-1) ** np.arange(N_LOOKS)
    a = rng.binomial(200, 0.5 + towards, size=(n, N_LOOKS))
    counts = np.stack([a, 200 - a], axis=-1)
    prior = stats.SRM_NIGHT_WEIGHT * shares
    nights = stats.log_bayes_factor(counts, shares, prior).cumsum(axis=1)
    pairs = zip(counts.cumsum(axis=1).reshape(-1, 2), nights.ravel(), strict=True)
    tests = [stats.check_shares(sizes, shares, 1000, evidence) for sizes, evidence in pairs]
    return np.reshape([test.pvalue < stats.SRM_ALPHA for test in tests], counts.shape[:2])


def test_check_shares_finds_shares_that_change_by_night() -> None:
    alarms = simulate_alarms(15, 0.08)
    assert alarms.any(axis=1).all()
    assert np.median(alarms.argmax(axis=1) + 1) <= 7


@pytest.mark.slow
def test_check_shares_false_alarms_of_recorded_variants() -> None:
    assert simulate_alarms(500, 0).any(axis=1).mean() <= 0.01 + bound_share(0.01, 500)


def simulate_visits(
    rng: np.random.Generator, n_new: int, stops: int | None
) -> Iterator[list[Moments]]:
    """How often candidates came, night by night, in runs of one to eight nights.

    Those of the variant `stops` come once.
    """
    n = n_new * N_LOOKS
    first, length = np.repeat(np.arange(N_LOOKS), n_new), rng.integers(1, 9, n)
    variant = rng.choice(3, n, p=[0.45, 0.45, 0.1])
    length[variant == stops] = 1
    for night in range(N_LOOKS):
        n_visits = np.minimum(night + 1 - first, length)
        came = [n_visits[(variant == i) & (n_visits > 0)] for i in range(3)]
        yield [stats.compute_moments(np.ones(len(y)), y) for y in came]


@pytest.mark.parametrize(("stops", "most"), [(0, 6), (2, 6), (None, N_LOOKS)])
def test_check_exposures_finds_a_variant_that_stops(stops: int | None, most: int) -> None:
    rng, n_alarms = np.random.default_rng(11), 0
    for _ in range(3):
        pvalues = [
            stats.check_exposures(variants, stats.EXPOSURES_EFFECT, stats.SRM_ALPHA).pvalue
            for variants in simulate_visits(rng, 300, stops)
        ]
        n_alarms += min(pvalues[:most]) < stats.SRM_ALPHA
    assert n_alarms == (0 if stops is None else 3)


def test_check_exposures_by_hand() -> None:
    """Sizes 300 and 700, means 2 and 3; the variance is that between all, as in a permutation."""
    y = [np.tile([1, 3], 150), np.tile([1, 3, 2, 4, 3, 5, 3], 100)]
    moments = [stats.compute_moments(np.ones(len(visits)), visits) for visits in y]
    both = np.concatenate(y)
    found = stats.check_exposures(moments, 0.1, 0.01)
    se = both.std(ddof=1) * (1 / 300 + 1 / 700) ** 0.5 / both.mean()
    estimate = (2 - 3) / both.mean()
    x = stats.tune_information(0.01) * (0.1 / (norm.ppf(0.995) + norm.ppf(0.8)) / se) ** 2
    expected = (1 + x) ** 0.5 * np.exp(-((estimate / se) ** 2) / 2 * x / (1 + x))
    assert found.pvalue == pytest.approx(expected)
    assert found.pvalue_single == pytest.approx(2 * norm.sf(abs(estimate / se)))


@pytest.mark.parametrize(
    ("visits", "alarms"),
    [([4, 1], True), ([1, 1], False), ([4, 4], False), ([4, 1, 4], True)],
)
def test_check_exposures_where_all_of_a_variant_come_alike(visits: list[int], alarms: bool) -> None:
    moments = [stats.compute_moments(np.ones(200), np.full(200, n)) for n in visits]
    found = stats.check_exposures(moments, 0.1, 0.01)
    assert (found.pvalue < 0.01) == alarms
    assert np.isnan(found.pvalue_single) != alarms
    few = [stats.compute_moments(np.ones(99), np.full(99, n)) for n in visits]
    assert stats.check_exposures(few, 0.1, 0.01).pvalue == 1


@pytest.mark.slow
@pytest.mark.parametrize("n_new", [50, 200])
def test_check_exposures_false_alarms(n_new: int) -> None:
    rng, n, n_alarms = np.random.default_rng(12), 300, 0
    for _ in range(n):
        n_alarms += any(
            stats.check_exposures(variants, stats.EXPOSURES_EFFECT, stats.SRM_ALPHA).pvalue
            < stats.SRM_ALPHA
            for variants in simulate_visits(rng, n_new, None)
        )
    assert n_alarms / n <= 0.01 + bound_share(0.01, n)


@pytest.mark.parametrize(
    ("kind", "rate", "expected"),
    [
        ("binary", 0.5, 100),
        ("binary", 0.001, 10_000),
        ("binary", 0.98, 500),
        ("numeric", 1.0, 100),
        ("numeric", 0.01, 10_000),
    ],
)
def test_plan_burn_in_by_hand(kind: str, rate: float, expected: float) -> None:
    assert stats.plan_burn_in(kind, rate) == pytest.approx(expected)


def test_measure_shift_of_those_who_are_left_out() -> None:
    """Groups of 900 and 100 with 45 and 5 buyers; who is left out: 20 of whom 19 buy."""
    ones = np.ones
    groups = [
        stats.compute_moments(ones(n), (np.arange(n) < n // 20).astype(float)) for n in (900, 100)
    ]
    left_out = stats.compute_moments(ones(20), (np.arange(20) < 19).astype(float))
    assert stats.measure_shift(left_out, groups) == pytest.approx((19 - 20 / 20) / (100 + 20))
    # One buyer is expected; 3 more than that are within 4 * sqrt(20 * .05 * .95) = 3.9.
    for n_buy in (1, 4):
        alike = stats.compute_moments(ones(20), (np.arange(20) < n_buy).astype(float))
        assert np.isnan(stats.measure_shift(alike, groups))
    alike = stats.compute_moments(ones(20), (np.arange(20) < 5).astype(float))
    assert stats.measure_shift(alike, groups) == pytest.approx(4 / 120)
    assert np.isnan(stats.measure_shift(stats.Moments(), groups))
    assert np.isnan(stats.measure_shift(left_out, []))
