"""The migrations make the tables of abatch/database/tables.py, whole or not at all.

So do the scripts that a DBA runs.
"""

import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr

from abatch.config import Experiment
from abatch.database import connections, faults, locks, migrations, tables
from abatch.database.migrations import views
from abatch.database.migrations.script import write_script
from abatch.errors import ConfigError, DatabaseError
from tests import dictionary, revision
from tests.conftest import ROOT, open_engine

pytestmark = pytest.mark.server

URLS = {
    "sqlite": "sqlite:///data/dev.db",
    "postgresql": "postgresql+psycopg://h/d",
    "mssql": "mssql+pyodbc://",
}
# Runs init, and kills itself with SIGKILL instead of executing a statement that holds some words.
KILLED_INIT = """
import os, signal, sys
import sqlalchemy as sa
from pydantic import SecretStr
from abatch import __main__
file, words = sys.argv[1:]

@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def stop(connection, cursor, statement, *rest):
    if words in statement:
        os.kill(os.getpid(), signal.SIGKILL)

sys.exit(__main__.main(["init", "--config", file]))
"""


def read_schema(engine: sa.Engine) -> sa.MetaData:
    """What abatch/database/tables.py and the dictionary say, in the schema of the engine."""
    schema: Any = (engine.get_execution_options().get("schema_translate_map") or {}).get(None)
    metadata = sa.MetaData(schema=schema)
    for table in tables.metadata.tables.values():
        table.to_metadata(metadata, schema=schema)
    dictionary.add_comments(metadata)
    return metadata


def compare(engine: sa.Engine) -> list[Any]:
    """What alembic would change to get from the database to abatch/database/tables.py."""
    metadata = read_schema(engine)
    has_own_names = False
    if engine.dialect.name == "mssql":
        with engine.connect() as connection:
            has_own_names = "Babelfish" in str(
                connection.scalar(sa.text("select @@version"))
            )  # of indexes

    def is_ours(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "schema" or name == metadata.schema

    def is_compared(_item: object, _name: str | None, kind: str, *_rest: object) -> bool:
        return kind != "index" or not has_own_names

    def is_other_type(
        _context: object, _found: object, _column: object, found: object, expected: object
    ) -> bool | None:
        """SQL Server tells of a double precision as float(53); the rest is left to alembic."""
        return (
            False
            if isinstance(found, sa.Float) and isinstance(expected, tables.FiniteDouble)
            else None
        )

    options = {
        "compare_type": is_other_type,
        "compare_server_default": True,
        "include_schemas": True,
        "include_name": is_ours,
        "include_object": is_compared,
        "version_table": tables.VERSION_TABLE,
        "version_table_schema": metadata.schema,
    }
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


def test_upgrade_makes_the_tables(experiment: Experiment, engine: sa.Engine) -> None:
    assert compare(engine) == []
    expected = {*tables.metadata.tables, tables.VERSION_TABLE}
    assert set(sa.inspect(engine).get_table_names(schema=experiment.environment.schema)) == expected
    if experiment.environment.schema:
        assert sa.inspect(engine).get_table_names() == []


def test_compare_can_fail(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        tables.feature_drift.drop(connection)
    assert [change[0] for change in compare(engine)] == ["add_table"]


def test_revision_is_that_of_the_newest_script() -> None:
    assert (
        ScriptDirectory.from_config(migrations.make_config()).get_current_head() == tables.REVISION
    )


def test_revision_is_written_from_the_tables() -> None:
    """And its name changes with them, so that `check_ready` tells another commit's database."""
    name, content = revision.write()
    assert (name, content) == (tables.REVISION, revision.FILE.read_text(encoding="utf-8")), (
        "python -m tests.revision"
    )


def test_revision_is_named_after_what_it_makes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    metadata = sa.MetaData()
    for table in tables.metadata.sorted_tables:
        table.to_metadata(metadata)
    metadata.tables["runs"].append_column(sa.Column("extra", sa.Integer))
    with monkeypatch.context() as patch:
        patch.setattr(tables, "metadata", metadata)
        assert re.fullmatch(r"0001_[0-9a-f]{8}", revision.write()[0])
        assert revision.write()[0] != tables.REVISION
    for path in views.FOLDER.glob("*.sql"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8").replace("'done'", "'x'"))
    monkeypatch.setattr(views, "FOLDER", tmp_path)
    assert revision.write()[0] != tables.REVISION


def test_revision_is_not_named_after_what_is_said_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A meaning in the dictionary, or a comment in a view's file, may be edited at any time."""
    described = dictionary.TABLES.tables["runs"]
    monkeypatch.setattr(described, "comment", "edited")
    monkeypatch.setattr(described.c.run_id, "comment", "edited")
    for path in views.FOLDER.glob("*.sql"):
        edited = f"-- edited\n{path.read_text(encoding='utf-8')}"
        (tmp_path / path.name).write_text(edited, encoding="utf-8")
    monkeypatch.setattr(views, "FOLDER", tmp_path)
    assert revision.write()[0] == tables.REVISION


def test_upgrade_twice_keeps_the_rows(engine: sa.Engine) -> None:
    fill(engine)
    before = read_all(engine)
    assert {len(rows) for name, rows in before.items() if name != "owner"} == {4}
    assert len(before["owner"]) == 5  # the tables' own besides
    migrations.upgrade(engine)
    assert read_all(engine) == before
    assert compare(engine) == []


def test_upgrade_that_fails_leaves_nothing(experiment: Experiment) -> None:
    engine = open_engine(experiment)
    if not experiment.environment.schema:
        Path(str(engine.url.database)).touch()
    with engine.begin() as connection:
        if experiment.environment.schema:
            connection.execute(sa.schema.CreateSchema(experiment.environment.schema))
        tables.variant_scores.create(connection)  # the last that the migration makes
    with pytest.raises(
        DatabaseError, match=r": the database refused: .*variant_scores.* already exists\.$"
    ) as caught:
        migrations.upgrade(engine)
    assert "s3cret" not in str(caught.value)
    assert sa.inspect(engine).get_table_names(schema=experiment.environment.schema) == [
        "variant_scores"
    ]
    with engine.begin() as connection:
        tables.variant_scores.drop(connection)
    migrations.upgrade(engine)
    assert compare(engine) == []
    engine.dispose()


def test_upgrade_makes_one_random_owner(experiment: Experiment, engine: sa.Engine) -> None:
    """Others have others; init again, or a move of the tables, keeps it."""
    (row,) = read_all(engine)["owner"]
    assert re.fullmatch("[0-9a-f]{32}", row[0])
    migrations.upgrade(engine)
    assert read_all(engine)["owner"] == [row]
    if schema := experiment.environment.schema:
        other = engine.execution_options(schema_translate_map={None: f"{schema}_test"})
        migrations.upgrade(other)
        (another,) = read_all(other)["owner"]
        assert another != row


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_upgrade_two_schemas_side_by_side(engine: sa.Engine) -> None:
    other = engine.execution_options(schema_translate_map={None: "abatch_test"})
    migrations.upgrade(other)
    connections.check_ready(other, "test")
    assert compare(other) == compare(engine) == []


def test_upgrade_makes_no_folder(tmp_path: Path) -> None:
    """Whose name may be mistyped, and then the bank's file lies elsewhere."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/dtaa/bank.db")
    with pytest.raises(DatabaseError, match=r"bank\.db: there is no folder \S+/dtaa\. Make it, or"):
        migrations.upgrade(engine)
    assert not list(tmp_path.iterdir())


def test_upgrade_locked_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "SQLITE_WAIT_SECONDS", 0.05)
    path = tmp_path / "bank.db"
    holder = sa.create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    engine = connections.make_engine(SecretStr(f"sqlite:///{path}"), None, tmp_path, "here")
    with holder.connect() as connection:
        connection.exec_driver_sql("begin exclusive")
        with pytest.raises(DatabaseError, match=r"bank\.db: the file is locked by another process"):
            migrations.upgrade(engine)
    holder.dispose()
    engine.dispose()


def make_value(column: sa.Column[Any], i: int) -> Any:
    """Some value of the column's type; where it may be null, every other one is."""
    if column.nullable and i % 2:
        return None
    if isinstance(column.type, sa.String):
        return (
            f"{column.name} {i} Ærø 日本"
            if isinstance(column.type, sa.Unicode | sa.UnicodeText)
            else f"{column.name}{i}"[-10:]
        )
    if isinstance(column.type, sa.LargeBinary):
        return bytes(range(i, 256))
    if isinstance(column.type, sa.Date):
        return date(2026, 1, 1) + i * timedelta(days=1)
    if isinstance(column.type, sa.DateTime):
        return datetime(2026, 1, 1, 23, 59, 59, 999990 + i)
    return i + 0.1 if isinstance(column.type, tables.FiniteDouble) else i


def fill(engine: sa.Engine) -> None:
    for table in tables.metadata.sorted_tables:
        with engine.begin() as connection:
            rows = [{c.name: make_value(c, i) for c in table.columns} for i in range(4)]
            connection.execute(table.insert(), rows)


def read_all(engine: sa.Engine) -> dict[str, list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        rows = {
            table.name: [tuple(row) for row in connection.execute(sa.select(table))]
            for table in tables.metadata.sorted_tables
        }
    return {name: sorted(of_table, key=str) for name, of_table in rows.items()}


def set_revision(engine: sa.Engine, name: str) -> None:
    schema = connections.find_schema(engine)
    version = sa.table(tables.VERSION_TABLE, sa.column("version_num"), schema=schema)
    with engine.begin() as connection:
        connection.execute(version.update().values(version_num=name))


@pytest.mark.parametrize("name", ["0001", "0004", "0001_00000000", "0002"])
def test_another_commits_tables_are_refused(
    experiment: Experiment, engine: sa.Engine, name: str
) -> None:
    fill(engine)
    before = read_all(engine)
    set_revision(engine, name)
    where = "a new file" if engine.dialect.name == "sqlite" else "an empty schema"
    message = (
        rf"^\S+: the tables are at revision {name}, expected {tables.REVISION}: another commit of"
        r" abatch made them, before its first release, and they cannot be upgraded\. Name"
        rf" {where} in the config\. "
    )
    with pytest.raises(DatabaseError, match=rf"{message}Run: python -m abatch init --env dev$"):
        connections.check_ready(engine, "dev")
    with pytest.raises(DatabaseError, match=rf"{message}Then run init again\.$"):
        migrations.upgrade(engine)
    assert read_all(engine) == before
    set_revision(engine, tables.REVISION)
    connections.check_ready(engine, "dev")


@pytest.mark.parametrize(
    "words", ["variant_scores (", "view abatch.run_history", "INSERT INTO abatch.abatch_version"]
)
@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_init_killed_and_run_again(experiment: Experiment, words: str) -> None:
    engine = open_engine(experiment)
    if not experiment.environment.schema:
        words = words.replace("abatch.", "")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_INIT, str(experiment.environment.file), words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (killed.returncode, killed.stdout, killed.stderr) == (-signal.SIGKILL, "", "")
    if experiment.environment.schema:  # the server sees the broken connection soon, not at once
        others = (
            "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            " and backend_type = 'client backend'"
        )
        with engine.connect() as connection:
            connection.execute(sa.text(f"select pg_terminate_backend(pid, 30000) {others}"))
    found = sa.inspect(engine)
    assert found.get_view_names(schema=experiment.environment.schema) == []
    assert found.get_table_names(schema=experiment.environment.schema) == []
    migrations.upgrade(engine)
    assert compare(engine) == []
    engine.dispose()


def test_upgrade_two_at_once(experiment: Experiment) -> None:
    engine, other = open_engine(experiment), open_engine(experiment)
    with locks.lock(other, "init") as acquired:
        assert acquired
        with pytest.raises(
            DatabaseError,
            match=(
                r"another process is creating or upgrading the tables\. Run init again when it has"
                r" ended\.$"
            ),
        ):
            migrations.upgrade(engine)
        assert sa.inspect(engine).get_table_names(schema=experiment.environment.schema) == []
    migrations.upgrade(engine)
    assert compare(engine) == []
    engine.dispose()
    other.dispose()


def test_init_two_processes_at_once(experiment: Experiment) -> None:
    start = [sys.executable, "-m", "abatch", "init", "--config", str(experiment.environment.file)]
    both = [
        subprocess.Popen(start, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [(*process.communicate(), process.returncode) for process in both]
    assert 0 in [code for _, _, code in ended]
    assert all(
        code == 0 or (code == 1 and "another process is creating" in err) for _, err, code in ended
    ), ended
    engine = open_engine(experiment)
    assert compare(engine) == []
    engine.dispose()


def split_batches(script: str) -> list[str]:
    """As sqlcmd does."""
    return [
        batch.strip() for batch in re.split(r"^GO$", script, flags=re.MULTILINE) if batch.strip()
    ]


def run_script(engine: sa.Engine, script: str) -> list[str]:
    """Run a script as its client would, which goes on after an error; returns the errors."""
    pieces = split_batches(script) if engine.dialect.name == "mssql" else [script]
    errors = []
    with closing(engine.raw_connection()) as connection:
        raw: Any = connection.driver_connection
        if engine.dialect.name == "sqlite":
            raw.executescript(script)
            return []
        raw.rollback()
        raw.autocommit = True
        for piece in pieces:
            try:
                raw.execute(piece)
            except engine.dialect.loaded_dbapi.Error as error:
                errors.append(str(error))
                if engine.dialect.name == "postgresql":
                    raw.execute("rollback")
        connection.detach()
    return errors


def write(experiment: Experiment) -> str:
    environment = experiment.environment
    return write_script(environment.database.get_secret_value(), environment.schema, "here")


def test_script_makes_what_upgrade_makes(experiment: Experiment) -> None:
    engine = open_engine(experiment)
    assert run_script(engine, write(experiment)) == []
    connections.check_ready(engine, "dev")
    assert compare(engine) == []
    assert sorted(
        sa.inspect(engine).get_view_names(schema=experiment.environment.schema)
    ) == sorted(tables.VIEWS)
    migrations.upgrade(engine)  # has nothing to do
    engine.dispose()


@pytest.mark.parametrize(
    "database_url", ["postgresql", pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
def test_script_stops_at_its_first_statement(experiment: Experiment, engine: sa.Engine) -> None:
    """On SQL Server a second run ends well, as `sqlcmd -b` ends at the first error with 1."""
    fill(engine)
    before = read_all(engine)
    said = run_script(engine, script := write(experiment))
    done = "abatch: revision {} is installed already; nothing to do."
    if engine.dialect.name == "mssql":
        assert said == []
        assert f"print N'{done.format(tables.REVISION)}';" in script
    else:
        assert done.format(tables.REVISION) in said[0]
    assert read_all(engine) == before
    set_revision(engine, "0004")
    (error,) = run_script(engine, write(experiment))
    assert (
        "abatch: found revision 0004, expected none: another commit of abatch made it, before its"
        " first release, and it cannot be upgraded. Name an empty schema in the config and print"
        " this script again." in error
    )
    set_revision(engine, tables.REVISION)
    assert read_all(engine) == before
    assert compare(engine) == []


@pytest.mark.parametrize(
    "database_url", ["postgresql", pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
def test_script_that_fails_leaves_nothing(experiment: Experiment) -> None:
    engine = open_engine(experiment)
    script = write(experiment).replace(
        "CREATE TABLE abatch.scores",
        "create table abatch.models (n integer);\nCREATE TABLE abatch.scores",
    )
    assert len(run_script(engine, script)) == 1
    assert not sa.inspect(engine).has_schema("abatch")
    assert run_script(engine, write(experiment)) == []
    engine.dispose()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_script_again_on_sqlite(experiment: Experiment) -> None:
    engine = open_engine(experiment)
    run_script(engine, write(experiment))
    with pytest.raises(sqlite3.OperationalError, match="table abatch_version already exists"):
        run_script(engine, write(experiment))
    assert compare(engine) == []
    engine.dispose()


def test_script_for_sql_server() -> None:
    script = write_script(URLS["mssql"], "abatch", "here")
    assert script.isascii()
    assert script.endswith("\nGO\n")
    options, first, *batches = split_batches(script)
    expected = [
        "ansi_nulls",
        "ansi_padding",
        "ansi_warnings",
        "arithabort",
        "concat_null_yields_null",
        "quoted_identifier",
        "xact_abort",
        "nocount",
    ]
    assert all(f"set {option} on;" in options.splitlines() for option in expected)
    assert "set numeric_roundabort off;" in options
    assert (
        first.index("installed already; nothing to do.';\n    return;")
        < first.index("raiserror")
        < first.rindex("return;")
        < first.index("begin transaction;")
        < first.index("create schema")
    )
    assert {batch.splitlines()[0] for batch in batches} == {"if @@trancount = 0 return;"}
    assert batches[-1].endswith(
        f"commit transaction;\nprint N'abatch: revision {tables.REVISION} is installed.';"
    )
    assert not re.search(r"\b(NTEXT|TEXT|DATETIME|TIMESTAMP)\b", script)
    assert (
        len(re.findall(r"^CREATE TABLE abatch\.", script, re.MULTILINE))
        == len(tables.metadata.tables) + 1
    )
    assert len(re.findall(r"^exec\(N'create view abatch\.", script, re.MULTILINE)) == len(
        tables.VIEWS
    )
    elsewhere = write_script(URLS["mssql"], "Loan", "here")
    assert "CREATE TABLE [Loan].runs" in elsewhere
    assert "abatch." not in elsewhere


@pytest.mark.parametrize("kind", URLS)
def test_script_quotes_a_reserved_word(kind: str) -> None:
    script = write_script(URLS[kind], "Order", "here")
    quoted = "[Order]." if kind == "mssql" else '"Order".'
    assert f"CREATE TABLE {quoted}runs (" in script
    assert f"from {quoted}predictions as p" in script


@pytest.mark.parametrize(
    ("url", "schema", "message"),
    [
        (
            "mssql+pyodbc://",
            None,
            "here.schema: this key is missing, and a script for SQL Server must name it.",
        ),
        (
            "mysql://u:hunter2@h/d",
            "abatch",
            "here.database: the value is not a database URL of SQL Server,",
        ),
        (
            "hunter2",
            "abatch",
            "here.database: the value is not a database URL of SQL Server,",
        ),
    ],
)
def test_script_refuses(url: str, schema: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        write_script(url, schema, "here")
    assert "hunter2" not in str(caught.value)
