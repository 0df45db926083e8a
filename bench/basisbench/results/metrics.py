"""From per-example metric values to faithfulness, completeness and the numbers that sum a curve up.

1. Average the metric over examples, in the sample and in every resample (`basisbench.results.bootstrap`).
2. Normalise the *means*: faithfulness is (F(C) - F(0)) / (F(M) - F(0)), completeness the same for the complement
   (Marks et al. 2025, arXiv 2403.19647: `get_fcs` in the code, experiments/faithfulness.ipynb). Ratios of single
   examples are never averaged: their denominators cross zero.
3. Read summaries off each row: where the curve reaches a target, where it settles, areas under it
   (`basisbench.results.areas`).
4. The spread over resamples is the interval.

The value of a threshold is a size that was measured. In resamples a curve is a straight line in log k between two
measured sizes; between 0 and 1 nodes, where log k has no value, a straight line in k. As all that is known of a
crossing is the bracket that holds it, an interval is widened where need be to hold its value.

Nodes without a score are ranked in a random order, which is no property of the method: a threshold that is first
reached with them is not reached. What is not reached is infinite: "more than all scored nodes", not a number.

Where F(M) equals F(0) nothing is divided: faithfulness, completeness and all summaries are NaN, and
`Normalised.degenerate` is true. Whether a gap is too small to say anything is for `basisbench.results.gates`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from basisbench.results.areas import log_area, share_area
from basisbench.results.bootstrap import Estimate, Weights, difference_of_rows, estimate_rows, resample_weights


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
        complement: metric of everything but that circuit; NaN at sizes where it was not measured.
        scored: nodes that have a score, the fewest of all aligned groups; by default all.
        area_end: size at which areas over log k end, the same for all bases of a family; by default all nodes.
    """

    sizes: tuple[int, ...]
    total: int
    full: Float[np.ndarray, " example"]
    empty: Float[np.ndarray, " example"]
    circuit: Float[np.ndarray, "example size"]
    complement: Float[np.ndarray, "example size"]
    scored: int | None = None
    area_end: int | None = None

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
        completeness: of its complement, ideal 0; NaN at sizes where it was not measured.
        degenerate: F(M) equals F(0); both arrays are NaN.
        scored: nodes that have a score; what is first reached beyond is not reached.
        area_end: size at which areas over log k end.
    """

    sizes: tuple[int, ...]
    total: int
    faithfulness: Float[np.ndarray, "row size"]
    completeness: Float[np.ndarray, "row size"]
    degenerate: bool
    scored: int
    area_end: int


def sizes_grid(total_nodes: int) -> tuple[int, ...]:
    """Return the circuit sizes of a curve: 0, then 1, 2, 5, 10, ... below the total, then the total.

    Args:
        total_nodes: nodes of the basis, N, at least 1.
    """
    steps = (factor * 10**power for power in range(len(str(total_nodes))) for factor in (1, 2, 5))
    return (0, *(step for step in steps if step < total_nodes), total_nodes)


def normalise(curve: CurveValues, weights: Weights | None = None) -> Normalised:
    """Divide mean metric values by the distance from the empty circuit to the full model, per resample.

    Args:
        curve: what was measured.
        weights: of examples, per resample; by default those of a task without clusters.
    """
    weights = resample_weights(len(curve.full)) if weights is None else weights
    empty = weights @ curve.empty
    gap = weights @ curve.full - empty
    # A gap below float32 noise is no gap, whatever its sign.
    noise = 1e-6 * max(float(np.abs(curve.full).max()), float(np.abs(curve.empty).max()))
    gap = np.where(np.abs(gap) > noise, gap, np.nan)
    if degenerate := bool(np.isnan(gap[0])):
        gap[:] = np.nan
    return Normalised(
        sizes=curve.sizes,
        total=curve.total,
        faithfulness=(weights @ curve.circuit - empty[:, None]) / gap[:, None],
        completeness=(weights @ curve.complement - empty[:, None]) / gap[:, None],
        degenerate=degenerate,
        scored=curve.total if curve.scored is None else curve.scored,
        area_end=curve.area_end or curve.total,
    )


def _crossing(
    sizes: Sequence[int], values: Float[np.ndarray, "row size"], index: np.ndarray, level: np.ndarray, scored: int
) -> Float[np.ndarray, " row"]:
    """Return where each row meets `level` on the segment that ends at its measured size number `index`.

    Row 0, the sample, gets that measured size itself. Index 0 is 0 nodes; a size beyond the scored nodes is infinite.
    """
    nodes = np.asarray(sizes, dtype=np.float64)
    rows = np.arange(len(values))
    inside = np.maximum(index, 1)
    left, right = values[rows, inside - 1], values[rows, inside]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        fraction = (level - left) / (right - left)
        in_log = nodes[np.maximum(inside - 1, 1)] ** (1 - fraction) * nodes[inside] ** fraction
    crossing: Float[np.ndarray, " row"] = np.where(index <= 1, np.where(index == 0, 0.0, fraction), in_log)
    crossing[0] = nodes[index[0]]
    crossing[nodes[index] > scored] = np.inf
    return crossing


def nodes_to(
    sizes: Sequence[int], faithfulness: Float[np.ndarray, "row size"], target: float, *, scored: int | None = None
) -> Float[np.ndarray, " row"]:
    """Return the smallest number of nodes that was measured at or above a target faithfulness.

    A curve need not be monotone: it may fall below the target again (`settled_to` says where it stays). 0 when the
    empty circuit reaches the target (possible with errors kept).

    Args:
        sizes: measured sizes, from 0.
        faithfulness: one curve per row; in all rows but the first, k is interpolated in log k below the measured size
            (between 0 and 1 in k).
        target: for example 0.8.
        scored: nodes that have a score; by default all.

    Returns:
        Nodes per row; infinite where the target is not reached by scored nodes, NaN where faithfulness is undefined.
    """
    reached = faithfulness >= target
    level = np.full(len(faithfulness), target)
    nodes = _crossing(sizes, faithfulness, reached.argmax(axis=1), level, sizes[-1] if scored is None else scored)
    nodes = np.where(reached.any(axis=1), nodes, np.inf)
    return np.where(np.isnan(faithfulness).any(axis=1), np.nan, nodes)


def settled_to(
    sizes: Sequence[int], faithfulness: Float[np.ndarray, "row size"], target: float, *, scored: int | None = None
) -> Float[np.ndarray, " row"]:
    """Return the smallest measured size from which |F - 1| <= 1 - target holds at every larger one.

    Two-sided: a circuit of faithfulness 1.7 has not settled. Interpolated in resamples like `nodes_to`, at the edge of
    the band that the curve crosses last; never smaller than `nodes_to` at the same target.

    Args:
        sizes: measured sizes, from 0.
        faithfulness: one curve per row.
        target: between 0 and 1; 0.9 means within 0.1 of the full model.
        scored: nodes that have a score; by default all.

    Returns:
        Nodes per row; infinite where even the largest circuit is outside or the scored ones are, NaN where faithfulness
        is undefined.
    """
    outside = (faithfulness < target) | (faithfulness > 2 - target)
    count = faithfulness.shape[1]
    after_last = np.where(outside.any(axis=1), count - outside[:, ::-1].argmax(axis=1), 0)
    inside = np.minimum(after_last, count - 1)
    before = faithfulness[np.arange(len(faithfulness)), np.maximum(inside, 1) - 1]
    level = np.where(before < target, target, 2 - target)
    nodes = _crossing(sizes, faithfulness, inside, level, sizes[-1] if scored is None else scored)
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


_METRICS = (
    Metric("nodes_to_80", "nodes to 80%", "lower", "nodes", "smallest measured k with faithfulness 0.8"),
    Metric("nodes_to_90", "nodes to 90%", "lower", "nodes", "smallest measured k with faithfulness 0.9"),
    Metric("bits_to_80", "bits to 80%", "lower", "bits", "log2 C(N, k) at nodes_to_80"),
    Metric("bits_to_90", "bits to 90%", "lower", "bits", "log2 C(N, k) at nodes_to_90"),
    Metric("settled_to_80", "settled to 80%", "lower", "nodes", "smallest measured k from which |F-1| <= 0.2"),
    Metric("settled_to_90", "settled to 90%", "lower", "nodes", "smallest measured k from which |F-1| <= 0.1"),
    Metric("area_faithfulness", "area F", "higher", "1", "mean of F over log k, to one end per family"),
    Metric("area_distance", "area |1-F|", "lower", "1", "mean of |1-F| over log k, to one end per family"),
    Metric("area_completeness", "area compl.", "lower", "1", "mean of completeness over log k, to one end per family"),
    Metric("cpr", "CPR", "higher", "1", "area of F over the share of nodes, MIB's grid of shares"),
    Metric("cmd", "CMD", "lower", "1", "area of |1-F| over the share of nodes, MIB's grid of shares"),
    Metric("seconds", "seconds", "lower", "s", "seconds of all phases together"),
    Metric("peak_memory_bytes", "memory", "lower", "bytes", "peak memory of process or device"),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _METRICS}

Statistic = Callable[[Normalised], Float[np.ndarray, " row"]]


def _area(cell: Normalised, values: Float[np.ndarray, "row size"]) -> Float[np.ndarray, " row"]:
    return log_area(cell.sizes, values, end=cell.area_end, scored=cell.scored)


STATISTICS: Mapping[str, Statistic] = {
    "nodes_to_80": lambda cell: nodes_to(cell.sizes, cell.faithfulness, 0.8, scored=cell.scored),
    "nodes_to_90": lambda cell: nodes_to(cell.sizes, cell.faithfulness, 0.9, scored=cell.scored),
    "bits_to_80": lambda cell: circuit_bits(cell.total, STATISTICS["nodes_to_80"](cell)),
    "bits_to_90": lambda cell: circuit_bits(cell.total, STATISTICS["nodes_to_90"](cell)),
    "settled_to_80": lambda cell: settled_to(cell.sizes, cell.faithfulness, 0.8, scored=cell.scored),
    "settled_to_90": lambda cell: settled_to(cell.sizes, cell.faithfulness, 0.9, scored=cell.scored),
    "area_faithfulness": lambda cell: _area(cell, cell.faithfulness),
    "area_distance": lambda cell: _area(cell, np.abs(1 - cell.faithfulness)),
    "area_completeness": lambda cell: _area(cell, cell.completeness),
    "cpr": lambda cell: share_area(cell.sizes, cell.faithfulness),
    "cmd": lambda cell: share_area(cell.sizes, cell.faithfulness, distance=True),
}


def statistics_of(cell: Normalised) -> dict[str, Float[np.ndarray, " row"]]:
    """Return every statistic of `STATISTICS`: its value in row 0, then in every resample."""
    rows = {name: statistic(cell) for name, statistic in STATISTICS.items() if not name.startswith("bits_to_")}
    for target in ("80", "90"):
        rows[f"bits_to_{target}"] = circuit_bits(cell.total, rows[f"nodes_to_{target}"])
    return {name: rows[name] for name in STATISTICS}


def estimate(cell: Normalised, statistic: str) -> Estimate:
    """Return a statistic of `STATISTICS` with its 95% bootstrap interval."""
    return estimate_rows(STATISTICS[statistic](cell))


def not_reached_bound(scored: int, statistic: str, total: int | None = None) -> float:
    """Return what "not reached" is known to exceed: the scored nodes, or the most bits that they can take.

    Args:
        scored: nodes that have a score.
        statistic: a key of `METRICS`.
        total: nodes of the basis, N; by default `scored`.
    """
    if METRICS[statistic].unit == "bits":
        return float(circuit_bits(scored if total is None else total, np.array(float(scored))))
    return float(scored) if METRICS[statistic].unit == "nodes" else math.inf


def paired_difference(a: Normalised, b: Normalised, statistic: str) -> Estimate:
    """Return the statistic of `a` minus that of `b`, with its interval over shared resamples.

    Both cells must hold the same examples in the same order; then both saw the same resamples. Where a target is not
    reached, only bounds are known (at least all scored nodes, possibly infinite); the interval is that of the bounds,
    so it is never narrower than the truth. The value is NaN when neither cell reaches the target.

    Raises:
        ValueError: the two cells were resampled from different numbers of examples.
    """
    rows_a, rows_b = STATISTICS[statistic](a), STATISTICS[statistic](b)
    if len(rows_a) != len(rows_b):
        raise ValueError("a paired difference needs two cells with the same examples")
    bounds = (not_reached_bound(cell.scored, statistic, cell.total) for cell in (a, b))
    return difference_of_rows(rows_a, rows_b, *bounds)
