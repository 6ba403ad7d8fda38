"""Forking: the process from which workers of this machine are forked, with their imports."""

import multiprocessing
import os
from argparse import Namespace
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker

from abatch.config import load_experiments
from abatch.errors import AbatchError, FileError

CONTEXT = multiprocessing.get_context("forkserver")
# Each worker imports the job's script again, so that what it imports had better be there.
PRELOADED = ["predict", "abatch.modelling.preload"]


def begin(options: Namespace) -> None:
    """Start it while the job imports its own part, if the environment has workers.

    Parameters
    ----------
    options : of the command line; what is wrong with the config the job will tell
    """
    with suppress(AbatchError):
        if load_experiments(options.config, options.env).environment.n_jobs > 1:
            start()


def start() -> None:
    """Let it import what workers need, unless it runs already.

    Of a job that is killed Python's resource tracker removes the semaphores; that is no matter for
    cron's mail.

    Raises
    ------
    FileError
        If there is no temporary folder for its socket.
    """
    kept = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [kept, "ignore:resource_tracker"]))
    resource_tracker.ensure_running()
    if kept is None:
        del os.environ["PYTHONWARNINGS"]
    else:
        os.environ["PYTHONWARNINGS"] = kept
    CONTEXT.set_forkserver_preload(PRELOADED)
    try:
        forkserver.ensure_running()
    except OSError as error:
        raise FileError(
            f"workers cannot be started: {error.strerror}. Name a folder that can be written as"
            " TMPDIR, or leave out n_jobs."
        ) from None
