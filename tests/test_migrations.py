"""The tables that the migrations make are those of abatch/tables.py, and a migration happens whole or not at all."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from abatch import database, migrations, tables
from abatch.config import Config
from abatch.errors import DatabaseError
from tests.conftest import open_engine


def read_schema(engine: sa.Engine) -> sa.MetaData:
    """What abatch/tables.py says, in the schema of the engine."""
    schema = (engine.get_execution_options().get("schema_translate_map") or {}).get(None)
    metadata = sa.MetaData(schema=schema)
    for table in tables.metadata.tables.values():
        table.to_metadata(metadata, schema=schema)
    return metadata


def compare(engine: sa.Engine) -> list:
    metadata = read_schema(engine)

    def is_ours(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "schema" or name == metadata.schema

    options = {
        "compare_type": True,
        "compare_server_default": True,
        "include_schemas": True,
        "include_name": is_ours,
        "version_table": tables.VERSION_TABLE,
        "version_table_schema": metadata.schema,
    }
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


def test_upgrade_makes_the_tables(config: Config, engine: sa.Engine) -> None:
    assert compare(engine) == []
    expected = {*tables.metadata.tables, tables.VERSION_TABLE}
    assert set(sa.inspect(engine).get_table_names(schema=config.schema)) == expected
    if config.schema:
        assert sa.inspect(engine).get_table_names() == []


def test_compare_can_fail(engine: sa.Engine) -> None:
    with database.transaction(engine) as connection:
        tables.scores.drop(connection)
    assert [change[0] for change in compare(engine)] == ["add_table"]


def test_revision_is_that_of_the_newest_script() -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == tables.REVISION


def test_upgrade_twice_keeps_the_rows(engine: sa.Engine) -> None:
    row = {"experiment": "e", "hash": "0", "content": "{}", "registered_at": sa.func.current_timestamp(), "run_id": "r"}
    with database.transaction(engine) as connection:
        connection.execute(tables.registrations.insert().values(**row))
    migrations.upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.select(tables.registrations.c.experiment)).all() == [("e",)]
    assert compare(engine) == []


def test_upgrade_that_fails_leaves_nothing(config: Config) -> None:
    engine = open_engine(config)
    if not config.schema:
        Path(str(engine.url.database)).touch()
    with database.transaction(engine) as connection:
        if config.schema:
            connection.execute(sa.schema.CreateSchema(config.schema))
        tables.variant_scores.create(connection)  # the last that the migration makes
    with pytest.raises(DatabaseError, match=r": the database refused: .*variant_scores.* already exists\.$") as caught:
        migrations.upgrade(engine)
    assert "s3cret" not in str(caught.value)
    assert sa.inspect(engine).get_table_names(schema=config.schema) == ["variant_scores"]
    with database.transaction(engine) as connection:
        tables.variant_scores.drop(connection)
    migrations.upgrade(engine)
    assert compare(engine) == []
    engine.dispose()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_upgrade_two_schemas_side_by_side(engine: sa.Engine) -> None:
    other = engine.execution_options(schema_translate_map={None: "abatch_test"})
    migrations.upgrade(other)
    database.check_ready(other, "test")
    assert compare(other) == compare(engine) == []


def test_upgrade_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    engine = sa.create_engine(f"sqlite:///{tmp_path}/data/bank.db")
    with pytest.raises(DatabaseError, match=r"data/bank\.db: its folder cannot be made \("):
        migrations.upgrade(engine)


def test_upgrade_locked_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SQLITE_WAIT_SECONDS", 0.05)
    path = tmp_path / "bank.db"
    holder = sa.create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    engine = database.make_engine(database.SecretStr(f"sqlite:///{path}"), None, tmp_path, "here")
    with holder.connect() as connection:
        connection.exec_driver_sql("begin exclusive")
        with pytest.raises(DatabaseError, match=r"bank\.db: the file is locked by another process"):
            migrations.upgrade(engine)
    holder.dispose()
    engine.dispose()
