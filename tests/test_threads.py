"""What abatch asks of OpenMP, whose threads fit and predict inside scikit-learn."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("given", "policy", "spins"),
    [  # libgomp's manual: no spins for passive, 30 billion for active, 300000 where neither is set
        ({}, "PASSIVE", "500"),
        ({"OMP_WAIT_POLICY": "passive"}, "PASSIVE", "0"),
        ({"OMP_WAIT_POLICY": "active"}, "ACTIVE", "30000000000"),
        ({"GOMP_SPINCOUNT": "20"}, "PASSIVE", "20"),
    ],
)
def test_waiting_threads_soon_sleep_unless_told_otherwise(
    given: dict[str, str], policy: str, spins: str
) -> None:
    """By libgomp's own account, which it gives as it is loaded."""
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        environment.pop(name, None)
    environment |= given
    command = [sys.executable, "-c", "import abatch, sklearn.utils._openmp_helpers"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr
