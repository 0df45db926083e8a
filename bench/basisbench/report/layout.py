"""From records to what the page shows: a row per cell, and its curve.

1. Lay all cells out with `summarise` and `frame_of`, in the order of tables, runs that are no submissions first.
2. Tell apart what must not be mixed: a label per task (with its version, and its data where one version was tokenised
   in several ways), a label per basis (with the submission's name where the same basis occurs in several folders).
3. Group cells into settings, with best marks and medians (`basisbench.report.settings`).

Columns of text are coded: each distinct text once, then an index per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pandas as pd

from basisbench.plots.style import COLOURS, WINDOW, basis_styles, method_styles
from basisbench.report.central import central_curves
from basisbench.report.detail import cell_detail
from basisbench.report.settings import UNDER_NODE, beside, medians_of, settings_of, short_titles
from basisbench.report.sources import Cell, Source
from basisbench.results.conditions import CONDITIONS, examples_text
from basisbench.results.display import Display, family_order, unique
from basisbench.results.frame import frame_of, summarise
from basisbench.results.metrics import METRICS, not_reached_bound
from basisbench.results.record import Record
from basisbench.types import Line, Marker, Style

SHOWN = (
    "nodes_to_80",
    "bits_to_80",
    "area_faithfulness",
    "area_distance",
    "seconds",
    "peak_memory_bytes",
)
"""Metrics of the leaderboard, in its order."""

CURVE_COLUMNS = (
    *("size", "bits", "all_units", "metric_mean"),
    *("faithfulness", "faithfulness_low", "faithfulness_high"),
    *("completeness", "completeness_low", "completeness_high"),
)

PLACE = ("model", "task_label", "family")
"""What lines share that are in one file."""

CELLS_PER_FILE = 20

_OWN = ("draws", "row", "task_label", "most_bits", "curve")
"""Columns that no file of numbers has: they are the page's own."""

_DASHES: Mapping[Line, str] = {
    "solid": "solid",
    "dashed": "9px,3px",
    "dotted": "2px,3px",
    "dash-dot": "11px,3px,2px,3px",
    "long-dash": "16px,4px",
}
_SYMBOLS: Mapping[Marker, str] = {
    "o": "circle",
    "s": "square",
    "X": "x",
    "D": "diamond",
    "P": "cross",
    "h": "hexagon",
    "p": "pentagon",
    "*": "star",
    "^": "triangle-up",
    "v": "triangle-down",
    "<": "triangle-left",
    ">": "triangle-right",
}

Json: TypeAlias = "dict[str, object]"


@dataclass(frozen=True)
class Layout:
    """What the page loads.

    Attributes:
        catalogue: rows of the leaderboard, and everything that the page needs at once.
        curves: a file of lines per model, task and family, each loaded when it is looked at.
        details: files of `CELLS_PER_FILE` cells each, by key.
    """

    catalogue: Json
    curves: tuple[Json, ...]
    details: tuple[Json, ...]


def lay_out(sources: Sequence[Source], display: Display) -> Layout:
    """Lay the records of results folders out for the page, in the order that bases and methods declare."""
    cells = sorted(
        ((cell, number) for number, source in enumerate(sources) for cell in source.cells),
        key=lambda item: (*_table_order(item[0], display), item[1], item[0].record.id),
    )
    table = _table(cells, sources)
    places = table.groupby(list(PLACE), sort=True).ngroup()
    table["curve"] = places
    keys = [str(key) for key in table["cell_id"]]
    details = [cell_detail(cell, sources[number]) for cell, number in cells]
    return Layout(
        catalogue=_catalogue(table, {cell.record.id: cell.record for cell, _ in cells}, sources, display),
        curves=tuple(_curves([cell for cell, _ in cells], places.tolist(), keys)),
        details=tuple(
            dict(zip(keys[start : start + CELLS_PER_FILE], details[start : start + CELLS_PER_FILE], strict=True))
            for start in range(0, len(keys), CELLS_PER_FILE)
        ),
    )


def _table_order(cell: Cell, display: Display) -> tuple[object, ...]:
    """Put the bases that compete, under one method, next to each other."""
    asked = cell.record.cell
    return (
        *(asked.model, asked.ablation, asked.error_policy, asked.granularity, asked.seed),
        *(family_order(asked.family), asked.task, asked.task_version),
        *(display.method_order(asked.method), display.basis_order(asked.basis)),
    )


def _table(cells: Sequence[tuple[Cell, int]], sources: Sequence[Source]) -> pd.DataFrame:
    """Return `summarise`'s rows with the columns that the page needs besides."""
    records = [cell.record for cell, _ in cells]
    table = summarise(records)
    table["row"] = range(len(table))
    table["source"] = [sources[number].name for _, number in cells]
    table["status"] = [sources[number].status for _, number in cells]
    table["task_label"] = _task_labels(table, [record.identities.data for record in records])
    table["basis"] = _basis_labels(table, [source.name for source in sources])
    table["most_bits"] = [
        not_reached_bound(scored, "bits_to_80", total)
        for scored, total in zip(table["scored_nodes"], table["total_nodes"], strict=True)
    ]
    return table


def _task_labels(table: pd.DataFrame, data: Sequence[str]) -> list[str]:
    """Name tasks, with version and, where the same conditions hold several data of one version, with the data."""
    rows = table[["task", "task_version"]].assign(data=data)
    versions = rows.groupby("task")["task_version"].transform("nunique")
    keys = [table[name] for name in CONDITIONS if name not in ("error_policy", "layers")]
    contents = rows["data"].groupby([*keys, rows["task"], rows["task_version"]]).transform("nunique")
    return [
        f"{task}{f' v{version}' if several else ''}{f' (data {digest[:8]})' if mixed > 1 else ''}"
        for task, version, digest, several, mixed in zip(
            rows["task"], rows["task_version"], rows["data"], versions > 1, contents, strict=True
        )
    ]


def _basis_labels(table: pd.DataFrame, order: Sequence[str]) -> list[str]:
    """Add the folder's name to a basis of a model that another folder has too; the first folder keeps it bare."""
    first: dict[tuple[str, str], str] = {}
    for source in order:
        own = table[table["source"] == source]
        for key in zip(own["model_hash"], own["basis"], strict=True):
            first.setdefault(key, source)
    return [
        basis if first[model, basis] == source else f"{basis} [{source}]"
        for model, basis, source in zip(table["model_hash"], table["basis"], table["source"], strict=True)
    ]


def _catalogue(table: pd.DataFrame, records: Mapping[str, Record], sources: Sequence[Source], display: Display) -> Json:
    settings = settings_of(table)
    medians = medians_of(table, settings, display).drop(columns="draws")
    best = [f"{name}_best" for name in SHOWN]
    medians["best"] = _bits(medians[best])
    bases = basis_styles(unique(table, "basis"), display)
    methods = method_styles(unique(table, "method"), display)
    return {
        "count": len(table),
        "columns": {name: _column(table[name]) for name in table.columns if name != "draws"},
        "frame": [name for name in table.columns if name not in _OWN],
        "central": central_curves(medians, records, display),
        "medians": {name: _column(medians[name]) for name in medians.columns if not name.endswith("_best")},
        "settings": [
            {
                "title": title,
                "short": short,
                "examples": f"{examples_text(rows)} examples",
                "rows": rows["row"].tolist(),
                "best": _bits(rows[best]),
                **{name: _column(rows[name]) for name in UNDER_NODE},
            }
            for (title, rows), short in zip(settings, short_titles(settings), strict=True)
        ],
        "beside": beside(table),
        "shown": SHOWN,
        "metrics": {
            name: {"title": metric.title, "direction": metric.direction, "unit": metric.unit, "meaning": metric.meaning}
            for name, metric in METRICS.items()
        },
        "bases": [{"name": name, **_style(bases[name])} for name in sorted(bases, key=display.basis_order)],
        "methods": [{"name": name, **_style(methods[name])} for name in sorted(methods, key=display.method_order)],
        "families": sorted(unique(table, "family"), key=family_order),
        "window": WINDOW,
        "cellsPerFile": CELLS_PER_FILE,
        "sources": [_source(source) for source in sources],
    }


def _bits(marks: pd.DataFrame) -> list[int]:
    """Return the marks of each row as a number, a bit per column."""
    return [sum(1 << bit for bit, won in enumerate(row) if won) for row in marks.itertuples(index=False)]


def _column(values: pd.Series) -> object:
    """Return a column as a list of numbers, or as its distinct texts with an index per row."""
    if pd.api.types.is_bool_dtype(values):
        return values.tolist()
    if pd.api.types.is_numeric_dtype(values):
        return [_shorten(value) for value in values.tolist()]
    codes, texts = pd.factorize(values.astype(str))
    return {"codes": codes.tolist(), "texts": texts.tolist()}


def _shorten(value: float) -> float:
    """Keep six digits: records have five."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _style(style: Style) -> Json:
    return {"colour": COLOURS[style.colour], "dash": _DASHES[style.line], "symbol": _SYMBOLS[style.marker]}


def _source(source: Source) -> Json:
    card = source.card
    return {
        "name": source.name,
        "status": source.status,
        "cells": len(source.cells),
        "card": None if card is None else card.model_dump(mode="json"),
    }


def _curves(cells: Sequence[Cell], places: Sequence[int], keys: Sequence[str]) -> list[Json]:
    """Return the lines of every model, task and family: a list of numbers per column, by key of the cell."""
    frame = frame_of([cell.record for cell in cells])
    columns = {name: frame[name].tolist() for name in CURVE_COLUMNS}
    files: list[Json] = [{} for _ in range(max(places) + 1)]
    start = 0
    for cell, place, key in zip(cells, places, keys, strict=True):
        end = start + len(cell.record.curve.sizes)
        files[place][key] = {name: [_shorten(value) for value in columns[name][start:end]] for name in CURVE_COLUMNS}
        start = end
    return files
