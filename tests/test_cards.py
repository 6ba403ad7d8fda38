"""The page of a model card says what is recorded, and is safe to open anywhere."""

import copy
import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abatch.modelling import estimators, inspection
from abatch.modelling.card import Card
from abatch.pages import cards
from abatch.statistics import drift, metrics
from tests import conftest
from tests.conftest import ROOT, make_card
from tests.test_inspection import TYPES, fit, make_rows
from tests.test_report import NASTY, Page, find_dots, find_svgs


def figure(
    value: float, lower: float | None = None, upper: float | None = None
) -> dict[str, float | None]:
    return {"value": value, "lower": lower, "upper": upper}


METRICS = {
    "n": figure(6394),
    "n_positive": figure(334),
    "base_rate": figure(0.0522, 0.047, 0.0574),
    "roc_auc": figure(0.7313, 0.7012, 0.7614),
    "roc_auc_bracket": figure(0.0002),
    "calibration_slope": figure(0.81, 0.7, 0.92),
    "reliability_prediction_01": figure(0.02),
    "reliability_rate_01": figure(0.0125, -0.001, 0.03),
    "reliability_prediction_10": figure(0.25),
    "reliability_rate_10": figure(0.25, 0.2, 0.3),
}
SMALL = {
    "column": NASTY,
    "value": NASTY,
    "n": 40,
    "n_positive": 3,
    "base_rate": 0.075,
    "mean_prediction": 0.06,
}
CARD: dict[str, Any] = {
    **conftest.CARD,
    "params": {"C": 0.5, "text": NASTY},
    "columns": {"age": "number", "income": "number", NASTY: "category"},
    "query": f"select '{NASTY}' as region",
    "metrics": METRICS,
    "importances": [
        {"feature": "income", "importance": 0.08, "sd": 0.004},
        {"feature": "age", "importance": 0.02, "sd": 0.003},
        {"feature": NASTY, "importance": -0.001, "sd": 0.002},
    ],
    "subgroups": [
        {
            **SMALL,
            "column": "age",
            "value": "18 to 32",
            "n": 1600,
            "n_positive": 120,
            "roc_auc": 0.71,
            "lower": 0.66,
            "upper": 0.76,
        },
        {**SMALL, "roc_auc": None, "lower": None, "upper": None},
    ],
    "features": {
        "age": {"kind": "number", "bins": [40.0], "counts": [50, 50, 0], "others": []},
        "income": {"kind": "number", "bins": [400.0], "counts": [45, 50, 5], "others": []},
        NASTY: {"kind": "category", "bins": ["a"], "counts": [30, 9, 61], "others": []},
    },
    "left_out": {NASTY: "a value in 39 of 100 rows, but in 0 of the 61 that are not held out"},
    "gate": {
        "promote": True,
        "reason": "validation ROC AUC 0.7313 against 0.7101",
        "evidence": {"roc_auc": 0.7313, "live": NASTY},
    },
    "config": {
        "hypothesis": NASTY,
        "outcome": {"kind": "binary", "window_days": 14, "lag_days": 1, "expected_effect": 0.01},
        "split": {"A": 0.45, "B": 0.45, "control": 0.1},
        "select_top": 0.2,
        "training": {"days": 365},
    },
    "libraries": {"python": "3.11.7", "scikit-learn": "1.9.0", "numpy": "2.4.6"},
    "lock": {"scikit-learn": "1.9.0", "numpy": "2.4.6", "joblib": "1.6.0"},
}


def card(**changes: Any) -> Card:
    return make_card(**{**CARD, **changes})


def tell(**changes: Any) -> str:
    return Page(cards.render(card(**changes))).text


def test_render_says_what_is_recorded() -> None:
    page = Page(cards.render(card()))
    for words in (
        (
            "For each candidate of the experiment card_offer, this model gives the probability that"
            " the outcome happens within 14 days,"
        ),
        "It serves variant A, which gets 45 % of the candidates.",
        "and the 20 % with the highest predictions are marked as selected.",
        "Window 2025-08-16 until before 2026-08-16 As known at 2026-09-01 21:59 UTC Rows 31,970",
        "With the outcome 1,599, a base rate of 5.00 %",  # 1,599 / 31,970
        "Validation the newest 6,394 rows, from 2026-06-07 on Snapshot 5nap",
        "come from a fit without the newest rows and are measured on these, from 2026-06-07 on.",
        "it went live : validation ROC AUC 0.7313 against 0.7101.",
        "Run r1 Code abatch 0.1.0+05bad64 Config SHA-256 c0f",
        "Seed 0 Libraries numpy 2.4.6, python 3.11.7, scikit-learn 1.9.0 Machine Linux x86_64",
        "python -m abatch reproduce modelA_v1.0_2026-09-01",
        "Python 3.11.7 and these versions: pip install numpy==2.4.6 scikit-learn==1.9.0",
        "All 3 packages that were installed joblib==1.6.0 numpy==2.4.6 scikit-learn==1.9.0",
    ):
        assert words.replace(" :", ":") in page.text, words
    assert "not recorded" not in page.text
    assert "Mean outcome" not in page.text


def test_render_tables() -> None:
    html = cards.render(card())
    page = Page(html)
    assert [row for row in page.rows if len(row) == 4 and "±" in row[1]] == [
        ["income number", "0.0800 ±0.0040", "", "5.00 %"],
        ["age number", "0.0200 ±0.0030", "", "0.00 %"],
        [f"{NASTY} category", "\N{MINUS SIGN}0.0010 ±0.0020", "", "61.00 %"],
    ]
    assert [
        value for name, value in page.attributes if name == "style" and value.startswith("width")
    ] == [
        "width:100.0%",
        "width:25.0%",
        "width:0.0%",
    ]
    assert page.row("Validation rows") == ["Validation rows", "6,394"]
    assert page.row("Of these") == [
        "Of these with the outcome",
        "334",
    ]
    assert page.row("ROC AUC how")[1:] == ["0.731 0.701 to 0.761 exact to ±0.0002"]
    assert not [
        row for row in page.rows if row[0].startswith("KS")
    ]  # not in the card, not on the page
    assert page.row("18 to 32") == [
        "18 to 32",
        "0.710 0.660 to 0.760",
        "7.50 % 6.00 %",
        "1,600 120",
    ]
    assert page.row(NASTY) == [f"{NASTY} category", "\N{MINUS SIGN}0.0010 ±0.0020", "", "61.00 %"]
    assert [NASTY, "too few", "7.50 % 6.00 %", "40 3"] in page.rows


def test_render_calibration_plot() -> None:
    html = cards.render(card())
    told = (
        "from low to high: 2.00 % predicted, 1.25 % observed; 25.00 % predicted, 25.00 % observed"
    )
    assert Page(html).labels() == [f"Reliability plot of modelA_v1.0_2026-09-01, {told}"]
    low, high = find_dots(find_svgs(html)["Reliability plot of modelA_v1.0_2026-09-01,"])
    assert low[0] < high[0]
    assert low[1] > high[1]


def test_render_what_was_not_measured() -> None:
    text = tell(importances=[], subgroups=[], metrics={"n": figure(900), "n_positive": figure(19)})
    assert (
        "Importance was not measured: there were under 20 validation rows of either outcome."
        in text
    )
    assert "everybody? None are configured: training.subgroups" in text
    assert "Not measured: there were under 20 validation rows with or without the outcome." in text
    assert (
        "Nothing was measured: there were 19 validation rows with the outcome and 881 without, and"
        " under 20 of either" in text
    )
    assert "not recorded" not in text


def test_render_gate_that_kept_the_live_model() -> None:
    rules = {"min_rows": 500, "max_auc_drop": 0.02}
    evidence = {
        "rules": rules,
        "calibration_slope": figure(0.81, 0.7),
        "live": None,
        "new_word": [1, 2.5],
    }
    text = tell(gate={"promote": False, "reason": "lower by more than 0.02", "evidence": evidence})
    assert "it did not go live: lower by more than 0.02." in text
    assert (
        "Calibration slope 0.81 (0.7 to –) Live model – new word 1, 2.5 Rules max auc drop 0.02,"
        " min rows 500" in text
    )


def test_render_use_of_predictions() -> None:
    assert "Its predictions are written down, and nobody is selected by them." in tell(
        config={**CARD["config"], "select_top": 0.0}
    )
    numeric = {
        **CARD["config"],
        "outcome": {**CARD["config"]["outcome"], "kind": "numeric", "window_days": 1},
    }
    text = tell(config=numeric, outcome_mean=65.25, outcome_sd=812.5)
    assert (
        "the probability that the outcome, an amount, is above 0 within 1 day, the night's own day"
        " included." in text
    )
    assert "Mean outcome 65.25, standard deviation 812.5" in text
    assert "Base rate share above 0" in text
    assert "what is predicted is the probability that it is above 0, not how large it is" in text


def list_limits(**changes: Any) -> list[str]:
    page = cards.render(card(**changes)).partition("<h2>Limits</h2>")[2].partition("</ul>")[0]
    return [html.unescape(limit) for limit in re.findall("<li>(.*?)</li>", page, re.DOTALL)]


def limits(**changes: Any) -> str:
    return " ".join(list_limits(**changes))


def test_list_limits_of_the_card() -> None:
    assert list_limits() == [
        "It was measured on rows from 2026-06-07 until before 2026-08-16 only.",
        (
            "Predictions are too extreme: high ones are too high, low ones too low (calibration"
            " slope 0.700 to 0.920, 1 is right)."
        ),
        (
            "Subgroups with under 20 of either outcome, for which it is not known how well it"
            f" ranks: {NASTY} = {NASTY} (40 rows)."
        ),
        (
            f"Features that were null in more than half of the training rows: {NASTY}"
            f" (61.00\N{NO-BREAK SPACE}%)."
        ),
        (
            f"Features that it was fitted without, for lack of values: {NASTY} (it has a value in"
            " 39 of 100 rows, but in 0 of the 61 that are not held out)."
        ),
        (
            "Action changes labels: where those with high predictions were treated differently in"
            " the training window, the model has learnt who has the outcome under that treatment."
        ),
        (
            "It knows candidates like those of its training rows. Whether tonight's still are, the"
            " report of the experiment says under Drift."
        ),
    ]


@pytest.mark.parametrize(
    ("slope", "words"),
    [
        (figure(1.2, 1.01, 1.4), "Predictions are too timid: high ones are too low"),
        (figure(0.9, 0.7, 1.1), None),
        (figure(0.5), None),  # no interval
    ],
)
def test_list_limits_calibration_slope(slope: dict[str, float | None], words: str | None) -> None:
    text = limits(metrics={**METRICS, "calibration_slope": slope})
    assert words in text if words else "Predictions are" not in text


def test_list_limits_few_outcomes_and_chance() -> None:
    text = limits(
        metrics={**METRICS, "n_positive": figure(199), "roc_auc": figure(0.55, 0.49, 0.61)}
    )
    assert (
        "Few outcomes, wide intervals: there were 199 validation rows with the outcome and 6,195"
        " without." in text
    )
    assert "not sure that it ranks better than a coin: ROC AUC may be 0.490 to 0.610." in text
    assert "Few outcomes" not in limits(metrics={**METRICS, "n_positive": figure(200)})
    assert "coin" not in limits()


def test_list_limits_of_the_record() -> None:
    text = limits(code_version="0.1.0+05bad64-dirty")
    assert "The code differed from its commit (0.1.0+05bad64-dirty)" in text
    assert "Nobody can tell" not in text
    unknown = limits(code_version="0.1.0+unknown.05bad6405bad")
    assert "Nobody can tell whether its code was that of a commit (0.1.0+unknown.05" in unknown
    unmeasured = {"roc_auc": None, "lower": None, "upper": None}
    many = [{**SMALL, "value": f"v{i}", **unmeasured} for i in range(15)]
    assert limits(subgroups=many).count("(40 rows)") == 12
    assert "(40 rows), and 3 more." in limits(subgroups=many)


VOID = {
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "source",
    "track",
    "wbr",
}


class Nesting(HTMLParser):
    """Every tag that is opened is closed, in order; SVG closes its own with a slash."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_render_is_well_formed_and_stands_alone() -> None:
    html = cards.render(card())
    assert html.startswith("<!doctype html>")
    assert Nesting(html).open == []
    page = Page(html)
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


def test_render_escapes() -> None:
    html = cards.render(card())
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "& Ærø" not in html
    # Hypothesis, feature, subgroup's column and value, gate's evidence, limits (column, value,
    # feature that is null, feature left out), query.
    assert Page(html).text.count(NASTY) == 10
    assert json.dumps(NASTY, ensure_ascii=False) in Page(html).text  # the parameters
    config = {**CARD["config"], "split": {f"{NASTY}variant": 0.45, "A": 0.55}}
    for key in (
        "model_name",
        "experiment",
        "variant",
        "run_id",
        "estimator",
        "snapshot",
        "machine",
        "file",
        "code_version",
        "config_hash",
    ):
        hostile = cards.render(card(config=config, **{key: f"{NASTY}{key}"}))
        assert "<script" not in hostile
        assert f"{NASTY}{key}" in Page(hostile).text


def test_render_same_card_same_bytes() -> None:
    again = copy.deepcopy(CARD)
    again["config"]["split"] = dict(reversed(again["config"]["split"].items()))
    again["libraries"] = dict(reversed(again["libraries"].items()))
    assert (
        cards.render(make_card(**again))
        == cards.render(card())
        == cards.render(Card.model_validate_json(card().to_json()))
    )


def test_render_of_figures_as_they_are_measured(rng: np.random.Generator) -> None:
    """What the other modules give goes through JSON onto the page."""
    X, y = make_rows(rng, 3000)
    pipeline = fit(X[:2000], y[:2000])
    prediction, bucket = estimators.predict_probability(pipeline, X[2000:]), np.arange(1000) % 64
    found = metrics.measure(metrics.make_histogram(prediction, y[2000:], bucket, 64))
    made = {
        "metrics": {name: metric.to_dict() for name, metric in found.items()},
        "importances": [
            row.model_dump()
            for row in inspection.measure_importances(pipeline, X[2000:], y[2000:], 0)
        ],
        "subgroups": [
            row.model_dump()
            for row in inspection.measure_subgroups(
                X.loc[2000:, ["region", "noise"]], y[2000:], prediction, bucket, 64
            )
        ],
        "features": {
            name: reference._asdict()
            for name, reference in drift.make_feature_references(X, TYPES).items()
        },
        "columns": TYPES,
    }
    measured = card(**json.loads(json.dumps(made, allow_nan=False)))
    page = Page(cards.render(measured))
    roc_auc = found["roc_auc"]
    assert page.row("ROC AUC how")[1].startswith(
        f"{roc_auc.value:.3f} {roc_auc.lower:.3f} to {roc_auc.upper:.3f}"
    )
    assert (
        len(
            find_dots(
                find_svgs(cards.render(measured))["Reliability plot of modelA_v1.0_2026-09-01,"]
            )
        )
        == 10
    )
    assert page.row("income number")[3] == f"{100 * X['income'].isna().mean():.2f} %"


def test_cards_imports_no_template_before_it_draws() -> None:
    code = "import sys, abatch.pages.cards; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_load_template_keeps_it_compiled_as_python_keeps_modules(tmp_path: Path) -> None:
    """Compiled once, and again where Python keeps no bytecode, or the kept is of another Jinja."""
    load = "from abatch.pages.html import load_template; load_template('parts.html.j2')"
    no_compiler = "import jinja2; jinja2.Environment.compile = None; "
    other = "import jinja2; jinja2.__version__ = '0'; jinja2.Environment.compile = None; "

    def run(code: str, **variables: str) -> bool:
        unset = {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}
        environment = {name: value for name, value in os.environ.items() if name not in unset}
        environment |= {"PYTHONPYCACHEPREFIX": str(tmp_path), **variables}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        return done.returncode == 0

    assert run(load, PYTHONDONTWRITEBYTECODE="1")
    assert not run(no_compiler + load)
    assert run(load)
    assert run(no_compiler + load)
    assert not run(other + load)
    assert not run(no_compiler + load, PYTHONDONTWRITEBYTECODE="1")
    (kept,) = tmp_path.rglob("__jinja2_*")
    assert kept.with_name(f"html.{sys.implementation.cache_tag}.pyc").is_file()
