"""Read SQLite as Arrow in a process of its own: ADBC's SQLite and Python's may not share one.

They would drop each other's locks. As a script it imports nothing of abatch, so that it is soon up.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    import pyarrow as pa


class ReaderFailed(Exception):
    """What the process could not read; the plain driver will read it, or say why not."""


@contextmanager
def read(path: str, sql: str, batch_rows: int, wait_seconds: int) -> Iterator[Iterator[Any]]:
    """Record batches of a query without parameters; the process ends with the context.

    Yields
    ------
    iterator of RecordBatch
        A column's type is that of its first batch; whole numbers and fractions in a column of text
        become text.

    Raises
    ------
    ReaderFailed
        If a later value has another type, or the query fails.
    """
    command = [sys.executable, "-I", __file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        try:
            with process.stdin as stdin:
                stdin.write(json.dumps([path, sql, batch_rows, wait_seconds]).encode())
            yield _iterate(process)
        finally:
            process.kill()


def _iterate(process: "subprocess.Popen[bytes]") -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    assert process.stdout is not None
    assert process.stderr is not None
    try:
        with pa.ipc.open_stream(process.stdout) as batches:
            yield from batches
    except (OSError, pa.ArrowException) as error:  # cut off
        raise ReaderFailed(process.stderr.read().decode(errors="replace") or str(error)) from None
    if process.wait():
        raise ReaderFailed(process.stderr.read().decode(errors="replace"))


def _write(path: str, sql: str, batch_rows: int, wait_seconds: int) -> None:
    """In the process: write what the query returns to stdout."""
    import adbc_driver_sqlite.dbapi
    import pyarrow as pa

    with adbc_driver_sqlite.dbapi.connect(f"file:{quote(path)}?mode=ro") as connection:
        with connection.cursor() as cursor:
            cursor.execute(f"pragma busy_timeout = {1000 * wait_seconds}")
            cursor.fetchall()
        with connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(batch_rows)})
            cursor.execute(sql)
            batches = cursor.fetch_record_batch()
            with pa.ipc.new_stream(sys.stdout.buffer, batches.schema) as sink:
                for batch in batches:
                    sink.write_batch(batch)


if __name__ == "__main__":
    try:
        _write(*json.loads(sys.stdin.read()))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
