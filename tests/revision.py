"""Until the first release there is one revision, made of tables.py and the views.

Write it anew: python -m tests.revision
"""

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext

from abatch.database import tables
from abatch.database.migrations import views
from abatch.queries import clean_query

TABLES = Path(tables.__file__)
FILE = TABLES.parent / "migrations" / "versions" / "0001_tables_and_views.py"
TEXT = '''# fmt: off
"""All tables, indexes and views.

Written by `python -m tests.revision`: before the first release there is no other revision, and a
database of another commit is refused, by the hash in the name of this one.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql

from abatch.database.migrations.dictionary import create_table
from abatch.database.migrations.owner import create_owner
from abatch.database.migrations.views import create_views

revision = "{revision}"
down_revision = None
INSTANT = sa.DateTime().with_variant(mssql.DATETIME2(precision=6), "mssql")


def upgrade() -> None:
    """Create them."""
{body}
    create_owner()
    create_views()
'''


def render_type(kind: str, item: Any, _context: object) -> str | Literal[False]:
    """The types that a revision does not borrow from tables.py; False leaves a type to alembic."""
    if kind == "type" and isinstance(item, tables.FiniteDouble):
        return "sa.Double()"
    return "INSTANT" if kind == "type" and isinstance(item, sa.DateTime) else False


def render(metadata: sa.MetaData) -> str:
    """What makes the tables, as code."""
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        changes = produce_migrations(context, metadata).upgrade_ops
        assert changes is not None
        body = render_python_code(changes, render_item=render_type, migration_context=context)
    engine.dispose()
    body = re.sub(r"^ *# ###.*\n?", "", body, flags=re.MULTILINE).rstrip()
    return re.sub(r"^ {4}(?=sa|comment)", " " * 8, body, flags=re.MULTILINE)


def write() -> tuple[str, str]:
    """The revision's name, which ends in a hash of what it makes, and its file's content.

    Tables, columns, types, keys, indexes and views count, what is said of them does not: a database
    is not refused because a comment or a meaning in the dictionary was edited.
    """
    metadata = sa.MetaData()
    for table in tables.metadata.sorted_tables:
        table.to_metadata(metadata).comment = None
        for column in metadata.tables[table.name].columns:
            column.comment = None
    body = render(metadata)
    selects = [clean_query(path.read_text("utf-8")) for path in sorted(views.FOLDER.glob("*.sql"))]
    digest = hashlib.sha256("\n".join([body, *selects, str(views.FRAGMENTS)]).encode())
    revision = f"0001_{digest.hexdigest()[:8]}"
    body = body.replace("op.create_table(", "create_table(")
    return revision, TEXT.format(revision=revision, body=body)


if __name__ == "__main__":
    revision, content = write()
    FILE.write_text(content, encoding="utf-8")
    line = re.compile(r"^REVISION = .*$", re.MULTILINE)
    source = line.sub(f'REVISION = "{revision}"', TABLES.read_text(encoding="utf-8"))
    TABLES.write_text(source, encoding="utf-8")
