"""Let a training end well when it is asked to: by Ctrl-C, or by SIGTERM as a batch system or a shutdown sends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopping:
    """While it is entered, both signals raise KeyboardInterrupt, in a held block only when the block is over.

    Outside the main thread, which alone gets signals, it does nothing.
    """

    def __init__(self) -> None:
        self._held = self._asked = False

    @contextmanager
    def watched(self) -> Iterator[Stopping]:
        """Take both signals until the block is over."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a block end first."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._asked:
            self._asked = False
            raise KeyboardInterrupt

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        if not self._held:
            raise KeyboardInterrupt
        self._asked = True
