"""What stands between this machine and its database: drivers, version, rights, clock."""

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from abatch.database import connections, faults, tables
from abatch.errors import DatabaseError

REGISTRY = ".odbcinst.ini"  # in a user's home, where unixODBC looks beside /etc/odbcinst.ini
RIGHTS = ("select", "insert", "update", "delete")
_MODULES = {  # by distribution
    "SQLAlchemy": "sqlalchemy",
    "pyodbc": "pyodbc",
    "mssql-python": "mssql_python",
    "psycopg": "psycopg",
    "adbc-driver-postgresql": "adbc_driver_postgresql",
    "adbc-driver-sqlite": "adbc_driver_sqlite",
}
_VERSIONS = {
    "mssql": "select @@version",
    "postgresql": "select version()",
    "sqlite": "select 'SQLite ' || sqlite_version()",
}
_CLOCKS = {"mssql": "select sysutcdatetime()", "postgresql": "select now() at time zone 'UTC'"}
_ASKED = {
    "mssql": "select has_perms_by_name(?, 'OBJECT', ?)",
    "postgresql": "select has_table_privilege(%s, %s)",
}


class Server(NamedTuple):
    """What a server says of itself and of this login.

    Attributes
    ----------
    clock : its time, naive UTC; None of SQLite, which has this machine's
    rights : for each set of rights on abatch's tables, the tables on which the login has it
    """

    version: str
    clock: datetime | None
    rights: dict[str, list[str]]


def list_drivers() -> Iterator[tuple[str, str]]:
    """Each of Python's drivers, with its version or what hinders it."""
    for name, module in _MODULES.items():
        try:
            import_module(module)
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "is not installed as a distribution"
        except (ImportError, OSError) as error:
            yield name, f"cannot be loaded: {error}"


def list_odbc_drivers() -> list[str]:
    """The drivers that unixODBC knows; none where it is missing itself."""
    with suppress(ImportError):
        import pyodbc

        return [*pyodbc.drivers()]
    return []


def find_bundled_driver() -> Path | None:
    """Microsoft's ODBC driver inside the wheels of mssql-python; None if there is none for here."""
    try:
        wheel, bindings = map(import_module, ("mssql_python_odbc", "mssql_python.ddbc_bindings"))
        path = Path(bindings.GetDriverPathCpp(str(Path(str(wheel.__file__)).parent)))
    except (ImportError, OSError, RuntimeError, AttributeError):
        return None
    return path if path.exists() else None


def register_driver(home: Path) -> Path:
    """Let unixODBC know the bundled driver for one user, without root; returns the file written.

    Raises
    ------
    DatabaseError
        If there is no such driver, or the file cannot be written or names another one already.
    """
    path, registry = find_bundled_driver(), home / REGISTRY
    if path is None:
        raise DatabaseError(
            "the wheels of mssql-python hold no ODBC driver for this machine. Install Microsoft's"
            f" {faults.ODBC_DRIVER}."
        )
    section = f"[{faults.ODBC_DRIVER}]"
    try:
        there = registry.read_text(encoding="utf-8") if registry.exists() else ""
        if section in there:
            raise DatabaseError(
                f"{registry}: has a section {section} already. Let its Driver be {path}, or remove"
                " the section, then register again."
            )
        with registry.open("a", encoding="utf-8") as file:
            file.write(f"{os.linesep if there else ''}{section}\nDriver={path}\n")
    except OSError as error:
        raise DatabaseError(f"{registry}: cannot be written ({error.strerror}).") from None
    return registry


def examine(connection: sa.Connection) -> Server:
    """Ask a server for its version, its clock and the login's rights on abatch's tables."""
    kind = connection.dialect.name
    said = str(connection.exec_driver_sql(_VERSIONS[kind]).scalar_one())
    clock = connection.exec_driver_sql(_CLOCKS[kind]).scalar_one() if kind in _CLOCKS else None
    rights: dict[str, list[str]] = {}
    if kind in _ASKED:
        schema = connections.find_schema(connection.engine)
        there = sa.inspect(connection).get_table_names(schema=schema)
        for name in sorted({*tables.TABLES} & {*there}):
            rights.setdefault(_find_rights(connection, name), []).append(name)
    return Server(" ".join(said.split()), clock, rights)


def _find_rights(connection: sa.Connection, table: str) -> str:
    schema = connections.find_schema(connection.engine)
    name = f"{schema}.{table}" if schema else table
    ask = _ASKED[connection.dialect.name]
    held = [right for right in RIGHTS if connection.exec_driver_sql(ask, (name, right)).scalar()]
    return ", ".join(held) or "none"
