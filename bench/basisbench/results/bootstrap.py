"""Intervals by resampling evaluation examples, the same resamples for every cell of a task.

1. Draw example indices with replacement, once per number of examples, from a fixed seed.
2. Turn the indices of each draw into weights, so that a resampled mean is a row of a matrix product.
3. Row 0 of the weights is the sample itself: one product gives the value and all its resamples.
4. An interval is a pair of order statistics of the resampled values (Efron's percentile interval). Order statistics,
   unlike interpolated percentiles, stay defined when some values are infinite ("not reached").

Two cells with the same number of examples get the same weights, which is what pairs their differences.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

DRAWS = 1000
LEVEL = 0.95
SEED = 20260122


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


def resample_indices(examples: int) -> Int[np.ndarray, "draw example"]:
    """Draw example indices with replacement; the same for every cell of so many examples."""
    return np.random.default_rng(SEED).integers(0, examples, size=(DRAWS, examples))


@functools.lru_cache(maxsize=32)
def resample_weights(examples: int) -> Float[np.ndarray, "row example"]:
    """Return averaging weights, read-only: row 0 is the plain mean, row 1 + d the mean over resample d.

    Args:
        examples: evaluation examples of a cell, at least 1.
    """
    indices = resample_indices(examples)
    offsets = np.arange(DRAWS)[:, None] * examples
    counts = np.bincount((indices + offsets).ravel(), minlength=DRAWS * examples).reshape(DRAWS, examples)
    weights = np.concatenate([np.ones((1, examples)), counts]) / examples
    weights.setflags(write=False)
    return weights


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
    """Sum up one statistic over the rows of `resample_weights`: row 0 is the value, the rest give the interval."""
    low, high = interval_ends(rows[1:])
    return Estimate(value=float(rows[0]), low=float(low), high=float(high))
