"""Direct effects against a forward pass in which all that comes later is held, and against their own transpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.attribution.direct_effect import DIRECT, direct_residuals
from basisbench.attribution.projection import projected_scores
from basisbench.circuits.node_values import node_values
from basisbench.models.relp import backward_rules
from basisbench.protocols import Basis
from basisbench.types import ErrorPolicy, Pairs
from helpers import cross_layer_oracle, oracle

pytestmark = pytest.mark.usefixtures("double_precision")

FINAL = {"gpt2": "transformer.ln_f", "neox": "gpt_neox.final_layer_norm"}
POST = {"mlp_act": "post_feedforward_layernorm", "attn_z": "post_attention_layernorm"}


def frozen(slow: oracle.Naive, name: str, clean: Tensor) -> dict[oracle.Where, Callable[[Tensor], Tensor | None]]:
    """Return edits that make a norm divide by the scale that it has where `clean` enters it."""
    norm, entered = slow.body.get_submodule(name), []
    has_mean = "LayerNorm" in type(norm).__name__
    epsilon = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    weight, bias = norm.weight, getattr(norm, "bias", 0)
    offset = 1 if slow.architecture.startswith("gemma") else 0

    def centred(x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if has_mean else x

    def out(_: Tensor) -> Tensor:
        scale = (centred(clean).pow(2).mean(-1, keepdim=True) + epsilon).sqrt()
        return centred(entered.pop()) / scale * (weight + offset) + bias

    return {(name, "in"): lambda x: entered.append(x), (name, "out"): out}


def direct(
    slow: oracle.Naive, twin: oracle.NaiveBasis, pairs: Pairs, index: int, layer: int, position: int, change: Tensor
) -> float:
    """Add a change at a write site, hold all attention and MLP behind it at what it was; return the metric's change."""
    prompt, kind = pairs.clean[index], twin.write
    later = {(block, part) for block in range(layer + 1, oracle.LAYERS) for part in ("attn_out", "mlp_out")}
    if kind in ("attn_z", "attn_out"):
        later.add((layer, "mlp_out"))
    norms = [FINAL.get(slow.architecture, "model.norm")]
    if slow.architecture in oracle.POST_NORMS and kind in POST:
        norms.append(f"model.layers.{layer}.{POST[kind]}")
    places = {f"held {block} {part}": slow.where(part, block) for block, part in later}
    clean = slow.watched(prompt, {**places, **{name: (name, "in") for name in norms}})

    def write(activation: Tensor) -> Tensor:
        activation = activation.clone()
        activation[0, position] += change
        return activation

    edits: dict[oracle.Where, Callable[[Tensor], Tensor | None]] = {}
    for name in norms:
        edits |= frozen(slow, name, clean[name].unsqueeze(0))
    for key, place in places.items():
        edits[place] = lambda _, key=key: clean[key].unsqueeze(0)
    before = edits.get(slow.where(kind, layer))
    assert before is None, "the write site is no norm and is not held"
    edits[slow.where(kind, layer)] = write
    return float(
        slow.metric(pairs, index, slow.logits(prompt, edits)[0]) - slow.metric(pairs, index, slow.logits(prompt)[0])
    )


@oracle.on_architectures(
    ("name",),
    whole=[(name,) for name in ("mlp_act", "mlp_out", "attn_z", "attn_out", "resid", "sae_resid", "transcoder")],
    part=[(name,) for name in ("mlp_act", "attn_z", "resid", "transcoder")],
)
def test_it_is_the_metric_s_change_with_all_later_parts_held(architecture: str, name: str) -> None:
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    question = oracle.Question()
    with oracle.asking(oracle.contexts(architecture)[1].attribution, question) as context:
        scores = projected_scores(context, oracle.basis(architecture, name), DIRECT)
    pairs = context.pairs
    last = pairs.length - 1
    for layer in range(oracle.LAYERS):
        assert not scores.units[layer][:last].any()
        for unit in (0, 5):
            expected = 0.0
            for index in range(len(pairs)):
                clean = slow.values(twin, pairs.clean[index]).units[layer][last, unit]
                other = oracle.target(slow, twin, pairs, pairs, index, question).units[layer][last, unit]
                change = (other - clean) * twin.direction(layer, unit)
                expected += direct(slow, twin, pairs, index, layer, last, change) / len(pairs)
            assert float(scores.units[layer][last, unit]) == pytest.approx(expected, rel=1e-7, abs=1e-12)
        assert float(scores.units[layer][last].abs().max()) > 1e-3


def one_pair(context: GroupContext) -> GroupContext:
    pairs = context.pairs
    arrays = {name: getattr(pairs, name)[:1] for name in ("clean", "counterfactual", "answers", "foils")}
    return GroupContext(context.model, replace(pairs, **arrays), 0)


def agree(context: GroupContext, basis: Basis, policy: ErrorPolicy) -> None:
    """What a node writes to the last hidden state, times the metric's unembedding rows, is its direct effect."""
    context = one_pair(context)
    context.start("counterfactual", "ablation", policy)
    scores = projected_scores(context, basis, DIRECT)
    last = context.pairs.length - 1
    nodes = [(index, last, unit) for index in range(len(basis.sites)) for unit in (0, 3)]
    if not basis.exact:
        nodes += [(index, last, -1 if policy == "node" else -2) for index in range(len(basis.sites))]
    values = dict(node_values(context, basis, nodes))
    writes = [write for place in range(len(nodes)) if (write := values[place].write) is not None]
    head = context.model.component("unembed").original_component.weight
    wanted = head[context.answers[0]].mean(0) - head[context.foils[0]].mean(0)
    found = direct_residuals(context, writes) @ wanted
    assert len(found) == len(nodes)
    for effect, (index, _, unit) in zip(found.tolist(), nodes, strict=True):
        site = basis.sites[index]
        (clean, error), (target, other) = context.coordinates(basis, site, "clean"), context.target(basis, site)
        if unit >= 0:
            expected, amount = scores.units[index][last, unit], (target - clean)[0, last, unit]
        else:
            assert scores.errors is not None
            assert error is not None
            assert other is not None
            expected, moved = scores.errors[index][last, -1 - unit], context.error_nodes(site, other - error)[0, last]
            if policy == "node":  # a whole error's write is the error itself, not its change
                field = context.gradient_field(DIRECT, site)[0, last]
                assert effect == pytest.approx(float(field @ error[0, last]), rel=1e-9)
                continue
            amount = moved[-1 - unit]
        assert float(expected) == pytest.approx(effect * float(amount), rel=1e-9, abs=1e-14)
    assert max(map(abs, found.tolist())) > 1e-3


@pytest.mark.parametrize(("name", "policy"), [
    ("mlp_act", "coordinates"), ("attn_z", "coordinates"), ("sae_resid", "rotated"), ("transcoder", "node"),
])  # fmt: skip
def test_the_way_forward_is_the_transpose_of_the_way_back(architecture: str, name: str, policy: ErrorPolicy) -> None:
    agree(oracle.contexts(architecture)[0].attribution, oracle.basis(architecture, name), policy)


def test_so_it_is_where_a_unit_writes_to_several_layers(architecture: str) -> None:
    context = cross_layer_oracle.contexts(architecture)[0].attribution
    agree(context, cross_layer_oracle.basis(architecture), "coordinates")


def test_forward_values_stay_and_no_hook(architecture: str) -> None:
    model, tokens = oracle.model(architecture), oracle.contexts(architecture)[0].attribution.batch.clean
    plain, before = model.bridge(tokens), oracle.hooks_of(model)
    with backward_rules(model, DIRECT):
        assert torch.equal(model.bridge(tokens), plain)
    assert oracle.hooks_of(model) == before
