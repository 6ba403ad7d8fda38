"""Locks by name, among all that use one database.

A lock belongs to a connection, or to a file's place in a folder, and may be lost while its holder
works. So the holder gives a sign of life now and then, by which others know that he is at it and he
himself that the lock is still his.
"""

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from abatch.database import connections
from abatch.database.connections import find_schema
from abatch.database.faults import as_dbapi_error, attempts, described, show_url
from abatch.database.tables import runs
from abatch.errors import AbatchError, DatabaseError

HEARTBEAT_SECONDS = 15  # between two signs of life of whoever holds a lock
SILENT_SECONDS = 90  # after which he is not taken to be alive any more
WHY_LOST = (
    "its connection to the server was ended, as firewalls, restarts and broken networks do, or its"
    " file was removed (SQLite)"
)
logger = logging.getLogger("abatch")

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
    held : whether this session has it
    wait : to the end of the transaction. On SQL Server an implicit one begins with the first
        statement that reads a table
    clock : the server's, as naive UTC
    """

    take: str
    release: str
    held: str
    wait: str
    clock: str


_LOCKS = {
    "postgresql": _Locks(
        "select pg_try_advisory_lock(hashtextextended(%s, 0))::int - 1",
        "select pg_advisory_unlock(hashtextextended(%s, 0))",
        "select count(*) - 1 from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        " and objsubid = 1 and (classid::bigint << 32 | objid::bigint) = hashtextextended(%s, 0)",
        "select 0 from pg_advisory_xact_lock(hashtextextended(%s, 0))",
        "clock_timestamp() at time zone 'UTC'",
    ),
    "mssql": _Locks(
        _APPLOCK.format(
            _GET, "@LockMode = 'Exclusive', @LockOwner = 'Session', @LockTimeout = {:.0f}"
        ),
        _APPLOCK.format("exec @result = sp_releaseapplock", "@LockOwner = 'Session'"),
        "select case applock_mode('public', lower(db_name()) + N'.' + ?, 'Session')"
        " when 'Exclusive' then 0 else -1 end",
        _APPLOCK.format(
            f"select @result = count(*) from sys.schemas; {_GET}",
            "@LockMode = 'Exclusive', @LockOwner = 'Transaction', @LockTimeout = @@lock_timeout",
        ),
        "sysutcdatetime()",
    ),
}


def _run(connection: sa.Connection, statement: str, *values: str) -> Any:
    """What the first row there is says: sp_getapplock's may come after an empty result set.

    None of a statement that returns no row.
    """
    with (
        as_dbapi_error(connection.dialect.loaded_dbapi.Error),
        closing(connection.connection.cursor()) as cursor,
    ):
        cursor.execute(statement, values)
        while cursor.description is None and cursor.nextset():
            pass
        row: Any = cursor.fetchone() if cursor.description else (None,)
        return row[0]


def _lock(connection: sa.Connection, statement: str, name: str) -> int:
    schema = find_schema(connection.engine) or connection.dialect.default_schema_name
    return int(_run(connection, statement, f"{schema}.{name}".lower()))


class Lock(ABC):
    """The lock of a name; it is used by one thread at a time."""

    def __init__(self, engine: sa.Engine, name: str) -> None:
        self.engine, self.name, self.using = engine, name, threading.RLock()

    @abstractmethod
    def take(self, wait_seconds: float = 0) -> bool:
        """Take it anew; False if somebody else holds it, and goes on holding it for so long."""

    @abstractmethod
    def is_held(self) -> bool:
        """Whether it is still there, so that nobody else can have it."""

    @abstractmethod
    def give_sign(self, run_id: str) -> None:
        """Say that the process of a run is alive, if that can be said just now."""

    @abstractmethod
    def release(self) -> None:
        """Let go of it, whether it is held or not."""

    def require(self, then: str) -> None:
        """Raise DatabaseError if it was lost; `then` ends the message."""
        with self.using:
            if not self.is_held():
                raise DatabaseError(f"{self._describe_loss()}. {then}")

    def regain(self, run_id: str) -> bool:
        """Whether it is held, if need be again: if nobody else has had it since a run began.

        Who takes a lock ends the runs of those who had it before.
        """
        with self.using:
            if self.is_held():
                return True
            is_free = self.take()
            if is_free and not connections.read(self.engine, _is_running, run_id):
                self.release()
                is_free = False
        told = "It is taken again" if is_free else "Somebody else has taken it since"
        logger.warning("%s. %s.", self._describe_loss(), told)
        return is_free

    def _describe_loss(self) -> str:
        return f"the lock {self.name} was lost while it was held: {WHY_LOST}"

    @contextmanager
    def keep(self, run_id: str) -> Iterator[None]:
        """Give a sign of life every HEARTBEAT_SECONDS while the block runs, in a thread.

        So the lock's connection is never idle, and one that was lost is taken again, if it is free.
        """
        is_over = threading.Event()

        def work() -> None:
            while not is_over.wait(HEARTBEAT_SECONDS):
                with self.using, suppress(SQLAlchemyError, AbatchError):
                    if not self.regain(run_id):
                        return
                    self.give_sign(run_id)

        self.give_sign(run_id)
        thread = threading.Thread(target=work, name=f"heartbeat of {self.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


class _FileLock(Lock):
    """Of SQLite: a file beside the database, locked by the process and as long as that lives."""

    _file: FileLock | None = None

    def take(self, wait_seconds: float = 0) -> bool:
        self.release()
        file = FileLock(_find_file(self.engine, self.name), thread_local=False)
        try:
            with suppress(Timeout):
                file.acquire(timeout=wait_seconds)
                self._file, self._status = file, os.stat(file.lock_file)
        except OSError as error:
            raise DatabaseError(
                f"{file.lock_file}: cannot be written ({error.strerror}). Check the folder's"
                " rights."
            ) from None
        return file.is_locked

    def is_held(self) -> bool:
        if self._file is None:
            return False
        try:  # who removes the file lets others lock another one
            return os.path.samestat(os.stat(self._file.lock_file), self._status)
        except OSError:
            return False

    def give_sign(self, run_id: str) -> None:
        with suppress(OSError):
            os.utime(_find_file(self.engine, self.name))

    def release(self) -> None:
        if self._file is not None:
            self._file.release()
        self._file = None


class _SessionLock(Lock):
    """Of a server: it belongs to a connection of its own, and dies with it."""

    _connection: sa.Connection | None = None

    @property
    def _texts(self) -> _Locks:
        return _LOCKS[self.engine.dialect.name]

    def take(self, wait_seconds: float = 0) -> bool:
        self.release()
        trying = Retrying(
            retry=retry_if_result(lambda result: result < 0),
            stop=stop_after_delay(wait_seconds),
            wait=wait_fixed(0.2),
            retry_error_callback=lambda _: -1,
        )
        with ExitStack() as stack:
            connection = stack.enter_context(self.engine.connect())
            connection.detach()  # closed for real at the end, and the lock with it
            link: Any = connection.connection.dbapi_connection
            # Not by SQLAlchemy, which would reset the pool's next link to the server's default,
            # whatever it is where the server does not tell it.
            link.autocommit = True
            statement = self._texts.take.format(1000 * wait_seconds)
            is_free = trying(_lock, connection, statement, self.name) >= 0
            stack.pop_all()
        if is_free:
            self._connection, self._link = connection, link
        else:
            link.close()
        return is_free

    def is_held(self) -> bool:
        if self._connection is None:
            return False
        try:
            return _lock(self._connection, self._texts.held, self.name) >= 0
        except SQLAlchemyError:  # a link that is lost has lost the lock, too
            return False

    def give_sign(self, run_id: str) -> None:
        mark = "%s" if self.engine.dialect.paramstyle in ("format", "pyformat") else "?"
        update = f"update {_name_runs(self.engine)} set heartbeat_at = {self._texts.clock}"
        with suppress(SQLAlchemyError):  # as where this run is just being ended
            if self._connection is not None:
                _run(self._connection, f"{update} where run_id = {mark}", run_id)

    def release(self) -> None:
        if self._connection is None:
            return
        # Released first: the server would notice the closed link only a moment later, and the next
        # run be sent away.
        with suppress(Exception), closing(self._link):
            _lock(self._connection, self._texts.release, self.name)
        self._connection = None


@contextmanager
def lock(engine: sa.Engine, name: str, wait_seconds: float = 0) -> Iterator[Lock | None]:
    """Hold the lock `name` among all that use this database.

    Gives None if somebody else holds it, and goes on holding it for `wait_seconds`. The lock
    belongs to the process (SQLite: a file lock) or to a connection of its own (PostgreSQL, SQL
    Server), and dies with it: nothing is left behind to be cleaned up by hand. A host that dies
    leaves it until the server misses it.
    """
    held = (_FileLock if engine.dialect.name == "sqlite" else _SessionLock)(engine, name)
    with described(show_url(engine)):
        acquired = attempts(engine)(held.take, wait_seconds)
    try:
        yield held if acquired else None
    finally:
        held.release()


@contextmanager
def hold(engine: sa.Engine, name: str, refusal: str, wait_seconds: float = 0) -> Iterator[Lock]:
    """Hold a lock as `lock` does; DatabaseError with `refusal` if somebody else holds it."""
    with lock(engine, name, wait_seconds) as held:
        if held is None:
            raise DatabaseError(refusal)
        yield held


def find_silence(connection: sa.Connection, name: str, run_id: str, now: datetime) -> timedelta:
    """How long the holder of a lock has given no sign of life; 0 if he has not begun to.

    Parameters
    ----------
    run_id : which he is at
    now : by this machine's clock, naive UTC, as SQLite's lock file has it
    """
    kind = connection.dialect.name
    if kind == "sqlite":
        with suppress(OSError):
            last = os.stat(_find_file(connection.engine, name)).st_mtime
            return timedelta(seconds=now.replace(tzinfo=UTC).timestamp() - last)
        return timedelta()
    clock = sa.literal_column(_LOCKS[kind].clock, sa.DateTime())
    row = connection.execute(sa.select(runs.c.heartbeat_at, clock).filter_by(run_id=run_id)).one()
    return row[1] - row[0] if row[0] else timedelta()


def _is_running(connection: sa.Connection, run_id: str) -> bool:
    return connection.scalar(sa.select(runs.c.status).filter_by(run_id=run_id)) == "running"


def _find_file(engine: sa.Engine, name: str) -> str:
    return f"{engine.url.database}.{name}.lock"


def _name_runs(engine: sa.Engine) -> str:
    """The table runs as SQL names it."""
    quote = engine.dialect.identifier_preparer.quote
    return ".".join(map(quote, filter(None, (find_schema(engine), runs.name))))


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
