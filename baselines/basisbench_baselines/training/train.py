"""Train dictionaries of all layers and kinds in one pass over the text.

1. A chunk of contexts runs through the model once; its activations are shuffled and cut into batches; every dictionary
   takes a step on each batch. Order and batches are a pure function of (seed, chunk).
2. `OUT/.training` holds the newest checkpoint, in a folder named by its chunk that gets this name once it is whole:
   SAELens's trainers, and the constants of the activations. A training that is killed goes on from there, and ends
   with the same weights; a finished one removes the folder.
3. Weights are in `OUT/KIND/layer_N`, snapshots in `OUT/snapshots/TOKENS/KIND/layer_N`, each measured on held-out text.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from basisbench.errors import BasisBenchError, whole_message
from basisbench_baselines.pocket.training.checkpoint import read_json, write_json
from basisbench_baselines.pocket.training.dictionary_trainer import Scaling
from basisbench_baselines.pocket.training.progress import Progress
from basisbench_baselines.training.activations import record
from basisbench_baselines.training.card import CARD, write_card
from basisbench_baselines.training.dictionary import Dictionary, measure, place_all
from basisbench_baselines.training.text import Text, seeded

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench_baselines.training.settings import Settings

WORK, SNAPSHOTS = ".training", "snapshots"
_SCALES, _STATE = "scales.safetensors", "state.json"


def train(
    model: Model,
    text: Text,
    settings: Settings,
    out: Path,
    *,
    command: str = "",
    progress: bool = True,
    checkpoint_seconds: float = 300.0,
) -> None:
    """Train dictionaries into a folder, going on from a checkpoint in it.

    Args:
        model: the model.
        text: what it reads.
        settings: everything that shapes the weights.
        out: the folder.
        command: what was typed, for the card.
        progress: whether to show progress on standard error.
        checkpoint_seconds: time between two checkpoints.

    Raises:
        BasisBenchError: the folder holds something else, or another training.
    """
    training = _Training(model, text, settings, out, command, Progress(progress))
    if training.is_done():
        training.progress.line(f"{out}: already trained with these settings; nothing to do")
        return
    training.run(checkpoint_seconds)


class _Training:
    """One training: the dictionaries, and how far they are."""

    def __init__(
        self, model: Model, text: Text, settings: Settings, out: Path, command: str, progress: Progress
    ) -> None:
        self.model, self.text, self.settings, self.out = model, text, settings, out
        self.command, self.progress = command, progress
        self.work = out / WORK
        self.unfinished = self.work / "fingerprint.json"
        self.fingerprint = settings.fingerprint(model.weights_hash, text.digest)
        self.placed = place_all(model, settings)
        self.hooks = list(dict.fromkeys(hook for each in self.placed for hook in (each.read, each.write)))
        self.dictionaries: list[Dictionary] = []
        self.scales: dict[str, Scaling] = {}
        self.state: dict[str, Any] = {"chunk": 0, "seconds": 0.0, "runs": 0, "tokens": 0, "measured": {}}

    def is_done(self) -> bool:
        """Tell whether the folder holds this training, finished.

        Raises:
            BasisBenchError: it holds something else, or another training.
        """
        card = self.out / CARD
        if self.out.exists() and not self.out.is_dir():
            raise BasisBenchError(f"--out {self.out}: is a file; choose a folder")
        for path in (self.unfinished, card):
            if path.exists():
                if read_json(path).get("fingerprint") != self.fingerprint:
                    raise BasisBenchError(
                        f"--out {self.out}: holds another training (other text, model or settings); choose another "
                        "folder, or give what it was begun with"
                    )
                return path == card
        if self.out.exists() and (strange := sorted(path.name for path in self.out.iterdir())):
            raise BasisBenchError(
                f"--out {self.out}: holds '{strange[0]}', which no training makes; choose an empty folder"
            )
        return False

    def run(self, checkpoint_seconds: float) -> None:
        """Do what is left to do."""
        write_json(self.unfinished, {"fingerprint": self.fingerprint})
        self._restore()
        self.state["runs"] += 1
        began = saved = time.monotonic()
        done = min(self.state["chunk"] * self.settings.chunk_contexts, self.settings.contexts) * self.settings.context
        with self.progress.bar("tokens", self.settings.contexts * self.settings.context, done) as bar:
            for chunk in range(self.state["chunk"], self.settings.chunks):
                note = self._train_on(chunk)
                self.state["chunk"] = chunk + 1
                bar.set_postfix_str(note, refresh=False)
                bar.update(len(self.settings.chunk(chunk)) * self.settings.context)
                done = self.settings.chunk(chunk).stop * self.settings.context
                now = time.monotonic()
                self.state["seconds"] += now - began
                began = now
                for tokens in self.settings.snapshots:
                    if tokens <= done and str(tokens) not in self.state["measured"]:
                        self._write(self.out / SNAPSHOTS / str(tokens), str(tokens), done)
                if now - saved >= checkpoint_seconds:
                    self._checkpoint()
                    saved = now
        self._write(self.out, "end", self.settings.contexts * self.settings.context)
        write_card(
            self.out,
            fingerprint=self.fingerprint,
            command=self.command,
            model=self.model,
            text=self.text,
            settings=self.settings,
            state=self.state,
        )
        shutil.rmtree(self.work)

    def _train_on(self, chunk: int) -> str:
        """Take the steps of a chunk, and return how the last one went, in a few words."""
        activations = record(self.model, self.hooks, self.text.rows(self.settings.chunk(chunk)))
        if not self.dictionaries:
            self.scales = {hook: Scaling.of(x.float()) for hook, x in activations.items()}
            self._make()
        count = len(next(iter(activations.values())))
        order = torch.randperm(count, generator=seeded(self.settings.seed, 4, chunk))
        last: list[tuple[float, float, float]] = []
        for indices in order.tensor_split(self.settings.batches(chunk)):
            chosen = indices.to(self.model.device)
            batch = {hook: x[chosen] for hook, x in activations.items()}
            outputs = [dictionary.step(batch) for dictionary in self.dictionaries]
            self.state["tokens"] += len(indices)
        for dictionary, output in zip(self.dictionaries, outputs, strict=True):
            unexplained = float(output.losses["mse_loss"].detach()) / len(dictionary.write.mean)
            active = float((output.feature_acts > 0).sum()) / len(output.feature_acts)
            last.append((float(output.loss.detach()), active, unexplained))
        loss, l0, fvu = (sum(values) / len(last) for values in zip(*last, strict=True))
        dead = sum(dictionary.dead for dictionary in self.dictionaries)
        return f"loss {loss:.3g}, L0 {l0:.1f}, FVU {fvu:.3f}, dead {dead}"

    def _make(self) -> None:
        narrow = self.model.dtype is torch.bfloat16
        self.dictionaries = [
            Dictionary(each, self.scales[each.read], self.scales[each.write], self.settings, index, bfloat16=narrow)
            for index, each in enumerate(self.placed)
        ]

    def _write(self, folder: Path, name: str, tokens: int) -> None:
        """Write every dictionary as it is now, and measure what was written on held-out text."""
        held_out = record(self.model, self.hooks, self.text.rows(range(-self.settings.held_out_contexts, 0)))
        rows: dict[str, Mapping[str, float]] = {}
        for dictionary in self.dictionaries:
            placed = dictionary.placed
            _replace(folder / placed.name, partial(dictionary.save, model=self.model, settings=self.settings))
            measured = measure(
                dictionary.module(self.model, self.settings), held_out[placed.read], held_out[placed.write]
            )
            rows[placed.name] = {**measured, "dead": dictionary.dead}
        self.state["measured"][name] = {"tokens": tokens, "dictionaries": rows}
        mean = sum(row["fvu"] for row in rows.values()) / len(rows)
        self.progress.line(f"{folder}: written after {tokens:,} tokens, FVU {mean:.3f} on held-out text (mean)")

    def _checkpoint(self) -> None:
        folder = self.work / f"chunk_{self.state['chunk']}"

        def write(path: Path) -> None:
            path.mkdir(parents=True)
            for dictionary in self.dictionaries:
                dictionary.save_state(path)
            scales: dict[str, Tensor] = {hook: scale.mean.contiguous() for hook, scale in self.scales.items()}
            save_file(scales, path / _SCALES)
            numbers = {hook: scale.scale for hook, scale in self.scales.items()}
            write_json(path / _STATE, {**self.state, "scales": numbers})

        _replace(folder, write)
        for other in self._checkpoints()[:-1]:
            shutil.rmtree(other)

    def _checkpoints(self) -> Sequence[Path]:
        return sorted(self.work.glob("chunk_*"), key=lambda path: int(path.name.removeprefix("chunk_")))

    def _restore(self) -> None:
        found = self._checkpoints()
        if not found:
            return
        state = read_json(found[-1] / _STATE)
        numbers: Mapping[str, float] = state.pop("scales")
        means = load_file(found[-1] / _SCALES, device=str(self.model.device))
        self.state = state
        self.scales = {hook: Scaling(means[hook], numbers[hook]) for hook in self.hooks}
        self._make()
        for dictionary in self.dictionaries:
            dictionary.load_state(found[-1])
        self.progress.line(f"{self.out}: going on after chunk {state['chunk']} of {self.settings.chunks}")


def _replace(folder: Path, write: Callable[[Path], object]) -> None:
    """Write a folder beside its place, and move it there once it is whole."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(temporary)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch tells of a full disk by a RuntimeError
        raise BasisBenchError(f"{folder}: cannot be written: {whole_message(error)}") from error
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
