"""Commands that look and change nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

import sqlalchemy as sa

from abatch.arguments import Option, day
from abatch.commands.command import Chosen, Day, Only, command
from abatch.config import Experiment, Experiments
from abatch.database import faults, tables
from abatch.database.tables import Row, runs
from abatch.experiment.records import Record, read_records
from abatch.modelling import folders, promotion, registry
from abatch.modelling.folders import Survey
from abatch.pages import lineage
from abatch.pages.gaps import Gap, describe_gaps, find_gaps
from abatch.text import Reply, cut_list, show_table, wrap_facts

N_FILES = 5  # are named


@dataclass(frozen=True)
class VariantState:
    """What is live of a variant."""

    variant: str
    has_model: bool
    model_name: str | None

    def __str__(self) -> str:
        none = "no model is live" if self.has_model else "no model (selects at random)"
        return f"variant {self.variant:<10} {self.model_name or none}"


@dataclass(frozen=True)
class JobState:
    """The newest run of a job, and the nights that it missed; None for train, which has none."""

    job: str
    last_run: Row | None
    missed: list[Gap] | None

    def __str__(self) -> str:
        run = self.last_run
        if run is None:
            return f"{self.job:<8} has never run"
        text = f"{self.job:<8} last run for {run.run_date}: {run.status}"
        if run.status == "running":
            text += f" on {run.host} since {run.started_at:%Y-%m-%d %H:%M} UTC"
        if run.error:
            text += f" ({run.error.splitlines()[0]})"
        if self.missed is None:
            return text
        missed = ", ".join(describe_gaps(self.missed))
        return f"{text}; {f'missed {missed}' if missed else 'no night missed'}"


@dataclass(frozen=True)
class Status:
    """What `status` tells of an experiment."""

    experiment: str
    environment: str
    database: str
    date: date
    variants: list[VariantState]
    jobs: list[JobState]
    files: Survey

    def __str__(self) -> str:
        head = f"{self.experiment} in {self.environment} ({self.database}), {self.date}"
        return "\n  ".join([head, *map(str, self.variants), *map(str, self.jobs)])


@command("status", in_json=True)
def show_status(experiments: Chosen, engine: sa.Engine, on: Day) -> Reply:
    """Live models, last runs, missed dates, and what is wrong with files."""
    with engine.connect() as connection:
        files = folders.survey(connection, experiments.environment)
        found = [find_status(connection, one, on, files) for one in experiments.values()]
    text = "\n".join(map(str, found))
    if files:
        text += f"\n{_describe_files(files, experiments.environment.name)}"
    return Reply(text, found)


def _describe_files(files: Survey, environment: str) -> str:
    """What is wrong with them, a line for each; of many some."""
    lines = [f"files in {environment}", *(f"  {fault}" for fault in files.faults)]
    for paths, what in (
        (files.unknown, "that the tables do not know"),
        (files.missing, "that the tables name are missing"),
    ):
        if paths:
            lines.append(f"  {len(paths)} {what}:")
            lines += [f"    {path}" for path in cut_list(paths, N_FILES, "more: see --json")]
    return "\n".join(lines)


def find_status(
    connection: sa.Connection, experiment: Experiment, on: date, files: Survey
) -> Status:
    """What is live, and what was done until a day."""
    live = promotion.read_promotions(connection, experiment.name).live(on)
    query = sa.select(runs).filter_by(experiment=experiment.name).order_by(runs.c.started_at)
    ledger = connection.execute(query).all()
    variants = []
    for variant in experiment.split:
        has_model = variant in experiment.models
        variants.append(VariantState(variant, has_model, live.get(variant) if has_model else None))
    jobs = []
    for name in ("train", "predict", "score"):
        of_job = [row for row in ledger if row.job == name]
        done = sorted(row.run_date for row in of_job if row.status == "done" and row.run_date <= on)
        missed = find_gaps(done, on) if done and name != "train" else None
        jobs.append(JobState(name, of_job[-1] if of_job else None, missed))
    url, environment = faults.show_url(connection.engine), experiment.environment.name
    return Status(experiment.name, environment, url, on, variants, jobs, files)


@command("models", in_json=True)
def list_models(
    experiments: Chosen,
    engine: sa.Engine,
    on: Day,
    at: Annotated[date | None, day("--at", help="what was live on this day, since when and why")],
) -> Reply:
    """The dated models, and which of them are live; `at` tells what was live on a day."""
    if at:
        return lineage.describe_live(engine, experiments, at)
    with engine.connect() as connection:
        models = [model for name in experiments for model in _tell_models(connection, name, on)]
    if not models:
        return Reply("there are no models yet. Train some: python train.py", models)
    return Reply(show_table(map(_make_line, models)), models)


def _tell_models(connection: sa.Connection, experiment: str, on: date) -> Iterator[dict[str, Any]]:
    """The dated models of an experiment, as they are on a day."""
    deleted = registry.read_deletions(connection, registry.MODEL)
    live = promotion.read_promotions(connection, experiment).live(on)
    for name, card in registry.read_cards(connection, experiment).items():
        yield {
            "model_name": name,
            "experiment": experiment,
            "variant": card.variant,
            "is_live": live.get(card.variant) == name,
            "is_deleted": name in deleted,
            "from_date": card.from_date,
            "to_date": card.to_date,
            "rows": card.rows,
            "roc_auc": card.roc_auc,
        }


def _make_line(model: Mapping[str, Any]) -> dict[str, object]:
    """A row of the table that `models` prints."""
    roc_auc = model["roc_auc"]
    return {
        "model": model["model_name"],
        "variant": model["variant"],
        "live": "live" if model["is_live"] else "deleted" if model["is_deleted"] else "",
        "from": model["from_date"],
        "to": model["to_date"],
        "rows": model["rows"],
        "ROC AUC": "" if roc_auc is None else f"{roc_auc:.4f}",
    }


@command("experiments", in_json=True)
def list_experiments(experiments: Experiments, engine: sa.Engine, only: Only) -> Reply:
    """Every experiment that was ever registered: asked, expected, known, concluded."""
    chosen = experiments.choose(only)
    with engine.connect() as connection:
        records = read_records(connection)
    names = chosen if only else dict.fromkeys([*records, *chosen])
    return Reply.join([_tell(name, records.get(name), name in chosen) for name in names])


def _tell(name: str, record: Record | None, is_configured: bool) -> Reply:
    """One experiment."""
    content: dict[str, Any] = {"experiment": name, "is_configured": is_configured}
    if record is None:
        content |= {"registration": None, "verdicts": [], "conclusion": None}
        return Reply(f"{name}: not registered yet; its first predict does it", content)
    registration, conclusion = record.registration, record.conclusion
    registered = {"registered_at": record.registered_at, **registration.model_dump(mode="json")}
    content |= {
        "registration": registered,
        "verdicts": record.verdicts,
        "conclusion": conclusion,
    }
    facts = [
        ("asked", registration.hypothesis),
        ("expected", f"{registration.effect}, within {registration.outcome.window_days} days"),
        *(("found", finding) for finding in record.findings or ["no look yet: run score.py"]),
    ]
    state = "running" if is_configured else "no longer in the config, not concluded"
    if conclusion:
        state, when = "concluded", f"{conclusion.concluded_at:%Y-%m-%d %H:%M} UTC"
        facts += [("concluded", conclusion.because), ("", f"{when} by {conclusion.concluded_by}")]
    head = f"{name}: {state}, registered {record.registered_at:%Y-%m-%d}"
    return Reply(f"{head}\n{wrap_facts(facts)}", content)


@command("explain", in_json=True)
def explain(
    experiments: Chosen,
    engine: sa.Engine,
    candidate: Annotated[
        str, Option("--candidate", required=True, metavar="ID", help="candidate_id")
    ],
    on: Day,
) -> Reply:
    """How one candidate's prediction of one night came to be."""
    return lineage.explain(engine, experiments, candidate, on)


@command("dictionary")
def read_dictionary() -> str:
    """Return the data dictionary, as Markdown."""
    return tables.DICTIONARY.read_text(encoding="utf-8").rstrip()
