"""A basis that writes to several sites equals a slow evaluator, keeps the endpoints, and scores what it should."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch

from basisbench.attribution.context import GroupContext
from basisbench.circuits.group import GroupPair
from basisbench.circuits.ranking import Ranking, pooled_scores, rank
from basisbench.circuits.reference import constant_edits, reference_outputs
from basisbench.runs.layer_subset import restrict
from basisbench.types import Ablation, ErrorPolicy, Pairs, Scores
from basisbench_baselines.methods.patching import ActivationPatching
from helpers import cross_layer_oracle as cross
from helpers import oracle
from helpers.oracle import Node
from helpers.passes import circuits_and_complements, edits_of, measure_group, measured, tokens_to_a_pass

pytestmark = pytest.mark.usefixtures("double_precision")


def free(circuit: set[Node], policy: str, length: int) -> set[Node]:
    """Add the error nodes that a policy keeps whatever the circuit."""
    errors = {(layer, position, "error") for layer in range(cross.LAYERS) for position in range(length)}
    return circuit | errors if policy == "keep" else circuit


def circuits_of(order: Sequence[Node], sizes: Sequence[int], policy: str, length: int) -> list[set[Node]]:
    chosen = [set(order[:size]) for size in sizes] + [set(order[size:]) for size in sizes]
    return [free(circuit, policy, length) for circuit in chosen]


def ranking_of(length: int, policy: ErrorPolicy, seed: int = 7) -> Ranking:
    return rank(cross.random_scores(length, seed, policy), policy=policy)


# --- curves


# Each policy with one ablation on one input hook, which is what quick tests see, and with the others on the other.
EACH_ONCE = [
    ("hook_resid_mid", policy, oracle.ABLATIONS[place % len(oracle.ABLATIONS)])
    for place, policy in enumerate(oracle.POLICIES)
]
CROSS = [
    ("mlp.hook_in", policy, ablation)
    for policy in oracle.POLICIES
    for ablation in oracle.ABLATIONS
    if ("hook_resid_mid", policy, ablation) not in EACH_ONCE
]


@pytest.mark.parametrize(
    ("read", "policy", "ablation"), [*EACH_ONCE, *(pytest.param(*case, marks=pytest.mark.slow) for case in CROSS)]
)
def test_curves_equal_the_slow_evaluator(architecture: str, read: str, policy: ErrorPolicy, ablation: Ablation) -> None:
    slow, basis = cross.slow(architecture, read), cross.basis(architecture, read=read)
    for seed, group in enumerate(cross.contexts(architecture, read=read)):
        attribution, evaluation = group.attribution.pairs, group.evaluation.pairs
        scores = cross.random_scores(evaluation.length, seed, policy)
        mapping = cross.score_of_nodes(scores, policy)
        order = oracle.ranked(mapping, list(mapping))
        sizes = [len(order) // 40, len(order) // 3]
        circuits = circuits_of(order, sizes, policy, evaluation.length)
        expected = slow.metrics(attribution, evaluation, ablation, circuits)
        ranking = rank(scores, policy=policy)
        cell = oracle.cell("transcoder", basis="clt", ablation=ablation, error_policy=policy)
        curve = measure_group(cell, basis, group, ranking, sizes)
        found = circuits_and_complements(curve)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        assert torch.unique(expected.round(decimals=6), dim=0).shape[0] == len(circuits)
        assert curve.error_nodes == [sum(isinstance(unit, str) for _, _, unit in order[:size]) for size in sizes]
        points = [(size, flip) for flip in (False, True) for size in sizes]
        plain = measured(group, basis, ablation, ranking, points, fast=False)
        torch.testing.assert_close(plain, expected, rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "read"),
    [("gemma2", "hook_resid_mid"), ("gemma3", "mlp.hook_in"), ("qwen3", "hook_resid_mid"), ("neox", "mlp.hook_in")],
)
def test_other_architectures_equal_the_slow_evaluator(other: str, read: str) -> None:
    slow, basis = cross.slow(other, read), cross.basis(other, read=read)
    for seed, group in enumerate(cross.contexts(other, read=read)):
        attribution, evaluation = group.attribution.pairs, group.evaluation.pairs
        scores = cross.random_scores(evaluation.length, seed)
        mapping = cross.score_of_nodes(scores)
        order = oracle.ranked(mapping, list(mapping))
        sizes = [0, len(order) // 40, len(order) // 3, len(order)]
        circuits = circuits_of(order, sizes, "coordinates", evaluation.length)
        expected = slow.metrics(attribution, evaluation, "mean", circuits)
        cell = oracle.cell("transcoder", basis="clt")
        curve = measure_group(cell, basis, group, rank(scores, policy="coordinates"), sizes)
        found = circuits_and_complements(curve)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ablation", ["mean", "counterfactual"])
def test_single_precision_gives_the_same_curves_up_to_rounding(architecture: str, ablation: Ablation) -> None:
    slow, basis = cross.slow(architecture), cross.basis(architecture, "float32")
    group = cross.contexts(architecture, "float32")[0]
    scores = cross.random_scores(5, 1)
    mapping = cross.score_of_nodes(scores)
    order = oracle.ranked(mapping, list(mapping))
    sizes = [len(order) // 20, len(order) // 3, len(order)]
    circuits = circuits_of(order, sizes, "coordinates", 5)
    expected = slow.metrics(group.attribution.pairs, group.evaluation.pairs, ablation, circuits)
    cell = oracle.cell("transcoder", basis="clt", ablation=ablation)
    curve = measure_group(cell, basis, group, rank(scores, policy="coordinates"), sizes)
    found = circuits_and_complements(curve)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - expected).abs().max() > 1e-12, "this should have been single precision"


@pytest.mark.parametrize("policy", oracle.POLICIES)
def test_units_at_all_positions_together(architecture: str, policy: ErrorPolicy) -> None:
    slow, basis, groups = cross.slow(architecture), cross.basis(architecture), cross.contexts(architecture)
    scores = [cross.random_scores(group.evaluation.pairs.length, seed, policy) for seed, group in enumerate(groups)]
    ranking = rank(pooled_scores(scores, [group.attribution.pair_count for group in groups]), policy=policy)
    size, names = ranking.nodes // 4, oracle.error_names(policy) or ["error"]
    for group in groups:
        length = group.evaluation.pairs.length
        kept = ranking.mask([size, size], [False, True])
        circuits = [
            {
                (layer, position, unit)
                for layer in range(cross.LAYERS)
                for position in range(length)
                for unit in [*kept.units[layer][row, 0].nonzero().flatten().tolist()]
                + [name for name, flag in zip(names, kept.errors[layer][row, 0].tolist(), strict=True) if flag]
            }
            for row in range(2)
        ]
        expected = slow.metrics(group.attribution.pairs, group.evaluation.pairs, "mean", circuits)
        cell = oracle.cell("transcoder", basis="clt", error_policy=policy, granularity="unit")
        curve = measure_group(cell, basis, group, ranking, [size])
        found = circuits_and_complements(curve)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_common_prefix_does_not_matter(architecture: str) -> None:
    slow, basis, model = cross.slow(architecture), cross.basis(architecture), cross.model(architecture)
    attribution, evaluation = (_with_prefix(oracle.random_pairs(3, 5, seed, split=split)) for seed, split in _SPLITS)
    group = GroupPair(GroupContext(model, attribution, 0), GroupContext(model, evaluation, 0))
    scores = cross.random_scores(5, 3)
    mapping = cross.score_of_nodes(scores)
    order = oracle.ranked(mapping, list(mapping))
    sizes = [len(order) // 4]
    for ablation in oracle.ABLATIONS:
        assert group.shared_work(basis, ablation).prefix.length == (0 if ablation == "zero" else 2)  # type: ignore[arg-type]
        expected = slow.metrics(attribution, evaluation, ablation, circuits_of(order, sizes, "coordinates", 5))
        cell = oracle.cell("transcoder", basis="clt", ablation=ablation)
        curve = measure_group(cell, basis, group, rank(scores, policy="coordinates"), sizes)
        found = circuits_and_complements(curve)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


_SPLITS = ((21, "attribution"), (22, "evaluation"))


def _with_prefix(pairs: Pairs) -> Pairs:
    pairs.clean[:, :2] = pairs.counterfactual[:, :2] = [20, 21]
    pairs.clean[:, 2] = 3
    pairs.counterfactual[:, 2] = 4
    return pairs


@pytest.mark.parametrize("tokens", [1, 31, 100_000])
def test_the_size_of_a_batch_does_not_matter(architecture: str, tokens: int) -> None:
    """With one token to a batch the pairs are run one by one, and every pass holds one circuit."""
    group, basis = cross.contexts(architecture)[0], cross.basis(architecture)
    ranking = ranking_of(5, "coordinates")
    points = [(size, flip) for size in (1, 4, 30, 100) for flip in (False, True)]
    with tokens_to_a_pass(group.evaluation.model, tokens):
        one = measured(group, basis, "counterfactual", ranking, points)
    other = measured(group, basis, "counterfactual", ranking, points, fast=False)
    torch.testing.assert_close(other, one, rtol=0, atol=1e-11)


# --- endpoints


# The groups take turns: no condition depends on them.
@pytest.mark.parametrize(
    ("number", "ablation", "policy", "fast"),
    [
        ((place // 2 + place // 8) % 2, *case)
        for place, case in enumerate(
            itertools.product(oracle.ABLATIONS, ("coordinates", "rotated", "node", "keep"), (False, True))
        )
    ],
)
def test_keeping_everything_is_the_unhooked_model(
    architecture: str, number: int, ablation: Ablation, policy: ErrorPolicy, fast: bool
) -> None:
    model, basis = cross.model(architecture), cross.basis(architecture)
    cross_group = cross.contexts(architecture)[number]
    clean = cross_group.evaluation.batch.clean
    ranking = ranking_of(clean.shape[1], policy)
    for size, complement in ((ranking.nodes, False), (0, True)):
        edits = edits_of(cross_group, basis, ablation, ranking.mask([size], [complement]), fast=fast)
        with torch.inference_mode():
            kept, plain = model.logits(clean, edits), model.logits(clean)
        torch.testing.assert_close(kept, plain, rtol=0, atol=0 if fast else 1e-12)


@pytest.mark.parametrize("ablation", ["mean", "counterfactual"])
@pytest.mark.parametrize("fast", [False, True])
def test_keeping_nothing_is_the_number_of_the_family(
    architecture: str, cross_group: GroupPair, ablation: Ablation, fast: bool
) -> None:
    model, basis, clean = cross.model(architecture), cross.basis(architecture), cross_group.evaluation.batch.clean
    layers = range(cross.LAYERS)
    outputs = reference_outputs(basis.family, layers, ablation, cross_group.attribution, cross_group.evaluation)
    with torch.inference_mode():
        shared = model.logits(clean, constant_edits(model, outputs, slice(0, len(clean))))
        for policy in ("coordinates", "rotated", "node", "ablate"):
            ranking = ranking_of(clean.shape[1], policy)  # type: ignore[arg-type]
            edits = edits_of(cross_group, basis, ablation, ranking.mask([0], [False]), fast=fast)
            torch.testing.assert_close(model.logits(clean, edits), shared, rtol=0, atol=1e-11)
    metric = cross_group.evaluation.batch.metric(shared)
    torch.testing.assert_close(cross_group.empty(basis, ablation), metric, rtol=0, atol=1e-11)
    neurons = oracle.basis_spec("mlp_out").build(model)
    torch.testing.assert_close(cross_group.empty(neurons, ablation), cross_group.empty(basis, ablation), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("fast", [False, True])
def test_a_model_in_half_precision(architecture: str, fast: bool) -> None:
    """Coordinates are float32; what is written is rounded to the model's type, and nothing is where nothing moves."""
    model, basis = cross.model(architecture, "bfloat16"), cross.basis(architecture, "bfloat16")
    group = cross.contexts(architecture, "bfloat16")[0]
    reference, clean = group.reference(basis, "mean"), group.evaluation.batch.clean
    assert {part.dtype for part in reference.units} == {torch.float32}
    ranking = ranking_of(5, "coordinates")
    with torch.inference_mode():
        plain = model.logits(clean)
        for size in (ranking.nodes, ranking.nodes // 3):
            edits = edits_of(group, basis, "mean", ranking.mask([size], [False]), fast=fast)
            kept = model.logits(clean, edits)
            if size == ranking.nodes and fast:
                assert torch.equal(kept, plain)
            assert kept.isfinite().all()
            assert (kept - plain).abs().max() < (0.5 if size == ranking.nodes else 100)
    precise = cross.contexts(architecture)[0].attribution
    for method in (oracle.gradient_method("ixg"), ActivationPatching()):
        found = method.score(group.attribution, basis)
        expected = method.score(precise, cross.basis(architecture))
        for one, other in zip(
            [*found.units, *(found.errors or ())], [*expected.units, *(expected.errors or ())], strict=True
        ):
            assert one.dtype == torch.float32
            assert (one - other).abs().max() < 0.25 * other.abs().max() + 0.05


@pytest.mark.parametrize("layers", [(0, 2), (1, 2), (1,)])
def test_some_layers_alone(architecture: str, layers: tuple[int, ...]) -> None:
    """What units of the other layers write is part of the error, which is live where it is kept."""
    slow, model = cross.slow(architecture), cross.model(architecture)
    basis = restrict(cross.basis(architecture), layers)
    group = cross.contexts(architecture)[0]
    pairs = group.attribution.pairs
    for site in basis.sites:
        context = GroupContext(model, pairs, 0)
        _, error = context.coordinates(basis, site, "clean")
        assert error is not None
        for index, prompt in enumerate(pairs.clean):
            values = slow.values(prompt)
            expected = values.errors[site.layer].clone()
            for source in set(range(site.layer)) - set(layers):
                expected += values.units[source] @ slow.parts.w_dec[source][:, site.layer - source]
            torch.testing.assert_close(error[index], expected, rtol=0, atol=1e-12)
    scores = cross.random_scores(5, 4)
    assert scores.errors is not None
    chosen = Scores(tuple(scores.units[layer] for layer in layers), tuple(scores.errors[layer] for layer in layers))
    ranking = rank(chosen, policy="coordinates")
    points = [(size, flip) for size in (0, 5, 60, ranking.nodes) for flip in (False, True)]
    values = [measured(group, basis, "mean", ranking, points, fast=fast) for fast in (False, True)]
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=1e-11)
    torch.testing.assert_close(values[0][0], group.empty(basis, "mean"), rtol=0, atol=1e-11)
    torch.testing.assert_close(values[0][1], group.full, rtol=0, atol=1e-11)
