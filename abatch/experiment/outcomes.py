"""Outcomes: what happened to candidates, when it counts, and to which prediction it belongs."""

import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd

from abatch.config import Experiment
from abatch.database.reading import require_columns
from abatch.errors import DataError
from abatch.experiment.assignment import normalise_ids
from abatch.experiment.registrations import OUTCOME
from abatch.night import DAY, Night
from abatch.queries import Query, Window
from abatch.sections import Guardrail, Outcome
from abatch.statistics.words import list_values, show_value

Metric = Outcome | Guardrail
EVENT = ["candidate_id", "event_date", "outcome"]
_REST = r"^[^1-9]+|\.0+$|[^0-9a-z]|[a-z]+$"
_SUFFIX = r"[^0-9a-z][0-9a-z]{1,3}$"
# What two systems may write otherwise in one id, for candidates and for events, beside upper and
# lower case and scientific notation: nothing; leading zeros, blanks and signs, and the fraction of
# a float; letters before and behind; the same, and a short suffix that only one of the two has.
GENTLE = 2  # folds, the first, that hardly make one of two candidates' ids
FOLDS = [
    ("", ""),
    (r"^[^1-9a-z]+|\.0+$|[^0-9a-z]", r"^[^1-9a-z]+|\.0+$|[^0-9a-z]"),
    (_REST, _REST),
    (rf"^.*{_SUFFIX}|{_REST}", rf"{_SUFFIX}|{_REST}"),
    (rf"{_SUFFIX}|{_REST}", rf"^.*{_SUFFIX}|{_REST}"),
]
_SCIENTIFIC = r"^\d(?:\.\d+e\+?|e\+)\d{1,2}$"  # as floats of whole numbers are written
_THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}(\.\d{3})+\s*")
PERIODS = {"week": "W-SUN", "month": "M"}  # cohorts, as pandas names them


class Feed(NamedTuple):
    """What the query of a metric returned.

    Attributes
    ----------
    events : candidate_id, event_date and outcome where it is not 0; is_twice, of amounts: whether
        another row is alike in these three, as they were returned
    n_rows : all that were returned
    """

    name: str
    metric: Metric
    query: Query
    events: pd.DataFrame
    n_rows: int


def find_metrics(experiment: Experiment) -> dict[str, tuple[Metric, Query]]:
    """What is measured of each prediction, by name, with its query: the outcome, the guardrails."""
    metrics: dict[str, Metric] = {OUTCOME: experiment.outcome, **experiment.guardrails}
    return {
        name: (metric, experiment.query("outcomes" if name == OUTCOME else name))
        for name, metric in metrics.items()
    }


def pull_feeds(night: Night, run_dates: Sequence[date]) -> list[Feed]:
    """Pull the outcomes that belong to some run dates, in order: the outcome, then the guardrails.

    Raises
    ------
    DataError
        As `prepare`, after the query's file.
    """
    if not run_dates:
        return []
    experiment, feeds = night.experiment, []
    window = Window(run_dates[0], run_dates[-1] + experiment.outcome.window_days * DAY)
    for name, (metric, query) in find_metrics(experiment).items():
        with query.named():
            rows = night.pull(query, window, check_ids)
            feeds.append(Feed(name, metric, query, find_events(rows, metric.kind), len(rows)))
    return feeds


def read_watermark(night: Night, name: str = "watermark") -> date | None:
    """The date up to which a feed is complete, as it says; None if it has not begun.

    Parameters
    ----------
    name : of the query, as `Experiment.files` has it; that of the outcomes if left out

    Raises
    ------
    DataError
        If the query returns anything but one date or one null.
    """
    query = night.experiment.query(name)
    frame = night.pull(query, Window(night.run_date, night.run_date + DAY))
    if frame.empty:
        return None
    with query.named():
        if frame.shape != (1, 1):
            raise DataError(
                f"returned {len(frame)} rows of {len(frame.columns)} columns; expected one date."
            )
        if pd.isna(frame.iloc[0, 0]):
            return None
        watermark: date = parse_dates(frame.iloc[:, 0]).iloc[0].date()
        if watermark.year < 1900:
            raise DataError(
                f"returned {watermark}; expected the day up to which the feed is complete, or null"
                " while there is none."
            )
    return watermark


def last_mature_date(watermark: date, outcome: Outcome) -> date:
    """The newest run_date whose outcomes are complete.

    Its window and the feed's lag end by the watermark.
    """
    return watermark - (outcome.window_days + outcome.lag_days) * DAY


def check_ids(frame: pd.DataFrame) -> None:
    """Raise DataError if ids cannot be used: those of the first rows tell, before all are read."""
    require_columns(frame, EVENT)
    normalise_ids(frame["candidate_id"])


def prepare(frame: pd.DataFrame, kind: str = "binary") -> pd.DataFrame:
    """The same frame, whatever the driver made of its columns.

    candidate_id becomes text, event_date datetime64 and outcome float.

    Raises
    ------
    DataError
        If one of these columns is missing or holds something else.
    """
    require_columns(frame, EVENT)
    return frame.assign(
        candidate_id=normalise_ids(frame["candidate_id"]),
        event_date=parse_dates(frame["event_date"]),
        outcome=parse_outcomes(frame["outcome"], kind),
    )


def find_events(feed: pd.DataFrame, kind: str) -> pd.DataFrame:
    """What a metric's query returned, checked: candidates and days with an outcome other than 0.

    Raises
    ------
    DataError
        As `prepare`.
    """
    if feed.empty:
        return pd.DataFrame(columns=EVENT)
    events = prepare(feed, kind)[EVENT]
    if kind == "numeric":
        events["is_twice"] = feed.duplicated(EVENT, keep=False)
    return events[events["outcome"] != 0].astype({"candidate_id": object})


def attach(predictions: pd.DataFrame, feed: Feed, window_days: int) -> np.ndarray:
    """The outcome of each prediction, from the events in [run_date, run_date + window_days).

    Parameters
    ----------
    predictions : columns candidate_id and run_date (datetime64), n rows
    window_days : length of the window

    Returns
    -------
    array of float, shape (n,)
        Of a binary metric 1 if there was one, else 0; of a numeric one the sum, between -cap and
        cap.
    """
    outcome, metric = np.zeros(len(predictions)), feed.metric
    if feed.events.empty:
        return outcome
    inside = _find_inside(predictions, feed, window_days).groupby("row")["outcome"]
    counted = inside.max() if metric.kind == "binary" else inside.sum()
    outcome[counted.index.to_numpy()] = counted.to_numpy()
    return outcome if metric.cap is None else np.clip(outcome, -metric.cap, metric.cap)


def _find_inside(predictions: pd.DataFrame, feed: Feed, window_days: int) -> pd.DataFrame:
    """Events with the row of each prediction into whose window they fall."""
    ids = predictions["candidate_id"].astype(object)  # pandas looks these up faster than Arrow's
    rows = {"candidate_id": ids, "run_date": predictions["run_date"], "row": range(len(ids))}
    pairs = pd.DataFrame(rows).merge(feed.events, on="candidate_id")
    days = (pairs["event_date"] - pairs["run_date"]).dt.days
    return pairs[(days >= 0) & (days < window_days)]


def count_rows(
    predictions: pd.DataFrame, feed: Feed, window_days: int
) -> tuple[np.ndarray, np.ndarray]:
    """How many rows make up each prediction's amount, and how many of them come twice.

    Returns
    -------
    n_rows, n_twice : arrays of int, shape (n,)
        0 of a binary metric, to which they do no harm.
    """
    if feed.metric.kind == "binary" or feed.events.empty:
        nothing = np.zeros(len(predictions), dtype=int)
        return nothing, nothing
    inside = _find_inside(predictions, feed, window_days)
    n_twice = np.bincount(inside["row"][inside["is_twice"]], minlength=len(predictions))
    return np.bincount(inside["row"], minlength=len(predictions)), n_twice


def attach_all(predictions: pd.DataFrame, feeds: Sequence[Feed], window_days: int) -> None:
    """Add a column for each feed, by its name, as `attach` makes them."""
    for feed in feeds:
        predictions[feed.name] = attach(predictions, feed, window_days)


def find_twins(candidate_ids: pd.Index, events: pd.DataFrame) -> dict[str, str]:
    """Ids of events that are candidates' ids written otherwise: the candidate's by the event's.

    They are folded by that of `FOLDS` which finds the most and tells the candidates apart, or half
    of them, where a gentle one shows that they are there twice. Where some are as the candidates'
    are, other letters are no other spelling, but another id.
    """
    ids = candidate_ids.unique().astype("str")
    strange = pd.Index(events["candidate_id"].unique()).astype("str").difference(ids)
    twins: dict[str, str] = {}
    if not len(strange):
        return twins
    plain_ids, plain_strange = _write_plainly(ids), _write_plainly(strange)
    are_numbers = plain_ids.str.isdigit().all() and plain_strange.str.isdigit().all()
    if are_numbers and not _share_numbers(plain_ids, plain_strange):
        return twins
    names = ids.tolist()  # lists are iterated far faster than Arrow's arrays
    folds = FOLDS[:GENTLE] if are_numbers else FOLDS  # the others fold these no further
    for i, (pattern, other) in enumerate(folds):
        own = dict(zip(_fold(plain_ids, pattern), names, strict=True))
        if len(own) >= (0.5 if i < GENTLE else 0.99) * len(ids):
            pairs = zip(strange.tolist(), _fold(plain_strange, other), strict=True)
            alike = {name: own[folded] for name, folded in pairs if folded and folded in own}
            twins = max(twins, alike, key=len)  # the first, if others find no more
    if len(strange) < events["candidate_id"].nunique():
        twins = {name: own for name, own in twins.items() if not _have_other_letters(name, own)}
    return twins


def _share_numbers(digits: pd.Index, others: pd.Index) -> bool:
    """Whether two kinds of texts of digits have a number in common, as far as can be told soon."""
    try:
        return bool(digits.astype("int64").isin(others.astype("int64")).any())
    except (ValueError, OverflowError):  # of another script, or beyond int64
        return True


def _have_other_letters(name: str, other: str) -> bool:
    """Whether two ids have letters, and not the same."""
    letters = [re.sub(r"[^a-z]", "", text.lower()) for text in (name, other)]
    return all(letters) and letters[0] != letters[1]


def _fold(ids: pd.Index, pattern: str) -> list[str]:
    return (ids.str.replace(pattern, "", regex=True) if pattern else ids).tolist()


def _write_plainly(ids: pd.Index) -> pd.Index:
    plain = ids.str.lower()
    is_scientific = plain.str.contains(_SCIENTIFIC, regex=True)
    if is_scientific.any():
        plain = plain.where(~is_scientific, plain.str.replace(_SCIENTIFIC, _expand, regex=True))
    return plain


def _expand(number: re.Match[str]) -> str:
    return f"{Decimal(number.group()):f}"


def find_cohort(run_date: date, unit: str) -> date:
    """The first day of the week (Monday) or month that a night belongs to."""
    return pd.Period(run_date, PERIODS[unit]).start_time.date()


def find_last_day(first: date, unit: str) -> date:
    """The last day of the cohort that begins on `first`."""
    return pd.Period(first, PERIODS[unit]).end_time.date()


def iterate_cohorts(run_dates: list[date], unit: str) -> Iterator[list[date]]:
    """Group run dates, in order, by week (from Monday) or month."""
    for _, members in groupby(sorted(run_dates), lambda run_date: find_cohort(run_date, unit)):
        yield list(members)


def parse_dates(column: pd.Series) -> pd.Series:
    """Days as datetime64[s]: from dates, instants without a time zone, or ISO text.

    Raises
    ------
    DataError
        If a value is null or not a date.
    """
    if pd.api.types.is_datetime64_dtype(column) and column.notna().all():  # without a time zone
        return column.dt.normalize().astype("datetime64[s]")
    if isinstance(column.dtype, pd.StringDtype):  # few texts in many rows
        code, texts = pd.factorize(column, use_na_sentinel=False)
        days = parse_dates(pd.Series(texts, dtype=object, name=column.name))
        return days.take(code).set_axis(column.index)
    try:
        return pd.to_datetime(column.astype(object).map(_to_day)).astype("datetime64[s]")
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{column.name} holds a value that is not a date ({error}). Expected a date or"
            " YYYY-MM-DD."
        ) from None


def _to_day(value: object) -> date:
    if value is pd.NaT:  # isinstance takes it for a datetime, and its date() is NaT again
        raise ValueError("found a null")
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(f"found {show_value(value)}") from None
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            raise ValueError(
                f"{value} has a time zone; cast it to a date of the business's own in the query"
            )
        return value.date()
    if isinstance(value, date):
        return value
    raise ValueError(f"found {show_value(value)}")


def parse_outcomes(column: pd.Series, kind: str = "binary") -> np.ndarray:
    """Outcomes as an array of float: 0 and 1 if binary, else any finite numbers.

    Raises
    ------
    DataError
        If a value is null, or not of that kind.
    """
    try:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):  # tells not which value is to blame
        values = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(np.float64)
    if kind == "numeric" and (thousands := _find_thousands(column)):
        raise DataError(
            f"outcome holds text such as {show_value(thousands)}, whose point may mark thousands."
            " Cast it to a number in the query."
        )
    wrong = ~np.isin(values, (0.0, 1.0)) if kind == "binary" else ~np.isfinite(values)
    if wrong.any():
        expected = (
            "0 or 1. Turn it into a number with case when ... then 1 else 0 end"
            if kind == "binary"
            else "a number. Cast it, or leave the row out"
        )
        raise DataError(
            f"outcome holds {list_values(column.astype(object)[wrong])} in"
            f" {int(wrong.sum())} of {len(column)} rows; expected {expected}."
        )
    return values


def _find_thousands(column: pd.Series) -> str | None:
    """A text, if all texts that have a point have three digits behind each."""
    points = [value for value in column if isinstance(value, str) and "." in value]
    return points[0] if points and all(map(_THOUSANDS.fullmatch, points)) else None
