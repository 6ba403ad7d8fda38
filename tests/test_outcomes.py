from datetime import date, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from abatch.database.reading import read_query
from abatch.errors import DataError
from abatch.experiment import outcomes
from abatch.experiment.outcomes import (
    Metric,
    find_cohort,
    find_last_day,
    iterate_cohorts,
    last_mature_date,
    parse_dates,
    parse_outcomes,
    prepare,
    read_watermark,
)
from abatch.queries import Query, Window
from abatch.sections import Outcome

NIGHT = date(2026, 9, 1)
QUERY = Query("outcomes.sql", "select 1")
BINARY = Outcome(kind="binary", window_days=14, lag_days=1, expected_effect=0.01)
NUMERIC = Outcome(kind="numeric", window_days=14, lag_days=1, expected_effect=0.01)


def make_predictions(*rows: tuple[str, date]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["candidate_id", "run_date"]).astype(
        {"run_date": "datetime64[s]"}
    )


def make_feed(*rows: tuple[object, object, object]) -> pd.DataFrame:
    return pd.DataFrame.from_records(rows, columns=["candidate_id", "event_date", "outcome"])


def attach(
    predictions: pd.DataFrame, feed: pd.DataFrame, window_days: int, metric: Metric
) -> np.ndarray:
    events = outcomes.find_events(feed, metric.kind)
    fed = outcomes.Feed("outcome", metric, QUERY, events, len(feed))
    return outcomes.attach(predictions, fed, window_days)


def read(engine: sa.Engine, sql: str) -> date | None:
    def pull(query: Query, window: Window) -> pd.DataFrame:
        return read_query(engine, query, window, datetime(2026, 9, 7, 23, 59, 30))

    experiment = SimpleNamespace(query=lambda name: Query(f"{name}.sql", sql))
    night: Any = SimpleNamespace(pull=pull, experiment=experiment, run_date=NIGHT)
    return read_watermark(night)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select '2026-09-01' as watermark", NIGHT),
        ("select '2026-09-01T23:59:59' as watermark", NIGHT),
        (
            "select :to_date as watermark",
            date(2026, 9, 2),
        ),  # a date on PostgreSQL, text on SQLite; the bind is the day after
        (
            "select :as_of as watermark",
            date(2026, 9, 7),
        ),  # a timestamp on PostgreSQL, text on SQLite
        ("select null as watermark", None),
        ("select cast(null as date) as watermark", None),
        ("select :to_date as watermark where 1 = 0", None),
    ],
)
def test_read_watermark_one_date_or_none(
    engine: sa.Engine, sql: str, expected: date | None
) -> None:
    found = read(engine, sql)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "select :from_date as d union all select :to_date",
            r"watermark\.sql: returned 2 rows of 1 columns; expected one date\.",
        ),
        (
            "select :from_date as d, :to_date as e",
            r"watermark\.sql: returned 1 rows of 2 columns; expected one date\.",
        ),
        (
            "select 'soon' as watermark",
            r"watermark\.sql: watermark holds a value that is not a date \(found 'soon'\)",
        ),
        (
            "select 20260901 as watermark",
            r"watermark\.sql: watermark holds a value that is not a date \(found 20260901\)",
        ),
    ],
)
def test_read_watermark_refuses(engine: sa.Engine, sql: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(engine, sql)


def test_last_mature_date_window_and_lag() -> None:
    # The window of 1 September holds the fourteen days to 14 September; one day of lag after 15
    # September ends on the 16th.
    assert last_mature_date(date(2026, 9, 16), BINARY) == NIGHT
    short = BINARY.model_copy(update={"window_days": 1, "lag_days": 0})
    assert last_mature_date(date(2026, 3, 1), short) == date(2026, 2, 28)


@pytest.mark.parametrize(("day", "counts"), [(-1, 0), (0, 1), (1, 1), (13, 1), (14, 0), (15, 0)])
def test_attach_window_edges(day: int, counts: int) -> None:
    feed = make_feed(("1", NIGHT + timedelta(days=day), 1))
    assert attach(make_predictions(("1", NIGHT)), feed, 14, BINARY).tolist() == [counts]


def test_find_twins_are_ids_of_other_case() -> None:
    """SQL Server takes ab and AB for one in a join.

    Dropping the outcome in silence would be a zero too many.
    """
    events = outcomes.find_events(
        make_feed(("AB", NIGHT, 1), ("AB", NIGHT, 1), ("cd", NIGHT, 1), ("xy", NIGHT, 1)), "binary"
    )
    assert outcomes.find_twins(pd.Index(["ab", "cd"]), events) == {"AB": "ab"}
    assert outcomes.find_twins(pd.Index(["ab", "AB"]), events) == {}
    assert attach(
        make_predictions(("ab", NIGHT), ("AB", NIGHT)), make_feed(("AB", NIGHT, 1)), 14, BINARY
    ).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("predicted", "event", "is_twin"),
    [
        ("42", "00000042", True),
        ("0042", "42", True),
        ("7" * 30, "00" + "7" * 30, True),
        ("42", "42.0", True),
        ("1420", "142.0", False),
        ("C07204", "7204", True),
        ("7204", "DK-0007204", True),
        ("0a1b2c3d-0000", "{0A1B2C3D0000}", True),
        ("NO 123", "no123", True),
        ("109008", "109008-1", True),
        ("109008-01", "109008", True),
        ("9083", "CU-009083/1", True),
        ("1001-1", "1001-2", False),  # another account of the same person
        ("109008", "1.09008e+05", True),
        ("C109008", "1.09008E5", True),
        ("123456789", "1.23457e+08", False),  # which of a thousand it was is lost
        ("3000", "3e3", False),
        ("a42", "b42", False),  # by their digits these candidates are not told apart
        ("C00000168", "1fcaded6dde8", False),  # digits among letters
        ("P000006", "B000006", True),
        ("abc", "abd", False),
        ("42", "43", False),
    ],
)
def test_find_twins_written_otherwise(predicted: str, event: str, is_twin: bool) -> None:
    candidates = pd.Index([predicted, "x42", "y42"] if event == "b42" else [predicted, "77"])
    events = outcomes.find_events(make_feed((event, NIGHT, 1), ("99", NIGHT, 1)), "binary")
    expected = {event: predicted} if is_twin else {}
    assert outcomes.find_twins(candidates, events) == expected


def test_find_twins_are_not_the_numbers_of_others() -> None:
    """Persons are found as they are written; companies have numbers of the same range."""
    rows = [(name, NIGHT, 1) for name in ("P000006", "B000006", "B000007", "p-000007")]
    events = outcomes.find_events(make_feed(*rows), "binary")
    persons = pd.Index(["P000006", "P000007"])
    assert outcomes.find_twins(persons, events) == {"p-000007": "P000007"}


def test_find_twins_by_the_fold_that_finds_the_most() -> None:
    """With a suffix 1001 to 1009 look like 10011 to 10091, which are candidates, too."""
    ids = [str(i) for i in range(1001, 20_000)]
    rows = [(f"{name}-1", NIGHT, 1) for name in ids]
    events = outcomes.find_events(make_feed(*rows), "binary")
    assert outcomes.find_twins(pd.Index(ids), events) == {f"{name}-1": name for name in ids}


def test_attach_late_hour_of_the_last_day_counts() -> None:
    feed = make_feed(
        ("1", datetime(2026, 9, 14, 23, 59, 59), 1), ("2", datetime(2026, 9, 15, 0, 0), 1)
    )
    assert attach(make_predictions(("1", NIGHT), ("2", NIGHT)), feed, 14, BINARY).tolist() == [1, 0]


def test_attach_each_prediction_of_a_candidate_has_its_own_window() -> None:
    nights = [NIGHT + timedelta(days=days) for days in (0, 7, 14, 21)]
    predictions = make_predictions(*(("1", night) for night in nights), ("2", NIGHT)).iloc[
        ::-1
    ]  # any index, any order
    feed = make_feed(
        (1, "2026-09-15", 1), (1, "2026-09-15", 1), (1, "2026-09-20", 1), (3, "2026-09-02", 1)
    )
    # 15 September is day 14 of the first night, 7 of the second, 0 of the third; 20 September is
    # before the fourth.
    assert attach(predictions, feed, 14, BINARY).tolist() == [0, 0, 1, 1, 0]


def test_attach_outcome_zero_and_empty_feed() -> None:
    predictions = make_predictions(("1", NIGHT), ("2", NIGHT))
    feed = make_feed(("1", NIGHT, 0), ("2", NIGHT, 0), ("2", NIGHT, 1))
    assert attach(predictions, feed, 14, BINARY).tolist() == [0, 1]
    assert attach(predictions, make_feed(("1", NIGHT, 0)), 14, BINARY).tolist() == [0, 0]
    assert attach(predictions, pd.DataFrame(), 14, BINARY).tolist() == [0, 0]
    assert attach(predictions.iloc[:0], feed, 14, BINARY).tolist() == []


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 30)), max_size=12),
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(-5, 40), st.integers(0, 1)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 20),
)
def test_attach_equals_plain_loop(
    units: list[tuple[int, int]], events: list[tuple[int, int, int]], window_days: int
) -> None:
    predictions = make_predictions(*((str(who), NIGHT + timedelta(days=day)) for who, day in units))
    feed = make_feed(*((who, NIGHT + timedelta(days=day), outcome) for who, day, outcome in events))
    expected = [
        int(
            any(
                who == id_ and outcome and 0 <= when - day < window_days
                for id_, when, outcome in events
            )
        )
        for who, day in units
    ]
    assert attach(predictions, feed, window_days, BINARY).tolist() == expected


def test_attach_numeric_by_hand() -> None:
    """Amounts add up within the window, negative ones too.

    Both ends of the window are as of a binary outcome.
    """
    predictions = make_predictions(
        ("1", NIGHT), ("1", NIGHT + timedelta(days=10)), ("2", NIGHT), ("3", NIGHT), ("4", NIGHT)
    )
    feed = make_feed(
        *(
            (1, NIGHT + timedelta(days=day), amount)
            for day, amount in ((-1, 1000), (0, 10), (13, -2.5), (14, 0.125), (24, 5000))
        ),
        (2, NIGHT, Decimal("-7.25")),
        (2, NIGHT, Decimal("3.00")),
        (4, NIGHT, 6),
        (4, NIGHT, -6),
    )
    found = attach(predictions, feed, 14, NUMERIC)
    # The second night sees day 13 as its day 3, 14 as its day 4, and not 24 as its day 14.
    assert found.tolist() == [7.5, -2.375, -4.25, 0.0, 0.0]
    assert found.dtype == np.float64


def test_attach_cap_holds_the_sum_both_ways() -> None:
    predictions = make_predictions(*((who, NIGHT) for who in "1234"))
    feed = make_feed(
        ("1", NIGHT, 80),
        ("1", NIGHT, 80),
        ("2", NIGHT, -300),
        ("3", NIGHT, 99.5),
        ("4", NIGHT, 500),
        ("4", NIGHT, -450),
    )
    assert attach(predictions, feed, 14, NUMERIC.model_copy(update={"cap": 100.0})).tolist() == [
        100.0,
        -100.0,
        99.5,
        50.0,
    ]
    assert attach(predictions, feed, 14, NUMERIC).tolist() == [160.0, -300.0, 99.5, 50.0]


def test_attach_kind_decides_what_is_refused() -> None:
    predictions, feed = make_predictions(("1", NIGHT)), make_feed(("1", NIGHT, 2.5))
    message = r"^outcomes\.sql: outcome holds 2\.5 in 1 of 1 rows; expected 0 or 1\."
    with pytest.raises(DataError, match=message), QUERY.named():
        attach(predictions, feed, 14, BINARY)
    with (
        pytest.raises(DataError, match=r"^calls\.sql: outcome holds 2\.5"),
        Query("calls.sql", "select 1").named(),
    ):
        attach(predictions, feed, 14, BINARY)
    assert attach(predictions, feed, 14, NUMERIC).tolist() == [2.5]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 30)), max_size=12),
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(-5, 40), st.integers(-9, 9)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 20),
    st.sampled_from([None, 1.0, 5.0]),
)
def test_attach_numeric_equals_plain_loop(
    units: list[tuple[int, int]],
    events: list[tuple[int, int, int]],
    window_days: int,
    cap: float | None,
) -> None:
    predictions = make_predictions(*((str(who), NIGHT + timedelta(days=day)) for who, day in units))
    feed = make_feed(*((who, NIGHT + timedelta(days=day), amount) for who, day, amount in events))
    sums = [
        sum(amount for id_, when, amount in events if who == id_ and 0 <= when - day < window_days)
        for who, day in units
    ]
    expected = [total if cap is None else max(-cap, min(cap, total)) for total in sums]
    assert (
        attach(predictions, feed, window_days, NUMERIC.model_copy(update={"cap": cap})).tolist()
        == expected
    )


@pytest.mark.parametrize(
    ("day", "unit", "first", "last"),
    [
        ("2026-09-07", "week", "2026-09-07", "2026-09-13"),  # a Monday
        ("2026-09-13", "week", "2026-09-07", "2026-09-13"),
        ("2026-01-01", "week", "2025-12-29", "2026-01-04"),
        ("2024-02-10", "month", "2024-02-01", "2024-02-29"),  # a leap year
        (
            "2100-02-28",
            "month",
            "2100-02-01",
            "2100-02-28",
        ),  # none, as 100 divides it and 400 does not
        ("2026-09-30", "month", "2026-09-01", "2026-09-30"),
        ("2026-12-31", "month", "2026-12-01", "2026-12-31"),
    ],
)
def test_find_cohort_and_its_last_day(day: str, unit: str, first: str, last: str) -> None:
    found = find_cohort(date.fromisoformat(day), unit)
    assert (str(found), str(find_last_day(found, unit))) == (first, last)


@pytest.mark.parametrize("unit", ["week", "month"])
def test_find_last_day_cohorts_leave_no_gap(unit: str) -> None:
    days = [date(2023, 12, 1) + timedelta(days=i) for i in range(500)]
    for day in days:
        last = find_last_day(find_cohort(day, unit), unit)
        assert find_cohort(day, unit) <= day <= last
        assert (
            find_cohort(last, unit)
            == find_cohort(day, unit)
            != find_cohort(last + timedelta(days=1), unit)
        )


def test_iterate_cohorts_weeks_begin_on_monday() -> None:
    nights = [
        date(2026, 1, 4),
        date(2025, 12, 31),
        date(2026, 1, 1),
        date(2026, 1, 5),
        date(2026, 1, 12),
    ]
    assert list(iterate_cohorts(nights, "week")) == [
        [date(2025, 12, 31), date(2026, 1, 1), date(2026, 1, 4)],
        [date(2026, 1, 5)],
        [date(2026, 1, 12)],
    ]


def test_iterate_cohorts_months() -> None:
    nights = [date(2026, 2, 1), date(2026, 1, 31), date(2025, 2, 28), date(2026, 2, 28)]
    assert list(iterate_cohorts(nights, "month")) == [
        [date(2025, 2, 28)],
        [date(2026, 1, 31)],
        [date(2026, 2, 1), date(2026, 2, 28)],
    ]


def test_parse_dates_whatever_the_driver_made_of_them() -> None:
    values = [
        NIGHT,
        datetime(2026, 9, 1, 23, 59),
        pd.Timestamp(2026, 9, 1, 5),
        "2026-09-01",
        " 2026-09-01 ",
        "2026-09-01 12:30:00",
    ]
    found = parse_dates(pd.Series(values, dtype=object, name="event_date"))
    assert found.tolist() == [pd.Timestamp(2026, 9, 1)] * len(values)
    assert parse_dates(pd.Series(pd.to_datetime(["2026-09-01 13:00"]))).tolist() == [
        pd.Timestamp(2026, 9, 1)
    ]


def test_parse_dates_of_texts_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a database without dates returns them: many rows of few days, some of them filtered."""
    texts, parsed = ["2026-09-02", "2026-09-01 12:30:00", "2026-09-02"] * 50, []

    def notice(value: object) -> date:
        parsed.append(value)
        return to_day(value)

    to_day = outcomes._to_day
    monkeypatch.setattr(outcomes, "_to_day", notice)
    column = pd.Series(texts, dtype="str", name="event_date")[1:]
    found = parse_dates(column)
    pd.testing.assert_series_equal(found, parse_dates(column.astype(object)))
    assert found.iloc[:2].tolist() == [pd.Timestamp(2026, 9, 1), pd.Timestamp(2026, 9, 2)]
    assert len(parsed) == 2 + 149
    with pytest.raises(DataError, match=r"not a date \(found nan\)"):
        parse_dates(pd.Series(["2026-09-02", None], dtype="str", name="event_date"))


def test_parse_dates_end_of_time() -> None:
    found = parse_dates(pd.Series([date(9999, 12, 31), date(1, 1, 1), NIGHT], name="event_date"))
    assert [day.date() for day in found] == [date(9999, 12, 31), date(1, 1, 1), NIGHT]


@pytest.mark.parametrize(
    "value", [None, pd.NaT, float("nan"), "", "1.9.2026", 20260901, b"2026-09-01"]
)
def test_parse_dates_refuses(value: object) -> None:
    with (
        pytest.raises(
            DataError,
            match=(
                r"^outcomes\.sql: event_date holds a value that is not a date \(.*\)\."
                r" Expected a date or YYYY-MM-DD\.$"
            ),
        ),
        QUERY.named(),
    ):
        parse_dates(pd.Series([NIGHT, value], dtype=object, name="event_date"))


@pytest.mark.parametrize(
    "values", [[1, 0], [1.0, 0.0], [True, False], [Decimal(1), Decimal("0.00")], [np.int8(1), 0]]
)
def test_parse_outcomes_zero_and_one(values: list[object]) -> None:
    for column in (pd.Series(values), pd.Series(values, dtype=object)):
        assert parse_outcomes(column).tolist() == [1, 0]


@pytest.mark.parametrize("value", [2, -1, 0.5, None, float("nan"), "yes", Decimal("0.1")])
def test_parse_outcomes_refuses(value: object) -> None:
    with (
        pytest.raises(
            DataError,
            match=(
                r"^outcomes\.sql: outcome holds .* in \d of 3 rows; expected 0 or 1\."
                r" .*case when"
            ),
        ),
        QUERY.named(),
    ):
        parse_outcomes(pd.Series([1, value, 0], dtype=object, name="outcome"))


def test_parse_outcomes_tells_each_value_once() -> None:
    column = pd.Series(["No", "Yes", "No", None, "Maybe", "?", "Yes"])
    message = r"^outcome holds 'No', 'Yes', null and 2 others in 7 of 7 rows; expected 0 or 1\."
    with pytest.raises(DataError, match=message):
        parse_outcomes(column)


@pytest.mark.parametrize(
    "values",
    [
        [-12.5, 0, 3e9],
        [Decimal("-12.50"), 0, Decimal("3e9")],
        [np.float32(-12.5), np.int8(0), 3_000_000_000],
    ],
)
def test_parse_outcomes_numeric(values: list[object]) -> None:
    assert parse_outcomes(pd.Series(values, dtype=object), "numeric").tolist() == [
        -12.5,
        0.0,
        3e9,
    ]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "much", Decimal("NaN")])
def test_parse_outcomes_numeric_refuses(value: object) -> None:
    with (
        pytest.raises(
            DataError,
            match=r"^outcomes\.sql: outcome holds .* in \d of 3 rows; expected a number\.",
        ),
        QUERY.named(),
    ):
        parse_outcomes(pd.Series([1, value, 0.5], dtype=object, name="outcome"), "numeric")


def test_parse_outcomes_counts_what_is_wrong() -> None:
    with pytest.raises(DataError, match="holds 2, 3 in 2 of 4 rows"):
        parse_outcomes(pd.Series([1, 2, 0, 3]))


def test_prepare_columns_and_missing_one() -> None:
    found = prepare(make_feed((12.0, "2026-09-01", Decimal(1))).assign(age=[30]))
    assert found.to_dict("records") == [
        {"candidate_id": "12", "event_date": pd.Timestamp(NIGHT), "outcome": 1, "age": 30}
    ]
    with (
        pytest.raises(
            DataError,
            match=(
                r"outcomes\.sql: the column event_date is missing; found .*"
                r"Did you mean 'event_day'\?"
            ),
        ),
        QUERY.named(),
    ):
        prepare(make_feed(("1", NIGHT, 1)).rename(columns={"event_date": "event_day"}))


def test_parse_outcomes_refuses_points_that_may_mark_thousands() -> None:
    with pytest.raises(DataError, match=r"text such as '1\.099', whose point may mark thousands"):
        outcomes.parse_outcomes(pd.Series(["812", "1.099", "-2.000"]), "numeric")
    for values in (["1.5", "1.099"], ["812", "7"], [1.099, 2.5]):
        parsed = outcomes.parse_outcomes(pd.Series(values), "numeric")
        assert parsed.tolist() == [float(value) for value in values]


@pytest.mark.parametrize(
    ("predicted", "event", "found"),
    [
        (["123", "0123", "77", "077"], "123.0", {"123.0": "0123"}),  # all are there twice
        (["1-23", "12-3", "4-56", "45-6"], "x123", {}),  # letters and signs tell them apart
    ],
)
def test_find_twins_of_candidates_under_two_ids(
    predicted: list[str], event: str, found: dict[str, str]
) -> None:
    events = outcomes.find_events(make_feed((event, NIGHT, 1)), "binary")
    assert outcomes.find_twins(pd.Index(predicted), events) == found
