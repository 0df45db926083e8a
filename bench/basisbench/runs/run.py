"""The outer loop: suite to cells to records.

1. Load the suite, apply what was changed, expand it to cells, and put these into blocks that share their pairs.
2. For each block: load the model once, make the pairs once, then do each cell that is not finished.
3. Write each record as soon as it is made; a killed run loses no finished cell.

What happens inside a cell is `basisbench.runs.session`'s work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from basisbench.errors import BasisBenchError
from basisbench.pairs.task_rows import task_source
from basisbench.registry import Registry
from basisbench.results.record_fields import SuiteTasks
from basisbench.results.store import Store
from basisbench.runs.cells import expand, few_cells
from basisbench.runs.executor import LOCAL, Executor, parse_executor
from basisbench.runs.model_names import find_models
from basisbench.runs.progress import Event, Progress
from basisbench.runs.runner import CellBlock, Runner, RunOptions, cell_blocks
from basisbench.runs.suite import Suite, first_draws, load_suite
from basisbench.types import SPLITS, Ablation, Bos, ErrorPolicy, Granularity, Metric, ModelSpec, ScoreReference

if TYPE_CHECKING:
    import pandas as pd

PathLike: TypeAlias = "str | os.PathLike[str]"

FEW_PAIRS = 16
"""Pairs per split in a run of a few cells, unless a number is given."""


@dataclass(frozen=True)
class Request:
    """What to run and how.

    Attributes:
        suite: name of a built-in suite, or path of a suite file.
        changes: fields of the suite to replace; None leaves a field as it is.
        options: results folder, device, plug-ins.
        jobs: worker processes; None lets the executor choose.
        progress: whether to show progress.
        limit: how many cells to do at most, with few pairs; all of them when None.
        executor: where cells are done.
    """

    suite: str
    changes: Mapping[str, object]
    options: RunOptions
    jobs: int | None = 1
    progress: bool = True
    limit: int | None = None
    executor: Executor = LOCAL


@dataclass(frozen=True)
class Plan:
    """A run before it starts.

    Attributes:
        suite: the suite with everything that was changed.
        options: the request's, with the suite, and the models that are not listed and the type of weights for which it
            calls.
        registry: where names are looked up.
        models: the models.
        blocks: the cells.
    """

    suite: Suite
    options: RunOptions
    registry: Registry
    models: tuple[ModelSpec, ...]
    blocks: tuple[CellBlock, ...]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        out: the results folder.
        events: one per cell, in the order in which they ended: kept, finished or failed.
        seconds: wall-clock seconds of the whole run.
    """

    out: Path
    events: tuple[Event, ...]
    seconds: float

    @property
    def records(self) -> tuple[Path, ...]:
        """The record files of the cells that are finished, now or before."""
        store = Store(self.out)
        return tuple(store.path(event.cell_id) for event in self.events if event.state in {"kept", "finished"})

    @property
    def failures(self) -> tuple[Event, ...]:
        """The cells that failed."""
        return tuple(event for event in self.events if event.state == "failed")

    def raise_failures(self) -> None:
        """Raise one error for all cells that failed, if any did.

        Raises:
            BasisBenchError: says how many, and why the first one did.
        """
        if self.failures:
            first = self.failures[0].message.strip().splitlines()[-1]
            others = f"; the others are in {self.out}" if self.records else ""
            raise BasisBenchError(f"{len(self.failures)} of {len(self.events)} cells failed{others}; first: {first}")


def run(
    suite: PathLike = "pocket",
    *,
    models: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    bases: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    ablations: Sequence[Ablation] | None = None,
    error_policies: Sequence[ErrorPolicy] | None = None,
    score_references: Sequence[ScoreReference] | None = None,
    held_in: bool = False,
    granularities: Sequence[Granularity] | None = None,
    layers: str | Sequence[int] | None = None,
    bos: Bos | None = None,
    metric: Metric | None = None,
    examples: int | None = None,
    seed: int | None = None,
    draws: int | None = None,
    subset_sizes: Sequence[int] | None = None,
    subset_blocks: int | None = None,
    out: PathLike = "results/local",
    device: str = "cpu",
    dtype: str | None = None,
    resume: bool = True,
    jobs: int | None = 1,
    limit: int | None = None,
    executor: str = "local",
    plugins: Sequence[PathLike] = (),
    task_files: Sequence[PathLike] = (),
    allow_poor_fit: bool = False,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Run a suite and return its results.

    Each cell leaves one record in `out/records`; cells that are finished there are not run again. With `jobs`
    above 1 call this under `if __name__ == "__main__":`, because workers import the calling script.

    Args:
        suite: name of a built-in suite, or path of a suite file.
        models: names of models instead of the suite's; repositories (ORG/NAME) and folders too.
        tasks: names of tasks instead of the suite's.
        bases: names of bases instead of the suite's.
        methods: names of attribution methods instead of the suite's.
        ablations: "mean", "counterfactual" or "zero", instead of the suite's.
        error_policies: "coordinates", "rotated", "node", "keep" or "ablate", instead of the suite's.
        score_references: "ablation" or "counterfactual", instead of the suite's.
        held_in: True runs each cell a second time with scores taken on the evaluation pairs.
        granularities: "position" or "unit", instead of the suite's.
        layers: layers that every family is restricted to, for example "10-20" or [12], instead of the suite's.
        bos: whether a beginning-of-sequence token stands in front of prompts, instead of the suite's: "auto" (as the
            tokenizer has it), "always" or "never".
        metric: what answers are worth, instead of the suite's: "logit", or "logprob" for answers of several tokens.
        examples: pairs per split and task instead of the suite's.
        seed: seed instead of the suite's seeds.
        draws: how many draws of attribution pairs are run, instead of the suite's.
        subset_sizes: circuit sizes at which random halves of the complement are ablated, instead of the suite's.
        subset_blocks: blocks of the complement over which adversarial halves are searched for at these sizes, instead
            of the suite's: 50, for example, and 0 for no search.
        out: results folder.
        device: device of the models, for example "cpu" or "cuda:0"; "auto" spreads a model over all GPUs.
        dtype: type of the weights, for example "bfloat16"; that of the suite or of the checkpoint when None.
        resume: False runs finished cells again.
        jobs: worker processes; each takes whole tasks, and the cores are shared out.
        limit: do at most this many cells, of few pairs: a smoke test of a suite.
        executor: "local", "ray" for a Ray cluster on this machine, or "ray:ADDRESS".
        plugins: Python files that define `PROVIDES`.
        task_files: files of pairs, or datasets `hub:ORG/NAME?...`; given without `tasks`, only these tasks are run.
        allow_poor_fit: run dictionaries that explain nothing on a task's prompts too; they get no best mark.
        progress: False shows no progress; None and True show a bar on a terminal and plain lines elsewhere.

    Returns:
        The results of the suite's cells as `load_results` gives them: a row per cell and circuit size.

    Raises:
        BasisBenchError: a name, a file or a value is wrong; or some cells failed, in which case the others are
            finished and stored.
    """
    request = Request(
        suite=os.fspath(suite),
        changes={
            "models": models,
            "tasks": tasks,
            "bases": bases,
            "methods": methods,
            "ablations": ablations,
            "error_policies": error_policies,
            "score_references": score_references,
            "score_splits": SPLITS if held_in else None,
            "granularities": granularities,
            "layers": layers,
            "bos": bos,
            "metric": metric,
            "seeds": None if seed is None else (seed,),
            "attribution_draws": first_draws(draws),
            "subset_sizes": subset_sizes,
            "subset_blocks": subset_blocks,
            "attribution_pairs": examples,
            "evaluation_pairs": examples,
        },
        options=RunOptions(
            out=Path(out),
            device=device,
            dtype=dtype,
            resume=resume,
            plugins=tuple(Path(path).resolve() for path in plugins),
            task_files=tuple(task_source(path) for path in task_files),
            allow_poor_fit=allow_poor_fit,
        ),
        jobs=jobs,
        progress=progress is not False,
        limit=limit,
        executor=parse_executor(executor),
    )
    outcome = run_request(request)
    outcome.raise_failures()
    from basisbench.results.frame import load_results

    return load_results(outcome.records)


def plan_request(request: Request) -> Plan:
    """Find out what a request asks for; nothing is loaded and nothing written.

    Args:
        request: what to run and how.

    Raises:
        BasisBenchError: a name, a file or a value is wrong.
    """
    options = request.options
    registry = options.registry()
    changes = dict(request.changes)
    if options.task_files:
        sources = {str(path) for path in options.task_files}
        from_files = [entry.name for entry in registry.of("task") if entry.source in sources]
        named = request.changes.get("tasks")
        named = named if isinstance(named, list | tuple) else ()
        changes["tasks"] = [*named, *from_files]
    suite = load_suite(request.suite).changed(changes)
    if request.limit is not None:
        if request.limit < 1:
            raise BasisBenchError(f"limit must be at least 1, found {request.limit}")
        fields = ("attribution_pairs", "evaluation_pairs")
        suite = suite.changed(
            {name: min(getattr(suite, name), FEW_PAIRS) for name in fields if request.changes.get(name) is None}
        )
    models = find_models(suite.models, registry, suite.revisions)
    suite = suite.changed({"models": [model.name for model in models]})
    # Workers on other machines have models that ship with the package at paths of their own.
    listed = {entry.name: registry.get("model", entry.name) for entry in registry.of("model")}
    given = tuple(model for model in models if listed.get(model.name) != model)
    tasks = SuiteTasks(name=suite.name, tasks=suite.tasks)
    options = replace(options, models=given, dtype=options.dtype or suite.dtype, suite=tasks)
    registry = options.registry()
    cells = expand(suite, registry)
    if request.limit is not None:
        cells = few_cells(cells, request.limit)
    return Plan(suite, options, registry, models, cell_blocks(cells))


def run_request(request: Request) -> Outcome:
    """Run a suite as `run` does, and say what became of each cell instead of raising and reading back.

    Args:
        request: what to run and how.

    Raises:
        BasisBenchError: a name, a file or a value is wrong.
    """
    if request.jobs is not None and request.jobs < 1:
        raise BasisBenchError(f"jobs must be at least 1, found {request.jobs}")
    plan = plan_request(request)
    with Store(plan.options.out).opened():  # before anything is loaded
        return _run_blocks(plan, request)


def default_jobs(device: str) -> int:
    """Return how many worker processes the command line uses by default.

    Two on a CPU with two cores or more: small models leave a second thread half idle, and a worker holds less than
    1.3 GiB of the suite's 3. One on a device, which two workers would have to share.
    """
    from basisbench.runs.workers import available_cores

    return min(2, available_cores()) if device == "cpu" else 1


def _run_blocks(plan: Plan, request: Request) -> Outcome:
    """Do all blocks, here, in workers or on a cluster, showing progress."""
    began = time.monotonic()
    ended: list[Event] = []
    blocks, options = plan.blocks, plan.options
    display = Progress(sum(len(block.cells) for block in blocks), len(blocks), shown=request.progress)

    def on_event(event: Event) -> None:
        display.show(event)
        if event.state != "started":
            ended.append(event)

    def on_block(block: CellBlock, events: list[Event], started: float) -> None:
        display.end_block(block.title, events, started)

    try:
        if request.executor.kind == "ray":
            from basisbench.runs.ray_executor import run_on_ray

            run_on_ray(blocks, options, request.executor, request.jobs, on_event, on_block)
        elif (request.jobs or default_jobs(options.device)) > 1 and len(blocks) > 1:
            from basisbench.runs.workers import run_in_workers

            run_in_workers(blocks, options, request.jobs or default_jobs(options.device), on_event, on_block)
        else:
            runner = Runner(options, plan.registry)
            for block in blocks:
                started, before = time.monotonic(), len(ended)
                for event in runner.run_block(block):
                    on_event(event)
                on_block(block, ended[before:], started)
    finally:
        display.close()
    return Outcome(options.out, tuple(ended), time.monotonic() - began)
