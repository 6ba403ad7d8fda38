"""Features: types by value, and columns as a diff.

Frames do not depend on what the driver made of a chunk.
"""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from pandas.api.types import is_numeric_dtype

from abatch.errors import DataError
from abatch.modelling.features import (
    CAST,
    COUNT,
    LEAVE,
    check_columns,
    check_null_columns,
    code,
    decode,
    find_doubts,
    infer_types,
)
from abatch.queries import Query
from abatch.statistics.references import FeatureReference

QUERY = Query("q.sql", "")


def read(values: Sequence[object]) -> pd.DataFrame:
    """One column as `reading.stream_query` makes it of a driver's rows."""
    return pd.DataFrame.from_records([(value,) for value in values], columns=["x"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], "number"),
        ([1, None], "number"),
        ([1.5, float("nan")], "number"),
        ([Decimal("1.50"), None], "number"),
        ([Decimal("1.50"), 2, 0.5, None, True], "number"),
        ([True, False], "number"),
        ([True, None], "number"),
        ([2**70, 1], "number"),
        (["Ærø", "日本", None], "category"),
        (["1", "2"], "category"),
        (["", None], "category"),
    ],
)
def test_infer_types_by_value(values: list[object], expected: str) -> None:
    assert infer_types(read(values)) == {"x": expected}


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([None, None], "only nulls"),
        ([float("nan")], "only nulls"),
        ([], "only nulls"),
        ([date(2026, 1, 31), None], "dates; turn them into a number of days in the query"),
        ([datetime(2026, 1, 31), None], "dates; turn them into a number of days in the query"),
        ([b"\x00", None], "values of type bytes; cast them to numbers or to text in the query"),
        (["a", 1, None], "values of type int, str; cast them to numbers or to text in the query"),
        (
            ["a", date(2026, 1, 31)],
            "values of type date, str; cast them to numbers or to text in the query",
        ),
        ([UUID(int=1)], "values of type UUID; cast them to numbers or to text in the query"),
    ],
)
def test_infer_types_unusable(values: list[object], fault: str) -> None:
    with pytest.raises(DataError) as error, QUERY.named():
        infer_types(read(values))
    assert (
        str(error.value)
        == "q.sql: these columns cannot be features. Mend or leave them out in the query.\n  x:"
        f" {fault}"
    )


@pytest.mark.parametrize("dtype", ["str", "object", "string"])
def test_infer_types_text_of_any_dtype(dtype: str) -> None:
    assert infer_types(pd.DataFrame({"x": pd.Series(["a", None], dtype=dtype)})) == {
        "x": "category"
    }


def test_infer_types_lists_all_faults() -> None:
    frame = pd.DataFrame({"good": [1], "empty": [None], "day": [date(2026, 1, 1)]})
    with pytest.raises(DataError) as error, QUERY.named():
        infer_types(frame)
    assert [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]] == [
        "empty",
        "day",
    ]


def test_infer_types_no_columns() -> None:
    message = r"^q\.sql: returns no feature columns\. Name at least one beside candidate_id"
    with pytest.raises(DataError, match=message), QUERY.named():
        infer_types(pd.DataFrame(index=range(3)))


def test_check_columns_as_a_diff() -> None:
    types = {"age": "number", "region": "category"}
    check_columns(["region", "age"], types, "modelA_v1.0_2026-11-23")
    with pytest.raises(DataError) as error, QUERY.named():
        check_columns(["age", "regio", "limit"], types, "modelA_v1.0_2026-11-23")
    assert str(error.value).splitlines() == [
        (
            "q.sql: the columns differ from what modelA_v1.0_2026-11-23 was trained on."
            " Mend the query, or train anew with the same columns in both queries."
        ),
        "  - region (trained on, now missing) Did you mean 'regio'?",
        "  + regio (additional)",
        "  + limit (additional)",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["Ærø", None, "日本"], ["Ærø", None, "日本"]),
        ([None, None], [None, None]),
        ([], []),
    ],
)
def test_convert_category(values: list[object], expected: list[str | None]) -> None:
    found = decode(code(read(values), {"x": "category"}))["x"]
    assert found.dtype == object
    assert found.astype(object).where(found.notna(), None).tolist() == expected
    assert all(
        isinstance(value, float) for value in found if not isinstance(value, str)
    )  # null is NaN, never None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None], [1.0, np.nan]),
        ([None, None], [np.nan, np.nan]),
        ([Decimal("1.25"), None, Decimal("NaN")], [1.25, np.nan, np.nan]),
        ([True, None, False], [1.0, np.nan, 0.0]),
        ([Decimal("0.1"), 2, True, np.float32(0.5)], [0.1, 2.0, 1.0, 0.5]),
        ([2**63], [9223372036854775808.0]),
        ([], []),
    ],
)
def test_convert_number(values: list[object], expected: list[float]) -> None:
    found = decode(code(read(values), {"x": "number"}))["x"]
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([7, 12], "expected text, found 7, 12 in 2 of 2 rows"),
        (["7", 7.5, None], "expected text, found 7.5 in 1 of 3 rows"),
        ([Decimal("7.00"), None], "expected text, found Decimal('7.00') in 1 of 2 rows"),
        ([True, "yes"], "expected text, found True in 1 of 2 rows"),
        ([b"web"], "expected text, found b'web' in 1 of 1 rows"),
    ],
)
def test_convert_no_category(values: list[object], fault: str) -> None:
    with pytest.raises(DataError) as error, QUERY.named():
        decode(code(read(values), {"x": "category"}))
    assert (
        str(error.value)
        == "q.sql: these columns are not of the type that was trained on. Mend the query.\n  x:"
        f" {fault}"
    )


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (
            ["1.5", None],
            "expected numbers, found '1.5' in 1 of 2 rows",
        ),  # text is text, whatever it says
        ([1, "n/a", Decimal(2), "?"], "expected numbers, found 'n/a', '?' in 2 of 4 rows"),
        (
            [date(2026, 1, 31), None],
            "expected numbers, found datetime.date(2026, 1, 31) in 1 of 2 rows",
        ),
        (
            [datetime(2026, 1, 31)],
            "expected numbers, found Timestamp('2026-01-31 00:00:00') in 1 of 1 rows",
        ),
        ([b"12"], "expected numbers, found b'12' in 1 of 1 rows"),
        ([1.0, float("-inf"), float("inf")], "infinity in 2 of 3 rows"),
        ([Decimal("Infinity"), 1], "infinity in 1 of 2 rows"),
        ([10**400], "infinity in 1 of 1 rows"),
        (
            [1.0, -1e150, 1e99, None],
            "numbers beyond 1e+38 in 2 of 4 rows, such as -1e+150, with which no model can reckon",
        ),
    ],
)
def test_convert_no_number(values: list[object], fault: str) -> None:
    with pytest.raises(DataError) as error, QUERY.named():
        decode(code(read(values), {"x": "number"}))
    assert (
        str(error.value)
        == "q.sql: these columns are not of the type that was trained on. Mend the query.\n  x:"
        f" {fault}"
    )


def test_convert_order_and_index_of_the_model() -> None:
    frame = pd.DataFrame({"extra": [0, 0], "region": ["a", None], "age": [30, 40]}, index=[7, 3])
    found = decode(code(frame, {"age": "number", "region": "category"}))
    assert list(found.columns) == ["age", "region"]
    assert list(found.index) == [7, 3]


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 8])
def test_convert_does_not_depend_on_the_chunk(chunk_rows: int) -> None:
    rows = [
        (1, "a", "7", True),
        (None, None, "7", None),
        (Decimal("2.5"), None, None, None),
        (None, "Ærø", None, False),
        (3, "b", "9", True),
        (4, None, "10", True),
        (None, None, None, None),
        (None, "日本", "11", None),
    ]
    types = {"amount": "number", "region": "category", "code": "category", "flag": "number"}
    chunks = [
        decode(
            code(pd.DataFrame.from_records(rows[i : i + chunk_rows], columns=list(types)), types)
        )
        for i in range(0, len(rows), chunk_rows)
    ]
    assert {tuple(chunk.dtypes) for chunk in chunks} == {
        (np.dtype("float64"), np.dtype(object), np.dtype(object), np.dtype("float64"))
    }
    expected = pd.DataFrame(
        {
            "amount": [1.0, np.nan, 2.5, np.nan, 3.0, 4.0, np.nan, np.nan],
            "region": pd.Series(
                ["a", np.nan, np.nan, "Ærø", "b", np.nan, np.nan, "日本"], dtype=object
            ),
            "code": pd.Series(["7", "7", np.nan, np.nan, "9", "10", np.nan, "11"], dtype=object),
            "flag": [1.0, np.nan, np.nan, 0.0, 1.0, 1.0, np.nan, np.nan],
        }
    )
    pd.testing.assert_frame_equal(pd.concat(chunks, ignore_index=True), expected)


def test_infer_types_of_chunks_put_together() -> None:
    whole = pd.concat(
        [read(part) for part in ([None, None], [1, 2], [Decimal("1.5")], [True, None])],
        ignore_index=True,
    )
    assert infer_types(whole) == {"x": "number"}
    whole = pd.concat([read(part) for part in ([None], ["a", None], ["b"])], ignore_index=True)
    assert infer_types(whole) == {"x": "category"}


def look_at(X: pd.DataFrame, candidate_ids: pd.Series) -> dict[str, str]:
    """Doubts of columns of numbers and texts."""
    is_number = {name: is_numeric_dtype(column) for name, column in X.items()}
    types = {str(name): "number" if known else "category" for name, known in is_number.items()}
    return find_doubts(code(X, types), candidate_ids)


def test_find_doubts() -> None:
    """Each column has what its name says; the counts are by hand."""
    n = 200
    X = pd.DataFrame(
        {
            "account": [float(9_000 + i) for i in range(n)],  # the candidate_id
            "order": [float(i // 3 + i) for i in range(n)],
            "down": [float(-i) for i in range(n)],
            "letter": [f"Dear customer {i // 2 + i % 2}" for i in range(n)],  # 101 values
            "phone": [f"+47 {i:08}" for i in range(n)],
            "amount": [f"1.{i:03},50" for i in range(n)],
            "postcode": [f"{i % 40:04}" for i in range(n)],
            "region": ["north", "south"] * 100,
            "rare": [None] * 160 + [f"note {i}" for i in range(40)],
            "income": [1e4 + i / 7 for i in range(n)],  # no whole numbers
            "units": [float(i % 150) for i in range(n)],
            "country": ["NO"] * n,
            "age": [50.0] * n,
            "flag": [1.0] * 50 + [None] * 150,  # null says something, too
        }
    )
    assert look_at(X.astype({"rare": object}), pd.Series([str(9_000 + i) for i in range(n)])) == {
        "country": "1 value in 200 rows, 'NO', of which no model learns. Leave it out",
        "age": "1 value in 200 rows, 50.0, of which no model learns. Leave it out",
        "account": "200 values in 200 rows, which are the candidate_id. Leave it out",
        "order": "200 values in 200 rows, which count in the order of the candidate_id."
        " Leave it out",
        "letter": "101 values in 200 rows: text or an id, of which no model learns. Leave it out",
        "phone": "200 values in 200 rows: text or an id, of which no model learns. Leave it out",
        "amount": "200 values in 200 rows, which are numbers as text, such as '1.000,50'."
        " Cast it to a number, or leave it out",
    }


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("{}", "which are the candidate_id"),
        ("{}.5", "which are the candidate_id"),
        ("{:04}", "which count in the order of the candidate_id"),  # another text, the same number
        ("{}.0", "which count in the order of the candidate_id"),
        ("x{}", None),
    ],
)
def test_find_doubts_compares_numbers_with_ids_as_text(written: str, told: str | None) -> None:
    """Whole numbers as 7, others as 7.5; one in fifty is another number."""
    ids = [written.format(i) for i in range(200)]
    values = [float(text) if text[-2:] == ".5" else float(text.strip("x")) for text in ids]
    if told and "are the" in told:
        values[::50] = [-1.0] * 4
    doubts = look_at(pd.DataFrame({"x": values}), pd.Series(ids))
    assert ("x" in doubts) == bool(told)
    assert (told or "") in doubts.get("x", "")


@pytest.mark.parametrize(
    ("spelling", "is_day"),
    [
        ("%d/%m/%Y 00:00", True),
        ("%d.%m.%Y", True),
        ("%m/%d/%y", True),
        ("%m/%d/%Y %I:%M:%S %p", True),
        ("%Y%m%d", True),
        ("%d-%b-%Y", True),
        ("%d%b%Y", True),
        ("%B %d, %Y", True),
        ("%Y-%m-%dT%H:%M:%S", True),
        ("%Y-%m", False),
        ("%b %Y", False),
        ("%Y%m", False),
        ("%H:%M", False),
        ("week %W", False),
        ("2%d%m%Y", False),
    ],
)
def test_find_doubts_of_dates_as_text(spelling: str, is_day: bool) -> None:
    """As `strftime` writes thirty days of one autumn, few as they are; one is another word."""
    days = pd.date_range("2021-09-12", periods=30, freq="D").strftime(spelling)
    X = pd.DataFrame({"since": [*days, "unknown", None]}, dtype=object)
    doubts = look_at(X, pd.Series(map(str, range(32))))
    told = f"31 values in 31 rows, which are dates as text, such as {days[0]!r}. {COUNT}"
    assert doubts == ({"since": told} if is_day else {})


def test_find_doubts_of_whole_numbers_as_text() -> None:
    """With many values a number, with few a code, as a postcode is."""
    X = pd.DataFrame(
        {"income": [f"{i * 37}" for i in range(500)], "zip": [f"{i % 50}" for i in range(500)]}
    )
    assert look_at(X.astype(object), pd.Series(["a"] * 500)) == {
        "income": "500 values in 500 rows, which are numbers as text, such as '0'."
        " Cast it to a number, or leave it out"
    }


@pytest.mark.parametrize(
    ("spelling", "unit"),
    [
        ("{} %", "%"),
        ("{}%", "%"),
        ("{},5 kr", "kr"),
        ("45 {:03} kr", "kr"),
        ("NOK {}", "NOK"),
        ("kr. {},50", "kr."),
        ("$1,{:03}.00", "$"),
        ("-{} km/h", "km/h"),
        ("{} years", "years"),
        ("Zone {}", None),
        ("K{}", None),
        ("NO{:04}", None),
        ("{:04}-A", None),
        ("{:03} North St", None),  # of which the street differs, see below
    ],
)
@pytest.mark.parametrize("n_values", [9, 10, 60])
def test_find_doubts_of_numbers_with_a_unit(n_values: int, spelling: str, unit: str | None) -> None:
    """Of so many values, each in ten rows or more, that a model could learn as codes."""
    texts = [spelling.format(i % n_values + 1) for i in range(600)]
    if "St" in spelling:
        texts = [text.replace("North", f"{'ABC'[i % 3]}way") for i, text in enumerate(texts)]
    doubts = look_at(pd.DataFrame({"x": texts}, dtype=object), pd.Series(["a"] * 600))
    told = f"{n_values} values in 600 rows, which are numbers with the unit {unit!r} as text, such"
    is_told = unit and n_values >= 10
    assert doubts == ({"x": f"{told} as {texts[0]!r}. {CAST}"} if is_told else {})


@pytest.mark.parametrize(
    ("n_values", "is_told"), [(1_000, True), (750, True), (300, False), (60, False)]
)
def test_find_doubts_of_ids_with_a_few_rows_each(n_values: int, is_told: bool) -> None:
    """A phone number of three or four rows is rare, and all are; a postcode of ten is not."""
    X = pd.DataFrame({"x": [f"+47 {i % n_values:04}" for i in range(3_000)]}, dtype=object)
    told = f"{n_values:,} values in 3,000 rows: text or an id, of which no model learns. {LEAVE}"
    assert look_at(X, pd.Series(["a"] * 3_000)) == ({"x": told} if is_told else {})


def test_find_doubts_spares_what_has_common_values(rng: np.random.Generator) -> None:
    """Postcodes, 600 in 3,000 rows: a tenth of the rows and more are in those of ten rows."""
    shares = 1 / np.arange(1, 601) ** 0.5
    codes = rng.choice(600, 3_000, p=shares / shares.sum())
    X = pd.DataFrame({"postcode": [f"N-{code}" for code in codes]}, dtype=object)
    rare = X["postcode"].value_counts()
    assert rare[rare < 10].sum() < 0.9 * 3_000
    assert look_at(X, pd.Series(["a"] * 3_000)) == {}


def test_check_null_columns() -> None:
    """A value in 3 % of rows is missing in a night of 25 with a chance of .97 ** 25 = 47 %."""
    references = [
        {
            "age": FeatureReference("number", [], [998, 0], []),
            "rare": FeatureReference("number", [], [29, 969], []),
            "half": FeatureReference("category", ["a"], [499, 0, 499], []),
        }
    ]
    check_null_columns(25, {"age": 1, "rare": 0, "region": 0}, references)
    check_null_columns(453, {"age": 1, "rare": 0}, references)  # .97 ** 453 is 1.02e-6
    check_null_columns(19, {"half": 0}, references)  # 1 in 524,288
    check_null_columns(1, {"age": 0}, references)  # one null in 1,000 may come on any night
    with pytest.raises(DataError, match=r"rare: a value in 3\.0% of the training rows"):
        check_null_columns(454, {"age": 1, "rare": 0}, references)
    # the newer of two models knows nulls
    newer = {"age": FeatureReference("number", [], [500, 498], [])}
    check_null_columns(19, {"age": 0}, [*references, newer])
    with pytest.raises(DataError) as error, QUERY.named():
        check_null_columns(20, {"age": 0, "rare": 1, "half": 0}, references)
    assert str(error.value) == (
        "q.sql: these columns hold only nulls in all 20 rows. Mend the query or the load.\n"
        "  age: a value in 99.9% of the training rows\n"
        "  half: a value in 50.0% of the training rows"
    )
