"""Activations for training: one forward pass, up to the last hook that is needed, serves all dictionaries.

The first position of a context is left out, BOS or not: attention rests there, and some layer writes a vector to it
that is hundreds of times longer than any other (SmolLM2-135M, layer 11: 24,300 against 30). Its variance would be all
that a dictionary learns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from basisbench.models.hooks import Edit, Place, edited
from basisbench_baselines.training.text import leading_token

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.models.model import Model

_TOKENS_AT_ONCE = 2048


class _AllSeen(Exception):  # noqa: N818 -- no error
    """Ends a forward pass."""


class Recorder:
    """Records activations into memory of its own, which the next recording overwrites.

    Memory that is taken and freed chunk by chunk leaves holes that the C library keeps.

    Args:
        model: the model.
        hooks: names of hooks.
    """

    def __init__(self, model: Model, hooks: Iterable[str]) -> None:
        self.model = model
        self.places: dict[Place, list[str]] = {}
        for hook in dict.fromkeys(hooks):
            self.places.setdefault(model.place(hook), []).append(hook)
        self._lead = leading_token(model.tokenizer)
        self._memory: dict[Place, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        return sum(memory.nbytes for memory in self._memory.values())

    def record(self, ids: Int[Tensor, "row pos"]) -> dict[str, Float[Tensor, "token d"]]:
        """Return activations of contexts by hook, in the model's type, without first positions and BOS.

        They are valid until the next recording.

        Args:
            ids: contexts.
        """
        count = 0
        for part in ids.split(max(1, _TOKENS_AT_ONCE // ids.shape[1])):
            tokens = self.model.tokens(part)
            kept = torch.ones_like(tokens, dtype=torch.bool) if self._lead is None else tokens != self._lead
            kept[:, 0] = False
            end = count + int(kept.sum())
            for place, activation in _one_pass(self.model, list(self.places), tokens).items():
                found = activation.to(self.model.device)
                memory = self._memory.get(place)
                if memory is None or len(memory) < ids.numel():
                    memory = self._memory[place] = found.new_empty(ids.numel(), found.shape[-1])
                memory[count:end] = found[kept]
            count = end
        return {hook: self._memory[place][:count] for place, names in self.places.items() for hook in names}


def record(model: Model, hooks: Iterable[str], ids: Int[Tensor, "row pos"]) -> dict[str, Float[Tensor, "token d"]]:
    """Return activations of contexts by hook, as `Recorder.record` does."""
    return Recorder(model, hooks).record(ids)


@torch.no_grad()
def _one_pass(model: Model, places: list[Place], tokens: Int[Tensor, "row pos"]) -> Mapping[Place, Tensor]:
    seen: dict[Place, Tensor] = {}

    def watch(place: Place) -> Edit:
        def edit(activation: Tensor) -> None:
            seen[place] = activation.detach()
            if len(seen) == len(places):
                raise _AllSeen

        return edit

    try:
        with edited(model.fast_body, {place: watch(place) for place in places}):
            model.fast_body(input_ids=tokens, use_cache=False, logits_to_keep=1)
    except _AllSeen:
        pass
    return seen
