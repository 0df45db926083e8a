"""How scores answer to swapped prompts, swapped answers, another order of pairs and another seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from basisbench.attribution.context import GroupContext
from basisbench.attribution.gradients import gradient_field
from basisbench.errors import BasisBenchError
from basisbench.models.model import Model
from basisbench.protocols import Method
from basisbench.types import Pairs
from basisbench_baselines.methods.magnitude import Magnitude
from basisbench_baselines.methods.random_scores import RandomScores
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")

RULES = ("ixg", "ig", "ig_inputs", "relp")
KINDS = ("mlp_act", "mlp_out", "attn_out", "resid_post")
TO_THE_COUNTERFACTUAL = (
    oracle.OLD,
    oracle.Question("zero", "counterfactual", "coordinates"),
    oracle.Question("counterfactual", "ablation", "coordinates"),
)
"""Conditions under which a pair's two prompts can be swapped."""


def hooks_of_all_sites(model: Model) -> list[str]:
    return [model.hook(kind, layer) for layer in range(model.layers) for kind in KINDS]  # type: ignore[arg-type]


def swapped(pairs: Pairs) -> Pairs:
    return replace(pairs, clean=pairs.counterfactual, counterfactual=pairs.clean)


@pytest.mark.parametrize("steps", [1, 5])
def test_swapping_the_prompts_reverses_the_path_of_ig_inputs(architecture: str, steps: int) -> None:
    """The reversed path is sampled at 1/n ... 1 where the path is at 0 ... 1-1/n: the two differ by its ends."""
    model, group = oracle.model(architecture), oracle.contexts(architecture)[0].attribution
    there, back = group.batch, GroupContext(model, swapped(group.pairs), 0).batch
    hooks = hooks_of_all_sites(model)
    forth = gradient_field("ig_inputs", model, there, hooks, steps=steps)
    reverse = gradient_field("ig_inputs", model, back, hooks, steps=steps)
    at_clean, at_other = (gradient_field("ixg", model, batch, hooks) for batch in (there, back))
    for hook in hooks:
        expected = (at_clean[hook] - at_other[hook]) / steps
        torch.testing.assert_close(forth[hook] - reverse[hook], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["mlp_act", "transcoder", "sae_resid"])
def test_swapping_answers_and_foils_flips_every_score(architecture: str, name: str, rule: str) -> None:
    group, basis = oracle.contexts(architecture)[0].attribution, oracle.basis(architecture, name)
    turned = replace(group.pairs, answers=group.pairs.foils, foils=group.pairs.answers)
    method = oracle.gradient_method(rule)
    one, other = method.score(group, basis), method.score(GroupContext(group.model, turned, 0), basis)
    for first, second in zip([*one.units, *(one.errors or ())], [*other.units, *(other.errors or ())], strict=True):
        torch.testing.assert_close(first, -second, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", oracle.BASES)
def test_swapping_the_prompts_flips_the_difference_and_keeps_the_magnitude(architecture: str, name: str) -> None:
    group, basis = oracle.contexts(architecture)[0].attribution, oracle.basis(architecture, name)
    for question in TO_THE_COUNTERFACTUAL:
        other = GroupContext(group.model, swapped(group.pairs), 0)
        with oracle.asking(group, question), oracle.asking(other, question):
            one, two = Magnitude().score(group, basis), Magnitude().score(other, basis)
            for first, second in zip([*one.units, *(one.errors or ())], [*two.units, *(two.errors or ())], strict=True):
                torch.testing.assert_close(first, second, rtol=0, atol=1e-13)
                assert (first >= 0).all()
            # With the field held fixed, gradient times difference is odd in the two prompts.
            for rule in ("ixg", "relp"):
                for site in basis.sites:
                    other._fields[rule, site.write] = group.gradient_field(rule, site)
                method = oracle.gradient_method(rule)
                forth, back = method.score(group, basis), method.score(other, basis)
                for first, second in zip(
                    [*forth.units, *(forth.errors or ())], [*back.units, *(back.errors or ())], strict=True
                ):
                    torch.testing.assert_close(first, -second, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "method", [*(oracle.gradient_method(rule) for rule in RULES), Magnitude()], ids=lambda m: m.name
)
def test_scores_do_not_depend_on_the_order_of_the_pairs(architecture: str, method: Method) -> None:
    group = oracle.contexts(architecture)[0].attribution
    order = [3, 0, 2, 1]
    parts = {part: getattr(group.pairs, part)[order] for part in ("clean", "counterfactual", "answers", "foils")}
    shuffled = GroupContext(group.model, replace(group.pairs, **parts), 0)
    for name in ("mlp_act_rotated", "transcoder"):
        basis = oracle.basis(architecture, name)
        one, other = method.score(group, basis), method.score(shuffled, basis)
        for first, second in zip([*one.units, *(one.errors or ())], [*other.units, *(other.errors or ())], strict=True):
            torch.testing.assert_close(first, second, rtol=0, atol=1e-11)


def test_random_scores_depend_on_the_seed_the_basis_and_the_group_alone(architecture: str) -> None:
    group, basis = oracle.contexts(architecture)[0].attribution, oracle.basis(architecture, "transcoder")
    other_tokens = oracle.random_pairs(6, 5, 99, group="long")
    method = RandomScores()
    first = method.score(group, basis)
    for same in (GroupContext(group.model, group.pairs, 0), GroupContext(group.model, other_tokens, 0)):
        for one, two in zip(first.units, method.score(same, basis).units, strict=True):
            assert torch.equal(one, two)
    different = (
        method.score(GroupContext(group.model, group.pairs, 1), basis),
        method.score(GroupContext(group.model, replace(group.pairs, group="other"), 0), basis),
    )
    for scores in different:
        assert not torch.equal(scores.units[0], first.units[0])
    assert first.errors is not None
    assert not torch.equal(
        first.units[0][:, : oracle.D_MLP], method.score(group, oracle.basis(architecture, "mlp_act")).units[0]
    )
    everything = torch.cat([part.flatten() for part in (*first.units, *first.errors)])
    assert len(everything.unique()) == len(everything)
    assert abs(float(everything.mean())) < 4 / len(everything) ** 0.5
    assert float(everything.std()) == pytest.approx(1, abs=0.2)


def test_an_unknown_rule_is_refused_with_a_suggestion(architecture: str) -> None:
    model, group = oracle.model(architecture), oracle.contexts(architecture)[0].attribution
    with pytest.raises(BasisBenchError, match="did you mean ixg"):
        gradient_field("ixgg", model, group.batch, [])


@pytest.mark.parametrize("rule", RULES)
def test_no_hook_is_left_after_a_field_or_a_failure(architecture: str, rule: str) -> None:
    model, group = oracle.model(architecture), oracle.contexts(architecture)[0].attribution
    hooks = hooks_of_all_sites(model)
    ends = {hook: group.activation(hook, "counterfactual") for hook in hooks}
    gradient_field(rule, model, group.batch, hooks, ends=ends)  # TransformerLens adds its own in a first pass
    before = oracle.hooks_of(model)
    gradient_field(rule, model, group.batch, hooks, ends=ends)
    assert oracle.hooks_of(model) == before
    broken = replace(group.batch, clean=torch.full_like(group.batch.clean, 10_000))
    with pytest.raises(IndexError):
        gradient_field(rule, model, broken, hooks, ends=ends)
    assert oracle.hooks_of(model) == before
    wrong = replace(group.batch, answers=torch.full_like(group.batch.answers, 10_000))
    with pytest.raises((IndexError, RuntimeError)):
        gradient_field(rule, model, wrong, hooks, ends=ends)
    assert oracle.hooks_of(model) == before
