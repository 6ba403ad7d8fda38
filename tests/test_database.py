"""The door to SQL: queries cleaned and streamed, binds, what the engine's errors become, and the lock."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from abatch import database, tables
from abatch.config import Config
from abatch.errors import ConfigError, DatabaseError
from tests.conftest import ROOT

BINDS = {"from_date": date(2026, 3, 1), "to_date": date(2026, 3, 2), "as_of": datetime(2026, 3, 1, 21, 59, 59, 999999)}
NUMBERS = "with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < {}) select n from numbers order by n"
Make = Callable[..., sa.Engine]
HOLD_LOCK = """
import sys
from pathlib import Path
from pydantic import SecretStr
from abatch import database
engine = database.make_engine(SecretStr(sys.argv[1]), None, Path(), "here")
with database.lock(engine, "predict-card_offer") as acquired:
    print(acquired, flush=True)
    sys.stdin.readline()
"""


def read(engine: sa.Engine, sql: str, chunk_rows: int = 100) -> list[tuple]:
    frame = database.read_query(engine, sql, "sql/q.sql", **BINDS, chunk_rows=chunk_rows)
    return list(frame.itertuples(index=False, name=None))


@pytest.fixture
def make() -> Iterator[Callable[..., sa.Engine]]:
    """`database.make_engine` of a URL; what it made is closed at the end."""
    made: list[sa.Engine] = []

    def make_engine(url: str, schema: str | None = None) -> sa.Engine:
        made.append(database.make_engine(SecretStr(url), schema, Path(), "ml_config.yaml, environments.dev.database"))
        return made[-1]

    yield make_engine
    for engine in made:
        engine.dispose()


def test_clean_query_pieces() -> None:
    assert database.clean_query("select 1 -- :not_a_bind\nfrom t ;\n") == "select 1  \nfrom t"
    assert database.clean_query("select /* :no\n -- ' */ a;") == "select   a"
    assert database.clean_query("select a from t where b >= :from_date -- it's\n;-- end") == "select a from t where b >= :from_date"


def test_read_query_literals(make: Make, database_url: str) -> None:
    engine = make(database_url)
    for sql, expected in (
        ("select '--:x' as a", "--:x"),
        ("select '/* :x */' as a", "/* :x */"),
        ("select 'it''s :x; 12:30:00 a::b' as a", "it's :x; 12:30:00 a::b"),
        ("select ';' as a;", ";"),
        ('select 5 as ":x -- y"', 5),
        ("select 'a''' /* ' */ || ':x' as a -- '", "a':x"),
        ("select '50 % of %(x)s' as a", "50 % of %(x)s"),
        ("select 7 % 4 as a where 'ab' like 'a%'", 3),
    ):
        assert read(engine, sql) == [(expected,)], sql


def test_read_query_brackets_are_names(make: Make, sqlite_url: str) -> None:
    assert list(database.read_query(make(sqlite_url), "select 1 as [it's :x]", "q.sql", **BINDS, chunk_rows=9).columns) == ["it's :x"]


def test_read_query_postgres_casts_and_slices(make: Make, postgres_url: str) -> None:
    assert read(make(postgres_url), "select '5'::int + 1, (array[7,8,9])[2:3]") == [(6, [8, 9])]


def test_read_query_unknown_bind_suggests(make: Make, database_url: str) -> None:
    engine = make(database_url)
    with pytest.raises(ConfigError, match=r"^sql/q\.sql: unknown bind :form_date; .*:as_of\. Did you mean 'from_date'\?$"):
        read(engine, "select 1 where :form_date < :to_date")


def test_read_query_bind_twice_and_left_out(engine: sa.Engine) -> None:
    sql = "select count(*) from runs where run_date >= :from_date and run_date <= :from_date or run_date = :from_date"
    assert read(engine, sql.replace("runs", "abatch.runs") if engine.dialect.name == "postgresql" else sql) == [(0,)]


def test_read_query_two_columns_of_one_name(make: Make, database_url: str) -> None:
    engine = make(database_url)
    with pytest.raises(ConfigError, match=r"two columns of the name a\."):
        read(engine, "select 1 as a, 2 as b, 3 as a")


@pytest.mark.parametrize(("n", "sizes"), [(1, [1]), (3, [3]), (4, [4]), (5, [4, 1]), (8, [4, 4]), (9, [4, 4, 1])])
def test_stream_query_chunks(make: Make, sqlite_url: str, n: int, sizes: list[int]) -> None:
    chunks = list(database.stream_query(make(sqlite_url), NUMBERS.format(n), "q.sql", **BINDS, chunk_rows=4))
    assert [len(chunk) for chunk in chunks] == sizes
    assert [value for chunk in chunks for value in chunk["n"]] == list(range(1, n + 1))


def test_stream_query_chunks_on_both(make: Make, database_url: str) -> None:
    engine = make(database_url)
    chunks = list(database.stream_query(engine, NUMBERS.format(10), "q.sql", **BINDS, chunk_rows=5))
    assert [list(chunk["n"]) for chunk in chunks] == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]


def test_stream_query_no_rows(make: Make, database_url: str) -> None:
    engine = make(database_url)
    assert list(database.stream_query(engine, "select 1 as a where 1 = 0", "q.sql", **BINDS, chunk_rows=5)) == []
    assert database.read_query(engine, "select 1 as a where 1 = 0", "q.sql", **BINDS, chunk_rows=5).empty


def test_read_query_dates_and_unicode_come_back(make: Make, database_url: str) -> None:
    engine = make(database_url)
    table = sa.Table("happened", sa.MetaData(), sa.Column("day", sa.Date), sa.Column("at", sa.DateTime), sa.Column("what", sa.Unicode(20)))
    rows = [
        (date(2026, 2, 28), datetime(2026, 2, 28, 23, 59, 59, 999999), "before"),
        (date(2026, 3, 1), datetime(2026, 3, 1, 0, 0), "Ærø 日本 🂡 %s :x"),
        (date(2026, 3, 1), BINDS["as_of"], "on the moment"),
        (date(2026, 3, 1), datetime(2026, 3, 1, 22, 0), "not known yet"),
        (date(2026, 3, 2), datetime(2026, 3, 1, 12, 0), "upper end"),
    ]
    with database.transaction(engine) as connection:
        table.create(connection)
        connection.execute(table.insert(), [dict(zip(("day", "at", "what"), row, strict=True)) for row in rows])
    window = "where day >= :from_date and day < :to_date and at <= :as_of order by at"
    assert read(engine, f"select what from happened {window}") == [("Ærø 日本 🂡 %s :x",), ("on the moment",)]
    assert read(engine, "select 1 from happened where what = 'Ærø 日本 🂡 %s :x'") == [(1,)]


def test_stream_query_missing_table_names_the_file(make: Make, database_url: str) -> None:
    engine = make(database_url)
    with pytest.raises(DatabaseError, match=r"^sql/q\.sql: the database refused: .*card_kandidates") as caught:
        read(engine, "select 1 from card_kandidates")
    assert "\n" not in str(caught.value)


def test_stream_query_error_in_a_later_chunk_names_the_file(make: Make, database_url: str) -> None:
    engine = make(database_url)
    error = "abs(-9223372036854775807 - 1)" if engine.dialect.name == "sqlite" else "1 / (n - 6)"
    sql = NUMBERS.format(9).replace("select n from", f"select case when n = 6 then {error} else n end from")
    with pytest.raises(DatabaseError, match=r"^sql/q\.sql: the database refused: "):
        read(engine, sql, chunk_rows=2)


def test_stream_query_that_changes_rows_is_refused(make: Make, database_url: str) -> None:
    engine = make(database_url)
    with database.transaction(engine) as connection:
        connection.execute(sa.text("create table t (a int)"))
        connection.execute(sa.text("insert into t values (1)"))
    with pytest.raises((ConfigError, DatabaseError), match=r"^sql/q\.sql: "):
        read(engine, "delete from t")
    assert read(engine, "select a from t") == [(1,)]


def test_stream_query_left_half_way(make: Make, database_url: str) -> None:
    engine = make(database_url)
    stream = database.stream_query(engine, NUMBERS.format(10), "q.sql", **BINDS, chunk_rows=2)
    assert list(next(stream)["n"]) == [1, 2]
    stream.close()
    assert engine.pool.status().endswith("Current Checked out connections: 0")


def test_make_engine_refuses(make: Make, tmp_path: Path) -> None:
    for url, words in {
        "hunter2 is no url": "the value is not a database URL",
        "postgresql+psycopg://u:hunter2@h:port/db": "the value is not a database URL",
        "postgresql+psycopg://u:top@hunter2@h/db": "more than one @",
        "oracel://u:hunter2@h/db": "Expected mssql+pyodbc, postgresql+psycopg or sqlite",
        "oracle+oracledb://u:hunter2@h/db": "the driver for oracle+oracledb cannot be loaded",
        "sqlite://": "needs a file",
        "sqlite:///:memory:": "needs a file",
    }.items():
        with pytest.raises(ConfigError) as caught:
            make(url)
        message = str(caught.value)
        assert message.startswith("ml_config.yaml, environments.dev.database: ")
        assert words in message and "hunter2" not in message and "\n" not in message


def test_make_engine_relative_to_the_config(tmp_path: Path) -> None:
    engine = database.make_engine(SecretStr("sqlite:///data/dev.db"), None, tmp_path, "here")
    assert engine.url.database == str(tmp_path / "data" / "dev.db")


def test_show_url_without_secrets(make: Make, tmp_path: Path) -> None:
    engine = make("postgresql+psycopg://boss:hunter2@db.bank/cards?password=hunter3&sslpassword=hunter4")
    assert database.show_url(engine) == "postgresql+psycopg://boss:***@db.bank/cards"


def refused(make: Make, url: str) -> str:
    engine = make(url)
    with pytest.raises(DatabaseError) as caught:
        database.check_ready(engine, "dev")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_check_ready_wrong_password(make: Make, postgres_url: str) -> None:
    url = sa.make_url(postgres_url).set(password="hunter2")
    message = refused(make, url.render_as_string(hide_password=False))
    assert message.startswith(f"postgresql+psycopg://boss:***@127.0.0.1:{url.port}/postgres: ")
    assert 'password authentication failed for user "boss"' in message and "hunter2" not in message


def test_check_ready_wrong_password_of_several_hosts(make: Make, postgres_url: str) -> None:
    url = sa.make_url(postgres_url).set(password="hunter2", host="localhost")
    message = refused(make, url.render_as_string(hide_password=False))
    assert "boss:***@localhost" in message and "hunter2" not in message


def test_check_ready_missing_database(make: Make, postgres_url: str) -> None:
    assert 'database "cards" does not exist' in refused(make, postgres_url.replace("/postgres", "/cards"))


def test_check_ready_nobody_listens(make: Make) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound, so that nobody else takes it, and not listening
        port = probe.getsockname()[1]
        message = refused(make, f"postgresql+psycopg://boss:hunter2@127.0.0.1:{port}/cards")
    assert f"127.0.0.1:{port}" in message and "refused" in message.split(": ", 1)[1] and "hunter2" not in message


def test_check_ready_missing_file_and_tables(make: Make, tmp_path: Path, postgres_url: str) -> None:
    assert refused(make, f"sqlite:///{tmp_path / 'no.db'}").endswith("there is no such file. Run: python -m abatch init --env dev")
    (tmp_path / "text.db").write_text("this is not a database, it is a text of some length" * 20)
    assert "file is not a database" in refused(make, f"sqlite:///{tmp_path / 'text.db'}")
    assert "unable to open database file" in refused(make, f"sqlite:///{tmp_path}")
    sqlite3.connect(tmp_path / "empty.db").close()
    for url in (f"sqlite:///{tmp_path / 'empty.db'}", postgres_url):
        assert "abatch has no tables here yet. Run: python -m abatch init --env dev" in refused(make, url)


def test_check_ready_other_revision(engine: sa.Engine) -> None:
    database.check_ready(engine, "dev")
    with database.transaction(engine) as connection:
        version = sa.Table(tables.VERSION_TABLE, sa.MetaData(), sa.Column("version_num"))
        connection.execute(version.update().values(version_num="0000"))
    with pytest.raises(DatabaseError, match=r"at revision 0000, expected \d{4}\. Run: python -m abatch init --env test"):
        database.check_ready(engine, "test")


def test_transaction_sqlite_locked_by_another_process(make: Make, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SQLITE_WAIT_SECONDS", 0.05)
    engine = make(sqlite_url)
    holder = sqlite3.connect(str(engine.url.database), isolation_level=None)
    holder.execute("create table t (a)")
    holder.execute("begin immediate")
    with pytest.raises(DatabaseError) as caught, database.described("bank.db"), database.transaction(engine):
        pass
    holder.close()
    assert str(caught.value) == (
        "bank.db: the file is locked by another process (waited 0.05 s). End that process, or run this job again later."
    )


def test_transaction_rolls_back_tables_and_rows(make: Make, database_url: str) -> None:
    engine = make(database_url)
    with pytest.raises(RuntimeError), database.transaction(engine) as connection:
        connection.execute(sa.text("create table half (a int)"))
        connection.execute(sa.text("insert into half values (1)"))
        raise RuntimeError
    assert not sa.inspect(engine).has_table("half")


def hold_lock(url: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HOLD_LOCK, url], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def try_lock(engine: sa.Engine, name: str = "predict-card_offer") -> bool:
    with database.lock(engine, name) as acquired:
        return acquired


def test_lock_between_processes(make: Make, database_url: str) -> None:
    engine = make(database_url)
    assert try_lock(engine)
    with hold_lock(database_url) as holder:
        assert holder.stdout and holder.stdout.readline() == "True\n"
        assert not try_lock(engine)
        assert try_lock(engine, "predict-another")
        if engine.dialect.name == "sqlite":
            kill(holder)
        else:  # the server sees the broken connection soon, not at once: wait in its queue for the very same lock
            with engine.connect() as connection:
                key = connection.scalar(sa.text("select (classid::bigint << 32) | objid::bigint from pg_locks where locktype = 'advisory'"))
                connection.execute(sa.text("set lock_timeout = '30s'"))
                kill(holder)
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
    assert try_lock(engine)


def test_lock_released_after_an_error(config: Config, engine: sa.Engine) -> None:
    with pytest.raises(RuntimeError), database.lock(engine, "x") as acquired:
        assert acquired and not try_lock(engine, "x")
        raise RuntimeError
    assert try_lock(engine, "x")


def test_lock_is_free_at_once(make: Make, database_url: str) -> None:
    engine = make(database_url)
    assert all(try_lock(engine) for _ in range(20))


def test_lock_is_not_shared_between_schemas(make: Make, postgres_url: str) -> None:
    one, other = make(postgres_url, "one"), make(postgres_url, "other")
    with database.lock(one, "x") as first, database.lock(other, "x") as second:
        assert first and second


def test_lock_cannot_be_written(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    engine = make(f"sqlite:///{tmp_path}/file/bank.db")
    with (
        pytest.raises(DatabaseError, match=r"bank\.db\.x\.lock: cannot be written \(.*Check the folder's rights\."),
        database.lock(engine, "x"),
    ):
        pass


def test_stream_query_as_of_is_utc_whatever_the_server_thinks(postgres_url: str) -> None:
    """PostgreSQL compares a time without zone with timestamptz in the session's time zone."""
    boss = sa.create_engine(sa.make_url(postgres_url).update_query_dict({"options": "-c timezone=America/New_York"}))
    engine = database.make_engine(SecretStr(boss.url.render_as_string(hide_password=False)), None, Path(), "ml_config.yaml")
    query = "select 1 as known where timestamptz '2026-05-06 01:00+00' <= :as_of"
    binds = {"from_date": date(2026, 5, 5), "to_date": date(2026, 5, 6), "chunk_rows": 10}
    assert database.read_query(engine, query, "q.sql", as_of=datetime(2026, 5, 5, 22), **binds).empty
    assert len(database.read_query(engine, query, "q.sql", as_of=datetime(2026, 5, 6, 1), **binds)) == 1
    engine.dispose()
    boss.dispose()


def test_check_ready_names_a_table_that_was_removed(engine: sa.Engine) -> None:
    with database.transaction(engine) as connection:
        tables.predictions_superseded.drop(connection)
    with pytest.raises(DatabaseError, match="somebody removed abatch's table predictions_superseded"):
        database.check_ready(engine, "dev")


def test_transaction_does_not_wait_for_ever(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_WAIT_SECONDS", 1)
    engines = [database.make_engine(SecretStr(postgres_url), None, Path(), "ml_config.yaml") for _ in range(2)]
    with engines[0].begin() as connection:
        connection.execute(sa.text("create table contested (x int)"))
    try:
        with engines[0].connect() as holder:
            holder.execute(sa.text("lock table contested"))
            with pytest.raises(DatabaseError, match=r"here: a table is locked by another session \(waited 1 s\)"):
                with database.described("here"), database.transaction(engines[1]) as connection:
                    connection.execute(sa.text("insert into contested values (1)"))
    finally:
        with engines[0].begin() as connection:
            connection.execute(sa.text("drop table contested"))
        for engine in engines:
            engine.dispose()
