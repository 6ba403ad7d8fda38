"""python -m abatch: all that is not train, predict or score."""

import argparse
import getpass
import os
import platform
import sys
from collections.abc import Sequence
from datetime import date

import pandas as pd
import sqlalchemy as sa

from abatch import database, job, migrations, registrations, registry, report, simulate, tables, verdicts
from abatch.config import Config, load_configs
from abatch.errors import AbatchError, NothingToDo, UsageError, suggest
from abatch.migrations.script import write_script
from abatch.tables import runs


def init(configs: dict[str, Config], engine: sa.Engine, arguments: argparse.Namespace) -> str:
    """create abatch's tables and views, or bring them to the newest revision; harmless to repeat"""
    migrations.upgrade(engine)
    return f"{database.show_url(engine)}: abatch's tables are ready"


def run_simulation(configs: dict[str, Config], engine: sa.Engine, arguments: argparse.Namespace) -> str:
    """create a simulated card bank in this database, or let it live on until the morning of --date"""
    config = next(iter(configs.values()))  # whose split a plant may break; --experiment names another
    bank = {"plant": arguments.plant, "salt": config.experiment, "split": config.settings.split}
    n_mornings = simulate.simulate(engine, arguments.date, seed=arguments.seed, **bank)
    return f"{database.show_url(engine)}: the simulated bank played {n_mornings} mornings, until {arguments.date}"


def status(configs: dict[str, Config], engine: sa.Engine, arguments: argparse.Namespace) -> str:
    """live models, last runs, missed dates"""
    blocks, on = [], arguments.date
    for config in configs.values():
        with engine.connect() as connection:
            live = registry.find_live(connection, config.experiment, on)
            ledger = connection.execute(sa.select(runs).where(runs.c.experiment == config.experiment).order_by(runs.c.started_at)).all()
        lines = [f"{config.experiment} in {config.environment} ({database.show_url(engine)}), {on}"]
        for variant in config.settings.split:
            name = live.get(variant, "no model is live") if variant in config.settings.models else "no model (selects at random)"
            lines.append(f"  variant {variant:<10} {name}")
        for name in ("train", "predict", "score"):
            lines.append(f"  {name:<8} {_describe_runs([row for row in ledger if row.job == name], on, nightly=name != 'train')}")
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
    """The data dictionary as Markdown: each table and view, its columns with their types on SQL Server, and the comments."""
    lines = [
        "# Data dictionary",
        "",
        "What `python -m abatch dictionary` prints: the tables that abatch owns and the views for analysts, with the comments that",
        "PostgreSQL and SQL Server keep beside them. Types are SQL Server's. Instants are UTC, without a time zone; flags are 0 or 1.",
        "Views are the place to query: their columns keep name, order and meaning.",
    ]
    dialect = database.make_sql_server_dialect()
    for title, kind in (("Views", tables.views), ("Tables", tables.metadata)):
        lines += ["", f"## {title}"]
        for name, table in sorted(kind.tables.items()):
            lines += ["", f"### {name}", "", f"{str(table.comment)[0].upper()}{str(table.comment)[1:]}.", ""]
            lines += ["| column | type | null | key | meaning |", "|---|---|---|---|---|"]
            keys = list(table.primary_key.columns)
            for column in table.columns:
                null, key = "null" if column.nullable else "", "key" if column in keys else ""
                type_ = column.type.compile(dialect)
                lines.append(f"| `{column.name}` | {type_} | {null} | {key} | {column.comment} |")
    return "\n".join(lines) + "\n"


def list_models(configs: dict[str, Config], engine: sa.Engine, arguments: argparse.Namespace) -> str:
    """the dated models, and which of them are live"""
    rows = []
    with engine.connect() as connection:
        for name in configs:
            live = registry.find_live(connection, name, arguments.date)
            for model_name, card in registry.read_cards(connection, name):
                roc_auc = card["metrics"].get("roc_auc", {}).get("value")
                rows.append(
                    {
                        "model": model_name,
                        "variant": card["variant"],
                        "live": "live" if live.get(card["variant"]) == model_name else "",
                        "from": card["from_date"],
                        "to": card["to_date"],
                        "rows": card["rows"],
                        "ROC AUC": "" if roc_auc is None else f"{roc_auc:.4f}",
                    }
                )
    if not rows:
        raise NothingToDo("there are no models yet. Train some: python train.py")
    return pd.DataFrame(rows).to_string(index=False)


def promote(configs: dict[str, Config], engine: sa.Engine, arguments: argparse.Namespace) -> str:
    """make a dated model live from --date on"""
    return _append(configs, engine, arguments)


def rollback(configs: dict[str, Config], engine: sa.Engine, arguments: argparse.Namespace) -> str:
    """go back to the model that was live before, or to the dated model that is named"""
    return _append(configs, engine, arguments)


def _choose_model(connection: sa.Connection, configs: dict[str, Config], arguments: argparse.Namespace) -> str:
    """The dated model that is named or, for a rollback by name alone, the one that was live before."""
    for experiment, config in configs.items():
        for variant, model in config.settings.models.items():
            if arguments.command == "rollback" and arguments.model == model.name:
                return registry.find_previous(connection, experiment, variant, arguments.date)
    return arguments.model


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as containers have
        user = f"user {os.getuid()}"
    return f"{user}@{platform.node()}"


def _append(configs: dict[str, Config], engine: sa.Engine, arguments: argparse.Namespace) -> str:
    """Append a row to promotions, and say what it changed."""
    on = arguments.date
    for attempt in database.transactions(engine):
        with attempt as connection:
            model = registry.find_model(connection, _choose_model(connection, configs, arguments))
            if model.experiment not in configs:
                raise UsageError(f"{model.model_name} belongs to experiment {model.experiment}; expected one of {', '.join(configs)}.")
            config = configs[model.experiment]
            if model.variant not in config.settings.models:
                raise AbatchError(
                    f"{config.key('models')}: variant {model.variant}, for which {model.model_name} was trained, has no model here."
                )
            registry.load_model(connection, config.models_dir, model.model_name)
            before = registry.find_live(connection, model.experiment, on).get(model.variant)
            if before == model.model_name:
                raise NothingToDo(f"{model.model_name} is live on {on} already")
            overruled = registry.find_later(connection, model.experiment, on).get(model.variant)
            today = job.today(config)
            live_today = registry.find_live(connection, model.experiment, today).get(model.variant)
            registry.promote(
                connection,
                experiment=model.experiment,
                variant=model.variant,
                model_name=model.model_name,
                action=arguments.command,
                effective_date=on,
                reason=arguments.reason,
                promoted_by=arguments.by,
                promoted_at=job.utc_now(),
            )
    job.link_live(config, engine, on)
    return (
        f"{model.experiment}, variant {model.variant}: {model.model_name} is live from {on} on (before: {before or 'none'})"
        + f"; this overrules {overruled}, which was to be live from a later date on" * bool(overruled)
        + f"; today's live model changes with it (before: {live_today})" * (on < today and live_today != before)
    )


def list_experiments(configs: dict[str, Config], engine: sa.Engine, arguments: argparse.Namespace) -> str:
    """every experiment that was ever registered: what was asked and expected, what is known, what was concluded"""
    with engine.connect() as connection:
        found = verdicts.read_records(connection)
    if arguments.experiment:
        found = [record for record in found if record.experiment in configs]
    waiting = [name for name in configs if name not in {record.experiment for record in found}]
    blocks = [describe_record(record, record.experiment in configs) for record in found]
    blocks += [f"{name}: not registered yet; its first predict does it" for name in waiting]
    return "\n\n".join(blocks) or "there are no experiments yet"


def describe_record(record: verdicts.Record, is_configured: bool) -> str:
    """One experiment as lines."""
    content, outcome = record.content, record.content["outcome"]
    unit = "prediction" if content.get("exposure") == "all" else "candidate"
    state = "concluded" if record.conclusion else "running" if is_configured else "no longer in the config, not concluded"
    facts = [
        ("asked", content["hypothesis"]),
        ("expected", f"{outcome['expected_effect']:+g} in the mean outcome per {unit}, within {outcome['window_days']} days"),
        *(("found", finding) for finding in record.findings or ["no look yet: run score.py"]),
    ]
    if record.conclusion:
        facts.append(("concluded", record.conclusion.because))
        facts.append(("", f"{record.conclusion.concluded_at:%Y-%m-%d %H:%M} UTC by {record.conclusion.concluded_by}"))
    return "\n".join([f"{record.experiment}: {state}, registered {record.registered_at:%Y-%m-%d}", *registrations.wrap_facts(facts)])


def conclude(configs: dict[str, Config], engine: sa.Engine, arguments: argparse.Namespace) -> str:
    """write down what a person concludes from an experiment; it is kept for good beside what abatch found"""
    for attempt in database.transactions(engine):
        with attempt as connection:
            records = {record.experiment: record for record in verdicts.read_records(connection)}
            name = arguments.name
            if name not in records:
                known = f"expected one of {', '.join(records)}" if records else "the first predict of an experiment registers it"
                raise UsageError(f"there is no registered experiment {name!r}; {known}.{suggest(name, records)}")
            finding = "; ".join(records[name].findings) or "no look yet"
            because, by = arguments.because, arguments.by
            verdicts.conclude(connection, name, because=because, finding=finding, concluded_by=by, concluded_at=job.utc_now())
    return f"{name}: concluded. The finding kept beside it: {finding}"


COMMANDS = {
    "experiments": list_experiments,
    "conclude": conclude,
    "init": init,
    "simulate": run_simulation,
    "status": status,
    "models": list_models,
    "promote": promote,
    "rollback": rollback,
}


def _parse_reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a reason; it is kept for good")
    return text.strip()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m abatch", epilog=job.EXIT_CODES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.__doc__, description=command.__doc__, epilog=job.EXIT_CODES)
        job.add_common_options(sub)
        if name == "init":
            sub.add_argument(
                "--sql", action="store_true", help="print the script instead, for somebody else to read and run; connects to nothing"
            )
            sub.add_argument(
                "--from", dest="start", metavar="REVISION", help="with --sql: only what follows this revision, which is installed"
            )
        else:
            sub.add_argument("--date", type=job.parse_date, metavar="YYYY-MM-DD", help="the day in question (default: today)")
        if name == "simulate":
            about = "; ".join(f"{plant}: {text}" for plant, text in simulate.PLANTS.items())
            sub.add_argument("--plant", choices=simulate.PLANTS, default="effect", help=f"what is true in the bank ({about})")
            sub.add_argument("--seed", type=int, default=0, help="of the bank, when it is created (default: 0)")
        if name in ("promote", "rollback"):
            what = "modelA_v1.0_2026-11-23" if name == "promote" else "modelA, or a dated name such as modelA_v1.0_2026-11-23"
            sub.add_argument("model", metavar="MODEL", help=what)
            sub.add_argument("--reason", required=True, type=_parse_reason, help="why; it is kept for good")
        if name == "conclude":
            sub.add_argument("name", metavar="NAME", help="of the experiment, also of one that is no longer in the config")
            sub.add_argument("--because", required=True, type=_parse_reason, help="what is concluded, and why; it is kept for good")
        if name in ("promote", "rollback", "conclude"):
            sub.add_argument("--by", default=_whoami(), help="who (default: the user and host)")
    about = "print what each table, view and column means, as Markdown; needs neither database nor config"
    commands.add_parser("dictionary", help=about, description=about, epilog=job.EXIT_CODES)
    arguments = parser.parse_args(argv)
    if arguments.command == "init" and arguments.start and not arguments.sql:
        parser.error("--from goes with --sql; without it, init finds the revision out")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = _parse(argv)
    if arguments.command == "dictionary":
        print(write_dictionary(), end="")
        return job.DONE
    try:
        only_print = arguments.command == "init" and arguments.sql
        configs = job.choose(load_configs(arguments.config, arguments.env, need_database=not only_print), arguments.experiment)
        first = next(iter(configs.values()))
        if only_print:
            place = f"{first.file}, environments.{first.environment}"
            print(write_script(first.database.get_secret_value(), first.schema, arguments.start, place), end="")
            return job.DONE
        arguments.date = getattr(arguments, "date", None) or job.today(first)
        engine = job.connect(first)
        try:
            if arguments.command != "init":
                database.check_ready(engine, first.environment)
            print(COMMANDS[arguments.command](configs, engine, arguments))
        finally:
            engine.dispose()
    except NothingToDo as reason:
        print(reason)
    except (Exception, KeyboardInterrupt) as error:
        return job.report(error, f"abatch {arguments.command}")
    return job.DONE


if __name__ == "__main__":
    sys.exit(main())
