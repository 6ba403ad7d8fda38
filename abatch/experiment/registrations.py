"""Registrations: what an experiment asks, written down before its first outcome, never changed."""

import hashlib
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from math import ceil
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from abatch.config import Experiment
from abatch.database.tables import registrations
from abatch.errors import ConfigError
from abatch.experiment.assignment import split_thresholds
from abatch.queries import clean_query
from abatch.statistics import stats

_LITERAL = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|\[[^\]]*\])""")


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


class TrainingOutcome(NamedTuple):
    """The outcome in the training rows: it stands in for what the config does not say.

    Attributes
    ----------
    mean, sd : capped
    rate : share of the rows in which it is above 0
    """

    mean: float | None
    sd: float | None
    rate: float | None


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
        burn_in=BurnIn(units=stats.MIN_UNITS, cases=stats.MIN_CASES, nonzero=stats.MIN_NONZERO),
        sample_ratio=SampleRatio(weight=stats.SRM_WEIGHT, alpha=stats.SRM_ALPHA),
        guardrails={
            name: Guardrail(**{**guardrail.model_dump(), "query": queries[name]})
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
    controls = [variant for variant in experiment.split if variant not in experiment.models]
    champion = experiment.champion or modelled[0]
    chosen = experiment.verdicts or ["models_vs_control", "challenger_vs_champion"]
    comparisons = []
    if controls and "models_vs_control" in chosen:
        comparisons.append(
            Comparison(comparison="models vs control", treatment=modelled, control=controls)
        )
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
    experiment: Experiment,
    assignment: str,
    start_date: date,
    trained: TrainingOutcome,
    n_candidates: int,
) -> Registration:
    """What the first predict registers; n_candidates are those of its night, start_date."""
    terms = describe(experiment)
    return Registration(
        **terms.model_dump(),
        assignment=assignment,
        start_date=start_date,
        plan=make_plan(terms, trained, n_candidates),
    )


def make_plan(terms: Terms, trained: TrainingOutcome, n_candidates: int) -> Plan:
    """How many candidates and days the verdicts will take, if every night brings n_candidates."""
    is_binary, effect = terms.outcome.kind == "binary", terms.outcome.expected_effect
    mean = trained.mean if terms.baseline is None else terms.baseline
    sd = trained.sd if terms.baseline_sd is None else terms.baseline_sd
    rests_on = terms.baseline if is_binary else terms.baseline_sd
    samples: dict[str, Sample] = {}
    if is_binary and mean is not None and 0 < mean + effect < 1:
        moved, variance = mean + effect, mean * (1 - mean)
        sd = variance**0.5
        samples = _plan_samples(terms, moved * (1 - moved), variance, mean)
    elif not is_binary and sd is not None:
        samples = _plan_samples(terms, sd**2, sd**2, trained.rate or 1.0)
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
        source="the training rows" if rests_on is None else "the config",
        n_candidates=n_candidates,
        samples=samples,
        days_most=days_most,
        days_median=days_median,
    )


def _plan_samples(
    terms: Terms, variance_treatment: float, variance_control: float, rate: float
) -> dict[str, Sample]:
    """The sample of each comparison, from variances of one candidate's outcome; rate: above 0."""
    shares = {variant.name: variant.share for variant in terms.variants}
    samples = {}
    for comparison in terms.comparisons:
        treatment = [shares[variant] for variant in comparison.treatment]
        control = [shares[variant] for variant in comparison.control]
        plan = stats.plan_sample(
            variance_treatment,
            sum(treatment),
            variance_control,
            sum(control),
            abs(terms.outcome.expected_effect),
            len(terms.comparisons),
        )
        burn_in = ceil(stats.plan_burn_in(terms.outcome.kind, rate) / min(*treatment, *control))
        samples[comparison.name] = Sample(
            **{name: max(n, burn_in) for name, n in plan._asdict().items()}
        )
    return samples


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


def wrap_facts(facts: Iterable[tuple[str, str]]) -> list[str]:
    """Facts, each a word and a text, as lines for a terminal of 80 columns."""
    lines: list[str] = []
    for word, text in facts:
        lines += textwrap.wrap(
            text,
            79,
            initial_indent=f"  {word:<10} ",
            subsequent_indent=" " * 13,
            break_on_hyphens=False,
        )
    return lines


def normalise_query(sql: str) -> str:
    """A query as far as its meaning goes: without comments, with single spaces outside literals and
    quoted names.
    """
    pieces = _LITERAL.split(clean_query(sql))
    return "".join(piece if i % 2 else re.sub(r"\s+", " ", piece) for i, piece in enumerate(pieces))


def find(connection: sa.Connection, experiment: str) -> Registration | None:
    """What was registered, or None before the first predict."""
    content = connection.scalar(
        sa.select(registrations.c.content).where(registrations.c.experiment == experiment)
    )
    return None if content is None else Registration.model_validate_json(content)


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
    registration = find(connection, experiment.name)
    if registration is not None:
        place = str(experiment.environment.file)
        refuse_changes(registration, describe(experiment), place, assignment)
    return registration


def refuse_changes(
    registered: Terms, asked: Terms, place: str, assignment: str | None = None
) -> None:
    """Raise ConfigError, with a diff, if what is asked, at `place`, is not what is registered."""
    before, now = registered.model_dump(mode="json"), asked.model_dump(mode="json")
    if assignment is not None:
        now["assignment"] = assignment
    changed = [key for key in sorted(now) if before[key] != now[key]]
    if changed:
        lines = [
            f"  {key}\n    registered {_show(before[key])}\n    now        {_show(now[key])}"
            for key in changed
        ]
        raise ConfigError(
            f"{place}: experiment {asked.salt} is registered, and its verdict depends on what has"
            " changed here. Set it back, or ask the new question under a new experiment name.\n"
            + "\n".join(lines)
        )


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


def _show(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
