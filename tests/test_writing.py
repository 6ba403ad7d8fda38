"""Rows reach the database in transactions of a bounded size."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from abatch.database import connections, reading, writing
from abatch.database.tables import prediction_rows
from abatch.errors import ConfigError, DatabaseError
from tests.conftest import is_babelfish


def make_batch(n: int) -> pa.RecordBatch:
    """Rows of one run; every third has no model."""
    columns = {
        "run_number": pa.array([1] * n, pa.int32()),
        "candidate_id": pa.array([f"ø{i:06}" for i in range(n)]),
        "variant": pa.array(["A"] * n),
        "model_name": pa.array([None if i % 3 == 0 else "m" * (i % 100) for i in range(n)]),
        "prediction": pa.array([None if i % 3 == 0 else i / 7 for i in range(n)], pa.float64()),
        "rank_in_variant": pa.array(range(1, n + 1), pa.int32()),
        "selected": pa.array([0] * n, pa.int16()),
        "bucket": pa.array([i % 64 for i in range(n)], pa.int16()),
    }
    return pa.RecordBatch.from_pydict(columns)


def make_mssql_engine(**options: Any) -> sa.Engine:
    """Of a server that is not there."""
    url = "mssql+pyodbc://boss:s3cret@server/bank?driver=ODBC+Driver+18+for+SQL+Server"
    return connections.make_engine(SecretStr(url), "abatch", Path(), "here", **options)


def write(engine: sa.Engine, batch: pa.RecordBatch) -> None:
    with writing.open_loader(engine, prediction_rows, "candidate_id", len(batch)) as load:
        load(batch)


def read_rows(engine: sa.Engine) -> list[tuple[Any, ...]]:
    rows = sa.select(prediction_rows).order_by(prediction_rows.c.rank_in_variant)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(rows)]


@pytest.mark.server
def test_every_value_is_written(engine: sa.Engine) -> None:
    batch = make_batch(9_001)
    write(engine, batch)
    assert read_rows(engine) == [tuple(row.values()) for row in batch.to_pylist()]


@pytest.mark.server
def test_analyze_lets_postgresql_know_the_size(engine: sa.Engine) -> None:
    """Which the server tells; the others find it out by themselves, and nothing fails."""
    write(engine, make_batch(500))
    connections.write(engine, writing.analyze, prediction_rows)
    if engine.dialect.name == "postgresql":
        name = writing.name_table(engine, prediction_rows)
        with engine.connect() as connection:
            size = f"select reltuples from pg_class where oid = '{name}'::regclass"
            assert connection.exec_driver_sql(size).scalar_one() == 500


def test_many_rows_go_to_sqlite_by_a_process_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python's own driver writes them, whatever transactions they are in."""
    engines = []
    for name in ("one", "other"):
        url = SecretStr(f"sqlite:///{tmp_path / f'a {name} #1?.db'}")
        engines.append(connections.make_engine(url, None, tmp_path, "here"))
        prediction_rows.create(engines[-1])
    batch = make_batch(writing.MANY_ROWS)
    odd = {"prediction": [None, -0.0, 5e-324, 0.1 + 0.2], "model_name": [None, "x", "y", "z"]}
    odd |= {"variant": ["", "A", "B", "é"], "candidate_id": ["'", 'q",\\', "ß\n", "🂡"]}
    small = pa.RecordBatch.from_pydict({**batch[:4].to_pydict(), **odd}, batch.schema)
    n_rows = len(batch) + len(small)
    with writing.open_loader(engines[0], prediction_rows, "candidate_id", n_rows) as load:
        monkeypatch.setattr(writing, "load", None)
        for part in (batch, small):
            load(part)
    monkeypatch.undo()
    with writing.open_loader(engines[1], prediction_rows, "candidate_id", 1) as load:
        for part in (batch, small):
            load(part)
    assert read_rows(engines[0]) == read_rows(engines[1])


def test_two_sessions_write_on_sql_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are at it at once, or the barrier breaks; no transaction has 5,000 rows."""
    both, parts = threading.Barrier(2, timeout=60), []

    def transact(engine: Any, work: Callable[..., None], table: sa.Table, part: Any) -> None:
        both.wait()
        parts.append(part)

    monkeypatch.setattr(connections, "write", transact)
    engine = make_mssql_engine()
    batch = make_batch(13_000)
    write(engine, batch)
    assert sorted(map(len, parts)) == [1_000, 4_000, 4_000, 4_000]
    written = pa.Table.from_batches(parts).sort_by("rank_in_variant")
    assert written == pa.Table.from_batches([batch])


def test_a_fault_of_a_session_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def transact(engine: Any, work: Callable[..., None], table: sa.Table, part: Any) -> None:
        if part["rank_in_variant"][0].as_py() > 4_000:
            raise sa.exc.IntegrityError("insert", None, ValueError("a key twice"))

    monkeypatch.setattr(connections, "write", transact)
    engine = make_mssql_engine()
    with pytest.raises(sa.exc.IntegrityError, match="a key twice"):
        write(engine, make_batch(9_000))


class PanicException(BaseException):
    """As PyO3 has it."""


class BulkCopy:
    """Stands in for mssql-python's connection and cursor."""

    def __init__(self, fault: BaseException | None) -> None:
        self.fault = fault
        self.copied: list[tuple[str, pa.RecordBatch, dict[str, Any]]] = []

    @contextmanager
    def open(self, engine: sa.Engine) -> Iterator[Any]:
        yield SimpleNamespace(cursor=lambda: self)

    def bulkcopy_arrow(self, name: str, batch: pa.RecordBatch, **options: Any) -> None:
        self.copied.append((name, batch, options))
        if self.fault:
            raise self.fault

    def close(self) -> None:
        pass


def test_bulk_copy_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By column names, fewer than 5,000 rows in a transaction, without a lock on the table."""
    monkeypatch.setattr(reading, "open_mssql_python", (bulk := BulkCopy(None)).open)
    batch = make_batch(9_000)
    write(make_mssql_engine(bulk=True), batch)
    ((name, copied, options),) = bulk.copied
    assert (name, copied.equals(batch)) == ("abatch.prediction_rows", True)
    assert options["column_mappings"] == list(prediction_rows.columns.keys())
    assert (options["batch_size"], options["use_internal_transaction"]) == (4_000, True)
    assert not options.get("table_lock")


@pytest.mark.parametrize(
    ("fault", "raised", "words"),
    [
        (
            PanicException("dest is\nout of bounds"),
            DatabaseError,
            r"^mssql\+pyodbc://boss:\*\*\*@server/bank: bulk copy into abatch.prediction_rows"
            r" failed: dest is out of bounds \(PanicException\)\. Nothing was published\. Run the"
            r" job again; if it fails again, leave out the environment's bulk\.$",
        ),
        (RuntimeError("Timed out."), DatabaseError, r"failed: Timed out \(RuntimeError\)\."),
        (
            RuntimeError("Violation of PRIMARY KEY constraint 'pk'. Cannot insert duplicate key"),
            sa.exc.IntegrityError,
            "Violation of PRIMARY KEY",
        ),
        (KeyboardInterrupt("^C"), KeyboardInterrupt, r"\^C"),
    ],
)
def test_bulk_copy_that_fails(
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
    raised: type[BaseException],
    words: str,
) -> None:
    monkeypatch.setattr(reading, "open_mssql_python", BulkCopy(fault).open)
    with pytest.raises(raised, match=words):
        write(make_mssql_engine(bulk=True), make_batch(3))


def test_schema_of_a_database_without() -> None:
    words = r"^here: schema is of a server's databases, and this is sqlite\. Leave out schema\.$"
    with pytest.raises(ConfigError, match=words):
        connections.make_engine(SecretStr("sqlite:///a.db"), "abatch", Path(), "here")


@pytest.mark.server
@pytest.mark.parametrize(
    "database_url", [pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
def test_bulk_copy_writes_every_value(engine: sa.Engine) -> None:
    bulk, batch = engine.execution_options(bulk=True), make_batch(9_001)
    if is_babelfish(engine):
        with pytest.raises(
            DatabaseError, match=r"bulk copy into .* failed: .*\(PanicException\)\."
        ):
            write(bulk, batch)
        assert read_rows(engine) == []
        pytest.skip("on Babelfish bulk copy ends in a panic, which was told and wrote nothing")
    write(bulk, batch)
    assert read_rows(engine) == [tuple(row.values()) for row in batch.to_pylist()]
    with pytest.raises(sa.exc.IntegrityError):
        write(bulk, batch)
