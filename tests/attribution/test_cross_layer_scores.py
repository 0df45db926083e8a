"""Coordinates, errors and scores of a basis that writes to several sites, against one node at a time."""

from __future__ import annotations

import random

import pytest
import torch

from basisbench.attribution.context import GroupContext
from basisbench.circuits.group import GroupPair
from basisbench.models.batching import BUDGETS, Budget
from basisbench_baselines.methods.magnitude import Magnitude
from basisbench_baselines.methods.patching import ActivationPatching
from helpers import cross_layer_oracle as cross
from helpers import oracle
from helpers.oracle import Node

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.slow
def test_errors_are_what_all_earlier_layers_leave_over(architecture: str) -> None:
    slow, basis = cross.slow(architecture), cross.basis(architecture)
    pairs = cross.contexts(architecture)[0].attribution.pairs
    orders = ([0, 0, 1, 1, 2], [2, 1, 0], [1, 2, 1, 0, 2])
    for kept_bytes in (0, 2**26):  # coordinates that are too large to keep are computed again
        for order in orders:
            context = GroupContext(cross.model(architecture), pairs, 0)
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(BUDGETS, "units of a basis", Budget(kept_bytes, kept_bytes))  # type: ignore[misc]
                for layer in order:
                    for side, prompts in (("clean", pairs.clean), ("counterfactual", pairs.counterfactual)):
                        units, error = context.coordinates(basis, basis.sites[layer], side)  # type: ignore[arg-type]
                        assert error is not None
                        for index, prompt in enumerate(prompts):
                            expected = slow.values(prompt)
                            torch.testing.assert_close(units[index], expected.units[layer], rtol=0, atol=1e-12)
                            torch.testing.assert_close(error[index], expected.errors[layer], rtol=0, atol=1e-12)


def some_nodes(length: int) -> list[Node]:
    """Every error node, and units of every layer and position."""
    everything = cross.nodes(length, errors=True)
    return [node for node in everything if node[2] == "error"] + random.Random(0).sample(everything, 60)


@pytest.mark.slow
def test_ixg_equals_finite_differences(architecture: str, cross_group: GroupPair) -> None:
    slow, basis, pairs = cross.slow(architecture), cross.basis(architecture), cross_group.attribution.pairs
    scores = cross.score_of_nodes(oracle.gradient_method("ixg").score(cross_group.attribution, basis), errors=True)
    size = 1e-3
    for node in some_nodes(pairs.length):
        slopes = [
            (
                8 * (slow.moved(pairs, index, node, size) - slow.moved(pairs, index, node, -size))
                - (slow.moved(pairs, index, node, 2 * size) - slow.moved(pairs, index, node, -2 * size))
            )
            / (12 * size)
            for index in range(len(pairs))
        ]
        assert scores[node] == pytest.approx(float(sum(slopes)) / len(pairs), rel=1e-7, abs=1e-8), node
    assert max(abs(value) for value in scores.values()) > 1e-2


@pytest.mark.parametrize("rule", ["ixg", "ig", "ig_inputs", "relp"])
def test_scores_are_summed_over_the_sites_that_a_unit_writes(
    architecture: str, cross_group: GroupPair, rule: str
) -> None:
    parts, basis, context = cross.files(architecture), cross.basis(architecture), cross_group.attribution
    found = oracle.gradient_method(rule).score(context, basis)
    for layer, site in enumerate(basis.sites):
        clean, _ = context.coordinates(basis, site, "clean")
        other, _ = context.coordinates(basis, site, "counterfactual")
        expected = torch.zeros_like(found.units[layer])
        for unit in range(cross.UNITS[layer]):
            for target in range(layer, cross.LAYERS):
                field = context.gradient_field(rule, basis.sites[target])
                product = field @ parts.direction(layer, unit, target)
                expected[:, unit] += (product * (other - clean)[..., unit]).mean(0)
        torch.testing.assert_close(found.units[layer], expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_patching_equals_one_node_at_a_time(architecture: str, cross_group: GroupPair) -> None:
    slow, basis, pairs = cross.slow(architecture), cross.basis(architecture), cross_group.attribution.pairs
    scores = cross.score_of_nodes(ActivationPatching().score(cross_group.attribution, basis), errors=True)
    for node in some_nodes(pairs.length):
        effects = [
            slow.moved(pairs, index, node, 1.0) - slow.moved(pairs, index, node, 0.0) for index in range(len(pairs))
        ]
        assert scores[node] == pytest.approx(float(sum(effects)) / len(pairs), abs=1e-10), node
    assert max(abs(value) for value in scores.values()) > 1e-3


@pytest.mark.slow
def test_magnitude_is_the_mean_size_of_the_change(architecture: str, cross_group: GroupPair) -> None:
    slow, basis, pairs = cross.slow(architecture), cross.basis(architecture), cross_group.attribution.pairs
    scores = Magnitude().score(cross_group.attribution, basis)
    assert scores.errors is not None
    for layer in range(cross.LAYERS):
        changes = [
            slow.values(other).errors[layer] - slow.values(clean).errors[layer]
            for clean, other in zip(pairs.clean, pairs.counterfactual, strict=True)
        ]
        expected = torch.stack(changes).norm(dim=-1).mean(0)
        torch.testing.assert_close(scores.errors[layer], expected, rtol=0, atol=1e-12)
