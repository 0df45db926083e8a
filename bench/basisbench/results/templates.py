"""The templates of a record's aligned groups, and a record on some of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import compress
from typing import TypeVar

from basisbench.results.record import Record

T = TypeVar("T")


def template_of(group: str) -> str:
    """Return the template of an aligned group: its key without the tokens per segment.

    Args:
        group: for example "plain:1,2,1".
    """
    return group.rpartition(":")[0]


def halves_of_templates(groups: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Split the templates of some aligned groups into two halves by name; the first has one more of an odd number.

    By name, so that what belongs to one frame (the two orders of the names of `ioi`) stays together where it can.

    Args:
        groups: keys of the groups.

    Returns:
        The halves; the second is empty where there is one template only.
    """
    names = sorted(set(map(template_of, groups)))
    middle = (len(names) + 1) // 2
    return frozenset(names[:middle]), frozenset(names[middle:])


def on_templates(record: Record, templates: Collection[str]) -> Record:
    """Return what was measured on the examples of some templates, for statistics of a curve's values.

    Sizes stay: where faithfulness crosses a target on these templates alone was not searched for. What is a mean over
    groups already (`Curve.feature_nodes`, `Counts`, `Guard`, `Cost`) stays too.

    Args:
        record: the record.
        templates: which; at least one of its own.
    """
    groups = [group for group in record.groups if template_of(group.key) in templates]
    keys = {group.key for group in groups}
    kept = [group.key in keys for group in record.groups for _ in range(group.evaluation_pairs)]

    def of(values: Sequence[T]) -> tuple[T, ...]:
        return tuple(compress(values, kept))

    ends, curve = record.endpoints, record.curve
    full = of(ends.full)
    return record.model_copy(
        update={
            "groups": tuple(groups),
            "clusters": {factor: _numbered(of(levels)) for factor, levels in record.clusters.items()},
            "endpoints": ends.model_copy(
                update={
                    "full": full,
                    "empty": of(ends.empty),
                    "accuracy": sum(value > 0 for value in full) / len(full),
                    "gate_empty": None if ends.gate_empty is None else of(ends.gate_empty),
                }
            ),
            "curve": curve.model_copy(
                update={
                    "circuit": tuple(of(row) for row in curve.circuit),
                    "complement": tuple(None if row is None else of(row) for row in curve.complement),
                }
            ),
            "subset_checks": (),
            "top_nodes": tuple(node for node in record.top_nodes if node.group in keys),
        }
    )


def _numbered(levels: Sequence[int]) -> tuple[int, ...]:
    """Number levels in the order in which they occur, as records do."""
    names = {level: at for at, level in enumerate(dict.fromkeys(levels))}
    return tuple(names[level] for level in levels)
