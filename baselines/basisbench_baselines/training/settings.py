"""What a training of dictionaries, or a tuning of a model, is made of: everything that shapes the weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from basisbench.errors import BasisBenchError
from basisbench.models.sites import SiteKind

Kind = Literal["sae", "transcoder", "skip-transcoder", "clt"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How much text is read, and in what pieces.

    Attributes:
        tokens: tokens of text.
        snapshots: counts of tokens after which what is trained is written too.
        seed: everything random is drawn from it.
        context: tokens of a context.
        batch_tokens: tokens of a step, about.
        held_out_contexts: contexts to measure on.
    """

    tokens: int
    snapshots: Sequence[int] = ()
    seed: int = 0
    context: int = 128
    batch_tokens: int = 512
    held_out_contexts: int = 64

    @property
    def contexts(self) -> int:
        """Contexts of text to train on."""
        return math.ceil(self.tokens / self.context)

    def tokens_in(self, contexts: int) -> int:
        """Return the tokens of the first contexts of text, of as many as there are to train on."""
        return min(contexts, self.contexts) * self.context

    def fingerprint(self, model: str, text: str) -> str:
        """Return a digest of everything that shapes the weights.

        Args:
            model: digest of the model's weights.
            text: digest of the text.
        """
        return hashlib.sha256(json.dumps((model, text, asdict(self)), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Settings(Reading):
    """A training of dictionaries.

    Attributes:
        kinds: which dictionaries are trained, in one pass over the text.
        site: where they write; an autoencoder reads there too, transcoders read the MLP's input.
        layers: in which layers.
        width: units; "4x" is four times the width of what is read.
        k: units that are active per token, on average over a batch.
        chunk_contexts: contexts whose activations are shuffled together.
        learning_rate: its peak: linear warm-up over 100 steps or a tenth, linear decay over the last fifth.
        dead_after_steps: a unit that was silent for so many steps is dead, and gets the auxiliary loss.
    """

    kinds: Sequence[Kind]
    site: SiteKind
    layers: Sequence[int]
    width: str
    k: int
    chunk_contexts: int = 128
    learning_rate: float = 1e-3
    dead_after_steps: int = 400

    @property
    def chunks(self) -> int:
        """Chunks of contexts; all but the last have `chunk_contexts`."""
        return math.ceil(self.contexts / self.chunk_contexts)

    def chunk(self, index: int) -> range:
        """Return the contexts of a chunk."""
        return range(index * self.chunk_contexts, min((index + 1) * self.chunk_contexts, self.contexts))

    def batches(self, index: int) -> int:
        """Return how many steps a chunk gives."""
        return max(1, round(len(self.chunk(index)) * self.context / self.batch_tokens))

    @property
    def steps(self) -> int:
        """Steps in all."""
        return sum(self.batches(index) for index in range(self.chunks))

    def units(self, d_read: int) -> int:
        """Return the number of units for a site of some width.

        Raises:
            BasisBenchError: `k` of them could not be active.
        """
        units = round(float(self.width[:-1]) * d_read) if self.width.endswith("x") else int(self.width)
        if self.k > units:
            raise BasisBenchError(
                f"--k {self.k} is more than the {units} units of --width {self.width}; give a smaller k"
            )
        return units


@dataclass(frozen=True, kw_only=True)
class TuningSettings(Reading):
    """A fine-tuning of a language model.

    Attributes:
        learning_rate: of AdamW after a linear warm-up. It stays: a snapshot is what a shorter tuning would have left.
        warmup_steps: steps of the warm-up.
        gradient_norm: gradients are clipped to this norm.
    """

    learning_rate: float = 5e-5
    warmup_steps: int = 20
    gradient_norm: float = 1.0

    @property
    def step_contexts(self) -> int:
        """Contexts of a step; the last step may have fewer."""
        return max(1, round(self.batch_tokens / self.context))

    @property
    def steps(self) -> int:
        """Steps in all."""
        return math.ceil(self.contexts / self.step_contexts)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps)
