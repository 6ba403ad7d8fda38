"""python -m abatch: all that is not train, predict or score."""

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from importlib import import_module

import abatch
from abatch.arguments import EXIT_CODES
from abatch.commands import GROUP_OF, GROUPS, PROG
from abatch.errors import suggest


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    name = _make_parser().parse_args(words[:1]).command
    import_module(f"abatch.commands.{GROUP_OF[name]}")
    from abatch.commands import command  # SQLAlchemy, for which --help need not wait

    return command.run(name, words[1:])


def _make_parser() -> argparse.ArgumentParser:
    """The parser of the first word; the others are for the command."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} [-h] [--version] COMMAND ...",
        description="\n".join(_list_commands()),
        epilog=f"The options of one: {PROG} COMMAND --help\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"abatch {abatch.__version__}")
    parser.add_argument("command", type=_parse_command, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def _list_commands() -> Iterator[str]:
    for group, commands in GROUPS.items():
        yield f"{group}:"
        for name, about in commands.items():
            head = f"  {name:<11}  "
            yield from textwrap.wrap(
                about, 78, initial_indent=head, subsequent_indent=" " * len(head)
            )


def _parse_command(word: str) -> str:
    if word not in GROUP_OF:
        raise argparse.ArgumentTypeError(
            f"there is no command {word!r}; expected one of {', '.join(GROUP_OF)}."
            f"{suggest(word, GROUP_OF)}"
        )
    return word


if __name__ == "__main__":
    sys.exit(main())
