"""Train the models of an experiment and decide what goes live.

Reads   training rows by SQL (queries.training), as known at one moment; the snapshot of the live
model Writes  snapshots/<content hash>.parquet; models/<name>_v<version>_<date>.pkl, .json and
.html, <name>_v<version>_latest.pkl;
        tables snapshots, models, promotions, deletions, runs

    python train.py                          all experiments, today, if their models are due
    python train.py --env prod --date 2026-11-23 --experiment card_offer
    python train.py --force                  train even if nothing is due, or again if it was done
"""

import sys
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa

from abatch import files, job, lifecycle
from abatch.config import Config
from abatch.database import connections, reading
from abatch.errors import DataError
from abatch.experiment import outcomes
from abatch.experiment.assignment import N_BUCKETS
from abatch.modelling import estimators, gate, libraries, registry, snapshots, training
from abatch.pages import cards
from abatch.statistics import drift, metrics


def train(
    config: Config,
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
    settings, place = config.settings, config.query_file("training")
    if not dry_run:
        job.link_live(
            config, engine, run_date
        )  # in case an earlier job died between its rows and its links
    with job.open_run("train", config, engine, run_date, force=force, dry_run=dry_run) as run:
        estimator_of = {
            variant: estimators.make_estimator(
                model.estimator,
                model.params,
                settings.training.seed,
                config.key(f"models.{variant}"),
            )
            for variant, model in settings.models.items()
        }
        if not dry_run:
            files.check_writable(config.models_dir)
            files.check_writable(config.snapshots_dir, snapshots.FOLDER_MODE)

        # The window ends where outcomes are complete. Is anything due?
        watermark = outcomes.read_watermark(
            engine, config.sql["watermark"], config.query_file("watermark"), run_date, run.as_of
        )
        if watermark is None:
            raise DataError(
                f"{config.query_file('watermark')}: tells no date, so nothing is known to be"
                " complete. Load the feed, then train."
            )
        complete = min(watermark, run_date)
        to_date = outcomes.last_mature_date(
            complete, settings.outcome.window_days, settings.outcome.lag_days
        ) + timedelta(days=1)
        from_date = settings.training.start_date or to_date - timedelta(days=settings.training.days)
        window: dict[str, Any] = {"from_date": from_date, "to_date": to_date}
        with engine.connect() as connection:
            live = registry.find_live(connection, config.experiment, run_date)
            later = registry.find_later(connection, config.experiment, run_date)
            known = dict(registry.read_cards(connection, config.experiment))
        job.check_names(config, known)
        is_due, why = lifecycle.decide_retraining(config, engine, run, live, known, to_date)
        why = why if is_due or not force else f"forced, although {why}"
        run.log(("trains: " if is_due or force else "does not train: ") + why)
        if not is_due and not force:
            for attempt in connections.transactions(engine) if not dry_run else ():
                with attempt as connection:
                    run.finish(connection)
            return (
                f"train {config.experiment} {run_date}{', dry run' if dry_run else ''}: not"
                f" trained, {why}"
            )

        # Pull the rows, as known at run.as_of, and keep them.
        frame = snapshots.arrange(
            reading.read_query(engine, config.sql["training"], place, **window, as_of=run.as_of),
            place,
            settings.outcome.kind,
        )
        rows = training.prepare_rows(
            frame,
            **window,
            validation_share=settings.training.validation_share,
            salt=config.experiment,
            kind=settings.outcome.kind,
            cap=settings.outcome.cap,
            not_features=settings.training.not_features,
            subgroups=settings.training.subgroups,
            place=place,
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
                    "experiment": config.experiment,
                    "as_of": run.as_of,
                    "query": config.sql["training"],
                }
                content_hash = snapshots.store(
                    connection, config.snapshots_dir, frame, job.utc_now(), **window, **pull
                )

        # Fit each model, measure it, and hold it against the live one on rows that neither was
        # fitted on.
        fitted, decisions, rules = {}, {}, lifecycle.make_rules(config)
        for variant, estimator in estimator_of.items():
            where = config.key(f"models.{variant}")
            fitted[variant] = training.fit_and_validate(
                estimator, rows, rows.types, settings.training.seed, where
            )
            live_card = known.get(live.get(variant, ""))
            difference: gate.AucDifference | str = "it has no record"
            if live_card is not None:
                own = lifecycle.load_snapshot(config, engine, live_card, run)
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
            decisions[variant] = lifecycle.judge_dirt(config, decisions[variant], allow_dirty)
        if dry_run:
            planned = [
                f"variant {variant}: {decision.sentence}" for variant, decision in decisions.items()
            ]
            return (
                f"train {config.experiment} {run_date}, dry run: {why}; {len(rows.y)} rows; "
                + "; ".join(planned)
            )

        # Save: files first, then their rows, the promotions and the end of the run in one
        # transaction.
        saved = {}
        shared = {
            "experiment": config.experiment,
            "run_date": run_date,
            "run_id": run.run_id,
            "trained_because": why,
            "query": config.sql["training"],
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
            "seed": settings.training.seed,
            "config": job.describe_config(config),
            "config_hash": job.hash_config(config),
            "code_version": job.code_version(),
            "lock": libraries.list_installed(),
            "machine": libraries.describe_machine(),
        }
        X, y = rows.X[rows.newest], rows.y[rows.newest]
        checked = training.choose_checked(len(rows.y))
        for variant, model in settings.models.items():
            found, decision = fitted[variant], decisions[variant]
            stem = registry.stem_of(model.name, model.version)
            with engine.connect() as connection:
                model_name = registry.choose_model_name(
                    connection, config.models_dir, stem, run_date
                )
            card = {
                **shared,
                "variant": variant,
                "estimator": model.estimator,
                "params": model.params,
                "metrics": metrics.to_dict(found.metrics),
                "importances": cards.measure_importances(
                    found.validated, X, y, settings.training.seed
                ),
                "subgroups": cards.measure_subgroups(
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
                "code_files": lifecycle.hash_code(config, [model.estimator]),
                "libraries": libraries.find_libraries(estimators.list_parts(found.pipeline)),
            }
            saved[variant] = registry.save_model(
                config.models_dir, model_name, found.pipeline, card
            )
            files.write_file(
                config.models_dir / f"{model_name}.html", cards.render(saved[variant]).encode()
            )
        for attempt in connections.transactions(engine):
            with attempt as connection:
                now_live = registry.find_live(connection, config.experiment, run_date)
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
                            experiment=config.experiment,
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
        job.link_live(config, engine, run_date)
        lifecycle.apply_retention(config, engine, f"train {run.run_id}")
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
        return f"train {config.experiment} {run_date}: {'; '.join(said.values())}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return job.main(
        "train",
        train,
        argv,
        allow_dirty=(
            "let models go live in prod although the code differs from its commit; recorded"
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
