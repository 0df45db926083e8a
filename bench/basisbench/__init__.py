"""BasisBench: which basis gives the sparsest faithful circuit, and at what cost?

The Python interface:

- `run(...)` runs a suite, or parts of one, and returns its results.
- `load_results(path)` reads records into a tidy frame: a row per cell and circuit size, intervals included.
- `summarise(path)` sums every cell up in one row: nodes and bits to 80% and 90%, areas, cost.
- `plot_curves(frame)` draws faithfulness or completeness against circuit size; `plot_results(path, out)` every picture.
- `to_dataset(path)` gives the rows of `load_results` as a Hugging Face dataset.
- `BasisBenchError` is what a mistake in the input raises: one line that says what, where and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError
from basisbench.runs.run import run  # bound here and now: it hides the module of the same name from attribute access
from basisbench.version import __version__

if TYPE_CHECKING:
    from basisbench.plots.curves import plot_curves
    from basisbench.plots.pictures import plot_results
    from basisbench.results.dataset import to_dataset
    from basisbench.results.frame import load_results, summarise

__all__ = [
    "BasisBenchError",
    "__version__",
    "load_results",
    "plot_curves",
    "plot_results",
    "run",
    "summarise",
    "to_dataset",
]

_LAZY = {
    "load_results": "basisbench.results.frame",
    "plot_curves": "basisbench.plots.curves",
    "plot_results": "basisbench.plots.pictures",
    "summarise": "basisbench.results.frame",
    "to_dataset": "basisbench.results.dataset",
}


def __getattr__(name: str) -> Any:
    """Import pandas, matplotlib and datasets only when they are asked for."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'basisbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
