"""Locks that are lost while they are held, and holders that are alive no more.

On servers the connection that holds a lock is ended, as a firewall or a restart does it; of SQLite
its file is removed.
"""

import os
import re
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

import predict
import train
from abatch import __main__ as abatch_main
from abatch.config import Experiment
from abatch.database import connections, locks
from abatch.database.tables import models, promotions, runs
from abatch.errors import DatabaseError, NothingToDo
from abatch.modelling import promotion, registry
from abatch.night import open_night
from tests.conftest import A1, FIRST_NIGHT, add_runs, is_babelfish
from tests.processes import Process, Stop

pytestmark = pytest.mark.server

_HOLDERS = {
    "postgresql": "select pid from pg_locks where locktype = 'advisory'",
    "mssql": (
        "select request_session_id from sys.dm_tran_locks where resource_type = 'APPLICATION' and"
        " resource_database_id = db_id()"
    ),
    "babelfish": (
        "select distinct cast(pid as int) from pg_catalog.pg_locks where locktype = 'advisory' and"
        " pid <> @@spid"
    ),
}
LOST = "its connection to the server was ended, as firewalls, restarts and broken networks do"


def lose(engine: sa.Engine, name: str) -> None:
    """Take a lock from whoever holds it, who is not told."""
    kind = engine.dialect.name
    if kind == "sqlite":
        Path(f"{engine.url.database}.{name}.lock").unlink()
        return
    holders = _HOLDERS["babelfish" if is_babelfish(engine) else kind]
    end = "kill {}" if kind == "mssql" else "select pg_terminate_backend({}, 30000)"
    with engine.connect() as connection:
        sessions = connection.scalars(sa.text(holders)).all()
        connection.rollback()
        link: Any = connection.connection.dbapi_connection
        link.autocommit = True  # as kill asks for
        for session in sessions:
            connection.exec_driver_sql(end.format(session))
        connection.invalidate()


def wait_until(is_so: Callable[[], bool]) -> None:
    again = retry_if_result(lambda result: not result)
    Retrying(retry=again, stop=stop_after_delay(60), wait=wait_fixed(0.05))(is_so)


def main(experiment: Experiment, *arguments: str, script: Any = predict) -> int:
    common = ["--config", str(experiment.environment.file), "--date", str(FIRST_NIGHT)]
    return script.main([*common, *arguments])


def fork(script: str, experiment: Experiment, *arguments: str, stop: Stop) -> Process:
    common = ["--config", str(experiment.environment.file), "--date", str(FIRST_NIGHT)]
    return Process(script, [*common, *arguments], stop)


def read(engine: sa.Engine, *columns: sa.ColumnElement[Any]) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns))]


def read_statuses(engine: sa.Engine, job: str) -> list[str]:
    with engine.connect() as connection:
        query = sa.select(runs.c.status).filter_by(job=job).order_by(runs.c.run_number)
        return list(connection.scalars(query))


def read_silence(engine: sa.Engine, run_id: str) -> float:
    now = datetime.now(UTC).replace(tzinfo=None)
    name = "predict-card_offer"
    return connections.read(engine, locks.find_silence, name, run_id, now).total_seconds()


def test_lock_that_is_lost_is_known(experiment: Experiment, engine: sa.Engine) -> None:
    with locks.lock(engine, "one") as lock, locks.lock(engine, "other") as other:
        assert lock is not None
        assert other is not None
        assert lock.is_held()
        other.release()
        assert not other.is_held()
        lock.require("Nothing was changed.")
        lose(engine, "one")
        assert not lock.is_held()
        with pytest.raises(DatabaseError, match=rf"the lock one was lost .*{LOST}.* Nothing was"):
            lock.require("Nothing was changed.")
        with locks.lock(engine, "one") as second:
            assert second is not None
            assert second.is_held()
            assert not lock.is_held()
            assert not lock.take()
        assert lock.take()
        assert lock.is_held()


def test_regain_unless_another_run_has_begun(experiment: Experiment, engine: sa.Engine) -> None:
    run = {"job": "train", "experiment": "card_offer", "run_date": FIRST_NIGHT}
    add_runs(engine, {**run, "run_id": "mine", "status": "running"})
    with locks.lock(engine, "train-card_offer") as lock:
        assert lock is not None
        lose(engine, "train-card_offer")
        assert lock.regain("mine")
        assert lock.is_held()
        lose(engine, "train-card_offer")
        with locks.lock(engine, "train-card_offer") as other:
            assert other is not None
            assert not lock.regain("mine")
        with engine.begin() as connection:  # as the other's run does first
            connection.execute(runs.update().values(status="failed"))
        assert not lock.regain("mine")
        with locks.lock(engine, "train-card_offer") as third:
            assert third is not None  # for the first has given it back


def test_keep_gives_signs_and_regains(
    experiment: Experiment, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is later than the one before; a lock that is lost is soon held again."""
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    with open_night("predict", experiment, engine, FIRST_NIGHT) as night:
        first = read_silence(engine, night.run_id)
        assert first < locks.SILENT_SECONDS
        wait_until(lambda: read_silence(engine, night.run_id) > first)
        last = read_silence(engine, night.run_id)
        wait_until(lambda: read_silence(engine, night.run_id) < last)
        lose(engine, "predict-card_offer")
        assert night._lock is not None
        wait_until(night._lock.is_held)
        with locks.lock(engine, "predict-card_offer") as other:
            assert other is None
        night.finish("nothing")
    assert read_statuses(engine, "predict") == ["done"]


def test_finish_after_another_run(
    experiment: Experiment, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other has the night, be it done or still at it."""
    for is_over in (True, False):
        with open_night("predict", experiment, engine, FIRST_NIGHT, force=True) as night:
            lose(engine, "predict-card_offer")
            with open_night("predict", experiment, engine, FIRST_NIGHT, force=True) as other:
                if is_over:
                    other.finish("nothing")
                message = rf"run {night.run_id} has lost its lock to run {other.run_id} on .*{LOST}"
                with pytest.raises(DatabaseError, match=message):
                    night.require_lock()
                with pytest.raises(DatabaseError, match=message):
                    night.finish("nothing")
                if not is_over:
                    other.finish("nothing")
    assert read_statuses(engine, "predict") == ["failed", "superseded", "failed", "done"]


@pytest.mark.bank("trained")
@pytest.mark.parametrize(
    "where",
    [
        ("abatch.modelling.training", "fit_and_validate", 2, "hold"),
        ("abatch.modelling.registry", "pickle_model", 1, "hold"),
    ],
    ids=lambda where: where[1],
)
def test_train_lock_lost_and_another_trains(
    experiment: Experiment, engine: sa.Engine, where: tuple[str, str, int, str]
) -> None:
    """Of two trainings of one date the second is whole, and the first says what has happened.

    The first waits where it has chosen the names that the second takes, and holds PROMOTIONS, too.
    """
    with fork("train", experiment, "--force", stop=Stop(*where)) as job:
        job.wait_until_held()
        lose(engine, "train-card_offer")
        if where[1] == "pickle_model" and engine.dialect.name == "sqlite":
            lose(engine, promotion.PROMOTIONS)  # ended with all others on a server
        assert main(experiment, "--force", script=train) == 0
        folder = experiment.environment.models_dir
        there = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        job.go_on()
        code, out, err = job.end()
    assert (code, out) == (1, "")
    assert re.fullmatch(
        rf"train card_offer 2026-09-01: run \S+ has lost its lock to run \S+ on .*{LOST}.* Nothing"
        r" of it was published\. If the other fails .* run this again; .*\n",
        err,
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == there
    assert read_statuses(engine, "train") == ["superseded", "failed", "done"]
    live = connections.read(engine, promotion.read_promotions, "card_offer").live(FIRST_NIGHT)
    assert live == {"A": f"{A1}_2", "B": f"{A1}_2".replace("modelA", "modelB")}
    for name in live.values():
        connections.read(engine, registry.load_model, folder, name)
    assert len(read(engine, models.c.model_name)) == 4


@pytest.mark.bank("trained")
def test_predict_by_nobody_alive(
    experiment: Experiment,
    engine: sa.Engine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that is stopped holds its lock, as one whose host has died does for a while."""
    hold = Stop("abatch.modelling.promotion", "open_live", action="hold")
    with fork("predict", experiment, stop=hold) as job:
        job.wait_until_held()
        assert job.pid is not None
        os.kill(job.pid, signal.SIGSTOP)
        assert main(experiment) == 0  # it was alive a moment ago
        assert capsys.readouterr() == ("", "")
        monkeypatch.setattr(locks, "SILENT_SECONDS", 0)
        for date in ("2026-09-01", "2026-09-02"):
            assert main(experiment, "--date", date) == 1
            out, err = capsys.readouterr()
            assert out == ""
            assert re.fullmatch(
                rf"predict card_offer {date}: predict of card_offer for 2026-09-01 was begun by"
                rf" \S+ \(process {job.pid}\) since 20.* UTC \(run \S+\), which has given no sign"
                r" of life for \d+ minutes and still holds the lock: nobody alive is doing this\..*"
                r"\n",
                err,
            )
        monkeypatch.undo()
        os.kill(job.pid, signal.SIGCONT)
        job.go_on()
        assert job.end()[0] == 0
    assert read_statuses(engine, "predict") == ["done"]


@pytest.mark.bank("trained")
def test_promote_whose_lock_is_lost_changes_nothing(
    experiment: Experiment,
    engine: sa.Engine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train.train(experiment, engine, FIRST_NIGHT, force=True)
    before, real = read(engine, *promotions.c), promotion.promote

    def promote(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        lose(engine, promotion.PROMOTIONS)

    monkeypatch.setattr(promotion, "promote", promote)
    options = ("--reason", "x", "--config", str(experiment.environment.file))
    assert abatch_main.main(["promote", A1, "--date", str(FIRST_NIGHT), *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "the lock promotions was lost while it was held" in err
    assert err.endswith("Nothing was changed. Run it again.\n")
    assert read(engine, *promotions.c) == before
    monkeypatch.undo()
    assert abatch_main.main(["promote", A1, "--date", str(FIRST_NIGHT), *options]) == 0


def test_holder_in_its_first_moments_is_alive(experiment: Experiment, engine: sa.Engine) -> None:
    """Before its first sign of life."""
    run = {"job": "predict", "experiment": "card_offer", "run_date": FIRST_NIGHT}
    add_runs(engine, {**run, "run_id": "first", "status": "running"})
    with (
        locks.lock(engine, "predict-card_offer"),
        pytest.raises(NothingToDo, match="is already being done"),
        open_night("predict", experiment, engine, FIRST_NIGHT),
    ):
        pass
