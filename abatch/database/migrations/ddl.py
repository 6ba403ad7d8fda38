"""What revisions do beside alembic's own operations: comments where they are kept."""

from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op


def comment_on(kind: str, name: str, comments: Mapping[str, str]) -> None:
    """Comment on a table or view and its columns; `comments` by column, that of the table itself under the empty name."""
    dialect = op.get_context().dialect
    schema = op.get_context().version_table_schema
    for column, comment in comments.items() if dialect.supports_comments else ():  # SQLite does not
        if dialect.name == "postgresql":
            what = f"column {_prefix()}{name}.{column}" if column else f"{kind} {_prefix()}{name}"
            _execute(f"comment on {what} is {_quote(comment)}")
            continue
        what = (
            f"'schema', N{_quote(schema or str(dialect.default_schema_name))}, '{kind}', '{name}'"
        )
        what += f", 'column', '{column}'" if column else ", null, null"
        added = f"execute sp_addextendedproperty 'MS_Description', N{_quote(comment)}, {what}"
        if kind == "table":  # an earlier revision, or somebody by hand, may have described it
            exists = f"exists (select 1 from fn_listextendedproperty('MS_Description', {what}))"
            added = f"if {exists}\n    {added.replace('sp_add', 'sp_update', 1)}\nelse\n    {added}"
        _execute(added)


def _prefix() -> str:
    context = op.get_context()
    schema = context.version_table_schema
    return f"{context.dialect.identifier_preparer.quote_schema(schema)}." if schema else ""


def _execute(statement: str) -> None:
    op.execute(sa.text(statement.replace(":", r"\:")))  # it has no binds


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
