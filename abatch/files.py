"""Files: written beside and renamed, so that no reader meets half of one.

And what makes one known again.
"""

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from abatch.errors import FileError

# As `name_beside` makes them, of what abatch writes; the last is the mark in `folders`.
BESIDE = re.compile(r"\.(.+\.(?:pkl|json|html|parquet)|\.abatch-owner)\.[0-9]+")

FILE_MODE, FOLDER_MODE = 0o640, 0o750  # for a group that reads, and for nobody else
ORPHAN = ".orphan-"  # before the time in the name of what was set aside
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # of file systems without hard links


def check_writable(folder: Path, mode: int = FOLDER_MODE) -> None:
    """Raise FileError unless a file can be made in the folder; called before the long work.

    The folder is made with `mode` if need be.
    """
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise cannot_write(folder, error) from None


def cannot_write(path: Path, error: OSError, then: str = "run again") -> FileError:
    """The error of a file or folder that the system refuses to write; `then` ends the mend."""
    # Of pyarrow's errors, too, which have words of their own.
    reason = os.strerror(error.errno) if error.errno else error.strerror
    return FileError(
        f"{path}: cannot be written ({reason}). Check the folder's rights and room, then {then}."
    )


def name_beside(path: Path) -> Path:
    """Where this process writes a file until it is whole: .model.pkl.4711 for model.pkl."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def is_set_aside(path: Path) -> bool:
    """Whether abatch gave a file this name when it set it aside."""
    return path.name.rpartition(ORPHAN)[2].isdecimal()


def find_final_name(path: Path) -> str:
    """The name that a file has once it is whole, or had before it was set aside."""
    match = BESIDE.fullmatch(path.name)
    return match[1] if match else path.name.partition(ORPHAN)[0]


def find_unfinished(folder: Path, before: datetime) -> list[Path]:
    """Files that a dead process left beside those that it wrote, older than an instant.

    Parameters
    ----------
    before : naive UTC
    """
    beside = (path for path in folder.glob(".*") if BESIDE.fullmatch(path.name))
    return sorted(path for path in beside if is_older(path, before))


def is_older(path: Path, instant: datetime) -> bool:
    """Whether a file was last changed before an instant, which is naive UTC; not if it is gone."""
    try:
        return path.lstat().st_mtime < instant.replace(tzinfo=UTC).timestamp()
    except FileNotFoundError:  # a process has just given it its name
        return False


def write_file(path: Path, content: bytes, mode: int = FILE_MODE) -> None:
    """Write beside, then rename.

    Parameters
    ----------
    mode : rights of the file, less the process's umask; its group is the folder's, if the process
        may give it that

    Raises
    ------
    FileError
        If the folder cannot be written.
    """
    try:
        with _write_beside(path, content, mode) as beside:
            os.replace(beside, path)
            sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None


def create_file(path: Path, content: bytes, mode: int = FILE_MODE) -> None:
    """As `write_file`, but for a file that is there already.

    Raises
    ------
    FileExistsError
        If there is one; it stays as it is.
    FileError
        If the folder cannot be written.
    """
    try:
        with _write_beside(path, content, mode) as beside:
            _rename_to_new(beside, path)
            sync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from None


def create_final(path: Path, content: bytes, mode: int = FILE_MODE) -> None:
    """As `create_file`, of a file that never changes, and that no other run has a reason to write.

    Raises
    ------
    FileError
        If there is one, which stays as it is, or the folder cannot be written.
    """
    try:
        create_file(path, content, mode)
    except FileExistsError:
        raise FileError(
            f"{path}: is there already, so another run was at the same work. It stays as it is, and"
            " nothing of this run was published. See what the other did (python -m abatch status);"
            " if its work is not done, run again."
        ) from None


def _rename_to_new(beside: Path, path: Path) -> None:
    """Give a file that is whole its name; FileExistsError if there is one of that name."""
    try:
        os.link(beside, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # The name is taken first: a process that dies in between leaves it to an empty file.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
        os.replace(beside, path)


@contextmanager
def _write_beside(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """A file that is whole and on disk, and gone at the end unless it was renamed."""
    beside = name_beside(path)
    beside.unlink(missing_ok=True)
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            _share(file.fileno(), path.parent)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield beside
    finally:
        with suppress(OSError):
            beside.unlink()


def _share(descriptor: int, folder: Path) -> None:
    """Give a file the folder's group, as the system does itself where the folder has setgid."""
    group = folder.stat().st_gid
    if os.fstat(descriptor).st_gid != group:
        with suppress(PermissionError):
            os.fchown(descriptor, -1, group)


def read_file(path: Path) -> bytes:
    """The content of a regular file: a pipe in its place would be waited for, a device has no end.

    Raises
    ------
    OSError
        If it is none, or cannot be read.
    """
    refuse_pipe(path)
    return path.read_bytes()


def refuse_pipe(path: Path) -> None:
    """Raise OSError if a path is neither a file nor a folder, and yet there."""
    if not (path.is_file() or path.is_dir()) and path.exists():
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))


def sync_folder(folder: Path) -> None:
    """Have on disk what was renamed in a folder: after a power cut the old name may be back.

    Where the file system knows no such order, nothing is done.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file; harmless to repeat.

    Raises
    ------
    FileError
        If it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None


def hash_bytes(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()
