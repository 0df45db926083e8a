"""Third-party methods and bases against slow twins: SmoothGrad, zero baseline, principal components."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from basisbench.attribution.fitting import TaskActivations
from basisbench.attribution.projection import projected_scores
from basisbench.models.relp import RELP
from basisbench.types import BackwardRules
from helpers import oracle
from helpers.backward import close
from helpers.plugins import plugin

pytestmark = pytest.mark.usefixtures("double_precision")

LLAMA = "llama"


def plain_gradients(model: Any, batch: Any, embeddings: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return per layer the MLP's output and the metric's gradient there, by autograd on the plain model."""
    outputs: list[Tensor] = []

    def watch(_module: object, _arguments: object, output: Tensor) -> None:
        output.retain_grad()
        outputs.append(output)

    handles = [layer.mlp.register_forward_hook(watch) for layer in model.body.model.layers]
    with torch.enable_grad():
        logits = model.body(inputs_embeds=embeddings.detach().requires_grad_(), use_cache=False).logits[:, -1]
        (logits.gather(1, batch.answers).mean(1) - logits.gather(1, batch.foils).mean(1)).sum().backward()
    for handle in handles:
        handle.remove()
    return [(output.detach(), output.grad) for output in outputs]  # type: ignore[misc] -- it was retained


def test_smooth_grad_without_noise_is_input_times_gradient() -> None:
    method = type(plugin("method", "smooth_grad"))(share=0.0, draws=3)
    for group in oracle.contexts(LLAMA):
        for name in ("mlp_out", "transcoder"):
            basis = oracle.basis(LLAMA, name)
            found = method.score(group.attribution, basis)
            expected = projected_scores(group.attribution, basis, "ixg")
            for one, other in zip(
                (*found.units, *(found.errors or ())), (*expected.units, *(expected.errors or ())), strict=True
            ):
                close(one, other)


def test_smooth_grad_averages_gradients_over_noisy_embeddings() -> None:
    method = plugin("method", "smooth_grad")
    context, model = oracle.contexts(LLAMA)[0].attribution, oracle.model(LLAMA)
    batch, embed = context.batch, model.body.get_input_embeddings()
    with torch.no_grad():
        clean = embed(batch.clean)
        changes = [
            b.mean(0) - a
            for (a, _), (b, _) in zip(
                plain_gradients(model, batch, clean),
                plain_gradients(model, batch, embed(batch.counterfactual)),
                strict=True,
            )
        ]
    generator = context.generator("noise")
    mean = [torch.zeros_like(change) for change in changes]
    for _ in range(method.draws):
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        for layer, (_, gradient) in enumerate(
            plain_gradients(model, batch, clean + method.share * clean.std() * noise)
        ):
            mean[layer] += gradient / method.draws
    found = method.score(context, oracle.basis(LLAMA, "mlp_out"))
    for units, gradient, change in zip(found.units, mean, changes, strict=True):
        close(units, (gradient * change).mean(0))


def test_a_zero_baseline_is_minus_gradient_times_activation() -> None:
    context, model = oracle.contexts(LLAMA)[1].attribution, oracle.model(LLAMA)
    found = plugin("method", "zero_baseline").score(context, oracle.basis(LLAMA, "mlp_out"))
    with torch.no_grad():
        embeddings = model.body.get_input_embeddings()(context.batch.clean)
    for units, (output, gradient) in zip(found.units, plain_gradients(model, context.batch, embeddings), strict=True):
        close(units, -(gradient * output).mean(0))


def test_rules_part_by_part_are_the_named_ones(architecture: str) -> None:
    """RelP put together from its parts is the field `relp`, and no rule is `ixg`, at every family's sites."""
    context = oracle.contexts(architecture)[1].attribution
    for name in ("mlp_act", "attn_z", "resid"):
        basis = oracle.basis(architecture, name)
        hooks = [site.write for site in basis.sites]
        for rule, parts in (("relp", RELP), ("relp", "relp"), ("ixg", BackwardRules()), ("ixg", "ixg")):
            found = context.gradients(hooks, rules=parts)  # type: ignore[arg-type] -- a text or rules
            for site in basis.sites:
                close(found[site.write], context.gradient_field(rule, site))


@pytest.mark.parametrize("rules", [
    BackwardRules(queries=0.5), BackwardRules(keys=0.0), BackwardRules(values=2.0), BackwardRules(temperature=3.0),
    BackwardRules(gate=0.25), BackwardRules(norms="frozen"), BackwardRules(activations="ratio"),
])  # fmt: skip
def test_each_rule_changes_the_gradient_and_not_the_metric(architecture: str, rules: BackwardRules) -> None:
    context = oracle.contexts(architecture)[1].attribution
    hooks = [context.model.hook("resid_post", 0), "embed.hook_out"]
    context.gradients(hooks)  # the bridge puts hooks of its own in its first pass
    hooked = oracle.hooks_of(context.model)
    before, after = context.gradients(hooks), context.gradients(hooks, rules=rules)
    gated = "blocks.0.mlp.hook_pre_linear" in context.model.hook_points
    same = all(bool((before[hook] - after[hook]).abs().max() <= 1e-12 * before[hook].abs().max()) for hook in hooks)
    assert same == (rules.gate != 1 and not gated)
    close(context.metric(rules=rules).detach(), context.clean_metric())
    assert oracle.hooks_of(context.model) == hooked


def test_the_metric_is_differentiable_in_what_a_method_puts() -> None:
    """Gradients of a replaced activation are those that `gradients` gives; every pass is counted."""
    context = oracle.contexts(LLAMA)[0].attribution
    model = context.model
    hook = model.hook("mlp_out", 0)
    point = (
        0.5 * context.activation(hook, "clean") + 0.5 * context.activation(hook, "counterfactual")
    ).requires_grad_()
    before = model.meter.forward_equivalents
    metric = context.metric(replace={hook: point})
    assert model.meter.forward_equivalents == before + context.pair_count
    (gradient,) = torch.autograd.grad(metric.sum(), point)
    assert model.meter.forward_equivalents == before + 3 * context.pair_count
    close(gradient, context.gradients([hook], replace={hook: point.detach()})[hook])
    assert model.meter.forward_equivalents == before + 6 * context.pair_count
    added = context.metric(add={hook: point.detach() - context.activation(hook, "clean")})
    close(added.detach(), metric.detach())


@pytest.mark.parametrize(("asked", "expected"), [
    ({"rules": "ig"}, "no backward rule of a single pass named 'ig'"),
    ({"replace": {"blocks.9.hook_mlp_out": torch.zeros(9, 1, 1)}}, "has no hook 'blocks.9.hook_mlp_out'"),
    ({"add": {"blocks.0.hook_mlp_out": torch.zeros(9, 1, 1)}}, "a method puts shape"),
])  # fmt: skip
def test_a_wrong_question_is_refused_in_one_line(asked: dict[str, Any], expected: str) -> None:
    from basisbench.errors import BasisBenchError

    context = oracle.contexts(LLAMA)[0].attribution
    with pytest.raises(BasisBenchError, match=expected) as caught:
        context.gradients(["blocks.0.hook_mlp_out"], **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("to", ["target", "reference", "counterfactual", "zero"])
@pytest.mark.parametrize("question", oracle.COVERING, ids=str)
def test_a_method_chooses_where_nodes_move(question: oracle.Question, to: Any) -> None:
    """The scores of another end are those of a cell that asks for it; errors stay what the cell counts."""
    context, basis = oracle.contexts(LLAMA)[0].attribution, oracle.basis(LLAMA, "transcoder")
    asked = {
        "target": question,
        "reference": replace(question, score_reference="ablation"),
        "counterfactual": replace(question, score_reference="counterfactual"),
        "zero": replace(question, score_reference="ablation", ablation="zero"),
    }
    with oracle.asking(context, question):
        found = projected_scores(context, basis, "ixg", to=to)
    with oracle.asking(context, asked[to]):
        expected = projected_scores(context, basis, "ixg")
    for one, other in zip(
        (*found.units, *(found.errors or ())), (*expected.units, *(expected.errors or ())), strict=True
    ):
        close(one, other)


@pytest.mark.parametrize("ablation", ["mean", "counterfactual", "zero"])
def test_reference_values_are_those_of_the_cell_s_ablation(ablation: Any) -> None:
    from basisbench.circuits.reference import reference_values

    context, basis = oracle.contexts(LLAMA)[0].attribution, oracle.basis(LLAMA, "transcoder")
    context.start(ablation)
    expected = reference_values(basis, ablation, context, context)
    for index, site in enumerate(basis.sites):
        units, error = context.reference(basis, site)
        assert error is not None
        assert expected.errors is not None
        assert torch.equal(units, expected.units[index])
        assert torch.equal(error, expected.errors[index])
    context.start("mean")


def test_all_principal_components_are_rotated_neurons() -> None:
    """They reconstruct exactly, are not correlated, and are scored as the gradient's and the change's components."""
    groups = [group.attribution for group in oracle.contexts(LLAMA)]
    spec = plugin("basis", "pca")
    basis = spec.fit(oracle.model(LLAMA), TaskActivations(groups))
    assert basis.fingerprint == spec.fit(oracle.model(LLAMA), TaskActivations(groups)).fingerprint
    assert basis.fingerprint != spec.fit(oracle.model(LLAMA), TaskActivations(groups[:1])).fingerprint
    context, neurons = groups[0], oracle.basis(LLAMA, "mlp_out")
    found = projected_scores(context, basis, "relp")
    assert found.errors is None
    for index, (site, neuron_site) in enumerate(zip(basis.sites, neurons.sites, strict=True)):
        x, other = (context.activation(site.read, side) for side in ("clean", "counterfactual"))  # type: ignore[arg-type]
        rows = torch.cat(
            [
                group.activation(site.read, side)[:, 1:].flatten(0, 1)
                for group in groups
                for side in ("clean", "counterfactual")
            ]
        )  # type: ignore[arg-type]
        close(basis.decode(site, basis.encode(site, x)), x)
        codes = basis.encode(site, rows)
        covariance = codes.T @ codes / len(rows)
        assert float((covariance - covariance.diag().diag()).abs().max()) <= 1e-9 * float(covariance.max())
        assert bool((covariance.diag().diff() <= 1e-12).all())
        axes = basis.components[index]
        gradient = context.gradient_field("relp", neuron_site)
        change = other.mean(0) - x
        close(found.units[index], ((gradient @ axes.T) * (change @ axes.T)).mean(0))
        close(found.units[index].sum(-1), ((gradient * change).sum(-1)).mean(0))


def test_a_basis_is_fitted_on_texts_too() -> None:
    context = oracle.contexts(LLAMA)[0].attribution
    model, data = context.model, TaskActivations([context])
    before = model.meter.forward_equivalents
    hook = model.hook("mlp_out", 1)
    (rows,) = data(hook, corpus=["w1 w2 w3"])
    ids = model.tokenizer("w1 w2 w3", return_tensors="pt")["input_ids"]
    assert rows.shape == (ids.shape[1], oracle.D_MODEL)
    assert data.corpus_passes == model.meter.forward_equivalents - before == 1


def test_activations_inside_a_module_can_be_asked_for(architecture: str) -> None:
    context = oracle.contexts(architecture)[0].attribution
    before = context.model.meter.forward_equivalents
    pattern = context.activation("blocks.0.attn.hook_pattern", "counterfactual")
    length = context.tokens("counterfactual").shape[1]
    assert pattern.shape == (context.pair_count, pattern.shape[1], length, length)
    close(pattern.sum(-1), torch.ones(pattern.shape[:-1], dtype=pattern.dtype))
    assert context.model.meter.forward_equivalents == before + context.pair_count
    (gradient,) = context.gradients(["blocks.0.attn.hook_pattern"], rules="relp").values()
    assert gradient.shape == pattern.shape
    assert not gradient.any()  # a constant, by RelP's rule
    (gradient,) = context.gradients(["blocks.0.attn.hook_pattern"]).values()
    assert gradient.any()
