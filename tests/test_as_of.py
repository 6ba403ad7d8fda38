"""docs/as-of.md: its example is run as it stands, and what it shows is compared."""

import re
from datetime import date, datetime

import pytest
import sqlalchemy as sa

from abatch.database import reading
from abatch.queries import Query, Window
from tests.conftest import ROOT
from tests.tsql import find_faults

PAGE = (ROOT / "docs" / "as-of.md").read_text(encoding="utf-8")
TABLES, TRAINING, *TEMPORAL = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def read_shown() -> dict[datetime, list[tuple[int, str, int, float]]]:
    """The page's first table: the rows to be known at each moment."""
    shown: dict[datetime, list[tuple[int, str, int, float]]] = {}
    for line in PAGE[PAGE.index("| :as_of (UTC) |") :].split("\n\n")[0].splitlines()[2:]:
        as_of, candidate_id, event_date, outcome, income = (
            cell.strip() for cell in line.strip("|").split("|")
        )
        rows = shown.setdefault(datetime.fromisoformat(as_of), [])
        if candidate_id:
            rows.append((int(candidate_id), event_date, int(outcome), float(income)))
    return shown


def test_as_of_shown_table_has_every_turn() -> None:
    shown = read_shown()
    assert [len(rows) for rows in shown.values()] == [0, 2, 2, 2]
    assert [[row[2:] for row in rows if row[0] == 7] for rows in shown.values()] == [
        [],
        [(0, 41000)],
        [(1, 52000)],
        [(0, 52000)],
    ]


def test_as_of_loaded_at_form_returns_what_was_known(database_url: str, engine: sa.Engine) -> None:
    query, window = Query("training.sql", TRAINING), Window(date(2026, 9, 1), date(2026, 9, 2))
    # SQL Server's timestamp is a row's version; the page says what its type is there.
    script = TABLES.replace("timestamp", "datetime2") if engine.dialect.name == "mssql" else TABLES
    with engine.begin() as connection:
        for statement in script.strip().removesuffix(";").split(";\n"):
            connection.exec_driver_sql(statement)
    for as_of, expected in read_shown().items():
        found = reading.read_query(engine, query, window, as_of)
        rows = [
            (int(row.candidate_id), str(row.event_date)[:10], int(row.outcome), float(row.income))
            for row in found.itertuples()
        ]
        assert sorted(rows) == expected, as_of


@pytest.mark.parametrize("sql", [TRAINING, *TEMPORAL], ids=lambda sql: sql.splitlines()[0])
def test_as_of_page_is_tsql(sql: str) -> None:
    assert find_faults(sql) == []


def test_as_of_every_temporal_table_of_the_training_query_says_so() -> None:
    training = next(sql for sql in TEMPORAL if "left join" in sql)
    assert (
        len(re.findall(r"\b(from|join) dbo\.", training))
        == len(re.findall(r"for system_time as of :as_of", training))
        == 3
    )


def test_as_of_statements_in_the_text_are_tsql() -> None:
    statements = re.findall(r"`((?:alter|select)\s[^`]+)`", PAGE)
    assert len(statements) == 2
    for statement in statements:
        assert find_faults(statement) == []
