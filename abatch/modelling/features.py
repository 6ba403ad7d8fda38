"""Features: what a query must return, column by column, before a model may see it.

Two types are enough for tables: `number` (integers, decimals, floats, true and false) and
`category` (text).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from numbers import Real

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from abatch.errors import DataError, suggest
from abatch.statistics.references import FeatureReference
from abatch.statistics.words import list_values, show_value

NUMBER, CATEGORY = "number", "category"
CHANCE = 1e-6  # of a night in which a column holds only nulls; below it, something is broken
MIN_ROWS = 10  # a category with fewer is rare
FEW_VALUES, MOST = 50, 0.95  # as many, and so large a share, are no accident
FEW_NUMBERS = 10  # different ones behind or before one unit
UNUSABLE = "cannot be features. Mend or leave them out in the query."
OTHER_TYPE = "are not of the type that was trained on. Mend the query."
LEAVE, CAST = "Leave it out", "Cast it to a number, or leave it out"
COUNT = "Turn it into a number of days, or leave it out"
DATES = "dates; turn them into a number of days in the query"
_TYPES: dict[str, tuple[type, ...]] = {NUMBER: (Real, Decimal, np.bool_), CATEGORY: (str,)}
_DECIMAL = r"\s*[-+]?\d[\d\s]*[.,][\d.,\s]*"  # no code, but a number with some separator
_NUMBER = rf"{_DECIMAL}|\s*[-+]?\d+\s*"
# A sign or a currency before it, as "Zone 12" has not, or a unit behind it, as "0123-A" has not.
_AMOUNT = r"[-+]?\d[\d\s.,']*"
_BEFORE, _BEHIND = (
    r"[$€£¥₹]|(?:[Kk]r\.?|Rs\.?|[A-Z]{3})\s",
    r"\s*[%‰°$€£¥₹]|\s*[^\W\d][^\d,;-]{0,14}",
)
_WITH_UNIT = rf"^(?:({_BEFORE})\s*{_AMOUNT}|{_AMOUNT}({_BEHIND}))$"
_ISO_DATE = r"\d{4}-\d\d-\d\d(?:[ T]|$)"
_TIME = r"(?:T|,?\s+)\d{1,2}[:.]\d\d.*$"  # behind a day
# What text may say a day by, its separators as blanks.
_DAYS = ["%d %m %Y", "%m %d %Y", "%Y %m %d", "%d %m %y", "%m %d %y", "%d%b%Y"]
_DAYS += ["%d %b %Y", "%b %d %Y", "%d %B %Y", "%B %d %Y"]
YEARS = (1900, 2100)  # else text is no day
N_PARSED = 1_000  # values of a column, at most, that are tried as days
LARGEST = 1e38  # trees reckon in single precision, which ends there


def infer_types(frame: pd.DataFrame) -> dict[str, str]:
    """The type of each feature column of the training rows, by its values, not by the driver's.

    Raises
    ------
    DataError
        If a column holds only nulls, or dates, bytes or a mixture, of which no model can make
        sense; all are listed.
    """
    types = {str(name): _infer_type(column) for name, column in frame.items()}
    refuse_columns({name: kind for name, kind in types.items() if kind not in (NUMBER, CATEGORY)})
    if not types:
        raise DataError(
            "returns no feature columns. Name at least one beside candidate_id,"
            " event_date and outcome."
        )
    return types


def refuse_columns(faults: Mapping[str, str], problem: str = UNUSABLE) -> None:
    """Raise DataError if there are columns of which no use can be made.

    Parameters
    ----------
    faults : what is wrong with each
    problem : with all of them, and the mend
    """
    if faults:
        lines = "\n".join(f"  {name}: {fault}" for name, fault in faults.items())
        raise DataError(f"these columns {problem}\n{lines}")


def tell_kinds(values: pd.Series) -> str:
    """What is wrong with values that are neither all numbers nor all text."""
    kinds = ", ".join(sorted({type(value).__name__ for value in values}))
    return f"values of type {kinds}; cast them to numbers or to text in the query"


def _infer_type(column: pd.Series) -> str:
    values = column.dropna()
    if values.empty:
        return "only nulls"
    if pd.api.types.is_numeric_dtype(column):
        return NUMBER
    if pd.api.types.infer_dtype(values) == "string":
        # SQLite has no dates but text. One that is none is found soon.
        is_date = all(part.str.match(_ISO_DATE).all() for part in (values[:1], values))
        return DATES if is_date else CATEGORY
    if all(isinstance(value, _TYPES[NUMBER]) for value in values):
        return NUMBER
    if all(isinstance(value, date) for value in values):
        return DATES
    return tell_kinds(values)


def find_doubts(X: pd.DataFrame, candidate_ids: pd.Series) -> dict[str, str]:
    """What is the matter with features that can be used, but hardly are what was meant, by name.

    And the mend.

    Parameters
    ----------
    X : as `code` makes it, n rows
    candidate_ids : of the same rows
    """
    ids = _read_numbers(candidate_ids)
    doubts = {str(name): _doubt(column, candidate_ids, ids) for name, column in X.items()}
    return {name: doubt for name, doubt in doubts.items() if doubt}


def _doubt(column: pd.Series, candidate_ids: pd.Series, ids: np.ndarray) -> str | None:
    """What is the matter with one feature; `ids` are the candidate_ids as numbers, or nan."""
    filled, is_number = column.notna().to_numpy(), pd.api.types.is_numeric_dtype(column)
    values = column[filled]
    n_rows = pd.Series() if is_number else values.value_counts(sort=False)  # texts repeat
    n, n_values = len(values), len(pd.unique(values.to_numpy()) if is_number else n_rows)
    found = f"{n_values:,} {'value' if n_values == 1 else 'values'} in {n:,} rows"
    example = ", ".join(map(show_value, values[:1].tolist()))
    if not is_number and _are_days(n_rows.index):
        return f"{found}, which are dates as text, such as {example}. {COUNT}"
    if n_values == 1 and n == len(column):
        return f"{found}, {example}, of which no model learns. {LEAVE}"
    if n < FEW_VALUES or n_values < FEW_NUMBERS:
        return None
    if not is_number and (unit := _find_unit(n_rows)):
        numbers = f"which are numbers with the unit {unit!r} as text, such as {example}"
        return f"{found}, {numbers}. {CAST}"
    if n_values < FEW_VALUES:
        return None
    if _are_ids(values, candidate_ids, ids, filled):
        return f"{found}, which are the candidate_id. {LEAVE}"
    if n_values == n and _is_counter(values, ids[filled]):
        return f"{found}, which count in the order of the candidate_id. {LEAVE}"
    doubt = None if is_number else _doubt_text(n_rows, example)
    return f"{found}{doubt}" if doubt else None


def _read_numbers(texts: pd.Series) -> np.ndarray:
    """Texts as numbers, nan where they are none; soon if all are."""
    try:
        return pc.cast(pa.array(texts), pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pd.to_numeric(texts, errors="coerce").to_numpy()


def _doubt_text(n_rows: pd.Series, example: str) -> str | None:
    """What is the matter with many texts, of so many rows each, and the mend.

    Where nearly all rows have a text that is too rare to be learnt it is no category. At this line
    a model gains .003 in ROC AUC by one that says much; where 83 % have, it gains .013 (simulated).
    """
    n, is_mostly_new = n_rows.sum(), len(n_rows) > n_rows.sum() / 2
    texts = pd.Series(n_rows.index, dtype=object)
    are_numbers = texts.str.fullmatch(_NUMBER if is_mostly_new else _DECIMAL).to_numpy(bool)
    if n_rows[are_numbers].sum() > MOST * n:
        return f", which are numbers as text, such as {example}. {CAST}"
    if is_mostly_new or n_rows[n_rows < MIN_ROWS].sum() > MOST * n:
        return f": text or an id, of which no model learns. {LEAVE}"
    return None


def _are_days(values: pd.Index) -> bool:
    """Whether most of a column's texts, each once, say day, month and year, all in one way."""
    texts = pd.Series(values[:N_PARSED], dtype=object).str.strip()
    for pattern, plain in (
        (_TIME, ""),
        (r"^(\d{4})(\d\d)(\d\d)$", r"\1 \2 \3"),
        (r"[\s./,-]+", " "),
    ):
        texts = texts.str.replace(pattern, plain, regex=True)
    parsed = (pd.to_datetime(texts, format=day, errors="coerce").dt.year for day in _DAYS)
    return any(years.between(*YEARS).mean() > MOST for years in parsed)


def _find_unit(n_rows: pd.Series) -> str | None:
    """What stands before or behind the number in nearly all texts, if it is no part of a code."""
    texts = pd.Series(n_rows.index, dtype=object).str.strip()
    parts = texts.str.extract(_WITH_UNIT).fillna("")
    units = parts[0].str.strip() + parts[1].str.strip()
    n_by_unit = n_rows.groupby(units.to_numpy()).sum()
    unit = n_by_unit.idxmax()
    return str(unit) if unit and n_by_unit[unit] > MOST * n_rows.sum() else None


def _are_ids(
    values: pd.Series, candidate_ids: pd.Series, ids: np.ndarray, filled: np.ndarray
) -> bool:
    """Whether nearly all values are the candidate_id of their rows, those that are filled.

    Numbers are written as text, which is slow, only where they are the ids as numbers.
    """
    if pd.api.types.is_numeric_dtype(values):
        if (values.to_numpy() == ids[filled]).mean() <= MOST:
            return False
        is_whole = (values % 1 == 0).all()  # which ids are written without a fraction
        values = values.map("{:.0f}".format if is_whole else str)
    written = values.to_numpy(dtype=object)
    return bool((written == candidate_ids.to_numpy(dtype=object)[filled]).mean() > MOST)


def _is_counter(values: pd.Series, ids: np.ndarray) -> bool:
    """Whether whole numbers, each once, rise with ids that are numbers."""
    if not pd.api.types.is_numeric_dtype(values) or (values % 1).any():
        return False
    rank = pd.Series(ids).rank()
    return bool(rank.is_unique and (values.rank().to_numpy() == rank.to_numpy()).all())


def check_columns(names: Sequence[str], types: Mapping[str, str], model_name: str) -> None:
    """Raise DataError, as a diff, unless the features are those that a model was trained on."""
    missing = [name for name in types if name not in names]
    additional = [name for name in names if name not in types]
    if missing or additional:
        lines = [
            f"  - {name} (trained on, now missing){suggest(name, additional)}" for name in missing
        ]
        lines += [f"  + {name} (additional)" for name in additional]
        raise DataError(
            f"the columns differ from what {model_name} was trained on."
            " Mend the query, or train anew with the same columns in both queries.\n"
            + "\n".join(lines)
        )


def code(frame: pd.DataFrame, types: Mapping[str, str], problem: str = OTHER_TYPE) -> pd.DataFrame:
    """The features in the order and of the types that a model was trained on, soon counted.

    It does not depend on what the driver made of this chunk.

    Parameters
    ----------
    problem : of columns that cannot be converted, as `refuse_columns` has it

    Returns
    -------
    DataFrame
        float64 for a number, a pandas Categorical of texts for a category. Null is NaN in both.

    Raises
    ------
    DataError
        If a column holds something else than what was trained on, or numbers beyond 1e38, such as
        infinity; all such columns are listed.
    """
    columns, faults = {}, {}
    for name, kind in types.items():
        try:
            columns[name] = _code(frame[name], kind)
        except DataError as fault:
            faults[name] = str(fault)
    refuse_columns(faults, problem)
    return pd.DataFrame(columns, index=frame.index)


def decode(coded: pd.DataFrame) -> pd.DataFrame:
    """What `code` made, as scikit-learn's encoders expect it: object for a category.

    Its rows share the texts, and the numbers are those of `coded`, not copied.
    """
    texts = {}
    for name, column in coded.select_dtypes("category").items():
        values = np.array([*column.cat.categories, np.nan], dtype=object)[column.cat.codes]
        texts[name] = pd.Series(values, coded.index, dtype=object)  # else pandas infers str
    return coded.assign(**texts)


def _code(column: pd.Series, kind: str) -> pd.Categorical | np.ndarray:
    # float() would also take text, bytes and dates; the driver's own numbers need no look at each.
    is_number = pd.api.types.is_numeric_dtype(column)
    is_known = isinstance(column.dtype, pd.StringDtype) if kind == CATEGORY else is_number
    if not is_known:
        wrong = [value for value in column.dropna() if not isinstance(value, _TYPES[kind])]
        if wrong:
            expected = "text" if kind == CATEGORY else "numbers"
            found = f"found {list_values(wrong)} in {len(wrong)} of {len(column)} rows"
            raise DataError(f"expected {expected}, {found}")
    if kind == CATEGORY:
        codes, texts = pd.factorize(column)
        return pd.Categorical.from_codes(codes, pd.Index(texts, dtype=object))
    try:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except OverflowError:  # a whole number beyond 1.8e308
        values = np.array([np.inf])
    if n_infinite := int(np.isinf(values).sum()):
        raise DataError(f"infinity in {n_infinite} of {len(column)} rows")
    vast = values[np.abs(values) > LARGEST]
    if len(vast):
        raise DataError(
            f"numbers beyond {LARGEST:g} in {len(vast)} of {len(column)} rows, such as"
            f" {vast[0]:.6g}, with which no model can reckon"
        )
    return values


def check_null_columns(
    n_rows: int,
    n_filled: Mapping[str, int],
    references: Iterable[Mapping[str, FeatureReference]],
) -> None:
    """Raise DataError if a column holds only nulls in a whole night, and hardly by chance.

    Of a column with a value in each of N training rows, one null in N + 2 is expected (Laplace).

    Parameters
    ----------
    n_filled : values of each column in the night's n_rows
    references : of the models that predict it, by column
    """
    faults = {}
    for name in [name for name, filled in n_filled.items() if filled == 0]:
        counts = [of_model[name].counts for of_model in references if name in of_model]
        rates = [(cells[-1] + 1) / (sum(cells) + 2) for cells in counts]
        if rates and max(rates) ** n_rows < CHANCE:
            faults[name] = f"a value in {1 - max(rates):.1%} of the training rows"
    refuse_columns(faults, f"hold only nulls in all {n_rows:,} rows. Mend the query or the load.")
