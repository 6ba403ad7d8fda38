"""How abatch's tables came to be, one file per revision.

`python -m abatch init` brings a database up to the newest.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext

from abatch.database import connections, faults, locks
from abatch.database.tables import VERSION_TABLE
from abatch.errors import DatabaseError


def make_config(**attributes: object) -> Config:
    """Alembic's configuration, with what env.py shall find in its attributes."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes)
    return config


def upgrade(engine: sa.Engine) -> None:
    """Create abatch's tables, or bring them to the newest revision, in one transaction.

    Harmless to repeat.

    Raises
    ------
    DatabaseError
        If the database cannot be reached, or refuses, if another commit of abatch made its tables,
        or if another process is doing the same.
    """
    place = faults.show_url(engine)
    refusal = (
        "another process is creating or upgrading the tables. Run init again when it has ended."
    )
    with faults.described(place):
        if engine.dialect.name == "sqlite":
            _prepare_file(engine, Path(str(engine.url.database)))
        with locks.hold(engine, "init", f"{place}: {refusal}"):
            connections.write(engine, _upgrade, connections.find_schema(engine))
    connections.check_ready(engine, "")


def _upgrade(connection: sa.Connection, schema: str | None) -> None:
    if schema and not sa.inspect(connection).has_schema(schema):
        connection.execute(sa.schema.CreateSchema(schema))
    options = {"version_table": VERSION_TABLE, "version_table_schema": schema}
    context = MigrationContext.configure(connection, opts=options)
    if installed := context.get_current_revision():
        connections.check_revision(connection.engine, installed, "Then run init again.")
    command.upgrade(make_config(connection=connection, schema=schema), "head")


def _prepare_file(engine: sa.Engine, path: Path) -> None:
    if not path.parent.is_dir():
        raise DatabaseError(
            f"{path}: there is no folder {path.parent}. Make it, or mend the path in the config."
        )
    # Readers and one writer at a time: people read while predictions are written. The file
    # remembers it.
    with closing(engine.raw_connection()) as raw:
        try:
            raw.cursor().execute("pragma journal_mode = wal")
        except sqlite3.Error as error:
            raise DatabaseError(f"{path}: {faults.describe(error)}") from None
