"""F(M) and F(0): keeping everything is the model, keeping nothing is one number for every basis of a family."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.circuits.group import GroupPair
from basisbench.circuits.ranking import Ranking, rank
from basisbench.circuits.reference import constant_edits, reference_outputs
from basisbench.types import Ablation, ErrorPolicy
from helpers import oracle
from helpers.passes import circuits_and_complements, edits_of, measure_group, measured

pytestmark = pytest.mark.usefixtures("double_precision")

NEURONS = ("mlp_act", "mlp_out", "attn_z", "attn_out", "resid")


def ranking_of(architecture: str, name: str, length: int, policy: ErrorPolicy) -> Ranking:
    twin = oracle.naive_basis(architecture, name)
    return rank(oracle.random_scores(twin, length, 7, policy), policy=policy)


def ends_at_the_family_output(architecture: str, name: str, ablation: Ablation) -> bool:
    """Whether every node at its reference puts the family's output at its reference.

    A mean is not passed on by a norm between what the basis writes and the family's output; single values are.
    """
    return (
        ablation != "mean"
        or architecture not in oracle.POST_NORMS
        or oracle.WRITES[name] == oracle.FAMILY_OUTPUT[oracle.basis(architecture, name).family]
    )


def logits_with(
    architecture: str,
    name: str,
    group: GroupPair,
    ablation: Ablation,
    ranking: Ranking,
    size: int,
    complement: bool,
    *,
    fast: bool = True,
) -> Tensor:
    """Return the logits of one circuit, through the edits of a fast pass or of the definition."""
    model, basis = oracle.model(architecture), oracle.basis(architecture, name)
    with torch.inference_mode():
        edits = edits_of(group, basis, ablation, ranking.mask([size], [complement]), fast=fast)
        return model.logits(group.evaluation.batch.clean, edits)


MEAN = [(group, name, "mean", policy) for name in oracle.BASES for group, policy in ((0, "coordinates"), (1, "keep"))]


# Without errors there is one policy (a test below holds it). The groups take turns: no condition depends on them.
@oracle.on_architectures(
    ("group", "name", "ablation", "policy"),
    whole=dict.fromkeys(
        [
            *MEAN,
            *(
                (place % 2, name, ablation, policy)
                for place, (name, policy, ablation) in enumerate(
                    itertools.product(oracle.BASES, ("coordinates", "rotated", "node", "keep"), oracle.ABLATIONS)
                )
                if policy == "coordinates" or name not in oracle.EXACT
            ),
        ]
    ),
    part=MEAN,
)
def test_keeping_every_node_and_error_is_the_unhooked_model(
    architecture: str, group: GroupPair, name: str, ablation: Ablation, policy: ErrorPolicy
) -> None:
    plain = oracle.model(architecture).logits(group.evaluation.batch.clean)
    ranking = ranking_of(architecture, name, group.evaluation.pairs.length, policy)
    for size, complement in ((ranking.nodes, False), (0, True)):
        for fast in (False, True):
            kept = logits_with(architecture, name, group, ablation, ranking, size, complement, fast=fast)
            if name in NEURONS and not fast:  # a fast pass writes the last position alone in the last block
                assert torch.equal(kept, plain)
            else:
                torch.testing.assert_close(kept, plain, rtol=0, atol=1e-12)


@oracle.on_architectures(
    ("group", "name", "onednn"),
    whole=[(group, name, not group) for name in oracle.BASES for group in (0, 1)],
    part=[(0, name, True) for name in oracle.BASES],
)
def test_keeping_everything_is_the_unhooked_model_in_single_precision(
    architecture: str, group: GroupPair, name: str, onednn: bool
) -> None:
    model, basis = oracle.model(architecture, "float32"), oracle.basis(architecture, name, "float32")
    single = oracle.contexts(architecture, "float32")[oracle.contexts(architecture).index(group)]
    clean = single.evaluation.batch.clean
    ranking = ranking_of(architecture, name, single.evaluation.pairs.length, "coordinates")
    with torch.inference_mode():
        edits = edits_of(single, basis, "mean", ranking.mask([ranking.nodes], [False]))
        kept, plain = model.logits(clean, edits, fast=onednn), model.logits(clean, fast=onednn)
    assert kept.dtype == torch.float32
    if name in NEURONS:
        assert torch.equal(kept, plain)
    else:
        torch.testing.assert_close(kept, plain, rtol=1e-5, atol=1e-5)


def test_onednn_weights_change_nothing_but_rounding(architecture: str) -> None:
    model = oracle.model(architecture, "float32")
    tokens = model.tokens(oracle.two_groups().evaluation[0].clean)
    with torch.inference_mode():
        plain, fast = model.logits(tokens), model.logits(tokens, fast=True)
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
        place = model.place(model.hook("mlp_act", 0))
        edited = [model.logits(tokens, {place: lambda x: 2 * x}, fast=flag) for flag in (False, True)]
        torch.testing.assert_close(edited[0], edited[1], rtol=1e-5, atol=1e-5)
        assert (edited[0] - plain).abs().max() > 1e-2


@pytest.mark.parametrize("name", oracle.DICTIONARIES)
def test_dictionaries_are_saelens_own_up_to_rounding(architecture: str, name: str) -> None:
    """Without gradients a quick form may stand in for SAELens's modules; shapes and strides do not matter."""
    basis = oracle.basis(architecture, name, "float32")
    generator = torch.Generator().manual_seed(0)
    for site, saved in zip(basis.sites, oracle.dictionaries(architecture, name), strict=True):
        wide = torch.randn(4, 6, 3, oracle.D_MODEL, generator=generator)
        for x in (wide, wide[:, -1:], wide.transpose(0, 2), wide[:1].expand(5, -1, -1, -1), wide[0, 0, 0]):
            features = saved.encode(x.double())
            expected = saved.decode(features)
            for context in (torch.inference_mode(), torch.no_grad(), torch.enable_grad()):
                with context:
                    found = basis.encode(site, x)
                    decoded = basis.decode(site, features.float())
                torch.testing.assert_close(found.double(), features, rtol=0, atol=1e-4)
                torch.testing.assert_close(decoded.double(), expected, rtol=0, atol=1e-4)


def test_two_bases_at_one_site_do_not_share_coordinates(architecture: str) -> None:
    first = oracle.basis(architecture, "sae_mlp_out")
    # A second basis that reads and writes where the first does, with the residual stream's dictionaries.
    model = oracle.model(architecture)
    folders = {"sae_mlp_out": oracle.dictionary_folder(architecture, "sae_resid")}
    second = oracle.basis_spec("sae_mlp_out").build(replace(model, spec=replace(model.spec, dictionaries=folders)))
    context = GroupContext(model, oracle.two_groups().attribution[0], 0)
    for layer in range(oracle.LAYERS):
        for basis, name in ((first, "sae_mlp_out"), (second, "sae_resid"), (first, "sae_mlp_out")):
            site = basis.sites[layer]
            found, error = context.coordinates(basis, site, "clean")
            sae = oracle.dictionaries(architecture, name)[layer]
            activation = context.activation(site.read, "clean")
            torch.testing.assert_close(found, sae.encode(activation), rtol=0, atol=1e-12)
            torch.testing.assert_close(error, activation - sae.decode(found), rtol=0, atol=1e-12)


@oracle.on_architectures(
    ("group", "family", "ablation"),
    whole=itertools.product((0, 1), oracle.FAMILIES, ("mean", "counterfactual")),
    part=itertools.product((0,), oracle.FAMILIES, ("mean", "counterfactual")),
)
def test_keeping_nothing_is_one_number_for_every_basis_of_a_family(
    architecture: str, group: GroupPair, family: str, ablation: Ablation
) -> None:
    model, slow = oracle.model(architecture), oracle.naive(architecture)
    evaluation, attribution = group.evaluation.pairs, group.attribution.pairs
    kind = oracle.FAMILY_OUTPUT[family]
    places = {str(layer): slow.where(kind, layer) for layer in range(oracle.LAYERS)}
    # The same thing by hand: every output of the family is set to its mean, or to its counterfactual value.
    expected = []
    for index in range(len(evaluation)):
        prompts = [evaluation.counterfactual[index]] if ablation == "counterfactual" else attribution.counterfactual
        seen = [slow.watched(prompt, places) for prompt in prompts]
        values = {key: torch.stack([one[key] for one in seen]).mean(0, keepdim=True) for key in places}
        edits = {place: lambda _, value=values[key]: value for key, place in places.items()}
        expected.append(slow.logits(evaluation.clean[index], edits))
    by_hand = torch.cat(expected)

    for name in oracle.FAMILIES[family]:
        ranking = ranking_of(architecture, name, evaluation.length, "coordinates")
        others = [ranking_of(architecture, name, evaluation.length, policy) for policy in ("rotated", "node", "ablate")]
        nothings = [(ranking, ranking.nodes, True), *((used, 0, False) for used in (ranking, *others))]
        for used, size, complement in nothings:
            nothing = logits_with(architecture, name, group, ablation, used, size, complement)
            if ends_at_the_family_output(architecture, name, ablation):
                torch.testing.assert_close(nothing, by_hand, rtol=0, atol=1e-11)
            else:
                assert (nothing - by_hand).abs().max() > 1e-4

        basis = oracle.basis(architecture, name)
        layers = [site.layer for site in basis.sites]
        outputs = reference_outputs(basis.family, layers, ablation, group.attribution, group.evaluation)
        with torch.inference_mode():
            shared = model.logits(
                group.evaluation.batch.clean, constant_edits(model, outputs, slice(0, len(evaluation)))
            )
        torch.testing.assert_close(shared, by_hand, rtol=0, atol=1e-12)
        empty = group.empty(basis, ablation)
        metric = torch.stack([slow.metric(evaluation, index, row) for index, row in enumerate(by_hand)])
        torch.testing.assert_close(empty, metric, rtol=0, atol=1e-12)


def test_the_two_ends_differ(architecture: str, group: GroupPair) -> None:
    for name in oracle.BASES:
        basis = oracle.basis(architecture, name)
        full = group.evaluation.clean_metric()
        for ablation in oracle.ABLATIONS:
            empty = group.empty(basis, ablation)  # type: ignore[arg-type]
            assert (full - empty).abs().min() > 1e-3


@oracle.on_architectures(
    ("group", "name", "policy", "ablation"),
    whole=dict.fromkeys(
        [
            *((1, *cell) for cell in oracle.COVERING_CELLS),
            *(
                (place % 2, name, policy, ablation)  # the groups take turns
                for place, (name, policy, ablation) in enumerate(
                    itertools.product(oracle.BASES, oracle.POLICIES, oracle.ABLATIONS)
                )
                # Without errors there is one policy; the next test holds it.
                if policy == "node" or name not in oracle.EXACT
            ),
        ]
    ),
    part=[(1, *cell) for cell in oracle.COVERING_CELLS],
)
def test_points_taken_for_granted_equal_really_evaluating_them(
    architecture: str, group: GroupPair, name: str, ablation: Ablation, policy: ErrorPolicy
) -> None:
    model, basis = oracle.model(architecture), oracle.basis(architecture, name)
    ranking = ranking_of(architecture, name, group.evaluation.pairs.length, policy)
    sizes = [0, 3, ranking.nodes, ranking.nodes + 10]
    cell = oracle.cell(name, ablation=ablation, error_policy=policy)
    curve = measure_group(cell, basis, group, ranking, sizes)
    points = [(min(size, ranking.nodes), complement) for complement in (False, True) for size in sizes]
    found = circuits_and_complements(curve)
    expected = measured(group, basis, ablation, ranking, points, fast=False)
    if not ends_at_the_family_output(architecture, name, ablation):
        # F(0) is the family's, so that all its bases share one denominator (docs/numbers.md, "Metric").
        nothing = [index for index, point in enumerate(points) if point in ((0, False), (ranking.nodes, True))]
        assert (found - expected)[nothing].abs().max() > 1e-4
        expected[nothing] = group.empty(basis, ablation)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    plain = group.evaluation.batch.metric(model.logits(group.evaluation.batch.clean))
    torch.testing.assert_close(torch.tensor(curve.full, dtype=torch.float64), plain, rtol=0, atol=0)


@oracle.on_architectures(
    ("name",), whole=[(name,) for name in oracle.EXACT], part=[(name,) for name in ("mlp_act", "attn_z")]
)
def test_the_error_policy_changes_nothing_for_a_basis_without_errors(architecture: str, name: str) -> None:
    group = oracle.contexts(architecture)[0]
    basis = oracle.basis(architecture, name)
    curves = []
    for policy in oracle.POLICIES:
        ranking = ranking_of(architecture, name, group.evaluation.pairs.length, policy)  # type: ignore[arg-type]
        cell = oracle.cell(name, error_policy=policy)
        sizes = [0, 5, 40, ranking.nodes]
        curves.append(measure_group(cell, basis, group, ranking, sizes))
    for other in curves[1:]:
        for part in ("circuit", "complement", "full", "empty"):
            torch.testing.assert_close(
                torch.tensor(getattr(other, part)), torch.tensor(getattr(curves[0], part)), rtol=0, atol=1e-11
            )
        assert (other.feature_nodes, other.error_nodes) == (curves[0].feature_nodes, [0, 0, 0, 0])


def test_the_control_is_a_rotation_and_not_the_identity(architecture: str) -> None:
    rotations = oracle.basis(architecture, "mlp_act_rotated").rotations  # type: ignore[attr-defined]
    eye = torch.eye(oracle.D_MLP, dtype=torch.float64)
    for rotation in rotations:
        torch.testing.assert_close(rotation @ rotation.T, eye, rtol=0, atol=1e-12)
        assert rotation.abs().max() < 0.95
    assert not torch.allclose(rotations[0], rotations[1])


@pytest.mark.parametrize("name", oracle.DICTIONARIES)
def test_errors_are_what_the_dictionary_does_not_reconstruct(architecture: str, group: GroupPair, name: str) -> None:
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    basis, pairs = oracle.basis(architecture, name), group.attribution.pairs
    for side, prompts in (("clean", pairs.clean), ("counterfactual", pairs.counterfactual)):
        for index, prompt in enumerate(prompts):
            values = slow.values(twin, prompt)
            for layer, site in enumerate(basis.sites):
                units, errors = group.attribution.coordinates(basis, site, side)  # type: ignore[arg-type]
                assert errors is not None
                torch.testing.assert_close(units[index], values.units[layer], rtol=0, atol=1e-12)
                torch.testing.assert_close(errors[index], values.errors[layer], rtol=0, atol=1e-12)
