"""Score predictions whose outcome is known, and judge which variant is better.

Reads   predictions, feature_counts and cards; outcomes and how far they are
        complete by SQL (queries.outcomes, queries.watermark, guardrails)
Writes  one look: tables looks, verdicts, sample_ratios, scores,
        variant_scores, feature_drift, runs; the sums of closed nights:
        cohort_sums, units; reports/<environment>/<experiment>.html

    python score.py            all experiments, today
    python score.py --env prod --date 2026-11-23 --experiment card_offer
    python score.py --rebuild  forget the sums and read every night again
"""

import sys

from abatch import arguments

SWITCHES = {"rebuild": "forget the sums of closed nights and read every night again"}
if __name__ == "__main__":  # --help and a wrong option need not wait for what is imported below
    arguments.parse("score", __doc__, **SWITCHES)

from abatch.errors import DataError
from abatch.experiment import corrections, looks, scores, terms, verdicts, watermarks
from abatch.job import nightly
from abatch.modelling import registry
from abatch.night import Night, find_nights, is_latest
from abatch.pages import report


def begin(night: Night) -> None:
    """Draw what a run that was ended after its commit did not come to."""
    looks.require_nights(night)
    if not night.dry_run:
        night.read(report.mend_report, night.experiment, night.run_date)


@nightly(first=begin, switches=SWITCHES)
def score(night: Night, *, rebuild: bool = False, draw: bool = True) -> str:
    """Close the nights whose outcomes are final, read the open ones, measure, judge, report."""
    experiment, name = night.experiment, night.experiment.name
    registration = night.read(terms.check, experiment)
    assert registration is not None  # the first night wrote it
    if not night.read(is_latest, night):
        if rebuild:
            raise DataError(
                f"{night}: a later night is scored already, so nothing was rebuilt. Leave --date"
                " out, or name the newest night."
            )
        return night.finish(
            "a later night is scored already, so tables and report stay those of that night"
        )
    page = report.find_page(experiment) if draw and not night.dry_run else None

    # How far are outcomes complete? Were closed ones corrected? Sums that do not fit any more are
    # dropped.
    maturity = watermarks.find_maturity(night, is_rebuilt=rebuild)
    is_outdated = rebuild or night.read(looks.has_other_cohorts, experiment)
    if is_outdated:
        corrections.require_feeds(night, registration)
    is_rebuilt = is_outdated or corrections.reread(night, registration)
    if is_rebuilt:
        night.write(scores.drop_sums, name)

    # Final nights are added to sums for good, by cohort (in a dry run none); open ones for today.
    references = night.read(registry.read_references, name)
    question = looks.Question(night, registration, maturity, *references)
    nights = night.read(find_nights, night)
    reading = looks.close_final(question, nights)
    with looks.noticing(night, reading):
        total = night.read(looks.sum_up, question, reading)
        figures = night.read(looks.measure, question, reading, total)
        doubted = night.read(looks.find_doubts, question, reading, total)
        looks.tell_doubts(question, reading, doubted, is_rebuilt=is_rebuilt)
        look = night.read(looks.judge, question, reading, total, figures, doubted)
    earlier_words = night.read(verdicts.find_words, name, night.run_date)
    falls = night.read(looks.find_falls, question, figures)

    shown = f"report {page}" if page else None
    if night.dry_run:
        shown = f"{figures.n_rows} figures"
    words = looks.describe(look, len(nights), shown)
    publish = (looks.write, night, reading, figures, look, doubted)
    n_rows = figures.n_rows + len(look.verdicts)
    summary = night.finish(words, *publish, rows_read=reading.n_read, rows_written=n_rows)
    looks.tell_news(night, look, earlier_words, falls)
    if page:  # after the commit, for others wait for what it holds; the next run makes up for it
        night.read(report.write_report, experiment, night.run_date)
    return summary


main = score.main

if __name__ == "__main__":
    sys.exit(main())
