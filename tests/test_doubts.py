"""Outcomes that hardly find their predictions, by counts with a stated rule."""

from collections.abc import Callable
from datetime import date
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from abatch.experiment import doubts, outcomes
from abatch.experiment.doubts import (
    Record,
    find_doubts,
    find_few,
    find_lopsided,
    find_moved,
    find_unmatched,
)
from abatch.experiment.outcomes import Feed
from abatch.experiment.predictions import Span
from abatch.queries import Query
from abatch.sections import Outcome
from tests.conftest import make_registration

NUMERIC = Outcome(kind="numeric", window_days=14, expected_effect=1, cap=9)
BINARY = Outcome(kind="binary", window_days=14, expected_effect=0.01)
NIGHT = date(2026, 9, 1)


def make_nights(n: float, *found: float, told: float = 100) -> np.ndarray:
    return np.array([[n, y, told, 0, 0, 0, 0] for y in found], dtype=float)


def play(closed: np.ndarray, nights: np.ndarray) -> list[bool]:
    """Close one night after the other; which were told."""
    told = []
    for i in range(len(nights)):
        new = nights[i : i + 1].copy()
        few = find_few(closed, new, None, 1)
        if few:
            new[few[1][-1:], 3] = 1
        told.append(few is not None)
        closed = np.concatenate([closed, new])
    return told


def test_find_few_judges_each_night_by_itself() -> None:
    closed = make_nights(550, *[55] * 14)
    few = find_few(closed, make_nights(550, 60, 0, 50, 2, 14), None, 1)
    assert few is not None
    level, is_low = few
    assert level.rate == pytest.approx(0.1)
    assert is_low.tolist() == [*[False] * 7, False, True, False, True, False]
    one = make_nights(200, 0)  # 20 are expected, on a weekend 5: e^-5, but e^-15 in three nights
    assert find_few(closed, one, None, 1) is None
    assert play(closed, make_nights(200, 0, 0, 0, 18)) == [False, False, True, False]
    few = find_few(np.concatenate([closed, make_nights(200, 0, 0)]), one, None, 1)
    assert few is not None
    assert few[1].tolist() == [*[False] * 5, True, True, True]  # those that were let pass, too
    assert find_few(closed, make_nights(550, 60, 50, 14), None, 1) is None


def test_find_few_is_told_as_long_as_the_feed_is_dead() -> None:
    dead = make_nights(700, *[0] * 90)
    assert play(make_nights(700, *[70] * 60), dead) == [True] * 90


def test_find_few_of_a_lower_level_is_not_told_for_ever() -> None:
    """At .4 of what was: a week of it is under a half, and 40 of 60 + 40 nights lift it above."""
    told = play(make_nights(550, *[55] * 60), make_nights(550, *[22] * 90))
    first = told.index(True)
    assert first < doubts.WEEK
    assert told[first : first + doubts.N_DOUBTED] == [True] * doubts.N_DOUBTED
    assert not any(told[60:])


def test_find_few_tells_no_night_after_the_feed_is_mended() -> None:
    told = play(make_nights(700, *[70] * 20), make_nights(700, *[0] * 5, *[70] * 20))
    assert told == [True] * 5 + [False] * 20


@pytest.mark.parametrize("size", [20, 300])
@pytest.mark.parametrize("n_together", [1, 3, 7])
def test_find_few_weekends_at_a_quarter_are_not_told(
    rng: np.random.Generator, size: int, n_together: int
) -> None:
    """A thousand weeks of Poisson counts, after four; in windows of a fortnight all days are told.

    Of what the feed tells, weekends find a quarter, too.
    """
    mean = np.tile([1, 1, 1, 1, 1, 0.25, 0.25], 300) * size
    found = rng.poisson(mean)
    nights = np.column_stack([np.full(len(found), 1000), found, np.full(len(found), 30 * size)])
    nights = np.column_stack([nights, np.zeros((len(found), 4))]).astype(float)
    for start in range(28, len(nights) - 7, n_together):
        closed, new = nights[max(0, start - 180) : start], nights[start : start + n_together]
        assert find_few(closed, new, None, 1) is None
        assert find_unmatched(closed, new, 1) is None


def test_find_unmatched_where_ids_of_half_an_arm_are_lost() -> None:
    closed, lost = make_nights(500, *[50] * 20), make_nights(500, *[27] * 7)
    assert find_unmatched(closed, lost, 1) == pytest.approx((0.27, 0.5))
    assert find_few(closed, lost, None, 1) is None
    assert find_unmatched(closed, lost[:1], 1) is None  # a night is no week
    assert find_unmatched(np.concatenate([closed, lost[:6]]), lost[6:], 1) is not None
    # As many of the predictions answer, but there are fewer, or the feed tells of others, too.
    assert find_unmatched(closed, make_nights(270, *[27] * 7), 1) is None
    assert find_unmatched(closed, make_nights(500, *[50] * 7, told=300), 1) is None
    # Fewer answer, of whom the feed tells.
    assert find_unmatched(closed, make_nights(500, *[27] * 7, told=54), 1) is None
    # By chance.
    few = make_nights(50, *[5] * 20, told=10)
    assert find_unmatched(few, make_nights(50, *[3] * 7, told=10), 1) is None


def test_find_lopsided_where_one_variant_loses_rows() -> None:
    """A fifth of all has an outcome, in a week .55 of that of A and .95 of that of the others."""
    days, week = np.arange(21), np.arange(21, 28)
    closed = Record(days, {("x", v): make_nights(400, *[80] * 21) for v in "ABC"})
    found = {"A": 44, "B": 76, "C": 76}
    new = Record(week, {("x", v): make_nights(400, *[n] * 7) for v, n in found.items()})
    assert find_lopsided(closed, new, "x", "A", 1) == pytest.approx((0.55, 0.95))
    assert find_lopsided(closed, new, "x", "B", 1) is None
    for n, told in ((55, True), (61, False)):  # .6875 and .7625 against .95, of which .8 are .76
        new.figures["x", "A"][:, 1] = n
        assert (find_lopsided(closed, new, "x", "A", 1) is not None) == told
    # A's log ratio has a standard error of sqrt(1/308 + 1/1680 + 1/1064 + 1/3360) = .07: 7.7 of
    # them; if everybody is there four times it is .14.
    new.figures["x", "A"][:, 1] = 44
    assert find_lopsided(closed, new, "x", "A", 4) is None
    only = Record(week, {("x", "A"): make_nights(400, *[44] * 7)})
    assert (
        find_lopsided(Record(days, {("x", "A"): closed.figures["x", "A"]}), only, "x", "A", 1)
        is None
    )


def make_amounts(nights: list[np.ndarray]) -> np.ndarray:
    """Figures of nights with these amounts, of 500 predictions each."""
    logs = [np.log(np.abs(y)) for y in nights]
    return np.array(
        [
            (500, len(y), 100, 0, log.sum(), (log**2).sum(), (y < 0).sum())
            for y, log in zip(nights, logs, strict=True)
        ],
        dtype=float,
    )


@pytest.mark.parametrize(
    ("change", "n_nights"),
    [  # after how many nights a week's geometric mean has moved by 1.6
        (lambda y: 10 * y, 2),  # 10^(2/7) = 1.93
        (lambda y: y / 100, 1),  # 100^(1/7) = 1.93
        (lambda y: 3 * y, 3),  # 3^(3/7) = 1.601
        (lambda y: 2 * y, 5),  # 2^(5/7) = 1.64
        (lambda y: np.where(np.arange(len(y)) % 2, y, 8 * y), 4),  # 8^(1/2 * 4/7) = 1.81
        (lambda y: -y, 4),  # more than half of the week
        (lambda y: 1.5 * y, None),
    ],
)
def test_find_moved_when_the_unit_changes(
    change: Callable[[np.ndarray], np.ndarray], n_nights: int | None
) -> None:
    """40 amounts a night of geometric mean 50: e^-1/2 to e^1/2 times that, in even steps."""
    amounts = 50 * np.exp(np.linspace(-0.5, 0.5, 40))
    closed, told = make_amounts([amounts] * 14), []
    for _ in range(7):
        new = make_amounts([change(amounts)])
        told.append(find_moved(closed, new, 1) is not None)
        closed = np.concatenate([closed, new])
    assert told == [n_nights is not None and days + 1 >= n_nights for days in range(7)]


def test_find_moved_gives_the_means() -> None:
    one, other = np.array([2.0, 8.0] * 20), np.array([-20.0, 80.0] * 20)
    moved = find_moved(make_amounts([one] * 9), make_amounts([other] * 7), 1)
    assert moved is not None
    assert moved[0] == pytest.approx((40, 0.5))
    assert moved[1] == pytest.approx((4, 0))


@pytest.mark.parametrize("n", [3, 40])
def test_find_moved_of_seasons_and_of_rare_large_amounts_is_silent(
    rng: np.random.Generator, n: int
) -> None:
    """Lognormal amounts of sigma 2; weekends twice, and one week in four at month's end thrice."""
    mean = np.tile([1, 1, 1, 1, 1, 2, 2], 160) * np.tile(np.repeat([1, 1, 1, 3], 7), 40)
    closed = make_amounts([50 * m * rng.lognormal(0, 2, n) for m in mean])
    for start in range(56, len(closed) - 1):
        assert find_moved(closed[max(0, start - 180) : start], closed[start : start + 1], 1) is None


def make_feed(rows: list[tuple[str, object, float]], metric: Outcome) -> Feed:
    frame = pd.DataFrame(rows, columns=outcomes.EVENT)
    events = outcomes.find_events(frame, metric.kind)
    return Feed("outcome", metric, Query("sales.sql", ""), events, len(rows))


def test_find_doubled_names_the_arm() -> None:
    """A has 100 amounts and B 300; a join returns those of A twice, or a few of B."""
    ids = [str(i) for i in range(400)]
    variants = pd.Series(["A"] * 100 + ["B"] * 300, ids)
    rows: list[tuple[str, object, float]] = [(name, NIGHT, float(len(name))) for name in ids]

    def tell(more: list[tuple[str, object, float]], metric: Outcome = NUMERIC) -> str | None:
        return doubts.find_doubled(make_feed([*rows, *more], metric), variants)

    words = tell(rows[:100])
    assert words is not None
    assert words.startswith("sales.sql: rows come twice or more, alike in candidate_id, event_date")
    assert "outcome: 200 of 500 in all, 200 of 200 of variant A. All are added up." in words
    words = tell(rows[:10])  # 20 of 110 of A, but 20 of 410
    assert words is not None
    assert "outcome: 20 of 110 of variant A." in words
    assert tell(rows[:9]) is None
    assert tell(rows[100:110]) is None
    assert tell([]) is None
    assert tell([(name, NIGHT, 99.0) for name in ids]) is None  # another amount
    later = pd.Timestamp(NIGHT) + pd.Timedelta(hours=3)
    assert tell([(name, later, amount) for name, _, amount in rows]) is None  # at another time
    ones = [(name, day, 1.0) for name, day, _ in rows]
    assert doubts.find_doubled(make_feed(ones * 2, BINARY), variants) is None


def test_find_doubts_marks_nights_that_were_closed_before_it_showed() -> None:
    """A tenth of 60 answers; two nights without any are closed, two more are no chance."""
    days = np.arange(NIGHT.toordinal(), NIGHT.toordinal() + 20)
    closed = Record(days[:16], {("x", "A"): make_nights(60, *[6] * 14, 0, 0)})
    new = Record(days[16:], {("x", "A"): make_nights(60, *[0] * 4)})
    nobody = pd.DataFrame({"candidate_id": pd.Series(dtype=str), "variant": []})
    feed = make_feed([], BINARY)._replace(name="x")
    span, connection = Span("e", NIGHT, NIGHT), cast(Any, None)  # asked for odd ids alone
    plan = make_registration().plan
    (words,) = find_doubts(connection, span, [feed], nobody, closed, new, plan)
    assert "sales.sql: 0 of 360 mature predictions of variant A have an outcome in" in words
    marked = doubts.join(closed, new).figures["x", "A"][:, 3]
    assert marked.tolist() == [0] * 14 + [1] * 6


def test_keep_doubts_of_nights_that_are_as_they_were() -> None:
    days = np.arange(3)
    seen = Record(days, {("x", "A"): make_nights(60, 0, 0, 6)})
    seen.figures["x", "A"][:2, 3] = 1
    seen = doubts.unpack(doubts.pack(seen, "open"), "open")
    same = Record(days[:2], {("x", "A"): make_nights(60, 0, 0, told=7)})  # others' events
    assert doubts.keep_doubts(seen, same)
    assert same.figures["x", "A"][:, 3].tolist() == [1, 1]
    mended = Record(np.arange(1, 4), {("x", "A"): make_nights(60, 5, 6, 0)})
    assert not doubts.keep_doubts(seen, mended)
    assert mended.figures["x", "A"][:, 3].tolist() == [0, 0, 0]
    assert not doubts.keep_doubts(doubts.unpack({}), same)
    assert doubts.keep_doubts(seen, Record(days[:0], {("x", "A"): make_nights(60, 0)[:0]}))


def test_pack_keeps_the_newest_nights() -> None:
    exposures = pd.DataFrame(
        {"candidate_id": ["1", "2"], "variant": "A", "run_date": pd.Timestamp(NIGHT)}
    ).assign(outcome=[1.0, 0.0])
    feed = make_feed([("1", NIGHT, 1.0), ("9", NIGHT, 1.0)], BINARY)
    new = doubts.make_record([feed], np.array([[2]]), exposures, [NIGHT], ["A", "B"])
    assert new.figures["outcome", "A"].tolist() == [[2, 1, 2, 0, 0, 0, 0]]
    assert new.figures["outcome", "B"].tolist() == [[0] * 7]
    closed = doubts.unpack({})
    for _ in range(doubts.N_KEPT + 5):
        closed = doubts.unpack(doubts.pack(doubts.join(closed, new)))
    assert closed.figures["outcome", "A"].tolist() == [[2, 1, 2, 0, 0, 0, 0]] * doubts.N_KEPT
    assert closed.nights.tolist() == [NIGHT.toordinal()] * doubts.N_KEPT
    assert doubts.describe_doubted(closed) is None
    closed.figures["outcome", "B"][-2:, 3] = 1
    assert doubts.describe_doubted(closed) == "outcome of B: 2026-09-01, 2026-09-01"
