from collections.abc import Iterable, Mapping
from datetime import date
from math import log
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from scipy.special import expit
from scipy.stats import ks_2samp
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from abatch.database import tables, writing
from abatch.experiment import scores
from abatch.experiment.scores import ALL, Key, Part
from abatch.statistics.references import Reference
from tests.conftest import add_runs, make_night

MONDAY, NEXT_MONDAY = "2026-08-31", "2026-09-07"
OLD, NEW, OTHER = "modelA_v1.0_2026-08-01", "modelA_v1.0_2026-09-05_2", "modelB_v1.0_2026-08-01"


def make_rows(
    rng: np.random.Generator, model_name: str | None, n: int, variant: str = "A"
) -> pd.DataFrame:
    """Predictions on a coarse grid of log-odds, with outcomes that follow them."""
    log_odds = np.round(rng.normal(-1, 1, size=n) * 4) / 4
    return pd.DataFrame(
        {
            "variant": variant,
            "model_name": model_name,
            "prediction": expit(log_odds) if model_name else np.nan,
            "selected": (rng.random(n) < 0.2).astype(int),
            "bucket": rng.integers(0, 64, size=n),
            "outcome": (rng.random(n) < expit(log_odds)).astype(float),
        }
    )


def summarise(
    *cohorts: tuple[str, pd.DataFrame], references: Mapping[str, Reference] | None = None
) -> dict[Key, Part]:
    """Each cohort is condensed by itself, as nights are, and added to what there is."""
    parts: dict[Key, Part] = {}
    for cohort, frame in cohorts:
        new = scores.summarise(frame.assign(cohort=cohort), references or {}, 64)
        parts |= scores.rank_within(
            {key: parts[key] + part if key in parts else part for key, part in new.items()}
        )
    return parts


def measure_models(
    parts: Mapping[Key, Part], references: Mapping[str, Reference] | None = None
) -> list[dict[str, Any]]:
    found = [
        scores.measure_model(key, part, (references or {}).get(key.model_name))
        for key, part in parts.items()
        if key.model_name
    ]
    return [row for rows in found for row in rows]


def by_metric(
    rows: Iterable[Mapping[str, Any]], model_name: str, cohort: str = ALL
) -> dict[str, Mapping[str, Any]]:
    return {
        row["metric"]: row
        for row in rows
        if (row["model_name"], row["cohort"]) == (model_name, cohort)
    }


def test_measure_variant_hand_sum() -> None:
    columns = ["variant", "selected", "outcome"]
    first = pd.DataFrame(
        [("A", 1, 1.5), ("A", 1, 0), ("A", 0, 2), ("A", 0, 0), ("control", 0, 0)], columns=columns
    )
    second = pd.DataFrame([("A", 1, 4.0), ("A", 0, -3.0)], columns=columns)
    without_model = [
        (cohort, frame.assign(model_name=None, prediction=np.nan, bucket=0))
        for cohort, frame in ((MONDAY, first), (NEXT_MONDAY, second))
    ]
    parts = summarise(*without_model)
    n_waiting = {
        ("A", MONDAY): 1,
        ("A", NEXT_MONDAY): 1,
        ("A", ALL): 2,
        ("control", MONDAY): 0,
        ("control", ALL): 1,
    }
    rows = {
        (key.variant, key.cohort): scores.measure_variant(
            key, part, n_waiting[key.variant, key.cohort]
        )
        for key, part in parts.items()
    }
    names = (
        "n_predicted",
        "n_mature",
        "n_positive",
        "n_selected",
        "n_selected_positive",
        "outcome_sum",
    )
    assert {key: [row[name] for name in names] for key, row in rows.items()} == {
        ("A", MONDAY): [5, 4, 2, 2, 1, 3.5],
        ("A", NEXT_MONDAY): [3, 2, 1, 1, 1, 1.0],
        ("A", ALL): [8, 6, 3, 3, 2, 4.5],
        ("control", MONDAY): [1, 1, 0, 0, 0, 0],
        ("control", ALL): [2, 1, 0, 0, 0, 0],
    }
    assert (rows["A", ALL]["rate"], rows["A", ALL]["selected_rate"]) == (3 / 6, 2 / 3)
    assert (rows["control", MONDAY]["rate"], rows["control", MONDAY]["selected_rate"]) == (0, None)
    # What nobody knows yet is null, not 0.
    not_mature = scores.measure_variant(Key(NEXT_MONDAY, "control"), None, 7)
    assert [
        not_mature[name]
        for name in ("n_predicted", "n_mature", "rate", "lower", "upper", "selected_rate")
    ] == [7, 0, *[None] * 4]


@pytest.mark.parametrize(
    ("positive", "n", "lower", "upper"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_measure_variant_wilson_published(
    positive: int, n: int, lower: float, upper: float
) -> None:
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    row = scores.measure_variant(
        Key(ALL, "A"), Part(np.array([n, positive, 0, 0, positive], dtype=float)), 0
    )
    assert (row["lower"], row["upper"]) == pytest.approx((lower, upper), abs=0.00005)


def test_model_rows_pool_the_dated_models_of_a_name_and_version() -> None:
    rng = np.random.default_rng(0)
    old, new, other = (
        make_rows(rng, OLD, 600),
        make_rows(rng, NEW, 500),
        make_rows(rng, OTHER, 400, variant="B"),
    )
    control = make_rows(rng, None, 200, variant="control")
    rows_of_all = measure_models(
        summarise((MONDAY, pd.concat([old, other])), (NEXT_MONDAY, pd.concat([new, control])))
    )
    both = pd.concat([old, new])
    pairs = [rows["outcome"].sum() * (1 - rows["outcome"]).sum() for rows in (old, new)]
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
    assert {(row["model_name"], row["cohort"]) for row in rows_of_all} == set(
        expected
    )  # nothing for control
    for (model_name, cohort), rows in expected.items():
        found = by_metric(rows_of_all, model_name, cohort)
        assert found["n"]["value"] == found["roc_auc"]["n"] == len(rows)
        assert found["n_positive"]["value"] == rows["outcome"].sum()
        roc_auc = roc_auc_score(rows["outcome"], rows["prediction"])
        if rows is both:
            roc_aucs = [roc_auc_score(part["outcome"], part["prediction"]) for part in (old, new)]
            roc_auc = np.average(roc_aucs, weights=pairs)
        assert found["roc_auc"]["value"] == pytest.approx(roc_auc, abs=1e-9)
        assert found["log_loss"]["value"] == pytest.approx(
            log_loss(rows["outcome"], rows["prediction"]), abs=1e-9
        )
        assert found["roc_auc"]["lower"] < found["roc_auc"]["value"] < found["roc_auc"]["upper"]


def make_models_of_other_scales(rng: np.random.Generator, n_models: int) -> list[pd.DataFrame]:
    """Nights of models that rank alike, but each predicts twice as much as the one before."""
    frames = []
    for i in range(n_models):
        rows = make_rows(rng, f"modelA_v1.0_2026-08-{i + 1:02}", 400 + 100 * i)
        odds = rows["prediction"] / (1 - rows["prediction"]) * 2**i
        frames.append(rows.assign(prediction=odds / (1 + odds)))
    return frames


def test_rank_within_weighs_figures_of_dated_models_by_pairs_or_positives() -> None:
    frames = make_models_of_other_scales(np.random.default_rng(9), 4)
    # Two nights of each model, closed one after the other: what was closed is not read again.
    nights = [rows[part::2] for rows in frames for part in (0, 1)]
    found = by_metric(
        measure_models(summarise(*((MONDAY, night) for night in nights))), "modelA_v1.0"
    )

    def weigh(kept: list[pd.DataFrame]) -> dict[str, float]:
        y = [rows["outcome"].to_numpy() for rows in kept]
        p = [rows["prediction"].to_numpy() for rows in kept]
        positives = [one.sum() for one in y]
        pairs = [one.sum() * (1 - one).sum() for one in y]
        ks = [ks_2samp(b[a == 1], b[a == 0]).statistic for a, b in zip(y, p, strict=True)]
        return {
            "roc_auc": np.average([*map(roc_auc_score, y, p)], weights=pairs),
            "ks": np.average(ks, weights=pairs),
            "average_precision": np.average(
                [*map(average_precision_score, y, p)], weights=positives
            ),
        }

    expected = weigh(frames)
    both = pd.concat(frames)
    pooled = roc_auc_score(both["outcome"], both["prediction"])
    assert pooled < expected["roc_auc"] - 0.03  # what mixing the models would say
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-9)
    assert found["gini"]["value"] == pytest.approx(2 * expected["roc_auc"] - 1, abs=1e-9)
    assert found["log_loss"]["value"] == pytest.approx(
        log_loss(both["outcome"], both["prediction"]), abs=1e-9
    )
    # A candidate's bucket is left out of all models at once.
    left_out = [[rows[rows["bucket"] != bucket] for rows in frames] for bucket in range(64)]
    without = np.array([weigh(kept)["roc_auc"] for kept in left_out])
    half = 1.9983405 * np.sqrt(63 / 64 * np.sum((without - np.mean(without)) ** 2))
    row = found["roc_auc"]
    assert (row["upper"] - row["lower"]) / 2 == pytest.approx(half, rel=1e-6)  # t table: .975, 63


def test_rank_within_of_models_with_few_positives_has_no_ks() -> None:
    # Fifteen positives in each of ten models: chance alone gives a KS of about .25.
    rng = np.random.default_rng(10)
    frames = []
    for i in range(10):
        rows = make_rows(rng, f"modelA_v1.0_2026-08-{i + 1:02}", 300)
        frames.append(rows.assign(outcome=(np.arange(300) < 15).astype(float)))
    found = by_metric(measure_models(summarise((MONDAY, pd.concat(frames)))), "modelA_v1.0")
    expected = np.mean([roc_auc_score(rows["outcome"], rows["prediction"]) for rows in frames])
    assert found["roc_auc"]["value"] == pytest.approx(expected, abs=1e-9)
    assert not {"ks", "ks_bracket", "average_precision"} & found.keys()
    assert found["capture_top_decile"]["value"] < 0.2


def test_measure_model_two_cohorts_add_up_to_all() -> None:
    rows = make_rows(np.random.default_rng(1), OLD, 500)
    whole = measure_models(summarise((MONDAY, rows)))
    parts = measure_models(summarise((MONDAY, rows[:200]), ("2026-09-14", rows[200:])))
    expected, found = (by_metric(measured, OLD) for measured in (whole, parts))
    assert found.keys() == expected.keys()
    assert len(found) > 20
    for metric, row in found.items():
        assert list(row.values())[3:] == pytest.approx(
            list(expected[metric].values())[3:], nan_ok=True
        )


def test_measure_model_few_positives_counts_only() -> None:
    rows = make_rows(np.random.default_rng(2), OLD, 300).assign(
        outcome=(np.arange(300) < 19).astype(float)
    )
    assert by_metric(measure_models(summarise((MONDAY, rows))), OLD).keys() == {"n", "n_positive"}


def test_measure_model_of_an_amount_is_of_amounts_above_0() -> None:
    rows = make_rows(np.random.default_rng(2), OLD, 300)
    amounts = rows.assign(outcome=np.where(rows["outcome"] == 1, 12.5, -1.0))
    assert measure_models(summarise((MONDAY, amounts))) == measure_models(summarise((MONDAY, rows)))


def test_measure_model_leaves_out_what_cannot_be_computed() -> None:
    rows = make_rows(np.random.default_rng(2), OLD, 100).assign(
        prediction=np.repeat([0.2, 0.8], 50), outcome=np.repeat([0.0, 1.0], 50)
    )
    found = by_metric(measure_models(summarise((MONDAY, rows))), OLD)
    assert found["roc_auc"]["value"] == 1
    assert not {"calibration_slope", "calibration_intercept"} & found.keys()


def test_measure_model_psi_hand_sum() -> None:
    rows = make_rows(np.random.default_rng(3), OLD, 100).assign(
        prediction=np.repeat([0.1, 0.3, 0.8], [40, 30, 30])
    )
    references = {OLD: Reference([0.2, 0.5], [50, 30, 20])}
    both = pd.concat([rows, make_rows(np.random.default_rng(4), OTHER, 100)])
    measured = measure_models(summarise((MONDAY, both), references=references), references)
    found = by_metric(measured, OLD, MONDAY)
    # With 0.5 added: 50.5, 30.5, 20.5 against 40.5, 30.5, 30.5, each of 101.5.
    assert found["psi"]["value"] == pytest.approx(
        (10 / 101.5) * (log(50.5 / 40.5) + log(30.5 / 20.5)), rel=1e-12
    )
    assert found["psi_noise"]["value"] == pytest.approx(
        2 / 100 * 5.991, rel=1e-4
    )  # chi-squared table: .95, 2 degrees of freedom
    assert (found["psi"]["lower"], found["psi"]["upper"], found["psi"]["n"]) == (None, None, 100)
    assert by_metric(measured, OLD, ALL)["psi"]["value"] == found["psi"]["value"]
    # No reference, no psi: it was not kept, or several dated models have several.
    assert "psi" not in by_metric(measured, OTHER)
    assert "psi" not in by_metric(measured, "modelA_v1.0")


def save(
    connection: sa.Connection,
    parts: dict[Key, Part],
    closed_date: date,
    run_id: str,
    experiment: str = "card_offer",
) -> None:
    sums = {key: scores.pack(part) for key, part in parts.items()}
    scores.save(connection, make_night(run_id, closed_date, experiment), sums, closed_date)


def test_save_and_load_round_trip(engine: sa.Engine) -> None:
    rng = np.random.default_rng(5)
    references = {OLD: Reference([0.2, 0.5], [50, 30, 20])}
    parts = summarise(
        (
            MONDAY,
            pd.concat([make_rows(rng, OLD, 300), make_rows(rng, None, 50, variant="control")]),
        ),
        references=references,
    )
    with engine.begin() as connection:
        save(connection, parts, date(2026, 9, 3), "run-1")
        save(connection, parts, date(2026, 9, 4), "run-2")  # in its place
        save(connection, {}, date(2026, 9, 9), "run-1", "renewal")
    with engine.begin() as connection:
        assert scores.find_keys(connection, "card_offer").keys() == parts.keys()
        assert scores.find_closed_date(connection, "card_offer") == date(2026, 9, 4)
        assert scores.find_closed_date(connection, "renewal") == date.min
        loaded = scores.load_parts(connection, "card_offer", [*parts, Key("2026-01-05", "A")])
        assert measure_models(loaded, references) == measure_models(parts, references)
        assert {key: part.counts.tolist() for key, part in loaded.items()} == {
            key: part.counts.tolist() for key, part in parts.items()
        }
        scores.drop_sums(
            connection, "card_offer", date(2026, 9, 5)
        )  # an open night: the sums do not hold it
        assert scores.find_keys(connection, "card_offer").keys() == parts.keys()
        scores.drop_sums(connection, "card_offer", date(2026, 9, 4))
        assert scores.find_keys(connection, "card_offer") == {}


def find_unpublished(connection: sa.Connection) -> set[Key]:
    keys = scores.find_keys(connection, "card_offer")
    return {key for key, is_published in keys.items() if not is_published}


def test_find_keys_unpublished_is_what_no_done_run_wrote(engine: sa.Engine) -> None:
    parts = summarise((MONDAY, make_rows(np.random.default_rng(5), None, 50)))
    run = {"job": "score", "experiment": "card_offer"}
    for run_id, status, day in (("run-1", "done", 3), ("run-2", "failed", 4)):
        row = {"run_id": run_id, "status": status, "run_date": date(2026, 9, day)}
        add_runs(engine, {**run, **row})
    with engine.begin() as connection:
        save(connection, parts, date(2026, 9, 3), "run-1")
        assert find_unpublished(connection) == set()
        some = {Key(ALL, "A"): parts[Key(ALL, "A")]}
        save(connection, some, date(2026, 9, 4), "run-2")
        assert find_unpublished(connection) == {Key(ALL, "A")}
        scores.mark_published(connection, make_night("run-1"))  # a later run that is done
        assert find_unpublished(connection) == set()


def sort_rows(rows: Iterable[Any]) -> list[dict[str, Any]]:
    keys = ("experiment", "model_name", "variant", "cohort", "metric")
    return sorted(map(dict, rows), key=lambda row: [row.get(key, "") for key in keys])


def read_scores(connection: sa.Connection, experiment: str) -> list[list[dict[str, Any]]]:
    return [
        sort_rows(
            connection.execute(sa.select(table).where(table.c.experiment == experiment))
            .mappings()
            .all()
        )
        for table in (tables.scores, tables.variant_scores)
    ]


def make_figures(parts: dict[Key, Part], keys: Iterable[Key]) -> scores.Figures:
    variants = [
        scores.measure_variant(key, part, 300) for key, part in parts.items() if not key.model_name
    ]
    rows = {
        tables.scores: measure_models(parts),
        tables.variant_scores: variants,
        tables.feature_drift: [],
    }
    return scores.Figures(rows, set(keys))


def test_write_figures_touches_own_experiment_only(engine: sa.Engine) -> None:
    rng = np.random.default_rng(5)
    before = summarise((MONDAY, make_rows(rng, OLD, 300)))
    after = summarise((NEXT_MONDAY, make_rows(rng, NEW, 300)))
    with engine.begin() as connection:
        for experiment, parts, run_id in (
            ("card_offer", before, "run-1"),
            ("renewal", before, "run-1"),
            ("card_offer", after, "run-2"),
        ):
            figures = make_figures(parts, [*before, *after])
            scores.write_figures(connection, make_night(run_id, experiment=experiment), figures)
        model_rows, variant_rows = read_scores(connection, "card_offer")
        kept = {(row["model_name"], row["cohort"]): row["run_id"] for row in model_rows}
        assert kept == {
            (OLD, MONDAY): "run-1",
            (OLD, ALL): "run-1",
            ("modelA_v1.0", MONDAY): "run-1",
            (NEW, NEXT_MONDAY): "run-2",
            (NEW, ALL): "run-2",
            ("modelA_v1.0", NEXT_MONDAY): "run-2",
            ("modelA_v1.0", ALL): "run-2",
        }
        drift_row = {
            "model_name": OLD,
            "feature": "age",
            "kind": "number",
            "n": 9,
            "n_new": 0,
            "new_categories": None,
        }
        drift_row |= dict.fromkeys(("psi", "psi_noise", "null_rate", "null_rate_training"), 0.0)
        for experiment, cohort in (
            ("card_offer", MONDAY),
            ("card_offer", NEXT_MONDAY),
            ("renewal", MONDAY),
        ):
            writing.replace_rows(
                connection,
                tables.feature_drift,
                [drift_row],
                "run-2",
                experiment=experiment,
                cohort=cohort,
            )
        untouched = read_scores(connection, "renewal")
        nothing = make_figures({}, after)
        scores.write_figures(connection, make_night("run-3"), nothing)
        c = tables.feature_drift.c
        left = connection.execute(sa.select(c.experiment, c.cohort).order_by(c.experiment)).all()
        assert left == [("card_offer", NEXT_MONDAY), ("renewal", MONDAY)]
        model_rows, variant_rows = read_scores(connection, "card_offer")
        added = {"experiment": "card_offer", "run_id": "run-2"}
        assert model_rows == sort_rows(row | added for row in measure_models(after))
        assert {(row["variant"], row["cohort"]) for row in variant_rows} == {
            ("A", NEXT_MONDAY),
            ("A", ALL),
        }
        assert read_scores(connection, "renewal") == untouched
