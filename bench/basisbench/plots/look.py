"""How large everything in a picture is: one look for the screen, one for print at a given width.

Print goes into a paper unscaled: the size in inches is what the file has, so that 8 and 7 points are 8 and 7 points.
Both looks show the same lines, colours, order and range of axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from basisbench.errors import BasisBenchError, unknown_name
from basisbench.plots.text import legend_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

StyleName = Literal["ordinary", "paper"]
Width: TypeAlias = "Literal['column', 'page'] | float"

WIDTHS = {"column": 3.3, "page": 6.9}
"""Inches of a column and of a page of the usual two-column classes."""

HANDLE_LENGTH = 3.2
"""Length of a line in a legend, in letters: long enough to show how it is broken."""


@dataclass(frozen=True)
class Look:
    """Sizes of a picture: points for text, lines and markers; the defaults are for the screen.

    Attributes:
        width: of a figure for print, in inches; None on the screen, where it is what the panels need.
        line: width of a curve.
        thin: width of a line beside a curve.
        marker: size of a curve's markers.
        tick_mark: length of the tick at the end of a curve's scores.
        edge_marker: size of the triangles that stand for values outside the axis.
        ideal: width of the line at the ideal value.
        point: size of a point of the cost picture.
        whisker: width of its whiskers.
        key: line width and marker size in the legend.
        title: text of a panel's title.
        label: text of an axis label.
        outer_label: text of the label of all vertical axes.
        small: text of ticks.
        note: text of remarks in a panel.
        legend: how the legend is set, as matplotlib's arguments.
        pads: between a panel and its title, its axis labels, its tick labels.
        frame: width of a panel's frame.
        grid: width of grid lines.
        tick: length and width of labelled ticks.
        minor_tick: length and width of the ticks between them.
        margin: inches around panels.
        dpi: dots per inch of a PNG.
    """

    width: float | None = None
    line: float = 1.6
    thin: float = 0.8
    marker: float = 3.4
    tick_mark: float = 11.0
    edge_marker: float = 6.0
    ideal: float = 1.0
    point: float = 7.0
    whisker: float = 1.0
    key: tuple[float, float] = (1.8, 5.0)
    title: float = 10.0
    label: float = 9.0
    outer_label: float = 10.0
    small: float = 8.5
    note: float = 8.0
    legend: Mapping[str, Any] = field(default_factory=lambda: {"fontsize": 9.5})
    pads: tuple[float, float, float] = (6.0, 4.0, 3.5)
    frame: float = 0.8
    grid: float = 0.6
    tick: tuple[float, float] = (3.5, 0.8)
    minor_tick: tuple[float, float] = (2.0, 0.6)
    margin: float = 0.04167
    dpi: int = 150


SCREEN = Look()


def look_of(style: StyleName, width: Width = "column") -> Look:
    """Return the look of a style of pictures.

    Args:
        style: "ordinary" for the screen, "paper" for print.
        width: of a figure for print: "column", "page", or inches.

    Raises:
        BasisBenchError: there is no such style or width.
    """
    if style not in get_args(StyleName):
        raise unknown_name("style of pictures", style, get_args(StyleName))
    wide = inches(width)
    return SCREEN if style == "ordinary" else Look(
        width=wide, line=1.0, thin=0.5, marker=2.6, tick_mark=6.0, edge_marker=3.2, ideal=0.7, point=4.0, whisker=0.7,
        key=(1.2, 3.0), title=7.0, label=8.0, outer_label=8.0, small=7.0, note=7.0, pads=(2.5, 1.5, 1.5),
        legend={
            "fontsize": 7.0, "handletextpad": 0.5, "columnspacing": 1.0, "labelspacing": 0.25, "borderpad": 0.1,
            "borderaxespad": 0.1,
        },
        frame=0.5, grid=0.4, tick=(2.0, 0.5), minor_tick=(1.2, 0.4), margin=0.02, dpi=300,
    )  # fmt: skip


def inches(width: Width | str) -> float:
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


def grid_columns(panels: int, look: Look, *, pairs: bool = False) -> int:
    """Return how many panels stand side by side; pairs stay together, four panels make a square.

    Args:
        panels: how many there are.
        look: of the picture.
        pairs: whether each two panels belong together.
    """
    if look.width is None:
        if pairs:
            return 2 if panels <= 6 else 4
        return panels if panels <= 3 else 2 if panels == 4 else 3
    most = max(2, round(look.width / (1.7 if pairs or panels == 4 else 2.3)))
    return min(panels, most - most % 2 if pairs else most)


def panel_room(width: float, columns: int, *, labels: float = 0.55) -> float:
    """Return the inches that a panel has beside others, `labels` being what the labels of the first one take."""
    return (width - labels - 0.1 * columns) / columns


def print_height(rows: int, room: float, legend_rows: int) -> float:
    """Return the height in inches of a figure for print: rows of panels, the legend, the label of the axis."""
    return rows * (min(max(0.72 * room, 0.85), 2.2) + 0.2) + 0.145 * legend_rows + 0.4


def make_figure(width: float, height: float, look: Look) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    margins = ConstrainedLayoutEngine(w_pad=look.margin, h_pad=look.margin, wspace=0.02, hspace=0.02)
    return Figure(figsize=(width, height), layout=margins)


def set_frame(axes: Axes, look: Look, *, bottom: bool, left: bool) -> None:
    """Draw the frame and the ticks of a panel, with tick labels at the bottom and at the left where asked."""
    length, width = look.tick
    axes.tick_params(labelsize=look.small, length=length, width=width, pad=look.pads[2])
    axes.tick_params(labelbottom=bottom, labelleft=left)
    axes.tick_params(which="minor", length=look.minor_tick[0], width=look.minor_tick[1])
    axes.spines[:].set_linewidth(look.frame)


def add_legend(figure: Figure, handles: Sequence[Line2D], width: float, look: Look, **settings: Any) -> None:
    """Put a legend below the panels, in as many columns as fit into a width in inches.

    Args:
        figure: where to put it.
        handles: its entries.
        width: what there is.
        look: of the picture.
        **settings: matplotlib's, in place of ours.
    """
    columns = _legend_columns(handles, width, look)
    ours: dict[str, Any] = {"ncols": columns, "handlelength": HANDLE_LENGTH, "title_fontsize": 8.5}
    figure.legend(handles=handles, loc="outside lower center", frameon=False, **{**ours, **look.legend, **settings})


def legend_rows(handles: Sequence[Line2D], width: float, look: Look) -> int:
    """Return how many rows a legend takes that has a width in inches."""
    return -(-len(handles) // _legend_columns(handles, width, look))


def _legend_columns(handles: Sequence[Line2D], width: float, look: Look) -> int:
    """Return how many columns of a legend fit into a width in inches."""
    size = look.legend["fontsize"]
    letters = HANDLE_LENGTH + look.legend.get("handletextpad", 0.8) + look.legend.get("columnspacing", 2.0)
    labels = [str(handle.get_label()) for handle in handles]
    return legend_columns(labels, size, width - 0.1, handle=letters * size / 72)
