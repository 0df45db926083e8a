"""Draw panels: one pair of axes per task and family, one legend, one title that states the setting.

The y-range is fixed, so that pictures compare. A value outside it is drawn as a triangle at the edge, and the farthest
one is told in the panel; a curve that is not defined is named instead of drawn.
"""

from __future__ import annotations

import gc
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import UInt32

from basisbench.plots.style import WINDOW, Style, draw_grid, set_size_axis
from basisbench.plots.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

Quantity = Literal["faithfulness", "completeness"]
Horizontal = Literal["size", "bits"]

FORMATS = ("png", "svg", "pdf")
"""Types of file that pictures are saved as."""

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


@dataclass(frozen=True)
class Pen:
    """Widths and sizes of what a panel holds, in points."""

    line: float = 1.6
    marker: float = 3.4
    edge_marker: float = 6.0
    ideal: float = 1.0


@dataclass(frozen=True)
class Remarks:
    """What a panel does not show.

    Attributes:
        extremes: the farthest value of each line that leaves the window, per side.
        undefined: labels of the lines that are not defined, F(M) not being above F(0).
    """

    extremes: tuple[float, ...]
    undefined: tuple[str, ...]


def draw_panels(
    panels: Sequence[Panel], x: Horizontal, heading: str, setting: str, *, columns: int, short_names: Sequence[str] = ()
) -> Figure:
    """Draw panels on a grid with one legend, a title that states the setting, and labelled axes.

    Args:
        panels: what to draw, in reading order.
        x: column of the horizontal axis.
        heading: first line of the title.
        setting: second line: what the panels have in common.
        columns: columns of the grid.
        short_names: what short labels stand for, told below the panels.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = -(-len(panels) // columns)
    width, height = max(6.6, 3.65 * columns), 2.5 * rows + 1.7 + 0.14 * len(short_names)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    largest = max(float(rows[x].max()) for panel in panels for _, _, rows in panel.lines)
    several = len({panel.quantity for panel in panels}) > 1
    linear_below = 1.0 if x == "size" else 10.0
    # The axes are shared, so one call sets all. With limits given first, no curve makes matplotlib look for them.
    grid[0].set_ylim(*WINDOW)
    grid[0].set_yticks(np.arange(0, WINDOW[1], 0.2))
    set_size_axis(grid[0], largest, linear_below=linear_below)
    outside = [_draw_panel(axes, panel, x) for axes, panel in zip(grid, panels, strict=False)]
    for index, axes in enumerate(grid):
        if index >= len(panels):
            axes.set_axis_off()
            continue
        # Panels above an unused place of the grid are the last of their column and need its tick labels.
        lowest = index + columns >= len(panels)
        first = several or index % columns == 0
        axes.tick_params(labelsize=8.5, labelbottom=lowest, labelleft=first)
        draw_grid(axes, largest, linear_below=linear_below, x_labels=lowest, y_labels=first)
        if lowest:
            axes.set_xlabel(X_LABEL[x], fontsize=9)
        # Tick labels lie outside the frame, so that the frame need not be measured to lay the panels out.
        axes.spines[:].set_in_layout(False)
    if not several:
        figure.supylabel(Y_LABEL[panels[0].quantity], fontsize=10)
    else:
        for axes, panel in zip(grid, panels, strict=False):
            axes.set_ylabel(panel.quantity, fontsize=9)
    notes = f"{X_NOTE[x]} Bands: 95% bootstrap intervals over evaluation examples."
    if any(outside):
        notes += " Triangles: values outside the axis, the farthest is told; bands are cut there."
    figure.suptitle(plain("\n".join([*_wrap(heading, width), *_wrap(setting, width)])), fontsize=11)
    styles = {plain(label): style for panel in panels for label, style, _ in panel.lines}
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
        title=plain("\n".join([*_wrap(notes, width * 1.2), *name_lines(short_names, width)])),
        title_fontsize=8.5,
    )
    return figure


def _draw_panel(axes: Axes, panel: Panel, x: Horizontal) -> bool:
    """Draw the lines of a panel, its title and its remarks; return whether a value lies outside the window."""
    remarks = draw_lines(axes, panel, x, Pen())
    axes.set_title(plain(panel.title), fontsize=10, y=1.0)  # a given height: matplotlib need not look for a free one
    notes = [outside_text(remarks.extremes)] if remarks.extremes else []
    notes += [f"not defined, F(M) not above F(0):\n{', '.join(remarks.undefined)}"] if remarks.undefined else []
    if notes:
        write_note(axes, plain("\n".join(notes)), size=8)
    return bool(remarks.extremes)


def draw_lines(axes: Axes, panel: Panel, x: Horizontal, pen: Pen) -> Remarks:
    """Draw the lines of a panel with their bands and the ideal value, on axes whose limits are set.

    Args:
        axes: where to draw.
        panel: what to draw.
        x: column of the horizontal axis.
        pen: how thick.

    Returns:
        What could not be shown.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.lines import Line2D

    low, high = WINDOW
    margin = 0.02 * (high - low)
    extremes: list[float] = []
    undefined: list[str] = []
    axes.axhline(IDEAL[panel.quantity], color="#444444", linestyle=":", linewidth=pen.ideal, zorder=1)
    for label, style, rows in panel.lines:
        k = rows[x].to_numpy(dtype=float)
        y, y_low, y_high = (rows[f"{panel.quantity}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
        if np.isnan(y).any():
            undefined.append(label)
            continue
        # Made by hand: `fill_between` and `plot` would look for units and limits, which are given.
        band = np.concatenate([np.column_stack([k, y_low]), np.column_stack([k, y_high])[::-1]])
        axes.add_collection(PolyCollection([band], color=style.colour, alpha=0.18, linewidth=0), autolim=False)
        line = Line2D(k, y, color=style.colour, linestyle=style.line, linewidth=pen.line, label=label)
        line.set(marker=style.marker, markersize=pen.marker)
        axes.add_line(line)
        for beyond, edge, marker in ((y > high, high - margin, "^"), (y < low, low + margin, "v")):
            if beyond.any():
                axes.plot(
                    k[beyond],
                    np.full(int(beyond.sum()), edge),
                    color=style.colour,
                    marker=marker,
                    markersize=pen.edge_marker,
                    linestyle="none",
                )
                extremes.append(float(y.max() if marker == "^" else y.min()))
    axes.set_axisbelow(True)
    return Remarks(tuple(extremes), tuple(undefined))


def outside_text(extremes: Sequence[float]) -> str:
    """Return what a panel says of values outside its window."""
    return f"outside: {', '.join(f'{value:.2g}' for value in extremes)}"


def write_note(axes: Axes, text: str, *, size: float) -> None:
    """Write into the upper left corner of a panel, in a size in points."""
    axes.text(
        0.03,
        0.94,
        text,
        transform=axes.transAxes,
        fontsize=size,
        va="top",
        color="#333333",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Spare what is in memory now the garbage collector: a picture's many small objects call it all the time."""
    import matplotlib.backends.backend_agg  # noqa: F401 -- it would load with the first picture, and not be spared

    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def save_figure(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Save a figure, the same bytes each time; a PNG gets a palette of 256 colours, a third of the bytes.

    A PDF holds its fonts as TrueType, so that text can be searched and journals accept it; an SVG holds text as paths,
    so that it looks the same where the font is missing.

    Args:
        figure: what to save.
        path: the file; its suffix, one of `FORMATS` with a dot, decides the type.
        dpi: dots per inch of a PNG.
    """
    if path.suffix != ".png":
        import matplotlib

        look: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "basisbench"}
        dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
        with matplotlib.rc_context(look):
            figure.savefig(path, dpi=dpi, metadata=dates.get(path.suffix))
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # `savefig` would draw the figure a second time to lay it out, and pack it as a PNG that is unpacked again here.
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.frombuffer(canvas.buffer_rgba(), dtype=np.uint32)  # type: ignore[no-untyped-call]
    # Level 7 takes a sixth of the time of level 9, for 6% more bytes.
    with_palette(pixels, canvas.get_width_height()).save(path, compress_level=7, dpi=(dpi, dpi))


def with_palette(pixels: UInt32[np.ndarray, " pixel"], size: tuple[int, int]) -> Image.Image:
    """Reduce a picture to 256 colours by median cut, spending no time on its background.

    The median cut divides the colours where half of the pixels lie on either side. While the background has more pixels
    than all other colours together it does not matter how many more: the same colours are chosen, pixel by pixel.

    Args:
        pixels: RGBA, four bytes in the order of memory, row by row; the first one is of the background.
        size: width and height in pixels.
    """
    from PIL import Image

    def reduce(part: UInt32[np.ndarray, " part"], shape: tuple[int, int]) -> Image.Image:
        image = Image.frombuffer("RGBA", shape, part.tobytes(), "raw", "RGBA", 0, 1)
        return image.convert("RGB").quantize(256, dither=Image.Dither.NONE)

    drawn = pixels != pixels[0]
    count = int(drawn.sum())
    if 2 * count >= len(pixels):
        return reduce(pixels, size)
    background = np.full(count + 1, pixels[0])
    part = reduce(np.concatenate([background, pixels[drawn]]), (2 * count + 1, 1))
    chosen = np.frombuffer(part.tobytes(), dtype=np.uint8)
    indices = np.full(len(pixels), chosen[0])
    indices[drawn] = chosen[count + 1 :]
    image = Image.frombuffer("P", size, indices.tobytes(), "raw", "P", 0, 1)
    image.putpalette(part.getpalette() or [])
    return image


def name_lines(short_names: Sequence[str], width: float) -> list[str]:
    """Return a line per short name, broken anywhere where it is longer than a figure of that width in inches."""
    return [line for text in short_names for line in textwrap.wrap(text, int(width * 14), break_on_hyphens=False)]


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many legend entries fit side by side in a figure of that width in inches."""
    inches = [0.8 + 0.085 * len(label) for label in labels]
    return len(labels) if sum(inches) < width else max(2, int(width / max(inches)))


def _wrap(text: str, width: float) -> list[str]:
    """Wrap a line of a title to a figure's width in inches, between its pieces where it has any."""
    bound = text.replace(" ", "\u00a0").replace(",\u00a0", ", ").replace(".\u00a0", ". ") if ", " in text else text
    return [line.replace("\u00a0", " ") for line in textwrap.wrap(bound, int(width * 12))]
