"""Commands that look and change nothing."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any

import sqlalchemy as sa

from abatch import job
from abatch.arguments import option, parse_date
from abatch.commands.command import AsJson, Chosen, Day, Experiments, Only, command
from abatch.config import Experiment
from abatch.database import faults, tables
from abatch.database.tables import runs
from abatch.errors import NothingToDo
from abatch.experiment import records
from abatch.modelling import registry
from abatch.pages import lineage
from abatch.pages.gaps import describe_gaps, find_gaps
from abatch.text import show_table, to_json, wrap_facts

AT_RANDOM = "no model (selects at random)"


@command("status")
def show_status(experiments: Chosen, engine: sa.Engine, on: Day, as_json: AsJson) -> str:
    """Live models, last runs, missed dates."""
    with engine.connect() as connection:
        states = [find_status(connection, experiment, on) for experiment in experiments.values()]
    return to_json(states) if as_json else "\n".join(map(describe_status, states))


def find_status(connection: sa.Connection, experiment: Experiment, on: date) -> dict[str, Any]:
    """What `status` tells of an experiment."""
    live = registry.find_live(connection, experiment.name, on)
    of_experiment = sa.select(runs).where(runs.c.experiment == experiment.name)
    ledger = connection.execute(of_experiment.order_by(runs.c.started_at)).all()
    return {
        "experiment": experiment.name,
        "environment": experiment.environment.name,
        "database": faults.show_url(connection.engine),
        "date": on,
        "variants": [
            {
                "variant": variant,
                "has_model": variant in experiment.models,
                "model_name": live.get(variant) if variant in experiment.models else None,
            }
            for variant in experiment.split
        ],
        "jobs": [
            _find_job([row for row in ledger if row.job == name], name, on)
            for name in ("train", "predict", "score")
        ],
    }


def _find_job(ledger: Sequence[sa.Row], name: str, on: date) -> dict[str, Any]:
    """The last run of a job, and the gaps between the nights that are done; train has none."""
    done = sorted({row.run_date for row in ledger if row.status == "done" and row.run_date <= on})
    columns = ("run_id", "run_date", "status", "started_at", "finished_at", "host", "error")
    is_nightly = name != "train" and bool(done)
    gaps = [{"from": first, "to": last} for first, last in find_gaps(done, on)]
    return {
        "job": name,
        "last_run": {name: getattr(ledger[-1], name) for name in columns} if ledger else None,
        "missed": gaps if is_nightly else None,
    }


def describe_status(state: Mapping[str, Any]) -> str:
    """What `find_status` found, as lines."""
    place = f"{state['environment']} ({state['database']})"
    lines = [f"{state['experiment']} in {place}, {state['date']}"]
    for variant in state["variants"]:
        model = variant["model_name"] or ("no model is live" if variant["has_model"] else AT_RANDOM)
        lines.append(f"  variant {variant['variant']:<10} {model}")
    lines += [f"  {of_job['job']:<8} {_describe_job(of_job)}" for of_job in state["jobs"]]
    return "\n".join(lines)


def _describe_job(of_job: Mapping[str, Any]) -> str:
    last = of_job["last_run"]
    if last is None:
        return "has never run"
    text = f"last run for {last['run_date']}: {last['status']}"
    if last["status"] == "running":
        text += f" on {last['host']} since {last['started_at']:%Y-%m-%d %H:%M} UTC"
    if last["error"]:
        text += f" ({last['error'].splitlines()[0]})"
    if of_job["missed"] is not None:
        missed = describe_gaps([(gap["from"], gap["to"]) for gap in of_job["missed"]])
        text += f"; missed {', '.join(missed)}" if missed else "; no night missed"
    return text


@command("models")
def list_models(
    experiments: Chosen,
    engine: sa.Engine,
    on: Day,
    at: Annotated[
        date | None,
        option(
            "--at",
            type=parse_date,
            metavar="YYYY-MM-DD",
            help="what was live on this day, since when and why",
        ),
    ],
    as_json: AsJson,
) -> str:
    """The dated models, and which of them are live; `at` tells what was live on a day."""
    if at:
        return lineage.describe_live(engine, experiments, at, as_json=as_json)
    with engine.connect() as connection:
        found = [row for name in experiments for row in find_models(connection, name, on)]
    if as_json:
        return to_json(found)
    if not found:
        raise NothingToDo("there are no models yet. Train some: python train.py")
    return show_table([_show_model(row) for row in found])


def find_models(connection: sa.Connection, experiment: str, on: date) -> list[dict[str, Any]]:
    """What `models` tells of each dated model of an experiment."""
    deleted = registry.find_deleted(connection, registry.MODEL)
    live = registry.find_live(connection, experiment, on)
    return [
        {
            "model_name": name,
            "experiment": experiment,
            "variant": card.variant,
            "is_live": live.get(card.variant) == name,
            "is_deleted": name in deleted,
            "from_date": str(card.from_date),
            "to_date": str(card.to_date),
            "rows": card.rows,
            "roc_auc": card.roc_auc,
        }
        for name, card in registry.read_cards(connection, experiment).items()
    ]


def _show_model(row: Mapping[str, Any]) -> dict[str, object]:
    return {
        "model": row["model_name"],
        "variant": row["variant"],
        "live": "live" if row["is_live"] else "deleted" if row["is_deleted"] else "",
        "from": row["from_date"],
        "to": row["to_date"],
        "rows": row["rows"],
        "ROC AUC": "" if row["roc_auc"] is None else f"{row['roc_auc']:.4f}",
    }


@command("experiments")
def list_experiments(
    experiments: Experiments, engine: sa.Engine, only: Only, as_json: AsJson
) -> str:
    """Every experiment that was ever registered: asked, expected, known, concluded."""
    chosen = job.choose(experiments, only)
    with engine.connect() as connection:
        known = {record.experiment: record for record in records.read_records(connection)}
    shown = [name for name in known if only is None or name in chosen]
    waiting = [name for name in chosen if name not in known]
    if as_json:
        names = [*shown, *waiting]
        return to_json([_tell_experiment(name, known.get(name), name in chosen) for name in names])
    blocks = [describe_record(known[name], name in chosen) for name in shown]
    blocks += [f"{name}: not registered yet; its first predict does it" for name in waiting]
    return "\n\n".join(blocks) or "there are no experiments yet"


def _tell_experiment(
    name: str, record: records.Record | None, is_configured: bool
) -> dict[str, Any]:
    told = {"experiment": name, "is_configured": is_configured}
    if record is None:
        return told | {"registration": None, "verdicts": [], "conclusion": None}
    registration = record.registration.model_dump(mode="json")
    return told | {
        "registration": {"registered_at": record.registered_at, **registration},
        "verdicts": record.verdicts,
        "conclusion": record.conclusion,
    }


def describe_record(record: records.Record, is_configured: bool) -> str:
    """One experiment as lines."""
    registration, outcome = record.registration, record.registration.outcome
    unit = "prediction" if registration.exposure == "all" else "candidate"
    effect = f"{outcome.expected_effect:+g} in the mean outcome per {unit}"
    conclusion = record.conclusion
    facts = [
        ("asked", registration.hypothesis),
        ("expected", f"{effect}, within {outcome.window_days} days"),
        *(("found", finding) for finding in record.findings or ["no look yet: run score.py"]),
    ]
    if conclusion:
        when = f"{conclusion.concluded_at:%Y-%m-%d %H:%M} UTC"
        facts += [("concluded", conclusion.because), ("", f"{when} by {conclusion.concluded_by}")]
    state = (
        "concluded"
        if conclusion
        else "running"
        if is_configured
        else "no longer in the config, not concluded"
    )
    head = f"{record.experiment}: {state}, registered {record.registered_at:%Y-%m-%d}"
    return "\n".join([head, *wrap_facts(facts)])


@command("explain")
def explain(
    experiments: Chosen,
    engine: sa.Engine,
    candidate: Annotated[
        str, option("--candidate", required=True, metavar="ID", help="candidate_id")
    ],
    on: Day,
    as_json: AsJson,
) -> str:
    """How one candidate's prediction of one night came to be."""
    return lineage.explain(engine, experiments, candidate, on, as_json=as_json)


@command("dictionary")
def read_dictionary() -> str:
    """Return the data dictionary, as Markdown."""
    return tables.DICTIONARY.read_text(encoding="utf-8").rstrip()
