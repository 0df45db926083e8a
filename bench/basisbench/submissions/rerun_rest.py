"""Compares what else follows from a cell: groups, counts, clusters, gates, divergence, halves, fit, errors, passes.

What is the same on every machine must be; what near ties of scores change may lie a little apart. Seconds and memory
depend on the machine and are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from basisbench.results.record import Record
from basisbench.submissions.rerun_deviation import apart, deviation_of, endpoint_problems
from basisbench.submissions.verification_fields import Tolerance

_COUNTS = 0.01
"""How far node counts may lie apart, relatively: near ties change places."""

_ROUNDING = 1e-5
"""How far a fraction of variance that is nearly 0 may lie apart."""

_COST = 1e-3
_COST_BEFORE = 1.5
"""How far forward-equivalents may lie apart, relatively: from records of this version, and from those of another, which
may charge shared work otherwise (before 0.4.0 what a cell was charged hung on the cells before it, a factor of two)."""


def gate_problems(recorded: Record, found: Record, tolerance: Tolerance, unit: float) -> Iterator[str]:
    """Yield what is wrong with the F(0) that gates are decided on, where it is another one."""
    for name in ("gate_empty", "family_empty"):
        claimed, again = getattr(recorded.endpoints, name), getattr(found.endpoints, name)
        if recorded.schema_version == 1 or (claimed is None and again is None):
            continue
        if claimed is None or again is None:
            yield f"endpoints.{name}: given on one side and null on the other"
            continue
        yield from endpoint_problems(f"endpoints.{name}", deviation_of(claimed, again, tolerance, unit), tolerance)


def other_problems(
    recorded: Record, found: Record, rows: Sequence[int], tolerance: Tolerance, unit: float
) -> Iterator[str]:
    """Yield what else follows from the cell and differs."""
    for index, (group, again) in enumerate(zip(recorded.groups, found.groups, strict=False)):
        claimed, scored = group.scored_nodes, again.scored_nodes
        if claimed is not None and scored is not None and abs(claimed - scored) > _COUNTS * scored:
            yield f"groups[{index}].scored_nodes: {claimed}, the re-run has {scored}"
    for field in _exact_fields(recorded, found):
        if _exact(recorded, field, recorded.schema_version) != _exact(found, field, recorded.schema_version):
            yield f"{field}: differs from the re-run's"
    same_type = recorded.environment.dtype == found.environment.dtype
    if same_type and recorded.cost.dictionary_bytes != found.cost.dictionary_bytes:
        yield f"cost.dictionary_bytes: {recorded.cost.dictionary_bytes}, the re-run has {found.cost.dictionary_bytes}"
    took, said = found.cost.forward_equivalents, recorded.cost.forward_equivalents
    if abs(took - said) > (_COST if recorded.basisbench == found.basisbench else _COST_BEFORE) * said:
        yield f"cost.forward_equivalents: {said:g}, the re-run took {took:g}"
    for name in ("feature_nodes", "error_nodes", "units", "all_units"):
        counts, measured = getattr(recorded.curve, name), np.array(getattr(found.curve, name))
        if counts is not None and (np.abs(np.array(counts)[rows] - measured) > 1.0 + _COUNTS * measured).any():
            yield f"curve.{name}: differs from the re-run's by more than near ties explain"
    if recorded.curve.kl is not None and found.curve.kl is not None:
        deviation = apart([recorded.curve.kl[row] for row in rows], found.curve.kl, 1.0)
        if deviation.max() > tolerance.mean:
            yield f"curve.kl: deviates by {deviation.max():.2g}, more than {tolerance.mean:g}"
    for check, repeated in zip(recorded.subset_checks, found.subset_checks, strict=True):
        deviation = apart(check.draws, repeated.draws, unit)
        if deviation.max() > tolerance.mean:
            yield f"subset_checks: size {check.size} deviates by {deviation.max():.2g}, more than {tolerance.mean:g}"
        # Near ties decide which blocks are taken in, and where blocks are cut.
        searched = apart(check.adversarial or (), repeated.adversarial or (), unit)
        if searched.max(initial=0.0) > tolerance.tied_mean:
            yield (
                f"subset_checks: adversarial halves of size {check.size} deviate by {searched.max():.2g}, more than "
                f"{tolerance.tied_mean:g}"
            )
    if recorded.error_share is not None:  # null in records from before it was measured
        share = math.nan if found.error_share is None else found.error_share
        if not abs(recorded.error_share - share) <= tolerance.score:
            yield f"error_share: {recorded.error_share:g}, the re-run has {share:g}"
    if recorded.training is not None and _of_weights(recorded) != _of_weights(found):
        yield "training: differs from the re-run's"
    if recorded.tuning is not None and recorded.tuning != found.tuning:
        yield "tuning: differs from the re-run's"
    if (recorded.guard is None) != (found.guard is None):
        yield "guard: given on one side and null on the other"
    elif recorded.guard is not None and found.guard is not None:
        for name in ("fvu", "l0", "slope", "loss_recovered"):
            theirs, ours = getattr(recorded.guard, name), getattr(found.guard, name)
            if recorded.schema_version == 1 and theirs is None:
                continue
            if (theirs is None) != (ours is None):
                yield f"guard.{name}: given on one side and null on the other"
            elif ours is not None:
                deviation = np.abs(np.array(ours) - np.array(theirs))
                if (deviation > tolerance.fit * np.abs(ours) + _ROUNDING).any():
                    yield f"guard.{name}: deviates by more than {tolerance.fit:.1%} of the re-run's"


def _of_weights(record: Record) -> object:
    """Return what the dictionaries themselves say of their training; a card need not lie beside everybody's copy."""
    return record.training and record.training.model_copy(update={"text": "", "text_digest": None, "digest": None})


def _exact_fields(recorded: Record, found: Record) -> Iterator[str]:
    """Yield the fields that are the same on every machine."""
    yield from ("groups", "counts")
    if recorded.schema_version > 1:
        yield from ("clusters", "control")
    if recorded.basisbench == found.basisbench:  # the reasons are texts, which versions word as they like
        yield "dropped"


def _exact(record: Record, field: str, schema: int) -> object:
    """Return a field of a record without what near ties change, and without what a schema does not have."""
    value = getattr(record, field)
    if field == "groups":
        hidden = {"scored_nodes": None, **({"tokens": ()} if schema == 1 else {})}
        return tuple(group.model_copy(update=hidden) for group in value)
    return value.model_copy(update={"area_end": None}) if field == "counts" and schema == 1 else value
