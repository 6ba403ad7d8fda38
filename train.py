"""Train the models of an experiment and decide what goes live.

Reads   training rows by SQL (queries.training), as known at one moment;
        the snapshot of the live model
Writes  snapshots/<content hash>.parquet; models/<name>_v<version>_<date>.pkl,
        .json and .html, <name>_v<version>_latest.pkl;
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

from datetime import date

from abatch.experiment import outcomes
from abatch.job import nightly
from abatch.modelling import gate, registry, retention, retraining, snapshots, training
from abatch.night import Night, today, utc_now
from abatch.pages import cards
from abatch.queries import Window


def link_live(night: Night) -> None:
    """Let the `latest` links follow what is live: a job may have died between rows and links."""
    if not night.dry_run:
        on = max(night.run_date, today(night.experiment.environment))
        night.read(registry.link_live, night.experiment, on)


@nightly(before=link_live, **SWITCHES)
def train(night: Night, *, allow_dirty: bool = False) -> str:
    """Pull rows as known at one moment, keep them, fit and validate models, let them go live."""
    experiment, environment = night.experiment, night.experiment.environment
    recipes = training.make_models(experiment)
    if not night.dry_run:
        training.check_folders(environment)

    # Training rows end where outcomes are complete. Is anything due?
    watermark = outcomes.read_watermark(night.pull, experiment.query("watermark"), night.run_date)
    with experiment.query("watermark").named():
        window = training.find_window(experiment, watermark, night.run_date)
    query = experiment.query("training")

    def count_rows(from_date: date) -> int:
        return sum(map(len, night.stream(query, Window(from_date, window.to_date))))

    standing = night.read(registry.read_standing, experiment, night.run_date)
    due = night.read(retraining.judge, experiment, standing, night.run_date, count_rows)
    due = due.force() if night.force else due
    night.log(("trains: " if due.is_due else "does not train: ") + due.words)
    if not due.is_due:
        return night.finish(f"not trained, {due.words}")

    # The rows, as known at the night's moment, and kept.
    pulled = night.pull(query, window)
    with query.named():
        snapshot = snapshots.make_snapshot(snapshots.arrange(pulled, experiment.outcome.kind))
        rows = training.prepare_rows(snapshot.frame, window, experiment)
    night.log(f"{len(rows.y)} rows of {window}, validation from {rows.validation_from}")
    night.write(snapshots.store, night, window, snapshot, utc_now())

    # Each model is measured, and held against the live one on rows that neither was fitted on.
    trained = []
    for recipe in recipes:
        fitted = training.fit_and_validate(recipe, rows)
        live, later = standing.find_live_card(recipe.variant), standing.later.get(recipe.variant)
        folder = environment.snapshots_dir
        live_rows = night.read(training.load_live_rows, folder, live, night.warn)
        evidence = training.collect_evidence(experiment, rows, fitted, live, live_rows)
        trained.append((fitted, gate.judge(experiment, evidence, later, allow_dirty)))
    if night.dry_run:
        plans = (f"variant {fitted.recipe.variant}: {plan.sentence}" for fitted, plan in trained)
        return night.finish("; ".join([due.words, f"{len(rows.y)} rows", *plans]))

    # While nobody else makes a model live: files first, then their rows and the promotions.
    with night.hold(registry.PROMOTIONS, "promoting, rolling back or deleting a model"):
        now_live = night.read(registry.find_live, experiment.name, night.run_date)
        origin = training.describe_origin(night, rows, due.words, snapshot.content_hash)
        saved = []
        for fitted, decision in trained:
            variant, undated = fitted.recipe.variant, fitted.recipe.undated_name
            decided = gate.stand_back(decision, standing.live.get(variant), now_live.get(variant))
            name = night.read(
                registry.choose_model_name, environment.models_dir, undated, night.run_date
            )
            file = registry.pickle_model(name, fitted.pipeline)
            card = training.make_card(experiment, origin, rows, fitted, decided, file)
            registry.save_model(environment.models_dir, file, card)
            cards.save(environment.models_dir, card)
            saved.append(card)
        words = "; ".join(f"{card.model_name} {card.gate.sentence}" for card in saved)
        publish = (registry.publish, night, saved, now_live, utc_now())
        summary = night.finish(words, *publish, rows_read=len(rows.y), rows_written=len(saved))
    for card in saved:
        if not card.gate.promote:
            night.warn(gate.tell(card))
    link_live(night)
    night.write(retention.write_deletions, environment, utc_now(), f"train {night.run_id}")
    night.read(retention.remove_files, environment, utc_now())
    return summary


main = train.main

if __name__ == "__main__":
    sys.exit(main())
