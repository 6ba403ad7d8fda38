"""The gate: whether a new model goes live, why, and the figures behind it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from abatch.statistics.metrics import MIN_CASES, jackknife_interval


class Rules(NamedTuple):
    """What a new model must pass; None switches a rule off.

    Attributes
    ----------
    max_auc_drop : by how much at most its ROC AUC may be lower than the live model's, in all that
        the interval allows
    min_rows : training rows
    calibration_slope : lowest and highest slope; the interval of the validation's must reach
        between them
    max_input_psi : of any feature of the newest rows against the live model's training rows
    """

    max_auc_drop: float
    min_rows: int | None
    calibration_slope: list[float] | None
    max_input_psi: float | None


class Decision(NamedTuple):
    """Whether a new model goes live, why, and the figures behind it."""

    promote: bool
    reason: str
    evidence: dict[str, Any]

    @property
    def sentence(self) -> str:
        return ("goes live: " if self.promote else "does not go live: ") + self.reason


class AucDifference(NamedTuple):
    """ROC AUC of a new and of the live model on the same rows, which neither was fitted on, and
    their difference's 95 % interval.
    """

    new: float
    live: float
    lower: float
    upper: float
    n_rows: int


def compare_auc(
    y: np.ndarray, new: np.ndarray, live: np.ndarray, bucket: np.ndarray
) -> AucDifference | None:
    """The difference of two models on the same rows, paired: delete-one-bucket jackknife over the
    candidates' hash.

    Parameters
    ----------
    y, new, live, bucket : arrays of shape (n,): outcomes, the two models' scores, jackknife buckets

    Returns
    -------
    AucDifference or None
        None with fewer than 20 of either outcome.
    """
    if min(y.sum(), (1 - y).sum()) < MIN_CASES:
        return None

    def difference(rows: np.ndarray) -> float:
        return _roc_auc(y[rows], new[rows]) - _roc_auc(y[rows], live[rows])

    everything = np.ones(len(y), dtype=bool)
    left_out = np.array([difference(bucket != one) for one in np.unique(bucket)])
    lower, upper = jackknife_interval(difference(everything), left_out)
    return AucDifference(_roc_auc(y, new), _roc_auc(y, live), lower, upper, len(y))


def _roc_auc(y: np.ndarray, scores: np.ndarray) -> float:
    """From ranks, as Mann and Whitney (1947) have it: scikit-learn's takes fifty times as long to
    check what it is given.
    """
    n_positive = int(y.sum())
    n_pairs = n_positive * (len(y) - n_positive)
    return (
        float((rankdata(scores)[y == 1].sum() - n_positive * (n_positive + 1) / 2) / n_pairs)
        if n_pairs
        else np.nan
    )


def decide(
    rules: Rules,
    *,
    n_rows: int,
    metrics: Mapping[str, Mapping[str, float | None]],
    live: str | None,
    difference: AucDifference | str,
    input_psi: tuple[str, float, float] | None,
    later: str | None,
) -> Decision:
    """A new model goes live if it passes every rule; what cannot be measured is not passed.

    Parameters
    ----------
    n_rows : training rows
    metrics : of the validation, by name: value, lower and upper
    live : model_name of the live model, None if there is none
    difference : from the live model, or why there is none
    input_psi : the feature that has moved most from the live model's training rows, its PSI and its
        noise line
    later : what is live from a later date on, when an earlier date is trained afterwards: it must
        not be overruled
    """
    slope = metrics.get("calibration_slope")
    evidence = {
        "rules": rules._asdict(),
        "rows": n_rows,
        "live": live,
        "calibration_slope": slope,
        "input_psi": input_psi,
    }
    evidence["difference"] = (
        difference._asdict() if isinstance(difference, AucDifference) else difference
    )
    if later is not None:
        return Decision(
            False,
            f"{later} is live from a later date; to use it all the same: python -m abatch promote",
            evidence,
        )
    faults = []
    if rules.min_rows is not None and n_rows < rules.min_rows:
        faults.append(
            f"{n_rows:,} training rows, fewer than the {rules.min_rows:,} that are asked for"
        )
    if rules.calibration_slope is not None:
        faults += _judge_slope(slope, *rules.calibration_slope)
    if live is None:
        return Decision(not faults, "; ".join(faults) or "the first model of its variant", evidence)
    if (
        rules.max_input_psi is not None
        and input_psi is not None
        and input_psi[1] > max(rules.max_input_psi, input_psi[2])
    ):
        name, psi, _ = input_psi
        faults.append(
            f"the newest rows are not like those that {live} knew: PSI {psi:.3f} of {name}, more"
            f" than {rules.max_input_psi:g}"
        )
    if isinstance(difference, str):
        return Decision(
            False,
            "; ".join([*faults, f"it cannot be compared with {live}: {difference}"]),
            evidence,
        )
    figures = (
        f"validation ROC AUC {difference.new:.4f} against {difference.live:.4f} of {live} on the"
        f" same {difference.n_rows:,} rows, {difference.new - difference.live:+.4f}"
        f" ({difference.lower:+.4f} to {difference.upper:+.4f})"
    )
    if not difference.lower >= -rules.max_auc_drop:  # nan does not pass
        faults.append(f"{figures}: it may be lower by more than {rules.max_auc_drop:g}")
    return Decision(not faults, "; ".join(faults) or figures, evidence)


def _judge_slope(
    slope: Mapping[str, float | None] | None, lowest: float, highest: float
) -> list[str]:
    expected = f"expected {lowest:g} to {highest:g}"
    lower, upper = (slope[end] if slope else None for end in ("lower", "upper"))
    if slope is None or lower is None or upper is None:
        return [
            "its calibration slope cannot be measured (too few outcomes, or constant predictions),"
            f" {expected}"
        ]
    if upper < lowest or lower > highest:
        return [
            f"its calibration slope is {slope['value']:.2f} ({lower:.2f} to {upper:.2f}),"
            f" {expected}"
        ]
    return []


def refuse(decision: Decision, reason: str) -> Decision:
    """The decision when something else than the model stands against it."""
    return Decision(False, reason, decision.evidence)
