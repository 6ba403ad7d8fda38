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

from typing import Any

import sqlalchemy as sa

from abatch import files, lifecycle
from abatch.errors import DataError
from abatch.experiment import outcomes
from abatch.experiment.assignment import N_BUCKETS
from abatch.job import nightly
from abatch.modelling import (
    code,
    estimators,
    gate,
    inspection,
    libraries,
    registry,
    snapshots,
    training,
)
from abatch.night import DAY, Night, today, utc_now
from abatch.pages import cards
from abatch.queries import Window
from abatch.statistics import drift, metrics


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
    estimator_of = {
        variant: estimators.make_estimator(
            model.estimator,
            model.params,
            experiment.training.seed,
            experiment.key(f"models.{variant}"),
        )
        for variant, model in experiment.models.items()
    }
    if not dry_run:
        files.check_writable(experiment.environment.models_dir)
        files.check_writable(experiment.environment.snapshots_dir, snapshots.FOLDER_MODE)

    # The window ends where outcomes are complete. Is anything due?
    watermark = outcomes.read_watermark(
        night._engine, experiment.query("watermark"), run_date, night.as_of
    )
    if watermark is None:
        raise DataError(
            f"{experiment.query('watermark').file}: tells no date, so nothing is known to be"
            " complete. Load the feed, then train."
        )
    complete = min(watermark, run_date)
    to_date = (
        outcomes.last_mature_date(
            complete, experiment.outcome.window_days, experiment.outcome.lag_days
        )
        + DAY
    )
    from_date = experiment.training.start_date or to_date - experiment.training.days * DAY
    window: dict[str, Any] = {"from_date": from_date, "to_date": to_date}
    with night._engine.connect() as connection:
        live = registry.find_live(connection, experiment.name, run_date)
        later = registry.find_later(connection, experiment.name, run_date)
        known = dict(registry.read_cards(connection, experiment.name))
    registry.check_names(experiment, known)
    is_due, why = lifecycle.decide_retraining(
        experiment, night._engine, night, live, known, to_date
    )
    why = why if is_due or not night.force else f"forced, although {why}"
    night.log(("trains: " if is_due or night.force else "does not train: ") + why)
    if not is_due and not night.force:
        return night.finish(f"not trained, {why}")

    # Pull the rows, as known at night.as_of, and keep them.
    query = experiment.query("training")
    pulled = night.pull(query, Window(**window))
    with query.named():
        frame = snapshots.arrange(pulled, experiment.outcome.kind)
        rows = training.prepare_rows(
            frame,
            **window,
            validation_share=experiment.training.validation_share,
            salt=experiment.name,
            kind=experiment.outcome.kind,
            cap=experiment.outcome.cap,
            not_features=experiment.training.not_features,
            subgroups=experiment.training.subgroups,
        )
    night.log(
        f"{len(rows.y)} rows of [{from_date}, {to_date}), validation from"
        f" {rows.validation_from}, outcomes complete to {complete}"
    )
    content_hash = snapshots.hash_rows(frame)
    night.write(
        snapshots.store,
        experiment.environment.snapshots_dir,
        frame,
        utc_now(),
        **window,
        run_id=night.run_id,
        experiment=experiment.name,
        as_of=night.as_of,
        query=experiment.sql["training"],
    )

    # Fit each model, measure it, and hold it against the live one on rows that neither was
    # fitted on.
    fitted, decisions, rules = {}, {}, lifecycle.make_rules(experiment)
    for variant, estimator in estimator_of.items():
        where = experiment.key(f"models.{variant}")
        fitted[variant] = training.fit_and_validate(
            estimator, rows, rows.types, experiment.training.seed, where
        )
        live_card = known.get(live.get(variant, ""))
        difference: gate.AucDifference | str = "it has no record"
        if live_card is not None:
            own = lifecycle.load_snapshot(experiment, night._engine, live_card, night)
            difference = training.compare_with_live(live_card, own, rows, fitted[variant], where)
        decisions[variant] = gate.decide(
            rules,
            n_rows=len(rows.y),
            metrics=metrics.to_dict(fitted[variant].metrics),
            live=live.get(variant),
            difference=difference,
            input_psi=(
                training.find_input_psi(live_card, rows, rules.max_input_psi or 0)
                if live_card
                else None
            ),
            later=later.get(variant),
        )
        decisions[variant] = lifecycle.judge_dirt(experiment, decisions[variant], allow_dirty)
    if dry_run:
        planned = [
            f"variant {variant}: {decision.sentence}" for variant, decision in decisions.items()
        ]
        return night.finish("; ".join([why, f"{len(rows.y)} rows", *planned]))

    # Save: files first, then their rows, the promotions and the end of the run in one
    # transaction.
    saved = {}
    shared = {
        "experiment": experiment.name,
        "run_date": run_date,
        "run_id": night.run_id,
        "trained_because": why,
        "query": experiment.sql["training"],
        **window,
        "as_of": night.as_of,
        "snapshot": content_hash,
        "rows": len(rows.y),
        "n_positive": int(rows.y.sum()),
        "validation_from": rows.validation_from,
        "rows_validation": int(rows.newest.sum()),
        "columns": rows.types,
        "features": {
            name: found._asdict()
            for name, found in drift.make_feature_references(rows.X, rows.types).items()
        },
        "outcome_mean": rows.outcome_mean,
        "outcome_sd": rows.outcome_sd,
        "seed": experiment.training.seed,
        "config": experiment.describe(),
        "config_hash": experiment.hash(),
        "code_version": code.code_version(),
        "lock": libraries.list_installed(),
        "machine": libraries.describe_machine(),
    }
    X, y = rows.X[rows.newest], rows.y[rows.newest]
    checked = training.choose_checked(len(rows.y))
    for variant, model in experiment.models.items():
        found, decision = fitted[variant], decisions[variant]
        stem = registry.stem_of(model.name, model.version)
        with night._engine.connect() as connection:
            model_name = registry.choose_model_name(
                connection, experiment.environment.models_dir, stem, run_date
            )
        card = {
            **shared,
            "variant": variant,
            "name": model.name,
            "version": model.version,
            "estimator": model.estimator,
            "params": model.params,
            "metrics": metrics.to_dict(found.metrics),
            "importances": inspection.measure_importances(
                found.validated, X, y, experiment.training.seed
            ),
            "subgroups": inspection.measure_subgroups(
                rows.subgroups[rows.newest],
                y,
                found.scores,
                rows.bucket[rows.newest],
                N_BUCKETS,
            ),
            "reference": found.reference._asdict() if found.reference else None,
            "checked": (
                estimators.predict_probability(found.pipeline, rows.X.iloc[checked]).tolist()
            ),
            "gate": {
                "promote": decision.promote,
                "reason": decision.reason,
                "evidence": decision.evidence,
            },
            "code_files": code.hash_code(model.estimator, experiment.environment.folder),
            "libraries": libraries.find_libraries(estimators.list_parts(found.pipeline)),
        }
        saved[variant] = registry.save_model(
            experiment.environment.models_dir, model_name, found.pipeline, card
        )
        files.write_file(
            experiment.environment.models_dir / f"{model_name}.html",
            cards.render(saved[variant]).encode(),
        )

    def publish(connection: sa.Connection) -> None:
        now_live = registry.find_live(connection, experiment.name, run_date)
        for variant, card in saved.items():
            if now_live.get(variant) != live.get(variant):
                reason = (
                    f"{now_live.get(variant)} was made live in the meantime; to use the new"
                    " one: python -m abatch promote"
                )
                decisions[variant] = gate.refuse(decisions[variant], reason)
            registry.add_model(connection, card, decisions[variant].sentence)
            if decisions[variant].promote:
                registry.promote(
                    connection,
                    experiment=experiment.name,
                    variant=variant,
                    model_name=card["model_name"],
                    effective_date=run_date,
                    reason=decisions[variant].reason,
                    evidence=decisions[variant].evidence,
                    promoted_by=f"train {night.run_id}",
                    promoted_at=utc_now(),
                )

    words = "; ".join(saved[variant]["model_name"] for variant in saved)
    night.finish(words, publish, rows_read=len(rows.y), rows_written=len(saved))
    link_live(night)
    lifecycle.apply_retention(experiment, night._engine, f"train {night.run_id}")
    said = {
        variant: f"{saved[variant]['model_name']} {decision.sentence}"
        for variant, decision in decisions.items()
    }
    for variant, decision in decisions.items():
        name = saved[variant]["model_name"]
        mend = f". To use it all the same: python -m abatch promote {name} --reason TEXT"
        (night.log if decision.promote else night.warn)(
            said[variant]
            + mend * (not decision.promote and "abatch promote" not in decision.reason)
        )
    return f"{night}: {'; '.join(said.values())}"


main = train.main

if __name__ == "__main__":
    sys.exit(main())
