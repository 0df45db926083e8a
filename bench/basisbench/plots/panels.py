"""Draw panels: one pair of axes per task and family, one legend, what they show around them or in a caption.

1. The y-range is fixed, so that pictures compare. A value outside it is drawn as a triangle at the edge, and the
   farthest one is named in the panel; a curve that is not defined is named instead of drawn.
2. A curve is faint beyond the nodes that have a score: there the order is random. A dictionary's errors counted as one
   node each give a thin line of its colour, and what its features can do at most a dotted level.
3. A panel below a gate is grey and says why, with F(M) and F(0) in logits.
4. On the screen a title states the conditions, and the legend says how to read the axes. In print the caption does
   (`basisbench.plots.caption`); it is the figure's label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from basisbench.plots.caption import curves_caption
from basisbench.plots.look import (
    Look,
    add_legend,
    grid_columns,
    legend_rows,
    make_figure,
    panel_room,
    print_height,
    set_frame,
)
from basisbench.plots.style import BELOW_GATE, COLOURS, DARK, WINDOW, Dashes, draw_grid, set_size_axis, stroke
from basisbench.plots.text import Description, fitted, name_lines, plain, wrapped
from basisbench.results.labels import label_notes
from basisbench.types import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Quantity = Literal["faithfulness", "completeness"]
Horizontal = Literal["size", "bits", "all_units"]

IDEAL: Mapping[Quantity, float] = {"faithfulness": 1.0, "completeness": 0.0}
Y_LABEL: Mapping[Quantity, str] = {
    "faithfulness": "faithfulness of the circuit\n(0: empty circuit, 1: full model)",
    "completeness": "completeness: what the rest still does\n(0: nothing, ideal; 1: full model)",
}
X_LABEL: Mapping[Horizontal, tuple[str, str]] = {
    "size": ("circuit size k (nodes per aligned group)", "size $k$ (nodes)"),
    "bits": ("length of the circuit's name (bits)", "bits, $\\log_2 C(N, k)$"),
    "all_units": ("distinct units in the circuits of all aligned groups", "distinct units"),
}
"""Labels for the screen and for print."""
X_NOTE: Mapping[Horizontal, str] = {
    "size": "Horizontal: nodes in the circuit of each aligned group, logarithmic from 1 on, with 0 at the left end.",
    "bits": "Horizontal: bits to name the circuit, log2 C(N, k), logarithmic from 10 on and linear below; "
    "bits compare bases of different width.",
    "all_units": "Horizontal: distinct units in the circuits of all aligned groups together, logarithmic from 1 on, "
    "with 0 at the left end.",
}
CEILING: Dashes = (0, (1.0, 1.0))
FAINT = 0.3
"""How much of a curve's colour is left where the order of nodes is random."""

BESIDE_LABEL: Mapping[str, str] = {
    "node": "thin: errors as one node each (Marks et al.)",
    "ablate": "dotted: all features, errors at reference",
}
"""What the legend says, once, of the lines that stand beside those of dictionaries, by error policy."""
RANDOM_LABEL = "faint beyond |: no scores, random order"


@dataclass(frozen=True, eq=False)
class Line:
    """A curve of a panel.

    Attributes:
        label: of the legend.
        style: of the basis, or of what else tells lines apart.
        rows: a row per size, in their order.
        beside: the error policy of a line beside that of a dictionary (a key of `BESIDE_LABEL`); "" for its own.
    """

    label: str
    style: Style
    rows: pd.DataFrame
    beside: str = ""


@dataclass(frozen=True, eq=False)
class Panel:
    """One pair of axes: lines of one quantity for one task and family."""

    title: str
    quantity: Quantity
    lines: tuple[Line, ...]

    @property
    def gate(self) -> str:
        """Return why there is too little to explain, with F(M) and F(0); "" where there is enough."""
        rows = next((line.rows for line in self.lines if line.rows["gate"].iloc[0]), None)
        if rows is None:
            return ""
        first = rows.iloc[0]
        return f"{first['gate']}; F(M) {first['full_mean']:.2f}, F(0) {first['empty_mean']:.2f} logits"


@dataclass(frozen=True)
class Remarks:
    """What a panel does not show.

    Attributes:
        outside: the farthest value of each line that leaves the window, per side.
        undefined: labels of the lines that are not defined, F(M) being F(0).
    """

    outside: tuple[float, ...]
    undefined: tuple[str, ...]


def draw_panels(panels: Sequence[Panel], x: Horizontal, about: Description, look: Look) -> Figure:
    """Draw panels on a grid with one legend and labelled axes, and say what they show.

    Args:
        panels: what to draw, in reading order.
        x: column of the horizontal axis.
        about: what the picture shows.
        look: of the picture.
    """
    quantities = list(dict.fromkeys(panel.quantity for panel in panels))
    several = len(quantities) > 1
    columns = grid_columns(len(panels), look, pairs=several)
    rows = -(-len(panels) // columns)
    handles = _handles(panels, look)
    notes = label_notes(about.labels)
    width = look.width or max(6.6, 3.65 * columns)
    room = panel_room(width, columns)
    if look.width is None:
        height = 2.5 * rows + 1.7 + 0.14 * len(notes)
    else:
        height = print_height(rows, room, legend_rows(handles, width, look))
    figure = make_figure(width, height, look)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    largest = max(float(line.rows[x].max()) for panel in panels for line in panel.lines)
    linear_below = 10.0 if x == "bits" else 1.0
    # The axes are shared, so one call sets all. With limits given first, no curve makes matplotlib look for them.
    grid[0].set_ylim(*WINDOW)
    grid[0].set_yticks(np.arange(0, WINDOW[1] + 0.01, 0.2 if look.width is None else 0.5))
    set_size_axis(grid[0], largest, linear_below=linear_below, room=room)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    remarks: list[Remarks] = []
    for index, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
        # In print the caption names a single panel.
        title = "" if look.width is not None and len(panels) == 1 else fitted(panel.title, look.title, room)
        remarks.append(_draw_panel(axes, panel, x, title, look))
        # Panels above an unused place of the grid are the last of their column and need its tick labels.
        lowest = index + columns >= len(panels)
        first = several or index % columns == 0
        set_frame(axes, look, bottom=lowest, left=first)
        # Tick labels lie outside the frame, so that the frame need not be measured to lay the panels out.
        axes.spines[:].set_in_layout(False)
        draw_grid(axes, largest, linear_below=linear_below, x_labels=lowest, y_labels=first, look=look)
        if lowest:
            label = X_LABEL[x][look.width is not None]
            axes.set_xlabel(label, fontsize=look.label, labelpad=look.pads[1])
        if several:
            axes.set_ylabel(panel.quantity, fontsize=min(look.label, look.title))
    if not several:
        label = Y_LABEL[quantities[0]] if look.width is None else quantities[0]
        figure.supylabel(label, fontsize=look.outer_label)
    outside = any(found.outside for found in remarks)
    if look.width is not None:
        add_legend(figure, handles, width, look)
        undefined = [(panel.title, r.undefined) for panel, r in zip(panels, remarks, strict=True) if r.undefined]
        gates = {panel.title: panel.gate for panel in panels if panel.gate}
        beside = {line.beside for panel in panels for line in panel.lines}
        said = [*(name for name in BESIDE_LABEL if name in beside), *(("faint",) if _some_faint(panels) else ())]
        said += ["outside"] if outside else []
        figure.set_label(curves_caption(about, x, quantities, said, undefined=undefined, gates=gates))
        return figure
    reading = f"{X_NOTE[x]} Bands: 95% bootstrap intervals."
    if any(panel.gate for panel in panels):
        reading += " Grey: too little to explain (below a gate)."
    if outside:
        reading += " Triangles: values outside the axis, the farthest is named; bands are cut there."
    lines = [*wrapped(about.heading, width), *wrapped(about.conditions, width)]
    figure.suptitle(plain("\n".join(lines)), fontsize=11)
    below = plain("\n".join([*wrapped(reading, width * 1.2), *name_lines(notes, width)]))
    add_legend(figure, handles, width, look, title=below)
    return figure


def _handles(panels: Sequence[Panel], look: Look) -> list[Line2D]:
    """Return the entries of the legend: every line of the panels once, the ideal value, and how else lines may look."""
    from matplotlib.lines import Line2D

    lines = [line for panel in panels for line in panel.lines]
    styles = {plain(line.label): line.style for line in lines if not line.beside}
    width, marker = look.key
    handles = [
        Line2D([], [], label=label, linewidth=width, markersize=marker, marker=style.marker, **stroke(style))
        for label, style in styles.items()
    ]
    handles.append(Line2D([], [], color=DARK, linestyle=":", linewidth=look.ideal, label="ideal"))
    if look.width is not None:  # the caption says the rest
        return handles
    for policy, label in BESIDE_LABEL.items():
        if any(line.beside == policy for line in lines):
            entry = Line2D([], [], color=DARK, label=label, linewidth=look.thin)
            entry.set(linestyle=CEILING if policy == "ablate" else "-")
            handles.append(entry)
    if _some_faint(panels):
        entry = Line2D([], [], color=DARK, alpha=FAINT, label=RANDOM_LABEL, linewidth=width)
        entry.set(marker="|", markersize=look.tick_mark)
        handles.append(entry)
    return handles


def _some_faint(panels: Sequence[Panel]) -> bool:
    """Tell whether the order of nodes is random in a part of some line."""
    return not all(line.rows["scored"].all() for panel in panels for line in panel.lines)


def _draw_panel(axes: Axes, panel: Panel, x: Horizontal, title: str, look: Look) -> Remarks:
    """Draw the lines of a panel, its title and, below that, what it does not show."""
    remarks = _draw_lines(axes, panel, x, look)
    notes = []
    if panel.gate:
        axes.set_facecolor(BELOW_GATE)
        notes.append("below a gate" + ("" if look.width else f": {panel.gate}".replace("; ", "\n")))
    if remarks.outside:
        notes.append(f"outside: {', '.join(f'{value:.2g}' for value in remarks.outside)}")
    if remarks.undefined and look.width is None:
        notes.append(f"not defined, F(M) = F(0):\n{', '.join(remarks.undefined)}")
    elif remarks.undefined:
        notes.append(f"not defined: {len(remarks.undefined)} of {sum(not line.beside for line in panel.lines)}")
    # A given height: matplotlib need not look for a free one.
    above = look.pads[0] + 1.3 * look.note * "\n".join(notes).count("\n") + (1.3 * look.note if notes else 0.0)
    axes.set_title(plain(title), fontsize=look.title, y=1.0, pad=above)
    if notes:  # above the frame, where they cover no curve
        place: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0, 1.5), "textcoords": "offset points"}
        axes.annotate(
            plain("\n".join(notes)), (0.5, 1), fontsize=look.note, ha="center", va="bottom", color="#333333", **place
        )
    return remarks


def _draw_lines(axes: Axes, panel: Panel, x: Horizontal, look: Look) -> Remarks:
    """Draw the lines of a panel with their bands and the ideal value, on axes whose limits are set."""
    from matplotlib.collections import PolyCollection
    from matplotlib.lines import Line2D

    low, high = WINDOW
    margin = 0.02 * (high - low)
    outside: list[float] = []
    undefined: list[str] = []
    axes.axhline(IDEAL[panel.quantity], color=DARK, linestyle=":", linewidth=look.ideal, zorder=1)
    for own in panel.lines:
        rows = own.rows[own.rows[panel.quantity].notna() & own.rows[x].notna()]
        if rows.empty:
            undefined += [own.label] if not own.beside else []
            continue
        k = rows[x].to_numpy(dtype=float)
        y, y_low, y_high = (rows[f"{panel.quantity}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
        colour = COLOURS[own.style.colour]
        if own.beside == "ablate":
            level = Line2D([0, 1], [y[-1]] * 2, transform=axes.get_yaxis_transform(), linewidth=look.thin)
            level.set(color=colour, linestyle=CEILING)
            axes.add_line(level)
            continue
        drawn: dict[str, Any] = {"linewidth": look.thin if own.beside else look.line, **stroke(own.style)}
        last = int(rows["scored"].sum())
        # Made by hand: `fill_between` and `plot` would look for units and limits, which are given.
        line = Line2D(k[:last], y[:last], **drawn)
        beyond = Line2D(k[last - 1 :], y[last - 1 :], alpha=FAINT, **drawn)
        if not own.beside:
            band = np.concatenate([np.column_stack([k, y_low]), np.column_stack([k, y_high])[::-1]])
            axes.add_collection(PolyCollection([band], color=colour, alpha=0.18, linewidth=0), autolim=False)
            for part in (line, beyond):
                part.set(marker=own.style.marker, markersize=look.marker)
            line.set_label(own.label)
        axes.add_line(line)
        if last < len(k):
            axes.add_line(beyond)
        if last < len(k) and not own.beside:
            end = Line2D(k[last - 1 : last], y[last - 1 : last], color=colour, marker="|", linestyle="none")
            end.set(markersize=look.tick_mark, markeredgewidth=look.line)
            axes.add_line(end)
        for out, edge, marker in ((y > high, high - margin, "^"), (y < low, low + margin, "v")):
            if out.any() and not own.beside:
                axes.plot(
                    k[out],
                    np.full(int(out.sum()), edge),
                    color=colour,
                    marker=marker,
                    markersize=look.edge_marker,
                    linestyle="none",
                )
                outside.append(float(y.max() if marker == "^" else y.min()))
    axes.set_axisbelow(True)
    return Remarks(tuple(outside), tuple(undefined))
