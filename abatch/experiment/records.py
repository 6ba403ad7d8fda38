"""Records: what is known of each experiment, and what a person concluded."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from abatch.database.tables import (
    Row,
    acknowledgements,
    conclusions,
    current_verdicts,
    doubts,
    looks,
    registrations,
    runs,
)
from abatch.experiment.registrations import OUTCOME, Registration, parse_registration
from abatch.night import EARLY
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
            parse_registration(row.experiment, row.content),
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


def holds(finding: str, verdict: Row, doubted: str | None) -> bool:
    """Whether findings as `describe_finding` told them say today's word, and its doubts if any."""
    words = f"{name_verdict(verdict._asdict())}: {verdict.word}"
    is_same = any(f"{words}{end}" in finding for end in (", ", " on "))
    return is_same and (doubted is None or WITH_DOUBTS in finding)


def name_verdict(row: Mapping[str, Any]) -> str:
    """What a row of `verdicts` is about: a comparison, or one and its guardrail."""
    guardrail = "" if row["metric"] == OUTCOME else f", guardrail {row['metric']}"
    return f"{row['comparison']}{guardrail}"


def read_doubts(connection: sa.Connection, experiment: str) -> list[Row]:
    """What the newest look doubts, but for looks of nights yet to come, with its mature_date."""
    c, d = looks.c, doubts.c
    early = sa.select(runs.c.run_id).filter_by(status=EARLY)
    newest = sa.select(sa.func.max(c.run_date)).filter_by(experiment=experiment)
    newest = newest.where(c.run_id.not_in(early))
    is_of = (c.experiment == d.experiment) & (c.run_date == d.run_date)
    query = sa.select(doubts, c.mature_date).join_from(doubts, looks, is_of)
    query = query.where(d.experiment == experiment, d.run_date == newest.scalar_subquery())
    return [*connection.execute(query.order_by(d.metric, d.variant, d.from_date))]


def read_acknowledged(connection: sa.Connection, experiment: str) -> list[Row]:
    """What persons know to be right, rows of `acknowledgements`."""
    query = sa.select(acknowledgements).filter_by(experiment=experiment)
    return [*connection.execute(query)]


def acknowledge(
    connection: sa.Connection, experiment: str, of: date | None, **row: Any
) -> list[str]:
    """Append that nights that are doubted are right: reason, acknowledged_by, acknowledged_at.

    Parameters
    ----------
    of : one of the nights of the doubts that are meant; all of the newest look's if None

    Returns
    -------
    list of str
        These doubts, one by one, but for those that are acknowledged already. If there are no
        others, those that are for the same reason: the command again says what it said.
    """
    told: list[str] = []
    again: list[str] = []
    columns = acknowledgements.columns
    for doubt in read_doubts(connection, experiment):
        if of and not doubt.from_date <= of <= doubt.to_date:
            continue
        values = {name: value for name, value in doubt._asdict().items() if name in columns}
        values["is_ongoing"] = int(doubt.to_date == doubt.mature_date)
        reasons = connection.scalars(sa.select(columns.reason).filter_by(**values)).all()
        if not reasons:
            connection.execute(acknowledgements.insert().values({**values, **row}))
        elif row["reason"] not in reasons:
            continue
        later = ", and nights that go on like these" if values["is_ongoing"] else ""
        ends = dict.fromkeys([str(doubt.from_date), str(doubt.to_date)])
        words = f"{doubt.metric} of {doubt.variant}, {' to '.join(ends)}{later} ({doubt.kind})"
        (again if reasons else told).append(words)
    return told or again


def conclude(connection: sa.Connection, experiment: str, **row: Any) -> None:
    """Append what a person concluded: because, finding, concluded_by, concluded_at."""
    connection.execute(conclusions.insert().values(experiment=experiment, **row))
