"""How many bytes of numbers an object holds on to: tensors, arrays, bytes and floats.

They are followed through attributes, containers, closures, caches, the object's classes and its module's globals. What
grows when new activations are encoded is state: a basis has no business keeping any.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from basisbench.models.model import Model

_ENDS = (type, types.ModuleType, types.CodeType, types.FrameType, types.BuiltinFunctionType)
_MOST_OBJECTS = 500_000
_LIBRARIES = {"basisbench", "builtins", "torch", "sae_lens", "transformers", "typing", "dataclasses", "abc"}


def reachable_bytes(root: object, model: Model) -> int:
    """Return the bytes of the numbers that an object holds and that are not the model's own.

    Args:
        root: a basis or a method.
        model: its weights, and whatever it holds, are not counted.
    """
    import numpy as np
    import torch

    own = {_storage(tensor)[0] for view in (model.body, model.bridge) for tensor in view.parameters()}
    sizes: dict[int, int] = {}
    seen: set[int] = {id(model), id(model.body), id(model.bridge), id(model.tokenizer)}
    waiting: list[object] = [root, *_shared_by(type(root))]
    while waiting and len(seen) < _MOST_OBJECTS:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, _ENDS):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storage, size = _storage(item)
            if storage not in own:
                sizes[storage] = size
            waiting.extend(vars(item).values())
        elif isinstance(item, np.ndarray):
            sizes[id(item)] = item.nbytes
        elif isinstance(item, bytes | bytearray | str):
            sizes[id(item)] = len(item)
        elif isinstance(item, types.FunctionType):
            waiting.extend([*(item.__closure__ or ()), item.__defaults__, item.__kwdefaults__, vars(item)])
        else:
            if isinstance(item, float | int):
                sizes[id(item)] = 8
            waiting.extend(gc.get_referents(item))
    return sum(sizes.values())


def _storage(tensor: Any) -> tuple[int, int]:
    """Return what identifies a tensor's memory, and its bytes."""
    try:
        storage = tensor.untyped_storage()
        return int(storage.data_ptr()), int(storage.nbytes())
    except (RuntimeError, NotImplementedError):  # packed and sparse tensors have no plain storage
        return id(tensor), int(tensor.numel()) * int(tensor.element_size())


def _shared_by(kind: type) -> Iterator[object]:
    """Yield what classes hold, and the globals of their modules, where these are not a library's."""
    for each in kind.__mro__:
        if each.__module__.split(".")[0] in _LIBRARIES:
            continue
        yield from list(vars(each).values())
        module = sys.modules.get(each.__module__)
        yield from [] if module is None else list(vars(module).values())
