"""SAELens's BatchTopK training class, quicker at the same arithmetic, and a transcoder on it.

1. A step is computed on active and on dead units alone (`sparse_units`), in place of SAELens's on all.
2. A row of a transcoder's batch is [x | y], what is read and what is written side by side; x is encoded.
3. What its units are to reconstruct is y - W_skip x, with W_skip = 0 where there is no skip connection (Paulo et al.
   2025, arXiv 2501.18823); main and auxiliary loss are SAELens's, against that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from torch import nn

from basisbench_baselines.training.sparse_units import sparse_units

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

_DEAD_AT_ONCE = 64
"""Dead units are made so many more by zeros for their product: oneDNN keeps code and memory for every shape that it has
met (SmolLM2-135M, 20 dictionaries: 500 MB a minute where every count of dead units was a shape of its own)."""


class AutoencoderInTraining(BatchTopKTrainingSAE):  # type: ignore[misc] # SAELens has no types
    """SAELens's BatchTopK SAE, with a step that computes the same on active and on dead units alone."""

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Return SAELens's loss; `feature_acts` is a sparse tensor, `hidden_pre` is left out."""
        output, feature_acts = self.reconstruct(self.process_sae_in(step_input.sae_in))
        error = self.target(step_input.sae_in) - output
        squared = error.square().sum(-1).mean()
        revived = squared.new_tensor(0.0)
        if step_input.dead_neuron_mask is not None and step_input.dead_neuron_mask.any():
            revived = self.auxiliary_loss(step_input.sae_in, error.detach(), step_input.dead_neuron_mask)
        return TrainStepOutput(
            sae_in=step_input.sae_in,
            sae_out=output,
            feature_acts=feature_acts,
            hidden_pre=None,
            loss=squared + revived,
            losses={"mse_loss": squared, "auxiliary_reconstruction_loss": revived},
            metrics={"topk_threshold": self.topk_threshold},
        )

    def process_sae_in(self, sae_in: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        """Return what is encoded; the decoder's bias is not taken off first."""
        x: Tensor = sae_in.to(self.dtype)
        return x

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> tuple[Float[Tensor, "token d_out"], Tensor]:
        """Return the reconstruction and the units' activations, and follow the smallest that was kept."""
        written, places, f = sparse_units(x, self.W_enc, self.b_enc, self.W_dec, int(self.cfg.k * len(x)))
        self.follow([f])
        return written + self.b_dec, sparse([places], [f], len(x), self.cfg.d_sae)

    @torch.no_grad()
    def follow(self, kept: Sequence[Float[Tensor, " kept"]]) -> None:
        """Follow the smallest activations that were kept; where there was none, zero.

        Args:
            kept: activations, one entry per threshold.
        """
        least = torch.stack([f.min() if len(f) else f.new_tensor(0.0) for f in kept]).view_as(self.topk_threshold)
        self.topk_threshold += self.cfg.topk_threshold_lr * (least - self.topk_threshold)

    def auxiliary_loss(
        self, both: Tensor, error: Float[Tensor, "token d_out"], dead: Bool[Tensor, " unit"]
    ) -> Float[Tensor, ""]:
        """Return SAELens's auxiliary loss, computed on the dead units alone."""
        return self.revive(
            self.process_sae_in(both), self.W_enc, self.b_enc, self.W_dec, error, dead, error.shape[1] // 2
        )

    def revive(
        self,
        x: Float[Tensor, "token d_in"],
        w_enc: Float[Tensor, "d_in unit"],
        b_enc: Float[Tensor, " unit"],
        w_dec: Float[Tensor, "unit d"],
        error: Float[Tensor, "token d"],
        dead: Bool[Tensor, " unit"],
        strongest: int,
    ) -> Float[Tensor, ""]:
        """Return the loss of dead units that reconstruct what the others leave over.

        Args:
            x: what is encoded.
            w_enc: encoder.
            b_enc: its bias.
            w_dec: decoder.
            error: what is left over.
            dead: which units are dead.
            strongest: how many of them a token uses at most.
        """
        units = dead.nonzero().squeeze(1)
        count = len(units)
        more = -count % _DEAD_AT_ONCE
        columns, rows = w_enc.index_select(1, units), w_dec.index_select(0, units)
        before = (x @ nn.functional.pad(columns, (0, more)))[:, :count] + b_enc[units]
        strongest, scale = min(strongest, count), min(count / strongest, 1.0)
        with torch.no_grad():
            scaled = before * rows.norm(dim=1)
            least = scaled.topk(strongest, dim=1, sorted=False).values.amin(1, keepdim=True)
            kept = scaled >= least
        written = nn.functional.pad(torch.where(kept, before, 0.0), (0, more)) @ nn.functional.pad(
            rows, (0, 0, 0, more)
        )
        loss: Tensor = self.cfg.aux_loss_coefficient * scale * (written - error).square().sum(-1).mean()
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

    def process_sae_in(self, sae_in: Float[Tensor, "token d_both"]) -> Float[Tensor, "token d_in"]:
        """Return what is encoded."""
        return super().process_sae_in(sae_in[..., : self.cfg.d_in])


def sparse(
    places: Sequence[Int[Tensor, " active"]], f: Sequence[Float[Tensor, " active"]], tokens: int, units: int
) -> Float[Tensor, "token layer_unit"]:
    """Return activations as a sparse tensor, of blocks of units side by side.

    Args:
        places: by block, flat places of active units.
        f: by block, their activations.
        tokens: how many there are.
        units: of all blocks.
    """
    width = units // len(places)
    found = [torch.stack([each // width, each % width + width * block]) for block, each in enumerate(places)]
    indices, values, alone = torch.cat(found, dim=1), torch.cat(list(f)), len(places) == 1  # one block is in order
    return torch.sparse_coo_tensor(indices, values, (tokens, units), check_invariants=False, is_coalesced=alone)
