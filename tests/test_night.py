"""Nights: runs and their ledger, the lock, the clock, transactions."""

import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from abatch import night as night_module
from abatch.config import Experiment
from abatch.database import connections, faults, locks, tables
from abatch.database.tables import prediction_rows, runs
from abatch.errors import AbatchError, DatabaseError, DataError, NothingToDo
from abatch.experiment import predictions
from abatch.modelling import promotion, registry
from abatch.night import DAY, Night, find_nights, is_latest, open_night, today, utc_now
from tests.conftest import (
    FIRST_NIGHT,
    add_runs,
    as_stored,
    make_card,
    make_night,
    read_predictions,
)

pytestmark = pytest.mark.server

NIGHT, NIGHT_AT = date(2026, 9, 1), datetime(2026, 9, 1, 3, 0)


def do(experiment: Experiment, engine: sa.Engine, run_date: date = NIGHT, **options: Any) -> str:
    with open_night("predict", experiment, engine, run_date, **options) as night:
        night.finish("nothing")
    return night.run_id


def write_row(night: Night) -> None:
    """A prediction of a run that is not done."""
    row = {"run_number": night.run_number, "candidate_id": "1", "variant": "A", "bucket": 0}
    row |= {"model_name": "m", "prediction": 0.5, "rank_in_variant": 1, "selected": 1}
    night.write(sa.Connection.execute, prediction_rows.insert().values(row))


def read_shown(engine: sa.Engine) -> list[Any]:
    """What readers of the views and the code itself find of predictions."""
    with engine.connect() as connection:
        views = (tables.predictions, tables.predictions_superseded)
        rows = [row for view in views for row in connection.execute(sa.select(view))]
        frame = read_predictions(connection, "card_offer", date.min, date.max)
    return [*rows, *frame.itertuples()]


def read_ledger(engine: sa.Engine) -> list[sa.Row[Any]]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(runs).order_by(runs.c.run_number)))


def test_open_night_done_is_not_done_again(experiment: Experiment, engine: sa.Engine) -> None:
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
    assert f"(process {os.getpid()})" in first.host
    assert len(first.config_hash) == 64


@pytest.mark.parametrize(
    "database_url", [pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
def test_audit_triggers_change_nothing(experiment: Experiment, engine: sa.Engine) -> None:
    """A bank's triggers on abatch's tables, which count rows of their own, first of all none."""
    audited = (runs, tables.promotions, tables.deletions)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table dbo.audit (name varchar(20), n int)")
    for table in audited:
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"create trigger abatch.audit_{table.name} on abatch.{table.name} after insert,"
                " update as begin delete from dbo.audit where 1 = 0; insert into dbo.audit select"
                f" '{table.name}', count(*) from inserted; end"
            )
    do(experiment, engine)
    at, card = utc_now(), make_card()
    row: dict[str, Any] = {"effective_date": NIGHT, "reason": "tried"}
    row |= {"promoted_by": "kari", "promoted_at": at}
    connections.write(engine, lambda connection: promotion.promote(connection, card, **row))
    connections.write(engine, registry.write_deletion, registry.MODEL, "m", "old", "kari", at)
    with engine.connect() as connection:
        written = connection.exec_driver_sql("select name, sum(n) from dbo.audit group by name")
        counts = dict(map(tuple, written.all()))
    assert counts.keys() == {table.name for table in audited}
    assert (counts["promotions"], counts["deletions"]) == (1, 1)
    assert [run.status for run in read_ledger(engine)] == ["done"]


@pytest.mark.parametrize("shown", [("done", "done"), ("early", "done"), ("early", "early")])
def test_one_run_of_a_night_is_shown(engine: sa.Engine, shown: tuple[str, str]) -> None:
    """By an index, whatever a job believes; of another night, job or experiment there may be."""
    night = {"job": "predict", "experiment": "card_offer", "run_date": FIRST_NIGHT}
    others: list[dict[str, Any]] = [
        {},
        {"job": "score"},
        {"experiment": "other"},
        {"run_date": FIRST_NIGHT + DAY},
        {"status": "superseded"},
        {"status": "failed"},
    ]
    for number, other in enumerate(others):
        add_runs(engine, {**night, "run_id": f"r{number}", "status": shown[0], **other})
    with pytest.raises(sa.exc.IntegrityError):
        add_runs(engine, {**night, "run_id": "again", "status": shown[1]})


def test_open_night_force_supersedes(experiment: Experiment, engine: sa.Engine) -> None:
    first, second = do(experiment, engine), do(experiment, engine, force=True)
    found = [(r.run_id, r.status, r.superseded_by, r.run_number) for r in read_ledger(engine)]
    assert found == [(first, "superseded", second, 1), (second, "done", None, 2)]
    with pytest.raises(NothingToDo, match=second):
        do(experiment, engine)


def test_open_night_force_that_fails_leaves_the_night_done(
    experiment: Experiment, engine: sa.Engine
) -> None:
    first = do(experiment, engine)
    with pytest.raises(DataError), open_night("predict", experiment, engine, NIGHT, force=True):
        raise DataError("broken")
    assert {row.run_id: row.status for row in read_ledger(engine)}[first] == "done"
    with pytest.raises(NothingToDo, match=first):
        do(experiment, engine)


def test_open_night_buries_the_dead(experiment: Experiment, engine: sa.Engine) -> None:
    dead = {"run_date": NIGHT, "status": "running", "started_at": datetime(2026, 8, 31)}
    for run_id, kind, name in (
        ("dead", "predict", "card_offer"),
        ("alive", "predict", "other"),
        ("train", "train", "card_offer"),
    ):
        add_runs(engine, {"run_id": run_id, "job": kind, "experiment": name, **dead})
    run_id = do(experiment, engine, NIGHT + timedelta(days=1))
    ledger = {row.run_id: row for row in read_ledger(engine)}
    assert {name: row.status for name, row in ledger.items()} == {
        "dead": "failed",
        "alive": "running",
        "train": "running",
        run_id: "done",
    }
    assert ledger["dead"].error == "died; cleaned up by the next run"
    assert ledger["dead"].finished_at >= ledger[run_id].started_at


def test_open_night_numbers_runs_that_start_at_once(
    experiment: Experiment, engine: sa.Engine
) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = [f"experiment{i}" for i in range(8)]
        others = [experiment.model_copy(update={"name": name}) for name in names]
        run_ids = [*pool.map(lambda other: do(other, engine), others)]
    ledger = read_ledger(engine)
    assert sorted(row.run_id for row in ledger) == sorted(run_ids)
    assert sorted(row.run_number for row in ledger) == [*range(1, 9)]


def test_finish_of_a_run_taken_for_dead_publishes_nothing(
    experiment: Experiment, engine: sa.Engine
) -> None:
    with (
        pytest.raises(
            DatabaseError,
            match=r"has lost its lock to another process, which took it for dead: its connection",
        ),
        open_night("predict", experiment, engine, NIGHT) as night,
    ):
        write_row(night)
        with engine.begin() as connection:
            connection.execute(
                runs.update().values(status="failed", error="died; cleaned up by the next run")
            )
        night.finish("one", predictions.write_shares, night)
    assert [(row.status, row.error) for row in read_ledger(engine)] == [
        ("failed", "died; cleaned up by the next run")
    ]
    assert read_shown(engine) == []
    with open_night("predict", experiment, engine, NIGHT) as night:
        predictions.remove_dead(night)
        night.finish("nothing")
    with engine.connect() as connection:
        for table in (prediction_rows, tables.prediction_shares):
            assert connection.execute(sa.select(table)).all() == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataError("Ærø: 日本"), "Ærø: 日本"),
        (ZeroDivisionError("by 0"), "by 0"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_open_night_failure_is_in_the_ledger(
    experiment: Experiment, engine: sa.Engine, error: BaseException, reason: str
) -> None:
    with pytest.raises(type(error)), open_night("predict", experiment, engine, NIGHT) as night:
        write_row(night)
        night.write(predictions.write_shares, night)
        raise error
    assert [(row.status, row.error) for row in read_ledger(engine)] == [("failed", reason)]
    assert read_shown(engine) == []
    do(experiment, engine)  # and the lock is free


def test_open_night_warnings_are_in_the_ledger(experiment: Experiment, engine: sa.Engine) -> None:
    """Those before the run is done, those after it, and those of a run that fails."""
    with open_night("predict", experiment, engine, NIGHT) as night:
        night.warn("Ærø: 日本")
        night.finish("nothing")
        assert [row.warnings for row in read_ledger(engine)] == ["Ærø: 日本"]
        night.warn("two\nlines")
    with pytest.raises(ZeroDivisionError), open_night("score", experiment, engine, NIGHT) as night:
        night.warn("in vain")
        raise ZeroDivisionError
    do(experiment, engine, force=True)
    found = {(row.job, row.status, row.warnings) for row in read_ledger(engine)}
    assert found == {
        ("predict", "superseded", "Ærø: 日本\ntwo\nlines"),
        ("score", "failed", "in vain"),
        ("predict", "done", None),
    }


def test_open_night_dry_writes_nothing(
    experiment: Experiment, engine: sa.Engine, tmp_path: Path
) -> None:
    assert read_ledger(engine) == []  # SQLite now has all its files
    before = sorted(tmp_path.rglob("*"))
    with open_night("predict", experiment, engine, NIGHT, dry_run=True) as night:
        assert night.dry_run
    assert read_ledger(engine) == []
    assert sorted(tmp_path.rglob("*")) == before
    do(experiment, engine)
    with (
        pytest.raises(NothingToDo, match="already done"),
        open_night("predict", experiment, engine, NIGHT, dry_run=True),
    ):
        pass
    with open_night("predict", experiment, engine, NIGHT, dry_run=True, force=True):
        pass
    assert len(read_ledger(engine)) == 1


def test_open_night_names_the_holder(experiment: Experiment, engine: sa.Engine) -> None:
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


def test_open_night_waits_until_the_holder_says_which_night(
    experiment: Experiment, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has just taken the lock stands not in the ledger yet; its night may be another."""

    def begin(other: Night) -> None:
        connections.write(engine, night_module._begin_run, other)

    with open_night("predict", experiment, engine, NIGHT, dry_run=True) as other:
        pass
    with locks.lock(engine, "predict-card_offer"):
        timer = threading.Timer(0.5, begin, [other])
        timer.start()
        with (
            pytest.raises(AbatchError, match=f"for another date, {NIGHT}, by"),
            open_night("predict", experiment, engine, NIGHT + DAY),
        ):
            pass
        timer.join()
    monkeypatch.setattr(night_module, "START_SECONDS", 0)
    connections.write(engine, night_module._fail_runs, other, "died")
    with (
        locks.lock(engine, "predict-card_offer"),
        pytest.raises(AbatchError, match=r"just starting\. Run it again\."),
        open_night("predict", experiment, engine, NIGHT),
    ):
        pass


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
def test_open_night_as_of_past_date(
    bank: Experiment, bank_engine: sa.Engine, run_date: date, as_of: datetime
) -> None:
    with open_night("predict", bank, bank_engine, run_date, dry_run=True) as night:
        assert night.as_of == as_of


def test_open_night_as_of_today(bank: Experiment, bank_engine: sa.Engine) -> None:
    before = utc_now()
    with open_night("predict", bank, bank_engine, today(bank.environment), dry_run=True) as night:
        assert before <= night.as_of <= utc_now()


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
        until = make_night(run_date=NIGHT + timedelta(days=1))
        assert find_nights(connection, until) == expected
        assert find_nights(connection, make_night(run_date=date.max)) == [
            *expected,
            NIGHT + timedelta(days=2),
        ]
        assert find_nights(connection, make_night(run_date=date.max, experiment="another")) == []


def test_is_latest(
    experiment: Experiment, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night that was done for the future by mistake does not freeze the figures."""
    monkeypatch.setattr("abatch.night.today", lambda environment: NIGHT + timedelta(days=5))
    for days, expected in ((1, True), (0, False), (9, True), (2, True), (10, True), (9, True)):
        run_date = NIGHT + timedelta(days=days)
        with open_night("score", experiment, engine, run_date, force=True) as night:
            with engine.connect() as connection:
                assert is_latest(connection, night) == expected
            night.finish("nothing")


def test_night_that_is_yet_to_come_counts_for_nothing(
    experiment: Experiment, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day ahead of UTC it may be somewhere, two days nowhere."""
    start = utc_now().date()
    do(experiment, engine, start + DAY)
    do(experiment, engine, start + 2 * DAY)
    assert [row.status for row in read_ledger(engine)] == ["done", "early"]
    do(experiment, engine, start + 2 * DAY)  # as it is not done, no force is needed
    moment = utc_now() + DAY
    monkeypatch.setattr(night_module, "utc_now", lambda: moment)
    run_id = do(experiment, engine, start + 2 * DAY)
    assert [row.status for row in read_ledger(engine)][1:] == ["superseded", "superseded", "done"]
    with pytest.raises(NothingToDo, match=f"already done .run {run_id}"):
        do(experiment, engine, start + 2 * DAY)


def test_night_has_few_public_names() -> None:
    """Facts and doors: what a story needs more is no business of the night's."""
    facts = "job experiment run_date is_early key run_id run_number started_at as_of force dry_run"
    doors = "read pull stream write open_loader require_lock finish hold log warn announce"
    names = {name for name in (*Night.__annotations__, *vars(Night)) if not name.startswith("_")}
    assert names == {*facts.split(), *doors.split()}


def test_night_is_frozen(experiment: Experiment, engine: sa.Engine) -> None:
    with (
        open_night("predict", experiment, engine, NIGHT, dry_run=True) as night,
        pytest.raises(dataclasses.FrozenInstanceError),
    ):
        night.dry_run = False  # type: ignore[misc]


def test_write_and_finish_of_a_dry_run_do_nothing(
    experiment: Experiment, engine: sa.Engine
) -> None:
    def fail(connection: sa.Connection) -> None:
        raise AssertionError("a dry run enters no transaction")

    with open_night("predict", experiment, engine, NIGHT, dry_run=True) as night:
        night.write(fail)
        with night.hold("promotions", "promoting"):
            assert night.finish("a plan", fail) == "predict card_offer 2026-09-01, dry run: a plan"


def test_hold_waits_and_then_tells(
    experiment: Experiment, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "LOCK_WAIT_SECONDS", 0.5)
    with open_night("train", experiment, engine, NIGHT) as night:
        with locks.lock(engine, "promotions") as acquired:
            assert acquired
            with (
                pytest.raises(
                    AbatchError, match=r"2026-09-01: somebody else is promoting\. Run it"
                ),
                night.hold("promotions", "promoting"),
            ):
                pass
        with (
            night.hold("promotions", "promoting"),
            locks.lock(engine, "promotions") as acquired,
        ):
            assert not acquired
        night.finish("nothing")
