"""Recall and reproduce: snapshots of training rows, what was deleted, and why a model went live or
not.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql

from abatch.database.migrations.views import create_views

revision = "0004"
down_revision = "0003"

INSTANT = sa.DateTime().with_variant(mssql.DATETIME2(precision=6), "mssql")


def upgrade() -> None:
    op.create_table(
        "deletions",
        sa.Column(
            "deletion_id",
            sa.Integer(),
            autoincrement=True,
            nullable=False,
            comment="in the order in which they were written",
        ),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="model or snapshot"),
        sa.Column(
            "name",
            sa.String(length=128),
            nullable=False,
            comment="model_name, or content_hash of the snapshot",
        ),
        sa.Column("reason", sa.Unicode(length=1000), nullable=False, comment="why"),
        sa.Column(
            "deleted_by",
            sa.Unicode(length=255),
            nullable=False,
            comment="user and host, or the train run",
        ),
        sa.Column("deleted_at", INSTANT, nullable=False, comment="when the row was written, UTC"),
        sa.PrimaryKeyConstraint("deletion_id"),
        comment=(
            "whose file was deleted, by retention or by hand; its record stays; only ever appended"
        ),
    )
    op.create_index("deletions_name", "deletions", ["kind", "name"], unique=False)
    op.create_table(
        "snapshots",
        sa.Column(
            "run_id",
            sa.String(length=40),
            nullable=False,
            comment="the train run that pulled the rows",
        ),
        sa.Column(
            "experiment",
            sa.String(length=64),
            nullable=False,
            comment="name of the experiment in ml_config.yaml",
        ),
        sa.Column(
            "content_hash",
            sa.String(length=64),
            nullable=False,
            comment="SHA-256 of names, types and values; the file is named by it",
        ),
        sa.Column(
            "sha256",
            sa.String(length=64),
            nullable=False,
            comment="of the file; of several rows with one content_hash the newest counts",
        ),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False, comment="size of the file"),
        sa.Column("rows", sa.Integer(), nullable=False, comment="rows that the query returned"),
        sa.Column("from_date", sa.Date(), nullable=False, comment="bind :from_date"),
        sa.Column("to_date", sa.Date(), nullable=False, comment="bind :to_date, excluded"),
        sa.Column("as_of", INSTANT, nullable=False, comment="bind :as_of, UTC"),
        sa.Column("query", sa.UnicodeText(), nullable=False, comment="text of the training query"),
        sa.Column(
            "columns",
            sa.UnicodeText(),
            nullable=False,
            comment="name, type, nulls and SHA-256 of each column, as JSON",
        ),
        sa.Column("pulled_at", INSTANT, nullable=False, comment="when the row was written, UTC"),
        sa.PrimaryKeyConstraint("run_id"),
        comment=(
            "training rows as one train run pulled them; their file lies in the snapshots folder,"
            " once for equal content"
        ),
    )
    op.create_index("snapshots_content", "snapshots", ["content_hash"], unique=False)
    schema = op.get_context().version_table_schema
    for name, kind, comment in (
        (
            "snapshot",
            sa.String(length=64),
            "content hash of the training rows as kept; null if trained before revision 0004",
        ),
        (
            "decision",
            sa.UnicodeText(),
            "whether it went live when it was trained, and why; null as for snapshot",
        ),
    ):
        op.add_column(
            "models", sa.Column(name, kind, nullable=True, comment=comment), schema=schema
        )
    create_views()
