"""RelP: relevance patching by a changed backward pass (Jafari et al., arXiv 2508.21258).

Every rule replaces a tensor `y` by `y.detach() + (s - s.detach())`, where the surrogate `s` has the rule's
gradient. The added term is exactly zero, so forward values stay bit-equal.

1. LayerNorm and RMSNorm, all of them: the scale is a constant.
2. Activation a(x): x times the constant a(x)/x.
3. Product of gate and linear side: each side gets half of the gradient.
4. Attention: the pattern is a constant, so queries and keys get no gradient.
5. Linear maps: as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from basisbench.model import Model

_SMALL = 1e-6
"""Below this size of x the ratio a(x)/x is replaced by its limit a'(0); the difference is of order 1e-6."""


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value`, bit for bit, with the gradient of `surrogate`."""
    return value.detach() + (surrogate - surrogate.detach())


@contextmanager
def relp_rules(model: Model) -> Iterator[None]:
    """Apply RelP's rules to every forward pass of `model.bridge` inside the block.

    Raises:
        BasisBenchError: the architecture has a part that no rule is written for.
    """
    with ExitStack() as stack:
        for norm in _norms(model):
            _add_norm_rule(norm, stack)
        for layer in range(model.layers):
            pattern = model.hook_point(f"blocks.{layer}.attn.hook_pattern")
            handle = pattern.register_forward_hook(lambda _module, _arguments, output: output.detach())
            stack.callback(handle.remove)
            _add_mlp_rules(model, layer, stack)
        yield


def _norms(model: Model) -> list[Any]:
    from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge

    return [module for module in model.bridge.modules() if isinstance(module, NormalizationBridge)]


def _add_norm_rule(norm: Any, stack: ExitStack) -> None:
    module = norm.original_component
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if epsilon is None:
        raise BasisBenchError(
            f"RelP has no rule for the normalisation {type(module).__name__}: it names no epsilon; "
            "add it to basisbench/relp.py"
        )
    offset = 1.0 if getattr(norm.config, "rmsnorm_uses_offset", False) else 0.0
    entered: list[Tensor] = []

    def watch(_module: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> None:
        entered.append(output)

    def rule(_module: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = entered.pop()
        centred = x if norm.uses_rms_norm else x - x.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + epsilon).sqrt().detach()
        return with_gradient_of(output, centred / scale * (module.weight + offset))

    # At the hook point inside: a post-norm's output is a write site, whose hook must see the value that goes on.
    stack.callback(norm.hook_in.register_forward_hook(watch).remove)
    stack.callback(norm.hook_out.register_forward_hook(rule).remove)


def _add_mlp_rules(model: Model, layer: int, stack: ExitStack) -> None:
    prefix = f"blocks.{layer}.mlp"
    mlp = model.component(prefix)
    activation = _activation_function(mlp.original_component)
    gated = f"{prefix}.hook_pre_linear" in model.hook_points
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> None:
        def hook(_module: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output

        handle = model.hook_point(f"{prefix}.{name}").register_forward_hook(hook)
        stack.callback(handle.remove)

    def rule(_module: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = seen.pop("hook_pre")
        ratio = activation_ratio(activation, x.detach())
        if not gated:
            return with_gradient_of(output, x * ratio)
        linear = seen.pop("hook_pre_linear")
        half_by_gate = x * (ratio * linear.detach())
        half_by_linear = linear * (ratio * x.detach())
        return with_gradient_of(output, 0.5 * (half_by_gate + half_by_linear))

    watch("hook_pre")
    if gated:
        watch("hook_pre_linear")
    handle = model.hook_point(f"{prefix}.hook_post").register_forward_hook(rule)
    stack.callback(handle.remove)


def _activation_function(mlp: Any) -> Callable[[Tensor], Tensor]:
    function = getattr(mlp, "act_fn", getattr(mlp, "act", None))
    if not callable(function):
        raise BasisBenchError(
            f"RelP has no rule for the MLP {type(mlp).__name__}: it names no activation function "
            "(`act_fn` or `act`); add it to basisbench/relp.py"
        )
    found: Callable[[Tensor], Tensor] = function
    return found


def activation_ratio(activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a(x)/x, by its limit a'(0) where x is almost zero.

    Args:
        activation: a function with a(0) = 0, applied elementwise.
        x: pre-activations of any shape, without gradient.
    """
    import torch

    with torch.enable_grad():
        zero = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
        (slope,) = torch.autograd.grad(activation(zero), zero)
    small = x.abs() < _SMALL
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, slope, activation(safe) / safe)
