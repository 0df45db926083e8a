"""Progress of a build: bars on a terminal, one log line a minute elsewhere, nothing when switched off."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Bar:
    """Counts the work done in one phase and shows it."""

    def __init__(self, name: str, total: int, *, start: int, enabled: bool, every: float) -> None:
        self._name, self._total, self._done, self._start = name, total, start, start
        self._enabled, self._every = enabled, every
        self._began = self._said = time.monotonic()
        self._note = ""
        terminal = enabled and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, desc=name, leave=True) if terminal else None

    def advance(self, amount: int = 1, note: str | None = None) -> None:
        """Count work done; `note` is a short text shown beside the count."""
        self._done += amount
        self._note = note if note is not None else self._note
        if self._bar is not None:
            if note is not None:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif self._enabled and time.monotonic() - self._said >= self._every:
            self.say()

    def say(self) -> None:
        """Write one line about the state of the phase."""
        self._said = time.monotonic()
        spent = self._said - self._began
        left = spent * (self._total - self._done) / max(self._done - self._start, 1)
        line = f"{self._name}: {self._done}/{self._total}, {spent:.0f} s, {left:.0f} s left"
        print(f"{line}; {self._note}" if self._note else line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
        elif self._enabled:
            self.say()


class Progress:
    """Where a build reports to.

    Args:
        enabled: False keeps silent.
        every: seconds between two log lines when the output is not a terminal.
    """

    def __init__(self, enabled: bool = True, every: float = 60.0) -> None:
        self._enabled, self._every = enabled, every

    @contextmanager
    def phase(self, name: str, total: int, start: int = 0) -> Iterator[Bar]:
        """Show a phase of `total` units of work, `start` of them already done."""
        bar = Bar(name, total, start=start, enabled=self._enabled, every=self._every)
        try:
            yield bar
        finally:
            bar.close()

    def tell(self, text: str) -> None:
        """Write one line, without tearing a bar."""
        if self._enabled:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()
