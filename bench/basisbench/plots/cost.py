"""What a circuit costs against how small it is: one picture per setting.

A point is a basis under a method, the median over tasks of both; whiskers span the middle half of the tasks. Points
whose median does not reach the target stand in a strip above the axis: they are censored, not large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from basisbench.plots.panels import name_lines
from basisbench.plots.style import Style, short_number
from basisbench.plots.text import legend_columns, plain
from basisbench.results.conditions import basis_order, family_order, method_order, split_settings, unique
from basisbench.results.labels import label_notes, short_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHOD_MARKERS = ("o", "s", "D", "^", "X", "P", "v", "<", ">", "h")


@dataclass(frozen=True)
class Points:
    """Sizes of what the picture holds, in points."""

    marker: float = 7.0
    line: float = 1.0


def plot_cost(summary: pd.DataFrame, styles: Mapping[str, Style], *, labels: Mapping[str, str] | None = None) -> Figure:
    """Draw seconds per cell against nodes to 80% faithfulness, a panel per family.

    Args:
        summary: rows of one setting, as `summarise` returns them.
        styles: a style per basis, of which the colour is used; methods have the markers.
        labels: short labels of bases; by default those of `basisbench.results.labels`.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    ((setting, part),) = split_settings(summary)
    named = labels or short_labels(unique(part, "basis"))
    families = sorted(unique(part, "family"), key=family_order)
    methods = sorted(unique(part, "method"), key=method_order)
    markers = {name: METHOD_MARKERS[index % len(METHOD_MARKERS)] for index, name in enumerate(methods)}
    width = max(7.5, 4.2 * len(families))
    short = label_notes({name: named[name] for name in unique(part, "basis")})
    # Long names take a line each, and a legend of one column.
    figure = Figure(figsize=(width, 5.8 + 0.3 * len(short)), layout="constrained")
    grid = figure.subplots(1, len(families), squeeze=False, sharex=True, sharey=True).ravel()
    span = span_of(part)
    for axes, family in zip(grid, families, strict=True):
        rows = part[part["family"] == family]
        draw_points(axes, rows, styles, lambda _, method: markers[method], span, Points())
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.tick_params(labelsize=9)
        names = sorted(unique(rows, "basis"), key=basis_order)
        entries = {n: plain(named[n] + fewer_tasks(part, n)) for n in names}
        handles = [Line2D([], [], color=styles[n].colour, linewidth=4, label=entries[n]) for n in names]
        axes.legend(
            handles=handles,
            title="basis (colour)",
            title_fontsize=9,
            fontsize=9,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=legend_columns(list(entries.values()), 9, width / len(families), handle=0.6, most=2),
        )
        axes.set_title(f"family {family}", fontsize=11)
        axes.set_xlabel("time per cell (seconds, log)", fontsize=10)
    grid[0].set_ylabel("nodes to 80% faithfulness (log; fewer is sparser)", fontsize=10)
    tasks = part.groupby(["task", "task_version"]).ngroups
    over = f"medians over {tasks} tasks; whiskers: middle half of the tasks" if tasks > 1 else unique(part, "task")[0]
    figure.suptitle(plain(f"Cost against sparsity: {over}\n{setting}"), fontsize=11, wrap=True)
    handles = [
        Line2D([], [], color="#555555", marker=markers[name], linestyle="none", markersize=7, label=plain(name))
        for name in methods
    ]
    handles.append(
        Line2D(
            [],
            [],
            color="#555555",
            marker="o",
            markerfacecolor="none",
            linestyle="none",
            markersize=7,
            label="hollow: not reached",
        )
    )
    threads = unique(part, "threads")
    where = f"{', '.join(unique(part, 'device'))}, {', '.join(threads)} thread{'' if threads == ['1'] else 's'}"
    notes = [f"Method (marker). Time of all phases on {where}; shared work counts in each cell."]
    notes += name_lines(short, width)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        fontsize=9.5,
        frameon=False,
        title=plain("\n".join(notes)),
        title_fontsize=9,
    )
    return figure


def fewer_tasks(part: pd.DataFrame, basis: str) -> str:
    """Return " (2 of 9 tasks)" for a basis whose medians are over fewer tasks than there are, nothing for others."""
    own, every = (rows.groupby(["task", "task_version"]).ngroups for rows in (part[part["basis"] == basis], part))
    return f" ({own} of {every} tasks)" if own < every else ""


def span_of(part: pd.DataFrame) -> tuple[float, float]:
    """Return the lowest and the largest number of nodes to show.

    Fractions of a node are rare: the stretch from 0 to 1 is shown only where a point needs it.
    """
    return 0.0 if float(part["nodes_to_80"].min()) < 1 else 1.0, float(part["total_nodes"].max())


def draw_points(
    axes: Axes,
    rows: pd.DataFrame,
    styles: Mapping[str, Style],
    marker_of: Callable[[str, str], str],
    span: tuple[float, float],
    points: Points,
) -> None:
    """Draw a point with whiskers per basis and method, on axes that it scales.

    Args:
        axes: where to draw.
        rows: cells of one family.
        styles: a style per basis, of which the colour is used.
        marker_of: the marker of a basis under a method.
        span: as `span_of` returns it.
        points: how large.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    lowest, top = span
    strip = top * 3
    for (basis, method), cells in rows.groupby(["basis", "method"]):
        nodes = cells["nodes_to_80"].astype(float).dropna().to_numpy()
        if len(nodes) == 0:
            continue
        # Unreached targets are infinite: quartiles that lie on a cell, and the tables' own median.
        low, high = np.quantile(nodes, [0.25, 0.75], method="inverted_cdf")
        middle = np.median(nodes)
        quick, seconds, slow = np.quantile(cells["seconds"].astype(float), [0.25, 0.5, 0.75])
        colour = styles[basis].colour
        reached = bool(np.isfinite(middle))
        y = max(float(middle), 0.1) if reached else strip
        axes.plot([quick, slow], [y, y], color=colour, linewidth=points.line, alpha=0.7)
        if reached:
            ends = [max(float(low), 0.1), min(float(high), strip)]
            axes.plot([seconds] * 2, ends, color=colour, linewidth=points.line, alpha=0.7)
        axes.plot(
            [seconds],
            [y],
            color=colour,
            marker=marker_of(basis, method),
            markersize=points.marker,
            linestyle="none",
            markerfacecolor=colour if reached else "none",
        )
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1.0, linscale=0.35)
    powers = [10**power for power in range(13) if 10**power <= top * 1.2]
    axes.yaxis.set_major_locator(FixedLocator([0, *powers, strip]))
    axes.yaxis.set_minor_locator(FixedLocator([m * p for p in powers for m in range(2, 10) if m * p <= top]))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: "not\nreached" if value == strip else short_number(value))
    )
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(lowest, strip * 1.8)
    axes.axhline(top * 1.35, color="#444444", linewidth=0.8, linestyle="--")
    axes.set_axisbelow(True)
