"""Predict tonight's candidates, each by the live model of its variant.

Reads   candidates by SQL (queries.candidates), the live models
Writes  tables predictions and feature_counts (the whole night or nothing),
        registrations (the first time), runs

    python predict.py          all experiments, today
    python predict.py --env prod --date 2026-11-23 --experiment card_offer
"""

import sys

from abatch import arguments

if __name__ == "__main__":  # --help and a wrong option need not wait for what is imported below
    arguments.parse("predict", __doc__)

from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch import job
from abatch.config import Experiment
from abatch.database import connections, reading
from abatch.errors import DataError
from abatch.experiment import assignment, predictions, registrations, scores
from abatch.modelling import estimators, features, registry
from abatch.queries import Window
from abatch.statistics import drift
from abatch.statistics.sums import add_by_key


def predict(
    experiment: Experiment,
    engine: sa.Engine,
    run_date: date,
    *,
    force: bool = False,
    dry_run: bool = False,
) -> str:
    """Stream candidates, assign by hash, predict, stage.

    Then check, rank and publish the night in one transaction.
    """
    query = experiment.query("candidates")
    with job.open_run("predict", experiment, engine, run_date, force=force, dry_run=dry_run) as run:
        with engine.connect() as connection:
            registrations.check(connection, experiment)
            live = registry.load_live(
                connection,
                experiment.environment.models_dir,
                experiment.name,
                list(experiment.models),
                run_date,
            )
        for model in live.values():
            if model.warning:
                run.warn(model.warning)

        references = {
            model.model_name: {
                name: drift.FeatureReference(**found)
                for name, found in model.card.get("features", {}).items()
            }
            for model in live.values()
        }
        seen: dict[str, dict[str, drift.FeatureCounts]] = {}
        filled: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        checksum = 0
        chunks = reading.stream_query(
            engine,
            query,
            Window(run_date, run_date + timedelta(days=1)),
            run.as_of,
            chunk_rows=experiment.environment.chunk_rows,
        )
        source = ""
        for chunk in chunks:
            if not source:
                source = "recorded" if "variant" in chunk else "hash"
                with engine.connect() as connection:
                    registered = registrations.check(connection, experiment, source)
            with query.named():
                reading.require_columns(chunk, ["candidate_id"])
                columns = chunk.drop(columns=["candidate_id", "variant"], errors="ignore")
                for model in live.values():
                    features.check_columns(list(columns), model.card["columns"], model.model_name)
                ids = [assignment.normalise_id(value) for value in chunk["candidate_id"]]
                assigned = assignment.assign(ids, experiment.name, experiment.split)
                variant = (
                    assignment.check_variants(chunk["variant"], experiment.split)
                    if "variant" in chunk
                    else assigned.variant
                )

            prediction = np.full(len(chunk), np.nan)
            for name, model in live.items():
                own = variant == name
                if own.any():
                    with query.named():
                        X = features.convert(columns[own], model.card["columns"])
                    prediction[own] = estimators.predict_probability(model.pipeline, X)
                    found = drift.count_features(X, references[model.model_name])
                    seen[model.model_name] = add_by_key(seen.get(model.model_name, {}), found)
            staged = pd.DataFrame(
                {
                    "run_id": run.run_id,
                    "experiment": experiment.name,
                    "run_date": run_date,
                    "candidate_id": ids,
                    "variant": variant,
                    "assignment_probability": [experiment.split[name] for name in variant],
                    "model_name": [
                        live[name].model_name if name in live else None for name in variant
                    ],
                    "prediction": prediction,
                    "selection_key": assigned.selection_key,
                }
            )
            if not dry_run:
                checksum = (checksum + predictions.stage(engine, staged)) % 2**64
            filled.update(columns.notna().sum().to_dict())
            counts.update(variant.tolist())

        run.rows_read = counts.total()
        with query.named():
            if not run.rows_read:
                raise DataError(
                    f"returned no candidates for {run_date}. Check the query, and whether the"
                    " night's table is loaded."
                )
            features.check_null_columns(run.rows_read, filled)
        n_selected = {
            name: assignment.count_selected(n, experiment.select_top) for name, n in counts.items()
        }
        shares = [
            f"{name} {counts[name]} ({live[name].model_name if name in live else 'no model'},"
            f" {n_selected.get(name, 0)} selected)"
            for name in experiment.split
        ]
        new = None
        if registered is None:
            card = next(iter(live.values())).card  # all are trained on the same rows
            rate = card["metrics"].get("base_rate", {}).get("value")
            trained = registrations.TrainingOutcome(card["outcome_mean"], card["outcome_sd"], rate)
            new = registrations.make_registration(
                experiment, source, run_date, trained, run.rows_read
            )
        summary = (
            f"predict {experiment.name} {run_date}{', dry run' if dry_run else ''}:"
            f" {run.rows_read} candidates; {', '.join(shares)}"
        )
        if dry_run:
            if new is not None:
                run.announce(registrations.describe_plan(new))
            return summary

        for attempt in connections.transactions(engine):
            with attempt as connection:
                with query.named():
                    predictions.check_staged(
                        connection, run.run_id, experiment.name, run.rows_read, checksum
                    )
                if new is not None:
                    registrations.register(connection, new, run.started_at, run.run_id)
                scores.forget(connection, experiment.name, run_date)
                predictions.write_feature_counts(
                    connection, run.run_id, experiment.name, run_date, seen
                )
                run.rows_written = predictions.publish(
                    connection, run.run_id, experiment.name, run_date, n_selected, job.utc_now()
                )
                run.finish(connection)
        run.log(summary)
        if new is not None:
            run.announce(registrations.describe_plan(new))
        return summary


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return job.main("predict", predict, argv)


if __name__ == "__main__":
    sys.exit(main())
