"""Where the nodes of a graph are drawn: layers upward, roles across, none on another."""

from __future__ import annotations

from itertools import combinations

import pytest

from basisbench.report.graph_places import place_nodes
from helpers.graphs import synthetic_graph


@pytest.mark.parametrize(("nodes", "layers"), [(1, 1), (12, 4), (150, 3)])
def test_every_node_stands_alone_in_its_column_and_band(nodes: int, layers: int) -> None:
    graph = synthetic_graph(nodes, layers=layers)
    places, found = place_nodes(graph), graph.nodes
    assert [column.name for column in places.columns] == list(found.roles)
    assert [band.name for band in places.bands] == ["tokens", *map(str, found.layers), "logits"]
    names = [(role, "tokens") for role in found.roles]
    names += [(f"{node.role} {node.token}".strip(), str(node.layer)) for node in found.nodes]
    names.append((found.roles[-1], "logits"))
    for (role, layer), (x, y) in zip(names, places.points, strict=True):
        column = next(each for each in places.columns if each.name == role)
        band = next(each for each in places.bands if each.name == layer)
        assert column.start < x < column.start + column.length
        assert band.start < y < band.start + band.length
    least = min(max(abs(a - c), abs(b - d)) for (a, b), (c, d) in combinations(places.points, 2))
    assert least >= 0.7 - 1e-9
    for stretches in (places.columns, places.bands):
        ends = [each.start + each.length for each in stretches]
        assert [each.start for each in stretches[1:]] == pytest.approx(ends[:-1])


def test_the_best_of_a_grid_stand_first() -> None:
    graph = synthetic_graph(150, layers=1)
    places = place_nodes(graph)
    role = graph.nodes.roles[-1]
    own = [at for at, node in enumerate(graph.nodes.nodes) if node.role == role]
    shown = [places.points[len(graph.nodes.roles) + at] for at in own]
    assert len(shown) > 20
    assert shown == sorted(shown, key=lambda point: (-point[1], point[0]))
