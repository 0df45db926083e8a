"""The pairs of one aligned group as tensors, and the metric on them.

The metric m of a pair is the mean logit of its answers minus the mean logit of its foils, at the last position
(docs/numbers.md). It reads few words, so that a pass which asks for nothing else need not compute other logits.

Where answers have several tokens, it is the summed log-probability of the answer minus that of the foil, each token
after the prompt and the tokens before it. Every pair has two rows then: the prompt followed by the answer, and by the
foil. A row's metric is twice its log-probability, negative for the foil, so that means over rows are means over pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from basisbench.models.batching import BUDGETS
from basisbench.models.hooks import replaced_forward
from basisbench.models.model import at_least_float32

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from basisbench.models.model import Model
    from basisbench.types import Pairs


@dataclass(frozen=True, eq=False)
class Batch:
    """The tensors of one aligned group.

    Attributes:
        clean: token ids of the clean prompts.
        counterfactual: token ids of the counterfactual prompts.
        answers: ids of the answer tokens.
        foils: ids of the foil tokens.
        sign: None for the metric in logits; else 2 for rows that go on with the answer, which come first, and -2 for
            those that go on with the foil. `answers` are the tokens that a row is scored on, `foils` those of the
            pair's other row.
    """

    clean: Int[Tensor, "pair pos"]
    counterfactual: Int[Tensor, "pair pos"]
    answers: Int[Tensor, "pair answer"]
    foils: Int[Tensor, "pair foil"]
    sign: Float[Tensor, " pair"] | None = None

    @classmethod
    def of(cls, model: Model, pairs: Pairs) -> Batch:
        """Return the tensors of an aligned group, on the model's device."""
        import torch

        clean, counterfactual, answers, foils = map(
            model.tokens, (pairs.clean, pairs.counterfactual, pairs.answers, pairs.foils)
        )
        if pairs.metric == "logit":
            return cls(clean, counterfactual, answers, foils)
        more = answers.shape[1] - 1

        def rows(prompts: Tensor) -> Tensor:
            """Prompts with the answer behind them come first; the foil takes its place in the others."""
            return torch.cat([prompts, torch.cat([prompts[:, : prompts.shape[1] - more], foils[:, :more]], 1)])

        sign = torch.tensor([2.0, -2.0], device=clean.device).repeat_interleave(len(clean))
        both = torch.cat([answers, foils]), torch.cat([foils, answers])
        return cls(rows(clean), rows(counterfactual), *both, sign)

    @property
    def keep(self) -> int:
        """How many of the last positions have logits that the metric reads."""
        return 1 if self.sign is None else self.answers.shape[1]

    def per_pair(self, values: Float[Tensor, "*b row"]) -> Float[Tensor, "*b _pair"]:
        """Return the values of pairs from those of all rows."""
        return values if self.sign is None else values.unflatten(-1, (2, -1)).mean(-2)

    def metric(self, logits: Float[Tensor, "*b pair vocab"]) -> Float[Tensor, "*b pair"]:
        """Return the metric of each row, in logits; where it is log-probabilities, from these (`log_probabilities`)."""
        if self.sign is not None:
            return logits[..., 0] * self.sign
        answers, foils = (ids.expand(*logits.shape[:-1], -1) for ids in (self.answers, self.foils))
        return logits.gather(-1, answers).mean(-1) - logits.gather(-1, foils).mean(-1)

    def pairs(self, chosen: slice) -> Batch:
        """Return some of the pairs."""
        clean, counterfactual, answers, foils = (
            tensor[chosen] for tensor in (self.clean, self.counterfactual, self.answers, self.foils)
        )
        return Batch(clean, counterfactual, answers, foils, None if self.sign is None else self.sign[chosen])

    def narrowed(self) -> tuple[Int[Tensor, " word"], Batch]:
        """Return the words that occur among answers and foils, ascending, and the batch that counts among these."""
        import torch

        words = torch.cat([self.answers.flatten(), self.foils.flatten()]).unique()
        answers, foils = (torch.searchsorted(words, ids.contiguous()) for ids in (self.answers, self.foils))
        return words, replace(self, answers=answers, foils=foils)


def log_probabilities(
    logits: Float[Tensor, "row last vocab"], targets: Int[Tensor, "row last"]
) -> Float[Tensor, "row 1"]:
    """Return the summed log-probability of each row's tokens."""
    return logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).sum((1, 2)).unsqueeze(-1)


@contextmanager
def answer_logits_only(head: nn.Module, batch: Batch) -> Iterator[Batch]:
    """Let the unembedding give what the metric reads alone: logits of answers and foils, or log-probabilities.

    Args:
        head: the module that maps the last hidden state to logits; one with a weight row per word.
        batch: the batch.

    Yields:
        The batch that reads these logits.
    """
    from torch.nn import functional

    if batch.sign is not None:
        import torch

        every, weight = head.forward, cast("Tensor", head.weight)

        def scored(hidden: Tensor) -> Tensor:
            # Of several circuits at a time, logits of the whole vocabulary would take more than all the rest.
            rows = max(1, BUDGETS["losses"].on(hidden.device.type) // (4 * len(weight) * batch.keep))
            targets = batch.answers.repeat(len(hidden) // len(batch.answers), 1).to(hidden.device)
            parts = zip(hidden[:, -batch.keep :].split(rows), targets.split(rows), strict=True)
            return torch.cat([log_probabilities(at_least_float32(every(part)), own) for part, own in parts]).unsqueeze(
                1
            )

        with replaced_forward(head, scored):
            yield batch
        return
    words, narrowed = batch.narrowed()
    parameters: Any = head
    weight = parameters.weight[words]
    offset = None if getattr(parameters, "bias", None) is None else parameters.bias[words]
    with replaced_forward(head, lambda hidden: functional.linear(hidden, weight, offset)):
        yield narrowed


@contextmanager
def readable_logits(head: nn.Module, batch: Batch) -> Iterator[Batch]:
    """Let the unembedding give what the metric reads inside the block: all logits, or log-probabilities."""
    if batch.sign is None:
        yield batch
    else:
        with answer_logits_only(head, batch) as narrowed:
            yield narrowed
