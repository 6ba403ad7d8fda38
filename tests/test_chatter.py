"""What estimators print, as cron would mail it: nothing, since the log has it."""

import os
import subprocess
import sys
from typing import Any

import pytest
import sqlalchemy as sa

from abatch.config import Experiment
from tests.conftest import FIRST_NIGHT, ROOT, write_config
from tests.test_categories import require

LIBRARIES: list[tuple[str, dict[str, Any], str]] = [  # and what each is known to print
    ("lightgbm.LGBMClassifier", {"n_estimators": 5}, "[LightGBM] [Info]"),
    ("xgboost.XGBClassifier", {"n_estimators": 5, "unknown": 1}, "are not used"),
    ("catboost.CatBoostClassifier", {"iterations": 5}, "0:\tlearn:"),
]


@pytest.mark.slow
@pytest.mark.bank("simulated")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("path", "params", "printed"), LIBRARIES, ids=[path.partition(".")[0] for path, *_ in LIBRARIES]
)
def test_scripts_print_nothing(
    experiment: Experiment, engine: sa.Engine, path: str, params: dict[str, Any], printed: str
) -> None:
    """As cron starts them: no terminal, and a PATH without lscpu, of which joblib complains."""
    require(path)
    folder = experiment.environment.folder
    model = {"name": "modelA", "version": "1.0", "estimator": path, "params": params}
    forest = "sklearn.ensemble.RandomForestClassifier"
    of_joblib = {"estimator": forest, "params": {"n_estimators": 5, "n_jobs": 2, "verbose": 1}}
    config = write_config(
        folder,
        engine.url.render_as_string(),
        models={"A": model, "B": {"name": "modelB", "version": "1.0", **of_joblib}},
    )
    for script in ("train", "predict"):
        ended = subprocess.run(
            [sys.executable, ROOT / f"{script}.py", "--config", config, "--date", str(FIRST_NIGHT)],
            cwd=folder,
            env={**os.environ, "PATH": str(folder), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
    assert not (folder / "catboost_info").exists()
    (log,) = experiment.environment.logs_dir.glob("train_*.log")
    text = log.read_text(encoding="utf-8")
    assert printed in text
    assert "Parallel(n_jobs=2)" in text
