"""Flit's build backend, with the commit of what is built in the package: see abatch/version.py.

Flit writes no file, and what does (setuptools-scm, hatch-vcs) takes the version from tags and needs
packages that an offline build may not have.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flit_core import buildapi
from flit_core.buildapi import (  # what a frontend may ask of a backend besides
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]
BUILT = ("abatch", "backend", "pyproject.toml", "README.md", "LICENSE")


def build_wheel(wheel_directory: str, *arguments: Any) -> str:
    """Build a wheel, as PEP 517 has it."""
    folder = os.path.abspath(wheel_directory)
    with _write_commit():
        return buildapi.build_wheel(folder, *arguments)


def build_sdist(sdist_directory: str, *arguments: Any) -> str:
    """Build an sdist, as PEP 517 has it."""
    folder = os.path.abspath(sdist_directory)
    with _write_commit():
        return buildapi.build_sdist(folder, *arguments)


@contextmanager
def _write_commit() -> Iterator[None]:
    """Be in a copy of the tree whose commit.txt is written; the tree itself stays as it is."""
    tree = Path.cwd()
    sys.path.insert(0, str(tree))
    from abatch import version

    text = f"{version.find_code().name} {version.hash_package()}\n"
    with TemporaryDirectory() as folder:
        for name in BUILT:
            if (tree / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(tree / name, Path(folder, name), ignore=ignored)
            else:
                shutil.copy2(tree / name, folder)
        Path(folder, "abatch", version.COMMIT.name).write_text(text, encoding="utf-8")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(tree)
