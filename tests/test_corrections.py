"""Outcomes that change after their night was closed."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

import predict
import score
from abatch.config import Experiment
from abatch.database.tables import current_verdicts, looks, predictions, variant_scores
from abatch.experiment import corrections
from abatch.experiment.outcomes import EVENT, Feed
from abatch.queries import Query
from abatch.sections import Outcome
from demo import bank_tables, simulate
from tests.conftest import FIRST_NIGHT, alter

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


class Responses:
    """What B's candidates answer on the day itself, in a table that may change."""

    def __init__(self, experiment: Experiment, engine: sa.Engine) -> None:
        self.engine, self.bank = engine, bank_tables.in_default_schema(engine)
        self.table, self.feed = (
            sa.Table(
                name,
                sa.MetaData(),
                sa.Column("candidate_id", sa.Unicode(64)),
                sa.Column("event_date", sa.Date),
            )
            for name in ("responses", "response_feed")
        )
        for table in (self.table, self.feed):
            table.create(self.bank)
        sql = {
            "outcomes": "select candidate_id, event_date, 1 as outcome from responses"
            " where event_date >= :from_date and event_date < :to_date",
            "watermark": "select max(event_date) as day from response_feed"
            " where event_date <= :as_of",
        }
        outcome = Outcome(kind="binary", window_days=1, grace_days=0, expected_effect=0.01)
        self.experiment = alter(experiment, outcome=outcome, sql={**experiment.sql, **sql})

    def set(self, **settings: object) -> None:
        outcome = self.experiment.outcome.model_copy(update=settings)
        self.experiment = alter(self.experiment, outcome=outcome)

    def play(self, night: date) -> None:
        simulate.simulate(self.engine, night)
        predict.predict(self.experiment, self.engine, night)
        c = predictions.c
        query = sa.select(c.candidate_id, c.run_date.label("event_date"))
        query = query.where(c.run_date == night, c.variant == "B", c.candidate_id.like("%1"))
        with self.engine.connect() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        with self.bank.begin() as connection:
            connection.execute(self.table.insert(), rows)
            connection.execute(self.feed.insert().values(event_date=night))

    def change(self, night: date, old: str, new: str) -> int:
        """Give the outcomes of a night whose ids end so to others."""
        rows = self.table.c
        is_meant = (rows.event_date == night) & rows.candidate_id.like(f"%{old}")
        other = rows.candidate_id.concat(new)
        with self.bank.begin() as connection:
            changed = self.table.update().where(is_meant).values(candidate_id=other)
            return connection.execute(changed).rowcount

    def forget(self) -> list[dict[str, object]]:
        """Empty the table, of which the rows are returned."""
        with self.bank.begin() as connection:
            rows = [dict(row) for row in connection.execute(sa.select(self.table)).mappings()]
            connection.execute(self.table.delete())
        return rows

    def score(self, night: date, **options: bool) -> str:
        return score.score(self.experiment, self.engine, night, draw=False, **options)

    def count(self) -> int:
        c = variant_scores.c
        query = sa.select(c.n_positive).where(c.variant == "B", c.cohort == "all")
        with self.engine.connect() as connection:
            return connection.scalar(query) or 0

    def find_marks(self) -> list[date | None]:
        query = sa.select(looks.c.outcomes_as_of).order_by(looks.c.run_date)
        marks = sa.select(current_verdicts.c.outcomes_as_of).distinct()
        with self.engine.connect() as connection:
            found = list(connection.scalars(query))
            assert list(connection.scalars(marks)) == found[-1:]
        return found


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
def test_score_rebuilds_for_corrections_if_it_may(
    responses: Responses, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not where nobody asks the feed, nor for somebody who was not predicted, nor for nothing."""
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
    assert "nothing any more for the nights 2026-09-01 to 2026-09-06" in capsys.readouterr().err
    assert responses.count() == before
    with responses.bank.begin() as connection:
        connection.execute(responses.table.insert(), forgotten)
    for days in (3, 4):
        responses.score(night + days * DAY)
    assert "All nights are read again now" in capsys.readouterr().err
    assert responses.count() == before - changed
    assert responses.find_marks()[-1] is None
