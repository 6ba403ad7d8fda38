"""Score predictions whose outcome is known, and judge which variant is better.

Reads   predictions, outcomes and their watermark by SQL (queries.outcomes,
        queries.watermark, guardrails)
Writes  one look: tables looks, verdicts, sample_ratios, scores,
        variant_scores, feature_drift, runs; the sums of closed nights:
        cohort_sums, units; reports/<experiment>.html

    python score.py            all experiments, today
    python score.py --env prod --date 2026-11-23 --experiment card_offer
    python score.py --rebuild  forget the sums and read every night again
"""

import sys

from abatch import arguments

SWITCHES = {"rebuild": "forget the sums of closed nights and read every night again"}
if __name__ == "__main__":  # --help and a wrong option need not wait for what is imported below
    arguments.parse("score", __doc__, **SWITCHES)

from datetime import date
from typing import Any

import sqlalchemy as sa

from abatch import files
from abatch.errors import NothingToDo
from abatch.experiment import looks, outcomes, scores, terms, verdicts
from abatch.job import nightly
from abatch.modelling import registry
from abatch.night import DAY, Night, find_nights, is_latest, today
from abatch.pages import report


def require_nights(night: Night) -> None:
    """Raise NothingToDo if nothing has been predicted yet."""
    if not night.read(find_nights, night.experiment.name, night.run_date):
        raise NothingToDo(f"{night}: there are no predictions yet")


@nightly(before=require_nights, **SWITCHES)
def score(night: Night, *, rebuild: bool = False, draw: bool = True) -> str:
    """Close the nights whose outcomes are final, read the open ones, measure, judge, report."""
    experiment, outcome, name = night.experiment, night.experiment.outcome, night.experiment.name
    registration = night.read(terms.check, experiment)
    assert registration is not None  # there are nights
    if not night.read(is_latest, night, today(experiment.environment)):
        return night.finish(
            "a later night is scored already, so tables and report stay those of that night"
        )
    nights = night.read(find_nights, name, night.run_date)
    cards = night.read(registry.read_cards, name)
    if draw and not night.dry_run:
        files.check_writable(experiment.environment.reports_dir)

    # How far outcomes are complete; a late feed leaves nights open, and never turns into zeros.
    watermark = outcomes.read_watermark(
        night._engine, experiment.query("watermark"), night.run_date, night.as_of
    )
    mature_date = (
        outcomes.last_mature_date(watermark, outcome.window_days, outcome.lag_days)
        if watermark
        else date.min
    )
    source = looks.Source(
        engine=night._engine,
        experiment=name,
        split=experiment.split,
        metrics=outcomes.list_metrics(experiment),
        window_days=outcome.window_days,
        cohort=experiment.cohort,
        as_of=night.as_of,
        exposure=registration.exposure,
        start_date=registration.start_date,
        references={name: card.reference for name, card in cards.items() if card.reference},
        features={name: card.features for name, card in cards.items()},
        chunk_rows=experiment.environment.chunk_rows,
    )
    with experiment.query("watermark").named():
        night.read(scores.check_watermark, name, watermark and mature_date, is_rebuilt=rebuild)
    if rebuild or night.read(looks.has_other_cohorts, source):
        night.write(scores.drop_sums, name)
    closed_date = night.read(scores.find_closed_date, name)
    to_read = [one for one in nights if (closed_date or date.min) < one <= mature_date]

    # Close nights for good once no correction is waited for: a cohort at a time, lest a first run
    # hold them all in memory.
    n_read = 0
    final_date = mature_date - outcome.grace_days * DAY if to_read else date.min
    final = [one for one in to_read if one <= final_date and not night.dry_run]
    for _, members in outcomes.iterate_cohorts(final, experiment.cohort):
        reading = looks.read(source, members, closed_date)
        night.write(looks.close, source, reading, night.run_id)
        n_read += reading.n_read
        closed_date = members[-1]

    # The nights that are mature but open are added for today's figures only.
    reading = looks.read(source, to_read[len(final) :], closed_date)
    n_read += reading.n_read
    parts, tally, *_ = night.read(looks.add, source, reading)
    figures = night.read(looks.measure, source, parts, closed_date or date.min, night.run_date)
    look = night.read(
        looks.take, source, registration, tally, figures, watermark, mature_date, night.run_date
    )
    before = night.read(verdicts.find_words, name, night.run_date)
    words = (
        f"{look.row['n_mature']} mature predictions of {len(nights)} nights"
        f" (outcomes complete to {watermark or 'no date yet'})"
    )
    if night.dry_run:
        return night.finish(f"{words}; {figures.n_rows} figures")

    found: list[dict[str, Any]] = []

    def publish(connection: sa.Connection) -> None:
        looks.check(connection, source, reading)
        found[:] = looks.write(connection, look, figures, registration, tally, night.run_id)
        if draw:  # a report that cannot be written undoes the run, so that it can be done again
            report.write_report(connection, experiment, night.run_date)

    n_written = figures.n_rows + len(registration.comparisons) * len(source.metrics)
    page = experiment.environment.reports_dir / f"{name}.html"
    summary = night.finish(
        words + f"; report {page}" * draw, publish, rows_read=n_read, rows_written=n_written
    )
    for news in verdicts.describe_news(found, look.ratios, before):
        night.warn(news)
    return f"{summary}; {verdicts.describe(found)}"


main = score.main

if __name__ == "__main__":
    sys.exit(main())
