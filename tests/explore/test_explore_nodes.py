"""Nodes to look at, on a tiny model: every number again by plain hooks and explicit loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import basisbench as bb
from basisbench.circuits.merged import merge, places
from basisbench.models.load import load_model
from basisbench.results.circuit_nodes import CircuitNode
from basisbench.runs.session import Session
from basisbench.types import ModelSpec, Scores

PAIRS = 24


@pytest.fixture(scope="module")
def pairs(tiny_llama: ModelSpec) -> Session:
    """Pairs of one task in several aligned groups on a random model."""
    return bb.load_pairs("sva_rc", load_model(tiny_llama), attribution=PAIRS, evaluation=PAIRS)


def hooked(pairs: Session, group: int, side: str, layer: int) -> torch.Tensor:
    """Return the input of a block's down projection, by a plain hook."""
    context, seen = pairs.groups[group].attribution, []
    tokens = getattr(context.pairs, side)
    module = pairs.model.body.model.layers[layer].mlp.down_proj
    handle = module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        pairs.model.body(input_ids=torch.as_tensor(tokens))
    handle.remove()
    return seen[0]


def position(pairs: Session, group: int, node: CircuitNode) -> int | None:
    """Return where a node's role is, counting tokens one by one."""
    roles = pairs.groups[group].attribution.pairs.roles
    own = [index for index, role in enumerate(roles) if role == node.role]
    if node.token:
        at, count = map(int, node.token.split("/"))
        return own[at - 1] if len(own) == count else None
    return own[0] if len(own) == 1 else None


def test_every_number_of_a_neuron(pairs: Session) -> None:
    scores = bb.score(pairs, "mlp_act", "relp")
    found = bb.describe_nodes(pairs, scores, 100)
    assert len(found.nodes) == 100
    assert [abs(node.score) for node in found.nodes] == sorted((abs(node.score) for node in found.nodes), reverse=True)
    groups = range(len(pairs.groups))
    assert len(groups) > 1
    body = pairs.model.body
    for node in found.nodes[:4]:
        assert isinstance(node.unit, int)
        there = [(group, at) for group in groups if (at := position(pairs, group, node)) is not None]
        assert node.groups == len(there)
        values: dict[str, list[float]] = {"score": [], "clean": [], "counterfactual": [], "change": []}
        for group, at in there:
            context = pairs.groups[group].attribution
            sides = [hooked(pairs, group, side, node.layer)[:, at, node.unit] for side in ("clean", "counterfactual")]
            values["clean"] += sides[0].tolist()
            values["counterfactual"] += sides[1].tolist()
            values["change"] += (sides[0] - sides[1]).abs().tolist()
            own = float(scores.groups[context.pairs.group].units[node.layer][at, node.unit])
            values["score"] += [own] * len(context.pairs)
        assert node.pairs == len(values["score"])
        for name, each in values.items():
            assert getattr(node, name) == pytest.approx(sum(each) / len(each), rel=1e-4, abs=1e-6)
        # Decoder row, the final norm's weight, the unembedding: RMSNorm centres nothing, and its scale is positive.
        row = body.model.layers[node.layer].mlp.down_proj.weight[:, node.unit]
        logits = (body.lm_head.weight @ (row * body.model.norm.weight))[: len(pairs.model.tokenizer)]
        best, worst = (pairs.model.tokenizer.decode([int(index)]) for index in (logits.argmax(), logits.argmin()))
        assert (node.raised[0].strip(), node.lowered[0].strip()) == (best.strip(), worst.strip())
        assert len(node.raised) == len(node.lowered) == 5
    roles = pairs.groups[0].attribution.pairs.roles
    assert {bool(node.direct) for node in found.nodes if node.role == roles[-1]} == {True}
    assert {bool(node.direct) for node in found.nodes if node.role != roles[-1]} == {False}


def test_prompts_are_those_on_which_the_unit_is_largest(pairs: Session) -> None:
    node = bb.describe_nodes(pairs, bb.score(pairs, "mlp_act", "relp"), 1).nodes[0]
    assert isinstance(node.unit, int)
    assert node.clean is not None
    sign = -1 if node.clean < 0 else 1
    best: dict[tuple[str, ...], float] = {}
    for group in range(len(pairs.groups)):
        own = pairs.groups[group].attribution.pairs
        for side in ("clean", "counterfactual"):
            values = sign * hooked(pairs, group, side, node.layer)[:, :, node.unit]
            for ids, row in zip(getattr(own, side).tolist(), values, strict=True):
                best[tuple(ids)] = float(row[own.first_position :].max())
    largest = sorted(best.values(), reverse=True)[: len(node.prompts)]
    shown = [max(sign * value for value in prompt.values[1:]) for prompt in node.prompts]
    assert shown == pytest.approx(largest, rel=1e-4)
    assert len(node.prompts) == 3
    assert all(len(prompt.tokens) == len(prompt.values) for prompt in node.prompts)
    assert len({prompt.tokens for prompt in node.prompts}) == 3


@pytest.mark.slow
def test_the_range_is_that_of_the_scores_on_each_draw(pairs: Session) -> None:
    scores = bb.score(pairs, "mlp_out", "ixg")
    found = bb.describe_nodes(pairs, scores, 5, draws=3)
    drawn = [(session, bb.score(session, "mlp_out", "ixg")) for session in map(pairs.redrawn, (1, 2))]
    wanted = places(scores.roles)
    for node in found.nodes:
        row = next(at for at, place in enumerate(wanted) if (place.role, place.token) == (node.role, node.token))
        values = []
        for session, each in [(pairs, scores), *drawn]:
            counts = {group.attribution.pairs.group: len(group.attribution.pairs) for group in session.groups}
            values.append(float(merge(each.groups, counts, wanted).units[node.layer][row, node.unit]))
        assert (node.low, node.high) == pytest.approx((min(values), max(values)), rel=1e-4)
        assert node.low is not None
        assert node.high is not None
        assert node.low < node.high
        assert node.in_draws in (1, 2, 3)
    assert bb.describe_nodes(pairs, scores, 5).nodes[0].low is None


def test_a_place_that_no_group_has_is_not_a_score_of_zero() -> None:
    roles = {"a": ("bos", "subject"), "b": ("bos", "opening", "subject")}
    wanted = places(roles)
    assert [(place.role, dict(place.positions)) for place in wanted] == [
        ("bos", {"a": 0, "b": 0}), ("opening", {"b": 1}), ("subject", {"a": 1, "b": 2}),
    ]  # fmt: skip
    one = Scores((torch.tensor([[1.0], [2.0]]),), None)
    other = Scores((torch.tensor([[4.0], [5.0], [8.0]]),), None)
    assert merge({"a": one, "b": other}, {"a": 1, "b": 2}, wanted).units[0].flatten().tolist() == [3.0, 5.0, 6.0]
    alone = merge({"a": one}, {"a": 1}, wanted).units[0].flatten()
    assert alone[1].isnan()
    assert alone[2] == 2.0


@pytest.mark.parametrize(("changes", "expected"), [
    ({"k": 0}, "k: expected a whole number from 1, found 0"),
    ({"draws": 2.5}, "draws: expected a whole number"),
])  # fmt: skip
def test_a_wrong_number_is_refused(pairs: Session, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(bb.BasisBenchError, match=expected):
        bb.describe_nodes(pairs, bb.score(pairs, "mlp_out", "random"), **changes)


def test_scores_of_other_pairs_are_refused(pairs: Session) -> None:
    with pytest.raises(bb.BasisBenchError, match="data differs; score these pairs anew"):
        bb.describe_nodes(pairs.redrawn(1), bb.score(pairs, "mlp_out", "random"))
    with pytest.raises(bb.BasisBenchError, match="cannot be drawn again"):
        replace(pairs, task=None).redrawn(1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "policy"), [
    ("transcoder", "coordinates"), ("clt", "node"), ("sae_resid", "rotated"), ("sae_attn_out", "keep"),
])  # fmt: skip
def test_it_works_for_dictionaries_and_their_errors(name: str, policy: Any) -> None:
    pairs = bb.load_pairs("sva_rc", bb.load_model("pocket-llama"), attribution=16, evaluation=16)
    scores = bb.score(pairs, name, "relp", error_policy=policy)
    if policy != "keep":  # of a good dictionary, features come before all errors
        none = {key: Scores(tuple(0 * units for units in own.units), own.errors) for key, own in scores.groups.items()}
        scores = replace(scores, groups=none)
    found = bb.describe_nodes(pairs, scores, 60)
    assert {node.unit == "error" for node in found.nodes} == {policy != "keep"}
    last, roles = pairs.model.layers - 1, pairs.groups[0].attribution.pairs.roles
    for node in found.nodes:
        assert len(node.raised) == len(node.lowered) == 5
        assert len(node.prompts) == 3
        if node.layer == last and node.role == roles[-1] and name != "sae_attn_out":
            # Behind the last MLP there is the final norm alone, whose scale is a constant under RelP too.
            assert node.direct == pytest.approx(node.score, rel=1e-3, abs=1e-5)
