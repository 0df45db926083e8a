"""Import paths that the documents of version 0.4.0 show: they work for one more version, with a warning.

An old path becomes a module that looks its names up in the new one, under the new name where that has changed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: Mapping[str, str] = {
    "basisbench.alignment": "basisbench.pairs.alignment",
    "basisbench.batching": "basisbench.models.batching",
    "basisbench.check": "basisbench.checks.check",
    "basisbench.frame": "basisbench.results.frame",
    "basisbench.lexicon": "basisbench.pairs.lexicon",
    "basisbench.plot": "basisbench.plots",
    "basisbench.projection": "basisbench.attribution.projection",
    "basisbench.record": "basisbench.results.record",
    "basisbench.record_parts": "basisbench.results.record_fields",
    "basisbench.sentence_frames": "basisbench.pairs.sentence_frames",
    "basisbench.task_file": "basisbench.pairs.task_file",
    "basisbench.verification": "basisbench.submissions.verification",
    "basisbench_baselines.rows": "basisbench_baselines.dictionaries.fast",
}
"""Module of 0.4.0 to the module that has its names now."""

RENAMED: Mapping[str, Mapping[str, str]] = {"basisbench_baselines.rows": {"RowsPart": "SelectedUnits"}}
"""Module of 0.4.0 to its names that have changed, old to new."""


def in_parts(model: Any, *arguments: Any, **options: Any) -> Any:
    """Do what the method `Batching.in_parts` of a model does; it was a function of `basisbench.batching`."""
    return model.batching.in_parts(*arguments, **options)


class _Forward:
    """Makes the module of an old path."""

    def create_module(self, _spec: ModuleSpec) -> None:
        """Leave the module itself to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Let the module look its names up in the new one."""
        old = module.__name__
        new = import_module(MOVED[old])

        def get(name: str) -> Any:
            if (old, name) == ("basisbench.batching", "in_parts"):
                return in_parts
            return getattr(new, RENAMED.get(old, {}).get(name, name))

        module.__doc__ = new.__doc__
        module.__getattr__ = get  # type: ignore[method-assign]


class _OldPaths:
    """Finds the modules of old paths."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """Return how an old path is made; None for any other module."""
        if name not in MOVED:
            return None
        text = f"{name} has moved to {MOVED[name]}; the old path goes in the version after 0.5"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        loader: Any = _Forward()  # importlib.abc.Loader takes longer to import than all of this
        return ModuleSpec(name, loader)


def install() -> None:
    """Let the old paths be imported; done once, when `basisbench` is."""
    sys.meta_path.append(_OldPaths())
