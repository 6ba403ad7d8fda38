"""What goes live.

Two models held against each other on the same rows, and the rules that a new one must pass.
"""

import json
import re
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import yaml
from scipy.special import ndtr
from sklearn.metrics import brier_score_loss, roc_auc_score

import abatch
import train
from abatch import version
from abatch.config import Environment, Experiment
from abatch.database.tables import models, promotions
from abatch.modelling import folders, registry, snapshots
from abatch.modelling.card import Decision, Figure
from abatch.modelling.gate import Evidence, decide, find_changes, find_leaps, is_far_off
from abatch.sections import Training
from abatch.statistics import metrics
from abatch.statistics.metrics import (
    AucDifference,
    brier_skill_over,
    compare_auc,
    jackknife_interval,
    mean_ratio,
    measure_rate,
)
from tests.conftest import A1, A8, LATER_NIGHT, alter, call, find_live, with_training

LIVE, LATER = "modelA_v1.0_2026-06-01", "modelA_v1.0_2026-07-01"
T_3 = 3.182446305284263  # 0.975 quantile of Student's t, 3 degrees of freedom, as tables have it
OFF = Training(max_auc_drop=0.02)
SLOPE = Figure(value=0.9, lower=0.7, upper=1.1)
BETTER = AucDifference(0.80, 0.75, 0.01, 0.09, 1234)
FIGURES = (
    f"validation ROC AUC 0.8000 against 0.7500 of {LIVE} on the same 1,234 rows, +0.0500 (+0.0100"
    " to +0.0900)"
)


def draw(rng: np.random.Generator, n: int, new: float, live: float) -> tuple[np.ndarray, ...]:
    """Outcomes, the scores of two models that look at the same facts, and buckets.

    Outcomes shift the scores by `new` and `live`.
    """
    y = rng.permutation(np.arange(n) % 2)
    shared, own = rng.normal(size=n), rng.normal(size=(2, n))
    scores = [
        shift * y + np.sqrt(0.8) * shared + np.sqrt(0.2) * noise
        for shift, noise in zip((new, live), own, strict=True)
    ]
    return y, *scores, rng.integers(0, 16, n)


def judge(rules: Training = OFF, later: str | None = None, **changes: Any) -> Decision:
    """The decision on a new model that is better than the live one, but for the changes."""
    evidence = Evidence(5000, SLOPE, LIVE, BETTER, ("income", 0.05, 0.01))
    return decide(rules, evidence._replace(**changes), later)


def loosen(**rules: Any) -> Training:
    return OFF.model_copy(update=rules)


def test_compare_auc_as_scikit_learn_and_by_hand(rng: np.random.Generator) -> None:
    y, new, live, _ = draw(rng, 80, 1.0, 0.8)
    bucket = np.repeat([3, 17, 40, 63], 20)
    found = compare_auc(y, new, live, bucket)
    assert found is not None
    assert found.n_rows == 80
    assert found.new == pytest.approx(roc_auc_score(y, new), abs=1e-12)
    assert found.live == pytest.approx(roc_auc_score(y, live), abs=1e-12)
    quarters = [slice(0, 20), slice(20, 40), slice(40, 60), slice(60, 80)]
    left = [[np.delete(values, quarter) for values in (y, new, live)] for quarter in quarters]
    one, two, three, four = (
        roc_auc_score(y, new) - roc_auc_score(y, live) for y, new, live in left
    )
    mean = (one + two + three + four) / 4
    se = (
        3 / 4 * ((one - mean) ** 2 + (two - mean) ** 2 + (three - mean) ** 2 + (four - mean) ** 2)
    ) ** 0.5
    difference = roc_auc_score(y, new) - roc_auc_score(y, live)
    assert found.lower == pytest.approx(difference - T_3 * se, abs=1e-10)
    assert found.upper == pytest.approx(difference + T_3 * se, abs=1e-10)
    alone = [roc_auc_score(y, live) for y, _, live in left]
    half = T_3 * (3 / 4 * sum((one - sum(alone) / 4) ** 2 for one in alone)) ** 0.5
    assert found.live_lower == pytest.approx(found.live - half, abs=1e-10)
    assert found.live_upper == pytest.approx(found.live + half, abs=1e-10)


def test_measure_rate_by_hand() -> None:
    """Of four buckets of ten with 1, 2, 3 and 4; without one there are 9, 8, 7 and 6 in 30."""
    y = np.concatenate([np.arange(10) < n for n in (1, 2, 3, 4)]).astype(int)
    found = measure_rate(y, np.repeat([3, 17, 40, 63], 10))
    half = T_3 * (3 / 4 * (1.5**2 + 0.5**2 + 0.5**2 + 1.5**2) / 30**2) ** 0.5
    assert found == pytest.approx((0.25, 0.25 - half, 0.25 + half, 40), abs=1e-12)
    assert np.isnan(measure_rate(y, np.zeros(40, dtype=int)).upper)


KNEW = Figure(value=0.70, lower=0.66, upper=0.74)
RATE = Figure(value=0.05, lower=0.04, upper=0.06)


@pytest.mark.parametrize(
    ("live", "before", "told", "is_reversed"),
    [
        ((0.30, 0.26, 0.34), KNEW, True, True),
        ((0.45, 0.41, 0.499), KNEW, True, True),
        ((0.45, 0.39, 0.51), KNEW, True, False),  # not for certain, but far below
        ((0.59, 0.55, 0.63), KNEW, True, False),
        ((0.60, 0.54, 0.66), KNEW, False, False),  # the intervals touch
        ((0.61, 0.60, 0.62), KNEW, False, False),  # less than .1
        ((0.30, 0.26, 0.34), Figure(value=0.52, lower=0.49, upper=0.55), True, False),
        ((0.30, 0.26, 0.34), None, False, False),
        ((0.30, float("nan"), float("nan")), KNEW, False, False),
    ],
)
def test_find_changes_of_rank(
    live: tuple[float, ...], before: Figure | None, told: bool, is_reversed: bool
) -> None:
    value, *ends = live
    evidence = Evidence(
        5000, SLOPE, LIVE, AucDifference(0.8, value, 0.0, 0.1, 1234, *ends), live_auc=before
    )
    changes, found = find_changes([Evidence(5000, SLOPE), evidence])
    assert (len(changes), found) == (told, is_reversed)
    if told and before == KNEW:
        assert changes[0] == (
            f"{LIVE} ranks 1,234 of them, which it was not fitted on, with ROC AUC {value:.3f}"
            f" ({ends[0]:.3f} to {ends[1]:.3f}), after 0.700 (0.660 to 0.740) at its validation"
        )


@pytest.mark.parametrize(("daily", "told"), [(49.9, True), (50.1, False), (900.0, False)])
def test_find_changes_of_rows_that_are_half_as_many(daily: float, told: bool) -> None:
    evidence = [
        Evidence(5000, SLOPE, name, daily_rows=daily, live_daily_rows=100.0)
        for name in (LIVE, LATER)
    ]
    words = f"there are 49.9 a day of the window, after 100 at the training of {LIVE}"
    assert find_changes(evidence) == ([words] * told, False)


@pytest.mark.parametrize(
    ("live", "auc", "is_refused"),
    [
        ((0.55, 0.50, 0.60), (0.52, 0.50, 0.54), True),
        ((0.55, 0.50, 0.60), (0.53, 0.51, 0.55), False),  # better than chance
        ((0.55, 0.50, 0.60), (0.53, None, None), True),
        ((0.68, 0.64, 0.72), (0.52, 0.50, 0.54), False),  # rows that are as they were
    ],
)
def test_decide_no_better_than_chance_on_rows_that_changed(
    live: tuple[float, ...], auc: tuple[float | None, ...], is_refused: bool
) -> None:
    difference = AucDifference(0.52, live[0], -0.01, 0.1, 500, *live[1:])
    figure = Figure(value=auc[0], lower=auc[1], upper=auc[2])
    decision = judge(difference=difference, live_auc=KNEW, auc=figure)
    assert decision.promote != is_refused
    assert ("it may rank no better than chance" in decision.reason) == is_refused


@pytest.mark.parametrize(
    ("live", "lower", "is_told"),
    [
        ((0.68, 0.64, 0.72), 0.051, True),
        ((0.68, 0.64, 0.72), 0.049, False),
        ((0.55, 0.50, 0.60), 0.051, False),  # the rows are not as they were
    ],
)
def test_find_leaps_of_rows_that_are_as_they_were(
    live: tuple[float, ...], lower: float, is_told: bool
) -> None:
    difference = AucDifference(live[0] + 0.1, live[0], lower, 0.15, 500, *live[1:])
    leaps = find_leaps([Evidence(5000, SLOPE, LIVE, difference, live_auc=KNEW)])
    told = f"by 0.100 ({lower:.3f} to 0.150) than {LIVE}, which ranks them as ever"
    assert leaps == [told] * is_told


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        ((0.15, 0.13, 0.17), True),
        ((0.13, 0.11, 0.15), False),  # twice .06 is .12
        ((0.01, 0.00, 0.019), True),
        ((0.02, 0.01, 0.03), False),  # half of .04 is .02
        ((0.15, None, None), False),
    ],
)
def test_find_changes_of_rate_once(rate: tuple[float | None, ...], told: bool) -> None:
    figure = Figure(value=rate[0], lower=rate[1], upper=rate[2])
    evidence = [Evidence(5000, SLOPE, name, rate=figure, live_rate=RATE) for name in (LIVE, LATER)]
    changes, is_reversed = find_changes(evidence)
    assert not is_reversed
    assert len(changes) == told
    if told:
        assert changes[0].endswith(f", after 0.05 (0.04 to 0.06) at the validation of {LIVE}")


def test_brier_skill_over_as_scikit_learn_and_by_hand(rng: np.random.Generator) -> None:
    y, bucket = np.tile([0, 0, 0, 1], 40), np.repeat([3, 17, 40, 63], 40)
    scores = rng.uniform(size=160)
    found = brier_skill_over(y, scores, 0.1, bucket)

    def skill(kept: Any) -> float:
        plain = brier_score_loss(y[kept], np.full(len(y[kept]), 0.1))
        return 1 - brier_score_loss(y[kept], scores[kept]) / plain

    left_out = [skill(bucket != number) for number in (3, 17, 40, 63)]
    se = (3 / 4 * sum((one - sum(left_out) / 4) ** 2 for one in left_out)) ** 0.5
    assert found.value == pytest.approx(skill(slice(None)), abs=1e-12)
    assert found.lower == pytest.approx(skill(slice(None)) - T_3 * se, abs=1e-10)
    assert found.upper == pytest.approx(skill(slice(None)) + T_3 * se, abs=1e-10)
    assert brier_skill_over(y, np.full(160, 0.1), 0.1, bucket)[:3] == (0, 0, 0)
    few = brier_skill_over(y[:76], scores[:76], 0.1, bucket[:76])  # 19 ones
    assert np.isnan(few.upper)


@pytest.mark.parametrize(
    ("skill", "fault"),
    [
        (
            (-0.18, -0.25, -0.11),
            "it predicts worse than the rate of its training rows does: Brier skill -0.180 (-0.250"
            " to -0.110)",
        ),
        ((-0.05, -0.11, 0.01), ""),
        ((-0.05, None, None), ""),
        ((0.2, 0.1, 0.3), ""),
    ],
)
@pytest.mark.parametrize("live", [None, LIVE])
def test_decide_worse_than_the_rate_for_certain(
    skill: tuple[float | None, ...], fault: str, live: str | None
) -> None:
    value, lower, upper = skill
    decision = judge(skill=Figure(value=value, lower=lower, upper=upper), live=live)
    assert decision.promote is not bool(fault)
    assert decision.reason == (fault or (FIGURES if live else "the first model of its variant"))
    assert decision.evidence["skill"] == {"value": value, "lower": lower, "upper": upper}


def test_mean_ratio_by_hand(rng: np.random.Generator) -> None:
    y, bucket = np.tile([0, 0, 0, 1], 40), np.repeat([3, 17, 40, 63], 40)
    scores = rng.uniform(size=160)
    found = mean_ratio(y, scores, bucket)
    left_out = [4 * scores[bucket != number].mean() for number in (3, 17, 40, 63)]
    se = (3 / 4 * sum((one - sum(left_out) / 4) ** 2 for one in left_out)) ** 0.5
    assert found.value == pytest.approx(4 * scores.mean(), abs=1e-12)
    assert found.lower == pytest.approx(4 * scores.mean() - T_3 * se, abs=1e-10)
    assert found.upper == pytest.approx(4 * scores.mean() + T_3 * se, abs=1e-10)
    assert np.isnan(mean_ratio(y[:76], scores[:76], bucket[:76])[:3]).all()  # 19 ones
    together = mean_ratio(y, scores, y)
    assert np.isnan(together.upper)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        ((2.1, 1.2, 3.0), True),
        ((2.1, 0.9, 3.3), False),
        ((1.9, 1.8, 2.0), False),
        ((0.49, 0.4, 0.6), True),
        ((0.49, 0.0, 1.1), False),
        ((0.51, 0.5, 0.52), False),
        ((None, None, None), False),
    ],
)
def test_is_far_off(ratio: tuple[float | None, ...], expected: bool) -> None:
    value, lower, upper = ratio
    assert is_far_off(Figure(value=value, lower=lower, upper=upper)) is expected


def test_gate_warns_of_probabilities_that_are_far_off(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rate of the outcome trebles in the newest rows: ranks hold, the mean does not."""
    query = week.sql["training"].replace(
        "case when card_answers.customer_id is null then 0 else 1 end as outcome",
        "case when card_answers.customer_id is not null or (card_calls.customer_id % 6 = 0 and"
        " card_calls.call_date >= '2026-08-12') then 1 else 0 end as outcome",
    )
    assert query != week.sql["training"]
    train.train(week, week_engine, LATER_NIGHT)
    assert "its probabilities are wrong" not in capsys.readouterr().err
    trebled = alter(week, sql={**week.sql, "training": query})
    loosened = with_training(trebled, max_auc_drop=1.0)
    train.train(loosened, week_engine, LATER_NIGHT, force=True)
    said = capsys.readouterr().err
    told = re.findall(r"(\S+) goes live, but .* their mean is (0\.\d+) times", said)
    assert [name for name, _ in told] == [f"{A8}_2", f"{A8}_2".replace("A_", "B_")]
    assert all(float(ratio) < 0.5 for _, ratio in told)


def test_compare_auc_with_ties_as_ranked_anew(rng: np.random.Generator) -> None:
    """Bit for bit, with many equal scores, and a bucket that has one outcome alone."""
    y, new, live, bucket = draw(rng, 3000, 1.0, 0.8)
    new, y = new.round(1), np.where(bucket == 3, 1, y)
    found = compare_auc(y, new, live, bucket)
    others = [bucket != number for number in np.unique(bucket)]
    of_new, of_live = (
        np.array([metrics.roc_auc(y[rows], scores[rows]) for rows in others])
        for scores in (new, live)
    )
    assert found is not None
    difference = found.new - found.live
    assert (found.lower, found.upper) == jackknife_interval(difference, of_new - of_live)
    assert (found.live_lower, found.live_upper) == jackknife_interval(found.live, of_live)
    expected = [roc_auc_score(y[rows], new[rows]) for rows in others]
    assert of_new == pytest.approx(expected, abs=1e-12)


def test_compare_auc_of_one_model_twice(rng: np.random.Generator) -> None:
    y, new, _, bucket = draw(rng, 200, 1.0, 0.8)
    found = compare_auc(y, new, 2 * new - 5, bucket)  # ranks alike
    assert found is not None
    assert found.new == found.live
    assert found.lower == found.upper == 0


def test_compare_auc_turned_round(rng: np.random.Generator) -> None:
    y, new, live, bucket = draw(rng, 200, 1.0, 0.8)
    one, other = compare_auc(y, new, live, bucket), compare_auc(y, live, new, bucket)
    assert one is not None
    assert other is not None
    assert (one.new, one.live) == (other.live, other.new)
    assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower), abs=1e-12)


def test_compare_auc_is_paired(rng: np.random.Generator) -> None:
    """The difference of two models that see the same facts is known better.

    Better than that of two on rows of their own.
    """
    y, new, live, bucket = draw(rng, 2000, 1.0, 1.0)
    order = np.concatenate([rng.permutation(np.flatnonzero(y == outcome)) for outcome in (0, 1)])
    alone = np.empty(len(y))
    alone[np.concatenate([np.flatnonzero(y == outcome) for outcome in (0, 1)])] = live[
        order
    ]  # the same ROC AUC, on other rows
    paired, unpaired = compare_auc(y, new, live, bucket), compare_auc(y, new, alone, bucket)
    assert paired is not None
    assert unpaired is not None
    assert paired.live == pytest.approx(unpaired.live, abs=1e-12)
    assert (paired.upper - paired.lower) < 0.75 * (unpaired.upper - unpaired.lower)


@pytest.mark.parametrize(
    ("n_ones", "n_zeros", "is_measured"),
    [(20, 20, True), (19, 60, False), (60, 19, False), (0, 0, False)],
)
def test_compare_auc_few_outcomes(
    rng: np.random.Generator, n_ones: int, n_zeros: int, is_measured: bool
) -> None:
    y = np.repeat([1, 0], [n_ones, n_zeros])
    scores = rng.normal(size=(2, len(y)))
    assert (compare_auc(y, scores[0], scores[1], np.arange(len(y)) % 8) is not None) == is_measured


def test_compare_auc_without_an_interval_is_not_passed(rng: np.random.Generator) -> None:
    y, new, live, bucket = draw(rng, 100, 2.0, 0.1)
    for buckets in (np.zeros(100, dtype=int), y):  # one bucket; one outcome in each
        found = compare_auc(y, new, live, buckets)
        assert found is not None
        assert np.isnan([found.lower, found.upper]).all()
        decision = judge(difference=found)
        assert not decision.promote
        assert decision.reason.endswith("(+nan to +nan): it may be lower by more than 0.02")
        assert decision.evidence["difference"]["lower"] is None
    assert judge(difference=compare_auc(y, new, live, bucket)).promote


@pytest.mark.slow
def test_decide_non_inferiority_holds(rng: np.random.Generator) -> None:
    """A model that is lower by exactly what is allowed goes live in 2.5 % of cases.

    One that is as good nearly always.
    """
    live = 1.0
    allowed = float(
        ndtr(1.0 / 2**0.5) - ndtr(0.8 / 2**0.5)
    )  # of two normal scores, ROC AUC is Phi(shift / sqrt 2)
    worse = [
        judge(
            loosen(max_auc_drop=allowed), difference=compare_auc(*draw(rng, 600, 0.8, live))
        ).promote
        for _ in range(200)
    ]
    as_good = [
        judge(
            loosen(max_auc_drop=allowed), difference=compare_auc(*draw(rng, 600, 1.0, live))
        ).promote
        for _ in range(40)
    ]
    assert sum(worse) <= 11  # expected 5; more than 11 in 1 of 250 such tests
    assert sum(as_good) >= 32


@pytest.mark.parametrize(
    ("difference", "promote"),
    [
        (
            AucDifference(0.70, 0.71, -0.020, 0.0, 500),
            True,
        ),  # may be lower by what is allowed, not by more
        (AucDifference(0.70, 0.71, -0.0201, 0.0, 500), False),
        (
            AucDifference(0.80, 0.60, -0.03, 0.4, 500),
            False,
        ),  # looks better, but too little is known
        (AucDifference(0.50, 0.50, 0.0, 0.0, 500), True),
        (AucDifference(0.70, 0.71, float("nan"), float("nan"), 500), False),
    ],
)
def test_decide_max_auc_drop(difference: AucDifference, promote: bool) -> None:
    decision = judge(difference=difference)
    figures = (
        f"validation ROC AUC {difference.new:.4f} against {difference.live:.4f} of {LIVE} on the"
        f" same 500 rows, {difference.new - difference.live:+.4f} ({difference.lower:+.4f} to"
        f" {difference.upper:+.4f})"
    )
    assert decision.promote == promote
    assert decision.reason == (
        figures if promote else f"{figures}: it may be lower by more than 0.02"
    )


def test_decide_sentence_and_evidence() -> None:
    rules = Training(
        max_auc_drop=0.02, min_rows=5000, calibration_slope=[0.5, 2.0], max_input_psi=0.25
    )
    decision = judge(rules)
    assert decision == Decision(
        promote=True,
        reason=FIGURES,
        evidence={
            "rules": {
                "max_auc_drop": 0.02,
                "min_rows": 5000,
                "calibration_slope": [0.5, 2.0],
                "max_input_psi": 0.25,
            },
            "rows": 5000,
            "live": LIVE,
            "calibration_slope": SLOPE.model_dump(),
            "input_psi": ("income", 0.05, 0.01),
            "skill": None,
            "mean_ratio": None,
            "auc": None,
            "rate": None,
            "live_auc": None,
            "live_rate": None,
            "daily_rows": None,
            "live_daily_rows": None,
            "difference": {
                "new": 0.80,
                "live": 0.75,
                "lower": 0.01,
                "upper": 0.09,
                "n_rows": 1234,
                "live_lower": None,
                "live_upper": None,
            },
        },
    )
    assert decision.sentence == f"goes live: {FIGURES}"
    refused = decision.refuse("somebody else did")
    assert refused.sentence == "does not go live: somebody else did"
    assert refused.evidence == decision.evidence


@pytest.mark.parametrize(
    ("rule", "changes", "reason"),
    [
        ({"min_rows": 5000}, {}, None),
        ({"min_rows": 5001}, {}, "5,000 training rows, fewer than the 5,001 that are asked for"),
        (
            {"calibration_slope": [1.1, 2.0]},
            {},
            None,
        ),  # the interval of the slope reaches to the ends
        ({"calibration_slope": [0.5, 0.7]}, {}, None),
        (
            {"calibration_slope": [1.11, 2.0]},
            {},
            "its calibration slope is 0.90 (0.70 to 1.10), expected 1.11 to 2",
        ),
        (
            {"calibration_slope": [0.5, 0.69]},
            {},
            "its calibration slope is 0.90 (0.70 to 1.10), expected 0.5 to 0.69",
        ),
        (
            {"calibration_slope": [0.5, 2.0]},
            {"calibration_slope": None},
            (
                "its calibration slope cannot be measured (too few outcomes, or constant"
                " predictions), expected 0.5 to 2"
            ),
        ),
        (
            {"calibration_slope": [0.5, 2.0]},
            {"calibration_slope": Figure(value=None, lower=None, upper=None)},
            (
                "its calibration slope cannot be measured (too few outcomes, or constant"
                " predictions), expected 0.5 to 2"
            ),
        ),
        ({"max_input_psi": 0.2}, {"input_psi": ("income", 0.2, 0.01)}, None),
        (
            {"max_input_psi": 0.2},
            {"input_psi": ("income", 0.3, 0.3)},
            None,
        ),  # chance alone may give it
        ({"max_input_psi": 0.2}, {"input_psi": None}, None),
        (
            {"max_input_psi": 0.2},
            {"input_psi": ("income", 0.2011, 0.01)},
            (
                f"the newest rows are not like those that {LIVE} knew: PSI 0.201 of income, more"
                " than 0.2"
            ),
        ),
    ],
)
def test_decide_each_rule(
    rule: dict[str, Any], changes: dict[str, Any], reason: str | None
) -> None:
    decision = judge(loosen(**rule), **changes)
    assert (decision.promote, decision.reason) == (
        (True, FIGURES) if reason is None else (False, reason)
    )


def test_decide_rules_that_are_off() -> None:
    assert judge(rows=1, calibration_slope=None, input_psi=("income", 9.0, 0.0)).promote


def test_decide_tells_all_that_is_wrong() -> None:
    rules = Training(
        max_auc_drop=0.0, min_rows=6000, calibration_slope=[1.5, 2.0], max_input_psi=0.01
    )
    worse = AucDifference(0.70, 0.75, -0.09, -0.01, 1234)
    reasons = judge(rules, difference=worse).reason.split("; ")
    assert [reason.split(",")[0] for reason in reasons] == [
        "5",
        "its calibration slope is 0.90 (0.70 to 1.10)",
        f"the newest rows are not like those that {LIVE} knew: PSI 0.050 of income",
        f"validation ROC AUC 0.7000 against 0.7500 of {LIVE} on the same 1",
    ]


def test_decide_cannot_be_compared() -> None:
    decision = judge(difference="its columns are gone")
    assert (decision.promote, decision.reason) == (
        False,
        f"it cannot be compared with {LIVE}: its columns are gone",
    )
    assert decision.evidence["difference"] == "its columns are gone"
    both = judge(loosen(min_rows=6000), difference="its columns are gone")
    assert both.reason.startswith("5,000 training rows, fewer")
    assert both.reason.endswith("; " + decision.reason)


def test_decide_first_model() -> None:
    first: dict[str, Any] = {"live": None, "difference": "it has no record", "input_psi": None}
    assert judge(**first).sentence == "goes live: the first model of its variant"
    assert judge(
        **first, calibration_slope=None
    ).promote  # without a rule for the slope nothing needs to be measured
    refused = judge(loosen(min_rows=6000), **first)
    assert (
        refused.sentence
        == "does not go live: 5,000 training rows, fewer than the 6,000 that are asked for"
    )
    assert not judge(loosen(calibration_slope=[0.5, 2.0]), **first, calibration_slope=None).promote


@pytest.mark.parametrize("live", [LIVE, None])
def test_decide_later_is_not_overruled(live: str | None) -> None:
    decision = judge(live=live, later=LATER)
    assert (
        decision.sentence
        == f"does not go live: {LATER} is live from a later date; to use it all the same: python -m"
        " abatch promote"
    )
    assert decision.evidence["difference"]["new"] == 0.80


def test_gate_keeps_a_model_that_was_trained_on_shuffled_outcomes(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe is the same, and so are the newest rows.

    Only the actual live model can show that the new one is worse.
    """
    query = week.sql["training"].replace(
        "case when card_answers.customer_id is null then 0 else 1 end as outcome",
        "case when card_calls.call_date >= '2026-08-10' then case when card_answers.customer_id is"
        " null then 0 else 1 end when card_calls.customer_id % 25 = 0 then 1 else 0 end as outcome",
    )
    assert query != week.sql["training"]
    spoilt = alter(week, sql={**week.sql, "training": query})
    train.train(spoilt, week_engine, LATER_NIGHT)
    assert find_live(week_engine) == {"A": A1, "B": A1.replace("A", "B")}
    said = capsys.readouterr().err
    assert f"{A8} does not go live: " in said
    assert "it may be lower by more than 0.02" in said
    with week_engine.connect() as connection:
        card = registry.find_model(connection, A8)
    assert card.gate.sentence.startswith("does not go live: ")
    assert (week.environment.models_dir / f"{A8}.pkl").exists()


OUTCOME = "case when card_answers.customer_id is null then 0 else 1 end as outcome"


def test_gate_refuses_inverted_outcomes_of_every_variant_in_one_message(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Models of inverted outcomes rank inverted rows well; the live ones know better.

    Of inverted outcomes, ROC AUC and the rate are 1 minus what they are, by definition.
    """
    inverted = week.sql["training"].replace(OUTCOME, OUTCOME.replace("0 else 1", "1 else 0"))
    assert inverted != week.sql["training"]
    train.train(alter(week, sql={**week.sql, "training": inverted}), week_engine, LATER_NIGHT)
    assert find_live(week_engine) == {"A": A1, "B": A1.replace("A", "B")}
    said = capsys.readouterr().err
    assert said.count("the newest rows contradict what is live") == 1
    assert f"The same holds of {A8.replace('A', 'B')}" in said
    with week_engine.connect() as connection:
        cards = registry.read_cards(connection, "card_offer")
    train.train(week, week_engine, LATER_NIGHT, force=True)
    assert "the newest rows" not in capsys.readouterr().err
    with week_engine.connect() as connection:
        right = registry.find_model(connection, f"{A8}_2").gate.evidence
    wrong = cards[A8].gate.evidence
    assert wrong["difference"]["live"] == pytest.approx(1 - right["difference"]["live"], abs=1e-9)
    assert wrong["rate"]["value"] == pytest.approx(1 - right["rate"]["value"], abs=1e-9)


def test_gate_tells_outcomes_that_are_ruined(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every third number has the outcome, which nobody could rank."""
    ruined = week.sql["training"].replace(
        OUTCOME, "case when card_calls.customer_id % 3 = 0 then 1 else 0 end as outcome"
    )
    train.train(alter(week, sql={**week.sql, "training": ruined}), week_engine, LATER_NIGHT)
    said = capsys.readouterr().err
    assert said.count("the newest rows are not as they were") == 1
    assert f"{A1} ranks" in said
    assert said.count("the outcome's rate is 0.3") == 1
    assert "it may rank no better than chance (ROC AUC 0." in said
    assert find_live(week_engine) == {"A": A1, "B": A1.replace("A", "B")}


def test_gate_refuses_too_few_rows(week: Experiment, week_engine: sa.Engine) -> None:
    train.train(with_training(week, min_rows=10_000), week_engine, LATER_NIGHT)
    assert find_live(week_engine)["A"] == A1
    with week_engine.connect() as connection:
        assert (
            "training rows, fewer than the 10,000 that are asked for"
            in registry.find_model(connection, A8).gate.sentence
        )


def test_gate_reads_the_live_models_snapshot_once(
    week: Experiment, week_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both live models were trained on it."""
    load, loaded = snapshots.load, []

    def notice(*asked: Any) -> Any:
        loaded.append(asked)
        return load(*asked)

    monkeypatch.setattr(snapshots, "load", notice)
    train.train(week, week_engine, LATER_NIGHT)
    assert len(loaded) == 1
    with week_engine.connect() as connection:
        for name in (A8, A8.replace("A", "B")):
            assert registry.find_model(connection, name).gate.evidence["difference"]["n_rows"] > 0


def test_gate_without_the_live_models_snapshot_compares_recipes(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = week.environment.snapshots_dir.glob("*.parquet")
    path.unlink()
    train.train(week, week_engine, LATER_NIGHT)
    assert f"{A1} is compared by its recipe" in capsys.readouterr().err
    assert find_live(week_engine)["A"] == A8  # the same recipe on the same rows


def let_go(environment: Environment) -> None:
    """Take the marks off its folders, which another environment takes over then."""
    for key in folders.MODES:
        (getattr(environment, key) / folders.MARK).unlink()


def test_dirty_tree_does_not_go_live_in_prod(
    week: Experiment, week_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version, "code_version", lambda: "0.1.0+abc-dirty")
    let_go(week.environment)
    prod = alter(week, environment_name="prod")
    train.train(prod, week_engine, LATER_NIGHT)
    assert find_live(week_engine)["A"] == A1
    with week_engine.connect() as connection:
        assert (
            "does not go live: it was trained from a dirty tree"
            in registry.find_model(connection, A8).gate.sentence
        )
    train.train(prod, week_engine, LATER_NIGHT, force=True, allow_dirty=True)
    assert find_live(week_engine)["A"] == f"{A8}_2"
    with week_engine.connect() as connection:
        row = connection.execute(
            sa.select(promotions).order_by(promotions.c.promotion_id.desc())
        ).first()
    assert row is not None
    assert "(from a dirty tree, allowed)" in row.reason
    assert json.loads(row.evidence)["allow_dirty"] is True


def test_prod_is_told_where_git_does_not_answer(
    week: Experiment,
    week_engine: sa.Engine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By each training, for a dirty tree cannot be refused, and by a promotion by hand."""
    code = version.Code("unknown.05bad6405bad", "git says: fatal: not a git repository")
    monkeypatch.setattr(version, "find_code", lambda: code)
    train.train(week, week_engine, LATER_NIGHT)
    assert capsys.readouterr() == ("", "")
    let_go(week.environment)
    prod = alter(week, environment_name="prod")
    train.train(prod, week_engine, LATER_NIGHT, force=True)
    assert re.fullmatch(
        rf"train card_offer {LATER_NIGHT}: models go live in prod, and nobody can tell whether the"
        r" code in \S+ is that of a commit \(git says: fatal: not a git repository\)\. Its hash is"
        rf" recorded: \S+unknown\.05bad6405bad\. Run the jobs from a clone .*\n",
        capsys.readouterr().err,
    )
    with week_engine.connect() as connection:
        versions = connection.scalars(sa.select(models.c.code_version)).all()
    assert f"{abatch.__version__}+unknown.05bad6405bad" in versions
    raw = yaml.safe_load(week.environment.file.read_text(encoding="utf-8"))
    raw["environments"]["prod"] = {**raw["environments"]["dev"], "models_dir": "models/dev"}
    week.environment.file.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    command = ("promote", A8, "--reason", "x", "--env", "prod", "--date", "2026-09-08")
    exit_code, out, err = call(capsys, week, *command)
    assert (exit_code, err) == (0, "")
    assert re.search(
        r"\n  nobody can tell whether it was trained from a dirty tree: its code is \S+unknown\.",
        out,
    )


def test_promote_of_a_dirty_model_in_prod_by_hand(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(with_training(week, min_rows=10_000), week_engine, LATER_NIGHT)
    raw = yaml.safe_load(week.environment.file.read_text(encoding="utf-8"))
    let_go(week.environment)
    raw["environments"]["prod"] = {**raw["environments"]["dev"], "models_dir": "models/dev"}
    week.environment.file.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    with week_engine.begin() as connection:
        clean = json.dumps(version.code_version())
        dirty = sa.func.replace(models.c.card, clean, '"0.1.0+abc-dirty"')
        connection.execute(models.update().values(card=dirty))
    command = ("promote", A8, "--reason", "x", "--env", "prod", "--date", "2026-09-08")
    code, out, err = call(capsys, week, *command)
    assert (code, out) == (1, "")
    assert "from a dirty tree" in err
    assert "--allow-dirty, which is recorded" in err
    assert call(capsys, week, *command, "--allow-dirty")[0] == 0
    with week_engine.connect() as connection:
        row = connection.execute(
            sa.select(promotions).order_by(promotions.c.promotion_id.desc())
        ).first()
    assert row is not None
    assert json.loads(row.evidence) == {
        "allow_dirty": True,
        "code_version": "0.1.0+abc-dirty",
    }
    assert (
        call(
            capsys, week, "rollback", A1, "--reason", "x", "--env", "prod", "--date", "2026-09-08"
        )[0]
        == 0
    )  # was live before
