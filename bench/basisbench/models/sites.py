"""The sites of a model: where bases read and write in every block, by TransformerLens's names.

1. A *kind* of site stands for one place in every block; `SITES` says for each its hook, the site family that writes
   there, whether it is the family's output (where F(0) of the family is measured), and the output of the affine map
   that it enters, if any: a straight path of activations in one is straight in the other.
2. `ARCHITECTURES` lists the architectures on which the tests hold, with hooks that have another name there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from basisbench.errors import BasisBenchError
from basisbench.types import Family

SiteKind = Literal["mlp_in", "mlp_act", "mlp_out", "attn_z", "attn_out", "resid_post"]


@dataclass(frozen=True)
class SiteEntry:
    """What is known of a kind of site.

    Attributes:
        hook: TransformerLens's hook name, with `{layer}`.
        family: the site family whose bases write there; None where bases only read.
        output: whether it is the family's output.
        affine_output: the kind that an affine map of this one gives, where no norm lies between.
        norm: the part of a block whose presence means that a norm lies between.
    """

    hook: str
    family: Family | None
    output: bool = False
    affine_output: SiteKind | None = None
    norm: str = ""


SITES: Mapping[SiteKind, SiteEntry] = {
    # What the MLP reads, after the norm in front of it.
    "mlp_in": SiteEntry("blocks.{layer}.mlp.hook_in", None),
    # Input of the down projection.
    "mlp_act": SiteEntry("blocks.{layer}.mlp.hook_post", "mlp", affine_output="mlp_out", norm="ln2_post"),
    # What the MLP adds to the residual stream, so after a post-norm where there is one (Gemma): TransformerLens's own
    # choice, and where Gemma Scope's dictionaries sit.
    "mlp_out": SiteEntry("blocks.{layer}.hook_mlp_out", "mlp", output=True),
    # The heads' outputs side by side, input of the output projection.
    "attn_z": SiteEntry("blocks.{layer}.attn.hook_z", "attn", affine_output="attn_out", norm="ln1_post"),
    # What the attention adds to the residual stream, after a post-norm where there is one.
    "attn_out": SiteEntry("blocks.{layer}.hook_attn_out", "attn", output=True),
    # The residual stream after the block.
    "resid_post": SiteEntry("blocks.{layer}.hook_resid_post", "resid", output=True),
}
"""The one table of sites; nothing else in the harness says what a kind of site is."""


def family_output(family: Family) -> SiteKind:
    """Return the kind of site that is a family's output."""
    return next(kind for kind, site in SITES.items() if site.output and site.family == family)


@dataclass(frozen=True)
class Architecture:
    """An architecture on which the tests of the core hold.

    Attributes:
        summary: what is particular about it, and models of it.
        hooks: hook names, with `{layer}`, of kinds of site that are not where `SITES` says.
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
