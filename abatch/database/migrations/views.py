"""The views for analysts, from the files of abatch/database/views."""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

from abatch.database.migrations.dictionary import find_comments
from abatch.database.tables import VIEWS

FOLDER = Path(__file__).parent.parent / "views"
# What a view cannot say in one way, by dialect.
FRAGMENTS = {
    "mssql": {
        "cohort_date": "cast(nullif(s.cohort, 'all') as date)",
        "night": "dateadd(day, days.n, begun.first_night)",
        "today": "cast(sysutcdatetime() as date)",
        "seconds": (
            "datediff_big(millisecond, r.started_at, r.finished_at) / cast(1000 as double"
            " precision)"
        ),
    },
    "postgresql": {
        "cohort_date": "cast(nullif(s.cohort, 'all') as date)",
        "night": "begun.first_night + days.n",
        "today": "cast(now() at time zone 'UTC' as date)",
        "seconds": (
            "cast(round(extract(epoch from r.finished_at - r.started_at), 3) as double precision)"
        ),
    },
    "sqlite": {
        "cohort_date": "date(nullif(s.cohort, 'all'))",
        "night": "date(julianday(begun.first_night) + days.n)",
        "today": "date('now')",
        "seconds": "round((julianday(r.finished_at) - julianday(r.started_at)) * 86400, 3)",
    },
}


def create_views() -> None:
    """Create every view, with its comments where comments are kept.

    The last step of the newest revision, and of no other: the files say what the views are now.
    A revision that follows takes this step over, and drops the views first.
    """
    context = op.get_context()
    dialect, schema = context.dialect, context.version_table_schema
    prefix = f"{dialect.identifier_preparer.quote_schema(schema)}." if schema else ""
    for view, described in VIEWS.items():
        query = (FOLDER / f"{view}.sql").read_text(encoding="utf-8").rstrip()
        query = query.format(schema=prefix, **FRAGMENTS[dialect.name])
        create = f"create view {prefix}{view} as\n{query}"
        # T-SQL wants a view to be created alone in its batch.
        _execute(f"exec(N{_quote(create)})" if dialect.name == "mssql" else create)
        for column, comment in find_comments(described).items():
            if dialect.name == "postgresql":
                thing = f"column {prefix}{view}.{column}" if column else f"view {prefix}{view}"
                _execute(f"comment on {thing} is {_quote(comment)}")
            elif dialect.name == "mssql":
                place = f"'schema', N{_quote(schema or str(dialect.default_schema_name))}"
                place += f", 'view', '{view}'"
                place += f", 'column', '{column}'" if column else ", null, null"
                _execute(
                    f"execute sp_addextendedproperty 'MS_Description', N{_quote(comment)}, {place}"
                )


def _execute(statement: str) -> None:
    op.execute(sa.text(statement.replace(":", r"\:")))  # it has no binds


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
