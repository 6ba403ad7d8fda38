"""Play train, predict and score night by night, then hold what they found against the truth.

python -m demo                    sixty nights that end today
python -m demo --nights 30 --end 2026-11-23
python -m demo --plant harm       a bank in which calling does harm; --help lists the others
python -m demo.bank               the bank alone, in the database of an environment
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import sqlalchemy as sa
from tqdm import tqdm

import predict
import score
import train
from abatch import job
from abatch.arguments import CONFIG, add_options, day
from abatch.config import Environment, Experiment, load_experiments
from abatch.database import connections, faults, locks, migrations, tables, writing
from abatch.database.tables import (
    current_verdicts,
    models,
    owner,
    sample_ratios,
    scores,
    variant_scores,
)
from abatch.errors import AbatchError
from abatch.experiment import outcomes, predictions, terms
from abatch.modelling import folders, registry, snapshots
from abatch.night import open_night, today, utc_now
from abatch.statistics.stats import SRM_ALPHA
from demo import bank_tables, simulate

RETRAIN_DAYS = 7
DAY = timedelta(days=1)
FEWEST_NIGHTS = 20
QUERIES = (
    """select run_date, variant, count(*) as candidates, sum(selected) as selected
from predictions group by run_date, variant order by run_date, variant;""",
    """select variant, n_mature, n_positive, rate, lower, upper
from variant_scores where cohort = 'all';""",
    """select model_name, cohort, value as roc_auc, lower, upper, n
from scores where metric = 'roc_auc' order by model_name, cohort;""",
    """select comparison, word, estimate, lower, upper, first_decided_date
from current_verdicts;""",
)


def play(experiment: Experiment, engine: sa.Engine, first_night: date, n_nights: int) -> None:
    """Play the nights one after the other.

    The bank answers to what was selected the night before.
    """
    nights = [first_night + i * DAY for i in range(n_nights)]
    for i, night in enumerate(tqdm(nights, unit="night", disable=None)):
        simulate.simulate(engine, night)
        if i % RETRAIN_DAYS == 0:
            train.train(experiment, engine, night)
        predict.predict(experiment, engine, night)
        score.score(experiment, engine, night, draw=night == nights[-1])
        if not sys.stderr.isatty() and (i + 1) % 10 == 0:
            print(f"{i + 1} of {n_nights} nights played, until {night}", flush=True)


def start_afresh(experiment: Experiment, engine: sa.Engine) -> None:
    """Make abatch's tables in place of an earlier demo's, which leaves its folders to this one.

    Raises
    ------
    AbatchError
        If the database is not one that a demo made, or if a folder is somebody else's.
    """
    path = Path(str(engine.url.database))
    if path.exists() and (foreign := bank_tables.find_foreign(engine)):
        raise AbatchError(
            f"{path}: holds tables that the demo did not make ({', '.join(foreign)}). Move the file"
            " away, then run again."
        )
    owner_id = None
    if path.exists() and sa.inspect(engine).has_table(owner.name):
        folders.claim(engine, experiment.environment)
        owner_id = connections.read(engine, _remove_files, experiment.environment)
    engine.dispose()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    migrations.upgrade(engine)
    if owner_id:
        connections.write(engine, sa.Connection.execute, owner.update().values(owner_id=owner_id))


def _remove_files(connection: sa.Connection, environment: Environment) -> str:
    """Remove the models and snapshots that the tables know; returns the tables' owner."""
    for name in connection.scalars(sa.select(models.c.model_name)):
        registry.remove_files(environment.models_dir, name)
    for content_hash in connection.scalars(sa.select(tables.snapshots.c.content_hash)):
        snapshots.path_of(environment.snapshots_dir, content_hash).unlink(missing_ok=True)
    return folders.read_owner(connection, environment).owner_id


def compare(experiment: Experiment, engine: sa.Engine, last_night: date) -> str:
    """What score.py found beside what the simulator planted, as lines of at most 80 columns."""
    with open_night("score", experiment, engine, last_night, force=True, dry_run=True) as night:
        watermark = outcomes.read_watermark(night)
    assert watermark is not None
    mature_until = outcomes.last_mature_date(watermark, experiment.outcome)
    with engine.connect() as connection:
        mature = predictions.Span(experiment.name, date.min, mature_until)
        chunks = predictions.stream_predictions(connection, mature, writing.WRITE_ROWS)
        made = pd.concat(chunks, ignore_index=True)
        found = {
            row.variant: row
            for row in connection.execute(
                sa.select(variant_scores).where(variant_scores.c.cohort == "all")
            )
        }
        auc = {
            row.model_name: row
            for row in connection.execute(
                sa.select(scores).where(scores.c.metric == "roc_auc", scores.c.cohort == "all")
            )
        }
        registration = terms.check(connection, experiment)
        assert registration is not None  # the first night did it
        seen = sa.select(current_verdicts).where(current_verdicts.c.metric == "outcome")
        verdict = {row.comparison: row for row in connection.execute(seen)}
        c = sample_ratios.c
        alarms = connection.execute(
            sa.select(sample_ratios).where(c.run_date == last_night, c.pvalue_min < SRM_ALPHA)
        ).all()
    units = made.merge(simulate.read_truth(engine), on=["candidate_id", "run_date"])
    units["p"] = np.where(units["called"] == 1, units["p_called"], units["p_uncalled"])
    lines = [
        f"{len(units)} predictions are mature, those made until {mature_until}.",
        "",
        f"{'answers per 100 candidates':<28}{'planted':>9}{'found':>8}   95 % interval of one look",
    ]
    for variant in experiment.split:
        row = found[variant]
        planted = 100 * units.loc[units["variant"] == variant, "p"].mean()
        lines.append(
            f"  variant {variant:<18}{planted:>9.2f}{100 * row.rate:>8.2f}   {100 * row.lower:.2f}"
            f" to {100 * row.upper:.2f}"
        )
    lines += ["", f"{'ROC AUC':<28}{'planted':>9}{'found':>8}"]
    for variant, model in experiment.models.items():
        name = f"{model.name}_v{model.version}"
        own = units[units["variant"] == variant]
        row = auc[name]
        planted = expected_auc(own)
        lines.append(
            f"  {name:<26}{planted:>9.3f}{row.value:>8.3f}   {row.lower:.3f} to {row.upper:.3f}"
        )
    lines += [
        "",
        f"{'difference per 100':<28}{'planted':>9}{'found':>8}   interval on all looks together",
    ]
    for comparison in registration.comparisons:
        sides = [
            units.loc[units["variant"].isin(variants), "p"].mean()
            for variants in (comparison.treatment, comparison.control)
        ]
        row = verdict[comparison.name]
        figures = f"{100 * (sides[0] - sides[1]):>9.2f}{100 * row.estimate:>8.2f}   "
        if row.lower is not None:
            figures += f"{100 * row.lower:.2f} to {100 * row.upper:.2f}"
        since = f", first decided on {row.first_decided_date}" if row.first_decided_date else ""
        lines += [f"  {row.comparison:<26}{figures}".rstrip(), f"    {row.word}{since}"]
    for row in alarms:
        lines.append(
            f"  sample ratio, {row.stage}: {row.variant} has {row.n}, {row.n - row.expected:+.0f}"
            " against its share"
        )
    return "\n".join(lines)


def expected_auc(units: pd.DataFrame) -> float:
    """The ROC AUC that predictions have on average over outcomes drawn with probabilities p.

    As score.py has it: of pairs that one dated model predicted.

    Parameters
    ----------
    units : model_name, prediction, p
    """
    sums = units.assign(positive=units["p"], negative=1 - units["p"])
    sums = sums.groupby(["model_name", "prediction"])[["positive", "negative"]].sum()
    of_models = sums.groupby("model_name")
    below = of_models["negative"].cumsum() - sums["negative"] / 2
    n_pairs = of_models["positive"].sum() * of_models["negative"].sum()
    return float((sums["positive"] * below).sum() / n_pairs.sum())


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description=__doc__,
        epilog=simulate.describe_plants(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--nights", type=int, default=60, help=f"how many, {FEWEST_NIGHTS} or more (default: 60)"
    )
    add_options(parser, end=day("--end", help="the last night (default: the newest)"))
    parser.add_argument(
        "--plant",
        choices=simulate.PLANTS,
        default="effect",
        metavar="NAME",
        help="what to plant (default: effect)",
    )
    add_options(parser, config=CONFIG)
    arguments = parser.parse_args(argv)
    if arguments.nights < FEWEST_NIGHTS:
        parser.error(
            f"--nights: found {arguments.nights}, expected {FEWEST_NIGHTS} or more: before, too few"
            " answers are complete"
        )
    try:
        experiment = load_experiments(arguments.config, "dev")["card_offer"]
        engine = job.connect(experiment.environment)
        if engine.dialect.name != "sqlite":
            raise AbatchError(
                f"{experiment.environment.file}, environments.dev.database: the demo plays on an"
                " SQLite file only,"
                f" found {faults.show_url(engine)}."
            )
        present = today(experiment.environment)
        end = arguments.end or (
            present if utc_now() >= simulate.morning(present) else present - DAY
        )  # the bank loads in the morning
        first_night = end - (arguments.nights - 1) * DAY
        Path(str(engine.url.database)).parent.mkdir(parents=True, exist_ok=True)
        refusal = "another demo is being played on it. Wait for it, or end it."
        with locks.hold(engine, "demo", f"{faults.show_url(engine)}: {refusal}"):
            start_afresh(experiment, engine)
            folders.claim(engine, experiment.environment, make=True)
            job.start_log(experiment.environment, "demo")
            print(
                f"A card bank, simulated: {arguments.nights} nights from {first_night} to {end}",
                flush=True,
            )
            simulate.simulate(
                engine,
                first_night,
                plant=arguments.plant,
                salt=experiment.name,
                split=experiment.split,
            )
            play(experiment, engine, first_night, arguments.nights)
            print(f"\n{compare(experiment, engine, end)}")
        database_file = os.path.relpath(Path(str(engine.url.database)))
        page = experiment.environment.reports_dir / f"{experiment.name}.html"
        print(f"\nReport:   {os.path.relpath(page)}")
        print(f"Database: {database_file}. Queries to try in it, with any SQL client:\n")
        print("\n\n".join(QUERIES))
    except (Exception, KeyboardInterrupt) as error:
        return job.report(error, "demo")
    return job.DONE


if __name__ == "__main__":
    sys.exit(main())
