"""Show the progress of a training on standard error: a bar on a terminal, elsewhere a plain line a minute."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tqdm import tqdm

if TYPE_CHECKING:
    from typing import Self

_SECONDS = 60.0


class Bar(Protocol):
    """How far some work is; a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> object: ...

    def update(self, n: int = 1) -> object:
        """Add units of work that are done."""

    def set_postfix_str(self, s: str, refresh: bool = True) -> object:
        """Say how it goes, in a few words, with what is shown next."""


@dataclass
class _Lines:
    """A bar where there is no terminal: a line now and then, which a file keeps.

    Attributes:
        progress: where it is said.
        name: of the work.
        total: units of work; None where nobody knows.
        first: units that were done before.
        done: units that are done.
        began: when.
        note: how it goes.
    """

    progress: Progress
    name: str
    total: int | None
    first: int
    done: int
    began: float
    note: str = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        """Add units of work, and say so when the last line is a minute old."""
        self.done += n
        if self.progress.is_due():
            self.progress.line(self.text())

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:  # noqa: ARG002 -- tqdm's
        """Take a note."""
        self.note = s

    def text(self) -> str:
        """Return how far it is, and how long the rest takes at the speed of this run."""
        gone = time.monotonic() - self.began
        parts = [f"{self.name}: {self.done:,}" + (f" of {self.total:,}" if self.total else "")]
        parts.append(f"{tqdm.format_interval(gone)} gone")
        if self.total and self.done > self.first:
            left = gone * (self.total - self.done) / (self.done - self.first)
            parts.append(f"{tqdm.format_interval(max(left, 0.0))} left")
        return ", ".join([*parts, *([self.note] if self.note else [])])


@dataclass
class Progress:
    """Where a training reports to.

    Attributes:
        enabled: False keeps silent.
        said: when something was said last.
    """

    enabled: bool = True
    said: float = field(default_factory=time.monotonic)

    def bar(self, name: str, total: int | None, done: int = 0) -> Bar:
        """Return the bar of a phase of `total` units of work, `done` of them from an earlier run."""
        if self.enabled and not sys.stderr.isatty():
            return _Lines(self, name, total, done, done, time.monotonic())
        bar: Bar = tqdm(desc=name, total=total, initial=done, disable=not self.enabled, leave=None, unit_scale=True)
        return bar

    def is_due(self) -> bool:
        """Tell whether nothing was said for a minute."""
        return time.monotonic() - self.said >= _SECONDS

    def line(self, text: str) -> None:
        """Write one line, without tearing a bar."""
        if self.enabled:
            self.said = time.monotonic()
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()
