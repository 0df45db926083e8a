"""What a run would do, before anything large is loaded: cells, passes, memory, disk and time.

Only configurations and tokenizers are fetched, where they can be had; a model that cannot be had is estimated from
its published shape. The arithmetic is `basisbench.runs.estimate`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from basisbench.errors import BasisBenchError
from basisbench.models.onednn import largest_bytes
from basisbench.models.shape import Known, look_up
from basisbench.protocols import BasisSpec, Task, no_weights
from basisbench.runs.estimate import (
    RECORD_BYTES,
    BasisSize,
    Memory,
    Prompts,
    dictionary_bytes,
    expected_forwards,
    expected_memory,
    expected_seconds,
    item_bytes,
)
from basisbench.runs.run import Plan
from basisbench.runs.runner import Group
from basisbench.types import ModelShape, ModelSpec

_ASSUMED_WIDTH = 16
"""Units per dimension of a dictionary that nothing tells the width of."""

_WORDS = 200
"""Candidates whose words are counted where there is no tokenizer."""


@dataclass(frozen=True)
class GroupEstimate:
    """What a group of cells would take.

    Attributes:
        group: the cells.
        prompts: its aligned groups.
        forwards: passes over one prompt.
        seconds: at the assumed rate.
        memory: in use at the peak.
    """

    group: Group
    prompts: tuple[Prompts, ...]
    forwards: float
    seconds: float
    memory: Memory


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        groups: group by group.
        downloads: bytes of models and dictionaries that lie on the hub.
        notes: what could not be had, and what was assumed instead.
    """

    groups: tuple[GroupEstimate, ...]
    downloads: int
    notes: tuple[str, ...]

    @property
    def cells(self) -> int:
        """All cells."""
        return sum(len(estimate.group.cells) for estimate in self.groups)

    @property
    def forwards(self) -> float:
        """Passes over one prompt."""
        return sum(estimate.forwards for estimate in self.groups)

    @property
    def seconds(self) -> float:
        """Seconds at the assumed rate, in one process."""
        return sum(estimate.seconds for estimate in self.groups)

    @property
    def memory(self) -> Memory:
        """The largest of any group's memory."""
        return max((estimate.memory for estimate in self.groups), key=lambda memory: memory.total)

    @property
    def disk(self) -> int:
        """Bytes of downloads and records."""
        return self.downloads + self.cells * RECORD_BYTES


def estimate_run(plan: Plan) -> Estimate:
    """Estimate what a planned run would take.

    Args:
        plan: the run.

    Raises:
        BasisBenchError: nothing is known of a model, not even its shape.
    """
    notes: dict[str, None] = {}
    models = {spec.name: _Model(spec, plan, notes) for spec in plan.models}
    estimates = []
    for group in plan.groups:
        first = group.cells[0]
        model = models[first.model]
        prompts = model.prompts(plan.registry.get("task", first.task), group, notes)
        sizes = {cell.basis: model.size(plan.registry.get("basis", cell.basis), cell.layers) for cell in group.cells}
        forwards = expected_forwards(group.cells, prompts, model.shape, sizes, post_norms=model.post_norms)
        where = {"device": plan.settings.device, "dtype": model.dtype}
        estimates.append(
            GroupEstimate(
                group,
                prompts,
                forwards,
                expected_seconds(forwards, prompts, model.shape, sizes, group.cells, **where),
                expected_memory(group.cells, prompts, model.shape, sizes, **where, packing=largest_bytes()),
            )
        )
    return Estimate(tuple(estimates), sum(model.downloads for model in models.values()), tuple(notes))


class _Model:
    """What is known of one model of the run, and of the bases on it."""

    def __init__(self, spec: ModelSpec, plan: Plan, notes: dict[str, None]) -> None:
        self.known: Known = look_up(spec)
        if self.known.shape is None:
            raise BasisBenchError(self.known.problem)
        self.shape: ModelShape = self.known.shape
        if self.known.problem:
            notes[f"{self.known.problem}; estimated from its published shape"] = None
        self.spec = spec
        self.dtype = plan.settings.dtype or self.shape.dtype
        self.downloads = 0
        if not Path(spec.path).is_absolute():
            self.downloads = self.shape.parameters * item_bytes(self.shape.dtype)
        self._units: Mapping[str, int] = plan.suite.dictionary_units
        self._sizes: dict[str, BasisSize] = {}
        self._notes = notes
        self._tokenizer: Any = self._load_tokenizer()

    @property
    def post_norms(self) -> bool:
        """Whether a norm follows the MLP: Gemma 2 and 3."""
        name = f"{self.spec.path} {self.spec.name}".lower()
        return any(mark in name for mark in ("gemma-2", "gemma-3", "gemma2", "gemma3"))

    def _load_tokenizer(self) -> Any:
        from basisbench.models.load import load_tokenizer

        if self.known.located is None:
            return None
        try:
            return load_tokenizer(f"model '{self.spec.name}'", self.known.located)
        except BasisBenchError as error:
            self._notes[str(error)] = None
            return None

    def prompts(self, task: Task, group: Group, notes: dict[str, None]) -> tuple[Prompts, ...]:
        """Return the aligned groups of a task; one of average length where there is no tokenizer."""
        from basisbench.pairs.alignment import load_splits

        cell = group.cells[0]
        if self._tokenizer is not None:
            try:
                splits = load_splits(
                    task,
                    self._tokenizer,
                    attribution=cell.attribution_pairs,
                    evaluation=cell.evaluation_pairs,
                    seed=cell.seed,
                )
            except BasisBenchError as error:
                notes[str(error)] = None
            else:
                other = {pairs.group: len(pairs) for pairs in splits[0]}
                return tuple(Prompts(other[pairs.group], len(pairs), pairs.length) for pairs in splits[1])
        texts = [
            pair.clean_text for pair, _ in zip(task.candidates("evaluation", cell.seed), range(_WORDS), strict=False)
        ]
        notes["prompts are counted in words where there is no tokenizer"] = None
        words = mean(len(text.split()) for text in texts)
        return (Prompts(cell.attribution_pairs, cell.evaluation_pairs, round(1.2 * words) + 1),)

    def size(self, basis: BasisSpec, layers: tuple[int, ...] | None) -> BasisSize:
        """Return how large a basis is on this model."""
        if basis.name not in self._sizes:
            self._sizes[basis.name] = self._measured(basis)
        size = self._sizes[basis.name]
        return size if layers is None else replace(size, units=size.units[: len(layers)])

    def _measured(self, basis: BasisSpec) -> BasisSize:
        shape = self.shape
        if basis.fingerprint is no_weights:  # neurons, or a rotation of them
            width = shape.mlp_width if basis.name.startswith("mlp_act") else shape.width
            return BasisSize((width,) * shape.layers, 0, exact=True)
        folder = self.spec.dictionaries.get(basis.name)
        if folder is not None:
            stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            units = stored // (8 * shape.width * shape.layers)  # float32, encoder and decoder
            return BasisSize((max(1, units),) * shape.layers, stored, exact=False, layer=stored // shape.layers)
        wide = self._units.get(basis.name)
        if wide is None:
            wide = _ASSUMED_WIDTH * shape.width
            self._notes[f"basis '{basis.name}': its width is not known before it is loaded; assumed {wide} units"] = (
                None
            )
        stored, layer = dictionary_bytes(basis.name, wide, shape, 4)  # dictionaries are used in float32
        if basis.repositories:
            self.downloads += stored
        return BasisSize((wide,) * shape.layers, stored, exact=False, layer=layer)


def render(estimate: Estimate, plan: Plan) -> str:
    """Write an estimate as text."""
    memory = estimate.memory
    rows = [
        (
            each.group.title,
            str(len(each.group.cells)),
            _pairs(each.prompts),
            f"{each.forwards:,.0f}",
            _gib(each.memory.total),
        )
        for each in estimate.groups
    ]
    heads = ("group", "cells", "pairs per split", "passes over a prompt", "memory")
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = [
        f"{plan.suite.name}: nothing is loaded and nothing written; figures are estimates",
        "",
        *(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [heads, *rows]
        ),
        "",
        f"cells    {estimate.cells} in {len(estimate.groups)} groups",
        f"passes   {estimate.forwards:,.0f} over one prompt; a backward pass counts as two",
        f"memory   {_gib(memory.total)} at the peak on {plan.settings.device}: model {_gib(memory.model)}, "
        f"largest basis {_gib(memory.dictionary)}, kept {_gib(memory.kept)}, largest pass {_gib(memory.passing)}"
        + (f", runtime {_gib(memory.runtime)}" if memory.runtime else ""),
        *(
            [f"         {_gib(memory.smallest)} where layers of a basis are let go of and loaded anew in every pass"]
            if memory.smallest < memory.total
            else []
        ),
        f"disk     {_gib(estimate.disk)}: downloads {_gib(estimate.downloads)}, "
        f"records {_gib(estimate.disk - estimate.downloads)}",
        f"time     {_time(estimate.seconds)} in one process, at an assumed rate of this kind of device",
    ]
    if estimate.notes:
        lines += ["", *(f"note: {note}" for note in estimate.notes)]
    return "\n".join(lines)


def _pairs(prompts: tuple[Prompts, ...]) -> str:
    """Write the pairs of a group, and how long their prompts are."""
    lengths = [part.positions for part in prompts]
    span = str(lengths[0]) if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
    pairs = f"{sum(part.attribution for part in prompts)}/{sum(part.evaluation for part in prompts)}"
    return f"{pairs} of {span} tokens"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
