"""What the three jobs have in common: command line, log, exit code, and one night after another."""

import argparse
import gc
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, update_wrapper
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from abatch import arguments, files
from abatch.config import Environment, Experiment, Experiments, load_experiments
from abatch.database import connections, faults, isolation
from abatch.errors import AbatchError, ConfigError, NothingToDo, ReadAgain, UsageError
from abatch.modelling import folders, promotion
from abatch.night import Night, open_night, today, utc_now
from abatch.text import is_terminal, say

DONE, MENDABLE, USAGE, BUG = 0, 1, 2, 3
logger = logging.getLogger("abatch")


class Job:
    """A story with its command line, lock, ledger and exit code; see `nightly`."""

    def __init__(
        self,
        story: Callable[..., str],
        first: Callable[[Night], None],
        clean: Callable[[Night], None],
        switches: Mapping[str, str],
    ) -> None:
        update_wrapper(self, story)
        self.name = story.__name__
        self.story, self.first, self.clean, self.switches = story, first, clean, switches

    def __call__(
        self,
        experiment: Experiment,
        engine: sa.Engine,
        run_date: Any,
        *,
        force: bool = False,
        dry_run: bool = False,
        **options: bool,
    ) -> str:
        """Do one night; returns the closing line."""
        if not dry_run:
            folders.claim(engine, experiment.environment, make=True)
        return self._do(experiment, engine, run_date, force=force, dry_run=dry_run, **options)

    def _do(
        self,
        experiment: Experiment,
        engine: sa.Engine,
        run_date: Any,
        *,
        force: bool,
        dry_run: bool,
        **options: bool,
    ) -> str:
        """The same in folders that are claimed."""
        with open_night(
            self.name,
            experiment,
            engine,
            run_date,
            force=force or options.get("rebuild", False),
            dry_run=dry_run,
            first=self._begin,
            clean=self.clean,
        ) as night:
            try:
                return self.story(night, **options)
            except ReadAgain:  # it has written nothing yet, and reads more carefully now
                return self.story(night, **options)

    def _begin(self, night: Night) -> None:
        promotion.relink(night)
        self.first(night)

    def main(self, argv: Sequence[str] | None = None) -> int:
        """The command line: one experiment or all; returns the exit code."""
        if argv is None:  # a process of its own, which need not take modules apart when it ends
            gc.freeze()
        about = sys.modules[self.__module__].__doc__
        options = arguments.parse(self.name, about, argv, **self.switches)
        try:
            if argv is None:
                arguments.handle_interrupts(signal.default_int_handler)
            experiments = load_experiments(options.config, options.env).choose(options.experiment)
            with open_database(experiments.environment) as engine:
                if not options.dry_run:
                    folders.claim(engine, experiments.environment, make=True)
                    start_log(experiments.environment, self.name)
                if told := isolation.find_doubt(engine):
                    logger.warning("%s", told)
                return self._play(experiments, engine, options)
        except (Exception, KeyboardInterrupt) as error:
            return report(error, self.name)
        finally:
            if argv is None:  # it has its exit code
                arguments.handle_interrupts(signal.SIG_IGN)

    def _play(
        self, experiments: Experiments, engine: sa.Engine, options: argparse.Namespace
    ) -> int:
        code, lines = DONE, []
        # one for all, also when midnight passes
        now = today(experiments.environment)
        run_date = options.date or now
        if run_date > now and not options.future:
            zone = experiments.environment.timezone
            raise UsageError(
                f"--date {run_date} is yet to come: today is {now} in {zone}. Name a day until"
                " today, or allow it: --future"
            )
        chosen = {name: getattr(options, name) for name in ("force", "dry_run", *self.switches)}
        for experiment in experiments.values():
            try:
                lines.append(self._do(experiment, engine, run_date, **chosen))
            except NothingToDo as reason:
                logger.info("%s", reason)
                lines.append(str(reason))
            except (Exception, KeyboardInterrupt, SystemExit) as error:
                what = f"{self.name} {experiment.name} {run_date}"
                code = max(code, report(error, what, faults.show_url(engine)))
                if isinstance(error, KeyboardInterrupt):
                    break
        if lines and (options.dry_run or is_terminal()):
            say(("\n" if options.dry_run else "; ").join(lines))
        return code


def nightly(
    first: Callable[[Night], None] = lambda night: None,
    clean: Callable[[Night], None] = lambda night: None,
    switches: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Callable[..., str]], Job]:
    """Make a job of a story, which is given a `Night` and returns the job's closing line.

    The job has `main(argv)`, the command line of the script, and is called as `train(experiment,
    engine, run_date, force=, dry_run=)` for one night of one experiment.

    Parameters
    ----------
    first, clean : called with the night before the run is begun, see `open_night`
    switches : the story's own options that are on or off, with their help; they write, so they do
        not go with --dry-run
    """
    return lambda story: Job(story, first, clean, switches)


def connect(environment: Environment) -> sa.Engine:
    """The engine of an environment's database."""
    return connections.make_engine(
        environment.database,
        environment.schema,
        environment.folder,
        f"{environment.place}.database",
        environment.retry_seconds,
        bulk=environment.bulk,
        isolation=environment.isolation,
    )


@contextmanager
def open_database(environment: Environment, *, is_ready: bool = True) -> Iterator[sa.Engine]:
    """The engine of an environment's database, closed at the end.

    Parameters
    ----------
    is_ready : whether it must hold abatch's tables
    """
    engine = connect(environment)
    try:
        if is_ready:
            connections.check_ready(engine, environment.name)
        yield engine
    finally:
        engine.dispose()


def report(error: BaseException, what: str, where: str = "the database") -> int:
    """Print the one message that somebody must read, log it, and return the exit code that fits."""
    code = USAGE if isinstance(error, UsageError) else MENDABLE
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted; what was not finished was not written. Run it again."
    elif isinstance(error, AbatchError):
        message = str(error)
    elif isinstance(error, SQLAlchemyError):
        message = f"{where}: {faults.describe(error)}"
    else:
        code, trace = BUG, "".join(traceback.format_exception(error))
        message = f"this is a fault of abatch, not of yours; please report it.\n{trace}"
    # An estimator of the user's own may have failed deep inside: the log tells him where.
    cause = error.__cause__ if isinstance(error, ConfigError) else None
    logger.error("%s: %s", what, message, exc_info=cause)
    print(f"{what}: {message}", file=sys.stderr)
    return code


def start_log(environment: Environment, job: str) -> None:
    """Append to <job>_<month>.log, one line per event: UTC, level, environment, run, message."""
    path = environment.logs_dir / f"{job}_{utc_now():%Y-%m}.log"
    try:
        # A pipe that nobody reads is refused, and not waited for.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK
        os.close(os.open(path, flags, files.FILE_MODE))
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise AbatchError(
            f"{path}: the log cannot be written ({error.strerror}). Check the folder's rights."
        ) from None
    line, seconds = "%(asctime)sZ %(levelname)s {} %(run)s%(message)s", "%Y-%m-%dT%H:%M:%S"
    line = line.format(environment.name)
    formatter = logging.Formatter(line, seconds, defaults={"run": ""})  # a night adds its own
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
