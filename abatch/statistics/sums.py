"""Sums by key: what has an operator + has one as the values of a dict, too."""

from collections.abc import Callable, Mapping
from operator import add, sub
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def add_by_key(a: Mapping[K, V], b: Mapping[K, V]) -> dict[K, V]:
    """What a and b hold together; a key that only one of them has keeps its value."""
    return {**a, **b, **_combine(add, a, b)}


def subtract_by_key(a: Mapping[K, V], b: Mapping[K, V]) -> dict[K, V]:
    """What a holds without b, whose keys are all among those of a."""
    return {**a, **_combine(sub, a, b)}


def _combine(operation: Callable[[V, V], V], a: Mapping[K, V], b: Mapping[K, V]) -> dict[K, V]:
    return {key: operation(a[key], b[key]) for key in a if key in b}
