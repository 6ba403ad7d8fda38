"""Folders: each belongs to one environment on one set of tables, and nobody else writes there.

So it bears a mark, which names the table owner's random id: it stays as it is where a database is
renamed, moved or restored.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from abatch import files
from abatch.config import Environment
from abatch.database import connections, faults, tables
from abatch.database.tables import models, runs, snapshots
from abatch.errors import DatabaseError, FileError
from abatch.modelling import registry
from abatch.text import cut_list

MARK = ".abatch-owner"
# Rights of a new one, by its key in the config.
MODES = {
    "models_dir": files.FOLDER_MODE,
    "snapshots_dir": 0o700,
    "reports_dir": files.FOLDER_MODE,
    "logs_dir": files.FOLDER_MODE,
    "spool_dir": 0o700,
}
N_NAMED = 3  # files in a message


class Owner(NamedTuple):
    """Whose a folder is."""

    owner_id: str
    environment: str


class Ledger(NamedTuple):
    """The files that the tables know.

    Attributes
    ----------
    names : of files in any of the folders, and of a run's own in the spool
    sha256 : of models, by file name
    """

    names: set[str]
    sha256: dict[str, str]

    def knows(self, path: Path) -> bool:
        """Whether a file was written by a run of these tables; another model is not."""
        if not path.is_symlink() and path.name in self.sha256:
            try:
                return files.hash_bytes(files.read_file(path)) == self.sha256[path.name]
            except OSError as error:
                raise cannot_read(path, error) from None
        return files.find_final_name(path) in self.names


def cannot_read(path: Path, error: OSError) -> FileError:
    """The error of a file or folder that the system refuses to read."""
    return FileError(f"{path}: cannot be read ({error.strerror}). Check the folder's rights.")


def claim(engine: sa.Engine, environment: Environment, *keys: str, make: bool = False) -> None:
    """Make sure that folders are the environment's own, before anything is written or deleted.

    One without a mark gets it if the tables know every file in it.

    Parameters
    ----------
    keys : of the folders in the config; all without them
    make : whether those that are not there are made

    Raises
    ------
    FileError
        If a folder is somebody else's, or holds files that the tables do not know, all of them; or
        if a mark cannot be read or written.
    DatabaseError
        If the table owner does not name one.
    """
    chosen = {key: getattr(environment, key) for key in keys or MODES}

    def look(connection: sa.Connection) -> tuple[Owner, dict[str, str]]:
        owner = read_owner(connection, environment)
        return owner, {key: find_fault(connection, path, owner) for key, path in chosen.items()}

    owner, found = connections.read(engine, look)
    refusals = [f"{environment.place}.{key}: {fault}" for key, fault in found.items() if fault]
    if refusals:
        raise FileError("\n".join(refusals))
    for key, folder in chosen.items():
        if make:
            with suppress(OSError):  # whoever writes there says why it cannot
                folder.mkdir(MODES[key], parents=True, exist_ok=True)
        if os.path.isdir(folder):
            _write_mark(folder, owner)


def find_fault(connection: sa.Connection, folder: Path, owner: Owner) -> str:
    """Why a folder is not the owner's, and may not become it, in sentences; empty if it is or may.

    Raises
    ------
    FileError
        If it cannot be read.
    """
    if not os.path.isdir(folder):
        return ""
    marked = read_mark(folder)
    if marked is not None:
        return "" if marked == owner else _describe(folder, marked, owner)
    paths = list_files(folder)
    ledger = read_ledger(connection) if paths else Ledger(set(), {})
    strangers = [path.name for path in paths if not ledger.knows(path)]
    if not strangers:
        return ""
    url, names = faults.show_url(connection.engine), ", ".join(cut_list(strangers, N_NAMED))
    return (
        f"{folder} bears no owner's mark, and holds files that the tables of {url} do not know:"
        f" {names}. Nothing was touched. Name an empty folder, or move these files away."
    )


def _describe(folder: Path, marked: Owner, owner: Owner) -> str:
    """That a folder is somebody else's."""
    whose = f"environment {marked.environment}"
    if marked.owner_id == owner.owner_id:
        whose += f" of the same tables, and this is {owner.environment}"
    else:
        whose += (
            f" on other tables (owner {marked.owner_id[:8]}, and those of {owner.environment} are"
            f" owner {owner.owner_id[:8]})"
        )
    return (
        f"{folder} belongs to {whose}. Nothing was touched. Name a folder of its own for each"
        " environment and each database. If nobody else uses this one, since the environment was"
        f" renamed or the tables were made anew, move it away, or remove its {MARK}: it is taken"
        " over then if the tables know every file in it."
    )


def read_owner(connection: sa.Connection, environment: Environment) -> Owner:
    """An environment on these tables; DatabaseError unless they have one random id."""
    ids = connection.scalars(sa.select(tables.owner.c.owner_id)).all()
    if len(ids) != 1:
        raise DatabaseError(
            f"{faults.show_url(connection.engine)}: the table owner has {len(ids)} rows, expected"
            " the one that init wrote. Bring it back from a backup."
        )
    return Owner(ids[0], environment.name)


def read_mark(folder: Path) -> Owner | None:
    """Whose a folder is; None if it bears no mark.

    Raises
    ------
    FileError
        If its mark cannot be read.
    """
    path = folder / MARK
    try:
        return Owner(**json.loads(files.read_file(path)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not abatch's"
        raise FileError(
            f"{path}: the folder's mark cannot be read ({reason}). Check its rights; if it was"
            " changed, remove it, and run again."
        ) from None


def _write_mark(folder: Path, owner: Owner) -> None:
    """Mark a folder, unless it is; if another process was quicker, it must have been one's own."""
    if not (folder / MARK).exists():
        with suppress(FileExistsError):
            files.create_file(folder / MARK, f"{json.dumps(owner._asdict())}\n".encode())
    marked = read_mark(folder)
    if marked is not None and marked != owner:
        raise FileError(_describe(folder, marked, owner))


def list_files(folder: Path, *, with_folders: bool = False) -> list[Path]:
    """What lies in a folder, but for its mark; abatch touches nothing in folders but its spools.

    Raises
    ------
    FileError
        If it cannot be read.
    """
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise cannot_read(folder, error) from None
    own = (path for path in paths if path.name != MARK)
    return [path for path in own if with_folders or path.is_symlink() or not os.path.isdir(path)]


@dataclass(frozen=True)
class Survey:
    """What tables and disk do not have in common, as after a restored backup, or a loss.

    Attributes
    ----------
    faults : folders that are somebody else's, or cannot be read, in sentences
    unknown : files that the tables do not know, or that a dead process left
    missing : files of models and snapshots that the tables name, and that were not deleted
    """

    faults: list[str]
    unknown: list[str]
    missing: list[str]

    def __bool__(self) -> bool:
        return bool(self.faults or self.unknown or self.missing)


def survey(connection: sa.Connection, environment: Environment) -> Survey:
    """Look for what is not as it should be in an environment's folders."""
    owner, ledger = read_owner(connection, environment), read_ledger(connection)
    deleted = {f"{n}.parquet" for n in registry.read_deletions(connection, registry.SNAPSHOT)}
    for name in registry.read_deletions(connection, registry.MODEL):
        deleted |= {f"{name}{suffix}" for suffix in registry.SUFFIXES}
    known = ledger.names - deleted
    needed = {
        "models_dir": known & ledger.sha256.keys(),
        "snapshots_dir": {name for name in known if name.endswith(".parquet")},
    }
    found = Survey([], [], [])
    for key in MODES:
        folder = getattr(environment, key)
        try:
            fault = find_fault(connection, folder, owner)
            paths = list_files(folder, with_folders=key == "spool_dir") if not fault else []
        except FileError as error:
            fault = str(error)
        if fault:
            found.faults.append(f"{environment.place}.{key}: {fault}")
            continue
        found.unknown.extend(str(path) for path in paths if path.name not in known)
        missing = needed.get(key, set()) - {path.name for path in paths}
        found.missing.extend(str(folder / name) for name in sorted(missing))
    return found


def read_ledger(connection: sa.Connection) -> Ledger:
    """What files the tables know, of models and snapshots those that were deleted, too."""
    names, sha256 = {MARK}, {}  # of which a dead process may have left a half
    c = models.c
    for model in connection.execute(sa.select(c.model_name, c.name, c.version, c.file, c.sha256)):
        names |= {f"{model.model_name}{suffix}" for suffix in registry.SUFFIXES}
        names.add(f"{registry.undated_name(model)}_latest.pkl")
        sha256[model.file] = model.sha256
    for content_hash in connection.scalars(sa.select(snapshots.c.content_hash).distinct()):
        names.add(f"{content_hash}.parquet")
    for run in connection.execute(sa.select(runs.c.run_id, runs.c.experiment, runs.c.started_at)):
        names |= {run.run_id, f"{run.experiment}.html"}
        jobs = ("train", "predict", "score", "demo")
        names |= {f"{job}_{run.started_at:%Y-%m}.log" for job in jobs}
    return Ledger(names, sha256)
