"""What an experiment registers, and what counts as a change of it."""

import hashlib
import json
from datetime import date, datetime
from math import ceil
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database import tables
from abatch.errors import ConfigError
from abatch.experiment import registrations, terms
from abatch.experiment.registrations import Sample, Terms
from abatch.experiment.terms import TrainingOutcome
from abatch.queries import normalise_query
from abatch.sections import Guardrail, ModelConfig, Outcome
from tests.conftest import make_night

QUERY = "select customer_id as candidate_id, 1 as outcome from answers where day >= :from_date"
GUARDRAIL_QUERY = "select customer_id as candidate_id, 1 as outcome from complaints"
CALLS = Guardrail(query="sql/calls.sql", kind="binary", direction="decrease", margin=0.02)
OUTCOME = Outcome(
    kind="binary", window_days=14, lag_days=1, grace_days=7, expected_effect=0.01, baseline=0.02
)
MODEL = ModelConfig(
    name="model", version="1.0", estimator="sklearn.linear_model.LogisticRegression"
)
NOTHING_KNOWN = TrainingOutcome(None, None, None)
AT = datetime(2026, 9, 1, 3, 0)


def make_experiment(**changes: Any) -> Experiment:
    """The experiment card_offer; `outcomes`, `watermark` and `calls` are texts of queries."""
    sql = {"outcomes": QUERY, "watermark": "select max(day) from feed", "calls": GUARDRAIL_QUERY}
    sql |= {name: changes.pop(name) for name in [*changes] if name in sql}
    settings = {
        "name": "card_offer",
        "hypothesis": "Ringer vi til Ærø, får vi svar.",
        "outcome": OUTCOME,
        "exposure": "first",
        "champion": None,
        "verdicts": None,
        "guardrails": {"calls": CALLS},
        "split": {"A": 0.45, "B": 0.45, "control": 0.1},
        "models": {"A": MODEL, "B": MODEL},
        "select_top": 0.2,
        "environment": SimpleNamespace(
            file="ml_config.yaml", timezone=changes.pop("timezone", "Europe/Oslo")
        ),
    }
    return Experiment.model_construct(sql=sql, **{**settings, **changes})


def describe(**changes: Any) -> Terms:
    return terms.describe(make_experiment(**changes))


def dump(terms: Terms) -> Any:
    return terms.model_dump(mode="json")


def change_outcome(**changes: object) -> dict[str, Any]:
    return {"outcome": OUTCOME.model_copy(update=changes)}


def change_guardrail(**changes: object) -> dict[str, Any]:
    return {"guardrails": {"calls": CALLS.model_copy(update=changes)}}


def make_plan(
    n_candidates: int, trained: TrainingOutcome = NOTHING_KNOWN, **changes: Any
) -> registrations.Plan:
    return terms.make_plan(describe(**changes), trained, n_candidates)


def make_registration(
    trained: TrainingOutcome = NOTHING_KNOWN, n_candidates: int = 1000, **changes: Any
) -> registrations.Registration:
    night = make_night(run_date=AT.date(), experiment=make_experiment(**changes))
    return terms.make_registration(night, "hash", trained, n_candidates)


def refused(**changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        terms.refuse_changes(describe(), make_experiment(**changes))
    return str(caught.value)


def test_describe_thresholds_by_hand() -> None:
    # .45 * 2**64 = 8301034833169298227.2; .9 * 2**64 = 16602069666338596454.4; the last part ends
    # with 2**64 - 1
    assert dump(describe())["variants"] == [
        {"variant": "A", "share": 0.45, "hash_up_to": "7333333333333332", "has_model": True},
        {"variant": "B", "share": 0.45, "hash_up_to": "e666666666666665", "has_model": True},
        {"variant": "control", "share": 0.1, "hash_up_to": "ffffffffffffffff", "has_model": False},
    ]


def test_describe_holds_the_rules() -> None:
    """The numbers are those that docs of the method name.

    Alpha, power, burn-in, the prior and alarm of the sample ratio.
    """
    found = dump(describe())
    assert found["outcome"] == {
        "kind": "binary",
        "window_days": 14,
        "lag_days": 1,
        "expected_effect": 0.01,
    }
    assert (found["direction"], found["exposure"]) == ("increase", "first")
    assert (found["baseline"], found["baseline_sd"], found["cap"]) == (0.02, None, None)
    assert (found["alpha"], found["power"], found["sample_ratio"]) == (
        0.05,
        0.8,
        {"weight": 1000, "night_weight": 100, "exposures_effect": 0.1, "alpha": 0.01},
    )
    assert found["burn_in"] == {"units": 100, "cases": 10, "nonzero": 100, "kurtoses": 10}
    assert found["guardrails"] == {
        "calls": {
            "kind": "binary",
            "direction": "decrease",
            "margin": 0.02,
            "cap": None,
            "query": GUARDRAIL_QUERY,
            "watermark": None,
        }
    }
    assert describe(**change_outcome(expected_effect=-0.01)).direction == "decrease"


def compare(
    models: str, split: str, champion: str | None = None, verdicts: list[str] | None = None
) -> list[tuple[str, str, str]]:
    experiment = make_experiment(
        split=dict.fromkeys(split.split(), 0.1),
        models=dict.fromkeys(models.split(), MODEL),
        champion=champion,
        verdicts=verdicts,
    )
    return [
        (comparison.name, " ".join(comparison.treatment), " ".join(comparison.control))
        for comparison in terms.list_comparisons(experiment)
    ]


POOLED, PAIRS = ["models_vs_control"], ["challenger_vs_champion"]


@pytest.mark.parametrize(
    ("models", "split", "champion", "chosen", "expected"),
    [
        ("A", "A control", None, None, [("models vs control", "A", "control")]),
        (
            "A B",
            "A B control",
            None,
            None,
            [("models vs control", "A B", "control"), ("B vs A", "B", "A")],
        ),
        (
            "B A",
            "A B control",
            None,
            None,
            [("models vs control", "A B", "control"), ("B vs A", "B", "A")],
        ),  # the split's order
        (
            "A B",
            "A B control",
            "B",
            None,
            [("models vs control", "A B", "control"), ("A vs B", "A", "B")],
        ),
        (
            "A B C",
            "A B C none",
            "B",
            None,
            [("models vs control", "A B C", "none"), ("A vs B", "A", "B"), ("C vs B", "C", "B")],
        ),
        ("A B", "A B", None, None, [("B vs A", "B", "A")]),
        ("A", "A none zero", None, None, [("models vs control", "A", "none zero")]),
        ("A", "A", None, None, []),
        ("A B", "A B control", None, POOLED, [("models vs control", "A B", "control")]),
        ("A B", "A B control", None, PAIRS, [("B vs A", "B", "A")]),
        (
            "A B",
            "A B control",
            None,
            PAIRS + POOLED,
            [("models vs control", "A B", "control"), ("B vs A", "B", "A")],
        ),
    ],
)
def test_list_comparisons(
    models: str,
    split: str,
    champion: str | None,
    chosen: list[str] | None,
    expected: list[tuple[str, str, str]],
) -> None:
    assert compare(models, split, champion, chosen) == expected


HALVES: dict[str, Any] = {"split": {"A": 0.5, "control": 0.5}, "models": {"A": MODEL}}


def test_make_plan_textbook_sample() -> None:
    """5 % against 6 % at 50/50, worked out by hand.

    (.05 * .95 + .06 * .94) / .5 * (2.8015852 / .01)**2 = 16,310, and 1.69 times that for daily
    looks.
    """
    plan = make_plan(1000, **HALVES, **change_outcome(baseline=0.05))
    assert plan.samples == {
        "models vs control": Sample(n_fixed=16_310, n_most=27_564, n_median=16_310)
    }
    assert (plan.mean, plan.source, plan.n_candidates) == (0.05, "the config", 1000)
    assert plan.sd == pytest.approx(0.217945, abs=1e-6)  # the root of .05 * .95
    assert (plan.days_most, plan.days_median) == (
        28 + 15,
        17 + 15,
    )  # the nights, then a window of 14 days and a lag of 1


def test_make_plan_two_verdicts_by_hand() -> None:
    """Shares .45, .45, .1, 2 % against 3 %, worked out by hand.

    Pooled .0291 / .9 + .0196 / .1, B against A .0291 / .45 + .0196 / .45.
    """
    plan = make_plan(1000)
    square = 2.801585218 / 0.01
    fixed = {
        "models vs control": (0.0291 / 0.9 + 0.196) * square**2,
        "B vs A": 0.0487 / 0.45 * square**2,
    }
    assert {name: sample.n_fixed for name, sample in plan.samples.items()} == {
        name: ceil(n) for name, n in fixed.items()
    }
    assert plan.samples["models vs control"].n_most == ceil(1.95 * fixed["models vs control"])
    assert plan.samples["B vs A"].n_median == ceil(1.19 * fixed["B vs A"])
    assert (
        plan.days_most == ceil(1.95 * fixed["models vs control"] / 1000) + 15
    )  # the slower of the two


def test_make_plan_numeric_by_hand() -> None:
    """An sd of 100 and an effect of 10 at 50/50: 4 * (2.8015852 * 100 / 10)**2 = 3,139.55."""
    numeric = {"kind": "numeric", "expected_effect": -10.0}
    rows = TrainingOutcome(42.0, 7.0, None)
    given = change_outcome(**numeric, baseline=None, baseline_sd=100.0)
    plan = make_plan(100, rows, **HALVES, **given)
    assert plan.samples["models vs control"].n_fixed == 3140
    assert (plan.mean, plan.sd, plan.source) == (42.0, 100.0, "the config")
    rows = TrainingOutcome(42.0, 100.0, None)
    plan = make_plan(100, rows, **HALVES, **change_outcome(**numeric, baseline=40.0))
    assert plan.samples["models vs control"].n_fixed == 3140
    assert (plan.mean, plan.sd, plan.source) == (40.0, 100.0, "the training rows")


def test_make_plan_numeric_waits_for_rare_amounts() -> None:
    """One in 500 training rows brings all: a kurtosis of 500.

    Ten times as many candidates in the smaller half are 10,000, whatever the sample would be.
    """
    numeric = {"kind": "numeric", "expected_effect": 10.0, "baseline": None}
    rows = TrainingOutcome(42.0, 100.0, 1.0, 500.0)
    plan = make_plan(100, rows, **HALVES, **change_outcome(**numeric))
    assert plan.samples["models vs control"] == Sample(
        n_fixed=10_000, n_most=10_000, n_median=10_000
    )
    assert plan.kurtosis == 500
    small = make_plan(100, rows._replace(kurtosis=3.0), **HALVES, **change_outcome(**numeric))
    assert small.samples["models vs control"].n_fixed == 3140


def test_list_doubts_names_what_has_no_cap() -> None:
    loose = {"kind": "numeric", "expected_effect": 10.0, "baseline": None}
    calls = Guardrail(query="c.sql", kind="numeric", direction="decrease", margin=1.0)
    changes = HALVES | change_outcome(**loose)
    doubts = registrations.list_doubts(make_registration(**changes, guardrails={"calls": calls}))
    assert [doubt.split(" and has")[0] for doubt in doubts] == [
        "card_offer: outcome is numeric",
        "card_offer: calls is numeric",
    ]
    capped = {"calls": calls.model_copy(update={"cap": 9.0})}
    capped_outcome = change_outcome(**loose, cap=500.0)
    registration = make_registration(**HALVES, **capped_outcome, guardrails=capped)
    assert registrations.list_doubts(registration) == []
    assert "each variant has 10 times their kurtosis in candidates" in doubts[0]
    assert registrations.list_doubts(make_registration(**HALVES)) == []


def test_make_plan_training_rows_stand_in() -> None:
    rows = TrainingOutcome(0.05, 0.22, 0.05)
    plan = make_plan(1000, rows, **HALVES, **change_outcome(baseline=None))
    assert (plan.samples["models vs control"].n_fixed, plan.source) == (
        16_310,
        "the training rows",
    )


@pytest.mark.parametrize("kind", ["binary", "numeric"])
def test_make_plan_of_nothing_known_is_none(kind: str) -> None:
    registration = make_registration(**HALVES, **change_outcome(kind=kind, baseline=None))
    plan = registration.plan
    assert (plan.mean, plan.sd, plan.samples, plan.days_most, plan.days_median) == (
        None,
        None,
        {},
        None,
        None,
    )
    key = {"binary": "outcome.baseline", "numeric": "outcome.baseline_sd"}[kind]
    text = " ".join(registrations.describe_plan(registration).split())
    assert text.endswith(
        f"sample cannot be told: the mean outcome is unknown; set {key} in the config under a new"
        " experiment name"
    )


def test_make_plan_is_never_less_than_the_burn_in() -> None:
    """Ten outcomes at 1 in 1,000 take 10,000 candidates.

    The smaller variant gets one in twenty of them.
    """
    plan = make_plan(
        1000,
        split={"A": 0.95, "control": 0.05},
        models={"A": MODEL},
        **change_outcome(baseline=0.001, expected_effect=0.005),
    )
    assert {n for _, n in plan.samples["models vs control"]} == {200_000}


def test_make_plan_nothing_compared() -> None:
    registration = make_registration(split={"A": 1.0}, models={"A": MODEL})
    assert (registration.plan.samples, registration.plan.days_most) == ({}, None)
    text = registrations.describe_plan(registration)
    assert "verdicts   none: there is nothing to compare" in text
    assert "sample" not in text
    assert "how sure" not in text


def test_describe_plan_words_and_width() -> None:
    registration = make_registration(
        **HALVES,
        **change_outcome(baseline=0.05),
        hypothesis="Calling those who rank highest " + "helps " * 20,
    )
    text = registrations.describe_plan(registration)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 79
    assert lines[0] == "card_offer: a new experiment. Its first predict registers for good:"
    assert all(
        line.startswith("  ") and (line[2] != " " or line.startswith(" " * 13))
        for line in lines[1:]
    )
    words = " ".join(text.split())
    for fact in (
        "asked Calling those who rank highest helps helps",
        (
            "expected +0.01 in the mean outcome per candidate; increase is good; planned with a"
            " mean of 0.05 (the config)"
        ),
        "counted the first mature prediction of each candidate, outcomes within 14 days",
        "verdicts 1: models vs control",
        "guardrail calls: decrease is good, margin 0.02",
        "how sure 95% for all of them together, on all days, however often somebody looks",
        (
            "sample models vs control: 27,564 candidates at most for 80% power, half of the time"
            " 16,310 or fewer (read once: 16,310)"
        ),
        (
            "time 43 days at most for 80% power, half of the time 32 or fewer, if every night"
            " brings 1,000 new candidates as this one does"
        ),
    ):
        assert fact in words


def test_describe_plan_numeric_names_what_it_plans_with() -> None:
    change = change_outcome(kind="numeric", expected_effect=-10.0, baseline=None, baseline_sd=100.0)
    rows = TrainingOutcome(42.0, 7.0, None)
    registration = make_registration(rows, 100, **HALVES, **change, exposure="all")
    words = " ".join(registrations.describe_plan(registration).split())
    assert (
        "expected -10 in the mean outcome per prediction; decrease is good; planned with a standard"
        " deviation of 100 (the config)" in words
    )
    assert "counted all mature predictions of each candidate" in words
    assert "42" not in words


def test_refuse_changes_form_does_not_count() -> None:
    commented = (
        "-- answers\nselect   customer_id as candidate_id, /* always */\n  1 as outcome\nfrom"
        " answers where day >= :from_date;\n"
    )
    same = make_experiment(outcomes=commented, hypothesis="  Ringer vi\n til Ærø, får vi svar. \n")
    terms.refuse_changes(describe(), same)


def test_refuse_changes_says_what_changed() -> None:
    assert (
        refused(hypothesis="Ringer vi til 日本, får vi svar.")
        == "ml_config.yaml: experiment card_offer is registered, and its verdict depends on what"
        " has changed here. Set it back, or ask the new question under a new experiment name.\n "
        ' hypothesis\n    registered "Ringer vi til Ærø, får vi svar."\n    now        "Ringer'
        ' vi til 日本, får vi svar."'
    )


@pytest.mark.parametrize(
    ("change", "key", "now"),
    [
        ({"split": {"A": 0.5, "B": 0.4, "control": 0.1}}, "variants", '"share": 0.5'),
        ({"select_top": 0.3}, "select_top", "0.3"),
        (change_outcome(window_days=15), "outcome", '"window_days": 15'),
        (change_outcome(expected_effect=0.02), "outcome", '"expected_effect": 0.02'),
        (change_outcome(kind="numeric"), "outcome", '"kind": "numeric"'),
        (change_outcome(baseline=0.03), "baseline", "0.03"),
        (change_outcome(baseline_sd=2.5), "baseline_sd", "2.5"),
        (change_outcome(cap=500.0), "cap", "500.0"),
        ({"exposure": "all"}, "exposure", '"all"'),
        ({"champion": "B"}, "comparisons", '"A vs B"'),
        ({"verdicts": ["challenger_vs_champion"]}, "comparisons", '[{"comparison": "B vs A"'),
        ({"guardrails": {}}, "guardrails", "{}"),
        (change_guardrail(margin=0.03), "guardrails", '"margin": 0.03'),
        (change_guardrail(direction="increase"), "guardrails", '"direction": "increase"'),
        (change_guardrail(kind="numeric", cap=9.0), "guardrails", '"cap": 9.0'),
        (
            {"calls": "select 1 as outcome"},
            "guardrails",
            '"query": "select 1 as outcome"',
        ),
        ({"outcomes": QUERY.replace(">=", ">")}, "outcomes_query", "day > :from_date"),
        ({"watermark": "select min(day) from feed"}, "watermark_query", "min(day)"),
        ({"timezone": "UTC"}, "timezone", '"UTC"'),
        ({"name": "card_offer_2"}, "salt", '"card_offer_2"'),
    ],
)
def test_refuse_changes_each_change(change: dict[str, Any], key: str, now: str) -> None:
    lines = refused(**change).splitlines()
    assert lines[1] == f"  {key}"
    assert len(lines) == 4
    assert now not in lines[2]
    assert now in lines[3]


def test_refuse_changes_lists_all_changes() -> None:
    assert [
        line.strip() for line in refused(timezone="UTC", select_top=0.1).splitlines()[1::3]
    ] == ["select_top", "timezone"]


@pytest.mark.parametrize(
    ("change", "now"),
    [
        (
            {"split": {"B": 0.45, "A": 0.45, "control": 0.1}},
            ('"comparison": "A vs B"', '[{"variant": "B"'),
        ),  # the first is the champion
        (
            {"models": {"A": MODEL}},
            ('"control": ["B", "control"]', '"hash_up_to": "e666666666666665", "has_model": false'),
        ),
    ],
)
def test_refuse_changes_change_of_variants(change: dict[str, Any], now: tuple[str, str]) -> None:
    lines = refused(**change).splitlines()
    assert (lines[1], lines[4], len(lines)) == ("  comparisons", "  variants", 7)
    assert all(
        text in line and text not in before
        for text, before, line in zip(now, lines[2::3], lines[3::3], strict=True)
    )


def test_refuse_changes_sign_of_the_effect() -> None:
    assert [
        line.strip() for line in refused(**change_outcome(expected_effect=-0.01)).splitlines()[1::3]
    ] == ["direction", "outcome"]


def test_refuse_changes_what_it_does_not_depend_on() -> None:
    """What may change unseen is warned of.

    How long corrections are waited for, where a guardrail's query lies, and a champion that is
    named for the first time.
    """
    moved = change_guardrail(query="sql/moved.sql")
    commented = {"calls": f"-- complaints\n{GUARDRAIL_QUERY};"}
    for change in (
        change_outcome(grace_days=0),
        moved,
        commented,
        {"champion": "A"},
        {"verdicts": POOLED + PAIRS},
    ):
        terms.refuse_changes(describe(), make_experiment(**change))


def test_check_keeps_to_what_was_registered(experiment: Experiment, engine: sa.Engine) -> None:
    """Such as the day of the start, and whether the hash assigns."""
    night = make_night(run_date=date(2026, 8, 1), experiment=experiment)
    registration = terms.make_registration(night, "hash", NOTHING_KNOWN, 1000)
    with engine.begin() as connection:
        assert terms.check(connection, experiment) is None
        registrations.register(connection, make_night("run1", at=AT), registration)
    with engine.connect() as connection:
        assert terms.check(connection, experiment, "hash") == registration
        with pytest.raises(ConfigError, match="assignment"):
            terms.check(connection, experiment, "recorded")


def test_normalise_query_white_space_in_a_literal_counts() -> None:
    assert normalise_query("select 'a  b'") != normalise_query("select 'a b'")
    quoted = "select [it's  b] from t where c = ' ''  '"
    assert normalise_query(quoted) == quoted
    assert normalise_query("select '12:30', $$a:b$$") == "select '12:30', $$a:b$$"
    assert normalise_query("select 'a' -- 'x'\n ;") == normalise_query("select\n\t'a'")


def test_make_registration_guardrail_query_of_comments_alone() -> None:
    """The config asks for a file's name; a registration takes whatever the file says."""
    assert make_registration(calls="-- to be written").guardrails["calls"].query == ""


def test_register_round_trip(engine: sa.Engine) -> None:
    registration = make_registration(**change_outcome(baseline=0.05))
    with engine.begin() as connection:
        assert registrations.find(connection, "card_offer") is None
        registrations.register(connection, make_night("run1", at=AT), registration)
    with engine.connect() as connection:
        row = connection.execute(sa.select(tables.registrations)).one()
        found = registrations.find(connection, "card_offer")
    assert found == registration
    assert dump(registration) == json.loads(row.content)
    assert row.hash == hashlib.sha256(row.content.encode("utf-8")).hexdigest()
    assert (row.registered_at, row.run_id) == (AT, "run1")
    terms.refuse_changes(found, make_experiment(**change_outcome(baseline=0.05)))


def test_register_is_for_good(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        registrations.register(
            connection, make_night("run1", at=datetime(2026, 9, 1)), make_registration()
        )
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        again = make_registration(select_top=0.9)
        registrations.register(connection, make_night("run2", at=datetime(2026, 9, 2)), again)


def test_register_writes_the_same_bytes_for_ever(engine: sa.Engine) -> None:
    """Whoever keeps the hash elsewhere can still compare it; the text was written by 30e3e31."""
    experiment = make_experiment(
        outcome=Outcome(
            kind="numeric",
            window_days=30,
            expected_effect=-2.5,
            baseline=41.0,
            baseline_sd=100.0,
            cap=500.0,
        ),
        exposure="all",
        guardrails={
            "calls": Guardrail(
                query="c.sql", kind="numeric", direction="decrease", margin=1.0, cap=9.0
            )
        },
    )
    trained = TrainingOutcome(0.021, 0.2, 0.3, 30.5)
    night = make_night("run1", date(2026, 9, 1), experiment, at=AT)
    registration = terms.make_registration(night, "recorded", trained, 1234)
    with engine.begin() as connection:
        registrations.register(connection, make_night("run1", at=AT), registration)
        text = connection.scalar(sa.select(tables.registrations.c.content))
    assert text == (
        '{"alpha": 0.05, "assignment": "recorded", "baseline": 41.0, "baseline_sd": 100.0, "b'
        'urn_in": {"cases": 10, "kurtoses": 10, "nonzero": 100, "units": 100}, "cap": 500.0, '
        '"comparisons": [{"comparison": "models vs control", "control": ["control"], "treatme'
        'nt": ["A", "B"]}, {"comparison": "B vs A", "control": ["A"], "treatment": ["B"]}], "'
        'direction": "decrease", "exposure": "all", "guardrails": {"calls": {"cap": 9.0, "dir'
        'ection": "decrease", "kind": "numeric", "margin": 1.0, "query": "select customer_id '
        'as candidate_id, 1 as outcome from complaints", "watermark": null}}, "hypothesis": "'
        'Ringer vi til Ærø, får vi svar.", "outcome": {"expected_effect": -2.5, "kind": "nume'
        'ric", "lag_days": 0, "window_days": 30}, "outcomes_query": "select customer_id as ca'
        'ndidate_id, 1 as outcome from answers where day >= :from_date", "plan": {"days_media'
        'n": 165, "days_most": 251, "kurtosis": 30.5, "mean": 41.0, "n_candidates": 1234, "ra'
        'te": 0.3, "sa'
        'mples": {"B vs A": {"n_fixed": 55815, "n_median": 66419, "n_most": 108838}, "models '
        'vs control": {"n_fixed": 139536, "n_median": 166048, "n_most": 272095}}, "sd": 100.0'
        ', "source": "the config"}, "power": 0.8, "salt": "card_offer", "sample_ratio": {"alp'
        'ha": 0.01, "exposures_effect": 0.1, "night_weight": 100, "weight": 1000}, "select_to'
        'p": 0.2, "start_date": "2026-09-01", "timezone": "Europe/Oslo", "variants": [{"has_m'
        'odel": true, "hash_up_to": "7333333333333332", "share": 0.45, "variant": "A"}, {"has'
        '_model": true, "hash_up_to": "e666666666666665", "share": 0.45, "variant": "B"}, {"h'
        'as_model": false, "hash_up_to": "ffffffffffffffff", "share": 0.1, "variant": "contro'
        'l"}], "watermark_query": "select max(day) from feed"}'
    )
