"""A simulated card bank in the database of an environment, to try abatch on a server.

python -m demo.bank --env test --date 2026-09-01     creates it, after python -m abatch init
python -m demo.bank --env test --date 2026-09-02     lets it live on, one morning after the other

It answers to what predict.py selected. It refuses prod, and a database that holds anything but
abatch's tables and its own.
"""

import argparse
import sys
from collections.abc import Sequence

import sqlalchemy as sa

from abatch import job
from abatch.arguments import CONFIG, ENV, EXIT_CODES, EXPERIMENT, add_options, day
from abatch.config import Experiment, load_experiments
from abatch.database import connections, faults
from abatch.errors import AbatchError, UsageError
from abatch.night import today
from demo import bank_tables, simulate


def live(experiment: Experiment, engine: sa.Engine, arguments: argparse.Namespace) -> str:
    """Create the bank, or let it live on, and say so.

    Raises
    ------
    UsageError
        If the environment is prod.
    AbatchError
        If abatch has no tables here yet, or if the database holds tables of somebody else.
    """
    environment = experiment.environment
    place = environment.place
    if environment.name == "prod":
        raise UsageError(
            f"{place}: a simulated bank is never played in prod. Name another environment, as in"
            " --env test."
        )
    connections.check_ready(engine, environment.name)
    if foreign := bank_tables.find_foreign(engine):
        raise AbatchError(
            f"{faults.show_url(engine)}: holds {', '.join(foreign[:5])}"
            f"{f' and {len(foreign) - 5} more' * (len(foreign) > 5)}, which neither abatch nor a"
            " simulated bank made, so the bank is not played here. Name a database that is empty"
            f" but for abatch's tables: {place}.database."
        )
    until = arguments.date or today(experiment.environment)
    plan = {"plant": arguments.plant, "salt": experiment.name, "split": experiment.split}
    n_mornings = simulate.simulate(engine, until, seed=arguments.seed, **plan)
    return (
        f"{faults.show_url(engine)}: the simulated bank played {n_mornings} mornings, until {until}"
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo.bank",
        description=__doc__,
        epilog=f"{simulate.describe_plants()}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    until = day("--date", help="the morning until which the bank lives (default: today)")
    add_options(parser, env=ENV, experiment=EXPERIMENT, config=CONFIG, date=until)
    parser.add_argument(
        "--plant",
        choices=simulate.PLANTS,
        default="effect",
        metavar="NAME",
        help="what to plant when the bank is created (default: effect)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the bank, when it is created (default: 0)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = _parse(argv)
    try:
        experiments = load_experiments(arguments.config, arguments.env)
        # whose split a plant may break: the first unless --experiment names another
        experiment = next(iter(experiments.choose(arguments.experiment).values()))
        engine = job.connect(experiment.environment)
        try:
            print(live(experiment, engine, arguments))
        finally:
            engine.dispose()
    except (Exception, KeyboardInterrupt) as error:
        return job.report(error, "demo.bank")
    return job.DONE


if __name__ == "__main__":
    sys.exit(main())
