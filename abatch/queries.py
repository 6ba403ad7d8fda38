"""The user's queries: what a file of sql/ says, and the binds that it is asked with."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import NamedTuple

from abatch.errors import DataError

LITERAL = r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\[[^\]]*\]"""  # or a quoted name
# In these and in comments a colon or a dash means nothing.
_QUOTED = re.compile(rf"{LITERAL}|--[^\n]*|/\*.*?\*/", re.DOTALL)
_CAST_BIND = re.compile(r"(?<![:\w\\]):(\w+)::")


class Window(NamedTuple):
    """The days that a query is asked for; the upper end is excluded."""

    from_date: date
    to_date: date

    def __str__(self) -> str:
        return f"[{self.from_date}, {self.to_date})"

    @property
    def n_days(self) -> int:
        """How many."""
        return (self.to_date - self.from_date).days


class Query(NamedTuple):
    """A query of the user's: its file, as the config names it, and its text."""

    file: str
    text: str

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let a DataError that passes through begin with the query's file."""
        try:
            yield
        except DataError as error:
            raise DataError(f"{self.file}: {error}") from error.__cause__


def clean_query(sql: str) -> str:
    """The query without comments and closing semicolon.

    Colons inside literals are escaped, so that only binds are binds. A bind before a PostgreSQL
    cast, :from_date::date, is set apart from it.
    """

    def keep(match: re.Match[str]) -> str:
        piece = match.group()
        return " " if piece.startswith(("--", "/*")) else piece.replace(":", r"\:")

    return _CAST_BIND.sub(r":\1 ::", _QUOTED.sub(keep, sql)).strip().removesuffix(";").strip()
