"""Seconds and peak memory of measuring ten million predictions, beside scikit-learn's ROC AUC.

    python -m bench.metrics
    python -m bench.metrics --rows 1000000

Each line comes from a process of its own. Drawing the rows is not timed; memory is what the process
takes beyond its imports.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
from sklearn.metrics import roc_auc_score

from abatch.statistics import metrics

CHUNK_ROWS = 1_000_000
PEER = "roc_auc_score"
N_BUCKETS = {"abatch, all figures": 1, "abatch, with intervals": 64}


def draw_chunks(n_rows: int, n_buckets: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Predictions, outcomes at a rate of about 8 %, and jackknife buckets."""
    for first in range(0, n_rows, CHUNK_ROWS):
        rng, n = np.random.default_rng(first), min(CHUNK_ROWS, n_rows - first)
        prediction = 1 / (1 + np.exp(-rng.normal(-3, 1.2, n)))
        outcome = (rng.random(n) < prediction).astype(np.int64)
        yield prediction, outcome, rng.integers(0, n_buckets, n)


def measure_sklearn(n_rows: int) -> tuple[float, float]:
    """ROC AUC, and the seconds it took: the function wants all rows at once."""
    prediction, outcome = np.empty(n_rows), np.empty(n_rows, dtype=np.int64)
    for number, chunk in enumerate(draw_chunks(n_rows, 1)):
        rows = slice(number * CHUNK_ROWS, (number + 1) * CHUNK_ROWS)
        prediction[rows], outcome[rows], _ = chunk
    started = time.perf_counter()
    return roc_auc_score(outcome, prediction), time.perf_counter() - started


def measure_abatch(n_rows: int, n_buckets: int) -> tuple[float, float]:
    """ROC AUC and its seconds, as score.py does: by chunks into one histogram, then all figures."""
    seconds, total = 0.0, None
    for chunk in draw_chunks(n_rows, n_buckets):
        started = time.perf_counter()
        histogram = metrics.make_histogram(*chunk, n_buckets)
        total = histogram if total is None else total + histogram
        seconds += time.perf_counter() - started
    assert total is not None
    started = time.perf_counter()
    roc_auc = metrics.measure(total)["roc_auc"].value
    return roc_auc, seconds + time.perf_counter() - started


def measure(what: str, n_rows: int) -> None:
    """Print ROC AUC, seconds and MiB of one of the three, run in this process."""
    roc_auc_score([0, 1], [0.0, 1.0])  # imports what it needs
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    roc_auc, seconds = (
        measure_sklearn(n_rows) if what == PEER else measure_abatch(n_rows, N_BUCKETS[what])
    )
    print(roc_auc, seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure(arguments.only, arguments.rows)
        return
    print(f"{arguments.rows} rows, chunks of {CHUNK_ROWS}; ratios are to scikit-learn's")
    print(f"{'':<24}{'ROC AUC':>12}{'seconds':>10}{'ratio':>8}{'MiB':>10}{'ratio':>8}")
    peer: list[float] = []
    for what in (PEER, *N_BUCKETS):
        command = [
            sys.executable,
            "-m",
            "bench.metrics",
            "--rows",
            str(arguments.rows),
            "--only",
            what,
        ]
        roc_auc, *figures = (
            float(word) for word in subprocess.check_output(command, text=True).split()
        )
        peer = peer or figures
        (seconds, time_ratio), (mib, memory_ratio) = (
            (ours, ours / theirs) for ours, theirs in zip(figures, peer, strict=True)
        )
        print(
            f"{what:<24}{roc_auc:>12.8f}{seconds:>10.2f}{time_ratio:>8.2f}{mib:>10,.0f}{memory_ratio:>8.2f}"
        )


if __name__ == "__main__":
    main()
