"""Command lines: what the scripts and `python -m abatch` ask in the same words.

Needs argparse alone, so that --help and a wrong option wait for nothing.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

EXIT_CODES = (
    "Exit codes: 0 done or nothing to do, 1 you can mend it, 2 wrong usage,\n3 a fault of abatch."
)


class Option:
    """One argument of a command line, in argparse's words; a positional one has no flags."""

    def __init__(self, *flags: str, **settings: Any) -> None:
        self.flags, self.settings = flags, settings


def switch(flag: str, help: str) -> Option:
    """What is on or off."""
    return Option(flag, action="store_true", help=help)


def day(flag: str, metavar: str = "YYYY-MM-DD", **settings: Any) -> Option:
    """What takes a day."""
    return Option(flag, type=parse_date, metavar=metavar, **settings)


def parse_date(text: str) -> date:
    """A day as YYYY-MM-DD, from 1990 to 2099."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a date as YYYY-MM-DD") from None
    if not 1990 <= day.year < 2100:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a date from 1990 to 2099")
    return day


def parse_moment(text: str) -> date | datetime:
    """A day, or an instant: naive UTC, whatever its own offset was."""
    try:
        if len(text) == 10:
            return parse_date(text)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SS in UTC"
        ) from None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


_BESIDE = Path(__file__).parent.parent / "ml_config.yaml"  # in a checkout
DEFAULT_CONFIG = _BESIDE if _BESIDE.exists() else Path("ml_config.yaml")
ENV = Option(
    "--env", metavar="ENV", help="environment of the config (default: $ABATCH_ENV, else dev)"
)
CONFIG = Option(
    "--config",
    metavar="FILE",
    type=Path,
    default=DEFAULT_CONFIG,
    help="default: ml_config.yaml beside the scripts, else in the current folder",
)
EXPERIMENT = Option("--experiment", metavar="NAME", help="one experiment (default: all)")
RUN_DATE = day("--date", help="run_date (default: today in the config's timezone)")
FORCE = switch(
    "--force", "do a night again that is done; replaced predictions are kept as superseded"
)
FUTURE = switch("--future", "allow a --date after today; after tomorrow it does not count as done")
DRY_RUN = switch("--dry-run", "read and compute, write nothing, print what would be done")


def parse(
    job: str, about: str | None, argv: Sequence[str] | None = None, **switches: str
) -> argparse.Namespace:
    """The command line of a script, which leaves the process if it asks for help or is wrong.

    Parameters
    ----------
    job : name of the script without .py
    about : its docstring
    argv : the words after the script's name; None for those that the process was started with
    switches : the story's own options that are on or off, with their help; they write, so they do
        not go with --dry-run
    """
    parser = argparse.ArgumentParser(
        prog=f"{job}.py",
        description=(about or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXIT_CODES,
    )
    others = {name: switch(f"--{name.replace('_', '-')}", help) for name, help in switches.items()}
    add_options(parser, env=ENV, experiment=EXPERIMENT, config=CONFIG, date=RUN_DATE)
    add_options(parser, force=FORCE, future=FUTURE, dry_run=DRY_RUN, **others)
    options = parser.parse_args(argv)
    if argv is None:
        _guard(job)
    for name, option in others.items():
        if options.dry_run and getattr(options, name):
            parser.error(f"--dry-run writes nothing, so it does not go with {option.flags[0]}")
    return options


def _guard(job: str) -> None:
    """Let Ctrl-C and SIGTERM end the process in one line while it imports, as yet without a job."""

    def end(number: int, frame: object) -> None:
        os.write(2, f"{job}: interrupted before it began. Run it again.\n".encode())
        if util := sys.modules.get("multiprocessing.util"):
            util._run_finalizers()  # of the folder with the socket of workers' server
        os._exit(1)

    handle_interrupts(end)


def handle_interrupts(handle: Callable[[int, Any], object] | signal.Handlers) -> None:
    """Let Ctrl-C and SIGTERM, which end a job alike, be handled in one way."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as of what runs in the background
            signal.signal(number, handle)


def add_options(parser: argparse.ArgumentParser, **options: Option) -> None:
    """Let a command line take some options, by the names under which they are parsed."""
    for name, option in options.items():
        parser.add_argument(*option.flags, dest=name, **option.settings)
