"""The door to SQL: connect, read, write in transactions."""

import re
from collections.abc import Callable
from contextlib import closing
from ctypes import c_float
from decimal import Decimal
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID, uuid4

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from abatch.database import faults, tables
from abatch.database.faults import attempts, described, show_url
from abatch.errors import ConfigError, DatabaseError, suggest

P = ParamSpec("P")
T = TypeVar("T")


def make_engine(
    url: SecretStr,
    schema: str | None,
    base: Path,
    place: str,
    retry_seconds: float = 0,
    *,
    bulk: bool = False,
    isolation: str | None = None,
) -> sa.Engine:
    """Return an engine for `url`; relative SQLite paths are relative to `base`.

    Nothing is connected yet.

    Parameters
    ----------
    schema : of abatch's own tables; None means the connection's own
    place : where the URL is written, for messages
    retry_seconds : how long `transactions` and reads are tried again after a transient error
    bulk : whether nights are written by SQL Server's bulk copy
    isolation : snapshot, in which SQL Server reads the user's queries; None for its default

    Raises
    ------
    ConfigError
        If the text is not a database URL, its driver is not installed, or it has no bulk copy or
        isolation to choose. The text itself is never shown.
    """
    try:
        completed = _complete(sa.make_url(url.get_secret_value()), base, place)
        backend = completed.get_backend_name()
        if completed.get_driver_name() != _DRIVERS.get(backend):
            raise NoSuchModuleError(f"abatch does not work with {completed.drivername!r}")
        # A link that lay idle while a model was fitted may be dead.
        engine = sa.create_engine(completed, pool_pre_ping=True, **_OPTIONS.get(backend, {}))
    except NoSuchModuleError as error:  # an ArgumentError too, so it comes first
        near = suggest(completed.drivername, _SESSIONS)
        raise ConfigError(
            f"{place}: {error}. Expected mssql+pyodbc, postgresql+psycopg or sqlite.{near}"
        ) from None
    except (ArgumentError, ValueError, TypeError):
        raise ConfigError(
            f"{place}: the value is not a database URL; expected for example sqlite:///data/dev.db"
            " or mssql+pyodbc://@SERVER/DATABASE?driver=ODBC+Driver+18+for+SQL+Server&Trusted_Connection=yes."
        ) from None
    except ImportError as error:
        raise ConfigError(
            f"{place}: the driver for {completed.drivername} cannot be loaded ({error}). Install"
            " requirements.lock; pyodbc also needs the system's unixodbc and Microsoft's ODBC"
            " Driver 18."
        ) from None
    if schema and backend == "sqlite":
        raise ConfigError(
            f"{place}: schema is of a server's databases, and this is {backend}. Leave out schema."
        )
    for key, value in {"bulk": bulk, "isolation": isolation}.items():
        if value and backend != "mssql":
            raise ConfigError(
                f"{place}: {key} is of SQL Server, and this is {backend}. Leave out {key}."
            )
    _SESSIONS[backend](engine)
    schemas = {"schema_translate_map": {None: schema}} if schema else {}
    return engine.execution_options(
        retry_seconds=retry_seconds, bulk=bulk, isolation=isolation, **schemas
    )


def _complete(url: sa.URL, base: Path, place: str) -> sa.URL:
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigError(
                f"{place}: an SQLite database needs a file, as in sqlite:///data/dev.db."
            )
        return url.set(database=str(base / url.database))
    if "@" in f"{url.host}{url.database}":  # the end of a password, which a message would show
        raise ConfigError(
            f"{place}: the value holds more than one @. Write an @ in a name or password as"
            " %40, a / as %2F."
        )
    if url.get_backend_name() == "postgresql":
        return url.set(query={**_KEEPALIVES, **url.query})
    return _complete_odbc(url)


def _complete_odbc(url: sa.URL) -> sa.URL:
    """Add Encrypt=yes and Microsoft's driver, unless the URL says otherwise or names a DSN."""
    if "odbc_connect" in url.query:
        text = str(url.query["odbc_connect"])
        says = re.search(r"(^|;)\s*encrypt\s*=", text, re.IGNORECASE)
        return url if says else url.update_query_dict({"odbc_connect": f"{text};Encrypt=yes"})
    options = {
        "driver" if key.lower() == "driver" else key: value for key, value in url.query.items()
    }
    given = {key.lower(): key for key in options}
    if not url.username:  # SQLAlchemy writes it then, and would write it twice
        options.pop(given.get("trusted_connection", ""), None)
    if url.database:
        options.setdefault("driver", faults.ODBC_DRIVER)
    if "encrypt" not in given:
        options["Encrypt"] = "yes"
    return url.set(query=options)  # Microsoft's driver sends keepalives after 30 s by itself


def prepare_sqlite(engine: sa.Engine) -> None:
    """Wait for locks, and let SQLAlchemy begin: Python's own begins late, and commits around DDL.

    See "transactional DDL" in SQLAlchemy's pages on SQLite.
    """

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"pragma busy_timeout = {faults.SQLITE_WAIT_SECONDS * 1000:.0f}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once: a reader that turns writer half-way is refused without
        # waiting.
        connection.exec_driver_sql(
            "begin immediate" if connection.get_execution_options().get("writes") else "begin"
        )


def _prepare_postgresql(engine: sa.Engine) -> None:
    from psycopg.adapt import Loader

    class MoneyLoader(Loader):
        """Psycopg leaves money as the text that the server's locale makes of it."""

        def load(self, data: Any) -> Decimal:
            return Decimal(bytes(data).decode().replace("$", "").replace(",", ""))

    class RealLoader(Loader):
        """The number that the column holds, not the short decimal that stands for it."""

        def load(self, data: Any) -> Any:
            return c_float(float(bytes(data))).value

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.adapters.register_loader("money", MoneyLoader)
        connection.adapters.register_loader("float4", RealLoader)
        # It compares :as_of, which is UTC without saying so, with timestamptz in this time zone.
        connection.execute(
            "set time zone 'UTC'; set lc_monetary = 'C';"
            f" set lock_timeout = '{faults.LOCK_WAIT_SECONDS}s';"
            # The server misses a host that has died within a minute, and gives its locks back.
            " set tcp_keepalives_idle = 30; set tcp_keepalives_interval = 10;"
            " set tcp_keepalives_count = 3; set tcp_user_timeout = '60s'"
        )
        connection.commit()


def _prepare_mssql(engine: sa.Engine) -> None:
    pyodbc: Any = engine.dialect.loaded_dbapi
    pyodbc.pooling = False  # the engine has a pool; a second one below it would keep locks alive
    engine.dialect.insert_returning = False  # OUTPUT is refused where a table has a trigger

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        # Other drivers than Microsoft's crash in fast_executemany (FreeTDS: pyodbc's issues 381 and
        # 459).
        dialect: Any = engine.dialect
        connection.add_output_converter(pyodbc.SQL_GUID, lambda value: UUID(bytes_le=value))
        dialect.fast_executemany = "msodbcsql" in connection.getinfo(pyodbc.SQL_DRIVER_NAME).lower()
        with closing(connection.cursor()) as cursor:
            # pyodbc reads one result of a statement: behind the counts of a trigger's rows neither
            # the statement's own count nor a trigger's error would be seen.
            cursor.execute(f"set lock_timeout {faults.LOCK_WAIT_SECONDS * 1000}; set nocount on")
        connection.commit()


# No firewall takes a link for idle, and a server that has died is missed within a minute.
_KEEPALIVES = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_OPTIONS = {"mssql": {"fast_executemany": True, "deprecate_large_types": True}}  # never NTEXT
_DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg", "mssql": "pyodbc"}
_SESSIONS = {
    "sqlite": prepare_sqlite,
    "postgresql": _prepare_postgresql,
    "mssql": _prepare_mssql,
}
# A lock that ends with the transaction; an implicit one begins with what reads a table.
_MARK = (
    "declare @n int; select @n = count(*) from sys.schemas; exec sp_getapplock @Resource = ?,"
    " @LockMode = 'Exclusive', @LockOwner = 'Transaction'"
)
_FIND_MARK = (
    "select case when @@trancount > 0 then applock_mode('public', ?, 'Transaction') else 'none' end"
)


def find_schema(engine: sa.Engine) -> str | None:
    """Find the schema of abatch's own tables; None means the connection's own."""
    return (engine.get_execution_options().get("schema_translate_map") or {}).get(None)


def read(
    engine: sa.Engine,
    find: Callable[Concatenate[sa.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Return what `find(connection, *args, **kwargs)` does, on a connection of its own.

    After a transient error it is asked again, so it must not change what it closes over.
    """

    def ask() -> T:
        with engine.connect() as connection:
            return find(connection, *args, **kwargs)

    return attempts(engine)(ask)


def write(
    engine: sa.Engine,
    work: Callable[Concatenate[sa.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Do `work(connection, *args, **kwargs)` in one transaction that writes.

    After a transient error it is done again as a whole, so it must not change what it closes over.

    Returns
    -------
    object
        What the work returned the last time.

    Raises
    ------
    DatabaseError
        If the link is lost while committing: nobody knows then whether the transaction arrived.
    """
    return attempts(engine)(_transact, engine, lambda connection: work(connection, *args, **kwargs))


def _transact(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    with engine.execution_options(writes=True).connect() as connection:
        transaction = connection.begin()
        try:
            mark = _mark(connection)
            result = work(connection)
            _require_mark(connection, mark)
            _commit(transaction, show_url(engine))
        except BaseException:
            try:
                transaction.rollback()
            except SQLAlchemyError:  # rolled back by the server: the first error is the one to tell
                connection.invalidate()
            raise
        return result


def _mark(connection: sa.Connection) -> str:
    """Let SQL Server's transaction be known again by the name that is returned."""
    mark = f"abatch-{uuid4()}"
    if connection.dialect.name == "mssql":
        connection.exec_driver_sql(_MARK, (mark,))
    return mark


def _require_mark(connection: sa.Connection, mark: str) -> None:
    """Raise DBAPIError unless SQL Server's transaction is the one that was marked.

    It may have ended half-way without an error: with fast_executemany pyodbc asks for the types of
    the parameters, and goes on where that question fails, be it as a deadlock's victim. The driver
    begins another transaction then, and a commit would write the second half alone.
    """
    if connection.dialect.name != "mssql":
        return
    if connection.exec_driver_sql(_FIND_MARK, (mark,)).scalar() != "Exclusive":
        raise DBAPIError(None, None, RuntimeError(faults.HALF_UNDONE))


def _commit(transaction: sa.RootTransaction, place: str) -> None:
    try:
        transaction.commit()
    except DBAPIError as error:
        if faults.is_transient(error) and not faults.is_undone(error):
            raise DatabaseError(
                f"{place}: the link was lost while a transaction was being committed, so it may"
                " have arrived or not. Run the job again: it finds out, and does only what is"
                " missing."
            ) from error
        raise


def check_ready(engine: sa.Engine, environment: str) -> None:
    """Raise DatabaseError unless the database can be reached and holds this abatch's tables."""
    place, mend = show_url(engine), f"Run: python -m abatch init --env {environment}"
    if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).exists():
        raise DatabaseError(f"{place}: there is no such file. {mend}")
    with described(place):
        read(engine, _check_tables, place, mend)


def _check_tables(connection: sa.Connection, place: str, mend: str) -> None:
    schema = find_schema(connection.engine)
    names = set(sa.inspect(connection).get_table_names(schema=schema))
    if tables.VERSION_TABLE not in names:
        raise DatabaseError(f"{place}: abatch has no tables here yet. {mend}")
    version = sa.table(tables.VERSION_TABLE, sa.column("version_num"), schema=schema)
    check_revision(connection.engine, connection.scalar(sa.select(version)), mend)
    if missing := sorted(tables.TABLES.keys() - names):
        raise DatabaseError(
            f"{place}: somebody removed abatch's table {', '.join(missing)}, or this"
            " login has no right on it. Bring it back from a backup, or ask for the right;"
            " docs/permissions.md has the scripts."
        )


def check_revision(engine: sa.Engine, revision: str | None, mend: str) -> None:
    """Raise DatabaseError unless this commit of abatch made the tables.

    Parameters
    ----------
    revision : what the database tells
    mend : the command that creates the tables
    """
    if revision != tables.REVISION:
        empty = "a new file" if engine.dialect.name == "sqlite" else "an empty schema"
        raise DatabaseError(
            f"{show_url(engine)}: the tables are at revision {revision}, expected"
            f" {tables.REVISION}: another commit of abatch made them, before its first release, and"
            f" they cannot be upgraded. Name {empty} in the config. {mend}"
        )
