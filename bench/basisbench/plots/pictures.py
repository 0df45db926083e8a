"""All pictures that results allow, as files.

1. Split the results by their conditions, a folder for each.
2. Draw every basis under the first method, every method on each basis, the first bases and methods crossed, snapshots
   of dictionaries against training tokens and against fit, and cost; across conditions, checkpoints of a tuned model.
3. Save each as PNG, SVG or PDF; in print with its caption beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pandas as pd

from basisbench.errors import unknown_name
from basisbench.plots.cost import NoMediansError, plot_cost
from basisbench.plots.curves import families_text, plot_curves
from basisbench.plots.fit import dictionaries_of, plot_fit
from basisbench.plots.look import Look, StyleName, Width, look_of
from basisbench.plots.panels import Horizontal, Quantity
from basisbench.plots.save import FORMATS, save_figure
from basisbench.plots.style import basis_styles, method_styles
from basisbench.plots.training import plot_training, snapshots_of
from basisbench.plots.tuning import checkpoints_of, plot_tuning
from basisbench.registry import load_registry
from basisbench.results.controls import control_of
from basisbench.results.display import Display, family_order, unique
from basisbench.results.frame import PathLike, frame_of, records_of, summarise
from basisbench.results.labels import short_labels
from basisbench.results.policies import Part, split_with_policies
from basisbench.results.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw: TypeAlias = "Callable[..., Figure]"
Pictures: TypeAlias = "Iterator[tuple[str, Callable[[], Figure]]]"

MOST_LINES = 6


def plot_results(
    results: PathLike | Sequence[PathLike] | Sequence[Record],
    out: str | os.PathLike[str],
    *,
    summary: pd.DataFrame | None = None,
    formats: Sequence[str] | None = None,
    style: StyleName = "ordinary",
    width: Width = "column",
    progress: Callable[[Path], None] | None = None,
    display: Display | None = None,
) -> list[Path]:
    """Draw every picture that the results allow.

    Per family: faithfulness and completeness of all bases under one method (the first in order), and methods side by
    side for each basis. For the mlp family also curves against bits and distinct units, and its first two bases crossed
    with the first two methods. And cost against nodes to 80% faithfulness; where dictionaries are snapshots of a
    training (`basisbench train --snapshots`), nodes to 80% and FVU against training tokens, task by task; where there
    are four dictionaries of a kind or more, nodes to 80% against FVU; and where models are checkpoints of a tuning
    (`basisbench tune`), nodes to 80%, FVU and more against its tokens. Cells under the error policies node and ablate
    have lines beside those under coordinates, where these are there, and pictures of their own where not.

    Args:
        results: paths as `load_results` takes them, or records already read.
        out: folder for the pictures, made when missing; a folder per set of conditions inside when there are several.
        summary: what `summarise` returned for the same results, where it is at hand.
        formats: file types, some of png, svg and pdf; by default png, and all three in the style "paper".
        style: "ordinary", or "paper" for figures that go into a paper unscaled, each with its caption
            beside it in `NAME.tex` (`basisbench.plots.caption` says how LaTeX reads it).
        width: of paper figures: "column" (3.3 inches), "page" (6.9 inches), or inches.
        progress: called with the path of each picture when it is written.
        display: order and styles of bases and methods; by default what the installed ones declare.

    Returns:
        The files written.

    Raises:
        RecordError: no record is found, or one is malformed.
        BasisBenchError: there is no such format, style or width.
    """
    look = look_of(style, width)
    formats = checked_formats(formats, style)
    display = load_registry().display() if display is None else display
    records = records_of(results)
    frame = frame_of(records)
    summary = summarise(records) if summary is None else summary
    bases = basis_styles(unique(frame, "basis"), display)
    methods = method_styles(unique(frame, "method"), display)
    labels = short_labels(unique(frame, "basis"))
    trainings = {record.id: told for record in records if (told := record.training) and told.tokens and told.digest}
    kinds = {
        record.id: (record.training.kind, record.counts.units_per_layer[0])
        for record in records
        if record.training and record.training.kind and record.guard
    }
    training, fit = (partial(plot, styles=bases, look=look) for plot in (plot_training, plot_fit))
    parts = split_with_policies(frame)
    written: list[Path] = []
    for index, (found, sums) in enumerate(zip(parts, split_with_policies(summary), strict=True)):
        part = found.rows
        folder = Path(out) if len(parts) == 1 else Path(out) / f"conditions-{index + 1}-{_folder_name(part)}"
        folder.mkdir(parents=True, exist_ok=True)
        draw = partial(plot_curves, labels=labels, style=style, width=width, display=display)
        pictures: dict[str, Callable[[], Figure]] = {
            **dict(_basis_pictures(part, found.beside, display, partial(draw, styles=bases))),
            **_method_pictures(part, labels, display, partial(draw, styles=methods)),
            **dict(_crossed_picture(part, display, partial(draw, styles=bases | methods))),
            **dict(_task_pictures("training", snapshots_of(sums, trainings, display), sums, display, training)),
            **dict(_task_pictures("fit", dictionaries_of(sums, kinds, display), sums, display, fit)),
            "cost": partial(plot_cost, sums.rows, bases, display, labels=labels, look=look),
        }
        written += _save_all(pictures, folder, formats, look, progress)
    tuned = _tuning_pictures(summary, records, display, partial(plot_tuning, styles=bases, display=display, look=look))
    return written + _save_all(dict(tuned), Path(out), formats, look, progress)


def _save_all(
    pictures: Mapping[str, Callable[[], Figure]],
    folder: Path,
    formats: Sequence[str],
    look: Look,
    progress: Callable[[Path], None] | None,
) -> list[Path]:
    """Draw pictures and save each in every format, in print with its caption; return the files."""
    written: list[Path] = []
    for name, make in pictures.items():
        try:
            figure = make()
        except NoMediansError:  # a few cells under conditions of their own have no picture of medians
            continue
        files = [folder / f"{name}.{suffix}" for suffix in formats]
        for path in files:
            save_figure(figure, path, dpi=look.dpi)
        if look.width is not None:
            files.append(folder / f"{name}.tex")
            files[-1].write_text(f"{figure.get_label()}\n", encoding="utf-8")
        written += files
        if progress is not None:
            for path in files:
                progress(path)
    return written


def checked_formats(formats: Sequence[str] | None, style: StyleName) -> tuple[str, ...]:
    """Return the file types to write, each once; by default those of the style.

    Raises:
        BasisBenchError: there is no such format.
    """
    chosen = tuple(dict.fromkeys(formats or (("png",) if style == "ordinary" else FORMATS)))
    for name in chosen:
        if name not in FORMATS:
            raise unknown_name("format of pictures", name, FORMATS)
    return chosen


def _parts(names: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """Return names in parts of at most six, each with a suffix; every part keeps the first, to compare with."""
    if len(names) <= MOST_LINES:
        return [("", names)]
    count = -(-(len(names) - 1) // (MOST_LINES - 1))
    return [(f"_{part + 1}", [names[0], *names[1:][part::count]]) for part in range(count)]


def _basis_parts(names: Sequence[str], controls: Mapping[str, str]) -> list[tuple[str, Sequence[str]]]:
    """Return bases in parts of at most six; where they are more, controls stand with what they control, in parts apart.

    Args:
        names: bases in the order of lines.
        controls: those that are controls of another basis, each with that basis.
    """
    if len(names) <= MOST_LINES or not controls:
        return _parts(names)
    usual = [name for name in names if name not in controls]
    groups: dict[str, list[str]] = {}
    for name, basis in controls.items():
        groups.setdefault(basis, [basis] if basis in names else []).append(name)
    chunks: list[list[str]] = []
    for group in groups.values():
        new = [name for name in group if name != names[0]]
        if not chunks or len(chunks[-1]) + len(new) > MOST_LINES:
            chunks.append([names[0]])
        chunks[-1] += new
    suffixes = ["_controls", *(f"_controls_{number}" for number in range(2, len(chunks) + 1))]
    return [*(_parts(usual) if usual else []), *zip(suffixes, chunks, strict=True)]


def _basis_pictures(part: pd.DataFrame, beside: pd.DataFrame, display: Display, draw: Draw) -> Pictures:
    """Yield the pictures with a line per basis, at most six to a panel."""
    method = display.first_method(part)
    shown, beside = (rows[rows["method"] == method] for rows in (part, beside))
    for family in sorted(unique(shown, "family"), key=family_order):
        own = shown[shown["family"] == family]
        names = sorted(unique(own, "basis"), key=display.basis_order)
        declared = dict(zip(own["basis"], own["control"], strict=True))
        controlled = {name: control_of(name, control=bool(declared[name])) for name in names}
        for suffix, chunk in _basis_parts(names, {name: basis for name, basis in controlled.items() if basis}):
            others = beside[(beside["family"] == family) & beside["basis"].isin(chunk)]
            rows = pd.concat([own[own["basis"].isin(chunk)], others])
            views: list[tuple[Quantity, Horizontal, str]] = [
                ("faithfulness", "size", f"faithfulness_{family}{suffix}"),
                ("completeness", "size", f"completeness_{family}{suffix}"),
            ]
            if family == "mlp":
                views.append(("faithfulness", "bits", f"faithfulness_bits_{family}{suffix}"))
                if rows["all_units"].notna().any():
                    views.append(("faithfulness", "all_units", f"faithfulness_units_{family}{suffix}"))
            for quantity, x, name in views:
                yield name, partial(draw, rows, quantity=quantity, x=x)


def _method_pictures(
    part: pd.DataFrame, labels: Mapping[str, str], display: Display, draw: Draw
) -> dict[str, Callable[[], Figure]]:
    """Return a picture per basis with a line per method, where there is more than one."""
    pictures: dict[str, Callable[[], Figure]] = {}
    for basis in sorted(unique(part, "basis"), key=display.basis_order):
        rows = part[part["basis"] == basis]
        names = sorted(unique(rows, "method"), key=display.method_order)
        for suffix, names_of_part in _parts(names) if len(names) > 1 else ():
            chunk = rows[rows["method"].isin(names_of_part)]
            name = f"methods_{_safe(labels[basis])}{suffix}"
            while name in pictures:  # two names that differ in what no file system takes
                name += "_"
            title = f"Faithfulness by method, basis {basis}, {families_text(chunk)}"
            pictures[name] = partial(draw, chunk, quantity="faithfulness", lines="method", title=title)
    return pictures


def _crossed_picture(part: pd.DataFrame, display: Display, draw: Draw) -> Pictures:
    """Yield the first two bases of the mlp family crossed with the first two methods (as in arXiv 2601.22594).

    On tasks that have all four.
    """
    rows = part[part["family"] == "mlp"]
    bases = sorted(unique(rows, "basis"), key=display.basis_order)[:2]
    methods = sorted(unique(rows, "method"), key=display.method_order)[:2]
    rows = rows[rows["basis"].isin(bases) & rows["method"].isin(methods)]
    whole = rows.groupby(["task", "task_version"])["cell_id"].transform("nunique") == 4
    if whole.any():
        rows = rows[whole]
        title = f"Two changes, crossed: {bases[0]} instead of {bases[1]}, {methods[0]} instead of {methods[1]}"
        yield "cross_bases_methods", partial(draw, rows, quantity="faithfulness", lines="basis and method", title=title)


def _task_pictures(kind: str, rows: pd.DataFrame, part: Part, display: Display, draw: Draw) -> Pictures:
    """Yield a picture per task and family of rows of dictionaries."""
    for (family, task, version), own in rows.groupby(["family", "task", "task_version"]):
        several = rows.loc[rows["task"] == task, "task_version"].nunique() > 1
        name = f"{kind}_{family}_{task}" + (f"_v{version}" if several else "")
        yield _safe(name), partial(draw, own, part, display=display)


def _tuning_pictures(
    summary: pd.DataFrame, records: Sequence[Record], display: Display, draw: Draw
) -> dict[str, Callable[[], Figure]]:
    """Return a picture per task and family of a model that was tuned; of a second tuning or condition with a number."""
    pictures: dict[str, Callable[[], Figure]] = {}
    tunings = {record.id: record.tuning for record in records if record.tuning}
    for _, rows in checkpoints_of(summary, tunings, display):
        name = _safe(f"tuning_{rows['family'].iloc[0]}_{rows['task'].iloc[0]}")
        alike = sum(other.partition(".")[0] == name for other in pictures)
        pictures[f"{name}.{alike + 1}" if alike else name] = partial(draw, rows)
    return pictures


def _folder_name(part: pd.DataFrame) -> str:
    first = part.iloc[0]
    names = ("model", "ablation", "error_policy", "granularity", "seed")
    return _safe("-".join(str(first[name]) for name in names))


def _safe(text: str) -> str:
    """Keep what every file system takes."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)
