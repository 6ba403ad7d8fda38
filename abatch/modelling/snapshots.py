"""Snapshots: the door to Parquet.

Training rows as they were pulled, under the hash of their content, each content once.
"""

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from pyarrow import parquet

from abatch import files
from abatch.database.tables import Row, models, snapshots
from abatch.errors import RegistryError, suggest
from abatch.experiment import outcomes
from abatch.modelling import features
from abatch.night import Night
from abatch.queries import Query, Window

FILE_MODE, FOLDER_MODE = 0o600, 0o700  # their content is as secret as the tables it comes from
KEY = ["candidate_id", "event_date"]
MARK = b"abatch.content_hash"  # key of the file's metadata: what abatch wrote bears its own name


class Column(NamedTuple):
    """One column of training rows: nulls in it, and SHA-256 of its values in the rows' order."""

    name: str
    type: str
    nulls: int
    fingerprint: str


class Difference(NamedTuple):
    """What one pull has that another has not.

    Attributes
    ----------
    added, removed : rows by (candidate_id, event_date) that only the second, only the first has
    changed : rows that both have, with other values
    columns : of the changed rows, how many changed in each column; one that only one of them has,
        or that has another type or place, changes all rows
    example : the first changed row and column, with both values; empty if there is none
    """

    added: int
    removed: int
    changed: int
    columns: dict[str, int]
    example: str

    def __str__(self) -> str:
        rows = f"{self.added:,} rows added, {self.removed:,} removed, {self.changed:,} changed"
        by_column = ", ".join(f"{name} {n:,}" for name, n in self.columns.items())
        return f"{rows} ({by_column})" if by_column else rows


class Snapshot(NamedTuple):
    """Arranged rows, and what tells them from others."""

    frame: pd.DataFrame
    columns: list[Column]
    content_hash: str


def arrange(frame: pd.DataFrame, kind: str = "binary") -> pd.DataFrame:
    """Training rows as every run sees them, whatever the driver and in whatever order.

    That is ids as text, outcomes as float, rows sorted.

    Parameters
    ----------
    frame : what the training query returned: candidate_id, event_date, outcome and the features
    kind : of the outcome, binary or numeric

    Raises
    ------
    DataError
        If one of the first three is missing or unusable, or another column holds values of several
        kinds.
    """
    if frame.empty:
        return frame
    rows = outcomes.prepare(frame, kind)
    others = rows.columns.difference(KEY, sort=False)
    mixed = [name for name in others if rows[name].dtype == object and rows[name].notna().any()]
    features.refuse_columns({name: features.tell_kinds(rows[name].dropna()) for name in mixed})
    rows["candidate_id"] = rows["candidate_id"].astype("str")
    in_order = rows.take(_sort_by_key(rows)).reset_index(drop=True)
    if not count_again(in_order):
        return in_order
    return rows.sort_values(
        ["event_date", "candidate_id", *others], kind="stable", ignore_index=True
    )


def _sort_by_key(rows: pd.DataFrame) -> np.ndarray:
    """Positions of the rows in the order of day and candidate."""
    days = rows["event_date"].to_numpy().astype(np.int64)
    keys = pa.table({"day": days, "id": _to_texts(rows["candidate_id"])})
    return pc.sort_indices(keys, [("day", "ascending"), ("id", "ascending")]).to_numpy()


def count_again(rows: pd.DataFrame) -> int:
    """How many rows of arranged ones have the candidate and the day of the row before."""
    days, ids = rows["event_date"].to_numpy(), _to_texts(rows["candidate_id"])
    is_same = pc.equal(ids[1:], ids[:-1]).to_numpy() & (days[1:] == days[:-1])
    return int(is_same.sum())


def describe_columns(frame: pd.DataFrame) -> list[Column]:
    """The fingerprint of each column of arranged rows."""
    columns = []
    for name, column in frame.items():
        null = column.isna().to_numpy()
        kind, content = _read_values(column, null)
        fingerprint = files.hash_bytes(np.packbits(null).tobytes() + content)
        columns.append(Column(str(name), kind, int(null.sum()), fingerprint))
    return columns


def _read_values(column: pd.Series, null: np.ndarray) -> tuple[str, bytes]:
    """The kind of a column, and bytes that are the same for the same values."""
    if pd.api.types.is_datetime64_any_dtype(column):
        is_instant = isinstance(column.dtype, pd.DatetimeTZDtype)
        utc = column.dt.tz_convert(None) if is_instant else column
        content = utc.astype("datetime64[us]").to_numpy().astype("<i8").tobytes()
        return "instant" if is_instant else "date", content
    if pd.api.types.is_integer_dtype(column):
        return "integer", column.fillna(0).to_numpy(dtype="<i8").tobytes()
    if pd.api.types.is_float_dtype(column):
        return "float", (column.fillna(0).to_numpy(dtype="<f8") + 0.0).tobytes()  # -0.0 is 0
    if null.all():
        return "null", b""
    texts = _to_texts(column.dropna().astype("str"))
    lengths = pc.binary_length(texts).to_numpy().astype("<i8").tobytes()
    return "text", lengths + b"".join(map(_read_bytes, texts.chunks))


def _to_texts(column: pd.Series) -> pa.ChunkedArray:
    """The texts as Arrow has them: one array, or the several that a file or reader gave."""
    texts = pa.array(column, pa.large_string())
    return texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([texts])


def _read_bytes(texts: pa.LargeStringArray) -> memoryview:
    """The UTF-8 of texts without nulls, one behind the other."""
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[[texts.offset, texts.offset + len(texts)]]
    return memoryview(content or b"")[ends[0] : ends[1]]


def pull(night: Night, window: Window) -> Snapshot:
    """The experiment's training rows of a window, as known at the night's moment, arranged."""
    query = night.experiment.query("training")
    with query.named():
        rows = night.pull(query, window, outcomes.check_ids)
    return take(query, rows, night.experiment.outcome.kind)


def take(query: Query, rows: pd.DataFrame, kind: str) -> Snapshot:
    """What a training query returned, arranged; for `kind` and errors see `arrange`."""
    with query.named():
        return make_snapshot(arrange(rows, kind))


def make_snapshot(frame: pd.DataFrame) -> Snapshot:
    """Arranged rows with their fingerprints.

    The content hash is SHA-256 of their number, and each column's name, type and fingerprint, in
    order.
    """
    columns = describe_columns(frame)
    content = [len(frame), *([column.name, column.type, column.fingerprint] for column in columns)]
    return Snapshot(frame, columns, files.hash_bytes(json.dumps(content).encode()))


def to_parquet(frame: pd.DataFrame, content_hash: str | None = None) -> bytes:
    """Arranged rows as one Parquet file, compressed by zstd; event_date is a date.

    Parameters
    ----------
    content_hash : of a snapshot, whose file is marked with it
    """
    sink = pa.BufferOutputStream()
    rows = _cast_day(pa.Table.from_pandas(frame, preserve_index=False), pa.date32())
    if content_hash:
        rows = rows.replace_schema_metadata({**rows.schema.metadata, MARK: content_hash})
    parquet.write_table(rows, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def is_marked(path: Path) -> bool:
    """Whether abatch wrote a file as a snapshot: its name is the content hash that it is marked by.

    Rows that `recall` writes are the user's own, and are not marked.
    """
    try:
        marks = parquet.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return False
    return path.name == f"{marks.get(MARK, b'').decode(errors='replace')}.parquet"


def from_parquet(content: bytes) -> pd.DataFrame:
    """The rows that `to_parquet` was given."""
    rows = parquet.read_table(pa.BufferReader(content))
    rows = _cast_day(rows, pa.timestamp("s"))
    return rows.to_pandas(split_blocks=True, self_destruct=True)  # column by column, for the room


def _cast_day(rows: pa.Table, kind: pa.DataType) -> pa.Table:
    days = rows["event_date"].cast(kind)
    return rows.set_column(rows.schema.get_field_index("event_date"), "event_date", days)


def path_of(folder: Path, content_hash: str) -> Path:
    """The file of a content."""
    return folder / f"{content_hash}.parquet"


def store(
    connection: sa.Connection, night: Night, window: Window, snapshot: Snapshot, pulled_at: datetime
) -> None:
    """Keep arranged rows as a file, unless it is there unharmed, and write the row of the pull.

    Raises
    ------
    FileError
        If the folder cannot be written, or another run writes the same at this moment.
    """
    path = path_of(night.experiment.environment.snapshots_dir, snapshot.content_hash)
    before = find_newest(connection).get(snapshot.content_hash)
    content = _keep(path, snapshot, before.sha256 if before else None)
    columns = [column._asdict() for column in snapshot.columns]
    connection.execute(
        snapshots.insert().values(
            run_id=night.run_id,
            experiment=night.experiment.name,
            **window._asdict(),
            as_of=night.as_of,
            query=night.experiment.query("training").text,
            content_hash=snapshot.content_hash,
            sha256=files.hash_bytes(content),
            n_bytes=len(content),
            rows=len(snapshot.frame),
            columns=json.dumps(columns, ensure_ascii=False),
            pulled_at=pulled_at,
        )
    )


def _keep(path: Path, snapshot: Snapshot, sha256: str | None) -> bytes:
    """Write the file of a snapshot, unless it is there; returns its content.

    Parameters
    ----------
    sha256 : of the file, as the newest pull of the same rows has it; None if there is none
    """
    try:
        there = files.read_file(path)
    except OSError:
        there = None
    if there is not None:
        # One that no pull names is of another run, which needs it as it is, or of one that died.
        is_whole = files.hash_bytes(there) == sha256 if sha256 else _has(there, snapshot)
        if is_whole:
            return there
    content = to_parquet(snapshot.frame, snapshot.content_hash)
    write = files.write_file if path.exists() else files.create_final
    write(path, content, FILE_MODE)
    return content


def _has(content: bytes, snapshot: Snapshot) -> bool:
    """Whether a file's content is a snapshot's rows, in whatever bytes a version writes them."""
    try:
        return make_snapshot(from_parquet(content)).content_hash == snapshot.content_hash
    except (pa.ArrowException, LookupError, TypeError, ValueError):
        return False


def list_snapshots(connection: sa.Connection) -> Sequence[Row]:
    """All pulls, the oldest first."""
    return connection.execute(
        sa.select(snapshots).order_by(snapshots.c.pulled_at, snapshots.c.run_id)
    ).all()


def find_newest(connection: sa.Connection) -> dict[str, Row]:
    """The newest pull of each content, which tells its file's SHA-256, by hash; the latest last."""
    newest: dict[str, Row] = {}
    for row in list_snapshots(connection):
        newest.pop(row.content_hash, None)
        newest[row.content_hash] = row
    return newest


def choose_snapshot(connection: sa.Connection, name: str) -> Row:
    """The newest pull of the content that a hash, the beginning of one, or a model_name stands for.

    Raises
    ------
    RegistryError
        If there is none, or several.
    """
    newest = find_newest(connection)
    wanted = connection.scalar(sa.select(models.c.snapshot).filter_by(model_name=name)) or name
    chosen = [row for content_hash, row in newest.items() if content_hash.startswith(wanted)]
    if len(chosen) != 1 or not wanted:
        problem = (
            "several snapshots begin so"
            if chosen
            else "there is no snapshot of this hash, nor of a model of this name"
        )
        raise RegistryError(
            f"{name}: {problem}. See: python -m abatch snapshots.{suggest(name, newest)}"
        )
    return chosen[0]


def load(folder: Path, row: Row) -> pd.DataFrame:
    """The rows of a snapshot whose file has the SHA-256, and they the content hash, of the table.

    Raises
    ------
    RegistryError
        If the file is missing or was changed.
    """
    path = path_of(folder, row.content_hash)
    try:
        content = files.read_file(path)
    except OSError as error:
        problem = f"cannot be read ({error.strerror}). Check its rights."
        if isinstance(error, FileNotFoundError):
            problem = "is missing. Bring it back from a backup."
        raise RegistryError(f"{path}: the snapshot's file {problem}") from None
    if files.hash_bytes(content) != row.sha256:
        raise RegistryError(
            f"{path}: the snapshot's file was changed; its SHA-256 is not that of the table"
            " snapshots. Bring it back from a backup."
        )
    frame = from_parquet(content)
    if make_snapshot(frame).content_hash != row.content_hash:
        raise RegistryError(
            f"{path}: the installed pyarrow or pandas reads other rows than were written. Install"
            " what the model names."
        )
    return frame


def compare(first: pd.DataFrame, second: pd.DataFrame) -> Difference:
    """What the second of two arranged pulls has that the first has not.

    Rows are known by candidate and day.
    """
    before, after = _align(first, second)
    n_both = len(before)
    added, removed = len(second) - n_both, len(first) - n_both
    changed = np.full(n_both, list(before.columns) != list(after.columns))
    columns: dict[str, int] = {}
    example = ""
    for name in dict.fromkeys([*before.columns, *after.columns]):
        if name not in before or name not in after:
            columns[f"{name} ({'new' if name in after else 'gone'})"] = n_both
            continue
        differs = _differs(before[name], after[name])
        if differs.any():
            columns[name] = int(differs.sum())
            changed |= differs
            example = example or _describe_change(before, after, name, differs.argmax())
    if not (changed.any() or columns or removed or added):  # the values are the same
        kinds = ((name, *map(_tell_kind, (first[name], second[name]))) for name in first)
        columns = {f"{name} (type)": n_both for name, a, b in kinds if a != b}
        changed |= bool(columns)
    return Difference(added, removed, int(changed.sum()), columns, example)


def _align(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that both have, in the order of the first; the nth of a key is the nth of it."""
    if first[KEY].equals(second[KEY]):
        return first, second
    one, other = (
        frame[KEY].assign(nth=frame.groupby(KEY).cumcount(), row=np.arange(len(frame)))
        for frame in (first, second)
    )
    rows = one.merge(other, on=[*KEY, "nth"])
    before, after = first.take(rows["row_x"]), second.take(rows["row_y"])
    return before.reset_index(drop=True), after.reset_index(drop=True)


def _describe_change(before: pd.DataFrame, after: pd.DataFrame, name: str, at: np.intp) -> str:
    candidate, day = before.loc[at, KEY]
    values = f"{name} was {before[name].iloc[at]}, is {after[name].iloc[at]}"
    return f"candidate {candidate} on {day:%Y-%m-%d}: {values}"


def _differs(before: pd.Series, after: pd.Series) -> np.ndarray:
    """Where two columns have other values, whatever their types; of one type they need no objects.

    Whole numbers are the same as floats, and are compared with them as Python does: exactly.
    """
    both_null = (before.isna() & after.isna()).to_numpy()
    if before.dtype == after.dtype != object:
        return before.ne(after).to_numpy(dtype=bool, na_value=True) & ~both_null
    a, b = (column.astype(object).where(column.notna(), None) for column in (before, after))
    return ~a.eq(b).to_numpy(dtype=bool) & ~both_null


def _tell_kind(column: pd.Series) -> str:
    """As `describe_columns` has it."""
    return describe_columns(column.dropna().iloc[:1].to_frame())[0].type


def write_rows(path: Path, frame: pd.DataFrame) -> None:
    """Write arranged rows as a Parquet file of the user's own."""
    files.write_file(Path(os.path.abspath(path)), to_parquet(frame), FILE_MODE)
