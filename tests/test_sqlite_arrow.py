"""SQLite read as Arrow gives what Python's own driver gives, value for value and type for type."""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from abatch.database import connections, faults, reading, sqlite_arrow
from abatch.errors import DatabaseError, ReadAgain
from abatch.queries import Query, Window
from tests.conftest import ROOT

adbc_driver_manager = pytest.importorskip("adbc_driver_manager")
PROBED, CHUNK, N = 5, 8, 30
WINDOW, AS_OF = Window(date(2026, 9, 1), date(2026, 9, 2)), datetime(2026, 9, 3, 4, 5, 6, 7)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sa.Engine:
    monkeypatch.setattr(reading, "PROBED_ROWS", PROBED)
    reading._MIXED.clear()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'a bank #1?.db'}")
    connections.prepare_sqlite(engine)
    return engine


def fill(engine: sa.Engine, declared: str, find: Callable[[int], object]) -> None:
    with sqlite3.connect(str(engine.url.database)) as connection:
        connection.execute(f'create table t (i integer primary key, "a ""x" {declared})')
        connection.executemany("insert into t values (?, ?)", [(i, find(i)) for i in range(N)])


def read(engine: sa.Engine, sql: str = "select * from t order by i") -> list[pd.DataFrame]:
    query = Query("t.sql", sql)
    return [*reading.stream_query(engine, query, WINDOW, AS_OF, chunk_rows=CHUNK)]


@pytest.mark.parametrize(
    ("declared", "find"),
    [
        ("integer", lambda i: i - 10),
        ("integer", lambda i: 2**63 - 1 - i),
        ("integer", lambda i: None if i % 3 else i),
        ("real", lambda i: i / 3),
        ("real", lambda i: float(i) if i % 4 else None),
        ("real", lambda i: 1e308 * 10 if i == 20 else 0.5),
        ("text", lambda i: f"æ{i}\n'"),
        ("text", lambda i: "" if i % 2 else None),
        ("text", lambda i: f"{i:03}"),  # numbers as text, all of them
        ("integer", lambda i: None),
        ("date", lambda i: f"2026-09-{1 + i % 28:02}"),
        ("date", lambda i: None if i == 7 else "1899-12-31"),
        ("date", lambda i: "9999-12-31" if i else "0001-01-01"),
        ("timestamp", lambda i: f"2026-09-30 10:00:{i:02}"),
        ("datetime", lambda i: f"2026-09-30T10:00:00.{i:06}" if i % 3 else None),
        ("timestamp with time zone", lambda i: f"1999-12-31 23:59:59.5+{i % 14:02}:30"),
        ("uuid", lambda i: f"ABCDEF00-0000-0000-0000-0000000000{i:02}"),
        ("numeric(9, 2)", lambda i: i / 4),  # SQLite keeps 1.0 as an integer
        ("numeric", lambda i: i if 8 <= i < 16 else i / 2),  # a chunk of integers alone
        ("real", float),
        ("integer", lambda i: i if i > 20 else None),  # nulls alone in the first two chunks
    ],
)
def test_many_rows_are_read_as_arrow(
    engine: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    declared: str,
    find: Callable[[int], object],
) -> None:
    fill(engine, declared, find)
    with monkeypatch.context() as context:
        context.setattr(reading, "_choose_reader", lambda engine: reading._read_rows)
        expected = read(engine)
    with monkeypatch.context() as context:
        context.delattr(reading, "_make_row_frames")
        found = read(engine)
    assert [len(frame) for frame in found] == [8, 8, 8, 6]
    for one, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize(
    ("declared", "find"),
    [
        ("", lambda i: i if i < 2 else i + 0.5 if i > 20 else i),  # a fraction that comes late
        ("", lambda i: "a" if i == 29 else i),  # text that comes late
        ("", lambda i: 7 if i == 29 else "a"),  # which Arrow would have as '7'
        ("", lambda i: 7.25 if i == 12 else f"{i}"),
        ("", lambda i: b"ab" if i == 0 else "a"),
        ("", lambda i: b"ab" if i > 10 else None),
        ("", lambda i: "a" if i > 10 else None),  # in the first chunk there was no text
        ("date", lambda i: "2026-09-31" if i == 17 else "2026-09-30"),
        ("date", lambda i: "0000-01-01" if i == 17 else "2026-09-30"),
        ("date", lambda i: "2026-09-30" if i == 17 else "later"),
        ("timestamp", lambda i: f"2026-09-30 10:00:00{'+02:00' if i == 9 else ''}"),
        ("timestamp", lambda i: f"2026-09-30 {i}"),
        ("uuid", lambda i: "É" if i == 9 else "A"),
        ("uuid", lambda i: "" if i == 9 else "A"),
        ("", lambda i: b"ab" if i == 29 else "a"),  # which Arrow would have as 'ab'
        ("", lambda i: i if i > 15 else i + 0.5),  # two kinds, each in chunks of its own
        ("", lambda i: 5 if i == 29 else float(i)),
        ("", lambda i: 2**53 + 1 if i > 20 else i + 0.5),
        ("numeric", lambda i: 2**53 + i if i > 7 else i / 2),
        ("", lambda i: i / 2 if i % 2 else 1 if i < 9 else 1.0),
        ("date", lambda i: b""),
    ],
)
def test_what_arrow_has_otherwise_is_read_row_by_row(
    engine: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    declared: str,
    find: Callable[[int], object],
) -> None:
    """The second time, if a first chunk was out: who used it must begin anew."""
    fill(engine, declared, find)
    with monkeypatch.context() as context:
        context.setattr(reading, "_choose_reader", lambda engine: reading._read_rows)
        expected = read(engine)
    try:
        found = read(engine)
    except ReadAgain:
        found = read(engine)
    for one, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other)
    window = (engine, Query("t.sql", "select * from t"), WINDOW, AS_OF)
    reading._MIXED.clear()
    pd.testing.assert_frame_equal(
        reading.read_query(*window, chunk_rows=CHUNK), reading._join(expected)
    )


def test_few_rows_need_no_process(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(engine, "integer", lambda i: i)
    monkeypatch.delattr(sqlite_arrow, "read")
    few = "select * from t where i < :n order by i".replace(":n", str(PROBED - 1))
    assert sum(map(len, read(engine, few))) == PROBED - 1
    with pytest.raises(AttributeError):
        read(engine)


def test_binds_are_written_into_the_query(engine: sa.Engine) -> None:
    """As Python's driver has them, and a colon in quotes is none."""
    fill(engine, "text", lambda i: "a:b")
    sql = (
        "select i, :from_date as f, :to_date as t, :as_of as a, '%d \\:x' as c from t"
        " where :from_date < '2026-09-02' order by i"
    )
    found = read(engine, sql)
    assert len(found) == 4
    assert found[3].iloc[0].tolist() == [
        24,
        "2026-09-01",
        "2026-09-02",
        "2026-09-03 04:05:06.000007",
        "%d \\:x",
    ]


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        (
            'select i as "a b", i as "t.x", i as "select", i as æ from t order by 1',
            "a b,t.x,select,æ",
        ),
        ("with q as (select i, i / 2.0 + .25 as h from t) select * from q order by i desc", "i,h"),
        ("select i from t union all select -i from t order by i", "i"),
        ("select i, (select max(i) from t as o where o.i < t.i) as m from t order by i", "i,m"),
        ("select i, 'x' || i as x, count(*) over (order by i) as n from t order by i", "i,x,n"),
        ("select * from (select i from t order by i desc limit 20) order by i", "i"),
    ],
)
def test_queries_of_many_shapes(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, sql: str, names: str
) -> None:
    fill(engine, "integer", lambda i: i)
    with monkeypatch.context() as context:
        context.setattr(reading, "_choose_reader", lambda engine: reading._read_rows)
        expected = read(engine, sql)
    with monkeypatch.context() as context:
        context.delattr(reading, "_make_row_frames")
        found = read(engine, sql)
    assert ",".join(found[0].columns) == names
    for one, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_text_that_is_no_text(engine: sa.Engine) -> None:
    """Python's driver refuses what is not UTF-8, and so it is refused."""
    fill(engine, "text", lambda i: "a")
    with sqlite3.connect(str(engine.url.database)) as connection:
        connection.execute('update t set "a ""x" = cast(x\'ff\' as text) where i = 29')
    query = Query("t.sql", "select * from t order by i")
    with pytest.raises(DatabaseError, match=r"^t\.sql: .*Could not decode to UTF-8"):
        reading.read_query(engine, query, WINDOW, AS_OF, chunk_rows=CHUNK)


@contextmanager
def query_here(*arguments: Any) -> Iterator[Any]:
    """Without a process: nobody writes meanwhile, and it is soon done."""
    try:
        with sqlite_arrow.query(*arguments) as batches:
            yield batches
    except (OSError, pa.ArrowException, adbc_driver_manager.Error) as error:
        raise sqlite_arrow.ReaderFailed(str(error)) from None


INTEGERS = st.integers(-3, 3) | st.sampled_from([2**53 + 1, -(2**63), 2**63 - 1])
FLOATS = st.floats() | st.integers(-3, 3).map(float) | st.sampled_from([1e300, -0.0, 0.1])
DAYS = st.dates().map(str) | st.sampled_from(
    ["", "0000-01-01", "2026-02-30", "20260102", "2026-W01-1", "2026-01-02 ", "12026-01-01"]
)
INSTANTS = (
    st.datetimes().map(str)
    | st.datetimes(timezones=st.timezones()).map(str)
    | st.sampled_from(["2026-01-02 03:04", "2026-01-02", "2026-01-02 24:00:00"])
    | st.sampled_from(["2026-01-02T03:04:05Z", "2026-01-02 03:04:05+02", "2026-01-02 03:04:05,5"])
    | st.sampled_from(["2026-01-02 03:04:05.1234567", "2026-01-02 03:04:60", "0000-01-01 00:00"])
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(
    ["a\0b", "7", "7.5", "1e5", "NaN", "x" * 9999, "ABCDEF00-0000-0000-0000-00000000000A"]
)
KINDS = [INTEGERS, FLOATS, DAYS, INSTANTS, TEXTS, st.sampled_from([b"", b"ab", b"\xff"]), st.none()]
KINDS += [st.booleans(), st.integers(-3, 3), st.dates().map(str), st.datetimes().map(str)]
DECLARED = ["", "integer", "real", "text", "numeric(12,2)", "boolean", "blob", "uuid"]
DECLARED += ["date", "datetime", "timestamptz"]


@st.composite
def columns(draw: st.DrawFn) -> tuple[str, list[object]]:
    """A declared type, and values whose kind may change anywhere, with nulls or none."""
    declared, first = draw(st.sampled_from(DECLARED)), draw(st.sampled_from(KINDS))
    second, cut = draw(st.sampled_from([first, first, *KINDS])), draw(st.integers(0, 20))
    nulls = st.none() if draw(st.booleans()) else st.nothing()
    return declared, [draw((first if i < cut else second) | nulls) for i in range(20)]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(columns(), min_size=1, max_size=3), st.sampled_from([1, 3, 5, 8, 100]))
def test_any_table_is_read_as_by_the_plain_driver(
    tables: list[tuple[str, list[object]]], chunk_rows: int
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        engine = sa.create_engine(f"sqlite:///{folder}/bank.db")
        connections.prepare_sqlite(engine)
        with closing(sqlite3.connect(f"{folder}/bank.db")) as connection:
            declared = ", ".join(f"v{i} {kind}" for i, (kind, _) in enumerate(tables))
            connection.execute(f"create table t (i integer primary key, {declared})")
            rows = zip(range(20), *(values for _, values in tables), strict=True)
            connection.executemany(f"insert into t values (?{', ?' * len(tables)})", rows)
            connection.commit()
        patch.setattr(reading, "PROBED_ROWS", PROBED)
        patch.setattr(sqlite_arrow, "read", query_here)
        reading._MIXED.clear()
        binds = (Query("t.sql", "select * from t order by i"), WINDOW, AS_OF)
        found = reading.read_query(engine, *binds, chunk_rows=chunk_rows)
        try:
            reading._MIXED.clear()
            frames = [*reading.stream_query(engine, *binds, chunk_rows=chunk_rows)]
        except ReadAgain:
            frames = [*reading.stream_query(engine, *binds, chunk_rows=chunk_rows)]
        patch.setattr(reading, "_choose_reader", lambda engine: reading._read_rows)
        expected = [*reading.stream_query(engine, *binds, chunk_rows=chunk_rows)]
    pd.testing.assert_frame_equal(found, reading._join(expected), check_exact=True)
    for one, other in zip(frames, expected, strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.parametrize("at", [0, 1])
def test_a_reader_that_is_killed(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    """At its first chunk or after it, when more waits than a pipe holds: no row is left out."""
    fill(engine, "text", lambda i: "x" * 20_000)
    real = sqlite_arrow._iterate

    def kill(process: Any) -> Iterator[Any]:
        for n, batch in enumerate(real(process)):
            if n == at:
                process.kill()
            yield batch

    monkeypatch.setattr(sqlite_arrow, "_iterate", kill)
    query = Query("t.sql", "select * from t order by i")
    with caplog.at_level("INFO", "abatch"):
        whole = reading.read_query(engine, query, WINDOW, AS_OF, chunk_rows=CHUNK)
    assert whole["i"].tolist() == list(range(N))
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert told == [
        "rows are read one by one, which takes longer: the process that reads was ended by signal"
        " 9, as by a system that is short of memory"
    ]


def test_the_reader_ends_with_its_parent(tmp_path: Path) -> None:
    """Although its query never ends."""
    with sqlite3.connect(tmp_path / "bank.db") as connection:
        connection.execute("create table t (i integer)")
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n"
    command = [sys.executable, "-I", sqlite_arrow.__file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        arguments = ["read", str(tmp_path / "bank.db"), endless, 9, 1]
        process.stdin.write(json.dumps(arguments).encode() + b"\n")
        process.stdin.close()
        assert process.wait(60) == 1


def test_a_locked_file_is_told(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(engine, "integer", lambda i: i)
    monkeypatch.setattr(faults, "SQLITE_WAIT_SECONDS", 0)
    query = Query("t.sql", "select * from t")
    with closing(sqlite3.connect(str(engine.url.database), isolation_level=None)) as writer:
        writer.execute("begin exclusive")
        with pytest.raises(DatabaseError, match="the file is locked by another process"):
            reading.read_query(engine, query, WINDOW, AS_OF)
        writer.execute("rollback")
    with monkeypatch.context() as context:  # once the first rows are read
        real = sqlite_arrow.read
        writer = sqlite3.connect(str(engine.url.database), isolation_level=None)
        context.setattr(
            sqlite_arrow, "read", lambda *words: writer.execute("begin exclusive") and real(*words)
        )
        with closing(writer), pytest.raises(DatabaseError, match="locked by another process"):
            reading.read_query(engine, query, WINDOW, AS_OF)


def test_a_reader_that_dies_is_replaced(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(engine, "integer", lambda i: i)
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no memory')")
    monkeypatch.setattr(sqlite_arrow, "__file__", str(broken))
    assert sum(map(len, read(engine))) == N


def write(path: Path, n_rows: int, *more: int) -> None:
    """Whole numbers from 1 on, in batches of at most 90,000, and these."""
    with sqlite_arrow.open_writer(str(path), "t", "i", 0) as load:
        for first in range(0, n_rows, 90_000):
            ids = range(min(first + 90_000, n_rows), first, -1)
            load(pa.RecordBatch.from_pydict({"i": pa.array(ids, pa.int32())}))
        for i in more:
            load(pa.RecordBatch.from_pydict({"i": pa.array([i], pa.int32())}))


@pytest.fixture
def bank(tmp_path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(tmp_path / "bank.db", isolation_level=None)
    connection.execute("create table t (i integer primary key)")
    return connection


def test_the_writer_writes_all(tmp_path: Path, bank: sqlite3.Connection) -> None:
    with closing(bank):
        write(tmp_path / "bank.db", 250_000)
        found = bank.execute("select count(*), min(i), max(i), sum(i) from t").fetchone()
    assert found == (250_000, 1, 250_000, 250_000 * 250_001 // 2)


def test_the_writer_tells_what_is_wrong(tmp_path: Path, bank: sqlite3.Connection) -> None:
    """And leaves nothing of the transaction that failed."""
    path, failed = tmp_path / "bank.db", sqlite_arrow.WriterFailed
    with closing(bank):
        with pytest.raises(sqlite_arrow.IntegrityError, match=r"^UNIQUE constraint failed: t\.i$"):
            write(path, 9, 7)
        bank.execute("begin immediate")
        with pytest.raises(failed, match=r"^database is locked \(waited 0 s\)$") as locked:
            write(path, 9)
        assert faults.describe(locked.value) == (
            "the file is locked by another process (waited 0 s). End that process, or run this job"
            " again later."
        )
        bank.execute("rollback")
        with pytest.raises(failed, match="failed to open"):
            write(tmp_path / "none.db", 9)
        with (
            pytest.raises(ZeroDivisionError),  # of whoever makes the rows
            sqlite_arrow.open_writer(str(path), "t", "i", 0) as load,
        ):
            load(pa.RecordBatch.from_pydict({"i": pa.array([1], pa.int32())}))
            1 // 0  # noqa: B018
        assert bank.execute("select * from t").fetchall() == []
    assert not (tmp_path / "none.db").exists()


def test_the_writer_ends_with_its_parent(tmp_path: Path, bank: sqlite3.Connection) -> None:
    """Which was killed in the middle of the rows: what was sent is not written."""
    code = (
        "import os, sys, pyarrow as pa; sys.path[0] = '.'; from abatch.database import sqlite_arrow"
        f"\nwith sqlite_arrow.open_writer({str(tmp_path / 'bank.db')!r}, 't', 'i', 0) as load:"
        "\n load(pa.RecordBatch.from_pydict({'i': [1, 2]})); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    time.sleep(1)
    with closing(bank):
        assert bank.execute("select * from t").fetchall() == []
        bank.execute("begin exclusive")  # nobody else is there
