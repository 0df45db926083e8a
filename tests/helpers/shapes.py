"""Shapes as declared: in the tests calls of the packages that compute are checked against their annotations.

The packages import `Float` and `Tensor` for type checkers alone, so that listing things never loads torch. Names are
given to jaxtyping here; an annotation that names anything else that is not there at run time is not checked. Functions
inside functions are not checked either: they would be compiled anew at every call, which doubles the time of the tests.
A check takes longer than many a function: in each test function one is made for each combination of shapes and types
that a function is given, not one at every call.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any

import jaxtyping
import torch
from jaxtyping import _decorator, install_import_hook

PACKAGES = (
    "basisbench.attribution",
    "basisbench.circuits",
    "basisbench.models",
    "basisbench_baselines.bases",
    "basisbench_baselines.dictionaries",
)
NAMES = {"Tensor": torch.Tensor, **{name: getattr(jaxtyping, name) for name in ("Bool", "Float", "Int")}}
SEEN: set[tuple[object, ...]] = set()
"""Functions with the shapes and types for which the test function at hand has checked them."""
HAS_SHAPE = re.compile(r"\b(Bool|Float|Int)\[")


@cache
def check_shapes() -> None:
    """Check shapes in all modules of these packages that are imported from now on."""
    early = [name for name in sys.modules if name.startswith(PACKAGES)]
    assert not early, f"imported before their shapes are checked: {early}"
    resolve, jaxtyped = _decorator._destring_annotation, jaxtyping.jaxtyped

    def resolved(annotation: Any, namespace: dict[str, Any]) -> Any:
        has_shape = isinstance(annotation, str) and HAS_SHAPE.search(annotation)
        return resolve(annotation, {**NAMES, **namespace}) if has_shape else Any

    def checked(item: Any = None, *, typechecker: Any) -> Any:
        if item is None:
            return partial(checked, typechecker=typechecker)
        declared = vars(item).get("__annotations__", {}) if inspect.isclass(item) else item.__annotations__
        inside = not inspect.isclass(item) and "<locals>" in item.__qualname__
        if inside or not any(HAS_SHAPE.search(str(annotation)) for annotation in declared.values()):
            return item
        whole = jaxtyped(item, typechecker=typechecker)
        return whole if inspect.isclass(item) else once_for_each_shape(item, whole)

    _decorator._destring_annotation = resolved
    jaxtyping.jaxtyped = checked
    install_import_hook(PACKAGES, "beartype.beartype")


def once_for_each_shape(function: Callable[..., Any], checked: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, as `checked` wherever it is given shapes or types that are not among those seen."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = (function, *map(kind, args), *kwargs, *map(kind, kwargs.values()))
        if given in SEEN:
            return function(*args, **kwargs)
        result = checked(*args, **kwargs)
        SEEN.add(given)
        return result

    return call


def kind(value: Any) -> object:
    """Return what a check of shapes can depend on: shape and type of tensors, the type of all else."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype
    return tuple(map(kind, value)) if isinstance(value, tuple | list) else type(value)
