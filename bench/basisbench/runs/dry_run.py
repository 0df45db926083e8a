"""Says what a run would take before it starts: cells, passes, memory, disk and time, all of them estimates.

Configurations and tokenizers are fetched where they can be had; a model that cannot be had is estimated from its
published shape. Of a model whose weights are at hand, loading, a long pass and a short one are timed; elsewhere a rate
is assumed. Times are those of an idle machine, as far as what else runs now can be told apart. The arithmetic is
`basisbench.runs.estimate`'s.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError
from basisbench.models.gguf import locate_model
from basisbench.models.hub import Located
from basisbench.models.made import made
from basisbench.models.onednn import largest_bytes
from basisbench.models.shape import read_longest, read_shape
from basisbench.protocols import BasisSpec, Task, no_weights
from basisbench.results.conditions import layers_text
from basisbench.runs.estimate import (
    BasisSize,
    Memory,
    Prompts,
    Speed,
    Workload,
    dictionary_size,
    item_bytes,
    pass_operations,
)
from basisbench.runs.run import Plan, default_jobs
from basisbench.runs.runner import CellBlock
from basisbench.runs.workers import available_cores
from basisbench.types import ModelSpec, Pairs

if TYPE_CHECKING:
    from basisbench.models.model import Model

_ASSUMED_WIDTH = 16
"""Units per dimension of a dictionary that nothing tells the width of."""

_RECORD_BYTES = 40_000
"""A record of 100 examples and 20 sizes."""

_WORDS = 200
"""Candidates whose words are counted where there is no tokenizer."""

_TIMED_TOKENS, _TIMED_POSITIONS, _TIMED_PASSES = 1000, 10, 5
"""Tokens of a pass that is timed, of how many positions, and how often: the fastest counts, for the first ones pack
weights. So is a pass of one prompt: weights have to be read, however little is made of them."""

_IMPORT_SECONDS, _LOAD_SECONDS = 5.0, 2.0
"""Imports, once in each process; and a model that is not loaded for the estimate (measured on the pocket model)."""

_RATES: Mapping[tuple[bool, bool], float] = {
    (True, False): 3.5e11,
    (True, True): 0.5e11,
    (False, False): 1e13,
    (False, True): 5e13,
}
"""Assumed multiplications and additions a second, by (on a CPU, in half precision): two CPU cores with packed weights,
as measured, and without them; a data-centre GPU, a tenth of what its makers give."""


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        work: of each block of cells.
        downloads: bytes of models and dictionaries that are not at hand.
        jobs: processes that share the blocks.
        start: seconds until a process has imported the libraries and loaded the models.
        timed: whether every rate is that of a pass that was timed.
        notes: what could not be had, and what was assumed instead.
    """

    work: Mapping[CellBlock, Workload]
    downloads: int
    jobs: int
    start: float
    timed: bool
    notes: tuple[str, ...]

    @property
    def cells(self) -> int:
        """All cells."""
        return sum(len(block.cells) for block in self.work)

    @property
    def passes(self) -> float:
        """Passes over one prompt."""
        return sum(work.passes for work in self.work.values())

    @property
    def seconds(self) -> float:
        """Seconds in one process."""
        return self.start + sum(work.seconds for work in self.work.values())

    @property
    def seconds_with_jobs(self) -> float:
        """Seconds in as many processes as the run has; each takes the next block when it is done with one."""
        ends = [self.start] * self.jobs
        for work in self.work.values():
            heapq.heapreplace(ends, ends[0] + work.seconds)
        return max(ends)

    @property
    def memory(self) -> Memory:
        """The largest of any group's memory, of one process."""
        return max((work.memory for work in self.work.values()), key=lambda memory: memory.total)

    @property
    def disk(self) -> int:
        """Bytes of downloads and records."""
        return self.downloads + self.cells * _RECORD_BYTES


def estimate_run(plan: Plan, jobs: int | None = None) -> Estimate:
    """Estimate what a planned run would take.

    Args:
        plan: the run.
        jobs: how many processes it may have; as many as `run` uses by default when None.

    Raises:
        BasisBenchError: nothing is known of a model, not even its shape; or it lacks layers that are asked for.
    """
    jobs = min(jobs or default_jobs(plan.options.device), len(plan.blocks))
    models = {spec.name: _Model(spec, plan, jobs) for spec in plan.models}
    work = {block: models[block.cells[0].model].work(block) for block in plan.blocks}
    notes = dict.fromkeys(note for model in models.values() for note in model.notes)
    downloads = sum(model.downloads for model in models.values())
    start = _IMPORT_SECONDS + sum(model.load_seconds for model in models.values())
    return Estimate(work, downloads, jobs, start, all(model.timed for model in models.values()), tuple(notes))


class _Model:
    """What is known of one model of the run, and of the bases on it."""

    def __init__(self, spec: ModelSpec, plan: Plan, jobs: int) -> None:
        self.notes: list[str] = []
        self._spec, self._plan = made(spec), plan
        self._located: Located | None = None
        try:
            located = locate_model(spec)
            self._shape, self._located = read_shape(located), located
        except BasisBenchError as error:
            if spec.shape is None:
                raise
            self._shape = spec.shape
            self.notes.append(f"{error}; estimated from its published shape")
        self._device, self._dtype = plan.options.device, plan.options.dtype or self._shape.dtype
        stored = self._shape.parameters * item_bytes(self._shape.dtype)
        place = self._located
        at_hand = place is not None and (place.gguf or any(place.file.parent.glob("*.safetensors")))
        self.downloads = 0 if at_hand else stored
        self._sizes: dict[str, BasisSize] = {}
        self._tokenizer = self._load_tokenizer()
        self.load_seconds = _LOAD_SECONDS
        # A model that fills the memory is not loaded for an estimate of its memory.
        speed = self._timed_speed(jobs) if at_hand and stored <= largest_bytes() else None
        self.timed = speed is not None
        self._speed = speed or Speed(_RATES[self._device == "cpu", item_bytes(self._dtype) == 2])

    def _load_tokenizer(self) -> Any:
        from basisbench.models.load import load_tokenizer

        if self._located is None:
            return None
        try:
            return load_tokenizer(f"model '{self._spec.name}'", self._located)
        except BasisBenchError as error:
            self.notes.append(str(error))
            return None

    def _timed_speed(self, jobs: int) -> Speed | None:
        """Return how fast passes are; None where the model cannot be loaded.

        On a CPU with the threads of one of so many processes. Where other programs take turns on its cores, the
        processor's time is shorter than that of the clock.
        """
        import torch

        from basisbench.models.load import load_model

        began, busy = perf_counter(), process_time()
        try:
            model = load_model(self._spec, device=self._device, dtype=self._dtype)
        except BasisBenchError as error:
            self.notes.append(f"no pass is timed: {error}")
            return None
        self.load_seconds = min(perf_counter() - began, process_time() - busy)
        threads = torch.get_num_threads()
        try:
            if jobs > 1:
                torch.set_num_threads(max(1, available_cores() // jobs))
            many, one = (_seconds_of_a_pass(model, rows) for rows in (_TIMED_TOKENS // _TIMED_POSITIONS, 1))
        finally:
            torch.set_num_threads(threads)
        return Speed(pass_operations(self._shape, _TIMED_TOKENS, _TIMED_POSITIONS) / many, one)

    def work(self, block: CellBlock) -> Workload:
        """Return what is to be done for cells of this model and one task.

        Raises:
            BasisBenchError: a cell is restricted to layers that the model does not have.
        """
        registry, cells = self._plan.registry, block.cells
        asked = {layer for cell in cells for layer in cell.layers or ()}
        if beyond := sorted(layer for layer in asked if layer >= self._shape.layers):
            raise BasisBenchError(
                f"layers: expected 0 to {self._shape.layers - 1}, the layers of model '{self._spec.name}', found "
                f"{layers_text(beyond)}"
            )
        return Workload(
            cells,
            self._prompts(registry.get("task", cells[0].task), block),
            self._shape,
            {cell.basis: self._size(registry.get("basis", cell.basis), cell.layers) for cell in cells},
            {cell.method: registry.get("method", cell.method) for cell in cells},
            self._device,
            self._dtype,
            self._speed,
        )

    def _prompts(self, task: Task, block: CellBlock) -> tuple[Prompts, ...]:
        """Return the aligned groups of a task; one of average length where there is no tokenizer."""
        from basisbench.pairs.alignment import load_splits

        cell = block.cells[0]
        if self._tokenizer is not None:
            try:
                attribution, evaluation = load_splits(
                    task,
                    self._tokenizer,
                    attribution=cell.attribution_pairs,
                    evaluation=cell.evaluation_pairs,
                    seed=cell.seed,
                    bos=cell.bos,
                    metric=cell.metric,
                    draw=cell.attribution_draw,
                    longest=None if self._located is None else read_longest(self._located),
                )
            except BasisBenchError as error:
                self.notes.append(str(error))
            else:
                other = {pairs.group: pairs for pairs in attribution}
                rows = 1 if cell.metric == "logit" else 2
                return tuple(_group(other[pairs.group], pairs, rows) for pairs in evaluation)
        candidates = zip(range(_WORDS), task.candidates("evaluation", cell.seed), strict=False)
        self.notes.append("prompts are counted in words where there is no tokenizer")
        words = mean(len(pair.clean_text.split()) for _, pair in candidates)
        return (Prompts(cell.attribution_pairs, cell.evaluation_pairs, round(1.2 * words) + 1),)

    def _size(self, basis: BasisSpec, layers: tuple[int, ...] | None) -> BasisSize:
        """Return how large a basis is on this model, on the layers that the run compares."""
        if basis.name not in self._sizes:
            self._sizes[basis.name] = self._size_of_all_layers(basis)
        size = self._sizes[basis.name]
        return size if layers is None else replace(size, units=size.units[: len(layers)])

    def _size_of_all_layers(self, basis: BasisSpec) -> BasisSize:
        shape, folder = self._shape, self._spec.dictionaries.get(basis.name)
        if basis.fingerprint is no_weights:  # neurons, or a rotation of them
            width = shape.width if basis.units is None else basis.units(shape)
            return BasisSize((width,) * shape.layers)
        if folder is not None:
            stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            row = dictionary_size(1, shape, cross_layer=basis.cross_layer)
            return dictionary_size(max(1, stored // row.stored), shape, cross_layer=basis.cross_layer)
        units = self._plan.suite.dictionary_units.get(basis.name)
        if units is None:
            units = _ASSUMED_WIDTH * shape.width
            self.notes.append(
                f"basis '{basis.name}': its width is not known before it is loaded; assumed {units} units"
            )
        size = dictionary_size(units, shape, cross_layer=basis.cross_layer)
        self.downloads += size.stored if basis.repositories else 0
        return size


def _seconds_of_a_pass(model: Model, rows: int) -> float:
    """Return the shortest time of a few passes over so many prompts."""
    import torch

    from basisbench.attribution.cost import now

    tokens = model.tokens([[0] * _TIMED_POSITIONS] * rows)
    seconds = []
    with torch.no_grad():
        for _ in range(_TIMED_PASSES):
            began, busy = now(model), process_time()
            model.logits(tokens, fast=True)
            seconds.append(now(model) - began)
            if model.device.type == "cpu":
                seconds.append(process_time() - busy)
    return min(seconds)


def _group(attribution: Pairs, evaluation: Pairs, rows: int) -> Prompts:
    """Return the size of an aligned group, from its pairs in both splits and the rows that each takes."""
    import numpy as np

    prompts = np.concatenate(
        [side for pairs in (attribution, evaluation) for side in (pairs.clean, pairs.counterfactual)]
    )
    differing = np.flatnonzero((prompts != prompts[0]).any(0))
    shared = min(differing[0] if len(differing) else evaluation.length, evaluation.length - 1)
    return Prompts(rows * len(attribution), rows * len(evaluation), evaluation.length, int(shared))


def render(estimate: Estimate, plan: Plan) -> str:
    """Write an estimate as text."""
    memory = estimate.memory
    heads = ("group", "cells", "pairs per split", "passes over a prompt", "memory")
    rows = [heads]
    for block, work in estimate.work.items():
        cells, passes = str(len(block.cells)), f"{work.passes:,.0f}"
        rows.append((block.title, cells, _pairs(work.prompts), passes, _gib(work.memory.total)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rate = "at the rate of a pass that was timed now" if estimate.timed else "at an assumed rate of this kind of device"
    shared = f"{_time(estimate.seconds_with_jobs)} in {estimate.jobs} processes, " if estimate.jobs > 1 else ""
    lines = [
        f"{plan.suite.name}: nothing is written; every figure is an estimate",
        "",
        *("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        "",
        f"cells    {estimate.cells} in {len(estimate.work)} groups",
        f"passes   {estimate.passes:,.0f} over one prompt; a backward pass counts as two",
        f"memory   {_gib(memory.total)} at the peak of a process on {plan.options.device}: model {_gib(memory.model)}, "
        f"largest basis {_gib(memory.dictionary)}, kept {_gib(memory.kept)}, largest pass {_gib(memory.passing)}"
        + (f", runtime {_gib(memory.runtime)}" if memory.runtime else ""),
    ]
    if memory.smallest < memory.total:
        lines.append(
            f"         {_gib(memory.smallest)} where layers of a basis are freed and loaded anew in every pass"
        )
    lines += [
        f"disk     {_gib(estimate.disk)}: downloads {_gib(estimate.downloads)}, "
        f"records {_gib(estimate.disk - estimate.downloads)}",
        f"time     {shared}{_time(estimate.seconds)} in one process, on an idle machine, {rate}",
    ]
    if estimate.notes:
        lines += ["", *(f"note: {note}" for note in estimate.notes)]
    return "\n".join(lines)


def _pairs(prompts: Sequence[Prompts]) -> str:
    """Write the pairs of both splits, and how long their prompts are."""
    lengths = [group.positions for group in prompts]
    span = str(lengths[0]) if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
    pairs = f"{sum(group.attribution for group in prompts)}/{sum(group.evaluation for group in prompts)}"
    return f"{pairs} of {span} tokens"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
