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

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa

from abatch import files, job, lifecycle
from abatch.config import Experiment
from abatch.database import connections, reading
from abatch.errors import DataError
from abatch.experiment import outcomes
from abatch.experiment.assignment import N_BUCKETS
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
from abatch.pages import cards
from abatch.queries import Window
from abatch.statistics import drift, metrics


def train(
    experiment: Experiment,
    engine: sa.Engine,
    run_date: date,
    *,
    force: bool = False,
    dry_run: bool = False,
    allow_dirty: bool = False,
) -> str:
    """Pull rows as known at one moment, keep them, fit and validate each model, save it dated,
    promote it or keep the live one.
    """
    if not dry_run:
        job.link_live(
            experiment, engine, run_date
        )  # in case an earlier job died between its rows and its links
    with job.open_run("train", experiment, engine, run_date, force=force, dry_run=dry_run) as run:
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
            engine,
            experiment.query("watermark"),
            run_date,
            run.as_of,
        )
        if watermark is None:
            raise DataError(
                f"{experiment.query('watermark').file}: tells no date, so nothing is known to be"
                " complete. Load the feed, then train."
            )
        complete = min(watermark, run_date)
        to_date = outcomes.last_mature_date(
            complete, experiment.outcome.window_days, experiment.outcome.lag_days
        ) + timedelta(days=1)
        from_date = experiment.training.start_date or to_date - timedelta(
            days=experiment.training.days
        )
        window: dict[str, Any] = {"from_date": from_date, "to_date": to_date}
        with engine.connect() as connection:
            live = registry.find_live(connection, experiment.name, run_date)
            later = registry.find_later(connection, experiment.name, run_date)
            known = dict(registry.read_cards(connection, experiment.name))
        job.check_names(experiment, known)
        is_due, why = lifecycle.decide_retraining(experiment, engine, run, live, known, to_date)
        why = why if is_due or not force else f"forced, although {why}"
        run.log(("trains: " if is_due or force else "does not train: ") + why)
        if not is_due and not force:
            for attempt in connections.transactions(engine) if not dry_run else ():
                with attempt as connection:
                    run.finish(connection)
            return (
                f"train {experiment.name} {run_date}{', dry run' if dry_run else ''}: not"
                f" trained, {why}"
            )

        # Pull the rows, as known at run.as_of, and keep them.
        query = experiment.query("training")
        pulled = reading.read_query(engine, query, Window(**window), run.as_of)
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
        run.rows_read = len(rows.y)
        run.log(
            f"{len(rows.y)} rows of [{from_date}, {to_date}), validation from"
            f" {rows.validation_from}, outcomes complete to {complete}"
        )
        for attempt in connections.transactions(engine) if not dry_run else ():
            with attempt as connection:
                pull = {
                    "run_id": run.run_id,
                    "experiment": experiment.name,
                    "as_of": run.as_of,
                    "query": experiment.sql["training"],
                }
                content_hash = snapshots.store(
                    connection,
                    experiment.environment.snapshots_dir,
                    frame,
                    job.utc_now(),
                    **window,
                    **pull,
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
                own = lifecycle.load_snapshot(experiment, engine, live_card, run)
                difference = training.compare_with_live(
                    live_card, own, rows, fitted[variant], where
                )
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
            return (
                f"train {experiment.name} {run_date}, dry run: {why}; {len(rows.y)} rows; "
                + "; ".join(planned)
            )

        # Save: files first, then their rows, the promotions and the end of the run in one
        # transaction.
        saved = {}
        shared = {
            "experiment": experiment.name,
            "run_date": run_date,
            "run_id": run.run_id,
            "trained_because": why,
            "query": experiment.sql["training"],
            **window,
            "as_of": run.as_of,
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
            "config_hash": job.hash_config(experiment),
            "code_version": code.code_version(),
            "lock": libraries.list_installed(),
            "machine": libraries.describe_machine(),
        }
        X, y = rows.X[rows.newest], rows.y[rows.newest]
        checked = training.choose_checked(len(rows.y))
        for variant, model in experiment.models.items():
            found, decision = fitted[variant], decisions[variant]
            stem = registry.stem_of(model.name, model.version)
            with engine.connect() as connection:
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
        for attempt in connections.transactions(engine):
            with attempt as connection:
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
                            promoted_by=f"train {run.run_id}",
                            promoted_at=job.utc_now(),
                        )
                run.rows_written = len(saved)
                run.finish(connection)
        job.link_live(experiment, engine, run_date)
        lifecycle.apply_retention(experiment, engine, f"train {run.run_id}")
        said = {
            variant: f"{saved[variant]['model_name']} {decision.sentence}"
            for variant, decision in decisions.items()
        }
        for variant, decision in decisions.items():
            name = saved[variant]["model_name"]
            mend = f". To use it all the same: python -m abatch promote {name} --reason TEXT"
            (run.log if decision.promote else run.warn)(
                said[variant]
                + mend * (not decision.promote and "abatch promote" not in decision.reason)
            )
        return f"train {experiment.name} {run_date}: {'; '.join(said.values())}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return job.main("train", train, argv, **SWITCHES)


if __name__ == "__main__":
    sys.exit(main())
