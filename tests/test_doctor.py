"""python -m abatch doctor: what stands between this machine and its database."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from abatch.config import Experiment, load_experiments
from abatch.database import diagnosis, faults
from abatch.errors import DatabaseError
from tests.conftest import ROOT, call, open_engine, write_config


@pytest.mark.server
def test_doctor_of_a_database_with_tables(
    experiment: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, experiment, "doctor")
    assert (code, err) == (0, "")
    told = " ".join(out.split())
    assert f"database{faults.show_url(engine)}server" in told.replace(" ", "").replace(
        "ODBCODBCDriver18forSQLServer", ""
    )
    assert re.search(r"drivers SQLAlchemy 2\.\d+\.\d+, pyodbc .*, adbc-driver-sqlite \d", told)
    assert "isolation readers wait for nobody" in told
    assert told.endswith("tables are those of this abatch")
    if engine.dialect.name == "sqlite":
        assert f"server SQLite {sqlite3.sqlite_version}" in told
        return
    assert "rights select, insert, update, delete: acknowledgements, cohort_sums, " in told
    (seconds,) = re.findall(r"clock this machine's is ([-+]\d+) s from the server's", told)
    assert abs(int(seconds)) <= 2


@pytest.mark.server
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_doctor_tells_the_rights_of_a_login(
    experiment: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    role = f"doctor_{os.urandom(4).hex()}"
    with engine.begin() as connection:
        for statement in (
            f"create role {role} login password 'hunter2'",
            f"grant usage on schema abatch to {role}",
            f"grant select on all tables in schema abatch to {role}",
            f"grant insert on abatch.runs, abatch.models to {role}",
        ):
            connection.exec_driver_sql(statement)
    url = engine.url.set(username=role, password="hunter2")
    folder = tmp_path / "other"
    write_config(folder, url.render_as_string(hide_password=False), "abatch")
    experiment = load_experiments(folder / "ml_config.yaml", "dev")["card_offer"]
    code, out, _ = call(capsys, experiment, "doctor")
    told = " ".join(out.split())
    with engine.begin() as connection:
        connection.exec_driver_sql(f"drop owned by {role}; drop role {role}")
    assert code == 0
    assert "rights select, insert: models, runs " in told
    assert "rights select: acknowledgements, " in told
    assert "hunter2" not in told


def test_doctor_of_a_database_without_tables(
    bank: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a file that is not there is not made."""
    code, out, err = call(capsys, bank, "doctor")
    assert (code, err) == (1, "")
    told = " ".join(out.split())
    assert "drivers SQLAlchemy " in told
    assert "fault sqlite:///" in told
    assert "there is no such file. Run: python -m abatch init --env dev" in told
    assert not Path(str(open_engine(bank).url.database)).exists()


def test_register_driver_makes_it_known_to_the_user(tmp_path: Path) -> None:
    """As unixODBC says, in a process of its own, for it reads the file once."""
    pytest.importorskip("pyodbc", exc_type=ImportError)
    pytest.importorskip("mssql_python_odbc")
    registry = tmp_path / ".odbcinst.ini"
    registry.write_text("[Other]\nDriver=/opt/other.so", encoding="utf-8")
    assert diagnosis.register_driver(tmp_path) == registry
    with pytest.raises(DatabaseError, match=r"has a section .* already\. Let its Driver"):
        diagnosis.register_driver(tmp_path)
    ask = "from abatch.database import diagnosis; print(*diagnosis.list_odbc_drivers(), sep='\\n')"
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("ODBCSYSINI", None)
    known = subprocess.run(
        [sys.executable, "-c", ask], cwd=ROOT, env=environment, text=True, capture_output=True
    )
    assert {"Other", faults.ODBC_DRIVER} <= set(known.stdout.splitlines()), known.stderr
    path = Path(registry.read_text("utf-8").rpartition("Driver=")[2].strip())
    assert path.name.startswith("libmsodbcsql")
    assert path.exists()
