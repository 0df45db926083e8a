"""Coordinates, errors and scores of a basis that writes to several sites, against one node at a time."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.circuits.group import GroupPair
from basisbench.models.batching import BUDGETS, Budget
from basisbench.types import Pairs
from basisbench_baselines.methods.magnitude import Magnitude
from basisbench_baselines.methods.patching import ActivationPatching
from helpers import cross_layer_oracle as cross
from helpers import oracle
from helpers.oracle import Node
from helpers.oracle_scores import RULES

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


def some_nodes(length: int, policy: str) -> list[Node]:
    """Return a few nodes, errors and units: other ones for another length and error policy."""
    everything = cross.nodes(length, policy)
    errors = [node for node in everything if isinstance(node[2], str)]
    draw = random.Random(f"{length} {policy}")
    return draw.sample(errors, 8) + draw.sample(everything, 16)


def changes(slow: cross.Slow, pairs: Pairs, index: int, node: Node, question: oracle.Question) -> dict[int, Tensor]:
    """Return what a node's move to its target changes at each layer that it writes to."""
    layer, position, unit = node
    clean = slow.values(pairs.clean[index])
    other = slow.reference(question.end, pairs, pairs, index)
    if not isinstance(unit, str):
        step = other.units[layer][position, unit] - clean.units[layer][position, unit]
        return {m: step * slow.parts.direction(layer, unit, m) for m in range(layer, cross.LAYERS)}
    error = other.errors[layer][position] - clean.errors[layer][position]
    if question.error_policy == "node":
        return {layer: error}
    axes = oracle.rotation(layer) if question.error_policy == "rotated" else torch.eye(oracle.D_MODEL).double()
    axis = axes[oracle.error_names(question.error_policy).index(unit)]
    return {layer: (axis @ error) * axis}


def moved(slow: cross.Slow, pairs: Pairs, index: int, node: Node, share: float, question: oracle.Question) -> Tensor:
    """Return the metric of a clean run with one node moved by a share of its way, at all layers that it writes to."""
    edits: dict[oracle.Where, Any] = {}
    for layer, change in changes(slow, pairs, index, node, question).items():

        def add(y: Tensor, change: Tensor = change) -> Tensor:
            y = y.clone()
            y[0, node[1]] += share * change
            return y

        edits[slow.plain.where("mlp_out", layer)] = add
    return slow.plain.metric(pairs, index, slow.plain.logits(pairs.clean[index], edits)[0])


# Architectures and groups take turns; patching, below, meets every question in both.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "number", "question"),
    list(zip(2 * oracle.ARCHITECTURES, (0, 1, 1, 0), oracle.COVERING, strict=True)),
    ids=str,
)
def test_ixg_equals_finite_differences(architecture: str, number: int, question: oracle.Question) -> None:
    group = cross.contexts(architecture)[number].attribution
    slow, basis, pairs = cross.slow(architecture), cross.basis(architecture), group.pairs
    with oracle.asking(group, question) as context:
        found = oracle.gradient_method("ixg").score(context, basis)
    scores = cross.score_of_nodes(found, question.error_policy)
    size = 1e-3
    for node in some_nodes(pairs.length, question.error_policy):

        def at(index: int, share: float, node: Node = node) -> Tensor:
            return moved(slow, pairs, index, node, share, question)

        slopes = [
            (8 * (at(index, size) - at(index, -size)) - (at(index, 2 * size) - at(index, -2 * size))) / (12 * size)
            for index in range(len(pairs))
        ]
        assert scores[node] == pytest.approx(float(sum(slopes)) / len(pairs), rel=1e-7, abs=1e-8), node
    assert max(abs(value) for value in scores.values()) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("question", oracle.COVERING, ids=str)
def test_patching_equals_one_node_at_a_time(
    architecture: str, cross_group: GroupPair, question: oracle.Question
) -> None:
    slow, basis, pairs = cross.slow(architecture), cross.basis(architecture), cross_group.attribution.pairs
    with oracle.asking(cross_group.attribution, question) as context:
        found = ActivationPatching().score(context, basis)
    scores = cross.score_of_nodes(found, question.error_policy)
    clean = [slow.plain.metric(pairs, index, slow.plain.logits(pairs.clean[index])[0]) for index in range(len(pairs))]
    for node in some_nodes(pairs.length, question.error_policy):
        effects = [moved(slow, pairs, index, node, 1.0, question) - clean[index] for index in range(len(pairs))]
        assert scores[node] == pytest.approx(float(sum(effects)) / len(pairs), abs=1e-10), node
    assert max(abs(value) for value in scores.values()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_scores_are_products_with_all_that_a_node_writes(architecture: str, rule: str) -> None:
    """Each node's change at every layer that it writes to, times the gradient there, under every condition."""
    slow, basis, group = (
        cross.slow(architecture),
        cross.basis(architecture),
        cross.contexts(architecture)[1].attribution,
    )
    pairs = group.pairs
    places = [slow.plain.where("mlp_out", layer) for layer in range(cross.LAYERS)]
    for question in oracle.QUESTIONS:
        end = question.end if rule == "ig" else "mean"
        with oracle.asking(group, question) as context:
            found = oracle.gradient_method(rule).score(context, basis)
        scores = cross.score_of_nodes(found, question.error_policy)
        for node in random.Random(question.end).sample(some_nodes(pairs.length, question.error_policy), 12):
            products = [
                oracle.mean_gradient(rule, slow.plain, pairs, pairs, index, places[layer], end)[node[1]] @ change
                for index in range(len(pairs))
                for layer, change in changes(slow, pairs, index, node, question).items()
            ]
            assert scores[node] == pytest.approx(float(sum(products)) / len(pairs), abs=1e-9), node


@pytest.mark.parametrize("question", oracle.COVERING, ids=str)
def test_magnitude_is_the_mean_size_of_the_change(
    architecture: str, cross_group: GroupPair, question: oracle.Question
) -> None:
    slow, basis, pairs = cross.slow(architecture), cross.basis(architecture), cross_group.attribution.pairs
    with oracle.asking(cross_group.attribution, question) as context:
        scores = cross.score_of_nodes(Magnitude().score(context, basis), question.error_policy)
    for node in some_nodes(pairs.length, question.error_policy):
        moves = []
        for index in range(len(pairs)):
            if isinstance(node[2], str):
                moves.append(changes(slow, pairs, index, node, question)[node[0]].norm())
            else:
                one, other = slow.values(pairs.clean[index]), slow.reference(question.end, pairs, pairs, index)
                moves.append((other.units[node[0]] - one.units[node[0]])[node[1], node[2]].abs())
        assert scores[node] == pytest.approx(float(sum(moves)) / len(pairs), abs=1e-12), node
