"""What the config decides of models over time: when to train, what may go live, how long files are
kept; recall; rollback by day.
"""

import json
import shutil
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
import yaml

import predict
import train
from abatch import __main__ as main
from abatch import version
from abatch.config import Experiment, Retention, Retrain, load_experiments
from abatch.database import connections, migrations
from abatch.database.tables import deletions, models, promotions, runs
from abatch.modelling import (
    registry,
    reproduction,
    retention,
    retraining,
    snapshots,
)
from abatch.night import utc_now
from demo import simulate
from tests.conftest import FIRST_NIGHT, QUICK_MODELS, alter, open_engine, write_config

DAY = timedelta(days=1)
A1, A8 = f"modelA_v1.0_{FIRST_NIGHT}", f"modelA_v1.0_{FIRST_NIGHT + 7 * DAY}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    models = {
        "A": QUICK_MODELS["A"],
        "B": {**QUICK_MODELS["A"], "name": "modelB", "params": {"C": 0.1}},
    }
    experiment = load_experiments(
        write_config(folder, "sqlite:///data/bank.db", models=models), "dev"
    )["card_offer"]
    engine = open_engine(experiment)
    migrations.upgrade(engine)
    simulate.simulate(engine, FIRST_NIGHT, history_days=60)
    train.train(experiment, engine, FIRST_NIGHT)
    simulate.simulate(engine, FIRST_NIGHT + 7 * DAY)
    engine.dispose()
    return folder


@pytest.fixture
def bank(trained: Path, tmp_path: Path) -> Experiment:
    shutil.copytree(trained, tmp_path / "bank", symlinks=True)
    return load_experiments(tmp_path / "bank" / "ml_config.yaml", "dev")["card_offer"]


@pytest.fixture
def engine(bank: Experiment) -> Iterator[sa.Engine]:
    engine = open_engine(bank)
    yield engine
    engine.dispose()


def with_training(experiment: Experiment, **changes: object) -> Experiment:
    training = experiment.training.model_copy(update=changes)
    return alter(
        experiment,
        training=training,
    )


def live(engine: sa.Engine, on: object = FIRST_NIGHT + 7 * DAY) -> dict[str, str]:
    with engine.connect() as connection:
        return registry.find_live(connection, "card_offer", on)  # type: ignore[arg-type]


def call(
    capsys: pytest.CaptureFixture[str], experiment: Experiment, *arguments: str
) -> tuple[int, str, str]:
    code = main.main([*arguments, "--config", str(experiment.environment.file)])
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("rules", "days", "words"),
    [
        ({"max_days": 7}, 6, "not trained, the last training is 6 days old (limit 7)"),
        ({"max_days": 7}, 7, "dry run: the last training is 7 days old (limit 7); "),
        (
            {"max_days": 2, "min_days": 7},
            6,
            "not trained, the last training is 6 days old, and min_days is 7",
        ),
        ({"new_rows": 7 * 150 + 1}, 7, "not trained, 1,050 rows have matured since (limit 1,051)"),
        ({"new_rows": 7 * 150}, 7, "dry run: 1,050 rows have matured since (limit 1,050); "),
        (
            {"psi": 0.1, "auc_drop": 0.05},
            7,
            "not trained, no drift has been measured; no performance has been measured",
        ),
    ],
)
def test_retraining_says_why(
    rules: dict, days: int, words: str, bank: Experiment, engine: sa.Engine
) -> None:
    experiment = with_training(bank, retrain=Retrain(**rules))
    assert words in train.train(experiment, engine, FIRST_NIGHT + days * DAY, dry_run=True)


def test_retraining_that_is_not_due_is_done_and_can_be_forced(
    bank: Experiment, engine: sa.Engine
) -> None:
    night, weekly = FIRST_NIGHT + 3 * DAY, with_training(bank, retrain=Retrain(max_days=7))
    assert "not trained" in train.train(weekly, engine, night)
    with engine.connect() as connection:
        row = connection.execute(sa.select(runs).where(runs.c.run_date == night)).one()
    assert (row.status, row.rows_written) == ("done", 0)
    assert "goes live" in train.train(weekly, engine, night, force=True)
    model = bank.models["A"].model_copy(update={"params": {"C": 0.2}})
    edited = alter(
        weekly,
        models={**weekly.models, "A": model},
    )
    said = train.train(edited, engine, night + DAY, dry_run=True)
    assert "the config's models, features or training query are not those of model" in said


def test_expanding_window_begins_on_its_first_day(bank: Experiment, engine: sa.Engine) -> None:
    start = FIRST_NIGHT - 40 * DAY
    experiment = with_training(bank, window="expanding", start_date=start)
    train.train(experiment, engine, FIRST_NIGHT + 7 * DAY, force=True)
    with engine.connect() as connection:
        row = registry.find_model(connection, A8)
    # Outcomes are complete to September 6; window 14, lag 1: the last day of training rows is
    # August 22.
    assert (row.from_date, row.to_date) == (start, FIRST_NIGHT - 9 * DAY)
    assert row.rows == 31 * simulate.N_HISTORY


def test_gate_keeps_a_model_that_was_trained_on_shuffled_outcomes(
    bank: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe is the same, and so are the newest rows: only the actual live model can show that
    the new one is worse.
    """
    query = bank.sql["training"].replace(
        "case when card_answers.customer_id is null then 0 else 1 end as outcome",
        "case when card_calls.call_date >= '2026-08-10' then case when card_answers.customer_id is"
        " null then 0 else 1 end when card_calls.customer_id % 25 = 0 then 1 else 0 end as outcome",
    )
    assert query != bank.sql["training"]
    spoilt = alter(bank, sql={**bank.sql, "training": query})
    train.train(spoilt, engine, FIRST_NIGHT + 7 * DAY)
    assert live(engine) == {"A": A1, "B": A1.replace("A", "B")}
    said = capsys.readouterr().err
    assert f"{A8} does not go live: " in said and "it may be lower by more than 0.02" in said
    with engine.connect() as connection:
        row = registry.find_model(connection, A8)
    assert (
        row.decision.startswith("does not go live: ")
        and (bank.environment.models_dir / f"{A8}.pkl").exists()
    )


def test_gate_refuses_too_few_rows(bank: Experiment, engine: sa.Engine) -> None:
    train.train(with_training(bank, min_rows=10_000), engine, FIRST_NIGHT + 7 * DAY)
    assert live(engine)["A"] == A1
    with engine.connect() as connection:
        assert (
            "training rows, fewer than the 10,000 that are asked for"
            in registry.find_model(connection, A8).decision
        )


def test_gate_without_the_live_models_snapshot_compares_recipes(
    bank: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = bank.environment.snapshots_dir.glob("*.parquet")
    path.unlink()
    train.train(bank, engine, FIRST_NIGHT + 7 * DAY)
    assert f"{A1} is compared by its recipe" in capsys.readouterr().err
    assert live(engine)["A"] == A8  # the same recipe on the same rows


def test_dirty_tree_does_not_go_live_in_prod(
    bank: Experiment, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version, "code_version", lambda: "0.1.0+abc-dirty")
    prod = alter(bank, environment_name="prod")
    train.train(prod, engine, FIRST_NIGHT + 7 * DAY)
    assert live(engine)["A"] == A1
    with engine.connect() as connection:
        assert (
            "does not go live: it was trained from a dirty tree"
            in registry.find_model(connection, A8).decision
        )
    train.train(prod, engine, FIRST_NIGHT + 7 * DAY, force=True, allow_dirty=True)
    assert live(engine)["A"] == f"{A8}_2"
    with engine.connect() as connection:
        row = connection.execute(
            sa.select(promotions).order_by(promotions.c.promotion_id.desc())
        ).first()
    assert (
        row is not None
        and "(from a dirty tree, allowed)" in row.reason
        and json.loads(row.evidence)["allow_dirty"] is True
    )


def test_promote_of_a_dirty_model_in_prod_by_hand(
    bank: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(with_training(bank, min_rows=10_000), engine, FIRST_NIGHT + 7 * DAY)
    raw = yaml.safe_load(bank.environment.file.read_text(encoding="utf-8"))
    raw["environments"]["prod"] = raw["environments"]["dev"]
    bank.environment.file.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    with engine.begin() as connection:
        connection.execute(models.update().values(code_version="0.1.0+abc-dirty"))
    command = ("promote", A8, "--reason", "x", "--env", "prod", "--date", "2026-09-08")
    code, out, err = call(capsys, bank, *command)
    assert (
        (code, out) == (1, "")
        and "from a dirty tree" in err
        and "--allow-dirty, which is recorded" in err
    )
    assert call(capsys, bank, *command, "--allow-dirty")[0] == 0
    with engine.connect() as connection:
        row = connection.execute(
            sa.select(promotions).order_by(promotions.c.promotion_id.desc())
        ).first()
    assert row is not None and json.loads(row.evidence) == {
        "allow_dirty": True,
        "code_version": "0.1.0+abc-dirty",
    }
    assert (
        call(
            capsys, bank, "rollback", A1, "--reason", "x", "--env", "prod", "--date", "2026-09-08"
        )[0]
        == 0
    )  # was live before


def test_rollback_to_what_was_live_on_a_day(
    bank: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(bank, engine, FIRST_NIGHT + 7 * DAY)
    assert live(engine)["A"] == A8
    for wrong in (
        ["rollback", "--reason", "x"],
        ["rollback", "modelA", "--to", "2026-09-03", "--reason", "x"],
    ):
        with pytest.raises(SystemExit, match="2"):
            main.main(wrong)
    assert capsys.readouterr().err.count("name either a model") == 2
    code, _, err = call(
        capsys, bank, "rollback", "--to", "2026-09-09", "--reason", "x", "--date", "2026-09-08"
    )
    assert code == 2 and "--to 2026-09-09 lies after 2026-09-08" in err
    code, out, err = call(
        capsys,
        bank,
        "rollback",
        "--to",
        "2026-09-03",
        "--reason",
        "complaints",
        "--date",
        "2026-09-08",
    )
    assert (code, err) == (0, "") and len(out.splitlines()) == 2
    assert live(engine) == {"A": A1, "B": A1.replace("A", "B")}
    code, out, err = call(
        capsys, bank, "rollback", "--to", "2026-09-03", "--reason", "again", "--date", "2026-09-08"
    )
    assert (code, out) == (0, "what was live on 2026-09-03 is live on 2026-09-08 already\n")
    code, out, err = call(capsys, bank, "rollback", "--to", "2026-08-01", "--reason", "x")
    assert code == 1 and "no model was live on 2026-08-01" in err


def test_delete_never_what_is_live(
    bank: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(bank, engine, FIRST_NIGHT + 7 * DAY)
    code, out, err = call(capsys, bank, "delete", A8, "--reason", "x")
    assert (code, out) == (1, "") and f"{A8} is live, or will be, and is not deleted" in err
    assert call(capsys, bank, "rollback", A1, "--reason", "x", "--date", "2026-09-08")[0] == 0
    assert "It was live once" in call(capsys, bank, "delete", A8, "--reason", "erasure")[1]
    assert not list(bank.environment.models_dir.glob(f"{A8}.*"))
    code, out, err = call(capsys, bank, "promote", A8, "--reason", "x")
    assert code == 1 and f"{A8} was deleted on " in err and "(erasure)" in err
    assert call(capsys, bank, "delete", A8, "--reason", "again")[0] == 0  # harmless to repeat
    assert "deleted" in call(capsys, bank, "models")[1]


def test_retention_keeps_what_was_ever_live(bank: Experiment, engine: sa.Engine) -> None:
    train.train(with_training(bank, min_rows=10_000), engine, FIRST_NIGHT + 7 * DAY)  # never live
    keep = alter(bank, retention=Retention(model_days=1, snapshot_gigabytes=0))
    assert [
        line.split()[0] for line in retention.apply(keep.environment, engine, utc_now(), "me")
    ] == ["snapshot"]  # the model is of today
    with engine.begin() as connection:
        connection.execute(runs.update().values(started_at=utc_now() - 2 * DAY))
    assert (
        len(retention.apply(keep.environment, engine, utc_now(), "me")) == 2
    )  # both variants' models of the later night
    assert sorted(path.name for path in bank.environment.models_dir.glob("*2026*.pkl")) == [
        f"{A1}.pkl",
        f"{A1.replace('A', 'B')}.pkl",
    ]
    assert len(list(bank.environment.snapshots_dir.glob("*.parquet"))) == 1
    assert retention.apply(keep.environment, engine, utc_now(), "me") == []
    with engine.connect() as connection:
        assert {row.kind for row in connection.execute(sa.select(deletions))} == {
            "model",
            "snapshot",
        }
        cards = registry.read_cards(connection, "card_offer").values()
        assert retraining.find_last(cards, FIRST_NIGHT) is not None


def test_retention_waits_for_a_run_that_may_promote_yet(
    bank: Experiment, engine: sa.Engine
) -> None:
    train.train(with_training(bank, min_rows=10_000), engine, FIRST_NIGHT + 7 * DAY)  # never live
    with engine.begin() as connection:
        connection.execute(
            runs.update().where(runs.c.run_date > FIRST_NIGHT).values(status="running")
        )
    keep = alter(bank, retention=Retention(snapshot_gigabytes=0))
    assert retention.apply(keep.environment, engine, utc_now(), "me") == []


def test_deleted_snapshot_is_kept_once_it_is_pulled_again(
    bank: Experiment, engine: sa.Engine
) -> None:
    night = FIRST_NIGHT + 7 * DAY
    train.train(with_training(bank, min_rows=10_000), engine, night)
    none = alter(bank, retention=Retention(snapshot_gigabytes=0)).environment
    retention.apply(none, engine, utc_now(), "me")
    assert len(list(bank.environment.snapshots_dir.glob("*.parquet"))) == 1
    train.train(with_training(bank, min_rows=10_000), engine, night, force=True)
    assert len(list(bank.environment.snapshots_dir.glob("*.parquet"))) == 2
    connections.read(engine, retention.remove_deleted, bank.environment)
    assert len(list(bank.environment.snapshots_dir.glob("*.parquet"))) == 2


def test_reproduce_parameters_with_whole_numbers_as_keys(
    bank: Experiment, engine: sa.Engine
) -> None:
    model = bank.models["A"].model_copy(update={"params": {"class_weight": {0: 1, 1: 5}}})
    weighted = alter(
        bank,
        models={**bank.models, "A": model},
    )
    train.train(weighted, engine, FIRST_NIGHT + 7 * DAY)
    assert reproduction.reproduce(engine, {"card_offer": weighted}, A8).is_reproduced


def test_snapshots_command(
    bank: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = bank.environment.snapshots_dir.glob("*.parquet")
    assert (
        stat.S_IMODE(path.stat().st_mode) == 0o600
        and stat.S_IMODE(bank.environment.snapshots_dir.stat().st_mode) == 0o700
    )
    code, out, _ = call(capsys, bank, "snapshots")
    assert code == 0 and path.stem[:12] in out and "there (needed)" in out and str(44 * 150) in out
    code, out, _ = call(capsys, bank, "snapshots", "show", A1)
    assert (
        code == 0
        and path.stem in out
        and "income" in out
        and out.endswith(bank.sql["training"].rstrip() + "\n")
    )
    assert call(capsys, bank, "snapshots", "verify")[:2] == (
        0,
        "1 of 1 snapshots are what was pulled\n",
    )
    assert call(capsys, bank, "snapshots", "purge")[0] == 0 and path.exists()
    path.write_bytes(path.read_bytes()[:-1])
    code, out, _ = call(capsys, bank, "snapshots", "verify", path.stem[:8])
    assert (
        code == 1
        and "the snapshot's file was changed" in out
        and "0 of 1 snapshots are what was pulled" in out
    )
    path.unlink()
    assert "missing (needed)" in call(capsys, bank, "snapshots")[1]
    code, _, err = call(capsys, bank, "snapshots", "show", "nothing")
    assert code == 1 and "there is no snapshot of this hash" in err


def test_recall_is_what_train_saw(
    bank: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with engine.connect() as connection:
        row = snapshots.choose_snapshot(connection, A1)
    out_file = tmp_path / "rows.parquet"
    window = ("--from", str(row.from_date), "--to", str(row.to_date))
    code, out, err = call(
        capsys,
        bank,
        "recall",
        "card_offer",
        *window,
        "--as-of",
        "2026-09-01",
        "--out",
        str(out_file),
    )
    assert (code, err) == (0, "") and row.content_hash in out
    pd.testing.assert_frame_equal(
        snapshots.from_parquet(out_file.read_bytes()),
        snapshots.load(bank.environment.snapshots_dir, row),
    )
    assert stat.S_IMODE(out_file.stat().st_mode) == 0o600


def test_recall_diff_counts_by_hand(
    bank: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """On August 25 the calls of the 22nd to the 24th and corrections of incomes came in.

    What was known is asked of the tables.
    """
    early, late = "2026-08-22 23:00:00", "2026-09-05 23:00:00"
    with engine.connect() as connection:
        window = "call_date >= '2026-08-15' and call_date < '2026-08-26'"
        query = (
            f"select count(*) from card_calls where loaded_at > ? and loaded_at <= ? and {window}"
        )
        n_added = connection.exec_driver_sql(query, (early, late)).scalar_one()
    asked = ("recall", "card_offer", "--from", "2026-08-15", "--to", "2026-08-26")
    code, out, err = call(
        capsys, bank, *asked, "--as-of", early.replace(" ", "T"), "--diff", late.replace(" ", "T")
    )
    assert (
        (code, err) == (0, "") and f"{n_added} rows added, 0 removed" in out and "outcome " in out
    )
    again = call(
        capsys, bank, *asked, "--as-of", early.replace(" ", "T"), "--diff", early.replace(" ", "T")
    )
    assert "0 rows added, 0 removed, 0 changed" in again[1]
    assert (
        call(
            capsys,
            bank,
            "recall",
            "card_offer",
            "--from",
            "2026-08-15",
            "--to",
            "2026-08-15",
            "--as-of",
            "2026-08-20",
        )[0]
        == 2
    )
    assert (
        call(
            capsys,
            bank,
            "recall",
            "card_ofer",
            "--from",
            "2026-08-15",
            "--to",
            "2026-08-16",
            "--as-of",
            "2026-08-20",
        )[0]
        == 2
    )


def test_predict_warns_when_libraries_differ_and_promise_that_it_works(
    bank: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with engine.begin() as connection:
        for row in connection.execute(sa.select(models)).all():
            card = json.loads(row.card)
            card["libraries"]["numpy"] = card["libraries"]["numpy"].split(".")[0] + ".0.1"
            connection.execute(
                models.update()
                .where(models.c.model_name == row.model_name)
                .values(card=json.dumps(card))
            )
    predict.predict(bank, engine, FIRST_NIGHT)
    assert "was trained with numpy 2.0.1 (here 2." in capsys.readouterr().err
    with engine.begin() as connection:
        connection.execute(
            models.update().values(card=json.dumps({**card, "libraries": {"scikit-learn": "1.0"}}))
        )
    with pytest.raises(
        registry.RegistryError,
        match=r"was trained with scikit-learn 1\.0 \(here .*pip install scikit-learn==1\.0\)",
    ):
        predict.predict(bank, engine, FIRST_NIGHT, force=True)
