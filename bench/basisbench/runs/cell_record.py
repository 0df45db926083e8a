"""TODO."""

from __future__ import annotations

import math
from collections.abc import Sequence

from basisbench.circuits.curve import GroupCurve
from basisbench.results.record_fields import Curve, SubsetCheck


def pooled_curve(curves: Sequence[GroupCurve], weights: Sequence[int], sizes: Sequence[int]) -> Curve:
    """Pool the groups: examples stand side by side, node counts are means weighted by evaluation pairs."""

    def mean(name: str) -> tuple[float, ...]:
        columns = zip(*(getattr(curve, name) for curve in curves), strict=True)
        return tuple(
            sum(count * weight for count, weight in zip(column, weights, strict=True)) / sum(weights)
            for column in columns
        )

    def side_by_side(name: str) -> tuple[tuple[float, ...], ...]:
        rows = zip(*(getattr(curve, name) for curve in curves), strict=True)
        return tuple(tuple(value for part in row for value in part) for row in rows)

    divergence = [mean_of(row) for row in side_by_side("divergence")] if curves[0].divergence is not None else None
    return Curve(
        sizes=tuple(sizes),
        feature_nodes=mean("feature_nodes"),
        error_nodes=mean("error_nodes"),
        units=mean("units"),
        circuit=side_by_side("circuit"),
        complement=side_by_side("complement"),
        kl=None if divergence is None else tuple(divergence),
    )


def pooled_subset_checks(curves: Sequence[GroupCurve], sizes: Sequence[int]) -> tuple[SubsetCheck, ...]:
    """Pool the random halves of all groups: for each size and draw, the mean metric over all examples."""
    checks = []
    for index, size in enumerate(sizes):
        draws = zip(*(curve.halves[index] for curve in curves), strict=True)
        checks.append(
            SubsetCheck(size=size, draws=tuple(mean_of([value for part in draw for value in part]) for draw in draws))
        )
    return tuple(checks)


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of the values."""
    return math.fsum(values) / len(values)
