"""Units are counted as a plain loop counts them.

Words follow the interval, burn-in and sample ratio.
"""

from collections import defaultdict
from dataclasses import astuple
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from scipy.stats import betabinom, binom

from abatch.database import tables, writing
from abatch.experiment import records, sample_ratio, scores, tallies, verdicts
from abatch.experiment.predictions import Span
from abatch.statistics import stats
from tests.conftest import REGISTERED, add_predictions, make_night, make_registration

NIGHT = date(2026, 9, 1)
METRICS = ["outcome", "complaint"]
NOTHING = tallies.Tally({}, {}, 0)


def make_exposures(
    rng: np.random.Generator, n: int, n_candidates: int, mixed: float = 0.1
) -> pd.DataFrame:
    """Predictions of candidates that come again; a few of them in another variant than before."""
    candidate = rng.integers(0, n_candidates, n)
    variant = np.array(["A", "B", "control"])[(candidate % 3 + (rng.random(n) < mixed)) % 3]
    frame = pd.DataFrame(
        {
            "candidate_id": candidate.astype(str),
            "variant": variant,
            "outcome": rng.gamma(0.3, 2.0, n).round(2),
        }
    )
    frame["complaint"] = (rng.random(n) < 0.2).astype(float)
    frame["run_date"] = np.sort(pd.Timestamp(NIGHT) + pd.to_timedelta(rng.integers(0, 9, n), "D"))
    return frame.drop_duplicates(["candidate_id", "run_date"])


def count_by_hand(frame: pd.DataFrame, exposure: str) -> tallies.Tally:
    """The tally by a loop over rows in the order of nights."""
    found: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    for row in frame.sort_values("run_date", kind="stable").itertuples():
        n_and_sums = found[row.candidate_id].setdefault(row.variant, [0, 0.0, 0.0])
        if exposure == "all" or not n_and_sums[0]:
            n_and_sums[0] += 1
            n_and_sums[1] += row.outcome
            n_and_sums[2] += row.complaint
    moments: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * 13)
    n_distinct: dict[str, int] = defaultdict(int)
    for variants in found.values():
        for variant, (n, *sums) in variants.items():
            n_distinct[variant] += 1
            for metric, y in zip(METRICS, sums, strict=True):
                if len(variants) == 1:
                    fourth = (n ** (4 - j) * y**j for j in range(5))
                    added = (1, y != 0, n, y, n * n, n * y, y * y, 0, *fourth)
                    moments[metric, variant] = [
                        a + b for a, b in zip(moments[metric, variant], added, strict=True)
                    ]
    mixed = [variants for variants in found.values() if len(variants) > 1]
    left_out = [(n, y) for variants in mixed for n, y, _ in variants.values()]
    return tallies.Tally(
        {key: stats.Moments(*values) for key, values in moments.items()},
        dict(n_distinct),
        len(mixed),
        mixed=stats.Moments(
            n_units=len(left_out),
            sum_n=sum(n for n, _ in left_out),
            sum_y=sum(y for _, y in left_out),
        ),
    )


def assert_equal(found: tallies.Tally, expected: tallies.Tally) -> None:
    assert (found.n_distinct, found.n_mixed) == (expected.n_distinct, expected.n_mixed)
    for name in ("n_units", "sum_n", "sum_y"):
        assert getattr(found.mixed, name) == pytest.approx(getattr(expected.mixed, name))
    assert found.moments.keys() == expected.moments.keys()
    for key, moments in expected.moments.items():
        assert astuple(found.moments[key].move(0.0)) == pytest.approx(astuple(moments), rel=1e-9)


def empty() -> pd.DataFrame:
    return pd.DataFrame(columns=["candidate_id", "variant", "n_exposures", *METRICS])


@pytest.mark.parametrize("exposure", ["first", "all"])
def test_count_equals_a_loop(rng: np.random.Generator, exposure: str) -> None:
    frame = make_exposures(rng, 900, 300)
    expected = count_by_hand(frame, exposure)
    assert expected.n_mixed > 10
    shuffled = frame.sample(
        frac=1, random_state=0
    )  # the order of rows does not matter, that of nights does
    assert_equal(tallies.count(tallies.add_exposures(empty(), shuffled, exposure)), expected)


@pytest.mark.parametrize("exposure", ["first", "all"])
def test_tally_night_by_night_equals_all_at_once(rng: np.random.Generator, exposure: str) -> None:
    frame = make_exposures(rng, 900, 300)
    known, tally = empty(), NOTHING
    for _, night in frame.groupby("run_date"):
        touched = known["candidate_id"].isin(night["candidate_id"])
        before = known[touched]
        after = tallies.add_exposures(before, night, exposure)
        tally = tally - tallies.count(before) + tallies.count(after)
        known = pd.concat([known[~touched], after]) if len(known) else after
    assert_equal(tally, count_by_hand(frame, exposure))
    assert tallies.unpack(tallies.pack(tally)) == tally


def test_unpack_nothing() -> None:
    assert tallies.unpack({}) == NOTHING


def test_write_units_and_read_them_again(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And remove them, by statements that each delete a batch at most."""
    monkeypatch.setattr(writing, "BATCH_ROWS", 1)
    deleted: list[int] = []

    @sa.event.listens_for(engine, "after_cursor_execute")
    def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.lower().startswith("delete"):
            deleted.append(cursor.rowcount)

    nights = (NIGHT, NIGHT + timedelta(days=1))
    both = Span("e", NIGHT - timedelta(days=1), nights[1])
    common = {
        "experiment": "e",
        "variant": "A",
        "assignment_probability": 1.0,
        "rank_in_variant": 1,
        "selected": 0,
        "predicted_at": datetime(2026, 9, 1),
    }
    predicted = [
        ("1", nights[0]),
        ("2", nights[0]),
        ("2", nights[1]),
        ("3", nights[1] + timedelta(days=1)),
    ]
    units = pd.DataFrame(
        [("1", "A", 1, 2.5, 0.0), ("2", "A", 2, 0.0, 1.0)], columns=empty().columns
    )
    units = pd.concat([units[:1], units[1:]])  # whose texts are in two chunks of Arrow then
    rows = [
        {**common, "candidate_id": name, "run_date": day, "run_id": f"r{day}"}
        for name, day in predicted
    ]
    add_predictions(engine, *rows)
    with engine.begin() as connection:
        for _ in range(2):
            tallies.remove_units(connection, METRICS, both)
            tallies.write_units(connection, "e", units)
        found = tallies.read_units(connection, METRICS, both).sort_values(
            "candidate_id", ignore_index=True
        )
        pd.testing.assert_frame_equal(found, units, check_dtype=False)
        second = tallies.read_units(connection, METRICS, both._replace(after=nights[0]))
        assert second["candidate_id"].tolist() == ["2"]
        other = both._replace(experiment="other")
        assert tallies.read_units(connection, METRICS, other).empty
        nothing = tallies.read_units(connection, METRICS, both._replace(after=both.last))
        assert nothing.columns.tolist() == empty().columns.tolist()
        assert nothing.empty
        names = ["value", "metric"]  # as guardrails may be called
        odd = units.set_axis([*tallies.UNIT_COLUMNS, *names], axis="columns")
        tallies.remove_units(connection, METRICS, both)
        tallies.write_units(connection, "e", odd)
        again = tallies.read_units(connection, names, both)
        pd.testing.assert_frame_equal(again, odd, check_dtype=False)
    assert deleted == [1] * 8  # two candidates of two metrics, twice


def make_tally(metric: str = "outcome", **counts: tuple[int, int]) -> tallies.Tally:
    """Binary outcomes of the first exposure: events and units by variant."""
    moments = {
        (metric, variant): stats.compute_moments(np.ones(n), (np.arange(n) < events).astype(float))
        for variant, (events, n) in counts.items()
    }
    return tallies.Tally(moments, {variant: n for variant, (_, n) in counts.items()}, 0)


def by_comparison(rows: list[dict[str, Any]], metric: str = "outcome") -> dict[str, dict[str, Any]]:
    return {row["comparison"]: row for row in rows if row["metric"] == metric}


def test_judge_pools_the_models() -> None:
    rows = by_comparison(
        verdicts.judge(
            make_registration(),
            make_tally(A=(400, 10_000), B=(560, 10_000), control=(40, 2_000)),
            False,
        )
    )
    pooled = rows["models vs control"]
    assert (
        pooled["n_treatment"],
        pooled["n_control"],
        pooled["sum_treatment"],
        pooled["sum_control"],
    ) == (20_000, 2_000, 960, 40)
    assert pooled["estimate"] == pytest.approx(960 / 20_000 - 40 / 2_000)
    p1, p0 = 961 / 20_002, 41 / 2_002  # (s + 1) / (n + 2)
    assert pooled["se"] == pytest.approx((p1 * (1 - p1) / 20_000 + p0 * (1 - p0) / 2_000) ** 0.5)
    assert (pooled["word"], rows["B vs A"]["word"]) == ("better", "better")
    assert pooled["lift"] == pytest.approx(0.048 / 0.02 - 1)
    assert pooled["lift_lower"] < pooled["lift"] < pooled["lift_upper"]


def test_judge_shares_alpha_between_verdicts() -> None:
    tally = make_tally(A=(400, 10_000), B=(560, 10_000), control=(40, 2_000))
    both = by_comparison(verdicts.judge(make_registration(), tally, False))["B vs A"]
    one = by_comparison(
        verdicts.judge(make_registration(comparisons=REGISTERED["comparisons"][1:]), tally, False)
    )["B vs A"]
    # x* of statistics.md's table: 9.752938 at .025, 8.211968 at .05; SE_plan by hand from quantiles
    # of the normal distribution.
    for row, x_star, quantiles in (
        (both, 9.752938, 2.241403 + 0.841621),
        (one, 8.211968, 1.959964 + 0.841621),
    ):
        assert row["information"] == pytest.approx(
            x_star * (0.01 / quantiles / row["se"]) ** 2, rel=1e-5
        )
    assert both["upper"] - both["lower"] > one["upper"] - one["lower"]


def test_judge_where_less_is_good() -> None:
    tally = make_tally(A=(400, 10_000), B=(560, 10_000), control=(40, 2_000))
    registered = make_registration(outcome={**REGISTERED["outcome"], "expected_effect": -0.01})
    assert {row["word"] for row in verdicts.judge(registered, tally, False)} == {"worse"}


@pytest.mark.parametrize("control", [(10, 99), (9, 5_000), (4_991, 5_000)])
def test_judge_too_early(control: tuple[int, int]) -> None:
    rows = by_comparison(
        verdicts.judge(
            make_registration(),
            make_tally(A=(400, 10_000), B=(560, 10_000), control=control),
            False,
        )
    )
    early = rows["models vs control"]
    assert early["word"] == "too early"
    assert early["estimate"] is not None
    assert [
        early[name]
        for name in ("information", "lower", "upper", "pvalue", "lift", "lift_lower", "lift_upper")
    ] == [None] * 7
    assert rows["B vs A"]["word"] == "better"  # it does not need the control


def test_judge_waits_while_a_few_amounts_carry_the_mean() -> None:
    """One in 200 brings all: a kurtosis of 1 / (p q) - 3, ten times of which are 1,981.

    What the training rows had counts too, if it is more.
    """
    outcome = {**REGISTERED["outcome"], "kind": "numeric", "expected_effect": 20}
    plan = REGISTERED["plan"]
    for n_control, registered, n_burn_in, word in (
        (1_800, None, 1_981, "too early"),
        (2_000, None, 1_981, "not yet known"),
        (2_000, 250.0, 2_500, "too early"),
    ):
        moments = {
            ("outcome", variant): stats.compute_moments(
                np.ones(n), np.where(np.arange(n) % 200, 50.0, -10_000.0)
            )
            for variant, n in (("A", 18_000), ("B", 18_000), ("control", n_control))
        }
        registration = make_registration(outcome=outcome, plan={**plan, "kurtosis": registered})
        rows = by_comparison(verdicts.judge(registration, tallies.Tally(moments, {}, 0), False))
        row = rows["models vs control"]
        assert (row["n_burn_in"], row["word"]) == (n_burn_in, word)


def test_judge_nothing_yet() -> None:
    for row in verdicts.judge(make_registration(), NOTHING, False):
        assert (row["word"], row["n_treatment"], row["estimate"], row["se"]) == (
            "too early",
            0,
            None,
            None,
        )


def test_judge_invalid_blocks_every_word() -> None:
    rows = verdicts.judge(
        make_registration(), make_tally(A=(400, 10_000), B=(560, 10_000), control=(40, 2_000)), True
    )
    assert {row["word"] for row in rows} == {"invalid"}


@pytest.mark.parametrize(
    ("direction", "events", "word"),
    [
        ("decrease", 500, "kept"),
        ("decrease", 900, "broken"),
        ("increase", 900, "kept"),
        ("increase", 100, "broken"),
        ("decrease", 560, "not yet known"),
    ],
)
def test_judge_guardrail(direction: str, events: int, word: str) -> None:
    guardrail = {
        "kind": "binary",
        "direction": direction,
        "margin": 0.01,
        "cap": None,
        "query": "",
        "watermark": None,
    }
    registered = make_registration(guardrails={"complaint": guardrail})
    tally = make_tally("complaint", A=(500, 10_000), B=(events, 10_000), control=(500, 10_000))
    row = by_comparison(verdicts.judge(registered, tally, False), "complaint")["B vs A"]
    assert row["word"] == word
    assert row["information"] == pytest.approx(
        8.211968 * (0.01 / (1.959964 + 0.841621) / row["se"]) ** 2, rel=1e-5
    )  # no correction for two


def test_check_ratios_says_who_is_over() -> None:
    even_sizes = {"A": 4_500, "B": 4_500, "control": 1_000}
    arrivals = sample_ratio.Arrivals(even_sizes, even_sizes | {"B": 4_000})
    rows = sample_ratio.check_ratios(make_registration(), arrivals, {})
    even = [row for row in rows if row["stage"] == "assigned"]
    assert [(row["variant"], row["n"], row["expected"]) for row in even] == [
        ("A", 4_500, 4_500),
        ("B", 4_500, 4_500),
        ("control", 1_000, 1_000),
    ]
    assert {(row["pvalue"], row["pvalue_single"]) for row in even} == {(1.0, 1.0)}
    short = {row["variant"]: row for row in rows if row["stage"] == "mature"}
    assert short["B"]["expected"] == pytest.approx(4_275)
    assert short["B"]["pvalue"] < 1e-4
    nothing = sample_ratio.check_ratios(make_registration(), sample_ratio.Arrivals({}, {}), {})[0]
    assert (nothing["pvalue"], nothing["pvalue_single"]) == (1, None)


def test_check_ratios_of_recorded_variants_looks_at_each_night() -> None:
    """Thirty and seventy in a hundred, then the other way round: even on the whole."""
    names = {"A": 0.5, "B": 0.5}
    registration = make_registration(
        variants=[
            {"variant": name, "share": share, "hash_up_to": "f" * 16, "has_model": True}
            for name, share in names.items()
        ]
    )
    nights = [(NIGHT + timedelta(days=k), 30 if k % 2 else 70) for k in range(6)]
    columns = ["variant", "first_date", "n", "n_before", "n_units"]
    rows = [("A", day, 1, np.nan, n) for day, n in nights]
    rows += [("B", day, 1, np.nan, 100 - n) for day, n in nights]
    rows += [("B", nights[0][0], 1, 2, 999)]  # who came before is no news
    evidence = sample_ratio.find_evidence(registration, pd.DataFrame(rows, columns=columns))
    # Beta-binomial against binomial, prior 50 and 50 for each night, by scipy.
    by_night = betabinom.logpmf(70, 100, 50, 50) - binom.logpmf(70, 100, 0.5)
    assert evidence == pytest.approx(6 * by_night)
    sizes = {"A": 300, "B": 300}
    arrivals = sample_ratio.Arrivals(sizes, sizes, None, evidence)
    ratios = {row["stage"]: row for row in sample_ratio.check_ratios(registration, arrivals, {})}
    on_the_whole = betabinom.pmf(300, 600, 500, 500) / binom.pmf(300, 600, 0.5)
    mean = (on_the_whole + np.exp(evidence)) / 2
    assert ratios["assigned"]["pvalue"] == pytest.approx(1 / mean)
    assert 1 / mean < 0.001
    assert ratios["assigned"]["pvalue_single"] == 1
    assert ratios["mature"]["pvalue"] == 1
    cause = sample_ratio.describe([*ratios.values()])
    assert cause == (
        "in all the variants have as many candidates as chance allows, but their shares change from"
        " night to night (assigned)"
    )
    assert sample_ratio.find_evidence(registration, pd.DataFrame([], columns=columns)) == 0


def test_check_ratios_of_exposures() -> None:
    """Of three hundred each A and control come four times, and B once: its 900 are missing."""
    exposures = {
        name: stats.compute_moments(np.ones(300), np.full(300, n))
        for name, n in {"A": 4, "B": 1, "control": 4}.items()
    }
    sizes = dict.fromkeys(exposures, 300)
    arrivals = sample_ratio.Arrivals(sizes, sizes, exposures)
    rows = sample_ratio.check_ratios(make_registration(), arrivals, {})
    stage = {row["variant"]: row for row in rows if row["stage"] == "exposures"}
    assert [(row["n"], row["expected"]) for row in stage.values()] == [
        (1_200, 900),
        (300, 900),
        (1_200, 900),
    ]
    assert {row["pvalue"] < 1e-9 for row in stage.values()} == {True}
    lacking = sample_ratio.describe([*stage.values()])
    assert lacking == "B lacks 600 predictions and A has 300 too many (exposures)"


def write_looks(
    connection: sa.Connection, counted: list[tallies.Tally], nights: list[date] | None = None
) -> list[list[dict[str, Any]]]:
    written = []
    for i, tally in enumerate(counted):
        night = nights[i] if nights else NIGHT + timedelta(days=i)
        row: dict[str, Any] = {"watermark": None, "mature_date": None}
        row |= dict.fromkeys(("n_predicted", "n_mature", "n_units", "n_mixed"), 0)
        smallest = verdicts.find_smallest(connection, "e", night)
        arrivals = sample_ratio.Arrivals(tally.n_distinct, tally.n_distinct)
        look = verdicts.make_look(row, make_registration(), tally, arrivals, smallest)
        verdicts.write_look(connection, make_night(f"r{i}", night, "e"), look)
        written.append(look.verdicts)
    return written


def test_write_look_keeps_the_smallest_pvalues(engine: sa.Engine) -> None:
    strong = make_tally(A=(400, 9_000), B=(560, 9_000), control=(40, 2_000))
    weak = make_tally(A=(480, 9_000), B=(480, 9_000), control=(60, 2_000))
    with engine.begin() as connection:
        first, second = (by_comparison(rows) for rows in write_looks(connection, [strong, weak]))
        assert (
            first["B vs A"]["pvalue"]
            == first["B vs A"]["pvalue_min"]
            == second["B vs A"]["pvalue_min"]
            < 0.001
        )
        assert second["B vs A"]["pvalue"] > 0.5
        assert second["B vs A"]["word"] == "not yet known"
        assert verdicts.find_words(connection, "e", NIGHT + timedelta(days=1)) == {
            ("models vs control", "outcome"): "better",
            ("B vs A", "outcome"): "better",
        }
        assert verdicts.find_words(connection, "e", NIGHT) == {}
        view = {
            row.comparison: row for row in connection.execute(sa.select(tables.current_verdicts))
        }
        assert view["B vs A"].first_decided_date == NIGHT
        assert view["B vs A"].look_date == NIGHT + timedelta(days=1)
        assert view["B vs A"].word == "not yet known"
        early: dict[str, Any] = {
            "run_id": "r1",
            "run_number": 1,
            "job": "score",
            "experiment": "e",
            "status": "early",
        }
        early |= {"run_date": NIGHT, "started_at": datetime(2026, 8, 1), "host": "here"}
        early |= {"code_version": "0", "config_hash": "0"}
        connection.execute(tables.runs.insert().values(early))
        query = sa.select(tables.current_verdicts).filter_by(comparison="B vs A")
        assert connection.execute(query).one().look_date == NIGHT
        early_too = tables.runs.update().values(run_id="r0")
        connection.execute(early_too)
        assert connection.execute(query).one().first_decided_date is None


def test_write_look_again_replaces_it_but_not_its_alarm(engine: sa.Engine) -> None:
    tally = make_tally(A=(400, 9_000), B=(560, 9_000), control=(40, 2_000))
    with engine.begin() as connection:
        write_looks(
            connection,
            [make_tally(A=(400, 9_000), B=(560, 8_000), control=(40, 2_000)), tally],
            [NIGHT, NIGHT],
        )
        for table in (tables.looks, tables.verdicts, tables.sample_ratios):
            assert set(connection.scalars(sa.select(table.c.run_id))) == {"r1"}
        assert set(connection.scalars(sa.select(tables.verdicts.c.word))) == {"invalid"}


def test_write_look_stays_invalid(engine: sa.Engine) -> None:
    broken = make_tally(A=(400, 9_000), B=(560, 8_000), control=(40, 2_000))
    mended = make_tally(A=(400, 9_000), B=(560, 9_000), control=(40, 2_000))
    with engine.begin() as connection:
        first, second = write_looks(connection, [broken, mended])
        assert {row["word"] for row in (*first, *second)} == {
            "invalid"
        }  # the test's guarantee is for all looks together
        newest = connection.execute(
            sa.select(tables.sample_ratios).where(tables.sample_ratios.c.run_date > NIGHT)
        ).all()
        assert {row.pvalue for row in newest} == {1.0}
        assert {row.pvalue_min < 0.01 for row in newest} == {True}


def test_describe_news_tells_only_what_is_new() -> None:
    # Of the stage that is off: .45 of 9,500 is 4,275. In the other, sizes are such as chance gives.
    arrivals = sample_ratio.Arrivals(
        {"A": 45_300, "B": 44_700, "control": 10_000}, {"A": 4_500, "B": 4_000, "control": 1_000}
    )
    ratios = sample_ratio.check_ratios(make_registration(), arrivals, {})
    rows = [
        {"comparison": "B vs A", "metric": "outcome", "word": word}
        for word in (
            "better",
            "invalid",
            "not yet known",
            "too early",
            "no difference larger than d",
        )
    ]
    assert verdicts.describe_news(
        verdicts.Look({}, ratios, rows), {("B vs A", "outcome"): "better"}
    ) == [
        "B vs A: invalid (before: better); B lacks 275 candidates and A has 225 too many (mature);"
        " see the report",
        "B vs A: no difference larger than d (before: better); see the report",
    ]
    guardrail = {"comparison": "B vs A", "metric": "complaint", "word": "broken"}
    assert verdicts.describe_news(verdicts.Look({}, [], [guardrail]), {}) == [
        "B vs A, guardrail complaint: broken (before: too early); see the report"
    ]
    assert verdicts.describe([guardrail]) == "B vs A, guardrail complaint: broken"


def test_read_records(engine: sa.Engine) -> None:
    tally = make_tally(A=(400, 9_000), B=(560, 9_000), control=(40, 2_000))
    with engine.begin() as connection:
        for name in ("old", "e"):
            row = {
                "experiment": name,
                "hash": "0",
                "content": make_registration().model_dump_json(),
                "run_id": "r",
                "registered_at": datetime(2026, 9, 1),
            }
            connection.execute(tables.registrations.insert().values(row))
        write_looks(connection, [tally])
        for because in ("too soon", "B calls better"):
            records.conclude(
                connection,
                "e",
                because=because,
                finding="B vs A: better",
                concluded_by="me",
                concluded_at=datetime(2026, 9, 2),
            )
        known = records.read_records(connection)
    first, second = known.values()
    assert first.conclusion is not None
    name, other = known
    assert (
        name,
        first.conclusion.because,
        other,
        second.findings,
        second.conclusion,
    ) == (
        "e",
        "B calls better",
        "old",
        [],
        None,
    )
    assert first.findings[0].startswith("B vs A: better, +0.01778 (+0.00")
    assert "first decided on 2026-09-01" in first.findings[0]


def test_remove_stale_deletes_in_batches_what_nobody_reads(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "BATCH_ROWS", 2)
    batches = []

    def read(find: Any, *args: Any) -> Any:
        with engine.begin() as connection:
            return find(connection, *args)

    def write(work: Any, *args: Any) -> None:
        batches.append(args)
        read(work, *args)

    def count_left() -> dict[str, int]:
        n = sa.select(tables.units.c.experiment, sa.func.count()).group_by("experiment")
        return dict(read(lambda connection: [*map(tuple, connection.execute(n))]))

    rows = [(str(i), "A", 1, 0.0, 1.0) for i in range(5)]
    units = pd.DataFrame(rows, columns=empty().columns)
    for name in ("e", "other"):
        read(tallies.write_units, name, units)
    read(scores.save, make_night("r", NIGHT, "e"), {scores.Key(scores.ALL, ""): {}}, NIGHT)
    night: Any = SimpleNamespace(
        experiment=SimpleNamespace(name="e"), dry_run=False, read=read, write=write
    )
    tallies.remove_stale(night)
    assert batches == []  # what is closed is kept

    read(scores.drop_sums, "e", NIGHT)
    assert count_left() == {"e": 10, "other": 10}  # in no transaction that others wait for
    add_predictions(
        engine,
        {"experiment": "e", "variant": "A", "assignment_probability": 1.0, "rank_in_variant": 1}
        | {"selected": 0, "predicted_at": datetime(2026, 9, 1), "candidate_id": "3"}
        | {"run_date": NIGHT, "run_id": "r1"},
    )
    span = Span("e", date.min, NIGHT)
    assert read(tallies.read_units, METRICS, span).empty
    groups = read(lambda c: sample_ratio.find_groups(c, span, are_closed=False))
    assert groups["n_before"].isna().all()
    night.dry_run = True
    tallies.remove_stale(night)
    assert batches == []
    night.dry_run = False
    tallies.remove_stale(night)
    assert [*map(len, batches)] == [3] * 6  # two metrics of five candidates, two at a time
    assert count_left() == {"other": 10}
