"""CPU, wall and memory of score.py beside a pandas script that reads the whole history each night.

    python -m bench.score
    python -m bench.score --nights 365 --candidates 5000
    python -m bench.score --url postgresql+psycopg://user:password@127.0.0.1/postgres

A history of mature nights with two models, retrained every four weeks, and a control is written as
predict would have written it, into a database without tables (SQLite in a temporary folder if none
is named). Then score.py runs as cron runs it: over all nights, and night by night, with its report
and without. CPU seconds are those of all its processes, start and imports included, but not the
server's; memory is the PSS of all together.
"""

import argparse
import gc
import io
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from scipy.special import expit

from bench.processes import Cost, measure, take_median

DAY, FIRST = timedelta(days=1), date(2025, 1, 6)
WINDOW_DAYS, LAG_DAYS, RETRAIN_DAYS = 14, 1, 28
N_TRAINING, RATE, N_TURNS = 4_000, 0.05, 3
VARIANTS = {"A": 0.45, "B": 0.45, "control": 0.10}
CONFIG = """
environments:
  dev: {database: "%s"}
experiments:
  bench:
    hypothesis: Bench.
    outcome: {kind: binary, window_days: 14, lag_days: 1, expected_effect: 0.01, baseline: 0.05}
    queries: {training: training.sql, candidates: candidates.sql, outcomes: outcomes.sql,
              watermark: watermark.sql}
    split: {A: 0.45, B: 0.45, control: 0.10}
    select_top: 0.20
    models:
      A: {name: modelA, version: "1.0", estimator: sklearn.linear_model.LogisticRegression}
      B: {name: modelB, version: "1.0", estimator: sklearn.tree.DecisionTreeClassifier,
          params: {max_depth: 4}}
"""
BETWEEN = "where event_date >= :from_date and event_date < :to_date"
QUERIES = {
    "training": f"select candidate_id, event_date, outcome, x, y, z from bench_training {BETWEEN}",
    "candidates": "select candidate_id, x, y, z from bench_candidates",
    "outcomes": f"select candidate_id, event_date, 1 as outcome from bench_answers {BETWEEN}",
    "watermark": "select complete_to from bench_feed",
}
TYPES = {"candidate_id": sa.String(64), "event_date": sa.Date(), "complete_to": sa.Date()}


class Bank:
    """Candidates of each night, of whom a share was there before, and what they answer.

    Parameters
    ----------
    folder : of ml_config.yaml
    n_candidates : of a night
    returning : the share
    """

    def __init__(self, folder: Path, n_candidates: int, returning: float) -> None:
        from abatch import config, job

        self.experiment = config.load_experiments(folder / "ml_config.yaml", None).choose(None)[
            "bench"
        ]
        self.engine = job.connect(self.experiment.environment)
        self.n_candidates, self.returning = n_candidates, returning
        self.rng, self.n_ids, self.n_nights = np.random.default_rng(0), 0, 0
        self.first: dict[str, list[dict[str, Any]]] = {}

    def write(self, name: str, frame: pd.DataFrame, if_exists: Any = "append") -> None:
        types = {column: kind for column, kind in TYPES.items() if column in frame}
        frame.to_sql(f"bench_{name}", self.engine, index=False, if_exists=if_exists, dtype=types)

    def complete(self, day: date) -> None:
        """Let the feed say that outcomes are complete up to a day."""
        self.write("feed", pd.DataFrame({"complete_to": [day]}), "replace")

    def open(self) -> None:
        """Train two models, and predict the first night, by the jobs themselves."""
        import predict
        import train
        from abatch.database import migrations, tables

        migrations.upgrade(self.engine)
        n, rng, ids = N_TRAINING, self.rng, self._choose()
        training = pd.DataFrame({name: rng.normal(size=n).round(4) for name in "xyz"})
        training["candidate_id"] = [f"t{i}" for i in range(n)]
        training["event_date"] = [FIRST - (30 + i % 300) * DAY for i in range(n)]
        training["outcome"] = (rng.random(n) < expit(training["x"] * 0.7 - 3.2)).astype(int)
        self.write("training", training)
        candidates = training[["x", "y", "z"]].sample(len(ids), replace=True)
        self.write("candidates", candidates.assign(candidate_id=ids))
        self.complete(FIRST)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            train.train(self.experiment, self.engine, FIRST)
            predict.predict(self.experiment, self.engine, FIRST)
        self._answer(ids, FIRST, np.full(len(ids), RATE))
        with self.engine.connect() as connection:
            for name in ("runs", "models", "feature_counts", "prediction_shares"):
                rows = connection.execute(sa.select(tables.TABLES[name])).mappings()
                self.first[name] = [dict(row) for row in rows]
        self.n_nights = 1

    def add_night(self) -> None:
        """Write another night, predicted by the models of its month."""
        from abatch.database import connections
        from abatch.experiment.assignment import assign

        night, n = FIRST + self.n_nights * DAY, self.n_candidates
        trained = night - self.n_nights % RETRAIN_DAYS * DAY
        ids = self._choose()
        assigned = assign(ids, "bench", VARIANTS)
        code = pd.Categorical(assigned.variant, [*VARIANTS]).codes
        prediction = np.where(code < 2, self.rng.beta(2, 38, n), np.nan)
        order = np.lexsort((-np.nan_to_num(prediction), code))
        rank = np.empty(n, dtype=np.int32)
        rank[order] = np.arange(n) - np.searchsorted(code[order], code[order]) + 1
        names = pa.array([f"modelA_v1.0_{trained}", f"modelB_v1.0_{trained}", None])
        with self.engine.connect() as connection:
            number = 1 + connection.scalar(sa.text("select max(run_number) from runs"))
        columns = {
            "run_number": pa.array(np.full(n, number, dtype=np.int32)),
            "candidate_id": pa.array(ids),
            "variant": pa.array([*VARIANTS]).take(pa.array(code)),
            "model_name": names.take(pa.array(code)),
            "prediction": pa.array(prediction, from_pandas=True),
            "rank_in_variant": pa.array(rank),
            "selected": pa.array((rank <= np.bincount(code)[code] // 5).astype(np.int16)),
            "bucket": pa.array(assigned.bucket.astype(np.int16)),
        }
        batch = pa.RecordBatch.from_pydict(columns)
        connections.write(self.engine, self._write_night, batch, night, trained, number)
        self._answer(ids, night, np.nan_to_num(prediction, nan=RATE))
        self.n_nights += 1

    def _write_night(
        self, connection: sa.Connection, batch: pa.RecordBatch, night: date, trained: date, n: int
    ) -> None:
        """The rows of a night, of its run, and of the models if they are trained that day."""
        from abatch.database import tables, writing

        writing.load(connection, tables.prediction_rows, batch)
        own = {"run_id": f"{night:%Y%m%d}T000000Z-{n:08x}", "run_date": night, "run_number": n}

        def copy(name: str, *changed: str, job: str | None = None) -> None:
            rows = [
                {**row, **{column: own[column] for column in changed}}
                for row in self.first[name]
                if job is None or row["job"] == job
            ]
            for row in rows:
                if "model_name" in row:
                    row["model_name"] = f"{row['model_name'][:11]}_{trained}"
                if "card" in row:
                    card = json.loads(row["card"]) | {"model_name": row["model_name"]}
                    row["card"] = json.dumps(card)
            connection.execute(tables.TABLES[name].insert(), rows)

        copy("runs", "run_id", "run_date", "run_number", job="predict")
        copy("prediction_shares", "run_number")
        copy("feature_counts", "run_id", "run_date")
        if trained == night:
            copy("models")

    def add_looks(self) -> None:
        """Copy the only look to all nights before it, as if they had been scored, too."""
        from abatch.database import tables

        wait = (WINDOW_DAYS + LAG_DAYS) * DAY
        nights = [FIRST + i * DAY for i in range(self.n_nights - 1)]
        with self.engine.begin() as connection:
            for name in ("looks", "verdicts", "sample_ratios"):
                table = tables.TABLES[name]
                for row in connection.execute(sa.select(table)).mappings().all():
                    rows = [{**row, "run_date": night} for night in nights]
                    for copied in rows if name == "looks" else ():
                        night = copied["run_date"]
                        copied["watermark"] = night
                        copied["mature_date"] = night - wait if night - wait >= FIRST else None
                    connection.execute(table.insert(), rows)

    def _choose(self) -> list[str]:
        n_old = round(self.returning * self.n_candidates) if self.n_ids else 0
        old = self.rng.choice(self.n_ids, n_old, replace=False) if n_old else np.zeros(0, int)
        new = np.arange(self.n_ids, self.n_ids + self.n_candidates - n_old)
        self.n_ids += len(new)
        return [f"{i:09}" for i in np.sort(np.concatenate([old, new])).tolist()]

    def _answer(self, ids: Sequence[str], night: date, chance: np.ndarray) -> None:
        rows = np.flatnonzero(self.rng.random(len(ids)) < chance).tolist()
        after = self.rng.integers(0, WINDOW_DAYS, len(rows)).tolist()
        days = [night + i * DAY for i in after]
        self.write(
            "answers", pd.DataFrame({"candidate_id": [ids[i] for i in rows], "event_date": days})
        )


def score_quietly(config: str, day: str) -> None:
    """What score.py does, but for its report."""
    import score
    from abatch import config as settings
    from abatch import job

    gc.freeze()  # as a job does
    experiment = settings.load_experiments(Path(config), None).choose(None)["bench"]
    with job.open_database(experiment.environment) as engine:
        score.score(experiment, engine, date.fromisoformat(day), draw=False)


def score_plainly(url: str, day: str) -> None:
    """As many do it: read all that is mature, join it, and compare, each night anew."""
    from scipy.stats import ttest_ind
    from sklearn.metrics import roc_auc_score

    engine = sa.create_engine(url)
    mature = date.fromisoformat(day) - (WINDOW_DAYS + LAG_DAYS) * DAY
    query = sa.text(
        "select run_date, candidate_id, variant, prediction from predictions"
        f" where experiment = 'bench' and run_date <= '{mature}'"
    )
    predictions = pd.read_sql(query, engine, parse_dates=["run_date"])
    answers = pd.read_sql("select * from bench_answers", engine, parse_dates=["event_date"])
    predictions["row"] = range(len(predictions))
    pairs = predictions.merge(answers, on="candidate_id")
    days = (pairs["event_date"] - pairs["run_date"]).dt.days
    inside = pairs[(days >= 0) & (days < WINDOW_DAYS)]
    predictions["outcome"] = predictions["row"].isin(inside["row"]).astype(int)
    for variant in ("A", "B"):
        rows = predictions[predictions["variant"] == variant]
        print(variant, roc_auc_score(rows["outcome"], rows["prediction"]))
    first = predictions.sort_values("run_date").drop_duplicates(["candidate_id", "variant"])
    outcomes = {variant: rows["outcome"] for variant, rows in first.groupby("variant")}
    print(ttest_ind(outcomes["A"], outcomes["control"], equal_var=False))
    print(ttest_ind(outcomes["B"], outcomes["A"], equal_var=False))


def tell(what: str, turns: Iterable[Cost]) -> None:
    cost = take_median(turns)
    print(f"{what:<34}{cost.cpu:>8.2f}{cost.wall:>9.2f}{cost.memory:>9.0f}", flush=True)


def compare(bank: Bank, folder: Path, url: str) -> None:
    """Print a line for the first score, for usual nights and for the peer."""
    config, python = str(folder / "ml_config.yaml"), sys.executable

    def find_today() -> str:
        return str(FIRST + (bank.n_nights - 1) * DAY)

    def score_night(command: Sequence[str]) -> Cost:
        bank.add_night()
        bank.complete(date.fromisoformat(find_today()))
        return measure([*command, find_today()])[0]

    job = [python, "score.py", "--config", config, "--date"]
    call = "import sys; from bench.score import {0}; {0}(*sys.argv[1:])"
    quiet = [python, "-c", call.format("score_quietly"), config]
    plain = [python, "-c", call.format("score_plainly"), url]
    measure([python, "-c", "import score"])  # compiles what is imported
    print(f"{'':<34}{'CPU s':>8}{'wall s':>9}{'MiB':>9}")
    tell("first score, over all nights", [score_night(job)])
    bank.add_looks()
    tell("a night", [score_night(job) for _ in range(N_TURNS)])
    tell("a night without its report", [score_night(quiet) for _ in range(N_TURNS)])
    tell("pandas, over all nights", [measure([*plain, find_today()])[0] for _ in range(N_TURNS)])


def main() -> None:
    """Make a history, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="SQLAlchemy URL of an empty database")
    parser.add_argument("--nights", type=int, default=60, help="mature ones (default: 60)")
    parser.add_argument("--candidates", type=int, default=5_000, help="a night (default: 5000)")
    parser.add_argument(
        "--returning", type=float, default=0.5, help="share who were there before (default: .5)"
    )
    parser.add_argument("--folder", type=Path, help="keep the history here, to look at")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        url = arguments.url or f"sqlite:///{folder / 'bench.db'}"
        (folder / "ml_config.yaml").write_text(CONFIG % url)
        for name, sql in QUERIES.items():
            (folder / f"{name}.sql").write_text(sql)
        bank = Bank(folder, arguments.candidates, arguments.returning)
        bank.open()
        for _ in range(arguments.nights + WINDOW_DAYS + LAG_DAYS - 1):
            bank.add_night()
        print(f"{arguments.nights} mature nights of {arguments.candidates:,} candidates")
        compare(bank, folder, url)
        bank.engine.dispose()


if __name__ == "__main__":
    main()
