"""Scripts in processes of their own, forked from one that has imported what they import.

A process that starts with the interpreter spends most of its seconds on scikit-learn.
"""

import multiprocessing
import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

CONTEXT = multiprocessing.get_context("forkserver")
COMMANDS = [f"abatch.commands.{group}" for group in ("look", "change", "keep")]
CONTEXT.set_forkserver_preload(["tests.processes", "predict", "score", "train", *COMMANDS])


class Stop(NamedTuple):
    """Where a script stops: at the nth call of a function.

    Attributes
    ----------
    owner : of the function, as "abatch.night" or "abatch.night:Night"
    action : kill, by SIGKILL, or hold, once the call is made; kill before, hold before
    """

    owner: str
    name: str
    nth: int = 1
    action: str = "kill"


class Process:
    """`main(arguments)` of a script; what is not over at the end of a `with` is killed.

    Parameters
    ----------
    stop : where it stops, or what is called before it begins
    """

    def __init__(
        self,
        script: str,
        arguments: Sequence[str],
        stop: Stop | Callable[[], None] | None = None,
    ) -> None:
        self._folder = TemporaryDirectory()
        self._outputs = [Path(self._folder.name) / name for name in ("out", "err")]
        self._link, theirs = CONTEXT.Pipe()
        asked = (script, [*arguments], self._outputs, stop, theirs)
        self._process = CONTEXT.Process(target=_work, args=asked)
        self._process.start()
        theirs.close()
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._link.close()
        self._folder.cleanup()

    def wait_until_held(self) -> None:
        assert self._link.recv() == "holding"

    def go_on(self) -> None:
        self._link.send("go on")

    def end(self, seconds: float | None = None) -> tuple[int | None, str, str]:
        """Exit code, below 0 for the signal that killed it, stdout and stderr.

        The exit code is None if it has not ended after so many seconds.
        """
        self._process.join(seconds)
        out, err = (path.read_text("utf-8") for path in self._outputs)
        return self._process.exitcode, out, err


def _work(
    script: str,
    arguments: list[str],
    outputs: list[Path],
    stop: Stop | Callable[[], None] | None,
    link: Connection,
) -> None:
    for number, path in enumerate(outputs, start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    if isinstance(stop, Stop):
        owner = pkgutil.resolve_name(stop.owner)
        setattr(owner, stop.name, stop_at(getattr(owner, stop.name), stop, link))
    elif stop:
        stop()
    sys.exit(import_module(script).main(arguments))


def stop_at(
    real: Callable[..., Any], stop: Stop, link: Connection | None = None
) -> Callable[..., Any]:
    calls: list[tuple[Any, ...]] = []
    action, is_before = stop.action.removesuffix(" before"), stop.action.endswith(" before")

    def end() -> None:
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        assert link is not None
        link.send("holding")
        link.recv()

    def stopping(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        is_due = len(calls) == stop.nth
        if is_due and is_before:
            end()
        try:
            return real(*args, **kwargs)
        finally:  # also a call that fails, as of a folder whose parent is not there yet
            if is_due and not is_before:
                end()

    return stopping
