"""Text that is printed: facts and tables for people, JSON for programs."""

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from abatch.files import cannot_write

N_SPANS = 7  # are shown


class Reply(NamedTuple):
    """What is told to people, what to programs, as `to_json` takes it, and an exit code."""

    text: str
    content: Any = None
    code: int = 0

    @classmethod
    def join(cls, replies: Sequence["Reply"]) -> "Reply":
        """One of several: their texts with an empty line between, their contents as a list."""
        text = "\n\n".join(reply.text for reply in replies)
        return cls(text, [reply.content for reply in replies])


def to_json(content: object) -> str:
    """JSON for programs: days and instants, which are in UTC, as ISO text; rows and dataclasses."""
    return json.dumps(content, indent=2, ensure_ascii=False, default=_simplify)


def _simplify(value: Any) -> Any:
    if isinstance(value, date):
        return f"{value.isoformat()}Z" if isinstance(value, datetime) else value.isoformat()
    return value._asdict() if hasattr(value, "_asdict") else vars(value)


def show_table(rows: Iterable[Mapping[str, object]]) -> str:
    """Rows of the same columns, at least one, under their names."""
    first, *others = rows
    names = [f" {name}" if isinstance(value, int) else name for name, value in first.items()]
    lines = [names, *([str(row[name]) for name in first] for row in (first, *others))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        " ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in lines
    )


def cut_list(things: Sequence[str], n_shown: int, rest: str = "more") -> list[str]:
    """The first things, and how many others there are: and 3 more."""
    n_rest = len(things) - n_shown
    return [*things[:n_shown], *([f"and {n_rest} {rest}"] if n_rest > 0 else [])]


def list_days(days: Sequence[date], n_shown: int | None = N_SPANS) -> str:
    """Days in order, three or more on end by the first and last; the first of these, or all."""
    spans: list[list[date]] = []
    for day in days:
        if spans and (day - spans[-1][-1]).days == 1:
            spans[-1].append(day)
        else:
            spans.append([day])
    words = [
        f"{span[0]} to {span[-1]}" if len(span) > 2 else ", ".join(map(str, span)) for span in spans
    ]
    return ", ".join(cut_list(words, n_shown or len(words)))


def wrap_facts(facts: Iterable[tuple[str, str]], title: str = "") -> str:
    """Facts, each a word and a text, as lines for a terminal of 80 columns."""
    wrapper = textwrap.TextWrapper(79, subsequent_indent=" " * 13, break_on_hyphens=False)
    lines = wrapper.wrap(title)
    for word, text in facts:
        wrapper.initial_indent = f"  {word:<10} "
        lines += wrapper.wrap(text)
    return "\n".join(lines)


def is_terminal() -> bool:
    """Whether somebody reads along; the output may be closed, too."""
    return sys.stdout is not None and sys.stdout.isatty()


def say(text: str) -> None:
    """Print for whoever listens: a reader that has gone away, as `head` does, is no fault.

    Raises
    ------
    FileError
        If the output cannot be written, as on a full disk.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    shown = text.encode(encoding, "backslashreplace").decode(encoding)  # what a terminal lacks
    try:
        print(shown, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left of it
        if not isinstance(error, BrokenPipeError):
            then = "look what was done (python -m abatch status) before you run it again"
            raise cannot_write(Path("the output"), error, then) from None
