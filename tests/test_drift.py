import json
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from functools import reduce
from itertools import chain
from math import isnan, log, nan

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from abatch.modelling import features
from abatch.statistics.drift import (
    N_CATEGORIES,
    FeatureCounts,
    compute_psi,
    count_bins,
    count_features,
    count_rows,
    describe_psi,
    is_drift,
    make_feature_references,
    make_reference,
    measure_features,
    psi_noise,
)
from abatch.statistics.references import FeatureReference, Reference
from abatch.statistics.sums import add_by_key

TYPES = {"amount": "number", "town": "category"}


def frame(
    amount: Sequence[float] | np.ndarray, town: Sequence[object] | np.ndarray
) -> pd.DataFrame:
    """Features as `features.code` makes them."""
    codes, towns = pd.factorize(np.asarray(town, dtype=object))
    coded = pd.Categorical.from_codes(codes, pd.Index(towns, dtype=object))
    return pd.DataFrame({"amount": np.asarray(amount, dtype=np.float64), "town": coded})


def refer(town: Sequence[object]) -> FeatureReference:
    return make_feature_references(frame(np.zeros(len(town)), town), TYPES)["town"]


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
    assert psi_noise([50] * 10, [50] * 10) == pytest.approx(0.068, abs=0.0005)
    assert psi_noise([500], [500]) == 0
    # Chi-squared tables: 16.919 is exceeded in 5 % with 9 degrees of freedom, 3.841 with 1.
    assert psi_noise([100] * 10, [25] * 10) == pytest.approx(0.005 * 16.919, rel=1e-4)
    assert psi_noise([500] * 2, [125] * 2) == pytest.approx(0.005 * 3.841, rel=1e-3)


def test_psi_noise_is_exceeded_in_five_percent_without_drift() -> None:
    rng = np.random.default_rng(20261123)
    line, n_rounds = psi_noise([50] * 10, [50] * 10), 4000
    # Both sides are samples, as multinomials of ten equal bins.
    references, counts = (rng.multinomial(500, np.full(10, 0.1), size=n_rounds) for _ in range(2))
    exceeded = np.mean(
        [
            compute_psi(a, b) > line
            for a, b in zip(references.tolist(), counts.tolist(), strict=True)
        ]
    )
    assert abs(exceeded - 0.05) < 4 * np.sqrt(
        0.05 * 0.95 / n_rounds
    )  # four standard errors of the simulation


def test_psi_noise_holds_for_bins_cut_on_the_reference() -> None:
    # The reference's own deciles hold equal counts by construction, and yet the two sides differ by
    # both samples' chance.
    rng = np.random.default_rng(20261124)
    line, n_rounds, exceeded = psi_noise([50] * 10, [50] * 10), 4000, 0
    for _ in range(n_rounds):
        reference = make_reference(rng.random(500))
        exceeded += (
            compute_psi(reference.counts, count_bins(rng.random(500), reference.edges).tolist())
            > line
        )
    assert abs(exceeded / n_rounds - 0.05) < 4 * np.sqrt(0.05 * 0.95 / n_rounds)


def test_psi_of_a_shift() -> None:
    rng = np.random.default_rng(0)
    reference = make_reference(rng.normal(size=200_000))
    moved = compute_psi(
        reference.counts, count_bins(rng.normal(0.5, 1, size=200_000), reference.edges).tolist()
    )
    # What deciles of the standard normal distribution hold after a shift of half a standard
    # deviation.
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


@pytest.mark.parametrize(
    ("psi", "noise", "word", "drifted"),
    [
        (0.05, 0.06, "none", False),
        (0.06, 0.06, "none", False),
        (0.08, 0.06, "little", False),
        (0.10, 0.06, "little", False),
        (0.11, 0.06, "some", True),
        (0.25, 0.06, "some", True),
        (0.26, 0.06, "much", True),
        (0.30, 0.40, "none", False),
        (nan, nan, "not measured", False),
        (None, None, "not measured", False),
    ],
)
def test_describe_psi(psi: float | None, noise: float | None, word: str, drifted: bool) -> None:
    assert describe_psi(psi, noise) == word
    assert is_drift(psi, noise) == drifted


def test_make_feature_references_number() -> None:
    amounts = [*range(1, 1001), *[nan] * 50]
    found = make_feature_references(frame(amounts, [nan] * 1050), TYPES)["amount"]
    # Of 1 to 1,000 the thousandth at either end is left out: 1 to 999, and 998 spans three times.
    limits = [1.0 - 3 * 998, 999.0 + 3 * 998]
    bins, counts = list(range(100, 1000, 100)), [100] * 10 + [50]
    assert found == FeatureReference("number", bins, counts, [], limits)


@pytest.mark.parametrize(
    ("amounts", "bins", "counts"),
    [
        ([0.0, -0.0, 0.0, -0.0], [0], [4, 0, 0]),
        ([7.0] * 30 + [nan], [7], [30, 0, 1]),
        ([nan] * 3, [], [0, 3]),
        ([], [], [0, 0]),
        ([5.0], [5], [1, 0, 0]),
    ],
    ids=["both zeros", "constant", "all null", "no rows", "one row"],
)
def test_make_feature_references_number_at_its_limits(
    amounts: list[float], bins: list[float], counts: list[int]
) -> None:
    assert make_feature_references(frame(amounts, [nan] * len(amounts)), TYPES)[
        "amount"
    ] == FeatureReference("number", bins, counts, [])


def test_make_feature_references_category() -> None:
    found = refer(["Oslo", "Ærø", nan, "Oslo", "Bergen", nan, nan])
    assert found == FeatureReference("category", ["Oslo", "Bergen", "Ærø"], [2, 1, 1, 0, 3], [])
    assert refer([nan] * 3) == FeatureReference("category", [], [0, 3], [])
    assert refer([]) == FeatureReference("category", [], [0, 0], [])
    assert refer(["Oslo"] * 4) == FeatureReference("category", ["Oslo"], [4, 0, 0], [])


def test_make_feature_references_many_categories() -> None:
    # Rows in pairs, so that both halves are alike: c00 24 pairs, c01 23 ... c23 1; the four rarest
    # have 4 + 3 + 2 + 1 pairs.
    town = [f"c{i:02}" for i in range(24) for _ in range(2 * (24 - i))]
    names = sorted(set(town))
    assert refer(town) == FeatureReference(
        "category", names[:N_CATEGORIES], [*range(24, 4, -1), 10, 0], names[N_CATEGORIES:]
    )
    # One that only the half that is counted has is known as well.
    assert refer([*town, "c00", "d"]).others == [*names[N_CATEGORIES:], "d"]


def test_count_features_by_the_bins_of_the_reference() -> None:
    references = make_feature_references(
        frame([*range(1, 11)], ["Oslo"] * 6 + ["Bergen"] * 4), TYPES
    )
    tonight = frame(
        [-5, 1, 1.5, 9, 9.5, 1e300, nan, -0.0],
        ["Oslo", "oslo", "Lund", nan, "Lund", "Bergen", "", "Oslo "],
    )
    found = count_features(tonight, references)
    # Edges 1 to 9: three up to 1, then 1.5, then 9, and two above.
    counts = [3, 1, 0, 0, 0, 0, 0, 0, 1, 2, 1]
    assert found["amount"] == FeatureCounts(counts, 0, {}, [-5.0, 1e300], n_beyond=1, n_outside=3)
    assert found["town"] == FeatureCounts(
        [1, 1, 5, 1], 5, {"Lund": 2, "": 1, "Oslo ": 1, "oslo": 1}
    )


@pytest.mark.parametrize(
    ("value", "is_outside"),
    [(0, True), (-1, True), (17, True), (18, False), (20, False), (82, False), (83, True)],
)
def test_count_features_outside_those_of_training(value: float, is_outside: bool) -> None:
    """Of 20 to 79, each a hundred times, the outermost tenths are 20 to 25 and 73 to 79."""
    references = make_feature_references(
        frame(np.repeat(np.arange(20.0, 80), 100), ["a"] * 6000), TYPES
    )
    found = count_features(frame([value, 50, nan], ["a"] * 3), references)["amount"]
    assert (found.n_outside, found.n_beyond) == (is_outside, 0)


def test_count_rows_of_the_same_rows(rng: np.random.Generator) -> None:
    """In another order, of columns too, and in other chunks; one value makes others of them."""
    X = frame(rng.normal(size=300), rng.choice(np.array(["a", "b", nan], dtype=object), 300))
    X.loc[7, "amount"] = nan
    mixed = X.sample(frac=1, random_state=1)[["town", "amount"]]
    assert count_rows(mixed[:120]) + count_rows(mixed[120:]) == count_rows(X)
    renamed = X.assign(town=X["town"].cat.rename_categories({"a": "A"}))
    for other in (X.assign(amount=X["amount"].shift(1)), renamed, X[:299]):
        assert count_rows(other) != count_rows(X)


def test_count_features_rare_categories_are_not_new() -> None:
    town = [f"c{i:02}" for i in range(24) for _ in range(2 * (24 - i))]
    references = make_feature_references(frame(np.zeros(len(town)), town), TYPES)
    found = count_features(frame(np.zeros(4), ["c00", "c23", "c22", "d"]), references)["town"]
    assert found == FeatureCounts([1] + [0] * 19 + [3, 0], 1, {"d": 1})


@pytest.mark.parametrize("n", [0, 40], ids=["no rows", "all null"])
def test_count_features_of_nothing(n: int) -> None:
    references = make_feature_references(frame([1, 2, 3], ["a", "b", nan]), TYPES)
    found = count_features(frame([nan] * n, [nan] * n), references)
    assert found == {
        "amount": FeatureCounts([0, 0, 0, 0, n], 0, {}),
        "town": FeatureCounts([0, 0, 0, n], 0, {}),
    }


def test_count_features_of_what_convert_makes() -> None:
    # As drivers give them: pandas' own text, decimals, nullable integers, true and false.
    training = pd.DataFrame(
        {
            "amount": [Decimal("1.5"), None, Decimal("2")],
            "town": pd.array(["Oslo", None, "Ærø"], dtype="str"),
        }
    )
    tonight = pd.DataFrame(
        {
            "amount": pd.array([1, None, 2], dtype="Int64"),
            "town": pd.array(["Lund", "Ærø", None], dtype="string"),
        }
    )
    references = make_feature_references(features.code(training, TYPES), TYPES)
    found = count_features(features.code(tonight, TYPES), references)
    assert references["town"] == FeatureReference("category", ["Oslo", "Ærø"], [1, 1, 0, 1], [])
    assert found == {
        "amount": FeatureCounts([1, 1, 0, 1], 0, {}, [1.0, 2.0], n_outside=1),
        "town": FeatureCounts([0, 1, 1, 1], 1, {"Lund": 1}),
    }


ROW = st.tuples(
    st.sampled_from([nan, -1.0, 0.0, 0.5, 3.0]), st.sampled_from([nan, "a", "b", "new", "newer"])
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(ROW, max_size=8), min_size=1, max_size=4))
def test_feature_counts_add_up_to_one_pass(chunks: list[list[tuple[float, object]]]) -> None:
    references = make_feature_references(
        frame([-1, 0, 0, 1, 2, nan], ["a", "a", "b", "b", "c", nan]), TYPES
    )
    whole = count_features(frame(*columns(list(chain.from_iterable(chunks)))), references)
    parts = [count_features(frame(*columns(chunk)), references) for chunk in chunks]
    running: dict[str, FeatureCounts] = {}
    for part in parts:
        running = add_by_key(running, part)
    assert reduce(add_by_key, reversed(parts)) == running == whole


def columns(rows: list[tuple[float, object]]) -> tuple[list[float], list[object]]:
    return [amount for amount, _ in rows], [town for _, town in rows]


def test_add_by_key_of_nothing() -> None:
    assert add_by_key({}, {}) == {}


def test_feature_counts_keep_the_most_common_new_categories() -> None:
    references = {"town": refer(["a"])}
    chunks = [["x"] * 3 + [f"{part}-{i:02}" for i in range(30)] for part in "pq"]
    parts = [count_features(frame(np.zeros(33), chunk), references)["town"] for chunk in chunks]
    found = parts[0] + parts[1]
    assert found.n_new == found.counts[-2] == 66
    assert len(found.new) == N_CATEGORIES
    assert list(found.new.items())[:3] == [("x", 6), ("p-00", 1), ("p-01", 1)]


def test_references_and_counts_as_json() -> None:
    X = frame([0.1, 0.2, nan, 1e-300], ["Ærø", "ok", nan, "\u0000"])
    references = make_feature_references(X, TYPES)
    counts = count_features(frame([0.3], ["新"]), references)
    again = json.loads(
        json.dumps({name: found._asdict() for name, found in references.items()}, allow_nan=False)
    )
    assert {name: FeatureReference(**found) for name, found in again.items()} == references
    again = json.loads(
        json.dumps({name: asdict(found) for name, found in counts.items()}, allow_nan=False)
    )
    assert {name: FeatureCounts(**found) for name, found in again.items()} == counts


def test_measure_features_hand_sum() -> None:
    references = {"town": FeatureReference("category", ["Oslo", "Bergen"], [50, 30, 0, 20], [])}
    counts = {"town": FeatureCounts([40, 20, 10, 30], 10, {"Lund": 4, "Ærø": 6})}
    # With 0.5 added: 50.5, 30.5, 0.5, 20.5 against 40.5, 20.5, 10.5, 30.5, each of 102.
    cells = [(50.5, 40.5), (30.5, 20.5), (0.5, 10.5), (20.5, 30.5)]
    (found,) = measure_features(references, counts)
    assert found[:3] == ("town", "category", 100)
    assert found.psi == pytest.approx(sum((b - a) / 102 * log(b / a) for a, b in cells), rel=1e-12)
    assert found.psi_noise == pytest.approx(
        0.02 * 7.815, rel=1e-4
    )  # chi-squared table, 3 degrees of freedom
    assert found[5:] == (0.3, 0.2, 10, [("Ærø", 6), ("Lund", 4)])


def test_measure_features_leaves_out_cells_without_rows() -> None:
    # Nobody is null or beyond the one edge, neither then nor now: two cells, hence one degree of
    # freedom.
    references = {"amount": FeatureReference("number", [1, 2], [60, 40, 0, 0], [])}
    (found,) = measure_features(references, {"amount": FeatureCounts([30, 70, 0, 0], 0, {})})
    assert found.psi == pytest.approx(
        30 / 101 * log(60.5 / 30.5) + 30 / 101 * log(70.5 / 40.5), rel=1e-12
    )
    assert found.psi_noise == pytest.approx(0.02 * 3.841, rel=1e-3)
    # Tonight's first nulls open the cell again: three cells.
    (found,) = measure_features(references, {"amount": FeatureCounts([30, 60, 0, 10], 0, {})})
    assert found.psi_noise == pytest.approx(0.02 * 5.991, rel=1e-3)


def test_measure_features_constant_feature_does_not_drift() -> None:
    references = make_feature_references(frame([7] * 100, ["a"] * 100), TYPES)
    for found in measure_features(
        references, count_features(frame([7] * 50, ["a"] * 50), references)
    ):
        assert (found.psi, found.psi_noise, describe_psi(found.psi, found.psi_noise)) == (
            0,
            0,
            "none",
        )
    changed = measure_features(references, count_features(frame([8] * 50, ["b"] * 50), references))
    assert all(is_drift(found.psi, found.psi_noise) for found in changed)


def test_measure_features_all_null_tonight_is_drift() -> None:
    rng = np.random.default_rng(0)
    references = make_feature_references(
        frame(rng.normal(size=500), rng.choice(["a", "b"], 500)), TYPES
    )
    for found in measure_features(
        references, count_features(frame([nan] * 200, [nan] * 200), references)
    ):
        assert (found.null_rate, found.null_rate_training) == (1, 0)
        assert describe_psi(found.psi, found.psi_noise) == "much"


def test_measure_features_without_rows_is_unknown() -> None:
    references = make_feature_references(frame([1, 2], ["a", "b"]), TYPES)
    for found in measure_features(references, count_features(frame([], []), references)):
        assert found.n_obs == 0
        assert isnan(found.psi)
        assert isnan(found.psi_noise)
        assert isnan(found.null_rate)
    assert measure_features(references, {}) == []
    references = make_feature_references(frame([], []), TYPES)
    for found in measure_features(
        references, count_features(frame([1, 2], ["a", nan]), references)
    ):
        assert isnan(found.psi)
        assert isnan(found.psi_noise)
        assert isnan(found.null_rate_training)


def test_measure_features_of_text_and_ids_is_not_measured() -> None:
    """A new id every time says nothing; a column of branches does, although most are rare."""
    ids = [f"id {number}" for number in range(1_000)]
    # 20 branches with a tenth of the rows, the rest as rare as ids
    branches = [f"branch {number // 2 % 20}" for number in range(120)] + ids[:880]
    for values, is_measured in ((ids, False), (branches, True), (["a"] * 990 + ids[:10], True)):
        references = make_feature_references(frame([1] * 1_000, values), TYPES)
        tonight = frame([1] * 100, [f"id {number}" for number in range(2_000, 2_100)])
        _, found = measure_features(references, count_features(tonight, references))
        assert isnan(found.psi) is not is_measured
        assert isnan(found.psi_noise) is not is_measured
        assert (found.null_rate, found.n_new) == (0, 100)


def count_false_alarms(rng: np.random.Generator, n_rounds: int) -> dict[str, float]:
    """How often PSI exceeds its noise line when nothing drifts.

    1000 training rows and 800 of tonight come from the same source.
    """
    types = {"number": "number", "nulls": "number", "few": "category", "many": "category"}

    towns = np.array([f"c{i:02}" for i in range(40)], dtype=object)

    def draw(n: int) -> pd.DataFrame:
        nulls = rng.gamma(2, size=n)
        nulls[rng.random(n) < 0.1] = nan
        few = towns[np.searchsorted([0.5, 0.8, 0.95], rng.random(n))]
        return pd.DataFrame(
            {
                "number": rng.normal(size=n),
                "nulls": nulls,
                "few": few,
                "many": towns[rng.integers(0, 40, n)],
            }
        )

    exceeded = dict.fromkeys(types, 0)
    for _ in range(n_rounds):
        references = make_feature_references(draw(1000), types)
        for found in measure_features(references, count_features(draw(800), references)):
            exceeded[found.feature] += found.psi > found.psi_noise
    return {name: number / n_rounds for name, number in exceeded.items()}


def check_five_percent(rates: dict[str, float], n_rounds: int) -> None:
    margin = 4 * np.sqrt(0.05 * 0.95 / n_rounds)  # four standard errors of the simulation
    assert rates == pytest.approx(dict.fromkeys(rates, 0.05), abs=margin)


def test_measure_features_noise_is_exceeded_in_five_percent_without_drift(
    rng: np.random.Generator,
) -> None:
    # Categories of equal size chosen and counted on the same rows would exceed it in 16 %.
    check_five_percent(count_false_alarms(rng, 250), 250)


@pytest.mark.slow
def test_measure_features_noise_is_exceeded_in_five_percent_without_drift_slow(
    rng: np.random.Generator,
) -> None:
    check_five_percent(count_false_alarms(rng, 3000), 3000)


@pytest.mark.parametrize(("n_others", "is_kept"), [(1_000, True), (1_001, False)])
def test_make_feature_references_of_very_many_categories_keeps_no_list(
    n_others: int, is_kept: bool
) -> None:
    names = [f"street {i:05}" for i in range(20 + n_others)]
    X = pd.DataFrame({"address": pd.Series(names, dtype=object)})
    references = make_feature_references(X, {"address": "category"})
    assert (references["address"].others is not None) == is_kept
    tonight = pd.DataFrame({"address": pd.Series(["street 00001", "elsewhere"], dtype=object)})
    counts = count_features(tonight, references)["address"]
    assert (counts.n_new, sum(counts.counts)) == (1 if is_kept else 0, 2)
