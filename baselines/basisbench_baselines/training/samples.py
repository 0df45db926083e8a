"""The model's own text: it continues its BOS (or EOS) token, at temperature 1.

1. Contexts are drawn in parts of many at once, with a key-value cache; a part is a function of the seed and its place.
2. A part that was drawn is kept in the training's folder: a training that goes on reads it.
3. Samples beside a text are spread evenly at random among its contexts, and drawn as they are reached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from basisbench.errors import BasisBenchError
from basisbench_baselines.training.checkpoint import replace_file
from basisbench_baselines.training.progress import Progress
from basisbench_baselines.training.text import Packed, leading_token, seeded

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench_baselines.training.settings import Settings

_ROWS_AT_ONCE, _CACHE_BYTES = 256, 2**31
"""Contexts that are drawn at once, fewer where their keys and values would take more than this in float32."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The model's own text.

    Attributes:
        model: the model.
        settings: how long contexts are, and the seed.
        count: how many contexts there are; the last ones are held out where a negative place asks for them.
        folder: where parts that were drawn are kept; None for nowhere.
        progress: where to report.
    """

    model: Model
    settings: Settings
    count: int
    folder: Path | None = None
    progress: Progress = field(default_factory=lambda: Progress(enabled=False))

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return f"samples of {self.model.name}"

    @property
    def digest(self) -> str:
        """The seed says it all, beside the model."""
        return f"samples {self.settings.seed}, {self._at_once} at once"

    @cached_property
    def _at_once(self) -> int:
        shape = self.model.bridge.cfg
        heads = getattr(shape, "n_key_value_heads", None) or shape.n_heads
        row: int = 2 * self.model.layers * heads * shape.d_head * self.settings.context * 4
        return max(1, min(_ROWS_AT_ONCE, _CACHE_BYTES // row))

    def keep(self, folder: Path, progress: Progress) -> Samples:
        """Return the same samples, kept in a folder."""
        return replace(self, folder=folder, progress=progress)

    def rows(self, places: Sequence[int]) -> Int[Tensor, "row pos"]:
        """Return the contexts at some places, drawn if they were not before."""
        where = [divmod(place % self.count, self._at_once) for place in places]
        parts = {part: self._part(part) for part in sorted({part for part, _ in where})}
        return torch.stack([parts[part][row] for part, row in where]).long()

    def _part(self, part: int) -> Int[Tensor, "row pos"]:
        """Return a part, from its file if there is one."""
        file = None if self.folder is None else self.folder / f"samples_{part}.safetensors"
        if file is not None and file.exists():
            try:
                return load_file(file)["tokens"]
            except (OSError, KeyError, SafetensorError):  # drawn again
                pass
        rows = min(self._at_once, self.count - part * self._at_once)
        drawn = self._draw(rows, seeded(self.settings.seed, 2, part))
        if file is not None:
            replace_file(file, lambda path: save_file({"tokens": drawn.int()}, path))
        return drawn

    @torch.no_grad()
    def _draw(self, rows: int, generator: torch.Generator) -> Int[Tensor, "row pos"]:
        tokenizer = self.model.tokenizer
        lead = leading_token(tokenizer)
        start = next(
            (each for each in (lead, tokenizer.bos_token_id, tokenizer.eos_token_id) if each is not None), None
        )
        if start is None:
            raise BasisBenchError(
                f"--samples: the tokenizer of '{self.model.name}' has neither BOS nor EOS to begin with"
            )
        step = torch.full((rows, 1), start)
        drawn, past = [step], None
        steps = self.settings.context - (lead is not None)
        with self.progress.bar("tokens of samples drawn", steps * rows) as bar:
            for _ in range(steps):
                found = self.model.fast_body(
                    input_ids=step.to(self.model.device), past_key_values=past, use_cache=True, logits_to_keep=1
                )
                past = found.past_key_values
                # One draw a row and a search: `multinomial` draws a number for every token of the vocabulary.
                reached = found.logits[:, -1].float().softmax(-1).cumsum(-1, dtype=torch.float64).cpu()
                drawn_at = torch.rand(rows, 1, dtype=torch.float64, generator=generator) * reached[:, -1:]
                step = torch.searchsorted(reached, drawn_at, right=True).clamp_max(reached.shape[1] - 1)
                drawn.append(step)
                bar.update(rows)
        return torch.cat(drawn[lead is None :], dim=1)


@dataclass(frozen=True, eq=False)
class Mixed:
    """A text with samples among its contexts.

    Attributes:
        text: the text; the held-out contexts are its own.
        samples: the samples.
        contexts: how many contexts of them.
    """

    text: Packed
    samples: Samples
    contexts: int

    @cached_property
    def _drawn(self) -> Bool[Tensor, " row"]:
        """Which contexts to train on are samples."""
        count = len(self.text.contexts) - self.text.held_out + self.contexts
        order = torch.randperm(count, generator=seeded(self.samples.settings.seed, 5))
        return order < self.contexts

    @cached_property
    def _before(self) -> list[int]:
        """Samples up to each context, itself included."""
        counts: list[int] = self._drawn.cumsum(0).tolist()
        return counts

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return f"{self.text.source} and {self.samples.source} ({self.contexts} of {len(self._drawn)} contexts)"

    @property
    def digest(self) -> str:
        """What the contexts depend on, as a digest."""
        return hashlib.sha256(f"{self.text.digest} {self.samples.digest} {self.contexts}".encode()).hexdigest()

    def keep(self, folder: Path, progress: Progress) -> Mixed:
        """Return the same text, its samples kept in a folder."""
        return replace(self, samples=self.samples.keep(folder, progress))

    def rows(self, places: Sequence[int]) -> Int[Tensor, "row pos"]:
        """Return the contexts at some places."""
        before = self._before
        drawn = [place for place in places if place >= 0 and self._drawn[place]]
        found = (
            dict(zip(drawn, self.samples.rows([before[place] - 1 for place in drawn]), strict=True)) if drawn else {}
        )
        rest = [place for place in places if place not in found]
        own = [place - (before[place] if place >= 0 else 0) for place in rest]
        found |= dict(zip(rest, self.text.rows(own), strict=True)) if rest else {}
        return torch.stack([found[place] for place in places])
