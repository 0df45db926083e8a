"""Dictionaries whose units do not depend on each other (ReLU, JumpReLU): what SAELens computes, with less work.

1. Weights are packed where that is possible (basisbench.packed), and fewer passes go over memory.
2. Some units can be computed without the others, so that the harness computes only those that a circuit needs.
3. A wide, sparse code is decoded by adding up its active rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from basisbench.packed import LinearMap, linear_map, passing_linear_map
from basisbench_baselines.rows import RowsPart

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

_WIDE = 4096
"""Dictionaries of fewer units are decoded as a product: counting active units would cost as much."""

_SPARSE = 1 / 32
"""Codes with at most this share of active units are decoded row by row (measured: 8 times faster at 1/500)."""


@dataclass(frozen=True, eq=False)
class ElementwiseDictionary:
    """f = pre-activation where that exceeds its threshold, else 0; pre-activation = (x - shift) @ W_enc + b_enc.

    Attributes:
        shift: subtracted from the input; None for a dictionary that subtracts nothing.
        w_enc: one row per unit, so that rows can be picked.
        b_enc: encoder bias.
        threshold: per unit, at least zero; None for ReLU, where it is zero everywhere.
        w_dec: one row per unit.
        b_dec: decoder bias.
        encoder: x -> x @ w_enc.T + b_enc.
        decoder: f -> f @ w_dec + b_dec.
    """

    shift: Float[Tensor, " d_read"] | None
    w_enc: Float[Tensor, "unit d_read"]
    b_enc: Float[Tensor, " unit"]
    threshold: Float[Tensor, " unit"] | None
    w_dec: Float[Tensor, "unit d_write"]
    b_dec: Float[Tensor, " d_write"]
    encoder: LinearMap
    decoder: LinearMap

    def encode(self, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b unit"]:
        """Return the feature activations; without gradients."""
        return _activated(self.encoder(self._shifted(x)), self.threshold)

    def decode(self, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return the reconstruction; without gradients."""
        import torch

        # On a device the count would have to be waited for.
        if f.device.type == "cpu" and len(self.w_dec) >= _WIDE and torch.count_nonzero(f) <= _SPARSE * f.numel():
            return sparse_product(f, self.w_dec) + self.b_dec
        return self.decoder(f)

    def part(self, units: Int[Tensor, " part"]) -> RowsPart:
        """Return some units."""
        return RowsPart(units, self._encoder_of, self.w_dec)

    def _encoder_of(self, units: Tensor) -> LinearMap:
        threshold = None if self.threshold is None else self.threshold[units]
        encoder = passing_linear_map(self.w_enc[units], self.b_enc[units])
        return lambda x: _activated(encoder(self._shifted(x)), threshold)

    def _shifted(self, x: Tensor) -> Tensor:
        return x if self.shift is None else x - self.shift


def _activated(before: Tensor, threshold: Tensor | None) -> Tensor:
    """Activate in place: the pre-activation is nobody else's."""
    return before.relu_() if threshold is None else before.masked_fill_(before <= threshold, 0)


def sparse_product(f: Float[Tensor, "*b unit"], weight: Float[Tensor, "unit d"]) -> Float[Tensor, "*b d"]:
    """Return f @ weight by adding the rows of active units; equal to the product up to rounding."""
    import torch
    from torch.nn import functional

    flat = f.flatten(0, -2)
    row, unit = flat.nonzero().unbind(1)
    counts = torch.bincount(row, minlength=len(flat))
    starts = counts.cumsum(0) - counts
    product = functional.embedding_bag(unit, weight, starts, mode="sum", per_sample_weights=flat[row, unit])
    return product.view(*f.shape[:-1], weight.shape[-1])


def elementwise_dictionary(dictionary: Any, *, pack: bool = True) -> ElementwiseDictionary | None:
    """Return the quick form of a SAELens dictionary; None for kinds whose units depend on each other, and unknown ones.

    The encoder's weights are laid out anew, one row per unit, in place of the dictionary's own: no second copy.

    Args:
        dictionary: a SAELens module.
        pack: whether packed copies of the weights may be made.
    """
    config = dictionary.cfg
    kind = config.architecture()
    plain = (
        kind in ("standard", "jumprelu", "transcoder", "jumprelu_transcoder")
        and config.reshape_activations == "none"
        and not getattr(config, "rescale_acts_by_decoder_norm", False)
        and str(config.normalize_activations) == "none"
    )
    if not plain:
        return None
    w_enc = dictionary.W_enc.detach().T.contiguous()
    dictionary.W_enc.data = w_enc.T
    w_dec, b_enc, b_dec = dictionary.W_dec.detach(), dictionary.b_enc.detach(), dictionary.b_dec.detach()
    threshold = dictionary.threshold.detach().clamp_min(0) if "jumprelu" in kind else None
    # A transcoder's decoder bias lives in another space than its input; SAELens never subtracts it.
    shift = b_dec if config.apply_b_dec_to_input and "transcoder" not in kind else None
    encoder, decoder = linear_map(w_enc, b_enc, pack=pack), linear_map(w_dec.T, b_dec, pack=pack)
    return ElementwiseDictionary(shift, w_enc, b_enc, threshold, w_dec, b_dec, encoder, decoder)
