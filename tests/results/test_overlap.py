"""Overlap of circuits: chance against every subset there is, and what is compared with what."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest

from basisbench.results.circuit_nodes import CircuitNode, CircuitNodes
from basisbench.results.overlap import Level, chance_jaccard, overlap, overlap_table
from helpers.synthetic_records import synthetic_record


@pytest.mark.parametrize(
    ("first", "second", "total"), [(1, 1, 1), (2, 3, 7), (4, 4, 6), (3, 6, 6), (1, 5, 8), (0, 3, 5)]
)
def test_chance_is_the_mean_over_all_subsets(first: int, second: int, total: int) -> None:
    one = set(range(first))
    indices = [len(one & set(other)) / len(one | set(other)) for other in combinations(range(total), second)]
    assert chance_jaccard(first, second, total) == pytest.approx(sum(indices) / len(indices), rel=1e-12)
    assert chance_jaccard(first, second, total) == pytest.approx(chance_jaccard(second, first, total), rel=1e-12)


def test_chance_of_large_sets_is_finite_and_that_of_empty_ones_undefined() -> None:
    # For k of N nodes, k small, the overlap is about k^2 / N of 2k.
    assert chance_jaccard(100, 100, 10**7) == pytest.approx(100 / 2e7, rel=0.01)
    assert math.isnan(chance_jaccard(0, 0, 5))


def circuit(nodes: list[tuple[int, int, str]], task: str = "ioi", basis: str = "mlp_out", **cell: Any) -> CircuitNodes:
    record = synthetic_record(task, basis, "relp", examples=6)
    changed = record.cell.model_copy(update=cell)
    found = [
        CircuitNode(layer=layer, unit=unit, coordinate=None, role=role, groups=1, score=1.0)
        for layer, unit, role in nodes
    ]
    return CircuitNodes(
        schema_version=1, cell=changed, identities=record.identities, draws=1, roles=("subject", "verb"),
        layers=(0, 1, 2), candidates=600, nodes=tuple(found),
    )  # fmt: skip


ONE = [(0, 1, "subject"), (0, 1, "verb"), (1, 5, "subject")]
OTHER = [(0, 1, "subject"), (1, 7, "verb"), (1, 5, "verb"), (2, 2, "verb")]


@pytest.mark.parametrize(("changes", "level", "sizes", "common", "total"), [
    ({"method": "ixg"}, "nodes", (3, 4), 1, 600),
    ({"task": "sva_rc"}, "units", (2, 4), 2, 300),
    ({"basis": "transcoder"}, "places", (3, 3), 1, 6),
    ({"task": "sva_rc", "basis": "transcoder"}, "layers", (2, 3), 2, 3),
])  # fmt: skip
def test_what_is_compared(
    changes: dict[str, str], level: Level, sizes: tuple[int, int], common: int, total: int
) -> None:
    method = changes.pop("method", "relp") if "method" in changes else "relp"
    found = overlap(circuit(ONE), circuit(OTHER, **changes, method=method))
    assert found is not None
    assert (found.level, found.sizes, found.common, found.total) == (level, sizes, common, total)
    assert found.jaccard == common / (sum(sizes) - common)
    assert found.chance == chance_jaccard(*sizes, total)


def test_other_families_have_nothing_in_common_and_tables_name_what_differs() -> None:
    first, second = circuit(ONE), circuit(OTHER, seed=3)
    assert overlap(first, circuit(ONE, basis="resid")) is None
    assert overlap_table([first]) is None
    table = overlap_table([first, second])
    assert table is not None
    assert [entry.text for entry in table.rows[0]][:4] == ["0", "3", "nodes", "1 of 3, 4"]


def test_a_model_and_what_tuning_made_of_it_are_compared_node_by_node() -> None:
    before, after = circuit(ONE), circuit(OTHER)
    tuned = after.model_copy(update={"identities": after.identities.model_copy(update={"model": "1" * 64})})
    assert overlap(before, tuned) == overlap(before, after)
    others = {
        "candidates": [700, None],
        "roles": [("subject",)],
        "cell": [after.cell.model_copy(update={"task": "sva_rc"}), after.cell.model_copy(update={"basis": "resid"})],
        "identities": [tuned.identities.model_copy(update={"dictionary": "2" * 64})],
    }
    for name, values in others.items():
        for value in values:
            assert overlap(before, tuned.model_copy(update={name: value})) is None, name
