"""A command: its options, declared beside it, and how it is run."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from abatch import job, night
from abatch.arguments import CONFIG, ENV, EXIT_CODES, Option, add_options, option, parse_date
from abatch.config import Experiment, load_experiments
from abatch.database import connections
from abatch.errors import NothingToDo

ONE_EXPERIMENT = option(
    "--experiment", dest="only", metavar="NAME", help="one experiment (default: all)"
)
DATE = option(
    "--date",
    dest="on",
    type=parse_date,
    metavar="YYYY-MM-DD",
    help="the day in question (default: today)",
)
JSON = option("--json", dest="as_json", action="store_true", help="print it for programs to read")
Experiments = dict[str, Experiment]  # of a config, by name
Reply = str | tuple[str, int]  # what is printed, perhaps with an exit code
Function = TypeVar("Function", bound=Callable[..., Reply])


@dataclass(frozen=True)
class Command:
    """A function with what `command` was told of it."""

    function: Callable[..., Reply]
    options: Sequence[Option]
    is_on_database: bool
    check: Callable[..., str]


COMMANDS: dict[str, Command] = {}


def command(
    name: str,
    *options: Option,
    is_on_database: bool = True,
    check: Callable[..., str] = lambda **options: "",
) -> Callable[[Function], Function]:
    """Make a function a command; what it returns is printed.

    Parameters
    ----------
    options : each is a parameter of the function, by name
    is_on_database : whether the function gets, before these, the config's experiments by name and
        an engine of their database, which holds abatch's tables
    check : called with the options by name; what it returns, unless empty, is told as wrong usage
    """

    def register(function: Function) -> Function:
        COMMANDS[name] = Command(function, options, is_on_database, check)
        return function

    return register


def run(name: str, prog: str, about: str, words: Sequence[str]) -> int:
    """Do a command; returns the exit code.

    Parameters
    ----------
    prog, about : how its help calls and describes it
    words : what follows its name on the command line
    """
    chosen = COMMANDS[name]
    parser = argparse.ArgumentParser(prog=prog, description=about, epilog=EXIT_CODES)
    add_options(parser, *(ENV, CONFIG) if chosen.is_on_database else (), *chosen.options)
    options = vars(parser.parse_args(words))
    if fault := chosen.check(**options):
        parser.error(fault)
    try:
        if chosen.is_on_database:
            reply = _call_on_database(chosen.function, **options)
        else:
            reply = chosen.function(**options)
        text, code = reply if isinstance(reply, tuple) else (reply, job.DONE)
        print(text)
        return code
    except NothingToDo as reason:
        print(reason)
        return job.DONE
    except (Exception, KeyboardInterrupt) as error:
        return job.report(error, f"abatch {name}")


def _call_on_database(
    function: Callable[..., Reply], config: Path, env: str | None, **options: Any
) -> Reply:
    experiments = load_experiments(config, env)
    experiment = next(iter(experiments.values()))  # all are in one environment
    if "on" in options:
        options["on"] = options["on"] or night.today(experiment.environment)
    with connect(experiment) as engine:
        connections.check_ready(engine, experiment.environment.name)
        return function(experiments, engine, **options)


@contextmanager
def connect(experiment: Experiment) -> Iterator[sa.Engine]:
    """An engine of the experiment's database, closed at the end."""
    engine = job.connect(experiment.environment)
    try:
        yield engine
    finally:
        engine.dispose()
