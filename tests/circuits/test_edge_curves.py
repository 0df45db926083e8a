"""Circuits of edges: the slow definition, what they are with all edges and with all but one, and their curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from basisbench.attribution.chosen_nodes import ChosenNodes
from basisbench.attribution.edge_scores import EdgeScores, edge_scores, possible_edges
from basisbench.circuits.edge_curve import GroupEdges, edge_curve, rank_edges
from basisbench.circuits.edge_pass import EdgePass, edge_pass
from basisbench.circuits.group import GroupPair
from basisbench.models.model import Model
from helpers import oracle
from helpers.edge_oracle import LAYERS, SlowEdges, chosen, deep_basis, deep_model, deep_naive, neurons
from helpers.oracle import Node, Question
from helpers.passes import metric_of_nodes, twice

pytestmark = pytest.mark.usefixtures("double_precision")

PAIRS = oracle.random_pairs(2, 4, 5)
NODES: tuple[Node, ...] = ((2, 3, 4), (2, 1, 2), (0, 1, 3), (1, 2, 0), (1, 3, 1), (2, 3, 6))


def on_pairs(model: Model, question: Question) -> GroupPair:
    """Return the same pairs as both splits."""
    return twice(model, PAIRS, question.ablation, question.score_reference, question.error_policy)


def random_edges(nodes: ChosenNodes, seed: int, share: float = 0.5) -> Tensor:
    """Draw which of the edges that can be are kept."""
    possible = possible_edges(nodes, PAIRS.length)
    return possible & (torch.rand(possible.shape, generator=torch.Generator().manual_seed(seed)) < share)


def named(kept: Tensor, nodes: Sequence[Node]) -> set[tuple[object, object]]:
    sources = [*(("token", position) for position in range(PAIRS.length)), *nodes]
    targets = [*nodes, "logits"]
    return {(sources[row], targets[column]) for row, column in kept.nonzero().tolist()}


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("mlp_act", Question()),
        pytest.param("mlp_out", Question("counterfactual"), marks=pytest.mark.slow),
        pytest.param("attn_z", Question("zero"), marks=pytest.mark.slow),
        pytest.param("transcoder", Question(), marks=pytest.mark.slow),
        ("sae_mlp_out", Question("counterfactual", error_policy="rotated")),
    ],
)
def test_circuits_of_edges_equal_the_slow_definition(name: str, question: Question) -> None:
    if name in oracle.DICTIONARIES:
        model, basis, twin = oracle.model("llama"), oracle.basis("llama", name), oracle.naive_basis("llama", name)
        slow, layers = oracle.naive("llama"), oracle.LAYERS
        nodes: tuple[Node, ...] = ((0, 1, 2), (1, 3, 1), (0, 2, -3), (1, 3, -2), (0, 3, 5))
    else:
        model, basis, twin = deep_model("llama"), deep_basis("llama", name), neurons(name)
        slow, layers, nodes = deep_naive("llama"), LAYERS, NODES
    group = on_pairs(model, question)
    passes = edge_pass(group, chosen(group.attribution, basis, nodes))
    twin_edges = SlowEdges(slow, twin, PAIRS, question, layers)
    values = []
    for seed in range(3):
        kept = random_edges(passes.nodes, seed)
        values.append(passes.metric(kept))
        expected = [twin_edges.ablated(index, nodes, named(kept, nodes)) for index in range(len(PAIRS))]
        torch.testing.assert_close(values[-1], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)
    assert len(torch.stack(values).round(decimals=6).unique(dim=0)) == 3


@pytest.mark.parametrize("name", ["mlp_act", "attn_out", "resid", "transcoder", "sae_mlp_out"])
def test_with_every_edge_it_is_the_circuit_of_nodes(name: str) -> None:
    question = Question(error_policy="rotated" if name == "transcoder" else "coordinates")
    group, basis = on_pairs(oracle.model("llama"), question), oracle.basis("llama", name)
    nodes: tuple[Node, ...] = ((0, 1, 2), (1, 3, 1), (0, 3, 0), (1, 2, 5))
    if not basis.exact:
        nodes = (*nodes, (0, 2, -3), (1, 3, -2))
    passes = edge_pass(group, chosen(group.attribution, basis, nodes))
    everything = possible_edges(passes.nodes, PAIRS.length)
    meter = passes.model.meter
    before = meter.forward_equivalents
    found = passes.metric(everything)
    # One run for each site, as far as it, and one for the logits: with all edges nodes of a site have one input.
    assert meter.forward_equivalents - before == pytest.approx(len(PAIRS) * (0.5 + 1 + 1))
    torch.testing.assert_close(
        found, metric_of_nodes(group, basis, nodes, error_policy=question.error_policy), rtol=0, atol=1e-10
    )
    assert not torch.allclose(found, passes.metric(torch.zeros_like(everything)), atol=1e-3)


def test_all_nodes_and_all_edges_but_one_are_the_model_with_that_path_patched() -> None:
    question = Question("counterfactual")
    group, basis = on_pairs(oracle.model("llama"), question), oracle.basis("llama", "mlp_out")
    nodes = [
        (layer, position, unit) for layer in range(2) for position in range(1, 4) for unit in range(oracle.D_MODEL)
    ]
    passes = edge_pass(group, chosen(group.attribution, basis, nodes))
    everything = possible_edges(passes.nodes, PAIRS.length)
    torch.testing.assert_close(passes.metric(everything), group.full, rtol=0, atol=1e-10)
    first, second = nodes.index((0, 2, 7)), nodes.index((1, 3, 2))
    some = chosen(group.attribution, basis, (nodes[first], nodes[second]))
    patched = edge_scores(group.attribution, some, "path_patching").score
    length = PAIRS.length
    for row, column, score in (
        (length + first, second, patched[length, 1]),
        (length + first, len(nodes), patched[length, 2]),
        (2, second, patched[2, 1]),
        (3, len(nodes), patched[3, 2]),
    ):
        kept = everything.clone()
        kept[row, column] = False
        torch.testing.assert_close((passes.metric(kept) - group.full).mean(), score, rtol=0, atol=1e-10)
        assert abs(score) > 1e-6


def test_how_targets_are_batched_does_not_matter_and_no_hook_is_left() -> None:
    group, basis = on_pairs(oracle.model("llama"), Question()), oracle.basis("llama", "transcoder")
    nodes = ((0, 1, 2), (0, 1, 4), (0, 3, -1), (1, 3, 1), (1, 3, 2))
    passes = edge_pass(group, chosen(group.attribution, basis, nodes))
    kept = random_edges(passes.nodes, 0)
    at_once, before = passes.metric(kept), oracle.hooks_of(group.evaluation.model)
    one_by_one = EdgePass(passes.model, passes.nodes, passes.batch, passes.reference, passes.tokens, most=1)
    torch.testing.assert_close(one_by_one.metric(kept), at_once, rtol=0, atol=1e-12)
    assert oracle.hooks_of(group.evaluation.model) == before


def test_edges_are_ranked_by_size_and_those_without_a_score_at_random() -> None:
    score = torch.tensor([[0.0, -3.0, 0.0], [2.0, 0.0, 5.0], [9.0, 0.0, 0.0]])
    possible = torch.tensor([[True, True, True], [True, True, True], [False, True, True]])
    orders = []
    for seed in range(20):
        ranking = rank_edges(EdgeScores(score, None, possible), torch.Generator().manual_seed(seed))
        edges = [tuple(edge) for edge in ranking.edges.tolist()]
        assert edges[:3] == [(1, 2), (0, 1), (1, 0)]
        assert set(edges) == {tuple(edge) for edge in possible.nonzero().tolist()}
        assert ranking.scored == 3
        orders.append(tuple(edges[3:]))
        kept = ranking.kept(2, complement=False)
        assert kept.nonzero().tolist() == [[0, 1], [1, 2]]
        assert torch.equal(ranking.kept(2, complement=True), possible & ~kept)
    assert len(set(orders)) > 10


def test_the_curve_has_the_values_of_its_circuits_and_bisects() -> None:
    question = Question()
    group, basis = on_pairs(deep_model("llama"), question), deep_basis("llama", "mlp_act")
    passes = edge_pass(group, chosen(group.attribution, basis, NODES))
    scores = edge_scores(group.attribution, passes.nodes, "relp")
    ranking = rank_edges(scores, torch.Generator().manual_seed(0))
    ends = passes.metric(ranking.kept(0, complement=True)), passes.metric(ranking.kept(0, complement=False))
    edges = GroupEdges(passes, ranking, *ends)
    curve = edge_curve([edges, edges])
    total = len(ranking.edges)
    assert curve.sizes[:4] == (0, 1, 2, 5)
    assert curve.sizes[-1] == curve.total == total
    assert curve.scored == ranking.scored
    assert curve.full.shape == (2 * len(PAIRS),)
    for place, size in enumerate(curve.sizes):
        value = passes.metric(ranking.kept(size, complement=False)).tolist()
        assert curve.circuit[:, place].tolist() == pytest.approx(value * 2)
        if not np.isnan(curve.complement[0, place]):
            rest = passes.metric(ranking.kept(size, complement=True)).tolist()
            assert curve.complement[:, place].tolist() == pytest.approx(rest * 2)
    few = edge_curve([edges], at=[3])
    assert few.sizes == (0, 1, 3, total)
    assert not np.isnan(few.complement).any()
