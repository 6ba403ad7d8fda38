"""A simulated card bank, to try abatch on.

It lists candidates, calls those that were selected, and loads answers late. Its tables hold what a
bank's own would: `card_candidates` (features per night; a correction is a later version of the
row), `card_calls`, `card_answers` and `card_feed` (up to which day answers are complete). Each row
has `loaded_at`, so a query as of a past moment returns what was known then. `simulated_truth` is
the simulator's own book, which no query of abatch reads.

The same seed gives the same bank, day by day, whatever the calendar date of the first day. What a
verdict should find in it is planted: `PLANTS` has the names. All plants share the draws, so that a
customer and his luck are the same in each.
"""

import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.database import connections
from abatch.database.tables import predictions
from abatch.errors import UsageError, suggest
from abatch.experiment import assignment
from demo.bank_tables import (
    answers,
    bank,
    calls,
    candidates,
    feed,
    in_default_schema,
    metadata,
    truth,
)

N_CUSTOMERS = 45_000
N_CANDIDATES = 1_000  # a night
N_HISTORY = 150  # calls a day before abatch came
LATE_LOAD = 30  # night on which the feed does not arrive
NEW_CHANNEL = 20  # night from which candidates come by a channel that no model has seen
DRIFT = 20  # night from which the plant drift moves the candidates' features
LATE_FEED = 25  # night from which the plant late_feed holds the answers back
FEED_DELAY = 5  # days
N_ANSWER_DAYS = 14
DAY = timedelta(days=1)

PLANTS = {
    "effect": "a call brings answers, so the models beat control",
    "no_effect": "a call changes nothing: the models rank well, and all variants answer alike",
    "harm": (
        "whoever is called answers less, so the models, which pick the likely ones, do worse than"
        " control"
    ),
    "drift": (
        f"from night {DRIFT} on candidates have twice the income, half the utilisation, and live"
        " further north"
    ),
    "late_feed": f"from night {LATE_FEED} on answers are loaded {FEED_DELAY} days later than usual",
    "broken_split": "the list loses one in ten of variant B's candidates",
    "changing_shares": "from night 15 on the list leaves out half of control's candidates",
}


class Loss(NamedTuple):
    """Candidates that never reach the list: one in so many of a variant, from a night on."""

    variant: str
    one_in: int
    from_night: int


LOSSES = {"broken_split": Loss("B", 10, 0), "changing_shares": Loss("control", 2, 15)}


class Plan(NamedTuple):
    """What was settled when the bank was created; the arguments of `simulate`."""

    first_night: date
    seed: int
    plant: str
    salt: str
    split: Mapping[str, float]


def describe_plants() -> str:
    """The names of the plants with what each is, for --help."""
    return "\n".join(["plants:", *(f"  {name:<16} {text}" for name, text in PLANTS.items())])


def simulate(
    engine: sa.Engine,
    until: date,
    *,
    history_days: int = 180,
    seed: int = 0,
    plant: str = "effect",
    salt: str = "",
    split: Mapping[str, float] | None = None,
) -> int:
    """Let the bank live until the morning of a day.

    At first use these are its past and that day, later the mornings in between.

    Parameters
    ----------
    until : at first use the first night of abatch, later the day to go on to
    history_days : days of random calls before the first night
    plant : a name in PLANTS; this and all others but `until` count at first use only
    salt, split : of the experiment, as `assignment.assign` takes them, for the plants that lose a
        variant's candidates

    Returns
    -------
    int
        Mornings played. What the bank does on each depends on who was selected for the night
        before.

    Raises
    ------
    UsageError
        If there is no such plant, the split lacks the variant that it needs, or the bank exists
        with another.
    """
    plain = in_default_schema(engine)
    wanted = Plan(until, seed, plant, salt, split or {})
    _check_plan(wanted)
    with plain.connect() as connection:
        exists = sa.inspect(connection).has_table(bank.name)
    if not exists:

        def work(connection: sa.Connection) -> None:
            metadata.create_all(connection)
            connection.execute(
                bank.insert().values({**wanted._asdict(), "split": json.dumps(wanted.split)})
            )
            for days in range(history_days, -1, -1):
                _play_morning(connection, until - days * DAY, wanted, set())

        connections.write(plain, work)
        return history_days + 1
    with plain.connect() as connection:
        stored = connection.execute(sa.select(*(bank.c[name] for name in Plan._fields))).one()
        last = connection.scalar(sa.select(sa.func.max(candidates.c.candidate_date)))
    plan = Plan(**{**stored._asdict(), "split": json.loads(stored.split)})
    if plant not in ("effect", plan.plant):  # effect is also what a caller says who does not care
        raise UsageError(
            f"plant {plant}: the bank in this database was created with {plan.plant}. Take an empty"
            " database for another."
        )
    mornings = [last + days * DAY for days in range(1, (until - last).days + 1)]
    for today in mornings:
        yesterday = (predictions.c.run_date == today - DAY, predictions.c.selected == 1)
        with engine.connect() as connection:
            selected = set(
                connection.scalars(sa.select(predictions.c.candidate_id).where(*yesterday))
            )
        connections.write(plain, _play_morning, today, plan, selected)
    return len(mornings)


def _check_plan(plan: Plan) -> None:
    if plan.plant not in PLANTS:
        raise UsageError(
            f"plant {plan.plant!r}: expected one of"
            f" {', '.join(PLANTS)}.{suggest(plan.plant, PLANTS)}"
        )
    loss = LOSSES.get(plan.plant)
    if loss and not (plan.salt and loss.variant in plan.split):
        raise UsageError(
            f"plant {plan.plant}: expected the salt and split of an experiment with a variant"
            f" {loss.variant}; found the salt {plan.salt!r} and the variants"
            f" {', '.join(plan.split) or 'none'}."
        )


def read_truth(engine: sa.Engine) -> pd.DataFrame:
    """The simulator's book: candidate_id, run_date, p_called, p_uncalled, called.

    One row per candidate and night.

    Those whom the list lost, by a plant, are in the book too.
    """
    names = ["customer_id", "candidate_date", "p_called", "p_uncalled", "called"]
    with in_default_schema(engine).connect() as connection:
        rows = connection.execute(sa.select(*(truth.c[name] for name in names))).all()
    frame = pd.DataFrame.from_records(
        [tuple(row) for row in rows], columns=["candidate_id", "run_date", *names[2:]]
    )
    return frame.assign(
        candidate_id=frame["candidate_id"].astype(str), run_date=pd.to_datetime(frame["run_date"])
    )


def _play_morning(connection: sa.Connection, today: date, plan: Plan, selected: set[str]) -> None:
    """What the bank loads early on a day.

    Tonight's candidates, yesterday's calls, and answers and corrections that are due.
    """
    night = (today - plan.first_night).days  # 0 is the first night of abatch; the past is negative
    _close_day(connection, today - DAY, plan, selected)
    _insert_candidates(connection, today, night, plan)
    _correct(connection, today)
    loads = _list_loads(night, plan.plant)
    if not loads:
        return
    load_dates = [plan.first_night + load * DAY for load in loads]
    loaded_at = morning(today)
    due = connection.execute(sa.select(truth).where(truth.c.load_date.in_(load_dates))).all()
    _insert(
        connection,
        answers,
        [
            {
                "customer_id": row.customer_id,
                "offer_date": row.candidate_date,
                "answer_date": row.answer_date,
                "loaded_at": loaded_at,
            }
            for row in due
        ],
    )
    connection.execute(
        feed.insert().values(loaded_at=loaded_at, complete_to=max(load_dates) - 2 * DAY)
    )


def _list_loads(night: int, plant: str) -> list[int]:
    """The nights whose answers arrive on a night: its own, none, or two where one was late."""
    loads = {LATE_LOAD: [], LATE_LOAD + 1: [LATE_LOAD, LATE_LOAD + 1]}.get(night, [night])
    if plant == "late_feed" and night >= LATE_FEED:
        return [
            load - FEED_DELAY for load in loads if load - FEED_DELAY >= LATE_FEED
        ]  # earlier ones came in time
    return loads


def morning(day: date) -> datetime:
    """When the bank loads what it knows of the day before, UTC.

    Nothing of a day is there earlier.
    """
    return datetime.combine(day, time(1))


def _insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


@lru_cache(maxsize=2)
def _customers(seed: int) -> pd.DataFrame:
    """What stays the same of each customer, in the order in which the lists go round."""
    rng, n = np.random.default_rng(seed), N_CUSTOMERS
    return pd.DataFrame(
        {
            "customer_id": 1_000_000 + rng.permutation(n),
            "age": rng.integers(18, 85, n),
            "income": np.where(
                rng.random(n) < 0.04, np.nan, np.round(rng.lognormal(10.6, 0.5, n), 2)
            ),
            "months_as_customer": rng.integers(1, 240, n),
            "segment": rng.choice(
                ["classic", "gold", "student", "private"], n, p=[0.6, 0.2, 0.15, 0.05]
            ),
            "region": rng.choice(
                np.array(["Oslo", "Bergen", "Tromsø", "Ærø", "日本", None], dtype=object),
                n,
                p=[0.4, 0.25, 0.15, 0.1, 0.05, 0.05],
            ),
            "spending": rng.gamma(2.0, 1.0, n),
        }
    )


def _insert_candidates(connection: sa.Connection, today: date, night: int, plan: Plan) -> None:
    size = N_HISTORY if night < 0 else N_CANDIDATES
    rng = np.random.default_rng([plan.seed, night + 100_000])
    order = np.arange(night * size, night * size + size) % N_CUSTOMERS
    people = _customers(plan.seed).iloc[order].reset_index(drop=True)
    utilisation = np.clip(rng.beta(2, 3, size) + 0.05 * (people["spending"] - 2), 0, 1)
    purchases = rng.poisson(5 * people["spending"])
    channel = rng.choice(["web", "branch", "phone"], size, p=[0.5, 0.3, 0.2]).astype(object)
    if night >= NEW_CHANNEL:
        channel[rng.random(size) < 0.05] = "app"
    if plan.plant == "drift" and night >= DRIFT:
        people, utilisation = _move_north(people), utilisation / 2
    p_called, p_uncalled = _plant(
        _probability_when_called(people, utilisation, purchases), plan.plant
    )
    wrong = (rng.random(size) < 0.01) & people["income"].notna()
    frame = people[
        ["customer_id", "age", "income", "months_as_customer", "segment", "region"]
    ].assign(
        candidate_date=today,
        loaded_at=morning(today),
        income=people["income"].where(~wrong, people["income"] * 10).round(2),
        balance=(utilisation * 40_000).round(2),
        utilisation=utilisation,
        purchases_30d=purchases,
        channel=channel,
    )
    listed = frame[_is_listed(people["customer_id"], night, plan)]
    _insert(
        connection, candidates, listed.astype(object).where(listed.notna(), None).to_dict("records")
    )
    book = pd.DataFrame(
        {
            "customer_id": people["customer_id"],
            "candidate_date": today,
            "p_called": p_called,
            "p_uncalled": p_uncalled,
            "corrected_income": people["income"].where(wrong),
        }
    )
    _insert(connection, truth, book.astype(object).where(book.notna(), None).to_dict("records"))


def _probability_when_called(
    people: pd.DataFrame, utilisation: np.ndarray, purchases: np.ndarray
) -> np.ndarray:
    """Partly a line in the features, which a logistic regression finds, partly not: for trees."""
    log_income = np.log(people["income"].fillna(40_000)) - 10.6
    straight = 0.5 * log_income + 0.35 * (people["segment"] == "gold") + 0.03 * (purchases - 10)
    bends = 1.9 * ((utilisation > 0.35) & (utilisation < 0.6)) + 1.5 * (
        (people["age"] < 35) & (purchases > 12)
    )
    return 1 / (1 + np.exp(-(-4.0 + straight + bends)))


def _plant(p: np.ndarray, plant: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of an answer when called and when not, shape (n,) both.

    They are in the order of `p`, so that models can learn it.
    """
    if plant == "no_effect":
        return 0.4 * p, 0.4 * p
    if plant == "harm":
        by_himself = (
            1 - (1 - p) ** 5
        )  # five chances in place of one: where few answer anyway, a call cannot do much harm
        return by_himself / 5, by_himself
    return p, np.full(len(p), 0.01)


def _move_north(people: pd.DataFrame) -> pd.DataFrame:
    """Twice the income, and three in four of those in Oslo live in Tromsø."""
    moves = (people["region"] == "Oslo") & (people["customer_id"] % 4 != 0)
    return people.assign(income=2 * people["income"], region=people["region"].mask(moves, "Tromsø"))


def _is_listed(customer_ids: pd.Series, night: int, plan: Plan) -> np.ndarray:
    """Whether the list shows each customer, shape (n,).

    Which are lost goes by their number, so that the same always are.
    """
    loss = LOSSES.get(plan.plant)
    if loss is None or night < loss.from_night:
        return np.ones(len(customer_ids), dtype=bool)
    variant = assignment.assign(customer_ids.astype(str), plan.salt, plan.split).variant
    return (variant != loss.variant) | (customer_ids.to_numpy() % loss.one_in != 0)


def _close_day(connection: sa.Connection, day: date, plan: Plan, selected: set[str]) -> None:
    """Call whoever was selected for `day`, and draw who will answer, and when.

    Before abatch, everybody on the list is called.
    """
    rows = connection.execute(
        sa.select(truth).where(truth.c.candidate_date == day).order_by(truth.c.customer_id)
    ).all()
    if not rows:
        return
    if day < plan.first_night:
        called = np.ones(len(rows), dtype=bool)
    else:
        called = np.array([str(row.customer_id) in selected for row in rows])
    rng = np.random.default_rng([plan.seed, (day - plan.first_night).days + 200_000])
    answered = rng.random(len(rows)) < np.where(
        called, [row.p_called for row in rows], [row.p_uncalled for row in rows]
    )
    answer_days = np.minimum(rng.geometric(0.3, len(rows)) - 1, N_ANSWER_DAYS - 1)
    load_days = answer_days + np.where(rng.random(len(rows)) < 0.03, 2, 1)
    loaded_at = morning(day + DAY)
    _insert(
        connection,
        calls,
        [
            {"customer_id": row.customer_id, "call_date": day, "loaded_at": loaded_at}
            for row, yes in zip(rows, called, strict=True)
            if yes
        ],
    )
    connection.execute(truth.delete().where(truth.c.candidate_date == day))
    book = [
        {
            **row._asdict(),
            "called": int(called[i]),
            "answer_date": day + int(answer_days[i]) * DAY if answered[i] else None,
            "load_date": day + int(load_days[i]) * DAY if answered[i] else None,
        }
        for i, row in enumerate(rows)
    ]
    _insert(connection, truth, book)


def _correct(connection: sa.Connection, today: date) -> None:
    """Load the right income, five days later, where a wrong one was loaded."""
    joined = sa.and_(
        candidates.c.customer_id == truth.c.customer_id,
        candidates.c.candidate_date == truth.c.candidate_date,
    )
    due = sa.select(candidates, truth.c.corrected_income).join(truth, joined)
    due = due.where(
        truth.c.candidate_date == today - 5 * DAY, truth.c.corrected_income.is_not(None)
    )
    rows = [row._asdict() for row in connection.execute(due)]
    for row in rows:
        row["income"] = row.pop("corrected_income")
        row["loaded_at"] = morning(today)
    _insert(connection, candidates, rows)
