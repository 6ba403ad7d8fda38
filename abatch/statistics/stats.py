"""Statistics of the verdict: a confidence sequence on the difference between two variants.

It holds however often somebody looks.

A normal mixture, tuned by the effect that was registered beforehand (Robbins 1970; Howard, Ramdas,
McAuliffe, Sekhon, Annals of Statistics 49(2), 2021, arXiv 1810.08240; Waudby-Smith, Arbour, Sinha,
Kennedy, Ramdas, Annals of Statistics 52(6), 2024, arXiv 2103.06476). Binary, numeric and clustered
outcomes all enter through a difference and its standard error. Formulas take arrays as well as
floats, so that one call serves one look or a thousand simulated ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from math import ceil, comb, log, nan, sqrt
from operator import add, sub
from typing import Any, NamedTuple

import numpy as np
from scipy.special import chdtrc, gammaln, lambertw, ndtri, xlogy

from abatch.statistics.words import BETTER, BROKEN, KEPT, NO_DIFFERENCE, NOT_YET, WORSE

ALPHA = 0.05  # of all verdicts of an experiment together
POWER = 0.8
# Burn-in, of each variant: an asymptotic interval is not to be believed before (Bibaut, Kallus,
# Lindon, arXiv 2212.14411).
MIN_UNITS = 100
MIN_CASES = 10  # binary: events, and non-events
MIN_NONZERO = 100  # numeric
MIN_KURTOSES = 10  # where amounts or exposures add up: units, in kurtoses of what is compared
SRM_WEIGHT = 1000  # of the registered shares in the prior, in candidates
SRM_NIGHT_WEIGHT = 100  # the same where each night is tested by itself
SRM_ALPHA = 0.01
EXPOSURES_EFFECT = 0.1  # relative, of exposures per candidate; what their test is tuned by


# By number of verdicts: how many times the sample of one look at a fixed horizon it takes to find
# the registered effect with a chance of POWER, and of one half. Quantiles of the first decision in
# 400,000 Brownian motions with 40 looks per such sample.
LOOK_FACTORS = {
    1: (1.69, 1.00),
    2: (1.95, 1.19),
    3: (2.09, 1.30),
    4: (2.19, 1.38),
    5: (2.26, 1.44),
    6: (2.32, 1.49),
}

# A sum of squares that is a smaller part of its terms is what their rounding left.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Moments:
    """Sums over the units, the candidates, of one variant.

    They add up with + over groups that have no unit in common, so that nights and variants can be
    pooled; - takes a part out again.

    Attributes
    ----------
    n_units : number of units
    n_nonzero : units whose y is not 0
    sum_n, sum_y, sum_nn, sum_ny, sum_yy : sums of n, y and their products, where n is the number of
        a unit's exposures that count (1 if only the first does) and y the sum of their outcomes
    center : about the mean outcome per exposure, lest the fourth powers cancel out
    sum_nnnn to sum_zzzz : sums of products of n and z = y - center * n
    """

    n_units: float = 0.0
    n_nonzero: float = 0.0
    sum_n: float = 0.0
    sum_y: float = 0.0
    sum_nn: float = 0.0
    sum_ny: float = 0.0
    sum_yy: float = 0.0
    center: float = 0.0
    sum_nnnn: float = 0.0
    sum_nnnz: float = 0.0
    sum_nnzz: float = 0.0
    sum_nzzz: float = 0.0
    sum_zzzz: float = 0.0

    def __add__(self, other: "Moments") -> "Moments":
        larger: Any = np.where(self.n_units >= other.n_units, self.center, other.center)[()]
        return self.move(larger)._combine(add, other.move(larger))

    def __sub__(self, other: "Moments") -> "Moments":
        return self._combine(sub, other.move(self.center))

    def _combine(self, operator: Callable[[Any, Any], Any], other: "Moments") -> "Moments":
        sums = Moments(*map(operator, astuple(self), astuple(other)))
        return replace(sums, center=self.center)

    def move(self, center: float) -> "Moments":
        """The same sums with z about another center."""
        step = self.center - center
        fields = astuple(self)
        sums, old = fields[:7], fields[8:]
        new = [sum(comb(k, j) * step ** (k - j) * old[j] for j in range(k + 1)) for k in range(5)]
        return Moments(*(*sums, center, *new))


class Mean(NamedTuple):
    """A mean outcome per exposure, and the variance of this mean; nan if unknown."""

    value: float
    variance: float


class Comparison(NamedTuple):
    """What is known of a difference today.

    Attributes
    ----------
    estimate, se : treatment minus control, and its standard error
    information : relative to the mixture's prior precision
    multiplier : half the interval's width in standard errors
    lower, upper : today's interval of the confidence sequence
    pvalue : today's, of no difference; below alpha exactly where the interval excludes 0
    """

    estimate: float
    se: float
    information: float
    multiplier: float
    lower: float
    upper: float
    pvalue: float


class Lift(NamedTuple):
    """The relative difference m1 / m0 - 1 and its interval, as the table `verdicts` names them."""

    lift: float
    lift_lower: float
    lift_upper: float


class RatioTest(NamedTuple):
    """What a test of the sample ratio says today.

    Attributes
    ----------
    pvalue : of the sequential test, which may be looked at daily
    pvalue_single : of a test for one single look on a day chosen beforehand; nan without data
    """

    pvalue: float
    pvalue_single: float


class Plan(NamedTuple):
    """Candidates to assign over all variants of the experiment.

    Attributes
    ----------
    n_fixed : for one look and one verdict, two-sided, as in textbooks
    n_most, n_median : for a decision by then with a chance of POWER, and of one half
    """

    n_fixed: int
    n_most: int
    n_median: int


def compute_moments(n: np.ndarray, y: np.ndarray, n_units: Any = 1) -> Moments:
    """Sum up units: for each element of the arrays n and y, shape (u,), one or n_units of them."""
    # As floats, whose squares do not overflow.
    n, y, w = np.broadcast_arrays(*(np.asarray(values, np.float64) for values in (n, y, n_units)))
    sums = [(w * product).sum() for product in (n, y, n * n, n * y, y * y)]
    center = sums[1] / sums[0] if sums[0] else 0.0
    z = y - center * n
    nn, nz, zz = n * n, n * z, z * z  # powers of arrays take three times as long
    fourth = [(w * product).sum() for product in (nn * nn, nn * nz, nn * zz, nz * zz, zz * zz)]
    return Moments(*map(float, (w.sum(), w[y != 0].sum(), *sums, center, *fourth)))


def estimate_mean(moments: Moments, kind: str, exposure: str) -> Mean:
    """Mean outcome per exposure.

    Parameters
    ----------
    kind : binary or numeric
    exposure : first or all

    Returns
    -------
    Mean
        The variance is that of a ratio of sums, linearised and robust to repeated exposures of a
        unit (Cochran, Sampling Techniques, 1977, chapter 6); where each unit counts once it is the
        sample variance over n. Binary outcomes of first exposures take p(1-p)/n at p = (s+1)/(n+2),
        so that no events is not certainty. nan without exposures, and the variance with fewer than
        two units.
    """
    u, n, y = (np.asarray(x, float) for x in (moments.n_units, moments.sum_n, moments.sum_y))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = _keep(n > 0, y / n)
        if kind == "binary" and exposure == "first":
            p = (y + 1) / (n + 2)
            return Mean(value, _keep(n > 0, p * (1 - p) / n))
        squares = _sum_squares(moments, value)
        return Mean(value, _keep((n > 0) & (u > 1), u / (u - 1) * squares / n**2))


def wilson_interval(n_positive: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of n, without correction (Newcombe, 1998, method 3).

    scipy.stats has it, too, but takes longer to import than a night's score to reckon.
    """
    z, p = ndtri(1 - ALPHA / 2), n_positive / n
    below = 2 * (n + z**2)
    center, half = (2 * n * p + z**2) / below, z / below * sqrt(4 * n * p * (1 - p) + z**2)
    lower = 0.0 if n_positive == 0 else center - half
    upper = 1.0 if n_positive == n else center + half
    return float(lower), float(upper)


def _sum_squares(moments: Moments, value: float) -> Any:
    """Of the residuals y - value * n."""
    nn, ny, yy = (np.asarray(x, float) for x in (moments.sum_nn, moments.sum_ny, moments.sum_yy))
    squares = yy - 2 * value * ny + value**2 * nn
    return np.where(squares > _ROUNDING * (yy + value**2 * nn), squares, 0.0)


def measure_shift(left_out: Moments, others: Sequence[Moments]) -> float:
    """By how much the mean of the smallest group would change if all who are left out were in it.

    Nan if chance may explain that they are unlike the others (by 4 standard errors), or if there
    are none.

    Parameters
    ----------
    others : the groups
    """
    total, least = sum(others, Moments()), min(m.sum_n for m in others) if others else 0.0
    if not (left_out.sum_n and total.sum_n and least):
        return nan
    mean = total.sum_y / total.sum_n
    excess = left_out.sum_y - mean * left_out.sum_n
    # Under no difference; the sum of squares of y - mean * n, of a unit at a time.
    squares = _sum_squares(total, mean) * left_out.n_units / total.n_units
    return float(excess / (least + left_out.sum_n)) if excess**2 > 16 * squares else nan


def measure_kurtosis(sides: Sequence[Moments]) -> float:
    """How much a few units carry: the kurtosis of all residuals together, 3 if they are normal.

    A residual is y - R n, R being its side's mean outcome per exposure, so for first exposures the
    distance from the mean. With N units it is N sum(e^4) / sum(e^2)^2; if one unit in m carries
    all, about m.

    Returns
    -------
    float
        nan if nothing differs.
    """
    n_units = sum(side.n_units for side in sides)
    ratios = [estimate_mean(side, "numeric", "all").value for side in sides]
    pairs = [*zip(sides, ratios, strict=True)]
    squares = sum(_sum_squares(side, ratio) for side, ratio in pairs)
    fourths = sum(side.move(ratio).sum_zzzz for side, ratio in pairs)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _keep(squares > 0, n_units * fourths / squares**2)


def compare(treatment: Mean, control: Mean, effect: float, alpha: float) -> Comparison:
    """Treatment minus control, with the interval of its confidence sequence.

    Parameters
    ----------
    effect : size of the registered absolute effect, more than 0. It tunes the sequence and must not
        follow the data.
    alpha : of this verdict: ALPHA divided by the number of verdicts

    Returns
    -------
    Comparison
        All but the estimate is nan where the standard error is 0 or unknown.
    """
    se = np.sqrt(treatment.variance + control.variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = tune_information(alpha) * (plan_se(effect, alpha) / se) ** 2
    return compute_sequence(treatment.value - control.value, se, information, alpha)


def compute_sequence(estimate: float, se: float, information: float, alpha: float) -> Comparison:
    """The two-sided normal mixture bound of Howard et al. 2021, in units of the standard error."""
    is_known = np.asarray(se) > 0
    se, x = _keep(is_known, se), _keep(is_known, information)
    shrinkage = x / (1 + x)
    multiplier = np.sqrt((np.log1p(x) + 2 * log(1 / alpha)) / shrinkage)
    pvalue = np.minimum(1.0, np.sqrt(1 + x) * np.exp(-((estimate / se) ** 2) / 2 * shrinkage))
    half = multiplier * se
    return Comparison(estimate, se, x, multiplier, estimate - half, estimate + half, pvalue)


def tune_information(alpha: float) -> float:
    """The information at which the multiplier is smallest for a sample: the tightest sequence."""
    return float(-lambertw(-(alpha**2) / np.e, -1).real - 1)


def plan_se(effect: float, alpha: float) -> float:
    """The standard error at which one look would find the effect with a chance of POWER.

    There the sequence is tightest.
    """
    return float(abs(effect) / (ndtri(1 - alpha / 2) + ndtri(POWER)))


def naive_interval(estimate: float, se: float) -> tuple[float, float]:
    """The interval of one look at a fixed horizon, for contrast only.

    Who looks every day finds too much with it.
    """
    half = ndtri(1 - ALPHA / 2) * se
    return estimate - half, estimate + half


def compute_lift(treatment: Mean, control: Mean, multiplier: float) -> Lift:
    """Relative difference by Fieller's method, with the multiplier of the absolute one.

    Its interval is {r : |m1 - (1 + r) m0| <= k sqrt(v1 + (1 + r)^2 v0)} (Fieller 1954, J. R. Stat.
    Soc. B 16, 175-185).

    Returns
    -------
    Lift
        Without an interval where this set is unbounded: the control's mean cannot be told from 0.
        All nan if that mean is not positive, for a share of nothing or of a loss says nothing.
    """
    m1, v1, m0, v0 = (np.asarray(value, dtype=np.float64) for value in (*treatment, *control))
    with np.errstate(divide="ignore", invalid="ignore"):
        k2 = np.square(multiplier)
        bottom = m0**2 - k2 * v0
        is_bounded = (m0 > 0) & (bottom > 0)
        half = np.sqrt(_keep(is_bounded, k2 * (v1 * bottom + m1**2 * v0)))
        lower, upper = ((m1 * m0 + side * half) / bottom - 1 for side in (-1, 1))
        return Lift(_keep(m0 > 0, m1 / m0 - 1), _keep(is_bounded, lower), _keep(is_bounded, upper))


def choose_word(comparison: Comparison, effect: float) -> str:
    """The verdict that today's interval allows.

    The sign of the registered effect says which direction is good.

    Burn-in and the sample ratio are the caller's matter.
    """
    if comparison.lower > 0 or comparison.upper < 0:
        return BETTER if (comparison.lower > 0) == (effect > 0) else WORSE
    if comparison.lower > -abs(effect) and comparison.upper < abs(effect):
        return NO_DIFFERENCE
    return NOT_YET


def choose_guardrail_word(comparison: Comparison, margin: float) -> str:
    """Whether a metric got worse by more than the size of the margin.

    The sign of the margin says which direction is good.
    """
    worst, best = comparison.lower, comparison.upper
    if margin < 0:
        worst, best = -best, -worst
    if worst > -abs(margin):
        return KEPT
    return BROKEN if best < -abs(margin) else NOT_YET


def find_burn_in(kurtosis: float) -> float:
    """Units that each variant must have brought.

    Where few of them carry the mean, `measure_kurtosis` says how few; the interval, which rests on
    the normal, holds once these have come to each variant. nan: MIN_UNITS is enough.
    """
    return np.fmax(MIN_UNITS, np.ceil(MIN_KURTOSES * np.asarray(kurtosis)))[()]


def is_burnt_in(moments: Moments, kind: str, n_least: float = MIN_UNITS) -> bool:
    """Whether a variant has brought enough for an interval that rests on the normal.

    `n_least` is what `find_burn_in` asks for.
    """
    is_large = moments.n_units >= n_least
    if kind == "numeric":
        return is_large & (moments.n_nonzero >= MIN_NONZERO)
    # A unit's events come together, so they count once. If only the first exposure counts, this is
    # events and non-events.
    n_without = moments.sum_n - moments.sum_y
    return is_large & (moments.n_nonzero >= MIN_CASES) & (n_without >= MIN_CASES)


def plan_burn_in(kind: str, rate: float, kurtosis: float = nan) -> float:
    """Units of one variant that `is_burnt_in` will take.

    `rate` is the share with the outcome, in (0, 1), or with an amount; `kurtosis` that of amounts.
    """
    rarest = MIN_NONZERO / rate if kind == "numeric" else MIN_CASES / min(rate, 1 - rate)
    return float(max(find_burn_in(kurtosis), rarest))


def plan_sample(variance: float, effect: float, n_verdicts: int) -> Plan:
    """How many candidates it takes to find the effect, if it is as large as registered.

    Parameters
    ----------
    variance : of the difference between two sides, times the candidates of the experiment: the sum
        over both sides of the variance of one candidate's outcome, divided by the side's share of
        all candidates, in (0, 1)
    effect : not 0; its sign does not matter
    n_verdicts : that share ALPHA, at least 1
    """
    n_fixed = variance / plan_se(effect, ALPHA) ** 2
    most, median = _find_look_factors(n_verdicts)
    return Plan(ceil(n_fixed), ceil(n_fixed * most), ceil(n_fixed * median))


def _find_look_factors(n_verdicts: int) -> tuple[float, float]:
    """The factors of the table, and beyond it a line in ln m, for x* grows like 2 ln m.

    At m = 50 within .04 of the same simulation.
    """
    last = max(LOOK_FACTORS)
    if n_verdicts <= last:
        return LOOK_FACTORS[n_verdicts]
    (most_1, median_1), (most, median) = LOOK_FACTORS[1], LOOK_FACTORS[last]
    beyond = log(n_verdicts / last) / log(last)
    return most + (most - most_1) * beyond, median + (median - median_1) * beyond


def log_bayes_factor(counts: np.ndarray, shares: np.ndarray, prior: np.ndarray) -> float:
    """Evidence that candidates do not come in the registered shares; to be looked at every day.

    Dirichlet-multinomial against multinomial (Lindon, Malek, NeurIPS 2022, arXiv 2011.03567).

    Parameters
    ----------
    counts : array of int, shape (..., v), distinct candidates so far by variant
    shares : array of float, shape (v,), registered, more than 0
    prior : array of float, shape (v,), weights of the Dirichlet distribution: SRM_WEIGHT * shares
    """
    return _log_beta(prior + counts) - _log_beta(prior) - xlogy(counts, shares).sum(axis=-1)


def sample_ratio_pvalue(log_e: float) -> float:
    """Today's p-value of the registered shares; the smallest one of all looks is valid too."""
    return np.exp(-np.maximum(0.0, log_e))


def check_shares(
    counts: np.ndarray, shares: np.ndarray, weight: float, evidence: float | None = None
) -> RatioTest:
    """Whether variants are as large as their shares; beside it the chi-square test of one look.

    Parameters
    ----------
    counts, shares : arrays, shape (v,), as in `log_bayes_factor`
    weight : of the shares in the prior
    evidence : the sum of `log_bayes_factor` of each night's new candidates, where shares may change
        from night to night and be right on the whole: the mean of both e-values is tested
    """
    log_e = log_bayes_factor(counts, shares, weight * shares)
    if evidence is not None:
        log_e = np.logaddexp(log_e, evidence) - log(2)
    n = counts.sum()
    single = nan
    if n and len(counts) > 1:  # Pearson's chi-square test
        squares = ((counts - n * shares) ** 2 / (n * shares)).sum()
        single = float(chdtrc(len(counts) - 1, squares))
    return RatioTest(float(sample_ratio_pvalue(log_e)), single)


def check_exposures(variants: Sequence[Moments], effect: float, alpha: float) -> RatioTest:
    """Whether candidates of all variants come equally often.

    The normal mixture on each variant's mean against that of all others; Bonferroni. The variance
    is that between all candidates, who come in runs, whatever their variant, as in a permutation
    test: so it is not 0 where all of one variant came once, and all of another every night. Beside
    it the chi-square test of equal means of one look.

    Parameters
    ----------
    variants : two or more; of each the moments of its candidates, y being how often each came, and
        n 1
    effect : relative, more than 0, that the sequence is tuned by
    """
    total = sum(variants, Moments())
    mean, variance = estimate_mean(total, "numeric", "first")
    n: Any = np.array([variant.n_units for variant in variants])
    y: Any = np.array([variant.sum_y for variant in variants])
    if not variance > 0 or n.min() < find_burn_in(measure_kurtosis([total])):
        return RatioTest(1.0, nan)  # no evidence is gathered before
    variance *= total.n_units / mean**2  # of one candidate
    sides = [(n, y), (total.n_units - n, total.sum_y - y)]
    means = [Mean(sums / sizes / mean, variance / sizes) for sizes, sums in sides]
    n_tests = len(n) if len(n) > 2 else 1  # of two variants, each says all
    pvalues = compare(means[0], means[1], effect, alpha / n_tests).pvalue
    squares = (n * (means[0].value - 1) ** 2).sum() / variance
    single = float(chdtrc(len(n) - 1, squares))
    return RatioTest(float(min(1.0, n_tests * np.min(pvalues))), single)


def _log_beta(weights: np.ndarray) -> Any:
    return gammaln(weights).sum(axis=-1) - gammaln(weights.sum(axis=-1))


def _keep(is_known: Any, value: Any) -> Any:
    """Not a number where it is not known."""
    return np.where(is_known, value, np.nan)[()]
