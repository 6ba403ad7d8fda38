"""Predict tonight's candidates, each by the live model of its variant.

Reads   candidates by SQL (queries.candidates), the live models, feature_counts
        of the newest nights
Writes  tables predictions, feature_counts, with --force predictions_superseded
        (the whole night or nothing), registrations (the first time), runs

    python predict.py          all experiments, today
    python predict.py --env prod --date 2026-11-23 --experiment card_offer
"""

import sys

from abatch import arguments

if __name__ == "__main__":  # --help and a wrong option need not wait for what is imported below
    arguments.parse("predict", __doc__)

import sqlalchemy as sa

from abatch.experiment import assignment, predictions, registrations, scores, terms
from abatch.job import nightly
from abatch.modelling import balance, constancy, features, inference, promotion
from abatch.night import DAY, Night, utc_now
from abatch.queries import Window


@nightly()
def predict(night: Night) -> str:
    """Stream candidates, assign by hash, predict, stage; check, rank and publish the night."""
    experiment, query = night.experiment, night.experiment.query("candidates")
    night.read(terms.check, experiment)  # a changed question is refused before any work
    models = promotion.open_live(night)
    recent = constancy.read_recent(night, models)

    # Each chunk is split between the variants, predicted, and staged where no reader looks. Only
    # the rows tell whether they bring the variant themselves, which was registered too.
    total = predictions.Batch()
    for chunk in night.stream(query, Window(night.run_date, night.run_date + DAY)):
        with query.named():
            candidates = assignment.assign_candidates(chunk, experiment)
            inferred = inference.predict(models, candidates, recent.earlier)
        registered = night.read(terms.check, experiment, candidates.source)
        rows = predictions.make_rows(night, candidates, inferred)
        night.write(predictions.stage, rows)
        total += predictions.summarise(rows, candidates, inferred)
    with query.named():
        predictions.require_candidates(total, night.run_date)
        references = [model.card.features for model in models.values()]
        features.check_null_columns(total.n_rows, total.n_filled, references)
        changes = constancy.check(night, recent, total) + balance.check(night, models, total)

    # The first night registers the question, with the source of variants that its rows have.
    n_selected = predictions.count_selected(night, total)
    new = None
    if registered is None:
        trained = inference.find_training_outcome(models)
        new = terms.make_registration(night, candidates.source, trained, total.n_rows)

    def publish(connection: sa.Connection) -> None:
        """In one transaction, with the run's end: what was staged arrived, and is shown ranked."""
        with query.named():
            predictions.check_staged(connection, night, total)
        if new is not None:
            registrations.register(connection, night, new)
        scores.drop_sums(connection, experiment.name, night.run_date)  # they held the old rows
        predictions.write_feature_counts(connection, night, total.feature_counts)
        predictions.publish(connection, night, n_selected, utc_now())

    words = predictions.describe(experiment, total, n_selected, models)
    words += changes
    replaced = night.read(predictions.describe_replaced, night)
    summary = night.finish(words, publish, rows_read=total.n_rows, rows_written=total.n_rows)
    for doubt in filter(None, [*replaced, predictions.describe_doubles(night, total)]):
        night.warn(doubt)
    if new is not None:
        night.announce(registrations.describe_plan(new))
        for doubt in registrations.list_doubts(new):
            night.warn(doubt)
    return summary


main = predict.main

if __name__ == "__main__":
    sys.exit(main())
