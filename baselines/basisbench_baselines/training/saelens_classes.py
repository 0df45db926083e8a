"""SAELens's BatchTopK training class, quicker at the same arithmetic, and a transcoder on it.

1. BatchTopK keeps the k * tokens largest pre-activations of a batch, if positive. SAELens sorts them all; here a sample
   tells a value that about half more exceed, and only those are sorted: the same units.
2. A row of a transcoder's batch is [x | y], what is read and what is written side by side; x is encoded.
3. What its units are to reconstruct is y - W_skip x, with W_skip = 0 where there is no skip connection (Paulo et al.
   2025, arXiv 2501.18823); main and auxiliary loss are SAELens's, against that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_DEAD_AT_ONCE = 64
"""Dead units are made so many more by zeros for their product: oneDNN keeps code and memory for every shape that it has
met (SmolLM2-135M, 20 dictionaries: 500 MB a minute where every count of dead units was a shape of its own)."""

_SAMPLED = 61
"""One of so many pre-activations is in the sample; no divisor of a usual width."""


class QuickBatchTopK(nn.Module):
    """Keep the largest pre-activations of a batch.

    Args:
        k: how many per token, on average.

    Attributes:
        threshold: the smallest that was kept last.
    """

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k
        self.threshold = 0.0

    def forward(self, x: Float[Tensor, "token unit"]) -> Float[Tensor, "token unit"]:
        """Return the pre-activations with all others at zero."""
        flat = x.detach().flatten()
        count = int(self.k * len(x))
        sample = flat[::_SAMPLED]
        wanted = int(1.5 * count / _SAMPLED)
        if 0 < wanted < len(sample):
            some = flat[flat >= sample.topk(wanted, sorted=False).values.min()]
            flat = some if len(some) >= count else flat
        least = flat.topk(count, sorted=False).values.min()
        self.threshold = max(float(least), torch.finfo(x.dtype).tiny)
        return torch.where(x >= self.threshold, x, 0.0)


class AutoencoderInTraining(BatchTopKTrainingSAE):  # type: ignore[misc] # SAELens has no types
    """SAELens's BatchTopK SAE, without what costs time and changes nothing.

    That is sorting, gradients of the input, and products with living units in the auxiliary loss.
    """

    def get_activation_fn(self) -> nn.Module:
        """Return BatchTopK."""
        return QuickBatchTopK(self.cfg.k)

    def process_sae_in(self, sae_in: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        """Return what is encoded; the decoder's bias is not taken off first."""
        x: Tensor = self.hook_sae_input(sae_in.to(self.dtype))
        return x

    @torch.no_grad()
    def update_topk_threshold(self, acts_topk: Tensor) -> None:  # noqa: ARG002 -- SAELens gives it
        """Follow the smallest activation that was kept."""
        self.topk_threshold += self.cfg.topk_threshold_lr * (self.activation_fn.threshold - self.topk_threshold)

    def calculate_topk_aux_loss(
        self, sae_in: Tensor, sae_out: Tensor, hidden_pre: Tensor, dead_neuron_mask: Tensor | None
    ) -> Tensor:
        """Return SAELens's auxiliary loss, computed on the dead units alone."""
        dead = torch.zeros(0) if dead_neuron_mask is None else dead_neuron_mask.nonzero().flatten()
        if not len(dead):
            return sae_out.new_tensor(0.0)
        error = (self.target(sae_in) - sae_out).detach()
        return self.revive(hidden_pre[:, dead], self.W_dec[dead], error, sae_out.shape[-1] // 2)

    def revive(
        self,
        before: Float[Tensor, "token dead"],
        rows: Float[Tensor, "dead d"],
        error: Float[Tensor, "token d"],
        strongest: int,
    ) -> Tensor:
        """Return the loss of dead units that reconstruct what the others leave over.

        Args:
            before: their pre-activations.
            rows: what they write.
            error: what is left over.
            strongest: how many of them a token uses at most.
        """
        scale = min(before.shape[1] / strongest, 1.0)
        values, places = before.topk(min(strongest, before.shape[1]), sorted=False)
        f = torch.zeros_like(before).scatter(-1, places, values) / rows.norm(dim=-1)
        more = -before.shape[1] % _DEAD_AT_ONCE
        left = nn.functional.pad(f, (0, more)) @ nn.functional.pad(rows, (0, 0, 0, more)) - error
        loss: Tensor = self.cfg.aux_loss_coefficient * scale * left.square().sum(-1).mean()
        return loss

    def target(self, both: Tensor) -> Tensor:
        """Return what is to be reconstructed."""
        return both


@dataclass
class TranscoderTrainingConfig(BatchTopKTrainingSAEConfig):  # type: ignore[misc] # SAELens has no types
    """SAELens's configuration, and the width of what is written.

    Attributes:
        d_out: width of what is written.
        skip: whether there is a linear skip connection.
    """

    d_out: int = 0
    skip: bool = False


class TranscoderInTraining(AutoencoderInTraining):
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

    def target(self, both: Float[Tensor, "token d_both"]) -> Float[Tensor, "token d_out"]:
        """Return what is written, less what the skip connection makes of what is read."""
        x, y = both.split([self.cfg.d_in, self.cfg.d_out], dim=-1)
        target: Tensor = y - x @ self.W_skip.T if self.cfg.skip else y
        return target

    def _squared_error(self, output: Tensor, both: Tensor) -> Tensor:
        return (output - self.target(both)).square()

    def process_sae_in(self, sae_in: Float[Tensor, "token d_both"]) -> Float[Tensor, "token d_in"]:
        """Return what is encoded."""
        return super().process_sae_in(sae_in[..., : self.cfg.d_in])
