"""Gradient fields against finite differences, naive loops, identities, and explicitly spliced dictionaries."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.attribution.gradients import gradient_field
from basisbench.attribution.projection import project
from basisbench.models.model import Model
from basisbench.types import Ablation, Pairs, Scores
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")

RULES = ("ixg", "ig", "ig_inputs", "relp")
KINDS = ("mlp_act", "mlp_out", "attn_z", "attn_out", "resid_post")


def hooks_of_all_sites(model: Model) -> list[str]:
    return [model.hook(kind, layer) for layer in range(model.layers) for kind in KINDS]  # type: ignore[arg-type]


def score(architecture: str, name: str, rule: str, group: int, question: oracle.Question) -> Scores:
    with oracle.asking(oracle.contexts(architecture)[group].attribution, question) as context:
        return oracle.gradient_method(rule).score(context, oracle.basis(architecture, name))


def ends_of(context: GroupContext, hooks: Sequence[str], end: Ablation = "counterfactual") -> dict[str, Tensor]:
    """Return the activations that paths of `ig` run to."""
    values = {hook: context.activation(hook, "counterfactual") for hook in hooks}
    if end == "counterfactual":
        return values
    return {hook: (end == "mean") * value.mean(0, keepdim=True) for hook, value in values.items()}


# --- ixg --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@oracle.on_architectures(
    ("name",),
    whole=[(name,) for name in oracle.BASES],
    part=[(name,) for name in ("mlp_act", "attn_z", "sae_resid", "transcoder")],
)
def test_ixg_equals_finite_differences(architecture: str, name: str) -> None:
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    for number, question in enumerate((oracle.Question(), oracle.OLD)):  # one for each group
        pairs = oracle.contexts(architecture)[number].attribution.pairs
        scores = score(architecture, name, "ixg", number, question)
        for layer in range(oracle.LAYERS):
            units, errors = _differences(slow, twin, pairs, layer, question)
            torch.testing.assert_close(scores.units[layer], units, rtol=1e-7, atol=1e-8)
            assert (scores.errors is not None) == twin.has_error
            if scores.errors is not None:
                torch.testing.assert_close(scores.errors[layer], errors, rtol=1e-7, atol=1e-8)
            assert units.abs().max() > 1e-2


def _differences(
    slow: oracle.Naive, twin: oracle.NaiveBasis, pairs: Pairs, layer: int, question: oracle.Question
) -> tuple[Tensor, Tensor]:
    """Move one node a little way from its clean value to its target; a row of the batch per node."""
    directions = torch.stack([twin.direction(layer, unit) for unit in range(twin.units[layer])])
    total: Tensor | None = None
    for index in range(len(pairs)):
        clean, other = slow.values(twin, pairs.clean[index]), oracle.target(slow, twin, pairs, pairs, index, question)
        moves = []
        for position in range(pairs.length):
            steps = other.units[layer][position] - clean.units[layer][position]
            rows = [step * direction for step, direction in zip(steps, directions, strict=True)]
            error = other.errors[layer][position] - clean.errors[layer][position]
            rows += [error] if question.error_policy == "node" else list(error.diag())
            for row in rows:
                move = torch.zeros(pairs.length, len(row), dtype=torch.float64)
                move[position] = row
                moves.append(move)
        batch = torch.stack(moves)
        prompts = [pairs.clean[index]] * len(moves)

        def at(share: float, batch: Tensor = batch, prompts: list[Tensor] = prompts, index: int = index) -> Tensor:
            edits = {slow.where(twin.write, layer): lambda y: y + share * batch}
            return slow.metric(pairs, index, slow.logits(prompts, edits))

        size = 1e-3
        # Central differences of fourth order.
        slope = (8 * (at(size) - at(-size)) - (at(2 * size) - at(-2 * size))) / (12 * size)
        total = slope if total is None else total + slope
    assert total is not None
    table = (total / len(pairs)).view(pairs.length, -1)
    return table[:, : twin.units[layer]], table[:, twin.units[layer] :]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("mlp_act", "sae_mlp_out", "transcoder") else pytest.mark.slow)
        for name in oracle.BASES
    ],
)
def test_ixg_equals_the_gradient_through_a_spliced_basis(architecture: str, name: str) -> None:
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    for number, question in zip((0, 1, 1, 0), oracle.COVERING, strict=True):
        pairs = oracle.contexts(architecture)[number].attribution.pairs
        scores = score(architecture, name, "ixg", number, question)
        expected = oracle.spliced_scores(slow, twin, pairs, question)
        for layer in range(oracle.LAYERS):
            torch.testing.assert_close(scores.units[layer], expected.units[layer], rtol=0, atol=1e-11)
            if scores.errors is not None:
                torch.testing.assert_close(scores.errors[layer], expected.errors[layer], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", oracle.BASES)
def test_a_projection_is_the_product_with_what_each_unit_writes(architecture: str, name: str) -> None:
    twin, basis = oracle.naive_basis(architecture, name), oracle.basis(architecture, name)
    for layer, site in enumerate(basis.sites):
        directions = torch.stack([twin.direction(layer, unit) for unit in range(twin.units[layer])])
        gradient = torch.randn(3, 2, directions.shape[1], dtype=torch.float64, generator=torch.manual_seed(0))
        found = project(basis, site, gradient, twin.units[layer])
        torch.testing.assert_close(found, gradient @ directions.T, rtol=0, atol=1e-12)


# --- one sweep against one place at a time ------------------------------------------------------------------------


@pytest.mark.slow
@oracle.on_architectures(("rule",), whole=[(rule,) for rule in RULES], part=[(rule,) for rule in RULES])
def test_fields_of_one_sweep_equal_fields_of_one_hook_at_a_time(architecture: str, rule: str) -> None:
    model, group = oracle.model(architecture), oracle.contexts(architecture)[0].attribution
    hooks = hooks_of_all_sites(model)
    ends = ends_of(group, hooks)
    together = gradient_field(rule, model, group.batch, hooks, ends=ends)
    assert set(together) == set(hooks)
    for hook in hooks:
        alone = gradient_field(rule, model, group.batch, [hook], ends=ends)
        torch.testing.assert_close(together[hook], alone[hook], rtol=0, atol=1e-12)
        assert together[hook].abs().max() > 1e-3


@pytest.mark.slow
@oracle.on_architectures(("rule",), whole=[(rule,) for rule in RULES], part=[("ig",)])
def test_a_context_hands_out_the_field_of_each_site(architecture: str, rule: str) -> None:
    model, group = oracle.model(architecture), oracle.contexts(architecture)[1].attribution
    for name, question in zip(oracle.BASES, itertools.cycle(oracle.COVERING), strict=False):
        for site in oracle.basis(architecture, name).sites:
            ends = ends_of(group, [site.write], question.end)
            alone = gradient_field(rule, model, group.batch, [site.write], ends=ends)[site.write]
            with oracle.asking(group, question):
                torch.testing.assert_close(group.gradient_field(rule, site), alone, rtol=0, atol=1e-12)


@oracle.on_architectures((), whole=[()], part=[()])
def test_ixg_fields_equal_one_backward_pass_per_place(architecture: str) -> None:
    model, slow = oracle.model(architecture), oracle.naive(architecture)
    for group in oracle.contexts(architecture):
        pairs = group.attribution.pairs
        fields = gradient_field("ixg", model, group.attribution.batch, hooks_of_all_sites(model))
        for layer in range(oracle.LAYERS):
            for kind in KINDS:
                found = fields[model.hook(kind, layer)]  # type: ignore[arg-type]
                for index in range(len(pairs)):
                    expected = oracle.place_gradient(slow, pairs, index, slow.where(kind, layer))
                    torch.testing.assert_close(found[index], expected, rtol=0, atol=1e-11)


@pytest.mark.slow
@oracle.on_architectures(
    ("end", "tokens", "together"),
    # Each number of steps and of pairs to a pass; paths to zero, which are asked for apart, in one part and in many.
    whole=[
        ("mean", 1, 100_000),
        ("counterfactual", 70, 100_000),
        ("zero", 100_000, 100_000),
        ("mean", 70, 10),
        ("zero", 70, 10),
    ],
    part=[("mean", 70, 10)],
)
def test_ig_equals_a_loop_over_steps_and_places(
    architecture: str, end: Ablation, tokens: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps go into one pass, and whether all pairs fit into one."""
    monkeypatch.setattr("basisbench.attribution.gradients.TOKENS_PER_SWEEP", tokens)
    monkeypatch.setattr("basisbench.attribution.gradients.gradient_tokens", lambda _: together)
    model, slow, steps = oracle.model(architecture), oracle.naive(architecture), 7
    for group in oracle.contexts(architecture):
        pairs, hooks = group.attribution.pairs, hooks_of_all_sites(model)
        ends = ends_of(group.attribution, hooks, end)
        # Activations at zero give an output at its bias: the two paths are no longer one, and are asked for apart.
        sweeps = [hooks] if end != "zero" else [[hook] for hook in hooks]
        fields: dict[str, Tensor] = {}
        for sweep in sweeps:
            fields |= gradient_field("ig", model, group.attribution.batch, sweep, steps=steps, ends=ends)
        for layer in range(oracle.LAYERS):
            for kind in KINDS:
                place = slow.where(kind, layer)
                for index in range(len(pairs)):
                    expected = oracle.mean_gradient("ig", slow, pairs, pairs, index, place, end, steps)
                    found = fields[model.hook(kind, layer)][index]  # type: ignore[arg-type]
                    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.slow
def test_ig_inputs_equals_a_loop_over_steps(architecture: str) -> None:
    model, slow, steps = oracle.model(architecture), oracle.naive(architecture), 4
    for group in oracle.contexts(architecture):
        pairs = group.attribution.pairs
        fields = gradient_field("ig_inputs", model, group.attribution.batch, hooks_of_all_sites(model), steps=steps)
        for index in range(len(pairs)):
            for layer in range(oracle.LAYERS):
                for kind in KINDS:
                    place = slow.where(kind, layer)
                    expected = oracle.mean_gradient("ig_inputs", slow, pairs, pairs, index, place, "mean", steps)
                    found = fields[model.hook(kind, layer)][index]  # type: ignore[arg-type]
                    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_ten_steps_unless_asked_otherwise(architecture: str) -> None:
    model, group = oracle.model(architecture), oracle.contexts(architecture)[1].attribution
    hook = model.hook("mlp_out", 0)
    ends = ends_of(group, [hook])
    for rule in ("ig", "ig_inputs"):
        default = gradient_field(rule, model, group.batch, [hook], ends=ends)[hook]
        assert torch.equal(default, gradient_field(rule, model, group.batch, [hook], steps=10, ends=ends)[hook])
        other = gradient_field(rule, model, group.batch, [hook], steps=9, ends=ends)[hook]
        assert not torch.allclose(default, other, rtol=1e-6)


# --- completeness ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@oracle.on_architectures(
    ("name", "end", "numbers"),
    whole=[
        (name, end, (50, 100, 200))
        for name in oracle.BASES
        for end in oracle.ABLATIONS
        # Activations at zero are no end of a dictionary's path: with units and errors at zero it writes its bias. And a
        # norm of a residual stream that goes to zero turns over within its epsilon, which no even steps resolve.
        if end != "zero" or (name in oracle.EXACT and name != "resid")
        # To the counterfactual from every basis; elsewhere from one of each family, and from one of each kind.
        if end == "counterfactual" or name in ("mlp_act", "attn_out", "resid", "transcoder", "sae_attn_out")
    ],
    # Norms on both sides bend the path more than others do: the error is linear in the step only for shorter ones.
    part=[
        (name, end, (200, 400, 800))
        for name, end in (("mlp_act", "mean"), ("attn_z", "counterfactual"), ("transcoder", "counterfactual"))
    ],
)
def test_ig_sums_over_a_layer_to_the_effect_of_moving_it(
    architecture: str, name: str, end: Ablation, numbers: tuple[int, int, int]
) -> None:
    """All units and errors of one layer sum to the metric with the whole site at its target, minus the clean metric.

    The path is sampled at its left ends, so the error of n steps is half the change of slope over n, which is known
    from the slopes at both ends: what is left is a thousandth of the effect at most.
    """
    model, slow = oracle.model(architecture), oracle.naive(architecture)
    twin, basis = oracle.naive_basis(architecture, name), oracle.basis(architecture, name)
    context = oracle.contexts(architecture)[0].attribution
    pairs = context.pairs
    for layer, site in enumerate(basis.sites):
        place = slow.where(twin.write, layer)
        effect, slopes = torch.zeros(()), 0.0
        for index in range(len(pairs)):
            clean = slow.watched(pairs.clean[index], {"": place})[""]
            other = oracle.path_end(slow, pairs, pairs, index, place, end)
            patched = slow.logits(pairs.clean[index], {place: lambda _, value=other: value.unsqueeze(0)})
            plain = slow.logits(pairs.clean[index])
            effect = effect + (slow.metric(pairs, index, patched) - slow.metric(pairs, index, plain)) / len(pairs)
            at_start, at_end = (oracle.place_gradient(slow, pairs, index, place, point) for point in (clean, other))
            slopes += float(((at_end - at_start) * (other - clean)).sum()) / len(pairs)
        shortfall = []
        for steps in numbers:
            # A context that holds this field and no other.
            fresh = GroupContext(model, pairs, 0)
            fresh.start(end)
            ends = ends_of(context, [site.write], end)
            field = gradient_field("ig", model, context.batch, [site.write], steps=steps, ends=ends)[site.write]
            for each in basis.sites:
                fresh._fields[f"ig to {end}", each.write] = field if each == site else torch.zeros_like(field)
            scores = oracle.gradient_method("ig").score(fresh, basis)
            total = scores.units[layer].sum()
            if scores.errors is not None:
                total = total + scores.errors[layer].sum()
            shortfall.append(float(effect - total))
        assert abs(shortfall[0]) > 1e-6
        rests = [found - slopes / (2 * steps) for found, steps in zip(shortfall, numbers, strict=True)]
        assert abs(rests[2]) < 1e-3 * abs(effect)
        if end != "counterfactual":  # slopes at both ends may be nearly the same: no linear part to see
            continue
        for coarse, fine in pairwise(shortfall):
            assert coarse / fine == pytest.approx(2, abs=0.15)
        # What is left when the linear part of the error is taken away is of second order.
        assert abs(2 * shortfall[2] - shortfall[1]) < 0.05 * abs(shortfall[2])


@pytest.mark.slow
def test_ig_inputs_sums_over_the_embeddings_to_the_metric_difference(architecture: str) -> None:
    model, slow = oracle.model(architecture), oracle.naive(architecture)
    group, embed = oracle.contexts(architecture)[0].attribution, slow.where("embed")
    pairs = group.pairs
    effect, changes = 0.0, []
    for index in range(len(pairs)):
        clean = slow.watched(pairs.clean[index], {"": embed})[""]
        changes.append(slow.watched(pairs.counterfactual[index], {"": embed})[""] - clean)
        # The other prompt's metric, on the answers of the clean one.
        other = slow.metric(pairs, index, slow.logits(pairs.counterfactual[index]))
        effect += float(other - slow.metric(pairs, index, slow.logits(pairs.clean[index])))
    shortfall = []
    for steps in (50, 100, 200):
        field = gradient_field("ig_inputs", model, group.batch, ["embed.hook_out"], steps=steps)["embed.hook_out"]
        shortfall.append(effect - float((field * torch.stack(changes)).sum()))
    for coarse, fine in pairwise(shortfall):
        assert coarse / fine == pytest.approx(2, abs=0.2)
    assert abs(shortfall[-1]) < 0.05 * abs(effect)


@pytest.mark.slow
def test_ig_inputs_sums_along_the_path_that_a_layer_really_takes(architecture: str) -> None:
    """Inside the model the straight path of the embeddings bends, so field times difference has no sum to reach.

    What adds up is each step's gradient times that step's own change of the residual stream, through which
    everything flows: those gradients are the ones whose mean is the field.
    """
    model, slow = oracle.model(architecture), oracle.naive(architecture)
    context, embed = oracle.contexts(architecture)[1].attribution, slow.where("embed")
    one = _one(context, 0)
    pairs, hook, place = one.pairs, model.hook("resid_post", 0), slow.where("resid_post", 0)
    ends = [slow.watched(prompt, {"": embed})[""] for prompt in (pairs.clean[0], pairs.counterfactual[0])]

    def stream(share: float) -> Tensor:
        seen: list[Tensor] = []
        edits = {embed: lambda _: torch.lerp(*ends, share).unsqueeze(0), place: lambda y: seen.append(y[0])}
        slow.logits(pairs.clean[0], edits)
        return seen[0]

    effect = slow.metric(pairs, 0, slow.logits(pairs.counterfactual[0])) - slow.metric(
        pairs, 0, slow.logits(pairs.clean[0])
    )
    shortfall = []
    for steps in (40, 80, 160):
        change, total = torch.zeros(()), torch.zeros(())
        for step in range(steps):
            point = torch.lerp(*ends, step / steps)
            gradient = oracle.gradient_with(slow, pairs, 0, place, {embed: lambda _, point=point: point.unsqueeze(0)})
            change = change + (gradient * (stream((step + 1) / steps) - stream(step / steps))).sum()
            total = total + gradient
        shortfall.append(float(effect - change))
        field = gradient_field("ig_inputs", model, one.batch, [hook], steps=steps)[hook][0]
        torch.testing.assert_close(field, total / steps, rtol=0, atol=1e-10)
    for coarse, fine in pairwise(shortfall):
        assert coarse / fine == pytest.approx(2, abs=0.2)


def _one(context: GroupContext, index: int) -> GroupContext:
    pairs = context.pairs
    chosen = replace(
        pairs,
        clean=pairs.clean[index : index + 1],
        counterfactual=pairs.counterfactual[index : index + 1],
        answers=pairs.answers[index : index + 1],
        foils=pairs.foils[index : index + 1],
    )
    return GroupContext(context.model, chosen, 0)
