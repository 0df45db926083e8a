"""Exact activation patching equals one run per node and prompt, written with plain hooks."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import Tensor

from basisbench.circuits.group import GroupPair
from basisbench_baselines.methods.patching import ActivationPatching
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")


def effect(slow: oracle.Naive, twin: oracle.NaiveBasis, group: GroupPair, node: oracle.Node) -> float:
    """Return the mean change of the metric when one node takes its counterfactual value in the clean run."""
    layer, position, unit = node
    pairs = group.attribution.pairs
    total = 0.0
    for index in range(len(pairs)):
        clean, other = slow.values(twin, pairs.clean[index]), slow.values(twin, pairs.counterfactual[index])
        units, errors = clean.units[layer].clone(), clean.errors[layer].clone()
        if unit == "error":
            errors[position] = other.errors[layer][position]
        else:
            units[position, unit] = other.units[layer][position, unit]
        written: Tensor = (twin.decode(layer, units) + errors).unsqueeze(0)
        patched = slow.logits(pairs.clean[index], {slow.where(twin.write, layer): lambda _, value=written: value})
        plain = slow.logits(pairs.clean[index])
        total += float(slow.metric(pairs, index, patched) - slow.metric(pairs, index, plain))
    return total / len(pairs)


@oracle.on_architectures(
    ("group", "name"),
    whole=itertools.product((0, 1), oracle.BASES),
    part=[(1, name) for name in ("attn_z", "sae_mlp_out", "transcoder")],
)
def test_patching_equals_one_node_at_a_time(architecture: str, group: GroupPair, name: str) -> None:
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    length = group.attribution.pairs.length
    scores = ActivationPatching().score(group.attribution, oracle.basis(architecture, name))
    found = oracle.score_of_nodes(scores, twin, errors=True)
    nodes = oracle.all_nodes(twin, length, errors=twin.has_error)
    assert list(found) == nodes
    # Every error node, the strongest units and a few others: the slow way takes a while.
    chosen = [node for node in nodes if node[2] == "error" and node[1] % 2 == 1]
    chosen += oracle.ranked(found, nodes)[:6] + random.Random(0).sample(nodes, 10)
    for node in chosen:
        assert found[node] == pytest.approx(effect(slow, twin, group, node), abs=1e-10), node
    assert max(abs(value) for value in found.values()) > 1e-3


@pytest.mark.parametrize("name", oracle.BASES)
def test_a_node_that_is_the_same_in_both_prompts_has_no_effect(architecture: str, group: GroupPair, name: str) -> None:
    scores = ActivationPatching().score(group.attribution, oracle.basis(architecture, name))
    # The first token is the same in all prompts, and nothing before it can differ.
    for part in (*scores.units, *(scores.errors or ())):
        assert not part[0].any()
        assert part[1:].any()


def test_the_size_of_a_batch_does_not_matter(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group = oracle.contexts(architecture)[0]
    basis = oracle.basis(architecture, "transcoder")
    many = ActivationPatching().score(group.attribution, basis)
    monkeypatch.setattr("basisbench.attribution.context._TOKENS_PER_PATCH", 130)
    few = ActivationPatching().score(group.attribution, basis)
    for one, other in zip([*many.units, *(many.errors or ())], [*few.units, *(few.errors or ())], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_an_exact_basis_has_no_error_node(architecture: str) -> None:
    group, basis = oracle.contexts(architecture)[0], oracle.basis(architecture, "mlp_act")
    assert ActivationPatching().score(group.attribution, basis).errors is None
    with pytest.raises(ValueError, match="no error node"):
        group.attribution.patched_metric(basis, basis.sites[0], [1], [-1])


def test_no_hook_is_left(architecture: str) -> None:
    group, basis = oracle.contexts(architecture)[0], oracle.basis(architecture, "transcoder")
    before = oracle.hooks_of(group.attribution.model)
    ActivationPatching().score(group.attribution, basis)
    assert oracle.hooks_of(group.attribution.model) == before
