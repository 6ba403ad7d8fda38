"""Runs and their ledger, the lock, the log, and what the command line returns and prints."""

import logging
import os
import pty
import re
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
import yaml

from abatch import job
from abatch.config import Experiment, load_experiments
from abatch.database import connections, faults, migrations
from abatch.database.tables import predictions_staging, runs
from abatch.errors import ConfigError, DatabaseError, DataError, NothingToDo
from abatch.experiment import predictions, registrations
from abatch.job import nightly
from abatch.night import Night, find_nights, is_latest, open_night, today, utc_now
from tests.conftest import as_stored, make_registration, open_engine, write_config

NIGHT, NIGHT_AT = date(2026, 9, 1), datetime(2026, 9, 1, 3, 0)


@pytest.fixture
def bank(sqlite_url: str, tmp_path: Path) -> Iterator[Experiment]:
    """Two experiments, card_offer and second, on one SQLite file; the log is closed at the end."""
    path = write_config(tmp_path, sqlite_url)
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    second = yaml.safe_load(path.read_text(encoding="utf-8"))["experiments"]["card_offer"]
    for model in second["models"].values():
        model["name"] += "_second"
    raw["experiments"]["second"] = second
    path.write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    yield load_experiments(path, "dev")["card_offer"]
    for handler in job.logger.handlers[1:]:
        for name in ("abatch", "py.warnings"):
            logging.getLogger(name).removeHandler(handler)
        handler.close()
    logging.captureWarnings(False)


@pytest.fixture
def bank_engine(bank: Experiment) -> Iterator[sa.Engine]:
    """The tables of `bank`."""
    engine = open_engine(bank)
    migrations.upgrade(engine)
    yield engine
    engine.dispose()


def do(experiment: Experiment, engine: sa.Engine, run_date: date = NIGHT, **options: bool) -> str:
    with open_night("predict", experiment, engine, run_date, **options) as night:
        night.finish("nothing")
    return night.run_id


def read_ledger(engine: sa.Engine) -> list[sa.Row]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(runs).order_by(runs.c.started_at, runs.c.run_id)))


def stage(engine: sa.Engine, run_id: str, experiment: str = "card_offer") -> None:
    row = {
        "run_id": run_id,
        "experiment": experiment,
        "run_date": NIGHT,
        "candidate_id": "1",
        "variant": "A",
    }
    row |= {
        "assignment_probability": 0.45,
        "model_name": "m",
        "prediction": 0.5,
        "selection_key": "0" * 16,
    }
    connections.write(engine, predictions.stage, pd.DataFrame([row]))


def test_open_run_done_is_not_done_again(experiment: Experiment, engine: sa.Engine) -> None:
    before = as_stored(engine, utc_now())
    run_id = do(experiment, engine)
    with pytest.raises(
        NothingToDo,
        match=(
            rf"predict of card_offer for 2026-09-01 is already done \(run {run_id}, .* To do it"
            r" again: --force"
        ),
    ):
        do(experiment, engine)
    do(experiment, engine, NIGHT + timedelta(days=1))
    first, _ = read_ledger(engine)
    assert (first.job, first.experiment, first.run_date, first.status, first.error) == (
        "predict",
        "card_offer",
        NIGHT,
        "done",
        None,
    )
    assert before <= first.started_at <= first.finished_at <= utc_now()
    assert f"(process {os.getpid()})" in first.host and len(first.config_hash) == 64


def test_open_run_force_supersedes(experiment: Experiment, engine: sa.Engine) -> None:
    first, second = do(experiment, engine), do(experiment, engine, force=True)
    assert {row.run_id: row.status for row in read_ledger(engine)} == {
        first: "superseded",
        second: "done",
    }
    with pytest.raises(NothingToDo, match=second):
        do(experiment, engine)


def test_open_run_force_that_fails_leaves_the_night_done(
    experiment: Experiment, engine: sa.Engine
) -> None:
    first = do(experiment, engine)
    with pytest.raises(DataError), open_night("predict", experiment, engine, NIGHT, force=True):
        raise DataError("broken")
    assert {row.run_id: row.status for row in read_ledger(engine)}[first] == "done"
    with pytest.raises(NothingToDo, match=first):
        do(experiment, engine)


def test_open_run_buries_the_dead(experiment: Experiment, engine: sa.Engine) -> None:
    dead = {
        "run_date": NIGHT,
        "status": "running",
        "started_at": datetime(2026, 8, 31),
        "code_version": "0",
        "config_hash": "0",
        "host": "h",
    }
    with engine.begin() as connection:
        for run_id, kind, name in (
            ("dead", "predict", "card_offer"),
            ("alive", "predict", "other"),
            ("train", "train", "card_offer"),
        ):
            connection.execute(
                runs.insert().values(run_id=run_id, job=kind, experiment=name, **dead)
            )
    stage(engine, "dead")
    stage(engine, "taken for dead, went on, and was killed")
    stage(engine, "alive", "other")
    run_id = do(experiment, engine, NIGHT + timedelta(days=1))
    ledger = {row.run_id: row for row in read_ledger(engine)}
    assert {name: row.status for name, row in ledger.items()} == {
        "dead": "failed",
        "alive": "running",
        "train": "running",
        run_id: "done",
    }
    assert (
        ledger["dead"].error == "died; cleaned up by the next run"
        and ledger["dead"].finished_at >= ledger[run_id].started_at
    )
    with engine.connect() as connection:
        assert connection.scalars(sa.select(predictions_staging.c.run_id)).all() == ["alive"]


def test_finish_of_a_run_taken_for_dead_publishes_nothing(
    experiment: Experiment, engine: sa.Engine
) -> None:
    with (
        pytest.raises(
            DatabaseError,
            match=(
                r"is no longer running in the table runs; another process took it for dead\."
                r" Nothing was written"
            ),
        ),
        open_night("predict", experiment, engine, NIGHT) as night,
    ):
        stage(engine, night.run_id)
        with engine.begin() as connection:
            connection.execute(
                runs.update().values(status="failed", error="died; cleaned up by the next run")
            )
        key = (night.run_id, "card_offer", NIGHT)
        night.finish("one", predictions.publish, *key, {"A": 1}, utc_now())
    assert [(row.status, row.error) for row in read_ledger(engine)] == [
        ("failed", "died; cleaned up by the next run")
    ]
    with engine.connect() as connection:
        assert predictions.read_predictions(connection, "card_offer", date.min, date.max).empty
        assert connection.execute(sa.select(predictions_staging)).all() == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataError("Ærø: 日本"), "Ærø: 日本"),
        (ZeroDivisionError("by 0"), "by 0"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_open_run_failure_is_in_the_ledger(
    experiment: Experiment, engine: sa.Engine, error: BaseException, reason: str
) -> None:
    with pytest.raises(type(error)), open_night("predict", experiment, engine, NIGHT) as night:
        stage(engine, night.run_id)
        raise error
    assert [(row.status, row.error) for row in read_ledger(engine)] == [("failed", reason)]
    with engine.connect() as connection:
        assert connection.execute(sa.select(predictions_staging)).all() == []
    do(experiment, engine)  # and the lock is free


def test_open_run_dry_writes_nothing(
    experiment: Experiment, engine: sa.Engine, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with open_night("predict", experiment, engine, NIGHT, dry_run=True) as night:
        assert night.dry_run
    assert read_ledger(engine) == [] and sorted(tmp_path.rglob("*")) == before
    do(experiment, engine)
    with (
        pytest.raises(NothingToDo, match="already done"),
        open_night("predict", experiment, engine, NIGHT, dry_run=True),
    ):
        pass
    with open_night("predict", experiment, engine, NIGHT, dry_run=True, force=True):
        pass
    assert len(read_ledger(engine)) == 1


def test_open_run_names_the_holder(experiment: Experiment, engine: sa.Engine) -> None:
    with open_night("predict", experiment, engine, NIGHT) as night:
        message = (
            rf"is already being done by .* \(process {os.getpid()}\) since 20.* UTC \(run"
            rf" {night.run_id}\)"
        )
        with (
            pytest.raises(NothingToDo, match=message),
            open_night("predict", experiment, engine, NIGHT),
        ):
            pass
        with open_night("score", experiment, engine, NIGHT) as other:
            other.finish("nothing")
        night.finish("nothing")
    assert [row.status for row in read_ledger(engine)] == ["done", "done"]


@pytest.mark.parametrize(
    ("run_date", "as_of"),
    [
        (date(2026, 3, 28), datetime(2026, 3, 28, 22, 59, 59, 999999)),  # winter, UTC+1
        (
            date(2026, 3, 29),
            datetime(2026, 3, 29, 21, 59, 59, 999999),
        ),  # the day of 23 hours ends in summer time, UTC+2
        (date(2026, 10, 24), datetime(2026, 10, 24, 21, 59, 59, 999999)),
        (date(2026, 10, 25), datetime(2026, 10, 25, 22, 59, 59, 999999)),  # the day of 25 hours
    ],
)
def test_open_run_as_of_past_date(
    bank: Experiment, bank_engine: sa.Engine, run_date: date, as_of: datetime
) -> None:
    with open_night("predict", bank, bank_engine, run_date, dry_run=True) as night:
        assert night.as_of == as_of


def test_open_run_as_of_today(bank: Experiment, bank_engine: sa.Engine) -> None:
    before = utc_now()
    with open_night("predict", bank, bank_engine, today(bank.environment), dry_run=True) as night:
        assert before <= night.as_of <= utc_now()


def nothing(night: Night) -> str:
    """A story that begins a run and ends it."""
    return night.finish("nothing")


def failing(error: BaseException) -> Callable[..., str]:
    """A story that fails for the experiment card_offer alone."""

    def story(night: Night) -> str:
        if night.experiment.name != "card_offer":
            return nothing(night)
        raise error

    return story


def call(bank: Experiment, *arguments: str, story: Callable[..., str] = nothing) -> int:
    story.__name__, story.__module__ = "predict", __name__
    words = ["--config", str(bank.environment.file), "--date", str(NIGHT), *arguments]
    return nightly()(story).main(words)


def read_log(bank: Experiment) -> list[str]:
    (path,) = bank.environment.logs_dir.iterdir()
    assert re.fullmatch(r"predict_\d{4}-\d\d\.log", path.name)
    return path.read_text(encoding="utf-8").splitlines()


def test_main_is_silent_and_logs(
    bank: Experiment, bank_engine: sa.Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(bank) == 0
    assert capfd.readouterr() == ("", "")
    ledger = read_ledger(bank_engine)
    assert [(row.experiment, row.status) for row in ledger] == [
        ("card_offer", "done"),
        ("second", "done"),
    ]
    lines = read_log(bank)
    assert len(lines) == 4
    for line, row in zip(lines, [ledger[0], ledger[0], ledger[1], ledger[1]], strict=True):
        assert re.match(
            rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO {row.run_id} predict {row.experiment}"
            r" 2026-09-01: (started|done), ",
            line,
        )
    assert call(bank) == 0
    assert capfd.readouterr() == ("", "") and "is already done" in read_log(bank)[-1]


def test_main_one_line_on_a_terminal(
    bank: Experiment, bank_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert call(bank) == 0
        terminal.flush()
        printed = os.read(ours, 10_000).decode()
    os.close(ours)
    assert (
        printed == "predict card_offer 2026-09-01: nothing; predict second 2026-09-01: nothing\r\n"
    )


def test_main_dry_run_prints_and_writes_nothing(
    bank: Experiment, bank_engine: sa.Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(bank, "--dry-run", "--experiment", "second") == 0
    assert capfd.readouterr() == ("predict second 2026-09-01, dry run: nothing\n", "")
    assert read_ledger(bank_engine) == [] and not bank.environment.logs_dir.exists()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (DataError("sql/c.sql: wrong. Mend it."), 1, "sql/c.sql: wrong. Mend it."),
        (
            sa.exc.OperationalError("select", {}, Exception("disk is full")),
            1,
            "{url}: disk is full. Make room and run the job again.",
        ),
        (
            ZeroDivisionError("by 0"),
            3,
            "this is a fault of abatch, not of yours; please report it.",
        ),
    ],
)
def test_main_one_experiment_fails(
    bank: Experiment,
    bank_engine: sa.Engine,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    words: str,
) -> None:
    words = words.format(url=faults.show_url(bank_engine))
    assert call(bank, story=failing(error)) == code
    out, err = capfd.readouterr()
    assert out == "" and err.splitlines()[0] == f"predict card_offer 2026-09-01: {words}"
    assert (
        ("Traceback" in err and "ZeroDivisionError: by 0" in err)
        if code == 3
        else len(err.splitlines()) == 1
    )
    failed, done = read_ledger(bank_engine)
    assert (failed.experiment, failed.status, done.experiment, done.status) == (
        "card_offer",
        "failed",
        "second",
        "done",
    )
    assert [
        line
        for line in read_log(bank)
        if f"INFO {failed.run_id} predict card_offer 2026-09-01: failed: {failed.error}" in line
    ]
    assert [
        line for line in read_log(bank) if f"ERROR predict card_offer 2026-09-01: {words}" in line
    ]


def test_main_interrupted_stops(
    bank: Experiment, bank_engine: sa.Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(bank, story=failing(KeyboardInterrupt())) == 1
    assert capfd.readouterr() == (
        "",
        (
            "predict card_offer 2026-09-01: interrupted; what was not finished was not written. Run"
            " it again.\n"
        ),
    )
    assert [(row.experiment, row.status) for row in read_ledger(bank_engine)] == [
        ("card_offer", "failed")
    ]


def test_main_unknown_names_exit_2(bank: Experiment, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(bank, "--experiment", "card_ofer") == 2
    assert capfd.readouterr().err.endswith(
        "expected one of card_offer, second. Did you mean 'card_offer'?\n"
    )
    assert call(bank, "--env", "prod") == 2
    assert "there is no environment 'prod'" in capfd.readouterr().err
    for wrong in (["--date", "1.9.2026"], ["--fast"], ["surplus"]):
        with pytest.raises(SystemExit) as caught:
            call(bank, *wrong)
        assert caught.value.code == 2
        out, err = capfd.readouterr()
        assert out == "" and "usage: predict.py" in err


def test_main_typo_in_config_exits_1(bank: Experiment, capfd: pytest.CaptureFixture[str]) -> None:
    bank.environment.file.write_text(
        bank.environment.file.read_text(encoding="utf-8").replace("select_top", "select_tpo", 1),
        encoding="utf-8",
    )
    assert call(bank) == 1
    out, err = capfd.readouterr()
    assert (
        out == ""
        and "experiments.card_offer.select_tpo: unknown key" in err
        and "Did you mean 'select_top'?" in err
    )
    assert "Traceback" not in err and not bank.environment.logs_dir.exists()


def test_main_logs_folder_cannot_be_made(
    bank: Experiment, bank_engine: sa.Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    bank.environment.logs_dir.write_text("a file")
    assert call(bank) == 1
    out, err = capfd.readouterr()
    assert out == "" and re.fullmatch(
        rf"predict: {bank.environment.logs_dir}/predict_.*\.log: the log cannot be written \(.*\n",
        err,
    )
    assert read_ledger(bank_engine) == []


def test_main_database_not_ready(
    bank: Experiment, bank_engine: sa.Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    bank_engine.dispose()
    Path(str(bank_engine.url.database)).unlink()
    assert call(bank) == 1
    assert capfd.readouterr().err.endswith(
        "there is no such file. Run: python -m abatch init --env dev\n"
    )


def test_main_locked_database(
    bank: Experiment,
    bank_engine: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(faults, "SQLITE_WAIT_SECONDS", 0.05)
    with next(connections.transactions(bank_engine)):
        assert call(bank, "--experiment", "second") == 1
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert "bank.db: the file is locked by another process (waited 0.05 s)." in err


def test_warn_is_printed_and_logged(
    bank: Experiment, bank_engine: sa.Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    def story(night: Night) -> str:
        night.warn("look at this")
        return night.finish("nothing")

    assert call(bank, "--experiment", "second", story=story) == 0
    assert capfd.readouterr() == ("", "predict second 2026-09-01: look at this\n")
    assert [
        line
        for line in read_log(bank)
        if re.search(r"WARNING 20\S+ predict second 2026-09-01: look at this$", line)
    ]


def test_check_registration_first_then_changed(experiment: Experiment, engine: sa.Engine) -> None:
    terms = registrations.describe(experiment)
    registration = make_registration(**terms.model_dump())
    with engine.begin() as connection:
        assert registrations.check(connection, experiment) is None
        registrations.register(connection, registration, NIGHT_AT, "run1")
        assert registrations.check(connection, experiment) == registration
        changed = load_experiments(
            write_config(
                experiment.environment.file.parent,
                experiment.environment.database.get_secret_value(),
                experiment.environment.schema,
                select_top=0.3,
            ),
            "dev",
        )
        with pytest.raises(
            ConfigError, match=r"(?s)select_top\n    registered 0\.2\n    now        0\.3"
        ):
            registrations.check(connection, changed["card_offer"])


def test_find_nights_are_those_that_are_done(experiment: Experiment, engine: sa.Engine) -> None:
    for days in (2, 0, 1):
        do(experiment, engine, NIGHT + timedelta(days=days))
    with (
        pytest.raises(KeyboardInterrupt),
        open_night("predict", experiment, engine, NIGHT + timedelta(days=3)),
    ):
        raise KeyboardInterrupt
    do(experiment, engine, NIGHT, force=True)  # in the place of the first
    with engine.connect() as connection:
        expected = [NIGHT, NIGHT + timedelta(days=1)]
        assert find_nights(connection, "card_offer", NIGHT + timedelta(days=1)) == expected
        assert find_nights(connection, "card_offer", date.max) == [
            *expected,
            NIGHT + timedelta(days=2),
        ]
        assert find_nights(connection, "another", date.max) == []


def test_is_latest(experiment: Experiment, engine: sa.Engine) -> None:
    """A night that was done for the future by mistake does not freeze the figures."""
    for days, expected in ((1, True), (0, False), (9, True), (2, True), (10, True), (9, True)):
        run_date = NIGHT + timedelta(days=days)
        with open_night("score", experiment, engine, run_date, force=True) as night:
            with engine.connect() as connection:
                assert is_latest(connection, night, NIGHT + timedelta(days=5)) == expected
            night.finish("nothing")


def test_hash_config_changes_with_settings_and_queries(bank: Experiment) -> None:
    experiments = load_experiments(bank.environment.file, "dev")
    first = experiments["card_offer"].hash()
    assert (
        first
        == load_experiments(bank.environment.file, "dev")["card_offer"].hash()
        != experiments["second"].hash()
    )
    query = bank.environment.file.parent / bank.query("candidates").file
    query.write_text(query.read_text(encoding="utf-8") + "\n-- another", encoding="utf-8")
    assert load_experiments(bank.environment.file, "dev")["card_offer"].hash() != first
