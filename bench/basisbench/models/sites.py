"""TODO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from basisbench.errors import BasisBenchError

SiteKind = Literal["mlp_in", "mlp_act", "mlp_out", "attn_z", "attn_out", "resid_post"]


SITE_HOOKS: Mapping[SiteKind, str] = {
    "mlp_in": "blocks.{layer}.mlp.hook_in",
    "mlp_act": "blocks.{layer}.mlp.hook_post",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
    "attn_z": "blocks.{layer}.attn.hook_z",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "resid_post": "blocks.{layer}.hook_resid_post",
}
"""TransformerLens's name of each kind of site.

- `mlp_in`: what the MLP reads, after the norm in front of it.
- `mlp_act`: input of the down projection.
- `mlp_out`, `attn_out`: what the MLP and the attention add to the residual stream, so after a post-norm where there is
  one (Gemma); TransformerLens's own choice, and where Gemma Scope's dictionaries sit.
- `attn_z`: the heads' outputs side by side, input of the output projection.
- `resid_post`: the residual stream after the block.
"""


@dataclass(frozen=True)
class Architecture:
    """An architecture on which the tests of the core hold.

    Attributes:
        summary: what is particular about it, and models of it.
        hooks: hook names, with `{layer}`, of kinds of site that are not where `basisbench.models.sites.SITE_HOOKS` says.
    """

    summary: str
    hooks: Mapping[SiteKind, str] = field(default_factory=dict)


ARCHITECTURES: Mapping[str, Architecture] = {
    "GPT2LMHeadModel": Architecture("LayerNorm, learned positions, one projection for queries, keys and values: GPT-2"),
    "GPTNeoXForCausalLM": Architecture("attention and MLP side by side, partial rotary positions: Pythia"),
    "LlamaForCausalLM": Architecture("RMSNorm, rotary positions, gated MLP, grouped queries: Llama 2 and 3"),
    "Qwen3ForCausalLM": Architecture("as Llama, with norms of queries and keys: dense Qwen3"),
    "Gemma2ForCausalLM": Architecture("norms after attention and MLP, soft-caps, sliding windows: Gemma 2"),
    "Gemma3ForCausalLM": Architecture("as Gemma 2, with norms of queries and keys and two rotary bases: Gemma 3 text"),
}
"""By Hugging Face's class name. To add one: an entry here and in the tests (tests/helpers/oracle_models.py)."""


def refused(name: str, architecture: str, reason: str) -> BasisBenchError:
    """Build the error for a model whose architecture cannot be used.

    Args:
        name: name of the model.
        architecture: Hugging Face's class name.
        reason: what is missing.
    """
    return BasisBenchError(
        f"model '{name}': architecture {architecture} cannot be used: {reason}; choose another model, or add the "
        f"architecture to basisbench/models/sites.py (there now: {', '.join(sorted(ARCHITECTURES))})"
    )
