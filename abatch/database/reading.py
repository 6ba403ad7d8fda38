"""Queries of the user's, read in chunks, of the same types on every database with every driver.

They come as Arrow record batches where a driver does that right, else row by row.
"""

import importlib
import itertools
import logging
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pandas as pd
import sqlalchemy as sa

from abatch.database import faults, isolation, sqlite_arrow, sqlite_columns, tables
from abatch.errors import ConfigError, DataError, ReadAgain, suggest
from abatch.queries import Query, Window, clean_query

if TYPE_CHECKING:
    import pyarrow as pa

ADBC_BATCH_BYTES = "4000000"
ADBC_TYPES = re.compile(
    "bool|int[248]|float[48]|numeric|money|text|varchar|bpchar|name|date|timestamp(tz)?|uuid|bytea"
)
Frames = Generator[pd.DataFrame, None, None]
logger = logging.getLogger("abatch")

_BIND = re.compile(r"(?<![:\w\\]):(\w+)(?![:\w])")  # as SQLAlchemy's text() sees it


def stream_query(
    engine: sa.Engine, query: Query, window: Window, as_of: datetime, *, chunk_rows: int = 50_000
) -> Iterator[pd.DataFrame]:
    """Yield the result of a query in frames of at most `chunk_rows` rows.

    Nothing if there are no rows. Columns are int64 (Int64 with nulls) for integers, bits and
    decimals without a fraction; float64 for other numbers and money; str for text and, in lower
    case, for UUIDs; datetime64 for dates and instants, in UTC where the source has a time zone. A
    column of nulls alone, or of values of several kinds, is object. After a transient error the
    query is begun again, but not once the first frame is out.

    Parameters
    ----------
    query : one select with the binds :from_date, :to_date (upper end excluded), :as_of; it may
        leave some out
    window : the first two binds
    as_of : the third, naive UTC

    Raises
    ------
    ConfigError
        If the query has another bind, two columns of one name, or returns no rows but does
        something.
    DatabaseError
        If the database refuses it.
    """
    with faults.described(query.file):
        for attempt in faults.attempts(engine):
            with attempt:
                frames = _read(engine, query, window, as_of, chunk_rows)
                first = list(itertools.islice(frames, 1))
        with closing(frames):
            yield from first
            yield from frames


def read_query(
    engine: sa.Engine,
    query: Query,
    window: Window,
    as_of: datetime,
    *,
    chunk_rows: int = 50_000,
    check: Callable[[pd.DataFrame], object] = lambda frame: None,
) -> pd.DataFrame:
    """Return the whole result of a query in one frame; without columns if there are no rows.

    Parameters, columns and errors are those of `stream_query`; after a transient error the whole
    query is read again.

    Parameters
    ----------
    check : called with the first rows, before the others are read; it may raise
    """

    def read() -> list[pd.DataFrame]:
        with closing(_read(engine, query, window, as_of, chunk_rows)) as frames:
            first = [*itertools.islice(frames, 1)]
            for frame in first:
                check(frame)
            return [*first, *frames]

    with faults.described(query.file):
        for attempt in faults.attempts(engine):
            with attempt:
                try:
                    frames = read()
                except ReadAgain:
                    frames = read()
    return _join(frames)


def stream_own(
    connection: sa.Connection, query: tables.Select, chunk_rows: int, *, is_apart: bool = False
) -> Iterator[pd.DataFrame]:
    """Yield rows of tables of ours in frames of at most `chunk_rows`, types as drivers have them.

    Parameters
    ----------
    is_apart : whether a connection of its own may read them, as `stream_query` does, which does not
        see what this transaction has written; for SQLite it would be another process, which costs
        more than it saves
    """
    import pyarrow as pa

    if is_apart and connection.dialect.name != "sqlite":
        schemas = connection.get_execution_options().get("schema_translate_map")
        compiled = query.compile(
            connection.engine,
            schema_translate_map=schemas,
            render_schema_translate=schemas is not None,
            compile_kwargs={"literal_binds": True},
        )
        named, nights = Query("a table of abatch", str(compiled)), Window(date.min, date.max)
        yield from stream_query(
            connection.engine, named, nights, datetime.min, chunk_rows=chunk_rows
        )
        return
    with closing(connection.execute(query)) as result:
        assert result.cursor is not None
        names = [*result.keys()]
        while rows := result.cursor.fetchmany(chunk_rows):
            columns = [pa.array(column) for column in zip(*rows, strict=True)]  # sooner than pandas
            yield pa.table(columns, names).to_pandas()


def require_columns(frame: pd.DataFrame, required: Sequence[str]) -> None:
    """Raise DataError unless the query returned these columns by name."""
    for name in required:
        if name not in frame.columns:
            raise DataError(
                f"the column {name} is missing; found {', '.join(map(str, frame.columns))}. Name"
                f" it in the query.{suggest(name, frame.columns)}"
            )


def _join(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Make one frame; a column of only nulls in some frames gets the type that it has in others."""
    if not frames:
        return pd.DataFrame()
    types: dict[str, Any] = {}
    for frame in reversed(frames):
        types.update(frame.dtypes[frame.notna().any()])
    types = {name: "Int64" if kind == "int64" else kind for name, kind in types.items()}
    same = (
        frame.astype({name: types[name] for name in types if frame[name].isna().all()})
        for frame in frames
    )
    return pd.concat(same, ignore_index=True)


def _read(
    engine: sa.Engine, query: Query, window: Window, as_of: datetime, chunk_rows: int
) -> Frames:
    """Read frames of the query's rows by the best driver at hand."""
    cleaned = clean_query(query.text)
    if not cleaned:
        raise ConfigError(f"{query.file}: holds nothing but comments; expected one select.")
    statement = sa.text(cleaned)
    given = {**window._asdict(), "as_of": as_of}
    for name in statement.compile().params:
        if name not in given:
            raise ConfigError(
                f"{query.file}: unknown bind :{name}; expected"
                f" :{', :'.join(given)}.{suggest(name, given)}"
            )
        kind = tables.Instant if name == "as_of" else sa.Date()
        statement = statement.bindparams(sa.bindparam(name, given[name], kind))
    with closing(_read_by_best_driver(engine, statement, chunk_rows)) as frames:
        empty = next(frames, None)
        if empty is None:
            raise ConfigError(
                f"{query.file}: is not a query that returns rows; expected one select. Nothing was"
                " changed."
            )
        if twice := sorted(set(empty.columns[empty.columns.duplicated()])):
            raise ConfigError(
                f"{query.file}: returns two columns of the name {', '.join(twice)}."
                " Give each its own name."
            )
        yield from (frame for frame in frames if len(frame))


class _NotAsArrow(Exception):
    """Why an Arrow driver cannot read this; raised before the first frame."""


@contextmanager
def _connecting(driver: str, unknown: type[Exception], *refused: type[Exception]) -> Iterator[None]:
    try:
        yield
    except unknown:  # its text may hold a piece of a password
        raise _NotAsArrow(f"{driver} does not know all options of the URL") from None
    except refused as error:
        raise _NotAsArrow(f"{driver} does not connect ({faults.describe(error)})") from None


def _choose_reader(engine: sa.Engine) -> Callable[[sa.Engine, sa.TextClause, int], Frames]:
    """What a reader yields first is a frame without rows, which tells the columns."""
    if engine.dialect.name == "postgresql" and _load("adbc_driver_postgresql.dbapi"):
        return _read_adbc
    if engine.dialect.name == "mssql" and _load("mssql_python"):
        return _read_mssql_python
    if engine.dialect.name == "sqlite" and _load("adbc_driver_sqlite"):
        return _read_sqlite
    return _read_rows


def _read_by_best_driver(engine: sa.Engine, statement: sa.TextClause, chunk_rows: int) -> Frames:
    try:
        yield from _choose_reader(engine)(engine, statement, chunk_rows)
    except _NotAsArrow as reason:
        logger.warning("rows are read by the plain driver, which takes longer: %s", reason)
        yield from _read_rows(engine, statement, chunk_rows)


def find_file(engine: sa.Engine) -> str | None:
    """SQLite's file, which ADBC can open; None for other databases, or without ADBC."""
    is_plain = engine.dialect.name == "sqlite" and engine.url.database and not engine.url.query
    return engine.url.database if is_plain and _load("adbc_driver_sqlite") else None


@cache
def _load(module: str) -> Any:
    """Load a driver that reads Arrow, or None where it is not installed."""
    try:
        importlib.import_module("pyarrow")
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        logger.warning(
            "%s cannot be loaded (%s): rows are read by the plain driver, which takes longer",
            module,
            error,
        )
        return None


def _read_rows(engine: sa.Engine, statement: sa.TextClause, chunk_rows: int) -> Frames:
    """Read by the engine's own driver, row by row."""
    if engine.dialect.name == "sqlite":
        engine = sqlite_columns.make_typed_engine(engine.url)
    options = {"yield_per": chunk_rows, "postgresql_readonly": True}
    with engine.connect().execution_options(**options) as connection:
        if isolation.is_chosen(engine):
            connection.detach()  # closed for real at the end, and its isolation with it
            isolation.set_snapshot(connection.connection.dbapi_connection)
        with closing(connection.execute(statement)) as result:
            if result.returns_rows:
                names = list(result.keys())
                yield pd.DataFrame(columns=names)
                yield from _make_row_frames(names, result, chunk_rows)


def _make_row_frames(names: list[str], rows: Iterable[sa.Row[Any]], chunk_rows: int) -> Frames:
    rows = iter(rows)
    while chunk := [*itertools.islice(rows, chunk_rows)]:
        yield _make_frame(names, map(_read_values, zip(*chunk, strict=True)))


PROBED_ROWS = 20_000  # a result with fewer is read without a process of its own
_MIXED: set[str] = set()  # queries whose columns hold values of several kinds


def _read_sqlite(engine: sa.Engine, statement: sa.TextClause, chunk_rows: int) -> Frames:
    """Read the first rows by Python's own driver, and all as Arrow if there are many.

    SQLite keeps values of any kind in a column, and Arrow does not: such a query is read again.
    """
    sql = str(statement.compile(engine, compile_kwargs={"literal_binds": True}))
    typed_engine = sqlite_columns.make_typed_engine(engine.url)
    with (
        typed_engine.connect().execution_options(yield_per=PROBED_ROWS) as typed,
        closing(typed.execute(statement)) as result,
    ):
        if not result.returns_rows:
            return
        names, probed = list(result.keys()), result.fetchmany(PROBED_ROWS)
        yield pd.DataFrame(columns=names)
        columns = [sqlite_columns.Probed.of(column) for column in zip(*probed, strict=True)]
        is_plain = all(column.kinds in sqlite_columns.ARROW_KINDS for column in columns)
        path = find_file(engine) if len(probed) == PROBED_ROWS else None
        if path is None or sql in _MIXED or not is_plain:
            yield from _make_row_frames(names, itertools.chain(probed, result), chunk_rows)
            return
    del probed
    is_begun = False
    try:
        for table in sqlite_columns.read_tables(path, sql, columns, chunk_rows):
            yield _read_table(table.rename_columns(names))
            is_begun = True
    except sqlite_arrow.ReaderFailed as reason:
        is_ended = isinstance(reason, sqlite_arrow.ReaderEnded)
        level = logging.WARNING if is_ended else logging.INFO
        logger.log(level, "rows are read one by one, which takes longer: %s", reason)
        _MIXED.add(sql)
        if is_begun:
            raise ReadAgain(f"the rows must be read again, one by one: {reason}") from None
        yield from itertools.islice(_read_rows(engine, statement, chunk_rows), 1, None)


def _read_adbc(engine: sa.Engine, statement: sa.TextClause, chunk_rows: int) -> Frames:
    """Read PostgreSQL's COPY as Arrow.

    COPY takes no parameters, so they are written into the query: they are dates and nothing else.
    """
    import psycopg
    import pyarrow as pa
    from psycopg.conninfo import make_conninfo

    dbapi = _load("adbc_driver_postgresql.dbapi")
    _, options = engine.dialect.create_connect_args(engine.url)
    options.pop("context", None)  # psycopg's own
    binds = statement.compile().params

    def write_literal(bind: re.Match[str]) -> str:
        return f"('{binds[bind[1]]}'::{'timestamp' if bind[1] == 'as_of' else 'date'})"

    copied = _BIND.sub(write_literal, statement.text).replace(r"\:", ":")
    with _connecting("ADBC", psycopg.Error, dbapi.Error):
        connection = dbapi.connect(make_conninfo(**options))
    with (
        faults.as_dbapi_error(dbapi.Error, OSError, pa.ArrowException),
        closing(connection),
        closing(connection.cursor()) as cursor,
    ):
        cursor.adbc_statement.set_options(
            **{"adbc.postgresql.batch_size_hint_bytes": ADBC_BATCH_BYTES}
        )
        cursor.execute(
            "select set_config('TimeZone', 'UTC', true), set_config('transaction_read_only', 'on',"
            f" true), set_config('lock_timeout', '{faults.LOCK_WAIT_SECONDS}s', true)"
        )
        cursor.fetchall()
        schema = cursor.adbc_execute_schema(copied)
        kinds = {field.name: _read_postgresql_type(field) for field in schema}
        if strange := [name for name, kind in kinds.items() if not ADBC_TYPES.fullmatch(kind)]:
            raise _NotAsArrow(f"ADBC does not know the type of {', '.join(strange)}")
        if len(schema):
            cursor.execute(copied)
            yield from _make_frames(cursor.fetch_record_batch(), chunk_rows)


@contextmanager
def open_mssql_python(engine: sa.Engine) -> Iterator[Any]:
    """Connect by mssql-python, whose own driver is of the same kind as the one the URL names."""
    driver = _load("mssql_python")
    if driver is None:
        raise _NotAsArrow("mssql-python cannot be loaded")
    (odbc,), _ = engine.dialect.create_connect_args(engine.url)
    named = re.search(
        r"(?:^|;)\s*driver\s*=\s*\{?(ODBC Driver \d+ for SQL Server)\}?;?", odbc, re.IGNORECASE
    )
    if named is None:
        raise _NotAsArrow(
            "the URL names no driver of Microsoft's, which mssql-python could stand for"
        )
    driver.pooling(enabled=False)
    unknown = driver.exceptions.ConnectionStringParseError
    with _connecting("mssql-python", unknown, driver.Error, OSError, RuntimeError):
        connection = driver.connect(odbc.replace(named[0], ";"))
    with faults.as_dbapi_error(driver.Error), closing(connection):
        yield connection


def _read_mssql_python(engine: sa.Engine, statement: sa.TextClause, chunk_rows: int) -> Frames:
    """Read SQL Server's rows as Arrow."""
    compiled: Any = statement.compile(dialect=engine.dialect)
    values = [compiled.params[name] for name in compiled.positiontup or []]
    with open_mssql_python(engine) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(f"set lock_timeout {faults.LOCK_WAIT_SECONDS * 1000}")
        if isolation.is_chosen(engine):
            isolation.set_snapshot(connection)
        cursor.execute(str(compiled), values)
        if cursor.description:
            try:
                batches = cursor.arrow_reader(batch_size=chunk_rows)
            except RuntimeError as error:
                raise _NotAsArrow(
                    f"mssql-python does not know the type of a column ({error})"
                ) from None
            uuids = [i for i, column in enumerate(cursor.description) if column[1] is UUID]
            for frame in _make_frames(batches, chunk_rows):
                for i in uuids:
                    frame.isetitem(i, frame.iloc[:, i].str.lower())
                yield frame


def _make_frames(batches: Any, chunk_rows: int) -> Frames:
    """Make frames of `chunk_rows` rows from Arrow record batches of any size."""
    import pyarrow as pa

    table = batches.schema.empty_table()
    yield _read_table(table)
    for batch in batches:
        table = pa.concat_tables([table, pa.Table.from_batches([batch])])
        while len(table) >= chunk_rows:
            yield _read_table(table[:chunk_rows])
            table = table[chunk_rows:]
    yield _read_table(table)


def _read_table(table: "pa.Table") -> pd.DataFrame:
    return _make_frame(table.column_names, map(_read_column, table.schema, table.columns))


def _read_column(field: "pa.Field", column: "pa.ChunkedArray") -> pd.Series:
    """Make an Arrow column what `stream_query` promises.

    What Arrow has no type for goes by its Python values.
    """
    import pyarrow as pa
    from pyarrow import types

    kind, postgresql_type = field.type, _read_postgresql_type(field)
    if column.null_count == len(column):
        return _read_values([None] * len(column))
    if postgresql_type == "money":  # in hundredths
        return column.cast(pa.float64()).to_pandas() / 100
    if postgresql_type == "numeric" or types.is_decimal(kind):
        # ADBC has them so, and Arrow's own cast from decimals misses the nearest float
        text = column.cast(pa.string())
        try:
            column = text.cast(pa.int64() if _has_no_fraction(field) else pa.float64())
        except pa.ArrowInvalid:  # a whole number beyond bigint
            column = text.cast(pa.float64())
        kind = column.type
    if types.is_integer(kind) or types.is_boolean(kind):
        nullable = {pa.int64(): pd.Int64Dtype()}.get if column.null_count else None
        return column.cast(pa.int64()).to_pandas(types_mapper=nullable)
    if types.is_floating(kind):
        return column.cast(pa.float64()).to_pandas()
    if types.is_string(kind) or types.is_large_string(kind):
        return column.to_pandas().astype("str")
    if types.is_date32(kind) or types.is_timestamp(kind):
        return _read_times(field, column)
    return _read_values(column.to_pylist())


def _has_no_fraction(field: "pa.Field") -> bool:
    """Whether a decimal is declared so; PostgreSQL's modifier ends in eleven bits of scale."""
    if _read_postgresql_type(field):
        return (int(field.metadata[b"POSTGRESQL:typmod"]) - 4) & 0x7FF == 0
    return bool(field.type.scale == 0)


def _read_times(field: "pa.Field", column: "pa.ChunkedArray") -> pd.Series:
    """Read days or instants; PostgreSQL's infinity comes as a day of the year -5877641 or so."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        if _read_postgresql_type(field):
            pc.min_max(column).as_py()
    except OverflowError:  # as Python's dates end where ours do
        message = (
            f"the column {field.name} holds infinity, or a day outside the years 1 to 9999;"
            " leave it out, or put null in its place"
        )
        raise sa.exc.DBAPIError(None, None, ValueError(message)) from None
    if pa.types.is_date32(field.type):
        return column.to_pandas(date_as_object=False).astype("datetime64[s]")
    return column.cast(pa.timestamp("us", "UTC" if field.type.tz else None)).to_pandas()


def _read_postgresql_type(field: "pa.Field") -> str:
    return (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode()


def _read_values(values: Sequence[Any]) -> pd.Series:
    """Make a column of Python values what `stream_query` promises."""
    kinds, dtype = {*map(type, values)} - {type(None)}, "object"
    if sqlite_columns.Other in kinds:
        values = [str(value) if type(value) is sqlite_columns.Other else value for value in values]
        kinds = kinds - {sqlite_columns.Other} | {str}
    if kinds and kinds <= {int, bool, Decimal, float}:
        decimals = (value for value in values if isinstance(value, Decimal))
        # declared without a fraction: 5, not 5.00
        if float not in kinds and all(value.as_tuple().exponent == 0 for value in decimals):
            with suppress(OverflowError, TypeError):  # a whole number beyond bigint
                return pd.Series(values, dtype="Int64" if None in values else "int64")
        dtype = "float64"
    elif kinds in ({str}, {sqlite_columns.Lower}, {UUID}):
        dtype = "str"
    elif kinds == {date}:
        dtype = "datetime64[s]"
    elif kinds == {datetime}:
        zones = {value.tzinfo for value in values if value is not None}
        if zones == {None}:
            dtype = "datetime64[us]"
        elif None not in zones:
            dtype = "datetime64[us, UTC]"
    return pd.Series(values, dtype=dtype)


def _make_frame(names: list[str], columns: Iterable[pd.Series]) -> pd.DataFrame:
    frame = pd.DataFrame(dict(enumerate(columns)))
    frame.columns = pd.Index(names, dtype="object")
    return frame
