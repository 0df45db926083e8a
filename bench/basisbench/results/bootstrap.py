"""Intervals by resampling what examples share, the same resamples for every cell of a task.

Examples that share a noun, a name or a template are not independent, so levels of these factors are resampled:

1. Each factor's levels are drawn with replacement, by themselves (two crossed factors: Owen 2007, "The pigeonhole
   bootstrap", abstract). An example weighs the product of the multiplicities of its levels (any number of factors:
   Owen and Eckles 2012, arXiv 1106.2125, abstract), divided by the sum over examples.
2. Row 0 of the weights is the sample itself: one matrix product gives the value and all its resamples.
3. An interval is a pair of order statistics of the resampled values (Efron's percentile interval). Order statistics,
   unlike interpolated percentiles, stay defined when some values are infinite ("not reached").

Draws follow from a factor's name and its levels alone. Cells of equal examples so get equal weights, whatever their
basis and method, which is what pairs their differences. Without factors (records of schema 1) examples are resampled.
"""

from __future__ import annotations

import functools
import hashlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int

DRAWS = 1000
LEVEL = 0.95
SEED = 20260122
LEAST_LEVELS = 8
"""Levels that a factor needs before an interval over its resamples is relied on."""
NO_CLUSTERS: Mapping[str, Sequence[int]] = MappingProxyType({})

Weights: TypeAlias = Float[np.ndarray, "row example"]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the statistic of the sample; infinite when a target was not reached, NaN when it is undefined.
        low: lower end of the 95% interval.
        high: upper end; infinite when the target was not reached in more than 2.5% of the resamples.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def few_clusters(clusters: Mapping[str, Sequence[int]]) -> str:
    """Return the factor that has the fewest levels, if these are too few to resample; "" where none has too few.

    Args:
        clusters: levels of each example, by factor.
    """
    levels = {factor: len(set(values)) for factor, values in clusters.items()}
    few = [factor for factor in levels if levels[factor] < LEAST_LEVELS]
    return min(few, key=lambda factor: (levels[factor], factor), default="")


def resample_weights(examples: int, clusters: Mapping[str, Sequence[int]] = NO_CLUSTERS) -> Weights:
    """Return averaging weights, read-only: row 0 is the plain mean, row 1 + d the mean over resample d.

    Args:
        examples: evaluation examples of a cell, at least 1.
        clusters: levels of each example, by factor; without any, each example is its own level.
    """
    key = tuple((factor, tuple(clusters[factor])) for factor in sorted(clusters))
    return _weights(examples, key or (("", tuple(range(examples))),))


@functools.lru_cache(maxsize=64)
def _weights(examples: int, clusters: tuple[tuple[str, tuple[int, ...]], ...]) -> Weights:
    """Multiply the multiplicities of all factors; a resample in which every example weighs 0 is drawn again."""
    factors = []
    for factor, values in clusters:
        names, level = np.unique(np.asarray(values), return_inverse=True)
        seed = int.from_bytes(hashlib.sha256(f"{factor}:{len(names)}".encode()).digest()[:8])
        factors.append((np.random.default_rng([SEED, seed]), len(names), level))
    weights = np.zeros((DRAWS, examples))
    while len(empty := np.flatnonzero(weights.sum(axis=1) == 0)):
        product = np.ones((len(empty), examples))
        for generator, levels, level in factors:
            product *= _multiplicities(generator, levels, len(empty))[:, level]
        weights[empty] = product
    rows = np.concatenate([np.ones((1, examples)), weights])
    rows /= rows.sum(axis=1, keepdims=True)
    rows.setflags(write=False)
    return rows


def _multiplicities(generator: np.random.Generator, levels: int, draws: int) -> Int[np.ndarray, "draw level"]:
    """Draw as many levels as there are, with replacement, and count how often each came."""
    drawn = generator.integers(0, levels, size=(draws, levels)) + np.arange(draws)[:, None] * levels
    return np.bincount(drawn.ravel(), minlength=draws * levels).reshape(draws, levels)


def interval_ends(
    low_rows: Float[np.ndarray, "draw ..."], high_rows: Float[np.ndarray, "draw ..."] | None = None
) -> tuple[Float[np.ndarray, " ..."], Float[np.ndarray, " ..."]]:
    """Return the ends of the 95% percentile interval over the first axis, rounded outward to order statistics.

    Args:
        low_rows: resampled values, or their lower bounds where only bounds are known.
        high_rows: their upper bounds; by default the same values.

    Returns:
        The lower and the upper end, without the first axis; NaN where any value is NaN.
    """
    tail = (1 - LEVEL) / 2
    last = len(low_rows) - 1
    ordered_low = np.sort(low_rows, axis=0)
    ordered_high = ordered_low if high_rows is None else np.sort(high_rows, axis=0)
    low = ordered_low[int(np.floor(last * tail))]
    high = ordered_high[int(np.ceil(last * (1 - tail)))]
    # NumPy sorts NaN to the end, so the last row tells whether there is one.
    undefined = np.isnan(ordered_low[-1]) | np.isnan(ordered_high[-1])
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def estimate_rows(rows: Float[np.ndarray, " row"]) -> Estimate:
    """Sum up one statistic over the rows of `resample_weights`: row 0 is the value, the rest give the interval.

    A value may be a measured size where resamples are interpolated below it; the interval is widened to hold it.
    """
    value = float(rows[0])
    low, high = (float(end) for end in interval_ends(rows[1:]))
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def difference_of_rows(
    a: Float[np.ndarray, " row"], b: Float[np.ndarray, " row"], bound_a: float, bound_b: float
) -> Estimate:
    """Return the difference of two statistics over the same resamples, with its interval.

    Args:
        a: rows of one; infinite where a target is not reached.
        b: rows of the other.
        bound_a: what a's "not reached" is known to exceed.
        bound_b: the same of b.

    Returns:
        Its value is NaN where neither reached the target; the interval is that of the bounds.
    """
    return _of_bounds(operator.sub, a, b, bound_a, bound_b)


def ratio_of_rows(
    a: Float[np.ndarray, " row"], b: Float[np.ndarray, " row"], bound_a: float, bound_b: float
) -> Estimate:
    """Return the ratio of two statistics over the same resamples, as `difference_of_rows` does their difference."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _of_bounds(operator.truediv, a, b, bound_a, bound_b)


def _of_bounds(
    compared: Callable[[Any, Any], Any],
    a: Float[np.ndarray, " row"],
    b: Float[np.ndarray, " row"],
    bound_a: float,
    bound_b: float,
) -> Estimate:
    """Compare two statistics, growing with the first and falling with the second."""
    least_a = np.where(np.isposinf(a), bound_a, a)
    least_b = np.where(np.isposinf(b), bound_b, b)
    low, high = interval_ends(compared(least_a, b)[1:], compared(a, least_b)[1:])
    value = math.nan if math.isinf(a[0]) and math.isinf(b[0]) else float(compared(a[0], b[0]))
    # As in `estimate_rows`; a value that is NaN leaves the ends as they are.
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))
