"""Several processes share the blocks of a run.

1. Each worker is a fresh process with its own model and its share of the cores.
2. The parent hands out one block at a time over a pipe and receives events back; a worker writes its records itself.
3. A worker that dies (killed, out of memory) fails the rest of its block; a new worker takes its place.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from basisbench.runs.progress import Event
from basisbench.runs.runner import CellBlock, Runner, RunOptions

Listener = Callable[[Event], None]
BlockListener = Callable[[CellBlock, list[Event], float], None]
STOP_SECONDS = 5.0


@dataclass
class _Worker:
    """A process, the pipe to it, and what it is doing."""

    process: SpawnProcess
    pipe: Connection
    block: CellBlock | None = None
    started: float = 0.0
    events: list[Event] = field(default_factory=list)


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
                    _fail_rest(worker, _cause_of_death(worker), on_event, on_block)
                    workers.remove(worker)
                    if waiting:
                        replacement = _start(options, threads)
                        workers.append(replacement)
                        _assign(replacement, waiting)
                    continue
                if isinstance(message, Event):
                    if message.state != "started":
                        worker.events.append(message)
                    on_event(message)
                else:
                    if message:  # the traceback of a bug
                        _fail_rest(worker, message, on_event, on_block)
                    elif worker.block is not None:
                        on_block(worker.block, worker.events, worker.started)
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
    process = context.Process(target=_work, args=(theirs, options, threads), daemon=True)
    process.start()
    theirs.close()  # so that the death of the worker ends the pipe
    return _Worker(process, ours)


def _assign(worker: _Worker, waiting: deque[CellBlock]) -> None:
    worker.events = []
    worker.started = time.monotonic()
    worker.block = waiting.popleft() if waiting else None
    if worker.block is not None:
        try:
            worker.pipe.send(worker.block)
        except ConnectionError:  # it died while idle; reading from its pipe will tell
            return


def _fail_rest(worker: _Worker, message: str, on_event: Listener, on_block: BlockListener) -> None:
    """Fail the cells of the worker's block that have no result."""
    if worker.block is None:
        return
    ended = {event.cell for event in worker.events}
    for cell in worker.block.cells:
        if cell not in ended:
            event = Event("failed", cell, message=message)
            worker.events.append(event)
            on_event(event)
    on_block(worker.block, worker.events, worker.started)
    worker.block = None


def _cause_of_death(worker: _Worker) -> str:
    worker.process.join(STOP_SECONDS)
    code = worker.process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
    return f"a worker process {how}; its unfinished cells can be run again (fewer --jobs need less memory)"


def _work(pipe: Connection, options: RunOptions, threads: int) -> None:
    """The life of a worker: receive a block, do it, send its events, then None or a traceback; until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and stops its workers
    import torch

    torch.set_num_threads(threads)
    runner = Runner(options, options.registry())
    while True:
        try:
            block: CellBlock = pipe.recv()
        except (EOFError, ConnectionError):
            return
        problem: str | None = None
        try:
            for event in runner.run_block(block):
                pipe.send(event)
        except ConnectionError:  # the parent is gone
            return
        except Exception:
            problem = traceback.format_exc()
        pipe.send(problem)
