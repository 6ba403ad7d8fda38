"""abatch/database/dictionary.md as tables: what it says of names, types, nulls, keys, meanings."""

import re
from typing import Any

import sqlalchemy as sa

from abatch.database import tables

HEAD = "| column | type | null | key | meaning |\n|---|---|---|---|---|"
ROW = re.compile(r"\| `(\w+)` \| ([A-Z0-9 ()max]+) \| (null)? ?\| (key)? ?\| ([^|]+) \|")
TYPES: dict[str, Any] = {
    "BIGINT": sa.BigInteger(),
    "DATE": sa.Date(),
    "DATETIME2(6)": tables.Instant,
    "DOUBLE PRECISION": tables.FiniteDouble(),
    "INTEGER": sa.Integer(),
    "NVARCHAR(max)": sa.UnicodeText(),
    "SMALLINT": sa.SmallInteger(),
    "VARBINARY(max)": sa.LargeBinary(),
}


def make_type(text: str) -> sa.types.TypeEngine[Any]:
    """A type by the name that it has on SQL Server."""
    if text in TYPES:
        return TYPES[text]
    kind, _, length = text.removesuffix(")").partition("(")
    return {"VARCHAR": sa.String, "NVARCHAR": sa.Unicode}[kind](int(length))


def read_part(title: str) -> sa.MetaData:
    """The views, or the tables, each with its comment; every line of the part is understood."""
    metadata = sa.MetaData()
    text = tables.DICTIONARY.read_text(encoding="utf-8")
    for part in text.partition(f"\n## {title}\n\n")[2].partition("\n\n## ")[0].split("### ")[1:]:
        name, sentence, rows = part.strip().split("\n\n")
        assert sentence.endswith(".")
        assert rows.startswith(HEAD)
        table = sa.Table(name, metadata, comment=sentence[0].lower() + sentence[1:-1])
        for row in rows.removeprefix(HEAD).strip().split("\n"):
            matched = ROW.fullmatch(row)
            assert matched, row
            column, type_, null, key, meaning = matched.groups()
            assert column not in table.c
            options: dict[str, Any] = {
                "nullable": bool(null),
                "primary_key": bool(key),
                "comment": meaning,
            }
            table.append_column(sa.Column(column, make_type(type_), **options))
    return metadata


VIEWS, TABLES = read_part("Views"), read_part("Tables")


def add_comments(metadata: sa.MetaData) -> None:
    """Give tables as tables.py defines them the comments that they have in the database."""
    for table in metadata.tables.values():
        described = TABLES.tables[table.name]
        table.comment = described.comment
        for column in table.c:
            if column.name in described.c:
                column.comment = described.c[column.name].comment
