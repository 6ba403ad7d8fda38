"""The report: what the tables hold, said in words, safe to open anywhere."""

import re
import subprocess
import sys
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from abatch import migrations, registrations, registry, report
from abatch.config import Config, load_configs
from abatch.errors import AbatchError
from abatch.tables import models, runs, scores, variant_scores
from tests.conftest import FIRST_NIGHT, ROOT, open_engine, write_config

RUN_DATE = date(2026, 10, 20)
NOON = datetime(2026, 10, 20, 12)
NASTY = '<script>alert("1")</script> & Ærø 日本 {{ 7 * 7 }}'
METRICS = {  # name: value, lower, upper
    "roc_auc": (0.7313, 0.7012, 0.7614),
    "base_rate": (0.05, 0.0412, 0.0604),
    "log_loss": (0.19876, 0.18, 0.22),
    "lift_top_decile": (3.456, 3.0, 3.9),
    "calibration_intercept": (-0.1234, -0.3, 0.05),
    "calibration_slope": (0.91, None, None),
    "reliability_prediction_01": (0.02, None, None),
    "reliability_rate_01": (0.0123, -0.001, 0.03),
    "reliability_prediction_10": (0.25, None, None),
    "reliability_rate_10": (0.2468, 0.2, 0.3),
}


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
        self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def row(self, start: str) -> list[str]:
        return next(row for row in self.rows if row[0].startswith(start))


def add_run(connection: sa.Connection, job: str, run_date: date, status: str = "done", error: str | None = None) -> str:
    run_id = f"{job}-{run_date}-{status}"
    connection.execute(
        runs.insert().values(
            run_id=run_id,
            job=job,
            experiment="card_offer",
            run_date=run_date,
            status=status,
            started_at=datetime.combine(run_date, datetime.min.time()),
            finished_at=datetime.combine(run_date, datetime.min.time()) + timedelta(seconds=83),
            rows_written=4321,
            code_version="0",
            config_hash="0",
            host="bi1",
            error=error,
        )
    )
    return run_id


def add_start(connection: sa.Connection, config: Config) -> None:
    """The first nights of an experiment: a registration, a model for A, three nights of four, nothing mature."""
    queries = {"outcomes": "select 1", "watermark": "select 1"}
    content = registrations.describe("card_offer", config.settings.model_dump(), queries, "UTC")
    registrations.register(connection, "card_offer", content, NOON, "r1")
    for model_name in ("modelA_v1.0_2026-09-01", "modelA_v1.0_2026-09-08", "modelB_v1.0_2026-09-01"):
        connection.execute(
            models.insert().values(
                model_name=model_name,
                experiment="card_offer",
                variant=model_name[5],
                file=f"{model_name}.pkl",
                sha256="0",
                from_date=date(2025, 8, 1),
                to_date=date(2026, 8, 1),
                as_of=datetime.fromisoformat(model_name[-10:]),
                rows=31970,
                code_version="0",
                environment_hash="0",
                seed=0,
                card="{}",
                run_id="t1",
            )
        )
    registry.promote(
        connection,
        experiment="card_offer",
        variant="A",
        model_name="modelA_v1.0_2026-09-08",
        effective_date=FIRST_NIGHT,
        reason=NASTY,
        promoted_by="Kari <k@bank>",
        promoted_at=datetime(2026, 9, 1, 22, 0),
    )
    for night in (0, 1, 3):
        add_run(connection, "predict", FIRST_NIGHT + timedelta(days=night))
    add_run(connection, "predict", RUN_DATE + timedelta(days=2))  # not yet, as the page sees it
    add_run(connection, "predict", RUN_DATE, "failed", f"{NASTY}\nsecond line")


def add_scores(connection: sa.Connection) -> None:
    """Mature figures: by hand, so that the page can be compared with them."""
    run_id = add_run(connection, "score", RUN_DATE)
    # variant, predicted, mature, positive, lower, upper, selected, selected positive
    for variant, n, mature, positive, lower, upper, selected, hits in (
        ("A", 4400, 2000, 100, 0.0413, 0.0605, 400, 50),
        ("B", 4500, 2100, 0, 0.0, 0.0018, 420, 0),
        ("control", 1000, 0, 0, None, None, 0, 0),
    ):
        row: dict[str, object] = {
            "n_predicted": n,
            "n_mature": mature,
            "n_positive": positive,
            "n_selected": selected,
            "n_selected_positive": hits,
        }
        row |= {"rate": positive / mature if mature else None, "selected_rate": hits / selected if selected else None}
        row |= {"lower": lower, "upper": upper, "run_id": run_id}
        connection.execute(variant_scores.insert().values(experiment="card_offer", variant=variant, cohort="all", **row))

    def add(model_name: str, cohort: str, metric: str, value: float, lower: float | None, upper: float | None) -> None:
        row = {"model_name": model_name, "cohort": cohort, "metric": metric, "value": value, "lower": lower, "upper": upper}
        connection.execute(scores.insert().values(experiment="card_offer", n=2000, run_id=run_id, **row))

    for metric, figures in METRICS.items():
        add("modelA_v1.0", "all", metric, *figures)
        add("modelA_v1.0_2026-09-01", "all", metric, *figures)
    add("modelA_v1.0", "2026-08-31", "roc_auc", 0.61, 0.5, 0.7)
    add("modelA_v1.0", "2026-09-07", "roc_auc", 0.82, 0.7, 0.9)
    add("modelB_v1.0", "all", "n", 2000, None, None)
    add("modelB_v1.0", "all", "n_positive", 3, None, None)
    for model_name, psi, noise in (
        ("modelA_v1.0_2026-09-01", 0.3, 0.05),
        ("modelA_v1.0_2026-09-08", 0.3, 0.4),
        ("modelB_v1.0_2026-09-01", 0.12, 0.01),
    ):
        add(model_name, "all", "psi", psi, None, None)
        add(model_name, "all", "psi_noise", noise, None, None)


def fill(engine: sa.Engine, config: Config, *, mature: bool = True) -> report.Figures:
    with engine.begin() as connection:
        add_start(connection, config)
        if mature:
            add_scores(connection)
    with engine.connect() as connection:
        return report.read(connection, config, RUN_DATE)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> report.Figures:
    folder = tmp_path_factory.mktemp("report")
    config = load_configs(write_config(folder, f"sqlite:///{folder / 'bank.db'}", hypothesis=NASTY), "dev")["card_offer"]
    engine = open_engine(config)
    migrations.upgrade(engine)
    return fill(engine, config)


@pytest.fixture(scope="module")
def html(figures: report.Figures) -> str:
    return report.render(figures)


def test_write_report_figures_of_the_tables(config: Config, engine: sa.Engine) -> None:
    figures = fill(engine, config)
    with engine.connect() as connection:
        path = report.write_report(connection, config, RUN_DATE)
    assert path == config.reports_dir / "card_offer.html" and [*config.reports_dir.iterdir()] == [path]
    page = Page(path.read_text(encoding="utf-8"))
    assert page.row("A") == ["A", "5.00 % 4.13 % to 6.05 %", "100", "2,000", "4,400", "400", "12.50 %"]
    assert page.row("B") == ["B", "0.00 % 0.00 % to 0.18 %", "0", "2,100", "4,500", "420", "0.00 %"]
    assert page.row("control") == ["control no model", "–", "0", "0", "1,000", "0", "–"]
    assert "9,900 predictions. The outcome of 4,100 is known; 100 of these had it." in page.text
    assert page.row("ROC AUC")[1:] == ["0.731 0.701 to 0.761"]
    assert page.row("Base rate")[1:] == ["0.0500 0.0412 to 0.0604"]
    assert page.row("Log loss")[1:] == ["0.1988 0.1800 to 0.2200"]
    assert page.row("Lift")[1:] == ["3.46 3.00 to 3.90"]
    assert page.row("Calibration intercept")[1:] == ["−0.123 −0.300 to 0.050"]
    assert page.row("Calibration slope")[1:] == ["0.910 no interval"]
    assert page.row("KS")[1:] == ["–"]  # not in the table, not on the page
    assert "modelB_v1.0: 2,000 mature predictions, 3 of them with the outcome." in page.text
    assert "+1.00 percentage points" in page.text and "A 45 %, B 45 %, control 10 % (no model)" in page.text
    assert figures.content is not None and figures.content["hash"] in page.text


def test_render_plots_of_the_tables(html: str) -> None:
    labels = [value.replace("\N{NO-BREAK SPACE}", " ") for name, value in Page(html).attributes if name == "aria-label"]
    assert labels == [
        "Plot of the outcome rate by variant: A 5.00 % (4.13 % to 6.05 %); B 0.00 % (0.00 % to 0.18 %)",
        "Plot of ROC AUC over cohorts of run_date; newest: modelA_v1.0 0.820 in the cohort of 2026-09-07",
        "Reliability plot of modelA_v1.0, from low to high: 2.00 % predicted, 1.23 % observed; 25.00 % predicted, 24.68 % observed",
    ]
    svgs = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    dots = [re.findall(r'<use href="#[^"]*" x="([\d.]+)" y="([\d.]+)"', svg) for svg in svgs]
    (rate_a, rate_b), (early, late), (low, high) = [[(float(x), float(y)) for x, y in dots_of[-2:]] for dots_of in dots]
    lower, upper = (
        float(x) for x in re.findall(r'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [\d.]+ \n".*stroke: #2f7fc1; stroke-width: 1.8', svgs[0])[0]
    )
    assert (rate_a[0] - lower) / (upper - lower) == pytest.approx((0.05 - 0.0413) / (0.0605 - 0.0413), abs=0.01)
    assert rate_a[0] > rate_b[0] and rate_a[1] < rate_b[1]  # A is above B, and further to the right; y points down
    assert early[0] < late[0] and early[1] > late[1]
    assert low[0] < high[0] and low[1] > high[1]


def test_render_says_what_may_not_be_concluded(html: str) -> None:
    text = Page(html).text
    for words in ("Not for deciding daily", "one look", "does not say which variant is better", "Action changes labels", "action together"):
        assert words in text


def test_render_drift_only_above_noise(html: str) -> None:
    page = Page(html)
    assert page.row("modelA_v1.0_2026-09-01") == ["modelA_v1.0_2026-09-01", "much", "0.300", "0.050", "2,000"]
    assert page.row("modelA_v1.0_2026-09-08")[1] == "none"  # .3, but chance alone makes .4
    assert page.row("modelB_v1.0_2026-09-01")[1] == "some"
    order = [row[0] for row in page.rows if len(row) == 5 and row[0].startswith("model")]
    assert order == ["modelA_v1.0_2026-09-08", "modelA_v1.0_2026-09-01", "modelB_v1.0_2026-09-01"]  # newest first


def test_render_models_and_runs(html: str) -> None:
    page = Page(html)
    assert "modelA_v1.0_2026-09-08 trained on 31,970 rows from 2025-08-01 until before 2026-08-01" in page.text
    assert "no model is live on 2026-10-20" in page.text  # variant B
    promotion = page.row("modelA_v1.0_2026-09-08 promote")
    assert promotion[:2] == ["modelA_v1.0_2026-09-08 promote, variant A, from 2026-09-01", NASTY]
    assert promotion[2].startswith("Kari <k@bank> 20")
    assert "3 nights predicted since 2026-09-01. Missed: 2026-09-05 to 2026-10-19, 2026-09-03." in page.text
    assert page.row("2026-09-04") == ["2026-09-04", "predict", "done", "2026-09-04 00:00", "1 min 23 s", "4,321"]
    failed = next(index for index, row in enumerate(page.rows) if row[2:3] == ["failed"])
    assert page.rows[failed + 1] == [NASTY]  # the error's first line


def test_render_escapes_and_stands_alone(html: str) -> None:
    page = Page(html)
    assert page.text.count(NASTY) == 3  # hypothesis, reason, error
    assert not {"script", "link", "img", "iframe", "object", "image", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "srcset", "action")]
    assert all(value.startswith("#") for name, value in page.attributes if name.endswith("href"))
    assert "//" not in html and "@import" not in html and "@font-face" not in html
    ids = [value for name, value in page.attributes if name == "id"]
    wanted = re.findall(r'(?:href="|url\()#([^")]+)', html)
    assert len(ids) == len(set(ids)) and wanted and set(wanted) <= set(ids)
    assert html.count("<svg") == 3 and len(html) < 200_000


def test_render_same_figures_same_bytes(figures: report.Figures, html: str) -> None:
    reversed_scores = dict(reversed(figures.scores.items()))
    reversed_variants = dict(reversed(figures.variant_scores.items()))
    assert report.render(figures._replace(scores=reversed_scores, variant_scores=reversed_variants)) == html


def test_render_nothing_mature(config: Config, engine: sa.Engine) -> None:
    html = report.render(fill(engine, config, mature=False))
    text = Page(html).text
    assert "No outcome is known yet" in text and "no prediction of a model is mature" in text
    assert "complete to 2026-09-16: the first night, 2026-09-01, plus a window of 14 and a lag of 1 days" in text
    assert "<svg" not in html


def test_render_empty_tables(config: Config, engine: sa.Engine) -> None:
    with engine.connect() as connection:
        text = Page(report.render(report.read(connection, config, RUN_DATE))).text
    assert "Nothing is registered yet" in text and "No night has been predicted yet" in text and "cannot be told when" in text


def test_render_other_night_is_said(figures: report.Figures) -> None:
    text = Page(report.render(figures._replace(run_date=RUN_DATE + timedelta(days=1)))).text
    assert "The tables hold the figures of another night, 2026-10-20" in text


def test_render_many_cohorts_and_long_names(figures: report.Figures) -> None:
    """matplotlib warns, and warnings are errors here, when labels leave no room."""
    long = [letter * 64 for letter in "ABCDEFGH"]
    row = figures.variant_scores["A"]
    weeks = {str(date(2024, 1, 1) + timedelta(weeks=week)): 0.5 + week / 400 for week in range(150)}
    auc = {
        ("modelA_v1.0", week, "roc_auc"): SimpleNamespace(cohort=week, value=value, lower=None, upper=None) for week, value in weeks.items()
    }
    variants = {name: SimpleNamespace(**{**row._mapping, "variant": name}) for name in long}
    html = report.render(figures._replace(variants=long, variant_scores=variants, scores={**figures.scores, **auc}))
    assert html.count("A" * 15 + "…") == 1 and f"in the cohort of {max(weeks)}" in html
    drawn = re.findall("<svg.*?</svg>", html, flags=re.DOTALL)[1].count("<use")
    assert 53 <= drawn < 75  # dots and ticks: the newest 53 of 150 cohorts


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ([], []),
        ([1, 2, 3], ["2026-09-04 to 2026-09-09"]),
        ([1, 3, 4, 8, 9], ["2026-09-05 to 2026-09-07", "2026-09-02"]),
        ([9, 10], []),
        (range(-24, 10, 2), [f"2026-09-{day:02}" for day in (9, 7, 5, 3, 1)] + [f"2026-08-{day}" for day in (30, 28, 26, 24, 22)]),
    ],
)
def test_describe_gaps(days: list[int], expected: list[str]) -> None:
    nights = [date(2026, 8, 31) + timedelta(days=day) for day in days]
    found = report.describe_gaps(nights, date(2026, 9, 10))
    assert found[:10] == expected
    assert found[10:] == ([] if len(expected) < 10 else ["and 7 earlier gaps"])


def test_write_report_unwritable_folder(config: Config, engine: sa.Engine) -> None:
    config.reports_dir.write_text("a file where the folder should be")
    with engine.connect() as connection, pytest.raises(AbatchError) as raised:
        report.write_report(connection, config, RUN_DATE)
    assert str(raised.value).startswith(f"{config.reports_dir}: cannot be written (File exists).")
    assert "\n" not in str(raised.value)


def test_write_report_unwritable_file(config: Config, engine: sa.Engine) -> None:
    (config.reports_dir / "card_offer.html").mkdir(parents=True)
    with engine.connect() as connection, pytest.raises(AbatchError, match=r"card_offer\.html: cannot be written \(Is a directory\)"):
        report.write_report(connection, config, RUN_DATE)
    assert [path.name for path in config.reports_dir.iterdir()] == ["card_offer.html"]


def test_report_imports_no_matplotlib_before_it_draws() -> None:
    code = "import sys, abatch.report; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
