"""The migrations as a script that a DBA reads, and runs without Python: `init --sql`."""

import io
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from alembic import command

from abatch.database.migrations import make_config
from abatch.database.tables import REVISION
from abatch.errors import ConfigError

FOLDER = Path(__file__).with_name("scripts")
# A batch that comes after one that stopped is run all the same, so each looks whether the
# transaction is open: it is not if the first batch did not begin it, or if an error rolled it back
# (xact_abort).
_GUARD = "if @@trancount = 0 return;"


def write_script(url: str, schema: str | None, place: str) -> str:
    """Write what creates abatch's tables and views in the kind of database of `url`.

    Parameters
    ----------
    url : empty where it is not known, which is taken for SQL Server's
    place : the environment's key in the config, for messages

    Raises
    ------
    ConfigError
        If the URL is of no known kind, or if SQL Server's schema is not named.
    """
    try:
        kind = sa.make_url(url).get_backend_name() if url else "mssql"
    except sa.exc.ArgumentError:
        kind = ""
    template = FOLDER / f"{kind}.sql"
    if not template.exists():
        raise ConfigError(
            f"{place}.database: the value is not a database URL of SQL Server, PostgreSQL or"
            " SQLite."
        )
    if kind == "mssql" and schema is None:
        raise ConfigError(
            f"{place}.schema: this key is missing, and a script for SQL Server must name it. Add"
            " it: schema: abatch."
        )
    dialect = make_dialect(kind, schema)
    dialect.insert_returning = False  # of no use in a script
    buffer = io.StringIO()
    config = make_config(connection=SimpleNamespace(dialect=dialect), schema=schema, buffer=buffer)
    command.upgrade(config, "head", sql=True)
    text = re.sub(r" +$|^-- Running.*\n\n", "", buffer.getvalue(), flags=re.MULTILINE)
    statements = [f"{statement};" for statement in text.strip().removesuffix(";").split(";\n\n")]
    quoted = dialect.identifier_preparer.quote_schema(schema) if schema else ""
    return template.read_text(encoding="utf-8").format(
        into=f" in schema {schema}" if schema else "",
        prefix=f"{quoted}." if schema else "",
        target=REVISION,
        schema=schema,
        quoted_schema=quoted,
        create_schema=f"""
    if to_regnamespace('{quoted}') is null then
        create schema {quoted};
    end if;"""
        if schema
        else "",
        body=_group_batches(statements) if kind == "mssql" else "\n\n".join(statements),
    )


def make_dialect(kind: str, schema: str | None = None) -> Any:
    """Make a dialect as it is when it has met a server.

    What has no schema it puts into `schema`, as a connected engine does. On SQL Server it has
    NVARCHAR(max) rather than NTEXT, and DATE: SQL Server 2016 is the oldest that the migrations are
    made for.
    """
    make: Any = sa.make_url(f"{kind}://").get_dialect()
    dialect = make(paramstyle="named")  # with others, a % in a comment would be doubled
    if kind == "mssql":
        dialect.deprecate_large_types = True
        dialect.server_version_info = (13,)
    if schema:
        translate = {"schema_translate_map": {None: schema}, "render_schema_translate": True}
        dialect.statement_compiler = partial(dialect.statement_compiler, **translate)
        dialect.ddl_compiler = partial(dialect.ddl_compiler, **translate)
    return dialect


def _group_batches(statements: list[str]) -> str:
    """T-SQL: a batch for each table, index or view with the comments on it."""
    return "\n".join(
        statement if "sp_addextendedproperty" in statement else f"GO\n\n{_GUARD}\n{statement}"
        for statement in statements
    ).removeprefix("GO\n\n")
