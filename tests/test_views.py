"""The views for analysts: columns as in the dictionary, and rows worked out by hand."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database.migrations.views import FOLDER
from abatch.database.tables import models, registrations, scores, variant_scores
from tests.conftest import add_predictions, add_runs, as_stored, is_babelfish
from tests.dictionary import VIEWS

DAY = timedelta(days=1)


def night(day: int) -> date:
    return date(2020, 1, day)


def at(day: int, hour: int, minute: int = 0, second: int = 0, microsecond: int = 0) -> datetime:
    return datetime(2020, 1, day, hour, minute, second, microsecond)


def insert(engine: sa.Engine, table: sa.Table, *rows: dict[str, Any]) -> None:
    with engine.begin() as connection:
        connection.execute(table.insert(), list(rows))


def make_run(
    run_id: str, job: str, day: int, status: str = "done", experiment: str = "a", **values: Any
) -> dict[str, Any]:
    values = {
        "started_at": at(day, 20),
        "finished_at": at(day, 21),
        "rows_read": 1,
        "rows_written": 1,
        "error": None,
    } | values
    return {
        "run_id": run_id,
        "job": job,
        "experiment": experiment,
        "run_date": night(day),
        "status": status,
        **values,
    }


def make_prediction(
    experiment: str, day: int, candidate_id: str, variant: str = "A", selected: int = 0
) -> dict[str, Any]:
    has_model = variant != "control"
    return {
        "experiment": experiment,
        "run_date": night(day),
        "candidate_id": candidate_id,
        "variant": variant,
        "assignment_probability": 0.5,
        "model_name": f"model{variant}_v1.0_{night(day)}" if has_model else None,
        "prediction": 0.25 if has_model else None,
        "rank_in_variant": 1,
        "selected": selected,
        "run_id": f"p{experiment}{day}",
    }


def read(
    engine: sa.Engine, view: str, *columns: str, where: str = "1 = 1"
) -> list[tuple[Any, ...]]:
    """Rows of some columns, in the order of these columns, nulls first."""
    table = VIEWS.tables[view]
    with engine.connect() as connection:
        found = connection.execute(
            sa.select(*(table.c[name] for name in columns or table.c.keys())).where(sa.text(where))
        )
        return sorted(
            (tuple(row) for row in found),
            key=lambda row: [(value is not None, value) for value in row],
        )


def test_views_have_the_columns_of_the_dictionary(
    experiment: Experiment, engine: sa.Engine
) -> None:
    inspector = sa.inspect(engine)
    assert sorted(inspector.get_view_names(schema=experiment.environment.schema)) == sorted(
        VIEWS.tables
    )
    for name, table in VIEWS.tables.items():
        found = inspector.get_columns(name, schema=experiment.environment.schema)
        assert [column["name"] for column in found] == list(table.c.keys())
        if engine.dialect.name != "sqlite":  # which forgets the type of what is computed
            assert [column["type"]._type_affinity for column in found] == [
                column.type._type_affinity for column in table.c
            ]
        assert read(engine, name) == []


def test_views_are_files_that_say_what_they_read() -> None:
    files = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.sql")}
    assert files.keys() == VIEWS.tables.keys()
    for text in files.values():
        said = re.search(r"One row per .+\n-- Reads:  (.+)\n", text)
        assert said
        assert set(said[1].split(", ")) == set(re.findall(r"\{schema\}(\w+)", text))


def test_current_and_latest_predictions(engine: sa.Engine) -> None:
    add_runs(engine, make_run("pa1", "predict", 1), make_run("pb1", "predict", 1, experiment="b"))
    add_runs(
        engine,
        make_run("pa2x", "predict", 2, "superseded"),
        make_run("pa2", "predict", 2),
        make_run("pa3", "predict", 3, "failed"),
    )
    add_runs(engine, make_run("sa9", "score", 9), make_run("pa8", "predict", 8, "early"))
    add_predictions(engine, make_prediction("a", 8, "c1"))
    add_predictions(engine, *(make_prediction("a", 1, candidate) for candidate in ("c1", "c2")))
    add_predictions(
        engine,
        make_prediction("a", 2, "c2"),
        make_prediction("a", 2, "c3", "control", 1),
        {**make_prediction("a", 2, "c4"), "run_id": "pa2x"},  # of a night that was done again
        make_prediction("a", 3, "c4"),  # which nobody published
    )
    add_predictions(engine, make_prediction("b", 1, "c2", "B"), make_prediction("b", 1, "c9", "B"))
    columns = ("experiment", "run_date", "candidate_id")
    early = ("a", night(8), "c1")  # of a night to come: it is there, and is not the newest
    assert len(read(engine, "predictions", *columns)) == 7
    assert early in read(engine, "predictions", *columns)
    b = [("b", night(1), "c2"), ("b", night(1), "c9")]
    assert read(engine, "current_predictions", *columns) == [
        ("a", night(2), "c2"),
        ("a", night(2), "c3"),
        *b,
    ]
    assert read(engine, "latest_predictions", *columns) == [
        ("a", night(1), "c1"),
        ("a", night(2), "c2"),
        ("a", night(2), "c3"),
        *b,
    ]
    row = ("a", night(2), "c3", "control", 0.5, None, None, 1, 1, "pa2", at(2, 21))
    for view in ("current_predictions", "latest_predictions"):
        assert read(engine, view, where="candidate_id = 'c3'") == [row]


def test_model_performance(engine: sa.Engine) -> None:
    metrics = VIEWS.tables["model_performance"].c.keys()[6:]
    assert metrics[2:6] == ["base_rate", "roc_auc", "roc_auc_lower", "roc_auc_upper"]
    assert metrics[-2:] == ["psi", "psi_noise"]
    dated = "modelA_v1.0_2020-01-01"
    model = {
        "model_name": dated,
        "experiment": "a",
        "variant": "A",
        "name": "modelA",
        "version": "1.0",
        "run_date": night(1),
        "file": "f",
        "sha256": "0",
        "from_date": night(1),
        "to_date": night(2),
    }
    model |= {
        "as_of": at(1, 0),
        "rows": 9,
        "code_version": "0",
        "environment_hash": "0",
        "seed": 0,
        "card": "{}",
        "run_id": "t",
        "snapshot": "5" * 64,
        "decision": "goes live",
    }
    insert(engine, models, model)
    add_runs(engine, make_run("sa9", "score", 9), make_run("sb8", "score", 8, experiment="b"))

    def add(experiment: str, model_name: str, cohort: str, run_id: str, **values: float) -> None:
        row = {
            "experiment": experiment,
            "model_name": model_name,
            "cohort": cohort,
            "n": 100,
            "run_id": run_id,
        }
        bounds = {"lower": None, "upper": None}
        insert(
            engine,
            scores,
            *({**row, "metric": name, "value": value, **bounds} for name, value in values.items()),
        )

    # Every metric with a value of its own, the bounds of roc_auc among them, and one that the view
    # does not show.
    all_values = {name: float(i) for i, name in enumerate(metrics, 1)}
    add(
        "a",
        dated,
        "all",
        "sa9",
        reliability_rate_01=0.5,
        **{
            k: v
            for k, v in all_values.items()
            if k not in ("roc_auc", "roc_auc_lower", "roc_auc_upper")
        },
    )
    bounds = {"lower": all_values["roc_auc_lower"], "upper": all_values["roc_auc_upper"]}
    row = {
        "experiment": "a",
        "model_name": dated,
        "cohort": "all",
        "metric": "roc_auc",
        "value": all_values["roc_auc"],
        "n": 1,
    }
    insert(engine, scores, {**row, "run_id": "sa9", **bounds})
    add("a", dated, "2020-01-06", "sa9", n=40, n_positive=3)
    add("a", "modelA_v1.0", "all", "sa9", n=50, n_positive=30, brier=0.2)
    add("b", "modelA_v1.0", "all", "sb8", n=7, n_positive=0, psi=0.1)
    assert read(
        engine,
        "model_performance",
        "experiment",
        "model_name",
        "is_dated",
        "cohort",
        "cohort_date",
        "scored_date",
        "n",
        "psi",
    ) == [
        ("a", "modelA_v1.0", 0, "all", None, night(9), 50, None),
        ("a", dated, 1, "2020-01-06", night(6), night(9), 40, None),
        ("a", dated, 1, "all", None, night(9), 1, all_values["psi"]),
        ("b", "modelA_v1.0", 0, "all", None, night(8), 7, 0.1),
    ]
    assert read(engine, "model_performance", *metrics, where="is_dated = 1 and cohort = 'all'") == [
        tuple(all_values.values())
    ]
    assert read(
        engine,
        "model_performance",
        "n_positive",
        "roc_auc",
        "brier",
        where="model_name = 'modelA_v1.0'",
    ) == [
        (0, None, None),
        (30, None, 0.2),
    ]


def test_experiment_status(engine: sa.Engine) -> None:
    add_runs(
        engine,
        make_run("pa1", "predict", 1),
        make_run("pa2", "predict", 2),
        make_run("pa4", "predict", 4),
    )
    add_runs(
        engine,
        make_run("pa5", "predict", 5, "failed"),
        make_run("pb3", "predict", 3, experiment="b"),
        make_run("sa5", "score", 5),
    )
    registered = {"hash": "0", "content": "{}", "run_id": "p"}
    insert(
        engine,
        registrations,
        *(
            {"experiment": name, "registered_at": at(1, hour), **registered}
            for name, hour in (("a", 7), ("b", 8))
        ),
    )
    add_predictions(
        engine,
        make_prediction("a", 1, "c1", "B"),
        make_prediction("a", 2, "c1", "A"),
        make_prediction("b", 3, "c1", "A", 1),
    )
    add_predictions(
        engine,
        *(make_prediction("a", 4, f"c{i}", "A", selected=int(i < 2)) for i in range(3)),
    )
    add_predictions(engine, make_prediction("a", 4, "c7", "control"))
    figures = (
        "n_predicted",
        "n_mature",
        "n_positive",
        "rate",
        "lower",
        "upper",
        "n_selected",
        "n_selected_positive",
        "selected_rate",
    )
    score = {"experiment": "a", "run_id": "sa5", "outcome_sum": 1.0}
    by_variant = {
        "A": (4, 2, 1, 0.5, 0.1, 0.9, 1, 1, 1.0),
        "B": (1, 0, 0, None, None, None, 0, 0, None),
    }
    for variant, values in by_variant.items():
        for cohort in ("all", "2019-12-30"):
            other = dict(
                zip(
                    figures,
                    values if cohort == "all" else (9, 9, 9, 0.9, 0.9, 0.9, 9, 9, 0.9),
                    strict=True,
                )
            )
            insert(engine, variant_scores, {**score, "variant": variant, "cohort": cohort, **other})
    nights, not_scored = (at(1, 7), night(1), night(4), 3), (None,) * 10
    assert read(engine, "experiment_status") == [
        ("a", "A", *nights, "modelA_v1.0_2020-01-04", 3, 2, night(5), *by_variant["A"]),
        ("a", "B", *nights, None, None, None, night(5), *by_variant["B"]),
        ("a", "control", *nights, None, 1, 0, *not_scored),
        ("b", "A", at(1, 8), night(3), night(3), 1, "modelA_v1.0_2020-01-03", 1, 1, *not_scored),
    ]


def test_run_history_missed_nights(engine: sa.Engine) -> None:
    add_runs(
        engine,
        make_run("p1", "predict", 1),
        make_run("p3x", "predict", 3, "superseded"),
        make_run("p3", "predict", 3),
    )
    add_runs(
        engine,
        make_run("p2", "predict", 2, "failed"),
        make_run("p5", "predict", 5, "running", finished_at=None),
    )
    add_runs(
        engine, make_run("s1", "score", 1, "failed"), make_run("s2", "score", 2)
    )  # missed counts from the first that was done
    add_runs(
        engine, make_run("t1", "train", 1), make_run("pb4", "predict", 4, experiment="b")
    )  # train is not nightly
    add_runs(engine, make_run("pc1", "predict", 1, "failed", experiment="c"))  # never done
    before = datetime.now(UTC).date()
    missed = read(engine, "run_history", "experiment", "job", "run_date", where="status = 'missed'")
    first_week = [(experiment, job, day.day) for experiment, job, day in missed if day <= night(7)]
    assert first_week == [
        *(("a", "predict", day) for day in (2, 4, 5, 6, 7)),
        *(("a", "score", day) for day in (3, 4, 5, 6, 7)),
        *(("b", "predict", day) for day in (5, 6, 7)),
    ]
    of_b = [day for experiment, _, day in missed if experiment == "b"]
    assert of_b[-1] in (
        before - DAY,
        datetime.now(UTC).date() - DAY,
    )  # unless midnight is now, yesterday
    assert of_b == [night(5) + i * DAY for i in range((of_b[-1] - night(4)).days)]
    columns = VIEWS.tables["run_history"].c.keys()
    nothing = dict.fromkeys(columns) | {
        "job": "predict",
        "experiment": "b",
        "run_date": night(5),
        "status": "missed",
    }
    where = "experiment = 'b' and run_date <= '2020-01-05'"
    assert read(engine, "run_history", where=where)[0] == tuple(nothing.values())
    assert [
        row[0] for row in read(engine, "run_history", "run_id", where="status <> 'missed'")
    ] == sorted(["p1", "p2", "p3", "p3x", "p5", "pb4", "pc1", "s1", "s2", "t1"])


def test_run_history_seconds(engine: sa.Engine) -> None:
    are_whole = is_babelfish(engine)  # which is sent whole seconds
    moments = {
        "x": (at(1, 20), at(1, 20, 0, 1, 500_000)),
        "y": (as_stored(engine, at(1, 23, 59, 59, 999_000)), at(3, 0)),
        "z": (at(1, 20), None),
    }
    values: dict[str, Any] = {"error": "a\nb", "rows_read": 2, "rows_written": 3, "warnings": "c"}
    ledger = [
        make_run(name, "train", 1, "failed", started_at=began, finished_at=ended, **values)
        for name, (began, ended) in moments.items()
    ]
    add_runs(engine, *ledger)
    found = read(engine, "run_history", where="run_id = 'y'")
    assert found == [
        (
            "y",
            "train",
            "a",
            night(1),
            "failed",
            *moments["y"],
            86401.0 if are_whole else 86400.001,
            2,
            3,
            "0.1.0",
            "bi01 (process 7)",
            "a\nb",
            "c",
        ),
    ]
    assert read(engine, "run_history", "run_id", "seconds") == [
        ("x", 1.0 if are_whole else 1.5),
        ("y", 86401.0 if are_whole else 86400.001),
        ("z", None),
    ]


def test_run_history_train_alone_is_never_missed(engine: sa.Engine) -> None:
    add_runs(engine, make_run("t1", "train", 1))
    assert read(engine, "run_history", "run_id", "status") == [("t1", "done")]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("view", ["latest_predictions", "predictions", "predictions_superseded"])
@pytest.mark.parametrize("where", ["", " and experiment = 'card_offer'"])
def test_one_candidate_is_found_by_an_index(engine: sa.Engine, view: str, where: str) -> None:
    """By the key, within each run: no plan reads all rows of all nights."""
    question = f"explain query plan select * from {view} where candidate_id = '17'{where}"
    with engine.connect() as connection:
        plan = [row.detail for row in connection.exec_driver_sql(question)]
    assert "SEARCH p USING PRIMARY KEY (run_number=? AND candidate_id=?)" in plan
    assert not [step for step in plan if step.split()[:2] in (["SCAN", "p"], ["SCAN", "r"])]
