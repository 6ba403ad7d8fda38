"""The three stories end to end, on SQLite and on PostgreSQL.

Against figures that are computed another way.
"""

import hashlib
import json
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pytest
import sqlalchemy as sa
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import predict
import score
import train
from abatch.config import Experiment, load_experiments
from abatch.database import locks, reading
from abatch.database.tables import (
    looks,
    metadata,
    models,
    predictions,
    promotions,
    registrations,
    runs,
    scores,
    variant_scores,
    verdicts,
)
from abatch.errors import ConfigError, DatabaseError, DataError
from abatch.modelling import features, promotion, registry, training
from abatch.night import utc_now
from abatch.queries import Window
from abatch.sections import Guardrail, ModelConfig
from demo import bank_tables, simulate
from tests.conftest import FIRST_NIGHT, ROOT, alter

DAY = timedelta(days=1)
# of which three are mature at the end: window 14, lag 1, and a feed that is complete to the day
# before yesterday
N_NIGHTS = 20


def read(engine: sa.Engine, table: sa.Table) -> pd.DataFrame:
    with engine.connect() as connection:
        return pd.DataFrame(
            [row._asdict() for row in connection.execute(sa.select(table))],
            columns=list(table.c.keys()),
        )


def snapshot(engine: sa.Engine, folder: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """All rows of abatch's tables, and all files but the database's own."""
    rows = {
        table.name: sorted(map(repr, read(engine, table).to_dict("records")))
        for table in metadata.sorted_tables
    }
    files = {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("bank.db")
    }
    return rows, files


@pytest.mark.server
@pytest.mark.bank("trained")
def test_loop_figures_equal_another_way(experiment: Experiment, engine: sa.Engine) -> None:
    for days in range(N_NIGHTS):
        night = FIRST_NIGHT + days * DAY
        simulate.simulate(engine, night)
        predict.predict(experiment, engine, night)
        score.score(experiment, engine, night, draw=False)

    made = read(engine, predictions)
    assert len(made) == N_NIGHTS * simulate.N_CANDIDATES
    assert not made.duplicated(["run_date", "candidate_id"]).any()
    assert made.groupby("candidate_id")["variant"].nunique().eq(1).all()
    for _, rows in made.groupby(["run_date", "variant"]):
        n_selected = rows["selected"].sum()
        assert abs(n_selected - len(rows) / 5) < 1
        assert rows.loc[rows["selected"] == 1, "rank_in_variant"].max() == n_selected
        if rows["model_name"].notna().all():
            assert rows.sort_values("rank_in_variant")["prediction"].is_monotonic_decreasing

    with bank_tables.in_default_schema(engine).connect() as connection:
        answers = [row._asdict() for row in connection.execute(sa.select(bank_tables.answers))]
    answered = {(str(row["customer_id"]), row["offer_date"]) for row in answers}
    mature = made[made["run_date"] <= FIRST_NIGHT + 2 * DAY].copy()
    mature["outcome"] = [
        int((row.candidate_id, row.run_date) in answered) for row in mature.itertuples()
    ]
    found = read(engine, variant_scores).set_index(["variant", "cohort"])
    for variant, rows in mature.groupby("variant"):
        row = found.loc[(variant, "all")]
        assert row["n_predicted"] == (made["variant"] == variant).sum()
        assert (row["n_mature"], row["n_positive"]) == (len(rows), rows["outcome"].sum())
        assert row["n_selected_positive"] == rows.loc[rows["selected"] == 1, "outcome"].sum()
    figures = read(engine, scores).set_index(["model_name", "cohort", "metric"])["value"]
    for model_name, rows in mature.groupby("model_name"):
        expected = roc_auc_score(rows["outcome"], rows["prediction"])
        assert figures[model_name, "all", "roc_auc"] == pytest.approx(expected, abs=1e-4)
        assert figures[model_name[: -len("_2026-09-01")], "all", "roc_auc"] == pytest.approx(
            expected, abs=1e-4
        )
        assert figures[model_name, "all", "n"] == len(rows)
    ledger = read(engine, runs)
    assert set(ledger["status"]) == {"done"}
    assert ledger.groupby("job").size().to_dict() == {
        "predict": N_NIGHTS,
        "score": N_NIGHTS,
        "train": 1,
    }


@pytest.mark.bank("simulated")
def test_dry_run_writes_nothing(experiment: Experiment, engine: sa.Engine, tmp_path: Path) -> None:
    before = snapshot(engine, tmp_path)
    assert "goes live" in train.train(experiment, engine, FIRST_NIGHT, dry_run=True)
    assert snapshot(engine, tmp_path) == before
    train.train(experiment, engine, FIRST_NIGHT)
    before = snapshot(engine, tmp_path)
    assert "1000 candidates" in predict.predict(experiment, engine, FIRST_NIGHT, dry_run=True)
    assert snapshot(engine, tmp_path) == before
    predict.predict(experiment, engine, FIRST_NIGHT)
    before = snapshot(engine, tmp_path)
    told = score.score(experiment, engine, FIRST_NIGHT, dry_run=True)
    assert "0 mature predictions" in told
    assert told.endswith(" figures; models vs control: too early; B vs A: too early")
    assert snapshot(engine, tmp_path) == before


@pytest.mark.bank("trained")
def test_train_card_and_table_agree(experiment: Experiment, engine: sa.Engine) -> None:
    row = read(engine, models).set_index("model_name").loc["modelA_v1.0_2026-09-01"]
    path = experiment.environment.models_dir / row["file"]
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card == json.loads(row["card"])
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
    # Window 14, lag 1, feed complete to 30 August: the last day of training rows is 15 August.
    assert (card["from_date"], card["to_date"]) == ("2025-08-16", "2026-08-16")
    assert card["as_of"] == "2026-09-01T21:59:59.999999"  # the end of the day in Oslo
    assert card["rows"] == (60 - 16) * simulate.N_HISTORY
    assert card["columns"]["income"] == "number"
    assert card["columns"]["region"] == "category"
    latest = joblib.load(experiment.environment.models_dir / "modelA_v1.0_latest.pkl")
    frame = pd.DataFrame(
        [{name: None for name in card["columns"]} | {"region": "日本", "channel": "never seen"}]
    )
    assert (
        0 < latest.predict_proba(features.decode(features.code(frame, card["columns"])))[0, 1] < 1
    )


@pytest.mark.bank("simulated")
def test_train_same_rows_same_model(experiment: Experiment, engine: sa.Engine) -> None:
    whole = load_experiments(ROOT / "ml_config.yaml", "dev")["card_offer"]
    experiment = alter(experiment, models=whole.models)  # boosting too
    train.train(experiment, engine, FIRST_NIGHT)
    train.train(experiment, engine, FIRST_NIGHT, force=True)
    frame = reading.read_query(
        engine,
        experiment.query("candidates"),
        Window(FIRST_NIGHT, FIRST_NIGHT + DAY),
        config_end(experiment),
        chunk_rows=5000,
    )
    with engine.connect() as connection:
        for name in ("modelA_v1.0_2026-09-01", "modelB_v1.0_2026-09-01"):
            first, second = (
                registry.load_model(connection, experiment.environment.models_dir, name + end)
                for end in ("", "_2")
            )
            X = features.decode(features.code(frame, first.card.columns))
            assert (
                abs(first.pipeline.predict_proba(X) - second.pipeline.predict_proba(X)).max() < 1e-9
            )


def config_end(experiment: Experiment) -> pd.Timestamp:
    return pd.Timestamp(FIRST_NIGHT + DAY)


@pytest.mark.bank("trained")
def test_train_keeps_the_live_model_when_the_new_one_ranks_worse(
    experiment: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    model = experiment.models["A"].model_copy(
        update={"estimator": "sklearn.dummy.DummyClassifier", "params": {}}
    )
    worse = alter(experiment, models={**experiment.models, "A": model})
    simulate.simulate(engine, FIRST_NIGHT + DAY)
    train.train(worse, engine, FIRST_NIGHT + DAY)
    said = capsys.readouterr().err
    assert "modelA_v1.0_2026-09-02 does not go live: " in said
    assert "validation ROC AUC 0.5000 against" in said
    with engine.connect() as connection:
        live = promotion.read_promotions(connection, "card_offer").live(FIRST_NIGHT + DAY)
    assert live == {"A": "modelA_v1.0_2026-09-01", "B": "modelB_v1.0_2026-09-02"}
    assert (experiment.environment.models_dir / "modelA_v1.0_2026-09-02.pkl").exists()
    assert (experiment.environment.models_dir / "modelA_v1.0_latest.pkl").readlink() == Path(
        "modelA_v1.0_2026-09-01.pkl"
    )


@pytest.mark.bank("simulated")
def test_train_of_an_earlier_date_does_not_overrule_a_later_one(
    experiment: Experiment, engine: sa.Engine
) -> None:
    simulate.simulate(engine, FIRST_NIGHT + DAY)
    train.train(experiment, engine, FIRST_NIGHT + DAY)
    train.train(experiment, engine, FIRST_NIGHT)
    assert list(read(engine, promotions)["model_name"]) == [
        "modelA_v1.0_2026-09-02",
        "modelB_v1.0_2026-09-02",
    ]


@pytest.mark.bank("simulated")
def test_train_refuses_a_feed_that_has_not_begun(experiment: Experiment, engine: sa.Engine) -> None:
    empty = alter(
        experiment,
        sql={**experiment.sql, "watermark": "select max(complete_to) from card_feed where 1 = 0"},
    )
    with pytest.raises(
        DataError, match=r"watermark\.sql: tells no date, so nothing is known to be complete"
    ):
        train.train(empty, engine, FIRST_NIGHT)
    assert list(read(engine, runs)["status"]) == ["failed"]


@pytest.mark.bank("simulated")
@pytest.mark.parametrize(
    "database_url", ["postgresql", pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
def test_train_of_ids_in_char_n_names_rtrim(experiment: Experiment, engine: sa.Engine) -> None:
    query = experiment.sql["training"].replace(
        "card_calls.customer_id as candidate_id,",
        "cast(card_calls.customer_id as char(12)) as candidate_id,",
    )
    padded = alter(experiment, sql={**experiment.sql, "training": query})
    words = r"training\.sql: candidate_id '\d+ +': expected no space at its end, .* rtrim\("
    with pytest.raises(DataError, match=words):
        train.train(padded, engine, FIRST_NIGHT)


@pytest.mark.bank("trained")
def test_predict_takes_a_recorded_variant(experiment: Experiment, engine: sa.Engine) -> None:
    recorded = "case when customer_id % 2 = 0 then 'A' else 'control' end as variant"
    query = experiment.sql["candidates"].replace(
        "customer_id as candidate_id,", f"customer_id as candidate_id, {recorded},"
    )
    elsewhere = alter(experiment, sql={**experiment.sql, "candidates": query})
    predict.predict(elsewhere, engine, FIRST_NIGHT)
    made = read(engine, predictions)
    assert (
        made["variant"] == made["candidate_id"].map(lambda i: "A" if int(i) % 2 == 0 else "control")
    ).all()
    wrong = alter(
        experiment, sql={**experiment.sql, "candidates": query.replace("'control'", "'kontroll'")}
    )
    with pytest.raises(
        DataError,
        match=(
            r"candidates.sql: variant holds 'kontroll' in \d+ of 1000 rows; expected one of A, B,"
            r" control"
        ),
    ):
        predict.predict(wrong, engine, FIRST_NIGHT, force=True)
    assert len(read(engine, predictions)) == 1000


@pytest.mark.bank("trained")
def test_train_stands_back_when_somebody_rolled_back_meanwhile(
    experiment: Experiment,
    engine: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train.train(experiment, engine, FIRST_NIGHT, force=True)
    fit_and_validate = training.fit_and_validate

    def roll_back_first(*arguments: Any) -> training.Fitted:
        with engine.begin() as connection:
            promotion.promote(
                connection,
                registry.find_model(connection, "modelA_v1.0_2026-09-01"),
                action="rollback",
                effective_date=FIRST_NIGHT,
                reason="complaints",
                promoted_by="Kari",
                promoted_at=utc_now(),
            )
        return fit_and_validate(*arguments)

    monkeypatch.setattr(training, "fit_and_validate", roll_back_first)
    train.train(experiment, engine, FIRST_NIGHT, force=True)
    assert (
        "modelA_v1.0_2026-09-01_3 does not go live: modelA_v1.0_2026-09-01 was made live in the"
        " meantime" in capsys.readouterr().err
    )
    with engine.connect() as connection:
        live = promotion.read_promotions(connection, "card_offer").live(FIRST_NIGHT)
    assert live == {"A": "modelA_v1.0_2026-09-01", "B": "modelB_v1.0_2026-09-01_3"}
    name = "modelA_v1.0_2026-09-01_3"
    row = read(engine, models).set_index("model_name").loc[name]
    written = (experiment.environment.models_dir / f"{name}.json").read_text(encoding="utf-8")
    assert not json.loads(row["card"])["gate"]["promote"]
    assert json.loads(written) == json.loads(row["card"])


@pytest.mark.bank("trained")
def test_train_saves_under_the_lock_of_promotions(
    experiment: Experiment, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What promote and rollback take, too; who goes past it makes the run fail, whole."""
    save_model, was_free = registry.save_model, []

    def look_at_the_lock(*arguments: Any) -> None:
        with locks.lock(engine, promotion.PROMOTIONS) as acquired:
            was_free.append(acquired is not None)
        save_model(*arguments)

    monkeypatch.setattr(registry, "save_model", look_at_the_lock)
    train.train(experiment, engine, FIRST_NIGHT, force=True)
    assert was_free == [False, False]

    def go_past_the_lock(*arguments: Any) -> None:
        with engine.begin() as connection:
            connection.execute(
                promotions.insert().values(
                    experiment="card_offer",
                    variant="A",
                    model_name="modelA_v1.0_2026-09-01",
                    action="rollback",
                    effective_date=FIRST_NIGHT,
                    reason="by hand",
                    promoted_by="Kari",
                    promoted_at=utc_now(),
                )
            )
        save_model(*arguments)

    monkeypatch.setattr(registry, "save_model", go_past_the_lock)
    with pytest.raises(
        DatabaseError, match=r"another model was made live .* Nothing was published"
    ):
        train.train(experiment, engine, FIRST_NIGHT, force=True)
    assert len(read(engine, models)) == 4
    assert sorted(read(engine, runs)["status"]) == ["done", "failed", "superseded"]


@pytest.mark.bank("trained")
def test_predict_refuses_another_source_of_variants(
    experiment: Experiment, engine: sa.Engine
) -> None:
    predict.predict(experiment, engine, FIRST_NIGHT)
    query = experiment.sql["candidates"].replace(
        "customer_id as candidate_id,", "customer_id as candidate_id, 'A' as variant,"
    )
    elsewhere = alter(experiment, sql={**experiment.sql, "candidates": query})
    with pytest.raises(
        ConfigError, match=r'(?s)assignment\n +registered "hash"\n +now +"recorded"'
    ):
        predict.predict(elsewhere, engine, FIRST_NIGHT, force=True)
    assert len(read(engine, predictions)) == 1000


@pytest.mark.bank("simulated")
def test_train_doubts_its_rows(
    experiment: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every row twice, an id, and a word that the candidates query knows."""

    def ask(column: str, join: str = "") -> Experiment:
        query = experiment.sql["training"].replace("known.channel\n", f"known.channel, {column}\n")
        query = query.replace("from card_calls\n", f"from card_calls {join}\n")
        return alter(experiment, sql={**experiment.sql, "training": query})

    twice = "cross join (select 1 as n union all select 2 as n) as twice"
    doubtful = ask("cast(card_calls.customer_id as varchar(20)) as code", twice)
    train.train(doubtful, engine, FIRST_NIGHT)
    told = capsys.readouterr().err
    n_rows = read(engine, models)["rows"][0]
    assert f"training.sql: {n_rows // 2:,} of {n_rows:,} rows come twice or more" in told
    assert f"code has {n_rows // 2:,} values in {n_rows:,} rows, which are the candidate_id" in told
    with pytest.raises(DataError, match=r"training\.sql: returns a column 'variant', which in"):
        train.train(ask("'A' as variant"), engine, FIRST_NIGHT + DAY)


OWN_MODELS = """
import sys
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.compose import ColumnTransformer

class Own(LogisticRegression):
    def predict_proba(self, X):
        return self.spoil(super().predict_proba(X))

class Beyond(Own):
    def spoil(self, p): return 3 * p - 1

class Short(Own):
    def spoil(self, p): return p[1:]

class Flat(Own):
    def spoil(self, p): return p[:, 1]

class Complex(Own):
    def spoil(self, p): return p + 0j

class Leaves(Own):
    def spoil(self, p): raise SystemExit

class LeavesInFit(LogisticRegression):
    def fit(self, X, y): sys.exit(0)

class LeavesWhenSaved(LogisticRegression):
    def __getstate__(self): sys.exit(0)

class LeavesWhenLoaded(LogisticRegression):
    def __setstate__(self, state): sys.exit(0)

class Forgets(LogisticRegression):
    def __getstate__(self):
        return {**super().__getstate__(), "coef_": 2 * self.coef_}

class Changes(LogisticRegression):
    def __init__(self, C=1.0): super().__init__(C=float(C) + 1)

def make_lambda():
    few = ColumnTransformer([("all", FunctionTransformer(lambda X: X.fillna(0)), ["age"])])
    return make_pipeline(few, LogisticRegression())

def make_local():
    class Local(LogisticRegression):
        pass
    return Local()

def make_of_main():
    return sys.modules["__main__"].OfMain()

def leave():
    sys.exit(0)
"""


@pytest.mark.bank("simulated")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # models alone differ
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("Beyond", "predictions are no probabilities, such as"),
        ("Short", "predict_proba returned an array of float64, shape"),
        ("Flat", "predict_proba returned an array of float64, shape"),
        ("Complex", "predict_proba returned an array of complex128"),
        ("Leaves", "predicting raised SystemExit"),
        ("LeavesInFit", "could not be fitted; it raised SystemExit"),
        ("LeavesWhenSaved", "cannot be saved and loaded again"),
        ("LeavesWhenLoaded", "cannot be saved and loaded again"),
        ("Forgets", "saved and loaded again it predicts otherwise"),
        ("Changes", "the estimator cannot be cloned; it raised RuntimeError"),
        ("make_lambda", "cannot be saved and loaded again .*lambda"),
        ("make_local", "cannot be saved and loaded again .*Local"),
        ("make_of_main", "OfMain of __main__ is in it"),
        ("leave", "calling own_models.leave with them raised SystemExit"),
    ],
)
def test_train_refuses_estimators_that_would_fail_tonight(
    experiment: Experiment,
    engine: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    fault: str,
) -> None:
    """A model that is as it should be, trained beside it, does not go live either."""
    own = type("OfMain", (LogisticRegression,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "OfMain", own, raising=False)
    (experiment.environment.folder / "own_models.py").write_text(OWN_MODELS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(experiment.environment.folder))
    model_b = {**experiment.models["B"].model_dump(), "estimator": f"own_models.{name}"}
    both = {**experiment.models, "B": ModelConfig(**{**model_b, "params": {}})}
    try:
        with pytest.raises(ConfigError, match=rf"(?s){fault}"):
            train.train(alter(experiment, models=both), engine, FIRST_NIGHT)
    finally:
        sys.modules.pop("own_models", None)
    assert len(read(engine, promotions)) == len(read(engine, models)) == 0
    assert list(read(engine, runs)["status"]) == ["failed"]


@pytest.mark.bank("trained")
def test_score_keeps_its_figures_when_the_feed_is_emptied(
    experiment: Experiment, engine: sa.Engine
) -> None:
    predict.predict(experiment, engine, FIRST_NIGHT)
    empty = alter(
        experiment,
        sql={**experiment.sql, "watermark": "select max(complete_to) from card_feed where 1 = 0"},
    )
    with pytest.raises(
        ConfigError, match="watermark_query"
    ):  # it is registered, so only the feed itself can be emptied
        score.score(empty, engine, FIRST_NIGHT, draw=False)
    assert "0 mature" in score.score(experiment, engine, FIRST_NIGHT, draw=False)
    simulate.simulate(engine, FIRST_NIGHT + 18 * DAY)
    score.score(experiment, engine, FIRST_NIGHT + 18 * DAY, draw=False)
    before = read(engine, variant_scores)
    with bank_tables.in_default_schema(engine).begin() as connection:
        connection.execute(bank_tables.feed.delete())
    with pytest.raises(
        DataError,
        match=(
            r"watermark\.sql: tells no date, but outcomes were complete before. Nothing was changed"
        ),
    ):
        score.score(experiment, engine, FIRST_NIGHT + 19 * DAY, draw=False)
    pd.testing.assert_frame_equal(read(engine, variant_scores), before)


def tell_feed(engine: sa.Engine, day: date, complete_to: date) -> None:
    """Let the bank's feed say, from a day on, up to which day answers are complete."""
    row = {"loaded_at": simulate.morning(day) + timedelta(hours=1), "complete_to": complete_to}
    with bank_tables.in_default_schema(engine).begin() as connection:
        connection.execute(bank_tables.feed.insert().values(row))


@pytest.mark.bank("trained")
def test_score_refuses_outcomes_of_days_to_come(experiment: Experiment, engine: sa.Engine) -> None:
    predict.predict(experiment, engine, FIRST_NIGHT)
    simulate.simulate(engine, FIRST_NIGHT + DAY)
    tell_feed(engine, FIRST_NIGHT, FIRST_NIGHT + DAY)  # excluded: all of the night's day is known
    assert "0 mature" in score.score(experiment, engine, FIRST_NIGHT, draw=False)
    tell_feed(engine, FIRST_NIGHT + DAY, FIRST_NIGHT + 60 * DAY)
    before = read(engine, looks)
    with pytest.raises(
        DataError,
        match=r"watermark\.sql: says that the feed is complete to 2026-10-31, but on 2026-09-02"
        r" nobody .* 2026-09-03 at most",
    ):
        score.score(experiment, engine, FIRST_NIGHT + DAY, draw=False)
    pd.testing.assert_frame_equal(read(engine, looks), before)


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # its own way to write ids
@pytest.mark.parametrize(
    ("candidate_id", "outcome", "error"),
    [
        ("printf('%010d', customer_id)", DataError, r"'0001\d+' for '1"),
        (
            "case when customer_id % 2 = 0 then customer_id else 'C' || customer_id end",
            DataError,
            "'C1",
        ),
        ("'X' || (customer_id + 5000000)", None, "none of"),
        (
            "case when customer_id % 50 = 0 then 'C' || customer_id else customer_id end",
            None,
            "written otherwise",
        ),
    ],
)
def test_score_sees_that_outcomes_do_not_find_their_predictions(
    experiment: Experiment,
    engine: sa.Engine,
    capsys: pytest.CaptureFixture[str],
    candidate_id: str,
    outcome: type[Exception] | None,
    error: str,
) -> None:
    query = experiment.sql["outcomes"].replace("customer_id as", f"{candidate_id} as")
    other = alter(experiment, sql={**experiment.sql, "outcomes": query})
    predict.predict(other, engine, FIRST_NIGHT)
    for days in range(1, 4):
        simulate.simulate(engine, FIRST_NIGHT + days * DAY)
        predict.predict(other, engine, FIRST_NIGHT + days * DAY)
    last = FIRST_NIGHT + 21 * DAY
    simulate.simulate(engine, last)
    if outcome:
        with pytest.raises(outcome, match=rf"outcomes\.sql: \d+ ids .*{error}"):
            score.score(other, engine, last, draw=False)
        assert len(read(engine, looks)) == 0
    else:
        score.score(other, engine, last, draw=False)
        assert error in capsys.readouterr().err


@pytest.mark.bank("trained")
def test_score_tells_of_a_feed_that_is_suddenly_faster(
    experiment: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bank's feed is two days late, and is read every third night."""
    predict.predict(experiment, engine, FIRST_NIGHT)
    simulate.simulate(engine, FIRST_NIGHT + 8 * DAY)
    for days in range(0, 8, 3):
        score.score(experiment, engine, FIRST_NIGHT + days * DAY, draw=False)
    assert "mature at once" not in capsys.readouterr().err
    tell_feed(engine, FIRST_NIGHT + 8 * DAY, FIRST_NIGHT + 8 * DAY)
    score.score(experiment, engine, FIRST_NIGHT + 8 * DAY, draw=False)
    # 14 days of the window and one of lag; before, one more of the feed.
    told = "watermark.sql: nights mature after 15 days, and it took 17 or more until"
    assert told in capsys.readouterr().err
    score.score(experiment, engine, FIRST_NIGHT + 8 * DAY, force=True, draw=False)
    assert told in capsys.readouterr().err


@pytest.mark.bank("trained")
def test_score_waits_for_the_feed_of_a_guardrail(
    experiment: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """All whom B selects complain on the last day of the window, which is known a week later.

    Answers are complete to two days before the night: by them, nights are mature after 17 days, and
    their complaints would be missed. And if that feed suddenly says more, it is the one to look at.
    """
    bank, others = bank_tables.in_default_schema(engine), sa.MetaData()
    feed, complaints = (
        sa.Table(
            name,
            others,
            sa.Column("candidate_id", sa.Unicode(64)),
            sa.Column("event_date", sa.Date),
            sa.Column("loaded_at", sa.DateTime),
        )
        for name in ("complaint_feed", "complaints")
    )
    others.create_all(bank)
    sql = {
        "complaints": "select candidate_id, event_date, 1 as outcome from complaints where"
        " event_date >= :from_date and event_date < :to_date and loaded_at <= :as_of",
        "complaints.watermark": "select max(event_date) as day from complaint_feed"
        " where loaded_at <= :as_of",
    }
    watched = alter(
        experiment,
        guardrails={
            "complaints": Guardrail(
                query="complaints.sql",
                watermark="loaded.sql",
                kind="binary",
                direction="decrease",
                margin=0.01,
            )
        },
        sql={**experiment.sql, **sql},
    )
    for days in range(24):
        last = FIRST_NIGHT + days * DAY
        simulate.simulate(engine, last)
        if days < 7:
            predict.predict(watched, engine, last)
        loaded = {"loaded_at": simulate.morning(last), "event_date": last - 6 * DAY}
        with bank.begin() as connection:
            connection.execute(feed.insert().values(loaded))
    made = read(engine, predictions)
    rows = [
        {
            "candidate_id": row.candidate_id,
            "event_date": row.run_date + 13 * DAY,
            "loaded_at": simulate.morning(row.run_date + 20 * DAY),
        }
        for row in made[(made["variant"] == "B") & (made["selected"] == 1)].itertuples()
    ]
    with bank.begin() as connection:
        connection.execute(complaints.insert(), rows)
    for days in reversed(range(3)):
        score.score(watched, engine, last - days * DAY, draw=False)

    look = read(engine, looks).sort_values("run_date").to_dict("records")[-1]
    assert (look["watermark"], look["waits_for"]) == (last - 2 * DAY, "complaints")
    assert look["mature_date"] == FIRST_NIGHT + 2 * DAY
    made = made[made["run_date"] <= look["mature_date"]].drop_duplicates("candidate_id")
    complained = made[made["variant"] == "B"]["selected"].sum()
    found = read(engine, verdicts)
    found = found[found["run_date"] == last].set_index(["comparison", "metric"])
    assert complained > 0
    assert found.loc[("B vs A", "complaints"), "sum_treatment"] == complained
    assert found.loc[("B vs A", "complaints"), "sum_control"] == 0

    assert "mature at once" not in capsys.readouterr().err
    with bank.begin() as connection:
        connection.execute(feed.insert().values(**loaded | {"event_date": last + DAY}))
    simulate.simulate(engine, last + DAY)
    score.score(watched, engine, last + DAY, draw=False)
    # 14 days of the window, one of lag and two of the answers' feed; before, six of complaints.
    told = capsys.readouterr().err
    assert "loaded.sql: nights mature after 17 days, and it took 21 or more until now" in told


@pytest.mark.bank("trained")
def test_predict_refuses_what_was_registered_otherwise(
    experiment: Experiment, engine: sa.Engine
) -> None:
    predict.predict(experiment, engine, FIRST_NIGHT)
    assert list(read(engine, registrations)["experiment"]) == ["card_offer"]
    changed = alter(experiment, select_top=0.3)
    with pytest.raises(ConfigError, match=r"(?s)select_top\n +registered 0.2\n +now +0.3"):
        predict.predict(changed, engine, FIRST_NIGHT + DAY)
    with pytest.raises(ConfigError, match="new experiment name"):
        score.score(changed, engine, FIRST_NIGHT + DAY)


@pytest.mark.bank("trained")
def test_predict_in_small_chunks_gives_the_same_night(
    experiment: Experiment, engine: sa.Engine
) -> None:
    predict.predict(experiment, engine, FIRST_NIGHT)
    columns = ["candidate_id", "variant", "model_name", "rank_in_variant", "selected", "prediction"]
    whole = read(engine, predictions)[columns].sort_values("candidate_id", ignore_index=True)
    predict.predict(alter(experiment, chunk_rows=97), engine, FIRST_NIGHT, force=True)
    pd.testing.assert_frame_equal(
        read(engine, predictions)[columns].sort_values("candidate_id", ignore_index=True),
        whole,
        rtol=1e-12,
    )


@pytest.mark.bank("trained")
def test_score_made_up_later_keeps_the_newest_figures(
    experiment: Experiment, engine: sa.Engine
) -> None:
    predict.predict(experiment, engine, FIRST_NIGHT)
    simulate.simulate(engine, FIRST_NIGHT + 18 * DAY)
    score.score(experiment, engine, FIRST_NIGHT + 18 * DAY, draw=False)
    before = read(engine, variant_scores)
    assert before["n_mature"].sum() == 2 * simulate.N_CANDIDATES  # once in its week, once in all
    assert "a later night is scored already" in score.score(
        experiment, engine, FIRST_NIGHT + DAY, draw=False
    )
    pd.testing.assert_frame_equal(read(engine, variant_scores), before)
