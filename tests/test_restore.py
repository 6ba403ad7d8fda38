"""Yesterday's backup is restored: the tables are older than the files, of which nothing is lost."""

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

import predict
import score
import train
from abatch.config import Experiment, load_experiments
from abatch.database import connections, tables
from abatch.modelling import folders, registry, retention
from abatch.night import utc_now
from abatch.sections import Retention
from demo import simulate
from tests.conftest import A1, A8, FIRST_NIGHT, LATER_NIGHT, Templates, alter, call, open_engine

pytestmark = [pytest.mark.server, pytest.mark.bank("trained")]
ON_BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
NEXT_NIGHT = FIRST_NIGHT + timedelta(days=1)
LOST_RUN = "20260909T010203Z-0123abcd"
STRICT = Retention.model_construct(snapshot_days=1, snapshot_gigabytes=0, model_days=1)


def make_older(folder: Path) -> None:
    """All of 2001, when 1e9 seconds were over."""
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)


@pytest.fixture
def backup(
    engine: sa.Engine, database_url: str, templates: Templates, tmp_path: Path
) -> Iterator[str]:
    """URL of a copy of the database as it is after the first training."""
    simulate.simulate(engine, LATER_NIGHT)
    engine.dispose()
    (folder := tmp_path / "backup").mkdir()
    kind = sa.make_url(database_url).get_backend_name()
    url, server = templates.new(kind, database_url, folder), templates.find_server(kind)
    yield url
    if server:
        server.drop(url)


@pytest.fixture
def restored(
    backup: str, experiment: Experiment, engine: sa.Engine
) -> Iterator[tuple[Experiment, sa.Engine, dict[Path, bytes]]]:
    """The experiment on the backup, after two trainings, a night and a report that it has lost.

    And the files of models and snapshots that are newer than it.
    """
    environment = experiment.environment
    before = {path: path.read_bytes() for path in list_kept(experiment)}
    train.train(experiment, engine, NEXT_NIGHT)
    train.train(experiment, engine, LATER_NIGHT)
    predict.predict(experiment, engine, LATER_NIGHT)
    score.score(experiment, engine, LATER_NIGHT)
    engine.dispose()
    newer = {path: path.read_bytes() for path in list_kept(experiment) if path not in before}
    assert len(newer) == 2 * 2 * 3 + 2
    (environment.spool_dir / LOST_RUN).mkdir()
    raw = yaml.safe_load(environment.file.read_text("utf-8"))
    raw["environments"]["dev"]["database"] = backup
    environment.file.write_text(yaml.safe_dump(raw), "utf-8")
    restored = load_experiments(environment.file, "dev")["card_offer"]
    yield restored, (there := open_engine(restored)), newer
    there.dispose()


def list_kept(experiment: Experiment) -> list[Path]:
    """Files of models and snapshots, but for links."""
    environment = experiment.environment
    paths = [*environment.models_dir.iterdir(), *environment.snapshots_dir.iterdir()]
    return [path for path in paths if not path.is_symlink() and path.name != folders.MARK]


@ON_BOTH
def test_status_tells_what_the_tables_do_not_know_and_what_is_missing(
    restored: tuple[Experiment, sa.Engine, dict[Path, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, _, newer = restored
    environment = experiment.environment
    lost = environment.models_dir / f"{A1}.pkl"
    lost.unlink()
    half = environment.models_dir / f".{A1}.pkl.4711"
    half.touch()
    capsys.readouterr()
    code, out, err = call(capsys, experiment, "status", "--json")
    (state,) = json.loads(out)
    assert (code, err) == (0, "")
    unknown = {
        *map(str, newer),
        str(half),
        str(environment.spool_dir / LOST_RUN),
    }
    assert {*state["files"]["unknown"]} == unknown
    assert (state["files"]["missing"], state["files"]["faults"]) == ([str(lost)], [])
    _, out, _ = call(capsys, experiment, "status")
    head, text = out.split("\nfiles in dev\n")
    assert "train    last run for 2026-09-01: done" in head
    lines = text.splitlines()
    assert lines[0] == f"  {len(unknown)} that the tables do not know:"
    assert {line.strip() for line in lines[1:6]} < unknown
    assert lines[6:] == [
        f"    and {len(unknown) - 5} more: see --json",
        "  1 that the tables name are missing:",
        f"    {lost}",
    ]


@ON_BOTH
def test_jobs_delete_nothing_that_is_newer(
    restored: tuple[Experiment, sa.Engine, dict[Path, bytes]],
) -> None:
    """However old it looks, and however strict retention is."""
    experiment, engine, newer = restored
    environment = experiment.environment
    strict = alter(experiment, retention=STRICT)
    for _ in range(2):
        make_older(environment.models_dir)
        make_older(environment.snapshots_dir)
        for job in (train.train, predict.predict, score.score):
            job(strict, engine, LATER_NIGHT, force=True)
    assert {path: path.read_bytes() for path in newer} == newer
    assert (environment.spool_dir / LOST_RUN).is_dir()
    with engine.connect() as connection:
        names = {*registry.read_cards(connection, experiment.name)}
    assert names == {
        name.replace("A", variant)
        for name in (A1, f"{A8}_2", f"{A8}_3")  # A8 is newer than the backup
        for variant in "AB"
    }


@ON_BOTH
def test_a_snapshot_that_was_pulled_again_since_stays(
    backup: str, experiment: Experiment, engine: sa.Engine
) -> None:
    """It was deleted when the backup was made, and the backup has lost the pull that followed."""
    (path,) = experiment.environment.snapshots_dir.glob("*.parquet")
    with engine.begin() as connection:
        now = utc_now()
        for table in (tables.promotions, tables.models):
            connection.execute(table.delete())
        registry.write_deletion(connection, registry.SNAPSHOT, path.stem, "old", "me", now)
    connections.read(engine, retention.remove_files, experiment.environment)
    assert not path.exists()
    path.write_bytes(b"written since")
    connections.read(engine, retention.remove_files, experiment.environment)
    assert path.exists()
    with engine.connect() as connection:
        found = folders.survey(connection, experiment.environment)
    assert str(path) in found.unknown
