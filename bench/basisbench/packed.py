"""Linear maps with weights packed for oneDNN, on CPUs where that is faster than PyTorch's own product.

PyTorch multiplies float32 matrices with MKL, which does not use AVX-512 on every processor that has it; oneDNN does
(measured on one such processor: 225 against 92 GFLOP/s, one thread, 600 x 128 by 128 x 1024). Arithmetic stays
float32; results differ from PyTorch's by rounding. Where packing is not possible or not right, the plain product
is used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn

_LARGEST_BYTES = 2**30
"""A packed copy of the weights is only made for models up to this size."""

LinearMap = Callable[["Tensor"], "Tensor"]


def packed_linear(weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None) -> LinearMap | None:
    """Return x -> x @ weight.T + bias with packed weights, for passes without gradients.

    Args:
        weight: float32 weights on the CPU.
        bias: their bias, if any.

    Returns:
        None where weights of this type, or on this machine, cannot be packed.
    """
    import torch

    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _packing_works():
        return None
    packed = _pack(weight.detach())
    offset = None if bias is None else bias.detach()

    def apply(x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, offset, "none", [], "")
        return result

    return apply


def _pack(weight: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


@cache
def _packing_works() -> bool:
    """Return whether this build of PyTorch can pack, and gives the product when it does."""
    import torch

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 16, generator=generator)
    bias = torch.randn(24, generator=generator)
    x = torch.randn(3, 5, 16, generator=generator)
    try:
        with torch.inference_mode():
            found = torch.ops.mkldnn._linear_pointwise(x, _pack(weight), bias, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.allclose(found, torch.nn.functional.linear(x, weight, bias), rtol=1e-4, atol=1e-5)


def pack_linears(body: nn.Module) -> nn.Module | None:
    """Return a copy of a model that shares every parameter but runs its linear layers packed.

    Args:
        body: a model in evaluation mode.

    Returns:
        None where nothing can be packed, or where a second copy of the weights would be too large.
    """
    size = sum(parameter.nbytes for parameter in body.parameters())
    if size > _LARGEST_BYTES:
        return None
    shared = {id(tensor): tensor for tensor in [*body.parameters(), *body.buffers()]}
    twin = copy.deepcopy(body, shared)
    found = False
    for module in twin.modules():
        weight = _weight_of(module)
        linear = None if weight is None else packed_linear(weight, getattr(module, "bias", None))
        if linear is not None:
            module.forward = _unless_gradient(linear, module.forward)
            found = True
    return twin if found else None


def _unless_gradient(linear: LinearMap, plain: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    import torch

    def forward(x: Tensor) -> Tensor:
        return plain(x) if torch.is_grad_enabled() else linear(x)

    return forward


def _weight_of(module: Any) -> Tensor | None:
    """Return a linear layer's weight as (out, in), for PyTorch's linear layers and for GPT-2's."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if type(module) is nn.Linear:
        return module.weight
    if type(module) is Conv1D:
        weight: Tensor = module.weight.T
        return weight
    return None
