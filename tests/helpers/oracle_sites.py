"""Where the sites of each architecture are, in transformers' own names, written by hand."""

from __future__ import annotations

from collections.abc import Mapping

Where = tuple[str, str]
"""A module's dotted name and which of its ends: "in" or "out"."""

_LLAMA: Mapping[str, Where] = {
    "mlp_in": ("model.layers.{layer}.mlp", "in"),
    "mlp_act": ("model.layers.{layer}.mlp.down_proj", "in"),
    "mlp_out": ("model.layers.{layer}.mlp", "out"),
    "attn_z": ("model.layers.{layer}.self_attn.o_proj", "in"),
    "attn_out": ("model.layers.{layer}.self_attn", "out"),
    "resid_post": ("model.layers.{layer}", "out"),
    "embed": ("model.embed_tokens", "out"),
}
_GEMMA: Mapping[str, Where] = {
    **_LLAMA,
    "mlp_out": ("model.layers.{layer}.post_feedforward_layernorm", "out"),
    "attn_out": ("model.layers.{layer}.post_attention_layernorm", "out"),
}
_NEOX: Mapping[str, Where] = {
    "mlp_in": ("gpt_neox.layers.{layer}.mlp", "in"),
    "mlp_act": ("gpt_neox.layers.{layer}.mlp.dense_4h_to_h", "in"),
    "mlp_out": ("gpt_neox.layers.{layer}.mlp", "out"),
    "attn_z": ("gpt_neox.layers.{layer}.attention.dense", "in"),
    "attn_out": ("gpt_neox.layers.{layer}.attention", "out"),
    "resid_post": ("gpt_neox.layers.{layer}", "out"),
    "embed": ("gpt_neox.embed_in", "out"),
}

SITES: Mapping[str, Mapping[str, Where]] = {
    "llama": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "gpt2": {
        "mlp_in": ("transformer.h.{layer}.mlp", "in"),
        "mlp_act": ("transformer.h.{layer}.mlp.c_proj", "in"),
        "mlp_out": ("transformer.h.{layer}.mlp", "out"),
        "attn_z": ("transformer.h.{layer}.attn.c_proj", "in"),
        "attn_out": ("transformer.h.{layer}.attn", "out"),
        "resid_post": ("transformer.h.{layer}", "out"),
        "embed": ("transformer.wte", "out"),
    },
    "neox": _NEOX,
    "neox_sequential": _NEOX,
}
"""Modules of transformers 5.23, from `models/{gpt2,gpt_neox,llama,qwen3,gemma2,gemma3}/modeling_*.py`: what each block
calls, in its own names. What a kind of site is, is TransformerLens's word: `hook_mlp_out` and `hook_attn_out` come
after a post-norm (HookedTransformer: `ln2_post`, `ln1_post` in components/transformer_block.py; the bridge: the alias
in model_bridge/generalized_components/block.py), where Gemma Scope's dictionaries were trained; `hook_z` is the input
of the output projection (model_bridge/generalized_components/attention.py)."""
