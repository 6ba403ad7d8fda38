"""Databases and configurations for the tests.

SQLite, a PostgreSQL that the tests start themselves, and a SQL Server if one is named.
"""

import dataclasses
import json
import logging
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# OpenMP reads it as scikit-learn is imported: two tests at a time on two cores want a thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
import yaml
from pydantic import SecretStr
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

import train
from abatch import __main__ as abatch_main
from abatch.config import Environment, Experiment, load_experiments
from abatch.database import connections, faults, migrations, tables
from abatch.experiment import predictions
from abatch.experiment.registrations import Registration
from abatch.modelling import inspection, promotion
from abatch.modelling.card import Card
from abatch.pages import cards
from demo import simulate

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
FIRST_NIGHT, LATER_NIGHT = date(2026, 9, 1), date(2026, 9, 8)  # of `week`
A1, A8 = (f"modelA_v1.0_{night}" for night in (FIRST_NIGHT, LATER_NIGHT))
QUICK_MODELS: dict[str, dict[str, Any]] = {  # which are fitted at once
    "A": {
        "name": "modelA",
        "version": "1.0",
        "estimator": "sklearn.linear_model.LogisticRegression",
    },
    "B": {
        "name": "modelB",
        "version": "1.0",
        "estimator": "sklearn.tree.DecisionTreeClassifier",
        "params": {"max_depth": 3},
    },
}
CARD: dict[str, Any] = {  # as models.card holds it, of a model that nobody trained
    "model_name": "modelA_v1.0_2026-09-01",
    "name": "modelA",
    "version": "1.0",
    "file": "modelA_v1.0_2026-09-01.pkl",
    "sha256": "5ha",
    "experiment": "card_offer",
    "variant": "A",
    "run_date": "2026-09-01",
    "run_id": "r1",
    "trained_because": "there is no model yet",
    "estimator": "sklearn.linear_model.LogisticRegression",
    "params": {},
    "seed": 0,
    "columns": {"age": "number"},
    "query": "select 1",
    "from_date": "2025-08-16",
    "to_date": "2026-08-16",
    "as_of": "2026-09-01T21:59:59.999999",
    "rows": 31970,
    "n_positive": 1599,
    "snapshot": "5nap",
    "validation_from": "2026-06-07",
    "rows_validation": 6394,
    "outcome_mean": 0.05,
    "outcome_sd": 0.218,
    "outcome_kurtosis": 17.05,
    "metrics": {},
    "importances": [],
    "subgroups": [],
    "features": {
        "age": {
            "kind": "number",
            "bins": [40.0],
            "counts": [50, 50, 0],
            "others": [],
            "limits": None,
        }
    },
    "reference": {"edges": [0.1], "counts": [5, 5]},
    "checked": [0.05],
    "left_out": {},
    "gate": {"promote": True, "reason": "the first model of its variant", "evidence": {}},
    "config": {},
    "config_hash": "c0f",
    "code_version": "0.1.0+05bad64",
    "code_files": {},
    "libraries": {},
    "lock": {},
    "machine": "Linux x86_64",
}
RUN = r"20\d{6}T\d{6}Z-[0-9a-f]{8}"  # a run_id
N_ORDERED = 60  # rows of a chunk, of nights that `start` begins
Start = Callable[..., "subprocess.Popen[str]"]
MSSQL_URL = os.environ.get("ABATCH_TEST_MSSQL_URL")


@pytest.hookimpl(tryfirst=True)  # before -m is heeded
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark `databases` whatever repeats on a server what SQLite proves already."""
    for item in items:
        assert isinstance(item, pytest.Function)
        kind = item.callspec.params.get("database_url") if hasattr(item, "callspec") else None
        chosen = [*item.iter_markers("server")] + [
            marker
            for marker in item.iter_markers("parametrize")
            if "database_url" in marker.args[0]
        ]
        on_mssql = item.get_closest_marker("mssql")
        if on_mssql or (kind == "postgresql" and not chosen):
            item.add_marker("databases")


def find_postgres_binaries() -> Path | None:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


class Cluster:
    """A PostgreSQL cluster, in a folder of its own, that can be stopped and started.

    Nothing must outlive the tests, so nothing waits for the disk.
    """

    SETTINGS = (
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "wal_level=minimal",
        "max_wal_senders=0",
        "autovacuum=off",
    )

    def __init__(self, folder: Path, binaries: Path, as_user: Sequence[str]) -> None:
        self.folder, self.binaries, self.as_user = folder, binaries, as_user
        password_file = folder / "password"
        password_file.write_text("s3cret")
        password_file.chmod(0o644)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.options = " ".join([f"-p {port}", *(f"-c {setting}" for setting in self.SETTINGS)])
        self.url = f"postgresql+psycopg://boss:s3cret@127.0.0.1:{port}/postgres"
        login = ("-U", "boss", "-A", "scram-sha-256", f"--pwfile={password_file}")
        self._run("initdb", *login, "-E", "UTF8", "-N")

    def start(self) -> None:
        """Returns once it answers."""
        self._run("pg_ctl", "-l", str(self.folder / "log"), "-w", "-o", self.options, "start")

    def stop(self) -> None:
        """Sessions are cut off, as by a crash."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), "-D", str(self.folder / "cluster"), *arguments]
        none = subprocess.DEVNULL
        subprocess.run(
            [*self.as_user, *command], check=True, cwd="/", stdin=none, stdout=none, stderr=none
        )


@contextmanager
def run_cluster() -> Iterator[Cluster]:
    """A cluster, started; pytest's Skipped where it cannot be had."""
    binaries = find_postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server binaries are missing (Debian: apt-get install postgresql)")
    as_user: list[str] = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it")
        as_user = ["runuser", "-u", "postgres", "--"]
    # Not below pytest's own folder: every pytest that starts closes that one to other users, and
    # the server would die of it.
    folder = Path(tempfile.mkdtemp(prefix="abatch-postgres-"))
    if as_user:
        shutil.chown(folder, user.pw_uid, user.pw_gid)
    cluster = Cluster(folder, binaries, as_user)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """It lives as long as the tests; databases are made in it per test."""
    with run_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_url(cluster: Cluster) -> str:
    """Of the superuser."""
    return cluster.url


class Server:
    """A PostgreSQL or SQL Server, by its superuser's URL, on which tests make databases."""

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        place = "the tests' server"
        self.engine = connections.make_engine(SecretStr(url), None, ROOT, place)

    def execute(self, *statements: str) -> None:
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def create(self, template: str | None = None) -> str:
        """URL of a new database, empty or a copy of another."""
        name = f"test_{os.urandom(6).hex()}"
        self.execute(f"create database {name}" + (f" template {template}" if template else ""))
        return self.url.set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        name = sa.make_url(url).database
        if self.engine.dialect.name == "postgresql":
            self.execute(f"drop database {name} with (force)")
        elif is_babelfish(self.engine):
            # a closed connection leaves the database a moment later
            retry = retry_if_exception_type(sa.exc.ProgrammingError)
            until = stop_after_delay(10)
            retrying = Retrying(retry=retry, stop=until, wait=wait_fixed(0.2), reraise=True)
            retrying(self.execute, f"drop database {name}")
        else:
            alone = f"alter database {name} set single_user with rollback immediate"
            self.execute(alone, f"drop database {name}")


@pytest.fixture(scope="session")
def postgresql(postgres_url: str) -> Iterator[Server]:
    server = Server(postgres_url)
    yield server
    server.engine.dispose()


@pytest.fixture(scope="session")
def mssql() -> Iterator[Server]:
    if not MSSQL_URL:
        pytest.skip("ABATCH_TEST_MSSQL_URL does not name a SQL Server")
    server = Server(MSSQL_URL)
    yield server
    server.engine.dispose()


STAGES = (None, "tables", "simulated", "trained")


class Templates:
    """Databases that are made once for all tests of a worker, and copied for each.

    There are three stages: `tables`, abatch's own, empty; `simulated`, a simulated bank with a past
    of 60 days besides; `trained`, quick models of the first night besides.
    """

    def __init__(self, servers: Callable[[str], Server], folder: Path) -> None:
        self.servers, self.folder = servers, folder
        self.urls: dict[tuple[str, str], str] = {}

    def copy(self, kind: str, stage: str | None, folder: Path) -> str:
        """URL of a database of a test's own.

        Parameters
        ----------
        kind : sqlite, postgresql or mssql
        stage : tables, simulated or trained; None for an empty database
        folder : for the SQLite file, bank.db, and for the models and snapshots of the stage
        """
        if kind == "mssql":  # which copies no database; a stage is built each time
            url = self.new(kind, None, folder)
            for step in STAGES[: STAGES.index(stage) + 1]:
                self._build(url, step, folder)
            return url
        if stage and (kind, stage) not in self.urls:
            home = self.folder / kind / stage
            home.mkdir(parents=True)
            self.urls[kind, stage] = self.copy(kind, STAGES[STAGES.index(stage) - 1], home)
            self._build(self.urls[kind, stage], stage, home)
        template = self.urls[kind, stage] if stage else None
        if stage == "trained":
            for name in ("models", "snapshots"):
                shutil.copytree(self.folder / kind / stage / name, folder / name, symlinks=True)
        return self.new(kind, template, folder)

    def find_server(self, kind: str) -> Server | None:
        """Where databases of a kind are; SQLite has none."""
        return None if kind == "sqlite" else self.servers(kind)

    def new(self, kind: str, template: str | None, folder: Path) -> str:
        """URL of a database, empty or a copy of one that nobody is connected to.

        Parameters
        ----------
        template : URL of the one that is copied
        folder : for the SQLite file, bank.db
        """
        if kind == "sqlite":
            if template:
                shutil.copy(sa.make_url(template).database or "", folder / "bank.db")
            return f"sqlite:///{folder / 'bank.db'}"
        server = self.find_server(kind)
        assert server
        return server.create(sa.make_url(template).database if template else None)

    def _build(self, url: str, stage: str | None, folder: Path) -> None:
        engine = open_engine(experiment := write_experiment(folder, url))
        if stage == "tables":
            migrations.upgrade(engine)
        elif stage == "simulated":
            simulate.simulate(engine, FIRST_NIGHT, history_days=60)
        elif stage == "trained":
            train.train(experiment, engine, FIRST_NIGHT)
        engine.dispose()


@pytest.fixture(scope="session")
def templates(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Templates:
    return Templates(request.getfixturevalue, tmp_path_factory.mktemp("templates"))


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("mssql", marks=pytest.mark.mssql)])
def database_url(
    request: pytest.FixtureRequest, templates: Templates, tmp_path: Path
) -> Iterator[str]:
    """URL of a database of each kind, empty unless the test takes `engine` too.

    With the mark `bank`, simulated or trained, it holds that bank.
    """
    marked = request.node.get_closest_marker("bank")
    stage = marked.args[0] if marked else "tables" if "engine" in request.fixturenames else None
    url = templates.copy(request.param, stage, tmp_path)
    server = templates.find_server(request.param)
    yield url
    if server:
        server.drop(url)


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., sa.Engine]]:
    """`connections.make_engine` of a URL.

    What it made is closed at the end, before the database is dropped.
    """
    if "database_url" in request.fixturenames:
        request.getfixturevalue("database_url")
    made: list[sa.Engine] = []

    def make_engine(url: str, schema: str | None = None, retry_seconds: float = 0) -> sa.Engine:
        place = "ml_config.yaml, environments.dev.database"
        made.append(connections.make_engine(SecretStr(url), schema, Path(), place, retry_seconds))
        return made[-1]

    yield make_engine
    for engine in made:
        engine.dispose()


@pytest.fixture(scope="module", autouse=True)
def _plain_cards(request: pytest.FixtureRequest) -> Iterator[None]:
    """Model cards without a plot, and importances of one shuffling, but where these are tested."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ not in ("tests.test_cards", "tests.test_inspection"):
            patch.setattr(inspection, "N_REPEATS", 1)
            patch.setattr(cards, "plot_reliability", lambda *_: "")
        yield


@pytest.fixture(autouse=True)
def _close_logs() -> Iterator[None]:
    """What a job's `main` opens in this process is closed at the end."""
    yield
    for name in ("abatch", "py.warnings", *faults.LOGGERS):
        logger = logging.getLogger(name)
        for handler in [*logger.handlers]:
            if isinstance(handler, logging.FileHandler):
                logger.removeHandler(handler)
                handler.close()
    logging.captureWarnings(False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261123)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'bank.db'}"


def write_config(
    folder: Path,
    url: str,
    schema: str | None = None,
    *,
    retention: dict[str, float] | None = None,
    **changes: object,
) -> Path:
    """The repository's own ml_config.yaml and queries in a folder of the test's own.

    The database and all other folders are the test's own too. `changes` are keys of the experiment
    card_offer. Unless they say otherwise every run trains, and what is not worse than the live
    model goes live.
    """
    raw = yaml.safe_load((ROOT / "ml_config.yaml").read_text(encoding="utf-8"))
    raw["environments"] = {
        "dev": {
            "database": url,
            "retention": retention or {},
            **({"schema": schema} if schema else {}),
        }
    }
    for rule in ("retrain", "min_rows", "calibration_slope"):
        raw["experiments"]["card_offer"]["training"].pop(rule)
    raw["experiments"]["card_offer"].update(changes)
    shutil.copytree(ROOT / "sql", folder / "sql", dirs_exist_ok=True)
    path = folder / "ml_config.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def use_chunks(file: Path, chunk_rows: int = 400) -> Experiment:
    """So many rows at a time: 400, so that a night of 1,000 candidates has three chunks."""
    raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    raw["chunk_rows"] = chunk_rows
    file.write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return load_experiments(file, "dev")["card_offer"]


def alter(experiment: Experiment, **changes: Any) -> Experiment:
    """The same experiment with other settings, some perhaps of its environment."""
    known = {field.name for field in dataclasses.fields(Environment)}
    of_environment = {
        name.removeprefix("environment_"): changes.pop(name)
        for name in [*changes]
        if name.removeprefix("environment_") in known
    }
    environment = dataclasses.replace(experiment.environment, **of_environment)
    return experiment.model_copy(update={**changes, "environment": environment})


def make_card(**changes: Any) -> Card:
    """The card of a model that nobody trained."""
    return Card.model_validate_json(json.dumps({**CARD, **changes}, default=str))


def write_experiment(folder: Path, url: str) -> Experiment:
    """The experiment card_offer with quick models, in a folder of its own.

    On a server abatch's tables are in the schema abatch.
    """
    schema = None if url.startswith("sqlite") else "abatch"
    file = write_config(folder, url, schema, models=QUICK_MODELS)
    return load_experiments(file, "dev")["card_offer"]


@pytest.fixture
def experiment(database_url: str, tmp_path: Path) -> Experiment:
    """The experiment card_offer with quick models on the database of `database_url`."""
    return write_experiment(tmp_path, database_url)


@pytest.fixture
def engine(experiment: Experiment) -> Iterator[sa.Engine]:
    """The database of `experiment`, with abatch's tables."""
    engine = open_engine(experiment)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def _week(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bank of a week on SQLite, and models of its first night; copied only."""
    folder = tmp_path_factory.mktemp("week")
    templates.copy("sqlite", "simulated", folder)
    models = {
        "A": QUICK_MODELS["A"],
        "B": {**QUICK_MODELS["A"], "name": "modelB", "params": {"C": 0.1}},
    }
    file = write_config(folder, "sqlite:///bank.db", models=models)
    engine = open_engine(experiment := load_experiments(file, "dev")["card_offer"])
    train.train(experiment, engine, FIRST_NIGHT)
    simulate.simulate(engine, LATER_NIGHT)
    engine.dispose()
    return folder


@pytest.fixture
def week(_week: Path, tmp_path: Path) -> Experiment:
    """An experiment whose two logistic models were trained a week ago."""
    shutil.copytree(_week, tmp_path / "week", symlinks=True)
    return load_experiments(tmp_path / "week" / "ml_config.yaml", "dev")["card_offer"]


@pytest.fixture
def week_engine(week: Experiment) -> Iterator[sa.Engine]:
    engine = open_engine(week)
    yield engine
    engine.dispose()


def with_training(experiment: Experiment, **changes: object) -> Experiment:
    """The same experiment with other settings of `training`."""
    return alter(experiment, training=experiment.training.model_copy(update=changes))


def find_live(engine: sa.Engine, on: date = LATER_NIGHT) -> dict[str, str]:
    """The model_name that is live on a night, by variant."""
    with engine.connect() as connection:
        return promotion.read_promotions(connection, "card_offer").live(on)


def call(
    capsys: pytest.CaptureFixture[str], experiment: Experiment, *arguments: str
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = abatch_main.main([*arguments, "--config", str(experiment.environment.file)])
    return code, *capsys.readouterr()


def end_others(engine: sa.Engine) -> None:
    """End other sessions of a PostgreSQL database, as of a process that was killed.

    The server sees the broken connection soon, not at once.
    """
    others = (
        "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and"
        " backend_type = 'client backend'"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(f"select pg_terminate_backend(pid, 30000) {others}")


def is_babelfish(engine: sa.Engine) -> bool:
    """Whether the TDS server is Babelfish for PostgreSQL.

    It differs from SQL Server here and there.
    """
    if engine.dialect.name != "mssql":
        return False
    with engine.connect() as connection:
        return "Babelfish" in connection.exec_driver_sql("select @@version").scalar_one()


def read_predictions(
    connection: sa.Connection, experiment: str, after: date, last: date
) -> pd.DataFrame:
    """All chunks of `stream_predictions` at once."""
    columns = predictions.PREDICTED
    span = predictions.Span(experiment, after, last)
    chunks = predictions.stream_predictions(connection, span, 1000)
    frames = [*chunks] or [pd.DataFrame(columns=[*columns]).astype(columns)]
    return pd.concat(frames, ignore_index=True)


def make_night(
    run_id: str = "run1",
    run_date: date = FIRST_NIGHT,
    experiment: str | Experiment = "card_offer",
    at: datetime | None = None,
) -> Any:
    """What stands in for a Night where only its facts are asked for."""
    named = SimpleNamespace(name=experiment) if isinstance(experiment, str) else experiment
    key = {"experiment": named.name, "run_date": run_date}
    return SimpleNamespace(
        run_id=run_id, run_date=run_date, experiment=named, started_at=at, key=key
    )


def add_runs(engine: sa.Engine, *rows: Mapping[str, Any]) -> None:
    """Write runs into the ledger, under the numbers that come next."""
    common = {"code_version": "0.1.0", "config_hash": "0", "host": "bi01 (process 7)"}
    with engine.begin() as connection:
        last = connection.scalar(sa.select(sa.func.max(tables.runs.c.run_number))) or 0
        for number, row in enumerate(rows, start=last + 1):
            values = {**common, "started_at": datetime(2026, 9, 1), **row, "run_number": number}
            connection.execute(tables.runs.insert().values(values))


def add_predictions(engine: sa.Engine, *rows: Mapping[str, Any]) -> None:
    """Write predictions, and what the views find them by: shares, and runs that are not there.

    Parameters
    ----------
    rows : as `predictions` or, with superseded_by, `predictions_superseded` shows them; without
        model_name and prediction nobody's model made them
    """
    by_run = {row["run_id"]: row for row in rows}
    query = sa.select(tables.runs.c.run_id, tables.runs.c.run_number)
    with engine.connect() as connection:
        there = dict(map(tuple, connection.execute(query)))
    ledger = [
        {
            "run_id": run_id,
            "job": "predict",
            "experiment": row["experiment"],
            "run_date": row["run_date"],
            "finished_at": row["predicted_at"],
            "status": "superseded" if "superseded_by" in row else "done",
            "superseded_by": row.get("superseded_by"),
        }
        for run_id, row in by_run.items()
        if run_id not in there
    ]
    add_runs(engine, *ledger)
    with engine.begin() as connection:
        numbers = dict(map(tuple, connection.execute(query)))
        full = [
            {"model_name": None, "prediction": None, "bucket": 0, **row}
            | {"run_number": numbers[row["run_id"]]}
            for row in rows
        ]
        by_variant = {(row["run_id"], row["variant"]): row for row in full}
        for table, of_table in (
            (tables.prediction_shares, [*by_variant.values()]),
            (tables.prediction_rows, full),
        ):
            names = table.c.keys()
            values = [{name: row[name] for name in names} for row in of_table]
            connection.execute(table.insert(), values)


def as_stored(engine: sa.Engine, moment: datetime) -> datetime:
    """The instant as the database keeps it.

    To Babelfish pyodbc sends whole seconds, for want of a told precision.
    """
    return moment.replace(microsecond=0) if is_babelfish(engine) else moment


def open_engine(experiment: Experiment) -> sa.Engine:
    return connections.make_engine(
        SecretStr(experiment.environment.database.get_secret_value()),
        experiment.environment.schema,
        experiment.environment.file.parent,
        "ml_config.yaml",
    )


REGISTERED: dict[str, Any] = {  # the content of a registration
    "hypothesis": "Calling the ranked brings one more answer per hundred.",
    "outcome": {"kind": "binary", "window_days": 14, "lag_days": 1, "expected_effect": 0.01},
    "direction": "increase",
    "baseline": None,
    "baseline_sd": None,
    "cap": None,
    "exposure": "first",
    "comparisons": [
        {"comparison": "models vs control", "treatment": ["A", "B"], "control": ["control"]},
        {"comparison": "B vs A", "treatment": ["B"], "control": ["A"]},
    ],
    "alpha": 0.05,
    "power": 0.8,
    "burn_in": {"units": 100, "cases": 10, "nonzero": 100, "kurtoses": 10},
    "sample_ratio": {
        "weight": 1000,
        "night_weight": 100,
        "exposures_effect": 0.1,
        "alpha": 0.01,
    },
    "guardrails": {},
    "salt": "card_offer",
    "variants": [
        {"variant": "A", "share": 0.45, "hash_up_to": "7333333333333332", "has_model": True},
        {"variant": "B", "share": 0.45, "hash_up_to": "e666666666666665", "has_model": True},
        {"variant": "control", "share": 0.1, "hash_up_to": "f" * 16, "has_model": False},
    ],
    "select_top": 0.2,
    "outcomes_query": "select 1",
    "watermark_query": "select 1",
    "timezone": "UTC",
    "assignment": "hash",
    "start_date": "2026-09-01",
    "plan": {
        "mean": 0.05,
        "sd": 0.21795,
        "rate": 0.05,
        "kurtosis": None,
        "source": "training rows",
        "n_candidates": 300,
        "samples": {
            "models vs control": {"n_fixed": 8000, "n_most": 15_600, "n_median": 9520},
            "B vs A": {"n_fixed": 6000, "n_most": 11_700, "n_median": 7140},
        },
        "days_most": 52,
        "days_median": 32,
    },
}


def make_registration(**changes: Any) -> Registration:
    """What card_offer registered, with other content."""
    return Registration.model_validate({**REGISTERED, **changes})


@pytest.fixture
def bank(sqlite_url: str, tmp_path: Path) -> Experiment:
    """Two experiments, card_offer and second, on one SQLite file."""
    path = write_config(tmp_path, sqlite_url)
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    second = yaml.safe_load(path.read_text(encoding="utf-8"))["experiments"]["card_offer"]
    for model in second["models"].values():
        model["name"] += "_second"
    raw["experiments"]["second"] = second
    path.write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return load_experiments(path, "dev")["card_offer"]


@pytest.fixture
def bank_engine(bank: Experiment) -> Iterator[sa.Engine]:
    """The tables of `bank`."""
    engine = open_engine(bank)
    migrations.upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def _ordered_bank(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank on SQLite whose first variant has the estimator `Ordered`; copied only."""
    folder = tmp_path_factory.mktemp("ordered")
    templates.copy("sqlite", "simulated", folder)
    models = {**QUICK_MODELS, "A": {**QUICK_MODELS["A"], "estimator": "tests.ordered.Ordered"}}
    file = write_config(folder, "sqlite:///bank.db", models=models)
    engine = open_engine(experiment := load_experiments(file, "dev")["card_offer"])
    train.train(experiment, engine, FIRST_NIGHT)
    engine.dispose()
    return folder


@pytest.fixture
def bank_folder(_ordered_bank: Path, tmp_path: Path) -> Path:
    return shutil.copytree(_ordered_bank, tmp_path / "bank", symlinks=True)


@pytest.fixture
def start(bank_folder: Path) -> Iterator[Start]:
    """Start predict.py as cron does, with an order and keys of the environment; killed at last."""
    started: list[subprocess.Popen[str]] = []
    file = bank_folder / "ml_config.yaml"

    def start(order: str = "", **environment: object) -> subprocess.Popen[str]:
        raw = yaml.safe_load(file.read_text("utf-8"))
        raw["environments"]["dev"].update(environment)
        raw["chunk_rows"] = N_ORDERED
        file.write_text(yaml.safe_dump(raw, sort_keys=False), "utf-8")
        (bank_folder / "order").write_text(order, "utf-8")
        options = ["--config", str(file), "--date", str(FIRST_NIGHT), "--force"]
        started.append(
            subprocess.Popen(
                [sys.executable, ROOT / "predict.py", *options],
                env={**os.environ, "PYTHONPATH": str(ROOT), "ORDER": str(bank_folder / "order")},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
