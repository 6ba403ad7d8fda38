"""What workers are given to do where the work is not the subject; imported at once."""

import os
import signal
import time
from pathlib import Path
from threading import Thread

from abatch.errors import DataError


def square(number: int) -> int:
    return number * number


def square_but_die(number: int, *, folder: Path, n_times: int) -> int:
    """The worker that is given 5 is killed, as for want of memory, so many times."""
    if number == 5 and len(deaths := [*folder.iterdir()]) < n_times:
        (folder / f"{len(deaths)}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(number)


class Deadly:
    """What ends the process a moment after it was pickled."""

    def __reduce__(self) -> tuple[type[int], tuple[()]]:
        Thread(target=_die_soon, daemon=True).start()
        return int, ()


def _die_soon() -> None:
    time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def square_but_die_sending(number: int, *, folder: Path) -> tuple[int, bytes, object]:
    """The worker that is given 5 is killed once, in the middle of a long answer."""
    is_due = number == 5 and not [*folder.iterdir()]
    if is_due:
        (folder / "death").touch()
    return square(number), bytes(2**28 if is_due else 1), Deadly() if is_due else None


def refuse(number: int) -> int:
    if number == 3:
        raise DataError(f"Ærø: {number}")
    return number


def hang(folder: Path) -> None:
    """Leave the process's number in the folder, and stay."""
    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(600)
