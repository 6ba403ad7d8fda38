"""Against scikit-learn and scipy on predictions that lie on the histogram's grid, where no rounding stands between the two."""

from collections.abc import Iterable
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from abatch.metrics import LIMIT, N_BINS, Histogram, Metric, jackknife_interval, make_histogram, measure, merge_histograms, to_dict

STEP = 2 * LIMIT / (N_BINS - 1)


def snap(log_odds: np.ndarray) -> np.ndarray:
    """The nearest log-odds on the histogram's grid."""
    return np.rint((np.clip(log_odds, -LIMIT, LIMIT) + LIMIT) / STEP) * STEP - LIMIT


def measure_all(prediction: np.ndarray, outcome: np.ndarray, bucket: np.ndarray | None = None) -> dict[str, Metric]:
    bucket = np.arange(len(outcome)) % 64 if bucket is None else bucket
    return {metric.name: metric for metric in measure(make_histogram(prediction, outcome, bucket, 64))}


def draw(rng: np.random.Generator, n: int, rate: float = 0.2, slope: float = 0.7, tie: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions on the grid and outcomes that they over- or understate; with `tie`, few different predictions."""
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
def test_measure_equals_scikit_learn(case: dict[str, float]) -> None:
    prediction, outcome = draw(np.random.default_rng(7), **case)
    base_rate = outcome.mean()
    log_odds = np.log(prediction / (1 - prediction))
    logistic = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky").fit(log_odds[:, None], outcome)
    brier = brier_score_loss(outcome, prediction)
    expected = {
        "n": len(outcome),
        "n_positive": outcome.sum(),
        "base_rate": base_rate,
        "roc_auc": roc_auc_score(outcome, prediction),
        "gini": 2 * roc_auc_score(outcome, prediction) - 1,
        "ks": stats.ks_2samp(prediction[outcome == 1], prediction[outcome == 0], method="asymp").statistic,
        "average_precision": average_precision_score(outcome, prediction),
        "log_loss": log_loss(outcome, prediction),
        "brier": brier,
        "brier_skill": 1 - brier / brier_score_loss(outcome, np.full(len(outcome), base_rate)),
        "calibration_intercept": logistic.intercept_[0],
        "calibration_slope": logistic.coef_[0, 0],
    }
    found = measure_all(prediction, outcome)
    assert {name: found[name].value for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-7)
    assert all(metric.n_obs == len(outcome) for name, metric in found.items() if not name.startswith("reliability"))


def test_measure_calibration_survives_predictions_that_are_far_too_sure() -> None:
    # A forest's votes: many 0 and 1. Newton from slope 1 runs away here.
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    outcome = (rng.random(4000) < expit(0.3 * x)).astype(np.int64)
    prediction = np.round(np.clip(0.5 + 0.4 * x, 0, 1), 1)
    log_odds = snap(np.log(np.clip(prediction, 1e-9, 1 - 1e-9)) - np.log1p(-np.clip(prediction, 1e-9, 1 - 1e-9)))
    logistic = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky").fit(log_odds[:, None], outcome)
    found = measure_all(prediction, outcome)
    assert found["calibration_slope"].value == pytest.approx(logistic.coef_[0, 0], rel=1e-6)
    assert found["calibration_intercept"].value == pytest.approx(logistic.intercept_[0], rel=1e-6)


def test_measure_predictions_of_zero_and_one() -> None:
    rng = np.random.default_rng(3)
    prediction, outcome = draw(rng, 2000)
    prediction[:300] = rng.integers(0, 2, 300)
    found = measure_all(prediction, outcome)
    assert found["roc_auc"].value == pytest.approx(roc_auc_score(outcome, prediction), rel=1e-12)
    assert found["average_precision"].value == pytest.approx(average_precision_score(outcome, prediction), rel=1e-12)
    assert found["log_loss"].value == pytest.approx(log_loss(outcome, prediction), rel=1e-12)
    assert found["brier"].value == pytest.approx(brier_score_loss(outcome, prediction), rel=1e-12)
    assert all(np.isfinite(metric.value) for metric in found.values())


def test_measure_roc_auc_published_with_ties() -> None:
    # Hanley & McNeil (1982), Radiology 143, 29-36, table I: 58 normal and 51 abnormal images rated 1 to 5; W = .893, SE .032.
    ratings = np.repeat([1, 2, 3, 4, 5] * 2, [33, 6, 6, 11, 2, 3, 2, 2, 11, 33])
    found = measure_all(ratings / 6, np.repeat([0, 1], [58, 51]))["roc_auc"]
    assert found.value == pytest.approx(0.893, abs=0.0005)
    assert (found.upper - found.lower) / 2 / 1.998 == pytest.approx(0.032, abs=0.003)


def test_measure_top_decile_hand_sum() -> None:
    # The best tenth of 200 is 20: all 10 at .9 (8 of them positive) and 10 of the 40 at .5 (12 positive, so 3 of them).
    prediction = np.repeat([0.9, 0.5, 0.1], [10, 40, 150])
    outcome = np.concatenate([np.arange(size) < positive for size, positive in ((10, 8), (40, 12), (150, 10))]).astype(np.int64)
    found = measure_all(prediction, outcome)
    assert found["capture_top_decile"].value == pytest.approx(11 / 30)
    assert found["lift_top_decile"].value == pytest.approx(110 / 30)


def test_measure_reliability_of_ten_equal_parts() -> None:
    prediction, outcome = draw(np.random.default_rng(5), 1000)
    prediction = expit(snap(np.linspace(-5, 3, 1000)))  # all different
    found = measure_all(prediction, outcome)
    for number, (part, happened) in enumerate(zip(np.split(prediction, 10), np.split(outcome, 10), strict=True), start=1):
        assert found[f"reliability_prediction_{number:02}"].value == pytest.approx(part.mean(), rel=1e-9)
        assert found[f"reliability_rate_{number:02}"].value == pytest.approx(happened.mean(), rel=1e-12)
        assert found[f"reliability_rate_{number:02}"].n_obs == 100


@pytest.mark.parametrize(("n_negative", "n_positive", "all_metrics"), [(500, 19, False), (19, 500, False), (20, 20, True), (0, 30, False)])
def test_measure_few_cases_counts_only(n_negative: int, n_positive: int, all_metrics: bool) -> None:
    outcome = np.repeat([0, 1], [n_negative, n_positive])
    found = measure_all(np.random.default_rng(0).random(len(outcome)), outcome)
    assert ("roc_auc" in found) == all_metrics
    assert all_metrics or found.keys() == {"n", "n_positive"}
    assert (found["n"].value, found["n_positive"].value) == (n_negative + n_positive, n_positive)


@pytest.mark.parametrize("low_high", [(0.0, 1.0), (0.2, 0.8), None], ids=["zero and one", "two values", "many values"])
def test_measure_perfect_separation_has_no_calibration(low_high: tuple[float, float] | None) -> None:
    outcome = np.repeat([0, 1], 50)
    prediction = np.linspace(0.1, 0.9, 100) if low_high is None else np.repeat(low_high, 50)
    found = measure_all(prediction, outcome)
    assert found["roc_auc"].value == found["ks"].value == found["average_precision"].value == 1
    for name in ("calibration_intercept", "calibration_slope"):
        assert np.isnan(found[name][1:4]).all()


def test_measure_constant_prediction() -> None:
    found = measure_all(np.full(200, 0.25), np.repeat([0, 1], [150, 50]))
    assert found["roc_auc"].value == 0.5
    assert found["ks"].value == 0
    assert found["average_precision"].value == found["base_rate"].value == 0.25
    assert found["capture_top_decile"].value == pytest.approx(0.1)
    assert found["brier_skill"].value == pytest.approx(0, abs=1e-12)
    assert np.isnan(found["calibration_slope"].value)


@pytest.mark.parametrize("everybody", [True, False], ids=["all rows in one bucket", "all positives in one bucket"])
def test_measure_no_interval_when_a_bucket_holds_all(everybody: bool) -> None:
    outcome = np.repeat([0, 1], 50)
    bucket = np.zeros(100, dtype=np.int64) if everybody else np.where(outcome == 1, 0, np.arange(100) % 63 + 1)
    found = measure_all(np.random.default_rng(0).random(100), outcome, bucket)
    assert np.isfinite(found["roc_auc"].value)
    assert np.isnan([found["roc_auc"].lower, found["roc_auc"].upper]).all()


def test_measure_bracket_of_binned_roc_auc() -> None:
    # |AUC - AUC_bin| <= 1/2 sum_b (P_b/P)(N_b/N), on predictions so close that about thirty bins hold them all.
    rng = np.random.default_rng(1)
    differences = []
    for _ in range(20):
        outcome = (rng.random(500) < 0.3).astype(np.int64)
        prediction = expit(rng.normal(-1, 0.002, size=500) + 0.002 * outcome)
        histogram = make_histogram(prediction, outcome, np.zeros(500, dtype=np.int64), 1)
        negative, positive = histogram.counts[0]
        bracket = np.sum(positive / positive.sum() * negative / negative.sum()) / 2
        found = {metric.name: metric.value for metric in measure(histogram)}["roc_auc"]
        differences.append(abs(found - roc_auc_score(outcome, prediction)))
        assert differences[-1] <= bracket < 0.1
    assert max(differences) > 0  # there was rounding to be bracketed


def test_measure_interval_equals_plain_jackknife() -> None:
    prediction, outcome = draw(np.random.default_rng(11), 600)
    bucket = np.random.default_rng(12).integers(0, 64, size=600)
    scorers = {"roc_auc": roc_auc_score, "average_precision": average_precision_score, "log_loss": log_loss, "brier": brier_score_loss}
    found = measure_all(prediction, outcome, bucket)
    for name, scorer in scorers.items():
        without = [scorer(outcome[bucket != one], prediction[bucket != one]) for one in range(64)]
        mean = sum(without) / 64
        half = 1.9983405 * (63 / 64 * sum((value - mean) ** 2 for value in without)) ** 0.5  # t table: .975, 63 degrees of freedom
        value = scorer(outcome, prediction)
        assert found[name][1:4] == pytest.approx((value, value - half, value + half), rel=1e-7)


def test_measure_calibration_interval_equals_plain_jackknife() -> None:
    prediction, outcome = draw(np.random.default_rng(13), 400)
    log_odds, bucket = np.log(prediction / (1 - prediction)), np.arange(400) % 10

    def fit_slope(rows: np.ndarray) -> float:
        logistic = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky")
        return float(logistic.fit(log_odds[rows, None], outcome[rows]).coef_[0, 0])

    without = np.array([fit_slope(bucket != one) for one in range(10)])
    half = 2.2621572 * np.sqrt(9 / 10 * np.sum((without - without.mean()) ** 2))  # t table: .975, 9 degrees of freedom
    found = measure_all(prediction, outcome, bucket)["calibration_slope"]
    assert (found.upper - found.lower) / 2 == pytest.approx(half, rel=1e-6)


@pytest.mark.parametrize(("n_candidates", "rows_per_candidate"), [(250, 1), (100, 8)])
def test_measure_interval_covers_true_roc_auc(n_candidates: int, rows_per_candidate: int) -> None:
    # Two normal distributions one standard deviation apart: AUC = Phi(1 / sqrt(2)). Rows of a candidate share outcome and half
    # the variance of the score. 400 rounds: standard error of a coverage of .95 is .011; three of them are allowed.
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


ROW = st.tuples(st.floats(0, 1), st.integers(0, 1), st.integers(0, 3))


@settings(deadline=None)
@given(st.lists(st.lists(ROW, min_size=1, max_size=15), min_size=1, max_size=5))
def test_merge_histograms_equals_one_pass(chunks: list[list[tuple[float, int, int]]]) -> None:
    def condense(rows: Iterable[tuple[float, int, int]]) -> Histogram:
        prediction, outcome, bucket = map(np.array, zip(*rows, strict=True))
        return make_histogram(prediction, outcome, bucket, 4)

    once, merged = condense(chain.from_iterable(chunks)), merge_histograms([condense(chunk) for chunk in chunks])
    assert merged.bins.tolist() == once.bins.tolist()
    assert merged.counts.tolist() == once.counts.tolist()
    np.testing.assert_allclose(merged.losses, once.losses, rtol=1e-12, atol=1e-12)
    assert merged.counts.sum() == sum(map(len, chunks))


def test_jackknife_interval_of_a_mean_is_student_t() -> None:
    # For a mean of groups of one, the jackknife is the textbook interval: 1 to 5 has mean 3 and standard error sqrt(.5).
    without = (15 - np.arange(1, 6)) / 4
    assert jackknife_interval(3, without) == pytest.approx((3 - 2.7764451 * np.sqrt(0.5), 3 + 2.7764451 * np.sqrt(0.5)))
    assert np.isnan(jackknife_interval(3, without[:1])).all()


def test_to_dict_nan_is_null() -> None:
    found = [Metric("roc_auc", 0.75, 0.7, 0.8, 100), Metric("n", 100, np.nan, np.nan, 100)]
    assert to_dict(found) == {"roc_auc": {"value": 0.75, "lower": 0.7, "upper": 0.8}, "n": {"value": 100, "lower": None, "upper": None}}
