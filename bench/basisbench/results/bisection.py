"""Which circuit sizes are measured between those of the grid: bisection where a curve first reaches a threshold.

1. Measure the sizes of the grid: 1-2-5 steps, the most scored nodes, all nodes.
2. Take the smallest measured size whose faithfulness reaches the threshold, and the measured size before it. Where they
   are more than one node and more than 5% apart, measure their geometric mean too.
3. Again, until nothing is left to measure for any threshold. What is first reached by nodes without a score, which come
   in a random order, is not looked for.

Two neighbours of the grid are at most a factor of 2.5 apart, so five sizes are enough for a threshold. A curve need not
rise everywhere: a smaller size that nobody measured may reach the threshold too.

What is measured next follows from what a record holds, so that a reader can tell whether sizes were left out or chosen
(`basisbench.submissions.invariants_of_sizes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from basisbench.results.metrics import sizes_grid
from basisbench.results.record import Record

THRESHOLDS = (0.8, 0.9)
"""Faithfulness whose first crossing is bisected: what tables show the nodes to."""

PRECISION = 0.05
"""How far apart, relative to the smaller, the two sizes around a crossing may be in the end."""


def next_sizes(faithfulness: Mapping[int, float], scored: int) -> tuple[int, ...]:
    """Return the sizes to measure next, one for each crossing that is not known well enough.

    They are measured together: on a small model several circuits to a pass take hardly longer than one.

    Args:
        faithfulness: measured size to its faithfulness (`faithfulness_of`), the whole grid among them.
        scored: the largest size at which the order of nodes is not random.
    """
    sizes = sorted(faithfulness)
    wanted: list[int] = []
    for threshold in THRESHOLDS:
        place = first_reaching([faithfulness[size] for size in sizes], threshold) or 0
        before, first = sizes[max(place - 1, 0)], sizes[place]
        if first <= scored and first - before > 1 and first > (1 + PRECISION) * before:
            wanted.append(round(math.sqrt(before * first)))
    return tuple(sorted(set(wanted)))


def bisected(
    sizes: Sequence[int], scored: int, faithfulness: Callable[[Sequence[int]], Mapping[int, float]]
) -> tuple[int, ...]:
    """Return the sizes of a curve: those of the grid, and those that are measured where it reaches a threshold.

    Args:
        sizes: the grid.
        scored: the largest size at which the order of nodes is not random.
        faithfulness: measures some sizes, and returns the faithfulness of each.
    """
    values = dict(faithfulness(sizes))
    while more := next_sizes(values, scored):
        values |= faithfulness(more)
    return tuple(sorted(values))


def first_reaching(faithfulness: Sequence[float], threshold: float) -> int | None:
    """Return the place of the first value that reaches a threshold; None where none does."""
    return next((place for place, value in enumerate(faithfulness) if value >= threshold), None)


def faithfulness_of(values: Sequence[float], full: Sequence[float], empty: Sequence[float]) -> float:
    """Return the faithfulness of a circuit: its mean metric, on the way from F(0) to F(M).

    Numbers are those that a record holds, of five digits, and sums are exact: the same sizes follow on every machine.

    Args:
        values: metric of the circuit, per example.
        full: F(M).
        empty: F(0).

    Returns:
        The faithfulness; minus infinity where F(M) equals F(0), for then no threshold is reached.
    """
    lowest = math.fsum(empty)
    gap = math.fsum(full) - lowest
    return (math.fsum(values) - lowest) / gap if gap else -math.inf


def grid_sizes(nodes: int, scored: int) -> tuple[int, ...]:
    """Return the sizes that every curve has: 1-2-5 steps, the most scored nodes, and all nodes of the largest group."""
    return tuple(sorted({*sizes_grid(nodes), scored}))


def most_scored(groups: Iterable[tuple[int, int | None]]) -> int:
    """Return the circuit size up to which scores fix the order of nodes in every aligned group.

    A group whose nodes all have a score bounds nothing, however small it is: it has nothing else to add.

    Args:
        groups: of each group the nodes, and those of them that have a score; None where that is not known.
    """
    known = list(groups)
    bounds = [scored for nodes, scored in known if scored is not None and scored < nodes]
    return min(bounds, default=max(nodes for nodes, _ in known))


def scored_nodes(record: Record) -> int:
    """Return `most_scored` of a record's groups: all nodes in records of schema 1."""
    return most_scored((group.nodes, group.scored_nodes) for group in record.groups)
