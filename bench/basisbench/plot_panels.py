"""Draw panels: one pair of axes per task and family, one legend, one title that states the setting.

The y-range is fixed, so that pictures compare. A value outside it is drawn as a triangle at the edge, and the farthest
one is told in the panel; a curve that is not defined is named instead of drawn.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from basisbench.plot_style import WINDOW, Style, set_size_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Quantity = Literal["faithfulness", "completeness"]
Horizontal = Literal["size", "bits"]

IDEAL: Mapping[Quantity, float] = {"faithfulness": 1.0, "completeness": 0.0}
Y_LABEL: Mapping[Quantity, str] = {
    "faithfulness": "faithfulness of the circuit\n(0: empty circuit, 1: full model)",
    "completeness": "completeness: what the rest still does\n(0: nothing, ideal; 1: full model)",
}
X_LABEL: Mapping[Horizontal, str] = {
    "size": "circuit size k (nodes)",
    "bits": "length of the circuit's name (bits)",
}
X_NOTE: Mapping[Horizontal, str] = {
    "size": "Horizontal: nodes in the circuit, logarithmic from 1 on, with 0 at the left end.",
    "bits": "Horizontal: bits to name the circuit, log2 C(N, k), logarithmic from 10 on and linear below; "
    "bits compare bases of different width.",
}


@dataclass(frozen=True, eq=False)
class Panel:
    """One pair of axes: lines of one quantity for one task and family."""

    title: str
    quantity: Quantity
    lines: tuple[tuple[str, Style, pd.DataFrame], ...]


def draw_panels(panels: Sequence[Panel], x: Horizontal, heading: str, setting: str, *, columns: int) -> Figure:
    """Draw panels on a grid with one legend, a title that states the setting, and labelled axes.

    Args:
        panels: what to draw, in reading order.
        x: column of the horizontal axis.
        heading: first line of the title.
        setting: second line: what the panels have in common.
        columns: columns of the grid.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = -(-len(panels) // columns)
    width, height = max(6.6, 3.65 * columns), 2.5 * rows + 1.7
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    largest = max(float(rows[x].max()) for panel in panels for _, _, rows in panel.lines)
    outside = [_draw_panel(axes, panel, x) for axes, panel in zip(grid, panels, strict=False)]
    for index, axes in enumerate(grid):
        if index >= len(panels):
            axes.set_axis_off()
            continue
        set_size_axis(axes, largest, linear_below=1.0 if x == "size" else 10.0)
        axes.set_ylim(*WINDOW)
        axes.set_yticks(np.arange(0, WINDOW[1], 0.2))
        # Panels above an unused place of the grid are the last of their column and need its tick labels.
        lowest = index + columns >= len(panels)
        axes.tick_params(labelsize=8.5, labelbottom=lowest)
        if lowest:
            axes.set_xlabel(X_LABEL[x], fontsize=9)
    quantities = {panel.quantity: None for panel in panels}
    if len(quantities) == 1:
        figure.supylabel(Y_LABEL[panels[0].quantity], fontsize=10)
    else:
        for axes, panel in zip(grid, panels, strict=False):
            axes.set_ylabel(panel.quantity, fontsize=9)
            axes.tick_params(labelleft=True)
    notes = f"{X_NOTE[x]} Bands: 95% bootstrap intervals over evaluation examples."
    if any(outside):
        notes += " Triangles: values outside the axis, the farthest is told; bands are cut there."
    figure.suptitle("\n".join([*_wrap(heading, width), *_wrap(setting, width)]), fontsize=11)
    styles = {label: style for panel in panels for label, style, _ in panel.lines}
    handles = [
        Line2D([], [], color=s.colour, linestyle=s.line, marker=s.marker, markersize=5, linewidth=1.8, label=label)
        for label, s in styles.items()
    ]
    handles.append(Line2D([], [], color="#444444", linestyle=":", linewidth=1.0, label="ideal"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=_legend_columns([*styles, "ideal"], width),
        fontsize=9.5,
        frameon=False,
        handlelength=3.2,
        title="\n".join(_wrap(notes, width * 1.2)),
        title_fontsize=8.5,
    )
    return figure


def _draw_panel(axes: Axes, panel: Panel, x: Horizontal) -> bool:
    """Draw the lines of a panel; return whether a value lies outside the window."""
    low, high = WINDOW
    margin = 0.02 * (high - low)
    extremes: list[float] = []
    undefined: list[str] = []
    axes.axhline(IDEAL[panel.quantity], color="#444444", linestyle=":", linewidth=1.0, zorder=1)
    for label, style, rows in panel.lines:
        k = rows[x].to_numpy(dtype=float)
        y, y_low, y_high = (rows[f"{panel.quantity}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
        if np.isnan(y).any():
            undefined.append(label)
            continue
        axes.fill_between(k, y_low, y_high, color=style.colour, alpha=0.18, linewidth=0)
        axes.plot(
            k,
            y,
            color=style.colour,
            linestyle=style.line,
            marker=style.marker,
            markersize=3.4,
            linewidth=1.6,
            label=label,
        )
        for beyond, edge, marker in ((y > high, high - margin, "^"), (y < low, low + margin, "v")):
            if beyond.any():
                axes.plot(
                    k[beyond], np.full(int(beyond.sum()), edge), color=style.colour, marker=marker, linestyle="none"
                )
                extremes.append(float(y.max() if marker == "^" else y.min()))
    axes.set_title(panel.title, fontsize=10)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    notes = [f"outside: {', '.join(f'{value:.2g}' for value in extremes)}"] if extremes else []
    notes += [f"not defined, F(M) not above F(0):\n{', '.join(undefined)}"] if undefined else []
    if notes:
        axes.text(
            0.03,
            0.94,
            "\n".join(notes),
            transform=axes.transAxes,
            fontsize=8,
            va="top",
            color="#333333",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )
    return bool(extremes)


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure at 150 dots per inch; a PNG gets a palette of 256 colours, a third of the bytes.

    Args:
        figure: what to save.
        path: the file; its suffix decides the type.
    """
    if path.suffix != ".png":
        figure.savefig(path, dpi=150)
        return
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format="png")
    buffer.seek(0)
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True, dpi=(150, 150))


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many legend entries fit side by side in a figure of that width in inches."""
    inches = [0.8 + 0.085 * len(label) for label in labels]
    return len(labels) if sum(inches) < width else max(2, int(width / max(inches)))


def _wrap(text: str, width: float) -> list[str]:
    """Wrap a line of a title to a figure's width in inches, between its pieces where it has any."""
    bound = text.replace(" ", "\u00a0").replace(",\u00a0", ", ").replace(".\u00a0", ". ") if ", " in text else text
    return [line.replace("\u00a0", " ") for line in textwrap.wrap(bound, int(width * 12))]
