"""Read and write SQLite as Arrow in a process of its own.

ADBC's SQLite and Python's may not share one: they would drop each other's locks. As a script it
imports nothing of abatch, so that it is soon up.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    import pyarrow as pa
    from adbc_driver_manager import AdbcConnection

WRITE_ROWS = 100_000  # in one transaction, in the order of their key, as SQLite takes them fastest


class ReaderFailed(Exception):
    """What the process could not read; the plain driver will read it, or say why not."""


class ReaderEnded(ReaderFailed):
    """It was killed."""


class WriterFailed(Exception):
    """What the process could not write, in SQLite's words."""


class IntegrityError(WriterFailed):
    """A key is there twice."""


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
        If a later value has another type, or the query fails; ReaderEnded if it is killed.
    """
    with _start("read", path, sql, batch_rows, wait_seconds) as process:
        yield _iterate(process)


@contextmanager
def _start(*arguments: Any) -> "Iterator[subprocess.Popen[bytes]]":
    """The process, which ends with the context; its stdin stays open, or it would end."""
    command = [sys.executable, "-I", __file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # its end says more
                process.stdin.write(json.dumps(arguments).encode() + b"\n")
                process.stdin.flush()
            yield process
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # of what waits to be sent
                process.stdin.close()


def _iterate(process: "subprocess.Popen[bytes]") -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    assert process.stdout is not None
    assert process.stderr is not None
    cut_off = ""
    try:
        with pa.ipc.open_stream(process.stdout) as batches:
            yield from batches
    except (OSError, pa.ArrowException) as error:
        cut_off = str(error)
    words = process.stderr.read().decode(errors="replace") or cut_off
    if process.wait() < 0:
        raise ReaderEnded(
            f"the process that reads was ended by signal {-process.returncode}, as by a system that"
            " is short of memory"
        )
    if cut_off or process.returncode:
        raise ReaderFailed(words)


@contextmanager
def open_writer(
    path: str, table: str, key: str, wait_seconds: int
) -> "Iterator[Callable[[pa.RecordBatch], None]]":
    """What has record batches appended to a table, while the caller makes the next.

    All are written when the context ends well. After an error some may be.

    Parameters
    ----------
    key : the column by which the rows of a transaction are sorted

    Raises
    ------
    IntegrityError
        If a row is there already.
    WriterFailed
        If the file cannot be written, or the process is ended.
    """
    import pyarrow as pa

    sinks: list[pa.RecordBatchStreamWriter] = []
    with _start("write", path, table, key, wait_seconds) as process:
        assert process.stdin is not None

        def write(batch: "pa.RecordBatch") -> None:
            with _explaining(process):
                if not sinks:
                    sinks.append(pa.ipc.new_stream(process.stdin, batch.schema))
                sinks[0].write_batch(batch)

        yield write
        with _explaining(process):
            for sink in sinks:
                sink.close()
            process.stdin.close()
        if process.wait():
            raise _make_failure(process)


@contextmanager
def _explaining(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Tell why the process takes no more, which is soon ended then."""
    try:
        yield
    except OSError:
        process.wait()
        raise _make_failure(process) from None


def _make_failure(process: "subprocess.Popen[bytes]") -> WriterFailed:
    assert process.stderr is not None
    words = process.stderr.read().decode(errors="replace").strip()
    if process.returncode < 0:
        return WriterFailed(f"the process that writes was ended by signal {-process.returncode}")
    return (IntegrityError if "UNIQUE constraint failed" in words else WriterFailed)(words)


@contextmanager
def query(
    path: str, sql: str, batch_rows: int, wait_seconds: int
) -> "Iterator[pa.RecordBatchReader]":
    """In the process: what the query returns."""
    import pyarrow as pa
    from adbc_driver_manager import AdbcStatement

    with _connect(path, "ro", wait_seconds) as connection, AdbcStatement(connection) as statement:
        statement.set_options(**{"adbc.sqlite.query.batch_rows": str(batch_rows)})
        statement.set_sql_query(sql)
        yield pa.RecordBatchReader.from_stream(statement.execute_query()[0])


@contextmanager
def _connect(path: str, mode: str, wait_seconds: int) -> "Iterator[AdbcConnection]":
    import adbc_driver_sqlite
    from adbc_driver_manager import AdbcConnection, AdbcStatement

    with (
        adbc_driver_sqlite.connect(f"file:{quote(path)}?mode={mode}") as database,
        AdbcConnection(database) as connection,
    ):
        with AdbcStatement(connection) as statement:
            statement.set_sql_query(f"pragma busy_timeout = {1000 * wait_seconds}")
            statement.execute_query()[0].release()
        yield connection


def _send(*arguments: Any) -> None:
    """In the process: write what a query returns to stdout."""
    import pyarrow as pa

    Thread(target=_end_without_reader, daemon=True).start()
    with (
        query(*arguments) as batches,
        pa.ipc.new_stream(sys.stdout.buffer, batches.schema) as sink,
    ):
        for batch in batches:
            sink.write_batch(batch)


def _append(path: str, table: str, key: str, wait_seconds: int) -> None:
    """In the process: write what comes from stdin into the table."""
    import pyarrow as pa
    from adbc_driver_manager import AdbcStatement

    parent = os.getppid()
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    into = {"adbc.ingest.target_table": table, "adbc.ingest.mode": "adbc.ingest.mode.append"}
    with (
        _connect(path, "rw", wait_seconds) as connection,
        pa.ipc.open_stream(sys.stdin.buffer) as batches,
    ):
        for rows in _join(batches):
            if os.getppid() != parent:  # Arrow takes the end of a pipe for the end of the rows
                os._exit(1)
            with AdbcStatement(connection) as statement:
                statement.set_options(**into)
                statement.bind_stream(rows.sort_by(key).to_reader())
                statement.execute_update()


def _join(batches: "Iterable[pa.RecordBatch]") -> "Iterator[pa.Table]":
    """Tables of WRITE_ROWS rows or a few more; the last may have fewer."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= WRITE_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting.clear()
    if waiting:
        yield pa.Table.from_batches(waiting)


def _end_without_reader() -> None:
    """End at once when nobody reads any more, also in the middle of a query."""
    os.read(0, 1)
    os._exit(1)


def _end_with(parent: int) -> None:
    """End soon after the parent, whose stdin waits to be read."""
    while os.getppid() == parent:
        time.sleep(0.05)
    os._exit(1)


if __name__ == "__main__":
    try:
        job, *arguments = json.loads(sys.stdin.buffer.readline())
        (_send if job == "read" else _append)(*arguments)
    except Exception as error:
        # ADBC puts its own words and the statement around SQLite's.
        lines = str(error).removeprefix("INTERNAL: failed to execute: ").splitlines()
        words = lines[0] if lines else type(error).__name__
        sys.exit(f"{words} (waited {arguments[-1]} s)" if "is locked" in words else words)
