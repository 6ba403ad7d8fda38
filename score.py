"""Score predictions whose outcome is known: how good the models were, and what each variant brought.

Reads   predictions, outcomes and their watermark by SQL (queries.outcomes, queries.watermark)
Writes  tables scores, variant_scores, runs; reports/<experiment>.html

    python score.py                          all experiments, today
    python score.py --env prod --date 2026-11-23 --experiment card_offer
"""

import sys
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import pandas as pd
import sqlalchemy as sa

from abatch import database, drift, job, outcomes, predictions, registry, report, scores
from abatch.assignment import N_BUCKETS, assign
from abatch.config import Config
from abatch.errors import NothingToDo

DAY = timedelta(days=1)


def score(config: Config, engine: sa.Engine, run_date: date, *, force: bool = False, dry_run: bool = False, draw: bool = True) -> str:
    """Join mature predictions with outcomes cohort by cohort, measure, write the figures, draw the report."""
    settings, outcome, place = config.settings, config.settings.outcome, config.query_file("outcomes")
    with engine.connect() as connection:
        nights = [night for night in predictions.find_run_dates(connection, config.experiment) if night <= run_date]
    if not nights:
        raise NothingToDo(f"score {config.experiment} {run_date}: there are no predictions yet")
    with job.open_run("score", config, engine, run_date, force=force, dry_run=dry_run) as run:
        if draw and not dry_run:
            registry.check_writable(config.reports_dir)
        with engine.connect() as connection:
            job.check_registration(config, connection)
            cards = registry.read_cards(connection, config.experiment)
            references = {name: drift.Reference(**card["reference"]) for name, card in cards if card["reference"]}
        watermark = outcomes.read_watermark(engine, config.sql["watermark"], config.query_file("watermark"), run_date, run.as_of)
        if watermark is None:
            with engine.connect() as connection:
                scores.check_none_mature(connection, config.experiment, config.query_file("watermark"))
        mature_until = outcomes.last_mature_date(watermark, outcome.window_days, outcome.lag_days) if watermark else date.min

        tally, n_mature = scores.Tally(references, N_BUCKETS), 0
        for cohort, members in outcomes.iterate_cohorts(nights, settings.cohort):
            with engine.connect() as connection:
                rows = predictions.read_predictions(connection, config.experiment, members[0], members[-1] + DAY)
            last = min(members[-1], mature_until)
            rows["mature"] = rows["run_date"] <= pd.Timestamp(last)
            feed = pd.DataFrame()
            if last >= members[0]:
                window: dict[str, Any] = {"from_date": members[0], "to_date": last + outcome.window_days * DAY, "as_of": run.as_of}
                feed = database.read_query(engine, config.sql["outcomes"], place, **window)
            rows["outcome"] = outcomes.attach(rows, feed, outcome.window_days, place)
            rows["bucket"] = assign(rows["candidate_id"], config.experiment, settings.split).bucket
            tally.add(str(cohort), rows)
            run.rows_read += len(rows) + len(feed)
            n_mature += int(rows["mature"].sum())

        summary = (
            f"score {config.experiment} {run_date}{', dry run' if dry_run else ''}: {n_mature} mature predictions of {len(nights)} nights"
            f" (outcomes complete to {watermark or 'no date yet'})"
        )
        if dry_run:
            return f"{summary}; {len(tally.model_rows())} figures of models, {len(tally.variant_rows())} rows of variants"
        for attempt in database.transactions(engine):
            with attempt as connection:
                note = "; a later night is scored already, so tables and report stay those of that night"
                if is_latest := job.is_latest(connection, run, job.today(config)):
                    note = ""
                    run.rows_written = scores.replace_scores(connection, tally, config.experiment, run.run_id)
                run.finish(connection)
                if draw and is_latest:  # a report that cannot be written undoes the run, so that it can be done again
                    note = f"; report {report.write_report(connection, config, run_date)}"
        summary += note
        run.log(summary)
        return summary


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return job.main("score", score, argv)


if __name__ == "__main__":
    sys.exit(main())
