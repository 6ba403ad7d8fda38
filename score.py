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

from collections.abc import Sequence
from datetime import date, timedelta

import sqlalchemy as sa

from abatch import files, job
from abatch.config import Experiment
from abatch.database import connections
from abatch.errors import NothingToDo
from abatch.experiment import looks, outcomes, registrations, scores, verdicts
from abatch.modelling import registry
from abatch.pages import report
from abatch.statistics import drift

DAY = timedelta(days=1)


def score(
    experiment: Experiment,
    engine: sa.Engine,
    run_date: date,
    *,
    force: bool = False,
    dry_run: bool = False,
    rebuild: bool = False,
    draw: bool = True,
) -> str:
    """Close the nights whose outcomes are final, read the open ones, measure, judge, write one
    look, draw the report.
    """
    outcome = experiment.outcome
    with engine.connect() as connection:
        nights = job.find_nights(connection, experiment.name, run_date)
    if not nights:
        raise NothingToDo(f"score {experiment.name} {run_date}: there are no predictions yet")
    with job.open_run(
        "score", experiment, engine, run_date, force=force or rebuild, dry_run=dry_run
    ) as run:
        with engine.connect() as connection:
            is_latest = job.is_latest(connection, run, job.today(experiment))
            registration = registrations.check(connection, experiment)
            assert registration is not None  # there are nights
            cards = dict(registry.read_cards(connection, experiment.name))
        if not is_latest:
            for attempt in connections.transactions(engine) if not dry_run else ():
                with attempt as connection:
                    run.finish(connection)
            return (
                f"score {experiment.name} {run_date}: a later night is scored already, so tables"
                " and report stay those of that night"
            )
        if draw and not dry_run:
            files.check_writable(experiment.environment.reports_dir)

        # How far outcomes are complete; a feed that is late leaves nights open, and never turns
        # into zeros.
        watermark = outcomes.read_watermark(
            engine, experiment.query("watermark"), run_date, run.as_of
        )
        mature_date = (
            outcomes.last_mature_date(watermark, outcome.window_days, outcome.lag_days)
            if watermark
            else date.min
        )
        source = looks.Source(
            engine=engine,
            experiment=experiment.name,
            split=experiment.split,
            metrics=job.list_metrics(experiment),
            window_days=outcome.window_days,
            cohort=experiment.cohort,
            as_of=run.as_of,
            exposure=registration.exposure,
            start_date=registration.start_date,
            references={
                name: drift.Reference(**card["reference"])
                for name, card in cards.items()
                if card["reference"]
            },
            chunk_rows=experiment.environment.chunk_rows,
        )
        with engine.connect() as connection:
            with experiment.query("watermark").named():
                scores.check_watermark(
                    connection, experiment.name, watermark and mature_date, is_rebuilt=rebuild
                )
            is_stale = rebuild or looks.has_other_cohorts(connection, source)
        for attempt in connections.transactions(engine) if is_stale and not dry_run else ():
            with attempt as connection:
                scores.forget(connection, experiment.name)
        with engine.connect() as connection:
            closed_date = scores.find_closed_date(connection, experiment.name)
        to_read = [night for night in nights if (closed_date or date.min) < night <= mature_date]

        # Close nights for good once no correction is waited for: a cohort at a time, lest a first
        # run hold them all in memory.
        final = [
            night
            for night in to_read
            if night <= mature_date - outcome.grace_days * DAY and not dry_run
        ]
        for _, members in outcomes.iterate_cohorts(final, experiment.cohort):
            reading = looks.read(source, members, closed_date)
            for attempt in connections.transactions(engine):
                with attempt as connection:
                    looks.close(connection, source, reading, run.run_id)
            run.rows_read += reading.n_read
            closed_date = members[-1]

        # The nights that are mature but open are added for today's figures only.
        reading = looks.read(source, to_read[len(final) :], closed_date)
        run.rows_read += reading.n_read
        with engine.connect() as connection:
            parts, tally, *_ = looks.add(connection, source, reading)
            figures = looks.measure(
                connection, source, parts, cards, closed_date or date.min, run_date
            )
            look = looks.take(
                connection, source, registration, tally, figures, watermark, mature_date, run_date
            )
        summary = (
            f"score {experiment.name} {run_date}{', dry run' if dry_run else ''}:"
            f" {look.row['n_mature']} mature predictions of {len(nights)} nights (outcomes complete"
            f" to {watermark or 'no date yet'})"
        )
        if dry_run:
            return f"{summary}; {figures.n_rows} figures"
        page = ""
        for attempt in connections.transactions(engine):
            with attempt as connection:
                looks.check(connection, source, reading)
                before = verdicts.find_words(connection, experiment.name, run_date)
                found = looks.write(connection, look, figures, registration, tally, run.run_id)
                run.rows_written = figures.n_rows + len(found)
                run.finish(connection)
                if (
                    draw
                ):  # a report that cannot be written undoes the run, so that it can be done again
                    page = f"; report {report.write_report(connection, experiment, run_date)}"
        for news in verdicts.describe_news(found, look.ratios, before):
            run.warn(news)
        summary += f"{page}; {verdicts.describe(found)}"
        run.log(summary)
        return summary


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return job.main("score", score, argv, **SWITCHES)


if __name__ == "__main__":
    sys.exit(main())
