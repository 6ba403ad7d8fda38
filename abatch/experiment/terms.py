"""Terms: what an experiment's verdict will depend on, by its config, and the plan of it."""

import json
from math import ceil, nan
from typing import Any, NamedTuple

import sqlalchemy as sa

from abatch.config import Experiment
from abatch.errors import ConfigError
from abatch.experiment import registrations
from abatch.experiment.registrations import (
    BurnIn,
    Comparison,
    Guardrail,
    Outcome,
    Plan,
    Registration,
    Sample,
    SampleRatio,
    Terms,
    Variant,
)
from abatch.experiment.split import split_thresholds
from abatch.night import Night
from abatch.queries import normalise_query
from abatch.statistics import stats


class TrainingOutcome(NamedTuple):
    """The outcome in the training rows: it stands in for what the config does not say.

    Attributes
    ----------
    mean, sd : capped
    rate : share of the rows in which it is above 0
    kurtosis : capped; 3 if it were normal
    """

    mean: float | None
    sd: float | None
    rate: float | None
    kurtosis: float | None = None


def describe(experiment: Experiment) -> Terms:
    """The terms that the config and the queries set."""
    outcome, limits = experiment.outcome, split_thresholds(experiment.split)
    queries = {name: normalise_query(text) for name, text in experiment.sql.items()}
    return Terms(
        hypothesis=" ".join(experiment.hypothesis.split()),
        outcome=Outcome.model_validate(outcome, from_attributes=True),
        direction="increase" if outcome.expected_effect > 0 else "decrease",
        baseline=outcome.baseline,
        baseline_sd=outcome.baseline_sd,
        cap=outcome.cap,
        exposure=experiment.exposure,
        comparisons=list_comparisons(experiment),
        alpha=stats.ALPHA,
        power=stats.POWER,
        burn_in=BurnIn(
            units=stats.MIN_UNITS,
            cases=stats.MIN_CASES,
            nonzero=stats.MIN_NONZERO,
            kurtoses=stats.MIN_KURTOSES,
        ),
        sample_ratio=SampleRatio(
            weight=stats.SRM_WEIGHT,
            night_weight=stats.SRM_NIGHT_WEIGHT,
            exposures_effect=stats.EXPOSURES_EFFECT,
            alpha=stats.SRM_ALPHA,
        ),
        guardrails={
            name: Guardrail(
                **guardrail.model_dump()
                | {"query": queries[name], "watermark": queries.get(f"{name}.watermark")}
            )
            for name, guardrail in experiment.guardrails.items()
        },
        salt=experiment.name,
        variants=[
            Variant(
                variant=variant,
                share=share,
                hash_up_to=f"{limits[variant] - 1:016x}",
                has_model=variant in experiment.models,
            )
            for variant, share in experiment.split.items()
        ],
        select_top=experiment.select_top,
        outcomes_query=queries["outcomes"],
        watermark_query=queries["watermark"],
        timezone=experiment.environment.timezone,
    )


def list_comparisons(experiment: Experiment) -> list[Comparison]:
    """The models pooled against control, and each challenger against the champion, as chosen.

    Empty if there is nothing to compare with.
    """
    modelled = [variant for variant in experiment.split if variant in experiment.models]
    controls = [variant for variant in experiment.split if variant not in modelled]
    champion = experiment.champion or modelled[0]
    chosen = experiment.verdicts or ["models_vs_control", "challenger_vs_champion"]
    comparisons = []
    if controls and "models_vs_control" in chosen:
        name = "models vs control"
        comparisons.append(Comparison(comparison=name, treatment=modelled, control=controls))
    if "challenger_vs_champion" in chosen:
        comparisons += [
            Comparison(
                comparison=f"{variant} vs {champion}", treatment=[variant], control=[champion]
            )
            for variant in modelled
            if variant != champion
        ]
    return comparisons


def make_registration(
    night: Night, assignment: str, trained: TrainingOutcome, n_candidates: int
) -> Registration:
    """What the first predict registers; n_candidates are those of its night."""
    terms = describe(night.experiment)
    return Registration(
        **terms.model_dump(),
        assignment=assignment,
        start_date=night.run_date,
        plan=make_plan(terms, trained, n_candidates),
    )


def make_plan(terms: Terms, trained: TrainingOutcome, n_candidates: int) -> Plan:
    """How many candidates and days the verdicts will take, if every night brings n_candidates."""
    is_binary, effect = terms.outcome.kind == "binary", terms.outcome.expected_effect
    mean = trained.mean if terms.baseline is None else terms.baseline
    sd = trained.sd if terms.baseline_sd is None else terms.baseline_sd
    rests_on = terms.baseline if is_binary else terms.baseline_sd
    kurtosis = None if is_binary else trained.kurtosis
    samples: dict[str, Sample] = {}
    if is_binary and mean is not None and 0 < mean + effect < 1:
        moved, variance = mean + effect, mean * (1 - mean)
        sd = variance**0.5
        samples = _plan_samples(
            terms, moved * (1 - moved), variance, stats.plan_burn_in("binary", mean)
        )
    elif not is_binary and sd is not None:
        samples = _plan_samples(
            terms,
            sd**2,
            sd**2,
            stats.plan_burn_in("numeric", trained.rate or 1.0, kurtosis or nan),
        )
    days_most = days_median = None
    if samples:
        wait = terms.outcome.window_days + terms.outcome.lag_days
        days_most, days_median = (
            -(-max(getattr(sample, name) for sample in samples.values()) // n_candidates) + wait
            for name in ("n_most", "n_median")
        )
    return Plan(
        mean=mean,
        sd=sd,
        rate=mean if is_binary else trained.rate,
        source="the training rows" if rests_on is None else "the config",
        kurtosis=kurtosis,
        n_candidates=n_candidates,
        samples=samples,
        days_most=days_most,
        days_median=days_median,
    )


def _plan_samples(
    terms: Terms, variance_treatment: float, variance_control: float, n_least: float
) -> dict[str, Sample]:
    """The sample of each comparison, from variances of one candidate's outcome.

    `n_least` is the burn-in of each variant.
    """
    shares = {variant.name: variant.share for variant in terms.variants}
    samples = {}
    for comparison in terms.comparisons:
        treatment = [shares[variant] for variant in comparison.treatment]
        control = [shares[variant] for variant in comparison.control]
        variance = variance_treatment / sum(treatment) + variance_control / sum(control)
        plan = stats.plan_sample(variance, terms.outcome.expected_effect, len(terms.comparisons))
        burn_in = ceil(n_least / min(*treatment, *control))
        samples[comparison.name] = Sample(
            **{name: max(n, burn_in) for name, n in plan._asdict().items()}
        )
    return samples


def check(
    connection: sa.Connection, experiment: Experiment, assignment: str | None = None
) -> Registration | None:
    """What was registered, or None before the first predict.

    Parameters
    ----------
    assignment : hash, or recorded if the candidates query brings its own variant; None before that
        is known

    Raises
    ------
    ConfigError
        With a diff, if something that the verdict depends on has changed since.
    """
    registration = registrations.find(connection, experiment.name)
    if registration is not None:
        refuse_changes(registration, experiment, assignment)
    return registration


def refuse_changes(
    registered: Terms, experiment: Experiment, assignment: str | None = None
) -> None:
    """Raise ConfigError, with a diff, if what the config asks is not what is registered."""
    before = registered.model_dump(mode="json")
    now = describe(experiment).model_dump(mode="json")
    if assignment is not None:
        now["assignment"] = assignment
    changed = [key for key in sorted(now) if before[key] != now[key]]
    if changed:
        lines = [
            f"  {key}\n    registered {_format(before[key])}\n    now        {_format(now[key])}"
            for key in changed
        ]
        raise ConfigError(
            f"{experiment.environment.file}: experiment {experiment.name} is registered, and its"
            " verdict depends on what has changed here. Set it back, or ask the new question under"
            " a new experiment name.\n" + "\n".join(lines)
        )


def _format(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
