"""Chatter: what an estimator's code says goes into the log, and does to the process is put back."""

import ctypes
import fcntl
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cache
from typing import TextIO

logger = logging.getLogger("abatch")


@contextmanager
def listen() -> Iterator[None]:
    """Write what is printed, by code in C too, into the log, and not into cron's mail.

    Streams, loggers and filters of warnings are afterwards as they were.
    """
    file, c_flush = _open_file(), ctypes.CDLL(None).fflush
    try:
        with ExitStack() as stack:
            c_flush(None)
            for number in (1, 2):  # stdout and stderr, which may be closed
                with suppress(OSError):
                    kept = os.dup(number)
                    stack.callback(os.close, kept)
                    stack.callback(os.dup2, kept, number)
                    os.dup2(file, number)
            stream = _find_stream()
            stack.enter_context(redirect_stdout(stream))
            stack.enter_context(redirect_stderr(stream))
            stack.enter_context(warnings.catch_warnings())
            stack.enter_context(_keep_loggers())
            stack.callback(c_flush, None)
            yield
    finally:
        with open(file, encoding="utf-8", errors="replace", closefd=False) as told:
            told.seek(0)
            lines = told.readlines()
        os.ftruncate(file, 0)
        for line in lines:
            logger.info("an estimator says: %s", line.rstrip())


@cache
def _open_file() -> int:
    """One for the whole process: a handler that was made while we listened keeps its stream.

    In memory where the system has such, as folders for temporary files are full or cannot be
    written.
    """
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("chatter")
    else:
        file, path = tempfile.mkstemp()
        os.unlink(path)
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)  # whoever writes, writes at the end
    return file


@cache
def _open_stream() -> TextIO:
    file = _open_file()
    return open(file, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)


def _find_stream() -> TextIO:
    """The stream that stands for stdout and stderr; another one if somebody has closed it."""
    if _open_stream().closed:
        _open_stream.cache_clear()
    return _open_stream()


@contextmanager
def _keep_loggers() -> Iterator[None]:
    """Leave the loggers that there are with the level and the handlers that they have."""
    manager = logging.root.manager
    others = [known for known in manager.loggerDict.values() if isinstance(known, logging.Logger)]
    kept = [
        (known, known.level, known.handlers[:], known.filters[:], known.propagate, known.disabled)
        for known in (logging.root, *others)
    ]
    least = manager.disable
    try:
        yield
    finally:
        logging.disable(least)
        for known, level, handlers, filters, propagate, disabled in kept:
            known.setLevel(level)
            known.handlers[:], known.filters[:] = handlers, filters
            known.propagate, known.disabled = propagate, disabled
