"""Snapshots: training rows come back as they were pulled, whatever the driver, or not at all."""

import io
import json
import os
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from abatch import files
from abatch.database import reading, tables
from abatch.errors import DataError, FileError, RegistryError
from abatch.modelling import snapshots
from abatch.queries import Query, Window

PLACE = "training.sql"
DAY = date(2026, 6, 1)
PULL: dict[str, Any] = {
    "experiment": "card_offer",
    "from_date": DAY,
    "to_date": date(2026, 9, 1),
    "as_of": datetime(2026, 9, 1, 21, 59, 59),
    "query": "select 'Ærø', '日本'",
}
PULLED_AT = datetime(2026, 9, 1, 22)
NOW = datetime(2026, 12, 1, 12)


def make_frame() -> pd.DataFrame:
    """What a training query returns: five rows in no order.

    Every type, nulls in each, and a column of nulls alone.
    """
    return pd.DataFrame(
        {
            "candidate_id": [10, 9, 1, 2, 1],
            "event_date": [DAY, DAY, DAY + timedelta(days=1), DAY, DAY],
            "outcome": [0, 1, 0, 0, 1],
            "n_products": pd.array([3, None, 0, 2**53 + 1, -7], dtype="Int64"),
            "age": [30, 41, 52, 63, 74],
            "income": [0.1, np.nan, -2.5e300, 1 / 3, 5e-324],
            "town": pd.Series(["Ærø", None, "日本", "", "a\nb"], dtype="str"),
            "empty": pd.Series([None] * 5, dtype=object),
            "seen_at": pd.Series(
                np.array(
                    ["2026-05-01T10:00:00.000001", "NaT", "1999-12-31", "NaT", "2026-05-02"],
                    "datetime64[us]",
                )
            ),
        }
    )


def arrange(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    with Query("training.sql", "").named():
        return snapshots.arrange(make_frame() if frame is None else frame)


def hash_of(frame: pd.DataFrame) -> str:
    arranged = arrange(frame)
    return snapshots.make_snapshot(arranged).content_hash


def store(
    engine: sa.Engine,
    folder: Path,
    frame: pd.DataFrame,
    run_id: str = "run1",
    pulled_at: datetime = PULLED_AT,
) -> str:
    snapshot = snapshots.make_snapshot(arrange(frame))
    environment = SimpleNamespace(snapshots_dir=folder)
    query = Query("training.sql", PULL["query"])
    experiment: Any = SimpleNamespace(
        name=PULL["experiment"], environment=environment, query=lambda name: query
    )
    run: Any = SimpleNamespace(run_id=run_id, as_of=PULL["as_of"], experiment=experiment)
    window = Window(PULL["from_date"], PULL["to_date"])
    with engine.begin() as connection:
        snapshots.store(connection, run, window, snapshot, pulled_at)
    return snapshot.content_hash


def load(engine: sa.Engine, folder: Path, content_hash: str) -> pd.DataFrame:
    with engine.connect() as connection:
        row = snapshots.find_newest(connection).get(content_hash)
    assert row is not None
    return snapshots.load(folder, row)


def add_pull(
    engine: sa.Engine,
    content_hash: str,
    days_ago: float = 0,
    run_id: str | None = None,
    n_bytes: int = 1000,
) -> None:
    """A row of a pull by hand."""
    row = {
        "run_id": run_id or f"run-{content_hash}",
        "content_hash": content_hash,
        "n_bytes": n_bytes,
    }
    row |= {
        "sha256": "0" * 64,
        "rows": 1,
        "columns": "[]",
        "pulled_at": NOW - timedelta(days=days_ago),
    }
    with engine.begin() as connection:
        connection.execute(tables.snapshots.insert().values({**PULL, **row}))


def add_model(engine: sa.Engine, model_name: str, content_hash: str, promote: bool = False) -> None:
    card = {
        "variant": "A",
        "name": "modelA",
        "version": "1.0",
        "run_date": DAY,
        "file": f"{model_name}.pkl",
        "sha256": "0" * 64,
        "from_date": DAY,
        "to_date": DAY,
        "as_of": NOW,
        "rows": 1,
    }
    card |= {
        "code_version": "0.1.0",
        "environment_hash": "0" * 64,
        "seed": 0,
        "card": "{}",
        "run_id": "run1",
        "snapshot": content_hash,
        "decision": "goes live",
    }
    row = {"experiment": "card_offer", "model_name": model_name}
    said = {
        "variant": "A",
        "action": "promote",
        "effective_date": DAY,
        "reason": "by hand",
        "promoted_by": "me",
        "promoted_at": NOW,
    }
    with engine.begin() as connection:
        connection.execute(tables.models.insert().values({**row, **card}))
        if promote:
            connection.execute(tables.promotions.insert().values({**row, **said}))


# What is kept, and what it is known by


def test_arrange_by_hand() -> None:
    found = arrange()
    assert found["candidate_id"].tolist() == ["1", "10", "2", "9", "1"]  # as text, within the day
    assert found["event_date"].tolist() == [pd.Timestamp(DAY)] * 4 + [
        pd.Timestamp(DAY + timedelta(days=1))
    ]
    assert found["outcome"].tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert found["age"].tolist() == [74, 30, 63, 41, 52]
    assert found.columns.tolist() == make_frame().columns.tolist()
    assert found["n_products"].tolist() == [-7, 3, 2**53 + 1, pd.NA, 0]
    assert [str(found[name].dtype) for name in ("candidate_id", "event_date", "outcome")] == [
        "str",
        "datetime64[s]",
        "float64",
    ]


def test_arrange_nothing_and_what_cannot_be_kept() -> None:
    assert arrange(pd.DataFrame()).empty
    frame = make_frame().assign(mixed=[1, "a", None, 2.5, 3], blob=[b"x"] * 5)
    message = (
        r"(?s)^training\.sql: these columns cannot be features\. Mend or leave them out in the"
        r" query\.\n"
        r"  mixed: values of type float, int, str; cast them .*\n  blob: values of type bytes; cast"
        r" them"
    )
    with pytest.raises(DataError, match=message):
        arrange(frame)
    with pytest.raises(DataError, match="the column outcome is missing"):
        arrange(make_frame().drop(columns="outcome"))


def test_describe_columns_types_and_nulls() -> None:
    found = snapshots.describe_columns(arrange())
    assert [(column.name, column.type, column.nulls) for column in found] == [
        ("candidate_id", "text", 0),
        ("event_date", "date", 0),
        ("outcome", "float", 0),
        ("n_products", "integer", 1),
        ("age", "integer", 0),
        ("income", "float", 1),
        ("town", "text", 1),
        ("empty", "null", 5),
        ("seen_at", "date", 2),
    ]


def test_store_comes_back(engine: sa.Engine, tmp_path: Path) -> None:
    content_hash = store(engine, tmp_path, make_frame())
    found, expected = load(engine, tmp_path, content_hash), arrange()
    assert snapshots.compare(found, expected) == snapshots.Difference(0, 0, 0, {}, "")
    pd.testing.assert_frame_equal(found, expected)
    with engine.connect() as connection:
        row = connection.execute(sa.select(tables.snapshots)).one()
    content = (tmp_path / f"{content_hash}.parquet").read_bytes()
    assert (row.sha256, row.n_bytes, row.rows) == (files.hash_bytes(content), len(content), 5)
    assert (row.query, row.from_date, row.to_date, row.as_of) == (
        PULL["query"],
        PULL["from_date"],
        PULL["to_date"],
        PULL["as_of"],
    )
    assert json.loads(row.columns) == [
        column._asdict() for column in snapshots.describe_columns(expected)
    ]
    assert len(content_hash) == 64
    assert hash_of(found) == content_hash


def test_store_instants_with_a_time_zone(engine: sa.Engine, tmp_path: Path) -> None:
    """PostgreSQL's timestamptz, which a column of not_features may be."""
    frame = make_frame()
    frame["seen_at"] = frame["seen_at"].dt.tz_localize("UTC")
    found = load(engine, tmp_path, store(engine, tmp_path, frame))
    assert found["seen_at"].tolist() == arrange(frame)["seen_at"].tolist()


def test_store_what_the_database_returned(engine: sa.Engine, tmp_path: Path) -> None:
    """Rows that went through each driver are the rows that were made by hand."""
    plain = engine.execution_options(schema_translate_map={})
    pulled = sa.Table(
        "pulled",
        sa.MetaData(),
        *(
            sa.Column(name, sa.BigInteger)
            for name in ("candidate_id", "outcome", "n_products", "age")
        ),
        sa.Column("event_date", sa.Date),
        sa.Column("income", sa.Double),
        *(sa.Column(name, sa.Unicode(20)) for name in ("town", "empty")),
        sa.Column("seen_at", tables.Instant),
    )
    columns = ", ".join(make_frame().columns)
    frame = make_frame().assign(income=[0.1, np.nan, -2.5e30, 1 / 3, 5.5])
    rows = [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
    with plain.begin() as connection:
        pulled.create(connection)
        connection.execute(pulled.insert(), rows)
    hashes = set()
    for order in ("age", "age desc", "town"):
        found = reading.read_query(
            plain,
            Query(PLACE, f"select {columns} from pulled order by {order}"),
            Window(DAY, DAY),
            NOW,
        )
        hashes.add(store(engine, tmp_path, found, run_id=order))
    assert hashes == {hash_of(frame)}
    pd.testing.assert_frame_equal(
        load(engine, tmp_path, hash_of(frame)), arrange(frame), check_dtype=False
    )


def test_hash_content_same_values_another_driver() -> None:
    frame = make_frame()
    other = frame.assign(
        candidate_id=[f"{value}" for value in frame["candidate_id"]],
        event_date=pd.to_datetime(frame["event_date"]).astype("datetime64[ns]"),
        outcome=frame["outcome"].astype(bool),
        age=frame["age"].astype("Int64"),
        n_products=frame["n_products"],
        income=frame["income"].astype("Float64"),
        town=frame["town"].astype("string"),
        seen_at=frame["seen_at"].astype("datetime64[ns]"),
    )
    assert hash_of(other) == hash_of(frame)
    assert (
        hash_of(frame.sample(frac=1, random_state=3)) == hash_of(frame.iloc[::-1]) == hash_of(frame)
    )
    assert hash_of(frame.assign(income=[0.0, 1, 2, 3, 4])) == hash_of(
        frame.assign(income=[-0.0, 1, 2, 3, 4])
    )


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("candidate_id", [10, 9, 1, 2, 3]),
        ("event_date", [DAY, DAY, DAY + timedelta(days=1), DAY, DAY + timedelta(days=1)]),
        ("outcome", [0, 1, 0, 1, 1]),
        ("n_products", pd.array([3, None, 0, 2**53, -7], dtype="Int64")),  # one float for both
        ("n_products", pd.array([3, 0, 0, 2**53 + 1, -7], dtype="Int64")),  # a null that became 0
        ("n_products", pd.array([3, 0, None, 2**53 + 1, -7], dtype="Int64")),  # a null that moved
        ("income", [0.1, np.nan, -2.5e300, np.nextafter(1 / 3, 1), 5e-324]),
        ("income", [0.1, 0.0, -2.5e300, 1 / 3, 5e-324]),
        ("town", ["Ærø", "", "日本", "", "a\nb"]),
        ("town", ["Ærö", None, "日本", "", "a\nb"]),
        ("age", [30.0, 41.0, 52.0, 63.0, 74.0]),
        ("empty", [None, None, "x", None, None]),
        ("seen_at", [pd.NaT] * 5),
    ],
)
def test_hash_content_one_value_differs(column: str, values: Any) -> None:
    assert hash_of(make_frame().assign(**{column: values})) != hash_of(make_frame())


@pytest.mark.parametrize("texts", [["Ærø", None, "日本", "", "a\nb"], ["", None, "", "", ""]])
def test_describe_columns_of_texts_by_hand(texts: list[str | None]) -> None:
    """Which are null as bits, the lengths in UTF-8, the texts, however the column is chunked."""
    values = [(text or "").encode() for text in texts if text is not None]
    lengths = b"".join(len(value).to_bytes(8, "little") for value in values)
    expected = files.hash_bytes(bytes([0b01000000]) + lengths + b"".join(values))
    whole = pd.Series(["x", *texts, "y"], dtype="str")
    parts = [whole[1:3], whole[3:4], whole[4:6]]
    for column in (pd.concat(parts), whole[1:6], whole[1:6].astype(object)):
        (found,) = snapshots.describe_columns(column.to_frame("town"))
        assert found == snapshots.Column("town", "text", 1, expected)


@pytest.mark.parametrize("n_candidates", [20, 3_000])
def test_arrange_sorts_as_pandas(rng: np.random.Generator, n_candidates: int) -> None:
    """By day, candidate as text, then by all columns, where some come twice or none does."""
    frame = pd.DataFrame(
        {
            "candidate_id": [f"c{i}" for i in rng.permutation(3_000) % n_candidates],
            "event_date": [DAY + timedelta(days=int(days)) for days in rng.integers(0, 3, 3_000)],
            "outcome": rng.integers(0, 2, 3_000) * 1.0,
            "income": rng.integers(0, 9, 3_000),
            "town": pd.Series(
                rng.choice(np.array(["Å", "Z", "a", None], dtype=object), 3_000), dtype="str"
            ),
        }
    )
    expected = frame.sort_values(["event_date", *frame.columns.drop("event_date")])
    found = arrange(frame).assign(event_date=lambda rows: rows["event_date"].dt.date)
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True), check_dtype=False)


def test_hash_content_texts_cut_elsewhere() -> None:
    one = make_frame().assign(town=["ab", "c", "", "", ""], other=["x", "", "", "", ""])
    other = make_frame().assign(town=["a", "bc", "", "", ""], other=["x", "", "", "", ""])
    assert hash_of(one) != hash_of(other)


def test_hash_content_names_and_order_of_columns_and_rows() -> None:
    frame = make_frame()
    swapped = [*frame.columns[:4], "income", "age", *frame.columns[6:]]
    others = [
        frame[swapped],
        frame.rename(columns={"town": "city"}),
        frame.drop(columns="empty"),
        frame[:4],
        pd.concat([frame, frame[:1]]),
    ]
    assert len({hash_of(other) for other in [frame, *others]}) == 6


def test_store_equal_content_once(engine: sa.Engine, tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    files.check_writable(folder, snapshots.FOLDER_MODE)
    content_hash = store(engine, folder, make_frame())
    path = folder / f"{content_hash}.parquet"
    before, content = path.stat(), path.read_bytes()
    assert (
        store(engine, folder, make_frame().iloc[::-1], "run2", PULLED_AT + timedelta(days=1))
        == content_hash
    )
    after = path.stat()
    assert (before.st_mtime_ns, before.st_ino) == (
        after.st_mtime_ns,
        after.st_ino,
    )
    assert path.read_bytes() == content
    with engine.connect() as connection:
        rows = snapshots.list_snapshots(connection)
        newest = snapshots.find_newest(connection).get(content_hash)
        assert snapshots.find_newest(connection).get("0" * 64) is None
    assert [(row.run_id, row.content_hash) for row in rows] == [
        ("run1", content_hash),
        ("run2", content_hash),
    ]
    assert newest is not None
    assert newest.run_id == "run2"
    assert list(folder.iterdir()) == [path]
    assert (path.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_store_heals(engine: sa.Engine, tmp_path: Path, damage: str) -> None:
    content_hash = store(engine, tmp_path, make_frame())
    path = tmp_path / f"{content_hash}.parquet"
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(RegistryError):
        load(engine, tmp_path, content_hash)
    store(engine, tmp_path, make_frame(), "run2", PULLED_AT + timedelta(days=1))
    pd.testing.assert_frame_equal(load(engine, tmp_path, content_hash), arrange())
    assert path.stat().st_mode & 0o777 == 0o600


def test_store_over_a_file_without_a_row(engine: sa.Engine, tmp_path: Path) -> None:
    """A run died between the file and its row: the file is not trusted."""
    path = tmp_path / f"{hash_of(make_frame())}.parquet"
    path.write_bytes(b"half")
    assert load(engine, tmp_path, store(engine, tmp_path, make_frame())).shape == (5, 9)


def test_store_adopts_the_same_rows_of_another_run(engine: sa.Engine, tmp_path: Path) -> None:
    """Whose row may yet come, and names its bytes: another pyarrow, say, writes others."""
    path, sink = tmp_path / f"{hash_of(make_frame())}.parquet", pa.BufferOutputStream()
    rows = parquet.read_table(pa.BufferReader(snapshots.to_parquet(arrange())))
    parquet.write_table(rows, sink, compression="gzip")
    path.write_bytes(sink.getvalue())
    first = path.read_bytes()
    assert store(engine, tmp_path, make_frame()) == path.stem
    assert path.read_bytes() == first
    pd.testing.assert_frame_equal(load(engine, tmp_path, path.stem), arrange())


def test_store_where_nothing_can_be_written(engine: sa.Engine, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be written"):
        store(engine, tmp_path / "no", make_frame())
    with engine.connect() as connection:
        assert snapshots.list_snapshots(connection) == []


def test_load_notices_every_flipped_byte(engine: sa.Engine, tmp_path: Path) -> None:
    content_hash = store(engine, tmp_path, make_frame())
    path = tmp_path / f"{content_hash}.parquet"
    content = path.read_bytes()
    positions = sorted({*np.linspace(0, len(content) - 1, 50).astype(int).tolist()})
    assert positions[0] == 0
    assert positions[-1] == len(content) - 1
    assert len(positions) == 50
    for at in positions:
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        with pytest.raises(
            RegistryError,
            match=rf"^{path}: the snapshot's file was changed; .*table snapshots\. Bring it back",
        ):
            load(engine, tmp_path, content_hash)
    path.write_bytes(content)
    assert len(load(engine, tmp_path, content_hash)) == 5


def test_load_missing_and_unreadable(engine: sa.Engine, tmp_path: Path) -> None:
    content_hash = store(engine, tmp_path, make_frame())
    path = tmp_path / f"{content_hash}.parquet"
    path.unlink()
    with pytest.raises(
        RegistryError,
        match=rf"^{path}: the snapshot's file is missing\. Bring it back from a backup\.$",
    ):
        load(engine, tmp_path, content_hash)
    path.mkdir()
    with pytest.raises(
        RegistryError,
        match=(
            rf"^{path}: the snapshot's file cannot be read \(Is a directory\)\. Check its rights\.$"
        ),
    ):
        load(engine, tmp_path, content_hash)


def test_load_when_the_library_reads_other_rows(tmp_path: Path) -> None:
    content = snapshots.to_parquet(arrange())
    (tmp_path / f"{'0' * 64}.parquet").write_bytes(content)
    row: Any = SimpleNamespace(content_hash="0" * 64, sha256=files.hash_bytes(content))
    with pytest.raises(
        RegistryError, match="the installed pyarrow or pandas reads other rows than were written"
    ):
        snapshots.load(tmp_path, row)


# What has moved between two pulls


def test_compare_by_hand() -> None:
    before = make_frame()
    after = before.iloc[
        [4, 3, 2, 1]
    ].assign(  # candidate 10 is gone, of the others in another order
        income=[5e-324, 1 / 3, np.nan, 700.0],  # a value became null, and a null a value
        town=pd.Series(["a\nb", "", "日本", "Ærø"], index=[4, 3, 2, 1], dtype="str"),
        age=[74, 64, 52, 41],
    )
    new = pd.DataFrame(
        {"candidate_id": [7, 8], "event_date": [DAY, DAY], "outcome": [0, 1], "age": [20, 21]}
    )
    found = snapshots.compare(arrange(before), arrange(pd.concat([after, new])))
    assert (found.added, found.removed, found.changed) == (2, 1, 3)
    assert found.columns == {"age": 1, "income": 2, "town": 1}
    assert found.example == "candidate 2 on 2026-06-01: age was 63, is 64"
    assert str(found) == "2 rows added, 1 removed, 3 changed (age 1, income 2, town 1)"
    back = snapshots.compare(arrange(pd.concat([after, new])), arrange(before))
    assert (back.added, back.removed, back.changed, back.columns) == (1, 2, 3, found.columns)


def test_compare_null_to_value() -> None:
    before = pd.DataFrame(
        {
            "candidate_id": [1],
            "event_date": [DAY],
            "outcome": [1],
            "town": pd.Series([None], dtype="str"),
        }
    )
    found = snapshots.compare(arrange(before), arrange(before.assign(town="Ærø")))
    assert (found.changed, found.columns) == (1, {"town": 1})
    assert found.example.startswith("candidate 1 on 2026-06-01: town was ")
    assert found.example.endswith(", is Ærø")


def test_compare_new_and_gone_columns() -> None:
    before, after = (
        make_frame(),
        make_frame().drop(columns="age").assign(balance=1.5, outcome=[1, 1, 0, 0, 1]),
    )
    found = snapshots.compare(arrange(before), arrange(after[1:]))
    assert (found.added, found.removed, found.changed) == (0, 1, 4)
    assert found.columns == {"age (gone)": 4, "balance (new)": 4}
    assert found.example == ""
    found = snapshots.compare(arrange(before), arrange(after))
    assert (found.changed, found.columns) == (
        5,
        {"outcome": 1, "age (gone)": 5, "balance (new)": 5},
    )
    assert found.example == "candidate 10 on 2026-06-01: outcome was 0.0, is 1.0"


def test_compare_duplicates_of_a_key() -> None:
    def make(incomes: list[float]) -> pd.DataFrame:
        return arrange(
            pd.DataFrame({"candidate_id": 1, "event_date": DAY, "outcome": 0, "income": incomes})
        )

    assert snapshots.compare(make([1, 2]), make([2, 1])) == snapshots.Difference(0, 0, 0, {}, "")
    assert snapshots.compare(make([1, 2]), make([1, 2, 2]))[:4] == (1, 0, 0, {})
    assert snapshots.compare(make([1, 2, 3]), make([1]))[:4] == (0, 2, 0, {})
    assert snapshots.compare(make([1, 2]), make([1, 3]))[:4] == (0, 0, 1, {"income": 1})


def test_compare_nothing_in_common() -> None:
    other = make_frame().assign(candidate_id=range(100, 105))
    assert snapshots.compare(arrange(), arrange(other)) == snapshots.Difference(5, 5, 0, {}, "")
    assert str(snapshots.compare(arrange(), arrange(other))) == "5 rows added, 5 removed, 0 changed"


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """Rows that a query may return, a key often more than once."""
    numbers, texts = st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.text(max_size=4)
    fractions = st.none() | st.floats(allow_nan=False)
    row = st.tuples(
        st.integers(0, 3), st.integers(0, 2), st.integers(0, 1), numbers, fractions, texts
    )
    keys, days, outcomes, whole, parts, names = zip(
        *draw(st.lists(row, min_size=1, max_size=12)), strict=True
    )
    return pd.DataFrame(
        {
            "candidate_id": keys,
            "event_date": [DAY + timedelta(days=day) for day in days],
            "outcome": outcomes,
            "whole": pd.array(whole, dtype="Int64"),
            "part": pd.Series(parts, dtype="float64"),
            "name": pd.Series(names, dtype="str"),
        }
    )


@settings(deadline=None, max_examples=60)
@given(frames(), st.randoms())
def test_arrange_and_compare_always(frame: pd.DataFrame, random: Any) -> None:
    arranged = arrange(frame)
    pd.testing.assert_frame_equal(arrange(arranged), arranged)
    order = list(range(len(frame)))
    random.shuffle(order)
    shuffled = arrange(frame.iloc[order])
    assert hash_of(shuffled) == hash_of(frame)
    for other in (arranged, shuffled, snapshots.from_parquet(snapshots.to_parquet(arranged))):
        assert snapshots.compare(arranged, other) == snapshots.Difference(0, 0, 0, {}, "")
        assert hash_of(other) == hash_of(frame)


@settings(deadline=None, max_examples=30)
@given(frames(), st.data())
def test_hash_content_notices_any_change(frame: pd.DataFrame, data: Any) -> None:
    at = data.draw(st.integers(0, len(frame) - 1))
    changed = frame.copy()
    changed.loc[at, "outcome"] = 1 - changed.loc[at, "outcome"]
    assert hash_of(changed) != hash_of(frame)
    found = snapshots.compare(arrange(frame), arrange(changed))
    assert (found.added, found.removed) == (0, 0)
    assert found.changed >= 1
    assert found.columns["outcome"] >= 1


# Which is meant, and which go


def test_choose_snapshot(engine: sa.Engine) -> None:
    one, two = "abc1" + "0" * 60, "abc2" + "0" * 60
    add_pull(engine, one, days_ago=3, run_id="r1")
    add_pull(engine, one, days_ago=2, run_id="r2")
    add_pull(engine, two, days_ago=1, run_id="r3")
    add_model(engine, "modelA_v1.0_2026-09-07", one)
    with engine.connect() as connection:
        for name in (one, "abc1", "modelA_v1.0_2026-09-07"):
            assert snapshots.choose_snapshot(connection, name).run_id == "r2"
        assert snapshots.choose_snapshot(connection, "abc2").run_id == "r3"
        for name in ("abc", ""):
            with pytest.raises(
                RegistryError,
                match=rf"^{name}: several snapshots begin so\. See: python -m abatch snapshots",
            ):
                snapshots.choose_snapshot(connection, name)
        for name in ("abd", "bc1", "modelA_v1.0_2026-09-08", "modelA_v1.0_2026-01-01"):
            with pytest.raises(
                RegistryError,
                match=(
                    rf"^{name}: there is no snapshot of this hash, nor of a model of this name\."
                    r" See: "
                ),
            ):
                snapshots.choose_snapshot(connection, name)
        mistyped = f"x{one[1:]}"
        with pytest.raises(RegistryError, match=f"Did you mean '{one}'"):
            snapshots.choose_snapshot(connection, mistyped)


def test_write_rows_for_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    snapshots.write_rows(Path("rows.parquet"), arrange())
    pd.testing.assert_frame_equal(
        snapshots.from_parquet(Path("rows.parquet").read_bytes()), arrange()
    )
    assert os.stat("rows.parquet").st_mode & 0o777 == 0o600
    assert (
        str(pd.read_parquet("rows.parquet")["event_date"].iloc[0]) == "2026-06-01"
    )  # a day, for whatever else reads it


def number_rows(frame: pd.DataFrame) -> dict[tuple[object, ...], tuple[object, ...]]:
    """Values of arranged rows by candidate, day, and which of such rows it is."""
    rows: dict[tuple[object, ...], tuple[object, ...]] = {}
    for candidate, day, *values in frame.astype(object).itertuples(index=False):
        nth = sum(key[:2] == (candidate, day) for key in rows)
        rows[candidate, day, nth] = tuple(None if pd.isna(value) else value for value in values)
    return rows


@settings(deadline=None, max_examples=60)
@given(frames(), frames())
def test_compare_as_counted_one_by_one(first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Whole numbers of the second as floats, if no float would lose a digit of them."""
    second = second.assign(whole=second["whole"].mask(second["whole"].abs() > 2**53))
    second["whole"] = second["whole"].astype("float64")
    one, other = (arrange(frame) for frame in (first, second))
    before, after = number_rows(one), number_rows(other)
    pairs = [(before[key], after[key]) for key in before.keys() & after.keys()]
    found = snapshots.compare(one, other)
    assert found.added == len(after.keys() - before.keys())
    assert found.removed == len(before.keys() - after.keys())
    by_column = {
        name: sum(a[i] != b[i] for a, b in pairs)
        for i, name in enumerate(["outcome", "whole", "part", "name"])
    }
    is_alike = before == after and found.columns
    if is_alike:  # but of another type
        assert found.columns == {"whole (type)": len(pairs)}
        return
    assert found.columns == {name: n for name, n in by_column.items() if n}
    assert found.changed == sum(a != b for a, b in pairs)


def test_parquet_as_pandas_writes_and_reads_it() -> None:
    """With days as Python's dates: files of before are read, and others read those of now."""
    rows = arrange(
        make_frame().assign(
            whole=pd.array([1, None, 2**63 - 1, 4, 5], dtype="Int64"),
            at=pd.to_datetime(["2026-06-01 10:00"] * 5, utc=True),
            nothing=None,
        )
    )
    before = rows.assign(event_date=rows["event_date"].dt.date)
    written = before.to_parquet(engine="pyarrow", compression="zstd", index=False)
    pd.testing.assert_frame_equal(snapshots.from_parquet(written), rows)
    content = snapshots.to_parquet(rows)
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(content)), before)
    pd.testing.assert_frame_equal(snapshots.from_parquet(content), rows)
