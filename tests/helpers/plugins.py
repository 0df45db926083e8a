"""Third-party plug-ins of the tests, written as the pages in docs/ say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basisbench.registry import load_registry

FOLDER = Path(__file__).resolve().parents[1] / "plugins"
FILES = tuple(sorted(FOLDER.glob("*.py")))


def plugin(kind: Any, name: str) -> Any:
    """Return a plug-in by its name."""
    return load_registry(FILES).get(kind, name)
