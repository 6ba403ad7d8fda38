"""Command lines of the three scripts: what they take, how it is refused, and how soon."""

import argparse
import importlib
import os
import signal
import subprocess
import sys
from datetime import date, datetime
from pathlib import Path

import pytest

from abatch import arguments
from tests.conftest import ROOT

HEAVY = {"pydantic", "sqlalchemy", "numpy", "pandas", "scipy", "sklearn", "alembic"}


def list_loaded(*command: str) -> tuple[int, str, str, set[str]]:
    """Exit code, output and messages of a Python process, and the names that it has imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    lines = done.stderr.splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    said = [line for line in lines if not line.startswith("import time:")]
    return done.returncode, done.stdout, "\n".join(said), loaded


@pytest.mark.parametrize("script", ["train.py", "predict.py", "score.py"])
def test_scripts_parse_before_they_import_the_story(script: str) -> None:
    code, out, err, loaded = list_loaded(script, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: {script} ")
    assert "abatch.arguments" in loaded
    assert loaded.isdisjoint(HEAVY)
    code, out, err, loaded = list_loaded(script, "--dry-rum")
    assert (code, out) == (2, "")
    assert "unrecognized arguments: --dry-rum" in err
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("job", ["train", "predict", "score"])
def test_help_fits_80_columns(
    job: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(job).main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert caught.value.code == 0
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("Writes  ") for line in lines)
    assert "\n".join(lines[-2:]) == arguments.EXIT_CODES


def test_dry_run_goes_with_no_switch(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments.parse("score", "", ["--rebuild"], rebuild="anew").rebuild
    with pytest.raises(SystemExit) as caught:
        arguments.parse("score", "", ["--dry-run", "--rebuild"], rebuild="anew")
    assert caught.value.code == 2
    assert "--dry-run writes nothing, so it does not go with --rebuild" in capsys.readouterr().err


def test_parse_date() -> None:
    assert arguments.parse_date("2026-11-23") == date(2026, 11, 23)
    for text, expected in (("23.11.2026", "as YYYY-MM-DD"), ("0226-11-23", "from 1990 to 2099")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"found '{text}', .* {expected}"):
            arguments.parse_date(text)


def test_parse_moment_is_a_day_or_naive_utc() -> None:
    assert arguments.parse_moment("2026-11-23") == date(2026, 11, 23)
    assert arguments.parse_moment("2026-11-23T08:00:00") == datetime(2026, 11, 23, 8)
    assert arguments.parse_moment("2026-11-23T08:00:00+01:00") == datetime(2026, 11, 23, 7)
    with pytest.raises(argparse.ArgumentTypeError, match="expected YYYY-MM-DD, or"):
        arguments.parse_moment("yesterday")


INTERRUPTED = """
import os, signal, sys
from abatch import arguments
signal.signal(signal.SIGINT, signal.default_int_handler)  # which may be ignored in the background
sys.argv[:] = ["predict.py"]
arguments.parse("predict", None)
from abatch.modelling import forking
forking.start()
os.kill(os.getpid(), int({}))
import time
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_script_that_is_interrupted_before_its_job(
    number: signal.Signals, tmp_path: Path
) -> None:
    """While it imports, for a second or more; the folder of its workers' server goes, too."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(number)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    expected = "predict: interrupted before it began. Run it again.\n"
    assert (done.returncode, done.stderr) == (1, expected)
    assert [*tmp_path.iterdir()] == []


ENDING = """
import atexit, os, signal, sys
import predict
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(os.kill, os.getpid(), int({}))
sys.argv[:] = ["predict.py", "--config", "none.yaml"]
sys.exit(predict.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_script_that_is_interrupted_once_its_job_is_over(number: signal.Signals) -> None:
    """It leaves with the exit code of the job."""
    done = subprocess.run(
        [sys.executable, "-c", ENDING.format(number)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("predict: none.yaml: ")
    assert done.stderr.count("\n") == 1
