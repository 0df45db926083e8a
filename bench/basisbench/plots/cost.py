"""What a circuit costs against how small it is: one picture per set of conditions.

1. A point is a basis under a method, the median over the tasks of a suite (`basisbench.results.medians`); whiskers are
   its 95% interval. A basis that lacks a task has no point.
2. Points whose median does not reach the target stand in a strip above the axis: they are censored, not large.
3. On the screen colour tells the basis and the marker the method. In print both tell the basis, under one method: in
   grey nothing would be left of the basis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd

from basisbench.errors import BasisBenchError
from basisbench.plots.caption import cost_caption
from basisbench.plots.look import (
    SCREEN,
    Look,
    add_legend,
    grid_columns,
    legend_rows,
    make_figure,
    panel_room,
    print_height,
    set_frame,
)
from basisbench.plots.style import COLOURS, DARK, GRID, short_number
from basisbench.plots.text import Description, legend_columns, name_lines, plain, wrapped
from basisbench.results.columns import TASK_SEPARATOR
from basisbench.results.conditions import split_conditions
from basisbench.results.display import Display, family_order, unique
from basisbench.results.labels import label_notes, short_labels
from basisbench.results.medians import median_table
from basisbench.types import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHOD_MARKERS = ("o", "s", "D", "^", "X", "P", "v", "<", ">", "h")


class NoMediansError(BasisBenchError):
    """No basis has all tasks of the suite, so there is no point to draw."""


Marker: TypeAlias = "Callable[[str, str], str]"
"""Gives the marker of a basis under a method."""


def plot_cost(
    summary: pd.DataFrame,
    styles: Mapping[str, Style],
    display: Display,
    *,
    labels: Mapping[str, str] | None = None,
    look: Look = SCREEN,
) -> Figure:
    """Draw seconds per cell against nodes to 80% faithfulness, a panel per family.

    Args:
        summary: rows of one set of conditions, as `summarise` returns them.
        styles: a style per basis.
        display: order of bases and methods.
        labels: short labels of bases; by default those of `basisbench.results.labels`.
        look: of the picture; in print it has the first method alone.

    Returns:
        A figure; in print its label (`figure.get_label()`) is the caption in LaTeX.

    Raises:
        NoMediansError: no basis has all tasks of the suite.
    """
    ((conditions, part),) = split_conditions(summary)
    methods = sorted(unique(part, "method"), key=display.method_order)
    part = part if look.width is None else part[part["method"] == methods[0]]
    medians = median_table(part)
    medians = medians[medians["suite_tasks"] == medians["suite_tasks"].iloc[0]]
    if medians["nodes_to_80"].isna().all():
        raise NoMediansError(f"nothing to draw: no basis has all tasks of the suite ({conditions})")
    bases = sorted(unique(part, "basis"), key=display.basis_order)
    named = {name: (labels or short_labels(bases))[name] for name in bases}
    entries = {name: plain(label + _fewer_tasks(medians, name)) for name, label in named.items()}
    if look.width is None:
        return _on_screen(part, medians, styles, methods, conditions, named, entries)
    return _in_print(part, medians, styles, methods[0], conditions, named, entries, look)


def _on_screen(
    part: pd.DataFrame,
    medians: pd.DataFrame,
    styles: Mapping[str, Style],
    methods: Sequence[str],
    conditions: str,
    named: Mapping[str, str],
    entries: Mapping[str, str],
) -> Figure:
    """Draw all methods, with a legend of bases below each panel and one of methods below all."""
    from matplotlib.lines import Line2D

    look = replace(SCREEN, title=11.0, label=10.0, small=9.0)
    markers = {name: METHOD_MARKERS[index % len(METHOD_MARKERS)] for index, name in enumerate(methods)}
    columns = part["family"].nunique()
    width = max(7.5, 4.2 * columns)
    notes = label_notes(named)
    # Long names take a line each, and a legend of one column.
    figure = make_figure(width, 5.8 + 0.3 * len(notes), look)
    for axes, family in _draw_families(
        figure, medians, _span(part), styles, lambda _, method: markers[method], columns, look
    ):
        axes.set_title(f"family {family}{_left_out(medians, family)}", fontsize=look.title)
        axes.set_xlabel("time per cell (seconds, log)", fontsize=look.label)
        names = [name for name in entries if name in set(part.loc[part["family"] == family, "basis"])]
        handles = [Line2D([], [], color=COLOURS[styles[n].colour], linewidth=4, label=entries[n]) for n in names]
        axes.legend(
            handles=handles,
            title="basis (colour)",
            title_fontsize=9,
            fontsize=9,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=legend_columns([entries[n] for n in names], 9, width / columns, handle=0.6, most=2),
        )
    figure.axes[0].set_ylabel("nodes per aligned group to 80% faithfulness (log)", fontsize=look.label)
    title = [*wrapped(f"Cost against sparsity: {_over(medians)}", width), *wrapped(conditions, width)]
    figure.suptitle(plain("\n".join(title)), fontsize=11)
    key: dict[str, Any] = {"color": "#555555", "linestyle": "none", "markersize": 7}
    handles = [Line2D([], [], marker=markers[name], label=plain(name), **key) for name in methods]
    handles.append(Line2D([], [], marker="o", markerfacecolor="none", label="hollow: not reached", **key))
    reading = f"Method (marker). Time of all phases on {_hardware(part)}; shared work counts in each cell."
    below = plain("\n".join([reading, *name_lines(notes, width)]))
    add_legend(figure, handles, width, look, ncols=len(handles), handlelength=None, title=below, title_fontsize=9)
    return figure


def _in_print(
    part: pd.DataFrame,
    medians: pd.DataFrame,
    styles: Mapping[str, Style],
    method: str,
    conditions: str,
    named: Mapping[str, str],
    entries: Mapping[str, str],
    look: Look,
) -> Figure:
    """Draw one method, with one legend of bases and the caption as the figure's label."""
    from matplotlib.lines import Line2D

    key: dict[str, Any] = {"linestyle": "none", "markersize": 4}
    handles = [
        Line2D([], [], color=COLOURS[styles[name].colour], marker=styles[name].marker, label=entry, **key)
        for name, entry in entries.items()
    ]
    families = sorted(unique(part, "family"), key=family_order)
    width = look.width or 0.0
    columns = grid_columns(len(families), look)
    rows = -(-len(families) // columns)
    room = panel_room(width, columns, labels=0.7)
    height = print_height(rows, room * 1.3, legend_rows(handles, width, look))
    figure = make_figure(width, height, look)
    for axes, family in _draw_families(
        figure, medians, _span(part), styles, lambda basis, _: styles[basis].marker, columns, look
    ):
        if families.index(family) + columns >= len(families):
            axes.set_xlabel("time per cell (s)", fontsize=look.label, labelpad=look.pads[1])
        if len(families) > 1:
            axes.set_title(family + _left_out(medians, family), fontsize=look.title, pad=look.pads[0])
    _thin_out(figure.axes[0], _span(part)[1], room, height / rows - 0.4)
    figure.supylabel("nodes to 80% faithfulness", fontsize=look.outer_label)
    add_legend(figure, handles, width, look)
    panels = f"famil{'y' if len(families) == 1 else 'ies'} {', '.join(families)}: {_over(medians)}"
    about = Description(f"Cost against sparsity under {method}", conditions, panels, named)
    figure.set_label(cost_caption(about, _hardware(part)))
    return figure


def _hardware(part: pd.DataFrame) -> str:
    """Return devices and threads in words."""
    threads = unique(part, "threads")
    return f"{', '.join(unique(part, 'device'))}, {', '.join(threads)} thread{'' if threads == ['1'] else 's'}"


def _over(medians: pd.DataFrame) -> str:
    """Say what the points are medians over."""
    tasks = str(medians["suite_tasks"].iloc[0]).split(TASK_SEPARATOR)
    over = f"task {tasks[0]}" if len(tasks) == 1 else f"medians over {len(tasks)} tasks"
    left = any(_left_out(medians, family) for family in unique(medians, "family"))
    return f"{over}{' but those below a gate' if left else ''}; whiskers: 95% intervals"


def _left_out(medians: pd.DataFrame, family: str) -> str:
    """Return " (7/9 tasks)" for a family in which some tasks are below a gate, nothing for others."""
    asked = len(str(medians["suite_tasks"].iloc[0]).split(TASK_SEPARATOR))
    counted = int(medians.loc[medians["family"] == family, "tasks"].iloc[0])
    return f" ({counted}/{asked} tasks)" if counted < asked else ""


def _fewer_tasks(medians: pd.DataFrame, basis: str) -> str:
    """Return " (2/9 tasks)" for a basis that lacks tasks and so has no point, nothing for others."""
    own = medians[medians["basis"] == basis]
    lacking = own[own["tasks_found"] < own["tasks"]]
    if len(own) == 0 or len(lacking) < len(own):
        return ""
    return f" ({lacking['tasks_found'].iloc[0]}/{lacking['tasks'].iloc[0]} tasks)"


def _span(part: pd.DataFrame) -> tuple[float, float]:
    """Return the lowest and the largest number of nodes to show.

    Fractions of a node are rare: the stretch from 0 to 1 is shown only where a point needs it.
    """
    return 0.0 if float(part["nodes_to_80"].min()) < 1 else 1.0, float(part["total_nodes"].max())


def _draw_families(
    figure: Figure,
    medians: pd.DataFrame,
    span: tuple[float, float],
    styles: Mapping[str, Style],
    marker_of: Marker,
    columns: int,
    look: Look,
) -> Iterator[tuple[Axes, str]]:
    """Draw the points of every family on a grid of so many columns; yield the axes with the family."""
    families = sorted(unique(medians, "family"), key=family_order)
    rows = -(-len(families) // columns)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid[len(families) :]:
        axes.set_axis_off()
    for index, (axes, family) in enumerate(zip(grid, families, strict=False)):
        _draw_points(axes, medians[medians["family"] == family], styles, marker_of, span, look)
        set_frame(axes, look, bottom=index + columns >= len(families), left=index % columns == 0)
        axes.grid(color=GRID, linewidth=look.grid)
        axes.set_axisbelow(True)
        yield axes, family


def _draw_points(
    axes: Axes,
    rows: pd.DataFrame,
    styles: Mapping[str, Style],
    marker_of: Marker,
    span: tuple[float, float],
    look: Look,
) -> None:
    """Draw a point with whiskers per basis and method, on axes that it scales."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    lowest, top = span
    strip = top * 3
    for _, row in rows.iterrows():
        basis, method = str(row["basis"]), str(row["method"])
        middle, low, high = (float(row[f"nodes_to_80{end}"]) for end in ("", "_low", "_high"))
        if math.isnan(middle):
            continue
        seconds = float(row["seconds"])
        colour = COLOURS[styles[basis].colour]
        reached = math.isfinite(middle)
        y = max(middle, 0.1) if reached else strip
        if reached:
            ends = [max(low, 0.1), min(high, strip)]
            axes.plot([seconds] * 2, ends, color=colour, linewidth=look.whisker, alpha=0.7)
        axes.plot(
            [seconds],
            [y],
            color=colour,
            marker=marker_of(basis, method),
            markersize=look.point,
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
    axes.axhline(top * 1.35, color=DARK, linewidth=0.8, linestyle="--")


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
