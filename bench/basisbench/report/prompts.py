"""Example prompts for top nodes: pairs of the node's task and template, cut into segments.

A record holds no prompts. Its tasks can be asked for theirs without a tokenizer, as long as the registered task has the
record's version; which of them a tokenizer keeps is not known here, so examples are the first pairs of the template in
the order of the record's seed, from the attribution split, where nodes are scored.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TypeAlias

from basisbench.registry import Registry
from basisbench.results.record import Record
from basisbench.types import ContrastPair, Segment

EXAMPLES = 3
"""Pairs shown per template."""

MOST_CANDIDATES = 5000
"""Candidates of a task that are looked at, at most."""

Prompts: TypeAlias = "dict[str, object]"


def prompts_key(record: Record) -> str:
    """Return the key of a record's example prompts: the same task, version and seed give the same prompts."""
    return f"{record.cell.task}|{record.cell.task_version}|{record.cell.seed}"


def example_prompts(records: Iterable[Record], registry: Registry) -> dict[str, Prompts]:
    """Return example prompts for every task, version and seed of the records.

    Returns:
        For each `prompts_key`: `problem`, why there are none or None, and `templates`, which gives for each template up
        to `EXAMPLES` pairs of segments.
    """
    found: dict[str, Prompts] = {}
    for record in records:
        key = prompts_key(record)
        if key not in found:
            found[key] = _prompts_of(record, registry)
    return found


def _prompts_of(record: Record, registry: Registry) -> Prompts:
    cell = record.cell
    entry = next((entry for entry in registry.of("task") if entry.name == cell.task), None)
    if entry is None:
        return _none(f"No prompts: no task named {cell.task} was registered when this page was made.")
    task = registry.get("task", cell.task)
    if task.version != cell.task_version:
        return _none(
            f"No prompts: the record was made with version {cell.task_version} of this task, and version "
            f"{task.version} was registered when this page was made."
        )
    templates: dict[str, list[object]] = {}
    try:
        for pair in itertools.islice(task.candidates("attribution", cell.seed), MOST_CANDIDATES):
            examples = templates.setdefault(pair.template, [])
            if len(examples) < EXAMPLES:
                examples.append(_pair(pair))
    except Exception as error:  # a stranger's task must not cost the whole page
        return _none(f"No prompts: the task failed when it was asked for them ({type(error).__name__}).")
    return {"problem": None, "templates": templates}


def _none(problem: str) -> Prompts:
    return {"problem": problem, "templates": {}}


def _pair(pair: ContrastPair) -> dict[str, object]:
    return {
        "clean": _segments(pair.clean),
        "counterfactual": _segments(pair.counterfactual),
        "answers": list(pair.answers),
        "foils": list(pair.foils),
    }


def _segments(segments: Iterable[Segment]) -> list[list[str]]:
    return [[segment.role, segment.text] for segment in segments]
