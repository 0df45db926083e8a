"""Activations for training: one forward pass, up to the last hook that is needed, serves all dictionaries."""

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
    """Return activations of contexts by hook, in the model's type; BOS, where the tokenizer puts one, is left out.

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
        kept = tokens != lead if lead is not None else torch.ones_like(tokens, dtype=torch.bool)
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
