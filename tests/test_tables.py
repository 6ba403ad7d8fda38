"""What columns take, and the data dictionary.

It says what the tables are, and so does the database.
"""

from datetime import datetime
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import StatementError

from abatch.commands import look
from abatch.config import Experiment
from abatch.database import tables
from abatch.database.migrations import script
from abatch.database.migrations.dictionary import find_comments
from abatch.errors import DataError
from tests.dictionary import TABLES, VIEWS

ALL = [*TABLES.tables.values(), *VIEWS.tables.values()]
SQL_SERVER = script.make_dialect("mssql")
SCORE = {
    "experiment": "e",
    "model_name": "m",
    "cohort": "all",
    "metric": "roc_auc",
    "n": 1,
    "run_id": "r",
}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -np.inf, np.float32("nan")])
def test_finite_double_refuses(engine: sa.Engine, value: float) -> None:
    with pytest.raises(StatementError) as caught, engine.begin() as connection:
        connection.execute(
            tables.scores.insert(),
            [
                {**SCORE, "value": 0.5, "lower": None},
                {**SCORE, "cohort": "x", "value": value, "lower": 0},
            ],
        )
    assert isinstance(caught.value.orig, DataError)
    assert (
        str(caught.value.orig)
        == f"{value} cannot be stored in a column of numbers; expected a finite number or null."
    )
    with engine.connect() as connection:
        assert connection.execute(sa.select(tables.scores)).all() == []


def test_finite_double_takes(engine: sa.Engine) -> None:
    rows = [
        (0.1, None),
        (-1.7976931348623157e308, 5e-324),
        (3, np.float64(0.25)),
        (np.float32(0.5), 0),
    ]
    with engine.begin() as connection:
        values = [
            {**SCORE, "cohort": str(i), "value": value, "lower": lower}
            for i, (value, lower) in enumerate(rows)
        ]
        connection.execute(tables.scores.insert(), values)
    with engine.connect() as connection:
        found = connection.execute(
            sa.select(tables.scores.c.value, tables.scores.c.lower).order_by(tables.scores.c.cohort)
        ).all()
    assert found == rows
    assert all(isinstance(row.value, float) for row in found)


def test_instant_keeps_microseconds(engine: sa.Engine) -> None:
    moments = [datetime(2026, 11, 23, 23, 59, 59, 999999), datetime(2026, 11, 24)]
    row = {"hash": "0", "content": "{}", "run_id": "r"}
    with engine.begin() as connection:
        connection.execute(
            tables.registrations.insert(),
            [{"experiment": str(i), "registered_at": moments[i], **row} for i in range(2)],
        )
        assert (
            sorted(connection.scalars(sa.select(tables.registrations.c.registered_at))) == moments
        )


def test_comments_are_everywhere() -> None:
    assert [table.name for table in ALL if not table.comment] == []
    assert [str(column) for table in ALL for column in table.columns if not column.comment] == []
    instants = [
        column for table in ALL for column in table.columns if isinstance(column.type, sa.DateTime)
    ]
    assert len(instants) == 18
    assert [str(column) for column in instants if "UTC" not in str(column.comment)] == []


def test_dictionary_has_every_table_and_view_once() -> None:
    first = ["predictions", "predictions_superseded"]  # made before the views that read them
    views = [*first, *sorted(tables.VIEWS.keys() - {*first})]
    assert [table.name for table in ALL] == [*sorted(tables.metadata.tables), *views]
    assert look.read_dictionary().count("\n### ") == len(ALL)


@pytest.mark.parametrize(
    "table", [*tables.metadata.tables.values(), tables.current_verdicts], ids=str
)
def test_dictionary_says_what_the_table_is(table: sa.Table) -> None:
    def describe(described: sa.Table) -> list[tuple[Any, ...]]:
        keys = described.primary_key.columns
        return [
            (column.name, column.type.compile(SQL_SERVER), column.nullable, column.name in keys)
            for column in described.columns
        ]

    (described,) = [described for described in ALL if described.name == table.name]
    assert describe(described) == describe(table)


def test_meanings_are_those_of_the_dictionary() -> None:
    described = {**tables.metadata.tables, **tables.VIEWS}
    assert {name: find_comments(table) for name, table in described.items()} == {
        table.name: {"": table.comment, **{c.name: c.comment for c in table.columns}}
        for table in ALL
    }


def test_dictionary_has_the_types_of_sql_server() -> None:
    lines = look.read_dictionary().splitlines()
    assert (
        "| `card` | NVARCHAR(max) |  |  | the model's .json: columns, metrics, reference,"
        " versions |" in lines
    )
    assert "| `run_date` | DATE |  | key | the night, as a business date |" in lines
    assert "| `finished_at` | DATETIME2(6) | null |  | UTC; null while running |" in lines
    assert not any(" NTEXT " in line or " DATETIME " in line for line in lines)
    rows = [line for line in lines if line.startswith("| `")]
    assert len(rows) == sum(len(table.columns) for table in ALL)
    assert {row.count("|") for row in rows} == {6}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_comments_are_in_the_catalogue(experiment: Experiment, engine: sa.Engine) -> None:
    query = """
        select c.relname, coalesce(a.attname, ''), d.description
        from pg_description as d
        inner join pg_class as c on c.oid = d.objoid and d.classoid = 'pg_class'::regclass
        left join pg_attribute as a
            on a.attrelid = c.oid and a.attnum = d.objsubid and d.objsubid > 0
        where c.relnamespace = 'abatch'::regnamespace"""
    expected = {
        (table.name, column.name, column.comment) for table in ALL for column in table.columns
    }
    with engine.connect() as connection:
        found = {tuple(row) for row in connection.execute(sa.text(query.replace("::", r"\:\:")))}
    assert found == expected | {(table.name, "", table.comment) for table in ALL}
