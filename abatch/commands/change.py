"""Commands by which a person changes what is recorded."""

import argparse
import getpass
import os
import platform
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, NamedTuple

import sqlalchemy as sa

from abatch import job, night
from abatch.arguments import CONFIG, ENV, Option, day, switch
from abatch.commands.command import Chosen, Day, command
from abatch.config import Experiment, Experiments, load_experiments
from abatch.database import connections, faults, isolation, locks
from abatch.errors import AbatchError, RegistryError, UsageError, suggest
from abatch.experiment import records
from abatch.modelling import dirt, folders, promotion, registry
from abatch.modelling.card import Card

NOT_CHANGED = "Nothing was changed. Run it again."
BUSY = "somebody else is promoting, rolling back or deleting a model just now. Run it again."


def whoami(name: str = "") -> str:
    """Who changes something, as records name them: the user and the host unless a name is given."""
    if name:
        return name
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as containers have
        user = f"user {os.getuid()}"
    return f"{user}@{platform.node()}"


def _parse_reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a reason; it is kept for good")
    return text.strip()


Model = Annotated[str, Option(metavar="MODEL", help="modelA_v1.0_2026-11-23")]
Reason = Annotated[
    str, Option("--reason", required=True, type=_parse_reason, help="why; it is kept for good")
]
By = Annotated[str, Option("--by", type=whoami, default="", help="who (default: user and host)")]
Name = Annotated[
    str,
    Option(metavar="NAME", help="of the experiment, also of one that is no longer in the config"),
]
AllowDirty = Annotated[
    bool,
    switch(
        "--allow-dirty", "in prod, also a model from a dirty tree that was never live; recorded"
    ),
]


@command("init")
def init(
    env: Annotated[str | None, ENV],
    config: Annotated[Path, CONFIG],
    sql: Annotated[
        bool,
        switch(
            "--sql",
            "print the script instead, for somebody else to read and run; connects to nothing",
        ),
    ],
) -> str:
    """Create abatch's tables and views, or return the script that does."""
    from abatch.database import migrations  # alembic, for which no other command need wait
    from abatch.database.migrations.script import write_script

    environment = load_experiments(config, env, need_database=not sql).environment
    if sql:
        url = environment.database.get_secret_value()
        return write_script(url, environment.schema, environment.place).rstrip("\n")
    with job.open_database(environment, is_ready=False) as engine:
        migrations.upgrade(engine)
        ready = f"{faults.show_url(engine)}: abatch's tables are ready"
        return "\n".join(filter(None, [ready, isolation.find_doubt(engine)]))


class Change(NamedTuple):
    """What a person wants of the models that are live, from which day on, and what is kept of it.

    Attributes
    ----------
    action : promote or rollback
    """

    action: str
    on: date
    reason: str
    by: str
    allow_dirty: bool


@command("promote")
def promote(
    experiments: Experiments,
    engine: sa.Engine,
    model: Model,
    reason: Reason,
    by: By,
    allow_dirty: AllowDirty,
    on: Day,
) -> str:
    """Make a dated model live from a day on."""
    change = Change("promote", on, reason, by, allow_dirty)
    return _make_live(experiments, engine, change, lambda connection: [model])


def _check_rollback(model: str, to: date | None, **_: object) -> str:
    if bool(model) != bool(to):
        return ""
    return "name either a model (modelA, or modelA_v1.0_2026-11-23) or a day (--to YYYY-MM-DD)"


@command("rollback", check=_check_rollback)
def roll_back(
    experiments: Chosen,
    engine: sa.Engine,
    model: Annotated[
        str,
        Option(
            nargs="?",
            default="",
            metavar="MODEL",
            help="modelA, or dated, such as modelA_v1.0_2026-11-23",
        ),
    ],
    to: Annotated[
        date | None,
        day("--to", help="in place of MODEL: to all that was live on this day"),
    ],
    reason: Reason,
    by: By,
    allow_dirty: AllowDirty,
    on: Day,
) -> str:
    """Go back to what was live before, to a dated model, or to all that was live on a day."""
    if to and to > on:
        raise UsageError(f"--to {to} lies after {on}, from which on it would be live")

    def find_names(connection: sa.Connection) -> list[str]:
        names: list[str] = []
        for experiment in experiments.values():
            promotions = promotion.read_promotions(connection, experiment.name)
            if to:
                names += promotions.live(to).values()
            for variant, configured in experiment.models.items():
                if model == configured.name:
                    again = promotions.rolled_back(variant, on, reason)
                    return [again or promotions.previous(variant, on)]
        if to and not names:
            raise RegistryError(
                f"no model was live on {to}. See: python -m abatch models --at {to}"
            )
        return names or [model]

    change = Change("rollback", on, reason, by, allow_dirty)
    done = _make_live(experiments, engine, change, find_names)
    return done or f"what was live on {to} is live on {on} already"


def _tell_live(connection: sa.Connection, experiments: Experiments, on: date) -> str:
    """What is live on a day, for somebody who interrupted a change."""
    live = [
        f"{experiment}, variant {variant}: {name}"
        for experiment in experiments
        for variant, name in promotion.read_promotions(connection, experiment).live(on).items()
    ]
    return "\n  ".join([f"interrupted. Live on {on} is now:", *(live or ["nothing"])])


def _make_live(
    experiments: Experiments,
    engine: sa.Engine,
    change: Change,
    find_names: Callable[[sa.Connection], list[str]],
) -> str:
    """Append rows to promotions, all or none; returns what they have changed, a line for each."""

    def append(connection: sa.Connection, lock: locks.Lock) -> dict[str, str]:
        names = find_names(connection)
        done = {name: _append(connection, experiments, change, name) for name in names}
        lock.require(NOT_CHANGED)
        return done

    folders.claim(engine, experiments.environment, "models_dir")
    try:
        with locks.hold(engine, promotion.PROMOTIONS, BUSY) as lock:
            done = connections.write(engine, append, lock)
        for experiment in experiments.values():
            connections.read(engine, promotion.link_live, experiment)
    except KeyboardInterrupt:
        live = connections.read(engine, _tell_live, experiments, change.on)
        raise AbatchError(
            f"{live}\nThe same command again does what is missing, if anything is."
        ) from None
    if len(done) == 1 and not any(done.values()):
        return f"{next(iter(done))} is live on {change.on} already"
    return "\n".join(filter(None, done.values()))


def _append(connection: sa.Connection, experiments: Experiments, change: Change, name: str) -> str:
    """Append one row to promotions; returns what it changed, empty if the model is live already."""
    on, model = change.on, registry.find_model(connection, name)
    experiment, environment = _choose_config(experiments, model), experiments.environment
    if model.variant not in experiment.models:
        raise AbatchError(
            f"{experiment.key('models')}: variant {model.variant}, for which {name} was trained,"
            " has no model here."
        )
    if on < model.run_date:
        raise UsageError(
            f"{name} was trained for {model.run_date}, on rows that nobody knew on {on}: scores of"
            f" nights before would flatter it. Name a --date from {model.run_date} on."
        )
    doubts = [
        registry.check_model(connection, environment.models_dir, model),
        dirt.find_doubt(environment.name, model.code_version),
    ]
    promotions = promotion.read_promotions(connection, model.experiment)
    before = promotions.live(on).get(model.variant)
    if before == name:
        return ""
    allowed = dirt.check_dirt(environment.name, model, promotions, allow_dirty=change.allow_dirty)
    overruled = promotions.later(on).get(model.variant)
    today = night.today(environment)
    live_today = promotions.live(today).get(model.variant)
    promotion.promote(
        connection,
        model,
        action=change.action,
        effective_date=on,
        reason=change.reason,
        evidence=allowed,
        promoted_by=change.by,
        promoted_at=night.utc_now(),
    )
    text = f"{model.experiment}, variant {model.variant}: {name} is live from {on} on"
    text += f" (before: {before or 'none'})"
    if overruled:
        text += f"; this overrules {overruled}, which was to be live from a later date on"
    if on < today and live_today != before:
        text += f"; today's live model changes with it (before: {live_today})"
    return "\n  ".join(filter(None, [text, *doubts]))


def _choose_config(experiments: Experiments, model: Card) -> Experiment:
    if model.experiment not in experiments:
        raise UsageError(
            f"{model.model_name} belongs to experiment {model.experiment}; expected one of"
            f" {', '.join(experiments)}."
        )
    return experiments[model.experiment]


@command("delete")
def delete(
    experiments: Experiments, engine: sa.Engine, model: Model, reason: Reason, by: By
) -> str:
    """Delete the files of a dated model that is not live; its record stays."""

    def write_deletion(connection: sa.Connection, lock: locks.Lock) -> str:
        row, today = registry.find_model(connection, model), night.today(experiments.environment)
        _choose_config(experiments, row)
        promotions = promotion.read_promotions(connection, row.experiment)
        if model in {*promotions.live(today).values(), *promotions.later(today).values()}:
            raise RegistryError(
                f"{model} is live, or will be, and is not deleted. Make another one live first."
            )
        if earlier := registry.read_deletions(connection, registry.MODEL).get(model):
            who = f"by {earlier.deleted_by} ({earlier.reason})"
            return f"{model}: was deleted already, on {earlier.deleted_at:%Y-%m-%d} {who}"
        registry.write_deletion(connection, registry.MODEL, model, reason, by, night.utc_now())
        lock.require(NOT_CHANGED)
        told = f"{model}: its files are deleted; its record stays"
        if model in promotions.ever_live:
            told += ". It was live once: a rollback to a day of that time will not find it"
        return told

    folders.claim(engine, experiments.environment, "models_dir")
    with locks.hold(engine, promotion.PROMOTIONS, BUSY) as lock:
        told = connections.write(engine, write_deletion, lock)
    registry.remove_files(experiments.environment.models_dir, model)
    return told


@command("acknowledge")
def acknowledge(
    experiments: Experiments,
    engine: sa.Engine,
    experiment: Name,
    of: Annotated[
        date | None,
        day("--night", help="one of the nights that are right (default: all that are doubted)"),
    ],
    reason: Reason,
    by: By,
) -> str:
    """Say that doubted outcomes were looked at and are right as they are."""

    def write(connection: sa.Connection) -> list[str]:
        _find_record(connection, experiment)
        row = {"reason": reason, "acknowledged_by": by, "acknowledged_at": night.utc_now()}
        doubted = records.acknowledge(connection, experiment, of, **row)
        if not doubted:
            which = "no night" if of is None else f"not the night {of}"
            raise UsageError(
                f"{experiment}: the newest look doubts {which}, or it is acknowledged already."
            )
        return doubted

    doubted = connections.write(engine, write)
    head = f"{experiment}: right from the next score on (python score.py --force today):"
    return "\n  ".join([head, *doubted])


def _find_record(connection: sa.Connection, experiment: str) -> records.Record:
    registered = records.read_records(connection)
    if experiment not in registered:
        expected = (
            f"expected one of {', '.join(registered)}"
            if registered
            else "the first predict of an experiment registers it"
        )
        raise UsageError(
            f"there is no registered experiment {experiment!r}; {expected}."
            f"{suggest(experiment, registered)}"
        )
    return registered[experiment]


@command("conclude")
def conclude(
    experiments: Experiments,
    engine: sa.Engine,
    experiment: Name,
    because: Annotated[
        str,
        Option(
            "--because",
            required=True,
            type=_parse_reason,
            help="what is concluded, and why; it is kept for good",
        ),
    ],
    by: By,
) -> str:
    """Write down what a person concludes from an experiment, beside what abatch found."""

    def write(connection: sa.Connection) -> str:
        record = _find_record(connection, experiment)
        finding, last = "; ".join(record.findings) or "no look yet", record.conclusion
        if last and (last.because, last.finding) == (because, finding):
            when = f"on {last.concluded_at:%Y-%m-%d} by {last.concluded_by}"
            return f"{experiment}: concluded already, {when}"
        records.conclude(
            connection,
            experiment,
            because=because,
            finding=finding,
            concluded_by=by,
            concluded_at=night.utc_now(),
        )
        told = f"{experiment}: concluded. The finding kept beside it: {finding}"
        if records.WITH_DOUBTS in finding:
            told += "\nIt rests on outcomes that are doubted: mending them may overturn it."
        return told

    return connections.write(engine, write)
