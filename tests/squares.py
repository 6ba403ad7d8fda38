"""What workers are given to do where the work is not the subject; imported at once."""

import os
import signal
from pathlib import Path

from abatch.errors import DataError


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
