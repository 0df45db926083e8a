"""The tasks of the pocket model: those of its suite. Others have words that it does not know."""

from __future__ import annotations

from basisbench.protocols import Task
from basisbench.registry import load_registry
from basisbench.runs.suite import load_suite


def pocket_tasks() -> list[Task]:
    """Return the tasks, in the order of their names."""
    registry = load_registry()
    return [registry.get("task", name) for name in sorted(load_suite("pocket").tasks)]
