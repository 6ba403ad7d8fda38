"""abatch: nightly batch machine learning on tables in SQL. See README.md."""

import gc
import os

# Before scikit-learn loads OpenMP, which reads them once: a thread that waits spins a moment, then
# leaves its core to others. Sleep at once is slow on idle cores (python -m bench.threads).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "500")

# Imports and rows make many objects and hardly a cycle: to look for one each 700 objects, as Python
# does by itself, takes a twentieth of a night of a million candidates (python -m bench.predict).
gc.set_threshold(50_000)

__version__ = "0.1.0"
