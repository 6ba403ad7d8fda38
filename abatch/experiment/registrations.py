"""Registrations: what an experiment asks, written down before its first outcome, never changed."""

import hashlib
import json
from collections.abc import Iterator
from datetime import date
from typing import Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from abatch.database import tables
from abatch.database.tables import registrations
from abatch.night import Night
from abatch.text import wrap_facts

OUTCOME = "outcome"  # the metric that is no guardrail


class Part(BaseModel):
    """A part of a registration, as its JSON names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class Outcome(Part):
    """What the config says of the outcome that may not change; see there."""

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
    """What each variant must have brought: candidates, and of these the rarer cases.

    Where amounts or exposures add up, also as many candidates as so many kurtoses of theirs.
    """

    units: int
    cases: int
    nonzero: int
    kurtoses: int


class SampleRatio(Part):
    """How the shares are tested: weight of the registered ones in the prior, and alpha.

    night_weight is the weight where nights are tested one by one, exposures_effect the relative
    difference of exposures per candidate by which their test is tuned.
    """

    weight: int
    night_weight: int
    exposures_effect: float
    alpha: float


class Guardrail(Part):
    """What must not get worse by more than margin; see the config."""

    kind: Literal["binary", "numeric"]
    direction: Literal["increase", "decrease"]
    margin: float
    cap: float | None
    query: str
    watermark: str | None


class Variant(Part):
    """A part of the split: candidates whose hash begins with at most hash_up_to."""

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

    @property
    def unit(self) -> str:
        """What the outcome is counted for."""
        return "candidate" if self.exposure == "first" else "prediction"

    @property
    def effect(self) -> str:
        """What is expected, in words."""
        return f"{self.outcome.expected_effect:+g} in the mean outcome per {self.unit}"


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
    rate : share of the candidates with an outcome, of amounts with one above 0 (of the training
        rows)
    kurtosis : of a numeric one in the training rows, capped; the burn-in asks for no less
    source : the config, or the training rows
    n_candidates : of the first night
    samples : by comparison; empty where nothing is known to plan with
    days_most, days_median : until the slowest verdict
    """

    mean: float | None
    sd: float | None
    rate: float | None
    kurtosis: float | None
    source: str
    n_candidates: int
    samples: dict[str, Sample]
    days_most: int | None
    days_median: int | None

    @property
    def rate_source(self) -> str:
        """Where the rate is from: a config has none of amounts."""
        return self.source if self.rate == self.mean else "the training rows"


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
    head = f"{registration.salt}: a new experiment. Its first predict registers for good:\n"
    facts = [*_list_terms(registration), *_list_samples(registration)]
    return head + wrap_facts(facts)


def _list_terms(registration: Registration) -> Iterator[tuple[str, str]]:
    outcome, plan = registration.outcome, registration.plan
    yield "asked", registration.hypothesis
    name, figure = "mean", plan.mean
    if outcome.kind == "numeric":
        name, figure = "standard deviation", plan.sd
    planned = "" if figure is None else f"; planned with a {name} of {figure:.4g} ({plan.source})"
    yield "expected", f"{registration.effect}; {registration.direction} is good{planned}"
    is_first = registration.exposure == "first"
    counted = "the first mature prediction" if is_first else "all mature predictions"
    yield "counted", f"{counted} of each candidate, outcomes within {outcome.window_days} days"
    names = [comparison.name for comparison in registration.comparisons]
    asked = f"{len(names)}: {'; '.join(names)}" if names else "none: there is nothing to compare"
    yield "verdicts", asked
    for name, guardrail in registration.guardrails.items():
        yield "guardrail", f"{name}: {guardrail.direction} is good, margin {guardrail.margin:g}"
    if names:
        sure = f"{1 - registration.alpha:.0%} for all of them together, on all days"
        yield "how sure", f"{sure}, however often somebody looks"


def _list_samples(registration: Registration) -> Iterator[tuple[str, str]]:
    plan, unit, power = registration.plan, registration.unit, f"{registration.power:.0%}"
    for name, sample in plan.samples.items():
        most = f"{name}: {sample.n_most:,} {unit}s at most for {power} power"
        median = f"half of the time {sample.n_median:,} or fewer"
        yield "sample", f"{most}, {median} (read once: {sample.n_fixed:,})"
    if plan.samples:
        most = f"{plan.days_most:,} days at most for {power} power"
        median = f"half of the time {plan.days_median:,} or fewer"
        pace = f"if every night brings {plan.n_candidates:,} new candidates as this one does"
        yield "time", f"{most}, {median}, {pace}"
        if registration.exposure == "all":
            larger = "sample and time are larger where the same candidates come again"
            yield "", f"{larger}: they know little new"
    elif registration.comparisons:
        missing = "baseline" if registration.outcome.kind == "binary" else "baseline_sd"
        reason = "is unknown"
        if plan.mean is not None:
            reason = f"{plan.mean:.4g} in the training rows does not allow such an effect"
        mend = f"set outcome.{missing} in the config under a new experiment name"
        yield "sample", f"cannot be told: the mean outcome {reason}; {mend}"


def list_doubts(registration: Registration) -> list[str]:
    """What whoever registers should know before it cannot be changed any more."""
    kinds = {OUTCOME: (registration.outcome.kind, registration.cap)}
    kinds |= {name: (rule.kind, rule.cap) for name, rule in registration.guardrails.items()}
    n_least = f"{registration.burn_in.kurtoses} times their kurtosis"
    return [
        f"{registration.salt}: {name} is numeric and has no cap. Where rare large amounts carry the"
        f" variance, verdicts wait until each variant has {n_least} in candidates, which may be for"
        " ever, and an amount that nobody has brought yet cannot be counted. Unless these amounts"
        " are the question, ask it under a new name with a cap, at about the 99 % quantile of what"
        " is not 0."
        for name, (kind, cap) in kinds.items()
        if kind == "numeric" and cap is None
    ]


def find(connection: sa.Connection, experiment: str) -> Registration | None:
    """What was registered, or None before the first predict."""
    query = sa.select(registrations.c.content).filter_by(experiment=experiment)
    content = connection.scalar(query)
    return None if content is None else parse_registration(experiment, content)


def parse_registration(experiment: str, content: str) -> Registration:
    """What a row of `registrations` says; DatabaseError if abatch did not write it."""
    place = f"registrations.content of {experiment}"
    return tables.parse(Registration.model_validate_json, content, place)


def register(connection: sa.Connection, night: Night, registration: Registration) -> None:
    """Write the experiment's one row, which is never changed.

    The hash is that of the UTF-8 text in `content`.
    """
    text = json.dumps(registration.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
    connection.execute(
        registrations.insert().values(
            experiment=registration.salt,
            hash=hashlib.sha256(text.encode()).hexdigest(),
            content=text,
            registered_at=night.started_at,
            run_id=night.run_id,
        )
    )
