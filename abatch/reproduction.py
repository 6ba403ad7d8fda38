"""Reproduction: a dated model built again from its snapshot and its own config, held against what
it predicts, and what has moved.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database import reading
from abatch.errors import AbatchError, RegistryError
from abatch.modelling import code, estimators, libraries, registry, snapshots, training
from abatch.queries import Query, Window
from abatch.text import wrap_facts

TOLERANCE = 1e-9
SAME, MOVED, BROKEN = "same", "moved", "broken"


class Check(NamedTuple):
    """One thing that a model depends on: same, moved, or broken (what must not change has changed),
    and how.
    """

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
        return "\n".join([f"{self.headline}; {closing}", *wrap_facts(facts)])


def reproduce(engine: sa.Engine, experiments: Mapping[str, Experiment], model_name: str) -> Verdict:
    """Build a dated model again and say what has moved, each on its own: data, code, configuration,
    environment, and its file.

    The rows are those of the snapshot; if that is not at hand, those that the database returns as
    of then, provided that they are the same. Nothing is written.

    Raises
    ------
    RegistryError
        If there is no such model.
    """
    place = next(iter(experiments.values()))  # of the folders, which all experiments share
    with engine.connect() as connection:
        row = registry.find_model(connection, model_name)
        card = json.loads(row.card)
        pull = snapshots.choose_snapshot(connection, row.snapshot)
        kept, snapshot_check = _check_snapshot(connection, place, pull)
    found, database_check = _check_database(engine, card, pull, kept)
    differences = libraries.find_differences(
        card["libraries"], libraries.find_present(card["libraries"])
    )
    model, file_check = _open(engine, place, row)
    checks = [
        snapshot_check,
        database_check,
        _check_code(place, card),
        _check_configuration(experiments, card),
        (
            Check(
                "environment",
                MOVED,
                f"{libraries.describe(differences)}. {libraries.tell_mend(differences)}",
            )
            if differences
            else Check(
                "environment",
                SAME,
                f"{len(card['libraries'])} libraries as they were, on {card['machine']}",
            )
        ),
        file_check,
    ]
    rows = kept if kept is not None else found
    if rows is None:
        return Verdict(
            f"{model_name}: NOT reproduced, for its rows are neither in the snapshot nor in the"
            " database",
            checks,
            False,
        )
    try:
        built, prepared = _build(card, rows)
        new = estimators.predict_probability(built, prepared.X[list(card["columns"])])
        old = (
            None
            if model is None
            else estimators.predict_probability(model.pipeline, prepared.X[list(card["columns"])])
        )
    except AbatchError as error:
        return Verdict(
            f"{model_name}: NOT reproduced, for it could not be built again ({error})",
            checks,
            False,
        )
    at = slice(None) if old is not None else training.choose_checked(len(new))
    gap = float(np.abs(new[at] - (card["checked"] if old is None else old)).max())
    where = f"on {len(new[at]):,} rows of its snapshot" + (
        ", whose predictions its card keeps" if old is None else ""
    )
    told = f"largest difference {gap:.3g}, allowed {TOLERANCE:g}"
    if gap > TOLERANCE:
        blind = (
            "; the estimator does not give the same twice: seed all that it draws"
            if all(c.state == SAME for c in checks)
            else ""
        )
        return Verdict(
            f"{model_name}: NOT identical predictions {where} ({told}{blind})", checks, False
        )
    broken = list(dict.fromkeys(check.thing for check in checks if check.state == BROKEN))
    if broken:
        blame = (
            "the model file"
            if broken == ["model file"]
            else "the snapshot"
            if broken == ["data"]
            else "the snapshot and the model file"
        )
        headline = (
            f"{model_name}: NOT whole, {blame} is damaged or gone; built again, it gives identical"
            f" predictions {where} ({told})"
        )
        return Verdict(headline, checks, False)
    return Verdict(f"{model_name}: identical predictions {where} ({told})", checks, True)


def _check_snapshot(
    connection: sa.Connection, experiment: Experiment, pull: sa.Row
) -> tuple[pd.DataFrame | None, Check]:
    deletion = registry.find_deletion(connection, registry.SNAPSHOT, pull.content_hash)
    try:
        return snapshots.load(experiment.environment.snapshots_dir, pull), Check(
            "data", SAME, f"the snapshot {pull.content_hash[:12]} is what was pulled"
        )
    except RegistryError as error:
        gone = (
            f" It was deleted on {deletion.deleted_at:%Y-%m-%d} ({deletion.reason})."
            if deletion
            else ""
        )
        return None, Check("data", BROKEN, f"{error}{gone}")


def _check_database(
    engine: sa.Engine, card: Mapping[str, Any], pull: sa.Row, kept: pd.DataFrame | None
) -> tuple[pd.DataFrame | None, Check]:
    """Pull again, as of then; the rows if they are the same, and what has moved if not."""
    as_of = datetime.fromisoformat(card["as_of"])
    window = Window(*(date.fromisoformat(card[name]) for name in Window._fields))
    asked = f"the database, asked as of {as_of:%Y-%m-%d %H:%M:%S} UTC,"
    try:
        query = Query("training query of then", card["query"])
        frame = reading.read_query(engine, query, window, as_of)
        with query.named():
            frame = snapshots.arrange(frame, card["config"]["outcome"]["kind"])
    except AbatchError as error:
        return None, Check("data", MOVED, f"{asked} does not answer ({error})")
    if frame.empty:
        return None, Check("data", MOVED, f"{asked} returns no rows any more")
    columns = snapshots.describe_columns(frame)
    if snapshots.hash_content(columns, len(frame)) == pull.content_hash:
        return frame, Check("data", SAME, f"{asked} returns the same {len(frame):,} rows")
    if kept is not None:
        difference = snapshots.compare(kept, frame)
        example = f", such as {difference.example}" if difference.example else ""
        return None, Check(
            "data",
            MOVED,
            f"{asked} returns other rows than the snapshot has: {difference}{example}",
        )
    then = {column["name"]: column["fingerprint"] for column in json.loads(pull.columns)}
    names = [column.name for column in columns if then.get(column.name) != column.fingerprint]
    return None, Check(
        "data",
        MOVED,
        f"{asked} returns other rows: {len(frame):,} instead of {pull.rows:,}; other in"
        f" {', '.join(names)}",
    )


def _check_code(experiment: Experiment, card: Mapping[str, Any]) -> Check:
    now = code.hash_code(card["estimator"], experiment.environment.folder)
    then = card["code_files"]
    other = [name for name in dict.fromkeys([*then, *now]) if then.get(name) != now.get(name)]
    versions = (
        f"{card['code_version']}, now {code.code_version()}"
        if card["code_version"] != code.code_version()
        else card["code_version"]
    )
    if other:
        return Check("code", MOVED, f"{', '.join(other)} (code version {versions})")
    return Check(
        "code",
        SAME,
        f"code version {versions}; the {len(now)} files that make a model are the same",
    )


def _check_configuration(experiments: Mapping[str, Experiment], card: Mapping[str, Any]) -> Check:
    experiment = experiments.get(card["experiment"])
    if experiment is None:
        return Check(
            "configuration", MOVED, f"experiment {card['experiment']} is no longer in the config"
        )
    changes = list(_diff("", card["config"], experiment.describe()))
    if changes:
        return Check(
            "configuration",
            MOVED,
            "; ".join(changes[:8]) + (f"; and {len(changes) - 8} more" if len(changes) > 8 else ""),
        )
    return Check("configuration", SAME, f"hash {card['config_hash'][:12]}")


def _diff(path: str, then: Any, now: Any) -> Iterator[str]:
    """Each key that differs, with both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*then, *now]):
            yield from _diff(f"{path}.{name}".lstrip("."), then.get(name), now.get(name))
    elif then != now:
        shown = [" ".join(json.dumps(value, ensure_ascii=False).split()) for value in (then, now)]
        yield (
            f"{path} is another text"
            if max(map(len, shown)) > 60
            else f"{path} was {shown[0]}, is {shown[1]}"
        )


def _open(
    engine: sa.Engine, experiment: Experiment, row: sa.Row
) -> tuple[registry.Model | None, Check]:
    """The model, if its file is what was saved and may be opened under today's libraries."""
    with engine.connect() as connection:
        try:
            registry.read_model_file(connection, experiment.environment.models_dir, row)
        except RegistryError as error:
            return None, Check("model file", BROKEN, str(error))
        try:
            model = registry.load_model(
                connection, experiment.environment.models_dir, row.model_name
            )
        except RegistryError as error:
            return None, Check(
                "model file", SAME, f"SHA-256 as recorded, but it is not opened here: {error}"
            )
    return model, Check("model file", SAME, "SHA-256 as recorded")


def _build(card: Mapping[str, Any], frame: pd.DataFrame) -> tuple[Any, training.Rows]:
    place = registry.stem_of(card["name"], card["version"])
    estimator = training.make_estimator_again(card, place)
    rows = training.prepare_again(card, frame)
    return training.fit_final(estimator, rows, card["columns"], card["seed"], place), rows
