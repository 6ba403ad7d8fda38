"""Who gets which variant: by SHA-256 of the candidate id.

Any machine, year and SQL dialect finds the same.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from abatch.database.reading import require_columns
from abatch.errors import DataError
from abatch.experiment.split import check_id, split_thresholds
from abatch.statistics.words import list_values, show_value

N_BUCKETS = 64
_WRITTEN_OTHERWISE = r"^[0 ]+|\.0+$| "
_PLAIN_ID = "^[!-~]([ -~]{0,62}[!-~])?$"  # what `check_id` lets pass, if it is no UUID
UUID_LENGTH = 36
_WHOLE_FLOATS = 2**53  # above this, neighbouring integers share one float


class Assignment(NamedTuple):
    """What the hash says of each candidate.

    Attributes
    ----------
    variant : array of str, shape (n,)
    selection_key : array of uint64, shape (n,): the random order, and the order among equal
        predictions
    bucket : array of int, shape (n,), in [0, 64): the jackknife bucket
    """

    variant: np.ndarray
    selection_key: np.ndarray
    bucket: np.ndarray


class Candidates(NamedTuple):
    """Candidates to predict, each with its variant.

    Attributes
    ----------
    ids : list of str, shape (n,)
    features : DataFrame, n rows, what the query returned beside id and variant
    variant, selection_key, bucket : arrays, shape (n,), see Assignment
    source : of the variant: hash, or recorded if the query brings it
    doubles : pairs of ids, as text, that differ but in case, blanks, leading zeros and .0
    """

    ids: list[str]
    features: pd.DataFrame
    variant: np.ndarray
    selection_key: np.ndarray
    bucket: np.ndarray
    source: str
    doubles: list[tuple[str, str]]


def assign_candidates(frame: pd.DataFrame, salt: str, split: Mapping[str, float]) -> Candidates:
    """Assign what the candidates query returned: by hash, unless it brings the variant itself.

    Parameters
    ----------
    salt, split : as `assign` has them

    Raises
    ------
    DataError
        If there is no candidate_id, or an id or a variant cannot be used.
    """
    require_columns(frame, ["candidate_id"])
    ids = normalise_ids(frame["candidate_id"])
    variant, selection_key, bucket = assign(ids, salt, split)
    source = "hash"
    if "variant" in frame:
        source, variant = "recorded", check_variants(frame["variant"], split)
    features = frame.drop(columns=["candidate_id", "variant"], errors="ignore")
    is_text = not pd.api.types.is_integer_dtype(frame["candidate_id"])
    doubles = find_doubles(ids) if is_text else []
    return Candidates(ids, features, variant, selection_key, bucket, source, doubles)


def find_doubles(ids: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of ids, not alike, that two systems may write for one candidate."""
    names = pd.Series(ids, dtype="str")
    plain = names.str.lower().str.replace(_WRITTEN_OTHERWISE, "", regex=True)
    again = plain.duplicated() & (plain != "")
    first = dict(zip(reversed(plain.tolist()), reversed(ids), strict=True))
    pairs = zip(names[again], plain[again], strict=True)
    return [(first[alike], name) for name, alike in pairs if first[alike] != name]


def normalise_ids(column: pd.Series) -> list[str]:
    """The texts that stand for candidates, as `normalise_id` makes each."""
    if pd.api.types.is_integer_dtype(column) and column.notna().all():
        return pa.array(column).cast(pa.string()).to_pylist()
    if isinstance(column.dtype, pd.StringDtype):
        texts = pa.array(column)
        is_plain = pc.match_substring_regex(texts, _PLAIN_ID)
        if pc.all(is_plain, skip_nulls=False).as_py() and not pc.any(_may_be_uuid(texts)).as_py():
            return texts.to_pylist()
    return [normalise_id(value) for value in column]


def _may_be_uuid(texts: pa.Array) -> pa.Array:
    return pc.equal(pc.utf8_length(texts), UUID_LENGTH)


def normalise_id(value: Any) -> str:
    """The one text that stands for a candidate.

    Digits for integers, lower case for UUIDs, ASCII of at most 64 characters.

    Raises
    ------
    DataError
        If the value is null, bytes, not a whole number, empty, longer, not printable ASCII, or has
        outer spaces.
    """
    if value is None or value is pd.NA or value != value:
        raise DataError("candidate_id is null: expected a number or a text.")
    if isinstance(value, (bool, np.bool_, bytes, bytearray, memoryview)):
        raise DataError(f"candidate_id {show_value(value)}: expected a number or a text.")
    if isinstance(value, (float, np.floating)):
        if not -_WHOLE_FLOATS < value < _WHOLE_FLOATS or value != int(value):
            raise DataError(
                f"candidate_id {show_value(value)}: expected a whole number below 2**53; cast it to"
                " bigint or varchar in the query."
            )
        return str(int(value))
    if isinstance(value, Decimal):
        if not value.is_finite() or value != value.to_integral_value():
            raise DataError(f"candidate_id {show_value(value)}: expected a whole number.")
        value = int(value)
    return check_id(str(value))


def assign(candidate_ids: Iterable[str], salt: str, split: Mapping[str, float]) -> Assignment:
    """Assign candidates to variants by the SHA-256 of the ASCII text `salt:candidate_id`.

    Bytes 0-7 as a big-endian integer fall below exactly one first threshold; bytes 8-15 give the
    random order; bytes 16-23 modulo 64 give the jackknife bucket. docs/assignment.md has test
    vectors and the same in T-SQL and PostgreSQL.

    Parameters
    ----------
    candidate_ids : normalised ids, n of them
    salt : the experiment's name
    split : share of each variant, in order, summing to 1
    """
    prefix = hashlib.sha256(f"{salt}:".encode("ascii"))
    digests = bytearray()
    for candidate_id in candidate_ids:
        digest = prefix.copy()
        digest.update(candidate_id.encode("ascii"))
        digests += digest.digest()[:24]
    parts = np.frombuffer(digests, dtype=">u8").reshape(-1, 3)
    place, selection_key, bucket = (parts[:, i].astype(np.uint64) for i in range(3))
    inner = np.array(list(split_thresholds(split).values())[:-1], dtype=np.uint64)
    variant = np.array(list(split), dtype=object)[np.searchsorted(inner, place, side="right")]
    return Assignment(variant, selection_key, (bucket % N_BUCKETS).astype(np.int64))


def check_variants(recorded: Iterable[object], split: Mapping[str, float]) -> np.ndarray:
    """Variants that were recorded elsewhere, as an array of str.

    DataError unless each is one of the split.
    """
    variants = np.array(list(recorded), dtype=object)
    unknown = [variant for variant in variants if variant not in split]
    if unknown:
        raise DataError(
            f"variant holds {list_values(unknown)} in {len(unknown)} of {len(variants)} rows;"
            f" expected one of {', '.join(split)}."
        )
    return variants
