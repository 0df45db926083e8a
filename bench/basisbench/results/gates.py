"""Whether a cell has something to explain, and whether its basis may be marked as best.

1. The model must know the task: an accuracy of at least 0.75.
2. The family must matter to it: the gap F(M) - F(0) is at least 20% of |F(M)|, and more than two of its standard
   errors. A family that is restricted to some layers holds a part of its gap only: there the errors alone count.

F(0) is taken at the family's outputs, so all bases of a family pass or fail together. Standard errors are those of the
paired differences, with clusters: the spread of their mean over the resamples. A cell below a gate is shown with its
values, and is left out of medians and best marks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from basisbench.results.bootstrap import few_clusters, resample_weights
from basisbench.results.record import Record

LEAST_ACCURACY = 0.75
LEAST_SHARE = 0.2
STANDARD_ERRORS = 2.0
WORST_FVU = 1.0
LEAST_SLOPE, LARGEST_SLOPE = 0.95, 1.25
"""Calibration slopes of a dictionary that may be marked: an L1 penalty shrinks what a sound one writes (Gated SAEs,
arXiv 2404.16014), so it may write too little by a fifth, and too much by a twentieth."""
CHEAP_ERRORS = {"node": "errors cost one node", "keep": "errors are free"}
"""Policies under which a dictionary is paid for what it leaves out: one that explains nothing wins every column."""


@dataclass(frozen=True)
class Gate:
    """What there is to explain in a cell.

    Attributes:
        reason: why the cell is below a gate, in a few words; "" where it is not.
        gap: F(M) - F(0) at the family's outputs, in logits.
        standard_error: of the gap.
        share: the gap over |F(M)|.
        family_share: the gap over that of the family in all layers; NaN where layers are not restricted.
    """

    reason: str
    gap: float
    standard_error: float
    share: float
    family_share: float


def gate_of(record: Record) -> Gate:
    """Decide the gates of a cell."""
    ends = record.endpoints
    full, empty = np.array(ends.full), np.array(ends.empty if ends.gate_empty is None else ends.gate_empty)
    whole = record.cell.layers is None
    gate = judge(full, empty, ends.accuracy, record.clusters, whole=whole)
    family = float("nan") if ends.family_empty is None else gate.gap / (float(full.mean()) - ends.family_empty)
    return replace(gate, family_share=family)


def judge(
    full: Float[np.ndarray, " pair"],
    empty: Float[np.ndarray, " pair"],
    accuracy: float,
    clusters: Mapping[str, Sequence[int]],
    *,
    whole: bool = True,
) -> Gate:
    """Decide the gates of a family.

    Args:
        full: F(M) of each example.
        empty: F(0) at the family's outputs.
        accuracy: of the model.
        clusters: levels of each example, by factor.
        whole: whether the family is in all layers.
    """
    rows = resample_weights(len(full), clusters) @ (full - empty)
    gap, error, level = float(rows[0]), float(rows[1:].std()), float(full.mean())
    share = gap / abs(level) if level else float("nan")
    reasons = []
    if accuracy < LEAST_ACCURACY:
        reasons.append(f"accuracy {accuracy:.2f} < {LEAST_ACCURACY:g}")
    if whole and gap < LEAST_SHARE * abs(level):
        reasons.append(f"gap {100 * share:.3g}% of F(M) < {LEAST_SHARE:.0%}")
    if gap <= STANDARD_ERRORS * error:
        reasons.append(f"gap not above {STANDARD_ERRORS:g} standard errors")
    return Gate("; ".join(reasons), gap, error, share, float("nan"))


def no_mark(record: Record, gate: Gate) -> str:
    """Return why a cell gets no best mark, in a few words; "" where it may get one.

    The first of these: it is below a gate, it is a control, its dictionary's errors cost next to nothing under the
    error policy, the dictionary fits no better than the mean activation in some layer, or writes too much or
    far too little in some layer, or a cluster factor has too few levels.
    """
    if gate.reason:
        return gate.reason
    return unfit(record) or clustered(record)


def unfit(record: Record) -> str:
    """Return why the basis of a cell gets no best mark on any task; "" where it may get one."""
    guard = record.guard
    if record.control:
        return "control"
    if guard is None:
        return ""
    if record.cell.error_policy in CHEAP_ERRORS:
        return CHEAP_ERRORS[record.cell.error_policy]
    if max(guard.fvu) >= WORST_FVU:
        return f"FVU {max(guard.fvu):.2f} in a layer"
    for slope in guard.slope or ():
        if not LEAST_SLOPE <= slope <= LARGEST_SLOPE:
            return f"calibration slope {slope:.2f} in a layer"
    return ""


def clustered(record: Record) -> str:
    """Return which cluster factor has too few levels for the interval to be relied on; "" where none has."""
    factor = few_clusters(record.clusters)
    return factor and f"{factor} has {len(set(record.clusters[factor]))} levels"
