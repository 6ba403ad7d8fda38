"""SQLite's columns, which keep values of any kind, as Arrow or Python's own driver reads them."""

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from abatch.database import connections, faults, sqlite_arrow

if TYPE_CHECKING:
    import pyarrow as pa

_INNER_SELECT = re.compile(r"\(\s*select\b", re.IGNORECASE)


class Probed(NamedTuple):
    """What the first values of a column are.

    Attributes
    ----------
    kinds : their types
    is_whole : they are floats, and whole
    is_numeric : whole ones are integers, others floats, as where a column is declared numeric
    """

    kinds: set[type]
    is_whole: bool
    is_numeric: bool

    @classmethod
    def of(cls, values: Sequence[Any]) -> "Probed":
        """Those of these values."""
        kinds = {*map(type, values)} - {type(None)}
        whole = {value.is_integer() for value in values if type(value) is float}
        return cls(
            kinds, kinds == {float} and whole == {True}, len(kinds) == 2 and whole == {False}
        )

    def write_check(self, name: str) -> list[str]:
        """Where SQL is true of values whose kind Arrow would not tell: it turns all into text."""
        if self.is_whole:
            return [f"typeof({name}) = 'integer'"]
        if self.is_numeric:
            return [f"({name} = cast({name} as integer) and typeof({name}) = 'real')"]
        return [] if self.kinds <= {int, float} else [f"{name} < ''", f"{name} >= x''"]

    def fit(self, column: "pa.ChunkedArray") -> "pa.ChunkedArray":
        """Make an Arrow column what the plain driver gives; raise ArrowInvalid if it is not sure.

        Whole floats may be integers to SQLite, which keeps both in a column of numbers.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if column.null_count == len(column):
            return column
        is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        if not (is_number if self.kinds <= {int, float} else pa.types.is_string(column.type)):
            raise pa.ArrowInvalid("values of another kind than in the first rows")
        if self.kinds in ({date}, {datetime}) and pc.any(pc.starts_with(column, "0000")).as_py():
            raise pa.ArrowInvalid("a year 0, which is text to the plain driver")
        if self.kinds == {date}:
            return column.cast(pa.date32())
        if self.kinds == {datetime}:
            with suppress(pa.ArrowInvalid):
                return column.cast(pa.timestamp("us"))
            return column.cast(pa.timestamp("us", "UTC"))
        if self.kinds == {Lower}:
            if not pc.all(pc.match_substring_regex(column, r"^[!-~]+$")).as_py():
                raise pa.ArrowInvalid("text beyond printable ASCII, or none, as a UUID")
            return pc.ascii_lower(column)
        is_unclear = pa.types.is_floating(column.type) and not self.is_whole
        if is_unclear and pc.all(pc.equal(column, pc.floor(column))).as_py():
            if self.is_numeric and pc.all(pc.less(pc.abs(column), 2.0**53)).as_py():
                return column.cast(pa.int64())
            raise pa.ArrowInvalid("whole numbers, of one kind or of two")
        return column


def read_tables(
    path: str, sql: str, columns: Sequence[Probed], chunk_rows: int
) -> Iterator["pa.Table"]:
    """Read Arrow tables of one batch each, whose columns are of the kinds that were probed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [f"c{i}" for i in range(len(columns))]
    checks = [
        check
        for column, name in zip(columns, names, strict=True)
        for check in column.write_check(name)
    ]
    if _INNER_SELECT.search(sql):  # which would be done again for each check; offset keeps it whole
        sql = f"select * from (\n{sql}\n) limit -1 offset 0"
    checked = (
        f"with abatch_rows({', '.join(names)}) as (\n{sql}\n)"
        f" select *, {' or '.join(checks) or '0'} from abatch_rows"
    )
    wait_seconds = round(faults.SQLITE_WAIT_SECONDS)
    with sqlite_arrow.read(path, checked, chunk_rows, wait_seconds) as batches:
        for batch in batches:
            *arrays, is_other = pa.Table.from_batches([batch]).columns
            if pc.max(is_other).as_py():
                raise sqlite_arrow.ReaderFailed("a column of text holds numbers or bytes")
            try:
                batch.validate(full=True)  # that text is UTF-8
                fitted = [one.fit(array) for one, array in zip(columns, arrays, strict=True)]
            except pa.ArrowInvalid as error:
                raise sqlite_arrow.ReaderFailed(str(error)) from None
            yield pa.table(fitted, names)


@cache
def make_typed_engine(url: sa.URL) -> sa.Engine:
    """SQLite tells the declared type of a column only to a connection that was opened for it."""
    options = {"detect_types": sqlite3.PARSE_DECLTYPES}
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=options)
    connections.prepare_sqlite(engine)
    return engine


class Lower(str):
    """Text of a column that is declared to hold UUIDs."""


class Other(str):
    """Text of a column that is declared to hold days or instants."""


# What SQLite's values may be in a column that is read as Arrow.
ARROW_KINDS: list[set[type]] = [set(), {int}, {float}, {int, float}]
ARROW_KINDS += [{str}, {date}, {datetime}, {Lower}]


def _convert_declared(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    def convert(value: bytes) -> object:
        try:
            return parse(value.decode())
        except ValueError:
            # SQLite keeps anything anywhere; whoever uses the column will say what is wrong.
            return Other(value.decode(errors="replace"))

    return convert


for _parse, _names in (
    (date.fromisoformat, "date"),
    (datetime.fromisoformat, "datetime datetime2 datetimeoffset smalldatetime"),
    (datetime.fromisoformat, "timestamp timestamptz"),
    (lambda text: Lower(text.lower()), "uniqueidentifier uuid"),
):
    for _name in _names.split():
        sqlite3.register_converter(_name, _convert_declared(_parse))
