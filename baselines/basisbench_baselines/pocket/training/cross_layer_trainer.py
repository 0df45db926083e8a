"""The cross-layer transcoder in training: as `dictionary_trainer`, with units that also write at later layers.

1. f_l = JumpReLU(x_l W_enc_l + b_enc_l); the MLP output of layer m is reconstructed as
   y_m' = b_m + sum over l <= m of f_l W_dec[l -> m] (Ameisen et al. 2025, "Circuit Tracing",
   section "Architecture", transformer-circuits.pub/2025/attribution-graphs/methods.html).
2. Activations are centred and scaled hook by hook, so that every layer's output weighs the same. What a unit writes,
   all targets together, has unit norm.
3. Sparsity is that of the other dictionaries: a BatchTopK threshold per layer, the same number of active units in
   each, auxiliary loss for dead units on the errors of every layer that they write to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from basisbench_baselines.pocket.training.activations import DictionarySite
from basisbench_baselines.pocket.training.dictionary_trainer import (
    THRESHOLD_TOKENS,
    auxiliary_loss,
    batch_threshold,
    unit_rows,
)
from basisbench_baselines.pocket.training.plan import DictionaryPlan
from basisbench_baselines.training.cross_layer_files import CrossLayerWeights
from basisbench_baselines.training.scaling import Scaling


class CrossLayerTrainer:
    """A cross-layer transcoder in training; works on centred and scaled activations.

    Args:
        sites: where it reads and writes, in layer order.
        scalings: constants of every hook.
        x: per layer, read activations of random tokens, scaled, one per unit; they become the first encoder directions.
        y: per layer, write activations of the same tokens; they become the first decoder directions.
        plan: hyperparameters.
    """

    def __init__(
        self,
        sites: Sequence[DictionarySite],
        scalings: Mapping[str, Scaling],
        x: Sequence[Float[Tensor, "unit d"]],
        y: Sequence[Float[Tensor, "unit d"]],
        plan: DictionaryPlan,
    ) -> None:
        self.sites, self.scalings, self.plan = tuple(sites), dict(scalings), plan
        self.layers, (units, self.width) = len(sites), y[0].shape
        self.encoders = [unit_rows(part).T.contiguous().requires_grad_() for part in x]
        self.encoder_biases = [torch.zeros(units).requires_grad_() for _ in sites]
        # Layer m is written by m + 1 layers, which share the work from the start.
        shares = [y[target] / (target + 1) for target in range(self.layers)]
        self.decoders = [unit_rows(torch.cat(shares[layer:], 1)).requires_grad_() for layer in range(self.layers)]
        self.decoder_bias = torch.zeros(self.layers * self.width).requires_grad_()
        self.silent_tokens = torch.zeros(self.layers, units)
        with torch.no_grad():
            # Directions of real tokens resemble each other, so their sum overshoots: shrink the encoders until
            # the first reconstruction is the least-squares one.
            target = torch.cat(list(y), 1)
            output = self._output([_jump(before, self.plan.active_units, len(before)) for before in self._before(x)])
            scale = (target * output).sum() / output.square().sum().clamp_min(1e-8)
            for encoder in self.encoders:
                encoder.mul_(scale)

    @property
    def name(self) -> str:
        """Name in checkpoints."""
        return self.sites[0].basis

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Trained tensors by name."""
        found: dict[str, Tensor] = {}
        for layer in range(self.layers):
            found |= {
                f"encoder.{layer}": self.encoders[layer],
                f"encoder_bias.{layer}": self.encoder_biases[layer],
                f"decoder.{layer}": self.decoders[layer],
            }
        return found | {"decoder_bias": self.decoder_bias}

    def batch_loss(self, batch: Mapping[str, Float[Tensor, "token d"]]) -> tuple[Tensor, dict[str, float]]:
        """Return the loss, and per site the fraction of variance unexplained, for scaled activations by hook.

        The loss is the mean over layers of that fraction, plus the auxiliary loss.
        """
        befores = self._before([batch[site.read] for site in self.sites])
        features = [_jump(before, self.plan.active_units, THRESHOLD_TOKENS) for before in befores]
        with torch.no_grad():
            for silent, f in zip(self.silent_tokens, features, strict=True):
                silent.add_(len(f)).masked_fill_(f.amax(0) > 0, 0.0)
        error = torch.cat([batch[site.write] for site in self.sites], 1) - self._output(features)
        # Scaled activations have variance 1 per dimension, so this is the unexplained fraction of it.
        by_layer = error.square().mean(0).view(self.layers, self.width).mean(1)
        loss = by_layer.mean()
        for layer, before in enumerate(befores):
            dead = (self.silent_tokens[layer] > self.plan.dead_after_tokens).nonzero().flatten()
            if len(dead) > 0:
                # Dead units of a layer reconstruct the errors of every layer that they write to.
                written, rows = error[:, layer * self.width :], self.decoders[layer][dead]
                auxiliary = auxiliary_loss(before, dead, written, rows, self.plan.auxiliary_units)
                loss = loss + self.plan.auxiliary_weight / self.layers * auxiliary
        fvu = by_layer.detach().tolist()
        return loss, {site.name: value for site, value in zip(self.sites, fvu, strict=True)}

    def _before(self, x: Sequence[Tensor]) -> list[Tensor]:
        return [
            torch.addmm(bias, part, encoder)
            for part, encoder, bias in zip(x, self.encoders, self.encoder_biases, strict=True)
        ]

    def _output(self, features: Sequence[Tensor]) -> Float[Tensor, "token layer_d"]:
        """Return the reconstructions of all layers side by side."""
        output = self.decoder_bias.expand(len(features[0]), -1)
        for layer, (f, decoder) in enumerate(zip(features, self.decoders, strict=True)):
            written = (f @ decoder).float()
            output = output + torch.nn.functional.pad(written, (layer * self.width, 0))
        return output

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring what each unit writes, all targets together, back to unit norm."""
        for decoder in self.decoders:
            decoder.copy_(unit_rows(decoder))

    @torch.no_grad()
    def finish(self, activations: Mapping[str, Float[Tensor, "token d"]]) -> CrossLayerWeights:
        """Set the thresholds on unscaled read activations and fold the scalings into the weights.

        The finished units write with unit norm too, all targets together; their activations are stretched to match.
        """
        reads = [self.scalings[site.read] for site in self.sites]
        writes = [self.scalings[site.write] for site in self.sites]
        befores = self._before(
            [read.apply(activations[site.read]) for read, site in zip(reads, self.sites, strict=True)]
        )
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for layer, (before, read) in enumerate(zip(befores, reads, strict=True)):
            threshold = batch_threshold(before, self.plan.active_units)
            scales = torch.tensor([write.scale for write in writes[layer:]])
            decoder = self.decoders[layer].view(len(before[0]), -1, self.width) * scales[:, None]
            stretch = decoder.flatten(1).norm(dim=1)
            encoder = (self.encoders[layer] * (stretch / read.scale)).T
            bias = self.encoder_biases[layer] * stretch - encoder @ read.mean
            parts.append((encoder, bias, threshold * stretch, decoder / stretch[:, None, None]))
        biases = [
            part * write.scale + write.mean
            for part, write in zip(self.decoder_bias.view(self.layers, -1), writes, strict=True)
        ]
        encoders, encoder_biases, thresholds, decoders = zip(*parts, strict=True)
        return CrossLayerWeights(
            tuple(tensor.detach().contiguous() for tensor in encoders),
            tuple(tensor.detach() for tensor in encoder_biases),
            tuple(tensor.detach() for tensor in thresholds),
            tuple(tensor.detach().contiguous() for tensor in decoders),
            tuple(tensor.detach() for tensor in biases),
        )


def _jump(before: Tensor, active_units: float, tokens: int) -> Tensor:
    """Return the activations, with the threshold that leaves `active_units` of the first tokens' units active."""
    threshold = batch_threshold(before[:tokens].detach(), active_units)
    return torch.nn.functional.threshold(before, threshold, 0.0)
