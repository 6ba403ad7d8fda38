"""The demo: afresh each time, also after it was killed, and never over somebody's own tables."""

import os
import re
import sqlite3
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from demo.__main__ import expected_auc
from tests.conftest import QUICK_MODELS, ROOT, write_config


def start_demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The demo in a process of its own, until a day that is always the same."""
    command = [sys.executable, "-u", "-m", "demo", "--config", "ml_config.yaml"]
    return subprocess.Popen(
        [*command, "--end", "2026-11-23", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def play_after_a_kill(folder: Path, n_nights: int) -> str:
    """What the demo prints that begins afresh after another was killed in its tenth night."""
    arguments = ("--nights", str(n_nights))
    with start_demo(folder, *arguments) as half:
        assert half.stdout is not None
        while not half.stdout.readline().startswith(f"10 of {n_nights} nights"):
            pass
        half.kill()
    with start_demo(folder, *arguments) as whole:
        out, err = whole.communicate()
    assert whole.returncode == 0
    news = (
        r"score card_offer \S+: (models vs control|B vs A): better \(before: not yet known\); see"
        r" the report"
    )
    assert all(re.fullmatch(news, line) for line in err.splitlines())
    assert all(len(line) <= 80 for line in out.splitlines())
    return out


def check_files_and_rows(folder: Path, out: str, n_nights: int) -> None:
    with sqlite3.connect(folder / "data" / "dev.db") as connection:
        nights = connection.execute(
            "select run_date, count(*), count(distinct candidate_id), count(model_name),"
            " count(prediction), sum(case when variant = 'control' then 1 else 0 end) from"
            " predictions group by run_date"
        ).fetchall()
        for query in out.split(":\n\n")[-1].split("\n\n"):
            assert connection.execute(query).fetchall()
    connection.close()
    assert len(nights) == n_nights
    for _, rows, distinct, named, predicted, controls in nights:
        assert rows == distinct == 1000
        assert named == predicted == 1000 - controls
    assert (folder / "reports" / "dev" / "card_offer.html").stat().st_size > 0
    first = date(2026, 11, 24) - timedelta(days=n_nights)
    weekly = [first + timedelta(days=days) for days in range(0, n_nights, 7)]
    assert sorted(path.name for path in (folder / "models" / "dev").glob("modelA_v1.0_2*.pkl")) == [
        f"modelA_v1.0_{day}.pkl" for day in weekly
    ]


def test_demo_plays_also_after_a_kill(tmp_path: Path) -> None:
    write_config(tmp_path, "sqlite:///data/dev.db", models=QUICK_MODELS)
    check_files_and_rows(tmp_path, play_after_a_kill(tmp_path, 20), 20)


@pytest.mark.slow
def test_demo_plays_as_the_readme_shows(tmp_path: Path) -> None:
    write_config(tmp_path, "sqlite:///data/dev.db")
    out = play_after_a_kill(tmp_path, 60)
    check_files_and_rows(tmp_path, out, 60)
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    out, shown = (
        re.sub(r"decided on \S+", "decided on a day", text) for text in (out, shown)
    )  # moves with the scores, see below
    number = re.compile(r"\d+\.\d+")
    assert number.sub("#", out).split() == number.sub("#", shown).split()
    # Processors and thread counts move a score by a rounding error, and with it now and then who is
    # called.
    for found, expected in zip(number.findall(out), number.findall(shown), strict=True):
        assert float(found) == pytest.approx(float(expected), rel=0.1)


def test_demo_leaves_foreign_tables_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with sqlite3.connect(tmp_path / "data" / "dev.db") as connection:
        connection.execute("create table my_customers (id)")
    connection.close()
    write_config(tmp_path, "sqlite:///data/dev.db")
    with start_demo(tmp_path) as refused:
        out, err = refused.communicate()
    assert (refused.returncode, out) == (1, "")
    assert "my_customers" in err
    with sqlite3.connect(tmp_path / "data" / "dev.db") as connection:
        assert connection.execute("select name from sqlite_master").fetchall() == [
            ("my_customers",)
        ]
    connection.close()


def test_expected_auc_of_certain_outcomes(rng: np.random.Generator) -> None:
    """With probabilities of 0 and 1 the average over outcomes is the ROC AUC itself.

    Of two models, by pairs within each.
    """
    y = rng.integers(0, 2, 500)
    prediction = np.round(rng.random(500) + 0.3 * y, 1)  # many ties
    units = pd.DataFrame({"model_name": "a", "prediction": prediction, "p": y.astype(float)})
    assert np.isclose(expected_auc(units), roc_auc_score(y, prediction))
    both = pd.concat([units, units[:100].assign(model_name="b", prediction=y[:100] - 3.0)])
    n_pairs = [sum(y == 1) * sum(y == 0), sum(y[:100] == 1) * sum(y[:100] == 0)]
    expected = np.average([roc_auc_score(y, prediction), 1], weights=n_pairs)
    assert np.isclose(expected_auc(both), expected)
