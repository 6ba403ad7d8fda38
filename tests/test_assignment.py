import hashlib
import math
import re
import uuid
from collections import Counter
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from scipy import stats

from abatch.config import Experiment
from abatch.errors import DataError
from abatch.experiment import registrations, terms
from abatch.experiment.assignment import (
    N_BUCKETS,
    Assignment,
    assign,
    check_variants,
    find_doubles,
    normalise_id,
)
from abatch.experiment.split import count_selected, split_thresholds
from abatch.queries import Query
from tests.conftest import add_predictions, make_night, make_registration

PAGE = (Path(__file__).parent.parent / "docs" / "assignment.md").read_text(encoding="utf-8")
CANDIDATES = Query("candidates.sql", "")
SPLIT = {"A": 0.45, "B": 0.45, "control": 0.10}
EXACT = {"A": Fraction(45, 100), "B": Fraction(45, 100), "control": Fraction(10, 100)}


def assign_by_hand(
    candidate_id: str, salt: str, shares: dict[str, Fraction]
) -> tuple[str, str, int]:
    """The rule of docs/assignment.md once more, in fractions: variant, selection_key, bucket."""
    digest = hashlib.sha256(f"{salt}:{candidate_id}".encode()).hexdigest()
    position = Fraction(int(digest[:16], 16), 2**64)
    ends = np.cumsum(list(shares.values()))
    variant = next(name for name, end in zip(shares, ends, strict=True) if position < end)
    return variant, digest[16:32], int(digest[32:48], 16) % 64


def show(found: Assignment) -> list[tuple[str, str, int]]:
    """The same of each candidate, as the page writes it."""
    keys = [f"{key:016x}" for key in found.selection_key.tolist()]
    return [*zip(found.variant, keys, found.bucket.tolist(), strict=True)]


def read_table(header: str) -> list[list[str]]:
    """The rows of the page's table whose header starts so."""
    lines = PAGE[PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def register_card_offer(connection: sa.Connection) -> None:
    registrations.register(
        connection, make_night("run", at=datetime(2026, 9, 1)), make_registration()
    )


@pytest.mark.parametrize(
    "candidate_id",
    [
        "1",
        "42",
        "-7",
        "9223372036854775807",
        "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "CU-42",
        "x" * 64,
        "a b:c",
    ],
)
def test_assign_equals_rule_by_hand(candidate_id: str) -> None:
    for salt in ("card_offer", "renewal_2027"):
        found = show(assign([candidate_id], salt, SPLIT))
        assert found == [assign_by_hand(candidate_id, salt, EXACT)]


def test_assign_published_vectors() -> None:
    rows = read_table("| salt | candidate_id | SHA-256 |")
    assert len(rows) >= 8
    for salt, candidate_id, digest, variant, selection_key, bucket in rows:
        assert hashlib.sha256(f"{salt}:{candidate_id}".encode("ascii")).hexdigest() == digest
        assert normalise_id(candidate_id) == candidate_id
        found = show(assign([candidate_id], salt, SPLIT))
        assert found == [(variant, selection_key, int(bucket))]


def test_assign_page_limits_are_registered_ones(experiment: Experiment) -> None:
    registered = [
        [variant.name, f"{variant.share:.2f}", variant.hash_up_to]
        for variant in terms.describe(experiment).variants
    ]
    assert read_table("| variant | share | hash_up_to |") == registered


def read_queries(title: str) -> list[str]:
    """The page's SQL under a title: of the predictions, then of a table of the reader's own."""
    return re.findall(
        r"```sql\n(.*?)```", PAGE.split(f"### {title}\n")[1].split("\n### ")[0], re.DOTALL
    )


def make_ids() -> list[str]:
    """100,000 ids: integers, UUIDs, and codes with all printable characters.

    No two are one to a server that ignores case.
    """
    odd = "".join(map(chr, range(33, 127)))
    numbers = [
        *range(-20_000, 20_000 - 8),
        *(sign * (2**63 - n) for sign in (-1, 1) for n in range(1, 5)),
    ]
    ids = [str(number) for number in numbers] + [
        str(uuid.uuid5(uuid.NAMESPACE_OID, str(n))) for n in range(30_000)
    ]
    ids += [f"C{odd[n % 94]} {odd[n * 7 % 94]}{n}{odd[n * 31 % 94]}" for n in range(30_000)]
    assert len({one.lower() for one in ids}) == 100_000
    assert set(odd) < set("".join(ids))
    return ids


@pytest.mark.parametrize(
    ("database_url", "title"),
    [("postgresql", "PostgreSQL"), pytest.param("mssql", "SQL Server", marks=pytest.mark.mssql)],
    indirect=["database_url"],
)
def test_assign_page_queries_on_server(engine: sa.Engine, title: str) -> None:
    of_predictions, of_own_table = read_queries(title)[:2]
    ids = make_ids()
    python = assign(ids, "card_offer", SPLIT)
    base = {
        "run_date": date(2026, 9, 1),
        "assignment_probability": 0.1,
        "rank_in_variant": 1,
        "selected": 0,
        "run_id": "run",
        "predicted_at": datetime(2026, 9, 1),
    }
    rows = [
        {**base, "experiment": "card_offer", "candidate_id": id_, "variant": v}
        for id_, v in zip(ids, python.variant, strict=True)
    ]
    other = {"experiment": "renewal", "candidate_id": "1", "variant": "A", "run_id": "another"}
    add_predictions(engine, *rows, {**base, **other})
    with engine.begin() as connection:
        register_card_offer(connection)
        cursor = (
            connection.connection.cursor()
        )  # the driver's own: the queries reach the server as they stand on the page
        cursor.execute("create table customers (customer_id varchar(64) primary key)")
        cursor.execute(
            "insert into customers select candidate_id from abatch.predictions where experiment ="
            " 'card_offer'"
        )
        cursor.execute(of_own_table)
        assert {row[0]: row[1] for row in cursor.fetchall()} == dict(
            zip(ids, python.variant, strict=True)
        )
        if engine.dialect.name == "mssql":
            cursor.execute("select convert(varchar(4), 0x0af3, 2)")
            (converted,) = cursor.fetchall()
            if converted[0] != "0AF3":
                pytest.skip(
                    "this server's convert() has no style 2 (Babelfish), so the query of the"
                    " predictions cannot run here"
                )
        cursor.execute(of_predictions)
        found = cursor.fetchall()
    expected = [(id_, row[0], *row) for id_, row in zip(ids, show(python), strict=True)]
    assert sorted(tuple(row)[1:] for row in found) == sorted(expected)
    assert set(python.variant) == set(SPLIT)


def test_assign_threshold_belongs_to_next_variant() -> None:
    position = int(hashlib.sha256(b"salt:7").hexdigest()[:16], 16)
    for end, variant in ((position, "B"), (position + 1, "A")):
        split: Any = {"A": Fraction(end, 2**64), "B": 1 - Fraction(end, 2**64)}
        # As fractions, for no decimal number of a config comes so close to a hash.
        assert assign(["7"], "salt", split).variant.tolist() == [variant]


def test_assign_shares_and_parts_are_uniform() -> None:
    n = 60_000
    found = assign((str(number) for number in range(n)), "card_offer", SPLIT)
    counts = Counter(found.variant)
    assert (
        stats.chisquare(
            [counts[name] for name in SPLIT], [n * share for share in SPLIT.values()]
        ).pvalue
        > 0.001
    )
    assert stats.chisquare(np.bincount(found.bucket, minlength=N_BUCKETS)).pvalue > 0.001
    first_digit = (found.selection_key >> np.uint64(60)).astype(int)
    for part in (found.bucket, first_digit):
        table = [
            np.bincount(part[found.variant == name], minlength=part.max() + 1) for name in SPLIT
        ]
        assert stats.chi2_contingency(table).pvalue > 0.001


def test_assign_sticky_in_other_chunks_and_order() -> None:
    ids = [str(number) for number in range(500)]
    together = assign(ids, "card_offer", SPLIT)
    backwards = assign(reversed(ids), "card_offer", SPLIT)
    for whole, reverse in zip(together, backwards, strict=True):
        assert whole.tolist() == reverse[::-1].tolist()
    assert [
        assign([one], "card_offer", SPLIT).variant[0] for one in ids
    ] == together.variant.tolist()


def test_assign_other_salt_is_independent() -> None:
    ids = [str(number) for number in range(20_000)]
    first, second = (assign(ids, salt, SPLIT).variant for salt in ("card_offer", "renewal"))
    table = [[np.sum((first == one) & (second == other)) for other in SPLIT] for one in SPLIT]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_assign_no_candidates() -> None:
    found = assign([], "card_offer", SPLIT)
    assert [len(part) for part in found] == [0, 0, 0]


def test_split_thresholds_exact() -> None:
    # In floats .1 + .2 is .30000000000000004; 3/10 and 1/10 of 2**64 by integer division.
    assert split_thresholds({"A": 0.1, "B": 0.2, "C": 0.7}) == {
        "A": 2**64 // 10,
        "B": 2**64 * 3 // 10,
        "C": 2**64,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12, "12"),
        (-12, "-12"),
        (2**63, "9223372036854775808"),
        (np.int64(12), "12"),
        (np.int32(-3), "-3"),
        (12.0, "12"),
        (np.float64(12.0), "12"),
        (-0.0, "0"),
        (2.0**53 - 1, "9007199254740991"),
        (Decimal("12"), "12"),
        (Decimal("12.00"), "12"),
        (Decimal("1.2E+3"), "1200"),
        ("F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
        (uuid.UUID("F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6"), "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
        ("CU-42", "CU-42"),
        ("007", "007"),
        ("a b", "a b"),
        ("x" * 64, "x" * 64),
    ],
)
def test_normalise_id_one_text(value: object, text: str) -> None:
    assert normalise_id(value) == text


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        np.True_,
        float("nan"),
        np.float64("nan"),
        float("inf"),
        float("-inf"),
        12.5,
        2.0**53,
        Decimal("12.5"),
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal("1E+70"),
        "",
        " ",
        " 12",
        "12 ",
        "12\n",
        "a\tb",
        "x" * 65,
        "Ærø",
        "日本",
        b"12",
    ],
)
def test_normalise_id_refuses(value: object) -> None:
    with pytest.raises(DataError, match=r"^candidate_id .*: expected"):
        normalise_id(value)


def test_normalise_id_of_char_n_names_rtrim() -> None:
    with pytest.raises(
        DataError, match=r"^candidate_id '7  ': expected no space at its end, .* rtrim"
    ):
        normalise_id("7  ")
    for other in (" 7", "  "):
        with pytest.raises(DataError, match="without outer spaces"):
            normalise_id(other)


def test_normalise_id_error_names_place_and_value() -> None:
    assert [normalise_id(value) for value in (1, 2.0, "c")] == ["1", "2", "c"]
    with (
        pytest.raises(
            DataError,
            match=r"^candidates\.sql: candidate_id 'Ærø': expected 1 to 64 printable ASCII .*\.$",
        ),
        CANDIDATES.named(),
    ):
        normalise_id("Ærø")


@pytest.mark.parametrize(
    ("n", "share", "selected"),
    [
        (100, 0.29, (29, 29)),
        (15, 0.2, (3, 3)),
        (14, 0.2, (3, 3)),
        (3, 0.2, (0, 1)),
        (7, 1.0, (7, 7)),
        (0, 0.2, (0, 0)),
    ],
)
def test_count_selected_is_exact_or_drawn(n: int, share: float, selected: tuple[int, int]) -> None:
    """By sha256sum of card_offer:2026-09-01 and -02, u is 497bb4d5.../2^64 = .287, then .822."""
    assert int(100 * 0.29) == 28  # what floats would say
    nights = date(2026, 9, 1), date(2026, 9, 2)
    assert tuple(count_selected(n, share, "card_offer", night) for night in nights) == selected


def test_count_selected_is_the_share_on_average() -> None:
    """Of 15 candidates 5 % are .75; in 4,000 nights to 4 standard errors of a yes or no."""
    nights = (date(2026, 1, 1) + days * timedelta(days=1) for days in range(4000))
    mean = np.mean([count_selected(15, 0.05, "card_offer", night) for night in nights])
    assert abs(mean - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 4000)


def test_check_variants_known_and_unknown() -> None:
    assert check_variants(["B", "A", "control"], SPLIT).tolist() == ["B", "A", "control"]
    message = r"^candidates\.sql: variant holds 'a', null in 2 of 3 rows; expected one of A, B, con"
    with pytest.raises(DataError, match=message), CANDIDATES.named():
        check_variants(["a", "A", None], SPLIT)


def test_find_doubles_are_ids_of_one_candidate_written_twice() -> None:
    ids = ["123", "0123", "AB", "ab", "7", "7.0", "8", "9 ", "1-23", "12-3", "0", "00"]
    assert find_doubles(ids) == [("123", "0123"), ("AB", "ab"), ("7", "7.0")]
    assert find_doubles([]) == []
    assert find_doubles(["5", "5"]) == []  # one id twice is refused where all rows are known
