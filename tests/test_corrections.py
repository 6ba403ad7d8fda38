"""Outcomes that change after their night was closed."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

import predict
from abatch.config import Experiment
from abatch.database.tables import predictions
from abatch.errors import DatabaseError, DataError
from abatch.experiment import corrections, looks
from abatch.experiment.outcomes import EVENT, Feed
from abatch.queries import Query
from abatch.sections import Outcome
from demo import bank_tables
from tests.conftest import FIRST_NIGHT
from tests.responses import Responses

DAY = timedelta(days=1)
N_NIGHTS = 7
BINARY = Outcome(kind="binary", window_days=2, expected_effect=0.01)


def test_condense_counts_each_night_s_window() -> None:
    """By hand, windows of two days; ids of swapped outcomes differ in the third figure alone."""
    rows = [("1", "2026-09-01", 1.0), ("2", "2026-09-02", 1.0), ("1", "2026-09-04", 1.0)]
    nights = [date(2026, 9, 1), date(2026, 9, 2), date(2026, 9, 4)]

    def condense(rows: list[tuple[str, str, float]]) -> np.ndarray:
        events = pd.DataFrame(rows, columns=EVENT)
        events["event_date"] = pd.to_datetime(events["event_date"])
        return corrections.condense([Feed("x", BINARY, Query("", ""), events, 3)], nights, 2)

    told, swapped = condense(rows), condense([("3", *rows[0][1:]), *rows[1:]])
    assert told[:, 0, :2].tolist() == [[2, 2], [1, 1], [1, 1]]
    assert swapped[:, 0, :2].tolist() == told[:, 0, :2].tolist()
    assert (swapped[:, 0, 2] != told[:, 0, 2]).tolist() == [True, False, False]


@pytest.fixture
def responses(experiment: Experiment, engine: sa.Engine) -> Responses:
    """Seven nights: the week of the first six is closed, tonight's is open."""
    responses = Responses(experiment, engine)
    for days in range(N_NIGHTS):
        responses.play(FIRST_NIGHT + days * DAY)
        responses.score(FIRST_NIGHT + days * DAY)
    return responses


@pytest.mark.bank("trained")
def test_score_tells_corrections_of_closed_nights(
    responses: Responses, capsys: pytest.CaptureFixture[str]
) -> None:
    """One night of each week is corrected, and told when its week's turn comes, once."""
    for days in range(N_NIGHTS, N_NIGHTS + 2):
        responses.play(FIRST_NIGHT + days * DAY)
        responses.score(FIRST_NIGHT + days * DAY)
    before = responses.count()
    changed = [responses.change(FIRST_NIGHT + days * DAY, "11", "x") for days in (2, 7)]
    assert min(changed) > 0
    assert "have changed" not in capsys.readouterr().err
    told = []
    for days in range(N_NIGHTS + 2, N_NIGHTS + 5):
        responses.play(FIRST_NIGHT + days * DAY)
        responses.score(FIRST_NIGHT + days * DAY)
        told.append(capsys.readouterr().err)
    first = next(i for i, text in enumerate(told) if "2026-09-03 have changed" in text)
    second = next(i for i, text in enumerate(told) if "2026-09-08 have changed" in text)
    assert first != second
    assert sum(text.count("have changed") for text in told) == 2
    assert "counted as of 2026-09-04" in told[first]
    assert "--rebuild --force" in told[first]
    marks = responses.find_marks()
    assert set(marks[: N_NIGHTS + 2]) == {None}
    assert marks[N_NIGHTS + 2 + first] == marks[-1] == date(2026, 9, 4)

    last = FIRST_NIGHT + (N_NIGHTS + 4) * DAY
    counted = responses.count()
    assert counted > before
    responses.score(last, rebuild=True, force=True)
    assert responses.count() == counted - sum(changed)
    assert responses.find_marks()[-1] is None


@pytest.mark.bank("trained")
def test_score_tells_that_outcomes_are_those_of_others(
    responses: Responses, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """All answers of A in a closed night go to as many of A who had not answered."""
    c = predictions.c
    of_night = sa.select(c.candidate_id).where(c.run_date == FIRST_NIGHT, c.variant == "A")
    rows = responses.table.c
    with engine.connect() as reading, responses.bank.begin() as connection:
        others = reading.scalars(of_night.where(c.candidate_id.not_like("%1"))).all()
        answered = reading.scalars(of_night.where(c.candidate_id.like("%1"))).all()
        for old, new in zip(answered, others, strict=False):
            is_meant = (rows.event_date == FIRST_NIGHT) & (rows.candidate_id == old)
            connection.execute(responses.table.update().where(is_meant).values(candidate_id=new))
    responses.score(FIRST_NIGHT + N_NIGHTS * DAY)
    words = f"predictions with an outcome: of A {len(answered)} as before, but of other candidates"
    assert words in capsys.readouterr().err


@pytest.mark.bank("trained")
def test_score_keeps_what_a_feed_has_forgotten_of_one_variant(
    responses: Responses, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of A no answers are left, of B one is taken back: that alone is a correction."""
    c, rows, before = predictions.c, responses.table.c, responses.count()
    with engine.connect() as connection:
        closed = c.run_date < FIRST_NIGHT + 4 * DAY
        lost = connection.scalars(sa.select(c.candidate_id).where(closed, c.variant == "A")).all()
        is_back = (c.run_date == FIRST_NIGHT, c.variant == "B", c.candidate_id.like("%1"))
        back = connection.scalar(sa.select(sa.func.min(c.candidate_id)).where(*is_back))
    with responses.bank.begin() as connection:
        gone = rows.candidate_id.in_([*lost, back])
        connection.execute(responses.table.delete().where(gone))
    responses.set(corrections="rebuild")
    night = FIRST_NIGHT + N_NIGHTS * DAY
    responses.score(night)
    told = capsys.readouterr().err
    assert "any more for predictions of variant A in closed nights until 2026-09-04, of" in told
    assert "of the closed nights 2026-09-01 have changed" in told
    assert "with an outcome: of B " in told
    assert "of A " not in told.partition("with an outcome: ")[2].partition(";")[0]
    assert "They are not counted again: " in told
    assert responses.count() == before
    with pytest.raises(DataError, match=r"predictions of variant A in nights from 2026-09-01 on"):
        responses.score(night, rebuild=True)


@pytest.mark.bank("trained")
@pytest.mark.parametrize(
    "stage", ["read_nights", "sum_up", "measure", "find_doubts", "judge", "describe"]
)
def test_score_notices_that_a_closed_night_is_predicted_again(
    responses: Responses, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is: the sums of closed nights are gone from one statement to the next."""
    responses.set(grace_days=30)  # tonight's stays open, with candidates of the first
    night = FIRST_NIGHT + N_NIGHTS * DAY
    responses.play(night)
    table = bank_tables.candidates
    others = {"candidate_date": sa.literal(night)}
    first = sa.select(*(others.get(column.name, column) for column in table.c))
    first = first.where(table.c.candidate_date == FIRST_NIGHT)
    with responses.bank.begin() as connection:
        connection.execute(table.insert().from_select([*table.c.keys()], first))
        connection.execute(responses.feed.insert().values(event_date=night + 2 * DAY))
    predict.predict(responses.experiment, responses.engine, night, force=True)
    real, before = getattr(looks, stage), responses.count()

    def predict_again(*args: Any) -> Any:
        monkeypatch.setattr(looks, stage, real)
        predict.predict(responses.experiment, responses.engine, FIRST_NIGHT, force=True)
        return real(*args)

    monkeypatch.setattr(looks, stage, predict_again)
    with pytest.raises(DatabaseError, match="a night of card_offer was predicted while it was"):
        responses.score(night + 3 * DAY)
    assert responses.count() == before
    responses.score(night + 3 * DAY)
    assert responses.count() > before


@pytest.mark.bank("trained")
def test_score_rebuilds_for_corrections_if_it_may(
    responses: Responses, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not where nobody asks, nor for somebody who was not predicted, nor where it has forgotten."""
    night, before = FIRST_NIGHT + N_NIGHTS * DAY, responses.count()
    other = {"candidate_id": "nobody", "event_date": FIRST_NIGHT}
    with responses.bank.begin() as connection:
        connection.execute(responses.table.insert().values(other))
    responses.set(corrections="rebuild")
    responses.score(night)
    changed = responses.change(FIRST_NIGHT + 2 * DAY, "11", "x")
    responses.set(corrections_days=0)
    responses.score(night + DAY)
    assert "have changed" not in capsys.readouterr().err
    assert responses.count() == before
    responses.set(corrections_days=180)
    forgotten = responses.forget()
    responses.score(night + 2 * DAY)
    assert "nothing any more for closed nights until 2026-09-06" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"in nights from 2026-09-01 on, .* would lose them"):
        responses.score(night + 3 * DAY, rebuild=True)
    assert responses.count() == before
    with responses.bank.begin() as connection:
        connection.execute(responses.table.insert(), forgotten)
    for days in (3, 4):
        responses.score(night + days * DAY)
    assert "All nights are read again now" in capsys.readouterr().err
    assert responses.count() == before - changed
    assert responses.find_marks()[-1] is None
