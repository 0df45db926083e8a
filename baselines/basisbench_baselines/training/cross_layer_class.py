"""A cross-layer transcoder as a training class of SAELens, on the BatchTopK class of the others.

1. A row of a batch is [x_0 | x_1 | ... | y_0 | y_1 | ...], what the chosen layers read and what they write.
2. f_l = BatchTopK(x_l W_enc[l] + b_enc[l]), k active units per token in every layer; the output of layer m is
   reconstructed as b_dec[m] + sum over l <= m of f_l W_dec[l -> m] (Ameisen et al. 2025, "Circuit Tracing", section
   "Architecture", transformer-circuits.pub/2025/attribution-graphs/methods.html).
3. The loss is SAELens's, summed over layers. What a unit writes, all targets together, counts as of unit norm. Dead
   units of a layer reconstruct the errors of every layer that they write to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAEConfig
from torch import nn

from basisbench_baselines.training.saelens_classes import AutoencoderInTraining, sparse
from basisbench_baselines.training.sparse_units import sparse_units

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
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

    def __init__(self, cfg: CrossLayerTrainingConfig) -> None:
        super().__init__(cfg)
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

    def reconstruct(self, x: Float[Tensor, "token layer_d_in"]) -> tuple[Float[Tensor, "token layer_d"], Tensor]:
        """Return the reconstructions of all layers side by side and all units' activations; follow the thresholds."""
        output = self.b_dec.expand(len(x), -1)
        found: list[tuple[Tensor, Tensor]] = []
        count = int(self.cfg.k * len(x))
        for layer, (part, encoder, bias, rows) in enumerate(self._layers(x)):
            written, places, f = sparse_units(part, encoder, bias, rows, count)
            output = output + nn.functional.pad(written, (layer * self.cfg.d_out, 0))
            found.append((places, f))
        self.follow([f for _, f in found])
        return output, sparse([places for places, _ in found], [f for _, f in found], len(x), self.cfg.d_sae)

    def _layers(self, x: Float[Tensor, "token layer_d_in"]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return by layer what is read, encoder, its bias and what the units write."""
        encoders, biases = self.W_enc.split(self._units, dim=1), self.b_enc.split(self._units)
        return zip(x.split(self.cfg.d_in, dim=1), encoders, biases, self.decoders(), strict=True)

    def auxiliary_loss(
        self, both: Tensor, error: Float[Tensor, "token layer_d"], dead: Bool[Tensor, " layer_unit"]
    ) -> Float[Tensor, ""]:
        """Return the auxiliary loss, computed on the dead units alone, summed over layers."""
        loss = error.new_tensor(0.0)
        masks = dead.split(self._units)
        for layer, (mask, weights) in enumerate(zip(masks, self._layers(self.process_sae_in(both)), strict=True)):
            if mask.any():
                loss = loss + self.revive(*weights, error[:, layer * self.cfg.d_out :], mask, self.cfg.d_out // 2)
        return loss

    def process_sae_in(self, sae_in: Float[Tensor, "token d_both"]) -> Float[Tensor, "token layer_d_in"]:
        """Return what is encoded, of all layers side by side."""
        return super().process_sae_in(sae_in[:, : self.cfg.layers * self.cfg.d_in])

    def target(self, both: Float[Tensor, "token d_both"]) -> Float[Tensor, "token layer_d"]:
        """Return what is written."""
        return both[:, self.cfg.layers * self.cfg.d_in :]
