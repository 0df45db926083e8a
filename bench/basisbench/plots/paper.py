r"""Pictures for print: a column or a page wide, no title inside, the caption as LaTeX.

1. The size in inches is what the file has: figures go into a paper unscaled, so that 8 and 7 points are 8 and 7 points.
2. Panels, colours, order and the range of axes are those of the ordinary pictures; line styles and markers tell lines
   apart in grey too.
3. What the ordinary title and notes say is the caption, in LaTeX without packages, names escaped, for `\caption{...}`;
   a file of it is read with `\caption{\protect\input{NAME.tex}}`. Until then it is the figure's label, `get_label()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from basisbench.errors import BasisBenchError
from basisbench.plots.panels import Horizontal, Panel, Pen, Quantity, Remarks, draw_lines, outside_text, write_note
from basisbench.plots.style import WINDOW, set_size_axis
from basisbench.plots.text import escape, fitted, legend_columns, plain, unbroken

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Width: TypeAlias = "Literal['column', 'page'] | float"

WIDTHS = {"column": 3.3, "page": 6.9}
"""Inches of a column and of a page of the usual two-column classes."""

LARGE, SMALL = 8.0, 7.0
"""Points of axis labels, and of everything else."""

DPI = 300
"""Dots per inch of a PNG for print."""

PEN = Pen(line=1.0, marker=2.6, edge_marker=3.2, ideal=0.7)
GREY, GRID = "#444444", "#dddddd"

X_LABEL: dict[Horizontal, str] = {
    "size": "size $k$ (nodes)",
    "bits": "bits, $\\log_2 C(N, k)$",
}
X_CAPTION: dict[Horizontal, str] = {
    "size": "Horizontal: circuit size $k$ in nodes, logarithmic from 1 on, with 0 at the left end.",
    "bits": "Horizontal: bits that name a circuit of $k$ nodes, the logarithm to base 2 of the number of ways to "
    "choose them from all $N$, logarithmic from 10 on and linear below; bits compare bases of different width.",
}
Y_CAPTION: dict[Quantity, str] = {
    "faithfulness": "faithfulness of the circuit $C$, $(F(C) - F(\\emptyset)) / (F(M) - F(\\emptyset))$ "
    "(0: empty circuit, 1: full model)",
    "completeness": "completeness, $(F(M \\setminus C) - F(\\emptyset)) / (F(M) - F(\\emptyset))$: what the rest still "
    "does (0: nothing, ideal; 1: full model)",
}


def inches(width: Width) -> float:
    """Return a width in inches.

    Args:
        width: "column", "page", or inches.

    Raises:
        BasisBenchError: it is neither, or outside 2 to 20 inches.
    """
    if isinstance(width, str) and width in WIDTHS:
        return WIDTHS[width]
    try:
        value = float(width)
    except ValueError:
        value = float("nan")
    if not 2 <= value <= 20:
        raise BasisBenchError(f"width '{width}' of a picture; expected column, page, or 2 to 20 inches")
    return value


def draw_paper(
    panels: Sequence[Panel],
    x: Horizontal,
    heading: str,
    setting: str,
    told: str,
    width: Width,
    *,
    short_names: Sequence[tuple[str, str]] = (),
) -> Figure:
    """Draw panels for print.

    Args:
        panels: what to draw, in reading order, with short titles; a single panel's title goes to the caption alone.
        x: column of the horizontal axis.
        heading: first words of the caption, plain text.
        setting: what the panels have in common, plain text.
        told: what the panels show, with task versions, plain text.
        width: of the figure.
        short_names: (label, full name) of the bases whose names are shortened.
    """
    from matplotlib.lines import Line2D

    wide = inches(width)
    several = len({panel.quantity for panel in panels}) > 1
    columns = paper_columns(len(panels), wide, even=several)
    rows = -(-len(panels) // columns)
    styles = {label: style for panel in panels for label, style, _ in panel.lines}
    handles = [
        Line2D(
            [], [], color=s.colour, linestyle=s.line, marker=s.marker, markersize=3, linewidth=1.2, label=plain(name)
        )
        for name, s in styles.items()
    ]
    handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=PEN.ideal, label="ideal"))
    room = (wide - 0.55 - 0.1 * columns) / columns
    figure = paper_figure(wide, paper_height(rows, room, handles, wide))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    grid[0].set_ylim(*WINDOW)
    grid[0].set_yticks(np.arange(0, WINDOW[1] + 0.1, 0.5))
    largest = max(float(lines[x].max()) for panel in panels for _, _, lines in panel.lines)
    set_size_axis(grid[0], largest, linear_below=1.0 if x == "size" else 10.0)
    _thin_out(grid[0], room)
    remarks: list[tuple[Panel, Remarks]] = []
    for index, axes in enumerate(grid):
        if index >= len(panels):
            axes.set_axis_off()
            continue
        remarks.append((panels[index], _draw_panel(axes, panels[index], x, room if len(panels) > 1 else None)))
        # Every lowest panel has a label: one below them all would lie where the legend is.
        lowest = index + columns >= len(panels)
        frame_panel(axes, bottom=lowest, left=several or index % columns == 0)
        if lowest:
            axes.set_xlabel(X_LABEL[x], fontsize=LARGE, labelpad=1.5)
        if several:
            axes.set_ylabel(panels[index].quantity, fontsize=SMALL)
    if not several:
        figure.supylabel(panels[0].quantity, fontsize=LARGE)
    add_legend(figure, handles, wide)
    caption = [f"{escape(heading)}: {escape(setting)}.", f"{escape(told)}."]
    caption += [X_CAPTION[x], *_y_captions(panels), *_remark_captions(remarks), *name_captions(short_names)]
    figure.set_label(" ".join(caption))
    return figure


def paper_columns(panels: int, wide: float, *, even: bool = False) -> int:
    """Return how many panels stand side by side: two in a column, three on a page; pairs stay together, as do four."""
    most = max(2, round(wide / 1.7)) if even or panels == 4 else max(2, round(wide / 2.3))
    return min(panels, most - most % 2 if even else most)


def paper_height(rows: int, room: float, handles: Sequence[Line2D], wide: float) -> float:
    """Return the height in inches of a figure: its rows of panels, the legend, the label of the axis."""
    entries = -(-len(handles) // _legend_columns(handles, wide))
    return rows * (min(max(0.72 * room, 0.85), 2.2) + 0.2) + 0.145 * entries + 0.4


def paper_figure(wide: float, height: float) -> Figure:
    """Return an empty figure of a size in inches that leaves little between its panels."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(
        figsize=(wide, height), layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    )


def frame_panel(axes: Axes, *, bottom: bool, left: bool) -> None:
    """Draw thin spines, ticks and a grid; tick labels on the outer panels only."""
    axes.tick_params(labelsize=SMALL, width=0.5, length=2.0, pad=1.5, labelbottom=bottom, labelleft=left)
    axes.tick_params(which="minor", width=0.4, length=1.2)
    axes.spines[:].set_linewidth(0.5)
    axes.grid(color=GRID, linewidth=0.4)
    axes.set_axisbelow(True)


def add_legend(figure: Figure, handles: Sequence[Line2D], wide: float) -> None:
    """Put a legend below the panels, in as many columns as fit."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=_legend_columns(handles, wide),
        fontsize=SMALL,
        frameon=False,
        handlelength=3.2,
        handletextpad=0.5,
        columnspacing=1.0,
        labelspacing=0.25,
        borderpad=0.1,
        borderaxespad=0.1,
    )


def name_captions(short_names: Sequence[tuple[str, str]]) -> list[str]:
    """Return the sentence that tells what short labels stand for, in LaTeX."""
    pairs = "; ".join(f"{escape(label)}: {unbroken(name)}" for label, name in short_names)
    return [f"Short names: {pairs}."] if pairs else []


def _legend_columns(handles: Sequence[Line2D], wide: float) -> int:
    # A handle is 3.2 letters long, and half a letter and a letter apart from its text and the next entry.
    labels = [str(handle.get_label()) for handle in handles]
    return legend_columns(labels, SMALL, wide - 0.1, handle=4.8 * SMALL / 72)


def _draw_panel(axes: Axes, panel: Panel, x: Horizontal, room: float | None) -> Remarks:
    """Draw a panel with its title, where it has one, of at most so many inches."""
    remarks = draw_lines(axes, panel, x, PEN)
    if room is not None:
        axes.set_title(fitted(plain(panel.title), SMALL, room), fontsize=SMALL, pad=2.5)
    notes = [outside_text(remarks.extremes)] if remarks.extremes else []
    notes += [f"not defined: {len(remarks.undefined)} of {len(panel.lines)}"] if remarks.undefined else []
    if notes:
        write_note(axes, "\n".join(notes), size=SMALL)
    return remarks


def _thin_out(axes: Axes, room: float) -> None:
    """Label every second or third power of ten where all of them would touch; the grid keeps them all."""
    from matplotlib.ticker import FuncFormatter

    from basisbench.plots.style import short_number

    places = [float(place) for place in axes.xaxis.get_ticklocs()]
    powers = places[1:]
    # The widest label, "100k", takes a quarter of an inch at 7 points.
    step = next((s for s in (1, 2, 3) if room / len(places) * s >= 0.3), 4)
    labelled = {0.0, *(powers if step == 1 else powers[step - 1 :: step])}
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: short_number(value) if float(value) in labelled else "")
    )


def _y_captions(panels: Sequence[Panel]) -> list[str]:
    names = list(dict.fromkeys(panel.quantity for panel in panels))
    return [
        f"Vertical: {'; '.join(Y_CAPTION[name] for name in names)}.",
        "Bands: 95\\% bootstrap intervals over evaluation examples. Dotted: the ideal value.",
    ]


def _remark_captions(remarks: Sequence[tuple[Panel, Remarks]]) -> list[str]:
    """Return what the caption says of values outside the axis and of lines that are not defined, in LaTeX."""
    sentences: list[str] = []
    if any(found.extremes for _, found in remarks):
        sentences.append("Triangles: values outside the axis, the farthest is told; bands are cut there.")
    undefined = [
        f"{escape(', '.join(found.undefined))} in {escape(panel.title)}" for panel, found in remarks if found.undefined
    ]
    if undefined:
        sentences.append(f"Not defined, as $F(M)$ is not above $F(\\emptyset)$: {'; '.join(undefined)}.")
    return sentences
