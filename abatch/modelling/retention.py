"""Retention: which snapshots and models are deleted, and how their files go.

Never what is or was live, nor the snapshot of such a model. What the tables do not know goes only
if a person asks for it, and only if abatch wrote it.
"""

import logging
from collections.abc import Iterator
from datetime import datetime

import sqlalchemy as sa

from abatch import files
from abatch.config import Environment
from abatch.database import tables
from abatch.database.tables import models, promotions, runs
from abatch.modelling import folders, registry, snapshots
from abatch.night import DAY, Night, utc_now

logger = logging.getLogger("abatch")


def apply(night: Night) -> None:
    """Delete what the environment's retention no longer keeps."""
    environment = night.experiment.environment
    night.write(write_deletions, environment, f"{night.job} {night.run_id}")
    night.read(remove_files, environment)


def write_deletions(connection: sa.Connection, environment: Environment, by: str) -> list[str]:
    """Write down which snapshots and models go; `remove_files` comes after the commit.

    So a job that dies between the two is finished by the next.

    Parameters
    ----------
    by : who deletes

    Returns
    -------
    list of str
        What was deleted, in words.
    """
    now, deleted = utc_now(), []
    for kind, choose in ((registry.SNAPSHOT, choose_snapshots), (registry.MODEL, choose_models)):
        for name, reason in [*choose(connection, environment, now)]:
            registry.write_deletion(connection, kind, name, f"retention: {reason}", by, now)
            deleted.append(f"{kind} {name} deleted: {reason}")
            logger.info(deleted[-1])
    return deleted


def remove_files(connection: sa.Connection, environment: Environment) -> None:
    """Remove the files of what is deleted, half written or set aside; harmless to repeat.

    What the tables do not know stays: a backup that was restored is older than what is on disk.
    """
    remove_deleted(connection, environment)
    remove_set_aside(environment)
    for key in folders.MODES:
        for path in files.find_unfinished(getattr(environment, key), utc_now() - DAY):
            files.remove(path)
            logger.info("%s removed: a process died while it wrote it", path)


def remove_deleted(connection: sa.Connection, environment: Environment) -> None:
    """Remove the files of deleted models for good, of snapshots unless they were pulled again.

    One that was written since, by a pull that a restored backup has lost, stays.
    """
    for name in registry.read_deletions(connection, registry.MODEL):
        registry.remove_files(environment.models_dir, name)
    for name, deletion in registry.read_deletions(connection, registry.SNAPSHOT).items():
        path = snapshots.path_of(environment.snapshots_dir, name)
        if files.is_older(path, deletion.deleted_at):
            files.remove(path)


def remove_set_aside(environment: Environment) -> None:
    """Remove what runs that died left of models, which were never live, after as many days."""
    days = environment.retention.model_days
    if days is None:
        return
    for path in sorted(environment.models_dir.glob(f"*{files.ORPHAN}*")):
        if files.is_set_aside(path) and files.is_older(path, utc_now() - days * DAY):
            files.remove(path)
            logger.info("%s removed: set aside, and older than %s days", path, days)


def choose_models(
    connection: sa.Connection, environment: Environment, now: datetime
) -> Iterator[tuple[str, str]]:
    """Which dated models go, and why: those never promoted, trained so many days ago."""
    days = environment.retention.model_days
    if days is None:
        return
    kept = {*registry.read_deletions(connection, registry.MODEL)}
    kept |= set(connection.scalars(sa.select(promotions.c.model_name)))
    query = sa.select(models.c.model_name, runs.c.started_at)
    for row in connection.execute(query.join(runs, runs.c.run_id == models.c.run_id)):
        if row.model_name not in kept and (now - row.started_at).days >= days:
            yield row.model_name, f"never live, and older than {days} days"


def find_needed(connection: sa.Connection) -> set[str]:
    """Content hashes that never go: of models ever promoted, and of runs that may yet promote."""
    pulls = tables.snapshots.c
    promoted = sa.select(models.c.snapshot).where(models.c.model_name == promotions.c.model_name)
    of_runs = sa.select(pulls.content_hash).where(pulls.run_id == runs.c.run_id)
    running = of_runs.where(runs.c.status == "running")
    return set(connection.scalars(sa.union(promoted, running)))


def choose_snapshots(
    connection: sa.Connection, environment: Environment, now: datetime
) -> Iterator[tuple[str, str]]:
    """Which contents go, and why: the oldest first, until what is left obeys both limits.

    These are the age of the newest pull of a content, in days, and 1e9 bytes that all files
    together may have.
    """
    folder, keep = environment.snapshots_dir, environment.retention
    days, gigabytes = keep.snapshot_days, keep.snapshot_gigabytes
    newest = snapshots.find_newest(connection)
    present = [row for name, row in newest.items() if snapshots.path_of(folder, name).exists()]
    needed, total = find_needed(connection), sum(row.n_bytes for row in present)
    for row in present:
        is_old = days is not None and (now - row.pulled_at).days >= days
        is_much = gigabytes is not None and total > gigabytes * 1e9
        if row.content_hash not in needed and (is_old or is_much):
            total -= row.n_bytes
            age = f"older than {days} days"
            yield row.content_hash, age if is_old else f"all together larger than {gigabytes:g} GB"


def remove_strays(connection: sa.Connection, environment: Environment) -> list[str]:
    """Remove snapshots that no pull names, a day old or older, and only those that abatch wrote.

    A run that died left them, or they are newer than a backup that was restored: so a person asks
    for it, and no job.

    Returns
    -------
    list of str
        What was removed, in words.
    """
    pulled, yesterday = snapshots.find_newest(connection), utc_now() - DAY
    removed = []
    for path in sorted(environment.snapshots_dir.glob("*.parquet")):
        is_old = files.is_older(path, yesterday)
        if path.stem not in pulled and is_old and snapshots.is_marked(path):
            files.remove(path)
            removed.append(f"{path} removed: no pull names it")
            logger.info(removed[-1])
    return removed
