"""From per-example metric values to faithfulness, completeness and the numbers that sum a curve up.

1. Average the metric over examples, in the sample and in every resample (`basisbench.results.bootstrap`).
2. Normalise the *means*: faithfulness is (F(C) - F(0)) / (F(M) - F(0)), completeness the same for the complement
   (Marks et al. 2025, arXiv 2403.19647). Ratios of single examples are never averaged: their denominators cross zero.
3. Read summaries off each row: where the curve reaches a target, where it settles, the area under it over log size
   (CPR and CMD of Mueller et al. 2025, arXiv 2504.13151, with the logarithm of the size for an axis).
4. The spread over resamples is the interval.

Between two measured sizes a curve is a straight line in log k; between 0 and 1 nodes, where log k has no value, a
straight line in k. A target that is not reached is infinite, which says "more than all N nodes", not a number.

Degenerate cells: when F(M) does not exceed F(0) in the sample or in any one of the 1,000 resamples (about 3.1 standard
errors of the paired difference), the denominator cannot be told from zero. Nothing is divided then: faithfulness,
completeness and all summaries are NaN, and `Normalised.degenerate` is true.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from basisbench.results.bootstrap import Estimate, estimate_rows, interval_ends, resample_weights


@dataclass(frozen=True)
class Metric:
    """What a number means, said once.

    Attributes:
        name: column name in frames and tables.
        title: short heading.
        direction: whether a lower or a higher value is better.
        unit: unit, "1" for a ratio.
        meaning: one sentence.
    """

    name: str
    title: str
    direction: Literal["lower", "higher"]
    unit: str
    meaning: str


@dataclass(frozen=True, eq=False)
class CurveValues:
    """Raw metric values of one cell, pooled over its aligned groups.

    Attributes:
        sizes: circuit sizes in nodes, increasing, from 0 to `total`.
        total: nodes of the basis at the family's sites, N; of the largest aligned group where groups differ.
        full: metric of the unhooked model, in logits.
        empty: metric with every node and error at its reference.
        circuit: metric of the circuit of each size.
        complement: metric of everything but that circuit.
    """

    sizes: tuple[int, ...]
    total: int
    full: Float[np.ndarray, " example"]
    empty: Float[np.ndarray, " example"]
    circuit: Float[np.ndarray, "example size"]
    complement: Float[np.ndarray, "example size"]

    def __post_init__(self) -> None:
        shape = (len(self.full), len(self.sizes))
        if len(self.full) == 0 or self.empty.shape != self.full.shape:
            raise ValueError("a curve needs at least one example, and F(M) and F(0) for each")
        if self.circuit.shape != shape or self.complement.shape != shape:
            raise ValueError(f"expected values of shape {shape}, got {self.circuit.shape} and {self.complement.shape}")
        if any(b <= a for a, b in itertools.pairwise(self.sizes)):
            raise ValueError("sizes must increase")
        if self.total < 1 or self.sizes[:2] != (0, 1) or self.sizes[-1] != self.total:
            raise ValueError(f"sizes must run 0, 1, ..., {self.total}")


@dataclass(frozen=True, eq=False)
class Normalised:
    """Faithfulness and completeness of a cell; row 0 is the sample, the other rows its resamples.

    Attributes:
        sizes: circuit sizes in nodes.
        total: nodes of the basis, N.
        faithfulness: of the circuit, ideal 1.
        completeness: of its complement, ideal 0.
        degenerate: F(M) cannot be told from F(0); both arrays are NaN.
    """

    sizes: tuple[int, ...]
    total: int
    faithfulness: Float[np.ndarray, "row size"]
    completeness: Float[np.ndarray, "row size"]
    degenerate: bool


def sizes_grid(total_nodes: int) -> tuple[int, ...]:
    """Return the circuit sizes of a curve: 0, then 1, 2, 5, 10, ... below the total, then the total.

    Args:
        total_nodes: nodes of the basis, N, at least 1.
    """
    steps = (factor * 10**power for power in range(len(str(total_nodes))) for factor in (1, 2, 5))
    return (0, *(step for step in steps if step < total_nodes), total_nodes)


def normalise(curve: CurveValues) -> Normalised:
    """Divide mean metric values by the distance from the empty circuit to the full model, per resample."""
    weights = resample_weights(len(curve.full))
    empty = weights @ curve.empty
    gap = weights @ curve.full - empty
    # A gap below float32 noise is no gap, whatever its sign.
    noise = 1e-6 * max(float(np.abs(curve.full).max()), float(np.abs(curve.empty).max()))
    if float(gap.min()) <= noise:
        undefined = np.full((len(weights), len(curve.sizes)), np.nan)
        return Normalised(curve.sizes, curve.total, undefined, undefined, degenerate=True)
    faithfulness = (weights @ curve.circuit - empty[:, None]) / gap[:, None]
    completeness = (weights @ curve.complement - empty[:, None]) / gap[:, None]
    return Normalised(curve.sizes, curve.total, faithfulness, completeness, degenerate=False)


def _crossing(
    sizes: Sequence[int], values: Float[np.ndarray, "row size"], index: np.ndarray, level: np.ndarray
) -> Float[np.ndarray, " row"]:
    """Return where each row meets `level` on the segment that ends at its measured size number `index` (>= 1)."""
    nodes = np.asarray(sizes, dtype=np.float64)
    rows = np.arange(len(values))
    left, right = values[rows, index - 1], values[rows, index]
    fraction = (level - left) / (right - left)
    in_log = nodes[np.maximum(index - 1, 1)] ** (1 - fraction) * nodes[index] ** fraction
    crossing: Float[np.ndarray, " row"] = np.where(index == 1, fraction * nodes[1], in_log)
    return crossing


def nodes_to(
    sizes: Sequence[int], faithfulness: Float[np.ndarray, "row size"], target: float
) -> Float[np.ndarray, " row"]:
    """Return the first number of nodes at which faithfulness reaches a target.

    Between measured sizes k is interpolated in log k, between 0 and 1 in k: a value of 0.4 says that the first node
    alone overshoots the target. 0 when the empty circuit reaches it (possible with errors kept).

    Args:
        sizes: measured sizes, from 0.
        faithfulness: one curve per row.
        target: for example 0.8.

    Returns:
        Nodes per row; infinite where the target is never reached, NaN where faithfulness is undefined.
    """
    reached = faithfulness >= target
    first = reached.argmax(axis=1)
    inside = np.maximum(first, 1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        nodes = _crossing(sizes, faithfulness, inside, np.full(len(faithfulness), target))
    nodes = np.where(first == 0, 0.0, nodes)
    nodes = np.where(reached.any(axis=1), nodes, np.inf)
    return np.where(np.isnan(faithfulness).any(axis=1), np.nan, nodes)


def settled_to(
    sizes: Sequence[int], faithfulness: Float[np.ndarray, "row size"], target: float
) -> Float[np.ndarray, " row"]:
    """Return the first number of nodes from which |F - 1| <= 1 - target holds for every larger size.

    Two-sided: a circuit of faithfulness 1.7 has not settled. Interpolated like `nodes_to`, at the edge of the band
    that the curve crosses last; never smaller than `nodes_to` at the same target.

    Args:
        sizes: measured sizes, from 0.
        faithfulness: one curve per row.
        target: between 0 and 1; 0.9 means within 0.1 of the full model.

    Returns:
        Nodes per row; infinite where even the largest circuit is outside, NaN where faithfulness is undefined.
    """
    outside = (faithfulness < target) | (faithfulness > 2 - target)
    count = faithfulness.shape[1]
    after_last = count - outside[:, ::-1].argmax(axis=1)
    after_last = np.where(outside.any(axis=1), after_last, 0)
    inside = np.clip(after_last, 1, count - 1)
    before = faithfulness[np.arange(len(faithfulness)), inside - 1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        nodes = _crossing(sizes, faithfulness, inside, np.where(before < target, target, 2 - target))
    nodes = np.where(after_last == 0, 0.0, nodes)
    nodes = np.where(after_last == count, np.inf, nodes)
    return np.where(np.isnan(faithfulness).any(axis=1), np.nan, nodes)


def circuit_bits(total: int, nodes: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return the bits it takes to name a circuit of k of N nodes: log2 C(N, k), for real k through lgamma.

    Beyond N/2 the value at N/2 is kept. There C(N, k) falls again, because naming what is left out gets cheaper, and
    a basis that needs all of its nodes would win with 0 bits.

    Args:
        total: nodes of the basis, N.
        nodes: sizes k from 0 to N, or infinite (stays infinite), or NaN.
    """
    gamma = np.frompyfunc(math.lgamma, 1, 1)
    nodes = np.asarray(nodes, dtype=np.float64)
    held = np.where(np.isfinite(nodes), np.minimum(nodes, total / 2), 0.0)
    chosen = np.asarray(gamma(held + 1), dtype=np.float64)
    rest = np.asarray(gamma(total - held + 1), dtype=np.float64)
    bits = np.maximum((math.lgamma(total + 1) - chosen - rest) / math.log(2), 0.0)
    return np.where(np.isfinite(nodes), bits, nodes)


def bits_to(
    sizes: Sequence[int], total: int, faithfulness: Float[np.ndarray, "row size"], target: float
) -> Float[np.ndarray, " row"]:
    """Return `circuit_bits` of `nodes_to`: comparable between bases of different width, where nodes are not."""
    return circuit_bits(total, nodes_to(sizes, faithfulness, target))


def log_area(sizes: Sequence[int], values: Float[np.ndarray, "row size"]) -> Float[np.ndarray, " row"]:
    """Return the trapezoid area of a curve over log10 k from 1 to N, divided by log10 N.

    The x-axis thus has width 1 and the area is a mean over orders of magnitude. Size 0 has no place on it and is left
    out. With N = 1 the axis is a point and the value there is returned.

    Args:
        sizes: measured sizes 0, 1, ..., N.
        values: one curve per row: F for the log form of CPR, |1 - F| for that of CMD.
    """
    x = np.log10(np.asarray(sizes[1:], dtype=np.float64))
    y = values[:, 1:]
    if len(x) == 1:
        return y[:, 0]
    area: Float[np.ndarray, " row"] = (y[:, 1:] + y[:, :-1]) / 2 @ np.diff(x)
    area /= x[-1]
    return area


_METRICS = (
    Metric("nodes_to_80", "nodes to 80%", "lower", "nodes", "first k with faithfulness 0.8"),
    Metric("nodes_to_90", "nodes to 90%", "lower", "nodes", "first k with faithfulness 0.9"),
    Metric("bits_to_80", "bits to 80%", "lower", "bits", "log2 C(N, k) at nodes_to_80"),
    Metric("bits_to_90", "bits to 90%", "lower", "bits", "log2 C(N, k) at nodes_to_90"),
    Metric("settled_to_80", "settled to 80%", "lower", "nodes", "first k from which |F-1| <= 0.2"),
    Metric("settled_to_90", "settled to 90%", "lower", "nodes", "first k from which |F-1| <= 0.1"),
    Metric("area_faithfulness", "area F", "higher", "1", "log-area of F (log form of CPR)"),
    Metric("area_distance", "area |1-F|", "lower", "1", "log-area of |1-F| (log form of CMD)"),
    Metric("area_completeness", "area compl.", "lower", "1", "log-area of completeness"),
    Metric("seconds", "seconds", "lower", "s", "seconds of all phases together"),
    Metric("peak_memory_bytes", "memory", "lower", "bytes", "peak memory of process or device"),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _METRICS}

Statistic = Callable[[Normalised], Float[np.ndarray, " row"]]
STATISTICS: Mapping[str, Statistic] = {
    "nodes_to_80": lambda cell: nodes_to(cell.sizes, cell.faithfulness, 0.8),
    "nodes_to_90": lambda cell: nodes_to(cell.sizes, cell.faithfulness, 0.9),
    "bits_to_80": lambda cell: bits_to(cell.sizes, cell.total, cell.faithfulness, 0.8),
    "bits_to_90": lambda cell: bits_to(cell.sizes, cell.total, cell.faithfulness, 0.9),
    "settled_to_80": lambda cell: settled_to(cell.sizes, cell.faithfulness, 0.8),
    "settled_to_90": lambda cell: settled_to(cell.sizes, cell.faithfulness, 0.9),
    "area_faithfulness": lambda cell: log_area(cell.sizes, cell.faithfulness),
    "area_distance": lambda cell: log_area(cell.sizes, np.abs(1 - cell.faithfulness)),
    "area_completeness": lambda cell: log_area(cell.sizes, cell.completeness),
}


def estimate(cell: Normalised, statistic: str) -> Estimate:
    """Return a statistic of `STATISTICS` with its 95% bootstrap interval."""
    if statistic.startswith("bits_to_"):
        # Bits never fall as nodes rise, so the ends of the one interval give those of the other: 3 values, not 1,001.
        nodes = estimate(cell, statistic.replace("bits", "nodes"))
        value, low, high = circuit_bits(cell.total, np.array([nodes.value, nodes.low, nodes.high])).tolist()
        return Estimate(value=value, low=low, high=high)
    return estimate_rows(STATISTICS[statistic](cell))


def not_reached_bound(total: int, statistic: str) -> float:
    """Return what "not reached" is known to exceed: N nodes, or the most bits that N nodes can take."""
    if METRICS[statistic].unit == "bits":
        return float(circuit_bits(total, np.array(float(total))))
    return float(total) if METRICS[statistic].unit == "nodes" else math.inf


def paired_difference(a: Normalised, b: Normalised, statistic: str) -> Estimate:
    """Return the statistic of `a` minus that of `b`, with its interval over shared resamples.

    Both cells must hold the same examples in the same order; then both saw the same resamples. Where a target is not
    reached, only bounds are known (at least N, possibly infinite); the interval is that of the bounds, so it is never
    narrower than the truth. The value is NaN when neither cell reaches the target.

    Raises:
        ValueError: the two cells were resampled from different numbers of examples.
    """
    rows_a, rows_b = STATISTICS[statistic](a), STATISTICS[statistic](b)
    if len(rows_a) != len(rows_b):
        raise ValueError("a paired difference needs two cells with the same examples")
    least_a = np.where(np.isposinf(rows_a), not_reached_bound(a.total, statistic), rows_a)
    least_b = np.where(np.isposinf(rows_b), not_reached_bound(b.total, statistic), rows_b)
    low, high = interval_ends((least_a - rows_b)[1:], (rows_a - least_b)[1:])
    # Two infinities: neither reached the target, the difference has no value.
    value = math.nan if math.isinf(rows_a[0]) and math.isinf(rows_b[0]) else float(rows_a[0] - rows_b[0])
    return Estimate(value=value, low=float(low), high=float(high))
