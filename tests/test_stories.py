"""The three stories end to end, on SQLite and on PostgreSQL."""

from datetime import timedelta

import sqlalchemy as sa

import predict
import score
import train
from abatch import simulate
from abatch.config import Config
from abatch.tables import predictions
from tests.conftest import FIRST_NIGHT


def test_night_one_row_per_candidate(config: Config, engine: sa.Engine) -> None:
    simulate.simulate(engine, FIRST_NIGHT, history_days=60)
    train.train(config, engine, FIRST_NIGHT)
    predict.predict(config, engine, FIRST_NIGHT)
    score.score(config, engine, FIRST_NIGHT + timedelta(days=1), draw=False)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(predictions)).all()
    assert len(rows) == len({row.candidate_id for row in rows}) == simulate.N_CANDIDATES
