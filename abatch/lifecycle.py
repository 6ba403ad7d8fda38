"""The life of a model, as the config has it: what makes it, when it is due, what may go live, how
long it is kept.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import pandas as pd
import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database import connections, reading
from abatch.errors import RegistryError
from abatch.modelling import code, gate, registry, retraining, snapshots
from abatch.night import Night, logger, utc_now
from abatch.queries import Window

PROD = "prod"  # the environment in which models come from committed code only
DIRTY = "it was trained from a dirty tree: the code differs from its commit"


def is_dirty() -> bool:
    """Whether the code differs from its commit."""
    return code.code_version().endswith("-dirty")


def make_rules(experiment: Experiment) -> gate.Rules:
    """What the config asks of a model that goes live."""
    return gate.Rules(**{name: getattr(experiment.training, name) for name in gate.Rules._fields})


def judge_dirt(experiment: Experiment, decision: gate.Decision, allow_dirty: bool) -> gate.Decision:
    """The decision where code that differs from its commit must not make prod's models, unless that
    is allowed, and then recorded.
    """
    if experiment.environment.name != PROD or not is_dirty() or not decision.promote:
        return decision
    if not allow_dirty:
        return gate.refuse(
            decision,
            f"{DIRTY} ({code.code_version()}). Commit, then train with --force, or allow it:"
            " --allow-dirty",
        )
    evidence = {**decision.evidence, "allow_dirty": True, "code_version": code.code_version()}
    return gate.Decision(True, f"{decision.reason} (from a dirty tree, allowed)", evidence)


def check_dirt(
    connection: sa.Connection, experiment: Experiment, model: sa.Row, allow_dirty: bool
) -> dict[str, Any] | None:
    """What to record of a promotion by hand.

    In prod a model from a dirty tree that was never live needs to be allowed.

    Raises
    ------
    RegistryError
        If it is not.
    """
    was_live = model.model_name in registry.find_kept(connection, model.experiment)
    if experiment.environment.name != PROD or not model.code_version.endswith("-dirty") or was_live:
        return None
    if not allow_dirty:
        raise RegistryError(
            f"{model.model_name}: {DIRTY} ({model.code_version}). It does not go live in {PROD}."
            " Train anew from a commit, or allow it: --allow-dirty, which is recorded."
        )
    return {"allow_dirty": True, "code_version": model.code_version}


def decide_retraining(
    experiment: Experiment,
    engine: sa.Engine,
    run: Night,
    live: Mapping[str, str],
    cards: Mapping[str, Mapping[str, Any]],
    to_date: date,
) -> tuple[bool, str]:
    """Whether the models are due by the config's rules, and why or why not."""
    section, last = experiment.training.retrain, retraining.find_last(cards, run.run_date)
    if section is None:
        return True, "every run trains, for training.retrain has no rules"
    missing = [variant for variant in experiment.models if variant not in live]
    if last is None or missing:
        return True, (
            f"no model is live for variant {', '.join(missing)}"
            if missing
            else "there is no model yet"
        )
    (trained_on, card), rules = last, retraining.Rules(**section.model_dump())
    if not retraining.is_recipe(card, experiment.describe(), experiment.sql["training"]):
        return (
            True,
            (
                "the config's models, features or training query are not those of"
                f" {card['model_name']}"
            ),
        )
    age = (run.run_date - trained_on).days
    if age < rules.min_days:
        return False, f"the last training is {age} days old, and min_days is {rules.min_days}"
    names = [name for name in live.values() if name in cards]
    found = retraining.judge_age(rules, age)
    if rules.new_rows is not None:
        window = Window(date.fromisoformat(card["to_date"]), to_date)
        chunks = reading.stream_query(engine, experiment.query("training"), window, run.as_of)
        found += retraining.judge_rows(
            rules, sum(map(len, chunks)) if window.from_date < to_date else 0
        )
    with engine.connect() as connection:
        found += retraining.judge_drift(
            rules, retraining.read_drift(connection, experiment.name, names, rules.psi or 0)
        )
        validated = {name: cards[name]["metrics"].get("roc_auc", {}).get("value") for name in names}
        performance = retraining.read_performance(connection, experiment.name, names)
        found += retraining.judge_performance(rules, performance, validated)
    due = [finding.words for finding in found if finding.is_due]
    return bool(due), "; ".join(due or [finding.words for finding in found])


def load_snapshot(
    experiment: Experiment, engine: sa.Engine, card: Mapping[str, Any], run: Night
) -> pd.DataFrame | None:
    """The rows that a model was trained on.

    None, with a line in the log, if they or its config are not at hand.
    """
    with engine.connect() as connection:
        row = (
            snapshots.find_snapshot(connection, card["snapshot"]) if card.get("snapshot") else None
        )
    try:
        return None if row is None else snapshots.load(experiment.environment.snapshots_dir, row)
    except RegistryError as error:
        run.warn(f"{error} {card['model_name']} is compared by its recipe, fitted on the new rows.")
        return None


def apply_retention(experiment: Experiment, engine: sa.Engine, by: str) -> list[str]:
    """Delete the snapshots and models that the environment's retention no longer keeps.

    Returns what was done, in words.

    Never what is or was live, and never the snapshot of such a model. The row of a deletion is
    written before the file goes, so that a job that dies between the two is finished by the next.
    """
    keep, now = experiment.environment.retention, utc_now()
    chosen: list[tuple[str, str, str]] = []
    for attempt in connections.transactions(engine):
        with attempt as connection:
            limits = (keep.snapshot_days, keep.snapshot_gigabytes)
            chosen = [
                (registry.SNAPSHOT, *pair)
                for pair in snapshots.choose_to_drop(
                    connection, experiment.environment.snapshots_dir, now, *limits
                )
            ]
            chosen += [
                (registry.MODEL, *pair)
                for pair in registry.choose_to_delete(connection, now, keep.model_days)
            ]
            for kind, name, reason in chosen:
                registry.write_deletion(connection, kind, name, f"retention: {reason}", by, now)
    for kind, name, reason in chosen:
        logger.info("%s %s deleted: %s", kind, name, reason)
    remove_deleted(experiment, engine)
    with engine.connect() as connection:
        known = {row.content_hash for row in snapshots.list_snapshots(connection)}
    for path in snapshots.remove_strays(
        experiment.environment.snapshots_dir, known, now - timedelta(days=1)
    ):
        logger.info("%s removed: it belongs to no pull", path)
    return [f"{kind} {name} deleted: {reason}" for kind, name, reason in chosen]


def remove_deleted(experiment: Experiment, engine: sa.Engine) -> None:
    """Remove the files of what is deleted: of models for good, of snapshots unless they were pulled
    again since.
    """
    with engine.connect() as connection:
        for name in registry.find_deleted(connection, registry.MODEL):
            registry.remove_files(experiment.environment.models_dir, name)
        pulled = {row.content_hash: row.pulled_at for row in snapshots.list_snapshots(connection)}
        for name in registry.find_deleted(connection, registry.SNAPSHOT):
            deletion = registry.find_deletion(connection, registry.SNAPSHOT, name)
            if (
                deletion is not None
                and pulled.get(name, deletion.deleted_at) <= deletion.deleted_at
            ):
                snapshots.remove(experiment.environment.snapshots_dir, name)
