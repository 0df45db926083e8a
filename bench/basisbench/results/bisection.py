"""Which circuit sizes are measured between those of the grid: bisection where a curve first reaches a threshold.

1. Measure the sizes of the grid (`metrics.sizes_grid`).
2. For each threshold, take the smallest measured size whose faithfulness reaches it, and the measured size before it.
   Where these are more than one node and more than 5% apart, measure their geometric mean too.
3. Again, until nothing is left to measure.

Two neighbours of the grid are at most a factor of 2.5 apart, so five sizes are enough for a threshold. A curve need not
rise everywhere: between the last two sizes of a threshold it is reached, a smaller size that nobody measured may reach
it too. What is measured next follows from what a record holds, so that a reader can tell whether sizes were added, left
out or chosen (`basisbench.submissions.invariants`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

THRESHOLDS = (0.8, 0.9)
"""Values of faithfulness whose first sizes are looked for."""

KNOWN_TO = 0.05
"""How far apart, relatively, the smallest size that reaches a threshold and the measured one before it may be."""

MOST_ADDED = 20
"""Sizes of a curve besides those of the grid; more are never needed."""


def next_sizes(faithfulness: Mapping[int, float]) -> tuple[int, ...]:
    """Return the sizes to measure next, increasing; none where every threshold is known.

    Args:
        faithfulness: measured size to its faithfulness (`faithfulness_of`), the whole grid among them.
    """
    sizes = sorted(faithfulness)
    wanted = set()
    for threshold in THRESHOLDS:
        place = next((place for place, size in enumerate(sizes) if faithfulness[size] >= threshold), 0)
        before, first = sizes[max(place - 1, 0)], sizes[place]
        if first - before > 1 and first > (1 + KNOWN_TO) * before:
            wanted.add(round(math.sqrt(before * first)))
    return tuple(sorted(wanted))


def faithfulness_of(values: Sequence[float], full: Sequence[float], empty: Sequence[float]) -> float:
    """Return the faithfulness of a circuit: its mean metric, on the way from F(0) to F(M).

    Sums are exact and numbers are those that a record holds, of five digits: on every machine the same sizes follow.

    Args:
        values: metric of the circuit, per example.
        full: F(M).
        empty: F(0).

    Returns:
        The faithfulness; minus infinity where F(M) is not above F(0), for then no threshold is reached.
    """
    lowest = math.fsum(empty)
    gap = math.fsum(full) - lowest
    return (math.fsum(values) - lowest) / gap if gap > 0 else -math.inf
