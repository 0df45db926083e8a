"""The work of a run, in blocks of cells that share a model and its pairs; and how one block is done."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from basisbench.errors import BasisBenchError, RecordError
from basisbench.models.torch_settings import SettingsChangedError, unchanged_settings
from basisbench.registry import Registry, load_registry
from basisbench.results.record import CellConfig, cell_id
from basisbench.results.record_fields import SuiteTasks
from basisbench.results.store import Store
from basisbench.runs.cells import pairs_key
from basisbench.runs.plugin_failure import plugin_failure, watching_interrupts
from basisbench.runs.progress import Event
from basisbench.types import ModelSpec

if TYPE_CHECKING:
    from basisbench.models.model import Model
    from basisbench.results.record import Record
    from basisbench.runs.session import Session


@dataclass(frozen=True)
class RunOptions:
    """What every worker of a run must know; small enough to send to a process.

    Attributes:
        out: results folder.
        device: device of the models, for example "cpu" or "cuda:0"; "auto" spreads a model over all GPUs.
        dtype: type of the weights, for example "bfloat16"; the checkpoint's own when None.
        resume: True keeps finished cells.
        models: the models of the run, at the revisions that it pins; they go before registered ones of their name.
        plugins: plug-in files.
        task_files: files of pairs, each a task.
        suite: the suite that is run and its tasks, for the records; None where none is.
        allow_poor_fit: whether dictionaries that explain nothing on a task's prompts are run all the same.
    """

    out: Path
    device: str = "cpu"
    dtype: str | None = None
    resume: bool = True
    models: tuple[ModelSpec, ...] = ()
    plugins: tuple[Path, ...] = ()
    task_files: tuple[Path, ...] = ()
    suite: SuiteTasks | None = None
    allow_poor_fit: bool = False

    def registry(self) -> Registry:
        """Find everything that is registered, plug-ins and task files included.

        Raises:
            BasisBenchError: a plug-in or a task file is malformed.
        """
        registry = load_registry(self.plugins)
        for path in self.task_files:
            from basisbench.pairs.task_file import load_task_file

            registry = registry.adding([load_task_file(path)], str(path))
        given = {model.name for model in self.models}
        others = tuple(entry for entry in registry.entries if entry.kind != "model" or entry.name not in given)
        return replace(registry, entries=others).adding(self.models, "the run's models")


@dataclass(frozen=True)
class CellBlock:
    """Cells that share a model and its pairs: task, seed, draw and number of pairs, and beginning of sequence.

    Attributes:
        cells: the cells, in order; never empty.
    """

    cells: tuple[CellConfig, ...]

    @property
    def title(self) -> str:
        """Names the block in a progress line."""
        first = self.cells[0]
        words = [first.model, first.task]
        words += [f"seed {first.seed}"] * bool(first.seed)
        words += [f"draw {first.attribution_draw}"] * bool(first.attribution_draw)
        pairs = first.attribution_pairs
        words += [f"{pairs} attribution pairs"] * (pairs != first.evaluation_pairs)
        return " ".join(words)


def cell_blocks(cells: Sequence[CellConfig]) -> tuple[CellBlock, ...]:
    """Cut an expanded suite into blocks."""
    return tuple(CellBlock(tuple(members)) for _, members in groupby(cells, key=pairs_key))


def _on_layers(cell: CellConfig, layers: int) -> CellConfig:
    """Return the cell with its restriction to layers dropped where these are all that the model has."""
    return cell.model_copy(update={"layers": None}) if cell.layers == tuple(range(layers)) else cell


class Records(Protocol):
    """Where finished records are and new ones go."""

    def finished(self, cell_id: str, /) -> object | None:
        """Return something for a cell that is finished, None for any other."""
        ...

    def ready(self) -> None:
        """Make sure that a record could be kept now.

        Raises:
            RecordError: it could not.
        """
        ...

    def write(self, record: Record, /) -> object:
        """Keep a record."""
        ...


@dataclass
class Runner:
    """Does blocks one after another, keeping the model loaded between blocks of one model.

    Attributes:
        options: what the run was asked.
        registry: where names are looked up.
        records: where records go and finished ones are; the results folder when None.
    """

    options: RunOptions
    registry: Registry
    records: Records | None = None
    _models: dict[str, Model] = field(default_factory=dict)
    _refused: dict[str, BasisBenchError] = field(default_factory=dict)
    _full: str = ""

    def run_block(self, block: CellBlock) -> Iterator[Event]:
        """Do the cells of a block, yielding what happens as it happens.

        A user's mistake (BasisBenchError) or a failing plug-in fails the cells that it concerns and no others; any
        other exception is a bug and goes up.
        """
        records = self.records or Store(self.options.out)
        session: Session | None = None
        problem = ""
        for cell in block.cells:
            # Nothing that is computed now could be kept, or there are no pairs to compute it on.
            if self._full or problem:
                yield Event("failed", cell, message=self._full or problem)
                continue
            yield Event("started", cell)
            with watching_interrupts() as interrupts:
                try:
                    session = session or self._open(cell)
                    event = self._done(session, cell, records)
                except BaseException as error:
                    event = Event("failed", cell, message=self._told(error, cell, interrupted=bool(interrupts)))
                    if session is None:
                        problem = event.message
                    elif session.changed():  # everything that other cells share is made anew
                        session = None
                        self._models.clear()
                    elif isinstance(error, SettingsChangedError):
                        session = None  # what was computed meanwhile
            yield event

    def _open(self, cell: CellConfig) -> Session:
        from basisbench.runs.session import session_of_cell

        model = self._model(cell.model)
        with unchanged_settings(f"task '{cell.task}'"):
            task = self.registry.get("task", cell.task)
            return session_of_cell(cell, model, task, allow_poor_fit=self.options.allow_poor_fit)

    def _done(self, session: Session, cell: CellConfig, records: Records) -> Event:
        """Do one cell, unless it is finished."""
        basis, method = self.registry.get("basis", cell.basis), self.registry.get("method", cell.method)
        asked = _on_layers(cell, session.model.layers)
        with unchanged_settings(f"basis '{cell.basis}' with method '{cell.method}'"):
            identifier = cell_id(asked, session.identity(basis, method, asked.layers))
            if self.options.resume and records.finished(identifier) is not None:
                return Event("kept", cell, identifier)
            records.ready()
            record = session.run(asked, basis, method, suite=self.options.suite)
        if record.id != identifier:
            raise AssertionError(f"the record of {identifier} calls itself {record.id}")
        records.write(record)
        return Event("finished", cell, identifier)

    def _told(self, error: BaseException, cell: CellConfig, *, interrupted: bool) -> str:
        """Return why a cell failed, in one line; what is neither a user's mistake nor a plug-in's goes up."""
        if isinstance(error, BasisBenchError):
            cause = error.__cause__
            if isinstance(error, RecordError) and isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
                self._full = str(error)
            return str(error)
        get = self.registry.get
        parts = (get("task", cell.task), get("basis", cell.basis), get("method", cell.method))
        return plugin_failure(error, parts, interrupted=interrupted)

    def _model(self, name: str) -> Model:
        """Return a loaded model; the one before it is let go, so that one at a time is in memory.

        Raises:
            BasisBenchError: it cannot be had; it is not asked for again for the run's other blocks.
        """
        if name in self._refused:
            raise self._refused[name]
        if name not in self._models:
            from basisbench.models.load import load_model
            from basisbench.models.memory import give_memory_back

            self._models.clear()
            give_memory_back()  # a model and its bases hold each other
            try:
                self._models[name] = load_model(
                    self.registry.get("model", name), device=self.options.device, dtype=self.options.dtype
                )
            except BasisBenchError as error:
                self._refused[name] = error
                raise
        return self._models[name]
