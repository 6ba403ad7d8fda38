"""Against scikit-learn and scipy on predictions that lie on the histogram's grid.

There no rounding stands between the two.
"""

import io
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from itertools import chain, product
from operator import add
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
    roc_curve,
)

from abatch.statistics.metrics import (
    LIMIT,
    N_BINS,
    Histogram,
    Metric,
    jackknife_interval,
    make_histogram,
    measure,
    pack_histogram,
    unpack_histogram,
)

STEP = 2 * LIMIT / (N_BINS - 1)


def snap(log_odds: np.ndarray) -> np.ndarray:
    """The nearest log-odds on the histogram's grid."""
    return np.rint((np.clip(log_odds, -LIMIT, LIMIT) + LIMIT) / STEP) * STEP - LIMIT


def measure_all(
    prediction: np.ndarray, outcome: np.ndarray, bucket: np.ndarray | None = None
) -> dict[str, Metric]:
    bucket = np.arange(len(outcome)) % 64 if bucket is None else bucket
    return measure(make_histogram(prediction, outcome, bucket, 64))


def draw(
    rng: np.random.Generator, n: int, rate: float = 0.2, slope: float = 0.7, tie: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions on the grid and outcomes that they over- or understate.

    With `tie`, few different predictions.
    """
    log_odds = rng.normal(np.log(rate / (1 - rate)), 1.2, size=n)
    outcome = (rng.random(n) < expit(slope * log_odds + 0.2)).astype(np.int64)
    return expit(snap(np.round(log_odds / tie) * tie if tie else log_odds)), outcome


CASES = {
    "distinct": {"n": 3000},
    "ties": {"n": 3000, "tie": 0.5},
    "heavy ties": {"n": 500, "tie": 3.0},
    "rare": {"n": 5000, "rate": 0.01},
    "small": {"n": 150},
    "far too sure": {"n": 3000, "slope": 0.05},
    "inverted": {"n": 3000, "slope": -0.6},
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_measure_equals_scikit_learn(case: dict[str, Any]) -> None:
    prediction, outcome = draw(np.random.default_rng(7), **case)
    base_rate = outcome.mean()
    log_odds = np.log(prediction / (1 - prediction))
    logistic = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky").fit(
        log_odds[:, None], outcome
    )
    brier = brier_score_loss(outcome, prediction)
    expected = {
        "n": len(outcome),
        "n_positive": outcome.sum(),
        "base_rate": base_rate,
        "roc_auc": roc_auc_score(outcome, prediction),
        "gini": 2 * roc_auc_score(outcome, prediction) - 1,
        "ks": (
            stats.ks_2samp(
                prediction[outcome == 1], prediction[outcome == 0], method="asymp"
            ).statistic
        ),
        "average_precision": average_precision_score(outcome, prediction),
        "log_loss": log_loss(outcome, prediction),
        "brier": brier,
        "brier_skill": 1 - brier / brier_score_loss(outcome, np.full(len(outcome), base_rate)),
        "calibration_intercept": logistic.intercept_[0],
        "calibration_slope": logistic.coef_[0, 0],
    }
    found = measure_all(prediction, outcome)
    assert {name: found[name].value for name in expected} == pytest.approx(
        expected, rel=1e-6, abs=1e-7
    )
    assert all(
        metric.n_obs == len(outcome)
        for name, metric in found.items()
        if not name.startswith("reliability")
    )


def test_measure_calibration_survives_predictions_that_are_far_too_sure() -> None:
    # A forest's votes: many 0 and 1. Newton from slope 1 runs away here.
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    outcome = (rng.random(4000) < expit(0.3 * x)).astype(np.int64)
    prediction = np.round(np.clip(0.5 + 0.4 * x, 0, 1), 1)
    with np.errstate(divide="ignore"):
        log_odds = np.clip(snap(np.log(prediction) - np.log1p(-prediction)), -12, 12)
    logistic = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky").fit(
        log_odds[:, None], outcome
    )
    found = measure_all(prediction, outcome)
    assert found["calibration_slope"].value == pytest.approx(logistic.coef_[0, 0], rel=1e-6)
    assert found["calibration_intercept"].value == pytest.approx(logistic.intercept_[0], rel=1e-6)


def test_measure_predictions_of_zero_and_one() -> None:
    rng = np.random.default_rng(3)
    prediction, outcome = draw(rng, 2000)
    prediction[:300] = rng.integers(0, 2, 300)
    found = measure_all(prediction, outcome)
    assert found["roc_auc"].value == pytest.approx(roc_auc_score(outcome, prediction), rel=1e-12)
    assert found["average_precision"].value == pytest.approx(
        average_precision_score(outcome, prediction), rel=1e-12
    )
    assert found["log_loss"].value == pytest.approx(log_loss(outcome, prediction), rel=1e-12)
    assert found["brier"].value == pytest.approx(brier_score_loss(outcome, prediction), rel=1e-12)
    assert all(np.isfinite(metric.value) for metric in found.values())


def test_measure_roc_auc_published_with_ties() -> None:
    # Hanley & McNeil (1982), Radiology 143, 29-36, table I: 58 normal and 51 abnormal images rated
    # 1 to 5; W = .893, SE .032.
    ratings = np.repeat([1, 2, 3, 4, 5] * 2, [33, 6, 6, 11, 2, 3, 2, 2, 11, 33])
    found = measure_all(ratings / 6, np.repeat([0, 1], [58, 51]))["roc_auc"]
    assert found.value == pytest.approx(0.893, abs=0.0005)
    assert (found.upper - found.lower) / 2 / 1.998 == pytest.approx(0.032, abs=0.003)


def test_measure_top_decile_hand_sum() -> None:
    # The best tenth of 200 is 20: all 10 at .9 (8 of them positive) and 10 of the 40 at .5 (12
    # positive, so 3 of them).
    prediction = np.repeat([0.9, 0.5, 0.1], [10, 40, 150])
    outcome = np.concatenate(
        [np.arange(size) < positive for size, positive in ((10, 8), (40, 12), (150, 10))]
    ).astype(np.int64)
    found = measure_all(prediction, outcome)
    assert found["capture_top_decile"].value == pytest.approx(11 / 30)
    assert found["lift_top_decile"].value == pytest.approx(110 / 30)


def test_measure_reliability_of_ten_equal_parts() -> None:
    prediction, outcome = draw(np.random.default_rng(5), 1000)
    prediction = expit(snap(np.linspace(-5, 3, 1000)))  # all different
    found = measure_all(prediction, outcome)
    for number, (part, happened) in enumerate(
        zip(np.split(prediction, 10), np.split(outcome, 10), strict=True), start=1
    ):
        assert found[f"reliability_prediction_{number:02}"].value == pytest.approx(
            part.mean(), rel=1e-9
        )
        assert found[f"reliability_rate_{number:02}"].value == pytest.approx(
            happened.mean(), rel=1e-12
        )
        assert found[f"reliability_rate_{number:02}"].n_obs == 100


def test_measure_reliability_interval_equals_plain_jackknife() -> None:
    _, outcome = draw(np.random.default_rng(6), 1000)
    bucket = np.random.default_rng(7).integers(
        0, 10, size=1000
    )  # the other 54 are empty, and count for nothing
    found = measure_all(expit(snap(np.linspace(-5, 3, 1000))), outcome, bucket)[
        "reliability_rate_10"
    ]
    outcome, bucket = outcome[900:], bucket[900:]
    without = np.array([outcome[bucket != one].mean() for one in range(10)])
    half = 2.2621572 * np.sqrt(
        9 / 10 * np.sum((without - without.mean()) ** 2)
    )  # t table: .975, 9 degrees of freedom
    assert found[:3] == pytest.approx(
        (outcome.mean(), outcome.mean() - half, outcome.mean() + half), rel=1e-7
    )


@pytest.mark.parametrize(
    ("n_negative", "n_positive", "all_metrics"),
    [(500, 19, False), (19, 500, False), (20, 20, True), (0, 30, False)],
)
def test_measure_few_cases_counts_only(n_negative: int, n_positive: int, all_metrics: bool) -> None:
    outcome = np.repeat([0, 1], [n_negative, n_positive])
    found = measure_all(np.random.default_rng(0).random(len(outcome)), outcome)
    assert ("roc_auc" in found) == all_metrics
    assert all_metrics or found.keys() == {"n", "n_positive"}
    assert (found["n"].value, found["n_positive"].value) == (n_negative + n_positive, n_positive)


@pytest.mark.parametrize(
    "low_high", [(0.0, 1.0), (0.2, 0.8), None], ids=["zero and one", "two values", "many values"]
)
def test_measure_perfect_separation_has_no_calibration(
    low_high: tuple[float, float] | None,
) -> None:
    outcome = np.repeat([0, 1], 50)
    prediction = np.linspace(0.1, 0.9, 100) if low_high is None else np.repeat(low_high, 50)
    found = measure_all(prediction, outcome)
    assert found["roc_auc"].value == found["ks"].value == found["average_precision"].value == 1
    for name in ("calibration_intercept", "calibration_slope"):
        assert np.isnan(found[name][:3]).all()


def test_measure_constant_prediction() -> None:
    found = measure_all(np.full(200, 0.25), np.repeat([0, 1], [150, 50]))
    assert found["roc_auc"].value == 0.5
    assert found["ks"].value == 0
    assert found["average_precision"].value == found["base_rate"].value == 0.25
    assert found["capture_top_decile"].value == pytest.approx(0.1)
    assert found["brier_skill"].value == pytest.approx(0, abs=1e-12)
    assert np.isnan(found["calibration_slope"].value)


@pytest.mark.parametrize(
    "everybody", [True, False], ids=["all rows in one bucket", "all positives in one bucket"]
)
def test_measure_no_interval_when_a_bucket_holds_all(everybody: bool) -> None:
    outcome = np.repeat([0, 1], 50)
    bucket = (
        np.zeros(100, dtype=np.int64)
        if everybody
        else np.where(outcome == 1, 0, np.arange(100) % 63 + 1)
    )
    found = measure_all(np.random.default_rng(0).random(100), outcome, bucket)
    assert np.isfinite(found["roc_auc"].value)
    assert np.isnan([found["roc_auc"].lower, found["roc_auc"].upper]).all()


def measure_exactly(prediction: np.ndarray, outcome: np.ndarray) -> dict[str, float]:
    """The three rank metrics from the predictions themselves."""
    false_positive_rate, true_positive_rate, _ = roc_curve(
        outcome, prediction, drop_intermediate=False
    )
    return {
        "roc_auc": roc_auc_score(outcome, prediction),
        "ks": np.abs(true_positive_rate - false_positive_rate).max(),
        "average_precision": average_precision_score(outcome, prediction),
    }


# Log-odds: spread wide, mostly beyond the limits, in a few bins, in two bins, tied and in bins, on
# the edges between bins.
CLUSTERS = {
    "wide": lambda rng, n: rng.normal(-2, 2, n),
    "clipped": lambda rng, n: rng.normal(-30, 15, n),
    "all clipped": lambda rng, n: rng.normal(-60, 2, n),
    "coarse": lambda rng, n: -1 + rng.normal(0, 5 * STEP, n),
    "two bins": lambda rng, n: -1 + rng.random(n) * 2 * STEP,
    "heavy ties": lambda rng, n: -1 + np.round(rng.normal(0, 2, n)) * STEP / 3,
    "edges": (
        lambda rng, n: (rng.integers(-4, 4, n) + 0.5) * STEP * (1 + rng.choice([-1e-9, 0, 1e-9], n))
    ),
}


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(60, 600),
    rate=st.floats(0.1, 0.9),
    lift=st.floats(-3, 3),
    kind=st.sampled_from([*CLUSTERS]),
)
def test_measure_bracket_holds_the_exact_figure(
    seed: int, n: int, rate: float, lift: float, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    log_odds = CLUSTERS[kind](rng, n)
    ranks = (
        stats.rankdata(log_odds) / n - 0.5
    )  # so that outcomes follow the order inside a bin, too
    outcome = (rng.random(n) < np.clip(rate + lift * ranks, 0, 1)).astype(np.int64)
    outcome[:40] = np.arange(40) % 2
    prediction = expit(log_odds)
    found = measure_all(prediction, outcome)
    for name, exact in measure_exactly(prediction, outcome).items():
        assert abs(found[name].value - exact) <= found[f"{name}_bracket"].value + 1e-9
        assert found[f"{name}_bracket"].value <= 1


def test_measure_bracket_is_reached_by_some_order_inside_the_bins() -> None:
    # Two negatives and two positives share the bin in the middle of others that have one each.
    outside, outcome = snap(np.linspace(-5, 5, 40)), np.array([0] * 20 + [1] * 20 + [0, 0, 1, 1])
    deviations = []
    for order in product([-1, 0, 1], repeat=4):
        prediction = expit(
            np.concatenate([outside, snap(np.zeros(1)) + np.array(order) * STEP / 10])
        )
        found, exact = measure_all(prediction, outcome), measure_exactly(prediction, outcome)
        deviations.append([abs(found[name].value - value) for name, value in exact.items()])
    brackets = [found[f"{name}_bracket"].value for name in exact]
    assert np.max(deviations, axis=0) == pytest.approx(brackets, rel=1e-9)
    assert brackets[0] == pytest.approx(1 / 2 * (2 / 22) * (2 / 22))
    assert brackets[1] == pytest.approx(2 / 22)
    assert found["gini_bracket"].value == pytest.approx(2 * brackets[0])  # Gini is 2 * AUC - 1


def test_measure_bracket_of_predictions_that_share_a_bin() -> None:
    """Of 200, 40 positive, any 20 may be the tenth: 4 of the 40 by chance, 0 to 20 in truth.

    Nothing of their order is measured.
    """
    found = measure_all(np.full(200, 1e-17), np.repeat([0, 1], [160, 40]))
    figures = {"roc_auc": 0.5, "gini": 0, "capture_top_decile": 0.1, "lift_top_decile": 1}
    brackets = {"roc_auc": 0.5, "gini": 1, "capture_top_decile": 0.4, "lift_top_decile": 4}
    for name, value in figures.items():
        assert found[name].value == pytest.approx(value)
        assert found[f"{name}_bracket"].value == pytest.approx(brackets[name])


def test_measure_no_bracket_where_bins_hold_one_each() -> None:
    found = measure_all(
        expit(snap(np.linspace(-6, 6, 300))), np.random.default_rng(2).integers(0, 2, 300)
    )
    for name in ("roc_auc_bracket", "ks_bracket", "average_precision_bracket"):
        assert found[name].value == pytest.approx(0, abs=1e-12)


def test_measure_of_predictions_between_the_bins() -> None:
    rng = np.random.default_rng(17)
    log_odds = rng.normal(-1.5, 1.2, size=5000)
    outcome = (rng.random(5000) < expit(0.8 * log_odds - 0.1)).astype(np.int64)
    prediction = expit(log_odds)
    logistic = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky").fit(
        log_odds[:, None], outcome
    )
    found = measure_all(prediction, outcome)
    assert found["log_loss"].value == pytest.approx(log_loss(outcome, prediction), rel=1e-12)
    assert found["brier"].value == pytest.approx(brier_score_loss(outcome, prediction), rel=1e-12)
    assert found["calibration_intercept"].value == pytest.approx(logistic.intercept_[0], abs=STEP)
    assert found["calibration_slope"].value == pytest.approx(logistic.coef_[0, 0], abs=STEP)
    for name, exact in measure_exactly(prediction, outcome).items():
        assert abs(found[name].value - exact) <= found[f"{name}_bracket"].value < 0.001


def test_measure_holds_little_more_than_the_histogram() -> None:
    # 65,536 bins filled, as 10^7 rows may: the jackknife on all buckets at once would take eight
    # times the histogram.
    counts = np.zeros((64, 2, N_BINS), dtype=np.int64)
    counts[..., 65_536:131_072] = np.random.default_rng(0).integers(0, 2, size=(64, 2, 65_536))
    cells = np.flatnonzero(counts)
    histogram = Histogram(cells, counts.ravel()[cells], np.ones((64, 2)))
    tracemalloc.start()
    try:
        found = measure(histogram)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * 64 * 2 * 65_536 * 8  # the table itself is made in here
    assert found["roc_auc"].lower < 0.5 < found["roc_auc"].upper


@pytest.mark.parametrize(("centre", "spread"), [(-14, 1), (-20, 3), (-30, 1.5), (14, 1), (0, 7)])
def test_measure_of_rare_and_nearly_certain_outcomes_equals_scikit_learn(
    centre: float, spread: float
) -> None:
    # Far too low or too high throughout, as of a model fitted on a sample of the negatives:
    # probabilities of 1e-7, 1e-9, 1e-13, 1 - 1e-6, and of both ends.
    rng = np.random.default_rng(17)
    log_odds = rng.normal(centre, spread, size=5000)
    outcome = (rng.random(5000) < expit((log_odds - centre) / spread - 2)).astype(np.int64)
    prediction = expit(log_odds)
    log_odds = np.log(prediction) - np.log1p(-prediction)  # what float64 has kept of it
    logistic = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky").fit(
        log_odds[:, None], outcome
    )
    found = measure_all(prediction, outcome)
    for name, exact in measure_exactly(prediction, outcome).items():
        assert abs(found[name].value - exact) <= found[f"{name}_bracket"].value < 0.001
    assert found["calibration_intercept"].value == pytest.approx(logistic.intercept_[0], abs=0.001)
    assert found["calibration_slope"].value == pytest.approx(logistic.coef_[0, 0], abs=0.001)


def test_measure_calibration_takes_0_and_1_for_the_outermost_of_the_others() -> None:
    rng = np.random.default_rng(18)
    log_odds = snap(rng.normal(-16, 1, size=3000))
    outcome = (rng.random(3000) < expit(log_odds + 15)).astype(np.int64)
    prediction = expit(log_odds)
    prediction[:100], log_odds[:100] = 0, log_odds[100:].min()
    logistic = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky").fit(
        log_odds[:, None], outcome
    )
    found = measure_all(prediction, outcome)["calibration_slope"].value
    assert found == pytest.approx(logistic.coef_[0, 0], rel=1e-6)


def test_measure_interval_equals_plain_jackknife() -> None:
    prediction, outcome = draw(np.random.default_rng(11), 600)
    bucket = np.random.default_rng(12).integers(0, 64, size=600)
    scorers = {
        "roc_auc": roc_auc_score,
        "average_precision": average_precision_score,
        "log_loss": log_loss,
        "brier": brier_score_loss,
    }
    found = measure_all(prediction, outcome, bucket)
    for name, scorer in scorers.items():
        without = [scorer(outcome[bucket != one], prediction[bucket != one]) for one in range(64)]
        mean = sum(without) / 64
        half = (
            1.9983405 * (63 / 64 * sum((value - mean) ** 2 for value in without)) ** 0.5
        )  # t table: .975, 63 degrees of freedom
        value = scorer(outcome, prediction)
        assert found[name][:3] == pytest.approx((value, value - half, value + half), rel=1e-7)


def test_measure_calibration_interval_equals_plain_jackknife() -> None:
    prediction, outcome = draw(np.random.default_rng(13), 400)
    log_odds, bucket = np.log(prediction / (1 - prediction)), np.arange(400) % 10

    def fit_slope(rows: np.ndarray) -> float:
        logistic = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky")
        return float(logistic.fit(log_odds[rows, None], outcome[rows]).coef_[0, 0])

    without = np.array([fit_slope(bucket != one) for one in range(10)])
    half = 2.2621572 * np.sqrt(
        9 / 10 * np.sum((without - without.mean()) ** 2)
    )  # t table: .975, 9 degrees of freedom
    found = measure_all(prediction, outcome, bucket)["calibration_slope"]
    assert (found.upper - found.lower) / 2 == pytest.approx(half, rel=1e-6)


@pytest.mark.parametrize(("n_candidates", "rows_per_candidate"), [(250, 1), (100, 8)])
def test_measure_interval_covers_true_roc_auc(n_candidates: int, rows_per_candidate: int) -> None:
    # Two normal distributions one standard deviation apart: AUC = Phi(1 / sqrt(2)). Rows of a
    # candidate share outcome and half the variance of the score. 400 rounds: standard error of a
    # coverage of .95 is .011; three of them are allowed.
    rng = np.random.default_rng(20261123)
    n_rounds, true = 400, stats.norm.cdf(1 / np.sqrt(2))
    covered = 0
    for _ in range(n_rounds):
        candidate = np.repeat(np.arange(n_candidates), rows_per_candidate)
        outcome = (rng.random(n_candidates) < 0.4).astype(np.int64)[candidate]
        own, shared = rng.normal(size=len(candidate)), rng.normal(size=n_candidates)[candidate]
        prediction = expit(outcome + np.sqrt(0.5) * own + np.sqrt(0.5) * shared)
        bucket = rng.integers(0, 64, size=n_candidates)[candidate]
        found = measure_all(prediction, outcome, bucket)["roc_auc"]
        covered += found.lower <= true <= found.upper
    assert abs(covered / n_rounds - 0.95) < 3 * np.sqrt(0.95 * 0.05 / n_rounds)


@pytest.mark.parametrize(
    ("n", "rate", "apart"), [(300, 0.2, 0.0), (300, 0.2, 0.5), (1000, 0.04, 1.0)]
)
def test_measure_interval_covers_true_ks(n: int, rate: float, apart: float) -> None:
    # Two normal distributions: KS = 2 Phi(apart / 2) - 1. The plain jackknife covers .55, .88 and
    # .87 here (2,000 rounds). 400 rounds: three standard errors below .95 are allowed, and none
    # above, for the lower end reaches down as far as chance may.
    rng = np.random.default_rng(20261123)
    n_rounds, true = 400, 2 * stats.norm.cdf(apart / 2) - 1
    covered = 0
    for _ in range(n_rounds):
        outcome = (np.arange(n) < rate * n).astype(np.int64)
        prediction = expit(apart * outcome + rng.normal(size=n))
        found = measure_all(prediction, outcome, rng.integers(0, 64, size=n))["ks"]
        covered += found.lower <= true <= found.upper
    assert covered / n_rounds > 0.95 - 3 * np.sqrt(0.95 * 0.05 / n_rounds)


def test_measure_ks_interval_equals_plain_jackknife_less_the_excess_of_halves() -> None:
    prediction, outcome = draw(np.random.default_rng(21), 600)
    bucket = np.random.default_rng(22).integers(0, 64, size=600)

    def compute_ks(rows: np.ndarray) -> float:
        y, p = outcome[rows], prediction[rows]
        return float(stats.ks_2samp(p[y == 1], p[y == 0], method="asymp").statistic)

    without = np.array([compute_ks(bucket != one) for one in range(64)])
    half = 1.9983405 * np.sqrt(63 / 64 * np.sum((without - without.mean()) ** 2))
    # Seven ways to take four of eight eighths, so that each two are apart in four of them: the
    # planes of three bits.
    signs = [[bin(i & j).count("1") % 2 for j in range(8)] for i in range(1, 8)]
    halves = [compute_ks(np.array(sign)[bucket % 8] == part) for sign in signs for part in (0, 1)]
    value = compute_ks(bucket >= 0)
    excess = (np.mean(halves) - value) / (np.sqrt(2) - 1)
    found = measure_all(prediction, outcome, bucket)["ks"]
    assert excess > 0.01
    assert found[:3] == pytest.approx((value, value - half - excess, value + half), rel=1e-6)


ROW = st.tuples(st.floats(0, 1), st.integers(0, 1), st.integers(0, 3))


def condense(rows: Iterable[tuple[float, int, int]]) -> Histogram:
    prediction, outcome, bucket = np.array([*rows], dtype=np.float64).reshape(-1, 3).T
    return make_histogram(prediction, outcome.astype(np.int64), bucket.astype(np.int64), 4)


def assert_equal(found: Histogram, expected: Histogram) -> None:
    for a, b in zip(vars(found).values(), vars(expected).values(), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)  # types and shapes, too


@settings(deadline=None)
@given(st.lists(st.lists(ROW, max_size=15), min_size=1, max_size=5))
def test_histograms_add_up_to_one_pass(chunks: list[list[tuple[float, int, int]]]) -> None:
    once, parts = condense(chain.from_iterable(chunks)), [condense(chunk) for chunk in chunks]
    for total in (reduce(add, parts), reduce(add, reversed(parts))):
        assert_equal(replace(total, losses=once.losses), once)
        np.testing.assert_allclose(total.losses, once.losses, rtol=1e-12, atol=1e-12)
        assert total.counts.sum() == sum(map(len, chunks))


@settings(deadline=None)
@given(st.lists(ROW, max_size=30), st.integers(1, 300))
def test_unpack_histogram_gives_back_what_was_packed(
    rows: list[tuple[float, int, int]], times: int
) -> None:
    histogram = condense(rows * times)
    file = io.BytesIO()
    np.savez_compressed(file, **cast(dict[str, Any], pack_histogram(histogram)))
    file.seek(0)
    with np.load(file) as packed:
        assert_equal(unpack_histogram(packed), histogram)


def test_measure_tells_histograms_apart() -> None:
    # The same losses, by which they are kept, and the outcomes the other way round.
    prediction, outcome = np.repeat([0.25, 0.75], 50), np.repeat([0, 1], [60, 40])
    one = make_histogram(prediction, outcome, np.arange(100) % 4, 4)
    turned = make_histogram(prediction, 1 - outcome, np.arange(100) % 4, 4)
    turned = replace(turned, losses=one.losses)
    assert one == replace(one, counts=one.counts.copy())
    assert one != turned
    assert hash(one) == hash(turned)
    found, of_turned = measure(one), measure(turned)
    assert found["n_positive"].value == 40
    assert of_turned["n_positive"].value == 60
    # By hand: each of the 40 has 0.75, as 10 of the 60 negatives; 50 have 0.25.
    assert found["roc_auc"].value == pytest.approx((40 * 50 + 40 * 10 / 2) / (40 * 60))
    assert of_turned["roc_auc"].value == pytest.approx(1 - found["roc_auc"].value)


def test_make_histogram_of_no_rows() -> None:
    histogram = condense([])
    bins, counts = histogram.tabulate()
    assert (bins.shape, counts.shape, histogram.losses.dtype) == ((0,), (4, 2, 0), np.float64)
    found = [(name, metric.value) for name, metric in measure(histogram).items()]
    assert found == [("n", 0), ("n_positive", 0)]


def test_pack_histogram_holds_filled_cells_alone() -> None:
    histogram = make_histogram(
        np.repeat([0.0, 0.5, 1.0], [1, 2, 300]),
        np.repeat([0, 0, 1], [1, 2, 300]),
        np.repeat([0, 0, 1], [1, 2, 300]),
        2,
    )
    packed = pack_histogram(histogram)
    # Bucket 0, outcome 0: one in bin 0 and two in the middle; bucket 1, outcome 1: all others, in
    # the very last cell.
    assert packed["histogram.steps"].tolist() == [0, N_BINS // 2, 4 * N_BINS - 1 - N_BINS // 2]
    assert packed["histogram.counts"].tolist() == [1, 2, 300]
    assert (packed["histogram.steps"].dtype, packed["histogram.counts"].dtype) == (
        np.uint32,
        np.uint16,
    )


def test_jackknife_interval_of_a_mean_is_student_t() -> None:
    # For a mean of groups of one, the jackknife is the textbook interval: 1 to 5 has mean 3 and
    # standard error sqrt(.5).
    without = (15 - np.arange(1, 6)) / 4
    assert jackknife_interval(3, without) == pytest.approx(
        (3 - 2.7764451 * np.sqrt(0.5), 3 + 2.7764451 * np.sqrt(0.5))
    )
    assert np.isnan(jackknife_interval(3, without[:1])).all()


def test_to_dict_nan_is_null() -> None:
    found = {"roc_auc": Metric(0.75, 0.7, 0.8, 100), "n": Metric(100, np.nan, np.nan, 100)}
    assert {name: metric.to_dict() for name, metric in found.items()} == {
        "roc_auc": {"value": 0.75, "lower": 0.7, "upper": 0.8},
        "n": {"value": 100, "lower": None, "upper": None},
    }
