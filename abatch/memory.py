"""Memory: what is free goes back to the system, of which C libraries keep some."""

import ctypes
from contextlib import suppress

import pyarrow as pa


def release() -> None:
    """Give back what Arrow and C have left free, before what needs the most."""
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError):  # of another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
