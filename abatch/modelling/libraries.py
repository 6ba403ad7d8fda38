"""Libraries: what is installed, and whether a model of other versions may be opened."""

import importlib.metadata
import platform
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from abatch.errors import RegistryError

BASE = ("scikit-learn", "pandas", "pyarrow")  # and all that these require
# Who promises to read what an older version of itself has pickled, within a major version: Python
# (library reference, pickle), NumPy (arrays), pandas (read_pickle), joblib. SciPy changes nothing
# in bug-fix releases. scikit-learn calls any other version than the one that pickled "entirely
# unsupported and inadvisable" (user guide, model persistence); others promise nothing.
_READS_OLDER = {
    "python",
    "numpy",
    "pandas",
    "joblib",
    "pyarrow",
    "python-dateutil",
    "tzdata",
    "six",
}
_READS_OTHERS = {"threadpoolctl", "narwhals", "cloudpickle"}  # of which nothing is in a pickle
# Version then, and now, of each library that is not the same; None if it is not there.
Differences = dict[str, tuple[str, str | None]]
_NUMBERS = re.compile(r"\d+")


@cache
def list_installed() -> dict[str, str]:
    """Name and version of every installed package, sorted.

    Of two with one name that which Python finds first.
    """
    versions: dict[str, str] = {}
    for package in importlib.metadata.distributions():
        metadata = package.metadata  # which is read from its file each time
        if metadata and metadata["Name"]:
            versions.setdefault(_normalise(metadata["Name"]), metadata["Version"])
    return dict(sorted(versions.items()))


def find_libraries(parts: Iterable[Any] = ()) -> dict[str, str]:
    """Versions of what predictions depend on.

    These are Python, scikit-learn, pandas, what they require, and the packages of `parts`.

    Parameters
    ----------
    parts : objects of the user's pipeline; a module that belongs to no package is code, and no
        library, and so is abatch itself
    """
    owners = find_owners()
    modules = {type(part).__module__.partition(".")[0] for part in parts} - {"abatch"}
    waiting = [*BASE, *(_normalise(name) for module in modules for name in owners.get(module, ()))]
    installed, versions = list_installed(), {}
    while waiting:
        name = waiting.pop()
        if name in installed and name not in versions:
            versions[name] = installed[name]
            waiting += [
                _normalise(line)
                for line in importlib.metadata.requires(name) or ()
                if "extra ==" not in line
            ]
    return {"python": platform.python_version(), **dict(sorted(versions.items()))}


# The packages that each module which can be imported, but for Python's own, belongs to.
find_owners = cache(importlib.metadata.packages_distributions)


def find_differences(trained: Mapping[str, str]) -> Differences:
    """Libraries that a model was made with, and that are here in another version, or not at all."""
    pairs = ((name, then, find_version(name)) for name, then in trained.items())
    return {name: (then, now) for name, then, now in pairs if then != now}


def find_version(name: str) -> str | None:
    """The version that is here, None if there is none; quicker than to list all packages."""
    if name == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check(trained: Mapping[str, str], file: str) -> str:
    """Whether a model that was trained with these libraries may be opened here.

    Called before unpickling.

    Parameters
    ----------
    file : of the model, for messages

    Returns
    -------
    str
        A warning if some versions differ and the libraries promise that it works; else empty.

    Raises
    ------
    RegistryError
        If a library does not promise it.
    """
    differences = find_differences(trained)
    unsafe = {name: pair for name, pair in differences.items() if not _is_promised(name, *pair)}
    if unsafe:
        mend = tell_mend(unsafe)
        raise RegistryError(
            f"{file}: was trained with {describe(unsafe)}, which does not promise that the file"
            f" can be opened. It is not opened. {mend}, train anew (python train.py --force), or"
            " roll back to a model of today's versions."
        )
    if differences:
        return (
            f"{file}: was trained with {describe(differences)}; the libraries promise that it works"
        )
    return ""


def tell_mend(differences: Differences) -> str:
    """How to bring back the versions of then."""
    pins = [f"{name}=={then}" for name, (then, _) in differences.items() if name != "python"]
    if pins:
        return f"Install what it was trained with (pip install {' '.join(pins)})"
    return "Run it with that Python"


def describe(differences: Differences) -> str:
    """scikit-learn 1.9.0 (here 1.8.0), numpy ..."""
    return ", ".join(
        f"{name} {then} (here {now or 'not installed'})"
        for name, (then, now) in differences.items()
    )


def _is_promised(name: str, then: str, now: str | None) -> bool:
    if name in _READS_OTHERS:
        return True
    if now is None:
        return False
    old, new = ([*map(int, _NUMBERS.findall(version)[:3])] for version in (then, now))
    if name == "scipy":
        return old[:2] == new[:2]
    return name in _READS_OLDER and old[0] == new[0] and old <= new


def _normalise(requirement: str) -> str:
    """The name of a package as the index has it: scikit-learn of 'scikit_learn>=1.9'."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()
