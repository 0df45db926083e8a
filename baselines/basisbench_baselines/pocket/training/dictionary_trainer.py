"""One sparse dictionary in training: the same code for autoencoders and transcoders, so that neither is favoured.

1. A dictionary maps the activation x at its read site to the activation y at its write site. A sparse
   autoencoder is the case read == write; nothing else differs.
2. Both are centred by their mean and scaled to mean squared norm d, from the first chunk; these constants are
   folded into the weights at the end, so that the saved dictionary is a function of x alone.
3. f = JumpReLU(x W_enc + b_enc; threshold), y' = f W_dec + b_dec, decoder rows of unit norm.
4. BatchTopK (Bussmann et al. 2024, arXiv 2412.06410: `BatchTopKSAE.forward` in the code, sae.py): the threshold
   of a step is the value that leaves `active_units` units active per token on average; here over a sample of the
   batch's tokens. After training one threshold is set on other training documents, and inference is a JumpReLU.
5. Loss: squared error over the variance of y, plus the auxiliary loss of Gao et al. 2024
   (arXiv 2406.04093, appendix A.2): dead units reconstruct what the living ones leave over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from basisbench_baselines.pocket.training.activations import DictionarySite
from basisbench_baselines.pocket.training.plan import DictionaryPlan
from basisbench_baselines.training.scaling import Scaling

THRESHOLD_TOKENS = 256
"""Tokens of a batch from which the threshold of a step is taken."""

_AUXILIARY_TOKENS = 512


@dataclass(frozen=True, eq=False)
class DictionaryWeights:
    """A finished dictionary: ``f = JumpReLU(x W_enc + b_enc; threshold)``, ``y' = f W_dec + b_dec``.

    Attributes:
        encoder: W_enc.
        encoder_bias: b_enc.
        threshold: a unit is active where its pre-activation exceeds this.
        decoder: W_dec, rows of unit norm.
        decoder_bias: b_dec.
    """

    encoder: Float[Tensor, "d_read unit"]
    encoder_bias: Float[Tensor, " unit"]
    threshold: Float[Tensor, " unit"]
    decoder: Float[Tensor, "unit d_write"]
    decoder_bias: Float[Tensor, " d_write"]

    def encode(self, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b unit"]:
        """Map read activations to coordinates."""
        before = x @ self.encoder + self.encoder_bias
        return before * (before > self.threshold)

    def decode(self, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Map coordinates to a reconstruction at the write site."""
        return f @ self.decoder + self.decoder_bias


class DictionaryTrainer:
    """One dictionary in training; works on centred and scaled activations.

    Args:
        site: where it reads and writes.
        read: constants of the read hook.
        write: constants of the write hook.
        x: read activations of random tokens, scaled, one per unit; they become the first encoder directions.
        y: write activations of the same tokens; they become the first decoder directions.
        plan: hyperparameters.
    """

    def __init__(
        self,
        site: DictionarySite,
        read: Scaling,
        write: Scaling,
        x: Float[Tensor, "unit d_read"],
        y: Float[Tensor, "unit d_write"],
        plan: DictionaryPlan,
    ) -> None:
        self.site, self.read, self.write, self.plan = site, read, write, plan
        units, d_write = y.shape
        self.encoder = unit_rows(x).T.contiguous().requires_grad_()
        self.encoder_bias = torch.zeros(units).requires_grad_()
        self.decoder = unit_rows(y).requires_grad_()
        self.decoder_bias = torch.zeros(d_write).requires_grad_()
        self.silent_tokens = torch.zeros(units)
        with torch.no_grad():
            # Directions of real tokens resemble each other, so their sum overshoots: shrink the encoder until
            # the first reconstruction is the least-squares one.
            before = x @ self.encoder
            output = before * (before > batch_threshold(before, plan.active_units)) @ self.decoder
            self.encoder.mul_((y * output).sum() / output.square().sum().clamp_min(1e-8))

    @property
    def name(self) -> str:
        """Name in checkpoints."""
        return self.site.name

    @property
    def scalings(self) -> dict[str, Scaling]:
        """Constants of the hooks that it reads and writes."""
        return {self.site.read: self.read, self.site.write: self.write}

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Trained tensors by name."""
        return {
            "encoder": self.encoder,
            "encoder_bias": self.encoder_bias,
            "decoder": self.decoder,
            "decoder_bias": self.decoder_bias,
        }

    def batch_loss(self, batch: Mapping[str, Float[Tensor, "token d"]]) -> tuple[Tensor, dict[str, float]]:
        """Return the loss, and the fraction of variance unexplained by name, for scaled activations by hook."""
        loss, fvu = self.loss(batch[self.site.read], batch[self.site.write])
        return loss, {self.name: fvu}

    def loss(self, x: Float[Tensor, "token d_read"], y: Float[Tensor, "token d_write"]) -> tuple[Tensor, float]:
        """Return the loss to minimise and the fraction of variance unexplained, for scaled activations."""
        before = torch.addmm(self.encoder_bias, x, self.encoder)
        threshold = batch_threshold(before[:THRESHOLD_TOKENS].detach(), self.plan.active_units)
        f = torch.nn.functional.threshold(before, threshold, 0.0)
        with torch.no_grad():
            self.silent_tokens.add_(len(x)).masked_fill_(f.amax(0) > 0, 0.0)
        output = torch.addmm(self.decoder_bias, f, self.decoder)
        error = y - output.float()
        # Scaled activations have variance 1 per dimension, so this is the unexplained fraction of it.
        fvu = error.square().mean()
        dead = (self.silent_tokens > self.plan.dead_after_tokens).nonzero().flatten()
        loss = fvu
        if len(dead) > 0:
            auxiliary = auxiliary_loss(before, dead, error, self.decoder[dead], self.plan.auxiliary_units)
            loss = loss + self.plan.auxiliary_weight * auxiliary
        return loss, float(fvu.detach())

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring the decoder rows back to unit norm."""
        self.decoder.copy_(unit_rows(self.decoder))

    @torch.no_grad()
    def finish(self, x: Float[Tensor, "token d_read"]) -> DictionaryWeights:
        """Set the threshold on unscaled read activations and fold the scaling into the weights."""
        before = self.read.apply(x) @ self.encoder + self.encoder_bias
        threshold = batch_threshold(before, self.plan.active_units)
        stretch = self.write.scale
        encoder = self.encoder * (stretch / self.read.scale)
        return DictionaryWeights(
            encoder=encoder.detach().contiguous(),
            encoder_bias=(self.encoder_bias * stretch - self.read.mean @ encoder).detach(),
            threshold=torch.full_like(self.encoder_bias, threshold * stretch),
            decoder=self.decoder.detach().clone(),
            decoder_bias=(self.decoder_bias * self.write.scale + self.write.mean).detach(),
        )


def batch_threshold(before: Float[Tensor, "token unit"], active_units: float) -> float:
    """Return the value, at least 0, above which `active_units` pre-activations per token lie on average."""
    count = min(max(round(active_units * len(before)), 1), before.numel() - 1)
    value = before.float().flatten().kthvalue(before.numel() - count).values
    return max(float(value), 0.0)


def auxiliary_loss(
    before: Float[Tensor, "token unit"],
    dead: Int[Tensor, " dead"],
    error: Float[Tensor, "token d"],
    rows: Float[Tensor, "dead d"],
    count: int,
) -> Tensor:
    """Return the unexplained fraction of an error when the strongest dead units of each token reconstruct it.

    Args:
        before: pre-activations.
        dead: which units are dead.
        error: what the other units leave over.
        rows: decoder rows of the dead units.
        count: how many of them a token may use.
    """
    candidates = before[:_AUXILIARY_TOKENS, dead].float()
    target = error[: len(candidates)].detach()
    values, places = candidates.topk(min(count, len(dead)), dim=-1)
    f = torch.zeros_like(candidates).scatter(-1, places, values.relu())
    remaining = (target - (f @ rows).float()).square().mean()
    return remaining / target.square().mean().clamp_min(1e-8)


def unit_rows(x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
    """Return the rows at unit norm."""
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length.clamp_min(1e-8)
