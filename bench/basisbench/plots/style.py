"""How pictures look: one colour per basis and method everywhere, axes with a place for size 0.

Colours are Okabe and Ito's (safe for colour-blind readers); line style and marker differ too, so that print in grey
stays readable. A basis and a method look the same in every picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from basisbench.results.conditions import basis_order, method_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F"

LineStyle: TypeAlias = "Literal['-'] | tuple[int, tuple[float, ...]]"
DASHED: LineStyle = (0, (5.0, 1.6))
DOTTED: LineStyle = (0, (1.2, 1.4))
DASH_DOT: LineStyle = (0, (6.0, 1.4, 1.2, 1.4))
LONG: LineStyle = (0, (9.0, 2.0))

MAJOR_LENGTH = 3.5
"""Length of a tick in points, matplotlib's own."""

WINDOW = (-0.25, 1.5)
"""Range of faithfulness and completeness that pictures show; what lies outside is marked and told."""


@dataclass(frozen=True)
class Style:
    """How one line is drawn.

    Attributes:
        colour: as hexadecimal RGB.
        line: matplotlib line style.
        marker: matplotlib marker.
    """

    colour: str
    line: LineStyle
    marker: str


BASIS_STYLES: Mapping[str, Style] = {
    "mlp_act": Style(BLUE, "-", "o"),
    "mlp_out": Style(VERMILLION, DASHED, "s"),
    "mlp_act_rotated": Style(GREY, DOTTED, "X"),
    "sae_mlp_out": Style(GREEN, DASH_DOT, "D"),
    "transcoder": Style(PURPLE, LONG, "^"),
    "cross_layer_transcoder": Style(SKY, "-", "v"),
    "resid": Style(BLACK, "-", "o"),
    "sae_resid": Style(SKY, DASH_DOT, "D"),
    "attn_out": Style(ORANGE, "-", "s"),
    "sae_attn_out": Style(GREEN, LONG, "P"),
}
METHOD_STYLES: Mapping[str, Style] = {
    "relp": Style(BLUE, "-", "o"),
    "ig": Style(VERMILLION, DASHED, "s"),
    "ig_inputs": Style(ORANGE, LONG, "v"),
    "ixg": Style(GREEN, DASH_DOT, "D"),
    "patching": Style(BLACK, "-", "P"),
    "magnitude": Style(PURPLE, LONG, "^"),
    "random": Style(GREY, DOTTED, "X"),
}
_LINES_AND_MARKERS: tuple[tuple[LineStyle, str], ...] = (
    (DASHED, "v"),
    (DASH_DOT, "P"),
    (DOTTED, "<"),
    ("-", ">"),
    (LONG, "h"),
    (DASHED, "p"),
    (DOTTED, "*"),
)
_COLOURS = (SKY, BLACK, ORANGE, BLUE, PURPLE)
# Seven and five have no common divisor: every pair occurs once, and the next style differs in line, marker and colour.
_FREE = tuple(
    Style(_COLOURS[index % 5], *_LINES_AND_MARKERS[index % 7])
    for index in range(len(_COLOURS) * len(_LINES_AND_MARKERS))
)


def basis_styles(names: Sequence[str]) -> dict[str, Style]:
    """Return a style for every basis, fixed for the built-in ones; call it with all bases of the results."""
    return _assign(sorted(names, key=basis_order), BASIS_STYLES)


def method_styles(names: Sequence[str]) -> dict[str, Style]:
    """Return a style for every method, fixed for the built-in ones."""
    return _assign(sorted(names, key=method_order), METHOD_STYLES)


def set_size_axis(axes: Axes, largest: float, *, linear_below: float = 1.0) -> None:
    """Make x logarithmic from `linear_below` on and linear below it, with 0 on the axis.

    Args:
        axes: where to draw; axes that share their x-axis with it follow.
        largest: largest value to show.
        linear_below: 1 for nodes (the only whole number below is 0), 10 for bits.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("symlog", linthresh=linear_below, linscale=0.35)
    axes.xaxis.set_major_locator(FixedLocator([0, *_powers(largest, linear_below)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.set_xlim(-0.12 * linear_below, largest * 1.3)


def draw_grid(
    axes: Axes, largest: float, *, linear_below: float = 1.0, x_labels: bool = True, y_labels: bool = True
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
    """
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    minor = [m * power for power in _powers(largest, linear_below) for m in (2, 5) if m * power <= largest * 1.3]
    _mark(axes, "x", minor, 2.0, 0.6)
    for name, axis, labels in (("x", axes.xaxis, x_labels), ("y", axes.yaxis, y_labels)):
        places = [float(place) for place in axis.get_ticklocs()]
        broken = [value for place in places for value in (place, place, math.nan)]
        across = [0.0, 1.0, math.nan] * len(places)
        if name == "x":
            line = Line2D(broken, across, transform=axes.get_xaxis_transform())
        else:
            line = Line2D(across, broken, transform=axes.get_yaxis_transform())
        line.set(color="#dddddd", linewidth=0.6, zorder=0.5, in_layout=False)
        axes.add_line(line)
        axis.set_visible(labels)
        if not labels:
            _mark(axes, name, places, MAJOR_LENGTH, 0.8)
    # An axis that is not visible leaves no room for its ticks when panels are laid out: keep it free.
    aside = ScaledTranslation(-MAJOR_LENGTH / 72, -MAJOR_LENGTH / 72, axes.figure.dpi_scale_trans)
    axes.add_line(Line2D([0, 1], [0, 1], transform=axes.transAxes + aside, linestyle="none", clip_on=False))


def _mark(axes: Axes, name: str, places: Sequence[float], length: float, width: float) -> None:
    """Draw ticks of an axis as the markers of one line; length and width in points."""
    from matplotlib.lines import Line2D

    edge = [0.0] * len(places)
    if name == "x":
        line = Line2D(places, edge, transform=axes.get_xaxis_transform(), marker=3)  # matplotlib.markers.TICKDOWN
    else:
        line = Line2D(edge, places, transform=axes.get_yaxis_transform(), marker=0)  # TICKLEFT
    line.set(color="black", linestyle="none", markersize=length, markeredgewidth=width)
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


def _assign(names: Sequence[str], fixed: Mapping[str, Style]) -> dict[str, Style]:
    styles = {name: fixed[name] for name in names if name in fixed}
    used = set(styles.values())
    free = [style for style in _FREE if style not in used]
    others = [name for name in names if name not in fixed]
    return styles | {name: free[index % len(free)] for index, name in enumerate(others)}
