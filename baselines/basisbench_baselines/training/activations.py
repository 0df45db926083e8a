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


def record(model: Model, hooks: Iterable[str], ids: Int[Tensor, "row pos"]) -> dict[str, Float[Tensor, "token d"]]:
    """Return activations of contexts by hook, in the model's type, without first positions and BOS.

    Args:
        model: the model.
        hooks: names of hooks.
        ids: contexts.
    """
    places: dict[Place, list[str]] = {}
    for hook in dict.fromkeys(hooks):
        places.setdefault(model.place(hook), []).append(hook)
    lead = leading_token(model.tokenizer)
    pieces: dict[Place, list[Tensor]] = {place: [] for place in places}
    for part in ids.split(max(1, _TOKENS_AT_ONCE // ids.shape[1])):
        tokens = model.tokens(part)
        kept = torch.ones_like(tokens, dtype=torch.bool) if lead is None else tokens != lead
        kept[:, 0] = False
        for place, activation in _one_pass(model, list(places), tokens).items():
            pieces[place].append(activation.to(model.device)[kept])
    found = {place: torch.cat(parts) for place, parts in pieces.items()}
    return {hook: found[place] for place, names in places.items() for hook in names}


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
