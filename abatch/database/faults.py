"""What went wrong in a database, in one line with the mend, and whether it is worth another
attempt.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, ResourceClosedError, SQLAlchemyError, StatementError
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from abatch.errors import AbatchError, DatabaseError

SQLITE_WAIT_SECONDS = 10
LOCK_WAIT_SECONDS = 15  # of one attempt, on PostgreSQL and SQL Server
ODBC_DRIVER = "ODBC Driver 18 for SQL Server"
LOGGERS = (
    "psycopg",
    "sqlalchemy",
)  # which tell of lost links; without a handler Python prints what they say
logger = logging.getLogger("abatch")

# Worth a second try: deadlock, lock timeout, link or login lost, a server that starts, stops or is
# too busy.
_TRANSIENT_STATES = {
    "40001",
    "40P01",
    "55P03",
    "57P01",
    "57P02",
    "57P03",
    "53300",
    "08000",
    "08001",
    "08003",
    "08006",
    "08S01",
    "HYT00",
}
_TRANSIENT_NUMBERS = {1205, 1222, 40197, 40501, 40613, 49918, 49919, 49920}
_TRANSIENT_WORDS = (
    re.compile(  # where a driver gives no code: PostgreSQL at connecting, mssql-python
        r"connection refused|connection reset|connection timeout|connection timed out|timeout"
        r" expired|closed (the connection )?unexpectedly"
        r"|could not receive data|EOF detected|system is starting up|system is shutting"
        r" down|deadlock"
        r" victim|lock request time out"
        r"|communication link failure|terminating connection|service is currently busy|not"
        r" currently"
        r" available",
        re.IGNORECASE,
    )
)
_CERTIFICATE = re.compile(
    r"certificate (verify failed|chain|has expired|is not trusted)|(root|self-signed)"
    r" certificate|SSL Provider",
    re.IGNORECASE,
)
_OPTION = re.compile("invalid value specified for connection string attribute", re.IGNORECASE)
# After these nothing of the transaction is left; after other transient errors at a commit that is
# not known.
_UNDONE_STATES, _UNDONE_NUMBERS = {"40001", "40P01", "55P03"}, {1205, 1222}


def attempts(engine: sa.Engine) -> Retrying:
    """Attempts after transient errors, with full jitter, for at most the engine's retry_seconds."""

    def tell(state: Any) -> None:
        logger.warning(
            "%s: %s Trying again.", show_url(engine), describe(state.outcome.exception())
        )

    return Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        stop=stop_before_delay(engine.get_execution_options().get("retry_seconds", 0)),
        before_sleep=tell,
        reraise=True,
    )


def is_transient(error: BaseException) -> bool:
    """Whether the same, done again, may succeed."""
    if isinstance(
        error, ResourceClosedError
    ):  # what a link lost in the first moments of a connection becomes
        return True
    if not isinstance(error, DBAPIError):
        return False
    states, numbers, message = _read_codes(error)
    if _CERTIFICATE.search(message) or _OPTION.search(message):  # come as lost links, and stay
        return False
    known = (
        states & _TRANSIENT_STATES
        or numbers & _TRANSIENT_NUMBERS
        or _TRANSIENT_WORDS.search(str(error.orig))
    )
    return error.connection_invalidated or bool(known)


def is_undone(error: BaseException) -> bool:
    """Whether the server has surely rolled the transaction back."""
    states, numbers, _ = _read_codes(error)
    return bool(states & _UNDONE_STATES or numbers & _UNDONE_NUMBERS)


def show_url(engine: sa.Engine) -> str:
    """The database in a message: never its password, nor any option that may hold one."""
    return engine.url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def as_dbapi_error(*kinds: type[Exception]) -> Iterator[None]:
    """Raise a driver's own error as SQLAlchemy would."""
    try:
        yield
    except kinds as error:
        raise DBAPIError(None, None, error) from error


@contextmanager
def described(place: str) -> Iterator[None]:
    """Turn whatever the database raises inside the block into one line that begins with `place`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise DatabaseError(f"{place}: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """A database error in one line, with the mend where it is known."""
    if isinstance(error, StatementError) and isinstance(
        error.orig, AbatchError
    ):  # what a column's own type refused
        table = re.search(r"(?:insert into|update) (\S+)", error.statement or "", re.IGNORECASE)
        return f"{table[1]}: {error.orig}" if table else str(error.orig)
    states, numbers, message = _read_codes(error)
    text = message.lower()
    if "database is locked" in text or "database table is locked" in text:
        return (
            f"the file is locked by another process (waited {SQLITE_WAIT_SECONDS} s). End that"
            " process, or run this job again later."
        )
    if 1222 in numbers or "due to lock timeout" in text or "lock request time out" in text:
        return (
            f"a table is locked by another session (waited {LOCK_WAIT_SECONDS} s). End that"
            " session, or run this job again later."
        )
    if "readonly database" in text or "unable to open database file" in text:
        return f"{message}. Check that the file and its folder can be written by this user."
    if "in a read-only transaction" in text:
        return (
            f"{message}. The server or this login only reads, as a standby does: name the server"
            " that is written in the URL."
        )
    if "disk is full" in text:
        return f"{message}. Make room and run the job again."
    if "can't open lib" in text or states & {"IM002", "IM003"}:
        return f"the ODBC driver is not installed: {message}. {_list_odbc_drivers()}"
    if _OPTION.search(message):
        return (
            f"an option of the URL is wrong: {message}. Mend the part of the URL after the question"
            " mark."
        )
    if _CERTIFICATE.search(message):
        return (
            f"the server's certificate is not trusted: {message}. Let the machine trust the"
            " authority that issued it, or, knowing the risk, write TrustServerCertificate=yes"
            " into the URL."
        )
    if (
        states & {"42501"}
        or numbers & {229, 230, 262, 297, 300}
        or re.search(r"permission (was )?denied", text)
    ):
        return _describe_permission(message, getattr(error, "statement", None))
    if (
        states & {"3D000"}
        or numbers & {4060, 911}
        or re.search(r'database "[^"]*" does not exist|cannot open database', text)
    ):
        return (
            f"there is no such database, or this login may not enter it: {message}. Mend the URL's"
            " database, or ask its owner."
        )
    if (
        states & {"28000", "28P01"}
        or 18456 in numbers
        or re.search("(authentication|login) failed|sspi|kerberos|gssapi", text)
    ):
        return (
            f"the login failed: {message}. Check the login and its password, or the Kerberos ticket"
            " of a trusted connection."
        )
    if 1205 in numbers or states & {"40P01"} or re.search("deadlock (detected|victim)", text):
        return (
            "another session and this one waited for each other, and this one was ended (deadlock)."
            " Run the job again."
        )
    if is_transient(error):
        return (
            f"the server cannot be reached: {message}. Check its name, its port and that it runs;"
            " then run the job again."
        )
    return f"the database refused: {message}."


def _read_codes(error: BaseException) -> tuple[set[str], set[int], str]:
    """SQLSTATEs, SQL Server's error numbers and the message in one line, whichever driver it comes
    from.
    """
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    arguments = [str(argument) for argument in cause.args]
    state = getattr(cause, "sqlstate", None)
    text = getattr(cause, "ddbc_error", None) or str(cause)
    if (
        len(arguments) == 2
        # pyodbc: SQLSTATE and "[SQLSTATE] [vendor][driver]message (number) (function)", now and
        # then the other way
    ):
        state, text = sorted(arguments, key=len)
    states = {str(state)} if state else set()
    numbers = {int(number) for number in re.findall(r"\((\d+)\) \(SQL\w+\)", text)}
    lines = [line for line in text.splitlines() if line.strip()] or [type(cause).__name__]
    refused = re.search(
        r"(?:ERROR|FATAL): +(.*)", text
    )  # ADBC puts its own words and queries around the server's
    message = refused.group(1) if refused else lines[-1 if "[libpq]" in lines[0] else 0]
    message = re.sub(r"^(\[[^\]]*\]\s*)+|\s*\(\d+\) \(SQL\w+\)", "", message.split("; [")[0])
    return states, numbers, " ".join(message.split()).rstrip(".")


def _describe_permission(message: str, statement: str | None) -> str:
    """Which right on which table is missing; PostgreSQL says only which table."""
    named = re.search(
        r"The (\w+) permission was denied on the (?:object|column '[^']*' of the object) '([^']*)'",
        message,
    )
    denied = re.search(
        r'permission denied for (table|view|relation|sequence|schema) "?([^"]*?)"?$', message
    )
    if named:
        right, thing = named.groups()
    elif denied:
        words = re.findall(r"\w+", (statement or "select").lower())
        kind, thing = denied.groups()
        writes = words[0] in ("insert", "update", "delete") and thing in words[1:4]
        right = (
            words[0].upper() if writes else "USAGE" if kind in ("schema", "sequence") else "SELECT"
        )
        if writes and words[0] != "insert":
            right += " or SELECT"  # a where reads
    else:
        return (
            f"a right is missing: {message}. Ask the database's owner for it; docs/permissions.md"
            " has the scripts."
        )
    return (
        f"this login lacks the right {right} on {thing}. Ask the database's owner for it;"
        " docs/permissions.md has the scripts."
    )


def _list_odbc_drivers() -> str:
    import pyodbc

    found = ", ".join(pyodbc.drivers()) or "none"
    return (
        f"Installed: {found}. Install Microsoft's {ODBC_DRIVER}, or name an installed driver in the"
        " URL."
    )
