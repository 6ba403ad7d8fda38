"""The demo: afresh each time, also after it was killed, and never over somebody's own tables."""

import sqlite3
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from demo.__main__ import expected_auc
from tests.conftest import ROOT, write_config


def run_demo(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    config = folder / "ml_config.yaml"
    if not config.exists():
        write_config(folder, "sqlite:///data/dev.db")
    command = [sys.executable, "-m", "demo", "--config", str(config), "--nights", "20", "--end", "2026-11-23", *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_demo_plays_again_after_a_kill(tmp_path: Path) -> None:
    write_config(tmp_path, "sqlite:///data/dev.db")
    command = [sys.executable, "-u", "-m", "demo", "--config", str(tmp_path / "ml_config.yaml"), "--nights", "20", "--end", "2026-11-23"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as half:
        assert half.stdout is not None
        while not half.stdout.readline().startswith("10 of 20 nights"):
            pass
        half.kill()
    done = run_demo(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "20 of 20 nights played, until 2026-11-23" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if str(tmp_path) not in line)
    with sqlite3.connect(tmp_path / "data" / "dev.db") as connection:
        nights = connection.execute(
            "select run_date, count(*), count(distinct candidate_id), count(model_name), count(prediction),"
            " sum(case when variant = 'control' then 1 else 0 end) from predictions group by run_date"
        ).fetchall()
        for query in done.stdout.split(":\n\n")[-1].split("\n\n"):
            assert connection.execute(query).fetchall()
    connection.close()
    assert len(nights) == 20
    for _, rows, distinct, named, predicted, controls in nights:
        assert rows == distinct == 1000
        assert named == predicted == 1000 - controls
    assert (tmp_path / "reports" / "card_offer.html").stat().st_size > 0
    dated = sorted(path.name for path in (tmp_path / "models").glob("modelA_v1.0_2*.pkl"))
    assert dated == [f"modelA_v1.0_{date(2026, 11, day)}.pkl" for day in (4, 11, 18)]


def test_demo_leaves_foreign_tables_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with sqlite3.connect(tmp_path / "data" / "dev.db") as connection:
        connection.execute("create table my_customers (id)")
    connection.close()
    refused = run_demo(tmp_path)
    assert refused.returncode == 1
    assert "my_customers" in refused.stderr
    with sqlite3.connect(tmp_path / "data" / "dev.db") as connection:
        assert connection.execute("select name from sqlite_master").fetchall() == [("my_customers",)]
    connection.close()


def test_expected_auc_of_certain_outcomes(rng: np.random.Generator) -> None:
    """With probabilities of 0 and 1 the average over outcomes is the ROC AUC itself."""
    y = rng.integers(0, 2, 500)
    prediction = np.round(rng.random(500) + 0.3 * y, 1)  # many ties
    assert np.isclose(expected_auc(prediction, y.astype(float)), roc_auc_score(y, prediction))
