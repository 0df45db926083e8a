"""Only the columns of the vocabulary that a metric reads.

The metric of a group needs the logits of its answers and foils, a few of tens of thousands of words. Inside
`narrow_head` the unembedding computes these alone; everything before it is untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from basisbench.models.hooks import replaced_forward

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor, nn

    from basisbench.attribution.gradients import Batch


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
