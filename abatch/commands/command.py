"""A command: its options, declared beside it, and how it is run."""

import argparse
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from abatch import job, night
from abatch.arguments import (
    CONFIG,
    ENV,
    EXIT_CODES,
    EXPERIMENT,
    Option,
    add_options,
    day,
    switch,
)
from abatch.commands import GROUP_OF, GROUPS, PROG
from abatch.config import Experiments, load_experiments
from abatch.text import Reply, say, to_json

Chosen = Annotated[Experiments, EXPERIMENT]  # all of them, or the one that is named
Only = Annotated[str | None, EXPERIMENT]  # the name itself
Day = Annotated[date, day("--date", help="the day in question, or from which on (default: today)")]
Function = TypeVar("Function", bound=Callable[..., str | Reply])


class Command(NamedTuple):
    """A function with what `command` was told of it."""

    function: Callable[..., str | Reply]
    check: Callable[..., str]
    in_json: bool

    @property
    def options(self) -> dict[str, Option]:
        """The parameters that are options."""
        hints = self.function.__annotations__.items()
        return {name: hint.__metadata__[0] for name, hint in hints if hasattr(hint, "__metadata__")}


COMMANDS: dict[str, Command] = {}


def command(
    name: str, *, check: Callable[..., str] = lambda **options: "", in_json: bool = False
) -> Callable[[Function], Function]:
    """Make a function a command, whose reply is printed.

    Its parameters are options, by Annotated, but for `engine` and `experiments`: a database that
    holds abatch's tables, and what the config has in it.

    Parameters
    ----------
    check : called with the options by name; what it returns, unless empty, is told as wrong usage
    in_json : whether it answers to programs too, by --json
    """

    def register(function: Function) -> Function:
        COMMANDS[name] = Command(function, check, in_json)
        return function

    return register


def run(name: str, words: Sequence[str]) -> int:
    """Do a command; returns the exit code.

    Parameters
    ----------
    words : what follows its name on the command line
    """
    chosen, about = COMMANDS[name], GROUPS[GROUP_OF[name]][name]
    parser = argparse.ArgumentParser(prog=f"{PROG} {name}", description=about, epilog=EXIT_CODES)
    is_on_database = "engine" in chosen.function.__annotations__
    if is_on_database:
        add_options(parser, env=ENV, config=CONFIG)
    add_options(parser, **chosen.options)
    if chosen.in_json:
        add_options(parser, as_json=switch("--json", "print it for programs"))
    options = vars(parser.parse_args(words))
    as_json = options.pop("as_json", False)
    if fault := chosen.check(**options):
        parser.error(fault)
    call = partial(_call_on_database, chosen.function) if is_on_database else chosen.function
    try:
        answer = call(**options)
        reply = Reply(answer) if isinstance(answer, str) else answer
        say(to_json(reply.content) if as_json else reply.text)
        return reply.code
    except (Exception, KeyboardInterrupt) as error:
        return job.report(error, f"abatch {name}")


def _call_on_database(
    function: Callable[..., str | Reply],
    config: Path,
    env: str | None,
    experiments: str | None = None,
    **options: Any,
) -> str | Reply:
    known = load_experiments(config, env)
    if "on" in options:
        options["on"] = options["on"] or night.today(known.environment)
    with job.open_database(known.environment) as engine:
        return function(experiments=known.choose(experiments), engine=engine, **options)
