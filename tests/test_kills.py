"""The program of `make test-faults` finds a fault that was made for it, and no others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import predict
from tests.conftest import FIRST_NIGHT, Templates
from tests.faults.inputs import REFUSED, RIGHT, WRONG, Input, meet
from tests.faults.kills import COMMANDS, Stages, Trial
from tests.faults.soak import soak

PREDICT = next(command for command in COMMANDS if command.name == "predict first")


def main(arguments: Sequence[str]) -> int:
    """predict.py that shows each row as it writes it."""

    def commit(_c: Any, cursor: Any, statement: str, *_: object) -> None:
        if statement.lower().startswith(("insert", "update", "delete")):
            cursor.connection.execute("commit")
            cursor.connection.execute("begin immediate")

    sa.event.listen(sa.Engine, "after_cursor_execute", commit)
    return predict.main(arguments)


def kill_after(trial: Trial, words: str) -> tuple[str, list[str]]:
    """What a kill before the event does that comes after the first with these words."""
    n_before = next(n for n, event in enumerate(trial.events) if words in event) + 1
    return trial.kill(n_before + 1)


@pytest.mark.slow
def test_kills_find_what_is_made_wrong_and_nothing_else(
    templates: Templates, tmp_path: Path
) -> None:
    stages = Stages(templates, "sqlite", tmp_path)
    (tmp_path / "right").mkdir()
    right = Trial.prepare(PREDICT, stages["trained"], tmp_path / "right")
    for words, event in (
        ("statement: INSERT INTO registrations", "statement: "),
        ("statement: UPDATE runs SET status=?, superseded_by", "statement: UPDATE runs"),
    ):
        happened, differences = kill_after(right, words)
        assert happened.startswith(event)
        assert differences == []
    assert right.kill(len(right.events) + 1) == ("", [])

    (tmp_path / "wrong").mkdir()
    broken = PREDICT._replace(script="tests.test_kills")
    wrong = Trial.prepare(broken, stages["trained"], tmp_path / "wrong")
    _, differences = kill_after(wrong, "statement: INSERT INTO registrations")
    assert differences[0].startswith("readers saw views: view predictions: 0 rows, expected 1000;")
    assert "registrations" not in differences[0]  # which is there, before the night is
    assert wrong.kept == right.kept


def test_inputs_are_judged(templates: Templates, tmp_path: Path) -> None:
    """By exit code, by what is said and by what has changed."""
    stages = Stages(templates, "sqlite", tmp_path)
    words = ("predict", "--date", str(FIRST_NIGHT))

    def judge(*more: str, **how: Any) -> tuple[str, list[str]]:
        given = Input("command line", "", (*words, *more), stage="trained", **how)
        kind, _, faults = meet(given, stages, tmp_path / "bank")
        return kind, faults

    assert judge("--dry-run") == (RIGHT, [])
    assert judge("--dry-run", must_fail=True) == (WRONG, ["it is taken"])
    assert judge("--nope", place="--nope") == (REFUSED, [])
    assert judge("--nope", place="nowhere") == (WRONG, ["its message does not name nowhere"])


@pytest.mark.slow
def test_soak_of_three_nights(templates: Templates, tmp_path: Path) -> None:
    found = soak(Stages(templates, "sqlite", tmp_path), 3, 0, 2)
    assert (found["nights"], found["jobs"], found["different"]) == (3, 7, 0)
    assert found["kills"] != 0
