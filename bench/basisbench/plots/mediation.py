"""Share of a response's shift against the number of nodes swapped: the belief's nodes, controls beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from basisbench.plots.look import SCREEN, add_legend, make_figure, set_frame
from basisbench.plots.style import COLOURS, DARK, GRID
from basisbench.plots.text import plain, wrapped
from basisbench.results.mediation import PLACES, SETS, mediation_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from basisbench.results.mediation import Mediation, SetName

DRAWN: dict[SetName, tuple[str, str]] = {
    "belief": (COLOURS["vermillion"], "o"),
    "response": (COLOURS["blue"], "s"),
    "alike": (COLOURS["purple"], "^"),
    "random": (COLOURS["grey"], "D"),
}
"""Colour and marker of each set."""

PANEL = 4.6


def plot_mediation(found: Sequence[Mediation]) -> Figure:
    """Draw shares against the number of nodes, with 95% intervals: a panel for each measurement.

    Args:
        found: what was measured, each with shares.
    """
    from matplotlib.lines import Line2D

    width = PANEL * max(2, len(found))
    figure = make_figure(width, 4.4, SCREEN)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, own in zip(panels, found, strict=True):
        _panel(axes, own)
    panels[0].set_ylabel(f"share of the shift of {found[0].response.task}", fontsize=SCREEN.label)
    line, marker = SCREEN.key
    handles: list[Any] = [
        Line2D([], [], color=colour, marker=mark, linewidth=line, markersize=marker, label=SETS[name])
        for name, (colour, mark) in DRAWN.items()
    ]
    handles += [
        Line2D([], [], color=DARK, linewidth=SCREEN.thin, label="everything at these positions"),
        Line2D([], [], color=DARK, linewidth=SCREEN.thin, linestyle="--", label="all nodes of the basis there"),
    ]
    add_legend(figure, handles, width, SCREEN)
    figure.suptitle(plain("\n".join(wrapped(mediation_title(found[0]), width))), fontsize=11)
    return figure


def _panel(axes: Axes, found: Mediation) -> None:
    # Sets of one size stand side by side, so that their intervals can be told apart.
    apart = 1.07
    for place, (name, (colour, marker)) in enumerate(DRAWN.items()):
        own = [size.of(name).swapped for size in found.sizes]
        middle = [share.value for share in own]
        axes.errorbar(
            [size.nodes * apart ** (place - 1.5) for size in found.sizes], middle,
            yerr=[
                [value - share.low for value, share in zip(middle, own, strict=True)],
                [share.high - value for value, share in zip(middle, own, strict=True)],
            ],
            color=colour, marker=marker, markersize=SCREEN.key[1], linewidth=SCREEN.line, elinewidth=SCREEN.whisker,
            capsize=2,
        )  # fmt: skip
    for level, dashes in ((found.whole, "-"), (found.every, "--")):
        if level is not None:
            axes.axhline(level.value, color=DARK, linewidth=SCREEN.thin, linestyle=dashes)
    axes.axhline(0, color=GRID, linewidth=SCREEN.thin)
    axes.set_xscale("log")
    axes.set_xlabel("nodes swapped in, per aligned group", fontsize=SCREEN.label)
    axes.set_title(plain("\n".join(wrapped(f"nodes {PLACES[found.at]}", PANEL))), fontsize=SCREEN.title)
    axes.grid(color=GRID, linewidth=SCREEN.grid)
    axes.set_axisbelow(True)
    set_frame(axes, SCREEN, bottom=True, left=True)
