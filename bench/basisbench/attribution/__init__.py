"""Which nodes matter: gradient fields, and what a method may ask."""

from typing import TYPE_CHECKING

from basisbench.lazy import lazy_names

if TYPE_CHECKING:
    from basisbench.attribution.projection import project, projected_scores

__all__ = ["project", "projected_scores"]

__getattr__, __dir__ = lazy_names(__name__, {"project": "projection", "projected_scores": "projection"})
