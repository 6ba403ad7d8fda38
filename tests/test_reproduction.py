"""Reproduce: each thing that a model depends on is moved by hand.

The verdict must name it and no other.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
import yaml

import train
from abatch import __main__ as main
from abatch.config import Experiment, Experiments, load_experiments
from abatch.database import migrations
from abatch.modelling import libraries, reproduction, snapshots
from demo import simulate
from tests.conftest import (
    A8,
    FIRST_NIGHT,
    LATER_NIGHT,
    QUICK_MODELS,
    ROOT,
    SHARED_DATA,
    Templates,
    alter,
    open_engine,
    write_config,
)

A, B = (f"model{variant}_v1.0_{FIRST_NIGHT}" for variant in "AB")
BOOSTING = {
    "name": "modelB",
    "version": "1.0",
    "estimator": "sklearn.ensemble.HistGradientBoostingClassifier",
    "params": {"max_iter": 20},
}
OWN = """
import numpy as np
from sklearn.linear_model import LogisticRegression


class Shaken(LogisticRegression):
    def fit(self, X, y):
        super().fit(X, y)
        self.intercept_ = self.intercept_ + SOURCE.normal()
        return self


SOURCE = np.random.default_rng()


def make():
    return Shaken(max_iter=500)
"""


@pytest.fixture(scope="module")
def trained(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    templates.copy("sqlite", "simulated", folder)
    models = {"A": QUICK_MODELS["A"], "B": BOOSTING}
    file = write_config(folder, "sqlite:///bank.db", models=models)
    experiment = load_experiments(file, "dev")["card_offer"]
    engine = open_engine(experiment)
    train.train(experiment, engine, FIRST_NIGHT)
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


def reproduce(experiment: Experiment, engine: sa.Engine, name: str = B) -> reproduction.Verdict:
    return reproduction.reproduce(engine, Experiments({experiment.name: experiment}), name)


def find_moved(verdict: reproduction.Verdict) -> dict[str, str]:
    """What is not the same, and how."""
    return {
        check.thing: check.words for check in verdict.checks if check.state != reproduction.SAME
    }


def run(experiment: Experiment, *arguments: str, path: str = "") -> tuple[int, str, str]:
    """The command in a process of its own, with folders before all others on Python's path."""
    done = subprocess.run(
        [sys.executable, "-m", "abatch", *arguments, "--config", str(experiment.environment.file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
    return done.returncode, done.stdout, done.stderr


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def find_file(experiment: Experiment) -> Path:
    (path,) = experiment.environment.snapshots_dir.glob("*.parquet")
    return path


@pytest.mark.parametrize("name", [A, B])
def test_reproduce_nothing_moved(name: str, bank: Experiment, engine: sa.Engine) -> None:
    verdict = reproduce(bank, engine, name)
    assert verdict.is_reproduced
    assert find_moved(verdict) == {}
    assert verdict.headline.startswith(
        f"{name}: identical predictions on 6,600 rows of its snapshot (largest difference "
    )
    assert str(verdict).splitlines()[0].endswith("; nothing has moved")


@pytest.mark.parametrize("threads", ["1", "2"])
def test_reproduce_with_other_threads(
    threads: str, bank: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, threads)
    program = (
        "import sys\nfrom abatch.__main__ import main\nfile, *names = sys.argv[1:]\n"
        "sys.exit(max(main(['reproduce', name, '--config', file]) for name in names))"
    )
    command = [sys.executable, "-c", program, str(bank.environment.file), A, B]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    heads = [line for line in done.stdout.splitlines() if line.startswith("model")]
    for name, head in zip((A, B), heads, strict=True):
        assert head.startswith(f"{name}: identical predictions")
        assert head.endswith("; nothing has moved")


def test_reproduce_source_rows_overwritten(bank: Experiment, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "update card_candidates set age = age + 1 where candidate_date = '2026-08-01'"
        )
    n = simulate.N_HISTORY
    verdict = reproduce(bank, engine)
    assert verdict.is_reproduced
    assert list(find_moved(verdict)) == ["data"]
    assert (
        f"0 rows added, 0 removed, {n} changed (age {n}), such as candidate "
        in find_moved(verdict)["data"]
    )


def test_reproduce_database_has_forgotten(bank: Experiment, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("delete from card_calls")
    assert "returns no rows any more" in find_moved(reproduce(bank, engine))["data"]
    with engine.begin() as connection:
        connection.exec_driver_sql("drop table card_calls")
    verdict = reproduce(bank, engine)
    assert verdict.is_reproduced
    assert list(find_moved(verdict)) == ["data"]
    assert "does not answer" in find_moved(verdict)["data"]
    assert "card_calls" in find_moved(verdict)["data"]


@pytest.mark.parametrize("at", [0, 5000, -1])
def test_reproduce_snapshot_byte_flipped(
    at: int, bank: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(find_file(bank), at)
    verdict = reproduce(
        bank, engine
    )  # built from the database instead, which returns the same rows
    assert not verdict.is_reproduced
    assert (
        "NOT whole, the snapshot is damaged or gone; built again, it gives identical"
        in verdict.headline
    )
    assert list(find_moved(verdict)) == ["data"]
    assert "the snapshot's file was changed" in find_moved(verdict)["data"]
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "update card_candidates set income = 1 where candidate_date = '2026-08-01'"
        )
    code = main.main(["reproduce", B, "--config", str(bank.environment.file)])
    out = capsys.readouterr().out
    assert code == 1
    assert (
        "NOT reproduced, for its rows are neither in the snapshot nor in the database;"
        " moved: data\n"
    ) in out


def test_reproduce_snapshot_missing(bank: Experiment, engine: sa.Engine) -> None:
    find_file(bank).unlink()
    verdict = reproduce(bank, engine)
    assert not verdict.is_reproduced
    assert list(find_moved(verdict)) == ["data"]
    assert "the snapshot's file is missing" in find_moved(verdict)["data"]


def test_reproduce_model_byte_flipped_or_missing(bank: Experiment, engine: sa.Engine) -> None:
    path = bank.environment.models_dir / f"{B}.pkl"
    flip(path, 1000)
    verdict = reproduce(bank, engine)
    assert not verdict.is_reproduced
    assert list(find_moved(verdict)) == ["model file"]
    assert (
        "NOT whole, the model file is damaged or gone; built again, it gives identical predictions"
        " on 100 rows" in verdict.headline
    )
    assert "has SHA-256" in find_moved(verdict)["model file"]
    path.unlink()
    assert "No such file" in find_moved(reproduce(bank, engine))["model file"]


def test_reproduce_config_edited(bank: Experiment, engine: sa.Engine) -> None:
    raw = yaml.safe_load(bank.environment.file.read_text(encoding="utf-8"))
    raw["experiments"]["card_offer"]["models"]["B"]["params"]["max_iter"] = 30
    bank.environment.file.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    edited = load_experiments(bank.environment.file, "dev")["card_offer"]
    verdict = reproduce(edited, engine)
    assert verdict.is_reproduced
    assert find_moved(verdict) == {"configuration": "models.B.params.max_iter was 20, is 30"}
    assert (
        "no longer in the config"
        in find_moved(reproduction.reproduce(engine, Experiments(other=edited), B))["configuration"]
    )
    other = alter(bank, sql={**bank.sql, "training": "select 1"})
    assert find_moved(reproduce(other, engine)) == {"configuration": "sql.training is another text"}


def test_reproduce_code_edited(bank: Experiment, engine: sa.Engine, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(
            ".*", "models", "data", "snapshots", "tests", "logs", "reports"
        ),
    )
    source = copy / "abatch" / "modelling" / "training.py"
    source.write_text(
        source.read_text(encoding="utf-8").replace(
            "N_HOLDOUT_BUCKETS = 6", "N_HOLDOUT_BUCKETS = 9"
        ),
        encoding="utf-8",
    )
    command = [
        sys.executable,
        "-m",
        "abatch",
        "reproduce",
        B,
        "--config",
        str(bank.environment.file),
    ]
    done = subprocess.run(
        command, cwd=copy, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 1
    assert "NOT identical predictions on 6,600 rows" in done.stdout
    assert done.stdout.splitlines()[0].endswith("; moved: code")
    assert "moved: abatch/modelling/training.py (code version" in done.stdout


def test_reproduce_own_estimator_that_draws_without_a_seed(
    bank: Experiment, engine: sa.Engine, tmp_path: Path
) -> None:
    (bank.environment.file.parent / "shaken_models.py").write_text(OWN, encoding="utf-8")
    own = {"name": "modelC", "version": "1.0", "estimator": "shaken_models.make"}
    raw = yaml.safe_load(bank.environment.file.read_text(encoding="utf-8"))
    raw["experiments"]["card_offer"]["models"]["B"] = own
    bank.environment.file.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    other = load_experiments(bank.environment.file, "dev")["card_offer"]
    train.train(other, engine, FIRST_NIGHT, force=True)
    name = f"modelC_v1.0_{FIRST_NIGHT}"
    verdict = reproduce(other, engine, name)
    assert not verdict.is_reproduced
    assert find_moved(verdict) == {}
    assert "does not give the same twice" in verdict.headline
    (bank.environment.file.parent / "shaken_models.py").write_text(
        OWN + "\n# edited\n", encoding="utf-8"
    )
    assert list(find_moved(reproduce(other, engine, name))) == ["code"]


def test_reproduce_libraries_moved_are_named_before_unpickling(
    bank: Experiment, engine: sa.Engine, tmp_path: Path
) -> None:
    """The environment says that it has another scikit-learn.

    That it has not is of no importance to the check.
    """
    info = tmp_path / "site" / "scikit_learn-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: scikit-learn\nVersion: 1.0\n", encoding="utf-8"
    )
    code, out, err = run(bank, "reproduce", B, path=str(info.parent))
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith("; moved: environment")
    assert (
        "identical predictions on 100 rows of its snapshot, whose predictions its card keeps" in out
    )
    assert "(here 1.0)" in out
    assert "Install what it was trained with (pip install scikit-learn==" in " ".join(out.split())
    code, out, err = run(bank, "rollback", B, "--reason", "x", path=str(info.parent))
    assert code == 1
    assert "does not promise that the file can be opened. It is not opened." in err


@pytest.mark.slow
def test_reproduce_after_an_upgrade_of_scikit_learn(
    bank: Experiment, engine: sa.Engine, tmp_path: Path
) -> None:
    """Another scikit-learn for real, in a folder before the environment's own."""
    site = tmp_path / "site"
    wanted = f"scikit-learn<{'.'.join(libraries.list_installed()['scikit-learn'].split('.')[:2])}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--target",
        str(site),
        wanted,
    ]
    if subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode:
        pytest.skip("no other scikit-learn can be installed here")
    code, out, err = run(bank, "reproduce", A, path=str(site))
    assert code in (0, 1), (out, err)
    assert out.splitlines()[0].endswith("; moved: environment"), (out, err)
    assert "scikit-learn 1" in out
    assert "model file same: SHA-256 as recorded, but it is not opened here" in " ".join(
        out.split()
    )


def test_reproduce_uci_default(tmp_path: Path) -> None:
    """On real data: train, overwrite, recall, reproduce.

    The predictions are those of scikit-learn on the snapshot itself.
    """
    source = SHARED_DATA / "uci_default" / "default_credit_card_clients.csv"
    if not source.exists():
        pytest.skip("the real data is not at hand")
    clients = pd.read_csv(source).rename(
        columns={"ID": "candidate_id", "default.payment.next.month": "outcome"}
    )
    clients["event_date"] = pd.Timestamp("2005-09-01") + pd.to_timedelta(
        clients["candidate_id"] // 500, unit="D"
    )
    clients["event_date"] = clients["event_date"].dt.strftime("%Y-%m-%d")
    changes: dict[str, Any] = {
        "models": {"A": BOOSTING},
        "split": {"A": 0.9, "control": 0.1},
        "verdicts": ["models_vs_control"],
    }
    (tmp_path / "data").mkdir()
    path = write_config(tmp_path, "sqlite:///data/bank.db", **changes)
    names = ", ".join(clients.columns)
    training = (
        f"select {names} from clients where event_date >= :from_date and event_date < :to_date"
    )
    offer = load_experiments(path, "dev")["card_offer"]
    settings = offer.training.model_copy(update={"subgroups": ["SEX"]})
    offer = alter(
        offer,
        sql={**offer.sql, "training": training, "watermark": "select '2005-12-31'"},
        training=settings,
    )
    engine = open_engine(offer)
    migrations.upgrade(engine)
    with engine.begin() as connection:
        clients.to_sql("clients", connection, index=False)
    on = pd.Timestamp("2005-12-31").date()
    train.train(offer, engine, on)
    with engine.begin() as connection:
        connection.exec_driver_sql("update clients set LIMIT_BAL = 1 where candidate_id <= 250")
        connection.exec_driver_sql("delete from clients where candidate_id > 29990")
    verdict = reproduce(offer, engine, f"modelB_v1.0_{on}")
    assert verdict.is_reproduced
    assert list(find_moved(verdict)) == ["data"]
    assert "0 rows added, 10 removed, 250 changed (LIMIT_BAL 250)" in find_moved(verdict)["data"]
    with engine.connect() as connection:
        (row,) = snapshots.list_snapshots(connection)
    kept = snapshots.load(offer.environment.snapshots_dir, row)
    assert len(kept) == 30_000
    assert kept["outcome"].sum() == 6_636
    assert sorted(kept["LIMIT_BAL"]) == sorted(clients["LIMIT_BAL"])
    engine.dispose()


def test_reproduce_parameters_with_whole_numbers_as_keys(
    week: Experiment, week_engine: sa.Engine
) -> None:
    model = week.models["A"].model_copy(update={"params": {"class_weight": {0: 1, 1: 5}}})
    weighted = alter(
        week,
        models={**week.models, "A": model},
    )
    train.train(weighted, week_engine, LATER_NIGHT)
    assert reproduction.reproduce(
        week_engine, Experiments({"card_offer": weighted}), A8
    ).is_reproduced
