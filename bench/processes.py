"""What a command costs: seconds of wall clock and CPU, and memory, of all its processes."""

import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SAMPLE_SECONDS = 0.2  # more often it takes part of a core
PR_SET_CHILD_SUBREAPER = 36  # see prctl(2)


class Cost(NamedTuple):
    """Of a command and all that it starts.

    Attributes
    ----------
    wall, cpu : seconds
    memory : MiB at once, at most; what processes share is counted once (PSS)
    """

    wall: float
    cpu: float
    memory: float


def take_median(costs: Iterable[Cost]) -> Cost:
    """Of each figure."""
    return Cost(*map(statistics.median, zip(*costs, strict=True)))


def measure(command: Sequence[str], folder: Path = ROOT) -> tuple[Cost, str]:
    """Run a command in a folder to its end; what it cost, and its standard output.

    Processes that outlive it, as a server of workers does for a moment, are waited for and counted.
    Compiled modules are kept, as at a user's.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    others, memory, is_over = {*list_children(os.getpid())}, [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(SAMPLE_SECONDS):
            memory.append(sum(map(read_pss, list_tree(process.pid))))

    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=errors
        )
        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        is_over.set()
        watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        used = [usage, *(os.wait4(pid, 0)[2] for pid in _list_new_children(others))]
        for file in (output, errors):
            file.seek(0)
        if process.returncode:
            words = f"{output.read()}{errors.read()}"
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{words}")
        cpu = sum(one.ru_utime + one.ru_stime for one in used)
        return Cost(wall, cpu, max(memory) / 1024), output.read()


def _list_new_children(others: set[int]) -> Iterable[int]:
    """Processes that have come to this one, one after the other, until there is none."""
    while found := {*list_children(os.getpid())} - others:
        yield from found


def list_children(pid: int) -> list[int]:
    """Processes that a process has started and not waited for; none if it has ended."""
    try:
        texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(word) for word in " ".join(texts).split()]


def list_tree(pid: int) -> list[int]:
    """A process, those that it has started, and theirs."""
    return [pid, *(one for child in list_children(pid) for one in list_tree(child))]


def read_pss(pid: int) -> int:
    """A process's memory in KiB, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
