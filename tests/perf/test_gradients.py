"""What gradient fields cost, and a further basis."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.attribution.gradients import gradient_field
from basisbench.models.hooks import edited, observed
from basisbench.models.start_at_layer import block_inputs
from conftest import Workload
from figures import Figures
from workload import partial_passes, random_model


@pytest.mark.parametrize("rule", ["ixg", "relp"])
def test_fields_of_all_families(benchmark: BenchmarkFixture, figures: Figures, workload: Workload, rule: str) -> None:
    model, batch, plain = workload.model, workload.group.attribution.batch, workload.plain
    places = {hook: model.place(hook) for hook in workload.hooks}
    embedding = model.place("embed.hook_out")

    def forward_and_backward() -> None:
        def leaf(x: Tensor) -> Tensor:
            return x.detach().requires_grad_()

        with edited(plain, {embedding: leaf}), observed(plain, places) as seen:
            logits = plain(input_ids=batch.clean, use_cache=False).logits
        torch.autograd.grad(batch.metric(logits[:, -1]).sum(), list(seen.values()))

    figures.ratio(
        benchmark,
        f"fields of all three families, {rule}",
        lambda: gradient_field(rule, model, batch, workload.hooks),
        {"plain forward": workload.plain_forward, "plain forward and backward": forward_and_backward},
        bound=1.2,
        what="plain forward + plain activation-gradient forward and backward",
    )


@pytest.mark.parametrize(
    ("name", "encoder", "bound"),
    [
        ("mlp_out", "nothing", 0.05),
        ("sae_mlp_out", "SAELens's own encode of both prompts", 0.05),
        ("sae_mlp_out", "our encode of both prompts", None),  # what is left for errors, products and means
    ],
)
def test_another_basis_of_a_family(
    benchmark: BenchmarkFixture, figures: Figures, workload: Workload, name: str, encoder: str, bound: float | None
) -> None:
    method, first, basis = workload.method("ixg"), workload.basis("mlp_act"), workload.basis(name)
    pairs, model = workload.group.attribution.pairs, workload.model
    contexts = [GroupContext(model, pairs, 0)]

    def score_first() -> None:
        contexts[0] = GroupContext(model, pairs, 0)
        method.score(contexts[0], first)

    def encode() -> None:
        with torch.no_grad():
            for site in basis.sites if encoder != "nothing" else ():
                for side in ("clean", "counterfactual"):
                    x = contexts[0].activation(site.read, side)
                    if encoder.startswith("our"):
                        basis.encode(site, x)
                    else:
                        workload.dictionaries.dictionaries[site.layer].encode(x)

    figures.ratio(
        benchmark,
        f"adding {name} to a gradient method" + f", less {encoder}" * (encoder != "nothing"),
        lambda: method.score(contexts[0], basis),
        {"first basis": score_first},
        less={"encode": encode},
        bound=bound,
        what="the method on its first basis (mlp_act)",
    )


def test_integrated_gradients_of_a_family(benchmark: BenchmarkFixture, figures: Figures, workload: Workload) -> None:
    model, batch, steps = workload.model, workload.group.attribution.batch, 10
    hooks = [model.hook(kind, layer) for layer in range(model.layers) for kind in ("mlp_act", "mlp_out")]
    plain = random_model(workload.shape)
    vars(plain)["onednn_linears"] = {}
    with torch.no_grad():
        entered = block_inputs(plain, batch.clean)
        acts = {
            plain.hook("mlp_act", layer): plain.place(plain.hook("mlp_act", layer)) for layer in range(model.layers)
        }
        with observed(plain.body, acts) as other:
            plain.logits(batch.counterfactual)

    with torch.no_grad(), observed(model.fast_body, {hook: model.place(hook) for hook in hooks}) as ends:
        model.logits(batch.counterfactual, fast=True)

    figures.ratio(
        benchmark,
        "ig with 10 steps, mlp family (activations and outputs)",
        lambda: gradient_field("ig", model, batch, hooks, steps=steps, ends=ends),
        {"partial passes": partial_passes(entered, batch, acts, other, steps)},
        bound=1.2,
        what="10 x layers plain partial forward and backward passes from the interpolated layer on",
    )
