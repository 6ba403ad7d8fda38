"""Text that is printed: tables as pandas prints them, JSON with days and instants."""

import json
import sys
from datetime import date, datetime

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abatch import text

WORDS = st.text("abcÆ日 ", max_size=9)
DAYS = st.dates(date(1990, 1, 1), date(2099, 12, 31))
ROWS = st.fixed_dictionaries(
    {"model": WORDS, "rows": st.integers(0, 10**9), "ROC AUC": WORDS, "n": st.integers(0, 9)}
)


@given(st.lists(ROWS, min_size=1, max_size=5), DAYS)
def test_show_table_as_pandas_does(rows: list[dict[str, object]], day: date) -> None:
    rows = [{**row, "from": day} for row in rows]
    assert text.show_table(rows) == pd.DataFrame(rows).to_string(index=False)


def test_to_json() -> None:
    content = {"day": date(2026, 9, 1), "at": datetime(2026, 9, 1, 20, 15), "Ærø": None, "x": 0.1}
    shown = text.to_json(content)
    assert json.loads(shown) == {
        "day": "2026-09-01",
        "at": "2026-09-01T20:15:00Z",
        "Ærø": None,
        "x": 0.1,
    }
    assert '"Ærø": null' in shown


def test_cut_list() -> None:
    assert text.cut_list(["a", "b"], 2) == ["a", "b"]
    assert text.cut_list(["a", "b", "c", "d"], 2) == ["a", "b", "and 2 more"]
    assert text.cut_list(["a", "b"], 1, "later ones") == ["a", "and 1 later ones"]


def test_output_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `predict.py >&-` leaves it, which is no fault."""
    monkeypatch.setattr(sys, "stdout", None)
    assert not text.is_terminal()
    text.say("done")
