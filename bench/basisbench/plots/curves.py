"""Curves of faithfulness and completeness against circuit size, as one picture.

1. A picture holds one set of conditions: it never mixes ablations, policies, seeds or models. Lines beside those of
   dictionaries show what other error policies make of them (`basisbench.results.policies`).
2. One panel per task and family, one line per basis (or method), bands for the 95% bootstrap intervals.
3. Long names of bases get short labels (`basisbench.results.labels`), and stand in full below the panels.

Drawn through matplotlib's object-oriented interface: no display, no global state, and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import pandas as pd

from basisbench.errors import BasisBenchError
from basisbench.plots.look import StyleName, Width, look_of
from basisbench.plots.panels import Horizontal, Line, Panel, Quantity, draw_panels
from basisbench.plots.style import basis_styles, method_styles
from basisbench.plots.text import Description
from basisbench.registry import load_registry
from basisbench.results.conditions import CONDITIONS
from basisbench.results.display import Display, family_order, unique
from basisbench.results.labels import short_labels
from basisbench.results.policies import split_with_policies
from basisbench.types import Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lines = Literal["basis", "method", "basis and method"]

PANEL_COLUMNS = ("task", "task_version", "family", "basis", "method")
"""What tells panels and their lines apart."""

VALUE_COLUMNS = ("size", "bits", "all_units", "scored", "gate", "full_mean", "empty_mean")


def plot_curves(
    frame: pd.DataFrame,
    *,
    quantity: Quantity | Literal["both"] = "both",
    x: Horizontal = "size",
    lines: Lines = "basis",
    method: str | None = None,
    title: str | None = None,
    styles: Mapping[str, Style] | None = None,
    labels: Mapping[str, str] | None = None,
    style: StyleName = "ordinary",
    width: Width = "column",
    display: Display | None = None,
) -> Figure:
    """Draw curves against circuit size: a panel per task and family, a line per basis, with 95% bands.

    Args:
        frame: what `load_results` returned, or rows of it; of one set of conditions (model, ablation, ...). Rows of
            dictionaries under the error policies node and ablate give lines beside those under coordinates, where a
            line is a basis.
        quantity: what to draw; "both" puts the two side by side.
        x: "size" for nodes, "bits" for the bits that name the circuit, "all_units" for distinct units over all aligned
            groups.
        lines: what tells lines apart: the basis (under one method), the method (for one basis per panel), or both.
        method: the method to draw where `lines` is "basis"; by default the first in order.
        title: first line of the title; a second line states the conditions.
        styles: a style per basis, and per method where a line is one; by default what they declare.
        labels: a label per basis; by default its name, or a short one where that is long.
        style: "ordinary", or "paper" for a figure without a title that goes into a paper unscaled.
        width: of a paper figure: "column" (3.3 inches), "page" (6.9 inches), or inches.
        display: order and styles of bases and methods; by default what the installed ones declare.

    Returns:
        A figure; save it with `figure.savefig(path, dpi=150)`, or with `basisbench.plots.save.save_figure(figure,
        path)` for the same bytes each time. In the style "paper", `figure.get_label()` is the caption in LaTeX.

    Raises:
        BasisBenchError: nothing to draw, the frame is another one, mixes conditions or, where `lines` is "method",
            bases, or there is no such style or width.
    """
    look = look_of(style, width)
    display = load_registry().display() if display is None else display
    conditions, frame, beside = _one_set(frame)
    if frame[x].isna().all():
        raise BasisBenchError("nothing to draw: records of schema 1 do not count the units of all groups together")
    if lines == "basis":
        method = method or display.first_method(frame)
        frame, beside = (rows[rows["method"] == method] for rows in (frame, beside))
        if frame.empty:
            raise BasisBenchError(f"nothing to draw: no results for method {method}")
        conditions = f"method {method}, {conditions}"
    elif lines == "method" and frame["basis"].nunique() > 1:
        raise BasisBenchError("a line per method needs the rows of one basis; select one")
    bases = unique(frame, "basis")
    # One style per basis or method, whichever panel it is in.
    looks = {
        **({} if lines == "method" else basis_styles(bases, display)),
        **({} if lines == "basis" else method_styles(unique(frame, "method"), display)),
        **(styles or {}),
    }
    named = labels or short_labels(bases)
    quantities: tuple[Quantity, ...] = ("faithfulness", "completeness") if quantity == "both" else (quantity,)
    # Sorted once for all lines, and without the columns of text that nothing below reads: selecting rows is then quick.
    values = [f"{name}{end}" for name in quantities for end in ("", "_low", "_high")]
    columns = [*PANEL_COLUMNS, "error_policy", *VALUE_COLUMNS, *values]
    frame, beside = (rows[columns].sort_values("size", kind="stable") for rows in (frame, beside))
    others = dict(iter(beside.groupby(["task", "task_version", "family"]))) if lines == "basis" else {}
    groups = sorted(
        frame.groupby(["task", "task_version", "family"]), key=lambda item: (item[0][:2], family_order(item[0][2]))
    )
    full_titles, short_titles = zip(*(_titles(key, frame) for key, _ in groups), strict=True)
    panels = [
        Panel(panel_title, name, _with_beside(_lines_of(group, lines, looks, named, display), others.get(key), name))
        for panel_title, (key, group) in zip(short_titles if style == "paper" else full_titles, groups, strict=True)
        for name in quantities
    ]
    versions = unique(frame, "task_version")
    about = Description(
        heading=title or f"{' and '.join(quantities).capitalize()}, {families_text(frame)}",
        conditions=conditions,
        panels=f"Panels (version {versions[0]} of each task): {', '.join(short_titles)}"
        if len(versions) == 1
        else f"Panels: {', '.join(full_titles)}",
        labels={} if lines == "method" else {name: named[name] for name in bases},  # a legend of methods has no basis
    )
    return draw_panels(panels, x, about, look)


def _one_set(frame: pd.DataFrame) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """Return the conditions of a frame, in words, its rows and those beside them; refuse what cannot be drawn."""
    if frame.empty:
        raise BasisBenchError("nothing to draw: no rows are left; check the filters on task, basis and method")
    if missing := [name for name in (*PANEL_COLUMNS, *VALUE_COLUMNS, *CONDITIONS) if name not in frame]:
        raise BasisBenchError(f"curves need the columns of `load_results`; missing: {', '.join(missing)}")
    parts = split_with_policies(frame)
    if len(parts) > 1:
        titles = "; ".join(part.title for part in parts)
        raise BasisBenchError(f"{len(parts)} sets of conditions in one picture; select one of: {titles}")
    return parts[0].title, parts[0].rows, parts[0].beside


def _with_beside(lines: Sequence[Line], beside: pd.DataFrame | None, quantity: Quantity) -> tuple[Line, ...]:
    """Add to the lines of dictionaries those beside them; what features can do at most is a level of faithfulness."""
    if beside is None:
        return tuple(lines)
    shown = ("node", "ablate") if quantity == "faithfulness" else ("node",)
    return (
        *lines,
        *(
            Line(line.label, line.style, rows, policy)
            for line in lines
            for policy in shown
            if len(rows := beside[(beside["basis"] == line.rows["basis"].iloc[0]) & (beside["error_policy"] == policy)])
        ),
    )


def _lines_of(
    group: pd.DataFrame,
    lines: Lines,
    styles: Mapping[str, Style],
    labels: Mapping[str, str],
    display: Display,
) -> tuple[Line, ...]:
    """Split the rows of a panel, which are in order of size, into labelled lines, in legend order."""
    if lines == "basis and method":
        keys = sorted(
            group.groupby(["basis", "method"]),
            key=lambda item: (display.basis_order(item[0][0]), display.method_order(item[0][1])),
        )
        return tuple(
            Line(
                f"{labels[basis]}, {method}",
                Style(styles[basis].colour, styles[method].line, styles[basis].marker),
                rows,
            )
            for (basis, method), rows in keys
        )
    order = display.basis_order if lines == "basis" else display.method_order
    rows_of = {str(name): rows for name, rows in group.groupby(lines)}
    names = sorted(rows_of, key=order)
    return tuple(Line(labels[name] if lines == "basis" else name, styles[name], rows_of[name]) for name in names)


def _titles(key: tuple[str, str, str], frame: pd.DataFrame) -> tuple[str, str]:
    """Return a panel's full title, with the task's version, and a short one that has it where it tells panels apart.

    Both have the family where the picture holds several.
    """
    task, version, family = key
    several = frame[frame["task"] == task]["task_version"].nunique() > 1
    end = f", {family}" if frame["family"].nunique() > 1 else ""
    return f"{task} (version {version}){end}", f"{task} v{version}{end}" if several else f"{task}{end}"


def families_text(frame: pd.DataFrame) -> str:
    """Return the families of a frame in words, for example "family mlp"."""
    names = sorted(unique(frame, "family"), key=family_order)
    return f"family {names[0]}" if len(names) == 1 else f"families {', '.join(names)}"
