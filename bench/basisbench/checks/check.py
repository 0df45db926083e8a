"""Run the contract tests on a task, a basis or a method: what `basisbench check` prints, for a plug-in's own tests.

1. A basis is built and tried in the model's own type. A model small enough is loaded in float64 too, where rounding
   hides nothing, and in bfloat16, where coordinates must not become coarse.
2. A method scores neurons, a dictionary and a cross-layer transcoder, where the model has them.
3. A task is asked for pairs by the model's tokenizer.

    from basisbench.checks.check import check
    assert all(found.holds for found in check(my_package.PROVIDES))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from basisbench.checks.finding import Property
from basisbench.errors import BasisBenchError
from basisbench.protocols import Basis, BasisSpec, Method, Scheme, Task
from basisbench.types import ModelSpec

if TYPE_CHECKING:
    from basisbench.models.model import Model

__all__ = ["Property", "check"]


def check(thing: object, model: Model | str | None = None) -> tuple[Property, ...]:
    """Measure every property of a task, a basis or a method.

    Args:
        thing: a Task, a BasisSpec, a built Basis, a Method, or a tuple of them such as a module's `PROVIDES`.
        model: a loaded model, or the name of one; the default one when None. A name is loaded anew for each thing.

    Returns:
        A property each, in order; `property.holds` is False for one that failed.

    Raises:
        BasisBenchError: it is none of these, or the model cannot be loaded.
    """
    return tuple(iterate(thing, model))


def iterate(thing: object, model: Model | str | None = None) -> Iterator[Property]:
    """Measure as `check` does, and yield properties as they come."""
    for each in thing if isinstance(thing, tuple | list) else (thing,):
        yield from _one(each, _loaded(model) if isinstance(model, str | None) else model)


def _loaded(name: str | None) -> Model:
    from basisbench.models.load import load_model
    from basisbench.registry import load_registry
    from basisbench.runs.model_names import find_model

    return load_model(find_model(name, load_registry()))


def _one(thing: object, model: Model) -> Iterator[Property]:
    """Tell what a thing is and check it."""
    if isinstance(thing, type):
        raise BasisBenchError(f"check: {thing.__name__} is a class; give an instance, {thing.__name__}(...)")
    if isinstance(thing, Scheme | ModelSpec):
        kind = "a model" if isinstance(thing, ModelSpec) else "a scheme"
        raise BasisBenchError(f"check: '{thing.name}' is {kind}; tasks, bases and methods are checked")
    if isinstance(thing, BasisSpec):
        from basisbench.checks.basis import check_basis

        yield from check_basis(thing, model)
    elif isinstance(thing, Basis):
        from basisbench.checks.basis import check_built_basis

        yield from check_built_basis(thing, model)
    elif isinstance(thing, Task):
        from basisbench.checks.task import check_task

        yield from check_task(thing, model)
    elif isinstance(thing, Method):
        from basisbench.checks.method import check_method

        yield from check_method(thing, model)
    else:
        raise BasisBenchError(
            f"check: {type(thing).__name__} is no BasisSpec, and lacks the members of a Basis (name, family, sites, "
            "exact, parameter_bytes, encode, decode), a Task (name, version, summary, candidates) or a Method "
            "(name, summary, score)"
        )
