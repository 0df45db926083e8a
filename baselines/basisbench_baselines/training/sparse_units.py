"""Units of which few are active, in training: products are dense, everything else is done on active units alone.

    z = x W_enc + b_enc,  f = BatchTopK(z |W_dec|),  written = (f / |W_dec|) W_dec

1. What is written is the kept part of z times W_dec: the norms decide which units are kept, and cancel otherwise. So no
   gradient flows through them, and no tensor of (token, unit) is made but z, the kept part and its gradient.
2. BatchTopK keeps the k * tokens largest of a batch, if positive (Bussmann et al. 2024, arXiv 2412.06410). SAELens
   sorts them all; here a sample tells a value that about half more exceed, and only those are sorted: the same units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

_SAMPLED = 61
"""One of so many values is in the sample; no divisor of a usual width."""


def largest(values: Float[Tensor, "token unit"], count: int) -> tuple[Int[Tensor, " kept"], Float[Tensor, " kept"]]:
    """Return the largest positive values, and where they are in the flat tensor; equals of the least are kept too."""
    flat = values.flatten()
    least = torch.finfo(values.dtype).tiny
    places = None
    sample = flat[::_SAMPLED]
    wanted = int(1.5 * count / _SAMPLED)
    if 0 < wanted < len(sample):
        guess = max(float(sample.topk(wanted, sorted=False).values.min()), least)
        found = (flat >= guess).nonzero().squeeze(1)
        if guess == least or len(found) >= count:
            places = found
    if places is None:
        places = (flat >= least).nonzero().squeeze(1)
    chosen = flat[places]
    if len(chosen) > count:
        kept = chosen >= chosen.topk(count, sorted=False).values.min()
        places, chosen = places[kept], chosen[kept]
    return places, chosen


def sparse_units(
    x: Float[Tensor, "token d_in"],
    w_enc: Float[Tensor, "d_in unit"],
    b_enc: Float[Tensor, " unit"],
    w_dec: Float[Tensor, "unit d_out"],
    count: int,
) -> tuple[Float[Tensor, "token d_out"], Int[Tensor, " active"], Float[Tensor, " active"]]:
    """Encode, keep the largest, decode; see the module. Under autocast the five products are in its type.

    Args:
        x: what is read; it gets no gradient.
        w_enc: encoder.
        b_enc: its bias.
        w_dec: decoder.
        count: how many values are kept in all.

    Returns:
        What is written, in `x`'s type; flat places of active units; their activations, scaled by the norms. Only the
        first has a gradient.
    """
    written, places, f = _SparseUnits.apply(x, w_enc, b_enc, w_dec, count)  # type: ignore[no-untyped-call]
    return written, places, f


class _SparseUnits(torch.autograd.Function):
    """What `sparse_units` computes, with the gradients of encoder, bias and decoder."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_enc: Tensor, b_enc: Tensor, w_dec: Tensor, count: int) -> Any:
        """Compute what is written."""
        device = x.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):
            norms = w_dec.norm(dim=1)
            x_narrow, encoder, decoder = x.to(narrow), w_enc.to(narrow), w_dec.to(narrow)
            before = torch.addmm(b_enc.to(narrow), x_narrow, encoder)
            places, f = largest(before * norms, count)
            kept = torch.zeros_like(before)
            kept.view(-1)[places] = before.view(-1)[places]
            written = (kept @ decoder).to(x.dtype)
        ctx.save_for_backward(x_narrow, kept, places, decoder)
        ctx.mark_non_differentiable(places, f)
        return written, places, f

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Compute the gradients of encoder, bias and decoder."""
        x, kept, places, decoder = ctx.saved_tensors
        gradient = gradients[0].to(decoder.dtype)
        of_kept = gradient @ decoder.T
        of_before = torch.zeros_like(of_kept)
        chosen = of_kept.view(-1)[places]
        of_before.view(-1)[places] = chosen
        of_bias = gradients[0].new_zeros(decoder.shape[0])
        of_bias.index_add_(0, places % len(of_bias), chosen.to(of_bias.dtype))
        dtype = gradients[0].dtype
        return None, (x.T @ of_before).to(dtype), of_bias, (kept.T @ gradient).to(dtype), None
