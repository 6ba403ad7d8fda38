"""Rows are ranked in memory, written in bulk, read back, and seen as whole nights only."""

import math
import tracemalloc
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from abatch.database import connections, reading, tables, writing
from abatch.database.tables import (
    feature_counts,
    prediction_rows,
    predictions_superseded,
    runs,
)
from abatch.errors import DatabaseError, DataError
from abatch.experiment import predictions, sample_ratio, spool, tallies
from abatch.experiment.assignment import Candidates, assign, assign_candidates
from abatch.queries import Query
from abatch.statistics import drift
from tests.conftest import as_stored, make_night, read_predictions

pytestmark = pytest.mark.server

NIGHT, AT = date(2026, 9, 1), datetime(2026, 9, 1, 22, 15, 30, 123456)
NAN = float("nan")
SPLIT = {"A": 0.45, "B": 0.45, "control": 0.1}
MODELS = {"A": "modelA_v1.0_2026-08-31", "B": "modelB_v1.0_2026-08-31", "control": None}
Row = tuple[str, str, float, int]  # candidate_id, variant, prediction, selection_key


class Writer:
    """Writes nights of some experiment by the numbers of their runs."""

    def __init__(self, engine: sa.Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder

    def begin(self, number: int, run_date: date = NIGHT, experiment: str = "card_offer") -> Any:
        """A night whose run is in the ledger."""
        night = make_night(f"run{number}", run_date, experiment)
        night.run_number, night.dry_run = number, False
        night.read = partial(connections.read, self.engine)
        night.write = partial(connections.write, self.engine)
        night.open_loader = partial(writing.open_loader, self.engine)
        night.stream = partial(reading.stream_query, self.engine, as_of=AT, chunk_rows=4)
        night.experiment.split = SPLIT
        night.experiment.environment = SimpleNamespace(spool_dir=self.folder)
        night.experiment.query = lambda name: Query(f"{name}.sql", "")
        row = {"run_id": night.run_id, "run_number": number, "job": "predict", **night.key}
        row |= {"started_at": AT, "status": "running", "code_version": "", "config_hash": ""}
        with self.engine.begin() as connection:
            connection.execute(runs.insert().values(**row, host=""))
        return night

    def write(
        self,
        night: Any,
        rows: Sequence[Row],
        n_chunk: int = 3,
        models: Mapping[str, str | None] = MODELS,
        **n_selected: int,
    ) -> None:
        """Spool rows in chunks, rank and write them."""
        with spool.open_spool(night, models) as spooled:
            for start in range(0, len(rows), n_chunk):
                ids, variants, prediction, keys = zip(*rows[start : start + n_chunk], strict=True)
                bucket = np.array([key % 64 for key in keys])
                candidates = Candidates(
                    list(ids),
                    pd.DataFrame(),
                    np.array(variants, dtype=object),
                    np.array(keys, dtype=np.uint64),
                    bucket,
                    "hash",
                    [],
                )
                spooled.add(candidates, np.array(prediction, dtype=float))
            predictions.write_rows(night, len(rows), spooled.rank(n_selected))

    def publish(self, night: Any) -> None:
        """Show the rows, and those of an earlier run no more."""
        with self.engine.begin() as connection:
            predictions.write_shares(connection, night)
            own = runs.update().where(runs.c.run_id == night.run_id)
            old = runs.update().filter_by(status="done", **night.key)
            connection.execute(old.values(status="superseded", superseded_by=night.run_id))
            connection.execute(own.values(status="done", finished_at=AT, rows_written=1))

    def play(self, number: int, rows: Sequence[Row], **begin: Any) -> Any:
        """A whole night, of whose variants one candidate each is selected."""
        night = self.begin(number, **begin)
        self.write(night, rows, A=1, B=1, control=1)
        self.publish(night)
        return night


@pytest.fixture
def writer(engine: sa.Engine, tmp_path: Path) -> Writer:
    return Writer(engine, tmp_path / "spool")


def read(
    engine: sa.Engine, *names: str, table: sa.Table = tables.predictions
) -> list[tuple[Any, ...]]:
    columns = [table.c[name] for name in names]
    order = (table.c.run_date, table.c.variant, table.c.rank_in_variant)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(*order))]


def count(engine: sa.Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_write_rows_ranks_by_hand(engine: sa.Engine, writer: Writer) -> None:
    rows: list[Row] = [
        ("a1", "A", 0.25, 0),
        ("a2", "A", 0.75, 2**64 - 1),
        ("a3", "A", 0.5, 9 * 2**60),
        ("a4", "A", 0.5, 9 * 2**56),
        ("c1", "control", NAN, 11 * 2**60),
        ("a5", "A", 0.0, 1),
        ("b1", "B", 0.1, 2),
        ("c2", "control", NAN, 10 * 2**60),
        ("c3", "control", NAN, 10 * 2**56),
    ]
    night = writer.begin(1)
    writer.write(night, rows, A=2, B=0, control=1)
    assert count(engine, tables.predictions) == 0  # no reader sees a run that is not done
    writer.publish(night)
    assert read(engine, "variant", "rank_in_variant", "candidate_id", "prediction", "selected") == [
        ("A", 1, "a2", 0.75, 1),
        ("A", 2, "a4", 0.5, 1),  # tie with a3: the smaller selection_key comes first
        ("A", 3, "a3", 0.5, 0),
        ("A", 4, "a1", 0.25, 0),
        ("A", 5, "a5", 0.0, 0),
        ("B", 1, "b1", 0.1, 0),
        ("control", 1, "c3", None, 1),  # no model: the order of selection_key is the random one
        ("control", 2, "c2", None, 0),
        ("control", 3, "c1", None, 0),
    ]
    assert set(read(engine, "variant", "model_name", "assignment_probability")) == {
        (name, model, SPLIT[name]) for name, model in MODELS.items()
    }
    assert set(read(engine, "experiment", "run_date", "run_id", "predicted_at")) == {
        ("card_offer", NIGHT, "run1", as_stored(engine, AT))
    }
    assert not [*writer.folder.iterdir()]


@pytest.mark.parametrize("n_chunk", [1, 700, 5000])
def test_write_rows_against_pandas(engine: sa.Engine, writer: Writer, n_chunk: int) -> None:
    rng = np.random.default_rng(0)
    n = 300 if n_chunk == 1 else 3000
    ids = [str(number) for number in range(n)]
    assigned = assign(ids, "card_offer", SPLIT)
    scores = np.where(assigned.variant == "control", NAN, rng.random(n).round(2))  # many ties
    rows = [*zip(ids, assigned.variant, scores, assigned.selection_key.tolist(), strict=True)]
    names = ["candidate_id", "variant", "prediction", "selection_key"]
    frame = pd.DataFrame(rows, columns=names)
    n_selected: dict[str, Any] = {
        name: int((assigned.variant == name).sum()) // 5 for name in SPLIT
    }
    night = writer.begin(1)
    writer.write(night, rows, n_chunk, **n_selected)
    writer.publish(night)
    ordered = frame.sort_values(
        ["variant", "prediction", "selection_key"], ascending=[True, False, True]
    )
    expected = ordered.assign(rank=ordered.groupby("variant").cumcount() + 1)
    expected["selected"] = [
        int(rank <= math.floor(n / 5))
        for rank, n in zip(
            expected["rank"], expected.groupby("variant")["rank"].transform("size"), strict=True
        )
    ]
    found = read(engine, "candidate_id", "variant", "rank_in_variant", "selected")
    assert found == list(
        expected[["candidate_id", "variant", "rank", "selected"]].itertuples(index=False, name=None)
    )
    with engine.connect() as connection:
        back = read_predictions(connection, "card_offer", date(2026, 8, 31), NIGHT)
    pd.testing.assert_series_equal(
        back.set_index("candidate_id")["prediction"].sort_index(),
        frame.set_index("candidate_id")["prediction"].sort_index(),
        check_exact=True,
    )


def test_a_night_again_supersedes_the_old_one(engine: sa.Engine, writer: Writer) -> None:
    pair: list[Row] = [("a1", "A", 0.25, 0), ("a2", "A", 0.5, 1)]
    writer.play(1, pair, run_date=date(2026, 8, 31))
    writer.play(2, pair)
    writer.play(3, [("a1", "A", 0.75, 0)], experiment="another")
    writer.play(4, [("a1", "A", 0.9, 0), ("a3", "A", 0.8, 1)])
    columns = ("experiment", "run_date", "run_id", "candidate_id", "prediction", "rank_in_variant")
    assert sorted(read(engine, *columns)) == [
        ("another", NIGHT, "run3", "a1", 0.75, 1),
        ("card_offer", date(2026, 8, 31), "run1", "a1", 0.25, 2),
        ("card_offer", date(2026, 8, 31), "run1", "a2", 0.5, 1),
        ("card_offer", NIGHT, "run4", "a1", 0.9, 1),
        ("card_offer", NIGHT, "run4", "a3", 0.8, 2),
    ]
    assert read(engine, *columns, "superseded_by", table=predictions_superseded) == [
        ("card_offer", NIGHT, "run2", "a2", 0.5, 1, "run4"),
        ("card_offer", NIGHT, "run2", "a1", 0.25, 2, "run4"),
    ]


def test_remove_dead_deletes_what_forgotten_runs_left(engine: sa.Engine, writer: Writer) -> None:
    """A server lost the run and kept its rows; the next run takes its number."""
    rows: list[Row] = [(f"a{i}", "A", i / 10, i) for i in range(5)]
    night = writer.begin(1)
    writer.write(night, rows)
    writer.write(writer.begin(2), rows)
    with engine.begin() as connection:
        connection.execute(runs.delete().filter_by(run_number=2))
    spool.remove_dead(night)
    with engine.connect() as connection:
        assert set(connection.scalars(sa.select(prediction_rows.c.run_number))) == {1}


def test_remove_dead_deletes_what_failed_runs_left(
    engine: sa.Engine, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches; not of the run that goes on, of one that is done, nor of another experiment."""
    monkeypatch.setattr("abatch.database.writing.BATCH_ROWS", 2)
    rows: list[Row] = [(f"a{i}", "A", i / 10, i) for i in range(5)]
    for number, experiment in ((1, "card_offer"), (2, "another"), (3, "card_offer")):
        writer.write(writer.begin(number, experiment=experiment), rows)
    writer.play(4, rows)
    with engine.begin() as connection:
        failed = runs.update().where(runs.c.run_number.in_([1, 2]))
        connection.execute(failed.values(status="failed"))
    left = writer.folder / "run1"
    left.mkdir()
    strange = writer.folder / "somebody's"
    strange.mkdir()
    night = writer.begin(5)
    spool.remove_dead(night)
    assert (left.exists(), strange.exists()) == (False, True)
    numbers = sa.select(prediction_rows.c.run_number).distinct()
    with engine.connect() as connection:
        assert sorted(connection.scalars(numbers)) == [2, 3, 4]
    with spool.open_spool(night, MODELS):
        assert (writer.folder / "run5").stat().st_mode & 0o777 == 0o700


def test_rank_refuses_a_candidate_twice(engine: sa.Engine, writer: Writer) -> None:
    rows: list[Row] = [("a2", "A", 0.1, 7), ("a1", "A", 0.2, 5), ("a3", "A", 0.1, 6)]
    rows += [("a2", "A", 0.3, 7), ("a1", "A", 0.4, 5), ("b9", "B", 0.4, 6)]  # a hash of two
    words = (
        r"^2 candidates are returned more than once, for example 'a1'\. Expected one row per"
        r" candidate\. Look for a join that multiplies rows\.$"
    )
    with pytest.raises(DataError, match=words):
        writer.write(writer.begin(1), rows)
    assert count(engine, prediction_rows) == 0
    writer.write(writer.begin(2), [("a3", "A", 0.1, 6), ("b9", "B", 0.4, 6)])
    assert count(engine, prediction_rows) == 2


CHANGES: list[dict[str, Any]] = [
    {"prediction": math.nextafter(0.7, 1)},
    {"prediction": sa.null()},  # as Babelfish takes no None in an update
    {"model_name": sa.null()},
    {"variant": "B"},
    {"candidate_id": "C7"},
    {"rank_in_variant": 99},
    {"selected": 1},
    {"bucket": 63},
]


def test_a_spool_holds_17_bytes_a_candidate(tmp_path: Path) -> None:
    """A prediction and a selection key of eight each, a variant of one; and an eighth to grow."""
    spooled = spool.Spool(tmp_path / "ids.arrow", 1, {"A": None, "B": None})
    held: list[int] = []
    tracemalloc.start()
    try:
        for first in range(0, 200_000, 10_000):
            frame = pd.DataFrame({"candidate_id": range(first, first + 10_000)})
            spooled.add(assign_candidates(frame, "salt", {"A": 0.5, "B": 0.5}), np.zeros(10_000))
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    n_bytes = (held[-1] - held[4]) / 150_000
    assert 17 * 0.9 < n_bytes < 17 * 1.125 * 1.05


@pytest.mark.parametrize("change", CHANGES)
def test_write_rows_compares_every_value(
    engine: sa.Engine,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
) -> None:
    """A change of any one column of one row is found; odd values are none."""
    rows: list[Row] = [(f"c{i}", "A", i / 10, i) for i in range(10)]
    rows += [("x", "control", NAN, 2**64 - 1), ("y z;'--", "A", 0.1 + 0.2, 40)]
    rows += [("m", "A", -0.0, 41), ("t", "A", 5e-300, 42), ('q",\\', "A", 1.0, 43)]
    writer.write(writer.begin(1), rows)
    load = writing.load

    def damage(connection: sa.Connection, *args: Any) -> None:
        load(connection, *args)
        is_meant = prediction_rows.c.candidate_id == "c7"
        connection.execute(prediction_rows.update().where(is_meant).values(change))

    monkeypatch.setattr(writing, "load", damage)
    words = rf"^{len(rows)} predictions were sent, and other values arrived in prediction_rows"
    with pytest.raises(DatabaseError, match=words):
        writer.write(writer.begin(2), rows, n_chunk=99)


@pytest.mark.parametrize(("n", "arrived"), [(1, 4), (0, 3)])
def test_write_rows_counts(
    engine: sa.Engine, writer: Writer, monkeypatch: pytest.MonkeyPatch, n: int, arrived: int
) -> None:
    """A row more, and a row less, than were sent."""
    load = writing.load

    def damage(connection: sa.Connection, table: sa.Table, batch: Any) -> None:
        load(connection, table, batch)
        if n:
            row = batch.to_pylist()[0] | {"candidate_id": "more"}
            connection.execute(prediction_rows.insert().values(row))
        else:
            connection.execute(prediction_rows.delete().filter_by(candidate_id="c1"))

    monkeypatch.setattr(writing, "load", damage)
    rows: list[Row] = [(f"c{i}", "A", i / 10, i) for i in range(3 if n else 4)]
    words = rf"^{len(rows)} predictions were sent and {arrived} arrived in prediction_rows\."
    with pytest.raises(DatabaseError, match=words):
        writer.write(writer.begin(1), rows, n_chunk=99)


def test_write_rows_whose_keys_are_one_to_the_database(
    engine: sa.Engine, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a collation may take two spellings for one, which numpy cannot see."""
    load = writing.load
    night = writer.begin(1)

    def take_for_one(connection: sa.Connection, table: sa.Table, batch: Any) -> None:
        load(connection, table, batch.slice(0, 1))
        load(connection, table, batch)

    monkeypatch.setattr(writing, "load", take_for_one)
    words = (
        r"^candidates are returned more than once in the eyes of the database, whose collation may"
        r" take two spellings for one \(.*(unique|UNIQUE|PRIMARY KEY).*\)\. Expected one row per"
    )
    with pytest.raises(DataError, match=words):
        writer.write(night, [("c1", "A", 0.5, 0), ("C1", "A", 0.25, 1)])
    assert count(engine, prediction_rows) == 0


def test_read_predictions_window_and_types(engine: sa.Engine, writer: Writer) -> None:
    for day in (1, 2, 3):
        writer.play(day, [("c1", "control", NAN, 0)], run_date=date(2026, 9, day))
    with engine.connect() as connection:
        days = (date(2026, 8, 31), date(2026, 9, 2))
        frame = read_predictions(connection, "card_offer", *days)
        empty = read_predictions(connection, "another", *days)
    assert sorted(frame["run_date"].dt.day) == [1, 2]
    assert frame["prediction"].isna().all()
    assert empty.empty
    assert (empty.dtypes == frame.dtypes)[["run_date", "prediction", "selected"]].all()


INCOME = drift.FeatureCounts([3, 0, 7, 2], 0, {})
REGION = drift.FeatureCounts([5, 4, 3], 2, {"Tromsø": 1, "日本": 1})


def test_feature_counts_round_trip_and_second_run(engine: sa.Engine) -> None:
    def write(
        run_id: str,
        day: int,
        experiment: str = "card_offer",
        **counts: dict[str, drift.FeatureCounts],
    ) -> None:
        with engine.begin() as connection:
            night = make_night(run_id, date(2026, 9, day), experiment)
            predictions.write_feature_counts(connection, night, counts)

    def read_back(first: int, last: int) -> predictions.ModelCounts:
        with engine.connect() as connection:
            return predictions.read_feature_counts(
                connection, "card_offer", date(2026, 9, first), date(2026, 9, last)
            )

    write("run1", 1, modelA={"income": INCOME, "region": REGION}, modelB={"income": INCOME})
    write("run2", 2, modelA={"region": REGION})
    write("other", 1, "another", modelA={"income": REGION})
    assert read_back(1, 2) == {
        "modelA": {"income": INCOME, "region": REGION + REGION},
        "modelB": {"income": INCOME},
    }
    assert read_back(2, 2) == {"modelA": {"region": REGION}}
    assert read_back(3, 9) == {}
    write(
        "run3", 1, modelA={"income": REGION}, modelC={}
    )  # the night again, with another model B and a model that counts nothing
    assert read_back(1, 1) == {"modelA": {"income": REGION}, "modelC": {}}
    assert read_back(2, 2) == {"modelA": {"region": REGION}}
    write("run4", 1)
    assert read_back(1, 2) == {"modelA": {"region": REGION}}
    with engine.connect() as connection:
        found = connection.execute(
            sa.select(feature_counts.c.experiment, feature_counts.c.run_id)
        ).all()
    assert sorted(map(tuple, found)) == [("another", "other"), ("card_offer", "run2")]


@pytest.fixture
def many_nights(writer: Writer, rng: np.random.Generator) -> pd.DataFrame:
    """Twelve nights of candidates who come again, beside another experiment's.

    Some of them come in another variant.
    """
    nights = [NIGHT + timedelta(days=day) for day in range(12)]
    parts = []
    for i, night in enumerate(nights):
        ids = rng.choice(60, 20, replace=False)
        odd = rng.random(20) < 0.15  # recorded elsewhere: another variant than yesterday's
        variants = np.array(["A", "B", "control"])[(ids + odd) % 3]
        rows: list[Row] = [
            (f"c{who}", str(variant), NAN, int(who))
            for who, variant in zip(ids, variants, strict=True)
        ]
        writer.play(2 * i, rows, run_date=night)
        writer.play(2 * i + 1, rows[:7], run_date=night, experiment="another")
        parts.append(
            pd.DataFrame(rows, columns=["candidate_id", "variant", "prediction", "key"]).assign(
                run_date=night
            )
        )
    return pd.concat(parts)


def test_count_by_night_equals_pandas(engine: sa.Engine, many_nights: pd.DataFrame) -> None:
    for closed, last in ((-1, 11), (0, 11), (4, 8), (8, 8), (11, 20)):
        first, until = (NIGHT + timedelta(days=day) for day in (closed, last))
        inside = many_nights[(many_nights["run_date"] > first) & (many_nights["run_date"] <= until)]
        expected = inside.groupby(["run_date", "variant"]).size().to_dict()
        with engine.connect() as connection:
            span = predictions.Span("card_offer", first, until)
            assert predictions.count_by_night(connection, span) == expected
    with engine.connect() as connection:
        span = predictions.Span("card_offer", date.min, NIGHT + timedelta(days=11))
        everything = predictions.count_by_night(connection, span)
    assert sum(everything.values()) == 12 * 20


def test_find_run_ids_by_night(
    engine: sa.Engine, writer: Writer, many_nights: pd.DataFrame
) -> None:
    nights = [NIGHT + timedelta(days=day) for day in range(4)]
    writer.play(99, [("c1", "A", 0.5, 0)], run_date=nights[2])
    with engine.connect() as connection:
        span = predictions.Span("card_offer", nights[1], nights[3])
        found = predictions.find_run_ids(connection, span)
        assert found == {(nights[2], "run99"), (nights[3], "run6")}
        nothing = predictions.Span("nobody", date.min, nights[3])
        assert predictions.find_run_ids(connection, nothing) == set()


@pytest.mark.parametrize(("closed", "last"), [(-1, 11), (5, 11), (5, 8), (11, 11), (3, 4)])
def test_find_groups_equals_plain_loop(
    engine: sa.Engine, many_nights: pd.DataFrame, closed: int, last: int
) -> None:
    """Who was in another variant before is new in this one."""
    after, until = NIGHT + timedelta(days=closed), NIGHT + timedelta(days=last)
    before: Counter[tuple[str, str]] = Counter()
    firsts: dict[tuple[str, str], date] = {}
    now: Counter[tuple[str, str]] = Counter()
    for row in many_nights.sort_values("run_date", kind="stable").itertuples():
        unit = (row.candidate_id, row.variant)
        if row.run_date <= after:
            before[unit] += 1
        elif row.run_date <= until:
            firsts.setdefault(unit, row.run_date)
            now[unit] += 1
    expected = Counter((unit[1], first, now[unit], before[unit]) for unit, first in firsts.items())
    units = pd.DataFrame(
        [(*unit, n, 0.0, 0.0) for unit, n in before.items()],
        columns=[*tallies.UNIT_COLUMNS, "outcome", "complaint"],
    )
    with engine.begin() as connection:
        for experiment in ("card_offer", "third"):
            tallies.write_units(connection, experiment, units)
        span = predictions.Span("card_offer", after, until)
        groups = sample_ratio.find_groups(connection, span).fillna({"n_before": 0})
        late = sample_ratio.find_groups(connection, span, new_after=NIGHT + timedelta(days=6))
    assert {tuple(row[:4]): row[4] for row in groups.itertuples(index=False)} == expected
    assert {tuple(row[:3]): row[4] for row in late.itertuples(index=False)} == {
        (variant, first, n): n_units
        for (variant, first, n, n_before), n_units in expected.items()
        if not n_before and first > NIGHT + timedelta(days=6)
    }
    assert late["n_before"].isna().all()
    assert late.empty == (last < 7 or closed == 11)
    assert closed in (-1, 11) or {bool(before[unit]) for unit in firsts} == {True, False}


def test_describe_replaced_counts_who_is_not_there_as_he_was(writer: Writer) -> None:
    """Of five one has gone, one has moved, and one is new; another night's are not asked for."""
    first: list[Row] = [(f"c{i}", "A", 0.5, i) for i in range(5)]
    writer.play(1, first)
    writer.play(2, first, run_date=NIGHT - timedelta(days=1))
    same = writer.begin(3)
    writer.write(same, first)
    assert same.read(predictions.describe_replaced, same) == []
    night = writer.begin(4)
    writer.write(night, [("c9", "A", 0.5, 9), *first[1:4], ("c4", "B", 0.5, 4)])
    (words,) = night.read(predictions.describe_replaced, night)
    assert words.startswith(
        "candidates.sql: of the 5 candidates of the night as it was 1 are gone from those that"
        " replace them, and 1 have moved to another variant."
    )
    night.dry_run = True
    assert night.read(predictions.describe_replaced, night) == []
    other = writer.begin(5, NIGHT + timedelta(days=2))
    assert other.read(predictions.describe_replaced, other) == []


def test_describe_replaced_counts_who_has_another_prediction(writer: Writer) -> None:
    """Of four of A one has another, one by rounding alone; of B and control nobody has."""
    first: list[Row] = [(f"c{i}", "A", 0.5, i) for i in range(4)]
    first += [("c4", "B", 0.2, 4), ("c5", "control", NAN, 5)]
    writer.play(1, first)
    night = writer.begin(2)
    writer.write(night, [("c0", "A", 0.5 + 1e-8, 0), ("c1", "A", 0.501, 1), *first[2:]])
    (words,) = night.read(predictions.describe_replaced, night)
    assert words.startswith(
        "candidates.sql: of the 6 candidates of the night as it was 1 have another prediction now,"
        " by the same model: their features have changed."
    )
    night = writer.begin(3)
    others: list[Row] = [(row[0], row[1], 0.7, row[3]) for row in first]
    writer.write(night, others, models={**MODELS, "A": "modelA_v1.0_new"})  # trained anew
    (words,) = night.read(predictions.describe_replaced, night)
    assert "6 candidates of the night as it was 1 have another prediction" in words  # of B


def test_read_replaced_after_a_night_was_done_again(engine: sa.Engine, writer: Writer) -> None:
    """Twice: c0 has gone, c4 has moved, c9 is new, c1 had gone and is there as at first."""
    rows: list[Row] = [(f"c{i}", "A", 0.5, i) for i in range(5)]
    moved: Row = ("c4", "B", 0.5, 4)
    new: Row = ("c9", "A", 0.5, 9)
    before = NIGHT - timedelta(days=1)
    writer.play(0, rows, run_date=before)
    nights = (rows, [*rows[2:4], moved], [*rows[1:4], moved, new])
    for number, kept in enumerate(nights, start=1):
        writer.play(number, kept)
    writer.write(writer.begin(4), rows)  # nobody sees them
    with engine.connect() as connection:
        span = predictions.Span("card_offer", before, NIGHT)
        found = predictions.read_replaced(connection, span)
        columns = (found[name] for name in ("candidate_id", "variant", "is_gone"))
        assert sorted(zip(*columns, strict=True)) == [
            ("c0", "A", 1),
            ("c4", "A", 1),
            ("c4", "B", 0),
            ("c9", "A", 0),
        ]
        assert set(found["run_date"].dt.date) == {NIGHT}
        for after, last in ((NIGHT, NIGHT), (before - timedelta(days=1), before)):
            span = predictions.Span("card_offer", after, last)
            assert predictions.read_replaced(connection, span).empty


def test_describe_doubles_where_they_are_many() -> None:
    night = make_night()
    night.experiment.query = lambda name: Query(f"{name}.sql", "")
    for n, n_rows, is_told in ((0, 10, False), (1, 100, False), (2, 199, True), (20, 9_999, True)):
        total = predictions.Batch(Counter({"A": n_rows}), doubles=[("1", "01")] * n)
        words = predictions.describe_doubles(night, total)
        assert (words is not None) == is_told
        assert words is None or words.startswith(
            f"candidates.sql: {n} of {n_rows:,} candidates seem to be there under two ids, such as"
            " '1' and '01'."
        )
