"""The outer loop: suite to cells to records.

1. Load the suite, apply what was changed, expand it to cells, and group these by model, task and seed.
2. For each group: load the model once, make the pairs once, then do each cell that is not finished.
3. Write each record as soon as it is made; a killed run loses no finished cell.

What happens inside a cell is `basisbench.execute`'s work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from basisbench.errors import BasisBenchError
from basisbench.plan import Group, Runner, Settings, group_cells
from basisbench.progress import Event, Progress
from basisbench.store import Store
from basisbench.suite import expand, load_suite
from basisbench.types import Ablation, ErrorPolicy, Granularity

if TYPE_CHECKING:
    import pandas as pd

PathLike: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class Request:
    """What to run and how.

    Attributes:
        suite: name of a built-in suite, or path of a suite file.
        changes: fields of the suite to replace; None leaves a field as it is.
        settings: results folder, device, plug-ins.
        jobs: worker processes.
        progress: whether to show progress.
    """

    suite: str
    changes: Mapping[str, Sequence[object] | int | None]
    settings: Settings
    jobs: int = 1
    progress: bool = True


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
            raise BasisBenchError(
                f"{len(self.failures)} of {len(self.events)} cells failed; the others are in {self.out}; first: {first}"
            )


def run(
    suite: PathLike = "pocket",
    *,
    models: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    bases: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    ablations: Sequence[Ablation] | None = None,
    error_policies: Sequence[ErrorPolicy] | None = None,
    granularities: Sequence[Granularity] | None = None,
    examples: int | None = None,
    seed: int | None = None,
    out: PathLike = "results/local",
    device: str = "cpu",
    resume: bool = True,
    jobs: int = 1,
    plugins: Sequence[PathLike] = (),
    task_files: Sequence[PathLike] = (),
    progress: bool | None = None,
) -> pd.DataFrame:
    """Run a suite and return its results.

    Each cell leaves one record in `out/records`; cells that are finished there are not run again. With `jobs`
    above 1 call this under `if __name__ == "__main__":`, because workers import the calling script.

    Args:
        suite: name of a built-in suite, or path of a suite file.
        models: names of models instead of the suite's.
        tasks: names of tasks instead of the suite's.
        bases: names of bases instead of the suite's.
        methods: names of attribution methods instead of the suite's.
        ablations: "mean", "counterfactual" or "zero", instead of the suite's.
        error_policies: "node", "keep" or "ablate", instead of the suite's.
        granularities: "position" or "unit", instead of the suite's.
        examples: pairs per split and task instead of the suite's.
        seed: seed instead of the suite's seeds.
        out: results folder.
        device: device of the models, for example "cpu" or "cuda:0".
        resume: False runs finished cells again.
        jobs: worker processes; each takes whole tasks, and the cores are shared out.
        plugins: Python files that define `PROVIDES`.
        task_files: files of pairs; when given without `tasks`, only these tasks are run.
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
            "granularities": granularities,
            "seeds": None if seed is None else (seed,),
            "attribution_pairs": examples,
            "evaluation_pairs": examples,
        },
        settings=Settings(
            out=Path(out),
            device=device,
            resume=resume,
            plugins=tuple(Path(path).resolve() for path in plugins),
            task_files=tuple(Path(path).resolve() for path in task_files),
        ),
        jobs=jobs,
        progress=progress is not False,
    )
    outcome = run_request(request)
    outcome.raise_failures()
    from basisbench.frame import load_results

    return load_results(outcome.records)


def run_request(request: Request) -> Outcome:
    """Run a suite as `run` does, and say what became of each cell instead of raising and reading back.

    Args:
        request: what to run and how.

    Raises:
        BasisBenchError: a name, a file or a value is wrong.
    """
    if request.jobs < 1:
        raise BasisBenchError(f"jobs must be at least 1, found {request.jobs}")
    settings = request.settings
    registry = settings.registry()
    changes = dict(request.changes)
    if settings.task_files:
        sources = {str(path) for path in settings.task_files}
        from_files = [entry.name for entry in registry.of("task") if entry.source in sources]
        named = request.changes.get("tasks")
        named = named if isinstance(named, list | tuple) else ()
        changes["tasks"] = [*named, *from_files]
    suite = load_suite(request.suite).changed(changes)
    groups = group_cells(expand(suite, registry))
    Store(settings.out).remove_stale()
    return _run_groups(groups, request, Runner(settings, registry))


def default_jobs(device: str) -> int:
    """Return how many worker processes the command line uses when it is not told.

    Two on a CPU with two cores or more: small models leave a second thread half idle, and a worker holds less than
    1.3 GiB of the suite's 3. One on a device, which two workers would have to share.
    """
    from basisbench.workers import available_cores

    return min(2, available_cores()) if device == "cpu" else 1


def _run_groups(groups: tuple[Group, ...], request: Request, runner: Runner) -> Outcome:
    """Do all groups, here or in workers, showing progress."""
    began = time.monotonic()
    ended: list[Event] = []
    display = Progress(sum(len(group.cells) for group in groups), len(groups), shown=request.progress)

    def on_event(event: Event) -> None:
        display.show(event)
        if event.state != "started":
            ended.append(event)

    def on_group(group: Group, events: list[Event], started: float) -> None:
        display.end_group(group.title, events, started)

    try:
        if request.jobs > 1 and len(groups) > 1:
            from basisbench.workers import run_in_workers

            run_in_workers(groups, request.settings, request.jobs, on_event, on_group)
        else:
            for group in groups:
                started, before = time.monotonic(), len(ended)
                for event in runner.run_group(group):
                    on_event(event)
                on_group(group, ended[before:], started)
    finally:
        display.close()
    return Outcome(request.settings.out, tuple(ended), time.monotonic() - began)
