"""The words of verdicts, and how a value of somebody's data is shown among words."""

import reprlib
from collections.abc import Iterable

BETTER, WORSE = "better", "worse"
NO_DIFFERENCE = "no difference larger than d"
DECIDED = (BETTER, WORSE, NO_DIFFERENCE)
NOT_YET, TOO_EARLY, INVALID = "not yet known", "too early", "invalid"
KEPT, BROKEN = "kept", "broken"  # guardrails, beside NOT_YET, TOO_EARLY and INVALID

MAX_SHOWN = 80  # characters of a value
N_VALUES = 3  # are told
_NULLS = {"None", "nan", "<NA>", "NaT"}


def show_value(value: object) -> str:
    """A value of somebody's data as Python writes it, cut in its middle if it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = MAX_SHOWN
    return short.repr(value)


def list_values(values: Iterable[object]) -> str:
    """Tell values as Python writes them, each once, the first three: 'No', null and 2 others."""
    shown = (show_value(value) for value in values)
    told = [*dict.fromkeys("null" if text in _NULLS else text for text in shown)]
    n_more = len(told) - N_VALUES
    return ", ".join(told[:N_VALUES]) + (f" and {n_more:,} others" if n_more > 0 else "")
