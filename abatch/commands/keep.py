"""Commands on what is kept: training rows as they were pulled, and models made of them again."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import sqlalchemy as sa

from abatch import job, night
from abatch.arguments import Option, day, parse_moment
from abatch.commands.change import Model, whoami
from abatch.commands.command import Only, command
from abatch.config import Experiments
from abatch.database import connections, reading
from abatch.database.tables import Row
from abatch.errors import RegistryError, UsageError
from abatch.modelling import folders, registry, retention, snapshots
from abatch.queries import Window
from abatch.text import Reply, show_table, wrap_facts

WHOLE, DROPPED = "whole", "deleted"  # states of a snapshot's file that are in order
FACTS = "content_hash experiment from_date to_date as_of rows n_bytes sha256 run_id pulled_at"
ACTIONS = ["list", "show", "verify", "purge"]


@command("snapshots", in_json=True)
def do_snapshots(
    experiments: Experiments,
    engine: sa.Engine,
    action: Annotated[
        str, Option(nargs="?", choices=ACTIONS, default="list", help="default: list")
    ],
    name: Annotated[
        str | None,
        Option(
            nargs="?", metavar="SNAPSHOT", help="a hash, the beginning of one, or a dated model"
        ),
    ],
    only: Only,
) -> Reply:
    """Training rows as they were pulled: list, show, verify, or purge."""
    environment = experiments.choose(only).environment
    if action == "purge":
        folders.claim(engine, environment)
        done = connections.write(engine, retention.write_deletions, environment, whoami())
        connections.read(engine, retention.remove_files, environment)
        done += connections.read(engine, retention.remove_strays, environment)
        text = "\n".join(done) or "nothing to delete; see retention in the config"
        return Reply(text, done)
    with engine.connect() as connection:
        if action == "show":
            return _show_snapshot(connection, name)
        if name:
            pulls = [snapshots.choose_snapshot(connection, name)]
        else:
            rows = snapshots.list_snapshots(connection)
            pulls = [row for row in rows if only in (None, row.experiment)]
        is_read = action == "verify"
        kept = _tell_snapshots(connection, pulls, environment.snapshots_dir, is_read=is_read)
    if not kept:
        return Reply("there are no snapshots yet. Train: python train.py", kept)
    if is_read:
        return _verify(kept)
    return Reply(show_table(map(_make_line, kept)), kept)


def _show_snapshot(connection: sa.Connection, name: str | None) -> Reply:
    """One pull in full: binds, columns with their fingerprints, and the query."""
    if not name:
        raise UsageError("show: name a hash, the beginning of one, or a dated model")
    row = snapshots.choose_snapshot(connection, name)
    pulled = f"{row.pulled_at:%Y-%m-%d %H:%M:%S} UTC by run {row.run_id} of {row.experiment}"
    binds = f":from_date {row.from_date}, :to_date {row.to_date}, :as_of {row.as_of} UTC"
    facts = [
        ("hash", row.content_hash),
        ("pulled", pulled),
        ("binds", binds),
        ("rows", f"{row.rows:,}"),
        ("file", f"{row.n_bytes:,} bytes, SHA-256 {row.sha256}"),
    ]
    columns = json.loads(row.columns)
    text = f"{wrap_facts(facts)}\n\n{show_table(columns)}\n\n{row.query.rstrip()}"
    return Reply(text, _tell(row) | {"columns": columns, "query": row.query})


def _tell(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in FACTS.split()}


def _tell_snapshots(
    connection: sa.Connection, pulls: Sequence[Row], folder: Path, *, is_read: bool
) -> list[dict[str, Any]]:
    """Pulls, with the state of their files by a look at the folder, or by reading them."""
    needed = retention.find_needed(connection)
    deleted = registry.read_deletions(connection, registry.SNAPSHOT)
    files = {row.content_hash: row for row in pulls}
    states = {name: _look_at(folder, row, deleted, is_read) for name, row in files.items()}
    return [
        _tell(row) | {"file": states[row.content_hash], "is_needed": row.content_hash in needed}
        for row in pulls
    ]


def _look_at(folder: Path, row: Row, deleted: Mapping[str, Row], is_read: bool) -> str:
    is_there = snapshots.path_of(folder, row.content_hash).exists()
    if not is_there and row.content_hash in deleted:
        return DROPPED
    if not is_read:
        return "there" if is_there else "missing"
    try:
        snapshots.load(folder, row)
    except RegistryError as error:
        return str(error)
    return WHOLE


def _verify(kept: Sequence[Mapping[str, Any]]) -> Reply:
    """Which of the files that were read are not in order; if there is one, the exit code tells."""
    states = {pull["content_hash"]: pull["file"] for pull in kept}
    broken = [state for state in states.values() if state not in (WHOLE, DROPPED)]
    n_whole = list(states.values()).count(WHOLE)
    text = "\n".join([*broken, f"{n_whole} of {len(states)} snapshots are what was pulled"])
    return Reply(text, kept, job.MENDABLE if broken else job.DONE)


def _make_line(pull: Mapping[str, Any]) -> dict[str, object]:
    """A row of the table that `snapshots` prints."""
    return {
        "snapshot": pull["content_hash"][:12],
        "experiment": pull["experiment"],
        "from": pull["from_date"],
        "to": pull["to_date"],
        "as of (UTC)": f"{pull['as_of']:%Y-%m-%d %H:%M}",
        "rows": pull["rows"],
        "MB": f"{pull['n_bytes'] / 1e6:.1f}",
        "file": pull["file"] + " (needed)" * pull["is_needed"],
    }


@command("recall")
def recall(
    experiments: Annotated[
        Experiments, Option(metavar="EXPERIMENT", help="whose training query is asked")
    ],
    engine: sa.Engine,
    from_date: Annotated[date, day("--from", "D1", required=True, help="first event_date")],
    to_date: Annotated[date, day("--to", "D2", required=True, help="last event_date, excluded")],
    moment: Annotated[
        date | datetime,
        Option(
            "--as-of",
            required=True,
            type=parse_moment,
            metavar="T",
            help=(
                "as known when: YYYY-MM-DD (the end of that business day), or YYYY-MM-DDTHH:MM:SS"
                " in UTC"
            ),
        ),
    ],
    out: Annotated[
        Path | None,
        Option(
            "--out",
            type=Path,
            metavar="FILE",
            help="write the rows as Parquet, which only you can read",
        ),
    ],
    diff: Annotated[
        date | datetime | None,
        Option(
            "--diff",
            type=parse_moment,
            metavar="T2",
            help="what was added, removed, changed until then",
        ),
    ],
) -> str:
    """Training rows of any window as they were known at any time, the same that train would see."""
    window = Window(from_date, to_date)
    if from_date >= to_date:
        raise UsageError(f"--from {from_date} is not before --to {to_date}, which is excluded")
    if out and out.suffix != ".parquet":
        raise UsageError(
            f"--out {out}: expected a name that ends in .parquet, for that is what is written"
        )
    (experiment,) = experiments.values()
    query = experiment.query("training")

    def ask(moment: date | datetime) -> tuple[datetime, pd.DataFrame]:
        """The moment as naive UTC, and the rows as they were known then.

        Of a day that is its end, of today now.
        """
        if not isinstance(moment, datetime):
            moment = night.as_of(experiment.environment, moment)
        rows = reading.read_query(engine, query, window, moment)
        with query.named():
            return moment, snapshots.arrange(rows, experiment.outcome.kind)

    as_of, frame = ask(moment)
    head = f"{experiment.name}: {len(frame):,} rows of {window}, as of {as_of} UTC"
    if frame.empty:
        return f"{head}. Nothing is written"
    if out:
        snapshots.write_rows(out, frame)
        head += f", written as Parquet into {out}"
    if diff:
        other_as_of, other = ask(diff)
        difference = snapshots.compare(frame, frame.iloc[:0] if other.empty else other)
        example = f"\n  for example {difference.example}" if difference.example else ""
        return f"{head}\nas of {other_as_of} UTC: {difference}{example}"
    snapshot = snapshots.make_snapshot(frame)
    lines = [
        column._asdict() | {"fingerprint": column.fingerprint[:12]} for column in snapshot.columns
    ]
    return f"{head}\ncontent hash {snapshot.content_hash}\n\n{show_table(lines)}"


@command("reproduce")
def reproduce(experiments: Experiments, engine: sa.Engine, model: Model) -> Reply:
    """Build a dated model again, compare what it predicts, and say what has moved."""
    from abatch.modelling import reproduction  # scikit-learn, for which the others need not wait

    verdict = reproduction.reproduce(engine, experiments, model)
    return Reply(str(verdict), code=job.DONE if verdict.is_reproduced else job.MENDABLE)
