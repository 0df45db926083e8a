"""TODO."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from basisbench.models.hooks import replaced_forward

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Batch:
    """The tensors of one aligned group.

    Attributes:
        clean: token ids of the clean prompts.
        counterfactual: token ids of the counterfactual prompts.
        answers: ids of the answer tokens.
        foils: ids of the foil tokens.
    """

    clean: Int[Tensor, "pair pos"]
    counterfactual: Int[Tensor, "pair pos"]
    answers: Int[Tensor, "pair answer"]
    foils: Int[Tensor, "pair foil"]

    def metric(self, logits: Float[Tensor, "pair vocab"]) -> Float[Tensor, " pair"]:
        """Return the metric of each pair."""
        return logit_difference(logits, self.answers, self.foils)

    def part(self, chosen: slice) -> Batch:
        """Return some of the pairs."""
        return Batch(*(part[chosen] for part in (self.clean, self.counterfactual, self.answers, self.foils)))

    def repeated(self, times: int) -> Batch:
        """Return the batch `times` times, copy after copy."""
        parts = (self.clean, self.counterfactual, self.answers, self.foils)
        return Batch(*(part.repeat(times, 1) for part in parts))


@dataclass(frozen=True, eq=False)
class Columns:
    """The words that a batch's metric reads.

    Attributes:
        words: their token ids, ascending.
        batch: the batch with answers and foils counted among `words`.
    """

    words: Int[Tensor, " column"]
    batch: Batch


def columns_of(batch: Batch) -> Columns:
    """Return the words that occur among a batch's answers and foils."""
    import torch

    words = torch.cat([batch.answers.flatten(), batch.foils.flatten()]).unique()
    return Columns(
        words,
        replace(
            batch,
            answers=torch.searchsorted(words, batch.answers.contiguous()),
            foils=torch.searchsorted(words, batch.foils.contiguous()),
        ),
    )


@contextmanager
def narrow_head(head: nn.Module, words: Int[Tensor, " column"]) -> Iterator[None]:
    """Let the unembedding give the logits of some words alone, in their order, inside the block.

    Args:
        head: the module that maps the last hidden state to logits; one with a weight row per word.
        words: token ids.
    """
    from torch.nn import functional

    parameters: Any = head
    weight = parameters.weight[words]
    offset = None if getattr(parameters, "bias", None) is None else parameters.bias[words]
    with replaced_forward(head, lambda hidden: functional.linear(hidden, weight, offset)):
        yield


def logit_difference(
    logits: Float[Tensor, "row vocab"],
    answers: Int[Tensor, "row answer"],
    foils: Int[Tensor, "row foil"],
) -> Float[Tensor, " row"]:
    """Return the metric of each row, in logits.

    Args:
        logits: logits at the last position, in at least float32.
        answers: ids of the tokens that the clean prompt calls for.
        foils: ids of the tokens that the counterfactual prompt calls for.
    """
    return logits.gather(1, answers).mean(1) - logits.gather(1, foils).mean(1)
