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

import sqlalchemy as sa

from abatch import files
from abatch.errors import DataError
from abatch.experiment import outcomes
from abatch.job import nightly
from abatch.modelling import code, gate, registry, retention, retraining, snapshots, training
from abatch.night import DAY, Night, today, utc_now
from abatch.pages import cards
from abatch.queries import Window


def mend_links(night: Night) -> None:
    """Let the `latest` links follow the table, in case a job died between rows and links."""
    if not night.dry_run:
        link_live(night)


def link_live(night: Night) -> None:
    """Let the `latest` links follow what is live today, or on run_date if that is later."""
    on = max(night.run_date, today(night.experiment.environment))
    night.read(registry.link_live, night.experiment, on)


@nightly(before=mend_links, **SWITCHES)
def train(night: Night, *, allow_dirty: bool = False) -> str:
    """Pull rows as known at one moment, fit and validate each model, save it, promote or not."""
    experiment, run_date, dry_run = night.experiment, night.run_date, night.dry_run
    recipes = training.make_models(experiment)
    if not dry_run:
        files.check_writable(experiment.environment.models_dir)
        files.check_writable(experiment.environment.snapshots_dir, snapshots.FOLDER_MODE)

    # The window ends where outcomes are complete. Is anything due?
    watermark = outcomes.read_watermark(night.pull, experiment.query("watermark"), run_date)
    if watermark is None:
        raise DataError(
            f"{experiment.query('watermark').file}: tells no date, so nothing is known to be"
            " complete. Load the feed, then train."
        )
    complete = min(watermark, run_date)
    to_date = outcomes.last_mature_date(complete, experiment.outcome) + DAY
    from_date = experiment.training.start_date or to_date - experiment.training.days * DAY
    window = Window(from_date, to_date)
    standing = night.read(registry.read_standing, experiment.name, run_date)
    registry.check_names(experiment, standing.cards)
    due = retraining.judge(night._engine, experiment, standing, run_date, to_date, night.as_of)
    why = due.words if due.is_due or not night.force else f"forced, although {due.words}"
    night.log(("trains: " if due.is_due or night.force else "does not train: ") + why)
    if not due.is_due and not night.force:
        return night.finish(f"not trained, {why}")

    # Pull the rows, as known at night.as_of, and keep them.
    query = experiment.query("training")
    pulled = night.pull(query, window)
    with query.named():
        frame = snapshots.arrange(pulled, experiment.outcome.kind)
        rows = training.prepare_rows(frame, window, experiment)
    night.log(
        f"{len(rows.y)} rows of {window}, validation from"
        f" {rows.validation_from}, outcomes complete to {complete}"
    )
    content_hash = snapshots.hash_rows(frame)
    night.write(
        snapshots.store,
        experiment.environment.snapshots_dir,
        frame,
        utc_now(),
        **window._asdict(),
        run_id=night.run_id,
        experiment=experiment.name,
        as_of=night.as_of,
        query=experiment.sql["training"],
    )

    # Fit each model, measure it, and hold it against the live one on rows that neither was
    # fitted on.
    trained, decisions = {}, {}
    for variant, recipe in recipes.items():
        trained[variant] = training.fit_and_validate(recipe, rows)
        live = standing.find_live_card(variant)
        live_rows = training.load_live_rows(night._engine, experiment, live, night.warn)
        evidence = training.collect_evidence(experiment, rows, trained[variant], live, live_rows)
        decisions[variant] = gate.judge_dirt(
            gate.decide(experiment.training, evidence, standing.later.get(variant)),
            experiment.environment.name,
            code.code_version(),
            allow_dirty=allow_dirty,
        )
    if dry_run:
        planned = [
            f"variant {variant}: {decision.sentence}" for variant, decision in decisions.items()
        ]
        return night.finish("; ".join([why, f"{len(rows.y)} rows", *planned]))

    # Save: files first, then their rows, the promotions and the end of the run in one
    # transaction.
    saved = {}
    origin = training.describe_origin(
        experiment,
        rows,
        run_id=night.run_id,
        run_date=run_date,
        as_of=night.as_of,
        trained_because=why,
        snapshot=content_hash,
    )
    models_dir = experiment.environment.models_dir
    for variant, fitted in trained.items():
        model = experiment.models[variant]
        undated_name = registry.undated_name(model.name, model.version)
        model_name = night.read(registry.choose_model_name, models_dir, undated_name, run_date)
        file = registry.pickle_model(model_name, fitted.pipeline)
        card = training.make_card(experiment, origin, rows, fitted, decisions[variant], file)
        registry.save_model(models_dir, file, card)
        files.write_file(models_dir / f"{model_name}.html", cards.render(card).encode())
        saved[variant] = card

    def publish(connection: sa.Connection) -> None:
        now_live = registry.find_live(connection, experiment.name, run_date)
        for variant, card in saved.items():
            if now_live.get(variant) != standing.live.get(variant):
                decisions[variant] = decisions[variant].refuse(
                    f"{now_live.get(variant)} was made live in the meantime",
                    f"to use the new one: {gate.PROMOTE}",
                )
            registry.add_model(connection, card, decisions[variant])
            if decisions[variant].promote:
                registry.promote(
                    connection,
                    experiment=experiment.name,
                    variant=variant,
                    model_name=card.model_name,
                    effective_date=run_date,
                    reason=decisions[variant].reason,
                    evidence=decisions[variant].evidence,
                    promoted_by=f"train {night.run_id}",
                    promoted_at=utc_now(),
                )

    words = "; ".join(card.model_name for card in saved.values())
    night.finish(words, publish, rows_read=len(rows.y), rows_written=len(saved))
    link_live(night)
    retention.apply(experiment.environment, night._engine, utc_now(), f"train {night.run_id}")
    told = {
        variant: f"{saved[variant].model_name} {decision.sentence}"
        for variant, decision in decisions.items()
    }
    for variant, decision in decisions.items():
        if decision.promote:
            night.log(told[variant])
        else:
            promote = f"{gate.PROMOTE} {saved[variant].model_name} --reason TEXT"
            mend = "" if decision.mend else f". To use it all the same: {promote}"
            night.warn(told[variant] + mend)
    return f"{night}: {'; '.join(told.values())}"


main = train.main

if __name__ == "__main__":
    sys.exit(main())
