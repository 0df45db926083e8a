"""Areas under curves: over log k to one end for all bases of a family, and over the share of nodes as MIB has them.

Both are means of measured values with fixed weights per size, so a row of resamples is a row of a matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of nodes at which MIB measures (Mueller et al. 2025, arXiv 2504.13151, section 3.1; in its published code
`evaluate_area_under_curve`, MIB_circuit_track/evaluation.py)."""


def log_area(
    sizes: Sequence[int], values: Float[np.ndarray, "row size"], *, end: int | None = None, scored: int | None = None
) -> Float[np.ndarray, " row"]:
    """Return the mean of a curve over log k from 1 to `end`: its trapezoid area divided by the length of the axis.

    The end is the same for all bases of a family, so neither a wide basis nor a narrow one gains by its width. Beyond
    the last measured size, and beyond the nodes that have a score, the last value holds; a curve that runs past the end
    is cut there. Size 0 has no place on the axis.

    Args:
        sizes: measured sizes 0, 1, ..., N.
        values: one curve per row: F for the log form of CPR, |1 - F| for that of CMD. A column of NaN was not measured,
            and is left out.
        end: where the axis ends, at least 1; by default N.
        scored: nodes that have a score; by default all.

    Returns:
        Areas per row; NaN where the curve is undefined.
    """
    end = sizes[-1] if end is None else end
    nodes = np.asarray(sizes)
    measured = np.flatnonzero(~np.isnan(values[0]) & (nodes <= (nodes[-1] if scored is None else scored)))
    if not len(measured) or measured[-1] == 0:  # undefined, or no node has a score
        start: Float[np.ndarray, " row"] = values[:, 0]
        return start
    measured = measured[measured > 0]
    x, y = np.log(nodes[measured]), values[:, measured]
    area: Float[np.ndarray, " row"] = y @ _log_weights(x, math.log(end))
    return area


def _log_weights(x: Float[np.ndarray, " point"], end: float) -> Float[np.ndarray, " point"]:
    """Return what each point weighs in the mean over [x[0], end] of the line through all, flat after the last."""
    grid = np.append(x[x < end], end)
    # Rows of `at` give the line's value at the grid's points from the values at x.
    at = np.stack([np.interp(grid, x, unit) for unit in np.eye(len(x))], axis=1)
    steps = np.diff(grid)
    weights: Float[np.ndarray, " point"] = at[0] if end <= x[0] else (at[1:] + at[:-1]).T @ steps / (2 * steps.sum())
    return weights


def share_area(
    sizes: Sequence[int], faithfulness: Float[np.ndarray, "row size"], *, distance: bool = False
) -> Float[np.ndarray, " row"]:
    """Return MIB's CPR, the trapezoid area of F over the share of nodes, or its CMD, that of |1 - F|.

    At each of `SHARES` the circuit has int(share N) nodes, as in MIB, where F is interpolated in log k between measured
    sizes instead of measured. As there, the axis begins at 0.001 and the area is not divided by its length; half of
    it is the segment from half of the nodes to all.

    Args:
        sizes: measured sizes 0, 1, ..., N.
        faithfulness: one curve per row.
        distance: CMD instead of CPR.
    """
    kept = [int(share * sizes[-1]) for share in SHARES]
    # 0 stands one e-fold left of 1, which no whole number lies between.
    x, points = (np.array([math.log(size) if size else -1.0 for size in row]) for row in (sizes, kept))
    at = np.stack([np.interp(points, x, unit) for unit in np.eye(len(x))])
    values = faithfulness @ at
    values = np.abs(1 - values) if distance else values
    area: Float[np.ndarray, " row"] = (values[:, 1:] + values[:, :-1]) / 2 @ np.diff(SHARES)
    return area
