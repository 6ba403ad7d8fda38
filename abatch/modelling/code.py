"""Code: the files that make a model."""

import importlib
import os
import sys
from pathlib import Path

from abatch import files
from abatch.modelling import libraries
from abatch.modelling.chatter import listen
from abatch.version import ROOT

# What makes a model of rows: a change anywhere else does not change a model.
TRAINING_CODE = [
    "train.py",
    "abatch/database/reading.py",
    "abatch/experiment/assignment.py",
    "abatch/experiment/outcomes.py",
    "abatch/experiment/split.py",
    *(
        f"abatch/modelling/{name}.py"
        for name in ("categories", "estimators", "features", "snapshots", "training")
    ),
]


@listen()
def find_source(path: str) -> Path | None:
    """The user's own file that an estimator's import path leads to; None of an installed package.

    Parameters
    ----------
    path : such as my_models.make_model
    """
    module_name = path.rpartition(".")[0]
    first = module_name.partition(".")[0]
    if first in sys.stdlib_module_names or first in libraries.find_owners():
        return None
    try:
        file = importlib.import_module(module_name).__file__
    except (Exception, SystemExit):
        return None
    return Path(file) if file else None


def hash_code(estimator: str, folder: Path) -> dict[str, str]:
    """SHA-256 of the files that make a model: abatch's own, and the user's that the estimator has.

    Parameters
    ----------
    estimator : its import path
    folder : of the config, from which on the user's file is named
    """
    sources = {name: ROOT / name for name in TRAINING_CODE}
    if source := find_source(estimator):
        sources[os.path.relpath(source, folder)] = source
    return {
        name: files.hash_bytes(path.read_bytes()) for name, path in sources.items() if path.exists()
    }
