"""The migrations as a script that a DBA reads, and runs without Python: `init --sql`."""

import io
import re
from functools import partial
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from alembic import command

from abatch.database.connections import make_sql_server_dialect
from abatch.database.migrations import make_config
from abatch.database.tables import REVISION, VERSION_TABLE
from abatch.errors import ConfigError

# A batch that comes after one that stopped is run all the same, so each looks whether the
# transaction is open: it is not if the first batch did not begin it, or if an error rolled it back
# (xact_abort).
_GUARD = "if @@trancount = 0 return;"
_OTHER = (
    "another commit of abatch made it, before its first release, and it cannot be upgraded. Name"
    " an empty schema in the config and print this script again."
)
_SQL_SERVER = """\
-- abatch: creates its tables{into}, revision {target}.
-- Run:  sqlcmd -S SERVER -d DATABASE -i init.sql
-- All of it happens, in one transaction, or nothing. Run a second time, it changes nothing and says so.
set ansi_nulls on;
set ansi_padding on;
set ansi_warnings on;
set arithabort on;
set concat_null_yields_null on;
set implicit_transactions off;
set nocount on;
set numeric_roundabort off;
set quoted_identifier on;
set xact_abort on;
GO

-- Without an open transaction, all batches but this one do nothing.
declare @found varchar(32) = 'none';
if object_id(N'{prefix}{version_table}', N'U') is not null
    select @found = version_num from {prefix}{version_table};
if @found = '{target}'
begin
    raiserror(N'abatch: revision %s is installed already; nothing to do.', 16, 1, @found);
    return;
end
if @found <> 'none'
begin
    raiserror(N'abatch: found revision %s, expected none: {other}', 16, 1, @found);
    return;
end
begin transaction;
if schema_id(N'{schema}') is null
    exec(N'create schema {quoted_schema}');
GO

{body}
GO

{guard}
commit transaction;
print N'abatch: revision {target} is installed.';
GO
"""
_POSTGRESQL = """\
-- abatch: creates its tables{into}, revision {target}.
-- Run:  psql -v ON_ERROR_STOP=1 -d DATABASE -f init.sql
-- All of it happens, in one transaction, or nothing. Run a second time, it changes nothing and says so.
begin;

do $$
declare
    installed varchar(32) := 'none';
begin
    if to_regclass('{prefix}{version_table}') is not null then
        installed := coalesce((select version_num from {prefix}{version_table}), 'none');
    end if;
    if installed = '{target}' then
        raise exception 'abatch: revision % is installed already; nothing to do.', installed;
    end if;
    if installed <> 'none' then
        raise exception 'abatch: found revision %, expected none: {other}', installed;
    end if;{create_schema}
end $$;

{body}

commit;
"""
_SQLITE = """\
-- abatch: creates its tables{into}, revision {target}.
-- Run:  sqlite3 -bail FILE < init.sql
-- All of it happens, in one transaction, or nothing: run a second time, it stops at a table that is there already.
pragma journal_mode = wal;

begin immediate;

{body}

commit;
"""
_TEMPLATES = {"mssql": _SQL_SERVER, "postgresql": _POSTGRESQL, "sqlite": _SQLITE}


def write_script(url: str, schema: str | None, place: str) -> str:
    """The script that creates abatch's tables and views, for the kind of database of `url`.

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
    if kind not in _TEMPLATES:
        raise ConfigError(
            f"{place}.database: the value is not a database URL of SQL Server, PostgreSQL or"
            " SQLite."
        )
    if kind == "mssql" and schema is None:
        raise ConfigError(
            f"{place}.schema: this key is missing, and a script for SQL Server must name it. Add"
            " it: schema: abatch."
        )
    dialect = _make_dialect(kind, schema)
    buffer = io.StringIO()
    config = make_config(connection=SimpleNamespace(dialect=dialect), schema=schema, buffer=buffer)
    command.upgrade(config, "head", sql=True)
    text = re.sub(r" +$|^-- Running.*\n\n", "", buffer.getvalue(), flags=re.MULTILINE)
    statements = [f"{statement};" for statement in text.strip().removesuffix(";").split(";\n\n")]
    quoted = dialect.identifier_preparer.quote_schema(schema) if schema else ""
    create = (
        f"\n    if to_regnamespace('{quoted}') is null then\n        create schema {quoted};\n   "
        " end if;"
    )
    return _TEMPLATES[kind].format(
        into=f" in schema {schema}" * bool(schema),
        prefix=f"{quoted}." * bool(schema),
        version_table=VERSION_TABLE,
        target=REVISION,
        other=_OTHER,
        guard=_GUARD,
        schema=schema,
        quoted_schema=quoted,
        create_schema=create * bool(schema),
        body=_group_batches(statements) if kind == "mssql" else "\n\n".join(statements),
    )


def _make_dialect(kind: str, schema: str | None) -> Any:
    """A dialect that puts what has no schema into `schema`, as a connected engine does."""
    if kind == "mssql":
        dialect = make_sql_server_dialect()
    else:
        make: Any = sa.make_url(f"{kind}://").get_dialect()
        dialect = make(paramstyle="named")  # with others, a % in a comment would be doubled
    dialect.insert_returning = False  # of no use in a script
    if schema:
        translate = {"schema_translate_map": {None: schema}, "render_schema_translate": True}
        dialect.statement_compiler = partial(dialect.statement_compiler, **translate)
        dialect.ddl_compiler = partial(dialect.ddl_compiler, **translate)
    return dialect


def _group_batches(statements: list[str]) -> str:
    """T-SQL: a batch for each table, index or view with the comments on it."""
    text = ""
    for statement in statements:
        text += (
            f"\n{statement}"
            if "sp_addextendedproperty" in statement
            else f"\nGO\n\n{_GUARD}\n{statement}"
        )
    return text.removeprefix("\nGO\n\n")
