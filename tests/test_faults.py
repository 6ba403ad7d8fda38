"""What may go wrong at night.

Killed processes, two at once, missing tables and files, odd candidates.
"""

import itertools
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

import predict
import score
import train
from abatch.config import Experiment, load_experiments
from abatch.database import sqlite_arrow, writing
from abatch.database.tables import (
    models,
    prediction_rows,
    prediction_shares,
    predictions,
    predictions_superseded,
    registrations,
    runs,
    variant_scores,
)
from abatch.errors import DataError, NothingToDo, RegistryError
from abatch.experiment import spool
from abatch.night import utc_now
from demo import bank_tables, simulate
from tests.conftest import (
    FIRST_NIGHT,
    ROOT,
    Cluster,
    Server,
    Templates,
    add_runs,
    end_others,
    open_engine,
    use_chunks,
    write_config,
    write_experiment,
)
from tests.processes import Process, Stop

pytestmark = pytest.mark.server

SHOWN = ("done", "superseded")  # statuses of runs whose rows readers see


@pytest.fixture
def bank(templates: Templates, tmp_path: Path) -> Experiment:
    """A trained bank on SQLite."""
    url = templates.copy("sqlite", "trained", tmp_path)
    return use_chunks(write_experiment(tmp_path, url).environment.file)


@pytest.fixture
def bank_engine(bank: Experiment) -> Iterator[sa.Engine]:
    engine = open_engine(bank)
    yield engine
    engine.dispose()


def run(script: str, experiment: Experiment, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a script for the first night, as cron sees them."""
    command = [
        sys.executable,
        f"{script}.py",
        "--config",
        str(experiment.environment.file),
        "--date",
        str(FIRST_NIGHT),
        *arguments,
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout, done.stderr


def call(
    script: ModuleType, experiment: Experiment, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """The same in this process."""
    common = ["--config", str(experiment.environment.file), "--date", str(FIRST_NIGHT)]
    code = script.main([*common, *arguments])
    return code, *capsys.readouterr()


def fork(script: str, experiment: Experiment, *arguments: str, stop: Stop | None = None) -> Process:
    """The same in a process of its own that has its imports already, and may be stopped."""
    common = ["--config", str(experiment.environment.file), "--date", str(FIRST_NIGHT)]
    return Process(script, [*common, *arguments], stop)


def kill(script: str, experiment: Experiment, stop: Stop, *arguments: str) -> None:
    with fork(script, experiment, *arguments, stop=stop) as process:
        assert process.end() == (-signal.SIGKILL, "", "")


def again(experiment: Experiment, engine: sa.Engine, *, force: bool = False) -> None:
    """The next run of the same night, which may find that it is done."""
    with suppress(NothingToDo):
        predict.predict(experiment, engine, FIRST_NIGHT, force=force)


def read(engine: sa.Engine, *columns: sa.ColumnElement[Any]) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns))]


def read_statuses(engine: sa.Engine, job: str = "predict") -> list[str]:
    with engine.connect() as connection:
        return list(
            connection.scalars(
                sa.select(runs.c.status).where(runs.c.job == job).order_by(runs.c.started_at)
            )
        )


def read_failure(engine: sa.Engine, job: str = "predict") -> str:
    """What the ledger says of the one run that failed."""
    with engine.connect() as connection:
        return connection.scalars(
            sa.select(runs.c.error).where(runs.c.job == job, runs.c.status == "failed")
        ).one()


def execute(engine: sa.Engine, sql: str, **binds: object) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(sql), binds)


def list_spooled(experiment: Experiment) -> list[Path]:
    """What is in the folders of runs, each of which begins with its own."""
    return sorted(experiment.environment.spool_dir.rglob("[!.]*"))  # but for the owner's mark


def check_night(
    experiment: Experiment, engine: sa.Engine, n_candidates: int = simulate.N_CANDIDATES
) -> None:
    """One row per candidate, all from the one run that is done; nothing is left of dead ones."""
    rows = read(
        engine,
        predictions.c.candidate_id,
        predictions.c.variant,
        predictions.c.rank_in_variant,
        predictions.c.run_id,
    )
    assert (
        len(rows)
        == len({row[0] for row in rows})
        == len({row[1:3] for row in rows})
        == n_candidates
    )
    with engine.connect() as connection:
        done = connection.execute(
            sa.select(runs).where(runs.c.job == "predict", runs.c.status == "done")
        ).one()
    assert {row[3] for row in rows} == {done.run_id}
    assert done.rows_read == done.rows_written == n_candidates
    published = {
        row[0] for row in read(engine, runs.c.run_number, runs.c.status) if row[1] in SHOWN
    }
    for table in (prediction_rows, prediction_shares):
        assert {row[0] for row in read(engine, table.c.run_number)} <= published
    assert list_spooled(experiment) == []
    assert len(read(engine, registrations.c.experiment)) == 1


@pytest.mark.parametrize(
    ("stop", "n_rows", "published"),
    [
        # The run is in the ledger, and nothing is spooled.
        (Stop("abatch.modelling.promotion", "open_live", action="kill before"), 0, False),
        (Stop("abatch.experiment.spool:Spool", "add", 2), 0, False),
        # One batch of three is there, and the next is not committed.
        (Stop("abatch.database.writing", "load", 2), 400, False),
        # All rows are there, and not yet compared.
        (Stop("abatch.experiment.predictions", "_read_back"), 1000, False),
        # They are being shown, and nothing is committed.
        (Stop("abatch.experiment.predictions", "write_shares"), 1000, False),
        (Stop("abatch.night", "_end_run"), 1000, False),
        # All is committed, and nobody was told.
        (Stop("abatch.night:Night", "log", 2), 1000, True),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, Stop) else str(value),
)
def test_predict_killed_and_run_again(
    bank: Experiment, bank_engine: sa.Engine, stop: Stop, n_rows: int, published: bool
) -> None:
    kill("predict", bank, stop)
    assert len(read(bank_engine, prediction_rows.c.candidate_id)) == n_rows
    assert read(bank_engine, predictions_superseded.c.run_id) == []
    assert len(read(bank_engine, predictions.c.candidate_id)) == (
        simulate.N_CANDIDATES if published else 0
    )
    assert read_statuses(bank_engine) == ["done" if published else "running"]
    again(bank, bank_engine)
    check_night(bank, bank_engine)
    assert read_statuses(bank_engine) == (["done"] if published else ["failed", "done"])


def test_predict_killed_leaves_a_folder_of_its_own_to_the_next(
    bank: Experiment, bank_engine: sa.Engine
) -> None:
    """Who is predicted is nobody else's business: only the job's user may look into it."""
    kill("predict", bank, Stop("abatch.experiment.spool:Spool", "add", 2))
    folder, file = list_spooled(bank)
    assert ("running", folder.name) in read(bank_engine, runs.c.status, runs.c.run_id)
    assert file.suffix == ".arrow"
    assert folder.stat().st_mode & 0o777 == 0o700
    predict.predict(bank, bank_engine, FIRST_NIGHT, dry_run=True)
    assert list_spooled(bank) == [folder, file]  # a dry run removes nothing
    again(bank, bank_engine)
    check_night(bank, bank_engine)


def test_predict_killed_while_it_cleans_up(bank: Experiment, bank_engine: sa.Engine) -> None:
    """Rows of a run that nobody has seen are still there for the third run, which removes them."""
    kill("predict", bank, Stop("abatch.night", "_end_run"))
    kill("predict", bank, Stop("abatch.database.writing", "delete_batch"))
    assert len(read(bank_engine, prediction_rows.c.candidate_id)) == simulate.N_CANDIDATES
    assert read(bank_engine, predictions.c.candidate_id) == []
    again(bank, bank_engine)
    check_night(bank, bank_engine)
    assert read_statuses(bank_engine) == ["failed", "done"]  # the second was not begun


def kill_wherever(
    templates: Templates, tmp_path: Path, kind: str, owner: str, name: str, *options: str
) -> Iterator[sa.Engine]:
    """A bank's database after a kill of predict at each call of a function, one after the other.

    With --force the night is done before. The next run does what is missing then.
    """
    server, code = templates.find_server(kind), None
    for nth in itertools.count(1):
        folder = tmp_path / str(nth)
        folder.mkdir()
        url = templates.copy(kind, "trained", folder)
        experiment = use_chunks(write_experiment(folder, url).environment.file)
        engine = open_engine(experiment)
        if "--force" in options:
            predict.predict(experiment, engine, FIRST_NIGHT)
        with fork("predict", experiment, *options, stop=Stop(owner, name, nth)) as process:
            code, _, err = process.end()
        if code != 0:
            assert (code, err) == (-signal.SIGKILL, "")
            if server:
                end_others(engine)
            yield engine
            again(experiment, engine)
            check_night(experiment, engine)
        engine.dispose()
        if server:
            server.drop(url)
        if code == 0:
            break


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize(
    ("owner", "name", "n_least", "seen"),
    [
        # After each statement, the last of which is not committed then, and after each commit.
        ("sqlalchemy.engine.base:Connection", "_exec_single_context", 20, {0}),
        ("sqlalchemy.engine.default:DefaultDialect", "do_commit", 6, {0, simulate.N_CANDIDATES}),
        # After each folder and file that is made, each chunk, and each file that goes again.
        ("os", "mkdir", 1, {0}),
        ("os", "unlink", 1, {0}),
        ("os", "rmdir", 1, {0}),
        ("abatch.experiment.spool:Spool", "add", 3, {0}),
    ],
)
def test_predict_killed_wherever_it_is(
    templates: Templates,
    tmp_path: Path,
    kind: str,
    owner: str,
    name: str,
    n_least: int,
    seen: set[int],
) -> None:
    """Readers meet the whole night or nothing of it, and the next run does what is missing."""
    shown = [
        len(read(engine, predictions.c.candidate_id))
        for engine in kill_wherever(templates, tmp_path, kind, owner, name)
    ]
    assert shown == sorted(shown)
    assert {*shown} == seen
    assert len(shown) >= n_least


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "owner", "name", "n_least"),
    [
        ("sqlite", "sqlalchemy.engine.base:Connection", "_exec_single_context", 20),
        ("sqlite", "sqlalchemy.engine.default:DefaultDialect", "do_commit", 6),
        ("postgresql", "sqlalchemy.engine.default:DefaultDialect", "do_commit", 6),
    ],
)
def test_predict_forced_and_killed_wherever_it_is(
    templates: Templates, tmp_path: Path, kind: str, owner: str, name: str, n_least: int
) -> None:
    """Readers meet the whole old night, then the whole new one, and never both."""
    kept = []
    for engine in kill_wherever(templates, tmp_path, kind, owner, name, "--force"):
        old = min(read(engine, runs.c.job, runs.c.run_number, runs.c.run_id))[2:]
        shown = read(engine, predictions.c.run_id)
        assert len(shown) == simulate.N_CANDIDATES
        (new,) = {*shown}
        kept.append(new == old)
        superseded = read(engine, predictions_superseded.c.run_id)
        assert superseded == ([] if new == old else [old] * simulate.N_CANDIDATES)
    assert kept == sorted(kept, reverse=True)
    assert len(kept) >= n_least


WRITER_KILLED = """
import sys
sys.path[0] = "."
import predict
from abatch.database import sqlite_arrow, writing
from tests.processes import Stop, stop_at
writing.MANY_ROWS = 0
nth, *arguments = sys.argv[1:]
stop = Stop("abatch.database.sqlite_arrow", "_explaining", int(nth))
sqlite_arrow._explaining = stop_at(sqlite_arrow._explaining, stop)
sys.exit(predict.main(arguments))
"""


def test_predict_killed_while_a_process_writes(
    templates: Templates, tmp_path: Path, bank: Experiment, bank_engine: sa.Engine
) -> None:
    """At each of three batches and at their end: nobody sees a row, and the process ends, too."""
    common = ["--config", str(bank.environment.file), "--date", str(FIRST_NIGHT)]
    for nth in range(1, 5):
        command = [sys.executable, "-c", WRITER_KILLED, str(nth), *common]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
        assert read(bank_engine, predictions.c.candidate_id) == []
    time.sleep(1)
    again(bank, bank_engine)
    check_night(bank, bank_engine)
    assert read_statuses(bank_engine) == ["failed"] * 4 + ["done"]


def test_predict_a_process_that_writes_is_killed(
    bank: Experiment,
    bank_engine: sa.Engine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing, "MANY_ROWS", 0)
    with monkeypatch.context() as patch:
        real = sqlite_arrow._explaining

        def kill(process: Any) -> Any:
            process.kill()
            return real(process)

        patch.setattr(sqlite_arrow, "_explaining", kill)
        message = one_line(call(predict, bank, capsys))
    assert message.endswith(
        ": the process that writes was ended by signal 9, as by a system that is short of memory."
        " Run the job again."
    )
    assert read(bank_engine, predictions.c.candidate_id) == []
    again(bank, bank_engine)
    check_night(bank, bank_engine)


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_predict_killed_on_postgres(experiment: Experiment, engine: sa.Engine) -> None:
    experiment = use_chunks(experiment.environment.file)
    kill("predict", experiment, Stop("abatch.night", "_end_run"))
    end_others(engine)
    assert read(engine, predictions.c.candidate_id) == []
    assert read_statuses(engine) == ["running"]
    again(experiment, engine)
    check_night(experiment, engine)


def test_predict_forced_and_killed_keeps_the_old_night(
    bank: Experiment, bank_engine: sa.Engine
) -> None:
    predict.predict(bank, bank_engine, FIRST_NIGHT)
    before = sorted(read(bank_engine, *predictions.c))
    kill("predict", bank, Stop("abatch.night", "_end_run"), "--force")
    assert sorted(read(bank_engine, *predictions.c)) == before
    assert read(bank_engine, predictions_superseded.c.run_id) == []
    assert len(read(bank_engine, prediction_rows.c.bucket)) == 2 * simulate.N_CANDIDATES
    again(bank, bank_engine)  # which finds that the night is done
    check_night(bank, bank_engine)
    assert sorted(read(bank_engine, *predictions.c)) == before
    again(bank, bank_engine, force=True)
    check_night(bank, bank_engine)
    assert read_statuses(bank_engine) == ["superseded", "failed", "done"]
    assert len(read(bank_engine, predictions_superseded.c.run_id)) == simulate.N_CANDIDATES


def test_train_killed_between_files_and_rows(bank: Experiment, bank_engine: sa.Engine) -> None:
    execute(bank_engine, "delete from models")
    execute(bank_engine, "delete from promotions")
    execute(bank_engine, "update runs set status = 'failed'")
    kill("train", bank, Stop("abatch.modelling.registry", "add_model", 2))
    assert read(bank_engine, models.c.model_name) == []
    assert read_statuses(bank_engine, "train") == ["failed", "running"]
    train.train(bank, bank_engine, FIRST_NIGHT)
    names = {f"{stem}_v1.0_{FIRST_NIGHT}" for stem in ("modelA", "modelB")}
    assert {row[0] for row in read(bank_engine, models.c.model_name)} == names
    # left by the run whose rows were deleted above, and by the run that died
    assert len(list(bank.environment.models_dir.glob("*.pkl.orphan-*"))) == 4
    assert {path.stem for path in bank.environment.models_dir.glob("*.pkl")} == {
        *names,
        "modelA_v1.0_latest",
        "modelB_v1.0_latest",
    }
    again(bank, bank_engine)
    check_night(bank, bank_engine)


@pytest.mark.bank("trained")
def test_predict_two_at_once(experiment: Experiment, engine: sa.Engine) -> None:
    """Two processes, as on two hosts: one works, the other says who holds the lock, and leaves."""
    experiment = use_chunks(experiment.environment.file)
    hold = Stop("abatch.database.writing", "load", action="hold")
    with fork("predict", experiment, stop=hold) as holder:
        holder.wait_until_held()
        with fork("predict", experiment) as other:
            assert other.end() == (0, "", "")
        with fork("predict", experiment, "--date", "2026-09-02") as other:
            code, out, err = other.end()
        assert (code, out) == (1, "")  # another night, which nobody is doing
        assert "is being done for another date, 2026-09-01, by " in err
        assert err.endswith("Run this one after it.\n")
        holder.go_on()
        code, out, err = holder.end()
    assert (code, without_plan(out), err) == (0, "", "")
    expected = (
        r"predict of card_offer for 2026-09-01 is already being done by .* \(process"
        rf" {holder.pid}\) since 20.* UTC \(run 20\S+\)"
    )
    (log,) = experiment.environment.logs_dir.glob("predict_*.log")
    assert re.search(f"INFO dev {expected}\n", log.read_text(encoding="utf-8"))
    check_night(experiment, engine)
    assert read_statuses(engine) == ["done"]


@pytest.mark.bank("trained")
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            "update {table} set prediction = prediction * 100",
            "1000 predictions were sent, and other values arrived in prediction_rows",
        ),
        (
            "update {table} set candidate_id = 'x' || candidate_id",
            "1000 predictions were sent, and other values arrived in",
        ),
        ("delete from {table}", "1000 predictions were sent and 9"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_predict_rows_damaged_on_the_way(
    experiment: Experiment,
    engine: sa.Engine,
    damage: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A trigger does to some rows what drivers did in silence: the night is refused whole."""
    experiment = use_chunks(experiment.environment.file)
    some = "new.candidate_id like '%77' and candidate_id = new.candidate_id"
    if engine.dialect.name == "sqlite":
        change = damage.format(table="prediction_rows")
        trigger = (
            f"create trigger damage after insert on prediction_rows begin {change} where"
            f" {some}; end"
        )
        undo = "drop trigger damage"
    else:
        change = damage.format(table="abatch.prediction_rows")
        trigger = (
            f"create function damage() returns trigger language plpgsql as $$ begin {change} where"
            f" {some}; return null; end $$; create trigger damage after insert on"
            " abatch.prediction_rows for each row execute function damage()"
        )
        undo = "drop trigger damage on abatch.prediction_rows"
    with engine.begin() as connection:
        connection.connection.cursor().execute(trigger)
    message = one_line(call(predict, experiment, capsys))
    assert message.startswith("predict card_offer 2026-09-01: ")
    assert said in message
    assert "Nothing was published." in message
    assert read(engine, predictions.c.candidate_id) == []
    assert read_statuses(engine) == ["failed"]
    execute(engine, undo)
    again(experiment, engine)
    check_night(experiment, engine)


def end_session(engine: sa.Engine) -> None:
    """End the job's session at the server, but for the one that holds its lock."""
    others = "datname = current_database() and pid <> pg_backend_pid()"
    locks = "select pid from pg_locks where locktype = 'advisory'"
    end = "select pg_terminate_backend(pid, 30000) from pg_stat_activity"
    with engine.connect() as connection:
        query = sa.text(f"{end} where {others} and pid not in ({locks})")
        assert connection.scalars(query).all() == [True]


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_predict_link_lost(experiment: Experiment, engine: sa.Engine, nth: int) -> None:
    """The server ends the job's session as a batch is to be written.

    That transaction is done again, and the night is whole.
    """
    experiment = use_chunks(experiment.environment.file)
    hold = Stop("abatch.database.writing", "load", nth, "hold before")
    with fork("predict", experiment, stop=hold) as job:
        job.wait_until_held()
        end_session(engine)
        job.go_on()
        code, out, err = job.end()
    assert (code, without_plan(out), err) == (0, "", "")
    check_night(experiment, engine)
    assert read_statuses(engine) == ["done"]


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_predict_link_lost_before_a_commit(experiment: Experiment, engine: sa.Engine) -> None:
    """Nobody knows whether the batch arrived: the run fails, and the next does the night."""
    experiment = use_chunks(experiment.environment.file)
    hold = Stop("abatch.database.writing", "load", 2, "hold")
    with fork("predict", experiment, stop=hold) as job:
        job.wait_until_held()
        end_session(engine)
        job.go_on()
        message = one_line(job.end())
    assert "so it may have arrived or not. Run the job again" in message
    assert read(engine, predictions.c.candidate_id) == []
    assert read_statuses(engine) == ["failed"]
    again(experiment, engine)
    check_night(experiment, engine)


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "where",
    [
        ("abatch.modelling.promotion", "open_live", 1, "hold before"),
        ("abatch.database.writing", "load", 2, "hold before"),
        ("abatch.experiment.predictions", "_read_back", 1, "hold before"),
        ("abatch.experiment.predictions", "write_shares", 1, "hold before"),
    ],
    ids=lambda where: where[1],
)
def test_predict_server_stopped_and_started(
    experiment: Experiment,
    engine: sa.Engine,
    cluster: Cluster,
    postgresql: Server,
    where: tuple[str, str, int, str],
) -> None:
    """What is not committed is done again, or the next run does the night.

    This server has not written all to disk that it committed, so rows may be lost, too.
    """
    experiment = use_chunks(experiment.environment.file)
    with fork("predict", experiment, stop=Stop(*where)) as job:
        job.wait_until_held()
        engine.dispose()
        postgresql.engine.dispose()
        cluster.stop()
        cluster.start()
        job.go_on()
        code, _, err = job.end()
    assert (code, err.count("\n")) in ((0, 0), (1, 1))
    assert len(read(engine, predictions.c.candidate_id)) == (0 if code else simulate.N_CANDIDATES)
    again(experiment, engine)
    check_night(experiment, engine)


def test_predict_rows_lost_before_they_are_shown(bank: Experiment, bank_engine: sa.Engine) -> None:
    hold = Stop("abatch.experiment.predictions", "describe_replaced", action="hold before")
    with fork("predict", bank, stop=hold) as job:
        job.wait_until_held()
        one = "select min(candidate_id) from prediction_rows"
        execute(bank_engine, f"delete from prediction_rows where candidate_id = ({one})")
        job.go_on()
        message = one_line(job.end())
    assert "1000 predictions were sent and 999 arrived in prediction_rows" in message
    assert read(bank_engine, predictions.c.candidate_id) == []
    again(bank, bank_engine)
    check_night(bank, bank_engine)


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_train_link_lost_while_fitting(experiment: Experiment, engine: sa.Engine) -> None:
    """A firewall or a failover ends what lies idle while a model is fitted; the fit is not lost."""
    experiment = use_chunks(experiment.environment.file)
    hold = Stop("abatch.modelling.training", "fit_and_validate", 2, "hold")
    with fork("train", experiment, "--force", stop=hold) as job:
        job.wait_until_held()
        others = "datname = current_database() and pid <> pg_backend_pid()"
        execute(
            engine, f"select pg_terminate_backend(pid, 30000) from pg_stat_activity where {others}"
        )
        job.go_on()
        assert job.end() == (0, "", "")
    assert read_statuses(engine, "train") == ["superseded", "done"]


def run_on_terminal(script: str, experiment: Experiment) -> str:
    """What a script prints on a terminal, stdout and stderr; it must leave with 0."""
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        f"{script}.py",
        "--config",
        str(experiment.environment.file),
        "--date",
        str(FIRST_NIGHT),
    ]
    done = subprocess.run(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    printed = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, printed
    return printed


def test_predict_one_line_on_a_terminal(bank: Experiment, bank_engine: sa.Engine) -> None:
    printed = without_plan(run_on_terminal("predict", bank).replace("\r\n", "\n"))
    assert printed.startswith("predict card_offer 2026-09-01: 1000 candidates; A ")
    assert printed.count("\n") == 1
    check_night(bank, bank_engine)


def without_plan(out: str) -> str:
    """Without what the first predict prints about its experiment."""
    return re.sub(r"card_offer: a new experiment\..*\n(  .*\n)+", "", out)


def one_line(done: tuple[int | None, str, str]) -> str:
    """The one clear line of a fault that the operator can mend."""
    code, out, err = done
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err, err
    return err.strip()


def test_fault_models_folder_cannot_be_written(
    bank: Experiment, bank_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(bank.environment.models_dir)
    # Rights do not bind root, a file in the folder's place does.
    bank.environment.models_dir.touch()
    message = one_line(call(train, bank, capsys, "--force"))
    assert re.search(
        rf"{bank.environment.models_dir}: cannot be written \(File exists\)\."
        " Check the folder's rights",
        message,
    )
    assert read_failure(bank_engine, "train") in message
    assert read_statuses(bank_engine, "train") == ["done", "failed"]
    with pytest.raises(RegistryError, match=r"cannot be read \(Not a directory\)"):
        predict.predict(bank, bank_engine, FIRST_NIGHT)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ml_config.yaml", "cannot be read (it is a pipe or a device). Name the file with"),
        ("sql/card_offer/candidates.sql", "cannot be read (it is a pipe or a device). Name the r"),
        ("models/dev/.abatch-owner", "mark cannot be read (it is a pipe or a device). Check its"),
        ("logs/dev/predict_{:%Y-%m}.log", "the log cannot be written (No such device or address)"),
    ],
)
def test_fault_a_pipe_is_not_waited_for(
    bank: Experiment, bank_engine: sa.Engine, name: str, words: str
) -> None:
    pipe = bank.environment.folder / name.format(utc_now())
    pipe.parent.mkdir(parents=True, exist_ok=True)
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    with fork("predict", bank) as process:
        message = one_line(process.end(60))
    assert f"{pipe}" in message
    assert words in message
    assert read_statuses(bank_engine) == []


def test_fault_spool_cannot_be_written(
    bank: Experiment, bank_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    spool_dir = bank.environment.spool_dir
    spool_dir.parent.mkdir()
    spool_dir.touch()  # in the folder's place
    message = one_line(call(predict, bank, capsys))
    assert re.search(rf"{spool_dir}: cannot be written \(.+\)\. Check the folder's r", message)
    assert read_failure(bank_engine) in message
    assert read(bank_engine, prediction_rows.c.run_number) == []
    spool_dir.unlink()
    again(bank, bank_engine)
    check_night(bank, bank_engine)


def test_fault_no_temporary_folder(
    bank: Experiment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a dry run has its spool."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null"])
    message = one_line(call(predict, bank, capsys, "--dry-run"))
    assert re.search(r"No usable temporary directory .+ can be written as TMPDIR\.$", message)


NO_TEMPORARY_FOLDER = """
import runpy, sys, tempfile
tempfile._candidate_tempdir_list = lambda: ["/dev/null"]
sys.argv[0] = "predict.py"
runpy.run_path("predict.py", run_name="__main__")
"""


def test_fault_no_temporary_folder_for_workers(bank: Experiment, bank_engine: sa.Engine) -> None:
    """With two workers, whose server has a socket there; the run is told of, and with one done."""
    content = yaml.safe_load(bank.environment.file.read_text())
    content["environments"]["dev"]["n_jobs"] = 2
    bank.environment.file.write_text(yaml.safe_dump(content))
    common = ["--config", str(bank.environment.file), "--date", str(FIRST_NIGHT)]
    command = [sys.executable, "-c", NO_TEMPORARY_FOLDER, *common]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (message,) = done.stderr.splitlines()
    assert re.search(
        r": workers cannot be started: No usable temporary directory .+ as TMPDIR, or leave out"
        r" n_jobs\.$",
        message,
    )
    assert read_statuses(bank_engine) == ["failed"]
    again(bank, bank_engine)
    check_night(bank, bank_engine)


def test_fault_spool_has_no_room(
    bank: Experiment,
    bank_engine: sa.Engine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before any work: the newest night of 1,000 needs 70,000 bytes."""
    day_before = FIRST_NIGHT - timedelta(days=1)
    ended = {"run_id": "r0", "job": "predict", "experiment": bank.name, "run_date": day_before}
    add_runs(bank_engine, {**ended, "status": "done", "rows_written": 1000})
    usage = shutil.disk_usage(bank.environment.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=69_999))
    message = one_line(call(predict, bank, capsys))
    assert message == (
        f"predict card_offer {FIRST_NIGHT}: {bank.environment.spool_dir}: has 0.1 MB of room, and a"
        " night as large as the newest needs up to 0.1 MB. Make room, or name another folder as"
        " spool_dir."
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=70_000))
    predict.predict(bank, bank_engine, FIRST_NIGHT)
    assert list_spooled(bank) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_fault_spool_full(
    bank: Experiment,
    bank_engine: sa.Engine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full(spool.Spool):
        def __init__(self, file: Path, *args: Any) -> None:
            file.symlink_to("/dev/full")
            super().__init__(file, *args)

    monkeypatch.setattr(spool, "Spool", Full)
    message = one_line(call(predict, bank, capsys))
    assert ".arrow: cannot be written (No space left on device). Check the folder's r" in message
    assert read(bank_engine, prediction_rows.c.run_number) == []
    assert list_spooled(bank) == []


def test_fault_no_candidates(
    bank: Experiment, bank_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(bank_engine, "delete from card_candidates")
    message = one_line(call(predict, bank, capsys))
    assert message.startswith(
        "predict card_offer 2026-09-01: sql/card_offer/candidates.sql: returned no candidates for"
        " 2026-09-01."
    )
    assert read_failure(bank_engine) in message
    assert read(bank_engine, predictions.c.run_id) == []


def test_fault_missing_table(bank: Experiment, bank_engine: sa.Engine) -> None:
    execute(bank_engine, "drop table card_candidates")
    message = one_line(run("predict", bank))
    assert (
        "sql/card_offer/candidates.sql: the database refused: no such table: card_candidates."
        in message
    )
    assert read_failure(bank_engine) in message


@pytest.mark.parametrize(
    ("table", "column", "content"),
    [
        ("models", "card", "{"),
        ("models", "card", '{"a": 1}'),
        ("registrations", "content", "{"),
        ("feature_counts", "content", "[]"),
    ],
)
def test_fault_a_row_that_somebody_changed(
    bank: Experiment,
    bank_engine: sa.Engine,
    capsys: pytest.CaptureFixture[str],
    table: str,
    column: str,
    content: str,
) -> None:
    predict.predict(bank, bank_engine, FIRST_NIGHT)
    capsys.readouterr()
    execute(bank_engine, f"update {table} set {column} = :content", content=content)
    message = one_line(call(score, bank, capsys))
    assert f" {table}.{column} of " in message
    assert ": is not what abatch wrote there (" in message
    assert message.endswith("Somebody changed the row: bring it back from a backup.")


def test_fault_typo_in_config(
    bank: Experiment, bank_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    bank.environment.file.write_text(
        bank.environment.file.read_text(encoding="utf-8").replace("window_days", "windows_days"),
        encoding="utf-8",
    )
    message = one_line(call(score, bank, capsys))
    assert f"{bank.environment.file}, experiments.card_offer.outcome" in message
    assert "windows_days" in message
    assert "'window_days'" in message
    assert read_statuses(bank_engine, "score") == []


def test_a_report_that_was_not_drawn_is_drawn_by_the_next_run(
    bank: Experiment, bank_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is drawn after the commit, which then stands."""
    predict.predict(bank, bank_engine, FIRST_NIGHT)
    capsys.readouterr()
    page = bank.environment.reports_dir / "card_offer.html"
    page.mkdir(parents=True)
    for _ in range(2):  # by the run itself, and by the next, which finds the night done
        message = one_line(call(score, bank, capsys))
        assert f"{page}: cannot be written (Is a directory)." in message
        assert read_statuses(bank_engine, "score") == ["done"]
    page.rmdir()
    assert call(score, bank, capsys) == (0, "", "")
    html = page.read_text(encoding="utf-8")
    undrawn = Stop("abatch.pages.report", "write_report", action="kill before")
    kill("score", bank, undrawn, "--force")
    assert read_statuses(bank_engine, "score") == ["superseded", "done"]
    assert page.read_text(encoding="utf-8") == html
    assert call(score, bank, capsys) == (0, "", "")
    ((newest,), *_) = read(bank_engine, variant_scores.c.run_id)
    assert newest in page.read_text(encoding="utf-8")
    assert newest not in html


def test_fault_wrong_password(
    postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = sa.make_url(postgres_url).set(password="hunter2").render_as_string(hide_password=False)
    experiment = load_experiments(write_config(tmp_path, url, "abatch"), "dev")["card_offer"]
    message = one_line(call(predict, experiment, capsys))
    assert "boss:***@127.0.0.1" in message
    assert "password authentication failed" in message
    assert "hunter2" not in message
    assert not experiment.environment.logs_dir.exists()


@pytest.mark.bank("trained")
def test_predict_odd_candidates(experiment: Experiment, engine: sa.Engine) -> None:
    experiment = use_chunks(experiment.environment.file)
    columns = (
        "age",
        "income",
        "balance",
        "utilisation",
        "months_as_customer",
        "purchases_30d",
        "segment",
        "region",
        "channel",
    )
    odd: list[dict[str, Any]] = [
        {},
        {"segment": "never seen", "region": "Ærø", "channel": "日本"},
        {"segment": "", "region": "🂡'; drop table runs; --", "channel": " web "},
        {
            "income": Decimal("9999999999.99"),
            "balance": Decimal("-0.01"),
            "age": -1,
            "utilisation": 1e300,
        },
    ]
    rows = [
        {**dict.fromkeys(columns), **values, "customer_id": number}
        for number, values in enumerate(odd, start=-1)
    ]
    with bank_tables.in_default_schema(engine).begin() as connection:
        night = {"candidate_date": FIRST_NIGHT, "loaded_at": sa.func.current_timestamp()}
        night["loaded_at"] = connection.scalar(
            sa.select(sa.func.max(bank_tables.candidates.c.loaded_at))
        )
        connection.execute(bank_tables.candidates.insert(), [{**row, **night} for row in rows])
    predict.predict(experiment, engine, FIRST_NIGHT)
    check_night(experiment, engine, simulate.N_CANDIDATES + len(odd))
    found = {
        row[0]: row[1:]
        for row in read(
            engine, predictions.c.candidate_id, predictions.c.variant, predictions.c.prediction
        )
    }
    for number in range(-1, len(odd) - 1):
        variant, prediction = found[str(number)]
        assert (prediction is None) if variant == "control" else (0 <= prediction <= 1)


def use_candidates(experiment: Experiment, change: str, to: str) -> Experiment:
    """Rewrite a column of the candidates query."""
    query = experiment.environment.file.parent / experiment.query("candidates").file
    head, _, tail = query.read_text(encoding="utf-8").rpartition("select\n")
    assert change in tail
    query.write_text(f"{head}select\n{tail.replace(change, to)}", encoding="utf-8")
    return load_experiments(experiment.environment.file, "dev")["card_offer"]


@pytest.mark.parametrize(
    ("change", "to", "words"),
    [
        (
            "customer_id",
            "' ' || customer_id",
            (
                r"candidate_id ' 1\d{6}': expected 1 to 64 printable ASCII characters without outer"
                r" spaces"
            ),
        ),
        (
            "customer_id",
            "'Ærø' || customer_id",
            r"candidate_id 'Ærø1\d{6}': expected 1 to 64 printable ASCII",
        ),
        (
            "customer_id",
            "customer_id / 1000",
            r"\d+ candidates are returned more than once, for example '10\d\d'",
        ),
        (
            "customer_id",
            "nullif(customer_id, customer_id)",
            "candidate_id is null: expected a number or a text",
        ),
        (
            "income",
            "'much' as income",
            r"(?s)not of the type that was trained on.*income: expected numbers, found 'much' in",
        ),
        (
            "income",
            "cast(income as text) as income",
            r"(?s)income: expected numbers, found '\d+\.\d+', .* and \d+ others in",
        ),
        (
            "income,",
            "income as earnings,",
            r"(?s)- income \(trained on, now missing\).*\+ earnings \(additional\)",
        ),
        ("region", "null as region", "hold only nulls in all 1,000 rows.*\n  region: a value in 9"),
    ],
)
def test_predict_unusable_candidates(
    bank: Experiment, bank_engine: sa.Engine, change: str, to: str, words: str
) -> None:
    with pytest.raises(
        DataError,
        match=rf"^sql/card_offer/candidates\.sql: .*{words}" if "(?s)" not in words else words,
    ):
        predict.predict(use_candidates(bank, change, to), bank_engine, FIRST_NIGHT)
    assert read_statuses(bank_engine) == ["failed"]
    assert re.search(words, read_failure(bank_engine))
    assert read(bank_engine, prediction_rows.c.run_number) == []
    assert list_spooled(bank) == []
    assert read(bank_engine, registrations.c.experiment) == []
