from collections.abc import Iterable, Mapping
from math import log
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from abatch import tables
from abatch.drift import Reference
from abatch.scores import ALL, Tally, replace_scores

MONDAY, NEXT_MONDAY = "2026-08-31", "2026-09-07"
OLD, NEW, OTHER = "modelA_v1.0_2026-08-01", "modelA_v1.0_2026-09-05_2", "modelB_v1.0_2026-08-01"


def make_rows(rng: np.random.Generator, model_name: str | None, n: int, variant: str = "A", mature: bool = True) -> pd.DataFrame:
    """Predictions on a coarse grid of log-odds, with outcomes that follow them."""
    log_odds = np.round(rng.normal(-1, 1, size=n) * 4) / 4
    return pd.DataFrame(
        {
            "variant": variant,
            "model_name": model_name,
            "prediction": expit(log_odds) if model_name else np.nan,
            "selected": (rng.random(n) < 0.2).astype(int),
            "bucket": rng.integers(0, 64, size=n),
            "mature": mature,
            "outcome": (rng.random(n) < expit(log_odds)).astype(int) if mature else 1,
        }
    )


def by_metric(tally: Tally, model_name: str, cohort: str = ALL) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in tally.model_rows() if (row["model_name"], row["cohort"]) == (model_name, cohort)}


def by_variant(tally: Tally) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["variant"], row["cohort"]): row for row in tally.variant_rows()}


def test_variant_rows_hand_sum() -> None:
    columns = ["variant", "selected", "mature", "outcome"]
    first = pd.DataFrame(
        [("A", 1, True, 1), ("A", 1, True, 0), ("A", 0, True, 1), ("A", 0, True, 0), ("A", 1, False, 1), ("control", 0, True, 0)],
        columns=columns,
    )
    second = pd.DataFrame([("A", 1, True, 1), ("A", 0, False, 1), ("control", 1, False, 0)], columns=columns)
    tally = Tally({}, 64)
    for cohort, frame in ((MONDAY, first), (NEXT_MONDAY, second)):
        tally.add(cohort, frame.assign(model_name=None, prediction=np.nan, bucket=0))
    found = {
        key: [row[name] for name in ("n_predicted", "n_mature", "n_positive", "n_selected", "n_selected_positive")]
        for key, row in by_variant(tally).items()
    }
    assert found == {
        ("A", MONDAY): [5, 4, 2, 2, 1],
        ("A", NEXT_MONDAY): [2, 1, 1, 1, 1],
        ("A", ALL): [7, 5, 3, 3, 2],
        ("control", MONDAY): [1, 1, 0, 0, 0],
        ("control", NEXT_MONDAY): [1, 0, 0, 0, 0],
        ("control", ALL): [2, 1, 0, 0, 0],
    }
    rows = by_variant(tally)
    assert (rows["A", ALL]["rate"], rows["A", ALL]["selected_rate"]) == (3 / 5, 2 / 3)
    # What nobody knows yet is null, not 0.
    not_mature = rows["control", NEXT_MONDAY]
    assert [not_mature[name] for name in ("rate", "lower", "upper", "selected_rate")] == [None] * 4
    assert rows["control", MONDAY]["selected_rate"] is None
    assert rows["control", MONDAY]["rate"] == 0


@pytest.mark.parametrize(
    ("positive", "n", "lower", "upper"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)]
)
def test_variant_rows_wilson_published(positive: int, n: int, lower: float, upper: float) -> None:
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    frame = pd.DataFrame({"variant": "A", "selected": 0, "mature": True, "outcome": (np.arange(n) < positive).astype(int)})
    tally = Tally({}, 64)
    tally.add(MONDAY, frame.assign(model_name=None, prediction=np.nan, bucket=0))
    row = by_variant(tally)["A", ALL]
    assert (row["lower"], row["upper"]) == pytest.approx((lower, upper), abs=0.00005)


def test_model_rows_pool_the_dated_models_of_a_name_and_version() -> None:
    rng = np.random.default_rng(0)
    old, new, other = make_rows(rng, OLD, 600), make_rows(rng, NEW, 500), make_rows(rng, OTHER, 400, variant="B")
    young, control = make_rows(rng, NEW, 300, mature=False), make_rows(rng, None, 200, variant="control")
    tally = Tally({}, 64)
    tally.add(MONDAY, pd.concat([old, other]))
    tally.add(NEXT_MONDAY, pd.concat([new, young, control]))
    both = pd.concat([old, new])
    expected = {
        (OLD, MONDAY): old,
        (OLD, ALL): old,
        (NEW, NEXT_MONDAY): new,
        (NEW, ALL): new,
        ("modelA_v1.0", MONDAY): old,
        ("modelA_v1.0", NEXT_MONDAY): new,
        ("modelA_v1.0", ALL): both,
        (OTHER, MONDAY): other,
        (OTHER, ALL): other,
        ("modelB_v1.0", MONDAY): other,
        ("modelB_v1.0", ALL): other,
    }
    assert {(row["model_name"], row["cohort"]) for row in tally.model_rows()} == set(expected)  # nothing for control
    for (model_name, cohort), rows in expected.items():
        found = by_metric(tally, model_name, cohort)
        assert found["n"]["value"] == found["roc_auc"]["n"] == len(rows)
        assert found["n_positive"]["value"] == rows["outcome"].sum()
        assert found["roc_auc"]["value"] == pytest.approx(roc_auc_score(rows["outcome"], rows["prediction"]), abs=1e-9)
        assert found["log_loss"]["value"] == pytest.approx(log_loss(rows["outcome"], rows["prediction"]), abs=1e-9)
        assert found["roc_auc"]["lower"] < found["roc_auc"]["value"] < found["roc_auc"]["upper"]


def test_model_rows_two_cohorts_add_up_to_all() -> None:
    rows = make_rows(np.random.default_rng(1), OLD, 500)
    whole, parts = Tally({}, 64), Tally({}, 64)
    whole.add(MONDAY, rows)
    for cohort, part in ((MONDAY, rows[:200]), ("2026-09-14", rows[200:])):
        parts.add(cohort, part)
    expected = {(row["model_name"], row["metric"]): row for row in whole.model_rows() if row["cohort"] == "all"}
    found = {(row["model_name"], row["metric"]): row for row in parts.model_rows() if row["cohort"] == "all"}
    assert found.keys() == expected.keys()
    for key, row in found.items():
        assert list(row.values())[3:] == pytest.approx(list(expected[key].values())[3:], nan_ok=True)


def test_model_rows_few_positives_counts_only() -> None:
    rows = make_rows(np.random.default_rng(2), OLD, 300).assign(outcome=(np.arange(300) < 19).astype(int))
    tally = Tally({}, 64)
    tally.add(MONDAY, rows)
    assert by_metric(tally, OLD).keys() == {"n", "n_positive"}


def test_model_rows_leave_out_what_cannot_be_computed() -> None:
    rows = make_rows(np.random.default_rng(2), OLD, 100).assign(prediction=np.repeat([0.2, 0.8], 50), outcome=np.repeat([0, 1], 50))
    tally = Tally({}, 64)
    tally.add(MONDAY, rows)
    found = by_metric(tally, OLD)
    assert found["roc_auc"]["value"] == 1
    assert not {"calibration_slope", "calibration_intercept"} & found.keys()


def test_model_rows_psi_hand_sum() -> None:
    rows = make_rows(np.random.default_rng(3), OLD, 100).assign(prediction=np.repeat([0.1, 0.3, 0.8], [40, 30, 30]))
    tally = Tally({OLD: Reference([0.2, 0.5], [50, 30, 20])}, 64)
    tally.add(
        MONDAY,
        pd.concat([rows, make_rows(np.random.default_rng(4), OTHER, 100), make_rows(np.random.default_rng(4), OLD, 9, mature=False)]),
    )
    found = by_metric(tally, OLD, MONDAY)
    # With 0.5 added: 50.5, 30.5, 20.5 against 40.5, 30.5, 30.5, each of 101.5.
    assert found["psi"]["value"] == pytest.approx((10 / 101.5) * (log(50.5 / 40.5) + log(30.5 / 20.5)), rel=1e-12)
    assert found["psi_noise"]["value"] == pytest.approx(2 / 100 * 5.991, rel=1e-4)  # chi-squared table: .95, 2 degrees of freedom
    assert (found["psi"]["lower"], found["psi"]["upper"], found["psi"]["n"]) == (None, None, 100)
    assert by_metric(tally, OLD, ALL)["psi"]["value"] == found["psi"]["value"]
    # No reference, no psi: it was not kept, or several dated models have several.
    assert "psi" not in by_metric(tally, OTHER)
    assert "psi" not in by_metric(tally, "modelA_v1.0")


def sort_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    keys = ("experiment", "model_name", "variant", "cohort", "metric")
    return sorted(map(dict, rows), key=lambda row: [row.get(key, "") for key in keys])


def read_scores(connection: sa.Connection, experiment: str) -> list[list[dict[str, Any]]]:
    return [
        sort_rows(connection.execute(sa.select(table).where(table.c.experiment == experiment)).mappings().all())
        for table in (tables.scores, tables.variant_scores)
    ]


def test_replace_scores_replaces_own_experiment_only(engine: sa.Engine) -> None:
    rng = np.random.default_rng(5)
    before, after = Tally({}, 64), Tally({NEW: Reference([0.2, 0.5], [50, 30, 20])}, 64)
    before.add(MONDAY, pd.concat([make_rows(rng, OLD, 300), make_rows(rng, None, 50, variant="control")]))
    after.add(NEXT_MONDAY, pd.concat([make_rows(rng, NEW, 300), make_rows(rng, OTHER, 30, variant="B", mature=False)]))
    with engine.begin() as connection:
        replace_scores(connection, before, "card_offer", "run-1")
        replace_scores(connection, before, "renewal", "run-1")
        untouched = read_scores(connection, "renewal")
        written = replace_scores(connection, after, "card_offer", "run-2")
    with engine.connect() as connection:
        model_rows, variant_rows = read_scores(connection, "card_offer")
        assert read_scores(connection, "renewal") == untouched
    assert written == len(model_rows) + len(variant_rows) == len(after.model_rows()) + len(after.variant_rows())
    added = {"experiment": "card_offer", "run_id": "run-2"}
    assert model_rows == sort_rows(row | added for row in after.model_rows())
    assert variant_rows == sort_rows(row | added for row in after.variant_rows())


def test_replace_scores_nothing_mature(engine: sa.Engine) -> None:
    tally = Tally({}, 64)
    tally.add(MONDAY, make_rows(np.random.default_rng(6), OLD, 10, mature=False))
    with engine.begin() as connection:
        assert replace_scores(connection, tally, "card_offer", "run-1") == 2  # the variant's counts, for its week and for all
        model_rows, variant_rows = read_scores(connection, "card_offer")
    assert model_rows == []
    assert [(row["n_predicted"], row["n_mature"], row["rate"]) for row in variant_rows] == [(10, 0, None)] * 2
