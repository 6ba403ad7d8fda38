"""Predict tonight's candidates, each by the live model of its variant.

Reads   candidates by SQL (queries.candidates), the live models, feature_counts
        of the newest nights
Writes  tables prediction_rows, prediction_shares, feature_counts (seen as a
        whole night or not at all), registrations (the first time), runs

    python predict.py          all experiments, today
    python predict.py --env prod --date 2026-11-23 --experiment card_offer
"""

import sys

from abatch import arguments

if __name__ == "__main__":  # --help and a wrong option need not wait for what is imported below
    options = arguments.parse("predict", __doc__)
    from abatch.modelling import forking

    forking.begin(options)  # workers import their part of it meanwhile

import sqlalchemy as sa

from abatch.experiment import predictions, registrations, scores, spool, terms
from abatch.job import nightly
from abatch.modelling import balance, constancy, features, inference, promotion
from abatch.night import Night


@nightly(clean=spool.remove_dead)
def predict(night: Night) -> str:
    """Stream candidates, assign by hash, predict, spool; rank, write, read back, publish."""
    experiment, query = night.experiment, night.experiment.query("candidates")
    night.read(terms.check, experiment)  # a changed question is refused before any work
    models = promotion.open_live(night)
    recent = constancy.read_recent(night, models)

    # Each chunk is split between the variants and predicted. Only the rows tell whether they bring
    # the variant themselves, which was registered too.
    total, model_names = predictions.Batch(), inference.name_models(models, experiment.split)
    with spool.open_spool(night, model_names) as spooled:
        for part in inference.infer(night, models, recent.earlier):
            registered = night.read(terms.check, experiment, part.candidates.source)
            spooled.add(part.candidates, part.prediction)
            total += part.total
        with query.named():
            predictions.require_candidates(total, night.run_date)
            references = [model.card.features for model in models.values()]
            features.check_null_columns(total.n_rows, total.n_filled, references)
            changes = constancy.check(night, recent, total)
            changes += balance.check(night, models, total)

            # All are known, so they are ranked and written, where no reader looks yet.
            n_selected = predictions.count_selected(night, total)
            predictions.write_rows(night, total.n_rows, spooled.rank(n_selected))

    # The first night registers the question, with the source of variants that its rows have.
    new = None
    if registered is None:
        trained = inference.find_training_outcome(models)
        new = terms.make_registration(night, part.candidates.source, trained, total.n_rows)

    def publish(connection: sa.Connection) -> None:
        """In one transaction with the run's end, by which readers see the rows."""
        predictions.require_rows(connection, night, total.n_rows)
        if new is not None:
            registrations.register(connection, night, new)
        scores.drop_sums(connection, experiment.name, night.run_date)  # they held the old rows
        predictions.write_feature_counts(connection, night, total.feature_counts)
        predictions.write_shares(connection, night)

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
