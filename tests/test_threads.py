"""What abatch asks of OpenMP, whose threads fit and predict inside scikit-learn."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("policy", "spins"),
    [(None, "0"), ("active", "30000000000")],  # by libgomp's manual, for no policy 300000
)
def test_waiting_threads_sleep_unless_told_otherwise(policy: str | None, spins: str) -> None:
    """By libgomp's own account, which it gives as it is loaded."""
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    environment.pop("OMP_WAIT_POLICY")
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, "-c", "import abatch, sklearn.utils._openmp_helpers"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr
