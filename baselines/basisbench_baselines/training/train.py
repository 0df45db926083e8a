"""Train dictionaries of all layers and kinds in one pass over the text.

1. A chunk of contexts runs through the model once; its activations are shuffled and cut into batches; every dictionary
   takes a step on each batch. Order and batches are a pure function of (seed, chunk).
2. `OUT/.training` holds the newest checkpoint, in a folder named by its chunk and batch that gets this name once it is
   whole: SAELens's trainers, and the constants of the activations. A training that is killed goes on from there, and
   ends with the same weights; one that is asked to end (Ctrl-C, SIGTERM) writes a checkpoint first, between two steps.
   A finished one removes the folder.
3. Weights are in `OUT/KIND/layer_N`, or `OUT/clt`; snapshots in `OUT/snapshots/TOKENS/KIND/layer_N`, each measured on
   held-out text. The card is written anew with each of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from basisbench.models.memory import trim_memory
from basisbench_baselines.training.activations import Recorder
from basisbench_baselines.training.card import dictionaries_page
from basisbench_baselines.training.checkpoint import read_json, replace_folder, write_json
from basisbench_baselines.training.cross_layer import CrossLayer
from basisbench_baselines.training.dictionary import Dictionary, InTraining, Step, place_all
from basisbench_baselines.training.progress import Bar, Progress
from basisbench_baselines.training.resumable import Resumable
from basisbench_baselines.training.scaling import Scaling
from basisbench_baselines.training.text import Text, seeded

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench_baselines.training.settings import Settings

WORK, SNAPSHOTS, END = ".training", "snapshots", "end"
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
    Training(model, text, settings, out, command, Progress(progress), checkpoint_seconds).finish()


class Training(Resumable):
    """One training: the dictionaries, and how far they are; arguments are those of `Resumable`."""

    settings: Settings
    work_folder, done, last = WORK, "trained", END

    def __init__(
        self,
        model: Model,
        text: Text,
        settings: Settings,
        out: Path,
        command: str = "",
        progress: Progress | None = None,
        checkpoint_seconds: float = 300.0,
    ) -> None:
        super().__init__(model, text, settings, out, command, progress, checkpoint_seconds)
        self.text = text.keep(self.work, self.progress)
        self.placed = place_all(model, settings)
        self.hooks = list(dict.fromkeys(hook for each in self.placed for hook in (each.read, each.write)))
        self.recorder = Recorder(model, self.hooks)
        self.dictionaries: list[InTraining] = []
        self.scales: dict[str, Scaling] = {}
        self._pool: ThreadPoolExecutor | None = None
        self.state |= {"chunk": 0, "batch": 0, "tokens": 0}

    def _advance(self, bar: Bar) -> None:
        for chunk in range(self.state["chunk"], self.settings.chunks):
            self.train_on(chunk, bar)
            self._write_snapshots()

    def _write_end(self) -> None:
        self._write(self.out, END, self._tokens(self.settings.chunks))

    def _tokens(self, chunks: int) -> int:
        """Return the tokens of the first chunks."""
        return self.settings.tokens_in(chunks * self.settings.chunk_contexts)

    def _tokens_done(self) -> int:
        chunk, batch = self.state["chunk"], self.state["batch"]
        first = self._tokens(chunk)
        return first + (self._tokens(chunk + 1) - first) * batch // self.settings.batches(chunk) if batch else first

    def train_on(self, chunk: int, bar: Bar) -> None:
        """Take the steps of a chunk that were not taken before."""
        activations = self.recorder.record(self.text.rows(self.settings.chunk(chunk)))
        if not self.dictionaries:
            self.scales = {hook: Scaling.of(x.float()) for hook, x in activations.items()}
            self._make()
        count = len(next(iter(activations.values())))
        order = torch.randperm(count, generator=seeded(self.settings.seed, 4, chunk))
        batches = order.tensor_split(self.settings.batches(chunk))
        for indices in batches[self.state["batch"] :]:
            before = self._tokens_done()
            with self.stopping.held():
                chosen = indices.to(self.model.device)
                batch = {hook: x[chosen] for hook, x in activations.items()}
                tell = self._step(batch)
                self.state["tokens"] += len(indices)
                self.state["batch"] += 1
                if self.state["batch"] == len(batches):
                    self.state |= {"chunk": chunk + 1, "batch": 0}
            if self.state["batch"] in (0, len(batches) // 2):
                bar.set_postfix_str(self._words([each() for each in tell]), refresh=False)
            bar.update(self._tokens_done() - before)
            self._checkpoint_if_due()
        trim_memory()  # of a chunk's many sizes of tensors, holes are left that the next chunk's do not fill

    def _step(self, batch: Mapping[str, Tensor]) -> list[Callable[[], Step]]:
        """Let every dictionary take a step.

        On processors each thread takes whole dictionaries: steps are rows of small operations, in which threads would
        wait for each other (two cores, SmolLM2-135M: two thirds of the time).
        """
        if self.model.device.type != "cpu":
            return [dictionary.step(batch) for dictionary in self.dictionaries]
        if self._pool is None:
            workers = min(torch.get_num_threads(), len(self.dictionaries))
            share = (torch.get_num_threads() // workers,)
            self._pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=share)
        return list(self._pool.map(lambda dictionary: dictionary.step(batch), self.dictionaries))

    def _words(self, steps: Sequence[Step]) -> str:
        """Return how steps went, in a few words."""
        loss, l0, fvu = (sum(getattr(step, name) for step in steps) / len(steps) for name in ("loss", "l0", "fvu"))
        dead = sum(int(dictionary.dead.sum()) for dictionary in self.dictionaries)
        return f"loss {loss:.3g}, L0 {l0:.1f}, FVU {fvu:.3f}, dead {dead}"

    def _make(self) -> None:
        narrow = self.model.dtype is torch.bfloat16
        alone = [each for each in self.placed if each.kind != "clt"]
        self.dictionaries = [
            Dictionary(each, self.scales[each.read], self.scales[each.write], self.settings, index, bfloat16=narrow)
            for index, each in enumerate(alone)
        ]
        if across := [each for each in self.placed if each.kind == "clt"]:
            self.dictionaries.append(CrossLayer(across, self.scales, self.settings, len(alone), bfloat16=narrow))

    def _write_snapshots(self) -> None:
        # At the end of a chunk.
        done = 0 if self.state["batch"] else self._tokens_done()
        for tokens in self.settings.snapshots:
            if tokens <= done and str(tokens) not in self.state["measured"]:
                with self.stopping.held():
                    self._write(self.out / SNAPSHOTS / str(tokens), str(tokens), done)

    def _write(self, folder: Path, name: str, tokens: int) -> None:
        """Write every dictionary as it is now, measure what was written on held-out text, and write the card."""
        self._take_time()
        held_out = self.recorder.record(self.text.rows(range(-self.settings.held_out_contexts, 0)))
        rows: dict[str, Mapping[str, float]] = {}
        for dictionary in self.dictionaries:
            replace_folder(folder / dictionary.name, partial(dictionary.save, model=self.model, settings=self.settings))
            rows |= dictionary.measure(self.model, self.settings, held_out)
        self._note(name, {"tokens": tokens, "dictionaries": rows})
        mean = sum(row["fvu"] for row in rows.values()) / len(rows)
        self.progress.line(f"{folder}: written after {tokens:,} tokens, FVU {mean:.3f} on held-out text (mean)")

    def _page(self, card: Mapping[str, Any]) -> str:
        return dictionaries_page(card)

    def _save(self) -> None:
        if not self.dictionaries:  # nothing was trained yet
            return
        folder = self.work / f"chunk_{self.state['chunk']}_{self.state['batch']}"

        def write(path: Path) -> None:
            path.mkdir(parents=True)
            for dictionary in self.dictionaries:
                dictionary.save_state(path)
            scales: dict[str, Tensor] = {hook: scale.mean.contiguous() for hook, scale in self.scales.items()}
            save_file(scales, path / _SCALES)
            numbers = {hook: scale.scale for hook, scale in self.scales.items()}
            write_json(path / _STATE, {**self.state, "scales": numbers})

        replace_folder(folder, write)
        for other in self._checkpoints()[:-1]:
            shutil.rmtree(other)

    def _checkpoints(self) -> Sequence[Path]:
        return sorted(self.work.glob("chunk_*"), key=lambda path: [int(part) for part in path.name.split("_")[1:]])

    def _restore(self) -> None:
        found = self._checkpoints()
        if not found:
            return
        state = read_json(found[-1] / _STATE)
        numbers: Mapping[str, float] = state.pop("scales")
        means = load_file(found[-1] / _SCALES, device=str(self.model.device))
        self.state |= state
        self.scales = {hook: Scaling(means[hook], numbers[hook]) for hook in self.hooks}
        self._make()
        for dictionary in self.dictionaries:
            dictionary.load_state(found[-1])
        self.progress.line(f"{self.out}: going on after {self._tokens_done():,} tokens")
