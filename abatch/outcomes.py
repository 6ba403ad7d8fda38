"""Outcomes: what happened to candidates, when it may be counted, and to which prediction it belongs."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch import database
from abatch.assignment import normalise_ids
from abatch.errors import DataError
from abatch.features import require_columns


def read_watermark(engine: sa.Engine, sql: str, place: str, run_date: date, as_of: datetime) -> date | None:
    """The date up to which outcomes are complete, as the feed says; None if it has not begun.

    Raises
    ------
    DataError
        If the query returns anything but one date or one null.
    """
    frame = database.read_query(engine, sql, place, from_date=run_date, to_date=run_date + timedelta(days=1), as_of=as_of)
    if frame.empty:
        return None
    if frame.shape != (1, 1):
        raise DataError(f"{place}: returned {len(frame)} rows of {len(frame.columns)} columns; expected one date.")
    value = frame.iloc[0, 0]
    return None if pd.isna(value) else parse_dates(frame.iloc[:, 0], place).iloc[0].date()


def last_mature_date(watermark: date, window_days: int, lag_days: int) -> date:
    """The newest run_date whose outcomes are complete: its window and the feed's lag end by the watermark."""
    return watermark - timedelta(days=window_days + lag_days)


def prepare(frame: pd.DataFrame, place: str) -> pd.DataFrame:
    """The same frame with candidate_id as text, event_date as datetime64 and outcome as 0 or 1, whatever the driver made of them.

    Raises
    ------
    DataError
        If one of these columns is missing or holds something else.
    """
    require_columns(frame, ("candidate_id", "event_date", "outcome"), place)
    return frame.assign(
        candidate_id=normalise_ids(frame["candidate_id"], place),
        event_date=parse_dates(frame["event_date"], place),
        outcome=parse_outcomes(frame["outcome"], place),
    )


def attach(predictions: pd.DataFrame, feed: pd.DataFrame, window_days: int, place: str) -> np.ndarray:
    """The outcome of each prediction: 1 if the feed has one in [run_date, run_date + window_days), else 0.

    Parameters
    ----------
    predictions : columns candidate_id and run_date (datetime64), n rows
    feed : what the outcomes query returned: candidate_id, event_date, outcome; empty if it returned nothing
    window_days : length of the window
    place : the outcomes query's file, for messages

    Returns
    -------
    array of int, shape (n,)

    Raises
    ------
    DataError
        If an outcome's id is that of a prediction but for upper and lower case: SQL may take the two for one, abatch does not.
    """
    outcome = np.zeros(len(predictions), dtype=np.int64)
    if feed.empty:
        return outcome
    feed = prepare(feed, place)
    positive = feed.loc[feed["outcome"] == 1, ["candidate_id", "event_date"]]
    units = predictions[["candidate_id", "run_date"]].reset_index(drop=True).reset_index(names="row")
    strange = positive.loc[~positive["candidate_id"].isin(units["candidate_id"]), "candidate_id"]
    twins = strange[strange.str.lower().isin(units["candidate_id"].str.lower())]
    if len(twins):
        raise DataError(
            f"{place}: {len(twins)} outcomes have an id that was predicted in other upper and lower case, for example {twins.iloc[0]!r}."
            " Return ids letter for letter as the candidates query does, with lower(...) in both if need be."
        )
    pairs = units.merge(positive, on="candidate_id")
    days = (pairs["event_date"] - pairs["run_date"]).dt.days
    outcome[pairs.loc[(days >= 0) & (days < window_days), "row"].to_numpy()] = 1
    return outcome


def iterate_cohorts(run_dates: list[date], unit: str) -> Iterator[tuple[date, list[date]]]:
    """Group run dates, in order, by week (from Monday) or month; yields the first day of each and its run dates."""
    cohorts: dict[date, list[date]] = {}
    for run_date in sorted(run_dates):
        first = run_date - timedelta(days=run_date.weekday()) if unit == "week" else run_date.replace(day=1)
        cohorts.setdefault(first, []).append(run_date)
    yield from cohorts.items()


def parse_dates(column: pd.Series, place: str) -> pd.Series:
    """Days as datetime64[s]: from dates, instants without a time zone, or ISO text.

    Raises
    ------
    DataError
        If a value is null or not a date.
    """
    if column.dtype.kind == "M" and column.notna().all() and getattr(column.dtype, "tz", None) is None:
        return column.dt.normalize().astype("datetime64[s]")
    try:
        days = pd.to_datetime(column.astype(object).map(_to_day)).astype("datetime64[s]")
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: {column.name} holds a value that is not a date ({error}). Expected a date or YYYY-MM-DD.") from None
    return days


def _to_day(value: object) -> date:
    if value is pd.NaT:  # isinstance takes it for a datetime, and its date() is NaT again
        raise ValueError("found a null")
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            raise ValueError(f"{value} has a time zone; cast it to a date of the business's own in the query")
        return value.date()
    if isinstance(value, date):
        return value
    raise ValueError(f"found {value!r}")


def parse_outcomes(column: pd.Series, place: str) -> np.ndarray:
    """Binary outcomes as an array of 0 and 1.

    Raises
    ------
    DataError
        If a value is null or anything but 0 and 1.
    """
    try:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        values = np.full(len(column), np.nan)
    wrong = ~np.isin(values, (0.0, 1.0))
    if wrong.any():
        raise DataError(
            f"{place}: outcome holds {_show(column.astype(object)[wrong].iloc[0])} in {int(wrong.sum())} of {len(column)} rows;"
            " expected 0 or 1. Turn it into a number with case when ... then 1 else 0 end."
        )
    return values.astype(np.int64)


def _show(value: object) -> str:
    return "null" if pd.isna(value) else repr(value)
