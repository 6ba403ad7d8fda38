"""How a night spreads: predict.py with one and two workers, measured; with 4, 8 and 16, simulated.

The candidates and models of bench.predict, on SQLite or a server, beside the plain script. One
night is measured part by part; from these a night with more workers is simulated. Each process has
a core of its own: one reads from SQLite, the job sends chunks, at most one more than there are
workers, and writes when all have come. Medians.

    python -m bench.scale
    python -m bench.scale --rows 1000000 --turns 3
    python -m bench.scale --url postgresql+psycopg://user:password@127.0.0.1/postgres
    python -m bench.scale --estimator sklearn.ensemble.RandomForestClassifier
"""

import argparse
import heapq
import json
import os
import pickle
import resource
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bench.predict import BOOSTING, NIGHT, make_database, name_config, prepare
from bench.processes import measure, take_median

CHUNK_ROWS = 50_000  # as the config has it by default
PLAYED, SIMULATED = [1, 2], [1, 2, 4, 8, 16]


class Parts(NamedTuple):
    """Seconds of a night.

    Attributes
    ----------
    start : until the first chunk is asked for
    load : a worker's start, with its imports
    fetch : of a chunk, by the process that reads it from SQLite
    read, send, work, take : of a chunk: into a frame, into bytes, by a worker, into the spool
    finish : all that comes after the last chunk, of which
    rank, write, check : ranks; writing, and reading back what arrived
    """

    start: float
    load: float
    fetch: float
    read: float
    send: float
    work: float
    take: float
    finish: float
    rank: float
    write: float
    check: float


def simulate(parts: Parts, n_chunks: int, n_workers: int) -> float:
    """Seconds of a night whose processes have a core each; with one worker the job does all."""
    now, fetched = parts.start, parts.start
    free = [now + parts.load] * n_workers
    pending: deque[float] = deque()
    for _ in range(n_chunks):
        fetched += parts.fetch
        now = max(now, fetched) + parts.read
        if n_workers == 1:
            now += parts.work + parts.take
            continue
        now += parts.send
        done = max(now, heapq.heappop(free)) + parts.work
        heapq.heappush(free, done)
        pending.append(done)
        if len(pending) > n_workers:
            now = max(now, pending.popleft()) + parts.take
    for done in pending:
        now = max(now, done) + parts.take
    return now + parts.finish


def play(config: str, day: str) -> None:
    """Play a night with one job in this process, and print its parts: CPU up to the last chunk."""
    import predict
    from abatch.experiment import predictions
    from abatch.experiment.spool import Spool
    from abatch.modelling.inference import Inferrer
    from abatch.night import Night

    spent: dict[str, list[float]] = {name: [] for name in Parts._fields}

    def find_children() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def timed(name: str, owner: Any, method: str, clock: Callable[[], float]) -> None:
        real = getattr(owner, method)

        def call(*args: Any) -> Any:
            began = clock()
            result = real(*args)
            spent[name].append(clock() - began)
            return result

        setattr(owner, method, call)

    def stream(self: Night, query: Any, window: Any) -> Iterator[pd.DataFrame]:
        chunks, clock = real_stream(self, query, window), time.perf_counter()
        if query != self.experiment.query("candidates"):
            yield from chunks
            spent["check"].append(time.perf_counter() - clock)
            return
        began, before = time.process_time(), find_children()
        spent["start"].append(began)
        for chunk in chunks:
            spent["read"].append(time.process_time() - began)
            began = time.process_time()
            pickle.dumps(chunk, 5)
            spent["send"].append(time.process_time() - began)
            yield chunk
            began = time.process_time()
        spent["fetch"].append((find_children() - before) / len(spent["read"]))
        spent["finish"].append(-time.perf_counter())

    real_stream = Night.stream
    Night.stream = stream  # type: ignore
    timed("work", Inferrer, "__call__", time.process_time)
    timed("take", Spool, "add", time.process_time)
    timed("rank", Spool, "rank", time.perf_counter)
    timed("write", predictions, "write_rows", time.perf_counter)
    if code := predict.main(["--config", config, "--date", day]):
        sys.exit(code)
    spent["finish"] = [spent["finish"][0] + time.perf_counter()]
    spent["write"][0] -= spent["check"][0]  # which is part of it
    del spent["load"]
    print(json.dumps({name: statistics.mean(values) for name, values in spent.items()}))


def measure_parts(config: str, day: str) -> Parts:
    """Of a night with one job; a worker's start in a process of its own."""
    call = [sys.executable, "-c", "from bench.scale import play; import sys; play(*sys.argv[1:])"]
    _, told = measure([*call, config, day])
    load, _ = measure([sys.executable, "-c", "import abatch.modelling.inference"])
    return Parts(load=load.cpu, **json.loads(told.splitlines()[-1]))


def main() -> None:
    """Print the parts, and a line for each number of workers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="", help="of a server; without it, SQLite")
    parser.add_argument("--rows", type=int, default=200_000, help="candidates (default: 200000)")
    parser.add_argument("--estimator", default=BOOSTING, help="of the second model")
    parser.add_argument("--turns", type=int, default=1, help="medians of so many (default: 1)")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with (
        tempfile.TemporaryDirectory(prefix="abatch-bench-") as name,
        make_database(arguments.url, folder := Path(name)) as url,
    ):
        commands = prepare(folder, url, PLAYED, arguments.rows, arguments.estimator)
        days = (str(NIGHT + timedelta(days=i)) for i in range(1_000))
        nights = [measure_parts(name_config(folder, 1), next(days)) for _ in range(arguments.turns)]
        played = {
            name: take_median(
                measure([*command, *(["--date", next(days)] if "predict.py" in command else [])])[0]
                for _ in range(arguments.turns)
            )
            for name, command in commands.items()
            if name == "plain" or name.startswith("abatch")
        }
    parts = Parts(*map(statistics.median, zip(*nights, strict=True)))
    n_chunks, plain = -(-arguments.rows // CHUNK_ROWS), played["plain"]
    print(
        f"{url.partition(':')[0]}, {arguments.rows:,} candidates, chunks of {CHUNK_ROWS:,},"
        f" {os.cpu_count()} cores; seconds:"
    )
    print(", ".join(f"{name} {value:.3f}" for name, value in parts._asdict().items()))
    print(f"plain script: wall {plain.wall:.1f}, CPU {plain.cpu:.1f}, {plain.memory:,.0f} MiB")
    heads = f"{'simulated':>11}{'ratio':>7}{'10 x rows':>11}{'ratio':>7}"
    print(f"{'workers':>8}{heads}{'wall':>8}{'CPU':>7}{'MiB':>7}  wall of plain")
    for n in SIMULATED:
        print(f"{n:>8}", end="")
        for times in (1, 10):
            night = parts._replace(finish=times * parts.finish)
            seconds, one = (simulate(night, times * n_chunks, of) for of in (n, 1))
            print(f"{seconds:>11.1f}{seconds / one:>7.2f}", end="")
        if cost := played.get(f"abatch, {n} jobs"):
            print(f"{cost.wall:>8.1f}{cost.cpu:>7.1f}{cost.memory:>7,.0f}", end="")
            print(f"{cost.wall / plain.wall:>7.2f}", end="")
        print()


if __name__ == "__main__":
    main()
