"""What went wrong in a database, in one line with the mend; whether it is worth another attempt."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, ResourceClosedError, SQLAlchemyError, StatementError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from abatch.errors import AbatchError, DatabaseError

SQLITE_WAIT_SECONDS = 10
LOCK_WAIT_SECONDS = 15  # of one attempt, on PostgreSQL and SQL Server
ODBC_DRIVER = "ODBC Driver 18 for SQL Server"
MAX_MESSAGE = 1000  # characters of a driver's
HALF_UNDONE = "the server undid the first half of a transaction without an error"
# Which tell of lost links; without a handler Python prints what they say.
LOGGERS = ("psycopg", "sqlalchemy")
logger = logging.getLogger("abatch")

# SQLSTATEs and SQL Server's numbers of what is worth a second try: deadlock, lock timeout, link or
# login lost, a server that starts, stops or is too busy.
_TRANSIENT = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53300", "HYT00"}
_TRANSIENT |= {"08000", "08001", "08003", "08006", "08S01"}
_TRANSIENT |= {"1205", "1222", "40197", "40501", "40613", "49918", "49919", "49920"}
# The same where a driver gives no code: PostgreSQL at connecting, mssql-python.
_TRANSIENT_WORDS = re.compile(
    "connection refused|connection reset|connection timeout|connection timed out|timeout expired"
    "|closed (the connection )?unexpectedly|could not receive data|EOF detected"
    "|system is (starting up|shutting down|(not|not yet) accepting connections|in recovery mode)"
    "|deadlock victim|lock request time out|communication link failure"
    "|failed to resolve|could not translate host name"
    f"|terminating connection|service is currently busy|not currently available|{HALF_UNDONE}",
    re.IGNORECASE,
)
# After these nothing of the transaction is left; after other transient errors at a commit that is
# not known.
_UNDONE = {"40001", "40P01", "55P03", "1205", "1222"}
_CERTIFICATE = (
    "certificate (verify failed|chain|has expired|is not trusted)|(root|self-signed) certificate"
    "|SSL Provider"
)
_OPTION = "invalid value specified for connection string attribute"
_DRIVER = "can't open lib|data source name not found"


def attempts(engine: sa.Engine) -> Retrying:
    """Try again after transient errors, with full jitter, for the engine's retry_seconds."""

    def tell(state: Any) -> None:
        logger.warning(
            "%s: %s Trying again.", show_url(engine), describe(state.outcome.exception())
        )

    limit = engine.get_execution_options().get("retry_seconds", 0)
    pause = wait_random_exponential(multiplier=0.5, max=10)
    return Retrying(
        retry=retry_if_exception(is_transient),
        wait=lambda state: min(pause(state), limit - (state.seconds_since_start or 0)),
        stop=stop_after_delay(limit),  # so that the last attempt is at the limit
        before_sleep=tell,
        reraise=True,
    )


def is_transient(error: BaseException) -> bool:
    """Whether the same, done again, may succeed."""
    # What a link lost in the first moments of a connection becomes.
    if isinstance(error, ResourceClosedError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    codes, message = _read_codes(error)
    # These come as lost links, and stay.
    if re.search(f"{_CERTIFICATE}|{_OPTION}|{_DRIVER}", message, re.IGNORECASE):
        return False
    is_known = codes & _TRANSIENT or _TRANSIENT_WORDS.search(str(error.orig))
    return error.connection_invalidated or bool(is_known)


def is_undone(error: BaseException) -> bool:
    """Whether the server has surely rolled the transaction back."""
    return bool(_read_codes(error)[0] & _UNDONE)


def show_url(engine: sa.Engine) -> str:
    """Name the database in a message: never its password, nor any option that may hold one."""
    return engine.url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def as_dbapi_error(*kinds: type[Exception], statement: str | None = None) -> Iterator[None]:
    """Raise a driver's own error as SQLAlchemy would, an IntegrityError as its IntegrityError."""
    try:
        yield
    except kinds as error:
        raise DBAPIError.instance(statement, None, error, Exception) from error


@contextmanager
def described(place: str) -> Iterator[None]:
    """Turn whatever the database raises inside the block into one line that begins with `place`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise DatabaseError(f"{place}: {describe(error)}") from error


def _read_codes(error: BaseException) -> tuple[set[str], str]:
    """Read SQLSTATEs with SQL Server's numbers, and the message in one line, of any driver."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    state = getattr(cause, "sqlstate", None)
    text = getattr(cause, "ddbc_error", None) or str(cause)
    # pyodbc: SQLSTATE and "[SQLSTATE] [vendor][driver]message (number) (function)", now and then
    # the other way.
    if len(cause.args) == 2:
        state, text = sorted(map(str, cause.args), key=len)
    codes = {*re.findall(r"\((\d+)\) \(SQL\w+\)", text), *([str(state)] if state else [])}
    lines = [line for line in text.splitlines() if line.strip()] or [type(cause).__name__]
    # ADBC puts its own words and queries around the server's.
    refused = re.search(r"(?:ERROR|FATAL): +(.*)", text)
    message = refused[1] if refused else lines[-1 if "[libpq]" in lines[0] else 0]
    message = re.sub(r"^(\[[^\]]*\]\s*)+|\s*\(\d+\) \(SQL\w+\)", "", message.split("; [")[0])
    message = " ".join(message.split()).rstrip(".")
    if len(message) > MAX_MESSAGE:  # it may quote a value of any length
        message = f"{message[: MAX_MESSAGE // 2]} ... {message[-MAX_MESSAGE // 2 :]}"
    return codes, message


def _describe_permission(error: BaseException, message: str) -> str:
    """Tell which right on which table is missing; PostgreSQL says only which table."""
    lack = f"a right is missing: {message}"
    if named := re.search(
        r"The (\w+) permission was denied on the (?:object|column '[^']*' of the object) '([^']*)'",
        message,
    ):
        lack = f"this login lacks the right {named[1]} on {named[2]}"
    elif denied := re.search(
        r'permission denied for (table|view|relation|sequence|schema) "?([^"]*?)"?$', message
    ):
        kind, thing = denied.groups()
        statement = getattr(error, "statement", None) or "select"
        verb, *words = re.findall(r"\w+", statement.lower())
        right = "USAGE" if kind in ("schema", "sequence") else "SELECT"
        if verb in ("insert", "copy") and thing in words[:3]:
            right = "INSERT"
        elif verb in ("update", "delete") and thing in words[:3]:
            right = f"{verb.upper()} or SELECT"  # a where reads
        lack = f"this login lacks the right {right} on {thing}"
    return f"{lack}. Ask the database's owner for it; docs/permissions.md has the scripts."


def _describe_odbc(_error: BaseException, message: str) -> str:
    import pyodbc

    return (
        f"the ODBC driver is not installed: {message}. Installed:"
        f" {', '.join(pyodbc.drivers()) or 'none'}. Install Microsoft's {ODBC_DRIVER}, or name an"
        " installed driver in the URL."
    )


def _describe_read_only(error: BaseException, message: str) -> str:
    # abatch's own statements that write are told from queries, which it lets only read.
    words = (getattr(error, "statement", None) or "select").split()
    if words[0].lower() in ("insert", "update", "delete", "create", "alter", "lock", "drop"):
        return (
            f"{message}. The server or this login only reads, as a standby does: name the server"
            " that is written in the URL."
        )
    return f"{message}. Queries are only read: leave out of it what writes."


def _describe_lock(_error: BaseException, message: str) -> str:
    waited = re.search(r"waited \d+ s", message)  # by the process that writes a large night
    return (
        "the file is locked by another process"
        f" ({waited[0] if waited else f'waited {SQLITE_WAIT_SECONDS} s'}). End that process, or run"
        " this job again later."
    )


# The words by which a fault is recognised, or its SQLSTATEs and numbers, and what is told of it.
_Tell = Callable[[BaseException, str], str]
_FAULTS: tuple[tuple[str, set[str], str | _Tell], ...] = (
    (
        "database (table )?is locked",
        set(),
        _describe_lock,
    ),
    (
        "due to lock timeout|lock request time out",
        {"1222"},
        "a table is locked by another session (waited {seconds} s). End that session, or run this"
        " job again later.",
    ),
    (
        "readonly database|unable to open database file",
        set(),
        "{message}. Check that the file and its folder can be written by this user.",
    ),
    (
        "in a read-only transaction",
        {"25006"},
        _describe_read_only,
    ),
    (
        "process that writes was ended",
        set(),
        "{message}, as by a system that is short of memory. Run the job again.",
    ),
    (
        "multiple commands|one statement at a time",
        set(),
        "{message}. Leave one select in the query.",
    ),
    (
        HALF_UNDONE,
        set(),
        "{message}, so the second half was undone, too: nothing of it was written. Run the job"
        " again; if that does not help, look for the cause in the server's log.",
    ),
    (
        "snapshot isolation is not allowed",
        {"3952"},
        "isolation: snapshot is chosen, and the database does not allow it: {message}. Let its"
        " owner allow it (alter database current set allow_snapshot_isolation on), or leave out"
        " isolation.",
    ),
    ("disk is full", set(), "{message}. Make room and run the job again."),
    (_DRIVER, {"IM002", "IM003"}, _describe_odbc),
    (
        _OPTION,
        set(),
        "an option of the URL is wrong: {message}. Mend the part of the URL after the question"
        " mark.",
    ),
    (
        _CERTIFICATE,
        set(),
        "the server's certificate is not trusted: {message}. Let the machine trust the authority"
        " that issued it, or, knowing the risk, write TrustServerCertificate=yes into the URL.",
    ),
    (
        "permission (was )?denied",
        {"42501", "229", "230", "262", "297", "300"},
        _describe_permission,
    ),
    (
        'database "[^"]*" does not exist|cannot open database',
        {"3D000", "4060", "911"},
        "there is no such database, or this login may not enter it: {message}. Mend the URL's"
        " database, or ask its owner.",
    ),
    (
        "(authentication|login) failed|sspi|kerberos|gssapi",
        {"28000", "28P01", "18456"},
        "the login failed: {message}. Check the login and its password, or the Kerberos ticket of a"
        " trusted connection.",
    ),
    (
        "deadlock (detected|victim)",
        {"1205", "40P01"},
        "another session and this one waited for each other, and this one was ended (deadlock). Run"
        " the job again.",
    ),
)


def describe(error: BaseException) -> str:
    """Tell a database error in one line, with the mend where it is known."""
    # What a column's own type refused.
    if isinstance(error, StatementError) and isinstance(error.orig, AbatchError):
        table = re.search(r"(?:insert into|update) (\S+)", error.statement or "", re.IGNORECASE)
        return f"{table[1]}: {error.orig}" if table else str(error.orig)
    codes, message = _read_codes(error)
    for words, of_fault, text in _FAULTS:
        if codes & of_fault or re.search(words, message, re.IGNORECASE):
            if callable(text):
                return text(error, message)
            return text.format(message=message, seconds=LOCK_WAIT_SECONDS)
    if is_transient(error):
        return (
            f"the server cannot be reached: {message}. Check its name, its port and that it runs;"
            " then run the job again."
        )
    return f"the database refused: {message}."
