"""What estimators print, as cron would mail it: nothing, since the log has it."""

import logging
import logging.config
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from abatch.config import Experiment
from abatch.modelling import chatter
from abatch.modelling.chatter import listen
from tests.conftest import FIRST_NIGHT, ROOT, RUN, Templates, write_config
from tests.test_categories import require

LIBRARIES: list[tuple[str, dict[str, Any], str]] = [  # and what each is known to print
    ("lightgbm.LGBMClassifier", {"n_estimators": 5}, "[LightGBM] [Info]"),
    ("xgboost.XGBClassifier", {"n_estimators": 5, "unknown": 1}, "are not used"),
    ("catboost.CatBoostClassifier", {"iterations": 5}, "0:\tlearn:"),
]
OWN_MODELS = """
from sklearn.linear_model import LogisticRegression

class Model(LogisticRegression):
    pass
"""
CHATTY_MODELS = """
import logging, sys
from sklearn.linear_model import LogisticRegression

logging.basicConfig(level="INFO")
logging.info("imported, says the root logger")
print("imported")
print("imported", file=sys.stderr)

class Model(LogisticRegression):
    def __init__(self):
        print("made")
        super().__init__()

    def fit(self, X, y):
        print("fitted")
        logging.basicConfig(force=True)
        logging.warning("fitted, says the root logger")
        return super().fit(X, y)

    def __getstate__(self):
        print("saved")
        return super().__getstate__()

    def __setstate__(self, state):
        print("loaded")
        super().__setstate__(state)
"""


def run_as_cron(folder: Path, path: str = os.environ["PATH"]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of train and of predict, as processes without a terminal."""
    options = ["--config", str(folder / "ml_config.yaml"), "--date", str(FIRST_NIGHT)]
    ended = [
        subprocess.run(
            [sys.executable, ROOT / f"{script}.py", *options],
            cwd=folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        for script in ("train", "predict")
    ]
    return [(process.returncode, process.stdout, process.stderr) for process in ended]


def read_logs(folder: Path) -> str:
    """What both jobs have logged."""
    return "".join(
        path.read_text(encoding="utf-8") for path in (folder / "logs" / "dev").glob("*.log")
    )


@pytest.mark.slow
def test_own_models_print_nothing(templates: Templates, tmp_path: Path) -> None:
    """What is printed, the plan of the experiment, is what a model prints that says nothing."""
    model = {"name": "modelA", "version": "1.0", "estimator": "own_models.Model"}
    printed = []
    for name, text in (("quiet", OWN_MODELS), ("chatty", CHATTY_MODELS)):
        (folder := tmp_path / name).mkdir()
        templates.copy("sqlite", "simulated", folder)
        models = {"A": model, "B": {**model, "name": "modelB"}}
        write_config(folder, "sqlite:///bank.db", models=models)
        (folder / "own_models.py").write_text(text, encoding="utf-8")
        printed.append(run_as_cron(folder))
    quiet, chatty = printed
    assert chatty == quiet
    assert [(code, errors) for code, _, errors in quiet] == [(0, ""), (0, "")]
    log = read_logs(folder)
    for words in (
        "imported",
        "INFO:root:imported, says the root logger",
        "made",
        "fitted",
        "WARNING:root:fitted, says the root logger",
        "saved",
        "loaded",
    ):
        assert re.search(rf"INFO dev {RUN} an estimator says: {words}\n", log)


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
    models = {"A": model, "B": {"name": "modelB", "version": "1.0", **of_joblib}}
    write_config(folder, engine.url.render_as_string(), models=models)
    ended = run_as_cron(folder, path=str(folder))
    assert [(code, errors) for code, _, errors in ended] == [(0, ""), (0, "")]
    assert not (folder / "catboost_info").exists()
    assert printed in (log := read_logs(folder))
    assert "Parallel(n_jobs=2)" in log


def rule_the_process() -> None:
    """What an estimator may do to the logging of its process, by which abatch logs too."""
    stream = {"class": "logging.StreamHandler"}
    logging.config.dictConfig(
        {"version": 1, "handlers": {"stream": stream}, "root": {"handlers": ["stream"]}}
    )  # which disables the loggers that there are
    logging.basicConfig(level="DEBUG", force=True)
    logging.disable()
    warnings.simplefilter("ignore")
    vars(warnings)["showwarning"] = print
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, closed below
    sys.stdout.close()


def describe_process() -> list[object]:
    """What `rule_the_process` changes."""
    loggers = [logging.getLogger(name) for name in ("", "abatch", "py.warnings", "sqlalchemy.pool")]
    return [
        *((known.level, known.handlers[:], known.disabled) for known in loggers),
        logging.root.manager.disable,
        warnings.filters[:],
        warnings.showwarning,
        (sys.stdout, sys.stderr),
    ]


def test_listen_puts_the_process_back(capfd: pytest.CaptureFixture[str]) -> None:
    """Also if the estimator fails, and if it closes what stands for its output."""
    before = describe_process()
    for fault in (ValueError, SystemExit):
        with pytest.raises(fault), listen():
            rule_the_process()
            raise fault
        assert describe_process() == before
    with listen():
        sys.stdout.close()
        os.close(1)
    with listen():
        print("once more")
    print("as ever", flush=True)
    assert capfd.readouterr() == ("as ever\n", "")


def test_listen_lets_handlers_go_on(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """As of a library that makes its handler once: it writes wherever we listen."""
    caplog.set_level("INFO", "abatch")
    library = logging.getLogger("tests.library")
    with listen():
        library.addHandler(handler := logging.StreamHandler())
        library.warning("fitting")
    library.addHandler(handler)
    library.propagate = False
    for word in ("between", "predicting"):
        library.warning(word)
        with listen():
            library.warning("and %s", word)
    library.removeHandler(handler)
    told = [record.getMessage() for record in caplog.records if record.name == "abatch"]
    words = ("fitting", "between", "and between", "predicting", "and predicting")
    assert told == [f"an estimator says: {word}" for word in words]
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system has no files in memory")
def test_listen_where_no_temporary_file_can_be_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    chatter._open_file.cache_clear()
    chatter._open_stream.cache_clear()
    with caplog.at_level(logging.INFO), listen():
        os.write(1, b"from C\n")
    assert caplog.messages == ["an estimator says: from C"]
