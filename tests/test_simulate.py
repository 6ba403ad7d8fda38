"""The simulated bank: the same for the same seed, and as of a past moment it tells what was known then."""

from datetime import datetime, time, timedelta
from decimal import Decimal

import pandas as pd
import sqlalchemy as sa

from abatch import database, simulate
from abatch.config import Config
from abatch.tables import predictions
from tests.conftest import FIRST_NIGHT

DAY = timedelta(days=1)


def read_as_of(config: Config, engine: sa.Engine, query: str, moment: datetime) -> pd.DataFrame:
    """The simulated bank's rows of all time, as known at a moment."""
    binds = {"from_date": FIRST_NIGHT - 100 * DAY, "to_date": FIRST_NIGHT + 100 * DAY}
    frame = database.read_query(engine, config.sql[query], query, **binds, as_of=moment, chunk_rows=10_000)
    return frame.sort_values([name for name in ("candidate_id", "event_date") if name in frame], ignore_index=True)


def select_some(engine: sa.Engine, night: object) -> None:
    """Predictions that select every tenth candidate of a night, as far as the bank is concerned."""
    with simulate.in_default_schema(engine).connect() as connection:
        ids = connection.scalars(sa.select(simulate.candidates.c.customer_id).where(simulate.candidates.c.candidate_date == night)).all()
    row = {"experiment": "x", "run_date": night, "variant": "A", "assignment_probability": 1.0, "rank_in_variant": 1, "run_id": "r"}
    with engine.begin() as connection:
        connection.execute(
            predictions.insert(),
            [{**row, "candidate_id": str(i), "selected": int(i % 10 == 0), "predicted_at": datetime(2026, 1, 1)} for i in ids],
        )


def test_simulate_same_seed_same_bank(config: Config, engine: sa.Engine) -> None:
    """A bank that is played in one go and one that is played morning by morning, elsewhere in the calendar, are the same."""
    simulate.simulate(engine, FIRST_NIGHT, history_days=5, seed=3)
    assert simulate.simulate(engine, FIRST_NIGHT + 3 * DAY) == 3
    assert simulate.simulate(engine, FIRST_NIGHT + 3 * DAY) == 0
    first = simulate.read_truth(engine).sort_values(["run_date", "candidate_id"], ignore_index=True)
    with simulate.in_default_schema(engine).begin() as connection:
        simulate.metadata.drop_all(connection)
    moved = FIRST_NIGHT + 200 * DAY
    simulate.simulate(engine, moved, history_days=5, seed=3)
    for days in (1, 2, 3):
        simulate.simulate(engine, moved + days * DAY)
    second = simulate.read_truth(engine).sort_values(["run_date", "candidate_id"], ignore_index=True)
    pd.testing.assert_frame_equal(first.assign(run_date=first["run_date"] + 200 * DAY), second, check_dtype=False)


def test_simulate_as_of_returns_what_was_known(config: Config, engine: sa.Engine) -> None:
    """Write down what each query returns on the evening of each day; months later the same query as of that evening agrees."""
    simulate.simulate(engine, FIRST_NIGHT, history_days=20)
    seen: dict[datetime, dict[str, pd.DataFrame]] = {}
    for days in range(simulate.LATE_LOAD + 6):
        night = FIRST_NIGHT + days * DAY
        simulate.simulate(engine, night)
        select_some(engine, night)
        if days % 4 == 0 or days >= simulate.LATE_LOAD - 1:
            evening = datetime.combine(night, time(22))
            forever = datetime.max.replace(year=2100)  # all that the tables hold at this point of the play
            seen[evening] = {query: read_as_of(config, engine, query, forever) for query in ("training", "outcomes", "watermark")}
    for evening, frames in seen.items():
        for query, frame in frames.items():
            pd.testing.assert_frame_equal(read_as_of(config, engine, query, evening), frame, check_dtype=False)
    # The test could not fail if nothing were ever corrected or late.
    last = list(seen)[-1]
    incomes = [seen[moment]["training"].set_index(["candidate_id", "event_date"])["income"] for moment in (next(iter(seen)), last)]
    both = pd.concat(incomes, axis=1, join="inner", keys=["then", "now"]).astype(float).dropna()
    corrected = both[both["then"] != both["now"]]
    assert len(corrected) > 0
    assert (corrected["then"] / corrected["now"]).round(4).eq(10).all()
    watermarks = [str(frames["watermark"].iloc[0, 0])[:10] for frames in seen.values()]
    assert watermarks.count(str(FIRST_NIGHT + (simulate.LATE_LOAD - 3) * DAY)) == 2  # the late night repeats yesterday's


def test_simulate_odd_values(config: Config, engine: sa.Engine) -> None:
    """Nulls, decimals, text beyond latin-1, and from one night on a channel that nobody has seen."""
    simulate.simulate(engine, FIRST_NIGHT, history_days=2)
    simulate.simulate(engine, FIRST_NIGHT + simulate.NEW_CHANNEL * DAY)
    with simulate.in_default_schema(engine).connect() as connection:
        rows = connection.execute(sa.select(simulate.candidates)).all()
    assert {"Ærø", "日本", None} <= {row.region for row in rows}
    assert any(row.income is None for row in rows)
    assert all(isinstance(row.income, Decimal) for row in rows if row.income is not None)
    app = [row.candidate_date for row in rows if row.channel == "app"]
    assert set(app) == {FIRST_NIGHT + simulate.NEW_CHANNEL * DAY}


def test_simulate_calls_who_was_selected(config: Config, engine: sa.Engine) -> None:
    simulate.simulate(engine, FIRST_NIGHT, history_days=2)
    select_some(engine, FIRST_NIGHT)
    simulate.simulate(engine, FIRST_NIGHT + DAY)
    truth = simulate.read_truth(engine)
    called = truth.loc[(truth["run_date"] == pd.Timestamp(FIRST_NIGHT)) & (truth["called"] == 1), "candidate_id"]
    assert sorted(called) == sorted(i for i in truth.loc[truth["run_date"] == pd.Timestamp(FIRST_NIGHT), "candidate_id"] if i.endswith("0"))
