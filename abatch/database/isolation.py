"""How SQL Server keeps readers and writers apart, and what follows where it locks."""

from contextlib import closing
from typing import Any

import sqlalchemy as sa

from abatch.database import connections, faults

_SETTINGS = (
    "select is_read_committed_snapshot_on, snapshot_isolation_state from sys.databases"
    " where database_id = db_id()"
)
_SNAPSHOT = "set transaction isolation level snapshot"
IS_ON = 1  # of snapshot_isolation_state, which may be changing, too


def is_chosen(engine: sa.Engine) -> bool:
    """Whether the environment says that queries are read as of one moment."""
    return engine.get_execution_options().get("isolation") == "snapshot"


def set_snapshot(link: Any) -> None:
    """Let what a driver's connection reads from now on be as it was at one moment.

    Parameters
    ----------
    link : in no transaction, and of no pool: it stays so
    """
    with closing(link.cursor()) as cursor:
        cursor.execute(_SNAPSHOT)
    link.commit()  # as SQLAlchemy does it


def find_doubt(engine: sa.Engine) -> str | None:
    """A sentence if readers of this database wait for writers, or read what never was.

    None if all is well, for other databases than SQL Server, and where `snapshot` is chosen.
    """
    if engine.dialect.name != "mssql":
        return None
    with faults.described(faults.show_url(engine)):
        is_on, state = connections.read(engine, _find_settings)
    if (state == IS_ON) if is_chosen(engine) else is_on:
        return None
    if is_chosen(engine):
        return (
            f"{faults.show_url(engine)}: isolation: snapshot is chosen, and the database does not"
            " allow it, so queries will be refused. Let its owner allow it (alter database current"
            " set allow_snapshot_isolation on), or leave out isolation."
        )
    return (
        f"{faults.show_url(engine)}: read_committed_snapshot is off, so who reads waits for who"
        " writes, and a query that runs while its tables are loaded may read a row twice or never."
        " Let its owner switch it on, or choose isolation: snapshot (docs/sql-server.md)."
    )


def _find_settings(connection: sa.Connection) -> tuple[bool, int]:
    is_on, state = connection.exec_driver_sql(_SETTINGS).one()
    return bool(is_on), int(state)
