"""Read and replace activations of the Hugging Face model with plain hooks, under TransformerLens's names.

| name | where it is in the Hugging Face model |
| --- | --- |
| `blocks.i.mlp.hook_in` | input of `layers[i].mlp`: the residual stream after its RMSNorm and the norm's weight |
| `blocks.i.hook_mlp_out` | output of `layers[i].mlp` |
| `blocks.i.hook_attn_out` | output of `layers[i].self_attn`, after the output projection |
| `blocks.i.hook_resid_post` | output of `layers[i]` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from basisbench.errors import BasisBenchError
from basisbench_baselines.pocket import CROSS_LAYER_BASIS

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import LlamaForCausalLM

READ_IN = "mlp.hook_in"
MLP_OUT, ATTN_OUT, RESID_POST = "hook_mlp_out", "hook_attn_out", "hook_resid_post"


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


_BASES = {
    "sae_mlp_out": (MLP_OUT, MLP_OUT),
    "sae_attn_out": (ATTN_OUT, ATTN_OUT),
    "sae_resid": (RESID_POST, RESID_POST),
    "transcoder": (READ_IN, MLP_OUT),
}


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


def _module_of(model: LlamaForCausalLM, hook: str) -> tuple[Module, bool]:
    """Return the module behind a hook name, and whether the activation is its input."""
    _, index, place = hook.split(".", 2)
    layer = model.model.layers[int(index)]
    parts = dict(layer.named_children())
    modules: dict[str, tuple[Module, bool]] = {
        READ_IN: (parts["mlp"], True),
        MLP_OUT: (parts["mlp"], False),
        ATTN_OUT: (parts["self_attn"], False),
        RESID_POST: (layer, False),
    }
    if place not in modules:
        raise BasisBenchError(f"no activation named '{hook}' in the pocket model")
    return modules[place]


@contextmanager
def edit_activation(model: LlamaForCausalLM, hook: str, edit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Pass an activation through `edit` in every forward run; None leaves it as it is.

    Args:
        model: the model.
        hook: name of the activation.
        edit: gets the activation, ``row pos d``; returns its replacement of the same shape, or None.
    """
    module, at_input = _module_of(model, hook)

    def on_input(_: Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        new = edit(arguments[0])
        return None if new is None else (new, *arguments[1:])

    def on_output(_: Module, __: object, output: Tensor | tuple[Tensor, ...]) -> object:
        new = edit(output if isinstance(output, Tensor) else output[0])
        if new is None or isinstance(output, Tensor):
            return new
        return (new, *output[1:])

    handle = module.register_forward_pre_hook(on_input) if at_input else module.register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def record_activations(model: LlamaForCausalLM, hooks: Iterable[str], ids: Tensor) -> dict[str, Tensor]:
    """Return activations of one forward run, ``row pos d`` each; the unembedding is not computed."""
    found: dict[str, Tensor] = {}

    def keep(hook: str) -> Callable[[Tensor], None]:
        return lambda activation: found.__setitem__(hook, activation)

    with ExitStack() as stack:
        for hook in dict.fromkeys(hooks):
            stack.enter_context(edit_activation(model, hook, keep(hook)))
        model.model(input_ids=ids, use_cache=False)
    return found
