"""The user's queries: what a file of sql/ says, and the binds that it is asked with."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import NamedTuple

from abatch.errors import DataError

# Texts, also PostgreSQL's with backslashes or between dollars, and quoted names; [ after a word or
# a bracket opens a subscript.
LITERAL = (
    r"""(?<!\w)[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|(?<![\w)\]])\[(?:[^\]]|\]\])*\]"""
    r"""|(?<!\w)\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$"""
)
_NESTED = r"/\*(?:(?!/\*|\*/).)*\*/"  # servers let comments nest, SQLite does not
for _ in range(4):
    _NESTED = rf"/\*(?:(?!/\*|\*/).|{_NESTED})*\*/"
_COMMENT = rf"--[^\n]*|{_NESTED}|/\*.*?\*/"
_PIECE = re.compile(rf"{LITERAL}|(?P<comment>{_COMMENT})", re.DOTALL)
_LITERAL_OR_SPACE = re.compile(rf"{LITERAL}|\s+", re.DOTALL)
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


def _strip(sql: str, keep: Callable[[str], str]) -> str:
    """The query without comments and closing semicolon; of literals what `keep` makes of them."""
    bare = _PIECE.sub(lambda piece: " " if piece["comment"] else keep(piece[0]), sql)
    return bare.strip().removesuffix(";").strip()


def clean_query(sql: str) -> str:
    """The query without comments and closing semicolon, as SQLAlchemy's text() takes it.

    Colons inside literals are escaped, so that only binds are binds. A bind before a PostgreSQL
    cast, :from_date::date, is set apart from it.
    """
    return _CAST_BIND.sub(r":\1 ::", _strip(sql, lambda literal: literal.replace(":", r"\:")))


def normalise_query(sql: str) -> str:
    """The query as far as its meaning goes, to be compared and kept.

    Without comments, and with single spaces outside literals and quoted names.
    """
    bare = _strip(sql, lambda literal: literal)
    return _LITERAL_OR_SPACE.sub(lambda piece: " " if piece[0].isspace() else piece[0], bare)
