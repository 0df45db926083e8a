"""GIM (arXiv 2505.17630): gradients that interactions inside the attention neither hide nor count twice."""

from __future__ import annotations

from dataclasses import dataclass

from basisbench.attribution.projection import projected_scores
from basisbench.protocols import Basis, ScoringContext
from basisbench.types import BackwardRules, Passes, Scores

RULES = BackwardRules(norms="frozen", temperature=2, queries=0.25, keys=0.25, values=0.5)


@dataclass(frozen=True)
class GIM:
    """Gradient times difference under GIM's three rules."""

    name: str = "gim"
    summary: str = "frozen norms, softmax of temperature 2, shared gradients in attention (arXiv 2505.17630)"
    passes: Passes = Passes(per_prompt=3)  # noqa: RUF009 -- it is frozen
    mean_over_pairs: bool = True

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        gradients = context.gradients([site.write for site in basis.sites], rules=RULES)
        return projected_scores(context, basis, gradients)


PROVIDES = (GIM(),)
