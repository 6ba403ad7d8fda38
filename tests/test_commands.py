"""Commands on what has become of a week: rollback by day, delete, snapshots, recall."""

import stat
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa

import train
from abatch import __main__ as main
from abatch.config import Experiment
from abatch.database.tables import deletions
from abatch.modelling import snapshots
from tests.conftest import A1, A8, LATER_NIGHT, call, find_live


def test_rollback_to_what_was_live_on_a_day(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(week, week_engine, LATER_NIGHT)
    assert find_live(week_engine)["A"] == A8
    for wrong in (
        ["rollback", "--reason", "x"],
        ["rollback", "modelA", "--to", "2026-09-03", "--reason", "x"],
    ):
        with pytest.raises(SystemExit, match="2"):
            main.main(wrong)
    assert capsys.readouterr().err.count("name either a model") == 2
    code, _, err = call(
        capsys, week, "rollback", "--to", "2026-09-09", "--reason", "x", "--date", "2026-09-08"
    )
    assert code == 2
    assert "--to 2026-09-09 lies after 2026-09-08" in err
    code, out, err = call(
        capsys,
        week,
        "rollback",
        "--to",
        "2026-09-03",
        "--reason",
        "complaints",
        "--date",
        "2026-09-08",
    )
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 2
    assert find_live(week_engine) == {"A": A1, "B": A1.replace("A", "B")}
    code, out, err = call(
        capsys, week, "rollback", "--to", "2026-09-03", "--reason", "again", "--date", "2026-09-08"
    )
    assert (code, out) == (0, "what was live on 2026-09-03 is live on 2026-09-08 already\n")
    code, out, err = call(capsys, week, "rollback", "--to", "2026-08-01", "--reason", "x")
    assert code == 1
    assert "no model was live on 2026-08-01" in err


def test_delete_never_what_is_live(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(week, week_engine, LATER_NIGHT)
    code, out, err = call(capsys, week, "delete", A8, "--reason", "x")
    assert (code, out) == (1, "")
    assert f"{A8} is live, or will be, and is not deleted" in err
    assert call(capsys, week, "rollback", A1, "--reason", "x", "--date", "2026-09-08")[0] == 0
    assert "It was live once" in call(capsys, week, "delete", A8, "--reason", "erasure")[1]
    assert not list(week.environment.models_dir.glob(f"{A8}.*"))
    code, out, err = call(capsys, week, "promote", A8, "--reason", "x")
    assert code == 1
    assert f"{A8} was deleted on " in err
    assert "(erasure)" in err
    assert call(capsys, week, "delete", A8, "--reason", "again")[0] == 0  # harmless to repeat
    assert "was deleted already, on " in call(capsys, week, "delete", A8, "--reason", "third")[1]
    with week_engine.connect() as connection:
        reasons = connection.scalars(sa.select(deletions.c.reason).filter_by(name=A8)).all()
    assert reasons == ["erasure"]
    assert "deleted" in call(capsys, week, "models")[1]


def test_snapshots_command(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = week.environment.snapshots_dir.glob("*.parquet")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(week.environment.snapshots_dir.stat().st_mode) == 0o700
    code, out, _ = call(capsys, week, "snapshots")
    assert code == 0
    assert path.stem[:12] in out
    assert "there (needed)" in out
    assert str(44 * 150) in out
    code, out, _ = call(capsys, week, "snapshots", "show", A1)
    assert code == 0
    assert path.stem in out
    assert "income" in out
    assert out.endswith(week.sql["training"].rstrip() + "\n")
    assert call(capsys, week, "snapshots", "verify")[:2] == (
        0,
        "1 of 1 snapshots are what was pulled\n",
    )
    assert call(capsys, week, "snapshots", "purge")[0] == 0
    assert path.exists()
    path.write_bytes(path.read_bytes()[:-1])
    code, out, _ = call(capsys, week, "snapshots", "verify", path.stem[:8])
    assert code == 1
    assert "the snapshot's file was changed" in out
    assert "0 of 1 snapshots are what was pulled" in out
    path.unlink()
    assert "missing (needed)" in call(capsys, week, "snapshots")[1]
    code, _, err = call(capsys, week, "snapshots", "show", "nothing")
    assert code == 1
    assert "there is no snapshot of this hash" in err


def test_recall_is_what_train_saw(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with week_engine.connect() as connection:
        row = snapshots.choose_snapshot(connection, A1)
    out_file = tmp_path / "rows.parquet"
    window = ("--from", str(row.from_date), "--to", str(row.to_date))
    code, out, err = call(
        capsys,
        week,
        "recall",
        "card_offer",
        *window,
        "--as-of",
        "2026-09-01",
        "--out",
        str(out_file),
    )
    assert (code, err) == (0, "")
    assert row.content_hash in out
    pd.testing.assert_frame_equal(
        snapshots.from_parquet(out_file.read_bytes()),
        snapshots.load(week.environment.snapshots_dir, row),
    )
    assert stat.S_IMODE(out_file.stat().st_mode) == 0o600


def test_recall_diff_counts_by_hand(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """On August 25 the calls of the 22nd to the 24th and corrections of incomes came in.

    What was known is asked of the tables.
    """
    early, late = "2026-08-22 23:00:00", "2026-09-05 23:00:00"
    with week_engine.connect() as connection:
        window = "call_date >= '2026-08-15' and call_date < '2026-08-26'"
        query = (
            f"select count(*) from card_calls where loaded_at > ? and loaded_at <= ? and {window}"
        )
        n_added = connection.exec_driver_sql(query, (early, late)).scalar_one()
    asked = ("recall", "card_offer", "--from", "2026-08-15", "--to", "2026-08-26")
    code, out, err = call(
        capsys, week, *asked, "--as-of", early.replace(" ", "T"), "--diff", late.replace(" ", "T")
    )
    assert (code, err) == (0, "")
    assert f"{n_added} rows added, 0 removed" in out
    assert "outcome " in out
    again = call(
        capsys, week, *asked, "--as-of", early.replace(" ", "T"), "--diff", early.replace(" ", "T")
    )
    assert "0 rows added, 0 removed, 0 changed" in again[1]
    assert (
        call(
            capsys,
            week,
            "recall",
            "card_offer",
            "--from",
            "2026-08-15",
            "--to",
            "2026-08-15",
            "--as-of",
            "2026-08-20",
        )[0]
        == 2
    )
    assert (
        call(
            capsys,
            week,
            "recall",
            "card_ofer",
            "--from",
            "2026-08-15",
            "--to",
            "2026-08-16",
            "--as-of",
            "2026-08-20",
        )[0]
        == 2
    )
