"""The one row of the table owner: made with the tables, and a backup brings it back with them."""

from alembic import op

# 32 random digits, by the server: a script that is run in two databases gives each its own.
RANDOM = {
    "mssql": "lower(replace(convert(varchar(36), newid()), '-', ''))",
    "postgresql": "replace(cast(gen_random_uuid() as varchar(36)), '-', '')",
    "sqlite": "lower(hex(randomblob(16)))",
}


def create_owner() -> None:
    """Write it."""
    context = op.get_context()
    dialect, schema = context.dialect, context.version_table_schema
    prefix = f"{dialect.identifier_preparer.quote_schema(schema)}." if schema else ""
    op.execute(f"insert into {prefix}owner (owner_id) values ({RANDOM[dialect.name]})")
