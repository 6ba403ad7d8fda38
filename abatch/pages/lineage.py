"""What lies behind a prediction, and behind a night: the model, its rows, code, config, runs, and
who made it live. Only reads.
"""

import hashlib
import json
import textwrap
from collections.abc import Iterator, Mapping
from datetime import date, datetime

import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database.tables import (
    models,
    predictions,
    predictions_superseded,
    promotions,
    runs,
    snapshots,
)
from abatch.errors import DataError
from abatch.experiment import assignment, registrations
from abatch.experiment.registrations import Registration
from abatch.modelling import registry

N_NIGHTS = 5  # of a candidate, that a message names
Fact = tuple[str, str]


def explain(
    engine: sa.Engine, experiments: Mapping[str, Experiment], candidate: str, on: date
) -> str:
    """The lineage of a candidate's prediction of one night, in each experiment that has one, as
    lines of at most 80 columns.

    Raises
    ------
    DataError
        If no experiment has one; the message names the nights that have.
    """
    try:
        candidate_id = assignment.normalise_id(candidate)
    except DataError as error:
        raise DataError(f"--candidate: {error}") from None
    blocks = []
    with engine.connect() as connection:
        for experiment in experiments.values():
            facts = list(_list_facts(connection, experiment, candidate_id, on))
            title = (
                f"{experiment.name} in {experiment.environment.name}, night of {on}, candidate"
                f" {candidate_id}"
            )
            if facts:
                blocks.append("\n".join([*_wrap(title), *registrations.wrap_facts(facts)]))
        if not blocks:
            raise DataError(_describe_absence(connection, experiments, candidate_id, on))
    return "\n\n".join(blocks)


def _list_facts(
    connection: sa.Connection, experiment: Experiment, candidate_id: str, on: date
) -> Iterator[Fact]:
    rows = _find_predictions(connection, predictions, experiment.name, candidate_id, on)
    earlier = _find_predictions(
        connection, predictions_superseded, experiment.name, candidate_id, on
    )
    registration = registrations.find(connection, experiment.name)
    for row in rows:
        assert registration is not None  # the first predict wrote it
        yield from _describe_prediction(connection, registration, row)
        yield "variant", describe_assignment(registration, candidate_id, row.variant)
        if row.model_name is None:
            key = _hash(registration, candidate_id)[16:32]
            yield (
                "model",
                (
                    f"none: variant {row.variant} selects at random, by selection_key {key} (bytes"
                    " 8 to 15 of the hash), lower first"
                ),
            )
        yield from _describe_making(connection, row)
        yield "run", _describe_run(connection, row.run_id)
        yield from _describe_promotions(connection, row)
    if earlier and not rows:
        yield "prediction", "none any more: the night was done again without this candidate"
    for row in earlier:
        score = "no prediction" if row.prediction is None else repr(row.prediction)
        chosen = "selected" if row.selected else "not selected"
        made = f"{row.model_name or 'no model'}, {score}, {chosen}, {_show(row.predicted_at)}"
        yield "superseded", f"{made} by run {row.run_id}; replaced by run {row.superseded_by}"


def _find_predictions(
    connection: sa.Connection, table: sa.Table, experiment: str, candidate_id: str, on: date
) -> list[sa.Row]:
    """Letter for letter: a server's collation may take two spellings for one."""
    own = (
        table.c.experiment == experiment,
        table.c.run_date == on,
        table.c.candidate_id == candidate_id,
    )
    found = connection.execute(
        sa.select(table).where(*own).order_by(table.c.predicted_at, table.c.run_id)
    )
    return [row for row in found if row.candidate_id == candidate_id]


def _describe_prediction(
    connection: sa.Connection, registration: Registration, row: sa.Row
) -> Iterator[Fact]:
    p, share = predictions.c, registration.select_top
    night = (p.experiment == row.experiment, p.run_date == row.run_date, p.variant == row.variant)
    n = connection.scalar(sa.select(sa.func.count()).where(*night)) or 0
    score = "none, for the variant has no model" if row.prediction is None else repr(row.prediction)
    rule = (
        f"the first {assignment.count_selected(n, share):,} of {n:,} by rank are (select_top"
        f" {share})"
    )
    yield "prediction", f"{score}; rank {row.rank_in_variant:,} of {n:,} in variant {row.variant}"
    yield "selected", f"{'yes' if row.selected else 'no'}; {rule}"
    yield "predicted", _show(row.predicted_at)


def _hash(registration: Registration, candidate_id: str) -> str:
    return hashlib.sha256(f"{registration.salt}:{candidate_id}".encode("ascii")).hexdigest()


def describe_assignment(registration: Registration, candidate_id: str, variant: str) -> str:
    """Why a candidate is in its variant, by what was registered, and whether the hash agrees.

    Parameters
    ----------
    variant : as it was written
    """
    first = _hash(registration, candidate_id)[:16]
    start, by_hash, limit = 0, "", ""
    for part in registration.variants:
        by_hash, limit = part.name, part.hash_up_to
        if first <= limit:
            break
        start = int(limit, 16) + 1
    share = f"{start / 2**64:.6g} to {(int(limit, 16) + 1) / 2**64:.6g}"
    hashed = (
        f"SHA-256 of {registration.salt}:{candidate_id} begins with {first},"
        f" {int(first, 16) / 2**64:.6f} of 2**64"
    )
    interval = f"within {start:016x} to {limit} ({share}), registered for {by_hash}"
    if registration.assignment == "recorded":
        agrees = "would give the same" if by_hash == variant else f"would give {by_hash}"
        return (
            f"{variant}, recorded by the candidates query; the hash {agrees} and does not count:"
            f" {hashed}, {interval}"
        )
    if by_hash == variant:
        return f"{variant}, by hash, recomputed: {hashed}, {interval}"
    return f"{variant} was written, BUT THE HASH GIVES {by_hash}: {hashed}, {interval}"


def _describe_making(connection: sa.Connection, row: sa.Row) -> Iterator[Fact]:
    """What made the prediction: the model, its rows, and the code and config of either run."""
    predicted = _find_run(connection, row.run_id)
    code, predicted_under = (
        ("unknown", "unknown")
        if predicted is None
        else (predicted.code_version, predicted.config_hash)
    )
    model = (
        connection.execute(sa.select(models).where(models.c.model_name == row.model_name)).first()
        if row.model_name
        else None
    )
    if model is None:
        if row.model_name:
            yield "model", f"{row.model_name}, which the table models does not have"
        yield "code", f"predicted by {code}"
        yield "config", f"predicted under {predicted_under}"
        return
    deletion = registry.find_deletion(connection, registry.MODEL, model.model_name)
    yield (
        "model",
        (
            f"{model.model_name}, file {model.file}, {_describe_deletion(deletion)}, SHA-256"
            f" {model.sha256}"
        ),
    )
    known = f"as known at {_show(model.as_of)}"
    yield (
        "trained on",
        (
            f"{model.rows:,} rows of [{model.from_date}, {model.to_date}), {known};"
            f" {_describe_snapshot(connection, model)}"
        ),
    )
    trained = _find_run(connection, model.run_id)
    trained_under = json.loads(model.card).get("config_hash") or (
        trained.config_hash if trained else "unknown"
    )
    yield (
        "code",
        (
            f"trained by {model.code_version}; predicted by"
            f" {'the same' if code == model.code_version else code}"
        ),
    )
    yield (
        "config",
        (
            f"trained under {trained_under}; predicted under"
            f" {'the same' if predicted_under == trained_under else predicted_under}"
        ),
    )
    yield "train run", _describe_run(connection, model.run_id)


def _describe_snapshot(connection: sa.Connection, model: sa.Row) -> str:
    if model.snapshot is None:
        return "snapshot not kept"
    deletion = registry.find_deletion(connection, registry.SNAPSHOT, model.snapshot)
    pulled_at = connection.scalar(
        sa.select(sa.func.max(snapshots.c.pulled_at)).where(
            snapshots.c.content_hash == model.snapshot
        )
    )
    if (
        deletion is not None and pulled_at is not None and pulled_at > deletion.deleted_at
    ):  # another run pulled the same rows since
        deletion = None
    return f"snapshot {model.snapshot}, {_describe_deletion(deletion)}"


def _describe_deletion(deletion: sa.Row | None) -> str:
    if deletion is None:
        return "not deleted"
    return f"deleted {_show(deletion.deleted_at)} by {deletion.deleted_by} ({deletion.reason})"


def _find_run(connection: sa.Connection, run_id: str) -> sa.Row | None:
    return connection.execute(sa.select(runs).where(runs.c.run_id == run_id)).first()


def _describe_run(connection: sa.Connection, run_id: str) -> str:
    run = _find_run(connection, run_id)
    if run is None:
        return f"{run_id}, which the table runs does not have"
    ended = f"finished {_show(run.finished_at)}" if run.finished_at else "not finished"
    return (
        f"{run_id}, {run.job} for {run.run_date} on {run.host}, started {_show(run.started_at)},"
        f" {ended}, {run.status}"
    )


def _describe_promotions(connection: sa.Connection, row: sa.Row) -> Iterator[Fact]:
    """What made the model live for the night, and what has overruled that since."""
    if row.model_name is None:
        return
    p = promotions.c
    own = (
        p.experiment == row.experiment,
        p.variant == row.variant,
        p.effective_date <= row.run_date,
    )
    history = connection.execute(sa.select(promotions).where(*own).order_by(p.promotion_id)).all()
    named = [promotion for promotion in history if promotion.model_name == row.model_name]
    before = [promotion for promotion in named if promotion.promoted_at <= row.predicted_at]
    if before:
        yield "promotion", _describe_promotion(before[-1])
    elif named:
        yield (
            "promotion",
            f"{_describe_promotion(named[-1])}. Its row was written after the prediction",
        )
    else:
        yield (
            "promotion",
            f"none: the table promotions never had {row.model_name} live on {row.run_date}",
        )
    if history and history[-1].model_name != row.model_name:
        newest = history[-1]
        yield (
            "overruled",
            (
                f"by now {newest.model_name} is live for that night; the prediction stands."
                f" {_describe_promotion(newest)}"
            ),
        )


def _describe_promotion(promotion: sa.Row) -> str:
    written = f"written {_show(promotion.promoted_at)} by {promotion.promoted_by}"
    return (
        f"{promotion.action}, effective from {promotion.effective_date}, {written}:"
        f" {promotion.reason}"
    )


def _describe_absence(
    connection: sa.Connection, experiments: Mapping[str, Experiment], candidate_id: str, on: date
) -> str:
    nights = {name: _find_nights(connection, name, candidate_id) for name in experiments}
    lines = [
        f"--candidate {candidate_id}: there is no prediction of {on} in"
        f" {', '.join(experiments) or 'any experiment'}."
    ]
    for name, found in nights.items():
        if found:
            newest = "the newest are " if len(found) == N_NIGHTS else ""
            lines.append(
                f"{name} has it on other nights: {newest}{', '.join(map(str, found))}. Name one by"
                " --date."
            )
    if not any(nights.values()):
        lines.append(
            "It was never predicted there. Write the id as the candidates query returns it: outside"
            " UUIDs upper and lower case count."
        )
    return "\n".join(lines)


def _find_nights(connection: sa.Connection, experiment: str, candidate_id: str) -> list[date]:
    """The newest nights for which a candidate was predicted, also those whose prediction was
    superseded; newest first.
    """
    found: set[date] = set()
    for c in (predictions.c, predictions_superseded.c):
        own = (c.experiment == experiment, c.candidate_id == candidate_id)
        query = (
            sa.select(c.run_date, c.candidate_id)
            .where(*own)
            .distinct()
            .order_by(c.run_date.desc(), c.candidate_id)
            .limit(N_NIGHTS)
        )
        found |= {
            row.run_date for row in connection.execute(query) if row.candidate_id == candidate_id
        }
    return sorted(found, reverse=True)[:N_NIGHTS]


def describe_live(engine: sa.Engine, experiments: Mapping[str, Experiment], on: date) -> str:
    """Which model of each variant is live on a date by the table promotions, why, and which model
    made that night's predictions.
    """
    blocks = []
    with engine.connect() as connection:
        for experiment in experiments.values():
            in_force = registry.find_in_force(connection, experiment.name, on)
            made = _count_made(connection, experiment.name, on)
            facts: list[Fact] = []
            for variant in experiment.split:
                row = in_force.get(variant) if variant in experiment.models else None
                none = (
                    "no model was live"
                    if variant in experiment.models
                    else "no model (selects at random)"
                )
                facts.append(("variant", f"{variant}: {row.model_name if row else none}"))
                if row:
                    facts.append(("promotion", _describe_promotion(row)))
                    facts.append(("trained on", _describe_window(connection, row.model_name)))
                facts.append(("predicted", _describe_made(made.get(variant, []), row, on)))
            title = f"{experiment.name} in {experiment.environment.name}, live on {on}"
            blocks.append("\n".join([*_wrap(title), *registrations.wrap_facts(facts)]))
    return "\n\n".join(blocks)


def _count_made(connection: sa.Connection, experiment: str, on: date) -> dict[str, list[sa.Row]]:
    """model_name, n and predicted_at of a night's predictions, by variant."""
    p = predictions.c
    query = sa.select(
        p.variant,
        p.model_name,
        sa.func.count().label("n"),
        sa.func.max(p.predicted_at).label("predicted_at"),
    )
    query = query.where(p.experiment == experiment, p.run_date == on).group_by(
        p.variant, p.model_name
    )
    found: dict[str, list[sa.Row]] = {}
    for row in connection.execute(query.order_by(p.variant, p.model_name)):
        found.setdefault(row.variant, []).append(row)
    return found


def _describe_window(connection: sa.Connection, model_name: str) -> str:
    model = connection.execute(sa.select(models).where(models.c.model_name == model_name)).first()
    if model is None:
        return "unknown: the table models does not have it"
    return (
        f"{model.rows:,} rows of [{model.from_date}, {model.to_date}), as known at"
        f" {_show(model.as_of)}"
    )


def _describe_made(made: list[sa.Row], in_force: sa.Row | None, on: date) -> str:
    """Who made a variant's predictions of a night and, if that is not who is live by the table,
    since when it says otherwise.
    """
    if not made:
        return f"nobody for {on}"
    parts = [f"{row.n:,} for {on} by {row.model_name or 'no model'}" for row in made]
    live = in_force.model_name if in_force else None
    others = [row for row in made if row.model_name != live]
    if not others:
        return "; ".join(parts)
    said = f"the table says that {live or 'no model'} is live, but that is not what made them"
    if in_force and in_force.promoted_at > max(row.predicted_at for row in others):
        said += (
            ": it was made live for this night only after they were written, on"
            f" {_show(max(row.predicted_at for row in others))}"
        )
    return f"{'; '.join(parts)}. Note that {said}"


def _wrap(title: str) -> list[str]:
    return textwrap.wrap(title, 79, subsequent_indent=" " * 13, break_on_hyphens=False)


def _show(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
