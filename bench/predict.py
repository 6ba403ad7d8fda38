"""A night of predict.py beside the plain script: CPU, wall and peak memory of all its processes.

Candidates of 20 features, two models; medians of three turns. On SQLite also beside the floor.
Ratios are to the plain script, or to that in chunks where all rows at once have no room.

    python -m bench.predict
    python -m bench.predict --rows 1000000 --n-jobs 1 2
    python -m bench.predict --url postgresql+psycopg://user:password@127.0.0.1/postgres

CPU and memory are the client's, a server's own are not counted; memory is PSS, what processes
share counted once. A database is made on the server, and dropped again.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from pydantic import SecretStr

from abatch.database import connections, writing
from bench.processes import ROOT, Cost, measure, take_median

MOST_ROWS = 5_000_000  # of the plain script, which takes 2.2 GB for 10^6
NIGHT, TRAINING_ROWS, PART_ROWS = date(2026, 10, 1), 100_000, 100_000
metadata = sa.MetaData()
candidates = sa.Table(
    "candidates",
    metadata,
    sa.Column("candidate_id", sa.BigInteger, primary_key=True, autoincrement=False),
    *(sa.Column(f"n{i}", sa.Double) for i in range(10)),
    *(sa.Column(f"i{i}", sa.Integer) for i in range(4)),
    *(sa.Column(f"c{i}", sa.Unicode(10)) for i in range(6)),
)
answers = sa.Table(
    "answers",
    metadata,
    sa.Column("candidate_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_date", sa.Date, nullable=False),
    sa.Column("outcome", sa.Integer, nullable=False),
)
QUERY = f"select {', '.join(candidates.columns.keys())} from candidates"
JOINED = "select a.event_date, a.outcome, c.* from answers a join candidates c"
WINDOW = "where event_date >= :from_date and event_date < :to_date"
QUERIES = {
    "candidates": f"{QUERY} order by candidate_id",
    "training": f"{JOINED} on c.candidate_id = a.candidate_id {WINDOW}",
    "outcomes": f"select candidate_id, event_date, outcome from answers {WINDOW}",
    "watermark": f"select '{NIGHT}' as watermark",
}
CONFIG = """
environments:
  dev: {{database: "{url}", n_jobs: {n_jobs}}}
experiments:
  bench:
    hypothesis: Two models, and nobody's.
    outcome:
      {{kind: binary, window_days: 14, lag_days: 1, expected_effect: 0.01, baseline: 0.3}}
    queries: {{{queries}}}
    split: {{A: 0.45, B: 0.45, control: 0.10}}
    select_top: 0.20
    models:
      A: {{name: modelA, version: "1.0", estimator: sklearn.linear_model.LogisticRegression,
          params: {{max_iter: 200}}}}
      B: {{name: modelB, version: "1.0", estimator: {estimator}}}
"""
BOOSTING = "sklearn.ensemble.HistGradientBoostingClassifier"


def make_engine(url: str) -> sa.Engine:
    return connections.make_engine(SecretStr(url), None, Path.cwd(), "the command line")


@contextmanager
def make_database(url: str, folder: Path) -> Iterator[str]:
    """URL of a new database on the server; of a file in the folder if there is none."""
    if not url:
        yield f"sqlite:///{folder / 'bench.db'}"
        return
    server, name = make_engine(url), f"bench_{os.urandom(4).hex()}"
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"create database {name}")
        try:
            yield sa.make_url(url).set(database=name).render_as_string(hide_password=False)
        finally:
            time.sleep(1)  # a closed connection leaves the database a moment later
            connection.exec_driver_sql(f"drop database {name}")


def make_workload(engine: sa.Engine, n_rows: int) -> None:
    """Write candidates, and what the first of them have answered in the year before."""
    metadata.create_all(engine)
    for first in range(0, n_rows, PART_ROWS):
        n, rng = min(PART_ROWS, n_rows - first), np.random.default_rng(first)
        columns: dict[str, np.ndarray] = {"candidate_id": np.arange(first + 1, first + n + 1)}
        columns |= {f"n{i}": rng.normal(size=n).round(4) for i in range(10)}
        columns |= {f"i{i}": rng.integers(0, 1000, n) for i in range(4)}
        for i in range(6):
            columns[f"c{i}"] = rng.choice([f"cat_{k}" for k in range(5 + 3 * i)], n)
        batch = pa.RecordBatch.from_pydict(columns)
        connections.write(engine, writing.load, candidates, batch)
        if first < TRAINING_ROWS:
            score = columns["n0"] + columns["n1"] * columns["i0"] / 1000
            score += (columns["c0"] == "cat_1") + rng.normal(size=n) * 2
            ago = pd.to_timedelta(np.arange(n) * 330 // n + 20, unit="D")
            dates = (pd.Timestamp(NIGHT) - ago).date
            answered = {"candidate_id": columns["candidate_id"], "event_date": dates}
            frame = pd.DataFrame({**answered, "outcome": (score > 1.5).astype(int)})
            frame.to_sql(answers.name, engine, if_exists="append", index=False)


def name_config(folder: Path, n_jobs: int) -> str:
    """The path of the config with so many jobs."""
    return str(folder / f"jobs{n_jobs}.yaml")


def write_configs(folder: Path, url: str, n_jobs: Sequence[int], estimator: str) -> None:
    """A config for each number of jobs, and their queries."""
    (folder / "sql").mkdir()
    for name, text in QUERIES.items():
        (folder / f"sql/{name}.sql").write_text(text)
    queries = ", ".join(f"{name}: sql/{name}.sql" for name in QUERIES)
    for n in n_jobs:
        config = CONFIG.format(url=url, n_jobs=n, queries=queries, estimator=estimator)
        Path(name_config(folder, n)).write_text(config)


def prepare(
    folder: Path, url: str, n_jobs: Sequence[int], n_rows: int, estimator: str = BOOSTING
) -> dict[str, list[str]]:
    """Candidates and trained models; returns what is measured, as `list_commands` has it."""
    write_configs(folder, url, n_jobs, estimator)
    first = ["--config", name_config(folder, n_jobs[0])]
    measure([sys.executable, "-m", "abatch", "init", *first])
    engine = make_engine(url)
    make_workload(engine, n_rows)
    engine.dispose()
    measure([sys.executable, "train.py", *first, "--date", str(NIGHT)])
    return list_commands(folder, url, n_jobs, n_rows)


def list_commands(
    folder: Path, url: str, n_jobs: Sequence[int], n_rows: int
) -> dict[str, list[str]]:
    """What is measured, by name, the plain script first; abatch's take a date yet."""
    files = sorted(map(str, (folder / "models" / "dev").glob(f"*_{NIGHT}.pkl")))
    calls = {"plain": f"plain({url!r}, {QUERY!r}, {files})"} if n_rows <= MOST_ROWS else {}
    calls["plain, chunked"] = f"plain({url!r}, {QUERY!r}, {files}, 100_000)"
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        calls |= {f"limit, {n} jobs": f"limit({path!r}, {QUERY!r}, {files}, {n})" for n in n_jobs}
    start = f"import sys; sys.path[0] = {str(ROOT)!r}; from bench.peers import limit, plain; "
    commands = {name: [sys.executable, "-c", start + call] for name, call in calls.items()}
    for n in n_jobs:
        script = [sys.executable, "predict.py", "--config", name_config(folder, n)]
        commands[f"abatch, {n} jobs"] = script
    return commands


def main() -> None:
    """Print a line for each, beside the plain script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="", help="of a server; without it, SQLite")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--n-jobs", type=int, nargs="+", default=[1])
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="abatch-bench-") as name,
        make_database(arguments.url, folder := Path(name)) as url,
    ):
        commands = prepare(folder, url, arguments.n_jobs, arguments.rows)
        costs: dict[str, list[Cost]] = {name: [] for name in commands}
        nights = (str(NIGHT + timedelta(days=i)) for i in range(1_000))
        for _ in range(arguments.turns):
            for name, command in commands.items():
                dated = ["--date", next(nights)] if "predict.py" in command else []
                costs[name].append(measure([*command, *dated])[0])
    medians = {name: take_median(turns) for name, turns in costs.items()}
    first_name, plain = next(iter(medians.items()))
    print(f"{url.partition(':')[0]}, {arguments.rows:,} candidates, {os.cpu_count()} cores")
    print(f"{'':<16}{'wall s':>8}{'CPU s':>8}{'MiB':>7}{'wall':>7}{'CPU':>6}  of {first_name}")
    for name, (wall, cpu, memory) in medians.items():
        print(f"{name:<16}{wall:>8.1f}{cpu:>8.1f}{memory:>7,.0f}", end="")
        print(f"{wall / plain.wall:>7.2f}{cpu / plain.cpu:>6.2f}")


if __name__ == "__main__":
    main()
