"""Checks what intervals, gates, areas and medians are computed from, beside the curve itself.

1. A record of this schema has all of it; one of schema 1 has none, and stands apart by its conditions.
2. Levels of a cluster factor are numbered in the order in which they occur.
3. Where all groups share one circuit, they share its numbers; units of all groups together are no fewer than those of
   one and no more than those of each.
4. The gates' F(0) is given where a cell's own is another one, the whole family's where layers are restricted.
5. The medians of a suite are over its tasks, which the cell's is one of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from basisbench.results.record import Record

ROUNDING = 2e-4
"""Relative error of a sum or difference of two stored numbers of five digits."""


def violations_of_statistics(record: Record) -> Iterator[str]:
    """Yield every such invariant that a record breaks: the field, a colon, what was expected and found."""
    if record.schema_version == 1:
        return
    yield from _missing(record)
    yield from _violations_of_clusters(record)
    yield from _violations_of_scored_nodes(record)
    yield from _violations_of_all_units(record)
    yield from _violations_of_gates(record)
    end, layers = record.counts.area_end, record.counts.layers
    places = 1 if record.cell.granularity == "unit" else max(group.positions for group in record.groups)
    if end is not None and end % (layers * places):
        yield f"counts.area_end: found {end}, expected a multiple of {layers} layers x {places} positions"
    if record.suite is not None and record.cell.task not in record.suite.tasks:
        yield f"suite.tasks: the cell's task, '{record.cell.task}', is none of them"


def _missing(record: Record) -> Iterator[str]:
    """Yield what only a record of schema 1 may lack."""
    lacking = [
        ("clusters", not record.clusters),
        *((f"groups[{index}].tokens", not group.tokens) for index, group in enumerate(record.groups)),
        *((f"groups[{index}].scored_nodes", group.scored_nodes is None) for index, group in enumerate(record.groups)),
        ("counts.area_end", record.counts.area_end is None),
        ("endpoints.empty_at", record.endpoints.empty_at is None),
        ("curve.all_units", record.curve.all_units is None),
        ("guard.slope", record.guard is not None and record.guard.slope is None),
    ]
    for field, is_missing in lacking:
        if is_missing:
            yield f"{field}: missing, which only records of schema 1 may lack"


def _violations_of_clusters(record: Record) -> Iterator[str]:
    for factor, levels in record.clusters.items():
        highest = -1
        for index, level in enumerate(levels):
            if level > highest + 1:
                yield f"clusters.{factor}[{index}]: found {level}, but the next new level is {highest + 1}"
                break
            highest = max(highest, level)


def _violations_of_scored_nodes(record: Record) -> Iterator[str]:
    groups = record.groups
    if record.cell.granularity == "unit" and len({group.scored_nodes for group in groups}) > 1:
        yield "groups[].scored_nodes: differ, but one ranking is that of all groups (cell.granularity is 'unit')"
    for index, group in enumerate(groups):
        top = [node for node in record.top_nodes if record.cell.granularity == "unit" or node.group == group.key]
        scored = sum(node.score != 0 for node in top)
        if group.scored_nodes is not None and scored > group.scored_nodes:
            yield f"groups[{index}].scored_nodes: found {group.scored_nodes}, but {scored} of top_nodes have a score"
        elif group.scored_nodes is not None and scored < min(len(top), group.scored_nodes):
            yield f"top_nodes: a score is 0, but not all {group.scored_nodes} of groups[{index}].scored_nodes are named"


def _violations_of_all_units(record: Record) -> Iterator[str]:
    curve, every = record.curve, sum(record.counts.units_per_layer)
    if curve.all_units is None:
        return
    weights = [group.evaluation_pairs for group in record.groups]
    # Of one mean over groups, the sum over groups is largest where the smallest group has all of it.
    most = 1.0 if record.cell.granularity == "unit" else sum(weights) / min(weights)
    for index, (units, mean) in enumerate(zip(curve.all_units, curve.units, strict=True)):
        low, high = mean * (1 - ROUNDING), min(every, math.ceil(mean * most * (1 + ROUNDING)))
        if not low <= units <= high:
            yield (
                f"curve.all_units[{index}]: found {units}, but {mean:g} units of a group (curve.units[{index}]) make "
                f"{mean:g} to {high:g} of all groups"
            )
            return
    for index, (before, after) in enumerate(pairwise(curve.all_units), start=1):
        if after < before:
            yield f"curve.all_units[{index}]: {after} after {before}: a larger circuit holds the smaller one"
            return


def _violations_of_gates(record: Record) -> Iterator[str]:
    cell, endpoints = record.cell, record.endpoints
    for name, value, given, why in (
        ("gate_empty", endpoints.gate_empty, cell.ablation == "zero", f"cell.ablation is '{cell.ablation}'"),
        (
            "family_empty",
            endpoints.family_empty,
            cell.layers is not None,
            f"cell.layers {'are all' if cell.layers is None else 'are given'}",
        ),
    ):
        if (value is not None) != given:
            yield f"endpoints.{name}: expected {'a value' if given else 'null'}, for {why}"
