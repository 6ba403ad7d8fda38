"""Rows reach the database in transactions of a bounded size."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from abatch.database import connections, writing
from abatch.database.tables import prediction_rows


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


def read_rows(engine: sa.Engine) -> list[tuple[Any, ...]]:
    rows = sa.select(prediction_rows).order_by(prediction_rows.c.rank_in_variant)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(rows)]


@pytest.mark.server
def test_write_batch_writes_every_value(engine: sa.Engine) -> None:
    batch = make_batch(9_001)
    writing.write_batch(engine, prediction_rows, batch)
    assert read_rows(engine) == [tuple(row.values()) for row in batch.to_pylist()]


def test_write_batch_two_sessions_on_sql_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are at it at once, or the barrier breaks; no transaction has 5,000 rows."""
    both, parts = threading.Barrier(2, timeout=60), []

    def write(engine: Any, work: Callable[..., None], table: sa.Table, part: Any) -> None:
        both.wait()
        parts.append(part)

    monkeypatch.setattr(connections, "write", write)
    engine: Any = SimpleNamespace(dialect=SimpleNamespace(name="mssql"))
    batch = make_batch(13_000)
    writing.write_batch(engine, prediction_rows, batch)
    assert sorted(map(len, parts)) == [1_000, 4_000, 4_000, 4_000]
    written = pa.Table.from_batches(parts).sort_by("rank_in_variant")
    assert written == pa.Table.from_batches([batch])


def test_write_batch_tells_a_fault_of_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(engine: Any, work: Callable[..., None], table: sa.Table, part: Any) -> None:
        if part["rank_in_variant"][0].as_py() > 4_000:
            raise sa.exc.IntegrityError("insert", None, ValueError("a key twice"))

    monkeypatch.setattr(connections, "write", write)
    engine: Any = SimpleNamespace(dialect=SimpleNamespace(name="mssql"))
    with pytest.raises(sa.exc.IntegrityError, match="a key twice"):
        writing.write_batch(engine, prediction_rows, make_batch(9_000))
