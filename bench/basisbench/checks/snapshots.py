"""What a plug-in must leave as it was: the model, the harness's code, torch's settings.

1. A snapshot holds, for every module of all views of a model: the hooks on it, its own `forward`, whether it trains;
   for every weight and buffer: where it lies, its bytes' digest, whether it asks for a gradient or has one.
2. It holds every function and class of the harness and of the modules' classes, so that a replaced one shows.
3. Two snapshots are compared entry by entry; what differs is told by kind.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench.models.model import Model

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "fwd_hooks",
    "bwd_hooks",
)
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


@dataclass(frozen=True)
class Snapshot:
    """State at one moment.

    Attributes:
        entries: by kind ("hooks", "weights", "gradients", "code", "settings") and by name.
        alive: the objects whose identities are noted, so that no other object takes their place in memory.
    """

    entries: Mapping[str, Mapping[str, Any]]
    alive: tuple[object, ...]

    def changes(self, later: Snapshot, kind: str) -> list[str]:
        """Return the names of a kind's entries that were added, removed or changed since."""
        before, after = self.entries[kind], later.entries[kind]
        if kind == "code":  # what is imported meanwhile is no change
            return sorted(name for name in before if before[name] != after.get(name))
        return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def take_snapshot(model: Model) -> Snapshot:
    """Note the state of a model and of the process around it."""
    hooks: dict[str, Any] = dict(_global_hooks())
    weights: dict[str, Any] = {}
    gradients: dict[str, Any] = {}
    classes: set[type] = set()
    digests: dict[tuple[Any, ...], str] = {}
    for view, root in _views(model):
        for name, module in root.named_modules():
            where = f"{view}.{name}" if name else view
            classes.add(type(module))
            for registry in _HOOKS:
                kept = getattr(module, registry, None) or {}
                hooks[f"{where} {registry}"] = tuple(map(id, kept.values() if isinstance(kept, dict) else kept))
            hooks[f"{where} forward"] = id(vars(module).get("forward"))
            weights[f"{where} training"] = module.training
        for name, tensor in _tensors(root):
            where = f"{view}.{name}"
            key = (tensor.data_ptr(), str(tensor.dtype), tuple(tensor.shape), tensor.stride())
            if key not in digests:
                digests[key] = digest(tensor)  # views share their weights
            weights[where] = (*key, digests[key])
            gradients[where] = (tensor.requires_grad, None if tensor.grad is None else id(tensor.grad))
            if tensor._backward_hooks:
                hooks[f"{where} of the tensor"] = len(tensor._backward_hooks)
    code = dict(_code(classes))
    return Snapshot(
        {
            "hooks": hooks,
            "weights": weights,
            "gradients": gradients,
            "code": {name: id(value) for name, value in code.items()},
            "settings": dict(_settings()),
        },
        tuple(code.values()),
    )


def digest(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes."""
    import torch

    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def _views(model: Model) -> Iterator[tuple[str, Any]]:
    yield "body", model.body
    yield "bridge", model.bridge
    if model.fast_body is not model.body:
        yield "fast body", model.fast_body


def _tensors(root: Any) -> Iterator[tuple[str, Tensor]]:
    yield from root.named_parameters()
    yield from root.named_buffers()


def _global_hooks() -> Iterator[tuple[str, Any]]:
    from torch.nn.modules import module
    from torch.overrides import _get_current_function_mode_stack
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    for registry in _GLOBAL_HOOKS:
        yield f"every module {registry}", tuple(map(id, getattr(module, registry, {}).values()))
    yield "function modes", tuple(map(id, _get_current_function_mode_stack()))
    yield "dispatch modes", tuple(map(id, _get_current_dispatch_mode_stack()))
    yield "profiler", (id(sys.getprofile()), id(sys.gettrace()))


def _code(classes: set[type]) -> Iterator[tuple[str, object]]:
    """Yield every function and class that a pass goes through: the harness's, the modules', torch's."""
    import torch
    from torch.nn import functional

    owners: dict[str, Any] = {
        name: module
        for name, module in list(sys.modules.items())
        if name.split(".")[0] == "basisbench" and module is not None
    }
    owners |= {"torch.nn.functional": functional, "torch": torch}
    for owner, module in owners.items():
        for name, value in list(vars(module).items()):
            if callable(value):
                yield f"{owner}.{name}", value
                if isinstance(value, type) and value.__module__ == owner:
                    classes.add(value)
    bases = {base for each in classes for base in each.__mro__} | {torch.Tensor, torch.nn.Module}
    for base in bases - {object}:
        for name, value in list(vars(base).items()):
            if callable(value) or isinstance(value, property | staticmethod | classmethod):
                yield f"{base.__module__}.{base.__qualname__}.{name}", value


def _settings() -> Iterator[tuple[str, Any]]:
    import random

    import numpy as np
    import torch

    yield "gradients enabled", torch.is_grad_enabled()
    yield "default type", str(torch.get_default_dtype())
    yield "threads", torch.get_num_threads()
    yield "deterministic algorithms", torch.are_deterministic_algorithms_enabled()
    yield "matmul precision", torch.get_float32_matmul_precision()
    yield "torch's random state", hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()
    yield "Python's random state", hash(random.getstate())
    numpy_state: Any = np.random.get_state()
    yield "numpy's random state", (hashlib.sha256(numpy_state[1].tobytes()).hexdigest(), numpy_state[2])
