"""How a night spreads: predict.py with one and two workers, measured; with 4, 8 and 16, simulated.

Candidates of 20 columns and two models (logistic regression, histogram boosting) on SQLite. One
night is measured in CPU seconds part by part; from these a night with more workers is simulated,
each on a core of its own: the job reads and sends chunks, at most one more than there are workers,
and writes when all have come. Beside it stand nights that were played.

    python -m bench.scale
    python -m bench.scale --rows 1000000 --runs 3
"""

import argparse
import heapq
import io
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa
import yaml

import predict
import train
from abatch import job
from abatch.config import load_experiments
from abatch.database import migrations
from abatch.experiment.spool import Spool
from abatch.modelling.inference import Inferrer
from abatch.night import Night

ROOT = Path(__file__).parent.parent
NIGHT = date(2026, 11, 26)
N_TRAINING = 20_000
CHUNK_ROWS = 50_000
WORKERS = (1, 2, 4, 8, 16)
NUMBERS, CATEGORIES = [f"n{i}" for i in range(14)], [f"c{i}" for i in range(6)]
PEAK_SECONDS = 0.05  # between two looks at the memory


class Parts(NamedTuple):
    """CPU seconds of a night.

    Attributes
    ----------
    start : until the first chunk is read
    read, send, work, take : of a chunk: from the database, into bytes, by a worker, into the spool
    load : a worker's start, imports and models
    finish : ranks, write, read back, publish
    """

    n_chunks: int
    start: float
    load: float
    read: float
    send: float
    work: float
    take: float
    finish: float


def make_bank(folder: Path, n_rows: int) -> Path:
    """Candidates, training rows and two trained models; returns the config."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {name: rng.normal(size=n_rows).round(4) for name in NUMBERS}
    for i, name in enumerate(CATEGORIES):
        values = np.array([f"cat_{k}" for k in range(5 + 3 * i)])
        columns[name] = values[rng.integers(0, len(values), n_rows)]
    frame = pd.DataFrame({"candidate_id": np.arange(1, n_rows + 1), **columns})
    outcome = (frame["n0"] + (frame["c0"] == "cat_1") + rng.normal(size=n_rows) > 1).astype(int)
    n_training = min(N_TRAINING, n_rows)
    days = pd.Timestamp("2025-12-01") + pd.to_timedelta(
        np.arange(n_training) * 340 // n_training, unit="D"
    )
    training = frame.head(n_training).assign(event_date=days.date, outcome=outcome)
    names = ", ".join([*NUMBERS, *CATEGORIES])
    window = "where event_date >= :from_date and event_date < :to_date"
    answered = f"select candidate_id, event_date, outcome from training {window}"
    queries = {
        "training": f"select candidate_id, event_date, outcome, {names} from training {window}",
        "candidates": f"select candidate_id, {names} from candidates order by candidate_id",
        "outcomes": answered,
        "watermark": f"select '{NIGHT}' as watermark",
    }
    for name, text in queries.items():
        (folder / f"{name}.sql").write_text(text, "utf-8")
    raw = yaml.safe_load((ROOT / "ml_config.yaml").read_text("utf-8"))
    (settings,) = raw["experiments"].values()
    settings["queries"] = {name: f"{name}.sql" for name in queries}
    settings["training"] = {"days": 365}
    raw["experiments"], raw["chunk_rows"] = {"bench": settings}, CHUNK_ROWS
    raw["environments"] = {"dev": {"database": "sqlite:///bank.db"}}
    path = folder / "ml_config.yaml"
    path.write_text(yaml.safe_dump(raw), "utf-8")
    engine = job.connect((experiment := load_experiments(path)["bench"]).environment)
    frame.to_sql("candidates", engine, index=False)
    training.to_sql("training", engine, index=False)
    with engine.begin() as connection:
        connection.execute(sa.text("create unique index candidate on candidates(candidate_id)"))
    migrations.upgrade(engine)
    train.train(experiment, engine, NIGHT)
    engine.dispose()
    return path


def measure_parts(path: Path) -> Parts:
    """One night in this process, new and with one job; a worker's start in another."""
    spent: dict[str, list[float]] = {"read": [], "send": [], "work": [], "take": []}

    def timed(name: str, owner: Any, method: str) -> None:
        real = getattr(owner, method)

        def call(*args: Any) -> Any:
            began = time.process_time()
            result = real(*args)
            spent[name].append(time.process_time() - began)
            return result

        setattr(owner, method, call)

    def stream(self: Night, *args: Any) -> Iterator[pd.DataFrame]:
        chunks, began = real_stream(self, *args), time.process_time()
        spent.setdefault("start", [began])
        for chunk in chunks:
            spent["read"].append(time.process_time() - began)
            began = time.process_time()
            pickle.dumps(chunk, 5)
            spent["send"].append(time.process_time() - began)
            yield chunk
            began = time.process_time()

    real_stream = Night.stream
    Night.stream = stream  # type: ignore
    timed("work", Inferrer, "__call__")
    timed("take", Spool, "add")
    experiment = load_experiments(path)["bench"]
    engine = job.connect(experiment.environment)
    began = time.process_time()
    with redirect_stdout(io.StringIO()):  # what the experiment commits to
        predict.predict(experiment, engine, NIGHT, force=True)
    total = time.process_time() - began
    engine.dispose()
    n = len(spent["work"])
    sums = {name: sum(values) for name, values in spent.items() if name != "start"}
    (start,) = spent["start"]
    finish = began + total - start - sum(sums.values())
    load = "import abatch.modelling.inference, sklearn.pipeline, sklearn.ensemble"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", load], check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    read, send, work, take = (value / n for value in sums.values())
    return Parts(n, start, loaded, read, send, work, take, finish)


def simulate(parts: Parts, n_workers: int) -> float:
    """Seconds of a night whose job and workers have a core each; with one the job does all."""
    if n_workers == 1:
        return parts.start + parts.n_chunks * (parts.read + parts.work + parts.take) + parts.finish
    now = parts.start
    free = [now + parts.load] * n_workers
    pending: deque[float] = deque()
    for _ in range(parts.n_chunks):
        now += parts.read + parts.send
        done = max(now, heapq.heappop(free)) + parts.work
        heapq.heappush(free, done)
        pending.append(done)
        if len(pending) > n_workers:
            now = max(now, pending.popleft()) + parts.take
    for done in pending:
        now = max(now, done) + parts.take
    return now + parts.finish


def play(path: Path, n_jobs: int) -> tuple[float, float, float]:
    """Wall and CPU seconds of predict.py, and the most megabytes of all its processes (PSS)."""
    raw = yaml.safe_load(path.read_text("utf-8"))
    raw["environments"]["dev"]["n_jobs"] = n_jobs
    path.write_text(yaml.safe_dump(raw), "utf-8")
    command = [sys.executable, str(ROOT / "predict.py"), "--config", str(path)]
    command += ["--date", str(NIGHT), "--force"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(map(read_pss, find_family(process.pid))))
        time.sleep(PEAK_SECONDS)
    wall = time.perf_counter() - began
    assert process.returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, peak


def find_family(pid: int) -> list[int]:
    """A process and all that it has started."""
    family, found = [pid], {pid}
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    for parent in family:
        children = [child for child, of in parents.items() if of == parent and child not in found]
        found.update(children)
        family += children
    return family


def read_pss(pid: int) -> float:
    """Megabytes of a process, what it shares counted by its part."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    lines = [line.split() for line in text.splitlines() if line.startswith("Pss:")]
    return int(lines[0][1]) / 1024 if lines else 0.0


def main() -> None:
    """Print the parts, and a line for each number of workers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help="candidates (default: 200000)")
    parser.add_argument("--runs", type=int, default=1, help="nights to a median (default: 1)")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = Path(tempfile.mkdtemp(prefix="abatch-scale-"))
    try:
        path = make_bank(folder, arguments.rows)
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            nights = [pool.submit(measure_parts, path).result() for _ in range(arguments.runs)]
        n_chunks, *seconds = map(statistics.median, zip(*nights, strict=True))
        parts = Parts(int(n_chunks), *seconds)
        larger = parts._replace(n_chunks=10 * parts.n_chunks, finish=10 * parts.finish)
        print(f"{arguments.rows:,} candidates x 20, {os.cpu_count()} cores; CPU seconds:")
        print(", ".join(f"{name} {value:.2f}" for name, value in parts._asdict().items()))
        heads = f"{'simulated':>11}{'ratio':>7}{'10 x rows':>11}{'ratio':>7}"
        print(f"{'workers':>8}{heads}{'wall':>8}{'CPU':>7}{'MB':>7}")
        for n in WORKERS:
            print(f"{n:>8}", end="")
            for night in (parts, larger):
                wall = simulate(night, n)
                print(f"{wall:>11.1f}{wall / simulate(night, 1):>7.2f}", end="")
            if n <= (os.cpu_count() or 1):
                played = [play(path, n) for _ in range(arguments.runs)]
                wall, cpu, peak = map(statistics.median, zip(*played, strict=True))
                print(f"{wall:>8.1f}{cpu:>7.1f}{peak:>7.0f}", end="")
            print(flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
