"""CPU seconds and memory of train.py beside those inside the estimators' fit, and a plain script.

    python -m bench.train
    python -m bench.train --rows 500000 --turns 3

A table of so many rows a year x 20 columns on SQLite, logistic regression and boosting of
histograms. Trained twice: first, and a week later, when a live model exists, with which the gate
compares by fitting it again. The plain script reads by pandas.read_sql, fits the two models once,
measures them and keeps them by joblib. CPU is that of the whole process, start and imports
included, and of all that it starts; ratio is CPU divided by CPU inside Pipeline.fit in the same
run; MiB is the largest PSS of all its processes together. Medians.
"""

import argparse
import os
import runpy
import sqlite3
import statistics
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from bench.processes import ROOT, measure

FIRST = date(2026, 11, 26)
SECOND = FIRST + timedelta(days=7)
N_DAYS, LAG_DAYS = 365, 15  # of the window, and from its end to the day of the training
COLUMNS = [f"{kind}{i}" for kind, n in (("n", 10), ("i", 4), ("c", 6)) for i in range(n)]
QUERY = (
    f"select customer_id as candidate_id, event_date, outcome, {', '.join(COLUMNS)} from training"
    " where event_date >= :from_date and event_date < :to_date"
)
CONFIG = """
environments:
  dev: {database: "sqlite:///dev.db"}
experiments:
  bench:
    hypothesis: None.
    outcome: {kind: binary, window_days: 14, lag_days: 1, expected_effect: 0.01, baseline: 0.3}
    queries:
      {training: training.sql, candidates: candidates.sql, outcomes: outcomes.sql,
       watermark: watermark.sql}
    training: {days: 365}
    split: {A: 0.45, B: 0.45, control: 0.10}
    select_top: 0.20
    models:
      A:
        name: modelA
        version: "1.0"
        estimator: sklearn.linear_model.LogisticRegression
        params: {max_iter: 200}
      B:
        name: modelB
        version: "1.0"
        estimator: sklearn.ensemble.HistGradientBoostingClassifier
"""


def make_workload(folder: Path, n_rows: int) -> None:
    """A database of n_rows a year for both trainings, the queries and the config."""
    import numpy as np
    import pandas as pd

    n_days = N_DAYS + (SECOND - FIRST).days
    n, rng = n_rows * n_days // N_DAYS, np.random.default_rng(0)
    frame = pd.DataFrame({"customer_id": np.arange(1, n + 1)})
    first = FIRST - timedelta(days=LAG_DAYS + N_DAYS)
    days = np.datetime64(first) + np.arange(n) * n_days // n
    frame["event_date"], frame["outcome"] = np.datetime_as_string(days), 0
    for name in COLUMNS:
        if name.startswith("n"):
            frame[name] = rng.normal(size=n).round(4)
        elif name.startswith("i"):
            frame[name] = rng.integers(0, 1000, n)
        else:
            texts = [f"cat_{k}" for k in range(5 + 3 * int(name[1:]))]
            frame[name] = np.array(texts)[rng.integers(0, len(texts), n)]
    signal = frame["n0"] + frame["n1"] * frame["i0"] / 1000 + (frame["c0"] == "cat_1")
    frame["outcome"] = (signal + rng.normal(size=n) * 2 > 1.5).astype(int)
    with sqlite3.connect(folder / "dev.db") as connection:
        connection.execute("pragma journal_mode = wal")
        frame.to_sql("training", connection, index=False, chunksize=100_000)
    connection.close()
    nothing = "select customer_id as candidate_id from training where 1 = 0"
    queries = {
        "training": QUERY,
        "candidates": nothing,
        "outcomes": nothing,
        "watermark": "select :from_date as watermark",
    }
    for name, text in queries.items():
        (folder / f"{name}.sql").write_text(f"{text}\n")
    config = folder / "ml_config.yaml"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "abatch", "init", "--config", str(config)]
    measure(command)


def train_abatch(folder: Path, day: str) -> None:
    """As cron does."""
    sys.argv = ["train.py", "--config", str(folder / "ml_config.yaml"), "--date", day]
    sys.argv += ["--future", "--force"]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def train_plain(folder: Path, day: str) -> None:
    """As people write it: one file, nothing kept but the models."""
    import joblib
    import pandas as pd
    import sqlalchemy as sa
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    end = date.fromisoformat(day) - timedelta(days=LAG_DAYS)
    engine = sa.create_engine(f"sqlite:///{folder / 'dev.db'}")
    window = {"from_date": str(end - timedelta(days=N_DAYS)), "to_date": str(end)}
    frame = pd.read_sql(sa.text(QUERY), engine, params=window)
    days = frame["event_date"]
    newest = (days >= days.sort_values().iloc[int(0.8 * len(days))]).to_numpy()
    y, X = frame["outcome"], frame[COLUMNS]
    texts = make_column_selector(dtype_exclude="number")
    models = {
        "A": make_pipeline(
            make_column_transformer((OneHotEncoder(), texts), remainder=StandardScaler()),
            LogisticRegression(max_iter=200),
        ),
        "B": make_pipeline(
            make_column_transformer((OrdinalEncoder(), texts), remainder="passthrough"),
            HistGradientBoostingClassifier(categorical_features=[*range(6)], early_stopping=False),
        ),
    }
    for name, model in models.items():
        model.fit(X[~newest], y[~newest])
        print(roc_auc_score(y[newest], model.predict_proba(X[newest])[:, 1]), file=sys.stderr)
        joblib.dump(model, folder / f"plain{name}.pkl")


def play(what: str, folder: Path, day: str) -> None:
    """Train in this process, and print the CPU seconds inside fit and how many fits there were."""
    import abatch  # noqa: F401  sets what OpenMP's threads do, for the plain script too

    if what == "start":
        import sklearn.ensemble
        import sklearn.linear_model  # noqa: F401

        return
    from sklearn.pipeline import Pipeline

    fit, seconds = Pipeline.fit, []

    def timed(self: Pipeline, *args: Any, **kwargs: Any) -> Pipeline:
        began = time.process_time()
        try:
            return fit(self, *args, **kwargs)
        finally:
            seconds.append(time.process_time() - began)

    Pipeline.fit = timed
    try:
        {"abatch": train_abatch, "plain": train_plain}[what](folder, day)
    except SystemExit as ended:
        if ended.code:
            raise
    print(sum(seconds), len(seconds))


def measure_training(what: str, folder: Path, day: date) -> tuple[float, float, float, float]:
    """CPU seconds, those inside fit, wall seconds and MiB of a process."""
    command = [sys.executable, "-m", "bench.train", "--only", what, str(folder), str(day)]
    cost, told = measure(command)
    return cost.cpu, float(told.split()[0]) if told else 0.0, cost.wall, cost.memory


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000, help="a year (default: 100000)")
    parser.add_argument("--turns", type=int, default=1, help="medians of so many (default: 1)")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        what, folder, day = arguments.only
        play(what, Path(folder), day)
        return
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    for _ in range(arguments.turns):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_workload(folder, arguments.rows)
            for what, title, day in (
                ("start", "imports alone", FIRST),
                ("plain", "plain script", FIRST),
                ("abatch", "abatch, first", FIRST),
                ("abatch", "abatch, a week later", SECOND),
            ):
                lines.setdefault(title, []).append(measure_training(what, folder, day))
    print(f"{arguments.rows:,} rows x {len(COLUMNS)} columns, {os.cpu_count()} cores")
    print(f"{'':<22}{'CPU s':>8}{'in fit':>8}{'ratio':>7}{'wall s':>8}{'MiB':>6}")
    for title, turns in lines.items():
        cpu, inside, wall, megabytes = map(statistics.median, zip(*turns, strict=True))
        of_fit = [turn[0] / turn[1] for turn in turns if turn[1]]
        ratio = f"{statistics.median(of_fit):.2f}" if of_fit else ""
        print(f"{title:<22}{cpu:>8.2f}{inside:>8.2f}{ratio:>7}{wall:>8.1f}{megabytes:>6.0f}")


if __name__ == "__main__":
    main()
