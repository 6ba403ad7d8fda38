"""The door to SQL: connect, read in chunks, write in transactions, hold a lock, say what went wrong."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa
from filelock import FileLock, Timeout
from pydantic import SecretStr
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from abatch import tables
from abatch.errors import ConfigError, DatabaseError, suggest

SQLITE_WAIT_SECONDS = 10
LOCK_WAIT_SECONDS = 60  # PostgreSQL
BIND_TYPES: dict[str, sa.types.TypeEngine] = {"from_date": sa.Date(), "to_date": sa.Date(), "as_of": tables.Instant}
_GET_APPLOCK = """set nocount on; declare @result int;
exec @result = sp_getapplock @Resource = :resource, @LockMode = 'Exclusive', @LockOwner = 'Session', @LockTimeout = 0;
select @result"""
_RELEASE_APPLOCK = "exec sp_releaseapplock @Resource = :resource, @LockOwner = 'Session'"
# Literals, quoted names and comments, in which a colon or a dash means nothing.
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\[[^\]]*\]|--[^\n]*|/\*.*?\*/""", re.DOTALL)


def make_engine(url: SecretStr, schema: str | None, base: Path, place: str) -> sa.Engine:
    """Return an engine for `url`; relative SQLite paths are relative to `base`. Nothing is connected yet.

    Raises
    ------
    ConfigError
        If the text is not a database URL, or its driver is not installed. The text itself is never shown.
    """
    try:
        parsed = sa.make_url(url.get_secret_value())
        options: dict[str, Any] = {}
        if parsed.get_backend_name() == "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise ConfigError(f"{place}: an SQLite database needs a file, as in sqlite:///data/dev.db.")
            parsed = parsed.set(database=str(base / parsed.database))
            options = {"connect_args": {"timeout": SQLITE_WAIT_SECONDS}}
        elif "@" in f"{parsed.host}{parsed.database}":  # the end of a password, which a message would show
            raise ConfigError(f"{place}: the value holds more than one @. Write an @ in a name or password as %40, a / as %2F.")
        elif parsed.get_backend_name() == "mssql" and parsed.get_driver_name() == "pyodbc":
            options = {"fast_executemany": True}
        engine = sa.create_engine(parsed, **options)
    except NoSuchModuleError as error:  # an ArgumentError too, so it comes first
        raise ConfigError(f"{place}: {error}. Expected mssql+pyodbc, postgresql+psycopg or sqlite.") from None
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"{place}: the value is not a database URL; expected for example sqlite:///data/dev.db"
            " or mssql+pyodbc://@SERVER/DATABASE?driver=ODBC+Driver+18+for+SQL+Server&Trusted_Connection=yes."
        ) from None
    except ImportError as error:
        raise ConfigError(
            f"{place}: the driver for {parsed.drivername} cannot be loaded ({error})."
            " Install requirements.lock; pyodbc also needs the system's unixodbc and Microsoft's ODBC Driver 18."
        ) from None
    if engine.dialect.name == "sqlite":
        _begin_transactions_ourselves(engine)
    elif engine.dialect.name == "postgresql":
        sa.event.listen(engine, "connect", _set_session)
    return engine.execution_options(schema_translate_map={None: schema}) if schema else engine


def _begin_transactions_ourselves(engine: sa.Engine) -> None:
    """Python's sqlite3 begins late and commits around DDL (SQLAlchemy, SQLite dialect, "transactional DDL")."""

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once: a reader that turns writer half-way is refused without waiting.
        connection.exec_driver_sql("begin immediate" if connection.get_execution_options().get("writes") else "begin")


def _set_session(connection: Any, _record: Any) -> None:
    """PostgreSQL compares :as_of, which is UTC without saying so, with timestamptz in the session's time zone."""
    connection.execute("set time zone 'UTC'")
    connection.execute(f"set lock_timeout = '{LOCK_WAIT_SECONDS}s'")
    connection.commit()


def find_schema(engine: sa.Engine) -> str | None:
    """The schema of abatch's own tables; None means the connection's own."""
    return (engine.get_execution_options().get("schema_translate_map") or {}).get(None)


def transaction(engine: sa.Engine) -> Any:
    """Begin a transaction that will write: `with transaction(engine) as connection:`."""
    return engine.execution_options(writes=True).begin()


def check_ready(engine: sa.Engine, environment: str) -> None:
    """Raise DatabaseError unless the database can be reached and holds abatch's tables at today's revision."""
    mend = f"Run: python -m abatch init --env {environment}"
    if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).exists():
        raise DatabaseError(f"{show_url(engine)}: there is no such file. {mend}")
    with described(show_url(engine)), engine.connect() as connection:
        schema = find_schema(engine)
        found_tables = sa.inspect(connection).get_table_names(schema=schema)
        if tables.VERSION_TABLE not in found_tables:
            raise DatabaseError(f"{show_url(engine)}: abatch has no tables here yet. {mend}")
        missing = sorted({table.name for table in tables.metadata.sorted_tables} - set(found_tables))
        if missing:
            raise DatabaseError(f"{show_url(engine)}: somebody removed abatch's table {', '.join(missing)}. Bring it back from a backup.")
        version = sa.table(tables.VERSION_TABLE, sa.column("version_num"), schema=schema)
        found = connection.scalar(sa.select(version.c.version_num))
        if found != tables.REVISION:
            raise DatabaseError(f"{show_url(engine)}: the tables are at revision {found}, expected {tables.REVISION}. {mend}")


def show_url(engine: sa.Engine) -> str:
    """The database in a message: never its password, nor any option that may hold one."""
    return engine.url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def described(place: str) -> Iterator[None]:
    """Turn whatever the database raises inside the block into one line that begins with `place`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise DatabaseError(f"{place}: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """The first cause of a database error in one line, with the mend where it is known."""
    while error.__context__ is not None and not error.__suppress_context__ and isinstance(error.__context__, SQLAlchemyError):
        error = error.__context__
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    message = " ".join(str(cause).split("\n", 1)[0].split())
    if "database is locked" in message or "database table is locked" in message:
        return f"the file is locked by another process (waited {SQLITE_WAIT_SECONDS} s). End that process, or run this job again later."
    if "lock timeout" in message:
        return f"a table is locked by another session (waited {LOCK_WAIT_SECONDS} s). End that session, or run this job again later."
    if "readonly database" in message or "unable to open database file" in message:
        return f"{message}. Check that the file and its folder can be written by this user."
    if "disk is full" in message:
        return f"{message}. Make room and run the job again."
    return f"the database refused: {message.rstrip('.')}."


def clean_query(sql: str) -> str:
    """The query without comments and closing semicolon; colons inside literals escaped, so that only binds are binds."""

    def keep(match: re.Match) -> str:
        piece = match.group()
        return " " if piece.startswith(("--", "/*")) else piece.replace(":", r"\:")

    return _QUOTED.sub(keep, sql).strip().removesuffix(";").strip()


def stream_query(
    engine: sa.Engine, sql: str, place: str, *, from_date: date, to_date: date, as_of: datetime, chunk_rows: int = 50_000
) -> Iterator[pd.DataFrame]:
    """Yield the result of a query in frames of at most `chunk_rows` rows; nothing if there are no rows.

    Parameters
    ----------
    sql : one select with the binds :from_date, :to_date (upper end excluded), :as_of; it may leave some out
    place : the query's file, for messages

    Raises
    ------
    ConfigError
        If the query has another bind, or two columns of one name.
    DatabaseError
        If the database refuses it.
    """
    given = {"from_date": from_date, "to_date": to_date, "as_of": as_of}
    statement = sa.text(clean_query(sql))
    binds = list(statement.compile().params)
    for bind in binds:
        if bind not in given:
            raise ConfigError(f"{place}: unknown bind :{bind}; expected :{', :'.join(given)}.{suggest(bind, given)}")
    statement = statement.bindparams(*(sa.bindparam(bind, given[bind], type_=BIND_TYPES[bind]) for bind in binds))
    with described(place), engine.connect() as connection:
        with closing(connection.execution_options(yield_per=chunk_rows).execute(statement)) as result:
            if not result.returns_rows:
                raise ConfigError(f"{place}: is not a query that returns rows; expected one select. Nothing was changed.")
            columns = list(result.keys())
            if len(set(columns)) < len(columns):
                twice = sorted({name for name in columns if columns.count(name) > 1})
                raise ConfigError(f"{place}: returns two columns of the name {', '.join(twice)}. Give each its own name.")
            for rows in result.partitions(chunk_rows):
                yield pd.DataFrame.from_records([tuple(row) for row in rows], columns=columns)


def read_query(engine: sa.Engine, sql: str, place: str, **binds: Any) -> pd.DataFrame:
    """The whole result of a query in one frame; an empty frame without columns if there are no rows."""
    chunks = list(stream_query(engine, sql, place, **binds))
    return pd.concat(chunks, ignore_index=True) if chunks else pd.DataFrame()


@contextmanager
def lock(engine: sa.Engine, name: str) -> Iterator[bool]:
    """Hold the lock `name` among all that use this database; yields False if somebody else holds it.

    The lock belongs to the process (SQLite: a file lock) or to a connection of its own (PostgreSQL, SQL Server), and dies
    with it: nothing is left behind to be cleaned up by hand.
    """
    if engine.dialect.name == "sqlite":
        held = FileLock(f"{engine.url.database}.{name}.lock")
        try:
            held.acquire(blocking=False)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise DatabaseError(f"{held.lock_file}: cannot be written ({error.strerror}). Check the folder's rights.") from None
        try:
            yield True
        finally:
            held.release()
        return
    schema = find_schema(engine)
    resource = f"{schema}.{name}"
    with described(show_url(engine)):
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()  # closed for real at the end, and the lock with it
    with connection:
        with described(show_url(engine)):
            if engine.dialect.name == "postgresql":
                key = int.from_bytes(hashlib.sha256(resource.encode()).digest()[:8], "big", signed=True)
                acquired = connection.scalar(sa.select(sa.func.pg_try_advisory_lock(key)))
                release: sa.Executable = sa.select(sa.func.pg_advisory_unlock(key))
            else:
                acquired = connection.scalar(sa.text(_GET_APPLOCK), {"resource": resource}) >= 0
                release = sa.text(_RELEASE_APPLOCK).bindparams(resource=resource)
        try:
            yield bool(acquired)
        finally:
            if acquired:  # the server would notice the closed connection only a moment later, and the next run be sent away
                with suppress(SQLAlchemyError):
                    connection.execute(release)
