"""From a suite to records."""

from typing import TYPE_CHECKING

from basisbench.lazy import lazy_names

if TYPE_CHECKING:
    from basisbench.runs.suite import Suite, list_suites, load_suite

__all__ = ["Suite", "list_suites", "load_suite"]

__getattr__, __dir__ = lazy_names(__name__, {"Suite": "suite", "list_suites": "suite", "load_suite": "suite"})
