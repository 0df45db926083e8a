"""Pictures of results."""

from typing import TYPE_CHECKING

from basisbench.lazy import lazy_names

if TYPE_CHECKING:
    from basisbench.plots.curves import plot_curves
    from basisbench.plots.pictures import plot_results

__all__ = ["plot_curves", "plot_results"]

__getattr__, __dir__ = lazy_names(__name__, {"plot_curves": "curves", "plot_results": "pictures"})
