"""Cost against sparsity for print: one method, the basis told by colour and marker, so that grey print can be read.

The ordinary picture has all methods at once, with colour for the basis and the marker for the method; in grey nothing
would be left of the basis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from basisbench.plots.cost import Points, draw_points, fewer_tasks, span_of
from basisbench.plots.paper import (
    LARGE,
    SMALL,
    Width,
    add_legend,
    frame_panel,
    inches,
    name_captions,
    paper_columns,
    paper_figure,
    paper_height,
)
from basisbench.plots.style import Style, short_number
from basisbench.plots.text import escape, plain
from basisbench.results.conditions import basis_order, default_method, family_order, split_settings, unique
from basisbench.results.labels import short_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_paper_cost(
    summary: pd.DataFrame,
    styles: Mapping[str, Style],
    width: Width,
    *,
    labels: Mapping[str, str] | None = None,
    method: str | None = None,
) -> Figure:
    """Draw seconds per cell against nodes to 80% faithfulness under one method, a panel per family, for print.

    Args:
        summary: rows of one setting, as `summarise` returns them.
        styles: a style per basis, of which colour and marker are used.
        width: of the figure.
        labels: short labels of bases; by default those of `basisbench.results.labels`.
        method: the method to show; by default relp where it is there.

    Returns:
        A figure; its label (`figure.get_label()`) is the caption in LaTeX.
    """
    from matplotlib.lines import Line2D

    ((setting, whole),) = split_settings(summary)
    method = method or default_method(whole)
    part = whole[whole["method"] == method]
    names = sorted(unique(part, "basis"), key=basis_order)
    named = labels or short_labels(names)
    families = sorted(unique(part, "family"), key=family_order)
    wide = inches(width)
    columns = paper_columns(len(families), wide)
    rows = -(-len(families) // columns)
    handles = [
        Line2D(
            [],
            [],
            color=styles[n].colour,
            marker=styles[n].marker,
            linestyle="none",
            markersize=4,
            label=plain(named[n] + fewer_tasks(part, n)),
        )
        for n in names
    ]
    room = (wide - 0.7 - 0.1 * columns) / columns
    height = paper_height(rows, room * 1.3, handles, wide)
    figure = paper_figure(wide, height)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for index, axes in enumerate(grid):
        if index >= len(families):
            axes.set_axis_off()
            continue
        cells = part[part["family"] == families[index]]
        draw_points(axes, cells, styles, lambda basis, _: styles[basis].marker, span_of(part), Points(4.0, 0.7))
        lowest = index + columns >= len(families)
        frame_panel(axes, bottom=lowest, left=index % columns == 0)
        if lowest:
            axes.set_xlabel("time per cell (s)", fontsize=LARGE, labelpad=1.5)
        if len(families) > 1:
            axes.set_title(families[index], fontsize=SMALL, pad=2.5)
    _thin_out(grid[0], span_of(part)[1], room, height / rows - 0.4)
    figure.supylabel("nodes to 80% faithfulness", fontsize=LARGE)
    add_legend(figure, handles, wide)
    short = [(named[name], name) for name in names if named[name] != name]
    figure.set_label(" ".join([*_caption(part, method, setting, families), *name_captions(short)]))
    return figure


def _caption(part: pd.DataFrame, method: str, setting: str, families: list[str]) -> list[str]:
    tasks = part.groupby(["task", "task_version"]).ngroups
    over = (
        f"medians over {tasks} tasks, whiskers over the middle half of the tasks"
        if tasks > 1
        else f"task {escape(unique(part, 'task')[0])}"
    )
    threads = unique(part, "threads")
    hardware = f"{', '.join(unique(part, 'device'))}, {' or '.join(threads)} thread{'' if threads == ['1'] else 's'}"
    panels = f"famil{'y' if len(families) == 1 else 'ies'} {escape(', '.join(families))}"
    return [
        f"Cost against sparsity under {escape(method)}, {panels}: {over}; {escape(setting)}.",
        f"Horizontal: seconds of all phases of a cell on {escape(hardware)}, logarithmic; work that cells share "
        "counts in each.",
        "Vertical: nodes to 80\\% faithfulness, logarithmic; fewer is sparser. Hollow, at $>N$: not "
        "reached with all nodes.",
    ]


def _thin_out(axes: Axes, top: float, room: float, height: float) -> None:
    """Label no more times and no more powers of ten than fit into a panel of that many inches."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    axes.xaxis.set_major_locator(FixedLocator(nice_times(*axes.get_xlim(), most=max(2, int(room / 0.3)))))
    strip = top * 3
    # A label needs a line of its own, also below that of the strip.
    powers = [10**power for power in range(13) if 10**power * 8 <= strip]
    step = next((s for s in (1, 2) if height / (len(powers) + 1) * s >= 0.13), 3)
    axes.yaxis.set_major_locator(FixedLocator([0, *powers[::step], strip]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: ">N" if value == strip else short_number(value)))


def nice_times(low: float, high: float, *, most: int) -> list[float]:
    """Return round values between two times, at least two where there are, and at most so many.

    Args:
        low: lower end of a logarithmic axis.
        high: upper end.
        most: most values, at least 2.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in (
        (1.0,),
        (1.0, 3.0),
        (1.0, 2.0, 5.0),
        (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
        tuple(n / 10 for n in range(10, 100)),
    ):
        values = [
            float(f"{step}e{power}") for power in powers for step in steps if low <= float(f"{step}e{power}") <= high
        ]
        if len(values) > most and len(found) >= 2:
            return found
        found = values[:: -(-len(values) // most)] if values else []
        if len(found) >= 3:
            return found
    return found
