"""Workers: what they do comes in order, and one that is killed costs a retry."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from abatch.errors import AbatchError, DataError
from abatch.modelling.workers import work_through


def square(number: int) -> int:
    return number * number


def square_but_die(number: int, *, folder: Path, n_times: int) -> int:
    """The worker that is given 5 is killed, as for want of memory, so many times."""
    if number == 5 and len(deaths := [*folder.iterdir()]) < n_times:
        (folder / f"{len(deaths)}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(number)


def refuse(number: int) -> int:
    if number == 3:
        raise DataError(f"Ærø: {number}")
    return number


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
def test_work_through_in_order(n_jobs: int) -> None:
    assert [*work_through(square, iter(range(20)), n_jobs)] == [n * n for n in range(20)]
    assert [*work_through(square, [], n_jobs)] == []


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_work_through_raises_what_work_raises(n_jobs: int) -> None:
    results = work_through(refuse, range(9), n_jobs)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="Ærø: 3"):
        next(results)


def test_work_through_a_killed_worker(tmp_path: Path) -> None:
    work = partial(square_but_die, folder=tmp_path, n_times=2)
    assert [*work_through(work, range(12), 2)] == [n * n for n in range(12)]
    assert len([*tmp_path.iterdir()]) == 2


def test_work_through_workers_that_are_killed_again_and_again(tmp_path: Path) -> None:
    work = partial(square_but_die, folder=tmp_path, n_times=99)
    with pytest.raises(AbatchError, match=r"workers were ended 3 times, .* fewer n_jobs"):
        [*work_through(work, range(12), 2)]


def test_work_through_ends_its_workers(tmp_path: Path) -> None:
    """Also if nobody wants the rest."""
    results = work_through(square, range(50), 2)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
