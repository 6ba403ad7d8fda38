"""The door to SQL.

Engines, transactions that are tried again, what a database's errors become, and the lock.
"""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from abatch.config import Experiment, load_experiments
from abatch.database import connections, faults, isolation, locks, reading, tables
from abatch.errors import ConfigError, DatabaseError
from abatch.queries import Query, Window
from tests.conftest import MSSQL_URL, ROOT, is_babelfish, open_engine

pytestmark = pytest.mark.server

Make = Callable[..., sa.Engine]
HOLD_LOCK = """
import sys
from pathlib import Path
from pydantic import SecretStr
from abatch.database import connections, locks
engine = connections.make_engine(SecretStr(sys.argv[1]), None, Path(), "here")
with locks.lock(engine, "predict-card_offer") as acquired:
    print(acquired is not None, flush=True)
    sys.stdin.readline()
"""


def test_make_engine_refuses(make: Make, tmp_path: Path) -> None:
    for url, words in {
        "hunter2 is no url": "the value is not a database URL",
        "postgresql+psycopg://u:hunter2@h:port/db": "the value is not a database URL",
        "postgresql+psycopg://u:top@hunter2@h/db": "more than one @",
        "oracel://u:hunter2@h/db": "Expected mssql+pyodbc, postgresql+psycopg or sqlite",
        "oracle+oracledb://u:hunter2@h/db": "abatch does not work with 'oracle+oracledb'. Expected",
        "mssql+mssqlpython://u:hunter2@h/db": (
            "abatch does not work with 'mssql+mssqlpython'. Expected mssql+pyodbc, "
        ),
        "sqllite:///x.db": "Did you mean 'sqlite'?",
        "postgresql+pg8000://u:hunter2@h/db": "abatch does not work with 'postgresql+pg8000'",
        "sqlite+aiosqlite:///x.db": "abatch does not work with 'sqlite+aiosqlite'",
        "sqlite://": "needs a file",
        "sqlite:///:memory:": "needs a file",
    }.items():
        with pytest.raises(ConfigError) as caught:
            make(url)
        message = str(caught.value)
        assert message.startswith("ml_config.yaml, environments.dev.database: ")
        assert words in message
        assert "hunter2" not in message
        assert "\n" not in message


@pytest.mark.parametrize("option", [{"bulk": True}, {"isolation": "snapshot"}])
def test_make_engine_refuses_what_is_of_sql_server(option: dict[str, Any], tmp_path: Path) -> None:
    (key,) = option
    with pytest.raises(ConfigError, match=rf"^here: {key} is of SQL Server, .* Leave out {key}\.$"):
        connections.make_engine(SecretStr("sqlite:///x.db"), None, tmp_path, "here", **option)


@pytest.mark.parametrize(
    ("chosen", "is_on", "state", "words"),
    [
        (None, True, 0, None),
        (None, False, 1, "read_committed_snapshot is off, so who reads waits for who writes"),
        ("snapshot", False, 1, None),
        ("snapshot", True, 0, "the database does not allow it, so queries will be refused"),
        ("snapshot", True, 2, "the database does not allow it"),  # in transition to off
    ],
)
def test_find_doubt_of_isolation(
    chosen: str | None,
    is_on: bool,
    state: int,
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As sys.databases has it; Babelfish says that both are on."""
    pytest.importorskip("pyodbc", exc_type=ImportError)
    url = SecretStr("mssql+pyodbc://boss:hunter2@server/bank")
    engine = connections.make_engine(url, None, Path(), "here", isolation=chosen)
    monkeypatch.setattr(connections, "read", lambda engine, find: (is_on, state))
    doubt = isolation.find_doubt(engine)
    assert doubt is None if words is None else words in str(doubt)
    assert "hunter2" not in str(doubt)


def test_make_engine_relative_to_the_config(tmp_path: Path) -> None:
    engine = connections.make_engine(SecretStr("sqlite:///data/dev.db"), None, tmp_path, "here")
    assert engine.url.database == str(tmp_path / "data" / "dev.db")


def test_show_url_without_secrets(make: Make, tmp_path: Path) -> None:
    engine = make(
        "postgresql+psycopg://boss:hunter2@db.bank/cards?password=hunter3&sslpassword=hunter4"
    )
    assert faults.show_url(engine) == "postgresql+psycopg://boss:***@db.bank/cards"


def refused(make: Make, url: str) -> str:
    engine = make(url)
    with pytest.raises(DatabaseError) as caught:
        connections.check_ready(engine, "dev")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_check_ready_wrong_password(make: Make, postgres_url: str) -> None:
    url = sa.make_url(postgres_url).set(password="hunter2")
    message = refused(make, url.render_as_string(hide_password=False))
    assert message.startswith(f"postgresql+psycopg://boss:***@127.0.0.1:{url.port}/postgres: ")
    assert 'password authentication failed for user "boss"' in message
    assert "hunter2" not in message


def test_check_ready_wrong_password_of_several_hosts(make: Make, postgres_url: str) -> None:
    url = sa.make_url(postgres_url).set(password="hunter2", host="localhost")
    message = refused(make, url.render_as_string(hide_password=False))
    assert "boss:***@localhost" in message
    assert "hunter2" not in message


def test_check_ready_missing_database(make: Make, postgres_url: str) -> None:
    assert 'database "cards" does not exist' in refused(
        make, postgres_url.replace("/postgres", "/cards")
    )


def test_check_ready_nobody_listens(make: Make) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound, so that nobody else takes it, and not listening
        port = probe.getsockname()[1]
        message = refused(make, f"postgresql+psycopg://boss:hunter2@127.0.0.1:{port}/cards")
    assert f"127.0.0.1:{port}" in message
    assert "refused" in message.split(": ", 1)[1]
    assert "hunter2" not in message


def test_check_ready_missing_file_and_tables(make: Make, tmp_path: Path, postgres_url: str) -> None:
    assert refused(make, f"sqlite:///{tmp_path / 'no.db'}").endswith(
        "there is no such file. Run: python -m abatch init --env dev"
    )
    (tmp_path / "text.db").write_text("this is not a database, it is a text of some length" * 20)
    assert "file is not a database" in refused(make, f"sqlite:///{tmp_path / 'text.db'}")
    assert "unable to open database file" in refused(make, f"sqlite:///{tmp_path}")
    sqlite3.connect(tmp_path / "empty.db").close()
    for url in (f"sqlite:///{tmp_path / 'empty.db'}", postgres_url):
        assert "abatch has no tables here yet. Run: python -m abatch init --env dev" in refused(
            make, url
        )


def test_check_ready_other_revision(engine: sa.Engine) -> None:
    connections.check_ready(engine, "dev")
    with engine.begin() as connection:
        version = sa.Table(tables.VERSION_TABLE, sa.MetaData(), sa.Column("version_num"))
        connection.execute(version.update().values(version_num="0000"))
    with pytest.raises(
        DatabaseError,
        match=rf"at revision 0000, expected {tables.REVISION}: .*"
        " Run: python -m abatch init --env test",
    ):
        connections.check_ready(engine, "test")


def test_transaction_sqlite_locked_by_another_process(
    make: Make, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "SQLITE_WAIT_SECONDS", 0.05)
    engine = make(sqlite_url)
    holder = sqlite3.connect(str(engine.url.database), isolation_level=None)
    holder.execute("create table t (a)")
    holder.execute("begin immediate")
    with (
        pytest.raises(DatabaseError) as caught,
        faults.described("bank.db"),
    ):
        connections.write(engine, lambda connection: None)
    holder.close()
    assert (
        str(caught.value)
        == "bank.db: the file is locked by another process (waited 0.05 s). End that process, or"
        " run this job again later."
    )


def make_counters(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("create table counters (id int primary key, n int)")
        connection.exec_driver_sql("insert into counters values (1, 0), (2, 0)")


def read_counters(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.exec_driver_sql("select n from counters order by id").scalars())


def add_one(connection: sa.Connection, counter: int) -> None:
    connection.exec_driver_sql(f"update counters set n = n + 1 where id = {counter}")


@pytest.mark.parametrize(
    "database_url", ["postgresql", pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
@pytest.mark.parametrize(
    ("retry_seconds", "attempts", "counters"), [(20, 2, [2, 2]), (0, 1, [1, 1])]
)
def test_transactions_deadlock(
    make: Make,
    database_url: str,
    retry_seconds: int,
    attempts: int,
    counters: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The session and another wait for each other.

    The server ends this one, which does all its work again, or says why not.
    """
    engine, made = make(database_url, retry_seconds=retry_seconds), list[int]()
    if is_babelfish(engine):
        pytest.skip("Babelfish does not know deadlock_priority: which of the two it ends is chance")
    make_counters(engine)
    others_rank = {
        "postgresql": "set deadlock_timeout = '1min'",
        "mssql": "set deadlock_priority high",
    }[engine.dialect.name]

    def run() -> None:
        def work(connection: sa.Connection) -> None:
            made.append(1)
            add_one(connection, 2)
            if len(made) == 1:
                waiter.start()  # the other now asks for 2, while it holds 1
            add_one(connection, 1)

        connections.write(engine, work)

    with make(database_url).connect() as other:
        other.exec_driver_sql(others_rank)
        add_one(other, 1)

        def wait() -> None:
            add_one(other, 2)
            other.commit()

        waiter = threading.Thread(target=wait)
        if retry_seconds:
            run()
            assert "and this one was ended (deadlock)" in caplog.text
            assert "Trying again." in caplog.text
        else:
            with (
                pytest.raises(
                    DatabaseError,
                    match=r"^here: another session and this one waited for each other",
                ),
                faults.described("here"),
            ):
                run()
        waiter.join()
    assert (len(made), read_counters(engine)) == (attempts, counters)


def end_session(connection: sa.Connection, boss: sa.Engine) -> None:
    pid = connection.exec_driver_sql("select pg_backend_pid()").scalar_one()
    with boss.connect() as other:
        other.exec_driver_sql(f"select pg_terminate_backend({pid}, 10000)")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_transactions_link_lost(make: Make, database_url: str) -> None:
    engine, boss, n_attempts = make(database_url, retry_seconds=20), make(database_url), 0
    make_counters(engine)

    def work(connection: sa.Connection) -> None:
        nonlocal n_attempts
        n_attempts += 1
        add_one(connection, 1)
        if n_attempts == 1:
            end_session(connection, boss)
        add_one(connection, 2)

    connections.write(engine, work)
    assert (n_attempts, read_counters(engine)) == (2, [1, 1])


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_read_link_lost(make: Make, database_url: str) -> None:
    """What is read is asked for again."""
    engine, boss, n_attempts = make(database_url, retry_seconds=20), make(database_url), 0
    make_counters(engine)

    def find(connection: sa.Connection) -> int:
        nonlocal n_attempts
        n_attempts += 1
        if n_attempts == 1:
            end_session(connection, boss)
        return connection.exec_driver_sql("select count(*) from counters").scalar_one()

    assert (connections.read(engine, find), n_attempts) == (2, 2)


@pytest.mark.parametrize(
    "words",
    [  # postmaster.c, ProcessStartupPacket, by its state
        "starting up",
        "not yet accepting connections",
        "not accepting connections",
        "shutting down",
        "in recovery mode",
    ],
)
def test_a_server_that_starts_is_waited_for(words: str) -> None:
    """At connecting psycopg gives no SQLSTATE."""
    refused = Exception(f"connection failed: FATAL:  the database system is {words}")
    assert faults.is_transient(sa.exc.OperationalError(None, None, refused))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_transactions_link_lost_while_committing(make: Make, database_url: str) -> None:
    """Nobody knows whether it arrived, so it is not done again."""
    engine, boss, n_attempts = make(database_url, retry_seconds=20), make(database_url), 0
    make_counters(engine)
    sa.event.listen(engine, "commit", lambda connection: end_session(connection, boss))

    def work(connection: sa.Connection) -> None:
        nonlocal n_attempts
        n_attempts += 1
        add_one(connection, 1)

    with pytest.raises(
        DatabaseError,
        match=(
            r"^postgresql.*the link was lost while a transaction was being committed.*Run the job"
            r" again"
        ),
    ):
        connections.write(engine, work)
    assert (n_attempts, read_counters(boss)) == (1, [0, 0])


def test_transactions_other_errors_are_not_tried_again(make: Make, database_url: str) -> None:
    engine, n_attempts = make(database_url, retry_seconds=20), 0
    make_counters(engine)
    for error, statement in (
        (sa.exc.SQLAlchemyError, "insert into counters values (1, 5)"),
        (ZeroDivisionError, ""),
    ):

        def work(connection: sa.Connection, statement: str) -> None:
            nonlocal n_attempts
            n_attempts += 1
            add_one(connection, 1)
            connection.exec_driver_sql(statement) if statement else 1 // 0

        with pytest.raises(error):
            connections.write(engine, work, statement)
    assert (n_attempts, read_counters(engine)) == (2, [0, 0])


ON_MSSQL = pytest.mark.parametrize(
    "database_url", [pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)


@ON_MSSQL
@pytest.mark.parametrize("n_failures", [1, 99])
def test_half_a_transaction_is_never_committed(
    make: Make, database_url: str, n_failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The server refuses to tell the types of parameters for a temporary table, and rolls back.

    pyodbc hears of neither. All is done again; where it is refused each time, nothing is written.
    """
    engine, n_attempts = make(database_url, retry_seconds=20 if n_failures == 1 else 0), 0
    make_counters(engine)
    with engine.begin() as connection:  # of the pool's one session
        connection.exec_driver_sql("create table #seen (id int, n int)")

    def work(connection: sa.Connection) -> str:
        nonlocal n_attempts
        n_attempts += 1
        add_one(connection, 1)
        if n_attempts <= n_failures:
            connection.exec_driver_sql("set xact_abort on")
            connection.exec_driver_sql("insert into #seen values (?, ?)", [(1, 1), (2, 2)])
        add_one(connection, 2)
        return "done"

    if n_failures == 1:
        assert connections.write(engine, work) == "done"
        assert "the server undid the first half of a transaction" in caplog.text
        assert (n_attempts, read_counters(engine)) == (2, [1, 1])
        return
    with (
        pytest.raises(
            DatabaseError,
            match=r"^here: the server undid the first half .* nothing of it was written\. Run the",
        ),
        faults.described("here"),
    ):
        connections.write(engine, work)
    assert (n_attempts, read_counters(engine)) == (1, [0, 0])


@ON_MSSQL
def test_a_trigger_that_refuses_is_heard(make: Make, database_url: str) -> None:
    """Its error comes behind the count of the rows that it wrote, and pyodbc reads the first."""
    engine = make(database_url)
    make_counters(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table audit (id int)")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "create trigger refuse on counters after update as begin insert into audit values (1);"
            " raiserror('nobody counts here', 16, 1); rollback transaction; end"
        )
    with (
        pytest.raises(DatabaseError, match=r"^here: the database refused: nobody counts "),
        faults.described("here"),
    ):
        connections.write(engine, add_one, 1)
    assert read_counters(engine) == [0, 0]


def test_lock_time_outs_leave_time_to_try_again() -> None:
    """As the settings are shipped, several waits for a lock fit into the time for attempts."""
    assert (
        load_experiments(ROOT / "ml_config.yaml", "dev")["card_offer"].environment.retry_seconds
        >= 3 * faults.LOCK_WAIT_SECONDS
    )


def test_transactions_are_tried_until_the_configured_time(
    make: Make, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        engine = make(
            f"postgresql+psycopg://boss@127.0.0.1:{probe.getsockname()[1]}/cards", retry_seconds=2
        )
        started = time.monotonic()

        def work(connection: sa.Connection) -> None:
            raise AssertionError

        with pytest.raises(sa.exc.OperationalError):
            connections.write(engine, work)
        assert time.monotonic() - started >= 2  # the last one is then, and not before


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_read_query_is_tried_again(
    make: Make, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that another session holds for longer than the lock's time-out.

    But not for longer than retry_seconds.
    """
    monkeypatch.setattr(faults, "LOCK_WAIT_SECONDS", 1)
    engine = make(database_url, retry_seconds=20)
    make_counters(engine)
    query = Query("q.sql", "select n from counters")
    binds = Window(date(2026, 1, 1), date(2026, 1, 2)), datetime(2026, 1, 1)
    with make(database_url).connect() as holder:
        holder.exec_driver_sql("lock table counters")
        releaser = threading.Timer(1.5, holder.rollback)
        releaser.start()
        assert len(reading.read_query(engine, query, *binds)) == 2
        releaser.join()


def say(state: str, text: str) -> str:
    """What an error with the arguments of pyodbc's, SQLSTATE and text, becomes."""
    return faults.describe(sa.exc.DBAPIError("select 1", None, Exception(state, text)))


SERVER = "[Microsoft][ODBC Driver 18 for SQL Server][SQL Server]"


@pytest.mark.parametrize(
    ("state", "text", "said"),
    # texts of SQL Server and of its driver, from Microsoft's lists of errors and from runs of the
    # driver
    [
        (
            "40001",
            (
                "Transaction (Process ID 52) was deadlocked on lock resources with another process"
                " and has been chosen as the deadlock victim. Rerun the transaction. (1205)"
                " (SQLExecDirectW)"
            ),
            "another session and this one waited for each other",
        ),
        (
            "HYT00",
            "Lock request time out period exceeded. (1222) (SQLExecDirectW)",
            "a table is locked by another session (waited 15 s)",
        ),
        (
            "28000",
            "Login failed for user 'abatch'. (18456) (SQLDriverConnect)",
            "the login failed: Login failed for user 'abatch'. Check the",
        ),
        (
            "42000",
            'Cannot open database "Kredit" requested by the login. The login failed. (4060)'
            " (SQLDriverConnect); [42000] "
            + SERVER
            + "Login failed for user 'abatch'. (18456) (SQLDriverConnect)",
            (
                "there is no such database, or this login may not enter it: Cannot open database"
                ' "Kredit"'
            ),
        ),
        (
            "42000",
            (
                "The SELECT permission was denied on the object 'card_calls', database 'Kredit',"
                " schema 'dbo'. (229) (SQLExecDirectW)"
            ),
            "this login lacks the right SELECT on card_calls. Ask the database's owner",
        ),
        (
            "42000",
            (
                "The UPDATE permission was denied on the column 'rate' of the object 'scores',"
                " database 'Kredit', schema 'abatch'. (230) (SQLExecDirectW)"
            ),
            "this login lacks the right UPDATE on scores.",
        ),
        (
            "42000",
            "CREATE TABLE permission denied in database 'Kredit'. (262) (SQLExecDirectW)",
            "a right is missing: CREATE TABLE permission denied in",
        ),
        (
            "42000",
            (
                "Snapshot isolation transaction failed accessing database 'Kredit' because snapshot"
                " isolation is not allowed in this database. Use ALTER DATABASE to allow snapshot"
                " isolation. (3952) (SQLExecDirectW)"
            ),
            "isolation: snapshot is chosen, and the database does not allow it: Snapshot isolation",
        ),
        (
            "42S02",
            "Invalid object name 'dbo.card_kalls'. (208) (SQLExecDirectW)",
            "the database refused: Invalid object name 'dbo.card_kalls'.",
        ),
    ],
)
def test_describe_sql_server(state: str, text: str, said: str) -> None:
    message = say(state, f"[{state}] {SERVER}{text}")
    assert message.startswith(said)
    assert "[" not in message
    assert "SQLExec" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("state", "text", "said"),
    [
        (
            "08001",
            (
                "[Microsoft][ODBC Driver 18 for SQL Server]SSL Provider: [error:0A000086:SSL"
                " routines::certificate verify failed:self-signed certificate] (-1)"
                " (SQLDriverConnect)"
            ),
            "the server's certificate is not trusted: SSL Provider: ",
        ),
        (
            "HYT00",
            (
                "[Microsoft][ODBC Driver 18 for SQL Server]Login timeout expired (0)"
                " (SQLDriverConnect)"
            ),
            "the server cannot be reached: Login timeout expired. Check its name",
        ),
        (
            "08S01",
            (
                "[Microsoft][ODBC Driver 18 for SQL Server]TCP Provider: Error code 0x2746 (10054)"
                " (SQLExecDirectW)"
            ),
            "the server cannot be reached: TCP Provider: Error code 0x2746. Check",
        ),
    ],
)
def test_describe_sql_server_links(state: str, text: str, said: str) -> None:
    assert say(state, f"[{state}] {text}").startswith(said)


def test_describe_cuts_what_quotes_a_long_value(make: Make, database_url: str) -> None:
    with (
        pytest.raises(sa.exc.SQLAlchemyError) as caught,
        make(database_url).connect() as connection,
    ):
        connection.exec_driver_sql(f"select 1 from {'x' * 100} where '{'y' * 100_000}' =")
    told = faults.describe(caught.value)
    assert len(told) < 1100

    long = f"invalid input: {'y' * 5000}: here"
    assert say("22P02", long) == (
        f"the database refused: invalid input: {'y' * 485} ... {'y' * 494}: here."
    )


def test_a_missing_driver_is_not_waited_for(make: Make) -> None:
    """SQLAlchemy takes it for a lost link."""
    engine = make("mssql+pyodbc://u:hunter2@127.0.0.1:1/d?driver=No+Such+Driver")
    with pytest.raises(sa.exc.DBAPIError) as caught:
        engine.connect()
    assert not faults.is_transient(caught.value)
    assert faults.describe(caught.value).startswith("the ODBC driver is not installed: Can't open")


def test_a_name_that_cannot_be_resolved_may_be_tomorrow(make: Make) -> None:
    engine = make("postgresql+psycopg://u:hunter2@host.invalid/d")
    with pytest.raises(sa.exc.OperationalError) as caught:
        engine.connect()
    assert faults.is_transient(caught.value)
    assert faults.describe(caught.value).startswith("the server cannot be reached: failed to resol")


def test_transactions_tell_the_first_cause(
    make: Make,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The server has rolled back already, so the rollback is refused.

    What went wrong first is told, or tried again.
    """
    engine, n_attempts = make(database_url, retry_seconds=20), 0
    make_counters(engine)

    def refuse(connection: object) -> None:
        raise engine.dialect.loaded_dbapi.ProgrammingError(
            "the rollback has no corresponding begin"
        )

    monkeypatch.setattr(engine.dialect, "do_rollback", refuse)

    def work(connection: sa.Connection) -> None:
        nonlocal n_attempts
        n_attempts += 1
        connection.exec_driver_sql("insert into counters values (1, 5)")

    with (
        pytest.raises(
            DatabaseError, match=r"^here: the database refused: .*(counters|unique|UNIQUE)"
        ),
        faults.described("here"),
    ):
        connections.write(engine, work)
    assert n_attempts == 1
    assert capfd.readouterr().err == ""


def test_check_ready_driver_not_installed(make: Make) -> None:
    pyodbc = pytest.importorskip(
        "pyodbc",
        reason="pyodbc needs the system's libodbc (Debian: unixodbc)",
        exc_type=ImportError,
    )
    message = refused(
        make, "mssql+pyodbc://boss:hunter2@db.bank/cards?driver=ODBC+Driver+99+for+SQL+Server"
    )
    installed = ", ".join(pyodbc.drivers()) or "none"
    assert "the ODBC driver is not installed: " in message
    assert "'ODBC Driver 99 for SQL Server'" in message
    assert "hunter2" not in message
    assert message.endswith(
        f"Installed: {installed}. Install Microsoft's ODBC Driver 18 for SQL Server, or name an"
        " installed driver in the URL."
    )


@pytest.mark.mssql
@pytest.mark.skipif(not MSSQL_URL, reason="ABATCH_TEST_MSSQL_URL does not name a SQL Server")
def test_check_ready_mssql_refusals(make: Make) -> None:
    url = sa.make_url(MSSQL_URL or "")
    for changed, said in (
        (url.set(password="hunter2"), "the login failed: Login failed for user"),
        (
            url.set(database="no_such_bank"),
            "there is no such database, or this login may not enter it: ",
        ),
        (
            url.difference_update_query(["TrustServerCertificate"]),
            "the server's certificate is not trusted: ",
        ),
    ):
        message = refused(make, changed.render_as_string(hide_password=False))
        assert f": {said}" in message
        assert "hunter2" not in message
        assert "***" in message


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="of Linux")
def test_links_to_postgres_are_kept_alive(make: Make, postgres_url: str) -> None:
    """By both ends, so that each misses a host that has died within a minute; a URL may differ."""
    asked = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)

    def read_ours(url: str) -> list[int]:
        with make(url).connect() as connection:
            link: Any = connection.connection.dbapi_connection
            with socket.socket(fileno=os.dup(link.fileno())) as end:
                assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                return [end.getsockopt(socket.IPPROTO_TCP, option) for option in asked]

    assert read_ours(postgres_url) == [30, 10, 3, 60_000]
    assert read_ours(f"{postgres_url}?keepalives_idle=600") == [600, 10, 3, 60_000]
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
    with make(postgres_url).connect() as connection:
        theirs = [
            connection.scalar(sa.text(f"show {name}")) for name in (*names, "tcp_user_timeout")
        ]
    assert theirs == ["30", "10", "3", "60000"]


def test_make_engine_completes_the_url(make: Make) -> None:
    pytest.importorskip(
        "pyodbc",
        reason="pyodbc needs the system's libodbc (Debian: unixodbc)",
        exc_type=ImportError,
    )

    def connect_with(url: str) -> str:
        engine = make(url)
        return str(engine.dialect.create_connect_args(engine.url)[0][0])

    login = "mssql+pyodbc://abatch:hunter2@BITEST/Kredittkort"
    trusted = "mssql+pyodbc://@BITEST/Kredittkort?driver=ODBC+Driver+18+for+SQL+Server&Trusted_Connection=yes"
    driver = "DRIVER={ODBC Driver 18 for SQL Server};Server=BITEST;Database=Kredittkort"
    assert connect_with(login) == f"{driver};UID=abatch;PWD=hunter2;Encrypt=yes"
    assert (
        connect_with(f"{login}?encrypt=optional")
        == f"{driver};UID=abatch;PWD=hunter2;encrypt=optional"
    )
    assert connect_with(trusted) == f"{driver};Trusted_Connection=Yes;Encrypt=yes"
    # docs/sql-server.md
    hard = r"mssql+pyodbc://@BITEST\LOAN/Kreditt%20Data"
    server = r"Server=BITEST\LOAN;Database=Kreditt Data"
    assert connect_with(hard) == (
        f"DRIVER={{ODBC Driver 18 for SQL Server}};{server};Trusted_Connection=Yes;Encrypt=yes"
    )
    assert (
        connect_with("mssql+pyodbc://abatch:hunter2@some_dsn")
        == "dsn=some_dsn;UID=abatch;PWD=hunter2;Encrypt=yes"
    )
    assert connect_with("mssql+pyodbc://?odbc_connect=DSN%3Dbank") == "DSN=bank;Encrypt=yes"
    assert (
        connect_with("mssql+pyodbc://?odbc_connect=DSN%3Dbank%3BEncrypt%3Dno")
        == "DSN=bank;Encrypt=no"
    )


def test_transaction_rolls_back_tables_and_rows(make: Make, database_url: str) -> None:
    engine = make(database_url)
    with pytest.raises(RuntimeError), engine.begin() as connection:
        connection.execute(sa.text("create table half (a int)"))
        connection.execute(sa.text("insert into half values (1)"))
        raise RuntimeError
    assert not sa.inspect(engine).has_table("half")


def hold_lock(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, url],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def try_lock(engine: sa.Engine, name: str = "predict-card_offer") -> bool:
    with locks.lock(engine, name) as acquired:
        return acquired is not None


def wait_for_lock(engine: sa.Engine, name: str) -> None:
    with engine.connect() as connection:
        resource = f"{connection.dialect.default_schema_name}.{name}"
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("set lock_timeout = '30s'")
            connection.exec_driver_sql(
                "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (resource,)
            )
        else:
            wait = (
                "exec @r = sp_getapplock @Resource = @name, @LockMode = 'Exclusive', @LockTimeout ="
                " 30000"
            )
            connection.exec_driver_sql(
                f"declare @r int, @name nvarchar(255) = lower(db_name()) + N'.' + ?; {wait}",
                (resource,),
            )


def test_lock_between_processes(make: Make, database_url: str) -> None:
    engine = make(database_url)
    assert try_lock(engine)
    with hold_lock(database_url) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "True\n"
        assert not try_lock(engine)
        assert try_lock(engine, "predict-another")
        kill(holder)
    if (
        engine.dialect.name != "sqlite"
        # the server sees the broken connection soon, not at once: wait in its queue for the very
        # same lock
    ):
        wait_for_lock(engine, "predict-card_offer")
    assert try_lock(engine)


def test_lock_needs_no_isolation_level(experiment: Experiment, engine: sa.Engine) -> None:
    """Of a server that does not tell its default, the pool's links go on serving."""
    with engine.connect():
        pass
    engine.dialect.default_isolation_level = None
    for _ in range(2):
        assert try_lock(engine, "x")
        for _ in range(2):
            with engine.connect() as connection:
                assert connection.scalar(sa.select(sa.literal(1))) == 1


def test_lock_released_after_an_error(experiment: Experiment, engine: sa.Engine) -> None:
    with pytest.raises(RuntimeError), locks.lock(engine, "x") as acquired:
        assert acquired
        assert not try_lock(engine, "x")
        raise RuntimeError
    assert try_lock(engine, "x")


def test_lock_is_free_at_once(make: Make, database_url: str) -> None:
    engine = make(database_url)
    assert all(try_lock(engine) for _ in range(20))


def test_lock_in_transaction_waits_for_the_other_session(
    experiment: Experiment, engine: sa.Engine
) -> None:
    """The second transaction begins its work when the first has ended, and not before."""
    other, order = open_engine(experiment), []

    def work() -> None:
        def work_second(connection: sa.Connection) -> None:
            locks.lock_in_transaction(connection, "nights")
            order.append("second")

        connections.write(other, work_second)

    thread = threading.Thread(target=work)

    def work_first(connection: sa.Connection) -> None:
        locks.lock_in_transaction(connection, "nights")
        thread.start()
        thread.join(0.3)
        order.append("first")
        assert thread.is_alive()

    connections.write(engine, work_first)
    thread.join()
    other.dispose()
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    "database_url",
    ["postgresql", pytest.param("mssql", marks=pytest.mark.mssql)],
    indirect=True,
)
def test_lock_in_transaction_waits_as_long_as_for_a_table(
    make: Make, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "LOCK_WAIT_SECONDS", 1)
    engine, other = make(database_url), make(database_url)
    with engine.begin() as connection, other.begin() as second:
        locks.lock_in_transaction(connection, "nights")
        locks.lock_in_transaction(second, "days")
        with pytest.raises(sa.exc.DBAPIError) as caught:
            locks.lock_in_transaction(second, "nights")
    assert faults.is_transient(caught.value)
    assert faults.describe(caught.value) == (
        "a table is locked by another session (waited 1 s). End that session, or run this job again"
        " later."
    )


@pytest.mark.parametrize(
    ("result", "words", "is_transient"),
    [
        (-1, "a table is locked by another session", True),
        (-3, "(deadlock)", True),
        (-999, "sp_getapplock returned -999", False),
    ],
)
def test_lock_in_transaction_says_what_sp_getapplock_does(
    make: Make,
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    result: int,
    words: str,
    is_transient: bool,
) -> None:
    """It returns a number where a table's lock would raise an error."""
    dialect = SimpleNamespace(name="mssql", default_schema_name="dbo", loaded_dbapi=sqlite3)
    connection: Any = SimpleNamespace(dialect=dialect, engine=make(sqlite_url))
    monkeypatch.setattr(locks, "_lock", lambda *_: result)
    with pytest.raises(sa.exc.DBAPIError) as caught:
        locks.lock_in_transaction(connection, "nights")
    assert words in faults.describe(caught.value)
    assert faults.is_transient(caught.value) == is_transient


def test_lock_is_not_shared_between_schemas(make: Make, postgres_url: str) -> None:
    one, other = make(postgres_url, "one"), make(postgres_url, "other")
    with locks.lock(one, "x") as first, locks.lock(other, "x") as second:
        assert first
        assert second


@pytest.mark.parametrize(
    "database_url", [pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
def test_lock_whatever_the_url_looks_like(make: Make, database_url: str) -> None:
    """Two hosts may write one database in two ways; schema None is the login's own, here dbo."""
    url = sa.make_url(database_url)
    odbc = make(database_url).dialect.create_connect_args(make(database_url).url)[0][0]
    others = [
        url.set(database=str(url.database).upper()),
        sa.URL.create("mssql+pyodbc", query={"odbc_connect": odbc}),
    ]
    with locks.lock(make(database_url), "x") as first:
        assert first
        for other in others:
            assert not try_lock(make(other.render_as_string(hide_password=False)), "x")
            assert not try_lock(make(other.render_as_string(hide_password=False), "DBO"), "x")
            assert try_lock(make(other.render_as_string(hide_password=False), "other"), "x")


def test_lock_cannot_be_written(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    engine = make(f"sqlite:///{tmp_path}/file/bank.db")
    with (
        pytest.raises(
            DatabaseError,
            match=r"bank\.db\.x\.lock: cannot be written \(.*Check the folder's rights\.",
        ),
        locks.lock(engine, "x"),
    ):
        pass


def test_check_ready_names_a_table_that_was_removed(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        tables.feature_drift.drop(connection)
    with pytest.raises(DatabaseError, match="somebody removed abatch's table feature_drift"):
        connections.check_ready(engine, "dev")


def test_transaction_does_not_wait_for_ever(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "LOCK_WAIT_SECONDS", 1)
    engines = [
        connections.make_engine(SecretStr(postgres_url), None, Path(), "ml_config.yaml")
        for _ in range(2)
    ]
    with engines[0].begin() as connection:
        connection.execute(sa.text("create table contested (x int)"))
    try:
        with engines[0].connect() as holder:
            holder.execute(sa.text("lock table contested"))
            with (
                pytest.raises(
                    DatabaseError,
                    match=r"here: a table is locked by another session \(waited 1 s\)",
                ),
                faults.described("here"),
                engines[1].begin() as connection,
            ):
                connection.execute(sa.text("insert into contested values (1)"))
    finally:
        with engines[0].begin() as connection:
            connection.execute(sa.text("drop table contested"))
        for engine in engines:
            engine.dispose()
