"""Workers: processes that assign and predict chunks, while the job itself reads and spools."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from joblib.externals.loky import ProcessPoolExecutor

from abatch.errors import AbatchError

C = TypeVar("C")
P = TypeVar("P")
N_ENDED = 2  # times that workers may be ended in one night, by whatever it is
_work: Callable[[Any], Any]  # in a worker, what it does


def work_through(work: Callable[[C], P], chunks: Iterable[C], n_jobs: int) -> Iterator[P]:
    """What work makes of each chunk, in their order.

    Parameters
    ----------
    work : each of several workers has a copy, which it is sent once
    n_jobs : processes; with 1 it is done here

    Raises
    ------
    AbatchError
        If workers are ended again and again.
    """
    if n_jobs == 1:
        yield from map(work, chunks)
        return
    pool = _Pool(work, n_jobs)
    try:
        for chunk in chunks:
            pool.submit(chunk)
            if len(pool.pending) > n_jobs:
                yield pool.take()
        while pool.pending:
            yield pool.take()
    finally:
        pool.close()


class _Pool:
    """Workers, and the chunks that they are at, the oldest first.

    Each works with as many threads as leaves none idle.
    """

    def __init__(self, work: Callable[[Any], Any], n_jobs: int) -> None:
        self.work, self.n_jobs, self.n_ended = work, n_jobs, 0
        self.pending: deque[tuple[Any, Future[Any]]] = deque()
        self._begin()

    def _begin(self) -> None:
        n_threads = max(1, (os.cpu_count() or 1) // self.n_jobs)
        self.executor = ProcessPoolExecutor(
            self.n_jobs,
            initializer=_keep,
            initargs=(self.work,),
            env={"OMP_NUM_THREADS": str(n_threads)},
        )

    def submit(self, chunk: Any) -> None:
        self.pending.append((chunk, self.executor.submit(_do, chunk)))

    def take(self) -> Any:
        """The oldest chunk's result; if a worker was ended, others do what is not done."""
        while True:
            try:
                result = self.pending[0][1].result()
            except BrokenProcessPool:
                self.n_ended += 1
                if self.n_ended > N_ENDED:
                    raise AbatchError(
                        f"workers were ended {self.n_ended} times, by the system or by a model's"
                        " code. Nothing was published. If memory was short, take fewer n_jobs or"
                        " chunk_rows."
                    ) from None
                self.close()
                self._begin()
                chunks = [chunk for chunk, _ in self.pending]
                self.pending.clear()
                for chunk in chunks:
                    self.submit(chunk)
            else:
                self.pending.popleft()
                return result

    def close(self) -> None:
        self.executor.shutdown(wait=True, kill_workers=True)


def _keep(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work


def _do(chunk: Any) -> Any:
    return _work(chunk)
