"""Linear maps with oneDNN's weights, on CPUs where that is faster than PyTorch's own product.

PyTorch multiplies float32 matrices with MKL, which does not use AVX-512 on every processor that has it; oneDNN does
(measured on one such processor: 225 against 92 GFLOP/s, one thread, 600 x 128 by 128 x 1024).

1. Weights are packed once into oneDNN's own layout. Arithmetic stays float32; results differ from PyTorch's by
   rounding.
2. Gradients with respect to the input go through a second packed copy, made when the first one is asked for; weights
   get no gradient.
3. Both products are timed once per shape and process (`onednn_is_worth_it`). Noise must not choose: PyTorch's own is
   taken only where it is clearly faster, or where packing is not possible.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from basisbench.models.hooks import replaced_forward

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn

_WORTH_PACKING = 2**28
"""Multiplications from which weights that are used once are packed. A shape that oneDNN has not met costs about half
a millisecond and half a megabyte (measured), which it keeps: small products of ever new shapes are left to MKL."""

_CLEARLY = 0.75
"""PyTorch's own product is taken where it needs less than this share of oneDNN's time: the processes of a run, each
timing for itself beside the others, must come to the same choice, for values differ by rounding."""

_TIMED = 2**14
"""Weights from which a shape is timed; smaller ones take no time either way, and their timings are noise."""

_TIMED_WIDTH, _TIMED_PRODUCTS, _TIMED_RUNS = 512, 2**24, 5
"""A shape is timed with its sides rounded up to a power of two and cut to this width, on rows for this many
multiplications: few shapes are timed, for some milliseconds each."""


@cache
def largest_bytes() -> int:
    """Return up to which size a model, or the dictionaries of a basis, get packed copies.

    An eighth of the machine's memory, for there can be two copies; at least 1 GiB.
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        memory = 0
    return max(2**30, memory // 8)


LinearMap = Callable[["Tensor"], "Tensor"]


class OneDnnLinear:
    """x -> x @ weight.T + bias with oneDNN's weights, differentiable with respect to x."""

    def __init__(self, weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None) -> None:
        self._weight = weight.detach()
        self._bias = None if bias is None else bias.detach()
        self._packed = _pack(self._weight)

    def __call__(self, x: Float[Tensor, "*b in"]) -> Float[Tensor, "*b out"]:
        """Return the product."""
        import torch

        if torch.is_grad_enabled() and x.requires_grad:
            product: Tensor = _differentiable_product().apply(x, self)
            return product
        return self.forward(x)

    def forward(self, x: Float[Tensor, "*b in"]) -> Float[Tensor, "*b out"]:
        """Return the product, without a gradient."""
        return _product(x, self._packed, self._bias)

    def backward(self, gradient: Float[Tensor, "*b out"]) -> Float[Tensor, "*b in"]:
        """Return gradient @ weight: the gradient with respect to x."""
        return _product(gradient, self._packed_backward, None)

    @cached_property
    def _packed_backward(self) -> Tensor:
        return _pack(self._weight.T)


@cache
def _differentiable_product() -> Any:
    """Return the autograd function; a class that needs torch to be defined."""
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, linear: OneDnnLinear) -> Tensor:
            ctx.linear = linear
            return linear.forward(x)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
            linear: OneDnnLinear = ctx.linear
            return linear.backward(gradient), None

    return Product


def onednn_linear(weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None) -> OneDnnLinear | None:
    """Return x -> x @ weight.T + bias with oneDNN's weights.

    Args:
        weight: float32 weights on the CPU.
        bias: their bias, if any.

    Returns:
        None where weights of this type, or on this machine, cannot be packed, or PyTorch's own product is faster.
    """
    import torch

    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _packing_works():
        return None
    outputs, inputs = (min(1 << (size - 1).bit_length(), _TIMED_WIDTH) for size in weight.shape)
    return OneDnnLinear(weight, bias) if onednn_is_worth_it(outputs, inputs) else None


@cache
def onednn_is_worth_it(outputs: int, inputs: int) -> bool:
    """Return whether oneDNN's product of a shape is not clearly slower than PyTorch's own; timed once per process."""
    import torch

    if outputs * inputs < _TIMED:
        return True
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator)
    x = torch.randn(min(2048, _TIMED_PRODUCTS // (outputs * inputs)), inputs, generator=generator)
    plain, packed = _plain_map(weight, None), OneDnnLinear(weight, None)

    def seconds(product: LinearMap) -> float:
        start = time.perf_counter()
        product(x)
        return time.perf_counter() - start

    with torch.inference_mode():
        runs = [(seconds(plain), seconds(packed)) for _ in range(_TIMED_RUNS + 1)][1:]  # the first one warms up
    return min(own for own, _ in runs) > _CLEARLY * min(other for _, other in runs)


def linear_map(weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None, *, pack: bool = True) -> LinearMap:
    """Return x -> x @ weight.T + bias, with oneDNN's weights where that is asked for and worth it."""
    return (onednn_linear(weight, bias) if pack else None) or _plain_map(weight, bias)


def passing_linear_map(weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None) -> LinearMap:
    """Return the same for weights that are used once or twice: packed only for a batch that is worth it."""
    plain = _plain_map(weight, bias)

    def apply(x: Tensor) -> Tensor:
        if x.numel() * len(weight) < _WORTH_PACKING:
            return plain(x)
        return (onednn_linear(weight, bias) or plain)(x)

    return apply


def _plain_map(weight: Tensor, bias: Tensor | None) -> LinearMap:
    from torch.nn import functional

    return lambda x: functional.linear(x, weight, bias)


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    import torch

    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return result


def _pack(weight: Tensor) -> Tensor:
    import torch

    # Outside inference mode, whoever asks first: gradient passes use it too.
    with torch.inference_mode(False), torch.no_grad():
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
            found = _product(x, _pack(weight), bias)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.allclose(found, torch.nn.functional.linear(x, weight, bias), rtol=1e-4, atol=1e-5)


OneDnnLinears = Mapping[int, OneDnnLinear]
"""Linear layers with oneDNN's weights by the identity of their weight parameter."""


def onednn_linears(body: nn.Module) -> OneDnnLinears:
    """Return oneDNN's form of the linear layers of a model whose weights are constants.

    Args:
        body: a model in evaluation mode.

    Returns:
        Nothing where nothing can be packed, or where a second copy of the weights would be too large.
    """
    if sum(parameter.nbytes for parameter in body.parameters()) > largest_bytes():
        return {}
    found: dict[int, OneDnnLinear] = {}
    for module in body.modules():
        weight = _weight_of(module)
        if weight is not None and id(module.weight) not in found:
            linear = onednn_linear(weight, getattr(module, "bias", None))
            if linear is not None:
                found[id(module.weight)] = linear
    return found


def onednn_twin(body: nn.Module, linears: OneDnnLinears) -> nn.Module:
    """Return a copy of a model that shares every parameter but runs its linear layers with oneDNN's weights."""
    shared = {id(tensor): tensor for tensor in [*body.parameters(), *body.buffers()]}
    twin = copy.deepcopy(body, shared)
    for module, linear in _replaced_modules(twin, linears):
        module.forward = linear
    return twin


@contextmanager
def running_onednn(tree: nn.Module, linears: OneDnnLinears) -> Iterator[None]:
    """Run the linear layers of a module tree with oneDNN's weights inside the block; the tree is left as it was."""
    with ExitStack() as stack:
        for module, linear in _replaced_modules(tree, linears):
            stack.enter_context(replaced_forward(module, linear))
        yield


def _replaced_modules(tree: nn.Module, linears: OneDnnLinears) -> Iterator[tuple[Any, OneDnnLinear]]:
    for module in tree.modules():
        linear = None if _weight_of(module) is None else linears.get(id(module.weight))
        if linear is not None:
            yield module, linear


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
