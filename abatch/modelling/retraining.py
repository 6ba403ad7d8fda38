"""Retraining: whether an experiment's models are due, by age, new rows, drift or a drop in
performance.
"""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any, NamedTuple

import sqlalchemy as sa

from abatch.database.tables import feature_drift, scores


class Rules(NamedTuple):
    """When to train; None switches a rule off.

    Attributes
    ----------
    min_days : days since the last training before which none of the rules counts
    max_days : days since the last training
    new_rows : training rows that have matured since
    psi : of a live model's scores or of one of its features in the newest cohort; it must exceed
        its noise line too
    auc_drop : of a live model's ROC AUC on mature predictions below that of its validation, in all
        that its interval allows
    """

    min_days: int
    max_days: int | None
    new_rows: int | None
    psi: float | None
    auc_drop: float | None


class Finding(NamedTuple):
    """What one rule found, in words, and whether it asks for training."""

    words: str
    is_due: bool


def find_last(
    cards: Mapping[str, Mapping[str, Any]], run_date: date
) -> tuple[date, Mapping[str, Any]] | None:
    """Date and card of the newest dated model up to a day; None if there is none."""
    dated = [
        (date.fromisoformat(card["run_date"]), card["run_id"], name) for name, card in cards.items()
    ]
    day, _, name = max((one for one in dated if one[0] <= run_date), default=(run_date, "", ""))
    return (day, cards[name]) if name else None


def is_recipe(card: Mapping[str, Any], config: Mapping[str, Any], query: str) -> bool:
    """Whether a model was trained as the config now says: estimators, parameters, seed, features
    and training query.
    """
    known = card.get("config")
    if known is None:
        return False
    same = ("seed", "not_features", "validation_share", "window", "days", "start_date")
    return (
        known["models"] == config["models"]
        and all(known["training"].get(name) == config["training"][name] for name in same)
        and card["query"] == query
    )


def read_drift(
    connection: sa.Connection, experiment: str, names: Collection[str], limit: float
) -> tuple[str, float, float] | None:
    """What has drifted most of live models: words, PSI and noise line, of their scores and of
    features in the newest cohort.

    Parameters
    ----------
    limit : above which, and above its noise line, a PSI counts
    """
    c, s = feature_drift.c, scores.c
    newest = sa.select(sa.func.max(c.cohort)).where(c.experiment == experiment).scalar_subquery()
    rows = connection.execute(
        sa.select(feature_drift).where(
            c.experiment == experiment, c.cohort == newest, c.model_name.in_(names)
        )
    )
    found = [(f"{row.feature} of {row.model_name}", row.psi, row.psi_noise) for row in rows]
    query = sa.select(scores).where(
        s.experiment == experiment, s.cohort == "all", s.model_name.in_(names)
    )
    values = {
        (row.model_name, row.metric): row.value
        for row in connection.execute(query.where(s.metric.in_(["psi", "psi_noise"])))
    }
    found += [
        (f"scores of {name}", values[name, "psi"], values[name, "psi_noise"])
        for name in names
        if (name, "psi") in values
    ]
    return max(found, key=lambda one: one[1] - max(limit, one[2]), default=None)


def read_performance(
    connection: sa.Connection, experiment: str, names: Collection[str]
) -> dict[str, tuple[float, float | None]]:
    """ROC AUC on mature predictions, and the upper end of its interval, of live models that have
    one.
    """
    s = scores.c
    query = sa.select(scores).where(
        s.experiment == experiment,
        s.cohort == "all",
        s.metric == "roc_auc",
        s.model_name.in_(names),
    )
    return {row.model_name: (row.value, row.upper) for row in connection.execute(query)}


def judge_age(rules: Rules, days: int) -> list[Finding]:
    limit = rules.max_days
    return (
        []
        if limit is None
        else [Finding(f"the last training is {days} days old (limit {limit})", days >= limit)]
    )


def judge_rows(rules: Rules, n_new: int) -> list[Finding]:
    limit = rules.new_rows
    return (
        []
        if limit is None
        else [Finding(f"{n_new:,} rows have matured since (limit {limit:,})", n_new >= limit)]
    )


def judge_drift(rules: Rules, most: tuple[str, float, float] | None) -> list[Finding]:
    if rules.psi is None:
        return []
    if most is None:
        return [Finding("no drift has been measured", False)]
    what, psi, noise = most
    return [
        Finding(
            f"PSI {psi:.3f} of {what} (limit {rules.psi:g}, noise {noise:.3f})",
            psi > max(rules.psi, noise),
        )
    ]


def judge_performance(
    rules: Rules,
    found: Mapping[str, tuple[float, float | None]],
    validated: Mapping[str, float | None],
) -> list[Finding]:
    """Parameters: `found` as `read_performance` returns it, `validated` the ROC AUC of each model's
    validation.
    """
    if rules.auc_drop is None:
        return []
    findings = []
    for name, (value, upper) in found.items():
        expected = validated.get(name)
        if expected is not None:
            words = (
                f"ROC AUC {value:.3f} of {name} against {expected:.3f} when it was validated (limit"
                f" -{rules.auc_drop:g})"
            )
            findings.append(Finding(words, upper is not None and upper < expected - rules.auc_drop))
    return findings or [Finding("no performance has been measured", False)]
