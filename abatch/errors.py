"""What can go wrong, and who mends it. Every message says what is wrong, where, and the mend."""

import difflib
from collections.abc import Iterable


class AbatchError(Exception):
    """A fault that the operator can mend: one clear message, no traceback, exit code 1."""


class ConfigError(AbatchError):
    """ml_config.yaml, or a file that it names, is not usable."""


class DataError(AbatchError):
    """A query returned something that must not be used."""


class DatabaseError(AbatchError):
    """The database could not be reached, or refused a statement."""


class FileError(AbatchError):
    """A file or a folder cannot be read or written."""


class RegistryError(AbatchError):
    """A model file, or the record of it, is not usable."""


class UsageError(AbatchError):
    """The command line asks for something that does not exist: exit code 2."""


class ReadAgain(DatabaseError):
    """A query must be read again from its first row, by a driver that looks at every value."""


class NothingToDo(Exception):
    """Not a fault: the work is done already, or somebody else is doing it. Exit code 0."""


def suggest(word: str, known: Iterable[object]) -> str:
    """Return " Did you mean 'x'?" for the known word nearest to `word`, or an empty text."""
    near = difflib.get_close_matches(str(word), [str(name) for name in known], n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
