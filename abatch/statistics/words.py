"""The words of verdicts, and how a value of somebody's data is shown among words."""

import reprlib

BETTER, WORSE = "better", "worse"
NO_DIFFERENCE = "no difference larger than d"
DECIDED = (BETTER, WORSE, NO_DIFFERENCE)
NOT_YET, TOO_EARLY, INVALID = "not yet known", "too early", "invalid"
KEPT, BROKEN = "kept", "broken"  # guardrails, beside NOT_YET, TOO_EARLY and INVALID

MAX_SHOWN = 80  # characters of a value


def show_value(value: object) -> str:
    """A value of somebody's data as Python writes it, cut in its middle if it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = MAX_SHOWN
    return short.repr(value)
