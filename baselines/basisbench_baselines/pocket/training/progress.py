"""Show the progress of a build on standard error: tqdm's bar, renewed once a minute where that is no terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from typing import NoReturn


@dataclass(frozen=True)
class Progress:
    """Where a build reports to.

    Attributes:
        enabled: False keeps silent.
    """

    enabled: bool = True

    def bar(self, name: str, total: int, done: int = 0) -> tqdm[NoReturn]:
        """Return the bar of a phase of `total` units of work, `done` of them from an earlier run."""
        seconds = 0.1 if sys.stderr.isatty() else 60.0
        return tqdm(
            desc=name,
            total=total,
            initial=done,
            disable=not self.enabled,
            mininterval=seconds,
            maxinterval=max(10.0, seconds),
        )

    def line(self, text: str) -> None:
        """Write one line, without tearing a bar."""
        if self.enabled:
            tqdm.write(text, file=sys.stderr)
