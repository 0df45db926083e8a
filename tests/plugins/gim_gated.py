"""GIM as its authors' package has it since August 2026: each side of a gated MLP's product gets half the gradient."""

from __future__ import annotations

from dataclasses import dataclass

from basisbench.attribution.projection import projected_scores
from basisbench.protocols import Basis, ScoringContext
from basisbench.types import BackwardRules, Passes, Scores

RULES = BackwardRules(norms="frozen", temperature=2, queries=0.25, keys=0.25, values=0.5, gate=0.5)


@dataclass(frozen=True)
class GatedGIM:
    """Gradient times difference under GIM's three rules (arXiv 2505.17630) and one for gated MLPs."""

    name: str = "gim_gated"
    summary: str = "GIM, and half the gradient to each side of a gated MLP (github.com/corticph/gim)"
    passes: Passes = Passes(per_prompt=3, shared="task")  # noqa: RUF009 -- it is frozen
    mean_over_pairs: bool = True

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        return projected_scores(context, basis, RULES)


PROVIDES = (GatedGIM(),)
