"""A pass of the model that a method shapes: activations replaced or added to, backward rules of its choice.

1. TransformerLens's view of the model is run, so that every hook that it names can be reached, inner ones too.
2. At a hook, a backward rule comes first, then what the method puts there, then what is read or differentiated: a
   gradient is taken at the value that goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from basisbench.attribution.batch import answer_logits_only
from basisbench.attribution.graph_size import blocks_run_again, is_too_long
from basisbench.errors import BasisBenchError, unknown_name
from basisbench.models.model import Model, at_least_float32
from basisbench.models.onednn import running_onednn
from basisbench.models.relp import RULES, backward_rules
from basisbench.types import BackwardRules

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.attribution.batch import Batch

Watch = Callable[[str, "Tensor"], None]
"""Is shown a hook and the activation there."""

EMBEDDINGS = "embed.hook_out"
"""Hook of the token embeddings, before positions are added."""

HEAD = "unembed.hook_out"
"""Hook of the logits, before any final soft-cap."""


@dataclass(frozen=True)
class Put:
    """What a method puts at hooks during a pass.

    Attributes:
        replace: by hook, the activation that takes the place of the model's own.
        add: by hook, what is added to the activation, after any replacement.
    """

    replace: Mapping[str, Float[Tensor, "pair ..."]] = field(default_factory=dict)
    add: Mapping[str, Float[Tensor, "pair ..."]] = field(default_factory=dict)

    def part(self, chosen: slice) -> Put:
        """Return the same for some of the pairs."""
        return Put(
            {hook: value[chosen] for hook, value in self.replace.items()},
            {hook: value[chosen] for hook, value in self.add.items()},
        )

    def at(self, hook: str, own: Tensor) -> Tensor:
        """Return what goes on at a hook.

        Raises:
            BasisBenchError: the shape is another than that of the model's own activation.
        """
        for given in (self.replace.get(hook), self.add.get(hook)):
            if given is not None and given.shape != own.shape:
                raise BasisBenchError(
                    f"a method puts shape {tuple(given.shape)} at hook '{hook}', where the model has {tuple(own.shape)}"
                )
        value = self.replace.get(hook, own).to(own)
        return value + self.add[hook].to(own) if hook in self.add else value


def rules_named(rules: str | BackwardRules) -> BackwardRules:
    """Return backward rules, by their name or as they are.

    Raises:
        BasisBenchError: no rules of that name.
    """
    if isinstance(rules, BackwardRules):
        return rules
    if rules not in RULES:
        raise unknown_name("backward rule of a single pass", rules, RULES)
    return RULES[rules]


def gradients_at(model: Model, batch: Batch, hooks: Sequence[str], put: Put, rules: BackwardRules) -> dict[str, Tensor]:
    """Return the metric's gradient at hooks on the clean prompts, in one forward and one backward pass.

    Args:
        model: the model.
        batch: the pairs.
        hooks: where.
        put: what is put at hooks meanwhile.
        rules: how gradients go back.
    """
    import torch
    from torch.autograd.graph import GradientEdge, get_gradient_edge

    seen: dict[str, tuple[Tensor, GradientEdge | None]] = {}

    def watch(hook: str, value: Tensor) -> None:
        # Its shape, and where its gradient is taken: autograd need not keep the activation. A rule may have made it a
        # constant.
        seen[hook] = value.detach().to("meta"), get_gradient_edge(value) if value.requires_grad else None

    again = is_too_long(model, batch.clean.shape[1])
    with torch.enable_grad():
        metric = _metric(model, batch, put, rules, hooks, watch, leaves=True, again=again)
        total = metric.sum()
    followed = {hook: edge for hook, (_, edge) in seen.items() if edge is not None}
    taken = torch.autograd.grad(total, list(followed.values()), allow_unused=True) if followed else ()
    model.meter.forward_equivalents += 2 * len(metric)
    gradients = dict(zip(followed, taken, strict=True))
    return {
        hook: torch.zeros_like(shape, device=model.device)
        if gradients.get(hook) is None
        else gradients[hook].to(model.device)
        for hook, (shape, _) in seen.items()
    }


def metric_of(model: Model, batch: Batch, put: Put, rules: BackwardRules) -> Float[Tensor, " pair"]:
    """Return the metric of the clean prompts, differentiable in what is put at hooks; a backward pass is counted."""
    metric = _metric(model, batch, put, rules, (), lambda _hook, _value: None, leaves=False)

    def count(_gradient: Tensor) -> None:
        model.meter.forward_equivalents += 2 * len(metric)

    if metric.requires_grad:
        metric.register_hook(count)
    return metric


def activation_inside(model: Model, tokens: Int[Tensor, "pair pos"], hook: str) -> Tensor:
    """Return the activation at any hook of TransformerLens, on prompts as they are."""
    import torch

    seen: dict[str, Tensor] = {}
    with torch.no_grad(), running_onednn(model.bridge, model.onednn_linears):
        run_once(model, tokens, Put(), BackwardRules(), (hook,), seen.__setitem__, leaves=False)
    if hook not in seen:
        raise BasisBenchError(f"hook '{hook}' of model '{model.name}' is not reached in a pass")
    return seen[hook].to(model.device)


def _metric(
    model: Model,
    batch: Batch,
    put: Put,
    rules: BackwardRules,
    hooks: Sequence[str],
    watch: Watch,
    *,
    leaves: bool,
    again: bool = False,
) -> Float[Tensor, " pair"]:
    head: dict[str, Tensor] = {}
    unembedding = model.component("unembed").original_component
    # In this order: the head that gives the answers' logits alone takes the place of oneDNN's, which gives all.
    with running_onednn(model.bridge, model.onednn_linears), answer_logits_only(unembedding, batch) as narrowed:
        run_once(model, batch.clean, put, rules, hooks, watch, leaves=leaves, head=head, keep=batch.keep, again=again)
    # Before any final soft-cap, as everywhere.
    return narrowed.metric(at_least_float32(head[HEAD][:, -1].to(model.device)))


def run_once(
    model: Model,
    tokens: Tensor,
    put: Put,
    rules: BackwardRules,
    hooks: Sequence[str],
    watch: Watch,
    *,
    leaves: bool,
    head: dict[str, Tensor] | None = None,
    keep: int = 1,
    again: bool = False,
) -> None:
    """Run the model once.

    Args:
        model: the model.
        tokens: the prompts.
        put: what is put at hooks.
        rules: how gradients go back.
        hooks: whose activations are looked at, and
        watch: what looks at them.
        leaves: start a graph at the embeddings and at whatever replaces an activation.
        head: where the logits are kept; None where they are not.
        keep: how many of the last positions have logits.
        again: whether blocks are run again on the way back instead of being kept (`attribution.graph_size`).
    """

    def call(hook: str, watch: Watch) -> Callable[[object, object, Tensor], None]:
        return lambda _module, _arguments, output: watch(hook, output)

    @contextmanager
    def run_again() -> Iterator[None]:
        with running_onednn(model.bridge, model.onednn_linears), _changed(model, put, rules, leaves=leaves):
            yield

    with _changed(model, put, rules, leaves=leaves), ExitStack() as stack:
        for hook in hooks:
            stack.callback(model.hook_point(hook).register_forward_hook(call(hook, watch)).remove)
        if head is not None:
            stack.callback(model.hook_point(HEAD).register_forward_hook(call(HEAD, head.__setitem__)).remove)
        if again:
            blocks = [model.component(f"blocks.{layer}").original_component for layer in range(model.layers)]
            stack.enter_context(blocks_run_again(blocks, run_again))
        model.bridge(tokens, use_cache=False, logits_to_keep=keep)
    model.meter.forward_equivalents += len(tokens)


@contextmanager
def _changed(model: Model, put: Put, rules: BackwardRules, *, leaves: bool) -> Iterator[None]:
    """Let passes of the model be as a method shapes them."""

    def change(hook: str) -> Callable[[object, object, Tensor], Tensor]:
        def edit(_module: object, _arguments: object, own: Tensor) -> Tensor:
            value = put.at(hook, own)
            starts = leaves and (hook == EMBEDDINGS or hook in put.replace)
            return value.detach().requires_grad_() if starts else value

        return edit

    with backward_rules(model, rules), ExitStack() as stack:
        for hook in dict.fromkeys((EMBEDDINGS, *put.replace, *put.add)):
            stack.callback(model.hook_point(hook).register_forward_hook(change(hook)).remove)
        yield
