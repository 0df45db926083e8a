"""Compute what SAELens computes, with less work; without gradients.

1. A wide, sparse code is decoded by adding up its active rows, whatever the dictionary.
2. Where units do not depend on each other (ReLU, JumpReLU), weights are packed if that is possible
   (`basisbench.models.onednn`), fewer passes go over memory, and some units can be computed without the others, so
   that the harness computes only those that a circuit needs. Further units that are linear in the input
   (`dictionaries.saelens_adapter`) are units without a threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from basisbench.models.onednn import LinearMap, linear_map, passing_linear_map
from basisbench_baselines.dictionaries.saelens_adapter import AdaptedDictionary

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

_WIDE = 4096
"""Dictionaries of fewer units are decoded as a product: counting active units would cost as much."""

_INDEPENDENT = (
    "standard",
    "jumprelu",
    "transcoder",
    "jumprelu_transcoder",
    "skip_transcoder",
    "jumprelu_skip_transcoder",
)
"""SAELens's architectures whose units do not depend on each other."""

_SPARSE = 1 / 32
"""Codes with at most this share of active units are decoded row by row (measured: 8 times faster at 1/500)."""


@dataclass(frozen=True, eq=False)
class JointUnits:
    """Units that depend on each other (TopK, a normalised input): they are computed together.

    Attributes:
        dictionary: a SAELens module or an adapted one.
        w_dec: one row per unit, if its decoder is this matrix; None lets the dictionary decode.
        b_dec: decoder bias.
    """

    dictionary: Any
    w_dec: Float[Tensor, "unit d_write"] | None
    b_dec: Float[Tensor, " d_write"]

    def encode(self, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b unit"]:
        """Return the coordinates; without gradients."""
        coordinates: Tensor = self.dictionary.encode(x.to(self.b_dec.dtype))
        return coordinates

    def decode(self, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return the reconstruction; without gradients."""
        f = f.to(self.b_dec.dtype)
        if self.w_dec is not None and _is_sparse(f):
            return sparse_product(f, self.w_dec) + self.b_dec
        reconstruction: Tensor = self.dictionary.decode(f)
        return reconstruction


@dataclass(frozen=True, eq=False)
class IndependentUnits:
    """f = pre-activation where that exceeds its threshold, else 0; pre-activation = (x - shift) @ W_enc + b_enc.

    Attributes:
        shift: subtracted from the input; None for a dictionary that subtracts nothing.
        w_enc: one row per unit, so that rows can be picked.
        b_enc: encoder bias.
        threshold: per unit, at least zero, minus infinity for a linear unit; None for ReLU, where it is zero.
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
        return _activated(self.encoder(_shifted(x, self.w_enc.dtype, self.shift)), self.threshold)

    def decode(self, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return the reconstruction; without gradients."""
        f = f.to(self.w_dec.dtype)
        return sparse_product(f, self.w_dec) + self.b_dec if _is_sparse(f) else self.decoder(f)

    def encoder_of(self, units: Int[Tensor, " part"]) -> LinearMap:
        """Return the encoder of some units, which holds on to no others."""
        threshold = None if self.threshold is None else self.threshold[units]
        encoder = passing_linear_map(self.w_enc[units], self.b_enc[units])
        dtype, shift = self.w_enc.dtype, self.shift
        return lambda x: _activated(encoder(_shifted(x, dtype, shift)), threshold)

    def decoder_rows(self, units: Int[Tensor, " part"]) -> Float[Tensor, "part d_write"]:
        """Return the decoder rows of some units."""
        return self.w_dec[units]


def _shifted(x: Tensor, dtype: torch.dtype, shift: Tensor | None) -> Tensor:
    x = x.to(dtype)
    return x if shift is None else x - shift


def _activated(before: Tensor, threshold: Tensor | None) -> Tensor:
    """Activate in place: the pre-activation is nobody else's."""
    return before.relu_() if threshold is None else before.masked_fill_(before <= threshold, 0)


def _is_sparse(f: Tensor) -> bool:
    """Tell whether a code is so wide and so sparse that adding rows is quicker than a product."""
    import torch

    # On a device the count would have to be waited for.
    wide = f.device.type == "cpu" and f.shape[-1] >= _WIDE
    return wide and bool(torch.count_nonzero(f) <= _SPARSE * f.numel())


def sparse_product(f: Float[Tensor, "*b unit"], weight: Float[Tensor, "unit d"]) -> Float[Tensor, "*b d"]:
    """Return f @ weight by adding the rows of active units; equal to the product up to rounding."""
    import torch
    from torch.nn import functional

    flat = f.reshape(-1, f.shape[-1])
    row, unit = flat.nonzero().unbind(1)
    counts = torch.bincount(row, minlength=len(flat))
    starts = counts.cumsum(0) - counts
    product = functional.embedding_bag(unit, weight, starts, mode="sum", per_sample_weights=flat[row, unit])
    return product.view(*f.shape[:-1], weight.shape[-1])


FastDictionary: TypeAlias = JointUnits | IndependentUnits
"""A dictionary as it is computed without gradients."""


def fast_dictionary(dictionary: Any, *, pack: bool = True) -> FastDictionary:
    """Return the fast form of a SAELens dictionary, or of an adapted one.

    Args:
        dictionary: the dictionary; its weights may be laid out anew.
        pack: whether packed copies of the weights may be made.
    """
    independent = independent_units(dictionary, pack=pack)
    if independent is not None:
        return independent
    if isinstance(dictionary, AdaptedDictionary):
        return JointUnits(dictionary, dictionary.w_dec, dictionary.bias)
    config = dictionary.cfg
    plain = config.architecture() in (
        "standard",
        "gated",
        "topk",
        "abstopk",
        "jumprelu",
        "topk_transcoder",
    ) and not getattr(config, "rescale_acts_by_decoder_norm", False)
    return JointUnits(dictionary, dictionary.W_dec.detach() if plain else None, dictionary.b_dec.detach())


def independent_units(dictionary: Any, *, pack: bool = True) -> IndependentUnits | None:
    """Return the fast form of a dictionary; None for kinds whose units depend on each other, and unknown ones.

    The encoder's weights are laid out anew, one row per unit, in place of the dictionary's own: no second copy.

    Args:
        dictionary: a SAELens module, or an adapted one.
        pack: whether packed copies of the weights may be made.
    """
    import torch

    adapted = dictionary if isinstance(dictionary, AdaptedDictionary) else None
    module = dictionary if adapted is None else adapted.module
    config = module.cfg
    kind = config.architecture()
    plain = (
        kind in _INDEPENDENT
        and config.reshape_activations == "none"
        and not getattr(config, "rescale_acts_by_decoder_norm", False)
        and str(config.normalize_activations or "none") == "none"
        and (adapted is None or adapted.normalisation == "none")
    )
    if not plain or ("skip" in kind and adapted is None):
        return None
    linear = None if adapted is None else adapted.linear
    w_enc, b_enc = module.W_enc.detach().T, module.b_enc.detach()
    threshold = module.threshold.detach().clamp_min(0) if "jumprelu" in kind else None
    features = len(w_enc)
    if linear is None:
        w_enc = w_enc.contiguous()
    else:
        threshold = torch.zeros_like(b_enc) if threshold is None else threshold
        w_enc, b_enc = torch.cat([w_enc, linear]), torch.cat([b_enc, b_enc.new_zeros(len(linear))])
        threshold = torch.cat([threshold, threshold.new_full((len(linear),), -torch.inf)])
    module.W_enc.data = w_enc[:features].T
    w_dec = module.W_dec.detach() if adapted is None else adapted.w_dec
    b_dec = module.b_dec.detach() if adapted is None else adapted.bias
    # A transcoder's decoder bias lives in another space than its input; SAELens never subtracts it.
    shift = b_dec if config.apply_b_dec_to_input and "transcoder" not in kind else None
    encoder, decoder = linear_map(w_enc, b_enc, pack=pack), linear_map(w_dec.T, b_dec, pack=pack)
    return IndependentUnits(shift, w_enc, b_enc, threshold, w_dec, b_dec, encoder, decoder)


class SelectedUnits:
    """Some units of a basis whose decoder is a matrix; implements `basisbench.protocols.BasisPart`.

    Args:
        units: which units.
        encoder: makes the encoder of some units.
        decoder: gives the decoder rows of some units.
    """

    def __init__(
        self, units: Int[Tensor, " part"], encoder: Callable[[Tensor], LinearMap], decoder: Callable[[Tensor], Tensor]
    ) -> None:
        self._units, self._make_encoder, self._make_rows = units, encoder, decoder

    @cached_property
    def _encoder(self) -> LinearMap:
        return self._make_encoder(self._units)

    @cached_property
    def _rows(self) -> Float[Tensor, "part d_write"]:
        return self._make_rows(self._units)

    def encode(self, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b part"]:
        """Return the coordinates of these units."""
        return self._encoder(x)

    def decode(self, f: Float[Tensor, "*b part"]) -> Float[Tensor, "*b d_write"]:
        """Return what these coordinates add to the reconstruction."""
        return passing_linear_map(self._rows.T, None)(f)

    def project(self, gradient: Float[Tensor, "*b d_write"]) -> Float[Tensor, "*b part"]:
        """Return the product of a gradient with each unit's decoder row."""
        return passing_linear_map(self._rows, None)(gradient)
