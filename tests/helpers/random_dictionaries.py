"""Random dictionaries of every kind that SAELens has."""

from __future__ import annotations

from typing import Any

import torch
from sae_lens.registry import get_sae_class

D, UNITS = 12, 40


def make(
    kind: str, *, shifted: bool = False, normalisation: str = "none", seed: int = 1, width: int = D, **more: Any
) -> Any:
    """Return a random dictionary in float64."""
    if "transcoder" in kind:
        more["d_out"] = 9
    if kind in ("topk", "abstopk"):
        more["k"] = 7
    module_class, config_class = get_sae_class(kind)
    module: Any = module_class(
        config_class(
            d_in=width,
            d_sae=UNITS,
            dtype="float64",
            apply_b_dec_to_input=shifted,
            normalize_activations=normalisation,
            **more,
        )
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise.abs() if name == "threshold" else noise / (4 if parameter.ndim > 1 else 2))
        if kind == "matching_pursuit":
            module.W_dec /= module.W_dec.norm(dim=-1, keepdim=True)
    return module.eval().requires_grad_(False)
