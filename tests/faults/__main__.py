"""What abatch survives: kills, a year with kills, and bad inputs.

python -m tests.faults                        all of it
python -m tests.faults soak --nights 60 --seed 1 --jobs 2
python -m tests.faults inputs --input "file: " --out told.txt
python -m tests.faults kills --every 10       one event in ten
python -m tests.faults kills --database sqlite --command "predict --force" --event 17
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from abatch.text import show_table
from demo import simulate
from tests.conftest import Server, Templates, run_cluster
from tests.faults.inputs import try_inputs
from tests.faults.kills import COMMANDS, Stages, try_kills
from tests.faults.soak import soak

PARTS = ("kills", "soak", "inputs")
N_CANDIDATES = 200  # of a night, which is read in three chunks
KINDS = ("sqlite", "postgresql")
Figures = list[dict[str, object]]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 1 if anything was not as it should be."""
    options = _parse(argv)
    tables = [part(options) for name, part in DO.items() if name in (options.part or PARTS)]
    for figures in tables:
        print(f"\n{show_table(figures)}")
    return int(any(row["different"] for figures in tables for row in figures))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("part", nargs="?", choices=PARTS, help="default: all")
    add("--database", choices=KINDS, help="default: both for kills, SQLite for the others")
    add("--jobs", type=int, default=1, metavar="N", help="banks at a time (default: 1)")
    kills = parser.add_argument_group("kills")
    add = kills.add_argument
    add("--command", choices=[command.name for command in COMMANDS], help="one of them")
    add("--event", type=int, metavar="N", help="one of its events")
    add("--every", type=int, default=1, metavar="N", help="each so manieth event (default: 1)")
    soak = parser.add_argument_group("soak")
    add = soak.add_argument
    add("--nights", type=int, default=365, metavar="N", help="default: 365")
    add("--seed", type=int, default=0, metavar="N", help="of the kills (default: 0)")
    inputs = parser.add_argument_group("inputs")
    add = inputs.add_argument
    add("--input", default="", metavar="WORDS", help="those whose name has these words")
    add("--out", type=argparse.FileType("w"), metavar="FILE", help="for what each was told")
    return parser.parse_args(argv)


@contextmanager
def _open_stages(kind: str) -> Iterator[Stages]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="abatch-faults-")))
        servers = {}
        if kind == "postgresql":
            try:
                servers[kind] = Server(stack.enter_context(run_cluster()).url)
            except pytest.skip.Exception as reason:
                sys.exit(f"{reason}. Without it: --database sqlite")
            stack.callback(servers[kind].engine.dispose)
        simulate.N_CANDIDATES = N_CANDIDATES
        yield Stages(Templates(servers.__getitem__, folder / "templates"), kind, folder)


def _kill(options: argparse.Namespace) -> Figures:
    figures: Figures = []
    for kind in [options.database] if options.database else KINDS:
        with _open_stages(kind) as stages:
            for command in COMMANDS:
                if options.command in (None, command.name):
                    how = {"every": options.every, "n_jobs": options.jobs}
                    figures.append(try_kills(stages, command, nth=options.event, **how))
                    _tell(figures[-1])
    return figures


def _soak(options: argparse.Namespace) -> Figures:
    with _open_stages(options.database or "sqlite") as stages:
        return [soak(stages, options.nights, options.seed, options.jobs)]


def _give(options: argparse.Namespace) -> Figures:
    with _open_stages("sqlite") as stages:
        return try_inputs(stages, options.out, options.input, options.jobs)


def _tell(figures: dict[str, object]) -> None:
    print(", ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


DO = {"kills": _kill, "soak": _soak, "inputs": _give}

if __name__ == "__main__":
    sys.exit(main())
