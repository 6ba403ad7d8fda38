"""Reproduction: a dated model built again from its snapshot and its own config.

It is held against what the model predicts, and what has moved is told.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch import version
from abatch.config import Environment, Experiment, Experiments
from abatch.database import reading
from abatch.database.tables import Row
from abatch.errors import AbatchError, RegistryError
from abatch.modelling import code, estimators, libraries, registry, snapshots, training
from abatch.modelling.card import Card
from abatch.queries import Query
from abatch.text import cut_list, wrap_facts

TOLERANCE = 1e-9
N_CHANGES = 8  # of the config, that are told
SAME, MOVED, BROKEN = "same", "moved", "broken"


class Check(NamedTuple):
    """One thing that a model depends on: same, moved, or broken (it must not change), and how."""

    thing: str
    state: str
    words: str


class Verdict(NamedTuple):
    """Whether a model was built again.

    Attributes
    ----------
    is_reproduced : its predictions are identical within 1e-9, and its file and its snapshot are
        what was saved
    """

    headline: str
    checks: list[Check]
    is_reproduced: bool

    def __str__(self) -> str:
        moved = list(dict.fromkeys(check.thing for check in self.checks if check.state != SAME))
        closing = f"moved: {', '.join(moved)}" if moved else "nothing has moved"
        facts = [(check.thing, f"{check.state}: {check.words}") for check in self.checks]
        return f"{self.headline}; {closing}\n{wrap_facts(facts)}"


def reproduce(engine: sa.Engine, experiments: Experiments, model_name: str) -> Verdict:
    """Build a dated model again and say what has moved, each on its own.

    That is data, code, configuration, environment, and its file. The rows are those of the
    snapshot; if that is not at hand, those that the database returns as of then, provided that they
    are the same. Nothing is written.

    Raises
    ------
    RegistryError
        If there is no such model.
    """
    environment = experiments.environment
    with engine.connect() as connection:
        card = registry.find_model(connection, model_name)
        pull = snapshots.choose_snapshot(connection, card.snapshot)
        kept, snapshot_check = _check_snapshot(connection, environment, pull)
        model, file_check = _open(connection, environment, card)
    then = Experiment.restore(card.config, card.experiment, environment)
    pulled, words = _pull_again(engine, then, card, pull, kept)
    asked = f"the database, asked as of {card.as_of:%Y-%m-%d %H:%M:%S} UTC,"
    checks = [
        snapshot_check,
        Check("data", MOVED if pulled is None else SAME, f"{asked} {words}"),
        _check_code(environment, card),
        _check_configuration(experiments, card),
        _check_environment(card),
        file_check,
    ]
    rows = pulled if kept is None else kept
    headline, is_reproduced = _judge(then, card, rows, model, checks)
    return Verdict(f"{model_name}: {headline}", checks, is_reproduced)


def _judge(
    then: Experiment,
    card: Card,
    rows: pd.DataFrame | None,
    model: registry.Model | None,
    checks: list[Check],
) -> tuple[str, bool]:
    """The headline, and whether the model is reproduced."""
    if rows is None:
        reason = "its rows are neither in the snapshot nor in the database"
        return f"NOT reproduced, for {reason}", False
    try:
        gap, where = _compare(then, card, rows, model)
    except AbatchError as error:
        return f"NOT reproduced, for it could not be built again ({error})", False
    figures = f"largest difference {gap:.3g}, allowed {TOLERANCE:g}"
    if gap > TOLERANCE:
        if all(check.state == SAME for check in checks):
            figures += "; the estimator does not give the same twice: seed all that it draws"
        return f"NOT identical predictions {where} ({figures})", False
    names = {"data": "the snapshot", "model file": "the model file"}
    broken = [names[check.thing] for check in checks if check.state == BROKEN]
    identical = f"identical predictions {where} ({figures})"
    if broken:
        damage = f"{' and '.join(broken)} is damaged or gone"
        return f"NOT whole, {damage}; built again, it gives {identical}", False
    return identical, True


def _compare(
    then: Experiment, card: Card, frame: pd.DataFrame, model: registry.Model | None
) -> tuple[float, str]:
    """Build the model again of its rows and compare what it predicts.

    With the model itself on all rows, or with what its card keeps of some.

    Returns
    -------
    float, str
        The largest difference, and on which rows, in words.
    """
    recipe = training.make_recipe(then, card.variant, registry.undated_name(card))
    rows = training.prepare_rows(frame, card.window, then).select(card.columns)
    built, X = training.fit_for_good(recipe, rows), rows.X
    if model is None:
        X = X.iloc[training.choose_checked(len(X))]
        before, kept = np.array(card.checked), ", whose predictions its card keeps"
    else:
        before, kept = estimators.predict_probability(model.pipeline, X), ""
    gap = float(np.abs(estimators.predict_probability(built, X) - before).max())
    return gap, f"on {len(X):,} rows of its snapshot{kept}"


def _check_snapshot(
    connection: sa.Connection, environment: Environment, pull: Row
) -> tuple[pd.DataFrame | None, Check]:
    try:
        rows = snapshots.load(environment.snapshots_dir, pull)
    except RegistryError as error:
        words = str(error)
        if deletion := registry.read_deletions(connection, registry.SNAPSHOT).get(
            pull.content_hash
        ):
            words += f" It was deleted on {deletion.deleted_at:%Y-%m-%d} ({deletion.reason})."
        return None, Check("data", BROKEN, words)
    return rows, Check("data", SAME, f"the snapshot {pull.content_hash[:12]} is what was pulled")


def _pull_again(
    engine: sa.Engine, then: Experiment, card: Card, pull: Row, kept: pd.DataFrame | None
) -> tuple[pd.DataFrame | None, str]:
    """What the database returns as of then: the rows if they are the same, and what it does."""
    query = Query("training query of then", card.query)
    try:
        frame = reading.read_query(engine, query, card.window, card.as_of)
        again = snapshots.take(query, frame, then.outcome.kind)
    except AbatchError as error:
        return None, f"does not answer ({error})"
    if frame.empty:
        return None, "returns no rows any more"
    if again.content_hash == pull.content_hash:
        same = again.frame if kept is None else kept  # once in memory is enough
        return same, f"returns the same {len(frame):,} rows"
    if kept is not None:
        difference = snapshots.compare(kept, again.frame)
        example = f", such as {difference.example}" if difference.example else ""
        return None, f"returns other rows than the snapshot has: {difference}{example}"
    fingerprints = {column["name"]: column["fingerprint"] for column in json.loads(pull.columns)}
    other = [c.name for c in again.columns if fingerprints.get(c.name) != c.fingerprint]
    counts = f"{len(frame):,} instead of {pull.rows:,}"
    return None, f"returns other rows: {counts}; other in {', '.join(other)}"


def _check_code(environment: Environment, card: Card) -> Check:
    then, now = card.code_files, code.hash_code(card.estimator, environment.folder)
    other = [name for name in then | now if then.get(name) != now.get(name)]
    versions = card.code_version
    if versions != version.code_version():
        versions += f", now {version.code_version()}"
    if other:
        return Check("code", MOVED, f"{', '.join(other)} (code version {versions})")
    words = f"code version {versions}; the {len(now)} files that make a model are the same"
    return Check("code", SAME, words)


def _check_configuration(experiments: Experiments, card: Card) -> Check:
    experiment = experiments.get(card.experiment)
    if experiment is None:
        words = f"experiment {card.experiment} is no longer in the config"
        return Check("configuration", MOVED, words)
    changes = list(_diff("", card.config, experiment.describe()))
    if not changes:
        return Check("configuration", SAME, f"hash {card.config_hash[:12]}")
    return Check("configuration", MOVED, "; ".join(cut_list(changes, N_CHANGES)))


def _diff(path: str, then: Any, now: Any) -> Iterator[str]:
    """Each key that differs, with both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in then | now:
            yield from _diff(f"{path}.{name}".lstrip("."), then.get(name), now.get(name))
    elif then != now:
        shown = [" ".join(json.dumps(value, ensure_ascii=False).split()) for value in (then, now)]
        is_long = max(map(len, shown)) > 60
        yield f"{path} is another text" if is_long else f"{path} was {shown[0]}, is {shown[1]}"


def _check_environment(card: Card) -> Check:
    differences = libraries.find_differences(card.libraries)
    if differences:
        mend = libraries.tell_mend(differences)
        return Check("environment", MOVED, f"{libraries.describe(differences)}. {mend}")
    words = f"{len(card.libraries)} libraries as they were, on {card.machine}"
    return Check("environment", SAME, words)


def _open(
    connection: sa.Connection, environment: Environment, card: Card
) -> tuple[registry.Model | None, Check]:
    """The model, if its file is what was saved and may be opened under today's libraries."""
    try:
        registry.read_model_file(connection, environment.models_dir, card)
    except RegistryError as error:
        return None, Check("model file", BROKEN, str(error))
    model, words = None, "SHA-256 as recorded"
    try:
        model = registry.load_model(connection, environment.models_dir, card.model_name)
    except RegistryError as error:
        words += f", but it is not opened here: {error}"
    return model, Check("model file", SAME, words)
