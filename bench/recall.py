"""CPU, wall and peak memory of recall and reproduce, beside the same by pandas and scikit-learn.

    python -m bench.recall
    python -m bench.recall --rows 500000 --columns 50

Training rows on SQLite, a model of boosted trees. The peer of recall reads by pandas.read_sql and
writes the same Parquet file, or reads twice and compares; that of reproduce reads the snapshot by
pandas.read_parquet, fits the same pipeline on as many rows and predicts all rows by both models.
What only abatch does (sorting, the hash of the content, asking the database again) has no peer.
Medians of three turns, each in a process of its own, start and imports included; CPU and memory
(PSS) are of it and what it starts.
"""

import argparse
import os
import sqlite3
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from bench.processes import ROOT, measure, take_median

N_TURNS = 3
FROM, TO, NIGHT = "2025-11-11", "2026-11-11", "2026-11-26"
CONFIG = """
environments:
  dev: {database: "sqlite:///dev.db"}
experiments:
  bench:
    hypothesis: None.
    outcome: {kind: binary, window_days: 14, lag_days: 1, expected_effect: 0.01, baseline: 0.3}
    queries:
      {training: training.sql, candidates: training.sql, outcomes: outcomes.sql,
       watermark: watermark.sql}
    training: {days: 365}
    split: {A: 0.90, control: 0.10}
    select_top: 0.20
    models:
      A:
        name: model
        version: "1.0"
        estimator: sklearn.ensemble.HistGradientBoostingClassifier
"""
WINDOW = "where event_date >= :from_date and event_date < :to_date"
RECALL = f"""
import pandas as pd, sqlalchemy as sa
query = open("training.sql").read()
binds = {{"from_date": "{FROM}", "to_date": "{TO}"}}
with sa.create_engine("sqlite:///dev.db").connect() as connection:
    frame = pd.read_sql(sa.text(query), connection, params=binds)
frame.to_parquet("peer.parquet", compression="zstd", index=False)
"""
DIFF = f"""
import pandas as pd, sqlalchemy as sa
query, binds = open("training.sql").read(), {{"from_date": "{FROM}", "to_date": "{TO}"}}
with sa.create_engine("sqlite:///dev.db").connect() as connection:
    frames = [pd.read_sql(sa.text(query), connection, params=binds) for _ in range(2)]
before, after = (frame.set_index(["candidate_id", "event_date"]) for frame in frames)
print(len(before.compare(after)))
"""
REPRODUCE = f"""
import glob, joblib
import numpy as np, pandas as pd
from sklearn.base import clone
pipeline = joblib.load(glob.glob("models/dev/model_*{NIGHT}.pkl")[0])
frame = pd.read_parquet(glob.glob("snapshots/dev/*.parquet")[0])
X, y = frame[list(pipeline.feature_names_in_)], frame["outcome"].to_numpy(dtype=int)
X = X.astype({{name: object for name in X if not pd.api.types.is_numeric_dtype(X[name])}})
n = len(y) * 58 // 64  # the share that abatch fits on
built = clone(pipeline).fit(X[:n], y[:n])
print(np.abs(built.predict_proba(X) - pipeline.predict_proba(X)).max())
"""


def make_workload(folder: Path, n_rows: int, n_columns: int) -> None:
    """A database, its queries and the config; half of the columns fractions, the rest by halves."""
    rng, days = np.random.default_rng(0), np.datetime64(FROM) + np.arange(n_rows) * 350 // n_rows
    frame = pd.DataFrame({"candidate_id": np.arange(1, n_rows + 1)})
    frame["event_date"] = np.datetime_as_string(days)
    numbers: dict[str, np.ndarray] = {
        f"n{i}": rng.normal(size=n_rows).round(4) for i in range(n_columns // 2)
    }
    frame["outcome"] = (numbers["n0"] + rng.normal(size=n_rows) > 1).astype(int)
    for i in range(n_columns - len(numbers)):
        values = rng.integers(0, 5 + 3 * i, n_rows)
        numbers[f"v{i}"] = (
            np.array([f"text {k}" for k in range(5 + 3 * i)])[values] if i % 2 else values
        )
    frame = pd.concat([frame, pd.DataFrame(numbers)], axis=1)
    with sqlite3.connect(folder / "dev.db") as connection:
        connection.execute("pragma journal_mode = wal")
        frame.to_sql("training", connection, index=False, chunksize=100_000)
    connection.close()
    (folder / "training.sql").write_text(f"select * from training {WINDOW}")
    (folder / "outcomes.sql").write_text(
        f"select candidate_id, event_date, outcome from training {WINDOW}"
    )
    (folder / "watermark.sql").write_text(f"select '{NIGHT}' as watermark")
    (folder / "ml_config.yaml").write_text(CONFIG)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000, help="default: 50000")
    parser.add_argument("--columns", type=int, default=20, help="features (default: 20)")
    arguments = parser.parse_args()
    python, abatch = [sys.executable, "-c"], [sys.executable, "-m", "abatch"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_workload(folder, arguments.rows, arguments.columns)
        where = ["--config", str(folder / "ml_config.yaml")]
        measure([*abatch, "init", *where], folder)
        measure([sys.executable, str(ROOT / "train.py"), *where, "--date", NIGHT], folder)
        model = next((folder / "models" / "dev").glob(f"*{NIGHT}.pkl")).stem
        window = ["--from", FROM, "--to", TO, "--as-of", NIGHT]
        recall = [*abatch, "recall", "bench", *where, *window, "--out", "own.parquet"]
        compare = [*abatch, "recall", "bench", *where, *window, "--diff", NIGHT]
        print(f"{arguments.rows:,} rows, {arguments.columns} features, {os.cpu_count()} cores")
        print(f"{'':<14}{'CPU s':>8}{'wall s':>8}{'MiB':>7}{'CPU':>7}{'wall':>6}")
        for label, command, peer in (
            ("recall --out", recall, RECALL),
            ("recall --diff", compare, DIFF),
            ("reproduce", [*abatch, "reproduce", model, *where], REPRODUCE),
        ):
            ours, theirs = (
                take_median(measure(words, folder)[0] for _ in range(N_TURNS))
                for words in (command, [*python, peer])
            )
            print(f"{label:<14}{ours.cpu:>8.2f}{ours.wall:>8.2f}{ours.memory:>7.0f}", end="")
            print(f"{ours.cpu / theirs.cpu:>7.2f}{ours.wall / theirs.wall:>6.2f}")
            print(f"{'  pandas':<14}{theirs.cpu:>8.2f}{theirs.wall:>8.2f}{theirs.memory:>7.0f}")


if __name__ == "__main__":
    main()
