"""Records with one thing altered: where scores end, what there is to explain, what a group of examples is."""

from __future__ import annotations

from typing import Any

from basisbench.results.record import Record


def scored_to(record: Record, size: int) -> Record:
    """Return a record in which only so many nodes of its first group have a score."""
    content: dict[str, Any] = record.model_dump()
    content["groups"][0]["scored_nodes"] = size
    return Record.model_validate(content)


def without_effect(record: Record) -> Record:
    """Return a record whose F(0) is F(M), so that no faithfulness is defined."""
    content: dict[str, Any] = record.model_dump()
    content["endpoints"]["empty"] = content["endpoints"]["full"]
    return Record.model_validate(content)


def with_cell(record: Record, **values: object) -> Record:
    """Return a record whose cell has other values."""
    content: dict[str, Any] = record.model_dump()
    content["cell"] |= values
    return Record.model_validate(content)
