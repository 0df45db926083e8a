"""GIM: gradients that self-repair inside the attention does not hide (Edin et al., arXiv 2505.17630).

Three rules, on the way back only; what a node's change is worth is read off the gradient that they leave:

1. The scale of every norm is a constant.
2. The attention's softmax goes back as p (g - <g, p>) with p = softmax(scores / 2).
3. A product shares its gradient: the values get half, and queries and keys half of the other half each, a quarter.

The paper's code (src/gim/attention.py, src/gim/layernorm.py) applies the factors behind the projections, which are
linear, so the order does not matter. Releases of the authors' package after 0.1.4 (August 2026) also give each side of
a gated MLP's product half; the paper's code has that switched off (`scale_mlp_gate`, src/gim/config.py), and so has
this. How a method of your own has it: docs/add-a-method.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from basisbench.attribution.projection import projected_scores
from basisbench.protocols import Basis, Method, ScoringContext
from basisbench.types import BackwardRules, Passes, Scores, Style

RULES = BackwardRules(norms="frozen", temperature=2, queries=0.25, keys=0.25, values=0.5)


@dataclass(frozen=True)
class GIM:
    """Score nodes by gradient times difference, the gradient taken at the clean run under GIM's rules."""

    name: str = "gim"
    summary: str = "gradient under frozen norms, softer softmax, shared attention gradients (arXiv 2505.17630)"
    order: ClassVar[float] = 5
    style: ClassVar[Style] = Style("sky", "dash-dot", "p")
    passes: ClassVar[Passes] = Passes(per_prompt=3, shared="task")
    mean_over_pairs: ClassVar[bool] = True

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        """Return gradient times difference, averaged over the pairs of the group."""
        return projected_scores(context, basis, RULES)


PROVIDES: tuple[Method, ...] = (GIM(),)
