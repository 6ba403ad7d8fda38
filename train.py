"""Train the models of an experiment and decide what goes live.

Reads   training rows by SQL (queries.training), as known at one moment
Writes  models/<name>_v<version>_<date>.pkl and .json, <name>_v<version>_latest.pkl; tables models, promotions, runs

    python train.py                          all experiments, today
    python train.py --env prod --date 2026-11-23 --experiment card_offer
"""

import sys
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa

from abatch import database, drift, estimators, job, metrics, outcomes, registry, training
from abatch.config import Config
from abatch.errors import DataError


def train(config: Config, engine: sa.Engine, run_date: date, *, force: bool = False, dry_run: bool = False) -> str:
    """Pull rows as known at one moment, fit and validate each model, save it dated, promote it or keep the live one."""
    settings, place = config.settings, config.query_file("training")
    if not dry_run:
        job.link_live(config, engine, run_date)  # in case an earlier job died between its rows and its links
    with job.open_run("train", config, engine, run_date, force=force, dry_run=dry_run) as run:
        estimator_of = {
            variant: estimators.make_estimator(model.estimator, model.params, settings.training.seed, config.key(f"models.{variant}"))
            for variant, model in settings.models.items()
        }
        if not dry_run:
            registry.check_writable(config.models_dir)

        # Pull the rows, as known at run.as_of; the window ends where outcomes are complete.
        watermark = outcomes.read_watermark(engine, config.sql["watermark"], config.query_file("watermark"), run_date, run.as_of)
        if watermark is None:
            raise DataError(
                f"{config.query_file('watermark')}: tells no date, so nothing is known to be complete. Load the feed, then train."
            )
        complete = min(watermark, run_date)
        to_date = outcomes.last_mature_date(complete, settings.outcome.window_days, settings.outcome.lag_days) + timedelta(days=1)
        from_date = to_date - timedelta(days=settings.training.days)
        window: dict[str, Any] = {"from_date": from_date, "to_date": to_date}
        frame = database.read_query(engine, config.sql["training"], place, **window, as_of=run.as_of)
        rows = training.prepare_rows(
            frame,
            **window,
            validation_share=settings.training.validation_share,
            salt=config.experiment,
            metric=job.list_metrics(config)[0],
            place=place,
        )
        run.rows_read = len(rows.y)
        run.log(f"{len(rows.y)} rows of [{from_date}, {to_date}), validation from {rows.validation_from}, outcomes complete to {complete}")

        # Fit each model, and measure its recipe beside that of the live model.
        with engine.connect() as connection:
            live = registry.find_live(connection, config.experiment, run_date)
            later = registry.find_later(connection, config.experiment, run_date)
            cards = dict(registry.read_cards(connection, config.experiment))
        job.check_names(config, cards)
        recipes, fitted, decisions = {}, {}, {}
        for variant, estimator in estimator_of.items():
            where, model = config.key(f"models.{variant}"), settings.models[variant]
            recipe = recipes[variant] = {
                "estimator": model.estimator,
                "params": model.params,
                "seed": settings.training.seed,
                "columns": rows.types,
            }
            fitted[variant] = training.fit_and_validate(estimator, rows, rows.types, where)
            live_card = cards.get(live.get(variant, ""))
            live_auc = None
            if live_card is not None:
                is_same = recipe.items() <= live_card.items()
                live_auc = fitted[variant].roc_auc if is_same else training.validate_recipe(live_card, rows, where)
            decisions[variant] = training.decide(
                fitted[variant].roc_auc, live.get(variant), live_auc, settings.training.max_auc_drop, later.get(variant)
            )
        if dry_run:
            planned = [f"variant {variant}: {decision.sentence}" for variant, decision in decisions.items()]
            return f"train {config.experiment} {run_date}, dry run: {len(rows.y)} rows; " + "; ".join(planned)

        # Save: files first, then their rows, the promotions and the end of the run in one transaction.
        saved = {}
        features_reference = {name: found._asdict() for name, found in drift.make_feature_references(rows.X, rows.types).items()}
        for variant, model in settings.models.items():
            stem = registry.stem_of(model.name, model.version)
            with engine.connect() as connection:
                model_name = registry.choose_model_name(connection, config.models_dir, stem, run_date)
            saved[variant] = registry.save_model(
                config.models_dir,
                model_name,
                fitted[variant].pipeline,
                {
                    "experiment": config.experiment,
                    "variant": variant,
                    **recipes[variant],
                    "query": config.sql["training"],
                    **window,
                    "as_of": run.as_of,
                    "rows": len(rows.y),
                    "validation_from": rows.validation_from,
                    "metrics": metrics.to_dict(fitted[variant].metrics),
                    "reference": reference._asdict() if (reference := fitted[variant].reference) else None,
                    "features": features_reference,
                    "outcome_mean": rows.outcome_mean,
                    "outcome_sd": rows.outcome_sd,
                    "code_version": job.code_version(),
                    "libraries": job.library_versions(),
                },
            )
        for attempt in database.transactions(engine):
            with attempt as connection:
                now_live = registry.find_live(connection, config.experiment, run_date)
                for variant, card in saved.items():
                    if now_live.get(variant) != live.get(variant):
                        decisions[variant] = training.stand_back(decisions[variant], now_live.get(variant))
                    registry.add_model(connection, card, run.run_id)
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
        said = {variant: f"{saved[variant]['model_name']} {decision.sentence}" for variant, decision in decisions.items()}
        for variant, decision in decisions.items():
            (run.log if decision.promote else run.warn)(said[variant])
        return f"train {config.experiment} {run_date}: {'; '.join(said.values())}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return job.main("train", train, argv)


if __name__ == "__main__":
    sys.exit(main())
