"""The report: what abatch's tables say of one experiment, as one HTML file that needs nothing else.

The page has no script, no link and no time of its own: the same figures give the same bytes. Its
sentences stand in report.html.j2.
"""

from datetime import date, timedelta
from pathlib import Path

import sqlalchemy as sa

from abatch import files
from abatch.config import Experiment
from abatch.database import tables
from abatch.pages import plots
from abatch.pages.figures import HISTORY, Figures, read_figures
from abatch.pages.findings import find_findings, find_misfits, find_scale
from abatch.pages.gaps import describe_gaps, find_gaps
from abatch.pages.html import load_template
from abatch.statistics import drift, words
from abatch.statistics.metrics import MIN_CASES


def find_page(experiment: Experiment) -> Path:
    """Where the report is written; its folder is made if need be.

    Raises
    ------
    FileError
        If it cannot be written; called before the long work, too.
    """
    folder = experiment.environment.reports_dir
    files.check_writable(folder)
    return folder / f"{experiment.name}.html"


def write_report(connection: sa.Connection, experiment: Experiment, run_date: date) -> Path:
    """Write reports/<experiment>.html from what the tables hold, and return its path.

    Raises
    ------
    AbatchError
        If the folder or the file cannot be written.
    """
    page = find_page(experiment)
    files.write_file(page, render(read_figures(connection, experiment, run_date)).encode())
    return page


def mend_report(connection: sa.Connection, experiment: Experiment, run_date: date) -> None:
    """Write the page where the newest figures are of this date and it does not show them.

    As when their run was ended before it was drawn.

    Raises
    ------
    AbatchError
        If the folder or the file cannot be written.
    """
    shown = sa.select(tables.variant_scores.c.run_id).filter_by(experiment=experiment.name)
    query = sa.select(tables.runs.c.run_id).filter_by(run_date=run_date)
    run_id = connection.scalar(query.where(tables.runs.c.run_id.in_(shown)))
    if run_id is None:
        return
    page = find_page(experiment)
    if not (page.is_file() and run_id.encode() in page.read_bytes()):
        write_report(connection, experiment, run_date)


def render(figures: Figures) -> str:
    """The page, which depends on nothing but the figures."""
    outcome, scores = figures.terms.outcome, figures.scores
    scale = find_scale(outcome.kind, outcome.expected_effect, figures.terms.unit)
    findings, nights = find_findings(figures), figures.find_nights("predict")
    colours = plots.choose_colours(figures)
    return load_template("report.html.j2").render(
        f=figures,
        words=words,
        drift=drift,
        outcome=outcome,
        wait=timedelta(days=outcome.window_days + outcome.lag_days),
        scale=scale,
        find_scale=find_scale,
        findings=findings,
        misfits=find_misfits(figures),
        nights=nights,
        missed=describe_gaps(find_gaps(nights, figures.run_date)),
        measured=colours,
        drifting=[name for name in figures.models if "psi" in scores.get(name, {})],
        drawn=[
            (finding, plot) for finding in findings if (plot := plots.plot_sequence(finding, scale))
        ],
        lift=plots.plot_lift(scores, colours) if colours else None,
        reliability={
            name: plots.plot_reliability(name, scores[name], colour)
            for name, colour in colours.items()
        },
        history=[
            plots.plot_history(figures.cohorts, metric, colours) for metric in HISTORY if colours
        ],
        n_cohorts=plots.N_COHORTS,
        min_cases=MIN_CASES,
    )
