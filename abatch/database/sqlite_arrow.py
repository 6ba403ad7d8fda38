"""Read SQLite as Arrow in a process of its own: ADBC's SQLite and Python's may not share one.

They would drop each other's locks. As a script it imports nothing of abatch, so that it is soon up.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
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
    arguments = json.dumps([path, sql, batch_rows, wait_seconds]) + "\n"
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # its end says more
                process.stdin.write(arguments.encode())
                process.stdin.flush()  # and stays open: the process ends when it is closed
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


@contextmanager
def query(
    path: str, sql: str, batch_rows: int, wait_seconds: int
) -> "Iterator[pa.RecordBatchReader]":
    """In the process: what the query returns."""
    import adbc_driver_sqlite
    import pyarrow as pa
    from adbc_driver_manager import AdbcConnection, AdbcStatement

    with (
        adbc_driver_sqlite.connect(f"file:{quote(path)}?mode=ro") as database,
        AdbcConnection(database) as connection,
        AdbcStatement(connection) as statement,
    ):
        statement.set_sql_query(f"pragma busy_timeout = {1000 * wait_seconds}")
        statement.execute_query()[0].release()
        statement.set_options(**{"adbc.sqlite.query.batch_rows": str(batch_rows)})
        statement.set_sql_query(sql)
        yield pa.RecordBatchReader.from_stream(statement.execute_query()[0])


def _write(*arguments: Any) -> None:
    import pyarrow as pa

    with (
        query(*arguments) as batches,
        pa.ipc.new_stream(sys.stdout.buffer, batches.schema) as sink,
    ):
        for batch in batches:
            sink.write_batch(batch)


def _end_with_parent() -> None:
    """End at once when nobody reads any more, also in the middle of a query."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    try:
        arguments = json.loads(sys.stdin.readline())
        Thread(target=_end_with_parent, daemon=True).start()
        _write(*arguments)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
