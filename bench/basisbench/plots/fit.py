"""Sparsity against fit: one picture per task, from several dictionaries of one kind at the same sites.

1. A point is a dictionary: horizontal its fraction of variance unexplained on the task's prompts (mean over layers),
   vertical its nodes to 80% faithfulness under the first method, with its 95% interval. A line joins those of one kind
   and width, from the best fit to the worst.
2. One panel per error policy: what becomes of errors decides how much a bad fit is paid for. Neurons, which leave no
   error, are the same line across each. Where records have it, a last panel has the share of attribution in errors.
3. What does not reach the target stands hollow in a strip above all that does: it is censored, not large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from basisbench.plots.caption import ERRORS, fit_caption
from basisbench.plots.look import SCREEN, Look
from basisbench.plots.style import BELOW_GATE
from basisbench.plots.text import Description, wrapped
from basisbench.plots.training import (
    Series,
    conditions_text,
    dictionaries_among,
    draw_line,
    draw_nodes,
    handles_of,
    make_panels,
    neurons_beside,
    set_logarithmic,
    span_of,
)
from basisbench.results.display import Display, unique
from basisbench.results.policies import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from basisbench.types import Colour, Line, Marker, Style

LEAST = 4
"""Dictionaries of one kind that a picture needs."""

_COLOURS: Sequence[Colour] = ("green", "purple", "sky", "orange", "black")
"""A colour for each kind of dictionary; the first ones are none that neurons have."""

_LINES: Sequence[tuple[Line, Marker]] = (("solid", "o"), ("dashed", "s"), ("dash-dot", "^"), ("long-dash", "D"))
"""A line and a marker for each width."""


def dictionaries_of(part: Part, kinds: Mapping[str, tuple[str, int]], display: Display) -> pd.DataFrame:
    """Return the rows of dictionaries of which there are several of a kind, under the first method; most often none.

    Args:
        part: a set of conditions, rows as `summarise` returns them.
        kinds: kind and units per layer of each cell's dictionary.
        display: order of methods.

    Returns:
        Rows with the columns `kind` and `width`, of tasks with `LEAST` dictionaries of a kind or more.
    """
    rows = dictionaries_among(part, kinds, display)
    known = [kinds[cell] for cell in rows["cell_id"]]
    rows = rows.assign(kind=[kind for kind, _ in known], width=[width for _, width in known])
    if rows.empty:
        return rows
    return rows[rows.groupby(["task", "task_version", "family", "kind"])["basis"].transform("nunique") >= LEAST]


def plot_fit(
    dictionaries: pd.DataFrame,
    part: Part,
    styles: Mapping[str, Style],
    display: Display,
    *,
    look: Look = SCREEN,
) -> Figure:
    """Draw nodes to 80% against FVU, a panel per error policy, and the share of attribution in errors.

    Args:
        dictionaries: rows of one task and family, of those that `dictionaries_of` returned.
        part: the set of conditions that they are of, with the neurons beside them.
        styles: a style per basis.
        display: order of bases.
        look: of the picture.

    Returns:
        A figure; in print its label (`figure.get_label()`) is the caption in LaTeX.
    """
    first = dictionaries.iloc[0]
    neurons = neurons_beside(first, part, display)
    series = _series(dictionaries, styles)
    policies = [name for name in ERRORS if name in set(dictionaries["error_policy"])]
    shares = dictionaries["error_share"].notna().any()
    about = Description(
        f"Nodes to 80% against fit, {first['task']} (version {first['task_version']}), family {first['family']}, "
        f"method {first['method']}",
        conditions_text(first, part),
        "",
    )
    panels = make_panels(len(policies) + shares, handles_of(neurons, series, styles, look), look)
    span = span_of(pd.concat([dictionaries, neurons]))
    for index, (axes, policy) in enumerate(zip(panels.axes, [*policies, ""], strict=False)):
        if policy:
            draw_nodes(axes, neurons, series, styles, policy, span, look, beside=False)
        else:
            _draw_shares(axes, series, look)
        name = policy or "errors' share"
        title = name
        if look.width is None:
            title = "\n".join(wrapped(f"{name}: {ERRORS.get(policy, 'of the sum of |scores|')}", panels.room))
        if first["gate"]:
            axes.set_facecolor(BELOW_GATE)
        # A dictionary may leave nothing unexplained.
        set_logarithmic(axes, dictionaries["fvu_mean"].clip(lower=1e-6), panels.room / 0.4, "{:g}".format)
        panels.frame(index, title, "FVU")
        label = "nodes to 80%" if policy else "share"
        axes.set_ylabel(label, fontsize=min(look.label, look.title), labelpad=look.pads[1])
    reading = (
        "FVU: fraction of variance unexplained on the task's prompts, mean over layers; better fits are left. Bars and "
        "bands: 95% bootstrap intervals."
    )
    return panels.finish(about, [reading], fit_caption(about, policies, shares=bool(shares)))


def _series(dictionaries: pd.DataFrame, styles: Mapping[str, Style]) -> list[Series]:
    """Return the dictionaries by kind and width, each in order of its fit."""
    found: list[Series] = []
    widths = sorted(set(dictionaries["width"]))
    for number, kind in enumerate(unique(dictionaries, "kind")):
        for width, own in dictionaries[dictionaries["kind"] == kind].groupby("width"):
            line, marker = _LINES[widths.index(width) % len(_LINES)]
            rows = own.sort_values("fvu_mean", kind="stable")
            known = styles[str(rows["basis"].iloc[0])]
            style = replace(known, colour=_COLOURS[number % len(_COLOURS)], line=line, marker=marker)
            # The axis across is the fit.
            found.append(Series(f"{kind} of {width:,} units a layer", style, rows.assign(tokens=rows["fvu_mean"])))
    return found


def _draw_shares(axes: Axes, series: Sequence[Series], look: Look) -> None:
    """Draw the share of attribution in errors, under the first error policy that has it."""
    for each in series:
        rows = each.rows[each.rows["error_share"].notna()]
        rows = rows[rows["error_policy"] == rows["error_policy"].iloc[0]] if len(rows) else rows
        draw_line(axes, rows["tokens"], rows["error_share"], each.style, look)
    axes.set_ylim(0, 1)
