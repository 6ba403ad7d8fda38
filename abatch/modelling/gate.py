"""The gate: whether a new model goes live, why, and the figures behind it."""

from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from abatch import version
from abatch.config import Training
from abatch.errors import RegistryError
from abatch.modelling.card import Card, Decision, Figure
from abatch.modelling.registry import Promotions
from abatch.night import Night

if TYPE_CHECKING:  # SciPy takes half a second, for which a promotion by hand need not wait
    from abatch.statistics.metrics import AucDifference

RULES = {"max_auc_drop", "min_rows", "calibration_slope", "max_input_psi"}  # of config.Training
PROD = "prod"  # the environment in which models come from committed code only
DIRTY = "it was trained from a dirty tree: the code differs from its commit"
PROMOTE = "python -m abatch promote"


class Evidence(NamedTuple):
    """What a new model is judged by.

    Attributes
    ----------
    rows : how many, to train on
    calibration_slope : of the validation
    live : model_name of the live model, None if there is none
    difference : from the live model, or why there is none
    input_psi : the feature that has moved most from the live model's training rows, its PSI and its
        noise line
    """

    rows: int
    calibration_slope: Figure | None
    live: str | None = None
    difference: "AucDifference | str" = "it has no record"
    input_psi: tuple[str, float, float] | None = None

    def describe(self) -> dict[str, Any]:
        """The figures as JSON holds them, which has no nan."""
        slope, difference = self.calibration_slope, self.difference
        figures = {} if isinstance(difference, str) else difference._asdict()
        finite = {name: value if isfinite(value) else None for name, value in figures.items()}
        return self._asdict() | {
            "calibration_slope": slope.model_dump() if slope else None,
            "difference": finite or difference,
        }


def decide(rules: Training, evidence: Evidence, later: str | None) -> Decision:
    """A new model goes live if it passes every rule; what cannot be measured is not passed.

    Parameters
    ----------
    later : what is live from a later date on, when an earlier date is trained afterwards: it must
        not be overruled
    """
    figures = {"rules": rules.model_dump(include=RULES), **evidence.describe()}
    if later is not None:
        reason, mend = f"{later} is live from a later date", f"to use it all the same: {PROMOTE}"
        return Decision(promote=False, reason=reason, evidence=figures, mend=mend)
    faults, words = list(_find_faults(rules, evidence)), "the first model of its variant"
    if evidence.live is not None:
        words, is_passed = _judge_difference(rules, evidence)
        faults += [] if is_passed else [words]
    return Decision(promote=not faults, reason="; ".join(faults) or words, evidence=figures)


def _find_faults(rules: Training, evidence: Evidence) -> Iterator[str]:
    """What speaks against a model by its rows, its calibration slope and its inputs."""
    if rules.min_rows is not None and evidence.rows < rules.min_rows:
        asked = f"fewer than the {rules.min_rows:,} that are asked for"
        yield f"{evidence.rows:,} training rows, {asked}"
    if rules.calibration_slope is not None:
        slope, (lowest, highest) = evidence.calibration_slope, rules.calibration_slope
        expected = f"expected {lowest:g} to {highest:g}"
        if slope is None or slope.lower is None or slope.upper is None:
            why = "too few outcomes, or constant predictions"
            yield f"its calibration slope cannot be measured ({why}), {expected}"
        elif not (lowest <= slope.upper and slope.lower <= highest):
            interval = f"{slope.value:.2f} ({slope.lower:.2f} to {slope.upper:.2f})"
            yield f"its calibration slope is {interval}, {expected}"
    if rules.max_input_psi is not None and evidence.input_psi is not None:
        name, psi, noise = evidence.input_psi
        if not psi <= max(rules.max_input_psi, noise):
            yield (
                f"the newest rows are not like those that {evidence.live} knew: PSI {psi:.3f} of"
                f" {name}, more than {rules.max_input_psi:g}"
            )


def _judge_difference(rules: Training, evidence: Evidence) -> tuple[str, bool]:
    """The difference in words, and whether it passes."""
    difference = evidence.difference
    if isinstance(difference, str):
        return f"it cannot be compared with {evidence.live}: {difference}", False
    figures = (
        f"validation ROC AUC {difference.new:.4f} against {difference.live:.4f} of {evidence.live}"
        f" on the same {difference.n_rows:,} rows, {difference.new - difference.live:+.4f}"
        f" ({difference.lower:+.4f} to {difference.upper:+.4f})"
    )
    if difference.lower >= -rules.max_auc_drop:  # nan does not pass
        return figures, True
    return f"{figures}: it may be lower by more than {rules.max_auc_drop:g}", False


def is_dirty(code_version: str) -> bool:
    """Whether the code differed from its commit."""
    return code_version.endswith("-dirty")


def stand_back(
    decision: Decision, variant: str, before: Mapping[str, str], now: Mapping[str, str]
) -> Decision:
    """The decision where another model may have become live while this one was trained.

    Parameters
    ----------
    before, now : model_name that is live, by variant
    """
    if before.get(variant) == now.get(variant):
        return decision
    reason = f"{now.get(variant)} was made live in the meantime"
    return decision.refuse(reason, f"to use the new one: {PROMOTE}")


def warn_of(night: Night, cards: Iterable[Card]) -> None:
    """Warn of new models that do not go live, with what to do who wants it otherwise."""
    for card in cards:
        text = f"{card.model_name} {card.gate.sentence}"
        if not card.gate.mend:
            text += f". To use it all the same: {PROMOTE} {card.model_name} --reason TEXT"
        if not card.gate.promote:
            night.warn(text)


def find_dirt(environment: str, code_version: str) -> dict[str, Any]:
    """Evidence to record of prod's models whose code differs from its commit; else empty."""
    if environment != PROD or not is_dirty(code_version):
        return {}
    return {"allow_dirty": True, "code_version": code_version}


def judge_dirt(decision: Decision, environment: str, *, allow_dirty: bool) -> Decision:
    """The decision where code that differs from its commit must not make prod's models.

    Unless that is allowed, and then recorded.
    """
    dirt = find_dirt(environment, version.code_version())
    if not dirt or not decision.promote:
        return decision
    if not allow_dirty:
        return decision.refuse(
            f"{DIRTY} ({version.code_version()}). Commit, then train with --force, or allow it:"
            " --allow-dirty"
        )
    reason = f"{decision.reason} (from a dirty tree, allowed)"
    return Decision(promote=True, reason=reason, evidence=decision.evidence | dirt)


def check_dirt(
    environment: str, card: Card, promotions: Promotions, *, allow_dirty: bool
) -> dict[str, Any] | None:
    """Evidence to record of a promotion by hand, None without any.

    In prod a model from a dirty tree that was never live needs to be allowed.

    Raises
    ------
    RegistryError
        If it is not.
    """
    dirt = find_dirt(environment, card.code_version)
    if not dirt or card.model_name in promotions.ever_live:
        return None
    if not allow_dirty:
        raise RegistryError(
            f"{card.model_name}: {DIRTY} ({card.code_version}). It does not go live in {PROD}."
            " Train anew from a commit, or allow it: --allow-dirty, which is recorded."
        )
    return dirt
