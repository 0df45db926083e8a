"""Gradient fields against finite differences, naive loops, identities, and explicitly spliced dictionaries."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

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


# --- ixg --------------------------------------------------------------------------------------------------------


# One basis of each kind: the gradient through a spliced basis, which the next test has of every one, is the same.
DIFFERENT = [(name,) for name in ("mlp_act", "attn_z", "sae_resid", "transcoder")]


@pytest.mark.slow
@oracle.on_architectures(("name",), whole=DIFFERENT, part=DIFFERENT)
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
# Other architectures have rules of their own for RelP alone, and one path stands for all gradients along paths.
@oracle.on_architectures(("rule",), whole=[(rule,) for rule in RULES], part=[("ig",), ("relp",)])
def test_fields_of_one_sweep_equal_fields_of_one_hook_at_a_time(architecture: str, rule: str) -> None:
    model, group = oracle.model(architecture), oracle.contexts(architecture)[0].attribution
    hooks = hooks_of_all_sites(model)
    ends = oracle.ends_of(group, hooks)
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
            ends = oracle.ends_of(group, [site.write], question.end)
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
    ("end", "tokens", "together", "number"),
    # Each number of steps and of pairs to a pass; paths to zero, which are asked for apart, in one part and in many.
    # The groups take turns.
    whole=[
        ("mean", 1, 100_000, 1),
        ("counterfactual", 70, 100_000, 0),
        ("zero", 100_000, 100_000, 1),
        ("mean", 70, 10, 0),
        ("zero", 70, 10, 1),
    ],
    part=[("mean", 70, 10, 0)],
)
def test_ig_equals_a_loop_over_steps_and_places(
    architecture: str, end: Ablation, tokens: int, together: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps go into one pass, and whether all pairs fit into one."""
    monkeypatch.setattr("basisbench.attribution.gradients.TOKENS_PER_SWEEP", tokens)
    monkeypatch.setattr("basisbench.attribution.gradients.gradient_tokens", lambda _: together)
    model, slow, steps = oracle.model(architecture), oracle.naive(architecture), 5
    group = oracle.contexts(architecture)[number]
    pairs, hooks = group.attribution.pairs, hooks_of_all_sites(model)
    ends = oracle.ends_of(group.attribution, hooks, end)
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
    group = oracle.contexts(architecture)[1]  # of both groups the shorter one: it is a run for every step and place
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
    ends = oracle.ends_of(group, [hook])
    for rule in ("ig", "ig_inputs"):
        default = gradient_field(rule, model, group.batch, [hook], ends=ends)[hook]
        assert torch.equal(default, gradient_field(rule, model, group.batch, [hook], steps=10, ends=ends)[hook])
        other = gradient_field(rule, model, group.batch, [hook], steps=9, ends=ends)[hook]
        assert not torch.allclose(default, other, rtol=1e-6)
