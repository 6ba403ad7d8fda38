"""Two trainings at once beside one alone: seconds and CPU seconds of each.

With the wait policy that abatch sets for OpenMP's threads, and with OpenMP's own.

    python -m bench.threads
    python -m bench.threads --fits 40

Each training is a process of its own that boosts trees with a thread per core. Imports are not
timed; two trainings begin together.
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

N_ROWS, N_FEATURES = 6_000, 9
POLICIES = {"OpenMP's own": None, "passive (abatch)": "passive"}


def measure(n_fits: int) -> None:
    """Wait for a line, then print seconds and CPU seconds of some fits in this process."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(N_ROWS, N_FEATURES)), rng.integers(0, 2, N_ROWS)
    HistGradientBoostingClassifier(max_iter=1).fit(X, y)
    print("ready", flush=True)
    sys.stdin.readline()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(n_fits):
        HistGradientBoostingClassifier(max_iter=60).fit(X, y).predict_proba(X)
    print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


def train_at_once(n_trainings: int, policy: str | None, n_fits: int) -> tuple[float, float]:
    """Mean seconds and CPU seconds of a training that has so many, itself among them, at once."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, "-m", "bench.threads", "--fits", str(n_fits), "--only"]
    trainings = [
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(n_trainings)
    ]
    for training in trainings:
        assert training.stdout is not None
        assert training.stdout.readline() == "ready\n"
    for training in trainings:
        assert training.stdin is not None
        training.stdin.write("\n")
        training.stdin.flush()
    outputs = [training.communicate()[0] for training in trainings]
    walls, cpus = zip(*([float(word) for word in text.split()] for text in outputs), strict=True)
    return float(np.mean(walls)), float(np.mean(cpus))


def main() -> None:
    """Print a line for each policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fits", type=int, default=20, help="of a training (default: 20)")
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure(arguments.fits)
        return
    print(
        f"{arguments.fits} fits of {N_ROWS} rows, {os.cpu_count()} cores; ratios are to one alone"
    )
    print(f"{'wait policy':<18}{'alone s':>10}{'two s':>8}{'ratio':>8}", end="")
    print(f"{'CPU s':>10}{'two CPU s':>11}{'ratio':>8}")
    for name, policy in POLICIES.items():
        alone, alone_cpu = train_at_once(1, policy, arguments.fits)
        two, two_cpu = train_at_once(2, policy, arguments.fits)
        print(f"{name:<18}{alone:>10.2f}{two:>8.2f}{two / alone:>8.2f}", end="")
        print(f"{alone_cpu:>10.2f}{two_cpu:>11.2f}{two_cpu / alone_cpu:>8.2f}")


if __name__ == "__main__":
    main()
