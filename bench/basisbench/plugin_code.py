"""The module that defines a plug-in: the digest of its source, and whose it is.

Source is compared line by line without spaces at the ends of lines, so that a wheel and a checkout give one digest
whatever their line ends. Modules that it imports are not followed.
"""

from __future__ import annotations

import hashlib
import sys
from functools import cache, partial
from types import ModuleType
from typing import Any

from basisbench.protocols import BasisSpec, Method, Task, fingerprint_of

_OWN = ("basisbench", "basisbench_tasks", "basisbench_baselines")


def module_of(item: Task | BasisSpec | Method) -> ModuleType | None:
    """Return the module that defines a task's or a method's class, or what builds a basis; None where it is gone."""
    thing: object = type(item)
    if isinstance(item, BasisSpec):
        thing = item.fit or item.build
        while isinstance(thing, partial):
            thing = thing.func
    name = getattr(thing, "__module__", None) or type(thing).__module__
    return sys.modules.get(name)


def is_built_in(item: Task | BasisSpec | Method) -> bool:
    """Return whether a plug-in ships with BasisBench, whose failures are bugs of ours."""
    module = module_of(item)
    return module is not None and module.__name__.split(".")[0] in _OWN


def code_digest(item: Task | BasisSpec | Method) -> str | None:
    """Return the SHA-256 of the source of the module that defines a plug-in, cut to 16 digits; None without source."""
    module = module_of(item)
    return None if module is None else _source_digest(module)


def method_digest(method: Method) -> str | None:
    """Return the `code_digest` of a method, of one that reads a file together with the digest of what it read."""
    code, read = code_digest(method), fingerprint_of(method)
    return hashlib.sha256(f"{code} {read}".encode()).hexdigest()[:16] if read else code


@cache
def _source_digest(module: ModuleType) -> str | None:
    loader: Any = getattr(getattr(module, "__spec__", None), "loader", None)
    if not hasattr(loader, "get_source"):
        return None
    try:
        source = loader.get_source(module.__name__)
    except (ImportError, OSError, SyntaxError, UnicodeDecodeError):
        return None
    if source is None:
        return None
    text = "\n".join(line.rstrip() for line in source.splitlines())
    return hashlib.sha256(text.encode()).hexdigest()[:16]
