"""The words of verdicts."""

BETTER, WORSE = "better", "worse"
NO_DIFFERENCE = "no difference larger than d"
DECIDED = (BETTER, WORSE, NO_DIFFERENCE)
NOT_YET, TOO_EARLY, INVALID = "not yet known", "too early", "invalid"
KEPT, BROKEN = "kept", "broken"  # guardrails, beside NOT_YET, TOO_EARLY and INVALID
