"""The work of a run, in groups of cells that share a model, a task and a seed; and how one group is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from basisbench.errors import BasisBenchError
from basisbench.progress import Event
from basisbench.record import CellConfig, cell_id
from basisbench.registry import Registry, load_registry
from basisbench.store import Store

if TYPE_CHECKING:
    from basisbench.model import Model


@dataclass(frozen=True)
class Settings:
    """What every worker of a run must know; small enough to send to a process.

    Attributes:
        out: results folder.
        device: device of the models, for example "cpu" or "cuda:0".
        resume: True keeps finished cells.
        plugins: plug-in files.
        task_files: files of pairs, each a task.
    """

    out: Path
    device: str = "cpu"
    resume: bool = True
    plugins: tuple[Path, ...] = ()
    task_files: tuple[Path, ...] = ()

    def registry(self) -> Registry:
        """Find everything that is registered, plug-ins and task files included.

        Raises:
            BasisBenchError: a plug-in or a task file is malformed.
        """
        registry = load_registry(self.plugins)
        for path in self.task_files:
            from basisbench.task_file import load_task_file

            registry = registry.adding([load_task_file(path)], str(path))
        return registry


@dataclass(frozen=True)
class Group:
    """Cells that share a model, a task and a seed.

    Attributes:
        cells: the cells, in order; never empty.
    """

    cells: tuple[CellConfig, ...]

    @property
    def title(self) -> str:
        """Names the group in a progress line."""
        first = self.cells[0]
        return f"{first.model} {first.task}" + (f" seed {first.seed}" if first.seed else "")


def group_cells(cells: Sequence[CellConfig]) -> tuple[Group, ...]:
    """Cut an expanded suite into groups."""
    return tuple(
        Group(tuple(members)) for _, members in groupby(cells, key=lambda cell: (cell.model, cell.task, cell.seed))
    )


@dataclass
class Runner:
    """Does groups one after another, keeping the model loaded between groups of one model.

    Attributes:
        settings: what the run was asked.
        registry: where names are looked up.
    """

    settings: Settings
    registry: Registry
    _models: dict[str, Model] = field(default_factory=dict)

    def run_group(self, group: Group) -> Iterator[Event]:
        """Do the cells of a group, yielding what happens as it happens.

        A user's mistake (BasisBenchError) fails the cells that it concerns and no others; any other exception
        is a bug and goes up.
        """
        from basisbench.execute import open_session

        first = group.cells[0]
        store = Store(self.settings.out)
        try:
            session = open_session(
                self._model(first.model),
                self.registry.get("task", first.task),
                attribution_pairs=first.attribution_pairs,
                evaluation_pairs=first.evaluation_pairs,
                seed=first.seed,
            )
        except BasisBenchError as error:
            for cell in group.cells:
                yield Event("failed", cell, message=str(error))
            return
        for cell in group.cells:
            yield Event("started", cell)
            try:
                basis = self.registry.get("basis", cell.basis)
                identifier = cell_id(cell, session.identity(basis))
                if self.settings.resume and store.finished(identifier) is not None:
                    yield Event("kept", cell, identifier)
                    continue
                record = session.run(cell, basis, self.registry.get("method", cell.method))
                if record.id != identifier:
                    raise AssertionError(f"the record of {identifier} calls itself {record.id}")
                store.write(record)
                yield Event("finished", cell, identifier)
            except BasisBenchError as error:
                yield Event("failed", cell, message=str(error))

    def _model(self, name: str) -> Model:
        """Return a loaded model; the one before it is let go, so that one at a time is in memory."""
        if name not in self._models:
            from basisbench.load import load_model

            self._models.clear()
            self._models[name] = load_model(self.registry.get("model", name), device=self.settings.device)
        return self._models[name]
