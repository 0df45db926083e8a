"""A circuit as one picture: what is drawn where, how large, in which colour, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from PIL import Image

from basisbench.plots.save import save_figure
from basisbench.report import plot_graph
from basisbench.report.graph_picture import AGAINST, NEEDED
from basisbench.results.circuit_graph import CircuitGraph
from helpers.drawn_figures import drawn
from helpers.graphs import synthetic_graph

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error")]


@pytest.fixture(scope="module")
def graph() -> CircuitGraph:
    """A graph of one layer without nodes, in a few roles."""
    return synthetic_graph(12, 30).model_copy(update={"answer": " is", "foil": " are"})


def axes_of(graph: CircuitGraph) -> Any:
    (axes,) = plot_graph(graph).axes
    return axes


def test_nodes_are_as_large_as_their_scores_and_coloured_by_their_sign(graph: CircuitGraph) -> None:
    axes = axes_of(graph)
    dots = [line for line in axes.get_lines() if line.get_marker() in ("o", "D")]
    nodes = graph.nodes.nodes
    assert len(dots) == len(nodes)
    largest = max(abs(node.score) for node in nodes)
    whole = max(dot.get_markersize() for dot in dots)
    layers = []
    for dot, node in zip(dots, nodes, strict=True):
        assert (dot.get_marker() == "D") == (node.unit == "error")
        assert to_hex(dot.get_color()) == (NEEDED if node.score < 0 else AGAINST).lower()
        assert dot.get_markersize() == pytest.approx(max(whole * (abs(node.score) / largest) ** 0.5, 4))
        layers.append((float(dot.get_ydata()[0]), node.layer))
    # Layers go upward: by height is by layer.
    assert [layer for _, layer in sorted(layers)] == sorted(node.layer for node in nodes)


def test_edges_run_from_their_source_to_their_target_and_are_as_wide_as_their_scores(graph: CircuitGraph) -> None:
    axes = axes_of(graph)
    (edges,) = axes.collections
    paths, widths = edges.get_paths(), edges.get_linewidths()
    assert len(paths) == len(graph.edges)
    dots = [line for line in axes.get_lines() if line.get_marker() in ("o", "D")]
    points = {f"node:{at}": tuple(dot.get_xydata()[0]) for at, dot in enumerate(dots)}
    most = max(abs(edge.score) for edge in graph.edges)
    for edge, path, width in zip(reversed(graph.edges), paths, widths, strict=True):
        assert width == pytest.approx(max(6 * abs(edge.score) / most, 0.6))
        for end, point in ((edge.source, path.vertices[0]), (edge.target, path.vertices[-1])):
            if end in points:
                assert tuple(point) == pytest.approx(points[end])
        assert path.vertices[0][1] < path.vertices[-1][1], "an edge goes upward"


def test_it_says_what_it_shows_and_leaves_out_what_is_empty(graph: CircuitGraph) -> None:
    figure = plot_graph(graph)
    told = {text.get_text() for text in (*figure.axes[0].texts, *figure.texts)}
    assert "“is” over “are”" in told
    assert any("the 12 best nodes of transcoder under relp" in text for text in told)
    assert any("“At night the kid that the boy sees”: “is”, not “are”" in text for text in told)
    used = {node.role for node in graph.nodes.nodes}
    assert "subject" in used
    assert "subject" in told
    assert "bos" not in told, "nothing is there"
    layers = {node.layer for node in graph.nodes.nodes}
    assert {text for text in told if text.startswith("layer ")} == {f"layer {layer}" for layer in layers}
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:2] == ["the answer needs it", "works against the answer"]


@pytest.mark.parametrize(("nodes", "edges", "layers"), [(1, 1, 1), (40, 100, 4), (120, 300, 30)])
def test_it_fits_a_page_whatever_its_size(nodes: int, edges: int, layers: int, tmp_path: Path) -> None:
    hostile = synthetic_graph(nodes, edges, layers=layers, hostile=("$x_1$ " * 30).strip())
    figure = plot_graph(hostile)
    drawn(figure)  # no text sticks out
    save_figure(figure, tmp_path / "circuit.png", dpi=100)
    with Image.open(tmp_path / "circuit.png") as image:
        width, height = image.size
    assert width == 830
    assert 200 < height < 1100
