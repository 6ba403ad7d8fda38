"""Changes: a feature of tonight that is not what it was, in training and in the newest nights.

Rates, seasons and prices leave the training rows by and by, and what is one value a night (a month,
a day of the week) is another on the next. A load that failed, another unit or another type move a
feature farther overnight than it goes by itself.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import chain, groupby
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from abatch.statistics import drift
from abatch.statistics.drift import FeatureCounts
from abatch.statistics.references import FeatureReference
from abatch.statistics.words import show_value

# PSI above its noise line: 1 is a third of the rows gone null, an unknown value in one of eight, or
# most amounts nearly doubled. Values of another type or unit, and loads that failed, bring 4 to 12;
# a smaller drift is for `feature_drift`.
GROSS = 1.0
N_LACKING = 20  # rows that other bins should have had: the chance of none is e^-20
USUAL = 3  # times as far as the newest nights lie from those before them is nothing unusual
N_STEADY, STEADY = 5, 5  # nights, and times their largest step, for what is not gross
ONE_BIN = 0.95  # share of the rows that is nearly all
ONE_VALUE = 0.05  # chance of so few others in a night; most of seven must have no more
GONE, ROUNDING = 0.05, 1e-9  # share of a bin that is named if it is, or was, empty; of equals
RESCALED = 0.9  # decimal powers between two nights of a rate, if it never was in that range
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

    def has_one_value(self, counted: FeatureCounts, n_bins: int = 1) -> bool:
        """Whether nearly all rows are in one bin, or near one number, and by no chance.

        Or in n_bins, as a month turns within a night. By chance, of rows as in training, they are
        where nearly all of these are in one.
        """
        bins, span = self.reference.bins, counted.span
        if span and len(bins) > 2 and span[1] - span[0] <= (bins[-1] - bins[0]) / 2:
            return True
        if not _is_in_bins(counted.counts, n_bins):
            return False
        trained, tonight = np.array([self.reference.counts, counted.counts])
        largest = np.argsort(tonight[:-1])[-n_bins:]
        n_others, lacking = (int(np.delete(each, largest).sum()) for each in (tonight, trained))
        return bool(binom.cdf(n_others, tonight.sum(), lacking / trained.sum()) < ONE_VALUE)

    def find_respelled(self, counted: FeatureCounts) -> dict[str, str]:
        """The known value behind each new one that is written otherwise."""
        values = [*self.reference.bins, *(self.reference.others or [])]
        known = {_fold(value): value for value in values} if counted.new else {}
        return {name: known[_fold(name)] for name in counted.new if _fold(name) in known}

    def count_respelled(self, counted: FeatureCounts) -> int:
        """Rows with a known value that is written otherwise."""
        return sum(counted.new[name] for name in self.find_respelled(counted))

    def find_misshapen(self, counted: FeatureCounts) -> list[str]:
        """The new values that are written as no known value is; of text and ids all are usual."""
        if not (counted.new and self.reference.is_measurable):
            return []
        forms = {_form(value) for value in [*self.reference.bins, *(self.reference.others or [])]}
        return [name for name in counted.new if _form(name) not in forms]

    def count_misshapen(self, counted: FeatureCounts) -> int:
        """Rows with a new value that is written as no known value is."""
        return sum(counted.new[name] for name in self.find_misshapen(counted))

    def count_beyond(self, counted: FeatureCounts) -> int:
        """Rows with a number far beyond those of training."""
        return counted.n_beyond

    def count_outside(self, counted: FeatureCounts) -> int:
        """Rows with a number outside those of nearly all training rows."""
        return counted.n_outside

    def count_new(self, counted: FeatureCounts) -> int:
        """Rows with a value that training never saw; of text and ids that is nothing unusual."""
        return counted.n_new if self.reference.is_measurable else 0


class Oddity(NamedTuple):
    """Rows of a kind that training did not have.

    Attributes
    ----------
    count_rows : of a view's nights
    n_least, share : they are told if they are as many, and such a share of the rows
    words : what they are
    may_be_dated : what is one value a night brings them by itself, as each month is new once
    is_near : the numbers may lie near those of training
    """

    count_rows: Callable[[View, FeatureCounts], int]
    n_least: int
    share: float
    words: str
    may_be_dated: bool = False
    is_near: bool = False


ODDITIES = (
    Oddity(View.count_respelled, 20, 0.02, "known values written otherwise"),
    Oddity(View.count_beyond, 5, 0.02, "numbers far beyond those of the training rows"),
    Oddity(View.count_misshapen, 5, 0.1, "values that are written as no known value is"),
    Oddity(View.count_new, 5, 0.1, "values that are new to the model", may_be_dated=True),
    Oddity(
        View.count_outside,
        20,
        0.05,
        "numbers outside those of the training rows",
        may_be_dated=True,
        is_near=True,
    ),
)


class Change(NamedTuple):
    """A feature that is not what it was.

    Attributes
    ----------
    view : by the bins of the live model whose training rows are farthest
    is_new : it was not so in the newest nights, so that nobody was told of it yet
    nearest : the night that is most like tonight, and the view of it; None if there is none
    is_overnight : it is far from all the newest nights, and these are nearer to one another
    oddity : of its rows, a kind that neither training nor the newest nights had
    is_step : it is not far from the newest nights, but they were much nearer to one another
    """

    view: View
    is_new: bool
    nearest: tuple[date, View] | None
    is_overnight: bool
    oddity: Oddity | None
    is_step: bool


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


def _is_in_bins(counts: Sequence[int], n_bins: int) -> bool:
    """Whether nearly all rows are in so many; that of nulls is none."""
    return sum(sorted(counts[:-1])[-n_bins:]) >= ONE_BIN * sum(counts)


def _fold(value: str) -> str:
    return _SPELLING.sub("", value.strip().casefold())


def _form(value: str) -> str:
    """Digits, capitals and small letters as one each, and runs as one: 'm9' is as 'm10'."""
    kinds = (
        "0" if c.isdigit() else "A" if c.isupper() else "a" if c.islower() else c
        for c in value.strip()
    )
    return "".join(kind for kind, _ in groupby(kinds))


def find_change(views: Sequence[View]) -> Change | None:
    """What became of a feature, None if it is what it was.

    Overnight it has changed if it is far from each of the newest nights, so that a weekend may be
    like the last one, and far more so than these are from those before them. Of such steps the
    second largest counts: one may have been a fault.

    Parameters
    ----------
    views : of the feature, with some rows tonight
    """
    live = [view for view in views if view.is_live]
    left = [view for view in live if view.has_left(view.tonight)]
    odd = [(view, oddity) for oddity in ODDITIES for view in live if _is_odd(view, views, oddity)]
    nights = [(night, view) for view in views for night in view.nights]
    nearest = min(nights, key=lambda pair: measure_from(*pair).excess, default=None)
    is_step = _is_step(views)
    if not (left or odd or is_step):
        return None
    return Change(
        view=odd[0][0] if odd else max(left or live, key=lambda v: measure_from(None, v).excess),
        is_new=any(not _had_left(view) for view in left) and not _is_known_date(views),
        nearest=nearest,
        is_overnight=nearest is not None
        and bool(left)
        and (any(_is_strange(view, views) for view in left) or _is_leap(views, *nearest)),
        oddity=odd[0][1] if odd else None,
        is_step=is_step,
    )


def _had_left(view: View) -> bool:
    """Whether one of the nights was far from the training rows, so that it was told."""
    return any(map(view.has_left, view.nights.values()))


def _is_known_date(views: Sequence[View]) -> bool:
    """Whether it is one value a night, and was told so of a model before."""
    return any(map(_had_left, views)) and _is_dated(views)


def _is_odd(view: View, views: Sequence[View], oddity: Oddity) -> bool:
    """Whether so many rows are of a kind that neither training nor the nights had."""
    n, n_obs = oddity.count_rows(view, view.tonight), sum(view.tonight.counts)
    if n < max(oddity.n_least, oddity.share * n_obs):
        return False
    nights = [(before, counted) for before in views for counted in before.nights.values()]
    shares = [
        oddity.count_rows(before, counted) / sum(counted.counts) for before, counted in nights
    ]
    if n / n_obs <= USUAL * max(shares, default=0):
        return False
    if (_goes_on if oddity.is_near else _is_within_reach)(view, views):
        return False
    return not (oddity.may_be_dated and _is_dated(views))


def _is_within_reach(view: View, views: Sequence[View]) -> bool:
    """Whether numbers go on from where the nights were: a rate leaves its limits by and by.

    Of the nights' ends the medians count, for one may hold a slip of the pen.
    """
    spans = [night.span for before in views for night in before.nights.values() if night.span]
    if not spans or not view.reference.limits:
        return False
    low, high = drift.find_trained_span(view.reference.limits)
    margin = drift.MARGIN * (high - low)
    low, high = np.median(spans, axis=0)
    return bool(view.tonight.span[0] >= low - margin and view.tonight.span[1] <= high + margin)


def _goes_on(view: View, views: Sequence[View]) -> bool:
    """Whether the smallest and the largest number move no farther than in the newest nights.

    Those of a few rates, say, which lie where they never were by a small step.
    """
    nights = [pair for before in views for pair in before.nights.items() if pair[1].span]
    spans = np.array([counted.span for _, counted in sorted(nights, key=lambda pair: pair[0])])
    if len(spans) < 2:
        return False
    steps = np.abs(np.diff(spans, axis=0)).max(axis=0)
    low, high = spans[:, 0].min() - steps[0], spans[:, 1].max() + steps[1]
    return bool(view.tonight.span[0] >= low and view.tonight.span[1] <= high)


def _is_step(views: Sequence[View]) -> bool:
    """Whether it drifted from training and from all nights, unlike these from those before them.

    There are enough nights to tell. Rows with new values are left out: they have a rule of their
    own, and a new channel begins with few.
    """
    if len({night for view in views for night in view.nights}) < N_STEADY or _is_dated(views):
        return False
    usual = STEADY * max((step for view in views for step in view.steps), default=0)
    return all(
        _exceeds(drift.SOME, view.reference.counts, view.tonight.known_counts)
        for view in views
        if view.is_live
    ) and all(
        _exceeds(max(drift.SOME, usual), night.known_counts, view.tonight.known_counts)
        for view in views
        for night in view.nights.values()
    )


def _exceeds(line: float, before: Sequence[int], after: Sequence[int]) -> bool:
    return bool(sum(before) and sum(after)) and measure(before, after).excess > line


def measure_from(night: date | None, view: View) -> Distance:
    """The distance of tonight from a night of the view, or from the training rows."""
    before = view.reference.counts if night is None else view.nights[night].counts
    return measure(before, view.tonight.counts)


def _is_strange(view: View, views: Sequence[View]) -> bool:
    """Whether tonight is such as neither training nor the nights were, by no season.

    All numbers lie far beyond, a rate is of another size, most rows are null, or most are known
    values written otherwise.
    """
    tonight, n_obs = view.tonight, sum(view.tonight.counts)
    nights = [counted.counts for view in views for counted in view.nights.values()]
    nulls = max(counts[-1] / sum(counts) for counts in [view.reference.counts, *nights])
    if tonight.counts[-1] / n_obs - nulls > 0.5:
        return True
    if view.reference.kind == "number":
        ends = [end for view in views for night in view.nights.values() for end in night.span]
        is_beyond = bool(ends) and _is_beyond(tonight.span, [*ends, *view.reference.bins])
        return is_beyond or _is_rescaled(view, views)
    familiar = {name for view in views for night in view.nights.values() for name in night.new}
    respelled = {*view.find_respelled(tonight)} - familiar
    return sum(tonight.new[name] for name in respelled) > n_obs / 2


def _is_beyond(span: Sequence[float], known: Sequence[float]) -> bool:
    """Whether all of a span lies beyond known numbers, by three times as much as these span.

    Where all is 0, as a load that failed may leave it, by anything.
    """
    low, high = drift.find_span(known)
    margin = USUAL * (high - low) if any(span) else 0
    return bool(span) and (span[0] > high + margin or span[1] < low - margin)


def _is_rescaled(view: View, views: Sequence[View]) -> bool:
    """Whether a rate of the day is of another size or sign, or 0, as it never was.

    Known numbers are of one sign and all on one side of tonight's; the nights moved by steps of
    less than half as much.
    """
    nights = [pair for before in views for pair in before.nights.items() if pair[1].span]
    if not (nights and view.reference.limits and view.tonight.span and _is_dated(views)):
        return False
    spans = [counted.span for _, counted in sorted(nights, key=lambda pair: pair[0])]
    known = drift.find_span([*drift.find_trained_span(view.reference.limits), *chain(*spans)])
    low, high = view.tonight.span
    if known[0] * known[1] <= 0 or (known[0] <= high and low <= known[1]):
        return False
    *_, last, tonight = rates = np.mean([*spans, view.tonight.span], axis=1)
    *steps, step = np.abs(np.diff(rates))
    is_other = tonight / last <= 0 or abs(np.log10(tonight / last)) >= RESCALED
    return bool(is_other and step > 2 * max(steps, default=0))


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

    Not all nights, as one may have been a fault; and tonight may be of two, as the month turns.
    """
    nights = [view.has_one_value(night) for view in views for night in view.nights.values()]
    is_one = all(
        any(view.has_one_value(view.tonight, n_bins) for n_bins in (1, 2))
        for view in views
        if view.nights
    )
    return is_one and 2 * sum(nights) > len(nights)


def has_moved_date(views: Sequence[View]) -> bool:
    """Whether a calendar's or a market's feature is where it was in none of the newest nights."""
    nights = [(view, counted) for view in views for counted in view.nights.values()]
    return (
        bool(nights)
        and _is_dated(views)
        and all(is_far(counted.counts, view.tonight.counts) for view, counted in nights)
    )


def describe_rise(night: date | None, view: View) -> str:
    """What more of tonight's rows are, or fewer, whichever says more.

    Of the bins that which has gained most, or that which has lost more than this has gained. If one
    of the two is empty now, or was, both are named, as by a value that is written otherwise.

    Parameters
    ----------
    night : since which; None for the training rows
    """
    counts = view.reference.counts if night is None else view.nights[night].counts
    shares = np.array([counts, view.tonight.counts], dtype=np.float64)
    before, after = shares / shares.sum(axis=1, keepdims=True)
    rise = after - before
    up = int(np.argmax(np.where(after > 0, rise, -np.inf)))  # of what there is
    down = int(np.argmin(rise))
    is_loss = -rise[down] > rise[up] + ROUNDING
    first, second = (down, up) if is_loss else (up, down)
    words = (
        f"{_name_bin(view, first)} in {after[first]:.0%} of {sum(view.tonight.counts):,} rows,"
        f" before {before[first]:.0%}"
    )
    if night is not None and view.nights[night].span and rise[first] < GONE and not is_loss:
        low, high = view.nights[night].span
        words += f" ({low:,.6g} to {high:,.6g})"
    is_large = abs(rise[second]) >= max(GONE, abs(rise[first]) / 2)
    if is_large and (before if is_loss else after)[second] == 0:
        words += f"; {_name_bin(view, second)} in {after[second]:.0%}, before {before[second]:.0%}"
    return words


def _name_bin(view: View, i: int) -> str:
    """One cell, counted as a `FeatureReference` has them, in words."""
    bins, n_bins = view.reference.bins, len(view.reference.bins)
    if i == n_bins + 1:
        return "null"
    if view.reference.kind == "category":
        return show_value(bins[i]) if i < n_bins else _name_others(view)
    ends = [f"above {low:,.6g}" for low in bins[max(i - 1, 0) : i]]
    ends += [f"up to {high:,.6g}" for high in bins[i : i + 1]]
    name = " and ".join(ends) or "a number"
    if not view.tonight.counts[i]:
        return name
    low, high = view.tonight.span
    return f"{name} ({low:,.6g} to {high:,.6g} tonight)"


def _name_others(view: View) -> str:
    """New values by name, if most of the uncommon ones are new."""
    counted = view.tonight
    if counted.n_new <= counted.counts[-2] / 2:
        return "values that are rare in training"
    first, *others = counted.new
    spelling = _describe_spelling(view, first)
    rest = f" and {len(others)} others" if others else ""
    return f"{show_value(first)}{spelling}{rest}, new to the model,"


def _describe_spelling(view: View, name: str) -> str:
    respelled = view.find_respelled(view.tonight)
    return f" ({show_value(respelled[name])} written otherwise)" if name in respelled else ""


def _describe_trained(view: View, oddity: Oddity) -> str:
    if not oddity.is_near or not view.reference.limits:
        return ""
    low, high = drift.find_trained_span(view.reference.limits)
    return f", nearly all {low:,.6g} to {high:,.6g} in training"


def describe_oddity(view: View, oddity: Oddity) -> str:
    """How many rows of a kind there are tonight, and an example."""
    tonight = view.tonight
    n, n_obs = oddity.count_rows(view, tonight), sum(tonight.counts)
    if view.reference.kind == "number":
        low, high = tonight.span
        example = f"{low:,.6g} to {high:,.6g} tonight{_describe_trained(view, oddity)}"
    else:
        names = [*tonight.new]
        if oddity.count_rows == View.count_respelled:
            names = [*view.find_respelled(tonight)]
        elif oddity.count_rows == View.count_misshapen:
            names = view.find_misshapen(tonight)
        example = f"{show_value(names[0])}{_describe_spelling(view, names[0])}"
    return f"{oddity.words} ({example}) in {n / n_obs:.1%} of {n_obs:,} rows"
