"""What lies behind a prediction, and behind a night: model, rows, code, config, runs, promotions.

Only reads.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database.tables import (
    Row,
    models,
    predictions,
    predictions_superseded,
    runs,
)
from abatch.errors import DataError
from abatch.experiment import registrations, split
from abatch.experiment.registrations import Registration
from abatch.modelling import registry
from abatch.modelling.promotion import read_promotions
from abatch.text import Reply, wrap_facts

N_NIGHTS = 5  # of a candidate, that a message names
Fact = tuple[str, str]


@dataclass(frozen=True)
class Assignment:
    """Why a candidate is in its variant, by what was registered.

    Attributes
    ----------
    source : hash, or recorded by the candidates query
    by_hash : the variant that the hash gives
    hash : SHA-256 of salt:candidate_id, in hex
    hash_from, hash_up_to : the ends of what was registered for `by_hash`, of the first 16 digits
    """

    source: str
    by_hash: str
    hash: str
    hash_from: str
    hash_up_to: str


@dataclass(frozen=True)
class Making:
    """The dated model that made a prediction: its row, run, and what was deleted of it since."""

    model: Row
    config_hash: str
    run: Row | None
    deletion: Row | None
    snapshot_deletion: Row | None


@dataclass(frozen=True)
class Lineage:
    """What lies behind a candidate's prediction of one night in one experiment.

    Attributes
    ----------
    n_in_variant, n_selected : predictions of its variant and night, and how many by rank are chosen
    making : None without a model, or if the table models does not have it
    promotion : what made the model live for the night
    overruled_by : the newest promotion, if by now another model is live for the night
    """

    prediction: Row
    n_in_variant: int
    select_top: float
    n_selected: int
    salt: str
    assignment: Assignment
    run: Row
    making: Making | None
    promotion: Row | None
    overruled_by: Row | None


def _tell(
    experiment: Experiment, title: str, facts: Iterable[Fact], content: Mapping[str, Any]
) -> Reply:
    """What is told of an experiment: as text under a title, and as JSON."""
    name, environment = experiment.name, experiment.environment.name
    told = {"experiment": name, "environment": environment, **content}
    return Reply(wrap_facts(facts, f"{name} in {environment}, {title}"), told)


def explain(
    engine: sa.Engine, experiments: Mapping[str, Experiment], candidate: str, on: date
) -> Reply:
    """The lineage of a candidate's prediction of one night, in each experiment that has one.

    Returns
    -------
    Reply
        Lines of at most 80 columns, and content whose keys are columns of the tables.

    Raises
    ------
    DataError
        If no experiment has one; the message names the nights that have.
    """
    try:
        candidate_id = split.check_id(candidate)
    except DataError as error:
        raise DataError(f"--candidate: {error}") from None
    title, replies = f"night of {on}, candidate {candidate_id}", []
    with engine.connect() as connection:
        for experiment in experiments.values():
            key = {"experiment": experiment.name, "run_date": on, "candidate_id": candidate_id}
            rows = _find_predictions(connection, predictions, key)
            superseded = _find_predictions(connection, predictions_superseded, key)
            if not rows and not superseded:
                continue
            content: dict[str, Any] = {"prediction": None}
            facts = [
                ("prediction", "none any more: the night was done again without this candidate")
            ]
            if rows:
                lineage = find_lineage(connection, rows[0])
                content, facts = vars(lineage), [*_describe_lineage(lineage)]
            facts += map(_describe_superseded, superseded)
            replies.append(_tell(experiment, title, facts, {**content, "superseded": superseded}))
        if not replies:
            raise DataError(_describe_absence(connection, experiments, candidate_id, on))
    return Reply.join(replies)


def find_lineage(connection: sa.Connection, row: Row) -> Lineage:
    """What lies behind a prediction."""
    registration = registrations.find(connection, row.experiment)
    assert registration is not None  # the first predict wrote it
    night = {"experiment": row.experiment, "run_date": row.run_date, "variant": row.variant}
    count = sa.select(sa.func.count()).select_from(predictions).filter_by(**night)
    n = connection.scalar(count) or 0
    promotion, overruled_by = _find_promotions(connection, row)
    return Lineage(
        prediction=row,
        n_in_variant=n,
        select_top=registration.select_top,
        n_selected=split.count_selected(
            n, registration.select_top, registration.salt, row.run_date
        ),
        salt=registration.salt,
        assignment=find_assignment(registration, row.candidate_id),
        run=connection.execute(sa.select(runs).filter_by(run_id=row.run_id)).one(),
        making=_find_making(connection, row.model_name),
        promotion=promotion,
        overruled_by=overruled_by,
    )


def _find_predictions(
    connection: sa.Connection, table: sa.Table, key: Mapping[str, Any]
) -> list[Row]:
    """Letter for letter: a server's collation may take two spellings for one."""
    query = sa.select(table).filter_by(**key).order_by("predicted_at", "run_id")
    return [row for row in connection.execute(query) if row.candidate_id == key["candidate_id"]]


def find_assignment(registration: Registration, candidate_id: str) -> Assignment:
    """Which variant the hash of a candidate gives by what was registered."""
    digest = hashlib.sha256(f"{registration.salt}:{candidate_id}".encode("ascii")).hexdigest()
    start = 0
    for part in registration.variants:
        if digest[:16] <= part.hash_up_to:
            break
        start = int(part.hash_up_to, 16) + 1
    return Assignment(registration.assignment, part.name, digest, f"{start:016x}", part.hash_up_to)


def _find_making(connection: sa.Connection, model_name: str | None) -> Making | None:
    model = _find_model(connection, model_name)
    if model is None:
        return None
    snapshots = registry.read_deletions(connection, registry.SNAPSHOT)
    return Making(
        model=model,
        config_hash=registry.find_model(connection, model.model_name).config_hash,
        run=connection.execute(sa.select(runs).filter_by(run_id=model.run_id)).first(),
        deletion=registry.read_deletions(connection, registry.MODEL).get(model.model_name),
        snapshot_deletion=snapshots.get(model.snapshot),
    )


def _find_model(connection: sa.Connection, model_name: str | None) -> Row | None:
    """The row of a model but for its card, which is a page of its own."""
    query = sa.select(*(column for column in models.c if column is not models.c.card))
    return connection.execute(query.filter_by(model_name=model_name)).first()


def _find_promotions(connection: sa.Connection, row: Row) -> tuple[Row | None, Row | None]:
    """What made the model live for the night of a prediction, and what has overruled that since."""
    if row.model_name is None:
        return None, None
    history = read_promotions(connection, row.experiment).until(row.variant, row.run_date)
    named = [promotion for promotion in history if promotion.model_name == row.model_name]
    before = [promotion for promotion in named if promotion.promoted_at <= row.predicted_at]
    newest = history[-1] if history and history[-1].model_name != row.model_name else None
    return next(reversed(before or named), None), newest


def _describe_lineage(lineage: Lineage) -> Iterator[Fact]:
    row, n = lineage.prediction, lineage.n_in_variant
    score = "none, for the variant has no model" if row.prediction is None else repr(row.prediction)
    yield "prediction", f"{score}; rank {row.rank_in_variant:,} of {n:,} in variant {row.variant}"
    rule = f"the first {lineage.n_selected:,} of {n:,} by rank are"
    answer = "yes" if row.selected else "no"
    yield "selected", f"{answer}; {rule} (select_top {lineage.select_top})"
    yield "predicted", _show(row.predicted_at)
    yield "variant", _describe_assignment(lineage)
    yield from _describe_making(lineage)
    yield "run", _describe_run(lineage.run, row.run_id)
    if promotion := lineage.promotion:
        is_late = promotion.promoted_at > row.predicted_at
        late = ". Its row was written after the prediction" * is_late
        yield "promotion", _describe_promotion(promotion) + late
    elif row.model_name:
        never = f"the table promotions never had {row.model_name} live on {row.run_date}"
        yield "promotion", f"none: {never}"
    if newest := lineage.overruled_by:
        stands = f"by now {newest.model_name} is live for that night; the prediction stands"
        yield "overruled", f"{stands}. {_describe_promotion(newest)}"


def _describe_assignment(lineage: Lineage) -> str:
    why, variant = lineage.assignment, lineage.prediction.variant
    first = why.hash[:16]
    start, end = int(why.hash_from, 16) / 2**64, (int(why.hash_up_to, 16) + 1) / 2**64
    hashed = (
        f"SHA-256 of {lineage.salt}:{lineage.prediction.candidate_id} begins with {first},"
        f" {int(first, 16) / 2**64:.6f} of 2**64, within {why.hash_from} to {why.hash_up_to}"
        f" ({start:.6g} to {end:.6g}), registered for {why.by_hash}"
    )
    if why.source == "recorded":
        given = _name_again(why.by_hash, variant)
        how = f"recorded by the candidates query; the hash would give {given} and does not count"
        return f"{variant}, {how}: {hashed}"
    if why.by_hash == variant:
        return f"{variant}, by hash, recomputed: {hashed}"
    return f"{variant} was written, BUT THE HASH GIVES {why.by_hash}: {hashed}"


def _describe_making(lineage: Lineage) -> Iterator[Fact]:
    """What made the prediction: the model, its rows, and the code and config of either run."""
    row, made = lineage.prediction, lineage.making
    code, config = lineage.run.code_version, lineage.run.config_hash
    if made is None:
        if row.model_name:
            yield "model", f"{row.model_name}, which the table models does not have"
        else:
            key = f"selection_key {lineage.assignment.hash[16:32]} (bytes 8 to 15 of the hash)"
            yield "model", f"none: variant {row.variant} selects at random, by {key}, lower first"
        yield "code", f"predicted by {code}"
        yield "config", f"predicted under {config}"
        return
    model = made.model
    state = _describe_deletion(made.deletion)
    yield "model", f"{model.model_name}, file {model.file}, {state}, SHA-256 {model.sha256}"
    snapshot = f"snapshot {model.snapshot}, {_describe_deletion(made.snapshot_deletion)}"
    yield "trained on", f"{_describe_window(model)}; {snapshot}"
    trained = f"trained by {model.code_version}"
    yield "code", f"{trained}; predicted by {_name_again(code, model.code_version)}"
    trained = f"trained under {made.config_hash}"
    yield "config", f"{trained}; predicted under {_name_again(config, made.config_hash)}"
    yield "train run", _describe_run(made.run, model.run_id)


def _name_again(name: str, before: str) -> str:
    return "the same" if name == before else name


def _describe_deletion(deletion: Row | None) -> str:
    if deletion is None:
        return "not deleted"
    return f"deleted {_show(deletion.deleted_at)} by {deletion.deleted_by} ({deletion.reason})"


def _describe_run(run: Row | None, run_id: str) -> str:
    if run is None:
        return f"{run_id}, which the table runs does not have"
    started, name = f"started {_show(run.started_at)}", f"{run.job} for {run.run_date}"
    ended = f"finished {_show(run.finished_at)}" if run.finished_at else "not finished"
    return f"{run_id}, {name} on {run.host}, {started}, {ended}, {run.status}"


def _describe_promotion(promotion: Row) -> str:
    written = f"written {_show(promotion.promoted_at)} by {promotion.promoted_by}"
    start = f"effective from {promotion.effective_date}"
    return f"{promotion.action}, {start}, {written}: {promotion.reason}"


def _describe_superseded(row: Row) -> Fact:
    score = "no prediction" if row.prediction is None else repr(row.prediction)
    chosen = "selected" if row.selected else "not selected"
    made = f"{row.model_name or 'no model'}, {score}, {chosen}, {_show(row.predicted_at)}"
    return "superseded", f"{made} by run {row.run_id}; replaced by run {row.superseded_by}"


def _describe_absence(
    connection: sa.Connection, experiments: Mapping[str, Experiment], candidate_id: str, on: date
) -> str:
    where = ", ".join(experiments)
    lines = [f"--candidate {candidate_id}: there is no prediction of {on} in {where}."]
    for name in experiments:
        if nights := _find_nights(connection, name, candidate_id):
            newest = "the newest are " * (len(nights) == N_NIGHTS) + ", ".join(map(str, nights))
            lines.append(f"{name} has it on other nights: {newest}. Name one by --date.")
    if len(lines) == 1:
        lines.append(
            "It was never predicted there. Write the id as the candidates query returns it: outside"
            " UUIDs upper and lower case count."
        )
    return "\n".join(lines)


def _find_nights(connection: sa.Connection, experiment: str, candidate_id: str) -> list[date]:
    """The newest nights for which a candidate was predicted, superseded ones too; newest first."""
    key = {"experiment": experiment, "candidate_id": candidate_id}
    nights: set[date] = set()
    for c in (predictions.c, predictions_superseded.c):  # letter for letter, whatever the collation
        query = sa.select(c.run_date, c.candidate_id).filter_by(**key).distinct()
        query = query.order_by(c.run_date.desc(), c.candidate_id).limit(N_NIGHTS)
        rows = connection.execute(query)
        nights |= {row.run_date for row in rows if row.candidate_id == candidate_id}
    return sorted(nights, reverse=True)[:N_NIGHTS]


@dataclass(frozen=True)
class Live:
    """What is live of a variant on a day.

    Attributes
    ----------
    promotion : what makes it live; None if no model is
    model : its row in the table models, if that has it
    predicted : model_name, n and predicted_at of the night's predictions
    """

    variant: str
    has_model: bool
    promotion: Row | None
    model: Row | None
    predicted: list[Row]

    @property
    def model_name(self) -> str | None:
        """The dated model that is live."""
        return self.promotion.model_name if self.promotion else None


def describe_live(engine: sa.Engine, experiments: Mapping[str, Experiment], on: date) -> Reply:
    """Which model of each variant is live on a day, why, and which made the night's predictions.

    Returns
    -------
    Reply
        Lines of at most 80 columns, and content whose keys are columns of the tables.
    """
    replies = []
    with engine.connect() as connection:
        for experiment in experiments.values():
            live = find_live(connection, experiment, on)
            facts = [fact for variant in live for fact in _describe_variant(variant, on)]
            content = {"date": on, "variants": live}
            replies.append(_tell(experiment, f"live on {on}", facts, content))
    return Reply.join(replies)


def find_live(connection: sa.Connection, experiment: Experiment, on: date) -> list[Live]:
    """What is live of each variant on a day."""
    in_force = read_promotions(connection, experiment.name).in_force(on)
    p = predictions.c
    counts = (sa.func.count().label("n"), sa.func.max(p.predicted_at).label("predicted_at"))
    key = (p.variant, p.model_name)
    night = sa.select(*key, *counts).filter_by(experiment=experiment.name, run_date=on)
    rows = connection.execute(night.group_by(*key).order_by(*key)).all()
    live = []
    for variant in experiment.split:
        has_model = variant in experiment.models
        promotion = in_force.get(variant) if has_model else None
        model = _find_model(connection, promotion.model_name) if promotion else None
        predicted = [row for row in rows if row.variant == variant]
        live.append(Live(variant, has_model, promotion, model, predicted))
    return live


def _describe_variant(live: Live, on: date) -> Iterator[Fact]:
    """What is live, and who made the night's predictions if the table says otherwise by now."""
    none = "no model was live" if live.has_model else "no model (selects at random)"
    yield "variant", f"{live.variant}: {live.model_name or none}"
    if live.promotion:
        yield "promotion", _describe_promotion(live.promotion)
        unknown = "unknown: the table models does not have it"
        yield "trained on", unknown if live.model is None else _describe_window(live.model)
    made = [f"{row.n:,} for {on} by {row.model_name or 'no model'}" for row in live.predicted]
    text = "; ".join(made) or f"nobody for {on}"
    others = [row.predicted_at for row in live.predicted if row.model_name != live.model_name]
    if others:
        name, written_at = live.model_name or "no model", max(others)
        text += f". Note that the table says that {name} is live, but that is not what made them"
        if live.promotion and live.promotion.promoted_at > written_at:
            after = f"only after they were written, on {_show(written_at)}"
            text += f": it was made live for this night {after}"
    yield "predicted", text


def _describe_window(model: Row) -> str:
    window = f"[{model.from_date}, {model.to_date})"
    return f"{model.rows:,} rows of {window}, as known at {_show(model.as_of)}"


def _show(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
