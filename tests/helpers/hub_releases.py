"""Every published release that is copied: which model, which sites, which format, and what its configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helpers.hub_formats import ReleaseReplica

_OPENAI = {
    "architecture": "standard", "dtype": "torch.float32", "device": "cuda", "model_name": "gpt2-small",
    "hook_head_index": None, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6},
    "apply_b_dec_to_input": True, "finetuning_scaling_factor": False, "sae_lens_training_version": None,
    "prepend_bos": False, "dataset_path": "Skylion007/openwebtext", "context_size": 64,
    "normalize_activations": "layer_norm",
}  # fmt: skip
_BLOOM = {
    "model_name": "gpt2-small", "hook_point": "", "hook_point_head_index": None, "dtype": "torch.float32",
    "dataset_path": "Skylion007/openwebtext", "is_dataset_tokenized": False, "context_size": 128, "device": "cuda",
    "expansion_factor": 32, "l1_coefficient": 8e-05, "lr": 0.0004, "seed": 42, "b_dec_init_method": "geometric_median",
}  # fmt: skip
# https://huggingface.co/ctigges/pythia-70m-deduped__res-sm_processed/blob/main/5-res-sm/cfg.json
_TIGGES = {
    "architecture": "standard", "dtype": "torch.float32", "device": "cuda", "model_name": "pythia-70m-deduped",
    "hook_head_index": None, "activation_fn_str": "relu", "activation_fn_kwargs": {}, "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False, "sae_lens_training_version": None, "prepend_bos": False,
    "dataset_path": "EleutherAI/the_pile_deduplicated", "dataset_trust_remote_code": True, "context_size": 128,
    "normalize_activations": "none",
}  # fmt: skip
_BLOCK = "model.layers.{}"
_MLP_END = {"hf_hook_point_out": f"{_BLOCK}.post_feedforward_layernorm.output"}


def _own(name: str, model: str, kind: str, config: Mapping[str, Any], **more: Any) -> ReleaseReplica:
    """A release in SAELens's own format, of SAEs."""
    return ReleaseReplica(name, model, "sae_lens", kind, kind, f"blocks.{{}}.hook_{kind}", config, **more)


def _scope_2(site: str, read: str, write: str, hook: str, **config: Any) -> ReleaseReplica:
    pattern = "layer_{}_width_16k_l0_small" + ("_affine" if config.get("affine_connection") else "")
    return ReleaseReplica(
        f"gemma-scope-2-270m-pt-{site}-all", "gemma-3", "gemma_3", read, write, pattern,
        {"hf_hook_point_in": f"{_BLOCK}.{hook}", **config},
    )  # fmt: skip


def _scope(name: str, read: str, write: str, pattern: str = "layer_{}/width_16k/canonical") -> ReleaseReplica:
    return ReleaseReplica(f"gemma-scope-2b-pt-{name}", "gemma-2", "gemma_2", read, write, pattern)


def _llama(letter: str, width: str, kind: str) -> ReleaseReplica:
    return ReleaseReplica(
        f"llama_scope_lx{letter}_{width}", "llama", "llama_scope", kind, kind, f"l{{}}{letter}_{width}"
    )


RELEASES: dict[str, ReleaseReplica] = {
    release.name: release
    for release in (
        _own("gpt2-small-resid-post-v5-32k", "gpt2", "resid_post", _OPENAI),
        _own("gpt2-small-mlp-out-v5-32k", "gpt2", "mlp_out", _OPENAI),
        _own("gpt2-small-attn-out-v5-32k", "gpt2", "attn_out", _OPENAI),
        _own("gpt2-small-res-jb", "gpt2", "resid_pre", _BLOOM),
        _own("pythia-70m-deduped-res-sm", "pythia", "resid_post", _TIGGES, embedding=True),
        _own("pythia-70m-deduped-mlp-sm", "pythia", "mlp_out", _TIGGES),
        _own("pythia-70m-deduped-att-sm", "pythia", "attn_out", _TIGGES),
        _scope_2("res", "resid_post", "resid_post", "output"),
        _scope_2("mlp", "mlp_out", "mlp_out", "post_feedforward_layernorm.output"),
        _scope_2("att", "attn_z", "attn_z", "self_attn.o_proj.input"),
        _scope_2(
            "transcoders", "mlp_in", "mlp_out", "pre_feedforward_layernorm.output", affine_connection=True, **_MLP_END
        ),
        _scope("res-canonical", "resid_post", "resid_post"),
        _scope("mlp-canonical", "mlp_out", "mlp_out"),
        _scope("att-canonical", "attn_z", "attn_z"),
        _scope("transcoders", "mlp_in normalised", "mlp_out", "layer_{}/width_16k/*"),
        ReleaseReplica("mwhanna-qwen3-0.6b-transcoders-lowl0", "qwen3", "mwhanna", "mlp_in", "mlp_out", "layer_{}"),
        *(
            _llama(letter, width, kind)
            for width in ("8x", "32x")
            for letter, kind in (("r", "resid_post"), ("m", "mlp_out"), ("a", "attn_out"))
        ),
    )
}
