"""Queries of the user's, read in chunks: as Arrow record batches where a driver does that right,
else row by row.

The frames have the same types on every database and with every driver.
"""

import importlib
import itertools
import logging
import re
import sqlite3
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.database import connections, faults, tables
from abatch.errors import ConfigError, DataError, suggest
from abatch.queries import Query, Window, clean_query

if TYPE_CHECKING:
    import pyarrow as pa

BIND_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "from_date": sa.Date(),
    "to_date": sa.Date(),
    "as_of": tables.Instant,
}
ADBC_BATCH_BYTES = "4000000"
ADBC_TYPES = set(
    [
        "bool",
        "int2",
        "int4",
        "int8",
        "float4",
        "float8",
        "numeric",
        "money",
        "text",
        "varchar",
        "bpchar",
        "name",
        "date",
        "timestamp",
        "timestamptz",
        "uuid",
        "bytea",
    ]
)
logger = logging.getLogger("abatch")

_BIND = re.compile(r"(?<![:\w\\]):(\w+)::")
_BIND = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")  # as SQLAlchemy's text() sees it


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
    binds = {**window._asdict(), "as_of": as_of}
    with faults.described(query.file):
        for attempt in faults.attempts(engine):
            with attempt:
                frames = _read(engine, query, binds, chunk_rows)
                first = list(itertools.islice(frames, 1))
        with closing(frames):
            yield from first
            yield from frames


def read_query(
    engine: sa.Engine, query: Query, window: Window, as_of: datetime, *, chunk_rows: int = 50_000
) -> pd.DataFrame:
    """The whole result of a query in one frame; without columns if there are no rows.

    Parameters, columns and errors are those of `stream_query`; after a transient error the whole
    query is read again.
    """
    binds = {**window._asdict(), "as_of": as_of}
    with faults.described(query.file):
        for attempt in faults.attempts(engine):
            with attempt:
                frames = list(_read(engine, query, binds, chunk_rows))
    return _join(frames)


def require_columns(frame: pd.DataFrame, required: Sequence[str]) -> None:
    """Raise DataError unless the query returned these columns by name."""
    for name in required:
        if name not in frame.columns:
            raise DataError(
                f"the column {name} is missing; found {', '.join(map(str, frame.columns))}. Name"
                f" it in the query.{suggest(name, frame.columns)}"
            )


def _join(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """One frame; a column that holds only nulls in some of them gets the type that it has in the
    others.
    """
    if not frames:
        return pd.DataFrame()
    types: dict[str, Any] = {}
    for frame in frames:
        types.update(
            (name, column.dtype)
            for name, column in frame.items()
            if name not in types and column.notna().any()
        )
    nullable = {name: pd.Int64Dtype() if kind == "int64" else kind for name, kind in types.items()}
    same = (
        frame.astype({name: nullable[name] for name in types if frame[name].isna().all()})
        for frame in frames
    )
    return pd.concat(same, ignore_index=True)


def _read(
    engine: sa.Engine, query: Query, given: dict[str, Any], chunk_rows: int
) -> Generator[pd.DataFrame, None, None]:
    """Frames of the query's rows by the best driver at hand."""
    text = clean_query(query.text)
    binds = {}
    for name in _BIND.findall(text):
        if name not in given:
            raise ConfigError(
                f"{query.file}: unknown bind :{name}; expected"
                f" :{', :'.join(given)}.{suggest(name, given)}"
            )
        binds[name] = given[name]
    frames = _read_by_best_driver(engine, text, binds, chunk_rows)
    with closing(frames):
        names = None
        for frame in frames:
            if names is None:
                names = list(frame.columns)
                twice = sorted({name for name in names if names.count(name) > 1})
                if twice:
                    raise ConfigError(
                        f"{query.file}: returns two columns of the name {', '.join(twice)}."
                        " Give each its own name."
                    )
            if len(frame):
                yield frame
        if names is None:
            raise ConfigError(
                f"{query.file}: is not a query that returns rows; expected one select. Nothing was"
                " changed."
            )


Frames = Generator[pd.DataFrame, None, None]


class _NotAsArrow(Exception):
    """Why an Arrow driver cannot read this; raised before the first frame."""


Reader = Callable[[sa.Engine, str, dict[str, Any], int], Frames]


def _choose_reader(engine: sa.Engine) -> Reader:
    if engine.dialect.name == "postgresql" and _load("adbc_driver_postgresql.dbapi"):
        return _read_adbc
    if engine.dialect.name == "mssql" and _load("mssql_python"):
        return _read_mssql_python
    return _read_rows


def _read_by_best_driver(
    engine: sa.Engine, text: str, binds: dict[str, Any], chunk_rows: int
) -> Frames:
    try:
        yield from _choose_reader(engine)(engine, text, binds, chunk_rows)
    except _NotAsArrow as reason:
        logger.warning("rows are read by the plain driver, which takes longer: %s", reason)
        yield from _read_rows(engine, text, binds, chunk_rows)


@cache
def _load(module: str) -> Any:
    """A driver that reads Arrow, or None where it is not installed."""
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


def _read_rows(engine: sa.Engine, text: str, binds: dict[str, Any], chunk_rows: int) -> Frames:
    """The engine's own driver, row by row."""
    if engine.dialect.name == "sqlite":
        engine = _make_typed_engine(engine.url)
    with (
        engine.connect() as connection,
        closing(
            connection.execution_options(yield_per=chunk_rows).execute(_bind(text, binds))
        ) as result,
    ):
        if result.returns_rows:
            names = list(result.keys())
            yield _make_frame(names, (_read_values([]) for _ in names))
            for rows in result.partitions(chunk_rows):
                yield _make_frame(
                    names, (_read_values(list(values)) for values in zip(*rows, strict=True))
                )


@cache
def _make_typed_engine(url: sa.URL) -> sa.Engine:
    """SQLite tells the declared type of a column only to a connection that was opened for it."""
    options = {"timeout": faults.SQLITE_WAIT_SECONDS, "detect_types": sqlite3.PARSE_DECLTYPES}
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=options)
    connections.begin_transactions_ourselves(engine)
    return engine


def _convert_declared(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    def convert(value: bytes) -> object:
        try:
            return parse(value.decode())
        except (
            ValueError
        ):  # SQLite keeps anything anywhere; whoever uses the column will say what is wrong
            return value.decode(errors="replace")

    return convert


for _names, _parse in (
    ("date", date.fromisoformat),
    (
        "datetime datetime2 datetimeoffset smalldatetime timestamp timestamptz",
        datetime.fromisoformat,
    ),
    ("uniqueidentifier uuid", str.lower),
):
    for _name in _names.split():
        sqlite3.register_converter(_name, _convert_declared(_parse))


def _bind(text: str, binds: dict[str, Any]) -> sa.TextClause:
    return sa.text(text).bindparams(
        *(sa.bindparam(name, value, type_=BIND_TYPES[name]) for name, value in binds.items())
    )


def _read_adbc(engine: sa.Engine, text: str, binds: dict[str, Any], chunk_rows: int) -> Frames:
    """PostgreSQL's COPY as Arrow.

    COPY takes no parameters, so they are bound to settings of the transaction, which it reads.
    """
    import psycopg
    import pyarrow as pa
    from psycopg.conninfo import make_conninfo

    dbapi = _load("adbc_driver_postgresql.dbapi")
    _, options = engine.dialect.create_connect_args(engine.url)
    options.pop("context", None)  # psycopg's own
    settings = {
        "TimeZone": "UTC",
        "lock_timeout": f"{faults.LOCK_WAIT_SECONDS}s",
        "transaction_read_only": "on",
    }
    settings |= {f"abatch.{name}": str(value) for name, value in binds.items()}
    types = {name: "timestamp" if name == "as_of" else "date" for name in binds}
    copied = _BIND.sub(
        lambda bind: f"(current_setting('abatch.{bind[1]}')::{types[bind[1]]})", text
    ).replace(r"\:", ":")
    try:
        connection = dbapi.connect(make_conninfo(**options))
    except psycopg.Error:
        raise _NotAsArrow("ADBC does not know all options of the URL") from None
    except dbapi.Error as error:
        raise _NotAsArrow(f"ADBC does not connect ({faults.describe(error)})") from None
    with (
        faults.as_dbapi_error(dbapi.Error, OSError, pa.ArrowException),
        closing(connection),
        closing(connection.cursor()) as cursor,
    ):
        cursor.adbc_statement.set_options(
            **{"adbc.postgresql.batch_size_hint_bytes": ADBC_BATCH_BYTES}
        )
        set_all = ", ".join(
            f"set_config('{name}', ${i}, true)" for i, name in enumerate(settings, 1)
        )
        cursor.execute(f"select {set_all}", list(settings.values()))
        cursor.fetchall()
        schema = cursor.adbc_execute_schema(copied)
        strange = [field.name for field in schema if _read_postgresql_type(field) not in ADBC_TYPES]
        if strange:
            raise _NotAsArrow(f"ADBC does not know the type of {', '.join(strange)}")
        if len(schema):
            cursor.execute(copied)
            yield from _make_frames(cursor.fetch_record_batch(), chunk_rows)


def _read_mssql_python(
    engine: sa.Engine, text: str, binds: dict[str, Any], chunk_rows: int
) -> Frames:
    """SQL Server's rows as Arrow.

    Mssql-python brings a driver of its own, of the same kind as the one that the URL names.
    """
    driver = _load("mssql_python")
    (odbc,), _ = engine.dialect.create_connect_args(engine.url)
    named = re.search(
        r"(?:^|;)\s*driver\s*=\s*\{?(ODBC Driver \d+ for SQL Server)\}?;?", odbc, re.IGNORECASE
    )
    if named is None:
        raise _NotAsArrow(
            "the URL names no driver of Microsoft's, which mssql-python could stand for"
        )
    odbc = odbc.replace(named[0], ";")
    compiled = _bind(text, binds).compile(dialect=engine.dialect)
    values = [binds[name] for name in getattr(compiled, "positiontup", None) or []]
    driver.pooling(enabled=False)
    try:
        connection = driver.connect(odbc)
    except driver.exceptions.ConnectionStringParseError:  # its text may hold a piece of a password
        raise _NotAsArrow("mssql-python does not know all options of the URL") from None
    except (driver.Error, OSError, RuntimeError) as error:
        raise _NotAsArrow(f"mssql-python does not connect ({faults.describe(error)})") from None
    with (
        faults.as_dbapi_error(driver.Error),
        closing(connection),
        closing(connection.cursor()) as cursor,
    ):
        cursor.execute(f"set lock_timeout {faults.LOCK_WAIT_SECONDS * 1000}")
        cursor.execute(str(compiled), values)
        if cursor.description:
            try:
                batches = cursor.arrow_reader(batch_size=chunk_rows)
            except RuntimeError as error:
                raise _NotAsArrow(
                    f"mssql-python does not know the type of a column ({error})"
                ) from None
            uuids = [i for i, column in enumerate(cursor.description) if column[1] is UUID]
            yield from _make_frames(batches, chunk_rows, uuids)


def _make_frames(
    batches: Any, chunk_rows: int, uuids: Collection[int] = ()
) -> Iterator[pd.DataFrame]:
    """Frames of `chunk_rows` rows from Arrow record batches of any size.

    The first is empty, and tells the columns.
    """
    import pyarrow as pa

    table = batches.schema.empty_table()
    yield _read_table(table, uuids)
    for batch in batches:
        table = pa.concat_tables([table, pa.Table.from_batches([batch])])
        while len(table) >= chunk_rows:
            yield _read_table(table[:chunk_rows], uuids)
            table = table[chunk_rows:]
    yield _read_table(table, uuids)


def _read_table(table: "pa.Table", uuids: Collection[int]) -> pd.DataFrame:
    columns = (_read_column(table.field(i), table.column(i)) for i in range(table.num_columns))
    return _make_frame(
        table.column_names,
        (column.str.lower() if i in uuids else column for i, column in enumerate(columns)),
    )


def _read_column(field: "pa.Field", column: "pa.ChunkedArray") -> pd.Series:
    """An Arrow column as `stream_query` promises it.

    What Arrow has no type for goes by its Python values.
    """
    import pyarrow as pa

    kind, postgresql_type = field.type, _read_postgresql_type(field)
    if column.null_count == len(column):
        return _read_values([None] * len(column))
    if postgresql_type == "money":  # in hundredths
        return column.cast(pa.float64()).to_pandas() / 100
    if postgresql_type == "numeric":  # as text
        modifier = int(field.metadata[b"POSTGRESQL:typmod"])
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], pa.string())
        if modifier >= 4 and (modifier - 4) & 0x7FF == 0:  # declared without a fraction
            return _read_values(
                [None if value is None else Decimal(value) for value in column.to_pylist()]
            )
        return column.cast(pa.float64()).to_pandas()
    if (
        pa.types.is_decimal(kind) and kind.scale > 0
    ):  # by way of text: Arrow's own cast misses the nearest float
        return column.cast(pa.string()).cast(pa.float64()).to_pandas()
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.int64()).to_pandas(
            types_mapper={pa.int64(): pd.Int64Dtype()}.get if column.null_count else None
        )
    if pa.types.is_floating(kind):
        return column.cast(pa.float64()).to_pandas()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.to_pandas().astype("str")
    if (pa.types.is_date32(kind) or pa.types.is_timestamp(kind)) and postgresql_type:
        _refuse_infinity(field.name, column)
    if pa.types.is_date32(kind):
        return column.to_pandas(date_as_object=False).astype("datetime64[s]")
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", "UTC" if kind.tz else None)).to_pandas()
    return _read_values(column.to_pylist())


def _refuse_infinity(name: str, column: "pa.ChunkedArray") -> None:
    """PostgreSQL's infinity comes as a day of the year -5877641 or so."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole, unit = (
        (pa.int32(), 1) if pa.types.is_date32(column.type) else (pa.int64(), 86_400_000_000)
    )  # days, microseconds
    ends = pc.min_max(column.cast(whole)).as_py()
    if ends["min"] < -719_162 * unit or ends["max"] >= 2_932_897 * unit:  # of the years 1 to 9999
        message = (
            f"the column {name} holds infinity, or a day outside the years 1 to 9999; leave it out,"
            " or put null in its place"
        )
        raise sa.exc.DBAPIError(None, None, ValueError(message))


def _read_postgresql_type(field: "pa.Field") -> str:
    return (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode()


def _read_values(values: list[Any]) -> pd.Series:
    """A column of Python values as `stream_query` promises it."""
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pd.Series(values, dtype="object")
    with suppress(OverflowError):  # a whole number beyond bigint
        if kinds <= {int, bool, Decimal} and all(
            _is_whole(value) for value in values if isinstance(value, Decimal)
        ):
            whole = [None if value is None else int(value) for value in values]
            return pd.Series(whole, dtype="Int64" if None in whole else "int64")
    if kinds <= {int, bool, Decimal, float}:
        return pd.Series(
            [np.nan if value is None else float(value) for value in values], dtype="float64"
        )
    if kinds == {str}:
        return pd.Series(values, dtype="str")
    if kinds == {UUID}:
        return pd.Series([None if value is None else str(value) for value in values], dtype="str")
    if kinds == {date}:
        return pd.Series(np.array(values, dtype="datetime64[s]"))
    if kinds == {datetime}:
        zoned = {value.tzinfo is not None for value in values if value is not None}
        if zoned == {False}:
            return pd.Series(np.array(values, dtype="datetime64[us]"))
        if zoned == {True}:
            utc = [
                None if value is None else value.astimezone(UTC).replace(tzinfo=None)
                for value in values
            ]
            return pd.Series(np.array(utc, dtype="datetime64[us]")).dt.tz_localize("UTC")
    return pd.Series(values, dtype="object")


def _is_whole(value: Decimal) -> bool:
    """Whether a decimal was declared without a fraction: 5, not 5.00."""
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= 0


def _make_frame(names: list[str], columns: Iterable[pd.Series]) -> pd.DataFrame:
    frame = pd.DataFrame(dict(enumerate(columns)))
    frame.columns = pd.Index(names, dtype="object")
    return frame
