"""What a look doubts: outcomes that do not find their predictions, candidates who move."""

import re
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database import connections
from abatch.database.tables import cohort_sums, current_verdicts, looks, predictions, runs
from abatch.errors import DatabaseError, DataError
from abatch.experiment import looks as looks_
from abatch.experiment import records, verdicts
from abatch.night import utc_now
from abatch.statistics import stats
from tests.conftest import FIRST_NIGHT, alter, make_night, make_registration
from tests.responses import Responses

DAY = timedelta(days=1)


@pytest.mark.bank("trained")
def test_score_doubts_outcomes_that_find_few_predictions(
    experiment: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """One in ten answers; ids written otherwise, others' ids, and rows that are lost."""
    responses = Responses(experiment, engine)
    responses.set(grace_days=30)
    for days in range(3):
        responses.play(FIRST_NIGHT + days * DAY)
    night = FIRST_NIGHT + 2 * DAY
    everybody = responses.forget()
    assert 2 * 1000 / 10 < len(everybody) < 3 * 1000 / 9

    def tell(change: Callable[[str], str]) -> str:
        responses.forget()
        rows = [row | {"candidate_id": change(row["candidate_id"])} for row in everybody]
        with responses.bank.begin() as connection:
            connection.execute(responses.table.insert(), rows)
        responses.score(night, force=True)
        return capsys.readouterr().err

    # Models that learnt something else rank these by chance, which is told once of each.
    chance = r"model([AB])_v1\.0_2026-09-01 ranks far worse .* AUC 0\.4\d\d "
    told = tell(str).splitlines()
    assert [re.findall(chance, line) for line in told] == [["A"], ["B"]]
    assert tell(str) == ""
    with pytest.raises(
        DataError, match=r"outcomes\.sql: \d+ ids .* example '00000\d+1' for '\d+1'"
    ):
        tell(lambda name: name.zfill(12))
    few = tell(lambda name: name.zfill(12) if name.endswith("11") else name)
    assert "ids of outcomes seem to be ids of candidates written otherwise" in few
    none = tell(lambda name: f"lead{hash(name)}")
    assert "none of" in none
    assert "is written as one of the" in none
    few = r"0 of \d,?\d+ mature predictions of variant A have an outcome in the nights 2026-09-01"
    assert re.search(few, none), none
    assert "; by the training rows it would be" in none


@pytest.mark.bank("trained")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("table", ["scores", "variant_scores", "verdicts", "looks"])
def test_score_counts_what_it_has_written(
    experiment: Experiment, engine: sa.Engine, table: str
) -> None:
    """A row that gets lost on the way, without an error: nothing is published."""
    responses = Responses(experiment, engine)
    night = FIRST_NIGHT + DAY
    for day in (FIRST_NIGHT, night):
        responses.play(day)
    with engine.begin() as connection:
        once = f"(select count(*) from {table}) = 0"
        lose = f"create trigger lose before insert on {table} when {once}"
        connection.exec_driver_sql(f"{lose} begin select raise(ignore); end")
    lost = rf"^(\d+) rows were sent to {table} and (\d+) arrived\. Nothing was published"
    with pytest.raises(DatabaseError, match=lost):
        responses.score(night)
    with engine.connect() as connection:
        ended = sa.select(runs.c.status).filter_by(job="score").order_by(runs.c.run_number)
        assert connection.scalars(ended).all()[-1] == "failed"


@pytest.mark.bank("trained")
def test_score_tells_that_ids_of_an_arm_are_lost(
    experiment: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """A week is closed; in the next, six in ten of A's ids are written in a way of their own.

    What is closed, and what is counted again, stays doubted until a person knows that it is right.
    """
    responses = Responses(experiment, engine)
    for days in range(14):
        responses.play(FIRST_NIGHT + days * DAY)
        if days == 6:
            responses.score(FIRST_NIGHT + 6 * DAY)
    c = predictions.c
    lost = (c.variant == "A") & sa.or_(*(c.candidate_id.like(f"%{end}1") for end in "135790"))
    with engine.connect() as connection:
        names = connection.scalars(sa.select(c.candidate_id).where(lost)).all()
    rows = responses.table.c
    is_lost = (rows.event_date >= FIRST_NIGHT + 7 * DAY) & rows.candidate_id.in_(names)
    with responses.bank.begin() as connection:
        n_lost = sa.select(sa.func.count()).select_from(responses.table).where(is_lost)
        assert connection.execute(n_lost).scalar_one() > 100
        connection.execute(responses.table.update().where(is_lost).values(candidate_id="lost-one"))
    assert "outcomes.sql" not in capsys.readouterr().err
    responses.score(FIRST_NIGHT + 13 * DAY)
    told = capsys.readouterr().err
    words = r"variant A have an outcome 0\.[34]\d times as often in the nights 2026-09-07"
    assert re.search(f"{words} to 2026-09-1[34] as in those before", told), told
    assert "An id of it that was never predicted is 'lost-one'." in told
    assert "python -m abatch acknowledge card_offer --reason" in told
    assert "variant B" not in told

    def find_doubts() -> list[str | None]:
        with engine.connect() as connection:
            return list(connection.scalars(sa.select(looks.c.doubts).order_by(looks.c.run_date)))

    nothing, doubted = find_doubts()
    assert nothing is None
    assert doubted is not None
    responses.score(FIRST_NIGHT + 13 * DAY, force=True)
    assert "outcomes.sql" not in capsys.readouterr().err  # it was told
    responses.score(FIRST_NIGHT + 13 * DAY, force=True, rebuild=True)
    assert re.search(f"{words} to 2026-09-1[34] as in those before", capsys.readouterr().err)
    assert find_doubts() == [None, doubted]

    def acknowledge() -> list[str]:
        row = {"reason": "so it is", "acknowledged_by": "kari", "acknowledged_at": utc_now()}
        with engine.begin() as connection:
            return records.acknowledge(connection, "card_offer", None, **row)

    (told,) = acknowledge()
    assert re.fullmatch(r"outcome of A, 2026-09-07 to .* \(unlike other variants\)", told)
    responses.score(FIRST_NIGHT + 13 * DAY, force=True, rebuild=True)
    assert "outcomes.sql" not in capsys.readouterr().err
    assert find_doubts() == [None, None]
    assert acknowledge() == []


@pytest.mark.bank("trained")
def test_score_tells_of_candidates_who_change_variant(
    experiment: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same thousand come each night; from the second on, one in twenty is recorded in B.

    Their ids end in 1, so all of them answer; of A nobody else does, and of control nobody at all:
    that is doubted, too.
    """
    responses = Responses(experiment, engine)
    shift = sa.Table("shift", sa.MetaData(), sa.Column("moved", sa.Integer))
    shift.create(responses.bank)
    query = experiment.sql["candidates"]
    moving = (
        "case when customer_id % 20 = (select max(moved) from shift) then 'B' when customer_id % 20"
        " < 9 then 'A' when customer_id % 20 < 18 then 'B' else 'control' end as variant"
    )
    for old, new in (
        ("candidate_date >= :from_date", "candidate_date >= '2026-09-01'"),
        ("candidate_date < :to_date", "candidate_date < '2026-09-02' and :from_date < :to_date"),
        ("customer_id as candidate_id,", f"customer_id as candidate_id, {moving},"),
    ):
        assert old in query
        query = query.replace(old, new)
    sql = {**responses.experiment.sql, "candidates": query}
    responses.experiment = alter(responses.experiment, sql=sql)
    told = []
    for days, moved in enumerate((30, 1, 1, 1)):
        with responses.bank.begin() as connection:
            connection.execute(shift.delete())
            connection.execute(shift.insert().values(moved=moved))
        responses.play(FIRST_NIGHT + days * DAY)
        responses.score(FIRST_NIGHT + days * DAY)
        told.append(capsys.readouterr().err)
    with engine.connect() as connection:
        n_moved = connection.scalar(
            sa.select(sa.func.count()).select_from(
                sa.select(predictions.c.candidate_id)
                .group_by(predictions.c.candidate_id)
                .having(sa.func.count(predictions.c.variant.distinct()) > 1)
                .subquery()
            )
        )
    assert n_moved in range(20, 80)
    words = f"{n_moved} of 1,000 candidates with a known outcome were in more than one variant"
    assert [words in text for text in told] == [False, False, True, False]
    assert "Their outcomes are unlike those of the others" in told[2]
    doubted = f"{n_moved} candidates who changed variant, unlike the others"
    with engine.connect() as connection:
        found = connection.scalars(sa.select(looks.c.doubts).order_by(looks.c.run_date)).all()
        assert found[:2] == [None, None]
        few = "outcome of control: 2026-09-01 to 2026-09-03 (fewer outcomes than planned); "
        seen = ("2026-09-02", ""), ("2026-09-02, 2026-09-03", few)
        for line, (nights, others) in zip(found[2:], seen, strict=True):
            first, _, rest = str(line).partition("; ")
            assert first.startswith(f"outcome of A: {nights} (")
            assert rest == others + doubted
        assert set(connection.scalars(sa.select(current_verdicts.c.doubts))) == {found[-1]}


@pytest.mark.bank("trained")
def test_score_tells_of_a_feed_that_stands_still(
    experiment: Experiment, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nights mature the day after, until the feed stops: then the last one is night 3.

    What is done for a night yet to come is seen in its look alone.
    """
    responses = Responses(experiment, engine)
    told = []
    for days in range(9):
        if days < 5:
            responses.play(FIRST_NIGHT + days * DAY)
        responses.score(FIRST_NIGHT + days * DAY)
        told.append("Verdicts and figures stand still" in capsys.readouterr().err)
    assert told == [False] * 8 + [True]

    before = [responses.count(), read_sums(engine)]
    later = date.today() + 9 * DAY
    with responses.bank.begin() as connection:
        connection.execute(responses.feed.insert().values(event_date=later))
    responses.score(later)
    assert [responses.count(), read_sums(engine)] == before
    with engine.connect() as connection:
        query = sa.select(runs.c.status).where(runs.c.run_date == later)
        assert connection.scalar(query) == "early"
        assert connection.scalar(sa.select(sa.func.max(looks.c.run_date))) == later


def read_sums(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection:
        c = cohort_sums.c
        return list(
            connection.execute(
                sa.select(c.cohort, c.closed_date).order_by(c.cohort, c.variant, c.model_name)
            )
        )


@pytest.mark.parametrize(
    ("n_mixed", "shift", "is_told"),
    [
        (20, 0.5, False),
        (21, 0.0011, True),  # more than a tenth of the effect, .01
        (21, -0.0011, True),
        (21, 0.0009, False),
        (21, None, False),
        (101, None, True),  # of 10,001
    ],
)
def test_tell_news_of_candidates_who_are_left_out(
    engine: sa.Engine, experiment: Experiment, n_mixed: int, shift: float | None, is_told: bool
) -> None:
    """Told is what can be a tenth of the effect that matters, or one in a hundred; and once."""
    told = tell_twice(engine, experiment, n_mixed=n_mixed, mixed_shift=shift)
    assert len(told) == is_told
    for words in told:
        assert words.startswith(f"{n_mixed} of {9_900 + n_mixed:,} candidates")
        assert ("would move the mean by -0.0011." in words) == (shift == -0.0011)


def tell_twice(engine: sa.Engine, experiment: Experiment, **changes: object) -> list[str]:
    """What is told of two looks that are alike."""
    outcome = experiment.outcome.model_copy(update={"expected_effect": 0.01})
    names = ("watermark", "mature_date", "waits_for", "outcomes_as_of", "doubts", "mixed_shift")
    row: dict[str, Any] = dict.fromkeys(names)
    row |= {"n_predicted": 0, "n_mature": 0, "n_units": 9_900, "n_mixed": 0, **changes}
    told: list[str] = []
    for days in range(2):
        night = make_night(f"r{days}", FIRST_NIGHT + days * DAY, alter(experiment, outcome=outcome))
        night.dry_run, night.warn = False, told.append
        night.read = partial(connections.read, engine)
        looks_.tell_news(night, verdicts.Look(row, [], []), {}, [])
        with engine.begin() as connection:
            verdicts.write_look(connection, night, verdicts.Look(row, [], []))
    return told


def test_tell_news_of_amounts_in_another_unit(engine: sa.Engine, experiment: Experiment) -> None:
    scaled = f"{looks_.SCALED}: they spread by 5 (sd), by the config it would be 500"
    (words,) = tell_twice(engine, experiment, doubts=f"outcome of A: ...; {scaled}; 30 candidates")
    assert f"outcomes.sql: {scaled}. If they are in another unit" in words


@pytest.mark.parametrize(
    ("kind", "planned", "told"),
    [
        ("numeric", 25.1, False),
        ("numeric", 24.9, True),
        ("numeric", 399.0, False),
        ("numeric", 401.0, True),
        ("numeric", None, False),
        ("binary", 1.0, False),
    ],
)
def test_describe_scale_of_amounts_in_another_unit(
    kind: str, planned: float | None, told: bool
) -> None:
    """100 people bring 100 and 100 bring 300, in two variants: a standard deviation of 100."""
    ones = np.ones(100)
    units = [stats.compute_moments(ones, value * ones) for value in (100.0, 300.0)]
    registration = make_registration()
    outcome = registration.outcome.model_copy(update={"kind": kind})
    plan = registration.plan.model_copy(update={"sd": planned})
    asked = registration.model_copy(update={"outcome": outcome, "plan": plan})
    words = looks_.describe_scale(asked, units)
    assert (words is not None) == told
    if told:
        assert f"by 100 (sd), by training rows it would be {planned:,.4g}" in str(words)
    few = stats.compute_moments(ones[:99], 300 * ones[:99])
    assert looks_.describe_scale(asked, [few]) is None
    rare = plan.model_copy(update={"kurtosis": 20.1})  # 201 candidates are asked for
    assert looks_.describe_scale(asked.model_copy(update={"plan": rare}), units) is None
