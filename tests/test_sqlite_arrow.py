"""SQLite read as Arrow gives what Python's own driver gives, value for value and type for type."""

import sqlite3
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa

from abatch.database import connections, reading, sqlite_arrow
from abatch.errors import ReadAgain
from abatch.queries import Query, Window

pytest.importorskip("adbc_driver_sqlite")
PROBED, CHUNK, N = 5, 8, 30
WINDOW, AS_OF = Window(date(2026, 9, 1), date(2026, 9, 2)), datetime(2026, 9, 3, 4, 5, 6, 7)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sa.Engine:
    monkeypatch.setattr(reading, "PROBED_ROWS", PROBED)
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
        context.delattr(reading, "_read_rows")
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
        ("timestamp", lambda i: f"2026-09-30 10:00:{i:02}"),
        ("uuid", lambda i: f"ABCDEF00-0000-0000-0000-0000000000{i:02}"),
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


def test_a_reader_that_dies_is_replaced(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(engine, "integer", lambda i: i)
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no memory')")
    monkeypatch.setattr(sqlite_arrow, "__file__", str(broken))
    assert sum(map(len, read(engine))) == N
