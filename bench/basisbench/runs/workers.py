"""Several processes share the blocks of a run.

1. Each worker is a fresh process with its own model and its share of the cores.
2. The parent hands out one block at a time over a pipe and receives events back; a worker writes its records itself.
3. A worker that dies (killed, out of memory) fails the cell that it was doing; a new worker goes on with the rest.
4. A worker whose parent dies ends at once, whatever it computes: records are written whole, so nothing is half done.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import IO

from basisbench.errors import OUT_OF_MEMORY, lacks_memory
from basisbench.results.record import CellConfig
from basisbench.runs.progress import Event
from basisbench.runs.runner import CellBlock, Runner, RunOptions

Listener = Callable[[Event], None]
BlockListener = Callable[[CellBlock, list[Event], float], None]
STOP_SECONDS = 5.0
_DEATHS = 3
"""How many workers a block may cost: each takes along the cell that it was doing; then the rest of the block fails."""


@dataclass
class _Worker:
    """A process, the pipe to it, the file of what libraries in it say to nobody, and what it is doing."""

    process: SpawnProcess
    pipe: Connection
    said: IO[bytes]
    block: CellBlock | None = None
    started: float = 0.0
    doing: CellConfig | None = None
    events: list[Event] = field(default_factory=list)
    deaths: int = 0


def available_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_in_workers(
    blocks: Sequence[CellBlock],
    options: RunOptions,
    jobs: int,
    on_event: Listener,
    on_block: BlockListener,
) -> None:
    """Do blocks in several processes; returns when every block is done or has failed.

    Args:
        blocks: the work; a block is never split.
        options: what every worker must know.
        jobs: how many processes.
        on_event: called for each event, in the parent.
        on_block: called when a block ends, with its events and when it began.
    """
    waiting = deque(blocks)
    jobs = min(jobs, len(blocks))
    threads = max(1, available_cores() // max(1, jobs))
    workers: list[_Worker] = []
    try:
        workers = [_start(options, threads) for _ in range(jobs)]
        for worker in workers:
            _assign(worker, waiting)
        while busy := {worker.pipe: worker for worker in workers if worker.block is not None}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                try:
                    message = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    cause = _cause_of_death(worker)
                    workers.remove(worker)
                    if worker.doing is not None and worker.deaths + 1 < _DEATHS:
                        _fail(worker, [worker.doing], cause, on_event)
                    else:
                        _fail(worker, _left(worker), cause, on_event)
                    if not _left(worker):
                        _end(worker, on_block)
                    if worker.block is not None or waiting:
                        replacement = _start(options, threads)
                        workers.append(replacement)
                        if worker.block is not None:
                            _take_over(replacement, worker)
                        else:
                            _assign(replacement, waiting)
                    continue
                if isinstance(message, Event):
                    worker.doing = message.cell if message.state == "started" else None
                    if worker.doing is None:
                        worker.events.append(message)
                    on_event(message)
                else:
                    if message:  # the traceback of a bug, or no memory
                        _fail(worker, _left(worker), message, on_event)
                    _end(worker, on_block)
                    _assign(worker, waiting)
    finally:
        for worker in workers:
            worker.pipe.close()  # a worker that waits for its next block reads the end of the pipe and leaves
            if worker.block is not None:
                worker.process.terminate()
        for worker in workers:
            worker.process.join(STOP_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _start(options: RunOptions, threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
    ours, theirs = context.Pipe()
    said = tempfile.NamedTemporaryFile()  # noqa: SIM115 - open as long as the worker lives
    process = context.Process(target=_work, args=(theirs, options, threads, said.name), daemon=True)
    process.start()
    theirs.close()  # so that the death of the worker ends the pipe
    return _Worker(process, ours, said)


def _assign(worker: _Worker, waiting: deque[CellBlock]) -> None:
    """Give a worker the next block, if there is one."""
    worker.events, worker.deaths, worker.doing = [], 0, None
    worker.started = time.monotonic()
    worker.block = waiting.popleft() if waiting else None
    if worker.block is not None:
        _send(worker, worker.block)


def _take_over(worker: _Worker, dead: _Worker) -> None:
    """Give a worker what a dead one has left of its block."""
    worker.block, worker.events, worker.started, worker.deaths = dead.block, dead.events, dead.started, dead.deaths + 1
    _send(worker, CellBlock(tuple(_left(worker))))


def _send(worker: _Worker, block: CellBlock) -> None:
    with suppress(ConnectionError):  # it died while idle; reading from its pipe will tell
        worker.pipe.send(block)


def _left(worker: _Worker) -> list[CellConfig]:
    """Return the cells of the worker's block that have no result."""
    ended = {event.cell for event in worker.events}
    return [] if worker.block is None else [cell for cell in worker.block.cells if cell not in ended]


def _fail(worker: _Worker, cells: Sequence[CellConfig], message: str, on_event: Listener) -> None:
    """Fail cells of the worker's block."""
    for cell in cells:
        event = Event("failed", cell, message=message)
        worker.events.append(event)
        on_event(event)


def _end(worker: _Worker, on_block: BlockListener) -> None:
    """Say that the worker's block has ended."""
    if worker.block is not None:
        on_block(worker.block, worker.events, worker.started)
    worker.block = None


def _cause_of_death(worker: _Worker) -> str:
    worker.process.join(STOP_SECONDS)
    code = worker.process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
    said = worker.said.read().decode(errors="replace").strip().splitlines()
    words = next((line for line in said if "alloc" in line), said[-1] if said else "")
    last = f" ({' '.join(words.split()):.200})" if words else ""
    return f"a worker process {how}{last}; its unfinished cells can be run again (fewer --jobs need less memory)"


def end_with_parent() -> None:
    """End this process when the one that started it ends, however that happens (killed, terminated)."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)  # an exception would wait for what the main thread computes

    threading.Thread(target=watch, daemon=True).start()


def _runner(options: RunOptions, threads: int) -> Runner:
    import torch

    torch.set_num_threads(threads)
    return Runner(options, options.registry())


def _keep_libraries_quiet(said: str) -> None:
    """Send what is not said by Python, for example a library's last words when memory ends, to a file."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    with Path(said).open("ab") as file:
        os.dup2(file.fileno(), 2)


def _work(pipe: Connection, options: RunOptions, threads: int, said: str) -> None:
    """The life of a worker: receive a block, do it, send its events, then None or what went wrong; until the pipe ends.

    Libraries are loaded with the first block: where memory does not suffice for them, its cells can tell.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and stops its workers
    end_with_parent()
    _keep_libraries_quiet(said)
    runner: Runner | None = None
    while True:
        try:
            block: CellBlock = pipe.recv()
        except (EOFError, ConnectionError):
            return
        problem: str | None = None
        try:
            runner = runner or _runner(options, threads)
            for event in runner.run_block(block):
                pipe.send(event)
        except ConnectionError:  # the parent is gone
            return
        except Exception as error:
            problem = f"{OUT_OF_MEMORY}; fewer --jobs need less" if lacks_memory(error) else traceback.format_exc()
        pipe.send(problem)
