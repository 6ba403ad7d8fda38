"""Which abatch this is."""

import subprocess
from functools import cache
from pathlib import Path

import abatch

ROOT = Path(abatch.__file__).parent.parent


@cache
def code_version() -> str:
    """The version and, in a checkout, the commit, with -dirty if the tree differs from it."""
    if not (ROOT / "train.py").exists():  # installed, perhaps in a folder of somebody's repository
        return abatch.__version__
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        git = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return abatch.__version__
    commit = f"+{git.stdout.strip()}" if git.returncode == 0 else ""
    return f"{abatch.__version__}{commit}"
