"""Magnitude: how far a node's value lies from the one that it moves to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from basisbench.protocols import Basis, Method, ScoringContext
from basisbench.types import Passes, Scores, Style

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Magnitude:
    """Score a node by |f(target) - f(clean)|, an error that is one node by the length of its change.

    The mean over pairs, in units of the activation; never negative, for it says nothing about the metric.
    """

    name: str = "magnitude"
    summary: str = "mean absolute distance of the activation from its reference"
    order: ClassVar[int] = 6
    style: ClassVar[Style] = Style("purple", "long-dash", "^")
    passes: ClassVar[Passes] = Passes()
    mean_over_pairs: ClassVar[bool] = True

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        """Return the mean size of each node's change over the pairs of the group."""
        import torch

        units: list[Tensor] = []
        errors: list[Tensor] = []
        with torch.no_grad():
            for site in basis.sites:
                clean, clean_error = context.coordinates(basis, site, "clean")
                other, other_error = context.target(basis, site)
                units.append((other - clean).abs().mean(0))
                if clean_error is None or other_error is None:
                    continue
                change = context.error_nodes(site, other_error - clean_error)
                whole = context.error_policy == "node"
                errors.append((change.norm(dim=-1, keepdim=True) if whole else change.abs()).mean(0))
        return Scores(tuple(units), None if basis.exact else tuple(errors))


PROVIDES: tuple[Method, ...] = (Magnitude(),)
