"""Compute only what the logits of the last position need, in ablated passes.

1. **Common prefix.** Tokens at which all prompts of a group agree, clean and counterfactual, in both splits,
   have the same activations everywhere, so that live and reference values are the same there (not under zero
   ablation). Their keys and values are computed once and reused by every pass.
2. **Last block.** Only its last position reaches the logits. The input of its MLP is cut to that position; what
   the block adds to the other positions is undefined and never read.

Both change nothing but rounding; `evaluate_circuits(..., shortcut=None)` is the plain twin that tests compare with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from basisbench.hooks import Edit, Place

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.model import Model


@dataclass(frozen=True, eq=False)
class Shortcut:
    """What the ablated passes of one aligned group share.

    Attributes:
        model: the model.
        prefix: positions that are not run again; smaller than the prompts' length.
        past: per layer, keys and values of the prefix for one row.
    """

    model: Model
    prefix: int
    past: tuple[tuple[Float[Tensor, "1 head pos d_head"], Float[Tensor, "1 head pos d_head"]], ...]

    def suffix(self, tokens: Int[Tensor, "row pos"]) -> Int[Tensor, "row rest"]:
        """Return the tokens that remain to be run."""
        return tokens[:, self.prefix :]

    def cache(self, rows: int) -> Any:
        """Return a fresh key-value cache that holds the prefix for a number of rows; None without a prefix."""
        if not self.prefix:
            return None
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self.past):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return cache

    def edits(self) -> Mapping[Place, Edit]:
        """Return the edit that cuts the last block's MLP to the last position."""
        norm = self.model.place(f"blocks.{self.model.layers - 1}.ln2.hook_in")
        return {norm: lambda activation: activation[:, -1:]}


def take_shortcut(model: Model, prompts: Sequence[Int[Tensor, "row pos"]], *, prefix: bool) -> Shortcut:
    """Prepare the shortcut of one aligned group.

    Args:
        model: the model.
        prompts: every prompt whose activations are live or a reference in the group.
        prefix: whether the common prefix may be reused: not under zero ablation.
    """
    import torch

    tokens = torch.cat(list(prompts))
    same = (tokens == tokens[:1]).all(0)
    differing = (~same).nonzero()
    length = int(differing[0]) if len(differing) else tokens.shape[1]
    shared = min(length, tokens.shape[1] - 1) if prefix else 0
    if not shared:
        return Shortcut(model, 0, ())
    with torch.inference_mode():
        cache = model.body(input_ids=tokens[:1, :shared], use_cache=True, logits_to_keep=1).past_key_values
    past = tuple((layer.keys, layer.values) for layer in cache.layers)
    return Shortcut(model, shared, past)
