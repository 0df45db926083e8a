"""Checks the invariants of a record: how its numbers hang together, beyond what its fields say alone.

1. Counts follow from groups, positions, units, error policy and granularity, sizes from the curve
   (`invariants_of_sizes`).
2. A circuit of size k has k nodes in every group that has so many, and all of a smaller one. Node counts never fall.
3. A circuit of no nodes is F(0), one of all nodes F(M), the complement the other way round, example by example and
   group by group: everywhere where the error policy makes that so.
4. Random halves of a complement that is empty change nothing, and the divergence from itself is zero.
5. What statistics are made of is there and hangs together (`invariants_of_statistics`).
6. Top nodes lie in the space of nodes and stand in the order of their scores.
7. Costs are above what any machine needs for the same work, and below what any has.

What a run decided by measuring, between the two ends of a curve, no rule can tell: `basisbench verify` runs it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np
from jaxtyping import Float

from basisbench.results.record import Record
from basisbench.results.record_fields import Group, TopNode
from basisbench.submissions.invariants_of_sizes import violations_of_sizes
from basisbench.submissions.invariants_of_statistics import ROUNDING, violations_of_statistics
from basisbench.types import WITHOUT_ERROR_NODES

TOLERANCE = {"float32": 1e-3, "float64": 1e-3}
"""How far two values of one F(M) or F(0) may lie apart, by dtype of the model's weights: in logits where they are below
1, else relative. One machine gives the same digits; another processor, thread count or device rounds otherwise."""

NARROW_TOLERANCE = 5e-2
"""The same for weights of any other dtype, such as bfloat16."""

LARGEST_LOGIT = 1e6
"""No metric is further from zero; models' logits stay below a thousand."""

SHORTEST_CURVE = 1e-4
"""Seconds. A curve takes at least one pass through a model; started from Python, that takes milliseconds."""

SHORTEST_PROMPT = 1e-8
"""Seconds that a circuit takes on one example. Two CPU cores take 10 microseconds and more on a model of a million
parameters; a device that is a hundred times as fast takes a hundred nanoseconds."""

YEAR = 3.2e7
"""Seconds; no phase of a cell takes longer."""

MOST_PASSES = 1e12
"""Forward-equivalents of a cell."""

SMALLEST_PROCESS = 16 * 2**20
"""Bytes that a process with torch in it takes; on a device it is the allocator's peak that counts, and may be small."""

MOST_BYTES = 2**50
"""Bytes of memory or of weights: a pebibyte."""

MOST_THREADS = 2**16


def tolerance_of(record: Record) -> float:
    """Return how far two values of one F(M) or F(0) may lie apart, as `TOLERANCE` says."""
    return TOLERANCE.get(record.environment.dtype, NARROW_TOLERANCE)


def first_apart(
    expected: Float[np.ndarray, " example"], found: Float[np.ndarray, " example"], tolerance: float
) -> int | None:
    """Return the first index at which two rows of one length differ by more than the tolerance; None without any."""
    differs = np.abs(found - expected) > tolerance * np.maximum(1.0, np.abs(expected))
    return int(differs.argmax()) if differs.any() else None


def violations(record: Record) -> Iterator[str]:
    """Yield every invariant that a record breaks: the field, a colon, what was expected and found.

    Args:
        record: a record that was read without an error.
    """
    yield from _violations_of_counts(record)
    yield from violations_of_sizes(record)
    yield from violations_of_statistics(record)
    yield from _violations_of_nodes(record)
    yield from _violations_of_values(record)
    yield from _violations_of_checks(record)
    yield from _violations_of_top_nodes(record)
    yield from _violations_of_cost(record)


def _violations_of_counts(record: Record) -> Iterator[str]:
    cell, counts = record.cell, record.counts
    for split, used, asked in (
        ("attribution", sum(group.attribution_pairs for group in record.groups), cell.attribution_pairs),
        ("evaluation", sum(group.evaluation_pairs for group in record.groups), cell.evaluation_pairs),
    ):
        if used > asked:
            yield f"cell.{split}_pairs: {asked} asked for, but groups[].{split}_pairs make {used}"
    if cell.layers is not None:
        if any(after <= before for before, after in pairwise(cell.layers)):
            yield "cell.layers: expected each layer once, in order"
        if len(cell.layers) != counts.layers:
            yield f"counts.layers: found {counts.layers}, but cell.layers names {len(cell.layers)}"
    units, width = sum(counts.units_per_layer), _error_width(record)
    for index, group in enumerate(record.groups):
        positions = 1 if cell.granularity == "unit" else group.positions
        errors = counts.layers * positions * width
        if group.error_nodes != errors:
            yield f"groups[{index}].error_nodes: found {group.error_nodes}, expected {errors}: {_why_errors(record)}"
        if group.nodes != units * positions + errors:
            yield (
                f"groups[{index}].nodes: found {group.nodes}, but {units} units (counts.units_per_layer) at "
                f"{positions} position{'s' if positions > 1 else ''} (cell.granularity is '{cell.granularity}') and "
                f"{errors} errors make {units * positions + errors}"
            )
    if record.identities.dictionary is not None and record.cost.dictionary_bytes == 0:
        yield "cost.dictionary_bytes: is 0, but identities.dictionary names trained weights"
    expected_at = "nodes" if cell.ablation == "zero" else "output"
    if record.endpoints.empty_at not in (None, expected_at):
        found = record.endpoints.empty_at
        yield f"endpoints.empty_at: found '{found}', expected '{expected_at}', for cell.ablation is '{cell.ablation}'"


def _error_width(record: Record) -> int:
    """Return how many error nodes a layer has at one position; none where the basis reconstructs exactly: no guard."""
    policy = record.cell.error_policy
    if record.guard is None or policy in WITHOUT_ERROR_NODES:
        return 0
    if policy == "node":
        return 1
    # As many as the write site has coordinates, which nothing else in the record tells; one at least.
    group = record.groups[0]
    positions = 1 if record.cell.granularity == "unit" else group.positions
    return max(1, group.error_nodes // (record.counts.layers * positions))


def _why_errors(record: Record) -> str:
    policy = record.cell.error_policy
    if policy in WITHOUT_ERROR_NODES:
        return f"cell.error_policy is '{policy}', so errors are not ranked"
    if record.guard is None:
        return "guard is null, so the basis has no errors"
    each = "one" if policy == "node" else "one for each of the coordinates that groups[0] has,"
    return f"cell.error_policy is '{policy}', so {each} per layer and position"


def _pooled(record: Record, values: Sequence[float]) -> float:
    """Return the mean over groups, weighted by evaluation pairs."""
    weights = [group.evaluation_pairs for group in record.groups]
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def _near(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=ROUNDING, abs_tol=ROUNDING)


def _violations_of_nodes(record: Record) -> Iterator[str]:
    curve, counts, groups = record.curve, record.counts, record.groups
    for name, values in (
        ("feature_nodes", curve.feature_nodes),
        ("error_nodes", curve.error_nodes),
        ("units", curve.units),
    ):
        for index, (before, after) in enumerate(pairwise(values), start=1):
            if after < before:
                yield f"curve.{name}[{index}]: {after:g} after {before:g}: a larger circuit holds the smaller one"
                break
    positions = 1 if record.cell.granularity == "unit" else max(group.positions for group in groups)
    for index, size in enumerate(curve.sizes):
        features, errors, units = curve.feature_nodes[index], curve.error_nodes[index], curve.units[index]
        kept = _pooled(record, [min(size, group.nodes) for group in groups])
        if not _near(features + errors, kept):
            yield (
                f"curve.feature_nodes[{index}]: {features:g} and {errors:g} of curve.error_nodes[{index}] make "
                f"{features + errors:g}, but a circuit of {size} holds {kept:g}"
            )
            break
        most = _pooled(record, [min(size, group.error_nodes) for group in groups])
        if errors > most and not _near(errors, most):
            yield f"curve.error_nodes[{index}]: found {errors:g}, but a circuit of {size} holds at most {most:g}"
            break
        if units > features and not _near(units, features):
            yield f"curve.units[{index}]: {units:g} distinct units in {features:g} nodes (curve.feature_nodes[{index}])"
            break
        if units * positions < features and not _near(units * positions, features):
            yield f"curve.units[{index}]: {units:g} units have no {features:g} nodes (curve.feature_nodes[{index}])"
            break
    for name, found, expected in (
        ("error_nodes", curve.error_nodes[-1], _pooled(record, [group.error_nodes for group in groups])),
        ("units", curve.units[-1], sum(counts.units_per_layer)),
    ):
        if not _near(found, expected):
            yield f"curve.{name}[{len(curve.sizes) - 1}]: found {found:g}, but all nodes hold {expected:g}"


def _group_columns(groups: Sequence[Group]) -> Iterator[tuple[Group, slice]]:
    """Yield each group with its examples."""
    ends = [0, *accumulate(group.evaluation_pairs for group in groups)]
    for group, (start, stop) in zip(groups, pairwise(ends), strict=True):
        yield group, slice(start, stop)


def _violations_of_values(record: Record) -> Iterator[str]:
    cell, curve = record.cell, record.curve
    full, empty = np.array(record.endpoints.full), np.array(record.endpoints.empty)
    circuit = np.array(curve.circuit)
    # What was not measured is no number, and no number differs from it.
    complement = np.array([[math.nan] * len(full) if row is None else row for row in curve.complement])
    gate = np.array(record.endpoints.gate_empty or [0.0])
    for place, values in (("endpoints.full", full), ("endpoints.empty", empty), ("endpoints.gate_empty", gate)):
        if np.abs(values).max() > LARGEST_LOGIT:
            index = int(np.abs(values).argmax())
            yield f"{place}[{index}]: expected a logit, found {values[index]:g}"
    for name, matrix in (("circuit", circuit), ("complement", complement)):
        if np.nanmax(np.abs(matrix)) > LARGEST_LOGIT:
            size, column = divmod(int(np.nanargmax(np.abs(matrix))), matrix.shape[1])
            yield f"curve.{name}[{size}][{column}]: expected a logit, found {matrix[size, column]:g}"
    exact = record.guard is None
    ends_full = cell.error_policy != "ablate" or exact
    ends_empty = cell.error_policy != "keep" or exact
    tolerance = tolerance_of(record)
    for group, columns in _group_columns(record.groups):
        whole = [index for index, nodes in enumerate(curve.sizes) if nodes >= group.nodes]
        # Where the divergence is asked for, the empty circuit is run, and a norm may lie between its nodes and the
        # outputs at which F(0) is taken.
        for applies, name, values, rows, end, expected in (
            (ends_empty and not cell.kl, "circuit", circuit, [0], "empty", empty),
            (ends_full, "circuit", circuit, whole, "full", full),
            (ends_full, "complement", complement, [0], "full", full),
            (ends_empty, "complement", complement, whole, "empty", empty),
        ):
            for row in rows if applies else ():
                first = first_apart(expected[columns], values[row, columns], tolerance)
                if first is None:
                    continue
                example = columns.start + first
                yield (
                    f"curve.{name}[{row}][{example}]: found {values[row, example]:g}, but endpoints.{end}[{example}] "
                    f"is {expected[example]:g}, and a circuit of {'all' if row else 'no'} nodes makes them one number "
                    f"(cell.error_policy is '{cell.error_policy}')"
                )


def _violations_of_checks(record: Record) -> Iterator[str]:
    cell, curve, tolerance = record.cell, record.curve, tolerance_of(record)
    for index, check in enumerate(record.subset_checks):
        if check.size < record.counts.nodes_max:
            continue
        mean = float(np.mean(curve.circuit[-1]))
        for name, values in (("draws", check.draws), ("adversarial", check.adversarial or ())):
            far = [draw for draw, value in enumerate(values) if abs(value - mean) > tolerance * max(1.0, abs(mean))]
            if far:
                yield (
                    f"subset_checks[{index}].{name}[{far[0]}]: found {values[far[0]]:g}, but nothing is left to ablate "
                    f"beside all {check.size} nodes, whose mean is {mean:g}"
                )
    for index, check in enumerate(record.subset_checks):
        for name, values in (("draws", check.draws), ("adversarial", check.adversarial or ())):
            if any(abs(value) > LARGEST_LOGIT for value in values):
                yield f"subset_checks[{index}].{name}: expected logits, found {max(values, key=abs):g}"
    if curve.kl is not None and (cell.error_policy != "ablate" or record.guard is None) and curve.kl[-1] > tolerance:
        yield f"curve.kl[{len(curve.kl) - 1}]: found {curve.kl[-1]:g}, but all nodes are the model itself: expected 0"


def _violations_of_top_nodes(record: Record) -> Iterator[str]:
    seen: set[tuple[object, ...]] = set()
    for index, node in enumerate(record.top_nodes):
        key = (node.group, node.layer, node.position, node.unit, node.coordinate)
        problem = "named before" if key in seen else _place_of_top_node(record, node)
        if problem is None and index and abs(node.score) > abs(record.top_nodes[index - 1].score):
            problem = (
                f"score {node.score:g} after {record.top_nodes[index - 1].score:g}: expected the largest |score| first"
            )
        if problem is None and node.unit == "error" and node.score and record.error_share == 0:
            problem = "unit is an error with a score, but error_share is 0"
        if problem is not None:
            yield f"top_nodes[{index}]: {problem}"
            return
        seen.add(key)


def _place_of_top_node(record: Record, node: TopNode) -> str | None:
    """Say what is wrong with the place of a node."""
    cell, counts = record.cell, record.counts
    layers = tuple(range(counts.layers)) if cell.layers is None else cell.layers
    if node.layer not in layers:
        return f"layer {node.layer} is none of the {counts.layers} layers (counts.layers, cell.layers)"
    errors, positions = any(group.error_nodes for group in record.groups), None
    if cell.granularity == "position":
        group = next((group for group in record.groups if group.key == node.group), None)
        if group is None:
            return "group is the key of none of groups (cell.granularity is 'position')"
        errors, positions = group.error_nodes > 0, group.positions
    if (node.position is None) != (positions is None) or (node.role is None) != (positions is None):
        given = "null" if positions is None else "given"
        return f"position and role: expected {given}, for cell.granularity is '{cell.granularity}'"
    if node.position is not None and positions is not None and node.position >= positions:
        return f"position {node.position} is none of the group's {positions}"
    if node.unit == "error" and not errors:
        return "unit is an error, but no errors are ranked"
    width = _error_width(record) if node.unit == "error" and cell.error_policy != "node" else None
    if (node.coordinate is None) != (width is None):
        given = "null" if width is None else "given"
        return f"coordinate: expected {given}, for unit is {node.unit} and cell.error_policy '{cell.error_policy}'"
    if node.coordinate is not None and width is not None and node.coordinate >= width:
        return f"coordinate {node.coordinate} is none of the {width} of an error"
    if node.unit == "error":
        return None
    units = counts.units_per_layer[min(layers.index(node.layer), len(counts.units_per_layer) - 1)]
    return None if node.unit < units else f"unit {node.unit} is none of the layer's {units}"


def _violations_of_cost(record: Record) -> Iterator[str]:
    cost, seconds = record.cost, record.cost.seconds
    circuits = [*record.curve.circuit[1:-1], *filter(None, record.curve.complement[1:-1])]
    least = max(SHORTEST_CURVE, SHORTEST_PROMPT * len(circuits) * len(record.endpoints.full))
    if seconds.curve < least:
        yield f"cost.seconds.curve: found {seconds.curve:g}, but no machine takes less than {least:g} s for this"
    for name in type(seconds).model_fields:
        if getattr(seconds, name) > YEAR:
            yield f"cost.seconds.{name}: found {getattr(seconds, name):g}, more than a year"
    if seconds.gradients + seconds.scoring <= 0:
        yield "cost.seconds.scoring: found 0, as cost.seconds.gradients: scores and their order take time"
    pairs = sum(group.attribution_pairs for group in record.groups)
    if seconds.gradients > 0 and cost.forward_equivalents < pairs:
        yield (
            f"cost.forward_equivalents: found {cost.forward_equivalents:g}, but gradients of {pairs} pairs "
            f"(cost.seconds.gradients) take at least {pairs}"
        )
    if cost.forward_equivalents > MOST_PASSES:
        yield f"cost.forward_equivalents: found {cost.forward_equivalents:g}, expected at most {MOST_PASSES:g}"
    on_processor = cost.device.partition(":")[0] == "cpu"
    memory = max(SMALLEST_PROCESS, cost.dictionary_bytes) if on_processor else 1
    if cost.peak_memory_bytes < memory:
        yield f"cost.peak_memory_bytes: found {cost.peak_memory_bytes}, but at least {memory} were in use"
    for name in ("peak_memory_bytes", "dictionary_bytes"):
        if getattr(cost, name) > MOST_BYTES:
            yield f"cost.{name}: found {getattr(cost, name)}, more than any machine has"
    if record.environment.threads > MOST_THREADS:
        yield f"environment.threads: found {record.environment.threads}, more than any machine has"
