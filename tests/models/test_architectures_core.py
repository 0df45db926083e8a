"""The invariants of the core on every architecture: a set of cells that covers bases, ablations and error policies.

Llama and GPT-2 go through the whole battery in the files that are called here; the others through a part of it in which
every ablation meets every error policy, and every shortcut every kind of site.
"""

from __future__ import annotations

import itertools

import pytest
import test_curve_oracle as curves
import test_endpoints as endpoints
import test_gradient_oracle as gradients
import test_patching as patching
import torch

from basisbench.circuits.circuit import CircuitMask
from basisbench.circuits.evaluate import evaluate
from basisbench.types import Ablation, ErrorPolicy
from helpers import oracle
from helpers.passes import tokens_to_a_pass

pytestmark = pytest.mark.usefixtures("double_precision")

MORE = tuple(name for name in oracle.ALL_ARCHITECTURES if name not in oracle.ARCHITECTURES)
more = pytest.mark.parametrize("architecture", MORE)


# --- curves ---------------------------------------------------------------------------------------------------------

# Each ablation meets each policy twice: once with an SAE, once with a transcoder.
CELLS: tuple[tuple[str, Ablation, ErrorPolicy], ...] = (
    ("mlp_act", "mean", "node"),
    ("mlp_act", "zero", "node"),
    ("attn_z", "counterfactual", "node"),
    ("attn_z", "mean", "node"),
    ("sae_mlp_out", "mean", "node"),
    ("sae_attn_out", "counterfactual", "keep"),
    ("sae_resid", "zero", "ablate"),
    ("transcoder", "counterfactual", "node"),
    ("transcoder", "zero", "keep"),
    ("transcoder", "mean", "ablate"),
)


@more
@pytest.mark.parametrize(("name", "ablation", "policy"), CELLS)
def test_curves(architecture: str, name: str, ablation: Ablation, policy: ErrorPolicy) -> None:
    curves.test_curves_equal_the_slow_evaluator(architecture, name, policy, ablation)


# Windows reach back three positions: a prefix of three and more is partly out of their sight.
PREFIXES: tuple[tuple[str, str, Ablation], ...] = (
    ("mlp_act", "three", "mean"),
    ("attn_z", "all but the last", "counterfactual"),
    ("resid", "all but the last", "mean"),
    ("transcoder", "less in the clean prompts", "counterfactual"),
    ("sae_attn_out", "three", "zero"),
)


@more
@pytest.mark.parametrize(("name", "prefix", "ablation"), PREFIXES)
def test_common_prefixes(architecture: str, name: str, prefix: str, ablation: Ablation) -> None:
    curves.test_what_prompts_have_in_common_does_not_matter(architecture, name, prefix, ablation)


@pytest.mark.parametrize("ablation", oracle.ABLATIONS)
@pytest.mark.parametrize("architecture", [*MORE, "neox_sequential"])
def test_fast_ways_change_nothing(architecture: str, ablation: Ablation) -> None:
    """Every basis, circuits of every density, errors kept at random, whole passes and single prompts."""
    generator = torch.Generator().manual_seed(len(ablation))
    for name, group in itertools.product(oracle.BASES, oracle.contexts(architecture)):
        basis = oracle.basis(architecture, name)
        reference = group.reference(basis, ablation)
        density = torch.rand(4, 1, 1, generator=generator)
        mask = CircuitMask(
            tuple(torch.rand(4, *units.shape[1:], generator=generator) < density for units in reference.units),
            tuple(torch.rand(4, units.shape[1], generator=generator) < 0.5 for units in reference.units),
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


# --- endpoints ------------------------------------------------------------------------------------------------------


@more
@pytest.mark.parametrize("name", oracle.BASES)
def test_everything_kept(architecture: str, name: str) -> None:
    for group, policy in zip(oracle.contexts(architecture), ("node", "keep"), strict=True):
        endpoints.test_keeping_every_node_and_error_is_the_unhooked_model(architecture, group, name, "mean", policy)  # type: ignore[arg-type]
    single = oracle.contexts(architecture)[0]
    endpoints.test_keeping_everything_is_the_unhooked_model_in_single_precision(architecture, single, name, onednn=True)


@more
@pytest.mark.parametrize("ablation", ["mean", "counterfactual"])
@pytest.mark.parametrize("family", oracle.FAMILIES)
def test_nothing_kept(architecture: str, family: str, ablation: Ablation) -> None:
    group = oracle.contexts(architecture)[0]
    endpoints.test_keeping_nothing_is_one_number_for_every_basis_of_a_family(architecture, group, family, ablation)


@more
@pytest.mark.parametrize(("name", "ablation", "policy"), CELLS)
def test_points_taken_for_granted(architecture: str, name: str, ablation: Ablation, policy: ErrorPolicy) -> None:
    group = oracle.contexts(architecture)[1]
    endpoints.test_points_taken_for_granted_equal_really_evaluating_them(architecture, group, name, ablation, policy)


@more
@pytest.mark.parametrize("name", ["mlp_act", "attn_z"])
def test_the_error_policy_changes_nothing_without_errors(architecture: str, name: str) -> None:
    endpoints.test_the_error_policy_changes_nothing_for_a_basis_without_errors(architecture, name)


# --- gradients ------------------------------------------------------------------------------------------------------


@more
@pytest.mark.parametrize("name", ["mlp_act", "attn_z", "sae_resid", "transcoder"])
def test_finite_differences(architecture: str, name: str) -> None:
    gradients.test_ixg_equals_finite_differences(architecture, name)


@more
def test_fields(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for rule in gradients.RULES:
        gradients.test_fields_of_one_sweep_equal_fields_of_one_hook_at_a_time(architecture, rule)
    gradients.test_a_context_hands_out_the_field_of_each_site(architecture, "ig")
    gradients.test_ixg_fields_equal_one_backward_pass_per_place(architecture)
    gradients.test_ig_equals_a_loop_over_steps_and_places(architecture, 70, monkeypatch)


@more
@pytest.mark.parametrize("name", ["mlp_act", "attn_z", "transcoder"])
def test_completeness(architecture: str, name: str) -> None:
    # Norms on both sides bend the path more than others do: the error is linear in the step only for shorter ones.
    gradients.check_completeness(architecture, name, (200, 400, 800))


@more
@pytest.mark.parametrize("name", ["attn_z", "sae_mlp_out", "transcoder"])
def test_patching(architecture: str, name: str) -> None:
    patching.test_patching_equals_one_node_at_a_time(architecture, oracle.contexts(architecture)[1], name)
