"""Write rows: in chunks, and in the place of others."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    import pandas as pd

WRITE_ROWS = 10_000  # rows whose parameters a driver holds in memory at once


def insert_frame(connection: sa.Connection, table: sa.Table, frame: "pd.DataFrame") -> None:
    """Write a frame's rows, null where they hold nan."""
    for start in range(0, len(frame), WRITE_ROWS):
        part = frame[start : start + WRITE_ROWS].astype(object)
        connection.execute(table.insert(), part.where(part.notna(), None).to_dict("records"))


def replace_rows(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    run_id: str,
    **key: Any,
) -> None:
    """Write a run's rows in the place of those of the same key.

    Parameters
    ----------
    rows : without run_id and the columns of the key; if there are none, the earlier ones go
    key : values that some columns have in all the rows, and in no others of the table
    """
    connection.execute(table.delete().filter_by(**key))
    if rows:
        same = {**key, "run_id": run_id}
        connection.execute(table.insert(), [{**row, **same} for row in rows])
