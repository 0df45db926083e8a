"""What tests of backward rules and of methods built on them share."""

from __future__ import annotations

import torch
from torch import Tensor

from basisbench.models.model import Model
from basisbench.models.relp import backward_rules
from basisbench.types import BackwardRules


def close(found: Tensor, expected: Tensor) -> None:
    """Hold that values are the expected ones up to 1e-9 of the largest, and not all zero."""
    assert found.shape == expected.shape
    scale = float(expected.abs().max())
    assert scale > 0
    assert float((found - expected).abs().max()) <= 1e-9 * scale


def gradient_at_embeddings(model: Model, tokens: Tensor, position: int, rules: BackwardRules) -> Tensor:
    """Return the gradient of two logits' difference at a position by each token's embedding, of the first prompt.

    Through a final soft-cap, whose slope is positive: whether anything flows does not depend on it.
    """
    leaves: list[Tensor] = []

    def start(_: object, __: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    handle = model.component("embed").register_forward_hook(start)
    try:
        with torch.enable_grad(), backward_rules(model, rules):
            logits = model.bridge(tokens)[0, position]
            (gradient,) = torch.autograd.grad(logits[5] - logits[9], leaves)
    finally:
        handle.remove()
    return gradient[0]
