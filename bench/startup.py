"""CPU seconds of help and of the commands that look or change, beside `python -c pass`.

Each is a process of its own, with compiled bytecode, on a bank of one trained night; medians.

    python -m bench.startup
    python -m bench.startup --runs 15
"""

import argparse
import io
import os
import shutil
import sys
import tempfile
from contextlib import redirect_stdout
from datetime import date
from pathlib import Path

import sqlalchemy as sa

import predict
import train
from abatch import job
from abatch.config import load_experiments
from abatch.database import migrations
from abatch.database.tables import predictions
from bench.processes import ROOT, measure, take_median
from demo import simulate

NIGHT = date(2026, 9, 1)
MODEL = f"modelA_v1.0_{NIGHT}"
HELP = [["train.py", "--help"], ["predict.py", "--help"], ["score.py", "--help"]]
COMMANDS = [
    ["status"],
    ["models"],
    ["experiments"],
    ["explain", "--date", str(NIGHT), "--candidate"],
    ["promote", MODEL, "--reason", "bench"],
    ["rollback", MODEL, "--reason", "bench"],
]


def make_bank(folder: Path) -> tuple[Path, str]:
    """A simulated bank of one night, predicted; returns its config, and one of its candidates."""
    config = Path(shutil.copy(ROOT / "ml_config.yaml", folder))
    shutil.copytree(ROOT / "sql", folder / "sql")
    experiment = load_experiments(config, "dev")["card_offer"]
    (folder / "data").mkdir()
    engine = job.connect(experiment.environment)
    migrations.upgrade(engine)
    simulate.simulate(engine, NIGHT)
    train.train(experiment, engine, NIGHT)
    with redirect_stdout(io.StringIO()):  # what the experiment commits to
        predict.predict(experiment, engine, NIGHT)
    with engine.connect() as connection:
        candidate = connection.scalar(sa.select(sa.func.min(predictions.c.candidate_id)))
    engine.dispose()
    return config, str(candidate)


def measure_cpu(command: list[str], n_runs: int) -> float:
    """Median CPU seconds of a Python process, after a run that compiles what it imports."""
    costs = [measure([sys.executable, *command])[0] for _ in range(n_runs + 1)]
    return take_median(costs[1:]).cpu


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="of each command (default: 5)")
    n_runs = parser.parse_args().runs
    os.environ.pop("ABATCH_ENV", None)
    with tempfile.TemporaryDirectory() as folder:
        config, candidate = make_bank(Path(folder))
        commands = [*HELP, ["-m", "abatch", "--help"]]
        for words in COMMANDS:
            last = [candidate] if words[0] == "explain" else []
            commands.append(["-m", "abatch", *words, *last, "--config", str(config)])
        nothing = measure_cpu(["-c", "pass"], n_runs)
        print(f"{'python':<28}{'CPU s':>8}{'ratio':>8}")
        print(f"{'-c pass':<28}{nothing:>8.3f}{1:>8.1f}")
        for command in commands:
            name = " ".join(command[:3] if command[0] == "-m" else command)
            seconds = measure_cpu(command, n_runs)
            print(f"{name:<28}{seconds:>8.3f}{seconds / nothing:>8.1f}")


if __name__ == "__main__":
    main()
