"""The pairs of one aligned group as tensors, and the metric on them.

The metric m of a pair is the mean logit of its answers minus the mean logit of its foils, at the last position
(docs/numbers.md). It reads few words, so that a pass which asks for nothing else need not compute other logits.
"""

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

    def metric(self, logits: Float[Tensor, "*b pair vocab"]) -> Float[Tensor, "*b pair"]:
        """Return the metric of each pair, in logits."""
        answers, foils = (ids.expand(*logits.shape[:-1], -1) for ids in (self.answers, self.foils))
        return logits.gather(-1, answers).mean(-1) - logits.gather(-1, foils).mean(-1)

    def pairs(self, chosen: slice) -> Batch:
        """Return some of the pairs."""
        return Batch(*(tensor[chosen] for tensor in (self.clean, self.counterfactual, self.answers, self.foils)))

    def narrowed(self) -> tuple[Int[Tensor, " word"], Batch]:
        """Return the words that occur among answers and foils, ascending, and the batch that counts among these."""
        import torch

        words = torch.cat([self.answers.flatten(), self.foils.flatten()]).unique()
        answers, foils = (torch.searchsorted(words, ids.contiguous()) for ids in (self.answers, self.foils))
        return words, replace(self, answers=answers, foils=foils)


@contextmanager
def answer_logits_only(head: nn.Module, batch: Batch) -> Iterator[Batch]:
    """Let the unembedding give the logits of a batch's answers and foils alone inside the block.

    Args:
        head: the module that maps the last hidden state to logits; one with a weight row per word.
        batch: the batch.

    Yields:
        The batch that reads these logits.
    """
    from torch.nn import functional

    words, narrowed = batch.narrowed()
    parameters: Any = head
    weight = parameters.weight[words]
    offset = None if getattr(parameters, "bias", None) is None else parameters.bias[words]
    with replaced_forward(head, lambda hidden: functional.linear(hidden, weight, offset)):
        yield narrowed
