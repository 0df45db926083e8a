"""What a basis and a method must leave as it was: the model without hooks, its weights, torch's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from basisbench.checks.finding import Check, Finding, at_most, nothing

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from basisbench.models.model import Model

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "fwd_hooks", "bwd_hooks")


@dataclass(frozen=True, eq=False)
class ModelState:
    """A model and torch's settings at one moment.

    Attributes:
        tokens: prompts for `logits`.
        logits: of each view of the model (`logits_of`).
        hooks: how many hooks each module has.
        settings: torch's settings and the state of its random numbers.
    """

    tokens: Int[Tensor, "pair pos"]
    logits: Sequence[Tensor]
    hooks: Mapping[str, int]
    settings: Mapping[str, Any]


class Watched(Protocol):
    """A stage that knows the state of its model before the thing was used."""

    @property
    def model(self) -> Model:
        """The model."""
        ...

    @property
    def before(self) -> ModelState:
        """Its state at the beginning."""
        ...


def state_of(model: Model, tokens: Int[Tensor, "pair pos"]) -> ModelState:
    """Note the state of a model."""
    return ModelState(tokens, logits_of(model, tokens), _hooks(model), _settings())


def logits_of(model: Model, tokens: Int[Tensor, "pair pos"]) -> list[Tensor]:
    """Return the logits of each view of the model: plain, TransformerLens's, and the fast one."""
    import torch

    with torch.no_grad():
        return [
            model.body(input_ids=tokens, use_cache=False).logits.clone(),
            model.bridge(tokens).clone(),
            model.fast_body(input_ids=tokens, use_cache=False).logits.clone(),
        ]


def _hooks(model: Model) -> Mapping[str, int]:
    return {
        f"{label} {name}": sum(len(getattr(module, each, None) or ()) for each in _HOOKS)
        for label, view in (("body", model.body), ("bridge", model.bridge), ("fast body", model.fast_body))
        for name, module in view.named_modules()
    }


def _settings() -> Mapping[str, Any]:
    import torch

    return {
        "gradients enabled": torch.is_grad_enabled(),
        "default type": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "random state": torch.get_rng_state().numpy().tobytes(),
    }


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> Finding:
    return nothing(sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)), what)


def _forward(stage: Watched) -> Finding:
    worst = max(
        float((after - before).double().abs().max() / before.double().abs().max())
        for before, after in zip(stage.before.logits, logits_of(stage.model, stage.before.tokens), strict=True)
    )
    return at_most(worst, 1e-6, "logits differ from those before by")


CHECKS: tuple[Check[Watched], ...] = (
    Check(
        "hooks",
        "no hook is left on the model",
        lambda stage: _changed(stage.before.hooks, _hooks(stage.model), "modules with other hooks"),
    ),
    Check("forward", "all views of the model compute what they computed before", _forward),
    Check(
        "settings",
        "torch's settings and random state stay",
        lambda stage: _changed(stage.before.settings, _settings(), "settings changed"),
    ),
)
"""After everything else."""
