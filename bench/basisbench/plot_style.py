"""How pictures look: one colour per basis and method everywhere, axes with a place for size 0.

Colours are Okabe and Ito's (safe for colour-blind readers); line style and marker differ too, so that print in grey
stays readable. A basis and a method look the same in every picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, TypeAlias

from basisbench.setting import basis_order, method_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F"

LineStyle: TypeAlias = "Literal['-'] | tuple[int, tuple[float, ...]]"
DASHED: LineStyle = (0, (5.0, 1.6))
DOTTED: LineStyle = (0, (1.2, 1.4))
DASH_DOT: LineStyle = (0, (6.0, 1.4, 1.2, 1.4))
LONG: LineStyle = (0, (9.0, 2.0))

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
_FREE = tuple(
    Style(colour, line, marker)
    for (line, marker), colour in product(
        ((DASHED, "v"), (DASH_DOT, "P"), (DOTTED, "<"), ("-", ">")), (SKY, BLACK, ORANGE, BLUE, PURPLE)
    )
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
        axes: where to draw.
        largest: largest value to show.
        linear_below: 1 for nodes (the only whole number below is 0), 10 for bits.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    axes.set_xscale("symlog", linthresh=linear_below, linscale=0.35)
    powers = [10**power for power in range(13) if linear_below <= 10**power <= largest * 1.3]
    axes.xaxis.set_major_locator(FixedLocator([0, *powers]))
    axes.xaxis.set_minor_locator(FixedLocator([m * p for p in powers for m in (2, 5) if m * p <= largest * 1.3]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(-0.12 * linear_below, largest * 1.3)


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
