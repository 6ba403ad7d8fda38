"""Words: a value of somebody's data among them."""

from decimal import Decimal

import pytest

from abatch.statistics import words


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("it's", '"it\'s"'),
        (7.5, "7.5"),
        (None, "None"),
        (Decimal("7.00"), "Decimal('7.00')"),
        ("a" * 50 + "b" * 50, f"'{'a' * 37}...{'b' * 38}'"),  # 80 characters with the quotes
        (b"x" * 200_000, f"b'{'x' * 36}...{'x' * 38}'"),
    ],
)
def test_show_value(value: object, expected: str) -> None:
    assert words.show_value(value) == expected
