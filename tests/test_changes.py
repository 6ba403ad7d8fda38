"""Features that are not what they were: what is told, and how seldom without a cause."""

from collections.abc import Sequence
from datetime import date, timedelta
from math import log
from typing import Any

import numpy as np
import pandas as pd
import pytest

from abatch.modelling import features
from abatch.statistics import changes, drift
from abatch.statistics.changes import Change, View
from abatch.statistics.references import FeatureReference
from tests.conftest import SHARED_DATA
from tests.test_real_data import read_bank

FIRST = date(2026, 9, 1)
DAY = timedelta(days=1)


class Feed:
    """Nights of one table of features, of which the newest seven are compared with."""

    def __init__(self, training: pd.DataFrame) -> None:
        self.types = features.infer_types(training)
        self.references = self.refer(training)
        self.nights: list[dict[str, drift.FeatureCounts]] = []

    def refer(self, frame: pd.DataFrame) -> dict[str, FeatureReference]:
        return drift.make_feature_references(features.code(frame, self.types), self.types)

    def play(self, frame: pd.DataFrame) -> dict[str, Change]:
        """What is found of a night, which is published then."""
        X = features.code(frame, self.types)
        tonight = drift.count_features(X, self.references)
        found = {name: changes.find_change([self.view(name, tonight)]) for name in self.types}
        self.nights.append(tonight)
        return {name: change for name, change in found.items() if change}

    def view(self, name: str, tonight: dict[str, drift.FeatureCounts]) -> View:
        first = max(0, len(self.nights) - 7)
        newest = {FIRST + (first + i) * DAY: n[name] for i, n in enumerate(self.nights[first:])}
        return View(self.references[name], ["m"], True, tonight[name], newest)

    def play_overnight(self, frame: pd.DataFrame) -> list[str]:
        return [name for name, change in self.play(frame).items() if change.is_overnight]


def draw(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Twenty features: amounts, counts and flags, categories of 2 to 60 values, with nulls."""
    columns: dict[str, Any] = {}
    for i in range(5):
        columns[f"amount{i}"] = rng.lognormal(10, 1, n)
        columns[f"count{i}"] = rng.poisson(2, n).astype(float)
    for i, k in enumerate([2, 3, 4, 5, 8, 12, 20, 30, 40, 60]):
        p = 1 / np.arange(1.0, k + 1) ** (i % 3)
        values = np.array([f"v{j}" for j in range(k)], dtype=object)
        columns[f"category{i}"] = values[rng.choice(k, n, p=p / p.sum())]
    frame = pd.DataFrame(columns)
    for i, name in enumerate(frame):
        frame.loc[rng.random(n) < (0, 0.02, 0.3)[i % 3], name] = None
    return frame


def draw_plan(rng: np.random.Generator, n: int = 500, *p: float) -> pd.DataFrame:
    """One category, of '10', '20' and '30'."""
    return pd.DataFrame({"plan": rng.choice(["10", "20", "30"], n, p=p or (0.5, 0.3, 0.2))})


def draw_atom(rng: np.random.Generator, n: int, share: float, atom: float) -> pd.DataFrame:
    """Days since the last purchase, say, of which a share is one number, such as 999 for never."""
    is_atom = rng.random(n) < share
    return pd.DataFrame({"since": np.where(is_atom, atom, rng.uniform(-30, 60, n))})


@pytest.mark.parametrize(
    ("share", "atom", "value"), [(0.94, 999, 0), (0.15, 999, 59), (0.6, 0, -0.5), (0.6, -99, -9)]
)
def test_find_change_a_number_that_fills_deciles_has_its_own_bin(
    share: float, atom: float, value: float, rng: np.random.Generator
) -> None:
    """All rows have another number, which lay in one bin with it if deciles alone were edges."""
    training = draw_atom(rng, 5000, share, atom)
    feed = Feed(training)
    reference = feed.references["since"]
    own = int(np.searchsorted(reference.bins, atom))
    assert reference.counts[own] == (training["since"] == atom).sum()
    assert np.searchsorted(reference.bins, value) != own
    assert [feed.play(draw_atom(rng, 300, share, atom)) for _ in range(7)] == [{}] * 7
    assert feed.play_overnight(pd.DataFrame({"since": [value] * 300})) == ["since"]


@pytest.mark.parametrize("share", [0.9, 0.94, 0.98])
@pytest.mark.parametrize("n_rows", [20, 50, 200])
def test_find_change_of_what_is_hardly_ever_something_else(
    share: float, n_rows: int, rng: np.random.Generator
) -> None:
    """Nights of one value alone are chance, and no calendar: 0 for all is a fault. No alarms."""
    feed = Feed(draw_atom(rng, 5000, share, 999))
    nights = [draw_atom(rng, n_rows, share, 999) for _ in range(60)]
    assert [feed.play_overnight(night) for night in nights] == [[]] * 60
    assert feed.play_overnight(pd.DataFrame({"since": [0.0] * n_rows})) == ["since"]


@pytest.mark.parametrize(("n_rows", "n_nights"), [(50, 60), (200, 60), (1000, 30), (5000, 10)])
def test_find_change_nights_of_one_distribution_trip_nothing(
    n_rows: int, n_nights: int, rng: np.random.Generator
) -> None:
    """In 1,000 nights of 50 and of 200 rows, 400 of 1,000 and 100 of 5,000 none was found."""
    feed = Feed(draw(rng, 5000))
    assert [feed.play(draw(rng, n_rows)) for _ in range(n_nights)] == [{}] * n_nights


@pytest.mark.parametrize("n_rows", [50, 200, 1000])
def test_find_change_whole_features_gone_wrong(n_rows: int, rng: np.random.Generator) -> None:
    feed = Feed(draw(rng, 5000))
    for _ in range(7):
        feed.play(draw(rng, n_rows))
    wrong = draw(rng, n_rows).assign(
        amount0=lambda frame: frame["amount0"] * 100,  # cents
        amount1=None,
        amount2=0,
        count3=lambda frame: frame["count3"] + 1000,
        category1="v1",
        category3=lambda frame: frame["category3"] + ".0",
        category4=None,
        category7=lambda frame: frame["category7"].str.upper(),
    )
    expected = {"amount0", "amount1", "amount2", "count3"}
    expected |= {f"category{i}" for i in (1, 3, 4, 7)}
    assert set(feed.play_overnight(wrong)) == expected
    assert feed.play(draw(rng, n_rows)) == {}  # mended, it is like the nights before


def test_measure_by_hand() -> None:
    p, q = np.array([50.5, 30.5, 0.5]) / 81.5, np.array([0.5, 30.5, 50.5]) / 81.5
    expected = sum((b - a) * log(b / a) for a, b in zip(p, q, strict=True))
    psi, noise = changes.measure([50, 30, 0, 0], [0, 30, 50, 0])
    assert psi == pytest.approx(expected)
    assert noise == pytest.approx((1 / 80 + 1 / 80) * 5.991465)  # chi-squared, 2 df, .95


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([9000, 1000, 0], [200, 0, 0], True),  # 20 rows are lacking: a chance of e^-20
        ([9000, 1000, 0], [190, 0, 0], False),
        ([9000, 1000, 0], [199, 1, 0], False),
        ([10_000, 0, 0], [5000, 0, 0], False),
        ([9800, 0, 200], [650, 0, 350], True),  # a third gone null: .33 ln(17.5) + .33 ln(1.5)
        ([9800, 0, 200], [750, 0, 250], False),
    ],
)
def test_is_far_by_hand(before: Sequence[int], after: Sequence[int], expected: bool) -> None:
    assert changes.is_far(before, after) is expected


def test_find_change_is_told_once_and_again_after_a_week(rng: np.random.Generator) -> None:
    """By steps that are not gross the mix leaves the training rows: nothing overnight."""
    feed = Feed(draw_plan(rng, 5000))
    for share in (0.35, 0.2, 0.1, 0.05):
        assert feed.play_overnight(draw_plan(rng, 500, share, 0.3, 0.7 - share)) == []
    told = [feed.play(draw_plan(rng, 500, 0.02, 0.1, 0.88)) for _ in range(8)]
    assert [night["plan"].is_overnight for night in told] == [False] * 8
    assert sum(night["plan"].is_new for night in told) <= 1
    assert [feed.play(draw_plan(rng)) for _ in range(7)] == [{}] * 7
    again = feed.play(draw_plan(rng, 500, 0.02, 0.1, 0.88))["plan"]
    assert (again.is_new, again.is_overnight) == (True, True)


def test_find_change_first_night_has_none_to_compare_with(rng: np.random.Generator) -> None:
    feed = Feed(draw_plan(rng, 5000))
    change = feed.play(draw_plan(rng, 500) + ".0")["plan"]
    assert (change.is_new, change.is_overnight, change.nearest) == (True, False, None)


def test_find_change_weekends_are_like_the_last_one(rng: np.random.Generator) -> None:
    week = [(0.9, 0.05, 0.05)] * 5 + [(0.02, 0.03, 0.95)] * 2
    mixed = pd.concat([draw_plan(rng, 500, *p) for p in week * 8])
    feed = Feed(mixed)
    found = [feed.play_overnight(draw_plan(rng, 300, *p)) for p in week * 6]
    assert [night for night, names in enumerate(found) if names] == [5]  # the first of all


def test_find_change_one_value_a_night_is_a_calendar(rng: np.random.Generator) -> None:
    """A month is another one after thirty nights; null, or 'm9.0', it is not."""
    months = [f"m{i}" for i in range(1, 13)]
    feed = Feed(pd.DataFrame({"month": np.repeat(months[:8], 300)}))
    for month in ("m2", "m3", "m9"):  # the last is new to the model
        for night in range(9):
            change = feed.play(pd.DataFrame({"month": [month] * 300}))["month"]
            assert (change.is_new, change.is_overnight) == (month == "m2" and night == 0, False)
    assert feed.play_overnight(pd.DataFrame({"month": [None] * 300})) == ["month"]
    assert feed.play_overnight(pd.DataFrame({"month": ["m3"] * 300})) == []
    assert feed.play_overnight(pd.DataFrame({"month": ["m3.0"] * 300})) == ["month"]
    assert feed.play_overnight(pd.DataFrame({"month": ["m3.0"] * 300})) == []


def test_find_change_a_rate_of_the_day_may_go_where_it_likes(rng: np.random.Generator) -> None:
    feed = Feed(pd.DataFrame({"rate": np.repeat(rng.uniform(3, 5, 250), 4)}))
    for rate in (4.0, 3.1, 2.6, 2.0, 1.6, 1.4, 1.2, 0.9):
        assert feed.play_overnight(pd.DataFrame({"rate": [rate] * 200})) == []
    for rate in (3.2, 3.5, 3.4, 3.8, 4.3, 4.2, 4.6):  # two days in a night, across an edge
        assert feed.play_overnight(pd.DataFrame({"rate": [rate, rate + 0.1] * 100})) == []
    assert feed.play_overnight(pd.DataFrame({"rate": [90.0] * 200})) == ["rate"]
    assert feed.play_overnight(pd.DataFrame({"rate": [0.8] * 200})) == []
    assert feed.play_overnight(pd.DataFrame({"rate": [0.0] * 200})) == ["rate"]


def play_nights(feed: Feed, column: str, values: Sequence[object]) -> list[dict[str, Change]]:
    """Nights of 300 rows, of one value each."""
    return [feed.play(pd.DataFrame({column: [value] * 300})) for value in values]


@pytest.mark.parametrize(
    ("known", "tonight", "is_told"),
    [
        ("jan feb mar apr", "sep", False),
        ("jan feb mar apr", "SEP", True),
        ("jan feb mar apr", "Sep", True),
        ("jan feb mar apr", "09", True),
        ("jan feb mar apr", "", True),
        ("jan feb mar apr", " ", True),
        ("m1 m2 m3 m4", "m10", False),
        ("m1 m2 m3 m4", "10", True),
        ("2026-01 2026-02 2026-03 2026-04", "2026-10", False),
        ("2026-01 2026-02 2026-03 2026-04", "10.2026", True),
    ],
)
def test_find_change_a_month_that_is_written_as_none_was(
    known: str, tonight: str, is_told: bool
) -> None:
    """It is told once, though months come new to the model by themselves; never refused."""
    months = known.split()
    feed = Feed(pd.DataFrame({"month": np.repeat(months, 300)}))
    play_nights(feed, "month", [months[2]] * 7)
    found, again = play_nights(feed, "month", [tonight] * 2)
    assert {name: change.oddity and change.oddity.words for name, change in found.items()} == {
        "month": "values that are written as no known value is" if is_told else None
    }
    assert not any(change.is_overnight or change.is_new for change in found.values())
    assert again["month"].oddity is None


@pytest.mark.parametrize(
    ("trained", "newest", "tonight", "is_overnight"),
    [
        ((3, 5), [4.12, 4.1, 4.13], 0.0413, True),  # per cent as a share
        ((3, 5), [4.12, 4.1, 4.13], 413, True),
        ((3, 5), [4.12, 4.1, 4.13], -4.13, True),
        ((3, 5), [4.12, 4.1, 4.13], 0, True),
        ((3, 5), [1.2, 0.9, 0.6], 0.5, False),
        ((3, 5), [0.05, 0.02, 0.01], 0.001, False),  # it falls, and by no more than it did
        ((3, 5), [0.03, 0.02, 0.01], -0.01, False),
        ((3, 5), [4.1] * 7, 0.6, False),  # a rate may be cut, though hardly to a tenth
        ((0.001, 5), [4.1] * 7, 0.041, False),  # training knew such
        ((-2, 1.4), [1.1] * 7, -0.1, False),  # what has both signs has no size
        ((5000, 5300), [5191, 5191, 5176], 51.76, True),
    ],
)
def test_find_change_a_rate_of_another_size(
    trained: tuple[float, float],
    newest: list[float],
    tonight: float,
    is_overnight: bool,
    rng: np.random.Generator,
) -> None:
    feed = Feed(pd.DataFrame({"rate": np.repeat([*trained, *rng.uniform(*trained, 248)], 4)}))
    play_nights(feed, "rate", newest)
    (found,) = play_nights(feed, "rate", [tonight])
    assert [name for name, change in found.items() if change.is_overnight] == (
        ["rate"] if is_overnight else []
    )


def test_find_change_what_jumps_every_night_is_usual(rng: np.random.Generator) -> None:
    """Two mixtures that come and go by chance, and then a third, no farther away."""
    mixes = [(0.8, 0.15, 0.05), (0.3, 0.65, 0.05), (0.05, 0.15, 0.8), (0.05, 0.9, 0.05)]
    feed = Feed(pd.concat([draw_plan(rng, 500, *p) for p in mixes]))
    for i in (0, 1, 2):
        feed.play(draw_plan(rng, 500, *mixes[i]))
    assert feed.play_overnight(draw_plan(rng, 500, *mixes[3])) == []


def test_find_change_a_second_fault_is_seen_after_the_first(rng: np.random.Generator) -> None:
    feed = Feed(draw_plan(rng, 5000))
    for _ in range(6):
        feed.play(draw_plan(rng))
    assert feed.play_overnight(draw_plan(rng) + "x") == ["plan"]
    assert feed.play_overnight(draw_plan(rng, 500, 0, 0, 1)) == ["plan"]
    assert feed.play_overnight(draw_plan(rng) + "x") == []  # as it was two nights ago


def test_find_change_by_the_bins_of_the_earlier_model(rng: np.random.Generator) -> None:
    """A model of today has no nights yet; those of the model before are counted by its bins."""
    old, new = (Feed(draw_plan(rng, 5000)) for _ in range(2))
    for _ in range(7):
        old.play(draw_plan(rng))

    def find(frame: pd.DataFrame) -> Change | None:
        X = features.code(frame, old.types)
        by_new, by_old = (drift.count_features(X, feed.references) for feed in (new, old))
        live, before = new.view("plan", by_new), old.view("plan", by_old)
        views = [live, View(before.reference, ["old"], False, before.tonight, before.nights)]
        return changes.find_change(views)

    assert find(draw_plan(rng)) is None
    broken = find(draw_plan(rng) + ".0")
    assert broken is not None
    assert (broken.is_overnight, broken.nearest and broken.nearest[1].model_names) == (
        True,
        ["old"],
    )


def draw_cards(rng: np.random.Generator, n: int = 500) -> pd.DataFrame:
    """An amount, an age, and a region; of this 3 % are rare values."""
    p = [0.4, 0.3, 0.27, *[0.03 / 30] * 30]
    regions = ["North", "South", "West", *(f"r{i}" for i in range(30))]
    return pd.DataFrame(
        {
            "income": rng.lognormal(10, 1, n),
            "age": rng.integers(18, 90, n).astype(float),
            "region": rng.choice(regions, n, p=p),
        }
    )


@pytest.mark.parametrize(
    ("column", "n_rows", "value", "expected"),
    [
        ("income", 100, 99_999_999, "numbers far beyond those of the training rows"),
        ("income", 10, 99_999_999, "numbers far beyond those of the training rows"),
        ("income", 9, 99_999_999, ""),  # under 2 % of 500
        ("age", 70, 999, "numbers far beyond those of the training rows"),
        ("age", 70, -999, "numbers far beyond those of the training rows"),
        ("age", 70, 110, "numbers outside those of the training rows"),
        ("age", 25, 0, "numbers outside those of the training rows"),
        ("age", 24, 0, ""),  # under 5 % of 500
        ("age", 70, 91, ""),
        ("region", 50, "East", "values that are new to the model"),
        ("region", 49, "East", ""),
        ("region", 20, "WEST", "known values written otherwise"),
        ("region", 19, "WEST", ""),
    ],
)
def test_find_change_part_of_a_column(
    column: str, n_rows: int, value: object, expected: str, rng: np.random.Generator
) -> None:
    """It is told on the first of such nights; not where training had some, or the night before."""
    feed = Feed(draw_cards(rng, 5000))
    for _ in range(3):
        assert feed.play(draw_cards(rng)) == {}
    wrong = draw_cards(rng)
    wrong.loc[: n_rows - 1, column] = value  # labels, both ends included
    found = feed.play(wrong)
    assert {name: change.oddity and change.oddity.words for name, change in found.items()} == (
        {column: expected} if expected else {}
    )
    assert not any(change.is_overnight for change in found.values())
    assert feed.play(wrong) == feed.play(draw_cards(rng)) == {}
    known = Feed(pd.concat([draw_cards(rng, 4900), wrong]))
    assert known.play(wrong) == {}


def test_describe_oddity_outside_those_of_training(rng: np.random.Generator) -> None:
    """A tenth of 2,000 rows has age 0; the training rows knew 20 to 79."""
    feed = Feed(pd.DataFrame({"age": np.repeat(np.arange(20.0, 80), 100)}))
    for _ in range(3):
        assert feed.play(pd.DataFrame({"age": rng.integers(20, 80, 2000)})) == {}
    age = np.where(np.arange(2000) < 200, 0, np.arange(2000) % 60 + 20)
    change = feed.play(pd.DataFrame({"age": age}))["age"]
    assert change.oddity is not None
    assert changes.describe_oddity(change.view, change.oddity) == (
        "numbers outside those of the training rows (0 to 79 tonight, nearly all 20 to 79 in"
        " training) in 10.0% of 2,000 rows"
    )


@pytest.mark.parametrize("step", [0.001, 0.01, 0.1, 0.3, 1.0])
def test_find_change_numbers_that_grow_are_not_outside(
    step: float, rng: np.random.Generator
) -> None:
    """From the training rows' own nights on, by such a part of their standard deviation."""
    training = [rng.normal(step * night, 1, 200) for night in range(-30, 0)]
    feed = Feed(pd.DataFrame({"balance": np.concatenate(training)}))
    for night in range(40):
        change = feed.play(pd.DataFrame({"balance": rng.normal(step * night, 1, 200)}))
        oddity = change["balance"].oddity if change else None
        assert oddity is None or night == 0


def test_find_change_few_rates_that_wander_are_told_once_at_most(rng: np.random.Generator) -> None:
    """Four regions' rates of the night, which leave training's by one small step."""
    told = 0
    for _ in range(5):
        rates = 3 + rng.normal(0, 0.02, (160, 4)).cumsum(axis=0)
        nights = [pd.DataFrame({"rate": rng.choice(rates[i], 200)}) for i in range(160)]
        feed = Feed(pd.concat(nights[:90]))
        changed = [change for night in nights[90:] for change in feed.play(night).values()]
        told += sum(change.oddity is not None and not change.is_new for change in changed)
    assert told <= 5


@pytest.mark.parametrize("share", [0.2, 0.45])
def test_find_change_another_unit_in_part_of_the_rows(
    share: float, rng: np.random.Generator
) -> None:
    feed = Feed(draw_cards(rng, 5000))
    for _ in range(3):
        feed.play(draw_cards(rng))
    wrong = draw_cards(rng)
    wrong["income"] *= np.where(rng.random(500) < share, 100, 1)
    oddity = feed.play(wrong)["income"].oddity
    assert oddity is not None
    assert oddity.words.startswith("numbers far beyond")


def test_find_change_rates_that_go_on_are_not_far_beyond(rng: np.random.Generator) -> None:
    """They end where all are beyond 3 + 3 * 2, by steps of which none is wide."""
    feed = Feed(pd.DataFrame({"rate": rng.uniform(1, 3, 5000)}))
    nights = [pd.DataFrame({"rate": rng.uniform(1, 3, 200) + 0.2 * i}) for i in range(50)]
    assert all(change.oddity is None for night in nights for change in feed.play(night).values())


@pytest.mark.parametrize("n_nights", [4, 5, 7])
def test_find_change_two_codes_exchanged(n_nights: int, rng: np.random.Generator) -> None:
    """A PSI of 2 * .2 * ln(.5 / .3) = .2 is not gross; so far the nights never were apart."""
    feed = Feed(draw_plan(rng, 5000))
    for _ in range(n_nights):
        assert feed.play(draw_plan(rng)) == {}
    exchanged = draw_plan(rng)["plan"].map({"10": "20", "20": "10", "30": "30"}).to_frame()
    found = feed.play(exchanged)
    assert [*found] == (["plan"] if n_nights >= 5 else [])
    assert all((change.is_step, change.is_overnight) == (True, False) for change in found.values())
    assert feed.play(exchanged) == feed.play(draw_plan(rng)) == {}


def test_find_change_a_new_channel_begins_with_few(rng: np.random.Generator) -> None:
    """With 4 % the PSI against each night is .2, but a tenth of the rows must be new."""
    feed = Feed(draw_plan(rng, 5000))
    for _ in range(7):
        feed.play(draw_plan(rng))
    for _ in range(8):
        assert (
            feed.play(pd.concat([draw_plan(rng, 480), pd.DataFrame({"plan": ["app"] * 20})])) == {}
        )


def test_find_change_a_slight_weekend_is_like_the_last_one(rng: np.random.Generator) -> None:
    week = [(0.5, 0.3, 0.2)] * 5 + [(0.3, 0.5, 0.2)] * 2
    feed = Feed(pd.concat([draw_plan(rng, 500, *p) for p in week * 8]))
    found = [feed.play(draw_plan(rng, 300, *p)) for p in week * 6]
    assert [night for night, names in enumerate(found) if names] in ([], [5])  # the first of all


def test_find_change_month_that_turns_within_a_night() -> None:
    feed = Feed(pd.DataFrame({"month": np.repeat([f"m{i}" for i in range(1, 9)], 300)}))
    for _ in range(7):
        feed.play(pd.DataFrame({"month": ["m2"] * 300}))
    assert feed.play_overnight(pd.DataFrame({"month": ["m3"] * 150 + [None] * 150})) == ["month"]
    for n_new in (18, 150, 300):
        turning = ["m2"] * (300 - n_new) + ["m3"] * n_new
        change = feed.play(pd.DataFrame({"month": turning})).get("month")
        assert change is None or not (change.is_new or change.is_overnight or change.is_step)


def test_find_change_months_are_not_told_of_the_next_model() -> None:
    """A model trained anew knows no night yet; those of the model before were told."""
    months = [f"m{i}" for i in range(1, 9)]
    tonight = pd.DataFrame({"month": ["m2"] * 300})
    old, new = (Feed(pd.DataFrame({"month": np.repeat(months, n)})) for n in (300, 330))
    assert old.play(tonight)["month"].is_new
    old.play(tonight)
    counted = old.nights[-1]["month"]
    live, before = new.view("month", {"month": counted}), old.view("month", {"month": counted})
    earlier = View(before.reference, ["old"], False, counted, before.nights)
    again = changes.find_change([live, earlier])
    assert again is not None
    assert (again.is_new, again.is_overnight, again.is_step) == (False, False, False)
    alone = changes.find_change([live])
    assert alone is not None
    assert alone.is_new


@pytest.mark.parametrize(
    ("tonight", "expected"),
    [
        (["20.0"] * 98 + ["20"] * 2, "'20.0' ('20' written otherwise), new to the model, in 98%"),
        (["x"] * 60 + ["y"] * 40, "'x' and 1 others, new to the model, in 100%"),
        ([None] * 90 + ["20"] * 10, "null in 90% of 100 rows, before 0%"),
        (["20"] * 100, "'20' in 100% of 100 rows, before 50%; '10' in 0%, before 50%"),
        (
            ["10"] * 30 + ["20"] * 45 + ["x"] * 12 + [None] * 13,
            "'10' in 30% of 100 rows, before 50%; null in 13%, before 0%",
        ),
        (
            ["20"] * 50 + ["x"] * 50,
            "'x', new to the model, in 50% of 100 rows, before 0%; '10' in 0%, before 50%",
        ),
        (["x" * 200_000] * 100, f"'{'x' * 37}...{'x' * 38}', new to the model, in 100%"),
    ],
)
def test_describe_rise_of_a_category(tonight: list[str | None], expected: str) -> None:
    feed = Feed(pd.DataFrame({"plan": ["10"] * 50 + ["20"] * 50}))
    X = features.code(pd.DataFrame({"plan": tonight}), feed.types)
    view = feed.view("plan", drift.count_features(X, feed.references))
    assert changes.describe_rise(None, view).startswith(expected)


def test_describe_rise_names_what_is_missing() -> None:
    """No West: what gains by that gains less than it has lost."""
    regions = {"North": 40, "South": 30, "East": 20, "West": 10}
    reference = FeatureReference("category", [*regions], [*regions.values(), 0, 0], [])
    tonight = drift.FeatureCounts([44, 33, 23, 0, 0, 0], 0, {})
    assert changes.describe_rise(None, View(reference, ["m"], True, tonight)) == (
        "'West' in 0% of 100 rows, before 10%"
    )


def test_describe_rise_of_a_number() -> None:
    feed = Feed(pd.DataFrame({"income": np.arange(1.0, 101)}))
    X = features.code(pd.DataFrame({"income": [2000.0, 5000.0]}), feed.types)
    view = feed.view("income", drift.count_features(X, feed.references))
    assert changes.describe_rise(None, view) == (
        "above 90 (2,000 to 5,000 tonight) in 100% of 2 rows, before 10%"
    )


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"there is no folder {SHARED_DATA}")
@pytest.mark.parametrize("n_parts", [1, 4])
def test_find_change_of_the_banks_months(n_parts: int) -> None:
    """A model of 2008 in 2009 and 2010, months as nights, and each in four nights, as they were.

    Months, rates and indices leave the training rows at once and are told, month by month they
    change, and are never taken for a fault. In four nights a month the weekdays of one, and the
    campaign of another, really are others overnight: 2 of 76 nights.
    """
    contacts = read_bank()
    nights = contacts["contact_date"]
    if n_parts == 1:
        nights = nights.dt.to_period("M").dt.to_timestamp()
    in_training = nights < "2009"
    X = contacts.drop(columns=["contact_id", "contact_date", "y"])
    feed = Feed(X[in_training])
    told: list[tuple[str, str]] = []
    overnight: list[tuple[str, str]] = []
    for night, rows in X[~in_training].groupby(nights[~in_training]):
        for name, change in feed.play(rows).items():
            (overnight if change.is_overnight else told if change.is_new else []).append(
                (name, f"{night:%Y-%m-%d}")
            )
    assert len(feed.nights) == 19 * n_parts
    of_season = {"month", "euribor3m", "emp.var.rate", "cons.price.idx", "cons.conf.idx"}
    assert {name for name, night in told if night == "2009-03-01"} >= of_season
    assert [night for name, night in told if name == "month"] == ["2009-03-01"]
    assert [night for name, night in told if name == "euribor3m"] == ["2009-03-01"]
    expected = [] if n_parts == 1 else [("day_of_week", "2009-04-08"), ("campaign", "2009-07-22")]
    assert overnight == expected
