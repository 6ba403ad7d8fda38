from math import log

import numpy as np
import pytest
from scipy import stats

from abatch.drift import Reference, compute_psi, count_bins, make_reference, psi_noise


def test_compute_psi_hand_sum() -> None:
    # With 0.5 added: 50.5, 30.5, 20.5 against 40.5, 30.5, 30.5, each of 101.5.
    expected = (10 / 101.5) * (log(50.5 / 40.5) + log(30.5 / 20.5))
    assert compute_psi([50, 30, 20], [40, 30, 30]) == pytest.approx(expected, rel=1e-12)
    assert compute_psi([40, 30, 30], [50, 30, 20]) == pytest.approx(expected, rel=1e-12)


def test_compute_psi_different_sizes() -> None:
    # 10.5 of 21 and 10.5 of 21 against 150.5 of 201 and 50.5 of 201.
    p, q = (1 / 2, 1 / 2), (150.5 / 201, 50.5 / 201)
    expected = sum((b - a) * log(b / a) for a, b in zip(p, q, strict=True))
    assert compute_psi([10, 10], [150, 50]) == pytest.approx(expected, rel=1e-12)


def test_compute_psi_equal_and_empty_cells() -> None:
    assert compute_psi([7, 0, 3], [7, 0, 3]) == 0
    # 20.5 and 0.5 of 21 change places.
    assert compute_psi([20, 0], [0, 20]) == pytest.approx(2 * 20 / 21 * log(41), rel=1e-12)


def test_psi_noise_published_line() -> None:
    assert psi_noise(500, 500, 10) == pytest.approx(0.068, abs=0.0005)
    assert psi_noise(500, 500, 1) == 0
    # Chi-squared tables: 16.919 is exceeded in 5 % with 9 degrees of freedom, 3.841 with 1.
    assert psi_noise(1000, 250, 10) == pytest.approx(0.005 * 16.919, rel=1e-4)
    assert psi_noise(1000, 250, 2) == pytest.approx(0.005 * 3.841, rel=1e-3)


def test_psi_noise_is_exceeded_in_five_percent_without_drift() -> None:
    rng = np.random.default_rng(20261123)
    line, n_rounds = psi_noise(500, 500, 10), 4000
    # Both sides are samples, as multinomials of ten equal bins.
    references, counts = (rng.multinomial(500, np.full(10, 0.1), size=n_rounds) for _ in range(2))
    exceeded = np.mean([compute_psi(a, b) > line for a, b in zip(references.tolist(), counts.tolist(), strict=True)])
    assert abs(exceeded - 0.05) < 4 * np.sqrt(0.05 * 0.95 / n_rounds)  # four standard errors of the simulation


def test_psi_noise_holds_for_bins_cut_on_the_reference() -> None:
    # The reference's own deciles hold equal counts by construction, and yet the two sides differ by both samples' chance.
    rng = np.random.default_rng(20261124)
    line, n_rounds, exceeded = psi_noise(500, 500, 10), 4000, 0
    for _ in range(n_rounds):
        reference = make_reference(rng.random(500))
        exceeded += compute_psi(reference.counts, count_bins(rng.random(500), reference.edges).tolist()) > line
    assert abs(exceeded / n_rounds - 0.05) < 4 * np.sqrt(0.05 * 0.95 / n_rounds)


def test_psi_of_a_shift() -> None:
    rng = np.random.default_rng(0)
    reference = make_reference(rng.normal(size=200_000))
    moved = compute_psi(reference.counts, count_bins(rng.normal(0.5, 1, size=200_000), reference.edges).tolist())
    # What deciles of the standard normal distribution hold after a shift of half a standard deviation.
    q = np.diff(stats.norm.cdf(stats.norm.ppf(np.arange(11) / 10) - 0.5))
    assert moved == pytest.approx(np.sum((q - 0.1) * np.log(q / 0.1)), abs=0.005)


def test_make_reference_deciles() -> None:
    reference = make_reference(np.arange(1, 1001) / 1000)
    assert reference.counts == [100] * 10
    assert reference.edges == pytest.approx(np.arange(1, 10) / 10, abs=0.001)


def test_make_reference_equal_scores_share_an_edge() -> None:
    assert make_reference(np.full(100, 0.3)) == Reference([0.3], [100, 0])
    reference = make_reference(np.repeat([0.1, 0.2], [75, 25]))
    assert reference == Reference([0.1, 0.2], [75, 25, 0])


def test_count_bins_edge_belongs_below() -> None:
    assert count_bins(np.array([0.1, 0.2, 0.2000001, 0.3, 0.9]), [0.2, 0.3]).tolist() == [2, 2, 1]
    assert count_bins(np.array([]), [0.2, 0.3]).tolist() == [0, 0, 0]
