"""Changes: a feature of tonight that is not what it was, in training and in the newest nights.

Rates, seasons and prices leave the training rows by and by, and what is one value a night (a month,
a day of the week) is another on the next. A load that failed, another unit or another type move a
feature farther overnight than it goes by itself.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

import numpy as np

from abatch.statistics import drift
from abatch.statistics.drift import FeatureCounts
from abatch.statistics.references import FeatureReference

# PSI above its noise line: 1 is a third of the rows gone null, an unknown value in one of eight, or
# most amounts nearly doubled. Values of another type or unit, and loads that failed, bring 4 to 12;
# a smaller drift is for `feature_drift`.
GROSS = 1.0
N_LACKING = 20  # rows that other bins should have had: the chance of none is e^-20
USUAL = 3  # times as far as the newest nights lie from those before them is nothing unusual
ONE_BIN = 0.95  # share of the rows that is nearly all
_SPELLING = re.compile(r"\s|(?<=\w)[.,]0+$|^0+(?=\w)")  # 20.0, 020 and ' 20' for 20


class Distance(NamedTuple):
    """How far two counts of the same bins lie apart."""

    psi: float
    noise: float

    @property
    def excess(self) -> float:
        """PSI above the noise line."""
        return self.psi - self.noise


@dataclass(frozen=True)
class View:
    """One feature, counted by the bins of one reference.

    Attributes
    ----------
    model_names : whose training rows the reference is
    is_live : whether these predict tonight
    nights : the newest nights that were counted so, oldest first; not all of them may be
    """

    reference: FeatureReference
    model_names: list[str]
    is_live: bool
    tonight: FeatureCounts
    nights: Mapping[date, FeatureCounts] = field(default_factory=dict)

    def has_left(self, counted: FeatureCounts) -> bool:
        """Whether it is far from what it was in training."""
        return is_far(self.reference.counts, counted.counts)

    @property
    def steps(self) -> list[float]:
        """How far each of the nights lies from the nearest of those before it."""
        counts = [counted.counts for counted in self.nights.values()]
        return [
            min(measure(before, counts[i]).excess for before in counts[:i])
            for i in range(1, len(counts))
        ]

    def has_one_value(self, counted: FeatureCounts) -> bool:
        """Whether nearly all rows are in one bin, or near one number, and were not in training."""
        bins, span = self.reference.bins, counted.span
        if span and len(bins) > 1 and span[1] - span[0] <= (bins[-1] - bins[0]) / 2:
            return True
        return _is_in_one_bin(counted.counts) and not _is_in_one_bin(self.reference.counts)

    @property
    def respelled(self) -> dict[str, str]:
        """The known value behind each new one of tonight that is written otherwise."""
        values = [*self.reference.bins, *(self.reference.others or [])]
        known = {_fold(value): value for value in values} if self.tonight.new else {}
        return {name: known[_fold(name)] for name in self.tonight.new if _fold(name) in known}


class Change(NamedTuple):
    """A feature that is far from what it was in training.

    Attributes
    ----------
    view : by the bins of the live model whose training rows are farthest
    is_new : it was not so in the newest nights, so that nobody was told of it yet
    nearest : the night that is most like tonight, and the view of it; None if there is none
    is_overnight : it is far from all the newest nights, and these are nearer to one another
    """

    view: View
    is_new: bool
    nearest: tuple[date, View] | None
    is_overnight: bool


def measure(before: Sequence[int], after: Sequence[int]) -> Distance:
    """The distance of two counts of the same bins, which are not all 0."""
    cells = [(a, b) for a, b in zip(before, after, strict=True) if a or b]
    return Distance(drift.compute_psi(*zip(*cells, strict=True)), drift.psi_noise(before, after))


def is_far(before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether rows are not such as before: by their PSI, or all in one bin, which is no chance."""
    if measure(before, after).excess > GROSS:
        return True
    i, n_obs, n_before = int(np.argmax(after)), sum(after), sum(before)
    return after[i] == n_obs and n_obs * (n_before - before[i]) >= N_LACKING * n_before


def _is_in_one_bin(counts: Sequence[int]) -> bool:
    """Whether nearly all rows are in one; that of nulls is none."""
    return max(counts[:-1]) >= ONE_BIN * sum(counts)


def _fold(value: str) -> str:
    return _SPELLING.sub("", value.strip().casefold())


def find_change(views: Sequence[View]) -> Change | None:
    """What became of a feature, None if it is near the training rows of all live models.

    Overnight it has changed if it is far from each of the newest nights, so that a weekend may be
    like the last one, and far more so than these are from those before them. Of such steps the
    second largest counts: one may have been a fault.

    Parameters
    ----------
    views : of the feature, with some rows tonight
    """
    left = [view for view in views if view.is_live and view.has_left(view.tonight)]
    if not left:
        return None
    nights = [(night, view) for view in views for night in view.nights]
    nearest = min(nights, key=lambda pair: measure_from(*pair).excess, default=None)
    return Change(
        view=max(left, key=lambda view: measure_from(None, view).excess),
        is_new=any(not any(map(view.has_left, view.nights.values())) for view in left),
        nearest=nearest,
        is_overnight=nearest is not None
        and (any(_is_strange(view, views) for view in left) or _is_leap(views, *nearest)),
    )


def measure_from(night: date | None, view: View) -> Distance:
    """The distance of tonight from a night of the view, or from the training rows."""
    before = view.reference.counts if night is None else view.nights[night].counts
    return measure(before, view.tonight.counts)


def _is_strange(view: View, views: Sequence[View]) -> bool:
    """Whether tonight is such as neither training nor the nights were, by no season.

    All numbers lie far beyond, most rows are null, or most are known values written otherwise.
    """
    tonight, n_obs = view.tonight, sum(view.tonight.counts)
    nights = [counted.counts for view in views for counted in view.nights.values()]
    nulls = max(counts[-1] / sum(counts) for counts in [view.reference.counts, *nights])
    if tonight.counts[-1] / n_obs - nulls > 0.5:
        return True
    if view.reference.kind == "number":
        ends = [end for view in views for night in view.nights.values() for end in night.span]
        return bool(ends) and _is_beyond(tonight.span, [*ends, *view.reference.bins])
    familiar = {name for view in views for night in view.nights.values() for name in night.new}
    return sum(tonight.new[name] for name in {*view.respelled} - familiar) > n_obs / 2


def _is_beyond(span: Sequence[float], known: Sequence[float]) -> bool:
    """Whether all of a span lies beyond known numbers, by three times as much as these span.

    Where all is 0, as a load that failed may leave it, by anything.
    """
    low, high = drift.find_span(known)
    margin = USUAL * (high - low) if any(span) else 0
    return bool(span) and (span[0] > high + margin or span[1] < low - margin)


def _is_leap(views: Sequence[View], night: date, nearest: View) -> bool:
    """Whether tonight is far from all nights, and from the nearest unusually so."""
    steps = sorted(step for view in views for step in view.steps)
    usual = USUAL * steps[-2] if len(steps) > 1 else 0
    return (
        measure_from(night, nearest).excess > usual
        and all(
            is_far(counted.counts, view.tonight.counts)
            for view in views
            for counted in view.nights.values()
        )
        and not _is_dated(views)
    )


def _is_dated(views: Sequence[View]) -> bool:
    """Whether it is a calendar's or a market's: tonight, and most nights, are of one value.

    Not all nights, as one may have been a fault.
    """
    nights = [view.has_one_value(night) for view in views for night in view.nights.values()]
    is_one = all(view.has_one_value(view.tonight) for view in views if view.nights)
    return is_one and 2 * sum(nights) > len(nights)


def describe_rise(night: date | None, view: View) -> str:
    """What more of tonight's rows are: of the bins that which has gained most.

    Parameters
    ----------
    night : since which; None for the training rows
    """
    before = view.reference.counts if night is None else view.nights[night].counts
    shares = np.array([before, view.tonight.counts], dtype=np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    rise = np.where(shares[1] > 0, shares[1] - shares[0], -np.inf)  # of what there is
    i, n_obs = int(np.argmax(rise)), sum(view.tonight.counts)
    return (
        f"{_name_bin(view, i)} in {shares[1, i]:.0%} of {n_obs:,} rows, before {shares[0, i]:.0%}"
    )


def _name_bin(view: View, i: int) -> str:
    """One cell, counted as a `FeatureReference` has them, in words."""
    bins, n_bins = view.reference.bins, len(view.reference.bins)
    if i == n_bins + 1:
        return "null"
    if view.reference.kind == "category":
        return repr(bins[i]) if i < n_bins else _name_others(view)
    ends = [f"above {low:,.6g}" for low in bins[max(i - 1, 0) : i]]
    ends += [f"up to {high:,.6g}" for high in bins[i : i + 1]]
    low, high = view.tonight.span
    return f"{' and '.join(ends) or 'a number'} ({low:,.6g} to {high:,.6g} tonight)"


def _name_others(view: View) -> str:
    """New values by name, if most of the uncommon ones are new."""
    counted = view.tonight
    if counted.n_new <= counted.counts[-2] / 2:
        return "values that are rare in training"
    first, *others = counted.new
    spelling = f" ({view.respelled[first]!r} written otherwise)" if first in view.respelled else ""
    rest = f" and {len(others)} others" if others else ""
    return f"{first!r}{spelling}{rest}, new to the model,"
