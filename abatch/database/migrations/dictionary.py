"""The comments in the database, from abatch/database/dictionary.md."""

import re

import sqlalchemy as sa
from alembic import op

from abatch.database.tables import DICTIONARY


def read_meanings() -> dict[str, dict[str, str]]:
    """Find each table's and view's sentence, under an empty name, and what its columns mean."""
    meanings = {}
    for part in re.split("^### ", DICTIONARY.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name, _, sentence, *rows = part.splitlines()
        columns = re.findall(r"^\| `(\w+)` .* \| (.+) \|$", "\n".join(rows), re.MULTILINE)
        meanings[name] = {"": sentence[0].lower() + sentence[1:].removesuffix("."), **dict(columns)}
    return meanings


def create_table(name: str, *parts: sa.schema.SchemaItem) -> None:
    """Create a table with its comments, where comments are kept.

    The dictionary says what columns mean now: one that a later revision drops has no comment.
    """
    meanings = read_meanings().get(name, {})
    for part in parts:
        if isinstance(part, sa.Column):
            part.comment = meanings.get(part.name)
    op.create_table(name, *parts, comment=meanings.get(""))
