"""A package for a new task, basis or method, from templates: installs, registers itself, and passes the contract.

1. The name is checked: it becomes a registered name, a module and a distribution, and must be free as each.
2. Every file is rendered before any is written.
3. They are written into a folder beside the target, which then takes its name: nothing is left half-written.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Literal, get_args

from basisbench.errors import BasisBenchError
from basisbench.registry import PLURALS, Registry
from basisbench.version import __version__

NewKind = Literal["task", "basis", "method"]
KINDS: tuple[NewKind, ...] = get_args(NewKind)

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LONGEST = 60


def render(kind: NewKind, name: str) -> Mapping[str, str]:
    """Return the files of a package by their name.

    Args:
        kind: what it provides.
        name: the name it registers under, and that of its module.
    """
    values = {
        "name": name,
        "kind": kind,
        "group": PLURALS[kind],
        "distribution": name.replace("_", "-"),
        "minimum": ".".join(__version__.split(".")[:2]),
    }
    templates = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{name}.py": f"{kind}.py",
        f"test_{name}.py": "test.py",
    }
    folder = files("basisbench.commands") / "templates"
    return {
        file: Template((folder / f"{template}.template").read_text(encoding="utf-8")).substitute(values)
        for file, template in templates.items()
    }


def check_name(name: str, registry: Registry) -> None:
    """Refuse a name that cannot be a module's, or that something has already.

    Raises:
        BasisBenchError: tells what is wrong with it.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise BasisBenchError(
            f"name '{name}': expected lower-case letters and digits in words joined by single underscores, for example "
            f"'my_basis', at most {_LONGEST} characters"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise BasisBenchError(f"name '{name}' is a word of Python's own; choose another")
    for kind in KINDS:
        for entry in registry.of(kind):
            if entry.name == name:
                raise BasisBenchError(f"name '{name}' is taken by a {kind}, from {entry.source}; choose another")
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise BasisBenchError(f"name '{name}' is that of an installed module; choose another")


def make_package(kind: NewKind, name: str, registry: Registry, out: Path) -> Path:
    """Write a package.

    Args:
        kind: what it provides.
        name: the name it registers under, and that of its module.
        registry: what is registered already.
        out: the folder to make.

    Returns:
        The folder.

    Raises:
        BasisBenchError: the name is no good or taken, or the folder exists or cannot be made.
    """
    check_name(name, registry)
    if out.exists() or out.is_symlink():
        raise BasisBenchError(f"{out} exists already; choose another folder with --out, or move it away")
    if not out.parent.is_dir():
        raise BasisBenchError(f"{out}: {out.parent} is no folder; make it first")
    rendered = render(kind, name)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
            folder = Path(temporary) / out.name
            folder.mkdir()
            for file, text in rendered.items():
                (folder / file).write_text(text, encoding="utf-8")
            folder.rename(out)
    except OSError as error:
        raise BasisBenchError(f"{out}: cannot be written: {error.strerror}") from error
    return out
