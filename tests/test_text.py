"""Text that is printed: tables as pandas prints them, JSON with days and instants."""

import json
import os
import subprocess
import sys
from datetime import date, datetime

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abatch import text
from tests.conftest import ROOT

WORDS = st.text("abcÆ日 ", max_size=9)
DAYS = st.dates(date(1990, 1, 1), date(2099, 12, 31))
ROWS = st.fixed_dictionaries(
    {"model": WORDS, "rows": st.integers(0, 10**9), "ROC AUC": WORDS, "n": st.integers(0, 9)}
)


@given(st.lists(ROWS, min_size=1, max_size=5), DAYS)
def test_show_table_as_pandas_does(rows: list[dict[str, object]], day: date) -> None:
    rows = [{**row, "from": day} for row in rows]
    assert text.show_table(rows) == pd.DataFrame(rows).to_string(index=False)


def test_say_what_the_terminal_cannot_encode() -> None:
    """As Python's own backslashreplace has it, and nothing is raised after a job's commit."""
    call = [sys.executable, "-c", "from abatch.text import say; say('Ærø, 日本: 1 − 2')"]
    for encoding, said in (
        ("ascii", r"\xc6r\xf8, \u65e5\u672c: 1 \u2212 2"),
        ("utf-8", "Ærø, 日本: 1 − 2"),
    ):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True)
        assert (done.stdout.decode(), done.stderr, done.returncode) == (f"{said}\n", b"", 0)


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


def test_list_days_by_the_ends_of_three_or_more() -> None:
    days = [date(2026, 9, day) for day in (28, 29, 30)] + [date(2026, 10, day) for day in (1, 3, 4)]
    assert text.list_days(days) == "2026-09-28 to 2026-10-01, 2026-10-03, 2026-10-04"
    alone = [date(2026, month, 1) for month in range(1, 10)]
    assert text.list_days(alone).endswith("2026-07-01, and 2 more")
    assert text.list_days(alone, None).endswith("2026-08-01, 2026-09-01")
    assert text.list_days([]) == ""


def test_cut_list() -> None:
    assert text.cut_list(["a", "b"], 2) == ["a", "b"]
    assert text.cut_list(["a", "b", "c", "d"], 2) == ["a", "b", "and 2 more"]
    assert text.cut_list(["a", "b"], 1, "later ones") == ["a", "and 1 later ones"]


def test_output_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `predict.py >&-` leaves it, which is no fault."""
    monkeypatch.setattr(sys, "stdout", None)
    assert not text.is_terminal()
    text.say("done")
