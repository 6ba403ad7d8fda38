"""Jobs: the log, and what the command line returns and prints."""

import gc
import os
import pty
import re
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from abatch import job
from abatch.config import Experiment, load_experiments
from abatch.database import faults
from abatch.database.tables import runs
from abatch.errors import ConfigError, DataError
from abatch.experiment import registrations, terms
from abatch.job import nightly
from abatch.night import Night
from tests.conftest import make_night, make_registration, write_config

NIGHT, NIGHT_AT = date(2026, 9, 1), datetime(2026, 9, 1, 3, 0)


def read_ledger(engine: sa.Engine) -> list[sa.Row[Any]]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(runs).order_by(runs.c.started_at, runs.c.run_id)))


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
    (path,) = bank.environment.logs_dir.glob("*.log")
    assert re.fullmatch(r"predict_\d{4}-\d\d\.log", path.name)
    return path.read_text(encoding="utf-8").splitlines()


def test_main_refuses_days_to_come(
    bank: Experiment,
    bank_engine: sa.Engine,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is 20:30 UTC on the first, 22:30 in Oslo; an hour and a half later the second begins."""
    assert bank.environment.timezone == "Europe/Oslo"
    now = datetime(2026, 9, 1, 20, 30, tzinfo=UTC)
    monkeypatch.setattr(job, "today", lambda environment: environment.today(now))
    assert call(bank, "--date", "2026-09-02") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err == (
        "predict: --date 2026-09-02 is yet to come: today is 2026-09-01 in Europe/Oslo. Name a day"
        " until today, or allow it: --future\n"
    )
    assert call(bank, "--date", "2026-09-02", "--force") == 2
    assert read_ledger(bank_engine) == []
    assert call(bank, "--date", "2026-09-02", "--future") == 0
    now = datetime(2026, 9, 1, 22, 0, tzinfo=UTC)
    assert call(bank, "--date", "2026-09-02", "--force") == 0
    assert len(read_ledger(bank_engine)) == 4


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
            rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO dev {row.run_id} predict {row.experiment}"
            r" 2026-09-01: (started|done), ",
            line,
        )
    assert call(bank) == 0
    assert capfd.readouterr() == ("", "")
    assert "is already done" in read_log(bank)[-1]


@pytest.mark.parametrize("is_own", [True, False])
def test_main_leaves_modules_alone_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], is_own: bool
) -> None:
    nothing.__name__ = "predict"
    main = nightly()(nothing).main
    monkeypatch.setattr(sys, "argv", ["predict.py", "--help"])
    gc.unfreeze()
    with pytest.raises(SystemExit):
        main() if is_own else main(["--help"])
    assert (gc.get_freeze_count() > 0) == is_own
    gc.unfreeze()
    assert "usage: predict.py" in capfd.readouterr().out


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
    assert read_ledger(bank_engine) == []
    assert not bank.environment.logs_dir.exists()


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
    assert out == ""
    assert err.splitlines()[0] == f"predict card_offer 2026-09-01: {words}"
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
        if f"INFO dev {failed.run_id} predict card_offer 2026-09-01: failed: {failed.error}" in line
    ]
    assert [
        line
        for line in read_log(bank)
        if f"ERROR dev predict card_offer 2026-09-01: {words}" in line
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
        assert out == ""
        assert "usage: predict.py" in err


def test_main_typo_in_config_exits_1(bank: Experiment, capfd: pytest.CaptureFixture[str]) -> None:
    bank.environment.file.write_text(
        bank.environment.file.read_text(encoding="utf-8").replace("select_top", "select_tpo", 1),
        encoding="utf-8",
    )
    assert call(bank) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "experiments.card_offer.select_tpo: unknown key" in err
    assert "Did you mean 'select_top'?" in err
    assert "Traceback" not in err
    assert not bank.environment.logs_dir.exists()


def test_main_logs_folder_cannot_be_made(
    bank: Experiment, bank_engine: sa.Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    bank.environment.logs_dir.parent.write_text("a file")
    assert call(bank) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(
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
    with bank_engine.execution_options(writes=True).begin():
        assert call(bank, "--experiment", "second") == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
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
        if re.search(r"WARNING dev 20\S+ predict second 2026-09-01: look at this$", line)
    ]


def test_check_registration_first_then_changed(experiment: Experiment, engine: sa.Engine) -> None:
    registration = make_registration(**terms.describe(experiment).model_dump())
    with engine.begin() as connection:
        assert terms.check(connection, experiment) is None
        registrations.register(connection, make_night("run1", at=NIGHT_AT), registration)
        assert terms.check(connection, experiment) == registration
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
            terms.check(connection, changed["card_offer"])


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
