"""The door to models/: dated files that never change, and the record of them."""

import io
import json
import pickle
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from abatch import files
from abatch.database import tables
from abatch.database.tables import Row, deletions, models, runs, snapshots
from abatch.errors import ConfigError, RegistryError, suggest
from abatch.modelling import code, libraries
from abatch.modelling.card import Card, Figure, to_json
from abatch.modelling.chatter import listen
from abatch.sections import ModelConfig
from abatch.statistics.references import FeatureReference, Reference

if TYPE_CHECKING:  # joblib and scikit-learn take a second, for which a rollback need not wait
    from sklearn.pipeline import Pipeline

MODEL, SNAPSHOT = "model", "snapshot"  # kinds of what is deleted
SUFFIXES = (".pkl", ".json", ".html")  # of a model's files


class Model(NamedTuple):
    """A dated model, opened.

    Attributes
    ----------
    pipeline : fitted
    card : that the table `models` holds
    warning : if libraries differ
    """

    model_name: str
    pipeline: "Pipeline"
    card: Card
    warning: str = ""


def choose_model_name(
    connection: sa.Connection, models_dir: Path, undated: str, run_date: date
) -> str:
    """The name of the next model of this date: modelA_v1.0_2026-11-23, or ..._2 if there is one.

    Files without their row are not adopted: those of a run that died between the two are set aside,
    those of a run that is at it, or that the tables do not know, newer than a backup that was
    restored, stay.
    """
    number, name = 1, f"{undated}_{run_date}"
    while connection.scalar(
        sa.select(models.c.model_name).filter_by(model_name=name)
    ) or _is_anothers(connection, models_dir, name):
        number += 1
        name = f"{undated}_{run_date}_{number}"
    for path in _find_files(models_dir, name):
        path.rename(path.with_name(f"{path.name}{files.ORPHAN}{path.stat().st_mtime_ns}"))
    return name


def _find_files(models_dir: Path, model_name: str) -> list[Path]:
    paths = [models_dir / f"{model_name}{suffix}" for suffix in SUFFIXES]
    return [path for path in paths if path.exists()]


def _is_anothers(connection: sa.Connection, models_dir: Path, model_name: str) -> bool:
    """Whether files lie under a name that no run which has ended, as the tables know, has written.

    Another run can be at it if this one has lost its lock.
    """
    if not _find_files(models_dir, model_name):
        return False
    try:
        run_id = json.loads(files.read_file(models_dir / f"{model_name}.json"))["run_id"]
    except (OSError, ValueError, LookupError, TypeError):
        return True
    query = sa.select(runs.c.status).where(runs.c.run_id == str(run_id))
    return connection.scalar(query) in (None, "running")


class _Search(pickle.Pickler):
    """Raises PicklingError for what another process could not load."""

    def reducer_override(self, thing: Any) -> Any:
        """Look at each class, function and instance on the way."""
        named = thing if hasattr(thing, "__qualname__") else type(thing)
        if getattr(named, "__module__", None) == "__main__":
            raise pickle.PicklingError(f"{named.__qualname__} of __main__ is in it")
        return NotImplemented


@listen()
def pickle_model(pipeline: "Pipeline", key: str) -> tuple[bytes, "Pipeline"]:
    """A fitted pipeline as it is saved, and as it is once loaded again.

    Raises
    ------
    ConfigError
        If it cannot be saved, or would not be loaded elsewhere; `key` is where it stands in the
        config.
    """
    import joblib

    buffer = io.BytesIO()
    try:
        # whose buffers are left out, so that no array is copied
        _Search(io.BytesIO(), protocol=5, buffer_callback=lambda _: None).dump(pipeline)
        joblib.dump(pipeline, buffer)
        content = buffer.getvalue()
        return content, joblib.load(io.BytesIO(content))
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{key}.estimator: the fitted estimator cannot be saved and loaded again ({error}). Let"
            " it hold no lambda, no function within a function and nothing of __main__: put them"
            " into a module beside the config."
        ) from error


def save_model(models_dir: Path, content: bytes, card: Card) -> None:
    """Write the .json, which names the run, and the pickle, as `pickle_model` makes it.

    Raises
    ------
    FileError
        If one of them is there already, or the folder cannot be written.
    """
    files.create_final(models_dir / f"{card.model_name}.json", card.to_json(indent=2).encode())
    files.create_final(models_dir / card.file, content)


def load_model(connection: sa.Connection, models_dir: Path, model_name: str) -> Model:
    """Open a dated model whose file has the SHA-256 of the table, and whose libraries are here.

    Raises
    ------
    RegistryError
        If the table has no such model, if the file is missing, unreadable or another, or if a
        library of another version does not promise to read it.
    """
    import joblib

    card = find_model(connection, model_name)
    content = read_model_file(connection, models_dir, card)
    warning = libraries.check(card.libraries, f"{models_dir / card.file}")
    try:
        with listen():
            pipeline = joblib.load(io.BytesIO(content))
    # the content is what was saved, so it is a library or a module of the user's that differs
    except (Exception, SystemExit) as error:
        raise RegistryError(
            f"{models_dir / card.file}: cannot be opened ({error}). Install what it was trained"
            " with, see the .json beside it."
        ) from None
    return Model(model_name, pipeline, card, warning)


def check_model(connection: sa.Connection, models_dir: Path, card: Card) -> str:
    """Whether `load_model` can open a dated model, without the wait for its libraries.

    Only a model that has code of the user's is opened: nothing else tells whether that is here.

    Returns
    -------
    str
        A warning if libraries differ; else empty.

    Raises
    ------
    RegistryError
        As `load_model` does.
    """
    if set(card.code_files) - set(code.TRAINING_CODE):
        return load_model(connection, models_dir, card.model_name).warning
    read_model_file(connection, models_dir, card)
    return libraries.check(card.libraries, f"{models_dir / card.file}")


def read_model_file(connection: sa.Connection, models_dir: Path, card: Card) -> bytes:
    """The content of a model's file, which is what was saved.

    Raises
    ------
    RegistryError
        If the file is missing, unreadable or another, or was deleted.
    """
    path, name = models_dir / card.file, card.model_name
    mend = "Bring it back from a backup, or roll back: python -m abatch rollback --help"
    if deletion := read_deletions(connection, MODEL).get(name):
        raise RegistryError(
            f"{path}: {name} was deleted on {deletion.deleted_at:%Y-%m-%d} by"
            f" {deletion.deleted_by} ({deletion.reason}). Name another; see: python -m abatch"
            " models"
        )
    try:
        content = files.read_file(path)
    except OSError as error:
        raise RegistryError(
            f"{path}: the file of {name} cannot be read ({error.strerror}). {mend}"
        ) from None
    sha256 = files.hash_bytes(content)
    if sha256 != card.sha256:
        raise RegistryError(
            f"{path}: has SHA-256 {sha256}, expected {card.sha256} from the table models. The file"
            f" was changed and is not opened. {mend}"
        )
    return content


def find_model(connection: sa.Connection, model_name: str) -> Card:
    """The card of a dated model, as the table has it; RegistryError if there is none."""
    card = connection.scalar(sa.select(models.c.card).filter_by(model_name=model_name))
    if card is None:
        names = connection.scalars(sa.select(models.c.model_name)).all()
        raise RegistryError(
            f"there is no model {model_name!r}. See: python -m abatch"
            f" models.{suggest(model_name, names)}"
        )
    return parse_card(model_name, card)


def parse_card(model_name: str, card: str) -> Card:
    """What a row of `models` says of a model; DatabaseError if abatch did not write it."""
    return tables.parse(Card.model_validate_json, card, f"models.card of {model_name}")


def read_cards(connection: sa.Connection, experiment: str) -> dict[str, Card]:
    """The card of each dated model of an experiment, by model_name."""
    query = sa.select(models.c.model_name, models.c.card).filter_by(experiment=experiment)
    return {name: parse_card(name, card) for name, card in connection.execute(query)}


def read_references(
    connection: sa.Connection, experiment: str
) -> tuple[
    dict[str, Reference], dict[str, dict[str, FeatureReference]], dict[str, dict[str, float | None]]
]:
    """What scores, features and ROC AUC of each dated model of an experiment are compared with."""
    cards = read_cards(connection, experiment)
    scores = {name: card.reference for name, card in cards.items() if card.reference}
    ranks = {name: dict(card.metrics.get("roc_auc", Figure())) for name, card in cards.items()}
    return scores, {name: card.features for name, card in cards.items()}, ranks


def undated_name(model: Card | ModelConfig | Row) -> str:
    """Name and version as they stand in a model_name: modelA_v1.0."""
    return f"{model.name}_v{model.version}"


def read_deletions(connection: sa.Connection, kind: str) -> dict[str, Row]:
    """The newest deletion of each deleted model, or of each snapshot not pulled again since.

    By model_name, or by content hash.
    """
    since = snapshots.c.pulled_at > deletions.c.deleted_at
    again = sa.exists().where(snapshots.c.content_hash == deletions.c.name, since)
    query = sa.select(deletions).filter_by(kind=kind).where(~again)
    rows = connection.execute(query.order_by(deletions.c.deletion_id))
    return {row.name: row for row in rows}


def write_deletion(
    connection: sa.Connection, kind: str, name: str, reason: str, by: str, now: datetime
) -> None:
    """Append a row to `deletions`.

    The file is removed after it is committed, by `remove_files` for a model.
    """
    row = {"kind": kind, "name": name, "reason": reason, "deleted_by": by, "deleted_at": now}
    connection.execute(deletions.insert().values(row))


def remove_files(models_dir: Path, model_name: str) -> None:
    """Remove what a deleted model left in the folder; harmless to repeat."""
    for suffix in SUFFIXES:
        files.remove(models_dir / f"{model_name}{suffix}")


def add_model(connection: sa.Connection, card: Card) -> None:
    """Write the row of a saved model.

    It holds the trusted copy of its card, the SHA-256 that its file must have, and the decision.
    """
    row = card.model_dump(include=set(models.columns.keys()))
    row["environment_hash"] = files.hash_bytes(to_json(card.libraries).encode())
    row |= {"card": card.to_json(), "decision": card.gate.sentence}
    connection.execute(models.insert().values(row))
