"""Rows a second, CPU and peak memory of reading and writing, beside pandas.read_sql and to_sql.

    python -m bench.sql
    python -m bench.sql postgresql+psycopg://user:password@127.0.0.1/postgres --rows 1000000

Each figure is the median of three turns, each in a process of its own; CPU and memory are of that
and what it starts, not of a server. The tables bench_wide and bench_written are made and dropped
again.
"""

import argparse
import resource
import subprocess
import sys
import time
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from pydantic import SecretStr

from abatch.database import connections, faults, reading, writing
from abatch.database.tables import Instant
from abatch.queries import Query, Window

CHUNK_ROWS, N_TURNS = 50_000, 3
FIGURES = ("rows/s", "CPU s", "MiB")
WINDOW, AS_OF = Window(date(2026, 1, 1), date(2027, 1, 1)), datetime(2030, 1, 1)
QUERY = (
    "select * from bench_wide where event_date >= :from_date and event_date < :to_date and"
    " loaded_at <= :as_of"
)
metadata = sa.MetaData()


def make_table(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("candidate_id", sa.BigInteger),
        sa.Column("event_date", sa.Date),
        sa.Column("loaded_at", Instant),
        *(sa.Column(f"amount_{i}", sa.Numeric(12, 2)) for i in range(4)),
        *(sa.Column(f"share_{i}", sa.Double) for i in range(6)),
        *(sa.Column(f"count_{i}", sa.Integer) for i in range(4)),
        *(sa.Column(f"category_{i}", sa.Unicode(20)) for i in range(3)),
    )


wide, written = make_table("bench_wide"), make_table("bench_written")


def make_frame(first: int, n: int) -> pd.DataFrame:
    rng = np.random.default_rng(first)
    frame = pd.DataFrame({"candidate_id": np.arange(first, first + n)})
    frame["event_date"] = date(2026, 6, 1)
    frame["loaded_at"] = datetime(2026, 6, 2, 3, 4, 5)
    for i in range(4):
        frame[f"amount_{i}"] = np.round(rng.lognormal(8, 1, n), 2)
    for i in range(6):
        frame[f"share_{i}"] = rng.random(n)
    for i in range(4):
        frame[f"count_{i}"] = rng.integers(0, 100, n)
    for i in range(3):
        frame[f"category_{i}"] = rng.choice(["Tromsø", "Ærø", "Oslo"], n)
    return frame


def write_abatch(engine: sa.Engine, table: sa.Table, n_rows: int) -> int:
    """As abatch writes a night: batches of Arrow in transactions that are tried again."""
    for first in range(0, n_rows, CHUNK_ROWS):
        frame = make_frame(first, min(CHUNK_ROWS, n_rows - first))
        connections.write(engine, writing.load, table, pa.RecordBatch.from_pandas(frame))
    return n_rows


def write_pandas(engine: sa.Engine, table: sa.Table, n_rows: int) -> int:
    for first in range(0, n_rows, CHUNK_ROWS):
        make_frame(first, min(CHUNK_ROWS, n_rows - first)).to_sql(
            table.name, engine, if_exists="append", index=False
        )
    return n_rows


def read_abatch(engine: sa.Engine) -> int:
    return sum(
        len(frame)
        for frame in reading.stream_query(
            engine, Query("bench", QUERY), WINDOW, AS_OF, chunk_rows=CHUNK_ROWS
        )
    )


def read_pandas(engine: sa.Engine) -> int:
    with engine.connect().execution_options(stream_results=True) as connection:
        return sum(
            len(frame)
            for frame in pd.read_sql(
                sa.text(QUERY),
                connection,
                params={**WINDOW._asdict(), "as_of": AS_OF},
                chunksize=CHUNK_ROWS,
            )
        )


def measure(engine: sa.Engine, what: str, n_rows: int) -> None:
    """Run one of the four in this process; prints rows a second, CPU seconds, peak memory in MiB.

    Making the rows that are written is part of both.
    """
    whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    started, before = time.perf_counter(), [resource.getrusage(who) for who in whose]
    n = {
        "read_abatch": lambda: read_abatch(engine),
        "read_pandas": lambda: read_pandas(engine),
        "write_abatch": lambda: write_abatch(engine, written, n_rows),
        "write_pandas": lambda: write_pandas(engine, written, n_rows),
    }[what]()
    seconds, after = time.perf_counter() - started, [resource.getrusage(who) for who in whose]
    cpu = sum(one.ru_utime + one.ru_stime for one in after)
    cpu -= sum(one.ru_utime + one.ru_stime for one in before)
    print(n / seconds, cpu, sum(one.ru_maxrss for one in after) / 1024)


def measure_turns(engine: sa.Engine, url: str, what: str, n_rows: int) -> np.ndarray:
    """Medians of FIGURES."""
    command = [sys.executable, "-m", "bench.sql", url, "--rows", str(n_rows), "--only", what]
    turns = []
    for _ in range(N_TURNS):
        turns.append([float(word) for word in subprocess.check_output(command).split()])
        with engine.begin() as connection:
            connection.execute(written.delete())
    return np.median(turns, axis=0)


def compare(url: str, n_rows: int, only: str | None) -> None:
    """Print a line for each figure; with `only`, measure one in this process."""
    engine = connections.make_engine(SecretStr(url), None, Path.cwd(), "the command line")
    if only:
        measure(engine, only, n_rows)
        return
    metadata.drop_all(engine)
    metadata.create_all(engine)
    try:
        write_abatch(engine, wide, n_rows)
        print(
            f"{faults.show_url(engine)}, {n_rows} rows of {len(wide.columns)} columns,"
            f" chunks of {CHUNK_ROWS}"
        )
        print(f"{'':<14}{'abatch':>12}{'pandas':>12}{'ratio':>8}")
        for what in ("read", "write"):
            ours, theirs = (
                measure_turns(engine, url, f"{what}_{peer}", n_rows)
                for peer in ("abatch", "pandas")
            )
            for name, a, b in zip(FIGURES, ours, theirs, strict=True):
                digits = 2 if name == "CPU s" else 0
                print(
                    f"{f'{what} {name}':<14}{a:>12,.{digits}f}{b:>12,.{digits}f}{a / b:>8.2f}",
                    flush=True,
                )
    finally:
        metadata.drop_all(engine)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", nargs="?", help="of a database that may be written; default: SQLite")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        compare(arguments.url or f"sqlite:///{folder}/bench.db", arguments.rows, arguments.only)


if __name__ == "__main__":
    main()
