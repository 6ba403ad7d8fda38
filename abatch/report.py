"""The report: what abatch's tables say of one experiment, as one HTML file that needs nothing else.

`read` takes the figures from the tables, `render` makes the page of them, and `write_report` does both. The page has no
script, no link and no time of its own: the same figures give the same bytes.
"""

import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from abatch import registry
from abatch.config import Config
from abatch.metrics import MIN_CASES, N_RELIABILITY_BINS
from abatch.scores import ALL
from abatch.tables import DATE_SUFFIX, models, promotions, registrations, runs, scores, variant_scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_COHORTS, N_DRIFT, N_PROMOTIONS, N_RUNS, N_GAPS = 53, 12, 10, 20, 10  # how many of the newest are shown
INK = "#0a0b0c"  # stands for the page's text colour
DASHED: dict[str, Any] = {"color": INK, "alpha": 0.5, "linewidth": 0.8, "linestyle": (0, (4, 3))}
GREY = "#7f8791"  # a variant without a model
PALETTE = ("#2f7fc1", "#d0691a", "#2a9d74", "#9a5fc9", "#a67c00", "#c2417a")  # mid tones: readable on white and on black
Key = tuple[str, str, str]  # model_name, cohort, metric


class Figures(NamedTuple):
    """All that the page shows, as it was read."""

    experiment: str
    environment: str
    run_date: date
    variants: list[str]  # in the order of the split
    modelled: dict[str, str]  # variant -> name and version of its model today
    content: dict[str, Any] | None  # of the registration, with its hash and registered_at
    variant_scores: dict[str, sa.Row]  # of all cohorts together, by variant
    scores: dict[Key, sa.Row]
    scored: sa.Row | None  # the run that wrote them
    models: dict[str, sa.Row]  # the dated models, newest first
    live: dict[str, str]
    promotions: Sequence[sa.Row]  # newest first
    runs: Sequence[sa.Row]  # newest first
    nights: list[date]  # with predictions, up to run_date, in order


class Plot(NamedTuple):
    """Inline SVG, and the same in words for those who cannot see it."""

    svg: str
    label: str


def write_report(connection: sa.Connection, config: Config, run_date: date) -> Path:
    """Write reports/<experiment>.html from what the tables hold, and return its path.

    Raises
    ------
    AbatchError
        If the folder or the file cannot be written.
    """
    path = config.reports_dir / f"{config.experiment}.html"
    registry.check_writable(path.parent)
    registry.write_file(path, render(read(connection, config, run_date)).encode())
    return path


def read(connection: sa.Connection, config: Config, run_date: date) -> Figures:
    """Read what the page shows; nothing is computed here."""

    def select(table: sa.Table, *where: sa.ColumnElement[bool]) -> sa.Select:
        return sa.select(table).where(table.c.experiment == config.experiment, *where)

    registered = connection.execute(select(registrations)).first()
    by_variant = connection.execute(select(variant_scores, variant_scores.c.cohort == ALL)).all()
    by_model = connection.execute(select(scores, (scores.c.cohort == ALL) | (scores.c.metric == "roc_auc"))).all()
    scored = sa.select(runs).where(runs.c.run_id == by_variant[0].run_id) if by_variant else None
    dated = connection.execute(select(models).order_by(models.c.as_of.desc(), models.c.run_id.desc(), models.c.model_name)).all()
    nights = sa.select(runs.c.run_date).where(runs.c.experiment == config.experiment, runs.c.job == "predict", runs.c.status == "done")
    return Figures(
        experiment=config.experiment,
        environment=config.environment,
        run_date=run_date,
        variants=list(config.settings.split),
        modelled={variant: registry.stem_of(model.name, model.version) for variant, model in config.settings.models.items()},
        content=None if registered is None else {**json.loads(registered.content), **registered._mapping},
        variant_scores={row.variant: row for row in by_variant},
        scores={(row.model_name, row.cohort, row.metric): row for row in by_model},
        scored=None if scored is None else connection.execute(scored).first(),
        models={row.model_name: row for row in dated},
        live=registry.find_live(connection, config.experiment, run_date),
        promotions=connection.execute(select(promotions).order_by(promotions.c.promotion_id.desc()).limit(N_PROMOTIONS)).all(),
        runs=connection.execute(select(runs).order_by(runs.c.started_at.desc(), runs.c.run_id).limit(N_RUNS)).all(),
        nights=sorted(night for night in connection.scalars(nights) if night <= run_date),
    )


def render(figures: Figures) -> str:
    """The page, which depends on nothing but the figures."""
    import jinja2
    from markupsafe import Markup

    mature = [variant for variant, row in figures.variant_scores.items() if row.n_mature]
    names = sorted({name for name, _, _ in figures.scores} - set(figures.models))  # name and version, for all its dates
    owner = {DATE_SUFFIX.sub("", dated): row.variant for dated, row in figures.models.items()}
    names.sort(key=lambda name: ([*figures.variants, owner.get(name)].index(owner.get(name)), name))
    measured = [name for name in names if (name, ALL, "roc_auc") in figures.scores]
    colours = _choose_colours(figures, names, owner)
    plots = {}
    if mature:
        plots["rates"] = _plot_rates([figures.variant_scores[v] for v in figures.variants if v in mature], colours)
    if measured:
        plots["auc"] = _plot_auc(figures.scores, measured, colours)
    plots |= {name: _plot_reliability(figures.scores, name, colours[name], f"r{i}") for i, name in enumerate(measured)}

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=show_percent, number=show_number, count=lambda n: f"{n:,}", took=_show_took)
    return environment.get_template("report.html.j2").render(
        f=figures,
        all=ALL,
        mature=mature,
        names=names,
        measured=measured,
        owner=owner,
        colours=colours,
        plots={key: Plot(Markup(plot.svg), plot.label) for key, plot in plots.items()},
        known_from=_find_known_from(figures),
        missed=describe_gaps(figures.nights, figures.run_date),
        drifts=[(name, *_read_drift(figures.scores, name)) for name in figures.models if (name, ALL, "psi") in figures.scores][:N_DRIFT],
        min_cases=MIN_CASES,
        n_cohorts=N_COHORTS,
    )


def show_percent(share: float | None) -> str:
    """A share as text: 0.0493 is 4.93 %, with a space that does not break."""
    return "–" if share is None else f"{100 * share:z.2f}\N{NO-BREAK SPACE}%"


def show_number(value: float | None, decimals: int = 3) -> str:
    return "–" if value is None else f"{value:z,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _show_took(run: sa.Row) -> str:
    if run.finished_at is None:
        return "–"
    seconds = round((run.finished_at - run.started_at).total_seconds())
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


def _find_known_from(figures: Figures) -> date | None:
    """The day up to which outcomes must be complete before anything is mature; None if there is no night or registration."""
    if figures.content is None or not figures.nights:
        return None
    outcome = figures.content["outcome"]
    return figures.nights[0] + timedelta(days=outcome["window_days"] + outcome["lag_days"])


def describe_gaps(nights: Sequence[date], run_date: date) -> list[str]:
    """The nights without predictions between the first one and run_date, newest first, neighbours as one range."""
    texts = []
    for before, after in reversed([*pairwise([*nights, run_date])]):
        first, last = before + timedelta(days=1), after - timedelta(days=1)
        if first <= last:
            texts.append(f"{first}" if first == last else f"{first} to {last}")
    return texts[:N_GAPS] + ([f"and {len(texts) - N_GAPS} earlier gaps"] if len(texts) > N_GAPS else [])


def _read_drift(found: Mapping[Key, sa.Row], name: str) -> tuple[sa.Row, sa.Row, str]:
    """PSI, its noise line, and a word: drift counts only above both the custom and the noise."""
    psi, noise = found[name, ALL, "psi"], found[name, ALL, "psi_noise"]
    if psi.value <= noise.value:
        return psi, noise, "none"
    return psi, noise, "much" if psi.value > 0.25 else "some" if psi.value > 0.1 else "little"


def _choose_colours(figures: Figures, names: Iterable[str], owner: Mapping[str, str]) -> dict[str, str]:
    """One colour for a variant and its model of today; grey for a variant without; others for models of earlier versions."""
    colours = {variant: GREY for variant in figures.variants}
    colours |= {variant: PALETTE[i % len(PALETTE)] for i, variant in enumerate(figures.modelled)}
    current = {name: colours[variant] for variant, name in figures.modelled.items() if owner.get(name, variant) == variant}
    others = [name for name in names if name not in current]
    return colours | current | {name: PALETTE[(len(figures.modelled) + i) % len(PALETTE)] for i, name in enumerate(others)}


def _plot_rates(rows: Sequence[sa.Row], colours: Mapping[str, str]) -> Plot:
    def draw(axes: "Axes") -> None:
        for y, row in enumerate(rows):
            _point(axes, (row.rate, row.lower, row.upper), (y, y, y), colours[row.variant])
            axes.annotate(show_percent(row.rate), (row.rate, y), (0, 6), textcoords="offset points", ha="center", color=INK)
        axes.set_yticks(range(len(rows)), [row.variant if len(row.variant) <= 16 else row.variant[:15] + "…" for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.7)
        axes.set_xlabel("Outcome rate, %, with 95 % interval")
        axes.grid(axis="x")

    words = [f"{row.variant} {show_percent(row.rate)} ({show_percent(row.lower)} to {show_percent(row.upper)})" for row in rows]
    svg = _draw(draw, "rates", 4.4, 0.8 + 0.45 * len(rows), percent="x")
    return Plot(svg, f"Plot of the outcome rate by variant: {'; '.join(words)}")


def _plot_auc(found: Mapping[Key, sa.Row], names: Sequence[str], colours: Mapping[str, str]) -> Plot:
    rows = {(model, cohort): row for (model, cohort, metric), row in found.items() if metric == "roc_auc" and cohort != ALL}
    cohorts = sorted({cohort for model, cohort in rows if model in names})[-N_COHORTS:]
    words: list[str] = []

    def draw(axes: "Axes") -> None:
        for i, name in enumerate(names):
            points = [(x, rows[name, cohort]) for x, cohort in enumerate(cohorts) if (name, cohort) in rows]
            aside = 0.16 * (i - (len(names) - 1) / 2)  # so that intervals of one cohort stand beside each other
            axes.plot([x + aside for x, _ in points], [row.value for _, row in points], color=colours[name], linewidth=1, alpha=0.5)
            for x, row in points:
                _point(axes, (x + aside,) * 3, (row.value, row.lower, row.upper), colours[name])
            words.extend(f"{name} {row.value:.3f} in the cohort of {row.cohort}" for _, row in points[-1:])
        shown = range(len(cohorts))[:: -max(1, -(-len(cohorts) // 6))][::-1]  # at most six, the newest among them
        days = [date.fromisoformat(cohorts[i]) for i in shown]
        first = {min(day for day in days if day.year == year) for year in {day.year for day in days}}
        axes.set_xticks(list(shown), [f"{day.day} {day:%b}" + (f"\n{day.year}" if day in first else "") for day in days])
        axes.set_xlim(-0.6, len(cohorts) - 0.4)
        axes.axhline(0.5, **DASHED)
        axes.set_ylabel("ROC AUC, with 95 % interval")
        axes.grid(axis="y")

    svg = _draw(draw, "auc", 4.4, 2.9)
    return Plot(svg, f"Plot of ROC AUC over cohorts of run_date; newest: {'; '.join(words) or 'none yet'}")


def _plot_reliability(found: Mapping[Key, sa.Row], name: str, colour: str, key: str) -> Plot:
    bins = [f"{i + 1:02}" for i in range(N_RELIABILITY_BINS) if (name, ALL, f"reliability_rate_{i + 1:02}") in found]
    pairs = [(found[name, ALL, f"reliability_prediction_{i}"].value, found[name, ALL, f"reliability_rate_{i}"]) for i in bins]

    def draw(axes: "Axes") -> None:
        top = min(1.02, 1.05 * max((max(prediction, rate.value, rate.upper or 0) for prediction, rate in pairs), default=1))
        axes.plot([0, top], [0, top], **DASHED)
        for prediction, rate in pairs:
            _point(axes, (prediction,) * 3, (rate.value, rate.lower, rate.upper), colour)
        axes.set(xlim=(0, top), ylim=(0, top), xlabel="Predicted, %", ylabel="Observed, %", aspect="equal")
        axes.grid()

    words = [f"{show_percent(prediction)} predicted, {show_percent(rate.value)} observed" for prediction, rate in pairs]
    svg = _draw(draw, key, 3.8, 3.4, percent="xy")
    return Plot(svg, f"Reliability plot of {name}, from low to high: {'; '.join(words)}")


def _point(axes: "Axes", x: tuple[float | None, ...], y: tuple[float | None, ...], colour: str) -> None:
    """A dot, and the line of its interval; x and y are each value, lower, upper. A bound that is None draws nothing."""
    xs, ys = np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)
    axes.plot(xs[1:], ys[1:], color=colour, linewidth=1.8)
    axes.plot(xs[:1], ys[:1], color=colour, marker="o", markersize=5)


def _draw(draw: Callable[["Axes"], None], key: str, width: float, height: float, percent: str = "") -> str:
    """Inline SVG of one plot, in inches; `key` keeps its ids apart from those of the page's other plots.

    `percent` names the axes, x and y, that hold shares.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its remarks on font caches would become cron's mail
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not a user's matplotlibrc
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": key, "font.size": 9.5, "grid.alpha": 0.18})
        matplotlib.rcParams.update(dict.fromkeys(("grid.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK))
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        draw(axes)
        for axis in (getattr(axes, f"{name}axis") for name in percent):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(lambda share, _: f"{100 * share:.4g}")
        return _to_inline(figure)


def _to_inline(figure: "Figure") -> str:
    """What HTML needs of the file that matplotlib writes: no prologue, no style for the whole page, no names that clash."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href").replace(INK, "currentColor")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the ids left are hashes, salted with the plot's key
    return re.sub(r"\n\s*\n", "\n", svg).strip()
