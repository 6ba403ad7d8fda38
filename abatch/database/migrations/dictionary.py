"""The comments in the database, from abatch/database/dictionary.md."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from abatch.database.tables import TABLES


def find_comments(described: sa.Table) -> dict[str, str]:
    """What a table or view is, under an empty name, and what its columns mean."""
    meanings = {column.name: str(column.comment) for column in described.columns}
    return {"": str(described.comment), **meanings}


def create_table(name: str, *parts: sa.schema.SchemaItem, **options: Any) -> None:
    """Create a table with its comments, where comments are kept.

    The dictionary says what columns mean now: one that a later revision drops has no comment.
    """
    comments = find_comments(TABLES[name]) if name in TABLES else {}
    for part in parts:
        if isinstance(part, sa.Column):
            part.comment = comments.get(part.name)
    op.create_table(name, *parts, comment=comments.get(""), **options)
