"""Name the activations that the dictionaries read and write, as TransformerLens does, and record them.

| name | where it is in Hugging Face's Llama | and in its GPT-2 |
| --- | --- | --- |
| `blocks.i.mlp.hook_in` | input of `layers[i].mlp`: the normed residual stream | input of `h[i].mlp` |
| `blocks.i.hook_mlp_out` | output of `layers[i].mlp` | output of `h[i].mlp` |
| `blocks.i.hook_attn_out` | output of `layers[i].self_attn`, after the output projection | output of `h[i].attn` |
| `blocks.i.hook_resid_post` | output of `layers[i]` | output of `h[i]` |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from basisbench.errors import BasisBenchError
from basisbench.models.hooks import Place, observed
from basisbench_baselines.pocket import CROSS_LAYER_BASIS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MLP_IN, _MLP_OUT, _ATTN_OUT, _RESID_POST = "mlp.hook_in", "hook_mlp_out", "hook_attn_out", "hook_resid_post"
_PLACES: dict[str, tuple[Literal["mlp", "attention", "block"], Literal["in", "out"]]] = {
    _MLP_IN: ("mlp", "in"),
    _MLP_OUT: ("mlp", "out"),
    _ATTN_OUT: ("attention", "out"),
    _RESID_POST: ("block", "out"),
}
_MODULES = {
    "llama": {"block": "model.layers.{}", "mlp": "model.layers.{}.mlp", "attention": "model.layers.{}.self_attn"},
    "gpt2": {"block": "transformer.h.{}", "mlp": "transformer.h.{}.mlp", "attention": "transformer.h.{}.attn"},
}
_BASES = {
    "sae_mlp_out": (_MLP_OUT, _MLP_OUT),
    "sae_attn_out": (_ATTN_OUT, _ATTN_OUT),
    "sae_resid": (_RESID_POST, _RESID_POST),
    "transcoder": (_MLP_IN, _MLP_OUT),
}


@dataclass(frozen=True)
class DictionarySite:
    """Where one dictionary reads and writes.

    Attributes:
        basis: name of the basis that the dictionary belongs to.
        layer: index of the layer.
        read: hook name of the activation that is encoded.
        write: hook name of the activation that is reconstructed.
    """

    basis: str
    layer: int
    read: str
    write: str

    @property
    def name(self) -> str:
        """Name in checkpoints, and its folder below `dictionaries/`."""
        return f"{self.basis}/layer_{self.layer}"


def dictionary_sites(layers: int) -> tuple[DictionarySite, ...]:
    """Return every site of the shipped dictionaries of single layers: four bases, each at every layer."""
    return tuple(site for basis in _BASES for site in _sites_of(basis, layers))


def cross_layer_sites(layers: int) -> tuple[DictionarySite, ...]:
    """Return the sites of the cross-layer transcoder, which reads and writes where the transcoders do."""
    return tuple(replace(site, basis=CROSS_LAYER_BASIS) for site in _sites_of("transcoder", layers))


def _sites_of(basis: str, layers: int) -> tuple[DictionarySite, ...]:
    read, write = _BASES[basis]
    return tuple(
        DictionarySite(basis, layer, f"blocks.{layer}.{read}", f"blocks.{layer}.{write}") for layer in range(layers)
    )


def place_of(model: PreTrainedModel, hook: str) -> Place:
    """Return the end of a module of the Hugging Face model where an activation of that name is.

    Raises:
        BasisBenchError: the pocket model has no such activation.
    """
    _, layer, name = hook.split(".", 2)
    if name not in _PLACES:
        raise BasisBenchError(f"no activation named '{hook}' in the pocket model")
    module, end = _PLACES[name]
    return Place(_MODULES[model.config.model_type][module].format(layer), end)


@torch.no_grad()
def record_activations(model: PreTrainedModel, hooks: Iterable[str], ids: Tensor) -> dict[str, Tensor]:
    """Return activations of one forward run, ``row pos d`` each; the unembedding is not computed."""
    with observed(model, {hook: place_of(model, hook) for hook in hooks}) as found:
        model.base_model(input_ids=ids, use_cache=False)
    return found
