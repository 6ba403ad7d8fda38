"""What is live in an experiment: promotions, whose newest overrules, and the latest links."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from abatch import files
from abatch.config import Experiment
from abatch.database.tables import Row, models, promotions
from abatch.errors import ConfigError, DatabaseError, FileError, RegistryError
from abatch.modelling import registry
from abatch.modelling.card import Card, to_json
from abatch.modelling.registry import Model, undated_name
from abatch.night import Night, today

PROMOTIONS = "promotions"  # the lock of whoever changes what is live, or deletes


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

    def rolled_back(self, variant: str, on: date, reason: str) -> str | None:
        """The model_name that is live by a rollback of that day for that reason, if one is."""
        row = self.in_force(on).get(variant)
        is_same = row and (row.action, row.effective_date, row.reason) == ("rollback", on, reason)
        return row.model_name if row and is_same else None

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
    cards = registry.read_cards(connection, experiment.name)
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


def open_live(night: Night) -> dict[str, Model]:
    """Open the model that is live for each variant that has one; warn where libraries differ.

    Raises
    ------
    RegistryError
        If a variant has none, or its file is not what the table says.
    """
    experiment, on = night.experiment, night.run_date
    live = night.read(read_promotions, experiment.name).live(on)
    opened = {}
    for variant in experiment.models:
        if variant not in live:
            why = night.read(_tell_refused, experiment.name, variant, on)
            raise RegistryError(
                f"experiment {experiment.name}, variant {variant}: no model is live on {on}.{why}"
                " Train one (python train.py) or promote one (python -m abatch promote)."
            )
        models_dir, name = experiment.environment.models_dir, live[variant]
        opened[variant] = night.read(registry.load_model, models_dir, name)
        if warning := opened[variant].warning:
            night.warn(warning)
    return opened


def _tell_refused(connection: sa.Connection, experiment: str, variant: str, on: date) -> str:
    """The newest model that a variant has up to a day, and why the gate refused it, if it did."""
    cards = registry.read_cards(connection, experiment).values()
    dated = [card for card in cards if card.variant == variant and card.run_date <= on]
    newest = max(dated, key=lambda card: (card.run_date, card.run_id), default=None)
    if newest is None or newest.gate.promote:
        return ""
    return f" {newest.model_name} {newest.gate.sentence}."


def relink(night: Night) -> None:
    """Let the `latest` links follow what is live: a job may have died between rows and links.

    Every job does, and none fails by it, for what is live stands in `promotions`.
    """
    if night.dry_run:
        return
    try:
        night.read(link_live, night.experiment)
    except FileError as error:
        night.warn(str(error))


def link_live(connection: sa.Connection, experiment: Experiment) -> None:
    """Let the `latest` links, if there is a folder for them, follow what is live today.

    Raises
    ------
    FileError
        If a link is another one, and the folder cannot be written.
    """
    if experiment.environment.models_dir.is_dir():
        links = find_links(connection, experiment.name, today(experiment.environment))
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
        registry.add_model(connection, card)
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
        beside = files.name_beside(link)
        try:
            if target is None:
                link.unlink(missing_ok=True)
            elif not link.is_symlink() or os.readlink(link) != f"{target}.pkl":
                beside.unlink(missing_ok=True)
                beside.symlink_to(f"{target}.pkl")
                os.replace(beside, link)
                files.sync_folder(models_dir)
        except OSError as error:
            with suppress(OSError):
                beside.unlink()
            then = "the next job mends the link; what is live is recorded already"
            raise files.cannot_write(link, error, then) from None
