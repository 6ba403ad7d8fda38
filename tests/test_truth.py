"""What the scripts say against what is true.

Counts over raw rows of small tables, and what was planted in the simulated bank.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from scipy.stats import dirichlet_multinomial, multinomial

import predict
import score
import train
from abatch.config import Experiment, load_experiments
from abatch.database import migrations, tables, writing
from abatch.errors import AbatchError
from abatch.experiment import assignment, looks
from abatch.modelling import promotion, registry
from abatch.night import utc_now
from demo import bank_tables, simulate
from tests.conftest import FIRST_NIGHT, QUICK_MODELS, open_engine, write_config
from tests.test_real_data import write_experiment

DAY = timedelta(days=1)

# A small bank: 40 candidates a night out of 150, in variants that somebody else drew, and amounts
# that are corrected later.

START = date(2025, 3, 7)  # a Friday, so that the first week has three nights
N_NIGHTS = 18
N_PEOPLE, N_A_NIGHT, N_GAINS = 150, 40, 25
WINDOW, LAG, GRACE = (
    2,
    1,
    3,
)  # a night is mature on the fourth day after it, and closed on the seventh
CAP = 4.0
VARIANTS = ["A", "B", "control"]
SIDES = {"models vs control": (["A", "B"], ["control"]), "B vs A": (["B"], ["A"])}
NEWEST = (
    "row_number() over (partition by event order by loaded_at desc) as version from gains where"
    " loaded_at <= :as_of"
)
IN_WINDOW = "version = 1 and day >= :from_date and day < :to_date"
OUTCOME = {"binary": "case when amount > 0 then 1 else 0 end", "numeric": "amount"}
LOGISTIC = "sklearn.linear_model.LogisticRegression"


class Bank(NamedTuple):
    """Raw rows: people (id, night, x, variant), gains (event, id, day, amount, loaded_at).

    The newest gain of an event is right.
    """

    people: pd.DataFrame
    gains: pd.DataFrame


def at(day: date, hour: int = 5) -> datetime:
    return datetime.combine(day, time(hour))


def make_bank(seed: int, n_nights: int) -> Bank:
    """Repeated candidates, some of them in more than one variant.

    Gains that come late, are corrected, or are taken back.

    All is known six days after the gain, while both of its nights are open.
    """
    rng = np.random.default_rng(seed)
    home = rng.choice(VARIANTS, N_PEOPLE, p=[0.4, 0.4, 0.2])
    people, gains = [], []
    for k in range(-2, n_nights):
        night = START + k * DAY
        for i in rng.choice(N_PEOPLE, N_A_NIGHT, replace=False):
            variant = VARIANTS[k % 3] if i % 17 == 0 else home[i]
            people.append((int(i), night, float(rng.normal()), str(variant)))
        for j, i in enumerate(rng.choice(N_PEOPLE, N_GAINS, replace=False)):
            event, amount = f"{night} {j}", float(np.round(rng.gamma(1.5, 1.5) - 0.5, 2))
            fate, later = rng.random(), night + int(rng.integers(2, 7)) * DAY
            gains.append((event, int(i), night, amount, at(later if fate < 0.2 else night + DAY)))
            if fate > 0.8:  # corrected, or taken back
                gains.append(
                    (event, int(i), night, 0.0 if fate > 0.9 else amount + 1, at(later, 6))
                )
    return Bank(
        pd.DataFrame(people, columns=["id", "night", "x", "variant"]),
        pd.DataFrame(gains, columns=["event", "id", "day", "amount", "loaded_at"]),
    )


def write_own(folder: Path, kind: str, exposure: str, **outcome: int) -> Experiment:
    """The experiment on the bank's tables.

    Its guardrail, whether there was a loss, is of the other kind where it can be.
    """
    queries = {
        "training": (
            "select id as candidate_id, night as event_date, happened as outcome, x"
            " from history where night >= :from_date and night < :to_date"
        ),
        "candidates": (
            "select id as candidate_id, x, variant from people where night >= :from_date and night"
            " < :to_date"
        ),
        "outcomes": (
            f"select id as candidate_id, day as event_date, {OUTCOME[kind]} as outcome"
            f" from (select gains.*, {NEWEST}) as known where {IN_WINDOW}"
        ),
        "watermark": "select max(complete_to) from feed where loaded_at <= :as_of",
    }
    losses = queries["outcomes"].replace(OUTCOME[kind], "case when amount < 0 then 1 else 0 end")
    (folder / "losses.sql").write_text(losses, encoding="utf-8")
    found: dict[str, Any] = {
        "kind": kind,
        "window_days": WINDOW,
        "lag_days": LAG,
        "grace_days": GRACE,
        "expected_effect": 0.2,
        **outcome,
    }
    return write_experiment(
        folder,
        "own",
        queries,
        outcome=found | ({"cap": CAP} if kind == "numeric" else {}),
        exposure=exposure,
        split={"A": 0.4, "B": 0.4, "control": 0.2},
        select_top=0.2,
        models={
            variant: {"name": f"model{variant}", "version": "1", "estimator": LOGISTIC}
            for variant in "AB"
        },
        guardrails={
            "losses": {
                "query": "losses.sql",
                "kind": "binary",
                "direction": "decrease",
                "margin": 0.1,
            }
        },
    )


def load_bank(engine: sa.Engine, bank: Bank, late: tuple[int, ...] = ()) -> None:
    """Write the tables.

    Each morning the feed is complete to the day before, but for mornings when it is late.
    """
    bank.people.to_sql("people", engine, index=False)
    bank.gains.to_sql("gains", engine, index=False)
    days = [START + k * DAY for k in range(-3, 90) if k not in late]
    feed = pd.DataFrame(
        {"complete_to": [day - DAY for day in days], "loaded_at": [at(day, 4) for day in days]}
    )
    feed.to_sql("feed", engine, index=False)
    n = 200
    nights = [START - (8 + i % 20) * DAY for i in range(n)]
    history = pd.DataFrame(
        {
            "id": range(n),
            "night": nights,
            "x": np.sin(np.arange(n)),
            "happened": np.arange(n) % 3 % 2,
        }
    )
    history.to_sql("history", engine, index=False)


def read(engine: sa.Engine, table: sa.Table, **where: object) -> pd.DataFrame:
    query = sa.select(table).where(*(table.c[name] == value for name, value in where.items()))
    with engine.connect() as connection:
        return pd.DataFrame(
            [row._asdict() for row in connection.execute(query)], columns=list(table.c.keys())
        )


def read_figures(engine: sa.Engine, day: date) -> dict[str, pd.DataFrame]:
    """All that a look wrote, but for the run's name."""
    found = {
        table.name: read(engine, table)
        for table in (tables.scores, tables.variant_scores, tables.feature_drift)
    }
    found |= {
        table.name: read(engine, table, run_date=day)
        for table in (tables.looks, tables.verdicts, tables.sample_ratios)
    }
    keys = {
        table.name: [column.name for column in table.primary_key]
        for table in tables.metadata.tables.values()
    }
    return {
        name: frame.drop(columns="run_id").sort_values(keys[name], ignore_index=True)
        for name, frame in found.items()
    }


def assert_equal_figures(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for name, frame in expected.items():
        assert len(frame), name
        pd.testing.assert_frame_equal(
            found[name], frame, rtol=1e-9, atol=1e-9, check_dtype=False, obj=name
        )


def assert_weeks_add_up(figures: dict[str, pd.DataFrame]) -> None:
    rows, counts = (
        figures["variant_scores"],
        [
            "n_predicted",
            "n_mature",
            "n_positive",
            "n_selected",
            "n_selected_positive",
            "outcome_sum",
        ],
    )
    weeks = rows[rows["cohort"] != "all"].groupby("variant")[counts].sum()
    pd.testing.assert_frame_equal(
        weeks, rows[rows["cohort"] == "all"].set_index("variant")[counts], rtol=1e-9
    )


class LookSeen(NamedTuple):
    """A look as it was written, beside the predictions that were there."""

    day: date
    made: pd.DataFrame
    row: pd.Series
    verdicts: pd.DataFrame
    ratios: pd.DataFrame


class Played(NamedTuple):
    experiment: Experiment
    engine: sa.Engine
    bank: Bank
    kind: str
    exposure: str
    looks: list[LookSeen]


def play(folder: Path, kind: str, exposure: str) -> Played:
    """Nights with all that may happen to them."""
    experiment, bank = write_own(folder, kind, exposure), make_bank(1, N_NIGHTS)
    engine = open_engine(experiment)
    migrations.upgrade(engine)
    load_bank(engine, bank, late=(9, 10))
    train.train(experiment, engine, START - DAY)
    seen = []
    for k in range(N_NIGHTS):
        night = START + k * DAY
        if k == 7:
            train.train(experiment, engine, night)  # another dated model goes live
        if k != 4:
            predict.predict(experiment, engine, night)
        # Missed nights are made up for: one that lies among the closed ones, one from before the
        # experiment began.
        if k == 13:
            predict.predict(experiment, engine, START + 4 * DAY)
            predict.predict(experiment, engine, START - DAY)
        if k == 15:  # a closed night is done again, with other candidates
            with engine.begin() as connection:
                changed = {"night": START + 2 * DAY}
                connection.execute(
                    sa.text("delete from people where night = :night and id % 7 = 0"), changed
                )
                connection.execute(
                    sa.text("update people set variant = 'B' where night = :night and id % 11 = 0"),
                    changed,
                )
            predict.predict(experiment, engine, START + 2 * DAY, force=True)
        score.score(experiment, engine, night, draw=False)
        row = read(engine, tables.looks, run_date=night).iloc[0]
        found = (
            read(engine, tables.verdicts, run_date=night),
            read(engine, tables.sample_ratios, run_date=night),
        )
        seen.append(LookSeen(night, read(engine, tables.predictions), row, *found))
    return Played(experiment, engine, bank, kind, exposure, seen)


slow = pytest.mark.slow
KINDS = [
    ("numeric", "all"),
    *(
        pytest.param(found, marks=slow)
        for found in (("numeric", "first"), ("binary", "first"), ("binary", "all"))
    ),
]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Played]:
    found = play(tmp_path_factory.mktemp("own"), *request.param)
    yield found
    found.engine.dispose()


def list_exposures(
    seen: LookSeen, bank: Bank, metric: str, kind: str, exposure: str
) -> pd.DataFrame:
    """What should count, one prediction after the other, from raw rows.

    Each has candidate_id, variant, value, mixed.
    """
    loaded = bank.gains[bank.gains["loaded_at"] <= at(seen.day, 23)]
    events = defaultdict(list)
    for event in loaded.sort_values("loaded_at").drop_duplicates("event", keep="last").itertuples():
        events[str(event.id)].append((event.day, event.amount))
    rows, known = [], set()
    for made in seen.made.sort_values("run_date").itertuples():
        if not START <= made.run_date <= seen.row["mature_date"]:
            continue
        inside = [
            amount
            for day, amount in events[made.candidate_id]
            if made.run_date <= day < made.run_date + WINDOW * DAY
        ]
        if metric == "losses":
            value = float(any(amount < 0 for amount in inside))
        elif kind == "binary":
            value = float(any(amount > 0 for amount in inside))
        else:
            value = max(-CAP, min(CAP, sum(inside)))
        if exposure == "all" or (made.candidate_id, made.variant) not in known:
            rows.append((made.candidate_id, made.variant, value))
        known.add((made.candidate_id, made.variant))
    frame = pd.DataFrame(rows, columns=["candidate_id", "variant", "value"])
    return frame.assign(mixed=frame.groupby("candidate_id")["variant"].transform("nunique") > 1)


def cluster_robust(treatment: pd.DataFrame, control: pd.DataFrame) -> tuple[float, float]:
    """Difference of means and its standard error.

    Least squares on a dummy, sandwich over candidates, u/(u-1) per side.
    """
    rows = pd.concat([treatment.assign(side=1), control.assign(side=0)])
    X = np.column_stack([np.ones(len(rows)), rows["side"]])
    bread = np.linalg.inv(X.T @ X)
    coefficients = bread @ X.T @ rows["value"]
    residuals = rows["value"] - X @ coefficients
    meat = np.zeros((2, 2))
    for side in (0, 1):
        own = (rows["side"] == side).to_numpy()
        ids = rows["candidate_id"][own]
        score_sums = (
            pd.DataFrame(X[own] * residuals.to_numpy()[own, None])
            .groupby(ids.to_numpy())
            .sum()
            .to_numpy()
        )
        u = ids.nunique()
        meat += u / (u - 1) * score_sums.T @ score_sums
    return coefficients[1], float(np.sqrt((bread @ meat @ bread)[1, 1]))


def test_score_verdict_sums_are_those_of_mature_rows(played: Played) -> None:
    watermarks = [look.row["watermark"] for look in played.looks]
    assert (
        watermarks[8] == watermarks[10] == START + 7 * DAY
    )  # the feed was late, and the looks waited
    for look in played.looks:
        assert look.row["mature_date"] == look.row["watermark"] - (WINDOW + LAG) * DAY
        assert look.row["n_predicted"] == len(look.made)
        assert look.row["n_mature"] == (look.made["run_date"] <= look.row["mature_date"]).sum()
        for metric in ("outcome", "losses"):
            exposures = list_exposures(look, played.bank, metric, played.kind, played.exposure)
            assert (
                look.row["n_mixed"] == exposures.loc[exposures["mixed"], "candidate_id"].nunique()
            )
            counted = exposures[~exposures["mixed"]]
            assert look.row["n_units"] == counted["candidate_id"].nunique()
            rows = look.verdicts[look.verdicts["metric"] == metric].set_index("comparison")
            for comparison, sides in SIDES.items():
                for side, variants in zip(("treatment", "control"), sides, strict=True):
                    own = counted[counted["variant"].isin(variants)]
                    assert rows.loc[comparison, f"n_{side}"] == own["candidate_id"].nunique()
                    assert rows.loc[comparison, f"exposures_{side}"] == len(own)
                    assert rows.loc[comparison, f"sum_{side}"] == pytest.approx(
                        own["value"].sum(), abs=1e-9
                    )
    assert played.looks[-1].row["n_mixed"] > 3


def test_score_sample_ratio_counts_distinct_candidates(played: Played) -> None:
    for look in played.looks:
        assigned = look.made[(look.made["run_date"] >= START) & (look.made["run_date"] <= look.day)]
        mature = assigned[assigned["run_date"] <= look.row["mature_date"]]
        for stage, made in (("assigned", assigned), ("mature", mature)):
            expected = (
                made.groupby("variant")["candidate_id"].nunique().reindex(VARIANTS, fill_value=0)
            )
            found = look.ratios[look.ratios["stage"] == stage].set_index("variant")
            assert found["n"].to_dict() == expected.to_dict()
            assert found["expected"].to_dict() == pytest.approx(
                {v: expected.sum() * s for v, s in zip(VARIANTS, (0.4, 0.4, 0.2), strict=True)}
            )


def test_score_sample_ratio_tests_each_night_and_how_often_candidates_come(played: Played) -> None:
    """From raw predictions, also of nights that were made up for, or done again."""
    shares, n_new_late = np.array([0.4, 0.4, 0.2]), 0
    for look in played.looks:
        made = look.made[(look.made["run_date"] >= START) & (look.made["run_date"] <= look.day)]
        firsts = made.groupby(["candidate_id", "variant"])["run_date"].min().reset_index()
        by_night = firsts.groupby(["run_date", "variant"]).size().unstack(fill_value=0)
        by_night = by_night.reindex(columns=VARIANTS, fill_value=0)
        n_new_late += int((by_night.index > look.day - DAY).any())
        values = [
            sum(
                dirichlet_multinomial.logpmf(n, weight * shares, n.sum())
                - multinomial.logpmf(n, n.sum(), shares)
                for n in counts
            )
            for weight, counts in (
                (1000, [by_night.to_numpy().sum(axis=0)]),
                (100, by_night.to_numpy()),
            )
        ]
        stages = {
            stage: rows.set_index("variant").loc[VARIANTS]
            for stage, rows in look.ratios.groupby("stage")
        }
        pvalue = min(1, 2 / np.exp(values).sum())
        assert stages["assigned"]["pvalue"].tolist() == pytest.approx([pvalue] * 3)
        assert ("exposures" in stages) == (played.exposure == "all")
        if "exposures" in stages:
            visits = made.groupby("variant").size().reindex(VARIANTS, fill_value=0)
            n_units = firsts.groupby("variant").size().reindex(VARIANTS, fill_value=0)
            assert stages["exposures"]["n"].tolist() == visits.tolist()
            expected = n_units * len(made) / len(firsts)
            assert stages["exposures"]["expected"].tolist() == pytest.approx(expected.tolist())
    assert n_new_late


def test_score_standard_error_is_that_of_raw_rows(played: Played) -> None:
    n_checked = 0
    for look in played.looks[6:]:
        for metric, kind in (("outcome", played.kind), ("losses", "binary")):
            exposures = list_exposures(look, played.bank, metric, played.kind, played.exposure)
            counted = exposures[~exposures["mixed"]]
            rows = look.verdicts[look.verdicts["metric"] == metric].set_index("comparison")
            for comparison, sides in SIDES.items():
                treatment, control = (
                    counted[counted["variant"].isin(variants)] for variants in sides
                )
                estimate, se = cluster_robust(treatment, control)
                if kind == "binary" and played.exposure == "first":
                    rates = [
                        ((own["value"].sum() + 1) / (len(own) + 2), len(own))
                        for own in (treatment, control)
                    ]
                    se = sum(p * (1 - p) / n for p, n in rates) ** 0.5
                assert rows.loc[comparison, "estimate"] == pytest.approx(estimate, abs=1e-9)
                assert rows.loc[comparison, "se"] == pytest.approx(se, rel=1e-9)
                n_checked += 1
    assert n_checked == 4 * (N_NIGHTS - 6)


def test_score_night_by_night_equals_rebuild(played: Played) -> None:
    last = played.looks[-1].day
    found, units = read_figures(played.engine, last), read(played.engine, tables.units)
    assert_weeks_add_up(found)
    score.score(played.experiment, played.engine, last, draw=False, rebuild=True)
    assert_equal_figures(found, read_figures(played.engine, last))
    order = ["metric", "candidate_id", "variant"]
    units, again = (
        frame.sort_values(order, ignore_index=True)
        for frame in (units, read(played.engine, tables.units))
    )
    pd.testing.assert_frame_equal(units, again, rtol=1e-9, atol=1e-9)
    done = read(played.engine, tables.runs, job="score", run_date=last).sort_values("started_at")
    assert list(done["status"]) == ["superseded", "done"]
    assert (
        done["rows_read"].iloc[1] > 2 * done["rows_read"].iloc[0]
    )  # it did read every night again


def start_own(folder: Path, bank: Bank) -> tuple[Experiment, sa.Engine]:
    """A trained experiment of which nothing is predicted yet.

    Its nights are mature on the second day after them, and closed on the third.
    """
    experiment = write_own(folder, "numeric", "first", window_days=1, lag_days=0, grace_days=1)
    engine = open_engine(experiment)
    migrations.upgrade(engine)
    load_bank(engine, bank)
    train.train(experiment, engine, START)
    return experiment, engine


def make_timely_bank(n_nights: int) -> Bank:
    """Each gain is known on the next morning, and right."""
    bank = make_bank(2, n_nights)
    gains = bank.gains.drop_duplicates("event")
    return Bank(bank.people, gains.assign(loaded_at=[at(day + DAY) for day in gains["day"]]))


def predict_and_score(experiment: Experiment, engine: sa.Engine, nights: range) -> None:
    for k in nights:
        predict.predict(experiment, engine, START + k * DAY)
        score.score(experiment, engine, START + k * DAY, draw=False)


def assert_equals_rebuild(experiment: Experiment, engine: sa.Engine, day: date) -> None:
    found = read_figures(engine, day)
    score.score(experiment, engine, day, draw=False, rebuild=True)
    assert_equal_figures(found, read_figures(engine, day))


@slow
def test_score_reads_as_many_rows_every_night(tmp_path: Path) -> None:
    experiment = write_own(tmp_path, "numeric", "all")
    engine = open_engine(experiment)
    migrations.upgrade(engine)
    load_bank(engine, make_timely_bank(60))
    train.train(experiment, engine, START)
    predict_and_score(experiment, engine, range(60))
    found = read(engine, tables.runs, job="score").sort_values("run_date")["rows_read"].tolist()
    # One night is closed and GRACE are open; of each metric the gains of their windows are read.
    nights = (1 + GRACE) * N_A_NIGHT
    feed = (WINDOW + GRACE - 1 + WINDOW) * N_GAINS
    assert found[:4] == [0, 0, 0, 0]
    assert found[7:] == [nights + 2 * feed] * 53
    engine.dispose()


FAILURES = {
    "closing the second week": (looks, "close_nights", 2),
    "writing the look": (looks, "write", 1),
}


@pytest.mark.parametrize(
    ("failure", "rebuild"), [*((name, False) for name in FAILURES), ("writing the look", True)]
)
def test_score_that_failed_leaves_nothing_behind(
    failure: str, rebuild: bool, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {}
    for name in ("undisturbed", "disturbed"):
        folder = shutil.copytree(scored, tmp_path / name)
        experiment = load_experiments(folder / "ml_config.yaml", "dev")["own"]
        engine, today = open_engine(experiment), START + 7 * DAY
        if name == "disturbed":
            monkeypatch.setattr(looks, "CLOSED_ROWS", 1)  # one cohort at a time
            fail_at(monkeypatch, *FAILURES[failure])
            with pytest.raises(OSError, match="No space left"):
                score.score(experiment, engine, today, rebuild=rebuild)
            monkeypatch.undo()
            assert read(engine, tables.looks)["run_date"].max() == START + 4 * DAY
        score.score(
            experiment, engine, today, draw=False, rebuild=rebuild and name == "undisturbed"
        )
        predict.predict(experiment, engine, today + DAY)
        score.score(experiment, engine, today + DAY, draw=False)
        figures[name] = [read_figures(engine, day) for day in (today, today + DAY)]
        engine.dispose()
    for found, expected in zip(figures["disturbed"], figures["undisturbed"], strict=True):
        assert_equal_figures(found, expected)
        assert_weeks_add_up(found)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight nights, scored last on the fifth.

    The first week's last night was mature then, but neither closed nor all known.
    """
    folder = tmp_path_factory.mktemp("scored")
    experiment, engine = start_own(folder, make_bank(2, 9))
    for k in range(8):
        predict.predict(experiment, engine, START + k * DAY)
    score.score(experiment, engine, START + 4 * DAY, draw=False)
    engine.dispose()
    return folder


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, nth: int) -> None:
    """Let the nth call of a function do its work and then find the disk full."""
    real, calls = getattr(owner, name), []

    def fail(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        calls.append(arguments)
        if len(calls) == nth:
            raise OSError(28, "No space left on device")
        return result

    monkeypatch.setattr(owner, name, fail)


def test_score_lets_the_database_look_between_cohorts(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At what was written, when more is looked up among it, and not in a night of one."""
    folder = shutil.copytree(scored, tmp_path / "copy")
    experiment = load_experiments(folder / "ml_config.yaml", "dev")["own"]
    steps = []
    for module, name in ((writing, "analyze"), (looks, "close_nights")):
        real = getattr(module, name)

        def note(*arguments: Any, name: str = name, real: Any = real) -> Any:
            steps.append(name)
            return real(*arguments)

        monkeypatch.setattr(module, name, note)
    engine = open_engine(experiment)
    score.score(experiment, engine, START + 7 * DAY, draw=False, rebuild=True)
    assert steps == ["close_nights"]
    monkeypatch.setattr(looks, "CLOSED_ROWS", 1)  # one cohort at a time
    steps.clear()
    score.score(experiment, engine, START + 7 * DAY, draw=False, rebuild=True)
    assert steps == ["close_nights", "analyze", "close_nights"]
    engine.dispose()


def test_score_before_the_feed_has_begun(tmp_path: Path) -> None:
    experiment, engine = start_own(tmp_path, make_timely_bank(3))
    with engine.begin() as connection:
        connection.execute(sa.text("delete from feed"))
    predict.predict(experiment, engine, START)
    assert "0 mature predictions of 1 nights (outcomes complete to no date yet)" in score.score(
        experiment, engine, START, draw=False
    )
    row = read(engine, tables.looks).iloc[0]
    assert (row["n_predicted"], row["n_mature"], row["n_units"]) == (N_A_NIGHT, 0, 0)
    assert pd.isna(row["watermark"])
    assert pd.isna(row["mature_date"])
    assert set(read(engine, tables.verdicts)["word"]) == {"too early"}
    engine.dispose()


def test_score_counts_everything_after_the_last_night(tmp_path: Path) -> None:
    experiment, engine = start_own(tmp_path, make_timely_bank(4))
    predict_and_score(experiment, engine, range(4))
    for k in (8, 9):
        assert "160 mature predictions of 4 nights" in score.score(
            experiment, engine, START + k * DAY, draw=False
        )
    rows = read(engine, tables.looks).set_index("run_date")
    for k in (8, 9):
        row = rows.loc[START + k * DAY]
        assert (row["n_predicted"], row["n_mature"]) == (4 * N_A_NIGHT, 4 * N_A_NIGHT)
    assert_equals_rebuild(experiment, engine, START + 9 * DAY)
    engine.dispose()


def make_live(engine: sa.Engine, trained_on: str, action: str) -> None:
    for variant in "AB":
        with engine.begin() as connection:
            name = f"model{variant}_v1_{trained_on}"
            promotion.promote(
                connection,
                registry.find_model(connection, name),
                action=action,
                effective_date=START + 3 * DAY,
                reason="complaints",
                promoted_by="Kari",
                promoted_at=utc_now(),
            )


@pytest.mark.parametrize("n_closed", [0, 1])
def test_score_forgets_the_figures_of_predictions_that_were_replaced(
    n_closed: int, tmp_path: Path
) -> None:
    experiment, engine = start_own(tmp_path, make_timely_bank(7 + n_closed))
    predict_and_score(experiment, engine, range(3))
    train.train(
        experiment, engine, START + 3 * DAY
    )  # too few outcomes for the gate to compare: a person promotes
    make_live(engine, "2025-03-10", "promote")
    predict_and_score(experiment, engine, range(3, 6 + n_closed))
    assert "modelA_v1_2025-03-10" in set(read(engine, tables.scores)["model_name"])
    make_live(engine, "2025-03-07", "rollback")
    for k in range(3 + n_closed, 6 + n_closed):  # the nights that are open still
        predict.predict(experiment, engine, START + k * DAY, force=True)
    predict_and_score(experiment, engine, range(6 + n_closed, 7 + n_closed))
    found = read(engine, tables.scores, cohort="all", metric="n").set_index("model_name")["value"]
    made = read(engine, tables.predictions)
    own = made[made["model_name"] == "modelA_v1_2025-03-10"]
    assert found.get("modelA_v1_2025-03-10", 0) == len(own)
    assert own["run_date"].nunique() == n_closed
    assert_equals_rebuild(experiment, engine, START + (6 + n_closed) * DAY)
    engine.dispose()


def test_score_forgets_the_figures_of_nights_that_are_open_again(tmp_path: Path) -> None:
    experiment, engine = start_own(tmp_path, make_timely_bank(7))
    predict_and_score(experiment, engine, range(6))
    with (
        engine.begin() as connection
    ):  # the feed takes back a day: Monday, all that there is of its week
        connection.execute(
            sa.text("delete from feed where complete_to >= :day"), {"day": START + 4 * DAY}
        )
    predict_and_score(experiment, engine, range(6, 7))
    assert set(read(engine, tables.looks, run_date=START + 6 * DAY)["mature_date"]) == {
        START + 2 * DAY
    }
    assert_equals_rebuild(experiment, engine, START + 6 * DAY)
    engine.dispose()


def test_score_with_other_cohorts_from_one_night_on(tmp_path: Path) -> None:
    experiment, engine = start_own(tmp_path, make_timely_bank(7))
    predict_and_score(experiment, engine, range(6))
    path = tmp_path / "ml_config.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "    cohort: month\n", encoding="utf-8")
    experiment = load_experiments(path, "dev")["own"]
    predict_and_score(experiment, engine, range(6, 7))
    assert set(read(engine, tables.variant_scores)["cohort"]) == {"2025-03-01", "all"}
    assert_equals_rebuild(experiment, engine, START + 6 * DAY)
    engine.dispose()


def test_score_dry_run_tells_the_verdicts_to_come(tmp_path: Path) -> None:
    experiment, engine = start_own(tmp_path, make_timely_bank(9))
    predict_and_score(experiment, engine, range(4))
    for k in range(4, 9):
        predict.predict(experiment, engine, START + k * DAY)
    before = {table.name: len(read(engine, table)) for table in tables.metadata.sorted_tables}
    rehearsed = score.score(experiment, engine, START + 8 * DAY, dry_run=True)
    assert before == {
        table.name: len(read(engine, table)) for table in tables.metadata.sorted_tables
    }
    told = score.score(experiment, engine, START + 8 * DAY, draw=False)
    verdicts = told.split("; ", 1)[1]
    assert verdicts.count("vs") == 4
    assert rehearsed.endswith(f" figures; {verdicts}")
    engine.dispose()


@pytest.mark.parametrize(
    ("function", "again", "missed"),
    [("read_nights", 1, None), ("judge", 1, None), ("read_nights", 4, 4)],
    ids=["closed, while reading", "closed, while measuring", "missed, while reading"],
)
def test_score_while_a_night_is_predicted(
    function: str, again: int, missed: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, engine = start_own(tmp_path, make_timely_bank(9))
    predict_and_score(experiment, engine, range(4))
    for k in range(4, 9):
        if k != missed:
            predict.predict(experiment, engine, START + k * DAY)
    score.score(experiment, engine, START + 7 * DAY, draw=False)
    real, calls = getattr(looks, function), []

    def interrupted(*arguments: Any) -> Any:
        result = real(*arguments)
        calls.append(arguments)
        if len(calls) == 1:
            predict.predict(experiment, engine, START + again * DAY, force=True)
        return result

    monkeypatch.setattr(looks, function, interrupted)
    with suppress(AbatchError):  # to refuse is as good as to be right
        score.score(experiment, engine, START + 8 * DAY, draw=False)
    monkeypatch.undo()
    assert calls
    score.score(experiment, engine, START + 9 * DAY, draw=False)
    row = read(engine, tables.looks, run_date=START + 9 * DAY).iloc[0]
    assert (row["n_predicted"], row["n_mature"]) == (9 * N_A_NIGHT, 8 * N_A_NIGHT)
    assert_equals_rebuild(experiment, engine, START + 9 * DAY)
    engine.dispose()


# The simulated bank: what was planted is known, and so is what each look should have found.


class Story(NamedTuple):
    experiment: Experiment
    engine: sa.Engine
    looks: dict[date, dict[str, pd.DataFrame]]


def play_story(folder: Path, plant: str, n_nights: int, looks_at: Iterable[int]) -> Story:
    """Nights of the simulated bank with quick models that are trained once.

    Score runs on some of them.
    """
    experiment = load_experiments(
        write_config(folder, f"sqlite:///{folder / 'bank.db'}", models=QUICK_MODELS), "dev"
    )["card_offer"]
    engine = open_engine(experiment)
    migrations.upgrade(engine)
    simulate.simulate(
        engine,
        FIRST_NIGHT,
        history_days=60,
        plant=plant,
        salt=experiment.name,
        split=experiment.split,
    )
    train.train(experiment, engine, FIRST_NIGHT)
    seen = {}
    for k in range(n_nights):
        night = FIRST_NIGHT + k * DAY
        simulate.simulate(engine, night)
        predict.predict(experiment, engine, night)
        if k in looks_at:
            score.score(experiment, engine, night, draw=False)
            seen[night] = read_figures(engine, night)
    return Story(experiment, engine, seen)


def find_words(story: Story) -> pd.DataFrame:
    """Words by look and comparison."""
    rows = pd.concat([figures["verdicts"] for figures in story.looks.values()])
    return rows.pivot(index="run_date", columns="comparison", values="word")


def assert_covers(story: Story) -> int:
    """Every interval of every look holds the difference that was planted.

    Returns how many there were.
    """
    made = read(story.engine, tables.predictions).astype({"run_date": "datetime64[s]"})
    made = made.sort_values("run_date").drop_duplicates("candidate_id")
    units = made.merge(
        simulate.read_truth(story.engine), on=["candidate_id", "run_date"], validate="one_to_one"
    )
    units["p"] = units["p_called"].where(units["called"] == 1, units["p_uncalled"])
    n_covered = 0
    for figures in story.looks.values():
        mature = units[units["run_date"] <= pd.Timestamp(figures["looks"]["mature_date"].iloc[0])]
        for row in figures["verdicts"].dropna(subset="lower").itertuples():
            treatment, control = (
                mature[mature["variant"].isin(variants)] for variants in SIDES[row.comparison]
            )
            assert (row.n_treatment, row.n_control) == (len(treatment), len(control))
            assert row.lower <= treatment["p"].mean() - control["p"].mean() <= row.upper
            n_covered += 1
    return n_covered


@pytest.fixture(scope="module")
def effect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    found = play_story(tmp_path_factory.mktemp("effect"), "effect", 46, range(20, 46))
    yield found
    found.engine.dispose()


@slow
def test_story_effect_is_found(effect: Story) -> None:
    words = find_words(effect)
    assert words.iloc[-1].to_dict() == {"models vs control": "better", "B vs A": "better"}
    assert not words.isin(["worse", "no difference larger than d", "invalid"]).any(axis=None)
    assert assert_covers(effect) > 45


@slow
def test_story_no_effect_is_not_claimed(tmp_path: Path) -> None:
    story = play_story(tmp_path, "no_effect", 46, range(46))
    words = find_words(story)
    assert len(words) == 46
    assert set(words.stack()) <= {"too early", "not yet known", "no difference larger than d"}
    assert (words != "too early").sum().min() > 20
    assert assert_covers(story) > 50
    drift = read(story.engine, tables.feature_drift)
    flagged = drift[(drift["psi"] > 0.1) & (drift["psi"] > drift["psi_noise"])]
    before = drift[drift["cohort"] < str(FIRST_NIGHT + simulate.NEW_CHANNEL * DAY)]
    assert len(before) == 3 * 2 * 9  # weeks, models, features
    assert not set(before.index) & set(flagged.index)
    assert set(flagged["feature"]) == {"channel"}
    story.engine.dispose()


@slow
def test_story_harm_is_found(tmp_path: Path) -> None:
    story = play_story(tmp_path, "harm", 46, range(20, 46, 5))
    words = find_words(story)
    assert words.iloc[-1]["models vs control"] == "worse"
    assert not words.isin(["better", "invalid"]).any(axis=None)
    assert assert_covers(story) > 10
    story.engine.dispose()


@slow
@pytest.mark.parametrize(
    ("plant", "short", "n_nights"), [("broken_split", "B", 20), ("changing_shares", "control", 26)]
)
def test_story_sample_ratio_is_noticed(
    plant: str, short: str, n_nights: int, tmp_path: Path
) -> None:
    story = play_story(tmp_path, plant, n_nights, [9, 14, n_nights - 1])
    words = find_words(story)
    assert set(words.iloc[-1]) == {"invalid"}
    if plant == "changing_shares":  # which begin to change on night 15
        assert "invalid" not in set(words.iloc[:2].stack())
    book = simulate.read_truth(story.engine).drop_duplicates("candidate_id")
    split = story.experiment.split
    book["variant"] = assignment.assign(book["candidate_id"], story.experiment.name, split).variant
    listed = book["candidate_id"].isin(read(story.engine, tables.predictions)["candidate_id"])
    assert set(book.loc[~listed & (book["run_date"] >= pd.Timestamp(FIRST_NIGHT)), "variant"]) == {
        short
    }
    ratios = story.looks[FIRST_NIGHT + (n_nights - 1) * DAY]["sample_ratios"]
    found = ratios[ratios["stage"] == "assigned"].set_index("variant")
    assert found["n"].to_dict() == book[listed].groupby("variant").size().to_dict()
    surplus = found["n"] - found["expected"]
    assert found["expected"].to_dict() == pytest.approx(
        {variant: listed.sum() * share for variant, share in split.items()}
    )
    assert list(surplus.index[surplus < 0]) == [short]
    assert (found["pvalue_min"] < 0.01).all()
    story.engine.dispose()


@slow
def test_story_late_feed_changes_no_figure(effect: Story, tmp_path: Path) -> None:
    story = play_story(tmp_path, "late_feed", 38, range(30, 38))
    in_time = {
        figures["looks"]["mature_date"].iloc[0]: (day, figures)
        for day, figures in effect.looks.items()
    }
    delays = []
    for day, figures in story.looks.items():
        row = figures["looks"].iloc[0]
        if row["mature_date"] not in in_time:
            continue  # while the feed stood still there, it had run on here
        day_in_time, expected = in_time[row["mature_date"]]
        delays.append((day - day_in_time).days)
        mature = ["mature_date", "n_mature", "n_units", "n_mixed"]
        pd.testing.assert_frame_equal(figures["looks"][mature], expected["looks"][mature])
        found, known = (
            looked["verdicts"].drop(columns=["run_date", "pvalue_min"])
            for looked in (figures, expected)
        )
        pd.testing.assert_frame_equal(found, known, rtol=1e-9)
        pd.testing.assert_frame_equal(figures["scores"], expected["scores"], rtol=1e-9)
        counts = [
            "variant",
            "cohort",
            "n_mature",
            "n_positive",
            "n_selected",
            "n_selected_positive",
            "outcome_sum",
        ]
        found, known = (
            looked["variant_scores"].query("n_mature > 0")[counts].reset_index(drop=True)
            for looked in (figures, expected)
        )
        pd.testing.assert_frame_equal(found, known)
    assert delays.count(simulate.FEED_DELAY) >= 5
    story.engine.dispose()


@slow
def test_story_drift_is_flagged_where_it_was_planted(tmp_path: Path) -> None:
    story = play_story(tmp_path, "drift", 34, [33])
    drift = read(story.engine, tables.feature_drift)
    drift["flagged"] = (drift["psi"] > 0.1) & (drift["psi"] > drift["psi_noise"])
    planted = FIRST_NIGHT + simulate.DRIFT * DAY
    moved = {
        "income",
        "utilisation",
        "balance",
        "region",
        "channel",
    }  # the balance is made of the utilisation
    for (_, cohort), rows in drift.groupby(["model_name", "cohort"]):
        assert len(rows) == 9
        assert set(rows.loc[rows["flagged"], "feature"]) == (
            moved if cohort >= str(planted) else set()
        )
    with bank_tables.in_default_schema(story.engine).connect() as connection:
        app = sa.select(
            bank_tables.candidates.c.customer_id, bank_tables.candidates.c.candidate_date
        ).where(bank_tables.candidates.c.channel == "app")
        by_app = {(str(row[0]), row[1]) for row in connection.execute(app)}
    made = read(story.engine, tables.predictions).dropna(subset="model_name")
    made = made[[row in by_app for row in zip(made["candidate_id"], made["run_date"], strict=True)]]
    weeks = made["run_date"].map(lambda night: str(night - night.weekday() * DAY))
    expected = made.groupby(["model_name", weeks]).size().to_dict()
    found = drift[drift["n_new"] > 0].set_index(["model_name", "cohort"])
    assert len(expected) == 4
    assert found["n_new"].to_dict() == expected
    assert found["new_categories"].to_dict() == {key: f"app ({n})" for key, n in expected.items()}
    assert set(found["feature"]) == {"channel"}
    story.engine.dispose()
