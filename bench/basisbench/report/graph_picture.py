"""A circuit as one picture, for pages that run no script: layers upward, roles across, as on the graph's own page.

1. Nodes stand where the page has them (`graph_places`); columns and bands in which nothing is drawn are left out.
2. A node's area and an edge's width grow with |score|; blue is what the answer needs, orange what works against it.
3. Nodes carry their unit's number, tokens the word that stands there in an example prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from basisbench.plots.look import SCREEN
from basisbench.plots.style import COLOURS, DARK
from basisbench.plots.text import fitted, plain, text_width
from basisbench.report.graph_places import Places, Stretch, place_nodes
from basisbench.results.circuit_graph import CircuitGraph

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.3
"""Inches: 830 pixels of a page at 100 to the inch."""

UNIT_HEIGHT, LEAST_HEIGHT, MOST_HEIGHT = 0.36, 2.5, 9.0
"""Inches between two nodes, and of all layers together."""

LARGEST_NODE, WIDEST_EDGE, POINTS = 0.95, 6.0, 32
"""Diameter of the strongest node in distances of two nodes; width of the strongest edge; points of a curve."""

NEEDED, AGAINST = COLOURS["blue"], COLOURS["vermillion"]


def plot_graph(graph: CircuitGraph) -> Figure:
    """Draw a circuit: its nodes by layer and role, its edges, the words of an example and the answer.

    Args:
        graph: what `basisbench.graph` returns. Some 40 nodes and 100 edges can be told apart.
    """
    from matplotlib.figure import Figure

    drawing = _Drawing.of(graph)
    height = min(max(drawing.height * UNIT_HEIGHT, LEAST_HEIGHT), MOST_HEIGHT)
    left, right, below, above = 0.75, 0.1, 0.55, 0.6
    whole = height + below + above
    figure = Figure(figsize=(WIDTH, whole))
    axes = figure.add_axes((left / WIDTH, below / whole, 1 - (left + right) / WIDTH, height / whole))
    axes.set_xlim(0, drawing.width)
    axes.set_ylim(0, drawing.height)
    axes.axis("off")
    inch = (WIDTH - left - right) / drawing.width, height / drawing.height
    _ground(axes, drawing, inch[0])
    _edges(axes, drawing)
    _nodes(axes, drawing, graph, min(inch))
    _key(figure, graph)
    figure.text(0.01, 1 - 0.08 / whole, plain(_title(graph)), fontsize=SCREEN.title, va="top", linespacing=1.35)
    return figure


@dataclass(frozen=True, eq=False)
class _Drawing:
    """Where everything stands, in distances of two nodes; empty columns and bands are left out.

    Attributes:
        places: where the page has it.
        columns: those in which something is, by index in `places`, where they stand here.
        bands: likewise.
        points: (x, y) of the tokens, the nodes and the logits.
        edges: (source, target, score) by index in `points`, the weakest first.
    """

    places: Places
    columns: dict[int, Stretch]
    bands: dict[int, Stretch]
    points: Float[np.ndarray, "node xy"]
    edges: list[tuple[int, int, float]]

    @classmethod
    def of(cls, graph: CircuitGraph) -> _Drawing:
        places, tokens, count = place_nodes(graph), len(graph.nodes.roles), len(graph.nodes.nodes)

        def index(end: str) -> int:
            kind, _, number = end.partition(":")
            return {"token": 0, "node": tokens}.get(kind, tokens + count) + int(number or 0)

        edges = [(index(edge.source), index(edge.target), edge.score) for edge in reversed(graph.edges)]
        shown = [*range(tokens, tokens + count + 1), *(source for source, _, _ in edges if source < tokens)]
        old = np.array(places.points)
        columns = _kept(places.columns, old[shown, 0])
        bands = _kept(places.bands, old[shown, 1])
        points = np.stack([_moved(old[:, 0], places.columns, columns), _moved(old[:, 1], places.bands, bands)], 1)
        return cls(places, columns, bands, points, edges)

    @property
    def width(self) -> float:
        return sum(column.length for column in self.columns.values())

    @property
    def height(self) -> float:
        return sum(band.length for band in self.bands.values())


def _at(stretches: Sequence[Stretch], value: float) -> int:
    return next(at for at, own in enumerate(stretches) if value < own.start + own.length)


def _kept(stretches: Sequence[Stretch], values: Float[np.ndarray, " shown"]) -> dict[int, Stretch]:
    """Return the stretches that hold something, one behind the other."""
    found, start = {}, 0.0
    for at in sorted({_at(stretches, value) for value in values.tolist()}):
        found[at] = Stretch(stretches[at].name, start, stretches[at].length)
        start += stretches[at].length
    return found


def _moved(
    values: Float[np.ndarray, " node"], stretches: Sequence[Stretch], kept: dict[int, Stretch]
) -> Float[np.ndarray, " node"]:
    """Return where values stand among the stretches that are kept; NaN in those that are not."""
    moved = []
    for value in values.tolist():
        at = _at(stretches, value)
        moved.append(value - stretches[at].start + kept[at].start if at in kept else float("nan"))
    return np.array(moved)


def _ground(axes: Axes, drawing: _Drawing, inch: float) -> None:
    """Shade every second band, name the bands at the left and the columns below."""
    for number, (at, band) in enumerate(drawing.bands.items()):
        last = at == len(drawing.places.bands) - 1
        if number % 2:
            axes.axhspan(band.start, band.start + band.length, color="#f3f3f3", linewidth=0, zorder=0)
        name = "tokens" if at == 0 else "answer" if last else f"layer {band.name}"
        axes.annotate(
            name, (0, band.centre), xytext=(-6, 0), textcoords="offset points", ha="right", va="center",
            fontsize=SCREEN.label, color=DARK, annotation_clip=False,
        )  # fmt: skip
    for column in drawing.columns.values():
        if column.start:
            axes.axvline(column.start, color="white", linewidth=2, zorder=0.5)
        role = fitted(column.name, SCREEN.note, column.length * inch - 0.06)
        axes.annotate(
            plain(role), (column.centre, 0), xytext=(0, 1), textcoords="offset points", ha="center", va="bottom",
            fontsize=SCREEN.note, color=DARK,
        )  # fmt: skip


def _curve(start: Float[np.ndarray, " xy"], end: Float[np.ndarray, " xy"]) -> Float[np.ndarray, "point xy"]:
    """Return points of a curve that leaves upward and arrives from below."""
    t = np.linspace(0, 1, POINTS)[:, None]
    bend = np.array([0, 0.55 * (end[1] - start[1])])
    first, second = start + bend, end - bend
    points: Float[np.ndarray, "point xy"] = (
        (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3 * end
    )
    return points


def _colour(score: float) -> str:
    return NEEDED if score < 0 else AGAINST


def _edges(axes: Axes, drawing: _Drawing) -> None:
    from matplotlib.collections import LineCollection

    most = max((abs(score) for *_, score in drawing.edges), default=1)
    lines = [_curve(drawing.points[source], drawing.points[target]) for source, target, _ in drawing.edges]
    shares = [abs(score) / most for *_, score in drawing.edges]
    axes.add_collection(
        LineCollection(
            lines,
            colors=[_colour(score) for *_, score in drawing.edges],
            linewidths=[max(WIDEST_EDGE * share, 0.6) for share in shares],
            alpha=[0.3 + 0.3 * share**0.5 for share in shares],
            capstyle="round",
            zorder=1,
        )
    )


def _nodes(axes: Axes, drawing: _Drawing, graph: CircuitGraph, inch: float) -> None:
    from matplotlib import patheffects

    tokens, nodes = len(graph.nodes.roles), graph.nodes.nodes
    widest = LARGEST_NODE * inch * 72
    most = max(abs(node.score) for node in nodes)
    halo = [patheffects.withStroke(linewidth=2, foreground="white")]
    for at, node in enumerate(nodes):
        size = max(widest * (abs(node.score) / most) ** 0.5, 4)
        x, y = drawing.points[tokens + at]
        axes.plot(
            x, y, marker="o" if node.unit != "error" else "D", markersize=size, color=_colour(node.score),
            markeredgecolor="white", markeredgewidth=0.8, zorder=3,
        )  # fmt: skip
        text = str(node.unit) if node.unit != "error" else f"e{node.coordinate}"
        inside = text_width(text, SCREEN.note) * 72 < 0.75 * size
        axes.annotate(
            text, (x, y), xytext=(0, 0 if inside else -size / 2 - 1), textcoords="offset points", ha="center",
            va="center" if inside else "top", fontsize=SCREEN.note, color="white" if inside else DARK, zorder=4,
            path_effects=None if inside else halo,
        )  # fmt: skip
    box: dict[str, Any] = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": DARK, "linewidth": 0.8}
    for at, token in enumerate(graph.tokens):
        x, y = drawing.points[at]
        if np.isfinite(x) and np.isfinite(y):
            axes.text(x, y, plain(token.strip()), ha="center", va="center", fontsize=SCREEN.label, bbox=box, zorder=4)
    x, y = drawing.points[-1]
    words = " over ".join(f"“{word.strip()}”" for word in (graph.answer, graph.foil) if word)
    axes.text(
        x, y, plain(words or "answer - foil"), ha="center", va="center", fontsize=SCREEN.label, bbox=box, zorder=4
    )


def _title(graph: CircuitGraph) -> str:
    """Return what is drawn, and the example."""
    cell, nodes = graph.nodes.cell, graph.nodes.nodes
    lines = [
        f"{cell.model}, {cell.task}: the {len(nodes)} best nodes of {cell.basis} under {cell.method}, and their "
        f"{len(graph.edges)} strongest edges"
    ]
    if graph.answer:
        answers = f"“{graph.answer.strip()}”, not “{graph.foil.strip()}”"
        lines.append(f"For example “{graph.prompt}”: {answers}. Numbers name units.")
    return "\n".join(fitted(line, SCREEN.title, WIDTH - 0.2) for line in lines)


def _key(figure: Figure, graph: CircuitGraph) -> None:
    """Say what colour, size and width mean."""
    from matplotlib.lines import Line2D

    node = max(abs(each.score) for each in graph.nodes.nodes)
    edge = max((abs(each.score) for each in graph.edges), default=0)

    def dot(colour: str, label: str) -> Line2D:
        return Line2D([], [], color=colour, marker="o", linewidth=2.5, alpha=0.8, markersize=7, label=label)

    signs = {
        score > 0 for score in (*(each.score for each in graph.nodes.nodes), *(each.score for each in graph.edges))
    }
    handles = [
        *([dot(NEEDED, "the answer needs it")] if False in signs else []),
        *([dot(AGAINST, "works against the answer")] if True in signs else []),
        Line2D(
            [],
            [],
            color=DARK,
            marker="o",
            linewidth=0,
            markersize=9,
            label=f"largest node: {node:.2g} logits",
        ),
        Line2D([], [], color=DARK, linewidth=WIDEST_EDGE, alpha=0.65, label=f"widest edge: {edge:.2g} logits"),
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=4, frameon=False, fontsize=SCREEN.note, handlelength=1.8,
        columnspacing=1.4, borderaxespad=0.2,
    )  # fmt: skip
