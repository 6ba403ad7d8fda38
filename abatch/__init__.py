"""abatch: nightly batch machine learning on tables in SQL. See README.md."""

import os

# Before scikit-learn loads OpenMP, which reads it once: threads that wait sleep instead of spinning
# on a core that others need.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
