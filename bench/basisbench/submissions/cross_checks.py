"""Checks of records against each other: what is one number, or one digest, for all that share model and data.

1. F(M) depends on nothing but model and data. Neither does F(0) under mean and counterfactual ablation, within a family
   and its layers; under zero ablation, what is at zero depends on the basis. The F(0) that gates are decided on is
   one under any ablation, and so are the size at which areas end, tokens of prompts and levels of cluster factors.
2. Records of one version of BasisBench and one dtype are compared with each other; where they disagree, reference
   records are right, then records that nobody submitted, then the most.
3. Submitted records are compared with all others of every version too, and must run on the same pairs and weights:
   whoever claims another version does not escape.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from basisbench.results.record import Record
from basisbench.submissions.find_records import Notes
from basisbench.submissions.invariants import first_apart, tolerance_of

Key: TypeAlias = "tuple[object, ...]"

MOST_CLUSTERS = 20
"""Clusters of records that agree on one number; a record that fits none of so many is an outlier. Thousands of records
that all differ take no longer."""


class Trust(IntEnum):
    """Who made a record; where two disagree, the higher is right."""

    SUBMITTED = 0
    OWN = 1
    REFERENCE = 2


@dataclass(frozen=True, eq=False)
class Shared:
    """A value that other records must share.

    Attributes:
        key: records of one key must agree.
        place: field of the record.
        meaning: what it is, and of what there is one.
        values: per example, in logits; a digest stands as text.
    """

    key: Key
    place: str
    meaning: str
    values: Float[np.ndarray, " example"] | str


@dataclass(frozen=True, eq=False)
class Member:
    """What the checks against other records need of a record that is good by itself."""

    path: Path
    id: str
    tolerance: float
    shared: tuple[Shared, ...]
    against_reference: tuple[Shared, ...]


_Item: TypeAlias = "tuple[Member, Shared, Trust]"


def member_of(path: Path, record: Record) -> Member:
    """Take from a record what others must share with it."""
    cell, identities = record.cell, record.identities
    scope: Key = (cell.family, cell.ablation, cell.layers)
    owner = f"family {cell.family} under {cell.ablation} ablation"
    if cell.ablation == "zero":
        scope = (*scope, cell.basis, identities.dictionary, cell.seed)
        owner = f"basis {cell.basis} under zero ablation"
    full, empty = np.array(record.endpoints.full), np.array(record.endpoints.empty)
    of_full, of_empty = "F(M) is one for a model and its pairs", f"F(0) is one for a model, its pairs and {owner}"
    data: Key = (identities.model, identities.data)
    version: Key = (record.basisbench, record.environment.dtype)
    pairs: Key = (cell.task, cell.task_version, cell.seed, cell.attribution_draw, cell.bos, cell.metric)
    pairs = (*pairs, cell.attribution_pairs, cell.evaluation_pairs)
    # How F(0) is taken may change with a version; where a record does not say how, its own version is all it has.
    how: Key = (record.endpoints.empty_at,) if record.endpoints.empty_at else version
    statistics = tuple(_statistics(record))
    return Member(
        path,
        record.id,
        tolerance_of(record),
        (
            Shared(("full", *data, *version), "endpoints.full", of_full, full),
            Shared(("empty", *data, *version, *scope), "endpoints.empty", of_empty, empty),
            *(replace(shared, key=(*shared.key, *version)) for shared in statistics),
        ),
        (
            Shared(("full", *data), "endpoints.full", of_full, full),
            Shared(("empty", *data, *how, *scope), "endpoints.empty", of_empty, empty),
            *statistics,
            Shared(
                ("data", identities.model, *pairs),
                "identities.data",
                "the pairs of a task's version and seed are the same for everybody",
                identities.data,
            ),
            Shared(
                ("model", cell.model, *version),
                "identities.model",
                "a model of one name has the same weights for everybody; give another model another name",
                identities.model,
            ),
        ),
    )


def _statistics(record: Record) -> Iterator[Shared]:
    """Yield what gates, areas and intervals are made of; nothing of it is in a record of schema 1."""
    cell, endpoints = record.cell, record.endpoints
    data: Key = (record.identities.model, record.identities.data)
    family: Key = (cell.family, cell.ablation)
    if record.counts.area_end is not None:
        key, one = (
            (*data, cell.family, cell.layers, cell.granularity),
            "areas end at one size for a family and its layers",
        )
        yield Shared(("area_end", *key), "counts.area_end", one, str(record.counts.area_end))
    if record.clusters:
        levels = json.dumps(record.clusters, sort_keys=True)
        yield Shared(("clusters", *data), "clusters", "levels of factors are those of the pairs", levels)
    if tokens := [group.tokens for group in record.groups if group.tokens]:
        yield Shared(("tokens", *data), "groups[].tokens", "tokens are those of the pairs", json.dumps(tokens))
    for name, values, key in (
        ("gate_empty", endpoints.gate_empty, (*family, cell.layers)),
        ("family_empty", None if endpoints.family_empty is None else (endpoints.family_empty,), family),
    ):
        if values is not None:
            meaning = "the F(0) of gates is one for a model, its pairs, a family and an ablation"
            yield Shared((name, *data, *key), f"endpoints.{name}", meaning, np.array(values))


def check_shared(members: Iterable[tuple[Member, Trust]], notes: Notes) -> None:
    """Note records whose shared values differ from those of more trusted ones, or else of most.

    Args:
        members: records that are good by themselves, each with who made it.
        notes: where problems are noted.
    """
    listed = list(members)
    for group in _by_key((member, shared, trust) for member, trust in listed for shared in member.shared):
        _check_group(group, notes)
    if not any(trust == Trust.SUBMITTED for _, trust in listed):
        return
    for group in _by_key((member, shared, trust) for member, trust in listed for shared in member.against_reference):
        trusts = {trust for _, _, trust in group}
        if Trust.SUBMITTED in trusts and len(trusts) > 1:
            _check_group(group, notes, blame=Trust.SUBMITTED)


def _by_key(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    groups: dict[Key, list[_Item]] = {}
    for item in items:
        groups.setdefault(item[1].key, []).append(item)
    yield from groups.values()


def _check_group(group: Sequence[_Item], notes: Notes, blame: Trust | None = None) -> None:
    """Cluster records that agree, and note those outside the right cluster.

    Args:
        group: values that must be one.
        notes: where problems are noted.
        blame: whose records are noted; everybody's when None.
    """
    clusters: list[list[_Item]] = []
    outliers: list[_Item] = []
    for item in sorted(group, key=lambda item: -item[2]):
        for cluster in clusters:
            if _apart(cluster[0][1], item[1], max(cluster[0][0].tolerance, item[0].tolerance)) is None:
                cluster.append(item)
                break
        else:
            if len(clusters) < MOST_CLUSTERS:
                clusters.append([item])
            else:
                outliers.append(item)
    # The first of them, where two are as many.
    right = max(clusters, key=lambda found: [sum(item[2] == trust for item in found) for trust in reversed(Trust)])
    first = max(right, key=lambda item: item[2])
    for cluster in (*clusters, outliers):
        for member, shared, trust in cluster if cluster is not right else ():
            if blame is None or trust == blame:
                tolerance = max(member.tolerance, first[0].tolerance)
                notes.add(member.path, _difference(first, len(right) - 1, shared, tolerance))


def _apart(expected: Shared, found: Shared, tolerance: float) -> int | None:
    """Return the first example at which two values differ; None where they are the same number."""
    if isinstance(expected.values, str) or isinstance(found.values, str):
        return None if expected.values == found.values else 0
    if len(expected.values) != len(found.values):
        return min(len(expected.values), len(found.values))
    return first_apart(expected.values, found.values, tolerance)


def _difference(right: _Item, more: int, found: Shared, tolerance: float) -> str:
    """Say where a record leaves the others."""
    member, expected, _ = right
    index = _apart(expected, found, tolerance)
    others = f" and {more} more" if more else ""
    place = found.place
    if isinstance(expected.values, str) or isinstance(found.values, str):
        numbers = f"found {_shorten(found.values)}, expected {_shorten(expected.values)}"
    elif len(expected.values) != len(found.values):
        numbers = f"{len(found.values)} values, expected {len(expected.values)}"
    else:
        # Records of two tolerances may agree within the wider one only.
        index = int(np.abs(found.values - expected.values).argmax()) if index is None else index
        place = f"{place}[{index}]"
        numbers = f"found {found.values[index]:g}, expected {expected.values[index]:g}"
    return f"{place}: {numbers} as in {member.path}{others}: {found.meaning}; run the cell again"


def _shorten(text: object) -> str:
    return f"{str(text)[:12]}..." if len(str(text)) > 12 else str(text)
