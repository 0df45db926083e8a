"""Curve values equal a slow evaluator: one prompt at a time, plain hooks on the Hugging Face model, Python sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from basisbench.attribution.context import GroupContext
from basisbench.circuits.circuit import CircuitMask
from basisbench.circuits.evaluate import evaluate
from basisbench.circuits.group import GroupPair
from basisbench.circuits.ranking import pooled_scores, rank
from basisbench.types import Ablation, ErrorPolicy, Pairs, Scores
from helpers import oracle
from helpers.oracle import Node
from helpers.passes import circuits_and_complements, masks_of, measure_group, measured, tokens_to_a_pass

pytestmark = pytest.mark.usefixtures("double_precision")


# A basis without errors has one policy; test_endpoints holds that the others change nothing.
CELLS = [(name, "coordinates") for name in oracle.EXACT] + [
    (name, policy) for name in oracle.DICTIONARIES for policy in oracle.POLICIES
]


def circuits_of(order: Sequence[Node], sizes: Sequence[int], policy: str, length: int) -> list[set[Node]]:
    """Return the circuit of each size, then the complement of each."""
    chosen = [set(order[:size]) for size in sizes] + [set(order[size:]) for size in sizes]
    return [oracle.with_free_errors(circuit, policy, length) for circuit in chosen]


# Every policy of every basis, under the ablations in turn; what covers all pairs of these comes with it.
IN_TURN = [(*cell, oracle.ABLATIONS[place % 3]) for place, cell in enumerate(CELLS)]


@oracle.on_architectures(
    ("name", "policy", "ablation"),
    whole=dict.fromkeys((*oracle.COVERING_CELLS, *IN_TURN)),
    part=oracle.COVERING_CELLS,
)
def test_curves_equal_the_slow_evaluator(architecture: str, name: str, policy: ErrorPolicy, ablation: Ablation) -> None:
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    basis = oracle.basis(architecture, name)
    # The second group has another length, other pairs and other numbers of pairs.
    for seed, group in enumerate(oracle.contexts(architecture)):
        attribution, evaluation = group.attribution.pairs, group.evaluation.pairs
        scores = oracle.random_scores(twin, evaluation.length, seed, policy)
        mapping = oracle.score_of_nodes(scores, twin, policy)
        order = oracle.ranked(mapping, list(mapping))
        sizes = [len(order) // 5, len(order) // 2]
        circuits = circuits_of(order, sizes, policy, evaluation.length)
        expected = oracle.naive_circuits(slow, twin, attribution, evaluation, ablation, circuits)

        cell = oracle.cell(name, ablation=ablation, error_policy=policy)
        curve = measure_group(cell, basis, group, rank(scores, policy=policy), sizes)
        found = circuits_and_complements(curve)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        # The circuits differ from each other: equality with one of them would not do for the others.
        assert torch.unique(expected.round(decimals=6), dim=0).shape[0] == len(circuits)
        assert curve.error_nodes == [sum(isinstance(unit, str) for _, _, unit in order[:size]) for size in sizes]
        assert curve.feature_nodes == [sum(isinstance(unit, int) for _, _, unit in order[:size]) for size in sizes]


@pytest.mark.parametrize(
    ("name", "ablation"),
    [
        pytest.param(
            name,
            ("mean", "counterfactual")[place % 2],
            marks=() if name in ("mlp_act", "transcoder") else pytest.mark.slow,
        )
        for place, name in enumerate(oracle.BASES)
    ],
)
def test_single_precision_gives_the_same_curves_up_to_rounding(
    architecture: str, name: str, ablation: Ablation
) -> None:
    """In float32 the harness runs packed weights and quick dictionaries; the slow evaluator stays in float64."""
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    basis = oracle.basis(architecture, name, "float32")
    for seed, group in enumerate(oracle.contexts(architecture, "float32")):
        attribution, evaluation = group.attribution.pairs, group.evaluation.pairs
        scores = oracle.random_scores(twin, evaluation.length, seed)
        mapping = oracle.score_of_nodes(scores, twin)
        order = oracle.ranked(mapping, list(mapping))
        sizes = [len(order) // 3, len(order)]
        circuits = circuits_of(order, sizes, "coordinates", evaluation.length)
        expected = oracle.naive_circuits(slow, twin, attribution, evaluation, ablation, circuits)
        cell = oracle.cell(name, ablation=ablation)
        curve = measure_group(cell, basis, group, rank(scores, policy="coordinates"), sizes)
        found = circuits_and_complements(curve)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert (found - expected).abs().max() > 1e-12, "this should have been single precision"


def _with_common_prefix(pairs: Pairs, lengths: tuple[int, int], first: int) -> Pairs:
    """Return pairs whose clean and counterfactual prompts begin with so many tokens of one fixed prompt.

    The token after them differs between any two prompts, here and in other groups with another `first`.
    """
    parts = []
    for tokens, length, start in zip((pairs.clean, pairs.counterfactual), lengths, (first, first + 5), strict=True):
        changed = tokens.copy()
        changed[:, :length] = np.arange(20, 20 + length)
        changed[:, length] = start + np.arange(len(tokens))
        parts.append(changed)
    return replace(pairs, clean=parts[0], counterfactual=parts[1])


# Tokens in common: attribution clean and counterfactual, evaluation clean and counterfactual.
PREFIXES = {
    "nothing": (0, 0, 0, 0),
    "three": (3, 3, 3, 3),
    "all but the last": (4, 4, 4, 4),
    "less in the counterfactual prompts": (4, 3, 4, 1),
    "less in the attribution split": (3, 1, 3, 4),
    "less in the clean prompts": (4, 4, 2, 4),
}


@oracle.on_architectures(
    ("name", "prefix", "ablation"),
    whole=[  # all pairs of two of the three
        (name, prefix, oracle.ABLATIONS[(place + number) % 3])
        for place, name in enumerate(("mlp_act", "transcoder", "sae_attn_out", "resid"))
        for number, prefix in enumerate(PREFIXES)
    ],
    # Windows reach back three positions: a prefix of three and more is partly out of their sight.
    part=(
        ("mlp_act", "three", "mean"),
        ("attn_z", "all but the last", "counterfactual"),
        ("resid", "all but the last", "mean"),
        ("transcoder", "less in the clean prompts", "counterfactual"),
        ("sae_attn_out", "three", "zero"),
    ),
)
def test_what_prompts_have_in_common_does_not_matter(
    architecture: str, name: str, prefix: str, ablation: Ablation
) -> None:
    """The harness does not run common first tokens again, nor positions of the last block that reach no logit."""
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    model, basis = oracle.model(architecture), oracle.basis(architecture, name)
    lengths = PREFIXES[prefix]
    attribution = _with_common_prefix(oracle.random_pairs(3, 5, 21), lengths[:2], 2)
    evaluation = _with_common_prefix(oracle.random_pairs(2, 5, 22, split="evaluation"), lengths[2:], 12)
    scores = oracle.random_scores(twin, 5, 3)
    mapping = oracle.score_of_nodes(scores, twin)
    order = oracle.ranked(mapping, list(mapping))
    sizes = [len(order) // 4]
    circuits = circuits_of(order, sizes, "coordinates", 5)
    expected = oracle.naive_circuits(slow, twin, attribution, evaluation, ablation, circuits)
    curve = measure_group(
        oracle.cell(name, ablation=ablation),
        basis,
        GroupPair(GroupContext(model, attribution, 0), GroupContext(model, evaluation, 0)),
        rank(scores, policy="coordinates"),
        sizes,
    )
    found = circuits_and_complements(curve)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["mlp_act", "transcoder"])
def test_divergence_and_random_halves_of_a_group(architecture: str, name: str) -> None:
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    group, basis = oracle.contexts(architecture)[1], oracle.basis(architecture, name)
    attribution, evaluation = group.attribution.pairs, group.evaluation.pairs
    scores = oracle.random_scores(twin, evaluation.length, 5)
    mapping = oracle.score_of_nodes(scores, twin)
    order = oracle.ranked(mapping, list(mapping))
    ranking = rank(scores, policy="coordinates")
    sizes, size = [0, 9, len(order)], 12
    cell = oracle.cell(name, kl=True, subset_sizes=(size,), subset_draws=3)
    curve = measure_group(cell, basis, group, ranking, sizes)
    plain = measure_group(oracle.cell(name), basis, group, ranking, sizes)
    torch.testing.assert_close(circuits_and_complements(curve), circuits_and_complements(plain), rtol=0, atol=1e-11)
    assert plain.divergence is None
    assert plain.halves == []

    assert curve.divergence is not None
    for index in range(len(evaluation)):
        reference = slow.reference(twin, "mean", attribution, evaluation, index)
        full = slow.logits(evaluation.clean[index])[0].softmax(0)
        for row, count in enumerate(sizes):
            part = slow.circuit(twin, evaluation.clean[index], set(order[:count]), reference).softmax(0)
            expected = sum(float(p) * (np.log(float(p)) - np.log(float(q))) for p, q in zip(full, part, strict=True))
            assert curve.divergence[row][index] == pytest.approx(expected, abs=1e-10)

    keep = ranking.mask_with_random_halves(size, 3, group.evaluation.generator("random halves", size))
    live = [{node for node in order if _is_kept(keep, draw, node)} for draw in range(3)]
    expected_halves = oracle.naive_circuits(slow, twin, attribution, evaluation, "mean", live)
    found = torch.tensor(curve.halves[0], dtype=torch.float64)
    torch.testing.assert_close(found, expected_halves, rtol=0, atol=1e-10)
    assert len({frozenset(circuit) for circuit in live}) == 3


def _is_kept(keep: CircuitMask, draw: int, node: Node) -> bool:
    layer, position, unit = node
    if isinstance(unit, str):
        return bool(keep.errors[layer][draw, position, int(unit.removeprefix("error "))])
    return bool(keep.units[layer][draw, position, unit])


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("mlp_act", "coordinates"),
        *(("transcoder", policy) for policy in oracle.POLICIES),
        *(pytest.param("sae_resid", policy, marks=pytest.mark.slow) for policy in oracle.POLICIES),
    ],
)
def test_units_at_all_positions_together(architecture: str, name: str, policy: ErrorPolicy) -> None:
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    basis, groups = oracle.basis(architecture, name), oracle.contexts(architecture)
    lengths = [group.evaluation.pairs.length for group in groups]
    scores = [oracle.random_scores(twin, length, seed, policy) for seed, length in enumerate(lengths)]
    pairs = [group.attribution.pair_count for group in groups]
    pooled: dict[tuple[int, int | str], float] = {}
    for score, count in zip(scores, pairs, strict=True):
        for (layer, _, unit), value in oracle.score_of_nodes(score, twin, policy).items():
            pooled[layer, unit] = pooled.get((layer, unit), 0.0) + value * count / sum(pairs)
    # Rounding must not decide: two scores are the same or they differ clearly.
    gaps = np.diff(sorted(abs(value) for value in pooled.values()))
    assert not ((gaps > 1e-14) & (gaps < 1e-9)).any()
    nodes = [(layer, unit) for layer, _, unit in oracle.all_nodes(twin, 1, policy)]
    order = sorted(nodes, key=lambda node: (-round(abs(pooled[node]), 9), nodes.index(node)))

    ranking = rank(_without_noise(pooled_scores(scores, pairs)), policy=policy)
    assert ranking.nodes == len(order)
    sizes = [3, len(order) // 2]
    for group in groups:
        length = group.evaluation.pairs.length
        circuits = []
        for chosen in [order[:size] for size in sizes] + [order[size:] for size in sizes]:
            circuit = {(layer, position, unit) for layer, unit in chosen for position in range(length)}
            circuits.append(oracle.with_free_errors(circuit, policy, length))
        expected = oracle.naive_circuits(slow, twin, group.attribution.pairs, group.evaluation.pairs, "mean", circuits)
        cell = oracle.cell(name, error_policy=policy, granularity="unit")
        curve = measure_group(cell, basis, group, ranking, sizes)
        found = circuits_and_complements(curve)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        assert curve.units == [len({node for node in order[:size] if isinstance(node[1], int)}) for size in sizes]


def _without_noise(scores: Scores) -> Scores:
    """Round, so that scores that are equal on paper are equal in the ranking."""
    return Scores(
        tuple(units.round(decimals=9) for units in scores.units),
        None if scores.errors is None else tuple(errors.round(decimals=9) for errors in scores.errors),
    )


@pytest.mark.parametrize("name", ["mlp_out", "transcoder", "sae_resid"])
def test_the_size_of_a_batch_does_not_matter(architecture: str, name: str) -> None:
    group, basis = oracle.contexts(architecture)[0], oracle.basis(architecture, name)
    twin = oracle.naive_basis(architecture, name)
    ranking = rank(oracle.random_scores(twin, 5, 3), policy="coordinates")
    points = [(size, flip) for size in (1, 4, 30, 100) for flip in (False, True)]
    found = []
    for tokens in (1, 31, 75, 100_000):
        with tokens_to_a_pass(group.evaluation.model, tokens):
            found.append(measured(group, basis, "mean", ranking, points))
    one, *others = found
    for other in others:
        torch.testing.assert_close(other, one, rtol=0, atol=1e-12)


def test_the_divergence_is_that_of_full_model_from_circuit(architecture: str) -> None:
    group, basis = oracle.contexts(architecture)[0], oracle.basis(architecture, "sae_mlp_out")
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, "sae_mlp_out")
    pairs = group.evaluation.pairs
    scores = oracle.random_scores(twin, 5, 3)
    order = oracle.ranked(mapping := oracle.score_of_nodes(scores, twin), list(mapping))
    masks = masks_of(rank(scores, policy="coordinates"), [(9, False), (len(order), False)])
    found, plain = (evaluate(group, basis, "mean", masks, 2, fast=fast, divergence=True) for fast in (True, False))
    assert found.divergence is not None
    assert plain.divergence is not None
    torch.testing.assert_close(found.divergence, plain.divergence, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.metric, plain.metric, rtol=0, atol=1e-11)
    for index in range(len(pairs)):
        reference = slow.reference(twin, "mean", group.attribution.pairs, pairs, index)
        q = slow.circuit(twin, pairs.clean[index], set(order[:9]), reference).softmax(0)
        p = slow.logits(pairs.clean[index])[0].softmax(0)
        expected = sum(float(a) * (np.log(float(a)) - np.log(float(b))) for a, b in zip(p, q, strict=True))
        assert float(found.divergence[0, index]) == pytest.approx(expected, abs=1e-10)
        assert float(found.divergence[1, index]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["mlp_act_rotated", "transcoder"])
def test_curves_follow_a_permutation_of_the_pairs(architecture: str, name: str) -> None:
    group, basis = oracle.contexts(architecture)[0], oracle.basis(architecture, name)
    twin = oracle.naive_basis(architecture, name)
    ranking = rank(oracle.random_scores(twin, 5, 3), policy="coordinates")
    order = [2, 0, 1]
    shuffled = GroupContext(group.evaluation.model, permuted(group.evaluation.pairs, order), 0)
    reshuffled = GroupContext(group.evaluation.model, permuted(group.attribution.pairs, [3, 1, 0, 2]), 0)
    for ablation in oracle.ABLATIONS:
        cell = oracle.cell(name, ablation=ablation)
        one = measure_group(cell, basis, group, ranking, [0, 11, 99])
        other = measure_group(cell, basis, GroupPair(reshuffled, shuffled), ranking, [0, 11, 99])
        expected = circuits_and_complements(one)[:, order]
        torch.testing.assert_close(circuits_and_complements(other), expected, rtol=0, atol=1e-11)


def permuted(pairs: Pairs, order: Sequence[int]) -> Pairs:
    """Return the pairs in another order."""
    index = np.asarray(order)
    return replace(
        pairs,
        **{name: getattr(pairs, name)[index] for name in ("clean", "counterfactual", "answers", "foils")},
    )
