"""Folders belong to one environment on one set of tables: nobody else touches anything there."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

import predict
import score
import train
from abatch import __main__ as abatch
from abatch.config import Environment, Experiment, load_experiments
from abatch.database import tables
from abatch.errors import ConfigError, DatabaseError, FileError
from abatch.modelling import folders, retention
from tests.conftest import (
    A1,
    FIRST_NIGHT,
    LATER_NIGHT,
    Templates,
    call,
    open_engine,
    write_config,
    write_experiment,
)

pytestmark = pytest.mark.server

KEYS = [*folders.MODES]
NIGHT, BECAUSE = ["--date", str(FIRST_NIGHT)], ["--reason", "x"]
WRITERS: list[tuple[ModuleType, list[str], list[str]]] = [  # and the folders that must be theirs
    (train, [*NIGHT, "--force"], KEYS),
    (predict, NIGHT, KEYS),
    (score, [*NIGHT, "--force"], KEYS),
    (abatch, ["promote", A1, *BECAUSE], ["models_dir"]),
    (abatch, ["rollback", A1, *BECAUSE], ["models_dir"]),
    (abatch, ["delete", A1, *BECAUSE], ["models_dir"]),
    (abatch, ["snapshots", "purge"], KEYS),
]


def look_into(environment: Environment) -> dict[Path, tuple[int, int, int, bytes]]:
    """Rights, inode, time and content of all that lies in an environment's folders."""
    found = {}
    for key in KEYS:
        folder = getattr(environment, key)
        for path in (folder, *folder.rglob("*")):
            about = path.lstat()
            content = b"" if path.is_dir() else path.read_bytes()
            found[path] = (about.st_mode, about.st_ino, about.st_mtime_ns, content)
    return found


def count_rows(engine: sa.Engine) -> dict[str, int]:
    count = sa.func.count
    with engine.connect() as connection:
        queries = {name: sa.select(count()).select_from(t) for name, t in tables.TABLES.items()}
        return {name: connection.scalar(query) or 0 for name, query in queries.items()}


def change_owner(engine: sa.Engine) -> None:
    """As tables have it that were made another time."""
    with engine.begin() as connection:
        connection.execute(tables.owner.update().values(owner_id="0" * 32))


def share_folders(first: Environment, file: Path, name: str, **keys: object) -> Experiment:
    """An environment of a config with all folders of another."""
    raw = yaml.safe_load(file.read_text("utf-8"))
    shared: dict[str, Any] = {key: str(getattr(first, key)) for key in KEYS}
    raw["environments"][name] = {**raw["environments"]["dev"], **shared, **keys}
    file.write_text(yaml.safe_dump(raw, sort_keys=False), "utf-8")
    return load_experiments(file, name)["card_offer"]


@pytest.fixture
def played(experiment: Experiment, engine: sa.Engine) -> Experiment:
    """A bank with a night, by which each folder has something of its own."""
    environment = experiment.environment
    predict.predict(experiment, engine, FIRST_NIGHT)
    score.score(experiment, engine, FIRST_NIGHT)
    (environment.spool_dir / "20260901T000000Z-00000000").mkdir()
    (environment.logs_dir / "train_2026-09.log").write_text("a line\n")
    return experiment


@pytest.fixture
def other(
    played: Experiment, templates: Templates, tmp_path: Path
) -> Iterator[tuple[Experiment, sa.Engine]]:
    """The same bank in another database, whose environment has the same name and folders."""
    kind = "postgresql" if played.environment.schema else "sqlite"
    (tmp_path / "other").mkdir()
    url = templates.copy(kind, "trained", tmp_path / "other")
    file = write_experiment(tmp_path / "other", url).environment.file
    other = share_folders(played.environment, file, "dev")
    engine = open_engine(other)
    change_owner(engine)
    yield other, engine
    engine.dispose()
    if server := templates.find_server(kind):
        server.drop(url)


def run(
    script: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str], file: Path
) -> tuple[int, str, str]:
    capsys.readouterr()
    code = script.main([*arguments, "--config", str(file)])
    return code, *capsys.readouterr()


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_another_database_is_refused(
    played: Experiment, other: tuple[Experiment, sa.Engine], capsys: pytest.CaptureFixture[str]
) -> None:
    """By every job and command that writes there."""
    second, engine = other
    before, rows = look_into(played.environment), count_rows(engine)
    for script, arguments, keys in WRITERS:
        code, out, err = run(script, arguments, capsys, second.environment.file)
        assert (code, out) == (1, "")
        assert re.findall(r"environments\.dev\.(\w+): /", err) == keys
        assert len(err.splitlines()) == len(keys)
        assert "belongs to environment dev on other tables (owner " in err
        assert "those of dev are owner 00000000). Nothing was touched. Name a folder of" in err
        assert look_into(played.environment) == before
        assert count_rows(engine) == rows


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_another_environment_is_refused(
    played: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the same tables, too, whose models would be whose."""
    file = played.environment.file
    share_folders(played.environment, file, "test")
    before, rows = look_into(played.environment), count_rows(engine)
    for script, arguments, keys in WRITERS:
        code, out, err = run(script, [*arguments, "--env", "test"], capsys, file)
        assert (code, out) == (1, "")
        assert re.findall(r"environments\.test\.(\w+): /", err) == keys
        assert "belongs to environment dev of the same tables, and this is test. Nothing was" in err
        assert look_into(played.environment) == before
        assert count_rows(engine) == rows


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_process_that_died_while_it_marked_a_folder(
    experiment: Experiment, engine: sa.Engine
) -> None:
    """What it left names nobody: the folder can still be taken over, and it goes after a day."""
    environment = experiment.environment
    left = [getattr(environment, key) / f".{folders.MARK}.4711" for key in KEYS]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{")
    with engine.connect() as connection:
        owner = folders.read_owner(connection, environment)
        folders.claim(engine, environment)
        assert [folders.read_mark(path.parent) for path in left] == [owner] * len(left)
        assert folders.survey(connection, environment).unknown == [*map(str, left)]
        retention.remove_files(connection, environment)
        assert all(path.exists() for path in left)  # somebody may be writing it
        for path in left:
            os.utime(path, (0, 0))
        retention.remove_files(connection, environment)
    assert not any(path.exists() for path in left)


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_a_database_under_another_name_keeps_its_folders(
    played: Experiment, engine: sa.Engine, database_url: str, templates: Templates, tmp_path: Path
) -> None:
    """As after a restore or a move: what identifies it moves with it."""
    engine.dispose()
    (folder := tmp_path / "moved").mkdir()
    kind = sa.make_url(database_url).get_backend_name()
    url, server = templates.new(kind, database_url, folder), templates.find_server(kind)
    moved = share_folders(played.environment, played.environment.file, "dev", database=url)
    there = open_engine(moved)
    train.train(moved, there, LATER_NIGHT)
    assert (moved.environment.models_dir / f"modelA_v1.0_{LATER_NIGHT}.pkl").exists()
    there.dispose()
    if server:
        server.drop(url)


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_two_environments_side_by_side_by_default(
    played: Experiment, templates: Templates, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    url = templates.copy("sqlite", "simulated", tmp_path / "other")
    file = played.environment.file
    raw = yaml.safe_load(file.read_text("utf-8"))
    raw["environments"]["test-2.0"] = {"database": url}
    file.write_text(yaml.safe_dump(raw), "utf-8")
    second = load_experiments(file, "test-2.0")["card_offer"]
    before = look_into(played.environment)
    there = open_engine(second)
    train.train(second, there, FIRST_NIGHT)
    there.dispose()
    assert look_into(played.environment) == before
    names = [path.name for path in (tmp_path / "models" / "test-2.0").glob("*.pkl")]
    assert f"{A1}.pkl" in names


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_a_folder_without_a_mark_is_taken_over_if_all_is_known(
    played: Experiment, engine: sa.Engine
) -> None:
    environment = played.environment
    marks = [getattr(environment, key) / folders.MARK for key in KEYS]
    with engine.connect() as connection:
        owner = folders.read_owner(connection, environment)
    (environment.models_dir / f".{A1}.json.4711").write_text("half")
    (environment.models_dir / f"{A1}.pkl.orphan-4711").write_text("set aside")
    (environment.logs_dir / "train_2026-09.log").unlink()  # of no run
    for mark in marks:
        assert json.loads(mark.read_bytes()) == owner._asdict()
        mark.unlink()
    folders.claim(engine, environment)
    assert {mark.read_text() for mark in marks} == {json.dumps(owner._asdict()) + "\n"}


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_folder_without_a_mark_is_refused_if_something_is_not_known(
    played: Experiment, engine: sa.Engine
) -> None:
    environment, url = played.environment, engine.url.render_as_string()
    (environment.logs_dir / "train_2026-09.log").unlink()
    for key, name in (
        ("models_dir", "modelC_v1.0_2026-09-01.pkl"),
        ("models_dir", f"{A1}.pkl"),  # another model under a name that the tables have
        ("models_dir", ".modelC_v1.0_2026-09-01.pkl.4711"),
        ("snapshots_dir", f"{'a' * 64}.parquet"),
        ("snapshots_dir", "export.parquet"),
        ("reports_dir", "another.html"),
        ("logs_dir", "syslog"),
        ("spool_dir", "thesis.tex"),
    ):
        folder = getattr(environment, key)
        mark, stranger = folder / folders.MARK, folder / name
        marked, known = mark.read_bytes(), stranger.read_bytes() if stranger.exists() else None
        mark.unlink()
        stranger.write_bytes(b"another")
        before = look_into(environment)
        with pytest.raises(FileError) as refused:
            train.train(played, engine, LATER_NIGHT)
        assert str(refused.value) == (
            f"{environment.place}.{key}: {folder} bears no owner's mark, and holds files that the"
            f" tables of {url} do not know: {name}. Nothing was touched. Name an empty folder, or"
            " move these files away."
        )
        assert look_into(environment) == before
        mark.write_bytes(marked)
        stranger.unlink() if known is None else stranger.write_bytes(known)


def test_a_dry_run_marks_and_makes_nothing(bank: Experiment, bank_engine: sa.Engine) -> None:
    with pytest.raises(DatabaseError, match="no such table: card_feed"):
        train.train(bank, bank_engine, FIRST_NIGHT, dry_run=True)
    assert [key for key in KEYS if getattr(bank.environment, key).exists()] == []


def test_claim_two_at_once(bank: Experiment, bank_engine: sa.Engine) -> None:
    """Whoever comes second reads the mark of the first, and it is not written over."""
    folder = bank.environment.models_dir
    folders.claim(bank_engine, bank.environment, "models_dir")
    assert not folder.exists()  # a command makes none
    folders.claim(bank_engine, bank.environment, make=True)
    mine, another = folders.read_mark(folder), folders.Owner("1" * 32, "dev")
    assert mine is not None
    folders._write_mark(folder, mine)
    with pytest.raises(FileError, match="belongs to environment dev on other tables"):
        folders._write_mark(folder, another)
    assert folders.read_mark(folder) == mine


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"owner_id": 1}', "mine"])
def test_claim_mark_that_somebody_changed(
    bank: Experiment, bank_engine: sa.Engine, content: str
) -> None:
    folders.claim(bank_engine, bank.environment, make=True)
    mark = bank.environment.spool_dir / folders.MARK
    mark.write_text(content)
    with pytest.raises(FileError, match=rf"^{mark}: the folder's mark cannot be read \(it is not "):
        folders.claim(bank_engine, bank.environment, make=True)


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_folders_that_cannot_be_read_are_told(
    played: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link that leads to itself stands for a right that root does not lack."""
    folder = played.environment.snapshots_dir
    shutil.rmtree(folder)
    folder.symlink_to(folder)
    capsys.readouterr()
    code, out, err = call(capsys, played, "status")
    assert (code, err) == (0, "")
    assert f"snapshots_dir: {folder}: cannot be read (Too many levels of symbolic links)" in out
    with pytest.raises(FileError, match=rf"^{folder}: cannot be written"):
        train.train(played, engine, LATER_NIGHT)


def test_claim_tables_without_an_owner(bank: Experiment, bank_engine: sa.Engine) -> None:
    with bank_engine.begin() as connection:
        connection.execute(tables.owner.delete())
    message = "the table owner has 0 rows, expected the one that init wrote. Bring it back from a"
    with pytest.raises(DatabaseError, match=message):
        folders.claim(bank_engine, bank.environment)


def test_environment_names_a_folder(tmp_path: Path) -> None:
    file = write_config(tmp_path, "sqlite:///x.db")
    text = file.read_text("utf-8")
    for name in ("../dev", "a/b", ".", "", "-x", "x" * 65, "prod 1"):
        file.write_text(text.replace("\n  dev:", f"\n  {json.dumps(name)}:"), "utf-8")
        with pytest.raises(ConfigError, match=r"environments: found the key .*, expected letters,"):
            load_experiments(file, name)
