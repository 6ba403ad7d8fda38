"""Cluster: dask's workers predict the same night, and what may go wrong there is told."""

import dataclasses
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import sqlalchemy as sa

import train
from abatch.config import Experiment, load_experiments
from abatch.database.tables import models
from abatch.errors import AbatchError, ConfigError, RegistryError
from abatch.modelling import cluster, libraries, workers
from abatch.modelling.card import Card
from abatch.modelling.cluster import Software
from abatch.modelling.registry import load_model
from demo import simulate
from tests.conftest import FIRST_NIGHT, ROOT, Start, alter, find_live, open_engine
from tests.squares import square
from tests.test_workers import end, read_log, read_rows, wait_for_hanging

FAILED = "scheduler: dask's scheduler or its workers failed while a model was fitted"
PLACE = "ml_config.yaml, environments.dev.scheduler"


class Cluster(NamedTuple):
    """A scheduler and two workers, on loopback."""

    address: str
    scheduler: "subprocess.Popen[bytes]"
    workers: "subprocess.Popen[bytes]"


@pytest.fixture
def two_workers(bank_folder: Path, tmp_path: Path) -> Iterator[Cluster]:
    """By dask's own commands, as somebody starts them by docs/scale.md."""
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    order = {"ORDER": str(bank_folder / "order"), "PYTHONPATH": str(ROOT)}
    common = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, *common],
            cwd=tmp_path,
            env={**os.environ, **order},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    started = [start("scheduler", "--port", "0")]
    try:
        while not file.exists():
            time.sleep(0.1)
            assert started[0].poll() is None
        started.append(start("worker", "--nthreads", "1", "--nworkers", "2"))
        yield Cluster(json.loads(file.read_text("utf-8"))["address"], *started)
    finally:
        for process in reversed(started):  # a worker of a nanny that is killed lives on
            process.terminate()
            process.wait(60)


def use_cluster(experiment: Experiment, address: str) -> Experiment:
    return alter(experiment, environment_backend="dask", environment_scheduler=address)


def make_environment(experiment: Experiment, address: str) -> Any:
    environment = use_cluster(experiment, address).environment
    return dataclasses.replace(environment, file=Path("ml_config.yaml"))


def use_search(bank_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Model A is found by a search."""
    monkeypatch.setenv("ORDER", str(bank_folder / "order"))
    experiment = load_experiments(bank_folder / "ml_config.yaml")["card_offer"]
    model = experiment.models["A"].model_copy(update={"estimator": "tests.ordered.make_search"})
    return experiment.model_copy(update={"models": {**experiment.models, "A": model}})


@pytest.mark.slow
def test_predict_on_a_cluster(bank_folder: Path, start: Start, two_workers: Cluster) -> None:
    """The rows of one job; a worker is killed, which costs a retry and nothing else."""
    assert end(start("talk"))[0] == 0
    rows, log = read_rows(bank_folder), read_log(bank_folder)
    of_cluster = {"backend": "dask", "scheduler": two_workers.address}
    assert end(start("talk", **of_cluster)) == (0, "")
    assert read_rows(bank_folder) == rows
    assert len(rows) == simulate.N_CANDIDATES
    words = " an estimator says: so does my child"
    assert read_log(bank_folder).count(words) == log.count(words)
    assert end(start("die", **of_cluster)) == (0, "")
    assert read_rows(bank_folder) == rows
    assert " environments.dev.scheduler: workers were lost, and" in read_log(bank_folder)


@pytest.mark.slow
def test_predict_whose_scheduler_stops(
    bank_folder: Path, start: Start, two_workers: Cluster
) -> None:
    process = start("hang", backend="dask", scheduler=two_workers.address)
    pids = wait_for_hanging(bank_folder, 2)
    two_workers.scheduler.kill()
    code, errors = end(process)
    assert code == 1
    assert (
        "scheduler: the connection to dask's scheduler was lost. Nothing was published." in errors
    )
    assert errors.count("\n") == 1
    assert read_rows(bank_folder) == []
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_predict_whose_workers_all_end(
    bank_folder: Path, start: Start, two_workers: Cluster
) -> None:
    process = start("hang", backend="dask", scheduler=two_workers.address)
    pids = wait_for_hanging(bank_folder, 2)
    two_workers.workers.kill()  # and so nobody starts others
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    code, errors = end(process)
    assert code == 1
    assert "scheduler: dask's scheduler has no workers. Nothing was published." in errors
    assert errors.count("\n") == 1
    assert read_rows(bank_folder) == []


@pytest.mark.slow
def test_train_whose_scheduler_stops(
    bank_folder: Path, two_workers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a search: no model is left."""
    experiment = use_cluster(use_search(bank_folder, monkeypatch), two_workers.address)
    (bank_folder / "order").write_text("hang in fit")
    engine = open_engine(experiment)
    before = {path.name for path in experiment.environment.models_dir.iterdir()}
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train.train, experiment, engine, FIRST_NIGHT, force=True)
        pids = wait_for_hanging(bank_folder, 2)
        two_workers.scheduler.kill()
        with pytest.raises(AbatchError, match=rf"{FAILED} \(.+ scheduler-connection-lost\)\. No m"):
            training.result(120)
    engine.dispose()
    assert {path.name for path in experiment.environment.models_dir.iterdir()} == before
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_train_whose_workers_die(
    bank_folder: Path, two_workers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again, as for want of memory."""
    experiment = use_cluster(use_search(bank_folder, monkeypatch), two_workers.address)
    (bank_folder / "order").write_text("die in fit")
    engine = open_engine(experiment)
    with pytest.raises(AbatchError, match=rf"{FAILED} \(.+\)\. No model was kept\. See"):
        train.train(experiment, engine, FIRST_NIGHT, force=True)
    engine.dispose()


@pytest.mark.slow
def test_train_whose_processes_die(
    bank_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One costs a retry, and the search finds the same; again and again they end the training."""
    experiment = alter(use_search(bank_folder, monkeypatch), environment_n_jobs=2)
    order, engine = bank_folder / "order", open_engine(experiment)
    train.train(experiment, engine, FIRST_NIGHT, force=True)
    order.write_text("die in fit once")
    train.train(experiment, engine, FIRST_NIGHT, force=True)
    assert "a worker was ended, by the system or by a model's code; what was not" in caplog.text
    with engine.connect() as connection:
        cards = connection.scalars(sa.select(models.c.card).filter_by(variant="A"))
        figures = [Card.model_validate_json(card).metrics for card in cards]
    assert figures[-1] == figures[-2]
    order.write_text("die in fit")
    words = r"workers were ended 3 times, .* published\. If memory was short, take fewer n_jobs\.$"
    with pytest.raises(AbatchError, match=words):
        train.train(experiment, engine, FIRST_NIGHT, force=True)
    engine.dispose()


@pytest.mark.slow
def test_cluster_whose_workers_differ(
    bank_folder: Path, two_workers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that come later: nothing is opened by them."""
    experiment = load_experiments(bank_folder / "ml_config.yaml")["card_offer"]
    environment = make_environment(experiment, two_workers.address)
    same = cluster.describe(["scikit-learn"], ["tests.ordered.Ordered"])
    pool = cluster.ClusterPool(square, environment, same)
    assert [*pool.work_through(range(30))] == [n * n for n in range(30)]
    other = Software({**same.versions, "scikit-learn": "1.0"}, same.code)
    here = libraries.find_version("scikit-learn")
    words = rf"tcp://127\.0\.0\.1:\d+ has scikit-learn {here} \(here 1\.0\), so nothing is sent"
    with pytest.raises(AbatchError, match=words):
        cluster.connect(environment, other)
    monkeypatch.setattr(
        cluster, "connect", lambda *_, connect=cluster.connect: connect(environment, same)
    )
    with pytest.raises(RegistryError, match=rf"has scikit-learn {here} \(here 1\.0\), so models"):
        [*cluster.ClusterPool(square, environment, other).work_through([1])]


@pytest.mark.slow
def test_train_spreads_the_members_of_a_search(
    bank_folder: Path, two_workers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among workers of this machine, and of dask; the model is the same."""
    experiment, found = use_search(bank_folder, monkeypatch), []
    for changes in (
        {},
        {"environment_n_jobs": 2},
        {"environment_backend": "dask", "environment_scheduler": two_workers.address},
    ):
        engine = open_engine(experiment)
        train.train(alter(experiment, **changes), engine, FIRST_NIGHT, force=True)
        with engine.connect() as connection:
            name = find_live(engine, FIRST_NIGHT)["A"]
            opened = load_model(connection, experiment.environment.models_dir, name)
        engine.dispose()
        search, pids = opened.pipeline[-1], {path.stem for path in bank_folder.glob("*.fit")}
        found.append((search.best_params_, search.best_estimator_.coef_.tolist()))
        n_elsewhere = len(pids - {str(os.getpid())})
        assert (n_elsewhere > 0) == bool(changes)
        for path in bank_folder.glob("*.fit"):
            path.unlink()
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_compare_names_what_differs() -> None:
    same = cluster.describe(["python", "numpy"], ["tests.squares.square"])
    assert cluster.compare(same) == ""
    assert same.versions["numpy"] == np.__version__
    other = Software({**same.versions, "nothing": "2.0"}, {**same.code, "abatch": "05bad64"})
    assert cluster.compare(other) == (
        f"has nothing (none) (here 2.0), abatch {same.code['abatch']} (here 05bad64)"
    )
    guarded = pickle.dumps(cluster._Guarded(other, b"not a pickle"))
    with pytest.raises(RegistryError, match=r"^a worker of dask has nothing \(none\)"):
        workers._open(guarded)


def test_connect_without_dask(week: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"environments\.dev\.backend: .* 'abatch\[dask\]'"):
        cluster.connect(make_environment(week, "tcp://127.0.0.1:1"), Software({}, {}))


def find_closed_port() -> socket.socket:
    """Bound, so that nobody else takes it, and not listening."""
    probe = socket.socket()
    probe.bind(("127.0.0.1", 0))
    return probe


def test_connect_where_nobody_answers(week: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the network's own; RFC 2606 keeps the name invalid for nobody."""
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with find_closed_port() as probe:
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        refused = rf"{address} \(ConnectionRefusedError: .* refused, for 1 s\)\. Start it"
        unknown = r"tcp://a.invalid:1 \(gaierror: .* for 1 s\)"
        for named, why in ((address, refused), ("tcp://a.invalid:1", unknown)):
            with pytest.raises(AbatchError, match=f"^{PLACE}: dask's scheduler .* at {why}"):
                cluster.connect(make_environment(week, named), Software({}, {}))


@pytest.mark.slow
def test_predict_whose_scheduler_has_no_certificate(start: Start) -> None:
    """Nor has the job: one message, and nothing of dask's behind it."""
    pytest.importorskip("distributed")
    with find_closed_port() as probe:
        address = f"tls://127.0.0.1:{probe.getsockname()[1]}"
        code, errors = end(start(backend="dask", scheduler=address))
    assert code == 1
    assert f"dask's scheduler does not answer at {address} (TypeError: TLS expects" in errors
    assert errors.count("\n") == 1
