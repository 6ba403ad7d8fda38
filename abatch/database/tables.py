"""The tables that abatch owns, and its views, as dictionary.md describes them: one word for all.

The dictionary says what each column is: its type, whether it may be null, its place in the key, and
what it means, for people, for the code and for the comments in the database. Indexes stand here.
abatch/database/migrations makes the tables; tests keep the two in step. Columns hold the same in
every database: 0/1 instead of boolean (sum() works on it everywhere), text that people write as
NVARCHAR on SQL Server, instants as naive UTC.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import mssql

from abatch.errors import DatabaseError, DataError

REVISION = "0001_3ccdd63c"
VERSION_TABLE = "abatch_version"
DICTIONARY = Path(__file__).with_name("dictionary.md")
Instant = sa.DateTime().with_variant(mssql.DATETIME2(6), "mssql")
Row = sa.Row[*tuple[Any, ...]]
Select = sa.Select[*tuple[Any, ...]]
T = TypeVar("T")


class FiniteDouble(sa.types.TypeDecorator[float]):
    """A double that is a number or null.

    SQL Server refuses nan and infinity late, PostgreSQL and SQLite store them.
    """

    impl = sa.Double
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        """Refuse what is no finite number."""
        if value is None:
            return None
        if not math.isfinite(value):
            raise DataError(
                f"{value} cannot be stored in a column of numbers; expected a finite number or"
                " null."
            )
        return float(value)  # not every driver takes numpy's


# By their names on SQL Server, with which the dictionary has them.
_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "BIGINT": sa.BigInteger(),
    "DATE": sa.Date(),
    "DATETIME2(6)": Instant,
    "DOUBLE PRECISION": FiniteDouble(),
    "INTEGER": sa.Integer(),
    "NVARCHAR(max)": sa.UnicodeText(),
    "SMALLINT": sa.SmallInteger(),
    "VARBINARY(max)": sa.LargeBinary(),
}
_TEXTS: dict[str, type[sa.String]] = {"NVARCHAR": sa.Unicode, "VARCHAR": sa.String}
# | `name` | type | null | key | meaning |
_COLUMN = re.compile(r"^\| `(\w+)` \| (.+?) \| (null)? ?\| (key)? ?\| (.+) \|$", re.MULTILINE)


def _find_type(name: str) -> sa.types.TypeEngine[Any]:
    text, _, length = name.removesuffix(")").partition("(")
    return _TYPES[name] if name in _TYPES else _TEXTS[text](int(length))


def _read_dictionary(part: str) -> sa.MetaData:
    """The tables, or the views, with their comments."""
    described = sa.MetaData()
    text = DICTIONARY.read_text(encoding="utf-8")
    for section in text.partition(f"\n## {part}\n")[2].partition("\n## ")[0].split("\n### ")[1:]:
        name, sentence, rows = section.strip().split("\n\n")
        columns = [
            sa.Column(
                column,
                _find_type(type_),
                nullable=bool(null),
                primary_key=bool(key),
                comment=meaning,
            )
            for column, type_, null, key, meaning in _COLUMN.findall(rows)
        ]
        comment = sentence[0].lower() + sentence[1:].removesuffix(".")
        sa.Table(name, described, *columns, comment=comment)
    return described


VIEWS = _read_dictionary("Views").tables  # for analysts; each is a file of abatch/database/views
current_verdicts = VIEWS["current_verdicts"]
predictions = VIEWS["predictions"]
predictions_superseded = VIEWS["predictions_superseded"]
metadata = _read_dictionary("Tables")
TABLES = metadata.tables
runs = TABLES["runs"]
models = TABLES["models"]
owner = TABLES["owner"]
promotions = TABLES["promotions"]
snapshots = TABLES["snapshots"]
deletions = TABLES["deletions"]
doubts = TABLES["doubts"]
registrations = TABLES["registrations"]
prediction_rows = TABLES["prediction_rows"]
prediction_shares = TABLES["prediction_shares"]
scores = TABLES["scores"]
variant_scores = TABLES["variant_scores"]
cohort_sums = TABLES["cohort_sums"]
acknowledgements = TABLES["acknowledgements"]
units = TABLES["units"]
looks = TABLES["looks"]
sample_ratios = TABLES["sample_ratios"]
verdicts = TABLES["verdicts"]
conclusions = TABLES["conclusions"]
feature_counts = TABLES["feature_counts"]
feature_drift = TABLES["feature_drift"]


def parse(read: Callable[[str], T], content: str, place: str) -> T:
    """What the text in a row says, as `read` reads it.

    Parameters
    ----------
    place : table, column and key of the row, for the message

    Raises
    ------
    DatabaseError
        If it is not what abatch wrote there.
    """
    try:
        return read(content)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".:")
        raise DatabaseError(
            f"{place}: is not what abatch wrote there ({reason}). Somebody changed the row: bring"
            " it back from a backup."
        ) from None


def _where(condition: str) -> dict[str, Any]:
    """What makes an index hold the rows alone of which this is true."""
    return {f"{name}_where": sa.text(condition) for name in ("sqlite", "postgresql", "mssql")}


_SHOWN = _where("status in ('done', 'early')")
sa.Index("runs_night", runs.c.experiment, runs.c.job, runs.c.run_date)
sa.Index("runs_one_shown", runs.c.job, runs.c.experiment, runs.c.run_date, unique=True, **_SHOWN)
# By which `predictions_superseded` finds one candidate: without it SQLite reads all predictions.
sa.Index("runs_superseded", runs.c.job, runs.c.experiment, **_where("status = 'superseded'"))
sa.Index("models_experiment", models.c.experiment)
sa.Index("promotions_experiment", promotions.c.experiment, promotions.c.promotion_id)
sa.Index("snapshots_content", snapshots.c.content_hash)
sa.Index("deletions_name", deletions.c.kind, deletions.c.name)
sa.Index("acknowledgements_experiment", acknowledgements.c.experiment)
sa.Index("conclusions_experiment", conclusions.c.experiment, conclusions.c.conclusion_id)
# Rows of a run lie together, as units by candidate, and there is no second copy of the key.
prediction_rows.dialect_options["sqlite"]["with_rowid"] = False
units.dialect_options["sqlite"]["with_rowid"] = False
sa.Index("runs_number", runs.c.run_number, unique=True)
