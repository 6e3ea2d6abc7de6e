"""Confidence intervals and tests of differences. Resampling uses a fixed seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 5000
Seed = TypeVar("Seed", int, tuple[int, ...])
_SEED = 20210716
_CELLS = 1 << 22  # size of the resampled counts held at a time


@dataclass(frozen=True)
class Interval:
    """The 95 % confidence interval of a value."""

    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 if the interval is above or below zero, else 0."""
        return (self.low > 0) - (self.high < 0)


def paired_interval(
    differences: ArrayLike,
    units: ArrayLike,
    strata: ArrayLike | None = None,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the bootstrap interval of a mean difference over examples that both models answered.

    Each of N examples, at least one, has a difference and a unit. Examples of one unit are not
    independent, so they are drawn together. ``strata`` (N) are parts whose means have equal weight,
    such as the two directions of retrieval; None is one part.
    """
    values = np.asarray(differences, float)
    _, unit = np.unique(np.asarray(units), return_inverse=True)
    _, stratum = np.unique(
        np.zeros(len(values)) if strata is None else np.asarray(strata), return_inverse=True
    )
    shape = (unit.max() + 1, stratum.max() + 1)
    sums, sizes = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (unit, stratum), values)
    np.add.at(sizes, (unit, stratum), 1)
    generator = np.random.default_rng(_SEED)
    count, uniform = shape[0], np.full(shape[0], 1 / shape[0])
    means = []
    block = max(1, _CELLS // count)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        draws = generator.multinomial(count, uniform, size=size).astype(float)
        total = draws @ sizes
        # A resample without any example of a part has no mean of that part.
        averages = np.divide(draws @ sums, total, out=np.full_like(total, np.nan), where=total > 0)
        means.append(np.nanmean(averages, axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value of these flips, if neither model is better."""
    from scipy.stats import binomtest

    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method (Holm, 1979)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def proportion(passed: int, of: int) -> Interval:
    """Return Wilson's score interval of a share, in percent (Wilson, 1927)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)  # Importing scipy.stats takes most of a second.
    center, weight = passed + z**2 / 2, 100 / (of + z**2)
    delta = z * math.sqrt(passed * (of - passed) / of + z**2 / 4)
    return Interval(max(0.0, weight * (center - delta)), min(100.0, weight * (center + delta)))


@dataclass(frozen=True)
class Spread:
    """Values of one metric over seeds; a single seed has no deviation and no interval."""

    count: int
    mean: float
    deviation: float | None
    interval: Interval | None


def spread(values: Sequence[float]) -> Spread:
    """Return mean, deviation and t-interval of the mean over seeds."""
    sample: NDArray[np.float64] = np.asarray(values, float)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Spread(len(sample), mean, None, None)
    from scipy.stats import t

    deviation = float(sample.std(ddof=1))
    error, quantile = deviation / math.sqrt(len(sample)), (1 + CONFIDENCE) / 2
    half_width = error * float(t.ppf(quantile, len(sample) - 1))
    return Spread(len(sample), mean, deviation, Interval(mean - half_width, mean + half_width))


def between(
    before: Mapping[Seed, float], after: Mapping[Seed, float]
) -> tuple[float, Interval | None]:
    """Return the difference of the means over seeds, and its t-interval.

    If both have the same seeds, the interval is paired because these share data and order.
    Otherwise it is Welch's. It is None if one of them has no deviation.
    """
    if before.keys() == after.keys():
        paired = spread([after[seed] - before[seed] for seed in sorted(before)])
        return paired.mean, paired.interval
    old, new = list(before.values()), list(after.values())
    difference = float(np.mean(new) - np.mean(old))
    if min(len(old), len(new)) < 2:
        return difference, None
    if not np.ptp(old) and not np.ptp(new):
        return difference, Interval(difference, difference)
    from scipy.stats import ttest_ind

    found = ttest_ind(new, old, equal_var=False).confidence_interval(CONFIDENCE)
    return difference, Interval(float(found.low), float(found.high))
