"""Records: what is known of each experiment, and what a person concluded."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from abatch.database.tables import Row, conclusions, current_verdicts, registrations
from abatch.experiment.registrations import OUTCOME, Registration
from abatch.statistics import words


class Record(NamedTuple):
    """One experiment, for the list of all.

    Attributes
    ----------
    verdicts : rows of the view `current_verdicts`, of the newest look; empty before the first
    conclusion : the newest row of `conclusions`, or None
    """

    registered_at: datetime
    registration: Registration
    verdicts: list[Row]
    conclusion: Row | None

    @property
    def findings(self) -> list[str]:
        """A sentence for each verdict."""
        return [describe_finding(row) for row in self.verdicts]


def read_records(connection: sa.Connection) -> dict[str, Record]:
    """All experiments by name, in the order of their registration."""

    def read(table: sa.Table, *order: str) -> Sequence[Row]:
        return connection.execute(sa.select(table).order_by(*order)).all()

    verdicts = read(current_verdicts, "comparison", "metric")
    concluded = {row.experiment: row for row in read(conclusions, "conclusion_id")}
    return {
        row.experiment: Record(
            row.registered_at,
            Registration.model_validate_json(row.content),
            [verdict for verdict in verdicts if verdict.experiment == row.experiment],
            concluded.get(row.experiment),
        )
        for row in read(registrations, "registered_at", "experiment")
    }


def describe_finding(row: Row) -> str:
    """One row of the view `current_verdicts` as a sentence."""
    text = f"{name_verdict(row._asdict())}: {row.word}"
    if row.word == words.INVALID:
        return f"{text} on {row.look_date}: the sample ratio is off, see the report"
    if row.lower is not None:
        text += f", {row.estimate:+.4g} ({row.lower:+.4g} to {row.upper:+.4g})"
    text += f" on {row.look_date}, {row.n_treatment:,} against {row.n_control:,} candidates"
    if row.outcomes_as_of:
        text += f", on outcomes as of {row.outcomes_as_of}, some of which have changed since"
    if row.doubts:
        text += f", with doubts ({row.doubts})"
    return text + (f"; first decided on {row.first_decided_date}" if row.first_decided_date else "")


def name_verdict(row: Mapping[str, Any]) -> str:
    """What a row of `verdicts` is about: a comparison, or one and its guardrail."""
    guardrail = "" if row["metric"] == OUTCOME else f", guardrail {row['metric']}"
    return f"{row['comparison']}{guardrail}"


def conclude(connection: sa.Connection, experiment: str, **row: Any) -> None:
    """Append what a person concluded: because, finding, concluded_by, concluded_at."""
    connection.execute(conclusions.insert().values(experiment=experiment, **row))
