"""Records: what is known of each experiment, and what a person concluded."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from abatch.database.tables import (
    Row,
    acknowledgements,
    conclusions,
    current_verdicts,
    looks,
    registrations,
)
from abatch.experiment.registrations import OUTCOME, Registration
from abatch.statistics import words

WITH_DOUBTS = ", with doubts"  # of a finding that rests on doubted outcomes


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
        text += f"{WITH_DOUBTS} ({row.doubts})"
    return text + (f"; first decided on {row.first_decided_date}" if row.first_decided_date else "")


def holds(finding: str, verdict: Row, doubts: str | None) -> bool:
    """Whether findings as `describe_finding` told them say today's word, and its doubts if any."""
    words = f"{name_verdict(verdict._asdict())}: {verdict.word}"
    is_same = any(f"{words}{end}" in finding for end in (", ", " on "))
    return is_same and (doubts is None or WITH_DOUBTS in finding)


def name_verdict(row: Mapping[str, Any]) -> str:
    """What a row of `verdicts` is about: a comparison, or one and its guardrail."""
    guardrail = "" if row["metric"] == OUTCOME else f", guardrail {row['metric']}"
    return f"{row['comparison']}{guardrail}"


def acknowledge(connection: sa.Connection, experiment: str, **row: Any) -> str | None:
    """Append that what is doubted is right: reason, acknowledged_by, acknowledged_at.

    Returns
    -------
    str or None
        What the newest look doubts; None, and nothing is written, if that is nothing.
    """
    c = looks.c
    newest = sa.select(c.mature_date, c.doubts).filter_by(experiment=experiment)
    look = connection.execute(newest.order_by(c.run_date.desc()).limit(1)).first()
    if look is None or look.doubts is None:
        return None
    row |= {"mature_date": look.mature_date, "doubts": look.doubts}
    connection.execute(acknowledgements.insert().values(experiment=experiment, **row))
    return str(look.doubts)


def conclude(connection: sa.Connection, experiment: str, **row: Any) -> None:
    """Append what a person concluded: because, finding, concluded_by, concluded_at."""
    connection.execute(conclusions.insert().values(experiment=experiment, **row))
