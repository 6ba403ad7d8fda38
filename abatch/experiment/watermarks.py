"""Watermarks: how far all feeds are complete, and whether they move as they did."""

from datetime import date, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from abatch.database import tables
from abatch.errors import DataError
from abatch.experiment import outcomes, scores
from abatch.night import DAY, Night
from abatch.queries import Query

N_LOOKS = 60  # newest, by which a feed is known
N_LATE = 3  # days, a weekend and one
N_MOVES = 3  # of a feed, from which on it is known
N_YOUNG = 7  # days more than planned, of a feed that is not known


class Maturity(NamedTuple):
    """How far what follows on predictions is known.

    Attributes
    ----------
    watermark : of the outcomes; None if their feed has not begun
    mature_date : the newest night of which all is known, guardrails too; None if there is none
    waits_for : the guardrail whose feed is the latest; None if that of the outcomes is
    """

    watermark: date | None
    mature_date: date | None
    waits_for: str | None


def find_maturity(night: Night, *, is_rebuilt: bool) -> Maturity:
    """How far all feeds are complete: that of the outcomes and those of the guardrails.

    A feed that is late leaves nights open, and never turns into zeros.

    Raises
    ------
    DataError
        If a feed knows less than it did, or what is yet to come.
    """
    experiment = night.experiment
    watermark = outcomes.read_watermark(night)
    found = {"watermark": watermark}
    for name, guardrail in experiment.guardrails.items():
        if guardrail.watermark is not None:
            own = f"{name}.watermark"
            found[own] = outcomes.read_watermark(night, own)
    for name, day in found.items():
        if day and day > night.run_date + DAY:
            raise DataError(
                f"{experiment.query(name).file}: says that the feed is complete to {day}, but on"
                f" {night.run_date} nobody knows of days to come. Return the first day that is not"
                f" complete as of :as_of, {night.run_date + DAY} at most. (Without :as_of a past"
                " night is told what is known today.)"
            )
    latest = min(found, key=lambda name: found[name] or date.min)  # the outcome's if all are alike
    behind = found[latest]
    mature_date = behind and outcomes.last_mature_date(behind, experiment.outcome)
    with experiment.query(latest).named():
        night.read(scores.check_watermark, experiment.name, mature_date, is_rebuilt=is_rebuilt)
    usual, waited_for = night.read(find_usual_delay, night)
    if mature_date and usual and (delay := night.run_date - mature_date) < usual - DAY:
        moved = f"{waited_for}.watermark" if waited_for in experiment.guardrails else "watermark"
        night.warn(
            f"{experiment.query(moved).file}: nights mature after {delay.days} days, and it took"
            f" {usual.days} or more until now. So several mature at once. Unless the feed has"
            " become faster, it says too much: mend it, then score again with --rebuild --force."
        )
    night.read(_warn_of_stuck, night, experiment.query(latest), behind, mature_date)
    waits_for = None if latest == "watermark" else latest.removesuffix(".watermark")
    return Maturity(watermark, mature_date, waits_for)


def _warn_of_stuck(
    connection: sa.Connection,
    night: Night,
    query: Query,
    watermark: date | None,
    mature_date: date | None,
) -> None:
    """Warn if nights take longer to mature than they did before the feed stood still."""
    c, outcome = tables.looks.c, night.experiment.outcome
    looks = sa.select(c.run_date, c.mature_date).filter_by(experiment=night.experiment.name)
    looks = looks.where(c.run_date < night.run_date).order_by(c.run_date.desc()).limit(N_LOOKS)
    rows = [(row.run_date, row.mature_date) for row in connection.execute(looks)]
    moved = [
        day - mature for day, mature in rows if mature and mature_date and mature < mature_date
    ]
    usual = max(moved, default=(outcome.window_days + outcome.lag_days + N_YOUNG) * DAY)
    began = mature_date or min((day for day, _ in rows), default=night.run_date)
    if night.run_date - began > usual + N_LATE * DAY:
        complete = f"the feed is complete to {watermark} only" if watermark else "tells no date yet"
        night.warn(
            f"{query.file}: {complete}, so no night has matured for"
            f" {(night.run_date - began - usual).days} days longer than usual. Verdicts and figures"
            " stand still. Load the feed, or mend the query."
        )


def find_usual_delay(
    connection: sa.Connection, night: Night
) -> tuple[timedelta | None, str | None]:
    """The shortest time that nights took to mature at the looks before, when the feed had moved.

    None if it moved seldom. And the guardrail that the last one waited for.
    """
    c = tables.looks.c
    names = (c.run_date, c.mature_date, c.waits_for)
    query = sa.select(*names).filter_by(experiment=night.experiment.name)
    query = query.where(c.run_date < night.run_date, c.mature_date.is_not(None))
    rows = connection.execute(query.order_by(c.run_date.desc()).limit(N_LOOKS)).all()
    first = {mature_date: day for day, mature_date, _ in rows}  # the oldest comes last
    delays = [day - mature_date for mature_date, day in first.items()]
    return min(delays) if len(delays) >= N_MOVES else None, rows[0].waits_for if rows else None
