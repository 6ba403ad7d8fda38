"""What an experiment registers, and what counts as a change of it."""

import hashlib
import json
from datetime import datetime
from math import ceil
from typing import Any

import pytest
import sqlalchemy as sa

from abatch import job
from abatch.config import Experiment
from abatch.errors import ConfigError
from abatch.experiment import registrations

QUERY = "select customer_id as candidate_id, 1 as outcome from answers where day >= :from_date"
ASKED: dict[str, Any] = {
    "experiment": "card_offer",
    "hypothesis": "Ringer vi til Ærø, får vi svar.",
    "outcome": {
        "kind": "binary",
        "window_days": 14,
        "lag_days": 1,
        "grace_days": 7,
        "expected_effect": 0.01,
        "baseline": 0.02,
        "baseline_sd": None,
        "cap": None,
    },
    "exposure": "first",
    "champion": None,
    "verdicts": None,
    "guardrails": {
        "calls": {
            "query": "sql/calls.sql",
            "kind": "binary",
            "direction": "decrease",
            "margin": 0.02,
            "cap": None,
        }
    },
    "guardrail_query": "select customer_id as candidate_id, 1 as outcome from complaints",
    "split": {"A": 0.45, "B": 0.45, "control": 0.1},
    "modelled": ["A", "B"],
    "select_top": 0.2,
    "outcomes_query": QUERY,
    "watermark_query": "select max(day) from feed",
    "timezone": "Europe/Oslo",
}


def describe(**changes: object) -> dict[str, Any]:
    X = {**ASKED, **changes}
    same = (
        "hypothesis",
        "outcome",
        "split",
        "select_top",
        "exposure",
        "champion",
        "verdicts",
        "guardrails",
    )
    settings = {**{name: X[name] for name in same}, "models": X["modelled"]}
    sql = {
        "outcomes": X["outcomes_query"],
        "watermark": X["watermark_query"],
        "calls": X["guardrail_query"],
    }
    return registrations.describe(X["experiment"], settings, sql, X["timezone"])


def change_outcome(**changes: object) -> dict[str, Any]:
    return {"outcome": {**ASKED["outcome"], **changes}}


def change_guardrail(**changes: object) -> dict[str, Any]:
    return {"guardrails": {"calls": {**ASKED["guardrails"]["calls"], **changes}}}


def refused(**changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        registrations.check_registration(
            describe(), describe(**changes), "card_offer", "ml_config.yaml"
        )
    return str(caught.value)


def test_describe_thresholds_by_hand() -> None:
    # .45 * 2**64 = 8301034833169298227.2; .9 * 2**64 = 16602069666338596454.4; the last part ends
    # with 2**64 - 1
    assert describe()["variants"] == [
        {"variant": "A", "share": 0.45, "hash_up_to": "7333333333333332", "has_model": True},
        {"variant": "B", "share": 0.45, "hash_up_to": "e666666666666665", "has_model": True},
        {"variant": "control", "share": 0.1, "hash_up_to": "ffffffffffffffff", "has_model": False},
    ]


def test_describe_holds_the_rules() -> None:
    """The numbers are those that docs of the method name: alpha, power, burn-in, the prior and
    alarm of the sample ratio.
    """
    found = describe()
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
        {"weight": 1000, "alpha": 0.01},
    )
    assert found["burn_in"] == {"units": 100, "cases": 10, "nonzero": 100}
    query = ASKED["guardrail_query"]
    assert found["guardrails"] == {
        "calls": {
            "kind": "binary",
            "direction": "decrease",
            "margin": 0.02,
            "cap": None,
            "query": query,
        }
    }
    assert describe(**change_outcome(expected_effect=-0.01))["direction"] == "decrease"


def compare(
    models: str, split: str, champion: str | None = None, verdicts: list[str] | None = None
) -> list[tuple[str, str, str]]:
    settings = {
        "split": dict.fromkeys(split.split(), 0.1),
        "models": models.split(),
        "champion": champion,
        "verdicts": verdicts,
    }
    found = registrations.list_comparisons(settings)
    return [
        (row["comparison"], " ".join(row["treatment"]), " ".join(row["control"])) for row in found
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


NO_MODEL: dict[str, Any] = {}
HALVES = {"split": {"A": 0.5, "control": 0.5}, "modelled": ["A"]}


def test_make_plan_textbook_sample() -> None:
    """5 % against 6 % at 50/50: (.05 * .95 + .06 * .94) / .5 * (2.8015852 / .01)**2 = 16,310, and
    1.69 times that for daily looks.
    """
    plan = registrations.make_plan(
        describe(**HALVES, **change_outcome(baseline=0.05)), NO_MODEL, 1000
    )
    assert plan["samples"] == {
        "models vs control": {"n_fixed": 16_310, "n_most": 27_564, "n_median": 16_310}
    }
    assert (plan["mean"], plan["source"], plan["n_candidates"]) == (0.05, "the config", 1000)
    assert plan["sd"] == pytest.approx(0.217945, abs=1e-6)  # the root of .05 * .95
    assert (plan["days_most"], plan["days_median"]) == (
        28 + 15,
        17 + 15,
    )  # the nights, then a window of 14 days and a lag of 1


def test_make_plan_two_verdicts_by_hand() -> None:
    """Shares .45, .45, .1, 2 % against 3 %: pooled .0291 / .9 + .0196 / .1, B against A .0291 / .45
    + .0196 / .45.
    """
    plan = registrations.make_plan(describe(), NO_MODEL, 1000)
    square = 2.801585218 / 0.01
    fixed = {
        "models vs control": (0.0291 / 0.9 + 0.196) * square**2,
        "B vs A": 0.0487 / 0.45 * square**2,
    }
    assert {name: sample["n_fixed"] for name, sample in plan["samples"].items()} == {
        name: ceil(n) for name, n in fixed.items()
    }
    assert plan["samples"]["models vs control"]["n_most"] == ceil(1.95 * fixed["models vs control"])
    assert plan["samples"]["B vs A"]["n_median"] == ceil(1.19 * fixed["B vs A"])
    assert (
        plan["days_most"] == ceil(1.95 * fixed["models vs control"] / 1000) + 15
    )  # the slower of the two


def test_make_plan_numeric_by_hand() -> None:
    """An sd of 100 and an effect of 10 at 50/50: 4 * (2.8015852 * 100 / 10)**2 = 3,139.55."""
    content = describe(
        **HALVES,
        **change_outcome(kind="numeric", expected_effect=-10.0, baseline=None, baseline_sd=100.0),
    )
    plan = registrations.make_plan(content, {"outcome_mean": 42.0, "outcome_sd": 7.0}, 100)
    assert plan["samples"]["models vs control"]["n_fixed"] == 3140
    assert (plan["mean"], plan["sd"], plan["source"]) == (42.0, 100.0, "the config")
    known = {"outcome_mean": 42.0, "outcome_sd": 100.0}
    plan = registrations.make_plan({**content, "baseline": 40.0, "baseline_sd": None}, known, 100)
    assert plan["samples"]["models vs control"]["n_fixed"] == 3140
    assert (plan["mean"], plan["sd"], plan["source"]) == (40.0, 100.0, "the training rows")


def test_make_plan_training_rows_stand_in() -> None:
    content = describe(**HALVES, **change_outcome(baseline=None))
    plan = registrations.make_plan(content, {"outcome_mean": 0.05, "outcome_sd": 0.22}, 1000)
    assert (plan["samples"]["models vs control"]["n_fixed"], plan["source"]) == (
        16_310,
        "the training rows",
    )


@pytest.mark.parametrize("kind", ["binary", "numeric"])
def test_make_plan_of_nothing_known_is_none(kind: str) -> None:
    content = describe(**HALVES, **change_outcome(kind=kind, baseline=None))
    plan = registrations.make_plan(content, NO_MODEL, 1000)
    assert (plan["mean"], plan["sd"], plan["samples"], plan["days_most"], plan["days_median"]) == (
        None,
        None,
        {},
        None,
        None,
    )
    key = {"binary": "outcome.baseline", "numeric": "outcome.baseline_sd"}[kind]
    text = " ".join(registrations.describe_plan("card_offer", {**content, "plan": plan}).split())
    assert text.endswith(
        f"sample cannot be told: the mean outcome is unknown; set {key} in the config under a new"
        " experiment name"
    )


def test_make_plan_is_never_less_than_the_burn_in() -> None:
    """Ten outcomes at 1 in 1,000 take 10,000 candidates, of which the smaller variant gets one in
    twenty.
    """
    content = describe(
        split={"A": 0.95, "control": 0.05},
        modelled=["A"],
        **change_outcome(baseline=0.001, expected_effect=0.005),
    )
    sample = registrations.make_plan(content, NO_MODEL, 1000)["samples"]["models vs control"]
    assert set(sample.values()) == {200_000}


def test_make_plan_nothing_compared() -> None:
    content = describe(split={"A": 1.0}, modelled=["A"])
    plan = registrations.make_plan(content, NO_MODEL, 1000)
    assert (plan["samples"], plan["days_most"]) == ({}, None)
    text = registrations.describe_plan("card_offer", {**content, "plan": plan})
    assert (
        "verdicts   none: there is nothing to compare" in text
        and "sample" not in text
        and "how sure" not in text
    )


def test_describe_plan_words_and_width() -> None:
    content = describe(
        **HALVES,
        **change_outcome(baseline=0.05),
        hypothesis="Calling those who rank highest " + "helps " * 20,
    )
    text = registrations.describe_plan(
        "card_offer", {**content, "plan": registrations.make_plan(content, NO_MODEL, 1000)}
    )
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
    content = describe(**HALVES, **change, exposure="all")
    plan = registrations.make_plan(content, {"outcome_mean": 42.0, "outcome_sd": 7.0}, 100)
    words = " ".join(registrations.describe_plan("card_offer", {**content, "plan": plan}).split())
    assert (
        "expected -10 in the mean outcome per prediction; decrease is good; planned with a standard"
        " deviation of 100 (the config)" in words
    )
    assert "counted all mature predictions of each candidate" in words and "42" not in words


def test_check_registration_form_does_not_count() -> None:
    commented = (
        "-- answers\nselect   customer_id as candidate_id, /* always */\n  1 as outcome\nfrom"
        " answers where day >= :from_date;\n"
    )
    same = describe(outcomes_query=commented, hypothesis="  Ringer vi\n til Ærø, får vi svar. \n")
    registrations.check_registration(describe(), same, "card_offer", "ml_config.yaml")


def test_check_registration_says_what_changed() -> None:
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
            {"guardrail_query": "select 1 as outcome"},
            "guardrails",
            '"query": "select 1 as outcome"',
        ),
        ({"outcomes_query": QUERY.replace(">=", ">")}, "outcomes_query", "day > :from_date"),
        ({"watermark_query": "select min(day) from feed"}, "watermark_query", "min(day)"),
        ({"timezone": "UTC"}, "timezone", '"UTC"'),
        ({"experiment": "card_offer_2"}, "salt", '"card_offer_2"'),
    ],
)
def test_check_registration_each_change(change: dict[str, Any], key: str, now: str) -> None:
    lines = refused(**change).splitlines()
    assert lines[1] == f"  {key}" and len(lines) == 4
    assert now not in lines[2] and now in lines[3]


def test_check_registration_lists_all_changes() -> None:
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
            {"modelled": ["A"]},
            ('"control": ["B", "control"]', '"hash_up_to": "e666666666666665", "has_model": false'),
        ),
    ],
)
def test_check_registration_change_of_variants(
    change: dict[str, Any], now: tuple[str, str]
) -> None:
    lines = refused(**change).splitlines()
    assert (lines[1], lines[4], len(lines)) == ("  comparisons", "  variants", 7)
    assert all(
        text in line and text not in before
        for text, before, line in zip(now, lines[2::3], lines[3::3], strict=True)
    )


def test_check_registration_sign_of_the_effect() -> None:
    assert [
        line.strip() for line in refused(**change_outcome(expected_effect=-0.01)).splitlines()[1::3]
    ] == ["direction", "outcome"]


def test_check_registration_what_it_does_not_depend_on() -> None:
    """How long corrections are waited for, where a guardrail's query lies, and a champion that is
    named for the first time.
    """
    moved = change_guardrail(query="sql/moved.sql")
    commented = {"guardrail_query": f"-- complaints\n{ASKED['guardrail_query']};"}
    for change in (
        change_outcome(grace_days=0),
        moved,
        commented,
        {"champion": "A"},
        {"verdicts": POOLED + PAIRS},
    ):
        registrations.check_registration(
            describe(), describe(**change), "card_offer", "ml_config.yaml"
        )


# What versions before the verdicts registered.
OLD_KEYS = (
    "hypothesis",
    "outcome",
    "salt",
    "variants",
    "select_top",
    "outcomes_query",
    "watermark_query",
    "timezone",
)


def test_check_registration_by_an_older_version() -> None:
    older = {key: describe()[key] for key in OLD_KEYS}
    registrations.check_registration(older, describe(), "card_offer", "ml_config.yaml")
    with pytest.raises(ConfigError, match="select_top"):
        registrations.check_registration(
            older, describe(select_top=0.3), "card_offer", "ml_config.yaml"
        )


def test_check_registration_by_an_older_version_in_a_run(
    experiment: Experiment, engine: sa.Engine
) -> None:
    """A run takes what is missing from the config, and keeps to what is there, such as the day of
    the start.
    """
    with engine.begin() as connection:
        asked, is_new = job.check_registration(experiment, connection)
        older = {
            **{key: asked[key] for key in OLD_KEYS},
            "assignment": "hash",
            "start_date": "2026-08-01",
        }
        registrations.register(connection, "card_offer", older, datetime(2026, 9, 1), "run1")
    assert is_new
    with engine.connect() as connection:
        found, is_new = job.check_registration(experiment, connection, "hash")
        assert (found, is_new) == (
            {**asked, "assignment": "hash", "start_date": "2026-08-01"},
            False,
        )
        with pytest.raises(ConfigError, match="assignment"):
            job.check_registration(experiment, connection, "recorded")


def test_normalise_query_white_space_in_a_literal_counts() -> None:
    assert registrations.normalise_query("select 'a  b'") != registrations.normalise_query(
        "select 'a b'"
    )
    quoted = "select [it's  b] from t where c = ' ''  '"
    assert registrations.normalise_query(quoted) == quoted
    assert registrations.normalise_query("select 'a' -- 'x'\n ;") == registrations.normalise_query(
        "select\n\t'a'"
    )


def test_register_round_trip(engine: sa.Engine) -> None:
    at = datetime(2026, 9, 1, 3, 0)
    with engine.begin() as connection:
        assert registrations.find_registration(connection, "card_offer") is None
        registrations.register(connection, "card_offer", describe(), at, "run1")
    with engine.connect() as connection:
        row = connection.execute(sa.select(registrations.registrations)).one()
        found = registrations.find_registration(connection, "card_offer")
    assert found == describe() == json.loads(row.content)
    assert row.hash == hashlib.sha256(row.content.encode("utf-8")).hexdigest()
    assert (row.registered_at, row.run_id) == (at, "run1")
    registrations.check_registration(found, describe(), "card_offer", "ml_config.yaml")


def test_register_is_for_good(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        registrations.register(connection, "card_offer", describe(), datetime(2026, 9, 1), "run1")
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        registrations.register(
            connection, "card_offer", describe(select_top=0.9), datetime(2026, 9, 2), "run2"
        )
