"""Which abatch this is: its version, and what its code is.

A clone is told by git. The package in a wheel, an sdist or an archive carries `commit.txt`: git
writes the commit into it for an archive (export-subst), and backend/commit.py what this module
tells of the tree that is built, with a hash of the package, by which a later change is seen.
"""

import hashlib
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import abatch

PACKAGE = Path(abatch.__file__).parent
ROOT = PACKAGE.parent
COMMIT = PACKAGE / "commit.txt"
# Beside the package, in a tree that has the scripts: what people change there, and git's commit
# stands for.
_SCRIPTS = ("*.py", "*.yaml", "sql/**/*")
_HASH_END = re.compile(r"\.[0-9a-f]{12}$")


class Code(NamedTuple):
    """What the code is.

    Attributes
    ----------
    name : the commit, with -dirty if the code differs from it; `unknown` or the archive's commit
        and the first digits of the code's hash where nobody can tell
    doubt : why nobody can tell; else empty
    """

    name: str
    doubt: str = ""


def code_version() -> str:
    """The version and the commit, as in 0.1.0+05bad64, with -dirty if the code differs from it.

    Where nobody can tell that, a hash of the code stands in its place, or behind the commit that an
    archive names: 0.1.0+unknown.3fc1a2b4c5d6. The same code has the same anywhere.
    """
    return f"{abatch.__version__}+{find_code().name}"


def is_dirty(code_version: str) -> bool:
    """Whether the code differed from its commit."""
    return code_version.endswith("-dirty")


def is_unknown(code_version: str) -> bool:
    """Whether nobody could tell that the code was that of a commit."""
    return _HASH_END.search(code_version) is not None


@cache
def find_code() -> Code:
    """What the code is: by git in a clone, by `commit.txt` where it was installed."""
    name, _, digest = COMMIT.read_text(encoding="utf-8").strip().partition(" ")
    if digest:  # as it was built
        if digest != hash_package():
            return Code(f"{name.removesuffix('-dirty')}-dirty")
        doubt = "the package was built where git did not know it" if is_unknown(name) else ""
        return Code(name, doubt)
    words = _ask_git("ls-files", "--error-unmatch", "abatch/version.py")[1]
    if not words:  # it holds this tree, and is not another's around it
        commit, words = _ask_git("describe", "--always", "--dirty", "--exclude", "*")
        if not words:
            return Code(commit)
    known = "unknown" if name.startswith("$") else name
    return Code(f"{known}.{_hash_tree()[:12]}", f"git says: {words}")


def describe_doubt() -> str:
    """Why nobody can tell whether the code is that of a commit, and the mend; else empty."""
    doubt = find_code().doubt
    return doubt and (
        f"nobody can tell whether the code in {ROOT} is that of a commit ({doubt}). Its hash is"
        f" recorded: {code_version()}. Run the jobs from a clone that git reads as their user: let"
        " that user own it, or trust its owner (git config --global --add safe.directory"
        f" {ROOT}); or install a package that was built from one."
    )


def _ask_git(*arguments: str) -> tuple[str, str]:
    """What git answers of this tree, and, in its own words, why it does not; one is empty."""
    try:
        git = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20
        )
    except FileNotFoundError:
        return "", "git is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if git.returncode == 0:
        return git.stdout.strip(), ""
    return "", git.stderr.strip().partition("\n")[0] or f"exit code {git.returncode}"


def hash_package() -> str:
    """SHA-256 of the package's files, by names and contents, but for what tells the commit."""
    return _hash_files(PACKAGE, ["**/*"])


def _hash_tree() -> str:
    """The same with scripts, queries and configs beside the package, if it has scripts."""
    scripts = _SCRIPTS if (ROOT / "train.py").exists() else ()
    return _hash_files(ROOT, [*scripts, f"{PACKAGE.name}/**/*"])


def _hash_files(folder: Path, patterns: list[str]) -> str:
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    names = {path.relative_to(folder).as_posix(): path for path in paths - {COMMIT}}
    digest = hashlib.sha256()
    for name in sorted(names):
        if "__pycache__" not in name:
            content = names[name].read_bytes()
            digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()
