"""Write rows: in bulk, in chunks, and in the place of others."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from abatch.database import connections, faults, sqlite_arrow
from abatch.errors import DatabaseError

if TYPE_CHECKING:
    import pyarrow as pa

MANY_ROWS = 20_000  # which SQLite gets from a process of its own
WRITE_ROWS = 10_000  # rows whose parameters a driver holds in memory at once
BATCH_ROWS = 4_000  # in one transaction; SQL Server locks the whole table from 5,000 on
BULK_SECONDS = 600  # of one bulk copy
MSSQL_SESSIONS = 2  # that write at once, as each inserts row by row while the job waits


@contextmanager
def open_loader(
    engine: sa.Engine, table: sa.Table, key: str, n_rows: int
) -> "Iterator[Callable[[pa.RecordBatch], None]]":
    """What writes batches of Arrow, in transactions of a bounded size and in no order.

    By bulk copy where the environment says so. All rows are there when the context ends well.

    Parameters
    ----------
    key : the column that tells rows apart
    n_rows : of all batches

    Raises
    ------
    IntegrityError
        SQLAlchemy's, if a row is there twice.
    DatabaseError
        If the process that writes into SQLite's file is ended.
    """
    from abatch.database import reading  # pandas, which commands have no need of

    path = reading.find_file(engine) if n_rows >= MANY_ROWS else None
    if path is None:
        yield partial(_write_batch, engine, table)
        return
    seconds = faults.SQLITE_WAIT_SECONDS + engine.get_execution_options().get("retry_seconds", 0)
    with (
        faults.as_dbapi_error(sqlite_arrow.WriterFailed, statement=f"insert into {table.name}"),
        sqlite_arrow.open_writer(path, table.name, key, round(seconds)) as write,
    ):
        yield write


def _write_batch(engine: sa.Engine, table: sa.Table, batch: "pa.RecordBatch") -> None:
    """In transactions that are tried again, or by bulk copy."""
    if engine.get_execution_options().get("bulk"):
        _copy_in_bulk(engine, table, batch)
        return

    def write(part: "pa.RecordBatch") -> None:
        connections.write(engine, load, table, part)

    if engine.dialect.name != "mssql":
        write(batch)
        return
    parts = [batch[i : i + BATCH_ROWS] for i in range(0, batch.num_rows, BATCH_ROWS)]
    with ThreadPoolExecutor(MSSQL_SESSIONS) as pool:
        for _ in pool.map(write, parts):
            pass


def load(connection: sa.Connection, table: sa.Table, batch: "pa.RecordBatch") -> None:
    """Write a batch of Arrow, whose columns are named as the table's, in the bulk way there is."""
    name, quote = name_table(connection, table), connection.dialect.identifier_preparer.quote
    columns = ", ".join(map(quote, batch.schema.names))
    if connection.dialect.name == "postgresql":
        _copy(connection, f"copy {name} ({columns}) from stdin (format csv)", batch)
        return
    marks = ", ".join("?" * batch.num_columns)
    rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
    connection.exec_driver_sql(f"insert into {name} ({columns}) values ({marks})", [*rows])


def name_table(connection: sa.Connection | sa.Engine, table: sa.Table) -> str:
    """A table of ours as SQL names it."""
    quote = connection.dialect.identifier_preparer.quote
    schema = connections.find_schema(connection.engine)
    return ".".join(map(quote, filter(None, [schema, table.name])))


def analyze(connection: sa.Connection, table: sa.Table) -> None:
    """Let PostgreSQL look at what a table holds, which it does by itself a minute later.

    Until then it expects a handful of rows, and looks each of them up. A login that does not own
    the table changes nothing, without an error.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"analyze {name_table(connection, table)}")


def _copy(connection: sa.Connection, statement: str, batch: "pa.RecordBatch") -> None:
    """As CSV: text in quotes, so that an empty field is null; floats to the last bit."""
    import pyarrow as pa
    from pyarrow import csv

    sink = pa.BufferOutputStream()
    csv.write_csv(batch, sink, csv.WriteOptions(include_header=False))
    with (
        faults.as_dbapi_error(connection.dialect.loaded_dbapi.Error, statement=statement),
        closing(connection.connection.cursor()) as cursor,
        cursor.copy(statement) as copy,
    ):
        copy.write(sink.getvalue())


def _copy_in_bulk(engine: sa.Engine, table: sa.Table, batch: "pa.RecordBatch") -> None:
    """By mssql-python, on a connection of its own, without a lock on the table.

    Not tried again: nobody knows then which of its transactions arrived.
    """
    from abatch.database import reading  # pandas, which commands have no need of

    name, columns = name_table(engine, table), batch.schema.names
    try:
        with (
            reading.open_mssql_python(engine) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.bulkcopy_arrow(
                name,
                batch,
                batch_size=BATCH_ROWS,
                timeout=BULK_SECONDS,
                column_mappings=columns,
                check_constraints=True,
                keep_nulls=True,
                use_internal_transaction=True,
            )
    except BaseException as error:  # as a panic of its Rust is
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if re.search("PRIMARY KEY|duplicate key", str(error)):
            raise sa.exc.IntegrityError(f"bulk copy into {name}", None, error) from error
        is_told = isinstance(error, sa.exc.SQLAlchemyError)
        reason = faults.describe(error) if is_told else " ".join(str(error).split())
        raise DatabaseError(
            f"{faults.show_url(engine)}: bulk copy into {name} failed: {reason.rstrip('.')}"
            f" ({type(error).__name__}). Nothing was published. Run the job again; if it fails"
            " again, leave out the environment's bulk."
        ) from error


def find_batch(
    connection: sa.Connection,
    table: sa.Table,
    key: Mapping[str, Any],
    *where: sa.ColumnElement[bool],
) -> str | None:
    """The candidate_id with which the first BATCH_ROWS rows of a key end; None if it has none."""
    ids = sa.select(table.c.candidate_id).filter_by(**key).where(*where)
    first = ids.order_by(table.c.candidate_id).limit(BATCH_ROWS).subquery()
    return connection.scalar(sa.select(sa.func.max(first.c.candidate_id)))


def delete_batch(
    connection: sa.Connection,
    table: sa.Table,
    key: Mapping[str, Any],
    last: str,
    *where: sa.ColumnElement[bool],
) -> None:
    """Delete rows of a key up to what `find_batch` found."""
    rows = table.delete().filter_by(**key).where(*where)
    connection.execute(rows.where(table.c.candidate_id <= last))


def replace_rows(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    run_id: str,
    **key: Any,
) -> None:
    """Write a run's rows in the place of those of the same key.

    Parameters
    ----------
    rows : without run_id and the columns of the key; if there are none, the earlier ones go
    key : values that some columns have in all the rows, and in no others of the table
    """
    connection.execute(table.delete().filter_by(**key))
    if rows:
        same = {**key, "run_id": run_id}
        connection.execute(table.insert(), [{**row, **same} for row in rows])
