"""Events of a process, before each of which it may be killed."""

import itertools
import os
import pkgutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

# Auditing events of what changes files, with the argument that is the path.
CHANGES = {"os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.truncate": 0, "os.chmod": 0}
CHANGES |= {"os.chown": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# What goes round SQLAlchemy, or round Python's own files.
FUNCTIONS = (
    ("abatch.database.locks", "_run"),
    ("abatch.database.writing", "_copy"),
    ("abatch.database.sqlite_arrow", "_explaining"),
    ("abatch.experiment.spool:Spool", "add"),
)
N_SHOWN = 90  # characters of an event


class Strike(NamedTuple):
    """Where a process is killed: before its nth event.

    An event is a statement, a commit or rollback, or what changes a file.

    Attributes
    ----------
    folder : whose files are meant
    record : of a file that gets a line for each event
    nth : 0 for never
    many_rows : from which on SQLite gets rows from a process of its own; None as it is
    """

    folder: str
    record: str
    nth: int = 0
    many_rows: int | None = None

    def arm(self) -> None:
        """In the process: write down each event, and be killed before the nth."""
        numbers, process = itertools.count(1), os.getpid()
        record = os.open(self.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def meet(kind: str, what: str) -> None:
            if os.getpid() != process:
                return
            line = f"{kind}: {' '.join(what.split())}"[:N_SHOWN]
            os.write(record, f"{line}\n".encode())
            if next(numbers) == self.nth:
                os.kill(process, signal.SIGKILL)

        if self.many_rows is not None:
            pkgutil.resolve_name("abatch.database.writing").MANY_ROWS = self.many_rows
        _hear_statements(meet)
        _hear_files(meet, self.folder)
        for owner, name in FUNCTIONS:
            thing = pkgutil.resolve_name(owner)
            setattr(thing, name, _telling(getattr(thing, name), meet, name))


def read_record(record: Path) -> list[str]:
    """The events that a process met, of which the last was its end if it was killed."""
    return record.read_text("utf-8").splitlines() if record.exists() else []


def _hear_statements(meet: Callable[[str, str], None]) -> None:
    sa.event.listen(
        sa.Engine, "before_cursor_execute", lambda _c, _k, sql, *_: meet("statement", sql)
    )
    for name in ("commit", "rollback"):
        sa.event.listen(sa.Engine, name, lambda _c, name=name: meet("statement", name))


def _hear_files(meet: Callable[[str, str], None], folder: str) -> None:
    def hear(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if not isinstance(flags, int) or not flags & WRITING:
                return
        elif event in CHANGES:
            path = args[CHANGES[event]]
        else:
            return
        if isinstance(path, int):  # an open file
            return
        # shutil.rmtree names what is in a folder by the folder's number
        name, numbers = os.fsdecode(path), [arg for arg in args[1:] if isinstance(arg, int)]
        if not os.path.isabs(name) and event != "open" and numbers and numbers[-1] >= 0:
            name = os.path.join(os.readlink(f"/proc/self/fd/{numbers[-1]}"), name)
        if os.path.abspath(name).startswith(folder):
            meet("file", f"{event} {os.path.relpath(name, folder)}")

    sys.addaudithook(hear)


def _telling(
    real: Callable[..., Any], meet: Callable[[str, str], None], name: str
) -> Callable[..., Any]:
    def telling(*args: Any, **kwargs: Any) -> Any:
        meet("statement", name)
        return real(*args, **kwargs)

    return telling
