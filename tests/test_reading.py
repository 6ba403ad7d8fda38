"""Queries of the user's: cleaned, bound, read in chunks.

What they return is of the same types whatever database and driver it comes from.
"""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from abatch.database import connections, isolation, reading
from abatch.errors import ConfigError, DatabaseError, DataError
from abatch.queries import Query, Window, clean_query
from tests.conftest import ROOT

pytestmark = pytest.mark.server

WINDOW, AS_OF = Window(date(2026, 3, 1), date(2026, 3, 2)), datetime(2026, 3, 1, 21, 59, 59, 999999)
Make = Callable[..., sa.Engine]


def count_to(n: int) -> str:
    return " union all ".join(f"select {i} as n" for i in range(1, n + 1)) + " order by n"


def read(engine: sa.Engine, sql: str, chunk_rows: int = 100) -> list[tuple[Any, ...]]:
    frame = reading.read_query(
        engine, Query("sql/q.sql", sql), WINDOW, AS_OF, chunk_rows=chunk_rows
    )
    return list(frame.itertuples(index=False, name=None))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_read_query_checks_the_first_rows_before_the_others(make: Make, database_url: str) -> None:
    """The 25,001st row cannot be computed; values of two kinds a column are read row by row."""
    rows = "with recursive c (n) as (select 1 union all select n + 1 from c where n < 30000)"
    late = "case when n > 25000 then abs(-9223372036854775808) end as late"
    mixed = "case when n % 2 = 0 then n else 'x' end as id"
    query = Query("q.sql", f"{rows} select {mixed}, {late} from c")
    seen = []

    def refuse(frame: pd.DataFrame) -> None:
        seen.append(len(frame))
        raise DataError("no such ids")

    engine = make(database_url)
    with pytest.raises(DatabaseError, match="integer overflow"):
        reading.read_query(engine, query, WINDOW, AS_OF, chunk_rows=900)
    with pytest.raises(DataError, match="no such ids"):
        reading.read_query(engine, query, WINDOW, AS_OF, chunk_rows=900, check=refuse)
    assert seen == [900]


@pytest.mark.parametrize(
    "database_url", [pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
@pytest.mark.parametrize("has_arrow", [True, False])
def test_stream_query_in_a_snapshot(
    make: Make, database_url: str, has_arrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever reads them, the level is that of the environment; the pool's links keep theirs."""
    if not has_arrow:
        monkeypatch.setattr(reading, "_load", lambda module: None)
    engine = make(database_url).execution_options(isolation="snapshot")
    level = "select transaction_isolation_level as n from sys.dm_exec_sessions"
    assert read(engine, f"{level} where session_id = @@spid") == [(5,)]
    with engine.connect() as connection:
        own = connection.exec_driver_sql(f"{level} where session_id = @@spid")
        assert own.scalar_one() == 2  # read committed
    assert isolation.find_doubt(engine) is None


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("kind", ["bigint", "oid"])  # by ADBC, which knows no oid, and row by row
def test_a_query_that_writes_is_told_to_leave_it(make: Make, database_url: str, kind: str) -> None:
    """The server's words alone would send to the server's owner."""
    engine = make(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("create sequence counted")
    with pytest.raises(DatabaseError) as caught:
        read(engine, f"select cast(nextval('counted') as {kind}) as n")
    assert str(caught.value) == (
        "sql/q.sql: cannot execute nextval() in a read-only transaction. Queries are only read:"
        " leave out of it what writes."
    )
    with engine.connect() as connection:  # the pool's links are as before
        shown = connection.exec_driver_sql("show transaction_read_only").scalar_one()
    assert shown == "off"


def test_clean_query_pieces() -> None:
    assert clean_query("select 1 -- :not_a_bind\nfrom t ;\n") == "select 1  \nfrom t"
    assert clean_query("select /* :no\n -- ' */ a;") == "select   a"
    assert (
        clean_query("select a from t where b >= :from_date -- it's\n;-- end")
        == "select a from t where b >= :from_date"
    )


@pytest.mark.parametrize(
    ("sql", "cleaned"),
    [
        ("select 1 /* a /* :b */ ' */ + 2 /* c */", "select 1   + 2"),
        ("select 1 /* a /* b */ + 2", "select 1   + 2"),  # as SQLite, which knows no nesting
        (r"select E'it\'s :x', :as_of", r"select E'it\'s \:x', :as_of"),
        (
            "select $$it's :x$$, $f$ $$ :y $f$, :as_of",
            r"select $$it's \:x$$, $f$ $$ \:y $f$, :as_of",
        ),
        ("select array[:as_of], a[:as_of]", "select array[:as_of], a[:as_of]"),
        ("select [a:b], t.[c]]:d] from [t]", r"select [a\:b], t.[c]]\:d] from [t]"),
        (
            "select 'like'':x' where a like'\\' and b = :as_of",
            r"select 'like''\:x' where a like'\' and b = :as_of",
        ),
    ],
)
def test_clean_query_of_each_dialect(sql: str, cleaned: str) -> None:
    assert clean_query(sql) == cleaned


def test_read_query_postgres_literals(make: Make, postgres_url: str) -> None:
    """As the server reads them."""
    sql = r"select E'it\'s :x' as a, $$it's :y$$ as b, $f$ $$:z$$ $f$ as c"
    rows = read(make(postgres_url), f"{sql}, (array[:from_date])[1] as d /* a /* b */ ' */")
    assert rows == [("it's :x", "it's :y", " $$:z$$ ", pd.Timestamp(WINDOW.from_date))]


def test_read_query_literals(make: Make, database_url: str) -> None:
    engine = make(database_url)
    for sql, expected in (
        ("select '--:x' as a", "--:x"),
        ("select '/* :x */' as a", "/* :x */"),
        ("select 'it''s :x; 12:30:00 a::b' as a", "it's :x; 12:30:00 a::b"),
        ("select ';' as a;", ";"),
        ('select 5 as ":x -- y"', 5),
        ("select 'a'':x' /* ' */ as a -- '", "a':x"),
        ("select '50 % of %(x)s' as a", "50 % of %(x)s"),
        ("select 7 % 4 as a where 'ab' like 'a%'", 3),
    ):
        assert read(engine, sql) == [(expected,)], sql


def test_read_query_brackets_are_names(make: Make, sqlite_url: str) -> None:
    assert list(
        reading.read_query(
            make(sqlite_url), Query("q.sql", "select 1 as [it's :x]"), WINDOW, AS_OF, chunk_rows=9
        ).columns
    ) == ["it's :x"]


def test_read_query_postgres_casts_and_slices(make: Make, postgres_url: str) -> None:
    assert read(make(postgres_url), "select '5'::int + 1, (array[7,8,9])[2:3]") == [(6, [8, 9])]


def test_read_query_binds_in_casts(
    make: Make, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = (
        "select :from_date::date + 1 as a, extract(year from (:as_of::timestamptz))::int as b,"
        " 'x:from_date::y' as c"
    )
    for reader in (reading._read_adbc, reading._read_rows):
        monkeypatch.setattr(reading, "_choose_reader", lambda engine, reader=reader: reader)
        assert read(make(postgres_url), sql) == [
            (pd.Timestamp("2026-03-02"), 2026, "x:from_date::y")
        ]
        with pytest.raises(DatabaseError, match="the database refused: syntax error"):
            read(make(postgres_url), "select 1 as a where :as_of:date is null")


def test_read_query_unknown_bind_suggests(make: Make, database_url: str) -> None:
    engine = make(database_url)
    with pytest.raises(
        ConfigError,
        match=r"^sql/q\.sql: unknown bind :form_date; .*:as_of\. Did you mean 'from_date'\?$",
    ):
        read(engine, "select 1 where :form_date < :to_date")


def test_read_query_bind_twice_and_left_out(engine: sa.Engine) -> None:
    sql = (
        "select count(*) from runs where run_date >= :from_date and run_date <= :from_date or"
        " run_date = :from_date"
    )
    assert read(
        engine, sql if engine.dialect.name == "sqlite" else sql.replace("runs", "abatch.runs")
    ) == [(0,)]


def test_read_query_two_columns_of_one_name(make: Make, database_url: str) -> None:
    engine = make(database_url)
    with pytest.raises(ConfigError, match=r"two columns of the name a\."):
        read(engine, "select 1 as a, 2 as b, 3 as a")


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, [1]), (3, [3]), (4, [4]), (5, [4, 1]), (8, [4, 4]), (9, [4, 4, 1])]
)
def test_stream_query_chunks(make: Make, sqlite_url: str, n: int, sizes: list[int]) -> None:
    chunks = list(
        reading.stream_query(
            make(sqlite_url), Query("q.sql", count_to(n)), WINDOW, AS_OF, chunk_rows=4
        )
    )
    assert [len(chunk) for chunk in chunks] == sizes
    assert [value for chunk in chunks for value in chunk["n"]] == list(range(1, n + 1))


def test_stream_query_chunks_on_both(make: Make, database_url: str) -> None:
    engine = make(database_url)
    chunks = list(
        reading.stream_query(engine, Query("q.sql", count_to(10)), WINDOW, AS_OF, chunk_rows=5)
    )
    assert [list(chunk["n"]) for chunk in chunks] == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]


def test_stream_query_no_rows(make: Make, database_url: str) -> None:
    engine = make(database_url)
    assert (
        list(
            reading.stream_query(
                engine, Query("q.sql", "select 1 as a where 1 = 0"), WINDOW, AS_OF, chunk_rows=5
            )
        )
        == []
    )
    assert reading.read_query(
        engine, Query("q.sql", "select 1 as a where 1 = 0"), WINDOW, AS_OF, chunk_rows=5
    ).empty


def test_read_query_dates_and_unicode_come_back(make: Make, database_url: str) -> None:
    engine = make(database_url)
    table = sa.Table(
        "happened",
        sa.MetaData(),
        sa.Column("day", sa.Date),
        sa.Column("at", sa.DateTime),
        sa.Column("what", sa.Unicode(20)),
    )
    rows = [
        (date(2026, 2, 28), datetime(2026, 2, 28, 23, 59, 59, 999999), "before"),
        (date(2026, 3, 1), datetime(2026, 3, 1, 0, 0), "Ærø 日本 🂡 %s :x"),
        (date(2026, 3, 1), AS_OF, "on the moment"),
        (date(2026, 3, 1), datetime(2026, 3, 1, 22, 0), "not known yet"),
        (date(2026, 3, 2), datetime(2026, 3, 1, 12, 0), "upper end"),
    ]
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(
            table.insert(), [dict(zip(("day", "at", "what"), row, strict=True)) for row in rows]
        )
    window = "where day >= :from_date and day < :to_date and at <= :as_of order by at"
    assert read(engine, f"select what from happened {window}") == [
        ("Ærø 日本 🂡 %s :x",),
        ("on the moment",),
    ]
    assert read(engine, "select 1 from happened where what = 'Ærø 日本 🂡 %s :x'") == [(1,)]


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_read_query_wants_one_select(make: Make, database_url: str) -> None:
    engine = make(database_url)
    for sql in ("", "-- select 1\n", "/* :a */ ;"):
        message = r"^sql/q\.sql: holds nothing but comments; expected one select\.$"
        with pytest.raises(ConfigError, match=message):
            read(engine, sql)
    for sql in ("select 1 as a; select 2 as b", "select 1 as a; delete from t"):
        with pytest.raises(
            DatabaseError, match=r"^sql/q\.sql: .* Leave one select in the query\.$"
        ):
            read(engine, sql)


def test_stream_query_missing_table_names_the_file(make: Make, database_url: str) -> None:
    engine = make(database_url)
    with pytest.raises(
        DatabaseError, match=r"^sql/q\.sql: the database refused: .*card_kandidates"
    ) as caught:
        read(engine, "select 1 from card_kandidates")
    assert "\n" not in str(caught.value)


def test_stream_query_error_in_a_later_chunk_names_the_file(make: Make, database_url: str) -> None:
    engine = make(database_url)
    error = "abs(-9223372036854775807 - 1)" if engine.dialect.name == "sqlite" else "1 / (n - 6)"
    numbers = count_to(9).removesuffix(" order by n")
    sql = f"select case when n = 6 then {error} else n end as m from ({numbers}) as numbers"
    with pytest.raises(DatabaseError, match=r"^sql/q\.sql: the database refused: "):
        read(engine, sql, chunk_rows=2)


@pytest.mark.parametrize(
    "sql",
    ["delete from t", "drop table t", "create table other (a int)", "insert into t values (2)"],
)
def test_stream_query_that_changes_something_is_refused(
    make: Make, database_url: str, sql: str
) -> None:
    engine = make(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("create table t (a int)"))
        connection.execute(sa.text("insert into t values (1)"))
    with pytest.raises((ConfigError, DatabaseError), match=r"^sql/q\.sql: "):
        read(engine, sql)
    assert read(engine, "select a from t") == [(1,)]
    assert not sa.inspect(engine).has_table("other")


def test_stream_query_left_half_way(make: Make, database_url: str) -> None:
    engine = make(database_url)
    stream = reading.stream_query(engine, Query("q.sql", count_to(10)), WINDOW, AS_OF, chunk_rows=2)
    assert list(next(stream)["n"]) == [1, 2]
    assert isinstance(stream, Generator)
    stream.close()
    assert engine.pool.status().endswith("Current Checked out connections: 0")


def test_stream_query_as_of_is_utc_whatever_the_server_thinks(postgres_url: str) -> None:
    """PostgreSQL compares a time without zone with timestamptz in the session's time zone."""
    boss = sa.create_engine(
        sa.make_url(postgres_url).update_query_dict({"options": "-c timezone=America/New_York"})
    )
    engine = connections.make_engine(
        SecretStr(boss.url.render_as_string(hide_password=False)), None, Path(), "ml_config.yaml"
    )
    query = "select 1 as known where timestamptz '2026-05-06 01:00+00' <= :as_of"
    asked = (engine, Query("q.sql", query), Window(date(2026, 5, 5), date(2026, 5, 6)))
    assert reading.read_query(*asked, datetime(2026, 5, 5, 22), chunk_rows=10).empty
    assert len(reading.read_query(*asked, datetime(2026, 5, 6, 1), chunk_rows=10)) == 1
    engine.dispose()
    boss.dispose()


# What is written on each database, by its own name of the type, and what must be read, worked out
# by hand.
TYPES: list[tuple[str, dict[str, str], str | dict[str, str], str, object]] = [
    ("bigint", {}, "9007199254740993", "int64", 2**53 + 1),  # no float holds it
    ("smallint", {}, "-3", "int64", -3),
    ("decimal(12, 2)", {}, "1234567.89", "float64", 1234567.89),
    ("decimal(20, 0)", {}, "123456789012345678", "int64", 123456789012345678),
    ("money", {}, "-1234.07", "float64", -1234.07),
    ("bit", {"postgresql": "boolean"}, {"*": "1", "postgresql": "true"}, "int64", 1),
    ("float", {"postgresql": "double precision"}, "0.1", "float64", 0.1),
    ("real", {}, "0.5", "float64", 0.5),
    ("date", {}, "'9999-12-31'", "datetime64[s]", pd.Timestamp(datetime(9999, 12, 31))),
    (
        "datetime2(6)",
        {"postgresql": "timestamp"},
        "'2026-01-02 03:04:05.678901'",
        "datetime64[us]",
        pd.Timestamp("2026-01-02 03:04:05.678901"),
    ),
    (
        "datetimeoffset(6)",
        {"postgresql": "timestamptz"},
        "'2026-01-02 00:30:00.000001+02:00'",
        "datetime64[us, UTC]",
        pd.Timestamp("2026-01-01 22:30:00.000001", tz="UTC"),
    ),
    (
        "uniqueidentifier",
        {"postgresql": "uuid"},
        "'F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6'",
        "str",
        "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
    ),
    (
        "nvarchar(50)",
        {"postgresql": "varchar(50)"},
        {"*": "'Ærø Łódź 日本 🂡'", "mssql": "N'Ærø Łódź 日本 🂡'"},
        "str",
        "Ærø Łódź 日本 🂡",
    ),
    ("varchar(20)", {}, "'it''s :x'", "str", "it's :x"),
]


def choose(words: str | dict[str, str], dialect: str) -> str:
    return words if isinstance(words, str) else words.get(dialect, words.get("*", ""))


@pytest.mark.parametrize("driver", ["arrow", "plain"])
@pytest.mark.parametrize("rows", ["filled", "with nulls", "only nulls"])
def test_read_query_types(
    make: Make, database_url: str, rows: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(database_url)
    dialect = engine.dialect.name
    if driver == "plain":
        monkeypatch.setattr(reading, "_choose_reader", lambda engine: reading._read_rows)
    else:
        readers = {
            "sqlite": "_read_sqlite",
            "postgresql": "_read_adbc",
            "mssql": "_read_mssql_python",
        }
        assert reading._choose_reader(engine).__name__ == readers[dialect]
        monkeypatch.setattr(reading, "PROBED_ROWS", 1)
    columns = ", ".join(
        f"c{i} {names.get(dialect, name)} null" for i, (name, names, *_) in enumerate(TYPES)
    )
    values = ", ".join(choose(value, dialect) for _, _, value, *_ in TYPES)
    nulls = ", ".join(["null"] * len(TYPES))
    inserted = {
        "filled": [values] * 3,
        "with nulls": [values, nulls, values],
        "only nulls": [nulls] * 3,
    }[rows]
    with engine.begin() as connection:
        connection.exec_driver_sql(f"create table typed (n int, {columns})")
        for n, row in enumerate(inserted):
            connection.exec_driver_sql(f"insert into typed values ({n}, {row})")
    for chunk_rows, sizes in ((1, [1, 1, 1]), (2, [2, 1]), (100, [3])):
        chunks = list(
            reading.stream_query(
                engine,
                Query("q.sql", "select * from typed order by n"),
                WINDOW,
                AS_OF,
                chunk_rows=chunk_rows,
            )
        )
        assert [len(chunk) for chunk in chunks] == sizes
        whole = reading.read_query(
            engine,
            Query("q.sql", "select * from typed order by n"),
            WINDOW,
            AS_OF,
            chunk_rows=chunk_rows,
        )
        if chunk_rows == 1:
            frame = whole
        # whatever the chunks
        assert frame.equals(whole)
        assert (frame.dtypes == whole.dtypes).all()
    for i, (_, _, _, dtype, expected) in enumerate(TYPES):
        column = frame[f"c{i}"]
        null = column.isna().tolist()
        assert (
            null
            == {
                "filled": [False] * 3,
                "with nulls": [False, True, False],
                "only nulls": [True] * 3,
            }[rows]
        )
        assert column[~column.isna()].tolist() == [expected] * null.count(False)
        nullable = {"int64": "Int64"}.get(dtype, dtype)
        assert (
            str(column.dtype)
            == {"filled": dtype, "with nulls": nullable, "only nulls": "object"}[rows]
        )


def test_read_values_kinds() -> None:
    def kind(values: Sequence[object]) -> tuple[str, list[Any]]:
        column = reading._read_values(list(values))
        return str(column.dtype), column.astype(object).where(column.notna(), None).tolist()

    assert kind([]) == ("object", [])
    assert kind([2**70, 1]) == ("float64", [float(2**70), 1.0])
    assert kind([2**63, None]) == ("float64", [float(2**63), None])
    assert kind([1, 2.5, Decimal("0.25"), None]) == ("float64", [1.0, 2.5, 0.25, None])
    assert kind([Decimal("5.00"), Decimal("6.00")]) == (
        "float64",
        [5.0, 6.0],
    )  # declared with a fraction
    assert kind([Decimal(5), True, 6, None]) == ("Int64", [5, 1, 6, None])
    assert kind([b"x", None]) == ("object", [b"x", None])
    assert kind(["x", 1]) == ("object", ["x", 1])
    assert kind([date(2026, 1, 1), datetime(2026, 1, 1)]) == (
        "object",
        [date(2026, 1, 1), datetime(2026, 1, 1)],
    )


def test_read_query_real_and_infinity(
    make: Make, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reader in (reading._read_adbc, reading._read_rows):
        monkeypatch.setattr(reading, "_choose_reader", lambda engine, reader=reader: reader)
        assert read(make(postgres_url), "select 0.1::real as a") == [(float(np.float32(0.1)),)]
        for value in (
            "'infinity'::date",
            "'-infinity'::date",
            "'infinity'::timestamp",
            "'-infinity'::timestamptz",
        ):
            with pytest.raises(DatabaseError, match=r"^sql/q\.sql: the database refused: "):
                read(make(postgres_url), f"select {value} as a")


def test_read_query_money_whatever_the_locale(
    make: Make, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reader in (reading._read_adbc, reading._read_rows):
        monkeypatch.setattr(reading, "_choose_reader", lambda engine, reader=reader: reader)
        assert read(make(postgres_url), "select '-1234567.89'::money as a, '0'::money as b") == [
            (-1234567.89, 0.0)
        ]


def test_read_query_types_that_adbc_does_not_read(
    make: Make, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("create type mood as enum ('sad', 'glad')")
    try:
        with caplog.at_level(logging.WARNING, "abatch"):
            assert read(
                engine, "select 'glad'::mood as feeling, 1 as n where :from_date = '2026-03-01'"
            ) == [("glad", 1)]
        assert (
            "read by the plain driver, which takes longer: ADBC does not know the type of feeling"
            in caplog.text
        )
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("drop type mood")


def test_read_query_without_the_arrow_libraries(database_url: str) -> None:
    """In a Python that cannot import them, the plain driver reads the same.

    The log says so once.
    """
    program = """
import logging, sys
from datetime import date, datetime
from pathlib import Path
for name in ("mssql_python", "adbc_driver_postgresql", "adbc_driver_sqlite", "pyarrow"):
    sys.modules[name] = None
from pydantic import SecretStr
from abatch.database import connections, isolation, reading
from abatch.queries import Query, Window
logging.basicConfig(stream=sys.stdout, format="%(message)s")
engine = connections.make_engine(SecretStr(sys.argv[1]), None, Path(), "here")
binds = Window(date(2026, 1, 1), date(2026, 1, 2)), datetime(2026, 1, 1)
query = Query("q", "select 1 as a, 'x' as b")
for _ in range(2):
    print(reading.read_query(engine, query, *binds).to_dict("list"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, database_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    *log, first, second = done.stdout.splitlines()
    assert first == second == "{'a': [1], 'b': ['x']}"
    assert done.stderr == ""
    driver = {
        "postgresql+psycopg": "adbc_driver_postgresql.dbapi",
        "mssql+pyodbc": "mssql_python",
        "sqlite": "adbc_driver_sqlite",
    }[sa.make_url(database_url).drivername]
    (line,) = log
    assert line.startswith(f"{driver} cannot be loaded (")
    assert line.endswith("the plain driver, which takes longer")


@pytest.mark.parametrize(
    "database_url", ["postgresql", pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
def test_read_query_when_the_arrow_driver_does_not_connect(
    make: Make, database_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as for want of a Kerberos library.

    Here the Arrow driver is sent to a place where nobody listens.
    """
    engine = make(database_url)
    elsewhere = engine.url.set(host="127.0.0.1", port=1, password="hunter2")
    real = engine.dialect.create_connect_args
    with engine.connect():  # the plain driver has its connection
        monkeypatch.setattr(engine.dialect, "create_connect_args", lambda url: real(elsewhere))
    assert read(engine, "select 1 as a") == [(1,)]
    assert "rows are read by the plain driver, which takes longer: " in caplog.text
    assert "does not connect" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "database_url", [pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
def test_read_query_of_an_odbc_connection_string(
    make: Make, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    odbc = make(database_url).dialect.create_connect_args(make(database_url).url)[0][0]
    for text, said in (
        (odbc, ""),
        (
            odbc.replace("ODBC Driver 18 for SQL Server", "another"),
            "names no driver of Microsoft's",
        ),
    ):
        caplog.clear()
        engine = make(
            sa.URL.create("mssql+pyodbc", query={"odbc_connect": text}).render_as_string(
                hide_password=False
            )
        )
        if said:
            with pytest.raises(DatabaseError, match="the ODBC driver is not installed"):
                read(engine, "select 1 as a")
        else:
            assert read(engine, "select 1 as a") == [(1,)]
        assert said in caplog.text
        assert bool(said) == bool(caplog.text)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_read_query_ended_while_it_reads(
    make: Make, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends the reader's session.

    The whole query is read again, and the first cause is told if it may not be.
    """
    boss, sql = make(database_url), "select pg_sleep(0.5)::text as slept"
    ends = (
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity where wait_event = 'PgSleep'"
    )

    def end_once() -> None:
        with boss.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not connection.exec_driver_sql(ends).all() and not over.is_set():
                pass

    for retry_seconds in (20, 0):
        engine, over, thread = (
            make(database_url, retry_seconds=retry_seconds),
            threading.Event(),
            threading.Thread(target=end_once),
        )
        thread.start()
        if retry_seconds:
            assert len(read(engine, sql)) == 1
        else:
            with pytest.raises(
                DatabaseError,
                match=(
                    r"^sql/q\.sql: the server cannot be reached: terminating connection due to"
                    r" administrator"
                ),
            ):
                read(engine, sql)
        over.set()
        thread.join()


def test_require_columns() -> None:
    frame = pd.DataFrame({"candidate": [1], "age": [2]})
    reading.require_columns(frame, ["age"])
    with pytest.raises(DataError) as error, Query("q.sql", "").named():
        reading.require_columns(frame, ["age", "candidate_id"])
    assert (
        str(error.value)
        == "q.sql: the column candidate_id is missing; found candidate, age. Name it in the query."
        " Did you mean 'candidate'?"
    )
