"""One run of a job for one experiment and one date: clock, lock, ledger and transactions."""

import logging
import os
import platform
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from abatch import version
from abatch.config import Environment, Experiment
from abatch.database import connections, faults, locks, writing
from abatch.database.tables import Row, runs
from abatch.errors import AbatchError, DatabaseError, NothingToDo
from abatch.queries import Query, Window
from abatch.text import is_terminal, say

DAY = timedelta(days=1)
DONE, EARLY = "done", "early"  # statuses; early: of a night that was yet to come, never counted
START_SECONDS = 3  # in which whoever takes the lock says in the ledger for which night
if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger("abatch")
logger.addHandler(logging.NullHandler())


def utc_now() -> datetime:
    """The present instant as naive UTC, as the tables hold it."""
    return datetime.now(UTC).replace(tzinfo=None)


def today(environment: Environment) -> date:
    """The business day now, in the configured time zone."""
    return environment.today(datetime.now(UTC))


def as_of(environment: Environment, run_date: date) -> datetime:
    """The moment whose knowledge a run for `run_date` may use if it starts now, as naive UTC."""
    return environment.as_of(run_date, datetime.now(UTC))


@dataclass(frozen=True)
class Night:
    """One execution of a job for one experiment and one run_date, as in the table `runs`.

    Attributes
    ----------
    run_number : 0 in a dry run, which is in no ledger
    as_of : the moment whose knowledge may be used, naive UTC
    force : do what is done already, or not due
    dry_run : read and compute alone: `write` and `finish` write nothing
    """

    job: str
    experiment: Experiment
    run_date: date
    run_id: str
    run_number: int
    started_at: datetime
    as_of: datetime
    force: bool
    dry_run: bool
    _engine: sa.Engine
    _lock: locks.Lock | None = None
    _warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.job} {self.experiment.name} {self.run_date}"

    @property
    def is_early(self) -> bool:
        """Whether it is yet to come, wherever on earth today is."""
        return self.run_date > self.started_at.date() + DAY

    @property
    def key(self) -> dict[str, Any]:
        """Experiment and run_date, as the columns of tables have them."""
        return {"experiment": self.experiment.name, "run_date": self.run_date}

    def read(
        self, find: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What `find(connection, *args, **kwargs)` returns."""
        return connections.read(self._engine, find, *args, **kwargs)

    def pull(
        self,
        query: Query,
        window: Window,
        check: "Callable[[pd.DataFrame], object]" = lambda frame: None,
    ) -> "pd.DataFrame":
        """All rows of a query of the user's, as known at the night's moment.

        Parameters
        ----------
        check : called with the first rows, before the others are read; it may raise
        """
        from abatch.database import reading  # pandas, which commands have no need of

        return reading.read_query(self._engine, query, window, self.as_of, check=check)

    def stream(self, query: Query, window: Window) -> Iterator["pd.DataFrame"]:
        """The same in chunks of at most the environment's chunk_rows."""
        from abatch.database import reading

        chunk_rows = self.experiment.environment.chunk_rows
        return reading.stream_query(self._engine, query, window, self.as_of, chunk_rows=chunk_rows)

    def write(
        self,
        work: Callable[Concatenate[sa.Connection, P], object],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Do `work(connection, *args, **kwargs)` in one transaction; nothing in a dry run.

        After a transient error it is done again as a whole, so it must not change what it closes
        over.
        """
        if not self.dry_run:
            connections.write(self._engine, work, *args, **kwargs)

    @contextmanager
    def open_loader(
        self, table: sa.Table, key: str, n_rows: int
    ) -> "Iterator[Callable[[pa.RecordBatch], None]]":
        """What writes batches of Arrow, as `writing.open_loader` has it; nothing in a dry run."""
        if self.dry_run:
            yield lambda batch: None
            return
        with writing.open_loader(self._engine, table, key, n_rows) as load:
            yield load

    @contextmanager
    def hold(self, name: str, what: str) -> Iterator[None]:
        """Keep a lock that others take too; nothing in a dry run.

        Parameters
        ----------
        name, what : of the lock, and what its other holders do, in words

        Raises
        ------
        DatabaseError
            If somebody else holds it and does not let go.
        """
        refusal = f"{self}: somebody else is {what}. Run it again."
        held = locks.hold(self._engine, name, refusal, faults.LOCK_WAIT_SECONDS)
        with nullcontext() if self.dry_run else held:
            yield

    def require_lock(self) -> None:
        """Make sure that no other run of this job has begun since; nothing in a dry run.

        Called before what two runs must not do at the same time. A lock that was lost is taken
        again if no other run has begun.

        Raises
        ------
        DatabaseError
            If another run has begun.
        """
        if self._lock is None:
            return
        if not faults.attempts(self._engine)(self._lock.regain, self.run_id):
            raise DatabaseError(self.read(_describe_loss, self))

    def finish(
        self,
        words: str,
        work: Callable[..., object] | None = None,
        *args: Any,
        rows_read: int = 0,
        rows_written: int = 0,
    ) -> str:
        """Do the work that makes the night's rows visible, and end the run, in one transaction.

        Parameters
        ----------
        words : what was done; in a dry run, what would be
        work : called as `write` calls it

        Returns
        -------
        str
            The job's closing line.

        Raises
        ------
        DatabaseError
            If it has lost its lock, or is no longer `running`: another process took it for dead,
            and may have done the work.
        """
        self.require_lock()

        def publish(connection: sa.Connection) -> None:
            if work is not None:
                work(connection, *args)
            _end_run(connection, self, rows_read=rows_read, rows_written=rows_written)
            _keep_warnings(connection, self)

        self.write(publish)
        if self.dry_run:
            return f"{self}, dry run: {words}"
        self.log(f"done, {rows_read} rows read, {rows_written} written: {words}")
        return f"{self}: {words}"

    def log(self, message: str) -> None:
        """Write a line into the job's log."""
        logger.info("%s: %s", self, message)

    def warn(self, message: str) -> None:
        """Log, keep in the ledger, and print where cron's mail finds it: somebody should act."""
        self._warnings.append(message)
        logger.warning("%s: %s", self, message)
        if not is_terminal():  # there the closing line says it
            print(f"{self}: {message}", file=sys.stderr)

    def announce(self, text: str) -> None:
        """Log, and print wherever the job runs: it is said once in an experiment's life."""
        for line in text.splitlines():
            self.log(line)
        say(text)


def is_latest(connection: sa.Connection, night: Night) -> bool:
    """Whether no later run_date of the same job is done, those that are still to come aside."""
    last = max(night.run_date, today(night.experiment.environment))
    later = (runs.c.run_date > night.run_date, runs.c.run_date <= last)
    return _find_run(connection, night, DONE, *later) is None


def find_nights(connection: sa.Connection, night: Night) -> list[date]:
    """The nights up to this one that have predictions, in order."""
    c = runs.c
    query = sa.select(c.run_date).filter_by(experiment=night.experiment.name, job="predict")
    query = query.where(c.run_date <= night.run_date, c.status.in_((DONE, EARLY)))
    return list(connection.scalars(query.distinct().order_by(c.run_date)))


@contextmanager
def open_night(
    job: str,
    experiment: Experiment,
    engine: sa.Engine,
    run_date: date,
    *,
    force: bool = False,
    dry_run: bool = False,
    first: Callable[[Night], None] = lambda night: None,
    clean: Callable[[Night], None] = lambda night: None,
) -> Iterator[Night]:
    """Hold the job's lock, write the run into the ledger, and say in the ledger how it ended.

    The block ends a run that did its work by `night.finish`; a block that raises leaves the run
    `failed` with the reason. Runs that died are marked and cleaned up after here.

    Parameters
    ----------
    first : called before all that; it may raise NothingToDo
    clean : called when no other run of the job is alive, to remove what dead ones left

    Raises
    ------
    NothingToDo
        If the night is done already and not `force`, or if another process is at it.
    AbatchError
        If another process is at another night of the same job, or gives no sign of life: this night
        is not being done.
    """
    started_at = utc_now()
    night = Night(
        job=job,
        experiment=experiment,
        run_date=run_date,
        run_id=f"{started_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
        run_number=0,
        started_at=started_at,
        as_of=as_of(experiment.environment, run_date),
        force=force,
        dry_run=dry_run,
        _engine=engine,
    )
    with _name_in_log(night):
        first(night)
        name = f"{job}-{experiment.name}"
        with nullcontext() if dry_run else locks.lock(engine, name, START_SECONDS) as lock:
            if not (lock or dry_run):
                raise _describe_holder(night, name)
            # Whoever holds the lock knows that no other run of this job is alive.
            night.write(_fail_runs, night, "died; cleaned up by the next run")
            if not dry_run:
                clean(night)
            done = night.read(_find_run, night, DONE, runs.c.run_date == run_date)
            if done and not force:
                raise NothingToDo(
                    f"{job} of {experiment.name} for {run_date} is already done (run {done.run_id},"
                    f" {done.finished_at:%Y-%m-%d %H:%M} UTC). To do it again: --force"
                )
            if dry_run:
                yield night
                return
            assert lock is not None
            run_number = connections.write(engine, _begin_run, night)
            night = replace(night, run_number=run_number, _lock=lock)
            night.log(f"started, code {version.code_version()}, as of {night.as_of} UTC")
            try:
                with lock.keep(night.run_id):
                    yield night
            except BaseException as error:
                _fail(night, error)
                raise
            if night._warnings:  # some are of what was done
                _write_down(night, _keep_warnings, night)


@contextmanager
def _name_in_log(night: Night) -> Iterator[None]:
    """Have the run_id in each line of the log, whoever writes it: drivers and estimators, too."""

    def add(record: logging.LogRecord) -> bool:
        record.run = f"{night.run_id} "
        return True

    for handler in logger.handlers:
        handler.addFilter(add)
    try:
        yield
    finally:
        for handler in logger.handlers:
            handler.removeFilter(add)


def _describe_holder(night: Night, name: str) -> Exception:
    """Who holds the lock: no fault if he is at the same night, else somebody has to come back.

    Nor is he at it if he gives no sign of life.
    """
    holder = night.read(_find_run, night, "running")
    what = f"{night.job} of {night.experiment.name}"
    if holder is None:
        return AbatchError(
            f"{what} is being done by a process that is just starting. Run it again."
        )
    who = f"by {holder.host} since {holder.started_at:%Y-%m-%d %H:%M} UTC (run {holder.run_id})"
    silence = night.read(locks.find_silence, name, holder.run_id, utc_now())
    if silence.total_seconds() > locks.SILENT_SECONDS:
        return AbatchError(
            f"{what} for {holder.run_date} was begun {who}, which has given no sign of life for"
            f" {silence.total_seconds() / 60:,.0f} minutes and still holds the lock: nobody alive"
            " is doing this. Its process hangs or was stopped, or its host is dead or cut off."
            " End that process, or its session on the server (docs/connections.md), and run this"
            " again."
        )
    if holder.run_date == night.run_date:
        return NothingToDo(f"{what} for {night.run_date} is already being done {who}")
    return AbatchError(
        f"{what} is being done for another date, {holder.run_date}, {who}. Run this one after it."
    )


def _find_run(
    connection: sa.Connection, night: Night, status: str, *where: sa.ColumnElement[bool]
) -> Row | None:
    """The newest run of the same job and experiment."""
    same = {"job": night.job, "experiment": night.experiment.name, "status": status}
    query = sa.select(runs).filter_by(**same).where(*where).order_by(runs.c.started_at.desc())
    return connection.execute(query).first()


def _fail_runs(connection: sa.Connection, night: Night, reason: str, /, **which: str) -> None:
    """End runs of the same job and experiment that still run.

    Parameters
    ----------
    which : run_id; without it all
    """
    same = {"experiment": night.experiment.name, **which}
    running = runs.update().filter_by(job=night.job, status="running", **same)
    ended = {"status": "failed", "finished_at": utc_now(), "error": reason}
    connection.execute(running.values(ended))


def _begin_run(connection: sa.Connection, night: Night) -> int:
    """Write the run into the ledger; returns its number."""
    locks.lock_in_transaction(connection, "run-number")
    number = (connection.scalar(sa.select(sa.func.max(runs.c.run_number))) or 0) + 1
    connection.execute(
        runs.insert().values(
            run_id=night.run_id,
            run_number=number,
            job=night.job,
            **night.key,
            started_at=night.started_at,
            status="running",
            code_version=version.code_version(),
            config_hash=night.experiment.hash(),
            host=f"{platform.node()} (process {os.getpid()})",
        )
    )
    return number


def _end_run(connection: sa.Connection, night: Night, **counts: int) -> None:
    """Mark the run done, with its rows_read and rows_written, and what it replaces superseded."""
    replaced = runs.update().filter_by(job=night.job, **night.key)
    replaced = replaced.where(runs.c.status.in_((DONE, EARLY)))
    connection.execute(replaced.values(status="superseded", superseded_by=night.run_id))
    running = runs.update().filter_by(run_id=night.run_id, status="running")
    status = EARLY if night.is_early else DONE
    connection.execute(running.values(status=status, finished_at=utc_now(), **counts))
    # Counts of changed rows are no proof: SQL Server's drivers give those of a trigger, or none.
    own = sa.select(runs.c.status).filter_by(run_id=night.run_id)
    if connection.scalar(own) != status:
        raise DatabaseError(_describe_loss(connection, night))


def _describe_loss(connection: sa.Connection, night: Night) -> str:
    """That another run has begun meanwhile, as it can if this one has lost its lock."""
    same = sa.select(runs).filter_by(job=night.job, experiment=night.experiment.name)
    later = same.where(runs.c.run_number > night.run_number).order_by(runs.c.run_number)
    other = connection.execute(later).first()
    who = f"run {other.run_id} on {other.host}" if other else "another process"
    return (
        f"run {night.run_id} has lost its lock to {who}, which took it for dead:"
        f" {locks.WHY_LOST}. Nothing of it was published. If the other fails (python -m abatch"
        " status), run this again; docs/connections.md tells how links stay alive."
    )


def _keep_warnings(connection: sa.Connection, night: Night) -> None:
    own = runs.update().filter_by(run_id=night.run_id)
    if night._warnings:
        connection.execute(own.values(warnings="\n".join(night._warnings)))


def _fail(night: Night, error: BaseException) -> None:
    is_database = isinstance(error, SQLAlchemyError)
    reason = faults.describe(error) if is_database else str(error) or type(error).__name__
    night.log(f"failed: {reason}")
    _write_down(night, _keep_warnings, night)
    _write_down(night, _fail_runs, night, reason, run_id=night.run_id)


def _write_down(night: Night, work: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    """Write how the run ended; if that fails, what is reported is that end."""
    try:
        night.write(work, *args, **kwargs)
    except SQLAlchemyError as error:
        night.log(f"how it ended could not be written into runs: {faults.describe(error)}")
