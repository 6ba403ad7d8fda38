"""A feed of outcomes that tests can change: what candidates answer, on the day itself."""

from datetime import date
from typing import Any

import sqlalchemy as sa

import predict
import score
from abatch.config import Experiment
from abatch.database.tables import current_verdicts, looks, predictions, variant_scores
from abatch.sections import Outcome
from demo import bank_tables, simulate
from tests.conftest import alter


class Responses:
    """One candidate in ten answers, in a table that may change."""

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
        query = query.where(c.run_date == night, c.candidate_id.like("%1"))
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
            n = sa.select(sa.func.count()).select_from(self.table).where(is_meant)
            n_changed: int = connection.execute(n).scalar_one()
            connection.execute(self.table.update().where(is_meant).values(candidate_id=other))
            return n_changed

    def forget(self) -> list[dict[str, Any]]:
        """Empty the table, of which the rows are returned."""
        with self.bank.begin() as connection:
            rows = [dict(row) for row in connection.execute(sa.select(self.table)).mappings()]
            connection.execute(self.table.delete())
        return rows

    def score(self, night: date, **options: bool) -> str:
        return score.score(self.experiment, self.engine, night, draw=False, **options)

    def count(self) -> int:
        c = variant_scores.c
        query = sa.select(sa.func.sum(c.n_positive)).where(c.cohort == "all")
        with self.engine.connect() as connection:
            return connection.scalar(query) or 0

    def find_marks(self) -> list[date | None]:
        query = sa.select(looks.c.outcomes_as_of).order_by(looks.c.run_date)
        marks = sa.select(current_verdicts.c.outcomes_as_of).distinct()
        with self.engine.connect() as connection:
            found = list(connection.scalars(query))
            assert list(connection.scalars(marks)) == found[-1:]
        return found
