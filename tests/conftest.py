"""Databases and configurations for the tests: SQLite, a PostgreSQL that the tests start themselves,
and a SQL Server if one is named.
"""

import dataclasses
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

# OpenMP reads it as scikit-learn is imported: two tests at a time on two cores want one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import sqlalchemy as sa
import yaml
from pydantic import SecretStr

from abatch.config import Environment, Experiment, load_experiments
from abatch.database import connections, migrations
from abatch.experiment.registrations import Registration

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
FIRST_NIGHT = date(2026, 9, 1)
QUICK_MODELS = {  # which are fitted at once
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
MSSQL_URL = os.environ.get("ABATCH_TEST_MSSQL_URL")
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def find_postgres_binaries() -> Path | None:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of the superuser of a PostgreSQL cluster that lives as long as the tests.

    Databases are made in it per test.
    """
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
    password_file = folder / "password"
    password_file.write_text("s3cret")
    password_file.chmod(0o644)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run(
            [*as_user, *command], check=True, capture_output=True, cwd="/", stdin=subprocess.DEVNULL
        )

    cluster, log = folder / "cluster", folder / "log"
    run(
        str(binaries / "initdb"),
        "-D",
        str(cluster),
        "-U",
        "boss",
        "-A",
        "scram-sha-256",
        f"--pwfile={password_file}",
        "-E",
        "UTF8",
        "-N",
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    subprocess.run(
        [
            *as_user,
            str(binaries / "pg_ctl"),
            "-D",
            str(cluster),
            "-l",
            str(log),
            "-w",
            "-o",
            options,
            "start",
        ],
        check=True,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield f"postgresql+psycopg://boss:s3cret@127.0.0.1:{port}/postgres"
    run(str(binaries / "pg_ctl"), "-D", str(cluster), "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("mssql", marks=pytest.mark.mssql)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'bank.db'}"
        return
    name, drop = f"test_{os.urandom(6).hex()}", "drop database {}"
    if request.param == "postgresql":
        boss, drop = (
            sa.make_url(request.getfixturevalue("postgres_url")),
            "drop database {} with (force)",
        )
    elif MSSQL_URL:
        boss = sa.make_url(MSSQL_URL)
    else:
        pytest.skip("ABATCH_TEST_MSSQL_URL does not name a SQL Server")
    server = connections.make_engine(
        SecretStr(boss.render_as_string(hide_password=False)), None, ROOT, "the tests' server"
    )
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"create database {name}")
    yield boss.set(database=name).render_as_string(hide_password=False)
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if request.param == "mssql" and not is_babelfish(server):
            connection.exec_driver_sql(
                f"alter database {name} set single_user with rollback immediate"
            )
        connection.exec_driver_sql(drop.format(name))
    server.dispose()


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
    """The repository's own ml_config.yaml and queries in a folder, with a database and folders of
    the test's own.

    `changes` are keys of the experiment card_offer. Unless they say otherwise every run trains, and
    what is not worse than the live model goes live.
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


@pytest.fixture
def experiment(database_url: str, tmp_path: Path) -> Experiment:
    """The experiment card_offer on an empty database.

    On a server abatch's tables are in the schema abatch.
    """
    schema = None if database_url.startswith("sqlite") else "abatch"
    return load_experiments(write_config(tmp_path, database_url, schema), "dev")["card_offer"]


@pytest.fixture
def engine(experiment: Experiment) -> Iterator[sa.Engine]:
    """abatch's tables, empty, in the database of `config`."""
    engine = open_engine(experiment)
    migrations.upgrade(engine)
    yield engine
    engine.dispose()


def is_babelfish(engine: sa.Engine) -> bool:
    """Whether the TDS server is Babelfish for PostgreSQL, which differs from SQL Server here and
    there.
    """
    if engine.dialect.name != "mssql":
        return False
    with engine.connect() as connection:
        return "Babelfish" in connection.exec_driver_sql("select @@version").scalar_one()


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
    "burn_in": {"units": 100, "cases": 10, "nonzero": 100},
    "sample_ratio": {"weight": 1000, "alpha": 0.01},
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
