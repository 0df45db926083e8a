"""Compares what tables show of a record with what they would show of its re-run: whatever was altered, this is why.

1. The values of the re-run are put in the place of the record's, at the sizes that were evaluated again.
2. Every statistic of a curve is computed from both, at the same sizes. A threshold is one measured size or another:
   a value that was moved across it by a hair moves the statistic by decades, however narrow the tolerance of values.
3. So are the ends of its interval, which examples decide that no mean shows: values that were drawn together narrow it.
4. The gates, and whether the basis may be marked as best, are decided on both.

An honest record that is run again on another machine fails only where rounding carries a curve across a threshold by
more than a step of bisection: where its faithfulness lies within some 0.00001 of one, as one size in 20,000 does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from basisbench.results.bootstrap import LEVEL, interval_ends
from basisbench.results.columns import normalised
from basisbench.results.gates import gate_of, unfit
from basisbench.results.metrics import METRICS, statistics_of
from basisbench.results.record import Record
from basisbench.submissions.verification_fields import Tolerance

_LEAST_AREA = 0.1
"""An area below this may lie apart by as much as one of this size."""

_RANKS = 5
"""How many places among the 1,000 resamples an end may have moved: rounding carries some across a threshold."""

_Row = TypeVar("_Row")


def summary_problems(recorded: Record, found: Record, tolerance: Tolerance) -> Iterator[str]:
    """Yield every number or verdict of a table that the re-run does not bear out.

    Args:
        recorded: what was claimed.
        found: the re-run, at some of the record's sizes and on as many examples.
        tolerance: how far summaries may lie apart.
    """
    merged = _merged(recorded, found)
    ours, theirs = (statistics_of(normalised(record)) for record in (recorded, merged))
    for name in ours:
        claimed, again = float(ours[name][0]), float(theirs[name][0])
        least = 0.0 if METRICS[name].unit in ("nodes", "bits") else _LEAST_AREA
        if not _agree(claimed, again, tolerance.summary, least):
            yield f"{name}: the record gives {claimed:.5g}, the re-run {again:.5g}"
        ends = interval_ends(ours[name][1:])
        for end, claimed, around in zip(("low", "high"), map(float, ends), _around_ends(theirs[name][1:]), strict=True):
            inside = around[0] <= claimed <= around[-1]
            near = any(_agree(claimed, edge, tolerance.summary, least) for edge in (around[0], around[-1]))
            if not inside and not near:
                yield f"{name}: the {end} end of the interval is {claimed:.5g}, in the re-run {around[_RANKS]:.5g}"
    for what, verdicts in (
        ("gates", [gate_of(record).reason for record in (recorded, merged)]),
        ("best marks", [unfit(record) for record in (recorded, merged)]),
    ):
        if bool(verdicts[0]) != bool(verdicts[1]):
            yield f"{what}: the record says '{verdicts[0] or 'passed'}', the re-run '{verdicts[1] or 'passed'}'"


def _around_ends(rows: Float[np.ndarray, " draw"]) -> tuple[list[float], list[float]]:
    """Return the resampled values next to the lower and to the upper end of an interval, in order."""
    ordered = np.sort(rows)
    tail = round((len(rows) - 1) * (1 - LEVEL) / 2)
    low, high = tail, len(rows) - 1 - tail
    return ordered[low - _RANKS : low + _RANKS + 1].tolist(), ordered[high - _RANKS : high + _RANKS + 1].tolist()


def _agree(claimed: float, again: float, share: float, least: float) -> bool:
    if not (math.isfinite(claimed) and math.isfinite(again)):
        return claimed == again or (math.isnan(claimed) and math.isnan(again))
    # Where 21 stands for 20, the difference is 5% but for rounding.
    return abs(claimed - again) <= share * max(abs(again), least) * (1 + 1e-9)


def _merged(recorded: Record, found: Record) -> Record:
    """Return what was found, with the record's values at the sizes that were not evaluated again."""
    rows = {size: row for row, size in enumerate(found.curve.sizes)}

    def taken(ours: Sequence[_Row], again: Sequence[_Row]) -> tuple[_Row, ...]:
        pairs = zip(recorded.curve.sizes, ours, strict=True)
        return tuple(again[rows[size]] if size in rows else row for size, row in pairs)

    update = {
        name: taken(getattr(recorded.curve, name), getattr(found.curve, name)) for name in ("circuit", "complement")
    }
    curve = recorded.curve.model_copy(update=update)
    return found.model_copy(update={"cell": recorded.cell, "curve": curve})
