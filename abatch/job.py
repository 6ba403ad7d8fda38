"""The door to clock, log, lock, run ledger and exit code: what train, predict and score have in
common.
"""

import json
import logging
import os
import platform
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from abatch import arguments, files
from abatch.config import Experiment, load_experiments
from abatch.database import connections, faults
from abatch.database.tables import predictions_staging, runs
from abatch.errors import AbatchError, ConfigError, DatabaseError, NothingToDo, UsageError, suggest
from abatch.experiment import outcomes
from abatch.experiment.verdicts import OUTCOME
from abatch.modelling import code, registry

DONE, MENDABLE, USAGE, BUG = 0, 1, 2, 3
logger = logging.getLogger("abatch")
logger.addHandler(logging.NullHandler())


@dataclass
class Run:
    """One execution of a job for one experiment and one run_date, as in the table `runs`."""

    run_id: str
    job: str
    experiment: str
    run_date: date
    as_of: datetime
    started_at: datetime
    dry_run: bool
    rows_read: int = 0
    rows_written: int = 0

    def log(self, message: str) -> None:
        logger.info(
            "%s %s %s %s: %s", self.run_id, self.job, self.experiment, self.run_date, message
        )

    def warn(self, message: str) -> None:
        """Log, and print where cron's mail finds it: somebody should act."""
        logger.warning(
            "%s %s %s %s: %s", self.run_id, self.job, self.experiment, self.run_date, message
        )
        if not sys.stdout.isatty():  # there the closing line says it
            print(f"{self.job} {self.experiment} {self.run_date}: {message}", file=sys.stderr)

    def announce(self, text: str) -> None:
        """Log, and print wherever the job runs: it is said once in an experiment's life."""
        for line in text.splitlines():
            self.log(line)
        print(text, flush=True)

    def finish(self, connection: sa.Connection) -> None:
        """Mark the run done, as a part of the transaction that makes its rows visible.

        Raises
        ------
        DatabaseError
            If the run is no longer `running`: another process took it for dead, and may have done
            the work.
        """
        same_night = (
            runs.c.job == self.job,
            runs.c.experiment == self.experiment,
            runs.c.run_date == self.run_date,
        )
        connection.execute(
            runs.update().where(*same_night, runs.c.status == "done").values(status="superseded")
        )
        updated = connection.execute(
            runs.update()
            .where(runs.c.run_id == self.run_id, runs.c.status == "running")
            .values(
                status="done",
                finished_at=utc_now(),
                rows_read=self.rows_read,
                rows_written=self.rows_written,
            )
        )
        if updated.rowcount != 1:
            raise DatabaseError(
                f"run {self.run_id}: is no longer running in the table runs; another process took"
                " it for dead. Nothing was written. Run the job again."
            )


def utc_now() -> datetime:
    """The present instant as naive UTC, as the tables hold it."""
    return datetime.now(UTC).replace(tzinfo=None)


def today(experiment: Experiment) -> date:
    """The business day now, in the configured time zone."""
    return experiment.environment.today(datetime.now(UTC))


def as_of(experiment: Experiment, run_date: date) -> datetime:
    """The moment whose knowledge a run for `run_date` may use if it starts now, as naive UTC."""
    return experiment.environment.as_of(run_date, datetime.now(UTC))


def hash_config(experiment: Experiment) -> str:
    """SHA-256 of all that the experiment's settings and queries say; no secret is among them."""
    return files.hash_bytes(json.dumps(experiment.describe(), sort_keys=True).encode())


def check_names(experiment: Experiment, cards: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ConfigError if a model bears the name of one that was trained for another variant:
    figures are kept by that name.

    Parameters
    ----------
    cards : of the experiment's dated models, by model_name
    """
    for variant, model in experiment.models.items():
        for model_name, card in cards.items():
            is_same = (card["name"], card["version"]) == (model.name, model.version)
            if is_same and card["variant"] != variant:
                raise ConfigError(
                    f"{experiment.key(f'models.{variant}.name')}: found {model.name!r}, but"
                    f" {model_name} was trained for variant {card['variant']}. Give the model of"
                    f" variant {variant} a name or version of its own."
                )


def list_metrics(experiment: Experiment) -> list[outcomes.Metric]:
    """What is measured of each prediction: the outcome, then the guardrails."""
    outcome = experiment.outcome
    found = [outcomes.Metric(OUTCOME, experiment.query("outcomes"), outcome.kind, outcome.cap)]
    for name, guardrail in experiment.guardrails.items():
        found.append(outcomes.Metric(name, experiment.query(name), guardrail.kind, guardrail.cap))
    return found


def link_live(experiment: Experiment, engine: sa.Engine, run_date: date) -> None:
    """Let the `latest` links, if there is a folder for them, follow what is live today, or on
    run_date if that is later.
    """
    if not experiment.environment.models_dir.is_dir():
        return
    with engine.connect() as connection:
        on = max(run_date, today(experiment))
        links = registry.find_links(connection, experiment.name, on)
    registry.link_latest(experiment.environment.models_dir, links)


def find_nights(connection: sa.Connection, experiment: str, until: date) -> list[date]:
    """The nights up to a day that have predictions, in order."""
    done = (runs.c.experiment == experiment, runs.c.job == "predict", runs.c.status == "done")
    return list(
        connection.scalars(
            sa.select(runs.c.run_date)
            .where(*done, runs.c.run_date <= until)
            .order_by(runs.c.run_date)
        )
    )


def is_latest(connection: sa.Connection, run: Run, today: date) -> bool:
    """Whether no later run_date of the same job is done.

    One that was done for the future by mistake does not count.
    """
    later = (runs.c.run_date > run.run_date, runs.c.run_date <= max(run.run_date, today))
    return connection.execute(_select_runs(run, "done", *later)).first() is None


def connect(experiment: Experiment) -> sa.Engine:
    place = f"{experiment.environment.file}, environments.{experiment.environment.name}.database"
    return connections.make_engine(
        experiment.environment.database,
        experiment.environment.schema,
        experiment.environment.folder,
        place,
        experiment.environment.retry_seconds,
    )


@contextmanager
def open_run(
    job: str,
    experiment: Experiment,
    engine: sa.Engine,
    run_date: date,
    *,
    force: bool = False,
    dry_run: bool = False,
) -> Iterator[Run]:
    """Hold the job's lock, write the run into the ledger, and say in the ledger how it ended.

    The block ends a run that did its work by `run.finish(connection)`; a block that raises leaves
    the run `failed` with the reason. Runs that died are marked and cleaned up after here.

    Raises
    ------
    NothingToDo
        If the night is done already and not `force`, or if another process is at it.
    AbatchError
        If another process is at another night of the same job: this night is not being done.
    """
    started_at = utc_now()
    run = Run(
        run_id=f"{started_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
        job=job,
        experiment=experiment.name,
        run_date=run_date,
        as_of=as_of(experiment, run_date),
        started_at=started_at,
        dry_run=dry_run,
    )
    with (
        nullcontext(True) if dry_run else connections.lock(engine, f"{job}-{experiment.name}")
    ) as acquired:
        if not acquired:
            raise _describe_holder(engine, run)
        if not dry_run:
            _bury_the_dead(engine, run)
        with engine.connect() as connection:
            done = connection.execute(
                _select_runs(run, "done", runs.c.run_date == run_date)
            ).first()
        if done and not force:
            raise NothingToDo(
                f"{job} of {experiment.name} for {run_date} is already done (run {done.run_id},"
                f" {done.finished_at:%Y-%m-%d %H:%M} UTC). To do it again: --force"
            )
        if dry_run:
            yield run
            return
        _begin(engine, run, hash_config(experiment))
        run.log(f"started, code {code.code_version()}, as of {run.as_of} UTC")
        try:
            yield run
        except BaseException as error:
            _fail(engine, run, error)
            raise
        run.log(f"done, {run.rows_read} rows read, {run.rows_written} written")


def _describe_holder(engine: sa.Engine, run: Run) -> Exception:
    """Who holds the lock: no fault if it is at the same night, else somebody has to come back."""
    with engine.connect() as connection:
        holder = connection.execute(
            _select_runs(run, "running").order_by(runs.c.started_at.desc())
        ).first()
    if holder is None:
        return NothingToDo(
            f"{run.job} of {run.experiment} is already being done by a process that is just"
            " starting or ending"
        )
    who = f"by {holder.host} since {holder.started_at:%Y-%m-%d %H:%M} UTC (run {holder.run_id})"
    if holder.run_date == run.run_date:
        return NothingToDo(
            f"{run.job} of {run.experiment} for {run.run_date} is already being done {who}"
        )
    return AbatchError(
        f"{run.job} of {run.experiment} is being done for another date, {holder.run_date}, {who}."
        " Run this one after it."
    )


def _select_runs(run: Run, status: str, *where: sa.ColumnElement[bool]) -> sa.Select:
    """Runs of the same job and experiment."""
    return sa.select(runs).where(
        runs.c.job == run.job, runs.c.experiment == run.experiment, runs.c.status == status, *where
    )


def _bury_the_dead(engine: sa.Engine, run: Run) -> None:
    """Close runs that died: whoever holds the lock knows that no other run of this job is alive."""
    for attempt in connections.transactions(engine):
        with attempt as connection:
            for dead in connection.execute(_select_runs(run, "running")).all():
                _close_failed(
                    connection, dead.run_id, run.experiment, "died; cleaned up by the next run"
                )
            if run.job == "predict":  # also what a run staged that was taken for dead and was not
                connection.execute(
                    predictions_staging.delete().where(
                        predictions_staging.c.experiment == run.experiment
                    )
                )


def _close_failed(connection: sa.Connection, run_id: str, experiment: str, reason: str) -> None:
    staged = predictions_staging.c
    connection.execute(
        predictions_staging.delete().where(staged.experiment == experiment, staged.run_id == run_id)
    )
    still_running = (runs.c.run_id == run_id, runs.c.status == "running")
    connection.execute(
        runs.update()
        .where(*still_running)
        .values(status="failed", finished_at=utc_now(), error=reason)
    )


def _begin(engine: sa.Engine, run: Run, config_hash: str) -> None:
    row = {
        name: getattr(run, name)
        for name in ("run_id", "job", "experiment", "run_date", "started_at")
    }
    row |= {"status": "running", "code_version": code.code_version(), "config_hash": config_hash}
    row["host"] = f"{platform.node()} (process {os.getpid()})"
    for attempt in connections.transactions(engine):
        with attempt as connection:
            connection.execute(runs.insert().values(row))


def _fail(engine: sa.Engine, run: Run, error: BaseException) -> None:
    """Write the failure down.

    If that fails too, the first error is still the one that is reported.
    """
    reason = (
        faults.describe(error)
        if isinstance(error, SQLAlchemyError)
        else str(error) or type(error).__name__
    )
    run.log(f"failed: {reason}")
    try:
        for attempt in connections.transactions(engine):
            with attempt as connection:
                _close_failed(connection, run.run_id, run.experiment, reason)
    except SQLAlchemyError as second:
        run.log(f"the failure could not be written into runs: {faults.describe(second)}")


def main(
    job: str, story: Callable[..., str], argv: Sequence[str] | None = None, **switches: str
) -> int:
    """The command line of a script: run the story for one experiment or for all, and return the
    exit code.

    Parameters
    ----------
    switches : the story's own options that are on or off, with their help; they write, so they do
        not go with --dry-run
    """
    about = sys.modules[story.__module__].__doc__
    options = arguments.parse(job, about, argv, **switches)
    chosen = {name: getattr(options, name) for name in ("force", "dry_run", *switches)}
    say = print if options.dry_run or sys.stdout.isatty() else (lambda line: None)
    try:
        experiments = choose(load_experiments(options.config, options.env), options.experiment)
        first = next(iter(experiments.values()))
        engine = connect(first)
        try:
            connections.check_ready(engine, first.environment.name)
            if not options.dry_run:
                start_log(first, job)
        except BaseException:
            engine.dispose()
            raise
    except (Exception, KeyboardInterrupt) as error:
        return report(error, job)
    code, lines = DONE, []
    run_date = options.date or today(first)  # one for all, also when midnight passes
    for experiment in experiments.values():
        try:
            lines.append(story(experiment, engine, run_date, **chosen))
        except NothingToDo as reason:
            logger.info("%s", reason)
            lines.append(str(reason))
        except (Exception, KeyboardInterrupt) as error:
            code = max(
                code,
                report(error, f"{job} {experiment.name} {run_date}", faults.show_url(engine)),
            )
            if isinstance(error, KeyboardInterrupt):
                break
    engine.dispose()
    if lines:
        say(("\n" if options.dry_run else "; ").join(lines))
    return code


def report(error: BaseException, what: str, where: str = "the database") -> int:
    """Print the one message that somebody must read, log it, and return the exit code that fits."""
    if isinstance(error, KeyboardInterrupt):
        message, code = (
            "interrupted; what was not finished was not written. Run it again.",
            MENDABLE,
        )
    elif isinstance(error, AbatchError):
        message, code = str(error), USAGE if isinstance(error, UsageError) else MENDABLE
    elif isinstance(error, SQLAlchemyError):
        message, code = f"{where}: {faults.describe(error)}", MENDABLE
    else:
        message = (
            "this is a fault of abatch, not of yours; please report"
            f" it.\n{''.join(traceback.format_exception(error))}"
        )
        code = BUG
    # An estimator of the user's own may have failed deep inside: the log tells him where.
    logger.error(
        "%s: %s",
        what,
        message,
        exc_info=error.__cause__ if isinstance(error, ConfigError) else None,
    )
    print(f"{what}: {message}", file=sys.stderr)
    return code


def choose(experiments: dict[str, Experiment], experiment: str | None) -> dict[str, Experiment]:
    """All experiments, or the one that is named."""
    if experiment is None:
        return experiments
    if experiment not in experiments:
        known = ", ".join(experiments)
        raise UsageError(
            f"there is no experiment {experiment!r}; expected one of"
            f" {known}.{suggest(experiment, experiments)}"
        )
    return {experiment: experiments[experiment]}


def start_log(experiment: Experiment, job: str) -> None:
    """Append to logs/<job>_<month>.log, one line per event, times in UTC."""
    path = experiment.environment.logs_dir / f"{job}_{utc_now():%Y-%m}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise AbatchError(
            f"{path}: the log cannot be written ({error.strerror}). Check the folder's rights."
        ) from None
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.handleError = lambda record: _complain(path)  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for name in ("py.warnings", *faults.LOGGERS):
        logging.getLogger(name).addHandler(handler)


@cache
def _complain(path: Path) -> None:
    """Say once that the log cannot be written; the job itself goes on."""
    print(
        f"{path}: the log cannot be written ({sys.exc_info()[1]}). Make room; this run's lines are"
        " lost.",
        file=sys.stderr,
    )


def parse_as_of(experiment: Experiment, moment: date | datetime) -> datetime:
    """The moment whose knowledge is asked for, as naive UTC: of a day its end, or now if it is
    today.
    """
    return moment if isinstance(moment, datetime) else as_of(experiment, moment)
