"""A cross-layer transcoder as a training class of SAELens, on the BatchTopK class of the others.

1. A row of a batch is [x_0 | x_1 | ... | y_0 | y_1 | ...], what the chosen layers read and what they write.
2. f_l = BatchTopK(x_l W_enc[l] + b_enc[l]), k active units per token in every layer; the output of layer m is
   reconstructed as b_dec[m] + sum over l <= m of f_l W_dec[l -> m] (Ameisen et al. 2025, "Circuit Tracing", section
   "Architecture", transformer-circuits.pub/2025/attribution-graphs/methods.html).
3. The loss is SAELens's, summed over layers. What a unit writes, all targets together, counts as of unit norm. Dead
   units of a layer reconstruct the errors of every layer that they write to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAEConfig
from torch import nn

from basisbench_baselines.training.saelens_classes import AutoencoderInTraining

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass
class CrossLayerTrainingConfig(BatchTopKTrainingSAEConfig):  # type: ignore[misc] # SAELens has no types
    """SAELens's configuration, of all layers' units together.

    Attributes:
        d_out: width of what one layer writes.
        layers: how many layers.
    """

    d_out: int = 0
    layers: int = 1


class CrossLayerInTraining(AutoencoderInTraining):
    """A cross-layer transcoder in training.

    Attributes:
        W_enc: encoders of all layers side by side, (d_in, layers x units).
        W_dec: decoders of all layers side by side, (units, sum over layers of targets x d_out).
        b_dec: (layers x d_out).
    """

    cfg: CrossLayerTrainingConfig
    topk_threshold: Tensor
    _least: Sequence[float]

    def __init__(self, cfg: CrossLayerTrainingConfig) -> None:
        super().__init__(cfg)
        self.mse_loss_fn = self._squared_error
        self.topk_threshold = self.topk_threshold.repeat(cfg.layers)

    @property
    def _units(self) -> int:
        units: int = self.cfg.d_sae // self.cfg.layers
        return units

    @property
    def _targets(self) -> range:
        """How many layers the units of each layer write to."""
        return range(self.cfg.layers, 0, -1)

    def initialize_weights(self) -> None:
        """Draw encoders and decoders; what a unit writes has SAELens's first norm, all targets together."""
        super().initialize_weights()
        decoders = [torch.randn(self._units, targets * self.cfg.d_out) for targets in self._targets]
        rows = torch.cat([0.1 * part / part.norm(dim=1, keepdim=True) for part in decoders], dim=1)
        self.W_dec = nn.Parameter(rows.to(self.device, self.dtype))
        width = self.cfg.layers * self.cfg.d_out
        self.b_dec = nn.Parameter(torch.zeros(width, dtype=self.dtype, device=self.device))

    def decoders(self) -> tuple[Float[Tensor, "unit target_d"], ...]:
        """Return what the units of each layer write, the targets side by side."""
        parts: tuple[Tensor, ...] = self.W_dec.split([targets * self.cfg.d_out for targets in self._targets], dim=1)
        return parts

    def encode_with_hidden_pre(
        self, x: Float[Tensor, "token d_both"]
    ) -> tuple[Float[Tensor, "token layer_unit"], Float[Tensor, "token layer_unit"]]:
        """Return the units' activations, and what they were before BatchTopK."""
        reads = self.process_sae_in(x[:, : self.cfg.layers * self.cfg.d_in]).split(self.cfg.d_in, dim=1)
        encoders, biases = self.W_enc.split(self._units, dim=1), self.b_enc.split(self._units)
        before = [
            torch.addmm(bias, part, encoder) * rows.norm(dim=1)
            for part, encoder, bias, rows in zip(reads, encoders, biases, self.decoders(), strict=True)
        ]
        features: list[Tensor] = []
        least: list[float] = []
        for part in before:
            features.append(self.activation_fn(part))
            least.append(self.activation_fn.threshold)
        self._least = least
        return self.hook_sae_acts_post(torch.cat(features, dim=1)), torch.cat(before, dim=1)

    def decode(self, feature_acts: Float[Tensor, "token layer_unit"]) -> Float[Tensor, "token layer_d"]:
        """Return the reconstructions of all layers side by side."""
        output = self.b_dec.expand(len(feature_acts), -1)
        for layer, (f, rows) in enumerate(zip(feature_acts.split(self._units, dim=1), self.decoders(), strict=True)):
            written = (f / rows.norm(dim=1)) @ rows
            output = output + nn.functional.pad(written, (layer * self.cfg.d_out, 0))
        return output

    @torch.no_grad()
    def update_topk_threshold(self, acts_topk: Tensor) -> None:  # noqa: ARG002 -- SAELens gives it
        """Follow the smallest activation that was kept in each layer."""
        found = self.topk_threshold.new_tensor(self._least)
        self.topk_threshold += self.cfg.topk_threshold_lr * (found - self.topk_threshold)

    def calculate_topk_aux_loss(
        self, sae_in: Tensor, sae_out: Tensor, hidden_pre: Tensor, dead_neuron_mask: Tensor | None
    ) -> Tensor:
        """Return the auxiliary loss, computed on the dead units alone, summed over layers."""
        loss = sae_out.new_tensor(0.0)
        if dead_neuron_mask is None or not dead_neuron_mask.any():
            return loss
        error = (self.target(sae_in) - sae_out).detach()
        masks, befores = (part.split(self._units, dim=-1) for part in (dead_neuron_mask, hidden_pre))
        for layer, (mask, before, rows) in enumerate(zip(masks, befores, self.decoders(), strict=True)):
            if len(dead := mask.nonzero().flatten()):
                written = error[:, layer * self.cfg.d_out :]
                loss = loss + self.revive(before[:, dead], rows[dead], written, self.cfg.d_out // 2)
        return loss

    def target(self, both: Float[Tensor, "token d_both"]) -> Float[Tensor, "token layer_d"]:
        """Return what is written."""
        return both[:, self.cfg.layers * self.cfg.d_in :]

    def _squared_error(self, output: Tensor, both: Tensor) -> Tensor:
        return (output - self.target(both)).square()
