"""A step of a training: losses and gradients of plain formulas and of SAELens, and the shapes of its products."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from basisbench_baselines.training.cross_layer import CrossLayer
from basisbench_baselines.training.dictionary import Dictionary, Placed
from basisbench_baselines.training.saelens_classes import AutoencoderInTraining
from basisbench_baselines.training.scaling import Scaling
from basisbench_baselines.training.sparse_units import largest
from helpers.tiny_training import SETTINGS


def test_a_step_of_a_cross_layer_transcoder_has_loss_and_gradients_of_a_plain_formula() -> None:
    draw = torch.Generator().manual_seed(0)
    batch = {
        hook: torch.randn(40, 6 if hook < "y" else 4, generator=draw) for hook in ("x0", "x1", "x2", "y0", "y1", "y2")
    }
    scales = {hook: Scaling(torch.full((x.shape[1],), 0.1), 1.5) for hook, x in batch.items()}
    settings = replace(SETTINGS, k=3, width="12")
    across = CrossLayer([Placed("clt", layer, f"x{layer}", f"y{layer}") for layer in range(3)], scales, settings, 0)
    sae = across.trainer.sae
    found: dict[torch.Tensor, torch.Tensor] = {}
    for parameter in sae.parameters():  # before they are clipped
        parameter.register_post_accumulate_grad_hook(lambda each: found.update({each: each.grad.double()}))
    dead = torch.arange(36) % 12 < 3
    for _ in range(3):
        across.trainer.n_forward_passes_since_fired[dead] = 1000
        u, v = ([(batch[f"{name}{layer}"].double() - 0.1) / 1.5 for layer in range(3)] for name in "xy")
        twins = {parameter: parameter.detach().double().requires_grad_() for parameter in sae.parameters()}
        encoders, biases = twins[sae.W_enc].split(12, 1), twins[sae.b_enc].split(12)
        decoders = twins[sae.W_dec].split([12, 8, 4], 1)
        befores, codes = [], []
        for layer in range(3):
            before = (u[layer] @ encoders[layer] + biases[layer]) * decoders[layer].norm(dim=1)
            least = before.flatten().sort(descending=True).values[3 * 40 - 1]
            befores.append(before)
            codes.append(torch.where((before >= least) & (before > 0), before, 0.0))
        errors = []
        for target in range(3):
            output = twins[sae.b_dec][4 * target : 4 * target + 4].expand(40, 4)
            for source in range(target + 1):
                rows = decoders[source] / decoders[source].norm(dim=1, keepdim=True)
                offset = 4 * (target - source)
                output = output + codes[source] @ rows[:, offset : offset + 4]
            errors.append(v[target] - output)
        loss = sum(error.square().sum(1).mean() for error in errors)
        for layer in range(3):
            left = torch.cat(errors[layer:], 1).detach()
            rows = decoders[layer][:3] / decoders[layer][:3].norm(dim=1, keepdim=True)
            values, places = befores[layer][:, :3].topk(2)  # half of what one layer writes
            rebuilt = torch.stack([values[token] @ rows[places[token]] for token in range(40)])
            loss = loss + (rebuilt - left).square().sum(1).mean()
        loss.backward()
        assert across.step(batch)().loss == pytest.approx(loss.item(), rel=1e-5)
        for parameter, twin in twins.items():
            torch.testing.assert_close(found[parameter], twin.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["transcoder", "skip-transcoder"])
def test_a_step_of_a_transcoder_is_that_of_a_plain_formula(kind: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=draw), torch.randn(40, 4, generator=draw)
    read, write = Scaling(torch.full((6,), 0.3), 1.7), Scaling(torch.full((4,), -0.2), 0.6)
    settings = replace(SETTINGS, k=3, width="12")
    dictionary = Dictionary(Placed(kind, 0, "x", "y"), read, write, settings, seed=0)
    trainer, sae = dictionary.trainer, dictionary.trainer.sae
    dead = torch.arange(12) % 3 == 0
    trainer.n_forward_passes_since_fired[dead] = 1000
    twin = {name: parameter.detach().clone().double() for name, parameter in sae.named_parameters()}
    moments = {name: (torch.zeros_like(each), torch.zeros_like(each)) for name, each in twin.items()}
    u, v = ((x - 0.3) / 1.7).double(), ((y + 0.2) / 0.6).double()
    for step in range(2):
        for parameter in twin.values():
            parameter.requires_grad_()
        mask = trainer.dead_neurons.clone()
        loss, kept = plain_loss(twin, u, v, mask, k=3)
        output = trainer.step(dictionary._input({"x": x, "y": y}))
        trainer.n_training_steps += 1
        assert output.loss.item() == pytest.approx(loss.item(), rel=1e-5)
        gradients = dict(zip(twin, torch.autograd.grad(loss, list(twin.values())), strict=True))
        norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
        rate = settings.learning_rate * (step + 1) / min(100, settings.steps // 10)
        for name, gradient in gradients.items():
            clipped = gradient / max(1.0, float(norm) + 1e-6)
            first, second = moments[name]
            first = 0.9 * first + 0.1 * clipped
            second = 0.999 * second + 0.001 * clipped.square()
            moments[name] = first, second
            scale = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            twin[name] = (twin[name] - rate * first / (1 - 0.9 ** (step + 1)) / scale).detach()
        for name, parameter in sae.named_parameters():
            torch.testing.assert_close(parameter.detach().double(), twin[name], rtol=1e-4, atol=2e-5)
        assert bool((output.feature_acts.to_dense() > 0).eq(kept > 0).all())


def plain_loss(
    twin: dict[str, torch.Tensor], u: torch.Tensor, v: torch.Tensor, dead: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return BatchTopK's squared error, with the auxiliary loss, and the units' activations; token by token."""
    norms = twin["W_dec"].square().sum(1).sqrt()
    before = (u @ twin["W_enc"] + twin["b_enc"]) * norms
    threshold = before.detach().flatten().sort(descending=True).values[k * len(u) - 1]
    f = torch.where((before >= threshold) & (before > 0), before, 0.0)
    rows = twin["W_dec"] / norms[:, None]
    target = v - u @ twin["W_skip"].T if "W_skip" in twin else v
    error = target - f @ rows - twin["b_dec"]
    loss = error.square().sum(1).mean()
    if dead.any():
        strongest = min(v.shape[1] // 2, int(dead.sum()))
        rebuilt = []
        for token in before:
            places = sorted(dead.nonzero().flatten().tolist(), key=lambda unit: -token[unit].item())[:strongest]
            rebuilt.append(sum(token[unit] * rows[unit] for unit in places))
        scale = min(1.0, int(dead.sum()) / (v.shape[1] // 2))
        loss = loss + scale * (torch.stack(rebuilt) - error.detach()).square().sum(1).mean()
    return loss, f.detach()


@pytest.mark.parametrize("scale", [0.0, 1.0, -1.0])
def test_the_largest_are_what_saelens_keeps(scale: float) -> None:
    from sae_lens.saes.batchtopk_sae import BatchTopK

    before = torch.randn(50, 130, generator=torch.Generator().manual_seed(1)) + scale * torch.arange(130) / 20
    for k in (0.5, 3.0, 40.0, 130.0):
        kept = torch.zeros_like(before)
        places, values = largest(before, int(50 * k))
        kept.view(-1)[places] = values
        assert torch.equal(kept, BatchTopK(k)(before))


@pytest.mark.parametrize("dead", [0, 3, 30])
def test_a_step_of_an_autoencoder_has_saelens_s_losses_and_gradients(dead: int) -> None:
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    shape = {"d_in": 10, "d_sae": 70, "k": 4.0, "dtype": "float64", "apply_b_dec_to_input": False}
    ours, theirs = (each(BatchTopKTrainingSAEConfig(**shape)) for each in (AutoencoderInTraining, BatchTopKTrainingSAE))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
            theirs.get_parameter(name).copy_(parameter)
    x = torch.randn(90, 10, generator=draw, dtype=torch.float64)
    outputs = [
        sae.training_forward_pass(TrainStepInput(x, {}, torch.arange(70) < dead, 0, False)) for sae in (ours, theirs)
    ]
    for output in outputs:
        output.loss.backward()
    assert set(outputs[0].losses) == set(outputs[1].losses)
    for name, loss in outputs[1].losses.items():
        torch.testing.assert_close(outputs[0].losses[name], loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(outputs[0].feature_acts.to_dense(), outputs[1].feature_acts, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.topk_threshold, theirs.topk_threshold)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, rtol=1e-9, atol=1e-9)


def test_products_of_dead_units_have_few_shapes() -> None:
    """OneDNN keeps memory for every shape of a product; how many units are dead changes with every step."""
    shapes: set[tuple[int, ...]] = set()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
            if function in (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul):
                shapes.add(tuple(arguments[1].shape))
            return function(*arguments, **(named or {}))

    scale = Scaling(torch.zeros(8), 1.0)
    sae = Dictionary(Placed("sae", 0, "x", "x"), scale, scale, replace(SETTINGS, width="300"), seed=0).trainer.sae
    for dead in range(1, 120):
        with Watch():
            sae.auxiliary_loss(torch.ones(16, 8), torch.zeros(16, 8), torch.arange(300) < dead)
    assert shapes == {(8, 64), (8, 128), (64, 8), (128, 8)}
