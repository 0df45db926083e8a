"""From what a user names to what is checked: a registered name, `package.module:THING`, or `file.py:THING`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from basisbench.errors import BasisBenchError, unknown_name
from basisbench.registry import Kind, Registry, as_tuple, load_module
from basisbench.types import ModelSpec

_KINDS: tuple[Kind, ...] = ("task", "basis", "method")


def find_things(name: str | None, registry: Registry, plugins: Sequence[Path]) -> tuple[object, ...]:
    """Return the tasks, bases and methods that a name stands for.

    Args:
        name: a registered name such as "mlp_act"; "package.module:THING" or "file.py:THING", where THING is an object
            or a tuple of them; everything that the plug-in files provide when None.
        registry: where names are looked up, the plug-ins included.
        plugins: the plug-in files.

    Raises:
        BasisBenchError: nothing of that name, or it is a class, a model or a scheme.
    """
    if name is None:
        sources = {str(path) for path in plugins}
        found = tuple(entry.item for entry in registry.entries if entry.source in sources)
        if not found:
            raise BasisBenchError("check needs a name, MODULE:THING or --plugin FILE; see 'basisbench list bases'")
        return found
    registered = [entry.item for kind in _KINDS for entry in registry.of(kind) if entry.name == name]
    if registered:
        return tuple(registered)
    for kind in _KINDS:
        if (scheme := registry.scheme_of(kind, name)) is not None:
            return (scheme.resolve(name),)
    where, colon, attribute = name.rpartition(":")
    if not colon:
        if name.endswith(".py"):
            return _attribute(name, "PROVIDES")
        names = {entry.name for kind in _KINDS for entry in registry.of(kind)}
        raise unknown_name("task, basis or method", name, names)
    return _attribute(where, attribute)


def _attribute(where: str, attribute: str) -> tuple[object, ...]:
    """Import a module or a file and return what one of its names stands for."""
    if where.endswith(".py"):
        module = load_module(Path(where))
    else:
        try:
            module = importlib.import_module(where)
        except (Exception, SystemExit) as error:
            raise BasisBenchError(
                f"check: module '{where}' cannot be imported: {type(error).__name__}: {error}; is it installed?"
            ) from error
    if not hasattr(module, attribute):
        known = ", ".join(name for name in vars(module) if not name.startswith("_"))
        raise BasisBenchError(f"check: {where} has no '{attribute}'; it has {known[:200] or 'nothing'}")
    found = as_tuple(getattr(module, attribute))
    if not found:
        raise BasisBenchError(f"check: {where}:{attribute} is empty; expected tasks, bases or methods")
    return tuple(item for item in found if not (isinstance(item, ModelSpec) and len(found) > 1))
