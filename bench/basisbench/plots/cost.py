"""What a circuit costs against how small it is: one picture per set of conditions.

1. A point is a basis under the first method, the median over the tasks of a suite (`basisbench.results.medians`);
   whiskers are its 95% interval. A basis that lacks a task has no point.
2. Horizontal is sparsity, as in the pictures of curves, and vertical is cost: at the lower left is what one wants.
3. Points whose median does not reach the target stand in a strip right of the axis: they are censored, not large.
4. Colour and marker tell the basis, as everywhere; the cost of other methods is in the tables and on the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

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
    from matplotlib.lines import Line2D


class NoMediansError(BasisBenchError):
    """No basis has all tasks of the suite, so there is no point to draw."""


def plot_cost(
    summary: pd.DataFrame,
    styles: Mapping[str, Style],
    display: Display,
    *,
    labels: Mapping[str, str] | None = None,
    look: Look = SCREEN,
) -> Figure:
    """Draw seconds per cell against nodes to 80% faithfulness under the first method, a panel per family.

    Args:
        summary: rows of one set of conditions, as `summarise` returns them.
        styles: a style per basis.
        display: order of bases and methods.
        labels: short labels of bases; by default those of `basisbench.results.labels`.
        look: of the picture.

    Returns:
        A figure; in print its label (`figure.get_label()`) is the caption in LaTeX.

    Raises:
        NoMediansError: no basis has all tasks of the suite.
    """
    ((conditions, part),) = split_conditions(summary)
    method = display.first_method(part)
    part = part[part["method"] == method]
    medians = median_table(part)
    medians = medians[medians["suite_tasks"] == medians["suite_tasks"].iloc[0]]
    if medians["nodes_to_80"].isna().all():
        raise NoMediansError(f"nothing to draw: no basis has all tasks of the suite ({conditions})")
    bases = sorted(unique(part, "basis"), key=display.basis_order)
    named = {name: (labels or short_labels(bases))[name] for name in bases}
    keys = {name: _key(styles[name], plain(label + _fewer_tasks(medians, name))) for name, label in named.items()}
    families = ", ".join(sorted(unique(part, "family"), key=family_order))
    about = Description(
        f"Cost against sparsity under {method}",
        conditions,
        f"famil{'ies' if ',' in families else 'y'} {families}: {_over(medians)}",
        named,
    )
    draw = _on_screen if look.width is None else _in_print
    return draw(part, medians, styles, keys, about, look)


def _key(style: Style, label: str) -> Line2D:
    """Return the entry of a basis in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=COLOURS[style.colour], marker=style.marker, label=label, linestyle="none")


def _on_screen(
    part: pd.DataFrame,
    medians: pd.DataFrame,
    styles: Mapping[str, Style],
    keys: Mapping[str, Line2D],
    about: Description,
    look: Look,
) -> Figure:
    """Draw with a title, and a legend of bases below each panel."""
    from matplotlib.lines import Line2D

    look = replace(look, title=11.0, label=10.0, small=9.0)
    columns = part["family"].nunique()
    width = max(7.5, 4.2 * columns)
    notes = label_notes(about.labels)
    # Long names take a line each, and a legend of one column.
    figure = make_figure(width, 5.8 + 0.3 * len(notes), look)
    for axes, family in _draw_families(figure, medians, _span(part), styles, columns, look):
        axes.set_title(f"family {family}{_left_out(medians, family)}", fontsize=look.title)
        axes.set_xlabel("nodes per aligned group to 80% faithfulness (log)", fontsize=look.label)
        own = [key for name, key in keys.items() if name in set(part.loc[part["family"] == family, "basis"])]
        axes.legend(
            handles=own,
            fontsize=9,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=legend_columns([str(key.get_label()) for key in own], 9, width / columns, handle=0.6, most=2),
        )
    figure.axes[0].set_ylabel("time per cell (seconds, log)", fontsize=look.label)
    title = [*wrapped(f"{about.heading}: {_over(medians)}", width), *wrapped(about.conditions, width)]
    figure.suptitle(plain("\n".join(title)), fontsize=11)
    hollow = Line2D([], [], marker="o", markerfacecolor="none", label="hollow, at >N: not reached", color="#555555")
    hollow.set(linestyle="none", markersize=7)
    reading = f"Time of all phases on {_hardware(part)}; shared work counts in each cell."
    below = plain("\n".join([reading, *name_lines(notes, width)]))
    add_legend(figure, [hollow], width, look, handlelength=None, title=below, title_fontsize=9)
    return figure


def _in_print(
    part: pd.DataFrame,
    medians: pd.DataFrame,
    styles: Mapping[str, Style],
    keys: Mapping[str, Line2D],
    about: Description,
    look: Look,
) -> Figure:
    """Draw with one legend of bases, and the caption as the figure's label."""
    handles = list(keys.values())
    for handle in handles:
        handle.set_markersize(4)
    families = sorted(unique(part, "family"), key=family_order)
    width = look.width or 0.0
    columns = grid_columns(len(families), look)
    rows = -(-len(families) // columns)
    room = panel_room(width, columns, labels=0.7)
    height = print_height(rows, room * 1.3, legend_rows(handles, width, look))
    figure = make_figure(width, height, look)
    for axes, family in _draw_families(figure, medians, _span(part), styles, columns, look):
        if families.index(family) + columns >= len(families):
            axes.set_xlabel("nodes to 80% faithfulness", fontsize=look.label, labelpad=look.pads[1])
        if len(families) > 1:
            axes.set_title(family + _left_out(medians, family), fontsize=look.title, pad=look.pads[0])
    _thin_out(figure.axes[0], _span(part)[1], room, height / rows - 0.4)
    figure.supylabel("time per cell (s)", fontsize=look.outer_label)
    add_legend(figure, handles, width, look)
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
        _draw_points(axes, medians[medians["family"] == family], styles, span, look)
        set_frame(axes, look, bottom=index + columns >= len(families), left=index % columns == 0)
        axes.grid(color=GRID, linewidth=look.grid)
        axes.set_axisbelow(True)
        yield axes, family


def _draw_points(
    axes: Axes, rows: pd.DataFrame, styles: Mapping[str, Style], span: tuple[float, float], look: Look
) -> None:
    """Draw a point with whiskers per basis, on axes that it scales."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    lowest, top = span
    strip = top * 3
    for _, row in rows.iterrows():
        style = styles[str(row["basis"])]
        middle, low, high = (float(row[f"nodes_to_80{end}"]) for end in ("", "_low", "_high"))
        if math.isnan(middle):
            continue
        seconds = float(row["seconds"])
        colour = COLOURS[style.colour]
        reached = math.isfinite(middle)
        if reached:
            ends = [max(low, 0.1), min(high, strip)]
            axes.plot(ends, [seconds] * 2, color=colour, linewidth=look.whisker, alpha=0.7)
        axes.plot(
            [max(middle, 0.1) if reached else strip],
            [seconds],
            color=colour,
            marker=style.marker,
            markersize=look.point,
            linestyle="none",
            markerfacecolor=colour if reached else "none",
        )
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.35)
    axes.set_yscale("log")
    powers = [10**power for power in range(13) if 10**power <= top * 1.2]
    axes.xaxis.set_major_locator(FixedLocator([0, *powers, strip]))
    axes.xaxis.set_minor_locator(FixedLocator([m * p for p in powers for m in range(2, 10) if m * p <= top]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: ">N" if value == strip else short_number(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(lowest, strip * 1.8)
    axes.axvline(top * 1.35, color=DARK, linewidth=0.8, linestyle="--")


def _thin_out(axes: Axes, top: float, room: float, height: float) -> None:
    """Label no more times and no more powers of ten than fit into a panel of that many inches."""
    from matplotlib.ticker import FixedLocator

    axes.yaxis.set_major_locator(FixedLocator(nice_times(*axes.get_ylim(), most=max(2, int(height / 0.16)))))
    strip = top * 3
    # A label needs a place of its own, also left of that of the strip.
    powers = [10**power for power in range(13) if 10**power * 8 <= strip]
    step = next((s for s in (1, 2) if room / (len(powers) + 1) * s >= 0.3), 3)
    axes.xaxis.set_major_locator(FixedLocator([0, *powers[::step], strip]))


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
