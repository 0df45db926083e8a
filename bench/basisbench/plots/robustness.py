"""How the ranking of bases moves when a choice is changed: Kendall's tau, and how far each basis's number moves.

A row of panels per model and family; a line of a panel per change. What is not reached before or after has no ratio,
and stands hollow at the edge on its side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from basisbench.plots.look import SCREEN, add_legend, make_figure, set_frame
from basisbench.plots.style import COLOURS, DARK, GRID, basis_styles, short_number
from basisbench.plots.text import plain, wrapped
from basisbench.results.display import Display, family_order, unique
from basisbench.results.robustness import choice_name, over_tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from basisbench.types import Style

WIDTH, LINE = 10.0, 0.27
"""Inches of the picture, and of a line of its panels."""


def plot_robustness(found: pd.DataFrame, display: Display) -> Figure:
    """Draw every change: tau with its 95% interval on the left, ratios of nodes to 80% on the right.

    Args:
        found: what `results.robustness.robustness` returned.
        display: order and styles of bases.
    """
    from matplotlib.lines import Line2D

    parts = sorted(
        found.groupby(["model", "model_hash", "family"]), key=lambda item: (item[0][0], family_order(item[0][2]))
    )
    styles = basis_styles(unique(found[found["basis"] != ""], "basis"), display)
    counts = [len(over_tasks(part)) for _, part in parts]
    heights = [LINE * count + 0.5 for count in counts]
    figure = make_figure(WIDTH, sum(heights) + 1.5, SCREEN)
    grid = figure.subplots(len(parts), 2, squeeze=False, height_ratios=heights, width_ratios=(2, 3))
    for (key, part), (left, right) in zip(parts, grid, strict=True):
        over = over_tasks(part)
        names = [f"{choice_name(row['choice'])}: {row['value']}" for _, row in over.iterrows()]
        _taus(left, over)
        _ratios(right, over, part[part["basis"] != ""], styles)
        for axes in (left, right):
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_yticks(range(len(names)), [plain(name) for name in names])
            axes.grid(color=GRID, linewidth=SCREEN.grid)
            axes.set_axisbelow(True)
            set_frame(axes, SCREEN, bottom=True, left=axes is left)
        left.set_title(plain(f"{key[0]}, family {key[2]}: ranking"), fontsize=SCREEN.title)
        right.set_title("nodes to 80%, change over reference", fontsize=SCREEN.title)
    grid[-1][0].set_xlabel("Kendall's tau-b, mean over tasks", fontsize=SCREEN.label)
    grid[-1][1].set_xlabel("ratio of medians over tasks", fontsize=SCREEN.label)
    width, marker = SCREEN.key
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[style.colour],
            marker=style.marker,
            markersize=marker,
            linewidth=width,
            label=plain(name),
        )
        for name, style in styles.items()
    ]
    add_legend(
        figure,
        handles,
        WIDTH,
        SCREEN,
        title="Bars: 95% intervals over tasks and words. Hollow: not reached before (left) or after (right)",
    )
    conditions = unique(found, "conditions")
    heading = (
        f"One choice changed at a time. Reference: {conditions[0]}"
        if len(conditions) == 1
        else "One choice changed at a time"
    )
    figure.suptitle(plain("\n".join(wrapped(heading, WIDTH))), fontsize=11)
    return figure


def _taus(axes: Axes, over: pd.DataFrame) -> None:
    for place, (_, row) in enumerate(over.iterrows()):
        if math.isnan(row["tau"]):
            continue
        axes.plot([row["tau_low"], row["tau_high"]], [place] * 2, color=DARK, linewidth=SCREEN.line)
        axes.plot([row["tau"]], [place], color=DARK, marker="o", markersize=SCREEN.key[1], linestyle="none")
    for level in (0.0, 1.0):
        axes.axvline(level, color=DARK, linewidth=SCREEN.thin, linestyle=":")
    axes.set_xlim(-1.05, 1.05)


def _ratios(axes: Axes, over: pd.DataFrame, moved: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    finite = moved[(moved["ratio"] > 0) & moved["ratio"].map(math.isfinite)]
    ends = [float(value) for value in finite["ratio"]] or [1.0]
    low, high = min([0.5, *ends]) / 2, max([2.0, *ends]) * 2
    for place, (_, row) in enumerate(over.iterrows()):
        cells = moved[(moved["choice"] == row["choice"]) & (moved["value"] == row["value"])]
        for step, (_, cell) in enumerate(cells.iterrows()):
            style = styles[str(cell["basis"])]
            _ratio(axes, cell, place + 0.7 * ((step + 0.5) / len(cells) - 0.5), style, (low, high))
    axes.axvline(1.0, color=DARK, linewidth=SCREEN.thin, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1 else short_number(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _ratio(axes: Axes, cell: pd.Series, place: float, style: Style, span: Sequence[float]) -> None:
    colour, ratio = COLOURS[style.colour], float(cell["ratio"])
    if math.isnan(ratio):
        return
    whole = ratio > 0 and math.isfinite(ratio)
    inner = (span[0] * 1.15, span[1] / 1.15)
    shown, *ends = (min(max(float(cell[f"ratio{end}"]), inner[0]), inner[1]) for end in ("", "_low", "_high"))
    look: dict[str, Any] = {"color": colour, "marker": style.marker, "markersize": SCREEN.marker, "linestyle": "none"}
    axes.plot(ends, [place] * 2, color=colour, linewidth=SCREEN.whisker)
    axes.plot([shown], [place], markerfacecolor=colour if whole else "white", **look)
