"""Run by alembic.

Connection and schema come from `abatch.database.migrations`, and for a script the buffer too.
"""

from alembic import context

from abatch.database.tables import VERSION_TABLE, metadata

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    version_table_schema=attributes["schema"],
    # a script's transaction is written by abatch.database.migrations.script
    transactional_ddl=not context.is_offline_mode(),
    output_buffer=attributes.get("buffer"),
    mssql_batch_separator="",
)
with context.begin_transaction():
    context.run_migrations()
