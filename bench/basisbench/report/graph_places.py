"""Where the nodes of a graph are drawn: layers upward, roles across.

1. Each role is a column, each layer a band, the tokens a band below and the logits one above.
2. Nodes of one column and band stand in a grid, one unit apart, best first from the top left.
3. A column is as wide, and a band as high, as its fullest grid needs, so that no two nodes touch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from basisbench.results.circuit_graph import CircuitGraph, place_of

LEAST_COLUMN = 2.0
LEAST_BAND = 0.7
MARGIN = 0.8
"""Around each grid, in distances of two nodes."""
WIDER = 1.6
"""A grid has so many columns to a row."""


@dataclass(frozen=True)
class Stretch:
    """A column or a band.

    Attributes:
        name: of the role or the layer.
        start: its left or lower end.
        length: its width or height.
    """

    name: str
    start: float
    length: float

    @property
    def centre(self) -> float:
        """Its middle."""
        return self.start + self.length / 2


@dataclass(frozen=True)
class Places:
    """A drawing.

    Attributes:
        columns: roles, from left to right.
        bands: tokens, layers and logits, from below.
        points: (x, y) of the tokens, the nodes and the logits, in this order.
    """

    columns: tuple[Stretch, ...]
    bands: tuple[Stretch, ...]
    points: tuple[tuple[float, float], ...]


def place_nodes(graph: CircuitGraph) -> Places:
    """Return where to draw the nodes of a graph."""
    found = graph.nodes
    roles = range(len(found.roles))
    layers = sorted({*found.layers, *(node.layer for node in found.nodes)})
    cells = [(role, 0) for role in roles]
    cells += [(place_of(found, node), 1 + layers.index(node.layer)) for node in found.nodes]
    cells.append((len(found.roles) - 1, 1 + len(layers)))
    members: dict[tuple[int, int], list[int]] = {}
    for index, cell in enumerate(cells):
        members.setdefault(cell, []).append(index)
    counts = {cell: len(own) for cell, own in members.items()}
    across = [max(_columns(count) for (role, _), count in counts.items() if role == here) for here in roles]
    up = [
        max((math.ceil(count / across[role]) for (role, band), count in counts.items() if band == here), default=0)
        for here in range(len(layers) + 2)
    ]
    columns = _stretches(found.roles, [max(LEAST_COLUMN, count + MARGIN) for count in across])
    names = ["tokens", *(str(layer) for layer in layers), "logits"]
    bands = _stretches(names, [max(LEAST_BAND, rows + MARGIN) if rows else LEAST_BAND for rows in up])
    return Places(columns, bands, tuple(_points(len(cells), members, columns, bands, across)))


def _columns(count: int) -> int:
    """Return how many columns a grid of some nodes has."""
    return min(count, math.ceil(math.sqrt(count * WIDER)))


def _stretches(names: Sequence[str], lengths: Sequence[float]) -> tuple[Stretch, ...]:
    return tuple(Stretch(name, sum(lengths[:at]), lengths[at]) for at, name in enumerate(names))


def _points(
    count: int,
    members: Mapping[tuple[int, int], Sequence[int]],
    columns: Sequence[Stretch],
    bands: Sequence[Stretch],
    across: Sequence[int],
) -> list[tuple[float, float]]:
    points = [(0.0, 0.0)] * count
    for (role, band), own in members.items():
        rows = math.ceil(len(own) / across[role])
        for at, index in enumerate(own):
            row, column = divmod(at, across[role])
            in_row = min(across[role], len(own) - row * across[role])
            x = columns[role].centre + column - (in_row - 1) / 2
            points[index] = (round(x, 4), round(bands[band].centre + (rows - 1) / 2 - row, 4))
    return points
