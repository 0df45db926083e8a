"""Pictures of results: faithfulness and completeness against circuit size, methods, cost.

1. Split the results by setting, so that a picture never mixes ablations, policies, seeds or models.
2. One panel per task and family, one line per basis (or method), bands for the 95% bootstrap intervals.
3. The y-range is fixed, so that pictures compare; a value outside it is drawn as a triangle at the edge and told.
4. Long names of bases get short labels (`basisbench.results.labels`), the same in all pictures of a call, and told below.
5. The style "paper" draws the same lines for print (`basisbench.plots.paper`), with a caption in LaTeX for the title.

Drawn through matplotlib's object-oriented interface: no display, no global state, and no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import pandas as pd

from basisbench.errors import BasisBenchError, unknown_name
from basisbench.plots.panels import FORMATS, Horizontal, Panel, Quantity, draw_panels, save_figure
from basisbench.plots.paper import DPI, Width, draw_paper, inches
from basisbench.plots.style import Style, basis_styles, method_styles
from basisbench.results.conditions import (
    SETTING,
    basis_order,
    default_method,
    family_order,
    method_order,
    split_settings,
    unique,
)
from basisbench.results.frame import PathLike, frame_of, records_of, summarise
from basisbench.results.labels import label_notes, short_labels
from basisbench.results.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lines = Literal["basis", "method", "basis and method"]
Look = Literal["ordinary", "paper"]
Draw: TypeAlias = "Callable[..., Figure]"

MOST_LINES = 6
PANEL_COLUMNS = ("task", "task_version", "family", "basis", "method")
"""What tells panels and their lines apart."""


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
    style: Look = "ordinary",
    width: Width = "column",
) -> Figure:
    """Draw curves against circuit size: a panel per task and family, a line per basis, with 95% bands.

    Args:
        frame: what `load_results` returned, or rows of it; of one setting (model, ablation, error policy, ...).
        quantity: what to draw; "both" puts the two side by side.
        x: "size" for nodes, "bits" for the bits that name the circuit.
        lines: what tells lines apart: the basis (under one method), the method (for one basis per panel), or both.
        method: the method to draw where `lines` is "basis"; by default relp where it is there.
        title: first line of the title; a second line states the setting.
        styles: a style per basis or method; by default the project's.
        labels: a label per basis; by default its name, or a short one where that is long.
        style: "ordinary", or "paper" for a figure without a title that goes into a paper unscaled.
        width: of a paper figure: "column" (3.3 inches), "page" (6.9 inches), or inches.

    Returns:
        A figure; save it with `figure.savefig(path, dpi=150)`, or with `plot_panels.save_figure(figure, path)` for the
        same bytes each time. In the style "paper", `figure.get_label()` is the caption in LaTeX.

    Raises:
        BasisBenchError: nothing to draw, the frame is another one, mixes settings or, where `lines` is "method", bases,
            or there is no such style or width.
    """
    if style not in get_args(Look):
        raise unknown_name("style of pictures", style, get_args(Look))
    if frame.empty:
        raise BasisBenchError("nothing to draw: no rows are left; check the filters on task, basis and method")
    if missing := [name for name in (*PANEL_COLUMNS, "size", "bits", *SETTING) if name not in frame]:
        raise BasisBenchError(f"curves need the columns of `load_results`; missing: {', '.join(missing)}")
    settings = split_settings(frame)
    if len(settings) > 1:
        titles = "; ".join(text for text, _ in settings)
        raise BasisBenchError(f"{len(settings)} settings in one picture; select one of: {titles}")
    setting, frame = settings[0]
    if lines == "basis":
        method = method or default_method(frame)
        frame = frame[frame["method"] == method]
        if frame.empty:
            raise BasisBenchError(f"nothing to draw: no results for method {method}")
        setting = f"method {method}, {setting}"
    elif lines == "method" and frame["basis"].nunique() > 1:
        raise BasisBenchError("a line per method needs the rows of one basis; select one")
    bases = unique(frame, "basis")
    named = labels or short_labels(bases)
    quantities: tuple[Quantity, ...] = ("faithfulness", "completeness") if quantity == "both" else (quantity,)
    # Sorted once for all lines, and without the columns of text that nothing below reads: selecting rows is then quick.
    values = [f"{name}{end}" for name in quantities for end in ("", "_low", "_high")]
    frame = frame[[*PANEL_COLUMNS, "size", "bits", *values]].sort_values("size", kind="stable")
    groups = sorted(
        frame.groupby(["task", "task_version", "family"]), key=lambda item: (item[0][:2], family_order(item[0][2]))
    )
    full_titles = [_panel_title(task, version, family, frame) for (task, version, family), _ in groups]
    short_titles = [_short_title(task, version, family, frame) for (task, version, family), _ in groups]
    panels = [
        Panel(panel_title, name, _lines_of(group, lines, styles, named))
        for panel_title, (_, group) in zip(short_titles if style == "paper" else full_titles, groups, strict=True)
        for name in quantities
    ]
    shown = [] if lines == "method" else bases  # a legend of methods names no basis
    heading = title or " and ".join(quantities).capitalize() + f", {_families(frame)}"
    if style == "paper":
        short = [(named[name], name) for name in shown if named[name] != name]
        versions = unique(frame, "task_version")
        told = f"Panels (version {versions[0]} of each task): {', '.join(short_titles)}"
        told = told if len(versions) == 1 else f"Panels: {', '.join(full_titles)}"
        return draw_paper(panels, x, heading, setting, told, width, short_names=short)
    notes = label_notes({name: named[name] for name in shown})
    columns = _columns(len(panels), paired=quantity == "both")
    return draw_panels(panels, x, heading, setting, columns=columns, short_names=notes)


def plot_results(
    results: PathLike | Sequence[PathLike] | Sequence[Record],
    out: str | os.PathLike[str],
    *,
    summary: pd.DataFrame | None = None,
    formats: Sequence[str] | None = None,
    style: Look = "ordinary",
    width: Width = "column",
    progress: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Draw every picture that the results allow.

    Per family: faithfulness and completeness of all bases under one method (relp where it is there), and methods
    side by side for each basis. For the mlp family also curves against bits and the cross of {mlp_act, mlp_out} and
    {ig, relp}. And cost against nodes to 80% faithfulness.

    Args:
        results: paths as `load_results` takes them, or records already read.
        out: folder for the pictures, made when missing; one folder per setting inside when there are several.
        summary: what `summarise` returned for the same results, where it is at hand.
        formats: file types, some of png, svg and pdf; by default png, and all three in the style "paper".
        style: "ordinary", or "paper" for figures that go into a paper unscaled, each with its caption
            beside it in `NAME.tex` (`basisbench.plots.paper` says how LaTeX reads it).
        width: of paper figures: "column" (3.3 inches), "page" (6.9 inches), or inches.
        progress: called with the path of each picture when it is written.

    Returns:
        The files written.

    Raises:
        RecordError: no record is found, or one is malformed.
        BasisBenchError: there is no such format, style or width.
    """
    formats = checked_formats(formats, style)
    inches(width)
    records = records_of(results)
    frame = frame_of(records)
    summary = summarise(records) if summary is None else summary
    bases = basis_styles(unique(frame, "basis"))
    methods = method_styles(unique(frame, "method"))
    labels = short_labels(unique(frame, "basis"))
    settings = split_settings(frame)
    summaries = split_settings(summary)
    written: list[Path] = []
    for index, ((_, part), (_, sums)) in enumerate(zip(settings, summaries, strict=True)):
        folder = Path(out) if len(settings) == 1 else Path(out) / f"setting-{index + 1}-{_folder_name(part)}"
        folder.mkdir(parents=True, exist_ok=True)
        draw = partial(plot_curves, labels=labels, style=style, width=width)
        pictures = {
            **_basis_pictures(part, partial(draw, styles=bases)),
            **_method_pictures(part, labels, partial(draw, styles=methods)),
            **_cross_picture(part, draw),
            "cost": _cost_picture(sums, bases, labels, style, width),
        }
        for name, make in pictures.items():
            figure = make()
            for suffix in formats:
                written.append(folder / f"{name}.{suffix}")
                save_figure(figure, written[-1], dpi=150 if style == "ordinary" else DPI)
                if progress is not None:
                    progress(written[-1])
            if style == "paper":
                written.append(folder / f"{name}.tex")
                written[-1].write_text(f"{figure.get_label()}\n", encoding="utf-8")
                if progress is not None:
                    progress(written[-1])
    return written


def checked_formats(formats: Sequence[str] | None, style: str) -> tuple[str, ...]:
    """Return the file types to write, each once; by default those of the style.

    Raises:
        BasisBenchError: there is no such format or style.
    """
    if style not in get_args(Look):
        raise unknown_name("style of pictures", style, get_args(Look))
    chosen = tuple(dict.fromkeys(formats or (("png",) if style == "ordinary" else FORMATS)))
    for name in chosen:
        if name not in FORMATS:
            raise unknown_name("format of pictures", name, FORMATS)
    return chosen


def _basis_pictures(part: pd.DataFrame, draw: Draw) -> dict[str, Callable[[], Figure]]:
    """Return the pictures with a line per basis, at most six to a panel."""
    pictures: dict[str, Callable[[], Figure]] = {}
    shown = part[part["method"] == default_method(part)]
    for family in sorted(unique(shown, "family"), key=family_order):
        own = shown[shown["family"] == family]
        names = sorted(unique(own, "basis"), key=basis_order)
        count = 1 if len(names) <= MOST_LINES else -(-(len(names) - 1) // (MOST_LINES - 1))
        for number in range(count):
            # Every picture keeps the first basis, the raw neurons, to compare with.
            chunk = names[:1] + names[1:][number::count]
            rows = own[own["basis"].isin(chunk)]
            suffix = f"_{number + 1}" if count > 1 else ""
            views: list[tuple[Quantity, Horizontal, str]] = [
                ("faithfulness", "size", f"faithfulness_{family}{suffix}"),
                ("completeness", "size", f"completeness_{family}{suffix}"),
            ]
            if family == "mlp":
                views.append(("faithfulness", "bits", f"faithfulness_bits_{family}{suffix}"))
            for quantity, x, name in views:
                pictures[name] = partial(draw, rows, quantity=quantity, x=x)
    return pictures


def _method_pictures(part: pd.DataFrame, labels: Mapping[str, str], draw: Draw) -> dict[str, Callable[[], Figure]]:
    """Return a picture per basis with a line per method, where there is more than one."""
    pictures: dict[str, Callable[[], Figure]] = {}
    for basis in sorted(unique(part, "basis"), key=basis_order):
        rows = part[part["basis"] == basis]
        names = sorted(unique(rows, "method"), key=method_order)
        for start in range(0, len(names), MOST_LINES) if len(names) > 1 else ():
            chunk = rows[rows["method"].isin(names[start : start + MOST_LINES])]
            suffix = f"_{start // MOST_LINES + 1}" if len(names) > MOST_LINES else ""
            name = f"methods_{_safe(labels[basis])}{suffix}"
            while name in pictures:  # two names that differ in what no file system takes
                name += "_"
            title = f"Faithfulness by method, basis {basis}, {_families(chunk)}"
            pictures[name] = partial(draw, chunk, quantity="faithfulness", lines="method", title=title)
    return pictures


def _cross_picture(part: pd.DataFrame, draw: Draw) -> dict[str, Callable[[], Figure]]:
    """Return the 2x2 of neuron basis and method, the central figure of Arora et al. (arXiv 2601.22594)."""
    rows = part[part["basis"].isin(["mlp_act", "mlp_out"]) & part["method"].isin(["ig", "relp"])]
    if rows.groupby(["basis", "method"]).ngroups < 4:
        return {}
    title = "Two changes, crossed: MLP activations instead of outputs, RelP instead of integrated gradients"
    return {
        "cross_neurons_methods": partial(draw, rows, quantity="faithfulness", lines="basis and method", title=title)
    }


def _cost_picture(
    summary: pd.DataFrame, styles: Mapping[str, Style], labels: Mapping[str, str], style: Look, width: Width
) -> Callable[[], Figure]:
    """Return the picture of cost against sparsity."""
    from basisbench.plots.cost import plot_cost
    from basisbench.plots.paper_cost import plot_paper_cost

    if style == "paper":
        return partial(plot_paper_cost, summary, styles, width, labels=labels)
    return partial(plot_cost, summary, styles, labels=labels)


def _lines_of(
    group: pd.DataFrame, lines: Lines, styles: Mapping[str, Style] | None, labels: Mapping[str, str]
) -> tuple[tuple[str, Style, pd.DataFrame], ...]:
    """Split the rows of a panel, which are in order of size, into labelled lines, in legend order."""
    if lines == "basis and method":
        by_basis, by_method = basis_styles(unique(group, "basis")), method_styles(unique(group, "method"))
        keys = sorted(
            group.groupby(["basis", "method"]), key=lambda item: (basis_order(item[0][0]), method_order(item[0][1]))
        )
        return tuple(
            (
                f"{labels[basis]}, {method}",
                Style(by_basis[basis].colour, by_method[method].line, by_basis[basis].marker),
                rows,
            )
            for (basis, method), rows in keys
        )
    order = basis_order if lines == "basis" else method_order
    rows_of = {str(name): rows for name, rows in group.groupby(lines)}
    names = sorted(rows_of, key=order)
    own = styles or (basis_styles(names) if lines == "basis" else method_styles(names))
    return tuple((labels[name] if lines == "basis" else name, own[name], rows_of[name]) for name in names)


def _columns(panels: int, *, paired: bool) -> int:
    """Return the columns of the grid: pairs stay side by side, nine panels make three rows of three."""
    if paired:
        return 2 if panels <= 6 else 4
    return panels if panels <= 3 else 2 if panels == 4 else 3


def _panel_title(task: str, version: str, family: str, frame: pd.DataFrame) -> str:
    """Name a panel by its task, its version, and its family where the picture holds several."""
    text = f"{task} (version {version})"
    return f"{text}, {family}" if frame["family"].nunique() > 1 else text


def _short_title(task: str, version: str, family: str, frame: pd.DataFrame) -> str:
    """Name a panel by as little as tells it from the others: the task, its version or family where they differ."""
    several = frame[frame["task"] == task]["task_version"].nunique() > 1
    text = f"{task} v{version}" if several else task
    return f"{text}, {family}" if frame["family"].nunique() > 1 else text


def _families(frame: pd.DataFrame) -> str:
    names = sorted(unique(frame, "family"), key=family_order)
    return f"family {names[0]}" if len(names) == 1 else f"families {', '.join(names)}"


def _folder_name(part: pd.DataFrame) -> str:
    first = part.iloc[0]
    names = ("model", "ablation", "error_policy", "granularity", "seed")
    return _safe("-".join(str(first[name]) for name in names))


def _safe(text: str) -> str:
    """Keep what every file system takes."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)
