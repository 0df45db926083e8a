"""Backward rules: what the parts of a model do to a gradient on its way back, RelP's among them.

Every rule replaces a tensor `y` by `y.detach() + (s - s.detach())`, where the surrogate `s` has the rule's
gradient. The added term is exactly zero, so forward values stay bit-equal. `BackwardRules` chooses part by part:

1. LayerNorm and RMSNorm, all of them (before, after, of queries and keys, final): the scale is a constant.
2. Activation a(x): x times the constant a(x)/x.
3. Product of gate and linear side: each side gets a share of the gradient.
4. Attention: the pattern is a constant, so queries and keys get no gradient, through no norm, rotation or soft-cap; or
   its softmax goes back at another temperature; queries, keys and values get a part of their gradient.
5. Linear maps: as they are.
6. What attention and MLP read from the residual stream may be a constant: what a block writes then reaches the logits
   straight, or not at all.

RelP (Jafari et al., arXiv 2508.21258, table 1) is 1 to 4 with shares of a half and a constant pattern; its published
code keeps the pattern constant only on request. GIM (Edin et al., arXiv 2505.17630; src/gim/attention.py of its code)
is 1 with a softmax of temperature 2, a quarter for queries and keys and half for values. Direct logit attribution
(Elhage et al. 2021) is 1 with 6.

The rules hold for blocks whose attention and MLP follow each other and for those that work side by side: how their
outputs are added is a linear map. The metric is taken before a final soft-cap, so there is no rule for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError
from basisbench.models.model import at_least_float32
from basisbench.types import BackwardRules

if TYPE_CHECKING:
    from torch import Tensor, nn

    from basisbench.models.model import Model

_SMALL = 1e-6
"""Below this size of x the ratio a(x)/x is replaced by its limit a'(0); the difference is of order 1e-6."""


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value`, bit for bit, with the gradient of `surrogate`."""
    return value.detach() + (surrogate - surrogate.detach())


RELP = BackwardRules(norms="frozen", activations="ratio", gate=0.5, pattern="frozen")

RULES: Mapping[str, BackwardRules] = {"ixg": BackwardRules(), "relp": RELP}
"""Backward rules by name; `ixg` is autograd."""


@contextmanager
def backward_rules(model: Model, rules: BackwardRules) -> Iterator[None]:
    """Apply backward rules to every forward pass of `model.bridge` inside the block; no hook is left behind.

    Args:
        model: the model.
        rules: what each part does.

    Raises:
        BasisBenchError: the architecture has a part that no rule is written for.
    """
    with ExitStack() as stack:
        if rules.norms == "frozen":
            for norm in _norms(model):
                _add_norm_rule(model, norm, stack)
        for layer in range(model.layers):
            _add_attention_rules(model, layer, rules, stack)
            if rules.activations == "ratio" or rules.gate != 1:
                _add_mlp_rules(model, layer, rules, stack)
            if rules.reads == "stopped":
                _stop_reads(model, layer, stack)
        yield


def _missing(model: Model, what: str) -> BasisBenchError:
    return BasisBenchError(
        f"there is no backward rule for a part of model '{model.name}' ({model.architecture}): {what}; "
        "add the rule to basisbench/models/relp.py"
    )


def _needed(model: Model, hook: str, part: str) -> nn.Module:
    """Return a hook point that a rule is attached to."""
    point = model.hook_points.get(hook)
    if point is None:
        raise _missing(model, f"its {part} has no hook '{hook}' in this TransformerLens")
    return point


def _norms(model: Model) -> list[Any]:
    from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge

    return [module for module in model.bridge.modules() if isinstance(module, NormalizationBridge)]


def _add_norm_rule(model: Model, norm: Any, stack: ExitStack) -> None:
    module = norm.original_component
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if epsilon is None or getattr(module, "weight", None) is None:
        raise _missing(model, f"the normalisation {norm.name} ({type(module).__name__}) names no epsilon or no weight")
    offset = 1.0 if getattr(norm.config, "rmsnorm_uses_offset", False) else 0.0
    entered: list[Tensor] = []

    def watch(_module: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> None:
        entered.append(output)

    def rule(_module: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # As the models do: in float16 a square of 300 is too large a number.
        x = at_least_float32(entered.pop())
        centred = x if norm.uses_rms_norm else x - x.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + epsilon).sqrt().detach()
        surrogate = centred / scale * (at_least_float32(module.weight) + offset)
        return with_gradient_of(output, surrogate.to(output.dtype))

    # At the hook point inside: a post-norm's output is a write site, whose hook must see the value that goes on.
    stack.callback(norm.hook_in.register_forward_hook(watch).remove)
    stack.callback(norm.hook_out.register_forward_hook(rule).remove)


def _add_attention_rules(model: Model, layer: int, rules: BackwardRules, stack: ExitStack) -> None:
    prefix = f"blocks.{layer}.attn"

    def add(name: str, rule: Callable[[Tensor], Tensor | None]) -> None:
        point = _needed(model, f"{prefix}.{name}", "attention")
        stack.callback(point.register_forward_hook(lambda _module, _arguments, output: rule(output)).remove)

    for name, factor in (("hook_q", rules.queries), ("hook_k", rules.keys), ("hook_v", rules.values)):
        if factor != 1:
            add(name, lambda output, factor=factor: with_gradient_of(output, factor * output))  # type: ignore[misc]
    if rules.pattern == "frozen":
        add("hook_pattern", lambda output: output.detach())
    elif rules.temperature != 1:
        seen: list[Tensor] = []

        def softer(pattern: Tensor) -> Tensor:
            # The temperature in front makes the gradient that of a softmax of its argument, not of the scores.
            softmax = (at_least_float32(seen.pop()) / rules.temperature).softmax(-1) * rules.temperature
            return with_gradient_of(pattern, softmax.to(pattern.dtype))

        add("hook_attn_scores", seen.append)
        add("hook_pattern", softer)


def _stop_reads(model: Model, layer: int, stack: ExitStack) -> None:
    for part in ("attn", "mlp"):
        point = _needed(model, f"blocks.{layer}.{part}.hook_in", part)
        # A leaf, so that gradients exist at everything behind it.
        handle = point.register_forward_hook(lambda _module, _arguments, x: x.detach().requires_grad_())
        stack.callback(handle.remove)


def _add_mlp_rules(model: Model, layer: int, rules: BackwardRules, stack: ExitStack) -> None:
    prefix = f"blocks.{layer}.mlp"
    mlp = model.component(prefix)
    activation = _activation_function(model, prefix, mlp.original_component)
    gated = f"{prefix}.hook_pre_linear" in model.hook_points
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> None:
        def hook(_module: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output

        stack.callback(_needed(model, f"{prefix}.{name}", "MLP").register_forward_hook(hook).remove)

    def rule(_module: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = seen.pop("hook_pre")
        linear = seen.pop("hook_pre_linear") if gated else None
        if rules.activations == "ratio":
            ratio = activation_ratio(activation, x.detach())
            if linear is None:
                return with_gradient_of(output, x * ratio)
            by_gate, by_linear = x * (ratio * linear.detach()), linear * (ratio * x.detach())
        elif linear is None:  # there is no product to share
            return output
        else:
            by_gate, by_linear = activation(x) * linear.detach(), linear * activation(x.detach())
        return with_gradient_of(output, rules.gate * by_gate + rules.gate * by_linear)

    watch("hook_pre")
    if gated:
        watch("hook_pre_linear")
    stack.callback(_needed(model, f"{prefix}.hook_post", "MLP").register_forward_hook(rule).remove)


def _activation_function(model: Model, name: str, mlp: Any) -> Callable[[Tensor], Tensor]:
    names = ("act_fn", "act", "activation_fn")
    function = next((getattr(mlp, name) for name in names if hasattr(mlp, name)), None)
    if not callable(function):
        raise _missing(model, f"{name} ({type(mlp).__name__}) has no activation function under {', '.join(names)}")
    found: Callable[[Tensor], Tensor] = function
    return found


def activation_ratio(activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a(x)/x, by its limit a'(0) where x is almost zero.

    Args:
        activation: a function with a(0) = 0, applied elementwise.
        x: pre-activations of any shape, without gradient.
    """
    import torch
    from torch.autograd.graph import saved_tensors_hooks

    # Of a block that is run again on the way back, this small way back is none.
    with torch.enable_grad(), saved_tensors_hooks(lambda kept: kept, lambda kept: kept):
        zero = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
        (slope,) = torch.autograd.grad(activation(zero), zero)
    small = x.abs() < _SMALL
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, slope, activation(safe) / safe)
