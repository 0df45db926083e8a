"""Gradient times activation: what a node's going to zero would change, to first order."""

from __future__ import annotations

from dataclasses import dataclass

from basisbench.attribution.projection import projected_scores
from basisbench.protocols import Basis, ScoringContext
from basisbench.types import Scores


@dataclass(frozen=True)
class ZeroBaseline:
    """The gradient at the clean run times minus the node's value."""

    name: str = "zero_baseline"
    summary: str = "gradient x activation: each node goes to zero"

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        return projected_scores(context, basis, "ixg", to="zero")


PROVIDES = (ZeroBaseline(),)
