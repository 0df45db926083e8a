"""Modules are compiled once: in a new environment workers begin with others, and find the rest compiled.

Nothing is compiled when an environment is made. Workers that import the same modules in the same order all compile all
of them, which takes longer than a fifth of the quick tests. So every second worker imports first what the others,
which begin with torch, come to last. Later runs find everything compiled and import as the tests ask.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

LAST = ("sympy", "pandas", "scipy.optimize", "matplotlib.figure", "datasets", "wandb", "playwright.sync_api")
"""What tests import, needs no torch and is large."""


def share_compiling() -> None:
    """In every second worker, import what is compiled last, if it never was."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    found = importlib.util.find_spec(LAST[0])
    if int(worker) % 2 == 0 or sys.dont_write_bytecode or found is None or not found.cached:
        return
    if not Path(found.cached).exists():
        for name in LAST:
            importlib.import_module(name)
