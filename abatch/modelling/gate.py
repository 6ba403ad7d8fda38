"""The gate: whether a new model goes live, why, and the figures behind it.

It is judged beside the live one, on rows that neither has seen.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from abatch.config import Experiment
from abatch.errors import AbatchError, RegistryError
from abatch.modelling import dirt, estimators, snapshots
from abatch.modelling.card import Card, Decision, Figure
from abatch.modelling.promotion import Standing
from abatch.modelling.training import Fitted, Rows, fit_for_validation, make_recipe, prepare_rows
from abatch.night import Night
from abatch.sections import Training
from abatch.statistics import drift, metrics
from abatch.statistics.references import FeatureReference

RULES = {"max_auc_drop", "min_rows", "calibration_slope", "max_input_psi"}  # of sections.Training
PROMOTE = "python -m abatch promote"
FAR_OFF = 2.0  # times a rate, or below half of it: what is warned of
AUC_BREAK = 0.1  # by which a live model's ROC AUC must be below that of its validation to count
AUC_LEAP = 0.05  # by which a new model's is above the live one's for certain, which is no luck
CHANCE = 0.5
FindRows = Callable[[Card, Experiment], Rows | None]


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
    skill : Brier skill of the validation over the rate of the rows to fit on
    mean_ratio : the validation's mean prediction as a multiple of its rate
    auc, rate : ROC AUC, and rate of the outcome, in the validation
    live_auc, live_rate : ROC AUC and rate of the live model's own validation
    daily_rows, live_daily_rows : per day of the window, the live model's at its training
    """

    rows: int
    calibration_slope: Figure | None
    live: str | None = None
    difference: metrics.AucDifference | str = "it has no record"
    input_psi: tuple[str, float, float] | None = None
    skill: Figure | None = None
    mean_ratio: Figure | None = None
    auc: Figure | None = None
    rate: Figure | None = None
    live_auc: Figure | None = None
    live_rate: Figure | None = None
    daily_rows: float | None = None
    live_daily_rows: float | None = None

    def describe(self) -> dict[str, Any]:
        """The figures as JSON holds them, which has no nan."""
        difference = self.difference
        named = ("calibration_slope", "skill", "mean_ratio", "auc", "rate", "live_auc", "live_rate")
        measured = {name: getattr(self, name) for name in named}
        figures = {} if isinstance(difference, str) else difference._asdict()
        finite = {name: value if isfinite(value) else None for name, value in figures.items()}
        return self._asdict() | {
            **{name: figure and figure.model_dump() for name, figure in measured.items()},
            "difference": finite or difference,
        }


def decide(
    rules: Training, evidence: Evidence, later: str | None, contradiction: str = ""
) -> Decision:
    """A new model goes live if it passes every rule; what cannot be measured is not passed.

    Parameters
    ----------
    later : what is live from a later date on, when an earlier date is trained afterwards: it must
        not be overruled
    contradiction : of the rows, by a live model of any variant; see `find_changes`
    """
    figures = {"rules": rules.model_dump(include=RULES), **evidence.describe()}
    if later is not None:
        reason, mend = f"{later} is live from a later date", f"to use it all the same: {PROMOTE}"
        return Decision(promote=False, reason=reason, evidence=figures, mend=mend)
    if contradiction:  # whatever else these rows say is not to be believed
        return Decision(promote=False, reason=contradiction, evidence=figures)
    faults, words = list(_find_faults(rules, evidence)), "the first model of its variant"
    if evidence.live is not None:
        words, is_passed = _judge_difference(rules, evidence)
        faults += [] if is_passed else [words]
    return Decision(promote=not faults, reason="; ".join(faults) or words, evidence=figures)


def _find_faults(rules: Training, evidence: Evidence) -> Iterator[str]:
    """What speaks against a model by its rows, its skill, its calibration slope and its inputs."""
    if rules.min_rows is not None and evidence.rows < rules.min_rows:
        asked = f"fewer than the {rules.min_rows:,} that are asked for"
        yield f"{evidence.rows:,} training rows, {asked}"
    if (skill := evidence.skill) and skill.upper is not None and skill.upper < 0:
        figures = f"Brier skill {skill.value:.3f} ({skill.lower:.3f} to {skill.upper:.3f})"
        yield f"it predicts worse than the rate of its training rows does: {figures}"
    if has_fallen(evidence) and (auc := evidence.auc) and (auc.lower or 0) <= CHANCE:
        rank = f"ROC AUC {_tell(auc)}"
        yield (
            f"it may rank no better than chance ({rank}), on rows that {evidence.live} ranks far"
            " worse than at its validation"
        )
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


def _is_apart(lower: Figure | None, higher: Figure | None, factor: float = 1.0) -> bool:
    """Whether one figure's interval ends below where that of the other, times a factor, begins."""
    if lower is None or higher is None or lower.upper is None or higher.lower is None:
        return False
    return lower.upper < factor * higher.lower


def _tell(figure: Figure, digits: str = ".3f") -> str:
    value, *ends = (format(end or 0, digits) for end in figure.model_dump().values())
    return f"{value} ({' to '.join(ends)})"


def find_changes(evidence: Iterable[Evidence]) -> tuple[list[str], bool]:
    """What the live models say of the newest rows, and whether these contradict them.

    Told is a live model whose ROC AUC has fallen by AUC_BREAK or more with both intervals apart,
    and a rate of the outcome that is more than FAR_OFF times, or below that part of, the one of a
    live model's validation, intervals apart; and rows that are fewer by that factor. The rows are
    the same for all variants, so they are contradicted by one such model that was better than
    chance and is now worse than chance, both for certain.
    """
    ranks, rates, rows, is_reversed = [], [], [], False
    chance = Figure(value=CHANCE, lower=CHANCE, upper=CHANCE)
    for of_model in evidence:
        difference, before, rate = of_model.difference, of_model.live_auc, of_model.live_rate
        if before and not isinstance(difference, str) and has_fallen(of_model):
            now = _measure_live(difference)
            is_reversed |= _is_apart(now, chance) and _is_apart(chance, before)
            ranks.append(
                f"{of_model.live} ranks {difference.n_rows:,} of them, which it was not fitted"
                f" on, with ROC AUC {_tell(now)}, after {_tell(before)} at its validation"
            )
        if of_model.rate and rate and _is_other_rate(of_model.rate, rate):
            rates.append(
                f"the outcome's rate is {_tell(of_model.rate, '.3g')}, after"
                f" {_tell(rate, '.3g')} at the validation of {of_model.live}"
            )
        if FAR_OFF * (of_model.daily_rows or 0) < (n_before := of_model.live_daily_rows or 0):
            rows.append(
                f"there are {of_model.daily_rows:,.3g} a day of the window, after {n_before:,.3g}"
                f" at the training of {of_model.live}"
            )
    return [*ranks, *rates[:1], *rows[:1]], is_reversed


def find_leaps(evidence: Iterable[Evidence]) -> list[str]:
    """New models that are far better than a live one that ranks the rows as it always did.

    A feature that knows the outcome looks so; rows that are not as they were do not.
    """
    return [
        f"by {difference.new - difference.live:.3f} ({difference.lower:.3f} to"
        f" {difference.upper:.3f}) than {of_model.live}, which ranks them as ever"
        for of_model in evidence
        if not isinstance(difference := of_model.difference, str)
        and difference.lower > AUC_LEAP
        and not has_fallen(of_model)
    ]


def has_fallen(evidence: Evidence) -> bool:
    """Whether the live model ranks the new rows far worse than those of its validation."""
    difference, before = evidence.difference, evidence.live_auc
    if isinstance(difference, str) or before is None:
        return False
    now = _measure_live(difference)
    return _is_apart(now, before) and (before.value or 0) - (now.value or 0) >= AUC_BREAK


def _measure_live(difference: metrics.AucDifference) -> Figure:
    ends = (difference.live_lower, difference.live_upper)
    return Figure(**metrics.Metric(difference.live, *ends).to_dict())


def _is_other_rate(now: Figure, before: Figure) -> bool:
    return _is_apart(now, before, 1 / FAR_OFF) or _is_apart(before, now, 1 / FAR_OFF)


def judge(
    night: Night,
    rows: Rows,
    trained: Sequence[Fitted],
    standing: Standing,
    allow_dirty: bool,
) -> list[Decision]:
    """Whether new models go live: by their evidence, the rows, and the code that made them."""
    experiment = night.experiment
    find_rows = partial(_find_rows, night, {})
    evidence = [_gather(night, rows, fitted, standing, find_rows) for fitted in trained]
    changes, is_reversed = find_changes(evidence)
    contradiction = ""
    if is_reversed:
        contradiction = (
            f"the newest rows contradict what is live: {'; '.join(changes)}. Worse than chance for"
            " certain: are 0 and 1 of the outcome exchanged, or rows joined wrongly, in these rows"
            " or in those of the live model"
        )
    elif changes:
        night.warn(
            f"{experiment.query('training').file}: the newest rows are not as they were:"
            f" {'; '.join(changes)}. If nothing in the world explains it, look at the outcome, the"
            " features, their joins and their load before a model of these rows is used."
        )
    if leaps := find_leaps(evidence):
        night.warn(
            f"{experiment.query('training').file}: a new model is better {'; '.join(leaps)}. If no"
            " new feature or setting explains it, one knows the outcome: compare it as it is in"
            " the training rows with what the candidates query returned at the time."
        )
    dirt.warn_of_doubt(night)
    decisions = []
    for fitted, of_model in zip(trained, evidence, strict=True):
        later = standing.later.get(fitted.recipe.variant)
        decision = decide(experiment.training, of_model, later, contradiction)
        name = experiment.environment.name
        decisions.append(dirt.judge_dirt(decision, name, allow_dirty=allow_dirty))
    return decisions


def _gather(
    night: Night, rows: Rows, fitted: Fitted, standing: Standing, find_rows: FindRows
) -> Evidence:
    """What a new model is judged by; for `find_rows` see `compare_with_live`."""
    experiment, variant = night.experiment, fitted.recipe.variant
    newest, y = rows.validation, rows.y
    skill = metrics.brier_skill_over(
        y[newest], fitted.scores, float(y[~newest].mean()), rows.bucket[newest]
    )
    ratio = metrics.mean_ratio(y[newest], fitted.scores, rows.bucket[newest])
    evidence = Evidence(
        len(y),
        fitted.metrics.get("calibration_slope"),
        auc=fitted.metrics.get("roc_auc"),
        skill=Figure(**skill.to_dict()),
        mean_ratio=Figure(**ratio.to_dict()),
        rate=Figure(**metrics.measure_rate(y[newest], rows.bucket[newest]).to_dict()),
    )
    if live := standing.cards.get(standing.live.get(variant, "")):
        evidence = evidence._replace(
            live=live.model_name,
            difference=compare_with_live(live, find_rows, rows, fitted, experiment),
            input_psi=find_input_psi(live.features, rows, experiment.training.max_input_psi or 0),
            live_auc=live.metrics.get("roc_auc"),
            live_rate=live.metrics.get("base_rate"),
            daily_rows=len(y) / rows.window.n_days,
            live_daily_rows=live.rows / live.window.n_days,
        )
    return evidence


def _find_rows(night: Night, kept: dict[str, Rows], live: Card, before: Experiment) -> Rows | None:
    """The rows of a live model's training; None, with a warning, if they are not at hand.

    Parameters
    ----------
    kept : by run_id, those of the newest one that was asked for: most are of the same training
    """
    if live.run_id not in kept:
        kept.clear()
        try:
            pull = night.read(snapshots.choose_snapshot, live.snapshot)
            frame = snapshots.load(night.experiment.environment.snapshots_dir, pull)
        except RegistryError as error:
            recipe = f"{live.model_name} is compared by its recipe, fitted on the new rows."
            night.warn(f"{error} {recipe}")
            return None
        kept[live.run_id] = prepare_rows(frame, live.window, before).select(live.columns)
    return kept[live.run_id]


def compare_with_live(
    card: Card, find_rows: FindRows, rows: Rows, fitted: Fitted, experiment: Experiment
) -> metrics.AucDifference | str:
    """How a new model ranks rows that neither it nor the live one was fitted on.

    The live model as it was validated, without the newest rows of its time, is fitted again from
    its snapshot. Both are measured on the rows that are newer than what either was fitted on then.

    Parameters
    ----------
    card : of the live model
    find_rows : called with it and its experiment of then, returns its rows; None if they are not
        at hand, then its recipe is fitted on `rows`
    rows, fitted, experiment : of the new model

    Returns
    -------
    AucDifference or str
        Or why that cannot be told.
    """
    missing = [name for name, kind in card.columns.items() if rows.types.get(name) != kind]
    if missing:
        return f"its columns are not returned any more as it knows them: {', '.join(missing)}"
    try:
        before = Experiment.restore(card.config, card.experiment, experiment.environment)
        recipe = make_recipe(before, card.variant, fitted.recipe.key)
        old_rows = find_rows(card, before) or rows
        live = fit_for_validation(recipe, old_rows.select(card.columns))
        both = rows.validation & (rows.event_date >= np.datetime64(old_rows.validation_from))
        few = (
            f"fewer than {metrics.MIN_CASES} of either outcome in the {both.sum():,} rows that"
            " neither was fitted on"
        )
        if not both.any():
            return few
        scores = estimators.predict_probability(live, rows.take(both)[[*card.columns]])
    except AbatchError as error:
        return f"it could not be fitted again ({error})"
    new_scores = fitted.scores[both[rows.validation]]
    return metrics.compare_auc(rows.y[both], new_scores, scores, rows.bucket[both]) or few


def find_input_psi(
    references: Mapping[str, FeatureReference], rows: Rows, limit: float
) -> tuple[str, float, float] | None:
    """The feature of the newest rows that has moved most from a model's training rows.

    Parameters
    ----------
    references : the model's, by feature
    limit : above which, and above its noise line, a PSI counts

    Returns
    -------
    feature, PSI, noise line; None if nothing can be compared
    """
    same = {name: ref for name, ref in references.items() if rows.types.get(name) == ref.kind}
    counts = drift.count_features(rows.coded[rows.validation], same)
    moved = [
        (drifted.feature, drifted.psi, drifted.psi_noise)
        for drifted in drift.measure_features(same, counts)
        if np.isfinite(drifted.psi)
    ]
    return max(moved, key=lambda drifted: drifted[1] - max(limit, drifted[2]), default=None)


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
    """Warn of new models that do not go live, and say what somebody can do who wants them to.

    What stands against several is said once. And of those that do, but are far off on average.
    """
    refused: dict[tuple[str, str], list[str]] = {}
    for card in cards:
        if not card.gate.promote:
            refused.setdefault((card.gate.sentence, card.gate.mend), []).append(card.model_name)
        elif is_far_off(ratio := Figure(**card.gate.evidence["mean_ratio"])):
            night.warn(
                f"{card.model_name} goes live, but its probabilities are wrong by more than a"
                f" factor of {FAR_OFF:g}: on the {card.rows_validation:,} validation rows their"
                f" mean is {ratio.value:.2f} times ({ratio.lower:.2f} to {ratio.upper:.2f}) the"
                " outcome's rate. It may rank well all the same. Does it weigh classes, or has"
                " the rate changed?"
            )
    for (sentence, own_mend), (name, *others) in refused.items():
        mend = "" if own_mend else f". To use it all the same: {PROMOTE} {name} --reason TEXT"
        alike = f". The same holds of {', '.join(others)}" if others else ""
        night.warn(f"{name} {sentence}{mend}{alike}")


def is_far_off(ratio: Figure) -> bool:
    """Whether a mean prediction is off by more than a factor of two, and not by chance."""
    if ratio.value is None or ratio.lower is None or ratio.upper is None:
        return False
    if ratio.value > 1:
        return ratio.value > FAR_OFF and ratio.lower > 1
    return ratio.value < 1 / FAR_OFF and ratio.upper < 1
