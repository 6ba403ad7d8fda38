"""python -m abatch: all that is not train, predict or score."""

import argparse
import getpass
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

import pandas as pd
import sqlalchemy as sa

from abatch import job, lifecycle
from abatch.arguments import EXIT_CODES, add_common_options, parse_date, parse_moment
from abatch.config import Experiment, load_experiments
from abatch.database import connections, faults, reading, tables
from abatch.database.tables import runs
from abatch.errors import AbatchError, NothingToDo, RegistryError, UsageError, suggest
from abatch.experiment import registrations, verdicts
from abatch.modelling import registry, snapshots
from abatch.pages import lineage, report
from abatch.queries import Window


def init(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> str:
    """create abatch's tables and views; harmless to repeat"""
    from abatch.database import migrations  # alembic, for which no other command need wait

    migrations.upgrade(engine)
    return f"{faults.show_url(engine)}: abatch's tables are ready"


def status(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> str:
    """live models, last runs, missed dates"""
    blocks, on = [], arguments.date
    for experiment in experiments.values():
        with engine.connect() as connection:
            live = registry.find_live(connection, experiment.name, on)
            ledger = connection.execute(
                sa.select(runs)
                .where(runs.c.experiment == experiment.name)
                .order_by(runs.c.started_at)
            ).all()
        lines = [
            f"{experiment.name} in {experiment.environment.name} ({faults.show_url(engine)}), {on}"
        ]
        for variant in experiment.split:
            name = (
                live.get(variant, "no model is live")
                if variant in experiment.models
                else "no model (selects at random)"
            )
            lines.append(f"  variant {variant:<10} {name}")
        for name in ("train", "predict", "score"):
            of_job = [row for row in ledger if row.job == name]
            lines.append(f"  {name:<8} {_describe_runs(of_job, on, nightly=name != 'train')}")
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def _describe_runs(ledger: Sequence[sa.Row], on: date, *, nightly: bool) -> str:
    if not ledger:
        return "has never run"
    last = ledger[-1]
    text = f"last run for {last.run_date}: {last.status}"
    if last.status == "running":
        text += f" on {last.host} since {last.started_at:%Y-%m-%d %H:%M} UTC"
    if last.error:
        text += f" ({last.error.splitlines()[0]})"
    done = sorted({row.run_date for row in ledger if row.status == "done" and row.run_date <= on})
    if nightly and done:
        missed = report.describe_gaps(done, on)
        text += f"; missed {', '.join(missed)}" if missed else "; no night missed"
    return text


def write_dictionary() -> str:
    """The data dictionary as Markdown: each table and view, its columns with their types on SQL
    Server, and the comments.
    """
    lines = [
        "# Data dictionary",
        "",
        (
            "What `python -m abatch dictionary` prints: the tables that abatch owns and the views"
            " for analysts, with the comments that"
        ),
        (
            "PostgreSQL and SQL Server keep beside them. Types are SQL Server's. Instants are UTC,"
            " without a time zone; flags are 0 or 1."
        ),
        "Views are the place to query: their columns keep name, order and meaning.",
    ]
    dialect = connections.make_sql_server_dialect()
    for title, kind in (("Views", tables.views), ("Tables", tables.metadata)):
        lines += ["", f"## {title}"]
        for name, table in sorted(kind.tables.items()):
            lines += [
                "",
                f"### {name}",
                "",
                f"{str(table.comment)[0].upper()}{str(table.comment)[1:]}.",
                "",
            ]
            lines += ["| column | type | null | key | meaning |", "|---|---|---|---|---|"]
            keys = list(table.primary_key.columns)
            for column in table.columns:
                null, key = "null" if column.nullable else "", "key" if column in keys else ""
                type_ = column.type.compile(dialect)
                lines.append(f"| `{column.name}` | {type_} | {null} | {key} | {column.comment} |")
    return "\n".join(lines) + "\n"


def list_models(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> str:
    """the dated models, and which of them are live; --at tells what was live on a day"""
    if arguments.at:
        return lineage.describe_live(engine, experiments, arguments.at)
    rows = []
    with engine.connect() as connection:
        deleted = registry.find_deleted(connection, registry.MODEL)
        for name in experiments:
            live = registry.find_live(connection, name, arguments.date)
            for model_name, card in registry.read_cards(connection, name):
                roc_auc = card["metrics"].get("roc_auc", {}).get("value")
                rows.append(
                    {
                        "model": model_name,
                        "variant": card["variant"],
                        "live": (
                            "live"
                            if live.get(card["variant"]) == model_name
                            else "deleted"
                            if model_name in deleted
                            else ""
                        ),
                        "from": card["from_date"],
                        "to": card["to_date"],
                        "rows": card["rows"],
                        "ROC AUC": "" if roc_auc is None else f"{roc_auc:.4f}",
                    }
                )
    if not rows:
        raise NothingToDo("there are no models yet. Train some: python train.py")
    return pd.DataFrame(rows).to_string(index=False)


def list_snapshots(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> str | tuple[str, int]:
    """training rows as they were pulled: list, show, verify, or purge what retention no longer
    keeps
    """
    experiment = next(iter(experiments.values()))
    if arguments.action == "purge":
        return (
            "\n".join(lifecycle.apply_retention(experiment, engine, _whoami()))
            or "nothing to delete; see retention in the config"
        )
    with engine.connect() as connection:
        rows = [
            row
            for row in snapshots.list_snapshots(connection)
            if not arguments.experiment or row.experiment in experiments
        ]
        needed, deleted = (
            snapshots.find_needed(connection),
            registry.find_deleted(connection, registry.SNAPSHOT),
        )
        if arguments.action == "show":
            if not arguments.name:
                raise UsageError("show: name a hash, the beginning of one, or a dated model")
            return describe_snapshot(snapshots.choose_snapshot(connection, arguments.name))
        if arguments.name:
            rows = [snapshots.choose_snapshot(connection, arguments.name)]
    if not rows:
        raise NothingToDo("there are no snapshots yet. Train: python train.py")
    contents = {row.content_hash: row for row in rows}
    states = {
        name: _look_at(experiment, row, deleted, arguments.action == "verify")
        for name, row in contents.items()
    }
    if arguments.action == "verify":
        broken = [state for state in states.values() if state not in (WHOLE, DROPPED)]
        whole = sum(state == WHOLE for state in states.values())
        return "\n".join([*broken, f"{whole} of {len(states)} snapshots are what was pulled"]), (
            job.MENDABLE if broken else job.DONE
        )
    table = [
        {
            "snapshot": row.content_hash[:12],
            "experiment": row.experiment,
            "from": row.from_date,
            "to": row.to_date,
            "as of (UTC)": f"{row.as_of:%Y-%m-%d %H:%M}",
            "rows": row.rows,
            "MB": f"{row.n_bytes / 1e6:.1f}",
            "file": states[row.content_hash] + " (needed)" * (row.content_hash in needed),
        }
        for row in rows
    ]
    return pd.DataFrame(table).to_string(index=False)


WHOLE, DROPPED = "whole", "deleted"


def _look_at(experiment: Experiment, row: sa.Row, deleted: set[str], verify: bool) -> str:
    """The state of a snapshot's file, by a look at the folder or by reading it."""
    path = snapshots.path_of(experiment.environment.snapshots_dir, row.content_hash)
    if not path.exists() and row.content_hash in deleted:
        return DROPPED
    if not verify:
        return "there" if path.exists() else "missing"
    try:
        snapshots.load(experiment.environment.snapshots_dir, row)
    except RegistryError as error:
        return str(error)
    return WHOLE


def describe_snapshot(row: sa.Row) -> str:
    """One pull in full: binds, columns with their fingerprints, and the query."""
    columns = pd.DataFrame(json.loads(row.columns))
    facts = [
        ("hash", row.content_hash),
        (
            "pulled",
            f"{row.pulled_at:%Y-%m-%d %H:%M:%S} UTC by run {row.run_id} of {row.experiment}",
        ),
        ("binds", f":from_date {row.from_date}, :to_date {row.to_date}, :as_of {row.as_of} UTC"),
        ("rows", f"{row.rows:,}"),
        ("file", f"{row.n_bytes:,} bytes, SHA-256 {row.sha256}"),
    ]
    return "\n".join(
        [
            *registrations.wrap_facts(facts),
            "",
            columns.to_string(index=False),
            "",
            row.query.rstrip(),
        ]
    )


def recall(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> str:
    """training rows of any window as they were known at any time, the same that train would see"""
    experiment = next(iter(experiments.values()))
    query = experiment.query("training")
    if arguments.from_date >= arguments.to_date:
        raise UsageError(
            f"--from {arguments.from_date} is not before --to {arguments.to_date}, which is"
            " excluded"
        )
    if arguments.out and arguments.out.suffix != ".parquet":
        raise UsageError(
            f"--out {arguments.out}: expected a name that ends in .parquet, for that is what is"
            " written"
        )

    def pull(as_of: datetime) -> pd.DataFrame:
        window = Window(arguments.from_date, arguments.to_date)
        rows = reading.read_query(engine, query, window, as_of)
        with query.named():
            return snapshots.arrange(rows, experiment.outcome.kind)

    as_of = job.parse_as_of(experiment, arguments.as_of)
    frame = pull(as_of)
    head = (
        f"{experiment.name}: {len(frame):,} rows of [{arguments.from_date}, {arguments.to_date}),"
        f" as of {as_of} UTC"
    )
    if frame.empty:
        raise NothingToDo(f"{head}. Nothing is written")
    lines = [head]
    if arguments.out:
        snapshots.write_rows(arguments.out, frame)
        lines[0] += f", written as Parquet into {arguments.out}"
    if arguments.diff:
        other_as_of = job.parse_as_of(experiment, arguments.diff)
        other = pull(other_as_of)
        difference = snapshots.compare(frame, other if len(other) else frame.iloc[:0])
        lines.append(
            f"as of {other_as_of} UTC: {difference}"
            + (f"\n  for example {difference.example}" if difference.example else "")
        )
    else:
        columns = snapshots.describe_columns(frame)
        lines.append(f"content hash {snapshots.hash_content(columns, len(frame))}\n")
        lines.append(
            pd.DataFrame(columns)
            .assign(fingerprint=lambda c: c["fingerprint"].str[:12])
            .to_string(index=False)
        )
    return "\n".join(lines)


def reproduce(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> tuple[str, int]:
    """build a dated model again, compare what it predicts, and say what has moved"""
    from abatch import reproduction  # scikit-learn's, for which a rollback need not wait

    verdict = reproduction.reproduce(engine, experiments, arguments.model)
    return str(verdict), job.DONE if verdict.is_reproduced else job.MENDABLE


def explain(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> str:
    """how one candidate's prediction of one night came to be: variant, model, training rows, code,
    config, run, promotion
    """
    return lineage.explain(engine, experiments, arguments.candidate, arguments.date)


def delete(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> str:
    """delete the files of a dated model that is not live; its record stays, with the reason"""
    with connections.lock(engine, PROMOTIONS) as acquired:
        _require(acquired)
        for attempt in connections.transactions(engine):
            with attempt as connection:
                model = registry.find_model(connection, arguments.model)
                experiment = _choose_config(experiments, model)
                on = job.today(experiment)
                live = {*registry.find_live(connection, model.experiment, on).values()}
                if model.model_name in live | {
                    *registry.find_later(connection, model.experiment, on).values()
                }:
                    raise RegistryError(
                        f"{model.model_name} is live, or will be, and is not deleted. Make another"
                        " one live first."
                    )
                by, now = arguments.by, job.utc_now()
                registry.write_deletion(
                    connection, registry.MODEL, model.model_name, arguments.reason, by, now
                )
                was_live = model.model_name in registry.find_kept(connection, model.experiment)
    lifecycle.remove_deleted(experiment, engine)
    lost = ". It was live once: a rollback to a day of that time will not find it" * was_live
    return f"{model.model_name}: its files are deleted; its record stays{lost}"


def promote(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> str:
    """make a dated model live from --date on"""
    return _append(experiments, engine, arguments)


def rollback(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> str:
    """go back to the model that was live before, to the dated model that is named, or to all that
    was live on a day
    """
    if arguments.to and arguments.to > arguments.date:
        raise UsageError(
            f"--to {arguments.to} lies after {arguments.date}, from which on it would be live"
        )
    return _append(experiments, engine, arguments)


def _choose_models(
    connection: sa.Connection, experiments: dict[str, Experiment], arguments: argparse.Namespace
) -> list[str]:
    """The dated model that is named.

    For a rollback by name alone the one that was live before, by day all that were live then.
    """
    if arguments.command == "rollback" and arguments.to:
        found = [
            name
            for experiment in experiments
            for name in registry.find_live(connection, experiment, arguments.to).values()
        ]
        if not found:
            raise RegistryError(
                f"no model was live on {arguments.to}. See: python -m abatch models --at"
                f" {arguments.to}"
            )
        return found
    for experiment in experiments.values():
        for variant, model in experiment.models.items():
            if arguments.command == "rollback" and arguments.model == model.name:
                return [
                    registry.find_previous(connection, experiment.name, variant, arguments.date)
                ]
    return [arguments.model]


def _choose_config(experiments: dict[str, Experiment], model: sa.Row) -> Experiment:
    if model.experiment not in experiments:
        raise UsageError(
            f"{model.model_name} belongs to experiment {model.experiment}; expected one of"
            f" {', '.join(experiments)}."
        )
    return experiments[model.experiment]


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as containers have
        user = f"user {os.getuid()}"
    return f"{user}@{platform.node()}"


PROMOTIONS = "promotions"  # the lock of whoever changes by hand what is live, or deletes


def _require(acquired: bool) -> None:
    if not acquired:
        raise AbatchError(
            "somebody else is promoting, rolling back or deleting a model just now. Run it again."
        )


def _append(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> str:
    """Append rows to promotions, all or none, and say what they changed."""
    with connections.lock(engine, PROMOTIONS) as acquired:
        _require(acquired)
        for attempt in connections.transactions(engine):
            with attempt as connection:
                names = _choose_models(connection, experiments, arguments)
                done = [
                    _make_live(connection, experiments, arguments, name, is_alone=len(names) == 1)
                    for name in names
                ]
                if not any(done):
                    raise NothingToDo(
                        f"what was live on {arguments.to} is live on {arguments.date} already"
                    )
    for experiment in experiments.values():
        job.link_live(experiment, engine, arguments.date)
    return "\n".join(filter(None, done))


def _make_live(
    connection: sa.Connection,
    experiments: dict[str, Experiment],
    arguments: argparse.Namespace,
    name: str,
    *,
    is_alone: bool,
) -> str:
    """Append one row to promotions.

    Returns what it changed, empty if that model, one of several, is live already.
    """
    on, model = arguments.date, registry.find_model(connection, name)
    experiment = _choose_config(experiments, model)
    if model.variant not in experiment.models:
        raise AbatchError(
            f"{experiment.key('models')}: variant {model.variant}, for which {model.model_name} was"
            " trained, has no model here."
        )
    warning = registry.load_model(
        connection, experiment.environment.models_dir, model.model_name
    ).warning
    before = registry.find_live(connection, model.experiment, on).get(model.variant)
    if before == model.model_name:
        if is_alone:
            raise NothingToDo(f"{model.model_name} is live on {on} already")
        return ""
    allowed = lifecycle.check_dirt(connection, experiment, model, arguments.allow_dirty)
    overruled = registry.find_later(connection, model.experiment, on).get(model.variant)
    today = job.today(experiment)
    live_today = registry.find_live(connection, model.experiment, today).get(model.variant)
    registry.promote(
        connection,
        experiment=model.experiment,
        variant=model.variant,
        model_name=model.model_name,
        action=arguments.command,
        effective_date=on,
        reason=arguments.reason,
        evidence=allowed,
        promoted_by=arguments.by,
        promoted_at=job.utc_now(),
    )
    return (
        f"{model.experiment}, variant {model.variant}: {model.model_name} is live from {on} on"
        f" (before: {before or 'none'})"
        + f"; this overrules {overruled}, which was to be live from a later date on"
        * bool(overruled)
        + f"; today's live model changes with it (before: {live_today})"
        * (on < today and live_today != before)
        + f"\n  {warning}" * bool(warning)
    )


def list_experiments(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> str:
    """every experiment that was ever registered: what was asked and expected, what is known, what
    was concluded
    """
    with engine.connect() as connection:
        found = verdicts.read_records(connection)
    if arguments.experiment:
        found = [record for record in found if record.experiment in experiments]
    waiting = [name for name in experiments if name not in {record.experiment for record in found}]
    blocks = [describe_record(record, record.experiment in experiments) for record in found]
    blocks += [f"{name}: not registered yet; its first predict does it" for name in waiting]
    return "\n\n".join(blocks) or "there are no experiments yet"


def describe_record(record: verdicts.Record, is_configured: bool) -> str:
    """One experiment as lines."""
    content, outcome = record.content, record.content["outcome"]
    unit = "prediction" if content.get("exposure") == "all" else "candidate"
    state = (
        "concluded"
        if record.conclusion
        else "running"
        if is_configured
        else "no longer in the config, not concluded"
    )
    facts = [
        ("asked", content["hypothesis"]),
        (
            "expected",
            (
                f"{outcome['expected_effect']:+g} in the mean outcome per {unit}, within"
                f" {outcome['window_days']} days"
            ),
        ),
        *(("found", finding) for finding in record.findings or ["no look yet: run score.py"]),
    ]
    if record.conclusion:
        facts.append(("concluded", record.conclusion.because))
        facts.append(
            (
                "",
                (
                    f"{record.conclusion.concluded_at:%Y-%m-%d %H:%M} UTC by"
                    f" {record.conclusion.concluded_by}"
                ),
            )
        )
    return "\n".join(
        [
            f"{record.experiment}: {state}, registered {record.registered_at:%Y-%m-%d}",
            *registrations.wrap_facts(facts),
        ]
    )


def conclude(
    experiments: dict[str, Experiment], engine: sa.Engine, arguments: argparse.Namespace
) -> str:
    """write down what a person concludes from an experiment.

    It is kept for good beside what abatch found
    """
    for attempt in connections.transactions(engine):
        with attempt as connection:
            records = {record.experiment: record for record in verdicts.read_records(connection)}
            name = arguments.name
            if name not in records:
                known = (
                    f"expected one of {', '.join(records)}"
                    if records
                    else "the first predict of an experiment registers it"
                )
                raise UsageError(
                    f"there is no registered experiment {name!r}; {known}.{suggest(name, records)}"
                )
            finding = "; ".join(records[name].findings) or "no look yet"
            because, by = arguments.because, arguments.by
            verdicts.conclude(
                connection,
                name,
                because=because,
                finding=finding,
                concluded_by=by,
                concluded_at=job.utc_now(),
            )
    return f"{name}: concluded. The finding kept beside it: {finding}"


COMMANDS = {
    "experiments": list_experiments,
    "conclude": conclude,
    "init": init,
    "status": status,
    "models": list_models,
    "promote": promote,
    "rollback": rollback,
    "delete": delete,
    "snapshots": list_snapshots,
    "recall": recall,
    "reproduce": reproduce,
    "explain": explain,
}


def _parse_reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a reason; it is kept for good")
    return text.strip()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m abatch", epilog=EXIT_CODES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name, help=command.__doc__, description=command.__doc__, epilog=EXIT_CODES
        )
        add_common_options(sub)
        if name == "init":
            sub.add_argument(
                "--sql",
                action="store_true",
                help=(
                    "print the script instead, for somebody else to read and run; connects to"
                    " nothing"
                ),
            )
        else:
            sub.add_argument(
                "--date",
                type=parse_date,
                metavar="YYYY-MM-DD",
                help="the day in question (default: today)",
            )
        if name in ("promote", "delete", "reproduce"):
            sub.add_argument("model", metavar="MODEL", help="modelA_v1.0_2026-11-23")
        if name == "rollback":
            sub.add_argument(
                "model",
                metavar="MODEL",
                nargs="?",
                help="modelA, or a dated name such as modelA_v1.0_2026-11-23",
            )
            sub.add_argument(
                "--to",
                type=parse_date,
                metavar="YYYY-MM-DD",
                help="in place of MODEL: to all that was live on this day",
            )
        if name in ("promote", "rollback", "delete"):
            sub.add_argument(
                "--reason", required=True, type=_parse_reason, help="why; it is kept for good"
            )
        if name in ("promote", "rollback"):
            about = "in prod, also a model from a dirty tree that was never live; recorded"
            sub.add_argument("--allow-dirty", action="store_true", help=about)
        if name == "models":
            sub.add_argument(
                "--at",
                type=parse_date,
                metavar="YYYY-MM-DD",
                help="what was live on this day, since when and why",
            )
        if name == "snapshots":
            sub.add_argument(
                "action",
                nargs="?",
                choices=["list", "show", "verify", "purge"],
                default="list",
                help="default: list",
            )
            sub.add_argument(
                "name",
                nargs="?",
                metavar="SNAPSHOT",
                help="a hash, the beginning of one, or a dated model",
            )
        if name == "recall":
            sub.add_argument("recalled", metavar="EXPERIMENT", help="whose training query is asked")
            sub.add_argument(
                "--from",
                dest="from_date",
                required=True,
                type=parse_date,
                metavar="D1",
                help="first event_date",
            )
            sub.add_argument(
                "--to",
                dest="to_date",
                required=True,
                type=parse_date,
                metavar="D2",
                help="last event_date, excluded",
            )
            moment = "YYYY-MM-DD (the end of that business day), or YYYY-MM-DDTHH:MM:SS in UTC"
            sub.add_argument(
                "--as-of",
                required=True,
                type=parse_moment,
                metavar="T",
                help=f"as known when: {moment}",
            )
            sub.add_argument(
                "--out",
                type=Path,
                metavar="FILE",
                help="write the rows as Parquet, which only you can read",
            )
            sub.add_argument(
                "--diff",
                type=parse_moment,
                metavar="T2",
                help="what was added, removed, changed until then",
            )
        if name == "explain":
            sub.add_argument("--candidate", required=True, metavar="ID", help="candidate_id")
        if name == "conclude":
            sub.add_argument(
                "name",
                metavar="NAME",
                help="of the experiment, also of one that is no longer in the config",
            )
            sub.add_argument(
                "--because",
                required=True,
                type=_parse_reason,
                help="what is concluded, and why; it is kept for good",
            )
        if name in ("promote", "rollback", "delete", "conclude"):
            sub.add_argument("--by", default=_whoami(), help="who (default: the user and host)")
    about = (
        "print what each table, view and column means, as Markdown; needs neither database nor"
        " config"
    )
    commands.add_parser("dictionary", help=about, description=about, epilog=EXIT_CODES)
    arguments = parser.parse_args(argv)
    if arguments.command == "rollback" and (arguments.model is None) == (arguments.to is None):
        parser.error(
            "rollback: name either a model (modelA, or modelA_v1.0_2026-11-23) or a day (--to"
            " YYYY-MM-DD)"
        )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = _parse(argv)
    if arguments.command == "dictionary":
        print(write_dictionary(), end="")
        return job.DONE
    try:
        only_print = arguments.command == "init" and arguments.sql
        wanted = getattr(arguments, "recalled", arguments.experiment)
        experiments = job.choose(
            load_experiments(arguments.config, arguments.env, need_database=not only_print), wanted
        )
        first = next(iter(experiments.values()))
        if only_print:
            from abatch.database.migrations.script import write_script

            place = f"{first.environment.file}, environments.{first.environment.name}"
            print(
                write_script(
                    first.environment.database.get_secret_value(),
                    first.environment.schema,
                    place,
                ),
                end="",
            )
            return job.DONE
        arguments.date = getattr(arguments, "date", None) or job.today(first)
        engine = job.connect(first)
        try:
            if arguments.command != "init":
                connections.check_ready(engine, first.environment.name)
            said = COMMANDS[arguments.command](experiments, engine, arguments)
            text, code = said if isinstance(said, tuple) else (said, job.DONE)
            print(text)
            return code
        finally:
            engine.dispose()
    except NothingToDo as reason:
        print(reason)
    except (Exception, KeyboardInterrupt) as error:
        return job.report(error, f"abatch {arguments.command}")
    return job.DONE


if __name__ == "__main__":
    sys.exit(main())
