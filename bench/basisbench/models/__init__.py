"""A loaded model: its sites, its hooks, its backward rules, its memory."""

from typing import TYPE_CHECKING

from basisbench.lazy import lazy_names

if TYPE_CHECKING:
    from basisbench.models.model import Model

__all__ = ["Model"]

__getattr__, __dir__ = lazy_names(__name__, {"Model": "model"})
