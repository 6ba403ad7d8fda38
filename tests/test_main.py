"""python -m abatch: its commands, their help, texts and JSON; what a first predict prints."""

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

import abatch
import predict
import score
import train
from abatch import __main__ as main
from abatch.commands import GROUP_OF, GROUPS
from abatch.commands.command import COMMANDS
from abatch.config import Experiment, load_experiments
from abatch.database import tables
from abatch.database.tables import (
    acknowledgements,
    conclusions,
    doubts,
    looks,
    predictions,
    promotions,
    runs,
    verdicts,
)
from abatch.errors import RegistryError
from abatch.experiment import registrations
from abatch.modelling import promotion
from demo import simulate
from tests.conftest import (
    FIRST_NIGHT,
    ROOT,
    Templates,
    add_runs,
    open_engine,
    write_config,
    write_experiment,
)
from tests.test_arguments import HEAVY, list_loaded

DAY = timedelta(days=1)
A1, A2, A3 = (f"modelA_v1.0_{FIRST_NIGHT + days * DAY}" for days in range(3))


@pytest.fixture(scope="module")
def trained(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bank of three nights and models of each; copied, never used itself."""
    folder = tmp_path_factory.mktemp("trained")
    templates.copy("sqlite", "trained", folder)
    experiment = write_experiment(folder, "sqlite:///bank.db")
    engine = open_engine(experiment)
    simulate.simulate(engine, FIRST_NIGHT + 2 * DAY)
    for days in (1, 2):
        train.train(experiment, engine, FIRST_NIGHT + days * DAY)
    engine.dispose()
    return folder


@pytest.fixture
def bank(trained: Path, tmp_path: Path) -> Experiment:
    shutil.copytree(trained, tmp_path / "bank", symlinks=True)
    return load_experiments(tmp_path / "bank" / "ml_config.yaml", "dev")["card_offer"]


@pytest.fixture
def engine(bank: Experiment) -> Iterator[sa.Engine]:
    engine = open_engine(bank)
    yield engine
    engine.dispose()


def run(file: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "abatch", *arguments, "--config", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout, done.stderr


def call(
    capsys: pytest.CaptureFixture[str], experiment: Experiment, *arguments: str
) -> tuple[int, str, str]:
    """The same in this process."""
    code = main.main([*arguments, "--config", str(experiment.environment.file)])
    return code, *capsys.readouterr()


def read_promotions(engine: sa.Engine, variant: str = "A") -> list[sa.Row[Any]]:
    with engine.connect() as connection:
        return list(
            connection.execute(
                sa.select(promotions)
                .where(promotions.c.variant == variant)
                .order_by(promotions.c.promotion_id)
            )
        )


def predicted_with(bank: Experiment, engine: sa.Engine, night: date) -> str | None:
    """model_name of variant A after a predict for a night."""
    predict.predict(bank, engine, night)
    names = (
        sa.select(predictions.c.model_name)
        .where(predictions.c.run_date == night, predictions.c.variant == "A")
        .distinct()
    )
    with engine.connect() as connection:
        return connection.scalars(names).one()


def test_commands_on_a_new_database(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write_config(tmp_path, "sqlite:///data/bank.db")
    experiment = load_experiments(file, "dev")["card_offer"]
    for name in ("status", "models"):
        code, out, err = call(capsys, experiment, name)
        assert (code, out) == (1, "")
        assert err.endswith("there is no such file. Run: python -m abatch init --env dev\n")
    (tmp_path / "data").mkdir()
    assert run(file, "init") == (
        0,
        f"sqlite:///{tmp_path}/data/bank.db: abatch's tables are ready\n",
        "",
    )
    assert call(capsys, experiment, "init")[0] == 0
    code, out, err = call(capsys, experiment, "status", "--date", "2026-09-01")
    assert (code, err) == (0, "")
    assert out.count("has never run") == 3
    assert out.count("no model is live") == 2
    assert call(capsys, experiment, "models") == (
        0,
        "there are no models yet. Train some: python train.py\n",
        "",
    )


def test_init_sql_connects_to_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ABATCH_PROD_DATABASE", raising=False)
    monkeypatch.chdir(tmp_path)
    repository = ["--config", str(ROOT / "ml_config.yaml")]
    assert main.main(["init", "--sql", "--env", "prod", *repository]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(
        f"-- abatch: creates its tables in schema abatch, revision {tables.REVISION}.\n"
        "-- Run:  sqlcmd "
    )
    file = write_config(tmp_path, "sqlite:///data/bank.db")
    assert main.main(["init", "--sql", "--config", str(file)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\nbegin immediate;\n" in out
    assert not (tmp_path / "data").exists()
    url = "postgresql+psycopg://nobody:hunter2@127.0.0.1:1/d"
    code, out, err = run(write_config(tmp_path, url, "abatch"), "init", "--sql")
    assert (code, err) == (0, "")
    assert "\ndo $$\n" in out
    assert "hunter2" not in out


def test_dictionary_needs_no_config(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ABATCH_ENV": "nowhere"}
    command = [sys.executable, "-m", "abatch", "dictionary"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    assert done.stdout == tables.DICTIONARY.read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_that_cannot_be_written() -> None:
    """A reader that went away, as `head` does, is no fault; a full disk is, and can be mended."""
    command = [sys.executable, "-m", "abatch", "dictionary"]
    reading, writing = os.pipe()
    os.close(reading)
    gone = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (gone.returncode, gone.stderr) == (0, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "abatch dictionary: the output: cannot be written (No space left on device). Check the"
        " folder's rights and room, then look what was done (python -m abatch status) before you"
        " run it again.\n"
    )


def test_commands_on_a_trained_bank(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    code, out, err = run(bank.environment.file, "models", "--date", "2026-09-03")
    lines = {line.split()[0]: line.split() for line in out.splitlines()[1:]}
    assert (code, err) == (0, "")
    assert len(lines) == 6
    assert [name for name, words in lines.items() if "live" in words] == [A3, A3.replace("A", "B")]
    # to_date: feed of Aug 30, less 14 + 1 days, end excluded
    assert lines[A1][1] == "A"
    assert lines[A1][-3] == "2026-08-16"
    code, out, err = call(
        capsys,
        bank,
        "promote",
        A2,
        "--reason",
        "Ærø 日本",
        "--by",
        "Kari",
        "--date",
        "2026-09-03",
    )
    assert (code, err) == (0, "")
    assert out == f"card_offer, variant A: {A2} is live from 2026-09-03 on (before: {A3})\n"
    code, out, err = call(
        capsys,
        bank,
        "rollback",
        "modelA",
        "--reason",
        "complaints",
        "--date",
        "2026-09-03",
    )
    assert (code, out, err) == (
        0,
        f"card_offer, variant A: {A3} is live from 2026-09-03 on (before: {A2})\n",
        "",
    )
    *_, promoted, back = read_promotions(engine)
    assert (promoted.action, promoted.model_name, promoted.reason, promoted.promoted_by) == (
        "promote",
        A2,
        "Ærø 日本",
        "Kari",
    )
    assert (back.action, back.model_name, back.effective_date) == (
        "rollback",
        A3,
        FIRST_NIGHT + 2 * DAY,
    )
    assert promoted.promoted_at <= back.promoted_at
    assert "@" in back.promoted_by
    assert os.readlink(bank.environment.models_dir / "modelA_v1.0_latest.pkl") == f"{A3}.pkl"
    for reason, earlier in (("worse", A2), ("worse yet", A1)):  # goes on to what was live before
        assert (
            call(
                capsys,
                bank,
                "rollback",
                "modelA",
                "--reason",
                reason,
                "--date",
                "2026-09-03",
            )[0]
            == 0
        )
        assert read_promotions(engine)[-1].model_name == earlier


def test_help_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "abatch", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert all(name in done.stdout for name in (*GROUP_OF, "Exit codes: 0 done"))
    for name, group in GROUP_OF.items():
        with pytest.raises(SystemExit) as caught:
            main.main([name, "--help"])
        out = capsys.readouterr().out
        assert caught.value.code == 0
        assert "--env" in out or name == "dictionary"
        assert GROUPS[group][name] in " ".join(out.split())
    for wrong in (
        [],
        ["inti"],
        ["init", "--date", "2026-09-01"],
        ["promote", A1],
        ["rollback", "--reason", "x"],
        ["conclude", "card_offer"],
        ["conclude", "--because", "x"],
        ["conclude", "card_offer", "--because", " \n"],
        ["status", "--date", "1/9"],
    ):
        with pytest.raises(SystemExit) as caught:
            main.main(wrong)
        out, err = capsys.readouterr()
        assert caught.value.code == 2
        assert out == ""
        assert err.startswith("usage: python -m abatch")


def test_commands_load_only_what_they_need(bank: Experiment, engine: sa.Engine) -> None:
    """No more than SQLAlchemy and pydantic, and --help not even these."""
    predict.predict(bank, engine, FIRST_NIGHT)
    with engine.connect() as connection:
        candidate = connection.scalar(sa.select(sa.func.min(predictions.c.candidate_id)))
    on, why = ("--date", "2026-09-03"), ("--reason", "x")
    light = {
        "status": on,
        "models": on,
        "experiments": (),
        "explain": ("--candidate", str(candidate), "--date", str(FIRST_NIGHT)),
        "promote": (A2, *why, *on),
        "rollback": ("modelA", *why, *on),
        "conclude": ("card_offer", "--because", "x"),
    }
    code, _, err, loaded = list_loaded("-m", "abatch", "--help")
    assert (code, err) == (0, "")
    assert loaded.isdisjoint(HEAVY)
    heavy = {*HEAVY, "pyarrow", "joblib", "jinja2"} - {"pydantic", "sqlalchemy"}
    for name, words in light.items():
        on_bank = ("--config", str(bank.environment.file))
        code, _, err, loaded = list_loaded("-m", "abatch", name, *words, *on_bank)
        assert (code, err) == (0, "")
        assert "sqlalchemy" in loaded
        assert loaded.isdisjoint(heavy), name


def test_help_has_the_commands_in_groups_within_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([], *([name] for name in GROUP_OF)):
        with pytest.raises(SystemExit, match="0"):
            main.main([*words, "--help"])
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        if not words:
            heads = [line.split()[0].rstrip(":") for line in lines if re.match(r"(  )?[a-z]", line)]
            listed = [word for group, names in GROUPS.items() for word in (group, *names)]
            assert heads[1 : len(listed) + 1] == listed


def test_mistyped_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main.main(["rolback", "modelA"])
    err = capsys.readouterr().err
    assert "there is no command 'rolback'; expected one of status, models, " in err
    assert err.endswith("Did you mean 'rollback'?\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main.main(["--version"])
    assert capsys.readouterr().out == f"abatch {abatch.__version__}\n"


def test_options_belong_to_the_commands_that_read_them() -> None:
    """Of each command its own, and every one is a parameter of the function."""
    takes: dict[str, set[str]] = {}
    for name, group in GROUP_OF.items():
        importlib.import_module(f"abatch.commands.{group}")
        options = COMMANDS[name].options
        declared = {flag for option in options.values() for flag in option.flags}
        declared |= {"--json"} if COMMANDS[name].in_json else set()
        takes[name] = declared & {"--date", "--experiment", "--json"}
        parameters = inspect.signature(COMMANDS[name].function).parameters.keys()
        given = {"experiments", "engine"} if "engine" in parameters else set()
        assert parameters == given | {*options}
    dated = {"status", "models", "explain", "promote", "rollback"}
    narrowed = {*dated - {"promote"}, "experiments", "snapshots"}
    in_json = {"status", "models", "experiments", "explain", "snapshots"}
    for option, names in (("--date", dated), ("--experiment", narrowed), ("--json", in_json)):
        assert {name for name, options in takes.items() if option in options} == names


def test_unknown_names_exit_2(capsys: pytest.CaptureFixture[str], bank: Experiment) -> None:
    code, out, err = call(capsys, bank, "status", "--experiment", "card_ofer")
    assert (code, out) == (2, "")
    assert err.startswith("abatch status: ")
    assert "Did you mean 'card_offer'?" in err
    code, out, err = call(capsys, bank, "status", "--env", "devv")
    assert (code, out) == (2, "")
    assert "Did you mean 'dev'?" in err


def test_promote_again_mends_the_links(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    """The folder could not be written when the rows were."""
    link = bank.environment.models_dir / "modelA_v1.0_latest.pkl"
    link.unlink()
    code, out, _ = call(capsys, bank, "promote", A3, "--reason", "x", "--date", "2026-09-03")
    assert (code, out) == (0, f"{A3} is live on 2026-09-03 already\n")
    assert os.readlink(link) == f"{A3}.pkl"


def test_promote_for_a_later_day_moves_no_link_yet(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    link = bank.environment.models_dir / "modelA_v1.0_latest.pkl"
    assert call(capsys, bank, "promote", A1, "--reason", "x", "--date", "2099-01-01")[0] == 0
    assert os.readlink(link) == f"{A3}.pkl"


@pytest.mark.parametrize("script", [train, predict, score])
def test_every_job_mends_the_links(
    script: ModuleType, bank: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """And none fails by it: the folder is there, and cannot be written."""
    link = bank.environment.models_dir / "modelA_v1.0_latest.pkl"
    predict.predict(bank, engine, FIRST_NIGHT)
    words = ["--config", str(bank.environment.file), "--date", str(FIRST_NIGHT + DAY)]
    link.unlink()
    link.mkdir()  # nothing can be put in its place
    assert script.main(words) == 0
    assert f"{link}: cannot be written (Is a directory)" in capsys.readouterr().err
    link.rmdir()
    assert script.main([*words, "--force"]) == 0
    assert os.readlink(link) == f"{A3}.pkl"
    assert str(link) not in capsys.readouterr().err


@pytest.mark.parametrize("step", ["append", "link"])
def test_rollback_interrupted_says_what_is_live(
    step: str,
    capsys: pytest.CaptureFixture[str],
    bank: Experiment,
    engine: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before its row is written, and after; the same command again goes one model back in all."""

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    words = ("rollback", "modelA", "--reason", "x", "--date", "2026-09-03")
    monkeypatch.setattr(promotion, {"append": "promote", "link": "link_live"}[step], interrupt)
    code, out, err = call(capsys, bank, *words)
    live = {"append": A3, "link": A2}[step]
    assert (code, out) == (1, "")
    assert f"Live on 2026-09-03 is now:\n  card_offer, variant A: {live}\n" in err
    assert err.endswith("The same command again does what is missing, if anything is.\n")
    monkeypatch.undo()
    assert call(capsys, bank, *words)[0] == 0
    assert read_promotions(engine)[-1].model_name == A2
    assert os.readlink(bank.environment.models_dir / "modelA_v1.0_latest.pkl") == f"{A2}.pkl"


def test_rollback_by_model_name_until_the_first(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    link = bank.environment.models_dir / "modelA_v1.0_latest.pkl"
    assert os.readlink(link) == f"{A3}.pkl"
    on = ("--date", "2026-09-03")
    for reason, expected in (("x", A2), ("y", A1)):
        words = ("rollback", "modelA", "--reason", reason, *on)
        assert call(capsys, bank, *words)[0] == 0
        assert os.readlink(link) == f"{expected}.pkl"
        said = f"{expected} is live on 2026-09-03 already\n"  # for it means the same again
        assert call(capsys, bank, *words) == (0, said, "")
    code, out, err = call(capsys, bank, "rollback", "modelA", "--reason", "z", *on)
    assert (code, out) == (1, "")
    assert f"variant A: no other model was live before {A1}." in err
    assert [row.model_name for row in read_promotions(engine)] == [A1, A2, A3, A2, A1]
    assert [row.model_name for row in read_promotions(engine, "B")][-1] == A3.replace("A", "B")


def test_rollback_by_dated_name(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    assert call(capsys, bank, "rollback", A1, "--reason", "x", "--date", "2026-09-03")[0] == 0
    assert read_promotions(engine)[-1].action == "rollback"
    code, out, err = call(capsys, bank, "rollback", A1, "--reason", "x", "--date", "2026-09-03")
    assert (code, out, err) == (0, f"{A1} is live on 2026-09-03 already\n", "")
    assert len(read_promotions(engine)) == 4
    assert predicted_with(bank, engine, FIRST_NIGHT + 2 * DAY) == A1


def test_predict_for_a_past_date_obeys(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    assert predicted_with(bank, engine, FIRST_NIGHT + 2 * DAY) == A3
    assert (
        predicted_with(bank, engine, FIRST_NIGHT) == A1
    )  # a night made up for later uses the model of its own day
    capsys.readouterr()
    code, out, _ = call(capsys, bank, "rollback", "modelA", "--reason", "x", "--date", "2026-09-02")
    overruled = (
        f"; this overrules {A3}, which was to be live from a later date on; today's live model"
        f" changes with it (before: {A3})"
    )
    assert (code, out) == (
        0,
        f"card_offer, variant A: {A1} is live from 2026-09-02 on (before: {A2}){overruled}\n",
    )
    assert predicted_with(bank, engine, FIRST_NIGHT + DAY) == A1
    with pytest.raises(
        RegistryError, match="experiment card_offer, variant A: no model is live on 2026-08-31"
    ):
        predict.predict(bank, engine, FIRST_NIGHT - DAY)


def test_promote_for_a_later_date(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    later = date(2096, 9, 1)
    assert call(capsys, bank, "promote", A1, "--reason", "x", "--date", str(later))[0] == 0
    assert predicted_with(bank, engine, FIRST_NIGHT + 2 * DAY) == A3
    code, out, _ = call(capsys, bank, "status", "--date", str(later))
    assert code == 0
    assert f"variant A          {A1}\n" in out


def test_promote_for_a_date_before_the_training(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    """Its own training rows would be predicted, and scored."""
    before = len(read_promotions(engine))
    words = ("promote", A3, "--date", "2026-09-02", "--reason", "why not")
    code, out, err = call(capsys, bank, *words)
    assert (code, out) == (2, "")
    assert f"{A3} was trained for 2026-09-03, on rows that nobody knew on 2026-09-02" in err
    assert err.rstrip().endswith("Name a --date from 2026-09-03 on.")
    assert len(read_promotions(engine)) == before


def test_promote_unknown_suggests(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    code, out, err = call(capsys, bank, "promote", "modelA_v1.0_2026-09-1", "--reason", "x")
    assert (code, out) == (1, "")
    assert err.startswith("abatch promote: there is no model 'modelA_v1.0_2026-09-1'.")
    assert f"Did you mean {A1!r}?" in err
    assert len(err.splitlines()) == 1
    assert len(read_promotions(engine)) == 3


def test_promote_broken_file_changes_nothing(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    (bank.environment.models_dir / f"{A1}.pkl").write_bytes(b"another")
    code, out, err = call(capsys, bank, "promote", A1, "--reason", "x", "--date", "2026-09-03")
    assert (code, out) == (1, "")
    assert "The file was changed and is not opened." in err
    assert len(read_promotions(engine)) == 3
    assert os.readlink(bank.environment.models_dir / "modelA_v1.0_latest.pkl") == f"{A3}.pkl"


def test_promote_without_a_user_name(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bank: Experiment,
    engine: sa.Engine,
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert call(capsys, bank, "promote", A1, "--reason", "x", "--date", "2026-09-03")[0] == 0
    assert read_promotions(engine)[-1].promoted_by.startswith("user 54321@")


def add_run(
    engine: sa.Engine, run_id: str, job: str, day: int, status: str, error: str | None = None
) -> None:
    """A run for a day of September."""
    values = {
        "run_id": run_id,
        "job": job,
        "experiment": "card_offer",
        "run_date": date(2026, 9, day),
        "status": status,
        "error": error,
    }
    add_runs(engine, {**values, "started_at": datetime(2026, 9, day, 20, 15)})


def test_status_missed_dates_and_a_dead_run(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    for day in (1, 3):
        add_run(engine, f"p{day}", "predict", day, "done")
    add_run(engine, "p2", "predict", 2, "failed", "broken")
    add_run(engine, "p5", "predict", 5, "running")
    add_run(engine, "s1", "score", 1, "done")
    add_run(engine, "s2", "score", 2, "failed", "sql/o.sql: no such table\nsecond line")
    code, out, err = call(capsys, bank, "status", "--date", "2026-09-08")
    assert (code, err) == (0, "")
    train_line, predict_line, score_line = out.splitlines()[-3:]
    assert train_line == "  train    last run for 2026-09-03: done"
    assert (
        predict_line
        == "  predict  last run for 2026-09-05: running on bi01 (process 7) since 2026-09-05 20:15"
        " UTC; missed 2026-09-04 to 2026-09-07, 2026-09-02"
    )
    assert (
        score_line
        == "  score    last run for 2026-09-02: failed (sql/o.sql: no such table); missed"
        " 2026-09-02 to 2026-09-07"
    )
    _, out, _ = call(capsys, bank, "status", "--date", "2026-09-02")
    assert "no night missed" in out.splitlines()[-2]


def test_models_dir_is_a_file(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    shutil.rmtree(bank.environment.models_dir)
    bank.environment.models_dir.touch()
    code, out, err = call(capsys, bank, "promote", A1, "--reason", "x")
    assert (code, out) == (1, "")
    assert f"{A1}.pkl: the file of {A1} cannot be read" in err
    assert len(err.splitlines()) == 1
    assert len(read_promotions(engine)) == 3


def count(engine: sa.Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_first_predict_says_what_it_commits_to(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    """Once: a rehearsal says it too and registers nothing; what comes later is silent."""
    predict.predict(bank, engine, FIRST_NIGHT, dry_run=True)
    rehearsed = capsys.readouterr().out
    assert count(engine, tables.registrations) == 0
    command = [
        sys.executable,
        "predict.py",
        "--config",
        str(bank.environment.file),
        "--date",
        str(FIRST_NIGHT),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stderr) == (0, "")  # not at a terminal: this and nothing else
    assert done.stdout == rehearsed
    lines = rehearsed.splitlines()
    assert lines[0] == "card_offer: a new experiment. Its first predict registers for good:"
    assert max(map(len, lines)) < 80
    with engine.connect() as connection:
        registration = registrations.find(connection, "card_offer")
    assert registration is not None
    assert registration.start_date == FIRST_NIGHT
    words = " ".join(rehearsed.split())
    for comparison, sample in registration.plan.samples.items():
        assert f"{comparison}: {sample.n_most:,} candidates at most" in words
    assert "if every night brings 1,000 new candidates" in words
    assert all(
        line
        in "\n".join(
            file.read_text(encoding="utf-8") for file in bank.environment.logs_dir.glob("predict*")
        )
        for line in lines
    )
    predict.predict(bank, engine, FIRST_NIGHT, force=True)
    predict.predict(bank, engine, FIRST_NIGHT + DAY)
    predict.predict(bank, engine, FIRST_NIGHT + 2 * DAY, dry_run=True)
    assert capsys.readouterr().out == ""
    assert count(engine, tables.registrations) == 1


def look(
    engine: sa.Engine,
    day: int,
    *found: tuple[str, str, str, float | None, float | None, float | None],
) -> None:
    """A look on a day of September at comparison, metric, word, estimate, lower, upper.

    12,000 against 1,300 candidates.
    """
    key = {"experiment": "card_offer", "run_date": date(2026, 9, day), "run_id": f"look{day}"}
    counts = {
        "n_treatment": 12_000,
        "n_control": 1300,
        "exposures_treatment": 12_000,
        "exposures_control": 1300,
        "n_burn_in": 100,
    }
    names = ("comparison", "metric", "word", "estimate", "lower", "upper")
    rows = [
        {
            **key,
            **counts,
            "sum_treatment": 600.0,
            "sum_control": 40.0,
            **dict(zip(names, row, strict=True)),
        }
        for row in found
    ]
    with engine.begin() as connection:
        connection.execute(
            looks.insert().values(
                **key, n_predicted=20_000, n_mature=14_000, n_units=13_300, n_mixed=0
            )
        )
        connection.execute(verdicts.insert(), rows)


def drop_from_config(bank: Experiment, new_name: str) -> Experiment:
    """The same config with the experiment under a new name."""
    raw = yaml.safe_load(bank.environment.file.read_text(encoding="utf-8"))
    raw["experiments"] = {new_name: raw["experiments"]["card_offer"]}
    bank.environment.file.write_text(
        yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    return load_experiments(bank.environment.file, "dev")[new_name]


def test_experiments_from_the_first_predict_to_the_conclusion(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    assert call(capsys, bank, "experiments") == (
        0,
        "card_offer: not registered yet; its first predict does it\n",
        "",
    )
    predict.predict(bank, engine, FIRST_NIGHT)
    capsys.readouterr()
    code, out, err = call(capsys, bank, "experiments")
    assert (code, err) == (0, "")
    first, asked, *_, last = out.splitlines()
    assert first.startswith("card_offer: running, registered 20")
    assert asked.startswith("  asked      Calling the customers that a model")
    assert last == "  found      no look yet: run score.py"
    assert "expected +0.01 in the mean outcome per candidate, within 14 days" in " ".join(
        out.split()
    )

    look(
        engine,
        20,
        ("models vs control", "outcome", "better", 0.02, 0.005, 0.035),
        ("B vs A", "outcome", "too early", 0.004, None, None),
    )
    look(
        engine,
        21,
        ("models vs control", "outcome", "not yet known", 0.0192, -0.001, 0.0394),
        ("B vs A", "outcome", "not yet known", -0.00123456, -0.02, 0.01765),
        ("B vs A", "complaints", "kept", None, None, None),
    )
    findings = [
        "B vs A, guardrail complaints: kept on 2026-09-21, 12,000 against 1,300 candidates",
        (
            "B vs A: not yet known, -0.001235 (-0.02 to +0.01765) on 2026-09-21, 12,000 against"
            " 1,300 candidates"
        ),
        (
            "models vs control: not yet known, +0.0192 (-0.001 to +0.0394) on 2026-09-21, 12,000"
            " against 1,300 candidates; first decided on 2026-09-20"
        ),
    ]
    code, out, err = call(capsys, bank, "experiments")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) < 80
    assert " ".join(out.split()).endswith(" ".join(f"found {finding}" for finding in findings))

    because = "Ærlig talt: kundene svarer. " + "We keep B, as it is simpler and no worse. " * 3
    code, out, err = call(
        capsys, bank, "conclude", "card_offer", "--because", because, "--by", "Kari"
    )
    assert (code, err) == (0, "")
    assert (
        " ".join(out.split())
        == f"card_offer: concluded. The finding kept beside it: {'; '.join(findings)}"
    )
    code, out, err = call(capsys, bank, "experiments")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) < 80
    assert out.startswith("card_offer: concluded, registered 20")
    words = " ".join(out.split())
    assert f"concluded {' '.join(because.split())} 20" in words
    assert words.endswith(" UTC by Kari")
    with engine.connect() as connection:
        row = connection.execute(sa.select(conclusions)).one()
    assert (row.experiment, row.because, row.concluded_by) == (
        "card_offer",
        because.strip(),
        "Kari",
    )
    assert row.finding == "; ".join(findings)

    assert (
        call(capsys, bank, "conclude", "card_offer", "--because", "On second thoughts no.")[0] == 0
    )
    words = " ".join(call(capsys, bank, "experiments")[1].split())
    assert "concluded On second thoughts no. 20" in words
    assert "Kari" not in words
    assert count(engine, conclusions) == 2  # the first is kept


def test_acknowledge_what_is_doubted(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    """Refused where nothing is; a conclusion that rests on it says so."""
    reason = ["--reason", " B has a new model. ", "--by", "Kari"]
    predict.predict(bank, engine, FIRST_NIGHT)
    look(engine, 20, ("models vs control", "outcome", "better", 0.02, 0.005, 0.035))
    capsys.readouterr()
    code, out, err = call(capsys, bank, "acknowledge", "card_offer", *reason)
    assert (code, out) == (2, "")
    assert err == (
        "abatch acknowledge: card_offer: the newest look doubts no night, or it is acknowledged"
        " already.\n"
    )
    common = {"experiment": "card_offer", "run_date": date(2026, 9, 20), "metric": "outcome"}
    common |= {"n": 9, "n_found": 0, "log_sum": 0.0, "words": "", "run_id": "r"}
    nights = [FIRST_NIGHT + days * timedelta(days=1) for days in range(4)]
    with engine.begin() as connection:
        doubted = {"doubts": "outcome of B: 2026-09-02 (few outcomes)", "mature_date": nights[3]}
        connection.execute(looks.update().values(doubted))
        for variant, kind, ends in (("B", "few outcomes", 1), ("A", "rows twice", 3)):
            row = {"variant": variant, "kind": kind, "from_date": nights[ends - 1]}
            connection.execute(doubts.insert().values(**common, **row, to_date=nights[ends]))
    out = call(capsys, bank, "conclude", "card_offer", "--because", "x")[1]
    assert ", with doubts (outcome of B: 2026-09-02 (few outcomes))" in out
    assert out.endswith("\nIt rests on outcomes that are doubted: mending them may overturn it.\n")
    look(engine, 25, ("models vs control", "outcome", "better", 0.02, 0.005, 0.035))
    add_run(engine, "look25", "score", 25, "early")  # of a night yet to come: counts for nothing
    head = "card_offer: right from the next score on (python score.py --force today):\n"
    one = "  outcome of B, 2026-09-01 to 2026-09-02 (few outcomes)\n"
    other = "  outcome of A, 2026-09-03 to 2026-09-04, and nights that go on like these"
    code, out, err = call(
        capsys, bank, "acknowledge", "card_offer", *reason, "--night", "2026-09-01"
    )
    assert (code, out, err) == (0, head + one, "")
    code, out, err = call(capsys, bank, "acknowledge", "card_offer", *reason)
    assert (code, out, err) == (0, f"{head}{other} (rows twice)\n", "")  # the first is acknowledged
    again = call(capsys, bank, "acknowledge", "card_offer", *reason)  # as after an interrupt
    assert again == (0, f"{head}{other} (rows twice)\n{one}", "")
    code, out, err = call(capsys, bank, "acknowledge", "card_offer", "--reason", "another")
    assert (code, out) == (2, "")
    with engine.connect() as connection:
        rows = connection.execute(sa.select(acknowledgements)).all()
    assert [(row.variant, row.to_date, row.is_ongoing) for row in rows] == [
        ("B", nights[1], 0),
        ("A", nights[3], 1),
    ]
    assert {(row.reason, row.acknowledged_by) for row in rows} == {("B has a new model.", "Kari")}
    code, out, err = call(
        capsys, bank, "acknowledge", "card_offer", *reason, "--night", "2026-09-09"
    )
    assert (code, out) == (2, "")
    assert "the newest look doubts not the night 2026-09-09, or it is" in err
    code, out, err = call(capsys, bank, "acknowledge", "card_ofer", *reason)
    assert (code, out) == (2, "")
    assert "Did you mean 'card_offer'?" in err


def test_conclude_of_an_experiment_that_is_gone(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    predict.predict(bank, engine, FIRST_NIGHT)
    renamed = drop_from_config(bank, "card_offer_2")
    capsys.readouterr()
    code, out, err = call(capsys, renamed, "experiments")
    assert (code, err) == (0, "")
    assert out.startswith("card_offer: no longer in the config, not concluded, registered 20")
    assert out.endswith("\n\ncard_offer_2: not registered yet; its first predict does it\n")
    code, out, err = call(capsys, renamed, "conclude", "card_offer", "--because", "Given up.")
    assert (code, out, err) == (
        0,
        "card_offer: concluded. The finding kept beside it: no look yet\n",
        "",
    )
    assert call(capsys, renamed, "experiments")[1].startswith(
        "card_offer: concluded, registered 20"
    )
    again = call(capsys, renamed, "conclude", "card_offer", "--because", "Given up.")
    assert again[0] == 0
    assert re.fullmatch(r"card_offer: concluded already, on 20[\d-]+ by \S+@\S*\n", again[1])
    with engine.connect() as connection:
        assert len(connection.execute(sa.select(conclusions)).all()) == 1


def test_conclude_unknown_experiment(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    code, out, err = call(capsys, bank, "conclude", "card_offer", "--because", "x")
    assert (code, out) == (2, "")
    assert "there is no registered experiment 'card_offer'" in err
    predict.predict(bank, engine, FIRST_NIGHT)
    capsys.readouterr()
    code, out, err = call(capsys, bank, "conclude", "card_ofer", "--because", "x")
    assert (code, out) == (2, "")
    assert (
        err == "abatch conclude: there is no registered experiment 'card_ofer'; expected one of"
        " card_offer. Did you mean 'card_offer'?\n"
    )
    assert count(engine, conclusions) == 0


def test_experiments_of_one_says_nothing_false_of_the_others(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    predict.predict(bank, engine, FIRST_NIGHT)
    raw = yaml.safe_load(bank.environment.file.read_text(encoding="utf-8"))
    second = yaml.safe_load(yaml.safe_dump(raw["experiments"]["card_offer"]))
    for model in second["models"].values():
        model["name"] += "_second"
    raw["experiments"]["second"] = second
    bank.environment.file.write_text(
        yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    capsys.readouterr()
    code, out, err = call(capsys, bank, "experiments", "--experiment", "second")
    assert (code, out, err) == (0, "second: not registered yet; its first predict does it\n", "")
    assert call(capsys, bank, "experiments")[1].startswith("card_offer: running, registered 20")


def test_status_as_json(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    predict.predict(bank, engine, FIRST_NIGHT)
    capsys.readouterr()
    code, out, err = call(capsys, bank, "status", "--date", "2026-09-03", "--json")
    (state,) = json.loads(out)
    assert (code, err) == (0, "")
    assert (state["experiment"], state["environment"], state["date"]) == (
        "card_offer",
        "dev",
        "2026-09-03",
    )
    assert state["database"] == f"sqlite:///{engine.url.database}"
    assert state["variants"] == [
        {"variant": "A", "has_model": True, "model_name": A3},
        {"variant": "B", "has_model": True, "model_name": A3.replace("A", "B")},
        {"variant": "control", "has_model": False, "model_name": None},
    ]
    trained, predicted, scored = state["jobs"]
    assert (trained["job"], trained["missed"]) == ("train", None)
    assert predicted["missed"] == [{"first": "2026-09-02", "last": "2026-09-02"}]
    assert predicted["last_run"].keys() == set(runs.columns.keys())
    assert predicted["last_run"]["status"] == "done"
    assert datetime.fromisoformat(predicted["last_run"]["started_at"]).tzinfo is not None
    assert scored == {"job": "score", "last_run": None, "missed": None}


def test_models_as_json(capsys: pytest.CaptureFixture[str], bank: Experiment) -> None:
    code, out, err = call(capsys, bank, "models", "--date", "2026-09-03", "--json")
    found = {row["model_name"]: row for row in json.loads(out)}
    assert (code, err, len(found)) == (0, "", 6)
    assert [name for name, row in found.items() if row["is_live"]] == [A3, A3.replace("A", "B")]
    roc_auc = found[A1].pop("roc_auc")
    assert 0.5 < roc_auc < 1
    assert found[A1] == {
        "model_name": A1,
        "experiment": "card_offer",
        "variant": "A",
        "is_live": False,
        "is_deleted": False,
        "from_date": "2025-08-16",
        "to_date": "2026-08-16",
        "rows": found[A1]["rows"],
    }
    _, out, _ = call(capsys, bank, "models", "--date", "2026-09-03")
    assert f"{roc_auc:.4f}" in next(line for line in out.splitlines() if A1 in line)


def test_json_of_nothing_is_an_empty_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write_config(tmp_path, f"sqlite:///{tmp_path}/bank.db")
    experiment = load_experiments(file, "dev")["card_offer"]
    assert call(capsys, experiment, "init")[0] == 0
    for name in ("models", "snapshots"):
        assert call(capsys, experiment, name, "--json") == (0, "[]\n", "")


def test_snapshots_as_json(
    capsys: pytest.CaptureFixture[str], bank: Experiment, engine: sa.Engine
) -> None:
    code, out, err = call(capsys, bank, "snapshots", "--json")
    first, *_, last = json.loads(out)
    assert (code, err) == (0, "")
    assert first.keys() == {
        *("content_hash", "experiment", "from_date", "to_date", "as_of", "rows", "n_bytes"),
        *("sha256", "run_id", "pulled_at", "file", "is_needed"),
    }
    assert (first["experiment"], first["file"], first["is_needed"]) == ("card_offer", "there", True)
    path = bank.environment.snapshots_dir / f"{last['content_hash']}.parquet"
    path.write_bytes(b"another")
    code, out, err = call(capsys, bank, "snapshots", "verify", "--json")
    assert (code, err) == (1, "")
    assert [row["file"] == "whole" for row in json.loads(out)] == [True, True, False]
    code, out, err = call(capsys, bank, "snapshots", "show", A1, "--json")
    shown = json.loads(out)
    assert (code, err) == (0, "")
    assert shown["columns"][0].keys() == {"name", "type", "nulls", "fingerprint"}
    assert shown["query"] == bank.query("training").text
    assert call(capsys, bank, "snapshots", "purge", "--json") == (0, "[]\n", "")
