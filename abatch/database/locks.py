"""Locks by name, among all that use one database."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from typing import Any, NamedTuple

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from abatch.database.connections import find_schema
from abatch.database.faults import as_dbapi_error, attempts, described, show_url
from abatch.errors import DatabaseError

_APPLOCK = (
    "declare @result int, @name nvarchar(255) = lower(db_name()) + N'.' + ?; {}"
    " @Resource = @name, {}; select @result as result"
)
_GET = "exec @result = sp_getapplock"


class _Locks(NamedTuple):
    """How a server locks a name in the current database; it is locked if 0 or more is returned.

    Attributes
    ----------
    take, release : for the session, and how it is given back; PostgreSQL's does not wait, SQL
        Server's as many milliseconds as are put in
    wait : to the end of the transaction. On SQL Server an implicit one begins with the first
        statement that reads a table
    """

    take: str
    release: str
    wait: str


_LOCKS = {
    "postgresql": _Locks(
        "select pg_try_advisory_lock(hashtextextended(%s, 0))::int - 1",
        "select pg_advisory_unlock(hashtextextended(%s, 0))",
        "select 0 from pg_advisory_xact_lock(hashtextextended(%s, 0))",
    ),
    "mssql": _Locks(
        _APPLOCK.format(
            _GET, "@LockMode = 'Exclusive', @LockOwner = 'Session', @LockTimeout = {:.0f}"
        ),
        _APPLOCK.format("exec @result = sp_releaseapplock", "@LockOwner = 'Session'"),
        _APPLOCK.format(
            f"select @result = count(*) from sys.schemas; {_GET}",
            "@LockMode = 'Exclusive', @LockOwner = 'Transaction', @LockTimeout = @@lock_timeout",
        ),
    ),
}


def _lock(connection: sa.Connection, statement: str, name: str) -> int:
    """What the first row there is says: sp_getapplock's may come after an empty result set."""
    schema = find_schema(connection.engine) or connection.dialect.default_schema_name
    with (
        as_dbapi_error(connection.dialect.loaded_dbapi.Error),
        closing(connection.connection.cursor()) as cursor,
    ):
        cursor.execute(statement, (f"{schema}.{name}".lower(),))
        while cursor.description is None and cursor.nextset():
            pass
        row: Any = cursor.fetchone()
        return int(row[0])


def lock(engine: sa.Engine, name: str, wait_seconds: float = 0) -> AbstractContextManager[bool]:
    """Hold the lock `name` among all that use this database.

    Gives False if somebody else holds it, and goes on holding it for `wait_seconds`. The lock
    belongs to the process (SQLite: a file lock) or to a connection of its own (PostgreSQL, SQL
    Server), and dies with it: nothing is left behind to be cleaned up by hand.
    """
    acquire = _hold_file if engine.dialect.name == "sqlite" else _hold_session
    return acquire(engine, name, wait_seconds)


@contextmanager
def hold(engine: sa.Engine, name: str, refusal: str, wait_seconds: float = 0) -> Iterator[None]:
    """Hold a lock as `lock` does; DatabaseError with `refusal` if somebody else holds it."""
    with lock(engine, name, wait_seconds) as acquired:
        if not acquired:
            raise DatabaseError(refusal)
        yield


@contextmanager
def _hold_file(engine: sa.Engine, name: str, wait_seconds: float) -> Iterator[bool]:
    file = FileLock(f"{engine.url.database}.{name}.lock")
    try:
        with suppress(Timeout):
            file.acquire(timeout=wait_seconds)
    except OSError as error:
        raise DatabaseError(
            f"{file.lock_file}: cannot be written ({error.strerror}). Check the folder's rights."
        ) from None
    try:
        yield file.is_locked
    finally:
        file.release()


@contextmanager
def _hold_session(engine: sa.Engine, name: str, wait_seconds: float) -> Iterator[bool]:
    take, release, _ = _LOCKS[engine.dialect.name]
    trying = Retrying(
        retry=retry_if_result(lambda result: result < 0),
        stop=stop_after_delay(wait_seconds),
        wait=wait_fixed(0.2),
        retry_error_callback=lambda _: -1,
    )
    with described(show_url(engine)):
        for attempt in attempts(engine):
            with attempt, ExitStack() as stack:
                connection = stack.enter_context(engine.connect())
                connection.detach()  # closed for real at the end, and the lock with it
                link: Any = connection.connection.dbapi_connection
                # Not by SQLAlchemy, which would reset the pool's next link to the server's default,
                # whatever it is where the server does not tell it.
                link.autocommit = True
                acquired = trying(_lock, connection, take.format(1000 * wait_seconds), name) >= 0
                stack.pop_all()
    try:
        yield acquired
    finally:
        # Released first: the server would notice the closed link only a moment later, and the next
        # run be sent away. A link that is lost has lost the lock, too.
        with suppress(Exception), closing(link):
            if acquired:
                _lock(connection, release, name)


def lock_in_transaction(connection: sa.Connection, name: str) -> None:
    """Wait for the lock `name` among all that use this database; it ends with the transaction.

    On SQLite a transaction that writes excludes all others from its beginning, so there is nothing
    to do.

    Raises
    ------
    DBAPIError
        If somebody else holds it for longer than the lock time-out, as where a table is locked.
    """
    kind = connection.dialect.name
    if kind == "sqlite":
        return
    result = _lock(connection, _LOCKS[kind].wait, name)
    if result < 0:  # where PostgreSQL raises an error
        words = {-1: "Lock request time out", -3: "deadlock victim"}
        message = words.get(result, f"sp_getapplock returned {result}")
        raise DBAPIError(None, None, RuntimeError(message))
