"""Everything that the page of one cell tells: the whole record but its values per example, which are averaged.

Field names and their descriptions are the record's own (`basisbench.results.record`).
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel

from basisbench.report.prompts import prompts_key
from basisbench.report.sources import Cell, Source
from basisbench.results.record import Record

PER_EXAMPLE = {"curve": {"circuit", "complement"}, "endpoints": {"full", "empty", "gate_empty"}}
"""Fields left out: hundreds of numbers, of which the page shows the means."""


def cell_detail(cell: Cell, source: Source) -> dict[str, object]:
    """Return what the page of a cell shows.

    Args:
        cell: the cell.
        source: the results folder that it lies in.
    """
    record = cell.record
    curve, endpoints = record.curve, record.endpoints
    return {
        "id": record.id,
        "file": _place(cell.file, source.folder),
        "prompts": prompts_key(record),
        "record": record.model_dump(mode="json", exclude=PER_EXAMPLE)
        | {"clusters": {factor: f"{len(set(levels))} levels" for factor, levels in record.clusters.items()}},
        "means": {
            "full": float(np.mean(endpoints.full)),
            "empty": float(np.mean(endpoints.empty)),
            "circuit": [float(np.mean(row)) for row in curve.circuit],
            "complement": [None if row is None else float(np.mean(row)) for row in curve.complement],
        },
    }


def field_descriptions() -> dict[str, str]:
    """Return what every field of a record means, by its path, for example `cost.seconds.load`."""
    return dict(_described(Record, ""))


def _place(file: Path, folder: Path) -> str:
    """Write a file's place from the results folder on; where that folder lies is nobody's business."""
    return f"{folder.name}/{file.relative_to(folder).as_posix()}"


def _described(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if field.description:
            yield path, field.description
        inner = _model_in(field.annotation)
        if inner is not None:
            yield from _described(inner, f"{path}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a field that holds one, or a tuple of them, or perhaps none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, Union, types.UnionType, Annotated, Mapping):
        return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)
    return None
