"""The split as exact numbers and ids as text: what needs no arrays."""

import math
import re
from collections.abc import Mapping
from datetime import date
from fractions import Fraction
from hashlib import sha256

from abatch.errors import DataError
from abatch.statistics.words import show_value

_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def check_id(text: str) -> str:
    """The text that stands for a candidate: ASCII of at most 64 characters, UUIDs in lower case.

    Raises
    ------
    DataError
        If the text is empty, longer, not printable ASCII, or has outer spaces.
    """
    if text.rstrip(" ") != text and text.strip(" "):
        raise DataError(
            f"candidate_id {text!r}: expected no space at its end, as char(n) has it. Write"
            " rtrim(...) as candidate_id, in all queries alike."
        )
    if not (
        1 <= len(text) <= 64 and text.isascii() and text.isprintable() and text == text.strip(" ")
    ):
        raise DataError(
            f"candidate_id {show_value(text)}: expected 1 to 64 printable ASCII characters"
            " without outer spaces."
        )
    return text.lower() if _UUID.fullmatch(text) else text


def split_thresholds(split: Mapping[str, float]) -> dict[str, int]:
    """Upper ends, excluded, of each variant's part of [0, 2**64), in the order of the config.

    A share counts as the decimal number that is written in the config, so that .1 + .2 is .3.
    """
    thresholds, total = {}, Fraction(0)
    for variant, share in split.items():
        total += Fraction(str(share))
        thresholds[variant] = int(total * 2**64)
    return thresholds


def count_selected(n_candidates: int, select_top: float, salt: str, run_date: date) -> int:
    """floor(select_top * n + u), with the share as the decimal number in the config.

    u, in [0, 1), is bytes 0 to 7 of the SHA-256 of `salt:run_date`, over 2**64: so the share of a
    small variant is on average that of a large one, which no rounding by itself would do.
    """
    drawn = sha256(f"{salt}:{run_date}".encode("ascii")).digest()[:8]
    share = Fraction(str(select_top)) * n_candidates
    return math.floor(share + Fraction(int.from_bytes(drawn, "big"), 2**64))
