"""Tiny GGUF files as llama.cpp writes them, and the model that each stands for.

Names and layout: ggml's docs/gguf.md and llama.cpp's gguf-py/gguf/constants.py; queries and keys are permuted for its
rotary positions (convert_hf_to_gguf.py, LlamaModel.permute), which a reader has to undo.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quantize

from helpers.subword_tokenizer import subword_tokenizer

QUANTISATIONS = {
    "Q4_1": (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
    "Q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "F16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


LLAMA_3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
"""How Llama 3.1 scales its positions, for shorter text."""


def write_gguf(file: Path, quantisation: str = "Q8_0", *, llama_3: bool = False, seed: int = 0, **fields: Any) -> Any:
    """Write a random two-layer Llama as a GGUF file.

    Args:
        file: the file.
        quantisation: type of its matrices, one of `QUANTISATIONS`.
        llama_3: scale positions as Llama 3.1 does.
        seed: of its weights.
        fields: further fields, whole numbers or texts, dots written as two underscores.

    Returns:
        The Hugging Face model with the weights that the file holds after quantising, in float32.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    kind, file_type = QUANTISATIONS[quantisation]
    tokenizer = subword_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_theta": 5000.0, "rope_type": "llama3", **LLAMA_3}
        if llama_3
        else {"rope_theta": 5000.0, "rope_type": "default"},
    )  # fmt: skip
    body = LlamaForCausalLM(config).eval()
    writer = GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_file_type(file_type)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_vocab_size(len(tokenizer))
    for name, value in fields.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(name.replace("__", "."), value)
    _add_tokenizer(writer, tokenizer)
    if llama_3:
        writer.add_tensor("rope_freqs.weight", _frequency_factors())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.3 * drawn)
                writer.add_tensor(_name(name), parameter.numpy())
                continue
            blocks = quantize((0.3 * drawn).numpy(), kind)
            parameter.copy_(torch.from_numpy(dequantize(blocks, kind)))
            heads = 4 if "q_proj" in name else 2 if "k_proj" in name else None
            writer.add_tensor(_name(name), blocks if heads is None else _permuted(blocks, heads), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return body


def _frequency_factors() -> Any:
    """Return what llama.cpp divides each frequency by (convert_hf_to_gguf.py, LlamaModel.generate_extra_tensors)."""
    wavelengths = 2 * torch.pi * 5000.0 ** (torch.arange(0, 8, 2) / 8)
    scale, length = LLAMA_3["factor"], LLAMA_3["original_max_position_embeddings"]
    low, high = LLAMA_3["low_freq_factor"], LLAMA_3["high_freq_factor"]
    smooth = ((length / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / scale + smooth)).float().numpy()


def _permuted(blocks: Any, heads: int) -> Any:
    """Order the rows of each head as llama.cpp's rotary positions want them: halves interleaved."""
    rows = len(blocks)
    return blocks.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(blocks.shape)


def _name(name: str) -> str:
    path = name.removesuffix(".weight")
    if path.startswith("model.layers."):
        _, _, layer, part = path.split(".", 3)
        return f"blk.{layer}.{_NAMES[part]}.weight"
    return f"{_NAMES[path]}.weight"


def _add_tokenizer(writer: Any, tokenizer: Any) -> None:
    content = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(content["vocab"], key=content["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word == tokenizer.bos_token else 1 for word in words])  # 3: a control token
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in content["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
