"""Workers: processes that assign and predict chunks, while the job itself reads and spools.

They are on this machine, by loky, or on a cluster, by dask; see docs/scale.md.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache, partial
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, NamedTuple

import joblib
from joblib.externals.loky import ProcessPoolExecutor
from joblib.parallel import LokyBackend
from threadpoolctl import threadpool_limits

from abatch.errors import AbatchError
from abatch.modelling import forking
from abatch.modelling.chatter import listen
from abatch.night import Night

N_ENDED = 2  # times that workers may be ended in one night, by whatever it is
TAKE_ON_SECONDS = 5
CHECK_SECONDS = 5  # without an answer, after which it is seen whether a worker was ended
PARENT_SECONDS = 1  # after which a process that joblib began looks whether its parent is there
LOGGERS = ("abatch", "py.warnings")  # what the job's log has
logger = logging.getLogger("abatch")
_kept = b""  # in a worker of this machine, the pickled work
_alone = threading.Lock()  # chatter is listened to by the whole process


def count_workers(night: Night) -> int:
    """Processes of this machine that do a night's work: n_jobs, but two or one a core at most.

    More would take memory and gain nothing; that is told, and the night is done all the same: the
    config may have been written for another machine.
    """
    environment, n_cores = night.experiment.environment, joblib.cpu_count()
    n_most = max(2, n_cores)
    if environment.n_jobs > n_most:
        night.warn(
            f"{environment.place}.n_jobs: found {environment.n_jobs}, but this machine lets a job"
            f" use so many cores: {n_cores}. {n_most} processes work. Write n_jobs: {n_most}."
        )
    return min(environment.n_jobs, n_most)


class Reply(NamedTuple):
    """What a worker answers.

    Attributes
    ----------
    result : of the work, if nothing was raised
    error, trace : what was, and where
    records : what was logged meanwhile, warnings too
    """

    result: Any
    error: Exception | None
    trace: str
    records: list[logging.LogRecord]


class WorkerTrace(Exception):
    """Where an error was raised in a worker: the traceback there, as text."""


class Pool:
    """Workers, and the chunks that they are at, the oldest first.

    Chunks travel as bytes, which nobody but a worker opens.

    Attributes
    ----------
    executor : of the workers, as concurrent.futures has it
    sent : what the executor gives `_do` with each chunk: the pickled work, or None if a worker of
        this machine has it
    n_workers : as many chunks, and one more, are on their way
    """

    executor: Any
    sent: Any = None
    n_workers: int
    broken: tuple[type[BaseException], ...] = (BrokenProcessPool,)  # which `mend` knows

    def __init__(self) -> None:
        self.pending: deque[tuple[bytes, Future[Reply]]] = deque()

    def work_through(self, chunks: Iterable[Any]) -> Iterator[Any]:
        """What workers make of each chunk, in the chunks' order.

        Raises
        ------
        AbatchError
            If workers are ended again and again, or are out of reach.
        """
        try:
            for chunk in chunks:
                self.submit(pickle.dumps(chunk, 5))
                if len(self.pending) > self.n_workers:
                    yield self.take()
            while self.pending:
                yield self.take()
        finally:
            self.close()

    def submit(self, chunk: bytes) -> None:
        """Let a worker do the chunk when one is free."""
        future: Future[Reply] = Future()
        try:
            future = self.executor.submit(_do, self.sent, chunk)
        except self.broken as error:  # a worker was ended before this; `take` sees to it
            future.set_exception(error)
        self.pending.append((chunk, future))

    def take(self) -> Any:
        """The oldest chunk's result, and into the log what was said of it."""
        while True:
            try:
                reply = self.wait(self.pending[0][1])
            except self.broken as error:
                self.mend(error)
                continue
            self.pending.popleft()
            for record in reply.records:
                logging.getLogger(record.name).handle(record)
            if reply.error is not None:
                raise reply.error from WorkerTrace(reply.trace)
            return reply.result

    def wait(self, future: Future[Reply]) -> Reply:
        """What a worker answers."""
        return future.result()

    def mend(self, error: BaseException) -> None:
        """Let what is pending be done all the same, or raise an AbatchError."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave nothing running."""
        raise NotImplementedError


class LocalPool(Pool):
    """Processes of this machine; each works with as many threads as leaves none idle.

    Attributes
    ----------
    results : the end of loky's pipe for answers where they are written
    """

    processes: list[BaseProcess]
    results: Connection

    def __init__(self, work: Callable[[Any], Any], n_jobs: int) -> None:
        super().__init__()
        self.content, self.n_workers, self.n_ended = pickle.dumps(work, 5), n_jobs, 0
        self.processes = []
        self._begin()

    def _begin(self) -> None:
        n_threads = max(1, joblib.cpu_count() // self.n_workers)
        forking.start()
        self.executor = ProcessPoolExecutor(
            self.n_workers,
            context=forking.CONTEXT,
            initializer=_keep,
            initargs=(self.content, n_threads),
        )
        self.results = self.executor._result_queue._writer
        others = multiprocessing.active_children()
        try:
            self.executor.submit(os.getpid)  # workers begin while the first chunk is read
        except OSError as error:  # one was ended as it began
            self.mend(error)
            return
        self.processes = [*{*multiprocessing.active_children()} - {*others}]

    def wait(self, future: Future[Reply]) -> Reply:
        """What a worker answers."""
        while True:
            try:
                return future.result(CHECK_SECONDS)
            except TimeoutError:
                if not all(process.is_alive() for process in self.processes):
                    self._kill()

    def _kill(self) -> None:
        """End the processes, and what loky still expects of them.

        Of a message that was cut off it awaits the rest as long as anybody could write it, and this
        process could: then its pool is broken only now.
        """
        for process in self.processes:
            process.kill()
        self.results.close()

    def mend(self, error: BaseException) -> None:
        """Begin with new workers, who do what is not done."""
        self.n_ended += 1
        tell_end(self.n_ended, error, "n_jobs or chunk_rows")
        self.close()
        self._begin()
        chunks = [chunk for chunk, _ in self.pending]
        self.pending.clear()
        for chunk in chunks:
            self.submit(chunk)

    def close(self) -> None:
        """End the processes.

        Before that loky must have taken on what it was given, or its thread fails and prints so.
        """
        for _ in range(TAKE_ON_SECONDS * 100):
            if all(future.running() or future.done() for _, future in self.pending):
                break
            time.sleep(0.01)
        if self.pending:
            self._kill()
        self.executor.shutdown(wait=True, kill_workers=True)


def tell_end(n_ended: int, error: BaseException, memory: str) -> None:
    """Log that a worker was ended, for what it did is done again.

    Parameters
    ----------
    n_ended : how often that was so
    memory : the settings that need less of it if they are smaller

    Raises
    ------
    AbatchError
        If it was so too often.
    """
    if n_ended > N_ENDED:
        raise AbatchError(
            f"workers were ended {n_ended} times, by the system or by a model's code. Nothing was"
            f" published. If memory was short, take fewer {memory}."
        ) from None
    logger.warning(
        "a worker was ended, by the system or by a model's code; what was not done is done again"
        " (time %d, at most %d): %s",
        n_ended,
        N_ENDED,
        " ".join(str(error).split()),
    )


def _keep(content: bytes, n_threads: int) -> None:
    """Make this process a worker of some threads, which ends with its parent.

    Ctrl-C is meant for the parent, too.
    """
    global _kept
    _kept = content
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        threadpool_limits(n_threads)
        os.environ["OMP_NUM_THREADS"] = str(n_threads)  # of libraries that models load yet


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def own_loky() -> None:
    """Let the processes that joblib begins, as for a search, end with this one, however it ends."""
    loky = partial(LokyBackend, initializer=_end_with, initargs=(os.getpid(),))
    joblib.register_parallel_backend("loky", loky)


def _end_with(pid: int) -> None:
    threading.Thread(target=_outlive_not, args=(pid,), daemon=True).start()


def _outlive_not(pid: int) -> None:
    while os.getppid() == pid:
        time.sleep(PARENT_SECONDS)
    os._exit(1)


def _do(content: bytes | None, chunk: bytes) -> Reply:
    """In a worker: the work on a chunk."""
    result, error, trace = None, None, ""
    with _alone, _collect() as records:
        try:
            result = _open(_kept if content is None else content)(pickle.loads(chunk))
        except Exception as raised:
            error, trace = raised, "".join(traceback.format_exception(raised))
    return Reply(result, error, trace, records)


@lru_cache(maxsize=1)
def _open(content: bytes) -> Callable[[Any], Any]:
    """The work, once in each process; what the models' modules say as they load is logged."""
    with listen():
        return pickle.loads(content)


@contextmanager
def _collect() -> Iterator[list[logging.LogRecord]]:
    """What is logged meanwhile, as it can be sent."""
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(queue)
    records: list[logging.LogRecord] = []
    logging.captureWarnings(True)
    logger.setLevel(logging.INFO)
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
    try:
        yield records
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(handler)
        while not queue.empty():
            records.append(queue.get())
