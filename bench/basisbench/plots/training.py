"""Sparsity against how long dictionaries were trained: one picture per task, from the snapshots of a training.

1. A point is a dictionary: horizontal the tokens that it was trained on, vertical its nodes to 80% faithfulness under
   the first method, with its 95% interval; a line joins those of one training and kind, which their records name.
2. One panel per error policy, for what becomes of errors decides how much a bad dictionary is paid for; neurons, which
   nobody trains and which leave no error, are the same line across each. A last panel has the dictionaries' FVU.
3. What does not reach the target stands hollow in a strip above all that does: it is censored, not large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from basisbench.plots.caption import ERRORS, training_caption
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
from basisbench.plots.style import BELOW_GATE, COLOURS, DARK, GRID, short_number, stroke
from basisbench.plots.text import Description, plain, wrapped
from basisbench.results.display import Display, unique
from basisbench.results.policies import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from basisbench.results.record_fields import Training
    from basisbench.types import Colour, Style

TARGET = "nodes_to_80"
_OWN_COLOURS: Sequence[Colour] = ("green", "purple", "sky", "orange", "black")
"""Colours for a training whose own one is taken by neurons."""
FVU_TITLE = "fraction of variance unexplained"
NOT_REACHED = "hollow, at >N: not reached"
MUCH = 10**9
"""Tokens of training below which a picture says how many published dictionaries have seen."""


@dataclass(frozen=True, eq=False)
class Series:
    """The snapshots of one training and kind.

    Attributes:
        label: of the legend.
        style: that of the dictionary which was trained longest.
        rows: a row per snapshot and error policy, with the column `tokens`, in their order.
    """

    label: str
    style: Style
    rows: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Panels:
    """Panels side by side, with one legend below all of them.

    Attributes:
        figure: the figure.
        axes: a panel each.
        columns: how many stand side by side.
        handles: entries of the legend.
        width: of the figure, in inches.
        look: of the picture.
    """

    figure: Figure
    axes: Sequence[Axes]
    columns: int
    handles: Sequence[Line2D]
    width: float
    look: Look

    @property
    def room(self) -> float:
        """Inches across one panel."""
        return panel_room(self.width, self.columns)

    def frame(self, index: int, title: str, below: str) -> None:
        """Give a panel its title, frame and grid, and the lowest ones what stands below them."""
        axes, look = self.axes[index], self.look
        lowest = index + self.columns >= len(self.axes)
        axes.set_title(title, fontsize=look.title, pad=look.pads[0])
        set_frame(axes, look, bottom=lowest, left=True)
        axes.grid(color=GRID, linewidth=look.grid)
        axes.set_axisbelow(True)
        if lowest:
            axes.set_xlabel(below, fontsize=look.label, labelpad=look.pads[1])

    def finish(self, about: Description, reading: Sequence[str], caption: str) -> Figure:
        """Add title and legend, with how to read it; in print the legend alone, and the caption as the label."""
        figure, width, look = self.figure, self.width, self.look
        if look.width is not None:
            add_legend(figure, self.handles, width, look)
            figure.set_label(caption)
            return figure
        heading = [*wrapped(about.heading, width), *wrapped(about.conditions, width)]
        figure.suptitle(plain("\n".join(heading)), fontsize=11)
        below = [line for text in reading for line in wrapped(text, width * 1.2)]
        add_legend(figure, self.handles, width, look, title=plain("\n".join(below)))
        return figure


def make_panels(count: int, handles: Sequence[Line2D], look: Look) -> Panels:
    """Make a figure with so many panels and room for its legend."""
    width = look.width or 7.6
    columns = grid_columns(count, look)
    rows = -(-count // columns)
    room = panel_room(width, columns)
    height = 2.5 * rows + 1.6 if look.width is None else print_height(rows, room, legend_rows(handles, width, look))
    figure = make_figure(width, height, look)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    return Panels(figure, list(grid[:count]), columns, handles, width, look)


def snapshots_of(part: Part, trainings: Mapping[str, Training], display: Display) -> pd.DataFrame:
    """Return the rows of dictionaries that are snapshots of a training, under the first method; most often none.

    Args:
        part: a set of conditions, rows as `summarise` returns them.
        trainings: how dictionaries were trained, by cell.
        display: order of methods.

    Returns:
        Rows with the columns `tokens` and `training`, of tasks on which some training has two snapshots or more.
    """
    rows = dictionaries_among(part, trainings, display)
    known = [trainings[cell] for cell in rows["cell_id"]]
    rows = rows.assign(
        tokens=[training.tokens for training in known],
        training=[f"{training.kind} {training.digest}" for training in known],
    )
    alike = rows.groupby(["task", "task_version", "family", "training"])["tokens"]
    return rows[alike.transform("nunique") > 1] if len(rows) else rows


def dictionaries_among(part: Part, cells: Collection[str], display: Display) -> pd.DataFrame:
    """Return the rows of some cells under the first method, those of other error policies too; no controls.

    A control that is made of a dictionary has its training, and is none of its kind.
    """
    rows = pd.concat([part.rows, part.beside])
    first = rows["method"] == display.first_method(part.rows)
    return rows[first & rows["cell_id"].isin(cells) & ~rows["control"]]


def neurons_beside(cell: pd.Series, part: Part, display: Display) -> pd.DataFrame:
    """Return the rows of neurons of a cell's task, family and method, in order."""
    rows = part.rows[part.rows["exact"] & ~part.rows["control"]]
    for name in ("task", "task_version", "family", "method"):
        rows = rows[rows[name] == cell[name]]
    return rows.iloc[sorted(range(len(rows)), key=lambda at: display.basis_order(rows["basis"].iloc[at]))]


def conditions_text(cell: pd.Series, part: Part) -> str:
    """Write the conditions that all panels share, and why there may be too little to explain."""
    title = part.title.replace(f"error policy {part.rows['error_policy'].iloc[0]}, ", "")
    return title + (f"; below a gate: {cell['gate']}" if cell["gate"] else "")


def plot_training(
    snapshots: pd.DataFrame,
    part: Part,
    styles: Mapping[str, Style],
    display: Display,
    *,
    look: Look = SCREEN,
) -> Figure:
    """Draw nodes to 80% and FVU against training tokens, a panel per error policy.

    Args:
        snapshots: rows of one task and family, of those that `snapshots_of` returned.
        part: the set of conditions that they are of, with the neurons beside them.
        styles: a style per basis.
        display: order of bases and methods.
        look: of the picture.

    Returns:
        A figure; in print its label (`figure.get_label()`) is the caption in LaTeX.
    """
    first = snapshots.iloc[0]
    neurons = neurons_beside(first, part, display)
    series = _series(snapshots, styles, {styles[str(name)].colour for name in neurons["basis"]})
    policies = [name for name in ERRORS if name in set(snapshots["error_policy"])]
    most = int(snapshots["tokens"].max())
    seen = short_number(float(f"{most:.2g}"))
    about = Description(
        f"Nodes to 80% against training tokens, {first['task']} (version {first['task_version']}), family "
        f"{first['family']}, method {first['method']}",
        conditions_text(first, part),
        f"These dictionaries have seen at most {seen} tokens; published ones have seen billions" if most < MUCH else "",
    )
    panels = make_panels(len(policies) + 1, handles_of(neurons, series, styles, look), look)
    span = span_of(pd.concat([snapshots, neurons]))
    for index, (axes, policy) in enumerate(zip(panels.axes, [*policies, ""], strict=True)):
        if policy:
            draw_nodes(axes, neurons, series, styles, policy, span, look)
        else:
            _draw_fit(axes, series, policies[0], look)
        name = policy or "FVU"
        title = f"{name}: {ERRORS.get(policy, FVU_TITLE)}" if look.width is None else name
        if first["gate"]:
            axes.set_facecolor(BELOW_GATE)
        set_logarithmic(axes, snapshots["tokens"], panels.room / 0.35, short_number)
        panels.frame(index, title, "training tokens")
        label = "nodes to 80%" if policy else "FVU"
        axes.set_ylabel(label, fontsize=min(look.label, look.title), labelpad=look.pads[1])
    reading = "Bars and bands: 95% bootstrap intervals. FVU on the task's prompts, mean over layers."
    return panels.finish(about, [reading, about.panels and f"{about.panels}."], training_caption(about, policies))


def _series(snapshots: pd.DataFrame, styles: Mapping[str, Style], taken: Set[Colour]) -> list[Series]:
    """Return the trainings by kind, in colours that no neurons have; digests are named where two are of one kind."""
    found: list[Series] = []
    kinds = [name.rpartition(" ")[0] for name in unique(snapshots, "training")]
    for name, rows in snapshots.sort_values("tokens", kind="stable").groupby("training"):
        kind, _, digest = str(name).rpartition(" ")
        label = kind if kinds.count(kind) == 1 and kind else f"{kind or 'training'} ({digest[:8]})"
        style = styles[str(rows["basis"].iloc[-1])]
        used = {*taken, *(each.style.colour for each in found)}
        free: Colour = next((colour for colour in _OWN_COLOURS if colour not in used), style.colour)
        found.append(Series(label, replace(style, colour=free) if style.colour in used else style, rows))
    return found


def handles_of(
    neurons: pd.DataFrame, series: Sequence[Series], styles: Mapping[str, Style], look: Look
) -> list[Line2D]:
    """Return the entries of a legend: neurons, series, and what is not reached where there is such."""
    from matplotlib.lines import Line2D

    width, marker = look.key
    found = [(str(name), styles[str(name)], "") for name in neurons["basis"]]
    found += [(each.label, each.style, each.style.marker) for each in series]
    handles = [Line2D([], [], label=plain(label), marker=symbol, **stroke(style)) for label, style, symbol in found]
    hollow = Line2D([], [], label=NOT_REACHED, marker="o", markerfacecolor="none", color=DARK, linestyle="none")
    if any(math.isinf(value) for each in series for value in each.rows[TARGET]):
        handles.append(hollow)
    for handle in handles:
        handle.set(linewidth=width, markersize=marker)
    return handles


def span_of(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the smallest and the largest number of nodes to show, of all values and ends of intervals."""
    values = [float(value) for end in ("", "_low", "_high") for value in rows[TARGET + end] if math.isfinite(value)]
    return max(1.0, min(values, default=1.0)), max([10.0, *values])


def draw_nodes(
    axes: Axes,
    neurons: pd.DataFrame,
    series: Sequence[Series],
    styles: Mapping[str, Style],
    policy: str,
    span: tuple[float, float],
    look: Look,
    *,
    beside: bool = True,
) -> None:
    """Draw nodes to 80% under one error policy, on a logarithmic axis with a strip for what does not reach it.

    Series whose points are at the same places across stand a little beside each other, where that is asked for.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
    from matplotlib.transforms import ScaledTranslation

    lowest, top = span
    strip = top * 3

    def shown(value: float) -> float:
        return min(max(value, lowest / 1.5), strip)

    for _, row in neurons.iterrows():
        style = styles[str(row["basis"])]
        middle, low, high = (float(row[f"{TARGET}{end}"]) for end in ("", "_low", "_high"))
        if math.isnan(middle):
            continue
        axes.axhline(shown(middle), linewidth=look.line, **stroke(style))
        axes.axhspan(shown(low), shown(high), color=COLOURS[style.colour], alpha=0.18, linewidth=0)
    for index, each in enumerate(series):
        rows = each.rows[(each.rows["error_policy"] == policy) & each.rows[TARGET].notna()]
        colour = COLOURS[each.style.colour]
        # Snapshots of two kinds have seen the same tokens: their bars stand side by side.
        aside = 0.8 * look.key[1] * (index - (len(series) - 1) / 2) / 72 if beside else 0.0
        place_of = axes.transData + ScaledTranslation(aside, 0, axes.figure.dpi_scale_trans)
        places = [shown(float(value)) for value in rows[TARGET]]
        axes.plot(rows["tokens"], places, linewidth=look.line, transform=place_of, **stroke(each.style))
        for place, (_, row) in zip(places, rows.iterrows(), strict=True):
            reached = math.isfinite(row[TARGET])
            ends = [shown(float(row[f"{TARGET}{end}"])) for end in ("_low", "_high")]
            axes.plot([row["tokens"]] * 2, ends, color=colour, linewidth=look.whisker, transform=place_of)
            axes.plot(
                [row["tokens"]],
                [place],
                color=colour,
                marker=each.style.marker,
                markersize=look.key[1],
                linestyle="none",
                markerfacecolor=colour if reached else "white",
                transform=place_of,
            )
    axes.set_yscale("log")
    axes.set_ylim(lowest / 1.5, strip * 1.8)
    powers = [float(10**power) for power in range(13) if lowest / 1.5 <= 10**power <= top * 1.2]
    axes.yaxis.set_major_locator(FixedLocator([*powers, strip]))
    axes.yaxis.set_minor_locator(FixedLocator([m * p for p in (1, *powers) for m in range(2, 10) if m * p <= top]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: ">N" if value == strip else short_number(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.axhline(top * 1.5, color=DARK, linewidth=look.frame, linestyle="--")


def _draw_fit(axes: Axes, series: Sequence[Series], policy: str, look: Look) -> None:
    """Draw the dictionaries' mean FVU; it is the same under every error policy."""
    for each in series:
        rows = each.rows[each.rows["error_policy"] == policy]
        draw_line(axes, rows["tokens"], rows["fvu_mean"], each.style, look)
    axes.set_ylim(0, max(each.rows["fvu_mean"].max() for each in series) * 1.15)


def draw_line(axes: Axes, x: pd.Series, y: pd.Series, style: Style, look: Look) -> None:
    """Draw a line with the marker of its basis at every point."""
    axes.plot(x, y, marker=style.marker, linewidth=look.line, markersize=look.key[1], **stroke(style))


def set_logarithmic(axes: Axes, values: pd.Series, most: float, text: Callable[[float], str]) -> None:
    """Make the horizontal axis logarithmic, with labels at 1, 2 and 5 times powers of ten where not too many.

    Args:
        axes: the panel.
        values: what stands across, above 0.
        most: labels that it has room for.
        text: writes one.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = float(values.min()) / 1.25, float(values.max()) * 1.25
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        places = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(places) <= most:
            break
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
