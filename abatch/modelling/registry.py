"""The door to models/: dated files that never change, the record of them, and which is live."""

import io
import os
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from abatch import files
from abatch.config import Experiment
from abatch.database.tables import Row, deletions, models, promotions, snapshots
from abatch.errors import ConfigError, DatabaseError, RegistryError, suggest
from abatch.modelling import code, libraries
from abatch.modelling.card import Card, to_json
from abatch.night import Night, today
from abatch.sections import ModelConfig
from abatch.statistics.references import FeatureReference, Reference

if TYPE_CHECKING:  # joblib and scikit-learn take a second, for which a rollback need not wait
    from sklearn.pipeline import Pipeline

PROMOTIONS = "promotions"  # the lock of whoever changes what is live, or deletes
MODEL, SNAPSHOT = "model", "snapshot"  # kinds of what is deleted


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


class Promotions(NamedTuple):
    """What was ever made live in an experiment; a row that was written later overrules.

    Attributes
    ----------
    rows : of the table `promotions`, in the order in which they were written
    """

    experiment: str
    rows: Sequence[Row]

    @property
    def ever_live(self) -> set[str]:
        """The model_names that were ever live, or will be."""
        return {row.model_name for row in self.rows}

    def in_force(self, on: date) -> dict[str, Row]:
        """The promotion that makes each variant's model live on a date, the newest effective."""
        return {row.variant: row for row in self.rows if row.effective_date <= on}

    def live(self, on: date) -> dict[str, str]:
        """The model_name that is live on a date, by variant."""
        return {variant: row.model_name for variant, row in self.in_force(on).items()}

    def later(self, on: date) -> dict[str, str]:
        """The model_name that becomes live after a date, by variant.

        It is that of the newest promotion, which overrules all before it.
        """
        newest = {row.variant: row for row in self.rows}
        return {
            variant: row.model_name for variant, row in newest.items() if row.effective_date > on
        }

    def until(self, variant: str, on: date) -> list[Row]:
        """The promotions of a variant that are effective on a date, the newest last."""
        return [row for row in self.rows if row.variant == variant and row.effective_date <= on]

    def previous(self, variant: str, on: date) -> str:
        """The model_name to go back to.

        It is what was live before the newest promotion that has not been rolled back.

        Raises
        ------
        RegistryError
            If there is none.
        """
        history: list[str] = []
        for row in self.until(variant, on):
            if row.action == "rollback" and row.model_name in history:
                while history[-1] != row.model_name:
                    history.pop()
            elif history[-1:] != [row.model_name]:
                history.append(row.model_name)
        if len(history) < 2:
            raise RegistryError(
                f"experiment {self.experiment}, variant {variant}: no other model was live before"
                f" {history[-1] if history else on}. Name a dated model; see: python -m abatch"
                " models"
            )
        return history[-2]


def read_promotions(connection: sa.Connection, experiment: str) -> Promotions:
    """All promotions of an experiment."""
    query = sa.select(promotions).filter_by(experiment=experiment)
    rows = connection.execute(query.order_by(promotions.c.promotion_id)).all()
    return Promotions(experiment, rows)


class Standing(NamedTuple):
    """The models of an experiment as they stand on a date.

    Attributes
    ----------
    live : model_name by variant
    later : of what becomes live after the date
    cards : of all dated models, by model_name
    """

    live: dict[str, str]
    later: dict[str, str]
    cards: dict[str, Card]


def read_standing(connection: sa.Connection, experiment: Experiment, on: date) -> Standing:
    """What is live on a date, what will be later, and what else there is.

    Raises
    ------
    ConfigError
        If a model of the config bears the name of one that was trained for another variant.
    """
    cards = read_cards(connection, experiment.name)
    for variant, model in experiment.models.items():
        for name, card in cards.items():  # figures are kept by undated name
            if undated_name(card) == undated_name(model) and card.variant != variant:
                raise ConfigError(
                    f"{experiment.key(f'models.{variant}.name')}: found {model.name!r}, but {name}"
                    f" was trained for variant {card.variant}. Give the model of variant {variant}"
                    " a name or version of its own."
                )
    history = read_promotions(connection, experiment.name)
    return Standing(history.live(on), history.later(on), cards)


def choose_model_name(
    connection: sa.Connection, models_dir: Path, undated: str, run_date: date
) -> str:
    """The name of the next model of this date: modelA_v1.0_2026-11-23, or ..._2 if there is one.

    A file without its row, left by a run that died between the two, is set aside rather than
    adopted.
    """
    number, name = 1, f"{undated}_{run_date}"
    while connection.scalar(sa.select(models.c.model_name).filter_by(model_name=name)):
        number += 1
        name = f"{undated}_{run_date}_{number}"
    for path in (models_dir / f"{name}.pkl", models_dir / f"{name}.json"):
        if path.exists():
            path.rename(path.with_name(f"{path.name}.orphan-{path.stat().st_mtime_ns}"))
    return name


def pickle_model(pipeline: "Pipeline") -> bytes:
    """A fitted pipeline as it is saved."""
    import joblib

    buffer = io.BytesIO()
    joblib.dump(pipeline, buffer)
    return buffer.getvalue()


def save_model(models_dir: Path, content: bytes, card: Card) -> None:
    """Write the pickle, as `pickle_model` makes it, and its .json beside and rename them.

    Raises
    ------
    FileError
        If the folder cannot be written.
    """
    files.write_file(models_dir / card.file, content)
    files.write_file(models_dir / f"{card.model_name}.json", card.to_json(indent=2).encode())


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
        return Model(model_name, joblib.load(io.BytesIO(content)), card, warning)
    # the content is what was saved, so it is a library or a module of the user's that differs
    except Exception as error:
        raise RegistryError(
            f"{models_dir / card.file}: cannot be opened ({error}). Install what it was trained"
            " with, see the .json beside it."
        ) from None


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
        content = path.read_bytes()
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
    return Card.model_validate_json(card)


def load_live(connection: sa.Connection, experiment: Experiment, on: date) -> dict[str, Model]:
    """Open the model that is live on a date, for each variant that has one.

    Raises
    ------
    RegistryError
        If a variant has none, or its file is not what the table says.
    """
    live = read_promotions(connection, experiment.name).live(on)
    for variant in experiment.models:
        if variant not in live:
            raise RegistryError(
                f"experiment {experiment.name}, variant {variant}: no model is live on {on}."
                " Train one (python train.py) or promote one (python -m abatch promote)."
            )
    models_dir = experiment.environment.models_dir
    return {name: load_model(connection, models_dir, live[name]) for name in experiment.models}


def open_live(night: Night) -> dict[str, Model]:
    """The live model of each variant that has one, with a warning where libraries differ."""
    models = night.read(load_live, night.experiment, night.run_date)
    for model in models.values():
        if model.warning:
            night.warn(model.warning)
    return models


def read_cards(connection: sa.Connection, experiment: str) -> dict[str, Card]:
    """The card of each dated model of an experiment, by model_name."""
    query = sa.select(models.c.model_name, models.c.card).filter_by(experiment=experiment)
    return {name: Card.model_validate_json(card) for name, card in connection.execute(query)}


def read_references(
    connection: sa.Connection, experiment: str
) -> tuple[dict[str, Reference], dict[str, dict[str, FeatureReference]]]:
    """What scores and features of each dated model of an experiment are compared with."""
    cards = read_cards(connection, experiment)
    scores = {name: card.reference for name, card in cards.items() if card.reference}
    return scores, {name: card.features for name, card in cards.items()}


def undated_name(model: Card | ModelConfig | Row) -> str:
    """Name and version as they stand in a model_name: modelA_v1.0."""
    return f"{model.name}_v{model.version}"


def relink(night: Night) -> None:
    """Let the `latest` links follow what is live: a job may have died between rows and links."""
    if not night.dry_run:
        night.read(link_live, night.experiment, night.run_date)


def link_live(connection: sa.Connection, experiment: Experiment, since: date) -> None:
    """Let the `latest` links, if there is a folder for them, follow what is live.

    That is today, or on the day `since` where that lies ahead.
    """
    if experiment.environment.models_dir.is_dir():
        links = find_links(connection, experiment.name, max(since, today(experiment.environment)))
        link_latest(experiment.environment.models_dir, links)


def find_links(connection: sa.Connection, experiment: str, on: date) -> dict[str, str | None]:
    """The model_name that is live on a date, None if none is, by undated name.

    Of every model that the experiment has had.
    """
    live = {*read_promotions(connection, experiment).live(on).values()}
    links: dict[str, str | None] = {}
    query = sa.select(models.c.model_name, models.c.name, models.c.version)
    for row in connection.execute(query.filter_by(experiment=experiment)):
        undated = undated_name(row)
        links[undated] = row.model_name if row.model_name in live else links.get(undated)
    return links


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
    for suffix in (".pkl", ".json", ".html"):
        files.remove(models_dir / f"{model_name}{suffix}")


def publish(
    connection: sa.Connection,
    night: Night,
    cards: Sequence[Card],
    live: Mapping[str, str],
    now: datetime,
) -> None:
    """Write the rows of saved models, and make those live whose card says so.

    Parameters
    ----------
    live : model_name by variant, when the cards were made; their maker holds the lock PROMOTIONS
    now : naive UTC

    Raises
    ------
    DatabaseError
        If another model has become live since, past the lock.
    """
    if read_promotions(connection, night.experiment.name).live(night.run_date) != live:
        raise DatabaseError(
            f"promotions of {night.experiment.name}: another model was made live while these were"
            " being saved, past abatch's lock. Nothing was published. Run the job again."
        )
    for card in cards:
        add_model(connection, card)
        if card.gate.promote:
            promote(
                connection,
                card,
                effective_date=night.run_date,
                reason=card.gate.reason,
                evidence=card.gate.evidence,
                promoted_by=f"train {night.run_id}",
                promoted_at=now,
            )


def add_model(connection: sa.Connection, card: Card) -> None:
    """Write the row of a saved model.

    It holds the trusted copy of its card, the SHA-256 that its file must have, and the decision.
    """
    row = card.model_dump(include=set(models.columns.keys()))
    row["environment_hash"] = files.hash_bytes(to_json(card.libraries).encode())
    row |= {"card": card.to_json(), "decision": card.gate.sentence}
    connection.execute(models.insert().values(row))


def promote(
    connection: sa.Connection,
    card: Card,
    *,
    action: str = "promote",
    evidence: Mapping[str, Any] | None = None,
    **row: Any,
) -> None:
    """Append a row to `promotions`; `row` holds its other columns. The past is never changed.

    A later row overrules.
    """
    row |= card.model_dump(include={"experiment", "variant", "model_name"})
    figures = to_json(evidence) if evidence else None
    connection.execute(promotions.insert().values(action=action, evidence=figures, **row))


def link_latest(models_dir: Path, links: Mapping[str, str | None]) -> None:
    """Make modelA_v1.0_latest.pkl point at the live model's file, or remove it if none is live.

    Parameters
    ----------
    links : as `find_links` returns them

    Raises
    ------
    FileError
        If the folder cannot be written.
    """
    for undated, target in links.items():
        link = models_dir / f"{undated}_latest.pkl"
        try:
            if target is None:
                link.unlink(missing_ok=True)
            elif not link.is_symlink() or os.readlink(link) != f"{target}.pkl":
                beside = link.with_name(f".{link.name}.{os.getpid()}")
                beside.unlink(missing_ok=True)
                beside.symlink_to(f"{target}.pkl")
                os.replace(beside, link)
        except OSError as error:
            then = "train.py mends the link; what is live is recorded already"
            raise files.cannot_write(link, error, then) from None
