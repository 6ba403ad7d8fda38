"""Train the models of an experiment and decide what goes live.

Reads   training rows and how far they are complete by SQL (queries.training,
        queries.watermark), the live model's snapshot, what score found
Writes  in snapshots_dir <content hash>.parquet; in models_dir
        <name>_v<version>_<date>.pkl, .json and .html, ..._latest.pkl;
        tables snapshots, models, promotions, deletions, runs

    python train.py            all experiments, today, if their models are due
    python train.py --env prod --date 2026-11-23 --experiment card_offer
    python train.py --force    train even if nothing is due, or again
"""

import sys

from abatch import arguments

SWITCHES = {
    "allow_dirty": "let models go live in prod although the code differs from its commit; recorded"
}
if __name__ == "__main__":  # --help and a wrong option need not wait for what is imported below
    arguments.parse("train", __doc__, **SWITCHES)

from abatch.job import nightly
from abatch.modelling import cluster, gate, promotion, retention, retraining, snapshots, training
from abatch.night import Night, utc_now
from abatch.pages import cards


@nightly(switches=SWITCHES)
def train(night: Night, *, allow_dirty: bool = False) -> str:
    """Pull rows as known at one moment, keep them, fit and validate models, let them go live."""
    experiment, environment = night.experiment, night.experiment.environment
    recipes = training.make_recipes(experiment)
    training.check_folders(night)

    # Training rows end where outcomes are complete, which the watermark tells. Is anything due?
    window = training.find_window(night)
    standing = night.read(promotion.read_standing, experiment, night.run_date)
    due = retraining.judge(night, standing, window)
    night.log(due.sentence)
    if not due.is_due:
        return night.finish(f"not trained, {due.words}")

    # The rows, as known at the night's moment, and kept, whatever becomes of the models.
    snapshot = snapshots.pull(night, window)
    rows = training.prepare_rows(snapshot.frame, window, experiment)
    training.warn_of_rows(night, snapshot.frame, rows)
    night.log(f"{len(rows.y)} rows of {window}, validation from {rows.validation_from}")
    night.write(snapshots.store, night, window, snapshot, utc_now())
    content_hash = snapshot.content_hash
    del snapshot  # fits need the room

    # Measured on the newest rows, where the gate holds each against the live one; saved as fitted
    # on these too.
    with cluster.spread(night, [recipe.config.estimator for recipe in recipes]):
        trained = [training.fit_and_validate(recipe, rows) for recipe in recipes]
        training.warn_of_leak(night, rows, trained)
        decisions = gate.judge(night, rows, trained, standing, allow_dirty)
    if night.dry_run:
        judged = zip(recipes, decisions, strict=True)
        plans = [f"variant {recipe.variant}: {decision.sentence}" for recipe, decision in judged]
        return night.finish("; ".join([due.words, f"{len(rows.y)} rows", *plans]))

    # Somebody may have promoted meanwhile, now nobody can. Files first, then all rows at once.
    with night.hold(promotion.PROMOTIONS, "promoting, rolling back or deleting a model"):
        live = night.read(promotion.read_promotions, experiment.name).live(night.run_date)
        origin = training.describe_origin(night, rows, due.words, content_hash)
        saved = []
        for model, decision in zip(trained, decisions, strict=True):
            final = gate.stand_back(decision, model.recipe.variant, standing.live, live)
            saved.append(training.save(night, origin, rows, model, final))
            cards.save(environment.models_dir, saved[-1])
        words = "; ".join(f"{card.model_name} {card.gate.sentence}" for card in saved)
        publish = (promotion.publish, night, saved, live, utc_now())
        summary = night.finish(words, *publish, rows_read=len(rows.y), rows_written=len(saved))

    gate.warn_of(night, saved)
    promotion.relink(night)
    retention.apply(night)
    return summary


main = train.main

if __name__ == "__main__":
    sys.exit(main())
