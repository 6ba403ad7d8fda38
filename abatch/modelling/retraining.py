"""Retraining: whether models are due, by age, new rows, drift or a drop in performance."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date
from typing import NamedTuple

import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database.tables import Row, feature_drift, scores
from abatch.modelling.card import Card
from abatch.modelling.promotion import Standing
from abatch.night import Night
from abatch.queries import Window
from abatch.sections import Retrain


class Finding(NamedTuple):
    """What one rule found, in words, and whether it asks for training."""

    words: str
    is_due: bool

    @property
    def sentence(self) -> str:
        """The finding as a log has it."""
        return ("trains: " if self.is_due else "does not train: ") + self.words


def judge(night: Night, standing: Standing, window: Window) -> Finding:
    """Whether the models are due, and why or why not.

    By the config's rules, unless somebody asks for training whatever these say.

    Parameters
    ----------
    standing : on the night's run_date
    window : of the training rows
    """
    experiment = night.experiment
    rules, last = experiment.training.retrain, find_last(standing.cards.values(), night.run_date)
    missing = [variant for variant in experiment.models if variant not in standing.live]
    if rules is None:
        why = "every run trains, for training.retrain has no rules"
    elif missing:
        why = f"no model is live for variant {', '.join(missing)}"
    elif last is None:
        why = "there is no model yet"
    elif not is_recipe(last, experiment):
        why = f"the config's models, features or training query are not those of {last.model_name}"
    else:
        finding = _apply_rules(night, rules, standing, last, window)
        if finding.is_due or not night.force:
            return finding
        why = f"forced, although {finding.words}"
    return Finding(why, is_due=True)


def _apply_rules(
    night: Night, rules: Retrain, standing: Standing, last: Card, window: Window
) -> Finding:
    days = (night.run_date - last.run_date).days
    if days < rules.min_days:
        words = f"the last training is {days} days old, and min_days is {rules.min_days}"
        return Finding(words, is_due=False)
    findings = [*judge_age(rules, days)]
    if rules.new_rows is not None:
        query, since = night.experiment.query("training"), Window(last.to_date, window.to_date)
        findings += judge_rows(rules, sum(map(len, night.stream(query, since))))
    live = {name: standing.cards[name] for name in standing.live.values()}
    of_live = (night.experiment.name, live)
    findings += judge_drift(rules, night.read(read_drift, *of_live, rules.psi or 0))
    validated = {name: card.roc_auc for name, card in live.items()}
    findings += judge_performance(rules, night.read(read_performance, *of_live), validated)
    due = [finding.words for finding in findings if finding.is_due]
    return Finding("; ".join(due or [finding.words for finding in findings]), is_due=bool(due))


def find_last(cards: Iterable[Card], run_date: date) -> Card | None:
    """The newest dated model up to a day."""
    dated = [card for card in cards if card.run_date <= run_date]
    return max(dated, key=lambda card: (card.run_date, card.run_id, card.model_name), default=None)


def is_recipe(card: Card, experiment: Experiment) -> bool:
    """Whether a model was trained as the config now says.

    By estimators, parameters, seed, features and training query.
    """
    config = experiment.describe()
    same = ("seed", "not_features", "validation_share", "window", "days", "start_date")
    return (
        card.config["models"] == config["models"]
        and all(card.config["training"][name] == config["training"][name] for name in same)
        and card.query == experiment.query("training").text
    )


def read_drift(
    connection: sa.Connection, experiment: str, names: Collection[str], limit: float
) -> tuple[str, float, float] | None:
    """What has drifted most of live models: words, PSI and noise line.

    Of their scores, and of features in the newest cohort.

    Parameters
    ----------
    limit : above which, and above its noise line, a PSI counts
    """
    c, figures = feature_drift.c, _read_scores(connection, experiment, names)
    newest = sa.select(sa.func.max(c.cohort)).where(c.experiment == experiment).scalar_subquery()
    rows = connection.execute(
        sa.select(feature_drift)
        .where(c.experiment == experiment, c.cohort == newest, c.model_name.in_(names))
        .where(c.psi.is_not(None))
    )
    drifted = [(f"{row.feature} of {row.model_name}", row.psi, row.psi_noise) for row in rows]
    drifted += [
        (f"scores of {name}", figures[name, "psi"].value, figures[name, "psi_noise"].value)
        for name in names
        if (name, "psi") in figures
    ]
    return max(drifted, key=lambda drift: drift[1] - max(limit, drift[2]), default=None)


def read_performance(
    connection: sa.Connection, experiment: str, names: Collection[str]
) -> dict[str, tuple[float, float | None]]:
    """ROC AUC on mature predictions, and the upper end of its interval, of models that have one."""
    figures = _read_scores(connection, experiment, names)
    return {
        name: (row.value, row.upper)
        for (name, metric), row in figures.items()
        if metric == "roc_auc"
    }


def _read_scores(
    connection: sa.Connection, experiment: str, names: Collection[str]
) -> dict[tuple[str, str], Row]:
    """Figures of dated models on all their mature predictions, by model_name and metric."""
    query = sa.select(scores).filter_by(experiment=experiment, cohort="all")
    rows = connection.execute(query.where(scores.c.model_name.in_(names)))
    return {(row.model_name, row.metric): row for row in rows}


def judge_age(rules: Retrain, days: int) -> Iterator[Finding]:
    """By days since the last training."""
    if (limit := rules.max_days) is not None:
        yield Finding(f"the last training is {days} days old (limit {limit})", days >= limit)


def judge_rows(rules: Retrain, n_new: int) -> Iterator[Finding]:
    """By training rows that have matured since."""
    if (limit := rules.new_rows) is not None:
        yield Finding(f"{n_new:,} rows have matured since (limit {limit:,})", n_new >= limit)


def judge_drift(rules: Retrain, drifted: tuple[str, float, float] | None) -> Iterator[Finding]:
    """By what `read_drift` returned: a PSI must exceed its noise line, too."""
    if rules.psi is None:
        return
    if drifted is None:
        yield Finding("no drift has been measured", is_due=False)
        return
    what, psi, noise = drifted
    words = f"PSI {psi:.3f} of {what} (limit {rules.psi:g}, noise {noise:.3f})"
    yield Finding(words, psi > max(rules.psi, noise))


def judge_performance(
    rules: Retrain,
    performance: Mapping[str, tuple[float, float | None]],
    validated: Mapping[str, float | None],
) -> Iterator[Finding]:
    """By ROC AUC: below that of the validation in all that its interval allows.

    Parameters
    ----------
    performance : as `read_performance` returns it
    validated : ROC AUC of each model's validation
    """
    if rules.auc_drop is None:
        return
    findings = []
    for name, (value, upper) in performance.items():
        expected = validated.get(name)
        if expected is not None:
            words = (
                f"ROC AUC {value:.3f} of {name} against {expected:.3f} when it was validated (limit"
                f" -{rules.auc_drop:g})"
            )
            findings.append(Finding(words, upper is not None and upper < expected - rules.auc_drop))
    yield from findings or [Finding("no performance has been measured", is_due=False)]
