"""Shortcuts on every architecture, with circuits and errors kept at random; and what runs once for all circuits."""

from __future__ import annotations

import pytest
import torch

from basisbench.circuits.circuit import CircuitMask
from basisbench.circuits.evaluate import evaluate
from basisbench.types import Ablation
from helpers import oracle
from helpers.passes import tokens_to_a_pass

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.slow
@pytest.mark.parametrize("ablation", oracle.ABLATIONS)
@pytest.mark.parametrize("architecture", [*oracle.OTHER_ARCHITECTURES, "neox_sequential"])
def test_fast_ways_change_nothing(architecture: str, ablation: Ablation) -> None:
    """Every basis, in one group or the other, circuits of every density, whole passes and single prompts."""
    generator = torch.Generator().manual_seed(len(ablation))
    for number, name in enumerate(oracle.BASES, oracle.ABLATIONS.index(ablation)):
        group = oracle.contexts(architecture)[number % 2]
        basis = oracle.basis(architecture, name)
        reference = group.reference(basis, ablation)
        density = torch.rand(4, 1, 1, generator=generator)
        share = torch.randint(0, 3, (4, 99, 1), generator=generator) / 2
        mask = CircuitMask(
            tuple(torch.rand(4, *units.shape[1:], generator=generator) < density for units in reference.units),
            # Of each error none, some or all coordinates.
            tuple(
                torch.rand(4, *errors.shape[1:], generator=generator) < share[:, : errors.shape[1]]
                for errors in reference.errors or [units[..., :1] for units in reference.units]
            ),
        )

        shared = group.shared_work(basis, ablation)
        assert shared.constants
        assert shared.prefix.length == (ablation != "zero")
        plain, fast = (evaluate(group, basis, ablation, mask.circuits, 4, fast=fast).metric for fast in (False, True))
        with tokens_to_a_pass(group.evaluation.model, 1):
            by_prompt = evaluate(group, basis, ablation, mask.circuits, 4).metric
        for other in (fast, by_prompt):
            torch.testing.assert_close(other, plain, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("architecture", "name", "expected"),
    [
        ("neox", "mlp_act", {"embed_in", "layers.0.attention", "layers.0.mlp.dense_h_to_4h"}),
        ("neox", "attn_out", {"embed_in", "layers.0.attention"}),
        ("gemma2", "mlp_act", {"embed_tokens", "layers.0.self_attn", "layers.0.mlp.gate_proj", "layers.0.mlp.up_proj"}),
        ("gemma2", "mlp_out", {"embed_tokens", "layers.0.mlp", "layers.0.post_feedforward_layernorm"}),
        ("gemma3", "attn_z", {"embed_tokens", "layers.0.self_attn.q_norm", "layers.0.self_attn.v_proj"}),
        ("qwen3", "resid", {"embed_tokens", "layers.0"}),
    ],
)
def test_what_comes_before_the_first_write_runs_once(architecture: str, name: str, expected: set[str]) -> None:
    group, basis = oracle.contexts(architecture)[0], oracle.basis(architecture, name)
    found = {constant.module.split(".", 1)[1] for constant in group.shared_work(basis, "mean").constants}
    assert expected <= found
    assert not {module for module in found if module.startswith(("layers.1", "norm", "final_layer_norm"))}
