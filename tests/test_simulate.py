"""The simulated bank.

The same for the same seed, and as of a past moment it tells what was known then.
"""

from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from abatch.config import Experiment
from abatch.database import connections, migrations, reading
from abatch.errors import UsageError
from abatch.experiment import assignment
from abatch.queries import Window
from demo import bank_tables, simulate
from tests.conftest import FIRST_NIGHT, add_predictions

DAY = timedelta(days=1)
SALT, SPLIT = "card_offer", {"A": 0.45, "B": 0.45, "control": 0.1}
Play = Callable[..., sa.Engine]


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    """Plays a bank of its own on SQLite until a night, with the plan of these keywords.

    Every tenth candidate is selected.
    """
    engines: list[sa.Engine] = []

    def play_bank(
        last: int, history_days: int = 0, plant: str = "effect", **plan: object
    ) -> sa.Engine:
        url = SecretStr(f"sqlite:///{tmp_path / f'{len(engines)}.db'}")
        engines.append(engine := connections.make_engine(url, None, tmp_path, "the tests' bank"))
        migrations.upgrade(engine)
        simulate.simulate(engine, FIRST_NIGHT, history_days=history_days, plant=plant, **plan)  # type: ignore[arg-type]
        go_on(engine, 0, last)
        return engine

    yield play_bank
    for engine in engines:
        engine.dispose()


def go_on(engine: sa.Engine, night: int, last: int) -> None:
    for i in range(night, last + 1):
        simulate.simulate(engine, FIRST_NIGHT + i * DAY)
        select_some(engine, FIRST_NIGHT + i * DAY)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nights of 200 candidates, for tests that wait for a late night."""
    monkeypatch.setattr(simulate, "N_CANDIDATES", 200)


def read(engine: sa.Engine, table: sa.Table) -> pd.DataFrame:
    """A table of the bank in the order of its key.

    With the number of the night where it has a candidate_date.
    """
    keys = [column.name for column in table.primary_key]
    with engine.connect() as connection:
        frame = pd.read_sql(sa.select(table).order_by(*keys), connection)
    if "candidate_date" in frame:
        frame["night"] = [(day - FIRST_NIGHT).days for day in frame["candidate_date"]]
    return frame


def assign(customer_ids: pd.Series) -> np.ndarray:
    return assignment.assign(customer_ids.astype(str), SALT, SPLIT).variant


def read_as_of(
    experiment: Experiment, engine: sa.Engine, query: str, moment: datetime
) -> pd.DataFrame:
    """The simulated bank's rows of all time, as known at a moment."""
    window = Window(FIRST_NIGHT - 100 * DAY, FIRST_NIGHT + 100 * DAY)
    frame = reading.read_query(engine, experiment.query(query), window, moment, chunk_rows=10_000)
    return frame.sort_values(
        [name for name in ("candidate_id", "event_date") if name in frame], ignore_index=True
    )


def select_some(engine: sa.Engine, night: object) -> None:
    """Predictions that select every tenth candidate of a night, as far as the bank is concerned."""
    with bank_tables.in_default_schema(engine).connect() as connection:
        ids = connection.scalars(
            sa.select(bank_tables.candidates.c.customer_id).where(
                bank_tables.candidates.c.candidate_date == night
            )
        ).all()
    row = {
        "experiment": "x",
        "run_date": night,
        "variant": "A",
        "assignment_probability": 1.0,
        "rank_in_variant": 1,
        "run_id": f"r{night}",
        "predicted_at": datetime(2026, 1, 1),
    }
    rows = [{**row, "candidate_id": str(i), "selected": int(i % 10 == 0)} for i in ids]
    add_predictions(engine, *rows)


def test_simulate_same_seed_same_bank(experiment: Experiment, engine: sa.Engine) -> None:
    """A bank that is played in one go and one that is played morning by morning are the same.

    The other one lies elsewhere in the calendar.
    """
    simulate.simulate(engine, FIRST_NIGHT, history_days=5, seed=3)
    assert simulate.simulate(engine, FIRST_NIGHT + 3 * DAY) == 3
    assert simulate.simulate(engine, FIRST_NIGHT + 3 * DAY) == 0
    first = simulate.read_truth(engine).sort_values(["run_date", "candidate_id"], ignore_index=True)
    with bank_tables.in_default_schema(engine).begin() as connection:
        bank_tables.metadata.drop_all(connection)
    moved = FIRST_NIGHT + 200 * DAY
    simulate.simulate(engine, moved, history_days=5, seed=3)
    for days in (1, 2, 3):
        simulate.simulate(engine, moved + days * DAY)
    second = simulate.read_truth(engine).sort_values(
        ["run_date", "candidate_id"], ignore_index=True
    )
    pd.testing.assert_frame_equal(
        first.assign(run_date=first["run_date"] + 200 * DAY), second, check_dtype=False
    )


def test_simulate_as_of_returns_what_was_known(
    experiment: Experiment, engine: sa.Engine, small: None
) -> None:
    """Write down what each query returns on the evening of each day.

    Months later the same query as of that evening agrees.
    """
    simulate.simulate(engine, FIRST_NIGHT, history_days=8)
    seen: dict[datetime, dict[str, pd.DataFrame]] = {}
    for days in range(simulate.LATE_LOAD + 6):
        night = FIRST_NIGHT + days * DAY
        simulate.simulate(engine, night)
        select_some(engine, night)
        if days % 4 == 0 or days >= simulate.LATE_LOAD - 1:
            evening = datetime.combine(night, time(22))
            forever = datetime.max.replace(
                year=2100
            )  # all that the tables hold at this point of the play
            seen[evening] = {
                query: read_as_of(experiment, engine, query, forever)
                for query in ("training", "outcomes", "watermark")
            }
    for evening, frames in seen.items():
        for query, frame in frames.items():
            pd.testing.assert_frame_equal(
                read_as_of(experiment, engine, query, evening), frame, check_dtype=False
            )
    # The test could not fail if nothing were ever corrected or late.
    last = list(seen)[-1]
    incomes = [
        seen[moment]["training"].set_index(["candidate_id", "event_date"])["income"]
        for moment in (next(iter(seen)), last)
    ]
    both = pd.concat(incomes, axis=1, join="inner", keys=["then", "now"]).astype(float).dropna()
    corrected = both[both["then"] != both["now"]]
    assert len(corrected) > 0
    assert (corrected["then"] / corrected["now"]).round(4).eq(10).all()
    watermarks = [str(frames["watermark"].iloc[0, 0])[:10] for frames in seen.values()]
    assert (
        watermarks.count(str(FIRST_NIGHT + (simulate.LATE_LOAD - 3) * DAY)) == 2
    )  # the late night repeats yesterday's


def test_simulate_odd_values(experiment: Experiment, engine: sa.Engine, small: None) -> None:
    """Nulls, decimals, text beyond latin-1, and from one night on a channel never seen."""
    simulate.simulate(engine, FIRST_NIGHT, history_days=2)
    simulate.simulate(engine, FIRST_NIGHT + simulate.NEW_CHANNEL * DAY)
    with bank_tables.in_default_schema(engine).connect() as connection:
        rows = connection.execute(sa.select(bank_tables.candidates)).all()
    assert {"Ærø", "日本", None} <= {row.region for row in rows}
    assert any(row.income is None for row in rows)
    assert all(isinstance(row.income, Decimal) for row in rows if row.income is not None)
    app = [row.candidate_date for row in rows if row.channel == "app"]
    assert set(app) == {FIRST_NIGHT + simulate.NEW_CHANNEL * DAY}


def test_simulate_calls_who_was_selected(experiment: Experiment, engine: sa.Engine) -> None:
    simulate.simulate(engine, FIRST_NIGHT, history_days=2)
    select_some(engine, FIRST_NIGHT)
    simulate.simulate(engine, FIRST_NIGHT + DAY)
    truth = simulate.read_truth(engine)
    called = truth.loc[
        (truth["run_date"] == pd.Timestamp(FIRST_NIGHT)) & (truth["called"] == 1), "candidate_id"
    ]
    assert sorted(called) == sorted(
        i
        for i in truth.loc[truth["run_date"] == pd.Timestamp(FIRST_NIGHT), "candidate_id"]
        if i.endswith("0")
    )


def test_simulate_effect_draws_as_before_there_were_plants(play: Play) -> None:
    """Figures recorded from the version before.

    What the other plants and the README's demo stand on.
    """
    book = read(play(1, history_days=30), bank_tables.truth)
    nights = book[book["night"] >= 0].groupby("night")
    assert len(book) == 30 * 150 + 2 * 1000
    np.testing.assert_allclose(
        nights["p_called"].mean(), [0.06623154088846389, 0.07215352132203529], rtol=1e-12
    )
    assert nights["customer_id"].sum().tolist() == [1022094379, 1022748857]
    assert book.loc[book["night"] < 0, "answer_date"].notna().sum() == 330


@pytest.mark.parametrize("plant", simulate.PLANTS)
def test_simulate_plants_again_the_same(plant: str, play: Play, small: None) -> None:
    plan = {"plant": plant, "salt": SALT, "split": SPLIT, "seed": 3}
    first, second = play(2, **plan), play(2, **plan)
    for table in (bank_tables.candidates, bank_tables.truth, bank_tables.answers, bank_tables.feed):
        pd.testing.assert_frame_equal(read(first, table), read(second, table))


def compare_models_with_control(book: pd.DataFrame) -> float:
    """Mean probability of an answer, A and B less control.

    Each variant has its fifth called: the likeliest, or any.
    """
    groups = book.assign(variant=assign(book["customer_id"])).groupby("variant")
    rates, sizes = {}, {}
    for variant, group in groups:
        rank = (group["customer_id"] if variant == "control" else -group["p_called"]).rank(
            method="first"
        )
        rates[variant] = np.where(
            rank <= 0.2 * len(group), group["p_called"], group["p_uncalled"]
        ).mean()
        sizes[variant] = len(group)
    pooled = (sizes["A"] * rates["A"] + sizes["B"] * rates["B"]) / (sizes["A"] + sizes["B"])
    return float(pooled - rates["control"])


def test_simulate_no_effect_is_planted(play: Play, small: None) -> None:
    """Whoever is called, the same customers answer, on the same days.

    And some are likelier than others, as in effect.
    """
    engine, nobody = (
        play(3, history_days=2, plant="no_effect"),
        play(-1, history_days=2, plant="no_effect"),
    )
    simulate.simulate(nobody, FIRST_NIGHT + 3 * DAY)
    book, before = read(engine, bank_tables.truth), read(play(3, history_days=2), bank_tables.truth)
    assert set(read(engine, bank_tables.calls)["call_date"]) > set(
        read(nobody, bank_tables.calls)["call_date"]
    )
    assert len(read(engine, bank_tables.answers)) > 10
    pd.testing.assert_frame_equal(
        read(engine, bank_tables.answers), read(nobody, bank_tables.answers)
    )
    assert (book["p_called"] == book["p_uncalled"]).all()
    assert 0.02 < book["p_called"].mean() < 0.04
    assert (book["p_called"].rank() == before["p_called"].rank()).all()


def test_simulate_effect_and_harm_are_planted(play: Play) -> None:
    """Calls bring answers, or cost them, most with the likeliest.

    History, where all were called, shows the same order in both.
    """
    effect, harm = (
        read(play(4, history_days=5, plant=plant), bank_tables.truth)
        for plant in ("effect", "harm")
    )
    assert (effect["p_uncalled"] == 0.01).all()
    assert (harm["p_called"] < harm["p_uncalled"]).all()
    assert (harm["p_called"].rank() == effect["p_called"].rank()).all()
    assert 0.03 < harm["p_called"].mean() < 0.1
    assert compare_models_with_control(effect) > 0.015
    assert compare_models_with_control(harm) < -0.03
    closed = harm[(harm["night"] >= 0) & harm["called"].notna()]
    for called, p in ((1, "p_called"), (0, "p_uncalled")):
        group = closed[closed["called"] == called]
        mean = group[p].mean()
        assert abs(group["answer_date"].notna().mean() - mean) < 4 * np.sqrt(
            mean * (1 - mean) / len(group)
        )


def test_simulate_drift_is_planted(play: Play, small: None) -> None:
    moved, before = play(21, plant="drift"), play(21)
    old, new = read(before, bank_tables.candidates), read(moved, bank_tables.candidates)
    early = new["night"] < 20
    pd.testing.assert_frame_equal(new[early], old[early])
    assert early.sum() > 0
    assert not early.all()
    old, new = old[~early], new[~early]
    both = new["income"].notna()
    assert both.sum() > 300
    np.testing.assert_array_equal(
        new.loc[both, "income"].astype(float), 2 * old.loc[both, "income"].astype(float)
    )
    np.testing.assert_array_equal(new["utilisation"], old["utilisation"] / 2)
    same = ["customer_id", "age", "segment", "channel", "months_as_customer", "purchases_30d"]
    pd.testing.assert_frame_equal(new[same], old[same])
    p, q = (
        frame["region"].fillna("null").value_counts(normalize=True).sort_index()
        for frame in (old, new)
    )
    assert (
        (q - p) * np.log(q / p)
    ).sum() > 0.25  # the population stability index, of which banks call .25 much
    # The formula, by hand, from the features as loaded on the last night, before any correction;
    # wrong incomes are left out.
    book = read(moved, bank_tables.truth)
    both = new.merge(book[book["corrected_income"].isna()], on=["customer_id", "candidate_date"])
    line = 0.5 * (np.log(both["income"].astype(float).fillna(40_000)) - 10.6) + 0.35 * both[
        "segment"
    ].eq("gold")
    line += 0.03 * (both["purchases_30d"] - 10) + 1.9 * both["utilisation"].between(
        0.35, 0.6, inclusive="neither"
    )
    line += 1.5 * (both["age"].lt(35) & both["purchases_30d"].gt(12))
    assert len(both) > 380
    np.testing.assert_allclose(both["p_called"], 1 / (1 + np.exp(4 - line)), rtol=1e-12)


def list_late_answers(engine: sa.Engine) -> list[tuple[date, date]]:
    """Morning and day of each answer that was missing on a morning.

    The feed said that the day was complete.
    """
    answers, feed = read(engine, bank_tables.answers), read(engine, bank_tables.feed)
    late = answers.merge(feed, how="cross", suffixes=("", "_feed"))
    late = late[
        (late["loaded_at"] > late["loaded_at_feed"]) & (late["answer_date"] <= late["complete_to"])
    ]
    return list(zip(late["loaded_at_feed"], late["answer_date"], strict=True))


def test_simulate_late_feed_is_planted(play: Play, small: None) -> None:
    """What the usual feed has loaded by night 33, the late one has by night 38."""
    usual, late = play(38), play(38, plant="late_feed")
    for table in (bank_tables.candidates, bank_tables.calls, bank_tables.truth):
        pd.testing.assert_frame_equal(read(late, table), read(usual, table))
    assert list_late_answers(usual) == list_late_answers(late) == []

    def show(engine: sa.Engine, night: int) -> tuple[set[tuple[int, date, date]], date]:
        moment = datetime.combine(FIRST_NIGHT + night * DAY, time(22))
        answers, feed = read(engine, bank_tables.answers), read(engine, bank_tables.feed)
        known = answers[answers["loaded_at"] <= moment]
        return (
            set(zip(known["customer_id"], known["offer_date"], known["answer_date"], strict=True)),
            feed.loc[feed["loaded_at"] <= moment, "complete_to"].max(),
        )

    assert show(late, 24) == show(usual, 24)
    for night in (25, 29, 30):
        assert show(late, night) == show(
            usual, 24
        )  # it stands still; on night 30 no feed of either kind arrives
        assert show(usual, night)[1] == FIRST_NIGHT + (min(night, 29) - 2) * DAY
    for night in (31, 33, 34, 36, 38):
        assert show(late, night) == show(usual, night - 5) or night - 5 == simulate.LATE_LOAD
        assert show(late, night)[1] == FIRST_NIGHT + (night - 7) * DAY
    assert len(show(late, 38)[0]) > len(show(late, 31)[0]) > len(show(late, 24)[0])


def count_losses(engine: sa.Engine) -> pd.DataFrame:
    """Customers in the book by variant and whether the list has them, with the share that is lost.

    One row per night and variant.
    """
    keys = ["customer_id", "candidate_date"]
    listed = read(engine, bank_tables.candidates)[keys].drop_duplicates().assign(listed=1)
    book = read(engine, bank_tables.truth).merge(listed, on=keys, how="left", validate="one_to_one")
    assert book["listed"].sum() == len(listed)
    book["variant"], book["lost"] = assign(book["customer_id"]), book["listed"].isna()
    return book.groupby(["night", "variant"], as_index=False)["lost"].agg(["size", "sum"])


def test_simulate_broken_split_is_planted(play: Play) -> None:
    losses = count_losses(play(5, history_days=1, plant="broken_split", salt=SALT, split=SPLIT))
    hit = (losses["night"] >= 0) & (losses["variant"] == "B")
    assert losses.loc[~hit, "sum"].eq(0).all()
    assert losses[hit].eval("sum > 0.05 * size and sum < 0.15 * size").all()
    assert losses.loc[hit, "sum"].sum() / losses.loc[hit, "size"].sum() == pytest.approx(
        0.1, abs=0.023
    )  # 4 standard errors of 2,700


def test_simulate_changing_shares_is_planted(play: Play, small: None) -> None:
    losses = count_losses(play(24, plant="changing_shares", salt=SALT, split=SPLIT))
    hit = (losses["night"] >= 15) & (losses["variant"] == "control")
    assert losses.loc[~hit, "sum"].eq(0).all()
    assert losses.loc[hit, "sum"].gt(0).all()
    assert losses.loc[hit, "sum"].sum() / losses.loc[hit, "size"].sum() == pytest.approx(
        0.5, abs=0.14
    )  # 4 standard errors of 200


def test_simulate_loses_the_same_customers_each_time_round(
    play: Play, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A customer who was lost does not turn up on a later list.

    He would make the sample ratio look right again there.
    """
    monkeypatch.setattr(simulate, "N_CUSTOMERS", 400)
    seed = 42  # in no other test: the customers of a seed are kept for as long as the process lives
    customers = read(
        play(3, plant="broken_split", salt=SALT, split=SPLIT, seed=seed), bank_tables.candidates
    )
    lists = [set(customers.loc[customers["night"] == night, "customer_id"]) for night in range(4)]
    assert lists[:2] == lists[2:]
    assert len(lists[0] | lists[1]) < 400


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            {"plant": "harms"},
            "plant 'harms': expected one of effect, no_effect, .* Did you mean 'harm'?",
        ),
        (
            {"plant": "broken_split"},
            (
                "plant broken_split: expected the salt and split .* variant B; found the salt ''"
                " and the variants none"
            ),
        ),
        (
            {"plant": "changing_shares", "salt": "x", "split": {"A": 0.5, "B": 0.5}},
            "with a variant control; found the salt 'x' and the variants A, B",
        ),
        (
            {"plant": "drift"},
            "plant drift: the bank in this database was created with harm. Take an empty database",
        ),
    ],
)
def test_simulate_refuses(play: Play, plan: dict[str, object], message: str) -> None:
    engine = play(-1, plant="harm")
    with pytest.raises(UsageError, match=message):
        simulate.simulate(engine, FIRST_NIGHT + DAY, **plan)  # type: ignore[arg-type]
    assert simulate.simulate(engine, FIRST_NIGHT + DAY) == 1
