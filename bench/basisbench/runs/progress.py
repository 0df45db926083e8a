"""Shows the progress of a run: a bar on a terminal, a line per block of cells elsewhere, failures alone if quiet."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

from basisbench.results.record import CellConfig
from basisbench.runs.cells import CONDITIONS

State = Literal["started", "kept", "finished", "failed"]


@dataclass(frozen=True)
class Event:
    """Something that happened to one cell.

    Attributes:
        state: started, kept from an earlier run, finished now, or failed.
        cell: the cell.
        cell_id: id of its record; empty where it is not known.
        message: why it failed; empty otherwise.
    """

    state: State
    cell: CellConfig
    cell_id: str = ""
    message: str = ""


def describe_cell(cell: CellConfig) -> str:
    """Name a cell in a few words, leaving out what is at its default."""
    words = [cell.task, cell.basis, cell.method]
    named = {
        "attribution_draw": "draw {}",
        "bos": "bos {}",
        "metric": "metric {}",
        "score_split": "scored on {}",
        "seed": "seed {}",
    }
    for field in (*CONDITIONS, "bos", "metric", "seed"):
        value = getattr(cell, field)
        if value != CellConfig.model_fields[field].default:
            words.append(named.get(field, "{}").format(value))
    return " ".join(words)


class Progress:
    """Shows how far a run is.

    On a terminal: cells done, the current cell, time left. Elsewhere: a plain line when a block of cells ends.
    """

    def __init__(self, total: int, blocks: int, *, shown: bool = True) -> None:
        """Start showing.

        Args:
            total: cells of the run.
            blocks: blocks of cells that share model, task and seed.
            shown: False shows nothing but failures.
        """
        self._stream = sys.stderr
        self._shown = shown
        self._blocks = blocks
        self._ended = 0
        self._reported: set[str] = set()
        self._bar: Any = None
        if shown and self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="cell", file=self._stream, dynamic_ncols=True, smoothing=0.1)

    def show(self, event: Event) -> None:
        """Take note of an event."""
        if event.state == "failed" and event.message not in self._reported:
            self._reported.add(event.message)  # a missing dictionary fails every method alike: one line is enough
            self.write(f"{describe_cell(event.cell)}: failed: {event.message}")
        if self._bar is None:
            return
        if event.state == "started":
            self._bar.set_postfix_str(describe_cell(event.cell), refresh=False)
        else:
            self._bar.update()

    def end_block(self, title: str, events: list[Event], started: float) -> None:
        """Say that a block of cells has ended.

        Args:
            title: names the block.
            events: what happened to its cells.
            started: `time.monotonic()` when it began.
        """
        self._ended += 1
        if not self._shown or self._bar is not None:
            return
        counts = {state: sum(event.state == state for event in events) for state in ("finished", "kept", "failed")}
        parts = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        seconds = time.monotonic() - started
        self.write(f"[{self._ended}/{self._blocks}] {title}: {parts or 'no cells'} in {seconds:.1f} s")

    def write(self, line: str) -> None:
        """Write one line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
