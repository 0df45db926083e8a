"""The cells of a run on a Ray cluster: a local one, or any by its address.

1. Each worker is a Ray actor that asks for GPUs, cores and memory. It keeps the model loaded from one piece of work to
   the next; a piece is a block of cells, or the cells of one basis where there are fewer blocks than workers.
2. A worker sends events and records back as they are made. Only this process writes records, each of them once,
   whatever is done again: the results folder need not be shared. Plug-in files, files of pairs, and folders of models
   and dictionaries are read by the workers, at the same path on every machine; repositories come from each one's cache.
3. When a worker dies, alone or with its machine, another takes its place and does the cells that have not ended,
   where there is room: workers without work leave. A cell that has taken three workers with it fails, and the others
   go on; all that are left fail when the cluster has no room for any worker.
"""

from __future__ import annotations

import io
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from basisbench.errors import BasisBenchError
from basisbench.results.record import CellConfig, Record
from basisbench.results.store import Store
from basisbench.runs.executor import Executor
from basisbench.runs.progress import Event
from basisbench.runs.ray_cluster import import_ray, join, workers_with_room
from basisbench.runs.runner import CellBlock, Runner, RunOptions
from basisbench.runs.workers import BlockListener, Listener

_ROOM_SECONDS = 60.0
"""How long the cluster may be without room for any worker, after machines were lost, before the run ends."""

MOST_DEATHS = 3
"""Workers that may die over one cell before it counts as failed."""
_DIED = "workers died over this cell; if for want of memory, --worker-memory makes room for fewer at once"


@dataclass
class _Piece:
    """Some cells of one block.

    Attributes:
        block: index of the block.
        cells: what is still to be done, in order.
    """

    block: int
    cells: tuple[CellConfig, ...]


@dataclass
class _Worker:
    """An actor, and what it is doing."""

    actor: Any
    piece: _Piece | None = None
    answers: Any = None
    at: CellConfig | None = None
    ended: set[CellConfig] = field(default_factory=set)


class _Outbox:
    """What a worker knows of the results folder: which cells are finished, and what it has to send."""

    def __init__(self, finished: frozenset[str]) -> None:
        self._finished = finished
        self.record: Record | None = None

    def finished(self, cell_id: str) -> str | None:
        return cell_id if cell_id in self._finished else None

    def ready(self) -> None:
        """Nothing to make sure of: the head writes."""

    def write(self, record: Record) -> None:
        self.record = record


class RayWorker:
    """A worker's side: one runner, and so one model, for all its pieces."""

    def __init__(self, options: RunOptions, threads: int, finished: frozenset[str]) -> None:
        import torch

        torch.set_num_threads(threads)
        self._options = options
        self._outbox = _Outbox(finished)
        self._runner: Runner | None = None

    def run(self, cells: tuple[CellConfig, ...]) -> Iterator[tuple[Event, Record | None]]:
        """Do some cells, yielding events as they happen, each finished cell with its record."""
        if self._runner is None:
            try:
                self._runner = Runner(self._options, self._options.registry(), self._outbox)
            except BasisBenchError as error:  # a plug-in that this machine does not have
                for cell in cells:
                    yield Event("failed", cell, message=str(error)), None
                return
        for event in self._runner.run_block(CellBlock(cells)):
            record, self._outbox.record = self._outbox.record, None
            yield event, record


def run_on_ray(
    blocks: Sequence[CellBlock],
    options: RunOptions,
    executor: Executor,
    jobs: int | None,
    on_event: Listener,
    on_block: BlockListener,
) -> None:
    """Do blocks on a Ray cluster; returns when every cell is done or has failed.

    Args:
        blocks: the work.
        options: what every worker must know.
        executor: the cluster, and what a worker asks for.
        jobs: how many workers; as many as the cluster has room for when None.
        on_event: called for each event, in this process.
        on_block: called when a block ends, with its events and when it began.

    Raises:
        BasisBenchError: Ray is not installed, the cluster cannot be reached or has no room for a worker, or a record
            cannot be written.
    """
    ray = import_ray()
    on_device = options.device != "cpu"
    if on_device and ":" in options.device:
        raise BasisBenchError(f"device '{options.device}': Ray chooses a worker's GPU; give --device cuda")
    cpus = 1.0 if executor.worker_cpus is None else executor.worker_cpus
    gpus = float(on_device and options.device != "mps") if executor.worker_gpus is None else executor.worker_gpus
    with ExitStack() as stack:
        if not ray.is_initialized():
            join(ray, executor.address, cpus * jobs if jobs else None)
            # Ray prints pages on a machine that died; what that means for a cell is told of the cell.
            stack.enter_context(redirect_stdout(io.StringIO()))
            stack.callback(ray.shutdown)
        room = workers_with_room(ray, cpus, gpus, executor.worker_memory)
        pieces = _cut(blocks, min(jobs or room, room))
        store = Store(options.out)
        finished = frozenset(
            path.stem for path in store.records.glob("*.json") if options.resume and store.finished(path.stem)
        )
        arguments: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0}
        if executor.worker_memory:
            arguments["memory"] = executor.worker_memory
        actor_class = ray.remote(RayWorker)

        def start() -> _Worker:
            return _Worker(actor_class.options(**arguments).remote(options, max(1, int(cpus)), finished))

        room_left = partial(workers_with_room, ray, cpus, gpus, executor.worker_memory)
        driver = _Driver(ray, blocks, pieces, store, start, room_left, on_event, on_block)
        driver.run(min(jobs or room, room, len(pieces)))


class _Driver:
    """Hands out pieces, writes records, replaces workers."""

    def __init__(
        self,
        ray: Any,
        blocks: Sequence[CellBlock],
        pieces: deque[_Piece],
        store: Store,
        start: Callable[[], _Worker],
        room_left: Callable[[], int],
        on_event: Listener,
        on_block: BlockListener,
    ) -> None:
        self._ray, self._blocks, self._waiting, self._store = ray, blocks, pieces, store
        self._start, self._room_left, self._on_event, self._on_block = start, room_left, on_event, on_block
        self._events: list[list[Event]] = [[] for _ in blocks]
        self._began = [0.0 for _ in blocks]
        self._deaths: Counter[CellConfig] = Counter()
        self._workers: list[_Worker] = []

    def run(self, workers: int) -> None:
        """Keep this many workers busy until nothing is left."""
        try:
            self._workers = [self._start() for _ in range(workers)]
            for worker in tuple(self._workers):
                self._assign(worker)
            while busy := {id(worker.answers): worker for worker in self._workers if worker.piece is not None}:
                streams = [worker.answers for worker in busy.values()]
                ready, _ = self._ray.wait(streams, num_returns=1, timeout=_ROOM_SECONDS)
                if not ready:
                    self._hold_room()
                for answers in ready:
                    self._advance(busy[id(answers)])
        finally:
            for worker in filter(lambda worker: worker.actor is not None, self._workers):
                self._ray.kill(worker.actor)

    def _assign(self, worker: _Worker) -> None:
        worker.piece = self._waiting.popleft() if self._waiting else None
        worker.at, worker.ended = None, set()
        if worker.piece is None:
            self._workers.remove(worker)
            self._ray.kill(worker.actor)  # whoever waits for room has it
        else:
            self._began[worker.piece.block] = self._began[worker.piece.block] or time.monotonic()
            worker.answers = worker.actor.run.options(num_returns="streaming").remote(worker.piece.cells)

    def _advance(self, worker: _Worker) -> None:
        """Take one answer of a worker, or the news of its end."""
        errors = self._ray.exceptions
        try:
            event, record = self._ray.get(next(worker.answers))
        except StopIteration:
            self._assign(worker)
        except (errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            self._replace(worker, error)
        except errors.RayTaskError:  # a bug, with its traceback
            self._fail_rest(worker, traceback.format_exc())
            self._assign(worker)
        else:
            if event.state == "started":
                worker.at = event.cell
                self._on_event(event)
            else:
                if record is not None:
                    self._store.write(record)
                worker.ended.add(event.cell)
                self._end(worker, event)

    def _end(self, worker: _Worker, event: Event) -> None:
        """Note that a cell has ended, and its block if it was the last."""
        if worker.piece is None:
            return
        index = worker.piece.block
        self._events[index].append(event)
        self._on_event(event)
        if len(self._events[index]) == len(self._blocks[index].cells):
            self._on_block(self._blocks[index], self._events[index], self._began[index])

    def _replace(self, worker: _Worker, error: Exception) -> None:
        """Put another worker in the place of one that died, and what it left to be done back to the others' work."""
        if worker.piece is None:
            return
        left = self._left(worker)
        if left:
            # A worker that dies before its first cell would die again: its first cell is the failing one.
            failing = worker.at if worker.at in left else left[0]
            self._deaths[failing] += 1
            if self._deaths[failing] >= MOST_DEATHS:
                worker.ended.add(failing)
                told = f"{self._deaths[failing]} {_DIED}: {' '.join(str(error).split()):.300}"
                self._end(worker, Event("failed", failing, message=told))
                left = self._left(worker)
        if left:
            self._waiting.appendleft(_Piece(worker.piece.block, left))
        self._workers.remove(worker)
        if self._waiting:
            replacement = self._start()
            self._workers.append(replacement)
            self._assign(replacement)

    def _hold_room(self) -> None:
        """Fail all that is left where the cluster has lost the room for any worker."""
        try:
            self._room_left()
        except BasisBenchError as error:
            self._workers += [_Worker(None, self._waiting.popleft()) for _ in range(len(self._waiting))]
            for worker in self._workers:
                self._fail_rest(worker, str(error))
                worker.piece = None

    def _fail_rest(self, worker: _Worker, message: str) -> None:
        for cell in self._left(worker):
            worker.ended.add(cell)
            self._end(worker, Event("failed", cell, message=message))

    def _left(self, worker: _Worker) -> tuple[CellConfig, ...]:
        cells = worker.piece.cells if worker.piece else ()
        return tuple(cell for cell in cells if cell not in worker.ended)


def _cut(blocks: Sequence[CellBlock], workers: int) -> deque[_Piece]:
    """Return the work in pieces: blocks, or the bases of blocks where there are fewer blocks than workers."""
    pieces: deque[_Piece] = deque()
    for index, block in enumerate(blocks):
        if len(blocks) >= workers:
            pieces.append(_Piece(index, block.cells))
            continue
        for basis in dict.fromkeys(cell.basis for cell in block.cells):
            pieces.append(_Piece(index, tuple(cell for cell in block.cells if cell.basis == basis)))
    return pieces
