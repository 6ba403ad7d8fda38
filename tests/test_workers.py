"""Workers: what they do comes in order, and one that is killed costs a retry."""

import hashlib
import multiprocessing.forkserver
import os
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sklearn.linear_model import LogisticRegression

import predict
from abatch.config import Experiment
from abatch.database.tables import feature_counts, prediction_rows, predictions
from abatch.errors import AbatchError, DataError
from abatch.experiment.assignment import assign_candidates
from abatch.modelling import inference, workers
from abatch.modelling.estimators import fit, make_pipeline_for
from abatch.modelling.registry import Model
from abatch.modelling.workers import LocalPool
from bench.processes import list_children
from demo import simulate
from tests.conftest import (
    FIRST_NIGHT,
    N_ORDERED,
    ROOT,
    RUN,
    Start,
    Templates,
    alter,
    make_card,
    open_engine,
    write_experiment,
)
from tests.squares import refuse, square, square_but_die, square_but_die_sending


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
def test_work_through_in_order(n_jobs: int) -> None:
    results = LocalPool(square, n_jobs).work_through(iter(range(20)))
    assert [*results] == [n * n for n in range(20)]
    assert [*LocalPool(square, n_jobs).work_through([])] == []


def test_work_through_raises_what_work_raises() -> None:
    results = LocalPool(refuse, 2).work_through(range(9))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="Ærø: 3"):
        next(results)


def test_work_through_a_killed_worker(tmp_path: Path) -> None:
    work = partial(square_but_die, folder=tmp_path, n_times=2)
    assert [*LocalPool(work, 2).work_through(range(12))] == [n * n for n in range(12)]
    assert len([*tmp_path.iterdir()]) == 2


def test_work_through_a_worker_killed_while_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an answer is no answer."""
    monkeypatch.setattr(workers, "CHECK_SECONDS", 0.1)
    pool = LocalPool(partial(square_but_die_sending, folder=tmp_path), 2)
    assert [answer[0] for answer in pool.work_through(range(8))] == [n * n for n in range(8)]
    assert pool.n_ended == 1


def test_submit_after_a_worker_was_killed() -> None:
    """While it had nothing to do; loky has seen it when it has ended the other, too."""
    pool = LocalPool(square, 2)
    try:
        os.kill(pool.executor.submit(os.getpid).result(), signal.SIGKILL)
        for _ in range(300):
            if not any(process.is_alive() for process in pool.processes):
                break
            time.sleep(0.1)
        for n in range(3):
            pool.submit(pickle.dumps(n))
        assert [pool.take() for _ in range(3)] == [0, 1, 4]
        assert pool.n_ended == 1
    finally:
        pool.close()


def test_work_through_workers_that_are_killed_again_and_again(tmp_path: Path) -> None:
    work = partial(square_but_die, folder=tmp_path, n_times=99)
    with pytest.raises(AbatchError, match=r"workers were ended 3 times, .* fewer n_jobs"):
        [*LocalPool(work, 2).work_through(range(12))]


def test_work_through_a_worker_killed_as_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has read what it is to do."""
    real, killed = multiprocessing.forkserver.connect_to_new_process, list[int]()

    def connect(files: Any) -> Any:
        server = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        before = {*list_children(server)}
        ends = real(files)
        if not killed:
            while not (begun := {*list_children(server)} - before):
                time.sleep(0.01)
            killed.extend(begun)
            os.kill(killed[0], signal.SIGKILL)
            wait_until_over(killed[0])
        return ends

    monkeypatch.setattr(multiprocessing.forkserver, "connect_to_new_process", connect)
    pool = LocalPool(square, 2)
    assert [*pool.work_through(range(5))] == [0, 1, 4, 9, 16]
    assert (len(killed), pool.n_ended) == (1, 1)


def test_processes_that_joblib_begins_end_with_a_killed_parent(tmp_path: Path) -> None:
    """As for a search of a training; they would stay, and wait for more."""
    code = """
from pathlib import Path
from types import SimpleNamespace
import joblib
from abatch.modelling import cluster
from tests.squares import hang
environment = SimpleNamespace(backend="loky", n_jobs=2, place="here")
with cluster.spread(SimpleNamespace(experiment=SimpleNamespace(environment=environment)), []):
    joblib.Parallel()(joblib.delayed(hang)(Path.cwd()) for _ in range(2))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    try:
        pids = wait_for_hanging(tmp_path, 2)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    wait_until_over(*pids)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("synchronize.SemLock.__setstate__(object.__new__(synchronize.SemLock), state)", ""),
        ("open('/no such file')", "FileNotFoundError"),
    ],
)
def test_a_worker_that_begins_while_its_job_ends_is_silent(statement: str, told: str) -> None:
    """The job's locks are gone; what else fails is told."""
    code = "import abatch.modelling.preload; from multiprocessing import synchronize;"
    code += f"state = (0, 1, 1, '/no such lock'); {statement}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert told in done.stderr
    assert bool(told) == bool(done.stderr)


def test_work_through_ends_its_workers(tmp_path: Path) -> None:
    """Also if nobody wants the rest."""
    results = LocalPool(square, 2).work_through(range(50))
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]


@pytest.mark.bank("trained")
def test_a_night_is_the_same_for_all_workers_and_chunks(
    experiment: Experiment, engine: sa.Engine
) -> None:
    """To the last bit, whichever rows a candidate is predicted beside."""
    whole: Any = None
    for n_jobs, chunk_rows in ((1, 10**6), (1, 97), (2, 1000), (3, 201)):
        changed = alter(experiment, n_jobs=n_jobs, chunk_rows=chunk_rows)
        predict.predict(changed, engine, FIRST_NIGHT, force=whole is not None)
        found = read_night(engine)
        whole = whole or found
        pd.testing.assert_frame_equal(found[0], whole[0], check_exact=True)
        assert found[1] == whole[1]
    assert len(whole[0]) == simulate.N_CANDIDATES


@pytest.mark.bank("trained")
@pytest.mark.parametrize(
    "database_url", ["postgresql", pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
def test_a_night_is_the_same_on_every_database(
    experiment: Experiment, engine: sa.Engine, templates: Templates, tmp_path: Path
) -> None:
    """To the last bit, models too; the bucket is that of docs/assignment.md."""
    folder = tmp_path / "twin"
    folder.mkdir()
    twin = write_experiment(folder, templates.copy("sqlite", "trained", folder))
    found = []
    for one, connected in ((experiment, engine), (twin, twin_engine := open_engine(twin))):
        predict.predict(alter(one, n_jobs=1, chunk_rows=201), connected, FIRST_NIGHT)
        with connected.connect() as connection:
            rows = pd.read_sql(sa.select(prediction_rows), connection).drop(columns="run_number")
        found.append(rows.sort_values("candidate_id", ignore_index=True))
    twin_engine.dispose()
    pd.testing.assert_frame_equal(*found, check_exact=True)
    for row in found[0].itertuples():
        digest = hashlib.sha256(f"card_offer:{row.candidate_id}".encode()).digest()
        assert row.bucket == int.from_bytes(digest[16:24], "big") % 64


def test_predict_is_the_same_beside_anybody(rng: np.random.Generator) -> None:
    """To the last bit: alone, in sevens, and all at once."""
    X = pd.DataFrame({f"x{i:02}": rng.normal(size=300) for i in range(18)})
    types = dict.fromkeys(X, "number")
    y = (X["x00"] + rng.normal(size=300) > 0).astype(int).to_numpy()
    pipeline = fit(make_pipeline_for(LogisticRegression(), types), X, y, "A")
    references = {name: make_card().features["age"] for name in X}
    models = {"A": Model("modelA", pipeline, make_card(columns=types, features=references))}

    def predict_in(n: int) -> list[float]:
        chunks = (X[i : i + n].assign(candidate_id=range(i, i + n)) for i in range(0, 294, n))
        parts = [assign_candidates(chunk, "salt", {"A": 1.0}) for chunk in chunks]
        found = [inference.predict(models, part, {}).prediction for part in parts]
        return np.concatenate(found).tolist()

    assert predict_in(1) == predict_in(294)
    assert predict_in(7) == predict_in(294)


def read_night(engine: sa.Engine) -> tuple[pd.DataFrame, list[Any]]:
    """Rows of the night that is published, and what its candidates looked like."""
    columns = ["candidate_id", "variant", "model_name", "prediction", "rank_in_variant", "selected"]
    with engine.connect() as connection:
        rows = pd.read_sql(sa.select(predictions), connection)[columns]
        query = sa.select(feature_counts).order_by(*feature_counts.primary_key)
        counts = [row[:-1] for row in connection.execute(query)]
    return rows.sort_values("candidate_id", ignore_index=True), counts


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and stderr."""
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def read_rows(folder: Path) -> list[Any]:
    query = """select candidate_id, variant, model_name, prediction, rank_in_variant, selected
        from predictions order by candidate_id"""
    with closing(sqlite3.connect(folder / "bank.db")) as connection:
        return connection.execute(query).fetchall()


def read_log(folder: Path) -> str:
    """What was logged, which is then forgotten."""
    (path,) = (folder / "logs" / "dev").glob("predict_*.log")
    text = path.read_text("utf-8")
    path.unlink()
    return text


def wait_for_hanging(folder: Path, n: int) -> list[int]:
    """Numbers of the processes that hang, once they are so many."""
    for _ in range(600):
        if len(found := [*folder.glob("*.pid")]) == n:
            return [int(path.stem) for path in found]
        time.sleep(0.1)
    raise AssertionError(found)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return False


def wait_until_over(*pids: int) -> None:
    for _ in range(200):
        if not any(map(is_running, pids)):
            return
        time.sleep(0.1)
    raise AssertionError([*filter(is_running, pids)])


@pytest.mark.slow
def test_predict_with_a_killed_worker(bank_folder: Path, start: Start) -> None:
    """It costs a retry, which is logged, and nothing else: cron mails nothing."""
    assert end(start())[0] == 0
    rows = read_rows(bank_folder)
    read_log(bank_folder)
    assert end(start("die", n_jobs=2)) == (0, "")
    assert read_rows(bank_folder) == rows
    assert len(rows) == simulate.N_CANDIDATES
    log = read_log(bank_folder)
    ended = " a worker was ended, by the system or by a model's code;"
    assert len(re.findall(rf" WARNING dev {RUN}{ended}", log)) == 1
    assert "done again (time 1, at most 2)" in log


@pytest.mark.slow
def test_predict_with_more_processes_than_cores(
    bank_folder: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at least, and no more than the cores that loky may use; the night is the same."""
    assert end(start())[0] == 0
    rows = read_rows(bank_folder)
    for n_cores, n_jobs in ((1, 2), (1, 100_000)):
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", str(n_cores))
        code, errors = end(start(n_jobs=n_jobs))
        assert code == 0
        assert read_rows(bank_folder) == rows
        assert errors.count("\n") == (n_jobs > 2)
    assert "environments.dev.n_jobs: found 100000, but this machine lets a job use so" in errors
    assert errors.endswith(" many cores: 1. 2 processes work. Write n_jobs: 2.\n")


@pytest.mark.slow
def test_predict_logs_what_is_said_in_workers(bank_folder: Path, start: Start) -> None:
    """As with one job; only that each worker loads the models."""
    logs = []
    for n_jobs in (1, 2):
        assert end(start("talk", n_jobs=n_jobs)) == (0, "")
        lines = re.findall(rf"(?<=Z )(\w+) dev {RUN} (.*(?: says: |warn).*)", read_log(bank_folder))
        lines = [" ".join(line) for line in lines]
        logs.append(sorted(line for line in lines if "loaded" not in line))
        assert any("says: I am loaded" in line for line in lines)
    assert logs[1] == logs[0]
    n_chunks = -(-simulate.N_CANDIDATES // N_ORDERED)
    for words in ("I predict", "so does my child"):
        assert logs[0].count(f"INFO an estimator says: {words}") == n_chunks


@pytest.mark.slow
def test_predict_tells_what_a_model_raises_in_a_worker(bank_folder: Path, start: Start) -> None:
    one, two = (end(start("raise", n_jobs=n_jobs)) for n_jobs in (1, 2))
    assert two == one
    assert one[0] == 1
    assert "predicting raised ValueError: Ærø is not an island here (ordered.py, line" in one[1]
    assert read_log(bank_folder).count('tests/ordered.py", line') == 2


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(bank_folder: Path, start: Start) -> None:
    process = start("hang", n_jobs=2)
    pids = wait_for_hanging(bank_folder, 2)
    process.kill()
    wait_until_over(process.pid, *pids)
    assert end(process) == (-signal.SIGKILL, "")  # nor says Python's resource tracker anything


@pytest.mark.slow
def test_workers_end_at_an_interrupt(bank_folder: Path, start: Start) -> None:
    """Ctrl-C reaches all processes of a terminal; one message is printed."""
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background: ignored
    process = start("hang", n_jobs=2)
    signal.signal(signal.SIGINT, kept)
    pids = wait_for_hanging(bank_folder, 2)
    os.killpg(process.pid, signal.SIGINT)
    check_interrupted(process, bank_folder, pids)


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_predict_that_is_terminated(
    bank_folder: Path, start: Start, n_jobs: int, send: Callable[[int, int], None]
) -> None:
    """The job alone, as by kill, or with all its processes, as by systemd: as at Ctrl-C."""
    process = start("hang", n_jobs=n_jobs)
    pids = wait_for_hanging(bank_folder, n_jobs)
    send(process.pid, signal.SIGTERM)
    check_interrupted(process, bank_folder, pids)
    with closing(sqlite3.connect(bank_folder / "bank.db")) as connection:
        query = "select status, error from runs where job = 'predict'"
        assert connection.execute(query).fetchall() == [("failed", "KeyboardInterrupt")]


def check_interrupted(process: "subprocess.Popen[str]", folder: Path, pids: list[int]) -> None:
    """One message, nothing is published, and nobody works any more."""
    code, errors = end(process)
    expected = "interrupted; what was not finished was not written. Run it again."
    assert (code, errors) == (1, f"predict card_offer {FIRST_NIGHT}: {expected}\n")
    wait_until_over(*pids)
    assert read_rows(folder) == []
