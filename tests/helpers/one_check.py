"""One property of a plug-in, measured without those before it: what cheats are tried on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any
from unittest import mock

from basisbench.checks import left_behind
from basisbench.checks.check import iterate
from basisbench.checks.finding import Check, Property, run_checks
from basisbench.models.model import Model


def property_of(thing: object, model: Model, name: str, module: ModuleType) -> Property:
    """Return a property by its name; `module` is the one that checks things of this kind.

    What a thing leaves behind shows only after all the others.
    """
    after_all = name in {check.name for check in left_behind.CHECKS}

    def some(told: str, checks: Iterable[Check[Any]], stage: Any) -> Iterator[Property]:
        return run_checks(told, [check for check in checks if after_all or name.startswith(check.name)], stage)

    with mock.patch.object(module, "run_checks", some):
        return next(each for each in iterate(thing, model) if each.name == name)
