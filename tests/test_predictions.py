"""Staged rows are checked and ranked by the database, and readers see whole nights only."""

import math
from collections import Counter
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import StatementError

from abatch.database import connections, faults, tables, writing
from abatch.database.tables import feature_counts, predictions_staging, predictions_superseded
from abatch.errors import DatabaseError, DataError
from abatch.experiment import predictions, sample_ratio, tallies
from abatch.experiment.assignment import assign
from abatch.queries import Query
from abatch.statistics import drift
from tests.conftest import as_stored, make_night, read_predictions

pytestmark = pytest.mark.server

NIGHT, AT = date(2026, 9, 1), datetime(2026, 9, 1, 22, 15, 30, 123456)
NAN = float("nan")
Row = tuple[str, str, float, str]  # candidate_id, variant, prediction, selection_key


def make_frame(
    rows: list[Row], run_id: str = "run1", run_date: date = NIGHT, experiment: str = "card_offer"
) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["candidate_id", "variant", "prediction", "selection_key"])
    has_model = frame["variant"] != "control"
    return frame.assign(
        run_id=run_id,
        experiment=experiment,
        run_date=run_date,
        assignment_probability=frame["variant"].map({"A": 0.45, "B": 0.45, "control": 0.1}),
        model_name=[
            f"model{variant}_v1.0_2026-08-31" if model else None
            for variant, model in zip(frame["variant"], has_model, strict=True)
        ],
    )


def stage(engine: sa.Engine, frame: pd.DataFrame) -> int:
    """Stage rows; returns their checksum."""
    connections.write(engine, predictions.stage, frame)
    return predictions.compute_checksum(frame)


def sent(n_rows: int, checksum: int) -> predictions.Batch:
    return predictions.Batch(Counter({"A": n_rows}), checksum=checksum)


def publish(
    engine: sa.Engine,
    run_id: str = "run1",
    run_date: date = NIGHT,
    experiment: str = "card_offer",
    **n_selected: int,
) -> int:
    with engine.begin() as connection:
        night = make_night(run_id, run_date, experiment)
        predictions.publish(connection, night, n_selected=n_selected, predicted_at=AT)
        written = sa.select(sa.func.count()).select_from(tables.predictions)
        return connection.scalar(written.filter_by(run_id=run_id, experiment=experiment)) or 0


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


def test_publish_ranks_by_hand(engine: sa.Engine) -> None:
    first: list[Row] = [
        ("a1", "A", 0.25, "0000000000000000"),
        ("a2", "A", 0.75, "ffffffffffffffff"),
        ("a3", "A", 0.5, "9000000000000000"),
        ("a4", "A", 0.5, "0900000000000000"),
        ("c1", "control", NAN, "b000000000000000"),
    ]
    second: list[Row] = [
        ("a5", "A", 0.0, "0000000000000001"),
        ("b1", "B", 0.1, "0000000000000000"),
        ("c2", "control", NAN, "a000000000000000"),
        ("c3", "control", NAN, "0a00000000000000"),
    ]
    checksum = sum(stage(engine, make_frame(rows)) for rows in (first, second)) % 2**64
    assert count(engine, tables.predictions) == 0
    with engine.connect() as connection:
        predictions.check_staged(connection, make_night("run1"), sent(9, checksum))
    assert publish(engine, A=2, B=0, control=1) == 9
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
        ("A", "modelA_v1.0_2026-08-31", 0.45),
        ("B", "modelB_v1.0_2026-08-31", 0.45),
        ("control", None, 0.1),
    }
    assert set(read(engine, "experiment", "run_date", "run_id", "predicted_at")) == {
        ("card_offer", NIGHT, "run1", as_stored(engine, AT))
    }
    assert count(engine, predictions_staging) == 0


def test_publish_ties_of_key_by_id(engine: sa.Engine) -> None:
    stage(engine, make_frame([("x2", "A", 0.5, "0" * 16), ("x1", "A", 0.5, "0" * 16)]))
    publish(engine, A=1)
    assert read(engine, "candidate_id", "selected") == [("x1", 1), ("x2", 0)]


def test_publish_against_pandas(engine: sa.Engine) -> None:
    rng = np.random.default_rng(0)
    ids = [str(number) for number in range(3000)]
    split = {"A": 0.45, "B": 0.45, "control": 0.1}
    assigned = assign(ids, "card_offer", split)
    scores = np.where(assigned.variant == "control", NAN, rng.random(3000).round(2))  # many ties
    frame = make_frame(
        list(zip(ids, assigned.variant, scores, assigned.selection_key, strict=True))
    )
    stage(engine, frame)
    n_selected: dict[str, Any] = {
        name: int((assigned.variant == name).sum()) // 5 for name in split
    }
    publish(engine, **n_selected)
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
        back = read_predictions(connection, "card_offer", date(2026, 8, 31), NIGHT).set_index(
            "candidate_id"
        )
    pd.testing.assert_series_equal(
        back["prediction"].sort_index(),
        frame.set_index("candidate_id")["prediction"].sort_index(),
        check_exact=True,
    )


def test_publish_again_keeps_the_old_night(engine: sa.Engine) -> None:
    for run_id, night in (("run0", date(2026, 8, 31)), ("run1", NIGHT)):
        stage(
            engine,
            make_frame([("a1", "A", 0.25, "0" * 16), ("a2", "A", 0.5, "1" * 16)], run_id, night),
        )
        publish(engine, run_id, night, A=1)
    stage(engine, make_frame([("a1", "A", 0.75, "0" * 16)], "run0", NIGHT, "another"))
    publish(engine, "run0", NIGHT, "another", A=1)
    stage(engine, make_frame([("a1", "A", 0.9, "0" * 16), ("a3", "A", 0.8, "1" * 16)], "run2"))
    assert publish(engine, "run2", A=1) == 2
    columns = (
        "experiment",
        "run_date",
        "run_id",
        "candidate_id",
        "prediction",
        "rank_in_variant",
        "selected",
    )
    assert sorted(read(engine, *columns)) == [
        ("another", NIGHT, "run0", "a1", 0.75, 1, 1),
        ("card_offer", date(2026, 8, 31), "run0", "a1", 0.25, 2, 0),
        ("card_offer", date(2026, 8, 31), "run0", "a2", 0.5, 1, 1),
        ("card_offer", NIGHT, "run2", "a1", 0.9, 1, 1),
        ("card_offer", NIGHT, "run2", "a3", 0.8, 2, 0),
    ]
    assert read(engine, *columns, "superseded_by", table=predictions_superseded) == [
        ("card_offer", NIGHT, "run1", "a2", 0.5, 1, 1, "run2"),
        ("card_offer", NIGHT, "run1", "a1", 0.25, 2, 0, "run2"),
    ]


def test_publish_leaves_another_run_staged(engine: sa.Engine) -> None:
    stage(engine, make_frame([("a1", "A", 0.25, "0" * 16)], "run1"))
    stage(engine, make_frame([("a1", "A", 0.5, "0" * 16), ("a2", "A", 0.5, "0" * 16)], "run2"))
    assert publish(engine, "run1", A=1) == 1
    with engine.connect() as connection:
        staged = predictions_staging.c
        assert connection.scalars(sa.select(staged.run_id)).all() == ["run2", "run2"]


def test_check_staged_duplicates(engine: sa.Engine) -> None:
    checksum = 0
    for rows in (
        [("a2", "A", 0.1, "0" * 16), ("a1", "A", 0.2, "0" * 16)],
        [("a2", "A", 0.3, "0" * 16), ("a1", "B", 0.4, "0" * 16)],
    ):
        checksum += stage(engine, make_frame(rows))
    stage(engine, make_frame([("a3", "A", 0.1, "0" * 16)], "run2"))
    checksum += stage(engine, make_frame([("a3", "A", 0.1, "0" * 16)]))
    with (
        engine.connect() as connection,
        pytest.raises(DataError) as caught,
        Query("sql/c.sql", "").named(),
    ):
        predictions.check_staged(connection, make_night("run1"), sent(5, checksum % 2**64))
    assert (
        str(caught.value)
        == "sql/c.sql: 2 candidates are returned more than once, for example 'a1'. Expected one row"
        " per candidate. Look for a join that multiplies rows, or for ids that differ only in"
        " upper and lower case."
    )


@pytest.mark.parametrize("n_sent", [1, 3])
def test_check_staged_lost_or_doubled(engine: sa.Engine, n_sent: int) -> None:
    checksum = stage(engine, make_frame([("a1", "A", 0.1, "0" * 16), ("a2", "A", 0.2, "0" * 16)]))
    with (
        engine.connect() as connection,
        pytest.raises(DatabaseError, match=rf"^{n_sent} predictions were sent and 2 arrived"),
    ):
        predictions.check_staged(connection, make_night("run1"), sent(n_sent, checksum))


def test_check_staged_every_value_counts(engine: sa.Engine) -> None:
    """More rows than one batch has, odd values among them.

    A change of any one column of one row is found.
    """
    n = writing.WRITE_ROWS + 500
    rows: list[Row] = [(f"c{i}", "A", i / n, f"{i:016x}") for i in range(n)]
    rows += [
        ("x", "control", NAN, "f" * 16),
        ("y z;'--", "A", 0.1 + 0.2, "0" * 16),
        ("m", "A", -0.0, "1" * 16),
        ("t", "A", 5e-300, "2" * 16),
    ]
    checksum = stage(engine, make_frame(rows))
    assert (
        checksum
        == sum(predictions.compute_checksum(make_frame(rows[i::7])) for i in range(7)) % 2**64
    )
    staged = predictions_staging.c
    with engine.connect() as connection:
        predictions.check_staged(connection, make_night("run1"), sent(len(rows), checksum))
    changes: list[dict[str, object]] = [
        {"prediction": math.nextafter(7 / n, 1)},
        {"prediction": None},
        {"assignment_probability": 0.451},
        {"model_name": None},
        {"variant": "B"},
        {"candidate_id": "C7"},
        {"selection_key": "0" * 16},
        {"run_date": date(2026, 9, 2)},
    ]
    for change in changes:
        with engine.connect() as connection:
            connection.execute(
                predictions_staging.update().where(staged.candidate_id == "c7").values(change)
            )
            with pytest.raises(
                DatabaseError,
                match=(
                    rf"^{len(rows)} predictions were sent, and other values arrived in"
                    r" predictions_staging"
                ),
            ):
                predictions.check_staged(connection, make_night("run1"), sent(len(rows), checksum))
            connection.rollback()


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_stage_refuses_infinity(engine: sa.Engine, value: float) -> None:
    with pytest.raises(StatementError) as caught:
        stage(engine, make_frame([("a1", "A", 0.1, "0" * 16), ("a2", "A", value, "0" * 16)]))
    assert "inf" in faults.describe(caught.value)
    assert "cannot be stored" in faults.describe(caught.value)
    assert count(engine, predictions_staging) == 0


def test_read_predictions_window_and_types(engine: sa.Engine) -> None:
    for day in (1, 2, 3):
        stage(
            engine, make_frame([("c1", "control", NAN, "0" * 16)], f"run{day}", date(2026, 9, day))
        )
        publish(engine, f"run{day}", date(2026, 9, day), control=0)
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
def many_nights(engine: sa.Engine, rng: np.random.Generator) -> pd.DataFrame:
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
            (f"c{who}", str(variant), NAN, f"{who:016x}")
            for who, variant in zip(ids, variants, strict=True)
        ]
        for experiment in ("card_offer", "another"):
            stage(
                engine,
                make_frame(
                    rows if experiment == "card_offer" else rows[:7], f"run{i}", night, experiment
                ),
            )
            publish(engine, f"run{i}", night, experiment, A=0)
        parts.append(make_frame(rows, f"run{i}", night))
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


def test_find_run_ids_by_night(engine: sa.Engine, many_nights: pd.DataFrame) -> None:
    nights = [NIGHT + timedelta(days=day) for day in range(4)]
    stage(engine, make_frame([("c1", "A", 0.5, "0" * 16)], "again", nights[2]))
    publish(engine, "again", nights[2], A=0)
    with engine.connect() as connection:
        span = predictions.Span("card_offer", nights[1], nights[3])
        found = predictions.find_run_ids(connection, span)
        assert found == {(nights[2], "again"), (nights[3], "run3")}
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
    assert {tuple(row[:4]): row[4] for row in groups.itertuples(index=False)} == expected
    assert closed in (-1, 11) or {bool(before[unit]) for unit in firsts} == {True, False}


def test_describe_replaced_counts_who_is_not_there_as_he_was(engine: sa.Engine) -> None:
    """Of five one has gone, one has moved, and one is new; another night's are not asked for."""
    first: list[Row] = [(f"c{i}", "A", 0.5, f"{i:016}") for i in range(5)]
    for run_id, night in (("run1", NIGHT), ("run0", NIGHT - timedelta(days=1))):
        stage(engine, make_frame(first, run_id, night))
        publish(engine, run_id, night, A=1)
    night = make_night("run2")
    night.dry_run = False
    night.experiment.query = lambda name: Query(f"{name}.sql", "")
    stage(engine, make_frame(first, "run2"))
    with engine.connect() as connection:
        assert predictions.describe_replaced(connection, night) == []
    rows: list[Row] = [("c9", "A", 0.5, "9" * 16), *first[1:4], ("c4", "B", 0.5, first[4][3])]
    stage(engine, make_frame(rows, "run3"))
    with engine.connect() as connection:
        night.run_id = "run3"
        (words,) = predictions.describe_replaced(connection, night)
        assert words.startswith(
            "candidates.sql: of the 5 candidates of the night as it was 1 are gone from those that"
            " replace them, and 1 have moved to another variant."
        )
        for change in ({"dry_run": True}, {"run_date": NIGHT + timedelta(days=2)}):
            other: Any = SimpleNamespace(**{**vars(night), **change})
            assert predictions.describe_replaced(connection, other) == []


def test_describe_replaced_counts_who_has_another_prediction(engine: sa.Engine) -> None:
    """Of four of A one has another, one by rounding alone; of B and control nobody has."""
    first: list[Row] = [(f"c{i}", "A", 0.5, f"{i:016}") for i in range(4)]
    first += [("c4", "B", 0.2, "4" * 16), ("c5", "control", NAN, "5" * 16)]
    stage(engine, make_frame(first))
    publish(engine, A=1)
    night = make_night("run2")
    night.dry_run = False
    night.experiment.query = lambda name: Query(f"{name}.sql", "")
    again: list[Row] = [("c0", "A", 0.5 + 1e-8, first[0][3]), ("c1", "A", 0.501, first[1][3])]
    stage(engine, make_frame([*again, *first[2:]], "run2"))
    with engine.connect() as connection:
        (words,) = predictions.describe_replaced(connection, night)
    assert words.startswith(
        "candidates.sql: of the 6 candidates of the night as it was 1 have another prediction now,"
        " by the same model: their features have changed."
    )
    night.run_id = "run3"  # by a model that is trained anew
    other = make_frame([(*row[:2], 0.7, row[3]) for row in first], "run3")
    stage(engine, other.replace({"model_name": {"modelA_v1.0_2026-08-31": "modelA_v1.0_new"}}))
    with engine.connect() as connection:
        (words,) = predictions.describe_replaced(connection, night)
    assert "6 candidates of the night as it was 1 have another prediction" in words  # of B


def test_read_replaced_after_a_night_was_done_again(engine: sa.Engine) -> None:
    """Twice: c0 has gone, c4 has moved, c9 is new, c1 had gone and is there as at first."""
    rows: list[Row] = [(f"c{i}", "A", 0.5, f"{i:016}") for i in range(5)]
    moved: Row = ("c4", "B", 0.5, rows[4][3])
    new: Row = ("c9", "A", 0.5, "9" * 16)
    before = NIGHT - timedelta(days=1)
    for run_id, night, kept in (
        ("run0", before, rows),
        ("run1", NIGHT, rows),
        ("run2", NIGHT, [*rows[2:4], moved]),
        ("run3", NIGHT, [*rows[1:4], moved, new]),
    ):
        stage(engine, make_frame(kept, run_id, night))
        publish(engine, run_id, night, A=1)
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
