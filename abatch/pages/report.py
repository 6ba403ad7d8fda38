"""The report: what abatch's tables say of one experiment, as one HTML file that needs nothing else.

`read` takes the figures from the tables, `render` makes the page of them, and `write_report` does
both. The page has no script, no link and no time of its own: the same figures give the same bytes.
Its sentences stand in report.html.j2.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from abatch import files
from abatch.config import Experiment
from abatch.database import tables
from abatch.experiment import registrations, terms
from abatch.experiment.registrations import OUTCOME, Registration, Terms
from abatch.experiment.scores import ALL
from abatch.modelling import registry
from abatch.modelling.card import Card
from abatch.pages.gaps import describe_gaps, find_gaps
from abatch.pages.html import load_template, show_number, show_percent, show_pvalue
from abatch.pages.plots import (
    DASHED,
    GREY,
    INK,
    PALETTE,
    Plot,
    draw_intervals,
    draw_svg,
    mark_days,
    plot_reliability,
    set_limits,
)
from abatch.statistics import drift, stats, words
from abatch.statistics.metrics import MIN_CASES, N_RELIABILITY_BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# How many of the newest or largest are shown.
N_COHORTS, N_DRIFT, N_FEATURES, N_PROMOTIONS, N_RUNS = 53, 12, 15, 10, 20
LATE_DAYS = 3  # a feed further behind than a weekend is called late
PACE_DAYS = 28  # of the newest looks, by whose pace the days to wait are reckoned
CAUSES = (  # that usually explain a finding that misses the expectation
    "Base rate against the plan",
    "Candidates against those of training",
    "Calibration, each model on its own variant",
    "Ranking against validation",
    "Sample ratio",
    "Outcomes not yet known",
)
HISTORY = {  # metric: title, and the value that stands for no skill or for right
    "roc_auc": ("ROC AUC", 0.5),
    "log_loss": ("Log loss", None),
    "brier_skill": ("Brier skill", 0.0),
    "calibration_intercept": ("Calibration intercept", 0.0),
    "calibration_slope": ("Calibration slope", 1.0),
}
Key = tuple[str, str, str]  # model_name, cohort, metric


class Figures(NamedTuple):
    """All that the page shows, as it was read."""

    experiment: str
    environment: str
    run_date: date
    variants: list[str]  # in the order of the split
    modelled: dict[str, str]  # variant -> name and version of its model today
    terms: Terms  # as registered; before that, as the config has them
    registration: Registration | None
    registered: sa.Row | None  # its row
    looks: Sequence[sa.Row]  # oldest first
    verdicts: dict[tuple[str, str], list[sa.Row]]  # by comparison and metric, oldest first
    ratios: Sequence[sa.Row]  # sample_ratios of the newest look
    conclusion: sa.Row | None  # the newest
    variant_scores: dict[str, sa.Row]  # of all cohorts together, by variant
    scores: dict[Key, sa.Row]
    scored: sa.Row | None  # the run that wrote them
    features: Sequence[sa.Row]  # feature_drift of the newest cohort, the largest first
    models: dict[str, sa.Row]  # the dated models, newest first
    live: dict[str, str]
    promotions: Sequence[sa.Row]  # newest first
    runs: Sequence[sa.Row]  # newest first
    done: dict[str, date]  # the newest night that each job has done
    nights: list[date]  # with predictions, up to run_date, in order


class Finding(NamedTuple):
    """One registered comparison, and what is known of it."""

    name: str
    treatment: str
    control: str
    history: Sequence[sa.Row]  # its verdicts, oldest first
    drawn: Sequence[sa.Row]  # those with figures
    today: sa.Row | None
    first: sa.Row | None  # the first that decided
    guardrails: list[sa.Row]  # today's
    n_left: int | None  # candidates to wait for at most; None without a plan
    days_left: int | None  # at the pace of the newest looks; None without one
    told: sa.Row | None  # today's, if it speaks by figures: neither too early nor invalid
    misses: bool  # the expectation


class Evidence(NamedTuple):
    """What the tables say of one usual cause of a finding that misses the expectation."""

    cause: str  # one of CAUSES
    where: str
    found: str
    expected: str
    unusual: bool | None  # None where the tables hold no interval to judge by


class Scale(NamedTuple):
    """How a difference is told: what it is multiplied by, its decimals, in what, and what less of
    it is called.
    """

    factor: int
    decimals: int
    unit: str
    less: str


def write_report(connection: sa.Connection, experiment: Experiment, run_date: date) -> Path:
    """Write reports/<experiment>.html from what the tables hold, and return its path.

    Raises
    ------
    AbatchError
        If the folder or the file cannot be written.
    """
    path = experiment.environment.reports_dir / f"{experiment.name}.html"
    files.check_writable(path.parent)
    files.write_file(path, render(read(connection, experiment, run_date)).encode())
    return path


def read(connection: sa.Connection, experiment: Experiment, run_date: date) -> Figures:
    """Read what the page shows; nothing is computed here."""

    def rows(
        table: sa.Table,
        *where: sa.ColumnElement[bool],
        by: Sequence[sa.ColumnElement] = (),
        limit: int | None = None,
    ) -> Sequence:
        query = (
            sa.select(table)
            .where(table.c.experiment == experiment.name, *where)
            .order_by(*by)
            .limit(limit)
        )
        return connection.execute(query).all()

    names = ("runs", "scores", "looks", "verdicts", "sample_ratios", "feature_drift", "models")
    run, score, look, verdict, ratio, feature, model = (getattr(tables, name).c for name in names)
    registration = registrations.find(connection, experiment.name)
    looked = rows(tables.looks, look.run_date <= run_date, by=[look.run_date])
    history = defaultdict(list)
    for row in rows(tables.verdicts, verdict.run_date <= run_date, by=[verdict.run_date]):
        history[row.comparison, row.metric].append(row)
    by_variant = rows(tables.variant_scores, tables.variant_scores.c.cohort == ALL)
    newest = (
        sa.select(sa.func.max(feature.cohort))
        .where(feature.experiment == experiment.name)
        .scalar_subquery()
    )
    done = rows(tables.runs, run.status == "done", run.run_date <= run_date, by=[run.run_date])
    return Figures(
        experiment=experiment.name,
        environment=experiment.environment.name,
        run_date=run_date,
        variants=list(experiment.split),
        modelled={
            variant: registry.undated_name(model.name, model.version)
            for variant, model in experiment.models.items()
        },
        terms=registration or terms.describe(experiment),
        registration=registration,
        registered=next(iter(rows(tables.registrations)), None),
        looks=looked,
        verdicts=dict(history),
        ratios=(
            rows(
                tables.sample_ratios,
                ratio.run_date == looked[-1].run_date,
                by=[ratio.stage, ratio.variant],
            )
            if looked
            else []
        ),
        conclusion=next(
            iter(rows(tables.conclusions, by=[tables.conclusions.c.conclusion_id.desc()], limit=1)),
            None,
        ),
        variant_scores={row.variant: row for row in by_variant},
        scores={
            (row.model_name, row.cohort, row.metric): row
            for row in rows(tables.scores, (score.cohort == ALL) | score.metric.in_(HISTORY))
        },
        scored=(
            next(iter(rows(tables.runs, run.run_id == by_variant[0].run_id)), None)
            if by_variant
            else None
        ),
        features=rows(
            tables.feature_drift,
            feature.cohort == newest,
            by=[feature.psi.desc(), feature.model_name, feature.feature],
        ),
        models={
            row.model_name: row
            for row in rows(
                tables.models, by=[model.as_of.desc(), model.run_id.desc(), model.model_name]
            )
        },
        live=registry.find_live(connection, experiment.name, run_date),
        promotions=rows(
            tables.promotions, by=[tables.promotions.c.promotion_id.desc()], limit=N_PROMOTIONS
        ),
        runs=rows(tables.runs, by=[run.started_at.desc(), run.run_id], limit=N_RUNS),
        done={row.job: row.run_date for row in done},
        nights=[row.run_date for row in done if row.job == "predict"],
    )


def render(figures: Figures) -> str:
    """The page, which depends on nothing but the figures."""
    terms, outcome = figures.terms, figures.terms.outcome
    scales = {OUTCOME: find_scale(outcome.kind, outcome.expected_effect, terms.exposure)}
    scales |= {
        name: find_scale(guardrail.kind, guardrail.margin, terms.exposure)
        for name, guardrail in terms.guardrails.items()
    }
    ratio_alpha = terms.sample_ratio.alpha
    watermark = figures.looks[-1].watermark if figures.looks else None
    findings = find_findings(figures)
    names = find_names(figures)
    owner = _find_owners(figures)
    measured = [name for name in names if (name, ALL, "roc_auc") in figures.scores]
    colours = _choose_colours(figures, names, owner)
    plots = {
        f.name: _plot_sequence(f, outcome.expected_effect, scales[OUTCOME], f"s{i}")
        for i, f in enumerate(findings)
        if f.drawn
    }
    if measured:
        plots["lift"] = _plot_lift(figures.scores, measured, colours)
        plots |= {
            metric: _plot_history(figures.scores, metric, measured, colours) for metric in HISTORY
        }
    plots |= {
        name: _plot_reliability(figures.scores, name, colours[name], f"r{i}")
        for i, name in enumerate(measured)
    }

    return load_template("report.html.j2").render(
        f=figures,
        all=ALL,
        words=words,
        outcome=outcome,
        scale=scales[OUTCOME],
        scales=scales,
        findings=findings,
        causes=CAUSES,
        evidence=[*find_evidence(figures)] if any(finding.misses for finding in findings) else [],
        strips={
            f.name: place_strip(f.told, outcome.expected_effect)
            for f in findings
            if f.told is not None
        },
        oversized=find_oversized(figures.ratios, ratio_alpha),
        ratio_alpha=ratio_alpha,
        behind=None if watermark is None else (figures.run_date - watermark).days,
        late_days=LATE_DAYS,
        names=names,
        measured=measured,
        owner=owner,
        colours=colours,
        plots=plots,
        known_from=_find_known_from(figures),
        missed=describe_gaps(find_gaps(figures.nights, figures.run_date)),
        drifts=[
            (name, figures.scores[name, ALL, "psi"], figures.scores[name, ALL, "psi_noise"].value)
            for name in figures.models
            if (name, ALL, "psi") in figures.scores
        ][:N_DRIFT],
        drift=drift,
        n_features=N_FEATURES,
        history=HISTORY,
        min_cases=MIN_CASES,
        n_cohorts=N_COHORTS,
        took=_show_took,
        anchor=_anchor,
    )


def _find_owners(figures: Figures) -> dict[str, str]:
    """The variant of each name and version."""
    return {
        registry.undated_name(row.name, row.version): row.variant for row in figures.models.values()
    }


def find_names(figures: Figures) -> list[str]:
    """Name and version of the models that have figures, in the order of the variants."""
    owner = _find_owners(figures)
    names = {name for name, _, _ in figures.scores} - set(figures.models)
    return sorted(
        names, key=lambda name: ([*figures.variants, owner.get(name)].index(owner.get(name)), name)
    )


def find_scale(kind: str, effect: float, exposure: str) -> Scale:
    """Binary differences per hundred, numeric ones in the outcome's unit.

    About three digits of the effect that matters.
    """
    who = "candidate" if exposure == "first" else "prediction"
    factor, unit, less = (
        (100, f"outcomes per hundred {who}s", "fewer")
        if kind == "binary"
        else (1, f"per {who}", "less")
    )
    return Scale(factor, max(0, 2 - round(math.log10(abs(factor * effect) or 1))), unit, less)


def find_findings(figures: Figures) -> list[Finding]:
    """What is known of each registered comparison."""
    registration, findings = figures.registration, []
    if registration is None:
        return []
    for comparison in registration.comparisons:
        name, effect = comparison.name, registration.outcome.expected_effect
        history = figures.verdicts.get((name, OUTCOME), [])
        today = history[-1] if history else None
        sample = registration.plan.samples.get(name)
        n_left = None
        if sample is not None:
            n_left = max(0, sample.n_most - (figures.looks[-1].n_units if figures.looks else 0))
        told = (
            None
            if today is None
            or today.lower is None
            or today.word in (words.TOO_EARLY, words.INVALID)
            else today
        )
        findings.append(
            Finding(
                name=name,
                treatment=_join(comparison.treatment),
                control=_join(comparison.control),
                history=history,
                drawn=[row for row in history if row.estimate is not None],
                today=today,
                first=next((row for row in history if row.word in words.DECIDED), None),
                guardrails=[
                    figures.verdicts[name, rule][-1]
                    for rule in registration.guardrails
                    if (name, rule) in figures.verdicts
                ],
                n_left=n_left,
                days_left=_find_days_left(figures.looks, n_left),
                told=told,
                misses=told is not None
                and misses_expectation(told, effect, is_beyond_plan=n_left == 0),
            )
        )
    return findings


def _join(variants: Sequence[str]) -> str:
    return (
        variants[0]
        if len(variants) == 1
        else f"{', '.join(variants[:-1])} and {variants[-1]} together"
    )


def _find_days_left(looks: Sequence[sa.Row], n_left: int | None) -> int | None:
    recent = [
        look
        for look in looks
        if look.n_units and (looks[-1].run_date - look.run_date).days <= PACE_DAYS
    ]
    if not n_left or len(recent) < 2 or recent[-1].n_units <= recent[0].n_units:
        return None
    return math.ceil(
        n_left
        * (recent[-1].run_date - recent[0].run_date).days
        / (recent[-1].n_units - recent[0].n_units)
    )


def misses_expectation(row: sa.Row, effect: float, *, is_beyond_plan: bool) -> bool:
    """Whether a verdict says less than was hoped: the wrong direction, too little, or nothing
    though all planned have come.
    """
    falls_short = row.upper < effect if effect > 0 else row.lower > effect
    return (
        falls_short
        or row.word in (words.WORSE, words.NO_DIFFERENCE)
        or (row.word == words.NOT_YET and is_beyond_plan)
    )


def find_oversized(ratios: Sequence[sa.Row], alpha: float) -> list[sa.Row]:
    """Of each stage whose sample ratio is off, the variant that is most above its share."""
    most: dict[str, sa.Row] = {}
    for row in ratios:
        if row.pvalue_min < alpha and row.n - row.expected > (
            most[row.stage].n - most[row.stage].expected if row.stage in most else 0
        ):
            most[row.stage] = row
    return [*most.values()]


def find_evidence(figures: Figures) -> Iterator[Evidence]:
    """The evidence for the usual causes of a finding that misses the expectation: figures of the
    tables and no others.
    """
    registration, found = figures.registration, figures.scores
    assert registration is not None
    base_rate, mix, calibration, ranking, ratio, immature = CAUSES
    planned, is_binary = registration.plan.mean, registration.outcome.kind == "binary"
    show = show_percent if is_binary else show_number
    for variant in registration.comparisons[0].control:
        row = figures.variant_scores.get(variant)
        if row is not None and row.n_mature and planned is not None:
            told = _tell(row.rate, row, show) if is_binary else show(row.outcome_sum / row.n_mature)
            yield Evidence(
                base_rate,
                variant,
                told,
                f"{show(planned)}, as planned",
                _excludes(row, planned) if is_binary else None,
            )
    for name in figures.live.values():
        drifts = [
            (row.feature, row.psi, row.psi_noise)
            for row in figures.features
            if row.model_name == name
        ]
        if (name, ALL, "psi") in found:
            drifts.insert(
                0,
                ("its scores", found[name, ALL, "psi"].value, found[name, ALL, "psi_noise"].value),
            )
        for what, psi, noise in [
            item for i, item in enumerate(drifts) if i < 2 or drift.is_drift(*item[1:])
        ][:N_FEATURES]:
            told = f"PSI {show_number(psi)}; {show_number(noise)} by chance"
            yield Evidence(
                mix,
                f"{name}, {what}",
                told,
                f"at most {show_number(max(0.1, noise))}",
                drift.is_drift(psi, noise),
            )
    for name in find_names(figures):
        for metric, right in (("calibration_intercept", 0), ("calibration_slope", 1)):
            if (row := found.get((name, ALL, metric))) is not None:
                yield Evidence(
                    calibration,
                    name,
                    f"{metric.split('_')[1]} {_tell(row.value, row)}",
                    f"{right} is right",
                    _excludes(row, right),
                )
        validated = [
            roc_auc
            for row in figures.models.values()
            if registry.undated_name(row.name, row.version) == name
            and (roc_auc := Card.model_validate_json(row.card).roc_auc) is not None
        ]
        if (row := found.get((name, ALL, "roc_auc"))) is not None and validated:
            span = " to ".join(
                dict.fromkeys(show_number(value) for value in (min(validated), max(validated)))
            )
            below = None if row.upper is None else bool(row.upper < min(validated))
            yield Evidence(
                ranking, name, f"ROC AUC {_tell(row.value, row)}", f"{span}, on validation", below
            )
    alpha = registration.sample_ratio.alpha
    for stage, pvalue in {row.stage: row.pvalue_min for row in figures.ratios}.items():
        yield Evidence(
            ratio,
            stage,
            f"smallest p so far: {show_pvalue(pvalue)}",
            f"{alpha:g} or more",
            pvalue < alpha,
        )
    look = figures.looks[-1]
    share = 1 - look.n_mature / look.n_predicted
    yield Evidence(
        immature,
        "all variants",
        f"{show_percent(share)} of {look.n_predicted:,} predictions",
        "at most half",
        share > 0.5,
    )


def _tell(value: float, row: sa.Row, show: Callable[[float | None], str] | None = None) -> str:
    show = show or show_number
    return show(value) + (
        " (no interval)" if row.lower is None else f" ({show(row.lower)} to {show(row.upper)})"
    )


def _excludes(row: sa.Row, value: float) -> bool | None:
    return None if row.lower is None else not row.lower <= value <= row.upper


def place_strip(row: sa.Row, effect: float) -> dict[str, float]:
    """Where the marks of a verdict's small picture stand, in % of its width."""
    marks = {
        "zero": 0.0,
        "effect": effect,
        "lower": row.lower,
        "upper": row.upper,
        "estimate": row.estimate,
    }
    low, high = min(marks.values()), max(marks.values())
    return {name: round(4 + 92 * (value - low) / (high - low), 2) for name, value in marks.items()}


def _show_took(run: sa.Row) -> str:
    if run.finished_at is None:
        return "–"
    seconds = round((run.finished_at - run.started_at).total_seconds())
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


def _anchor(at: float) -> str:
    """Of a text at `at` % of a picture's width."""
    return "start" if at < 25 else "end" if at > 75 else "middle"


def _find_known_from(figures: Figures) -> date | None:
    """The day up to which outcomes must be complete before anything is mature.

    None if there is no night or registration.
    """
    if figures.registration is None or not figures.nights:
        return None
    outcome = figures.registration.outcome
    return figures.nights[0] + timedelta(days=outcome.window_days + outcome.lag_days)


def _choose_colours(
    figures: Figures, names: Iterable[str], owner: Mapping[str, str]
) -> dict[str, str]:
    """One colour for a variant and its model of today; grey for a variant without.

    Others for models of earlier versions.
    """
    colours = {variant: GREY for variant in figures.variants}
    colours |= {variant: PALETTE[i % len(PALETTE)] for i, variant in enumerate(figures.modelled)}
    current = {
        name: colours[variant]
        for variant, name in figures.modelled.items()
        if owner.get(name, variant) == variant
    }
    others = [name for name in names if name not in current]
    return (
        colours
        | current
        | {
            name: PALETTE[(len(figures.modelled) + i) % len(PALETTE)]
            for i, name in enumerate(others)
        }
    )


def _plot_sequence(finding: Finding, effect: float, scale: Scale, key: str) -> Plot:
    rows = finding.drawn
    days = [row.run_date for row in rows]
    x = [day.toordinal() for day in days]
    estimate, lower, upper, naive_lower, naive_upper = (
        scale.factor * np.array([_find_bounds(row) for row in rows], dtype=np.float64).T
    )

    def draw(axes: "Axes") -> None:
        axes.fill_between(x, lower, upper, color=PALETTE[0], alpha=0.25, linewidth=0)
        axes.plot(x, naive_lower, x, naive_upper, color=PALETTE[1], linewidth=0.9)
        axes.plot(x, estimate, color=PALETTE[0], linewidth=1.6)
        draw_intervals(axes, x[-1:], [(estimate[-1], lower[-1], upper[-1])], PALETTE[0], size=5)
        axes.axhline(0, color=INK, linewidth=0.9)
        axes.axhline(scale.factor * effect, **DASHED)
        set_limits(
            axes, [0, scale.factor * effect, estimate[-1], lower[-1], upper[-1]], lower, upper
        )
        note: dict[str, Any] = {"textcoords": "offset points", "color": INK, "fontsize": 8.5}
        axes.annotate("registered", (x[0], scale.factor * effect), (0, 3), **note)
        if finding.first is not None:
            at = finding.first.run_date.toordinal()
            side = "left" if 2 * at < x[0] + x[-1] else "right"
            axes.axvline(at, color=INK, linewidth=0.9, linestyle=":")
            axes.annotate(" decided first ", (at, axes.get_ylim()[0]), (0, 3), ha=side, **note)
        mark_days(axes, days)
        axes.set_ylabel(f"{scale.unit.capitalize()},\nmore (+) or {scale.less} (−)")
        axes.grid(axis="y")

    value, low, high = (
        show_number(found, scale.decimals) for found in (estimate[-1], lower[-1], upper[-1])
    )
    told = value if np.isnan(lower[-1]) else f"{value} ({low} to {high})"
    return Plot(
        draw_svg(draw, key, 4.2, 3.0),
        f"Plot of the difference on {len(rows)} looks, {scale.unit}; on {days[-1]} {told}",
    )


def _find_bounds(row: sa.Row) -> tuple[float | None, ...]:
    """Estimate, interval (none before the burn-in is over) and naive interval of a verdict."""
    bounds = (None, None) if row.word == words.TOO_EARLY else (row.lower, row.upper)
    return (
        row.estimate,
        *bounds,
        *((None, None) if row.se is None else stats.naive_interval(row.estimate, row.se)),
    )


def _plot_lift(
    found: Mapping[Key, sa.Row], names: Sequence[str], colours: Mapping[str, str]
) -> Plot:
    words: list[str] = []

    def draw(axes: "Axes") -> None:
        for at, name in enumerate(names):
            tenths = [
                (N_RELIABILITY_BINS - i, found.get((name, ALL, f"reliability_rate_{i + 1:02}")))
                for i in range(N_RELIABILITY_BINS)
            ]
            rates = [
                (tenth, row.value, row.lower, row.upper) for tenth, row in tenths if row is not None
            ]
            x, *lifts = np.array(rates, dtype=np.float64).reshape(-1, 4).T
            lifts = np.array(lifts).T / found[name, ALL, "base_rate"].value
            aside = 0.16 * (at - (len(names) - 1) / 2)  # so that intervals stand beside each other
            draw_intervals(axes, x + aside, lifts, colours[name], size=5)
            pairs = zip(x[::-1], lifts[::-1, 0], strict=True)
            told = ", ".join(f"{lift:.2f} in {tenth:.0f}" for tenth, lift in pairs)
            words.append(f"{name}: {told}")
        axes.axhline(1, **DASHED)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.set_xticks(range(1, N_RELIABILITY_BINS + 1))
        axes.set(
            xlabel="Tenth, from the highest predictions (1) down", ylabel="Lift, with 95 % interval"
        )
        axes.grid(axis="y")

    svg = draw_svg(draw, "lift", 4.0, 2.8)
    return Plot(
        svg, f"Plot of lift by tenth of the predictions, 1 being the highest; {'; '.join(words)}"
    )


def _plot_history(
    found: Mapping[Key, sa.Row], metric: str, names: Sequence[str], colours: Mapping[str, str]
) -> Plot:
    title, right = HISTORY[metric]
    rows = {
        (name, cohort): row
        for (name, cohort, key), row in found.items()
        if key == metric and cohort != ALL and name in names
    }
    cohorts = sorted({cohort for _, cohort in rows})[-N_COHORTS:]
    rows = {key: row for key, row in rows.items() if key[1] in cohorts}
    days = [date.fromisoformat(cohort) for cohort in cohorts]
    step = min(((after - before).days for before, after in pairwise(days)), default=7)
    kept: list[float] = [] if right is None else [right]
    words: list[str] = []

    def draw(axes: "Axes") -> None:
        for i, name in enumerate(names):
            own = [rows[name, cohort] for cohort in cohorts if (name, cohort) in rows]
            aside = 0.3 * step / len(names) * (i - (len(names) - 1) / 2)
            x = [date.fromisoformat(row.cohort).toordinal() + aside for row in own]
            axes.plot(x, [row.value for row in own], color=colours[name], linewidth=1, alpha=0.5)
            draw_intervals(
                axes,
                x,
                [(row.value, row.lower, row.upper) for row in own],
                colours[name],
                size=5 if len(days) < 20 else 3,
            )
            kept.extend(row.value for row in own)
            words.extend(
                f"{name} {show_number(row.value)} in the cohort of {row.cohort}" for row in own[-1:]
            )
        if right is not None:
            axes.axhline(right, **DASHED)
        if days:
            set_limits(
                axes,
                kept,
                [row.lower for row in rows.values()],
                [row.upper for row in rows.values()],
            )
            mark_days(axes, days)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.grid(axis="y")

    svg = draw_svg(draw, metric, 3.6, 2.3)
    return Plot(
        svg, f"Plot of {title} over cohorts of run_date; newest: {'; '.join(words) or 'none yet'}"
    )


def _plot_reliability(found: Mapping[Key, sa.Row], name: str, colour: str, key: str) -> Plot:
    bins = [
        f"{i + 1:02}"
        for i in range(N_RELIABILITY_BINS)
        if (name, ALL, f"reliability_rate_{i + 1:02}") in found
    ]
    pairs = [
        (found[name, ALL, f"reliability_prediction_{i}"], found[name, ALL, f"reliability_rate_{i}"])
        for i in bins
    ]
    return plot_reliability(
        name,
        [(mean.value, rate.value, rate.lower, rate.upper) for mean, rate in pairs],
        colour,
        key,
    )
