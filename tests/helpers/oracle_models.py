"""Tiny random models and dictionaries on disk, and random pairs; nothing of it is symmetric by accident."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from basisbench.types import Pairs
from helpers.oracle_evaluator import D_MLP, D_MODEL, KINDS, LAYERS, READS, VOCABULARY, WRITES, Naive
from helpers.oracle_sites import Where

_storage = tempfile.TemporaryDirectory(prefix="basisbench-oracle-")


@contextmanager
def in_double_precision() -> Iterator[None]:
    """Let norms and softmax compute in float64 when the model is in float64.

    Transformers casts Llama's, Qwen3's and Gemma's to float32 whatever the model's type, which would hide errors below
    1e-7.
    Models of other types compute what they always do.
    """
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    softmax = nn.functional.softmax

    def wide_softmax(values: Tensor, dim: int, dtype: torch.dtype | None = None, **rest: Any) -> Tensor:
        wide = values.dtype == torch.float64
        return softmax(values, dim=dim, dtype=None if wide else dtype, **rest)

    originals = {norm: norm.forward for norm in (LlamaRMSNorm, Qwen3RMSNorm, Gemma2RMSNorm, Gemma3RMSNorm)}
    for norm in (LlamaRMSNorm, Qwen3RMSNorm):
        norm.forward = _wide_norm(norm.forward, "variance_epsilon", 0.0)
    for norm in (Gemma2RMSNorm, Gemma3RMSNorm):
        norm.forward = _wide_norm(norm.forward, "eps", 1.0)
    nn.functional.softmax = wide_softmax  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm, forward in originals.items():
            norm.forward = forward
        nn.functional.softmax = softmax  # type: ignore[assignment]


def _wide_norm(original: Any, epsilon: str, offset: float) -> Any:
    def forward(self: Any, hidden: Tensor) -> Tensor:
        if hidden.dtype != torch.float64:
            narrow: Tensor = original(self, hidden)
            return narrow
        variance = hidden.pow(2).mean(-1, keepdim=True)
        wide: Tensor = hidden * torch.rsqrt(variance + getattr(self, epsilon)) * (offset + self.weight)
        return wide

    return forward


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<bos>": 0, "<unk>": 1, **{f"w{index}": index for index in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>").save_pretrained(folder)


_WINDOW = 3
"""Positions that sliding attention sees: fewer than any prompt has."""


def _config(architecture: str, layers: int) -> Any:
    from transformers import Gemma2Config, Gemma3TextConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen3Config

    if architecture == "gpt2":
        return GPT2Config(
            vocab_size=VOCABULARY, n_positions=12, n_embd=D_MODEL, n_layer=layers, n_head=4, n_inner=D_MLP,
            bos_token_id=0, eos_token_id=0, tie_word_embeddings=True, layer_norm_epsilon=1e-5,
        )  # fmt: skip
    common = {
        "vocab_size": VOCABULARY, "hidden_size": D_MODEL, "intermediate_size": D_MLP, "num_hidden_layers": layers,
        "num_attention_heads": 4, "max_position_embeddings": 12, "attention_bias": True,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    if architecture.startswith("neox"):
        rotary = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
        parallel = architecture == "neox"
        return GPTNeoXConfig(**common, use_parallel_residual=parallel, rope_parameters=rotary, layer_norm_eps=1e-3)
    common["num_key_value_heads"] = 2
    if architecture == "qwen3":
        # Heads are wider than the model's width over their number, as in Qwen3 and Gemma.
        return Qwen3Config(**common, head_dim=6, tie_word_embeddings=False, rms_norm_eps=1e-3)
    gemma = {
        "head_dim": 6, "query_pre_attn_scalar": 5, "sliding_window": _WINDOW, "rms_norm_eps": 1e-3,
        "final_logit_softcapping": 3.0,
    }  # fmt: skip
    kinds = ["sliding_attention", "full_attention"] * layers
    if architecture == "gemma2":
        return Gemma2Config(**common, **gemma, attn_logit_softcapping=5.0, layer_types=kinds[:layers])
    if architecture == "gemma3":
        rotary = {"sliding_attention": 20.0, "full_attention": 10_000.0}
        return Gemma3TextConfig(
            **common, **gemma, layer_types=kinds[1 : layers + 1],  # the other way round: the last block slides
            rope_parameters={kind: {"rope_type": "default", "rope_theta": base} for kind, base in rotary.items()},
        )  # fmt: skip
    return LlamaConfig(
        **common, mlp_bias=True, tie_word_embeddings=False, rms_norm_eps=1e-5
    )  # fmt: skip


@cache
def checkpoint(architecture: str, layers: int = LAYERS) -> Path:
    """Save a tiny random model in float64: every bias and norm weight is random too, so nothing is symmetric."""
    from transformers import AutoModelForCausalLM

    folder = Path(_storage.name) / f"{architecture}-{layers}"
    generator = torch.Generator().manual_seed(len(architecture))
    body = AutoModelForCausalLM.from_config(_config(architecture, layers), dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim == 1:
                # Gemma adds one to the scale itself.
                is_scale = name.endswith("weight") and not architecture.startswith("gemma")
                parameter.copy_(is_scale + 0.3 * noise)
            elif "wte" in name or "wpe" in name or "embed" in name:
                parameter.copy_(0.8 * noise)
            else:
                parameter.copy_(noise * 1.5 / D_MODEL**0.5)
    body.save_pretrained(folder)
    _tokenizer(folder)
    return folder


@cache
def naive(architecture: str) -> Naive:
    """Load the tiny model once more, by itself, for the slow evaluator."""
    from transformers import AutoModelForCausalLM

    body = AutoModelForCausalLM.from_pretrained(checkpoint(architecture), dtype=torch.float64)
    return Naive(architecture, body.eval().requires_grad_(False))


def _new_dictionary(kind: str, units: int) -> Any:
    from sae_lens import (
        JumpReLUSAE,
        JumpReLUSAEConfig,
        JumpReLUTranscoder,
        JumpReLUTranscoderConfig,
        StandardSAE,
        StandardSAEConfig,
        TopKSAE,
        TopKSAEConfig,
        Transcoder,
        TranscoderConfig,
    )

    common = {"d_in": D_MODEL, "d_sae": units, "dtype": "float64", "device": "cpu", "normalize_activations": "none"}
    if kind == "standard":
        return StandardSAE(StandardSAEConfig(**common, apply_b_dec_to_input=True))
    if kind == "topk":
        return TopKSAE(TopKSAEConfig(**common, apply_b_dec_to_input=False, k=6))
    if kind == "jumprelu":
        return JumpReLUSAE(JumpReLUSAEConfig(**common, apply_b_dec_to_input=False))
    if kind == "transcoder":
        return Transcoder(TranscoderConfig(**common, apply_b_dec_to_input=False, d_out=D_MODEL))
    return JumpReLUTranscoder(JumpReLUTranscoderConfig(**common, apply_b_dec_to_input=False, d_out=D_MODEL))


def _activations(slow: Naive, prompts: Tensor, place: Where) -> Tensor:
    """Return what is seen at a place in a batch of prompts, position after position."""
    seen: list[Tensor] = []
    slow.logits(prompts, {place: lambda activation: seen.append(activation.flatten(0, 1))})
    return seen[0]


@cache
def dictionary_folder(architecture: str, basis: str) -> Path:
    """Save a dictionary per layer, of different kind and width.

    The encoder is random and the decoder is fitted to random prompts: it fits badly, but better than nothing.
    """
    folder = Path(_storage.name) / f"{architecture}-dictionaries" / basis
    generator = torch.Generator().manual_seed(sum(map(ord, basis)))
    slow = naive(architecture)
    prompts = torch.randint(2, VOCABULARY, (60, 6), generator=generator)
    for layer, kind in enumerate(KINDS[basis]):
        read, write = (_activations(slow, prompts, slow.where(kinds[basis], layer)) for kinds in (READS, WRITES))
        dictionary = _new_dictionary(kind, 24 - 3 * layer)
        with torch.no_grad():
            for name, parameter in dictionary.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                if name == "threshold":
                    parameter.copy_(0.1 + 0.4 * noise.abs())
                else:
                    parameter.copy_(noise * (0.3 if parameter.ndim == 1 else D_MODEL**-0.5))
            design = dictionary.encode(read)
            gram = design.T @ design + torch.eye(design.shape[1], dtype=torch.float64)
            dictionary.W_dec.copy_(torch.linalg.solve(gram, design.T @ (write - dictionary.b_dec)))
        dictionary.save_model(folder / f"layer_{layer}")
    return folder


@cache
def dictionaries(architecture: str, basis: str) -> tuple[Any, ...]:
    """Load a basis's dictionaries with SAELens alone."""
    from sae_lens import SAE

    folder = dictionary_folder(architecture, basis)
    return tuple(
        SAE.load_from_disk(folder / f"layer_{layer}", device="cpu").eval().requires_grad_(False)
        for layer in range(LAYERS)
    )


def random_pairs(count: int, length: int, seed: int, *, split: str = "attribution", group: str = "group") -> Pairs:
    """Draw an aligned group of random token ids; the first token is the same everywhere.

    The two prompts of a pair differ at one position at least and agree at others; there are two answers and
    three foils, no token being both.
    """
    generator = np.random.default_rng(seed)
    clean = generator.integers(2, VOCABULARY, (count, length))
    changed = generator.random((count, length)) < 0.6
    changed[:, 1] = True
    other = 2 + (clean - 2 + generator.integers(1, VOCABULARY - 2, (count, length))) % (VOCABULARY - 2)
    counterfactual = np.where(changed, other, clean)
    clean[:, 0] = counterfactual[:, 0] = 0
    chosen = np.stack([generator.permutation(np.arange(2, VOCABULARY))[:5] for _ in range(count)])
    return Pairs(
        task="stub",
        version="1",
        split=split,  # type: ignore[arg-type]
        group=group,
        roles=("bos", *(f"role {index}" for index in range(1, length))),
        clean=clean,
        counterfactual=counterfactual,
        answers=chosen[:, :2],
        foils=chosen[:, 2:],
        clean_text=tuple(f"clean {index}" for index in range(count)),
        counterfactual_text=tuple(f"counterfactual {index}" for index in range(count)),
    )


@dataclass(frozen=True)
class Groups:
    """Both splits of two aligned groups of different length and different numbers of pairs."""

    attribution: tuple[Pairs, ...]
    evaluation: tuple[Pairs, ...]


@cache
def two_groups() -> Groups:
    """Return two groups, of 5 and of 4 tokens."""
    return Groups(
        (
            random_pairs(4, 5, 1, group="long"),
            random_pairs(3, 4, 2, group="short"),
        ),
        (
            random_pairs(3, 5, 3, split="evaluation", group="long"),
            random_pairs(2, 4, 4, split="evaluation", group="short"),
        ),
    )
