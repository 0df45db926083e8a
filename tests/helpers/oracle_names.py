"""Architectures that tests run on, by name; in a module of their own so that shared fixtures need not load torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from basisbench.types import Ablation, ErrorPolicy

ARCHITECTURES = ("llama", "gpt2")
"""Every test of the core runs on these two."""

OTHER_ARCHITECTURES = ("neox", "qwen3", "gemma2", "gemma3")
"""Architectures that a covering part of the cases is held on."""

ALL_ARCHITECTURES = (*ARCHITECTURES, *OTHER_ARCHITECTURES)

COVERING_CELLS: tuple[tuple[str, ErrorPolicy, Ablation], ...] = (
    ("mlp_act", "coordinates", "mean"),
    ("mlp_act", "coordinates", "zero"),
    ("attn_z", "coordinates", "counterfactual"),
    ("attn_z", "coordinates", "mean"),
    ("sae_mlp_out", "coordinates", "mean"),
    ("sae_mlp_out", "rotated", "zero"),
    ("sae_mlp_out", "node", "mean"),
    ("sae_attn_out", "coordinates", "counterfactual"),
    ("sae_attn_out", "keep", "counterfactual"),
    ("sae_resid", "coordinates", "zero"),
    ("sae_resid", "ablate", "zero"),
    ("transcoder", "coordinates", "mean"),
    ("transcoder", "coordinates", "counterfactual"),
    ("transcoder", "rotated", "counterfactual"),
    ("transcoder", "node", "counterfactual"),
    ("transcoder", "keep", "zero"),
    ("transcoder", "ablate", "mean"),
)
"""Basis, error policy and ablation: an SAE and a transcoder meet every policy, and `coordinates` every ablation."""


def on_architectures(
    names: tuple[str, ...], *, whole: Iterable[tuple[Any, ...]], part: Iterable[tuple[Any, ...]]
) -> pytest.MarkDecorator:
    """Parametrise a test: Llama and GPT-2 go through the whole battery, the other architectures through a part of it.

    The quick tests see that part on the first architecture.

    Args:
        names: arguments beside `architecture`; `group` is the number of one of the oracle's groups.
        whole: values of these arguments for Llama and GPT-2.
        part: values for the others.
    """
    whole, part = list(whole), list(part)
    cases = [
        pytest.param(architecture, *case, marks=() if case in part else pytest.mark.slow)
        for architecture in ALL_ARCHITECTURES
        for case in (whole if architecture in ARCHITECTURES else part)
    ]
    return pytest.mark.parametrize(
        ("architecture", *names), cases, indirect=[name for name in names if name == "group"]
    )
