"""How pictures look: one style per basis and method everywhere, axes with a place for size 0.

Bases and methods declare their styles (`basisbench.types.Style`); those that declare none, or one that another has, get
a free one, the same in every picture and page of the same results. Colours are Okabe and Ito's (safe for colour-blind
readers); line style and marker differ too, so that print in grey stays readable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product, starmap
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from basisbench.plots.look import SCREEN, Look
from basisbench.results.display import Display
from basisbench.types import Colour, Line, Marker, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: Mapping[Colour, str] = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#7F7F7F",
}
DARK, GRID = "#444444", "#dddddd"
BELOW_GATE = "#eeeeee"
"""Ground of a panel with too little to explain."""

Dashes: TypeAlias = "str | tuple[int, tuple[float, ...]]"
DASHES: Mapping[Line, Dashes] = {
    "solid": "-",
    "dashed": (0, (5.0, 1.6)),
    "dotted": (0, (1.2, 1.4)),
    "dash-dot": (0, (6.0, 1.4, 1.2, 1.4)),
    "long-dash": (0, (9.0, 2.0)),
}
"""Lines as matplotlib breaks them, in multiples of their width."""


def stroke(style: Style) -> dict[str, Any]:
    """Return the colour and the dashes of a line, as matplotlib names them."""
    return {"color": COLOURS[style.colour], "linestyle": DASHES[style.line]}


WINDOW = (-0.25, 1.5)
"""Range of faithfulness and completeness that pictures show; what lies outside is marked and named."""

_LINES_AND_MARKERS: tuple[tuple[Line, Marker], ...] = (
    ("dashed", "v"),
    ("dash-dot", "P"),
    ("dotted", "<"),
    ("solid", ">"),
    ("long-dash", "h"),
    ("dashed", "p"),
    ("dotted", "*"),
)
_FREE_COLOURS: tuple[Colour, ...] = ("sky", "black", "orange", "blue", "purple")
# Seven and five have no common divisor: every pair occurs once, and the next style differs in line, marker and colour.
_NEAREST = tuple(
    Style(_FREE_COLOURS[index % 5], *_LINES_AND_MARKERS[index % 7])
    for index in range(len(_FREE_COLOURS) * len(_LINES_AND_MARKERS))
)
# Then every other that there is: hundreds of bases still look different.
_FREE = tuple(dict.fromkeys([*_NEAREST, *starmap(Style, product(get_args(Colour), get_args(Line), get_args(Marker)))]))


def basis_styles(names: Sequence[str], display: Display) -> dict[str, Style]:
    """Return a style for every basis, the declared one or a free one; call it with all bases of the results."""
    return _assign(sorted(names, key=display.basis_order), display.basis_styles)


def method_styles(names: Sequence[str], display: Display) -> dict[str, Style]:
    """Return a style for every method, the declared one or a free one."""
    return _assign(sorted(names, key=display.method_order), display.method_styles)


def _assign(names: Sequence[str], declared: Mapping[str, Style]) -> dict[str, Style]:
    """Give each name, in order, the style that it declares, if nobody before it does; others a free one."""
    owners: dict[Style, str] = {}
    for name in names:
        if name in declared:
            owners.setdefault(declared[name], name)
    styles = {name: style for style, name in owners.items()}
    free = [style for style in _FREE if style not in owners]
    others = [name for name in names if name not in styles]
    return styles | {name: free[index % len(free)] for index, name in enumerate(others)}


def set_size_axis(axes: Axes, largest: float, *, linear_below: float = 1.0, room: float = math.inf) -> None:
    """Make x logarithmic from `linear_below` on and linear below it, with 0 on the axis.

    Args:
        axes: where to draw; axes that share their x-axis with it follow.
        largest: largest value to show.
        linear_below: 1 for nodes (the only whole number below is 0), 10 for bits.
        room: inches for the labels; where all powers of ten would touch, every second or third has one.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    powers = _powers(largest, linear_below)
    # The widest label, "100k", takes a quarter of an inch at 7 points.
    step = next((s for s in (1, 2, 3) if room / (len(powers) + 1) * s >= 0.3), 4)
    labelled = {0, *powers[step - 1 :: step]}
    axes.set_xscale("symlog", linthresh=linear_below, linscale=0.35)
    axes.xaxis.set_major_locator(FixedLocator([0, *powers]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value) if value in labelled else ""))
    axes.set_xlim(-0.12 * linear_below, largest * 1.3)


def draw_grid(
    axes: Axes,
    largest: float,
    *,
    linear_below: float = 1.0,
    x_labels: bool = True,
    y_labels: bool = True,
    look: Look = SCREEN,
) -> None:
    """Draw the grid and the ticks in a few lines; matplotlib's own ticks stay where they carry labels.

    It looks the same, but each tick of matplotlib is five objects that are made, measured and drawn by themselves: in a
    picture of nine panels they take longer than the curves.

    Args:
        axes: where to draw, with limits and tick places set.
        largest: as given to `set_size_axis`.
        linear_below: as given to `set_size_axis`.
        x_labels: whether the x-axis carries labels.
        y_labels: whether the y-axis does.
        look: of the picture.
    """
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    minor = [m * power for power in _powers(largest, linear_below) for m in (2, 5) if m * power <= largest * 1.3]
    _mark(axes, "x", minor, look.minor_tick)
    for name, axis, labels in (("x", axes.xaxis, x_labels), ("y", axes.yaxis, y_labels)):
        places = [float(place) for place in axis.get_ticklocs()]
        broken = [value for place in places for value in (place, place, math.nan)]
        across = [0.0, 1.0, math.nan] * len(places)
        if name == "x":
            line = Line2D(broken, across, transform=axes.get_xaxis_transform())
        else:
            line = Line2D(across, broken, transform=axes.get_yaxis_transform())
        line.set(color=GRID, linewidth=look.grid, zorder=0.5, in_layout=False)
        axes.add_line(line)
        axis.set_visible(labels)
        if not labels:
            _mark(axes, name, places, look.tick)
    # An axis that is not visible leaves no room for its ticks when panels are laid out: keep it free.
    outside = -look.tick[0] / 72
    aside = ScaledTranslation(outside, outside, axes.figure.dpi_scale_trans)
    axes.add_line(Line2D([0, 1], [0, 1], transform=axes.transAxes + aside, linestyle="none", clip_on=False))


def _mark(axes: Axes, name: str, places: Sequence[float], size: tuple[float, float]) -> None:
    """Draw ticks of an axis, of a length and a width in points, as the markers of one line."""
    from matplotlib.lines import Line2D

    edge = [0.0] * len(places)
    if name == "x":
        line = Line2D(places, edge, transform=axes.get_xaxis_transform(), marker=3)  # matplotlib.markers.TICKDOWN
    else:
        line = Line2D(edge, places, transform=axes.get_yaxis_transform(), marker=0)  # TICKLEFT
    line.set(color="black", linestyle="none", markersize=size[0], markeredgewidth=size[1])
    line.set(clip_on=False, zorder=0.5, in_layout=False)
    axes.add_line(line)


def _powers(largest: float, lowest: float) -> list[int]:
    """Return the powers of ten that an axis names."""
    return [10**power for power in range(13) if lowest <= 10**power <= largest * 1.3]


def short_number(value: float) -> str:
    """Write a tick: 0, 10, 1k, 100k, 1M."""
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= bound:
            return f"{value / bound:g}{letter}"
    return f"{value:g}"
