"""Registrations: what an experiment asks, written down before its first outcome, never changed."""

import hashlib
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from datetime import datetime
from math import ceil
from typing import Any

import sqlalchemy as sa

from abatch.database.tables import registrations
from abatch.errors import ConfigError
from abatch.experiment.assignment import split_thresholds
from abatch.queries import clean_query
from abatch.statistics import stats

_LITERAL = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|\[[^\]]*\])""")


def describe(
    experiment: str, settings: Mapping[str, Any], sql: Mapping[str, str], timezone: str
) -> dict[str, Any]:
    """All that the experiment's verdict will depend on, as JSON holds it.

    Parameters
    ----------
    settings : the experiment's part of the config as plain values
    sql : text of the queries by name
    """
    limits, outcome = split_thresholds(settings["split"]), settings["outcome"]
    return {
        "hypothesis": " ".join(settings["hypothesis"].split()),
        "outcome": {
            name: outcome[name] for name in ("kind", "window_days", "lag_days", "expected_effect")
        },
        "direction": "increase" if outcome["expected_effect"] > 0 else "decrease",
        **{name: outcome[name] for name in ("baseline", "baseline_sd", "cap")},
        "exposure": settings["exposure"],
        "comparisons": list_comparisons(settings),
        "alpha": stats.ALPHA,
        "power": stats.POWER,
        "burn_in": {
            "units": stats.MIN_UNITS,
            "cases": stats.MIN_CASES,
            "nonzero": stats.MIN_NONZERO,
        },
        "sample_ratio": {"weight": stats.SRM_WEIGHT, "alpha": stats.SRM_ALPHA},
        "guardrails": {
            name: {
                **{key: guardrail[key] for key in ("kind", "direction", "margin", "cap")},
                "query": normalise_query(sql[name]),
            }
            for name, guardrail in settings["guardrails"].items()
        },
        "salt": experiment,
        "variants": [
            {
                "variant": variant,
                "share": share,
                "hash_up_to": f"{limits[variant] - 1:016x}",
                "has_model": variant in settings["models"],
            }
            for variant, share in settings["split"].items()
        ],
        "select_top": settings["select_top"],
        **{f"{name}_query": normalise_query(sql[name]) for name in ("outcomes", "watermark")},
        "timezone": timezone,
    }


def complete(
    registered: Mapping[str, Any],
    experiment: str,
    settings: Mapping[str, Any],
    sql: Mapping[str, str],
    timezone: str,
) -> dict[str, Any]:
    """What is registered, with the defaults of what an earlier version did not register.

    Parameters as in `describe`.
    """
    outcome = {
        **settings["outcome"],
        "cap": None,
    }  # the baseline is but for the plan, which is made once
    plain = {
        **settings,
        "outcome": outcome,
        "exposure": "first",
        "champion": None,
        "verdicts": None,
        "guardrails": {},
    }
    return {**describe(experiment, plain, sql, timezone), **registered}


def list_comparisons(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The registered verdicts: the models pooled against control, and each challenger against the
    champion.

    Returns
    -------
    list of dict
        comparison (its name), treatment and control (lists of variants); empty if there is nothing
        to compare with.
    """
    modelled = [variant for variant in settings["split"] if variant in settings["models"]]
    champion = settings["champion"] or modelled[0]
    wanted = settings["verdicts"] or ["models_vs_control", "challenger_vs_champion"]
    found = []
    controls = [variant for variant in settings["split"] if variant not in settings["models"]]
    if controls and "models_vs_control" in wanted:
        found.append(
            {"comparison": "models vs control", "treatment": modelled, "control": controls}
        )
    if "challenger_vs_champion" in wanted:
        challengers = [variant for variant in modelled if variant != champion]
        found += [
            {
                "comparison": f"{variant} vs {champion}",
                "treatment": [variant],
                "control": [champion],
            }
            for variant in challengers
        ]
    return found


def make_plan(
    content: Mapping[str, Any], card: Mapping[str, Any], n_candidates: int
) -> dict[str, Any]:
    """How many candidates and days the registered verdicts will take.

    Parameters
    ----------
    content : of the registration
    card : of a model, whose training rows stand in for what the config does not say
    n_candidates : of the first night

    Returns
    -------
    dict
        mean and sd of the outcome that it plans with and their source, samples by comparison (see
        stats.Plan), days_most and days_median until the slowest verdict; null where nothing is
        known to plan with.
    """
    outcome, shares = (
        content["outcome"],
        {variant["variant"]: variant["share"] for variant in content["variants"]},
    )
    mean = content["baseline"] if content["baseline"] is not None else card.get("outcome_mean")
    sd = content["baseline_sd"] if content["baseline_sd"] is not None else card.get("outcome_sd")
    is_binary = outcome["kind"] == "binary"
    given = (
        content["baseline" if is_binary else "baseline_sd"] is not None
    )  # the figure that the sample rests on
    plan: dict[str, Any] = {
        "mean": mean,
        "sd": sd,
        "source": "the config" if given else "the training rows",
    }
    plan |= {"n_candidates": n_candidates, "samples": {}, "days_most": None, "days_median": None}
    if is_binary and mean is not None and 0 < mean + outcome["expected_effect"] < 1:
        moved, rate = mean + outcome["expected_effect"], mean
        variances = [moved * (1 - moved), mean * (1 - mean)]
        plan["sd"] = variances[1] ** 0.5
    elif not is_binary and sd is not None:
        rate = (
            card.get("metrics", {}).get("base_rate", {}).get("value") or 1.0
        )  # of amounts above 0
        variances = [sd**2, sd**2]
    else:
        return plan
    for comparison in content["comparisons"]:
        treatment, control = (
            sum(shares[variant] for variant in comparison[side])
            for side in ("treatment", "control")
        )
        sample = stats.plan_sample(
            variances[0],
            treatment,
            variances[1],
            control,
            abs(outcome["expected_effect"]),
            len(content["comparisons"]),
        )
        smallest = min(
            shares[variant] for side in ("treatment", "control") for variant in comparison[side]
        )
        burn_in = stats.plan_burn_in(outcome["kind"], rate) / smallest
        plan["samples"][comparison["comparison"]] = {
            name: max(n, ceil(burn_in)) for name, n in sample._asdict().items()
        }
    wait = outcome["window_days"] + outcome["lag_days"]
    for name in ("most", "median") if plan["samples"] else ():
        slowest = max(sample[f"n_{name}"] for sample in plan["samples"].values())
        plan[f"days_{name}"] = -(-slowest // n_candidates) + wait
    return plan


def describe_plan(experiment: str, content: Mapping[str, Any]) -> str:
    """What a new experiment commits to, as lines of at most 80 columns where names are short."""
    outcome, plan, comparisons = content["outcome"], content["plan"], content["comparisons"]
    names = [comparison["comparison"] for comparison in comparisons]
    unit = "candidate" if content["exposure"] == "first" else "prediction"
    effect = (
        f"{outcome['expected_effect']:+g} in the mean outcome per {unit}; {content['direction']} is"
        " good"
    )
    used, name = ("mean", "mean") if outcome["kind"] == "binary" else ("sd", "standard deviation")
    if plan[used] is not None:
        effect += f"; planned with a {name} of {plan[used]:.4g} ({plan['source']})"
    counted = (
        "the first mature prediction"
        if content["exposure"] == "first"
        else "all mature predictions"
    )
    facts = [
        ("asked", content["hypothesis"]),
        ("expected", effect),
        ("counted", f"{counted} of each candidate, outcomes within {outcome['window_days']} days"),
        (
            "verdicts",
            f"{len(names)}: {'; '.join(names)}" if names else "none: there is nothing to compare",
        ),
        *(
            ("guardrail", f"{name}: {g['direction']} is good, margin {g['margin']:g}")
            for name, g in content["guardrails"].items()
        ),
    ]
    if names:
        sure = (
            f"{1 - content['alpha']:.0%} for all of them together, on all days, however often"
            " somebody looks"
        )
        facts.append(("how sure", sure))
    for name, sample in plan["samples"].items():
        about = (
            f"{name}: {sample['n_most']:,} {unit}s at most for {content['power']:.0%} power, half"
            " of the time"
        )
        facts.append(
            (
                "sample",
                f"{about} {sample['n_median']:,} or fewer (read once: {sample['n_fixed']:,})",
            )
        )
    if plan["days_most"]:
        pace = f"if every night brings {plan['n_candidates']:,} new candidates as this one does"
        about = (
            f"{plan['days_most']:,} days at most for {content['power']:.0%} power, half of the time"
            f" {plan['days_median']:,} or fewer"
        )
        facts.append(("time", f"{about}, {pace}"))
        if content["exposure"] == "all":
            facts.append(
                (
                    "",
                    (
                        "sample and time are larger where the same candidates come again: they know"
                        " little new"
                    ),
                )
            )
    elif names:
        missing = "outcome.baseline" if outcome["kind"] == "binary" else "outcome.baseline_sd"
        reason = (
            "is unknown"
            if plan["mean"] is None
            else f"{plan['mean']:.4g} in the training rows does not allow such an effect"
        )
        facts.append(
            (
                "sample",
                (
                    f"cannot be told: the mean outcome {reason}; set {missing} in the config under"
                    " a new experiment name"
                ),
            )
        )
    return "\n".join(
        [
            f"{experiment}: a new experiment. Its first predict registers for good:",
            *wrap_facts(facts),
        ]
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


def find_registration(connection: sa.Connection, experiment: str) -> dict[str, Any] | None:
    """What was registered, or None before the first predict."""
    content = connection.scalar(
        sa.select(registrations.c.content).where(registrations.c.experiment == experiment)
    )
    return None if content is None else json.loads(content)


def check_registration(
    registered: Mapping[str, Any], content: Mapping[str, Any], experiment: str, place: str
) -> None:
    """Raise ConfigError, with a diff, if anything registered has changed since."""
    changed = [key for key in sorted(registered) if registered.get(key) != content.get(key)]
    if changed:
        lines = [
            f"  {key}\n    registered {_show(registered.get(key))}\n    now       "
            f" {_show(content.get(key))}"
            for key in changed
        ]
        raise ConfigError(
            f"{place}: experiment {experiment} is registered, and its verdict depends on what has"
            " changed here. Set it back, or ask the new question under a new experiment name.\n"
            + "\n".join(lines)
        )


def register(
    connection: sa.Connection,
    experiment: str,
    content: Mapping[str, Any],
    registered_at: datetime,
    run_id: str,
) -> None:
    """Write the experiment's one row, which is never changed.

    The hash is that of the UTF-8 text in `content`.
    """
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    connection.execute(
        registrations.insert().values(
            experiment=experiment,
            hash=hashlib.sha256(text.encode()).hexdigest(),
            content=text,
            registered_at=registered_at,
            run_id=run_id,
        )
    )


def _show(value: object) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
