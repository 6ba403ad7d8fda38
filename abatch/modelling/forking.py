"""Forking: the process from which workers of this machine are forked, with their imports."""

import multiprocessing
from argparse import Namespace
from contextlib import suppress
from multiprocessing import forkserver

from abatch.config import load_experiments
from abatch.errors import AbatchError

CONTEXT = multiprocessing.get_context("forkserver")
# Each worker imports the job's script again, so that what it imports had better be there.
PRELOADED = ["predict", "abatch.modelling.preload"]


def begin(options: Namespace) -> None:
    """Let it import what workers need, while the job does, if the environment has workers.

    Parameters
    ----------
    options : of the command line; what is wrong with the config the job will tell
    """
    with suppress(AbatchError):
        environment = load_experiments(options.config, options.env).environment
        if environment.n_jobs > 1:
            CONTEXT.set_forkserver_preload(PRELOADED)
            forkserver.ensure_running()
