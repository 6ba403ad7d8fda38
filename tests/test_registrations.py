"""What an experiment registers, and what counts as a change of it."""

import hashlib
import json
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from abatch import registrations
from abatch.errors import ConfigError

QUERY = "select customer_id as candidate_id, 1 as outcome from answers where day >= :from_date"
ASKED: dict[str, Any] = {
    "experiment": "card_offer",
    "hypothesis": "Ringer vi til Ærø, får vi svar.",
    "outcome": {"kind": "binary", "window_days": 14, "lag_days": 1, "expected_effect": 0.01},
    "split": {"A": 0.45, "B": 0.45, "control": 0.1},
    "modelled": ["A", "B"],
    "select_top": 0.2,
    "outcomes_query": QUERY,
    "watermark_query": "select max(day) from feed",
    "timezone": "Europe/Oslo",
}


def describe(**changes: object) -> dict[str, Any]:
    X = {**ASKED, **changes}
    return registrations.describe(
        X["experiment"],
        {
            "hypothesis": X["hypothesis"],
            "outcome": X["outcome"],
            "split": X["split"],
            "models": X["modelled"],
            "select_top": X["select_top"],
        },
        {"outcomes": X["outcomes_query"], "watermark": X["watermark_query"]},
        X["timezone"],
    )


def refused(**changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        registrations.check_registration(describe(), describe(**changes), "card_offer", "ml_config.yaml")
    return str(caught.value)


def test_describe_thresholds_by_hand() -> None:
    # .45 * 2**64 = 8301034833169298227.2; .9 * 2**64 = 16602069666338596454.4; the last part ends with 2**64 - 1
    assert describe()["variants"] == [
        {"variant": "A", "share": 0.45, "hash_up_to": "7333333333333332", "has_model": True},
        {"variant": "B", "share": 0.45, "hash_up_to": "e666666666666665", "has_model": True},
        {"variant": "control", "share": 0.1, "hash_up_to": "ffffffffffffffff", "has_model": False},
    ]


def test_check_registration_form_does_not_count() -> None:
    commented = "-- answers\nselect   customer_id as candidate_id, /* always */\n  1 as outcome\nfrom answers where day >= :from_date;\n"
    same = describe(outcomes_query=commented, hypothesis="  Ringer vi\n til Ærø, får vi svar. \n")
    registrations.check_registration(describe(), same, "card_offer", "ml_config.yaml")


def test_check_registration_says_what_changed() -> None:
    assert refused(hypothesis="Ringer vi til 日本, får vi svar.") == (
        "ml_config.yaml: experiment card_offer is registered, and its verdict depends on what has changed here."
        " Set it back, or ask the new question under a new experiment name.\n"
        "  hypothesis\n"
        '    registered "Ringer vi til Ærø, får vi svar."\n'
        '    now        "Ringer vi til 日本, får vi svar."'
    )


@pytest.mark.parametrize(
    ("change", "key", "now"),
    [
        ({"split": {"A": 0.5, "B": 0.4, "control": 0.1}}, "variants", '"share": 0.5'),
        ({"split": {"B": 0.45, "A": 0.45, "control": 0.1}}, "variants", '[{"variant": "B"'),
        ({"modelled": ["A"]}, "variants", '"hash_up_to": "e666666666666665", "has_model": false'),
        ({"select_top": 0.3}, "select_top", "0.3"),
        ({"outcome": {**ASKED["outcome"], "window_days": 15}}, "outcome", '"window_days": 15'),
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
    assert [line.strip() for line in refused(timezone="UTC", select_top=0.1).splitlines()[1::3]] == ["select_top", "timezone"]


def test_normalise_query_white_space_in_a_literal_counts() -> None:
    assert registrations.normalise_query("select 'a  b'") != registrations.normalise_query("select 'a b'")
    quoted = "select [it's  b] from t where c = ' ''  '"
    assert registrations.normalise_query(quoted) == quoted
    assert registrations.normalise_query("select 'a' -- 'x'\n ;") == registrations.normalise_query("select\n\t'a'")


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
        registrations.register(connection, "card_offer", describe(select_top=0.9), datetime(2026, 9, 2), "run2")
