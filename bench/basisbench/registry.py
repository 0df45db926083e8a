"""Finds tasks, bases, methods and models by name; listing them imports no torch.

1. Built-ins are found by file: every module of the packages in `BUILT_IN` that defines `PROVIDES`.
2. Third parties use the entry-point groups `basisbench.models`, `.tasks`, `.bases`, `.methods`; each entry loads an
   object or a tuple of them.
3. `--plugin FILE` loads a Python file that defines `PROVIDES`, through the same door.

What an object is follows from its type: a `ModelSpec`, a `BasisSpec`, a scheme, or something with the methods of a task
or a method. Two objects of one kind and one name are refused. A basis or a method that is not listed by its name is
looked up by its scheme, the part of the name before the first colon.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeAlias, overload

from basisbench.errors import BasisBenchError, unknown_name
from basisbench.models.torch_settings import unchanged_settings
from basisbench.protocols import ORDER, BasisScheme, BasisSpec, Method, MethodScheme, Task, order_of, style_of
from basisbench.results.display import Display
from basisbench.types import ModelSpec, Style

Kind = Literal["model", "task", "basis", "method", "scheme"]
Provided: TypeAlias = ModelSpec | Task | BasisSpec | Method | BasisScheme | MethodScheme

PLURALS: Mapping[Kind, str] = {"model": "models", "task": "tasks", "basis": "bases", "method": "methods"}
"""Kinds that are listed, and their entry-point groups; schemes are listed with, and installed as, what they name."""
BUILT_IN = (
    "basisbench_tasks",
    "basisbench_baselines",
    "basisbench_baselines.bases",
    "basisbench_baselines.methods",
    "basisbench_baselines.pocket",
)
_DEFINES_PROVIDES = re.compile(r"^PROVIDES\b", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One registered object.

    Attributes:
        kind: what it is.
        name: the name it goes by.
        item: the object.
        source: where it came from, for messages.
    """

    kind: Kind
    name: str
    item: Provided
    source: str

    @property
    def summary(self) -> str:
        """One line for listings."""
        return self.item.summary


@dataclass(frozen=True)
class Registry:
    """Everything that is registered.

    Attributes:
        entries: all objects, in the order they were found.
    """

    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        seen: dict[tuple[Kind, str], str] = {}
        for entry in self.entries:
            key = (entry.kind, entry.name)
            if key in seen:
                kinds = PLURALS.get(entry.kind, "schemes")
                raise BasisBenchError(
                    f"two {kinds} are named '{entry.name}', in {seen[key]} and in {entry.source}; rename or remove one"
                )
            seen[key] = entry.source

    def of(self, kind: Kind) -> tuple[Entry, ...]:
        """Return the entries of a kind, by name."""
        return tuple(sorted((entry for entry in self.entries if entry.kind == kind), key=lambda entry: entry.name))

    def listing(self, kind: Kind) -> tuple[Entry, ...]:
        """Return what to show of a kind: its entries, and the schemes that name more of them."""
        return self.of(kind) + tuple(entry for entry in self.of("scheme") if _names(entry.item) == kind)

    @overload
    def get(self, kind: Literal["model"], name: str) -> ModelSpec: ...
    @overload
    def get(self, kind: Literal["task"], name: str) -> Task: ...
    @overload
    def get(self, kind: Literal["basis"], name: str) -> BasisSpec: ...
    @overload
    def get(self, kind: Literal["method"], name: str) -> Method: ...
    def get(self, kind: Kind, name: str) -> Provided:
        """Return the object of that kind and name; a basis or method that is not listed is made by its scheme.

        Raises:
            BasisBenchError: there is none; the nearest names are suggested.
        """
        for entry in self.entries:
            if entry.kind == kind and entry.name == name:
                return entry.item
        if (scheme := self.scheme_of(kind, name)) is not None:
            return scheme.resolve(name)
        raise unknown_name(kind, name, [entry.name for entry in self.of(kind)])

    def scheme_of(self, kind: Kind, name: str) -> BasisScheme | MethodScheme | None:
        """Return the scheme that names of that kind and form belong to; None where there is none."""
        for scheme in (entry.item for entry in self.of("scheme") if _names(entry.item) == kind):
            if isinstance(scheme, BasisScheme | MethodScheme) and name.startswith(f"{scheme.prefix}:"):
                return scheme
        return None

    def display(self) -> Display:
        """Return the places and styles that bases and methods declare."""
        bases = [self.get("basis", entry.name) for entry in self.of("basis")]
        methods = [self.get("method", entry.name) for entry in self.of("method")]
        return Display(_places(bases), _places(methods), _styles(bases), _styles(methods))

    def adding(self, items: Iterable[object], source: str) -> Registry:
        """Return a registry with more objects.

        Args:
            items: model and basis specs, tasks, methods.
            source: where they come from, for messages.

        Raises:
            BasisBenchError: an object is none of these, or its name is taken.
        """
        try:
            return Registry((*self.entries, *(_entry(item, source) for item in items)))
        except BasisBenchError:
            raise
        except (Exception, SystemExit) as error:  # a property of the object
            raise BasisBenchError(f"{source}: cannot be registered: {type(error).__name__}: {error}") from error


def load_registry(plugins: Sequence[str | Path] = ()) -> Registry:
    """Find everything that is registered.

    Args:
        plugins: Python files that define `PROVIDES`, a tuple of objects to register.

    Raises:
        BasisBenchError: a plug-in cannot be loaded, provides something unknown, or takes a name that is in use.
    """
    registry = _installed()
    for plugin in plugins:
        registry = registry.adding(_load_file(Path(plugin)), str(plugin))
    return registry


@cache
def built_in() -> Registry:
    """Return what ships with BasisBench; nobody else's code is imported."""
    registry = Registry()
    for module in _built_in_modules():
        registry = registry.adding(as_tuple(importlib.import_module(module).PROVIDES), module)
    return registry


@cache
def _installed() -> Registry:
    """Built-ins and entry points; these do not change while a process lives."""
    registry = built_in()
    for kind, plural in PLURALS.items():
        for point in entry_points(group=f"basisbench.{plural}"):
            source = f"entry point '{point.name}' of {point.dist.name if point.dist else 'an unknown package'}"
            try:
                with unchanged_settings(source):
                    items = as_tuple(point.load())
            except BasisBenchError:
                raise
            except (Exception, SystemExit) as error:
                raise BasisBenchError(
                    f"{source} cannot be loaded: {type(error).__name__}: {error}; fix or uninstall that package"
                ) from error
            before = len(registry.entries)
            registry = registry.adding(items, source)
            for entry in registry.entries[before:]:
                if kind not in (entry.kind, _names(entry.item)):
                    raise BasisBenchError(f"{source} is in the group basisbench.{plural} but gives a {entry.kind}")
    return registry


def _built_in_modules() -> Iterator[str]:
    """Yield the built-in modules that define `PROVIDES`, without importing the others."""
    for package in BUILT_IN:
        specification = importlib.util.find_spec(package)
        if specification is None:
            continue
        if _defines_provides(package):
            yield package
        for module in pkgutil.iter_modules(specification.submodule_search_locations, f"{package}."):
            if not module.ispkg and _defines_provides(module.name):
                yield module.name


def _defines_provides(module: str) -> bool:
    """Tell from a module's source whether it registers anything: importing train.py would load torch."""
    specification = importlib.util.find_spec(module)
    loader = specification.loader if specification else None
    source = loader.get_source(module) if hasattr(loader, "get_source") else None  # type: ignore[union-attr]
    return source is not None and _DEFINES_PROVIDES.search(source) is not None


def _load_file(path: Path) -> tuple[object, ...]:
    """Import a plug-in file and return what it provides."""
    module = load_module(path)
    if not hasattr(module, "PROVIDES"):
        raise BasisBenchError(f"plug-in {path}: defines no PROVIDES, the tuple of objects to register")
    return as_tuple(module.PROVIDES)


def load_module(path: Path) -> ModuleType:
    """Import a plug-in file.

    Raises:
        BasisBenchError: it is not there, is not Python, or raises an error.
    """
    if not path.is_file():
        raise BasisBenchError(f"plug-in {path}: no such file")
    name = f"basisbench_plugin_{path.stem}"
    while name in sys.modules and str(getattr(sys.modules[name], "__file__", "")) != str(path):
        name += "_"  # another file of that name
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise BasisBenchError(f"plug-in {path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        with unchanged_settings(f"plug-in {path}"):
            specification.loader.exec_module(module)
    except BasisBenchError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise BasisBenchError(f"plug-in {path}: cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def as_tuple(provided: object) -> tuple[object, ...]:
    """Return what a module provides as a tuple, be it one object or several."""
    return tuple(provided) if isinstance(provided, tuple | list) else (provided,)


def _entry(item: object, source: str) -> Entry:
    """Wrap an object, telling its kind from its type."""
    if isinstance(item, type):
        raise BasisBenchError(
            f"{source}: provides the class {item.__name__}; provide an instance, {item.__name__}(...)"
        )
    kind: Kind
    if isinstance(item, ModelSpec):
        kind = "model"
    elif isinstance(item, BasisSpec):
        kind = "basis"
    elif isinstance(item, BasisScheme | MethodScheme):
        kind = "scheme"
    elif isinstance(item, Task):
        kind = "task"
    elif isinstance(item, Method):
        kind = "method"
    else:
        raise BasisBenchError(
            f"{source}: provides {type(item).__name__} {item!r:.60}, which is no ModelSpec, BasisSpec or scheme, "
            "and lacks the members of a Task (name, version, summary, candidates) or a Method (name, summary, "
            "score)"
        )
    name = item.name
    if not isinstance(name, str) or not name or not name.isprintable():
        raise BasisBenchError(f"{source}: provides a {kind} whose name is {name!r}; expected a printable string")
    if isinstance(item, BasisSpec | BasisScheme | MethodScheme | Method):
        order_of(item)
        if not isinstance(style := style_of(item), Style | None):
            raise BasisBenchError(f"{source}: the style of '{name}' is {style!r:.60}, expected a Style")
    return Entry(kind, name, item, source)


def _names(item: Provided) -> Kind | None:
    """Return the kind of what a scheme names; None of what is no scheme."""
    return "basis" if isinstance(item, BasisScheme) else "method" if isinstance(item, MethodScheme) else None


def _places(items: Iterable[BasisSpec | Method]) -> dict[str, float]:
    """Return the places of those that declare one; all others share the last."""
    return {item.name: place for item in items if (place := order_of(item)) != ORDER}


def _styles(items: Iterable[BasisSpec | Method]) -> dict[str, Style]:
    """Return the styles of those that declare one."""
    return {item.name: style for item in items if (style := style_of(item)) is not None}
