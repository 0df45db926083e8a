"""Where a circuit sits: a heat map of layers and roles, a panel for each cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from basisbench.errors import BasisBenchError
from basisbench.results.circuit_nodes import CircuitNodes, place_name

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure

MOST_PANELS = 12


def layers_and_roles(found: CircuitNodes) -> Float[np.ndarray, "layer role"]:
    """Return the summed |score| of the nodes of each layer and role, in logits; roles as in `CircuitNodes.roles`."""
    table = np.zeros((len(found.layers), len(found.roles)))
    for node in found.nodes:
        at = found.layers.index(node.layer), found.roles.index(place_name(node.role, node.token))
        table[at] += abs(node.score)
    return table


def plot_node_map(found: Sequence[CircuitNodes]) -> Figure:
    """Draw the summed |score| of each cell's nodes by layer (upward) and role.

    Args:
        found: circuits, at most 12; those without nodes have no panel. Each panel has a scale of its own, for |scores|
            of cells need not be alike.

    Raises:
        BasisBenchError: there are none, or too many.
    """
    from matplotlib.figure import Figure

    found = [each for each in found if each.nodes]
    if not 0 < len(found) <= MOST_PANELS:
        raise BasisBenchError(
            f"a picture has 1 to {MOST_PANELS} circuits that name nodes, found {len(found)}; choose with --task, "
            "--basis and --method"
        )
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    layers, roles = (max(len(getattr(each, name)) for each in found) for name in ("layers", "roles"))
    size = columns * (1.8 + 0.3 * roles), rows * (1.9 + 0.16 * layers)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, each in zip(panels, found, strict=False):
        image = panel.imshow(layers_and_roles(each), origin="lower", aspect="auto", cmap="Blues", vmin=0)
        panel.set_xticks(range(len(each.roles)), each.roles, rotation=90, fontsize=7)
        step = -(-len(each.layers) // 12)
        panel.set_yticks(range(0, len(each.layers), step), [str(layer) for layer in each.layers[::step]], fontsize=7)
        panel.set_ylabel("layer", fontsize=8)
        title = f"{each.cell.task}, {each.cell.basis}\n{each.cell.method}, {len(each.nodes)} nodes"
        panel.set_title(title, fontsize=8)
        bar = figure.colorbar(image, ax=panel)
        bar.set_label("sum of |score|, logits", fontsize=7)
        bar.ax.tick_params(labelsize=7)
    for panel in panels[len(found) :]:
        panel.remove()
    return figure
