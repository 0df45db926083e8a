"""Work in a folder that goes on after a kill: what a training of dictionaries and a tuning of a model have in common.

`OUT/WORK` says what was begun, and holds the newest checkpoint. Work that is killed goes on from there; one that is
asked to end (Ctrl-C, SIGTERM) writes a checkpoint first. The folder goes when all is done.
"""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from basisbench_baselines.training.card import CARD, write_card
from basisbench_baselines.training.checkpoint import is_finished, write_json
from basisbench_baselines.training.progress import Progress
from basisbench_baselines.training.stopping import Stopping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from basisbench.models.model import Model
    from basisbench_baselines.training.progress import Bar
    from basisbench_baselines.training.settings import Reading
    from basisbench_baselines.training.text import Text


class Resumable(ABC):
    """Work that reads text with a model, and how far it is.

    Args:
        model: the model.
        text: what it reads.
        settings: everything that shapes the weights.
        out: the folder.
        command: what was typed, for the card.
        progress: where to report; None keeps silent.
        checkpoint_seconds: time between two checkpoints.
    """

    work_folder: ClassVar[str]
    done: ClassVar[str]
    """What was done to the model, for a line that says that nothing is left to do."""

    def __init__(
        self,
        model: Model,
        text: Text,
        settings: Reading,
        out: Path,
        command: str = "",
        progress: Progress | None = None,
        checkpoint_seconds: float = 300.0,
    ) -> None:
        self.model, self.text, self.settings, self.out = model, text, settings, out
        self.command, self.checkpoint_seconds = command, checkpoint_seconds
        self.progress = progress or Progress(enabled=False)
        self.work = out / self.work_folder
        self.unfinished = self.work / "fingerprint.json"
        self.fingerprint = settings.fingerprint(model.weights_hash, text.digest)
        self.stopping = Stopping()
        self.began = self.saved = time.monotonic()
        self.state: dict[str, Any] = {"seconds": 0.0, "runs": 0, "measured": {}}

    @property
    @abstractmethod
    def last(self) -> str:
        """What is measured last of all."""

    def finish(self) -> None:
        """Do all of it, or what is left of it.

        Raises:
            BasisBenchError: the folder holds something else, or other work.
        """
        if is_finished(self.out, (self.unfinished, self.out / CARD), self.fingerprint, self.last):
            self.progress.line(f"{self.out}: already {self.done} with these settings; nothing to do")
        else:
            self.run()

    def run(self) -> None:
        """Do what is left to do."""
        write_json(self.unfinished, {"fingerprint": self.fingerprint})
        self._restore()
        self.state["runs"] += 1
        with self.stopping.watched():
            try:
                self._write_snapshots()
                all_tokens = self.settings.tokens_in(self.settings.contexts)
                with self.progress.bar("tokens", all_tokens, self._tokens_done()) as bar:
                    self._advance(bar)
            except KeyboardInterrupt:
                self._checkpoint()
                raise
            with self.stopping.held():
                self._write_end()
                shutil.rmtree(self.work)

    @abstractmethod
    def _tokens_done(self) -> int:
        """Return the tokens of text that are done."""

    @abstractmethod
    def _advance(self, bar: Bar) -> None:
        """Take the steps that are left."""

    @abstractmethod
    def _write_snapshots(self) -> None:
        """Write the snapshots that are due and were not written."""

    @abstractmethod
    def _write_end(self) -> None:
        """Write what is written after the last step alone."""

    @abstractmethod
    def _save(self) -> None:
        """Write a checkpoint."""

    @abstractmethod
    def _restore(self) -> None:
        """Go back to the newest checkpoint, if there is one."""

    def _checkpoint(self) -> None:
        self._take_time()
        with self.stopping.held():
            self._save()
        self.saved = time.monotonic()

    def _checkpoint_if_due(self) -> None:
        if time.monotonic() - self.saved >= self.checkpoint_seconds:
            self._checkpoint()

    def _take_time(self) -> None:
        now = time.monotonic()
        self.state["seconds"] += now - self.began
        self.began = now

    def _note(self, name: str, measured: Mapping[str, Any]) -> None:
        """Keep what was measured, and write the card anew."""
        self.state["measured"][name] = measured
        write_card(
            self.out,
            self._page,
            fingerprint=self.fingerprint,
            command=self.command,
            model=self.model,
            text=self.text,
            settings=self.settings,
            state=self.state,
        )

    @abstractmethod
    def _page(self, card: Mapping[str, Any]) -> str:
        """Return the card as Markdown."""
