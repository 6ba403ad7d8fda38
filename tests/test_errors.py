"""Errors: a fault that the operator can mend is an AbatchError, and a near word is suggested."""

import pytest

from abatch import errors


def test_errors_all_can_be_mended_but_nothing_to_do() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert {kind.__name__ for kind in kinds if not issubclass(kind, errors.AbatchError)} == {
        "NothingToDo"
    }


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("estimatr", ["name", "estimator"], " Did you mean 'estimator'?"),
        ("prd", {"dev": 1, "prod": 2}, " Did you mean 'prod'?"),
        ("qa", ["dev", "prod"], ""),
        ("x", [], ""),
        ("dag", ["dage", "dags", "dag"], " Did you mean 'dag'?"),
    ],
)
def test_suggest(word: str, known: list[str], expected: str) -> None:
    assert errors.suggest(word, known) == expected
