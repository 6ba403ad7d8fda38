"""Sums by key: what has an operator + has one as the values of a dict, too."""

from collections.abc import Mapping
from operator import add, sub
from typing import TypeVar

K = TypeVar("K")
L = TypeVar("L")
V = TypeVar("V")


def add_by_key(a: Mapping[K, V], b: Mapping[K, V]) -> dict[K, V]:
    """What a and b hold together; a key that only one of them has keeps its value."""
    return {**a, **b, **{key: add(a[key], b[key]) for key in a if key in b}}


def add_by_keys(a: Mapping[K, Mapping[L, V]], b: Mapping[K, Mapping[L, V]]) -> dict[K, dict[L, V]]:
    """The same one level deeper, for dicts of dicts."""
    return {key: add_by_key(a.get(key, {}), b.get(key, {})) for key in {**a, **b}}


def subtract_by_key(a: Mapping[K, V], b: Mapping[K, V]) -> dict[K, V]:
    """What a holds without b, whose keys are all among those of a."""
    return {**a, **{key: sub(a[key], b[key]) for key in b}}
