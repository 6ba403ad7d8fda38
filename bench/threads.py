"""Two trainings at once beside one alone: seconds and CPU seconds of each.

With what abatch asks of OpenMP's threads that wait, with OpenMP's default, and with its passive
policy alone.

    python -m bench.threads
    python -m bench.threads --rows 500000 --fits 1

Each training is a process of its own that boosts trees with a thread per core. Imports are not
timed; two trainings begin together. Medians of three turns, as two spinning trainings differ much
from one turn to the next; so the slowest is shown too.
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

N_FEATURES, N_TURNS = 9, 3
SETTINGS = {  # the environment of a training, and what it imports before scikit-learn
    "OpenMP's default": ({}, "sys"),
    "passive": ({"OMP_WAIT_POLICY": "passive"}, "sys"),
    "abatch": ({}, "abatch"),
}


def measure(n_rows: int, n_fits: int) -> None:
    """Wait for a line, then print seconds and CPU seconds of some fits in this process."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n_rows, N_FEATURES)), rng.integers(0, 2, n_rows)
    HistGradientBoostingClassifier(max_iter=1).fit(X, y)
    print("ready", flush=True)
    sys.stdin.readline()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(n_fits):
        model = HistGradientBoostingClassifier(max_iter=60, early_stopping=False)
        model.fit(X, y).predict_proba(X)
    print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


def train_at_once(n_trainings: int, setting: str, n_rows: int, n_fits: int) -> tuple[float, float]:
    """Return mean seconds and CPU seconds of a training that has so many, itself too, at once."""
    added, first = SETTINGS[setting]
    kept = os.environ.keys() - {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    call = f"import {first}; from bench.threads import measure; measure({n_rows}, {n_fits})"
    trainings = [
        subprocess.Popen(
            [sys.executable, "-c", call],
            env={name: os.environ[name] for name in kept} | added,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
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
    parser.add_argument("--rows", type=int, default=6_000, help="of the data (default: 6000)")
    parser.add_argument("--fits", type=int, default=2, help="of a training (default: 2)")
    arguments = parser.parse_args()
    print(f"{arguments.fits} fits of {arguments.rows:,} rows, {os.cpu_count()} cores")
    print(f"{'':<18}{'alone s':>8}{'CPU s':>7}{'two s':>8}{'CPU s':>7}{'slowest':>9}{'ratio':>7}")
    for setting in SETTINGS:
        alone, two = (
            np.array(
                [train_at_once(n, setting, arguments.rows, arguments.fits) for _ in range(N_TURNS)]
            )
            for n in (1, 2)
        )
        (wall, cpu), (two_wall, two_cpu) = np.median(alone, axis=0), np.median(two, axis=0)
        print(f"{setting:<18}{wall:>8.2f}{cpu:>7.2f}{two_wall:>8.2f}{two_cpu:>7.2f}", end="")
        print(f"{two[:, 0].max():>9.2f}{two_wall / wall:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
