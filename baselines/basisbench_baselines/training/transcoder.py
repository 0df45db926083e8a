"""A transcoder as a training class on SAELens's base: its batches hold what is read and what is written, side by side.

1. A row of a batch is [x | y]; x is encoded.
2. What the units are to reconstruct is y - W_skip x, with W_skip = 0 where there is no skip connection (Paulo et al.
   2025, arXiv 2501.18823); main and auxiliary loss are SAELens's, against that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass
class TranscoderTrainingConfig(BatchTopKTrainingSAEConfig):  # type: ignore[misc] # SAELens has no types
    """SAELens's configuration, and the width of what is written.

    Attributes:
        d_out: width of what is written.
        skip: whether there is a linear skip connection.
    """

    d_out: int = 0
    skip: bool = False


class TranscoderInTraining(BatchTopKTrainingSAE):  # type: ignore[misc]
    """A transcoder in training."""

    cfg: TranscoderTrainingConfig

    def __init__(self, cfg: TranscoderTrainingConfig) -> None:
        super().__init__(cfg)
        self.mse_loss_fn = self._squared_error

    def initialize_weights(self) -> None:
        """Draw encoder and decoder; the decoder is as wide as what is written."""
        super().initialize_weights()
        decoder = torch.randn(self.cfg.d_sae, self.cfg.d_out, dtype=self.dtype, device=self.device)
        self.W_dec = nn.Parameter(0.1 * decoder / decoder.norm(dim=-1, keepdim=True))
        self.b_dec = nn.Parameter(torch.zeros(self.cfg.d_out, dtype=self.dtype, device=self.device))
        if self.cfg.skip:
            self.W_skip = nn.Parameter(torch.zeros(self.cfg.d_out, self.cfg.d_in, dtype=self.dtype, device=self.device))

    def _target(self, both: Float[Tensor, "token d_both"]) -> Float[Tensor, "token d_out"]:
        x, y = both.split([self.cfg.d_in, self.cfg.d_out], dim=-1)
        target: Tensor = y - x @ self.W_skip.T if self.cfg.skip else y
        return target

    def _squared_error(self, output: Tensor, both: Tensor) -> Tensor:
        return (output - self._target(both)).square()

    def process_sae_in(self, sae_in: Float[Tensor, "token d_both"]) -> Float[Tensor, "token d_in"]:
        """Return what is encoded."""
        x: Tensor = self.hook_sae_input(sae_in[..., : self.cfg.d_in].to(self.dtype))
        return x

    def calculate_topk_aux_loss(self, sae_in: Tensor, **others: Any) -> Tensor:
        """Let dead units reconstruct what is left of the target."""
        loss: Tensor = super().calculate_topk_aux_loss(sae_in=self._target(sae_in), **others)
        return loss
