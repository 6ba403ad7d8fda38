"""The report: what the tables hold, said in words, safe to open anywhere.

Expected words and figures are worked out by hand.
"""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
import sqlalchemy as sa

from abatch.config import Experiment, load_experiments
from abatch.database import migrations, tables
from abatch.errors import AbatchError
from abatch.pages import findings, gaps, plots, report
from abatch.pages.figures import HISTORY, Figures, read_figures
from tests.conftest import (
    FIRST_NIGHT,
    REGISTERED,
    ROOT,
    make_card,
    open_engine,
    write_config,
)

RUN_DATE = date(2026, 10, 20)
DAY = timedelta(days=1)
NASTY = '<script>alert("1")</script> & Ærø 日本 {{ 7 * 7 }}'
METRICS = {  # name: value, lower, upper
    "roc_auc": (0.7313, 0.7012, 0.7614),
    "base_rate": (0.05, 0.0412, 0.0604),
    "log_loss": (0.19876, 0.18, 0.22),
    "lift_top_decile": (3.456, 3.0, 3.9),
    "calibration_intercept": (-0.1234, -0.3, 0.05),
    "calibration_slope": (0.81, 0.7, 0.92),
    "reliability_prediction_01": (0.02, None, None),
    "reliability_rate_01": (0.0125, -0.001, 0.03),
    "reliability_prediction_10": (0.25, None, None),
    "reliability_rate_10": (0.25, 0.2, 0.3),
    "roc_auc_bracket": (0.0002, None, None),
}
Row = tuple[sa.Table, Mapping[str, Any]]


class Page(HTMLParser):
    """The parts of a page: tags, attributes, words, and each table as rows of cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._in_cell = False
        self.feed(html)
        self.text = " ".join(self.text.split())
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True
        if tag not in ("strong", "time", "code", "em"):
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            return
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def row(self, start: str) -> list[str]:
        return next(row for row in self.rows if row[0].startswith(start))

    def labels(self) -> list[str]:
        return [
            value.replace("\N{NO-BREAK SPACE}", " ")
            for name, value in self.attributes
            if name == "aria-label"
        ]


def register(**changes: Any) -> Row:
    row = {
        "hash": "f00d",
        "content": json.dumps({**REGISTERED, **changes}),
        "registered_at": datetime(2026, 9, 1, 2),
        "run_id": "r1",
    }
    return tables.registrations, row


def look(run_date: date = RUN_DATE, **changes: Any) -> Row:
    row = {
        "run_date": run_date,
        "watermark": run_date - DAY,
        "mature_date": run_date - 16 * DAY,
        "n_predicted": 10_000,
        "n_mature": 6000,
    }
    return tables.looks, {**row, "n_units": 6000, "n_mixed": 0, "run_id": "s1", **changes}


def verdict(
    word: str,
    *figures: float | None,
    run_date: date = RUN_DATE,
    comparison: str = "models vs control",
    metric: str = "outcome",
    **changes: Any,
) -> Row:
    """A verdict; `figures` are estimate, lower and upper."""
    estimate, lower, upper = figures or (None, None, None)
    row = {
        "run_date": run_date,
        "comparison": comparison,
        "metric": metric,
        "n_treatment": 5400,
        "n_control": 600,
        "n_burn_in": 100,
        "exposures_treatment": 5400,
    }
    row |= {
        "exposures_control": 600,
        "sum_treatment": 297.0,
        "sum_control": 24.0,
        "estimate": estimate,
        "lower": lower,
        "upper": upper,
    }
    row |= {
        "se": None if lower is None else 0.003,
        "pvalue": 0.00002,
        "pvalue_min": 0.00001,
        "lift": 0.375,
        "lift_lower": None,
        "lift_upper": None,
    }
    return tables.verdicts, {**row, "word": word, "run_id": "s1", **changes}


def ratio(
    variant: str,
    n: int,
    expected: float,
    pvalue_min: float,
    stage: str = "assigned",
    **changes: Any,
) -> Row:
    row = {
        "run_date": RUN_DATE,
        "stage": stage,
        "variant": variant,
        "n": n,
        "expected": expected,
        "pvalue": 0.4,
        "pvalue_min": pvalue_min,
        "pvalue_single": min(0.4, pvalue_min),
    }
    return tables.sample_ratios, {**row, "run_id": "s1", **changes}


def run(job: str, run_date: date, status: str = "done", error: str | None = None) -> Row:
    start = datetime.combine(run_date, datetime.min.time())
    row = {
        "run_id": f"{job}-{run_date}-{status}",
        "job": job,
        "run_date": run_date,
        "status": status,
        "started_at": start,
        "error": error,
    }
    row |= {
        "finished_at": start + timedelta(seconds=83),
        "rows_written": 4321,
        "code_version": "0.9",
        "config_hash": "0",
        "host": "bi1",
    }
    return tables.runs, row


def variant_score(
    variant: str,
    n: int,
    mature: int,
    positive: int,
    lower: float | None,
    upper: float | None,
    selected: int,
    hits: int,
    **changes: Any,
) -> Row:
    row = {
        "variant": variant,
        "cohort": "all",
        "n_predicted": n,
        "n_mature": mature,
        "n_positive": positive,
        "n_selected": selected,
    }
    row |= {
        "n_selected_positive": hits,
        "rate": positive / mature if mature else None,
        "selected_rate": hits / selected if selected else None,
    }
    return tables.variant_scores, {
        **row,
        "lower": lower,
        "upper": upper,
        "outcome_sum": float(positive),
        "run_id": f"score-{RUN_DATE}-done",
        **changes,
    }


def score(
    model_name: str,
    cohort: str,
    metric: str,
    value: float,
    lower: float | None = None,
    upper: float | None = None,
) -> Row:
    row = {
        "model_name": model_name,
        "cohort": cohort,
        "metric": metric,
        "value": value,
        "lower": lower,
        "upper": upper,
    }
    return tables.scores, {**row, "n": 2000, "run_id": "s1"}


def feature(
    name: str,
    psi: float | None,
    model_name: str = "modelA_v1.0_2026-09-08",
    cohort: str = "2026-10-12",
    **changes: Any,
) -> Row:
    row = {
        "model_name": model_name,
        "cohort": cohort,
        "feature": name,
        "kind": "number",
        "n": 2000,
        "psi": psi,
        "psi_noise": 0.0123,
    }
    return tables.feature_drift, {
        **row,
        "null_rate": 0.0456,
        "null_rate_training": 0.0012,
        "n_new": 0,
        "new_categories": None,
        "run_id": "s1",
        **changes,
    }


def model(model_name: str, roc_auc: float | None) -> Row:
    row = {
        "model_name": model_name,
        "variant": model_name[5],
        "name": model_name[:6],
        "version": "1.0",
        "run_date": date.fromisoformat(model_name[-10:]),
        "file": f"{model_name}.pkl",
        "sha256": "0",
        "from_date": date(2025, 8, 1),
    }
    row |= {
        "to_date": date(2026, 8, 1),
        "as_of": datetime.fromisoformat(model_name[-10:]),
        "rows": 31970,
        "code_version": "0",
        "seed": 0,
    }
    return tables.models, {
        **row,
        "environment_hash": "0",
        "card": make_card(
            metrics={"roc_auc": {"value": roc_auc, "lower": None, "upper": None}}
        ).to_json(),
        "run_id": "t1",
        "snapshot": "5" * 64,
        "decision": "goes live",
    }


def promotion(model_name: str) -> Row:
    row = {
        "variant": model_name[5],
        "model_name": model_name,
        "action": "promote",
        "effective_date": FIRST_NIGHT,
        "reason": NASTY,
    }
    return tables.promotions, {
        **row,
        "promoted_by": "Kari <k@bank>",
        "promoted_at": datetime(2026, 9, 1, 22, 0),
    }


MODELS = [
    model("modelA_v1.0_2026-09-01", 0.8),
    model("modelA_v1.0_2026-09-08", 0.77),
    model("modelB_v1.0_2026-09-01", None),
]
NIGHTS = [run("predict", FIRST_NIGHT + night * DAY) for night in (0, 1, 3)]
SCORES = [
    *[
        score(name, "all", metric, *figures)
        for metric, figures in METRICS.items()
        for name in ("modelA_v1.0", "modelA_v1.0_2026-09-01")
    ],
    score("modelA_v1.0", "2026-08-31", "roc_auc", 0.61, 0.5, 0.7),
    score("modelA_v1.0", "2026-09-07", "roc_auc", 0.82, 0.7, 0.9),
    score("modelB_v1.0", "all", "n", 2000),
    score("modelB_v1.0", "all", "n_positive", 3),
    *[
        score("modelA_v1.0_2026-09-01", "all", metric, value)
        for metric, value in (("psi", 0.3), ("psi_noise", 0.05))
    ],
    *[
        score("modelA_v1.0_2026-09-08", "all", metric, value)
        for metric, value in (("psi", 0.3), ("psi_noise", 0.4))
    ],
    *[
        score("modelB_v1.0_2026-09-01", "all", metric, value)
        for metric, value in (("psi", 0.12), ("psi_noise", 0.01))
    ],
]
WHOLE: list[Row] = [
    register(
        hypothesis=NASTY,
        guardrails={
            "complaints": {
                "kind": "binary",
                "direction": "decrease",
                "margin": 0.005,
                "cap": None,
                "query": "",
                "watermark": None,
            }
        },
    ),
    *MODELS,
    promotion("modelA_v1.0_2026-09-08"),
    *NIGHTS,
    run("predict", RUN_DATE + 2 * DAY),  # not yet, as the page sees it
    run("predict", RUN_DATE, "failed", f"{NASTY}\nsecond line"),
    run("score", RUN_DATE),
    variant_score("A", 4400, 2000, 100, 0.0413, 0.0605, 400, 50),
    variant_score("B", 4500, 2100, 0, 0.0, 0.0018, 420, 0),
    variant_score("control", 1000, 400, 14, 0.0209, 0.0579, 80, 2),
    *SCORES,
    feature("age", 0.02),
    feature(NASTY, 0.31, kind="category", n_new=7, new_categories=f"{NASTY} (7)"),
    feature("age", 0.9, cohort="2026-10-05"),  # an older cohort
    look(RUN_DATE - DAY),
    look(),
    look(RUN_DATE + DAY, n_predicted=1),  # not yet
    verdict("too early", 0.05, -0.3, 0.4, run_date=RUN_DATE - 3 * DAY),
    verdict("better", 0.02, 0.001, 0.039, run_date=RUN_DATE - 2 * DAY),
    verdict("not yet known", 0.018, -0.002, 0.038, run_date=RUN_DATE - DAY),
    verdict("worse", -0.0165, -0.0261, -0.0068),
    verdict("better", 0.9, 0.8, 1.0, run_date=RUN_DATE + DAY),  # not yet
    verdict("kept", 0.001, -0.002, 0.004, metric="complaints"),
    verdict("too early", comparison="B vs A"),
    ratio("A", 2700, 2700, 0.5),
    ratio("control", 600, 600, 0.5),
    (
        tables.conclusions,
        {
            "because": "old",
            "finding": "old",
            "concluded_by": "old",
            "concluded_at": datetime(2026, 10, 1, 12),
        },
    ),
    (
        tables.conclusions,
        {
            "because": NASTY,
            "finding": "models vs control: worse, -0.0165; B vs A: too early on 2026-10-02",
            "concluded_by": "Ola <o@bank>",
            "concluded_at": datetime(2026, 10, 2, 12),
        },
    ),
]


def fill(connection: sa.Connection, rows: Iterable[Row]) -> None:
    for number, (table, row) in enumerate(rows, start=1):
        numbered = {"run_number": number} if table is tables.runs else {}
        connection.execute(table.insert().values(experiment="card_offer", **numbered, **row))


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Figures]:
    """What the report reads from a database of these rows, which is empty again afterwards."""
    folder = tmp_path_factory.mktemp("report")
    experiment = load_experiments(write_config(folder, f"sqlite:///{folder / 'bank.db'}"), "dev")[
        "card_offer"
    ]
    engine = open_engine(experiment)
    migrations.upgrade(engine)

    def read_rows(*rows: Row, run_date: date = RUN_DATE) -> Figures:
        with engine.connect() as connection, connection.begin() as transaction:
            fill(connection, rows)
            figures = read_figures(connection, experiment, run_date)
            transaction.rollback()
        return figures

    return read_rows


@pytest.fixture(scope="module")
def tell(read: Callable[..., Figures]) -> Callable[..., str]:
    """The words of the page on a registration, the newest look and these rows."""
    return lambda *rows, **changes: (
        Page(report.render(read(register(**changes), look(), *NIGHTS, *rows))).text
    )


@pytest.fixture(scope="module")
def figures(read: Callable[..., Figures]) -> Figures:
    return read(*WHOLE)


@pytest.fixture(scope="module")
def html(figures: Figures) -> str:
    return report.render(figures)


def outcome(effect: float, kind: str = "binary") -> dict[str, Any]:
    return {**REGISTERED["outcome"], "expected_effect": effect, "kind": kind}


UP, DOWN, WIDE = (
    (0.0165, 0.0068, 0.0261),
    (-0.0165, -0.0261, -0.0068),
    (0.0012, -0.0054, 0.0089),
)  # estimate, lower, upper
THAN = "outcomes per hundred candidates with A and B together than with control"
CONCLUDE = 'python -m abatch conclude card_offer --because "…"'


@pytest.mark.parametrize(
    ("effect", "word", "told", "headline"),
    [
        (0.01, "better", UP, f"1.65 more {THAN}: between 0.68 and 2.61 more."),
        (-0.01, "better", DOWN, f"1.65 fewer {THAN}: between 0.68 and 2.61 fewer."),
        (0.01, "worse", DOWN, f"1.65 fewer {THAN}: between 0.68 and 2.61 fewer."),
        (-0.01, "worse", UP, f"1.65 more {THAN}: between 0.68 and 2.61 more."),
        (
            -0.01,
            "no difference larger than d",
            WIDE,
            (
                "If there is a difference at all, it is smaller than the 1.00 outcomes per hundred"
                " candidates that were registered as worth having: anything from 0.54 fewer to 0.89"
                " more with A and B together than with control."
            ),
        ),
        (
            0.01,
            "not yet known",
            WIDE,
            (
                f"So far 0.12 more {THAN}, but anything from 0.54 fewer to 0.89 more is still"
                " possible."
            ),
        ),
        (0.01, "not yet known", (0.0, None, None), "The outcomes so far allow no interval yet."),
        (
            0.01,
            "too early",
            WIDE,
            (
                "Too few outcomes are known to say anything. Each group needs 100 candidates whose"
                " outcome is known, 10 of them with and 10 without the outcome. So far: 5,400"
                " against 600."
            ),
        ),
        (
            0.01,
            "invalid",
            UP,
            "Nothing can be concluded: the groups do not have the sizes that their shares give.",
        ),
    ],
)
def test_render_headline_of_each_word(
    tell: Callable[..., str],
    effect: float,
    word: str,
    told: tuple[float, float, float],
    headline: str,
) -> None:
    text = tell(verdict(word, *told), outcome=outcome(effect))
    shown = word.replace("than d", "than 1.00")
    assert f"models vs control: {shown} · B vs A: too early" in text
    assert f"A and B together, against control {shown} {headline}" in text
    assert ("no difference expected: 1.00 " in text) == (
        word not in ("too early", "invalid") and told[1] is not None
    )  # the small picture
    assert (
        "less frequent" if effect < 0 else "more frequent"
    ) + ", by about 1.00 outcomes per hundred candidates?" in text
    sure = {
        "invalid": "Not at all, as long as the groups are not alike.",
        "too early": "Nothing is claimed yet.",
    }
    assert (
        "How sure "
        + sure.get(
            word,
            "95 %, over all looks and both questions together. So this may be looked at every day.",
        )
        in text
    )
    assert (
        "B, against A too early Nothing is known yet, for no outcome has been looked at." in text
    )  # it has no row


def test_render_headline_numeric(tell: Callable[..., str]) -> None:
    text = tell(verdict("better", 65.4, 20.2, 110.6), outcome=outcome(40.0, "numeric"), cap=5000.0)
    assert (
        "against control better 65 more per candidate with A and B together than with control:"
        " between 20 and 111 more." in text
    )
    assert "Does it make the outcome larger, by about 40 per candidate?" in text
    assert "capped at 5,000" in text
    text = tell(
        verdict("worse", -0.0654, -0.1106, -0.0202),
        outcome=outcome(0.04, "numeric"),
        exposure="all",
    )
    assert (
        "0.065 less per prediction with A and B together than with control: between 0.020 and 0.111"
        " less." in text
    )
    text = tell(verdict("too early"), outcome=outcome(0.4, "numeric"))
    assert (
        "Each group needs 100 candidates whose outcome is known, and 100 outcomes other than 0."
        in text
    )


@pytest.mark.parametrize(
    ("word", "told", "units", "advice"),
    [
        (
            "better",
            UP,
            6000,
            (
                f"Conclude: {CONCLUDE} Then think of giving A and B together the traffic, in a new"
                " experiment; shares never"
            ),
        ),
        ("worse", DOWN, 6000, f"Stop using A and B together, roll back, and conclude: {CONCLUDE}"),
        (
            "no difference larger than d",
            WIDE,
            6000,
            f"Take the simpler of the two, and conclude: {CONCLUDE}",
        ),
        (
            "invalid",
            UP,
            6000,
            "Find the cause (see Sample ratio below), mend it, and start anew under a new name.",
        ),
        # 15,600 planned at most, 6,000 there, 1,000 of them in the last 10 days
        (
            "not yet known",
            WIDE,
            6000,
            (
                "9,600 more candidates whose outcome is known are usually enough at most; at the"
                " present pace, 96 days."
            ),
        ),
        (
            "too early",
            WIDE,
            6000,
            "Wait. If the effect is as large as expected, 9,600 more candidates",
        ),
        (
            "not yet known",
            WIDE,
            15_600,
            (
                "Waiting is not expected to change the answer: all the candidates that were planned"
                " at most are there."
            ),
        ),
    ],
)
def test_render_says_what_next(
    tell: Callable[..., str],
    read: Callable[..., Figures],
    word: str,
    told: Any,
    units: int,
    advice: str,
) -> None:
    rows = [
        register(),
        *NIGHTS,
        verdict(word, *told),
        look(RUN_DATE - 40 * DAY, n_units=1),
        look(RUN_DATE - 10 * DAY, n_units=5000),
    ]
    text = Page(report.render(read(*rows, look(n_units=units)))).text
    assert (
        f"Next {advice}" in text
        or advice in text.partition("Next Wait.")[2].partition("B, against A")[0]
    )
    assert "Look at the outcome feed" not in text


def test_render_marks_what_is_doubted(read: Callable[..., Figures]) -> None:
    rows = [register(), *NIGHTS, verdict("better", *UP)]
    doubts = "outcome of B: 2026-09-01, 2026-09-02"
    text = Page(report.render(read(*rows, look(n_units=6000, doubts=doubts)))).text
    assert "Outcomes are doubted." in text
    assert "may be wrong: outcome of B: 2026-09-01, 2026-09-02." in text
    assert "Next Do not act on this yet: outcomes are doubted" in text
    assert "python -m abatch acknowledge" in text
    assert "changed variant" not in text
    assert "think of giving" not in text
    both = f"{doubts} (few outcomes); 30 candidates who changed variant, unlike the others"
    text = Page(report.render(read(*rows, look(n_units=6000, doubts=both)))).text
    assert "Candidates who changed variant stay left out: let the candidates query" in text
    moved = look(n_units=6000, n_mixed=30, mixed_shift=-0.0123)
    text = Page(report.render(read(*rows, ratio("A", 2700, 2700, 0.5), moved))).text
    assert "30 candidates were seen in more than one variant and are left out." in text
    assert "all in the smallest variant, they would move its mean by -0.0123." in text


def test_render_pace_unknown_or_no_plan(read: Callable[..., Figures]) -> None:
    rows = [*NIGHTS, verdict("not yet known", *WIDE), look(RUN_DATE - 10 * DAY)]
    text = Page(report.render(read(*rows, register(), look()))).text
    # as many as ten days ago
    assert "at most; but for a week or more nobody new was counted, so they may never" in text
    stuck = look(mature_date=RUN_DATE - 26 * DAY)  # as ten days ago, too
    text = Page(report.render(read(*rows, register(), stuck))).text
    assert "are usually enough at most." in text
    assert "pace" not in text
    plan = {
        **REGISTERED["plan"],
        "mean": None,
        "samples": {},
        "days_most": None,
        "days_median": None,
    }
    text = Page(report.render(read(*rows, register(plan=plan), look()))).text
    assert "Wait. How long cannot be told, for nothing was planned with." in text
    assert "Planned with no base rate" in text


@pytest.mark.parametrize(
    ("watermark", "words"),
    [
        (RUN_DATE - 4 * DAY, "it is complete to 2026-10-16 only, 4 days ago."),
        (None, "it has told no date yet."),
    ],
)
def test_render_late_feed(read: Callable[..., Figures], watermark: date | None, words: str) -> None:
    text = Page(
        report.render(read(register(), *NIGHTS, look(watermark=watermark), verdict("better", *UP)))
    ).text
    assert f"Look at the outcome feed: {words}" in text
    text = Page(
        report.render(
            read(register(), *NIGHTS, look(watermark=RUN_DATE - 3 * DAY), verdict("better", *UP))
        )
    ).text
    assert "Look at the outcome feed" not in text
    assert "complete to 2026-10-17, 3 days before this night" in text


def test_render_first_decision_beside_today(tell: Callable[..., str]) -> None:
    earlier = [
        verdict("not yet known", *WIDE, run_date=RUN_DATE - 9 * DAY),
        verdict("better", *UP, run_date=RUN_DATE - 8 * DAY),
    ]
    assert "First decided on 2026-10-12, and the same today." in tell(
        *earlier, verdict("better", *UP)
    )
    text = tell(*earlier, verdict("not yet known", *WIDE))
    assert (
        "First decided on 2026-10-12, as better. Today's figures alone say not yet known: the"
        " decision stands in the record" in text
    )
    assert "First decided on 2026-10-12, as better; that does not count while" in tell(
        *earlier, verdict("invalid", *UP)
    )
    assert "No look has decided it, of 2 since 2026-10-11." in tell(
        earlier[0], verdict("not yet known", *WIDE)
    )


def test_render_invalid_says_who_is_missing_and_who_is_over(tell: Callable[..., str]) -> None:
    sizes = [
        ratio("A", 2600, 2800, 0.0001),
        ratio("B", 2700, 2750, 0.0001),
        ratio("control", 912, 662, 0.0001),
    ]
    mature = [ratio("A", 900, 890, 0.5, "mature"), ratio("control", 90, 100, 0.5, "mature")]
    text = tell(verdict("invalid", *UP), *sizes, *mature)
    assert (
        "A lacks 200 candidates, 2,600 instead of 2,800, and control has 250 too many, 912 instead"
        " of 662, among all that were assigned." in text
    )
    assert "B has" not in text
    assert "B lacks" not in text
    assert "among those whose outcome is known" not in text
    assert "No. The alarm went off: chance does not explain these sizes." in text
    text = tell(verdict("better", *UP), *mature)
    assert "No alarm: by a test that may be looked at daily the sizes can be chance." in text
    assert "too many" not in text


def test_render_invalid_by_single_nights(tell: Callable[..., str]) -> None:
    sizes = [
        ratio("A", 2801, 2800, 0.0001, pvalue_single=0.98),
        ratio("control", 2799, 2800, 0.0001, pvalue_single=0.98),
    ]
    text = tell(verdict("invalid", *UP), *sizes)
    assert "but their shares change from night to night, among all that were assigned." in text
    assert "too many" not in text


def test_render_the_p_of_one_look_is_told_what_it_is(tell: Callable[..., str]) -> None:
    """The published sizes of Cookie Cats: .0086 to who looks once, .31 to who looks daily."""
    sizes = [
        ratio("A", 44_700, 45_094.5, 0.31, pvalue_single=0.0086),
        ratio("control", 45_489, 45_094.5, 0.31, pvalue_single=0.0086),
    ]
    text = tell(verdict("not yet known", *WIDE), *sizes)
    assert "such as chance gives" not in text
    assert "No alarm: by a test that may be looked at daily the sizes can be chance." in text
    assert "Who looks daily must not decide by it" in text
    assert "On this look alone the sizes are doubtful (p 0.0086, assigned)" in text
    even = [ratio("A", 500, 500, 1), ratio("control", 500, 500, 1, pvalue_single=None)]
    assert "doubtful" not in tell(verdict("not yet known", *WIDE), *even)


def test_render_invalid_where_candidates_stop_coming(tell: Callable[..., str]) -> None:
    visits = [
        ratio("A", 9000, 7000, 0.0001, "exposures"),
        ratio("control", 600, 2600, 0.0001, "exposures"),
    ]
    text = tell(verdict("invalid", *UP), *visits)
    assert (
        "the candidates of one group come more often than those of another. control lacks 2,000"
        " predictions, 600 instead of 2,600, and A has 2,000 too many, 9,000 instead of 7,000, if"
        " all came equally often." in text
    )
    assert "Stage exposures: do the candidates of all groups come equally often?" in text


@pytest.mark.parametrize(
    ("rule", "word", "told", "words"),
    [
        (
            ("binary", "decrease", 0.005),
            "kept",
            (0.0012, -0.0024, 0.0048),
            (
                "kept. 0.12 more outcomes per hundred candidates, anything from 0.24 fewer to 0.48"
                " more; up to 0.50 more is accepted."
            ),
        ),
        (
            ("binary", "increase", 0.005),
            "broken",
            DOWN,
            (
                "broken. 1.65 fewer outcomes per hundred candidates, between 0.68 and 2.61 fewer;"
                " up to 0.50 fewer is accepted."
            ),
        ),
        (
            ("numeric", "increase", 30.0),
            "not yet known",
            (-25.0, -60.0, 10.0),
            (
                "not yet known. 25.0 less per candidate, anything from 60.0 less to 10.0 more; up"
                " to 30.0 less is accepted."
            ),
        ),
        (("binary", "decrease", 0.005), "too early", UP, "too early; up to 0.50 more is accepted."),
        (("binary", "decrease", 0.005), "invalid", UP, "invalid; up to 0.50 more is accepted."),
    ],
)
def test_render_guardrails(
    tell: Callable[..., str], rule: tuple[str, str, float], word: str, told: Any, words: str
) -> None:
    kind, direction, margin = rule
    rules = {
        "complaints": {
            "kind": kind,
            "direction": direction,
            "margin": margin,
            "cap": None,
            "query": "select 1",
            "watermark": None,
        }
    }
    text = tell(verdict("better", *UP), verdict(word, *told, metric="complaints"), guardrails=rules)
    assert f"Limits complaints: {words}" in text
    assert ("Do not roll this out: a limit is broken (complaints)." in text) == (word == "broken")
    assert ("Then think of giving" in text) == (word != "broken")


@pytest.mark.parametrize(
    ("finding", "doubts", "holds"),
    [
        ("models vs control: better, +0.02 (+0.001 to +0.039) on 2026-10-01", None, True),
        ("models vs control: better on 2026-10-01", None, True),
        ("models vs control: worse, -0.02 on 2026-10-01", None, False),
        ("no look yet", None, False),
        ("models vs control: better, +0.02 on 2026-10-01", "outcome of A", False),
        ("models vs control: better, +0.02, with doubts (outcome of A)", "outcome of A", True),
        ("models vs control: better, +0.02, with doubts (outcome of A)", None, True),
    ],
)
def test_render_says_whether_a_conclusion_still_holds(
    read: Callable[..., Figures], finding: str, doubts: str | None, holds: bool
) -> None:
    row = {"because": "so", "finding": finding, "concluded_by": "me"}
    concluded = (tables.conclusions, {**row, "concluded_at": datetime(2026, 10, 2, 12)})
    rows = [register(), *NIGHTS, verdict("better", *UP), look(n_units=6000, doubts=doubts)]
    text = Page(report.render(read(*rows, concluded))).text
    again = "Next Look again: it was concluded on 2026-10-02, and what is known has changed since."
    assert (again in text) == (not holds)


def test_render_conclusion_of_a_person(html: str) -> None:
    text = Page(html).text
    assert (
        f"What was concluded {NASTY} Ola <o@bank>, 2026-10-02 12:00 UTC. The newest look said then:"
        " models vs control: worse, -0.0165; B vs A: too early on 2026-10-02" in text
    )
    assert "Next Nothing more: it was concluded on 2026-10-02." in text
    assert CONCLUDE not in text


@pytest.mark.parametrize(
    ("effect", "word", "told", "units", "misses"),
    [
        (0.01, "better", UP, 99_999, False),
        (0.01, "better", (0.005, 0.001, 0.0099), 0, True),  # less than was expected, surely
        (-0.01, "better", (-0.005, -0.0099, -0.001), 0, True),
        (-0.01, "better", DOWN, 0, False),
        (0.01, "worse", DOWN, 0, True),
        (-0.01, "worse", UP, 0, True),
        (0.01, "no difference larger than d", WIDE, 0, True),
        (0.01, "not yet known", (0.0012, -0.0054, 0.0101), 15_599, False),
        (0.01, "not yet known", (0.0012, -0.0054, 0.0101), 15_600, True),
        (0.01, "too early", DOWN, 99_999, False),
        (0.01, "invalid", DOWN, 99_999, False),
        (0.01, "not yet known", (0.0012, None, None), 99_999, False),
    ],
)
def test_render_causes_only_when_the_finding_misses(
    read: Callable[..., Figures],
    effect: float,
    word: str,
    told: Any,
    units: int,
    misses: bool,
) -> None:
    text = Page(
        report.render(
            read(register(outcome=outcome(effect)), look(n_units=units), verdict(word, *told))
        )
    ).text
    assert (
        "Less than was expected: the usual causes models vs control: less is there" in text
    ) == misses
    assert ("Ranking against validation" in text) == misses


def test_render_causes_figures_of_the_tables(html: str) -> None:
    page = Page(html)
    start = page.rows.index(["Base rate against the plan"])
    assert page.rows[start : start + 17] == [
        ["Base rate against the plan"],
        ["3.50 % (2.09 % to 5.79 %) control", "5.00 %, as planned"],
        ["Candidates against those of training"],
        ["PSI 0.300; 0.400 by chance modelA_v1.0_2026-09-08, its scores", "at most 0.400"],
        [f"PSI 0.310; 0.012 by chance modelA_v1.0_2026-09-08, {NASTY}", "at most 0.100 unusual"],
        ["Calibration, each model on its own variant"],
        ["intercept −0.123 (−0.300 to 0.050) modelA_v1.0", "0 is right"],
        ["slope 0.810 (0.700 to 0.920) modelA_v1.0", "1 is right unusual"],
        ["Ranking against validation"],
        ["ROC AUC 0.731 (0.701 to 0.761) modelA_v1.0", "0.770 to 0.800, on validation unusual"],
        ["Sample ratio"],
        ["smallest p so far: 0.5000 assigned", "0.01 or more"],
        ["Outcomes not yet known"],
        [
            "40.00 % of 10,000 predictions all variants",
            "at most half",
        ],  # 6,000 of 10,000 are mature
        ["On 2026-10-20", "A and B together", "control"],
        ["Candidates", "5,400", "600"],
        ["Outcomes per hundred", "5.50", "4.00"],  # 297 of 5,400; 24 of 600
    ]


def test_render_causes_not_measured(tell: Callable[..., str]) -> None:
    text = tell(verdict("worse", *DOWN), outcome=outcome(0.01))
    for cause in ("plan", "training", "own variant", "validation", "Sample ratio"):
        assert f"{cause} not measured" in text
    numeric = variant_score("control", 500, 400, 14, 0.0209, 0.0579, 80, 2, outcome_sum=1200.0)
    plan = {**REGISTERED["plan"], "mean": 4.0}
    text = tell(
        verdict("worse", -0.3, -0.4, -0.2), numeric, outcome=outcome(0.4, "numeric"), plan=plan
    )
    assert (
        "Base rate against the plan 3.000 control 4.000, as planned Candidates" in text
    )  # 1,200 / 400; nothing to judge by


def test_render_causes_ranking_within_its_interval_is_usual(
    read: Callable[..., Figures],
) -> None:
    rows = [
        register(),
        look(),
        verdict("worse", *DOWN),
        score("modelA_v1.0", "all", "roc_auc", 0.73, 0.70, 0.76),
    ]
    for validated, mark in ((0.76, ""), (0.77, " unusual")):
        page = Page(
            report.render(
                read(
                    *rows,
                    score("modelA_v1.0", "all", "base_rate", 0.05),
                    model("modelA_v1.0_2026-09-01", validated),
                )
            )
        )
        assert [
            "ROC AUC 0.730 (0.700 to 0.760) modelA_v1.0",
            f"{validated:.3f}, on validation{mark}",
        ] in page.rows


def test_write_report_figures_of_the_tables(experiment: Experiment, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        fill(connection, WHOLE)
        path = report.write_report(connection, experiment, RUN_DATE)
    assert path == experiment.environment.reports_dir / "card_offer.html"
    assert [*experiment.environment.reports_dir.iterdir()] == [path]
    page = Page(path.read_text(encoding="utf-8"))
    assert page.row("A") == [
        "A",
        "5.00 % 4.13 % to 6.05 %",
        "100",
        "2,000",
        "4,400",
        "400",
        "12.50 %",
    ]
    assert ["B", "0.00 % 0.00 % to 0.18 %", "0", "2,100", "4,500", "420", "0.00 %"] in page.rows
    assert page.row("control no model") == [
        "control no model",
        "3.50 % 2.09 % to 5.79 %",
        "14",
        "400",
        "1,000",
        "80",
        "2.50 %",
    ]
    assert "9,900 predictions. The outcome of 4,500 is known; 114 of these had it." in page.text
    assert page.row("ROC AUC how")[1:] == ["0.731 0.701 to 0.761 exact to ±0.0002"]
    assert page.row("Base rate share")[1:] == ["0.0500 0.0412 to 0.0604"]
    assert page.row("Log loss")[1:] == ["0.1988 0.1800 to 0.2200"]
    assert page.row("Lift, top")[1:] == ["3.46 3.00 to 3.90"]
    assert page.row("KS")[1:] == ["–"]  # not in the table, not on the page
    assert "modelB_v1.0: 2,000 mature predictions, 3 of them with the outcome." in page.text
    assert page.row("p today") == ["p today; smallest so far", "under 0.0001 under 0.0001"]
    assert "Relative difference cannot be bounded yet" in page.text
    assert "the figures of another night" not in page.text
    assert "A 45 %, B 45 %, control 10 % (no model)" in page.text
    assert "SHA-256 f00d" in page.text
    assert (
        "5.00 % in the control (training rows); models vs control: at most 15,600 candidates in 80"
        " % of cases, 9,520 in half" in page.text
    )
    assert f"run score-{RUN_DATE}-done , abatch 0.9" in page.text.replace("done,", "done ,")


def test_render_numeric_variants(tell: Callable[..., str]) -> None:
    row = variant_score("A", 500, 400, 14, 0.0209, 0.0579, 80, 2, outcome_sum=1300.0)
    text = tell(row, outcome=outcome(2.0, "numeric"))
    # 1,300 / 400
    assert "14 of these were above 0." in text
    assert "A 3.50 % 2.09 % to 5.79 % 3.25 14 400 500" in text


def find_svgs(html: str) -> dict[str, str]:
    """The plots by the first four words of their label; of several, the first."""
    found = re.findall(r'role="img" aria-label="([^"]*)">(<svg.*?</svg>)', html, flags=re.DOTALL)
    return {" ".join(label.split()[:4]): svg for label, svg in reversed(found)}


def find_paths(svg: str, style: str) -> list[list[tuple[float, float]]]:
    """The points of each line or area whose style contains these words."""
    paths = [
        points
        for points, found in re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', svg)
        if style in found
    ]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", points)]
        for points in paths
    ]


def find_dots(svg: str) -> list[tuple[float, float]]:
    return [
        (float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    ]


def find_gauge(svg: str) -> tuple[float, float]:
    """Heights of the lines at 0 and at the registered effect, in a plot of looks."""
    return (
        find_paths(svg, "stroke: currentColor; stroke-width: 0.9; stroke-linecap: square")[0][0][1],
        find_paths(svg, "dasharray: 3.6")[0][0][1],
    )


def test_render_sequence_of_the_verdicts(html: str) -> None:
    svg = find_svgs(html)["Plot of the difference"]
    zero, one = find_gauge(svg)  # per hundred

    def heights(path: list[tuple[float, float]]) -> list[float]:
        return [(y - zero) / (one - zero) for _, y in path]

    (estimate,) = find_paths(svg, "stroke: #2f7fc1; stroke-width: 1.6;")
    assert heights(estimate)[-3:] == pytest.approx([2.0, 1.8, -1.65], abs=1e-3)
    naive = find_paths(svg, "stroke: #d0691a")
    assert [heights(path)[-1] for path in naive] == pytest.approx(
        [-1.65 - 0.588, -1.65 + 0.588], abs=1e-3
    )  # 1.96 * 0.3
    (today,) = find_paths(svg, "stroke: #2f7fc1; stroke-width: 1.666")
    assert heights(today) == pytest.approx([-2.61, -0.68], abs=1e-3)
    (band,) = find_paths(svg, "fill: #2f7fc1; fill-opacity")
    days = [x for x, _ in estimate]
    # not in the burn-in
    assert min(x for x, _ in band) == pytest.approx(days[1])
    assert max(x for x, _ in band) == pytest.approx(days[3])
    assert sorted({round(y, 2) for y in heights(band)}) == [-2.61, -0.68, -0.2, 0.1, 3.8, 3.9]
    (decided,) = find_paths(svg, "dasharray: 0.9")
    # the first that was better
    assert decided[0][0] == pytest.approx(days[1])
    assert "decided first" in svg
    assert (
        "Plot of the difference on 4 looks, outcomes per hundred candidates; on 2026-10-20 −1.65"
        " (−2.61 to −0.68)" in Page(html).labels()
    )


def test_render_sequence_without_an_interval(
    tell: Callable[..., str], read: Callable[..., Figures]
) -> None:
    page = Page(
        report.render(read(register(), look(), verdict("not yet known", 0.004, None, None)))
    )
    assert (
        "Plot of the difference on 1 looks, outcomes per hundred candidates; on 2026-10-20 0.40"
        in page.labels()
    )
    assert "There is no look with figures yet." in tell(verdict("too early"))


def test_render_sequence_early_looks_do_not_flatten_the_rest(
    read: Callable[..., Figures],
) -> None:
    looks = [
        verdict(
            "not yet known", 0.01, 0.01 - 2 / i, 0.01 + 2 / i, run_date=RUN_DATE - (50 - i) * DAY
        )
        for i in range(1, 50)
    ]
    svg = find_svgs(
        report.render(read(register(), look(), *looks, verdict("better", 0.01, 0.002, 0.018)))
    )["Plot of the difference"]
    zero, one = find_gauge(svg)
    assert (
        zero - one
    ) / 216 > 1 / 60  # the picture is 216 points high; the first band is 400 per hundred wide
    (today,) = find_paths(svg, "stroke: #2f7fc1; stroke-width: 1.666")
    assert (zero - today[0][1]) / (zero - one) == pytest.approx(0.2, abs=1e-3)
    assert all(0 < y < 216 for _, y in today)


def test_render_plots_of_the_models(html: str) -> None:
    none_yet = ("Log loss", "Brier skill", "Calibration intercept", "Calibration slope")
    assert Page(html).labels()[-7:] == [
        (  # .25 / .05, .0125 / .05
            "Plot of lift by tenth of the predictions, 1 being the highest; modelA_v1.0: 5.00 in 1,"
            " 0.25 in 10"
        ),
        (
            "Reliability plot of modelA_v1.0, from low to high: 2.00 % predicted, 1.25 % observed;"
            " 25.00 % predicted, 25.00 % observed"
        ),
        (
            "Plot of ROC AUC over cohorts of run_date; newest: modelA_v1.0 0.820 in the cohort of"
            " 2026-09-07"
        ),
        *[f"Plot of {title} over cohorts of run_date; newest: none yet" for title in none_yet],
    ]
    svgs = find_svgs(html)
    lift = ((0.25, -0.02, 0.6), (5.0, 4.0, 6.0))  # the rates and their intervals over .05
    for start, rates in (
        ("Plot of lift by", lift),
        ("Plot of ROC AUC", ((0.61, 0.5, 0.7), (0.82, 0.7, 0.9))),
    ):
        dots, intervals = (
            find_dots(svgs[start])[-2:],
            find_paths(svgs[start], "stroke: #2f7fc1; stroke-width: 1.66"),
        )
        unit = (dots[0][1] - dots[1][1]) / (rates[1][0] - rates[0][0])  # y points down
        for (_, y), interval, (value, lower, upper) in zip(dots, intervals, rates, strict=True):
            assert [y - end for _, end in interval] == pytest.approx(
                [unit * (lower - value), unit * (upper - value)], abs=0.01
            )
    (worst, best), (early, late) = (
        find_dots(svgs[start])[-2:] for start in ("Plot of lift by", "Plot of ROC AUC")
    )
    assert worst[0] > best[0]
    assert early[0] < late[0]
    low, high = find_dots(svgs["Reliability plot of modelA_v1.0,"])[-2:]
    assert low[0] < high[0]
    assert low[1] > high[1]


def test_render_says_what_may_not_be_concluded(html: str) -> None:
    text = Page(html).text
    for words in (
        "Action changes labels",
        "action together",
        "do not decide by them",
        "right for one single look; whoever looks daily",
    ):
        assert words in text


def test_render_drift_only_above_noise(html: str) -> None:
    page = Page(html)
    assert page.row("modelA_v1.0_2026-09-01") == [
        "modelA_v1.0_2026-09-01",
        "much",
        "0.300",
        "0.050",
        "2,000",
    ]
    assert page.row("modelA_v1.0_2026-09-08") == [
        "modelA_v1.0_2026-09-08",
        "none",
        "0.300",
        "0.400",
        "2,000",
    ]  # chance alone makes .4
    assert page.row("modelB_v1.0_2026-09-01")[1] == "some"
    order = [row[0] for row in page.rows if len(row) == 5 and row[0].startswith("model")]
    assert order == [
        "modelA_v1.0_2026-09-08",
        "modelA_v1.0_2026-09-01",
        "modelB_v1.0_2026-09-01",
    ]  # newest first
    assert page.row(f"{NASTY} modelA")[1:] == [
        "much",
        "0.310",
        "0.012",
        "4.56 %",
        "0.12 %",
        f"7: {NASTY} (7)",
    ]
    assert page.row("age modelA")[1:] == ["little", "0.020", "0.012", "4.56 %", "0.12 %", "–"]
    assert "Features, in the cohort of 2026-10-12" in page.text


def test_render_sample_ratio_and_freshness(html: str) -> None:
    page = Page(html)
    assert page.row("control assigned") == [
        "control assigned",
        "600",
        "600",
        "0",
        "0.4000",
        "0.5000",
        "0.4000",
    ]
    assert "Outcomes complete to 2026-10-19, 1 day before this night" in page.text
    assert "Newest night whose outcomes are known 2026-10-04" in page.text
    assert "Still without a known outcome 40.00 % of 10,000 predictions" in page.text
    assert "Last done train never, predict 2026-09-04, score 2026-10-20" in page.text
    assert (
        "3 predicted since 2026-09-01. Missed: 2026-09-05 to 2026-10-19, 2026-09-03." in page.text
    )


def test_render_models_and_runs(html: str) -> None:
    page = Page(html)
    assert (
        "modelA_v1.0_2026-09-08 trained on 31,970 rows from 2025-08-01 until before 2026-08-01"
        in page.text
    )
    assert "no model is live on 2026-10-20" in page.text  # variant B
    made = page.row("modelA_v1.0_2026-09-08 promote")
    assert made[:2] == ["modelA_v1.0_2026-09-08 promote, variant A, from 2026-09-01", NASTY]
    assert made[2] == "Kari <k@bank> 2026-09-01 22:00 UTC"
    assert page.row("2026-09-04") == [
        "2026-09-04",
        "predict",
        "done",
        "2026-09-04 00:00",
        "1 min 23 s",
        "4,321",
    ]
    failed = next(index for index, row in enumerate(page.rows) if row[2:3] == ["failed"])
    assert page.rows[failed + 1] == [NASTY]  # the error's first line


def test_render_escapes_and_stands_alone(html: str) -> None:
    page = Page(html)
    assert (
        page.text.count(NASTY) == 7
    )  # hypothesis, conclusion, cause, feature, new categories, reason, error
    assert not {"script", "link", "img", "iframe", "object", "image", "base"} & set(page.tags)
    assert not [
        name
        for name, _ in page.attributes
        if name.startswith("on") or name in ("src", "srcset", "action")
    ]
    assert all(value.startswith("#") for name, value in page.attributes if name.endswith("href"))
    assert "//" not in html
    assert "@import" not in html
    assert "@font-face" not in html
    ids = [value for name, value in page.attributes if name == "id"]
    wanted = re.findall(r'(?:href="|url\()#([^")]+)', html)
    assert len(ids) == len(set(ids))
    assert wanted
    assert set(wanted) <= set(ids)
    assert (
        html.count("<svg") == 9
    )  # the verdict's small one; looks, lift, reliability, five histories


def test_render_same_figures_same_bytes(figures: Figures, html: str) -> None:
    turned: dict[str, Any] = {
        name: dict(reversed(getattr(figures, name).items()))
        for name in ("scores", "variant_scores")
    }
    turned["verdicts"] = sorted(reversed(figures.verdicts), key=lambda row: row.run_date)
    assert turned["verdicts"] != figures.verdicts
    assert report.render(figures._replace(**turned)) == html


def test_render_no_look_yet(read: Callable[..., Figures]) -> None:
    html = report.render(
        read(register(), *NIGHTS, *MODELS, variant_score("A", 4400, 0, 0, None, None, 0, 0))
    )
    text = Page(html).text
    assert (
        "against control too early Nothing is known yet, for no outcome has been looked at. The"
        " first can be known once" in text
    )
    assert (
        "complete to 2026-09-16: the first night, 2026-09-01, plus a window of 14 and a lag of 1"
        " days" in text
    )
    assert "Next Wait. If the effect is as large as expected, 15,600 more candidates" in text
    assert "Since when Nobody has looked yet." in text
    assert "No outcome is known yet" in text
    assert "There is no look yet, so it has not been tested." in text
    assert "<svg" not in html


def test_render_empty_tables(read: Callable[..., Figures]) -> None:
    text = Page(report.render(read())).text
    assert "Nothing is registered yet" in text
    assert "No night has been predicted yet" in text
    assert "cannot be told when" in text


def test_render_other_night_is_said(figures: Figures) -> None:
    text = Page(report.render(figures._replace(run_date=RUN_DATE + DAY))).text
    assert "The tables hold the figures of another night, 2026-10-20" in text
    assert "what is known is of 2026-10-20" in text


def test_render_a_year_of_nights_is_small(read: Callable[..., Figures]) -> None:
    """Nightly looks, weekly cohorts, models and features, two comparisons and a guardrail.

    And no label is drawn outside (a warning).
    """
    rows: list[Row] = [
        register(
            guardrails={
                "complaints": {
                    "kind": "binary",
                    "direction": "decrease",
                    "margin": 0.005,
                    "cap": None,
                    "query": "",
                    "watermark": None,
                }
            }
        )
    ]
    for night in range(365):
        day, wave = RUN_DATE - night * DAY, 0.01 + 0.004 * math.sin(night)
        rows += [run("predict", day), run("score", day), look(day)]
        half = 0.2 / math.sqrt(365.5 - night)
        for comparison, metric in (
            ("models vs control", "outcome"),
            ("B vs A", "outcome"),
            ("models vs control", "complaints"),
        ):
            word = "kept" if metric == "complaints" else "not yet known"
            rows.append(
                verdict(
                    word,
                    wave,
                    wave - half,
                    wave + half,
                    run_date=day,
                    comparison=comparison,
                    metric=metric,
                )
            )
    for week in range(52):
        cohort = str(RUN_DATE - (week * 7 + 1) * DAY)
        for letter in "AB":
            dated = f"model{letter}_v1.0_{cohort}"
            rows += [
                model(dated, 0.75),
                score(dated, "all", "psi", 0.02),
                score(dated, "all", "psi_noise", 0.01),
            ]
            for name in (dated, f"model{letter}_v1.0"):
                rows += [
                    score(name, cohort, metric, wave, wave - 0.1, wave + 0.1) for metric in HISTORY
                ]
    for letter in "AB":
        rows += [
            score(f"model{letter}_v1.0", "all", metric, *values)
            for metric, values in METRICS.items()
        ]
        for tenth in range(2, 10):
            rows += [
                score(
                    f"model{letter}_v1.0",
                    "all",
                    f"reliability_{kind}_{tenth:02}",
                    0.02 * tenth,
                    0.01,
                    0.3,
                )
                for kind in ("rate", "prediction")
            ]
        rows += [
            feature(f"feature_{i:03}", 0.2, f"model{letter}_v1.0_{RUN_DATE - DAY}")
            for i in range(100)
        ]
    html = report.render(read(*rows))
    assert len(html.encode()) < 1_000_000
    assert "The 15 largest of 200; the table feature_drift has all." in Page(html).text
    assert len(find_dots(find_svgs(html)["Plot of ROC AUC"])) == 2 * 52
    ((*estimate,),) = find_paths(
        find_svgs(html)["Plot of the difference"], "stroke: #2f7fc1; stroke-width: 1.6;"
    )
    assert len(estimate) > 300


def test_render_drift_that_is_not_measured(read: Callable[..., Figures]) -> None:
    letters = feature("letters", None, psi_noise=None, n_new=1, new_categories="Dear (1)")
    page = Page(report.render(read(*WHOLE, letters, feature("branch", 0.001))))
    rows = {row[0].partition(" ")[0]: row for row in page.rows if row}
    assert rows["letters"][1:] == ["not measured", "–", "–", "4.56 %", "0.12 %", "1: Dear (1)"]
    names = [row[0].partition(" ")[0] for row in page.rows if row]
    assert names.index("letters") > names.index("branch")  # most moved first


def test_render_many_cohorts_and_long_names(read: Callable[..., Figures]) -> None:
    names = [f"{letter * 60}_v1.0" for letter in "ABCDE"]
    weeks = [str(date(2024, 1, 1) + timedelta(weeks=week)) for week in range(80)]
    rows = [
        score(name, "all", metric, *values) for name in names for metric, values in METRICS.items()
    ]
    rows += [
        score(name, week, "roc_auc", 0.5 + index / 400)
        for name in names
        for index, week in enumerate(weeks)
    ]
    html = report.render(read(*rows))
    assert len(find_dots(find_svgs(html)["Plot of ROC AUC"])) == 5 * plots.N_COHORTS
    assert f"in the cohort of {weeks[-1]}" in html


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ([], []),
        ([1, 2, 3], ["2026-09-04 to 2026-09-09"]),
        ([1, 3, 4, 8, 9], ["2026-09-05 to 2026-09-07", "2026-09-02"]),
        ([9, 10], []),
        (
            range(-24, 10, 2),
            [f"2026-09-{day:02}" for day in (9, 7, 5, 3, 1)]
            + [f"2026-08-{day}" for day in (30, 28, 26, 24, 22)],
        ),
    ],
)
def test_describe_gaps(days: list[int], expected: list[str]) -> None:
    nights = [date(2026, 8, 31) + timedelta(days=day) for day in days]
    found = gaps.describe_gaps(gaps.find_gaps(nights, date(2026, 9, 10)))
    assert found[:10] == expected
    assert found[10:] == ([] if len(expected) < 10 else ["and 7 earlier gaps"])


@pytest.mark.parametrize(
    ("kind", "effect", "counted", "expected"),
    [
        ("binary", 0.01, "candidate", (100, 2, "outcomes per hundred candidates", "fewer")),
        # .050
        ("binary", -0.0005, "prediction", (100, 3, "outcomes per hundred predictions", "fewer")),
        ("numeric", 250.0, "candidate", (1, 0, "per candidate", "less")),
        ("numeric", -0.02, "prediction", (1, 4, "per prediction", "less")),
        (
            "binary",
            0.0,
            "candidate",
            (100, 2, "outcomes per hundred candidates", "fewer"),
        ),  # a guardrail without room
    ],
)
def test_find_scale(
    kind: str, effect: float, counted: str, expected: tuple[int, int, str, str]
) -> None:
    assert findings.find_scale(kind, effect, counted) == expected


def test_write_report_unwritable_folder(experiment: Experiment, engine: sa.Engine) -> None:
    experiment.environment.reports_dir.parent.mkdir()
    experiment.environment.reports_dir.write_text("a file where the folder should be")
    with engine.connect() as connection, pytest.raises(AbatchError) as raised:
        report.write_report(connection, experiment, RUN_DATE)
    assert str(raised.value).startswith(
        f"{experiment.environment.reports_dir}: cannot be written (File exists)."
    )
    assert "\n" not in str(raised.value)


def test_write_report_unwritable_file(experiment: Experiment, engine: sa.Engine) -> None:
    (experiment.environment.reports_dir / "card_offer.html").mkdir(parents=True)
    with (
        engine.connect() as connection,
        pytest.raises(AbatchError, match=r"card_offer\.html: cannot be written \(Is a directory\)"),
    ):
        report.write_report(connection, experiment, RUN_DATE)
    assert [path.name for path in experiment.environment.reports_dir.iterdir()] == [
        "card_offer.html"
    ]


def test_report_imports_no_template_before_it_draws() -> None:
    code = "import sys, abatch.pages.report; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
