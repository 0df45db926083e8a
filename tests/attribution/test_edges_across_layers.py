"""Edges of a cross-layer transcoder: a unit reaches a later node by what it writes at each layer before it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.attribution.edge_scores import edge_scores, possible_edges
from basisbench.circuits.edge_pass import edge_pass
from helpers import cross_layer_oracle as across
from helpers import oracle
from helpers.edge_oracle import chosen
from helpers.oracle_scores import relp_rules
from helpers.oracle_sites import Where
from helpers.passes import metric_of_nodes, twice

pytestmark = pytest.mark.usefixtures("double_precision")

PAIRS = oracle.random_pairs(2, 4, 5)
Node = tuple[int, int, int]


def slow_direct(index: int, source: Node, target: Node) -> Tensor:
    """Return what a source does to a later node of one pair, per unit of its own coordinate."""
    plain, parts = across.slow_model("llama"), across.files("llama")
    layer, position, unit = source
    leaves: dict[int, Tensor] = {}
    reads: dict[int, Tensor] = {}
    written: list[Tensor] = []

    def leaf(at: int) -> Callable[[Tensor], Tensor]:
        def edit(own: Tensor) -> Tensor:
            leaves[at] = own.detach().clone().requires_grad_()
            return leaves[at]

        return edit

    edits: dict[Where, Any] = {plain.where("mlp_out", at): leaf(at) for at in range(target[0])}
    edits[plain.where("mlp_out", target[0])] = written.append
    for at in range(target[0] + 1):
        place = across.read_place("llama", parts.read, at)
        edits[place] = lambda own, at=at: reads.__setitem__(at, own[0])
    with torch.enable_grad():
        plain.logits(PAIRS.clean[index], edits)
        units = [parts.encode(at, reads[at]) for at in range(target[0] + 1)]
        value = units[-1][target[1], target[2]]
        if target[2] < 0:
            value = (written[0][0] - parts.rebuilt(target[0], units))[target[1], -1 - target[2]]
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    total = torch.zeros((), dtype=torch.float64)
    for at, gradient in zip(leaves, found, strict=True):
        if gradient is None or at < layer:
            continue
        if unit >= 0:
            total = total + gradient[0, position] @ parts.direction(layer, unit, at)
        elif at == layer:
            total = total + gradient[0, position, -1 - unit]
    return total


def slow_onward(index: int, node: Node) -> Tensor:
    """Return the metric's whole gradient at a node: by what it writes at each layer."""
    plain, parts = across.slow_model("llama"), across.files("llama")
    total = torch.zeros((), dtype=torch.float64)
    for at in range(node[0], across.LAYERS):
        gradient = oracle.place_gradient(plain, PAIRS, index, plain.where("mlp_out", at))[node[1]]
        if node[2] >= 0:
            total = total + gradient @ parts.direction(node[0], node[2], at)
        elif at == node[0]:
            total = total + gradient[-1 - node[2]]
    return total


def some_nodes(context: GroupContext) -> tuple[Node, ...]:
    """Return two live units of each layer, and two coordinates of the error."""
    basis = across.basis("llama")
    live: list[Node] = []
    for layer, site in enumerate(basis.sites):
        position = (1, 2, 3)[layer]
        on = context.coordinates(basis, site, "clean")[0][:, position].abs().amin(0)
        live += [(layer, position, int(unit)) for unit in on.topk(2).indices]
    return (*live, (0, 1, -3), (2, 3, -3))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["relp", "ixg"])
def test_edges_equal_the_slow_twin(method: str) -> None:
    context, basis = GroupContext(across.model("llama"), PAIRS, 0), across.basis("llama")
    nodes = some_nodes(context)
    found = edge_scores(context, chosen(context, basis, nodes), method)
    slow = across.slow("llama")
    clean = [slow.values(prompt) for prompt in PAIRS.clean]
    with relp_rules(across.slow_model("llama")) if method == "relp" else nullcontext():
        for row, source in enumerate(nodes):
            for column, target in enumerate(nodes):
                expected = 0.0
                if source[0] < target[0] and source[1] <= target[1]:
                    for index, values in enumerate(clean):
                        end = slow.reference("mean", PAIRS, PAIRS, index)
                        layer, position, unit = source
                        tables = (
                            (end.units[layer], values.units[layer])
                            if unit >= 0
                            else (end.errors[layer], values.errors[layer])
                        )
                        ends = [table[position, unit if unit >= 0 else -1 - unit] for table in tables]
                        product = slow_direct(index, source, target) * slow_onward(index, target)
                        expected += float((ends[0] - ends[1]) * product) / len(PAIRS)
                score = float(found.score[PAIRS.length + row, column])
                assert score == pytest.approx(expected, rel=1e-8, abs=1e-9), (source, target)
    between = found.score[PAIRS.length :, :-1]
    assert between[0, 2].any()  # from unit to unit
    assert between[0, -1].any()  # to an error
    assert between[6, 4].any()  # from an error


def test_with_every_edge_it_is_the_circuit_of_nodes() -> None:
    group, basis = twice(across.model("llama"), PAIRS), across.basis("llama")
    nodes = some_nodes(group.attribution)
    passes = edge_pass(group, chosen(group.attribution, basis, nodes))
    expected = metric_of_nodes(group, basis, nodes)
    found = passes.metric(possible_edges(passes.nodes, PAIRS.length))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_all_nodes_and_all_edges_but_one_are_the_model_with_that_path_patched() -> None:
    group, basis = twice(across.model("llama"), PAIRS, "counterfactual"), across.basis("llama")
    some = some_nodes(group.attribution)
    nodes = [
        (layer, position, unit)
        for layer in range(across.LAYERS)
        for position in range(1, PAIRS.length)
        for unit in (*range(across.UNITS[layer]), *(-1 - coordinate for coordinate in range(oracle.D_MODEL)))
    ]
    passes = edge_pass(group, chosen(group.attribution, basis, nodes))
    everything = possible_edges(passes.nodes, PAIRS.length)
    torch.testing.assert_close(passes.metric(everything), group.full, rtol=0, atol=1e-10)
    patched = edge_scores(group.attribution, chosen(group.attribution, basis, some), "path_patching").score
    for source, target in ((0, 4), (0, 7), (2, 8), (6, 5)):
        kept = everything.clone()
        row = PAIRS.length + nodes.index(some[source])
        kept[row, len(nodes) if target == len(some) else nodes.index(some[target])] = False
        score = patched[PAIRS.length + source, target]
        torch.testing.assert_close((passes.metric(kept) - group.full).mean(), score, rtol=0, atol=1e-10)
        assert abs(score) > 1e-7
