"""Completeness: integrated gradients sum to the effect of the move along whose path they are taken."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.attribution.gradients import gradient_field
from basisbench.types import Ablation
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")


@cache
def field_along(architecture: str, hook: str, end: Ablation, steps: int) -> Tensor:
    """Return the field of `ig` at one hook, which is one for all bases that write there."""
    context = oracle.contexts(architecture)[0].attribution
    ends = oracle.ends_of(context, [hook], end)
    return gradient_field("ig", context.model, context.batch, [hook], steps=steps, ends=ends)[hook]


@cache
def effect_of_moving(architecture: str, kind: str, layer: int, end: Ablation) -> tuple[float, float]:
    """Return by how much the metric changes when a whole site moves, and the change of slope from start to end."""
    slow, pairs = oracle.naive(architecture), oracle.contexts(architecture)[0].attribution.pairs
    place, effect, slopes = slow.where(kind, layer), 0.0, 0.0
    for index in range(len(pairs)):
        clean = slow.watched(pairs.clean[index], {"": place})[""]
        other = oracle.path_end(slow, pairs, pairs, index, place, end)
        patched = slow.logits(pairs.clean[index], {place: lambda _, value=other: value.unsqueeze(0)})
        plain = slow.logits(pairs.clean[index])
        effect += float(slow.metric(pairs, index, patched) - slow.metric(pairs, index, plain)) / len(pairs)
        at_start, at_end = (oracle.place_gradient(slow, pairs, index, place, point) for point in (clean, other))
        slopes += float(((at_end - at_start) * (other - clean)).sum()) / len(pairs)
    return effect, slopes


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
    basis, context = oracle.basis(architecture, name), oracle.contexts(architecture)[0].attribution
    for layer, site in enumerate(basis.sites):
        effect, slopes = effect_of_moving(architecture, oracle.WRITES[name], layer, end)
        shortfall = []
        for steps in numbers:
            # A context that holds this field and no other.
            fresh = GroupContext(context.model, context.pairs, 0)
            fresh.start(end)
            field = field_along(architecture, site.write, end, steps)
            for each in basis.sites:
                fresh._fields[f"ig to {end}", each.write] = field if each == site else torch.zeros_like(field)
            scores = oracle.gradient_method("ig").score(fresh, basis)
            total = scores.units[layer].sum()
            if scores.errors is not None:
                total = total + scores.errors[layer].sum()
            shortfall.append(effect - float(total))
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
    for steps in (40, 80):
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
