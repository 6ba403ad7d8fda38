"""What workers import, once for all of them; none takes a copy of it when it collects garbage."""

import gc
import pickle
import sys
from types import TracebackType

import sklearn.linear_model
import sklearn.pipeline  # noqa: F401

import abatch.modelling.inference  # noqa: F401

GONE = (FileNotFoundError, EOFError, pickle.UnpicklingError)


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python does, but nothing of a worker that began while its job was ended.

    It misses what the job had for it; why, the job has told.
    """
    while trace and trace.tb_next:
        trace = trace.tb_next
    is_start = trace and trace.tb_frame.f_globals["__name__"].startswith("multiprocessing.")
    if not (is_start and issubclass(kind, GONE)):
        sys.__excepthook__(kind, error, error.__traceback__)


sys.excepthook = tell
gc.freeze()
