"""Retention: what goes by age and size, and never what is or was live."""

import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

import train
from abatch.config import Environment, Experiment, load_experiments
from abatch.database import connections
from abatch.database.tables import deletions, runs
from abatch.modelling import registry, retention, retraining, snapshots
from abatch.night import utc_now
from abatch.sections import Retention
from tests.conftest import (
    A1,
    FIRST_NIGHT,
    LATER_NIGHT,
    add_runs,
    alter,
    call,
    with_training,
    write_config,
)
from tests.test_registry import MONDAY, delete, promote, save
from tests.test_snapshots import NOW, add_model, add_pull

DAY = timedelta(days=1)


def limit(folder: Path, **limits: Any) -> Environment:
    """An environment with such a retention, also with limits that a config may not have."""
    environment = load_experiments(write_config(folder, "sqlite://"), "dev").environment
    return replace(environment, retention=Retention.model_construct(**limits))


def drop(
    engine: sa.Engine, folder: Path, days: int | None = None, gigabytes: float | None = None
) -> list[tuple[str, str]]:
    environment = limit(folder.parent.parent, snapshot_days=days, snapshot_gigabytes=gigabytes)
    with engine.connect() as connection:
        return list(retention.choose_snapshots(connection, environment, NOW))


@pytest.fixture
def kept(engine: sa.Engine, tmp_path: Path) -> Path:
    """Folder of five snapshots of 1000 bytes: old, its model was live; old; pulled again; young.

    And one whose file is gone.
    """
    folder = tmp_path / "snapshots" / "dev"
    folder.mkdir(parents=True)
    for name, days_ago in (("live", 90), ("old", 60), ("again", 50), ("young", 9.99), ("gone", 80)):
        add_pull(engine, name, days_ago)
        (folder / f"{name}.parquet").touch()
    (folder / "gone.parquet").unlink()
    add_pull(engine, "again", days_ago=10, run_id="second")
    add_model(engine, "modelA_v1.0_2026-09-07", "live", promote=True)
    add_model(engine, "modelA_v1.0_2026-09-08", "live")
    add_model(engine, "modelA_v1.0_2026-09-09", "old")
    return folder


@pytest.mark.parametrize(
    ("days", "dropped"),
    [
        (None, []),
        (61, []),
        (60, ["old"]),
        (11, ["old"]),
        (10, ["old", "again"]),
        (9, ["old", "again", "young"]),
    ],
)
def test_choose_snapshots_by_days(
    engine: sa.Engine, kept: Path, days: int | None, dropped: list[str]
) -> None:
    assert drop(engine, kept, days=days) == [(name, f"older than {days} days") for name in dropped]


@pytest.mark.parametrize(
    ("n_bytes", "dropped"),
    [
        (4000, []),
        (3999, ["old"]),
        (3000, ["old"]),
        (2000, ["old", "again"]),
        (1000, ["old", "again", "young"]),
        (0, None),
    ],
)
def test_choose_snapshots_by_gigabytes(
    engine: sa.Engine, kept: Path, n_bytes: int, dropped: list[str] | None
) -> None:
    found = drop(engine, kept, gigabytes=n_bytes / 1e9)
    expected = (
        ["old", "again", "young"] if dropped is None else dropped
    )  # never what was live, however little may stay
    assert found == [(name, f"all together larger than {n_bytes / 1e9:g} GB") for name in expected]


def test_choose_snapshots_by_both(engine: sa.Engine, kept: Path) -> None:
    found = drop(engine, kept, days=60, gigabytes=2e-6)
    assert found == [("old", "older than 60 days"), ("again", "all together larger than 2e-06 GB")]
    assert drop(engine, kept, days=60, gigabytes=3e-6) == [
        ("old", "older than 60 days")
    ]  # which makes enough room


def test_find_needed(engine: sa.Engine, kept: Path) -> None:
    with engine.connect() as connection:
        assert retention.find_needed(connection) == {"live"}


def make_older(*paths: Path) -> None:
    """Last changed in 2001, when 1e9 seconds were over."""
    for path in paths:
        os.utime(path, (1e9, 1e9))


def test_train_leaves_what_it_did_not_write(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """However old: others' Parquet files, rows that somebody recalled, snapshots of no table.

    A person may purge the last, and no other.
    """
    folder = week.environment.snapshots_dir
    (own,) = folder.glob("*.parquet")
    recalled, export, half = (
        folder / "rows.parquet",
        folder / "export.parquet",
        folder / "x.parquet",
    )
    window = ("--from", "2026-06-01", "--to", "2026-08-01", "--as-of", "2026-09-01")
    assert call(capsys, week, "recall", "card_offer", *window, "--out", str(recalled))[0] == 0
    pd.DataFrame({"amount": [1, 2]}).to_parquet(export)
    half.write_bytes(b"PAR1 and no more")
    renamed, named = folder / f"{'a' * 64}.parquet", folder / f"{'b' * 64}.parquet"
    renamed.write_bytes(own.read_bytes())  # bears another mark than its name
    named.write_bytes(export.read_bytes())
    with week_engine.connect() as connection:
        row = snapshots.choose_snapshot(connection, A1)
    rows = snapshots.load(folder, row).iloc[:100]
    content_hash = snapshots.make_snapshot(rows).content_hash
    stray, young = (folder / f"{content_hash}.parquet" for content_hash in (content_hash, "c" * 64))
    for path in (stray, young):
        path.write_bytes(snapshots.to_parquet(rows, path.stem))
    unfinished = [folder / f".{own.name}.4711", week.environment.models_dir / f".{A1}.pkl.4711"]
    others = [folder / ".notes.parquet.swp", folder / ".rows.parquet.4711.bak"]
    fresh = folder / f".{own.name}.4712"
    for path in (*unfinished, *others, fresh):
        path.write_bytes(b"half")
    foreign = [recalled, export, half, renamed, named]
    make_older(*foreign, stray, *unfinished, *others)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    train.train(week, week_engine, LATER_NIGHT)
    after = {path: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() - after.keys() == {unfinished[0]}
    assert [path for path in before.keys() & after.keys() if before[path] != after[path]] == []
    assert not unfinished[1].exists()
    code, out, _ = call(capsys, week, "snapshots", "purge")
    assert (code, out) == (0, f"{stray} removed: no pull names it\n")
    assert after.keys() - {*folder.iterdir()} == {stray}


@pytest.mark.parametrize(
    ("days", "chosen"), [(None, []), (31, []), (30, [0]), (10, [0]), (9, [0, 3]), (0, [0, 3])]
)
def test_choose_models(
    engine: sa.Engine, tmp_path: Path, days: int | None, chosen: list[int]
) -> None:
    """Never what was live or will be, and not twice.

    Of a run that is in its tenth day, nine days count.
    """
    now = datetime(2026, 10, 1, 12)
    ages = [
        timedelta(days=30),
        timedelta(days=60),
        timedelta(days=60),
        timedelta(days=10, seconds=-1),
        timedelta(days=60),
    ]
    names = [save(engine, tmp_path, MONDAY, run_id=f"run{i}") for i in range(len(ages))]
    run = {"job": "train", "experiment": "card_offer", "status": "failed"}
    started = [
        {"run_id": f"run{i}", "run_date": MONDAY, "started_at": now - age}
        for i, age in enumerate(ages)
    ]
    add_runs(engine, *({**run, **row} for row in started))
    promote(engine, names[1], MONDAY)
    promote(engine, names[2], date(2027, 1, 1))
    delete(engine, names[4])
    environment = limit(tmp_path, model_days=days)
    with engine.connect() as connection:
        found = sorted(retention.choose_models(connection, environment, now))
    assert found == [(names[i], f"never live, and older than {days} days") for i in chosen]


@pytest.mark.parametrize(("days", "gone"), [(None, []), (31, []), (30, [0, 1]), (1, [0, 1, 2])])
def test_set_aside_goes_with_models_that_were_never_live(
    engine: sa.Engine, tmp_path: Path, days: int | None, gone: list[int]
) -> None:
    environment = limit(tmp_path, model_days=days)
    environment.models_dir.mkdir(parents=True)
    names = [f"{A1}.pkl.orphan-1", f"{A1}.json.orphan-17", f"{A1}.html.orphan-2"]
    names += [f"{A1}.pkl", "thesis.orphan-works.tex", "orphan-3.pkl"]  # not set aside
    now = utc_now().replace(tzinfo=UTC).timestamp()
    for i, name in enumerate(names):
        (environment.models_dir / name).touch()
        age = 86_400 * (2 if i == 2 else 30.5)
        os.utime(environment.models_dir / name, (now - age, now - age))
    connections.read(engine, retention.remove_files, environment)
    left = {name for i, name in enumerate(names) if i not in gone}
    assert {path.name for path in environment.models_dir.iterdir()} == left


def apply(environment: Environment, engine: sa.Engine) -> list[str]:
    deleted = connections.write(engine, retention.write_deletions, environment, "me")
    connections.read(engine, retention.remove_files, environment)
    return deleted


def test_retention_keeps_what_was_ever_live(week: Experiment, week_engine: sa.Engine) -> None:
    train.train(with_training(week, min_rows=10_000), week_engine, LATER_NIGHT)  # never live
    keep = alter(week, retention=Retention(model_days=1, snapshot_gigabytes=0))
    assert [line.split()[0] for line in apply(keep.environment, week_engine)] == [
        "snapshot"
    ]  # the model is of today
    with week_engine.begin() as connection:
        connection.execute(runs.update().values(started_at=utc_now() - 2 * DAY))
    assert (
        len(apply(keep.environment, week_engine)) == 2
    )  # both variants' models of the later night
    assert sorted(path.name for path in week.environment.models_dir.glob("*2026*.pkl")) == [
        f"{A1}.pkl",
        f"{A1.replace('A', 'B')}.pkl",
    ]
    assert len(list(week.environment.snapshots_dir.glob("*.parquet"))) == 1
    assert apply(keep.environment, week_engine) == []
    with week_engine.connect() as connection:
        assert {row.kind for row in connection.execute(sa.select(deletions))} == {
            "model",
            "snapshot",
        }
        cards = registry.read_cards(connection, "card_offer").values()
        assert retraining.find_last(cards, FIRST_NIGHT) is not None


def test_retention_waits_for_a_run_that_may_promote_yet(
    week: Experiment, week_engine: sa.Engine
) -> None:
    train.train(with_training(week, min_rows=10_000), week_engine, LATER_NIGHT)  # never live
    with week_engine.begin() as connection:
        connection.execute(
            runs.update().where(runs.c.run_date > FIRST_NIGHT).values(status="running")
        )
    keep = alter(week, retention=Retention(snapshot_gigabytes=0))
    assert apply(keep.environment, week_engine) == []


def test_deleted_snapshot_is_kept_once_it_is_pulled_again(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    night = LATER_NIGHT
    train.train(with_training(week, min_rows=10_000), week_engine, night)
    none = alter(week, retention=Retention(snapshot_gigabytes=0)).environment
    apply(none, week_engine)
    assert len(list(week.environment.snapshots_dir.glob("*.parquet"))) == 1
    train.train(with_training(week, min_rows=10_000), week_engine, night, force=True)
    assert len(list(week.environment.snapshots_dir.glob("*.parquet"))) == 2
    connections.read(week_engine, retention.remove_deleted, week.environment)
    assert len(list(week.environment.snapshots_dir.glob("*.parquet"))) == 2
    # Pulled again, it is deleted no more: if its file is lost, that is told as a loss.
    for path in week.environment.snapshots_dir.glob("*.parquet"):
        path.unlink()
    code, out, _ = call(capsys, week, "snapshots", "verify")
    assert (code, out.count("the snapshot's file is missing")) == (1, 2)
