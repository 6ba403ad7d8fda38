"""Registrations: what an experiment asks, written down before its first outcome, never changed."""

import hashlib
import json
from collections.abc import Iterator
from datetime import date, datetime
from typing import Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from abatch.database.tables import registrations
from abatch.text import wrap_facts

OUTCOME = "outcome"  # the metric that is no guardrail


class Part(BaseModel):
    """A part of a registration, as its JSON names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class Outcome(Part):
    kind: Literal["binary", "numeric"]
    window_days: int
    lag_days: int
    expected_effect: float


class Comparison(Part):
    """One registered verdict: variants, pooled, against variants, pooled."""

    name: str = Field(alias="comparison")
    treatment: list[str]
    control: list[str]


class BurnIn(Part):
    units: int
    cases: int
    nonzero: int


class SampleRatio(Part):
    weight: int
    alpha: float


class Guardrail(Part):
    kind: Literal["binary", "numeric"]
    direction: Literal["increase", "decrease"]
    margin: float
    cap: float | None
    query: str


class Variant(Part):
    name: str = Field(alias="variant")
    share: float
    hash_up_to: str
    has_model: bool


class Terms(Part):
    """All that an experiment's verdict depends on and that the config says.

    Attributes
    ----------
    direction : of the outcome, the good one
    baseline, baseline_sd, cap : of the outcome, as in the config
    alpha : of all comparisons together
    salt : of the split: the experiment's name
    outcomes_query, watermark_query : as `normalise_query` makes them
    """

    hypothesis: str
    outcome: Outcome
    direction: Literal["increase", "decrease"]
    baseline: float | None
    baseline_sd: float | None
    cap: float | None
    exposure: Literal["first", "all"]
    comparisons: list[Comparison]
    alpha: float
    power: float
    burn_in: BurnIn
    sample_ratio: SampleRatio
    guardrails: dict[str, Guardrail]
    salt: str
    variants: list[Variant]
    select_top: float
    outcomes_query: str
    watermark_query: str
    timezone: str


class Sample(Part):
    """Candidates that a comparison takes, as `stats.Plan`, but never less than the burn-in."""

    n_fixed: int
    n_most: int
    n_median: int


class Plan(Part):
    """How many candidates and days the registered verdicts will take.

    Attributes
    ----------
    mean, sd : of the outcome; None where unknown
    source : the config, or the training rows
    n_candidates : of the first night
    samples : by comparison; empty where nothing is known to plan with
    days_most, days_median : until the slowest verdict
    """

    mean: float | None
    sd: float | None
    source: str
    n_candidates: int
    samples: dict[str, Sample]
    days_most: int | None
    days_median: int | None


class Registration(Terms):
    """What the first predict wrote down for good.

    Attributes
    ----------
    assignment : hash, or recorded if the candidates query brings the variants
    start_date : the first night
    """

    assignment: str
    start_date: date
    plan: Plan


def describe_plan(registration: Registration) -> str:
    """What a new experiment commits to, as lines of at most 80 columns where names are short."""
    head = f"{registration.salt}: a new experiment. Its first predict registers for good:"
    facts = [*_list_terms(registration), *_list_samples(registration)]
    return "\n".join([head, *wrap_facts(facts)])


def _list_terms(registration: Registration) -> Iterator[tuple[str, str]]:
    outcome, plan, is_first = (
        registration.outcome,
        registration.plan,
        registration.exposure == "first",
    )
    yield "asked", registration.hypothesis
    effect = (
        f"{outcome.expected_effect:+g} in the mean outcome per"
        f" {_unit(registration)}; {registration.direction} is good"
    )
    name, figure = ("mean", plan.mean)
    if outcome.kind == "numeric":
        name, figure = "standard deviation", plan.sd
    if figure is not None:
        effect += f"; planned with a {name} of {figure:.4g} ({plan.source})"
    yield "expected", effect
    counted = "the first mature prediction" if is_first else "all mature predictions"
    yield "counted", f"{counted} of each candidate, outcomes within {outcome.window_days} days"
    names = [comparison.name for comparison in registration.comparisons]
    yield (
        "verdicts",
        f"{len(names)}: {'; '.join(names)}" if names else "none: there is nothing to compare",
    )
    for name, guardrail in registration.guardrails.items():
        yield "guardrail", f"{name}: {guardrail.direction} is good, margin {guardrail.margin:g}"
    if names:
        yield (
            "how sure",
            f"{1 - registration.alpha:.0%} for all of them together, on all days, however often"
            " somebody looks",
        )


def _unit(terms: Terms) -> str:
    return "candidate" if terms.exposure == "first" else "prediction"


def _list_samples(registration: Registration) -> Iterator[tuple[str, str]]:
    plan, unit, power = registration.plan, _unit(registration), f"{registration.power:.0%}"
    for name, sample in plan.samples.items():
        yield (
            "sample",
            f"{name}: {sample.n_most:,} {unit}s at most for {power} power, half of the time"
            f" {sample.n_median:,} or fewer (read once: {sample.n_fixed:,})",
        )
    if plan.samples:
        yield (
            "time",
            f"{plan.days_most:,} days at most for {power} power, half of the time"
            f" {plan.days_median:,} or fewer, if every night brings {plan.n_candidates:,} new"
            " candidates as this one does",
        )
        if registration.exposure == "all":
            yield (
                "",
                "sample and time are larger where the same candidates come again: they know little"
                " new",
            )
    elif registration.comparisons:
        missing = "baseline" if registration.outcome.kind == "binary" else "baseline_sd"
        reason = "is unknown"
        if plan.mean is not None:
            reason = f"{plan.mean:.4g} in the training rows does not allow such an effect"
        yield (
            "sample",
            f"cannot be told: the mean outcome {reason}; set outcome.{missing} in the config under"
            " a new experiment name",
        )


def find(connection: sa.Connection, experiment: str) -> Registration | None:
    """What was registered, or None before the first predict."""
    content = connection.scalar(
        sa.select(registrations.c.content).where(registrations.c.experiment == experiment)
    )
    return None if content is None else Registration.model_validate_json(content)


def register(
    connection: sa.Connection, registration: Registration, registered_at: datetime, run_id: str
) -> None:
    """Write the experiment's one row, which is never changed.

    The hash is that of the UTF-8 text in `content`.
    """
    content = registration.model_dump(mode="json")
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    connection.execute(
        registrations.insert().values(
            experiment=registration.salt,
            hash=hashlib.sha256(text.encode()).hexdigest(),
            content=text,
            registered_at=registered_at,
            run_id=run_id,
        )
    )
