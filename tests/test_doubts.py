"""Nights that are doubted, by counts with a stated rule."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from abatch.experiment import doubts, outcomes
from abatch.experiment.doubt_rules import (
    ADDED,
    BELOW,
    BEYOND,
    CAPPED,
    DOUBLED,
    FEW,
    FOUND,
    GONE,
    LOGS,
    LOPSIDED,
    MOVED,
    MOVED_ALONE,
    N_FIGURES,
    NEARLY_ALL,
    REPLACED,
    ROWS,
    SQUARES,
    TOLD,
    TWICE,
    UNMATCHED,
    UNPLANNED,
    N,
)
from abatch.experiment.doubts import Doubt, Record, find_doubts
from abatch.experiment.outcomes import Feed
from abatch.queries import Query
from abatch.sections import Outcome
from tests.conftest import make_registration

NUMERIC = Outcome(kind="numeric", window_days=14, expected_effect=1, cap=9)
BINARY = Outcome(kind="binary", window_days=14, expected_effect=0.01)
NIGHT = date(2026, 9, 1)
FIRST = NIGHT.toordinal()
PLAN = make_registration().plan.model_copy(update={"mean": None, "rate": None})


def make_nights(n: float, *found: float, told: float = 0) -> np.ndarray:
    figures = np.zeros((len(found), N_FIGURES))
    figures[:, N], figures[:, FOUND], figures[:, TOLD] = n, found, told
    return figures


def make(variants: dict[str, np.ndarray]) -> Record:
    n = len(next(iter(variants.values())))
    return Record(np.arange(FIRST, FIRST + n), {("x", v): y for v, y in variants.items()})


def tell(
    metric: Outcome = BINARY,
    *,
    times: float = 1,
    known: Sequence[Any] = (),
    earlier: Sequence[Any] = (),
    **variants: np.ndarray,
) -> list[Doubt]:
    """What is doubted of nights from 0 on."""
    metrics = {"x": (metric, Query("sales.sql", ""))}
    return find_doubts(make(variants), metrics, PLAN, times, known, earlier)


def store(found: list[Doubt], last: int = -1) -> list[Any]:
    """Rows as the tables have them, of a look whose newest night is `last`."""
    return [
        SimpleNamespace(
            **doubt._asdict(),
            from_date=date.fromordinal(int(doubt.nights[0])),
            to_date=date.fromordinal(int(doubt.nights[-1])),
            is_ongoing=int(doubt.nights[-1] == FIRST + last),
        )
        for doubt in found
    ]


def show(found: list[Doubt]) -> list[tuple[str, str, list[int]]]:
    return [(doubt.kind, doubt.variant, (doubt.nights - FIRST).tolist()) for doubt in found]


def span(first: int, last: int) -> list[int]:
    return [*range(first, last + 1)]


def test_few_outcomes_of_nights() -> None:
    """55 are usual, on a weekend a quarter: e^-13.75 is 5.2 standard deviations, e^-11.25 4.7."""
    found = tell(A=make_nights(550, *[55] * 14, 60, 0, 50, 2, 14, *[55] * 5))
    assert show(found) == [(FEW, "A", [15])]
    assert found[0].words == (
        "sales.sql: 0 of 550 mature predictions of variant A have an outcome in the nights"
        " 2026-09-16; by the nights before it would be 55. Look whether the feed is whole, and"
        " writes ids as the candidates query does."
    )
    usual = [45] * 14
    assert tell(A=make_nights(450, *usual, 0, *[45] * 5)) == []
    assert show(tell(A=make_nights(450, *usual, 0, 0, *[45] * 5))) == [(FEW, "A", [14, 15])]
    assert tell(A=make_nights(450, *usual, 0, 0, *[45] * 5), times=3) == []


def test_few_outcomes_as_long_as_it_lasts() -> None:
    """A level of .45 for good, all of it, and no word after the feed is mended."""
    usual, low = [70] * 20, [31] * 90
    assert tell(A=make_nights(700, *usual, *low[:6])) == []
    for n in (7, 30, 90):
        assert show(tell(A=make_nights(700, *usual, *low[:n]))) == [(FEW, "A", span(20, 19 + n))]
    mended = make_nights(700, *usual, *[0] * 5, *[70] * 20)
    assert show(tell(A=mended)) == [(FEW, "A", span(20, 24))]


@pytest.mark.parametrize(
    ("metric", "mean", "source"), [(BINARY, 0.1, "the training rows"), (NUMERIC, 4.5, "the config")]
)
def test_few_outcomes_by_the_plan_while_there_is_nothing_before(
    metric: Outcome, mean: float, source: str
) -> None:
    """A tenth is planned, of 200; then a week of nights that are right is known."""
    nights = {("outcome", "A"): make_nights(200, 0, 0, 0, 0, 0, *[20] * 9)}
    metrics, plan = {"outcome": (metric, Query("o.sql", ""))}, make_registration().plan
    plan = plan.model_copy(update={"mean": mean, "rate": 0.1, "source": source})
    for found, n_nights in (((2, 2, 2), 3), ((5, 5, 20, 20), 0)):  # on a weekend a quarter is due
        first = Record(
            np.arange(FIRST, FIRST + len(found)), {("outcome", "A"): make_nights(200, *found)}
        )
        assert len(find_doubts(first, metrics, plan, 1)) == bool(n_nights)
    record = Record(np.arange(FIRST, FIRST + 14), nights)
    (doubt,) = find_doubts(record, metrics, plan, 1)
    assert show([doubt]) == [(UNPLANNED, "A", span(0, 4))]
    assert "by the training rows it would be 100." in doubt.words
    # Once it is known what nights bring, they are the measure, though the plan says more.
    late = make_nights(200, *[20] * 11, *[0] * 15)
    record = Record(np.arange(FIRST, FIRST + 26), {("outcome", "A"): late})
    assert show(find_doubts(record, metrics, plan, 1)) == [(FEW, "A", span(11, 25))]


def test_an_outcome_of_nearly_all() -> None:
    """Of 200 a tenth is usual; a tenth of those without one are 18 of 180."""

    def tell_both(*found: float) -> list[Doubt]:
        return tell(A=make_nights(200, *found), B=make_nights(200, *found))

    usual = [20.0] * 14
    found = tell_both(*usual, 183, 200, *usual)
    assert show(found) == [(NEARLY_ALL, name, [14, 15]) for name in "AB"]
    assert found[0].words.endswith(
        " 383 of 400 mature predictions of variant A have an outcome in the nights 2026-09-15,"
        " 2026-09-16; by the nights before it would be 40. Look whether the query still tells who"
        " answered from who did not."
    )
    assert tell_both(*usual, 181, 181) == []
    assert tell_both(*[120.0] * 14, 200, 200) == []  # usually more than half have one
    assert tell_both(*[200.0] * 9) == []  # nothing is known to go by
    nights = {("outcome", "A"): make_nights(200, *[200] * 9)}
    record = Record(np.arange(FIRST, FIRST + 9), nights)
    plan = PLAN.model_copy(update={"mean": 0.1, "rate": 0.1})
    found = find_doubts(record, {"outcome": (BINARY, Query("o.sql", ""))}, plan, 1)
    assert show(found) == [(NEARLY_ALL, "A", span(0, 8))]


@pytest.mark.parametrize("size", [20, 300])
def test_weekends_at_a_quarter_are_not_told(rng: np.random.Generator, size: int) -> None:
    """Two variants, 26 weeks of Poisson counts, ten times."""
    mean = np.tile([1, 1, 1, 1, 1, 0.25, 0.25], 26) * size
    for _ in range(10):
        a, b = (make_nights(1000, *rng.poisson(mean), told=30 * size) for _ in "AB")
        assert tell(A=a, B=b) == []


def test_variants_that_lose_rows_alone() -> None:
    """A fifth of all has an outcome; of A .55 of it, of the others .95."""
    usual = [80] * 21
    one, other = make_nights(400, *usual, *[44] * 7), make_nights(400, *usual, *[76] * 7)
    found = tell(A=one, B=other, C=other)
    assert show(found) == [(LOPSIDED, "A", span(21, 27))]
    assert "have an outcome 0.55 times as often in the nights 2026-09-22 to" in found[0].words
    assert "those of the others 0.95 times." in found[0].words
    # All lose as much; everybody is there nine times, so that there is a third of the evidence.
    assert tell(A=one, B=one, C=one) == []
    assert tell(A=one, B=other, C=other, times=9) == []
    # .6875 and .7625 against .95, of which .8 are .76; over three weeks, so that it is no chance.
    for n, is_told in ((55, True), (61, False)):
        less, others = ([*usual, *[m] * 21] for m in (n, 76))
        assert bool(tell(A=make_nights(400, *less), B=make_nights(400, *others))) == is_told
    # Whose own rate has moved more is told: here B's rises, by a third.
    rises = make_nights(400, *usual, *[107] * 14)
    ((kind, variant, nights),) = show(tell(A=make_nights(400, *usual, *[78] * 14), B=rises))
    assert (kind, variant, nights[-14:]) == (LOPSIDED, "B", span(21, 34))
    assert len(nights) <= 15  # on the safe side


def test_a_fault_of_one_variant_is_not_told_of_another() -> None:
    """Of A nothing comes for six nights but one; B is as it was."""
    lost = [50] * 11 + [0] * 4 + [50] + [0] * 2 + [50] * 12
    found = tell(A=make_nights(500, *lost), B=make_nights(500, *[50] * 30))
    assert show(found) == [(FEW, "A", span(11, 14)), (FEW, "A", [16, 17])]
    # All fall alike, B by a little more than a half: A is not held against what is left of B.
    falls = [make_nights(500, *[50] * 14, *[n] * 21) for n in (26, 24)]
    assert show(tell(A=falls[0], B=falls[1])) == [(FEW, "B", span(14, 34))]


def test_a_variant_that_loses_rows_every_other_night() -> None:
    """Of 40 a night 28, seven times: 7 * 12 of 280 and 280; and on Sundays."""
    for step, n in ((2, 28), (7, 63)):
        counts = np.full(n, 40)
        counts[14::step] = 12
        found = show(tell(A=make_nights(400, *counts), B=make_nights(400, *[40] * n)))
        assert {(kind, variant) for kind, variant, _ in found} == {(LOPSIDED, "A")}
        assert [night for _, _, nights in found for night in nights] == [*range(14, n, step)]


def test_predictions_that_find_less_of_what_the_feed_tells() -> None:
    """Half of 100 events, then 27; in both variants, so that neither is unlike the other."""
    usual = [50] * 20

    def look(lost: np.ndarray) -> list[tuple[str, str, list[int]]]:
        nights = np.concatenate([make_nights(500, *usual, told=100), lost])
        return show(tell(A=nights, B=nights))

    both = [(UNMATCHED, variant, span(20, 26)) for variant in "AB"]
    assert look(make_nights(500, *[27] * 7, told=100)) == both
    assert look(make_nights(500, *[27] * 3, told=100)) == []  # .80 in a week
    # As many of the predictions answer, but there are fewer, or the feed tells of others, too.
    assert look(make_nights(270, *[27] * 7, told=100)) == []
    assert look(make_nights(500, *[27] * 7, told=54)) == []
    assert look(make_nights(500, *usual[:7], told=300)) == []


def make_amounts(nights: list[np.ndarray]) -> np.ndarray:
    """Figures of nights with these amounts, of 500 predictions each."""
    figures = make_nights(500, *map(len, nights))
    for row, y in zip(figures, nights, strict=True):
        log = np.log(np.abs(y))
        row[[LOGS, SQUARES, BELOW, ROWS]] = log.sum(), (log**2).sum(), (y < 0).sum(), len(y)
    return figures


AMOUNTS = 50 * np.exp(np.linspace(-0.5, 0.5, 40))  # geometric mean 50, in even steps


@pytest.mark.parametrize(
    ("change", "n_nights"),
    [  # after how many nights it is told, of all variants
        (lambda y: 10 * y, 1),
        (lambda y: y / 100, 1),
        (lambda y: 4.1 * y, 1),
        (lambda y: -y, 1),
        (lambda y: np.where(np.arange(len(y)) % 2, y, 100 * y), 1),
        (lambda y: 3 * y, 3),  # less than four times; in a week 3^(3/7) = 1.601
        (lambda y: 2 * y, 5),  # 2^(5/7) = 1.64
        (lambda y: 1.5 * y, None),
    ],
)
def test_amounts_that_are_of_another_unit(
    change: Callable[[np.ndarray], np.ndarray], n_nights: int | None
) -> None:
    nights, told = [AMOUNTS] * 14, []
    for n in range(1, 10):
        both = make_amounts(nights + [change(AMOUNTS)] * n)
        found = show(tell(NUMERIC, A=both, B=both))
        told.append(found == [(MOVED, variant, span(14, 13 + n)) for variant in "AB"])
        assert told[-1] or not found
    assert told == [n_nights is not None and n >= n_nights for n in range(1, 10)]


def test_amounts_that_are_booked_twice_for_good() -> None:
    """Of A, from night 14 on: all of them are doubted, and none once that is acknowledged."""
    twice = make_amounts([AMOUNTS] * 14 + [2 * AMOUNTS] * 40)
    usual = make_amounts([AMOUNTS] * 54)
    found = tell(NUMERIC, A=twice, B=usual)
    assert show(found) == [(MOVED, "A", span(14, 53))]
    assert "other than 0 they are 100 in the geometric mean and 0% are below 0" in found[0].words
    assert "in the nights before it was 50 and 0%." in found[0].words
    for last in (21, 40):
        known = store(tell(NUMERIC, A=twice[: last + 1], B=usual[: last + 1]), last)
        assert [row.is_ongoing for row in known] == [1]
        assert tell(NUMERIC, A=twice, B=usual, known=known) == []
    worse = make_amounts([AMOUNTS] * 14 + [2 * AMOUNTS] * 27 + [20 * AMOUNTS] * 2)
    found = tell(NUMERIC, A=worse, B=usual[:43], known=known)
    assert show(found) == [(MOVED, "A", [41, 42])]


def test_amounts_beyond_the_cap() -> None:
    """1 of 40 is usual, in 14 nights 14 of 560; then 10 of 40, or 3 of 80 in each of ten nights."""
    for nights, told in (([10, 10, 10], [14, 15, 16]), ([3] * 10, [])):
        figures = make_amounts([AMOUNTS] * (14 + len(nights)))
        figures[:, BEYOND] = [1] * 14 + nights
        if not told:
            figures[14:, [FOUND, LOGS, SQUARES]] *= 2
            figures[14:, N] *= 2
        found = tell(NUMERIC, A=figures)
        assert show(found) == ([(CAPPED, "A", told)] if told else [])
    figures[14:, BEYOND] = 10
    (doubt,) = tell(NUMERIC, A=figures)
    assert (
        "100 of 800 amounts of variant A in the nights 2026-09-15 to 2026-09-24 are beyond the cap,"
        " 12.5%, and before it was 2.5%. Look for numbers that stand for unknown"
    ) in doubt.words
    assert tell(BINARY, A=figures) == []


def test_amounts_of_one_variant() -> None:
    """1.4 times what they were, and 1.05 times in the other: fewer than is told of all."""
    nights = [[AMOUNTS] * 14 + [change * AMOUNTS] * 7 for change in (1.4, 1.05)]
    found = tell(NUMERIC, A=make_amounts(nights[0]), B=make_amounts(nights[1]))
    assert show(found) == [(MOVED_ALONE, "A", span(14, 20))]
    assert "amounts of variant A are 1.40 times in the nights 2026-09-15 to" in found[0].words
    assert tell(NUMERIC, A=make_amounts(nights[0]), B=make_amounts(nights[0])) == []
    brief = make_amounts([AMOUNTS] * 14 + [3 * AMOUNTS] * 2 + [AMOUNTS] * 7)
    assert show(tell(NUMERIC, A=brief, B=make_amounts([AMOUNTS] * 23))) == [
        (MOVED_ALONE, "A", [14, 15])
    ]


@pytest.mark.parametrize("n", [3, 40])
def test_amounts_of_weekends_and_of_rare_large_ones_are_silent(
    rng: np.random.Generator, n: int
) -> None:
    """Lognormal amounts of sigma 2, on weekends four times as large."""
    mean = 50 * np.tile([1, 1, 1, 1, 1, 4, 4], 20)
    for _ in range(5):
        a, b = (make_amounts([m * rng.lognormal(0, 2, n) for m in mean]) for _ in "AB")
        assert tell(NUMERIC, A=a, B=b) == []


def test_amounts_at_month_ends_are_told_each_time(
    rng: np.random.Generator,
) -> None:
    """Three times as large in one week of four."""
    mean = 50 * np.tile(np.repeat([1, 1, 1, 3], 7), 4)
    a, b = (make_amounts([m * rng.lognormal(0, 1, 40) for m in mean]) for _ in "AB")
    found = tell(NUMERIC, A=a, B=b)
    weeks = [span(first, first + 6) for first in (21, 49, 77, 105)]
    assert sorted(nights for _, variant, nights in show(found) if variant == "A") == weeks
    known = store(tell(NUMERIC, A=a[:25], B=b[:25]), 24)  # on the fourth night
    assert [row.is_ongoing for row in known] == [1, 1]
    assert tell(NUMERIC, A=a[:42], B=b[:42], known=known) == []  # the week's other nights, too
    later = show(tell(NUMERIC, A=a, B=b, known=known))
    assert sorted(nights for _, variant, nights in later if variant == "A") == weeks[1:]


def test_rows_that_come_twice() -> None:
    """30 of 100 rows in night 3, of which 10 are allowed; with 20 chance might do it."""
    for n_twice, is_told in ((35, True), (20, False)):
        nights = make_amounts([AMOUNTS] * 9)
        nights[:, ROWS] = 100
        nights[3, TWICE] = n_twice
        found = tell(NUMERIC, A=nights)
        assert show(found) == ([(DOUBLED, "A", [3])] if is_told else [])
        assert (
            not is_told
            or "outcome: 35 of 100 of variant A in the nights 2026-09-04." in found[0].words
        )


@pytest.mark.parametrize("column", [GONE, ADDED])
def test_candidates_who_were_replaced(column: int) -> None:
    """40 of a night that was done again; all of them have answered, or as many as of others."""
    for n_found, is_told in ((40, True), (4, False)):
        nights = make_nights(500, *[50] * 9)
        nights[3, [column, column + 1]] = 40, n_found
        found = tell(A=nights)
        assert show(found) == ([(REPLACED, "A", [3])] if is_told else [])
        if is_told:
            words = found[0].words
            assert "sales.sql: the nights 2026-09-04 were predicted again for others: of" in words
            assert ("variant A, of 40 who are gone from them 100%" in words) == (column == GONE)
            assert ("variant A, of 40 who came to them 100%" in words) == (column == ADDED)
            assert ", of 500 who are there now 10% have an outcome." in words
    nights = make_nights(500, *[50] * 9)
    nights[[3, 4, 6], column] = nights[[3, 4, 6], column + 1] = 11  # no 20 in any night
    assert show(tell(A=nights)) == [(REPLACED, "A", [3, 4]), (REPLACED, "A", [6])]


def make_feed(rows: list[tuple[str, object, float]], metric: Outcome) -> Feed:
    frame = pd.DataFrame(rows, columns=outcomes.EVENT)
    events = outcomes.find_events(frame, metric.kind)
    return Feed("outcome", metric, Query("sales.sql", ""), events, len(rows))


def test_make_record_counts_by_night_and_variant() -> None:
    """1 and 3 have amounts, 1 the same one twice; 2 is gone, and 9 was never there."""
    day = pd.Timestamp(NIGHT)
    people = {"candidate_id": ["1", "2", "3", "1"], "variant": ["A", "A", "B", "A"]}
    frame = pd.DataFrame(people).assign(run_date=[day, day, day, day + pd.Timedelta(days=1)])
    later = NIGHT + timedelta(days=14)
    feed = make_feed(
        [
            ("1", NIGHT, 5.0),
            ("1", NIGHT, 5.0),
            ("3", later, 5.0),
            ("3", NIGHT, -3.0),
            ("9", NIGHT, 1.0),
        ],
        NUMERIC,
    )
    outcomes.attach_all(frame, [feed], 14)
    gone = frame[frame["candidate_id"] == "2"].assign(outcome=7.0, is_gone=1)
    exposures = frame[frame["candidate_id"] != "2"]
    replaced = pd.concat([gone, frame[frame["candidate_id"] == "3"].assign(is_gone=0)])
    nights = [NIGHT, NIGHT + timedelta(days=1)]
    told = np.array([[4], [1]])
    new = doubts.make_record([feed], told, exposures, replaced, nights, ["A", "B"], 14)
    assert new.nights.tolist() == [FIRST, FIRST + 1]
    log = np.log(9), np.log(3)  # 10, which the cap cuts
    a, b = (new.figures["outcome", variant] for variant in "AB")
    assert a[0].tolist() == pytest.approx([1, 1, 4, log[0], log[0] ** 2, 0, 2, 2, 1, 1, 0, 0, 1])
    assert a[1].tolist() == [1, 0, 1, *[0] * 10]
    assert b[0].tolist() == pytest.approx([1, 1, 4, log[1], log[1] ** 2, 1, 1, 0, 0, 0, 1, 1, 0])
    assert b[1].tolist() == [0] * N_FIGURES


def test_acknowledged_are_these_nights_and_no_others() -> None:
    """Three nights without outcomes that were over when a person said that they are right."""
    usual, lost = [50] * 14, [0] * 3
    nights = make_nights(500, *usual, *lost, *usual)
    found = tell(A=nights)
    assert show(found) == [(FEW, "A", [14, 15, 16])]
    known = store(found, 30)
    assert tell(A=nights, known=known) == []
    again = make_nights(500, *usual, *lost, *usual, *lost)
    assert show(tell(A=again, known=known)) == [(FEW, "A", [31, 32, 33])]
    # They do not stand for others before, nor for themselves once something else has come of them.
    early = make_nights(500, *usual[:10], 0, 0, *usual[:2], *lost, *usual)
    assert show(tell(A=early, known=known)) == [(FEW, "A", [10, 11])]
    more = make_nights(500, *usual, 0, 4, 0, *usual)
    assert show(tell(A=more, known=known)) == [(FEW, "A", [14, 15, 16])]
    # Amounts that are right say nothing of how many there are.
    amounts = make_amounts([AMOUNTS] * 14 + [10 * AMOUNTS] * 3 + [AMOUNTS[:1]] * 7)
    known = store([doubt for doubt in tell(NUMERIC, A=amounts) if doubt.kind == MOVED], 30)
    assert show(tell(NUMERIC, A=amounts, known=known)) == [(FEW, "A", span(17, 23))]


def test_nights_stay_doubted_while_they_are_as_they_were() -> None:
    """What creeps is found elsewhere each night, but not before it is mended let go."""
    usual, creeping = [50] * 20, [48, 45, 42, 38, 33, 28, 22, 15, 8, 0, 0, 0]
    other = make_nights(500, *usual, *[50] * 12)
    earlier: list[Any] = []
    doubted: set[int] = set()
    for n in range(23, 33):
        found = tell(earlier=earlier, A=make_nights(500, *usual, *creeping)[:n], B=other[:n])
        now = {night for _, _, nights in show(found) for night in nights}
        assert now >= doubted
        earlier, doubted = store(found), now
    assert doubted >= set(span(24, 31))
    mended = make_nights(500, *usual, *[50] * 5, *creeping[5:])
    found = tell(earlier=earlier, A=mended, B=other)
    assert min(night for _, _, nights in show(found) for night in nights) >= 24
    assert tell(earlier=earlier, A=make_nights(500, *usual, *[50] * 12), B=other) == []


def test_pack_keeps_the_newest_nights() -> None:
    new = Record(np.array([FIRST]), {("x", "A"): make_nights(60, 6)})
    closed = doubts.unpack({})
    assert len(closed.nights) == 0
    for _ in range(doubts.N_KEPT + 5):
        closed = doubts.unpack(doubts.pack(doubts.join(closed, new)))
    assert closed.figures["x", "A"].tolist() == make_nights(60, *[6] * doubts.N_KEPT).tolist()
    assert closed.nights.tolist() == [FIRST] * doubts.N_KEPT
    nothing = Record(closed.nights[:0], {})
    assert doubts.join(closed, nothing).nights.tolist() == closed.nights.tolist()


def test_find_news_of_nights_that_were_not_doubted() -> None:
    nights = make_nights(550, *[55] * 14, 0, 0, *[55] * 12, 0)
    record, found = make({"A": nights}), tell(A=nights)
    assert show(found) == [(FEW, "A", [14, 15]), (FEW, "A", [28])]
    assert doubts.gather(found)["x", "A"].tolist() == [FIRST + 14, FIRST + 15, FIRST + 28]
    rows = store(found)
    assert doubts.find_news(record, found, rows) == []
    assert doubts.find_news(record, found, rows[:1]) == found[1:]
    for row in rows:
        row.variant = "B"
    assert doubts.find_news(record, found, rows) == found
    assert doubts.describe(found) == (
        "x of A: 2026-09-15, 2026-09-16 (few outcomes); x of A: 2026-09-29 (few outcomes)"
    )
    assert doubts.describe([]) is None
