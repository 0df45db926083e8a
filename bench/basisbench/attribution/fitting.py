"""What a basis is fitted on, or its fit is measured on: activations of a task's attribution pairs, or of texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from basisbench.attribution.own_pass import activation_inside
from basisbench.types import Side

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.attribution.context import GroupContext
    from basisbench.protocols import Basis
    from basisbench.types import Pairs

SIDES: tuple[Side, Side] = ("clean", "counterfactual")


def weights_digest(weights: Iterable[Tensor]) -> str:
    """Return the SHA-256 over shapes, types and bytes of a basis's weights, in order: its fingerprint."""
    import torch

    digest = hashlib.sha256()
    for tensor in weights:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def first_measured(pairs: Pairs, first: int) -> int:
    """Return the first position of prompts at which a dictionary's fit is measured.

    Behind a beginning-of-sequence token, whose activation is the same in every prompt and often hundreds of times
    larger than any other, and behind what the dictionary was not trained on; the last position at the latest.

    Args:
        pairs: the prompts.
        first: the position from which on the dictionary was trained (`Training.first_position`).
    """
    return min(max(pairs.first_position, first), pairs.length - 1)


class TaskActivations:
    """Activations of a task's attribution pairs, or of a corpus, for a basis that is fitted (`protocols.Activations`).

    Args:
        groups: the aligned groups of the attribution split.

    Attributes:
        corpus_passes: forward passes over texts so far; those over the task's pairs are shared with every cell.
    """

    def __init__(self, groups: Sequence[GroupContext]) -> None:
        self._groups = groups
        self.corpus_passes = 0.0

    def __call__(
        self, hook: str, corpus: Sequence[str] | None = None, *, first: int = 0
    ) -> Iterator[Float[Tensor, "row d"]]:
        """Yield rows, a batch per group (or part of it) and side, or per text."""
        if corpus is not None:
            model = self._groups[0].model
            for text in corpus:
                ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
                self.corpus_passes += 1
                yield activation_inside(model, model.tokens(ids), hook)[0, first:]
            return
        for group in self._groups:
            start = first_measured(group.pairs, first)
            for part in group.with_hooks([hook]):
                for side in SIDES:
                    yield part.activation(hook, side)[:, start:].flatten(0, 1)


def together(groups: Sequence[GroupContext], basis: Basis) -> Iterator[list[GroupContext]]:
    """Yield contexts that are in memory at the same time: all groups where they are whole, else part by part."""
    if not any(group.in_parts for group in groups):
        yield list(groups)
        return
    for group in groups:
        for part in group.parts(basis):
            yield [part]
