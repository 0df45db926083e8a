"""The pocket model: a small language model and its dictionaries, trained by this package and shipped with it."""

from __future__ import annotations

from pathlib import Path

from basisbench.types import ModelSpec

ASSETS = Path(__file__).parent / "assets"
"""Where the shipped model, its dictionaries and their provenance card lie."""

DICTIONARY_BASES: tuple[str, ...] = ("sae_mlp_out", "sae_attn_out", "sae_resid", "transcoder")
"""Bases with shipped dictionaries, one per layer."""

CROSS_LAYER_BASIS = "clt"
"""The basis with a shipped cross-layer transcoder."""

PROVIDES: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="pocket-llama",
        path=str(ASSETS / "model"),
        summary="4-layer Llama of 1.3 M parameters, trained on this project's generated corpus",
        dictionaries={basis: ASSETS / "dictionaries" / basis for basis in (*DICTIONARY_BASES, CROSS_LAYER_BASIS)},
        default=True,
    ),
)
